// SPDX-License-Identifier: MPL-2.0

//! Addresses of the own channel: `udp://HOST:PORT` or `tcp://HOST:PORT`, with `?mode=listener` or `?mode=caller` as in
//! the SRT addresses of GStreamer.
//!
//! Without a mode the camera listens and the server dials. The host of a listener is the address to listen on and may be
//! left out (`udp://:5006`): all of them. IPv6 addresses are in brackets.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Transport of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One message per datagram.
    Udp,
    /// A stream of messages, each behind its length (16 bits, big-endian).
    Tcp,
}

/// Which side connects: `mode` in addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// Waits for connections.
    Listener,
    /// Connects.
    Caller,
}

/// The end of the channel that an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `ddsencode`: receives feedback, listens by default.
    Camera,
    /// `ddsinfer`: sends feedback, dials by default.
    Server,
}

/// A host as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, looked up when it is needed.
    Name(String),
}

impl Host {
    /// Whether the host can only be this machine. Names other than `localhost` are not resolved for this.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(IpAddr::V6(ip)) => ip.to_canonical().is_loopback(),
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackUri {
    /// Transport.
    pub transport: Transport,
    /// Host to listen on or to dial.
    pub host: Host,
    /// Port, never 0.
    pub port: u16,
    /// Which side connects.
    pub dial: Dial,
}

impl std::fmt::Display for FeedbackUri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, mode) = (
            match self.transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            },
            match self.dial {
                Dial::Listener => "listener",
                Dial::Caller => "caller",
            },
        );
        write!(f, "{scheme}://{}:{}?mode={mode}", self.host, self.port)
    }
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UriError {
    /// Neither `udp://` nor `tcp://`.
    Scheme,
    /// No port, or none of 1 to 65535.
    Port,
    /// Not a valid host.
    Host(String),
    /// An address that cannot be dialled.
    NobodyToCall,
    /// An unknown mode.
    Mode(String),
    /// A part that has no meaning here.
    Unknown(String),
}

impl std::fmt::Display for UriError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scheme => f.write_str("it must begin with udp:// or tcp://, as in udp://0.0.0.0:5006?mode=listener"),
            Self::Port => f.write_str("it names no port of 1 to 65535; write HOST:PORT, and an IPv6 address in brackets"),
            Self::Host(host) => write!(f, "\"{host}\" is no host; write a name, an IPv4 address, or an IPv6 address in brackets"),
            Self::NobodyToCall => f.write_str(
                "it is an address to listen on, and nobody can be dialled there; name the other side's host, or add ?mode=listener",
            ),
            Self::Mode(mode) => write!(f, "mode={mode} is not known; use mode=listener or mode=caller"),
            Self::Unknown(part) => write!(f, "\"{part}\" means nothing here; only ?mode=listener or ?mode=caller may follow the port"),
        }
    }
}

impl std::error::Error for UriError {}

impl FeedbackUri {
    /// Reads an address for one end of the channel.
    ///
    /// # Errors
    /// What is wrong with it, and the cure.
    pub fn parse(text: &str, end: End) -> Result<Self, UriError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(UriError::Scheme)?;
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            _ => return Err(UriError::Scheme),
        };
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if let Some(at) = authority.find(['/', '#', '@']) {
            return Err(UriError::Unknown(authority[at..].to_owned()));
        }
        let (host, port) = authority.rsplit_once(':').ok_or(UriError::Port)?;
        // In an IPv6 address without brackets this is the last group.
        if host.contains(':') && !host.starts_with('[') {
            return Err(UriError::Port);
        }
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port
            .parse()
            .ok()
            .filter(|port| digits && *port != 0)
            .ok_or(UriError::Port)?;
        let mut dial = match end {
            End::Camera => Dial::Listener,
            End::Server => Dial::Caller,
        };
        for parameter in query.split('&').filter(|p| !p.is_empty()) {
            dial = match parameter.split_once('=') {
                Some(("mode", "listener")) => Dial::Listener,
                Some(("mode", "caller")) => Dial::Caller,
                Some(("mode", other)) => return Err(UriError::Mode(other.to_owned())),
                _ => return Err(UriError::Unknown(parameter.to_owned())),
            };
        }
        let host = read_host(host)?;
        if dial == Dial::Caller && matches!(host, Host::Ip(ip) if ip.is_unspecified() || ip.is_multicast()) {
            return Err(UriError::NobodyToCall);
        }
        Ok(Self {
            transport,
            host,
            port,
            dial,
        })
    }
}

