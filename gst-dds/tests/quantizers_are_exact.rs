// SPDX-License-Identifier: MPL-2.0

//! In quantizer mode every macroblock has exactly the requested quantizer, in the decoded bitstream.

#![cfg(feature = "x264")]

mod common;

use common::{Camera, Quantizers, element, quantizers, region};
use dds_protocol::feedback::Quality;
use gst::prelude::*;

/// Checks that exactly the macroblocks of `inside` (x, y, width, height in macroblocks) differ from `base`.
fn check(frame: &Quantizers, mb_width: usize, base: u8, inside: (usize, usize, usize, usize), qp: u8) {
    for (i, got) in frame.qps.iter().enumerate() {
        let (x, y) = (i % mb_width, i / mb_width);
        let within = (inside.0..inside.0 + inside.2).contains(&x) && (inside.1..inside.1 + inside.3).contains(&y);
        assert_eq!(
            *got,
            if within { qp } else { base },
            "{} frame, macroblock {x},{y}",
            frame.kind
        );
    }
}

#[test]
fn first_frame_background_then_fallback_then_regions_also_on_idr_frames() {
    let mut camera = Camera::new(element(), 320, 240);
    for _ in 0..4 {
        camera.push();
    }
    assert!(camera.feedback(1, 3, &[region(64, 48, 64, 64, Quality::Camera)]));
    camera.push();
    // At once after the base quantizer changed: libx264 left alone would average it with the one before.
    camera.harness.push_upstream_event(
        gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build(),
    );
    camera.push();
    camera.push();
    let frames = quantizers(&camera.stream());
    assert_eq!(frames.len(), 7);
    assert_eq!((frames[0].kind, frames[0].uniform()), ('I', Some(36)));
    for frame in &frames[1..4] {
        assert_eq!((frame.kind, frame.uniform()), ('P', Some(30)));
    }
    assert_eq!([frames[4].kind, frames[5].kind, frames[6].kind], ['P', 'I', 'P']);
    for frame in &frames[4..] {
        check(frame, 20, 36, (4, 3, 4, 4), 26);
    }
    assert_eq!(camera.count("generations-applied"), 1);
    assert_eq!(camera.count("feedback-delay-last-frames"), 1);
}

#[test]
fn regions_keep_their_own_quantizers_and_an_empty_list_ends_them() {
    let mut camera = Camera::new(element(), 320, 240);
    camera.push();
    camera.feedback(
        1,
        0,
        &[
            region(0, 0, 32, 32, Quality::Qp(20)),
            region(256, 192, 64, 48, Quality::Camera),
        ],
    );
    camera.push();
    camera.feedback(2, 1, &[]);
    camera.push();
    let frames = quantizers(&camera.stream());
    for (i, qp) in frames[1].qps.iter().enumerate() {
        let (x, y) = (i % 20, i / 20);
        let want = match (x, y) {
            (0..2, 0..2) => 20,
            (16..20, 12..15) => 26,
            _ => 36,
        };
        assert_eq!(*qp, want, "macroblock {x},{y}");
    }
    assert_eq!(frames[2].uniform(), Some(36));
}

#[test]
fn every_preset_keeps_quantizers_exact() {
    for preset in [
        "None",
        "ultrafast",
        "superfast",
        "veryfast",
        "medium",
        "slower",
        "placebo",
    ] {
        let element = element();
        element.set_property_from_str("speed-preset", preset);
        let mut camera = Camera::new(element, 160, 96);
        camera.push();
        camera.feedback(1, 0, &[region(32, 32, 48, 32, Quality::Camera)]);
        camera.push();
        camera.push();
        let frames = quantizers(&camera.stream());
        assert_eq!(frames[0].uniform(), Some(36), "{preset}");
        for frame in &frames[1..] {
            check(frame, 10, 36, (2, 2, 3, 2), 26);
        }
    }
}

#[test]
fn threads_formats_and_odd_sizes_keep_quantizers_exact() {
    use gst_video::VideoFormat as F;
    for (format, width, height, threads) in [
        (F::Nv12, 320, 240, 2u32),
        (F::Yv12, 322, 242, 1),
        (F::Nv21, 320, 240, 1),
        (F::Y42b, 320, 240, 1),
        (F::Nv16, 320, 240, 1),
        (F::Y444, 320, 240, 1),
        (F::Gray8, 320, 240, 1),
        (F::I420, 318, 230, 4),
    ] {
        let element = element();
        element.set_property("threads", threads);
        let mut camera = Camera::with_format(element, format, width, height);
        camera.push();
        camera.feedback(1, 0, &[region(64, 48, 64, 64, Quality::Camera)]);
        camera.push();
        let frames = quantizers(&camera.stream());
        assert_eq!(frames[0].uniform(), Some(36), "{format:?}");
        check(&frames[1], width.div_ceil(16) as usize, 36, (4, 3, 4, 4), 26);
    }
}

