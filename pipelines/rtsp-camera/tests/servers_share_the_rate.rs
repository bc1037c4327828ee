// SPDX-License-Identifier: MPL-2.0

//! One camera, several watchers: what servers wish is joined, and who gives no feedback sees what it came for.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{ByHand, Camera, assert_feedback_is_whole, count, play_by_hand};
use dds_protocol::feedback::{self, FeedbackState};
use dds_protocol::rtcp;
use dds_protocol::serial::Serial16;
use dds_protocol::wish::{Wish, Wishes};
use dds_tests::launch;
use gst::prelude::*;
use serde_json::Value;

/// Frames per second of the pattern, and the interval at the encoder's least rate of 5 per second.
const RATE: u64 = 20;
const LONGEST: u64 = RATE / 5;

/// A server that wishes, by hand, for every n-th picture. It sends its state five times a second until it is dropped.
struct Wisher {
    interval: Arc<AtomicU8>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wisher {
    /// `interval` 0: it wishes nothing, as a server that knows no wishes.
    fn watch(camera: &Camera, ssrc: u32, interval: u8) -> Self {
        let client = play_by_hand(camera);
        let report = camera.wait_for("frames", |r| count(r, "frames") > 5);
        let stream = count(&report, "stream-id") as u32;
        let (interval, ends) = (Arc::new(AtomicU8::new(interval)), Arc::new(AtomicBool::new(false)));
        let (wished, ended) = (interval.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            let (mut client, mut generation) = (client, Serial16(ssrc as u16));
            while !ended.load(Ordering::Relaxed) {
                generation = generation.next();
                send(&client, ssrc, stream, generation, wished.load(Ordering::Relaxed));
                std::thread::sleep(Duration::from_millis(200));
            }
            client.tear_down();
        });
        Self {
            interval,
            ends,
            thread: Some(thread),
        }
    }

    fn wish(&self, interval: u8) {
        self.interval.store(interval, Ordering::Relaxed);
    }
}

impl Drop for Wisher {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(client: &ByHand, ssrc: u32, stream_id: u32, generation: Serial16, interval: u8) {
    let interval = (interval > 0).then_some(Wish {
        value: interval,
        ttl_ms: 2000,
    });
    let state = FeedbackState {
        stream_id,
        generation,
        frame: 1,
        wishes: Wishes {
            interval,
            ..Wishes::default()
        },
        ..FeedbackState::default()
    };
    for packet in feedback::encode(&state).packets {
        let _ = client.sockets[1].send_to(&rtcp::compound(ssrc, &packet), client.to);
    }
}

fn interval(report: &Value) -> u64 {
    count(report, "sent-interval")
}

#[test]
fn wishes_of_all_servers_are_joined_whoever_steers() {
    dds_tests::init().unwrap();
    for rule in ["first", "all"] {
        let camera = Camera::pattern(&["--steer", rule]);
        let _first = Wisher::watch(&camera, 1111, 9);
        camera.wait_for("the least rate", |r| interval(r) == LONGEST);
        let second = Wisher::watch(&camera, 2222, 2);
        camera.wait_for("the rate of the second", |r| interval(r) == 2);
        second.wish(0);
        camera.wait_for("full rate for one that wishes nothing", |r| interval(r) == 1);
        second.wish(3);
        camera.wait_for("its rate again", |r| interval(r) == 3);
        drop(second);
        let report = camera.wait_for("the wish of one that has left to lapse", |r| interval(r) == LONGEST);
        assert_feedback_is_whole(&report);
        assert!(count(&report, "frames-skipped") > 0, "{rule}: {report}");
        assert_eq!(
            (&report["media_rebuilt"], &report["panics_caught"]),
            (&0.into(), &0.into())
        );
    }
}

#[test]
fn who_gives_no_feedback_sees_the_rate_set_for_viewers() {
    dds_tests::init().unwrap();
    for (options, expected) in [
        (&[][..], 1),
        (&["--viewer-framerate", "10"], 2),
        (&["--viewer-framerate", "0"], 4),
    ] {
        let camera = Camera::pattern(options);
        let _server = Wisher::watch(&camera, 1111, 4);
        camera.wait_for("the wished rate", |r| interval(r) == LONGEST);
        let player = launch(&format!(
            "rtspsrc location={} latency=50 protocols=tcp ! rtph264depay ! h264parse ! fakesink name=end async=false",
            camera.url()
        ))
        .unwrap();
        player.set_state(gst::State::Playing).unwrap();
        let before = camera.wait_for("the player", |r| r["clients"] == 2 && interval(r) == expected);
        // And it stays so.
        let after = camera.wait_for("more pictures", |r| {
            count(r, "next-frame") >= count(&before, "next-frame") + 3 * RATE
        });
        assert_eq!(interval(&after), expected, "{options:?}: {after}");
        player.set_state(gst::State::Null).unwrap();
        camera.wait_for("the wished rate again", |r| r["clients"] == 1 && interval(r) == LONGEST);
    }
}
