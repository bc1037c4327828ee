// SPDX-License-Identifier: MPL-2.0

//! Keeps any one second of coded bytes within the cap.
//!
//! It has two means, used in this order:
//!
//! 1. A **floor**: no macroblock is coded finer than it. It rises only as far as the coming second needs, judged from
//!    the bytes of the last second and a model of what a frame costs. A rising floor first reduces the regions'
//!    difference, finest first, and raises the base only when no difference is left. While the floor does not act,
//!    quantizers are exact.
//! 2. The encoder's own **VBV** ([`Vbv`]), which bounds a frame that the model did not foresee (a scene change, the
//!    first IDR picture). It is set frame by frame to what may still be spent, so that it does not touch an expected
//!    frame.
//!
//! The bound on regions of feedback ([`super::CameraSettings::feedback`]) has a floor of its own in front of both. It
//! is planned the same way, but counts only what these regions cost on top of the frame without them, by the model
//! below, and never rises above the base: the cost of the video itself is not its concern. Nothing holds a frame that
//! the model did not foresee, so a second may take somewhat more than planned.
//!
//! The model: a frame costs `coefficient * sum over macroblocks of 2^(-qp / 4.5)`, with a coefficient each for IDR
//! pictures and others, measured as it goes. Macroblocks that get finer than they were in the frame before cost extra,
//! like a part of an IDR picture, because they are coded anew even where nothing moves.

use crate::vbv::Vbv;

use super::qpmap::QpMap;
use super::stats::Stats;
use super::types::MAX_QP;
use super::window::{Account, MAX_HORIZON, SECOND_NS, Window};

/// A window may exceed the cap by this factor at most; the VBV is set a little below.
const TOLERANCE: f64 = 1.05;
const VBV_PART: f64 = 1.04;
/// Part of the cap that the floor plans to use, and the part it plans to use after falling by a step.
const PLANNED: f64 = 1.0;
const PLANNED_FINER: f64 = 0.97;
/// Part of the feedback bound that one frame may use at once, whatever the frames after it are going to take.
const AT_ONCE: f64 = 0.5;
/// A frame may be predicted too small by this factor.
const CAUTION: f64 = 1.05;
/// At most this part of a fallen cap is charged for the second before.
const CHARGED_AFTER_FALL: f64 = 0.9;
/// Part of its even share that every later frame keeps when the VBV is set for one frame.
const RESERVED: f64 = 0.4;
/// Share of the newest frame in the slow average.
const SLOW: f64 = 0.1;
/// The fast average is used for the coming second only where it exceeds the slow one by this factor.
const SURGE: f64 = 1.3;
/// Quantizer steps that halve the bytes.
const HALVING_QP: f64 = 4.5;
/// Bytes per macroblock of an IDR picture at quantizer 26, assumed before one was coded.
const TYPICAL_IDR_BYTES: f64 = 30.0;
/// Bytes of other pictures relative to IDR pictures, assumed before any were coded.
const TYPICAL_INTER: f64 = 0.1;
const QPS: usize = MAX_QP as usize + 1;

/// A floor that rises at once and falls slowly.
#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    qp: u8,
    /// Frames since it moved.
    frames: u32,
}

/// Bounds that the cap puts on a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CapPlan {
    /// Finest quantizer that may be used; 0: no restriction.
    pub(super) floor: u8,
    /// VBV to set, where it differs from the one set before.
    pub(super) vbv: Option<Vbv>,
}

/// The rates to keep, in kbit/s; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    /// Cap of the user.
    pub(super) cap_kbps: u32,
    /// Ceiling that servers wish.
    pub(super) ceiling_kbps: u32,
    /// Coarsest quantizer that the ceiling leads to: beyond it the ceiling is exceeded.
    pub(super) ceiling_qp: u8,
}

impl Rates {
    /// The lowest of them, and whether it is the ceiling.
    fn lowest(&self) -> (u32, bool) {
        match (self.cap_kbps, self.ceiling_kbps) {
            (0, ceiling) => (ceiling, ceiling > 0),
            (cap, ceiling) if ceiling > 0 && ceiling < cap => (ceiling, true),
            (cap, _) => (cap, false),
        }
    }
}

/// A frame planned and not yet coded.
#[derive(Clone, Copy, Debug)]
struct Planned {
    now: u64,
    cost: f64,
    anew: f64,
    /// The same for the frame without regions of feedback, where these are bounded.
    flat: Option<(f64, f64)>,
    /// Bytes that the VBV lets pass.
    vbv_bytes: Option<f64>,
}

