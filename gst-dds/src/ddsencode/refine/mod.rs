// SPDX-License-Identifier: MPL-2.0

//! The second pass: raw frames that wait for a request, and the thread that codes requested regions.
//!
//! [`Jobs`] decides what to do, and in which order; this module has its locks, its thread and its pad. The first pass
//! never waits for any of this: its thread copies a frame into the ring and continues. Feedback is handled by the
//! thread that delivers it, up to a queue of jobs; coding and pushing are the pad's own task. Frames are always copied,
//! into recycled memory: holding buffers of a camera driver for a round trip would starve its pool, and a copy costs
//! less than a tenth of coding the frame.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use dds_protocol::extension::Extension;
use dds_protocol::feedback::FeedbackState;
use gst::prelude::*;
use gst_dds_link::guard;
use gst_dds_link::sync::{Condvar, Mutex};

use crate::camera::jobs::{Job, Jobs, Kept, Next, Pushed, RefineStats, Turn};
use crate::camera::{CameraSettings, Geometry, RegionStats, Request, SegmentPlace};
use crate::encoder::{Backend, Codec, Fields, OpenError, PixelFormat, Plane};
use crate::picture::Recycler;

use super::log::CAT;
use super::settings::{Settings, TwoPass};

mod coder;
mod frame;
mod output;
pub(super) mod pad;

use frame::{Frame, Raw, Video, segment_of};
use output::Output;

pub(super) use frame::{PAD, TimeSegment};

/// State shared by the threads. Locked for moments only, never while pushing or coding.
#[derive(Default)]
struct Inner {
    /// Two passes are on, from start to stop.
    on: bool,
    pad: glib::WeakRef<gst::Pad>,
    /// Thread of the pad's task.
    task: Option<ThreadId>,
    jobs: Jobs<Arc<Raw>, Arc<TimeSegment>>,
}

impl Inner {
    /// Whether the pad exists and is linked.
    fn linked(&self) -> bool {
        self.pad.upgrade().is_some_and(|pad| pad.is_linked())
    }
}

/// A captured frame on its way into the first pass.
pub(super) struct Captured<'a> {
    pub now: u64,
    pub number: u64,
    pub capture_time_ns: u64,
    pub pts: Option<gst::ClockTime>,
    pub duration: Option<gst::ClockTime>,
    pub segment: Option<&'a TimeSegment>,
    pub place: Option<SegmentPlace>,
    pub settings: CameraSettings,
    /// Fields of an interlaced picture.
    pub fields: Option<Fields>,
    pub planes: &'a [Plane<'a>; 3],
}

/// Passes captured frames to the second pass, between two changes of caps.
pub(super) struct SecondPass {
    refine: Arc<Refine>,
    video: Arc<Video>,
    segment: Arc<TimeSegment>,
}

impl SecondPass {
    /// Begins with new caps: frames before can no longer be requested. The first pass is coded in the size `coded`.
    pub fn new(
        refine: &Arc<Refine>,
        (settings, two_pass, camera): (&Settings, &TwoPass, CameraSettings),
        (info, format): (&gst_video::VideoInfo, PixelFormat),
        coded: Geometry,
        stream_id: u32,
        coder: (Backend, Codec),
    ) -> Self {
        let video = Arc::new(Video {
            info: info.clone(),
            format,
            stream_id,
            coder,
            settings: settings.clone(),
            hold: two_pass.hold,
            frames: Recycler::new(Video::layout(info, format)),
        });
        let mut inner = refine.inner.lock().unwrap();
        inner.jobs.begin_stream(video.size(), coded, camera, two_pass.ring);
        drop(inner);
        Self {
            refine: refine.clone(),
            video,
            segment: Arc::new(TimeSegment::new()),
        }
    }

    /// Registers a frame and copies it, before it is coded. Returns the records of the second pass for its access unit.
    pub fn capture(&mut self, captured: Captured<'_>) -> Extension {
        if let Some(segment) = captured.segment
            && *segment != *self.segment
        {
            self.segment = Arc::new(segment.clone());
        }
        let place = captured.place;
        let frame = Frame {
            video: self.video.clone(),
            number: captured.number,
            capture_time_ns: captured.capture_time_ns,
            pts: captured.pts,
            duration: captured.duration,
            segment: self.segment.clone(),
            place,
            fields: captured.fields,
        };
        Extension {
            segment: place.map(segment_of),
            refused: self.refine.capture(frame, &captured),
            ..Extension::default()
        }
    }

    /// Bytes of the second pass so far.
    pub fn bytes(&self) -> u64 {
        self.refine.inner.lock().unwrap().jobs.bytes()
    }
}

