// SPDX-License-Identifier: MPL-2.0

//! The latency to report to the pipeline: frames wait for the inference before them, and in two passes for the rest of their
//! segment, for the second pass, and for another inference. It is measured, and only grows.

use std::time::Duration;

/// Derives the reported latency from measured inferences and expected waits.
#[derive(Debug, Default)]
pub struct Latency {
    reported: Duration,
    /// Longest wait for a second pass.
    waiting: Duration,
}

impl Latency {
    pub fn reported(&self) -> Duration {
        self.reported
    }

    /// Takes the time that a frame may wait for its second pass. Returns whether that is longer than before.
    pub fn expect(&mut self, waiting: Duration) -> bool {
        let grown = waiting > self.waiting;
        self.waiting = self.waiting.max(waiting);
        grown
    }

    /// Takes the time of an inference. Returns whether the latency to report has grown.
    pub fn measure(&mut self, inference: Duration) -> bool {
        if self.waiting + inference <= self.reported {
            return false;
        }
        // Half as much again, so that an occasional slow frame changes nothing; in two passes twice that for two inferences.
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
