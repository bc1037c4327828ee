// SPDX-License-Identifier: MPL-2.0

//! Estimates the constant velocity of a box from two inferred frames.

use crate::matching;
use crate::model::BoundingBox;

/// Boxes of the previous inferred frame, from which the motion of the next one's is estimated.
#[derive(Clone, Debug, Default)]
pub struct MotionEstimator {
    previous: Option<(u64, Vec<BoundingBox>)>,
    /// Velocities of boxes of the next frame that are known otherwise.
    followed: Vec<(BoundingBox, (f32, f32))>,
}

impl MotionEstimator {
    /// Forgets the previous frame.
    pub fn reset(&mut self) {
        self.previous = None;
        self.followed.clear();
    }

    /// Takes velocities of boxes of the next frame, in pixels per captured frame. They come before those by overlap.
    pub fn follow(&mut self, velocities: Vec<(BoundingBox, (f32, f32))>) {
        self.followed = velocities;
    }

    /// Makes `boxes` of frame number `frame` the previous ones. Pass all boxes of the frame, weak ones included: an
    /// object that is undecided now was often weaker before.
    pub fn remember(&mut self, frame: u64, boxes: Vec<BoundingBox>) {
        self.previous = Some((frame, boxes));
        self.followed.clear();
    }

    /// Forgets the previous frame unless it comes before `frame`: a number that repeats or goes back means a restarted
    /// camera or a repeated frame.
    pub fn expect_after(&mut self, frame: u64) {
        if self.previous.as_ref().is_some_and(|(previous, _)| *previous >= frame) {
            self.previous = None;
        }
    }

    /// Velocity of the centre of `now` in pixels per captured frame (rightward, downward), each within ±`max_speed`: that
    /// of [`Self::follow`] where it has one, else from the box of the previous frame that overlaps it most, if by more than `min_iou`, `interval` captured frames
    /// earlier. Zero where there is no such box or `interval` is 0.
    pub fn velocity(&self, now: &BoundingBox, interval: u32, min_iou: f32, max_speed: f32) -> (f32, f32) {
        let Some((_, boxes)) = self.previous.as_ref().filter(|_| interval > 0) else {
            return (0.0, 0.0);
        };
        if let Some((_, (vx, vy))) = self.followed.iter().find(|(followed, _)| followed == now) {
            return (vx.clamp(-max_speed, max_speed), vy.clamp(-max_speed, max_speed));
        }
        let Some(before) = matching::best_overlap(now, boxes, min_iou) else {
            return (0.0, 0.0);
        };
        let (dx, dy) = matching::shift(before, now);
        let speed = |shift: f32| (shift / interval as f32).clamp(-max_speed, max_speed);
        (speed(dx), speed(dy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounding_box(x1: f32, y1: f32, x2: f32, y2: f32) -> BoundingBox {
        BoundingBox { x1, y1, x2, y2 }
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
        // 10 of 50 pixels overlap.
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
