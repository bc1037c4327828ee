// SPDX-License-Identifier: MPL-2.0

//! Where the library chooses quantizers, by a bit rate or by quality, a rate cap makes the whole picture coarser and
//! keeps the difference of the regions.

#![cfg(feature = "x264")]

mod common;

use common::{Camera, element, quantizers, region};
use dds_protocol::feedback::Quality;
use gst::prelude::*;

/// Mean quantizer outside minus that inside a region of 4 x 4 macroblocks, over P pictures from the first second on,
/// and most bytes of any second.
fn difference(set: impl Fn(&gst::Element)) -> (f64, u64) {
    let element = element();
    set(&element);
    let mut camera = Camera::new(element, 320, 240);
    for i in 0..90u16 {
        if i > 0 {
            assert!(camera.feedback(i, u64::from(i) - 1, &[region(64, 48, 64, 64, Quality::Camera)]));
        }
        camera.push();
    }
    let (mut inside, mut outside) = ((0.0, 0.0), (0.0, 0.0));
    for frame in quantizers(&camera.stream())
        .iter()
        .skip(30)
        .filter(|frame| frame.kind == 'P')
    {
        for (i, qp) in frame.qps.iter().enumerate() {
            // Under its VBV libx264 corrects the quantizer row by row, so other rows prove nothing; neither do those
            // with the coarsest quantizer.
            let row = i / 20;
            if (3..7).contains(&row) && !frame.qps[row * 20..][..20].contains(&51) {
                let within = (4..8).contains(&(i % 20));
                let sum = if within { &mut inside } else { &mut outside };
                *sum = (sum.0 + f64::from(*qp), sum.1 + 1.0);
            }
        }
    }
    (
        outside.0 / outside.1 - inside.0 / inside.1,
        camera.count("peak-second-bytes"),
    )
}

#[test]
fn a_cap_beside_a_bit_rate_or_a_quality_leaves_regions_their_difference() {
    let cap = 2400u32;
    for (name, set) in [
        ("bitrate", (|e| e.set_property("bitrate", 4000u32)) as fn(&gst::Element)),
        ("pass=qual", |e| {
            e.set_property_from_str("pass", "qual");
            e.set_property("quantizer", 20u32);
        }),
    ] {
        let (free, most) = difference(set);
        assert!(
            most > u64::from(cap) * 125 * 3 / 2,
            "{name}: the cap has something to do: {most}"
        );
        let (capped, most) = difference(|e| {
            set(e);
            e.set_property("max-bitrate", cap);
        });
        println!("{name}: {free:.2} without a cap, {capped:.2} with one, {most} bytes in the worst second");
        assert!(
            most <= u64::from(cap) * 125 * 105 / 100,
            "{name}: {most} bytes in a second"
        );
        assert!((free - 10.0).abs() < 0.5, "{name}: {free}");
        assert!((capped - free).abs() < 1.0, "{name}: {capped} instead of {free}");
    }
}
