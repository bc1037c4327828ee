// SPDX-License-Identifier: MPL-2.0

//! Turns detections into the regions in which the camera should spend its bits.
//!
//! One [`Feedback`] belongs to one stream. Each inferred, undamaged frame is passed to [`Feedback::regions`] in order;
//! the result is the complete state of that frame, the most valuable region first, quantised as on the wire.
//! Rectangles are the objects' positions in that frame. Each carries its motion per captured frame, by which the
//! camera moves it to the object's position when the feedback applies.
//!
//! ```
//! use gstddsinfer::feedback::{Feedback, PolicySettings};
//! use gstddsinfer::model::Detection;
//!
//! let mut feedback = Feedback::new(PolicySettings::default());
//! let sure = Detection { x1: 10.0, y1: 10.0, x2: 50.0, y2: 90.0, score: 0.9, objectness: None, class: 0 };
//! let unsure = Detection { x1: 204.0, y1: 100.0, x2: 236.0, y2: 148.0, score: 0.27, objectness: None, class: 0 };
//! let regions = feedback.regions(1, 0, &[sure, unsure], 768, 576);
//! assert_eq!(regions.len(), 1);
//! assert_eq!((regions[0].rect.x, regions[0].rect.y, regions[0].rect.width, regions[0].rect.height), (200, 96, 40, 56));
//! ```

#![forbid(unsafe_code)]

mod faces;
mod motion;
mod paper;
mod policy;
pub mod uncertainty;
mod undecided;

pub use faces::FacePolicy;
pub use policy::{ClassGroup, PaperSettings, Policy, PolicySettings};

use dds_protocol::feedback::{MAX_REGIONS, Motion, Rect, Region};

use crate::model::face::Match;
use crate::model::{BoundingBox, Detection};
use motion::MotionEstimator;
use policy::Candidate;

/// Turns the detections of one stream into regions.
#[derive(Clone, Debug)]
pub struct Feedback {
    settings: PolicySettings,
    motion: MotionEstimator,
    left_out: u64,
}

impl Feedback {
    /// For a new stream.
    pub fn new(settings: PolicySettings) -> Self {
        Self {
            settings,
            motion: MotionEstimator::default(),
            left_out: 0,
        }
    }

    /// Changes the settings from the next frame on; motion history stays.
    pub fn set_settings(&mut self, settings: PolicySettings) {
        self.settings = settings;
    }

    /// The settings in use.
    pub fn settings(&self) -> &PolicySettings {
        &self.settings
    }

    /// Forgets the previous frame: at a new stream, a flush, or after damaged frames, whose boxes give no motion.
    pub fn reset(&mut self) {
        self.motion.reset();
    }

    /// Takes the velocities of boxes of the next frame in pixels per captured frame (rightward, downward), where these are
    /// known otherwise than by overlap with the frame before: objects that move by more than their size in between have
    /// none.
    pub fn follow(&mut self, velocities: Vec<(BoundingBox, (f32, f32))>) {
        self.motion.follow(velocities);
    }

