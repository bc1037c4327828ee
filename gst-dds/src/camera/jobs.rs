// SPDX-License-Identifier: MPL-2.0

//! What the second pass has to do, and in which order.
//!
//! ```text
//! captured(..), keep(..)      a frame goes into the first pass, and may be asked for from now on
//! ask(state)                  feedback names frames: each is a job, or refused
//! next()                   -> the next thing to do: a picture to code, silence to tell, an event to send
//! begin(frame)             -> whether it is still to be coded, and as what
//! coded(..), pushed(..)       what it took, and what became of it downstream
//! ```
//!
//! The stream begins with one picture that nothing was asked for, so that a sink prerolls. Where nothing is asked for,
//! silence follows the oldest frame that is kept: before that nothing can come any more. Whatever is refused is named in
//! the first pass ([`Requests::take_refused`]). Nothing here reads a clock or waits.

use std::collections::VecDeque;

use dds_protocol::feedback::FeedbackState;

use super::keyframes::{KeyFrameCounts, KeyFrameRequests};
use super::requests::{RefineCounts, Refusal, Request, Requests};
use super::ring::{Bounds, Ring};
use super::stats::{DelayStats, RegionStats};
use super::types::{CameraSettings, Geometry};

/// Refinements that may wait for the encoder: two of the longest segments.
const MOST_WAITING: usize = 64;
/// Silence that is told, in nanoseconds.
const GAP_NS: u64 = 200_000_000;
/// The second in which refinements may take so much.
const SECOND_NS: u64 = 1_000_000_000;

/// A frame that may be asked for: a picture of the caller's, `F`, at a time in a segment `S` of time.
#[derive(Clone, Debug)]
pub struct Kept<F, S> {
    /// The caller's.
    pub item: F,
    /// Its time in nanoseconds.
    pub pts: Option<u64>,
    /// The segment that time lies in.
    pub segment: S,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Job<F, S> {
    /// The picture that the stream begins with.
    Start(F),
    /// Code what was asked for of a frame.
    Refine(F, Request),
    /// Nothing comes for this time.
    Gap {
        /// Segment of the time.
        segment: S,
        /// When the silence begins, in nanoseconds.
        from_ns: u64,
        /// How long it lasts, in nanoseconds.
        duration_ns: u64,
    },
    /// Upstream has begun another stream.
    NewStream,
    /// Downstream has forgotten the segment.
    NewSegment,
    /// The stream ends.
    Eos,
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Next<F, S> {
    /// This.
    Job(Job<F, S>),
    /// Nothing yet.
    Wait,
    /// Nothing any more.
    End,
}

/// How a picture is to be coded whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Code it.
    Code {
        /// As an IDR picture.
        force_idr: bool,
    },
    /// It has been refused: refinements have taken all they may.
    Refused,
    /// Downstream wants nothing any more.
    Ended,
}

/// What became downstream of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was taken.
    Taken,
    /// Nobody is there.
    NotLinked,
    /// It was thrown away.
    Flushing,
    /// Downstream wants nothing any more.
    Ended,
}

/// What came of a state that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Frames that are going to be refined.
    pub accepted: usize,
    /// Frames that are not, with the reason.
    pub refused: Vec<(u64, Refusal)>,
    /// Nobody is there to take them, for the first time in this run.
    pub nobody: bool,
}

/// Counts of the second pass.
#[derive(Clone, Debug, Default)]
pub struct RefineStats {
    /// Requests and what became of them.
    pub counts: RefineCounts,
    /// Frames coded for a request.
    pub frames_coded: u64,
    /// Rectangles in them.
    pub regions: u64,
    /// Bytes of all access units.
    pub bytes: u64,
    /// IDR pictures, the one at the start included.
    pub idr: u64,
    /// Those that the network asked for.
    pub key_frames: KeyFrameCounts,
    /// Frames and bytes that are kept now.
    pub ring: (u64, u64),
    /// Frames copied, to be kept.
    pub ring_copied: u64,
    /// Time from capture to the coded refinement.
    pub delay: DelayStats,
}

