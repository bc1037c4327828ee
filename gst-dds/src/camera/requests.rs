// SPDX-License-Identifier: MPL-2.0

//! Feedback of two passes: every complete generation requests the refinement of frames that were captured before.
//!
//! ```text
//! captured(frame, settings)     a frame is about to be coded in the first pass
//! requests(state)               -> requests, oldest frame first; each is answered by accept or refuse
//! take_refused()                refused frames, which the first pass names in its next access unit
//! ```
//!
//! Unlike in one pass, a region belongs to one frame: the one its feedback derives from plus its frame offset. Motion
//! and time to live are ignored.

use std::collections::VecDeque;

use dds_protocol::extension::MAX_REFUSED;
use dds_protocol::feedback::{FeedbackState, MAX_REGIONS, Quality, Rect, Region};

use super::qpmap::{Added, QpMap};
use super::stats::RegionStats;
use super::types::{CameraSettings, Geometry, MAX_QP};

/// Access units of the first pass that name a refused frame, so that a loss does no harm.
const REPEATS: u8 = 3;
/// Most refused frames that wait to be named.
const MOST_REFUSED: usize = 8 * MAX_REFUSED;
/// Accepted frames remembered, to distinguish a repeated request from a late one.
const REMEMBERED: usize = 64;

/// The refinement of one frame, requested by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The frame.
    pub frame: u64,
    /// Rectangles to refine and their quantizers, in pixels of the captured picture, on the macroblock grid and not
    /// empty. The last column and row may extend beyond the picture. Empty where nothing is left of the requested
    /// regions.
    pub regions: Vec<(Rect, u8)>,
    /// Quantizer outside: the coarsest from which `region-qp` differs by an even number.
    pub outside_qp: u8,
}

/// Why a requested refinement does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The frame is not kept any more.
    Gone,
    /// A later frame was refined already.
    Late,
    /// Too many refinements wait, or they have taken all the bits that feedback may add.
    Busy,
    /// There is no stream for refinements.
    NoPad,
    /// Nothing of the regions lies in the picture, or nothing fits into the permitted area.
    Nothing,
    /// Coding it failed.
    Failed,
}

/// Counts of refinements. None ever falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefineCounts {
    /// Frames requested.
    pub requests: u64,
    /// Of those, frames requested before.
    pub repeated: u64,
    /// Refused, by [`Refusal`].
    pub gone: u64,
    /// See [`Refusal::Late`].
    pub late: u64,
    /// See [`Refusal::Busy`].
    pub busy: u64,
    /// See [`Refusal::NoPad`].
    pub no_pad: u64,
    /// See [`Refusal::Nothing`].
    pub nothing: u64,
    /// See [`Refusal::Failed`].
    pub failed: u64,
}

/// The camera's side of the requests of one stream.
#[derive(Clone, Debug)]
pub struct Requests {
    stats: RegionStats,
    settings: CameraSettings,
    map: QpMap,
    /// Size of the captured picture.
    full: Geometry,
    /// Size of the picture of the first pass, which regions refer to.
    coded: Geometry,
    newest: Option<u64>,
    accepted: VecDeque<u64>,
    refused: VecDeque<(u64, u8)>,
    counts: RefineCounts,
}

impl Requests {
    /// Requests for pictures that are captured in one size and coded in another.
    pub fn new(full: Geometry, coded: Geometry, settings: CameraSettings) -> Self {
        Self {
            stats: RegionStats::default(),
            settings: settings.clamped(),
            map: QpMap::new(full),
            full,
            coded,
            newest: None,
            accepted: VecDeque::with_capacity(REMEMBERED),
            refused: VecDeque::new(),
            counts: RefineCounts::default(),
        }
    }

    /// Begins a new stream. Counts and the order of frames continue.
    pub fn restart(&mut self, full: Geometry, coded: Geometry) {
        self.map = QpMap::new(full);
        (self.full, self.coded) = (full, coded);
        self.newest = None;
        self.refused.clear();
    }

