// SPDX-License-Identifier: MPL-2.0

//! Camera and server of two passes: what was asked for comes, is pasted where it belongs and nowhere else, and whatever
//! fails on the way, the first result goes out in time and the second pass comes back by itself.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use dds_protocol::identity::StreamKind;
use dds_protocol::nal::{Codec, Format};
use gst::prelude::*;
use serde_json::Value;

const WIDTH: u32 = 320;
const HEIGHT: u32 = 240;
/// What a detector is unsure of, in pixels of the captured picture.
const OBJECT: (u32, u32, u32, u32) = (96, 64, 64, 80);

/// A detector that sees [`OBJECT`] in every `every`-th frame and is not sure of it: region of interest metas before the
/// element, which runs without a model.
fn unsure_detector(pipeline: &gst::Pipeline, scale: f64, every: u64) {
    let pad = pipeline.by_name("infer").unwrap().static_pad("sink").unwrap();
    let frames = AtomicU64::new(0);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let n = frames.fetch_add(1, Ordering::SeqCst);
        if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data
            && n.is_multiple_of(every)
        {
            let side = |v: u32| (f64::from(v) * scale) as u32;
            let (x, y, w, h) = OBJECT;
            let rect = (side(x), side(y), side(w), side(h));
            let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "thing", rect);
            meta.add_param(gst::Structure::builder("detection").field("confidence", 0.3f64).build());
        }
        gst::PadProbeReturn::Ok
    });
}

/// The result lines of the pipeline's `infer`.
fn lines(pipeline: &gst::Pipeline) -> Arc<Mutex<Vec<Value>>> {
    let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen = lines.clone();
    let pad = pipeline.by_name("results").unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let buffer = info.buffer().unwrap();
        let map = buffer.map_readable().unwrap();
        seen.lock().unwrap().push(serde_json::from_slice(&map).unwrap());
        gst::PadProbeReturn::Ok
    });
    lines
}

/// The first `n` lines. They leave beside the frames, by a task of their own.
fn settled(lines: &Mutex<Vec<Value>>, n: usize) -> Vec<Value> {
    wait_for("result lines", || lines.lock().unwrap().len() >= n);
    lines.lock().unwrap().clone()
}

/// Buffers on a pad, by presentation time.
fn frames(element: &gst::Element, pad: &str) -> Arc<Mutex<BTreeMap<u64, Vec<u8>>>> {
    let frames: Arc<Mutex<BTreeMap<u64, Vec<u8>>>> = Arc::default();
    let seen = frames.clone();
    element
        .static_pad(pad)
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let buffer = info.buffer().unwrap();
            let pts = buffer.pts().unwrap().nseconds();
            seen.lock()
                .unwrap()
                .insert(pts, buffer.map_readable().unwrap().to_vec());
            gst::PadProbeReturn::Ok
        });
    frames
}

fn stat(element: &gst::Element, field: &str) -> u64 {
    let stats = element.property::<gst::Structure>("stats");
    stats.get::<u64>(field).unwrap_or_else(|e| panic!("{field}: {e}"))
}

/// Camera and server in one pipeline; the camera's video is paced by the test, one frame at a time.
fn line(camera: &str, server: &str) -> String {
    format!(
        "appsrc name=in format=time caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=30/1 \
         ! ddsencode name=camera mode=two-pass stream-id=7 background-qp=44 region-qp=20 threads=1 {camera} \
         ! video/x-h264,stream-format=byte-stream ! identity name=low ! avdec_h264 max-threads=1 \
         ! ddsinfer name=infer refine-deadline=10000 {server} ! identity name=out ! appsink name=sink sync=false \
         camera.refine ! video/x-h264,stream-format=byte-stream ! identity name=high ! avdec_h264 max-threads=1 ! infer.refine \
         infer.results ! appsink name=results sync=false"
    )
}

