// SPDX-License-Identifier: MPL-2.0

//! A monotonic clock made of the times that callers pass.

/// Steps back in time up to this are calls out of order.
const DISORDER_NS: u64 = 500_000_000;

/// Calls from several threads may be a little out of order: time then stands still. A larger step back is a seek, which
/// restarts running time: all remembered times are moved back too, so that ages are kept and the step itself counts as
/// no time.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    now: u64,
}

impl Clock {
    /// Observes a time. Returns the current time, and the step by which remembered times have to move back, if any.
    pub(super) fn observe(&mut self, now: u64) -> (u64, Option<u64>) {
        let back = self.now.saturating_sub(now);
        if back <= DISORDER_NS {
            self.now = self.now.max(now);
            return (self.now, None);
        }
        self.now = now;
        (now, Some(back))
    }

    /// The newest time observed.
    pub(super) fn now(&self) -> u64 {
        self.now
    }
}