/// Keeps the coded bytes of any second within the cap, by a floor under the quantizers and by the VBV.
#[derive(Clone, Debug)]
pub(super) struct RateCap {
    /// `2^(-qp / 4.5)`.
    weights: [f64; QPS],
    /// Macroblocks by the quantizer wanted now and the quantizer coded last.
    pairs: Box<[u32]>,
    coded_qp: Box<[u8]>,
    /// The quantizer coded last, where it was the same everywhere.
    coded_uniform: Option<u8>,
    kbps: u32,
    kbps_since: u64,
    /// The user's part in it.
    cap_kbps: u32,
    /// Bytes of the past that still count `i` frames from now.
    past: Vec<f64>,
    idr_bytes: f64,
    idr_seen: bool,
    /// Cost of other pictures as of the last few frames, and as of the last half second.
    inter_bytes: f64,
    inter_bytes_slow: f64,
    inter_seen: bool,
    anew_factor: f64,
    floor: Floor,
    feedback_floor: Floor,
    /// Model units of the frame to be planned without regions of feedback.
    flat: Option<(f64, f64)>,
    /// Model units of the macroblocks that the feedback floor does not touch.
    kept: (f64, f64),
    vbv_kbit: Option<u32>,
    library_rates: bool,
    planned: Option<Planned>,
}

impl RateCap {
    pub(super) fn new(macroblocks: usize) -> Self {
        let mut weights = [0.0; QPS];
        for (qp, weight) in weights.iter_mut().enumerate() {
            *weight = (-(qp as f64) / HALVING_QP).exp2();
        }
        let idr_bytes = TYPICAL_IDR_BYTES / weights[26];
        Self {
            weights,
            pairs: vec![0; QPS * QPS].into_boxed_slice(),
            coded_qp: vec![MAX_QP; macroblocks].into_boxed_slice(),
            coded_uniform: Some(MAX_QP),
            kbps: 0,
            kbps_since: 0,
            cap_kbps: 0,
            past: Vec::with_capacity(MAX_HORIZON),
            idr_bytes,
            idr_seen: false,
            inter_bytes: idr_bytes * TYPICAL_INTER,
            inter_bytes_slow: idr_bytes * TYPICAL_INTER,
            inter_seen: false,
            anew_factor: 0.2,
            floor: Floor::default(),
            feedback_floor: Floor::default(),
            flat: None,
            kept: (0.0, 0.0),
            vbv_kbit: None,
            library_rates: false,
            planned: None,
        }
    }

    /// Begins another stream with pictures of this many macroblocks, in an encoder opened with [`Vbv::OPEN`]. The bytes
    /// of the last second still count.
    pub(super) fn restart(&mut self, macroblocks: usize) {
        *self = Self {
            kbps: self.kbps,
            kbps_since: self.kbps_since,
            cap_kbps: self.cap_kbps,
            library_rates: self.library_rates,
            ..Self::new(macroblocks)
        };
    }

    /// See [`super::Camera::set_library_rate_control`].
    pub(super) fn set_library_rates(&mut self, on: bool) {
        self.library_rates = on;
        self.floor = Floor::default();
    }

    /// Begins a frame.
    pub(super) fn begin(&mut self) {
        self.flat = None;
    }

    /// Finest quantizer that regions of feedback may have in a frame whose map has been merged, so that they add no more
    /// than `kbps` in any second; 0: no restriction. `map` still distinguishes the regions of the video itself. `flat_qp`:
    /// base quantizer of the frame without feedback; where feedback wishes a finer one, the answer may be up to it.
    pub(super) fn plan_feedback(
        &mut self,
        (now, window): (u64, &Window),
        idr: bool,
        (kbps, flat_qp): (u32, u8),
        map: &QpMap,
    ) -> u8 {
        self.count_pairs(map, map.own());
        let base = map.base_qp().max(flat_qp);
        let flat = self.costs(base);
        self.flat = Some(flat);
        window.look_ahead(now, SECOND_NS, Account::Feedback, &mut self.past);
        let floor = self.feedback_floor;
        self.feedback_floor = self.choose_floor(floor, idr, map, base, |this, floor, idr, part| {
            let budget = part * f64::from(kbps) * 125.0;
            this.fits(floor, idr, budget, flat) || this.fits_now(floor, idr, AT_ONCE * budget, flat)
        });
        self.feedback_floor.qp
    }

    /// Bytes that a picture of so many macroblocks is expected to take at one quantizer, other than an IDR picture; 0
    /// before any was coded.
    pub(super) fn bytes_at(&self, qp: u8, macroblocks: usize) -> f64 {
        let weight = self.weights[usize::from(qp.min(MAX_QP))];
        if self.inter_seen {
            self.inter_bytes_slow * weight * macroblocks as f64
        } else {
            0.0
        }
    }

