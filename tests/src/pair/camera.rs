// SPDX-License-Identifier: MPL-2.0

//! The camera end: the real receiver, plan and second pass around modelled encoders.

use dds_protocol::extension::{Extension, Segment};
use dds_protocol::identity::{FrameIdentity, StreamKind};
use dds_protocol::nal::{Codec, SliceCount};
use gstdds::camera::jobs::{Job, Jobs, Kept, Next, Pushed, Turn};
use gstdds::camera::{
    CameraSettings, Capture, Delivery, FeedbackReceiver, FrameMode, KeyFrameRequests, Plan, Reading, ReceivedState,
    Request, SegmentPlace, StreamConfig, StreamPlanner, Way, Ways,
};

use super::model::{self, Encoder, SIZE, Shot};
use super::setup::Setup;
use super::types::{Pass, Time, Unit};
use super::watch::{Planned, Watch};
use crate::noise::Noise;

/// What the second pass keeps of a frame.
#[derive(Clone, Debug)]
struct Raw {
    shot: Shot,
    place: Option<SegmentPlace>,
    captured: Time,
}

/// The second pass and its encoder.
#[derive(Debug)]
struct Second {
    jobs: Jobs<Raw, u32>,
    next_unit: u32,
    segment: Option<u64>,
    coded: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Camera {
    pub stream: u32,
    pub settings: CameraSettings,
    pub receiver: FeedbackReceiver,
    pub planner: StreamPlanner,
    encoder: Encoder,
    key_frames: KeyFrameRequests<()>,
    second: Option<Second>,
    next_frame: u64,
    next_unit: u32,
    /// Time of the camera's clock at a time of the world's.
    clock: (Time, Time),
    noise: Noise,
    /// Share of pictures that are too late to be coded.
    pub late: f64,
}

impl Camera {
    pub fn new(setup: &Setup, stream: u32, now: Time) -> Self {
        let reading = if setup.two_passes {
            Reading::AtOnce
        } else {
            Reading::WithFrames
        };
        let mut receiver = FeedbackReceiver::new(Ways::default(), reading);
        receiver.restart(stream);
        let mut camera = Self {
            stream,
            settings: setup.camera,
            receiver,
            planner: StreamPlanner::new(config(setup), setup.camera),
            encoder: Encoder::new(u64::from(stream), setup.key_int_max),
            key_frames: KeyFrameRequests::default(),
            second: None,
            next_frame: 0,
            next_unit: 0,
            clock: (now, 0),
            noise: Noise(u64::from(stream) + 1),
            late: 0.0,
        };
        if setup.two_passes {
            let mut jobs = Jobs::default();
            jobs.begin_run();
            jobs.set_active(true);
            jobs.begin_stream(SIZE, SIZE, setup.camera, setup.ring);
            camera.second = Some(Second {
                jobs,
                next_unit: 0,
                segment: None,
                coded: 0,
            });
        }
        camera
    }

    /// The same camera opens another encoder, as with new caps.
    pub fn reopen(&mut self, setup: &Setup, stream: u32) {
        self.stream = stream;
        self.receiver.restart(stream);
        self.planner.restart(config(setup));
        self.encoder = Encoder::new(u64::from(stream), setup.key_int_max);
        if let Some(second) = &mut self.second {
            second.jobs.begin_stream(SIZE, SIZE, self.settings, setup.ring);
        }
    }

    /// The camera's clock goes on from another time; what was captured before the seek is flushed or not.
    pub fn seek(&mut self, now: Time, to: Time, flush: bool) {
        self.clock = (now, to);
        if flush {
            self.receiver.flush();
            if let Some(second) = &mut self.second {
                second.jobs.flush_start();
                second.jobs.flush_stop();
            }
        }
    }

    fn time(&self, now: Time) -> Time {
        self.clock.1 + (now - self.clock.0)
    }

    /// A feedback packet arrives.
    pub fn deliver(&mut self, now: Time, way: Way, packet: &[u8], watch: &mut Watch) {
        let delivery = self.receiver.deliver(way, packet);
        let Delivery::Read(_) = delivery else { return };
        let Some(ReceivedState { feedback, news: true }) = self.receiver.take(way) else {
            return;
        };
        let Some(second) = &mut self.second else { return };
        let asked = second.jobs.ask(&feedback, true);
        watch.asked(now, &feedback, &asked, self.next_frame);
    }

    /// Somebody asks for a key frame.
    pub fn request_key_frame(&mut self, pass: Pass) {
        match (&mut self.second, pass) {
            (Some(second), Pass::Second) => second.jobs.request_idr(),
            _ => self.key_frames.request((), |(), ()| ()),
        }
    }

