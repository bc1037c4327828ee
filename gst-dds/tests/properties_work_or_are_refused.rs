// SPDX-License-Identifier: MPL-2.0

//! Every property of `x264enc` has the same effect here, or is refused by name at the start.

#![cfg(feature = "x264")]

mod common;

use dds_protocol::nal::{self, Format};
use gst::prelude::*;

/// Slices that an encoder makes of 20 frames of video.
fn slices(encoder: &str, caps: &str) -> Result<Vec<Vec<u8>>, String> {
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=20 pattern=smpte75 horizontal-speed=3 ! video/x-raw,width=320,height=240,{caps} ! \
         {encoder} ! video/x-h264,stream-format=byte-stream ! appsink name=s sync=false"
    ))
    .map_err(|e| e.to_string())?;
    let bin = pipeline.downcast_ref::<gst::Bin>().unwrap();
    let sink = bin.by_name("s").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let result = (|| {
        let error = || match pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]) {
            Some(message) => match message.view() {
                gst::MessageView::Error(e) => format!("{} {:?}", e.error(), e.debug()),
                _ => String::new(),
            },
            None => String::new(),
        };
        pipeline.set_state(gst::State::Playing).map_err(|_| error())?;
        let mut slices = Vec::new();
        while let Ok(sample) = sink.pull_sample() {
            let map = sample.buffer().unwrap().map_readable().unwrap();
            let units = nal::nal_units(&map, Format::ByteStream);
            slices.extend(units.filter(|n| matches!(n[0] & 0x1f, 1 | 5)).map(<[u8]>::to_vec));
        }
        if slices.is_empty() { Err(error()) } else { Ok(slices) }
    })();
    pipeline.set_state(gst::State::Null).unwrap();
    result
}

/// Settings under which both elements must make the same slices.
const SAME: &[&str] = &[
    "",
    "vbv-buf-capacity=200",
    "key-int-max=7",
    "key-int-max=0",
    "intra-refresh=true",
    "me=umh",
    "me=dia",
    "subme=2",
    "analyse=i4x4",
    "analyse=i4x4+i8x8+p8x8+p4x4",
    "dct8x8=false",
    "ref=2",
    "bframes=0",
    "b-adapt=false",
    "b-pyramid=true",
    "weightb=true",
    "sps-id=2",
    "aud=false",
    "trellis=true",
    "cabac=false",
    "qp-min=30",
    "qp-max=24",
    "qp-step=1",
    "ip-factor=1.8",
    "pb-factor=1.9",
    "noise-reduction=500",
    "insert-vui=false",
    "frame-packing=side-by-side",
    "sliced-threads=false",
    "sync-lookahead=0",
    "rc-lookahead=0",
    "mb-tree=false",
    "psy-tune=film",
    "psy-tune=grain",
    "psy-tune=animation",
    "psy-tune=ssim",
    "tune=fastdecode+zerolatency",
    "tune=stillimage+zerolatency",
    "speed-preset=None",
    "speed-preset=faster",
    "speed-preset=slow",
    "speed-preset=placebo",
    "option-string=deblock=1,1:no-mixed-refs:merange=8",
    "option-string=scenecut=0 key-int-max=5",
];

#[test]
fn with_a_bit_rate_the_slices_are_those_of_x264enc() {
    common::init();
    if gst::ElementFactory::find("x264enc").is_none() {
        panic!("x264enc is part of the test environment (gstreamer1.0-plugins-ugly)");
    }
    let mut default = Vec::new();
    for settings in SAME {
        let settings = format!("tune=zerolatency threads=1 bitrate=300 speed-preset=veryfast {settings}");
        let caps = "format=I420,framerate=30/1";
        let theirs = slices(&format!("x264enc {settings}"), caps).unwrap_or_else(|e| panic!("x264enc {settings}: {e}"));
        let ours = slices(&format!("ddsencode {settings}"), caps).unwrap_or_else(|e| panic!("{settings}: {e}"));
        assert!(theirs == ours, "{settings}");
        if default.is_empty() {
            default = ours;
        }
    }
    assert_eq!(default.len(), 20);
}

