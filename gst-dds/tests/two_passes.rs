// SPDX-License-Identifier: MPL-2.0

//! In two passes the first stream is uniform, and the second contains exactly the requested regions, of exactly the
//! frames they were requested of.

#![cfg(feature = "x264")]

mod common;

use std::sync::mpsc;
use std::time::Duration;

use common::refined::{PATIENCE, Refined};
use common::{Camera, STREAM, decodes, element, ffmpeg_reads, identity, quantizers, region};
use dds_protocol::extension::Extension;
use dds_protocol::feedback::{Quality, Rect, Region};
use dds_protocol::identity::{FrameIdentity, StreamKind};
use dds_protocol::nal::{Codec, Format};
use gst::prelude::*;
use gst_video::VideoFormat;
use gst_video::prelude::*;

fn two_pass(settings: &[(&str, &str)]) -> gst::Element {
    let element = element();
    element.set_property_from_str("mode", "two-pass");
    for (name, value) in settings {
        element.set_property_from_str(name, value);
    }
    element
}

/// Identity and records of a byte-stream access unit.
fn records(unit: &gst::Buffer) -> (FrameIdentity, Extension) {
    let extension = Codec::H264
        .summarize(&unit.map_readable().unwrap(), Format::ByteStream)
        .extension;
    (identity(unit), extension)
}

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect { x, y, width, height }
}

/// A region of the frame so many frames after the one that feedback derives from.
fn later(frame_offset: u8, x: u32, y: u32, width: u32, height: u32) -> Region {
    Region {
        frame_offset,
        ..region(x, y, width, height, Quality::Camera)
    }
}

