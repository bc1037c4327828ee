// SPDX-License-Identifier: MPL-2.0

//! Segmentation and face recognition in pipelines: models with known output are recognised, and their results reach
//! results, messages, metas, the pad `classes` and the camera.

mod element;
#[path = "common/onnx.rs"]
mod onnx;

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dds_protocol::feedback;
use element::*;
use gst::prelude::*;
use gstddsinfer::segmentation;
use image::RgbImage;
use onnx::{Folder, Model, Output};
use serde_json::{Value, json};

const INPUT: [usize; 4] = [1, 3, 64, 64];
/// Cells in a row and column of the segmenters here.
const SIDE: usize = 16;
const LABELS: &str = "labels=road;car;sky, scores=probability";
const VIDEO: &str = "videotestsrc num-buffers=10 ! video/x-raw,format=I420,width=160,height=128,framerate=30/1";

/// The class of each cell: road, except a car in columns 4 to 6 of rows 8 to 10 (3.5 % of the picture).
fn classes() -> Vec<u8> {
    let car = |i: usize| (4..7).contains(&(i % SIDE)) && (8..11).contains(&(i / SIDE));
    (0..SIDE * SIDE).map(|i| u8::from(car(i))).collect()
}

/// A model that outputs [`classes`]; for the car's cells sky is nearly as likely, or not at all if `certain`.
fn segmenter(certain: bool) -> Model {
    let classes = classes();
    let of = |road: f32, car: f32| classes.iter().map(move |c| if *c == 1 { car } else { road });
    let doubt = if certain { 0.0 } else { 0.45 };
    let scores = of(1.0, 0.0).chain(of(0.0, 1.0 - doubt)).chain(of(0.0, doubt)).collect();
    Model::new(&INPUT, vec![Output::new("scores", &[1, 3, SIDE, SIDE], scores)])
}

/// A detector of two classes (YOLOv8) that finds nothing.
fn detector() -> Model {
    let rows = (0..6 * 84).map(|i| if i < 4 * 84 { 8.3 } else { 0.001 }).collect();
    Model::new(&INPUT, vec![Output::new("output0", &[1, 6, 84], rows)])
}

/// A YuNet that finds one face: 32 pixels wide, at x 16 to 48 and y 16 to 64, eyes 16 pixels apart.
fn yunet() -> Model {
    let mut outputs = Vec::new();
    for (stride, cells) in [(8, 64), (16, 16), (32, 4)] {
        for (part, row) in [
            ("cls", &[0.9][..]),
            ("obj", &[0.9]),
            ("bbox", &[0.5, 0.5, std::f32::consts::LN_2, 1.0986]),
            ("kps", &[0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 0.0, 1.0, 1.0, 1.0]),
        ] {
            let mut values = vec![0.0; cells * row.len()];
            if stride == 16 {
                values[9 * row.len()..][..row.len()].copy_from_slice(row);
            }
            outputs.push(Output::new(&format!("{part}_{stride}"), &[1, cells, row.len()], values));
        }
    }
    Model::new(&INPUT, outputs)
}

/// An embedder whose vector turns with the brightness of the face.
fn embedder() -> Model {
    let output = Output::new("embedding", &[1, 2], vec![1.0, 0.0]).following(vec![0.0, 1.0]);
    Model::new(&[1, 3, 112, 112], vec![output])
}

/// Sets a model, and the library that runs it, on the element `i`.
fn model(pipeline: &gst::Pipeline, folder: &Folder, model: &Model, description: &str) -> gst::Element {
    let infer = element(pipeline, "i");
    set_path(&infer, "model-file", &folder.file("model.onnx", &model.bytes()));
    if !description.is_empty() {
        infer.set_property("model-description", description);
    }
    if let Some(library) = onnx::library() {
        set_path(&infer, "onnxruntime-library", &library);
    }
    infer
}

fn set_path(infer: &gst::Element, property: &str, path: &Path) {
    infer.set_property(property, path.to_str().unwrap());
}