fn read_host(host: &str) -> Result<Host, UriError> {
    let wrong = || UriError::Host(host.to_owned());
    if host.is_empty() {
        return Ok(Host::Ip(Ipv4Addr::UNSPECIFIED.into()));
    }
    if let Some(inner) = host.strip_prefix('[') {
        let ip: Ipv6Addr = inner
            .strip_suffix(']')
            .and_then(|ip| ip.parse().ok())
            .ok_or_else(wrong)?;
        return Ok(Host::Ip(ip.into()));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // Digits and dots alone are an invalid IPv4 address.
    if !host.chars().all(label) || host.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    Ok(Host::Name(host.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn camera(text: &str) -> Result<String, UriError> {
        FeedbackUri::parse(text, End::Camera).map(|uri| uri.to_string())
    }

    fn server(text: &str) -> Result<String, UriError> {
        FeedbackUri::parse(text, End::Server).map(|uri| uri.to_string())
    }

    #[test]
    fn the_camera_listens_and_the_server_dials_unless_told_otherwise() {
        assert_eq!(
            camera("udp://0.0.0.0:5006").unwrap(),
            "udp://0.0.0.0:5006?mode=listener"
        );
        assert_eq!(camera("udp://:5006").unwrap(), "udp://0.0.0.0:5006?mode=listener");
        assert_eq!(
            camera("tcp://server.example:5006?mode=caller").unwrap(),
            "tcp://server.example:5006?mode=caller"
        );
        assert_eq!(server("udp://cam-1:5006").unwrap(), "udp://cam-1:5006?mode=caller");
        assert_eq!(
            server("TCP://[::]:5006/?mode=listener").unwrap(),
            "tcp://[::]:5006?mode=listener"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_the_cure() {
        use UriError::{Host, Mode, NobodyToCall, Port, Scheme, Unknown};
        for (text, error) in [
            ("", Scheme),
            ("5006", Scheme),
            ("srt://host:5006", Scheme),
            ("udp://host", Port),
            ("udp://host:", Port),
            ("udp://host:0", Port),
            ("udp://host:+5", Port),
            ("udp://host:65536", Port),
            ("udp://::1:5006", Port),
            ("udp://[::1:5006", Host("[::1".into())),
            ("udp://1.2.3:5006", Host("1.2.3".into())),
            ("udp://a b:5006", Host("a b".into())),
            ("udp://me@host:5006", Unknown("@host:5006".into())),
            ("udp://host:5006/path", Unknown("/path".into())),
            ("udp://host:5006?mode=rendezvous", Mode("rendezvous".into())),
            ("udp://host:5006?listen=1", Unknown("listen=1".into())),
            ("udp://0.0.0.0:5006", NobodyToCall),
            ("udp://:5006", NobodyToCall),
            ("udp://224.1.1.1:5006", NobodyToCall),
        ] {
            assert_eq!(server(text).unwrap_err(), error, "{text}");
            assert!(error.to_string().len() > 40, "{error}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (host, loopback) in [
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("LocalHost", true),
            ("0.0.0.0", false),
            ("[::]", false),
            ("localhost.example", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(read_host(host).unwrap().is_loopback(), loopback, "{host}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_an_error(text in "(udp|tcp)://.{0,40}") {
            let _ = FeedbackUri::parse(&text, End::Server);
        }

        #[test]
        fn what_was_read_reads_the_same_when_written(a in any::<[u8; 4]>(), port in 1u16.., tcp in any::<bool>(), listen in any::<bool>()) {
            let uri = FeedbackUri {
                transport: if tcp { Transport::Tcp } else { Transport::Udp },
                host: Host::Ip(a.into()),
                port,
                dial: if listen { Dial::Listener } else { Dial::Caller },
            };
            match FeedbackUri::parse(&uri.to_string(), End::Camera) {
                Ok(read) => prop_assert_eq!(read, uri),
                Err(error) => prop_assert_eq!(error, UriError::NobodyToCall),
            }
        }
    }
}
