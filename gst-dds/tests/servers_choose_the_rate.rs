// SPDX-License-Identifier: MPL-2.0

//! Servers choose how many captured pictures are sent, within the bounds of the user, and the stream stays one that every
//! receiver reads.

#![cfg(feature = "x264")]

mod common;

use common::{Camera, STREAM, decodes, element, identity, quantizers};
use dds_protocol::extension::{Bound, InForce};
use dds_protocol::feedback::{self, FeedbackState};
use dds_protocol::identity::FrameIdentity;
use dds_protocol::nal::{Codec, Format};
use dds_protocol::serial::Serial16;
use dds_protocol::wish::{Wish, Wishes};
use gst::prelude::*;

fn wish<T>(value: T, ttl_ms: u32) -> Option<Wish<T>> {
    Some(Wish { value, ttl_ms })
}

fn every(interval: u8, ttl_ms: u32) -> Wishes {
    Wishes {
        interval: wish(interval, ttl_ms),
        ..Wishes::default()
    }
}

/// A packet of a server that has seen `frame`.
fn packet(generation: u64, frame: u64, wishes: Wishes) -> Vec<u8> {
    let state = FeedbackState {
        stream_id: STREAM,
        generation: Serial16(generation as u16),
        frame,
        wishes,
        ..FeedbackState::default()
    };
    feedback::encode(&state).packets.remove(0)
}

fn send(camera: &mut Camera, frame: u64, wishes: Wishes) {
    let event = gst_dds_link::event::feedback(&packet(frame + 1, frame, wishes));
    assert!(camera.harness.push_upstream_event(event));
}

/// Captures so many pictures with a server that answers each sent one with these wishes. Returns the numbers of those
/// sent.
fn watched(camera: &mut Camera, pictures: u64, wishes: Wishes) -> Vec<u64> {
    let mut sent = Vec::new();
    for _ in 0..pictures {
        let (number, picture) = (camera.frames, camera.picture());
        if camera.push_captured(picture).is_some() {
            sent.push(number);
            send(camera, number, wishes);
        }
    }
    sent
}

/// The same without any feedback.
fn unwatched(camera: &mut Camera, pictures: u64) -> Vec<u64> {
    let captured = camera.frames..camera.frames + pictures;
    captured
        .filter(|_| {
            let picture = camera.picture();
            camera.push_captured(picture).is_some()
        })
        .collect()
}

fn told(codec: Codec, unit: &gst::Buffer) -> (FrameIdentity, Option<InForce>) {
    let map = unit.map_readable().unwrap();
    let summary = codec.summarize(&map, Format::ByteStream);
    (
        summary.identity.expect("an identity").expect("a readable one"),
        summary.extension.in_force,
    )
}

fn byte_stream() -> gst::Element {
    let element = element();
    element.set_property("byte-stream", true);
    element
}

#[test]
fn every_third_picture_is_sent_when_that_is_wished_with_its_own_number_and_time() {
    let mut camera = Camera::new(byte_stream(), 320, 240);
    let sent = watched(&mut camera, 60, every(3, 1000));
    // Until the wish is there, every picture is.
    assert_eq!(sent, (0..60).step_by(3).collect::<Vec<_>>());
    for (count, (unit, number)) in camera.units.iter().zip(&sent).enumerate() {
        let identity = identity(unit);
        assert_eq!((identity.frame, identity.access_unit), (*number, count as u32));
        assert_eq!(
            unit.pts(),
            Some(gst::ClockTime::SECOND.mul_div_floor(*number, 30).unwrap())
        );
        assert_eq!(unit.duration(), Some(gst::ClockTime::SECOND / 30));
    }
    assert_eq!(decodes(&camera.stream()), 20);
    assert_eq!((camera.count("frames-coded"), camera.count("frames-skipped")), (20, 40));
    // Another wish counts at once.
    assert_eq!(watched(&mut camera, 8, every(2, 1000)), [60, 62, 64, 66]);
    assert_eq!(watched(&mut camera, 4, every(1, 1000)), [68, 69, 70, 71]);
}

