// SPDX-License-Identifier: MPL-2.0

//! Camera-side decisions without GStreamer and without an encoder: feedback packets, input regions and coded bytes go
//! in, the quantizers of the next frame come out.
//!
//! Nothing here reads a clock. Every call takes `now`, in nanoseconds of one clock that the caller chooses (running
//! time, or video time when the pipeline is driven in lockstep); equal calls give equal answers. Calls up to half a
//! second out of order are taken as simultaneous, a larger step back as a seek.
//!
//! # One frame
//!
//! ```text
//! push_feedback(now, source, packet)*     any number of times, from any source
//! begin_frame(now, frame, idr, rois)      -> FramePlan: base quantizer, offset per macroblock, rate guard, notice
//!   ... encode ...
//! end_frame(now, bytes, idr)              what the frame cost, when it was coded
//! ```
//!
//! # The rule that merges regions
//!
//! Feedback regions and input regions ([`RoiRequest`]) of a frame meet in one map of macroblocks:
//!
//! 1. A macroblock belongs to a region as soon as one pixel does.
//! 2. Where regions overlap, **the finest one (lowest quantizer) wins**, whichever way it came.
//! 3. A region coarser than the base quantizer counts only where no other region lies.
//! 4. Differences to the base are even (odd ones are rounded towards finer), because x264 codes a macroblock whose
//!    quantizer differs by one from its neighbour's with the neighbour's quantizer. Quantizers stay within 1..=51.
//! 5. Regions finer than the base share [`Settings::max_region_area`]: input regions first, then feedback, way by way in the
//!    order of [`Source`] and within one in the order of its value. A region whose new macroblocks do not fit is left out whole and counted; smaller ones after it
//!    still get their turn.
//!
//! Each way that feedback comes by has its own generations: the newest complete one of each way acts until that way brings
//! a newer one, its regions' time ends, or nothing has come by that way for [`Settings::feedback_timeout_ns`]. So nobody
//! who can send by one way puts aside what comes by another. What one server sends by two ways is counted once, and the
//! slower of the two rests while the one before it is ahead.
//!
//! Input regions are relative to the base quantizer of their frame, hold for that frame alone, work in every mode and
//! never count as feedback.

#![forbid(unsafe_code)]

mod cap;
mod controller;
mod gate;
mod keyframes;
mod pace;
mod qpmap;
mod regions;
mod requests;
pub mod ring;
mod stats;
pub mod timeline;

pub use controller::{Controller, ControllerSettings, Estimate, Knobs, LossEstimator};
pub use gate::{Outcome, Source, turned_away};
pub use keyframes::{KeyFrameCounts, KeyFrameRequests};
pub use pace::Pace;
pub use qpmap::QpMap;
pub use requests::{RefineCounts, Refusal, Request, Requests, stretched};
pub use stats::{DelayStats, Stats};

use dds_protocol::feedback::{FeedbackState, Rect};
use dds_protocol::serial::Serial16;

use crate::vbv::Vbv;

use cap::RateCap;
use gate::{Gate, Pending};
use qpmap::Added;
use regions::RegionStore;

/// Edge of a macroblock in pixels.
pub const MACROBLOCK: u32 = 16;
/// Smallest quantizer that is ever asked for: 0 is lossless coding in some profiles.
pub const MIN_QP: u8 = 1;
/// Largest H.264 quantizer of 8-bit video.
pub const MAX_QP: u8 = 51;

/// Size of the coded picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl Geometry {
    /// Macroblocks per row: width over 16, rounded up.
    pub fn mb_width(&self) -> usize {
        self.width.div_ceil(MACROBLOCK) as usize
    }

    /// Macroblock rows: height over 16, rounded up.
    pub fn mb_height(&self) -> usize {
        self.height.div_ceil(MACROBLOCK) as usize
    }

    /// Macroblocks of the picture: the length of [`FramePlan::offsets`].
    pub fn macroblocks(&self) -> usize {
        self.mb_width() * self.mb_height()
    }
}

/// Most kbit/s (1000 bits) that regions of feedback may add to the video in any one second. Their difference to the base
/// quantizer shrinks to keep it; the base, and regions of the video itself, stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedbackBound {
    /// Whatever they take.
    None,
    /// By size and rate of the video: see [`Self::kbps`].
    Derived,
    /// So many.
    Kbps(u32),
}

/// kbit/s that regions of feedback may add to a macroblock of video of 30 frames per second.
const DERIVED_KBPS: f64 = 1.0;
/// Least that is derived, in kbit/s: on small pictures a few macroblocks decide.
const DERIVED_MIN_KBPS: f64 = 1000.0;

