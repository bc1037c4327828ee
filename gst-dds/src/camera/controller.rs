// SPDX-License-Identifier: MPL-2.0

//! Bandwidth controller: chooses the quantizers of both passes, and the size of the first, so that together they use
//! the available bandwidth.
//!
//! It is the controller of the DDS paper (section on bandwidth adaptation), extended for a live camera. A
//! **configuration** `c` is a low quantizer, a high quantizer and a scale of the low pass. Its **multiplier** `s(c)` is
//! its cost relative to the reference configuration ([`ControllerSettings::reference`]); the **base** `b` is the cost
//! of the reference configuration in kbit/s, for the current content. With the rate `y` measured over a segment under
//! multiplier `s`:
//!
//! ```text
//! E' = E + q            q = (0.05 b)^2: the variance of the content
//! K  = E' s / (s^2 E' + r)         r = (0.1 y)^2: the variance of a measurement
//! b <- b + K (y - s b)
//! E <- (1 - K s) E'
//! s* = s + (1 - p) (target - y) / b        p: pole, 0 to 0.5
//! ```
//!
//! The most accurate configuration with `s(c) <= s*` is taken. Accuracy is defined by an order, the ladder: one step
//! refines either the high quantizer or the low one, so that their distance stays that of the reference as long as both
//! are within their ranges.
//!
//! Extensions:
//!
//! - **Dithering.** A step of one quantizer moves some 12 % of the bits. The remainder of `s*` that a configuration
//!   does not use is carried to the next frame, so that neighbouring configurations alternate and their mean is `s*`.
//! - **Debt.** The difference of bytes coded and bytes granted is paid back within about a second. It is bounded on
//!   both sides: a scene that cannot use the bandwidth saves up no credit, and one that took too much is not starved
//!   for it.
//! - **Multipliers that follow the content.** `s(c) = (1 - x) L(low quantizer, scale) + x H(high quantizer)`, where `x`
//!   is the share of the second pass at the reference. `L` and `H` start as `2^(-qp / 6)`; `x` and the steps of the
//!   tables follow the measurements and forget exponentially.
//! - **Surprise.** Where a few frames cost so much more or less than the filter predicts that noise cannot explain it,
//!   the estimate is replaced at once instead of at the end of the segment.
//! - **Weights.** The cost of IDR pictures of the first pass relative to others is measured, and so is the share of
//!   each frame of a segment in the second pass.
//! - **A bound on every second.** No configuration is taken with which any second that contains this frame is expected
//!   to exceed the target by more than 6 %. It looks ahead over the coming second, IDR pictures that come regularly
//!   included. The rate cap of [`StreamPlanner`](super::StreamPlanner) remains behind it.
//!
//! # One frame
//!
//! ```text
//! set_target(kbps)                    whenever it changes
//! plan(now, idr)                      -> OperatingPoint
//!   ... encode ...
//! on_frame(bytes_low, bytes_refine)   bytes of the first pass, and those of the second since the last call
//! ```
//!
//! The second pass may trail by any number of frames; it is best coded at [`OperatingPoint::high_qp`] of the newest
//! plan, whichever frame it belongs to, and frame by frame, because a burst cannot be corrected. Nothing here reads a
//! clock; `now` is in nanoseconds of one clock.
//!
//! In one pass a frame holds both parts. The bytes that its regions are expected to take
//! ([`StreamPlanner`](super::StreamPlanner)) are then counted as the second pass.

use super::types::MAX_QP;
use super::window::{Account, MAX_HORIZON, Window};

/// The second that must keep the target, a little less for rounded time stamps: a frame that begins a second after
/// another belongs to the next second, otherwise regular IDR pictures would be counted once too often.
const SECOND_NS: u64 = 995_000_000;
/// Any second may be planned to exceed the target by this factor.
const PLANNED: f64 = 1.06;
/// Time in which a debt is paid back, in seconds.
const REPAY_S: f64 = 0.6;
/// Most debt and most credit that is kept, in seconds of the target.
const MAX_DEBT_S: f64 = 0.15;
const MAX_CREDIT_S: f64 = 0.2;
/// Largest part of `s*` that a credit adds.
const MAX_BONUS: f64 = 0.1;
/// Relative deviations behind `q` and `r`.
const CONTENT_DEVIATION: f64 = 0.05;
const MEASUREMENT_DEVIATION: f64 = 0.1;
/// A few frames that differ from the base by this factor are more than noise.
const SURPRISE: f64 = 1.4;
/// Frames that must agree on a surprise.
const SURPRISED_FRAMES: u32 = 4;
/// Log2 of the bits that one quantizer step moves: initial value, and the least and most that is plausible.
const STEP: f64 = 1.0 / 6.0;
const STEP_MIN: f64 = 1.0 / 10.0;
const STEP_MAX: f64 = 1.0 / 3.5;
/// Part of a step's error that one measurement corrects, and the least change (log2) that is used.
const STEP_LEARNED: f64 = 0.15;
const STEP_SEEN: f64 = 0.25;
/// Bits of a picture grow with its pixels to this power at equal quantizers.
const SCALE_POWER: f64 = 0.75;
/// Cost of an IDR picture relative to others, assumed before one was coded; least and most that is plausible.
const TYPICAL_IDR: f64 = 5.0;
const IDR_RANGE: (f64, f64) = (1.0, 60.0);
/// Low quantizer from which on a smaller picture saves bits better, and the one up to which a larger picture must stay
/// to be used again. The distance is the hysteresis: a change of scale costs an IDR picture.
const SHRINK_QP: f64 = 44.0;
const GROW_QP: f64 = 38.0;
/// Control windows that must agree before the scale changes: to a smaller one, to a larger one.
const SHRINK_PATIENCE: u32 = 2;
const GROW_PATIENCE: u32 = 5;
/// Factor by which a burst that cannot be corrected, the second pass of a whole segment or an IDR picture out of turn,
/// may be predicted too small.
const CAUTION: f64 = 1.2;
/// Share of the newest segment in the expected second pass of each of its frames, and the factor of the mean that the
/// bytes of one frame are limited to.
const SEASONAL: f64 = 0.25;
const SEASON_MOST: f64 = 20.0;
/// Share of the newest frame in the slow mean of the first pass, and the factor by which the fast one must exceed it to
/// be used for the coming second: one large frame predicts little about it.
const SLOW: f64 = 0.1;
const SURGE: f64 = 1.2;
/// Most frames of a segment.
const MAX_SEGMENT: usize = 512;
const QPS: usize = MAX_QP as usize + 1;

/// Quantizers and size chosen by the controller, between the cheapest and the most accurate coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperatingPoint {
    /// Quantizer of the first pass (whole frames).
    pub low_qp: u8,
    /// Quantizer of the second pass (regions), at least two below that of the first.
    pub high_qp: u8,
    /// Index into [`ControllerSettings::low_scales`]. A change needs a new encoder, and so an IDR picture.
    pub low_scale_index: usize,
}

