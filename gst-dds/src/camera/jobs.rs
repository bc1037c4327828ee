// SPDX-License-Identifier: MPL-2.0

//! The jobs of the second pass, and their order.
//!
//! ```text
//! captured(..), keep(..)      a frame goes into the first pass, and may be requested from now on
//! ask(state)                  feedback names frames: each becomes a job, or is refused
//! next_up()                -> the next job: a picture to code, a gap to announce, an event to send
//! begin(frame)             -> whether it is still to be coded, and how
//! coded(..), pushed(..)       its size, and its fate downstream
//! ```
//!
//! The stream begins with one picture that nothing was requested of, so that a sink prerolls. Where nothing is
//! requested, gaps follow the oldest frame that is kept: before that nothing can come any more. Whatever is refused is
//! named in the first pass ([`Requests::take_refused`]). Nothing here reads a clock or waits.

use std::collections::VecDeque;

use dds_protocol::feedback::FeedbackState;

use super::keyframes::{KeyFrameCounts, KeyFrameRequests};
use super::requests::{RefineCounts, Refusal, Request, Requests};
use super::ring::{Bounds, Ring};
use super::stats::{DelayStats, RegionStats};
use super::types::{CameraSettings, Geometry};

/// Refinements that may wait for the encoder: two of the longest segments.
pub const MOST_WAITING: usize = 64;
/// Shortest gap that is announced, in nanoseconds.
const GAP_NS: u64 = 200_000_000;
/// The second over which the bytes of refinements are bounded.
const SECOND_NS: u64 = 1_000_000_000;

/// A frame that may be requested: a picture of the caller's, `F`, at a time in a segment `S` of time.
#[derive(Clone, Debug)]
pub struct Kept<F, S> {
    /// The caller's picture.
    pub item: F,
    /// Its time in nanoseconds.
    pub pts: Option<u64>,
    /// The segment that time lies in.
    pub segment: S,
}

/// A job of the second pass.
#[derive(Clone, Debug)]
pub enum Job<F, S> {
    /// The picture that the stream begins with.
    Start(F),
    /// Code the request for a frame.
    Refine(F, Request),
    /// Announce a gap: nothing comes for this time.
    Gap {
        /// Segment of the time.
        segment: S,
        /// Begin of the gap, in nanoseconds.
        from_ns: u64,
        /// Duration of the gap, in nanoseconds.
        duration_ns: u64,
    },
    /// Upstream has begun another stream.
    NewStream,
    /// Downstream has forgotten the segment.
    NewSegment,
    /// The stream ends.
    Eos,
}

/// The next job, if there is one.
#[derive(Clone, Debug)]
pub enum Next<F, S> {
    /// There is one.
    Job(Job<F, S>),
    /// Nothing yet.
    Wait,
    /// Nothing any more.
    End,
}

/// Decision about the next picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Code it.
    Code {
        /// As an IDR picture.
        force_idr: bool,
    },
    /// Drop it: refinements have taken all the bits they may.
    Refused,
    /// Stop: downstream accepts nothing any more.
    Ended,
}

/// Fate of a picture downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was accepted.
    Taken,
    /// Nothing is linked.
    NotLinked,
    /// It was dropped.
    Flushing,
    /// Downstream accepts nothing any more.
    Ended,
}

/// Result of the requests in a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Frames that will be refined.
    pub accepted: usize,
    /// Frames that will not, with the reason.
    pub refused: Vec<(u64, Refusal)>,
    /// Nothing is linked that takes them, for the first time in this run.
    pub nobody: bool,
}

/// Counts of the second pass.
#[derive(Clone, Debug, Default)]
pub struct RefineStats {
    /// Requests and their fates.
    pub counts: RefineCounts,
    /// Frames coded for a request.
    pub frames_coded: u64,
    /// Rectangles in them.
    pub regions: u64,
    /// Bytes of all access units.
    pub bytes: u64,
    /// IDR pictures, the one at the start included.
    pub idr: u64,
    /// Of those, the ones that the network requested.
    pub key_frames: KeyFrameCounts,
    /// Frames and bytes kept now.
    pub ring: (u64, u64),
    /// Frames copied to be kept.
    pub ring_copied: u64,
    /// Time from capture to the coded refinement.
    pub delay: DelayStats,
}