impl FeedbackBound {
    /// In numbers; 0 = none. Derived is 1 kbit/s for each macroblock at 30 frames per second, and follows the square root
    /// of the rate, because pictures further apart differ more: 3600 kbit/s for 720p30, 8160 for 1080p30, 1000 at least. Of
    /// nine videos whose server asks for what it cannot tell, the worst second took 0.1 to 0.8 of it, background included.
    pub fn kbps(self, geometry: Geometry, frame_rate: f64) -> u32 {
        match self {
            Self::None => 0,
            Self::Kbps(kbps) => kbps,
            Self::Derived => {
                let kbps = DERIVED_KBPS * geometry.macroblocks() as f64 * (frame_rate / 30.0).max(0.0).sqrt();
                kbps.max(DERIVED_MIN_KBPS) as u32
            }
        }
    }
}

/// What the user may set. All of it may change between two frames ([`Camera::set_settings`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Quantizer outside regions, 1..=51.
    pub background_qp: u8,
    /// Quantizer inside regions that do not name their own, 1..=51.
    pub region_qp: u8,
    /// Uniform quantizer while no server steers, 1..=51.
    pub fallback_qp: u8,
    /// Silence after which the server counts as gone, in nanoseconds; 0 = never.
    pub feedback_timeout_ns: u64,
    /// Most of the picture that regions may refine, as a fraction 0.0..=1.0.
    pub max_region_area: f64,
    /// Most kbit/s (1000 bits) in any one second; 0 = no cap.
    pub max_bitrate_kbps: u32,
    /// What regions of feedback may add.
    pub feedback: FeedbackBound,
    /// Nominal frames per second; 0 where unknown (30 is assumed). Bounds how much feedback is parsed.
    pub frame_rate: f64,
    /// Whether feedback is acted on at all. Where it is not (an encoder mode without offsets), packets are counted as
    /// refused and every plan is uniform at `background_qp`.
    pub steered: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            background_qp: 36,
            region_qp: 26,
            fallback_qp: 30,
            feedback_timeout_ns: 2_000_000_000,
            max_region_area: 0.35,
            max_bitrate_kbps: 0,
            feedback: FeedbackBound::None,
            frame_rate: 30.0,
            steered: true,
        }
    }
}

impl Settings {
    /// The settings with every value brought into its range; a rate or area that is no number becomes the default.
    fn clamped(mut self) -> Self {
        self.background_qp = self.background_qp.clamp(MIN_QP, MAX_QP);
        self.region_qp = self.region_qp.clamp(MIN_QP, MAX_QP);
        self.fallback_qp = self.fallback_qp.clamp(MIN_QP, MAX_QP);
        let default = Self::default();
        self.max_region_area = if self.max_region_area.is_nan() {
            default.max_region_area
        } else {
            self.max_region_area.clamp(0.0, 1.0)
        };
        self.frame_rate = if self.frame_rate.is_finite() && self.frame_rate > 0.0 {
            self.frame_rate.clamp(0.01, 1000.0)
        } else {
            default.frame_rate
        };
        self
    }
}

/// A region asked for by an input buffer (`GstVideoRegionOfInterestMeta` with a `roi/ddsencode` structure). Holds for
/// that frame alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoiRequest {
    /// Where, in pixels of the coded picture. What lies outside is cut off and counted.
    pub rect: Rect,
    /// Difference to the frame's base quantizer: negative is finer. Positive is coarser and counts only where no other
    /// region lies. Odd values are rounded towards finer.
    pub delta_qp: i32,
}

/// What governs the base quantizer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// First frame of a stream: background quality, because a first picture at better quality costs more than what it
    /// improves.
    First,
    /// No server, or it fell silent: uniform at `fallback-qp`.
    Fallback,
    /// A server steers: `background-qp`, regions finer.
    Steered,
    /// Steering is switched off ([`Settings::steered`]).
    Unsteered,
}

/// A feedback state that begins to act with this frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its generation.
    pub generation: Serial16,
    /// The frame it derives from.
    pub frame: u64,
    /// Regions it carries.
    pub regions: usize,
    /// Time from the moment that frame was coded to now, in nanoseconds; `None` where that frame is too long ago to be
    /// remembered.
    pub delay_ns: Option<u64>,
}

/// Something the application should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The first feedback of this stream arrived in time: no message is needed.
    FeedbackStarted,
    /// No feedback for `feedback-timeout`: this frame falls back. Once per silence.
    FeedbackLost {
        /// How long nothing usable has come, in nanoseconds.
        silence_ns: u64,
        /// Nothing has ever come on this stream.
        never: bool,
    },
    /// Feedback is there again after a [`Notice::FeedbackLost`].
    FeedbackRecovered {
        /// How long it was away, in nanoseconds.
        silence_ns: u64,
    },
}