    /// Registers that the frame of this number is about to be coded with these settings.
    pub fn captured(&mut self, frame: u64, settings: CameraSettings) {
        self.newest = Some(frame);
        self.settings = settings.clamped();
    }

    /// The requests of a state, in order of frames. Each has to be answered by [`Self::accept`] or [`Self::refuse`]
    /// before the next state.
    pub fn requests(&mut self, state: &FeedbackState) -> Vec<Request> {
        let mut frames: Vec<u64> = state.regions.iter().map(|region| frame_of(state, region)).collect();
        frames.sort_unstable();
        frames.dedup();
        let mut requests = Vec::with_capacity(frames.len());
        for frame in frames {
            self.counts.requests += 1;
            if self.accepted.contains(&frame) {
                self.counts.repeated += 1;
                continue;
            }
            let regions = state.regions.iter().filter(|region| frame_of(state, region) == frame);
            requests.push(self.request(frame, regions));
        }
        requests
    }

    fn request<'a>(&mut self, frame: u64, regions: impl Iterator<Item = &'a Region>) -> Request {
        let outside_qp = MAX_QP - (MAX_QP - self.settings.region_qp) % 2;
        self.map.begin(outside_qp, self.settings.max_region_area);
        let mut kept = Vec::new();
        for region in regions.take(MAX_REGIONS) {
            let rect = region.rect.scaled(self.coded.size(), self.full.size());
            let (left, top) = (i64::from(rect.x), i64::from(rect.y));
            let (right, bottom) = (left + i64::from(rect.width), top + i64::from(rect.height));
            let outside = right > i64::from(self.full.width) || bottom > i64::from(self.full.height);
            let (width, height) = (self.full.width.into(), self.full.height.into());
            let placement = self.map.place(left, top, right.min(width), bottom.min(height));
            let Some(mbs) = placement.mbs else {
                self.stats.regions_outside += 1;
                continue;
            };
            self.stats.regions_clipped += u64::from(outside);
            let qp = match region.quality {
                Quality::Camera => self.settings.region_qp,
                Quality::Qp(qp) => qp.min(outside_qp),
            };
            match self.map.paint(mbs, i32::from(qp)) {
                Added::Painted => {
                    self.stats.regions_applied += 1;
                    kept.push((mbs.pixels(), qp));
                }
                Added::OverArea => self.stats.regions_over_area += 1,
            }
        }
        Request {
            frame,
            regions: kept,
            outside_qp,
        }
    }

    /// Why the order of frames or the queue rules a request out; `None` where neither does.
    pub fn objection(&self, request: &Request) -> Option<Refusal> {
        if self.accepted.back().is_some_and(|last| request.frame <= *last) {
            return Some(Refusal::Late);
        }
        request.regions.is_empty().then_some(Refusal::Nothing)
    }

    /// The refinement of this frame will come. Frames are accepted in rising order.
    pub fn accept(&mut self, frame: u64) {
        if self.accepted.len() == REMEMBERED {
            self.accepted.pop_front();
        }
        self.accepted.push_back(frame);
    }

    /// The refinement of this frame will not come.
    pub fn refuse(&mut self, frame: u64, why: Refusal) {
        let counts = &mut self.counts;
        *match why {
            Refusal::Gone => &mut counts.gone,
            Refusal::Late => &mut counts.late,
            Refusal::Busy => &mut counts.busy,
            Refusal::NoPad => &mut counts.no_pad,
            Refusal::Nothing => &mut counts.nothing,
            Refusal::Failed => &mut counts.failed,
        } += 1;
        // A frame that was never captured has no access unit to name it after.
        if self.newest.is_none_or(|newest| frame > newest) {
            return;
        }
        match self.refused.iter_mut().find(|(refused, _)| *refused == frame) {
            Some((_, repeats)) => *repeats = REPEATS,
            None => self.refused.push_back((frame, REPEATS)),
        }
        if self.refused.len() > MOST_REFUSED {
            self.refused.pop_front();
        }
    }

    /// Refused frames for the next access unit of the first pass, at most [`MAX_REFUSED`]. Each is named three times.
    pub fn take_refused(&mut self) -> Vec<u64> {
        let named = self.refused.len().min(MAX_REFUSED);
        let mut frames = Vec::with_capacity(named);
        for _ in 0..named {
            if let Some((frame, repeats)) = self.refused.pop_front() {
                frames.push(frame);
                if repeats > 1 {
                    self.refused.push_back((frame, repeats - 1));
                }
            }
        }
        frames
    }

    /// Fates of the requested regions.
    pub fn stats(&self) -> &RegionStats {
        &self.stats
    }

    /// Counts of refinements.
    pub fn counts(&self) -> &RefineCounts {
        &self.counts
    }
}

