// SPDX-License-Identifier: MPL-2.0

//! Frame identities are read on the encoded pad before the decoder, wherever the decoder is; damage is marked until
//! the next whole recovery point and drives no feedback; foreign streams are detected.

mod element;

use std::sync::{Arc, Mutex};

use dds_protocol::feedback;
use dds_protocol::serial::Serial16;
use element::*;
use gst::prelude::*;

const STREAM: u32 = 0x1234_5678;
const FRAMES: usize = 40;
const GOP: usize = 10;

/// `FRAMES` frames with a key frame every `GOP`, coded and given identities, then `rest`, which ends in a decoder
/// named `d` or a `decodebin`, then ddsinfer `i` with its results on `r`.
fn stream(rest: &str, more: &str) -> gst::Pipeline {
    let pipeline = launch(&format!(
        "videotestsrc num-buffers={FRAMES} pattern=ball ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
         ! x264enc name=e tune=zerolatency key-int-max={GOP} speed-preset=ultrafast threads=1 aud=false \
         ! video/x-h264,stream-format=byte-stream,alignment=au ! identity name=named ! identity name=net ! {rest} \
         ! ddsinfer name=i ! fakesink name=s i.results ! fakesink name=r {more}"
    ));
    name_frames(&element(&pipeline, "named").static_pad("src").unwrap(), STREAM);
    pipeline
}

fn lines(pipeline: &gst::Pipeline) -> Vec<serde_json::Value> {
    let lines = collect(&element(pipeline, "r").static_pad("sink").unwrap());
    run_to_eos(pipeline);
    json(&lines)
}

#[test]
fn each_frame_is_named_whatever_lies_between_camera_and_element() {
    for rest in [
        "avdec_h264",
        "avdec_h264 max-threads=1 ! queue ! videoconvert ! video/x-raw,format=RGB",
        "h264parse ! queue ! avdec_h264",
        "h264parse ! video/x-h264,stream-format=avc ! queue ! avdec_h264 ! queue",
        "rtph264pay ! rtph264depay ! avdec_h264",
        "rtph264pay ! rtph264depay ! h264parse ! avdec_h264",
        "tee ! queue ! avdec_h264",
        "openh264dec",
    ] {
        if rest.contains("openh264dec") && gst::ElementFactory::find("openh264dec").is_none() {
            continue;
        }
        let lines = lines(&stream(rest, ""));
        let numbers: Vec<_> = lines.iter().map(|l| l["frame"].as_u64()).collect();
        assert_eq!(numbers, (0..FRAMES as u64).map(Some).collect::<Vec<_>>(), "{rest}");
        for line in &lines {
            assert_eq!(line["stream_id"], STREAM, "{rest}");
            assert_eq!(line["damaged"], false, "{rest}: {line}");
            assert_eq!(
                line["capture_time_ns"].as_u64().unwrap() % 1000,
                line["frame"].as_u64().unwrap(),
                "{rest}"
            );
            assert!(line["age_ms"].is_null(), "a recording has no age");
        }
    }
}

#[test]
fn a_decoder_that_is_plugged_late_is_found_and_no_frame_is_wrongly_named() {
    for rest in [
        "decodebin",
        "h264parse ! decodebin",
        "rtph264pay ! rtph264depay ! decodebin",
    ] {
        let pipeline = stream(rest, "");
        let lines = lines(&pipeline);
        assert_eq!(lines.len(), FRAMES, "{rest}");
        for (n, line) in lines.iter().enumerate() {
            assert_eq!(line["frame"], n as u64, "{rest}: {line}");
            assert_eq!(line["damaged"], false, "{rest}: {line}");
        }
    }
}

/// Drops the `lost`-th buffer between encoder and decoder.
fn lose(pipeline: &gst::Pipeline, lost: usize) {
    let count = Mutex::new(0);
    let pad = element(pipeline, "net").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count == lost + 1 {
            info.data = None;
            gst::PadProbeReturn::Handled
        } else {
            gst::PadProbeReturn::Ok
        }
    });
}

#[test]
fn frames_after_a_loss_are_marked_up_to_the_next_key_frame_and_drive_no_feedback() {
    for lost in [3, 9, 10, 15] {
        let pipeline = stream("avdec_h264 max-threads=1", "i.feedback ! fakesink name=f");
        lose(&pipeline, lost);
        let packets = collect(&element(&pipeline, "f").static_pad("sink").unwrap());
        let requests = Arc::new(Mutex::new(0));
        let count = requests.clone();
        element(&pipeline, "named").static_pad("src").unwrap().add_probe(
            gst::PadProbeType::EVENT_UPSTREAM,
            move |_, info| {
                let event = info.event().unwrap();
                *count.lock().unwrap() += usize::from(gst_video::UpstreamForceKeyUnitEvent::parse(event).is_ok());
                // The encoder must not react: its key frames would end the damage early.
                if event.type_() == gst::EventType::CustomUpstream {
                    info.data = None;
                    gst::PadProbeReturn::Handled
                } else {
                    gst::PadProbeReturn::Ok
                }
            },
        );
        let lines = lines(&pipeline);
        let end = (lost / GOP + 1) * GOP;
        let mut whole = Vec::new();
        for line in &lines {
            let n = line["frame"].as_u64().unwrap() as usize;
            let damaged = (lost + 1..end).contains(&n);
            assert_eq!(line["damaged"], damaged, "lost {lost}, {line}");
            assert_eq!(line["generation"].is_null(), damaged, "lost {lost}, {line}");
            if !damaged {
                whole.push(n as u64);
            }
        }
        let fed_back: Vec<u64> = packets
            .lock()
            .unwrap()
            .iter()
            .map(|p| feedback::decode(p).unwrap().frame)
            .collect();
        assert_eq!(fed_back, whole, "lost {lost}");
        assert_eq!(
            *requests.lock().unwrap(),
            usize::from(end > lost + 1),
            "lost {lost}: at most one in 500 ms"
        );
    }
}

