// SPDX-License-Identifier: MPL-2.0

//! The demo: the closed loop between two processes, scored, compared with plain x264enc, and drawn.

use std::collections::{BTreeMap, btree_map::Entry};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use dds_protocol::nal::{Codec, Format};
use dds_tests::draw::{Picture, write_video};
use dds_tests::progress::Bar;
use dds_tests::qp::QpPicture;
use dds_tests::score::{self, Line, ScoredBox};
use dds_tests::sheet::{self, View};
use dds_tests::{Error, bus_error, init, launch};
use gst::prelude::*;
use gst_video::prelude::*;
use serde_json::Value;

const HELP: &str = "\
usage: dds-demo [option ...]

Codes video with ddsencode in one process, detects objects with ddsinfer in another (RTP over UDP on this machine,
feedback in RTCP, at the pace of a camera), and compares bits and accuracy with plain x264enc at the coarsest constant
quantizer that finds as much. Accuracy is F1 against the same model on the source: same class, overlap (IoU) 0.5 or more.
Prints a table and writes demo.png, demo.mp4, received.h264 and results.jsonl.

what is watched:
  --source X         file, device (/dev/video0) or address (rtsp://..., http://...); a device or address is recorded
                     first, because every step needs the same frames (the clip of setup.sh, vtest.avi)
  --first N          first frame (530 for the default clip, whose first half trained the default model; else 0)
  --frames N         number of frames (265 for the default clip, else 300)
  --fps N            frames per second to play at (those of the source)
  --model FILE       ONNX model (gst-dds-infer/models/street_nano.onnx); FILE.modelinfo beside it describes it

how the camera codes:
  --background-qp N  quantizer outside regions, 1-51, higher is coarser (40: coarser than the element's own 36, which this
                     quiet clip does not need)
  --region-qp N      quantizer inside regions, 1-51 (30)
  --preset NAME      speed-preset of ddsencode and x264enc (veryfast)
  --key-int-max N    frames between key frames, both (250)
  --camera OPTIONS   further properties of ddsencode, as in gst-launch: 'max-bitrate=500 feedback-timeout=1000'
  --server OPTIONS   further properties of ddsinfer: 'feedback-policy=paper threads=4'

what comes out:
  --out FOLDER       where files are written (out)
  --no-compare       leave x264enc out
  --no-video         leave demo.mp4 out
  --help             this text";

/// Least score of a reference box, and the middle of the undecided band.
const THRESHOLD: &str = "0.3";
/// Least score of a box in the results: scoring also tries lower thresholds than the one above.
const FLOOR: &str = "0.05";
const OVERLAP: f32 = 0.5;
const SHOTS: usize = 6;

#[derive(Clone)]
struct Options {
    source: Option<String>,
    first: Option<usize>,
    frames: Option<usize>,
    fps: Option<u32>,
    model: PathBuf,
    background_qp: u8,
    region_qp: u8,
    preset: String,
    key_int_max: u32,
    camera: String,
    server: String,
    out: PathBuf,
    compare: bool,
    video: bool,
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, Error> {
    let mut o = Options {
        source: None,
        first: None,
        frames: None,
        fps: None,
        model: Path::new(env!("CARGO_MANIFEST_DIR")).join("../gst-dds-infer/models/street_nano.onnx"),
        background_qp: 40,
        region_qp: 30,
        preset: "veryfast".into(),
        key_int_max: 250,
        camera: String::new(),
        server: String::new(),
        out: "out".into(),
        compare: true,
        video: true,
    };
    while let Some(arg) = args.next() {
        let (name, mut given) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (arg.clone(), None),
        };
        let mut value = || {
            given
                .take()
                .or_else(|| args.next())
                .ok_or_else(|| format!("{name} needs a value; see --help"))
        };
        match name.as_str() {
            "--help" | "-h" => return Ok(None),
            "--source" => o.source = Some(value()?),
            "--first" => o.first = Some(number(&name, &value()?)?),
            "--frames" => o.frames = Some(number::<usize>(&name, &value()?)?.max(1)),
            "--fps" => o.fps = Some(number::<u32>(&name, &value()?)?.max(1)),
            "--model" => o.model = value()?.into(),
            "--background-qp" => o.background_qp = quantizer(&name, &value()?)?,
            "--region-qp" => o.region_qp = quantizer(&name, &value()?)?,
            "--preset" => o.preset = value()?,
            "--key-int-max" => o.key_int_max = number(&name, &value()?)?,
            "--camera" => o.camera = value()?,
            "--server" => o.server = value()?,
            "--out" => o.out = value()?.into(),
            "--no-compare" => o.compare = false,
            "--no-video" => o.video = false,
            _ => return Err(format!("unknown option {name}; see --help").into()),
        }
    }
    if !o.model.is_file() {
        return Err(format!("there is no model {}; see --model", o.model.display()).into());
    }
    Ok(Some(o))
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|_| format!("{name} needs a whole number, not {text}").into())
}

