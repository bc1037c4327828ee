// SPDX-License-Identifier: MPL-2.0

//! Bandwidth control: estimates the available bandwidth from the losses that receivers report, and chooses the
//! operating point that uses it.

use super::controller::{Controller, ControllerSettings, OperatingPoint};
use super::loss::LossEstimator;
use super::types::Bandwidth;
use super::window::{Account, Window};

/// Chooses the quantizers and the size of the first pass where a bandwidth is set.
#[derive(Clone, Debug)]
pub(super) struct BandwidthControl {
    controller: Controller,
    /// Follows losses between the bounds it was made for.
    estimator: Option<(Bandwidth, LossEstimator)>,
    /// In kbit/s, 0 where none is set.
    available_kbps: u32,
    /// Bytes of the second pass up to the last frame, and up to the one that is being coded.
    refined_bytes: (u64, u64),
}

/// Division of a frame's bytes into the two parts that the controller distinguishes.
#[derive(Clone, Copy, Debug)]
pub(super) enum FrameSplit {
    /// One pass: the share of its regions, 0.0..=1.0, and the floor that the rate cap put under its quantizers; 0:
    /// none.
    Regions { share: f64, floor: u8 },
    /// Two passes.
    Passes,
}

impl BandwidthControl {
    pub(super) fn new(settings: ControllerSettings) -> Self {
        Self {
            controller: Controller::new(settings),
            estimator: None,
            available_kbps: 0,
            refined_bytes: (0, 0),
        }
    }

    /// Restarts with other settings; what is known of losses stays.
    pub(super) fn restart(&mut self, settings: ControllerSettings) {
        self.controller = Controller::new(settings);
    }

    /// Decides on a frame; `None` where no bandwidth is set. `ceiling_kbps`: what servers wish of it; 0 = all.
    pub(super) fn plan(
        &mut self,
        now: u64,
        idr: bool,
        (bandwidth, ceiling_kbps): (Option<Bandwidth>, u32),
        refined_bytes: u64,
        window: &mut Window,
    ) -> Option<OperatingPoint> {
        self.refined_bytes.1 = refined_bytes;
        self.available_kbps = bandwidth.map_or(0, |bandwidth| self.available(bandwidth));
        let target = match ceiling_kbps {
            0 => self.available_kbps,
            ceiling => self.available_kbps.min(ceiling),
        };
        self.controller.set_target(target, window);
        let point = self.controller.plan(now, idr, window);
        (self.available_kbps > 0).then_some(point)
    }

    fn available(&mut self, bandwidth: Bandwidth) -> u32 {
        if bandwidth.min_kbps == 0 || bandwidth.min_kbps >= bandwidth.max_kbps {
            self.estimator = None;
            return bandwidth.max_kbps;
        }
        let estimator = match self.estimator.take() {
            Some((known, estimator)) if known == bandwidth => estimator,
            before => {
                let start = before.map_or(bandwidth.max_kbps, |(_, estimator)| estimator.available_kbps());
                LossEstimator::new(bandwidth.min_kbps, bandwidth.max_kbps, start)
            }
        };
        let available = estimator.available_kbps();
        self.estimator = Some((bandwidth, estimator));
        available
    }

    /// Available kbit/s, 0 where no bandwidth is set.
    pub(super) fn available_kbps(&self) -> u32 {
        self.available_kbps
    }

    /// Takes a receiver's report: see [`LossEstimator::on_report`].
    pub(super) fn report(&mut self, now: u64, loss: f64, jitter_ms: f64, highest_seq: u32) {
        if let Some((_, estimator)) = &mut self.estimator {
            estimator.on_report(now, loss, jitter_ms, highest_seq);
        }
    }

    /// Accounts for the size of the planned frame, which is the newest of the window.
    pub(super) fn coded(&mut self, bytes: usize, split: FrameSplit, window: &mut Window) {
        let (before, now) = self.refined_bytes;
        self.refined_bytes.0 = now;
        let (low, refined) = match split {
            FrameSplit::Regions { share, floor } => {
                self.controller.held_at(floor);
                // There is no second pass: the regions' part of the frame is counted as one.
                let refined = ((bytes as f64 * share) as usize).min(bytes);
                (bytes - refined, refined)
            }
            FrameSplit::Passes => {
                let refined = usize::try_from(now.saturating_sub(before)).unwrap_or(usize::MAX);
                window.add(Account::Target, refined as f64);
                (bytes, refined)
            }
        };
        self.controller.on_frame(low, refined);
    }
}
