// SPDX-License-Identifier: MPL-2.0

//! What the worker does with frames: infer, decide, hold back, infer again, describe. Nothing is pushed from here; the
//! element does that once the lock is free.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use dds_protocol::feedback::{MAX_REGIONS, Region};
use dds_protocol::identity::{FrameIdentity, StreamKind};
use gst_dds_link::sync::Mutex;

use super::analysis::{Analyst, Answer, Failure, Network};
use super::compose::{self, Composer};
use super::queue::{Arrival, FrameKey};
use super::settings::Settings;
use super::stats::Stats;
use crate::analytics::{self, Analytics};
use crate::feedback::Feedback;
use crate::identity::{FrameRecord, IdentityTracker, Lookup, Origin};
use crate::merge::Pass;
use crate::model::{ModelError, Segmentation};
use crate::results::{self, FrameResult, Refined};

/// Frames without identity after which a stream counts as not ours where no encoded stream was found upstream.
const FOREIGN_FRAMES: u32 = 30;
/// Frames that may be held back: two segments and what comes meanwhile.
const MOST_HELD: usize = 96;
/// How long the rest of a segment is waited for.
const SEGMENT_PATIENCE: Duration = Duration::from_secs(2);
/// Requests in a row that got no answer at all, after which nothing is waited for until one arrives again.
const MISSES: u32 = 3;

/// State of one run.
pub struct Worker {
    analyst: Analyst,
    composer: Composer,
    pub info: Option<gst_video::VideoInfo>,
    caps: Option<gst::Caps>,
    feedback: Feedback,
    metas: MetaTracker,
    frame: u64,
    last_inferred: Option<u64>,
    stream_id: Option<u32>,
    without_identity: u32,
    foreign_said: bool,
    /// Size of the captured picture, as a stream of two passes tells it.
    full_size: Option<(u32, u32)>,
    segment: Option<OpenSegment>,
    held: VecDeque<Out>,
    misses: u32,
    /// The classes of interest that were held against the model's.
    classes: String,
}

/// What goes out next, in order.
pub enum Out {
    /// A frame.
    Frame(Box<Held>),
    /// A serialised event.
    Event(gst::Event),
}

/// A frame on its way out.
pub struct Held {
    buffer: gst::Buffer,
    info: gst_video::VideoInfo,
    /// Caps it came with.
    caps: gst::Caps,
    /// Size it goes out with.
    size: (u32, u32),
    key: Option<FrameKey>,
    answer: Answer,
    result: Option<FrameResult>,
    wait: Wait,
}

/// What a frame waits for.
enum Wait {
    /// Nothing.
    Nothing,
    /// The end of its segment, which brings the request.
    Segment { until: Instant },
    /// Its refinement.
    Refinement { until: Instant },
    /// It waited, and this came.
    Answered(Arrival),
    /// It waited in vain.
    InVain,
}

/// Regions of a segment of which not all frames have come.
struct OpenSegment {
    stream_id: u32,
    /// Number of its first frame.
    base: u64,
    regions: Vec<Region>,
}

/// Feedback to send.
pub struct Request {
    pub stream_id: u32,
    pub frame: u64,
    pub regions: Vec<Region>,
    /// It asks for something that must not be asked for again.
    pub once: bool,
}

/// What is to be done about a frame once the lock is free.
#[derive(Default)]
pub struct Outcome {
    /// Feedback to send, in this order.
    pub requests: Vec<Request>,
    /// Why no feedback can be given for this stream; said once.
    pub foreign: Option<&'static str>,
    /// Time spent on inference.
    pub inference: gst::ClockTime,
    /// Frames of a segment that are held back before they are asked about.
    pub segment: u64,
    /// The stream is another one than before.
    pub new_stream: bool,
    /// A setting that was changed does not do what it says.
    pub warning: Option<String>,
}

/// A frame that goes out.
pub struct Ready {
    pub buffer: gst::Buffer,
    pub caps: gst::Caps,
    pub result: Option<FrameResult>,
    pub key: Option<FrameKey>,
    /// Classes of the picture.
    pub segmentation: Option<Segmentation>,
    /// Time spent on inference.
    pub inference: gst::ClockTime,
}