/// Settings that the element refuses, and the word its message must contain.
const REFUSED: &[(&str, &str)] = &[
    ("bframes=2", "bframes"),
    ("rc-lookahead=10", "rc-lookahead"),
    ("sync-lookahead=5", "sync-lookahead"),
    ("mb-tree=true", "mb-tree"),
    ("pass=pass1", "pass"),
    ("pass=pass2", "pass"),
    ("pass=pass3", "pass"),
    ("multipass-cache-file=x.log", "multipass-cache-file"),
    ("tune=0", "tune"),
    ("tune=fastdecode", "tune"),
    ("tune=stillimage+zerolatency psy-tune=film", "psy-tune"),
    ("sliced-threads=false threads=2", "sliced-threads"),
    ("ip-factor=1.3", "ip-factor"),
    ("subme=10", "subme"),
    ("pass=quant quantizer=0", "quantizer"),
    ("pass=quant bitrate=300", "bitrate"),
    ("quantizer=30 bitrate=300", "quantizer"),
    ("qp-min=40 qp-max=30", "qp-min"),
    ("max-feedback-bitrate=300 bitrate=300", "max-feedback-bitrate"),
    ("max-feedback-bitrate=300 pass=qual", "max-feedback-bitrate"),
    ("option-string=nonsense=1", "nonsense"),
    ("option-string=me=nonsense", "me=nonsense"),
    ("option-string=aq-mode=0", "aq-mode"),
    ("option-string=aq-mode=2", "aq-mode"),
    ("option-string=aq-strength=0", "aq-strength"),
    ("bitrate=300 option-string=aq-mode=0", "aq-mode"),
    ("bitrate=300 option-string=aq-strength=0", "aq-strength"),
    ("option-string=qcomp=0.6", "qcomp"),
    ("option-string=ipratio=1.4", "ipratio"),
    ("option-string=mbtree=1", "mbtree"),
    ("option-string=bframes=3", "bframes"),
    ("option-string=rc-lookahead=20", "rc-lookahead"),
    ("option-string=crf=23", "crf"),
    ("option-string=qp=23", "qp"),
    ("option-string=bitrate=23", "bitrate"),
    ("option-string=vbv_maxrate=23", "vbv_maxrate"),
    ("option-string=zones=0,10,q=20", "zones"),
    ("option-string=nal-hrd=cbr", "nal-hrd"),
    ("option-string=subme=10", "subme"),
    ("option-string=qpmin=20", "qpmin"),
    ("option-string=annexb=0", "annexb"),
    ("option-string=profile=main", "profile"),
];

#[test]
fn each_thread_codes_a_slice() {
    common::init();
    let line = "ddsencode tune=zerolatency threads=2 sliced-threads=true";
    assert_eq!(slices(line, "format=I420,framerate=30/1").unwrap().len(), 40);
}

#[test]
fn automatic_key_frame_distance_is_that_of_x264enc() {
    common::init();
    let count = |encoder: &str| {
        let line = format!("{encoder} tune=zerolatency threads=1 bitrate=300 speed-preset=ultrafast");
        let kinds = slices(&line, "format=I420,framerate=1/1").unwrap();
        kinds.iter().map(|s| s[0] & 0x1f).collect::<Vec<_>>()
    };
    let ours = count("ddsencode");
    assert_eq!(ours.iter().filter(|kind| **kind == 5).count(), 2);
    assert_eq!(ours, count("x264enc"));
}

#[test]
fn what_cannot_work_is_refused_by_name_before_the_first_frame() {
    common::init();
    for (settings, word) in REFUSED {
        let pipeline = gst::parse::launch(&format!("videotestsrc ! ddsencode name=e {settings} ! fakesink")).unwrap();
        let bin = pipeline.downcast_ref::<gst::Bin>().unwrap();
        let refused = bin.by_name("e").unwrap().set_state(gst::State::Paused);
        let message = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
        pipeline.set_state(gst::State::Null).unwrap();
        assert!(refused.is_err(), "{settings} started");
        let message = message.unwrap_or_else(|| panic!("{settings}: no error message"));
        let gst::MessageView::Error(error) = message.view() else {
            unreachable!()
        };
        let text = error.debug().unwrap().to_string();
        assert!(text.contains(word), "{settings}: {text}");
    }
}