/// The second pass of one run. See the [module](self).
#[derive(Debug)]
pub struct Jobs<F, S> {
    /// The pad is active.
    active: bool,
    flushing: bool,
    /// Downstream accepts nothing any more.
    ended: bool,
    eos: bool,
    requests: Option<Requests>,
    ring: Option<Ring<Kept<F, S>>>,
    /// Picture that the stream begins with.
    start: Option<F>,
    started: bool,
    queue: VecDeque<Job<F, S>>,
    force_idr: bool,
    /// Key frames that the network requests, granted by the time of the newest captured frame.
    key_frames: KeyFrameRequests<()>,
    now: u64,
    /// Most bytes of refinements in any second, 0 = no bound, and the bytes taken: when, and how many.
    budget: u64,
    spent: VecDeque<(u64, u64)>,
    /// Segment last pushed, and the end of the last picture or gap in it.
    until: Option<(S, u64)>,
    /// Whether it was reported that nothing takes refinements.
    nobody_reported: bool,
    stats: RefineStats,
}

impl<F, S> Default for Jobs<F, S> {
    fn default() -> Self {
        Self {
            active: false,
            flushing: false,
            ended: false,
            eos: false,
            requests: None,
            ring: None,
            start: None,
            started: false,
            queue: VecDeque::new(),
            force_idr: false,
            key_frames: KeyFrameRequests::default(),
            now: 0,
            budget: 0,
            spent: VecDeque::new(),
            until: None,
            nobody_reported: false,
            stats: RefineStats::default(),
        }
    }
}

impl<F: Clone, S: Clone + PartialEq> Jobs<F, S> {
    /// Begins a run.
    pub fn begin_run(&mut self) {
        *self = Self {
            active: self.active,
            flushing: self.flushing,
            now: self.now,
            budget: self.budget,
            ..Self::default()
        };
    }

    /// Ends a run and releases all frames. Counts stay.
    pub fn end_run(&mut self) {
        self.forget();
        (self.ring, self.requests) = (None, None);
    }

    /// Begins a stream, whose pictures are captured in one size and coded in another: frames of the stream before can
    /// no longer be requested.
    pub fn begin_stream(&mut self, full: Geometry, coded: Geometry, settings: CameraSettings, bounds: Bounds) {
        match &mut self.requests {
            Some(requests) => requests.restart(full, coded),
            None => self.requests = Some(Requests::new(full, coded, settings)),
        }
        self.ring = Some(Ring::new(bounds));
    }

    /// Whether anything coded now would reach a peer; `linked`: there is one.
    pub fn is_open(&self, linked: bool) -> bool {
        self.active && !self.flushing && !self.ended && !self.eos && linked
    }

    /// Registers that the frame of this number is about to be coded in the first pass, with these settings, at the
    /// running time `now`; `full` is the size of the captured picture.
    pub fn captured(&mut self, now: u64, frame: u64, settings: CameraSettings, full: Geometry) {
        self.now = now;
        self.budget = u64::from(settings.feedback.kbps(full, settings.frame_rate)) * 125;
        if let Some(requests) = &mut self.requests {
            requests.captured(frame, settings);
        }
    }

    /// Keeps a captured frame of so many bytes, which may be requested from now on.
    pub fn keep(&mut self, frame: u64, bytes: u64, kept: Kept<F, S>) {
        if !self.started && self.start.is_none() {
            self.start = Some(kept.item.clone());
        }
        if let Some(ring) = &mut self.ring {
            ring.push(frame, self.now, bytes, kept);
            self.stats.ring_copied += 1;
        }
    }

    /// Refused frames for the next access unit of the first pass.
    pub fn take_refused(&mut self) -> Vec<u64> {
        self.requests.as_mut().map_or_else(Vec::new, Requests::take_refused)
    }