/// Settings of a [`Controller`].
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerSettings {
    /// Nominal frames per second; the real distance of frames is measured. 30 where it is not a number.
    pub frame_rate: f64,
    /// Frames of a segment, 1..=512: 15 in the paper. Two segments make a control window.
    pub segment_frames: u32,
    /// Configuration that is the unit of all costs, in use while there is no target and at the start.
    pub reference: OperatingPoint,
    /// Finest and coarsest quantizer of the first pass, within 3..=51.
    pub low_qp: (u8, u8),
    /// Finest quantizer of the second pass, 1..=49. The coarsest is two below that of the first.
    pub finest_high_qp: u8,
    /// Linear scales of the first pass, largest first, 0.1..=1.0. Empty is one of 1.0.
    pub low_scales: Vec<f64>,
    /// `p`, 0.0..=0.5: the part of a measured error that is left for later segments.
    pub pole: f64,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self {
            frame_rate: 30.0,
            segment_frames: 15,
            reference: OperatingPoint {
                low_qp: 36,
                high_qp: 26,
                low_scale_index: 0,
            },
            low_qp: (20, MAX_QP),
            finest_high_qp: 18,
            low_scales: vec![1.0],
            pole: 0.1,
        }
    }
}

impl ControllerSettings {
    /// The settings with every value clamped to its range.
    fn clamped(mut self) -> Self {
        if !(self.frame_rate.is_finite() && self.frame_rate > 0.0) {
            self.frame_rate = 30.0;
        }
        self.frame_rate = self.frame_rate.clamp(0.1, 1000.0);
        self.segment_frames = self.segment_frames.clamp(1, MAX_SEGMENT as u32);
        let (finest, coarsest) = self.low_qp;
        let finest = finest.clamp(3, MAX_QP);
        self.low_qp = (finest, coarsest.clamp(finest, MAX_QP));
        self.finest_high_qp = self.finest_high_qp.clamp(1, MAX_QP - 2).min(self.low_qp.0.max(3) - 2);
        for scale in &mut self.low_scales {
            *scale = if scale.is_nan() { 1.0 } else { scale.clamp(0.1, 1.0) };
        }
        if self.low_scales.is_empty() {
            self.low_scales.push(1.0);
        }
        let reference = &mut self.reference;
        reference.low_qp = reference.low_qp.clamp(self.low_qp.0, self.low_qp.1);
        reference.high_qp = reference.high_qp.clamp(self.finest_high_qp, reference.low_qp - 2);
        reference.low_scale_index = reference.low_scale_index.min(self.low_scales.len() - 1);
        self.pole = if self.pole.is_nan() {
            0.1
        } else {
            self.pole.clamp(0.0, 0.5)
        };
        self
    }

    /// All pairs of quantizers from cheapest to most accurate, `(low, high)`.
    fn ladder(&self) -> Vec<(u8, u8)> {
        let (finest, coarsest) = self.low_qp;
        let distance = self.reference.low_qp - self.reference.high_qp;
        let high = |low: u8| low.saturating_sub(distance).clamp(self.finest_high_qp, low - 2);
        let mut ladder: Vec<_> = (high(coarsest) + 1..=coarsest - 2)
            .rev()
            .map(|high| (coarsest, high))
            .collect();
        for low in (finest..=coarsest).rev() {
            ladder.push((low, high(low)));
            if low > finest && high(low - 1) < high(low) {
                ladder.push((low, high(low - 1)));
            }
        }
        let last = high(finest);
        ladder.extend((self.finest_high_qp..last).rev().map(|high| (finest, high)));
        ladder
    }
}

/// State of the filter, for statistics and plots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// `b`: kbit/s of both passes at the reference configuration.
    pub base_kbps: f64,
    /// `E`: variance of `b`, kbit/s squared.
    pub base_variance: f64,
    /// `s*`: the multiplier to reach.
    pub multiplier: f64,
    /// Share of the second pass at the reference configuration, 0..=1.
    pub refine_share: f64,
    /// Cost of an IDR picture of the first pass relative to other pictures.
    pub idr_factor: f64,
    /// Bytes coded minus bytes granted, within its bounds, as seconds of the target.
    pub debt_s: f64,
}

/// A frame planned and not yet coded.
#[derive(Clone, Copy, Debug)]
struct Planned {
    idr: bool,
    /// `L` and `H` of its configuration.
    low: f64,
    high: f64,
    low_qp: u8,
    high_qp: u8,
}

/// Sums over the segment that is being measured.
#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    frames: u32,
    seconds: f64,
    low_bytes: f64,
    refine_bytes: f64,
    /// `L` with the weight of IDR pictures, and `H`.
    low_units: f64,
    high_units: f64,
    low_qp: f64,
    high_qp: f64,
}

/// Measurement of the segment before, for the tables: log2 of bits and of units, and the mean quantizer.
#[derive(Clone, Copy, Debug)]
struct Seen {
    bits: f64,
    units: f64,
    qp: f64,
}

/// Cost of each quantizer relative to that of the reference, updated from measurements.
#[derive(Clone, Debug)]
struct Table {
    reference: u8,
    /// Log2 of the cost of quantizer `i` relative to `i + 1`.
    steps: [f64; QPS],
    cost: [f64; QPS],
    before: Option<Seen>,
}

impl Table {
    fn new(reference: u8) -> Self {
        let mut table = Self {
            reference,
            steps: [STEP; QPS],
            cost: [1.0; QPS],
            before: None,
        };
        table.sum_up();
        table
    }

    fn sum_up(&mut self) {
        let reference = usize::from(self.reference);
        self.cost[reference] = 1.0;
        for qp in (0..reference).rev() {
            self.cost[qp] = self.cost[qp + 1] * self.steps[qp].exp2();
        }
        for qp in reference + 1..QPS {
            self.cost[qp] = self.cost[qp - 1] / self.steps[qp - 1].exp2();
        }
    }

    fn get(&self, qp: u8) -> f64 {
        self.cost[usize::from(qp.min(MAX_QP))]
    }

    /// Learns from the bits of a segment coded for `units` at a mean quantizer `qp`: where the quantizer moved since
    /// the segment before, the steps in between are corrected in part towards the measured bits.
    fn learn(&mut self, bits: f64, units: f64, qp: f64) {
        let now = Seen {
            bits: bits.max(1.0).log2(),
            units: units.max(f64::MIN_POSITIVE).log2(),
            qp,
        };
        let Some(before) = self.before.replace(now) else {
            return;
        };
        let (actual, predicted) = (now.bits - before.bits, now.units - before.units);
        if predicted.abs() < STEP_SEEN {
            return;
        }
        let factor = (1.0 + STEP_LEARNED * (actual / predicted - 1.0)).clamp(0.8, 1.25);
        let (from, to) = (before.qp.min(qp).floor() as usize, before.qp.max(qp).ceil() as usize);
        for step in &mut self.steps[from.min(QPS - 1)..to.min(QPS - 1)] {
            *step = (*step * factor).clamp(STEP_MIN, STEP_MAX);
        }
        self.sum_up();
    }
}

