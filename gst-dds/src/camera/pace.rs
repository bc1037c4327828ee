// SPDX-License-Identifier: MPL-2.0

//! Measures the real distance of pictures in time.
//!
//! Encoders distribute bits by the frame rate they were opened with. Caps may declare another rate than the source
//! delivers, or none: a camera in the dark, `appsrc` with `framerate=0/1`, a demultiplexer that declares its clock. So
//! the distance of coded pictures is measured by their time stamps, and the rates given to an encoder are scaled by it.
//! Where pictures keep the rate of their caps, nothing is ever scaled: neither jitter nor a gap is a change of rate.

use std::collections::VecDeque;

/// Nanoseconds of pictures that a rate is judged by, and least pictures.
const WINDOW_NS: f64 = 8e9;
const WINDOW_PICTURES: usize = 8;
/// Nanoseconds of them that are enough where caps declare a rate.
const ENOUGH_NS: f64 = 2e9;
/// Most pictures remembered.
const MAX_PICTURES: usize = 512;
/// Intervals in a row that show a slower and a faster rate at once, where they agree within a factor, and differ from
/// the rate in force by another one. Late pictures arrive as a burst: it takes more intervals to distinguish a faster
/// rate from one.
const RUN_SLOWER: usize = 3;
const RUN_FASTER: usize = 5;
/// The same while no interval has confirmed the rate in force yet.
const RUN_AT_FIRST: usize = 2;
/// Intervals whose mean must have become shorter too: they include the gap before a burst.
const RUN: usize = 24;
const ALIKE: f64 = 1.5;
const UNLIKE: f64 = 1.25;
/// A mean that differs by this part is another rate.
const DRIFT: f64 = 0.025;
/// An interval of this length, and of this many usual ones, is a pause.
const PAUSE_NS: f64 = 1e9;
const PAUSE_INTERVALS: f64 = 4.0;
/// Shortest and longest interval that is plausible.
const RANGE_NS: (f64, f64) = (5e5, 60e9);

/// Distance of pictures in time: the declared one, or another one that was measured.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Distance that encoders assume.
    assumed_ns: f64,
    /// Whether caps declare it.
    declared: bool,
    /// Distance in force, where it differs.
    measured_ns: Option<f64>,
    /// Some interval agreed with the rate in force.
    confirmed: bool,
    last: Option<u64>,
    /// The last intervals, pauses included.
    run: VecDeque<f64>,
    /// Intervals without pauses, and their sum.
    window: VecDeque<f64>,
    span_ns: f64,
}

impl Pace {
    /// For an encoder opened for so many pictures a second; `declared`: by caps.
    pub fn new(assumed_rate: f64, declared: bool) -> Self {
        Self {
            assumed_ns: 1e9 / assumed_rate,
            declared,
            measured_ns: None,
            confirmed: false,
            last: None,
            run: VecDeque::with_capacity(RUN + 1),
            window: VecDeque::with_capacity(MAX_PICTURES + 1),
            span_ns: 0.0,
        }
    }

    /// Whether both belong to encoders opened for the same rate.
    pub fn assumes_as(&self, other: &Self) -> bool {
        (self.assumed_ns, self.declared) == (other.assumed_ns, other.declared)
    }

    /// The distance in force in nanoseconds.
    pub fn interval_ns(&self) -> f64 {
        self.measured_ns.unwrap_or(self.assumed_ns)
    }

    /// The same where it is known: declared by caps, or measured.
    pub fn known_interval_ns(&self) -> Option<f64> {
        self.measured_ns.or(self.declared.then_some(self.assumed_ns))
    }

    /// The distance in force as a factor of the assumed one: exactly 1 where that is right.
    pub fn scale(&self) -> f64 {
        self.measured_ns.map_or(1.0, |measured| measured / self.assumed_ns)
    }

    /// Whether the distance in force differs from the assumed one.
    pub fn is_measured(&self) -> bool {
        self.measured_ns.is_some()
    }

