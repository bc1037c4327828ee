// SPDX-License-Identifier: MPL-2.0

//! Rasterises regions into quantizer offsets per macroblock.

use std::sync::LazyLock;

use dds_protocol::feedback::Rect;

use super::types::{Geometry, MACROBLOCK, MAX_QP, MIN_QP};

/// No region covers the macroblock. The largest value, so that the minimum of two cells is the finer of them.
const UNSET: i8 = i8::MAX;

/// Bits of a macroblock against those at the base quantizer, by offset from `-MAX_QP` on: six quantizers double them.
static SHARES: LazyLock<[f64; 2 * MAX_QP as usize + 1]> =
    LazyLock::new(|| std::array::from_fn(|i| (-f64::from(i as i32 - i32::from(MAX_QP)) / 6.0).exp2()));

/// Macroblocks of a picture: columns `x0..x1` of rows `y0..y1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MbRect {
    x0: usize,
    y0: usize,
    x1: usize,
    y1: usize,
}

impl MbRect {
    /// The rectangle in pixels; the last column and row may extend beyond the picture.
    pub(super) fn pixels(&self) -> Rect {
        let pixels = |macroblocks: usize| macroblocks as u32 * MACROBLOCK;
        Rect {
            x: pixels(self.x0),
            y: pixels(self.y0),
            width: pixels(self.x1 - self.x0),
            height: pixels(self.y1 - self.y0),
        }
    }
}

/// A rectangle mapped to the macroblocks of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// The macroblocks it touches; `None` where it is empty or lies outside.
    pub(super) mbs: Option<MbRect>,
    /// Part of it lay outside the macroblocks of the picture.
    pub(super) clipped: bool,
}

/// Fate of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It is in the map.
    Painted,
    /// Its macroblocks would exceed the area that regions may refine.
    OverArea,
}

/// Rasterises regions into one offset per macroblock. All memory is allocated once.
#[derive(Clone, Debug)]
pub struct QpMap {
    mb_width: usize,
    mb_height: usize,
    base_qp: u8,
    /// Offsets of regions not coarser than the base.
    fine: Box<[i8]>,
    /// Offsets of coarser regions.
    coarse: Box<[i8]>,
    /// [`Self::fine`] before regions of feedback were added.
    own: Box<[i8]>,
    own_used: bool,
    fine_used: bool,
    coarse_used: bool,
    refined: usize,
    budget: usize,
    /// Both merged, 0 where no region lies.
    merged: Box<[i8]>,
    /// The same after the rate cap.
    limited: Box<[i8]>,
    finest: i8,
    uniform: bool,
}

impl QpMap {
    /// A map for pictures of this size.
    pub fn new(geometry: Geometry) -> Self {
        let cells = || vec![0; geometry.macroblocks()].into_boxed_slice();
        let mut map = Self {
            mb_width: geometry.mb_width(),
            mb_height: geometry.mb_height(),
            base_qp: MAX_QP,
            fine: cells(),
            coarse: cells(),
            own: cells(),
            own_used: false,
            fine_used: true,
            coarse_used: true,
            refined: 0,
            budget: 0,
            merged: cells(),
            limited: cells(),
            finest: 0,
            uniform: true,
        };
        map.begin(MAX_QP, 0.0);
        map
    }

    /// Begins a frame with this base quantizer; at most the fraction `max_area` of its macroblocks may be refined.
    pub fn begin(&mut self, base_qp: u8, max_area: f64) {
        self.base_qp = base_qp.clamp(MIN_QP, MAX_QP);
        if self.fine_used {
            self.fine.fill(UNSET);
        }
        if self.coarse_used {
            self.coarse.fill(UNSET);
        }
        (self.fine_used, self.coarse_used, self.own_used) = (false, false, false);
        self.refined = 0;
        // Float to integer saturates, and NaN allows nothing.
        self.budget = ((self.fine.len() as f64) * max_area).floor() as usize;
    }