/// The second pass from start to stop.
#[derive(Default)]
pub(super) struct Refine {
    inner: Mutex<Inner>,
    wake: Condvar,
    /// State of the pad's task; taken before `inner` where both are.
    output: Mutex<Output>,
}

impl Refine {
    /// Begins a run, with two passes or one.
    ///
    /// # Errors
    /// The pad exists and one pass is set.
    pub fn start(&self, two_pass: bool) -> Result<(), OpenError> {
        *self.output.lock().unwrap() = Output::default();
        let mut inner = self.inner.lock().unwrap();
        inner.jobs.begin_run();
        inner.on = two_pass;
        if !two_pass && inner.pad.upgrade().is_some() {
            return Err(OpenError::refused(
                "mode",
                "the pad refine was requested, and one pass has nothing for it",
                "Set mode=two-pass, or release the pad",
            ));
        }
        Ok(())
    }

    /// Ends a run and frees all frames.
    pub fn stop(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.jobs.end_run();
        inner.on = false;
        drop(inner);
        self.output.lock().unwrap().close();
    }

    /// Whether two passes are on.
    pub fn is_on(&self) -> bool {
        self.inner.lock().unwrap().on
    }

    /// Makes jobs of the requests in a feedback state.
    pub fn ask(&self, state: &FeedbackState) {
        let mut inner = self.inner.lock().unwrap();
        let linked = inner.linked();
        let asked = inner.jobs.ask(state, linked);
        drop(inner);
        self.wake.notify_all();
        for (frame, refusal) in &asked.refused {
            gst::debug!(CAT, "Frame {frame} is not refined: {refusal:?}");
        }
        if asked.nobody {
            gst::warning!(
                CAT,
                "The server asks for refinements, and the pad refine is not there or not linked: they are refused"
            );
        }
    }

    /// Counts of the second pass, and of regions requested.
    pub fn stats(&self) -> (RefineStats, RegionStats) {
        self.inner.lock().unwrap().jobs.stats()
    }

    /// The next access unit has to be an IDR picture.
    pub fn force_idr(&self) {
        self.inner.lock().unwrap().jobs.force_idr();
    }

    /// The network requests an IDR picture.
    pub fn request_idr(&self) {
        self.inner.lock().unwrap().jobs.request_idr();
    }

    /// Codes the accepted requests, then ends the stream.
    pub fn eos(&self) {
        if self.inner.lock().unwrap().jobs.eos() {
            self.wake.notify_all();
        }
    }

    /// Upstream begins another stream.
    pub fn new_stream(&self) {
        self.inner.lock().unwrap().jobs.new_stream();
    }

    /// Adds or removes the pad.
    pub fn set_pad(&self, pad: Option<&gst::Pad>) {
        let mut inner = self.inner.lock().unwrap();
        inner.pad = glib::WeakRef::new();
        inner.pad.set(pad);
        inner.jobs.new_peer();
    }

    pub fn pad(&self) -> Option<gst::Pad> {
        self.inner.lock().unwrap().pad.upgrade()
    }

    /// Drops everything that waits, and makes the task wait.
    pub fn flush_start(&self, event: gst::Event) {
        let Some(pad) = self.pad() else { return };
        self.inner.lock().unwrap().jobs.flush_start();
        pad.push_event(event);
    }

    /// Lets the task continue.
    pub fn flush_stop(&self, event: gst::Event) {
        let Some(pad) = self.pad() else { return };
        // The push of the task has returned by now, or does so soon; unless the task itself seeks.
        let own = self.inner.lock().unwrap().task == Some(std::thread::current().id());
        if !own {
            drop(self.output.lock().unwrap());
        }
        pad.push_event(event);
        self.inner.lock().unwrap().jobs.flush_stop();
        self.wake.notify_all();
    }

    /// Starts and stops the pad's task.
    pub fn activate(self: &Arc<Self>, pad: &gst::Pad, active: bool, guard: &Arc<guard::Guard>) {
        self.inner.lock().unwrap().jobs.set_active(active);
        self.wake.notify_all();
        if active {
            self.output.lock().unwrap().restart();
        }
        let done = if active {
            let (refine, weak) = (self.clone(), pad.downgrade());
            let guard = guard.clone();
            pad.start_task(move || {
                let Some(pad) = weak.upgrade() else { return };
                // Half-done work is dropped; the next picture is an IDR picture of a new encoder.
                let mend = || refine.output.lock().unwrap().close();
                guard.turn(&pad, || refine.work(&pad), mend);
            })
        } else {
            pad.stop_task()
        };
        if let Err(error) = done {
            gst::error!(CAT, obj = pad, "{error}");
        }
    }

