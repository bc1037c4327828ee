// SPDX-License-Identifier: MPL-2.0

//! The stream: caps, parameter sets, identity, key frames, renegotiation, decoders without a parser.

#![cfg(feature = "x264")]

mod common;

use common::{Camera, STREAM, decodes, element, identity, quantizers, region};
use dds_protocol::feedback::Quality;
use dds_protocol::nal::{self, Codec, Format};
use gst::prelude::*;
use gst_video::prelude::*;

/// Caps that come out when downstream takes `peer`.
fn negotiated(element: &gst::Element, format: gst_video::VideoFormat, peer: &str) -> (gst::Caps, gst::Buffer) {
    let mut harness = gst_check::Harness::with_element(element, Some("sink"), Some("src"));
    harness.set_sink_caps_str(peer);
    harness.play();
    let info = common::info(format, 320, 240);
    harness.set_src_caps(info.to_caps().unwrap());
    let mut buffer = gst::Buffer::from_mut_slice(vec![1u8; info.size()]);
    buffer.make_mut().set_pts(gst::ClockTime::ZERO);
    harness.push(buffer).unwrap();
    let unit = harness.pull().unwrap();
    let pad = element.static_pad("src").unwrap();
    (pad.current_caps().unwrap(), unit)
}

#[test]
fn profiles_and_levels_asked_for_are_in_caps_and_stream() {
    use gst_video::VideoFormat as F;
    for (format, profile, idc) in [
        (F::I420, "constrained-baseline", 66),
        (F::I420, "baseline", 66),
        (F::Nv12, "main", 77),
        (F::I420, "high", 100),
        (F::Gray8, "high", 100),
        (F::I42010le, "high-10", 110),
        (F::I42010le, "high-10-intra", 110),
        (F::Y42b, "high-4:2:2", 122),
        (F::Y444, "high-4:4:4", 244),
    ] {
        let element = element();
        let peer = format!("video/x-h264,stream-format=byte-stream,profile=(string){profile},level=(string)4");
        let (caps, unit) = negotiated(&element, format, &peer);
        let s = caps.structure(0).unwrap();
        assert_eq!(s.get::<&str>("profile").unwrap(), profile);
        assert_eq!(s.get::<&str>("level").unwrap(), "4");
        let map = unit.map_readable().unwrap();
        let sps = nal::nal_units(&map, Format::ByteStream)
            .find(|n| n[0] & 0x1f == 7)
            .unwrap();
        assert_eq!((sps[1], sps[3]), (idc, 40), "{profile}");
    }
}

#[test]
fn poor_profiles_of_fast_presets_pass_for_the_richer_one_asked_for() {
    let element = element();
    element.set_property_from_str("speed-preset", "ultrafast");
    let (caps, _) = negotiated(
        &element,
        gst_video::VideoFormat::I420,
        "video/x-h264,profile=(string)high",
    );
    assert_eq!(caps.structure(0).unwrap().get::<&str>("profile").unwrap(), "high");
}

#[test]
fn the_level_follows_the_video_not_the_open_vbv() {
    let (caps, _) = negotiated(&element(), gst_video::VideoFormat::I420, "ANY");
    assert_eq!(caps.structure(0).unwrap().get::<&str>("level").unwrap(), "1.3");
}

#[test]
fn a_profile_no_format_fits_is_an_error_that_names_it() {
    let element = element();
    let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    harness.set_sink_caps_str("video/x-h264,profile=(string)main");
    let caps = element.static_pad("sink").unwrap().query_caps(None);
    let formats = format!("{caps}");
    assert!(
        formats.contains("I420") && !formats.contains("Y444") && !formats.contains("10LE"),
        "{formats}"
    );
}

#[test]
fn ten_bit_samples_out_of_range_are_an_error_not_an_abort() {
    let element = element();
    let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    harness.play();
    let info = common::info(gst_video::VideoFormat::I42010le, 320, 240);
    harness.set_src_caps(info.to_caps().unwrap());
    let mut buffer = gst::Buffer::from_mut_slice(vec![0xffu8; info.size()]);
    buffer.make_mut().set_pts(gst::ClockTime::ZERO);
    assert_eq!(harness.push(buffer), Err(gst::FlowError::Error));
}

