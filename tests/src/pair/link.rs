// SPDX-License-Identifier: MPL-2.0

//! What lies between the two ends: a path in each direction, and the receiver's buffer that puts access units in order.

use std::collections::BTreeMap;

use super::types::{Cut, MS, Time};
use crate::noise::Noise;

/// How a path treats what is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Time on the way, in milliseconds.
    pub delay_ms: u64,
    /// Added to it, evenly drawn, in milliseconds.
    pub jitter_ms: u64,
    /// Share that is lost, 0 to 1. Of access units every second one of those comes cut, by turns in its slice and in its
    /// message.
    pub loss: f64,
    /// Share that comes twice, each copy with a delay of its own.
    pub duplicate: f64,
    /// Share that takes another delay and jitter, so that what was sent later comes first.
    pub reorder: f64,
    /// Nothing comes through at all.
    pub down: bool,
}

impl Link {
    /// One that keeps everything, in order.
    pub fn clean(delay_ms: u64) -> Self {
        Self {
            delay_ms,
            jitter_ms: 0,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            down: false,
        }
    }

    /// Whether all that is sent arrives.
    pub fn keeps_all(&self) -> bool {
        self.loss == 0.0 && !self.down
    }

    /// The longest time on the way, in nanoseconds.
    pub fn slowest(&self) -> Time {
        let twice = if self.reorder > 0.0 { 2 } else { 1 };
        twice * (self.delay_ms + self.jitter_ms) * MS
    }
}

/// One direction.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub link: Link,
    noise: Noise,
    lost: u64,
}

impl Path {
    pub fn new(link: Link, seed: u64) -> Self {
        let noise = Noise(seed);
        Self { link, noise, lost: 0 }
    }

    /// When copies of what is sent now arrive, and how whole. `units`: what is lost may come cut instead.
    pub fn send(&mut self, now: Time, units: bool) -> Vec<(Time, Cut)> {
        let Link { loss, duplicate, .. } = self.link;
        // Drawn whatever happens, so that an outage shifts no other draw.
        let (lost, twice) = (self.noise.uniform() < loss, self.noise.uniform() < duplicate);
        let mut cut = Cut::Whole;
        if lost {
            self.lost += 1;
            cut = match self.lost % 4 {
                1 => Cut::Slice,
                3 => Cut::Message,
                _ => Cut::Whole,
            };
        }
        let gone = self.link.down || (lost && (!units || cut == Cut::Whole));
        let copies = [true, twice].map(|sent| sent.then(|| (now + self.travel(), cut)));
        copies.into_iter().flatten().filter(|_| !gone).collect()
    }

    fn travel(&mut self) -> Time {
        let link = self.link;
        let late = if self.noise.uniform() < link.reorder { 2.0 } else { 1.0 };
        let ms = link.delay_ms as f64 + self.noise.uniform() * link.jitter_ms as f64;
        (late * ms * MS as f64) as Time
    }
}

/// The receiver's buffer: gives what was sent in order, each once. What is missing is waited for until something behind
/// it has waited for `patience`.
#[derive(Debug)]
pub(super) struct Order<T> {
    patience: Time,
    next: Option<u64>,
    waiting: BTreeMap<u64, (Time, T)>,
}

impl<T> Order<T> {
    pub fn new(patience: Time) -> Self {
        let waiting = BTreeMap::new();
        Self {
            patience,
            next: None,
            waiting,
        }
    }

    /// Takes what was sent as number `at`; gives when to look again.
    pub fn push(&mut self, now: Time, at: u64, item: T) -> Time {
        if self.next.is_none_or(|next| at >= next) {
            self.waiting.entry(at).or_insert((now, item));
        }
        now + self.patience
    }

    pub fn pop(&mut self, now: Time) -> Option<T> {
        let first = self.waiting.first_entry()?;
        let in_turn = self.next == Some(*first.key());
        if !in_turn && now < first.get().0 + self.patience {
            return None;
        }
        self.next = Some(first.key() + 1);
        Some(first.remove().1)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}
