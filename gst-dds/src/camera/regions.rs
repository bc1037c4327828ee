// SPDX-License-Identifier: MPL-2.0

//! The regions in force: those of the newest applied state, moved along, until their time to live ends.

use dds_protocol::feedback::{FeedbackState, MAX_REGIONS, Quality, Region};

use super::qpmap::{Added, Placement, QpMap};
use super::stats::RegionStats;
use super::types::CameraSettings;

/// Quarter pixels per pixel: the unit of motion.
const MOTION_UNIT: i64 = 4;

/// A region and which of its fates are counted.
#[derive(Clone, Copy, Debug)]
struct Active {
    region: Region,
    applied: bool,
    clipped: bool,
    outside: bool,
}

/// Regions in force of one way, from its newest state.
#[derive(Clone, Debug)]
pub(super) struct RegionStore {
    active: Vec<Active>,
    /// The frame the regions were found in.
    found_in: u64,
    applied_at: u64,
    applied_in: u64,
    /// Not counted where another store has counted the same.
    counted: bool,
}

impl RegionStore {
    pub(super) fn new() -> Self {
        Self {
            active: Vec::with_capacity(MAX_REGIONS),
            found_in: 0,
            applied_at: 0,
            applied_in: 0,
            counted: true,
        }
    }

    /// Replaces all regions by those of a newer state, from the frame `frame` on; `counted`: they are news.
    pub(super) fn apply(&mut self, now: u64, frame: u64, state: &FeedbackState, counted: bool) {
        self.found_in = state.frame;
        self.counted = counted;
        (self.applied_at, self.applied_in) = (now, frame);
        self.active.clear();
        self.active
            .extend(state.regions.iter().take(MAX_REGIONS).map(|region| Active {
                region: *region,
                applied: !counted,
                clipped: !counted,
                outside: !counted,
            }));
    }

    /// Whether any region is in force.
    pub(super) fn any(&self) -> bool {
        !self.active.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.active.clear();
    }

    /// The frame is not coded: what would have acted in it alone acts in the next one.
    pub(super) fn postpone(&mut self, frame: u64) {
        if self.applied_in == frame {
            self.applied_in = frame.saturating_add(1);
        }
    }

    /// Paints the regions that act in the frame `frame`, and removes those that have ended.
    ///
    /// A rectangle is valid in the frame it was found in; its motion counts from there, which compensates the delay of
    /// the feedback. Its time to live counts from when it was applied; it always acts in the frame it is applied in. A
    /// region with a frame offset acts in that one frame only.
    pub(super) fn paint(
        &mut self,
        now: u64,
        frame: u64,
        settings: &CameraSettings,
        map: &mut QpMap,
        stats: &mut RegionStats,
    ) {
        let age = now.saturating_sub(self.applied_at);
        let first = frame == self.applied_in;
        let elapsed = i64::try_from(frame.saturating_sub(self.found_in)).unwrap_or(i64::MAX);
        let (found_in, one) = (self.found_in, u64::from(self.counted));
        self.active.retain_mut(|active| {
            let region = &active.region;
            let only = (region.frame_offset > 0).then(|| found_in.saturating_add(u64::from(region.frame_offset)));
            let alive = age < u64::from(region.ttl_ms) * 1_000_000 || first;
            if !alive || only.is_some_and(|only| only < frame) {
                stats.regions_expired += one;
                return false;
            }
            if only.is_some_and(|only| only > frame) {
                return true;
            }
            let placement = placed(region, elapsed, map);
            if placement.clipped && placement.mbs.is_some() && !active.clipped {
                active.clipped = true;
                stats.regions_clipped += 1;
            }
            let Some(mbs) = placement.mbs else {
                if !active.outside {
                    active.outside = true;
                    stats.regions_outside += 1;
                }
                return true;
            };
            let qp = match region.quality {
                Quality::Camera => settings.region_qp,
                Quality::Qp(qp) => qp,
            };
            match map.paint(mbs, i32::from(qp)) {
                Added::Painted if !active.applied => {
                    active.applied = true;
                    stats.regions_applied += 1;
                }
                Added::Painted => {}
                Added::OverArea => stats.regions_over_area += one,
            }
            true
        });
    }

    /// Time went back by `by`.
    pub(super) fn shift_back(&mut self, by: u64) {
        self.applied_at = self.applied_at.saturating_sub(by);
    }
}