    /// Regions left out since construction because of [`PolicySettings::max_regions`].
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Regions for one inferred frame, most valuable first (closest to the threshold; equally close ones in the order
    /// of `detections`).
    ///
    /// - `frame_number`: the camera's number of this frame. If it is not above that of the previous call, motion is
    ///   unknown.
    /// - `frame_interval`: captured frames from that of the previous call to this one, so that motion is per captured
    ///   frame however many are skipped between; 0 if the two are not related.
    /// - `detections`: all of the frame from a score of about 0.05 up. The weak ones matter: an undecided box often
    ///   takes its motion from a weaker one.
    /// - `width`, `height`: size of the frame in pixels, to which regions are clipped.
    pub fn regions(
        &mut self,
        frame_number: u64,
        frame_interval: u32,
        detections: &[Detection],
        width: u32,
        height: u32,
    ) -> Vec<Region> {
        let candidates = match self.settings.policy {
            Policy::Undecided => undecided::candidates(&self.settings, detections),
            Policy::Paper => paper::candidates(&self.settings, detections, width, height),
        };
        self.regions_of(candidates, frame_number, frame_interval, detections, width, height)
    }

    /// As [`Feedback::regions`], for faces: adds faces whose identity is undecided.
    ///
    /// - `matches`: the closest identity of each of `detections`, in their order.
    ///
    /// With [`Policy::Paper`], faces are objects like any other, and `matches` are ignored.
    #[allow(clippy::too_many_arguments, reason = "those of `regions` and two more")]
    pub fn face_regions(
        &mut self,
        frame_number: u64,
        frame_interval: u32,
        detections: &[Detection],
        matches: &[Option<Match>],
        policy: &FacePolicy,
        width: u32,
        height: u32,
    ) -> Vec<Region> {
        if self.settings.policy == Policy::Paper {
            return self.regions(frame_number, frame_interval, detections, width, height);
        }
        let candidates = faces::candidates(&self.settings, policy, detections, matches);
        self.regions_of(candidates, frame_number, frame_interval, detections, width, height)
    }

    /// The regions of a policy's candidates; `detections` are those of the whole frame, for the motion of the next.
    fn regions_of(
        &mut self,
        mut candidates: Vec<Candidate>,
        frame_number: u64,
        frame_interval: u32,
        detections: &[Detection],
        width: u32,
        height: u32,
    ) -> Vec<Region> {
        candidates.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        self.motion.expect_after(frame_number);
        let mut regions: Vec<Region> = candidates
            .iter()
            .filter_map(|c| self.region(c, frame_interval, width, height))
            .collect();
        let limit = self.settings.max_regions.min(MAX_REGIONS);
        self.left_out += regions.len().saturating_sub(limit) as u64;
        regions.truncate(limit);
        self.motion
            .remember(frame_number, detections.iter().filter_map(BoundingBox::of).collect());
        regions
    }

    /// `None` if the box lies outside the frame.
    fn region(&self, candidate: &Candidate, frame_interval: u32, width: u32, height: u32) -> Option<Region> {
        let settings = &self.settings;
        let (dx, dy) = candidate.grow;
        let within = candidate.bounding_box.grown_within(dx, dy, width, height);
        let (x, y) = (within.x1.floor() as u32, within.y1.floor() as u32);
        let rect = Rect {
            x,
            y,
            width: (within.x2.ceil() as u32).saturating_sub(x),
            height: (within.y2.ceil() as u32).saturating_sub(y),
        };
        if rect.width == 0 || rect.height == 0 {
            return None;
        }
        let interval = if settings.use_motion { frame_interval } else { 0 };
        let (vx, vy) = self.motion.velocity(
            &candidate.bounding_box,
            interval,
            settings.motion_iou,
            settings.max_speed.max(0.0),
        );
        let quarters = |speed: f32| (speed * 4.0).round() as i16;
        let region = Region {
            rect,
            quality: settings.quality,
            motion: Motion {
                dx: quarters(vx),
                dy: quarters(vy),
            },
            ttl_ms: settings.ttl_ms,
            frame_offset: 0,
        };
        Some(region.quantised())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dds_protocol::feedback::Quality;

    fn detection(x1: f32, y1: f32, x2: f32, y2: f32, score: f32) -> Detection {
        Detection {
            x1,
            y1,
            x2,
            y2,
            score,
            objectness: None,
            class: 0,
        }
    }

    fn region(x: u32, y: u32, width: u32, height: u32, dx: i16, dy: i16) -> Region {
        Region {
            rect: Rect { x, y, width, height },
            quality: Quality::Camera,
            motion: Motion { dx, dy },
            ttl_ms: 1000,
            frame_offset: 0,
        }
    }

    #[test]
    fn only_undecided_boxes_become_regions_the_most_undecided_first() {
        let mut feedback = Feedback::new(PolicySettings::default());
        let detections = [
            detection(10.0, 10.0, 60.0, 60.0, 0.9),
            detection(100.0, 100.0, 131.0, 141.5, 0.38),
            detection(300.0, 200.0, 332.0, 232.0, 0.31),
            detection(400.0, 200.0, 432.0, 232.0, 0.24),
            detection(500.0, 200.0, 532.0, 232.0, 0.1),
        ];
        // Padded by 2 and grown to the grid of 8: 98..133 becomes 96..136, 98..143.5 becomes 96..144.
        assert_eq!(
            feedback.regions(5, 0, &detections, 640, 480),
            [
                region(296, 192, 40, 48, 0, 0),
                region(392, 192, 48, 48, 0, 0),
                region(96, 96, 40, 48, 0, 0),
            ]
        );
    }

    #[test]
    fn motion_comes_from_any_box_of_the_previous_frame_in_quarter_pixels_per_captured_frame() {
        let mut feedback = Feedback::new(PolicySettings::default());
        // Too weak for a region, but enough for the motion of the next frame.
        assert_eq!(
            feedback.regions(10, 0, &[detection(100.0, 100.0, 140.0, 140.0, 0.06)], 640, 480),
            []
        );
        let moved = [detection(107.0, 95.0, 147.0, 135.0, 0.3)];
        assert_eq!(
            feedback.regions(12, 2, &moved, 640, 480),
            [region(104, 88, 48, 56, 14, -10)]
        );
    }

    #[test]
    fn motion_is_rounded_to_a_quarter_pixel_and_clipped_to_twelve_pixels() {
        let mut feedback = Feedback::new(PolicySettings::default());
        feedback.regions(1, 0, &[detection(100.0, 100.0, 200.0, 200.0, 0.3)], 640, 480);
        let fast = [detection(140.0, 101.0, 240.0, 201.0, 0.3)];
        assert_eq!(
            feedback.regions(4, 3, &fast, 640, 480)[0].motion,
            Motion { dx: 48, dy: 1 }
        );
    }

    #[test]
    fn an_object_that_is_followed_takes_its_own_motion_however_far_it_moved() {
        let mut feedback = Feedback::new(PolicySettings::default());
        feedback.regions(10, 0, &[detection(100.0, 100.0, 140.0, 140.0, 0.3)], 640, 480);
        let far = detection(148.0, 100.0, 188.0, 140.0, 0.3);
        let followed = BoundingBox::from(&far);
        feedback.follow(vec![(followed, (9.5, -40.0))]);
        assert_eq!(
            feedback.regions(15, 5, &[far], 640, 480)[0].motion,
            Motion { dx: 38, dy: -48 }
        );
        let again = detection(150.0, 100.0, 190.0, 140.0, 0.3);
        assert_eq!(
            feedback.regions(16, 1, &[again], 640, 480)[0].motion,
            Motion { dx: 8, dy: 0 },
            "by overlap"
        );
    }

    #[test]
    fn without_a_related_previous_frame_regions_stand_still() {
        let first = [detection(100.0, 100.0, 140.0, 140.0, 0.3)];
        let second = [detection(104.0, 100.0, 144.0, 140.0, 0.3)];
        let moving = |prepare: fn(&mut Feedback), settings: PolicySettings, frame: u64, interval: u32| {
            let mut feedback = Feedback::new(settings);
            feedback.regions(10, 0, &first, 640, 480);
            prepare(&mut feedback);
            feedback.regions(frame, interval, &second, 640, 480)[0].motion.dx
        };
        let settings = PolicySettings::default;
        assert_eq!(moving(|_| {}, settings(), 11, 1), 16);
        assert_eq!(moving(|_| {}, settings(), 11, 0), 0);
        assert_eq!(moving(|_| {}, settings(), 10, 1), 0);
        assert_eq!(moving(|_| {}, settings(), 2, 1), 0);
        assert_eq!(moving(Feedback::reset, settings(), 11, 1), 0);
        assert_eq!(
            moving(
                |_| {},
                PolicySettings {
                    use_motion: false,
                    ..settings()
                },
                11,
                1
            ),
            0
        );
    }

    #[test]
    fn regions_are_clipped_to_the_frame_and_empty_ones_left_out() {
        let mut feedback = Feedback::new(PolicySettings::default());
        let detections = [
            detection(-10.0, -3.0, 20.0, 30.0, 0.3),
            detection(620.0, 460.0, 640.0, 480.0, 0.3),
            detection(700.0, 10.0, 720.0, 30.0, 0.3),
            detection(f32::NAN, 10.0, 720.0, 30.0, 0.3),
            detection(50.0, 50.0, 50.0, 60.0, 0.3),
        ];
        assert_eq!(
            feedback.regions(1, 0, &detections, 640, 480),
            [region(0, 0, 24, 32, 0, 0), region(616, 456, 24, 24, 0, 0)]
        );
    }

    #[test]
    fn the_least_undecided_regions_are_left_out_and_counted() {
        let settings = PolicySettings {
            max_regions: 2,
            ..PolicySettings::default()
        };
        let mut feedback = Feedback::new(settings);
        let at = |x, score| detection(x, 100.0, x + 24.0, 124.0, score);
        let detections = [at(4.0, 0.36), at(104.0, 0.29), at(204.0, 0.21), at(300.0, 0.33)];
        let regions = feedback.regions(1, 0, &detections, 640, 480);
        assert_eq!(regions.iter().map(|r| r.rect.x).collect::<Vec<_>>(), [96, 296]);
        assert_eq!(feedback.left_out(), 2);
        let unlimited = PolicySettings {
            max_regions: usize::MAX,
            ..PolicySettings::default()
        };
        feedback.set_settings(unlimited);
        let many: Vec<Detection> = (0..300).map(|_| at(4.0, 0.3)).collect();
        assert_eq!(feedback.regions(2, 1, &many, 640, 480).len(), MAX_REGIONS);
        assert_eq!(feedback.left_out(), 46);
    }

    #[test]
    fn quality_and_time_to_live_are_those_of_the_settings() {
        let settings = PolicySettings {
            quality: Quality::Qp(24),
            ttl_ms: 250,
            ..PolicySettings::default()
        };
        let regions = Feedback::new(settings).regions(1, 0, &[detection(8.0, 8.0, 40.0, 40.0, 0.3)], 640, 480);
        assert_eq!((regions[0].quality, regions[0].ttl_ms), (Quality::Qp(24), 260));
    }

    #[test]
    fn the_paper_rule_gives_regions_without_padding_and_with_motion() {
        let mut feedback = Feedback::new(PolicySettings {
            policy: Policy::Paper,
            ..PolicySettings::default()
        });
        feedback.regions(1, 0, &[detection(160.0, 80.0, 192.0, 120.0, 0.1)], 640, 480);
        let detections = [
            detection(10.0, 10.0, 60.0, 60.0, 0.9),
            detection(168.0, 80.0, 200.0, 120.0, 0.45),
            Detection {
                objectness: Some(0.8),
                ..detection(320.0, 240.0, 352.0, 280.0, 0.06)
            },
        ];
        assert_eq!(
            feedback.regions(2, 1, &detections, 640, 480),
            [region(168, 80, 32, 40, 32, 0), region(320, 240, 32, 40, 0, 0)]
        );
    }

    #[test]
    fn a_frame_without_detections_gives_an_empty_list() {
        for policy in [Policy::Undecided, Policy::Paper] {
            let mut feedback = Feedback::new(PolicySettings {
                policy,
                ..PolicySettings::default()
            });
            assert_eq!(feedback.regions(1, 0, &[], 640, 480), []);
        }
    }
}
