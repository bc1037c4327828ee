// SPDX-License-Identifier: MPL-2.0

//! Encoder, decoder and detector as stated functions.

use dds_protocol::feedback::Rect;
use gstdds::camera::{FramePlan, Geometry, MACROBLOCK};
use gstddsinfer::model::Detection;

use crate::noise::Noise;

/// Size of the coded picture.
pub const SIZE: Geometry = Geometry {
    width: 320,
    height: 192,
};
/// Things in every picture: each moves left and right in a band of its own, so that none is ever taken for another.
pub const OBJECTS: usize = 4;
/// Rows of pixels from the top in which nothing ever is. Damage draws a ghost there.
pub const EMPTY_ROWS: u32 = 32;

/// How much harder than an easy one each is to tell, in certainty.
const HARDNESS: [f32; OBJECTS] = [0.0, 0.3, 0.35, 0.0];
/// Pixels that each moves from picture to picture.
const SPEED: [u64; OBJECTS] = [1, 2, 3, 0];
/// The last one is clutter, as certain as this at any quality: it is asked for again and again.
const CLUTTER: (usize, f32) = (3, 0.28);
/// Certainty of an easy one at quantizer 26, and what each step coarser takes off.
const SURE: f32 = 0.95;
const PER_QP: f32 = 0.03;

/// A picture on its way: what it is called and what a detector could see in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shot {
    /// Stream of the camera.
    pub stream: u32,
    /// Number of the captured picture.
    pub frame: u64,
    /// Quantizer at the centre of each object.
    pub qps: [u8; OBJECTS],
}

/// Where an object is in the captured picture of this number.
pub fn place(object: usize, frame: u64) -> Rect {
    let (width, height) = (32, 16);
    let way = u64::from(SIZE.width - width);
    // There and back. The clutter stands still, so that no motion carries a region of it out of the picture.
    let at = (40 * object as u64 + SPEED[object] * frame) % (2 * way);
    let x = if at < way { at } else { 2 * way - at };
    Rect {
        x: x as u32,
        y: 64 + 32 * object as u32,
        width,
        height,
    }
}

/// What is coded of a picture, by the quantizers of its plan.
pub(super) fn shot(stream: u32, frame: u64, base_qp: u8, offsets: Option<&[i8]>) -> Shot {
    let qps = std::array::from_fn(|object| {
        let Rect { x, y, width, height } = place(object, frame);
        let (column, row) = ((x + width / 2) / MACROBLOCK, (y + height / 2) / MACROBLOCK);
        let at = row as usize * SIZE.mb_width() + column as usize;
        base_qp.wrapping_add_signed(offsets.map_or(0, |offsets| offsets[at]))
    });
    Shot { stream, frame, qps }
}

/// What the detector finds: every object where it is, the less certain the coarser it is coded; and in a damaged picture
/// a ghost that nobody can be sure of.
pub(super) fn detect(shot: &Shot, damaged: bool) -> Vec<Detection> {
    let found = |rect: Rect, score: f32| Detection {
        x1: rect.x as f32,
        y1: rect.y as f32,
        x2: (rect.x + rect.width) as f32,
        y2: (rect.y + rect.height) as f32,
        score: score.clamp(0.05, 1.0),
        objectness: None,
        class: 0,
    };
    let objects = (0..OBJECTS).map(|object| {
        let score = match object {
            clutter if clutter == CLUTTER.0 => CLUTTER.1,
            _ => SURE - HARDNESS[object] - PER_QP * (f32::from(shot.qps[object]) - 26.0),
        };
        found(place(object, shot.frame), score)
    });
    let ghost = Rect {
        x: 40,
        y: 4,
        width: 48,
        height: 16,
    };
    objects.chain(damaged.then(|| found(ghost, 0.3))).collect()
}

/// An encoder in bytes: a picture costs by its quantizers, halved every 4 of them; macroblocks that get finer cost
/// extra, an IDR picture costs as if all did; up to 30 % more or less; the VBV holds.
#[derive(Debug)]
pub(super) struct Encoder {
    coded: Vec<u8>,
    buffer_bytes: f64,
    noise: Noise,
    key_int_max: u64,
    since_idr: Option<u64>,
}

impl Encoder {
    pub fn new(seed: u64, key_int_max: u64) -> Self {
        Self {
            coded: vec![51; SIZE.macroblocks()],
            buffer_bytes: f64::INFINITY,
            noise: Noise(seed),
            key_int_max,
            since_idr: None,
        }
    }

    /// Codes a picture: bytes, and whether it is an IDR picture.
    pub fn code(&mut self, plan: &FramePlan<'_>) -> (usize, bool) {
        if let Some(vbv) = plan.vbv {
            self.buffer_bytes = f64::from(vbv.buffer_kbit) * 125.0;
        }
        let due = self.since_idr.is_none_or(|since| since + 1 >= self.key_int_max);
        let idr = plan.key_frame || due;
        self.since_idr = Some(if idr {
            0
        } else {
            self.since_idr.map_or(0, |since| since + 1)
        });
        let units: f64 = match plan.offsets {
            None => self.coded.iter_mut().map(|coded| cost(coded, plan.base_qp, idr)).sum(),
            Some(offsets) => {
                let qps = offsets.iter().map(|offset| plan.base_qp.wrapping_add_signed(*offset));
                self.coded
                    .iter_mut()
                    .zip(qps)
                    .map(|(coded, qp)| cost(coded, qp, idr))
                    .sum()
            }
        };
        let bytes = 60.0 * units * (0.7 + 0.6 * self.noise.uniform()) + 20.0;
        (bytes.min(self.buffer_bytes) as usize, idr)
    }
}

fn cost(coded: &mut u8, qp: u8, idr: bool) -> f64 {
    let before = std::mem::replace(coded, qp);
    if idr {
        return weight(qp);
    }
    0.15 * weight(qp)
        + if qp < before {
            0.3 * (weight(qp) - weight(before))
        } else {
            0.0
        }
}

fn weight(qp: u8) -> f64 {
    static WEIGHTS: std::sync::OnceLock<[f64; 52]> = std::sync::OnceLock::new();
    WEIGHTS.get_or_init(|| std::array::from_fn(|qp| ((26.0 - qp as f64) / 4.0).exp2()))[usize::from(qp.min(51))]
}

/// What a decoder's picture is worth, known to nobody in the loop: it is whole while every access unit since the last
/// IDR picture was.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    newest: Option<(u32, u32)>,
    whole: bool,
}

impl Decoder {
    /// Takes the next access unit. Whether the picture is whole; `None`: there is none before the first IDR picture.
    pub fn decode(&mut self, stream: u32, unit: u32, idr: bool, slice_whole: bool) -> Option<bool> {
        let follows = self.newest == Some((stream, unit.wrapping_sub(1)));
        self.whole = slice_whole && (idr || (follows && self.whole));
        if idr || self.newest.is_some() {
            self.newest = Some((stream, unit));
        }
        self.newest.map(|_| self.whole)
    }
}