/// The element's messages on the bus.
#[derive(Clone, Default)]
struct Messages {
    results: Arc<Mutex<Vec<gst::Structure>>>,
    warnings: Arc<Mutex<Vec<String>>>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Messages {
    fn by(pipeline: &gst::Pipeline) -> Self {
        let messages = Self::default();
        let own = messages.clone();
        pipeline.bus().unwrap().set_sync_handler(move |_, message| {
            match message.view() {
                gst::MessageView::Element(e) => {
                    let results = e.structure().filter(|s| s.name() == "ddsinfer-results");
                    own.results.lock().unwrap().extend(results.map(|s| s.to_owned()));
                }
                gst::MessageView::Warning(w) => own.warnings.lock().unwrap().push(w.error().message().to_owned()),
                gst::MessageView::Error(e) => own.errors.lock().unwrap().push(e.error().message().to_owned()),
                _ => (),
            }
            gst::BusSyncReply::Pass
        });
        messages
    }
}

/// The only error with which the element fails to start.
fn refusal(pipeline: &gst::Pipeline) -> String {
    let messages = Messages::by(pipeline);
    assert!(pipeline.set_state(gst::State::Paused).is_err(), "it starts");
    pipeline.set_state(gst::State::Null).unwrap();
    let errors = messages.errors.lock().unwrap();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].clone()
}

fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

fn structures(of: &gst::Structure, field: &str) -> Vec<gst::Structure> {
    let list = of.get::<gst::Array>(field).unwrap();
    list.iter().map(|v| v.get().unwrap()).collect()
}

#[test]
fn a_segmenter_is_recognised_and_its_results_hold_the_share_of_each_class() {
    let folder = Folder::new("task-areas");
    let pipeline = launch(&format!(
        "{VIDEO} ! ddsinfer name=i ! fakesink i.results ! fakesink name=r"
    ));
    model(&pipeline, &folder, &segmenter(false), LABELS);
    let messages = Messages::by(&pipeline);
    let lines = collect(&element(&pipeline, "r").static_pad("sink").unwrap());
    run_to_eos(&pipeline);
    let lines = json(&lines);
    assert_eq!(lines.len(), 10);
    for line in &lines {
        assert_eq!(
            line["classes"],
            json!([{"class": 0, "label": "road", "area": 0.9648}, {"class": 1, "label": "car", "area": 0.0352}])
        );
        assert_eq!(line["objects"], json!([]));
        assert_eq!(line.get("map"), None);
    }
    let results = messages.results.lock().unwrap();
    assert_eq!(results.len(), 10);
    for result in results.iter() {
        let classes: Vec<(u32, String, f64)> = structures(result, "classes")
            .iter()
            .map(|c| (c.get("class").unwrap(), c.get("label").unwrap(), c.get("area").unwrap()))
            .collect();
        assert_eq!(
            classes,
            [(0, "road".into(), 247.0 / 256.0), (1, "car".into(), 9.0 / 256.0)]
        );
    }
    assert!(messages.warnings.lock().unwrap().is_empty());
}

#[test]
fn the_map_is_in_the_results_when_asked_for_and_reads_back() {
    let folder = Folder::new("task-map");
    let pipeline = launch(&format!(
        "{VIDEO} ! ddsinfer name=i segmentation-map=true ! fakesink i.results ! fakesink name=r"
    ));
    model(&pipeline, &folder, &segmenter(false), LABELS);
    let lines = collect(&element(&pipeline, "r").static_pad("sink").unwrap());
    run_to_eos(&pipeline);
    for line in json(&lines) {
        let map = segmentation::from_map_json(&line["map"]).unwrap();
        assert_eq!((map.width(), map.height()), (SIDE, SIDE));
        assert_eq!(map.classes(), classes());
    }
}

/// Content of the pad `classes`: pictures with time, duration and bytes.
#[derive(Clone, Debug, PartialEq)]
enum Passed {
    Event(gst::EventType),
    /// Width, height, frames per second, pixel aspect ratio.
    Caps(i32, i32, gst::Fraction, gst::Fraction),
    Picture(Option<gst::ClockTime>, Option<gst::ClockTime>, Vec<u8>),
}

fn watch(pad: &gst::Pad) -> Arc<Mutex<Vec<Passed>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
    pad.add_probe(kinds, move |_, info| {
        let passed = match &info.data {
            Some(gst::PadProbeData::Buffer(b)) => {
                Passed::Picture(b.pts(), b.duration(), b.map_readable().unwrap().to_vec())
            }
            Some(gst::PadProbeData::Event(e)) => match e.view() {
                gst::EventView::Caps(caps) => {
                    let s = caps.caps().structure(0).unwrap();
                    assert_eq!((s.name().as_str(), s.get("format")), ("video/x-raw", Ok("GRAY8")));
                    Passed::Caps(
                        s.get("width").unwrap(),
                        s.get("height").unwrap(),
                        s.get("framerate").unwrap(),
                        s.get("pixel-aspect-ratio").unwrap(),
                    )
                }
                _ => Passed::Event(e.type_()),
            },
            _ => return gst::PadProbeReturn::Ok,
        };
        log.lock().unwrap().push(passed);
        gst::PadProbeReturn::Ok
    });
    seen
}

