// SPDX-License-Identifier: MPL-2.0

//! The command line.

#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gst_dds_link::secret::Exposed;

use crate::steering::Rule;

/// Text of `--help`.
pub const HELP: &str = "\
usage: dds-rtsp-camera [SOURCE] [options]

An RTSP camera with one H.264 video track, as recorders know it. A server that watches it with rtspsrc and ddsinfer
steers its quality by RTCP. All clients share one encoder, which runs while somebody watches. Ctrl-C ends it.

With --encoder \"mode=two-pass ...\" those who add ?refine=1 to the URL get the stream of second passes as a second video
track. All others still see one track. Of a camera of one pass, that URL is answered with 404.

SOURCE is a file, which is played in a loop (a still picture is repeated), a device (/dev/video0), or test, test:ball,
test:snow, ... for a pattern of videotestsrc (test).

options:
  --size WxH          size to send (the source's own; a pattern: 1280x720)
  --rate N            frames per second to send (the source's own; a pattern, a still picture: 25)
  --encoder PROPS     properties of ddsencode, as in a gst-launch line
                      (background-qp=36 region-qp=26 speed-preset=veryfast). encoder=x265 makes it an H.265 track, and
                      encoder=auto may
  --key-interval HOW  when there are key frames: auto, or every so many SECONDS (auto: every 2 s while somebody watches who
                      sends no feedback, as recorders, and every 10 s while only servers do). Who joins gets one at once;
                      those of one second share it. key-int-max in --encoder, and segment-length of two passes, win over
                      auto
  --max-bitrate KBIT  most kbit/s in any second, whatever feedback asks for; 0: no cap (by size, rate and quantizers, about
                      three times what a busy street takes: 5530 for 720p at 30 frames per second). max-bitrate in
                      --encoder wins
  --address IP        address to listen on, and to send and take RTP and RTCP by UDP at (0.0.0.0: all)
  --port N            TCP port (8554; 0: any free one)
  --path PATH         path of the URL (/camera)
  --user-file FILE    ask clients for the name and password (digest) that this file holds, as one line NAME:PASSWORD
  --user NAME:PASS    the same, but everybody on this machine sees it in the process list. DDS_RTSP_USER in the
                      environment holds the same, and is not seen there
  --viewer-file FILE  beside a user: who gives a name and password of this file, one NAME:PASSWORD a line, may watch, and
                      feedback of theirs is counted and refused
  --viewer NAME:PASS  the same, in the process list, and again for more. DDS_RTSP_VIEWER in the environment names one
  --certificate FILE  PEM file of certificate and private key: rtsps, and --tcp-only
  --tcp-only          media and RTCP through the RTSP connection only. By UDP, feedback counts where it comes from an address
                      that the stream is sent to, and addresses can be forged
  --avpf              announce the profile RTP/AVPF. Recorders that only know RTP/AVP (FFmpeg among them) then cannot
                      watch; ddsinfer does not need it
  --steer WHO         whose feedback counts: first, the first client that sends any until it is silent for 2 s, or all,
                      everybody's regions together (first). What servers wish of the whole stream is joined under both: the
                      highest rate, the finest quantizers, the lowest ceiling
  --viewer-framerate N
                      least frames per second while a client plays that sends no feedback, such as a recorder; 0: as few as
                      servers wish (the source's own)
  --report SECONDS    print a line of JSON this often: clients, who steers, who is refused and why, and stats of ddsencode.
                      0: when it ends only (0)
  --help              this text";

/// When to code key frames, beside those for clients that join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyInterval {
    /// By who watches, or as the encoder's properties set it.
    Auto,
    /// At this interval.
    Every(Duration),
}

/// Highest rate in frames per second.
pub const MOST_RATE: u32 = 1000;
/// Limit of the encoder's property in kbit/s.
const MOST_KBIT: u32 = 2_048_000;

/// A name and its password.
pub type Login = (String, String);

/// Source of pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A pattern of `videotestsrc`.
    Pattern(String),
    /// A capture device.
    Device(PathBuf),
    /// A file, played in a loop.
    File(PathBuf),
}

/// The parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Source of pictures.
    pub source: Source,
    /// Width and height in pixels.
    pub size: Option<(u32, u32)>,
    /// Frames per second.
    pub rate: Option<u32>,
    /// Properties of `ddsencode`.
    pub encoder: String,
    /// When to code key frames.
    pub key_interval: KeyInterval,
    /// Cap in kbit/s, 0 = none. `None`: chosen by the video.
    pub max_bitrate: Option<u32>,
    /// Address to listen on.
    pub address: IpAddr,
    /// TCP port, 0 = any free one.
    pub port: u16,
    /// Path of the URL, with its slash.
    pub path: String,
    /// Name and password of clients that watch and steer.
    pub user: Option<Login>,
    /// Names and passwords of clients that only watch.
    pub viewers: Vec<Login>,
    /// Password files that others can read.
    pub exposed: Vec<Exposed>,
    /// PEM file.
    pub certificate: Option<PathBuf>,
    /// No UDP.
    pub tcp_only: bool,
    /// RTP/AVPF.
    pub avpf: bool,
    /// Rule of whose feedback counts.
    pub steer: Rule,
    /// Least frames per second for clients without feedback, 0 = none. `None`: the source's own.
    pub viewer_framerate: Option<u32>,
    /// Seconds between reports, 0 = only one at the end.
    pub report: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: Source::Pattern("smpte".into()),
            size: None,
            rate: None,
            encoder: "background-qp=36 region-qp=26 speed-preset=veryfast".into(),
            key_interval: KeyInterval::Auto,
            max_bitrate: None,
            address: Ipv4Addr::UNSPECIFIED.into(),
            port: 8554,
            path: "/camera".into(),
            user: None,
            viewers: Vec::new(),
            exposed: Vec::new(),
            certificate: None,
            tcp_only: false,
            avpf: false,
            steer: Rule::First,
            viewer_framerate: None,
            report: 0,
        }
    }
}

