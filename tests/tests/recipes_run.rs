// SPDX-License-Identifier: MPL-2.0

//! The scripts of `pipelines/` do what their first lines promise, started as users start them. Set-up and the demo have tests
//! of their own.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use common::*;
use dds_tests::relay::{Direction, Relay};
use gst::prelude::*;
use serde_json::Value;

/// Of the clip: so few that two scripts at once keep up with it on a slow machine.
const FPS: u32 = 10;
/// For each step. A slow machine shared by others takes its time for models and plugins.
const PATIENCE: Duration = Duration::from_secs(60);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What all scripts need from their environment.
struct Stage {
    plugins: PathBuf,
    registry: PathBuf,
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        init();
        let test = std::env::current_exe().unwrap();
        let stage = Stage {
            plugins: test.ancestors().nth(2).unwrap().to_owned(),
            registry: scratch("recipes").join("registry.bin"),
        };
        for library in ["libgstdds.so", "libgstddsinfer.so"] {
            let library = stage.plugins.join(library);
            assert!(
                library.exists(),
                "there is no {}: run `cargo build --workspace` before these tests",
                library.display()
            );
        }
        // Once for all scripts: the first one that runs would look at every plugin of the system.
        for element in ["ddsencode", "ddsinfer"] {
            let mut inspect = Command::new("gst-inspect-1.0");
            let status = stage.prepare(&mut inspect).arg(element).stdout(Stdio::null()).status();
            assert!(status.unwrap().success(), "gst-inspect-1.0 {element}");
        }
        stage
    })
}

impl Stage {
    fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("GST_PLUGIN_PATH", &self.plugins)
            .env("GST_REGISTRY", &self.registry)
            .env("GST_DEBUG_NO_COLOR", "1")
            .stdin(Stdio::null())
    }
}

/// A clip of `seconds`, made for the test.
fn clip(folder: &Path, fps: u32, seconds: u32) -> String {
    init();
    let file = folder.join("clip.mp4").to_str().unwrap().to_owned();
    run_to_eos(&launch(&format!(
        "videotestsrc pattern=ball num-buffers={} ! video/x-raw,format=I420,width=320,height=192,framerate={fps}/1 \
         ! x264enc speed-preset=ultrafast ! mp4mux ! filesink location={file}",
        fps * seconds
    )));
    file
}

type Lines = Arc<Mutex<Vec<String>>>;

/// A script that runs, with everything it has started; ended when dropped.
struct Script {
    name: String,
    child: Child,
    out: Lines,
    err: Lines,
}

impl Script {
    fn start(script: &str, parameters: &[(&str, &str)]) -> Self {
        Self::start_with(script, &[], parameters)
    }

    fn start_with(script: &str, arguments: &[&str], parameters: &[(&str, &str)]) -> Self {
        let mut bash = Command::new("bash");
        bash.arg(repository().join("pipelines").join(script)).args(arguments);
        Self::spawn(script, bash, parameters)
    }