/// Noise that stands still, with a bright square that moves.
fn picture(n: u64) -> Vec<u8> {
    let mut seed = 1u32;
    let mut luma: Vec<u8> = (0..WIDTH * HEIGHT)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8 / 2 + 64
        })
        .collect();
    for y in 80..112 {
        for x in 0..32 {
            luma[(y * WIDTH + (x + 100 + n as u32 % 20)) as usize] = 230;
        }
    }
    luma.resize((WIDTH * HEIGHT * 3 / 2) as usize, 128);
    luma
}

/// Pushes frames one by one and waits for each to come out.
fn drive(pipeline: &gst::Pipeline, from: u64, count: u64, group: u64) -> Vec<(gst::Buffer, gst::Caps)> {
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline
        .by_name("sink")
        .unwrap()
        .downcast::<gst_app::AppSink>()
        .unwrap();
    let mut out = Vec::new();
    for n in from..from + count {
        let mut buffer = gst::Buffer::from_slice(picture(n));
        buffer.get_mut().unwrap().set_pts(gst::ClockTime::SECOND * n / 30);
        source.push_buffer(buffer).unwrap();
        if !(n + 1 - from).is_multiple_of(group) {
            continue;
        }
        while out.len() as u64 <= n - from {
            let sample = sink
                .try_pull_sample(gst::ClockTime::from_seconds(20))
                .unwrap_or_else(|| {
                    panic!("frame {n} does not come out: {:?}", dds_tests::bus_error(pipeline));
                });
            out.push((sample.buffer_owned().unwrap(), sample.caps_owned().unwrap()));
        }
    }
    out
}

/// Peak signal-to-noise ratio of luma inside and outside of a rectangle, dB.
fn psnr(a: &[u8], b: &[u8], (x, y, w, h): (u32, u32, u32, u32)) -> (f64, f64) {
    let mut sums = [(0f64, 0f64); 2];
    for row in 0..HEIGHT {
        for column in 0..WIDTH {
            let at = (row * WIDTH + column) as usize;
            let inside = (x..x + w).contains(&column) && (y..y + h).contains(&row);
            let sum = &mut sums[usize::from(!inside)];
            sum.0 += (f64::from(a[at]) - f64::from(b[at])).powi(2);
            sum.1 += 1.0;
        }
    }
    let db = |(error, count): (f64, f64)| 10.0 * (255.0 * 255.0 / (error / count).max(1e-9)).log10();
    (db(sums[0]), db(sums[1]))
}