    /// Takes a picture. Gives its access unit, where it is coded.
    pub fn capture(&mut self, now: Time, watch: &mut Watch) -> Option<Unit> {
        let (frame, time) = (self.next_frame, self.time(now));
        self.next_frame += 1;
        self.planner.set_settings(self.settings);
        let late = self.noise.uniform() < self.late;
        let capture = Capture {
            now: time,
            frame,
            late,
            damaged: self.key_frames.is_waiting(),
            changes: false,
            key_frame: !late && self.key_frames.due(time).is_some(),
            refined_bytes: self.second.as_ref().map_or(0, |second| second.jobs.bytes()),
            rois: &[],
        };
        let receiver = &mut self.receiver;
        let plan = self.planner.plan(&capture, |settings, now, frame| {
            receiver.set_settings(*settings);
            receiver.begin_frame(now, frame)
        });
        let plan = match plan {
            Plan::Code(plan) => plan,
            Plan::Skip(_) => return None,
            Plan::Reopen { .. } => unreachable!("there is one size"),
        };
        let (bytes, idr) = self.encoder.code(&plan);
        let shot = model::shot(self.stream, frame, plan.base_qp, plan.offsets);
        let (coded_at, settings, place, in_force) = (
            plan.now,
            *plan.settings,
            plan.segment,
            plan.in_force.filter(|_| plan.tells || idr),
        );
        watch.planned(now, self.stream, &self.settings, &plan, Planned { frame, bytes, idr });
        self.planner.end_frame(coded_at, bytes, idr);
        if idr {
            self.key_frames.coded();
        }
        let mut extension = Extension {
            segment: place.map(segment_of),
            in_force,
            ..Extension::default()
        };
        if let Some(second) = &mut self.second {
            second.jobs.captured(coded_at, frame, settings, SIZE);
            if second.jobs.is_open(true) {
                second.jobs.keep(frame, 1, kept(shot, place, now));
            }
            extension.refused = second.jobs.take_refused();
            watch.named(&extension.refused);
        }
        let kind = if self.second.is_some() {
            StreamKind::Low
        } else {
            StreamKind::Single
        };
        let unit = self.next_unit;
        self.next_unit = self.next_unit.wrapping_add(1);
        Some(access_unit(kind, shot, unit, idr, &extension, now))
    }

    /// The second pass does the next thing. Gives its access unit, where it codes one, or `None` where it waits.
    pub fn work(&mut self, now: Time, watch: &mut Watch) -> Option<Unit> {
        loop {
            let second = self.second.as_mut()?;
            let (raw, request) = match second.jobs.next_up() {
                Next::Wait | Next::End => return None,
                Next::Job(Job::Start(raw)) => (raw, None),
                Next::Job(Job::Refine(raw, request)) => (raw, Some(request)),
                Next::Job(Job::Gap { .. } | Job::NewStream | Job::NewSegment | Job::Eos) => continue,
            };
            let Turn::Code { force_idr } = second.jobs.begin(raw.shot.frame, request.is_some()) else {
                continue;
            };
            return Some(second.code(now, raw, request, force_idr, watch));
        }
    }

    /// Frames in the ring, and refinements that wait for the encoder.
    pub fn held(&self) -> (usize, usize) {
        self.second.as_ref().map_or((0, 0), |second| {
            (second.jobs.stats().0.ring.0 as usize, second.jobs.waiting())
        })
    }

    /// What a frame of now would be called.
    pub fn newest_frame(&self) -> u64 {
        self.next_frame.saturating_sub(1)
    }

    /// What governs frames while all is well.
    pub fn healthy_mode(&self) -> FrameMode {
        if self.settings.steered {
            FrameMode::Steered
        } else {
            FrameMode::Unsteered
        }
    }
}

impl Second {
    fn code(&mut self, now: Time, raw: Raw, request: Option<Request>, forced: bool, watch: &mut Watch) -> Unit {
        let segment = request.as_ref().and(raw.place).map(|place| place.index);
        let idr = forced || self.coded == 0 || segment != self.segment || self.coded.is_multiple_of(250);
        (self.segment, self.coded) = (segment, self.coded + 1);
        let rects: Vec<_> = request
            .iter()
            .flat_map(|request| &request.regions)
            .map(|(rect, _)| *rect)
            .collect();
        let bytes = 200 + 300 * rects.len() as u64 + if idr { 1000 } else { 0 };
        let what = request.is_some().then(|| (rects.len(), now - raw.captured));
        self.jobs.coded(bytes, idr, what);
        self.jobs
            .pushed(Pushed::Taken, raw.shot.frame, request.is_some(), Some((0, now)));
        if let Some(request) = &request {
            watch.refined(raw.shot, request);
        }
        let extension = Extension {
            segment: raw.place.map(segment_of),
            refined: rects,
            ..Extension::default()
        };
        let unit = self.next_unit;
        self.next_unit = self.next_unit.wrapping_add(1);
        access_unit(StreamKind::Refine, raw.shot, unit, idr, &extension, now)
    }
}

fn config(setup: &Setup) -> StreamConfig {
    StreamConfig {
        frame_rate: setup.frame_rate,
        two_passes: setup.two_passes,
        segment_length: setup.segment_length,
        key_int_max: setup.key_int_max,
        ..StreamConfig::new(SIZE)
    }
}

fn kept(shot: Shot, place: Option<SegmentPlace>, captured: Time) -> Kept<Raw, u32> {
    Kept {
        item: Raw { shot, place, captured },
        pts: Some(captured),
        segment: 0,
    }
}

fn segment_of(place: SegmentPlace) -> Segment {
    Segment {
        position: place.position,
        length: place.length,
    }
}

/// An access unit as it is on the wire, but for its slice, which holds a number instead of a picture.
fn access_unit(kind: StreamKind, shot: Shot, unit: u32, idr: bool, extension: &Extension, now: Time) -> Unit {
    // nal_unit_type, then first_mb_in_slice = 0; no byte that would have to be escaped.
    let mut slice = vec![if idr { 0x65 } else { 0x41 }, 0x88];
    slice.extend(
        unit.to_be_bytes()
            .iter()
            .flat_map(|byte| [0x80 | byte >> 4, 0x80 | byte & 15]),
    );
    let mut count = SliceCount::default();
    count.add(Codec::H264, &slice);
    let identity = FrameIdentity {
        kind,
        stream_id: shot.stream,
        frame: shot.frame,
        capture_time_ns: now,
        access_unit: unit,
        recovery: idr,
        slices: count.slices,
        slice_bytes: count.bytes,
        slice_checksum: count.checksum,
    };
    Unit {
        message: identity.to_nal_with(Codec::H264, extension),
        slice,
        shot,
        unit,
        idr,
        sent: now,
    }
}
