// SPDX-License-Identifier: MPL-2.0

//! Receiver and planner on one thread.

use super::planner::{StreamConfig, StreamPlanner};
use super::receiver::{FeedbackReceiver, Outcome, Way};
use super::stats::{FeedbackStats, RegionStats, Stats};
use super::types::{CameraSettings, Capture, FramePlan, Geometry, Plan, RoiRequest, WishBounds};

/// The camera side of one stream of one pass on one thread, for tools and tests. The element keeps receiver and planner
/// apart, so that delivering feedback never waits for the encoder. It codes every picture: servers may wish nothing of it.
#[derive(Clone, Debug)]
pub struct Camera {
    receiver: FeedbackReceiver,
    planner: StreamPlanner,
}

impl Camera {
    /// A camera for the stream `stream_id` (see [`dds_protocol::identity::FrameIdentity::stream_id`]).
    pub fn new(stream_id: u32, geometry: Geometry, settings: CameraSettings) -> Self {
        Self::with_config(stream_id, StreamConfig::new(geometry), settings)
    }

    /// The same with the configuration of an encoder.
    pub fn with_config(stream_id: u32, config: StreamConfig, settings: CameraSettings) -> Self {
        let settings = without_wishes(settings);
        let mut receiver = FeedbackReceiver::default();
        receiver.set_settings(settings);
        receiver.restart(stream_id);
        Self {
            receiver,
            planner: StreamPlanner::new(config, settings),
        }
    }

    /// Begins another stream: see [`StreamPlanner::restart`].
    pub fn restart(&mut self, stream_id: u32, geometry: Geometry) {
        self.receiver.restart(stream_id);
        self.planner.restart(StreamConfig::new(geometry));
    }

    /// The settings of the user.
    pub fn settings(&self) -> &CameraSettings {
        self.planner.settings()
    }

    /// Sets new settings; they apply from the next frame.
    pub fn set_settings(&mut self, settings: CameraSettings) {
        let settings = without_wishes(settings);
        self.receiver.set_settings(settings);
        self.planner.set_settings(settings);
    }

    /// Reads one bare feedback packet (no RTCP framing).
    pub fn push_feedback(&mut self, now: u64, way: Way, packet: &[u8]) -> Outcome {
        self.receiver.push(now, way, packet)
    }

    /// Plans the frame `frame` (number of the captured frame since encoder start, rising, gaps allowed). `idr`: a key
    /// frame is requested. `rois` apply to this frame.
    pub fn begin_frame(&mut self, now: u64, frame: u64, idr: bool, rois: &[RoiRequest]) -> FramePlan<'_> {
        let capture = Capture {
            now,
            frame,
            late: false,
            key_frame: idr,
            damaged: false,
            changes: false,
            refined_bytes: 0,
            rois,
        };
        let receiver = &mut self.receiver;
        let plan = self.planner.plan(&capture, |settings, now, frame| {
            receiver.set_settings(*settings);
            receiver.begin_frame(now, frame)
        });
        match plan {
            Plan::Code(plan) => plan,
            Plan::Skip(_) | Plan::Reopen { .. } => {
                unreachable!("no picture is late or unwanted, and there is one size")
            }
        }
    }

    /// Accounts for the coded frame: see [`StreamPlanner::end_frame`].
    pub fn end_frame(&mut self, now: u64, coded_bytes: usize, idr: bool) {
        self.receiver.observe(now);
        self.planner.end_frame(now, coded_bytes, idr);
    }

    /// Ends all regions and drops waiting feedback, for a flushing seek. The stream and its mode continue.
    pub fn flush(&mut self) {
        self.receiver.flush();
    }

    /// Counts of frames.
    pub fn stats(&self) -> &Stats {
        self.planner.stats()
    }

    /// Counts of regions of feedback.
    pub fn region_stats(&self) -> &RegionStats {
        self.planner.region_stats()
    }

    /// Counts of feedback.
    pub fn feedback_stats(&self) -> &FeedbackStats {
        self.receiver.stats()
    }
}