#[test]
fn regions_that_were_asked_for_are_sharp_in_the_picture_that_goes_out_and_the_rest_is_the_first_pass() {
    init();
    for (camera, group) in [("", 1), ("refine-canvas=black", 1), ("segment-length=5", 5)] {
        let pipeline = launch(&line(camera, ""));
        unsure_detector(&pipeline, 1.0, 1);
        let results = lines(&pipeline);
        let low = frames(&pipeline.by_name("infer").unwrap(), "sink");
        pipeline.set_state(gst::State::Playing).unwrap();
        let out = drive(&pipeline, 0, 20, group);
        let low = low.lock().unwrap().clone();
        let results = settled(&results, 20);
        for (n, (buffer, _)) in out.iter().enumerate() {
            let merged = buffer.map_readable().unwrap();
            let first = &low[&buffer.pts().unwrap().nseconds()];
            // On the grid of macroblocks; the regions asked for have two pixels more, on a grid of eight.
            let region = (80, 48, 96, 112);
            let (same, outside) = psnr(&merged, first, region);
            assert!(outside > 90.0, "{camera} frame {n}: {outside} dB outside");
            assert!(same < 60.0, "{camera} frame {n}: nothing was pasted");
            let source = picture(n as u64);
            let (before, _) = psnr(first, &source, OBJECT);
            let (after, _) = psnr(&merged, &source, OBJECT);
            assert!(
                after > before + 6.0 && after > 38.0,
                "{camera} frame {n}: {before} to {after} dB"
            );
            let line = &results[n];
            assert_eq!(line["refinement"], "done", "{camera} {line}");
            assert_eq!(line["objects"][0]["pass"], 2, "{camera} {line}");
        }
        let camera_element = pipeline.by_name("camera").unwrap();
        assert_eq!(stat(&camera_element, "refine-frames-coded"), 20, "{camera}");
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_small_first_pass_goes_out_at_full_size_with_boxes_where_they_belong() {
    init();
    let pipeline = launch(&line("low-scale=0.8", "box-confidence-threshold=0.3"));
    unsure_detector(&pipeline, 0.8, 2);
    let results = lines(&pipeline);
    pipeline.set_state(gst::State::Playing).unwrap();
    let out = drive(&pipeline, 0, 10, 1);
    for (n, (buffer, caps)) in out.iter().enumerate() {
        let s = caps.structure(0).unwrap();
        let size = ["width", "height"].map(|side| s.get::<i32>(side).unwrap() as u32);
        assert_eq!(size, [WIDTH, HEIGHT]);
        assert_eq!(buffer.size(), (WIDTH * HEIGHT * 3 / 2) as usize);
        if n % 2 == 0 {
            let merged = buffer.map_readable().unwrap();
            let (inside, _) = psnr(&merged, &picture(n as u64), OBJECT);
            assert!(inside > 38.0, "frame {n}: {inside} dB");
        }
    }
    for (n, line) in settled(&results, 10).iter().enumerate() {
        assert_eq!(
            (&line["width"], &line["height"]),
            (&Value::from(WIDTH), &Value::from(HEIGHT))
        );
        if n % 2 == 1 {
            assert!(line["refinement"].is_null(), "{line}");
            continue;
        }
        assert_eq!(line["refinement"], "done", "{line}");
        let region = &line["regions"][0];
        let number = |name: &str| region[name].as_u64().unwrap() as u32;
        let (x, y, w, h) = OBJECT;
        assert!(number("x") <= x && number("x") + number("width") >= x + w, "{region}");
        assert!(number("y") <= y && number("y") + number("height") >= y + h, "{region}");
        assert!(number("width") < w + 48 && number("height") < h + 48, "{region}");
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn both_streams_carry_the_same_frames_and_the_second_its_rectangles() {
    init();
    let pipeline = launch(&line("", ""));
    unsure_detector(&pipeline, 1.0, 3);
    let [low, high] = ["low", "high"].map(|name| frames(&pipeline.by_name(name).unwrap(), "src"));
    pipeline.set_state(gst::State::Playing).unwrap();
    drive(&pipeline, 0, 12, 1);
    let read = |unit: &[u8]| {
        let summary = Codec::H264.summarize(unit, Format::ByteStream);
        (summary.identity.unwrap().unwrap(), summary.extension)
    };
    let low = low.lock().unwrap();
    let high = high.lock().unwrap();
    assert_eq!(low.len(), 12);
    assert!(
        low.values()
            .map(|unit| read(unit).0)
            .all(|i| i.kind == StreamKind::Low && i.stream_id == 7)
    );
    let refined: Vec<u64> = high
        .iter()
        .map(|(pts, unit)| {
            let (identity, extension) = read(unit);
            assert_eq!((identity.kind, identity.stream_id), (StreamKind::Refine, 7));
            let (first, _) = read(&low[pts]);
            assert_eq!(
                (first.frame, first.capture_time_ns),
                (identity.frame, identity.capture_time_ns)
            );
            (identity.frame, extension.refined.len())
        })
        .filter_map(|(frame, rects)| (rects > 0).then_some(frame))
        .collect();
    assert_eq!(refined, [0, 3, 6, 9]);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_second_pass_that_is_lost_holds_nothing_up_and_comes_back_by_itself() {
    init();
    let pipeline = launch(&line("", "").replace("refine-deadline=10000", "refine-deadline=150"));
    unsure_detector(&pipeline, 1.0, 1);
    let results = lines(&pipeline);
    let lost = Arc::new(AtomicBool::new(false));
    let cut = lost.clone();
    pipeline
        .by_name("high")
        .unwrap()
        .static_pad("src")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            if cut.load(Ordering::SeqCst) {
                gst::PadProbeReturn::Drop
            } else {
                gst::PadProbeReturn::Ok
            }
        });
    pipeline.set_state(gst::State::Playing).unwrap();
    drive(&pipeline, 0, 5, 1);
    lost.store(true, Ordering::SeqCst);
    let started = Instant::now();
    drive(&pipeline, 5, 30, 1);
    let took = started.elapsed();
    // A few deadlines, until it is clear that nothing comes; from then on nothing is waited for.
    assert!(took < Duration::from_millis(150 * 3 + 3000), "{took:?}");
    let infer = pipeline.by_name("infer").unwrap();
    assert_eq!(stat(&infer, "refine-late"), 3);
    lost.store(false, Ordering::SeqCst);
    // The first ones that come are damaged: pictures before them are missing. Then a key frame that was asked for.
    drive(&pipeline, 35, 40, 1);
    let results = settled(&results, 75);
    let of = |n: usize| results[n]["refinement"].as_str().unwrap_or("none").to_owned();
    assert!((0..5).all(|n| of(n) == "done"));
    assert!((5..8).all(|n| of(n) == "late"));
    assert!(
        (8..35).all(|n| of(n) == "none"),
        "{:?}",
        (8..35).map(of).collect::<Vec<_>>()
    );
    assert!(
        (65..75).all(|n| of(n) == "done"),
        "{:?}",
        (35..75).map(of).collect::<Vec<_>>()
    );
    assert_eq!(results.len(), 75);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_frame_that_the_camera_has_no_more_is_refused_and_not_waited_for() {
    init();
    let pipeline = launch(&line("ring-frames=1", ""));
    unsure_detector(&pipeline, 1.0, 1);
    let results = lines(&pipeline);
    // Feedback is held up until the next frame is there: the ring holds that one only.
    let infer_sink = pipeline.by_name("infer").unwrap().static_pad("sink").unwrap();
    let held: Arc<Mutex<Vec<gst::Event>>> = Arc::default();
    let hold = held.clone();
    infer_sink
        .peer()
        .unwrap()
        .add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
            let Some(gst::PadProbeData::Event(event)) = &info.data else {
                return gst::PadProbeReturn::Ok;
            };
            if gst_dds_link::event::parse(event).is_none() {
                return gst::PadProbeReturn::Ok;
            }
            hold.lock().unwrap().push(event.clone());
            info.data = None;
            gst::PadProbeReturn::Handled
        });
    pipeline.set_state(gst::State::Playing).unwrap();
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let camera = pipeline.by_name("camera").unwrap();
    let started = Instant::now();
    let refused = || {
        let lines = results.lock().unwrap();
        lines.iter().filter(|l| l["refinement"] == "refused").count()
    };
    let mut n = 0u64;
    while refused() < 5 && n < 1000 {
        let mut buffer = gst::Buffer::from_slice(picture(n));
        buffer.get_mut().unwrap().set_pts(gst::ClockTime::SECOND * n / 30);
        source.push_buffer(buffer).unwrap();
        wait_for("a coded frame", || stat(&camera, "frames") > n);
        for event in std::mem::take(&mut *held.lock().unwrap()) {
            camera.static_pad("src").unwrap().send_event(event);
        }
        n += 1;
    }
    assert!(refused() >= 5, "{} of {n} frames", refused());
    // Far below one deadline of 10 s.
    assert!(started.elapsed() < Duration::from_secs(8));
    assert!(stat(&camera, "refine-refused-gone") >= 5);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_server_without_the_refine_pad_and_a_camera_without_it_go_on_with_one_pass() {
    init();
    for line in [
        // Nobody takes the second pass.
        line("", "").replace("camera.refine ! video/x-h264,stream-format=byte-stream ! identity name=high ! avdec_h264 max-threads=1 ! infer.refine", ""),
        // It is sent, and the server does not take it.
        line("", "").replace("avdec_h264 max-threads=1 ! infer.refine", "fakesink sync=false async=false"),
    ] {
        let pipeline = launch(&line);
        unsure_detector(&pipeline, 1.0, 1);
        let results = lines(&pipeline);
        pipeline.set_state(gst::State::Playing).unwrap();
        drive(&pipeline, 0, 10, 1);
        let results = settled(&results, 10);
        assert!(results.iter().all(|l| l["refinement"].is_null() && l["objects"][0]["pass"] == 1));
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_first_pass_that_shrinks_for_the_bandwidth_keeps_the_size_of_what_goes_out() {
    init();
    let pipeline = launch(&line("low-scale-min=0.5 bandwidth=40 region-qp=40", ""));
    unsure_detector(&pipeline, 1.0, 5);
    let results = lines(&pipeline);
    let sizes: Arc<Mutex<Vec<i32>>> = Arc::default();
    let seen = sizes.clone();
    let pad = pipeline.by_name("infer").unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::PadProbeData::Event(event)) = &info.data
            && let gst::EventView::Caps(caps) = event.view()
        {
            let width = caps.caps().structure(0).unwrap().get("width").unwrap();
            seen.lock().unwrap().push(width);
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut out = drive(&pipeline, 0, 150, 1);
    pipeline.by_name("camera").unwrap().set_property("bandwidth", 20_000u32);
    out.extend(drive(&pipeline, 150, 300, 1));
    let sizes = sizes.lock().unwrap().clone();
    assert!(sizes.iter().any(|width| *width < WIDTH as i32), "{sizes:?}");
    assert!(sizes.last() > sizes.iter().min(), "{sizes:?}");
    let wide = |caps: &gst::Caps| caps.structure(0).unwrap().get::<i32>("width").unwrap();
    assert!(out.iter().all(|(_, caps)| wide(caps) == WIDTH as i32));
    // Two passes go on at every size.
    let results = settled(&results, 450);
    let done = |range: std::ops::Range<usize>| results[range].iter().filter(|l| l["refinement"] == "done").count();
    assert!(
        done(100..150) >= 9 && done(400..450) >= 9,
        "{} {}",
        done(100..150),
        done(400..450)
    );
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn elements_of_two_passes_start_and_stop_a_hundred_times_and_end_in_any_order() {
    init();
    let pipeline = launch(
        "videotestsrc num-buffers=100000 is-live=true ! video/x-raw,width=160,height=128,framerate=120/1 \
         ! ddsencode name=camera mode=two-pass ! avdec_h264 max-threads=1 ! ddsinfer name=infer ! fakesink sync=false \
         camera.refine ! avdec_h264 max-threads=1 ! infer.refine",
    );
    unsure_detector(&pipeline, 0.25, 2);
    for n in 0..100 {
        let state = [
            gst::State::Playing,
            gst::State::Paused,
            gst::State::Ready,
            gst::State::Null,
        ][n % 4];
        pipeline.set_state(state).unwrap();
        if n % 8 == 4 {
            std::thread::sleep(Duration::from_millis(40));
        }
    }
    pipeline.set_state(gst::State::Playing).unwrap();
    let camera = pipeline.by_name("camera").unwrap();
    wait_for("second passes", || stat(&camera, "refine-frames-coded") > 5);
    // A live frame may wait for its second pass, and says so.
    let src = pipeline.by_name("infer").unwrap().static_pad("src").unwrap();
    wait_for("the latency to be told", || {
        let mut query = gst::query::Latency::new();
        src.query(&mut query) && query.result().0 && query.result().1 >= gst::ClockTime::from_mseconds(250)
    });
    pipeline.send_event(gst::event::Eos::new());
    wait_eos(&pipeline, Duration::from_secs(20));
    pipeline.set_state(gst::State::Null).unwrap();
}
