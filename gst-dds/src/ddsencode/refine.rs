// SPDX-License-Identifier: MPL-2.0

//! The second pass: raw frames that wait for a request, the pad `refine`, and the thread that codes what is asked for.
//!
//! The first pass never waits for any of this: its thread copies a frame into the ring and goes on. Feedback is acted on
//! by whoever brings it, up to a line of jobs; coding and pushing are the pad's own task. Frames are always copied, into
//! memory that is used again: holding buffers of a camera driver for a round trip would starve its pool, and a copy costs
//! less than a tenth of coding the frame.
//!
//! The stream begins with one IDR picture of nothing but black, so that a sink prerolls and an RTSP server knows the
//! parameter sets before the first request. Where nothing is asked for, GAP events follow the oldest frame in the ring:
//! before that nothing can come any more.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use dds_protocol::extension::{Extension, Segment};
use dds_protocol::feedback::Rect;
use dds_protocol::identity::{FrameIdentity, StreamKind};
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_dds_link::guard;
use gst_dds_link::sync::{Condvar, Mutex};
use gst_video::prelude::*;

use crate::camera::ring::Ring;
use crate::camera::{self, Geometry, KeyFrameRequests, MACROBLOCK, MAX_QP, QpMap, Refusal, Request, Requests, Source};
use crate::encoder::{
    Backend, Codec, EncoderOption, Fields, FrameControls, OpenError, Origin, Picture, PixelFormat, Plane, RateControl,
    RegionEncoder,
};
use crate::picture::{Layout, OwnedPicture, Recycler};
use crate::scale::{Scaler, scaled_size};

use crate::vbv::Vbv;

use super::imp::DdsEncode;
use super::keyframes;
use super::log::{CAT, library_log};
use super::negotiate;
use super::output;
use super::settings::{Settings, TwoPass};
use super::stats::RefineStats;

/// Name of the pad and of its template.
pub(super) const PAD: &str = "refine";
/// Refinements that may wait for the encoder: two of the longest segments.
const QUEUE: usize = 64;
/// Silence on the pad that is said to be silence.
const GAP: gst::ClockTime = gst::ClockTime::from_mseconds(200);

pub(super) type TimeSegment = gst::FormattedSegment<gst::ClockTime>;

/// What both streams are made of between two changes of caps.
pub(super) struct Video {
    info: gst_video::VideoInfo,
    format: PixelFormat,
    stream_id: u32,
    /// What codes the first pass, and the second.
    coder: (Backend, Codec),
    settings: Settings,
    hold: bool,
    frames: Recycler,
}

impl Video {
    fn layout(info: &gst_video::VideoInfo, format: PixelFormat) -> Layout {
        Layout {
            format,
            width: info.width() as usize,
            height: info.height() as usize,
        }
    }

    fn full_range(&self) -> bool {
        self.info.colorimetry().range() == gst_video::VideoColorRange::Range0_255
    }
}

/// Place of a frame in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Number of the segment.
    index: u64,
    record: Segment,
}

/// A captured frame without its picture.
#[derive(Clone)]
struct Frame {
    video: Arc<Video>,
    number: u64,
    capture_time_ns: u64,
    pts: Option<gst::ClockTime>,
    duration: Option<gst::ClockTime>,
    segment: Arc<TimeSegment>,
    place: Option<Place>,
    fields: Option<Fields>,
}

/// A frame in the ring.
struct Raw {
    frame: Frame,
    picture: OwnedPicture,
    taken: Instant,
}

enum Job {
    /// The picture of black that the stream begins with.
    Start(Frame),
    Refine(Arc<Raw>, Request),
    Gap(Arc<TimeSegment>, gst::ClockTime, gst::ClockTime),
    /// Upstream has begun another stream.
    NewStream,
    /// Downstream has forgotten the segment.
    NewSegment,
    Eos,
}

/// State that the threads share. Held for moments only, never while pushing or coding.
#[derive(Default)]
struct Inner {
    /// Two passes are on, from start to stop.
    on: bool,
    pad: glib::WeakRef<gst::Pad>,
    active: bool,
    flushing: bool,
    /// Thread of the pad's task.
    task: Option<ThreadId>,
    /// Downstream wants nothing any more.
    ended: bool,
    eos: bool,
    requests: Option<Requests>,
    ring: Option<Ring<Arc<Raw>>>,
    start: Option<Frame>,
    started: bool,
    queue: VecDeque<Job>,
    force_idr: bool,
    /// Key frames that the network asks for, and the time of the newest captured frame, by which they are granted.
    key_frames: KeyFrameRequests<()>,
    now: u64,
    /// Bytes that refinements may take in any second, 0 = as many as they like, and what they took: when, and how many.
    budget: u64,
    spent: VecDeque<(u64, u64)>,
    /// Segment last pushed, and up to where something or its absence was pushed.
    until: Option<(Arc<TimeSegment>, gst::ClockTime)>,
    warned: bool,
    stats: RefineStats,
}