    /// Plans a frame whose map has been merged, and of which nothing is coded finer than `held`.
    pub(super) fn plan(
        &mut self,
        (now, window): (u64, &mut Window),
        idr: bool,
        (rates, held): (Rates, u8),
        map: &QpMap,
    ) -> CapPlan {
        let (kbps, is_ceiling) = rates.lowest();
        let bytes = |kbps: u32| f64::from(kbps) * 125.0;
        self.follow_cap(now, kbps, window);
        self.cap_kbps = rates.cap_kbps;
        self.count_pairs(map, None);
        let mut plan = CapPlan { floor: 0, vbv: None };
        let mut vbv_bytes = None;
        if kbps > 0 {
            window.look_ahead(now, SECOND_NS, Account::Cap, &mut self.past);
            // A library that chooses quantizers itself would compensate a floor elsewhere.
            plan.floor = if self.library_rates {
                0
            } else {
                let floor = self.floor;
                let most = if is_ceiling {
                    rates.ceiling_qp.max(map.base_qp())
                } else {
                    MAX_QP
                };
                self.floor = self.choose_floor(floor, idr, map, most, |this, floor, idr, budget| {
                    this.fits(floor, idr, budget * bytes(kbps), (0.0, 0.0))
                });
                let cap = rates.cap_kbps;
                if is_ceiling && cap > 0 && !self.fits(self.floor.qp, idr, bytes(cap), (0.0, 0.0)) {
                    self.floor = self.choose_floor(floor, idr, map, MAX_QP, |this, floor, idr, budget| {
                        this.fits(floor, idr, budget * bytes(cap), (0.0, 0.0))
                    });
                }
                self.floor.qp
            };
        } else {
            self.floor.qp = 0;
        }
        // A VBV would lead beyond what wishes may lead to.
        if rates.cap_kbps > 0 {
            let room = self.vbv_room(bytes(rates.cap_kbps));
            vbv_bytes = Some(room);
            plan.vbv = self.set_vbv(room, window.nominal_rate());
        } else if self.vbv_kbit.take().is_some() {
            plan.vbv = Some(Vbv::OPEN);
        }
        let floor = plan.floor.max(held);
        let (cost, anew) = self.costs(floor);
        self.planned = Some(Planned {
            now,
            cost,
            anew,
            flat: self.flat,
            vbv_bytes,
        });
        self.remember(floor, map);
        plan
    }

    /// Accounts for the size of a frame that was not planned.
    pub(super) fn unplanned(&mut self, now: u64, bytes: usize, window: &mut Window) {
        window.forget(now);
        let bytes = bytes as f64;
        window.push(now, [bytes, bytes, bytes, 0.0]);
    }

    /// Accounts for the size of the planned frame.
    pub(super) fn coded(&mut self, bytes: usize, idr: bool, window: &mut Window, stats: &mut Stats) {
        let Some(planned) = self.planned.take() else { return };
        window.forget(planned.now);
        let bytes = bytes as f64;
        let caused = planned.flat.map_or(0.0, |flat| {
            let (whole, flat) = (
                self.expected(idr, planned.cost, planned.anew),
                self.expected(idr, flat.0, flat.1),
            );
            bytes * (1.0 - flat / whole.max(f64::MIN_POSITIVE)).max(0.0)
        });
        window.push(planned.now, [bytes, bytes, bytes, caused]);
        let since = planned.now.checked_sub(1_000_000_000);
        let second = window.sum_since(since, Account::Coded);
        stats.peak_second_bytes = stats.peak_second_bytes.max(second as u64);
        if planned.flat.is_some() {
            let caused = window.sum(Account::Feedback) as u64;
            stats.feedback_peak_second_bytes = stats.feedback_peak_second_bytes.max(caused);
        }
        let settled = self.kbps_since == 0 || since.is_some_and(|since| since >= self.kbps_since);
        if self.cap_kbps > 0 && settled && second > TOLERANCE * f64::from(self.cap_kbps) * 125.0 {
            stats.cap_exceeded_frames += 1;
        }
        self.learn(planned, bytes, idr);
    }

    fn learn(&mut self, planned: Planned, bytes: f64, idr: bool) {
        // A frame near the bound of the VBV may have been coded coarser than planned: its size is only a lower bound on
        // what the plan costs.
        let held = planned.vbv_bytes.is_some_and(|most| bytes > 0.5 * most);
        let cost = planned.cost.max(f64::MIN_POSITIVE);
        if idr {
            let sample = if held { 1.3 } else { 1.0 } * bytes / cost;
            let speed = match (self.idr_seen, held) {
                (true, true) if sample < self.idr_bytes => 0.2,
                (true, false) => 0.5,
                _ => 1.0,
            };
            self.idr_bytes += speed * (sample - self.idr_bytes);
            self.idr_seen = true;
            if !self.inter_seen {
                self.inter_bytes = self.idr_bytes * TYPICAL_INTER;
                self.inter_bytes_slow = self.inter_bytes;
            }
            return;
        }
        let anew = self.idr_bytes * planned.anew;
        let moving = self.inter_bytes * cost;
        let mixed = self.anew_factor * anew > moving;
        if mixed {
            let factor = ((bytes - moving) / anew).clamp(0.02, 2.0);
            let speed = match (self.inter_seen, factor > self.anew_factor) {
                (true, true) => 0.5,
                _ => 0.1,
            };
            self.anew_factor += speed * (factor - self.anew_factor);
        }
        let sample = (bytes - self.anew_factor * anew).max(0.2 * bytes) / cost;
        let sample = if held { sample.max(self.inter_bytes) } else { sample };
        // A first frame is coded anew for the most part and predicts little about the next ones.
        let (fast, slow) = match (self.inter_seen || mixed, sample > self.inter_bytes) {
            (false, _) => (1.0, 1.0),
            (true, true) => (0.3, SLOW),
            (true, false) => (0.15, SLOW),
        };
        self.inter_bytes += fast * (sample - self.inter_bytes);
        self.inter_bytes_slow += slow * (sample - self.inter_bytes_slow);
        self.inter_seen |= !mixed;
    }