    /// Makes jobs of the requests in a feedback state.
    pub fn ask(&mut self, state: &FeedbackState, linked: bool) -> Asked {
        let mut asked = Asked::default();
        let open = self.is_open(linked);
        let (Some(requests), Some(ring)) = (&mut self.requests, &self.ring) else {
            return asked;
        };
        for request in requests.requests(state) {
            let frame = request.frame;
            let objection = if open {
                requests.objection(&request)
            } else {
                Some(Refusal::NoPad)
            };
            let refusal = match (objection, ring.get(frame)) {
                (Some(refusal), _) => refusal,
                (None, None) => Refusal::Gone,
                (None, Some(_)) if self.queue.len() >= MOST_WAITING => Refusal::Busy,
                (None, Some(kept)) => {
                    requests.accept(frame);
                    asked.accepted += 1;
                    self.queue.push_back(Job::Refine(kept.item.clone(), request));
                    continue;
                }
            };
            // Requests after the end of the stream are no error.
            asked.nobody |= refusal == Refusal::NoPad && !linked && !std::mem::replace(&mut self.nobody_reported, true);
            asked.refused.push((frame, refusal));
            requests.refuse(frame, refusal);
        }
        asked
    }

    /// The next job.
    pub fn next_up(&mut self) -> Next<F, S> {
        if !self.active {
            return Next::End;
        }
        if self.flushing {
            return Next::Wait;
        }
        // The announcement of that picture's stream comes first.
        let announced = !matches!(self.queue.front(), Some(Job::NewStream | Job::NewSegment));
        if announced && let Some(frame) = self.start.take() {
            self.started = true;
            return Next::Job(Job::Start(frame));
        }
        let job = self.queue.pop_front().or_else(|| self.gap());
        job.map_or(Next::Wait, Next::Job)
    }

    /// The gap since the last picture, as far as it has become certain.
    fn gap(&mut self) -> Option<Job<F, S>> {
        if !self.started || self.ended || self.eos {
            return None;
        }
        let oldest = self.ring.as_ref()?.oldest()?;
        let (segment, until) = self.until.as_mut()?;
        let start = oldest.pts?;
        if *segment != oldest.segment {
            (*segment, *until) = (oldest.segment.clone(), start);
            return None;
        }
        let from_ns = *until;
        if start < from_ns + GAP_NS {
            return None;
        }
        *until = start;
        Some(Job::Gap {
            segment: segment.clone(),
            from_ns,
            duration_ns: start - from_ns,
        })
    }

    /// Whether the picture of a job is still to be coded; `refined`: it was requested.
    pub fn begin(&mut self, frame: u64, refined: bool) -> Turn {
        if self.ended {
            return Turn::Ended;
        }
        if refined && self.is_overspent() {
            self.refuse(frame, Refusal::Busy);
            return Turn::Refused;
        }
        Turn::Code {
            force_idr: self.key_frames.due(self.now).is_some() | std::mem::take(&mut self.force_idr),
        }
    }

    /// Whether refinements have used up their bytes of the last second of captured time.
    fn is_overspent(&mut self) -> bool {
        let now = self.now;
        // Time that goes back is a seek.
        let past = |at: u64| now < at || now - at >= SECOND_NS;
        while self.spent.front().is_some_and(|(at, _)| past(*at)) {
            self.spent.pop_front();
        }
        self.budget > 0 && self.spent.iter().map(|(_, bytes)| bytes).sum::<u64>() >= self.budget
    }

    /// Accounts for a coded picture: its bytes, and where it was requested, the rectangles in it and the time since it
    /// was captured, in nanoseconds.
    pub fn coded(&mut self, bytes: u64, idr: bool, refined: Option<(usize, u64)>) {
        self.spent.push_back((self.now, bytes));
        self.stats.bytes += bytes;
        self.stats.idr += u64::from(idr);
        if idr {
            self.key_frames.coded();
        }
        if let Some((regions, delay_ns)) = refined {
            self.stats.frames_coded += 1;
            self.stats.regions += regions as u64;
            self.stats.delay.record(delay_ns, 0);
        }
    }

    /// Records the fate of a picture downstream, which ends at this time in this segment.
    pub fn pushed(&mut self, pushed: Pushed, frame: u64, refined: bool, end: Option<(S, u64)>) {
        match pushed {
            Pushed::Taken => {
                if end.is_some() {
                    self.until = end;
                }
            }
            // A peer that comes later gets an IDR picture.
            Pushed::NotLinked => {
                (self.force_idr, self.started) = (true, false);
                if refined {
                    self.refuse(frame, Refusal::NoPad);
                }
            }
            Pushed::Flushing => self.force_idr = true,
            Pushed::Ended => self.ended = true,
        }
    }

    /// Records that nothing can be coded any more.
    pub fn failed(&mut self, frame: Option<u64>) {
        self.ended = true;
        if let Some(frame) = frame {
            self.refuse(frame, Refusal::Failed);
        }
    }