/// Reads the command line. `environment` returns the value of a variable, `secret` the content of a password file.
/// `None`: `--help` was given.
///
/// # Errors
/// One sentence that names the option.
pub fn parse(
    args: impl IntoIterator<Item = String>,
    environment: impl Fn(&str) -> Result<Option<String>, String>,
    secret: impl Fn(&Path) -> io::Result<(Vec<u8>, Option<Exposed>)>,
) -> Result<Option<Options>, String> {
    let mut o = Options::default();
    let mut source = None;
    let (mut users, mut viewers_by_line) = (Vec::new(), Vec::new());
    let login = |name: &str| {
        let text = environment(name)?.filter(|text| !text.is_empty());
        text.map(|text| name_and_password(&text, name)).transpose()
    };
    o.user = login("DDS_RTSP_USER")?;
    o.viewers.extend(login("DDS_RTSP_VIEWER")?);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value; see --help"));
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--size" => o.size = Some(size(&value()?)?),
            "--rate" => o.rate = Some(number(&arg, &value()?, 1, MOST_RATE)?),
            "--encoder" => o.encoder = value()?,
            "--key-interval" => o.key_interval = key_interval(&value()?)?,
            "--max-bitrate" => o.max_bitrate = Some(number(&arg, &value()?, 0, MOST_KBIT)?),
            "--address" => {
                let text = value()?;
                let address = text.parse::<IpAddr>();
                o.address = address
                    .map_err(|_| format!("--address {text}: give an IP address, such as 0.0.0.0"))?
                    .to_canonical();
            }
            "--port" => o.port = number(&arg, &value()?, 0, u32::from(u16::MAX))? as u16,
            "--path" => o.path = path(&value()?)?,
            "--user" => users.push((arg.clone(), name_and_password(&value()?, "--user")?)),
            "--user-file" => {
                let file = value()?;
                let (logins, exposed) = logins(&arg, &file, &secret)?;
                o.exposed.extend(exposed);
                let [login] = <[_; 1]>::try_from(logins).map_err(|logins| {
                    format!(
                        "{arg} {file}: it holds {} lines. Give one NAME:PASSWORD; viewers have a file of their own",
                        logins.len()
                    )
                })?;
                users.push((arg.clone(), login));
            }
            "--viewer" => viewers_by_line.push(name_and_password(&value()?, "--viewer")?),
            "--viewer-file" => {
                let (logins, exposed) = logins(&arg, &value()?, &secret)?;
                o.exposed.extend(exposed);
                viewers_by_line.extend(logins);
            }
            "--certificate" => o.certificate = Some(value()?.into()),
            "--tcp-only" => o.tcp_only = true,
            "--avpf" => o.avpf = true,
            "--steer" => {
                o.steer = match value()?.as_str() {
                    "first" => Rule::First,
                    "all" => Rule::All,
                    other => return Err(format!("--steer {other}: give first or all")),
                }
            }
            "--viewer-framerate" => o.viewer_framerate = Some(number(&arg, &value()?, 0, MOST_RATE)?),
            "--report" => o.report = number(&arg, &value()?, 0, 86_400)?,
            other if !other.starts_with('-') && source.is_none() => source = Some(kind_of_source(other)?),
            other => return Err(format!("unknown option {other}; see --help")),
        }
    }
    if let Some(source) = source {
        o.source = source;
    }
    if let [(one, _), (other, _), ..] = users.as_slice() {
        return Err(format!(
            "{other}: {one} names a user as well. Give one of the two, once"
        ));
    }
    if let Some((_, login)) = users.pop() {
        o.user = Some(login);
    }
    o.viewers.extend(viewers_by_line);
    // Video in the clear beside an encrypted control connection would be no protection.
    o.tcp_only |= o.certificate.is_some();
    check_logins(&o)?;
    Ok(Some(o))
}

