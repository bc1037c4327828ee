// SPDX-License-Identifier: MPL-2.0

//! Chooses how many of the captured pictures are worth sending: every n-th.
//!
//! The cost of sending fewer is measured on the pictures that come: each is predicted from those before it, and from every
//! second one before it, and what is then found tells how many results such a prediction gets wrong over that distance. Between
//! sent pictures results are of all ages up to the interval, so that their mean error is the cost of the interval. Against it
//! stands what the bits saved are worth in accuracy elsewhere: at a finer quantizer. No truth is needed. On five clips of
//! streets, motorways and people the estimate is within 0.01 of the F1 that is really lost, up to every fifth picture.

use std::time::Duration;

use super::tracks::{Check, Sighting, Tracks};

/// Largest interval.
pub const MAX_INTERVAL: u8 = 5;
/// Longest time between two pictures.
const LONGEST: Duration = Duration::from_millis(200);
/// F1 that the bits saved by every n-th picture are worth, where the slope of F1 over the logarithm of bits is 0.065: 0.71,
/// 0.56 and 0.43 of the bits remain with every second, third and fifth picture. What undecided objects lose because quality
/// for them comes later is taken off.
const WORTH: [f32; MAX_INTERVAL as usize + 1] = [0.0, 0.0, 0.022, 0.034, 0.04, 0.044];
/// The slope by the quantizer outside regions, as a multiple of that: on the curves of the same clips, of one quantizer and
/// of regions finer than the rest, it is about 0.04 at 24, 0.055 at 28, 0.07 at 32, 0.085 at 36, 0.1 at 40 and 0.19 at 44.
/// The quantizer without slope, and the one beyond it where it is 0.065.
const FLAT_QP: f32 = 12.0;
const STEEP_QPS: f32 = 18.0;
const LEAST_SLOPE: f32 = 0.5;
/// Time in which evidence loses half of its weight.
const HALF_LIFE: Duration = Duration::from_secs(2);
/// F1 by which another interval must be better.
const MARGIN: f32 = 0.0025;
/// One picture alone raises the rate at once where it shows a cost so many times as high as the bits saved are worth.
const ALARM: f32 = 4.0;
/// Time between two steps to a larger interval.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same after the interval had to be reduced because objects came or went. In a still scene that is flicker, which would
/// raise and lower the rate again and again; where objects turn or start, their new velocity is known at once.
const CAUTION: Duration = Duration::from_secs(5);
/// Time without a reduction after which no caution is left.
const CALM: Duration = Duration::from_secs(30);
/// Objects, weighted by age, from which on there is evidence.
const KNOWN: f32 = 0.5;
/// Objects, weighted by age, from which on evidence bounds what is remembered.
const FRESH: f32 = 60.0;
/// Distances beyond this many captured pictures are no evidence.
const DISTANCES: usize = 2 * MAX_INTERVAL as usize + 1;

/// Errors and objects of predictions over one distance, weighted by age.
#[derive(Clone, Copy, Debug, Default)]
struct Evidence {
    errors: f32,
    objects: f32,
}

/// What the camera says about the interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actual {
    /// The interval in force.
    pub interval: u8,
    /// Something else than the wish decides it.
    pub bounded: bool,
    /// Quantizer outside regions; `None` where it is not known.
    pub quantizer: Option<u8>,
}

/// A picture that was looked at.
#[derive(Clone, Copy, Debug)]
pub struct Looked<'a> {
    /// Its number among the captured ones.
    pub frame: u64,
    /// Time from one captured picture to the next.
    pub frame_time: Duration,
    /// Its objects.
    pub sightings: &'a [Sighting],
    /// What the camera said last.
    pub actual: Actual,
}

/// Chooses the interval for one stream.
#[derive(Clone, Debug)]
pub struct Chooser {
    tracks: Tracks,
    /// As if only every second picture had been sent: the even ones, and the odd ones.
    sparse: [Tracks; 2],
    turn: usize,
    /// By the distance in captured pictures.
    evidence: [Evidence; DISTANCES],
    /// Captured pictures from the last picture but one to the last.
    distance: usize,
    last: Option<u64>,
    interval: u8,
    /// What bits are worth at the quantizer in force, as a multiple of [`WORTH`].
    scale: f32,
    /// Captured time since the last change.
    since_change: Duration,
    /// Captured time since the last reduction.
    since_reduction: Duration,
    /// Objects came or went at that time.
    cautious: bool,
    changes: u64,
}