fn frame_of(state: &FeedbackState, region: &Region) -> u64 {
    state.frame.saturating_add(u64::from(region.frame_offset))
}

/// Rectangles on the macroblock grid of a picture of this size.
#[cfg(test)]
fn aligned(rect: &Rect, geometry: Geometry) -> bool {
    use super::MACROBLOCK;
    let grid = |value: u32| value.is_multiple_of(MACROBLOCK);
    grid(rect.x)
        && grid(rect.y)
        && grid(rect.width)
        && grid(rect.height)
        && rect.width > 0
        && rect.height > 0
        && rect.x + rect.width <= geometry.mb_width() as u32 * MACROBLOCK
        && rect.y + rect.height <= geometry.mb_height() as u32 * MACROBLOCK
}

#[cfg(test)]
mod tests {
    use super::super::receiver::{Delivery, FeedbackReceiver, Liveness, Outcome, Reading, Way, Ways};
    use super::*;
    use dds_protocol::feedback::encode;
    use dds_protocol::serial::Serial16;
    use proptest::prelude::*;

    const STREAM: u32 = 9;
    const FULL: Geometry = Geometry {
        width: 320,
        height: 240,
    };

    fn region(x: u32, y: u32, width: u32, height: u32, frame_offset: u8) -> Region {
        Region {
            rect: Rect { x, y, width, height },
            ttl_ms: 20,
            frame_offset,
            ..Region::default()
        }
    }

    fn packet(generation: u16, frame: u64, regions: &[Region]) -> Vec<u8> {
        encode(&FeedbackState {
            stream_id: STREAM,
            generation: Serial16(generation),
            frame,
            regions: regions.to_vec(),
            ..FeedbackState::default()
        })
        .packets
        .remove(0)
    }

    /// Requests behind a receiver that reads at once.
    struct Bench {
        receiver: FeedbackReceiver,
        requests: Requests,
    }

    impl Bench {
        fn new(full: Geometry, coded: Geometry, settings: CameraSettings) -> Self {
            let mut receiver = FeedbackReceiver::new(Ways::default(), Reading::AtOnce);
            receiver.restart(STREAM);
            Self {
                receiver,
                requests: Requests::new(full, coded, settings),
            }
        }

        fn captured(&mut self, now: u64, frame: u64, settings: CameraSettings) {
            self.receiver.set_settings(settings);
            self.receiver.begin_frame(now, frame);
            self.requests.captured(frame, settings);
        }

        fn push_feedback(&mut self, way: Way, packet: &[u8]) -> (Outcome, Vec<Request>) {
            let outcome = match self.receiver.deliver(way, packet) {
                Delivery::Read(outcome) => outcome,
                _ => Outcome::Foreign,
            };
            let state = self.receiver.take(way).filter(|state| state.news);
            let asked = state.map(|state| self.requests.requests(&state.feedback));
            (outcome, asked.unwrap_or_default())
        }
    }

    impl std::ops::Deref for Bench {
        type Target = Requests;

        fn deref(&self) -> &Requests {
            &self.requests
        }
    }