    fn spawn(name: &str, mut command: Command, parameters: &[(&str, &str)]) -> Self {
        // Nothing of the caller's environment decides.
        for name in ["SOURCE", "MODEL", "DDS_CLIP", "PORT", "FEEDBACK_PORT"] {
            command.env_remove(name);
        }
        stage()
            .prepare(&mut command)
            .envs(parameters.iter().copied())
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        let out = collect(child.stdout.take().unwrap());
        let err = collect(child.stderr.take().unwrap());
        Self {
            name: name.to_owned(),
            child,
            out,
            err,
        }
    }

    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill")
            .args(["-s", signal, "--", &group])
            .stderr(Stdio::null())
            .status();
    }

    fn wait_for(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let ended = self.child.try_wait().unwrap();
            // What it said last may still be on its way.
            let ended = ended.filter(|_| {
                std::thread::sleep(Duration::from_millis(100));
                !done(self)
            });
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{}: no {what} ({ended:?}); it said: {}\n{}",
                self.name,
                self.err.lock().unwrap().join("\n"),
                self.out.lock().unwrap().last().unwrap_or(&String::new())
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for words on its standard error.
    fn waits_to_say(&self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.err.lock().unwrap().iter().any(|l| l.contains(words)) {
            assert!(Instant::now() < deadline, "{} does not say {words}", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it has ended by itself, well.
    fn wait_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(
                    status.success(),
                    "{}: {status}\n{}",
                    self.name,
                    self.err.lock().unwrap().join("\n")
                );
                return;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The lines of results so far. Panics where one is not whole.
    fn results(&self) -> Vec<Value> {
        let lines = self.out.lock().unwrap().clone();
        lines
            .iter()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e} in {l}")))
            .collect()
    }

    /// Waits for results that name their frames and ask for regions.
    fn infers(&mut self) {
        let before = self.out.lock().unwrap().len();
        self.wait_for("results with regions", |s| {
            let results = s.results().split_off(before);
            let asks = |r: &&Value| r["frame"].is_u64() && r["regions"].as_array().is_some_and(|r| !r.is_empty());
            results.iter().filter(asks).count() >= 5
        });
    }

    /// Frames of the camera, by what its log says of them.
    fn frames(&self, mode: &str) -> usize {
        let word = format!(": {mode}, base quantizer");
        self.err.lock().unwrap().iter().filter(|l| l.contains(&word)).count()
    }

    fn is_steered(&mut self) {
        let before = self.frames("Steered");
        self.wait_for("steered frames", |s| s.frames("Steered") >= before + 5);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.signal("KILL");
        let _ = self.child.wait();
    }
}

fn collect(stream: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let to = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            to.lock().unwrap().push(line);
        }
    });
    lines
}

/// The first of six UDP ports in a row for one end, and of six for the other, all free a moment ago.
fn ports() -> (String, String) {
    loop {
        let first = free_ports(1)[0];
        let row: Vec<_> = (first..first.saturating_add(12))
            .map_while(|p| std::net::UdpSocket::bind(("0.0.0.0", p)).ok())
            .collect();
        if row.len() == 12 {
            return (first.to_string(), (first + 6).to_string());
        }
    }
}

/// Waits until a script has opened a UDP port.
fn is_open(script: &mut Script, port: &str) {
    let end = format!(":{:04X}", port.parse::<u16>().unwrap());
    script.wait_for("open port", |_| {
        let table = std::fs::read_to_string("/proc/net/udp").unwrap();
        table
            .lines()
            .filter_map(|l| l.split_whitespace().nth(1))
            .any(|a| a.ends_with(&end))
    });
}

/// The camera tells of each frame how it was coded.
const TELLS: (&str, &str) = ("GST_DEBUG", "ddsencode:6");

#[test]
fn camera_and_server() {
    let source = clip(&scratch("recipe-camera"), FPS, 60);
    let (port, back) = ports();
    let both = [
        ("PORT", port.as_str()),
        ("FEEDBACK_PORT", &back),
        ("SOURCE", &source),
        TELLS,
    ];
    let mut server = Script::start("server.sh", &[both[0], both[1], ("GST_DEBUG", "2")]);
    is_open(&mut server, &port);
    let mut camera = Script::start("camera.sh", &both);
    server.infers();
    camera.is_steered();

    // Ten packets of another stream, and a camera that is killed and comes again: not even a warning.
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..10 {
        let packet = [0x80, 96, 0, number, 0, 0, 0, 0, 1, 2, 3, 4, 0x41, 0x9a, 1, 2];
        stranger.send_to(&packet, format!("127.0.0.1:{port}")).unwrap();
    }
    server.infers();
    drop(camera);
    let before = server.results().len();
    let mut camera = Script::start("camera.sh", &both);
    server.wait_for("results of the camera that came again", |s| {
        let results = s.results();
        let first = results[0]["stream_id"].as_u64();
        results[before..].iter().any(|r| r["stream_id"].as_u64() != first)
    });
    server.infers();
    camera.is_steered();
    assert_eq!(*server.err.lock().unwrap(), [""; 0]);

    // A second server on the port would take nothing, or all.
    let mut second = Script::start("server.sh", &both[..2]);
    assert!(!second.child.wait().unwrap().success());
    second.waits_to_say("Address already in use");
    server.infers();
}

