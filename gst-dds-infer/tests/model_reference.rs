// SPDX-License-Identifier: MPL-2.0

//! Real models on real pictures find what the Python reference finds.
//!
//! Models and clips are not part of this repository: the folder `shared/data` beside it, or the one in the variable
//! `DDS_TEST_DATA`, holds them. Without it these tests print a note and pass. The numbers are those of
//! `reference_decoders.py` (and, for NanoDet, of its recipe in MANIFEST.md) on the first frame, converted by OpenCV:
//! boxes of a score of at least 0.3, suppression at 0.45.

#[path = "common/onnx.rs"]
mod onnx;

use gst::prelude::*;
use gst_video::prelude::*;
use gstddsinfer::model::{Detection, Detector, InferSettings, Picture, PixelLayout};

type Expected = ([f32; 4], f32, u32);

const YOLOX: &[Expected] = &[
    ([1269.1, 583.2, 1478.5, 747.8], 0.900, 2),
    ([455.1, 559.8, 700.6, 721.0], 0.892, 2),
    ([715.5, 437.9, 918.4, 604.0], 0.889, 2),
    ([933.1, 341.5, 964.4, 425.1], 0.855, 0),
    ([985.6, 390.0, 1101.0, 478.3], 0.855, 2),
    ([872.9, 350.4, 900.6, 427.8], 0.830, 0),
    ([1383.9, 268.4, 1458.5, 348.4], 0.800, 5),
    ([1070.2, 358.8, 1156.9, 431.7], 0.794, 2),
    ([1682.4, 326.0, 1743.3, 483.8], 0.734, 9),
    ([1208.4, 324.6, 1229.9, 379.9], 0.586, 0),
    ([1580.8, 257.3, 1616.7, 290.0], 0.583, 2),
    ([1306.3, 333.5, 1367.1, 371.9], 0.583, 2),
    ([1535.3, 210.1, 1551.9, 254.2], 0.509, 9),
    ([1170.8, 324.1, 1194.1, 381.7], 0.469, 0),
    ([1254.8, 322.7, 1302.9, 360.8], 0.468, 2),
    ([456.1, 525.2, 514.0, 647.3], 0.357, 0),
];

const YOLO11: &[Expected] = &[
    ([1267.0, 582.1, 1479.5, 754.1], 0.912, 2),
    ([986.7, 386.8, 1104.4, 478.3], 0.871, 2),
    ([454.0, 560.5, 698.9, 721.8], 0.864, 2),
    ([1687.7, 331.8, 1743.2, 484.1], 0.791, 9),
    ([1073.3, 356.0, 1164.6, 430.2], 0.787, 2),
    ([873.1, 348.2, 898.9, 425.5], 0.748, 0),
    ([932.6, 338.0, 963.7, 424.7], 0.734, 0),
    ([1314.7, 335.3, 1367.4, 374.5], 0.688, 2),
    ([718.8, 435.7, 912.3, 605.7], 0.681, 2),
    ([456.7, 528.4, 512.4, 652.1], 0.672, 0),
    ([1386.1, 269.2, 1459.3, 353.3], 0.629, 5),
    ([1218.1, 348.4, 1293.6, 379.0], 0.532, 2),
    ([1581.4, 263.1, 1613.7, 290.8], 0.309, 2),
    ([1707.5, 290.3, 1920.0, 1075.6], 0.306, 7),
    ([1174.1, 328.2, 1193.2, 381.6], 0.305, 0),
];

const YOLOX_SMALL: &[Expected] = &[
    ([368.6, 172.3, 654.2, 448.2], 0.801, 0),
    ([662.1, 201.5, 756.9, 444.2], 0.799, 0),
    ([277.6, 217.2, 380.2, 447.2], 0.740, 0),
    ([171.0, 286.5, 304.9, 449.0], 0.720, 0),
    ([598.5, 188.9, 683.1, 420.9], 0.698, 0),
    ([151.9, 240.2, 191.0, 295.3], 0.669, 0),
    ([730.0, 146.0, 800.0, 445.9], 0.661, 0),
    ([351.7, 198.5, 453.9, 435.0], 0.648, 0),
    ([10.0, 271.2, 193.3, 448.2], 0.594, 0),
    ([68.8, 213.4, 137.5, 277.3], 0.585, 0),
    ([183.8, 177.5, 302.8, 317.4], 0.565, 0),
    ([504.1, 199.0, 668.9, 443.7], 0.380, 0),
];

const NANODET: &[Expected] = &[
    ([354.5, 175.8, 666.9, 450.0], 0.748, 0),
    ([177.2, 210.9, 349.4, 446.7], 0.453, 0),
    ([149.4, 236.8, 190.4, 292.2], 0.390, 0),
    ([56.7, 211.5, 172.0, 296.7], 0.385, 0),
    ([10.2, 258.0, 221.0, 449.0], 0.383, 0),
    ([178.5, 196.0, 292.2, 315.9], 0.371, 0),
    ([269.1, 223.1, 373.8, 443.1], 0.360, 0),
    ([346.3, 218.1, 448.8, 403.1], 0.355, 0),
    ([518.3, 211.5, 628.7, 293.2], 0.347, 0),
    ([589.5, 188.0, 765.0, 449.7], 0.345, 0),
    ([596.0, 192.7, 677.9, 300.7], 0.340, 0),
    ([385.6, 202.8, 423.1, 238.2], 0.321, 0),
    ([51.8, 214.6, 181.9, 387.2], 0.313, 0),
    ([158.0, 266.5, 268.4, 448.9], 0.309, 0),
];