#[test]
fn undecided_regions_of_another_detector_become_feedback_for_this_stream() {
    let pipeline = stream("avdec_h264 name=d max-threads=1", "i.feedback ! fakesink name=f");
    // 0.25 lies in the band around 0.3, 0.9 does not.
    let decoded = element(&pipeline, "d").static_pad("src").unwrap();
    detect(&decoded, "person", (32, 16, 24, 40), 0.25);
    detect(&decoded, "car", (100, 80, 30, 30), 0.9);
    let packets = collect(&element(&pipeline, "f").static_pad("sink").unwrap());
    let lines = lines(&pipeline);
    let packets = packets.lock().unwrap();
    assert_eq!(packets.len(), FRAMES);
    let mut last: Option<Serial16> = None;
    for (n, packet) in packets.iter().enumerate() {
        let part = feedback::decode(packet).unwrap();
        assert_eq!((part.stream_id, part.frame, part.parts), (STREAM, n as u64, 1));
        assert!(
            last.is_none_or(|last| part.generation == last.next()),
            "one generation a frame"
        );
        last = Some(part.generation);
        assert_eq!(part.regions.len(), 1, "only the undecided one");
        let rect = part.regions[0].rect;
        assert!(
            rect.x <= 32 && rect.y <= 16 && rect.x + rect.width >= 56 && rect.y + rect.height >= 56,
            "{rect:?}"
        );
        assert!(rect.x + rect.width < 100, "{rect:?}");
        assert_eq!(lines[n]["generation"], u64::from(part.generation.0));
        let objects = lines[n]["objects"].as_array().unwrap();
        assert_eq!(objects.len(), 1, "only scores above the threshold are results");
        assert_eq!(objects[0]["label"], "car");
    }
}

#[test]
fn feedback_goes_upstream_as_an_event_where_somebody_takes_it() {
    let pipeline = stream("rtph264pay ! rtph264depay ! avdec_h264 max-threads=1", "");
    let taken = Arc::new(Mutex::new(Vec::new()));
    let log = taken.clone();
    element(&pipeline, "named").static_pad("src").unwrap().add_probe(
        gst::PadProbeType::EVENT_UPSTREAM,
        move |_, info| match gst_dds_link::event::parse(info.event().unwrap()) {
            Some(packet) => {
                log.lock().unwrap().push(feedback::decode(&packet).unwrap().frame);
                gst::PadProbeReturn::Handled
            }
            None => gst::PadProbeReturn::Ok,
        },
    );
    let lines = lines(&pipeline);
    assert_eq!(*taken.lock().unwrap(), (0..FRAMES as u64).collect::<Vec<_>>());
    assert!(lines.iter().all(|l| l["generation"].is_u64()));
    assert_eq!(stat(&element(&pipeline, "i"), "feedback-event"), FRAMES as u64);
}

#[test]
fn feedback_off_sends_none() {
    let pipeline = stream("avdec_h264", "i.feedback ! fakesink name=f");
    element(&pipeline, "i").set_property("feedback", false);
    let packets = collect(&element(&pipeline, "f").static_pad("sink").unwrap());
    assert!(lines(&pipeline).iter().all(|l| l["generation"].is_null()));
    assert!(packets.lock().unwrap().is_empty());
}

#[test]
fn a_foreign_stream_is_inferred_and_reported_once() {
    for line in [
        "videotestsrc num-buffers=100 ! video/x-raw,format=I420,width=64,height=64",
        "videotestsrc num-buffers=100 ! video/x-raw,format=I420,width=64,height=64 ! x264enc tune=zerolatency ! avdec_h264",
    ] {
        let pipeline = launch(&format!(
            "{line} ! ddsinfer name=i ! fakesink i.feedback ! fakesink name=f i.results ! fakesink name=r"
        ));
        let messages = Arc::new(Mutex::new(0));
        let count = messages.clone();
        pipeline.bus().unwrap().set_sync_handler(move |_, message| {
            let foreign = message
                .structure()
                .is_some_and(|s| s.name() == "ddsinfer-foreign-stream");
            *count.lock().unwrap() += usize::from(foreign);
            gst::BusSyncReply::Pass
        });
        let packets = collect(&element(&pipeline, "f").static_pad("sink").unwrap());
        let lines = lines(&pipeline);
        assert_eq!(lines.len(), 100, "{line}");
        assert!(
            lines.iter().all(|l| l["stream_id"].is_null() && l["damaged"] == false),
            "{line}"
        );
        assert!(packets.lock().unwrap().is_empty(), "{line}");
        assert_eq!(*messages.lock().unwrap(), 1, "{line}");
    }
}