    /// A falling cap is not retroactive: bytes coded under the old one are charged as if they had kept the new one.
    /// Every second that begins after the change keeps the new cap.
    fn follow_cap(&mut self, now: u64, kbps: u32, window: &mut Window) {
        if kbps == self.kbps {
            return;
        }
        (self.kbps, self.kbps_since) = (kbps, now);
        if kbps > 0 {
            window.limit(Account::Cap, CHARGED_AFTER_FALL * f64::from(kbps) * 125.0);
        }
    }

    /// Counts macroblocks by their quantizers, separately those that `own` makes finest: see [`Self::kept`].
    fn count_pairs(&mut self, map: &QpMap, own: Option<&[i8]>) {
        self.pairs.fill(0);
        self.kept = (0.0, 0.0);
        let base = map.base_qp();
        if let (Some(own), Some(offsets)) = (own, map.merged()) {
            for ((own, offset), coded) in own.iter().zip(offsets).zip(&self.coded_qp) {
                let wanted = usize::from(base.wrapping_add_signed(*offset));
                if *own < 0 && own <= offset {
                    let (weight, before) = (self.weights[wanted], self.weights[usize::from(*coded)]);
                    self.kept.0 += weight;
                    self.kept.1 += (weight - before).max(0.0);
                } else {
                    self.pairs[wanted * QPS + usize::from(*coded)] += 1;
                }
            }
            return;
        }
        match (map.merged(), self.coded_uniform) {
            (None, Some(coded)) => {
                self.pairs[usize::from(base) * QPS + usize::from(coded)] = self.coded_qp.len() as u32;
            }
            (None, None) => {
                let row = &mut self.pairs[usize::from(base) * QPS..][..QPS];
                for coded in &self.coded_qp {
                    row[usize::from(*coded)] += 1;
                }
            }
            (Some(offsets), _) => {
                // Neighbours are mostly alike: runs are counted, not macroblocks.
                let (mut run, mut length) = (0, 0);
                for (offset, coded) in offsets.iter().zip(&self.coded_qp) {
                    let wanted = usize::from(base.wrapping_add_signed(*offset));
                    let pair = wanted * QPS + usize::from(*coded);
                    if pair == run {
                        length += 1;
                    } else {
                        self.pairs[run] += length;
                        (run, length) = (pair, 1);
                    }
                }
                self.pairs[run] += length;
            }
        }
    }

    fn remember(&mut self, floor: u8, map: &QpMap) {
        let base = map.base_qp();
        match map.merged() {
            Some(offsets) => {
                for (coded, offset) in self.coded_qp.iter_mut().zip(offsets) {
                    *coded = base.wrapping_add_signed(*offset).max(floor);
                }
                self.coded_uniform = None;
            }
            None => {
                let qp = base.max(floor);
                if self.coded_uniform != Some(qp) {
                    self.coded_qp.fill(qp);
                    self.coded_uniform = Some(qp);
                }
            }
        }
    }

    /// Model units of the frame under this floor: of all macroblocks, and of those coded anew.
    fn costs(&self, floor: u8) -> (f64, f64) {
        let (mut cost, mut anew) = self.kept;
        for (wanted, row) in self.pairs.chunks_exact(QPS).enumerate() {
            let qp = wanted.max(usize::from(floor));
            let weight = self.weights[qp];
            let mut macroblocks = 0;
            for (coded, count) in row.iter().enumerate() {
                macroblocks += count;
                if *count > 0 && coded > qp {
                    anew += f64::from(*count) * (weight - self.weights[coded]);
                }
            }
            cost += f64::from(macroblocks) * weight;
        }
        (cost, anew)
    }

    /// Bytes that a frame of so many model units is expected to take.
    fn expected(&self, idr: bool, cost: f64, anew: f64) -> f64 {
        if idr {
            self.idr_bytes * cost
        } else {
            self.inter_bytes * cost + self.idr_bytes * self.anew_factor * anew
        }
    }