    /// Registers a frame and keeps it while it may be requested. Returns the frames whose refinement was refused.
    fn capture(&self, frame: Frame, captured: &Captured<'_>) -> Vec<u64> {
        let open = {
            let mut inner = self.inner.lock().unwrap();
            let full = frame.video.size();
            inner
                .jobs
                .captured(captured.now, captured.number, captured.settings, full);
            inner.jobs.is_open(inner.linked())
        };
        // Copied without the lock: feedback is not held up.
        let raw = open.then(|| {
            let mut picture = frame.video.frames.take();
            if !picture.copy_from(captured.planes) {
                gst::warning!(CAT, "Frame {}: a plane is too short", frame.number);
            }
            Kept {
                pts: frame.pts.map(gst::ClockTime::nseconds),
                segment: frame.segment.clone(),
                item: Arc::new(Raw {
                    frame,
                    picture,
                    taken: Instant::now(),
                }),
            }
        });
        let mut inner = self.inner.lock().unwrap();
        if let Some(raw) = raw {
            let bytes = raw.item.picture.layout().bytes() as u64;
            inner.jobs.keep(captured.number, bytes, raw);
        }
        let refused = inner.jobs.take_refused();
        drop(inner);
        self.wake.notify_all();
        refused
    }

    /// Waits for the next job; `None`: the task has to end.
    fn next(&self) -> Option<Job<Arc<Raw>, Arc<TimeSegment>>> {
        let mut inner = self.inner.lock().unwrap();
        inner.task = Some(std::thread::current().id());
        loop {
            match inner.jobs.next_up() {
                Next::Job(job) => return Some(job),
                Next::End => return None,
                Next::Wait => inner = self.wake.wait(inner).unwrap(),
            }
        }
    }

    fn work(&self, pad: &gst::Pad) {
        let Some(job) = self.next() else {
            let _ = pad.pause_task();
            return;
        };
        let mut output = self.output.lock().unwrap();
        match job {
            Job::Start(raw) => self.push_unit(&mut output, pad, &raw.frame, None),
            Job::Refine(raw, request) => self.push_unit(&mut output, pad, &raw.frame, Some((&raw, &request))),
            Job::Gap {
                segment,
                from_ns,
                duration_ns,
            } => output.gap(
                pad,
                &segment,
                gst::ClockTime::from_nseconds(from_ns),
                gst::ClockTime::from_nseconds(duration_ns),
            ),
            Job::NewSegment => output.forget_segment(),
            Job::NewStream => output.forget_stream(),
            Job::Eos => output.eos(pad),
        }
    }

    /// Codes a picture and pushes it. Only a permanent failure ends the stream: a peer that comes later gets an IDR
    /// picture.
    fn push_unit(&self, output: &mut Output, pad: &gst::Pad, frame: &Frame, refined: Option<(&Raw, &Request)>) {
        let force_idr = match self.inner.lock().unwrap().jobs.begin(frame.number, refined.is_some()) {
            Turn::Code { force_idr } => force_idr,
            Turn::Refused => {
                gst::debug!(
                    CAT,
                    obj = pad,
                    "Frame {} is not refined: too much was asked for",
                    frame.number
                );
                return;
            }
            Turn::Ended => return,
        };
        if let Err(error) = output.prepare(pad, frame) {
            self.fail(pad, None, &error.to_string(), gst::LibraryError::Settings);
            return;
        }
        let (buffer, idr) = match output.code(frame, refined, force_idr) {
            Ok(coded) => coded,
            Err(error) => {
                self.fail(pad, Some(frame.number), &error, gst::StreamError::Encode);
                return;
            }
        };
        let what = refined.map(|(raw, request)| {
            let delay_ns = u64::try_from(raw.taken.elapsed().as_nanos()).unwrap_or(u64::MAX);
            (request.regions.len(), delay_ns)
        });
        self.inner.lock().unwrap().jobs.coded(buffer.size() as u64, idr, what);
        let pushed = match pad.push(buffer) {
            Ok(_) => Pushed::Taken,
            Err(gst::FlowError::NotLinked) => Pushed::NotLinked,
            Err(gst::FlowError::Flushing) => Pushed::Flushing,
            Err(error) => {
                gst::info!(CAT, obj = pad, "No refinements any more: {error}");
                Pushed::Ended
            }
        };
        let end = frame.pts.map(|pts| {
            let end = pts + frame.duration.unwrap_or(gst::ClockTime::ZERO);
            (frame.segment.clone(), end.nseconds())
        });
        let mut inner = self.inner.lock().unwrap();
        inner.jobs.pushed(pushed, frame.number, refined.is_some(), end);
    }

    fn fail<E: gst::MessageErrorDomain>(&self, pad: &gst::Pad, frame: Option<u64>, message: &str, domain: E) {
        self.inner.lock().unwrap().jobs.failed(frame);
        if let Some(element) = pad.parent_element() {
            gst::element_error!(element, domain, ("refine: {message}"));
        }
    }
}
