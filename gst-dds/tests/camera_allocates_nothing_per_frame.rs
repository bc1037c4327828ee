// SPDX-License-Identifier: MPL-2.0

//! Planning a frame allocates nothing, whatever regions act in it. The allocator counts for the whole process: no other
//! test may run beside this one.

use std::alloc::System;

use dds_protocol::feedback::{FeedbackState, Motion, Rect, Region, encode};
use dds_protocol::serial::Serial16;
use gstdds::camera::{Camera, CameraSettings, Geometry, RoiRequest, Way};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region as Count, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FRAME_NS: u64 = 33_333_333;

fn feedback(generation: u16, frame: u64) -> Vec<Vec<u8>> {
    let regions = (0..256u32).map(|i| Region {
        rect: Rect {
            x: i % 16 * 112,
            y: i / 16 * 64,
            width: 64,
            height: 64,
        },
        motion: Motion { dx: 9, dy: -5 },
        ttl_ms: 1000,
        ..Region::default()
    });
    let state = FeedbackState {
        stream_id: 1,
        generation: Serial16(generation),
        frame,
        regions: regions.collect(),
        ..FeedbackState::default()
    };
    encode(&state).packets
}

#[test]
fn planning_frames_with_256_regions_a_cap_and_input_regions_allocates_nothing() {
    let geometry = Geometry {
        width: 1920,
        height: 1080,
    };
    let settings = CameraSettings {
        max_region_area: 1.0,
        max_bitrate_kbps: 2000,
        ..CameraSettings::default()
    };
    let mut camera = Camera::new(1, geometry, settings);
    let rois = [RoiRequest {
        rect: Rect {
            x: 300,
            y: 300,
            width: 500,
            height: 500,
        },
        delta_qp: -4,
    }];
    // The fewest of several runs: the test harness may allocate in a thread of its own.
    let mut fewest = usize::MAX;
    let mut frame = 0;
    for generation in 0..5 {
        for _ in 0..40 {
            camera.begin_frame(frame * FRAME_NS, frame, false, &rois);
            camera.end_frame(frame * FRAME_NS, 9000, false);
            frame += 1;
        }
        for packet in feedback(generation, frame - 1) {
            camera.push_feedback(frame * FRAME_NS, Way::Pad, &packet);
        }
        let applied = camera.feedback_stats().generations_applied;
        let count = Count::new(ALLOCATOR);
        for _ in 0..60 {
            let plan = camera.begin_frame(frame * FRAME_NS, frame, false, &rois);
            std::hint::black_box(plan.offsets);
            camera.end_frame(frame * FRAME_NS, 9000, false);
            frame += 1;
        }
        let change = count.change();
        fewest = fewest.min(change.allocations + change.reallocations);
        assert_eq!(
            camera.feedback_stats().generations_applied,
            applied + 1,
            "the regions act within what was counted"
        );
    }
    assert!(
        camera.stats().cap_trimmed_frames + camera.stats().cap_flattened_frames > 0,
        "the cap bites as well"
    );
    assert_eq!(fewest, 0);
}
