// SPDX-License-Identifier: MPL-2.0

//! What the worker does with one frame: infer, decide, describe. Nothing is pushed from here; the element does that once
//! the lock is free.

use dds_protocol::identity::FrameIdentity;
use gst_video::prelude::*;

use super::settings::Settings;
use super::stats::Stats;
use crate::feedback::Feedback;
use crate::identity::{FrameRecord, IdentityTracker, Lookup, Origin};
use crate::model::{ColorMatrix, ColorRange, Detection, Detector, ModelError, Picture, PixelLayout};
use crate::results::{self, FrameResult};

/// Frames without identity after which a stream counts as not ours where no encoded stream was found upstream.
const FOREIGN_FRAMES: u32 = 30;

/// State of one run.
pub struct Worker {
    detector: Option<Detector>,
    /// Labels of detections that came as metas, in order of appearance.
    meta_labels: Vec<String>,
    converter: Option<Converter>,
    pub info: Option<gst_video::VideoInfo>,
    feedback: Feedback,
    metas: MetaTracker,
    frame: u64,
    last_inferred: Option<u64>,
    stream_id: Option<u32>,
    without_identity: u32,
    foreign_said: bool,
}

/// What is to be done about a frame once the lock is free.
#[derive(Default)]
pub struct Outcome {
    /// The result, where the frame was inferred.
    pub result: Option<FrameResult>,
    /// Feedback to send: stream, frame, regions.
    pub feedback: Option<(u32, u64, Vec<dds_protocol::feedback::Region>)>,
    /// Why no feedback can be given for this stream; said once.
    pub foreign: Option<&'static str>,
    /// Time spent on inference.
    pub inference: gst::ClockTime,
    /// The stream is another one than before.
    pub new_stream: bool,
}

impl Worker {
    pub fn new(detector: Option<Detector>, settings: &Settings) -> Self {
        let labels: Vec<String> = detector.iter().flat_map(|d| d.labels()).cloned().collect();
        Self {
            feedback: Feedback::new(settings.policy(&labels)),
            detector,
            meta_labels: Vec::new(),
            converter: None,
            info: None,
            metas: MetaTracker::default(),
            frame: 0,
            last_inferred: None,
            stream_id: None,
            without_identity: 0,
            foreign_said: false,
        }
    }

    /// Time jumped: what came before says nothing about what follows.
    pub fn flush(&mut self) {
        self.feedback.reset();
        self.metas = MetaTracker::default();
        self.last_inferred = None;
    }

    pub fn set_caps(&mut self, caps: &gst::CapsRef) -> Result<(), gst::LoggableError> {
        let info = gst_video::VideoInfo::from_caps(caps)
            .map_err(|_| gst::loggable_error!(super::imp::CAT, "Not raw video: {caps}"))?;
        self.converter = match (self.detector.is_some(), layout_of(info.format())) {
            (true, None) => Some(
                Converter::new(&info)
                    .map_err(|e| gst::loggable_error!(super::imp::CAT, "Cannot convert {caps} for the model: {e}"))?,
            ),
            _ => None,
        };
        self.info = Some(info);
        self.feedback.reset();
        Ok(())
    }

