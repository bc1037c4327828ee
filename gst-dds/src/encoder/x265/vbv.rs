// SPDX-License-Identifier: MPL-2.0

//! The VBV of exact quantizers: predicts the size of a picture from its pixels, and raises quantizers as far as needed.
//!
//! libx265 has a VBV, but its rate cannot be changed in an open encoder (see there). A picture becomes unexpectedly
//! large where it cannot be predicted from the one before, so that is measured: per macroblock, the distance of samples
//! from their neighbours and from their place in the picture before.

#![forbid(unsafe_code)]

use crate::encoder::Plane;
use crate::vbv::Vbv;

/// Pixels from one measured sample to the next.
const STEP: usize = 2;
/// Largest motion of a macroblock, in pixels.
const REACH: i32 = 32;
/// Steps of one search.
const STEPS: usize = 12;
/// Margin on a predicted size.
const MARGIN: f64 = 1.4;
/// Speed at which factors follow sizes that were predicted too small, and too large.
const FOLLOW: (f64, f64) = (0.8, 0.15);
const MAX_QP: i32 = 51;

/// Measurements of one macroblock.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Mean distance of its samples from their prediction.
    residual: f64,
    /// The same, predicted within the picture.
    within: f64,
    /// It cannot be predicted from the picture before.
    new: bool,
    /// Quantizer it was coded with last; 0 = never.
    qp: i32,
    /// Its motion, in pixels.
    vector: (i32, i32),
}

/// Predicts sizes and keeps the buffer.
#[derive(Debug)]
pub(super) struct Verifier {
    width: usize,
    height: usize,
    columns: usize,
    vbv: Vbv,
    frame_rate: f64,
    /// Bits in it.
    fill: f64,
    before: Vec<u8>,
    blocks: Vec<Block>,
    /// Actual bits per predicted one: of macroblocks that follow from the picture before, and of others.
    factors: [f64; 2],
    /// Predicted bits of the current picture, divided the same way.
    predicted: [f64; 2],
}

impl Verifier {
    /// An open one.
    pub fn new(width: usize, height: usize, frame_rate: f64) -> Self {
        let columns = width.div_ceil(16);
        Self {
            width,
            height,
            columns,
            vbv: Vbv::OPEN,
            frame_rate: frame_rate.max(0.01),
            fill: 0.0,
            before: Vec::new(),
            blocks: vec![Block::default(); columns * height.div_ceil(16)],
            factors: [1.0; 2],
            predicted: [0.0; 2],
        }
    }

    /// Sets rate and size; a buffer that was open becomes full.
    pub fn set(&mut self, vbv: Vbv) {
        let size = f64::from(vbv.buffer_kbit) * 1000.0;
        self.fill = if self.vbv == Vbv::OPEN {
            size
        } else {
            self.fill.min(size)
        };
        if vbv == Vbv::OPEN {
            self.before.clear();
        }
        self.vbv = vbv;
    }

