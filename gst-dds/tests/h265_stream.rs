// SPDX-License-Identifier: MPL-2.0

//! The element with libx265: its stream is valid for every other reader, and it survives everything that an element has
//! to.

#![cfg(feature = "x265")]

mod common;

use std::process::Command;

use common::{Camera, STREAM, element, ffmpeg_reads, region};
use dds_protocol::feedback::Quality;
use dds_protocol::identity::{FrameIdentity, StreamKind};
use dds_protocol::nal::{self, Codec, Format};
use gst::prelude::*;
use gst_video::VideoFormat;

fn h265() -> gst::Element {
    let element = element();
    element.set_property_from_str("encoder", "x265");
    element
}

/// Identity of an access unit, whose slices are those it declares.
fn identity(unit: &gst::Buffer, format: Format) -> FrameIdentity {
    let map = unit.map_readable().unwrap();
    let summary = Codec::H265.summarize(&map, format);
    let identity = summary.identity.expect("an identity").expect("a readable one");
    assert_eq!(
        (
            identity.slices,
            identity.slice_bytes,
            identity.slice_checksum,
            identity.recovery
        ),
        (
            summary.slices.slices,
            summary.slices.bytes,
            summary.slices.checksum,
            summary.slices.idr
        )
    );
    identity
}

fn kinds(unit: &gst::Buffer, format: Format) -> Vec<u8> {
    let map = unit.map_readable().unwrap();
    nal::nal_units(&map, format).map(|n| n[0] >> 1).collect()
}

/// Pictures that FFmpeg decodes without an error.
fn decodes(stream: &[u8]) -> usize {
    let arguments = "-v warning -xerror -f hevc -i - -f framecrc -";
    let output = ffmpeg_reads(stream, arguments.split(' '));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| !line.starts_with('#')).count()
}

/// ffprobe's description of a file's video.
fn probed(path: &std::path::Path, entries: &str) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "csv=p=0", "-show_entries"])
        .arg(format!("stream={entries}"))
        .arg(path)
        .output()
        .expect("ffprobe is installed");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(complaints.is_empty(), "{complaints}");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// Runs a line to its end.
