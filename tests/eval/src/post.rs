// SPDX-License-Identifier: MPL-2.0

//! What a system says about every captured picture, by one rule for all systems: pictures that the server did not look at
//! get their result from those that it did.
//!
//! A result of a picture that was looked at is out when the model has answered. That of any other picture is out when the
//! picture itself would have reached the server (half a round trip after its capture), held or predicted, but not before
//! the answer it is made of; interpolated, with the answer to the later neighbour. Filling costs no bits and no time of
//! the model.
//!
//! Objects are matched by the distance of their centres from where they are expected, so that one that moves by more than
//! its size between two pictures is still followed.

#![forbid(unsafe_code)]

use crate::record::{Frame, Object, Origin};

/// How a picture that was not looked at gets its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The last result stands.
    Held,
    /// Objects move on as their centres did between the two last pictures looked at; their size and score are the last,
    /// new ones stay where they are.
    Predicted,
    /// Objects lie between the pictures looked at before and after; one that only one of both has belongs to the nearer.
    Interpolated,
}

impl Fill {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Held, Self::Predicted, Self::Interpolated];

    /// Name in files.
    pub fn id(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Predicted => "predicted",
            Self::Interpolated => "interpolated",
        }
    }
}

/// What is said about one captured picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Objects, in pixels of the source.
    pub objects: Vec<Object>,
    /// When it is out, milliseconds after the first capture.
    pub out_ms: f64,
    /// The newest picture looked at behind it.
    pub looked: usize,
}

/// When pictures are captured and heard of.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Captured pictures per second.
    pub rate: f64,
    /// Round trip, milliseconds.
    pub rtt_ms: f64,
}

impl Clock {
    /// Capture of picture `n`, milliseconds after the first.
    pub fn captured(&self, n: usize) -> f64 {
        n as f64 * 1000.0 / self.rate
    }

    fn heard(&self, n: usize) -> f64 {
        self.captured(n) + self.rtt_ms / 2.0
    }

    /// Age of the answer about picture `n`: when it is out, less the capture of the newest picture looked at behind it, or
    /// of `n` itself where that is older: an interpolated result waits for a picture that is newer than what it tells of.
    pub fn age(&self, n: usize, answer: &Answer) -> f64 {
        answer.out_ms - self.captured(answer.looked.min(n))
    }
}

/// An object that is followed.
#[derive(Clone, Debug)]
pub struct Moving {
    /// As it was last seen.
    pub object: Object,
    /// The picture in which it was.
    pub seen: usize,
    /// How its centre moves, pixels a captured picture; `None` for a new one.
    pub velocity: Option<[f32; 2]>,
}

fn centre(object: &Object) -> [f32; 2] {
    [object.x + object.w / 2.0, object.y + object.h / 2.0]
}

impl Moving {
    /// A new object.
    pub fn new(object: &Object, seen: usize) -> Self {
        Self {
            object: object.clone(),
            seen,
            velocity: None,
        }
    }

    /// The same object, seen again in a later picture.
    pub fn again(&self, object: &Object, seen: usize) -> Self {
        let gap = seen.saturating_sub(self.seen).max(1) as f32;
        let (from, to) = (centre(&self.object), centre(object));
        Self {
            object: object.clone(),
            seen,
            velocity: Some([(to[0] - from[0]) / gap, (to[1] - from[1]) / gap]),
        }
    }

    /// How far its centre will have moved in picture `n`.
    fn way(&self, n: usize) -> [f32; 2] {
        let gap = n.saturating_sub(self.seen) as f32;
        self.velocity.map_or([0.0; 2], |[x, y]| [x * gap, y * gap])
    }

    /// Distance of `other` in picture `n` from where this is expected, in sizes of this; `None` where it cannot be the same.
    fn distance(&self, other: &Object, n: usize) -> Option<f32> {
        let gap = n.saturating_sub(self.seen).max(1) as f32;
        let reach = match self.velocity {
            Some(_) => (0.25 * gap).clamp(0.5, 1.5),
            None => (0.5 * gap).clamp(1.0, 3.0),
        };
        let alike = |a: f32, b: f32| a <= 2.0 * b && b <= 2.0 * a;
        let own = &self.object;
        if !alike(own.w, other.w) || !alike(own.h, other.h) {
            return None;
        }
        let (at, way, to) = (centre(own), self.way(n), centre(other));
        let size = (own.w * own.h).max(1.0).sqrt();
        let distance = (at[0] + way[0] - to[0]).hypot(at[1] + way[1] - to[1]) / size;
        (distance <= reach).then_some(distance)
    }
}