fn quantizer(name: &str, text: &str) -> Result<u8, Error> {
    match number(name, text)? {
        qp @ 1..=51 => Ok(qp),
        _ => Err(format!("{name} needs a quantizer from 1 to 51, not {text}").into()),
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    let role = args.next_if(|a| a == "camera" || a == "server");
    let done = match role.as_deref() {
        None => demo(args),
        Some(role) => part(role, &args.collect::<Vec<_>>()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: impl Iterator<Item = String>) -> Result<(), Error> {
    let Some(o) = options(args)? else {
        println!("{HELP}");
        return Ok(());
    };
    init()?;
    std::fs::create_dir_all(&o.out).map_err(|e| format!("{} cannot be made: {e}", o.out.display()))?;
    let source = Source::record(&o)?;
    let reference = in_file(&source, &o, None, "model on the source")?;
    let reference: Vec<_> = reference.lines.into_iter().map(|l| l.objects).collect();
    if reference.iter().flatten().all(|f| f.score < score::REFERENCE_SCORE) {
        return Err(
            "the model finds nothing in the source, so there is nothing to compare; try another --model".into(),
        );
    }
    let received = o.out.join("received.h264");
    let run = live(&source, &o, &received)?;
    let f1 = run.f1(&reference, &run);
    let plain = if o.compare {
        coarsest(&source, &o, &reference, &run, f1)?
    } else {
        Vec::new()
    };
    let equal = plain.iter().filter(|p| reaches(p.f1, f1)).max_by_key(|p| p.qp);

    let table = table(&source, &o, &run, f1, &plain, equal);
    println!("{table}");
    draw(&source, &o, &run, &received, &headlines(&source, &run, f1, equal))?;
    let mut files = vec!["demo.png"];
    if o.video {
        files.push("demo.mp4");
    }
    files.extend(["received.h264", "results.jsonl"]);
    for file in files {
        println!("  {}", o.out.join(file).display());
    }
    Ok(())
}

// --- The source -------------------------------------------------------------------------------------------------------

/// The frames for every step, coded without loss.
struct Source {
    path: PathBuf,
    name: String,
    first: usize,
    count: usize,
    size: (u32, u32),
    fps: gst::Fraction,
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Source {
    fn record(o: &Options) -> Result<Self, Error> {
        let default = default_clip();
        let is_default = o.source.is_none();
        let name = o
            .source
            .clone()
            .unwrap_or_else(|| default.to_string_lossy().into_owned());
        let live = name.starts_with("/dev/") || name.contains("://");
        if !live && !Path::new(&name).is_file() {
            return Err(format!(
                "there is no file {name}; run pipelines/setup.sh for the default clip, or name another with --source"
            )
            .into());
        }
        let first = o.first.unwrap_or(if is_default { 530 } else { 0 });
        let count = o.frames.unwrap_or(if is_default { 265 } else { 300 });
        let head = match &name {
            n if n.starts_with("/dev/") => "v4l2src name=file ! decodebin",
            n if n.contains("://") => "uridecodebin name=file",
            _ => "filesrc name=file ! decodebin",
        };
        let pipeline = launch(&format!(
            "{head} ! videoconvert ! video/x-raw,format=I420 ! appsink name=out sync=false max-buffers=4"
        ))?;
        let property = if name.starts_with("/dev/") {
            "device"
        } else if name.contains("://") {
            "uri"
        } else {
            "location"
        };
        element(&pipeline, "file")?.set_property(property, &name);
        let sink: gst_app::AppSink = element(&pipeline, "out")?.downcast().map_err(|_| "no appsink")?;
        let path = o.out.join("source.mkv");
        let writer = launch("appsrc name=in format=time block=true ! avenc_ffv1 ! matroskamux ! filesink name=out")?;
        element(&writer, "out")?.set_property("location", path.to_string_lossy().as_ref());
        let input: gst_app::AppSrc = element(&writer, "in")?.downcast().map_err(|_| "no appsrc")?;

        let short = Path::new(&name)
            .file_name()
            .map_or(name.clone(), |n| n.to_string_lossy().into_owned());
        // The file is removed when this value is dropped.
        let mut source = Self {
            path,
            name: short,
            first,
            count: 0,
            size: (0, 0),
            fps: gst::Fraction::new(30, 1),
        };
        let mut bar = Bar::new(format!("reading {}", source.name), first + count);
        pipeline.set_state(gst::State::Playing)?;
        let mut seen = 0;
        while source.count < count {
            let Ok(sample) = sink.pull_sample() else { break };
            seen += 1;
            bar.step();
            if seen <= first {
                continue;
            }
            let (Some(caps), Some(mut buffer)) = (sample.caps_owned(), sample.buffer_owned()) else {
                continue;
            };
            if source.count == 0 {
                let info = gst_video::VideoInfo::from_caps(&caps)?;
                source.size = (info.width(), info.height());
                source.fps = match (o.fps, info.fps()) {
                    (Some(fps), _) => gst::Fraction::new(fps.try_into()?, 1),
                    (None, fps) if fps.numer() > 0 => fps,
                    _ => source.fps,
                };
                let mut caps = caps;
                caps.make_mut().set("framerate", source.fps);
                input.set_caps(Some(&caps));
                writer.set_state(gst::State::Playing)?;
            }
            let frame = buffer.make_mut();
            frame.set_pts(source.time(source.count));
            frame.set_dts(gst::ClockTime::NONE);
            frame.set_duration(source.time(1));
            input
                .push_buffer(buffer)
                .map_err(|e| failure(&writer, &format!("the recording stops: {e}")))?;
            source.count += 1;
        }
        let error = bus_error(&pipeline);
        pipeline.set_state(gst::State::Null)?;
        if source.count == 0 {
            return Err(error.unwrap_or_else(|| format!("{name} has only {seen} frames")).into());
        }
        input.end_of_stream()?;
        wait_for_end(&writer)?;
        writer.set_state(gst::State::Null)?;
        Ok(source)
    }

    fn time(&self, frame: usize) -> Option<gst::ClockTime> {
        gst::ClockTime::SECOND.mul_div_floor(frame as u64 * self.fps.denom() as u64, self.fps.numer() as u64)
    }

    fn seconds(&self) -> f64 {
        self.count as f64 * f64::from(self.fps.denom()) / f64::from(self.fps.numer())
    }

    fn kbps(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / self.seconds() / 1000.0
    }
}

fn default_clip() -> PathBuf {
    if let Some(clip) = std::env::var_os("DDS_CLIP") {
        return clip.into();
    }
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    data.unwrap_or_default().join("gst-dds/clips/vtest.avi")
}

// --- GStreamer helpers ------------------------------------------------------------------------------------------------

fn element(pipeline: &gst::Pipeline, name: &str) -> Result<gst::Element, Error> {
    pipeline
        .by_name(name)
        .ok_or_else(|| format!("no element {name}").into())
}

/// The error on the pipeline's bus, else `text`.
fn failure(pipeline: &gst::Pipeline, text: &str) -> Error {
    bus_error(pipeline).unwrap_or_else(|| text.to_owned()).into()
}

fn wait_for_end(pipeline: &gst::Pipeline) -> Result<(), Error> {
    let bus = pipeline.bus().ok_or("no bus")?;
    let message = bus.timed_pop_filtered(
        gst::ClockTime::NONE,
        &[
            gst::MessageType::Eos,
            gst::MessageType::Error,
            gst::MessageType::Application,
        ],
    );
    match message.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Error(e)) => Err(format!("{} ({})", e.error(), e.debug().unwrap_or_default()).into()),
        _ => Ok(()),
    }
}

/// Frames of the recorded source.
const READ: &str = "filesrc name=file ! matroskademux ! avdec_ffv1 max-threads=1";

fn set_source(pipeline: &gst::Pipeline, path: &Path) -> Result<(), Error> {
    element(pipeline, "file")?.set_property("location", path.to_string_lossy().as_ref());
    Ok(())
}

fn infer(o: &Options) -> String {
    format!(
        "ddsinfer name=infer box-confidence-threshold={FLOOR} feedback-threshold={THRESHOLD} {}",
        o.server
    )
}

fn set_model(pipeline: &gst::Pipeline, model: &Path) -> Result<(), Error> {
    element(pipeline, "infer")?.set_property("model-file", model.to_string_lossy().as_ref());
    Ok(())
}

// --- One pass without a network ---------------------------------------------------------------------------------------

/// Outcome of one run.
#[derive(Default)]
struct Run {
    lines: Vec<Line>,
    bytes: u64,
    camera: BTreeMap<String, u64>,
    server: BTreeMap<String, u64>,
}

impl Run {
    /// F1 against the reference on the frames with results in `scored`, so that frames skipped by a busy machine count
    /// for none.
    fn f1(&self, reference: &[Vec<ScoredBox>], scored: &Self) -> f64 {
        let own: BTreeMap<u64, &Line> = self.lines.iter().filter_map(|l| Some((l.frame?, l))).collect();
        let (found, reference): (Vec<_>, Vec<_>) = scored
            .lines
            .iter()
            .filter_map(|l| l.frame)
            .filter_map(|frame| {
                let objects = own.get(&frame).map_or(Vec::new(), |l| l.objects.clone());
                Some((objects, reference.get(frame as usize)?.clone()))
            })
            .unzip();
        score::f1(&found, &reference, OVERLAP).0
    }

    fn regions_per_frame(&self) -> f64 {
        let seen = self.lines.iter().filter(|l| !l.predicted);
        let (count, regions) = seen.fold((0, 0), |(count, sum), l| (count + 1, sum + l.regions.len()));
        regions as f64 / f64::from(count.max(1))
    }
}

/// Runs the model on the source, or on the output of `encoder`, as fast as possible.
fn in_file(source: &Source, o: &Options, encoder: Option<&str>, what: &str) -> Result<Run, Error> {
    let coded = encoder.map_or(String::new(), |e| {
        format!("! {e} ! video/x-h264,stream-format=byte-stream ! identity name=coded silent=true ! avdec_h264 max-threads=1")
    });
    let pipeline = launch(&format!(
        "{READ} {coded} ! {} feedback=false ! fakesink sync=false async=false \
         infer.results ! queue ! appsink name=results sync=false async=false",
        infer(o)
    ))?;
    set_source(&pipeline, &source.path)?;
    set_model(&pipeline, &o.model)?;
    let bytes = Arc::new(AtomicU64::new(0));
    if encoder.is_some() {
        let bytes = bytes.clone();
        let pad = element(&pipeline, "coded")?.static_pad("src").ok_or("no pad")?;
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer() {
                bytes.fetch_add(buffer.size() as u64, Ordering::Relaxed);
            }
            gst::PadProbeReturn::Ok
        });
    }
    let sink: gst_app::AppSink = element(&pipeline, "results")?.downcast().map_err(|_| "no appsink")?;
    pipeline
        .set_state(gst::State::Playing)
        .map_err(|_| failure(&pipeline, "the pipeline does not start"))?;
    let mut bar = Bar::new(what, source.count);
    let mut run = Run::default();
    while let Ok(sample) = sink.pull_sample() {
        let buffer = sample.buffer().ok_or("a result without data")?;
        let mut line = Line::parse(&buffer.map_readable()?)?;
        line.frame = Some(run.lines.len() as u64);
        run.lines.push(line);
        bar.step();
    }
    let error = bus_error(&pipeline);
    pipeline.set_state(gst::State::Null)?;
    match error {
        Some(error) => return Err(error.into()),
        None if run.lines.len() != source.count => {
            return Err(format!("{what}: {} results of {} frames", run.lines.len(), source.count).into());
        }
        None => (),
    }
    run.bytes = bytes.load(Ordering::Relaxed);
    Ok(run)
}

