// SPDX-License-Identifier: MPL-2.0

//! The latency to tell the pipeline: frames wait for the inference before them, and where there are two passes for the rest
//! of their segment, for the second pass, and for another inference. It is known once measured, and only grows.

use std::time::Duration;

#[derive(Debug, Default)]
pub struct Latency {
    reported: Duration,
    /// The part of it that a second pass may take.
    waiting: Duration,
}

impl Latency {
    pub fn reported(&self) -> Duration {
        self.reported
    }

    /// A frame may wait so long for its second pass. Returns whether that is longer than before.
    pub fn expect(&mut self, waiting: Duration) -> bool {
        let grown = waiting > self.waiting;
        self.waiting = self.waiting.max(waiting);
        grown
    }

    /// An inference took so long. Returns whether more is to be reported than was.
    pub fn measure(&mut self, inference: Duration) -> bool {
        if self.waiting + inference <= self.reported {
            return false;
        }
        // Half as much again, so that a slow frame now and then changes nothing; twice where there are two passes.
        let margin = if self.waiting.is_zero() { 3 } else { 6 };
        self.reported = self.waiting + inference * margin / 2;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_grows_by_what_was_measured_and_half_as_much() {
        let ms = Duration::from_millis;
        let mut latency = Latency::default();
        assert!(!latency.measure(Duration::ZERO));
        assert!(latency.measure(ms(20)));
        assert_eq!(latency.reported(), ms(30));
        assert!(!latency.measure(ms(30)));
        assert!(latency.expect(ms(100)));
        assert!(!latency.expect(ms(50)));
        assert!(latency.measure(ms(20)));
        assert_eq!(latency.reported(), ms(160));
    }
}
