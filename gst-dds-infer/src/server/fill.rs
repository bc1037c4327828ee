// SPDX-License-Identifier: MPL-2.0

//! Which captured pictures between two that were looked at still need a predicted result, and when.

use std::time::Duration;

use super::types::{FrameKey, Predicted};

/// Most captured pictures after one that was looked at of which anything is known.
pub const MAX_FILLED: u64 = 64;

/// The picture that was looked at last.
#[derive(Clone, Copy, Debug)]
struct Last {
    key: FrameKey,
    /// When its result went out.
    at: Duration,
    /// The next picture without a result.
    next: u64,
}

/// Keeps the results of captured pictures without gaps.
#[derive(Debug, Default)]
pub struct Fill {
    last: Option<Last>,
}

impl Fill {
    /// Forgets the last picture: nothing is predicted from it any more.
    pub fn clear(&mut self) {
        self.last = None;
    }

    /// Takes a picture that was looked at, whose result goes out now.
    pub fn looked(&mut self, now: Duration, key: FrameKey) {
        self.last = Some(Last {
            key,
            at: now,
            next: key.1.saturating_add(1),
        });
    }

    /// When the next result is due, though no picture has come: at its place in the grid of captured pictures. `None` beyond
    /// the `interval` in force, since the next picture that is sent is to be looked at.
    pub fn due(&self, interval: u8, frame_time: Duration) -> Option<Duration> {
        let last = self.last?;
        let ahead = u32::try_from(last.next.checked_sub(last.key.1)?).ok()?;
        let known = u64::from(ahead) <= MAX_FILLED;
        (known && ahead < u32::from(interval)).then(|| last.at.saturating_add(frame_time.saturating_mul(ahead)))
    }

    /// The next picture without a result.
    pub fn next(&mut self) -> Option<Predicted> {
        let last = self.last.as_mut()?;
        let frame = last.next;
        let ahead = u32::try_from(frame.checked_sub(last.key.1)?).ok()?;
        last.next = frame.checked_add(1)?;
        Some(Predicted {
            frame,
            ahead,
            reported: false,
        })
    }

    /// The pictures before this one that still have no result. One of another stream, or one not after the last, has none
    /// before it.
    pub fn before(&mut self, key: FrameKey) -> Vec<Predicted> {
        let Some(last) = self.last.as_mut().filter(|last| last.key.0 == key.0) else {
            return Vec::new();
        };
        let end = key.1.min(last.key.1.saturating_add(MAX_FILLED + 1));
        let missing = end.saturating_sub(last.next);
        (0..missing).map_while(|_| self.next()).collect()
    }

    /// The prediction for a picture that came and is not looked at; `None` where nothing is known that comes before it.
    pub fn of(&mut self, key: FrameKey) -> Option<Predicted> {
        let last = self.last.as_mut().filter(|last| last.key.0 == key.0)?;
        let ahead = key
            .1
            .checked_sub(last.key.1)
            .filter(|ahead| (1..=MAX_FILLED).contains(ahead))?;
        let ahead = u32::try_from(ahead).ok()?;
        let reported = key.1 < last.next;
        last.next = last.next.max(key.1.saturating_add(1));
        Some(Predicted {
            frame: key.1,
            ahead,
            reported,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn frames(predicted: &[Predicted]) -> Vec<(u64, u32)> {
        predicted.iter().map(|p| (p.frame, p.ahead)).collect()
    }

    #[test]
    fn every_captured_picture_has_one_result() {
        let mut fill = Fill::default();
        assert_eq!(fill.before((1, 10)), []);
        fill.looked(1000 * MS, (1, 10));
        assert_eq!(fill.due(1, 40 * MS), None, "all pictures come");
        assert_eq!(fill.due(3, 40 * MS), Some(1040 * MS));
        assert_eq!(frames(&fill.next().into_iter().collect::<Vec<_>>()), [(11, 1)]);
        assert_eq!(fill.due(3, 40 * MS), Some(1080 * MS));
        assert_eq!(frames(&fill.before((1, 14))), [(12, 2), (13, 3)]);
        assert_eq!(fill.before((1, 14)), []);
        fill.looked(1160 * MS, (1, 14));
        assert!(!fill.of((1, 15)).unwrap().reported);
        fill.next();
        assert!(fill.of((1, 16)).unwrap().reported);
        assert_eq!(frames(&fill.before((1, 18))), [(17, 3)]);
    }

    #[test]
    fn results_that_are_due_end_where_nothing_is_known_any_more() {
        let mut fill = Fill::default();
        fill.looked(MS, (1, 0));
        let mut due = 0;
        while fill.due(u8::MAX, MS).is_some() {
            due += u64::from(fill.next().is_some());
        }
        assert_eq!(due, MAX_FILLED);
    }

    #[test]
    fn gaps_are_bounded_and_other_streams_are_none() {
        let mut fill = Fill::default();
        fill.looked(MS, (1, 0));
        assert_eq!(fill.before((2, 5)), []);
        assert_eq!(fill.before((1, 1 << 40)).len() as u64, MAX_FILLED);
        assert_eq!(fill.of((1, MAX_FILLED + 1)), None);
        fill.looked(MS, (1, u64::MAX - 1));
        assert_eq!(fill.before((1, 3)), []);
        assert_eq!(fill.of((1, 3)), None);
        assert_eq!(fill.of((1, u64::MAX - 1)), None);
        fill.clear();
        assert_eq!(fill.next(), None);
    }
}