/// One constant quantizer of plain x264enc.
struct Plain {
    qp: u8,
    kbps: f64,
    f1: f64,
}

/// Equal to three decimals is equal: the table shows no more.
fn reaches(f1: f64, wanted: f64) -> bool {
    f1 + 0.0005 > wanted
}

/// Runs of x264enc around the coarsest constant quantizer that still reaches an F1 on the frames of `scored`. F1 falls
/// with the quantizer except for small rises, so two coarser ones are tried after the one found.
fn coarsest(
    source: &Source,
    o: &Options,
    reference: &[Vec<ScoredBox>],
    scored: &Run,
    wanted: f64,
) -> Result<Vec<Plain>, Error> {
    let mut runs: BTreeMap<u8, Plain> = BTreeMap::new();
    let mut passes = |qp: u8| -> Result<bool, Error> {
        if let Entry::Vacant(slot) = runs.entry(qp) {
            let encoder = format!(
                "x264enc tune=zerolatency pass=quant quantizer={qp} speed-preset={} key-int-max={} threads=1",
                o.preset, o.key_int_max
            );
            let run = in_file(source, o, Some(&encoder), &format!("x264enc, quantizer {qp}"))?;
            let f1 = run.f1(reference, scored);
            slot.insert(Plain {
                qp,
                kbps: source.kbps(run.bytes),
                f1,
            });
        }
        Ok(runs.get(&qp).is_some_and(|p| reaches(p.f1, wanted)))
    };
    // x264enc takes 0 to 50; the first one tried is near the usual result.
    let (mut fine, mut coarse) = (9, 51);
    let mut next = o.background_qp.midpoint(o.region_qp);
    while coarse - fine > 1 {
        let qp = next.clamp(fine + 1, coarse - 1);
        if passes(qp)? {
            fine = qp
        } else {
            coarse = qp
        }
        // Narrow in small steps around the first guess, then halve.
        next = if coarse == 51 {
            fine + 4
        } else if fine == 9 {
            coarse - 4
        } else {
            fine.midpoint(coarse)
        };
    }
    let mut ahead = 1;
    while ahead <= 2 && fine + ahead <= 50 {
        if passes(fine + ahead)? {
            fine += ahead;
            ahead = 0;
        }
        ahead += 1;
    }
    Ok(runs.into_values().collect())
}