#[test]
fn two_passes() {
    let source = clip(&scratch("recipe-two-pass"), FPS, 60);
    let (port, back) = ports();
    let both = [("PORT", port.as_str()), ("FEEDBACK_PORT", &back), ("SOURCE", &source)];
    let mut server = Script::start_with("two-pass-server.sh", &[], &[both[0], both[1], ("DEADLINE", "2000")]);
    is_open(&mut server, &port);
    // Killed once, and started again.
    for _ in 0..2 {
        let _camera = Script::start("two-pass-camera.sh", &both);
        let before = server.results().len();
        server.infers();
        server.wait_for("second passes", |s| {
            let results = s.results().split_off(before);
            // The former one's may come late.
            let last = results.last().map(|r| r["stream_id"].clone());
            let of_it = |r: &&Value| r["refinement"] == "done" && Some(&r["stream_id"]) == last.as_ref();
            results.iter().filter(of_it).count() > 3
        });
    }
    let streams: BTreeSet<_> = server.results().iter().map(|r| r["stream_id"].as_u64()).collect();
    assert_eq!(streams.len(), 2);
}

#[test]
fn plain_udp_pads() {
    let source = clip(&scratch("recipe-plain-udp"), FPS, 6);
    let (port, back) = ports();
    let parameters = [
        ("PORT", port.as_str()),
        ("FEEDBACK_PORT", &back),
        ("SOURCE", &source),
        TELLS,
    ];
    let mut both = Script::start_with("plain-udp-pads.sh", &["both"], &parameters);
    both.infers();
    both.is_steered();
    both.wait_end();
}

#[test]
fn in_process() {
    let source = clip(&scratch("recipe-in-process"), FPS, 3);
    let mut both = Script::start("in-process.sh", &[("SOURCE", &source), TELLS]);
    both.infers();
    both.is_steered();
    both.wait_end();
}

