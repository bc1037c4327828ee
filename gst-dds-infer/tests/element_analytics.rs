// SPDX-License-Identifier: MPL-2.0

//! If GStreamer has analytics metas (1.24), objects are attached as those too, unless that is switched off, and
//! upstream's overlay draws them; without them only they are missing.

mod element;
#[path = "common/onnx.rs"]
mod onnx;

use std::sync::{Arc, Mutex};

use element::*;
use gst::prelude::*;
use onnx::{Folder, Model, Output};

/// A detector (YOLOv8, of an input of 64 x 64) that always sees two objects.
fn model() -> Model {
    let mut rows = vec![0.001; 6 * 84];
    for (anchor, cx, cy, class) in [(0, 16.0, 20.0, 0), (1, 44.0, 40.0, 1)] {
        for (row, value) in [cx, cy, 12.0, 16.0].into_iter().enumerate() {
            rows[row * 84 + anchor] = value;
        }
        rows[(4 + class) * 84 + anchor] = 0.9;
    }
    Model::new(&[1, 3, 64, 64], vec![Output::new("output0", &[1, 6, 84], rows)])
}

/// Metas of one frame: ids of its regions of interest, and the names of all meta types.
type Seen = (Vec<i32>, Vec<String>);

/// Runs three black frames, with `more` after the element; returns their metas and luma.
fn run(name: &str, properties: &str, more: &str) -> (Vec<Seen>, Vec<Vec<u8>>) {
    let folder = Folder::new(name);
    let pipeline = launch(&format!(
        "videotestsrc num-buffers=3 pattern=black ! video/x-raw,format=GRAY8,width=64,height=64 \
         ! ddsinfer name=i {properties} ! {more} fakesink name=s"
    ));
    let infer = element(&pipeline, "i");
    let file = folder.file("model.onnx", &model().bytes());
    infer.set_property("model-file", file.to_str().unwrap());
    infer.set_property("model-description", "labels=person;car");
    if let Some(library) = onnx::library() {
        infer.set_property("onnxruntime-library", library.to_str().unwrap());
    }
    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let log = seen.clone();
    infer
        .static_pad("src")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let buffer = info.buffer().unwrap();
            let regions = buffer.iter_meta::<gst_video::VideoRegionOfInterestMeta>();
            let ids = regions.map(|r| r.id()).collect();
            let kinds = buffer.iter_meta::<gst::Meta>().map(|m| m.api().name().to_string());
            log.lock().unwrap().push((ids, kinds.collect()));
            gst::PadProbeReturn::Ok
        });
    let out = collect(&element(&pipeline, "s").static_pad("sink").unwrap());
    run_to_eos(&pipeline);
    let told = stat(&infer, "analytics-metas");
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let with = seen.iter().filter(|(_, kinds)| analytics(kinds) == 1).count();
    assert_eq!(told, with as u64, "stats");
    let out = out.lock().unwrap().clone();
    (seen, out)
}

fn analytics(kinds: &[String]) -> usize {
    kinds
        .iter()
        .filter(|k| k.starts_with("GstAnalyticsRelationMeta"))
        .count()
}

#[test]
fn objects_are_analytics_metas_where_gstreamer_has_them() {
    let (seen, _) = run("analytics_on", "", "");
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|(ids, _)| ids.len() == 2), "regions of interest always");
    if gst::version() < (1, 24, 0, 0) || seen.iter().all(|(_, kinds)| analytics(kinds) == 0) {
        let (major, minor, ..) = gst::version();
        assert!(seen.iter().all(|(_, kinds)| analytics(kinds) == 0));
        println!("skipped: no libgstanalytics-1.0 with GStreamer {major}.{minor}");
        return;
    }
    for (ids, kinds) in seen {
        assert_eq!(analytics(&kinds), 1, "{kinds:?}");
        assert_ne!(ids[0], ids[1], "one id for both kinds of meta");
    }
}

#[test]
fn analytics_metas_can_be_switched_off() {
    let (seen, _) = run("analytics_off", "analytics-meta=false", "");
    assert!(seen.iter().all(|(ids, kinds)| ids.len() == 2 && analytics(kinds) == 0));
}

#[test]
fn the_overlay_of_upstream_draws_the_boxes() {
    init();
    if gst::ElementFactory::find("objectdetectionoverlay").is_none() {
        println!("skipped: no objectdetectionoverlay");
        return;
    }
    let (_, drawn) = run("analytics_drawn", "", "objectdetectionoverlay draw-labels=false !");
    let ground = drawn[0][64 * 63 + 63];
    for pixels in drawn {
        let changed = |x: usize, y: usize| pixels[64 * y + x].abs_diff(ground) > 60;
        // The left edges of both boxes, within a pixel.
        for (left, middle) in [(10, 20), (38, 40)] {
            assert!((left - 2..left + 3).any(|x| changed(x, middle)), "no box at {left}");
        }
        assert!(
            !changed(16, 20) && !changed(44, 40) && !changed(60, 5),
            "something else was drawn"
        );
    }
}