    /// Adds a region of this quantizer, in pixels. Returns whether all of its macroblocks fit into the area that may be
    /// refined and into the picture; a region outside the picture is no error.
    pub fn add(&mut self, rect: Rect, qp: u8) -> bool {
        let placement = self.place(
            i64::from(rect.x),
            i64::from(rect.y),
            i64::from(rect.x) + i64::from(rect.width),
            i64::from(rect.y) + i64::from(rect.height),
        );
        match placement.mbs {
            Some(mbs) => self.paint(mbs, i32::from(qp)) == Added::Painted && !placement.clipped,
            None => false,
        }
    }

    /// The macroblocks that the pixels `x0..x1`, `y0..y1` touch.
    pub(super) fn place(&self, x0: i64, y0: i64, x1: i64, y1: i64) -> Placement {
        let edge = i64::from(MACROBLOCK);
        let (width, height) = (self.mb_width as i64, self.mb_height as i64);
        if x1 <= x0 || y1 <= y0 || x1 <= 0 || y1 <= 0 || x0 >= width * edge || y0 >= height * edge {
            return Placement {
                mbs: None,
                clipped: true,
            };
        }
        let up = |pixels: i64| (pixels + edge - 1).div_euclid(edge);
        Placement {
            clipped: x0 < 0 || y0 < 0 || x1 > width * edge || y1 > height * edge,
            mbs: Some(MbRect {
                x0: (x0.max(0) / edge) as usize,
                y0: (y0.max(0) / edge) as usize,
                x1: up(x1).min(width) as usize,
                y1: up(y1).min(height) as usize,
            }),
        }
    }

    /// Paints a region of this quantizer, which may be out of the permitted range.
    pub(super) fn paint(&mut self, mbs: MbRect, qp: i32) -> Added {
        let offset = even_offset(self.base_qp, qp);
        if offset > 0 {
            self.coarse_used = true;
            for row in rows(&mut self.coarse, self.mb_width, mbs) {
                row.iter_mut().for_each(|cell| *cell = (*cell).min(offset));
            }
            return Added::Painted;
        }
        let area = (mbs.x1 - mbs.x0) * (mbs.y1 - mbs.y0);
        // Counting before painting is needed only where the area may not suffice.
        if offset < 0 && self.refined + area > self.budget {
            let new: usize = rows(&mut self.fine, self.mb_width, mbs)
                .map(|row| row.iter().filter(|cell| **cell >= 0).count())
                .sum();
            if self.refined + new > self.budget {
                return Added::OverArea;
            }
        }
        self.fine_used = true;
        let mut new = 0;
        for row in rows(&mut self.fine, self.mb_width, mbs) {
            for cell in row {
                new += usize::from(*cell >= 0);
                *cell = (*cell).min(offset);
            }
        }
        if offset < 0 {
            self.refined += new;
        }
        Added::Painted
    }

    /// Finishes the regions of this frame. Returns the base quantizer and the offsets, `None` where all are 0.
    pub fn finish(&mut self) -> (u8, Option<&[i8]>) {
        self.merge();
        self.limit(0)
    }

    /// Begins the regions of feedback: [`Self::hold`] does not touch those painted before.
    pub(super) fn begin_feedback(&mut self) {
        self.own_used = self.fine_used;
        if self.own_used {
            self.own.copy_from_slice(&self.fine);
        }
    }

    /// Offsets painted before those of feedback, where there are any: large where no region lies.
    pub(super) fn own(&self) -> Option<&[i8]> {
        self.own_used.then_some(&*self.own)
    }

    /// Limits regions of feedback to quantizers no finer than `floor`, which differs from the base by an even number
    /// and is not above it.
    pub(super) fn hold(&mut self, floor: u8) {
        if self.uniform || i32::from(floor) <= self.finest_qp() {
            return;
        }
        let least = floor.min(self.base_qp) as i8 - self.base_qp as i8;
        let (mut finest, mut any) = (0, 0);
        let own = self.own.iter().map(|own| if self.own_used { *own } else { UNSET });
        for (merged, own) in self.merged.iter_mut().zip(own) {
            *merged = (*merged).max(least).min(own);
            finest = finest.min(*merged);
            any |= *merged;
        }
        (self.finest, self.uniform) = (finest, any == 0);
    }

