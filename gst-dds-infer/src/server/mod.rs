// SPDX-License-Identifier: MPL-2.0

//! The server's decisions, without clock, locks, threads and GStreamer.
//!
//! [`Core`] takes events ([`Event`], with the time `now`) and returns the next action ([`Action`]). It decides the order of
//! frames and serialized events, which frames are inferred, what is requested of the camera, which frames wait for their
//! second pass and until when, and how they go out. It runs no model and reads no picture: frames (`F`), serialized events
//! (`E`) and decoded second passes (`R`) pass through it unchanged.
//!
//! One worker fetches actions, carries each out and answers it before it fetches the next; any thread may add events
//! meanwhile. A frame takes this path: [`Event::Frame`] - [`Action::Infer`] - [`Event::Inferred`] - [`Action::Send`] -
//! [`Event::Sent`] - delayed for [`Event::Arrival`] or its deadline - [`Action::Refine`] - [`Event::Refined`] -
//! [`Action::Push`] - [`Event::Pushed`]; most skip some of these.
//!
//! Times are durations since a fixed but arbitrary moment. The same history gives the same actions.
//!
//! Promises that hold for every input:
//! - Frames and events go out in the order in which they came in, each once; only a flush, a full inbox or a downstream that
//!   refuses frames drops any.
//! - Damaged frames request nothing. A damaged second pass is not inferred.
//! - No frame waits longer than [`SEGMENT_PATIENCE`] plus twice the deadline after the frames before it, and after
//!   [`MISSES`] unanswered requests in a row no frame waits until an answer comes.
//! - The numbers of waiting frames and second passes are bounded.

#![forbid(unsafe_code)]

mod delay;
mod fill;
mod inbox;
mod latency;
mod pace;
mod rate;
mod repeat;
mod segment;
mod stream;
#[cfg(test)]
mod tests;
mod types;

use std::collections::VecDeque;
use std::time::Duration;

use dds_protocol::extension::Bound;
use dds_protocol::feedback::Region;
use dds_protocol::identity::{FrameIdentity, StreamKind};
use dds_protocol::wish::Wishes;

use crate::identity::FrameRecord;
use crate::results::Refined;
use delay::{DelayQueue, Delayed, Entry, Wait};
use fill::Fill;
use inbox::{Inbox, Item};
use latency::Latency;
use pace::Pace;
use rate::Rate;
use segment::OpenSegment;
use stream::Stream;

pub use delay::{MAX_DELAYED, MISSES};
pub use fill::MAX_FILLED;
pub use inbox::{ARRIVALS, CAPACITY, CAPACITY_LIVE};
pub use rate::WISH_TTL;
pub use repeat::{REPEAT, Repetition};
pub use stream::FOREIGN_FRAMES;
pub use types::{
    Action, Arrival, Ask, CoreSettings, Counts, Decoded, Event, Follow, FrameKey, History, Inference, Kind, Look,
    Notice, Outgoing, Predicted, RateStatus, Request,
};

/// Longest wait for the rest of a segment.
pub const SEGMENT_PATIENCE: Duration = Duration::from_secs(2);
/// Frame duration where caps give no frame rate.
const DEFAULT_INTERVAL: Duration = Duration::from_nanos(33_333_333);

/// The frame that the model is inferring.
#[derive(Debug)]
struct Looking {
    record: FrameRecord,
    size: Option<(u32, u32)>,
    /// A second pass can arrive.
    refine: bool,
    ask: Option<Ask>,
    follow: Option<Follow>,
    /// Interval between sent pictures that its objects need.
    interval: u8,
    /// Its results are predicted.
    predicted: Option<Predicted>,
}