#[test]
fn results_are_drawn() {
    let folder = scratch("recipe-overlay");
    let source = clip(&folder, FPS, 3);
    let out = folder.join("drawn.mkv");
    let mut script = Script::start(
        "overlay.sh",
        &[("SOURCE", &source), ("OUT", out.to_str().unwrap()), ("INTERVAL", "2")],
    );
    script.wait_end();
    // The ball is white on black: every colour was drawn.
    let colourful = |file: &str| -> Vec<usize> {
        let output = Command::new("ffmpeg")
            .args(["-v", "error", "-i", file, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
            .stdin(Stdio::null())
            .output()
            .expect("ffmpeg is installed");
        let is_colour = |p: &&[u8]| p.iter().max().unwrap() - p.iter().min().unwrap() > 60;
        let count = |frame: &[u8]| frame.chunks_exact(3).filter(is_colour).count();
        output.stdout.chunks_exact(320 * 192 * 3).map(count).collect()
    };
    assert!(colourful(&source).iter().all(|n| *n == 0));
    let drawn = colourful(out.to_str().unwrap());
    assert_eq!(drawn.len(), 3 * FPS as usize);
    // Frames that were not inferred hold what was found before them.
    let with_some = drawn.iter().filter(|n| **n > 20).count();
    assert!(with_some > drawn.len() / 2, "{drawn:?}");
}

#[test]
fn encrypted() {
    if !python_has("gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst") {
        println!("skipped: python3-gi and gir1.2-gstreamer-1.0 are not installed");
        return;
    }
    let folder = scratch("recipe-srtp");
    let source = clip(&folder, FPS, 60);
    let (key, other) = (folder.join("srtp.key"), folder.join("other.key"));
    std::fs::write(&key, "0123456789abcdef of the tests\n").unwrap();
    std::fs::write(&other, "fedcba9876543210 of the tests\n").unwrap();
    let (key, other) = (key.to_str().unwrap(), other.to_str().unwrap());
    let (port, back) = ports();
    let ports = [("PORT", port.as_str()), ("FEEDBACK_PORT", &back)];
    let mut stranger = Script::start("srtp-server.sh", &[ports[0], ports[1], ("SRTP_KEY_FILE", other)]);
    is_open(&mut stranger, &port);
    // Its packet numbers begin anew before the server comes, which no packet tells.
    let script = std::fs::read_to_string(repository().join("pipelines/srtp-camera.sh")).unwrap();
    let wraps = script.replace("rtph264pay ", "rtph264pay seqnum-offset=65530 ");
    assert_ne!(wraps, script);
    let copy = folder.join("srtp-camera.sh");
    std::fs::write(&copy, wraps).unwrap();
    let mut bash = Command::new("bash");
    bash.arg(copy);
    let mut camera = Script::spawn(
        "srtp-camera.sh",
        bash,
        &[ports[0], ports[1], ("SOURCE", &source), ("SRTP_KEY_FILE", key), TELLS],
    );
    camera.wait_for("frames", |c| c.frames("Fallback") > 20);
    assert!(stranger.results().is_empty());
    assert_eq!(camera.frames("Steered"), 0);
    drop(stranger);

    let mut server = Script::start("srtp-server.sh", &[ports[0], ports[1], ("SRTP_KEY_FILE", key)]);
    server.infers();
    camera.is_steered();
    for process in [&camera, &server] {
        let line = std::fs::read(format!("/proc/{}/cmdline", process.child.id())).unwrap();
        let line = String::from_utf8_lossy(&line);
        // The script has become the program, so that this is the line that everybody sees.
        assert!(line.contains("srtpdec") && !line.contains("0123456789abcdef"), "{line}");
    }
    // A camera that is killed and comes again, under a key of another SSRC.
    drop(camera);
    let mut camera = Script::start(
        "srtp-camera.sh",
        &[ports[0], ports[1], ("SOURCE", &source), ("SRTP_KEY_FILE", key), TELLS],
    );
    camera.is_steered();
    server.infers();
    server.signal("INT");
    server.wait_end();
    camera.signal("INT");
    camera.wait_end();
}

#[test]
fn recording_beside_analysis() {
    let folder = scratch("recipe-record");
    // More frames than a model in a debug build can look at.
    let source = clip(&folder, 60, 6);
    let (port, back) = ports();
    let out = folder.join("out");
    let ports = [("PORT", port.as_str()), ("FEEDBACK_PORT", &back)];
    let mut server = Script::start(
        "record-beside-analysis.sh",
        &[
            ports[0],
            ports[1],
            ("OUT", out.to_str().unwrap()),
            ("SECONDS_A_FILE", "1"),
        ],
    );
    is_open(&mut server, &port);
    let mut camera = Script::start(
        "camera.sh",
        &[ports[0], ports[1], ("SOURCE", &source), ("KEY_INT_MAX", "90"), TELLS],
    );
    server.infers();
    camera.is_steered();
    // Not for its end, nor the server's: rtpsession does not always pass the end of stream on to its RTCP.
    let coded = |c: &Script| {
        ["First", "Fallback", "Steered", "Unsteered"]
            .iter()
            .map(|m| c.frames(m))
            .sum::<usize>()
    };
    let sent = 360;
    camera.wait_for("whole clip", |c| coded(c) == sent);
    server.wait_for("last frame", |s| s.results().last().is_some_and(|r| r["frame"] == 359));
    server.signal("INT");
    let files = || -> BTreeSet<_> { std::fs::read_dir(&out).unwrap().map(|f| f.unwrap().path()).collect() };
    server.wait_for("whole recording", |_| {
        files().iter().map(|f| packets_in(f)).sum::<usize>() == sent
    });
    let files = files();
    assert!(files.len() >= 3, "{files:?}");
    files.iter().for_each(|file| plays(file));
    let looked_at: BTreeSet<_> = server.results().iter().map(|r| r["frame"].as_u64()).collect();
    assert!(
        looked_at.len() < sent,
        "the model was not slow, so that this shows nothing"
    );
}

fn plays(file: &Path) {
    let ffmpeg = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(file)
        .args([
            "-fps_mode",
            "passthrough",
            "-enc_time_base",
            "1:1000",
            "-f",
            "null",
            "-",
        ])
        .output()
        .expect("ffmpeg is installed");
    let complaints = String::from_utf8_lossy(&ffmpeg.stderr);
    assert!(
        ffmpeg.status.success() && complaints.is_empty(),
        "{file:?}: {complaints}"
    );
}

/// Coded frames in a file that begins with a key frame.
fn packets_in(file: &Path) -> usize {
    let ffprobe = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "packet=flags", "-of", "csv=p=0"])
        .arg(file)
        .output()
        .expect("ffprobe is installed");
    let flags = String::from_utf8(ffprobe.stdout).unwrap();
    assert!(
        flags.is_empty() || flags.starts_with('K'),
        "{file:?} begins with {flags}"
    );
    flags.lines().count()
}

