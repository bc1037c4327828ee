// SPDX-License-Identifier: MPL-2.0

//! Detects a stalled media: pictures are captured, a client plays, and nothing is coded.

#![forbid(unsafe_code)]

/// Nanoseconds without a coded picture, while pictures wait, after which the media counts as stalled.
const STILL: u64 = 2_000_000_000;
/// The same while the encoder's thread is runnable: it works or waits for a processor, and hardly ever loops forever.
const BUSY: u64 = 10_000_000_000;
/// Least time between two verdicts, so that a fault that a new media does not fix costs at most one in that time.
const PAUSE: u64 = 10_000_000_000;

/// Checks further apart mean that the machine is overloaded, and prove nothing about the media.
const STARVED: u64 = 1_000_000_000;

/// Counts of a media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pictures passed on by the source.
    pub captured: u64,
    /// Pictures that the encoder has coded or, for a known reason, dropped.
    pub done: u64,
}

/// Detects a stalled media from its counts. Times are nanoseconds of any steady clock.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Number of the media, and its counts at the last progress, or when no client played.
    before: Option<(u64, Counts)>,
    /// Time since which pictures wait.
    waiting: Option<u64>,
    checked: Option<u64>,
    reported: Option<u64>,
}

impl Watch {
    /// Checks the media number `media`. `plays`: a client is to be sent something; `busy`: the encoder's thread is
    /// runnable, evaluated only if it matters. Returns whether the media has stalled; that is not repeated for 10 s.
    pub fn check(&mut self, now: u64, media: u64, counts: Counts, plays: bool, busy: impl FnOnce() -> bool) -> bool {
        let apart = self.checked.map_or(0, |checked| now.saturating_sub(checked));
        self.checked = Some(now);
        if apart > STARVED {
            self.waiting = None;
        }
        let (known, before) = *self.before.get_or_insert((media, counts));
        if known != media || counts.done != before.done || !plays {
            (self.before, self.waiting) = (Some((media, counts)), None);
            return false;
        }
        // One picture may just be in progress.
        if counts.captured < before.captured + 2 {
            return false;
        }
        let since = *self.waiting.get_or_insert(now);
        let time = now.saturating_sub(since);
        if time < STILL
            || self
                .reported
                .is_some_and(|reported| now.saturating_sub(reported) < PAUSE)
        {
            return false;
        }
        if time < BUSY && busy() {
            return false;
        }
        self.reported = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Times, in milliseconds, of the verdicts of a watch that checks four times a second.
    fn verdicts(until: u64, mut at: impl FnMut(u64) -> (u64, u64, u64, bool)) -> Vec<u64> {
        let mut watch = Watch::default();
        let mut check = |time: &u64| {
            let (media, captured, done, plays) = at(*time);
            watch.check(time * MS, media, Counts { captured, done }, plays, || false)
        };
        (0..until).step_by(250).filter(|time| check(time)).collect()
    }

    #[test]
    fn pictures_that_wait_for_two_seconds_are_told_once_in_ten() {
        // 25 pictures a second, none coded from 5 s on.
        let found = verdicts(40_000, |time| (1, time / 40, time.min(5000) / 40, true));
        assert_eq!(found, [7250, 17_250, 27_250, 37_250]);
    }

    #[test]
    fn a_new_media_starts_anew() {
        let found = verdicts(30_000, |time| match time {
            0..8000 => (1, time / 40, 0, true),
            // The fault persists in the new media.
            _ => (2, (time - 8000) / 40, 0, true),
        });
        assert_eq!(found, [2250, 12_250, 22_250]);
    }

    #[test]
    fn nothing_is_reported_while_nothing_is_due() {
        // No client plays; no picture is captured; one picture in 5 s, and coded; all are dropped for a known reason.
        assert_eq!(verdicts(60_000, |time| (1, time / 40, 0, false)), [0; 0]);
        assert_eq!(verdicts(60_000, |_| (1, 100, 90, true)), [0; 0]);
        assert_eq!(verdicts(60_000, |time| (1, time / 5000, time / 5000, true)), [0; 0]);
        assert_eq!(verdicts(60_000, |time| (1, time / 40, time / 40, true)), [0; 0]);
        // One picture is always in progress, one a second.
        assert_eq!(verdicts(60_000, |time| (1, 1 + time / 1000, time / 1000, true)), [0; 0]);
        // A client comes and goes.
        assert_eq!(verdicts(60_000, |time| (1, time / 40, 0, time % 2000 > 500)), [0; 0]);
    }

    #[test]
    fn a_machine_that_has_no_time_for_the_watch_is_not_told_of_as_a_media_that_stands_still() {
        let mut watch = Watch::default();
        let counts = |captured| Counts { captured, done: 0 };
        // The check runs only once in 1.5 s.
        let slow = (0..20u64).map(|n| watch.check(n * 1500 * MS, 1, counts(n * 30), true, || false));
        assert_eq!(slow.filter(|still| *still).count(), 0);
        let later = 28_500 * MS;
        let quick = (1..20u64).map(|n| watch.check(later + n * 250 * MS, 1, counts(1000 + n * 5), true, || false));
        assert_eq!(quick.filter(|still| *still).count(), 1);
    }

    #[test]
    fn an_encoder_that_works_or_gets_no_processor_is_given_ten_seconds() {
        let mut watch = Watch::default();
        let mut check = |time: &u64| {
            let counts = Counts {
                captured: time / 40,
                done: 0,
            };
            watch.check(time * MS, 1, counts, true, || *time < 30_000)
        };
        let found: Vec<u64> = (0..20_000).step_by(250).filter(|time| check(time)).collect();
        assert_eq!(found, [10_250]);
    }

    #[test]
    fn a_slow_source_that_stands_still_is_told_too() {
        // A picture in 3 s.
        let found = verdicts(30_000, |time| (1, time / 3000, 0, true));
        assert_eq!(found.first(), Some(&8000), "{found:?}");
    }
}
