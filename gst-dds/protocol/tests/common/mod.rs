// SPDX-License-Identifier: MPL-2.0

//! Seeded numbers and example values shared by the tests.
#![allow(dead_code)]

use dds_protocol::feedback::{FeedbackState, Motion, Quality, Rect, Region};
use dds_protocol::identity::{FrameIdentity, StreamKind};
use dds_protocol::serial::Serial16;

/// Deterministic random numbers (a 64-bit linear congruential generator, upper half used).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.next()) * u64::from(end)) >> 32) as u32
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        low + self.below((high - low + 1) as u32) as i32
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(4) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// A region anywhere in a frame of this size, any motion within ±16 pixels per frame, any quality.
pub fn random_region(random: &mut Random, width: u32, height: u32) -> Region {
    let x = random.below(width - 1);
    let y = random.below(height - 1);
    Region {
        rect: Rect {
            x,
            y,
            width: 1 + random.below(width - x),
            height: 1 + random.below(height - y),
        },
        quality: match random.below(53) {
            0 => Quality::Camera,
            qp => Quality::Qp(qp as u8 - 1),
        },
        motion: Motion {
            dx: random.between(-64, 64) as i16,
            dy: random.between(-64, 64) as i16,
        },
        ttl_ms: 1000,
        frame_offset: 0,
    }
}

pub fn state(generation: u16, frame: u64, regions: Vec<Region>) -> FeedbackState {
    FeedbackState {
        stream_id: 0x1234_5678,
        generation: Serial16(generation),
        frame,
        regions,
        ..FeedbackState::default()
    }
}

/// A region that needs the most bits possible, paired with another so that no column is constant.
pub fn widest_region(high: bool) -> Region {
    let side = if high { 8191 * 8 } else { 0 };
    Region {
        rect: Rect {
            x: side,
            y: side,
            width: side,
            height: side,
        },
        quality: if high { Quality::Qp(51) } else { Quality::Camera },
        motion: if high {
            Motion { dx: 127, dy: 127 }
        } else {
            Motion { dx: -127, dy: -127 }
        },
        ttl_ms: if high { u32::MAX } else { 0 },
        frame_offset: if high { 31 } else { 0 },
    }
}

pub fn identity() -> FrameIdentity {
    FrameIdentity {
        kind: StreamKind::Single,
        stream_id: 0xcafe_f00d,
        frame: 258,
        capture_time_ns: 1_700_000_000_123_456_789,
        access_unit: 257,
        recovery: true,
        slices: 4,
        slice_bytes: 70_000,
        slice_checksum: 0xdead_beef,
    }
}

/// Joins NAL units with start codes, alternately of four and three bytes.
pub fn byte_stream(nals: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, nal) in nals.iter().enumerate() {
        out.extend(if i % 2 == 0 { &[0, 0, 0, 1][..] } else { &[0, 0, 1][..] });
        out.extend(*nal);
    }
    out
}

/// Joins NAL units with length prefixes.
pub fn length_prefixed(nals: &[&[u8]], size: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for nal in nals {
        out.extend(&(nal.len() as u32).to_be_bytes()[4 - usize::from(size)..]);
        out.extend(*nal);
    }
    out
}