/// Decides for one run which frames are inferred, what is requested and when frames go out.
#[derive(Debug)]
pub struct Core<F, E, R> {
    settings: CoreSettings,
    open: bool,
    live: bool,
    /// Downstream takes frames.
    takes: bool,
    refine_linked: bool,
    refine_over: bool,
    pace: Pace,
    latency: Latency,
    interval: Duration,
    inbox: Inbox<F, E, R>,
    delayed: DelayQueue<F, E, R>,
    stream: Stream,
    segment: Option<OpenSegment>,
    rate: Rate,
    fill: Fill,
    /// What the frames so far tell about the next one that is looked at.
    history: History,
    looking: Option<Looking>,
    /// The worker is inferring the second pass of a frame.
    refining: bool,
    /// Frames of the first pass so far.
    index: u64,
    /// The last frame that the feedback policy was asked about, while its memory of that frame is still valid.
    last_asked: Option<u64>,
    /// Caps wait for the first frame, which has the size of the merged picture, and these events wait behind them.
    behind_caps: Option<Vec<E>>,
    pending: VecDeque<Action<F, E, R>>,
    /// The worker is carrying out an action.
    acting: bool,
    counts: Counts,
}

impl<F, E: Clone, R> Core<F, E, R> {
    /// A core that refuses everything until [`Event::Open`].
    pub fn new(settings: CoreSettings) -> Self {
        Self {
            settings,
            open: false,
            live: false,
            takes: true,
            refine_linked: false,
            refine_over: false,
            pace: Pace::default(),
            latency: Latency::default(),
            interval: DEFAULT_INTERVAL,
            inbox: Inbox::default(),
            delayed: DelayQueue::default(),
            stream: Stream::default(),
            segment: None,
            rate: Rate::default(),
            fill: Fill::default(),
            history: History::None,
            looking: None,
            refining: false,
            index: 0,
            last_asked: None,
            behind_caps: None,
            pending: VecDeque::new(),
            acting: false,
            counts: Counts::default(),
        }
    }

    /// Handles an event. Returns `false` where it is refused: while flushing, for a frame that there is no room for, and for
    /// a second pass whose frame is gone.
    pub fn handle(&mut self, now: Duration, event: Event<F, E, R>) -> bool {
        match event {
            Event::Open => self.open(),
            Event::Flush => self.close(),
            Event::Settings(settings) => self.settings = settings,
            Event::Live(live) => self.live = live,
            Event::Latency(latency) => self.pace.latency = latency,
            Event::RefineLinked(linked) => self.refine_linked = linked,
            Event::RefineOver(over) => self.refine_over = over,
            Event::Frame(decoded) => {
                if !self.takes_frame() {
                    return false;
                }
                self.inbox.push(Item::Frame(Box::new(decoded)));
            }
            Event::Serialized(event, kind) => {
                if !self.open {
                    return false;
                }
                self.inbox.push(Item::Event(event, kind));
            }
            Event::Arrival(key, arrival) => return self.arrive(key, arrival),
            Event::Unidentified => self.counts.refine_unidentified += 1,
            Event::Inferred { frame, inference } => self.inferred(now, frame, inference),
            Event::Sent(generation) => self.delayed.note_generation(generation),
            Event::Refined { out, took } => self.refined(out, took),
            Event::Pushed(kept) => self.pace.kept = kept,
            Event::Downstream(takes) => self.takes = takes,
        }
        true
    }

    /// Returns the next action.
    pub fn poll(&mut self, now: Duration) -> Action<F, E, R> {
        let action = self.next(now);
        self.acting = !matches!(action, Action::Wait(_) | Action::Stop);
        action
    }

    /// Whether another frame may come in.
    pub fn takes_frame(&self) -> bool {
        self.open && self.inbox.takes_frame(self.live)
    }

    /// Whether it is flushing and refuses everything.
    pub fn is_closed(&self) -> bool {
        !self.open
    }

    /// Whether anything is waiting or in progress, apart from caps that wait for the first frame.
    pub fn is_busy(&self) -> bool {
        self.acting || !self.inbox.is_empty() || self.delayed.len() > 0 || !self.pending.is_empty()
    }

    /// Whether caps wait for the first frame, which has the size of the merged picture.
    pub fn holds_caps(&self) -> bool {
        self.behind_caps.is_some()
    }

    /// Whether upstream is live.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether the end of the stream is queued: upstream can then no longer receive an error.
    pub fn end_waits(&self) -> bool {
        self.inbox.events().any(|(_, kind)| kind == Kind::End)
    }

    /// Latency to report to the pipeline.
    pub fn latency(&self) -> Duration {
        self.latency.reported()
    }

