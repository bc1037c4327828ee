// SPDX-License-Identifier: MPL-2.0

//! Quantizers per macroblock as the driver takes them: signed differences per block of its own size.

#![forbid(unsafe_code)]

use super::super::Codec;

/// Pixels across and down a block of the map. In H.265 it is the largest coding tree block that NVENC has.
fn block(codec: Codec) -> usize {
    match codec {
        Codec::H264 => 16,
        Codec::H265 => 32,
    }
}

/// The map of one picture.
#[derive(Debug)]
pub(super) struct DeltaMap {
    /// Macroblocks of 16 pixels in a row and in a column.
    macroblocks: (usize, usize),
    /// Macroblocks across and down a block of the map.
    scale: usize,
    /// Blocks in a row.
    columns: usize,
    deltas: Vec<i8>,
}

/// Quantizer that the differences are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// The driver codes at `driver`; `base` is wanted, and sums stay within `limits`.
    Known { driver: u8, base: u8, limits: (u8, u8) },
    /// The quantizer of the driver's rate control.
    Unknown,
}

impl Ground {
    fn delta(self, offset: i8) -> i8 {
        match self {
            Self::Known {
                driver,
                base,
                limits: (low, high),
            } => {
                let wanted = i16::from(base) + i16::from(offset);
                let wanted = wanted.clamp(low.into(), high.max(low).into());
                (wanted - i16::from(driver)).clamp(-51, 51) as i8
            }
            Self::Unknown => offset.clamp(-51, 51),
        }
    }
}

impl DeltaMap {
    /// For pictures of `width` by `height` pixels.
    pub fn new(codec: Codec, width: usize, height: usize) -> Self {
        let block = block(codec);
        let columns = width.div_ceil(block);
        Self {
            macroblocks: (width.div_ceil(16), height.div_ceil(16)),
            scale: block / 16,
            columns,
            deltas: vec![0; columns * height.div_ceil(block)],
        }
    }

    /// Sets all blocks. `offsets` are per macroblock in raster order, missing ones 0; a block of several takes the finest.
    pub fn fill(&mut self, ground: Ground, offsets: Option<&[i8]>) -> &mut [i8] {
        let Some(offsets) = offsets else {
            self.deltas.fill(ground.delta(0));
            return &mut self.deltas;
        };
        let (width, height) = self.macroblocks;
        for (i, delta) in self.deltas.iter_mut().enumerate() {
            let (x, y) = (i % self.columns * self.scale, i / self.columns * self.scale);
            let rows = y..(y + self.scale).min(height);
            let finest = rows
                .flat_map(|y| (x..(x + self.scale).min(width)).map(move |x| y * width + x))
                .map(|at| offsets.get(at).copied().unwrap_or(0))
                .min();
            *delta = ground.delta(finest.unwrap_or(0));
        }
        &mut self.deltas
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUND: Ground = Ground::Known {
        driver: 36,
        base: 30,
        limits: (10, 45),
    };

    #[test]
    fn differences_hold_the_way_from_the_drivers_quantizer_to_the_one_wanted() {
        let mut map = DeltaMap::new(Codec::H264, 33, 17);
        assert_eq!(map.fill(GROUND, None), [-6; 6]);
        assert_eq!(map.fill(GROUND, Some(&[0, -10, 4, -60])), [-6, -16, -2, -26, -6, -6]);
        assert_eq!(map.fill(GROUND, Some(&[40; 9])), [9; 6]);
        assert_eq!(
            map.fill(Ground::Unknown, Some(&[-8, 127, -128])),
            [-8, 51, -51, 0, 0, 0]
        );
    }

    #[test]
    fn blocks_of_four_macroblocks_take_the_finest() {
        let mut map = DeltaMap::new(Codec::H265, 48, 48);
        // Three by three macroblocks in two by two blocks.
        let offsets = [0, -2, -4, 0, 0, 0, 0, 0, 2];
        assert_eq!(map.fill(Ground::Unknown, Some(&offsets)), [-2, -4, 0, 2]);
    }

    #[test]
    fn every_base_from_1_to_51_is_reached_exactly_from_every_other() {
        for driver in 1..=51u8 {
            for base in 1..=51u8 {
                let ground = Ground::Known {
                    driver,
                    base,
                    limits: (1, 51),
                };
                for offset in (-50..=50i8).step_by(2) {
                    let wanted = (i16::from(base) + i16::from(offset)).clamp(1, 51);
                    assert_eq!(i16::from(driver) + i16::from(ground.delta(offset)), wanted);
                }
            }
        }
    }
}