impl Inner {
    /// Whether what is coded now would go anywhere.
    fn open(&self) -> bool {
        self.active && !self.flushing && !self.ended && !self.eos && self.linked()
    }

    /// Whether the pad is there and leads somewhere.
    fn linked(&self) -> bool {
        self.pad.upgrade().is_some_and(|pad| pad.is_linked())
    }

    /// The silence since the last buffer that has become certain.
    fn gap(&mut self) -> Option<Job> {
        if !self.started || self.ended || self.eos {
            return None;
        }
        let oldest = &self.ring.as_ref()?.oldest()?.frame;
        let (segment, until) = self.until.as_mut()?;
        let start = oldest.pts?;
        if !Arc::ptr_eq(segment, &oldest.segment) {
            (*segment, *until) = (oldest.segment.clone(), start);
            return None;
        }
        let from = *until;
        if start < from + GAP {
            return None;
        }
        *until = start;
        Some(Job::Gap(segment.clone(), from, start - from))
    }

    fn refuse(&mut self, frame: u64, why: Refusal) {
        if let Some(requests) = &mut self.requests {
            requests.refuse(frame, why);
        }
    }

    /// Whether refinements have taken all they may within the last second of captured time.
    fn overspent(&mut self) -> bool {
        let now = self.now;
        // Time that goes back is a seek.
        let past = |at: u64| now < at || now - at >= 1_000_000_000;
        while self.spent.front().is_some_and(|(at, _)| past(*at)) {
            self.spent.pop_front();
        }
        self.budget > 0 && self.spent.iter().map(|(_, bytes)| bytes).sum::<u64>() >= self.budget
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
}

/// What the first pass has to know of the second for one frame.
pub(super) struct Begun {
    pub extension: Extension,
    /// A segment begins: the frame has to be an IDR picture.
    pub segment_starts: bool,
    /// When the server was last heard.
    pub heard: Option<u64>,
}

/// A captured frame on its way into the first pass.
pub(super) struct Capture<'a> {
    pub now: u64,
    pub number: u64,
    pub capture_time_ns: u64,
    pub pts: Option<gst::ClockTime>,
    pub duration: Option<gst::ClockTime>,
    pub segment: Option<TimeSegment>,
    pub settings: camera::Settings,
    /// How the picture is made of fields, where it is.
    pub fields: Option<Fields>,
    pub planes: &'a [Plane<'a>; 3],
}

/// The first pass' part: scaling, segments, and the way into the ring.
pub(super) struct FirstPass {
    refine: Arc<Refine>,
    video: Arc<Video>,
    pub scaler: Option<Scaler>,
    /// Size of the captured picture.
    pub full: Geometry,
    /// Size of the coded picture.
    pub coded: Geometry,
    segment_length: u8,
    first: Option<u64>,
    last_index: Option<u64>,
    segment: Arc<TimeSegment>,
}

impl FirstPass {
    /// Begins with new caps: what came before can be asked for no more.
    pub fn new(
        refine: &Arc<Refine>,
        (settings, two_pass, camera): (&Settings, &TwoPass, camera::Settings),
        info: &gst_video::VideoInfo,
        format: PixelFormat,
        stream_id: u32,
        coder: (Backend, Codec),
    ) -> Self {
        let layout = Video::layout(info, format);
        let full = Geometry {
            width: info.width(),
            height: info.height(),
        };
        let (width, height) = scaled_size(full.width, full.height, two_pass.low_scale);
        let coded = Geometry { width, height };
        let video = Arc::new(Video {
            info: info.clone(),
            format,
            stream_id,
            coder,
            settings: settings.clone(),
            hold: two_pass.hold,
            frames: Recycler::new(layout),
        });
        let mut inner = refine.inner.lock().unwrap();
        match &mut inner.requests {
            Some(requests) => requests.restart(stream_id, full, coded),
            None => inner.requests = Some(Requests::new(stream_id, full, coded, camera)),
        }
        inner.ring = Some(Ring::new(two_pass.ring));
        drop(inner);
        Self {
            refine: refine.clone(),
            video,
            scaler: (coded != full).then(|| Scaler::new(layout, width, height)),
            full,
            coded,
            segment_length: two_pass.segment_length,
            first: None,
            last_index: None,
            segment: Arc::new(TimeSegment::new()),
        }
    }

