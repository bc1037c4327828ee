// SPDX-License-Identifier: MPL-2.0

//! Recorders and players of others beside a server that steers: FFmpeg, GStreamer's own, VLC, and relays that are
//! published to. Each must find a sound stream, and each recording must still tell a server which frame is which.

mod common;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::{Camera, PATIENCE, Server, assert_one_healthy_encoder, count, ffmpeg, scratch, steered};
use dds_tests::launch;
use gst::prelude::*;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::{RTSPMediaFactory, RTSPServer, RTSPTransportMode};
use serde_json::Value;

/// Seconds between two frames of `Camera::pattern`.
const INTERVAL: f64 = 0.05;
/// Frames that every recording has at least.
const FRAMES: usize = 60;

/// A recorder as a process.
struct Recorder(Option<Child>);

impl Recorder {
    fn ffmpeg(args: &str) -> Self {
        let child = Command::new("ffmpeg")
            // Each complaint in its own words, how often it may be made.
            .args(["-nostdin", "-v", "repeat+warning", "-y"])
            .args(args.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ffmpeg is installed");
        Self(Some(child))
    }

    /// Waits for its end; what it complained about.
    fn finish(mut self) -> String {
        let until = Instant::now() + PATIENCE;
        while self.0.as_mut().unwrap().try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "a recorder does not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// FFmpeg's complaints but those that any camera causes: FFmpeg 5.1 leaves the first packet without a timestamp and puts the
/// second in its place; and to learn of a stream that it joins it decodes what comes before the first key frame, which is not
/// recorded. What is recorded is decoded again, and then nothing is forgiven.
fn unusual(said: &str) -> Vec<&str> {
    let known = |line: &&str| {
        [
            "Timestamps are unset in a packet",
            "previous: 0, current: 0; changing to 1.",
            "reference picture missing during reorder",
            "Missing reference picture, default is",
        ]
        .iter()
        .any(|words| line.contains(words))
    };
    said.lines().filter(|line| !known(line)).collect()
}

/// A recorder or player in gst-launch syntax. Frames are counted at the element `count`.
struct Play {
    pipeline: gst::Pipeline,
    stamps: Arc<Mutex<Vec<gst::ClockTime>>>,
}

impl Play {
    fn start(line: &str) -> Self {
        let pipeline = launch(line).unwrap();
        let counted = pipeline.by_name("count").unwrap();
        Self::of(pipeline, &counted)
    }

    fn of(pipeline: gst::Pipeline, counted: &gst::Element) -> Self {
        let stamps = Arc::new(Mutex::new(Vec::new()));
        let seen = stamps.clone();
        let pad = counted.static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
                seen.lock()
                    .unwrap()
                    .push(buffer.pts().expect("every frame has its time"));
            }
            gst::PadProbeReturn::Ok
        });
        pipeline.set_state(gst::State::Playing).unwrap();
        Self { pipeline, stamps }
    }

    fn playbin(uri: &str) -> Self {
        let sink = gst::ElementFactory::make("fakesink").build().unwrap();
        let player = gst::ElementFactory::make("playbin")
            .property("uri", uri)
            .property("video-sink", &sink)
            .build()
            .unwrap();
        Self::of(player.downcast().unwrap(), &sink)
    }