    impl std::ops::DerefMut for Bench {
        fn deref_mut(&mut self) -> &mut Requests {
            &mut self.requests
        }
    }

    fn requests(coded: Geometry) -> Bench {
        let settings = CameraSettings {
            max_region_area: 1.0,
            ..CameraSettings::default()
        };
        let mut requests = Bench::new(FULL, coded, settings);
        requests.captured(0, 100, settings);
        requests
    }

    #[test]
    fn what_one_server_asks_by_two_ways_is_asked_once_and_each_way_has_its_own_numbering() {
        let mut requests = requests(FULL);
        let mut ask = |way, generation, frame| {
            let packet = packet(generation, frame, &[region(0, 0, 16, 16, 0)]);
            let (outcome, asked) = requests.push_feedback(way, &packet);
            (outcome == Outcome::Duplicate, asked.len())
        };
        for (i, frame) in (90..95).enumerate() {
            assert_eq!(ask(Way::Uri, i as u16, frame), (false, 1));
            assert_eq!(ask(Way::Rtcp, i as u16, frame), (true, 0));
        }
        // A high number by one way makes nothing stale by the other.
        assert_eq!(ask(Way::Rtcp, 30_000, 95), (false, 1));
        assert_eq!(ask(Way::Uri, 5, 96), (false, 1));
        // Nor does a flood of foreign packets, however long.
        for _ in 0..10_000 {
            requests.push_feedback(Way::Rtcp, b"\xdd\x53\x01 not feedback");
        }
        let (outcome, asked) = requests.push_feedback(Way::Rtcp, &packet(30_001, 97, &[region(0, 0, 16, 16, 0)]));
        assert!(matches!(outcome, Outcome::Complete { .. }), "{outcome:?}");
        assert_eq!((asked.len(), requests.receiver.stats().packets_complete), (1, 8));
    }

    #[test]
    fn every_generation_counts_and_regions_belong_to_their_frames() {
        let mut requests = requests(FULL);
        let (_, first) = requests.push_feedback(Way::Event, &packet(1, 90, &[region(0, 0, 16, 16, 0)]));
        let regions = [
            region(17, 0, 16, 16, 3),
            region(32, 32, 16, 16, 0),
            region(0, 0, 8, 8, 3),
        ];
        let (_, second) = requests.push_feedback(Way::Event, &packet(2, 91, &regions));
        assert_eq!(first.iter().map(|r| r.frame).collect::<Vec<_>>(), [90]);
        assert_eq!(second.iter().map(|r| r.frame).collect::<Vec<_>>(), [91, 94]);
        let rect = |x, y, width, height| Rect { x, y, width, height };
        // On the wire's grid of 8 pixels 17..33 is 16..40.
        assert_eq!(second[1].regions, [(rect(16, 0, 32, 16), 26), (rect(0, 0, 16, 16), 26)]);
        assert_eq!(second[1].outside_qp, 50);
        assert_eq!(requests.receiver.begin_frame(0, 101).liveness, Liveness::Up);
    }

    #[test]
    fn regions_grow_to_the_captured_picture_and_outward_to_macroblocks() {
        let mut requests = requests(Geometry {
            width: 256,
            height: 192,
        });
        let wanted = [
            region(56, 56, 8, 8, 0),
            region(248, 184, 64, 64, 0),
            region(256, 0, 8, 8, 0),
        ];
        let (_, got) = requests.push_feedback(Way::Event, &packet(1, 90, &wanted));
        let rects: Vec<Rect> = got[0].regions.iter().map(|(rect, _)| *rect).collect();
        let rect = |x, y, width, height| Rect { x, y, width, height };
        // 56 * 1.25 = 70 to 64 * 1.25 = 80.
        assert_eq!(rects, [rect(64, 64, 16, 16), rect(304, 224, 16, 16)]);
        assert_eq!(
            (requests.stats().regions_outside, requests.stats().regions_clipped),
            (1, 1)
        );
    }

