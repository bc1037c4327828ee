// SPDX-License-Identifier: MPL-2.0

//! The plan of the stream: decides whether a captured picture is coded, and how.

use dds_protocol::extension::{Bound, InForce};
use dds_protocol::feedback::FeedbackState;

use crate::vbv::Vbv;

use super::bandwidth::{BandwidthControl, FrameSplit};
use super::cap::{RateCap, Rates};
use super::clock::Clock;
use super::controller::{ControllerSettings, OperatingPoint};
use super::gop::{FrameKind, Gop};
use super::pace::Pace;
use super::qpmap::{Added, QpMap};
use super::receiver::{FeedbackUpdate, Liveness, ReceivedState, Way};
use super::regions::RegionStore;
use super::stats::{RegionStats, Stats};
use super::types::{
    Applied, CameraSettings, Capture, FrameMode, FramePlan, Geometry, Interval, MAX_QP, Notice, Plan, RoiRequest, Skip,
};
use super::window::Window;
use super::wishes::{Granted, Situation, Teller, WishBook, coarsest};

/// Frames whose coding time is remembered, to measure the feedback delay.
const CODED_FRAMES: usize = 256;
/// Full rate after a report of loss: what is lost heals with the pictures that follow.
const DAMAGED_NS: u64 = 500_000_000;
/// Segment length of the controller where the stream has no segments: that of the DDS paper.
const SEGMENT_FRAMES: u32 = 15;

/// Configuration that an encoder was opened for.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Size of the coded picture.
    pub size: Geometry,
    /// Sizes that may be chosen where a bandwidth is set, as fractions of the captured one's sides, largest first.
    pub scales: Vec<f64>,
    /// Index of `size` in them.
    pub scale: usize,
    /// Frames per second that the encoder assumes.
    pub frame_rate: f64,
    /// Whether there is a second pass, so that regions are not coded in this stream.
    pub two_passes: bool,
    /// Frames of a segment, each of which begins with a key frame; 0 = none.
    pub segment_length: u8,
    /// Frames from one key frame to the next at most.
    pub key_int_max: u64,
    /// Pictures are refreshed piece by piece instead of by key frames.
    pub refreshed: bool,
    /// A picture that servers do not want is coded as a repetition of the one before, so that the encoder sees every
    /// captured picture.
    pub repeats: bool,
    /// Age of a key frame, in nanoseconds, that makes the next one due where pictures keep another rate than that.
    pub key_frame_after_ns: Option<u64>,
    /// Distance of pictures in time; `None`: by [`CameraSettings::frame_rate`].
    pub pace: Option<Pace>,
    /// Whether the encoder's own rate control chooses the base quantizer (average bit rate, constant quality) and
    /// offsets are differences on top of it. A rate cap then acts through [`FramePlan::vbv`] alone and leaves offsets
    /// as they are, because such an encoder spends elsewhere what a smaller difference saves. Its average bit rate
    /// should be set no higher than the cap, and with each VBV no higher than
    /// [`Vbv::max_kbps`](crate::vbv::Vbv::max_kbps).
    pub library_rates: bool,
}

impl StreamConfig {
    /// One pass in one size at 30 frames per second, with exact quantizers.
    pub fn new(size: Geometry) -> Self {
        Self {
            size,
            scales: vec![1.0],
            scale: 0,
            frame_rate: 30.0,
            two_passes: false,
            segment_length: 0,
            key_int_max: u64::MAX,
            refreshed: false,
            repeats: false,
            key_frame_after_ns: None,
            pace: None,
            library_rates: false,
        }
    }

    /// Distance of captured pictures in time.
    pub fn interval(&self) -> Interval {
        match &self.pace {
            Some(pace) => Interval {
                ns: pace.interval_ns(),
                scale: pace.scale(),
                measured: pace.is_measured(),
            },
            None => Interval {
                ns: 1e9 / self.frame_rate,
                scale: 1.0,
                measured: false,
            },
        }
    }

    fn controller(&self, settings: &CameraSettings) -> ControllerSettings {
        ControllerSettings {
            frame_rate: self.frame_rate,
            segment_frames: match self.segment_length {
                0 => SEGMENT_FRAMES,
                length => u32::from(length),
            },
            reference: OperatingPoint {
                low_qp: settings.background_qp,
                high_qp: settings.region_qp,
                low_scale_index: 0,
            },
            low_scales: self.scales.clone(),
            ..ControllerSettings::default()
        }
    }
}

