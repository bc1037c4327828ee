// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Class-aware greedy non-maximum suppression.

use super::Landmarks;
use super::boxes::BoundingBox;

/// A decoded box in pixels of the model's input, before suppression.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub x1: f32,
    pub y1: f32,
    pub x2: f32,
    pub y2: f32,
    pub score: f32,
    pub objectness: Option<f32>,
    pub class: u32,
    pub landmarks: Option<Landmarks>,
    /// Index of its row of scores in the model's outputs, if [`super::decode::Decoder::rows`] counts them.
    pub row: usize,
}

impl Candidate {
    fn place(&self) -> BoundingBox {
        BoundingBox {
            x1: self.x1,
            y1: self.y1,
            x2: self.x2,
            y2: self.y2,
        }
    }
}

/// Keeps the best `max` candidates by descending score, without those that overlap a better one of their class by more
/// than `iou` (1 or more: overlap drops none). Equal scores keep the model's order, so that the result is
/// deterministic. Works in place.
pub(super) fn suppress(candidates: &mut Vec<Candidate>, iou: f32, max: usize) {
    // A stable sort, for equal scores. Decoders let no NaN through.
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept = 0;
    for i in 0..candidates.len() {
        if kept == max {
            break;
        }
        let candidate = candidates[i];
        let duplicate = iou < 1.0
            && candidates[..kept]
                .iter()
                .any(|k| k.class == candidate.class && k.place().iou(&candidate.place()) > iou);
        if !duplicate {
            candidates[kept] = candidate;
            kept += 1;
        }
    }
    candidates.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32, score: f32, class: u32) -> Candidate {
        Candidate {
            x1: x,
            y1: 0.0,
            x2: x + 10.0,
            y2: 10.0,
            score,
            objectness: None,
            class,
            landmarks: None,
            row: 0,
        }
    }

    #[test]
    fn overlapping_boxes_of_one_class_become_the_best_one() {
        let mut c = vec![at(1.0, 0.5, 0), at(0.0, 0.9, 0), at(40.0, 0.3, 0)];
        suppress(&mut c, 0.45, 10);
        assert_eq!(c, [at(0.0, 0.9, 0), at(40.0, 0.3, 0)]);
    }

    #[test]
    fn overlapping_boxes_of_two_classes_both_stay() {
        let mut c = vec![at(0.0, 0.5, 0), at(0.0, 0.9, 1)];
        suppress(&mut c, 0.45, 10);
        assert_eq!(c, [at(0.0, 0.9, 1), at(0.0, 0.5, 0)]);
    }

    #[test]
    fn a_suppressed_box_suppresses_nothing() {
        // 0 and 4 overlap by 6/14, 4 and 8 as well; 0 and 8 by 2/18.
        let mut c = vec![at(0.0, 0.9, 0), at(4.0, 0.8, 0), at(8.0, 0.7, 0)];
        suppress(&mut c, 0.4, 10);
        assert_eq!(c, [at(0.0, 0.9, 0), at(8.0, 0.7, 0)]);
    }

    #[test]
    fn the_best_are_kept_when_there_are_too_many_and_ties_keep_their_order() {
        let mut c: Vec<_> = (0..50)
            .map(|i| at(i as f32 * 20.0, if i == 30 { 0.9 } else { 0.5 }, 0))
            .collect();
        suppress(&mut c, 0.45, 3);
        assert_eq!(c, [at(600.0, 0.9, 0), at(0.0, 0.5, 0), at(20.0, 0.5, 0)]);
        suppress(&mut c, 0.45, 0);
        assert!(c.is_empty());
    }

    #[test]
    fn the_threshold_itself_is_no_overlap() {
        let mut c = vec![at(0.0, 0.9, 0), at(5.0, 0.8, 0)];
        suppress(&mut c, 0.34, 10);
        assert_eq!(c.len(), 2);
        suppress(&mut c, 0.33, 10);
        assert_eq!(c.len(), 1);
    }
}