    #[test]
    fn refusals_are_named_in_three_access_units() {
        let mut requests = requests(FULL);
        requests.refuse(5, Refusal::Gone);
        assert_eq!(requests.take_refused(), [5]);
        requests.refuse(101, Refusal::Gone);
        requests.refuse(7, Refusal::Busy);
        assert_eq!(requests.take_refused(), [5, 7]);
        assert_eq!(requests.take_refused(), [5, 7]);
        assert_eq!(requests.take_refused(), [7]);
        assert!(requests.take_refused().is_empty());
        let counts = requests.counts();
        assert_eq!((counts.gone, counts.busy), (2, 1));
        for frame in 0..1000 {
            requests.refuse(frame % 100, Refusal::Late);
        }
        assert_eq!(requests.take_refused().len(), 100);
    }

    #[test]
    fn frames_rise_and_one_asked_for_twice_is_refined_once() {
        let mut requests = requests(FULL);
        let ask = |requests: &mut Bench, generation, frame| {
            let region = region(0, 0, 16, 16, 0);
            requests
                .push_feedback(Way::Pad, &packet(generation, frame, &[region]))
                .1
        };
        let request = ask(&mut requests, 1, 50).remove(0);
        assert_eq!(requests.objection(&request), None);
        requests.accept(50);
        assert!(ask(&mut requests, 2, 50).is_empty());
        let earlier = ask(&mut requests, 3, 49).remove(0);
        assert_eq!(requests.objection(&earlier), Some(Refusal::Late));
        assert_eq!((requests.counts().requests, requests.counts().repeated), (3, 1));
    }

    #[test]
    fn the_area_is_capped_and_a_list_of_nothing_is_refused() {
        let mut requests = requests(FULL);
        let settings = CameraSettings {
            max_region_area: 0.1,
            ..CameraSettings::default()
        };
        requests.captured(1, 101, settings);
        // 300 macroblocks in all.
        let regions = [
            region(0, 0, 80, 80, 0),
            region(160, 0, 96, 16, 0),
            region(160, 0, 80, 16, 0),
        ];
        let (_, got) = requests.push_feedback(Way::Rtcp, &packet(1, 90, &regions));
        let widths: Vec<u32> = got[0].regions.iter().map(|(rect, _)| rect.width).collect();
        assert_eq!(widths, [80, 80]);
        assert_eq!(requests.stats().regions_over_area, 1);
        let (_, got) = requests.push_feedback(Way::Rtcp, &packet(2, 90, &[region(0, 0, 320, 240, 0)]));
        assert_eq!(requests.objection(&got[0]), Some(Refusal::Nothing));
        let (outcome, got) = requests.push_feedback(Way::Rtcp, &packet(3, 90, &[]));
        assert!(got.is_empty() && matches!(outcome, Outcome::Complete { .. }));
    }

    proptest! {
        #[test]
        fn rectangles_lie_on_macroblocks_of_the_picture(
            full in (16u32..3000, 16u32..3000),
            scale in 0.25f64..=1.0,
            wanted in prop::collection::vec((0u32..4000, 0u32..4000, 0u32..4000, 0u32..4000), 0..30),
        ) {
            let full = Geometry { width: full.0, height: full.1 };
            let side = |v: u32| ((f64::from(v) * scale) as u32).max(1);
            let coded = Geometry { width: side(full.width), height: side(full.height) };
            let settings = CameraSettings { max_region_area: 1.0, ..CameraSettings::default() };
            let mut requests = Bench::new(full, coded, settings);
            requests.captured(0, 100, settings);
            let regions: Vec<Region> = wanted.iter().map(|&(x, y, w, h)| region(x, y, w, h, 0)).collect();
            let (_, got) = requests.push_feedback(Way::Event, &packet(1, 7, &regions));
            for (rect, _) in got.iter().flat_map(|request| &request.regions) {
                prop_assert!(aligned(rect, full), "{rect:?}");
            }
        }
    }
}
