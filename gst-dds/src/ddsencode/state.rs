// SPDX-License-Identifier: MPL-2.0

//! One captured picture: plans it, and where it is to be coded, keeps it for the second pass, codes it and accounts for
//! it.

#![forbid(unsafe_code)]

use dds_protocol::extension::Extension;
use gst_dds_link::report::ReceiverReport;
use gst_dds_link::sync::Mutex;
use gst_video::prelude::*;

use crate::camera::timeline::Timeline;
use crate::camera::wake::{Luma, Wake};
use crate::camera::{Capture, FeedbackReceiver, FramePlan, Notice, Plan, RoiRequest, Skip, StreamPlanner};
use crate::encoder::{Fields, Plane};

use super::capture::collect_rois;
use super::log::CAT;
use super::negotiate;
use super::refine::{Captured, SecondPass, TimeSegment};
use super::settings::{Live, RateMode};
use super::stats::ElementStats;
use super::stream::{Name, Stream};

pub(super) type InputState = gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>;

/// State from the first caps to the end of the stream.
pub(super) struct State {
    pub stream: Stream,
    /// Plans its frames.
    pub planner: StreamPlanner,
    /// The second pass, where there is one.
    pub second_pass: Option<SecondPass>,
    pub input: InputState,
    /// Rate control that the encoder runs with.
    pub mode: RateMode,
    pub next_frame: u64,
    /// Output times of pictures.
    pub times: Timeline,
    /// Regions of the picture itself, kept for their memory.
    pub rois: Vec<RoiRequest>,
    /// Finds changes that servers do not know of.
    pub wake: Wake,
    pub stats: ElementStats,
}

/// Result of coding a picture.
pub(super) enum Coding {
    /// It is coded.
    Coded(Coded),
    /// It is not coded.
    Skipped,
    /// It needs an encoder for another size.
    Reopen,
}

/// A coded frame, ready to leave once no lock is held.
pub(super) struct Coded {
    pub data: Vec<u8>,
    pub idr: bool,
    pub keyframe: bool,
    pub notice: Option<Notice>,
    pub now: u64,
}

/// Input of a frame.
pub(super) struct FrameInput<'a> {
    pub frame: &'a gst_video::VideoCodecFrame<'a>,
    /// A key frame is requested.
    pub forced: bool,
    /// It is too late to be useful.
    pub late: bool,
    /// The network waits for a key frame.
    pub damaged: bool,
    pub running_time: Option<gst::ClockTime>,
    pub capture_time_ns: u64,
    /// Segment of the time stamps, where its format is time.
    pub segment: Option<TimeSegment>,
}

impl State {
    /// Codes a captured picture. `obj` is used for logging only.
    pub fn code(
        &mut self,
        obj: &gst::Element,
        live: &Live,
        feedback: &Mutex<FeedbackReceiver>,
        input: &FrameInput<'_>,
    ) -> Result<Coding, String> {
        let frame = input.frame;
        let buffer = frame.input_buffer().ok_or("A frame came without its picture")?;
        let (number, now) = (self.next_frame, self.coming(input.running_time));
        self.planner.set_settings(live.camera());
        let unused = collect_rois(buffer, &mut self.rois);
        self.stream.first_pass.stretch(&mut self.rois);
        let changes = self.changes(now, buffer);
        let capture = Capture {
            now,
            frame: number,
            late: input.late,
            key_frame: input.forced,
            damaged: input.damaged,
            changes,
            refined_bytes: self.second_pass.as_ref().map_or(0, SecondPass::bytes),
            rois: &self.rois,
        };
        let plan = self.planner.plan(&capture, |settings, now, frame| {
            let mut receiver = feedback.lock().unwrap();
            receiver.set_settings(*settings);
            receiver.begin_frame(now, frame)
        });
        let plan = match plan {
            Plan::Code(plan) => plan,
            Plan::Skip(why) => {
                gst::debug!(CAT, obj = obj, "Frame {number} is not coded: {why:?}");
                self.next_frame += 1;
                if why == Skip::Asked && self.planner.repeats() {
                    return self.repeat(obj, input, (number, now));
                }
                return Ok(Coding::Skipped);
            }
            Plan::Reopen { .. } => return Ok(Coding::Reopen),
        };
        self.next_frame += 1;
        self.stats.roi_foreign += unused.foreign;
        self.stats.roi_malformed += unused.malformed;
        gst::log!(
            CAT,
            obj = obj,
            "Frame {number}: {:?}, base quantizer {}",
            plan.mode,
            plan.base_qp
        );
        if let Some(applied) = plan.applied {
            gst::debug!(CAT, obj = obj, "Frame {number}: {applied:?}");
        }

        let stream = &mut self.stream;
        if stream.set_rates(obj, live, &plan, &mut self.stats) {
            self.mode = live.mode;
        }
        let fields = negotiate::fields(&stream.info, buffer.video_flags());
        if let Some(fields) = fields {
            stream.encoder.set_fields(fields).map_err(|e| e.to_string())?;
        }
        let source = stream.read(obj, buffer, &mut self.stats)?;
        let planes = source.planes(stream.format)?;
        let extension = self
            .second_pass
            .as_mut()
            .map(|second_pass| keep(second_pass, input, number, &plan, fields, &planes));
        let name = Name {
            frame: number,
            capture_time_ns: input.capture_time_ns,
        };
        let unit = stream.code(&source, planes, &plan, name, extension.unwrap_or_default())?;
        let (notice, now) = (plan.notice, plan.now);
        self.wake.sent(now, plan.offsets, plan.woken);
        self.planner.end_frame(now, unit.data.len(), unit.idr);
        Ok(Coding::Coded(Coded {
            data: unit.data,
            idr: unit.idr,
            keyframe: unit.keyframe,
            notice,
            now,
        }))
    }

