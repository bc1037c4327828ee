// SPDX-License-Identifier: MPL-2.0

//! The last second of coded bytes, by which the rate cap and the bandwidth controller bound the next one.

use std::collections::VecDeque;

/// Length of "any one second", with a millisecond for rounded time stamps.
pub(super) const SECOND_NS: u64 = 1_001_000_000;
/// Entries remembered; more are merged into coarser ones.
const MAX_ENTRIES: usize = 1024;
/// Most frames looked ahead.
pub(super) const MAX_HORIZON: usize = 512;

/// Accounts that bytes are charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// The first stream, or the only one.
    Coded,
    /// The same against the rate cap: less than its bytes where the cap fell after it.
    Cap,
    /// Both passes against the target of the controller: less where the target fell after them.
    Target,
    /// Bytes caused by regions of feedback.
    Feedback,
}

const ACCOUNTS: usize = 4;

/// A coded frame.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    /// Bytes by [`Account`].
    bytes: [f64; ACCOUNTS],
}

/// A sliding second, and the distance of frames in it.
#[derive(Clone, Debug)]
pub struct Window {
    entries: VecDeque<Entry>,
    interval_ns: f64,
    last_frame_at: Option<u64>,
    nominal_rate: f64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            entries: VecDeque::with_capacity(MAX_ENTRIES + 1),
            interval_ns: 0.0,
            last_frame_at: None,
            nominal_rate: 0.0,
        }
    }
}

impl Window {
    /// Begins another stream. The bytes of the last second still count.
    pub(super) fn restart(&mut self) {
        (self.interval_ns, self.last_frame_at, self.nominal_rate) = (0.0, None, 0.0);
    }

    /// Begins a frame: follows the real distance of frames (a camera in the dark is slower than its caps declare) and
    /// drops entries older than the second.
    pub fn begin(&mut self, now: u64, frame_rate: f64) {
        if frame_rate != self.nominal_rate || self.interval_ns == 0.0 {
            self.nominal_rate = frame_rate;
            self.interval_ns = 1e9 / frame_rate;
        } else if let Some(last) = self.last_frame_at {
            let seen = (now.saturating_sub(last) as f64).clamp(1e6, 1e9);
            // Many pictures where few were expected are the greater danger.
            let share = if 2.0 * seen < self.interval_ns { 2.0 } else { 8.0 };
            self.interval_ns += (seen - self.interval_ns) / share;
        }
        self.interval_ns = self.interval_ns.clamp(SECOND_NS as f64 / (MAX_HORIZON - 2) as f64, 1e9);
        self.last_frame_at = Some(now);
        self.forget(now);
    }

    pub(super) fn forget(&mut self, now: u64) {
        let past = |entry: &Entry| now.saturating_sub(entry.at) > SECOND_NS;
        while self.entries.front().is_some_and(past) {
            self.entries.pop_front();
        }
    }

    /// Adds the size of a frame planned at this time, in bytes by [`Account`].
    pub(super) fn push(&mut self, at: u64, bytes: [f64; ACCOUNTS]) {
        let mut entry = Entry { at, bytes };
        if self.entries.len() >= MAX_ENTRIES
            && let Some(last) = self.entries.pop_back()
        {
            entry
                .bytes
                .iter_mut()
                .zip(last.bytes)
                .for_each(|(sum, more)| *sum += more);
        }
        self.entries.push_back(entry);
    }

    /// Adds the size of a frame planned at this time in both passes, in bytes, where no cap or feedback is charged.
    pub fn coded(&mut self, at: u64, low: usize, refined: usize) {
        let (low, both) = (low as f64, low as f64 + refined as f64);
        self.push(at, [low, low, both, 0.0]);
    }

    /// Adds bytes to the newest frame.
    pub(super) fn add(&mut self, account: Account, bytes: f64) {
        if let Some(newest) = self.entries.back_mut() {
            newest.bytes[account as usize] += bytes;
        }
    }

    /// Nanoseconds from frame to frame.
    pub(super) fn interval_ns(&self) -> f64 {
        self.interval_ns
    }