/// How to code one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FramePlan<'a> {
    /// Quantizer of everything without an offset, 1..=51.
    pub base_qp: u8,
    /// Offset to `base_qp` per macroblock in raster order ([`Geometry::macroblocks`] of them): 0, or even with a
    /// magnitude of at least 2, the sum within 1..=51. `None`: uniform.
    pub offsets: Option<&'a [i8]>,
    /// Rate guard to set in the encoder before this frame; `None`: as it was. An encoder is opened with
    /// [`Vbv::OPEN`].
    pub vbv: Option<Vbv>,
    /// The feedback that begins to act with this frame.
    pub applied: Option<Applied>,
    /// What the application should be told.
    pub notice: Option<Notice>,
    /// What governs the base quantizer.
    pub mode: Mode,
}

/// Frames whose coding time is remembered, to measure the feedback delay.
const CODED_FRAMES: usize = 256;

/// Steps back in time up to this are calls out of order.
const DISORDER_NS: u64 = 500_000_000;

/// Whether a server is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Nothing yet, since the first frame.
    Waiting,
    /// Heard.
    Up,
    /// Reported as lost.
    Lost,
}

/// The camera side of one stream.
#[derive(Clone, Debug)]
pub struct Camera {
    settings: Settings,
    geometry: Geometry,
    gate: Gate,
    /// By [`Source`].
    regions: [RegionStore; Source::COUNT],
    map: QpMap,
    cap: RateCap,
    stats: Stats,
    link: Link,
    /// Time of the first frame, for silence that never was anything else.
    started: Option<u64>,
    last_now: u64,
    /// When the last usable feedback came before it was reported lost.
    lost_since: u64,
    current_frame: Option<u64>,
    coded: Box<[(u64, u64)]>,
    coded_next: usize,
    /// What the rate cap asked of the last frame.
    floor: u8,
}

impl Camera {
    /// A camera for the stream `stream_id` (see [`dds_protocol::identity::FrameIdentity::stream_id`]).
    ///
    /// Settings out of range are brought into range; the caller's properties refuse them before.
    pub fn new(stream_id: u32, geometry: Geometry, settings: Settings) -> Self {
        let settings = settings.clamped();
        Self {
            gate: Gate::new(stream_id),
            regions: std::array::from_fn(|_| RegionStore::new()),
            map: QpMap::new(geometry),
            cap: RateCap::new(geometry.macroblocks()),
            stats: Stats::default(),
            link: Link::Waiting,
            started: None,
            last_now: 0,
            lost_since: 0,
            current_frame: None,
            coded: vec![(u64::MAX, 0); CODED_FRAMES].into_boxed_slice(),
            coded_next: 0,
            floor: 0,
            settings,
            geometry,
        }
    }

    /// Begins a new stream (new encoder, perhaps another picture size): feedback for the one before becomes foreign and
    /// its regions end. Counts go on. Bytes coded in the last second still count against the cap.
    pub fn restart(&mut self, stream_id: u32, geometry: Geometry) {
        self.gate.restart(stream_id);
        self.regions.iter_mut().for_each(RegionStore::clear);
        self.geometry = geometry;
        self.map = QpMap::new(geometry);
        self.cap.restart(geometry.macroblocks());
        self.link = Link::Waiting;
        self.started = None;
        self.current_frame = None;
        self.coded.fill((u64::MAX, 0));
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes new settings; they act from the next frame.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings.clamped();
    }

    /// Says whether the encoder's own rate control chooses the base quantizer (average bit rate, constant quality) and
    /// offsets are differences on top of it; `false` at first. A rate cap then acts through [`FramePlan::vbv`] alone and
    /// leaves offsets as they are, because such an encoder spends elsewhere what a smaller difference saves. Its average
    /// bit rate should be set no higher than the cap, and with each guard no higher than [`Vbv::max_kbps`].
    pub fn set_library_rate_control(&mut self, on: bool) {
        self.cap.set_library_rates(on);
    }

    /// Takes one bare feedback packet (no RTCP framing), whichever way it came. Cheap and bounded: at most twice the
    /// frame rate of them is parsed by each way, the rest counted as rate limited.
    pub fn push_feedback(&mut self, now: u64, source: Source, packet: &[u8]) -> Outcome {
        let now = self.observe(now);
        self.stats.arrived(source);
        self.gate.push(
            now,
            (source, packet),
            self.current_frame,
            &self.settings,
            &mut self.stats,
        )
    }

    /// Says when a complete generation came that did not come through [`Self::push_feedback`]: in two passes it names
    /// frames of the past ([`Requests`]), and here it only tells that the server is there.
    pub fn heard(&mut self, at: u64) {
        self.gate.heard(at);
    }