    /// Whether this frame alone stays within `budget` bytes in the second that it ends, counted as in [`Self::fits`].
    fn fits_now(&self, floor: u8, idr: bool, budget: f64, flat: (f64, f64)) -> bool {
        let (cost, anew) = self.costs(floor);
        let this = self.expected(idr, cost, anew) - self.expected(idr, flat.0, flat.1);
        self.past.first().unwrap_or(&0.0) + CAUTION * this.max(0.0) <= budget
    }

    /// Whether this frame and those of the coming second, all alike, stay within `budget` bytes in every window. Only
    /// units beyond `flat` count.
    fn fits(&self, floor: u8, idr: bool, budget: f64, flat: (f64, f64)) -> bool {
        let (cost, anew) = self.costs(floor);
        // One large frame does not predict a whole second, a run of them does.
        let later = self.inter_bytes_slow.max(self.inter_bytes / SURGE) * (cost - flat.0).max(0.0);
        let this = CAUTION * (self.expected(idr, cost, anew) - self.expected(idr, flat.0, flat.1)).max(0.0);
        self.past
            .iter()
            .enumerate()
            .all(|(i, past)| past + this + i as f64 * later <= budget)
    }

    /// Moves a floor, up to `most` and not below the base. It rises at once as far as needed, and falls by one step at
    /// a time and only where the finer step fits with room: `fits` decides for a quantizer and a part of the budget.
    fn choose_floor(
        &self,
        before: Floor,
        idr: bool,
        map: &QpMap,
        most: u8,
        fits: impl Fn(&Self, u8, bool, f64) -> bool,
    ) -> Floor {
        let base = map.base_qp();
        let finest = map.finest_qp().clamp(0, i32::from(base)) as u8;
        // Steps of two up to the base, to keep offsets even, then of one.
        let steps = (base - finest) / 2;
        let floor_at = |step: u8| match step {
            0 => 0,
            step if step <= steps => finest + 2 * step,
            step => base + (step - steps),
        };
        let last = steps + (most - base);
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = (low + high) / 2;
            if fits(self, floor_at(middle), idr, PLANNED) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let needed = low;
        let current = match before.qp {
            floor if floor <= finest => 0,
            floor if floor <= base => (floor - finest).div_ceil(2),
            floor => (steps + (floor - base)).min(last),
        };
        let patience = self.past.len() as u32 / 15;
        let step = if needed >= current {
            needed
        } else if !idr && before.frames >= patience && fits(self, floor_at(current - 1), idr, PLANNED_FINER) {
            current - 1
        } else {
            current
        };
        Floor {
            qp: floor_at(step),
            frames: if step == current {
                before.frames.saturating_add(1)
            } else {
                0
            },
        }
    }

    /// Most bytes this frame may take: what the tolerance leaves in every window of the coming second, with a reserve
    /// for the frames after it.
    fn vbv_room(&self, cap: f64) -> f64 {
        let share = cap / self.past.len() as f64;
        self.past
            .iter()
            .enumerate()
            .map(|(i, past)| VBV_PART * cap - past - i as f64 * RESERVED * share)
            .fold(f64::INFINITY, f64::min)
            .max(share / 8.0)
    }

    /// Sets the VBV to these bytes. The buffer holds one frame and is full again for the next, so that no frame
    /// depends on the one before it.
    fn set_vbv(&mut self, bytes: f64, frame_rate: f64) -> Option<Vbv> {
        let mut kbit = bytes * 8.0 / 1000.0;
        if let Some(before) = self.vbv_kbit {
            // libx264 coarsens when the buffer is less than half full, which a buffer that doubles would be.
            kbit = kbit.min(1.9 * f64::from(before) + 1.0);
            // A small change is not worth a reconfiguration, unless it is downwards.
            if kbit >= f64::from(before) && kbit < 1.1 * f64::from(before) {
                return None;
            }
        }
        let kbit = (kbit as u32).clamp(1, Vbv::OPEN.buffer_kbit);
        if self.vbv_kbit == Some(kbit) {
            return None;
        }
        self.vbv_kbit = Some(kbit);
        Some(Vbv {
            max_kbps: (f64::from(kbit) * frame_rate).clamp(1.0, 2e9) as u32,
            buffer_kbit: kbit,
        })
    }

    /// Time went back by `by`.
    pub(super) fn shift_back(&mut self, by: u64) {
        self.kbps_since = self.kbps_since.saturating_sub(by);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Camera, CameraSettings, FramePlan, Geometry, RoiRequest, StreamConfig, Way};
    use super::*;
    use dds_protocol::feedback::{FeedbackState, Quality, Rect, Region, encode};
    use dds_protocol::serial::Serial16;

    const GEOMETRY: Geometry = Geometry {
        width: 640,
        height: 360,
    };
    const FPS: u64 = 30;