#[test]
fn avc_has_codec_data_length_prefixes_and_identity() {
    let element = element();
    let (caps, unit) = negotiated(&element, gst_video::VideoFormat::I420, "video/x-h264,stream-format=avc");
    let s = caps.structure(0).unwrap();
    assert_eq!(s.get::<&str>("stream-format").unwrap(), "avc");
    let codec_data = s.get::<gst::Buffer>("codec_data").unwrap();
    let record = codec_data.map_readable().unwrap();
    assert_eq!((record[0], record[4], record[5]), (1, 0xff, 0xe1));
    let sps_length = u16::from_be_bytes([record[6], record[7]]) as usize;
    assert_eq!(record[8] & 0x1f, 7);
    assert_eq!(record[8 + sps_length], 1);
    assert_eq!(record[8 + sps_length + 3] & 0x1f, 8);
    let map = unit.map_readable().unwrap();
    let kinds: Vec<u8> = nal::nal_units(&map, Format::LengthPrefixed(4))
        .map(|n| n[0] & 0x1f)
        .collect();
    assert_eq!(kinds, [9, 6, 5]);
    let summary = Codec::H264.summarize(&map, Format::LengthPrefixed(4));
    let identity = summary.identity.unwrap().unwrap();
    assert_eq!(
        (identity.slices, identity.slice_bytes),
        (summary.slices.slices, summary.slices.bytes)
    );
}

#[test]
fn identity_names_every_access_unit_and_the_library_none() {
    let element = element();
    element.set_property("threads", 2u32);
    let mut camera = Camera::new(element, 320, 240);
    for i in 0..5u32 {
        let unit = camera.push();
        let id = identity(&unit);
        assert_eq!((id.stream_id, id.frame, id.access_unit), (STREAM, u64::from(i), i));
        assert_eq!(id.recovery, i == 0);
        assert_eq!(id.slices, 2);
        assert_eq!(id.capture_time_ns, 0, "no clock was allowed");
        assert_eq!(unit.flags().contains(gst::BufferFlags::DELTA_UNIT), i != 0);
        let map = unit.map_readable().unwrap();
        let seis = nal::nal_units(&map, Format::ByteStream)
            .filter(|n| n[0] & 0x1f == 6)
            .count();
        assert_eq!(seis, 1);
        assert!(
            !map.windows(4).any(|w| w == b"x264"),
            "the library's version message is gone"
        );
    }
}

#[test]
fn capture_time_is_that_of_the_reference_timestamp_else_of_the_wall_clock() {
    let element = element();
    element.set_property("wall-clock", true);
    let mut camera = Camera::new(element, 320, 240);
    let unix = gst::ClockTime::from_nseconds(1_700_000_000_123_456_789);
    for (caps, offset) in [("timestamp/x-unix", 0), ("timestamp/x-ntp", 2_208_988_800)] {
        let mut picture = camera.picture();
        let stamp = unix + gst::ClockTime::from_seconds(offset);
        let caps = gst::Caps::builder(caps).build();
        gst::ReferenceTimestampMeta::add(picture.make_mut(), &caps, stamp, gst::ClockTime::NONE);
        let unit = camera.push_buffer(picture);
        assert_eq!(identity(&unit).capture_time_ns, unix.nseconds());
    }
    let before = std::time::SystemTime::now();
    let unit = camera.push();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(identity(&unit).capture_time_ns);
    // The harness's clock stands still, so the frame's age is 0.
    assert!((before..=std::time::SystemTime::now()).contains(&time));
}

#[test]
fn a_forced_key_unit_is_an_idr_picture_with_parameter_sets_also_in_periodic_refresh() {
    for refresh in [false, true] {
        let element = element();
        element.set_property("intra-refresh", refresh);
        let mut camera = Camera::new(element, 320, 240);
        camera.push();
        camera.push();
        camera.harness.push_upstream_event(
            gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build(),
        );
        let unit = camera.push();
        assert!(identity(&unit).recovery);
        assert!(!unit.flags().contains(gst::BufferFlags::DELTA_UNIT));
        let map = unit.map_readable().unwrap();
        let kinds: Vec<u8> = nal::nal_units(&map, Format::ByteStream).map(|n| n[0] & 0x1f).collect();
        assert!(kinds.contains(&7) && kinds.contains(&8), "{kinds:?}");
        drop(map);
        assert!(!identity(&camera.push()).recovery);
        assert_eq!(decodes(&camera.stream()), 4);
    }
}