#[test]
fn caps_keep_the_nominal_rate_also_behind_a_parser() {
    let mut camera = Camera::new(byte_stream(), 320, 240);
    watched(&mut camera, 30, every(5, 1000));
    let rate = |caps: gst::Caps| caps.structure(0).unwrap().get::<gst::Fraction>("framerate").ok();
    let caps = camera.element.static_pad("src").unwrap().current_caps().unwrap();
    assert_eq!(rate(caps), Some(gst::Fraction::new(30, 1)));
    let mut parser = gst_check::Harness::new_parse("h264parse");
    parser.set_src_caps_str("video/x-h264,stream-format=byte-stream,alignment=au");
    for unit in &camera.units {
        parser.push(unit.clone()).unwrap();
    }
    parser.push_event(gst::event::Eos::new());
    let caps = parser.sinkpad().unwrap().current_caps().expect("parsed");
    assert_eq!(rate(caps), Some(gst::Fraction::new(30, 1)));
}

#[test]
fn a_wish_lapses_with_its_time_to_live_and_a_server_that_is_lost_leaves_full_rate() {
    let mut camera = Camera::new(byte_stream(), 320, 240);
    watched(&mut camera, 30, every(3, 1000));
    // The last wish came after picture 27, which picture 28 reads.
    let sent = unwatched(&mut camera, 60);
    let (thin, full): (Vec<u64>, Vec<u64>) = sent.iter().partition(|number| **number < 58);
    assert_eq!(thin, (30..58).step_by(3).collect::<Vec<_>>());
    assert_eq!(full, (58..90).collect::<Vec<_>>());

    // A wish of 25 s, of a server that falls silent.
    let element = byte_stream();
    element.set_property("feedback-timeout", 500u32);
    let mut camera = Camera::new(element, 320, 240);
    watched(&mut camera, 30, every(3, 25_000));
    let sent = unwatched(&mut camera, 60);
    let full: Vec<u64> = sent.iter().copied().filter(|number| *number >= 43).collect();
    assert_eq!(full, (43..90).collect::<Vec<_>>(), "{sent:?}");
    assert_eq!(camera.count("feedback-lost"), 1);
}

#[test]
fn nobody_can_blind_a_camera() {
    let forged = Wishes {
        background_qp: wish(51, 25_000),
        region_qp: wish(51, 25_000),
        interval: wish(255, 25_000),
        ceiling_kbps: wish(1, 25_000),
    };
    let mut camera = Camera::new(byte_stream(), 320, 240);
    let sent = watched(&mut camera, 90, forged);
    assert_eq!(sent, (0..90).step_by(6).collect::<Vec<_>>(), "five a second");
    let worst = quantizers(&camera.stream()).iter().flat_map(|q| q.qps.clone()).max();
    assert_eq!(worst, Some(48));
    let last = camera
        .units
        .iter()
        .rev()
        .find_map(|unit| told(Codec::H264, unit).1)
        .unwrap();
    assert_eq!((last.background_qp, last.interval, last.ceiling_kbps), (48, 6, 1));
    assert_eq!(
        (last.bounds.quantizer, last.bounds.interval, last.bounds.ceiling),
        (Bound::User, Bound::User, Bound::User)
    );
    // Its user may move the bounds while it runs, and switch wishes off.
    camera.element.set_property("min-framerate", gst::Fraction::new(15, 1));
    camera.element.set_property("max-background-qp", 40u32);
    assert_eq!(watched(&mut camera, 8, forged), [90, 92, 94, 96]);
    camera
        .element
        .set_property("viewer-framerate", gst::Fraction::new(1000, 1));
    assert_eq!(watched(&mut camera, 4, forged), [98, 99, 100, 101]);
    let last = camera
        .units
        .iter()
        .rev()
        .find_map(|unit| told(Codec::H264, unit).1)
        .unwrap();
    assert_eq!((last.background_qp, last.bounds.interval), (40, Bound::Viewer));
}