/// Plans the frames of one stream after another. It alone decides about a stream: see the [module](super).
#[derive(Clone, Debug)]
pub struct StreamPlanner {
    settings: CameraSettings,
    /// The same with the quantizers chosen for a bandwidth.
    in_force: CameraSettings,
    config: StreamConfig,
    /// Index of the size that pictures are to be coded in.
    wanted_scale: usize,
    gop: Gop,
    bandwidth: BandwidthControl,
    /// By [`Way`].
    regions: [RegionStore; Way::COUNT],
    map: QpMap,
    cap: RateCap,
    /// Floor that the cap put under the last frame.
    floor: u8,
    window: Window,
    clock: Clock,
    stats: Stats,
    region_stats: RegionStats,
    started: bool,
    current_frame: Option<u64>,
    wishes: WishBook,
    granted: Granted,
    teller: Teller,
    /// Time up to which a report of loss means full rate, unless a key frame comes before.
    damaged_until: u64,
    /// Of pictures that were not coded, for the next one.
    notice: Option<Notice>,
    coded: Box<[(u64, u64)]>,
    coded_next: usize,
}

impl StreamPlanner {
    /// A planner for the first stream. Settings out of range are clamped; the element's properties refuse them earlier.
    pub fn new(config: StreamConfig, settings: CameraSettings) -> Self {
        let settings = settings.clamped();
        let mut cap = RateCap::new(config.size.macroblocks());
        cap.set_library_rates(config.library_rates);
        Self {
            bandwidth: BandwidthControl::new(config.controller(&settings)),
            regions: std::array::from_fn(|_| RegionStore::new()),
            map: QpMap::new(config.size),
            cap,
            floor: 0,
            window: Window::default(),
            clock: Clock::default(),
            gop: Gop::new(config.key_int_max, config.segment_length, 0).with_refresh(config.refreshed),
            wishes: WishBook::default(),
            granted: Granted::default(),
            teller: Teller::default(),
            damaged_until: 0,
            notice: None,
            stats: Stats::default(),
            region_stats: RegionStats::default(),
            started: false,
            current_frame: None,
            coded: vec![(u64::MAX, 0); CODED_FRAMES].into_boxed_slice(),
            coded_next: 0,
            wanted_scale: config.scale,
            in_force: settings,
            settings,
            config,
        }
    }

    /// Begins a new stream (new encoder, perhaps another picture size): the regions of the one before end. Counts
    /// continue. Bytes coded in the last second still count against the cap.
    pub fn restart(&mut self, config: StreamConfig) {
        // The controller keeps what it has learnt: that made it choose another size.
        if config.scale == self.config.scale || config.scale != self.wanted_scale {
            self.bandwidth.restart(config.controller(&self.settings));
        }
        self.wanted_scale = config.scale;
        self.regions.iter_mut().for_each(RegionStore::clear);
        self.map = QpMap::new(config.size);
        self.cap.restart(config.size.macroblocks());
        self.cap.set_library_rates(config.library_rates);
        self.window.restart();
        self.gop = Gop::new(config.key_int_max, config.segment_length, self.clock.now()).with_refresh(config.refreshed);
        (self.started, self.current_frame, self.damaged_until) = (false, None, 0);
        self.wishes.clear();
        (self.granted, self.teller) = (Granted::default(), Teller::default());
        self.coded.fill((u64::MAX, 0));
        self.config = config;
    }

    /// The settings of the user.
    pub fn settings(&self) -> &CameraSettings {
        &self.settings
    }

    /// The settings of the last frame: those of the user, with the quantizers chosen for a bandwidth.
    pub fn in_force(&self) -> &CameraSettings {
        &self.in_force
    }

    /// Sets new settings; they apply from the next frame.
    pub fn set_settings(&mut self, settings: CameraSettings) {
        self.settings = settings.clamped();
    }

    /// Index in [`StreamConfig::scales`] of the size that the next picture is to be coded in.
    pub fn scale(&self) -> usize {
        self.wanted_scale
    }

