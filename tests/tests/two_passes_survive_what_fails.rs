// SPDX-License-Identifier: MPL-2.0

//! Whatever fails between a camera and a server of two passes, the camera falls back to one pass within its time-out, the
//! server gives first-pass results at once, and both take up two passes again without being told. Camera and server are
//! pipelines of their own here, and the test is the network between them.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::*;
use gst::prelude::*;
use serde_json::Value;

const WIDTH: u32 = 160;
const HEIGHT: u32 = 128;
const TIMEOUT_MS: u64 = 500;
const DEADLINE_MS: u64 = 300;

fn source(pipeline: &gst::Pipeline, name: &str) -> gst_app::AppSrc {
    pipeline.by_name(name).unwrap().downcast().unwrap()
}

fn sink(pipeline: &gst::Pipeline, name: &str) -> gst_app::AppSink {
    pipeline.by_name(name).unwrap().downcast().unwrap()
}

struct Camera {
    pipeline: gst::Pipeline,
    element: gst::Element,
}

impl Camera {
    fn new() -> Self {
        let pipeline = launch(&format!(
            "appsrc name=in format=time caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=30/1 \
             ! ddsencode name=camera mode=two-pass background-qp=40 region-qp=24 fallback-qp=32 \
             feedback-timeout={TIMEOUT_MS} threads=1 ! video/x-h264,stream-format=byte-stream ! appsink name=low sync=false \
             camera.refine ! video/x-h264,stream-format=byte-stream ! appsink name=high sync=false async=false \
             appsrc name=feedback format=time ! camera.feedback"
        ));
        pipeline.set_state(gst::State::Playing).unwrap();
        let element = pipeline.by_name("camera").unwrap();
        Self { pipeline, element }
    }

    fn count(&self, field: &str) -> u64 {
        let stats = self.element.property::<gst::Structure>("stats");
        stats.get::<u64>(field).unwrap_or_else(|e| panic!("{field}: {e}"))
    }

    fn messages(&self) -> Vec<String> {
        let bus = self.pipeline.bus().unwrap();
        let element = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Element]));
        element
            .map(|m| m.structure().unwrap().name().to_string())
            .filter(|name| name.starts_with("ddsencode-feedback"))
            .collect()
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

struct Server {
    /// The server's own clock, frames that arrived: of the first pass, of the second.
    arrived: [AtomicU64; 2],
    pipeline: gst::Pipeline,
    element: gst::Element,
    results: Arc<Mutex<Vec<Value>>>,
    /// Requests for a key frame: of the first pass, of the second.
    key_units: mpsc::Receiver<&'static str>,
}