#[test]
fn what_is_in_force_is_told_on_key_frames_on_changes_and_every_second() {
    let mut camera = Camera::new(byte_stream(), 320, 240);
    watched(&mut camera, 90, every(2, 1000));
    let numbers: Vec<u64> = camera
        .units
        .iter()
        .filter_map(|unit| {
            let (identity, in_force) = told(Codec::H264, unit);
            in_force.map(|_| identity.frame)
        })
        .collect();
    assert_eq!(numbers, [0, 2, 32, 62], "a key frame, a wish, two seconds");
    let of = |number: u64| told(Codec::H264, &camera.units[number as usize / 2]).1.unwrap();
    assert_eq!((of(0).interval, of(0).bounds.interval), (1, Bound::Fallback));
    assert_eq!(
        of(2),
        InForce {
            background_qp: 36,
            region_qp: 26,
            interval: 2,
            ..InForce::default()
        }
    );
    for values in [&[("server-rate", "false")][..], &[("mode", "two-pass")]] {
        let element = byte_stream();
        values
            .iter()
            .for_each(|(name, value)| element.set_property_from_str(name, value));
        let mut camera = Camera::new(element, 320, 240);
        assert_eq!(watched(&mut camera, 30, every(3, 1000)).len(), 30, "{values:?}");
        assert!(
            camera.units.iter().all(|unit| told(Codec::H264, unit).1.is_none()),
            "{values:?}"
        );
        assert_eq!(
            camera.count("wishes-refused-interval"),
            camera.count("wishes"),
            "{values:?}"
        );
        assert!(camera.count("wishes") >= 29);
    }
}

#[test]
fn key_frames_come_by_captured_pictures_and_those_asked_for_at_once() {
    let element = byte_stream();
    element.set_property("key-int-max", 25u32);
    let mut camera = Camera::new(element, 320, 240);
    watched(&mut camera, 110, every(3, 1000));
    let keyed = |camera: &Camera| -> Vec<u64> {
        let identities = camera.units.iter().map(identity);
        identities
            .filter(|identity| identity.recovery)
            .map(|identity| identity.frame)
            .collect()
    };
    assert_eq!(keyed(&camera), [0, 25, 50, 75, 100]);
    // One that an application asks for comes with the very next picture, and the next one is sent after it.
    let element = byte_stream();
    let mut camera = Camera::new(element, 320, 240);
    watched(&mut camera, 31, every(5, 1000));
    let request = gst_video::UpstreamForceKeyUnitEvent::builder()
        .all_headers(true)
        .build();
    assert!(camera.harness.push_upstream_event(request));
    assert_eq!(watched(&mut camera, 10, every(5, 1000)), [31, 36]);
    assert_eq!(keyed(&camera), [0, 31]);
}

#[test]
fn a_receiver_that_waits_for_a_key_frame_gets_every_picture_until_it_has_it() {
    let mut camera = Camera::new(byte_stream(), 320, 240);
    watched(&mut camera, 31, every(5, 1000));
    let lost = || {
        let structure = gst::Structure::builder("GstForceKeyUnit")
            .field("all-headers", true)
            .field("ssrc", 7u32);
        gst::event::CustomUpstream::new(structure.build())
    };
    assert!(camera.harness.push_upstream_event(lost()));
    assert_eq!(watched(&mut camera, 6, every(5, 1000)), [31, 36]);
    // The second within a second waits for its end.
    assert!(camera.harness.push_upstream_event(lost()));
    let sent = watched(&mut camera, 40, every(5, 1000));
    let (waiting, whole): (Vec<u64>, Vec<u64>) = sent.iter().partition(|number| **number <= 61);
    assert_eq!(waiting, (37..=61).collect::<Vec<_>>(), "{sent:?}");
    assert_eq!(whole, [66, 71, 76], "{sent:?}");
    let keyed: Vec<u64> = camera
        .units
        .iter()
        .map(identity)
        .filter(|i| i.recovery)
        .map(|i| i.frame)
        .collect();
    assert_eq!(keyed, [0, 31, 61]);
    let loss: Vec<Bound> = camera
        .units
        .iter()
        .map(|unit| told(Codec::H264, unit))
        .filter_map(|(identity, in_force)| (identity.frame == 37).then_some(in_force?.bounds.interval))
        .collect();
    assert_eq!(loss, [Bound::Loss]);
}

