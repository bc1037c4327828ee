// SPDX-License-Identifier: MPL-2.0

//! The request pads `feedback` and `results` can neither keep the pipeline from prerolling nor stop the video,
//! whatever is linked to them.

mod element;

use element::*;
use gst::prelude::*;

const VIDEO: &str = "videotestsrc num-buffers=60 ! video/x-raw,format=I420,width=64,height=48,framerate=30/1";

/// Runs to the end of the stream and counts the frames that reached the video sink `s`.
fn frames(line: &str) -> usize {
    let pipeline = launch(line);
    let seen = record(&element(&pipeline, "s").static_pad("sink").unwrap());
    run_to_eos(&pipeline);
    seen.lock().unwrap().iter().filter(|e| e.starts_with("buffer")).count()
}

#[test]
fn side_pads_that_have_nothing_to_say_do_not_block_preroll() {
    for sides in [
        "",
        "i.results ! fakesink",
        "i.feedback ! fakesink",
        "i.feedback ! fakesink i.results ! fakesink",
        "i.results ! queue ! fakesink i.feedback ! queue ! fakesink",
    ] {
        // The stream is foreign and the model never due: nothing is ever fed back.
        let line = format!("{VIDEO} ! ddsinfer name=i inference-interval=1000 ! fakesink name=s {sides}");
        assert_eq!(frames(&line), 60, "{sides}");
    }
}

#[test]
fn caps_of_the_side_pads_do_not_bind_the_video() {
    for sides in [
        "i.results ! application/x-json ! fakesink",
        "i.feedback ! application/x-dds-feedback ! fakesink",
    ] {
        assert_eq!(
            frames(&format!("{VIDEO} ! ddsinfer name=i ! fakesink name=s {sides}")),
            60,
            "{sides}"
        );
        // Pads are linked in another order here.
        assert_eq!(
            frames(&format!(
                "ddsinfer name=i {sides} {VIDEO} ! i.sink i.src ! fakesink name=s"
            )),
            60,
            "{sides}"
        );
    }
}

#[test]
fn a_results_branch_that_ends_early_does_not_end_the_video() {
    let line = format!("{VIDEO} ! ddsinfer name=i ! fakesink name=s i.results ! identity eos-after=3 ! fakesink");
    assert_eq!(frames(&line), 60);
}

#[test]
fn a_results_branch_that_fails_does_not_stop_the_video() {
    let pipeline = launch(&format!(
        "{VIDEO} ! ddsinfer name=i ! fakesink name=s i.results ! identity error-after=3 ! fakesink"
    ));
    let seen = record(&element(&pipeline, "s").static_pad("sink").unwrap());
    let (ended, end) = std::sync::mpsc::channel();
    element(&pipeline, "s").static_pad("sink").unwrap().add_probe(
        gst::PadProbeType::EVENT_DOWNSTREAM,
        move |_, info| {
            if info.event().is_some_and(|e| e.type_() == gst::EventType::Eos) {
                let _ = ended.send(());
            }
            gst::PadProbeReturn::Ok
        },
    );
    pipeline.set_state(gst::State::Playing).unwrap();
    end.recv_timeout(std::time::Duration::from_secs(30))
        .expect("the video ends");
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(
        seen.lock().unwrap().iter().filter(|e| e.starts_with("buffer")).count(),
        60
    );
}

#[test]
fn a_results_branch_that_nobody_reads_does_not_stop_the_video() {
    // Far more lines than any queue takes, and the branch consumes none.
    let pipeline = launch(
        "videotestsrc num-buffers=2000 ! video/x-raw,format=I420,width=16,height=16 ! ddsinfer name=i ! fakesink name=s \
         i.results ! fakesink name=r",
    );
    let blocked = element(&pipeline, "r").static_pad("sink").unwrap();
    blocked.add_probe(gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER, |_, _| {
        gst::PadProbeReturn::Ok
    });
    let (ended, end) = std::sync::mpsc::channel();
    element(&pipeline, "s").static_pad("sink").unwrap().add_probe(
        gst::PadProbeType::EVENT_DOWNSTREAM,
        move |_, info| {
            if info.event().is_some_and(|e| e.type_() == gst::EventType::Eos) {
                let _ = ended.send(());
            }
            gst::PadProbeReturn::Ok
        },
    );
    pipeline.set_state(gst::State::Playing).unwrap();
    let done = end.recv_timeout(std::time::Duration::from_secs(20));
    let dropped = stat(&element(&pipeline, "i"), "result-lines-dropped");
    pipeline.set_state(gst::State::Null).unwrap();
    done.expect("the video ends");
    assert!(dropped > 0);
}