    /// A model encoder: each picture costs by its quantizers, by another law than the rate cap assumes; finer
    /// macroblocks cost extra; sizes are noisy; the VBV holds.
    struct Encoder {
        halving_qp: f64,
        inter: f64,
        anew: f64,
        coded: Vec<u8>,
        vbv_bytes: f64,
        seed: u64,
    }

    impl Encoder {
        fn new(halving_qp: f64) -> Self {
            Self {
                halving_qp,
                inter: 0.15,
                anew: 0.3,
                coded: vec![51; GEOMETRY.macroblocks()],
                vbv_bytes: f64::INFINITY,
                seed: 1,
            }
        }

        fn noise(&mut self) -> f64 {
            self.seed = self
                .seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (self.seed >> 40) as f64 / (1u64 << 24) as f64
        }

        fn encode(&mut self, plan: &FramePlan<'_>, idr: bool, complexity: f64) -> usize {
            if let Some(vbv) = plan.vbv {
                self.vbv_bytes = f64::from(vbv.buffer_kbit) * 125.0;
            }
            let mut units = 0.0;
            for (i, coded) in self.coded.iter_mut().enumerate() {
                let qp = plan
                    .base_qp
                    .wrapping_add_signed(plan.offsets.map_or(0, |offsets| offsets[i]));
                let weight = |qp: u8| ((26.0 - f64::from(qp)) / self.halving_qp).exp2();
                units += if idr {
                    weight(qp)
                } else {
                    self.inter * weight(qp) + self.anew * (weight(qp) - weight(*coded)).max(0.0)
                };
                *coded = qp;
            }
            let bytes = 125.0 * complexity * units * (0.7 + 0.6 * self.noise()) + 20.0;
            bytes.min(self.vbv_bytes) as usize
        }
    }

    /// Statistics of a run.
    #[derive(Debug, Default)]
    struct Run {
        /// Worst second as a factor of the cap, and the mean.
        worst: f64,
        mean: f64,
        exact: usize,
        trimmed: usize,
        raised: usize,
        /// Frames whose base was raised while regions still had a difference.
        raised_too_early: usize,
        exceeded: u64,
        plans: Vec<(u8, i8)>,
    }

    struct Scene {
        kbps: fn(u64) -> u32,
        regions: fn(u64) -> Vec<Region>,
        idr: fn(u64) -> bool,
        complexity: fn(u64) -> f64,
        frames: u64,
        halving_qp: f64,
        /// Actual frames per second.
        fps: u64,
        /// Whether the cap knows of IDR pictures beforehand.
        key_frames_expected: bool,
    }

    impl Default for Scene {
        fn default() -> Self {
            Self {
                kbps: |_| 800,
                regions: |_| vec![region(300, 200, Quality::Camera)],
                idr: |frame| frame == 0,
                complexity: |_| 1.0,
                frames: 300,
                halving_qp: 4.0,
                fps: FPS,
                key_frames_expected: true,
            }
        }
    }

    fn region(width: u32, height: u32, quality: Quality) -> Region {
        Region {
            rect: Rect {
                x: 40,
                y: 40,
                width,
                height,
            },
            quality,
            ttl_ms: 500,
            ..Region::default()
        }
    }

    impl Scene {
        fn run(&self) -> Run {
            let settings = |frame| CameraSettings {
                max_bitrate_kbps: (self.kbps)(frame),
                max_region_area: 1.0,
                ..CameraSettings::default()
            };
            let mut camera = Camera::new(1, GEOMETRY, settings(0));
            let mut encoder = Encoder::new(self.halving_qp);
            let (mut coded, mut run) = (Vec::new(), Run::default());
            let (mut kbps_since, mut total) = (0, 0);
            for frame in 0..self.frames {
                let now = frame * 1_000_000_000 / self.fps;
                let kbps = (self.kbps)(frame);
                if kbps != camera.settings().max_bitrate_kbps {
                    camera.set_settings(settings(frame));
                    kbps_since = frame;
                }
                if frame > 0 {
                    let state = FeedbackState {
                        stream_id: 1,
                        generation: Serial16(frame as u16),
                        frame: frame - 1,
                        regions: (self.regions)(frame),
                        ..FeedbackState::default()
                    };
                    for packet in encode(&state).packets {
                        camera.push_feedback(now, Way::Pad, &packet);
                    }
                }
                let idr = (self.idr)(frame);
                let plan = camera.begin_frame(now, frame, idr && self.key_frames_expected, &[]);
                let finest = plan
                    .offsets
                    .and_then(|offsets| offsets.iter().min().copied())
                    .unwrap_or(0);
                let wanted = (self.regions)(frame)
                    .iter()
                    .any(|region| region.quality == Quality::Camera);
                run.exact += usize::from(plan.base_qp == 36 && finest == if wanted && frame > 0 { -10 } else { 0 });
                run.trimmed += usize::from(plan.base_qp == 36 && finest > -10);
                run.raised += usize::from(plan.base_qp > 36);
                run.raised_too_early += usize::from(plan.base_qp > 36 && finest < 0);
                run.plans.push((plan.base_qp, finest));
                let bytes = encoder.encode(&plan, idr, (self.complexity)(frame));
                camera.end_frame(now, bytes, idr);
                coded.push(bytes);
                total += bytes;
                // Seconds after the last change of the cap.
                let from = (frame + 1).saturating_sub(self.fps).max(kbps_since) as usize;
                let second: usize = coded[from..].iter().sum();
                if kbps > 0 {
                    run.worst = run.worst.max(second as f64 / (f64::from(kbps) * 125.0));
                }
            }
            run.mean =
                total as f64 * self.fps as f64 / self.frames as f64 / (f64::from((self.kbps)(self.frames)) * 125.0);
            run.exceeded = camera.stats().cap_exceeded_frames;
            run
        }
    }

