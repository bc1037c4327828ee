// SPDX-License-Identifier: MPL-2.0

//! Who sets the pace of a live stream: inference that is too slow, or a sink that shows each frame at its time.
//!
//! Either way frames wait behind the one at hand. Where inference is too slow, those overtaken go without. Behind a sink
//! that waits, as long as the pipeline's latency is more than two frames, every frame would be overtaken for ever, though
//! there is time for each.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// What downstream has shown of itself. All times in nanoseconds.
#[derive(Debug, Default)]
pub struct Pace {
    /// Latency that the pipeline has set for its sinks.
    latency: AtomicU64,
    /// How long downstream kept the last frame.
    kept: AtomicU64,
}

impl Pace {
    /// Forgets everything: a new run.
    pub fn reset(&self) {
        self.set_latency(0);
        self.pushed(0);
    }

    /// The pipeline's latency has been set.
    pub fn set_latency(&self, latency: u64) {
        self.latency.store(latency, Ordering::Relaxed);
    }

    /// Downstream has kept a frame for so long.
    pub fn pushed(&self, kept: u64) {
        self.kept.store(kept, Ordering::Relaxed);
    }

    /// Whether a frame with the running time `frame` may be looked at `now`, though others wait behind it: downstream waits,
    /// and the frame is not due there yet. Frames last `duration`.
    ///
    /// Both must hold. A downstream that is slow for another reason keeps frames past their time, and a sink that does not
    /// wait has no use for a frame that is older than it need be.
    pub fn has_time(&self, now: u64, frame: u64, duration: u64) -> bool {
        let waits = self.kept.load(Ordering::Relaxed) > duration / 4;
        waits && now < frame.saturating_add(self.latency.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_where_downstream_waits_and_the_frame_is_early() {
        let pace = Pace::default();
        pace.set_latency(200);
        assert!(!pace.has_time(1000, 1000, 40), "nothing has waited yet");
        pace.pushed(30);
        assert!(pace.has_time(1199, 1000, 40));
        assert!(!pace.has_time(1200, 1000, 40), "due now");
        pace.pushed(5);
        assert!(!pace.has_time(1000, 1000, 40), "downstream takes frames at once");
        pace.pushed(30);
        pace.reset();
        assert!(!pace.has_time(1000, 1000, 40));
        assert!(!pace.has_time(u64::MAX, u64::MAX, 0));
    }
}
