// SPDX-License-Identifier: MPL-2.0

//! The ways that feedback comes by: pad, event, and what they refuse.

#![cfg(feature = "x264")]

mod common;

use common::{Camera, STREAM, element, packets, quantizers, region};
use dds_protocol::feedback::Quality;
use dds_protocol::rtcp;
use gst::prelude::*;
use gst_dds_link::channel::{ServerEnd, Setup};

/// A pad that feeds the element's `feedback` pad.
struct Feeder {
    pad: gst::Pad,
    sink: gst::Pad,
}

impl Feeder {
    fn new(camera: &Camera) -> Self {
        let sink = camera.element.request_pad_simple("feedback").unwrap();
        let pad = gst::Pad::builder(gst::PadDirection::Src).name("feeder").build();
        pad.set_active(true).unwrap();
        pad.link(&sink).unwrap();
        pad.push_event(gst::event::StreamStart::new("feedback"));
        pad.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
        Self { pad, sink }
    }

    fn push(&self, data: Vec<u8>) {
        self.pad.push(gst::Buffer::from_mut_slice(data)).unwrap();
    }
}

fn fine(camera: &Camera, frame: usize) -> usize {
    quantizers(&camera.stream())[frame]
        .qps
        .iter()
        .filter(|qp| **qp == 26)
        .count()
}

#[test]
fn the_pad_takes_bare_packets_and_rtcp_compounds() {
    let mut camera = Camera::new(element(), 320, 240);
    let feeder = Feeder::new(&camera);
    camera.push();
    for packet in packets(1, 0, &[region(0, 0, 64, 64, Quality::Camera)]) {
        feeder.push(packet);
    }
    camera.push();
    for packet in packets(2, 1, &[region(0, 0, 32, 32, Quality::Camera)]) {
        feeder.push(rtcp::compound(1, &packet));
    }
    camera.push();
    // Garbage of all kinds is counted and does no harm.
    feeder.push(Vec::new());
    feeder.push(b"hello".to_vec());
    feeder.push(vec![0x80, 201, 0, 9]);
    feeder.push(vec![0x80, 201, 0, 1, 0, 0, 0, 1]);
    feeder.push(vec![7; 100_000]);
    camera.push();
    assert_eq!([1, 2, 3].map(|frame| fine(&camera, frame)), [16, 4, 4]);
    assert_eq!(camera.count("feedback-packets-pad"), 5);
    assert_eq!(camera.count("feedback-malformed"), 3);
    assert_eq!(camera.count("rtcp-malformed"), 1);
    assert_eq!(camera.count("rtcp-without-feedback"), 1);
}

#[test]
fn the_rtp_session_that_the_stream_runs_through_steers_and_no_other() {
    common::init();
    let encoder = fake_nvenc::encoder();
    // Two cameras, each with its session; feedback for both streams arrives at the first session.
    let pipeline = gst::parse::launch(&format!(
        "rtpbin name=r \
         videotestsrc is-live=true ! video/x-raw,width=160,height=96,framerate=30/1 ! queue ! \
         ddsencode encoder={encoder} name=e0 stream-id={STREAM} threads=1 ! rtph264pay ! r.send_rtp_sink_0 \
         videotestsrc is-live=true ! video/x-raw,width=160,height=96,framerate=30/1 ! queue ! \
         ddsencode encoder={encoder} name=e1 stream-id={STREAM} threads=1 ! rtph264pay ! r.send_rtp_sink_1 \
         r.send_rtp_src_0 ! fakesink async=false sync=false r.send_rtp_src_1 ! fakesink async=false sync=false \
         appsrc name=a is-live=true format=time caps=application/x-rtcp ! r.recv_rtcp_sink_0"
    ))
    .unwrap();
    let bin = pipeline.downcast_ref::<gst::Bin>().unwrap();
    let source = bin.by_name("a").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let count = |element: &str, name: &str| {
        bin.by_name(element)
            .unwrap()
            .property::<gst::Structure>("stats")
            .get::<u64>(name)
            .unwrap()
    };
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let mut generation = 0u16;
    // Video paces the test: it ends when feedback was applied and both have found their sessions, or after ten seconds.
    let done = || count("e0", "generations-applied") > 0 && count("e1", "rtp-sessions") > 0;
    while !done() && count("e0", "frames-coded") < 300 {
        generation += 1;
        for packet in packets(generation, 0, &[region(0, 0, 32, 32, Quality::Camera)]) {
            source
                .push_buffer(gst::Buffer::from_mut_slice(rtcp::compound(99, &packet)))
                .unwrap();
        }
        let error = bus.timed_pop_filtered(gst::ClockTime::from_mseconds(50), &[gst::MessageType::Error]);
        assert!(error.is_none(), "{error:?}");
    }
    let numbers = [("e0", "rtp-sessions"), ("e1", "rtp-sessions")].map(|(e, n)| count(e, n));
    let applied = count("e0", "generations-applied");
    let counts = [count("e0", "feedback-packets-rtcp"), count("e1", "feedback-packets")];
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(numbers, [1, 1]);
    assert!(applied > 0 && counts[0] > 0);
    assert_eq!(counts[1], 0);
}