#[test]
fn forced_key_units_keep_their_minimum_interval() {
    let element = element();
    element.set_property("min-force-key-unit-interval", 200_000_000u64);
    let mut camera = Camera::new(element, 320, 240);
    let mut idr = 0;
    for _ in 0..30 {
        camera
            .harness
            .push_upstream_event(gst_video::UpstreamForceKeyUnitEvent::builder().build());
        idr += u32::from(identity(&camera.push()).recovery);
    }
    assert!((4..=6).contains(&idr), "{idr}");
}

#[test]
fn new_video_caps_give_a_new_encoder_and_identity_goes_on() {
    use gst_video::VideoFormat as F;
    let mut camera = Camera::new(element(), 320, 240);
    camera.push();
    camera.push();
    camera.set_caps(F::Nv12, 640, 368);
    let unit = camera.push();
    let id = identity(&unit);
    assert_eq!((id.frame, id.access_unit, id.recovery), (2, 2, true));
    let caps = camera.element.static_pad("src").unwrap().current_caps().unwrap();
    assert_eq!(caps.structure(0).unwrap().get::<i32>("width").unwrap(), 640);
    // Regions find the macroblocks of the new size.
    camera.feedback(1, 2, &[region(608, 336, 32, 32, Quality::Camera)]);
    camera.push();
    let tail: Vec<u8> = camera.units[2..]
        .iter()
        .flat_map(|u| u.map_readable().unwrap().to_vec())
        .collect();
    let frames = quantizers(&tail);
    assert_eq!(frames[1].qps.len(), 40 * 23);
    let fine: Vec<usize> = (0..frames[1].qps.len()).filter(|i| frames[1].qps[*i] == 26).collect();
    assert_eq!(fine, [21 * 40 + 38, 21 * 40 + 39, 22 * 40 + 38, 22 * 40 + 39]);
    assert_eq!(camera.count("encoders-opened"), 2);
}

#[test]
fn variable_frame_rates_and_missing_time_stamps_are_coded() {
    let mut camera = Camera::new(element(), 320, 240);
    let caps = gst_video::VideoCapsBuilder::new()
        .format(gst_video::VideoFormat::I420)
        .width(320)
        .height(240)
        .framerate(gst::Fraction::new(0, 1))
        .build();
    camera.harness.set_src_caps(caps);
    for i in 0..4 {
        let mut picture = camera.picture();
        let buffer = picture.make_mut();
        // The last two have no time of their own.
        buffer.set_pts((i < 2).then(|| gst::ClockTime::from_mseconds(i * i * 100)));
        buffer.set_duration(gst::ClockTime::NONE);
        camera.push_buffer(picture);
    }
    assert_eq!(decodes(&camera.stream()), 4);
}

#[test]
fn flush_begins_anew_with_an_idr_picture() {
    let mut camera = Camera::new(element(), 320, 240);
    camera.push();
    camera.push();
    camera.harness.push_event(gst::event::FlushStart::new());
    camera.harness.push_event(gst::event::FlushStop::new(true));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    camera.harness.push_event(gst::event::Segment::new(&segment));
    let unit = camera.push();
    assert!(identity(&unit).recovery);
    assert_eq!(decodes(&camera.stream()), 3);
}

#[test]
fn tags_say_what_codes_and_how_fast() {
    let element = element();
    element.set_property("bitrate", 500u32);
    let mut camera = Camera::new(element, 320, 240);
    camera.push();
    let mut tags = None;
    while let Some(event) = camera.harness.try_pull_event() {
        if let gst::EventView::Tag(tag) = event.view() {
            tags = Some(tag.tag_owned());
        }
    }
    let tags = tags.expect("a tag event");
    assert!(tags.get::<gst::tags::Encoder>().unwrap().get().starts_with("x264"));
    assert_eq!(tags.get::<gst::tags::NominalBitrate>().unwrap().get(), 500_000);
    assert!(tags.get::<gst::tags::VideoCodec>().unwrap().get().contains("H.264"));
    assert!(tags.get::<gst::tags::EncoderVersion>().is_some());
}

#[test]
fn latency_is_none() {
    let mut camera = Camera::new(element(), 320, 240);
    camera.push();
    let encoder = camera.element.clone().downcast::<gst_video::VideoEncoder>().unwrap();
    assert_eq!(encoder.latency(), (gst::ClockTime::ZERO, Some(gst::ClockTime::ZERO)));
}