fn run(line: &str) {
    common::init();
    let pipeline = gst::parse::launch(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let message = bus.timed_pop_filtered(
        gst::ClockTime::from_seconds(60),
        &[gst::MessageType::Eos, gst::MessageType::Error],
    );
    pipeline.set_state(gst::State::Null).unwrap();
    match message.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Eos(_)) => {}
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn byte_stream_has_all_it_takes_to_begin_at_each_key_frame() {
    let mut camera = Camera::new(h265(), 320, 240);
    for i in 0..6u32 {
        if i == 3 {
            let event = gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build();
            camera.harness.push_upstream_event(event);
        }
        let unit = camera.push();
        let id = identity(&unit, Format::ByteStream);
        assert_eq!(
            (id.stream_id, id.frame, id.access_unit, id.kind),
            (STREAM, i.into(), i, StreamKind::Single)
        );
        let key = i % 3 == 0;
        assert_eq!(
            (id.recovery, unit.flags().contains(gst::BufferFlags::DELTA_UNIT)),
            (key, !key)
        );
        let kinds = kinds(&unit, Format::ByteStream);
        let (slice, before) = kinds.split_last().unwrap();
        assert!(
            if key {
                [19, 20].contains(slice)
            } else {
                [0, 1].contains(slice)
            },
            "{kinds:?}"
        );
        // Delimiter, parameter sets, and one message: ours.
        let expected: &[u8] = if key { &[35, 32, 33, 34, 39] } else { &[35, 39] };
        assert_eq!(before, expected);
    }
    assert_eq!(decodes(&camera.stream()), 6);
    // It can be joined at the second key frame.
    let tail: Vec<u8> = camera.units[3..]
        .iter()
        .flat_map(|u| u.map_readable().unwrap().to_vec())
        .collect();
    assert_eq!(decodes(&tail), 3);
    let caps = camera.element.static_pad("src").unwrap().current_caps().unwrap();
    let s = caps.structure(0).unwrap();
    assert_eq!(s.name(), "video/x-h265");
    for (field, value) in [
        ("stream-format", "byte-stream"),
        ("alignment", "au"),
        ("profile", "main"),
        ("tier", "main"),
        ("level", "2"),
    ] {
        assert_eq!(s.get::<&str>(field).unwrap(), value);
    }
}

#[test]
fn hvc1_has_its_parameter_sets_in_the_caps_alone() {
    let element = h265();
    let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    harness.set_sink_caps_str("video/x-h265,stream-format=hvc1");
    harness.play();
    let info = common::info(VideoFormat::I420, 320, 240);
    harness.set_src_caps(info.to_caps().unwrap());
    let mut all = Vec::new();
    for i in 0..3 {
        let mut buffer = gst::Buffer::from_mut_slice(vec![60u8 + i; info.size()]);
        buffer
            .make_mut()
            .set_pts(gst::ClockTime::from_mseconds(33) * u64::from(i));
        harness.push(buffer).unwrap();
        let unit = harness.pull().unwrap();
        assert_eq!(identity(&unit, Format::LengthPrefixed(4)).recovery, i == 0);
        assert!(
            kinds(&unit, Format::LengthPrefixed(4))
                .iter()
                .all(|k| [0, 1, 19, 20, 35, 39].contains(k))
        );
        all.push(unit);
    }
    let caps = element.static_pad("src").unwrap().current_caps().unwrap();
    let s = caps.structure(0).unwrap();
    let record = s.get::<gst::Buffer>("codec_data").unwrap();
    let record = record.map_readable().unwrap();
    // Version 1, main profile, level 2, three arrays.
    assert_eq!(
        (record[0], record[1], record[12], record[21], record[22]),
        (1, 1, 60, 0x0f, 3)
    );
    // As a byte-stream with the sets out of the record, FFmpeg reads it.
    let mut stream = Vec::new();
    let mut rest = &record[23..];
    for kind in [32, 33, 34] {
        assert_eq!((rest[0] & 0x3f, rest[1], rest[2]), (kind, 0, 1));
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        stream.extend([0, 0, 0, 1]);
        stream.extend_from_slice(&rest[5..5 + length]);
        rest = &rest[5 + length..];
    }
    assert!(rest.is_empty());
    for unit in &all {
        for nal in nal::nal_units(&unit.map_readable().unwrap(), Format::LengthPrefixed(4)) {
            stream.extend([0, 0, 0, 1]);
            stream.extend_from_slice(nal);
        }
    }
    assert_eq!(decodes(&stream), 3);
}

#[test]
fn containers_and_parsers_take_it_in_all_sizes() {
    let dir = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("h265_containers");
    std::fs::create_dir_all(&dir).unwrap();
    for (i, (tail, size)) in [
        ("mp4mux", (322, 242)),
        ("h265parse ! mp4mux", (1366, 768)),
        ("matroskamux", (64, 50)),
        ("h265parse ! mpegtsmux", (320, 240)),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.join(format!("{i}.bin"));
        run(&format!(
            "videotestsrc num-buffers=12 pattern=ball ! video/x-raw,format=I420,width={},height={},framerate=25/1,\
             pixel-aspect-ratio=12/11,colorimetry=bt709 ! ddsencode encoder=x265 speed-preset=superfast \
             key-int-max=5 ! {tail} ! filesink location={}",
            size.0,
            size.1,
            path.display()
        ));
        let found = probed(
            &path,
            "codec_name,profile,width,height,sample_aspect_ratio,color_range,color_space,color_transfer,color_primaries,nb_read_frames",
        );
        // Matroska has display sizes, in whole pixels.
        let aspect = if tail == "matroskamux" { "69:64" } else { "12:11" };
        let expected = format!("hevc,Main,{},{},{aspect},tv,bt709,bt709,bt709", size.0, size.1);
        assert!(
            found.lines().next().is_some_and(|line| line.starts_with(&expected)),
            "{tail}: {found}"
        );
        let frames = Command::new("ffprobe")
            .args("-v error -count_frames -of csv=p=0 -show_entries stream=nb_read_frames".split(' '))
            .arg(&path)
            .output()
            .unwrap();
        let frames = String::from_utf8_lossy(&frames.stdout)
            .trim()
            .trim_end_matches(',')
            .to_string();
        assert!(frames.lines().next() == Some("12"), "{tail}: {frames}");
    }
}

#[test]
fn decoders_take_both_formats_with_and_without_a_parser() {
    for (decoder, stream_format) in [
        ("avdec_h265", "byte-stream"),
        ("avdec_h265", "hvc1"),
        ("h265parse ! avdec_h265", "byte-stream"),
        (
            "rtph265pay mtu=300 ! rtph265depay ! h265parse ! avdec_h265",
            "byte-stream",
        ),
    ] {
        run(&format!(
            "videotestsrc num-buffers=20 pattern=ball ! video/x-raw,format=Y444,width=320,height=240 \
             ! ddsencode encoder=x265 speed-preset=ultrafast ! video/x-h265,stream-format={stream_format},\
             profile=main-444 ! {decoder} ! video/x-raw,format=Y444,width=320,height=240 ! fakesink"
        ));
    }
}

#[test]
fn new_caps_flushes_and_key_frames_are_lived_through() {
    let mut camera = Camera::new(h265(), 320, 240);
    camera.push();
    camera.push();
    camera.set_caps(VideoFormat::Yv12, 640, 368);
    let id = identity(&camera.push(), Format::ByteStream);
    assert_eq!((id.frame, id.access_unit, id.recovery), (2, 2, true));
    camera.feedback(1, 2, &[region(608, 336, 32, 32, Quality::Camera)]);
    camera.push();
    assert_eq!(camera.count("generations-applied"), 1);
    camera.harness.push_event(gst::event::FlushStart::new());
    camera.harness.push_event(gst::event::FlushStop::new(true));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    camera.harness.push_event(gst::event::Segment::new(&segment));
    assert!(identity(&camera.push(), Format::ByteStream).recovery);
    assert_eq!(decodes(&camera.stream()), 5);
    assert_eq!(camera.count("encoders-opened"), 2);
    let encoder = camera.element.clone().downcast::<gst_video::VideoEncoder>().unwrap();
    use gst_video::prelude::*;
    assert_eq!(encoder.latency(), (gst::ClockTime::ZERO, Some(gst::ClockTime::ZERO)));
}

#[test]
fn a_hundred_starts_and_stops() {
    common::init();
    let line = "videotestsrc num-buffers=2 ! video/x-raw,format=I420,width=64,height=64 \
                ! ddsencode encoder=x265 speed-preset=ultrafast threads=2 ! fakesink sync=false";
    let pipeline = gst::parse::launch(line).unwrap();
    for n in 0..100 {
        pipeline.set_state(gst::State::Playing).unwrap();
        // Some are stopped in mid-start.
        if n % 2 == 0 {
            let _ = pipeline.state(gst::ClockTime::from_seconds(10));
        }
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn another_bit_rate_begins_with_a_key_frame_and_the_same_parameter_sets() {
    let element = h265();
    element.set_property("bitrate", 2_000u32);
    let mut camera = Camera::new(element, 320, 240);
    let mut bytes = Vec::new();
    let mut keys = Vec::new();
    for frame in 0..150 {
        if frame == 60 {
            camera.element.set_property("bitrate", 500u32);
        }
        let unit = camera.push();
        bytes.push(unit.size());
        if !unit.flags().contains(gst::BufferFlags::DELTA_UNIT) {
            keys.push(frame);
        }
    }
    assert_eq!(keys, [0, 60]);
    let kbps = |part: &[usize]| part.iter().sum::<usize>() * 8 * 30 / part.len() / 1000;
    let (before, after) = (kbps(&bytes[..60]), kbps(&bytes[90..]));
    assert!(
        (1_200..2_600).contains(&before) && (300..650).contains(&after),
        "{before} {after}"
    );
    let sets = |unit: &gst::Buffer| -> Vec<Vec<u8>> {
        let map = unit.map_readable().unwrap();
        let sets = nal::nal_units(&map, Format::ByteStream).filter(|n| (32..=34).contains(&(n[0] >> 1)));
        sets.map(<[u8]>::to_vec).collect()
    };
    assert_eq!(sets(&camera.units[0]), sets(&camera.units[60]));
    assert_eq!(decodes(&camera.stream()), 150);
}

#[test]
fn a_live_cap_bites_and_goes_again() {
    let mut camera = Camera::new(h265(), 320, 240);
    let mut bytes = Vec::new();
    for frame in 0..150u16 {
        match frame {
            30 => camera.element.set_property("max-bitrate", 1_500u32),
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
    assert!(kbps(&bytes[..30]) > 3_000, "{}", kbps(&bytes[..30]));
    for (i, second) in bytes[30..120].windows(30).enumerate() {
        assert!(kbps(second) <= 1_575, "second from {}: {}", 30 + i, kbps(second));
    }
    assert!(kbps(&bytes[120..]) > 2_500);
}

#[test]
fn what_libx265_cannot_do_is_refused_by_name_when_the_element_starts() {
    common::init();
    for (property, value, named) in [
        ("me", "tesa", "me"),
        ("analyse", "i4x4", "analyse"),
        ("intra-refresh", "true", "intra-refresh"),
        ("option-string", "slices=4", "slices=4"),
        ("option-string", "crf=20", "crf=20"),
        ("psy-tune", "film", "psy-tune"),
        ("tune", "fastdecode", "tune"),
        ("interlaced", "true", "interlaced"),
    ] {
        let element = h265();
        element.set_property_from_str(property, value);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        assert!(element.set_state(gst::State::Paused).is_err(), "{property}={value}");
        let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("an error");
        let gst::MessageView::Error(error) = message.view() else {
            unreachable!()
        };
        let text = error.debug().unwrap_or_default();
        assert!(text.contains(named), "{property}: {text}");
        element.set_state(gst::State::Null).unwrap();
    }
    for caps in ["video/x-raw,format=NV12", "video/x-raw,format=I420_10LE"] {
        let element = h265();
        let sink = element.static_pad("sink").unwrap();
        let caps = caps.parse::<gst::Caps>().unwrap();
        assert!(!sink.query_caps(None).can_intersect(&caps), "{caps}");
    }
}

#[test]
fn equal_video_and_equal_feedback_give_equal_bytes() {
    let run = || {
        let element = h265();
        element.set_property("max-bitrate", 1_500u32);
        let mut camera = Camera::new(element, 320, 240);
        for frame in 0..20u16 {
            if frame % 3 == 1 {
                let x = u32::from(frame) * 4;
                camera.feedback(frame, u64::from(frame) - 1, &[region(x, 64, 96, 96, Quality::Camera)]);
            }
            camera.push();
        }
        camera.stream()
    };
    assert!(run() == run(), "the streams differ");
}

#[test]
fn the_second_pass_refines_in_the_same_standard() {
    let element = h265();
    element.set_property_from_str("mode", "two-pass");
    element.set_property("segment-length", 8u32);
    let source = element.request_pad_simple("refine").unwrap();
    let (sender, units) = std::sync::mpsc::channel();
    let any = gst::Caps::new_any();
    let template = gst::PadTemplate::new("refined", gst::PadDirection::Sink, gst::PadPresence::Always, &any).unwrap();
    let pad = gst::Pad::builder_from_template(&template)
        .chain_function(move |_, _, buffer| {
            let _ = sender.send(buffer);
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(|_, _, _| true)
        .build();
    pad.set_active(true).unwrap();
    source.link(&pad).unwrap();
    let mut camera = Camera::new(element, 320, 240);
    for _ in 0..4 {
        assert_eq!(identity(&camera.push(), Format::ByteStream).kind, StreamKind::Low);
    }
    camera.feedback(1, 2, &[region(64, 48, 96, 64, Quality::Camera)]);
    let mut stream = Vec::new();
    for frame in [None, Some(2)] {
        let unit = units
            .recv_timeout(std::time::Duration::from_secs(20))
            .expect("a refinement");
        let id = identity(&unit, Format::ByteStream);
        assert_eq!(id.kind, StreamKind::Refine);
        if let Some(frame) = frame {
            assert_eq!(id.frame, frame);
        }
        stream.extend_from_slice(&unit.map_readable().unwrap());
    }
    assert_eq!(decodes(&stream), 2);
    assert_eq!(decodes(&camera.stream()), 4);
    let caps = source.current_caps().unwrap();
    assert_eq!(caps.structure(0).unwrap().name(), "video/x-h265");
    // The requested region is as good as uniform video of that quantizer.
    let luma = |stream: &[u8]| {
        let output = ffmpeg_reads(stream, "-v error -f hevc -i - -f rawvideo -pix_fmt gray -".split(' '));
        output.stdout
    };
    let refined = luma(&stream);
    let uniform = h265();
    for name in ["background-qp", "fallback-qp"] {
        uniform.set_property(name, 26u32);
    }
    let mut reference = Camera::new(uniform, 320, 240);
    let original: Vec<u8> = (0..4)
        .map(|_| {
            let picture = reference.picture();
            let luma = picture.map_readable().unwrap()[..320 * 240].to_vec();
            reference.push_buffer(picture);
            luma
        })
        .nth(2)
        .unwrap();
    reference.push();
    let reference = luma(&reference.stream());
    let (mut got, mut same) = (0.0, 0.0);
    for y in 50..110 {
        for at in y * 320 + 66..y * 320 + 158 {
            got += f64::from(refined[320 * 240 + at].abs_diff(original[at])).powi(2);
            same += f64::from(reference[2 * 320 * 240 + at].abs_diff(original[at])).powi(2);
        }
    }
    let apart = 10.0 * (same / got).log10();
    assert!(apart > -0.3, "{apart} dB");
}
