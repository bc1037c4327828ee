// SPDX-License-Identifier: MPL-2.0

//! The rate of a camera that knows wishes: what the element asks for, and results of captured pictures that were not sent.

mod element;
#[path = "common/onnx.rs"]
mod onnx;

use dds_protocol::extension::{Bound, Bounds, Extension, InForce};
use dds_protocol::feedback;
use element::*;
use gst::prelude::*;
use onnx::{Folder, Model, Output};
use serde_json::Value;

const INPUT: [usize; 4] = [1, 3, 64, 64];
const SENT: u64 = 60;

/// A detector (YOLOv8) that finds one car where it always is.
fn detector() -> (Model, &'static str) {
    let row = |at: usize| match at {
        0 | 1 => 32.0,
        2 | 3 => 16.0,
        _ => 0.001,
    };
    let mut rows: Vec<f32> = (0..6).flat_map(|part| [row(part); 84]).collect();
    rows[5 * 84] = 0.9;
    let model = Model::new(&INPUT, vec![Output::new("output0", &[1, 6, 84], rows)]);
    (model, "labels=person;car")
}

/// A segmenter that is certain.
fn segmenter() -> (Model, &'static str) {
    let scores = (0..3 * 16 * 16).map(|i| if i < 256 { 1.0 } else { 0.0 }).collect();
    let model = Model::new(&INPUT, vec![Output::new("scores", &[1, 3, 16, 16], scores)]);
    (model, "labels=road;car;sky, scores=probability")
}

/// A YuNet that finds one face, 32 pixels wide.
fn faces() -> (Model, &'static str) {
    let mut outputs = Vec::new();
    for (stride, cells) in [(8, 64), (16, 16), (32, 4)] {
        for (part, row) in [
            ("cls", &[0.9][..]),
            ("obj", &[0.9]),
            ("bbox", &[0.5, 0.5, std::f32::consts::LN_2, 1.0986]),
            ("kps", &[0.0; 10]),
        ] {
            let mut values = vec![0.0; cells * row.len()];
            if stride == 16 {
                values[9 * row.len()..][..row.len()].copy_from_slice(row);
            }
            outputs.push(Output::new(&format!("{part}_{stride}"), &[1, cells, row.len()], values));
        }
    }
    (Model::new(&INPUT, outputs), "")
}

/// What a run gave.
struct Run {
    /// Wished interval of each packet.
    wishes: Vec<Option<u8>>,
    lines: Vec<Value>,
    stats: gst::Structure,
}

/// Runs `SENT` pictures, every third of 30 captured ones a second, through the element with this model and these properties.
fn run(test: &str, model: Option<&(Model, &str)>, in_force: Option<InForce>, properties: &str) -> Run {
    let folder = Folder::new(test);
    let pipeline = launch(&format!(
        "videotestsrc num-buffers={SENT} pattern=black ! video/x-raw,format=I420,width=160,height=128,framerate=10/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast threads=1 aud=false \
         ! video/x-h264,stream-format=byte-stream,alignment=au ! identity name=named ! avdec_h264 max-threads=1 \
         ! capssetter caps=video/x-raw,framerate=30/1 \
         ! ddsinfer name=i {properties} ! fakesink i.feedback ! fakesink name=f i.results ! fakesink name=r"
    ));
    let extension = Extension {
        in_force,
        ..Extension::default()
    };
    name_frames_with(&element(&pipeline, "named").static_pad("src").unwrap(), 7, 3, extension);
    let infer = element(&pipeline, "i");
    if let Some((model, description)) = model {
        let path = folder.file("model.onnx", &model.bytes());
        infer.set_property("model-file", path.to_str().unwrap());
        if !description.is_empty() {
            infer.set_property("model-description", description);
        }
    }
    if let Some(library) = onnx::library() {
        infer.set_property("onnxruntime-library", library.to_str().unwrap());
    }
    let packets = collect(&element(&pipeline, "f").static_pad("sink").unwrap());
    let lines = collect(&element(&pipeline, "r").static_pad("sink").unwrap());
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_eos(&pipeline);
    let stats = infer.property("stats");
    pipeline.set_state(gst::State::Null).unwrap();
    let packets = packets.lock().unwrap();
    let wish = |packet: &Vec<u8>| feedback::decode(packet).unwrap().wishes.interval.map(|wish| wish.value);
    Run {
        wishes: packets.iter().map(wish).collect(),
        lines: json(&lines),
        stats,
    }
}