#[test]
fn several_cameras() {
    let source = clip(&scratch("recipe-several"), FPS, 60);
    let ports = [ports(), ports()];
    let cameras = format!(
        "gate={}@127.0.0.1:{} yard={}@127.0.0.1:{}",
        ports[0].0, ports[0].1, ports[1].0, ports[1].1
    );
    let mut server = Script::start("several-cameras.sh", &[("CAMERAS", &cameras)]);
    let mut running = Vec::new();
    for (port, back) in &ports {
        is_open(&mut server, port);
        running.push(Script::start(
            "camera.sh",
            &[("PORT", port), ("FEEDBACK_PORT", back), ("SOURCE", &source), TELLS],
        ));
    }
    let streams_of = |results: &[Value], name: &str| -> BTreeSet<u64> {
        results
            .iter()
            .filter(|r| r["camera"] == name)
            .filter_map(|r| r["stream_id"].as_u64())
            .collect()
    };
    running.iter_mut().for_each(Script::is_steered);
    server.wait_for("results of both", |s| {
        ["gate", "yard"].iter().all(|n| !streams_of(&s.results(), n).is_empty())
    });
    let (gate, yard) = (
        streams_of(&server.results(), "gate"),
        streams_of(&server.results(), "yard"),
    );
    assert_eq!((gate.len(), yard.len()), (1, 1));
    assert_ne!(gate, yard);

    // One that goes without a word takes nothing with it, and is seen when it comes again.
    drop(running.remove(0));
    running[0].is_steered();
    running.push(Script::start(
        "camera.sh",
        &[
            ("PORT", &ports[0].0),
            ("FEEDBACK_PORT", &ports[0].1),
            ("SOURCE", &source),
            TELLS,
        ],
    ));
    running[1].is_steered();
    server.wait_for("results of the one that came again", |s| {
        streams_of(&s.results(), "gate").len() == 2
    });

    server.signal("INT");
    let ended = server.child.wait().unwrap();
    assert_eq!(ended.code(), Some(130), "{ended}");
    for (port, _) in &ports {
        std::net::UdpSocket::bind(format!("0.0.0.0:{port}")).expect("nobody is left on the port");
    }
}

fn rtsp_camera(port: &str) -> Script {
    let program = stage().plugins.join("dds-rtsp-camera");
    let mut camera = Script::start_with(
        "rtsp-camera.sh",
        &["--size", "320x192", "--rate", "10"],
        &[
            ("SOURCE", "test:ball"),
            ("PORT", port),
            ("DDS_RTSP_CAMERA", program.to_str().unwrap()),
        ],
    );
    camera.wait_for("address", |c| {
        c.err.lock().unwrap().iter().any(|l| l.contains("rtsp://"))
    });
    camera
}

