// SPDX-License-Identifier: MPL-2.0

//! What a pair is made of, and what it keeps in memory.

use std::time::Duration;

use gstdds::camera::ring::Bounds;
use gstdds::camera::{CameraSettings, Way};
use gstddsinfer::server::CoreSettings;

use super::link::Link;
use super::types::SECOND;

/// What a pair is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Of everything that is drawn.
    pub seed: u64,
    /// Whether there is a second pass.
    pub two_passes: bool,
    /// Pictures per second.
    pub frame_rate: f64,
    /// Frames of a segment; 0 = none.
    pub segment_length: u8,
    /// Frames from one IDR picture to the next at most.
    pub key_int_max: u64,
    /// The camera's settings.
    pub camera: CameraSettings,
    /// The server's.
    pub server: CoreSettings,
    /// Frames that may be asked for.
    pub ring: Bounds,
    /// Time of an inference, in milliseconds.
    pub inference_ms: u64,
    /// Time that the second pass takes to code a frame, in milliseconds.
    pub coding_ms: u64,
    /// How long missing access units are waited for, in milliseconds.
    pub patience_ms: u64,
    /// Ways that the server's packets go, all of them each.
    pub ways: Vec<Way>,
    /// Camera to server; both passes, each with its own luck.
    pub forward: [Link; 2],
    /// Server to camera.
    pub back: Link,
}

impl Setup {
    /// One pass at 30 pictures a second over a clean link of 40 ms in each direction.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            two_passes: false,
            frame_rate: 30.0,
            segment_length: 0,
            key_int_max: 250,
            camera: CameraSettings {
                frame_rate: 30.0,
                ..CameraSettings::default()
            },
            server: CoreSettings {
                inference_interval: 1,
                feedback: true,
                feedback_rate: true,
                predicted_results: false,
                refine_deadline: Duration::from_millis(400),
            },
            ring: Bounds {
                frames: 60,
                bytes: 1 << 20,
                age_ns: 2 * SECOND,
            },
            inference_ms: 20,
            coding_ms: 10,
            patience_ms: 40,
            ways: vec![Way::Rtcp],
            forward: [Link::clean(40); 2],
            back: Link::clean(40),
        }
    }

    /// The same with two passes.
    pub fn two_passes(seed: u64) -> Self {
        Self {
            two_passes: true,
            ..Self::new(seed)
        }
    }
}

/// What is kept in memory, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Feedback packets that wait for the next picture.
    pub packets: usize,
    /// Ways that packets have come by.
    pub ways: usize,
    /// Generations that are told from news.
    pub generations: usize,
    /// Captured frames in the ring.
    pub ring: usize,
    /// Refinements that wait for the encoder.
    pub jobs: usize,
    /// Frames that wait to be inferred.
    pub inbox: usize,
    /// Frames and events that are held back.
    pub line: usize,
    /// Of those, events at most.
    pub events: usize,
    /// Answers of the camera that wait for their frames.
    pub answers: usize,
    /// Access units whose pictures have not come.
    pub units: usize,
}

impl Held {
    /// The more of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            packets: self.packets.max(other.packets),
            ways: self.ways.max(other.ways),
            generations: self.generations.max(other.generations),
            ring: self.ring.max(other.ring),
            jobs: self.jobs.max(other.jobs),
            inbox: self.inbox.max(other.inbox),
            line: self.line.max(other.line),
            events: self.events.max(other.events),
            answers: self.answers.max(other.answers),
            units: self.units.max(other.units),
        }
    }
}
