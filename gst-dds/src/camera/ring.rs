// SPDX-License-Identifier: MPL-2.0

//! The newest captured frames, kept until their refinement is requested or too late.

use std::collections::VecDeque;

/// Bounds of a [`Ring`]. Whichever is reached first drops the oldest frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most frames.
    pub frames: usize,
    /// Most bytes of them together.
    pub bytes: u64,
    /// Greatest age relative to the newest frame, in nanoseconds of the caller's clock.
    pub age_ns: u64,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    frame: u64,
    time: u64,
    bytes: u64,
    item: T,
}

/// Frames in order of their numbers, which rise.
#[derive(Clone, Debug)]
pub struct Ring<T> {
    bounds: Bounds,
    slots: VecDeque<Slot<T>>,
    bytes: u64,
}

impl<T> Ring<T> {
    /// An empty ring.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            slots: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Adds a frame of this number, running time and size, and drops the frames that exceed the bounds: the new frame
    /// itself, too, where it alone is larger. A number that does not rise restarts the ring.
    pub fn push(&mut self, frame: u64, time: u64, bytes: u64, item: T) {
        if self.slots.back().is_some_and(|newest| newest.frame >= frame) {
            self.clear();
        }
        self.bytes += bytes;
        self.slots.push_back(Slot {
            frame,
            time,
            bytes,
            item,
        });
        while let Some(oldest) = self.slots.front() {
            let fits = self.slots.len() <= self.bounds.frames
                && self.bytes <= self.bounds.bytes
                && time.saturating_sub(oldest.time) <= self.bounds.age_ns;
            if fits {
                break;
            }
            self.bytes -= oldest.bytes;
            self.slots.pop_front();
        }
    }

    /// The frame of this number, unless it was dropped.
    pub fn get(&self, frame: u64) -> Option<&T> {
        let at = self.slots.binary_search_by_key(&frame, |slot| slot.frame).ok()?;
        self.slots.get(at).map(|slot| &slot.item)
    }

    /// The oldest frame that is kept.
    pub fn oldest(&self) -> Option<&T> {
        self.slots.front().map(|slot| &slot.item)
    }

    /// Drops all frames.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.bytes = 0;
    }

    /// Frames in the ring.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of the frames in the ring.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        frames: 4,
        bytes: 100,
        age_ns: 1000,
    };

    #[test]
    fn each_bound_lets_the_oldest_go() {
        let mut ring = Ring::new(BOUNDS);
        for frame in 0..6 {
            ring.push(frame, frame, 1, frame);
        }
        assert_eq!((ring.len(), ring.get(1), ring.get(2)), (4, None, Some(&2)));
        ring.push(6, 6, 98, 6);
        assert_eq!((ring.len(), ring.bytes(), ring.oldest()), (3, 100, Some(&4)));
        ring.push(9, 1006, 1, 9);
        assert_eq!((ring.len(), ring.bytes(), ring.get(7)), (2, 99, None));
        ring.push(10, 1007, 101, 10);
        assert!(ring.is_empty());
    }

    #[test]
    fn numbers_that_do_not_rise_begin_anew() {
        let mut ring = Ring::new(BOUNDS);
        ring.push(5, 5, 1, "old");
        ring.push(5, 6, 1, "new");
        assert_eq!((ring.len(), ring.get(5)), (1, Some(&"new")));
    }

    proptest! {
        #[test]
        fn the_bounds_hold_whatever_comes(pushes in prop::collection::vec((0u64..1000, any::<u64>(), 0u64..200), 0..100)) {
            let mut ring = Ring::new(BOUNDS);
            for (frame, time, bytes) in pushes {
                ring.push(frame, time, bytes, bytes);
                prop_assert!(ring.len() <= BOUNDS.frames && ring.bytes() <= BOUNDS.bytes);
                prop_assert_eq!(ring.slots.iter().map(|slot| slot.item).sum::<u64>(), ring.bytes());
            }
        }
    }
}
