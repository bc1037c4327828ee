// SPDX-License-Identifier: MPL-2.0

//! Rates for an encoder.

#![forbid(unsafe_code)]

use crate::camera::Interval;
use crate::encoder::Rates;
use crate::vbv::Vbv;

use super::settings::{Live, RateMode};

/// Most kbit/s that every library accepts.
const MOST_KBPS: f64 = 2_000_000.0;

/// Rates for the encoder: the narrower of bit rate and cap, scaled to the encoder's time, because it distributes bits
/// by the rate it was opened with.
pub(super) fn rates(live: &Live, cap: Vbv, interval: Interval) -> Rates {
    let mut own = live.vbv();
    if own != Vbv::OPEN && interval.measured {
        // The VBV holds at least the share of one picture, however far pictures are apart.
        let share = f64::from(own.max_kbps) * interval.ns / 1e9;
        own.buffer_kbit = own.buffer_kbit.max(share.min(MOST_KBPS) as u32);
    }
    let (kbps, quality) = match live.mode {
        RateMode::Bitrate(kbps) => (Some(if cap == Vbv::OPEN { kbps } else { kbps.min(cap.max_kbps) }), None),
        RateMode::Quality { quality, .. } => (None, Some(quality)),
        RateMode::Quantizers | RateMode::Constant(_) => (None, None),
    };
    let vbv = if cap == Vbv::OPEN || own != Vbv::OPEN && own.max_kbps < cap.max_kbps {
        own
    } else {
        cap
    };
    let scaled = |kbps: u32| (f64::from(kbps) * interval.scale).round().clamp(1.0, MOST_KBPS) as u32;
    if !interval.measured {
        return Rates { kbps, quality, vbv };
    }
    Rates {
        kbps: kbps.map(scaled),
        quality,
        vbv: if vbv == Vbv::OPEN {
            vbv
        } else {
            Vbv {
                max_kbps: scaled(vbv.max_kbps),
                ..vbv
            }
        },
    }
}