#[test]
fn rtsp_cameras_are_waited_for_and_results_in_a_file_are_kept() {
    let folder = scratch("recipe-again");
    let source = clip(&folder, FPS, 60);
    let ((port, _), (udp, back)) = (ports(), ports());
    let camera = rtsp_camera(&port);
    let url = format!("rtsp://127.0.0.1:{port}/camera");
    let file = folder.join("results.jsonl");
    let mut shell = Command::new("bash");
    let script = repository().join("pipelines/rtsp-server.sh");
    shell.args(["-c", "exec bash \"$0\" > \"$1\""]).args([&script, &file]);
    let mut server = Script::spawn(
        "rtsp-server.sh > results.jsonl",
        shell,
        &[("URL", &url), ("RETRY", "1")],
    );
    // Beside it one that watches this camera, one that is there all the time, and one whose port is taken.
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let cameras = format!(
        "door={url} yard={udp}@127.0.0.1:{back} shed={}",
        taken.local_addr().unwrap().port()
    );
    let mut several = Script::start("several-cameras.sh", &[("CAMERAS", &cameras), ("RETRY", "1")]);
    is_open(&mut several, &udp);
    let mut yard = Script::start(
        "camera.sh",
        &[("PORT", &udp), ("FEEDBACK_PORT", &back), ("SOURCE", &source), TELLS],
    );
    let lines = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let of = |several: &Script, name: &str| several.results().iter().filter(|r| r["camera"] == name).count();
    server.wait_for("results", |_| lines().len() > 5);
    several.wait_for("results of both", |s| of(s, "door") > 3 && of(s, "yard") > 3);
    several.waits_to_say("shed is not watched any more");

    drop(camera);
    server.wait_for("word of it", |s| {
        s.err.lock().unwrap().iter().any(|l| l.contains("trying again"))
    });
    let before = lines();
    let _camera = rtsp_camera(&port);
    server.wait_for("results of the camera that came again", |_| {
        lines().len() > before.len() + 5
    });
    let after = lines();
    assert_eq!(after[..before.len()], before);
    for line in &after {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e} in {line}"));
    }
    let door = of(&several, "door");
    several.wait_for("results of it there", |s| of(s, "door") > door + 3);
    yard.is_steered();
    assert_eq!(of(&several, "shed"), 0);
}

#[test]
fn own_channel_past_a_relay() {
    let folder = scratch("recipe-own-channel");
    let source = clip(&folder, FPS, 60);
    let key = folder.join("dds.key");
    std::fs::write(&key, "a key of the tests, for nobody else\n").unwrap();
    let key = ("KEY_FILE", key.to_str().unwrap());
    let (port, back) = ports();
    // It passes RTP on, and nothing back.
    let relay = Relay::between(9, port.parse().unwrap(), 1).unwrap();
    let channel = format!("udp://127.0.0.1:{back}");
    let url = format!("udp://127.0.0.1:{port}");
    let mut server = Script::start(
        "own-channel-server.sh",
        &[key, ("FEEDBACK_URI", &channel), ("URL", &url)],
    );
    is_open(&mut server, &port);
    let to = format!("udp://127.0.0.1:{}", relay.port(Direction::Forward));
    let mut camera = Script::start(
        "own-channel-camera.sh",
        &[
            key,
            ("FEEDBACK_URI", &channel),
            ("RELAY", &to),
            ("SOURCE", &source),
            TELLS,
        ],
    );
    server.infers();
    camera.is_steered();
}

#[test]
fn own_channel_beside_rtsp() {
    let program = stage().plugins.join("dds-rtsp-camera");
    assert!(
        program.exists(),
        "there is no {}: run `cargo build --workspace`",
        program.display()
    );
    let folder = scratch("recipe-own-channel-rtsp");
    let key = folder.join("dds.key");
    std::fs::write(&key, "a key of the tests, for nobody else\n").unwrap();
    let key = key.to_str().unwrap();
    let (port, back) = ports();
    let channel = format!("udp://127.0.0.1:{back}");
    let mut camera = Script::start_with(
        "rtsp-camera.sh",
        &[
            "--size",
            "320x192",
            "--rate",
            "10",
            "--encoder",
            &format!("feedback-uri={channel} feedback-key-file={key}"),
        ],
        &[
            ("SOURCE", "test:ball"),
            ("PORT", &port),
            ("DDS_RTSP_CAMERA", program.to_str().unwrap()),
        ],
    );
    camera.wait_for("address", |c| {
        c.err.lock().unwrap().iter().any(|l| l.contains("rtsp://"))
    });
    let url = format!("rtsp://127.0.0.1:{port}/camera");
    let mut server = Script::start(
        "own-channel-server.sh",
        &[("KEY_FILE", key), ("FEEDBACK_URI", &channel), ("URL", &url)],
    );
    server.infers();
    camera.signal("INT");
    camera.wait_end();
    camera.wait_for("report", |c| !c.out.lock().unwrap().is_empty());
    let report = &camera.results()[0]["encoder"];
    for count in ["feedback-packets-uri", "frames-steered"] {
        assert!(report[count].as_u64().is_some_and(|n| n > 0), "{count}: {report}");
    }
}