fn caps(width: i32, height: i32, rate: (i32, i32), shape: (i32, i32)) -> Passed {
    let fraction = |(n, d)| gst::Fraction::new(n, d);
    Passed::Caps(width, height, fraction(rate), fraction(shape))
}

fn caps_of(passed: &[Passed]) -> Vec<Passed> {
    passed
        .iter()
        .filter(|p| matches!(p, Passed::Caps(..)))
        .cloned()
        .collect()
}

fn times_of(passed: &[Passed]) -> Vec<u64> {
    let time = |p: &Passed| match p {
        Passed::Picture(pts, ..) => Some(pts.unwrap().nseconds()),
        _ => None,
    };
    passed.iter().filter_map(time).collect()
}

/// Stream-start, caps, segment: the first events of each pad, in this order.
fn assert_begins_well(passed: &[Passed]) {
    assert!(
        matches!(
            passed[..3],
            [
                Passed::Event(gst::EventType::StreamStart),
                Passed::Caps(..),
                Passed::Event(gst::EventType::Segment)
            ]
        ),
        "{:?}",
        passed.iter().take(5).collect::<Vec<_>>()
    );
}

/// [`classes`] as a picture of this size.
fn picture(width: usize, height: usize) -> Vec<u8> {
    let classes = classes();
    let cell = |i: usize, pixels: usize| (2 * i + 1) * SIDE / (2 * pixels);
    let stride = width.next_multiple_of(4);
    let mut pixels = vec![0; stride * height];
    for y in 0..height {
        for x in 0..width {
            pixels[y * stride + x] = classes[cell(y, height) * SIDE + cell(x, width)];
        }
    }
    pixels
}

#[test]
fn the_pad_classes_gives_one_picture_of_the_videos_size_and_time_per_inferred_frame() {
    let folder = Folder::new("task-pad");
    for more in ["", " ! videoconvert ! video/x-raw,format=RGB"] {
        let pipeline = launch(&format!(
            "{VIDEO} ! ddsinfer name=i inference-interval=2 ! fakesink name=s i.classes{more} ! fakesink"
        ));
        let infer = model(&pipeline, &folder, &segmenter(false), LABELS);
        let seen = watch(&infer.static_pad("classes").unwrap());
        run_to_eos(&pipeline);
        let seen = seen.lock().unwrap();
        assert_begins_well(&seen);
        assert_eq!(caps_of(&seen), [caps(160, 128, (30, 1), (1, 1))]);
        let pictures: Vec<_> = seen.iter().filter(|p| matches!(p, Passed::Picture(..))).collect();
        assert_eq!(pictures.len(), 5);
        let frame = |n: u64| gst::ClockTime::from_nseconds((n * 1_000_000_000 + 15) / 30);
        for (n, passed) in pictures.into_iter().enumerate() {
            let Passed::Picture(pts, duration, pixels) = passed else {
                unreachable!()
            };
            let n = 2 * n as u64;
            assert_eq!(pts.unwrap().mseconds(), frame(n).mseconds());
            assert!(duration.unwrap().nseconds().abs_diff(33_333_333) < 2);
            assert_eq!(*pixels, picture(160, 128));
        }
        assert_eq!(seen.last(), Some(&Passed::Event(gst::EventType::Eos)));
        assert_eq!(stat(&infer, "class-maps-dropped"), 0);
    }
}

#[test]
fn pictures_of_classes_follow_a_change_of_the_videos_caps() {
    let folder = Folder::new("task-caps");
    let video = |width, height, shape| {
        format!(
            "videotestsrc num-buffers=5 ! video/x-raw,format=I420,width={width},height={height},framerate=25/1,\
             pixel-aspect-ratio={shape} ! c."
        )
    };
    let pipeline = launch(&format!(
        "concat name=c ! ddsinfer name=i ! fakesink i.classes ! videoconvert ! fakesink {} {}",
        video(160, 128, "1/1"),
        video(98, 64, "4/3")
    ));
    let infer = model(&pipeline, &folder, &segmenter(false), LABELS);
    let seen = watch(&infer.static_pad("classes").unwrap());
    run_to_eos(&pipeline);
    let seen = seen.lock().unwrap();
    assert_begins_well(&seen);
    assert_eq!(
        caps_of(&seen),
        [caps(160, 128, (25, 1), (1, 1)), caps(98, 64, (25, 1), (4, 3))]
    );
    let second = seen.iter().rposition(|p| matches!(p, Passed::Caps(..))).unwrap();
    let sizes = |passed: &[Passed]| -> Vec<Vec<u8>> {
        let pixels = passed.iter().filter_map(|p| match p {
            Passed::Picture(_, _, pixels) => Some(pixels.clone()),
            _ => None,
        });
        pixels.collect()
    };
    assert_eq!(sizes(&seen[..second]), vec![picture(160, 128); 5]);
    assert_eq!(sizes(&seen[second..]), vec![picture(98, 64); 5]);
}

