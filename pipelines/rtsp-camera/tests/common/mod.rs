// SPDX-License-Identifier: MPL-2.0

//! The camera as a process, and servers and FFmpeg that watch it.
#![allow(dead_code)] // Each test file uses its own part.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use dds_tests::launch;
use gst::prelude::*;
use serde_json::Value;

/// Far longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dds-rtsp-camera"));
    command.env_remove("DDS_RTSP_USER").env_remove("DDS_RTSP_VIEWER");
    command
}

/// A camera on a free port of loopback.
pub struct Camera {
    pub child: Child,
    pub port: u16,
    pub reports: Receiver<Value>,
    /// Lines on standard error, the address among them.
    pub said: Receiver<String>,
}

impl Camera {
    pub fn start(source: &str, options: &[&str]) -> Self {
        let mut child = program()
            .args([source, "--address", "127.0.0.1", "--port", "0", "--report", "1"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let (say, said) = channel();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| {
                let said: Vec<_> = said.try_iter().collect();
                panic!("no address in {said:?}")
            });
            let is_address = line.contains(": rtsp");
            say.send(line.clone()).unwrap();
            if is_address {
                break line;
            }
        };
        let port = address
            .rsplit(':')
            .next()
            .and_then(|rest| rest.split('/').next()?.parse().ok());
        let port = port.unwrap_or_else(|| panic!("no port in {address:?}"));
        std::thread::spawn(move || lines.for_each(|line| drop(say.send(line))));
        let (tell, reports) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let _ = tell.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self {
            child,
            port,
            reports,
            said,
        }
    }

    pub fn pattern(options: &[&str]) -> Self {
        let size = [
            "--size",
            "320x240",
            "--rate",
            "20",
            "--encoder",
            "background-qp=40 region-qp=30 key-int-max=40",
        ];
        Self::start("test:ball", &[&size, options].concat())
    }

    /// Of two passes.
    pub fn two_pass(options: &[&str]) -> Self {
        let encoder = [
            "--encoder",
            "mode=two-pass background-qp=44 region-qp=24 key-int-max=40 refine-canvas=black",
        ];
        Self::pattern(&[&encoder, options].concat())
    }

    pub fn url(&self) -> String {
        format!("rtsp://127.0.0.1:{}/camera", self.port)
    }

    /// Waits for words on standard error.
    pub fn says(&self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while let Ok(line) = self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if line.contains(words) {
                return line;
            }
            all.push(line);
        }
        panic!("no {words:?} in {all:#?}");
    }

    /// The first report that has what is waited for.
    pub fn wait_for(&self, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        let mut last = Value::Null;
        while let Ok(report) = self
            .reports
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if done(&report) {
                return report;
            }
            last = report;
        }
        panic!("timed out waiting for {what}; last report: {last}");
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Local addresses of the IP sockets that a process has open, each with its protocol, by what the kernel says.
pub fn open_sockets(process: u32) -> Vec<(&'static str, IpAddr)> {
    let links = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let inode = |link: std::io::Result<std::fs::DirEntry>| {
        let target = std::fs::read_link(link.ok()?.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        inode.parse().ok()
    };
    let own: Vec<u64> = links.filter_map(inode).collect();
    let mut found = Vec::new();
    for table in ["udp", "udp6", "tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap();
        for line in text.lines().skip(1) {
            // "sl: local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode", in hexadecimal up to "st". The
            // address is in words of four bytes, each in the machine's order.
            let fields: Vec<_> = line.split_whitespace().collect();
            if !own.contains(&fields[9].parse().unwrap()) {
                continue;
            }
            let address = fields[1].split(':').next().unwrap();
            let word = |at: usize| u32::from_str_radix(&address[at..at + 8], 16).unwrap().to_ne_bytes();
            let bytes: Vec<u8> = (0..address.len()).step_by(8).flat_map(word).collect();
            let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
                Ok(four) => IpAddr::from(four),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
            };
            found.push((table, ip));
        }
    }
    found
}

pub fn count(report: &Value, name: &str) -> u64 {
    report["encoder"][name].as_u64().unwrap_or(0)
}

/// Metas of a detector that sees one undecided object at `x` in each frame that comes to `element`.
pub fn see_something_undecided(element: &gst::Element, x: u32) {
    element
        .static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
                let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "person", (x, 32, 64, 64));
                let score = gst::Structure::builder("detection")
                    .field("confidence", 0.3f64)
                    .field("label_id", 0i32);
                meta.add_param(score.build());
            }
            gst::PadProbeReturn::Ok
        });
}

/// A server that sees one undecided object at `x` in each frame: metas of another detector, no model needed.
pub struct Server(pub gst::Pipeline);

impl Server {
    pub fn watch(source: &str, x: u32) -> Self {
        Self::watch_with(source, x, "")
    }

    /// With properties of `ddsinfer`.
    pub fn watch_with(source: &str, x: u32, properties: &str) -> Self {
        Self::run(
            &format!(
                "rtspsrc name=source {source} ! rtph264depay ! h264parse ! avdec_h264 max-threads=1 ! identity name=detector \
                 ! ddsinfer name=infer {properties} ! fakesink name=end async=false"
            ),
            x,
        )
    }

    /// Both passes of a camera. The payload type tells its tracks apart.
    pub fn watch_both(source: &str, x: u32) -> Self {
        let decoder = "rtph264depay ! h264parse ! avdec_h264 max-threads=1";
        Self::run(
            &format!(
                "rtspsrc name=source {source} source. ! application/x-rtp,payload=96 ! {decoder} ! identity name=detector \
                 ! ddsinfer name=infer refine-deadline=2000 ! fakesink name=end async=false \
                 source. ! application/x-rtp,payload=97 ! {decoder} ! infer.refine \
                 infer.results ! appsink name=results sync=false async=false"
            ),
            x,
        )
    }