// --- The loop: two processes ------------------------------------------------------------------------------------------

/// A child process that ends when this value is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(role: &str, arguments: &[String]) -> Result<(Process, ChildStdin, mpsc::Receiver<String>), Error> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(role)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let process = Process(child);
    let stdin = stdin.ok_or("no standard input")?;
    let stdout = stdout.ok_or("no standard output")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok((process, stdin, lines))
}

fn stats_of(line: &str) -> Option<BTreeMap<String, u64>> {
    let value: Value = serde_json::from_str(line).ok()?;
    let stats = value.get("stats")?.as_object()?;
    Some(
        stats
            .iter()
            .filter_map(|(name, v)| Some((name.clone(), v.as_u64()?)))
            .collect(),
    )
}

fn live(source: &Source, o: &Options, received: &Path) -> Result<Run, Error> {
    // All are kept open until the last is known, so that all differ.
    let sockets = (0..3)
        .map(|_| std::net::UdpSocket::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>()?;
    let mut ports = Vec::new();
    for socket in &sockets {
        ports.push(socket.local_addr()?.port().to_string());
    }
    drop(sockets);
    let mut camera_arguments = ports.clone();
    camera_arguments.push(source.path.to_string_lossy().into_owned());
    camera_arguments.push(format!(
        "background-qp={} region-qp={} speed-preset={} key-int-max={} threads=1 {}",
        o.background_qp, o.region_qp, o.preset, o.key_int_max, o.camera
    ));
    let mut server_arguments = ports;
    server_arguments.push(received.to_string_lossy().into_owned());
    server_arguments.push(o.model.to_string_lossy().into_owned());
    // Every captured picture is judged, also where --server "feedback-rate=true" has some left out.
    let all = "feedback-rate=false results-rate=captured";
    server_arguments.push(infer(o).replacen("ddsinfer", &format!("ddsinfer {all}"), 1));

    let (_server, stop, results) = start("server", &server_arguments)?;
    match results.recv_timeout(Duration::from_secs(60)) {
        Ok(line) if line == READY => (),
        _ => return Err("the server process did not start".into()),
    }
    let (mut camera, _, camera_says) = start("camera", &camera_arguments)?;
    let mut run = Run::default();
    let mut log = std::fs::File::create(o.out.join("results.jsonl"))?;
    let mut bar = Bar::new("camera and server, live", source.count);
    let mut ended = None;
    while run.lines.len() < source.count {
        match results.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => {
                writeln!(log, "{line}")?;
                run.lines.push(Line::parse(line.as_bytes())?);
                bar.set(run.lines.len());
                ended = None;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err("the server process ended early".into()),
            // After the camera's end, three seconds of silence mean the end of the results.
            Err(mpsc::RecvTimeoutError::Timeout) => match (camera.0.try_wait()?, ended) {
                (Some(status), _) if !status.success() => return Err("the camera process failed".into()),
                (Some(_), None) => ended = Some(std::time::Instant::now()),
                (Some(_), Some(since)) if since.elapsed() > Duration::from_secs(3) => break,
                _ => (),
            },
        }
    }
    drop(bar);
    drop(stop);
    let patience = Duration::from_secs(20);
    while let Ok(line) = camera_says.recv_timeout(patience) {
        run.camera.extend(stats_of(&line).unwrap_or_default());
    }
    while let Ok(line) = results.recv_timeout(patience) {
        if let Some(stats) = stats_of(&line) {
            run.server = stats;
        } else {
            writeln!(log, "{line}")?;
            run.lines.push(Line::parse(line.as_bytes())?);
        }
    }
    run.bytes = *run.camera.get("bytes").ok_or("the camera process gave no statistics")?;
    if run.lines.is_empty() {
        return Err("the server saw no frame: does a firewall block UDP on 127.0.0.1?".into());
    }
    Ok(run)
}

const READY: &str = "ready";

/// The camera or the server process: the lines of pipelines/camera.sh and server.sh, which also print their
/// statistics.
fn part(role: &str, arguments: &[String]) -> Result<(), Error> {
    init()?;
    let (pipeline, name) = match (role, arguments) {
        ("camera", [rtp, rtcp, back, file, encoder]) => {
            let pipeline = launch(&format!(
                "rtpbin name=rtp {READ} ! clocksync ! queue max-size-buffers=2 ! ddsencode name=encoder {encoder} \
                 ! video/x-h264,stream-format=byte-stream ! rtph264pay config-interval=-1 aggregate-mode=zero-latency ! rtp.send_rtp_sink_0 \
                 rtp.send_rtp_src_0 ! udpsink host=127.0.0.1 port={rtp} sync=false async=false \
                 rtp.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={rtcp} sync=false async=false \
                 udpsrc address=127.0.0.1 port={back} ! rtp.recv_rtcp_sink_0"
            ))?;
            set_source(&pipeline, Path::new(file))?;
            (pipeline, "encoder")
        }
        ("server", [rtp, rtcp, back, record, model, infer]) => {
            let pipeline = launch(&format!(
                "rtpbin name=rtp latency=20 \
                 udpsrc address=127.0.0.1 port={rtp} buffer-size=2000000 \
                 caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true \
                 ! rtp.recv_rtp_sink_0 \
                 udpsrc address=127.0.0.1 port={rtcp} ! rtp.recv_rtcp_sink_0 \
                 rtp.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={back} sync=false async=false \
                 rtp. ! rtph264depay ! video/x-h264,stream-format=avc,alignment=au ! tee name=coded \
                 ! avdec_h264 max-threads=1 ! {infer} ! fakesink async=false \
                 infer.results ! queue ! fdsink fd=1 sync=false async=false \
                 coded. ! queue ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=au \
                 ! filesink name=record async=false"
            ))?;
            element(&pipeline, "record")?.set_property("location", record);
            set_model(&pipeline, Path::new(model))?;
            (pipeline, "infer")
        }
        _ => return Err(format!("the {role} process is started by dds-demo itself").into()),
    };
    pipeline
        .set_state(gst::State::Playing)
        .map_err(|_| failure(&pipeline, "the pipeline does not start"))?;
    if role == "server" {
        println!("{READY}");
        // End of standard input means end of work.
        let bus = pipeline.bus().ok_or("no bus")?;
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = bus.post(gst::message::Application::new(gst::Structure::new_empty("stop")));
        });
    }
    let ended = wait_for_end(&pipeline);
    let stats = element(&pipeline, name)?.property::<gst::Structure>("stats");
    pipeline.set_state(gst::State::Null)?;
    ended?;
    let stats: serde_json::Map<String, Value> = stats
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.get::<u64>().ok()?.into())))
        .collect();
    println!("{}", serde_json::json!({ "stats": stats }));
    Ok(())
}