#[test]
fn the_pad_classes_prerolls_whatever_the_model_finds() {
    let folder = Folder::new("task-preroll");
    for (of, description, interval) in [
        (Some(segmenter(false)), LABELS, 1),
        (Some(segmenter(false)), LABELS, 1000),
        (Some(detector()), "family=yolov8", 1),
        (None, "", 1),
    ] {
        let pipeline = launch(&format!(
            "{VIDEO} ! ddsinfer name=i inference-interval={interval} ! fakesink i.classes ! videoconvert ! fakesink"
        ));
        if let Some(of) = &of {
            model(&pipeline, &folder, of, description);
        }
        let seen = watch(&element(&pipeline, "i").static_pad("classes").unwrap());
        pipeline.set_state(gst::State::Paused).unwrap();
        assert_eq!(
            pipeline.state(LIMIT).0,
            Ok(gst::StateChangeSuccess::Success),
            "{description}"
        );
        run_to_eos(&pipeline);
        let seen = seen.lock().unwrap();
        assert_begins_well(&seen);
        assert_eq!(caps_of(&seen).len(), 1, "{description}");
        let inferred = match (&of, interval) {
            (Some(_), 1) if description == LABELS => 10,
            (Some(_), _) if description == LABELS => 1,
            _ => 0,
        };
        assert_eq!(times_of(&seen).len(), inferred, "{description}");
    }
}

#[test]
fn the_pad_classes_begins_as_well_where_a_second_pass_may_come() {
    let folder = Folder::new("task-passes");
    let pipeline = launch(&format!(
        "{VIDEO} ! ddsinfer name=i ! fakesink i.classes ! videoconvert ! fakesink {VIDEO} ! i.refine"
    ));
    let infer = model(&pipeline, &folder, &segmenter(false), LABELS);
    let seen = watch(&infer.static_pad("classes").unwrap());
    pipeline.set_state(gst::State::Paused).unwrap();
    assert_eq!(pipeline.state(LIMIT).0, Ok(gst::StateChangeSuccess::Success));
    run_to_eos(&pipeline);
    let seen = seen.lock().unwrap();
    assert_begins_well(&seen);
    assert_eq!(caps_of(&seen), [caps(160, 128, (30, 1), (1, 1))]);
    assert_eq!(times_of(&seen).len(), 10);
}

#[test]
fn a_seek_flushes_the_pad_classes_and_pictures_are_timed_anew() {
    let folder = Folder::new("task-flush");
    let pipeline = launch(
        "videotestsrc ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 ! ddsinfer name=i ! fakesink \
         i.classes ! videoconvert ! fakesink",
    );
    let infer = model(&pipeline, &folder, &segmenter(false), LABELS);
    let seen = watch(&infer.static_pad("classes").unwrap());
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(LIMIT).0.unwrap();
    let frames_from = |start: gst::ClockTime, frames: u64| {
        let (flags, set) = (gst::SeekFlags::FLUSH, gst::SeekType::Set);
        let stop = start + gst::ClockTime::from_mseconds(frames * 100 / 3);
        pipeline.seek(1.0, flags, set, start, set, stop).unwrap();
    };
    // In the middle of the stream, then after its end.
    frames_from(gst::ClockTime::from_seconds(7), 10);
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_eos(&pipeline);
    let first = std::mem::take(&mut *seen.lock().unwrap());
    assert_begins_well(&first);
    assert_eq!(caps_of(&first), [caps(160, 128, (30, 1), (1, 1))]);
    let flushed = first
        .iter()
        .rposition(|p| *p == Passed::Event(gst::EventType::FlushStop));
    let times = times_of(&first[flushed.unwrap()..]);
    assert_eq!((times.len(), times[0]), (10, 7_000_000_000));

    frames_from(gst::ClockTime::ZERO, 10);
    wait_eos(&pipeline);
    pipeline.set_state(gst::State::Null).unwrap();
    let seen = seen.lock().unwrap();
    let times = times_of(&seen);
    assert_eq!((times.len(), times[0]), (10, 0));
    let events = |kind| seen.iter().filter(|p| **p == Passed::Event(kind)).count();
    assert_eq!(
        [
            gst::EventType::FlushStart,
            gst::EventType::FlushStop,
            gst::EventType::Eos
        ]
        .map(events),
        [1, 1, 1]
    );
    assert_eq!(caps_of(&seen), [], "they are known");
}