    /// Takes the time of a picture that is going to be coded, in nanoseconds.
    pub fn picture(&mut self, at: u64) {
        let Some(last) = self.last.replace(at) else { return };
        let Some(interval) = at.checked_sub(last) else {
            // A seek is no change of rate.
            self.run.clear();
            return;
        };
        let interval = interval as f64;
        self.run.push_back(interval);
        if self.run.len() > RUN {
            self.run.pop_front();
        }
        let in_force = self.interval_ns();
        self.confirmed |= !differ(interval, in_force, UNLIKE - 1.0);
        if let Some(pictures) = self.run_of_another_rate() {
            self.window.clear();
            self.window.extend(self.run.iter().rev().take(pictures));
            self.span_ns = self.window.iter().sum();
            self.set(self.span_ns / pictures as f64);
            return;
        }
        if interval > PAUSE_NS.max(PAUSE_INTERVALS * self.interval_ns()) {
            return;
        }
        self.window.push_back(interval);
        self.span_ns += interval;
        while self.window.len() > WINDOW_PICTURES && self.span_ns > WINDOW_NS || self.window.len() > MAX_PICTURES {
            self.span_ns -= self.window.pop_front().unwrap_or_default();
        }
        let pictures = self.window.len() as f64;
        let mean = self.span_ns / pictures;
        let off = (self.span_ns - pictures * self.interval_ns()).abs();
        if off <= DRIFT * pictures * self.interval_ns() {
            return;
        }
        // A run that is about to show another rate is better evidence than a mean of both.
        if self.declared && self.run_begins() {
            return;
        }
        let begun = self.window.len() >= WINDOW_PICTURES && (self.span_ns >= ENOUGH_NS || !self.declared);
        // It does not matter for the rate where the window begins and ends among late and early pictures.
        let longest = self.window.iter().copied().fold(0.0, f64::max);
        if begun && off > longest || !begun && !self.declared {
            self.set(mean);
        }
    }

    /// The shortest and the longest of the last `count` intervals, where they agree.
    fn agreed(&self, pictures: usize) -> Option<(f64, f64)> {
        let last = || self.run.iter().rev().take(pictures).copied();
        let (least, most) = (last().fold(f64::INFINITY, f64::min), last().fold(0.0, f64::max));
        let agree = self.run.len() >= pictures && least >= RANGE_NS.0 && most <= ALIKE * least;
        agree.then_some((least, most))
    }

    /// Whether the last few intervals agree on a shorter one than that in force.
    fn run_begins(&self) -> bool {
        self.agreed(RUN_SLOWER)
            .is_some_and(|(_, most)| UNLIKE * most < self.interval_ns())
    }

    /// Number of last intervals that agree on one that is not in force.
    fn run_of_another_rate(&self) -> Option<usize> {
        let (slower, faster) = if self.confirmed {
            (RUN_SLOWER, RUN_FASTER)
        } else {
            (RUN_AT_FIRST, RUN_AT_FIRST)
        };
        let is_slower = |(least, _)| least > UNLIKE * self.interval_ns();
        if self.agreed(slower).is_some_and(is_slower) {
            return Some(slower);
        }
        let (_, most) = self.agreed(faster)?;
        let mean = self.run.iter().sum::<f64>() / self.run.len() as f64;
        (UNLIKE * most.max(mean) < self.interval_ns()).then_some(faster)
    }

    fn set(&mut self, interval_ns: f64) {
        let as_declared = self.declared && !differ(interval_ns, self.assumed_ns, DRIFT);
        self.measured_ns = (!as_declared).then(|| interval_ns.clamp(RANGE_NS.0, RANGE_NS.1));
    }
}