#[test]
fn whatever_the_order_in_which_two_ways_bring_theirs_the_stream_is_the_same() {
    let run = |pad_first: bool| {
        let mut camera = Camera::new(element(), 320, 240);
        let feeder = Feeder::new(&camera);
        camera.push();
        for i in 1..12u16 {
            let frame = u64::from(i) - 1;
            let of_pad = packets(i, frame, &[region(u32::from(i) * 16, 0, 48, 48, Quality::Camera)]);
            let of_event = [region(0, 16 * u32::from(i), 64, 32, Quality::Qp(24))];
            if pad_first {
                feeder.push(of_pad[0].clone());
            }
            // Numbered far apart: each way has its own numbering.
            camera.feedback(20_000 + i, frame, &of_event);
            if !pad_first {
                feeder.push(of_pad[0].clone());
            }
            camera.push();
        }
        assert_eq!(camera.count("generations-applied"), 22);
        assert_eq!(camera.count("feedback-stale") + camera.count("feedback-duplicate"), 0);
        camera.stream()
    };
    let (first, second) = (run(true), run(false));
    assert!(first.len() > 1000);
    assert!(first == second);
}

#[test]
fn rtcp_of_any_bytes_leaves_the_camera_running() {
    common::init();
    let encoder = fake_nvenc::encoder();
    let pipeline = gst::parse::launch(&format!(
        "rtpbin name=r videotestsrc is-live=true ! video/x-raw,width=160,height=96,framerate=30/1 ! queue ! \
         ddsencode encoder={encoder} name=e stream-id={STREAM} threads=1 ! rtph264pay ! r.send_rtp_sink_0 \
         r.send_rtp_src_0 ! fakesink async=false sync=false \
         appsrc name=a is-live=true format=time caps=application/x-rtcp ! r.recv_rtcp_sink_0"
    ))
    .unwrap();
    let bin = pipeline.downcast_ref::<gst::Bin>().unwrap();
    let source = bin.by_name("a").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let encoder = bin.by_name("e").unwrap();
    let count = |name: &str| encoder.property::<gst::Structure>("stats").get::<u64>(name).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let names = [
        *b"\xff\xff\xff\xff",
        *b"\0\0\0\0",
        *b"DDS\xff",
        *b"DDS1",
        *b"\xc3\x28AB",
    ];
    let mut sent = 0;
    // Video paces the test: it ends when packets of ours have been received among the others, or after ten seconds.
    while count("feedback-malformed") == 0 && count("frames-coded") < 300 {
        for name in names {
            for data in [&b""[..], &[0xff; 40]] {
                let words = u8::try_from(2 + data.len() / 4).unwrap();
                let packet = [&[0x80, 204, 0, words, 0, 0, 0, 1][..], &name, data].concat();
                source.push_buffer(gst::Buffer::from_mut_slice(packet)).unwrap();
                sent += 1;
            }
        }
        let message = bus.timed_pop_filtered(
            gst::ClockTime::from_mseconds(50),
            &[gst::MessageType::Error, gst::MessageType::Warning],
        );
        assert!(message.is_none(), "{message:?}");
    }
    let counts = (count("feedback-malformed") > 0, count("panics-caught"));
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(counts, (true, 0), "of {sent} packets");
}