/// kbit/s of the pictures captured from `from` on.
fn kbps(camera: &Camera, from: u64) -> f64 {
    let bytes: usize = camera
        .units
        .iter()
        .filter(|unit| identity(unit).frame >= from)
        .map(|unit| unit.size())
        .sum();
    bytes as f64 * 8.0 * 30.0 / 1000.0 / (camera.frames - from) as f64
}

#[test]
fn a_bit_rate_and_a_cap_are_kept_whatever_rate_is_wished() {
    let wishes = Wishes {
        background_qp: wish(44, 1000),
        ceiling_kbps: wish(100, 1000),
        ..every(4, 1000)
    };
    for (values, least, most) in [
        (&[("bitrate", "800")][..], 700.0, 880.0),
        (&[("max-bitrate", "300")], 150.0, 312.0),
        (&[("bandwidth", "300")], 200.0, 320.0),
    ] {
        let element = byte_stream();
        values
            .iter()
            .for_each(|(name, value)| element.set_property_from_str(name, value));
        let mut camera = Camera::new(element, 320, 240);
        let wishes = if values[0].0 == "bitrate" {
            wishes
        } else {
            every(4, 1000)
        };
        let sent = watched(&mut camera, 300, wishes);
        assert_eq!(sent.len(), 75);
        let kept = kbps(&camera, 90);
        assert!((least..=most).contains(&kept), "{values:?}: {kept}");
        let refused = (
            camera.count("wishes-refused-quantizer"),
            camera.count("wishes-refused-ceiling"),
        );
        let counted = if values[0].0 == "bitrate" {
            camera.count("wishes")
        } else {
            0
        };
        assert_eq!(refused, (counted, counted), "{values:?}");
    }
}

#[test]
fn a_ceiling_is_kept_by_coarser_pictures_and_then_by_fewer() {
    let ceiling = |kbps| Wishes {
        ceiling_kbps: wish(kbps, 1000),
        ..Wishes::default()
    };
    let mut camera = Camera::new(byte_stream(), 320, 240);
    watched(&mut camera, 60, Wishes::default());
    let open = kbps(&camera, 30);
    let coarse = (0.5 * open) as u32;
    watched(&mut camera, 150, ceiling(coarse));
    assert_eq!(camera.count("frames-skipped"), 0, "coarser pictures do");
    let kept = kbps(&camera, 120);
    assert!(
        kept <= 1.03 * f64::from(coarse) && kept > 0.6 * f64::from(coarse),
        "{kept} of {coarse}"
    );
    let worst = quantizers(&camera.stream()).iter().flat_map(|q| q.qps.clone()).max();
    assert!(worst <= Some(48), "{worst:?}");
    let from = camera.frames;
    let sent = watched(&mut camera, 180, ceiling(300));
    let kept = kbps(&camera, from + 60);
    assert!((40..150).contains(&sent.len()), "{} pictures", sent.len());
    assert!((200.0..315.0).contains(&kept), "{kept}");
    let (_, in_force) = camera
        .units
        .iter()
        .rev()
        .map(|unit| told(Codec::H264, unit))
        .find(|(_, in_force)| in_force.is_some())
        .unwrap();
    assert_eq!(
        in_force.map(|told| (told.background_qp, told.bounds.ceiling)),
        Some((48, Bound::None))
    );
}