    fn holds(run: &Run) {
        assert!(run.worst <= 1.05, "{:?}", run.worst);
        assert_eq!(run.exceeded, 0);
        assert_eq!(run.raised_too_early, 0);
    }

    #[test]
    fn quantizers_are_exact_until_the_cap_bites() {
        let free = Scene {
            kbps: |_| 0,
            ..Scene::default()
        };
        assert_eq!(free.run().exact, 300);
        let ample = Scene {
            kbps: |_| 2400,
            ..Scene::default()
        }
        .run();
        holds(&ample);
        assert_eq!(
            (ample.exact, ample.trimmed - 1),
            (300, 0),
            "worst second {}",
            ample.worst
        );
        assert!(ample.worst > 0.7, "the cap is near: {}", ample.worst);
    }

    #[test]
    fn the_region_difference_shrinks_first_and_the_base_stays() {
        let run = Scene {
            kbps: |_| 1500,
            ..Scene::default()
        }
        .run();
        holds(&run);
        assert_eq!(run.raised, 0);
        assert!(run.trimmed > 200, "{}", run.trimmed);
        assert!(run.mean > 0.7, "the cap is used: {}", run.mean);
    }

    #[test]
    fn every_second_keeps_the_cap_whatever_the_law_of_the_encoder() {
        for halving_qp in [3.0, 4.0, 5.0, 7.0] {
            for kbps in [(|_| 200) as fn(u64) -> u32, |_| 600, |_| 1500] {
                let scene = Scene {
                    kbps,
                    halving_qp,
                    ..Scene::default()
                };
                holds(&scene.run());
            }
        }
    }

    #[test]
    fn hostile_feedback_cannot_break_the_cap() {
        for regions in [
            (|_| vec![region(600, 320, Quality::Qp(10))]) as fn(u64) -> Vec<Region>,
            |frame| {
                if frame / 7 % 2 == 0 {
                    vec![region(640, 360, Quality::Qp(1))]
                } else {
                    vec![]
                }
            },
            |frame| vec![region(640, 360, Quality::Qp((frame * 7 % 51) as u8))],
        ] {
            let run = Scene {
                regions,
                ..Scene::default()
            }
            .run();
            holds(&run);
            assert!(run.mean > 0.4, "the picture does not starve: {}", run.mean);
        }
    }

    #[test]
    fn large_idr_pictures_are_survived() {
        for idr in [
            (|frame| frame % 30 == 0) as fn(u64) -> bool,
            |frame| frame % 7 == 0,
            |_| true,
        ] {
            let scene = Scene {
                idr,
                kbps: |_| 500,
                ..Scene::default()
            };
            holds(&scene.run());
        }
    }

    #[test]
    fn idr_pictures_that_nobody_announced_are_survived() {
        let scene = Scene {
            idr: |frame| frame % 25 == 0,
            key_frames_expected: false,
            kbps: |_| 500,
            ..Scene::default()
        };
        holds(&scene.run());
    }

    #[test]
    fn a_camera_slower_or_faster_than_its_caps_keeps_and_uses_the_cap() {
        for fps in [2, 10, 60, 240] {
            let run = Scene {
                fps,
                kbps: |_| 800,
                regions: |_| vec![region(640, 360, Quality::Qp(10))],
                frames: 20 * fps,
                ..Scene::default()
            }
            .run();
            holds(&run);
            // A second holds one frame too many: time stamps are rounded.
            let usable = fps as f64 / (fps + 1) as f64;
            assert!(run.mean > 0.6 * usable, "{fps} frames per second: {}", run.mean);
        }
    }

    #[test]
    fn sudden_changes_of_the_scene_are_survived() {
        let run = Scene {
            complexity: |frame| if frame / 45 % 2 == 0 { 0.3 } else { 6.0 },
            ..Scene::default()
        }
        .run();
        holds(&run);
        assert!(run.raised > 0);
    }