impl Worker {
    pub fn new(network: Network, settings: &Settings) -> Self {
        let analyst = Analyst::new(network);
        Self {
            feedback: Feedback::new(settings.policy(analyst.labels())),
            analyst,
            composer: Composer::default(),
            info: None,
            caps: None,
            metas: MetaTracker::default(),
            frame: 0,
            last_inferred: None,
            stream_id: None,
            without_identity: 0,
            foreign_said: false,
            full_size: None,
            segment: None,
            held: VecDeque::new(),
            misses: 0,
            classes: settings.feedback_classes.clone(),
        }
    }

    /// Time jumped: what came before says nothing about what follows.
    pub fn flush(&mut self) {
        self.feedback.reset();
        self.metas = MetaTracker::default();
        self.last_inferred = None;
        self.segment = None;
        self.held.clear();
    }

    pub fn set_caps(&mut self, caps: &gst::CapsRef) -> Result<(), gst::LoggableError> {
        let info = gst_video::VideoInfo::from_caps(caps)
            .map_err(|_| gst::loggable_error!(super::CAT, "Not raw video: {caps}"))?;
        self.analyst
            .prepare(&info)
            .map_err(|e| gst::loggable_error!(super::CAT, "Cannot convert {caps} for the model: {e}"))?;
        self.info = Some(info);
        self.caps = Some(caps.to_owned());
        self.feedback.reset();
        Ok(())
    }

    /// The frame at the head of the line, if it waits for something, and until when.
    pub fn awaited(&self) -> Option<(FrameKey, Instant)> {
        let Some(Out::Frame(head)) = self.held.front() else {
            return None;
        };
        let (Wait::Segment { until } | Wait::Refinement { until }) = head.wait else {
            return None;
        };
        Some((head.key?, until))
    }

    /// Whether anything is held back.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether another frame may come in.
    pub fn has_room(&self) -> bool {
        self.held.len() < MOST_HELD
    }

    /// What the frame at the head of the line waited for; `None`: it waited in vain.
    pub fn answer(&mut self, arrival: Option<Arrival>) {
        let Some(Out::Frame(head)) = self.held.front_mut() else {
            return;
        };
        // Silence while the request is not even out is none of the other side's.
        if matches!(head.wait, Wait::Refinement { .. }) {
            self.misses = if arrival.is_some() { 0 } else { self.misses + 1 };
        }
        head.wait = arrival.map_or(Wait::InVain, Wait::Answered);
    }

    /// The generation of feedback that the newest frame gave.
    pub fn note_generation(&mut self, generation: u16) {
        if let Some(Out::Frame(newest)) = self.held.back_mut()
            && let Some(result) = &mut newest.result
        {
            result.generation = Some(generation);
        }
    }

    /// A refinement arrived for a frame that is gone: the way works again.
    pub fn late_arrival(&mut self) {
        self.misses = 0;
    }

    /// Puts an event behind the frames that are held back.
    pub fn hold_event(&mut self, event: gst::Event) {
        self.held.push_back(Out::Event(event));
    }

    /// What goes out now.
    pub fn next_out(&mut self) -> Option<Out> {
        if self.awaited().is_some() {
            return None;
        }
        self.held.pop_front()
    }

    /// Looks at one frame and puts it in the line. `overtaken`: a newer frame waits already. `refine`: a second pass can
    /// come in.
    pub fn first_pass(
        &mut self,
        buffer: gst::Buffer,
        lookup: Lookup,
        (overtaken, refine): (bool, bool),
        settings: &Settings,
        tracker: &Mutex<IdentityTracker>,
        stats: &Mutex<Stats>,
    ) -> Result<Outcome, ModelError> {
        let mut outcome = Outcome::default();
        let index = self.frame;
        self.frame += 1;
        let record = self.record(&buffer, lookup, tracker, &mut outcome);
        if self.classes != settings.feedback_classes {
            self.classes.clone_from(&settings.feedback_classes);
            outcome.warning = self.analyst.class_warning(settings);
        }
        let (Some(info), Some(caps)) = (self.info.clone(), self.caps.clone()) else {
            return Ok(outcome);
        };
        if let Some((width, height)) = record.extension.full_size {
            self.full_size = Some((u32::from(width), u32::from(height)));
        }
        let own = (info.width(), info.height());
        let mut held = Held {
            size: self.full_size.filter(|_| refine).unwrap_or(own),
            key: record.identity.map(|i| (i.stream_id, i.frame)),
            buffer,
            info,
            caps,
            answer: Answer::default(),
            result: None,
            wait: Wait::Nothing,
        };
        let due = {
            let mut stats = stats.lock().unwrap();
            stats.frames += 1;
            let due = index.is_multiple_of(u64::from(settings.inference_interval));
            stats.not_due += u64::from(!due);
            stats.skipped += u64::from(due && overtaken);
            due && !overtaken
        };
        let looked = if due {
            self.look(&mut held, &record, refine, settings, stats, &mut outcome)
        } else {
            Ok(())
        };
        self.follow_segment(&record, &mut held, refine, settings, &mut outcome);
        self.held.push_back(Out::Frame(Box::new(held)));
        looked.map(|()| outcome)
    }

