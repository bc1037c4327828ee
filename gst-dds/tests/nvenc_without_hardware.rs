// SPDX-License-Identifier: MPL-2.0

//! NVENC on a stand-in for its driver: the calls made to it, errors where it is missing or fails, and the fallback of
//! `encoder=auto`. The tests of regions, of the stream and of the ways run on it too, in their own files.

mod common;

use common::{Camera, again_on_fake_nvenc, element, identity, info, region};
use dds_protocol::feedback::Quality;
use dds_protocol::nal::{self, Codec, Format};
use fake_nvenc::{FAULTS, NAMES, PROOF, is_child};
use gst::prelude::*;
use gst_video::VideoFormat;

/// Codes six frames of 640x368 video with the element; see [`common::run`].
fn run(element: &gst::Element, peer: &str) -> (Option<String>, usize) {
    let source =
        "videotestsrc num-buffers=6 ! capsfilter caps=video/x-raw,format=I420,width=640,height=368,framerate=30/1";
    common::run(source, element, peer)
}

/// Whether this machine has NVIDIA's driver, so that nothing can be missing.
fn has_driver() -> bool {
    let known = std::process::Command::new("ldconfig").arg("-p").output();
    known.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("libnvidia-encode.so.1"))
}

#[test]
fn a_missing_library_is_one_clear_error_that_names_it_and_the_cure() {
    if is_child() {
        let (words, units) = run(&element(), "video/x-h264");
        let words = words.expect("an error");
        let missing = std::env::var(FAULTS).unwrap();
        for word in [
            "encoder=nvenc",
            missing.as_str(),
            "Install it",
            "choose another encoder",
        ] {
            assert!(words.contains(word), "{words}");
        }
        assert_eq!(units, 0);
        return;
    }
    if has_driver() {
        println!("skipped: this machine has NVIDIA's driver");
        return;
    }
    again_on_fake_nvenc(&[], NAMES[0]);
    again_on_fake_nvenc(&NAMES[..1], NAMES[1]);
}

/// Faults, the words that the error must hold, and how many frames come out before it.
const FAILURES: &[(&str, &[&str], usize)] = &[
    (
        "cuda-broken",
        &["cuInit says 803: system has unsupported", "nvidia-smi"],
        0,
    ),
    ("no-device", &["no NVIDIA GPU"], 0),
    ("old-driver", &["interface is 11.0, and 11.1 is needed", "newer"], 0),
    (
        "open-refused",
        &["nvEncOpenEncodeSessionEx says OUT_OF_MEMORY", "number of sessions"],
        0,
    ),
    ("no-encoder", &["NO_ENCODE_DEVICE", "Choose another encoder"], 0),
    ("no-h264", &["Fake GPU does not code H264"], 0),
    (
        "max-size=200x200",
        &["from 145x49 to 200x200, not 320x240", "videoscale"],
        0,
    ),
    (
        "init-refused",
        &[
            "nvEncInitializeEncoder says UNSUPPORTED_PARAM",
            "this combination is not supported",
        ],
        0,
    ),
    (
        "out-of-memory",
        &["nvEncCreateInputBuffer", "no memory for an input buffer"],
        0,
    ),
    ("map-refused", &["nvEncEncodePicture", "qpDeltaMap is not supported"], 0),
    (
        "ignore-map",
        &["Fake GPU ignores quantizer maps", "choose another encoder"],
        0,
    ),
    (
        "lost-at=3",
        &["DEVICE_NOT_EXIST", "the device was reset", "restart the pipeline"],
        3,
    ),
];

#[test]
fn every_failure_is_one_clear_error_and_leaves_nothing_behind() {
    if is_child() {
        let fault = std::env::var(FAULTS).unwrap();
        let (_, words, expected) = FAILURES.iter().find(|(name, ..)| *name == fault).unwrap();
        let (error, units) = run(&element(), "video/x-h264");
        let error = error.expect(&fault);
        for word in *words {
            assert!(error.contains(word), "{fault}: {error}");
        }
        assert_eq!(units, *expected, "{fault}: {error}");
        return;
    }
    for (fault, ..) in FAILURES {
        again_on_fake_nvenc(&NAMES, fault);
    }
}