/// Chooses the [`OperatingPoint`] of each frame: by a filtered base cost, multipliers that follow the content, and a
/// bound on every second.
#[derive(Clone, Debug)]
pub struct Controller {
    settings: ControllerSettings,
    ladder: Vec<(u8, u8)>,
    target_kbps: f64,
    low_table: Table,
    high_table: Table,
    scale: usize,
    /// `b` and `E`.
    base: f64,
    variance: f64,
    /// Segments measured, 0 while the base is an initial guess.
    measured: u32,
    /// `s*`.
    aim: f64,
    share: f64,
    /// Kbit/s at the reference configuration over the last few frames, of each pass.
    low_now: f64,
    low_slow: f64,
    refine_now: f64,
    /// Kbit/s at the reference configuration of the second pass in each frame of a segment, over the last few segments:
    /// it may begin with an IDR picture, or come as a burst.
    season: Vec<f64>,
    /// Position of this frame in it.
    phase: usize,
    /// Weights of the second pass from this frame on.
    foreseen: Vec<f64>,
    /// `H` of the last few frames.
    high_recent: f64,
    frames_seen: u32,
    surprised: u32,
    idr_factor: f64,
    /// Units of the first IDR picture until it is known what others cost.
    first_idr: Option<f64>,
    frames_since_idr: u32,
    /// Frames from IDR picture to IDR picture, where they come regularly.
    idr_period: Option<u32>,
    segment: Segment,
    second_half: bool,
    window_qp: (f64, u32),
    shrink_votes: u32,
    grow_votes: u32,
    /// Remainder of `s*` that the last configuration did not use.
    carry: f64,
    /// Bytes.
    debt: f64,
    ahead: Vec<f64>,
    interval_ns: f64,
    planned: Option<Planned>,
}

impl Controller {
    /// A controller without target. Settings out of range are clamped.
    pub fn new(settings: ControllerSettings) -> Self {
        let settings = settings.clamped();
        Self {
            ladder: settings.ladder(),
            target_kbps: 0.0,
            low_table: Table::new(settings.reference.low_qp),
            high_table: Table::new(settings.reference.high_qp),
            scale: settings.reference.low_scale_index,
            base: 0.0,
            variance: 0.0,
            measured: 0,
            aim: 1.0,
            share: 0.2,
            low_now: 0.0,
            low_slow: 0.0,
            refine_now: 0.0,
            season: vec![0.0; settings.segment_frames as usize],
            phase: 0,
            foreseen: vec![1.0; settings.segment_frames as usize],
            high_recent: 1.0,
            frames_seen: 0,
            surprised: 0,
            idr_factor: TYPICAL_IDR,
            first_idr: None,
            frames_since_idr: 0,
            idr_period: None,
            segment: Segment::default(),
            second_half: false,
            window_qp: (0.0, 0),
            shrink_votes: 0,
            grow_votes: 0,
            carry: 0.0,
            debt: 0.0,
            ahead: Vec::with_capacity(MAX_HORIZON),
            interval_ns: 1e9 / settings.frame_rate,
            planned: None,
            settings,
        }
    }

    /// Bandwidth for both passes together in kbit/s (1000 bits), from the next frame on; 0 = none, which means the
    /// reference configuration. A falling target is not retroactive: bytes coded before count as if they had kept the
    /// new one.
    pub fn set_target(&mut self, kbps: u32, window: &mut Window) {
        let (old, new) = (self.target_kbps, f64::from(kbps));
        if new == old {
            return;
        }
        self.target_kbps = new;
        if old == 0.0 || new == 0.0 {
            self.debt = 0.0;
            self.carry = 0.0;
        } else if new < old {
            self.debt *= new / old;
        }
        if self.base > 0.0 {
            // The error of the last measurement stays, the difference of the targets acts in full.
            self.aim = if old == 0.0 {
                new / self.base
            } else {
                (self.aim + (new - old) / self.base).max(0.0)
            };
        }
        if new > 0.0 {
            window.limit(Account::Target, new * 125.0);
        }
    }

    /// The target in kbit/s; 0 = none.
    pub fn target(&self) -> u32 {
        self.target_kbps as u32
    }

    /// The current state of the filter.
    pub fn estimate(&self) -> Estimate {
        Estimate {
            base_kbps: self.base,
            base_variance: self.variance,
            multiplier: self.aim,
            refine_share: self.share,
            idr_factor: self.idr_factor,
            debt_s: if self.target_kbps > 0.0 {
                self.debt / (self.target_kbps * 125.0)
            } else {
                0.0
            },
        }
    }

    /// Chooses the operating point of the next frame.
    ///
    /// `idr` is whether the caller expects an IDR picture; it only helps to predict its size. A change of
    /// [`OperatingPoint::low_scale_index`] makes it one in any case.
    pub fn plan(&mut self, now: u64, idr: bool, window: &Window) -> OperatingPoint {
        self.interval_ns = window.interval_ns();
        let full = self.segment.frames >= self.settings.segment_frames;
        if full || idr && self.segment.frames > self.settings.segment_frames / 2 {
            self.end_segment();
        }
        let old_scale = self.scale;
        if full && self.target_kbps > 0.0 {
            self.second_half = !self.second_half;
            if !self.second_half {
                self.choose_scale();
            }
        }
        let idr = idr || self.scale != old_scale || self.frames_seen == 0;
        let weight = match idr {
            true if self.idr_period == Some(self.frames_since_idr) => self.idr_factor,
            true => self.idr_factor * CAUTION,
            false => 1.0,
        };
        self.note_idr(idr);
        self.phase = if idr { 0 } else { (self.phase + 1) % self.season.len() };
        let (low_qp, high_qp) = if self.target_kbps > 0.0 && self.frames_seen > 0 {
            let place = self.choose(now, weight, window);
            self.ladder[place]
        } else {
            (self.settings.reference.low_qp, self.settings.reference.high_qp)
        };
        if self.target_kbps == 0.0 {
            self.scale = self.settings.reference.low_scale_index;
        }
        self.planned = Some(Planned {
            idr,
            low: self.low_cost(low_qp),
            high: self.high_table.get(high_qp),
            low_qp,
            high_qp,
        });
        OperatingPoint {
            low_qp,
            high_qp,
            low_scale_index: self.scale,
        }
    }