    /// Waits for so many frames and ends it. Nothing on the way was worth a warning. The times of its frames.
    fn finish(self, frames: usize) -> Vec<f64> {
        let bus = self.pipeline.bus().unwrap();
        let kinds = [gst::MessageType::Error, gst::MessageType::Warning];
        let quiet = |wait| {
            if let Some(message) = bus.timed_pop_filtered(wait, &kinds) {
                panic!("{message:?}");
            }
        };
        let until = Instant::now() + PATIENCE;
        while self.stamps.lock().unwrap().len() < frames {
            assert!(Instant::now() < until, "no {frames} frames");
            quiet(gst::ClockTime::from_mseconds(20));
        }
        let stamps = self.stamps.lock().unwrap().iter().map(|t| t.seconds_f64()).collect();
        // Files are written to their end by it; players have shown what they were asked for.
        self.pipeline.send_event(gst::event::Eos::new());
        let wait = gst::ClockTime::from_nseconds(PATIENCE.as_nanos() as u64);
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let end = bus.timed_pop_filtered(wait, &ends).expect("an end");
        assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
        stamps
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

struct Packet {
    pts: f64,
    dts: f64,
    key: bool,
}

fn packets(file: &Path) -> Vec<Packet> {
    let entries = "packet=pts_time,dts_time,flags";
    let args = [
        "-v",
        "error",
        "-select_streams",
        "v",
        "-show_entries",
        entries,
        "-of",
        "csv=p=0",
    ];
    let output = ffmpeg("ffprobe", &[&args[..], &[file.to_str().unwrap()]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", file.display());
    let read = |line: &str| {
        let mut fields = line.split(',');
        let mut next = || fields.next().unwrap_or_else(|| panic!("{line:?}"));
        Packet {
            pts: next().parse().unwrap(),
            dts: next().parse().unwrap(),
            key: next().starts_with('K'),
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| !line.is_empty()).map(read).collect()
}

/// How exact a recorder's times are.
#[derive(Clone, Copy)]
enum Clock {
    /// It writes the camera's own, rounded; of the first interval, see [`unusual`].
    Camera,
    /// It follows when packets arrive.
    Arrival,
    /// Packets were late before that, by whatever a relay took.
    Relay,
}

/// Every frame follows the one before by an interval. Where the machine kept the camera from coding frames, by whole ones:
/// a frame that is missing on the way is missed by its identity.
fn assert_steady(times: &[f64], clock: Clock, what: &str) {
    let (skip, slack) = match clock {
        Clock::Camera => (1, 0.003),
        Clock::Arrival => (0, 0.6 * INTERVAL),
        Clock::Relay => (1, f64::INFINITY),
    };
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (n, gap) in gaps.iter().enumerate() {
        assert!(
            *gap > 0.0 || n < skip && *gap >= 0.0,
            "{what}: {gap} s after frame {n}: {gaps:?}"
        );
        let intervals = (gap / INTERVAL).round().max(1.0);
        assert!(
            n < skip || (gap - intervals * INTERVAL).abs() <= slack && *gap < 1.0,
            "{what}: {gap} s after frame {n}: {gaps:?}"
        );
    }
    let whole = gaps.iter().filter(|gap| **gap > 1.5 * INTERVAL).count();
    assert!(
        whole * 4 <= gaps.len(),
        "{what}: {whole} gaps in {} frames",
        times.len()
    );
}

/// What a server makes of a recording: one result for each frame.
fn replay(source: &str) -> Vec<Value> {
    let pipeline = launch(&format!(
        "{source} ! ddsinfer name=infer feedback=false ! fakesink infer.results ! appsink name=results sync=false"
    ))
    .unwrap();
    let sink = pipeline.by_name("results").and_downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let wait = gst::ClockTime::from_nseconds(PATIENCE.as_nanos() as u64);
    let mut lines = Vec::new();
    while let Some(sample) = sink.try_pull_sample(wait) {
        let map = sample.buffer().unwrap().map_readable().unwrap();
        lines.push(serde_json::from_slice(&map).unwrap());
    }
    let error = dds_tests::bus_error(&pipeline);
    let ended = sink.is_eos();
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(ended && error.is_none(), "{source}: {error:?}");
    lines
}

fn replay_file(file: &Path) -> Vec<Value> {
    replay(&format!("filesrc location={} ! decodebin", file.display()))
}

/// Consecutive frames of one stream, none damaged.
fn assert_identified(lines: &[Value], what: &str) {
    let first = lines[0]["frame"].as_u64();
    assert!(
        first.is_some() && lines[0]["stream_id"].is_u64(),
        "{what}: {}",
        lines[0]
    );
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line["frame"].as_u64(), first.map(|f| f + n as u64), "{what}: {line}");
        assert_eq!(
            (&line["stream_id"], &line["damaged"]),
            (&lines[0]["stream_id"], &Value::from(false)),
            "{what}: {line}"
        );
    }
}

/// Everything there is to ask of a recording. Its frames' numbers.
fn assert_sound(file: &Path, least: usize, clock: Clock) -> Vec<u64> {
    let what = file.display().to_string();
    let packets = packets(file);
    assert!(packets.len() >= least, "{what}: {} frames", packets.len());
    assert!(packets[0].key, "{what} starts without a key frame");
    let times: Vec<f64> = packets.iter().map(|p| p.pts).collect();
    assert_steady(&times, clock, &what);
    assert!(packets.iter().all(|p| p.pts == p.dts), "{what}: frames are reordered");
    let decode = ffmpeg(
        "ffmpeg",
        &[
            "-v",
            "warning",
            "-i",
            &what,
            "-fps_mode",
            "passthrough",
            "-enc_time_base",
            "1:90000",
            "-f",
            "null",
            "-",
        ],
    );
    assert_eq!(String::from_utf8_lossy(&decode.stderr), "", "{what}");
    let told = &[
        "-v",
        "error",
        "-show_entries",
        "format=duration",
        "-of",
        "csv=p=0",
        &what,
    ];
    let told = ffmpeg("ffprobe", told);
    let told: f64 = String::from_utf8_lossy(&told.stdout).trim().parse().unwrap();
    let shown = times.last().unwrap() - times[0];
    // One interval that the last frame lasts, and one that FFmpeg loses at the start; and what it waited for the next key
    // frame, of a relay, or of the camera where it shared one with others that joined.
    let more = if matches!(clock, Clock::Arrival) { 0.0 } else { 1.0 } + 2.5 * INTERVAL;
    assert!(
        told - shown > -2.5 * INTERVAL && told - shown < more,
        "{what}: {told} s, frames of {shown} s"
    );
    let lines = replay_file(file);
    assert_eq!(lines.len(), packets.len(), "{what}: results and frames");
    assert_identified(&lines, &what);
    // What the camera's clock says between first and last frame, against the recording.
    let taken = |line: &Value| line["capture_time_ns"].as_u64().unwrap() as f64 / 1e9;
    let lived = taken(lines.last().unwrap()) - taken(&lines[0]);
    assert!(
        (lived - shown).abs() < 4.0 * INTERVAL,
        "{what}: {lived} s at the camera, {shown} s in the file"
    );
    lines.iter().map(|line| line["frame"].as_u64().unwrap()).collect()
}

/// The camera was steered while all that went on.
fn assert_steered_since(camera: &Camera, before: &Value) {
    let report = camera.wait_for("the last report", |_| true);
    let report = camera.reports.try_iter().last().unwrap_or(report);
    let more = |name| count(&report, name) - count(before, name);
    assert!(more("frames-steered") * 10 >= more("frames") * 9, "{before} {report}");
    assert!(more("frames-steered") as usize >= FRAMES, "{report}");
    assert_one_healthy_encoder(&report);
}

fn port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn ffmpeg_records_and_restreams_and_vlc_plays_it() {
    dds_tests::init().unwrap();
    let dir = scratch("others_ffmpeg");
    let camera = Camera::pattern(&[]);
    let _server = Server::watch(&format!("location={} latency=50", camera.url()), 32);
    let before = camera.wait_for("steered frames", steered);
    let (url, at) = (camera.url(), |name: &str| dir.join(name).display().to_string());

    // Whoever takes the restream waits for it.
    let addresses = [port(), port()].map(|port| format!("udp://127.0.0.1:{port}"));
    let of_restream = Recorder::ffmpeg(&format!("-i {} -t 3.5 -c copy {}", addresses[0], at("restream.mp4")));
    let live = Vlc::play(&addresses[1].replace("//", "//@"));
    let outputs = addresses.each_ref().map(|a| format!("[f=mpegts]{a}?pkt_size=1316"));
    let _restream = Recorder::ffmpeg(&format!(
        "-rtsp_transport tcp -i {url} -map 0:v -c copy -f tee {}",
        outputs.join("|")
    ));
    let names = ["udp.mp4", "tcp.mp4", "udp.mkv", "tcp.mkv", "tcp.ts"];
    let recorders = names.map(|name| {
        let transport = &name[..3];
        // Those that join within a second of the first one wait up to that long for the key frame that they share.
        Recorder::ffmpeg(&format!(
            "-rtsp_transport {transport} -i {url} -t 4.5 -c copy {}",
            at(name)
        ))
    });
    for (name, recorder) in names.iter().zip(recorders) {
        let said = recorder.finish();
        assert_eq!(unusual(&said), [""; 0], "{name}");
    }
    let said = of_restream.finish();
    assert_eq!(unusual(&said), [""; 0], "restream");
    assert_steered_since(&camera, &before);
    for name in names.iter().chain(&["restream.mp4"]) {
        assert_sound(&dir.join(name), FRAMES, Clock::Camera);
    }

    for name in ["tcp.mp4", "tcp.ts"] {
        let Some(vlc) = Vlc::play(&at(name)) else { break };
        let (seen, whole) = (vlc.finish(), pictures(&dir.join(name)));
        // Of two that have one time it shows one, and by its clock it may leave out the last, or another one on a busy machine.
        let lost: Vec<_> = (0..whole.len()).filter(|n| !seen.contains(&whole[*n])).collect();
        assert!(lost.len() <= 3, "{name}: VLC lost {lost:?}");
        let order: Vec<_> = whole.iter().filter(|picture| seen.contains(picture)).collect();
        assert!(seen.iter().eq(order), "{name}: VLC shows {seen:?} of {whole:?}");
    }
    if let Some(vlc) = live {
        // It waited for the same first packet as the recorder, and goes on longer or not so long. Live it leaves pictures out
        // where its clock says so, but those it shows are whole, which no later one would be after an error.
        let (seen, whole) = (vlc.finish(), pictures(&dir.join("restream.mp4")));
        let places: Vec<_> = seen.iter().map(|p| whole.iter().position(|w| w == p)).collect();
        let both: Vec<_> = places.iter().copied().take_while(Option::is_some).flatten().collect();
        assert!(
            both.windows(2).all(|pair| pair[1] > pair[0]) && places[both.len()..].iter().all(Option::is_none),
            "VLC shows {places:?} of {}",
            whole.len()
        );
        assert!(both.len() >= FRAMES / 2, "VLC shows {places:?}");
    }
}

/// A sum of each picture, as FFmpeg decodes it.
fn pictures(file: &Path) -> Vec<String> {
    let args = [
        "-fps_mode",
        "passthrough",
        "-pix_fmt",
        "yuv420p",
        "-f",
        "framehash",
        "-hash",
        "md5",
        "-",
    ];
    let output = ffmpeg(
        "ffmpeg",
        &[&["-v", "error", "-i", file.to_str().unwrap()], &args[..]].concat(),
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sums = text.lines().filter(|line| !line.starts_with('#'));
    sums.map(|line| line.rsplit(',').next().unwrap().trim().into())
        .collect()
}

/// VLC at work: it writes what it would show without loss.
struct Vlc {
    home: PathBuf,
    child: Child,
}

impl Vlc {
    /// Plays a file, or an address for 3 s. `None`: there is no VLC.
    fn play(input: &str) -> Option<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let there =
            std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|d| d.join("vlc").exists()));
        if !there {
            println!("skipped: no VLC (packages vlc-bin and vlc-plugin-base)");
            return None;
        }
        // Where nobody else may write either, nor read what lies in root's folders.
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("dds-vlc-{}-{run}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        let mut input = input.to_string();
        let mut limit = None;
        if input.contains("://") {
            limit = Some("--run-time=3");
        } else {
            let own = home.join(Path::new(&input).file_name().unwrap());
            std::fs::copy(&input, &own).unwrap();
            input = own.display().to_string();
        }
        // It refuses root.
        let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let mut command = Command::new(if root { "setpriv" } else { "vlc" });
        if root {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(&home, open).unwrap();
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "vlc"]);
        }
        let write = format!(
            "#transcode{{vcodec=FFV1}}:std{{access=file,mux=mkv,dst={}/shown.mkv}}",
            home.display()
        );
        let child = command
            .args(["-vv", "-I", "dummy", "--no-audio", "--sout", &write])
            .args(limit)
            .args([&input, "vlc://quit"])
            .env("HOME", &home)
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(home.join("said")).unwrap())
            .spawn()
            .unwrap();
        Some(Self { home, child })
    }

    /// Waits for its end. A sum of each picture that it decoded.
    fn finish(mut self) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "VLC does not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let said = std::fs::read(self.home.join("said")).unwrap();
        let said = String::from_utf8_lossy(&said);
        for sign in [
            "dropping frame",
            "picture is too late",
            "error while decoding",
            "concealing",
            "buffer deadlock",
        ] {
            assert!(!said.contains(sign), "{said}");
        }
        assert!(said.contains("using video decoder module"), "{said}");
        pictures(&self.home.join("shown.mkv"))
    }
}