/// A server's end of the channel, connected to the element.
fn join(uri: &str, key: &str) -> ServerEnd {
    let setup = Setup {
        uri: uri.into(),
        key: key.into(),
        ..Setup::default()
    };
    let server = ServerEnd::open(&setup, std::sync::Arc::new(|_| ())).unwrap().unwrap();
    let begun = std::time::Instant::now();
    while !server.send(&[]) {
        assert!(begun.elapsed().as_secs() < 20, "no session");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    server
}

fn wait_for_count(camera: &Camera, name: &str, count: u64) {
    let begun = std::time::Instant::now();
    while camera.count(name) < count {
        assert!(begun.elapsed().as_secs() < 20, "{name} is {}", camera.count(name));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_channel_of_its_own_asks_like_the_others_in_one_pass_and_in_two() {
    const KEY: &str = "a key of the tests";
    for mode in ["one-pass", "two-pass"] {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let uri = format!("tcp://127.0.0.1:{port}");
        let element = element();
        element.set_property("feedback-uri", &uri);
        element.set_property("feedback-key", KEY);
        element.set_property_from_str("mode", mode);
        let mut camera = Camera::new(element, 320, 240);
        camera.push();
        let server = join(&uri, KEY);
        server.send(&packets(1, 0, &[region(0, 0, 32, 32, Quality::Camera)]));
        wait_for_count(&camera, "feedback-uri-received", 1);
        camera.push();
        assert_eq!(camera.count("feedback-packets-uri"), 1, "{mode}");
        if mode == "two-pass" {
            assert_eq!(camera.count("refine-requests"), 1);
        } else {
            assert_eq!(fine(&camera, 1), 4);
        }
    }
}

#[test]
fn events_on_the_feedback_pad_end_nothing_and_reach_nobody() {
    let mut camera = Camera::new(element(), 320, 240);
    let feeder = Feeder::new(&camera);
    camera.push();
    while camera.harness.try_pull_event().is_some() {}
    assert!(feeder.pad.push_event(gst::event::FlushStart::new()));
    assert!(feeder.pad.push_event(gst::event::FlushStop::new(true)));
    feeder
        .pad
        .push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    assert!(
        feeder
            .pad
            .push_event(gst::event::CustomDownstream::new(gst::Structure::new_empty("x")))
    );
    assert!(feeder.pad.push_event(gst::event::Eos::new()));
    assert!(camera.harness.try_pull_event().is_none());
    camera.push();
    // The event way continues after EOS on the pad.
    camera.feedback(1, 1, &[region(0, 0, 32, 32, Quality::Camera)]);
    camera.push();
    assert_eq!(fine(&camera, 2), 4);
    assert!(camera.harness.push_event(gst::event::Eos::new()));
    let mut last = None;
    while let Some(event) = camera.harness.try_pull_event() {
        last = Some(event.type_());
    }
    assert_eq!(last, Some(gst::EventType::Eos));
}

#[test]
fn the_feedback_pad_may_end_before_the_video_begins_and_go_at_any_time() {
    common::init();
    let element = element();
    let sink = element.request_pad_simple("feedback").unwrap();
    let template = element.pad_template("feedback").unwrap();
    assert!(element.request_pad(&template, None, None).is_none(), "there is one");
    element.release_request_pad(&sink);
    let mut camera = Camera::new(element, 320, 240);
    let feeder = Feeder::new(&camera);
    assert!(feeder.pad.push_event(gst::event::Eos::new()));
    camera.push();
    camera.element.release_request_pad(&feeder.sink);
    camera.push();
    let again = Feeder::new(&camera);
    again.push(packets(1, 1, &[region(0, 0, 32, 32, Quality::Camera)]).remove(0));
    camera.push();
    assert_eq!(fine(&camera, 2), 4);
}

#[test]
fn only_our_upstream_event_is_taken() {
    let mut camera = Camera::new(element(), 320, 240);
    camera.push();
    assert!(camera.feedback(1, 0, &[]));
    let other = gst::event::CustomUpstream::new(gst::Structure::new_empty("dds-other"));
    camera.harness.push_upstream_event(other);
    camera.push();
    assert_eq!(camera.count("feedback-packets-event"), 1);
    let seen = std::iter::from_fn(|| camera.harness.try_pull_upstream_event())
        .filter(|e| e.type_() == gst::EventType::CustomUpstream)
        .map(|e| e.structure().unwrap().name().to_string())
        .collect::<Vec<_>>();
    assert_eq!(seen, ["dds-other"]);
}

#[test]
fn a_flood_is_bounded_and_counted() {
    let mut camera = Camera::new(element(), 320, 240);
    camera.push();
    for generation in 0..1000u16 {
        camera.feedback(generation, 0, &[]);
    }
    camera.push();
    assert_eq!(camera.count("feedback-inbox-full"), 1000 - 256);
    assert_eq!(camera.count("feedback-packets"), 256);
    assert!(camera.count("feedback-rate-limited") > 100);
    // The newest of them came too late for the parser; the next one does not.
    for _ in 0..30 {
        camera.push();
    }
    camera.feedback(2000, 1, &[region(0, 0, 32, 32, Quality::Camera)]);
    camera.push();
    assert_eq!(fine(&camera, 32), 4);
}

#[test]
fn silence_ends_in_fallback_with_a_message_and_recovers_by_itself() {
    let element = element();
    element.set_property("feedback-timeout", 500u32);
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let mut camera = Camera::new(element, 160, 96);
    let messages = |bus: &gst::Bus| -> Vec<String> {
        std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Element]))
            .map(|m| m.structure().unwrap().name().to_string())
            .collect()
    };
    camera.push();
    let list = [region(0, 0, 32, 32, Quality::Camera)];
    camera.feedback(1, 0, &list);
    for _ in 0..10 {
        camera.push();
    }
    assert!(messages(&bus).is_empty());
    for _ in 0..20 {
        camera.push();
    }
    assert_eq!(messages(&bus), ["ddsencode-feedback-lost"]);
    camera.feedback(2, 29, &list);
    camera.push();
    assert_eq!(messages(&bus), ["ddsencode-feedback-recovered"]);
    let frames = quantizers(&camera.stream());
    assert_eq!(frames[30].uniform(), Some(30));
    assert_eq!(frames[31].qps.iter().filter(|qp| **qp == 26).count(), 4);
    assert_eq!(frames[31].qps[50], 36);
    camera.element.set_bus(None);
}