/// Which of `before` each of `now` is, seen in picture `n`; `same` tells whether two labels are one class. The nearest pair
/// is matched first.
pub fn matched(before: &[Moving], now: &[Object], n: usize, same: impl Fn(&str, &str) -> bool) -> Vec<Option<usize>> {
    let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
    for (from, moving) in before.iter().enumerate() {
        for (to, object) in now.iter().enumerate() {
            if same(&moving.object.label, &object.label)
                && let Some(distance) = moving.distance(object, n)
            {
                pairs.push((distance, from, to));
            }
        }
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut taken = vec![false; before.len()];
    let mut out = vec![None; now.len()];
    for (_, from, to) in pairs {
        if !taken[from] && out[to].is_none() {
            taken[from] = true;
            out[to] = Some(from);
        }
    }
    out
}

/// The objects of picture `n`, the next looked at, with their motion since the one before.
fn followed(before: &[Moving], now: &[Object], n: usize) -> (Vec<Moving>, Vec<Option<usize>>) {
    let matches = matched(before, now, n, |a, b| a == b);
    let moving = now.iter().zip(&matches).map(|(object, from)| match from {
        Some(from) => before[*from].again(object, n),
        None => Moving::new(object, n),
    });
    (moving.collect(), matches)
}

/// An object moved on, cut off at the edges of the picture; `None` where nothing of it is left.
fn moved(moving: &Moving, n: usize, size: (u32, u32)) -> Option<Object> {
    let (way, o) = (moving.way(n), &moving.object);
    if way == [0.0; 2] {
        return Some(o.clone());
    }
    let (left, top) = ((o.x + way[0]).max(0.0), (o.y + way[1]).max(0.0));
    let right = (o.x + way[0] + o.w).min(size.0 as f32);
    let bottom = (o.y + way[1] + o.h).min(size.1 as f32);
    (right - left >= 1.0 && bottom - top >= 1.0).then(|| Object {
        x: left,
        y: top,
        w: right - left,
        h: bottom - top,
        ..o.clone()
    })
}

/// Objects `share` of the way from `a` to `b`; `matches` says which of `a` each of `b` is.
fn between(a: &[Moving], b: &[Moving], matches: &[Option<usize>], share: f32) -> Vec<Object> {
    let mix = |x: f32, y: f32| x + (y - x) * share;
    let mut out = Vec::new();
    let mut ends = vec![true; a.len()];
    for (to, from) in b.iter().zip(matches) {
        match from {
            Some(from) => {
                ends[*from] = false;
                let (x, y) = (&a[*from].object, &to.object);
                out.push(Object {
                    score: mix(x.score, y.score),
                    x: mix(x.x, y.x),
                    y: mix(x.y, y.y),
                    w: mix(x.w, y.w),
                    h: mix(x.h, y.h),
                    ..x.clone()
                });
            }
            None if share >= 0.5 => out.push(to.object.clone()),
            None => {}
        }
    }
    if share < 0.5 {
        let gone = a.iter().zip(&ends).filter(|(_, ends)| **ends);
        out.extend(gone.map(|(moving, _)| moving.object.clone()));
    }
    out
}

/// A picture looked at, and what it says.
struct Look {
    n: usize,
    out_ms: f64,
    objects: Vec<Moving>,
    /// Which object of the look before each one is.
    matches: Vec<Option<usize>>,
}

/// Answers about all captured pictures. `out` says when the answer to each is at the server, where it was sent. `None` stands
/// before the first picture looked at, and interpolated behind the last, whose later neighbour never comes, only where there
/// is no answer at all.
pub fn answers(
    frames: &[Frame],
    out: &[Option<f64>],
    size: (u32, u32),
    clock: &Clock,
    fill: Fill,
) -> Vec<Option<Answer>> {
    let mut looks: Vec<Look> = Vec::new();
    for (n, frame) in frames.iter().enumerate() {
        let Some(out_ms) = out
            .get(n)
            .copied()
            .flatten()
            .filter(|_| frame.origin == Origin::Inferred)
        else {
            continue;
        };
        let before = looks.last().map_or(&[][..], |look| &look.objects);
        let (objects, matches) = followed(before, &frame.objects, n);
        looks.push(Look {
            n,
            out_ms,
            objects,
            matches,
        });
    }
    let seen = |objects: &[Moving]| objects.iter().map(|m| m.object.clone()).collect::<Vec<_>>();
    (0..frames.len())
        .map(|n| {
            let after = looks.partition_point(|look| look.n <= n);
            let last = looks.get(after.checked_sub(1)?)?;
            let held = |objects| Answer {
                objects,
                out_ms: last.out_ms.max(clock.heard(n)),
                looked: last.n,
            };
            if last.n == n {
                return Some(Answer {
                    out_ms: last.out_ms,
                    ..held(seen(&last.objects))
                });
            }
            Some(match (fill, looks.get(after)) {
                (Fill::Held, _) => held(seen(&last.objects)),
                (Fill::Interpolated, Some(next)) => Answer {
                    objects: between(
                        &last.objects,
                        &next.objects,
                        &next.matches,
                        (n - last.n) as f32 / (next.n - last.n) as f32,
                    ),
                    out_ms: next.out_ms.max(last.out_ms),
                    looked: next.n,
                },
                // Behind the last picture looked at there is nothing to lie between.
                (Fill::Predicted | Fill::Interpolated, _) => {
                    held(last.objects.iter().filter_map(|m| moved(m, n, size)).collect())
                }
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::car;

    const SIZE: (u32, u32) = (1000, 1000);
    const CLOCK: Clock = Clock {
        rate: 10.0,
        rtt_ms: 100.0,
    };

    /// Pictures of which those with objects were looked at, answered 70 ms after their capture.
    fn answered(pictures: &[Option<Vec<Object>>], fill: Fill) -> Vec<Option<Answer>> {
        let frames: Vec<Frame> = pictures
            .iter()
            .map(|objects| Frame {
                origin: match objects {
                    Some(_) => Origin::Inferred,
                    None => Origin::Held,
                },
                objects: objects.clone().unwrap_or_default(),
                ..Frame::default()
            })
            .collect();
        let out: Vec<_> = pictures
            .iter()
            .enumerate()
            .map(|(n, p)| p.as_ref().map(|_| CLOCK.captured(n) + 70.0))
            .collect();
        answers(&frames, &out, SIZE, &CLOCK, fill)
    }

    fn places(answers: &[Option<Answer>]) -> Vec<Vec<f32>> {
        answers
            .iter()
            .map(|a| {
                a.as_ref()
                    .map_or(Vec::new(), |a| a.objects.iter().map(|o| o.x).collect())
            })
            .collect()
    }

    #[test]
    fn objects_that_move_by_more_than_their_size_are_followed() {
        let pictures = [
            Some(vec![car(100.0)]),
            None,
            None,
            Some(vec![car(130.0)]),
            None,
            None,
            Some(vec![car(160.0)]),
            None,
        ];
        assert_eq!(
            places(&answered(&pictures, Fill::Held)),
            [[100.0], [100.0], [100.0], [130.0], [130.0], [130.0], [160.0], [160.0]]
        );
        assert_eq!(
            places(&answered(&pictures, Fill::Predicted)),
            [[100.0], [100.0], [100.0], [130.0], [140.0], [150.0], [160.0], [170.0]]
        );
        assert_eq!(
            places(&answered(&pictures, Fill::Interpolated)),
            [[100.0], [110.0], [120.0], [130.0], [140.0], [150.0], [160.0], [170.0]]
        );
    }

    #[test]
    fn new_objects_are_held_and_belong_to_the_nearer_neighbour() {
        let pictures = [
            Some(vec![car(100.0)]),
            None,
            None,
            Some(vec![car(100.0), car(700.0)]),
            None,
        ];
        let predicted = places(&answered(&pictures, Fill::Predicted));
        assert_eq!(predicted[2], [100.0]);
        assert_eq!(predicted[4], [100.0, 700.0]);
        let between = places(&answered(&pictures, Fill::Interpolated));
        assert_eq!((&between[1][..], &between[2][..]), (&[100.0][..], &[100.0, 700.0][..]));
    }

    #[test]
    fn what_leaves_the_picture_is_cut_off_and_gone() {
        let pictures = [Some(vec![car(960.0)]), Some(vec![car(970.0)]), None, None, None];
        let answers = answered(&pictures, Fill::Predicted);
        let widths: Vec<f32> = answers.iter().flatten().flat_map(|a| &a.objects).map(|o| o.w).collect();
        // At 980 it is whole, at 990 half outside, at 1000 gone.
        assert_eq!(widths, [20.0, 20.0, 20.0, 10.0]);
    }

    #[test]
    fn the_age_is_counted_from_what_was_looked_at_and_interpolation_waits() {
        let pictures = [Some(vec![car(0.0)]), None, None, Some(vec![car(0.0)]), None];
        let ages = |fill| -> Vec<f64> {
            let all = answered(&pictures, fill);
            all.iter()
                .enumerate()
                .map(|(n, a)| CLOCK.age(n, a.as_ref().unwrap()).round())
                .collect()
        };
        // Half a round trip behind each capture, less the capture looked at.
        assert_eq!(ages(Fill::Held), [70.0, 150.0, 250.0, 70.0, 150.0]);
        assert_eq!(ages(Fill::Predicted), ages(Fill::Held));
        // The answer to picture 3 is out at 370.
        assert_eq!(ages(Fill::Interpolated), [70.0, 270.0, 170.0, 70.0, 150.0]);
    }

    #[test]
    fn nothing_is_said_before_the_first_look() {
        let pictures = [None, Some(vec![car(0.0)]), None];
        for fill in Fill::ALL {
            let answers = answered(&pictures, fill);
            assert!(answers[0].is_none() && answers[1].is_some() && answers[2].is_some());
        }
        assert!(answered(&[], Fill::Held).is_empty());
    }
}
