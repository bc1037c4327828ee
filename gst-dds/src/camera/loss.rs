// SPDX-License-Identifier: MPL-2.0

//! Estimates the available bandwidth from the losses that receivers report.

/// Loss up to this much is noise of the link, and the estimate may rise.
const LOSS_NONE: f64 = 0.01;
/// Loss from which on the link is congested.
const LOSS_CONGESTED: f64 = 0.03;
/// Part of a congested link that is used, so that its queue drains.
const DRAIN: f64 = 0.95;
/// Time after a decrease in which reports still describe the rate before it, and no increase is tried.
const SETTLE_NS: u64 = 500_000_000;
const CALM_NS: u64 = 1_500_000_000;
/// Increase in a second, as a part of the range.
const RECOVERY: f64 = 0.05;
/// Jitter over its smallest mean (factor, and milliseconds on top) that indicates a growing queue.
const JITTER_FACTOR: f64 = 2.0;
const JITTER_MS: f64 = 10.0;

/// Estimates the available bandwidth from RTCP receiver reports (RFC 3550, section 6.4.1): multiplicative decrease to
/// what arrived, additive recovery.
///
/// - Loss of 3 % or more is congestion: the part of the sent rate that arrived is what the link carries. The estimate
///   becomes 95 % of that, so that the queue drains, and then ignores further loss for half a second.
/// - Loss of less than 1 % lets it rise by 5 % of the range in a second, unless jitter shows that a queue builds up.
/// - Anything between holds it.
///
/// It assumes that the sender uses all it is granted, and so rises to the maximum where a quiet scene does not.
#[derive(Clone, Debug, PartialEq)]
pub struct LossEstimator {
    min_kbps: f64,
    max_kbps: f64,
    kbps: f64,
    last: Option<(u64, u32)>,
    decreased: Option<u64>,
    jitter_ms: Option<f64>,
    least_jitter_ms: f64,
}

impl LossEstimator {
    /// An estimator between two bounds in kbit/s that begins with `start_kbps`. Bounds in the wrong order are swapped,
    /// a start outside them is clamped.
    pub fn new(min_kbps: u32, max_kbps: u32, start_kbps: u32) -> Self {
        let (min, max) = (min_kbps.min(max_kbps), min_kbps.max(max_kbps));
        Self {
            min_kbps: f64::from(min),
            max_kbps: f64::from(max),
            kbps: f64::from(start_kbps.clamp(min, max)),
            last: None,
            decreased: None,
            jitter_ms: None,
            least_jitter_ms: f64::INFINITY,
        }
    }

    /// Available bandwidth in kbit/s (1000 bits).
    pub fn available_kbps(&self) -> u32 {
        self.kbps.round() as u32
    }

    /// Takes one report block: time of arrival in nanoseconds, fraction lost 0.0..=1.0 (the field over 256),
    /// interarrival jitter in milliseconds (the field over the clock rate) and extended highest sequence number.
    /// Returns [`Self::available_kbps`].
    ///
    /// Reports whose highest sequence number is not ahead of the last one's, and values that are not numbers, are
    /// ignored.
    pub fn on_report(&mut self, now: u64, fraction_lost: f64, jitter_ms: f64, highest_seq: u32) -> u32 {
        let news = self
            .last
            .is_none_or(|(_, seq)| (1..1 << 31).contains(&highest_seq.wrapping_sub(seq)));
        if !news || !fraction_lost.is_finite() || !jitter_ms.is_finite() {
            return self.available_kbps();
        }
        let loss = fraction_lost.clamp(0.0, 1.0);
        let elapsed = self.last.map_or(0, |(at, _)| now.saturating_sub(at)).min(2_000_000_000);
        self.last = Some((now, highest_seq));
        let queueing = self.follow_jitter(jitter_ms.max(0.0));
        let since_decrease = self.decreased.map(|at| now.saturating_sub(at));
        if loss >= LOSS_CONGESTED {
            if since_decrease.is_none_or(|since| since >= SETTLE_NS) {
                self.kbps *= (1.0 - loss) * DRAIN;
                self.decreased = Some(now);
            }
        } else if loss < LOSS_NONE && !queueing && since_decrease.is_none_or(|since| since >= CALM_NS) {
            self.kbps += RECOVERY * (self.max_kbps - self.min_kbps) * elapsed as f64 / 1e9;
        }
        self.kbps = self.kbps.clamp(self.min_kbps, self.max_kbps);
        self.available_kbps()
    }