#[test]
fn a_gpu_without_a_session_to_spare_codes_without_the_proof_that_maps_act() {
    if is_child() {
        let mut camera = Camera::new(element(), 320, 240);
        camera.push();
        assert_eq!(common::quantizers(&camera.stream())[0].uniform(), Some(36));
        return;
    }
    let log = again_on_fake_nvenc(&NAMES, "one-session");
    assert!(log.of("picture").all(|line| !line.contains(PROOF)));
    let log = again_on_fake_nvenc(&NAMES, "");
    assert_eq!(log.of("picture").filter(|line| line.contains(PROOF)).count(), 2);
}

#[test]
fn a_gpu_that_cannot_take_a_cap_says_so_in_the_statistics_and_goes_on_exactly() {
    if is_child() {
        let mut camera = Camera::new(element(), 320, 240);
        camera.push();
        camera.element.set_property("max-bitrate", 100_000u32);
        for _ in 0..3 {
            camera.push();
        }
        assert!(camera.count("reconfigure-failed") > 0);
        assert!(
            common::quantizers(&camera.stream())[1..]
                .iter()
                .all(|frame| frame.uniform() == Some(30))
        );
        return;
    }
    for fault in ["no-mode-change", "reconfigure-refused"] {
        let log = again_on_fake_nvenc(&NAMES, fault);
        assert_eq!(log.of("reconfigure").count(), 0);
    }
}

/// Name and refusals that `encoder=auto` posts on the bus, and the frames that came out of ten.
#[cfg(feature = "x264")]
fn automatic(format: VideoFormat, peer: &str) -> (String, String) {
    let element = element();
    element.set_property_from_str("encoder", "auto");
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    harness.set_sink_caps_str(peer);
    harness.play();
    let info = info(format, 320, 240);
    harness.set_src_caps(info.to_caps().unwrap());
    harness
        .push(gst::Buffer::from_mut_slice(vec![9u8; info.size()]))
        .unwrap();
    assert!(harness.try_pull().is_some());
    let message = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Element]))
        .find_map(|message| Some(message.structure()?.to_owned()).filter(|s| s.name() == "ddsencode-encoder"))
        .expect("a message");
    let stats = element.property::<gst::Structure>("stats");
    element.set_bus(None);
    let text = |s: &gst::Structure, name: &str| s.get::<String>(name).unwrap();
    assert_eq!(text(&stats, "encoder"), text(&message, "encoder"));
    assert_eq!(text(&stats, "encoders-refused"), text(&message, "refused"));
    (text(&message, "encoder"), text(&message, "refused"))
}

#[cfg(feature = "x264")]
#[test]
fn automatic_choice_takes_nvenc_where_it_works_and_tells_why_where_not() {
    const ANY: &str = "video/x-h264";
    if is_child() {
        match std::env::var(FAULTS).unwrap().as_str() {
            "" => {
                assert_eq!(automatic(VideoFormat::I420, ANY), ("nvenc".into(), String::new()));
                // A format and a profile that only libx264 takes.
                let (encoder, refused) = automatic(VideoFormat::Y444, ANY);
                assert_eq!(encoder, "x264");
                assert!(
                    refused.contains("nvenc: encoder=nvenc: it does not take I444"),
                    "{refused}"
                );
                let (encoder, refused) = automatic(VideoFormat::I420, "video/x-h264,profile=(string)high-4:4:4");
                assert_eq!(encoder, "x264");
                assert!(refused.contains("profile high-4:4:4"), "{refused}");
            }
            "max-size=300x200" => {
                let (encoder, refused) = automatic(VideoFormat::I420, ANY);
                assert_eq!(encoder, "x264");
                assert!(refused.contains("to 300x200, not 320x240"), "{refused}");
            }
            _ => {
                let (encoder, refused) = automatic(VideoFormat::I420, ANY);
                assert_eq!(encoder, "x264");
                assert!(
                    refused.contains("nvenc: encoder=nvenc: libcuda.so.1 of NVIDIA's driver cannot be loaded"),
                    "{refused}"
                );
            }
        }
        return;
    }
    again_on_fake_nvenc(&NAMES, "");
    again_on_fake_nvenc(&NAMES, "max-size=300x200");
    if !has_driver() {
        again_on_fake_nvenc(&[], "absent");
    }
}