    /// Decides how to code the frame `frame` (number of the captured frame since encoder start, rising, gaps allowed).
    ///
    /// At most one feedback state of each way begins to act: the newest complete one. `idr` says whether the caller expects this
    /// frame to be an IDR picture; it only helps to foresee its size under a rate cap. `rois` hold for this frame.
    pub fn begin_frame(&mut self, now: u64, frame: u64, idr: bool, rois: &[RoiRequest]) -> FramePlan<'_> {
        let now = self.observe(now);
        let first = self.started.is_none();
        let started = *self.started.get_or_insert(now);
        self.current_frame = Some(frame);

        let notice = self.follow_link(now, started);
        let applied = self.apply_pending(now, frame);
        let mode = match self.link {
            _ if !self.settings.steered => Mode::Unsteered,
            _ if first => Mode::First,
            Link::Up => Mode::Steered,
            Link::Waiting | Link::Lost => Mode::Fallback,
        };
        let base_qp = match mode {
            Mode::First | Mode::Steered | Mode::Unsteered => self.settings.background_qp,
            Mode::Fallback => self.settings.fallback_qp,
        };
        self.map.begin(base_qp, self.settings.max_region_area);
        if self.settings.steered {
            self.paint_rois(base_qp, rois);
        } else {
            self.stats.roi_requested += rois.len() as u64;
            self.stats.roi_refused += rois.len() as u64;
        }
        if mode == Mode::Steered {
            self.map.begin_feedback();
            for (source, regions) in Source::ALL.into_iter().zip(&mut self.regions) {
                if !self.gate.rests(source, now, self.settings.feedback_timeout_ns) {
                    regions.paint(now, frame, &self.settings, &mut self.map, &mut self.stats);
                }
            }
        }
        self.map.merge();