    /// Inference of the first pass and what follows from it.
    fn look(
        &mut self,
        held: &mut Held,
        record: &FrameRecord,
        refine: bool,
        settings: &Settings,
        stats: &Mutex<Stats>,
        outcome: &mut Outcome,
    ) -> Result<(), ModelError> {
        let started = Instant::now();
        match self.analyst.analyse(&held.buffer, &held.info, settings) {
            Ok(answer) => held.answer = answer,
            Err(Failure::Unreadable) => {
                stats.lock().unwrap().unreadable += 1;
                return Ok(());
            }
            Err(Failure::Model(error)) => {
                stats.lock().unwrap().failed += 1;
                return Err(error);
            }
        }
        let model_time = if self.analyst.has_model() {
            started.elapsed()
        } else {
            Duration::ZERO
        };
        outcome.inference = gst::ClockTime::from_nseconds(model_time.as_nanos() as u64);
        let (width, height) = (held.info.width(), held.info.height());

        // Damage draws objects that are not there; asking for quality there would feed the mistake.
        let mut regions = Vec::new();
        match record.identity.filter(|_| !record.damaged) {
            Some(identity) if settings.feedback => {
                let two_passes = identity.kind == StreamKind::Low;
                let mut policy = settings.policy(self.analyst.labels());
                // A refinement is of this very frame.
                policy.use_motion &= !two_passes;
                self.feedback.set_settings(policy);
                let interval = self
                    .last_inferred
                    .and_then(|last| identity.frame.checked_sub(last))
                    .and_then(|interval| u32::try_from(interval).ok())
                    .unwrap_or(0);
                let mut found = self.analyst.regions(
                    &mut self.feedback,
                    (identity.frame, interval),
                    &held.answer,
                    settings,
                    (width, height),
                );
                if two_passes && !refine {
                    // Nobody would see them.
                    found.clear();
                }
                regions = found.iter().map(|r| r.rect).collect();
                self.last_inferred = Some(identity.frame);
                self.ask(identity, record, found, held, settings, outcome);
            }
            _ => {
                self.feedback.reset();
                self.last_inferred = None;
            }
        }

        let objects = self
            .analyst
            .objects(&held.answer, Pass::First, settings, (width, height), held.size);
        let mut stats = stats.lock().unwrap();
        stats.inferred += 1;
        stats.damaged += u64::from(record.damaged);
        stats.unidentified += u64::from(record.identity.is_none());
        stats.add_inference(outcome.inference);
        stats.regions_left_out = self.feedback.left_out();
        held.result = Some(FrameResult {
            identity: record.identity,
            pts_ns: held.buffer.pts().map(gst::ClockTime::nseconds),
            age_ms: None,
            first_pass_ns: unix_now().unwrap_or(0),
            first_pass_age_ms: None,
            refined: Refined::No,
            damaged: record.damaged,
            width: held.size.0,
            height: held.size.1,
            inference_ms: model_time.as_secs_f64() * 1000.0,
            objects,
            classes: self.analyst.classes(&held.answer, settings),
            generation: None,
            regions: scaled(&regions, (width, height), held.size),
        });
        Ok(())
    }