impl Drop for Vlc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

#[test]
fn gstreamers_own_record_and_play_it() {
    dds_tests::init().unwrap();
    let dir = scratch("others_gstreamer");
    let camera = Camera::pattern(&[]);
    let _server = Server::watch(&format!("location={} latency=50", camera.url()), 32);
    let before = camera.wait_for("steered frames", steered);
    let url = camera.url();
    // Muxers take what comes, and the first packets may be of a frame before the key frame that the camera gives.
    let source =
        format!("rtspsrc location={url} latency=200 ! rtph264depay wait-for-keyframe=true ! h264parse name=count");
    let file = dir.join("mp4mux.mp4");
    let whole = Play::start(&format!("{source} ! mp4mux ! filesink location={}", file.display()));
    let segments = Play::start(&format!(
        "{source} ! splitmuxsink location={}/segment%02d.mp4 max-size-time=1000000000 send-keyframe-requests=true",
        dir.display()
    ));
    let decoded = Play::start(&format!("uridecodebin uri={url} ! fakesink name=count"));
    let shown = Play::playbin(&url);
    whole.finish(FRAMES + 10);
    segments.finish(FRAMES + 10);
    for (player, name) in [(decoded, "uridecodebin"), (shown, "playbin")] {
        assert_steady(&player.finish(FRAMES), Clock::Arrival, name);
    }
    assert_steered_since(&camera, &before);

    assert_sound(&file, FRAMES, Clock::Arrival);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("segment"));
    files.sort();
    // The camera's own key frames are 2 s apart: others come because they are asked for.
    assert!(files.len() >= 3, "{files:?}");
    let frames: Vec<u64> = files
        .iter()
        .flat_map(|file| assert_sound(file, 1, Clock::Arrival))
        .collect();
    assert!(
        frames.len() >= FRAMES && frames.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{frames:?}"
    );
    let joined = replay(&format!(
        "splitmuxsrc location={}/segment*.mp4 ! decodebin",
        dir.display()
    ));
    assert_identified(&joined, "all segments");
    assert_eq!(joined.len(), frames.len());
}