    /// Looks at one frame and attaches to it what was seen. `overtaken`: a newer frame waits already.
    pub fn frame(
        &mut self,
        buffer: &mut gst::Buffer,
        lookup: Lookup,
        overtaken: bool,
        settings: &Settings,
        tracker: &std::sync::Mutex<IdentityTracker>,
        stats: &std::sync::Mutex<Stats>,
    ) -> Result<Outcome, ModelError> {
        let mut outcome = Outcome::default();
        let index = self.frame;
        self.frame += 1;
        let record = self.record(buffer, lookup, tracker, &mut outcome);
        {
            let mut stats = stats.lock().unwrap();
            stats.frames += 1;
            if !index.is_multiple_of(u64::from(settings.inference_interval)) {
                stats.not_due += 1;
                return Ok(outcome);
            }
            if overtaken {
                stats.skipped += 1;
                return Ok(outcome);
            }
        }
        let Some(info) = self.info.clone() else {
            return Ok(outcome);
        };
        let started = std::time::Instant::now();
        let detections = match &mut self.detector {
            Some(detector) => match infer(detector, self.converter.as_mut(), buffer, &info, settings) {
                Ok(detections) => detections,
                Err(Failure::Unreadable) => {
                    stats.lock().unwrap().unreadable += 1;
                    return Ok(outcome);
                }
                Err(Failure::Model(error)) => {
                    stats.lock().unwrap().failed += 1;
                    return Err(error);
                }
            },
            None => self.detections_from_metas(buffer),
        };
        let (width, height) = (info.width(), info.height());
        let model_time = if self.detector.is_some() {
            started.elapsed()
        } else {
            std::time::Duration::ZERO
        };
        outcome.inference = gst::ClockTime::from_nseconds(model_time.as_nanos() as u64);

        let labels: &[String] = self.detector.as_ref().map_or(&self.meta_labels, |d| d.labels());
        let label = |class: u32| {
            labels
                .get(class as usize)
                .cloned()
                .unwrap_or_else(|| format!("class {class}"))
        };
        let objects = results::objects_of(&detections, settings.box_confidence_threshold, label, width, height);
        if self.detector.is_some() {
            attach(buffer, &objects, width, height);
        }

        // Damage draws objects that are not there; asking for quality there would feed the mistake.
        let mut regions = Vec::new();
        match record.identity.filter(|_| !record.damaged) {
            Some(identity) if settings.feedback => {
                self.feedback.set_settings(settings.policy(labels));
                let interval = self
                    .last_inferred
                    .and_then(|last| identity.frame.checked_sub(last))
                    .and_then(|interval| u32::try_from(interval).ok())
                    .unwrap_or(0);
                let found = self
                    .feedback
                    .regions(identity.frame, interval, &detections, width, height);
                regions = found.iter().map(|r| r.rect).collect();
                self.last_inferred = Some(identity.frame);
                outcome.feedback = Some((identity.stream_id, identity.frame, found));
            }
            _ => {
                self.feedback.reset();
                self.last_inferred = None;
            }
        }

        let mut stats = stats.lock().unwrap();
        stats.inferred += 1;
        stats.damaged += u64::from(record.damaged);
        stats.unidentified += u64::from(record.identity.is_none());
        stats.objects += objects.len() as u64;
        stats.inference_last_ns = outcome.inference.nseconds();
        stats.inference_max_ns = stats.inference_max_ns.max(outcome.inference.nseconds());
        stats.inference_sum_ns += outcome.inference.nseconds();
        stats.regions_left_out = self.feedback.left_out();
        outcome.result = Some(FrameResult {
            identity: record.identity,
            pts_ns: buffer.pts().map(gst::ClockTime::nseconds),
            age_ms: None,
            damaged: record.damaged,
            width,
            height,
            inference_ms: model_time.as_secs_f64() * 1000.0,
            objects,
            generation: None,
            regions,
        });
        Ok(outcome)
    }

