// SPDX-License-Identifier: MPL-2.0

//! One coded frame: feedback and regions in, access unit out.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use dds_protocol::extension::Extension;
use dds_protocol::feedback::Rect;
use dds_protocol::identity::{FrameIdentity, StreamKind};
use gst::prelude::*;
use gst_dds_link::report::ReceiverReport;
use gst_video::prelude::*;

use crate::camera::{self, Camera, Controller, LossEstimator, Notice, Pace, RoiRequest, Source};
use crate::cuda;
use crate::encoder::{FrameControls, KEY_INT_SECONDS, Picture, PixelFormat, Plane, Rates, RegionEncoder};
use crate::vbv::Vbv;

use super::log::CAT;
use super::negotiate;
use super::open::Chosen;
use super::output;
use super::refine::{Capture, FirstPass, TimeSegment};
use super::settings::{Live, RateMode};
use super::stats::ElementStats;

/// Name of the parameter structure of ROI metas that are meant for us.
const ROI_PARAM: &str = "roi/ddsencode";
/// What is wrong with a picture of negative strides.
const UPSIDE_DOWN: &str = "The picture is upside down";
/// Seconds from 1900 to 1970.
const NTP_TO_UNIX: gst::ClockTime = gst::ClockTime::from_seconds(2_208_988_800);

pub(super) type InputState = gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>;

/// What lives from the first caps to the end of the stream.
pub(super) struct State {
    pub encoder: Box<dyn RegionEncoder>,
    /// Which one that is, and which were refused.
    pub chosen: Chosen,
    pub camera: Camera,
    pub format: PixelFormat,
    pub input: InputState,
    pub info: gst_video::VideoInfo,
    pub mode: RateMode,
    pub byte_stream: bool,
    pub stream_id: u32,
    pub rates: Rates,
    /// The VBV that the camera logic asked for last.
    pub cap: Vbv,
    /// Frames per second that the encoder goes by, and how far apart pictures really are.
    pub pace: Pace,
    pub next_pts: i64,
    pub next_frame: u64,
    pub next_access_unit: u32,
    pub since_idr: u64,
    pub last_idr: u64,
    pub key_int_max: u64,
    /// Whether key frames are to come after a time, not after a number of frames.
    pub key_int_auto: bool,
    pub force_idr: bool,
    pub now: u64,
    pub rois: Vec<RoiRequest>,
    pub stats: ElementStats,
    /// Where there is a second pass.
    pub first_pass: Option<FirstPass>,
    /// Chooses the quantizers where a bandwidth is set.
    pub controller: Controller,
    /// Places in the sizes of the first pass: of this encoder, and of the one that the controller wants.
    pub scale: usize,
    pub wanted_scale: usize,
    /// Follows what receivers report of losses, between the bounds it was made for.
    pub estimator: Option<((u32, u32), LossEstimator)>,
    /// Bytes of the second pass up to the last frame.
    pub refine_bytes: u64,
    /// Pictures come in the memory of a GPU.
    pub on_gpu: bool,
    /// Where the encoder reads them there: their context.
    pub cuda: Option<cuda::Context>,
}

/// A coded frame, ready to leave once no lock is held.
pub(super) struct Coded {
    pub data: Vec<u8>,
    pub idr: bool,
    pub keyframe: bool,
    pub notice: Option<Notice>,
    pub now: u64,
}

/// What a frame brings along.
pub(super) struct FrameInput<'a> {
    pub frame: &'a gst_video::VideoCodecFrame<'a>,
    /// A key frame is asked for.
    pub forced: bool,
    pub running_time: Option<gst::ClockTime>,
    pub capture_time_ns: u64,
    /// Segment that the time stamps lie in, where it is one of time.
    pub segment: Option<TimeSegment>,
    /// Feedback that came since the last frame.
    pub packets: VecDeque<(Source, Box<[u8]>)>,
    /// Bytes of the second pass so far.
    pub refine_bytes: u64,
}