    /// Reports that the planned frame is coded no finer than `floor`, because the rate cap behind the controller holds
    /// it: its size is no measurement of finer quantizers.
    pub fn held_at(&mut self, floor: u8) {
        let Some(mut planned) = self.planned else { return };
        if floor > planned.low_qp {
            planned.low_qp = floor.min(MAX_QP);
            planned.low = self.low_cost(planned.low_qp);
        }
        if floor > planned.high_qp {
            planned.high_qp = floor.min(MAX_QP);
            planned.high = self.high_table.get(planned.high_qp);
        }
        self.planned = Some(planned);
    }

    /// Accounts for the size of the planned frame in the first pass, and for the bytes of the second pass since the
    /// last call, for whichever frames. Not called for a frame that was not coded.
    pub fn on_frame(&mut self, bytes_low: usize, bytes_refine: usize) {
        let Some(planned) = self.planned.take() else { return };
        let (low, refine) = (bytes_low as f64, bytes_refine as f64);
        let seconds = self.interval_ns / 1e9;
        let second = self.target_kbps * 125.0;
        if second > 0.0 {
            self.debt =
                (self.debt + low + refine - second * seconds).clamp(-MAX_CREDIT_S * second, MAX_DEBT_S * second);
        }
        self.learn_frame(&planned, low, refine, seconds);
        if self.frames_seen <= 1 {
            // The first picture is an IDR picture of unknown weight: the measurement begins after it.
            return;
        }
        let segment = &mut self.segment;
        segment.frames += 1;
        segment.seconds += seconds;
        segment.low_bytes += low;
        segment.refine_bytes += refine;
        segment.low_units += planned.low * if planned.idr { self.idr_factor } else { 1.0 };
        segment.high_units += planned.high;
        segment.low_qp += f64::from(planned.low_qp);
        segment.high_qp += f64::from(planned.high_qp);
        self.window_qp.0 += f64::from(planned.low_qp);
        self.window_qp.1 += 1;
        self.follow_surprise();
    }

    fn low_cost(&self, qp: u8) -> f64 {
        self.low_table.get(qp) * self.scale_cost(self.scale)
    }

    /// Cost of a scale relative to that of the reference.
    fn scale_cost(&self, scale: usize) -> f64 {
        let scales = &self.settings.low_scales;
        (scales[scale] / scales[self.settings.reference.low_scale_index]).powf(2.0 * SCALE_POWER)
    }

    fn note_idr(&mut self, idr: bool) {
        if idr {
            let since = std::mem::take(&mut self.frames_since_idr);
            self.idr_period = (since > 0 && since as usize <= MAX_SEGMENT).then_some(since);
        } else if self.idr_period.is_some_and(|period| self.frames_since_idr >= period) {
            self.idr_period = None;
        }
        self.frames_since_idr = self.frames_since_idr.saturating_add(1);
    }

    /// Mean weight of the coming pictures of the first pass.
    fn mean_weight(&self) -> f64 {
        self.idr_period
            .map_or(1.0, |period| 1.0 + (self.idr_factor - 1.0) / f64::from(period.max(1)))
    }

    /// `s(c)`, for a frame of mean weight.
    fn multiplier(&self, place: usize, weight: f64) -> f64 {
        let (low, high) = self.ladder[place];
        (1.0 - self.share) * self.low_cost(low) * weight + self.share * self.high_table.get(high)
    }

    /// Weight of the second pass in a frame of a segment; its mean is 1.
    fn season_weight(&self, phase: usize) -> f64 {
        let mean = self.season.iter().sum::<f64>() / self.season.len() as f64;
        if mean > 0.0 { self.season[phase] / mean } else { 1.0 }
    }

    fn choose(&mut self, now: u64, this_weight: f64, window: &Window) -> usize {
        window.look_ahead(now, SECOND_NS, Account::Target, &mut self.ahead);
        for i in 0..self.season.len() {
            let weight = self.season_weight((self.phase + i) % self.season.len());
            self.foreseen[i] = weight * if weight > 3.0 { CAUTION } else { 1.0 };
        }
        let second = self.target_kbps * 125.0;
        let weight = self.mean_weight();
        let correction = (self.debt / (second * REPAY_S)).clamp(-MAX_BONUS, 1.0);
        let wanted = self.aim * (1.0 - correction);
        let with_carry = wanted + self.carry;
        let last = self.ladder.len() - 1;
        let dithered = self
            .highest(|place| self.multiplier(place, weight) <= with_carry)
            .unwrap_or(0);
        let bounded = self
            .highest(|place| self.fits(place, this_weight, PLANNED * second))
            .unwrap_or(0);
        let place = dithered.min(bounded);
        if bounded < dithered || place == last || self.multiplier(place, weight) > with_carry {
            self.carry = 0.0;
        } else {
            let gap = self.multiplier(place + 1, weight) - self.multiplier(place, weight);
            self.carry = (with_carry - self.multiplier(place, weight)).clamp(0.0, gap);
        }
        place
    }