#[test]
fn the_pad_classes_can_be_requested_while_playing() {
    let folder = Folder::new("task-late");
    let pipeline = launch(
        "videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=128,framerate=50/1 ! ddsinfer name=i \
         ! fakesink",
    );
    let infer = model(&pipeline, &folder, &segmenter(false), LABELS);
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline.state(LIMIT).0.unwrap();
    for _ in 0..3 {
        let pad = infer.request_pad_simple("classes").unwrap();
        let sink = gst::ElementFactory::make("fakesink").property("async", false).build();
        let sink = sink.unwrap();
        // Events pushed before the pad is linked are repeated.
        let seen = watch(&sink.static_pad("sink").unwrap());
        pipeline.add(&sink).unwrap();
        sink.sync_state_with_parent().unwrap();
        pad.link(&sink.static_pad("sink").unwrap()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while times_of(&seen.lock().unwrap()).len() < 3 {
            assert!(std::time::Instant::now() < deadline, "no pictures");
            std::thread::sleep(Duration::from_millis(2));
        }
        infer.release_request_pad(&pad);
        sink.set_state(gst::State::Null).unwrap();
        pipeline.remove(&sink).unwrap();
        let seen = seen.lock().unwrap();
        assert_begins_well(&seen);
        assert_eq!(caps_of(&seen), [caps(160, 128, (50, 1), (1, 1))]);
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

/// Regions that the element requests for each frame of a coded and named stream, and its messages.
fn requested(test: &str, of: &Model, prepare: impl FnOnce(&gst::Element)) -> (Vec<Vec<feedback::Rect>>, Messages) {
    let folder = Folder::new(test);
    let pipeline = launch(
        "videotestsrc num-buffers=10 ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast threads=1 aud=false \
         ! video/x-h264,stream-format=byte-stream,alignment=au ! identity name=named ! avdec_h264 max-threads=1 \
         ! ddsinfer name=i feedback-window-size=32 ! fakesink i.feedback ! fakesink name=f",
    );
    name_frames(&element(&pipeline, "named").static_pad("src").unwrap(), 7);
    prepare(&model(&pipeline, &folder, of, LABELS));
    let messages = Messages::by(&pipeline);
    let packets = collect(&element(&pipeline, "f").static_pad("sink").unwrap());
    run_to_eos(&pipeline);
    let packets = packets.lock().unwrap();
    let parts = packets.iter().map(|p| feedback::decode(p).unwrap());
    let regions = parts.map(|p| p.regions.iter().map(|r| r.rect).collect()).collect();
    (regions, messages)
}

/// The window of 32 pixels that holds the car.
const CAR: feedback::Rect = feedback::Rect {
    x: 40,
    y: 56,
    width: 32,
    height: 32,
};

#[test]
fn a_segmenter_asks_for_quality_where_it_is_uncertain_and_only_there() {
    let (regions, messages) = requested("task-doubt", &segmenter(false), |_| ());
    assert_eq!(regions, vec![vec![CAR]; 10]);
    assert!(messages.warnings.lock().unwrap().is_empty());
    let results = messages.results.lock().unwrap();
    assert!(results.iter().all(|r| structures(r, "regions").len() == 1));

    let (regions, _) = requested("task-sure", &segmenter(true), |_| ());
    assert_eq!(regions, vec![vec![]; 10]);
}

#[test]
fn quality_is_asked_for_the_classes_of_interest_only() {
    for (wanted, count) in [("car", 1), ("sky", 1), ("road", 0), ("sky, road", 1), ("", 1)] {
        let (regions, messages) = requested("task-interest", &segmenter(false), |i| {
            i.set_property("feedback-classes", wanted);
        });
        assert_eq!(regions, vec![vec![CAR; count]; 10], "{wanted}");
        assert!(messages.warnings.lock().unwrap().is_empty(), "{wanted}");
    }
}

#[test]
fn classes_of_interest_that_the_model_does_not_have_are_told_of_at_the_start() {
    for (wanted, count) in [("cra, car, class 1", 1), ("cra, class 1", 0)] {
        let (regions, messages) = requested("task-unknown", &segmenter(false), |i| {
            i.set_property("feedback-classes", wanted);
        });
        assert_eq!(
            regions,
            vec![vec![CAR; count]; 10],
            "a name that is none widens nothing"
        );
        let warnings = messages.warnings.lock().unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_words(
            &warnings[0],
            &["feedback-classes", "no class cra, class 1;", "road, car, sky"],
        );
    }
}

#[test]
fn classes_of_interest_mean_nothing_to_a_detector_and_it_says_so() {
    let folder = Folder::new("task-interest-detector");
    let pipeline = launch(&format!("{VIDEO} ! ddsinfer name=i feedback-classes=car ! fakesink"));
    model(&pipeline, &folder, &detector(), "family=yolov8");
    let messages = Messages::by(&pipeline);
    run_to_eos(&pipeline);
    let warnings = messages.warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_words(&warnings[0], &["feedback-classes", "segmentation"]);
}

#[test]
fn segmentation_forced_on_a_detector_is_one_error() {
    let folder = Folder::new("task-forced");
    for (of, words) in [
        (detector(), &["task says segmentation", "output0 [1, 6, 84]", "8.3"][..]),
        (
            embedder(),
            &["task says segmentation", "embedding [1, 2]", "do not fit"],
        ),
    ] {
        let pipeline = launch(&format!("{VIDEO} ! ddsinfer name=i task=segmentation ! fakesink"));
        model(&pipeline, &folder, &of, "");
        assert_words(&refusal(&pipeline), words);
    }
}

#[test]
fn faces_forced_on_another_model_are_one_error() {
    let folder = Folder::new("task-no-faces");
    for (of, description) in [(detector(), "family=yolov8"), (segmenter(false), "")] {
        let pipeline = launch(&format!("{VIDEO} ! ddsinfer name=i task=face ! fakesink"));
        model(&pipeline, &folder, &of, description);
        refusal(&pipeline);
    }
    let pipeline = launch(&format!("{VIDEO} ! ddsinfer name=i task=face ! fakesink"));
    model(&pipeline, &folder, &detector(), "family=yolov8");
    assert_words(&refusal(&pipeline), &["task says face", "yolov8", "landmarks", "yunet"]);
}

#[test]
fn a_tensor_that_the_model_does_not_have_is_one_error() {
    let folder = Folder::new("task-extra");
    let pipeline = launch(&format!(
        "{VIDEO} ! ddsinfer name=i extra-outputs=mean,features ! fakesink"
    ));
    model(&pipeline, &folder, &segmenter(false), LABELS);
    assert_words(
        &refusal(&pipeline),
        &["model.onnx", "no tensor features", "extra-outputs"],
    );
}

/// A pipeline of 64x64 gray frames, pushed one by one.
struct Camera {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    infer: gst::Element,
    messages: Messages,
    lines: Receiver<Value>,
    /// Structures of the metas of each frame, by name.
    metas: Receiver<Vec<gst::Structure>>,
    folder: Folder,
}

impl Camera {
    /// Not started yet; `detector` finds the faces.
    fn new(test: &str, detector: &Model, properties: &str) -> Self {
        let folder = Folder::new(test);
        let pipeline = launch(&format!(
            "appsrc name=a format=time caps=video/x-raw,format=RGB,width=64,height=64,framerate=10/1 \
             ! ddsinfer name=i {properties} ! fakesink name=s sync=false i.results ! fakesink name=r sync=false"
        ));
        let infer = model(&pipeline, &folder, detector, "");
        let (sent, lines) = channel();
        let results = element(&pipeline, "r").static_pad("sink").unwrap();
        results.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let line = info.buffer().unwrap().map_readable().unwrap();
            let _ = sent.send(serde_json::from_slice(&line).unwrap());
            gst::PadProbeReturn::Ok
        });
        let (sent, metas) = channel();
        let video = element(&pipeline, "s").static_pad("sink").unwrap();
        video.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let metas = info
                .buffer()
                .unwrap()
                .iter_meta::<gst_video::VideoRegionOfInterestMeta>();
            let _ = sent.send(
                metas
                    .flat_map(|m| m.params().map(|s| s.to_owned()).collect::<Vec<_>>())
                    .collect(),
            );
            gst::PadProbeReturn::Ok
        });
        Self {
            source: element(&pipeline, "a").downcast().unwrap(),
            messages: Messages::by(&pipeline),
            pipeline,
            infer,
            lines,
            metas,
            folder,
        }
    }

    fn embed(self) -> Self {
        let file = self.folder.file("embedder.onnx", &embedder().bytes());
        set_path(&self.infer, "embedding-model-file", &file);
        self
    }

    /// A directory in which Ada is bright and Bob is dark.
    fn people(self) -> Self {
        let people = self.folder.path("people");
        std::fs::create_dir_all(&people).unwrap();
        for (name, grey) in [("Ada.png", 250), ("Bob.png", 5)] {
            let picture = RgbImage::from_pixel(64, 64, image::Rgb([grey; 3]));
            picture.save(people.join(name)).unwrap();
        }
        set_path(&self.infer, "gallery", &people);
        self
    }

    fn start(self) -> Self {
        self.pipeline.set_state(gst::State::Playing).unwrap();
        self
    }

    /// The result of one frame, and the structures of its metas.
    fn look(&self, grey: u8) -> (Value, Vec<gst::Structure>) {
        let mut buffer = gst::Buffer::from_mut_slice(vec![grey; 3 * 64 * 64]);
        buffer.make_mut().set_pts(gst::ClockTime::ZERO);
        self.source.push_buffer(buffer).unwrap();
        let wait = Duration::from_secs(30);
        let line = self.lines.recv_timeout(wait);
        let line = line.unwrap_or_else(|_| panic!("no result: {:?}", self.messages.errors.lock().unwrap()));
        (line, self.metas.recv_timeout(wait).unwrap())
    }

    fn refusal(self) -> String {
        refusal(&self.pipeline)
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

#[test]
fn faces_without_an_embedder_have_boxes_and_landmarks() {
    for task in ["task=face", "task=auto", "task=detection"] {
        let camera = Camera::new("task-face", &yunet(), task).start();
        let (line, metas) = camera.look(100);
        let objects = line["objects"].as_array().unwrap();
        assert_eq!(objects.len(), 1, "{task}");
        let face = &objects[0];
        assert_eq!((&face["label"], &face["score"]), (&json!("face"), &json!(0.9)));
        assert_eq!(
            [&face["x"], &face["y"], &face["width"], &face["height"]],
            [&json!(8), &json!(16), &json!(32), &json!(48)]
        );
        let points = [[16.0, 32.0], [32.0, 32.0], [24.0, 40.0], [16.0, 48.0], [32.0, 48.0]];
        assert_eq!(face["landmarks"], json!(points));
        assert_eq!((face.get("identity"), face.get("similarity")), (None, None));
        assert_eq!(
            metas.iter().map(|s| s.name().as_str()).collect::<Vec<_>>(),
            ["detection"]
        );
    }
}

/// Name and similarity of the only face; results, message and meta agree.
fn identity(camera: &Camera, grey: u8) -> (Option<String>, f64) {
    let (line, metas) = camera.look(grey);
    let face = &line["objects"][0];
    let name = face["identity"].as_str().map(str::to_owned);
    assert!(name.is_some() || face.get("identity") == Some(&Value::Null), "{face}");
    let similarity = face["similarity"].as_f64().unwrap();

    let posted = camera.messages.results.lock().unwrap();
    let object = structures(posted.last().unwrap(), "objects").remove(0);
    assert_eq!(object.get::<String>("identity").ok(), name);
    assert!((object.get::<f64>("similarity").unwrap() - similarity).abs() < 1e-4);

    let meta = metas.iter().find(|s| s.name() == "face").unwrap();
    assert_eq!(meta.get::<String>("identity").ok(), name);
    assert!((meta.get::<f64>("similarity").unwrap() - similarity).abs() < 1e-4);
    assert!(metas.iter().any(|s| s.name() == "detection"));
    (name, similarity)
}

#[test]
fn faces_of_a_gallery_are_named_in_results_messages_and_metas_and_strangers_are_not() {
    let check = |camera: &Camera| {
        for (grey, wanted) in [(245, Some("Ada")), (10, Some("Bob")), (128, None), (250, Some("Ada"))] {
            let (name, similarity) = identity(camera, grey);
            assert_eq!(name.as_deref(), wanted, "{grey}: {similarity}");
            assert_eq!(similarity > 0.95, wanted.is_some(), "{grey}: {similarity}");
        }
        assert!(camera.messages.warnings.lock().unwrap().is_empty());
    };
    let threshold = "similarity-threshold=0.9";
    check(
        &Camera::new("task-gallery", &yunet(), threshold)
            .embed()
            .people()
            .start(),
    );

    // The same people as a file: the embeddings of a bright and a dark face.
    let camera = Camera::new("task-gallery-file", &yunet(), threshold).embed();
    let people = json!({"version": 1, "dimension": 2, "faces": [
        {"name": "Ada", "embedding": [1.0, 0.96]},
        {"name": "Bob", "embedding": [1.0, -0.96]},
    ]});
    let file = camera.folder.file("people.json", people.to_string().as_bytes());
    set_path(&camera.infer, "gallery", &file);
    check(&camera.start());
}

#[test]
fn an_embedder_without_a_gallery_finds_faces_and_says_that_it_is_of_no_use() {
    let camera = Camera::new("task-alone", &yunet(), "").embed().start();
    let (line, metas) = camera.look(250);
    let face = &line["objects"][0];
    assert_eq!((face.get("identity"), face.get("similarity")), (None, None));
    assert!(face.get("landmarks").is_some() && metas.iter().all(|s| s.name() != "face"));
    let warnings = camera.messages.warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_words(&warnings[0], &["embedding-model-file", "set gallery"]);
}

#[test]
fn the_limits_of_recognition_may_change_while_playing() {
    let camera = Camera::new("task-live", &yunet(), "").embed().people().start();
    for (threshold, known) in [(0.9f32, false), (0.5, true), (0.9, false)] {
        camera.infer.set_property("similarity-threshold", threshold);
        assert_eq!(identity(&camera, 150).0.is_some(), known, "{threshold}");
    }
    for (size, compared) in [(33u32, false), (32, true), (33, false)] {
        camera.infer.set_property("min-face-size", size);
        let (line, metas) = camera.look(250);
        let face = &line["objects"][0];
        assert_eq!(face.get("similarity").is_some(), compared, "{size}");
        assert_eq!(face.get("identity").is_some(), compared, "{size}");
        assert_eq!(metas.iter().any(|s| s.name() == "face"), compared, "{size}");
        assert!(face.get("landmarks").is_some());
    }
}

#[test]
fn classes_of_interest_that_the_model_does_not_have_are_told_of_when_they_are_set() {
    let camera = Camera::new("task-set", &segmenter(false), "").start();
    camera.look(0);
    assert!(camera.messages.warnings.lock().unwrap().is_empty());
    // The model has no labels.
    for (wanted, warnings) in [("class 2", 0), ("class 1, tree", 1), ("class 1, tree", 1), ("tree", 2)] {
        camera.infer.set_property("feedback-classes", wanted);
        camera.look(0);
        let messages = camera.messages.warnings.lock().unwrap();
        assert_eq!(messages.len(), warnings, "{wanted}: {messages:?}");
        if let Some(last) = messages.last() {
            assert_words(last, &["feedback-classes", "no class tree;", "class 0"]);
        }
    }
}

#[test]
fn settings_of_recognition_that_cannot_work_are_one_error_with_the_cure() {
    let camera = || Camera::new("task-wrong", &yunet(), "");
    assert_words(&camera().people().refusal(), &["gallery", "set embedding-model-file"]);

    let only = camera().embed();
    only.infer.set_property("model-file", None::<String>);
    assert_words(&only.refusal(), &["embedding-model-file", "set model-file", "YuNet"]);

    let task = camera().embed();
    task.infer.set_property_from_str("task", "segmentation");
    assert_words(&task.refusal(), &["embedding-model-file", "task=face"]);

    let nobody = camera().embed();
    set_path(&nobody.infer, "gallery", &nobody.folder.path("nobody"));
    assert_words(
        &nobody.refusal(),
        &["gallery: ", "nobody", "No such file", "a directory of pictures"],
    );

    let finder = camera();
    let file = finder.folder.file("finder.onnx", &detector().bytes());
    set_path(&finder.infer, "embedding-model-file", &file);
    assert_words(
        &finder.refusal(),
        &[
            "embedding-model-file: ",
            "finder.onnx",
            "output0 is [1, 6, 84]",
            "one vector [1, D]",
        ],
    );

    let other = Camera::new("task-other", &detector(), "").embed();
    other.infer.set_property("model-description", "family=yolov8");
    let error = other.refusal();
    assert_words(&error, &["model.onnx", "landmarks", "YuNet"]);
    assert!(!error.contains("embedding-model-file"), "{error}");
}

#[test]
fn a_description_that_an_embedder_does_not_read_is_one_error() {
    for (line, words) in [
        ("dds-task=face", ["embedding-model-file: ", "dds-task", "leave it out"]),
        (
            "dds-objectness=embedding",
            ["embedding-model-file: ", "dds-objectness", "leave it out"],
        ),
    ] {
        let camera = Camera::new("task-unread", &yunet(), "").embed();
        let side = format!("[modelinfo]\nversion=1.0\n{line}\n");
        camera.folder.file("embedder.onnx.modelinfo", side.as_bytes());
        assert_words(&camera.refusal(), &words);
    }
}
