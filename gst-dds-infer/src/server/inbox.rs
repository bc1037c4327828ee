// SPDX-License-Identifier: MPL-2.0

//! Input that has not been processed yet: frames and serialized events in order, bounded in frames; and answers of the
//! camera to requests for a second pass, in any order.

use std::collections::{BTreeMap, VecDeque};

use super::types::{Arrival, Decoded, FrameKey, Kind};

/// Most frames that wait where the stream is not live: enough to keep decoder and model busy at the same time.
pub const CAPACITY: usize = 4;
/// Most frames that wait where it is live. Only the newest is inferred, or as many as a waiting sink leaves time for, so the
/// time of one inference or the latency bounds the inbox; this number bounds its memory when either is very long.
pub const CAPACITY_LIVE: usize = 60;
/// Most answers that wait for their frames: more than two decoders drift apart. The oldest is dropped first.
pub const ARRIVALS: usize = 64;

/// A frame or a serialized event.
#[derive(Debug)]
pub enum Item<F, E> {
    Frame(Box<Decoded<F>>),
    Event(E, Kind),
}

/// Frames, events and answers that have not been processed yet.
#[derive(Debug)]
pub struct Inbox<F, E, R> {
    items: VecDeque<Item<F, E>>,
    frames: usize,
    arrivals: BTreeMap<FrameKey, Arrival<R>>,
    /// The newest frame that was released: an answer for it or an earlier one is late.
    released: Option<FrameKey>,
    /// The stream before that one: every answer for it is late.
    replaced: Option<u32>,
}

impl<F, E, R> Default for Inbox<F, E, R> {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            frames: 0,
            arrivals: BTreeMap::new(),
            released: None,
            replaced: None,
        }
    }
}

impl<F, E, R> Inbox<F, E, R> {
    pub fn takes_frame(&self, live: bool) -> bool {
        self.frames < if live { CAPACITY_LIVE } else { CAPACITY }
    }

    pub fn push(&mut self, item: Item<F, E>) {
        self.frames += usize::from(matches!(item, Item::Frame(_)));
        self.items.push_back(item);
    }

    /// Takes the oldest item, a frame only where there is `room` for one.
    pub fn pop(&mut self, room: bool) -> Option<Item<F, E>> {
        match self.items.front()? {
            Item::Frame(_) if !room => return None,
            Item::Frame(_) => self.frames -= 1,
            Item::Event(..) => (),
        }
        self.items.pop_front()
    }

    pub fn frames(&self) -> usize {
        self.frames
    }

    pub fn arrivals(&self) -> usize {
        self.arrivals.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn events(&self) -> impl Iterator<Item = (&E, Kind)> {
        self.items.iter().filter_map(|item| match item {
            Item::Event(event, kind) => Some((event, *kind)),
            Item::Frame(_) => None,
        })
    }

    /// Stores an answer of the camera. Returns `false` where it is late: the frame is gone.
    pub fn arrive(&mut self, key: FrameKey, arrival: Arrival<R>) -> bool {
        let gone = |(stream, frame)| stream == key.0 && frame >= key.1;
        if self.released.is_some_and(gone) || self.replaced == Some(key.0) {
            return false;
        }
        if self.arrivals.len() >= ARRIVALS && !self.arrivals.contains_key(&key) {
            self.arrivals.pop_first();
        }
        match arrival {
            // The camera may repeat a refusal after the second pass has arrived.
            Arrival::Refused if self.arrivals.contains_key(&key) => (),
            arrival => drop(self.arrivals.insert(key, arrival)),
        }
        true
    }

    pub fn take_arrival(&mut self, key: FrameKey) -> Option<Arrival<R>> {
        self.arrivals.remove(&key)
    }

    /// Releases the frame. Returns the number of stored answers that came too late by that.
    pub fn release(&mut self, key: FrameKey) -> u64 {
        let before = self.released.replace(key).map(|(stream, _)| stream);
        if before.is_some_and(|stream| stream != key.0) {
            self.replaced = before;
        }
        let waiting = self.arrivals.len();
        let replaced = self.replaced;
        self.arrivals
            .retain(|(stream, frame), _| replaced != Some(*stream) && (*stream != key.0 || *frame > key.1));
        (waiting - self.arrivals.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = Inbox<(), (), u8>;

    #[test]
    fn what_comes_for_a_frame_that_is_gone_is_late() {
        let mut inbox = Plain::default();
        assert!(inbox.arrive((1, 7), Arrival::Refined(7)));
        assert!(inbox.arrive((1, 8), Arrival::Refused));
        assert!(inbox.arrive((1, 7), Arrival::Refused));
        assert_eq!(inbox.take_arrival((1, 7)), Some(Arrival::Refined(7)));
        assert_eq!(inbox.release((1, 9)), 1);
        assert!(!inbox.arrive((1, 9), Arrival::Refined(9)));
        assert!(inbox.arrive((2, 0), Arrival::Refined(0)), "another stream");
    }

    #[test]
    fn answers_of_a_replaced_stream_are_not_kept() {
        let mut inbox = Plain::default();
        inbox.release((1, 3));
        assert!(inbox.arrive((1, 4), Arrival::Refined(4)));
        assert!(inbox.arrive((2, 1), Arrival::Refined(1)));
        assert_eq!(inbox.release((2, 0)), 1);
        assert!(!inbox.arrive((1, 5), Arrival::Refined(5)));
        assert_eq!(inbox.take_arrival((2, 1)), Some(Arrival::Refined(1)));
        // A camera may come back.
        inbox.release((1, 6));
        assert!(inbox.arrive((1, 7), Arrival::Refused));
    }

    #[test]
    fn answers_are_bounded() {
        let mut inbox = Plain::default();
        (0..1000).for_each(|frame| assert!(inbox.arrive((1, frame), Arrival::Refined(0))));
        assert_eq!(inbox.release((1, 2000)), ARRIVALS as u64);
    }

    #[test]
    fn without_room_frames_wait_and_events_pass() {
        let mut inbox = Plain::default();
        inbox.push(Item::Event((), Kind::Other));
        inbox.push(Item::Frame(Box::new(Decoded {
            frame: (),
            lookup: crate::identity::Lookup::Unknown,
            attached: None,
            corrupted: false,
            origin: crate::identity::Origin::Ours,
            due: None,
        })));
        assert!(matches!(inbox.pop(false), Some(Item::Event(..))));
        assert!(inbox.pop(false).is_none());
        assert_eq!(inbox.frames(), 1);
        assert!(matches!(inbox.pop(true), Some(Item::Frame(_))));
        assert!(inbox.is_empty());
    }
}