    /// Takes note of a frame and copies it, before it is coded.
    pub fn begin(&mut self, capture: &Capture<'_>) -> Begun {
        let place = (self.segment_length > 0).then(|| {
            let number = capture.number - *self.first.get_or_insert(capture.number);
            let length = u64::from(self.segment_length);
            Place {
                index: number / length,
                record: Segment {
                    position: (number % length) as u8,
                    length: self.segment_length,
                },
            }
        });
        let index = place.map(|place| place.index);
        let segment_starts = index.is_some() && self.last_index != index;
        self.last_index = index;
        if let Some(segment) = &capture.segment
            && *segment != *self.segment
        {
            self.segment = Arc::new(segment.clone());
        }
        let frame = Frame {
            video: self.video.clone(),
            number: capture.number,
            capture_time_ns: capture.capture_time_ns,
            pts: capture.pts,
            duration: capture.duration,
            segment: self.segment.clone(),
            place,
            fields: capture.fields,
        };
        let (refused, heard) = self.refine.capture(frame, capture);
        Begun {
            extension: Extension {
                segment: place.map(|place| place.record),
                refused,
                ..Extension::default()
            },
            segment_starts,
            heard,
        }
    }

    /// Frames per segment, 0 = none.
    pub fn segment_length(&self) -> u8 {
        self.segment_length
    }