#[test]
fn interlaced_video_keeps_quantizers_exact() {
    let element = element();
    element.set_property("interlaced", true);
    // An odd number of macroblock rows: libx264 codes pairs of them.
    let mut camera = Camera::new(element, 160, 80);
    camera.push();
    camera.feedback(1, 0, &[region(32, 32, 48, 32, Quality::Camera)]);
    camera.push();
    let frames = quantizers(&camera.stream());
    assert_eq!(frames[0].uniform(), Some(36));
    check(&frames[1], 10, 36, (2, 2, 3, 2), 26);
}

#[test]
fn ten_bit_video_keeps_quantizers_exact() {
    use gst_video::VideoFormat as F;
    for format in [F::I42010le, F::I42210le, F::Y44410le] {
        let mut camera = Camera::with_format(element(), format, 160, 96);
        camera.push();
        camera.feedback(1, 0, &[region(32, 32, 48, 32, Quality::Camera)]);
        camera.push();
        let frames = quantizers(&camera.stream());
        // FFmpeg counts from the lowest quantizer of 10-bit video, which is -12.
        assert_eq!(frames[0].uniform(), Some(48), "{format:?}");
        check(&frames[1], 10, 48, (2, 2, 3, 2), 38);
    }
}

#[test]
fn frames_too_large_for_their_level_keep_their_quantizers_too() {
    let element = element();
    for name in ["background-qp", "fallback-qp"] {
        element.set_property(name, 4u32);
    }
    let mut camera = Camera::new(element, 320, 240);
    for _ in 0..5 {
        camera.push();
    }
    // Level 1.3, table A-1: 384 bytes per macroblock and MinCR 2.
    let most = 384 * 11_880 / 30 / 2;
    assert!(camera.units.iter().all(|unit| unit.size() > most), "{most}");
    assert!(
        quantizers(&camera.stream())
            .iter()
            .all(|frame| frame.uniform() == Some(4))
    );
}

#[test]
fn quantizers_change_live() {
    let mut camera = Camera::new(element(), 160, 96);
    camera.push();
    let list = [region(32, 32, 48, 32, Quality::Camera)];
    camera.feedback(1, 0, &list);
    camera.push();
    for (background, inside) in [(37u32, 27u32), (30, 20), (44, 24)] {
        camera.element.set_property("background-qp", background);
        camera.element.set_property("region-qp", inside);
        camera.push();
        camera
            .harness
            .push_upstream_event(gst_video::UpstreamForceKeyUnitEvent::builder().build());
        camera.push();
    }
    let frames = quantizers(&camera.stream());
    for (i, (background, inside)) in [(37, 27), (30, 20), (44, 24)].into_iter().enumerate() {
        check(&frames[2 + 2 * i], 10, background, (2, 2, 3, 2), inside);
        assert_eq!(frames[3 + 2 * i].kind, 'I');
        check(&frames[3 + 2 * i], 10, background, (2, 2, 3, 2), inside);
    }
}

#[test]
fn constant_quantizer_is_exact_and_regions_are_the_difference() {
    for pass in [true, false] {
        let element = element();
        if pass {
            element.set_property_from_str("pass", "quant");
        }
        element.set_property("quantizer", 40u32);
        let mut camera = Camera::new(element, 160, 96);
        for _ in 0..3 {
            camera.push();
        }
        camera.feedback(1, 2, &[region(32, 32, 48, 32, Quality::Camera)]);
        camera.push();
        let frames = quantizers(&camera.stream());
        for frame in &frames[..3] {
            assert_eq!(frame.uniform(), Some(40));
        }
        check(&frames[3], 10, 40, (2, 2, 3, 2), 30);
    }
}