impl Server {
    fn new() -> Self {
        let caps = "caps=video/x-h264,stream-format=byte-stream,alignment=au";
        let pipeline = launch(&format!(
            "appsrc name=low format=time {caps} ! avdec_h264 max-threads=1 \
             ! ddsinfer name=infer refine-deadline={DEADLINE_MS} ! appsink name=out sync=false async=false \
             appsrc name=high format=time {caps} ! avdec_h264 max-threads=1 ! infer.refine \
             infer.feedback ! appsink name=feedback sync=false async=false \
             infer.results ! appsink name=results sync=false async=false"
        ));
        let element = pipeline.by_name("infer").unwrap();
        // A detector that is not sure of what it sees.
        element
            .static_pad("sink")
            .unwrap()
            .add_probe(gst::PadProbeType::BUFFER, |_, info| {
                if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
                    let mut meta =
                        gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "thing", (32, 32, 48, 48));
                    meta.add_param(gst::Structure::builder("detection").field("confidence", 0.3f64).build());
                }
                gst::PadProbeReturn::Ok
            });
        let results: Arc<Mutex<Vec<Value>>> = Arc::default();
        let seen = results.clone();
        let pad = pipeline.by_name("results").unwrap().static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let map = info.buffer().unwrap().map_readable().unwrap();
            seen.lock().unwrap().push(serde_json::from_slice(&map).unwrap());
            gst::PadProbeReturn::Ok
        });
        let (ask, key_units) = mpsc::channel();
        for name in ["low", "high"] {
            let ask = ask.clone();
            let pad = pipeline.by_name(name).unwrap().static_pad("src").unwrap();
            pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
                if let Some(gst::PadProbeData::Event(event)) = &info.data
                    && gst_video::UpstreamForceKeyUnitEvent::parse(event).is_ok()
                {
                    let _ = ask.send(name);
                }
                gst::PadProbeReturn::Ok
            });
        }
        pipeline.set_state(gst::State::Playing).unwrap();
        Self {
            arrived: Default::default(),
            pipeline,
            element,
            results,
            key_units,
        }
    }

    /// An access unit arrives, and is timed by that.
    fn push(&self, stream: usize, sample: &gst::Sample) {
        let n = self.arrived[stream].fetch_add(1, Ordering::SeqCst);
        let mut buffer = sample.buffer_owned().unwrap();
        let timed = buffer.make_mut();
        timed.set_pts(gst::ClockTime::SECOND * n / 30);
        timed.set_dts(gst::ClockTime::NONE);
        source(&self.pipeline, ["low", "high"][stream])
            .push_buffer(buffer)
            .unwrap();
    }

    fn count(&self, field: &str) -> u64 {
        let stats = self.element.property::<gst::Structure>("stats");
        stats.get::<u64>(field).unwrap_or_else(|e| panic!("{field}: {e}"))
    }

    /// What became of the second pass of the last `n` results.
    fn last(&self, n: usize) -> Vec<String> {
        let results = self.results.lock().unwrap();
        let of = |l: &Value| l["refinement"].as_str().unwrap_or("none").to_owned();
        results[results.len().saturating_sub(n)..].iter().map(of).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

/// What the network lets through.
#[derive(Clone, Copy)]
struct Network {
    low: bool,
    high: bool,
    feedback: bool,
}

const WHOLE: Network = Network {
    low: true,
    high: true,
    feedback: true,
};

/// The next frame of the camera, all the way to a result where there is a way.
fn frame(camera: &Camera, server: Option<&Server>, n: u64, pts_ms: u64, network: Network) {
    let noise = |i: u64| {
        let mut v = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        v ^= v >> 29;
        (v.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8
    };
    let luma = u64::from(WIDTH * HEIGHT);
    let mut pixels: Vec<u8> = (0..luma).map(|i| noise(i) / 4 + 64 + (n % 40) as u8).collect();
    pixels.resize((luma * 3 / 2) as usize, 128);
    let mut buffer = gst::Buffer::from_slice(pixels);
    buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_mseconds(pts_ms));
    source(&camera.pipeline, "in").push_buffer(buffer).unwrap();

    let wait = gst::ClockTime::from_seconds(10);
    let low = sink(&camera.pipeline, "low")
        .try_pull_sample(wait)
        .expect("a coded frame");
    let Some(server) = server else { return };
    forward_key_unit_requests(camera, server);
    let before = server.results.lock().unwrap().len();
    if network.low {
        server.push(0, &low);
        // A decoder may give no frame: it waits for a key frame.
        let soon = gst::ClockTime::from_mseconds(200);
        if let Some(sample) = sink(&server.pipeline, "feedback").try_pull_sample(soon)
            && network.feedback
        {
            source(&camera.pipeline, "feedback")
                .push_buffer(sample.buffer_owned().unwrap())
                .unwrap();
        }
    }
    // The second pass comes while the server waits for it.
    let until = Instant::now() + Duration::from_millis(2 * DEADLINE_MS);
    while Instant::now() < until && network.low {
        let high = sink(&camera.pipeline, "high").try_pull_sample(gst::ClockTime::from_mseconds(2));
        if let Some(high) = high.filter(|_| network.high) {
            server.push(1, &high);
        }
        if server.results.lock().unwrap().len() > before {
            break;
        }
    }
    while sink(&server.pipeline, "out")
        .try_pull_sample(gst::ClockTime::ZERO)
        .is_some()
    {}
}

/// As RTCP would.
fn forward_key_unit_requests(camera: &Camera, server: &Server) {
    for stream in server.key_units.try_iter() {
        let pad = if stream == "low" { "src" } else { "refine" };
        let event = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        camera.element.static_pad(pad).unwrap().send_event(event);
    }
}

/// Frames of a camera whose clock runs as it should.
fn run(camera: &Camera, server: &Server, from: u64, count: u64, network: Network) {
    for n in from..from + count {
        frame(camera, Some(server), n, n * 1000 / 30, network);
    }
}

fn all_done(server: &Server, n: usize) {
    let last = server.last(n);
    assert!(last.len() == n && last.iter().all(|l| l == "done"), "{last:?}");
}

#[test]
fn a_reverse_channel_that_is_cut() {
    init();
    let (camera, server) = (Camera::new(), Server::new());
    run(&camera, &server, 0, 15, WHOLE);
    all_done(&server, 10);
    let fallback = camera.count("frames-fallback");
    run(
        &camera,
        &server,
        15,
        40,
        Network {
            feedback: false,
            ..WHOLE
        },
    );
    // 500 ms are 15 frames.
    assert!(
        camera.count("frames-fallback") >= fallback + 23,
        "{}",
        camera.count("frames-fallback")
    );
    assert_eq!(camera.messages(), ["ddsencode-feedback-lost"]);
    assert_eq!(server.count("refine-late"), 3);
    assert!(server.last(30).iter().all(|l| l == "none"), "{:?}", server.last(30));
    run(&camera, &server, 55, 20, WHOLE);
    all_done(&server, 10);
    assert_eq!(camera.messages(), ["ddsencode-feedback-recovered"]);
}

#[test]
fn a_first_pass_that_is_lost() {
    init();
    let (camera, server) = (Camera::new(), Server::new());
    run(&camera, &server, 0, 10, WHOLE);
    run(&camera, &server, 10, 25, Network { low: false, ..WHOLE });
    assert!(camera.messages().iter().any(|m| m == "ddsencode-feedback-lost"));
    run(&camera, &server, 35, 30, WHOLE);
    all_done(&server, 10);
    assert!(server.count("access-units-lost") >= 25);
    // Damaged frames asked for nothing.
    let results = server.results.lock().unwrap();
    assert!(
        results
            .iter()
            .filter(|l| l["damaged"] == true)
            .all(|l| l["refinement"].is_null())
    );
}

#[test]
fn a_second_pass_that_is_lost() {
    init();
    let (camera, server) = (Camera::new(), Server::new());
    run(&camera, &server, 0, 10, WHOLE);
    run(&camera, &server, 10, 20, Network { high: false, ..WHOLE });
    assert_eq!(server.count("refine-late"), 3);
    assert_eq!(server.last(17), vec!["none"; 17]);
    // The camera hears its server all the time.
    assert!(camera.messages().is_empty());
    run(&camera, &server, 30, 40, WHOLE);
    all_done(&server, 10);
}

#[test]
fn a_server_that_goes_and_another_that_comes() {
    init();
    let camera = Camera::new();
    let first = Server::new();
    run(&camera, &first, 0, 10, WHOLE);
    drop(first);
    (10..40).for_each(|n| frame(&camera, None, n, n * 1000 / 30, WHOLE));
    assert_eq!(camera.messages(), ["ddsencode-feedback-lost"]);
    while sink(&camera.pipeline, "high")
        .try_pull_sample(gst::ClockTime::ZERO)
        .is_some()
    {}
    let second = Server::new();
    run(&camera, &second, 40, 60, WHOLE);
    all_done(&second, 10);
    assert_eq!(camera.messages(), ["ddsencode-feedback-recovered"]);
}

#[test]
fn a_camera_that_starts_anew() {
    init();
    let server = Server::new();
    let first = Camera::new();
    run(&first, &server, 0, 10, WHOLE);
    drop(first);
    let second = Camera::new();
    // Frame numbers begin again; the server's clock goes on.
    (0..40).for_each(|n| frame(&second, Some(&server), n, 1000 + n * 1000 / 30, WHOLE));
    all_done(&server, 20);
}

#[test]
fn a_camera_clock_that_jumps() {
    init();
    let (camera, server) = (Camera::new(), Server::new());
    run(&camera, &server, 0, 10, WHOLE);
    // An hour ahead, then back by half of it.
    let hour = 3_600_000;
    (10..40).for_each(|n| frame(&camera, Some(&server), n, hour + n * 1000 / 30, WHOLE));
    all_done(&server, 15);
    (40..90).for_each(|n| frame(&camera, Some(&server), n, hour / 2 + n * 1000 / 30, WHOLE));
    all_done(&server, 15);
    assert!(dds_tests::bus_error(&camera.pipeline).is_none() && dds_tests::bus_error(&server.pipeline).is_none());
}

#[test]
fn a_server_that_is_slow() {
    init();
    let (camera, server) = (Camera::new(), Server::new());
    run(&camera, &server, 0, 10, WHOLE);
    // Its feedback comes after the frame has left the ring: the first result goes out, the camera says that it refused.
    camera.element.set_property("ring-frames", 60u32);
    let refused = camera.count("refine-refused-gone");
    let mut late = Vec::new();
    for n in 10..90u64 {
        let quiet = Network {
            feedback: false,
            ..WHOLE
        };
        frame(&camera, Some(&server), n, n * 1000 / 30, quiet);
        // As the last packet of the server, 70 frames late.
        let generation = server
            .results
            .lock()
            .unwrap()
            .last()
            .map(|l| l["generation"].as_u64().unwrap() as u16);
        late.push((n, generation));
        if let Some((old, Some(generation))) = n.checked_sub(80).map(|i| late[i as usize]) {
            let stream_id = server.results.lock().unwrap()[0]["stream_id"].as_u64().unwrap() as u32;
            for packet in packets(stream_id, generation, old, vec![region(32, 32, 48, 48)]) {
                let _ = source(&camera.pipeline, "feedback").push_buffer(gst::Buffer::from_slice(packet));
            }
        }
    }
    wait_for("refusals", || camera.count("refine-refused-gone") >= refused + 5);
    assert!(server.last(40).iter().all(|l| l == "none"));
}
