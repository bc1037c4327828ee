// SPDX-License-Identifier: MPL-2.0

//! Processor time of single threads, as Linux counts it.

/// Processor time of the calling thread so far, milliseconds; 0 if the kernel does not count it.
pub fn thread_ms() -> f64 {
    // "on processor, waiting (nanoseconds), time slices"; see the kernel's documentation of schedstats.
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .map_or(0.0, |ns| ns / 1e6)
}

/// Processor time of a thread, measured after each of its steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    begun: Option<f64>,
    first: Option<f64>,
    last: f64,
    marks: usize,
}

impl Meter {
    /// Called on the thread before its first step; later calls do nothing.
    pub fn begin(&mut self) {
        self.begun.get_or_insert_with(thread_ms);
    }

    /// Called on the thread after each step.
    pub fn mark(&mut self) {
        self.last = thread_ms();
        self.first.get_or_insert(self.last);
        self.marks += 1;
    }

    /// All steps together, milliseconds. If [`Self::begin`] was not called, the first step counts as the mean of the
    /// others.
    pub fn ms(&self) -> f64 {
        match (self.begun, self.first) {
            (Some(begun), Some(_)) => self.last - begun,
            (None, Some(first)) if self.marks > 1 => (self.last - first) * self.marks as f64 / (self.marks - 1) as f64,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_processor_time_and_sleep_does_not() {
        let mut meter = Meter::default();
        meter.begin();
        let busy = |ms: f64| {
            let until = thread_ms() + ms;
            while thread_ms() < until {
                std::hint::spin_loop();
            }
        };
        busy(20.0);
        meter.mark();
        let worked = meter.ms();
        std::thread::sleep(std::time::Duration::from_millis(60));
        meter.mark();
        assert!(worked >= 20.0, "{worked}");
        assert!(meter.ms() - worked < 30.0, "{}", meter.ms());
    }
}
