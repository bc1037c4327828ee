// SPDX-License-Identifier: MPL-2.0

//! The video passes unchanged: the same buffers, all of them, in order, with the events in place.

mod element;

use std::sync::{Arc, Mutex};

use element::*;
use gst::prelude::*;
use gst_check::Harness;

const CAPS: &str = "video/x-raw,format=I420,width=64,height=48,framerate=25/1";
const MILLISECONDS: u64 = 40;

fn harness() -> Harness {
    init();
    let mut harness = Harness::new("ddsinfer");
    harness.set_src_caps_str(CAPS);
    harness
}

fn frame(n: u64) -> gst::Buffer {
    let mut buffer = gst::Buffer::with_size(64 * 48 * 3 / 2).unwrap();
    let writable = buffer.make_mut();
    writable.set_pts(gst::ClockTime::from_mseconds(n * MILLISECONDS));
    writable.set_duration(gst::ClockTime::from_mseconds(MILLISECONDS));
    buffer
}

#[test]
fn each_buffer_comes_out_itself_and_in_order() {
    let mut harness = harness();
    for n in 0..50 {
        let buffer = frame(n);
        let memory = buffer.as_ptr();
        harness.push(buffer).unwrap();
        let out = harness.pull().unwrap();
        assert_eq!(out.as_ptr(), memory, "frame {n} was copied");
        assert_eq!(out.pts(), Some(gst::ClockTime::from_mseconds(n * MILLISECONDS)));
    }
    let element = harness.element().unwrap();
    assert_eq!(stat(&element, "frames"), 50);
    assert_eq!(stat(&element, "frames-inferred"), 50);
}

#[test]
fn end_of_stream_comes_after_every_frame() {
    let pipeline = launch(&format!(
        "videotestsrc num-buffers=40 ! {CAPS} ! ddsinfer name=i ! fakesink name=s"
    ));
    let seen = record(&element(&pipeline, "s").static_pad("sink").unwrap());
    run_to_eos(&pipeline);
    let mut expected: Vec<String> = ["stream-start", "caps", "segment"].map(String::from).to_vec();
    expected.extend((0..40).map(|n| format!("buffer {}", n * MILLISECONDS)));
    expected.push("eos".into());
    let seen: Vec<String> = seen.lock().unwrap().iter().filter(|e| *e != "tag").cloned().collect();
    assert_eq!(seen, expected);
}

#[test]
fn new_caps_pass_between_the_frames_they_divide() {
    let mut harness = harness();
    let seen = record(&harness.element().unwrap().static_pad("src").unwrap());
    for n in 0..3 {
        harness.push(frame(n)).unwrap();
    }
    harness.set_src_caps_str("video/x-raw,format=NV12,width=64,height=48,framerate=25/1");
    for n in 3..6 {
        harness.push(frame(n)).unwrap();
    }
    (0..6).for_each(|_| drop(harness.pull().unwrap()));
    let seen: Vec<String> = seen
        .lock()
        .unwrap()
        .iter()
        .skip_while(|e| !e.starts_with("buffer"))
        .filter(|e| *e == "caps" || e.starts_with("buffer"))
        .cloned()
        .collect();
    assert_eq!(
        seen,
        [
            "buffer 0",
            "buffer 40",
            "buffer 80",
            "caps",
            "buffer 120",
            "buffer 160",
            "buffer 200"
        ]
    );
}

#[test]
fn a_flush_drops_what_waits_and_the_stream_goes_on_after_it() {
    let mut harness = harness();
    for n in 0..3 {
        harness.push(frame(n)).unwrap();
        harness.pull().unwrap();
    }
    for _ in 0..20 {
        assert!(harness.push_event(gst::event::FlushStart::new()));
        assert_eq!(harness.push(frame(9)), Err(gst::FlowError::Flushing));
        assert!(harness.push_event(gst::event::FlushStop::new(true)));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        assert!(harness.push_event(gst::event::Segment::new(&segment)));
        harness.push(frame(100)).unwrap();
        assert_eq!(harness.pull().unwrap().pts(), Some(gst::ClockTime::from_seconds(4)));
    }
}

