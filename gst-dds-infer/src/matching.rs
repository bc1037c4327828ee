// SPDX-License-Identifier: MPL-2.0

//! Finds the boxes of one picture again in a later one.
//!
//! Between pictures that are sent seldom an object moves by more than its own size, so overlap alone is no measure: boxes are
//! matched by the distance of their centres relative to their size, each to one other.

#![forbid(unsafe_code)]

use crate::model::BoundingBox;

/// Most boxes of a picture that are matched, the first ones given; bounds the pairs that are compared.
pub const MAX_BOXES: usize = 300;

/// Largest distance of two centres, in sides of the smaller box.
const REACH: f32 = 1.0;
/// Growth of [`REACH`] per captured picture where the velocity is unknown.
const REACH_PER_PICTURE: f32 = 0.25;
/// Largest ratio of two widths or two heights.
const SIZES: f32 = 1.6;
/// Weight of the logarithm of these ratios against a distance of one side.
const SHAPE: f32 = 0.5;

/// A box of a picture.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Where it is.
    pub bounding_box: BoundingBox,
    /// Only boxes of one kind are matched.
    pub kind: u32,
}

/// A box that is expected in a later picture.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Where it is expected to be.
    pub seen: Seen,
    /// Captured pictures over which it must be searched for because its velocity is unknown; 0 where it is known.
    pub adrift: u32,
}

/// Centre of a box.
pub fn centre(b: &BoundingBox) -> (f32, f32) {
    ((b.x1 + b.x2) / 2.0, (b.y1 + b.y2) / 2.0)
}

/// Movement of the centre from one box to another, rightward and downward.
pub fn shift(from: &BoundingBox, to: &BoundingBox) -> (f32, f32) {
    (
        ((to.x1 - from.x1) + (to.x2 - from.x2)) / 2.0,
        ((to.y1 - from.y1) + (to.y2 - from.y2)) / 2.0,
    )
}

/// The box that overlaps `now` most, if by more than `min_iou`.
pub fn best_overlap<'a>(
    now: &BoundingBox,
    boxes: impl IntoIterator<Item = &'a BoundingBox>,
    min_iou: f32,
) -> Option<&'a BoundingBox> {
    let mut best: Option<(f32, &BoundingBox)> = None;
    for other in boxes {
        let iou = now.iou(other);
        if iou > best.map_or(min_iou, |(iou, _)| iou) {
            best = Some((iou, other));
        }
    }
    best.map(|(_, other)| other)
}

/// Matches each box of `now` to at most one that was expected, the closest pairs first. Returns the index of that one for each
/// of `now`; boxes beyond the first [`MAX_BOXES`] match none.
pub fn pair(now: &[Seen], expected: &[Expected]) -> Vec<Option<usize>> {
    let mut pairs = Vec::new();
    for (i, seen) in now.iter().take(MAX_BOXES).enumerate() {
        for (j, other) in expected.iter().take(MAX_BOXES).enumerate() {
            pairs.extend(cost(seen, other).map(|cost| (cost, i, j)));
        }
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut matched = vec![None; now.len()];
    let mut taken = vec![false; expected.len()];
    for (_, i, j) in pairs {
        if matched[i].is_none() && !taken[j] {
            matched[i] = Some(j);
            taken[j] = true;
        }
    }
    matched
}

/// Difference of a box from one that was expected; `None` where they cannot be the same object.
fn cost(now: &Seen, expected: &Expected) -> Option<f32> {
    if now.kind != expected.seen.kind {
        return None;
    }
    let (a, b) = (&now.bounding_box, &expected.seen.bounding_box);
    let (dx, dy) = shift(b, a);
    let distance = dx.hypot(dy) / a.area().min(b.area()).sqrt();
    let reach = REACH * (1.0 + REACH_PER_PICTURE * expected.adrift as f32);
    if distance.is_nan() || distance >= reach {
        return None;
    }
    let ratio = |a: f32, b: f32| (a / b).ln().abs();
    let (wider, higher) = (ratio(a.x2 - a.x1, b.x2 - b.x1), ratio(a.y2 - a.y1, b.y2 - b.y1));
    let limit = SIZES.ln();
    (wider < limit && higher < limit).then_some(distance + SHAPE * (wider + higher))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(x: f32, side: f32) -> Seen {
        let bounding_box = BoundingBox {
            x1: x,
            y1: 0.0,
            x2: x + side,
            y2: side,
        };
        Seen { bounding_box, kind: 0 }
    }

    fn expected(x: f32, side: f32, adrift: u32) -> Expected {
        let seen = seen(x, side);
        Expected { seen, adrift }
    }

    #[test]
    fn boxes_that_do_not_overlap_are_matched() {
        let found = pair(&[seen(15.0, 10.0)], &[expected(0.0, 10.0, 4)]);
        assert_eq!(found, [Some(0)]);
        assert_eq!(
            pair(&[seen(15.0, 10.0)], &[expected(0.0, 10.0, 0)]),
            [None],
            "its velocity is known"
        );
    }

    #[test]
    fn each_box_is_matched_once_and_to_the_closest() {
        let now = [seen(2.0, 10.0), seen(10.0, 10.0)];
        assert_eq!(
            pair(&now, &[expected(8.0, 10.0, 0), expected(0.0, 10.0, 0)]),
            [Some(1), Some(0)]
        );
        assert_eq!(pair(&now, &[expected(8.0, 10.0, 0)]), [None, Some(0)]);
    }

    #[test]
    fn other_sizes_and_other_kinds_are_other_objects() {
        assert_eq!(pair(&[seen(0.0, 10.0)], &[expected(0.0, 17.0, 0)]), [None]);
        let mut other = expected(0.0, 10.0, 0);
        other.seen.kind = 1;
        assert_eq!(pair(&[seen(0.0, 10.0)], &[other]), [None]);
    }

    #[test]
    fn boxes_without_area_or_numbers_match_nothing() {
        for side in [0.0, -10.0, f32::NAN, f32::INFINITY] {
            assert_eq!(pair(&[seen(0.0, side)], &[expected(0.0, 10.0, 0)]), [None]);
            assert_eq!(pair(&[seen(0.0, 10.0)], &[expected(0.0, side, 0)]), [None]);
        }
    }

    #[test]
    fn numbers_of_boxes_are_bounded() {
        let many: Vec<Seen> = (0..MAX_BOXES + 5).map(|n| seen(100.0 * n as f32, 10.0)).collect();
        let before: Vec<Expected> = many.iter().map(|&seen| Expected { seen, adrift: 0 }).collect();
        let found = pair(&many, &before);
        assert_eq!(found.iter().flatten().count(), MAX_BOXES);
        assert_eq!(found.len(), MAX_BOXES + 5);
    }
}