/// Where a region lies `elapsed` frames after it was found. Partial pixels count as touched.
fn placed(region: &Region, elapsed: i64, map: &QpMap) -> Placement {
    let (x, y) = (i64::from(region.rect.x), i64::from(region.rect.y));
    let (width, height) = (i64::from(region.rect.width), i64::from(region.rect.height));
    let moved = |speed: i16| i64::from(speed).saturating_mul(elapsed);
    let (dx, dy) = (moved(region.motion.dx), moved(region.motion.dy));
    let up = |quarters: i64| quarters.saturating_add(MOTION_UNIT - 1).div_euclid(MOTION_UNIT);
    if width == 0 || height == 0 {
        return Placement {
            mbs: None,
            clipped: true,
        };
    }
    map.place(
        x.saturating_add(dx.div_euclid(MOTION_UNIT)),
        y.saturating_add(dy.div_euclid(MOTION_UNIT)),
        (x + width).saturating_add(up(dx)),
        (y + height).saturating_add(up(dy)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::types::Geometry;
    use super::*;
    use dds_protocol::feedback::{Motion, Rect};
    use dds_protocol::serial::Serial16;

    const MS: u64 = 1_000_000;

    struct Bench {
        store: RegionStore,
        map: QpMap,
        stats: RegionStats,
    }

    impl Bench {
        fn new(region: Region) -> Self {
            let mut store = RegionStore::new();
            store.apply(
                1000 * MS,
                12,
                &FeedbackState {
                    stream_id: 1,
                    generation: Serial16(1),
                    frame: 10,
                    regions: vec![region],
                    ..FeedbackState::default()
                },
                true,
            );
            Self {
                store,
                map: QpMap::new(Geometry { width: 320, height: 64 }),
                stats: RegionStats::default(),
            }
        }

        /// Columns of the first row that are refined.
        fn columns(&mut self, now_ms: u64, frame: u64) -> Vec<usize> {
            self.map.begin(36, 1.0);
            let settings = CameraSettings::default();
            self.store
                .paint(now_ms * MS, frame, &settings, &mut self.map, &mut self.stats);
            let row = self
                .map
                .finish()
                .1
                .map_or_else(Vec::new, |offsets| offsets[..20].to_vec());
            row.iter()
                .enumerate()
                .filter(|(_, offset)| **offset != 0)
                .map(|(i, _)| i)
                .collect()
        }
    }

    fn region() -> Region {
        Region {
            rect: Rect {
                x: 32,
                y: 0,
                width: 16,
                height: 16,
            },
            ttl_ms: 500,
            ..Region::default()
        }
    }

    #[test]
    fn motion_counts_from_the_frame_the_region_was_found_in() {
        let mut region = region();
        region.motion = Motion { dx: 32, dy: 0 };
        let mut bench = Bench::new(region);
        assert_eq!(bench.columns(1000, 12), [3], "two frames of 8 pixels");
        assert_eq!(bench.columns(1100, 13), [3, 4], "24 pixels touch two columns");
        assert_eq!(bench.columns(1200, 16), [5]);
    }

    #[test]
    fn fractions_of_a_pixel_touch_the_next_macroblock() {
        let mut region = region();
        region.motion = Motion { dx: -1, dy: 0 };
        let mut bench = Bench::new(region);
        assert_eq!(bench.columns(1000, 12), [1, 2]);
    }

    #[test]
    fn a_region_ends_with_its_time_to_live_and_is_counted() {
        let mut bench = Bench::new(region());
        assert_eq!(bench.columns(1499, 17), [2]);
        assert_eq!(bench.columns(1500, 18), Vec::<usize>::new());
        assert_eq!(bench.columns(1501, 19), Vec::<usize>::new());
        assert_eq!((bench.stats.regions_applied, bench.stats.regions_expired), (1, 1));
    }

    #[test]
    fn without_time_to_live_a_region_acts_in_one_frame() {
        let mut region = region();
        region.ttl_ms = 0;
        let mut bench = Bench::new(region);
        assert_eq!(bench.columns(1000, 12), [2]);
        assert_eq!(bench.columns(1000, 13), Vec::<usize>::new());
    }

    #[test]
    fn a_frame_offset_names_the_only_frame() {
        let mut region = region();
        region.frame_offset = 4;
        let mut bench = Bench::new(region);
        assert_eq!(bench.columns(1000, 12), Vec::<usize>::new());
        assert_eq!(bench.columns(1100, 14), [2]);
        assert_eq!(bench.columns(1200, 15), Vec::<usize>::new());
        assert_eq!((bench.stats.regions_applied, bench.stats.regions_expired), (1, 1));
    }

    #[test]
    fn a_frame_offset_that_has_passed_is_counted_as_expired() {
        let mut region = region();
        region.frame_offset = 1;
        let mut bench = Bench::new(region);
        assert_eq!(bench.columns(1000, 12), Vec::<usize>::new());
        assert_eq!((bench.stats.regions_applied, bench.stats.regions_expired), (0, 1));
    }

    #[test]
    fn a_region_that_leaves_the_picture_is_clipped_then_outside_and_counted_once() {
        let mut region = region();
        region.rect.x = 296;
        region.motion = Motion { dx: 16, dy: 0 };
        region.ttl_ms = 10_000;
        let mut bench = Bench::new(region);
        assert_eq!(bench.columns(1000, 12), [19], "304..320");
        assert_eq!(bench.columns(1000, 13), [19], "clipped");
        assert_eq!(bench.columns(1000, 14), [19]);
        for frame in 16..30 {
            assert_eq!(bench.columns(1000, frame), Vec::<usize>::new());
        }
        assert_eq!((bench.stats.regions_clipped, bench.stats.regions_outside), (1, 1));
    }

    #[test]
    fn any_frame_number_and_motion_is_survived() {
        for (dx, found_in, frame) in [
            (127, 0, u64::MAX),
            (-127, 0, u64::MAX),
            (127, u64::MAX, 0),
            (-127, 5, 5),
        ] {
            let mut region = region();
            region.motion = Motion { dx, dy: dx };
            region.rect = Rect {
                x: u32::MAX,
                y: u32::MAX,
                width: u32::MAX,
                height: u32::MAX,
            };
            let mut bench = Bench::new(region);
            bench.store.found_in = found_in;
            bench.columns(1000, frame);
        }
    }
}