impl State {
    /// Codes a frame. `obj` is only logged about.
    pub fn code(&mut self, obj: &super::DdsEncode, live: &Live, input: FrameInput<'_>) -> Result<Coded, String> {
        let FrameInput {
            frame,
            forced,
            running_time,
            capture_time_ns,
            segment,
            packets,
            refine_bytes,
        } = input;
        let buffer = frame.input_buffer().ok_or("A frame came without its picture")?;
        let now = self.now(running_time);
        self.pace.picture(now);
        let forced = forced || self.key_frame_overdue(now);
        let live = &self.controlled(now, *live, forced);
        self.stats.quantizers = (live.background_qp, live.region_qp);
        self.camera.set_settings(live.camera(1e9 / self.pace.interval_ns()));
        for (source, packet) in packets {
            let outcome = self.camera.push_feedback(now, source, &packet);
            gst::log!(
                CAT,
                obj = obj,
                "Feedback of {} bytes by {source:?}: {outcome:?}",
                packet.len()
            );
        }
        collect_rois(buffer, &mut self.rois, &mut self.stats);
        let fields = negotiate::fields(&self.info, buffer.video_flags());
        if let Some(fields) = fields {
            self.encoder.set_fields(fields).map_err(|e| e.to_string())?;
        }

        let on_gpu = self.cuda.as_ref().and_then(|context| context.map(buffer, &self.info));
        let picture = match on_gpu {
            Some(_) => None,
            None => Some(
                gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &self.info)
                    .map_err(|_| "The picture cannot be read")?,
            ),
        };
        let mut planes = [Plane::default(); 3];
        if let Some(picture) = &picture {
            if self.on_gpu {
                if self.stats.frames_downloaded == 0 {
                    gst::warning!(
                        CAT,
                        obj = obj,
                        "Pictures on the GPU are read through system memory: {}",
                        self.detour()
                    );
                }
                self.stats.frames_downloaded += 1;
            }
            for (i, plane) in planes.iter_mut().enumerate().take(self.format.planes()) {
                let stride = usize::try_from(picture.plane_stride()[i]).map_err(|_| UPSIDE_DOWN)?;
                let data = picture.plane_data(i as u32).map_err(|_| "The picture lacks a plane")?;
                *plane = Plane { data, stride };
            }
        }

        let number = self.next_frame;
        self.next_frame += 1;
        let mut force_idr = forced || self.force_idr;
        let mut extension = Extension::default();
        if let Some(first_pass) = &mut self.first_pass {
            let begun = first_pass.begin(&Capture {
                now,
                number,
                capture_time_ns,
                pts: frame.pts(),
                duration: frame.duration(),
                segment,
                settings: *self.camera.settings(),
                fields,
                planes: &planes,
            });
            force_idr |= begun.segment_starts;
            extension = begun.extension;
            if let Some(at) = begun.heard {
                self.camera.heard(at);
            }
            for roi in &mut self.rois {
                roi.rect = camera::stretched(&roi.rect, first_pass.full, first_pass.coded);
            }
        }
        let expect_idr = force_idr || self.since_idr + 1 >= self.key_int_max;
        let plan = self.camera.begin_frame(now, number, expect_idr, &self.rois);
        if let Some(vbv) = plan.vbv {
            self.cap = vbv;
        }
        let wanted = rates(live, self.cap, &self.pace);
        if wanted != self.rates {
            gst::debug!(CAT, obj = obj, "Frame {number}: {wanted:?}");
            if let Err(error) = self.encoder.reconfigure(&wanted) {
                gst::warning!(CAT, obj = obj, "The encoder does not take new rates: {error}");
                self.stats.reconfigure_failed += 1;
            }
            self.rates = wanted;
            self.mode = live.mode;
        }
        if let Some(applied) = plan.applied {
            gst::debug!(CAT, obj = obj, "Frame {number}: {applied:?}");
        }
        gst::log!(
            CAT,
            obj = obj,
            "Frame {number}: {:?}, base quantizer {}",
            plan.mode,
            plan.base_qp
        );

        let codec = self.encoder.codec();
        let pts = self.next_pts;
        self.next_pts += 1;
        let controls = FrameControls {
            base_qp: plan.base_qp,
            offsets: plan.offsets,
            force_idr,
        };
        let notice = plan.notice;
        if let Some(scaler) = self
            .first_pass
            .as_mut()
            .and_then(|first_pass| first_pass.scaler.as_mut())
        {
            planes = scaler
                .scale(&planes)
                .ok_or("The picture lacks part of a plane")?
                .planes();
        }
        let unit = match &on_gpu {
            Some(mapped) => {
                let picture = mapped.picture(pts).ok_or(UPSIDE_DOWN)?;
                self.encoder.encode_gpu(&picture, &controls)
            }
            None => self.encoder.encode(&Picture { planes, pts }, &controls),
        }
        .map_err(|e| e.to_string())?;

