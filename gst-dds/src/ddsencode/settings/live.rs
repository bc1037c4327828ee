// SPDX-License-Identifier: MPL-2.0

//! Settings that may change in a running element, and their meaning for camera and encoder.

#![forbid(unsafe_code)]

use crate::camera::{Bandwidth, CameraSettings, FeedbackBound, WishBounds};
use crate::encoder::RateControl;
use crate::vbv::Vbv;

/// Settings that may change in a running element, copied for every frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Live {
    pub background_qp: u8,
    pub region_qp: u8,
    pub fallback_qp: u8,
    pub feedback_timeout_ms: u32,
    pub max_bitrate_kbps: u32,
    /// Bound on what regions of feedback add.
    pub feedback: FeedbackBound,
    /// kbit/s for the controller, 0 = it is off.
    pub bandwidth_kbps: u32,
    /// Least bandwidth, where losses reduce it; 0 = they do not.
    pub bandwidth_min_kbps: u32,
    pub max_region_area: f64,
    pub mode: RateMode,
    pub vbv_buf_capacity_ms: u32,
    /// Lowest and highest quantizer allowed.
    pub limits: (u8, u8),
    /// What servers may wish.
    pub wishes: WishBounds,
}

/// Rate control that the properties select.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum RateMode {
    /// Two quantizers.
    Quantizers,
    /// One quantizer, to which regions are differences.
    Constant(u8),
    /// libx264's constant quality, capped by a bit rate, 0 = none.
    Quality { quality: u8, kbps: u32 },
    /// Bit rate in kbit/s.
    Bitrate(u32),
}

impl RateMode {
    /// Whether the library chooses the quantizers, and regions are differences to them.
    pub fn is_of_library(self) -> bool {
        matches!(self, Self::Quality { .. } | Self::Bitrate(_))
    }

    /// Whether an encoder opened for `other` can continue with these.
    pub fn same_kind(self, other: Self) -> bool {
        let exact = |m| matches!(m, Self::Quantizers | Self::Constant(_));
        exact(self) && exact(other) || std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl Live {
    /// Quantizers of background, regions and fallback.
    fn quantizers(&self) -> (u8, u8, u8) {
        let limit = |qp: i32| qp.clamp(self.limits.0.into(), self.limits.1.into()) as u8;
        let RateMode::Constant(constant) = self.mode else {
            return (
                limit(self.background_qp.into()),
                limit(self.region_qp.into()),
                limit(self.fallback_qp.into()),
            );
        };
        let constant = limit(constant.into());
        let region = i32::from(constant) + i32::from(self.region_qp) - i32::from(self.background_qp);
        (constant, limit(region), constant)
    }

    /// Settings of the camera core, which measures the frame rate itself.
    pub fn camera(&self) -> CameraSettings {
        let (background_qp, region_qp, fallback_qp) = self.quantizers();
        CameraSettings {
            background_qp,
            region_qp,
            fallback_qp,
            feedback_timeout_ns: u64::from(self.feedback_timeout_ms) * 1_000_000,
            max_region_area: self.max_region_area,
            max_bitrate_kbps: self.max_bitrate_kbps,
            feedback: self.feedback,
            bandwidth: (self.bandwidth_kbps > 0).then_some(Bandwidth {
                max_kbps: self.bandwidth_kbps,
                min_kbps: self.bandwidth_min_kbps,
            }),
            qp_limits: self.limits,
            wishes: self.wishes,
            ..CameraSettings::default()
        }
    }

    /// Rate control of the encoder.
    pub fn rate(&self) -> RateControl {
        match self.mode {
            RateMode::Quantizers | RateMode::Constant(_) => RateControl::Quantizers {
                base_qp: self.quantizers().0,
            },
            RateMode::Quality { quality, .. } => RateControl::Quality { quality },
            RateMode::Bitrate(kbps) => RateControl::Bitrate { kbps },
        }
    }

    /// The VBV of bit rate and `vbv-buf-capacity`, without any cap.
    pub fn vbv(&self) -> Vbv {
        match self.mode {
            RateMode::Bitrate(kbps) | RateMode::Quality { kbps, .. } if kbps > 0 => Vbv {
                max_kbps: kbps,
                buffer_kbit: ((u64::from(kbps) * u64::from(self.vbv_buf_capacity_ms) / 1000) as u32).max(1),
            },
            _ => Vbv::OPEN,
        }
    }

    /// kbit/s to declare, 0 = unknown.
    pub fn nominal_kbps(&self) -> u32 {
        match self.mode {
            RateMode::Bitrate(kbps) => kbps,
            _ => self.max_bitrate_kbps,
        }
    }
}