    /// Counts since construction.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The wish for a rate, and what the camera says about it.
    pub fn rate(&self) -> RateStatus {
        let in_force = self.rate.in_force();
        let (wished, changes) = self.rate.wished();
        RateStatus {
            wished: wished.unwrap_or(0),
            in_force: in_force.map_or(0, |in_force| in_force.interval),
            bound: in_force.map_or(Bound::None, |in_force| in_force.bounds.interval),
            changes,
        }
    }

    /// Number of frames in the inbox, and of frames and events in the delay queue.
    pub fn waiting(&self) -> (usize, usize) {
        (self.inbox.frames(), self.delayed.len())
    }

    /// Answers of the camera that wait for their frames.
    pub fn answers(&self) -> usize {
        self.inbox.arrivals()
    }

    fn open(&mut self) {
        self.close();
        self.open = true;
        self.takes = true;
        self.inbox = Inbox::default();
    }

    fn close(&mut self) {
        self.open = false;
        self.inbox = Inbox::default();
        self.delayed.clear();
        self.stream.flush();
        self.segment = None;
        self.looking = None;
        self.refining = false;
        self.last_asked = None;
        self.history = History::None;
        self.fill.clear();
        self.pending.clear();
        if let Some(events) = &mut self.behind_caps {
            events.clear();
        }
    }

    fn arrive(&mut self, key: FrameKey, arrival: Arrival<R>) -> bool {
        if !self.open {
            return false;
        }
        let refused = matches!(arrival, Arrival::Refused);
        if !refused {
            self.delayed.reset_misses();
        }
        let taken = self.inbox.arrive(key, arrival);
        self.counts.refine_after_the_fact += u64::from(!taken && !refused);
        taken
    }

    fn refine_open(&self) -> bool {
        self.refine_linked && !self.refine_over
    }

    fn next(&mut self, now: Duration) -> Action<F, E, R> {
        loop {
            if !self.open {
                return Action::Stop;
            }
            if let Some(action) = self.pending.pop_front() {
                return action;
            }
            if let Some(out) = self.delayed.pop() {
                self.release(now, out);
                continue;
            }
            let mut until = None;
            if let Some((key, deadline)) = self.delayed.awaited() {
                let arrival = self.inbox.take_arrival(key);
                if arrival.is_some() || deadline <= now || self.refine_over {
                    self.delayed.answer(arrival);
                    continue;
                }
                until = Some(deadline);
            }
            match self.inbox.pop(self.delayed.has_room()) {
                // Downstream refuses frames.
                Some(Item::Frame(_)) if !self.takes => (),
                Some(Item::Frame(decoded)) => self.take_frame(now, *decoded),
                Some(Item::Event(event, kind)) => self.take_event(now, event, kind),
                None => return self.idle(now, until),
            }
        }
    }

    /// Nothing waits: gives out the predicted result that is due, or waits for it, at most `until`.
    fn idle(&mut self, now: Duration, until: Option<Duration>) -> Action<F, E, R> {
        let fills = self.live && self.takes && self.settings.predicted_results;
        let due = fills.then(|| self.fill.due(self.rate.actual().interval, self.interval));
        match due.flatten() {
            Some(due) if due <= now => match self.fill.next() {
                Some(predicted) => {
                    self.counts.predicted += 1;
                    Action::Predict(predicted)
                }
                None => Action::Wait(until),
            },
            due => Action::Wait(until.into_iter().chain(due).min()),
        }
    }

    /// Handles a serialized event in its place among the frames.
    fn take_event(&mut self, now: Duration, event: E, kind: Kind) {
        match kind {
            Kind::Caps { interval } => {
                self.interval = if interval.is_zero() { DEFAULT_INTERVAL } else { interval };
                self.last_asked = None;
                self.history = History::None;
                self.fill.clear();
                self.pending.push_back(Action::Prepare(event.clone()));
            }
            Kind::End => self.close_segment(now),
            Kind::StreamStart | Kind::Other => (),
        }
        self.delayed.push(Entry::Event(event, kind));
    }