fn every_third() -> Option<InForce> {
    Some(InForce {
        interval: 3,
        ..InForce::default()
    })
}

#[test]
fn a_still_scene_needs_few_pictures() {
    let run = run("rate-still", Some(&detector()), every_third(), "");
    assert_eq!(run.wishes.first(), Some(&Some(1)));
    assert_eq!(run.wishes.last(), Some(&Some(5)));
    let count = |field: &str| run.stats.get::<u32>(field).unwrap();
    assert_eq!((count("interval-wished"), count("interval-in-force")), (5, 3));
    assert_eq!(run.stats.get::<&str>("interval-bound"), Ok("none"));
    assert_eq!(
        run.stats.get::<u64>("rate-changes"),
        Ok(1),
        "predictions were checked over six pictures"
    );
    assert_eq!(run.lines.len() as u64, SENT);
    assert!(run.lines.iter().all(|line| line.get("predicted").is_none()));
}

#[test]
fn what_bounds_the_camera_is_in_the_statistics() {
    let bounds = Bounds {
        interval: Bound::Viewer,
        ..Bounds::default()
    };
    let bounded = Some(InForce {
        interval: 1,
        bounds,
        ..InForce::default()
    });
    let run = run("rate-bound", Some(&detector()), bounded, "");
    assert_eq!(run.wishes.last(), Some(&Some(2)));
    assert_eq!(run.stats.get::<&str>("interval-bound"), Ok("viewer"));
}

#[test]
fn a_camera_that_does_not_know_wishes_gets_none() {
    let run = run("rate-old", Some(&detector()), None, "");
    assert_eq!(run.wishes, vec![None; SENT as usize]);
    assert_eq!(run.stats.get::<u32>("interval-in-force"), Ok(0));
}

#[test]
fn all_pictures_are_asked_for_where_the_user_or_the_task_wants_them() {
    for (test, model, properties) in [
        ("rate-off", Some(detector()), "feedback-rate=false"),
        ("rate-segmenter", Some(segmenter()), ""),
        ("rate-faces", Some(faces()), ""),
        ("rate-metas", None, ""),
    ] {
        let run = run(test, model.as_ref(), every_third(), properties);
        let found = run
            .lines
            .iter()
            .any(|line| line["objects"].as_array().is_some_and(|o| !o.is_empty()));
        assert_eq!(found, matches!(test, "rate-off" | "rate-faces"), "{test}");
        assert_eq!(run.wishes, vec![Some(1); SENT as usize], "{test}");
    }
}

#[test]
fn captured_pictures_have_predicted_results_on_the_grid_of_times() {
    let run = run(
        "rate-captured",
        Some(&detector()),
        every_third(),
        "results-rate=captured",
    );
    let captured = 3 * (SENT - 1) + 1;
    let frames: Vec<_> = run.lines.iter().map(|line| line["frame"].as_u64().unwrap()).collect();
    assert_eq!(frames, (0..captured).collect::<Vec<_>>());
    for line in &run.lines {
        let frame = line["frame"].as_u64().unwrap();
        let predicted = frame % 3 != 0;
        assert_eq!(line.get("predicted"), predicted.then_some(&Value::Bool(true)), "{line}");
        let looked_at = predicted.then(|| frame - frame % 3);
        assert_eq!(line.get("looked_at").and_then(Value::as_u64), looked_at, "{line}");
        let pts = frame as f64 * 1e9 / 30.0;
        assert!(
            (line["pts_ns"].as_f64().unwrap() - run.lines[0]["pts_ns"].as_f64().unwrap() - pts).abs() < 10.0,
            "{line}"
        );
        assert_eq!(line["objects"].as_array().unwrap().len(), 1, "{line}");
    }
    assert_eq!(run.stats.get::<u64>("frames-predicted"), Ok(captured - SENT));
}

#[test]
fn frames_between_the_inferred_ones_carry_predicted_results() {
    let run = run(
        "rate-interval",
        Some(&detector()),
        every_third(),
        "results-rate=captured inference-interval=2",
    );
    let predicted = run.lines.iter().filter(|line| line.get("predicted").is_some()).count() as u64;
    assert_eq!(predicted, run.lines.len() as u64 - SENT / 2);
    assert_eq!(run.stats.get::<u64>("frames-not-due"), Ok(SENT / 2));
}
