// SPDX-License-Identifier: MPL-2.0

//! Speed, by ratios within one run. See `tests/bench.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};
use std::time::{Duration, Instant};

use dds_protocol::feedback::{self, FeedbackState, Motion, Quality, Rect, Region};
use dds_protocol::serial::Serial16;
use dds_tests::{Error, bus_error, clip::Clip, init, launch, progress::Bar};
use gst::prelude::*;
use gstddsinfer::model::{Detector, InferSettings, ModelSettings, Picture};

const HELP: &str = "\
usage: dds-bench cpu CLIP WIDTHxHEIGHT   CPU time per frame of ddsencode with 50 moving regions against x264enc
       dds-bench infer CLIP MODEL        wall time per frame of ddsinfer against the bare ONNX Runtime call
       dds-bench rtcp                    from the server's decision to the first frame coded with it, over RTCP at 30 fps

Medians of 7 alternating runs.";

const RUNS: usize = 7;
const STREAM: u32 = 1;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let ran = match words.as_slice() {
        ["cpu", clip, size] => cpu(Path::new(clip), size),
        ["cpu-run", clip, size, encoder, preset, threads] => cpu_run(Path::new(clip), size, encoder, preset, threads),
        ["infer", clip, model] => infer(Path::new(clip), Path::new(model)),
        ["rtcp"] => rtcp(),
        _ => {
            println!("{HELP}");
            Ok(())
        }
    };
    if let Err(error) = ran {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn size(text: &str) -> Result<(u32, u32), Error> {
    let (w, h) = text.split_once('x').ok_or("a size is WIDTHxHEIGHT")?;
    Ok((w.parse()?, h.parse()?))
}

/// Each preset and thread count: both encoders alternately, each run a process of its own.
fn cpu(clip: &Path, size: &str) -> Result<(), Error> {
    println!(
        "{:24} {:>12} {:>12} {:>7} {:>7}",
        "CPU ms per frame", "ddsencode", "x264enc", "ratio", "bytes"
    );
    for preset in ["superfast", "veryfast"] {
        for threads in ["1", "2"] {
            let mut bar = Bar::new(format!("{size} {preset}, {threads} thread(s)"), 2 * RUNS);
            let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            let mut bytes = [0.0; 2];
            for run in 0..RUNS {
                // The order alternates too.
                let mut ms = [0.0; 2];
                for which in if run % 2 == 0 { [0, 1] } else { [1, 0] } {
                    let output = Command::new("/proc/self/exe")
                        .args([
                            "cpu-run",
                            &clip.to_string_lossy(),
                            size,
                            ["ddsencode", "x264enc"][which],
                            preset,
                            threads,
                        ])
                        .output()?;
                    if !output.status.success() {
                        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
                    }
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
                    ms[which] = numbers.next().ok_or("no time")??;
                    bytes[which] = numbers.next().ok_or("no bytes")??;
                    bar.step();
                }
                ours.push(ms[0]);
                theirs.push(ms[1]);
                ratios.push(ms[0] / ms[1]);
            }
            drop(bar);
            println!(
                "{:24} {:>12.2} {:>12.2} {:>7.3} {:>7.3}",
                format!("{size} {preset} thr {threads}"),
                median(&mut ours),
                median(&mut theirs),
                median(&mut ratios),
                bytes[0] / bytes[1]
            );
        }
    }
    Ok(())
}

/// Seconds of processor time of this process, all threads, ended ones too: fields 14 and 15 of its stat file, in ticks
/// of 1/100 s on every Linux.
fn processor_seconds() -> Result<f64, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name before may contain spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| -> Result<f64, Error> { Ok(fields.get(n).ok_or("short stat file")?.parse::<f64>()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Fifty regions of 64x64 pixels that move from frame to frame.
fn moving_regions(n: usize, width: u32, height: u32) -> Vec<Region> {
    (0..50u32)
        .map(|i| {
            let along = |start: u32, speed: u32, range: u32| (start + n as u32 * speed) % (range - 64);
            Region {
                rect: Rect {
                    x: along(i * 191, 2 + i % 3, width),
                    y: along(i * 83, 1 + i % 2, height),
                    width: 64,
                    height: 64,
                },
                quality: Quality::Camera,
                motion: Motion { dx: 8, dy: 4 },
                ttl_ms: 1000,
                frame_offset: 0,
            }
        })
        .collect()
}

/// One measurement: CPU ms per frame and coded bytes.
fn cpu_run(clip: &Path, wanted: &str, encoder: &str, preset: &str, threads: &str) -> Result<(), Error> {
    init()?;
    let (width, height) = size(wanted)?;
    let clip = Clip::load(clip, 0, 60)?;
    if clip.size != (width, height) {
        return Err(format!("{}x{} is not {wanted}", clip.size.0, clip.size.1).into());
    }
    let bitrate = u64::from(width) * u64::from(height) / 300;
    let ours = if encoder == "ddsencode" {
        format!("stream-id={STREAM} max-region-area=1")
    } else {
        String::new()
    };
    let pipeline = launch(&format!(
        "appsrc name=in format=time ! {encoder} name=encoder tune=zerolatency speed-preset={preset} threads={threads} \
         bitrate={bitrate} key-int-max=250 {ours} ! fakesink name=out sync=false"
    ))?;
    let input = pipeline
        .by_name("in")
        .and_then(|e| e.downcast::<gst_app::AppSrc>().ok())
        .ok_or("no appsrc")?;
    input.set_caps(Some(&clip.caps));
    let bytes = Arc::new(AtomicU64::new(0));
    let frames_out = Arc::new(AtomicU64::new(0));
    let encoder_pad = pipeline
        .by_name("encoder")
        .and_then(|e| e.static_pad("src"))
        .ok_or("no encoder")?;
    let (counted, seen) = (bytes.clone(), frames_out.clone());
    encoder_pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
            counted.fetch_add(buffer.size() as u64, Ordering::SeqCst);
            seen.fetch_add(1, Ordering::SeqCst);
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing)?;
    // Forth and back through the clip, so that there is no cut.
    const FRAMES: usize = 300;
    let before = processor_seconds()?;
    let mut order = (0..clip.frames.len()).chain((1..clip.frames.len() - 1).rev()).cycle();
    let period = clip.frame(1).pts().ok_or("no time")?;
    for n in 0..FRAMES {
        let mut buffer = clip.frame(order.next().ok_or("no frame")?);
        buffer.make_mut().set_pts(period * n as u64);
        if encoder == "ddsencode" && n > 0 {
            let state = FeedbackState {
                stream_id: STREAM,
                generation: Serial16(n as u16),
                frame: n as u64 - 1,
                regions: moving_regions(n, width, height),
                ..FeedbackState::default()
            };
            for packet in feedback::encode(&state).packets {
                encoder_pad.send_event(gst_dds_link::event::feedback(&packet));
            }
        }
        input
            .push_buffer(buffer)
            .map_err(|_| bus_error(&pipeline).unwrap_or_default())?;
        // In lockstep, so that each frame has its feedback.
        while frames_out.load(Ordering::SeqCst) <= n as u64 {
            std::thread::sleep(Duration::from_micros(200));
            if let Some(error) = bus_error(&pipeline) {
                return Err(error.into());
            }
        }
    }
    let spent = processor_seconds()? - before;
    if let Some(encoder) = pipeline
        .by_name("encoder")
        .filter(|e| e.find_property("stats").is_some())
    {
        let stats = encoder.property::<gst::Structure>("stats");
        let count = |name: &str| stats.get::<u64>(name).unwrap_or_default();
        if count("frames-with-regions") < FRAMES as u64 - 1 || count("regions-over-area") > 0 {
            return Err(format!("not every frame was coded with all its regions: {stats}").into());
        }
    }
    pipeline.set_state(gst::State::Null)?;
    println!("{} {}", spent * 1000.0 / FRAMES as f64, bytes.load(Ordering::SeqCst));
    Ok(())
}

/// The element and the same model's bare call, alternately.
fn infer(clip: &Path, model: &Path) -> Result<(), Error> {
    init()?;
    let clip = Clip::load(clip, 0, 30)?;
    let mut detector = Detector::open(&ModelSettings {
        model_file: PathBuf::from(model),
        threads: 2,
        ..Default::default()
    })?;
    let (width, height) = clip.size;
    let grey = vec![114; 3 * (width * height) as usize];
    detector.infer(
        &Picture::rgb(width, height, &grey, 3 * width as usize)?,
        &InferSettings::default(),
    )?;
    let pipeline = launch(&format!(
        "appsrc name=in format=time ! ddsinfer threads=2 model-file=\"{}\" ! appsink name=out sync=false",
        model.display()
    ))?;
    let input = pipeline
        .by_name("in")
        .and_then(|e| e.downcast::<gst_app::AppSrc>().ok())
        .ok_or("no appsrc")?;
    let out = pipeline
        .by_name("out")
        .and_then(|e| e.downcast::<gst_app::AppSink>().ok())
        .ok_or("no appsink")?;
    input.set_caps(Some(&clip.caps));
    pipeline.set_state(gst::State::Playing)?;
    let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut bar = Bar::new(name.clone(), RUNS);
    let (mut whole, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (mut element_time, mut call_time) = (Duration::ZERO, Duration::ZERO);
        for n in 0..clip.frames.len() {
            let started = Instant::now();
            input
                .push_buffer(clip.frame(n))
                .map_err(|_| bus_error(&pipeline).unwrap_or_default())?;
            out.pull_sample()
                .map_err(|_| bus_error(&pipeline).unwrap_or_default())?;
            element_time += started.elapsed();
            let started = Instant::now();
            detector.run_again()?;
            call_time += started.elapsed();
        }
        let per_frame = 1000.0 / clip.frames.len() as f64;
        whole.push(element_time.as_secs_f64() * per_frame);
        bare.push(call_time.as_secs_f64() * per_frame);
        ratios.push(element_time.as_secs_f64() / call_time.as_secs_f64());
        bar.step();
    }
    pipeline.set_state(gst::State::Null)?;
    drop(bar);
    let (whole, bare) = (median(&mut whole), median(&mut bare));
    println!(
        "{name}, {}x{}: ddsinfer {whole:.2} ms, bare call {bare:.2} ms, ratio {:.3}, difference {:.2} ms",
        clip.size.0,
        clip.size.1,
        median(&mut ratios),
        whole - bare
    );
    Ok(())
}

/// Camera and server over UDP on loopback. The server decides at each decoded frame.
fn rtcp() -> Result<(), Error> {
    init()?;
    const SECONDS: u64 = 20;
    /// Generations of the first second, which are excluded.
    const START: usize = 30;
    let sockets = [0; 3].map(|_| std::net::UdpSocket::bind("127.0.0.1:0"));
    let mut ports = [0; 3];
    for (port, socket) in ports.iter_mut().zip(sockets) {
        *port = socket?.local_addr()?.port();
    }
    let camera = launch(&format!(
        "rtpbin name=r videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=640,height=480,framerate=30/1 \
         ! ddsencode name=e stream-id={STREAM} speed-preset=superfast ! rtph264pay config-interval=-1 ! r.send_rtp_sink_0 \
         r.send_rtp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0",
        ports[0], ports[1], ports[2]
    ))?;
    let server = launch(&format!(
        "rtpbin name=r latency=10 udpsrc address=127.0.0.1 port={} \
         caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96 ! r.recv_rtp_sink_0 \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0 \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         r. ! rtph264depay ! avdec_h264 max-threads=1 ! fakesink name=s sync=false async=false",
        ports[0], ports[1], ports[2]
    ))?;
    // Times at which generations were sent, oldest first.
    let sent: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let decided = sent.clone();
    let channel = Mutex::new((gst_dds_link::session::ServerChannel::default(), 0u16));
    let sink = server
        .by_name("s")
        .and_then(|e| e.static_pad("sink"))
        .ok_or("no sink")?;
    sink.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
        let mut channel = channel.lock().unwrap();
        let (channel, generation) = &mut *channel;
        if !channel.is_attached() && !channel.refresh(pad) {
            return gst::PadProbeReturn::Ok;
        }
        *generation = generation.wrapping_add(1);
        let state = FeedbackState {
            stream_id: STREAM,
            generation: Serial16(*generation),
            frame: 0,
            regions: moving_regions(usize::from(*generation), 640, 480),
            ..FeedbackState::default()
        };
        decided.lock().unwrap().push(Instant::now());
        channel.send(feedback::encode(&state).packets);
        gst::PadProbeReturn::Ok
    });
    // Delays of the coded generations, and of all: a superseded one ends with its successor.
    let delays: Arc<Mutex<(Vec<f64>, Vec<f64>)>> = Arc::default();
    let measured = delays.clone();
    let times = sent.clone();
    let encoder = camera.by_name("e").ok_or("no encoder")?;
    let last = AtomicU64::new(0);
    let weak = encoder.downgrade();
    encoder
        .static_pad("src")
        .ok_or("no pad")?
        .add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let Some(encoder) = weak.upgrade() else {
                return gst::PadProbeReturn::Ok;
            };
            let stats = encoder.property::<gst::Structure>("stats");
            let generation = stats.get::<u64>("generation-last").unwrap_or_default();
            // Generations are numbered from 1 in sending order.
            let before = last.swap(generation, Ordering::SeqCst);
            let times = times.lock().unwrap();
            let mut measured = measured.lock().unwrap();
            for n in before + 1..=generation {
                let Some(at) = times.get(n as usize - 1) else { continue };
                let delay = at.elapsed().as_secs_f64() * 1000.0;
                if n == generation {
                    measured.0.push(delay);
                }
                measured.1.push(delay);
            }
            gst::PadProbeReturn::Ok
        });
    server.set_state(gst::State::Playing)?;
    camera.set_state(gst::State::Playing)?;
    let mut bar = Bar::new("RTCP loop", SECONDS as usize);
    for _ in 0..SECONDS {
        std::thread::sleep(Duration::from_secs(1));
        bar.step();
    }
    drop(bar);
    for pipeline in [&camera, &server] {
        if let Some(error) = bus_error(pipeline) {
            return Err(error.into());
        }
        pipeline.set_state(gst::State::Null)?;
    }
    let (coded, all) = delays.lock().unwrap().clone();
    let sent = sent.lock().unwrap().len();
    for (name, mut delays) in [("it", coded), ("it or a newer one", all)] {
        // The first second is the session's start.
        delays.drain(..delays.len().min(START));
        delays.sort_by(f64::total_cmp);
        if delays.is_empty() {
            return Err("no feedback arrived".into());
        }
        let at = |q: f64| delays[((delays.len() - 1) as f64 * q) as usize];
        println!(
            "decision to first frame coded with {name}, RTCP, 30 fps: p50 {:.1} ms, p95 {:.1} ms, max {:.1} ms ({} of {} generations)",
            at(0.5),
            at(0.95),
            at(1.0),
            delays.len(),
            sent.saturating_sub(START)
        );
    }
    Ok(())
}