    /// Passes a frame of the first pass to the model where it is due, else to the delay queue.
    fn take_frame(&mut self, now: Duration, decoded: Decoded<F>) {
        let waits = self.live && self.inbox.frames() > 0;
        let overtaken = waits && !self.pace.has_time(now, decoded.due, self.interval);
        let recognised = self.stream.recognise(&decoded);
        if recognised.replaced {
            self.replaced();
        }
        self.rate.note(&recognised.record);
        // The interval is one of pictures that were sent.
        let repeated = single(&recognised.record).is_some() && recognised.record.extension.repeated;
        let due = !repeated && self.index.is_multiple_of(u64::from(self.settings.inference_interval));
        self.index += u64::from(!repeated);
        self.counts.frames += 1;
        self.counts.repeated += u64::from(repeated);
        self.counts.not_due += u64::from(!due && !repeated);
        self.counts.skipped += u64::from(due && overtaken);
        let foreign = recognised.foreign.map(|origin| Action::Post(Notice::Foreign(origin)));
        self.pending.extend(foreign);
        let refine = self.refine_open();
        let mut looking = Looking {
            record: recognised.record,
            size: self.stream.full_size().filter(|_| refine),
            refine,
            ask: None,
            follow: None,
            interval: 1,
            predicted: None,
        };
        self.fill_before(&looking.record);
        if !due || overtaken {
            looking.predicted = self.predict(&looking.record);
            return self.delay(now, decoded.frame, &looking, Vec::new());
        }
        looking.ask = self.ask(&looking.record);
        looking.follow = self.follow(&looking.record);
        let look = Look {
            identity: looking.record.identity,
            damaged: looking.record.damaged,
            size: looking.size,
            ask: looking.ask,
            follow: looking.follow,
        };
        self.looking = Some(looking);
        self.pending.push_back(Action::Infer(decoded.frame, look));
    }

    /// Begins another stream: nothing known of the one before applies to it.
    fn replaced(&mut self) {
        self.last_asked = None;
        self.segment = None;
        self.history = History::None;
        self.rate.forget();
        self.fill.clear();
        self.delayed.segment_abandoned();
        self.delayed.reset_misses();
        self.pending.push_back(Action::Forget);
    }

    /// Returns the question to the policy; none for a damaged frame, in which the model finds objects that are not there.
    fn ask(&self, record: &FrameRecord) -> Option<Ask> {
        let identity = record.identity.filter(|_| !record.damaged && self.settings.feedback)?;
        let since = |last| identity.frame.checked_sub(last).and_then(|n| u32::try_from(n).ok());
        Some(Ask {
            frame: identity.frame,
            interval: self.last_asked.map(|last| since(last).unwrap_or(0)),
            moves: identity.kind != StreamKind::Low,
        })
    }

    /// Says how the objects of a frame are followed, where the rate or predicted results need that. They are not followed
    /// through a damaged frame.
    fn follow(&mut self, record: &FrameRecord) -> Option<Follow> {
        let steers = self.settings.feedback && self.settings.feedback_rate && self.rate.is_steerable();
        let follows = steers || self.settings.predicted_results;
        let Some(identity) = single(record).filter(|_| follows && !record.damaged) else {
            if self.history == History::Related {
                self.history = History::Interrupted;
            }
            return None;
        };
        Some(Follow {
            frame: identity.frame,
            history: std::mem::replace(&mut self.history, History::Related),
            frame_time: self.interval,
            actual: self.rate.actual(),
        })
    }

    /// Gives out the predicted results that are missing before a frame.
    fn fill_before(&mut self, record: &FrameRecord) {
        if let Some(identity) = single(record).filter(|_| self.settings.predicted_results) {
            let missing = self.fill.before((identity.stream_id, identity.frame));
            self.counts.predicted += missing.len() as u64;
            self.pending.extend(missing.into_iter().map(Action::Predict));
        }
    }

    /// The prediction for a frame that is not inferred.
    fn predict(&mut self, record: &FrameRecord) -> Option<Predicted> {
        let identity = single(record).filter(|_| self.settings.predicted_results)?;
        let predicted = self.fill.of((identity.stream_id, identity.frame))?;
        self.counts.predicted += u64::from(!predicted.reported);
        Some(predicted)
    }