#[test]
fn equal_video_and_equal_feedback_give_equal_bytes() {
    let run = || {
        let element = element();
        element.set_property("max-bitrate", 3_000u32);
        let mut camera = Camera::new(element, 320, 240);
        for frame in 0..40u16 {
            if frame % 3 == 1 {
                let x = u32::from(frame) * 4;
                camera.feedback(frame, u64::from(frame) - 1, &[region(x, 64, 96, 96, Quality::Camera)]);
            }
            camera.push();
        }
        camera.stream()
    };
    let first = run();
    assert!(first == run(), "the streams differ");
}

#[test]
fn decoders_without_a_parser_take_the_stream() {
    common::init();
    for (decoder, stream_format) in [
        ("avdec_h264", "byte-stream"),
        ("avdec_h264", "avc"),
        ("h264parse ! avdec_h264", "byte-stream"),
        ("openh264dec", "byte-stream"),
    ] {
        if gst::ElementFactory::find(decoder.rsplit(' ').next().unwrap()).is_none() {
            continue;
        }
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc num-buffers=40 pattern=ball ! video/x-raw,format=I420,width=320,height=240 ! \
             ddsencode encoder={} key-int-max=15 ! \
             video/x-h264,stream-format={stream_format},profile=constrained-baseline ! \
             {decoder} ! fakesink name=s signal-handoffs=true",
            fake_nvenc::encoder()
        ))
        .unwrap();
        let sink = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("s").unwrap();
        let frames = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = frames.clone();
        sink.connect("handoff", false, move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            None
        });
        let bus = pipeline.bus().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let kinds = [
            gst::MessageType::Eos,
            gst::MessageType::Error,
            gst::MessageType::Warning,
        ];
        let message = bus
            .timed_pop_filtered(gst::ClockTime::from_seconds(30), &kinds)
            .map(|m| m.type_());
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(message, Some(gst::MessageType::Eos), "{decoder}");
        assert_eq!(frames.load(std::sync::atomic::Ordering::Relaxed), 40, "{decoder}");
    }
}