#[test]
fn a_ceiling_below_a_bandwidth_is_kept_by_its_controller() {
    let ceiling = Wishes {
        ceiling_kbps: wish(300, 1000),
        ..Wishes::default()
    };
    let element = byte_stream();
    element.set_property("bandwidth", 900u32);
    let mut camera = Camera::new(element, 320, 240);
    watched(&mut camera, 120, Wishes::default());
    let before = kbps(&camera, 60);
    watched(&mut camera, 180, ceiling);
    let under = kbps(&camera, 180);
    watched(&mut camera, 180, Wishes::default());
    let after = kbps(&camera, 420);
    // Noise takes more than a bandwidth that has just risen, by a wish or by its property.
    assert!(
        (760.0..1020.0).contains(&before) && (760.0..1020.0).contains(&after),
        "{before} {after}"
    );
    assert!((220.0..315.0).contains(&under), "{under}");
    let of = |number: u64| {
        let tellings = camera.units.iter().map(|unit| told(Codec::H264, unit));
        let mut later = tellings.filter(|(identity, _)| identity.frame >= number);
        later.find_map(|(_, in_force)| in_force)
    };
    let (open, bound) = (of(60).unwrap(), of(200).unwrap());
    assert_eq!((open.ceiling_kbps, bound.ceiling_kbps), (900, 300));
    assert_eq!(bound.bounds.ceiling, Bound::None);
}

#[test]
fn wished_quantizers_are_exact_and_end_with_the_wish() {
    let wishes = Wishes {
        background_qp: wish(42, 400),
        ..Wishes::default()
    };
    let mut camera = Camera::new(byte_stream(), 320, 240);
    watched(&mut camera, 10, wishes);
    watched(&mut camera, 5, Wishes::default());
    let quantizers = quantizers(&camera.stream());
    let uniform: Vec<u8> = quantizers.iter().map(|q| q.uniform().unwrap_or(0)).collect();
    assert_eq!(uniform[1..10], [42; 9]);
    // The state in force when a picture was planned is that of the server's answer to the one before it.
    assert_eq!(uniform[10], 42);
    assert_eq!(uniform[11..], [36; 4]);
    let finer = Wishes {
        background_qp: wish(1, 1000),
        ..Wishes::default()
    };
    // What a wish adds is bounded like regions of feedback.
    let element = byte_stream();
    element.set_property("max-feedback-bitrate", 300i32);
    let mut camera = Camera::new(element, 320, 240);
    watched(&mut camera, 60, Wishes::default());
    let before = kbps(&camera, 20);
    let from = camera.frames;
    watched(&mut camera, 120, finer);
    let after = kbps(&camera, from);
    assert!(after > before + 60.0 && after < before + 420.0, "{before} to {after}");
}

/// `fixed_frame_rate_flag` as FFmpeg reads it in the first parameter set.
fn declares_fixed_rate(camera: &Camera) -> bool {
    let arguments = [
        "-v",
        "verbose",
        "-f",
        "h264",
        "-i",
        "-",
        "-c",
        "copy",
        "-bsf:v",
        "trace_headers",
        "-f",
        "null",
        "-",
    ];
    let output = common::ffmpeg_reads(&camera.stream(), arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find(|line| line.contains("fixed_frame_rate_flag"));
    line.expect("timing information").trim_end().ends_with("= 1")
}

#[test]
fn the_rate_is_declared_as_fixed_only_where_no_picture_is_ever_left_out() {
    for (values, fixed) in [
        (&[][..], false),
        (&[("server-rate", "false")], true),
        (&[("mode", "two-pass")], true),
    ] {
        let element = byte_stream();
        values
            .iter()
            .for_each(|(name, value)| element.set_property_from_str(name, value));
        let mut camera = Camera::new(element, 320, 240);
        // From the first picture on, long before anybody wishes.
        unwatched(&mut camera, 2);
        assert_eq!(declares_fixed_rate(&camera), fixed, "{values:?}");
    }
}

#[test]
fn all_of_this_holds_with_nvenc_too() {
    let tests = [
        "every_third_picture_is_sent_when_that_is_wished_with_its_own_number_and_time",
        "nobody_can_blind_a_camera",
        "key_frames_come_by_captured_pictures_and_those_asked_for_at_once",
        "the_rate_is_declared_as_fixed_only_where_no_picture_is_ever_left_out",
    ];
    let log = common::on_fake_nvenc(&tests, &fake_nvenc::NAMES, "");
    assert!(log.pictures().len() > 60);
}

#[cfg(feature = "x265")]
#[test]
fn h265_follows_wishes_too() {
    let element = byte_stream();
    element.set_property_from_str("encoder", "x265");
    let mut camera = Camera::new(element, 320, 240);
    let sent = watched(&mut camera, 45, every(3, 1000));
    assert_eq!(sent, (0..45).step_by(3).collect::<Vec<_>>());
    let frames: Vec<u64> = camera
        .units
        .iter()
        .map(|unit| told(Codec::H265, unit).0.frame)
        .collect();
    assert_eq!(frames, sent);
    let output = common::ffmpeg_reads(
        &camera.stream(),
        ["-v", "error", "-f", "hevc", "-i", "-", "-f", "framemd5", "-"],
    );
    assert!(output.status.success() && output.stderr.is_empty());
    let lines = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|l| !l.starts_with('#'))
        .count();
    assert_eq!(lines, sent.len());
}

