// SPDX-License-Identifier: MPL-2.0

//! Follows objects over the pictures that are looked at, and predicts where they are in any captured picture.

use crate::matching::{self, Expected, Seen};
use crate::model::BoundingBox;

/// Score from which on its absence from another picture is no flicker around a threshold.
const SURE: f32 = 0.4;
/// Score below which a detection is hardly more than nothing, and is not followed.
const FLOOR: f32 = 0.1;
/// Least overlap of a prediction that is right (intersection over union).
const RIGHT: f32 = 0.5;
/// A new object moves as its nearest neighbour, which is at most so many of its sides away.
const NEIGHBOUR: f32 = 3.0;
/// Captured pictures after which earlier ones tell nothing about motion.
pub(super) const MAX_GAP: u64 = 64;

/// A detection to follow. Pass weak ones too: an object that is sure now was often weaker before.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// Its box, and its kind: the class, or one for all vehicles, whose classes models confuse.
    pub seen: Seen,
    /// Its score, 0 to 1.
    pub score: f32,
}

/// An object of the last picture.
#[derive(Clone, Copy, Debug)]
struct Followed {
    sighting: Sighting,
    /// Pixels per captured picture, rightward and downward.
    velocity: (f32, f32),
    /// It was found in the picture before, too.
    is_known: bool,
}

/// How a prediction compares with what was then found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Captured pictures between the two.
    pub gap: u64,
    /// Sure objects that were found or had been before.
    pub objects: u32,
    /// Of those, found elsewhere than predicted.
    pub moved: u32,
    /// Of those, not there before.
    pub born: u32,
    /// Of those, not there any more.
    pub gone: u32,
}

impl Check {
    /// Wrong results if the prediction had been given out: a missing object or one too many counts half as much as one at
    /// a wrong place, which is both.
    pub fn errors(&self) -> f32 {
        self.moved as f32 + (self.born + self.gone) as f32 / 2.0
    }
}

/// The objects of the last picture and their velocities.
#[derive(Clone, Debug, Default)]
pub struct Tracks {
    frame: Option<u64>,
    objects: Vec<Followed>,
    /// The object of each detection that was given; `None` where it is not followed.
    places: Vec<Option<usize>>,
}

impl Tracks {
    /// Forgets everything.
    pub fn reset(&mut self) {
        self.frame = None;
        self.objects.clear();
        self.places.clear();
    }

    /// Velocity of the detection of this index in the last call of [`Self::update`], in pixels per captured picture; zero
    /// where it is not followed.
    pub fn velocity(&self, index: usize) -> (f32, f32) {
        let object = self
            .places
            .get(index)
            .copied()
            .flatten()
            .and_then(|place| self.objects.get(place));
        object.map_or((0.0, 0.0), |object| object.velocity)
    }

    /// As [`Self::velocity`], where the object was found in the picture before, too.
    pub fn known_velocity(&self, index: usize) -> Option<(f32, f32)> {
        let object = self.objects.get(self.places.get(index).copied().flatten()?)?;
        object.is_known.then_some(object.velocity)
    }

    /// Takes the objects of captured picture number `frame`. Returns how the prediction for it compares; `None` without a
    /// related earlier picture: none, one not before it, or one more than 64 captured pictures before it.
    pub fn update(&mut self, frame: u64, detections: &[Sighting]) -> Option<Check> {
        let followed = |sighting: &&Sighting| sighting.score >= FLOOR;
        let sightings: Vec<Sighting> = detections.iter().filter(followed).copied().collect();
        let mut next = 0..sightings.len();
        let place = |sighting| if followed(&sighting) { next.next() } else { None };
        self.places = detections.iter().map(place).collect();
        let gap = self.frame.and_then(|before| frame.checked_sub(before));
        let gap = gap.filter(|gap| (1..=MAX_GAP).contains(gap));
        let before = std::mem::take(&mut self.objects);
        self.frame = Some(frame);
        let Some(gap) = gap else {
            let found = |&sighting| Followed {
                sighting,
                velocity: (0.0, 0.0),
                is_known: false,
            };
            self.objects = sightings.iter().map(found).collect();
            return None;
        };
        let expected: Vec<Expected> = before.iter().map(|object| object.expected(gap)).collect();
        let now: Vec<Seen> = sightings.iter().map(|s| s.seen).collect();
        let matched = matching::pair(&now, &expected);
        self.objects = follow(&sightings, &before, &matched, gap);
        Some(check(&sightings, &before, &expected, &matched, gap))
    }
}

impl Followed {
    fn expected(&self, gap: u64) -> Expected {
        let mut seen = self.sighting.seen;
        seen.bounding_box = moved(&seen.bounding_box, self.velocity, gap as f32);
        Expected {
            seen,
            adrift: if self.is_known { 0 } else { gap as u32 },
        }
    }
}

/// A box after `time` captured pictures.
pub fn moved(b: &BoundingBox, (vx, vy): (f32, f32), time: f32) -> BoundingBox {
    BoundingBox {
        x1: b.x1 + vx * time,
        y1: b.y1 + vy * time,
        x2: b.x2 + vx * time,
        y2: b.y2 + vy * time,
    }
}