/// Luma of the frames of a byte-stream in sequence, in the samples' own depth.
fn luma(stream: &[u8], deep: bool) -> Vec<u8> {
    let format = if deep { "gray10le" } else { "gray" };
    let decode = ["-v", "error", "-f", "h264", "-i", "-", "-vf", "extractplanes=y"];
    let write = ["-fps_mode", "passthrough", "-pix_fmt", format, "-f", "rawvideo", "-"];
    let output = ffmpeg_reads(stream, decode.into_iter().chain(write));
    // FFmpeg's errors appear in the test's output.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Mean squared error of luma in a rectangle of a frame.
fn error(a: &[u8], b: &[u8], width: usize, height: usize, deep: bool, rect: &Rect) -> f64 {
    let bytes = if deep { 2 } else { 1 };
    assert!(a.len() >= width * height * bytes && b.len() >= width * height * bytes);
    let sample = |data: &[u8], x: usize, y: usize| {
        let at = (y * width + x) * bytes;
        let high = if deep { data[at + 1] } else { 0 };
        f64::from(u16::from_le_bytes([data[at], high]))
    };
    let (mut sum, mut count) = (0.0, 0.0);
    for y in rect.y as usize..((rect.y + rect.height) as usize).min(height) {
        for x in rect.x as usize..((rect.x + rect.width) as usize).min(width) {
            sum += (sample(a, x, y) - sample(b, x, y)).powi(2);
            count += 1.0;
        }
    }
    sum / count
}

/// Luma of a captured picture.
fn source_luma(picture: &gst::Buffer, info: &gst_video::VideoInfo) -> Vec<u8> {
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(picture, info).unwrap();
    let row = info.width() as usize * if info.format_info().depth()[0] > 8 { 2 } else { 1 };
    let stride = frame.plane_stride()[0] as usize;
    let data = frame.plane_data(0).unwrap();
    let rows = data.chunks(stride).take(info.height() as usize);
    rows.flat_map(|line| line[..row].to_vec()).collect()
}

#[test]
fn the_second_stream_begins_with_one_black_picture() {
    let element = two_pass(&[]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 320, 240);
    camera.push();
    let black = refined.unit();
    let (identity, extension) = records(&black);
    assert_eq!(
        (identity.kind, identity.frame, identity.access_unit),
        (StreamKind::Refine, 0, 0)
    );
    assert_eq!((identity.stream_id, identity.recovery), (STREAM, true));
    assert_eq!(extension, Extension::default());
    assert_eq!(black.pts(), camera.units[0].pts());
    assert!(!black.flags().contains(gst::BufferFlags::DELTA_UNIT));
    assert!(luma(&refined.stream(), false).iter().all(|sample| *sample == 16));
    let caps = refined.pad.current_caps().unwrap();
    let s = caps.structure(0).unwrap();
    assert_eq!((s.get::<i32>("width"), s.get::<i32>("height")), (Ok(320), Ok(240)));
    assert_eq!(s.get::<gst::Fraction>("framerate"), Ok(gst::Fraction::new(30, 1)));
    let (identity, extension) = records(&camera.units[0]);
    assert_eq!(
        (identity.kind, extension.full_size),
        (StreamKind::Low, Some((320, 240)))
    );
}

#[test]
fn exactly_the_regions_asked_for_are_refined_in_the_frames_they_were_asked_of() {
    let all = [
        VideoFormat::I420,
        VideoFormat::Nv12,
        VideoFormat::Y444,
        VideoFormat::I42010le,
    ];
    // NVENC takes 4:2:0 of 8 bits.
    let formats = if fake_nvenc::encoder() == "x264" {
        &all[..]
    } else {
        &all[..2]
    };
    for &format in formats {
        for canvas in ["black", "hold"] {
            let element = two_pass(&[("refine-canvas", canvas)]);
            let deep = format == VideoFormat::I42010le;
            let mut refined = Refined::new(&element);
            let mut camera = Camera::with_format(element, format, 328, 248);
            let mut sources = Vec::new();
            for _ in 0..6 {
                let picture = camera.picture();
                sources.push(source_luma(&picture, &camera.info));
                camera.push_buffer(picture);
            }
            // At the same quantizer throughout, in one pass.
            let uniform = element_of_quantizer("26");
            let mut reference = Camera::with_format(uniform, format, 328, 248);
            for _ in 0..6 {
                reference.push();
            }
            let reference = luma(&reference.stream(), deep);

            assert!(camera.feedback(1, 2, &[region(64, 48, 32, 64, Quality::Camera), later(2, 0, 0, 24, 24)]));
            assert!(camera.feedback(
                2,
                5,
                &[region(296, 200, 32, 48, Quality::Qp(20)), later(0, 64, 48, 16, 16)]
            ));
            let wanted = [
                (2, vec![rect(64, 48, 32, 64)]),
                (4, vec![rect(0, 0, 32, 32)]),
                (5, vec![rect(288, 192, 48, 64), rect(64, 48, 16, 16)]),
            ];
            assert_eq!(records(&refined.unit()).1, Extension::default());
            for (i, (frame, rects)) in wanted.iter().enumerate() {
                let unit = refined.unit();
                let (identity, extension) = records(&unit);
                assert_eq!((identity.frame, identity.access_unit), (*frame, i as u32 + 1));
                assert_eq!(&extension.refined, rects);
                assert_eq!(unit.pts(), camera.units[*frame as usize].pts());
                assert!(unit.flags().contains(gst::BufferFlags::DELTA_UNIT));
            }
            let pictures = luma(&refined.stream(), deep);
            let size = pictures.len() / 4;
            // Over all rectangles: one macroblock alone may be unlucky.
            let (mut got, mut uniform) = (0.0, 0.0);
            for (i, (frame, rects)) in wanted.iter().enumerate() {
                let (picture, at) = (&pictures[size * (i + 1)..], *frame as usize);
                for rect in rects {
                    let area = f64::from(rect.width * rect.height);
                    got += area * error(&sources[at], picture, 328, 248, deep, rect);
                    uniform += area * error(&sources[at], &reference[size * at..], 328, 248, deep, rect);
                }
            }
            let decibel = 10.0 * (uniform / got).log10();
            assert!(decibel > -0.1, "{format:?} {canvas}: {decibel} dB");
            // Quantizers of the pictures, skipped macroblocks aside: those inside are noise and never skipped.
            let frames = quantizers(&refined.stream());
            for (i, (_, rects)) in wanted.iter().enumerate() {
                for (at, qp) in frames[i + 1].qps.iter().enumerate() {
                    let (x, y) = (at as u32 % 21 * 16, at as u32 / 21 * 16);
                    let inside = rects
                        .iter()
                        .position(|r| (r.x..r.x + r.width).contains(&x) && (r.y..r.y + r.height).contains(&y));
                    if let Some(inside) = inside {
                        // FFmpeg counts from -12 where samples have 10 bits.
                        let wanted = if i == 2 && inside == 0 { 20 } else { 26 } + if deep { 12 } else { 0 };
                        assert_eq!(*qp, wanted, "{format:?} {canvas} picture {i} macroblock {x},{y}");
                    }
                }
            }
            // The first stream has no regions.
            let first = quantizers(&camera.stream());
            assert!(first.iter().all(|frame| frame.uniform().is_some()));
            assert_eq!(camera.count("refine-frames-coded"), 3);
            assert_eq!(camera.count("refine-regions"), 4);
            assert_eq!(camera.count("refine-requests"), 3);
            assert_eq!(camera.count("ring-frames"), 6);
        }
    }
}

fn element_of_quantizer(qp: &str) -> gst::Element {
    let element = element();
    for name in ["background-qp", "region-qp", "fallback-qp"] {
        element.set_property_from_str(name, qp);
    }
    element
}

/// Requests one macroblock of a frame.
fn ask(camera: &mut Camera, generation: u16, frame: u64) {
    assert!(camera.feedback(generation, frame, &[region(0, 0, 16, 16, Quality::Camera)]));
}

#[test]
fn what_is_not_refined_is_named_in_the_next_three_frames() {
    let element = two_pass(&[("ring-frames", "4")]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 160, 96);
    for _ in 0..10 {
        camera.push();
    }
    let refused = |unit: &gst::Buffer| records(unit).1.refused;
    ask(&mut camera, 1, 5);
    assert_eq!(refused(&camera.push()), [5]);
    ask(&mut camera, 2, 9);
    ask(&mut camera, 3, 8);
    // Frame 9 again is being refined already, and 20 is not there yet.
    ask(&mut camera, 4, 9);
    camera.feedback(5, 9, &[later(11, 0, 0, 16, 16)]);
    // Outside the picture.
    camera.feedback(6, 10, &[region(320, 0, 16, 16, Quality::Camera)]);
    assert_eq!(refused(&camera.push()), [5, 8, 10]);
    assert_eq!(refused(&camera.push()), [5, 8, 10]);
    assert_eq!(refused(&camera.push()), [8, 10]);
    assert!(refused(&camera.push()).is_empty());
    refined.unit();
    assert_eq!(records(&refined.unit()).0.frame, 9);
    let counts = [
        "requests",
        "repeated",
        "refused-gone",
        "refused-late",
        "refused-nothing",
        "refused-busy",
    ];
    let counts = counts.map(|name| camera.count(&format!("refine-{name}")));
    assert_eq!(counts, [6, 1, 2, 1, 1, 0]);
    assert_eq!(camera.count("ring-frames"), 4);
    assert_eq!(camera.count("ring-bytes"), 4 * 160 * 96 * 3 / 2);
    assert_eq!(camera.count("feedback-packets-event"), 6);
}

#[test]
fn without_the_pad_requests_are_refused_and_the_first_stream_goes_on() {
    let mut camera = Camera::new(two_pass(&[]), 160, 96);
    camera.push();
    ask(&mut camera, 1, 0);
    assert_eq!(records(&camera.push()).1.refused, [0]);
    assert_eq!(camera.count("refine-refused-no-pad"), 1);
    assert_eq!((camera.count("ring-frames"), camera.count("ring-copied")), (0, 0));
    // A pad that is requested now is used from the next frame on.
    let mut refined = Refined::new(&camera.element);
    camera.push();
    ask(&mut camera, 2, 2);
    let (black, _) = records(&refined.unit());
    assert_eq!((black.frame, black.recovery), (2, true));
    assert_eq!(records(&refined.unit()).1.refined, [rect(0, 0, 16, 16)]);
    // Unlinked it counts as absent; linked again it begins with an IDR picture.
    refined.source.unlink(&refined.pad).unwrap();
    camera.push();
    ask(&mut camera, 3, 3);
    assert!(records(&camera.push()).1.refused.contains(&3));
    refined.source.link(&refined.pad).unwrap();
    for _ in 0..2 {
        camera.push();
    }
    ask(&mut camera, 4, 6);
    let (identity, extension) = records(&refined.unit());
    assert_eq!((identity.frame, extension.refined.len()), (6, 1));
    assert_eq!(camera.count("refine-refused-no-pad"), 2);
}

#[test]
fn in_one_pass_the_pad_is_refused_by_the_name_of_the_property() {
    let element = element();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    assert!(element.request_pad_simple("refine").is_none());
    let message = bus.pop_filtered(&[gst::MessageType::Warning]).expect("a warning");
    let gst::MessageView::Warning(warning) = message.view() else {
        unreachable!()
    };
    assert!(
        warning.error().to_string().contains("mode=two-pass"),
        "{}",
        warning.error()
    );
    // Also in the other order: the pad exists and the mode changes.
    let element = two_pass(&[]);
    element.set_bus(Some(&bus));
    let _refined = Refined::new(&element);
    element.set_property_from_str("mode", "one-pass");
    assert!(element.set_state(gst::State::Paused).is_err());
    let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("an error");
    let gst::MessageView::Error(error) = message.view() else {
        unreachable!()
    };
    assert!(error.debug().unwrap().contains("mode=two-pass"), "{:?}", error.debug());
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn segments_are_closed_in_both_streams() {
    let element = two_pass(&[("segment-length", "5")]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 160, 96);
    for _ in 0..5 {
        camera.push();
    }
    // As a server does it: after the last frame of a segment, for all of it.
    camera.feedback(1, 0, &[later(1, 0, 0, 32, 32), later(3, 0, 0, 32, 32)]);
    for _ in 0..5 {
        camera.push();
    }
    camera.feedback(
        2,
        5,
        &[later(0, 0, 0, 32, 32), later(1, 16, 0, 32, 32), later(4, 16, 0, 32, 32)],
    );
    camera.push();
    for (i, unit) in camera.units.iter().enumerate() {
        let (identity, extension) = records(unit);
        let segment = extension.segment.unwrap();
        assert_eq!((segment.position, segment.length), ((i % 5) as u8, 5));
        assert_eq!(identity.recovery, i % 5 == 0, "frame {i}");
        assert_eq!(extension.full_size.is_some(), i % 5 == 0);
    }
    assert!(records(&refined.unit()).0.recovery);
    for (frame, recovery) in [(1, true), (3, false), (5, true), (6, false), (9, false)] {
        let unit = refined.unit();
        let (identity, extension) = records(&unit);
        assert_eq!((identity.frame, identity.recovery), (frame, recovery));
        assert_eq!(extension.segment.unwrap().position, (frame % 5) as u8);
        assert_eq!(unit.flags().contains(gst::BufferFlags::DELTA_UNIT), !recovery);
    }
    // Each segment decodes by itself.
    let second: Vec<u8> = refined.units[3..]
        .iter()
        .flat_map(|unit| unit.map_readable().unwrap().to_vec())
        .collect();
    assert_eq!(decodes(&second), 3);
    let second: Vec<u8> = camera.units[5..10]
        .iter()
        .flat_map(|unit| unit.map_readable().unwrap().to_vec())
        .collect();
    assert_eq!(decodes(&second), 5);
}

#[test]
fn the_first_stream_is_scaled_and_regions_grow_back() {
    for format in [VideoFormat::I420, VideoFormat::Nv12, VideoFormat::I42010le] {
        let element = two_pass(&[("low-scale", "0.8")]);
        let mut refined = Refined::new(&element);
        let mut camera = Camera::with_format(element, format, 328, 248);
        camera.push();
        let mut picture = camera.picture();
        let mut meta = gst_video::VideoRegionOfInterestMeta::add(picture.make_mut(), "face", (160, 80, 40, 40));
        meta.add_param(
            gst::Structure::builder("roi/ddsencode")
                .field("delta-qp", -8i32)
                .build(),
        );
        camera.push_buffer(picture);
        let caps = camera.harness.sinkpad().unwrap().current_caps().unwrap();
        let s = caps.structure(0).unwrap();
        assert_eq!((s.get::<i32>("width"), s.get::<i32>("height")), (Ok(262), Ok(198)));
        assert_eq!(records(&camera.units[0]).1.full_size, Some((328, 248)));
        let frames = quantizers(&camera.stream());
        let deep = if format == VideoFormat::I42010le { 12 } else { 0 };
        // 160 to 200 of 328 is 127.8 to 159.8 of 262: columns 7 to 9. 80 to 120 of 248 is 63.9 to 95.8 of 198.
        let fine: Vec<usize> = (0..frames[1].qps.len())
            .filter(|i| frames[1].qps[*i] == 22 + deep)
            .collect();
        assert_eq!(
            fine,
            [58, 59, 60, 75, 76, 77, 92, 93, 94].map(|i| i - 58 + 3 * 17 + 7),
            "{format:?}"
        );
        // 64 to 96 of 262 is 80.1 to 120.2 of 328.
        camera.feedback(1, 1, &[region(64, 64, 32, 32, Quality::Camera)]);
        refined.unit();
        let (identity, extension) = records(&refined.unit());
        assert_eq!((identity.frame, extension.refined), (1, vec![rect(80, 80, 48, 48)]));
        let caps = refined.pad.current_caps().unwrap();
        assert_eq!(caps.structure(0).unwrap().get::<i32>("width"), Ok(328));
    }
}

#[test]
fn feedback_and_key_unit_requests_come_through_the_refine_pad_too() {
    let element = two_pass(&[]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 160, 96);
    for _ in 0..3 {
        camera.push();
    }
    refined.unit();
    for (generation, frame) in [(1, 0), (2, 1)] {
        for packet in common::packets(generation, frame, &[region(0, 0, 16, 16, Quality::Camera)]) {
            assert!(refined.pad.push_event(gst_dds_link::event::feedback(&packet)));
        }
        assert_eq!(records(&refined.unit()).0.recovery, generation == 2);
        let event = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        assert!(refined.pad.push_event(event));
    }
    // The first stream's key units are its own.
    assert!(camera.units[1..].iter().all(|unit| !records(unit).0.recovery));
    assert_eq!(camera.count("refine-idr"), 2);
}

#[test]
fn the_network_gets_one_key_frame_a_second_of_the_refinements_too() {
    let element = two_pass(&[]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 160, 96);
    camera.push();
    refined.unit();
    let mut key_frames = Vec::new();
    for frame in 0..40u64 {
        let request = gst::Structure::builder("GstForceKeyUnit")
            .field("ssrc", 1u32)
            .field("all-headers", false);
        assert!(refined.pad.push_event(gst::event::CustomUpstream::new(request.build())));
        camera.feedback(frame as u16 + 1, frame, &[region(0, 0, 16, 16, Quality::Camera)]);
        if records(&refined.unit()).0.recovery {
            key_frames.push(frame);
        }
        camera.push();
    }
    assert_eq!(key_frames, [0, 30]);
    assert_eq!(camera.count("refine-key-frames-requested"), 40);
}

#[test]
fn refinements_take_no_more_than_feedback_may_ask_for() {
    for (kbps, least, most) in [("500", 1, 900), ("0", 2000, u64::MAX)] {
        let element = two_pass(&[("max-feedback-bitrate", kbps)]);
        let mut refined = Refined::new(&element);
        let mut camera = Camera::new(element, 320, 240);
        camera.push();
        refined.unit();
        // One second of video.
        for frame in 0..29u64 {
            let whole = region(0, 0, 320, 80, Quality::Qp(1));
            camera.feedback(frame as u16 + 1, frame, &[whole]);
            camera.push();
        }
        camera.harness.push_event(gst::event::Eos::new());
        refined.event(gst::EventType::Eos);
        let kbit = camera.count("refine-bytes") / 125;
        assert!((least..most).contains(&kbit), "{kbps}: {kbit} kbit in a second");
        assert_eq!(camera.count("refine-refused-busy") > 0, kbps == "500");
    }
}

#[test]
fn equal_video_and_feedback_give_equal_streams() {
    let run = || {
        let element = two_pass(&[("segment-length", "4"), ("low-scale", "0.5"), ("refine-canvas", "hold")]);
        let mut refined = Refined::new(&element);
        let mut camera = Camera::new(element, 320, 240);
        for i in 0..16u16 {
            camera.push();
            let frame = u64::from(i).saturating_sub(2);
            let regions = [
                region(u32::from(i) * 8, 16, 48, 32, Quality::Camera),
                later(1, 0, 0, 16, 16),
            ];
            camera.feedback(i, frame, &regions);
        }
        camera.harness.push_event(gst::event::Eos::new());
        refined.event(gst::EventType::Eos);
        (camera.stream(), refined.stream())
    };
    let (first, second) = (run(), run());
    assert!(first.1.len() > 1000);
    assert!(first == second);
}

#[test]
fn what_was_accepted_is_coded_before_the_end() {
    let element = two_pass(&[]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 320, 240);
    for _ in 0..12 {
        camera.push();
    }
    for frame in 0..12 {
        ask(&mut camera, frame as u16, frame);
    }
    assert!(camera.harness.push_event(gst::event::Eos::new()));
    refined.event(gst::EventType::Eos);
    let frames: Vec<u64> = refined.units.iter().map(|unit| records(unit).0.frame).collect();
    assert_eq!(frames, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert!(refined.units.is_sorted_by_key(|unit| unit.pts()));
    assert_eq!(decodes(&refined.stream()), 13);
}

#[test]
fn a_flush_forgets_the_frames_before_it() {
    let element = two_pass(&[]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 160, 96);
    for _ in 0..5 {
        camera.push();
    }
    assert!(camera.harness.push_event(gst::event::FlushStart::new()));
    assert!(camera.harness.push_event(gst::event::FlushStop::new(true)));
    camera
        .harness
        .push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    camera.push();
    ask(&mut camera, 1, 3);
    ask(&mut camera, 2, 5);
    assert_eq!(records(&camera.push()).1.refused, [3]);
    refined.event(gst::EventType::FlushStart);
    refined.event(gst::EventType::FlushStop);
    refined.event(gst::EventType::Segment);
    let black = records(&refined.unit());
    assert_eq!((black.0.frame, black.1.refined.len()), (5, 0));
    assert_eq!(records(&refined.unit()).0.frame, 5);
}

#[test]
fn new_caps_reach_the_second_stream_with_its_next_frame() {
    let element = two_pass(&[]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 160, 96);
    for _ in 0..3 {
        camera.push();
    }
    ask(&mut camera, 1, 1);
    camera.set_caps(VideoFormat::Nv12, 320, 176);
    camera.push();
    ask(&mut camera, 2, 2);
    ask(&mut camera, 3, 3);
    refined.unit();
    assert_eq!(records(&refined.unit()).0.frame, 1);
    let caps = refined.event(gst::EventType::Caps);
    let gst::EventView::Caps(caps) = caps.view() else {
        unreachable!()
    };
    assert_eq!(caps.caps().structure(0).unwrap().get::<i32>("width"), Ok(320));
    let (identity, _) = records(&refined.unit());
    assert_eq!((identity.frame, identity.recovery, identity.access_unit), (3, true, 2));
    assert_eq!(records(&camera.push()).1.refused, [2]);
}

#[test]
fn silence_is_said_as_far_as_it_is_certain() {
    let element = two_pass(&[("ring-frames", "5")]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 160, 96);
    for _ in 0..30 {
        camera.push();
    }
    refined.unit();
    let mut until = gst::ClockTime::from_nseconds(33_333_333);
    let oldest = camera.units[25].pts().unwrap();
    while oldest >= until + gst::ClockTime::from_mseconds(200) {
        let event = refined.event(gst::EventType::Gap);
        let gst::EventView::Gap(gap) = event.view() else {
            unreachable!()
        };
        let (start, duration) = gap.get();
        assert_eq!(start, until);
        until = start + duration.unwrap();
        assert!(until <= oldest);
    }
    // The oldest frame can still be requested.
    ask(&mut camera, 1, 25);
    assert_eq!(refined.unit().pts(), Some(oldest));
}

#[test]
fn live_pipelines_preroll_and_run_without_a_queue_and_without_feedback() {
    common::init();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc is-live=true num-buffers=45 ! video/x-raw,width=160,height=96,framerate=30/1 ! \
         ddsencode encoder={} name=e mode=two-pass speed-preset=superfast threads=1 ! fakesink sync=true \
         e.refine ! h264parse ! avdec_h264 ! fakesink name=b sync=true",
        fake_nvenc::encoder()
    ))
    .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let message = bus
        .timed_pop_filtered(
            gst::ClockTime::from_seconds(20),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
        .expect("the end");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn no_state_change_waits_for_the_second_stream() {
    common::init();
    for cycle in 0..100u32 {
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=300/1 ! \
             ddsencode name=e mode=two-pass speed-preset=ultrafast threads=1 stream-id={STREAM} ! fakesink name=a \
             sync=false"
        ))
        .unwrap();
        let bin = pipeline.downcast_ref::<gst::Bin>().unwrap();
        let encoder = bin.by_name("e").unwrap();
        let source = encoder.request_pad_simple("refine").unwrap();
        match cycle % 5 {
            // Linked to nothing.
            0 => {}
            // A sink that never accepts a second buffer.
            1 => {
                let sink = gst::ElementFactory::make("queue")
                    .property("max-size-buffers", 1u32)
                    .build()
                    .unwrap();
                bin.add(&sink).unwrap();
                let end = gst::ElementFactory::make("fakesink")
                    .property("sync", true)
                    .build()
                    .unwrap();
                bin.add(&end).unwrap();
                sink.link(&end).unwrap();
                source.link(&sink.static_pad("sink").unwrap()).unwrap();
            }
            // A sink that waits in preroll, because it stays paused.
            2 => {
                let sink = gst::ElementFactory::make("fakesink").build().unwrap();
                bin.add(&sink).unwrap();
                source.link(&sink.static_pad("sink").unwrap()).unwrap();
                sink.set_locked_state(true);
                sink.set_state(gst::State::Paused).unwrap();
            }
            // A pad blocked by a probe.
            3 => {
                let sink = gst::ElementFactory::make("fakesink")
                    .property("async", false)
                    .build()
                    .unwrap();
                bin.add(&sink).unwrap();
                source.link(&sink.static_pad("sink").unwrap()).unwrap();
                source.add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, |_, _| gst::PadProbeReturn::Ok);
            }
            // A sink that returns EOS.
            _ => {
                let sink = gst::ElementFactory::make("fakesink")
                    .property("num-buffers", 1i32)
                    .build()
                    .unwrap();
                bin.add(&sink).unwrap();
                source.link(&sink.static_pad("sink").unwrap()).unwrap();
            }
        }
        let a = bin.by_name("a").unwrap();
        let (frames, seen) = mpsc::channel();
        a.static_pad("sink")
            .unwrap()
            .add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                let _ = frames.send(());
                gst::PadProbeReturn::Ok
            });
        pipeline.set_state(gst::State::Playing).unwrap();
        // Requests for every frame, whatever their fate.
        for frame in 0..5u16 {
            seen.recv_timeout(PATIENCE).expect("the first stream goes on");
            for packet in common::packets(frame, u64::from(frame), &[region(0, 0, 16, 16, Quality::Camera)]) {
                encoder
                    .static_pad("src")
                    .unwrap()
                    .send_event(gst_dds_link::event::feedback(&packet));
            }
        }
        // A pad whose peer holds on to a buffer cannot be released before the peer returns it.
        if cycle % 2 == 0 && cycle % 5 != 2 {
            encoder.release_request_pad(&source);
            seen.recv_timeout(PATIENCE).expect("the first stream goes on");
        }
        for element in bin.children() {
            element.set_locked_state(false);
        }
        pipeline.set_state(gst::State::Null).unwrap();
        let weak = encoder.downgrade();
        drop((encoder, source, a, pipeline));
        // A state change in progress may hold a reference for a moment.
        let gone = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(if weak.upgrade().is_some() { 10 } else { 0 }));
            weak.upgrade().is_none()
        });
        assert!(gone, "cycle {cycle}: the encoder stays");
    }
}

#[test]
fn all_of_this_holds_with_nvenc_too() {
    common::on_fake_nvenc(
        &[
            "the_second_stream_begins_with_one_black_picture",
            "exactly_the_regions_asked_for_are_refined_in_the_frames_they_were_asked_of",
            "segments_are_closed_in_both_streams",
            "equal_video_and_feedback_give_equal_streams",
            "new_caps_reach_the_second_stream_with_its_next_frame",
            "live_pipelines_preroll_and_run_without_a_queue_and_without_feedback",
        ],
        &fake_nvenc::NAMES,
        "",
    );
}