/// A server at the encoder's own output, which wishes every `interval`-th picture.
fn serve(element: &gst::Element, codec: Codec, interval: u8) {
    let pad = element.static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(gst::PadProbeData::Buffer(buffer)) = &info.data else {
            return gst::PadProbeReturn::Ok;
        };
        let caps = pad.current_caps().unwrap();
        let by_length = matches!(
            caps.structure(0).unwrap().get("stream-format"),
            Ok("avc" | "hvc1" | "hev1")
        );
        let format = if by_length {
            Format::LengthPrefixed(4)
        } else {
            Format::ByteStream
        };
        let map = buffer.map_readable().unwrap();
        let identity = codec.summarize(&map, format).identity.unwrap().unwrap();
        let packet = packet(identity.frame + 1, identity.frame, every(interval, 1000));
        pad.send_event(gst_dds_link::event::feedback(&packet));
        gst::PadProbeReturn::Ok
    });
}

/// Runs a pipeline to its end.
fn to_the_end(pipeline: &gst::Pipeline, what: &str) {
    pipeline.set_state(gst::State::Playing).unwrap();
    let message = pipeline.bus().unwrap().timed_pop_filtered(
        gst::ClockTime::from_seconds(60),
        &[
            gst::MessageType::Eos,
            gst::MessageType::Error,
            gst::MessageType::Warning,
        ],
    );
    pipeline.set_state(gst::State::Null).unwrap();
    let message = message.unwrap_or_else(|| panic!("{what} does not end"));
    assert_eq!(message.type_(), gst::MessageType::Eos, "{what}: {message:?}");
}

#[test]
fn players_show_every_sent_picture_at_its_time() {
    common::init();
    for (codec, values, pay) in [
        (
            Codec::H264,
            "",
            "rtph264pay ! rtph264depay ! h264parse ! avdec_h264 max-threads=1",
        ),
        (
            Codec::H264,
            "",
            "h264parse ! matroskamux streamable=true ! matroskademux ! h264parse ! avdec_h264 max-threads=1",
        ),
        (Codec::H264, "", "rtph264pay ! rtph264depay ! h264parse ! openh264dec"),
        (
            Codec::H265,
            "encoder=x265",
            "rtph265pay ! rtph265depay ! h265parse ! avdec_h265 max-threads=1",
        ),
    ] {
        let line = format!(
            "videotestsrc num-buffers=90 pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
             ! ddsencode name=e speed-preset=superfast threads=1 stream-id={STREAM} wall-clock=false {values} \
             ! {pay} ! fakesink name=s"
        );
        let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
        serve(&pipeline.by_name("e").unwrap(), codec, 3);
        let shown = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let keep = shown.clone();
        let sink = pipeline.by_name("s").unwrap().static_pad("sink").unwrap();
        sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
                keep.lock().unwrap().push(buffer.pts().unwrap().mseconds());
            }
            gst::PadProbeReturn::Ok
        });
        to_the_end(&pipeline, pay);
        let shown = shown.lock().unwrap();
        let from = shown[0];
        let expected: Vec<u64> = (0..30).map(|i| from + 100 * i).collect();
        assert_eq!(shown.len(), 30, "{pay}");
        let near = |(shown, wanted): (&u64, &u64)| shown.abs_diff(*wanted) <= 1;
        assert!(shown.iter().zip(&expected).all(near), "{pay}: {shown:?}");
    }
}