    /// Merges fine and coarse regions.
    pub(super) fn merge(&mut self) {
        (self.finest, self.uniform) = (0, true);
        if !self.fine_used && !self.coarse_used {
            return;
        }
        let (mut finest, mut any) = (0, 0);
        for ((merged, fine), coarse) in self.merged.iter_mut().zip(&self.fine).zip(&self.coarse) {
            let offset = if *fine == UNSET { *coarse } else { *fine };
            let offset = if offset == UNSET { 0 } else { offset };
            *merged = offset;
            finest = offset.min(finest);
            any |= offset;
        }
        (self.finest, self.uniform) = (finest, any == 0);
    }

    /// Base quantizer and offsets with no macroblock finer than `floor`: regions lose their difference first, and only
    /// a floor above the base raises the base. Below the base the floor must differ from it by an even number.
    pub(super) fn limit(&mut self, floor: u8) -> (u8, Option<&[i8]>) {
        let base = self.base_qp.max(floor).min(MAX_QP);
        if self.uniform {
            return (base, None);
        }
        if i32::from(floor) <= self.finest_qp() {
            return (base, Some(&self.merged));
        }
        let raised = (base - self.base_qp) as i8;
        let least = floor.min(base) as i8 - base as i8;
        let mut any = 0;
        for (limited, merged) in self.limited.iter_mut().zip(&self.merged) {
            // Clearing the lowest bit rounds towards finer and keeps offsets even after an odd raise.
            *limited = ((*merged - raised).max(least)) & !1;
            any |= *limited;
        }
        (base, (any != 0).then_some(&*self.limited))
    }

    /// Quantizer of the finest macroblock, before the rate cap.
    pub(super) fn finest_qp(&self) -> i32 {
        i32::from(self.base_qp) + i32::from(self.finest)
    }

    /// Base quantizer, before the rate cap.
    pub(super) fn base_qp(&self) -> u8 {
        self.base_qp
    }

    /// Offsets before the rate cap; `None` where all are 0.
    pub(super) fn merged(&self) -> Option<&[i8]> {
        (!self.uniform).then_some(&*self.merged)
    }

    /// Share of the picture's bits, 0.0..=1.0, that the macroblocks finer than the base are expected to take after
    /// [`Self::limit`] to `floor`.
    pub(super) fn region_share(&self, floor: u8) -> f64 {
        if self.uniform {
            return 0.0;
        }
        let limited = i32::from(floor) > self.finest_qp();
        let offsets = if limited { &self.limited } else { &self.merged };
        let (mut regions, mut all) = (0.0, 0.0);
        for offset in offsets {
            let weight = SHARES[(i32::from(*offset) + i32::from(MAX_QP)) as usize];
            all += weight;
            regions += if *offset < 0 { weight } else { 0.0 };
        }
        regions / all
    }

    /// Macroblocks finer than the base.
    pub fn refined(&self) -> usize {
        self.refined
    }
}

/// The even offset from `base` to `qp` or, where the difference is odd, to the next finer quantizer; the sum stays
/// within [`MIN_QP`]`..=`[`MAX_QP`].
fn even_offset(base: u8, qp: i32) -> i8 {
    let base = i32::from(base);
    let qp = qp.clamp(i32::from(MIN_QP), i32::from(MAX_QP));
    let offset = (qp - base) & !1;
    let offset = if base + offset < i32::from(MIN_QP) {
        offset + 2
    } else {
        offset
    };
    offset as i8
}

