// SPDX-License-Identifier: MPL-2.0

//! How long it takes until a new object is reported.
//!
//! An object is new where the reference finds one that it has not found in the pictures before, and then finds it in
//! [`LASTS`] pictures in a row. It is reported by the first result that is not older than it, which has a box of its class
//! over it; vehicles are one class, because detectors change their minds among them. One that is never reported counts as
//! [`NEVER_MS`], and so does one that is reported later.

#![forbid(unsafe_code)]

use dds_tests::score;

use crate::post::{Answer, Clock, Moving, matched};
use crate::record::{Frame, Object};
use crate::score::overlap;

/// Pictures in a row that make an object of a find.
pub const LASTS: usize = 10;
/// Pictures for which one that is not found is remembered, so that it is not new when it comes back.
const REMEMBERED: usize = 10;
/// What an object that is never reported counts as, milliseconds.
pub const NEVER_MS: f64 = 2000.0;
/// Overlap at which a result reports an object.
const IOU: f32 = 0.5;

/// A new object.
#[derive(Clone, Debug, PartialEq)]
pub struct Born {
    /// Its first picture.
    pub first: usize,
    /// Where it is in that and each of the pictures behind it, as long as it is found in every one.
    pub places: Vec<Object>,
}

fn same(a: &str, b: &str) -> bool {
    score::group(a) == score::group(b)
}

/// The new objects of a reference. Those of its first picture are not new: the stream begins there.
pub fn births(reference: &[Frame]) -> Vec<Born> {
    struct Track {
        moving: Moving,
        born: Option<usize>,
    }
    let mut tracks: Vec<Track> = Vec::new();
    let mut all: Vec<Born> = Vec::new();
    for (n, frame) in reference.iter().enumerate() {
        let sure = frame.objects.iter().filter(|o| o.score >= score::REFERENCE_SCORE);
        let now: Vec<Object> = sure.cloned().collect();
        tracks.retain(|t| n - t.moving.seen <= REMEMBERED);
        let known: Vec<Moving> = tracks.iter().map(|t| t.moving.clone()).collect();
        for (object, from) in now.iter().zip(matched(&known, &now, n, same)) {
            let Some(track) = from.map(|from| &mut tracks[from]) else {
                let born = (n > 0).then_some(all.len());
                tracks.push(Track {
                    moving: Moving::new(object, n),
                    born,
                });
                if born.is_some() {
                    all.push(Born {
                        first: n,
                        places: vec![object.clone()],
                    });
                }
                continue;
            };
            let born = track.born.and_then(|born| all.get_mut(born));
            if let Some(born) = born.filter(|born| born.first + born.places.len() == n) {
                born.places.push(object.clone());
            }
            track.moving = track.moving.again(object, n);
        }
    }
    all.retain(|born| born.places.len() >= LASTS);
    all
}

/// Milliseconds from the capture of each new object's first picture to the result that reports it, at most [`NEVER_MS`].
pub fn delays(born: &[Born], answers: &[Option<Answer>], clock: &Clock) -> Vec<f64> {
    let reports = |object: &Object, answer: &Answer| {
        answer
            .objects
            .iter()
            .any(|o| o.score >= score::REFERENCE_SCORE && same(&o.label, &object.label) && overlap(o, object) >= IOU)
    };
    born.iter()
        .map(|born| {
            let later = answers.iter().skip(born.first).zip(&born.places);
            later
                .filter_map(|(answer, object)| Some((answer.as_ref()?, object)))
                .filter(|(answer, object)| answer.looked >= born.first && reports(object, answer))
                .map(|(answer, _)| answer.out_ms - clock.captured(born.first))
                .fold(NEVER_MS, f64::min)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::car;

    const CLOCK: Clock = Clock {
        rate: 10.0,
        rtt_ms: 100.0,
    };

    /// Pictures with a car that was always there, and one at 500 in those that `new` holds of.
    fn reference(pictures: usize, new: impl Fn(usize) -> bool) -> Vec<Frame> {
        (0..pictures)
            .map(|n| Frame {
                objects: [Some(car(2.0 * n as f32)), new(n).then(|| car(500.0))]
                    .into_iter()
                    .flatten()
                    .collect(),
                ..Frame::default()
            })
            .collect()
    }

    #[test]
    fn only_what_comes_and_lasts_is_new() {
        let firsts = |new: &dyn Fn(usize) -> bool| -> Vec<usize> {
            births(&reference(40, new)).iter().map(|b| b.first).collect()
        };
        assert!(firsts(&|_| true).is_empty());
        assert_eq!(firsts(&|n| n >= 5), [5]);
        assert!(firsts(&|n| (5..14).contains(&n)).is_empty());
        assert!(firsts(&|n| n > 31).is_empty());
        // Not found for a while, it is not new when it is found again.
        assert!(firsts(&|n| !(5..12).contains(&n)).is_empty());
        assert_eq!(firsts(&|n| !(5..25).contains(&n)), [25]);
    }

    #[test]
    fn the_first_result_that_is_no_older_reports_and_none_counts_two_seconds() {
        let reference = reference(40, |n| n >= 5);
        let born = births(&reference);
        let say = |from: usize, looked: &dyn Fn(usize) -> usize| -> Vec<Option<Answer>> {
            (0..40)
                .map(|n| {
                    Some(Answer {
                        objects: if n >= from { vec![car(500.0)] } else { Vec::new() },
                        out_ms: CLOCK.captured(n) + 60.0,
                        looked: looked(n),
                    })
                })
                .collect()
        };
        assert_eq!(delays(&born, &say(5, &|n| n), &CLOCK), [60.0]);
        assert_eq!(delays(&born, &say(8, &|n| n), &CLOCK), [360.0]);
        // A box that was there by chance before the object was looked at is no report.
        assert_eq!(delays(&born, &say(0, &|n| n / 3 * 3), &CLOCK), [160.0]);
        assert_eq!(delays(&born, &say(99, &|n| n), &CLOCK), [NEVER_MS]);
        assert_eq!(delays(&born, &[], &CLOCK), [NEVER_MS]);
    }
}