impl Default for Chooser {
    fn default() -> Self {
        Self {
            tracks: Tracks::default(),
            sparse: Default::default(),
            turn: 0,
            evidence: Default::default(),
            distance: 0,
            last: None,
            interval: 1,
            scale: 1.0,
            since_change: Duration::ZERO,
            since_reduction: CALM,
            cautious: false,
            changes: 0,
        }
    }
}

impl Chooser {
    /// Begins anew at full rate: at a new stream, a flush, or after damaged pictures.
    pub fn reset(&mut self) {
        let changes = self.changes + u64::from(self.interval != 1);
        *self = Self {
            changes,
            ..Self::default()
        };
    }

    /// Forgets the objects and keeps the interval: the next picture is not related to the last one.
    pub fn interrupt(&mut self) {
        self.tracks.reset();
        self.sparse.iter_mut().for_each(Tracks::reset);
        self.last = None;
    }

    /// The objects of the last picture.
    pub fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    /// Changes of the interval so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Takes a picture. Returns the interval that is wanted now: of the captured pictures every n-th, 1 to [`MAX_INTERVAL`].
    pub fn look(&mut self, looked: &Looked<'_>) -> u8 {
        let Looked { frame, sightings, .. } = *looked;
        let passed = self.last.map_or(0, |last| frame.saturating_sub(last));
        self.last = Some(frame);
        let passed = looked
            .frame_time
            .saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX));
        self.age(passed);
        self.scale = looked.actual.quantizer.map_or(1.0, scale);
        let check = self.tracks.update(frame, sightings);
        let sparse = self.sparse[self.turn].update(frame, sightings);
        self.turn = 1 - self.turn;
        self.distance = check.map_or(0, |check| usize::try_from(check.gap).unwrap_or(usize::MAX / 2));
        [check, sparse].into_iter().flatten().for_each(|check| self.add(check));
        self.decide(check, longest(looked.frame_time), looked.actual);
        self.interval
    }

    /// Lets evidence lose weight.
    fn age(&mut self, passed: Duration) {
        let keep = 0.5f32.powf(passed.as_secs_f32() / HALF_LIFE.as_secs_f32());
        for evidence in &mut self.evidence {
            evidence.errors *= keep;
            evidence.objects *= keep;
        }
        self.since_change = self.since_change.saturating_add(passed);
        self.since_reduction = self.since_reduction.saturating_add(passed);
    }

    fn add(&mut self, check: Check) {
        let distance = usize::try_from(check.gap).unwrap_or(usize::MAX);
        if let Some(evidence) = self.evidence.get_mut(distance) {
            evidence.errors += check.errors();
            evidence.objects += check.objects as f32;
        }
    }

    /// Share of the results that are wrong `age` captured pictures after the one looked at. Most distances were seen when the
    /// scene was another. Errors grow with the distance, and at most in proportion to it: that bounds them by those of the
    /// two distances that are seen now.
    fn error(&self, age: usize) -> f32 {
        let remembered = self.remembered(age);
        let share = |distance: usize| {
            let evidence = self
                .evidence
                .get(distance)
                .filter(|evidence| evidence.objects > FRESH)?;
            Some(evidence.errors / evidence.objects)
        };
        let Some(near) = share(self.distance).filter(|_| self.distance > 0) else {
            return remembered;
        };
        let part = |distance: usize| age as f32 / distance as f32;
        if age <= self.distance {
            return remembered.clamp(near * part(self.distance), near);
        }
        let beyond = 2 * self.distance;
        match share(beyond).map(|far| far.max(near)) {
            Some(far) if age <= beyond => near + (far - near) * (part(self.distance) - 1.0),
            Some(far) => remembered.clamp(far, far * part(beyond)),
            None => remembered.clamp(near, near * part(self.distance)),
        }
    }

    /// The same by all evidence, however old: between the distances with evidence on a straight line, which begins without
    /// errors at age 0 and goes on beyond the last.
    fn remembered(&self, age: usize) -> f32 {
        let known = self.evidence.iter().enumerate().skip(1);
        let known = known.filter(|(_, evidence)| evidence.objects > KNOWN);
        let (mut from, mut low) = (0, 0.0);
        for (to, evidence) in known {
            let high = evidence.errors / evidence.objects;
            if age <= to {
                return low + (high - low) * (age - from) as f32 / (to - from) as f32;
            }
            (from, low) = (to, high);
        }
        if from == 0 { 0.0 } else { low * age as f32 / from as f32 }
    }

    /// F1 that the bits saved by this interval are worth, less the F1 that it costs.
    fn value(&self, interval: u8) -> f32 {
        let n = usize::from(interval);
        let cost = (1..n).map(|age| self.error(age)).sum::<f32>() / n as f32;
        self.worth(interval) - cost
    }

    fn decide(&mut self, check: Option<Check>, longest: u8, actual: Actual) {
        if actual.bounded {
            // No more than one step beyond what is in force: what bounds it may go at any time.
            self.set(self.interval.min(actual.interval.saturating_add(1)));
        }
        self.set(self.interval.min(longest));
        let cautious = check.is_none_or(|check| check.born + check.gone >= check.moved);
        if check.is_some_and(|check| self.alarms(&check)) {
            return self.reduce(1, cautious);
        }
        let here = self.value(self.interval);
        let better = |interval: &u8| self.value(*interval) > here + MARGIN;
        let by_value = |a: &u8, b: &u8| self.value(*a).total_cmp(&self.value(*b));
        if let Some(best) = (1..self.interval).filter(better).max_by(by_value) {
            return self.reduce(best, cautious);
        }
        let cautious = self.cautious && self.since_reduction < CALM;
        let patience = if cautious { CAUTION } else { PATIENCE };
        let reached = actual.interval >= self.interval;
        if reached && self.since_change >= patience {
            // No further than predictions were checked.
            let most = longest.min(self.checked().max(self.interval.saturating_add(1)));
            let best = (self.interval + 1..=most).filter(better).max_by(by_value);
            self.set(best.unwrap_or(self.interval));
        }
    }

    /// The largest distance with evidence.
    fn checked(&self) -> u8 {
        let known = |evidence: &Evidence| evidence.objects > KNOWN;
        let distance = self.evidence.iter().rposition(known).unwrap_or(0);
        u8::try_from(distance).unwrap_or(MAX_INTERVAL)
    }

    fn reduce(&mut self, interval: u8, cautious: bool) {
        self.cautious = cautious;
        self.since_reduction = Duration::ZERO;
        self.set(interval);
    }

    /// Whether one picture alone shows that the interval is far too long.
    fn alarms(&self, check: &Check) -> bool {
        if self.interval == 1 || check.objects == 0 {
            return false;
        }
        let wrong = check.errors() / check.objects as f32;
        let cost = wrong * f32::from(self.interval - 1) / (2.0 * check.gap as f32);
        cost > ALARM * self.worth(self.interval)
    }

    /// F1 that the bits saved by an interval are worth.
    fn worth(&self, interval: u8) -> f32 {
        self.scale * WORTH.get(usize::from(interval)).copied().unwrap_or(0.0)
    }

    fn set(&mut self, interval: u8) {
        if interval != self.interval {
            self.interval = interval;
            self.since_change = Duration::ZERO;
            self.changes += 1;
        }
    }
}

/// What bits are worth at this quantizer, as a multiple of [`WORTH`].
fn scale(quantizer: u8) -> f32 {
    ((f32::from(quantizer) - FLAT_QP) / STEEP_QPS).max(LEAST_SLOPE)
}

/// The largest interval at this frame duration.
fn longest(frame_time: Duration) -> u8 {
    // A little more, for frame durations that are not whole nanoseconds.
    let most = (LONGEST + LONGEST / 50).as_nanos() / frame_time.as_nanos().max(1);
    u8::try_from(most).unwrap_or(u8::MAX).clamp(1, MAX_INTERVAL)
}
