// SPDX-License-Identifier: MPL-2.0

//! Users watch and steer, viewers only watch: what a viewer's server sends is counted and goes no further.

mod common;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use common::{Camera, PATIENCE, Server, assert_one_healthy_encoder, count, program, steered, udp_ports};
use serde_json::Value;

const LOGINS: [&str; 4] = ["--user", "ada:secret", "--viewer", "bo:weak"];

fn watch(camera: &Camera, name: &str, password: &str, protocol: &str, x: u32) -> Server {
    let url = camera.url();
    Server::watch(
        &format!("location={url} latency=50 user-id={name} user-pw={password} protocols={protocol}"),
        x,
    )
}

/// Receivers of which at least ten packets were refused for that reason.
fn refused<'a>(report: &'a Value, reason: &str) -> Vec<&'a Value> {
    let all = report["receivers"].as_array().unwrap().iter();
    all.filter(|r| r["reason"] == reason && r["refused"].as_u64() >= Some(10))
        .collect()
}

#[test]
fn a_viewers_feedback_is_counted_and_never_reaches_the_encoder() {
    dds_tests::init().unwrap();
    for (protocol, rule) in [("udp", "first"), ("tcp", "all")] {
        let camera = Camera::pattern(&[&LOGINS[..], &["--steer", rule]].concat());
        // First, and so the one to steer if it might.
        let viewer = watch(&camera, "bo", "weak", protocol, 32);
        let report = camera.wait_for("the viewer to be refused", |r| !refused(r, "may only watch").is_empty());
        assert_eq!(count(&report, "feedback-packets"), 0, "{protocol} {rule}: {report}");
        let [only] = report["receivers"].as_array().unwrap().as_slice() else {
            panic!("{report}");
        };
        assert_eq!(
            (&only["steers"], &only["packets"]),
            (&false.into(), &0.into()),
            "{report}"
        );

        let _user = watch(&camera, "ada", "secret", protocol, 192);
        let report = camera.wait_for("the user to steer", |r| count(r, "frames-steered") >= 20);
        assert_one_healthy_encoder(&report);
        let [viewers, users] = report["receivers"].as_array().unwrap().as_slice() else {
            panic!("{report}");
        };
        assert_eq!(
            (&viewers["steers"], &viewers["packets"]),
            (&false.into(), &0.into()),
            "{report}"
        );
        assert_eq!(
            (&users["steers"], &users["refused"]),
            (&true.into(), &0.into()),
            "{report}"
        );
        // One region of one user: nothing of the viewer's.
        assert!(
            count(&report, "regions-requested") <= count(&report, "feedback-complete"),
            "{report}"
        );
        drop(viewer);
    }
}

#[test]
fn without_viewers_whoever_may_watch_may_steer() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&LOGINS[..2]);
    let _user = watch(&camera, "ada", "secret", "tcp", 32);
    let report = camera.wait_for("steered frames", steered);
    assert_one_healthy_encoder(&report);
    assert_eq!(report["receivers"][0]["reason"], Value::Null, "{report}");
}

#[test]
fn a_viewers_password_is_asked_for_too() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&LOGINS);
    for (name, password) in [("bo", "secret"), ("ada", "weak"), ("cy", "weak")] {
        let complaint = watch(&camera, name, password, "tcp", 32).complaint();
        assert!(complaint.contains("401"), "{name}:{password}: {complaint}");
    }
}

/// A viewer by hand, who plays through its connection (RFC 7826's interleaved frames, digest of RFC 2617).
struct Viewer {
    connection: TcpStream,
    url: String,
    nonce: Option<String>,
}

impl Viewer {
    fn play(camera: &Camera) -> Self {
        let connection = TcpStream::connect(("127.0.0.1", camera.port)).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = camera.url();
        let mut viewer = Self {
            connection,
            url,
            nonce: None,
        };
        let url = viewer.url.clone();
        let challenge = viewer.ask("DESCRIBE", &url, "");
        viewer.nonce = challenge.split("nonce=\"").nth(1).map(|rest| until(rest, '"'));
        assert!(viewer.ask("DESCRIBE", &url, "").starts_with("RTSP/1.0 200"));
        let transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
        let answer = viewer.ask("SETUP", &format!("{url}/stream=0"), transport);
        let session = until(answer.split("Session: ").nth(1).expect(&answer), ';');
        let answer = viewer.ask("PLAY", &url, &format!("Session: {}\r\n", session.trim()));
        assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
        viewer
    }