    fn refuse(&mut self, frame: u64, why: Refusal) {
        if let Some(requests) = &mut self.requests {
            requests.refuse(frame, why);
        }
    }

    /// The next picture has to be an IDR picture.
    pub fn force_idr(&mut self) {
        self.force_idr = true;
    }

    /// The network requests an IDR picture.
    pub fn request_idr(&mut self) {
        self.key_frames.request((), |(), ()| ());
    }

    /// Ends the stream after the accepted requests are coded. Returns whether there is a job.
    pub fn eos(&mut self) -> bool {
        let ends = self.active && !self.eos;
        if ends {
            self.eos = true;
            self.queue.push_back(Job::Eos);
        }
        ends
    }

    /// Upstream begins another stream.
    pub fn new_stream(&mut self) {
        if self.active {
            (self.eos, self.started) = (false, false);
            self.queue.push_back(Job::NewStream);
        }
    }

    /// Another peer is linked: the stream begins anew for it.
    pub fn new_peer(&mut self) {
        self.started = false;
    }

    /// The pad becomes active or inactive. What waits is dropped where it becomes inactive.
    pub fn set_active(&mut self, active: bool) {
        (self.active, self.flushing) = (active, false);
        if !active {
            self.forget();
        }
    }

    /// Drops everything that waits; there are no jobs before [`Self::flush_stop`].
    pub fn flush_start(&mut self) {
        self.flushing = true;
        self.forget();
    }

    /// Goes on after a flush.
    pub fn flush_stop(&mut self) {
        self.forget();
        self.flushing = false;
        self.queue.push_back(Job::NewSegment);
    }

