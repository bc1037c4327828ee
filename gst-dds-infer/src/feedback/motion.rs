// SPDX-License-Identifier: MPL-2.0

//! Boxes, their overlap, and the constant velocity of a box from two inferred frames.

use crate::model::Detection;

/// A box in pixels of the video frame; `x1 <= x2` and `y1 <= y2` in every box that is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f32,
    /// Top edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Bottom edge.
    pub y2: f32,
}

impl BoundingBox {
    /// The box of a detection; `None` where it has no area or holds numbers that are not finite.
    pub fn of(detection: &Detection) -> Option<Self> {
        let Detection { x1, y1, x2, y2, .. } = *detection;
        let finite = [x1, y1, x2, y2, detection.score].iter().all(|v| v.is_finite());
        (finite && x1 < x2 && y1 < y2).then_some(Self { x1, y1, x2, y2 })
    }

    /// Area in pixels.
    pub fn area(&self) -> f32 {
        (self.x2 - self.x1) * (self.y2 - self.y1)
    }

    /// Intersection over union, 0 to 1.
    pub fn iou(&self, other: &Self) -> f32 {
        let width = self.x2.min(other.x2) - self.x1.max(other.x1);
        let height = self.y2.min(other.y2) - self.y1.max(other.y1);
        if width <= 0.0 || height <= 0.0 {
            return 0.0;
        }
        let intersection = width * height;
        intersection / (self.area() + other.area() - intersection)
    }

    /// The smallest box around both.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
            x2: self.x2.max(other.x2),
            y2: self.y2.max(other.y2),
        }
    }

    /// Grown by `dx` on the left and right and `dy` above and below, then clamped to a frame of this size in pixels.
    pub fn grown_within(&self, dx: f32, dy: f32, width: u32, height: u32) -> Self {
        let (width, height) = (width as f32, height as f32);
        Self {
            x1: (self.x1 - dx).clamp(0.0, width),
            y1: (self.y1 - dy).clamp(0.0, height),
            x2: (self.x2 + dx).clamp(0.0, width),
            y2: (self.y2 + dy).clamp(0.0, height),
        }
    }
}

/// The boxes of the previous inferred frame, to tell how fast those of the next one move.
#[derive(Clone, Debug, Default)]
pub struct MotionEstimator {
    previous: Option<(u64, Vec<BoundingBox>)>,
}

impl MotionEstimator {
    /// Forgets the previous frame.
    pub fn reset(&mut self) {
        self.previous = None;
    }

    /// Makes `boxes` of frame number `frame` the previous ones. Give all boxes of the frame, weak ones included: an
    /// object that is undecided now was often weaker before.
    pub fn remember(&mut self, frame: u64, boxes: Vec<BoundingBox>) {
        self.previous = Some((frame, boxes));
    }

    /// Forgets the previous frame unless it comes before `frame`: numbers that stand still or go back are another run
    /// of the camera, or a repeated frame.
    pub fn expect_after(&mut self, frame: u64) {
        if self.previous.as_ref().is_some_and(|(previous, _)| *previous >= frame) {
            self.previous = None;
        }
    }