#[test]
fn every_property_of_x264enc_is_here_with_its_nicks_and_range() {
    common::init();
    let theirs = gst::ElementFactory::make("x264enc").build().unwrap();
    let ours = gst::ElementFactory::make("ddsencode").build().unwrap();
    for theirs in theirs.list_properties().iter() {
        let name = theirs.name();
        let ours = ours.find_property(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(ours.type_(), theirs.type_(), "{name}");
        if theirs.value_type().is_a(glib::Type::ENUM) {
            let (ours, theirs) = [&ours, theirs]
                .map(|p| glib::EnumClass::with_type(p.value_type()).unwrap())
                .into();
            let values = |class: &glib::EnumClass| -> Vec<(i32, String)> {
                class
                    .values()
                    .iter()
                    .map(|v| (v.value(), v.nick().to_string()))
                    .collect()
            };
            let mut expected = values(&theirs);
            if name == "pass" {
                // The default there is cbr; ours is none of theirs, and has a name of its own.
                expected.insert(0, (-1, "auto".into()));
            }
            assert_eq!(values(&ours), expected, "{name}");
        }
        if theirs.value_type().is_a(glib::Type::FLAGS) {
            let (ours, theirs) = [&ours, theirs]
                .map(|p| glib::FlagsClass::with_type(p.value_type()).unwrap())
                .into();
            let values = |class: &glib::FlagsClass| -> Vec<(u32, String)> {
                class
                    .values()
                    .iter()
                    .map(|v| (v.value(), v.nick().to_string()))
                    .collect()
            };
            assert_eq!(values(&ours), values(&theirs), "{name}");
        }
        if let (Some(ours), Some(theirs)) = (
            ours.downcast_ref::<glib::ParamSpecUInt>(),
            theirs.downcast_ref::<glib::ParamSpecUInt>(),
        ) {
            assert_eq!(ours.maximum(), theirs.maximum(), "{name}");
        }
    }
    // A value that was set reads back the same.
    for (name, text) in [
        ("tune", "zerolatency+fastdecode"),
        ("analyse", "p4x4+i8x8"),
        ("me", "umh"),
        ("pass", "qual"),
        ("frame-packing", "top-bottom"),
        ("ip-factor", "1.25"),
        ("sync-lookahead", "-1"),
        ("option-string", "a=b"),
    ] {
        for element in [&ours, &theirs] {
            element.set_property_from_str(name, text);
        }
        let [ours, theirs] = [&ours, &theirs].map(|e| e.property_value(name).serialize().unwrap());
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn defaults_are_what_holds_where_nothing_is_set() {
    common::init();
    let theirs = gst::ElementFactory::make("x264enc").build().unwrap();
    let ours = gst::ElementFactory::make("ddsencode").build().unwrap();
    let own = theirs.list_properties();
    let own = own.iter().filter(|pspec| pspec.owner_type() == theirs.type_());
    let defaults: Vec<_> = own.map(|theirs| ours.find_property(theirs.name()).unwrap()).collect();
    assert_eq!(defaults.len(), 39);
    for mode in ["", "bitrate=300", "pass=quant", "pass=qual quantizer=30"] {
        let line = format!("ddsencode threads=1 stream-id=7 wall-clock=false {mode}");
        let video = "format=I420,framerate=30/1";
        let unset = slices(&line, video).unwrap();
        for pspec in &defaults {
            let name = pspec.name();
            // Only for `quantizer` it matters whether it is set.
            if line.contains(&format!(" {name}=")) || name == "quantizer" && !mode.contains("pass") {
                continue;
            }
            let value = pspec.default_value().serialize().unwrap();
            let value = value.trim_matches('"');
            let set =
                slices(&format!("{line} {name}=\"{value}\""), video).unwrap_or_else(|e| panic!("{mode} {name}: {e}"));
            assert!(set == unset, "{mode} {name}={value}");
        }
    }
}

#[test]
fn bit_rate_and_kind_of_rate_control_change_live() {
    use common::{Camera, element};
    let element = element();
    element.set_property("bitrate", 2000u32);
    let mut camera = Camera::new(element, 320, 240);
    let kbps = |camera: &mut Camera, frames: usize| {
        (0..frames).map(|_| camera.push().size()).sum::<usize>() * 8 * 30 / frames / 1000
    };
    kbps(&mut camera, 30);
    let before = kbps(&mut camera, 60);
    camera.element.set_property("bitrate", 600u32);
    kbps(&mut camera, 30);
    let after = kbps(&mut camera, 60);
    assert!((1600..=2300).contains(&before), "{before}");
    assert!((450..=720).contains(&after), "{after}");
    // No bit rate: quantizers. libx264 cannot change that in an open encoder.
    camera.element.set_property("bitrate", 0u32);
    let unit = camera.push();
    assert!(common::identity(&unit).recovery);
    let first = camera.units.len() - 1;
    camera.push();
    let tail: Vec<u8> = camera.units[first..]
        .iter()
        .flat_map(|u| u.map_readable().unwrap().to_vec())
        .collect();
    let frames = common::quantizers(&tail);
    assert_eq!((frames[0].uniform(), frames[1].uniform()), (Some(36), Some(30)));
}

#[test]
fn presets_load_and_a_saved_one_changes_nothing() {
    use common::{Camera, element, quantizers};
    // GStreamer reads these once per process: run again in a process that begins with them.
    if std::env::var_os("GST_PRESET_PATH").is_none() {
        let home = std::env::temp_dir().join(format!("ddsencode-presets-{}", std::process::id()));
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "presets_load_and_a_saved_one_changes_nothing"])
            .env("XDG_DATA_HOME", &home)
            .env("GST_PRESET_PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/presets"))
            .status()
            .unwrap();
        let _ = std::fs::remove_dir_all(home);
        assert!(status.success());
        return;
    }
    let load = |element: &gst::Element, name: &str| {
        let preset = element.dynamic_cast_ref::<gst::Preset>().unwrap();
        preset.load_preset(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    let values = |element: &gst::Element| -> Vec<(String, String)> {
        let readable = |pspec: &&glib::ParamSpec| pspec.flags().contains(glib::ParamFlags::READWRITE);
        let of = |pspec: &glib::ParamSpec| {
            (
                pspec.name().to_string(),
                format!("{:?}", element.property_value(pspec.name())),
            )
        };
        let differ = ["name", "parent", "stats"];
        let all = element.list_properties();
        all.iter()
            .filter(readable)
            .map(of)
            .filter(|(name, _)| !differ.contains(&name.as_str()))
            .collect()
    };
    let names = element().dynamic_cast_ref::<gst::Preset>().unwrap().preset_names();
    let names: Vec<_> = names
        .iter()
        .map(|name| name.to_string())
        .filter(|name| name != "mine")
        .collect();
    assert_eq!(names, ["Balanced", "Low Band", "Night", "Recorder", "Small Objects"]);
    for name in &names {
        // Loaded after any other one, a preset keeps nothing of that.
        let alone = element();
        load(&alone, name);
        for other in &names {
            let element = element();
            load(&element, other);
            load(&element, name);
            assert_eq!(values(&element), values(&alone), "{name} after {other}");
        }
        // It codes with every library of this build, at the quantizers it names, and has no conflicts.
        let libraries: &[&str] = if cfg!(feature = "x265") {
            &["x264", "x265"]
        } else {
            &["x264"]
        };
        for library in libraries {
            let element = element();
            element.set_property_from_str("encoder", library);
            load(&element, name);
            let bus = gst::Bus::new();
            element.set_bus(Some(&bus));
            let fallback = element.property::<u32>("fallback-qp");
            let mut camera = Camera::new(element, 160, 96);
            camera.push();
            camera.push();
            let posted = bus.pop_filtered(&[gst::MessageType::Warning, gst::MessageType::Error]);
            assert!(posted.is_none(), "{name}, {library}: {posted:?}");
            if *library == "x264" {
                assert_eq!(
                    quantizers(&camera.stream())[1].uniform(),
                    Some(fallback as u8),
                    "{name}"
                );
            }
        }
    }
    // Everything at its default, saved and loaded: still two quantizers.
    let fresh = element();
    fresh
        .dynamic_cast_ref::<gst::Preset>()
        .unwrap()
        .save_preset("mine")
        .unwrap();
    let other = element();
    other
        .dynamic_cast_ref::<gst::Preset>()
        .unwrap()
        .load_preset("mine")
        .unwrap();
    let mut camera = Camera::new(other, 160, 96);
    camera.push();
    camera.push();
    let frames = quantizers(&camera.stream());
    assert_eq!((frames[0].uniform(), frames[1].uniform()), (Some(36), Some(30)));
}

#[test]
fn feedback_is_bounded_where_nothing_else_is_set_and_nobody_says_that_it_should_not() {
    use common::{Camera, element, region};
    use dds_protocol::feedback::Quality;
    let code = |settings: &[(&str, i32)], feedback: bool| {
        let element = element();
        for (name, value) in settings {
            element.set_property_from_str(name, &value.to_string());
        }
        let mut camera = Camera::new(element, 320, 240);
        for frame in 0..20u64 {
            camera.push();
            if feedback {
                camera.feedback(frame as u16 + 1, frame, &[region(0, 0, 320, 80, Quality::Qp(1))]);
            }
        }
        (camera.count("feedback-trimmed-frames"), camera.stream())
    };
    for (settings, bounded) in [
        (&[] as &[_], true),
        (&[("max-feedback-bitrate", 200)], true),
        (&[("max-feedback-bitrate", 200), ("quantizer", 36)], true),
        (&[("max-feedback-bitrate", 0)], false),
        (&[("max-bitrate", 0)], false),
        // Values of a saved preset.
        (&[("max-bitrate", 0), ("max-feedback-bitrate", -1)], true),
        (&[("max-bitrate", 100_000)], false),
        (&[("bandwidth", 100_000)], false),
        (&[("bitrate", 100_000)], false),
        (&[("quantizer", 36)], false),
    ] {
        assert_eq!(code(settings, true).0 > 0, bounded, "{settings:?}");
    }
    // Where the bound does not act, it has no effect at all.
    for settings in [&[] as &[_], &[("bitrate", 300)], &[("quantizer", 36)]] {
        let free = [settings, &[("max-feedback-bitrate", 0)]].concat();
        assert!(code(settings, false).1 == code(&free, false).1, "{settings:?}");
        if !settings.is_empty() {
            assert!(code(settings, true).1 == code(&free, true).1, "{settings:?}");
        }
    }
}

#[test]
fn with_a_bit_rate_regions_are_differences() {
    use common::{Camera, element, quantizers, region};
    use dds_protocol::feedback::Quality;
    let element = element();
    // Adaptive quantization is off in this preset, so the difference can be read.
    element.set_property_from_str("speed-preset", "ultrafast");
    element.set_property("bitrate", 3000u32);
    let mut camera = Camera::new(element, 320, 240);
    for _ in 0..10 {
        camera.push();
    }
    camera.feedback(1, 9, &[region(64, 0, 64, 240, Quality::Camera)]);
    camera.push();
    let frames = quantizers(&camera.stream());
    assert!(
        frames[..10]
            .iter()
            .all(|f| f.qps.chunks(20).all(|row| row.iter().all(|qp| *qp == row[0])))
    );
    for row in frames[10].qps.chunks(20) {
        // libx264 still moves whole rows.
        let outside = row[0];
        let want = |x: usize| if (4..8).contains(&x) { outside - 10 } else { outside };
        assert!(row.iter().enumerate().all(|(x, qp)| *qp == want(x)), "{row:?}");
    }
}

#[test]
fn quantizer_limits_hold_for_regions_and_background() {
    use common::{Camera, element, quantizers, region};
    use dds_protocol::feedback::Quality;
    let element = element();
    element.set_property("qp-min", 28u32);
    element.set_property("qp-max", 34u32);
    let mut camera = Camera::new(element, 160, 96);
    camera.push();
    camera.feedback(
        1,
        0,
        &[
            region(0, 0, 32, 32, Quality::Camera),
            region(64, 64, 32, 32, Quality::Qp(10)),
        ],
    );
    camera.push();
    let frames = quantizers(&camera.stream());
    assert_eq!(frames[0].uniform(), Some(34));
    let kinds: std::collections::BTreeSet<u8> = frames[1].qps.iter().copied().collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [28, 34]);
}
