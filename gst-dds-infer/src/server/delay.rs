// SPDX-License-Identifier: MPL-2.0

//! The delay queue: frames that wait, in order, for their second pass, and the serialized events between them.

use std::collections::VecDeque;
use std::time::Duration;

use dds_protocol::feedback::Rect;

use super::types::{Arrival, FrameKey, Kind, Predicted};

/// Most entries of the delay queue before frames have to stay in the inbox: two segments and what comes meanwhile.
pub const MAX_DELAYED: usize = 96;
/// Unanswered requests in a row after which no frame waits until an answer arrives.
pub const MISSES: u32 = 3;

/// What a frame waits for.
#[derive(Debug)]
pub enum Wait<R> {
    /// Nothing.
    Nothing,
    /// The end of its segment, which brings the request.
    Segment { until: Duration },
    /// Its second pass.
    Refinement { until: Duration },
    /// Nothing any more: this answer arrived.
    Answered(Arrival<R>),
    /// Nothing any more: no answer arrived in time.
    Expired,
}

/// A frame in the delay queue.
#[derive(Debug)]
pub struct Delayed<F, R> {
    pub frame: F,
    pub key: Option<FrameKey>,
    pub size: Option<(u32, u32)>,
    pub regions: Vec<Rect>,
    pub generation: Option<u16>,
    /// Its objects were followed.
    pub followed: bool,
    /// Its results are predicted.
    pub predicted: Option<Predicted>,
    pub wait: Wait<R>,
}

/// A frame or a serialized event.
#[derive(Debug)]
pub enum Entry<F, E, R> {
    Frame(Box<Delayed<F, R>>),
    Event(E, Kind),
}

/// Keeps frames and events in order while the frame at the head waits.
#[derive(Debug)]
pub struct DelayQueue<F, E, R> {
    entries: VecDeque<Entry<F, E, R>>,
    misses: u32,
}

impl<F, E, R> Default for DelayQueue<F, E, R> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            misses: 0,
        }
    }
}

impl<F, E, R> DelayQueue<F, E, R> {
    pub fn push(&mut self, out: Entry<F, E, R>) {
        self.entries.push_back(out);
    }

    /// The key and deadline of the frame at the head, if it waits for something.
    pub fn awaited(&self) -> Option<(FrameKey, Duration)> {
        let Some(Entry::Frame(head)) = self.entries.front() else {
            return None;
        };
        let (Wait::Segment { until } | Wait::Refinement { until }) = head.wait else {
            return None;
        };
        Some((head.key?, until))
    }

    /// Takes the head, unless it waits for something.
    pub fn pop(&mut self) -> Option<Entry<F, E, R>> {
        if self.awaited().is_some() {
            return None;
        }
        self.entries.pop_front()
    }

    /// Gives the frame at the head its answer; `None` where none arrived in time.
    pub fn answer(&mut self, arrival: Option<Arrival<R>>) {
        let Some(Entry::Frame(head)) = self.entries.front_mut() else {
            return;
        };
        // Before the request is sent the camera cannot answer: that is no miss.
        if matches!(head.wait, Wait::Refinement { .. }) {
            self.misses = if arrival.is_some() { 0 } else { self.misses + 1 };
        }
        head.wait = arrival.map_or(Wait::Expired, Wait::Answered);
    }

    /// Whether the camera has answered recently enough to wait for a second pass.
    pub fn is_worth_waiting(&self) -> bool {
        self.misses < MISSES
    }

    /// Forgets the misses: a second pass arrived, even if late, or another stream begins.
    pub fn reset_misses(&mut self) {
        self.misses = 0;
    }

    /// Makes the frames of the open segment wait for their second pass: its request is sent.
    pub fn segment_requested(&mut self, until: Duration) {
        self.segment(|| Wait::Refinement { until });
    }

    /// Ends the wait of the frames of the open segment: its request will never be sent.
    pub fn segment_abandoned(&mut self) {
        self.segment(|| Wait::Expired);
    }

    fn segment(&mut self, wait: impl Fn() -> Wait<R>) {
        for out in &mut self.entries {
            if let Entry::Frame(delayed) = out
                && matches!(delayed.wait, Wait::Segment { .. })
            {
                delayed.wait = wait();
            }
        }
    }

    /// Stores the generation of feedback that the newest frame caused.
    pub fn note_generation(&mut self, generation: u16) {
        if let Some(Entry::Frame(newest)) = self.entries.back_mut() {
            newest.generation = Some(generation);
        }
    }

    pub fn has_room(&self) -> bool {
        self.entries.len() < MAX_DELAYED
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Drops all entries and keeps the count of misses.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}