    /// Who the frame is and whether it is whole.
    fn record(
        &mut self,
        buffer: &gst::BufferRef,
        lookup: Lookup,
        tracker: &std::sync::Mutex<IdentityTracker>,
        outcome: &mut Outcome,
    ) -> FrameRecord {
        let origin = tracker.lock().unwrap().origin();
        let mut record = match lookup {
            Lookup::Known(record) => record,
            // Not seen by the probe: a parser may have attached the message. Without it, a frame of a stream that is
            // ours otherwise is one the counters know nothing of.
            Lookup::Unknown => match identity_meta(buffer) {
                Some(identity) => self.metas.record(identity),
                None => FrameRecord {
                    identity: None,
                    damaged: origin == Origin::Ours,
                },
            },
        };
        record.damaged |= buffer.flags().contains(gst::BufferFlags::CORRUPTED);
        match record.identity {
            Some(identity) => {
                self.without_identity = 0;
                if self.stream_id.replace(identity.stream_id) != Some(identity.stream_id) {
                    self.feedback.reset();
                    self.last_inferred = None;
                    self.foreign_said = false;
                    outcome.new_stream = true;
                }
            }
            None => {
                self.without_identity = self.without_identity.saturating_add(1);
                let foreign = origin == Origin::Foreign
                    || (origin == Origin::Undecided && self.without_identity == FOREIGN_FRAMES);
                if foreign && !self.foreign_said {
                    self.foreign_said = true;
                    outcome.foreign = Some(match origin {
                        Origin::Foreign => "the H.264 stream carries no frame identity: it is not from ddsencode",
                        _ => "no H.264 stream from ddsencode was found upstream",
                    });
                }
            }
        }
        record
    }

    /// Detections that another element has attached: any region of interest meta, with the confidence of a `detection`
    /// structure as DL Streamer writes it, or certain where there is none.
    fn detections_from_metas(&mut self, buffer: &gst::BufferRef) -> Vec<Detection> {
        let labels = &mut self.meta_labels;
        buffer
            .iter_meta::<gst_video::VideoRegionOfInterestMeta>()
            .map(|meta| {
                let (x, y, width, height) = meta.rect();
                let score = meta
                    .params()
                    .find(|p| p.name() == "detection")
                    .and_then(|p| p.get::<f64>("confidence").ok())
                    .unwrap_or(1.0);
                let label = meta.roi_type();
                let class = labels.iter().position(|l| l == label).unwrap_or_else(|| {
                    labels.push(label.to_owned());
                    labels.len() - 1
                });
                Detection {
                    x1: x as f32,
                    y1: y as f32,
                    x2: x.saturating_add(width) as f32,
                    y2: y.saturating_add(height) as f32,
                    score: score as f32,
                    objectness: None,
                    class: class as u32,
                }
            })
            .collect()
    }
}

enum Failure {
    Unreadable,
    Model(ModelError),
}

fn infer(
    detector: &mut Detector,
    converter: Option<&mut Converter>,
    buffer: &gst::BufferRef,
    info: &gst_video::VideoInfo,
    settings: &Settings,
) -> Result<Vec<Detection>, Failure> {
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(|_| Failure::Unreadable)?;
    let inference = match converter {
        None => detector.infer(&picture(&frame).map_err(Failure::Model)?, &settings.infer()),
        Some(converter) => {
            converter.run(&frame);
            detector.infer(
                &picture(&converter.output.as_video_frame_ref()).map_err(Failure::Model)?,
                &settings.infer(),
            )
        }
    };
    inference.map(|i| i.detections).map_err(Failure::Model)
}

fn layout_of(format: gst_video::VideoFormat) -> Option<PixelLayout> {
    Some(match format {
        gst_video::VideoFormat::I420 => PixelLayout::I420,
        gst_video::VideoFormat::Nv12 => PixelLayout::Nv12,
        gst_video::VideoFormat::Rgb => PixelLayout::Rgb,
        gst_video::VideoFormat::Bgr => PixelLayout::Bgr,
        _ => return None,
    })
}