/// The first frame of an H.264 clip in MP4, as I420.
fn first_frame(clip: &str) -> Option<(gst_video::VideoInfo, gst::Buffer)> {
    gst::init().unwrap();
    let location = onnx::data()?.join("videos").join(clip);
    let pipeline = gst::parse::launch(&format!(
        "filesrc location={} ! qtdemux ! h264parse ! avdec_h264 ! video/x-raw,format=I420 ! appsink name=sink sync=false",
        location.display()
    ))
    .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let sink = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("sink").unwrap();
    let sample = sink.downcast::<gst_app::AppSink>().unwrap().pull_sample().unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
    Some((info, sample.buffer_owned().unwrap()))
}

/// Checks that a model finds `expected` on the first frame of a clip, and little else.
fn check(model: &str, clip: &str, family: &str, expected: &[Expected]) {
    let Some((info, buffer)) = first_frame(clip) else {
        return;
    };
    let frame = gst_video::VideoFrame::from_buffer_readable(buffer, &info).unwrap();
    let plane = |i: u32| frame.plane_data(i).unwrap();
    let strides = [0, 1, 2].map(|i| frame.plane_stride()[i] as usize);
    let picture = Picture::new(
        PixelLayout::I420,
        info.width(),
        info.height(),
        [plane(0), plane(1), plane(2)],
        strides,
    )
    .unwrap();

    let Some(folder) = onnx::data() else { return };
    let mut detector = Detector::open(&onnx::settings(folder.join("models").join(model))).unwrap();
    assert!(detector.summary().starts_with(family), "{}", detector.summary());
    let settings = InferSettings {
        floor: 0.05,
        iou_threshold: 0.45,
        max_detections: 300,
    };
    let found = detector.infer(&picture, &settings).unwrap().detections;
    assert!(found.is_sorted_by(|a, b| a.score >= b.score) && found.iter().all(|d| d.score >= 0.05));
    assert_eq!(
        found,
        detector.infer(&picture, &settings).unwrap().detections,
        "the same picture again"
    );

    // Two overlapping boxes of almost equal score swap at the slightest difference in rounding: one in ten may.
    let missing: Vec<&Expected> = expected
        .iter()
        .filter(|(corners, score, class)| {
            let same = |d: &Detection| d.class == *class && overlap(d, corners) > 0.9 && (d.score - score).abs() < 0.05;
            !found.iter().any(same)
        })
        .collect();
    assert!(
        missing.len() <= expected.len() / 10,
        "{model}: {missing:?} are not in {found:?}"
    );
    // Scores below the reference's limit may be just above it here.
    let more = found.iter().filter(|d| d.score >= 0.35).count();
    assert!(more <= expected.len(), "{model}: {found:?}");
}

fn overlap(d: &Detection, [x1, y1, x2, y2]: &[f32; 4]) -> f32 {
    let w = (d.x2.min(*x2) - d.x1.max(*x1)).max(0.0);
    let h = (d.y2.min(*y2) - d.y1.max(*y1)).max(0.0);
    w * h / ((d.x2 - d.x1) * (d.y2 - d.y1) + (x2 - x1) * (y2 - y1) - w * h)
}

#[test]
fn yolox_finds_what_the_reference_finds_at_full_hd() {
    check("yolox_nano_736x1280.onnx", "sf_street_1080p.mp4", "yolox raw", YOLOX);
}

#[test]
fn yolox_small_finds_what_the_reference_finds() {
    check("yolox_nano_416.onnx", "crowd_faces_450p.mp4", "yolox raw", YOLOX_SMALL);
}

#[test]
fn yolo11_finds_what_the_reference_finds_at_full_hd() {
    check("yolo11n_608x1088.onnx", "sf_street_1080p.mp4", "yolov8", YOLO11);
}

#[test]
fn nanodet_finds_what_the_reference_finds() {
    check(
        "nanodet_m_416.onnx",
        "crowd_faces_450p.mp4",
        "nanodet output per stride",
        NANODET,
    );
}

#[test]
fn models_that_are_no_detectors_are_refused() {
    let Some(folder) = onnx::data() else { return };
    for (model, word) in [
        ("espnetv2_s2_city_512x1024.onnx", "logits [1, 20, 512, 1024]"),
        ("mobilefacenet_112.onnx", "embeddings [1, 128]"),
        ("carn_m_x2.onnx", "sr_rgb"),
    ] {
        let error = Detector::open(&onnx::settings(folder.join("models").join(model)))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(model) && error.contains(word), "{error}");
    }
}