fn check_logins(o: &Options) -> Result<(), String> {
    let Some((user, _)) = &o.user else {
        // Without a user anyone could watch, and steer.
        return match o.viewers.is_empty() {
            true => Ok(()),
            false => Err("--viewer: name those who may steer as well, by --user-file or DDS_RTSP_USER".into()),
        };
    };
    let mut names = vec![user];
    for (name, _) in &o.viewers {
        if names.contains(&name) {
            return Err(format!(
                "--viewer {name}: the name is taken. Give each user and viewer its own"
            ));
        }
        names.push(name);
    }
    Ok(())
}

fn number(option: &str, text: &str, least: u32, most: u32) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| format!("{option} {text}: give a number from {least} to {most}"))
}

fn key_interval(text: &str) -> Result<KeyInterval, String> {
    if text == "auto" {
        return Ok(KeyInterval::Auto);
    }
    let seconds = text.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds
        .map(|seconds| KeyInterval::Every(Duration::from_secs_f64(seconds)))
        .ok_or_else(|| format!("--key-interval {text}: give auto, or seconds from 0.1 to 86400"))
}

fn size(text: &str) -> Result<(u32, u32), String> {
    text.split_once('x')
        .and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)))
        .filter(|(w, h)| [w, h].iter().all(|n| (16..=16_384).contains(*n) && *n % 2 == 0))
        .ok_or_else(|| format!("--size {text}: give width and height, even, from 16 to 16384, such as 1280x720"))
}

fn path(text: &str) -> Result<String, String> {
    let path = format!("/{}", text.trim_start_matches('/'));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    if path.len() < 2 || path.ends_with('/') || !path.chars().all(plain) {
        return Err(format!(
            "--path {text}: give letters, digits, - . _ ~ and / between them, such as /camera"
        ));
    }
    Ok(path)
}

fn name_and_password(text: &str, option: &str) -> Result<Login, String> {
    // A quote would end the field in the digest header.
    text.split_once(':')
        .filter(|(name, password)| !name.is_empty() && !password.is_empty() && !name.contains('"'))
        .map(|(name, password)| (name.into(), password.into()))
        .ok_or_else(|| format!("{option}: give NAME:PASSWORD, neither empty, no \" in the name"))
}

/// The lines NAME:PASSWORD of a file, at least one.
fn logins(
    option: &str,
    file: &str,
    secret: impl Fn(&Path) -> io::Result<(Vec<u8>, Option<Exposed>)>,
) -> Result<(Vec<Login>, Option<Exposed>), String> {
    // No text of the file goes into a message.
    let (text, exposed) = secret(Path::new(file)).map_err(|e| format!("{option} {file}: it cannot be read ({e})"))?;
    let text = String::from_utf8(text).map_err(|_| format!("{option} {file}: it is no text of UTF-8"))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(n, line): (usize, &str)| name_and_password(line, &format!("{option} {file}, line {}", n + 1));
    let logins = lines.map(read).collect::<Result<Vec<_>, _>>()?;
    match logins.is_empty() {
        true => Err(format!("{option} {file}: it is empty. Write NAME:PASSWORD into it")),
        false => Ok((logins, exposed)),
    }
}

