// SPDX-License-Identifier: MPL-2.0

//! Measures time and memory of planning one 1080p frame with 256 regions of 64x64 pixels:
//!
//! ```text
//! cargo run --release -p gst-plugin-dds --example qp_map_bench
//! ```
//!
//! Prints, in microseconds, the median of 7 runs of 2000 frames each: the map of quantizers alone, and the whole of
//! `begin_frame` and `end_frame` without and with a rate cap that bites.

use std::alloc::System;
use std::time::Instant;

use dds_protocol::feedback::{FeedbackState, Rect, Region, encode};
use dds_protocol::serial::Serial16;
use gstdds::camera::{Camera, CameraSettings, Geometry, QpMap, Way};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region as Count, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FRAMES: u64 = 2000;
const FRAME_NS: u64 = 33_333_333;
const GEOMETRY: Geometry = Geometry {
    width: 1920,
    height: 1080,
};

fn rects() -> Vec<Rect> {
    let rect = |i: u32| Rect {
        // Off the macroblock grid: each touches 25 macroblocks.
        x: i % 16 * 116 + 8,
        y: i / 16 * 63 + 8,
        width: 64,
        height: 64,
    };
    (0..256).map(rect).collect()
}

/// Runs `frame` for every frame number, 7 times; returns the median in microseconds per frame, and allocations per
/// frame.
fn measure(mut frame: impl FnMut(u64)) -> (f64, f64) {
    let count = Count::new(ALLOCATOR);
    let mut runs = [0.0; 7];
    for (run, micros) in runs.iter_mut().enumerate() {
        let start = Instant::now();
        for i in 0..FRAMES {
            frame(run as u64 * FRAMES + i);
        }
        *micros = start.elapsed().as_secs_f64() * 1e6 / FRAMES as f64;
    }
    let change = count.change();
    runs.sort_by(f64::total_cmp);
    let allocations = (change.allocations + change.reallocations) as f64;
    (runs[runs.len() / 2], allocations / (FRAMES * runs.len() as u64) as f64)
}

/// The camera with 256 regions in force, capped at `kbps`, with frames of `bytes`.
fn camera(kbps: u32, bytes: usize) -> impl FnMut(u64) {
    let settings = CameraSettings {
        max_region_area: 1.0,
        feedback_timeout_ns: 0,
        max_bitrate_kbps: kbps,
        ..CameraSettings::default()
    };
    let mut camera = Camera::new(1, GEOMETRY, settings);
    camera.begin_frame(0, 0, true, &[]);
    camera.end_frame(0, bytes, true);
    let regions = rects().into_iter().map(|rect| Region {
        rect,
        // Longer than the measurement.
        ttl_ms: 3_600_000,
        ..Region::default()
    });
    let state = FeedbackState {
        stream_id: 1,
        generation: Serial16(1),
        frame: 0,
        regions: regions.collect(),
        ..FeedbackState::default()
    };
    for packet in encode(&state).packets {
        camera.push_feedback(0, Way::Pad, &packet);
    }
    // The time to live may be shorter on the wire: time is held still for regions and moves for the cap by
    // microseconds.
    move |i| {
        let now = i * FRAME_NS / 1_000_000;
        std::hint::black_box(camera.begin_frame(now, i + 1, false, &[]).offsets);
        camera.end_frame(now, bytes, false);
    }
}

fn main() {
    let rects = rects();
    let mut map = QpMap::new(GEOMETRY);
    let (micros, allocations) = measure(|_| {
        map.begin(36, 1.0);
        for rect in &rects {
            map.add(*rect, 26);
        }
        std::hint::black_box(map.finish());
    });
    println!("map of 256 regions           {micros:7.1} us  {allocations:.3} allocations per frame");
    for (name, kbps, bytes) in [("frame, no cap", 0, 9000), ("frame, cap bites", 2000, 9000)] {
        let (micros, allocations) = measure(camera(kbps, bytes));
        println!("{name:28} {micros:7.1} us  {allocations:.3} allocations per frame");
    }
}