#[test]
fn a_flush_frees_a_frame_that_is_stuck_downstream() {
    let pipeline = launch(&format!(
        "videotestsrc ! {CAPS} ! ddsinfer name=i ! fakesink name=s sync=true"
    ));
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(LIMIT).0.unwrap();
    // Prerolled: the first frame is stuck in the sink, the queue behind it is full.
    for _ in 0..20 {
        pipeline
            .seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::from_seconds(1))
            .unwrap();
        pipeline.state(LIMIT).0.unwrap();
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_hundred_state_cycles_leave_it_working() {
    let pipeline = launch(&format!(
        "videotestsrc ! {CAPS} ! ddsinfer name=i ! fakesink i.results ! fakesink i.feedback ! fakesink"
    ));
    for cycle in 0..100 {
        let state = [gst::State::Playing, gst::State::Paused, gst::State::Ready][cycle % 3];
        pipeline.set_state(state).unwrap();
        if cycle % 2 == 0 {
            pipeline.state(LIMIT).0.unwrap();
        }
        pipeline.set_state(gst::State::Null).unwrap();
    }
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline.state(LIMIT).0.unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn every_nth_frame_is_inferred_and_every_frame_passes() {
    let mut harness = harness();
    let element = harness.element().unwrap();
    element.set_property("inference-interval", 3u32);
    for n in 0..30 {
        harness.push(frame(n)).unwrap();
        harness.pull().unwrap();
    }
    assert_eq!(stat(&element, "frames"), 30);
    assert_eq!(stat(&element, "frames-inferred"), 10);
    assert_eq!(stat(&element, "frames-not-due"), 20);
}

#[test]
fn upstream_latency_is_passed_on_and_recordings_add_none() {
    let mut harness = harness();
    harness.set_upstream_latency(gst::ClockTime::from_mseconds(70));
    harness.push(frame(0)).unwrap();
    harness.pull().unwrap();
    assert_eq!(harness.query_latency(), Some(gst::ClockTime::from_mseconds(70)));
}

#[test]
fn downstream_errors_reach_upstream() {
    let pipeline = launch(&format!(
        "videotestsrc num-buffers=100 ! {CAPS} ! ddsinfer name=i ! identity error-after=3 ! fakesink"
    ));
    pipeline.set_state(gst::State::Playing).unwrap();
    let message = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(LIMIT, &[gst::MessageType::Error, gst::MessageType::Eos]);
    assert_eq!(message.unwrap().type_(), gst::MessageType::Error);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_sink_that_has_enough_ends_the_pipeline() {
    let pipeline = launch(&format!(
        "videotestsrc num-buffers=100 ! {CAPS} ! ddsinfer name=i ! identity eos-after=5 ! fakesink \
         i.results ! fakesink i.feedback ! fakesink"
    ));
    run_to_eos(&pipeline);
}

#[test]
fn results_are_told_once_per_inferred_frame_on_the_bus() {
    let pipeline = launch(&format!(
        "videotestsrc num-buffers=10 name=v ! {CAPS} ! ddsinfer name=i inference-interval=2 ! fakesink"
    ));
    let messages = Arc::new(Mutex::new(Vec::new()));
    let log = messages.clone();
    pipeline.bus().unwrap().set_sync_handler(move |_, message| {
        if let Some(s) = message.structure().filter(|s| s.name() == "ddsinfer-results") {
            log.lock().unwrap().push(s.get::<u64>("pts-ns").unwrap() / 1_000_000);
        }
        gst::BusSyncReply::Pass
    });
    run_to_eos(&pipeline);
    assert_eq!(*messages.lock().unwrap(), [0, 80, 160, 240, 320]);
}

#[test]
fn a_sink_that_waits_for_its_time_does_not_stop_inference() {
    init();
    let pipeline = launch(&format!(
        "videotestsrc is-live=true num-buffers=50 ! {CAPS} ! ddsinfer name=i ! fakesink name=s sync=true"
    ));
    // As after a jitter buffer: the sink shows frames so late that others wait after each of them.
    pipeline.set_latency(gst::ClockTime::from_mseconds(10 * MILLISECONDS));
    run_to_eos(&pipeline);
    let i = element(&pipeline, "i");
    let (frames, inferred) = (stat(&i, "frames"), stat(&i, "frames-inferred"));
    assert_eq!(frames, 50);
    assert!(
        inferred >= 40,
        "{inferred} of {frames} frames inferred, {} skipped",
        stat(&i, "frames-skipped")
    );
}