// --- Output
// ------------------------------------------------------------------------------------------------------------

fn ms(run: &Run, field: &str) -> f64 {
    run.camera.get(field).copied().unwrap_or_default() as f64 / 1e6
}

fn table(source: &Source, o: &Options, run: &Run, f1: f64, plain: &[Plain], equal: Option<&Plain>) -> String {
    let kbps = source.kbps(run.bytes);
    let fps = f64::from(source.fps.numer()) / f64::from(source.fps.denom());
    let mut out = format!(
        "\n{}, frames {}-{}, {}x{}, {fps:.4} frames/s; model {}\n\n",
        source.name,
        source.first,
        source.first + source.count - 1,
        source.size.0,
        source.size.1,
        o.model.file_name().unwrap_or_default().to_string_lossy()
    );
    out += &format!(
        "{:32} {:>8} {:>7} {:>15} {:>26}\n",
        "", "kbit/s", "F1", "regions/frame", "feedback delay p50, p95"
    );
    out += &format!(
        "{:32} {kbps:>8.1} {f1:>7.3} {:>15.1} {:>26}\n",
        format!("ddsencode, QP {}, regions {}", o.background_qp, o.region_qp),
        run.regions_per_frame(),
        format!(
            "{:.0} ms, {:.0} ms",
            ms(run, "feedback-delay-p50-ns"),
            ms(run, "feedback-delay-p95-ns")
        )
    );
    if let Some(p) = equal {
        out += &format!(
            "{:32} {:>8.1} {:>7.3}\n",
            format!("x264enc, constant QP {}", p.qp),
            p.kbps,
            p.f1
        );
        let saving = 100.0 * (1.0 - kbps / p.kbps);
        let (word, percent) = if saving >= 0.0 {
            ("saved", saving)
        } else {
            ("lost", -saving)
        };
        out += &format!("{word:32} {:>7.0}%\n", percent);
    } else if !plain.is_empty() {
        out += "no constant quantizer of x264enc from 10 up reaches this F1\n";
    }
    if !plain.is_empty() {
        let tried: Vec<_> = plain
            .iter()
            .map(|p| format!("{}: {:.1}, {:.3}", p.qp, p.kbps, p.f1))
            .collect();
        out += &format!("\nx264enc tried (QP: kbit/s, F1): {}\n", tried.join(" | "));
    }
    let missing = source.count.saturating_sub(run.lines.len());
    let damaged = run.lines.iter().filter(|l| l.damaged).count();
    if missing + damaged > 0 {
        out += &format!(
            "{missing} frames for which the server had no time (left out of every F1), {damaged} damaged on the way\n"
        );
    }
    out += &format!(
        "{} of {} frames sent, the results of the others predicted; feedback applied on {}, lost {} times\n",
        run.camera.get("frames-coded").copied().unwrap_or_default(),
        source.count,
        run.camera.get("frames-steered").copied().unwrap_or_default(),
        run.camera.get("feedback-lost").copied().unwrap_or_default()
    );
    out
}