/// An RTSP server that takes RECORD at /in and gives it on at /out, as relays do: frames, and no RTCP.
struct Relay {
    port: u16,
    context: glib::MainLoop,
    thread: Option<std::thread::JoinHandle<()>>,
    passed: Arc<Mutex<Passed>>,
}

#[derive(Default)]
struct Passed {
    to: Option<gst_app::AppSrc>,
    frames: usize,
    joined: bool,
    caps: Option<gst::Caps>,
}

impl Relay {
    fn start() -> Self {
        let context = glib::MainContext::new();
        let passed = Arc::new(Mutex::new(Passed::default()));
        let server = RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service("0");
        let mounts = server.mount_points().unwrap();

        let takes = RTSPMediaFactory::new();
        takes.set_launch(
            "( rtph264depay name=depay0 ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=au \
             ! appsink name=relayed sync=false )",
        );
        takes.set_transport_mode(RTSPTransportMode::RECORD);
        let to = passed.clone();
        takes.connect_media_configure(move |_, media| {
            let sink = relayed::<gst_app::AppSink>(media);
            let to = to.clone();
            let pass = move |sink: &gst_app::AppSink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let mut to = to.lock().unwrap();
                to.frames += 1;
                to.caps = sample.caps_owned();
                let frame = sample.buffer_owned().unwrap();
                to.joined |= to.to.is_some() && !frame.flags().contains(gst::BufferFlags::DELTA_UNIT);
                if let (Some(appsrc), mut frame, true) = (&to.to, frame, to.joined) {
                    frame.make_mut().set_pts(None);
                    frame.make_mut().set_dts(None);
                    let _ = appsrc.push_buffer(frame);
                }
                Ok(gst::FlowSuccess::Ok)
            };
            sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(pass).build());
        });
        mounts.add_factory("/in", takes);

        let gives = RTSPMediaFactory::new();
        gives.set_launch("( appsrc name=relayed is-live=true format=time do-timestamp=true ! rtph264pay name=pay0 aggregate-mode=zero-latency )");
        gives.set_shared(true);
        let from = passed.clone();
        gives.connect_media_configure(move |_, media| {
            let source = relayed::<gst_app::AppSrc>(media);
            let mut from = from.lock().unwrap();
            source.set_caps(from.caps.as_ref());
            from.to = Some(source);
        });
        mounts.add_factory("/out", gives);

        // A client that waits for the first frame must not keep those away that bring it.
        server.thread_pool().unwrap().set_max_threads(8);
        server.attach(Some(&context)).unwrap();
        let main = glib::MainLoop::new(Some(&context), false);
        let run = main.clone();
        let port = server.bound_port() as u16;
        let thread = std::thread::spawn(move || {
            let _server = server;
            run.run();
        });
        Self {
            port,
            context: main,
            thread: Some(thread),
            passed,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{path}", self.port)
    }

    fn wait_for_frames(&self) {
        let until = Instant::now() + PATIENCE;
        while self.passed.lock().unwrap().frames < 3 {
            assert!(Instant::now() < until, "nothing is published");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.passed.lock().unwrap().to = None;
        self.context.quit();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn relayed<T: IsA<gst::Element>>(media: &gst_rtsp_server::RTSPMedia) -> T {
    let bin = media.element().downcast::<gst::Bin>().unwrap();
    bin.by_name("relayed").and_downcast::<T>().unwrap()
}

#[test]
fn a_relay_that_is_published_to_keeps_identities_and_is_steered_past() {
    dds_tests::init().unwrap();
    let dir = scratch("others_published");
    let relay = Relay::start();
    let channel = format!("feedback-uri=udp://127.0.0.1:{}", port());
    let camera = launch(&format!(
        "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=20/1 \
         ! ddsencode name=encoder background-qp=40 region-qp=30 key-int-max=20 {channel} \
         ! video/x-h264,stream-format=byte-stream ! rtspclientsink location={} protocols=tcp",
        relay.url("in")
    ))
    .unwrap();
    let camera = Server(camera);
    camera.0.set_state(gst::State::Playing).unwrap();
    relay.wait_for_frames();
    let out = relay.url("out");
    let server = Server::watch_with(&format!("location={out} latency=50"), 32, &channel);
    let stats = || camera.0.by_name("encoder").unwrap().property::<gst::Structure>("stats");
    let counted = |name: &str| stats().get::<u64>(name).unwrap();
    let until = Instant::now() + PATIENCE;
    while counted("frames-steered") < 20 {
        assert!(Instant::now() < until, "{:?}", stats());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let file = dir.join("published.mp4");
    let recorder = Recorder::ffmpeg(&format!(
        "-rtsp_transport tcp -i {out} -t 3.5 -c copy {}",
        file.display()
    ));
    let said = recorder.finish();
    assert_eq!(unusual(&said), [""; 0]);
    assert!(
        counted("feedback-packets-uri") > 20 && counted("feedback-packets-rtcp") == 0 && counted("regions-applied") > 0,
        "{:?}",
        stats()
    );
    drop(server);
    assert_sound(&file, FRAMES - 20, Clock::Relay);
}

#[test]
fn ffmpeg_publishes_the_camera_to_a_relay() {
    dds_tests::init().unwrap();
    let dir = scratch("others_republished");
    let relay = Relay::start();
    let camera = Camera::pattern(&[]);
    let _server = Server::watch(&format!("location={} latency=50", camera.url()), 32);
    camera.wait_for("steered frames", steered);
    let _publisher = Recorder::ffmpeg(&format!(
        "-rtsp_transport tcp -i {} -c copy -f rtsp -rtsp_transport tcp {}",
        camera.url(),
        relay.url("in")
    ));
    relay.wait_for_frames();
    let file = dir.join("again.mp4");
    let recorder = Recorder::ffmpeg(&format!(
        "-rtsp_transport udp -i {} -t 3.5 -c copy {}",
        relay.url("out"),
        file.display()
    ));
    let said = recorder.finish();
    assert_eq!(unusual(&said), [""; 0]);
    assert_sound(&file, FRAMES - 20, Clock::Relay);
}

/// Times and kinds of the packets that a client in gst-launch syntax is sent from when it joins on.
fn key_times(url: &str, seconds: u64) -> Vec<f64> {
    let pipeline = launch(&format!(
        "rtspsrc location={url} latency=50 protocols=tcp ! rtph264depay ! h264parse ! video/x-h264,alignment=au \
         ! fakesink name=end sync=false async=false"
    ))
    .unwrap();
    let keys = Arc::new(Mutex::new((None, Vec::new())));
    let seen = keys.clone();
    let pad = pipeline.by_name("end").unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
            let mut seen = seen.lock().unwrap();
            let at = buffer.pts().unwrap().seconds_f64();
            let first = *seen.0.get_or_insert(at);
            if !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) {
                seen.1.push(at - first);
            }
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(seconds));
    pipeline.set_state(gst::State::Null).unwrap();
    let (_, times) = std::mem::take(&mut *keys.lock().unwrap());
    times
}

const AUTO: [&str; 2] = ["--encoder", "background-qp=40 region-qp=30 speed-preset=ultrafast"];

#[test]
fn recorders_cut_at_key_frames_every_two_seconds() {
    dds_tests::init().unwrap();
    let dir = scratch("others_segments");
    let camera = Camera::pattern(&AUTO);
    let at = dir.join("part%d.mp4");
    let recorder = Recorder::ffmpeg(&format!(
        "-rtsp_transport tcp -i {} -t 11.5 -c copy -f segment -segment_time 5 -reset_timestamps 1 {}",
        camera.url(),
        at.display()
    ));
    assert_eq!(unusual(&recorder.finish()), [""; 0]);
    for (part, seconds) in [("part0.mp4", 6.0), ("part1.mp4", 4.0)] {
        let packets = packets(&dir.join(part));
        assert!(packets[0].key, "{part} begins without a key frame");
        let lasts = packets.last().unwrap().pts - packets[0].pts + INTERVAL;
        assert!((lasts - seconds).abs() < 1.1, "{part} lasts {lasts} s");
        let keys: Vec<f64> = packets.iter().filter(|p| p.key).map(|p| p.pts).collect();
        // The one that the server was given when it joined may be among them, and moves those behind it.
        assert!(
            keys.windows(2).all(|pair| pair[1] - pair[0] < 2.0 + 2.5 * INTERVAL),
            "{part}: {keys:?}"
        );
    }
}

#[test]
fn while_only_servers_watch_there_is_one_key_frame_in_ten_seconds() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&AUTO);
    let _server = Server::watch(&format!("location={} latency=50", camera.url()), 32);
    for seconds in [9, 11] {
        let report = camera.wait_for("frames", |r| count(r, "frames") >= seconds * 20);
        // Pictures are taken at 20 a second; the first was coded when the server asked what there is.
        let idr = 1 + count(&report, "frames") / 200;
        assert!(
            count(&report, "frames-idr").abs_diff(idr) <= (seconds - 9) / 2,
            "{report}"
        );
    }
    let report = camera.wait_for("a report", |_| true);
    assert_one_healthy_encoder(&report);
    // A recorder that joins gets one at once, and then every two seconds.
    let times = key_times(&camera.url(), 7);
    assert!(times.len() >= 3 && times[0] < 0.5, "{times:?}");
    assert!(
        times
            .windows(2)
            .all(|pair| (pair[1] - pair[0] - 2.0).abs() < 2.0 * INTERVAL),
        "{times:?}"
    );
}