/// Codes three pictures of the source with the settings; returns the format on the sink pad, the stream, the text of
/// the first error, and the warnings.
fn coded(source: &str, settings: &str, tail: &str) -> (Option<String>, Vec<u8>, Option<String>, Vec<String>) {
    common::init();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=3 ! {source} ! videoconvert ! ddsencode name=e speed-preset=ultrafast {settings} \
         ! {tail} ! appsink name=out sync=false"
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    if settings.contains("two-pass") {
        let other = gst::ElementFactory::make("fakesink")
            .property("async", false)
            .build()
            .unwrap();
        pipeline.add(&other).unwrap();
        pipeline
            .by_name("e")
            .unwrap()
            .link_pads(Some("refine"), &other, None)
            .unwrap();
    }
    let _ = pipeline.set_state(gst::State::Playing);
    let mut stream = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        stream.extend_from_slice(&sample.buffer().unwrap().map_readable().unwrap());
    }
    let pad = pipeline.by_name("e").unwrap().static_pad("sink").unwrap();
    let format = pad
        .current_caps()
        .and_then(|caps| caps.structure(0)?.get::<String>("format").ok());
    let (mut error, mut warnings) = (None, Vec::new());
    let bus = pipeline.bus().unwrap();
    while let Some(message) = bus.pop_filtered(&[gst::MessageType::Error, gst::MessageType::Warning]) {
        match message.view() {
            gst::MessageView::Error(e) => error = error.or(Some(e.error().to_string())),
            gst::MessageView::Warning(w) => warnings.push(w.error().to_string()),
            _ => unreachable!(),
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    (format, stream, error, warnings)
}

#[test]
fn every_size_is_coded_in_a_format_that_can_have_it() {
    for (width, height, x264, x265) in [
        (1, 1, "Y444", ""),
        (2, 2, "I420", ""),
        (15, 15, "Y444", ""),
        (16, 16, "I420", "I420"),
        (641, 361, "Y444", "Y444"),
        (640, 361, "Y42B", "Y444"),
        (641, 360, "Y444", "Y444"),
        (16384, 16, "I420", "I420"),
    ] {
        for (settings, wanted) in [
            ("", x264),
            ("mode=two-pass low-scale=0.6", x264),
            ("encoder=x265", x265),
        ] {
            if settings == "encoder=x265" && !cfg!(feature = "x265") {
                continue;
            }
            let who = format!("{width}x{height} {settings}");
            let source = format!("video/x-raw,format=RGB,width={width},height={height}");
            let (format, stream, error, warnings) = coded(&source, settings, "identity");
            if wanted.is_empty() {
                assert!(error.is_some_and(|e| e.contains("less than 16")), "{who}");
                continue;
            }
            assert_eq!((format.as_deref(), error), (Some(wanted), None), "{who}");
            let chroma = match wanted {
                "Y444" => Some("4:4:4"),
                "Y42B" => Some("4:2:2"),
                _ => None,
            };
            assert_eq!(warnings.len(), usize::from(chroma.is_some()), "{who}: {warnings:?}");
            assert!(
                chroma.is_none_or(|chroma| warnings[0].contains(chroma)),
                "{who}: {warnings:?}"
            );
            if settings != "encoder=x265" {
                assert_eq!(decodes(&stream), 3, "{who}");
            }
        }
    }
    // Fields of interlaced video need twice the lines, luma alone needs nothing, and a peer that requests a profile
    // knows it.
    let fields = "interlace-mode=interleaved,width=720";
    for (source, tail, wanted, warned) in [
        (
            format!("video/x-raw,format=I420,{fields},height=480"),
            "identity",
            "I420",
            0,
        ),
        (
            format!("video/x-raw,format=I420,{fields},height=486"),
            "identity",
            "Y42B",
            1,
        ),
        (
            "video/x-raw,format=GRAY8,width=41,height=31".into(),
            "identity",
            "GRAY8",
            0,
        ),
        (
            "video/x-raw,format=Y444,width=41,height=31".into(),
            "video/x-h264,profile=high-4:4:4",
            "Y444",
            0,
        ),
    ] {
        let (format, stream, error, warnings) = coded(&source, "", tail);
        assert_eq!((format.as_deref(), error), (Some(wanted), None), "{source}");
        assert_eq!(warnings.len(), warned, "{source}: {warnings:?}");
        assert!(tail != "identity" || decodes(&stream) == 3, "{source}");
    }
}

#[test]
fn where_no_format_is_left_the_error_names_the_side_and_the_cure() {
    for (source, settings, tail, wants) in [
        // Downstream leaves 4:2:0 only.
        (
            "format=RGB,width=641,height=361",
            "",
            "video/x-h264,profile=main",
            ["641 is odd", "videoscale"],
        ),
        (
            "format=RGB,width=640,height=361",
            "",
            "video/x-h264,profile=high",
            ["361 is odd", "videocrop"],
        ),
        (
            "format=I420,width=720,height=487,interlace-mode=interleaved",
            "",
            "identity",
            ["487 is no multiple of 4", "fields"],
        ),
        (
            "format=I420,width=720,height=486",
            "interlaced=true",
            "video/x-h264,profile=high",
            ["486 is no multiple", "fields"],
        ),
        (
            "format=GRAY8,width=16400,height=16",
            "",
            "identity",
            ["16400 is more than 16384", "videoscale"],
        ),
    ] {
        let (_, _, error, _) = coded(&format!("video/x-raw,{source}"), settings, tail);
        let error = error.unwrap_or_else(|| panic!("{source}: no error"));
        assert!(wants.iter().all(|want| error.contains(want)), "{source}: {error}");
    }
}

/// Flags of each picture of a byte-stream as FFmpeg reads it: interlaced, top field first, repetitions of a field.
fn fields(stream: &[u8]) -> Vec<(u8, u8, u8)> {
    let thread = format!("{:?}", std::thread::current().id());
    let path = std::env::temp_dir().join(format!("ddsencode-fields-{}-{thread}.h264", std::process::id()));
    std::fs::write(&path, stream).unwrap();
    let entries = "frame=interlaced_frame,top_field_first,repeat_pict";
    let output = std::process::Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-show_entries",
            entries,
            "-of",
            "compact=p=0",
            "-show_frames",
        ])
        .arg(&path)
        .output()
        .expect("ffprobe is installed");
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let field = |line: &str, name: &str| -> Option<u8> { line.split_once(name)?.1.get(1..2)?.parse().ok() };
    text.lines()
        .filter_map(|line| {
            let field = |name| field(line, name);
            Some((
                field("interlaced_frame")?,
                field("top_field_first")?,
                field("repeat_pict")?,
            ))
        })
        .collect()
}