    /// Width and height of the captured picture as the identity says them.
    pub fn full_size(&self) -> Option<(u16, u16)> {
        Some((self.full.width.try_into().ok()?, self.full.height.try_into().ok()?))
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Refine {
    inner: Mutex<Inner>,
    wake: Condvar,
    /// Of the pad's task; taken before `inner` where both are.
    worker: Mutex<Worker>,
}

impl Refine {
    /// Begins a run, with two passes or one.
    ///
    /// # Errors
    /// The pad is there and one pass is asked for.
    pub fn start(&self, two_pass: bool) -> Result<(), OpenError> {
        *self.worker.lock().unwrap() = Worker::default();
        let mut inner = self.inner.lock().unwrap();
        inner.forget();
        (inner.ring, inner.requests) = (None, None);
        (inner.on, inner.warned, inner.force_idr) = (two_pass, false, false);
        inner.key_frames = KeyFrameRequests::default();
        inner.spent.clear();
        inner.stats = RefineStats::default();
        if !two_pass && inner.pad.upgrade().is_some() {
            return Err(OpenError::refused(
                "mode",
                "the pad refine was requested, and one pass has nothing for it",
                "Set mode=two-pass, or release the pad",
            ));
        }
        Ok(())
    }

    /// Ends a run; frees all frames.
    pub fn stop(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.forget();
        (inner.on, inner.ring, inner.requests) = (false, None, None);
        drop(inner);
        self.worker.lock().unwrap().coder = None;
    }

    /// Takes a feedback packet where two passes are on; `false`: it is for somebody else.
    pub fn deliver(&self, source: Source, packet: &[u8]) -> bool {
        let mut guard = self.inner.lock().unwrap();
        let inner = &mut *guard;
        if !inner.on {
            return false;
        }
        let (open, linked) = (inner.open(), inner.linked());
        // Before the first frame no stream has been announced that a packet could name.
        let (Some(requests), Some(ring)) = (&mut inner.requests, &inner.ring) else {
            return true;
        };
        let (outcome, list) = requests.push_feedback(source, packet);
        gst::log!(
            CAT,
            "Feedback of {} bytes by {source:?}: {outcome:?}, {} frames to refine",
            packet.len(),
            list.len()
        );
        for request in list {
            let frame = request.frame;
            let refusal = if open {
                requests.objection(&request)
            } else {
                Some(Refusal::NoPad)
            };
            let refusal = match (refusal, ring.get(frame)) {
                (Some(refusal), _) => refusal,
                (None, None) => Refusal::Gone,
                (None, Some(_)) if inner.queue.len() >= QUEUE => Refusal::Busy,
                (None, Some(raw)) => {
                    requests.accept(frame);
                    inner.queue.push_back(Job::Refine(raw.clone(), request));
                    continue;
                }
            };
            gst::debug!(CAT, "Frame {frame} is not refined: {refusal:?}");
            // Requests that come behind the end of the stream are nobody's mistake.
            if refusal == Refusal::NoPad && !linked && !inner.warned {
                inner.warned = true;
                gst::warning!(
                    CAT,
                    "The server asks for refinements, and the pad refine is not there or not linked: they are refused"
                );
            }
            requests.refuse(frame, refusal);
        }
        drop(guard);
        self.wake.notify_all();
        true
    }

    /// Counts, and those of feedback.
    pub fn stats(&self) -> (RefineStats, camera::Stats) {
        let inner = self.inner.lock().unwrap();
        let mut stats = inner.stats.clone();
        stats.key_frames = inner.key_frames.counts();
        if let Some(ring) = &inner.ring {
            stats.ring = (ring.len() as u64, ring.bytes());
        }
        let mut feedback = camera::Stats::default();
        if let Some(requests) = &inner.requests {
            stats.counts = *requests.counts();
            feedback = requests.stats().clone();
        }
        (stats, feedback)
    }

    /// The next access unit has to be an IDR picture.
    pub fn force_idr(&self) {
        self.inner.lock().unwrap().force_idr = true;
    }

    /// The network asks for an IDR picture.
    fn request_idr(&self) {
        self.inner.lock().unwrap().key_frames.request((), |(), ()| ());
    }

    /// What is accepted is still coded, then the stream ends.
    pub fn eos(&self) {
        let mut inner = self.inner.lock().unwrap();
        if inner.active && !inner.eos {
            inner.eos = true;
            inner.queue.push_back(Job::Eos);
            drop(inner);
            self.wake.notify_all();
        }
    }

    /// Upstream begins another stream.
    pub fn new_stream(&self) {
        let mut inner = self.inner.lock().unwrap();
        if inner.active {
            (inner.eos, inner.started) = (false, false);
            inner.queue.push_back(Job::NewStream);
        }
    }

    /// Takes or gives up the pad.
    pub fn set_pad(&self, pad: Option<&gst::Pad>) {
        let mut inner = self.inner.lock().unwrap();
        inner.pad = glib::WeakRef::new();
        inner.pad.set(pad);
        inner.started = false;
    }

    pub fn pad(&self) -> Option<gst::Pad> {
        self.inner.lock().unwrap().pad.upgrade()
    }

    /// Drops everything that waits, and makes the task wait.
    pub fn flush_start(&self, event: gst::Event) {
        let Some(pad) = self.pad() else { return };
        {
            let mut inner = self.inner.lock().unwrap();
            inner.flushing = true;
            inner.forget();
        }
        pad.push_event(event);
    }

    /// Lets the task go on.
    pub fn flush_stop(&self, event: gst::Event) {
        let Some(pad) = self.pad() else { return };
        // What the task was pushing has come back by now, or does so soon; unless it is the task itself that seeks.
        let own = self.inner.lock().unwrap().task == Some(std::thread::current().id());
        if !own {
            drop(self.worker.lock().unwrap());
        }
        pad.push_event(event);
        let mut inner = self.inner.lock().unwrap();
        inner.forget();
        inner.flushing = false;
        inner.queue.push_back(Job::NewSegment);
        drop(inner);
        self.wake.notify_all();
    }

    /// Starts and stops the pad's task.
    pub fn activate(self: &Arc<Self>, pad: &gst::Pad, active: bool, guard: &Arc<guard::Guard>) {
        {
            let mut inner = self.inner.lock().unwrap();
            (inner.active, inner.flushing) = (active, false);
            if !active {
                inner.forget();
            }
        }
        self.wake.notify_all();
        if active {
            let mut worker = self.worker.lock().unwrap();
            *worker = Worker {
                access_unit: worker.access_unit,
                ..Worker::default()
            };
        }
        let done = if active {
            let (refine, weak) = (self.clone(), pad.downgrade());
            let guard = guard.clone();
            pad.start_task(move || {
                let Some(pad) = weak.upgrade() else { return };
                // What was left half done is not gone on with; the next picture is an IDR picture of a new encoder.
                let mend = || refine.worker.lock().unwrap().coder = None;
                guard.turn(&pad, || refine.work(&pad), mend);
            })
        } else {
            pad.stop_task()
        };
        if let Err(error) = done {
            gst::error!(CAT, obj = pad, "{error}");
        }
    }

    /// Notes a frame, keeps it while somebody may ask for it, and returns what the first pass has to know.
    fn capture(&self, frame: Frame, capture: &Capture<'_>) -> (Vec<u64>, Option<u64>) {
        let open = {
            let mut inner = self.inner.lock().unwrap();
            inner.now = capture.now;
            let full = Geometry {
                width: frame.video.info.width(),
                height: frame.video.info.height(),
            };
            let bound = capture.settings.feedback.kbps(full, capture.settings.frame_rate);
            inner.budget = u64::from(bound) * 125;
            if let Some(requests) = &mut inner.requests {
                requests.captured(capture.now, capture.number, capture.settings);
            }
            inner.open()
        };
        // Copied without the lock: feedback goes on.
        let raw = open.then(|| {
            let mut picture = frame.video.frames.take();
            if !picture.copy_from(capture.planes) {
                gst::warning!(CAT, "Frame {}: a plane is too short", frame.number);
            }
            let taken = Instant::now();
            Arc::new(Raw {
                frame: frame.clone(),
                picture,
                taken,
            })
        });
        let mut guard = self.inner.lock().unwrap();
        let inner = &mut *guard;
        if open && !inner.started && inner.start.is_none() {
            inner.start = Some(frame);
        }
        if let (Some(raw), Some(ring)) = (raw, &mut inner.ring) {
            let bytes = raw.picture.layout().bytes() as u64;
            ring.push(capture.number, capture.now, bytes, raw);
            inner.stats.ring_copied += 1;
        }
        let known = match &mut inner.requests {
            Some(requests) => (requests.take_refused(), requests.heard()),
            None => (Vec::new(), None),
        };
        drop(guard);
        self.wake.notify_all();
        known
    }

    /// Bytes coded so far.
    pub fn bytes(&self) -> u64 {
        self.inner.lock().unwrap().stats.bytes
    }

    /// Waits for something to do; `None`: the task has to end.
    fn next(&self) -> Option<Job> {
        let mut inner = self.inner.lock().unwrap();
        inner.task = Some(std::thread::current().id());
        loop {
            if !inner.active {
                return None;
            }
            if inner.flushing {
                inner = self.wake.wait(inner).unwrap();
                continue;
            }
            // What announces the stream of that frame comes first.
            let announced = !matches!(inner.queue.front(), Some(Job::NewStream | Job::NewSegment));
            if announced && let Some(frame) = inner.start.take() {
                inner.started = true;
                return Some(Job::Start(frame));
            }
            if let Some(job) = inner.queue.pop_front() {
                return Some(job);
            }
            if let Some(gap) = inner.gap() {
                return Some(gap);
            }
            inner = self.wake.wait(inner).unwrap();
        }
    }

    fn work(&self, pad: &gst::Pad) {
        let Some(job) = self.next() else {
            let _ = pad.pause_task();
            return;
        };
        let mut worker = self.worker.lock().unwrap();
        match job {
            Job::Start(frame) => self.push_unit(&mut worker, pad, &frame, None),
            Job::Refine(raw, request) => self.push_unit(&mut worker, pad, &raw.frame, Some((&raw, &request))),
            Job::Gap(segment, from, duration) => {
                worker.announce(pad, &segment);
                pad.push_event(gst::event::Gap::builder(from).duration(duration).build());
            }
            Job::NewSegment => worker.segment = None,
            Job::NewStream => (worker.stream_started, worker.segment) = (false, None),
            Job::Eos => {
                worker.start_stream(pad);
                pad.push_event(gst::event::Eos::new());
            }
        }
    }

    /// Codes a picture and pushes it. Only what cannot go on ends the stream: a peer that comes later gets an IDR picture.
    fn push_unit(&self, worker: &mut Worker, pad: &gst::Pad, frame: &Frame, refined: Option<(&Raw, &Request)>) {
        if self.inner.lock().unwrap().ended {
            return;
        }
        if worker
            .coder
            .as_ref()
            .is_none_or(|coder| !Arc::ptr_eq(&coder.video, &frame.video))
        {
            worker.start_stream(pad);
            if let Err(error) = worker.open(pad, &frame.video) {
                self.fail(pad, &error.to_string(), gst::LibraryError::Settings);
                return;
            }
        }
        if refined.is_some() && self.inner.lock().unwrap().overspent() {
            gst::debug!(
                CAT,
                obj = pad,
                "Frame {} is not refined: too much was asked for",
                frame.number
            );
            self.inner.lock().unwrap().refuse(frame.number, Refusal::Busy);
            return;
        }
        worker.announce(pad, &frame.segment);
        let forced = {
            let mut inner = self.inner.lock().unwrap();
            let now = inner.now;
            inner.key_frames.due(now).is_some() | std::mem::take(&mut inner.force_idr)
        };
        let coded = worker.code(frame, refined, forced);
        let (buffer, idr) = match coded {
            Ok(coded) => coded,
            Err(error) => {
                self.inner.lock().unwrap().refuse(frame.number, Refusal::Failed);
                self.fail(pad, &error, gst::StreamError::Encode);
                return;
            }
        };
        {
            let mut inner = self.inner.lock().unwrap();
            let spent = (inner.now, buffer.size() as u64);
            inner.spent.push_back(spent);
            let stats = &mut inner.stats;
            stats.bytes += buffer.size() as u64;
            stats.idr += u64::from(idr);
            if idr {
                inner.key_frames.coded();
            }
            let stats = &mut inner.stats;
            if let Some((raw, request)) = refined {
                stats.frames_coded += 1;
                stats.regions += request.regions.len() as u64;
                let delay = u64::try_from(raw.taken.elapsed().as_nanos()).unwrap_or(u64::MAX);
                stats.delay.record(delay, 0);
            }
        }
        let flow = pad.push(buffer);
        let mut inner = self.inner.lock().unwrap();
        match flow {
            Ok(_) => {
                if let Some(pts) = frame.pts {
                    let end = pts + frame.duration.unwrap_or(gst::ClockTime::ZERO);
                    inner.until = Some((frame.segment.clone(), end));
                }
            }
            Err(gst::FlowError::NotLinked) => {
                (inner.force_idr, inner.started) = (true, false);
                if refined.is_some() {
                    inner.refuse(frame.number, Refusal::NoPad);
                }
            }
            Err(gst::FlowError::Flushing) => inner.force_idr = true,
            Err(error) => {
                gst::info!(CAT, obj = pad, "No refinements any more: {error}");
                inner.ended = true;
            }
        }
    }

    fn fail<E: gst::MessageErrorDomain>(&self, pad: &gst::Pad, message: &str, domain: E) {
        self.inner.lock().unwrap().ended = true;
        if let Some(element) = pad.parent_element() {
            gst::element_error!(element, domain, ("refine: {message}"));
        }
    }
}

/// What the pad's task keeps between jobs.
#[derive(Default)]
struct Worker {
    stream_started: bool,
    segment: Option<Arc<TimeSegment>>,
    coder: Option<Coder>,
    access_unit: u32,
}

impl Worker {
    fn start_stream(&mut self, pad: &gst::Pad) {
        if std::mem::replace(&mut self.stream_started, true) {
            return;
        }
        let upstream = pad
            .parent_element()
            .and_then(|element| element.static_pad("sink"))
            .and_then(|sink| sink.sticky_event::<gst::event::StreamStart>(0));
        let (id, group) = match &upstream {
            Some(event) => (format!("{}/{PAD}", event.stream_id()), event.group_id()),
            None => (format!("{}/{PAD}", pad.parent().map_or("".into(), |p| p.name())), None),
        };
        let event = gst::event::StreamStart::builder(&id);
        pad.push_event(match group {
            Some(group) => event.group_id(group).build(),
            None => event.build(),
        });
        if let Some(caps) = self.coder.as_ref().map(|coder| &coder.caps) {
            pad.push_event(gst::event::Caps::new(caps));
        }
    }

    /// Sees to it that stream and segment are known downstream.
    fn announce(&mut self, pad: &gst::Pad, segment: &Arc<TimeSegment>) {
        self.start_stream(pad);
        if self.segment.as_ref().is_none_or(|known| !Arc::ptr_eq(known, segment)) {
            pad.push_event(gst::event::Segment::new(segment.as_ref()));
            self.segment = Some(segment.clone());
        }
    }

    fn open(&mut self, pad: &gst::Pad, video: &Arc<Video>) -> Result<(), OpenError> {
        let coder = Coder::open(pad, video)?;
        pad.push_event(gst::event::Caps::new(&coder.caps));
        self.coder = Some(coder);
        Ok(())
    }

    /// The access unit of a frame, and whether it is an IDR picture.
    fn code(
        &mut self,
        frame: &Frame,
        refined: Option<(&Raw, &Request)>,
        forced: bool,
    ) -> Result<(gst::Buffer, bool), String> {
        let coder = self.coder.as_mut().ok_or("There is no encoder")?;
        let (data, idr) = coder.code(frame, refined, forced, self.access_unit)?;
        self.access_unit = self.access_unit.wrapping_add(1);
        let mut buffer = gst::Buffer::from_mut_slice(data);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(frame.pts);
            buffer.set_dts(frame.pts);
            buffer.set_duration(frame.duration);
            if !idr {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
        }
        Ok((buffer, idr))
    }
}

/// The second encoder and its canvas.
struct Coder {
    video: Arc<Video>,
    caps: gst::Caps,
    encoder: Box<dyn RegionEncoder>,
    byte_stream: bool,
    canvas: OwnedPicture,
    /// What the canvas shows besides black, and has to lose before the next picture.
    painted: Vec<Rect>,
    map: QpMap,
    next_pts: i64,
    since_idr: u64,
    segment: Option<u64>,
}

impl Coder {
    fn open(pad: &gst::Pad, video: &Arc<Video>) -> Result<Self, OpenError> {
        let settings = &video.settings;
        // Not what the pad allows: once it has caps, that is these.
        let allowed = pad.is_linked().then(|| pad.peer_query_caps(Some(&negotiate::SRC_CAPS)));
        let (backend, codec) = video.coder;
        let choice = negotiate::choose(allowed.as_ref(), codec, video.format, settings.byte_stream())?;
        let mut config = negotiate::config(settings, &video.info, video.format, &choice);
        // Whatever the first pass does: the quantizers asked for, exactly.
        config.rate = RateControl::Quantizers { base_qp: MAX_QP };
        (config.vbv, config.vbv_may_change) = (Vbv::OPEN, false);
        // Macroblocks of interlaced video come in pairs, in another order.
        config.still_parts = config.interlaced.is_none();
        if backend == Backend::X264 {
            // Regions come and go: nothing to be found by looking for fades and cuts.
            config.options.extend(["weightp", "scenecut"].map(|key| EncoderOption {
                origin: Origin::Property("mode"),
                key: key.into(),
                value: Some("0".into()),
            }));
        }
        let encoder = backend.open(&config, library_log(pad))?;
        let mut caps = negotiate::output_caps(&choice, video.format, &encoder.parameter_sets());
        negotiate::describe_video(&mut caps, &video.info);
        let mut canvas = OwnedPicture::new(Video::layout(&video.info, video.format));
        canvas.fill_black(&EVERYTHING, video.full_range());
        Ok(Self {
            caps,
            byte_stream: choice.byte_stream,
            canvas,
            painted: Vec::new(),
            map: QpMap::new(Geometry {
                width: video.info.width(),
                height: video.info.height(),
            }),
            next_pts: 0,
            since_idr: 0,
            segment: None,
            video: video.clone(),
            encoder,
        })
    }

    fn code(
        &mut self,
        frame: &Frame,
        refined: Option<(&Raw, &Request)>,
        forced: bool,
        access_unit: u32,
    ) -> Result<(Vec<u8>, bool), String> {
        let segment = refined.and(frame.place).map(|place| place.index);
        let force_idr =
            forced || self.next_pts == 0 || segment != self.segment || self.since_idr + 1 >= self.encoder.key_int_max();
        self.segment = segment;
        let full_range = self.video.full_range();
        let mb_width = self.video.info.width().div_ceil(MACROBLOCK) as usize;
        self.encoder.still().fill(1);
        for rect in self.painted.drain(..) {
            self.canvas.fill_black(&rect, full_range);
            changed(self.encoder.still(), mb_width, &rect);
        }
        // What lies outside is paid for in an IDR picture, and worth nothing.
        if self.video.hold && force_idr {
            self.canvas.fill_black(&EVERYTHING, full_range);
        }
        let (_, highest) = self.video.settings.live().limits;
        let outside_qp = refined.map_or(MAX_QP, |(_, request)| request.outside_qp);
        // Where qp-max lies below: the coarsest allowed that differs by an even number.
        let outside_qp = if outside_qp <= highest {
            outside_qp
        } else {
            highest - (outside_qp - highest) % 2
        };
        self.map.begin(outside_qp, 1.0);
        let mut extension = Extension {
            segment: frame.place.map(|place| place.record),
            ..Extension::default()
        };
        if let Some((raw, request)) = refined {
            for (rect, qp) in &request.regions {
                self.canvas.copy_rect(&raw.picture, rect);
                self.map.add(*rect, *qp);
                changed(self.encoder.still(), mb_width, rect);
                extension.refined.push(*rect);
                if !self.video.hold {
                    self.painted.push(*rect);
                }
            }
        }
        let (base_qp, offsets) = self.map.finish();
        let controls = FrameControls {
            base_qp,
            offsets,
            force_idr,
        };
        let picture = Picture {
            planes: self.canvas.planes(),
            pts: self.next_pts,
        };
        self.next_pts += 1;
        if let Some(fields) = frame.fields {
            self.encoder.set_fields(fields).map_err(|e| e.to_string())?;
        }
        let unit = self.encoder.encode(&picture, &controls).map_err(|e| e.to_string())?;
        let codec = self.video.coder.1;
        let count = output::count_slices(codec, &unit);
        let identity = FrameIdentity {
            kind: StreamKind::Refine,
            stream_id: self.video.stream_id,
            frame: frame.number,
            capture_time_ns: frame.capture_time_ns,
            access_unit,
            recovery: unit.idr,
            slices: count.slices,
            slice_bytes: count.bytes,
            slice_checksum: count.checksum,
        };
        self.since_idr = if unit.idr { 0 } else { self.since_idr + 1 };
        let data = output::assemble(codec, &unit, &identity, &extension, self.byte_stream);
        Ok((data, unit.idr))
    }
}

/// Takes the macroblocks of a rectangle on their grid out of those that are as before.
fn changed(still: &mut [u8], mb_width: usize, rect: &Rect) {
    let macroblocks = |pixels: u32| (pixels / MACROBLOCK) as usize;
    let (left, right) = (macroblocks(rect.x), macroblocks(rect.x + rect.width).min(mb_width));
    let rows = still.chunks_mut(mb_width).skip(macroblocks(rect.y));
    for row in rows.take(macroblocks(rect.height)) {
        if let Some(row) = row.get_mut(left..right) {
            row.fill(0);
        }
    }
}

const EVERYTHING: Rect = Rect {
    x: 0,
    y: 0,
    width: u32::MAX,
    height: u32::MAX,
};

impl DdsEncode {
    /// The `refine` pad.
    pub(super) fn refine_pad(&self, template: &gst::PadTemplate) -> gst::Pad {
        let refine = self.refine.clone();
        let guard = Arc::new(guard::Guard::of("the pad refine", Some(self.obj().upcast_ref())));
        gst::Pad::builder_from_template(template)
            .name(PAD)
            .flags(gst::PadFlags::FIXED_CAPS)
            .activatemode_function(move |pad, _, mode, active| {
                if mode == gst::PadMode::Push {
                    let panicked = Err(gst::loggable_error!(CAT, "A fault was caught"));
                    guard.run(panicked, || {
                        refine.activate(pad, active, &guard);
                        Ok(())
                    })
                } else {
                    Err(gst::loggable_error!(CAT, "{PAD} pushes only"))
                }
            })
            .event_function(|_, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.refine_event(event))
            })
            // Latency, position and duration are those of the video; a pad of feedback has none.
            .iterate_internal_links_function(|_, parent| {
                let sink = parent
                    .and_then(|parent| parent.downcast_ref::<gst::Element>())
                    .and_then(|element| element.static_pad("sink"));
                gst::Iterator::from_vec(sink.into_iter().collect())
            })
            .build()
    }