    /// Whether pictures that servers do not want are repetitions of the one before.
    pub fn repeats(&self) -> bool {
        self.config.repeats
    }

    /// Distance of pictures in time, where it is measured.
    pub fn pace(&self) -> Option<&Pace> {
        self.config.pace.as_ref()
    }

    /// Captured pictures from one sent picture to the next, as servers wish: 1 = all are sent.
    pub fn sent_interval(&self) -> u8 {
        self.granted.interval
    }

    /// Whether a server that is alive has wished for an interval: [`Capture::changes`] counts.
    pub fn is_wished(&self) -> bool {
        self.settings.wishes.interval && self.wishes.interval_is_wished()
    }

    /// The newest time observed, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// kbit/s that a bandwidth allows now, 0 where none is set.
    pub fn available_kbps(&self) -> u32 {
        self.bandwidth.available_kbps()
    }

    /// The next frame has to be a key frame, whether or not one is requested.
    pub fn force_key_frame(&mut self) {
        self.gop.force();
    }

    /// Takes a receiver's report of the stream: time in nanoseconds, fraction lost 0.0..=1.0 since the one before,
    /// interarrival jitter in milliseconds, extended highest sequence number (RFC 3550, section 6.4.1).
    pub fn report(&mut self, now: u64, loss: f64, jitter_ms: f64, highest_seq: u32) {
        self.stats.receiver_reports += 1;
        if loss > 0.0 {
            self.damaged_until = now.saturating_add(DAMAGED_NS);
        }
        self.bandwidth.report(now, loss, jitter_ms, highest_seq);
    }

    /// Decides what to do with a captured picture. Where it is coded, `feedback` is called with settings, time and
    /// number of the frame for the newest feedback
    /// ([`FeedbackReceiver::begin_frame`](super::FeedbackReceiver::begin_frame)).
    ///
    /// At most one feedback state of each way begins to act: the newest complete one.
    pub fn plan(
        &mut self,
        capture: &Capture<'_>,
        feedback: impl FnOnce(&CameraSettings, u64, u64) -> FeedbackUpdate,
    ) -> Plan<'_> {
        if self.wanted_scale != self.config.scale {
            return Plan::Reopen {
                scale: self.wanted_scale,
            };
        }
        if capture.late {
            self.stats.frames_late += 1;
            return Plan::Skip(Skip::Late);
        }
        let (now, frame) = (self.observe(capture.now), capture.frame);
        let after_ns = self.follow_pace(now);
        let kind = self.gop.begin(now, frame, capture.key_frame, after_ns);
        let update = feedback(&self.settings, now, frame);
        let applied = self.apply(now, frame, &update);
        self.notice = update.notice.or(self.notice.take());
        self.grant(now, capture, &update);
        let due = self.is_due(frame, kind);
        if !due && !capture.changes {
            return self.leave_out(frame);
        }
        self.stats.frames_woken += u64::from(!due);
        let first = !std::mem::replace(&mut self.started, true);
        self.current_frame = Some(frame);
        let interval = self.coded_interval();
        self.window.begin(now, self.sent_rate());
        self.choose_quantizers(now, kind, capture.refined_bytes);

