// SPDX-License-Identifier: MPL-2.0

//! Turns a segmentation into regions: the windows of the picture in which the classes are least certain.
//!
//! The rule of the DDS paper (SIGCOMM 2020, section 4, and the authors' `application/semantic_segmentation.py`):
//!
//! 1. The uncertainty of a cell is 1 minus the gap between its two best probabilities.
//! 2. Large connected areas of one class need no better quality: their uncertainty counts as 0.
//! 3. The square window with the largest sum of uncertainty is chosen, then the next that does not overlap it, and so on
//!    up to a fixed number, so that feedback has about the same size for every frame.
//!
//! Unlike in the paper, any number of classes may be of interest at once, and windows below a least uncertainty are
//! not requested.
//!
//! ```
//! use gstddsinfer::feedback::uncertainty::{UncertaintySettings, windows};
//! use gstddsinfer::model::Segmentation;
//!
//! // A picture of 64x64 pixels with one uncertain cell of 16x16.
//! let mut doubts = vec![0; 16];
//! doubts[5] = 200;
//! let map = Segmentation::new(4, 4, vec![0; 16]).unwrap().with_uncertainty(vec![1; 16], doubts).unwrap();
//! let settings = UncertaintySettings { window: 16, high_object_size: 1.0, ..Default::default() };
//! let found = windows(&settings, &map, 64, 64);
//! assert_eq!(found.len(), 1);
//! assert_eq!((found[0].rect.x, found[0].rect.y, found[0].rect.width), (16, 16, 16));
//! ```

#![forbid(unsafe_code)]

use dds_protocol::feedback::{GRID, MAX_REGIONS, Motion, Quality, Rect, Region};

use crate::model::Segmentation;

/// Which windows become regions.
#[derive(Clone, Debug, PartialEq)]
pub struct UncertaintySettings {
    /// Most windows in one frame, at most 256. Default 4, as the paper.
    pub windows: usize,
    /// Side of a window in pixels of the picture, rounded to whole steps of 8 pixels, the wire's grid. Default 80, as the
    /// paper (there at the size of the model's input).
    pub window: u32,
    /// Fraction of the picture, 0 to 1, above which a connected area of one class needs no better quality. Default 0.04: the paper
    /// has the rule, but no value; this is its limit for boxes. 1 switches the rule off.
    pub high_object_size: f32,
    /// Least mean uncertainty of a window, 0 to 1. Default 0.05: below it, more quality changes nothing.
    pub least: f32,
    /// Classes whose cells may ask for quality, as the best or the second best class. Default empty: all but
    /// `background`.
    pub classes: Vec<u8>,
    /// Background classes: their areas are never large objects, and doubt between two of them does not count.
    /// Default empty.
    pub background: Vec<u8>,
}

impl Default for UncertaintySettings {
    fn default() -> Self {
        Self {
            windows: 4,
            window: 80,
            high_object_size: 0.04,
            least: 0.05,
            classes: Vec::new(),
            background: Vec::new(),
        }
    }
}

/// A window of the picture that is uncertain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Position in pixels of the picture; the left and upper edge lie on the wire's grid.
    pub rect: Rect,
    /// Mean uncertainty of its pixels, 0 to 1, without those of large objects.
    pub uncertainty: f32,
}

/// The windows of a picture of `width` x `height` pixels, the least certain first; they do not overlap. A picture smaller
/// than a window is one.
pub fn windows(settings: &UncertaintySettings, map: &Segmentation, width: u32, height: u32) -> Vec<Window> {
    // A map without uncertainty requests nothing.
    if width == 0 || height == 0 || map.uncertainty().is_empty() {
        return Vec::new();
    }
    let doubts = doubts(settings, map);
    let tiles = Tiles::of(&doubts, map.width(), (width, height));
    tiles.windows(settings)
}