    /// Frames per second that the caller reported last.
    pub(super) fn nominal_rate(&self) -> f64 {
        self.nominal_rate
    }

    /// Bytes of an account in all entries.
    pub(super) fn sum(&self, account: Account) -> f64 {
        self.entries.iter().map(|entry| entry.bytes[account as usize]).sum()
    }

    /// Bytes of an account since a time, exclusive.
    pub(super) fn sum_since(&self, since: Option<u64>, account: Account) -> f64 {
        let counts = |entry: &&Entry| since.is_none_or(|since| entry.at > since);
        self.entries
            .iter()
            .filter(counts)
            .map(|entry| entry.bytes[account as usize])
            .sum()
    }

    /// Limits an account to `room` bytes where a bound has fallen: the new bound is not retroactive, or the picture
    /// would starve for a second.
    pub(super) fn limit(&mut self, account: Account, room: f64) {
        let sum = self.sum(account);
        if sum > room {
            for entry in &mut self.entries {
                entry.bytes[account as usize] *= room / sum;
            }
        }
    }

    /// Fills `past`: the bytes of an account that still count in the span that ends with the frame `i` frames from now.
    pub(super) fn look_ahead(&self, now: u64, span_ns: u64, account: Account, past: &mut Vec<f64>) {
        past.clear();
        let frames = (span_ns as f64 / self.interval_ns).floor() as usize + 1;
        let mut left = self.sum(account);
        let mut entries = self.entries.iter().peekable();
        for i in 0..frames.min(MAX_HORIZON) {
            let then = now.saturating_add((i as f64 * self.interval_ns) as u64);
            while let Some(entry) = entries.next_if(|entry| then.saturating_sub(entry.at) > span_ns) {
                left -= entry.bytes[account as usize];
            }
            past.push(left.max(0.0));
        }
    }

    /// Time went back by `by`.
    pub(super) fn shift_back(&mut self, by: u64) {
        for entry in &mut self.entries {
            entry.at = entry.at.saturating_sub(by);
        }
        self.last_frame_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn window(frames: u64) -> Window {
        let mut window = Window::default();
        for i in 0..frames {
            window.begin(i * 40 * MS, 25.0);
            window.push(i * 40 * MS, [10.0, 10.0, 20.0, 1.0]);
        }
        window
    }

    #[test]
    fn a_second_is_remembered_and_what_of_it_counts_later_is_foreseen() {
        let mut window = window(100);
        window.begin(4000 * MS, 25.0);
        assert_eq!(
            (window.sum(Account::Coded), window.sum(Account::Target)),
            (250.0, 500.0)
        );
        assert_eq!(window.sum_since(Some(3900 * MS), Account::Feedback), 2.0);
        let mut past = Vec::new();
        window.look_ahead(4000 * MS, SECOND_NS, Account::Coded, &mut past);
        assert_eq!((past.len(), past[0], past[1], past[25]), (26, 250.0, 240.0, 0.0));
    }

    #[test]
    fn a_bound_that_falls_does_not_reach_back() {
        let mut window = window(25);
        window.limit(Account::Cap, 125.0);
        assert!((window.sum(Account::Cap) - 125.0).abs() < 1e-9);
        assert_eq!(window.sum(Account::Coded), 250.0);
        window.limit(Account::Target, 1000.0);
        assert_eq!(window.sum(Account::Target), 500.0);
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost_of_it() {
        let mut window = Window::default();
        for i in 0..5000 {
            window.begin(i, 1000.0);
            window.push(i, [1.0; ACCOUNTS]);
        }
        assert_eq!(
            (window.entries.len(), window.sum(Account::Coded)),
            (MAX_ENTRIES, 5000.0)
        );
    }

    #[test]
    fn a_seek_keeps_ages() {
        let mut window = window(25);
        window.shift_back(960 * MS);
        window.begin(40 * MS, 25.0);
        assert_eq!(window.sum(Account::Coded), 250.0);
        window.begin(1042 * MS, 25.0);
        assert_eq!(window.sum(Account::Coded), 0.0);
    }
}