    /// Codes a repetition of the picture before in the place of one that servers do not want.
    fn repeat(
        &mut self,
        obj: &gst::Element,
        input: &FrameInput<'_>,
        (frame, now): (u64, u64),
    ) -> Result<Coding, String> {
        let buffer = input.frame.input_buffer().ok_or("A frame came without its picture")?;
        let stream = &mut self.stream;
        let source = stream.read(obj, buffer, &mut self.stats)?;
        let planes = source.planes(stream.format)?;
        let name = Name {
            frame,
            capture_time_ns: input.capture_time_ns,
        };
        let unit = stream.repeat(planes, name)?;
        self.planner.end_repetition(now, unit.data.len());
        Ok(Coding::Coded(Coded {
            data: unit.data,
            idr: unit.idr,
            keyframe: unit.keyframe,
            notice: None,
            now,
        }))
    }

    /// Whether a picture in system memory changes where servers, which all wish for an interval, do not know of it.
    fn changes(&mut self, now: u64, buffer: &gst::BufferRef) -> bool {
        let stream = &self.stream;
        if stream.on_gpu || !self.planner.is_wished() {
            self.wake.reset();
            return false;
        }
        let Ok(picture) = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &stream.info) else {
            return false;
        };
        let (Ok(data), Ok(stride)) = (picture.plane_data(0), usize::try_from(picture.plane_stride()[0])) else {
            return false;
        };
        let sample = if stream.format.bit_depth() > 8 { 2 } else { 1 };
        self.wake.look(now, Luma { data, stride, sample })
    }

    /// Takes a receiver's report of our stream; `loss` since its last one.
    pub fn report(&mut self, now: gst::ClockTime, loss: f64, report: &ReceiverReport) {
        self.stats.receiver_loss = loss;
        self.planner
            .report(now.nseconds(), loss, report.jitter_ms, report.highest_seq);
    }

    /// The one clock of timeouts, times to live and rate limits: the running time of the newest frame, in nanoseconds.
    /// Live video advances with the pipeline's clock; video that is read from a file or driven in lockstep has its own
    /// time, and the same input gives the same stream. Returns its value for a picture of this running time.
    pub fn coming(&self, running_time: Option<gst::ClockTime>) -> u64 {
        let interval = self.planner.pace().map_or(0.0, |pace| pace.interval_ns());
        running_time.map_or(self.planner.now() + interval as u64, |t| t.nseconds())
    }
}

/// Keeps a frame for the second pass, before it is coded. Returns what its access unit says of the second pass.
fn keep(
    second_pass: &mut SecondPass,
    input: &FrameInput<'_>,
    number: u64,
    plan: &FramePlan<'_>,
    fields: Option<Fields>,
    planes: &[Plane<'_>; 3],
) -> Extension {
    second_pass.capture(Captured {
        now: plan.now,
        number,
        capture_time_ns: input.capture_time_ns,
        pts: input.frame.pts(),
        duration: input.frame.duration(),
        segment: input.segment.as_ref(),
        place: plan.segment,
        settings: *plan.settings,
        fields,
        planes,
    })
}