    /// Asks the camera for the regions of one frame: at once, or with the rest of its segment.
    fn ask(
        &mut self,
        identity: FrameIdentity,
        record: &FrameRecord,
        mut regions: Vec<Region>,
        held: &mut Held,
        settings: &Settings,
        outcome: &mut Outcome,
    ) {
        let asks = !regions.is_empty() && identity.kind == StreamKind::Low;
        let waits = asks && self.misses < MISSES;
        let Some(segment) = record.extension.segment.filter(|_| identity.kind == StreamKind::Low) else {
            if waits {
                let until = Instant::now() + settings.refine_deadline();
                held.wait = Wait::Refinement { until };
            }
            outcome.requests.push(Request {
                stream_id: identity.stream_id,
                frame: identity.frame,
                regions,
                once: asks,
            });
            return;
        };
        let base = identity.frame.saturating_sub(u64::from(segment.position));
        if self
            .segment
            .as_ref()
            .is_some_and(|open| open.base != base || open.stream_id != identity.stream_id)
        {
            self.close_segment(settings, outcome);
        }
        let open = self.segment.get_or_insert(OpenSegment {
            stream_id: identity.stream_id,
            base,
            regions: Vec::new(),
        });
        regions.iter_mut().for_each(|r| r.frame_offset = segment.position);
        open.regions.append(&mut regions);
        if waits {
            held.wait = Wait::Segment {
                until: Instant::now() + SEGMENT_PATIENCE + settings.refine_deadline(),
            };
        }
    }

    /// Closes the segment where this frame is its last one, whether it was inferred or not.
    fn follow_segment(
        &mut self,
        record: &FrameRecord,
        held: &mut Held,
        refine: bool,
        settings: &Settings,
        outcome: &mut Outcome,
    ) {
        let Some(segment) = record.extension.segment.filter(|_| refine) else {
            return;
        };
        outcome.segment = u64::from(segment.length);
        if segment.position + 1 == segment.length {
            self.close_segment(settings, outcome);
            // Not in the line yet.
            if matches!(held.wait, Wait::Segment { .. }) {
                let until = Instant::now() + settings.refine_deadline();
                held.wait = Wait::Refinement { until };
            }
        }
    }

    /// Sends what was gathered of a segment: all regions of a frame in one generation, as many frames as fit.
    pub fn close_segment(&mut self, settings: &Settings, outcome: &mut Outcome) {
        let Some(open) = self.segment.take() else { return };
        let until = Instant::now() + settings.refine_deadline();
        for out in &mut self.held {
            if let Out::Frame(held) = out
                && matches!(held.wait, Wait::Segment { .. })
            {
                held.wait = Wait::Refinement { until };
            }
        }
        let request = |regions: Vec<Region>| Request {
            stream_id: open.stream_id,
            frame: open.base,
            once: !regions.is_empty(),
            regions,
        };
        let mut batch: Vec<Region> = Vec::new();
        for frame in open.regions.chunk_by(|a, b| a.frame_offset == b.frame_offset) {
            if batch.len() + frame.len() > MAX_REGIONS {
                outcome.requests.push(request(std::mem::take(&mut batch)));
            }
            batch.extend_from_slice(frame);
        }
        outcome.requests.push(request(batch));
    }

    /// Makes what goes out of a frame whose turn it is.
    pub fn finish(&mut self, held: Held, settings: &Settings, stats: &Mutex<Stats>) -> Result<Ready, ModelError> {
        let Held {
            mut buffer,
            info,
            caps,
            size,
            key,
            mut answer,
            mut result,
            wait,
        } = held;
        let own = (info.width(), info.height());
        let mut out = (info.clone(), caps);
        let wrong = |e: glib::BoolError| ModelError::Picture(e.to_string());
        if size != own {
            let large = compose::resized(&info, size).map_err(wrong)?;
            buffer = self.composer.enlarge(&buffer, &info, &large).map_err(wrong)?;
            let mut caps = out.1;
            {
                let caps = caps.make_mut();
                caps.set("width", large.width() as i32);
                caps.set("height", large.height() as i32);
                // What was guessed from the small size would be guessed otherwise from the large one.
                caps.set("colorimetry", large.colorimetry().to_string());
            }
            out = (large, caps);
        }
        let mut inference = gst::ClockTime::ZERO;
        let mut segmentation = answer.segmentation.take();
        let refined = match wait {
            Wait::Nothing | Wait::Segment { .. } | Wait::Refinement { .. } => Refined::No,
            Wait::InVain => Refined::Late,
            Wait::Answered(Arrival::Refused) => Refined::Refused,
            Wait::Answered(Arrival::Refined(r)) if r.damaged => Refined::Damaged,
            Wait::Answered(Arrival::Refined(r)) => match self.composer.paste(&mut buffer, &out.0, &r) {
                Ok(()) => {
                    let started = Instant::now();
                    let mut second = match self.analyst.analyse(&buffer, &out.0, settings) {
                        Ok(second) => second,
                        Err(Failure::Unreadable) => Answer::default(),
                        Err(Failure::Model(error)) => return Err(error),
                    };
                    inference = gst::ClockTime::from_nseconds(started.elapsed().as_nanos() as u64);
                    if let Some(result) = &mut result {
                        result.objects = self.analyst.merged_objects((&answer, &second), settings, own, size);
                        result.classes = self.analyst.classes(&second, settings).or(result.classes.take());
                        result.inference_ms += started.elapsed().as_secs_f64() * 1000.0;
                    }
                    segmentation = second.segmentation.take().or(segmentation);
                    Refined::Yes
                }
                Err(error) => {
                    gst::warning!(super::CAT, "No second pass: {error}");
                    Refined::Damaged
                }
            },
        };
        {
            let mut stats = stats.lock().unwrap();
            stats.refined(refined);
            if refined == Refined::Yes {
                stats.add_inference(inference);
            }
            stats.objects += result.as_ref().map_or(0, |r| r.objects.len() as u64);
        }
        if let Some(result) = &mut result {
            result.refined = refined;
            if self.analyst.has_model() {
                let analytics = settings.analytics_meta.then(analytics::library).and_then(Result::ok);
                let told = attach(&mut buffer, &result.objects, size, analytics);
                stats.lock().unwrap().analytics_metas += u64::from(told);
            }
        }
        Ok(Ready {
            buffer,
            caps: out.1,
            result,
            key,
            segmentation,
            inference,
        })
    }