        let count = output::count_slices(codec, &unit);
        if let Some(first_pass) = self.first_pass.as_ref().filter(|_| unit.idr) {
            extension.full_size = first_pass.full_size();
        }
        let identity = FrameIdentity {
            kind: if self.first_pass.is_some() {
                StreamKind::Low
            } else {
                StreamKind::Single
            },
            stream_id: self.stream_id,
            frame: number,
            capture_time_ns,
            access_unit: self.next_access_unit,
            // The start of a periodic refresh is none: a decoder is not clean before the refresh has passed.
            recovery: unit.idr,
            slices: count.slices,
            slice_bytes: count.bytes,
            slice_checksum: count.checksum,
        };
        let data = output::assemble(codec, &unit, &identity, &extension, self.byte_stream);
        let (idr, keyframe) = (unit.idr, unit.keyframe);
        self.next_access_unit = self.next_access_unit.wrapping_add(1);
        self.force_idr = false;
        self.since_idr = if idr { 0 } else { self.since_idr + 1 };
        if idr || now < self.last_idr {
            self.last_idr = now;
        }
        self.camera.end_frame(now, data.len(), idr);
        let (low, refined) = if self.first_pass.is_some() {
            let refined = refine_bytes.saturating_sub(self.refine_bytes);
            (data.len(), usize::try_from(refined).unwrap_or(usize::MAX))
        } else {
            // There is no second pass: the regions' part of the frame stands in its place.
            self.controller.held_at(self.camera.cap_floor());
            let refined = (data.len() as f64 * self.camera.region_share()) as usize;
            (data.len() - refined.min(data.len()), refined)
        };
        self.refine_bytes = refine_bytes;
        self.controller.on_frame(now, low, refined);
        Ok(Coded {
            data,
            idr,
            keyframe,
            notice,
            now,
        })
    }

    /// Why pictures on a GPU are not read there.
    fn detour(&self) -> &'static str {
        match (&self.cuda, &self.first_pass) {
            (Some(_), _) => "they lie in another CUDA context than that of the pipeline",
            (None, Some(_)) => "two passes keep and scale them there",
            (None, None) => "the encoder does not read them elsewhere",
        }
    }

    /// What is set, with the controller's quantizers where a bandwidth is.
    fn controlled(&mut self, now: u64, live: Live, forced: bool) -> Live {
        let bounds = (live.bandwidth_min_kbps, live.bandwidth_kbps);
        let available = if bounds.0 == 0 || bounds.0 >= bounds.1 {
            self.estimator = None;
            live.bandwidth_kbps
        } else {
            match &self.estimator {
                Some((known, estimator)) if *known == bounds => estimator.available_kbps(),
                before => {
                    let start = before.as_ref().map_or(bounds.1, |(_, e)| e.available_kbps());
                    let estimator = LossEstimator::new(bounds.0, bounds.1, start);
                    let available = estimator.available_kbps();
                    self.estimator = Some((bounds, estimator));
                    available
                }
            }
        };
        self.stats.bandwidth_kbps = available;
        self.controller.set_target(available);
        let segment = u64::from(self.first_pass.as_ref().map_or(0, FirstPass::segment_length));
        let segment_starts = segment > 0 && self.since_idr + 1 >= segment;
        let idr = forced || self.force_idr || segment_starts || self.since_idr + 1 >= self.key_int_max;
        let knobs = self.controller.plan(now, idr);
        if available == 0 {
            self.wanted_scale = 0;
            return live;
        }
        self.wanted_scale = knobs.low_scale_index;
        live.with_knobs(knobs, available)
    }

    /// A receiver's report of our stream; `loss` since its last one.
    pub fn report(&mut self, now: gst::ClockTime, loss: f64, report: &ReceiverReport) {
        self.stats.receiver_reports += 1;
        self.stats.receiver_loss = loss;
        if let Some((_, estimator)) = &mut self.estimator {
            estimator.on_report(now.nseconds(), loss, report.jitter_ms, report.highest_seq);
        }
    }

    /// The one clock that time-outs, times to live and rate limits see: the running time of the newest frame, in
    /// nanoseconds. Live video advances with the pipeline's clock; video that is read from a file or driven in lockstep
    /// brings its own time, and the same input gives the same stream.
    fn now(&mut self, running_time: Option<gst::ClockTime>) -> u64 {
        self.now = self.coming(running_time);
        self.now
    }

    /// What [`Self::now`] is going to be with a picture of this running time.
    pub fn coming(&self, running_time: Option<gst::ClockTime>) -> u64 {
        running_time.map_or(self.now + self.pace.interval_ns() as u64, |t| t.nseconds())
    }

    /// Whether the last key frame is longer ago than the encoder knows, which counts frames and goes by another rate.
    fn key_frame_overdue(&self, now: u64) -> bool {
        let age = now.saturating_sub(self.last_idr);
        self.key_int_auto && self.pace.is_measured() && age >= u64::from(KEY_INT_SECONDS) * 1_000_000_000
    }
}