fn headlines(source: &Source, run: &Run, f1: f64, equal: Option<&Plain>) -> Vec<String> {
    let kbps = source.kbps(run.bytes);
    let mut lines = vec![format!(
        "ddsencode steered by ddsinfer: {kbps:.0} kbit/s, F1 {f1:.3}, {:.1} regions per frame, feedback after {:.0} ms",
        run.regions_per_frame(),
        ms(run, "feedback-delay-p50-ns")
    )];
    if let Some(p) = equal {
        lines.push(format!(
            "plain x264enc at constant QP {}: {:.0} kbit/s, F1 {:.3}; the loop needs {:.0} % of its bits",
            p.qp,
            p.kbps,
            p.f1,
            100.0 * kbps / p.kbps
        ));
    }
    lines
}

/// A received frame and its data.
struct Shot {
    frame: u64,
    picture: Picture,
    objects: Vec<ScoredBox>,
    regions: Vec<(u32, u32, u32, u32)>,
    qps: QpPicture,
    bytes: usize,
}

impl Shot {
    fn view(&self, range: (u8, u8)) -> View<'_> {
        View {
            frame: self.frame,
            picture: &self.picture,
            objects: &self.objects,
            threshold: score::REFERENCE_SCORE,
            regions: &self.regions,
            qps: &self.qps,
            range,
        }
    }

    fn caption(&self) -> String {
        format!(
            "frame {}: {} bytes{}, {} regions asked for after the frame sent before",
            self.frame,
            self.bytes,
            if self.qps.intra { " (key frame)" } else { "" },
            self.regions.len()
        )
    }
}