fn picture<'a>(frame: &'a gst_video::VideoFrameRef<&gst::BufferRef>) -> Result<Picture<'a>, ModelError> {
    let info = frame.info();
    let Some(layout) = layout_of(frame.format()) else {
        return Err(ModelError::Picture(format!(
            "format {:?} is not handled directly",
            frame.format()
        )));
    };
    let mut planes: [&[u8]; 3] = [&[]; 3];
    let mut strides = [0; 3];
    for plane in 0..frame.n_planes() {
        let n = plane as usize;
        planes[n] = frame
            .plane_data(plane)
            .map_err(|_| ModelError::Picture(format!("plane {plane} is missing")))?;
        strides[n] = usize::try_from(info_stride(frame, n))
            .map_err(|_| ModelError::Picture("bottom-up pictures are not handled".into()))?;
    }
    let colorimetry = info.colorimetry();
    let matrix = match colorimetry.matrix() {
        gst_video::VideoColorMatrix::Bt709 => ColorMatrix::Bt709,
        _ => ColorMatrix::Bt601,
    };
    let range = match colorimetry.range() {
        gst_video::VideoColorRange::Range0_255 => ColorRange::Full,
        _ => ColorRange::Limited,
    };
    Ok(Picture::new(layout, frame.width(), frame.height(), planes, strides)?.with_colorimetry(matrix, range))
}

fn info_stride(frame: &gst_video::VideoFrameRef<&gst::BufferRef>, plane: usize) -> i32 {
    frame.plane_stride()[plane]
}

/// Makes RGB of formats the model room does not read.
struct Converter {
    converter: gst_video::VideoConverter,
    output: gst_video::VideoFrame<gst_video::video_frame::Writable>,
}

impl Converter {
    fn new(info: &gst_video::VideoInfo) -> Result<Self, glib::BoolError> {
        let rgb = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, info.width(), info.height())
            .fps(info.fps())
            .build()?;
        let buffer = gst::Buffer::with_size(rgb.size())?;
        let output = gst_video::VideoFrame::from_buffer_writable(buffer, &rgb)
            .map_err(|_| glib::bool_error!("cannot map a new buffer"))?;
        Ok(Self {
            converter: gst_video::VideoConverter::new(info, &rgb, None)?,
            output,
        })
    }

    fn run(&mut self, frame: &gst_video::VideoFrameRef<&gst::BufferRef>) {
        self.converter
            .frame_ref(frame, &mut self.output.as_mut_video_frame_ref());
    }
}

/// One meta per object, with the structure that DL Streamer's elements read.
fn attach(buffer: &mut gst::Buffer, objects: &[results::Object], width: u32, height: u32) {
    if objects.is_empty() {
        return;
    }
    let buffer = buffer.make_mut();
    let (width, height) = (f64::from(width), f64::from(height));
    for object in objects {
        let rect = (object.x, object.y, object.width, object.height);
        let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer, &object.label, rect);
        meta.add_param(
            gst::Structure::builder("detection")
                .field("x_min", f64::from(object.x) / width)
                .field("x_max", f64::from(object.x + object.width) / width)
                .field("y_min", f64::from(object.y) / height)
                .field("y_max", f64::from(object.y + object.height) / height)
                .field("confidence", f64::from(object.score))
                .field("label_id", object.class as i32)
                .build(),
        );
    }
}

/// The frame identity that a parser attached.
fn identity_meta(buffer: &gst::BufferRef) -> Option<FrameIdentity> {
    buffer
        .iter_meta::<gst_video::video_meta::VideoSeiUserDataUnregisteredMeta>()
        .find_map(|meta| {
            let mut payload = meta.uuid().to_vec();
            payload.extend_from_slice(meta.data());
            FrameIdentity::from_payload(&payload).ok()
        })
}

/// Damage by the counters alone, where only a parser's metas tell identities.
#[derive(Debug, Default)]
struct MetaTracker {
    expected: Option<(u32, u32)>,
    clean: bool,
}

impl MetaTracker {
    fn record(&mut self, identity: FrameIdentity) -> FrameRecord {
        let here = (identity.stream_id, identity.access_unit);
        if identity.recovery {
            self.clean = true;
        } else if self.expected != Some(here) {
            self.clean = false;
        }
        self.expected = Some((identity.stream_id, identity.access_unit.wrapping_add(1)));
        FrameRecord {
            identity: Some(identity),
            damaged: !self.clean,
        }
    }
}
