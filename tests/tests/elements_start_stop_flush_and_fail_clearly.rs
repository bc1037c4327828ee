// SPDX-License-Identifier: MPL-2.0

//! The elements in the states, orders and mistakes that users and applications put them through.

mod common;

use std::time::Duration;

use common::*;
use gst::prelude::*;

fn model(name: &str) -> String {
    format!("{}/../gst-dds-infer/models/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn loop_line(frames: u32, tail: &str) -> String {
    format!(
        "videotestsrc name=v num-buffers={frames} ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
         ! ddsencode name=e threads=1 ! avdec_h264 max-threads=1 ! ddsinfer name=i ! {tail}"
    )
}

/// The only error on the bus, after the pipeline refused to start.
fn start_error(line: &str) -> String {
    let pipeline = launch(line);
    // Live or not, the error is posted before or after this returns.
    let _ = pipeline.set_state(gst::State::Playing);
    let bus = pipeline.bus().unwrap();
    let message = bus
        .timed_pop_filtered(gst::ClockTime::from_seconds(20), &[gst::MessageType::Error])
        .unwrap_or_else(|| panic!("no error from: {line}"));
    let gst::MessageView::Error(error) = message.view() else {
        unreachable!()
    };
    let text = error.error().to_string();
    // A second error would hide the first from whoever shows the last one.
    let more = bus.pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(more.is_none(), "{more:?} after {text}");
    text
}

#[test]
fn a_hundred_starts_and_stops() {
    init();
    let pipeline = launch(&loop_line(3, "fakesink sync=false"));
    for n in 0..100 {
        pipeline.set_state(gst::State::Playing).unwrap();
        // Some are stopped in mid-start, some in mid-stream, some at their end.
        match n % 3 {
            0 => (),
            1 => {
                let _ = pipeline.state(gst::ClockTime::from_seconds(10));
            }
            _ => wait_eos(&pipeline, Duration::from_secs(20)),
        }
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn end_of_stream_reaches_every_pad_in_any_order() {
    init();
    for side in [
        "fakesink sync=false",
        "fakesink sync=false i.results ! fakesink sync=false",
        "fakesink sync=false i.feedback ! fakesink sync=false",
        "fakesink sync=false i.results ! queue ! fakesink sync=false i.feedback ! queue ! fakesink sync=false",
        "tee name=t t. ! queue ! fakesink t. ! queue ! fakesink i.results ! fakesink sync=false",
    ] {
        run_to_eos(&launch(&loop_line(20, side)));
        // The camera's feedback ends before, with, or long after its video.
        for feedback in ["num-buffers=0", "num-buffers=1", "num-buffers=1000"] {
            let line = loop_line(
                20,
                &format!("{side} fakesrc {feedback} sizetype=fixed sizemax=40 ! e.feedback"),
            );
            run_to_eos(&launch(&line));
        }
    }
}

#[test]
fn side_pads_come_and_go_while_playing() {
    init();
    let pipeline = launch(&loop_line(100_000, "fakesink sync=false"));
    pipeline.set_state(gst::State::Playing).unwrap();
    let infer = pipeline.by_name("i").unwrap();
    for _ in 0..10 {
        for name in ["results", "feedback"] {
            let sink = gst::ElementFactory::make("fakesink")
                .property("async", false)
                .build()
                .unwrap();
            pipeline.add(&sink).unwrap();
            sink.sync_state_with_parent().unwrap();
            let pad = infer.request_pad_simple(name).unwrap();
            pad.link(&sink.static_pad("sink").unwrap()).unwrap();
            std::thread::sleep(Duration::from_millis(10));
            infer.release_request_pad(&pad);
            sink.set_state(gst::State::Null).unwrap();
            pipeline.remove(&sink).unwrap();
        }
    }
    let inferred = || {
        infer
            .property::<gst::Structure>("stats")
            .get::<u64>("frames-inferred")
            .unwrap()
    };
    let before = inferred();
    wait_for("frames after the pads have gone", || inferred() > before + 10);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_flushing_seek_goes_through_and_frames_go_on() {
    init();
    let pipeline = launch(&loop_line(
        300,
        "fakesink name=s sync=false i.results ! fakesink name=r sync=false async=false",
    ));
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(20)).0.unwrap();
    for second in [4, 1, 6] {
        pipeline
            .seek_simple(
                gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE,
                gst::ClockTime::from_seconds(second),
            )
            .unwrap();
        pipeline.state(gst::ClockTime::from_seconds(20)).0.unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    wait_eos(&pipeline, Duration::from_secs(30));
    let stats = pipeline.by_name("i").unwrap().property::<gst::Structure>("stats");
    assert!(stats.get::<u64>("frames-inferred").unwrap() > 0, "{stats}");
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn caps_that_change_in_mid_stream_go_through_the_whole_loop() {
    init();
    let pipeline = launch(
        "appsrc name=in format=time ! ddsencode threads=1 ! avdec_h264 max-threads=1 ! ddsinfer ! appsink name=out sync=false",
    );
    let input = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let out = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut n = 0u64;
    for (width, height) in [(160u32, 128u32), (322, 242), (64, 48)] {
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height)
            .fps(gst::Fraction::new(30, 1))
            .build()
            .unwrap();
        input.set_caps(Some(&info.to_caps().unwrap()));
        for _ in 0..5 {
            let mut buffer = gst::Buffer::from_mut_slice(vec![(n * 9) as u8; info.size()]);
            buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_mseconds(33 * n));
            input.push_buffer(buffer).unwrap();
            n += 1;
        }
    }
    input.end_of_stream().unwrap();
    let mut sizes = Vec::new();
    while let Ok(sample) = out.pull_sample() {
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        sizes.push((info.width(), info.height()));
    }
    assert_eq!(sizes.len(), 15, "{:?}", dds_tests::bus_error(&pipeline));
    assert_eq!((sizes[0], sizes[5], sizes[14]), ((160, 128), (322, 242), (64, 48)));
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_wrong_model_is_one_error_that_names_file_and_cause() {
    init();
    let dir = scratch("wrong_models");
    let file = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let whole = std::fs::read(model("street_nano.onnx")).unwrap();
    for path in [
        dir.join("missing.onnx").display().to_string(),
        file("empty.onnx", &[]),
        file("garbage.onnx", &[0x5a; 4096]),
        file("truncated.onnx", &whole[..whole.len() / 2]),
    ] {
        let error = start_error(&format!("videotestsrc ! ddsinfer model-file={path} ! fakesink"));
        assert!(error.contains(&path), "{error}");
    }
    let error = start_error(&format!(
        "videotestsrc ! ddsinfer model-file={} model-description=\"dds-family=teapot\" ! fakesink",
        model("street_nano.onnx")
    ));
    assert!(
        error.contains("teapot") && error.contains("model-description"),
        "{error}"
    );
}

#[test]
fn every_format_reaches_the_model() {
    init();
    for format in [
        "I420",
        "NV12",
        "RGB",
        "BGR",
        "YUY2",
        "Y444",
        "GRAY8",
        "I420_10LE",
        "RGBA",
    ] {
        let pipeline = launch(&format!(
            "videotestsrc num-buffers=2 pattern=ball ! video/x-raw,format={format},width=320,height=240 \
             ! ddsinfer name=i threads=1 model-file={} ! video/x-raw,format={format} ! fakesink sync=false",
            model("street_nano.onnx")
        ));
        run_to_eos(&pipeline);
        // Statistics of a run stay readable after it.
        let stats = pipeline.by_name("i").unwrap().property::<gst::Structure>("stats");
        assert_eq!(stats.get::<u64>("frames-inferred").unwrap(), 2, "{format}: {stats}");
    }
}

#[test]
fn frames_leave_in_order_with_every_nth_inferred() {
    init();
    let pipeline = launch(
        "videotestsrc num-buffers=31 ! video/x-raw,format=I420,width=64,height=48 ! ddsinfer name=i inference-interval=3 \
         ! appsink name=out sync=false i.results ! appsink name=lines sync=false",
    );
    let sink = |name: &str| pipeline.by_name(name).unwrap().downcast::<gst_app::AppSink>().unwrap();
    let (out, lines) = (sink("out"), sink("lines"));
    pipeline.set_state(gst::State::Playing).unwrap();
    let times: Vec<_> = std::iter::from_fn(|| out.pull_sample().ok())
        .map(|s| s.buffer().unwrap().pts().unwrap())
        .collect();
    assert_eq!(times.len(), 31);
    assert!(times.is_sorted());
    let inferred: Vec<_> = std::iter::from_fn(|| lines.pull_sample().ok())
        .map(|s| s.buffer().unwrap().pts().unwrap())
        .collect();
    assert_eq!(inferred, times.iter().copied().step_by(3).collect::<Vec<_>>());
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_stream_of_another_encoder_is_inferred_and_one_message_says_why_it_is_not_steered() {
    init();
    let pipeline = launch(
        "videotestsrc num-buffers=90 ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
         ! x264enc tune=zerolatency ! avdec_h264 ! ddsinfer name=i ! fakesink sync=false",
    );
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut said = 0;
    loop {
        let message = bus.timed_pop(gst::ClockTime::from_seconds(20)).expect("an end");
        match message.view() {
            gst::MessageView::Element(e) => {
                said += usize::from(e.structure().is_some_and(|s| s.name() == "ddsinfer-foreign-stream"));
            }
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(e) => panic!("{}", e.error()),
            _ => (),
        }
    }
    let stats = pipeline.by_name("i").unwrap().property::<gst::Structure>("stats");
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(said, 1);
    assert_eq!(
        (
            stats.get::<u64>("frames-inferred").unwrap(),
            stats.get::<u64>("feedback").unwrap()
        ),
        (90, 0)
    );
}

/// The text of the first error on the bus, of an element made by `factory`, after the line was started.
fn error_of(line: &str, factory: &str) -> String {
    let pipeline = launch(line);
    let _ = pipeline.set_state(gst::State::Playing);
    let bus = pipeline.bus().unwrap();
    let limit = gst::ClockTime::from_seconds(20);
    let text = std::iter::from_fn(|| bus.timed_pop_filtered(limit, &[gst::MessageType::Error]))
        .find_map(|message| {
            let source = message.src()?.downcast_ref::<gst::Element>()?.factory()?.name();
            let gst::MessageView::Error(error) = message.view() else {
                unreachable!()
            };
            (source == factory).then(|| error.error().to_string())
        })
        .unwrap_or_else(|| panic!("no error of {factory} from: {line}"));
    pipeline.set_state(gst::State::Null).unwrap();
    text
}

#[test]
fn what_is_no_video_for_an_element_is_refused_at_linking_and_lands_on_no_request_pad() {
    init();
    for line in [
        "videotestsrc ! video/x-raw,format=RGB ! ddsencode ! fakesink",
        "videotestsrc ! video/x-raw,format=YUY2 ! queue ! ddsencode ! fakesink",
        "videotestsrc ! video/x-raw,format=RGBA ! tee ! ddsencode ! fakesink",
        "videotestsrc ! video/x-raw,format=NV12 ! ddsencode encoder=x265 ! fakesink",
        "videotestsrc ! jpegenc ! ddsencode ! fakesink",
        "videotestsrc ! ddsencode ! h264parse ! ddsencode ! fakesink",
        "audiotestsrc ! ddsencode ! fakesink",
        "audiotestsrc ! tee ! ddsinfer ! fakesink",
        "videotestsrc ! ddsencode ! ddsinfer ! fakesink",
        "videotestsrc ! video/x-raw,format=RGB ! ddsinfer ! video/x-raw,format=GRAY8 ! fakesink",
        "videotestsrc ! video/x-raw,format=RGB16 ! ddsoverlay ! fakesink",
        "videotestsrc ! ddsencode name=e ! fakesink videotestsrc ! identity ! e.feedback",
        "videotestsrc ! ddsencode name=e ! fakesink videotestsrc ! e.",
        "videotestsrc ! ddsinfer name=i ! fakesink videotestsrc ! i.",
    ] {
        let refused = gst::parse::launch(line).expect_err(line).to_string();
        assert!(refused.contains("could not link"), "{line}: {refused}");
    }
    // The same from a program.
    let make = |name: &str| gst::ElementFactory::make(name).build().unwrap();
    for (source, element) in [
        ("audiotestsrc", "ddsencode"),
        ("jpegenc", "ddsencode"),
        ("jpegenc", "ddsinfer"),
    ] {
        let (source, element) = (make(source), make(element));
        assert!(source.link(&element).is_err());
        assert_eq!(element.pads().len(), 2);
    }
}

#[test]
fn what_shows_its_format_late_is_one_error_that_names_it_and_its_cure() {
    init();
    for (caps, factory, wants) in [
        (
            "video/x-raw,format=RGB,width=64,height=64,framerate=10/1",
            "ddsencode",
            ["RGB", "videoconvert"],
        ),
        (
            "video/x-raw,format=I420,width=65,height=64,framerate=10/1",
            "ddsencode",
            ["65 is odd", "videoscale"],
        ),
        (
            "video/x-h264,stream-format=avc,alignment=au",
            "ddsencode",
            ["video/x-h264", "decode"],
        ),
        ("image/jpeg", "ddsinfer", ["image/jpeg", "decode"]),
        (
            "audio/x-raw,format=S16LE,rate=8000,channels=1",
            "ddsinfer",
            ["audio/x-raw", "video"],
        ),
        (
            "video/x-raw,format=RGB16,width=64,height=64,framerate=10/1",
            "ddsoverlay",
            ["RGB16", "videoconvert"],
        ),
    ] {
        // Any source tells its format late behind this one.
        let line = format!(
            "fakesrc num-buffers=2 sizetype=fixed sizemax=64 ! typefind force-caps=\"{caps}\" ! {factory} ! fakesink"
        );
        let text = error_of(&line, factory);
        assert!(wants.iter().all(|want| text.contains(want)), "{caps}: {text}");
    }
    let text = error_of(
        "videotestsrc num-buffers=3 ! video/x-raw,format=BGRA ! ddsinfer ! matroskamux ! fakesink",
        "ddsinfer",
    );
    assert!(text.contains("BGRA") && text.contains("videoconvert"), "{text}");
    for factory in ["ddsencode", "ddsinfer"] {
        let text = error_of(
            &format!("fakesrc num-buffers=2 sizetype=fixed ! {factory} ! fakesink"),
            factory,
        );
        assert!(text.contains("no known kind"), "{text}");
    }
}

#[test]
fn the_feedback_pad_takes_sources_without_caps_and_feedback_by_its_caps() {
    init();
    let port = free_ports(1)[0];
    for source in [
        format!("udpsrc port={port} ! e.feedback"),
        format!("udpsrc port={port} ! application/x-rtcp ! e."),
        "appsrc is-live=true ! application/x-dds-feedback ! e.".into(),
        "appsrc is-live=true ! e.feedback".into(),
        "fakesrc num-buffers=3 sizetype=fixed sizemax=40 ! tee ! queue ! e.feedback".into(),
        "fakesrc num-buffers=3 sizetype=fixed sizemax=40 ! funnel ! e.feedback".into(),
        "fakesrc num-buffers=3 sizetype=fixed sizemax=40 ! application/octet-stream ! e.feedback".into(),
    ] {
        let pipeline = launch(&format!(
            "videotestsrc num-buffers=5 ! ddsencode name=e ! fakesink {source}"
        ));
        let pad = pipeline.by_name("e").unwrap().static_pad("feedback");
        assert!(pad.is_some_and(|pad| pad.is_linked()), "{source}");
        run_to_eos(&pipeline);
    }
}

/// Texts of the warnings of the element `name` that lie on the bus.
fn warnings(pipeline: &gst::Pipeline, name: &str) -> Vec<String> {
    let bus = pipeline.bus().unwrap();
    std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Warning]))
        .filter(|message| message.src().is_some_and(|source| source.name() == name))
        .filter_map(|message| match message.view() {
            gst::MessageView::Warning(warning) => Some(warning.error().to_string()),
            _ => None,
        })
        .collect()
}

#[test]
fn settings_that_cancel_each_other_are_told_once_also_when_they_change_live() {
    init();
    let line = |properties: &str| {
        launch(&format!(
            "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=50/1 ! ddsencode name=e {properties} \
             ! fakesink sync=false"
        ))
    };
    for (properties, (name, value), wants) in [
        (
            "background-qp=30 region-qp=45",
            ("feedback-timeout", 500u32),
            ["background-qp=30, region-qp=45", "set background-qp=45"],
        ),
        (
            "background-qp=30",
            ("region-qp", 45u32),
            ["background-qp=30, region-qp=45", "set background-qp=45"],
        ),
        (
            "bandwidth=2000",
            ("max-bitrate", 500u32),
            ["bandwidth=2000, max-bitrate=500", "raise max-bitrate"],
        ),
    ] {
        let pipeline = line(properties);
        let encoder = pipeline.by_name("e").unwrap();
        // A second run tells it again.
        for _ in 0..2 {
            pipeline.set_state(gst::State::Playing).unwrap();
            wait_for("frames", || {
                encoder
                    .property::<gst::Structure>("stats")
                    .get::<u64>("next-frame")
                    .is_ok_and(|n| n > 0)
            });
            encoder.set_property(name, value);
            encoder.set_property(name, value + 1);
            encoder.set_property(name, value);
            let told = warnings(&pipeline, "e");
            assert_eq!(told.len(), 1, "{properties}: {told:?}");
            assert!(
                wants.iter().all(|want| told[0].contains(want)),
                "{properties}: {told:?}"
            );
            pipeline.set_state(gst::State::Null).unwrap();
            if properties == "background-qp=30" {
                encoder.set_property(name, 26u32);
            } else if name == "max-bitrate" {
                encoder.set_property(name, 0u32);
            }
        }
    }
    let pipeline = launch(&format!(
        "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=50/1 ! ddsinfer name=i threads=1 \
         feedback-windows=2 model-file={} ! fakesink sync=false",
        model("street_nano.onnx")
    ));
    let infer = pipeline.by_name("i").unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let told = warnings(&pipeline, "i");
    assert!(
        told.iter()
            .any(|text| text.contains("feedback-windows: the model gives boxes")),
        "{told:?}"
    );
    for feedback in [false, true, false] {
        infer.set_property("feedback", feedback);
    }
    let told = warnings(&pipeline, "i");
    assert!(
        told.len() == 1 && told[0].contains("feedback=false sends none"),
        "{told:?}"
    );
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn properties_of_any_bytes_are_refused_by_name_and_end_no_process() {
    init();
    let mut tried = 0;
    let paths = [
        "model-file",
        "label-file",
        "onnxruntime-library",
        "embedding-model-file",
        "gallery",
    ];
    for factory in ["ddsencode", "ddsinfer", "ddsoverlay"] {
        let names: Vec<_> = gst::ElementFactory::make(factory)
            .build()
            .unwrap()
            .list_properties()
            .iter()
            .filter(|p| {
                glib::ParamSpec::value_type(p) == glib::Type::STRING && p.flags().contains(glib::ParamFlags::WRITABLE)
            })
            .map(|p| p.name().to_owned())
            .filter(|name| !["name", "parent"].contains(&name.as_str()))
            .collect();
        for name in names {
            let pipeline = gst::Pipeline::new();
            let element = gst::ElementFactory::make(factory).build().unwrap();
            pipeline.add(&element).unwrap();
            for bytes in [&b"caf\xe9"[..], b"\xff\xff\xff\xff"] {
                element.set_property_from_value(&name, &gst_dds_link::text::value_of(bytes));
            }
            if element
                .find_property(&name)
                .unwrap()
                .flags()
                .contains(glib::ParamFlags::READABLE)
            {
                let _ = element.property_value(&name);
            }
            let started = pipeline.set_state(gst::State::Paused);
            let error = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
            let told = match error.as_ref().map(|m| m.view()) {
                Some(gst::MessageView::Error(error)) => format!("{} {:?}", error.error(), error.debug()),
                _ => String::new(),
            };
            // A path may be any bytes, and some are not looked at without a model.
            if !paths.contains(&name.as_str()) {
                assert!(
                    started.is_err() && told.contains(&name),
                    "{factory} {name}: {started:?} {told}"
                );
            }
            pipeline.set_state(gst::State::Null).unwrap();
            element.set_property_from_value(&name, &None::<&str>.to_value());
            tried += 1;
        }
    }
    assert_eq!(gst_dds_link::guard::caught(), 0);
    assert!(tried > 10, "{tried}");
}