/// Times in seconds of the packets of a file's stream, as FFmpeg reads them.
fn packet_times(file: &std::path::Path, stream: &str) -> Vec<f64> {
    let output = std::process::Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-select_streams",
            stream,
            "-show_entries",
            "packet=pts_time",
            "-of",
            "csv=p=0",
        ])
        .arg(file)
        .output()
        .expect("ffprobe is installed");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let times = text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok());
    times.collect()
}

#[test]
fn recorders_with_sound_go_on_and_every_picture_keeps_its_time() {
    common::init();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("recorders-at-a-lower-rate");
    std::fs::create_dir_all(&folder).unwrap();
    for (muxer, file, values) in [
        ("mp4mux", "a.mp4", ""),
        ("mp4mux fragment-duration=500", "fragments.mp4", ""),
        ("matroskamux", "a.mkv", ""),
        ("mpegtsmux", "a.ts", ""),
        ("matroskamux", "h265.mkv", "encoder=x265"),
    ] {
        let path = folder.join(file);
        let parser = if values.is_empty() { "h264parse" } else { "h265parse" };
        let line = format!(
            "videotestsrc num-buffers=150 pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
             ! ddsencode name=e speed-preset=superfast threads=1 stream-id={STREAM} wall-clock=false {values} \
             ! {parser} ! queue ! {muxer} name=m ! filesink location={} \
             audiotestsrc num-buffers=216 samplesperbuffer=1024 ! audio/x-raw,rate=44100,channels=1 ! avenc_aac ! aacparse \
             ! queue ! m.",
            path.display()
        );
        let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
        let element = pipeline.by_name("e").unwrap();
        serve(&element, if values.is_empty() { Codec::H264 } else { Codec::H265 }, 3);
        to_the_end(&pipeline, file);
        let pictures = packet_times(&path, "v:0");
        assert_eq!(pictures.len(), 50, "{file}");
        for (i, time) in pictures.iter().enumerate() {
            let wanted = i as f64 * 0.1;
            assert!(
                (time - pictures[0] - wanted).abs() < 0.0021,
                "{file}: {time} is not {wanted}"
            );
        }
        let sound = packet_times(&path, "a:0");
        assert!((214..=218).contains(&sound.len()), "{file}: {}", sound.len());
        assert!(
            sound.windows(2).all(|two| (two[1] - two[0] - 0.0232).abs() < 0.0021),
            "{file}"
        );
    }
}

#[test]
fn what_enters_a_still_scene_is_sent_although_no_picture_was_due() {
    let mut camera = Camera::new(byte_stream(), 320, 240);
    let mut sent = Vec::new();
    for number in 0..130u64 {
        let mut picture = gst::Buffer::with_size(camera.info.size()).unwrap();
        {
            let picture = picture.make_mut();
            picture.set_pts(gst::ClockTime::SECOND.mul_div_floor(number, 30));
            let mut map = picture.map_writable().unwrap();
            map.fill(110);
            for row in (0..64).filter(|_| number >= 103) {
                map[(80 + row) * 320 + 128..][..64].fill(220);
            }
        }
        if camera.push_captured(picture).is_some() {
            sent.push(number);
            send(&mut camera, number, every(5, 1000));
        }
    }
    let expected: Vec<u64> = (0..103).step_by(5).chain((103..130).step_by(5)).collect();
    assert_eq!(sent, expected);
    assert_eq!(camera.count("frames-woken"), 1);
    assert_eq!(decodes(&camera.stream()), sent.len());
}