#[test]
fn input_regions_act_on_their_frame_and_no_other() {
    let mut camera = Camera::new(element(), 160, 96);
    camera.push();
    let mut picture = camera.picture();
    {
        let picture = picture.make_mut();
        let mut meta = gst_video::VideoRegionOfInterestMeta::add(picture, "face", (32, 32, 48, 32));
        meta.add_param(
            gst::Structure::builder("roi/ddsencode")
                .field("delta-qp", -8i32)
                .build(),
        );
        // One of another element, and one of ours without its number.
        gst_video::VideoRegionOfInterestMeta::add(picture, "car", (0, 0, 16, 16));
        let mut meta = gst_video::VideoRegionOfInterestMeta::add(picture, "car", (0, 0, 16, 16));
        meta.add_param(
            gst::Structure::builder("roi/ddsencode")
                .field("delta-qp", "low")
                .build(),
        );
    }
    camera.push_buffer(picture);
    camera.push();
    let frames = quantizers(&camera.stream());
    check(&frames[1], 10, 30, (2, 2, 3, 2), 22);
    assert_eq!(frames[2].uniform(), Some(30));
    assert_eq!(
        (
            camera.count("roi-applied"),
            camera.count("roi-foreign"),
            camera.count("roi-malformed")
        ),
        (1, 1, 1)
    );
}

#[test]
fn a_cap_that_does_not_bite_leaves_quantizers_alone() {
    let element = element();
    element.set_property("max-bitrate", 300_000u32);
    let mut camera = Camera::new(element, 160, 96);
    camera.push();
    camera.feedback(1, 0, &[region(32, 32, 48, 32, Quality::Camera)]);
    camera.push();
    camera.push();
    let frames = quantizers(&camera.stream());
    assert_eq!(frames[0].uniform(), Some(36));
    check(&frames[1], 10, 36, (2, 2, 3, 2), 26);
    check(&frames[2], 10, 36, (2, 2, 3, 2), 26);
}

#[test]
fn a_live_cap_bites_and_goes_again() {
    for cap in [1_500u32, 4_000] {
        let mut camera = Camera::new(element(), 320, 240);
        let mut bytes = Vec::new();
        for frame in 0..150u16 {
            match frame {
                30 => camera.element.set_property("max-bitrate", cap),
                120 => camera.element.set_property("max-bitrate", 0u32),
                _ => {}
            }
            if frame % 20 == 10 {
                let x = u32::from(frame);
                camera.feedback(frame, u64::from(frame) - 1, &[region(x, 0, 96, 160, Quality::Camera)]);
            }
            if frame % 50 == 45 {
                let event = gst_video::UpstreamForceKeyUnitEvent::builder().build();
                camera.harness.push_upstream_event(event);
            }
            bytes.push(camera.push().size());
        }
        let kbps = |second: &[usize]| second.iter().sum::<usize>() * 8 / 1000;
        assert!(
            kbps(&bytes[..30]) > 4_500,
            "the test needs video above its cap: {}",
            kbps(&bytes[..30])
        );
        for (i, second) in bytes[30..120].windows(30).enumerate() {
            assert!(
                kbps(second) <= cap as usize * 105 / 100,
                "{cap}: second from {}: {}",
                30 + i,
                kbps(second)
            );
        }
        let frames = quantizers(&camera.stream());
        let last = &frames[149];
        assert!(last.qps.iter().all(|qp| [26, 36].contains(qp)), "{:?}", last.qps);
    }
}

/// Promises that hold for every encoder.
const FOR_EVERY_ENCODER: [&str; 9] = [
    "first_frame_background_then_fallback_then_regions_also_on_idr_frames",
    "regions_keep_their_own_quantizers_and_an_empty_list_ends_them",
    "every_preset_keeps_quantizers_exact",
    "frames_too_large_for_their_level_keep_their_quantizers_too",
    "quantizers_change_live",
    "constant_quantizer_is_exact_and_regions_are_the_difference",
    "input_regions_act_on_their_frame_and_no_other",
    "a_cap_that_does_not_bite_leaves_quantizers_alone",
    "a_live_cap_bites_and_goes_again",
];

#[test]
fn all_of_this_holds_with_nvenc_too() {
    let log = common::on_fake_nvenc(&FOR_EVERY_ENCODER, &fake_nvenc::NAMES, "");
    // The base may change in every picture, and only the map changes for the driver: a cap needs more.
    let reconfigured = log
        .of("reconfigure")
        .all(|line| line.contains("mode=1") || line.contains("mode=0"));
    assert!(reconfigured && log.pictures().len() > 300);
}

#[test]
fn all_of_this_holds_on_cuda_memory_too() {
    // `cudaupload` of 1.22 drops the metas of regions.
    const NOT_HERE: &str = "input_regions_act_on_their_frame_and_no_other";
    let tests: Vec<_> = FOR_EVERY_ENCODER.into_iter().filter(|test| *test != NOT_HERE).collect();
    let pictures = common::on_fake_cuda(&tests, "").pictures();
    assert!(pictures.len() > 100 && pictures.iter().all(|picture| picture.on_gpu));
}
