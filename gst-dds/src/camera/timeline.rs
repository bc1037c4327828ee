// SPDX-License-Identifier: MPL-2.0

//! Output times in order: they rise with every picture, whatever the input times are.
//!
//! Recorders refuse a stream whose times are missing or do not rise, and end. Rising times stay as they are. A picture
//! without a time is placed one interval behind the one before. A time that does not rise is placed close behind the
//! one before, so that the next may keep its own; where the following times rise from there (a source that restarted),
//! they keep their distances, shifted behind those already output.

#![forbid(unsafe_code)]

/// Interval in nanoseconds where none is known: 30 pictures a second.
const UNKNOWN_INTERVAL: u64 = 1_000_000_000 / 30;
/// Longest interval taken from the distance of two pictures.
const LONGEST_INTERVAL: u64 = 10_000_000_000;
/// Part of an interval by which a picture out of order is placed behind the one before.
const SQUEEZED: u64 = 4;
/// Times from here on are invalid: 146 years and more.
const NEVER: u64 = 1 << 62;

/// The output time of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Nanoseconds, above those of the picture before.
    pub ns: u64,
    /// It differs from the input time.
    pub mended: bool,
}

/// Output times of one stream, up to a flush or another segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeline {
    /// Input and output time of the last picture.
    last: Option<(Option<u64>, u64)>,
    /// Distance of the last two pictures whose input times rose.
    measured: Option<u64>,
    /// The input time of the last picture did not rise.
    stepped_back: bool,
    /// Offset of a source that restarted.
    shift: u64,
}

impl Timeline {
    /// Duration of a picture that has none: `nominal` where that is known, else the distance of the last two.
    pub fn interval(&self, nominal: Option<u64>) -> u64 {
        nominal
            .filter(|interval| (1..=LONGEST_INTERVAL).contains(interval))
            .or(self.measured)
            .unwrap_or(UNKNOWN_INTERVAL)
    }

    /// The output time of the next picture, whose input time is `pts`. `start` is the start of the segment, `nominal`
    /// the interval of pictures where it is known.
    pub fn next(&mut self, pts: Option<u64>, start: u64, nominal: Option<u64>) -> Time {
        let pts = pts.filter(|pts| *pts < NEVER);
        let interval = self.interval(nominal);
        let Some((before, out)) = self.last else {
            let ns = pts.unwrap_or(start.min(NEVER));
            self.last = Some((pts, ns));
            return Time {
                ns,
                mended: pts.is_none(),
            };
        };
        let rises = before.zip(pts).is_some_and(|(before, pts)| pts > before);
        let ns = match pts {
            None => out + interval,
            Some(pts) if pts > out => {
                self.shift = 0;
                pts
            }
            Some(pts) if pts + self.shift > out => pts + self.shift,
            Some(pts) if self.stepped_back && rises => {
                self.shift = out + interval - pts;
                out + interval
            }
            Some(_) if self.stepped_back => out + interval,
            Some(_) => out + (interval / SQUEEZED).max(1),
        };
        self.stepped_back = pts.is_some_and(|pts| ns != pts);
        if let Some((before, pts)) = before.zip(pts).filter(|_| rises) {
            self.measured = Some((pts - before).min(LONGEST_INTERVAL));
        }
        self.last = Some((pts, ns));
        Time {
            ns,
            mended: pts != Some(ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn out(times: &[Option<u64>], nominal: Option<u64>) -> Vec<u64> {
        let mut timeline = Timeline::default();
        let times = times.iter().map(|pts| pts.map(|ms| ms * MS));
        let times: Vec<_> = times
            .map(|pts| timeline.next(pts, 0, nominal.map(|ms| ms * MS)).ns)
            .collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
        times.into_iter().map(|ns| ns / MS).collect()
    }

    #[test]
    fn rising_times_stay_as_they_are() {
        let mut timeline = Timeline::default();
        for pts in [7, 8, 100, 101, 1 << 50, (1 << 50) + 1] {
            assert_eq!(timeline.next(Some(pts), 0, Some(3)), Time { ns: pts, mended: false });
        }
    }

    #[test]
    fn missing_times_follow_at_the_rate() {
        let (first, middle) = ([None, Some(40), Some(80)], [Some(0), None, None, Some(120), Some(160)]);
        assert_eq!(out(&first, Some(40)), [0, 40, 80]);
        assert_eq!(out(&middle, Some(40)), [0, 40, 80, 120, 160]);
        // By the rate of the times themselves, where caps declare none.
        assert_eq!(out(&[Some(0), Some(100), None, Some(300)], None), [0, 100, 200, 300]);
        assert_eq!(out(&[None; 4], None), [0, 33, 66, 99]);
        let mut timeline = Timeline::default();
        assert_eq!(
            (timeline.interval(None), timeline.interval(Some(5))),
            (UNKNOWN_INTERVAL, 5)
        );
        for pts in [0, 100] {
            timeline.next(Some(pts * MS), 0, None);
        }
        assert_eq!(
            (timeline.interval(None), timeline.interval(Some(40 * MS))),
            (100 * MS, 40 * MS)
        );
        // A time that is too far ahead does not hold up the others for long.
        assert_eq!(out(&[Some(0), None, Some(30), Some(60)], Some(40)), [0, 40, 50, 60]);
    }

    #[test]
    fn the_first_picture_without_a_time_begins_with_the_segment() {
        let time = Timeline::default().next(None, 5 * MS, None);
        assert_eq!(
            time,
            Time {
                ns: 5 * MS,
                mended: true
            }
        );
    }

    #[test]
    fn one_picture_out_of_order_moves_no_other() {
        assert_eq!(out(&[Some(0), Some(40), Some(20), Some(80)], Some(40)), [0, 40, 50, 80]);
        assert_eq!(out(&[Some(0), Some(40), Some(40), Some(80)], Some(40)), [0, 40, 50, 80]);
    }

    #[test]
    fn a_source_that_begins_anew_goes_on_at_its_own_pace() {
        let again = [Some(900), Some(940), Some(0), Some(40), Some(140), Some(180)];
        assert_eq!(out(&again, Some(40)), [900, 940, 950, 990, 1090, 1130]);
        // Back in its place, the source keeps its own times again.
        let back = [Some(900), Some(0), Some(40), Some(2000), Some(2040)];
        assert_eq!(out(&back, Some(40)), [900, 910, 950, 2000, 2040]);
        assert_eq!(out(&[Some(5); 5], Some(40)), [5, 15, 55, 95, 135]);
    }

    #[test]
    fn nothing_that_comes_in_overflows() {
        let mut timeline = Timeline::default();
        let mut last = None;
        for pts in [u64::MAX, NEVER - 1, NEVER, 0, 1, NEVER - 1, u64::MAX - 1] {
            for pts in [Some(pts), None, Some(pts)] {
                let time = timeline.next(pts, u64::MAX, Some(u64::MAX)).ns;
                assert!(last.is_none_or(|last| time > last));
                last = Some(time);
            }
        }
    }
}
