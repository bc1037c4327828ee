// SPDX-License-Identifier: MPL-2.0

//! UDP sockets of this network namespace, from Linux's `/proc/net/udp` and `/proc/net/udp6`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A bound socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Local address.
    pub local: SocketAddr,
    /// Remote address; port 0 if not connected.
    pub remote: SocketAddr,
    /// Its inode, as in the links of `/proc/PID/fd`.
    pub inode: u64,
}

/// Lists all of them.
pub fn udp() -> Vec<Socket> {
    ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(read).collect::<Vec<_>>())
        .collect()
}

/// `  sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid  timeout inode ...`
fn read(line: &str) -> Option<Socket> {
    let words: Vec<_> = line.split_whitespace().collect();
    Some(Socket {
        local: address(words.get(1)?)?,
        remote: address(words.get(2)?)?,
        inode: words.get(9)?.parse().ok()?,
    })
}

/// 32-bit words in the machine's byte order, a colon, the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = (0..ip.len() / 8)
        .map(|i| u32::from_str_radix(ip.get(8 * i..8 * i + 8)?, 16).ok())
        .collect::<Option<Vec<_>>>()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let ip: IpAddr = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => four.into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).into(),
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_ours_is_found_with_both_its_ends() {
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(std::net::UdpSocket::bind);
        for socket in sockets.into_iter().flatten() {
            let local = socket.local_addr().unwrap();
            let find = || udp().into_iter().find(|known| known.local == local).unwrap();
            assert_eq!(find().remote.port(), 0);
            socket.connect((local.ip(), 9)).unwrap();
            assert_eq!(find().remote, (local.ip(), 9).into());
        }
    }
}