    fn refine_event(&self, event: gst::Event) -> bool {
        if let Some(packet) = gst_dds_link::event::take(&event) {
            self.deliver(Source::Event, &packet);
            return true;
        }
        if keyframes::is_from_network(&event) {
            self.refine.request_idr();
            return true;
        }
        if gst_video::UpstreamForceKeyUnitEvent::parse(&event).is_ok() {
            self.refine.force_idr();
            return true;
        }
        match event.type_() {
            // What is late here says nothing about the first pass.
            gst::EventType::Qos | gst::EventType::Reconfigure => true,
            _ => self.obj().sink_pad().push_event(event),
        }
    }

    /// Adds the `refine` pad to the element, or says why not.
    pub(super) fn request_refine(&self, template: &gst::PadTemplate) -> Option<gst::Pad> {
        let obj = self.obj();
        if self.settings.lock().unwrap().two_pass().is_none() {
            gst::error!(
                CAT,
                imp = self,
                "The pad refine needs two passes: set mode=two-pass before it is requested"
            );
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Settings,
                ("mode: the pad refine was requested in mode=one-pass, which has nothing for it. Set mode=two-pass first.")
            );
            return None;
        }
        if self.refine.pad().is_some() {
            gst::error!(CAT, imp = self, "There is one refine pad only; use a tee behind it");
            return None;
        }
        let pad = self.refine_pad(template);
        self.refine.set_pad(Some(&pad));
        if obj.current_state() > gst::State::Ready {
            let _ = pad.set_active(true);
        }
        if obj.add_pad(&pad).is_err() {
            self.refine.set_pad(None);
            let _ = pad.set_active(false);
            return None;
        }
        Some(pad)
    }
}