#[test]
fn each_inferred_frame_gives_one_line() {
    let pipeline = launch(&format!(
        "{VIDEO} ! ddsinfer name=i inference-interval=2 ! fakesink i.results ! fakesink name=r"
    ));
    let lines = collect(&element(&pipeline, "r").static_pad("sink").unwrap());
    run_to_eos(&pipeline);
    let lines = json(&lines);
    assert_eq!(lines.len(), 30);
    for line in &lines {
        assert!(line["stream_id"].is_null() && line["frame"].is_null() && line["age_ms"].is_null());
        assert_eq!((line["width"].as_u64(), line["height"].as_u64()), (Some(64), Some(48)));
    }
    assert!(
        lines
            .windows(2)
            .all(|w| w[0]["pts_ns"].as_u64() < w[1]["pts_ns"].as_u64())
    );
}

#[test]
fn lines_are_timed_as_the_video_is_after_a_seek() {
    let pipeline = launch(
        "videotestsrc ! video/x-raw,format=I420,width=64,height=48,framerate=30/1 ! ddsinfer name=i ! fakesink name=s \
         i.results ! fakesink name=r",
    );
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(LIMIT).0.unwrap();
    let (sent, running_times) = std::sync::mpsc::channel();
    element(&pipeline, "r")
        .static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let segment = pad.sticky_event::<gst::event::Segment>(0).unwrap();
            let segment = segment.segment().downcast_ref::<gst::ClockTime>().unwrap();
            let _ = sent.send(segment.to_running_time(info.buffer().unwrap().pts()));
            gst::PadProbeReturn::Ok
        });
    while running_times.try_recv().is_ok() {}
    pipeline
        .seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::from_seconds(60))
        .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline.state(LIMIT).0.unwrap();
    let first = running_times.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(first, Some(gst::ClockTime::ZERO));
}

#[test]
fn a_seek_after_the_end_brings_the_side_pads_back() {
    let pipeline = launch(&format!(
        "{VIDEO} ! ddsinfer name=i ! fakesink name=s i.results ! fakesink name=r i.feedback ! fakesink name=f"
    ));
    let seen = record(&element(&pipeline, "r").static_pad("sink").unwrap());
    let feedback = record(&element(&pipeline, "f").static_pad("sink").unwrap());
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_eos(&pipeline);
    pipeline
        .seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO)
        .unwrap();
    wait_eos(&pipeline);
    pipeline.set_state(gst::State::Null).unwrap();
    let count = |log: &Vec<String>, what: &str| log.iter().filter(|e| e.starts_with(what)).count();
    assert_eq!(count(&seen.lock().unwrap(), "eos"), 2);
    assert_eq!(count(&seen.lock().unwrap(), "stream-start"), 2);
    assert_eq!(count(&feedback.lock().unwrap(), "eos"), 2);
}

#[test]
fn upstream_events_of_the_side_branches_stay_off_the_video_path() {
    let pipeline = launch(&format!(
        "{VIDEO} ! ddsinfer name=i ! fakesink name=s i.results ! fakesink name=r"
    ));
    let (sent, events) = std::sync::mpsc::channel();
    element(&pipeline, "i")
        .static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
            let _ = sent.send(info.event().unwrap().type_());
            gst::PadProbeReturn::Ok
        });
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(LIMIT).0.unwrap();
    element(&pipeline, "r")
        .static_pad("sink")
        .unwrap()
        .push_event(gst::event::Qos::builder(gst::QOSType::Underflow, 2.0, 1_000_000).build());
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(!events.try_iter().any(|e| e == gst::EventType::Qos));
}

#[test]
fn side_pads_come_and_go_while_playing() {
    let pipeline = launch(
        "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=100/1 ! ddsinfer name=i ! fakesink",
    );
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline.state(LIMIT).0.unwrap();
    let infer = element(&pipeline, "i");
    for n in 0..20 {
        let name = ["results", "feedback"][n % 2];
        let pad = infer.request_pad_simple(name).unwrap();
        let sink = gst::ElementFactory::make("fakesink")
            .property("async", false)
            .build()
            .unwrap();
        pipeline.add(&sink).unwrap();
        sink.sync_state_with_parent().unwrap();
        let arrived = record(&sink.static_pad("sink").unwrap());
        pad.link(&sink.static_pad("sink").unwrap()).unwrap();
        if name == "results" {
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while !arrived.lock().unwrap().iter().any(|e| e.starts_with("buffer")) {
                assert!(std::time::Instant::now() < deadline, "no line");
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        pad.unlink(&sink.static_pad("sink").unwrap()).unwrap();
        infer.release_request_pad(&pad);
        sink.set_state(gst::State::Null).unwrap();
        pipeline.remove(&sink).unwrap();
    }
    pipeline.set_state(gst::State::Null).unwrap();
}