    /// Any line in which `detector` comes before `ddsinfer`.
    pub fn run(line: &str, x: u32) -> Self {
        let pipeline = launch(line).unwrap();
        see_something_undecided(&pipeline.by_name("detector").unwrap(), x);
        pipeline.set_state(gst::State::Playing).unwrap();
        Self(pipeline)
    }

    /// The next line of results.
    pub fn result(&self) -> Value {
        let results = self.0.by_name("results").and_downcast::<gst_app::AppSink>().unwrap();
        let wait = gst::ClockTime::from_nseconds(PATIENCE.as_nanos() as u64);
        let sample = results.try_pull_sample(wait).expect("a line of results");
        serde_json::from_slice(&sample.buffer().unwrap().map_readable().unwrap()).unwrap()
    }

    /// The first error or warning.
    pub fn complaint(&self) -> String {
        let wait = gst::ClockTime::from_nseconds(PATIENCE.as_nanos() as u64);
        let kinds = [gst::MessageType::Error, gst::MessageType::Warning];
        match self
            .0
            .bus()
            .unwrap()
            .timed_pop_filtered(wait, &kinds)
            .as_ref()
            .map(|m| m.view())
        {
            Some(gst::MessageView::Error(e)) => format!("{} {}", e.error(), e.debug().unwrap_or_default()),
            Some(gst::MessageView::Warning(w)) => w.error().to_string(),
            _ => panic!("no complaint"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

pub fn steered(report: &Value) -> bool {
    count(report, "frames-steered") >= 20 && count(report, "feedback-packets-rtcp") >= 20
}

/// Addresses that UDP sockets of a process are bound to, as the system tells them in /proc.
pub fn udp_sockets(process: u32) -> Vec<SocketAddr> {
    let own: Vec<String> = std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .filter_map(|fd| Some(std::fs::read_link(fd.ok()?.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    dds_tests::sockets::udp()
        .into_iter()
        .filter(|socket| own.contains(&format!("socket:[{}]", socket.inode)))
        .map(|socket| socket.local)
        .collect()
}

/// Their ports.
pub fn udp_ports(process: u32) -> Vec<u16> {
    udp_sockets(process).iter().map(SocketAddr::port).collect()
}

pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub fn ffmpeg(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("ffmpeg is installed")
}

pub fn assert_one_healthy_encoder(report: &Value) {
    assert!(count(report, "regions-applied") > 0, "{report}");
    assert_feedback_is_whole(report);
}

/// One encoder for all, and nothing but feedback for it.
pub fn assert_feedback_is_whole(report: &Value) {
    assert_eq!(
        (&report["media"], count(report, "encoders-opened")),
        (&Value::from(1), 1),
        "{report}"
    );
    for name in ["feedback-malformed", "feedback-foreign", "feedback-stale"] {
        assert_eq!(count(report, name), 0, "{name}: {report}");
    }
}

/// A client by hand, which plays.
pub struct ByHand {
    connection: TcpStream,
    session: String,
    url: String,
    /// Address of the camera's RTCP.
    pub to: SocketAddr,
    /// The sockets of RTP and RTCP that it sends to.
    pub sockets: [UdpSocket; 2],
}

impl ByHand {
    /// Ends the session, as clients do.
    pub fn tear_down(&mut self) {
        let (url, session) = (&self.url, &self.session);
        let _ = write!(
            self.connection,
            "TEARDOWN {url} RTSP/1.0\r\nCSeq: 9\r\nSession: {session}\r\n\r\n"
        );
    }
}

/// Plays the camera's stream by hand.
pub fn play_by_hand(camera: &Camera) -> ByHand {
    let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let sockets = [bind(), bind()];
    let ports = sockets.each_ref().map(|s| s.local_addr().unwrap().port());
    let mut connection = TcpStream::connect(("127.0.0.1", camera.port)).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask = |request: &str, headers: &str| {
        write!(connection, "{request} RTSP/1.0\r\nCSeq: 1\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        // Header and body of these answers come together, and are short.
        while !answer.contains("\r\n\r\n") {
            let mut piece = [0; 8192];
            let length = connection.read(&mut piece).unwrap();
            assert!(length > 0, "{request}: {answer}");
            answer += &String::from_utf8_lossy(&piece[..length]);
        }
        assert!(answer.starts_with("RTSP/1.0 200"), "{request}: {answer}");
        answer
    };
    let url = camera.url();
    ask(&format!("DESCRIBE {url}"), "Accept: application/sdp\r\n");
    let transport = format!("Transport: RTP/AVP;unicast;client_port={}-{}\r\n", ports[0], ports[1]);
    let answer = ask(&format!("SETUP {url}/stream=0"), &transport);
    let after = |key: &str| {
        let (_, rest) = answer.split_once(key).unwrap_or_else(|| panic!("no {key} in {answer}"));
        rest.split([';', '\r']).next().unwrap().to_string()
    };
    let session = after("Session: ");
    let rtcp = after("server_port=").split_once('-').unwrap().1.parse().unwrap();
    ask(&format!("PLAY {url}"), &format!("Session: {session}\r\n"));
    ByHand {
        connection,
        session,
        url,
        to: SocketAddr::from(([127, 0, 0, 1], rtcp)),
        sockets,
    }
}