fn without_wishes(settings: CameraSettings) -> CameraSettings {
    CameraSettings {
        wishes: WishBounds::NOTHING,
        ..settings
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Camera, FeedbackBound, MAX_QP, MIN_QP, Notice, Outcome};
    use super::*;
    use crate::vbv::Vbv;
    use dds_protocol::feedback::Rect;
    use dds_protocol::feedback::{FeedbackState, Motion, Quality, Region, encode};
    use dds_protocol::serial::Serial16;
    use proptest::prelude::*;

    const STREAM: u32 = 0xabcd;
    const MS: u64 = 1_000_000;
    const GEOMETRY: Geometry = Geometry { width: 64, height: 64 };

    fn camera() -> Camera {
        Camera::new(
            STREAM,
            GEOMETRY,
            CameraSettings {
                max_region_area: 1.0,
                ..CameraSettings::default()
            },
        )
    }

    fn square(x: u32, y: u32) -> Rect {
        Rect {
            x,
            y,
            width: 16,
            height: 16,
        }
    }

    fn packet(generation: u16, frame: u64, regions: &[Rect]) -> Vec<u8> {
        let regions = regions.iter().map(|rect| Region {
            rect: *rect,
            ttl_ms: 1000,
            ..Region::default()
        });
        let state = FeedbackState {
            stream_id: STREAM,
            generation: Serial16(generation),
            frame,
            regions: regions.collect(),
            ..FeedbackState::default()
        };
        encode(&state).packets.remove(0)
    }

    /// Codes one frame; returns base quantizer, macroblocks with their offset, and the notice.
    fn code(camera: &mut Camera, ms: u64, frame: u64, rois: &[RoiRequest]) -> (u8, Vec<(usize, i8)>, Option<Notice>) {
        let plan = camera.begin_frame(ms * MS, frame, false, rois);
        let offsets = plan.offsets.unwrap_or(&[]);
        let off_base = offsets.iter().copied().enumerate().filter(|(_, offset)| *offset != 0);
        let answer = (plan.base_qp, off_base.collect(), plan.notice);
        camera.end_frame(ms * MS + 5 * MS, 1000, frame == 0);
        answer
    }

    #[test]
    fn what_feedback_may_add_follows_size_and_rate() {
        let derived = |width, height, rate| FeedbackBound::Derived.kbps(Geometry { width, height }, rate);
        assert_eq!(derived(1280, 720, 30.0), 3600);
        assert_eq!(derived(1280, 720, 7.5), 1800);
        assert_eq!(derived(1920, 1080, 30.0), 8160);
        assert_eq!(derived(1280, 720, 1.0), 1000, "the least");
        assert_eq!(derived(16, 16, 30.0), 1000);
        assert_eq!(FeedbackBound::Kbps(7).kbps(GEOMETRY, 30.0), 7);
        assert_eq!(FeedbackBound::None.kbps(GEOMETRY, 30.0), 0);
    }

    #[test]
    fn bounded_feedback_shrinks_and_neither_the_background_nor_regions_of_the_video_do() {
        let mut camera = camera();
        camera.set_settings(CameraSettings {
            feedback: FeedbackBound::Kbps(1),
            max_region_area: 1.0,
            ..CameraSettings::default()
        });
        code(&mut camera, 0, 0, &[]);
        let own = RoiRequest {
            rect: square(0, 0),
            delta_qp: -8,
        };
        camera.push_feedback(10 * MS, Way::Pad, &packet(1, 0, &[square(0, 0), square(32, 32)]));
        // The regions of feedback cost more than they may: the video's own region is as it would be without any.
        let (base, offsets, _) = code(&mut camera, 40, 1, &[own]);
        assert_eq!((base, offsets[0]), (36, (0, -8)));
        assert!(offsets[1..].iter().all(|(_, offset)| *offset > -10), "{offsets:?}");
        assert_eq!(code(&mut camera, 80, 2, &[own]).1, [(0, -8)]);
        assert_eq!(code(&mut camera, 120, 3, &[]), (36, vec![], None));
        assert_eq!(camera.stats().feedback_trimmed_frames, 3);
        camera.set_settings(CameraSettings {
            feedback: FeedbackBound::None,
            max_region_area: 1.0,
            ..CameraSettings::default()
        });
        assert_eq!(code(&mut camera, 160, 4, &[own]).1, [(0, -10), (10, -10)]);
    }

    #[test]
    fn the_first_frame_has_background_quality_and_the_next_fall_back_until_feedback_comes() {
        let mut camera = camera();
        assert_eq!(code(&mut camera, 0, 0, &[]), (36, vec![], None));
        assert_eq!(code(&mut camera, 40, 1, &[]), (30, vec![], None));
        camera.push_feedback(60 * MS, Way::Pad, &packet(1, 1, &[square(16, 16)]));
        assert_eq!(
            code(&mut camera, 80, 2, &[]),
            (36, vec![(5, -10)], Some(Notice::FeedbackStarted))
        );
        let stats = camera.stats();
        assert_eq!(
            (stats.frames_first, stats.frames_fallback, stats.frames_steered),
            (1, 1, 1)
        );
    }

    #[test]
    fn an_empty_list_means_all_at_background() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Way::Pad, &packet(1, 0, &[square(0, 0)]));
        assert_eq!(code(&mut camera, 40, 1, &[]).1, [(0, -10)]);
        camera.push_feedback(50 * MS, Way::Pad, &packet(2, 1, &[]));
        assert_eq!(code(&mut camera, 80, 2, &[]), (36, vec![], None));
        assert_eq!(camera.feedback_stats().generations_empty, 1);
    }

    #[test]
    fn one_state_is_applied_per_frame_and_the_newest_wins() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        for (generation, x) in [(1, 0), (2, 16), (3, 32)] {
            camera.push_feedback(10 * MS, Way::Rtcp, &packet(generation, 0, &[square(x, 0)]));
        }
        let plan = camera.begin_frame(40 * MS, 1, false, &[]);
        assert_eq!(plan.applied.map(|applied| applied.generation), Some(Serial16(3)));
        assert_eq!(
            plan.offsets.map(|offsets| offsets[..4].to_vec()),
            Some(vec![0, 0, -10, 0])
        );
        camera.end_frame(45 * MS, 100, false);
        assert_eq!(camera.begin_frame(80 * MS, 2, false, &[]).applied, None);
        let stats = camera.feedback_stats();
        assert_eq!((stats.generations_applied, stats.generations_superseded), (1, 2));
        assert_eq!((stats.packets, stats.packets_rtcp), (3, 3));
    }

    #[test]
    fn the_newest_state_of_each_way_counts_and_the_finest_quantizer_wins() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Way::Rtcp, &packet(900, 0, &[square(0, 0), square(16, 0)]));
        camera.push_feedback(0, Way::Uri, &packet(7, 0, &[square(16, 0), square(32, 0)]));
        let plan = camera.begin_frame(40 * MS, 1, false, &[]);
        assert_eq!(plan.offsets.map(|o| o[..4].to_vec()), Some(vec![-10, -10, -10, 0]));
        camera.end_frame(45 * MS, 100, false);
        // An empty list by one way ends the regions of that way only.
        camera.push_feedback(50 * MS, Way::Rtcp, &packet(901, 1, &[]));
        assert_eq!(code(&mut camera, 80, 2, &[]).1, [(1, -10), (2, -10)]);
        assert_eq!(camera.feedback_stats().generations_applied, 3);
    }

    #[test]
    fn a_way_that_falls_silent_leaves_nothing_behind_while_another_steers() {
        let long = |generation, frame, x| {
            let region = Region {
                rect: square(x, 0),
                ttl_ms: 60_000,
                ..Region::default()
            };
            let state = FeedbackState {
                stream_id: STREAM,
                generation: Serial16(generation),
                frame,
                regions: vec![region],
                ..FeedbackState::default()
            };
            encode(&state).packets.remove(0)
        };
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Way::Rtcp, &long(1, 0, 0));
        for frame in 1..100u64 {
            let now = frame * 40;
            camera.push_feedback(now * MS, Way::Uri, &long(frame as u16, frame - 1, 32));
            let expected: &[_] = if now <= 2000 {
                &[(0, -10), (2, -10)]
            } else {
                &[(2, -10)]
            };
            assert_eq!(code(&mut camera, now, frame, &[]).1, expected, "{now} ms");
        }
        assert_eq!(camera.feedback_stats().feedback_lost, 0);
    }

    #[test]
    fn what_is_sealed_comes_first_in_the_shared_area() {
        let mut camera = camera();
        camera.set_settings(CameraSettings {
            max_region_area: 1.0 / 16.0,
            ..CameraSettings::default()
        });
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Way::Rtcp, &packet(1, 0, &[square(0, 0)]));
        camera.push_feedback(0, Way::Uri, &packet(1, 0, &[square(48, 0)]));
        assert_eq!(code(&mut camera, 40, 1, &[]).1, [(3, -10)]);
        assert_eq!(camera.region_stats().regions_over_area, 1);
    }

    #[test]
    fn one_server_by_two_ways_is_counted_once_and_steers_on_by_the_one_that_is_left() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        for frame in 1..=200u64 {
            let now = frame * 40;
            let x = 16 * (frame as u32 % 4);
            let packet = packet(frame as u16, frame - 1, &[square(x, 0)]);
            // The first way dies half-way.
            if frame <= 100 {
                camera.push_feedback(now * MS, Way::Uri, &packet);
            }
            camera.push_feedback(now * MS, Way::Pad, &packet);
            // The time when the dead way's last region has ended.
            if frame <= 100 || frame > 150 {
                assert_eq!(
                    code(&mut camera, now, frame, &[]).1,
                    [(x as usize / 16, -10)],
                    "frame {frame}"
                );
            } else {
                code(&mut camera, now, frame, &[]);
            }
        }
        let stats = camera.feedback_stats();
        assert_eq!((stats.generations_applied, stats.packets_duplicate), (200, 100));
        let applied = camera.region_stats().regions_applied;
        assert_eq!((stats.regions_requested, applied), (200, 200));
        assert_eq!(stats.feedback_lost, 0);
    }

    #[test]
    fn silence_falls_back_once_and_feedback_recovers_by_itself() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Way::Pad, &packet(1, 0, &[square(0, 0)]));
        code(&mut camera, 40, 1, &[]);
        assert_eq!(
            code(&mut camera, 2000, 50, &[]),
            (36, vec![], None),
            "the region has ended, the server has not"
        );
        let lost = Notice::FeedbackLost {
            silence_ns: 2000 * MS,
            never: false,
        };
        assert_eq!(code(&mut camera, 2010, 51, &[]), (30, vec![], Some(lost)));
        assert_eq!(code(&mut camera, 2050, 52, &[]), (30, vec![], None), "told once");
        camera.push_feedback(2060 * MS, Way::Pad, &packet(2, 52, &[square(16, 0)]));
        let recovered = Notice::FeedbackRecovered { silence_ns: 2080 * MS };
        assert_eq!(code(&mut camera, 2090, 53, &[]), (36, vec![(1, -10)], Some(recovered)));
        assert_eq!(
            (
                camera.feedback_stats().feedback_lost,
                camera.feedback_stats().feedback_recovered
            ),
            (1, 1)
        );
    }

    #[test]
    fn feedback_that_never_comes_is_told_once() {
        let mut camera = camera();
        code(&mut camera, 500, 0, &[]);
        assert_eq!(code(&mut camera, 2490, 1, &[]).2, None);
        let lost = Notice::FeedbackLost {
            silence_ns: 2000 * MS,
            never: true,
        };
        assert_eq!(code(&mut camera, 2500, 2, &[]).2, Some(lost));
        assert_eq!(code(&mut camera, 9000, 3, &[]).2, None);
    }

    #[test]
    fn without_a_timeout_silence_changes_nothing() {
        let mut camera = camera();
        camera.set_settings(CameraSettings {
            feedback_timeout_ns: 0,
            ..CameraSettings::default()
        });
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Way::Pad, &packet(1, 0, &[]));
        assert_eq!(code(&mut camera, 40, 1, &[]).2, Some(Notice::FeedbackStarted));
        assert_eq!(code(&mut camera, 3_600_000, 2, &[]), (36, vec![], None));
    }

    #[test]
    fn feedback_that_waited_longer_than_the_timeout_is_not_applied() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Way::Pad, &packet(1, 0, &[square(0, 0)]));
        let (base, offsets, notice) = code(&mut camera, 5000, 1, &[]);
        assert_eq!((base, offsets), (30, vec![]));
        assert!(matches!(notice, Some(Notice::FeedbackLost { never: false, .. })));
        assert_eq!(
            (
                camera.feedback_stats().generations_outdated,
                camera.feedback_stats().generations_applied
            ),
            (1, 0)
        );
    }

    #[test]
    fn input_regions_hold_for_one_frame_in_every_mode_and_are_no_feedback() {
        let roi = |delta_qp| RoiRequest {
            rect: square(16, 0),
            delta_qp,
        };
        let mut camera = camera();
        assert_eq!(
            code(&mut camera, 0, 0, &[roi(-8)]),
            (36, vec![(1, -8)], None),
            "first frame"
        );
        assert_eq!(
            code(&mut camera, 40, 1, &[roi(-8)]),
            (30, vec![(1, -8)], None),
            "fallback"
        );
        assert_eq!(code(&mut camera, 80, 2, &[]), (30, vec![], None), "one frame only");
        camera.push_feedback(100 * MS, Way::Pad, &packet(1, 2, &[square(16, 0), square(48, 0)]));
        assert_eq!(
            code(&mut camera, 120, 3, &[roi(-20)]).1,
            [(1, -20), (3, -10)],
            "finest wins"
        );
        assert_eq!(code(&mut camera, 160, 4, &[roi(-4)]).1, [(1, -10), (3, -10)]);
        assert_eq!(
            code(&mut camera, 200, 5, &[roi(7)]).1,
            [(1, -10), (3, -10)],
            "coarser only elsewhere"
        );
        assert_eq!(camera.stats().roi_applied, 5);
        assert_eq!(camera.feedback_stats().packets, 1);
    }

    #[test]
    fn input_regions_come_before_feedback_in_the_shared_area() {
        let mut camera = camera();
        camera.set_settings(CameraSettings {
            max_region_area: 1.0 / 16.0,
            ..CameraSettings::default()
        });
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Way::Pad, &packet(1, 0, &[square(0, 0)]));
        let roi = RoiRequest {
            rect: square(32, 0),
            delta_qp: -6,
        };
        assert_eq!(code(&mut camera, 40, 1, &[roi]).1, [(2, -6)]);
        assert_eq!(camera.region_stats().regions_over_area, 1);
        assert_eq!(code(&mut camera, 80, 2, &[]).1, [(0, -10)]);
    }

    #[test]
    fn what_lies_outside_is_counted() {
        let mut camera = camera();
        let rois = [
            RoiRequest {
                rect: square(60, 0),
                delta_qp: -6,
            },
            RoiRequest {
                rect: square(64, 0),
                delta_qp: -6,
            },
            RoiRequest {
                rect: Rect::default(),
                delta_qp: -6,
            },
        ];
        assert_eq!(code(&mut camera, 0, 0, &rois).1, [(3, -6)]);
        let stats = camera.stats();
        assert_eq!(
            (
                stats.roi_requested,
                stats.roi_applied,
                stats.roi_clipped,
                stats.roi_outside
            ),
            (3, 1, 1, 2)
        );
    }

    #[test]
    fn the_delay_from_coding_a_frame_to_applying_its_feedback_is_measured_on_one_clock() {
        let mut camera = camera();
        for frame in 0..4 {
            code(&mut camera, frame * 40, frame, &[]);
        }
        camera.push_feedback(130 * MS, Way::Pad, &packet(1, 1, &[]));
        let plan = camera.begin_frame(160 * MS, 4, false, &[]);
        // Frame 1 began at 40 ms and was coded at 45 ms.
        assert_eq!(plan.applied.and_then(|applied| applied.delay_ns), Some(115 * MS));
        let delay = &camera.stats().delay;
        assert_eq!((delay.count, delay.last_ns, delay.last_frames), (1, 115 * MS, 3));
        assert_eq!(delay.quantile_ns(0.95), 115 * MS);
    }

    #[test]
    fn the_delay_of_a_frame_too_long_ago_is_unknown_and_counted() {
        let mut camera = camera();
        for frame in 0..300 {
            code(&mut camera, frame * 4, frame, &[]);
        }
        camera.push_feedback(1200 * MS, Way::Pad, &packet(1, 0, &[]));
        let plan = camera.begin_frame(1200 * MS, 300, false, &[]);
        assert_eq!(plan.applied.map(|applied| applied.delay_ns), Some(None));
        assert_eq!((camera.stats().delay_unknown, camera.stats().delay.count), (1, 0));
    }

    #[test]
    fn a_new_stream_makes_feedback_for_the_old_one_foreign() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Way::Pad, &packet(1, 0, &[square(0, 0)]));
        code(&mut camera, 40, 1, &[]);
        camera.restart(STREAM + 1, Geometry { width: 32, height: 32 });
        assert_eq!(
            camera.push_feedback(50 * MS, Way::Pad, &packet(2, 0, &[])),
            Outcome::Foreign
        );
        assert_eq!(code(&mut camera, 80, 0, &[]), (36, vec![], None));
        assert_eq!(code(&mut camera, 120, 1, &[]), (30, vec![], None));
        assert_eq!(camera.stats().frames_first, 2);
    }

    #[test]
    fn a_flush_ends_regions_and_keeps_the_server() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Way::Pad, &packet(1, 0, &[square(0, 0)]));
        code(&mut camera, 40, 1, &[]);
        camera.flush();
        assert_eq!(code(&mut camera, 80, 2, &[]), (36, vec![], None));
    }

    #[test]
    fn time_that_goes_back_neither_loses_the_server_nor_keeps_regions_for_ever() {
        let mut camera = camera();
        code(&mut camera, 100_000, 0, &[]);
        camera.push_feedback(100_010 * MS, Way::Pad, &packet(1, 0, &[square(0, 0)]));
        assert_eq!(code(&mut camera, 100_040, 1, &[]).1, [(0, -10)]);
        assert_eq!(code(&mut camera, 0, 2, &[]).1, [(0, -10)]);
        assert_eq!(code(&mut camera, 900, 3, &[]).1, [(0, -10)]);
        assert_eq!(
            code(&mut camera, 1000, 4, &[]),
            (36, vec![], None),
            "time to live has ended"
        );
        assert!(matches!(
            code(&mut camera, 2000, 5, &[]).2,
            Some(Notice::FeedbackLost { .. })
        ));
    }

    #[test]
    fn calls_a_little_out_of_order_do_not_make_time_run_faster() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Way::Pad, &packet(1, 0, &[square(0, 0)]));
        for frame in 1..=24 {
            // Every frame begins before the last one was reported as coded.
            assert_eq!(code(&mut camera, frame * 40, frame, &[]).1, [(0, -10)], "frame {frame}");
            camera.end_frame((frame * 40 + 60) * MS, 10, false);
        }
    }

    #[test]
    fn with_steering_off_every_plan_is_uniform_and_every_request_is_counted_as_refused() {
        let mut camera = camera();
        camera.set_settings(CameraSettings {
            steered: false,
            ..CameraSettings::default()
        });
        let roi = RoiRequest {
            rect: square(0, 0),
            delta_qp: -6,
        };
        for frame in 0..100 {
            assert_eq!(
                camera.push_feedback(0, Way::Event, &packet(1, 0, &[square(0, 0)])),
                Outcome::Refused
            );
            assert_eq!(code(&mut camera, frame * 40, frame, &[roi]), (36, vec![], None));
        }
        assert_eq!(
            (camera.feedback_stats().packets_refused, camera.stats().roi_refused),
            (100, 100)
        );
        assert_eq!(camera.stats().frames_unsteered, 100);
    }

    #[test]
    fn quantizers_follow_live_settings_from_the_next_frame() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Way::Pad, &packet(1, 0, &[square(0, 0)]));
        assert_eq!(
            code(&mut camera, 40, 1, &[]),
            (36, vec![(0, -10)], Some(Notice::FeedbackStarted))
        );
        camera.set_settings(CameraSettings {
            background_qp: 40,
            region_qp: 24,
            ..CameraSettings::default()
        });
        assert_eq!(code(&mut camera, 80, 2, &[]), (40, vec![(0, -16)], None));
    }

    #[test]
    fn names_of_counts_are_kebab_case_and_differ() {
        let (frames, regions, feedback) = (Stats::default(), RegionStats::default(), FeedbackStats::default());
        let all = frames.counters().chain(regions.counters()).chain(feedback.counters());
        let mut names: Vec<_> = all.map(|(name, _)| name).collect();
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|b| b == b'-' || b.is_ascii_lowercase()))
        );
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    /// Rectangle, quantizer, speed, time to live, frame offset.
    type Wild = (u32, u32, u32, u32, u8, i16, u32, u8);

    #[derive(Clone, Debug)]
    enum Step {
        Packet(Vec<u8>),
        Feedback(u16, u64, Vec<Wild>),
        Frame {
            wait: u64,
            idr: bool,
            bytes: usize,
            rois: Vec<(u32, u32, u32, i32)>,
        },
        Cap(u32),
        Back(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let region = (
            0u32..9000,
            0u32..9000,
            0u32..9000,
            0u32..9000,
            0u8..60,
            -127i16..127,
            0u32..5000,
            0u8..32,
        );
        let roi = (any::<u32>(), 0u32..300, 0u32..300, any::<i32>());
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80).prop_map(Step::Packet),
            (any::<u16>(), 0u64..30, prop::collection::vec(region, 0..20))
                .prop_map(|(g, f, r)| Step::Feedback(g, f, r)),
            (
                0u64..3_000_000_000,
                any::<bool>(),
                0usize..1_000_000,
                prop::collection::vec(roi, 0..4)
            )
                .prop_map(|(wait, idr, bytes, rois)| Step::Frame { wait, idr, bytes, rois }),
            (0u32..5000).prop_map(Step::Cap),
            any::<u64>().prop_map(Step::Back),
        ]
    }

    /// The plan of a frame: base quantizer, offsets, VBV.
    type Planned = (u8, Option<Vec<i8>>, Option<Vbv>);

    fn run(steps: &[Step], geometry: Geometry) -> (Vec<Planned>, Stats, FeedbackStats) {
        let mut camera = Camera::new(STREAM, geometry, CameraSettings::default());
        let (mut now, mut frame, mut plans) = (0u64, 0, vec![]);
        for step in steps {
            match step {
                Step::Packet(bytes) => drop(camera.push_feedback(now, Way::Pad, bytes)),
                Step::Feedback(generation, behind, regions) => {
                    let regions = regions
                        .iter()
                        .map(|(x, y, width, height, qp, speed, ttl_ms, offset)| Region {
                            rect: Rect {
                                x: *x,
                                y: *y,
                                width: *width,
                                height: *height,
                            },
                            quality: if *qp > 51 { Quality::Camera } else { Quality::Qp(*qp) },
                            motion: Motion {
                                dx: *speed,
                                dy: -*speed,
                            },
                            ttl_ms: *ttl_ms,
                            frame_offset: *offset,
                        });
                    let state = FeedbackState {
                        stream_id: STREAM,
                        generation: Serial16(*generation),
                        frame: u64::saturating_sub(frame, *behind),
                        regions: regions.collect(),
                        ..FeedbackState::default()
                    };
                    for packet in encode(&state).packets {
                        camera.push_feedback(now, Way::Event, &packet);
                    }
                }
                Step::Frame { wait, idr, bytes, rois } => {
                    now = now.saturating_add(*wait);
                    frame += 1;
                    let rois: Vec<_> = rois
                        .iter()
                        .map(|(x, y, size, delta_qp)| RoiRequest {
                            rect: Rect {
                                x: x % 2000,
                                y: *y,
                                width: *size,
                                height: *size,
                            },
                            delta_qp: *delta_qp,
                        })
                        .collect();
                    let plan = camera.begin_frame(now, frame, *idr, &rois);
                    plans.push((plan.base_qp, plan.offsets.map(<[i8]>::to_vec), plan.vbv));
                    camera.end_frame(now, *bytes, *idr);
                }
                Step::Cap(kbps) => camera.set_settings(CameraSettings {
                    max_bitrate_kbps: *kbps,
                    ..*camera.settings()
                }),
                Step::Back(to) => now = now.min(*to),
            }
        }
        let feedback = camera.feedback_stats().clone();
        (plans, camera.stats().clone(), feedback)
    }

    proptest! {
        #[test]
        fn any_input_gives_quantizers_in_range_even_offsets_and_the_same_answer_twice(
            steps in prop::collection::vec(step(), 0..60),
            width in 1u32..500,
            height in 1u32..300,
        ) {
            let geometry = Geometry { width, height };
            let (plans, frames, stats) = run(&steps, geometry);
            let limit = 0.35 * geometry.macroblocks() as f64;
            for (base, offsets, vbv) in &plans {
                prop_assert!((MIN_QP..=MAX_QP).contains(base));
                let offsets = offsets.as_deref().unwrap_or(&[]);
                prop_assert!(offsets.is_empty() || offsets.len() == geometry.macroblocks());
                prop_assert!(offsets.iter().filter(|offset| **offset < 0).count() as f64 <= limit);
                for offset in offsets {
                    prop_assert_eq!(offset % 2, 0);
                    prop_assert!((1..=51).contains(&(i32::from(*base) + i32::from(*offset))));
                }
                if let Some(vbv) = vbv {
                    prop_assert!(vbv.max_kbps >= 1 && vbv.buffer_kbit >= 1);
                }
            }
            prop_assert_eq!(frames.frames, plans.len() as u64);
            prop_assert_eq!(
                stats.packets,
                stats.packets_complete + stats.packets_partial + stats.packets_stale + stats.packets_duplicate
                    + stats.packets_foreign + stats.packets_malformed + stats.packets_rate_limited
                    + stats.packets_way_closed
            );
            prop_assert!(stats.generations_applied + stats.generations_superseded + stats.generations_outdated
                + stats.generations_future <= stats.packets_complete);
            prop_assert_eq!(run(&steps, geometry), (plans, frames, stats));
        }
    }
}