        let mode = self.mode(first, update.liveness);
        let base_qp = match mode {
            FrameMode::First | FrameMode::Steered | FrameMode::Unsteered => self.in_force.background_qp,
            FrameMode::Fallback => self.in_force.fallback_qp,
        };
        self.paint(now, frame, base_qp, mode, &update, capture.rois);
        let vbv = self.bound(now, kind.expected, first, mode);
        let in_force = self.tell(mode);
        let heard = self.wishes.is_heard();
        let tells = in_force.is_some_and(|in_force| kind.forced || self.teller.is_due(now, &in_force, heard));
        if let Some(in_force) = in_force.filter(|_| tells) {
            self.teller.told(now, in_force);
        }
        let (base_qp, offsets) = self.map.limit(self.floor);
        self.stats.frames_with_regions += u64::from(offsets.is_some());
        Plan::Code(FramePlan {
            base_qp,
            offsets,
            vbv,
            size: self.config.size,
            interval,
            now,
            settings: &self.in_force,
            key_frame: kind.forced,
            segment: kind.segment,
            applied,
            notice: self.notice.take(),
            mode,
            in_force,
            woken: !due,
            tells,
        })
    }

    /// Follows the wishes of servers, and what bounds them.
    fn grant(&mut self, now: u64, capture: &Capture<'_>, update: &FeedbackUpdate) {
        let settings = &self.settings;
        let own = (settings.background_qp, settings.region_qp);
        let joined = self.wishes.hear(now, update, own);
        let (_, coarsest) = coarsest(settings);
        let situation = Situation {
            rate: settings.frame_rate,
            damaged: capture.damaged || now < self.damaged_until,
            coarsest_bytes: self
                .cap
                .bytes_at(coarsest.max(settings.background_qp), self.config.size.macroblocks()),
            bandwidth_kbps: self.bandwidth.available_kbps(),
        };
        self.granted = Granted::of(joined, settings, &situation, self.granted.interval);
    }

    /// Whether servers want a picture, or need it.
    fn is_due(&self, frame: u64, kind: FrameKind) -> bool {
        let since = self.current_frame.map(|sent| frame.saturating_sub(sent));
        kind.due || since.is_none_or(|since| since >= u64::from(self.granted.interval))
    }

    fn leave_out(&mut self, frame: u64) -> Plan<'static> {
        self.stats.frames_skipped += 1;
        if !self.config.repeats {
            self.gop.leave_out();
        }
        self.regions.iter_mut().for_each(|regions| regions.postpone(frame));
        Plan::Skip(Skip::Asked)
    }

    /// Accounts for a picture that servers do not want and that repeats the one before, in bytes of its access unit.
    pub fn end_repetition(&mut self, now: u64, coded_bytes: usize) {
        let now = self.observe(now);
        self.stats.frames_repeated += 1;
        self.stats.bytes_repeated += coded_bytes as u64;
        self.stats.bytes += coded_bytes as u64;
        self.gop.repeat();
        self.cap.unplanned(now, coded_bytes, &mut self.window);
    }

    /// Sent pictures per second, without repetitions.
    fn sent_rate(&self) -> f64 {
        self.settings.frame_rate / f64::from(self.granted.interval)
    }

    /// Distance of coded pictures in time. The encoder takes it for the captured one, and spends by it.
    fn coded_interval(&self) -> Interval {
        let interval = self.config.interval();
        // The encoder spends little on repetitions, and the rest on those that are sent.
        if self.granted.interval == 1 || self.config.repeats {
            return interval;
        }
        let every = f64::from(self.granted.interval);
        Interval {
            ns: interval.ns * every,
            scale: interval.scale * every,
            measured: true,
        }
    }

    /// What is in force in the frame that is planned, where servers may wish.
    fn tell(&self, mode: FrameMode) -> Option<InForce> {
        if !self.settings.wishes.interval {
            return None;
        }
        let (granted, map) = (&self.granted, &self.map);
        let mut bounds = granted.bounds;
        if matches!(mode, FrameMode::First | FrameMode::Fallback) {
            bounds.quantizer = Bound::Fallback;
        } else if self.floor > map.base_qp() {
            bounds.quantizer = if self.settings.bandwidth.is_some() {
                Bound::Bandwidth
            } else {
                Bound::Cap
            };
        }
        let background_qp = map.base_qp().max(self.floor);
        let ceilings = [
            self.in_force.max_bitrate_kbps,
            granted.ceiling_kbps,
            self.bandwidth.available_kbps(),
        ];
        Some(InForce {
            background_qp,
            region_qp: self.in_force.region_qp.max(self.floor).min(MAX_QP),
            interval: granted.interval,
            ceiling_kbps: ceilings.into_iter().filter(|kbps| *kbps > 0).min().unwrap_or(0),
            bounds,
        })
    }

    /// Follows the distance of pictures. Returns the age from which on the last key frame makes the next one due.
    fn follow_pace(&mut self, now: u64) -> Option<u64> {
        let pace = self.config.pace.as_mut()?;
        pace.picture(now);
        self.settings.frame_rate = (1e9 / pace.interval_ns()).clamp(0.01, 1000.0);
        self.config.key_frame_after_ns.filter(|_| pace.is_measured())
    }

    fn mode(&self, first: bool, liveness: Liveness) -> FrameMode {
        match liveness {
            _ if !self.in_force.steered => FrameMode::Unsteered,
            _ if first => FrameMode::First,
            Liveness::Up => FrameMode::Steered,
            Liveness::Waiting | Liveness::Lost => FrameMode::Fallback,
        }
    }

    /// Determines the settings in force: with a bandwidth nothing is coded finer than it allows, with or without a
    /// server.
    fn choose_quantizers(&mut self, now: u64, kind: FrameKind, refined_bytes: u64) {
        self.in_force = self.settings;
        let own = (self.settings.background_qp, self.settings.region_qp);
        self.in_force.background_qp = self.granted.background_qp.unwrap_or(own.0);
        self.in_force.region_qp = self.granted.region_qp.unwrap_or(own.1);
        let idr = kind.expected;
        let ceiling = self.granted.ceiling_kbps;
        let bandwidth = (self.settings.bandwidth, ceiling);
        let point = self
            .bandwidth
            .plan(now, idr, bandwidth, refined_bytes, &mut self.window);
        let Some(point) = point else {
            self.wanted_scale = 0;
            return;
        };
        self.wanted_scale = point.low_scale_index;
        let (low, high) = match ceiling {
            0 => self.settings.qp_limits,
            // The cap below leads further where the bandwidth itself requires it.
            _ => coarsest(&self.settings),
        };
        let limit = |qp: u8| qp.max(low).min(high);
        let kbps = self.bandwidth.available_kbps();
        // The controller keeps the bandwidth; the cap bounds what it cannot foresee.
        let kept = kbps.saturating_add(kbps / 12);
        self.in_force.background_qp = limit(point.low_qp);
        self.in_force.region_qp = limit(point.high_qp);
        self.in_force.fallback_qp = limit(point.low_qp);
        self.in_force.max_bitrate_kbps = match self.settings.max_bitrate_kbps {
            0 => kept,
            cap => cap.min(kept),
        };
    }

    /// Replaces the state of each way by its newest one. Returns the newest of all, by its frame.
    fn apply(&mut self, now: u64, frame: u64, update: &FeedbackUpdate) -> Option<Applied> {
        let mut newest: Option<Applied> = None;
        for (place, way) in update.ways.iter().enumerate() {
            if way.ended {
                self.regions[place].clear();
            }
            let Some(ReceivedState { feedback, news }) = &way.state else {
                continue;
            };
            self.regions[place].apply(now, frame, feedback, *news);
            if !news {
                continue;
            }
            let applied = self.count_applied(now, frame, feedback);
            if newest.is_none_or(|newest| newest.frame < applied.frame) {
                newest = Some(applied);
            }
        }
        newest
    }

    fn count_applied(&mut self, now: u64, frame: u64, state: &FeedbackState) -> Applied {
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

    /// Paints the map of a frame: regions of the video first, then those of feedback, way by way.
    fn paint(
        &mut self,
        now: u64,
        frame: u64,
        base_qp: u8,
        mode: FrameMode,
        update: &FeedbackUpdate,
        rois: &[RoiRequest],
    ) {
        self.map.begin(base_qp, self.in_force.max_region_area);
        if self.in_force.steered {
            self.paint_rois(base_qp, rois);
        } else {
            self.stats.roi_requested += rois.len() as u64;
            self.stats.roi_refused += rois.len() as u64;
        }
        if mode == FrameMode::Steered {
            self.map.begin_feedback();
            for (way, regions) in update.ways.iter().zip(&mut self.regions) {
                if !way.rests {
                    regions.paint(now, frame, &self.in_force, &mut self.map, &mut self.region_stats);
                }
            }
        }
        self.map.merge();
    }

    /// Bounds the bytes of the painted frame, by what feedback may add and by the cap.
    fn bound(&mut self, now: u64, idr: bool, first: bool, mode: FrameMode) -> Option<Vbv> {
        self.cap.begin();
        let bound = self.in_force.feedback.kbps(self.config.size, self.sent_rate());
        let base = self.map.base_qp();
        // Finer than the user's only where a server wishes it.
        let own = self.granted.background_qp.map_or(base, |_| self.settings.background_qp);
        let asked = self.regions.iter().any(RegionStore::any) || base < own;
        let mut held = 0;
        if mode == FrameMode::Steered && bound > 0 && asked {
            let floor = self
                .cap
                .plan_feedback((now, &self.window), idr, (bound, own), &self.map);
            let finest = self.map.finest_qp();
            self.map.hold(floor);
            held = if floor > base { floor } else { 0 };
            self.stats.feedback_trimmed_frames += u64::from(self.map.finest_qp() > finest || held > 0);
        }
        let rates = Rates {
            cap_kbps: self.in_force.max_bitrate_kbps,
            ceiling_kbps: self.granted.ceiling_kbps,
            ceiling_qp: coarsest(&self.settings).1,
        };
        let cap = self
            .cap
            .plan((now, &mut self.window), idr || first, (rates, held), &self.map);
        self.floor = cap.floor.max(held);
        self.count_frame(mode, cap.floor);
        cap.vbv
    }

    /// Accounts for the frame of the last [`Self::plan`]: size of the whole access unit in bytes, and whether it is an
    /// IDR picture. Not called for a frame that was not coded.
    pub fn end_frame(&mut self, now: u64, coded_bytes: usize, idr: bool) {
        let now = self.observe(now);
        let Some(frame) = self.current_frame else { return };
        self.coded[self.coded_next] = (frame, now);
        self.coded_next = (self.coded_next + 1) % CODED_FRAMES;
        self.stats.frames_coded += 1;
        self.stats.frames_idr += u64::from(idr);
        self.stats.bytes += coded_bytes as u64;
        self.gop.end(now, idr);
        if idr {
            self.damaged_until = 0;
        }
        self.cap.coded(coded_bytes, idr, &mut self.window, &mut self.stats);
        let split = if self.config.two_passes {
            FrameSplit::Passes
        } else {
            FrameSplit::Regions {
                share: self.map.region_share(self.floor),
                floor: self.floor,
            }
        };
        self.bandwidth.coded(coded_bytes, split, &mut self.window);
    }

    /// Counts since [`Self::new`].
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Fates of the regions of feedback in one pass.
    pub fn region_stats(&self) -> &RegionStats {
        &self.region_stats
    }

    fn observe(&mut self, now: u64) -> u64 {
        let (now, back) = self.clock.observe(now);
        if let Some(by) = back {
            self.regions.iter_mut().for_each(|regions| regions.shift_back(by));
            self.cap.shift_back(by);
            self.window.shift_back(by);
            self.wishes.shift_back(by);
            self.damaged_until = self.damaged_until.saturating_sub(by);
            for (_, time) in &mut self.coded {
                *time = time.saturating_sub(by);
            }
        }
        now
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

    fn count_frame(&mut self, mode: FrameMode, floor: u8) {
        let stats = &mut self.stats;
        stats.frames += 1;
        match mode {
            FrameMode::First => stats.frames_first += 1,
            FrameMode::Fallback => stats.frames_fallback += 1,
            FrameMode::Steered => stats.frames_steered += 1,
            FrameMode::Unsteered => stats.frames_unsteered += 1,
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
    use std::sync::Arc;

    use dds_protocol::feedback::{Rect, Region};
    use dds_protocol::wish::{Wish, Wishes};

    use super::super::receiver::ReceivedState;
    use super::super::types::{Bandwidth, WishBounds};
    use super::*;

    const SIZE: Geometry = Geometry {
        width: 640,
        height: 360,
    };
    const FRAME_NS: u64 = 33_333_333;

    fn capture(frame: u64) -> Capture<'static> {
        Capture {
            now: frame * FRAME_NS,
            frame,
            late: false,
            key_frame: false,
            damaged: false,
            changes: false,
            refined_bytes: 0,
            rois: &[],
        }
    }

    fn nobody(_: &CameraSettings, _: u64, _: u64) -> FeedbackUpdate {
        FeedbackUpdate::default()
    }

    fn with_bandwidth(max_kbps: u32) -> CameraSettings {
        CameraSettings {
            bandwidth: Some(Bandwidth { max_kbps, min_kbps: 0 }),
            ..CameraSettings::default()
        }
    }

    /// Codes frames that cost so many bytes at quantizer 36, half as many for each six more. Returns the base
    /// quantizers, up to where the planner demands another size.
    fn code(planner: &mut StreamPlanner, frames: std::ops::Range<u64>, bytes: f64) -> (Vec<u8>, Option<usize>) {
        let mut quantizers = Vec::new();
        for frame in frames {
            let capture = capture(frame);
            let qp = match planner.plan(&capture, nobody) {
                Plan::Code(plan) => plan.base_qp,
                Plan::Skip(_) => continue,
                Plan::Reopen { scale } => return (quantizers, Some(scale)),
            };
            quantizers.push(qp);
            let coded = bytes * ((36.0 - f64::from(qp)) / 6.0).exp2();
            planner.end_frame(capture.now, coded as usize, frame == 0);
        }
        (quantizers, None)
    }

    #[test]
    fn a_late_picture_is_skipped_and_nothing_else_happens() {
        let mut planner = StreamPlanner::new(StreamConfig::new(SIZE), CameraSettings::default());
        code(&mut planner, 0..3, 1000.0);
        let late = Capture {
            late: true,
            ..capture(3)
        };
        let feedback = |_: &CameraSettings, _: u64, _: u64| panic!("feedback is for frames that are coded");
        assert_eq!(planner.plan(&late, feedback), Plan::Skip(Skip::Late));
        assert_eq!((planner.stats().frames_late, planner.stats().frames), (1, 3));
        assert_eq!(planner.now(), 2 * FRAME_NS);
    }

    #[test]
    fn a_plan_names_size_key_frame_and_place_in_the_segment() {
        let config = StreamConfig {
            segment_length: 3,
            ..StreamConfig::new(SIZE)
        };
        let mut planner = StreamPlanner::new(config, CameraSettings::default());
        let mut places = Vec::new();
        for frame in 0..7 {
            let Plan::Code(plan) = planner.plan(&capture(frame), nobody) else {
                panic!("it is coded")
            };
            assert_eq!((plan.size, plan.now), (SIZE, frame * FRAME_NS));
            places.push((plan.key_frame, plan.segment.map(|place| (place.index, place.position))));
            let key_frame = plan.key_frame;
            planner.end_frame(frame * FRAME_NS, 1000, key_frame);
        }
        let place = |frame: u64| (frame.is_multiple_of(3), Some((frame / 3, (frame % 3) as u8)));
        assert_eq!(places, (0..7).map(place).collect::<Vec<_>>());
        planner.force_key_frame();
        assert!(matches!(planner.plan(&capture(7), nobody), Plan::Code(plan) if plan.key_frame));
    }

    #[test]
    fn a_bandwidth_chooses_quantizers_within_their_limits() {
        let mut planner = StreamPlanner::new(StreamConfig::new(SIZE), with_bandwidth(1000));
        // At 36 it takes 2400 kbit/s.
        let (quantizers, _) = code(&mut planner, 0..300, 10_000.0);
        assert_eq!(planner.available_kbps(), 1000);
        assert!(
            quantizers[200..].iter().all(|qp| (42..=46).contains(qp)),
            "{quantizers:?}"
        );
        planner.set_settings(CameraSettings {
            qp_limits: (1, 40),
            ..with_bandwidth(1000)
        });
        code(&mut planner, 300..330, 10_000.0);
        assert_eq!(planner.in_force().background_qp, 40);
        planner.set_settings(CameraSettings::default());
        assert!(code(&mut planner, 330..340, 100.0).0.iter().all(|qp| *qp == 30));
        assert_eq!(planner.available_kbps(), 0);
    }

    #[test]
    fn another_size_is_asked_for_before_anything_else_and_what_is_known_goes_on() {
        let config = StreamConfig {
            scales: vec![1.0, 0.75],
            two_passes: true,
            ..StreamConfig::new(SIZE)
        };
        let mut planner = StreamPlanner::new(config.clone(), with_bandwidth(200));
        let (quantizers, scale) = code(&mut planner, 0..600, 10_000.0);
        assert_eq!(scale, Some(1), "{quantizers:?}");
        let frames = planner.stats().frames;
        assert_eq!(planner.plan(&capture(600), nobody), Plan::Reopen { scale: 1 });
        assert_eq!(planner.stats().frames, frames, "nothing is counted twice");
        planner.restart(StreamConfig {
            scale: 1,
            size: Geometry {
                width: 480,
                height: 270,
            },
            ..config
        });
        let (after, none) = code(&mut planner, 600..630, 6500.0);
        assert_eq!(none, None);
        // It does not begin at the quantizers of the user again.
        assert!(after[1..].iter().all(|qp| *qp > 38), "{after:?}");
    }

    /// A server that wishes this interval for a second with every frame, from the second one on.
    fn wishing(interval: u8) -> impl Fn(&CameraSettings, u64, u64) -> FeedbackUpdate {
        move |_, _, frame| {
            let mut update = FeedbackUpdate {
                liveness: Liveness::Up,
                ..FeedbackUpdate::default()
            };
            let wishes = Wishes {
                interval: Some(Wish {
                    value: interval,
                    ttl_ms: 1000,
                }),
                ..Wishes::default()
            };
            let region = Region {
                rect: Rect {
                    width: 16,
                    height: 16,
                    ..Rect::default()
                },
                ..Region::default()
            };
            update.ways[0].state = (frame > 0).then(|| ReceivedState {
                feedback: Arc::new(FeedbackState {
                    frame: frame - 1,
                    regions: vec![region],
                    wishes,
                    ..FeedbackState::default()
                }),
                news: true,
            });
            update.notice = (frame == 4).then_some(Notice::FeedbackStarted);
            update
        }
    }

    /// Captures frames; returns the numbers of those coded.
    fn sent(planner: &mut StreamPlanner, frames: std::ops::Range<u64>, interval: u8) -> Vec<u64> {
        let feedback = wishing(interval);
        frames
            .filter(|frame| {
                let Plan::Code(plan) = planner.plan(&capture(*frame), &feedback) else {
                    return false;
                };
                let idr = plan.key_frame;
                planner.end_frame(frame * FRAME_NS, 1000, idr);
                true
            })
            .collect()
    }

    fn wished() -> StreamPlanner {
        let settings = CameraSettings {
            wishes: WishBounds::ALL,
            ..CameraSettings::default()
        };
        StreamPlanner::new(StreamConfig::new(SIZE), settings)
    }

    #[test]
    fn after_a_report_of_loss_every_picture_is_sent_for_a_while() {
        let mut planner = wished();
        assert_eq!(sent(&mut planner, 0..30, 4), [0, 4, 8, 12, 16, 20, 24, 28]);
        planner.report(30 * FRAME_NS, 0.05, 1.0, 100);
        let sent = sent(&mut planner, 30..60, 4);
        let expected: Vec<u64> = (30..46).chain([49, 53, 57]).collect();
        assert_eq!(sent, expected);
    }

    #[test]
    fn news_of_a_picture_that_is_left_out_counts_for_the_next_one() {
        let mut planner = wished();
        sent(&mut planner, 0..4, 6);
        let feedback = wishing(6);
        for frame in 4..6 {
            assert_eq!(planner.plan(&capture(frame), &feedback), Plan::Skip(Skip::Asked));
        }
        let Plan::Code(plan) = planner.plan(&capture(6), nobody) else {
            panic!("it is due")
        };
        assert_eq!(plan.notice, Some(Notice::FeedbackStarted));
        // The region has no time to live: it acts in one coded frame.
        assert_eq!(planner.region_stats().regions_expired, 0);
    }

    #[test]
    fn an_encoder_spends_by_the_distance_of_the_pictures_that_it_codes() {
        let mut planner = wished();
        sent(&mut planner, 0..30, 5);
        let Plan::Code(plan) = planner.plan(&capture(30), wishing(5)) else {
            panic!("it is due")
        };
        let interval = plan.interval;
        assert!(interval.measured && (interval.scale - 5.0).abs() < 1e-9, "{interval:?}");
        planner.end_frame(30 * FRAME_NS, 1000, false);
        let Plan::Code(plan) = planner.plan(&capture(31), wishing(1)) else {
            panic!("all are wanted")
        };
        assert_eq!((plan.interval.scale, plan.interval.measured), (1.0, false));
    }
}