/// The second pass of one run. See the [module](self).
#[derive(Debug)]
pub struct Jobs<F, S> {
    /// Somebody works.
    active: bool,
    flushing: bool,
    /// Downstream wants nothing any more.
    ended: bool,
    eos: bool,
    requests: Option<Requests>,
    ring: Option<Ring<Kept<F, S>>>,
    /// Picture that the stream is to begin with.
    start: Option<F>,
    started: bool,
    queue: VecDeque<Job<F, S>>,
    force_idr: bool,
    /// Key frames that the network asks for, granted by the time of the newest captured frame.
    key_frames: KeyFrameRequests<()>,
    now: u64,
    /// Bytes that refinements may take in any second, 0 = as many as they like, and what they took: when, and how many.
    budget: u64,
    spent: VecDeque<(u64, u64)>,
    /// Segment last pushed, and up to where something or its absence was pushed.
    until: Option<(S, u64)>,
    /// That nobody takes refinements has been told.
    told: bool,
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
            told: false,
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

    /// Ends a run: all frames are let go. Counts stay.
    pub fn end_run(&mut self) {
        self.forget();
        (self.ring, self.requests) = (None, None);
    }

    /// Begins a stream, whose pictures are captured in one size and coded in another: what came before can be asked for no
    /// more.
    pub fn begin_stream(&mut self, full: Geometry, coded: Geometry, settings: CameraSettings, bounds: Bounds) {
        match &mut self.requests {
            Some(requests) => requests.restart(full, coded),
            None => self.requests = Some(Requests::new(full, coded, settings)),
        }
        self.ring = Some(Ring::new(bounds));
    }

    /// Whether what is coded now would go anywhere. `linked`: somebody takes it.
    pub fn is_open(&self, linked: bool) -> bool {
        self.active && !self.flushing && !self.ended && !self.eos && linked
    }

    /// Says that the frame of this number is about to be coded in the first pass, with these settings, at the running time
    /// `now`; `full` is the size of the captured picture.
    pub fn captured(&mut self, now: u64, frame: u64, settings: CameraSettings, full: Geometry) {
        self.now = now;
        self.budget = u64::from(settings.feedback.kbps(full, settings.frame_rate)) * 125;
        if let Some(requests) = &mut self.requests {
            requests.captured(frame, settings);
        }
    }

    /// Keeps a captured frame of so many bytes, which may be asked for from now on.
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

    /// Makes jobs of what feedback asks for.
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
            // Requests that come behind the end of the stream are nobody's mistake.
            asked.nobody |= refusal == Refusal::NoPad && !linked && !std::mem::replace(&mut self.told, true);
            asked.refused.push((frame, refusal));
            requests.refuse(frame, refusal);
        }
        asked
    }

    /// The next thing to do.
    pub fn next(&mut self) -> Next<F, S> {
        if !self.active {
            return Next::End;
        }
        if self.flushing {
            return Next::Wait;
        }
        // What announces the stream of that picture comes first.
        let announced = !matches!(self.queue.front(), Some(Job::NewStream | Job::NewSegment));
        if announced && let Some(frame) = self.start.take() {
            self.started = true;
            return Next::Job(Job::Start(frame));
        }
        let job = self.queue.pop_front().or_else(|| self.gap());
        job.map_or(Next::Wait, Next::Job)
    }

    /// The silence since the last picture that has become certain.
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

    /// Whether the picture of a job is still to be coded; `refined`: it was asked for.
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

    /// Whether refinements have taken all they may within the last second of captured time.
    fn is_overspent(&mut self) -> bool {
        let now = self.now;
        // Time that goes back is a seek.
        let past = |at: u64| now < at || now - at >= SECOND_NS;
        while self.spent.front().is_some_and(|(at, _)| past(*at)) {
            self.spent.pop_front();
        }
        self.budget > 0 && self.spent.iter().map(|(_, bytes)| bytes).sum::<u64>() >= self.budget
    }

    /// Says what a picture has come to: its bytes, and where it was asked for, the rectangles in it and the time since it
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

    /// Says what became downstream of a picture, which ends at this time in this segment.
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

    /// Says that nothing can be coded any more.
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

    /// The network asks for an IDR picture.
    pub fn request_idr(&mut self) {
        self.key_frames.request((), |(), ()| ());
    }

    /// What is accepted is still coded, then the stream ends. Whether there is something to do.
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

    /// Somebody else takes the stream: it begins anew for them.
    pub fn new_peer(&mut self) {
        self.started = false;
    }

    /// Somebody works, or stops. What waits is dropped where they stop.
    pub fn set_active(&mut self, active: bool) {
        (self.active, self.flushing) = (active, false);
        if !active {
            self.forget();
        }
    }

    /// Drops everything that waits; nothing is to be done before [`Self::flush_stop`].
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

    /// Bytes coded so far.
    pub fn bytes(&self) -> u64 {
        self.stats.bytes
    }

    /// Counts of the second pass, and of the regions that were asked for.
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