/// Sums of the decoded pictures, as FFmpeg reads them.
fn decoded_sums(stream: &[u8]) -> Vec<String> {
    let output = common::ffmpeg_reads(stream, ["-v", "error", "-f", "h264", "-i", "-", "-f", "framemd5", "-"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| Some(line.rsplit_once(',')?.1.trim().to_string()))
        .collect()
}

#[test]
fn repetitions_show_exactly_the_picture_before_and_are_marked_and_cheap() {
    for values in [
        &[][..],
        &[("speed-preset", "ultrafast")],
        &[("speed-preset", "medium")],
        &[("speed-preset", "slower"), ("cabac", "false")],
        &[("bitrate", "600")],
        &[("pass", "qual")],
        &[("max-bitrate", "300")],
        &[("threads", "2")],
        &[("qp-max", "40")],
    ] {
        let element = byte_stream();
        element.set_property_from_str("skipped-pictures", "repeat");
        element.set_property("key-int-max", 40u32);
        values
            .iter()
            .for_each(|(name, value)| element.set_property_from_str(name, value));
        let mut camera = Camera::new(element, 320, 240);
        watched(&mut camera, 100, every(4, 1000));
        assert_eq!(camera.units.len(), 100, "{values:?}: a recorder counts every one");
        std::fs::write("/tmp/rep.264", camera.stream()).unwrap();
        println!(
            "{:?}",
            camera.units.iter().map(|u| u.size()).take(20).collect::<Vec<_>>()
        );
        let sums = decoded_sums(&camera.stream());
        assert_eq!(sums.len(), 100, "{values:?}");
        let mut repeated = 0;
        for (number, unit) in camera.units.iter().enumerate() {
            let map = unit.map_readable().unwrap();
            let summary = Codec::H264.summarize(&map, Format::ByteStream);
            let identity = summary.identity.unwrap().unwrap();
            assert_eq!((identity.frame, identity.access_unit), (number as u64, number as u32));
            if summary.extension.repeated {
                repeated += 1;
                assert_eq!(sums[number], sums[number - 1], "{values:?}: picture {number}");
                assert!(!identity.recovery);
            } else if number > 0 {
                assert_ne!(sums[number], sums[number - 1], "{values:?}: picture {number}");
            }
        }
        let count = |name| camera.count(name);
        assert_eq!(
            (count("frames-repeated"), count("frames-skipped")),
            (repeated, repeated)
        );
        assert_eq!(count("frames-coded"), 100 - repeated);
        assert!((72..=75).contains(&repeated), "{values:?}: {repeated}");
        let price = count("bytes-repeated") as f64 / repeated as f64;
        println!("{values:?}: {price:.1} bytes for each");
        assert!(price < 120.0, "{values:?}: {price}");
        // What repetitions leave is spent on the pictures that are sent.
        let kept = kbps(&camera, 40);
        match values.first() {
            Some(("bitrate", _)) => assert!((480.0..680.0).contains(&kept), "{kept}"),
            Some(("max-bitrate", _)) => assert!((150.0..312.0).contains(&kept), "{kept}"),
            _ => {}
        }
    }
}

#[test]
fn what_cannot_repeat_says_so() {
    for (values, reason) in [
        (&[("encoder", "x265")][..], "libx265 cannot"),
        (&[("intra-refresh", "true")], "intra-refresh"),
        (&[("option-string", "weightp=1")], "weightp"),
        (&[("interlaced", "true")], "interlaced"),
    ] {
        let element = byte_stream();
        element.set_property_from_str("skipped-pictures", "repeat");
        values
            .iter()
            .for_each(|(name, value)| element.set_property_from_str(name, value));
        let source = "videotestsrc num-buffers=2 ! capsfilter caps=video/x-raw,format=I420,width=320,height=240";
        let (error, units) = common::run(source, &element, "video/x-h264;video/x-h265");
        let error = error.unwrap_or_else(|| panic!("{values:?} runs"));
        assert!(
            error.contains("skipped-pictures=repeat") && error.contains(reason),
            "{error}"
        );
        assert_eq!(units, 0);
    }
}