    /// Handles the inference of a frame of the first pass.
    fn inferred(&mut self, now: Duration, frame: F, inference: Inference) {
        // It began before a flush.
        let Some(mut looking) = self.looking.take() else {
            return;
        };
        let (mut regions, took) = match inference {
            Inference::Done {
                regions,
                took,
                interval,
            } => {
                looking.interval = interval;
                (regions, took)
            }
            Inference::Unreadable => {
                self.counts.unreadable += 1;
                let unasked = Looking {
                    ask: None,
                    follow: None,
                    predicted: self.predict(&looking.record),
                    ..looking
                };
                return self.delay(now, frame, &unasked, Vec::new());
            }
            Inference::Failed => {
                self.counts.failed += 1;
                return;
            }
        };
        self.counts.inferred += 1;
        self.counts.damaged += u64::from(looking.record.damaged);
        self.counts.unidentified += u64::from(looking.record.identity.is_none());
        if let Some(identity) = single(&looking.record).filter(|_| looking.follow.is_none()) {
            // Its own result goes out, though nothing is predicted from it.
            self.fill.of((identity.stream_id, identity.frame));
        }
        self.last_asked = looking.ask.map(|ask| ask.frame);
        if looking.ask.is_none_or(|ask| !ask.moves && !looking.refine) {
            // A second pass could not be received.
            regions.clear();
        }
        self.rate.measure(took);
        self.measure(took);
        self.delay(now, frame, &looking, regions);
    }

    /// Requests the regions of a frame from the camera, and puts the frame into the delay queue.
    fn delay(&mut self, now: Duration, frame: F, looking: &Looking, regions: Vec<Region>) {
        let record = &looking.record;
        let mut delayed = Delayed {
            frame,
            key: record.identity.map(|i| (i.stream_id, i.frame)),
            size: looking.size,
            regions: regions.iter().map(|r| r.rect).collect(),
            generation: None,
            followed: looking.follow.is_some(),
            predicted: looking.predicted,
            wait: Wait::Nothing,
        };
        if let Some(identity) = record.identity.filter(|_| looking.ask.is_some()) {
            delayed.wait = self.request(now, identity, looking, regions);
        }
        let segment = record.extension.segment.filter(|_| looking.refine);
        if segment.is_some_and(|s| s.position.checked_add(1) == Some(s.length)) {
            self.close_segment(now);
            // It is not in the delay queue yet.
            if matches!(delayed.wait, Wait::Segment { .. }) {
                delayed.wait = self.refinement(now);
            }
        }
        self.delayed.push(Entry::Frame(Box::new(delayed)));
        let asks = self.pending.iter().any(|a| matches!(a, Action::Send(r) if r.once));
        if looking.refine && (asks || segment.is_some()) {
            let rest = segment.map_or(0, |s| u32::from(s.length).saturating_sub(1));
            if self
                .latency
                .expect(self.settings.refine_deadline + self.interval * rest)
            {
                self.measure(Duration::ZERO);
            }
        }
    }

    /// Requests the regions of one frame from the camera: at once, or with the rest of its segment. Returns what the frame
    /// waits for.
    fn request(&mut self, now: Duration, identity: FrameIdentity, looking: &Looking, regions: Vec<Region>) -> Wait<R> {
        let low = identity.kind == StreamKind::Low;
        let asks = low && !regions.is_empty();
        let waits = asks && self.delayed.is_worth_waiting();
        let Some(segment) = looking.record.extension.segment.filter(|_| low) else {
            let wishes = self.wishes(identity, looking);
            self.pending.push_back(Action::Send(Request {
                stream_id: identity.stream_id,
                frame: identity.frame,
                regions,
                once: asks,
                wishes,
            }));
            return if waits { self.refinement(now) } else { Wait::Nothing };
        };
        let base = identity.frame.saturating_sub(u64::from(segment.position));
        if self
            .segment
            .as_ref()
            .is_some_and(|open| !open.is(identity.stream_id, base))
        {
            self.close_segment(now);
        }
        let open = self
            .segment
            .get_or_insert_with(|| OpenSegment::new(identity.stream_id, base));
        open.add(segment.position, regions);
        if !waits {
            return Wait::Nothing;
        }
        Wait::Segment {
            until: now + SEGMENT_PATIENCE + self.settings.refine_deadline,
        }
    }