fn kind_of_source(text: &str) -> Result<Source, String> {
    if text == "test" {
        return Ok(Options::default().source);
    }
    if let Some(pattern) = text.strip_prefix("test:") {
        let word = !pattern.is_empty() && pattern.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        return word
            .then(|| Source::Pattern(pattern.into()))
            .ok_or_else(|| format!("{text}: give a pattern of videotestsrc, such as test:ball"));
    }
    if text.contains("://") {
        return Err(format!(
            "{text}: the source is a file, a device or test; addresses are not read"
        ));
    }
    let path = PathBuf::from(text);
    Ok(if path.starts_with("/dev") {
        Source::Device(path)
    } else {
        Source::File(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Options>, String> {
        parse(line.split_whitespace().map(String::from), |_| Ok(None), files)
    }

    fn files(path: &Path) -> io::Result<(Vec<u8>, Option<Exposed>)> {
        let text = match path.to_str() {
            Some("ada") => "ada:pass:word\r\n",
            Some("two") => "\nbo:b\ncy:c c\n\n",
            Some("empty") => " \n",
            Some("word") => "ada:a\nsecret\n",
            Some("bytes") => return Ok((vec![0xff; 8], None)),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok((text.into(), None))
    }

    #[test]
    fn every_option_is_read() {
        let line = "clip.mp4 --size 640x360 --rate 15 --encoder qp-max=40 --key-interval 2.5 \
                    --max-bitrate 800 --address 127.0.0.1 --port 0 --path a/b \
                    --user ada:pass:word --viewer bo:b --viewer cy:c --certificate c.pem --avpf --steer all --viewer-framerate 12 --report 2";
        let expected = Options {
            source: Source::File("clip.mp4".into()),
            size: Some((640, 360)),
            rate: Some(15),
            encoder: "qp-max=40".into(),
            key_interval: KeyInterval::Every(Duration::from_millis(2500)),
            max_bitrate: Some(800),
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            path: "/a/b".into(),
            user: Some(("ada".into(), "pass:word".into())),
            viewers: vec![("bo".into(), "b".into()), ("cy".into(), "c".into())],
            exposed: Vec::new(),
            certificate: Some("c.pem".into()),
            tcp_only: true,
            avpf: true,
            steer: Rule::All,
            viewer_framerate: Some(12),
            report: 2,
        };
        assert_eq!(read(line), Ok(Some(expected)));
        assert_eq!(read(""), Ok(Some(Options::default())));
        assert_eq!(
            read("--nonsense --help").unwrap_err(),
            "unknown option --nonsense; see --help"
        );
        assert_eq!(read("--help"), Ok(None));
    }

    #[test]
    fn sources_are_told_apart() {
        let source = |text: &str| read(text).unwrap().unwrap().source;
        assert_eq!(source("test"), Source::Pattern("smpte".into()));
        assert_eq!(source("test:ball"), Source::Pattern("ball".into()));
        assert_eq!(source("/dev/video2"), Source::Device("/dev/video2".into()));
        assert_eq!(source("./test"), Source::File("./test".into()));
    }

    #[test]
    fn nothing_wrong_is_taken_silently() {
        for line in [
            "--size 640",
            "--size 641x360",
            "--size 0x0",
            "--rate 0",
            "--rate x",
            "--port 70000",
            "--path /",
            "--path a?b",
            "--user ada",
            "--user :x",
            "--viewer bo",
            "--viewer bo:b",
            "--user ada:a --viewer ada:b",
            "--user ada:a --viewer bo:b --viewer bo:c",
            "--user ada:a --user-file ada",
            "--user-file ada --user-file ada",
            "--user-file two",
            "--user-file empty",
            "--user-file bytes",
            "--user-file nowhere",
            "--user-file",
            "--viewer-file two",
            "--user bo:x --viewer-file two",
            "--steer none",
            "--report",
            "--viewer-framerate -1",
            "--viewer-framerate nominal",
            "--address here",
            "test: ",
            "test:a!b",
            "rtsp://x/y",
            "a b",
            "--key-interval 0",
            "--key-interval -1",
            "--key-interval 0.01",
            "--key-interval inf",
            "--key-interval nan",
            "--key-interval 2s",
            "--key-interval",
            "--max-bitrate -1",
            "--max-bitrate 1e3",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn passwords_come_from_files_as_well() {
        let both = read("--user-file ada --viewer-file two").unwrap().unwrap();
        assert_eq!(both.user, Some(("ada".into(), "pass:word".into())));
        assert_eq!(both.viewers, [("bo".into(), "b".into()), ("cy".into(), "c c".into())]);
        let words = read("--user-file word").unwrap_err();
        assert!(
            words.starts_with("--user-file word, line 2: give NAME:PASSWORD"),
            "{words}"
        );
        assert!(!words.contains("secret"), "{words}");
    }

    #[test]
    fn passwords_come_from_the_environment_as_well() {
        let read = |user: &'static str, viewer: &'static str| {
            let environment = move |name: &str| {
                Ok(match name {
                    "DDS_RTSP_USER" => Some(user.into()),
                    "DDS_RTSP_VIEWER" => Some(viewer.into()),
                    _ => None,
                })
            };
            parse([], environment, files)
        };
        let both = read("ada:x", "bo:y").unwrap().unwrap();
        assert_eq!(both.user, Some(("ada".into(), "x".into())));
        assert_eq!(both.viewers, [("bo".into(), "y".into())]);
        assert_eq!(read("", ""), Ok(Some(Options::default())));
        assert!(read("ada", "").unwrap_err().contains("DDS_RTSP_USER"));
        assert!(read("ada:x", "bo").unwrap_err().contains("DDS_RTSP_VIEWER"));
    }
}