    fn forget(&mut self) {
        self.queue.clear();
        self.start = None;
        self.started = false;
        self.until = None;
        self.ended = false;
        self.eos = false;
        if let Some(ring) = &mut self.ring {
            ring.clear();
        }
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Bytes coded so far.
    pub fn bytes(&self) -> u64 {
        self.stats.bytes
    }

    /// Counts of the second pass, and of the regions requested.
    pub fn stats(&self) -> (RefineStats, RegionStats) {
        let mut stats = self.stats.clone();
        stats.key_frames = self.key_frames.counts();
        if let Some(ring) = &self.ring {
            stats.ring = (ring.len() as u64, ring.bytes());
        }
        let mut regions = RegionStats::default();
        if let Some(requests) = &self.requests {
            stats.counts = *requests.counts();
            regions = requests.stats().clone();
        }
        (stats, regions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dds_protocol::feedback::{Rect, Region};
    use dds_protocol::serial::Serial16;
    use proptest::prelude::*;

    const SIZE: Geometry = Geometry {
        width: 320,
        height: 240,
    };
    const BOUNDS: Bounds = Bounds {
        frames: 60,
        bytes: u64::MAX,
        age_ns: u64::MAX,
    };
    const FRAME_NS: u64 = 40_000_000;

    /// Frames are numbers, segments too.
    type Bench = Jobs<u64, u8>;

    fn jobs() -> Bench {
        let mut jobs = Bench::default();
        jobs.begin_run();
        jobs.set_active(true);
        jobs.begin_stream(SIZE, SIZE, CameraSettings::default(), BOUNDS);
        jobs
    }

    fn capture(jobs: &mut Bench, frame: u64) {
        capture_in(jobs, frame, 0, CameraSettings::default());
    }

    fn capture_in(jobs: &mut Bench, frame: u64, segment: u8, settings: CameraSettings) {
        jobs.captured(frame * FRAME_NS, frame, settings, SIZE);
        let kept = Kept {
            item: frame,
            pts: Some(frame * FRAME_NS),
            segment,
        };
        jobs.keep(frame, 1000, kept);
    }

    fn ask(jobs: &mut Bench, frames: &[u64]) -> Asked {
        let base = frames.iter().copied().min().unwrap_or(0);
        let region = |frame: &u64| Region {
            rect: Rect {
                x: 0,
                y: 0,
                width: 64,
                height: 64,
            },
            frame_offset: (frame - base) as u8,
            ..Region::default()
        };
        let state = FeedbackState {
            stream_id: 1,
            generation: Serial16(0),
            frame: base,
            regions: frames.iter().map(region).collect(),
            ..FeedbackState::default()
        };
        jobs.ask(&state, true)
    }

    /// Runs all jobs and names each in a word; pictures are pushed.
    fn work(jobs: &mut Bench) -> Vec<String> {
        let mut done = Vec::new();
        loop {
            let (frame, refined) = match jobs.next_up() {
                Next::Wait => return done,
                Next::End => {
                    done.push("end".into());
                    return done;
                }
                Next::Job(Job::Start(frame)) => (frame, false),
                Next::Job(Job::Refine(frame, request)) => {
                    assert_eq!(request.frame, frame);
                    (frame, true)
                }
                Next::Job(Job::Gap {
                    from_ns, duration_ns, ..
                }) => {
                    done.push(format!("gap {}+{}", from_ns / FRAME_NS, duration_ns / FRAME_NS));
                    continue;
                }
                Next::Job(Job::NewStream) => {
                    done.push("new stream".into());
                    continue;
                }
                Next::Job(Job::NewSegment) => {
                    done.push("new segment".into());
                    continue;
                }
                Next::Job(Job::Eos) => {
                    done.push("eos".into());
                    continue;
                }
            };
            let word = if refined { "refine" } else { "start" };
            match jobs.begin(frame, refined) {
                Turn::Code { force_idr } => {
                    done.push(format!("{word} {frame}{}", if force_idr { " idr" } else { "" }));
                    jobs.coded(500, force_idr, refined.then_some((1, 0)));
                    jobs.pushed(Pushed::Taken, frame, refined, Some((0, (frame + 1) * FRAME_NS)));
                }
                Turn::Refused => done.push(format!("refused {frame}")),
                Turn::Ended => done.push(format!("too late {frame}")),
            }
        }
    }

    #[test]
    fn the_stream_begins_with_one_picture_and_goes_on_with_what_is_asked_for() {
        let mut jobs = jobs();
        assert!(work(&mut jobs).is_empty());
        (0..10).for_each(|frame| capture(&mut jobs, frame));
        assert_eq!(ask(&mut jobs, &[5, 3, 4]).accepted, 3);
        assert_eq!(work(&mut jobs), ["start 0", "refine 3", "refine 4", "refine 5"]);
        assert_eq!(ask(&mut jobs, &[7]).accepted, 1);
        assert_eq!(work(&mut jobs), ["refine 7"]);
        let (stats, regions) = jobs.stats();
        assert_eq!((stats.frames_coded, stats.bytes, regions.regions_applied), (4, 2500, 4));
    }

    #[test]
    fn silence_is_told_up_to_the_oldest_frame_that_may_be_asked_for() {
        let mut jobs = jobs();
        capture(&mut jobs, 0);
        assert_eq!(work(&mut jobs), ["start 0"]);
        // 60 frames are kept: up to frame 64 the oldest is no more than four behind the start.
        (1..65).for_each(|frame| capture(&mut jobs, frame));
        assert!(work(&mut jobs).is_empty());
        capture(&mut jobs, 65);
        assert_eq!(work(&mut jobs), ["gap 1+5"]);
        (66..69).for_each(|frame| capture(&mut jobs, frame));
        assert!(work(&mut jobs).is_empty(), "not each frame");
        assert_eq!(ask(&mut jobs, &[20]).accepted, 1);
        assert_eq!(work(&mut jobs), ["refine 20"]);
        // In another segment of time gaps begin anew.
        (69..150).for_each(|frame| capture_in(&mut jobs, frame, 1, CameraSettings::default()));
        assert!(work(&mut jobs).is_empty());
        (150..155).for_each(|frame| capture_in(&mut jobs, frame, 1, CameraSettings::default()));
        assert_eq!(work(&mut jobs), ["gap 90+5"]);
    }

    #[test]
    fn what_cannot_be_refined_is_refused_by_its_reason_and_named() {
        let mut jobs = jobs();
        (0..100).for_each(|frame| capture(&mut jobs, frame));
        let gone = ask(&mut jobs, &[10]);
        assert_eq!(gone.refused, [(10, Refusal::Gone)]);
        ask(&mut jobs, &[90]);
        assert_eq!(ask(&mut jobs, &[89]).refused, [(89, Refusal::Late)]);
        assert_eq!(ask(&mut jobs, &[90]), Asked::default(), "asked for before");
        let nobody = |jobs: &mut Bench| {
            let state = FeedbackState {
                stream_id: 1,
                generation: Serial16(0),
                frame: 95,
                regions: vec![Region::default()],
                ..FeedbackState::default()
            };
            jobs.ask(&state, false)
        };
        let first = nobody(&mut jobs);
        assert_eq!((first.refused, first.nobody), (vec![(95, Refusal::NoPad)], true));
        assert!(!nobody(&mut jobs).nobody, "told once");
        assert_eq!(jobs.take_refused(), [10, 89, 95]);
        let counts = jobs.stats().0.counts;
        assert_eq!((counts.gone, counts.late, counts.no_pad), (1, 1, 2));
    }

    #[test]
    fn no_more_wait_than_the_line_holds() {
        let mut jobs = jobs();
        let bounds = Bounds { frames: 200, ..BOUNDS };
        jobs.begin_stream(SIZE, SIZE, CameraSettings::default(), bounds);
        (0..100).for_each(|frame| capture(&mut jobs, frame));
        let busy: usize = (0..100).map(|frame| ask(&mut jobs, &[frame]).refused.len()).sum();
        assert_eq!((busy, jobs.stats().0.counts.busy), (100 - MOST_WAITING, 36));
        assert_eq!(work(&mut jobs).len(), 1 + MOST_WAITING);
    }

    #[test]
    fn refinements_take_no_more_than_feedback_may_in_any_second() {
        let mut jobs = jobs();
        // 500 bytes each, and 1000 bytes a second: one start and one refinement.
        let settings = CameraSettings {
            feedback: crate::camera::FeedbackBound::Kbps(8),
            ..CameraSettings::default()
        };
        (0..10).for_each(|frame| capture_in(&mut jobs, frame, 0, settings));
        ask(&mut jobs, &[1, 2, 3]);
        assert_eq!(work(&mut jobs), ["start 0", "refine 1", "refused 2", "refused 3"]);
        assert_eq!(jobs.take_refused(), [2, 3]);
        (10..36).for_each(|frame| capture_in(&mut jobs, frame, 0, settings));
        ask(&mut jobs, &[30]);
        assert_eq!(work(&mut jobs), ["refine 30"]);
    }

    #[test]
    fn a_flush_forgets_frames_and_jobs_and_the_stream_begins_anew() {
        let mut jobs = jobs();
        (0..10).for_each(|frame| capture(&mut jobs, frame));
        ask(&mut jobs, &[5]);
        jobs.flush_start();
        assert!(work(&mut jobs).is_empty());
        assert_eq!(ask(&mut jobs, &[6]).refused, [(6, Refusal::NoPad)]);
        jobs.flush_stop();
        capture(&mut jobs, 10);
        assert_eq!(ask(&mut jobs, &[7]).refused, [(7, Refusal::Gone)]);
        assert_eq!(work(&mut jobs), ["new segment", "start 10"]);
    }

    #[test]
    fn what_is_accepted_is_done_before_the_end_and_nothing_after_it() {
        let mut jobs = jobs();
        (0..4).for_each(|frame| capture(&mut jobs, frame));
        ask(&mut jobs, &[1, 2]);
        assert!(jobs.eos() && !jobs.eos());
        assert_eq!(ask(&mut jobs, &[3]).refused, [(3, Refusal::NoPad)]);
        assert_eq!(work(&mut jobs), ["start 0", "refine 1", "refine 2", "eos"]);
        jobs.new_stream();
        capture(&mut jobs, 4);
        assert_eq!(work(&mut jobs), ["new stream", "start 4"]);
        jobs.set_active(false);
        assert_eq!(work(&mut jobs), ["end"]);
    }

    #[test]
    fn whoever_comes_later_gets_a_key_frame_and_who_left_for_good_gets_nothing() {
        let mut jobs = jobs();
        (0..6).for_each(|frame| capture(&mut jobs, frame));
        work(&mut jobs);
        ask(&mut jobs, &[1, 2]);
        let Next::Job(Job::Refine(frame, _)) = jobs.next_up() else {
            panic!("a job")
        };
        assert_eq!(jobs.begin(frame, true), Turn::Code { force_idr: false });
        jobs.pushed(Pushed::NotLinked, frame, true, None);
        assert_eq!(jobs.take_refused(), [1]);
        assert_eq!(work(&mut jobs), ["refine 2 idr"]);
        ask(&mut jobs, &[3]);
        jobs.pushed(Pushed::Ended, 2, true, None);
        assert_eq!(work(&mut jobs), ["too late 3"]);
        assert_eq!(ask(&mut jobs, &[4]).refused, [(4, Refusal::NoPad)]);
    }

    #[test]
    fn another_stream_begins_with_nothing_to_ask_for_and_counts_go_on() {
        let mut jobs = jobs();
        (0..6).for_each(|frame| capture(&mut jobs, frame));
        ask(&mut jobs, &[2]);
        work(&mut jobs);
        jobs.begin_stream(SIZE, SIZE, CameraSettings::default(), BOUNDS);
        assert_eq!(ask(&mut jobs, &[4]).refused, [(4, Refusal::Gone)]);
        assert!(jobs.take_refused().is_empty(), "it was never captured in this stream");
        assert_eq!(jobs.stats().0.counts.requests, 2);
        jobs.end_run();
        assert_eq!(jobs.stats().0.ring, (0, 0));
        jobs.begin_run();
        assert_eq!((jobs.stats().0.bytes, jobs.bytes()), (0, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Capture(u64),
        Ask(u64, u8),
        Work(u8),
        Flush,
        Activate(bool),
        Eos,
        NewStream,
        Push(Pushed),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1u64..3).prop_map(Step::Capture),
            4 => (0u64..80, 1u8..4).prop_map(|(behind, frames)| Step::Ask(behind, frames)),
            4 => (1u8..10).prop_map(Step::Work),
            1 => Just(Step::Flush),
            1 => any::<bool>().prop_map(Step::Activate),
            1 => Just(Step::Eos),
            1 => Just(Step::NewStream),
            1 => prop_oneof![Just(Pushed::NotLinked), Just(Pushed::Flushing), Just(Pushed::Ended)].prop_map(Step::Push),
        ]
    }

    proptest! {
        /// Refinements rise, each was requested and is still kept, and nothing grows without bound.
        #[test]
        fn any_history_keeps_the_order_and_the_bounds(steps in prop::collection::vec(step(), 0..200)) {
            let mut jobs = jobs();
            let (mut frame, mut last, mut asked) = (0u64, None, 0usize);
            for step in steps {
                match step {
                    Step::Capture(frames) => for _ in 0..frames {
                        frame += 1;
                        capture(&mut jobs, frame);
                    },
                    Step::Ask(behind, frames) => {
                        let base = frame.saturating_sub(behind);
                        let frames: Vec<u64> = (0..u64::from(frames)).map(|i| base + i).collect();
                        let answer = ask(&mut jobs, &frames);
                        prop_assert!(answer.accepted + answer.refused.len() <= frames.len());
                        asked += answer.accepted;
                    }
                    Step::Work(most) => for _ in 0..most {
                        let Next::Job(job) = jobs.next_up() else { break };
                        if let Job::Refine(frame, request) = job {
                            prop_assert!(last.is_none_or(|last| last < frame), "{frame} behind {last:?}");
                            prop_assert!(!request.regions.is_empty());
                            last = Some(frame);
                            asked -= 1;
                            if let Turn::Code { .. } = jobs.begin(frame, true) {
                                jobs.coded(10, false, Some((1, 0)));
                                jobs.pushed(Pushed::Taken, frame, true, Some((0, frame * FRAME_NS)));
                            }
                        }
                    },
                    Step::Flush => {
                        jobs.flush_start();
                        prop_assert!(matches!(jobs.next_up(), Next::Wait | Next::End));
                        jobs.flush_stop();
                        asked = 0;
                    }
                    Step::Activate(active) => {
                        jobs.set_active(active);
                        if !active {
                            asked = 0;
                        }
                    }
                    Step::Eos => {
                        jobs.eos();
                    }
                    Step::NewStream => jobs.new_stream(),
                    Step::Push(pushed) => jobs.pushed(pushed, frame, true, None),
                }
                prop_assert!(jobs.queue.len() <= MOST_WAITING + 200 && asked <= MOST_WAITING);
                prop_assert!(jobs.stats().0.ring.0 <= BOUNDS.frames as u64);
            }
        }
    }
}