/// Writes the sheet and the video from the stream as the server received it.
fn draw(source: &Source, o: &Options, run: &Run, received: &Path, lines: &[String]) -> Result<(), Error> {
    let quantizers = dds_tests::qp::read(received)?;
    let pipeline = launch(
        "filesrc name=file ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=au \
         ! avdec_h264 name=decoder max-threads=1 ! videoconvert ! video/x-raw,format=RGB \
         ! appsink name=out sync=false max-buffers=4",
    )?;
    set_source(&pipeline, received)?;
    // Frame number and bytes of each access unit; pictures come out in the same order.
    type Units = Vec<(Option<u64>, usize)>;
    let units: Arc<Mutex<Units>> = Arc::default();
    let pad = element(&pipeline, "decoder")?.static_pad("sink").ok_or("no pad")?;
    {
        let units = units.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(map) = info.buffer().and_then(|b| b.map_readable().ok()) {
                let identity = Codec::H264
                    .summarize(&map, Format::ByteStream)
                    .identity
                    .and_then(Result::ok);
                units.lock().unwrap().push((identity.map(|i| i.frame), map.size()));
            }
            gst::PadProbeReturn::Ok
        });
    }
    let sink: gst_app::AppSink = element(&pipeline, "out")?.downcast().map_err(|_| "no appsink")?;
    pipeline.set_state(gst::State::Playing)?;
    let by_frame: BTreeMap<u64, &Line> = run.lines.iter().filter_map(|l| Some((l.frame?, l))).collect();
    let chosen = choose(source.count, &by_frame);
    let range = (o.region_qp.min(o.background_qp), o.region_qp.max(o.background_qp));
    let mut shots = Vec::new();
    let mut bar = Bar::new(
        if o.video {
            "drawing sheet and video"
        } else {
            "drawing sheet"
        },
        quantizers.len(),
    );
    let mut pictures = quantizers.into_iter().enumerate();
    let mut last: Option<u64> = None;
    let frames = std::iter::from_fn(|| {
        let sample = sink.pull_sample().ok()?;
        let (n, qps) = pictures.next()?;
        let (frame, bytes) = units.lock().unwrap().get(n).copied()?;
        // h264parse drops everything before the first parameter sets, so the first access unit lost its identity.
        let frame = frame.or((n == 0).then_some(0))?;
        bar.step();
        let asked = last_seen(&by_frame, frame);
        let shot = Shot {
            frame: frame + source.first as u64,
            picture: picture(&sample)?,
            objects: by_frame.get(&frame).map_or(Vec::new(), |l| l.objects.clone()),
            regions: asked.map_or(Vec::new(), |l| l.regions.clone()),
            qps,
            bytes,
        };
        let drawn = if o.video {
            shot.view(range).video_frame(&shot.caption())
        } else {
            Picture::new(0, 0, [0; 3])
        };
        if chosen.contains(&frame) {
            shots.push(shot);
        }
        // So that the video keeps its pace where frames were not sent.
        let passed = frame.saturating_sub(last.replace(frame).unwrap_or(frame)).clamp(1, 100);
        Some(std::iter::repeat_n(drawn, passed as usize))
    })
    .flatten();
    if o.video {
        let encoder = "x264enc speed-preset=veryfast pass=qual quantizer=20 ! video/x-h264 ! mp4mux faststart=true";
        write_video(frames, source.fps, encoder, &o.out.join("demo.mp4"))?;
    } else {
        frames.for_each(drop);
    }
    drop(bar);
    let error = bus_error(&pipeline);
    pipeline.set_state(gst::State::Null)?;
    let views: Vec<_> = shots.iter().map(|shot| shot.view(range)).collect();
    let title = "gst-dds: the neural network at the server steers the quality at the camera";
    sheet::sheet(title, lines, &views)
        .ok_or_else(|| error.unwrap_or_else(|| format!("no pictures in {}", received.display())))?
        .write_png(&o.out.join("demo.png"))
}