#[test]
fn nothing_but_the_encoder_asked_for_codes() {
    if is_child() {
        let element = element();
        // Built without libx264 and libx265 it is the first choice.
        let unset = gst::ElementFactory::make("ddsencode").build().unwrap();
        let unset = unset.property_value("encoder");
        let (_, unset) = glib::EnumValue::from_value(&unset).unwrap();
        let wanted = match (cfg!(feature = "x264"), cfg!(feature = "x265")) {
            (true, _) => "x264",
            (false, true) => "x265",
            (false, false) => "nvenc",
        };
        assert_eq!(unset.nick(), wanted);
        for (settings, word) in [
            ("trellis=true", "trellis"),
            ("me=umh", "me"),
            ("subme=2", "subme"),
            ("intra-refresh=true", "intra-refresh"),
            ("psy-tune=film", "film"),
            ("ref=16", "ref"),
            ("option-string=deblock=1", "option-string `deblock=1`"),
        ] {
            let (name, value) = settings.split_once('=').unwrap();
            let element = common::element();
            element.set_property_from_str(name, value);
            let (error, units) = run(&element, "video/x-h264");
            let error = error.expect(settings);
            assert!(
                error.contains(word) && error.contains("Remove it"),
                "{settings}: {error}"
            );
            assert_eq!(units, 0);
        }
        let (error, _) = run(&element, "video/x-h264,profile=(string)high-4:4:4");
        assert!(error.unwrap().contains("profile high-4:4:4"));
        return;
    }
    again_on_fake_nvenc(&NAMES, "");
}

#[test]
fn properties_that_nvenc_has_reach_it() {
    if is_child() {
        let element = element();
        for (name, value) in [
            ("key-int-max", "5"),
            ("aud", "false"),
            ("cabac", "false"),
            ("dct8x8", "false"),
            ("threads", "4"),
            ("ref", "2"),
            ("speed-preset", "slower"),
            ("qp-max", "34"),
            ("qp-min", "28"),
            ("sps-id", "3"),
        ] {
            element.set_property_from_str(name, value);
        }
        let mut camera = Camera::new(element, 320, 240);
        let mut idr = Vec::new();
        for frame in 0..12u64 {
            if frame == 8 {
                camera.feedback(1, 7, &[region(0, 0, 64, 64, Quality::Camera)]);
            }
            let unit = camera.push();
            let id = identity(&unit);
            assert_eq!(id.slices, 4);
            if id.recovery {
                idr.push(frame);
                let map = unit.map_readable().unwrap();
                let kinds: Vec<u8> = nal::nal_units(&map, Format::ByteStream).map(|n| n[0] & 0x1f).collect();
                assert_eq!(kinds, [7, 8, 6, 5, 5, 5, 5]);
            }
        }
        assert_eq!(idr, [0, 5, 10]);
        let frames = common::quantizers(&camera.stream());
        // The limits hold for background and regions.
        assert_eq!(frames[0].uniform(), Some(34));
        assert!(
            frames[9].qps.iter().all(|qp| [28, 34].contains(qp)),
            "{:?}",
            frames[9].qps
        );
        return;
    }
    let log = again_on_fake_nvenc(&NAMES, "");
    let mut sessions = log.of("initialize").filter(|line| !line.contains(PROOF));
    assert!(sessions.all(|line| line.contains("preset=6") && line.contains("slices=4")));
}