    /// How far to raise the quantizers of a picture whose macroblocks have `base` plus `offsets`, so that it fits.
    /// With an open buffer video is not measured.
    pub fn raise(&mut self, luma: &Plane<'_>, idr: bool, base: u8, offsets: &[i8]) -> u8 {
        if self.vbv == Vbv::OPEN {
            return 0;
        }
        self.look(luma, idr);
        let size = f64::from(self.vbv.buffer_kbit) * 1000.0;
        self.fill = (self.fill + f64::from(self.vbv.max_kbps) * 1000.0 / self.frame_rate).min(size);
        let finest = offsets.iter().copied().min().unwrap_or(0).min(0);
        let most = (MAX_QP - i32::from(base) - i32::from(finest)).clamp(0, 2 * MAX_QP) as u8;
        let (mut low, mut high) = (0, most);
        // The smallest raise that fits: sizes only fall with it.
        while low < high {
            let middle = (low + high) / 2;
            if self.bits(base, middle, offsets) * MARGIN <= self.fill {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        self.predicted = self.predict(base, low, offsets);
        for (i, block) in self.blocks.iter_mut().enumerate() {
            block.qp = quantizer(base, low, offsets, i);
        }
        low
    }

    /// Accounts for the size of a picture.
    pub fn spend(&mut self, bits: f64) {
        if self.vbv == Vbv::OPEN {
            return;
        }
        self.fill = (self.fill - bits).max(0.0);
        let parts = [0, 1].map(|i| self.predicted[i] * self.factors[i]);
        let whole: f64 = parts.iter().sum();
        if whole < 1.0 {
            return;
        }
        let wrong = bits / whole;
        let speed = if wrong > 1.0 { FOLLOW.0 } else { FOLLOW.1 };
        for (factor, part) in self.factors.iter_mut().zip(parts) {
            *factor = (*factor * (1.0 + (wrong - 1.0) * speed * part / whole)).clamp(0.02, 50.0);
        }
    }

    fn bits(&self, base: u8, raise: u8, offsets: &[i8]) -> f64 {
        let predicted = self.predict(base, raise, offsets);
        predicted
            .iter()
            .zip(self.factors)
            .map(|(bits, factor)| bits * factor)
            .sum()
    }

    /// Predicted bits of a picture before the measured factors: about the entropy of residuals in quantizer steps.
    fn predict(&self, base: u8, raise: u8, offsets: &[i8]) -> [f64; 2] {
        let mut bits = [0.0; 2];
        for (i, block) in self.blocks.iter().enumerate() {
            let qp = quantizer(base, raise, offsets, i);
            let step = step(qp);
            let mut residual = block.residual;
            if !block.new && block.qp > qp {
                // A macroblock coded coarser before is refined again.
                residual += block.within.min(0.25 * self::step(block.qp));
            }
            bits[usize::from(block.new)] += 256.0 * (1.0 + 2.0 * residual / step).log2();
        }
        bits
    }

    /// Measures a picture.
    fn look(&mut self, luma: &Plane<'_>, idr: bool) {
        let alone = idr || self.before.len() != self.width * self.height;
        let (width, height, columns) = (self.width, self.height, self.columns);
        for i in 0..self.blocks.len() {
            let (left, top) = (i % columns * 16, i / columns * 16);
            let area = (left..(left + 16).min(width), top..(top + 16).min(height));
            let intra = within(luma, &area);
            let mut block = Block {
                residual: intra,
                within: intra,
                new: true,
                vector: (0, 0),
                qp: self.blocks[i].qp,
            };
            if !alone {
                let known = |j: Option<usize>| j.and_then(|j| self.blocks.get(j)).map_or((0, 0), |b| b.vector);
                let starts = [
                    (0, 0),
                    known(Some(i)),
                    known(i.checked_sub(1)),
                    known(i.checked_sub(columns)),
                ];
                let (inter, vector) = self.search(luma, &area, starts);
                if inter <= intra {
                    (block.residual, block.new, block.vector) = (inter, false, vector);
                }
            }
            self.blocks[i] = block;
        }
        self.before.resize(width * height, 0);
        for (to, from) in self.before.chunks_exact_mut(width).zip(luma.data.chunks(luma.stride)) {
            to.copy_from_slice(&from[..width]);
        }
    }

    /// Motion of an area, and its distance from the picture before there.
    fn search(&self, luma: &Plane<'_>, area: &Area, starts: [(i32, i32); 4]) -> (f64, (i32, i32)) {
        let cost = |vector| self.between(luma, area, vector);
        let mut best = (f64::INFINITY, (0, 0));
        for start in starts {
            let found = cost(start);
            if found < best.0 {
                best = (found, start);
            }
        }
        for _ in 0..STEPS {
            let centre = best.1;
            for (dx, dy) in [(1, 0), (-1, 0), (0, 1), (0, -1)] {
                let vector = (centre.0 + dx, centre.1 + dy);
                if vector.0.abs() <= REACH && vector.1.abs() <= REACH {
                    let found = cost(vector);
                    if found < best.0 {
                        best = (found, vector);
                    }
                }
            }
            if best.1 == centre {
                break;
            }
        }
        best
    }

    /// Mean distance of an area from the picture before, moved.
    fn between(&self, luma: &Plane<'_>, area: &Area, vector: (i32, i32)) -> f64 {
        let clamped = |at: usize, by: i32, size: usize| (at as i32 + by).clamp(0, size as i32 - 1) as usize;
        let (mut sum, mut count) = (0u32, 0u32);
        for y in area.1.clone().step_by(STEP) {
            let row = &luma.data[y * luma.stride..];
            let before = &self.before[clamped(y, vector.1, self.height) * self.width..];
            for x in area.0.clone().step_by(STEP) {
                sum += u32::from(row[x].abs_diff(before[clamped(x, vector.0, self.width)]));
                count += 1;
            }
        }
        f64::from(sum) / f64::from(count.max(1))
    }
}

/// Quantizer of a macroblock.
fn quantizer(base: u8, raise: u8, offsets: &[i8], i: usize) -> i32 {
    let offset = offsets.get(i).copied().unwrap_or(0);
    (i32::from(base) + i32::from(raise) + i32::from(offset)).clamp(0, MAX_QP)
}

/// Step of a quantizer, in sample values.
fn step(qp: i32) -> f64 {
    (f64::from(qp - 4) / 6.0).exp2()
}

type Area = (std::ops::Range<usize>, std::ops::Range<usize>);

/// Mean distance of the samples of an area from the mean of their neighbours.
fn within(luma: &Plane<'_>, area: &Area) -> f64 {
    let (mut sum, mut count) = (0u32, 0u32);
    for y in area.1.clone().step_by(STEP) {
        let row = &luma.data[y * luma.stride..];
        let above = &luma.data[y.saturating_sub(1) * luma.stride..];
        for x in area.0.clone().step_by(STEP) {
            let beside = (u16::from(row[x.saturating_sub(1)]) + u16::from(above[x])).div_ceil(2);
            sum += u32::from(u16::from(row[x]).abs_diff(beside));
            count += 1;
        }
    }
    f64::from(sum) / f64::from(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 64;
    const HEIGHT: usize = 48;

    fn noise(seed: u32) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(WIDTH * HEIGHT).collect()
    }

    fn plane(data: &[u8]) -> Plane<'_> {
        Plane { data, stride: WIDTH }
    }

    const NARROW: Vbv = Vbv {
        max_kbps: 300,
        buffer_kbit: 10,
    };

    #[test]
    fn an_open_buffer_raises_nothing_and_looks_at_nothing() {
        let mut verifier = Verifier::new(WIDTH, HEIGHT, 30.0);
        assert_eq!(verifier.raise(&plane(&[]), false, 20, &[]), 0);
        verifier.spend(1e9);
        assert_eq!(verifier.factors, [1.0; 2]);
    }

    #[test]
    fn pictures_that_do_not_follow_from_the_one_before_are_known_before_they_are_coded() {
        let mut verifier = Verifier::new(WIDTH, HEIGHT, 30.0);
        verifier.set(NARROW);
        let (first, second) = (noise(1), noise(2));
        assert!(verifier.raise(&plane(&first), true, 20, &[]) > 10);
        assert_eq!(verifier.raise(&plane(&first), false, 20, &[]), 0);
        // Moved by three pixels: the search finds it.
        let mut moved = first.clone();
        moved.rotate_left(3);
        assert!(verifier.raise(&plane(&moved), false, 20, &[]) < 20);
        assert!(verifier.raise(&plane(&second), false, 20, &[]) > 10);
    }

    #[test]
    fn experience_counts_and_what_is_too_small_counts_at_once() {
        let mut verifier = Verifier::new(WIDTH, HEIGHT, 30.0);
        verifier.set(NARROW);
        let luma = noise(1);
        let first = verifier.raise(&plane(&luma), true, 20, &[-10; 6]);
        verifier.spend(verifier.predicted[1] * 2.0);
        let second = verifier.raise(&plane(&luma), true, 20, &[-10; 6]);
        assert!(second > first, "{first} {second}");
        for _ in 0..50 {
            verifier.raise(&plane(&luma), true, 20, &[-10; 6]);
            verifier.spend(verifier.predicted[1] / 2.0);
        }
        assert!(verifier.raise(&plane(&luma), true, 20, &[-10; 6]) < first);
    }

    #[test]
    fn regions_are_raised_up_to_the_coarsest_quantizer_where_nothing_else_helps() {
        let mut verifier = Verifier::new(WIDTH, HEIGHT, 30.0);
        verifier.set(Vbv {
            max_kbps: 1,
            buffer_kbit: 1,
        });
        assert_eq!(verifier.raise(&plane(&noise(1)), true, 40, &[-12, 4]), 23);
    }
}