    #[test]
    fn quality_returns_when_the_load_has_gone() {
        let run = Scene {
            complexity: |frame| if (60..120).contains(&frame) { 8.0 } else { 0.3 },
            ..Scene::default()
        }
        .run();
        holds(&run);
        assert!(run.plans[110].0 > 36);
        assert_eq!(run.plans[299], (36, -10));
    }

    #[test]
    fn a_cap_that_falls_holds_from_then_on_without_starving_the_picture() {
        let scene = Scene {
            kbps: |frame| if frame < 150 { 0 } else { 400 },
            regions: |_| vec![region(600, 320, Quality::Qp(20))],
            ..Scene::default()
        };
        let run = scene.run();
        holds(&run);
        assert!(run.plans[..150].iter().skip(1).all(|plan| *plan == (36, -16)));
        assert!(
            run.plans[155..180].iter().all(|plan| plan.0 < 48),
            "{:?}",
            &run.plans[150..180]
        );
    }

    #[test]
    fn removing_the_cap_opens_the_vbv_once_and_gives_exact_quantizers_at_once() {
        let mut camera = Camera::new(1, GEOMETRY, CameraSettings::default());
        let with = |kbps| CameraSettings {
            max_bitrate_kbps: kbps,
            ..CameraSettings::default()
        };
        camera.set_settings(with(100));
        for frame in 0..60 {
            camera.begin_frame(frame * 33_000_000, frame, false, &[]);
            camera.end_frame(frame * 33_000_000, 5000, false);
        }
        assert!(camera.begin_frame(1_980_000_000, 60, false, &[]).base_qp > 30);
        camera.set_settings(with(0));
        let plan = camera.begin_frame(1_999_000_000, 61, false, &[]);
        assert_eq!((plan.base_qp, plan.vbv), (30, Some(Vbv::OPEN)));
        assert_eq!(camera.begin_frame(1_999_900_000, 62, false, &[]).vbv, None);
    }

    #[test]
    fn the_vbv_holds_one_frame_so_that_no_frame_depends_on_the_one_before() {
        let mut camera = Camera::new(
            1,
            GEOMETRY,
            CameraSettings {
                max_bitrate_kbps: 1000,
                ..CameraSettings::default()
            },
        );
        let mut last: Option<Vbv> = None;
        for frame in 0..200u64 {
            let bytes = if frame % 40 == 0 { 60_000 } else { 2000 };
            if let Some(vbv) = camera.begin_frame(frame * 33_333_333, frame, false, &[]).vbv {
                assert_eq!(vbv.max_kbps, vbv.buffer_kbit * 30);
                assert!(vbv.buffer_kbit <= 1050, "{vbv:?}");
                if let Some(last) = last {
                    assert!(vbv.buffer_kbit <= 2 * last.buffer_kbit, "{last:?} {vbv:?}");
                }
                last = Some(vbv);
            }
            camera.end_frame(frame * 33_333_333, bytes, frame % 40 == 0);
        }
        assert!(last.is_some());
    }

    #[test]
    fn under_the_rate_control_of_the_library_the_vbv_alone_holds_the_cap() {
        let settings = CameraSettings {
            max_bitrate_kbps: 1000,
            max_region_area: 1.0,
            ..CameraSettings::default()
        };
        let config = StreamConfig {
            library_rates: true,
            ..StreamConfig::new(GEOMETRY)
        };
        let mut camera = Camera::with_config(1, config, settings);
        let roi = RoiRequest {
            rect: region(64, 64, Quality::Camera).rect,
            delta_qp: -12,
        };
        let mut coded = vec![];
        let mut kbit = 0;
        for frame in 0..120u64 {
            let plan = camera.begin_frame(frame * 33_333_333, frame, false, &[roi]);
            assert_eq!(
                plan.offsets.and_then(|offsets| offsets.iter().min().copied()),
                Some(-12)
            );
            kbit = plan.vbv.map_or(kbit, |vbv| vbv.buffer_kbit);
            // This encoder takes all it may.
            coded.push(kbit as usize * 125);
            camera.end_frame(frame * 33_333_333, kbit as usize * 125, false);
        }
        for second in coded.windows(31) {
            let kbps = second.iter().sum::<usize>() / 125;
            assert!((333..=1050).contains(&kbps), "{kbps} kbit in a second");
        }
    }

    #[test]
    fn more_frames_than_are_remembered_still_count() {
        let mut camera = Camera::new(1, GEOMETRY, CameraSettings::default());
        for frame in 0..5000u64 {
            camera.begin_frame(frame * 100_000, frame, false, &[]);
            camera.end_frame(frame * 100_000, 10, false);
        }
        assert_eq!(camera.stats().peak_second_bytes, 50_000);
    }
}