#[test]
fn the_description_tells_profile_level_size_and_rate() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&[]);
    let mut bare = TcpStream::connect(("127.0.0.1", camera.port)).unwrap();
    bare.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = format!(
        "DESCRIBE {} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n",
        camera.url()
    );
    bare.write_all(ask.as_bytes()).unwrap();
    let mut answer = String::new();
    while !answer.contains("a=framerate:") {
        let mut piece = [0; 4096];
        let length = bare.read(&mut piece).unwrap();
        assert!(length > 0, "{answer}");
        answer += &String::from_utf8_lossy(&piece[..length]);
    }
    let after = |key: &str| {
        let (_, rest) = answer.split_once(key).unwrap_or_else(|| panic!("no {key} in {answer}"));
        rest.split([';', ',', '\r']).next().unwrap().trim().to_string()
    };
    assert_eq!(after("a=framerate:").parse(), Ok(20.0));
    let parameters = glib::base64_decode(&after("sprop-parameter-sets="));
    // A sequence parameter set names profile and level in its first bytes (ISO/IEC 14496-10, 7.3.2.1.1).
    assert_eq!(parameters[0] & 0x1f, 7, "{answer}");
    let named: String = parameters[1..4].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(after("profile-level-id="), named, "{answer}");

    // With no packet to go by.
    let entries = "stream=codec_name,profile,width,height,r_frame_rate,level";
    let probe = [
        "-v",
        "error",
        "-analyzeduration",
        "0",
        "-probesize",
        "32",
        "-show_entries",
        entries,
        "-of",
        "csv=p=0",
    ];
    let probe = ffmpeg("ffprobe", &[&probe[..], &[&camera.url()]].concat());
    assert_eq!(String::from_utf8_lossy(&probe.stderr), "");
    assert_eq!(
        String::from_utf8_lossy(&probe.stdout).trim(),
        "h264,High,320,240,20,20/1"
    );
}