#[test]
fn a_hundred_state_cycles_leave_the_element_as_it_was() {
    common::init();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc is-live=true ! video/x-raw,width=160,height=96 ! ddsencode name=e encoder={} ! \
         fakesink sync=false",
        fake_nvenc::encoder()
    ))
    .unwrap();
    let element = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("e").unwrap();
    let _pad = element.request_pad_simple("feedback").unwrap();
    for _ in 0..100 {
        pipeline.set_state(gst::State::Playing).unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
    }
    pipeline.set_state(gst::State::Playing).unwrap();
    let (result, state, _) = pipeline.state(gst::ClockTime::from_seconds(10));
    assert!(result.is_ok() && state == gst::State::Playing);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(
        pipeline
            .bus()
            .unwrap()
            .pop_filtered(&[gst::MessageType::Error, gst::MessageType::Warning])
            .is_none()
    );
}

#[test]
fn statistics_outlive_the_run() {
    let mut camera = Camera::new(element(), 160, 96);
    camera.push();
    camera.feedback(1, 0, &[]);
    camera.push();
    let stats = camera.element.property::<gst::Structure>("stats");
    assert_eq!(stats.name(), "application/x-ddsencode-stats");
    assert_eq!(stats.get::<u32>("stream-id").unwrap(), STREAM);
    let element = camera.element.clone();
    element.set_state(gst::State::Null).unwrap();
    drop(camera);
    let stats = element.property::<gst::Structure>("stats");
    assert_eq!(
        (
            stats.get::<u64>("frames-coded"),
            stats.get::<u64>("generations-applied")
        ),
        (Ok(2), Ok(1))
    );
}

#[test]
fn all_of_this_holds_with_nvenc_too() {
    common::on_fake_nvenc(
        &[
            "the_pad_takes_bare_packets_and_rtcp_compounds",
            "the_rtp_session_that_the_stream_runs_through_steers_and_no_other",
            "a_channel_of_its_own_asks_like_the_others_in_one_pass_and_in_two",
            "only_our_upstream_event_is_taken",
            "silence_ends_in_fallback_with_a_message_and_recovers_by_itself",
            "a_hundred_state_cycles_leave_the_element_as_it_was",
            "statistics_outlive_the_run",
        ],
        &fake_nvenc::NAMES,
        "",
    );
}