#[test]
fn each_picture_of_mixed_video_is_interlaced_or_not_and_its_regions_stay_exact() {
    use gst_video::VideoBufferFlags as Flags;
    common::init();
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 160, 96)
        .fps(gst::Fraction::new(30, 1))
        .interlace_mode(gst_video::VideoInterlaceMode::Mixed)
        .build()
        .unwrap();
    let mut camera = Camera::direct(element(), info.clone(), info.to_caps().unwrap());
    let (interlaced, top, again) = (Flags::INTERLACED, Flags::TFF, Flags::RFF);
    let pictures = [
        (Flags::empty(), (0, 0, 0)),
        (interlaced, (1, 0, 0)),
        (interlaced | top, (1, 1, 0)),
        (interlaced | top, (1, 1, 0)),
        (Flags::empty(), (0, 0, 0)),
        // FFmpeg does not report fields of different times where one is repeated.
        (interlaced | top | again, (0, 1, 1)),
        (again, (0, 0, 1)),
        (interlaced, (1, 0, 0)),
    ];
    for (n, (flags, _)) in pictures.iter().enumerate() {
        let mut picture = camera.picture();
        picture.make_mut().set_video_flags(*flags);
        camera.push_buffer(picture);
        camera.feedback(n as u16 + 1, n as u64, &[region(32, 32, 48, 32, Quality::Camera)]);
    }
    let stream = camera.stream();
    assert_eq!(fields(&stream), pictures.map(|(_, expected)| expected));
    let frames = quantizers(&stream);
    assert_eq!(frames[0].uniform(), Some(36));
    for frame in &frames[1..] {
        for (n, qp) in frame.qps.iter().enumerate() {
            let inside = (2..5).contains(&(n % 10)) && (2..4).contains(&(n / 10));
            assert_eq!(*qp, if inside { 26 } else { 36 }, "macroblock {n}");
        }
    }
}

#[test]
fn telecined_film_is_flagged_as_by_x264enc() {
    common::init();
    for pattern in ["2:3", "2:2", "1:1"] {
        let coded = |encoder: &str| {
            let pipeline = gst::parse::launch(&format!(
                "videotestsrc num-buffers=12 ! video/x-raw,format=I420,width=720,height=480,framerate=24/1 \
                 ! interlace field-pattern={pattern} ! {encoder} ! video/x-h264,stream-format=byte-stream \
                 ! appsink name=out sync=false"
            ))
            .unwrap()
            .downcast::<gst::Pipeline>()
            .unwrap();
            let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
            pipeline.set_state(gst::State::Playing).unwrap();
            let mut stream = Vec::new();
            while let Ok(sample) = sink.pull_sample() {
                stream.extend_from_slice(&sample.buffer().unwrap().map_readable().unwrap());
            }
            pipeline.set_state(gst::State::Null).unwrap();
            fields(&stream)
        };
        let ours = coded("ddsencode speed-preset=ultrafast");
        assert!(ours.len() >= 6, "{pattern}: {ours:?}");
        assert_eq!(
            ours,
            coded("x264enc tune=zerolatency speed-preset=ultrafast"),
            "{pattern}"
        );
    }
}

/// Promises that hold for every encoder.
const FOR_EVERY_ENCODER: [&str; 10] = [
    "avc_has_codec_data_length_prefixes_and_identity",
    "identity_names_every_access_unit_and_the_library_none",
    "capture_time_is_that_of_the_reference_timestamp_else_of_the_wall_clock",
    "forced_key_units_keep_their_minimum_interval",
    "new_video_caps_give_a_new_encoder_and_identity_goes_on",
    "variable_frame_rates_and_missing_time_stamps_are_coded",
    "flush_begins_anew_with_an_idr_picture",
    "latency_is_none",
    "equal_video_and_equal_feedback_give_equal_bytes",
    "decoders_without_a_parser_take_the_stream",
];

#[test]
fn all_of_this_holds_with_nvenc_too() {
    common::on_fake_nvenc(&FOR_EVERY_ENCODER, &fake_nvenc::NAMES, "");
}

#[test]
fn all_of_this_holds_on_cuda_memory_too() {
    let pictures = common::on_fake_cuda(&FOR_EVERY_ENCODER, "").pictures();
    // Some of these tests have sources of their own.
    assert!(pictures.iter().filter(|picture| picture.on_gpu).count() > 100);
}