/// Gives each object the velocity of its centre since the picture before, and new ones that of a neighbour.
fn follow(sightings: &[Sighting], before: &[Followed], matched: &[Option<usize>], gap: u64) -> Vec<Followed> {
    let followed = |(sighting, matched): (&Sighting, &Option<usize>)| {
        let earlier = matched.and_then(|index| before.get(index));
        let velocity = earlier.map_or((0.0, 0.0), |earlier| {
            let from = &earlier.sighting.seen.bounding_box;
            let (dx, dy) = matching::shift(from, &sighting.seen.bounding_box);
            (dx / gap as f32, dy / gap as f32)
        });
        Followed {
            sighting: *sighting,
            velocity,
            is_known: earlier.is_some(),
        }
    };
    let mut objects: Vec<Followed> = sightings.iter().zip(matched).map(followed).collect();
    let velocities: Vec<_> = objects
        .iter()
        .map(|object| (!object.is_known).then(|| neighbour(object, &objects)).flatten())
        .collect();
    for (object, velocity) in objects.iter_mut().zip(velocities) {
        object.velocity = velocity.unwrap_or(object.velocity);
    }
    objects
}

/// Velocity of the nearest known object of the same kind.
fn neighbour(of: &Followed, objects: &[Followed]) -> Option<(f32, f32)> {
    let seen = &of.sighting.seen;
    let reach = NEIGHBOUR * seen.bounding_box.area().sqrt();
    let distance = |other: &Followed| {
        let (dx, dy) = matching::shift(&seen.bounding_box, &other.sighting.seen.bounding_box);
        dx.hypot(dy)
    };
    let others = objects
        .iter()
        .filter(|other| other.is_known && other.sighting.seen.kind == seen.kind);
    let (distance, nearest) = others
        .map(|other| (distance(other), other))
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    (distance < reach).then_some(nearest.velocity)
}

fn check(
    sightings: &[Sighting],
    before: &[Followed],
    expected: &[Expected],
    matched: &[Option<usize>],
    gap: u64,
) -> Check {
    let mut check = Check {
        gap,
        ..Check::default()
    };
    let mut found = vec![false; before.len()];
    for (sighting, matched) in sightings.iter().zip(matched) {
        if let Some(index) = *matched {
            found[index] = true;
        }
        if sighting.score < SURE {
            continue;
        }
        check.objects += 1;
        match matched.map(|index| &expected[index].seen.bounding_box) {
            None => check.born += 1,
            Some(there) => check.moved += u32::from(sighting.seen.bounding_box.iou(there) < RIGHT),
        }
    }
    let lost = before.iter().zip(found);
    check.gone = lost
        .filter(|(object, found)| !found && object.sighting.score >= SURE)
        .count() as u32;
    check.objects += check.gone;
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32, score: f32) -> Sighting {
        let bounding_box = BoundingBox {
            x1: x,
            y1: 50.0,
            x2: x + 20.0,
            y2: 70.0,
        };
        Sighting {
            seen: Seen { bounding_box, kind: 2 },
            score,
        }
    }

    #[test]
    fn an_object_that_moves_by_more_than_its_size_is_followed() {
        let mut tracks = Tracks::default();
        assert_eq!(tracks.update(10, &[at(0.0, 0.9)]), None);
        let first = tracks.update(14, &[at(30.0, 0.9)]).unwrap();
        assert_eq!(
            (first.gap, first.objects, first.moved, first.born),
            (4, 1, 1, 0),
            "held"
        );
        assert_eq!(tracks.velocity(0), (7.5, 0.0));
        let second = tracks.update(18, &[at(60.0, 0.9)]).unwrap();
        assert_eq!((second.objects, second.errors()), (1, 0.0), "predicted");
    }

    #[test]
    fn births_and_deaths_of_sure_objects_are_counted_and_flicker_is_not() {
        let mut tracks = Tracks::default();
        tracks.update(1, &[at(0.0, 0.9), at(200.0, 0.2)]);
        let flicker = tracks.update(2, &[at(0.0, 0.15), at(200.0, 0.5)]).unwrap();
        assert_eq!((flicker.objects, flicker.errors()), (1, 0.0));
        let other = tracks.update(3, &[at(400.0, 0.9)]).unwrap();
        assert_eq!((other.objects, other.born, other.gone, other.errors()), (2, 1, 1, 1.0));
    }

    #[test]
    fn a_new_object_moves_as_its_neighbour() {
        let mut tracks = Tracks::default();
        tracks.update(1, &[at(0.0, 0.9)]);
        tracks.update(3, &[at(10.0, 0.9), at(50.0, 0.9), at(300.0, 0.9)]);
        assert_eq!(tracks.velocity(1), (5.0, 0.0));
        assert_eq!(
            (tracks.known_velocity(0), tracks.known_velocity(1)),
            (Some((5.0, 0.0)), None)
        );
        assert_eq!(tracks.velocity(2), (0.0, 0.0), "too far away");
        assert_eq!(tracks.velocity(3), (0.0, 0.0), "no such object");
    }

    #[test]
    fn numbers_that_stand_still_go_back_or_leap_end_the_history() {
        for next in [10, 3, 10 + MAX_GAP + 1] {
            let mut tracks = Tracks::default();
            tracks.update(9, &[at(0.0, 0.9)]);
            tracks.update(10, &[at(5.0, 0.9)]);
            assert_eq!(tracks.update(next, &[at(10.0, 0.9)]), None, "frame {next}");
            assert_eq!(tracks.velocity(0), (0.0, 0.0));
        }
    }
}
