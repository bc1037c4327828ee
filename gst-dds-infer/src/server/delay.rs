// SPDX-License-Identifier: MPL-2.0

//! Frames that were looked at and wait, in order, for what the camera sends of them; and the serialized events between them.

use std::collections::VecDeque;
use std::time::Duration;

use dds_protocol::feedback::Rect;

use super::types::{Arrival, FrameKey, Kind};

/// Frames and events that may be held back: two segments and what comes meanwhile.
pub const MAX_DELAYED: usize = 96;
/// Requests in a row that got no answer at all, after which nothing is waited for until one arrives again.
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
    /// It waited, and this came.
    Answered(Arrival<R>),
    /// It waited in vain.
    Expired,
}

#[derive(Debug)]
pub struct Delayed<F, R> {
    pub frame: F,
    pub key: Option<FrameKey>,
    pub size: Option<(u32, u32)>,
    pub regions: Vec<Rect>,
    pub generation: Option<u16>,
    pub wait: Wait<R>,
}

#[derive(Debug)]
pub enum Entry<F, E, R> {
    Frame(Box<Delayed<F, R>>),
    Event(E, Kind),
}

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

    /// The frame at the head, if it waits for something, and until when.
    pub fn awaited(&self) -> Option<(FrameKey, Duration)> {
        let Some(Entry::Frame(head)) = self.entries.front() else {
            return None;
        };
        let (Wait::Segment { until } | Wait::Refinement { until }) = head.wait else {
            return None;
        };
        Some((head.key?, until))
    }

    /// What goes out now.
    pub fn pop(&mut self) -> Option<Entry<F, E, R>> {
        if self.awaited().is_some() {
            return None;
        }
        self.entries.pop_front()
    }

    /// What the frame at the head waited for; `None`: it waited in vain.
    pub fn answer(&mut self, arrival: Option<Arrival<R>>) {
        let Some(Entry::Frame(head)) = self.entries.front_mut() else {
            return;
        };
        // Silence while the request is not even out is none of the camera's.
        if matches!(head.wait, Wait::Refinement { .. }) {
            self.misses = if arrival.is_some() { 0 } else { self.misses + 1 };
        }
        head.wait = arrival.map_or(Wait::Expired, Wait::Answered);
    }

    /// Whether a second pass is worth waiting for.
    pub fn is_worth_waiting(&self) -> bool {
        self.misses < MISSES
    }

    /// A second pass arrived, if late: the way works.
    pub fn reset_misses(&mut self) {
        self.misses = 0;
    }

    /// The request of the open segment is out: its frames wait for their second pass.
    pub fn segment_requested(&mut self, until: Duration) {
        self.segment(|| Wait::Refinement { until });
    }

    /// The request of the open segment will never be sent.
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

    /// The generation of feedback that the newest frame gave.
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

    /// Drops all entries; what is known of the camera stays.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}