        self.cap.begin(now, self.settings.frame_rate);
        let bound = self.settings.feedback.kbps(self.geometry, self.settings.frame_rate);
        if mode == Mode::Steered && bound > 0 && self.regions.iter().any(RegionStore::any) {
            let floor = self.cap.plan_feedback(now, idr, bound, &self.map);
            let finest = self.map.finest_qp();
            self.map.hold(floor);
            self.stats.feedback_trimmed_frames += u64::from(self.map.finest_qp() > finest);
        }
        let cap = self
            .cap
            .plan(now, idr || first, self.settings.max_bitrate_kbps, &self.map);
        self.count_frame(mode, cap.floor);
        let (base_qp, offsets) = self.map.limit(cap.floor);
        self.floor = cap.floor;
        self.stats.frames_with_regions += u64::from(offsets.is_some());
        FramePlan {
            base_qp,
            offsets,
            vbv: cap.vbv,
            applied,
            notice,
            mode,
        }
    }

    /// Says what the frame of the last [`Self::begin_frame`] became: size of the whole access unit in bytes and whether
    /// it is an IDR picture. Not called for a frame that was not coded.
    pub fn end_frame(&mut self, now: u64, coded_bytes: usize, idr: bool) {
        let now = self.observe(now);
        let Some(frame) = self.current_frame else { return };
        self.coded[self.coded_next] = (frame, now);
        self.coded_next = (self.coded_next + 1) % CODED_FRAMES;
        self.stats.frames_coded += 1;
        self.stats.frames_idr += u64::from(idr);
        self.stats.bytes += coded_bytes as u64;
        self.cap.coded(coded_bytes, idr, &mut self.stats);
    }

    /// Ends all regions and drops waiting feedback, for a flushing seek: what the server found lies in other pictures.
    /// The stream and its mode go on.
    pub fn flush(&mut self) {
        Source::ALL.into_iter().for_each(|source| self.forget(source));
    }

    /// Ends what came by one way.
    fn forget(&mut self, source: Source) {
        let waited = self.gate.take_pending(source);
        self.stats.generations_outdated += u64::from(waited.is_some_and(|pending| pending.news));
        self.regions[source as usize].clear();
    }

    /// Finest quantizer that the rate cap allowed the frame of the last [`Self::begin_frame`]; 0: any.
    pub fn cap_floor(&self) -> u8 {
        self.floor
    }

    /// Share of the frame of the last [`Self::begin_frame`], 0.0..=1.0, that its regions are expected to take: for a
    /// [`Controller`] where there is one pass, whose frames hold both of what it steers.
    pub fn region_share(&self) -> f64 {
        self.map.region_share()
    }

    /// Everything that happened since [`Self::new`].
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Makes one line of time of what callers say. Calls from several threads may be a little out of order: time then
    /// stands still. After a larger step back (a seek restarts running time) all that is remembered goes back too, so
    /// that ages are kept and the step itself counts as no time.
    fn observe(&mut self, now: u64) -> u64 {
        let back = self.last_now.saturating_sub(now);
        if back <= DISORDER_NS {
            self.last_now = self.last_now.max(now);
            return self.last_now;
        }
        self.last_now = now;
        self.gate.shift_back(back);
        self.regions.iter_mut().for_each(|regions| regions.shift_back(back));
        self.cap.shift_back(back);
        self.started = self.started.map(|time| time.saturating_sub(back));
        for (_, time) in &mut self.coded {
            *time = time.saturating_sub(back);
        }
        now
    }

    /// Notices silence and its end.
    fn follow_link(&mut self, now: u64, started: u64) -> Option<Notice> {
        if !self.settings.steered {
            return None;
        }
        let heard = self.gate.last_complete();
        let silence_ns = now.saturating_sub(heard.unwrap_or(started));
        let timeout_ns = self.settings.feedback_timeout_ns;
        let is_over = |silence_ns: u64| timeout_ns > 0 && silence_ns >= timeout_ns;
        let silent = is_over(silence_ns);
        // Each way has its own silence: one that has died leaves nothing behind while another steers. What waits is as old.
        for source in Source::ALL {
            if self
                .gate
                .last_complete_by(source)
                .is_some_and(|at| is_over(now.saturating_sub(at)))
            {
                self.forget(source);
            }
        }
        match (self.link, silent) {
            (Link::Waiting | Link::Up, true) => {
                self.link = Link::Lost;
                self.lost_since = now.saturating_sub(silence_ns);
                self.stats.feedback_lost += 1;
                Some(Notice::FeedbackLost {
                    silence_ns,
                    never: heard.is_none(),
                })
            }
            (Link::Lost, false) if heard.is_some() => {
                self.link = Link::Up;
                self.stats.feedback_recovered += 1;
                Some(Notice::FeedbackRecovered {
                    silence_ns: now.saturating_sub(self.lost_since),
                })
            }
            (Link::Waiting, false) if heard.is_some() => {
                self.link = Link::Up;
                Some(Notice::FeedbackStarted)
            }
            _ => None,
        }
    }

    /// Puts the newest state of each way in the place of that before it. The newest of all, by its frame, is told.
    fn apply_pending(&mut self, now: u64, frame: u64) -> Option<Applied> {
        let mut newest: Option<Applied> = None;
        for source in Source::ALL {
            let Some(Pending { state, news }) = self.gate.take_pending(source) else {
                continue;
            };
            self.regions[source as usize].apply(now, frame, &state, news);
            if !news {
                continue;
            }
            let applied = self.count_applied(now, frame, &state);
            if newest.is_none_or(|newest| newest.frame < applied.frame) {
                newest = Some(applied);
            }
        }
        newest
    }

    fn count_applied(&mut self, now: u64, frame: u64, state: &FeedbackState) -> Applied {
        self.stats.generations_applied += 1;
        self.stats.generation_last = u64::from(state.generation.0);
        self.stats.generations_empty += u64::from(state.regions.is_empty());
        let delay_ns = self
            .coded
            .iter()
            .find(|(coded, _)| *coded == state.frame)
            .map(|(_, at)| now.saturating_sub(*at));
        match delay_ns {
            Some(delay_ns) => self.stats.delay.record(delay_ns, frame.saturating_sub(state.frame)),
            None => self.stats.delay_unknown += 1,
        }
        Applied {
            generation: state.generation,
            frame: state.frame,
            regions: state.regions.len(),
            delay_ns,
        }
    }

    fn paint_rois(&mut self, base_qp: u8, rois: &[RoiRequest]) {
        self.stats.roi_requested += rois.len() as u64;
        for RoiRequest { rect, delta_qp } in rois {
            let (x, y) = (i64::from(rect.x), i64::from(rect.y));
            let placement = self
                .map
                .place(x, y, x + i64::from(rect.width), y + i64::from(rect.height));
            let Some(mbs) = placement.mbs else {
                self.stats.roi_outside += 1;
                continue;
            };
            self.stats.roi_clipped += u64::from(placement.clipped);
            match self.map.paint(mbs, i32::from(base_qp).saturating_add(*delta_qp)) {
                Added::Painted => self.stats.roi_applied += 1,
                Added::OverArea => self.stats.roi_over_area += 1,
            }
        }
    }

    fn count_frame(&mut self, mode: Mode, floor: u8) {
        let stats = &mut self.stats;
        stats.frames += 1;
        match mode {
            Mode::First => stats.frames_first += 1,
            Mode::Fallback => stats.frames_fallback += 1,
            Mode::Steered => stats.frames_steered += 1,
            Mode::Unsteered => stats.frames_unsteered += 1,
        }
        let had_regions = self.map.finest_qp() < i32::from(self.map.base_qp());
        if floor > self.map.base_qp() {
            stats.cap_raised_frames += 1;
        }
        if had_regions && floor >= self.map.base_qp() {
            stats.cap_flattened_frames += 1;
        } else if had_regions && i32::from(floor) > self.map.finest_qp() {
            stats.cap_trimmed_frames += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dds_protocol::feedback::{FeedbackState, Motion, Quality, Region, encode};
    use proptest::prelude::*;

    const STREAM: u32 = 0xabcd;
    const MS: u64 = 1_000_000;
    const GEOMETRY: Geometry = Geometry { width: 64, height: 64 };

    fn camera() -> Camera {
        Camera::new(
            STREAM,
            GEOMETRY,
            Settings {
                max_region_area: 1.0,
                ..Settings::default()
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
        };
        encode(&state).packets.remove(0)
    }

    /// Codes one frame; gives base quantizer, macroblocks with their offset, and the notice.
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
        camera.set_settings(Settings {
            feedback: FeedbackBound::Kbps(1),
            max_region_area: 1.0,
            ..Settings::default()
        });
        code(&mut camera, 0, 0, &[]);
        let own = RoiRequest {
            rect: square(0, 0),
            delta_qp: -8,
        };
        camera.push_feedback(10 * MS, Source::Pad, &packet(1, 0, &[square(0, 0), square(32, 32)]));
        // What feedback asks for costs more than it may: the video's own region is what it would be without any.
        let (base, offsets, _) = code(&mut camera, 40, 1, &[own]);
        assert_eq!((base, offsets[0]), (36, (0, -8)));
        assert!(offsets[1..].iter().all(|(_, offset)| *offset > -10), "{offsets:?}");
        assert_eq!(code(&mut camera, 80, 2, &[own]).1, [(0, -8)]);
        assert_eq!(code(&mut camera, 120, 3, &[]), (36, vec![], None));
        assert_eq!(camera.stats().feedback_trimmed_frames, 3);
        camera.set_settings(Settings {
            feedback: FeedbackBound::None,
            max_region_area: 1.0,
            ..Settings::default()
        });
        assert_eq!(code(&mut camera, 160, 4, &[own]).1, [(0, -10), (10, -10)]);
    }

    #[test]
    fn the_first_frame_has_background_quality_and_the_next_fall_back_until_feedback_comes() {
        let mut camera = camera();
        assert_eq!(code(&mut camera, 0, 0, &[]), (36, vec![], None));
        assert_eq!(code(&mut camera, 40, 1, &[]), (30, vec![], None));
        camera.push_feedback(60 * MS, Source::Pad, &packet(1, 1, &[square(16, 16)]));
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
        camera.push_feedback(10 * MS, Source::Pad, &packet(1, 0, &[square(0, 0)]));
        assert_eq!(code(&mut camera, 40, 1, &[]).1, [(0, -10)]);
        camera.push_feedback(50 * MS, Source::Pad, &packet(2, 1, &[]));
        assert_eq!(code(&mut camera, 80, 2, &[]), (36, vec![], None));
        assert_eq!(camera.stats().generations_empty, 1);
    }

    #[test]
    fn one_state_is_applied_per_frame_and_the_newest_wins() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        for (generation, x) in [(1, 0), (2, 16), (3, 32)] {
            camera.push_feedback(10 * MS, Source::Rtcp, &packet(generation, 0, &[square(x, 0)]));
        }
        let plan = camera.begin_frame(40 * MS, 1, false, &[]);
        assert_eq!(plan.applied.map(|applied| applied.generation), Some(Serial16(3)));
        assert_eq!(
            plan.offsets.map(|offsets| offsets[..4].to_vec()),
            Some(vec![0, 0, -10, 0])
        );
        camera.end_frame(45 * MS, 100, false);
        assert_eq!(camera.begin_frame(80 * MS, 2, false, &[]).applied, None);
        let stats = camera.stats();
        assert_eq!((stats.generations_applied, stats.generations_superseded), (1, 2));
        assert_eq!((stats.packets, stats.packets_rtcp), (3, 3));
    }

    #[test]
    fn the_newest_state_of_each_way_counts_and_the_finest_quantizer_wins() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Source::Rtcp, &packet(900, 0, &[square(0, 0), square(16, 0)]));
        camera.push_feedback(0, Source::Uri, &packet(7, 0, &[square(16, 0), square(32, 0)]));
        let plan = camera.begin_frame(40 * MS, 1, false, &[]);
        assert_eq!(plan.offsets.map(|o| o[..4].to_vec()), Some(vec![-10, -10, -10, 0]));
        camera.end_frame(45 * MS, 100, false);
        // An empty list by one way ends what came by it, and nothing else.
        camera.push_feedback(50 * MS, Source::Rtcp, &packet(901, 1, &[]));
        assert_eq!(code(&mut camera, 80, 2, &[]).1, [(1, -10), (2, -10)]);
        assert_eq!(camera.stats().generations_applied, 3);
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
            };
            encode(&state).packets.remove(0)
        };
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Source::Rtcp, &long(1, 0, 0));
        for frame in 1..100u64 {
            let now = frame * 40;
            camera.push_feedback(now * MS, Source::Uri, &long(frame as u16, frame - 1, 32));
            let expected: &[_] = if now <= 2000 {
                &[(0, -10), (2, -10)]
            } else {
                &[(2, -10)]
            };
            assert_eq!(code(&mut camera, now, frame, &[]).1, expected, "{now} ms");
        }
        assert_eq!(camera.stats().feedback_lost, 0);
    }

    #[test]
    fn what_is_sealed_comes_first_in_the_shared_area() {
        let mut camera = camera();
        camera.set_settings(Settings {
            max_region_area: 1.0 / 16.0,
            ..Settings::default()
        });
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Source::Rtcp, &packet(1, 0, &[square(0, 0)]));
        camera.push_feedback(0, Source::Uri, &packet(1, 0, &[square(48, 0)]));
        assert_eq!(code(&mut camera, 40, 1, &[]).1, [(3, -10)]);
        assert_eq!(camera.stats().regions_over_area, 1);
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
                camera.push_feedback(now * MS, Source::Uri, &packet);
            }
            camera.push_feedback(now * MS, Source::Pad, &packet);
            // From when the dead way's last region has ended.
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
        let stats = camera.stats();
        assert_eq!((stats.generations_applied, stats.packets_duplicate), (200, 100));
        assert_eq!((stats.regions_requested, stats.regions_applied), (200, 200));
        assert_eq!(stats.feedback_lost, 0);
    }

    #[test]
    fn silence_falls_back_once_and_feedback_recovers_by_itself() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Source::Pad, &packet(1, 0, &[square(0, 0)]));
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
        camera.push_feedback(2060 * MS, Source::Pad, &packet(2, 52, &[square(16, 0)]));
        let recovered = Notice::FeedbackRecovered { silence_ns: 2080 * MS };
        assert_eq!(code(&mut camera, 2090, 53, &[]), (36, vec![(1, -10)], Some(recovered)));
        assert_eq!(
            (camera.stats().feedback_lost, camera.stats().feedback_recovered),
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
        camera.set_settings(Settings {
            feedback_timeout_ns: 0,
            ..Settings::default()
        });
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Source::Pad, &packet(1, 0, &[]));
        assert_eq!(code(&mut camera, 40, 1, &[]).2, Some(Notice::FeedbackStarted));
        assert_eq!(code(&mut camera, 3_600_000, 2, &[]), (36, vec![], None));
    }

    #[test]
    fn feedback_that_waited_longer_than_the_timeout_is_not_applied() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Source::Pad, &packet(1, 0, &[square(0, 0)]));
        let (base, offsets, notice) = code(&mut camera, 5000, 1, &[]);
        assert_eq!((base, offsets), (30, vec![]));
        assert!(matches!(notice, Some(Notice::FeedbackLost { never: false, .. })));
        assert_eq!(
            (camera.stats().generations_outdated, camera.stats().generations_applied),
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
        camera.push_feedback(100 * MS, Source::Pad, &packet(1, 2, &[square(16, 0), square(48, 0)]));
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
        assert_eq!(camera.stats().packets, 1);
    }

    #[test]
    fn input_regions_come_before_feedback_in_the_shared_area() {
        let mut camera = camera();
        camera.set_settings(Settings {
            max_region_area: 1.0 / 16.0,
            ..Settings::default()
        });
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(0, Source::Pad, &packet(1, 0, &[square(0, 0)]));
        let roi = RoiRequest {
            rect: square(32, 0),
            delta_qp: -6,
        };
        assert_eq!(code(&mut camera, 40, 1, &[roi]).1, [(2, -6)]);
        assert_eq!(camera.stats().regions_over_area, 1);
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
        camera.push_feedback(130 * MS, Source::Pad, &packet(1, 1, &[]));
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
        camera.push_feedback(1200 * MS, Source::Pad, &packet(1, 0, &[]));
        let plan = camera.begin_frame(1200 * MS, 300, false, &[]);
        assert_eq!(plan.applied.map(|applied| applied.delay_ns), Some(None));
        assert_eq!((camera.stats().delay_unknown, camera.stats().delay.count), (1, 0));
    }

    #[test]
    fn a_new_stream_makes_feedback_for_the_old_one_foreign() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Source::Pad, &packet(1, 0, &[square(0, 0)]));
        code(&mut camera, 40, 1, &[]);
        camera.restart(STREAM + 1, Geometry { width: 32, height: 32 });
        assert_eq!(
            camera.push_feedback(50 * MS, Source::Pad, &packet(2, 0, &[])),
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
        camera.push_feedback(10 * MS, Source::Pad, &packet(1, 0, &[square(0, 0)]));
        code(&mut camera, 40, 1, &[]);
        camera.flush();
        assert_eq!(code(&mut camera, 80, 2, &[]), (36, vec![], None));
    }

    #[test]
    fn time_that_goes_back_neither_loses_the_server_nor_keeps_regions_for_ever() {
        let mut camera = camera();
        code(&mut camera, 100_000, 0, &[]);
        camera.push_feedback(100_010 * MS, Source::Pad, &packet(1, 0, &[square(0, 0)]));
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
        camera.push_feedback(10 * MS, Source::Pad, &packet(1, 0, &[square(0, 0)]));
        for frame in 1..=24 {
            // Every frame begins before the last one was said to end.
            assert_eq!(code(&mut camera, frame * 40, frame, &[]).1, [(0, -10)], "frame {frame}");
            camera.end_frame((frame * 40 + 60) * MS, 10, false);
        }
    }

    #[test]
    fn with_steering_off_every_plan_is_uniform_and_every_request_is_counted_as_refused() {
        let mut camera = camera();
        camera.set_settings(Settings {
            steered: false,
            ..Settings::default()
        });
        let roi = RoiRequest {
            rect: square(0, 0),
            delta_qp: -6,
        };
        for frame in 0..100 {
            assert_eq!(
                camera.push_feedback(0, Source::Event, &packet(1, 0, &[square(0, 0)])),
                Outcome::Refused
            );
            assert_eq!(code(&mut camera, frame * 40, frame, &[roi]), (36, vec![], None));
        }
        assert_eq!((camera.stats().packets_refused, camera.stats().roi_refused), (100, 100));
        assert_eq!(camera.stats().frames_unsteered, 100);
    }

    #[test]
    fn quantizers_follow_live_settings_from_the_next_frame() {
        let mut camera = camera();
        code(&mut camera, 0, 0, &[]);
        camera.push_feedback(10 * MS, Source::Pad, &packet(1, 0, &[square(0, 0)]));
        assert_eq!(
            code(&mut camera, 40, 1, &[]),
            (36, vec![(0, -10)], Some(Notice::FeedbackStarted))
        );
        camera.set_settings(Settings {
            background_qp: 40,
            region_qp: 24,
            ..Settings::default()
        });
        assert_eq!(code(&mut camera, 80, 2, &[]), (40, vec![(0, -16)], None));
    }

    #[test]
    fn names_of_counts_are_kebab_case_and_differ() {
        let stats = Stats::default();
        let mut names: Vec<_> = stats.counters().map(|(name, _)| name).collect();
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

    /// What a frame was planned as: base quantizer, offsets, guard.
    type Plan = (u8, Option<Vec<i8>>, Option<Vbv>);

    fn run(steps: &[Step], geometry: Geometry) -> (Vec<Plan>, Stats) {
        let mut camera = Camera::new(STREAM, geometry, Settings::default());
        let (mut now, mut frame, mut plans) = (0u64, 0, vec![]);
        for step in steps {
            match step {
                Step::Packet(bytes) => drop(camera.push_feedback(now, Source::Pad, bytes)),
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
                    };
                    for packet in encode(&state).packets {
                        camera.push_feedback(now, Source::Event, &packet);
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
                Step::Cap(kbps) => camera.set_settings(Settings {
                    max_bitrate_kbps: *kbps,
                    ..*camera.settings()
                }),
                Step::Back(to) => now = now.min(*to),
            }
        }
        let stats = camera.stats().clone();
        (plans, stats)
    }

    proptest! {
        #[test]
        fn any_input_gives_quantizers_in_range_even_offsets_and_the_same_answer_twice(
            steps in prop::collection::vec(step(), 0..60),
            width in 1u32..500,
            height in 1u32..300,
        ) {
            let geometry = Geometry { width, height };
            let (plans, stats) = run(&steps, geometry);
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
            prop_assert_eq!(stats.frames, plans.len() as u64);
            prop_assert_eq!(
                stats.packets,
                stats.packets_complete + stats.packets_partial + stats.packets_stale + stats.packets_duplicate
                    + stats.packets_foreign + stats.packets_malformed + stats.packets_rate_limited
                    + stats.packets_way_closed
            );
            prop_assert!(stats.generations_applied + stats.generations_superseded + stats.generations_outdated
                + stats.generations_future <= stats.packets_complete);
            prop_assert_eq!(run(&steps, geometry), (plans, stats));
        }
    }
}
