// SPDX-License-Identifier: MPL-2.0

//! The server falls silent and comes back: the camera steers, falls back to a uniform quantizer once its time-out has
//! passed, says so on the bus, and takes up steering again by itself.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use common::*;
use gst::prelude::*;

#[test]
fn silence_means_fallback_and_speech_means_steering() {
    init();
    let file = scratch("fallback").join("out.h264");
    // Queues of one frame keep the server at the camera's heels, so that video time is the loop's time.
    let pipeline = launch(&format!(
        "videotestsrc pattern=snow num-buffers=150 ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
         ! ddsencode name=e background-qp=40 region-qp=30 fallback-qp=34 feedback-timeout=500 threads=1 ! video/x-h264,stream-format=byte-stream \
         ! tee name=t ! queue max-size-buffers=1 ! filesink location={} \
         t. ! queue max-size-buffers=1 ! avdec_h264 max-threads=1 ! ddsinfer name=i ! fakesink sync=false",
        file.display()
    ));
    // Between frames 30 and 90 nothing comes back.
    let frame = Arc::new(AtomicU64::new(0));
    let coded = frame.clone();
    let encoder = pipeline.by_name("e").unwrap();
    let pad = encoder.static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        coded.fetch_add(1, Ordering::SeqCst);
        gst::PadProbeReturn::Ok
    });
    pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        let Some(gst::PadProbeData::Event(event)) = &info.data else {
            unreachable!()
        };
        if gst_dds_link::event::parse(event).is_some() && (30..90).contains(&frame.load(Ordering::SeqCst)) {
            info.data = None;
            return gst::PadProbeReturn::Handled;
        }
        gst::PadProbeReturn::Ok
    });
    let bus = pipeline.bus().unwrap();
    run_to_eos_keeping_bus(&pipeline);
    let mut messages = Vec::new();
    while let Some(message) = bus.pop_filtered(&[gst::MessageType::Element]) {
        let name = message.structure().unwrap().name().to_string();
        if name.starts_with("ddsencode-feedback") {
            messages.push(name);
        }
    }
    assert_eq!(messages, ["ddsencode-feedback-lost", "ddsencode-feedback-recovered"]);

    let qps: Vec<u8> = quantizers(&file)
        .iter()
        .map(|p| {
            assert!(p.qps.iter().all(|&q| q == p.qps[0]), "no region was asked for");
            p.qps[0]
        })
        .collect();
    assert_eq!(qps.len(), 150);
    assert_eq!(qps[0], 40, "the first frame: background, whatever follows");
    // 500 ms are 15 frames; a few frames are under way when the silence begins and ends.
    assert!(qps[10..30].iter().all(|&q| q == 40), "steered: {qps:?}");
    assert!(qps[52..88].iter().all(|&q| q == 34), "silence: {qps:?}");
    assert!(qps[100..].iter().all(|&q| q == 40), "steered again: {qps:?}");
}

fn run_to_eos_keeping_bus(pipeline: &gst::Pipeline) {
    // Element messages must survive the wait, so end of stream is watched on the sinks.
    let done = Arc::new(AtomicU64::new(0));
    let sinks: Vec<_> = pipeline.iterate_sinks().into_iter().flatten().collect();
    for sink in &sinks {
        let done = done.clone();
        sink.static_pad("sink")
            .unwrap()
            .add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
                if let Some(gst::PadProbeData::Event(event)) = &info.data
                    && event.type_() == gst::EventType::Eos
                {
                    done.fetch_add(1, Ordering::SeqCst);
                }
                gst::PadProbeReturn::Ok
            });
    }
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_for("the end of the stream", || {
        done.load(Ordering::SeqCst) as usize == sinks.len()
    });
    let bus = pipeline.bus().unwrap();
    bus.set_flushing(false);
    // Keeps the messages: only the way to NULL would flush the bus.
    pipeline.set_property("auto-flush-bus", false);
    pipeline.set_state(gst::State::Null).unwrap();
}