/// The last frame before this one that the server has seen.
fn last_seen<'a>(by_frame: &BTreeMap<u64, &'a Line>, frame: u64) -> Option<&'a Line> {
    let before = by_frame.range(..frame).rev().map(|(_, line)| *line);
    before.into_iter().find(|line| !line.predicted)
}

/// Of each sixth of the clip, the first frame with the most requested regions.
fn choose(count: usize, by_frame: &BTreeMap<u64, &Line>) -> Vec<u64> {
    let asked = |frame: u64| {
        let before = last_seen(by_frame, frame);
        before.map_or(0, |line| line.regions.len())
    };
    (0..SHOTS)
        .filter_map(|n| {
            (n * count / SHOTS..(n + 1) * count / SHOTS)
                .map(|frame| frame as u64)
                .filter(|frame| by_frame.get(frame).is_some_and(|line| !line.predicted))
                .max_by_key(|&frame| (asked(frame), std::cmp::Reverse(frame)))
        })
        .collect()
}

fn picture(sample: &gst::Sample) -> Option<Picture> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(sample.buffer()?, &info).ok()?;
    let (width, height) = (info.width() as usize, info.height() as usize);
    let stride = usize::try_from(*frame.plane_stride().first()?).ok()?;
    let data = frame.plane_data(0).ok()?;
    let mut rgb = Vec::with_capacity(3 * width * height);
    for row in data.chunks(stride).take(height) {
        rgb.extend_from_slice(row.get(..3 * width)?);
    }
    Some(Picture { width, height, rgb })
}