/// [`windows`] as regions of one feedback state, without motion, quantised as on the wire.
pub fn regions(
    settings: &UncertaintySettings,
    map: &Segmentation,
    width: u32,
    height: u32,
    ttl_ms: u32,
    quality: Quality,
) -> Vec<Region> {
    let region = |window: Window| Region {
        rect: window.rect,
        quality,
        motion: Motion::default(),
        ttl_ms,
        frame_offset: 0,
    };
    windows(settings, map, width, height)
        .into_iter()
        .map(|window| region(window).quantised())
        .collect()
}

/// The uncertainty of each cell that counts, 0 for the others.
fn doubts(settings: &UncertaintySettings, map: &Segmentation) -> Vec<u8> {
    let mut wanted = [false; 256];
    let mut object = [true; 256];
    settings.background.iter().for_each(|c| object[usize::from(*c)] = false);
    if settings.classes.is_empty() {
        wanted = object;
    } else {
        settings.classes.iter().for_each(|c| wanted[usize::from(*c)] = true);
    }
    let cells = map.uncertainty().iter().zip(map.classes()).zip(map.runners_up());
    let mut doubts: Vec<u8> = cells
        .map(|((doubt, class), runner_up)| {
            let counts = wanted[usize::from(*class)] || wanted[usize::from(*runner_up)];
            if counts { *doubt } else { 0 }
        })
        .collect();
    // NaN switches the rule off, as 1 does.
    let limit = f64::from(settings.high_object_size) * doubts.len() as f64;
    if limit < doubts.len() as f64 {
        clear_large(&mut doubts, map, limit, |class| object[usize::from(class)]);
    }
    doubts
}

/// A run of equal neighbours in one row of the map.
struct Run {
    start: usize,
    end: usize,
    /// A run of the same component nearer to its root; the root points to itself.
    parent: usize,
    /// Cells of the component, at the root.
    cells: usize,
}

/// Zeroes connected areas (by edges, not corners) of one class of more than `limit` cells.
///
/// Union-find over runs instead of cells: a map has far fewer runs.
fn clear_large(doubts: &mut [u8], map: &Segmentation, limit: f64, is_object: impl Fn(u8) -> bool) {
    fn root(runs: &mut [Run], mut run: usize) -> usize {
        while runs[run].parent != run {
            // Halving the path keeps later walks short.
            runs[run].parent = runs[runs[run].parent].parent;
            run = runs[run].parent;
        }
        run
    }

    let classes = map.classes();
    let width = map.width();
    let mut runs: Vec<Run> = Vec::new();
    let mut above = 0..0;
    for (y, row) in classes.chunks_exact(width).enumerate() {
        let first = runs.len();
        let mut start = y * width;
        for cells in row.chunk_by(|a, b| a == b) {
            let own = runs.len();
            let end = start + cells.len();
            runs.push(Run {
                start,
                end,
                parent: own,
                cells: cells.len(),
            });
            // Runs of the row above that end left of this one touch no later one either.
            while above.start < above.end && runs[above.start].end + width <= start {
                above.start += 1;
            }
            for other in above.clone() {
                if runs[other].start + width >= end {
                    break;
                }
                if classes[runs[other].start] == cells[0] {
                    let (a, b) = (root(&mut runs, other), root(&mut runs, own));
                    if a != b {
                        let (large, small) = if runs[a].cells < runs[b].cells { (b, a) } else { (a, b) };
                        runs[small].parent = large;
                        runs[large].cells += runs[small].cells;
                    }
                }
            }
            start = end;
        }
        above = first..runs.len();
    }
    for run in 0..runs.len() {
        let (start, end) = (runs[run].start, runs[run].end);
        let root = root(&mut runs, run);
        if is_object(classes[start]) && runs[root].cells as f64 > limit {
            doubts[start..end].fill(0);
        }
    }
}

/// Weight of one pixel of full uncertainty: a pixel's share of a cell is rounded to 1/256 of a step.
const ONE: u64 = 255 << 8;