    /// Who the frame is and whether it is whole.
    fn record(
        &mut self,
        buffer: &gst::BufferRef,
        lookup: Lookup,
        tracker: &Mutex<IdentityTracker>,
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
                    damaged: origin == Origin::Ours,
                    ..FrameRecord::default()
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
                    self.segment = None;
                    self.full_size = None;
                    self.misses = 0;
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
}

/// UNIX time in nanoseconds.
pub fn unix_now() -> Option<u64> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    u64::try_from(now.as_nanos()).ok()
}

/// Rectangles in pixels of a picture of another size, outward.
fn scaled(
    rects: &[dds_protocol::feedback::Rect],
    from: (u32, u32),
    to: (u32, u32),
) -> Vec<dds_protocol::feedback::Rect> {
    if from == to {
        return rects.to_vec();
    }
    let axis = |start: u32, length: u32, from: u32, to: u32| {
        let (from, to) = (u64::from(from.max(1)), u64::from(to));
        let first = u64::from(start) * to / from;
        let last = (u64::from(start + length) * to).div_ceil(from);
        (first as u32, (last - first) as u32)
    };
    rects
        .iter()
        .map(|r| {
            let (x, width) = axis(r.x, r.width, from.0, to.0);
            let (y, height) = axis(r.y, r.height, from.1, to.1);
            dds_protocol::feedback::Rect { x, y, width, height }
        })
        .collect()
}

/// One meta per object, with the structure that DL Streamer's elements read; a face that was compared has one of its own,
/// `face`, with `similarity` (double, -1 to 1) and `identity` (string, absent for a stranger). With `analytics` the objects
/// are there as GstAnalytics metas too, and a region's id is that of its object, by which readers of both know that the two
/// are one. Returns whether they are.
fn attach(
    buffer: &mut gst::Buffer,
    objects: &[results::Object],
    (width, height): (u32, u32),
    analytics: Option<&Analytics>,
) -> bool {
    if objects.is_empty() {
        return false;
    }
    let buffer = buffer.make_mut();
    let ids = analytics.and_then(|library| library.attach(buffer, objects));
    let (width, height) = (f64::from(width), f64::from(height));
    for (n, object) in objects.iter().enumerate() {
        let rect = (object.x, object.y, object.width, object.height);
        let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer, &object.label, rect);
        if let Some(id) = ids.as_ref().and_then(|ids| i32::try_from(*ids.get(n)?).ok()) {
            meta.set_id(id);
        }
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
        if let Some(face) = &object.face {
            meta.add_param(
                gst::Structure::builder("face")
                    .field("similarity", f64::from(face.similarity))
                    .field_if_some("identity", face.identity.as_deref())
                    .build(),
            );
        }
    }
    ids.is_some()
}

/// The frame identity that a parser attached.
pub(super) fn identity_meta(buffer: &gst::BufferRef) -> Option<FrameIdentity> {
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
            ..FrameRecord::default()
        }
    }
}