#[test]
fn results_by_mqtt() {
    if ["mosquitto", "mosquitto_pub", "mosquitto_sub"]
        .iter()
        .any(|p| !on_path(p))
    {
        println!("skipped: mosquitto and mosquitto-clients are not installed");
        return;
    }
    let folder = scratch("recipe-mqtt");
    let source = clip(&folder, FPS, 60);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    // Nothing of it need be read by the user that mosquitto becomes where root starts it.
    let configuration = folder.join("mosquitto.conf");
    std::fs::write(
        &configuration,
        format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n"),
    )
    .unwrap();
    let broker = || {
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&configuration);
        Script::spawn("mosquitto", command, &[])
    };
    // No broker yet. tee tells what was inferred meanwhile.
    let mut line = Command::new("bash");
    let pipelines = repository().join("pipelines");
    let inferred = folder.join("inferred.json");
    line.current_dir(&pipelines)
        .args(["-c", "./in-process.sh | tee \"$INFERRED\" | ./json-to-mqtt.sh"]);
    let mut loop_ = Script::spawn(
        "in-process.sh | json-to-mqtt.sh",
        line,
        &[
            ("SOURCE", &source),
            ("MQTT_PORT", &port),
            ("INFERRED", inferred.to_str().unwrap()),
        ],
    );
    let frames = || std::fs::read_to_string(&inferred).unwrap_or_default().lines().count();
    loop_.wait_for("frames without a broker", |s| {
        frames() > 10 && s.err.lock().unwrap().iter().any(|l| l.contains("no broker"))
    });

    let subscriber = || {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-t", "gst-dds/results"]);
        Script::spawn("mosquitto_sub", command, &[])
    };
    let accepts = |broker: &mut Script| {
        broker.wait_for("open port", |_| {
            std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok()
        });
    };
    let mut first = broker();
    accepts(&mut first);
    let mut results = subscriber();
    results.infers();

    // It goes, and comes again.
    drop((first, results));
    let before = frames();
    loop_.wait_for("frames without the broker", |_| frames() > before + 10);
    let mut second = broker();
    accepts(&mut second);
    let mut results = subscriber();
    results.infers();
}

fn on_path(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .unwrap()
        .success()
}

fn python_has(module: &str) -> bool {
    let import = format!("import {module}");
    Command::new("/usr/bin/python3")
        .args(["-c", &import])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Scripts, settings for relays and the README: what people copy.
fn recipes() -> Vec<(String, String)> {
    let folder = repository().join("pipelines");
    let mut files: Vec<_> = [folder.clone(), folder.join("relays")]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "sh" || e == "yml" || e == "yaml"))
        .collect();
    files.push(repository().join("README.md"));
    files.push(repository().join("pipelines/rtsp-camera/src/options.rs"));
    files.sort();
    let read = |path: PathBuf| (path.display().to_string(), std::fs::read_to_string(&path).unwrap());
    files.into_iter().map(read).collect()
}

/// The numbers that follow each `key` in the text.
fn numbers<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = u32> + 'a {
    text.split(key).skip(1).filter_map(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok()
    })
}