    /// The highest step of the ladder up to which `holds`, which turns false only once.
    fn highest(&self, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let (mut low, mut high) = (0, self.ladder.len());
        while low < high {
            let middle = (low + high) / 2;
            if holds(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }

    /// Whether this frame, of the given weight, and those of the coming second, all alike, stay within `budget` bytes
    /// in every second.
    fn fits(&self, place: usize, this_weight: f64, budget: f64) -> bool {
        let (low, high) = self.ladder[place];
        let per_frame = self.interval_ns / 1e9 * 125.0;
        let low_cost = self.low_cost(low) * per_frame;
        let (this, later) = (
            self.low_now * low_cost,
            self.low_slow.max(self.low_now / SURGE) * low_cost,
        );
        let high = self.refine_now * self.high_table.get(high) * per_frame;
        let mut sum = 0.0;
        self.ahead.iter().enumerate().all(|(i, past)| {
            sum += match (i, self.idr_period) {
                (0, _) => this * this_weight,
                // `frames_since_idr` counts this frame already.
                (_, Some(period))
                    if (self.frames_since_idr - 1)
                        .wrapping_add(i as u32)
                        .is_multiple_of(period.max(1)) =>
                {
                    later * self.idr_factor
                }
                _ => later,
            };
            sum += high * self.foreseen[i % self.foreseen.len()];
            past + sum <= budget
        })
    }

    /// Follows the cost of single frames.
    fn learn_frame(&mut self, planned: &Planned, low: f64, refine: f64, seconds: f64) {
        let low = low / (planned.low * 125.0 * seconds);
        // Right after a step to coarser the second pass may still arrive at the earlier operating point.
        self.high_recent += (planned.high - self.high_recent) / 8.0;
        let refine = refine / (planned.high.max(self.high_recent) * 125.0 * seconds);
        self.frames_seen = self.frames_seen.saturating_add(1);
        let young = 1.0 / f64::from(self.frames_seen.saturating_sub(1).max(1));
        if self.frames_seen == 1 {
            self.first_idr = Some(low);
            self.low_now = low / self.idr_factor;
            self.low_slow = self.low_now;
            self.refine_now = refine;
            self.season.fill(refine);
            self.base = (self.low_now + self.refine_now).max(1.0);
            self.variance = self.base * self.base;
            self.aim = self.target_kbps / self.base;
            return;
        }
        let weight = self.season_weight(self.phase);
        let season = &mut self.season[self.phase];
        *season += SEASONAL * (refine.min(SEASON_MOST * self.refine_now) - *season);
        if weight > 0.1 {
            let speed = 1.0 - 0.92f64.powf(weight);
            self.refine_now += young.max(speed) * (refine / weight - self.refine_now);
        }
        if planned.idr {
            let factor = (low / self.low_now.max(1.0)).clamp(IDR_RANGE.0, IDR_RANGE.1);
            self.idr_factor += 0.4 * (factor - self.idr_factor);
            return;
        }
        let speed = if low > 1.5 * self.low_now { 0.5 } else { 0.2 };
        self.low_now += young.max(speed) * (low - self.low_now);
        self.low_slow += young.max(SLOW) * (low - self.low_slow);
        if self.frames_seen == 5
            && let Some(first) = self.first_idr.take()
        {
            self.idr_factor = (first / self.low_now.max(1.0)).clamp(IDR_RANGE.0, IDR_RANGE.1);
        }
    }

    /// Replaces the estimate at once where the last frames contradict it, and sets the first one.
    fn follow_surprise(&mut self) {
        let now = self.low_now + self.refine_now;
        // Uses the first pass alone: the second trails, and is no measure right after a change of its quantizer.
        let factor = self.low_now / (self.base * (1.0 - self.share)).max(f64::MIN_POSITIVE);
        let surprised = factor > SURPRISE || factor * SURPRISE < 1.0;
        self.surprised = if surprised { self.surprised + 1 } else { 0 };
        let first = self.measured == 0 && self.segment.frames >= SURPRISED_FRAMES;
        if !first && self.surprised < SURPRISED_FRAMES {
            return;
        }
        self.measured = self.measured.max(1);
        self.surprised = 0;
        self.base = now.max(1.0);
        self.variance = (0.3 * self.base).powi(2);
        self.share = (self.refine_now / self.base).clamp(0.0, 0.95);
        self.aim = self.target_kbps / self.base;
        self.segment = Segment::default();
        self.low_table.before = None;
        self.high_table.before = None;
    }

    /// The filter and the control law: see the [module](self).
    fn end_segment(&mut self) {
        let segment = std::mem::take(&mut self.segment);
        if segment.frames == 0 || segment.seconds <= 0.0 || self.measured == 0 {
            return;
        }
        let frames = f64::from(segment.frames);
        let kbps = |bytes: f64| bytes / 125.0 / segment.seconds;
        let (low_units, high_units) = (segment.low_units / frames, segment.high_units / frames);
        let (low, refine) = (kbps(segment.low_bytes), kbps(segment.refine_bytes));
        let refine_base = refine / high_units.max(f64::MIN_POSITIVE);
        let share = refine_base / (refine_base + low / low_units.max(f64::MIN_POSITIVE)).max(f64::MIN_POSITIVE);
        self.share += 0.4 * (share.clamp(0.0, 0.95) - self.share);
        let s = ((1.0 - self.share) * low_units + self.share * high_units).max(f64::MIN_POSITIVE);
        let y = low + refine;

        let q = (CONTENT_DEVIATION * self.base).powi(2);
        let r = (MEASUREMENT_DEVIATION * y).powi(2).max(1.0);
        let variance = self.variance + q;
        let gain = variance * s / (s * s * variance + r);
        self.base = (self.base + gain * (y - s * self.base)).max(1.0);
        self.variance = (1.0 - gain * s) * variance;
        self.measured = self.measured.saturating_add(1);

        if self.target_kbps > 0.0 {
            // Frames paid debts or were bounded: the measurement is scaled to the intended multiplier.
            let aim = self.aim.max(f64::MIN_POSITIVE);
            let y = y * aim / s;
            self.aim = (aim + (1.0 - self.settings.pole) * (self.target_kbps - y) / self.base).max(0.0);
        }
        self.low_table
            .learn(segment.low_bytes / frames, low_units, segment.low_qp / frames);
        self.high_table
            .learn(segment.refine_bytes / frames, high_units, segment.high_qp / frames);
    }

    /// Changes the scale where quantizers have been out of the range in which this one is good.
    fn choose_scale(&mut self) {
        let (sum, frames) = std::mem::take(&mut self.window_qp);
        if frames == 0 {
            return;
        }
        let mean = sum / f64::from(frames);
        let steps = |other: usize| (self.scale_cost(other) / self.scale_cost(self.scale)).log2() / STEP;
        let shrink = mean > SHRINK_QP && self.scale + 1 < self.settings.low_scales.len();
        let grow = self.scale > 0 && mean + steps(self.scale - 1) < GROW_QP;
        self.shrink_votes = if shrink { self.shrink_votes + 1 } else { 0 };
        self.grow_votes = if grow { self.grow_votes + 1 } else { 0 };
        let other = if self.shrink_votes >= SHRINK_PATIENCE {
            self.scale + 1
        } else if self.grow_votes >= GROW_PATIENCE {
            self.scale - 1
        } else {
            return;
        };
        (self.shrink_votes, self.grow_votes) = (0, 0);
        self.scale = other;
        self.carry = 0.0;
        self.low_table.before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The controller with the window that it reads.
    struct Bench {
        controller: Controller,
        window: Window,
    }

    impl Bench {
        fn new(settings: ControllerSettings) -> Self {
            Self {
                controller: Controller::new(settings),
                window: Window::default(),
            }
        }

        fn set_target(&mut self, kbps: u32) {
            self.controller.set_target(kbps, &mut self.window);
        }

        fn plan(&mut self, now: u64, idr: bool) -> OperatingPoint {
            self.window.begin(now, self.controller.settings.frame_rate);
            self.controller.plan(now, idr, &self.window)
        }

        fn estimate(&self) -> Estimate {
            self.controller.estimate()
        }

        fn on_frame(&mut self, now: u64, low: usize, refined: usize) {
            self.window.coded(now, low, refined);
            self.controller.on_frame(low, refined);
        }
    }

    const FPS: usize = 30;
    /// Most that a second may exceed its target by requirement.
    const EXCESS: f64 = 1.15;

    /// Deterministic noise.
    struct Noise(u64);

    impl Noise {
        fn uniform(&mut self) -> f64 {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (self.0 >> 40) as f64 / (1u64 << 24) as f64
        }

        fn gauss(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }

    /// Two model encoders, by another law than the controller assumes.
    #[derive(Clone, Copy, Debug)]
    struct Plant {
        /// Kbit/s of pictures other than IDR pictures at quantizers 36 and 26, both passes.
        kbps: f64,
        /// Quantizer steps that halve the bits, of each pass.
        halving: (f64, f64),
        /// Deviation of the sizes of single frames.
        noise: f64,
        /// Range in which the share of the second pass wanders.
        share: (f64, f64),
        /// Frames by which the second pass trails.
        delay: usize,
        /// The second pass is coded at the quantizer that its frame was planned with, not at the newest.
        stale: bool,
        /// The second pass of a segment comes as a burst.
        burst: bool,
        /// Whether every segment begins with an IDR picture, or only the stream.
        segments: bool,
        /// Cost of an IDR picture of the first pass.
        idr: f64,
        /// Deviation of the content from second to second.
        drift: f64,
        /// Factor on everything from frame to frame.
        scene: fn(usize) -> f64,
        seed: u64,
    }

    impl Default for Plant {
        fn default() -> Self {
            Self {
                kbps: 800.0,
                halving: (6.0, 6.0),
                noise: 0.15,
                share: (0.1, 0.35),
                delay: 6,
                stale: false,
                burst: false,
                segments: false,
                idr: 7.0,
                drift: 0.1,
                scene: |_| 1.0,
                seed: 1,
            }
        }
    }

    struct Run {
        targets: Vec<f64>,
        bytes: Vec<f64>,
        /// Bytes that the coarsest configuration would have taken.
        least: Vec<f64>,
        most: Vec<f64>,
        points: Vec<OperatingPoint>,
        estimate: Estimate,
    }

    impl Plant {
        fn run(&self, settings: ControllerSettings, frames: usize, target: impl Fn(usize) -> u32) -> Run {
            let scales = settings.low_scales.clone();
            let mut controller = Bench::new(settings);
            let mut noise = Noise(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (mut drift, mut wander) = (0.0, 0.0);
            let mut refine = vec![0.0; frames + self.delay + 16];
            let mut run = Run {
                targets: vec![],
                bytes: vec![],
                least: vec![],
                most: vec![],
                points: vec![],
                estimate: controller.estimate(),
            };
            for frame in 0..frames {
                let now = (frame * 1_000_000_000 / FPS) as u64;
                controller.set_target(target(frame));
                let begins = frame == 0 || self.segments && frame % 15 == 0;
                let point = controller.plan(now, begins);
                let idr = begins
                    || run
                        .points
                        .last()
                        .is_some_and(|last: &OperatingPoint| last.low_scale_index != point.low_scale_index);
                let (slow, half) = (1.0 / FPS as f64, (2.0 / FPS as f64).sqrt());
                drift += -slow * drift + half * self.drift * noise.gauss();
                wander += -slow * wander + half * noise.gauss();
                let part = 0.5 + 0.5 * (wander / 1.5).tanh();
                let share = self.share.0 + (self.share.1 - self.share.0) * part;
                let content = self.kbps * (self.scene)(frame) * f64::exp(drift) * 125.0 / FPS as f64;
                let mut size = |reference: f64, qp: u8, halving: f64| {
                    let noise = f64::exp(self.noise * noise.gauss() - 0.5 * self.noise * self.noise);
                    content * ((reference - f64::from(qp)) / halving).exp2() * noise
                };
                let low = size(36.0, point.low_qp, self.halving.0)
                    * (1.0 - share)
                    * scales[point.low_scale_index].powf(1.7)
                    * if idr { self.idr } else { 1.0 }
                    + 15.0;
                let trailing = frame + self.delay;
                let at = if self.burst {
                    trailing.next_multiple_of(15)
                } else {
                    trailing
                };
                let coarser = |reference: f64, qp: u8, halving: f64| ((f64::from(qp) - reference) / halving).exp2();
                let (arriving, qp) = (&mut refine[at], if self.stale { point.high_qp } else { 26 });
                *arriving += size(26.0, qp, self.halving.1)
                    * share
                    * if self.segments && frame % 15 == 0 {
                        0.6 * self.idr
                    } else {
                        1.0
                    };
                if !self.stale {
                    refine[frame] *= coarser(26.0, point.high_qp, self.halving.1).recip();
                }
                let at = |low_qp, high_qp| {
                    low * coarser(low_qp, point.low_qp, self.halving.0)
                        + refine[frame] * coarser(high_qp, point.high_qp, self.halving.1)
                };
                run.least.push(at(51.0, 49.0));
                run.most.push(at(20.0, 18.0));
                let (low, refine) = (low as usize, refine[frame] as usize);
                controller.on_frame(now, low, refine);
                run.targets.push(f64::from(target(frame)) * 125.0);
                run.bytes.push((low + refine) as f64);
                run.points.push(point);
            }
            run.estimate = controller.estimate();
            run
        }
    }

    impl Run {
        /// Frame of the last change of the target at or before a frame.
        fn changed(&self, frame: usize) -> usize {
            let target = self.targets[frame];
            self.targets[..frame]
                .iter()
                .rposition(|t| *t != target)
                .map_or(0, |at| at + 1)
        }

        /// Bytes of a second, as a factor of a target.
        fn second(bytes: &[f64], from: usize, target: f64) -> f64 {
            bytes[from..from + FPS].iter().sum::<f64>() / target
        }

        /// Seconds with a target that the coarsest configuration keeps, with the larger target where it changes within.
        fn seconds(&self) -> impl Iterator<Item = (usize, f64)> {
            (0..=self.bytes.len().saturating_sub(FPS))
                .map(|from| (from, self.targets[from..from + FPS].iter().copied().fold(0.0, f64::max)))
                .filter(|&(from, target)| Self::second(&self.least, from, target) < 0.8)
        }

        /// Worst second that begins two seconds or more after a change, relative to the target known at its start. A
        /// second in which the target rises counts against the new one.
        fn worst(&self) -> f64 {
            self.seconds()
                .filter(|&(from, _)| from >= self.changed(from) + 2 * FPS)
                .map(|(from, target)| Self::second(&self.bytes, from, target))
                .fold(0.0, f64::max)
        }

        /// Worst control window from the third second on, relative to the target it begins with.
        fn worst_window(&self) -> f64 {
            self.seconds()
                .filter(|(from, _)| from % FPS == 0 && *from >= 2 * FPS)
                .map(|(from, target)| Self::second(&self.bytes, from, target))
                .fold(0.0, f64::max)
        }

        /// Mean use of the target in the control windows between two frames in which an operating point can reach it.
        fn mean(&self, from: usize, to: usize) -> Option<f64> {
            let (mut bytes, mut targets) = (0.0, 0.0);
            for (at, target) in self.seconds() {
                let inside = at >= from && at + FPS <= to && (at - from).is_multiple_of(FPS);
                if inside && Self::second(&self.most, at, target) > 1.2 {
                    bytes += Self::second(&self.bytes, at, 1.0);
                    targets += target;
                }
            }
            (targets > 3.0 * self.targets[from]).then(|| bytes / targets)
        }

        /// Mean use of each stretch of one target, without its first two seconds.
        fn means(&self) -> Vec<f64> {
            let mut ends: Vec<_> = (1..self.targets.len())
                .filter(|&frame| self.targets[frame] != self.targets[frame - 1])
                .collect();
            ends.push(self.targets.len());
            ends.iter()
                .filter_map(|&end| self.mean(self.changed(end - 1) + 2 * FPS, end))
                .collect()
        }
    }

    /// Every kind of content that a requirement is checked with.
    fn plants() -> Vec<Plant> {
        let mut plants = vec![];
        for seed in 1..=10 {
            for segments in [false, true] {
                for (kbps, halving, noise, share, delay, burst) in [
                    (800.0, (6.0, 6.0), 0.15, (0.1, 0.35), 6, false),
                    (1800.0, (5.0, 6.0), 0.1, (0.1, 0.2), 3, false),
                    (450.0, (7.0, 5.0), 0.2, (0.2, 0.35), 12, false),
                    (1000.0, (4.5, 4.5), 0.2, (0.1, 0.35), 20, false),
                    (700.0, (6.0, 6.0), 0.1, (0.1, 0.35), 8, true),
                ] {
                    plants.push(Plant {
                        kbps,
                        halving,
                        noise,
                        share,
                        delay,
                        stale: false,
                        burst,
                        segments,
                        idr: if segments { 4.0 } else { 8.0 },
                        seed,
                        ..Plant::default()
                    });
                }
            }
        }
        plants
    }

    fn trace(seed: u64, sigma: f64, segments: usize) -> Vec<f64> {
        let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..segments)
            .map(|_| (900.0 * (1.0 + sigma * noise.gauss())).max(100.0))
            .collect()
    }

    /// Frames for the targets of a trace, whose windows begin with the mean of the two segments before.
    fn follow(plant: &Plant, sigma: f64) -> Run {
        let available = trace(plant.seed, sigma, 44);
        plant.run(ControllerSettings::default(), 22 * FPS, |frame| {
            let segment = (frame / FPS * 2).max(2);
            (available[segment - 2..segment].iter().sum::<f64>() / 2.0) as u32
        })
    }

    fn within(plant: &Plant, name: &str, run: &Run, least_mean: f64) {
        let worst = run.worst().max(run.worst_window());
        assert!(worst <= EXCESS, "{name}: {worst} {plant:?}");
        for mean in run.means() {
            assert!((least_mean..=1.05).contains(&mean), "{name}: mean {mean} {plant:?}");
        }
    }

    #[test]
    fn constant_targets_are_kept_and_used() {
        for plant in plants() {
            for kbps in [500, 900] {
                let run = plant.run(ControllerSettings::default(), 20 * FPS, |_| kbps);
                within(&plant, "constant", &run, 0.95);
            }
        }
    }

    #[test]
    fn steps_of_the_target_are_kept_and_used() {
        for plant in plants() {
            let run = plant.run(ControllerSettings::default(), 32 * FPS, |frame| {
                [900, 400, 1200, 600][frame / (8 * FPS) % 4]
            });
            within(&plant, "steps", &run, 0.95);
        }
    }

    #[test]
    fn noisy_traces_are_kept_in_every_window_and_used() {
        for plant in plants() {
            for sigma in [0.05, 0.1, 0.2, 0.3, 0.4] {
                let run = follow(&plant, sigma);
                let worst = run.worst_window();
                assert!(worst <= EXCESS, "sigma {sigma}: {worst} {plant:?}");
                let mean = run.mean(2 * FPS, 22 * FPS).unwrap_or(1.0);
                assert!((0.95..=1.05).contains(&mean), "sigma {sigma}: mean {mean} {plant:?}");
            }
        }
    }

    #[test]
    fn a_second_pass_at_quantizers_of_long_ago_breaks_no_second() {
        for mut plant in plants().into_iter().filter(|plant| !plant.burst) {
            (plant.stale, plant.delay) = (true, 15);
            let run = plant.run(ControllerSettings::default(), 32 * FPS, |frame| {
                [900, 400, 1200, 600][frame / (8 * FPS) % 4]
            });
            within(&plant, "stale", &run, 0.9);
            let worst = follow(&plant, 0.4).worst_window();
            assert!(worst <= EXCESS, "{worst} {plant:?}");
        }
    }

    #[test]
    fn a_scene_three_times_as_dear_is_back_within_the_target_in_a_second() {
        let scene = |frame: usize| {
            if (frame / (5 * FPS)).is_multiple_of(2) {
                1.0
            } else {
                3.0
            }
        };
        let cut = |frame: usize| if frame % (5 * FPS) == 4 * FPS + 7 { 12.0 } else { 1.0 };
        for scene in [scene as fn(usize) -> f64, cut] {
            for mut plant in plants() {
                plant.scene = scene;
                let run = plant.run(ControllerSettings::default(), 30 * FPS, |_| 900);
                for (from, target) in run.seconds().filter(|(from, _)| *from >= 2 * FPS) {
                    let change = (from..from + FPS).any(|frame| scene(frame) > scene(frame - 1));
                    let second = Run::second(&run.bytes, from, target);
                    // The second of the change may contain the frame that was not foreseen.
                    let excess = if change { 1.6 } else { EXCESS };
                    assert!(second <= excess, "{second} from {from} {plant:?}");
                }
            }
        }
    }

    #[test]
    fn a_quiet_scene_takes_the_finest_operating_point_and_saves_nothing_up() {
        for mut plant in plants() {
            plant.scene = |frame| if frame < 10 * FPS { 0.01 } else { 1.0 };
            let run = plant.run(ControllerSettings::default(), 20 * FPS, |_| 900);
            assert_eq!((run.points[9 * FPS].low_qp, run.points[9 * FPS].high_qp), (20, 18));
            for (from, target) in run.seconds().filter(|(from, _)| *from >= 11 * FPS) {
                let second = Run::second(&run.bytes, from, target);
                assert!(second <= EXCESS, "{second} from {from} {plant:?}");
            }
        }
    }

    #[test]
    fn without_a_target_the_reference_is_used_and_a_target_acts_with_the_next_frame() {
        let plant = Plant::default();
        let reference = ControllerSettings::default().reference;
        let run = plant.run(ControllerSettings::default(), 300, |frame| {
            if (90..180).contains(&frame) { 300 } else { 0 }
        });
        assert!(
            run.points[..90]
                .iter()
                .chain(&run.points[180..])
                .all(|point| *point == reference)
        );
        assert!(run.points[90].low_qp > 40, "{:?}", run.points[90]);
        let second = Run::second(&run.bytes, 90, 300.0 * 125.0);
        assert!((0.8..EXCESS).contains(&second), "{second}");
    }

    #[test]
    fn the_scale_changes_rarely_and_returns() {
        let settings = ControllerSettings {
            low_scales: vec![1.0, 0.75, 0.5],
            ..ControllerSettings::default()
        };
        for plant in plants().into_iter().filter(|plant| !plant.burst) {
            let run = plant.run(settings.clone(), 60 * FPS, |frame| match frame / (20 * FPS) {
                1 => 150,
                _ => 3000,
            });
            let changes = run
                .points
                .windows(2)
                .filter(|pair| pair[0].low_scale_index != pair[1].low_scale_index);
            let changes = changes.count();
            let reached = run.points[20 * FPS..40 * FPS]
                .iter()
                .map(|point| point.low_scale_index)
                .max();
            assert!(changes <= 8, "{changes} {plant:?}");
            assert!(reached > Some(0), "{plant:?}");
            assert_eq!(run.points[60 * FPS - 1].low_scale_index, 0, "{plant:?}");
            within(&plant, "scales", &run, 0.9);
        }
    }

    #[test]
    fn neighbouring_configurations_alternate_so_that_their_mean_is_exact() {
        let plant = Plant {
            noise: 0.0,
            drift: 0.0,
            share: (0.2, 0.2),
            ..Plant::default()
        };
        let run = plant.run(ControllerSettings::default(), 20 * FPS, |_| 900);
        let mean = run.mean(5 * FPS, 20 * FPS).unwrap_or(0.0);
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        let mut used: Vec<_> = run.points[5 * FPS..].to_vec();
        used.sort_by_key(|point| (point.low_qp, point.high_qp));
        used.dedup();
        assert!((2..=3).contains(&used.len()), "{used:?}");
    }

    #[test]
    fn the_filter_finds_base_and_share() {
        let plant = Plant {
            share: (0.25, 0.25),
            drift: 0.0,
            ..Plant::default()
        };
        let run = plant.run(ControllerSettings::default(), 20 * FPS, |_| 500);
        let Estimate {
            base_kbps,
            refine_share,
            base_variance,
            ..
        } = run.estimate;
        assert!((base_kbps / plant.kbps - 1.0).abs() < 0.15, "{base_kbps}");
        assert!((refine_share - 0.25).abs() < 0.05, "{refine_share}");
        assert!(base_variance.sqrt() < 0.1 * base_kbps, "{base_variance}");
    }

    #[test]
    fn the_ladder_keeps_every_range() {
        for reference in [(36, 26), (51, 1), (3, 1), (40, 38)] {
            for low_qp in [(20, 51), (3, 51), (30, 30), (51, 20), (0, 255)] {
                for finest_high_qp in [0, 18, 28, 60] {
                    let settings = ControllerSettings {
                        reference: OperatingPoint {
                            low_qp: reference.0,
                            high_qp: reference.1,
                            low_scale_index: 9,
                        },
                        low_qp,
                        finest_high_qp,
                        low_scales: vec![],
                        ..ControllerSettings::default()
                    }
                    .clamped();
                    let ladder = settings.ladder();
                    for pair in ladder.windows(2) {
                        let ((low, high), (finer_low, finer_high)) = (pair[0], pair[1]);
                        assert!(finer_low <= low && finer_high <= high, "{pair:?}");
                        assert!(low - finer_low + high - finer_high >= 1, "{pair:?}");
                    }
                    for (low, high) in &ladder {
                        assert!((settings.low_qp.0..=settings.low_qp.1).contains(low));
                        assert!((settings.finest_high_qp..=low - 2).contains(high));
                    }
                    assert_eq!(ladder.last(), Some(&(settings.low_qp.0, settings.finest_high_qp)));
                    assert_eq!(ladder[0], (settings.low_qp.1, settings.low_qp.1 - 2));
                }
            }
        }
    }

    #[test]
    fn other_frame_rates_keep_and_use_the_target() {
        for fps in [5u64, 15, 25, 60] {
            let mut controller = Bench::new(ControllerSettings::default());
            controller.set_target(800);
            let mut noise = Noise(7);
            let mut bytes: Vec<usize> = vec![];
            for frame in 0..20 * fps {
                let now = frame * 1_000_000_000 / fps;
                let point = controller.plan(now, frame == 0);
                let weight = ((36.0 - f64::from(point.low_qp)) / 5.0).exp2();
                let size = 125_000.0 / fps as f64 * weight * f64::exp(0.15 * noise.gauss());
                controller.on_frame(now, size as usize, 0);
                bytes.push(size as usize);
            }
            let settled = &bytes[2 * fps as usize..];
            for second in settled.windows(fps as usize) {
                let second = second.iter().sum::<usize>() as f64 / 100_000.0;
                assert!(second <= EXCESS, "{fps} frames per second: {second}");
            }
            let mean = settled.iter().sum::<usize>() as f64 / 100_000.0 / 18.0;
            // With few frames in a second, the bound on each of them takes a little of the mean.
            let least = if fps < 10 { 0.88 } else { 0.95 };
            assert!((least..=1.05).contains(&mean), "{fps} frames per second: {mean}");
        }
    }

    #[test]
    fn no_call_panics_or_leaves_the_ranges() {
        let mut noise = Noise(3);
        for round in 0..50 {
            let mut random = |most: f64| (noise.uniform() * most) as usize;
            let mut controller = Bench::new(ControllerSettings {
                frame_rate: [30.0, f64::NAN, 0.0, -1.0, 1e9][round % 5],
                segment_frames: [15, 0, 1, u32::MAX][round % 4],
                pole: [0.1, f64::NAN, 7.0][round % 3],
                low_scales: vec![f64::NAN, 0.0, 1e9],
                ..ControllerSettings::default()
            });
            let mut now = 0u64;
            for _ in 0..400 {
                match random(12.0) {
                    0 => controller.set_target([0, 1, 500, u32::MAX][random(4.0)]),
                    1 => now = [0, u64::MAX, now / 2][random(3.0)],
                    2 => controller.on_frame(now, usize::MAX, usize::MAX),
                    3 => controller.on_frame(0, 0, 0),
                    _ => now = now.saturating_add(random(1e8) as u64),
                }
                let point = controller.plan(now, random(9.0) == 0);
                assert!((20..=51).contains(&point.low_qp) && (18..=point.low_qp - 2).contains(&point.high_qp));
                assert!(point.low_scale_index < 3);
                let estimate = controller.estimate();
                assert!(
                    estimate.base_kbps.is_finite() && estimate.multiplier.is_finite(),
                    "{estimate:?}"
                );
                if random(4.0) > 0 {
                    controller.on_frame(now, random(1e5), random(1e5));
                }
            }
        }
    }
}
