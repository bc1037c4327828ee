// SPDX-License-Identifier: MPL-2.0

//! Repetition of the last state of feedback: when it is due, and which regions are still alive.

use std::time::Duration;

use dds_protocol::feedback::{FeedbackState, Region};
use dds_protocol::serial::Serial16;
use dds_protocol::wish::Wishes;

use super::types::Request;

/// Longest time between two generations of feedback: the camera takes silence for a server that is gone.
pub const REPEAT: Duration = Duration::from_millis(500);
/// Lead time, so that a late wake-up does not exceed [`REPEAT`].
const EARLY: Duration = Duration::from_millis(50);

/// The last state, and when it was made and sent.
#[derive(Debug)]
struct Last {
    stream_id: u32,
    frame: u64,
    regions: Vec<Region>,
    wishes: Wishes,
    made: Duration,
    sent: Duration,
}

/// Numbers the generations of feedback, and repeats the last one.
///
/// Feedback is state: each inferred frame gives a complete new generation. Without a new one, the last state is repeated
/// under a new generation before [`REPEAT`] is over. Repeats reduce the time to live of each region and wish by the time that
/// has passed, so that repeating cannot keep it alive, and leave out regions that were to be refined once.
#[derive(Debug)]
pub struct Repetition {
    generation: Serial16,
    last: Option<Last>,
}

impl Repetition {
    /// Numbers generations from the one after `before`, best a random number: a camera must not take a restarted server's
    /// generations for old ones.
    pub fn new(before: u16) -> Self {
        Self {
            generation: Serial16(before),
            last: None,
        }
    }

    /// Forgets the last state: the stream ended or was replaced.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Makes the state to send for a request.
    pub fn state(&mut self, now: Duration, request: Request) -> FeedbackState {
        let Request {
            stream_id,
            frame,
            regions,
            once,
            wishes,
        } = request;
        self.last = Some(Last {
            stream_id,
            frame,
            regions: if once { Vec::new() } else { regions.clone() },
            wishes,
            made: now,
            sent: now,
        });
        self.next(stream_id, frame, regions, wishes)
    }

    /// Returns the state to repeat, if the last one was sent long enough ago.
    pub fn due(&mut self, now: Duration) -> Option<FeedbackState> {
        let last = self.last.as_mut()?;
        if now.saturating_sub(last.sent) + EARLY < REPEAT {
            return None;
        }
        last.sent = now;
        let age = now.saturating_sub(last.made).as_millis();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let alive = last.regions.iter().filter_map(|r| {
            let ttl_ms = r.ttl_ms.checked_sub(age).filter(|left| *left > 0)?;
            Some(Region { ttl_ms, ..*r })
        });
        let wishes = last.wishes.aged(age);
        let (stream_id, frame, alive) = (last.stream_id, last.frame, alive.collect());
        Some(self.next(stream_id, frame, alive, wishes))
    }

    /// Time until a repeat is due, at least 1 ms.
    pub fn wait(&self, now: Duration) -> Duration {
        self.last.as_ref().map_or(REPEAT / 2, |last| {
            let wait = (last.sent + REPEAT).saturating_sub(now + EARLY);
            wait.max(Duration::from_millis(1))
        })
    }

    fn next(&mut self, stream_id: u32, frame: u64, regions: Vec<Region>, wishes: Wishes) -> FeedbackState {
        self.generation = self.generation.next();
        FeedbackState {
            stream_id,
            generation: self.generation,
            frame,
            regions,
            wishes,
        }
    }
}

#[cfg(test)]
mod tests {
    use dds_protocol::feedback::Rect;
    use dds_protocol::wish::Wish;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn request(once: bool) -> Request {
        let rect = Rect {
            x: 0,
            y: 0,
            width: 16,
            height: 16,
        };
        Request {
            stream_id: 1,
            frame: 7,
            regions: vec![Region {
                rect,
                ttl_ms: 600,
                ..Region::default()
            }],
            once,
            wishes: Wishes {
                interval: Some(Wish { value: 3, ttl_ms: 700 }),
                ..Wishes::default()
            },
        }
    }

    #[test]
    fn silence_is_filled_and_regions_die_at_their_time() {
        let mut repetition = Repetition::new(u16::MAX);
        assert_eq!(repetition.due(9000 * MS), None, "nothing was sent");
        let state = repetition.state(1000 * MS, request(false));
        assert_eq!((state.generation, state.regions[0].ttl_ms), (Serial16(0), 600));
        assert_eq!(repetition.due(1449 * MS), None);
        assert_eq!(repetition.wait(1400 * MS), 50 * MS);
        let again = repetition.due(1450 * MS).unwrap();
        assert_eq!((again.frame, again.generation), (7, Serial16(1)));
        assert_eq!(again.regions[0].ttl_ms, 150);
        let wish = again.wishes.interval.unwrap();
        assert_eq!((wish.value, wish.ttl_ms), (3, 250));
        assert_eq!(repetition.due(1460 * MS), None);
        let last = repetition.due(1900 * MS).unwrap();
        assert!(last.regions.is_empty() && last.wishes.is_empty());
        repetition.forget();
        assert_eq!(repetition.due(9000 * MS), None);
        assert_eq!(repetition.wait(9000 * MS), REPEAT / 2);
    }

    #[test]
    fn a_second_pass_is_asked_for_once() {
        let mut repetition = Repetition::new(0);
        assert_eq!(repetition.state(MS, request(true)).regions.len(), 1);
        assert!(repetition.due(600 * MS).unwrap().regions.is_empty());
    }
}