/// A picture whose planes differ from one another and whose rows differ from columns, without sharp edges.
fn slopes(info: &gst_video::VideoInfo) -> gst::Buffer {
    let mut data = vec![0u8; info.size()];
    for component in 0..3u8 {
        let plane = info.format_info().plane()[usize::from(component)] as usize;
        let stride = info.stride()[plane] as usize;
        let (start, step) = (
            info.offset()[plane] + info.comp_poffset(component) as usize,
            info.comp_pstride(component),
        );
        for y in 0..info.comp_height(component) as usize {
            for x in 0..info.comp_width(component) as usize {
                data[start + y * stride + x * step as usize] = (40 * component) + (x / 4 + y / 2) as u8 + 20;
            }
        }
    }
    gst::Buffer::from_mut_slice(data)
}

#[test]
fn all_planes_of_all_formats_arrive_whole_also_in_odd_sizes() {
    if is_child() {
        for (format, raw) in [
            (VideoFormat::Nv12, "nv12"),
            (VideoFormat::I420, "yuv420p"),
            (VideoFormat::Yv12, ""),
        ] {
            for (width, height) in [(320, 240), (322, 242)] {
                let element = element();
                for name in ["background-qp", "region-qp", "fallback-qp"] {
                    element.set_property(name, 10u32);
                }
                let mut camera = Camera::with_format(element, format, width, height);
                let mut picture = slopes(&camera.info);
                let wanted = picture.map_readable().unwrap().to_vec();
                picture.make_mut().set_pts(gst::ClockTime::ZERO);
                camera.push_buffer(picture);
                // FFmpeg has no YV12: its planes are I420 in another order.
                let pixels = if raw.is_empty() { "yuv420p" } else { raw };
                let output = common::ffmpeg_reads(
                    &camera.stream(),
                    [
                        "-v", "error", "-f", "h264", "-i", "-", "-pix_fmt", pixels, "-f", "rawvideo", "-",
                    ],
                );
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let info = common::info(if raw.is_empty() { VideoFormat::I420 } else { format }, width, height);
                let mut coded = camera.info.clone();
                if raw.is_empty() {
                    coded = common::info(VideoFormat::Yv12, width, height);
                }
                // FFmpeg writes rows without the padding of GStreamer's.
                let mut at = 0;
                let planes = info.n_planes() as usize;
                for plane in 0..planes {
                    let theirs = if raw.is_empty() && plane > 0 { 3 - plane } else { plane };
                    let row = if planes == 2 || plane == 0 { width } else { width / 2 } as usize;
                    let rows = if plane == 0 { height } else { height / 2 } as usize;
                    for y in 0..rows {
                        let from = coded.offset()[theirs] + y * coded.stride()[theirs] as usize;
                        let (sent, got) = (&wanted[from..from + row], &output.stdout[at..at + row]);
                        let worst = sent.iter().zip(got).map(|(a, b)| a.abs_diff(*b)).max();
                        assert!(
                            worst < Some(8),
                            "{format:?} {width}x{height} plane {plane} row {y}: {worst:?}"
                        );
                        at += row;
                    }
                }
                assert_eq!(at, output.stdout.len());
            }
        }
        return;
    }
    again_on_fake_nvenc(&NAMES, "");
}