/// Sums of uncertainty over the tiles of the picture, 8x8 pixels as in the wire's grid (the last ones of a row or
/// column may be cut off).
struct Tiles {
    picture: (u32, u32),
    columns: usize,
    rows: usize,
    /// Sums over all tiles above and left of each corner, in pixels times [`ONE`]. Integers, so that equal sums
    /// compare equal.
    integral: Vec<u64>,
}

impl Tiles {
    /// Sums cells that cover the picture, `width` in a row.
    fn of(doubts: &[u8], width: usize, picture: (u32, u32)) -> Self {
        let height = doubts.len() / width;
        let grid = GRID as usize;
        let (columns, rows) = (picture.0.div_ceil(GRID) as usize, picture.1.div_ceil(GRID) as usize);
        // Pixels and cells of a tile. A tile smaller than a cell shares it with other tiles.
        let span = |tile: usize, pixels: u32, cells: usize| {
            let pixels = pixels as usize;
            let (from, to) = (tile * grid, ((tile + 1) * grid).min(pixels));
            let start = (from * cells / pixels).min(cells - 1);
            (to - from, start..(to * cells / pixels).max(start + 1))
        };
        let across: Vec<_> = (0..columns).map(|x| span(x, picture.0, width)).collect();
        let mut integral = vec![0u64; (columns + 1) * (rows + 1)];
        let mut sums = vec![0u32; width];
        for y in 0..rows {
            let (high, cells) = span(y, picture.1, height);
            sums.fill(0);
            for row in doubts[cells.start * width..cells.end * width].chunks_exact(width) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, doubt)| *sum += u32::from(*doubt));
            }
            let (above, below) = integral[y * (columns + 1)..].split_at_mut(columns + 1);
            let mut left = 0;
            for (x, (wide, columns)) in across.iter().enumerate() {
                let sum: u64 = sums[columns.clone()].iter().map(|s| u64::from(*s)).sum();
                let pixels = (wide * high) as u64;
                left += sum * (pixels << 8) / (columns.len() * cells.len()) as u64;
                below[x + 1] = above[x + 1] + left;
            }
        }
        Self {
            picture,
            columns,
            rows,
            integral,
        }
    }

    fn windows(&self, settings: &UncertaintySettings) -> Vec<Window> {
        let side = ((f64::from(settings.window) / f64::from(GRID)).round() as usize).max(1);
        let (wide, high) = (side.min(self.columns), side.min(self.rows));
        let mut found: Vec<(usize, usize, Window)> = Vec::new();
        while found.len() < settings.windows.min(MAX_REGIONS) {
            let mut best: Option<(usize, usize, u64)> = None;
            for y in 0..=self.rows - high {
                let top = &self.integral[y * (self.columns + 1)..][..=self.columns];
                let bottom = &self.integral[(y + high) * (self.columns + 1)..][..=self.columns];
                let mut x = 0;
                while x <= self.columns - wide {
                    let overlapped = found
                        .iter()
                        .find(|f| x < f.0 + wide && f.0 < x + wide && y < f.1 + high && f.1 < y + high);
                    if let Some(f) = overlapped {
                        x = f.0 + wide;
                        continue;
                    }
                    let sum = bottom[x + wide] + top[x] - bottom[x] - top[x + wide];
                    // Windows wholly within large objects sum to 0 and are never the best.
                    if sum > best.map_or(0, |b| b.2) {
                        best = Some((x, y, sum));
                    }
                    x += 1;
                }
            }
            let Some((x, y, sum)) = best else { break };
            let rect = self.rect(x, y, wide, high);
            let pixels = f64::from(rect.width) * f64::from(rect.height);
            let uncertainty = (sum as f64 / (pixels * ONE as f64)) as f32;
            // Later ones have smaller sums.
            if uncertainty < settings.least {
                break;
            }
            found.push((x, y, Window { rect, uncertainty }));
        }
        found.into_iter().map(|f| f.2).collect()
    }

    /// A window of tiles in pixels.
    fn rect(&self, x: usize, y: usize, wide: usize, high: usize) -> Rect {
        let (x, y) = (x as u32 * GRID, y as u32 * GRID);
        Rect {
            x,
            y,
            width: (wide as u32 * GRID).min(self.picture.0 - x),
            height: (high as u32 * GRID).min(self.picture.1 - y),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of 8x8 pixels per cell: class and uncertainty of each cell, the second best class 1.
    fn map(width: usize, classes: &[u8], doubts: &[u8]) -> Segmentation {
        Segmentation::new(width, classes.len() / width, classes.into())
            .unwrap()
            .with_uncertainty(vec![1; classes.len()], doubts.into())
            .unwrap()
    }

    fn settings(window: u32) -> UncertaintySettings {
        UncertaintySettings {
            window,
            high_object_size: 1.0,
            ..UncertaintySettings::default()
        }
    }

    fn places(windows: &[Window]) -> Vec<(u32, u32)> {
        windows.iter().map(|w| (w.rect.x, w.rect.y)).collect()
    }

    #[test]
    fn the_least_certain_windows_come_first_and_do_not_overlap() {
        #[rustfmt::skip]
        let doubts = [
            200, 200,   0,   0,   0,   0,
            200, 190,   0,   0,  90,  90,
            180, 180,   0,   0,  90,  90,
              0,   0,   0,   0,   0,   0,
        ];
        let found = windows(&settings(16), &map(6, &[0; 24], &doubts), 48, 32);
        // The best but one overlaps the best; the rest of it is the third.
        assert_eq!(places(&found), [(0, 0), (32, 8), (0, 16)]);
        assert!((found[0].uncertainty - 790.0 / 4.0 / 255.0).abs() < 1e-6, "{found:?}");
        assert!(found.iter().all(|w| w.rect.width == 16 && w.rect.height == 16));
    }

    #[test]
    fn large_objects_need_no_help_and_background_is_no_object() {
        #[rustfmt::skip]
        let classes = [
            3, 3, 3, 0,
            3, 3, 0, 0,
            0, 0, 0, 3,
            0, 0, 3, 3,
        ];
        let doubts = [100; 16];
        let with = |size, background: &[u8]| UncertaintySettings {
            high_object_size: size,
            background: background.into(),
            windows: 16,
            ..settings(8)
        };
        // 5 cells of class 3, 8 of class 0, and 3 of class 3 that touch the others by a corner at most.
        let at = |settings: &UncertaintySettings| {
            let mut found = places(&windows(settings, &map(4, &classes, &doubts), 32, 32));
            found.sort_by_key(|(x, y)| (*y, *x));
            found
                .into_iter()
                .map(|(x, y)| classes[(y / 8 * 4 + x / 8) as usize])
                .collect::<Vec<_>>()
        };
        assert_eq!(at(&with(0.3, &[0])), [0, 0, 0, 0, 0, 0, 3, 0, 0, 3, 3]);
        assert_eq!(at(&with(0.3, &[])), [3, 3, 3]);
        assert_eq!(at(&with(5.0 / 16.0, &[0])).len(), 16);
        assert_eq!(at(&with(f32::NAN, &[])).len(), 16);
    }

    #[test]
    fn only_wanted_classes_ask_be_they_best_or_second_best() {
        let of = |classes: &[u8], background: &[u8]| {
            let settings = UncertaintySettings {
                classes: classes.into(),
                background: background.into(),
                ..settings(8)
            };
            let map = Segmentation::new(3, 1, vec![0, 2, 0])
                .unwrap()
                .with_uncertainty(vec![2, 0, 1], vec![90, 100, 110])
                .unwrap();
            places(&windows(&settings, &map, 24, 8))
                .into_iter()
                .map(|p| p.0 / 8)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[], &[]), [2, 1, 0]);
        assert_eq!(of(&[2], &[]), [1, 0]);
        assert_eq!(of(&[1], &[0]), [2]);
        assert_eq!(of(&[], &[0, 1]), [1, 0]);
        assert!(of(&[9], &[]).is_empty());
    }

    #[test]
    fn a_certain_picture_asks_for_nothing() {
        assert_eq!(windows(&settings(16), &map(4, &[0; 16], &[0; 16]), 32, 32), []);
        assert_eq!(windows(&settings(16), &map(4, &[0; 16], &[12; 16]), 32, 32), []);
        assert_eq!(windows(&settings(16), &map(4, &[0; 16], &[14; 16]), 32, 32).len(), 4);
        let finished = Segmentation::new(4, 4, vec![0; 16]).unwrap();
        assert_eq!(windows(&settings(16), &finished, 32, 32), []);
    }

    #[test]
    fn cells_may_be_larger_and_smaller_than_the_grid() {
        // One cell of 32x16 pixels; then cells of 2x2 pixels of which 4x4 are uncertain.
        let coarse = map(2, &[0; 4], &[0, 0, 250, 0]);
        assert_eq!(places(&windows(&settings(16), &coarse, 64, 32)), [(0, 16), (16, 16)]);
        let mut doubts = [0; 16 * 16];
        (0..16).for_each(|i| doubts[(8 + i / 4) * 16 + 4 + i % 4] = 255);
        let found = windows(&settings(8), &map(16, &[0; 256], &doubts), 32, 32);
        assert_eq!(places(&found), [(8, 16)]);
        assert!((found[0].uncertainty - 1.0).abs() < 1e-6);
    }

    #[test]
    fn regions_are_quantised_and_stand_still() {
        let settings = UncertaintySettings {
            windows: 1,
            ..settings(80)
        };
        let map = map(2, &[0; 4], &[0, 0, 250, 0]);
        let found = regions(&settings, &map, 60, 30, 250, Quality::Qp(20));
        assert_eq!(
            found,
            [Region {
                // The whole picture, grown to the grid.
                rect: Rect {
                    x: 0,
                    y: 0,
                    width: 64,
                    height: 32
                },
                quality: Quality::Qp(20),
                motion: Motion::default(),
                ttl_ms: 260,
                frame_offset: 0,
            }]
        );
    }

    proptest::proptest! {
        #[test]
        fn windows_lie_in_the_picture_and_apart(
            width in 1usize..40,
            height in 1usize..40,
            picture in (1u32..400, 1u32..400),
            seed in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..200),
            window in 0u32..200,
            n in 0usize..8,
            size in proptest::prop_oneof![0.0f32..1.2, proptest::strategy::Just(f32::NAN)],
        ) {
            let bytes = |skip: usize| seed.iter().cycle().skip(skip).take(width * height).copied();
            let map = Segmentation::new(width, height, bytes(0).map(|b| b % 3).collect())
                .unwrap()
                .with_uncertainty(bytes(1).map(|b| b % 4).collect(), bytes(2).collect())
                .unwrap();
            let settings = UncertaintySettings {
                windows: n,
                window,
                high_object_size: size,
                background: vec![0],
                ..UncertaintySettings::default()
            };
            let found = windows(&settings, &map, picture.0, picture.1);
            proptest::prop_assert!(found.len() <= n);
            proptest::prop_assert!(found.is_sorted_by(|a, b| a.uncertainty * 1.0001 + 1.0 > b.uncertainty));
            for (i, w) in found.iter().enumerate() {
                let r = w.rect;
                proptest::prop_assert!(r.width > 0 && r.height > 0);
                proptest::prop_assert!(r.x + r.width <= picture.0 && r.y + r.height <= picture.1, "{r:?} {picture:?}");
                proptest::prop_assert!(w.uncertainty > 0.0 && w.uncertainty <= 1.0001);
                for other in found[..i].iter().map(|w| w.rect) {
                    let apart = r.x >= other.x + other.width || other.x >= r.x + r.width
                        || r.y >= other.y + other.height || other.y >= r.y + r.height;
                    proptest::prop_assert!(apart, "{r:?} {other:?}");
                }
            }
        }
    }
}
