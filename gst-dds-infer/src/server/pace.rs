// SPDX-License-Identifier: MPL-2.0

//! What limits a live stream: inference that is too slow, or a sink that shows each frame at its time.
//!
//! In both cases frames wait behind the current one. Where inference is too slow, overtaken frames are not inferred. With a
//! sink that waits, as long as the pipeline's latency is more than two frames, every frame would always be overtaken, though
//! there is time for each.

use std::time::Duration;

/// Latency and observed delay of downstream.
#[derive(Debug, Default)]
pub struct Pace {
    /// Latency that the pipeline has set for its sinks.
    pub latency: Duration,
    /// How long downstream kept the last frame.
    pub kept: Duration,
}

impl Pace {
    /// Whether a frame that is `due` downstream before the latency is added may be inferred `now`, though others wait
    /// behind it: downstream waits, and the frame is not due there yet. Frames last `interval`.
    ///
    /// Both must hold: a downstream that is slow for another reason keeps frames past their time, and for a sink that does
    /// not wait a frame should be as new as possible.
    pub fn has_time(&self, now: Duration, due: Option<Duration>, interval: Duration) -> bool {
        let waits = self.kept > interval / 4;
        waits && due.is_some_and(|due| now < due.saturating_add(self.latency))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_where_downstream_waits_and_the_frame_is_early() {
        let ms = Duration::from_millis;
        let mut pace = Pace {
            latency: ms(200),
            ..Pace::default()
        };
        let due = Some(ms(1000));
        assert!(!pace.has_time(ms(1000), due, ms(40)), "nothing has waited yet");
        pace.kept = ms(30);
        assert!(pace.has_time(ms(1199), due, ms(40)));
        assert!(!pace.has_time(ms(1199), None, ms(40)), "no time is known");
        assert!(!pace.has_time(ms(1200), due, ms(40)), "due now");
        pace.kept = ms(5);
        assert!(!pace.has_time(ms(1000), due, ms(40)), "downstream takes frames at once");
        pace = Pace::default();
        assert!(!pace.has_time(ms(1000), due, ms(40)));
        assert!(!pace.has_time(Duration::MAX, Some(Duration::MAX), Duration::ZERO));
    }
}