/// The parts of the rows of a map that lie in a rectangle within it.
fn rows(cells: &mut [i8], mb_width: usize, mbs: MbRect) -> impl Iterator<Item = &mut [i8]> {
    cells
        .chunks_exact_mut(mb_width)
        .skip(mbs.y0)
        .take(mbs.y1 - mbs.y0)
        .map(move |row| &mut row[mbs.x0..mbs.x1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Geometry = Geometry { width: 100, height: 52 };

    fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    fn offsets(map: &mut QpMap) -> Vec<i8> {
        let len = map.fine.len();
        map.finish().1.map_or_else(|| vec![0; len], <[i8]>::to_vec)
    }

    #[test]
    fn the_share_of_regions_follows_their_area_and_their_quantizer() {
        let geometry = Geometry {
            width: 160,
            height: 160,
        };
        let mut map = QpMap::new(geometry);
        map.begin(36, 1.0);
        map.finish();
        assert_eq!(map.region_share(0), 0.0);
        // A fifth of the picture, 12 quantizers finer: four times the bits for each macroblock.
        map.begin(36, 1.0);
        map.add(rect(0, 0, 160, 32), 24);
        map.finish();
        assert!((map.region_share(0) - 0.5).abs() < 1e-9);
        // A floor takes six of them: a third.
        map.limit(30);
        assert!((map.region_share(30) - 1.0 / 3.0).abs() < 1e-9);
        map.limit(36);
        assert_eq!(map.region_share(36), 0.0);
        // A region coarser than the base takes less, and is no region of it.
        map.begin(36, 1.0);
        map.add(rect(0, 0, 160, 80), 48);
        map.finish();
        assert_eq!(map.region_share(0), 0.0);
    }

    #[test]
    fn a_region_takes_every_macroblock_it_touches_and_no_other() {
        let mut map = QpMap::new(SMALL);
        map.begin(36, 1.0);
        assert!(map.add(rect(17, 15, 15, 2), 26));
        let offsets = offsets(&mut map);
        for (i, offset) in offsets.iter().enumerate() {
            let (x, y) = (i % 7, i / 7);
            assert_eq!(*offset, if x == 1 && y < 2 { -10 } else { 0 }, "macroblock {x},{y}");
        }
    }

    #[test]
    fn the_finest_region_wins_whatever_the_order() {
        for order in [[26, 20], [20, 26]] {
            let mut map = QpMap::new(SMALL);
            map.begin(36, 1.0);
            for qp in order {
                map.add(rect(0, 0, 16, 16), qp);
            }
            assert_eq!(offsets(&mut map)[0], -16);
        }
    }

    #[test]
    fn a_coarser_region_counts_only_where_no_other_lies() {
        for coarse_first in [true, false] {
            let mut map = QpMap::new(SMALL);
            map.begin(30, 1.0);
            let regions = [
                (rect(0, 0, 48, 16), 40),
                (rect(0, 0, 16, 16), 24),
                (rect(16, 0, 16, 16), 30),
            ];
            let order: Vec<_> = if coarse_first {
                regions.to_vec()
            } else {
                regions.iter().rev().copied().collect()
            };
            for (rect, qp) in order {
                assert!(map.add(rect, qp));
            }
            assert_eq!(offsets(&mut map)[..4], [-6, 0, 10, 0]);
        }
    }

    #[test]
    fn odd_differences_are_rounded_towards_finer() {
        assert_eq!(even_offset(36, 35), -2);
        assert_eq!(even_offset(36, 37), 0);
        assert_eq!(even_offset(36, 27), -10);
        assert_eq!(even_offset(36, 45), 8);
        assert_eq!(even_offset(36, i32::MIN), -34);
        assert_eq!(even_offset(36, i32::MAX), 14);
        assert_eq!(even_offset(1, 1), 0);
        assert_eq!(even_offset(3, 1), -2);
        assert_eq!(even_offset(2, 1), 0);
    }

    #[test]
    fn the_most_valuable_regions_get_the_area_and_smaller_ones_still_fit() {
        let mut map = QpMap::new(Geometry { width: 160, height: 16 });
        map.begin(36, 0.35);
        assert!(map.add(rect(0, 0, 32, 16), 26));
        assert!(!map.add(rect(64, 0, 32, 16), 26), "two more would make 4 of 10");
        assert!(map.add(rect(0, 0, 32, 16), 20), "no new macroblock");
        assert!(map.add(rect(48, 0, 16, 16), 26), "one more makes 3 of 10");
        assert_eq!(offsets(&mut map), [-16, -16, 0, -10, 0, 0, 0, 0, 0, 0]);
        assert_eq!(map.refined(), 3);
    }

    #[test]
    fn coarser_regions_do_not_use_up_the_area() {
        let mut map = QpMap::new(SMALL);
        map.begin(36, 0.0);
        assert!(map.add(rect(0, 0, 100, 52), 40));
        assert!(!map.add(rect(0, 0, 16, 16), 26));
        assert!(offsets(&mut map).iter().all(|offset| *offset == 4));
    }

    #[test]
    fn the_floor_trims_differences_before_it_raises_the_base() {
        let mut map = QpMap::new(SMALL);
        map.begin(36, 1.0);
        map.add(rect(0, 0, 16, 16), 20);
        map.add(rect(16, 0, 16, 16), 30);
        map.add(rect(32, 0, 16, 16), 42);
        map.merge();
        let mut limited = |floor| {
            let (base, offsets) = map.limit(floor);
            (
                base,
                offsets.map_or([0; 4], |offsets| [offsets[0], offsets[1], offsets[2], offsets[3]]),
            )
        };
        assert_eq!(limited(0), (36, [-16, -6, 6, 0]));
        assert_eq!(limited(24), (36, [-12, -6, 6, 0]));
        assert_eq!(limited(34), (36, [-2, -2, 6, 0]));
        assert_eq!(limited(36), (36, [0, 0, 6, 0]));
        assert_eq!(limited(39), (39, [0, 0, 2, 0]));
        assert_eq!(limited(51), (51, [0, 0, 0, 0]));
    }

    #[test]
    fn a_new_frame_begins_without_the_regions_of_the_last() {
        let mut map = QpMap::new(SMALL);
        map.begin(36, 1.0);
        map.add(rect(0, 0, 100, 52), 20);
        map.add(rect(0, 0, 100, 52), 40);
        map.finish();
        map.begin(36, 1.0);
        assert_eq!(map.finish(), (36, None));
    }

    proptest! {
        #[test]
        fn offsets_are_even_bounded_and_stay_inside_their_regions(
            width in 1u32..400,
            height in 1u32..300,
            base in 1u8..=51,
            area in 0.0f64..=1.0,
            floor in 0u8..=51,
            regions in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u8>(), any::<bool>()), 0..40),
        ) {
            let geometry = Geometry { width, height };
            let mut map = QpMap::new(geometry);
            map.begin(base, area);
            let mut touched = vec![false; geometry.macroblocks()];
            for (x, y, w, h, qp, wild) in regions {
                let rect = if wild {
                    rect(x, y, w, h)
                } else {
                    rect(x % 500, y % 400, w % 200, h % 200)
                };
                map.add(rect, qp);
                for (i, cell) in touched.iter_mut().enumerate() {
                    let mb_x = (i % geometry.mb_width()) as u64 * 16;
                    let mb_y = (i / geometry.mb_width()) as u64 * 16;
                    let (left, top) = (u64::from(rect.x), u64::from(rect.y));
                    let (right, bottom) = (left + u64::from(rect.width), top + u64::from(rect.height));
                    *cell |= right > left && bottom > top && left < mb_x + 16 && top < mb_y + 16 && right > mb_x && bottom > mb_y;
                }
            }
            map.merge();
            let refined = map.merged().map_or(0, |offsets| offsets.iter().filter(|offset| **offset < 0).count());
            prop_assert_eq!(refined, map.refined());
            prop_assert!(refined as f64 <= area * geometry.macroblocks() as f64);
            let floor = if floor < base { base - ((base - floor) & !1) } else { floor };
            let (coded_base, offsets) = map.limit(floor);
            prop_assert!((base..=51).contains(&coded_base));
            if let Some(offsets) = offsets {
                prop_assert_eq!(offsets.len(), geometry.macroblocks());
                prop_assert!(offsets.iter().any(|offset| *offset != 0));
                for (offset, touched) in offsets.iter().zip(&touched) {
                    prop_assert_eq!(offset % 2, 0);
                    let qp = i32::from(coded_base) + i32::from(*offset);
                    prop_assert!((1..=51).contains(&qp));
                    prop_assert!(qp >= i32::from(floor));
                    prop_assert!(*touched || *offset == 0);
                }
            }
        }
    }
}