#[test]
fn in_h265_each_block_of_32_pixels_takes_the_finest_of_its_macroblocks() {
    if is_child() {
        for peer in [
            "video/x-h265,stream-format=byte-stream",
            "video/x-h265,stream-format=hvc1",
        ] {
            let element = element();
            let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
            harness.set_sink_caps_str(peer);
            harness.play();
            let info = info(VideoFormat::Nv12, 336, 240);
            harness.set_src_caps(info.to_caps().unwrap());
            for frame in 0..3u64 {
                if frame == 1 {
                    for packet in common::packets(1, 0, &[region(16, 48, 48, 16, Quality::Camera)]) {
                        assert!(harness.push_upstream_event(gst_dds_link::event::feedback(&packet)));
                    }
                }
                let mut buffer = gst::Buffer::from_mut_slice(vec![7u8; info.size()]);
                buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(33 * frame));
                harness.push(buffer).unwrap();
                let unit = harness.try_pull().unwrap();
                let format = if peer.contains("hvc1") {
                    Format::LengthPrefixed(4)
                } else {
                    Format::ByteStream
                };
                let map = unit.map_readable().unwrap();
                let summary = Codec::H265.summarize(&map, format);
                let id = summary.identity.unwrap().unwrap();
                assert_eq!((id.frame, id.recovery, id.slices), (frame, frame == 0, 1));
                let sets = nal::nal_units(&map, format)
                    .filter(|n| matches!(n[0] >> 1, 32..=34))
                    .count();
                assert_eq!(sets, if frame == 0 && !peer.contains("hvc1") { 3 } else { 0 });
            }
            let caps = element.static_pad("src").unwrap().current_caps().unwrap();
            let caps = caps.structure(0).unwrap();
            assert_eq!(
                (caps.name().as_str(), caps.get::<&str>("profile")),
                ("video/x-h265", Ok("main"))
            );
            assert_eq!(caps.has_field("codec_data"), peer.contains("hvc1"));
        }
        return;
    }
    let log = again_on_fake_nvenc(&NAMES, "");
    let pictures = log.pictures();
    assert_eq!(pictures.len(), 6);
    for run in pictures.chunks(3) {
        assert!(
            run.iter()
                .all(|picture| picture.qp == 36 && picture.map.len() == 11 * 8)
        );
        assert_eq!(run[0].map, [0; 88]);
        for picture in &run[1..] {
            for (i, delta) in picture.map.iter().enumerate() {
                // Macroblocks 1 to 3 of row 3: blocks 0 and 1 of row 1.
                let within = matches!((i % 11, i / 11), (0..2, 1));
                assert_eq!(*delta, if within { -10 } else { 0 }, "block {i}");
            }
        }
    }
}

#[test]
fn bit_rates_are_the_drivers_and_change_live_without_a_new_stream() {
    if is_child() {
        let element = element();
        element.set_property("bitrate", 1500u32);
        let mut camera = Camera::new(element, 320, 240);
        let mut bytes = Vec::new();
        for frame in 0..120u64 {
            if frame == 60 {
                camera.element.set_property("bitrate", 3000u32);
                camera.feedback(1, 59, &[region(0, 0, 64, 64, Quality::Camera)]);
            }
            let unit = camera.push();
            assert_eq!(identity(&unit).recovery, frame == 0);
            bytes.push(unit.size());
        }
        let kbps = |frames: &[usize]| frames.iter().sum::<usize>() * 8 / 1000;
        let seconds = [kbps(&bytes[30..60]), kbps(&bytes[90..])];
        assert!(
            (1200..1800).contains(&seconds[0]) && (2400..3600).contains(&seconds[1]),
            "{seconds:?}"
        );
        assert_eq!(camera.count("reconfigure-failed"), 0);
        let last = camera.element.static_pad("src").unwrap().current_caps().unwrap();
        assert!(last.structure(0).unwrap().has_name("video/x-h264"));

        let element = common::element();
        element.set_property_from_str("pass", "qual");
        element.set_property("quantizer", 31u32);
        Camera::new(element, 320, 240).push();
        return;
    }
    let log = again_on_fake_nvenc(&NAMES, "");
    let changes: Vec<_> = log.of("reconfigure").collect();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(
        changes[0].starts_with("mode=2 qp=0 average=3000000 most=3000000 bucket=1800000"),
        "{changes:?}"
    );
    assert!(
        log.of("initialize")
            .any(|line| line.contains("mode=1") && line.ends_with("quality=31"))
    );
    let pictures = log.pictures();
    assert!(
        pictures[..60]
            .iter()
            .all(|picture| picture.map.iter().all(|delta| *delta == 0))
    );
    assert!(
        pictures[60..120]
            .iter()
            .all(|picture| picture.map[..4] == [-10; 4] && picture.map[4..20] == [0; 16])
    );
}