    /// Whether jitter has grown so much over its smallest mean that packets must be queueing.
    fn follow_jitter(&mut self, jitter_ms: f64) -> bool {
        let mean = self.jitter_ms.map_or(jitter_ms, |mean| mean + (jitter_ms - mean) / 4.0);
        self.jitter_ms = Some(mean);
        // A route that stays worse becomes the reference within some hundred reports.
        self.least_jitter_ms = mean.min(self.least_jitter_ms * 1.01 + 0.01);
        mean > JITTER_FACTOR * self.least_jitter_ms + JITTER_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of a given capacity, with the loss reports for a sender that uses all it is granted.
    fn use_link(estimator: &mut LossEstimator, from_s: u64, seconds: u64, carries: f64) -> Vec<f64> {
        (from_s * 4..(from_s + seconds) * 4)
            .map(|report| {
                let sent = f64::from(estimator.available_kbps());
                let lost = (1.0 - carries / sent).max(0.0);
                f64::from(estimator.on_report(report * 250_000_000, lost, 3.0, report as u32 * 40)) / carries
            })
            .collect()
    }

    #[test]
    fn the_loss_estimate_finds_what_a_link_carries_and_follows_it() {
        let mut estimator = LossEstimator::new(100, 3000, 3000);
        let first = use_link(&mut estimator, 0, 20, 1000.0);
        assert!(first[20..].iter().all(|used| (0.85..1.1).contains(used)), "{first:?}");
        let fallen = use_link(&mut estimator, 20, 20, 400.0);
        assert!(fallen[8..].iter().all(|used| (0.8..1.3).contains(used)), "{fallen:?}");
        let risen = use_link(&mut estimator, 40, 20, 2000.0);
        assert!(risen[50..].iter().all(|used| (0.85..1.1).contains(used)), "{risen:?}");
    }

    #[test]
    fn the_loss_estimate_holds_for_noise_repeats_and_growing_queues() {
        let mut estimator = LossEstimator::new(100, 2000, 900);
        let report = |estimator: &mut LossEstimator, n: u32, loss, jitter| {
            estimator.on_report(u64::from(n) * 250_000_000, loss, jitter, n.wrapping_add(u32::MAX - 5))
        };
        for n in 1..20 {
            assert_eq!(report(&mut estimator, n, 0.02, 4.0), 900);
        }
        assert_eq!(report(&mut estimator, 19, 0.5, 4.0), 900, "a repeated report");
        assert_eq!(report(&mut estimator, 12, 0.5, 4.0), 900, "a report that was overtaken");
        assert_eq!(report(&mut estimator, 20, f64::NAN, 4.0), 900);
        for n in 20..40 {
            let kbps = report(&mut estimator, n, 0.0, 60.0);
            assert!(n < 24 || kbps <= 1000, "{n}: {kbps}");
        }
        let before = estimator.available_kbps();
        let first = report(&mut estimator, 40, 0.2, 60.0);
        assert_eq!(first, (f64::from(before) * 0.8 * 0.95).round() as u32);
        assert_eq!(
            report(&mut estimator, 41, 0.2, 60.0),
            first,
            "that report tells of the rate before"
        );
        for n in 42..200 {
            report(&mut estimator, n, 1.0, 60.0);
        }
        assert_eq!(estimator.available_kbps(), 100);
    }
}