    /// What the camera answers, up to the end of its header; frames of media before it are passed over.
    fn ask(&mut self, method: &str, url: &str, headers: &str) -> String {
        let md5 = |text: String| glib::compute_checksum_for_string(glib::ChecksumType::Md5, text).unwrap();
        let login = self.nonce.as_ref().map_or_else(String::new, |nonce| {
            let (who, what) = (md5("bo:gst-dds camera:weak".into()), md5(format!("{method}:{url}")));
            let response = md5(format!("{who}:{nonce}:{what}"));
            format!(
                "Authorization: Digest username=\"bo\", realm=\"gst-dds camera\", nonce=\"{nonce}\", uri=\"{url}\", \
                 response=\"{response}\"\r\n"
            )
        });
        write!(
            self.connection,
            "{method} {url} RTSP/1.0\r\nCSeq: 1\r\n{login}{headers}\r\n"
        )
        .unwrap();
        let mut said = Vec::new();
        loop {
            let mut piece = [0; 8192];
            let length = self.connection.read(&mut piece).unwrap();
            assert!(length > 0, "{method}: {}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&piece[..length]);
            let text = String::from_utf8_lossy(&said);
            if let Some(at) = text.find("RTSP/1.0").filter(|at| text[*at..].contains("\r\n\r\n")) {
                return text[at..].into();
            }
        }
    }

    fn send_rtcp(&mut self, packet: &[u8]) {
        let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
        let frame = [&[b'$', 1][..], &length, packet].concat();
        self.connection.write_all(&frame).unwrap();
    }
}

fn until(text: &str, end: char) -> String {
    text.split([end, '\r']).next().unwrap_or_default().into()
}

/// RTCP that anybody may send: APP packets with names of any bytes, and with all and nothing behind them.
fn wild() -> Vec<Vec<u8>> {
    let app = |first: u8, name: &[u8; 4], data: &[u8]| {
        let words = u16::try_from(2 + data.len() / 4).unwrap();
        [&[first, 204][..], &words.to_be_bytes(), &1u32.to_be_bytes(), name, data].concat()
    };
    let mut wild: Vec<_> = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"DD\xc3\0", b"DDS1", b"DDS\xff"]
        .into_iter()
        .flat_map(|name| {
            [
                app(0x80, name, b""),
                app(0x9f, name, &[0xff; 64]),
                app(0x80, name, &[0xdd; 400]),
            ]
        })
        .collect();
    wild.extend([Vec::new(), vec![0x80], vec![0xff; 1400]]);
    wild
}

#[test]
fn rtcp_of_any_bytes_ends_no_camera_whoever_sends_it() {
    dds_tests::init().unwrap();
    // From outside, while one who may steer watches by UDP.
    let camera = Camera::pattern(&LOGINS);
    let _user = watch(&camera, "ada", "secret", "udp", 192);
    camera.wait_for("steered frames", steered);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ports = udp_ports(camera.child.id());
    assert!(!ports.is_empty(), "the camera has ports for RTCP");
    for port in ports {
        for packet in wild() {
            // An empty one, or a port that nobody reads, is refused here.
            let _ = stranger.send_to(&packet, ("127.0.0.1", port));
        }
    }
    let before = count(&camera.wait_for("a report", |_| true), "frames");
    let report = camera.wait_for("more frames", |r| count(r, "frames") > before + 20);
    assert_eq!(
        (count(&report, "feedback-malformed"), &report["panics_caught"]),
        (0, &0.into()),
        "{report}"
    );

    // Through the connection of one who may only watch.
    let camera = Camera::pattern(&[&LOGINS[..], &["--tcp-only"]].concat());
    let mut viewer = Viewer::play(&camera);
    for packet in wild() {
        viewer.send_rtcp(&packet);
    }
    // The session may not know yet whose it is.
    let heard = |r: &Value| r["strangers"].as_u64() > Some(0) || r["receivers"][0]["refused"].as_u64() > Some(0);
    let before = count(&camera.wait_for("the packets to be heard", heard), "frames");
    let report = camera.wait_for("more frames", |r| count(r, "frames") > before + 20);
    assert_eq!(
        (count(&report, "feedback-packets"), &report["panics_caught"]),
        (0, &0.into()),
        "{report}"
    );
}

#[test]
fn requests_of_any_bytes_end_no_camera() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&[]);
    for query in [&b"?\xff\xfe"[..], b"?refine=1&\xc3", b"?", b"?&&=\x01"] {
        let mut connection = TcpStream::connect(("127.0.0.1", camera.port)).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = [camera.url().as_bytes(), query].concat();
        let request = [b"DESCRIBE ", &url[..], b" RTSP/1.0\r\nCSeq: 1\r\n\r\n"].concat();
        connection.write_all(&request).unwrap();
        let mut answer = [0; 8];
        connection.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"RTSP/1.0", "{}", String::from_utf8_lossy(&url));
    }
    camera.wait_for("a report", |r| r["panics_caught"] == 0);
}

#[test]
fn who_reads_the_reports_may_go_and_the_camera_stays() {
    let source = ["test:ball", "--address", "127.0.0.1", "--port", "0", "--report", "1"];
    let mut camera = program()
        .args(source)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(camera.stdout.take());
    // Two reports that nobody reads.
    std::thread::sleep(Duration::from_millis(2500));
    let ended = camera.try_wait().unwrap();
    camera.kill().unwrap();
    camera.wait().unwrap();
    assert_eq!(ended, None);
}

#[test]
fn beside_a_sealed_channel_a_login_vouches_for_rtcp_and_nothing_else_does() {
    dds_tests::init().unwrap();
    for (logins, steers) in [(&LOGINS[..2], true), (&[][..], false)] {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let encoder = format!(
            "background-qp=40 region-qp=30 feedback-uri=udp://127.0.0.1:{port} feedback-key=a-key-of-the-tests"
        );
        let camera = Camera::pattern(&[&["--encoder", &encoder], logins].concat());
        let _user = watch(&camera, "ada", "secret", "tcp", 32);
        let heard = |r: &Value| count(r, "feedback-packets-rtcp") >= 20;
        let report = if steers {
            camera.wait_for("steered frames", steered)
        } else {
            camera.wait_for("packets", heard)
        };
        let closed = count(&report, "feedback-way-closed");
        assert_eq!((closed == 0, closed >= 20), (steers, !steers), "{report}");
        assert_eq!(count(&report, "generations-applied") > 0, steers, "{report}");
    }
}