    /// Wishes about the stream; none of a camera of two passes.
    fn wishes(&mut self, identity: FrameIdentity, looking: &Looking) -> Wishes {
        if identity.kind != StreamKind::Single {
            return Wishes::default();
        }
        if !self.settings.feedback_rate {
            return self.rate.wish(1, false, self.interval);
        }
        self.rate.wish(looking.interval, self.live, self.interval)
    }

    fn refinement(&self, now: Duration) -> Wait<R> {
        Wait::Refinement {
            until: now + self.settings.refine_deadline,
        }
    }

    /// Sends the requests collected for the open segment.
    fn close_segment(&mut self, now: Duration) {
        let Some(open) = self.segment.take() else { return };
        self.delayed.segment_requested(now + self.settings.refine_deadline);
        self.pending.extend(open.requests().into_iter().map(Action::Send));
    }

    /// Sends on a frame or an event that left the delay queue.
    fn release(&mut self, now: Duration, out: Entry<F, E, R>) {
        match out {
            Entry::Event(event, kind) => self.release_event(event, kind),
            Entry::Frame(_) if !self.takes => (),
            Entry::Frame(delayed) => self.release_frame(now, *delayed),
        }
    }

    fn release_event(&mut self, event: E, kind: Kind) {
        match kind {
            Kind::Caps { .. } if self.refine_open() => {
                // The first frame has the size of the merged picture and goes out with its own caps.
                self.behind_caps.get_or_insert_default();
                return;
            }
            Kind::End | Kind::StreamStart => {
                if kind == Kind::End {
                    // The stream is over: from here on the server is rightly silent.
                    self.pending.push_back(Action::Forget);
                }
                let behind = self.behind_caps.take().unwrap_or_default();
                self.pending.extend(behind.into_iter().map(Action::Forward));
            }
            Kind::Caps { .. } | Kind::Other => (),
        }
        match &mut self.behind_caps {
            Some(behind) => behind.push(event),
            None => self.pending.push_back(Action::Forward(event)),
        }
    }

    fn release_frame(&mut self, now: Duration, delayed: Delayed<F, R>) {
        if let Some(key) = delayed.key {
            self.counts.refine_after_the_fact += self.inbox.release(key);
            if delayed.followed {
                self.fill.looked(now, key);
            }
        }
        let mut out = Outgoing {
            frame: delayed.frame,
            size: delayed.size,
            refined: Refined::No,
            regions: delayed.regions,
            generation: delayed.generation,
            predicted: delayed.predicted,
            events: self.behind_caps.take().unwrap_or_default(),
        };
        out.refined = match delayed.wait {
            Wait::Nothing | Wait::Segment { .. } | Wait::Refinement { .. } => Refined::No,
            Wait::Expired => Refined::Late,
            Wait::Answered(Arrival::Refused) => Refined::Refused,
            Wait::Answered(Arrival::Damaged) => Refined::Damaged,
            Wait::Answered(Arrival::Refined(refinement)) => {
                self.refining = true;
                self.pending.push_back(Action::Refine(out, refinement));
                return;
            }
        };
        self.push(out);
    }

    /// Handles the inference of a frame with its second pass.
    fn refined(&mut self, mut out: Outgoing<F, E>, took: Option<Duration>) {
        // It began before a flush, or downstream refuses frames.
        if !std::mem::take(&mut self.refining) || !self.takes {
            return;
        }
        out.refined = if took.is_some() { Refined::Yes } else { Refined::Damaged };
        self.measure(took.unwrap_or_default());
        self.push(out);
    }

    fn push(&mut self, out: Outgoing<F, E>) {
        self.counts.add_refined(out.refined);
        self.pending.push_back(Action::Push(out));
    }

    fn measure(&mut self, inference: Duration) {
        if self.live && self.latency.measure(inference) {
            self.pending.push_back(Action::Post(Notice::Latency));
        }
    }
}

/// The identity of a frame of a stream of one pass.
fn single(record: &FrameRecord) -> Option<FrameIdentity> {
    record.identity.filter(|identity| identity.kind == StreamKind::Single)
}