#[test]
fn every_recipe_has_the_quantizers_of_the_element() {
    init();
    let element = gst::ElementFactory::make("ddsencode").build().unwrap();
    let mut seen = 0;
    for (property, variable) in [("background-qp", "BACKGROUND_QP"), ("region-qp", "REGION_QP")] {
        let ours = element.property::<u32>(property);
        for (file, text) in recipes() {
            for key in [format!("{property}="), format!("${{{variable}:-")] {
                for number in numbers(&text, &key) {
                    assert_eq!(number, ours, "{property} in {file}");
                    seen += 1;
                }
            }
            for line in text
                .lines()
                .filter(|line| line.trim_start().starts_with(&format!("{variable} ")))
            {
                assert!(line.contains(&format!("({ours})")), "{file}: {line}");
                seen += 1;
            }
        }
    }
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let [background, region] = ["background-qp", "region-qp"].map(|name| element.property::<u32>(name));
    let defaults = format!("| `background-qp`, `region-qp` | {background}, {region} |");
    assert_eq!(readme.matches(&defaults).count(), 2, "{defaults}");
    assert!(seen > 20, "{seen}");
}

#[test]
fn every_recipe_that_starts_a_camera_caps_its_bit_rate() {
    let mut cameras = 0;
    for (file, text) in recipes() {
        // A line goes on behind a backslash, and in YAML up to the next pipe.
        let text = text.replace("\\\n", " ").replace("\n    feedback-uri", " feedback-uri");
        for line in text
            .lines()
            .filter(|line| line.contains("! ddsencode ") && line.contains("speed-preset"))
        {
            assert!(line.contains(" max-bitrate="), "{file}: {line}");
            cameras += 1;
        }
        if text.contains("max-bitrate=\"$MAX_BITRATE\"") {
            let help = text.lines().find(|line| line.starts_with("  MAX_BITRATE "));
            assert!(help.is_some_and(|line| line.ends_with("0: none (4000)")), "{file}");
        }
    }
    assert!(cameras >= 9, "{cameras}");
}

/// What the settings for relays say to run, joined where a shell or YAML joins it.
fn relay_texts() -> Vec<(PathBuf, String)> {
    let folder = repository().join("pipelines/relays");
    let mut texts: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .map(|f| (f.clone(), std::fs::read_to_string(f).unwrap()))
        .collect();
    texts.sort();
    assert!(texts.len() >= 3);
    texts
}

#[test]
fn settings_for_relays_name_scripts_elements_and_properties_that_exist() {
    init();
    let mut lines = 0;
    for (file, text) in relay_texts() {
        for line in text.lines().filter(|l| l.contains("pipelines/")) {
            for command in line.split('|') {
                let Some((parameters, script)) = command.trim_start_matches(['#', ' ']).split_once("pipelines/") else {
                    continue;
                };
                let name = script.split_whitespace().next().unwrap();
                let script = std::fs::read_to_string(repository().join("pipelines").join(name))
                    .unwrap_or_else(|e| panic!("{file:?} names {name}: {e}"));
                for parameter in parameters.split_whitespace() {
                    let parameter = parameter.split('=').next().unwrap();
                    assert!(
                        script.contains(&format!("\n  {parameter} ")),
                        "{name} knows no {parameter}: {file:?}"
                    );
                }
                lines += 1;
            }
        }
        for encoder in text.split("--encoder \"").skip(1) {
            let properties = encoder.split('"').next().unwrap();
            let properties = properties.replace("\\\n#", "");
            launch(&format!("videotestsrc ! ddsencode {properties} ! fakesink"));
        }
        for line in text.split("exec:gst-launch-1.0 -q ").skip(1) {
            let line: Vec<_> = line.lines().take_while(|l| !l.is_empty()).collect();
            launch(&line.join(" "));
            lines += 1;
        }
    }
    assert!(lines > 8, "{lines}");
}

#[test]
fn settings_for_relays_are_yaml() {
    if !python_has("yaml") {
        println!("skipped: python3-yaml is not installed");
        return;
    }
    let load = "import sys, yaml; d = yaml.safe_load(open(sys.argv[1])); sys.exit(not isinstance(d, dict))";
    for (file, _) in relay_texts() {
        let mut python = Command::new("/usr/bin/python3");
        assert!(
            python.args(["-c", load]).arg(&file).status().unwrap().success(),
            "{file:?}"
        );
    }
}