/// Capture time in UNIX nanoseconds, 0 where unknown: by reference timestamp meta (`timestamp/x-unix`, or
/// `timestamp/x-ntp`), else the wall clock less the time since the frame's running time on the pipeline's clock.
pub(super) fn capture_time(
    obj: &super::DdsEncode,
    buffer: &gst::BufferRef,
    running_time: Option<gst::ClockTime>,
    wall_clock: bool,
) -> u64 {
    for meta in buffer.iter_meta::<gst::ReferenceTimestampMeta>() {
        match meta.reference().structure(0).map(|s| s.name().as_str()) {
            Some("timestamp/x-unix") => return meta.timestamp().nseconds(),
            Some("timestamp/x-ntp") => return meta.timestamp().saturating_sub(NTP_TO_UNIX).nseconds(),
            _ => {}
        }
    }
    if !wall_clock {
        return 0;
    }
    let Ok(wall) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) else {
        return 0;
    };
    let age = obj
        .clock()
        .zip(obj.base_time())
        .zip(running_time)
        .map_or(gst::ClockTime::ZERO, |((clock, base), then)| {
            clock.time().saturating_sub(base).saturating_sub(then)
        });
    u64::try_from(wall.as_nanos())
        .unwrap_or(0)
        .saturating_sub(age.nseconds())
}

/// Regions that the buffer itself asks for.
fn collect_rois(buffer: &gst::BufferRef, rois: &mut Vec<RoiRequest>, stats: &mut ElementStats) {
    rois.clear();
    for meta in buffer.iter_meta::<gst_video::VideoRegionOfInterestMeta>() {
        let Some(param) = meta.param(ROI_PARAM) else {
            stats.roi_foreign += 1;
            continue;
        };
        let Ok(delta_qp) = param.get::<i32>("delta-qp") else {
            stats.roi_malformed += 1;
            continue;
        };
        let (x, y, width, height) = meta.rect();
        rois.push(RoiRequest {
            rect: Rect { x, y, width, height },
            delta_qp,
        });
    }
}

/// Most kbit/s that every library takes.
const MOST_KBPS: f64 = 2_000_000.0;

/// Rates the encoder should run at: the narrower of what the bit rate and the cap ask for, in the encoder's time. It
/// shares bits out by the rate it was opened with.
pub(super) fn rates(live: &Live, cap: Vbv, pace: &Pace) -> Rates {
    let mut own = live.vbv();
    if own != Vbv::OPEN && pace.is_measured() {
        // It holds the share of one picture at least, however far pictures are apart.
        let share = f64::from(own.max_kbps) * pace.interval_ns() / 1e9;
        own.buffer_kbit = own.buffer_kbit.max(share.min(MOST_KBPS) as u32);
    }
    let (kbps, quality) = match live.mode {
        RateMode::Bitrate(kbps) => (Some(if cap == Vbv::OPEN { kbps } else { kbps.min(cap.max_kbps) }), None),
        RateMode::Quality { quality, .. } => (None, Some(quality)),
        RateMode::Quantizers | RateMode::Constant(_) => (None, None),
    };
    let vbv = if cap == Vbv::OPEN || own != Vbv::OPEN && own.max_kbps < cap.max_kbps {
        own
    } else {
        cap
    };
    let scaled = |kbps: u32| (f64::from(kbps) * pace.scale()).round().clamp(1.0, MOST_KBPS) as u32;
    if !pace.is_measured() {
        return Rates { kbps, quality, vbv };
    }
    Rates {
        kbps: kbps.map(scaled),
        quality,
        vbv: if vbv == Vbv::OPEN {
            vbv
        } else {
            Vbv {
                max_kbps: scaled(vbv.max_kbps),
                ..vbv
            }
        },
    }
}