fn differ(a: f64, b: f64, part: f64) -> bool {
    (a - b).abs() > part * b
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Scale behind pictures at these times in milliseconds.
    fn scale(pace: &mut Pace, times: impl IntoIterator<Item = u64>) -> f64 {
        times.into_iter().for_each(|ms| pace.picture(ms * MS));
        pace.scale()
    }

    /// Times of pictures of a constant rate, rounded to milliseconds as some sources do.
    fn constant(rate: u64, seconds: u64) -> impl Iterator<Item = u64> {
        (0..rate * seconds).map(move |i| i * 1000 / rate)
    }

    fn noise(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *seed >> 40
    }

    fn near(value: f64, wanted: f64) {
        assert!((value / wanted - 1.0).abs() < 0.03, "{value} is not {wanted}");
    }

    #[test]
    fn pictures_that_keep_to_the_told_rate_are_never_scaled() {
        for rate in [1, 5, 24, 25, 30, 60, 120, 240] {
            let mut pace = Pace::new(rate as f64, true);
            for at in constant(rate, 20) {
                pace.picture(at * MS);
                assert!(!pace.is_measured(), "{rate} at {at} ms");
            }
        }
        // 30000/1001 is not far from 30.
        let mut pace = Pace::new(30.0, true);
        near(scale(&mut pace, (0..1000).map(|i| i * 1001 / 30)), 1.0);
        assert!(!pace.is_measured());
    }

    #[test]
    fn jitter_is_no_rate() {
        for seed in 0..20 {
            let (mut pace, mut seed) = (Pace::new(30.0, true), seed);
            for i in 0..900 {
                // Up to 15 ms late, of 33.
                pace.picture((i * 100 / 3 * MS / 10 * 10) + noise(&mut seed) % 16 * MS);
                assert!(!pace.is_measured(), "picture {i}");
            }
        }
    }

    #[test]
    fn bursts_are_no_rate() {
        // A queue behind a network arrives as a burst: 5 pictures, 12 pictures.
        for burst in [5, 12] {
            let mut pace = Pace::new(25.0, true);
            assert_eq!(scale(&mut pace, (0..burst).map(|i| i * 40)), 1.0);
            for i in burst..500 {
                pace.picture(((i / burst * burst + burst - 1) * 40 + i % burst) * MS);
                assert!(!pace.is_measured(), "picture {i}");
            }
        }
    }

    #[test]
    fn a_rate_that_nobody_told_is_taken_from_the_first_interval() {
        let mut pace = Pace::new(30.0, false);
        near(scale(&mut pace, [0, 100]), 3.0);
        near(scale(&mut pace, (2..100).map(|i| i * 100)), 3.0);
        near(scale(&mut Pace::new(30.0, false), constant(60, 5)), 0.5);
        let mut pace = Pace::new(30.0, false);
        near(scale(&mut pace, constant(30, 5)), 1.0);
    }

    #[test]
    fn another_rate_than_the_told_one_is_noticed_within_a_few_pictures() {
        near(scale(&mut Pace::new(30.0, true), [0, 100, 200]), 3.0);
        near(scale(&mut Pace::new(30.0, true), constant(60, 1).take(3)), 0.5);
        let after = |rate: u64, pictures: u64| {
            (0..30)
                .map(|i| i * 33)
                .chain((1..=pictures).map(move |i| 957 + i * 1000 / rate))
        };
        near(scale(&mut Pace::new(30.0, true), after(10, 3)), 3.0);
        near(scale(&mut Pace::new(30.0, true), after(120, 12)), 0.25);
        near(scale(&mut Pace::new(1000.0, true), [0, 100, 200, 300]), 100.0);
        near(scale(&mut Pace::new(30.0, true), [0, 2000, 4000, 6000, 8000]), 60.0);
    }

    #[test]
    fn a_rate_that_is_a_little_off_is_noticed_too() {
        let mut pace = Pace::new(30.0, true);
        near(scale(&mut pace, constant(28, 10)), 30.0 / 28.0);
        assert!(pace.is_measured());
    }

    #[test]
    fn a_camera_in_the_dark_is_followed_there_and_back() {
        let mut pace = Pace::new(30.0, true);
        assert_eq!(scale(&mut pace, constant(30, 3)), 1.0);
        near(scale(&mut pace, constant(10, 3).map(|at| 3000 + at)), 3.0);
        assert_eq!(scale(&mut pace, constant(30, 3).map(|at| 6000 + at)), 1.0, "exactly");
    }

    #[test]
    fn a_variable_rate_has_its_mean() {
        let (mut pace, mut seed, mut at) = (Pace::new(30.0, false), 3, 0);
        for _ in 0..400 {
            at += 20 + noise(&mut seed) % 161;
            pace.picture(at * MS);
        }
        assert!((2.5..3.5).contains(&pace.scale()), "{}", pace.scale());
    }

    #[test]
    fn a_gap_is_no_rate() {
        for declared in [true, false] {
            let mut pace = Pace::new(30.0, declared);
            near(scale(&mut pace, constant(30, 5)), 1.0);
            for gap in 1..5 {
                near(scale(&mut pace, constant(30, 5).map(|at| gap * 10_000 + at)), 1.0);
            }
            near(scale(&mut pace, [60_000, 65_000, 65_033, 65_066]), 1.0);
            assert!(!declared || !pace.is_measured());
        }
    }

    #[test]
    fn a_seek_back_is_no_rate() {
        let mut pace = Pace::new(30.0, true);
        for _ in 0..5 {
            assert_eq!(scale(&mut pace, constant(30, 3)), 1.0);
        }
        // Times that stand still are no rate either.
        assert_eq!(scale(&mut pace, [3000; 3]), 1.0);
    }

    #[test]
    fn single_pictures_that_are_lost_change_nothing_and_many_do() {
        let mut pace = Pace::new(30.0, true);
        let lost = constant(30, 20).enumerate().filter(|(i, _)| i % 90 != 20);
        assert_eq!(scale(&mut pace, lost.map(|(_, at)| at)), 1.0);
        // Two of three are dropped on purpose.
        let third = constant(30, 5).step_by(3).map(|at| 20_000 + at);
        near(scale(&mut pace, third), 3.0);
        // One of four is lost.
        let lost = constant(30, 20).enumerate().filter(|(i, _)| i % 4 != 0);
        near(scale(&mut Pace::new(30.0, true), lost.map(|(_, at)| at)), 4.0 / 3.0);
    }
}