    /// Velocity of the centre of `now` in pixels per captured frame (rightward, downward), each within ±`max_speed`:
    /// from the box of the previous frame that overlaps it most, if by more than `min_iou`, `interval` captured frames
    /// earlier. Zero where there is no such box or `interval` is 0.
    pub fn velocity(&self, now: &BoundingBox, interval: u32, min_iou: f32, max_speed: f32) -> (f32, f32) {
        let Some((_, boxes)) = self.previous.as_ref().filter(|_| interval > 0) else {
            return (0.0, 0.0);
        };
        let mut best: Option<(f32, &BoundingBox)> = None;
        for before in boxes {
            let iou = now.iou(before);
            if iou > best.map_or(min_iou, |(iou, _)| iou) {
                best = Some((iou, before));
            }
        }
        let Some((_, before)) = best else {
            return (0.0, 0.0);
        };
        let speed = |low: f32, high: f32, low_before: f32, high_before: f32| {
            let shift = ((low - low_before) + (high - high_before)) / 2.0;
            (shift / interval as f32).clamp(-max_speed, max_speed)
        };
        (
            speed(now.x1, now.x2, before.x1, before.x2),
            speed(now.y1, now.y2, before.y1, before.y2),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounding_box(x1: f32, y1: f32, x2: f32, y2: f32) -> BoundingBox {
        BoundingBox { x1, y1, x2, y2 }
    }

    #[test]
    fn overlap_is_intersection_over_union() {
        let a = bounding_box(0.0, 0.0, 10.0, 10.0);
        assert_eq!(a.iou(&a), 1.0);
        assert_eq!(a.iou(&bounding_box(5.0, 0.0, 15.0, 10.0)), 50.0 / 150.0);
        assert_eq!(a.iou(&bounding_box(10.0, 0.0, 20.0, 10.0)), 0.0);
        assert_eq!(a.iou(&bounding_box(20.0, 20.0, 30.0, 30.0)), 0.0);
    }

    #[test]
    fn boxes_without_area_or_finite_numbers_are_none() {
        let good = Detection {
            x1: 1.0,
            y1: 2.0,
            x2: 3.0,
            y2: 4.0,
            score: 0.5,
            objectness: None,
            class: 0,
        };
        assert_eq!(BoundingBox::of(&good), Some(bounding_box(1.0, 2.0, 3.0, 4.0)));
        for bad in [
            Detection { x2: 1.0, ..good },
            Detection { y2: 0.0, ..good },
            Detection { x1: f32::NAN, ..good },
            Detection {
                y2: f32::INFINITY,
                ..good
            },
            Detection {
                score: f32::NAN,
                ..good
            },
        ] {
            assert_eq!(BoundingBox::of(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn velocity_is_that_of_the_best_overlap_per_captured_frame() {
        let mut motion = MotionEstimator::default();
        motion.remember(
            10,
            vec![
                bounding_box(90.0, 100.0, 130.0, 140.0),
                bounding_box(96.0, 98.0, 136.0, 138.0),
            ],
        );
        let now = bounding_box(100.0, 100.0, 140.0, 140.0);
        assert_eq!(motion.velocity(&now, 1, 0.2, 12.0), (4.0, 2.0));
        assert_eq!(motion.velocity(&now, 2, 0.2, 12.0), (2.0, 1.0));
        assert_eq!(motion.velocity(&now, 0, 0.2, 12.0), (0.0, 0.0));
    }

    #[test]
    fn a_growing_box_moves_with_its_centre() {
        let mut motion = MotionEstimator::default();
        motion.remember(1, vec![bounding_box(100.0, 100.0, 140.0, 140.0)]);
        let now = bounding_box(98.0, 96.0, 146.0, 144.0);
        assert_eq!(motion.velocity(&now, 1, 0.2, 12.0), (2.0, 0.0));
    }

    #[test]
    fn an_overlap_of_one_fifth_is_no_match_and_more_is() {
        let mut motion = MotionEstimator::default();
        motion.remember(1, vec![bounding_box(0.0, 0.0, 30.0, 10.0)]);
        // 10 of 50 pixels of length are common.
        assert_eq!(
            motion.velocity(&bounding_box(20.0, 0.0, 50.0, 10.0), 1, 0.2, 12.0),
            (0.0, 0.0)
        );
        assert_eq!(
            motion.velocity(&bounding_box(18.0, 0.0, 48.0, 10.0), 2, 0.2, 12.0),
            (9.0, 0.0)
        );
    }

    #[test]
    fn speed_is_clipped_in_both_directions() {
        let mut motion = MotionEstimator::default();
        motion.remember(1, vec![bounding_box(100.0, 100.0, 200.0, 200.0)]);
        let now = bounding_box(130.0, 87.0, 230.0, 187.0);
        assert_eq!(motion.velocity(&now, 1, 0.2, 12.0), (12.0, -12.0));
    }

    #[test]
    fn numbers_that_stand_still_or_go_back_end_the_history() {
        for (next, kept) in [(11, true), (10, false), (3, false)] {
            let mut motion = MotionEstimator::default();
            motion.remember(10, vec![bounding_box(0.0, 0.0, 40.0, 40.0)]);
            motion.expect_after(next);
            let speed = motion.velocity(&bounding_box(4.0, 0.0, 44.0, 40.0), 1, 0.2, 12.0);
            assert_eq!(speed, if kept { (4.0, 0.0) } else { (0.0, 0.0) }, "frame {next}");
        }
    }
}
