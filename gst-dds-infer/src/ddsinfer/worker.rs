// SPDX-License-Identifier: MPL-2.0

//! The work with the model: infers a frame, infers it again with its second pass, and attaches its objects. Nothing is decided
//! and nothing is pushed here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dds_protocol::feedback::Region;

use super::analysis::{Analyser, Analysis, Failure, TaskEngine};
use super::compose::{self, Composer};
use super::follow::Follower;
use super::frame::{Format, Frame, Refinement};
use super::queue::Outgoing;
use super::settings::Settings;
use crate::analytics::{self, Analytics};
use crate::feedback::Feedback;
use crate::merge::Pass;
use crate::model::{ModelError, Segmentation};
use crate::results::{self, FrameResult, Refined};
use crate::server::{Inference, Look, Predicted};

/// The model of one run.
pub struct Worker {
    analyser: Analyser,
    composer: Composer,
    feedback: Feedback,
    follower: Follower,
    /// Inputs of the current policy: the settings, the number of labels, and whether objects move. It is kept because making
    /// one parses all labels.
    policy_of: Option<(Arc<Settings>, usize, bool)>,
    /// The value of `feedback-classes` that was compared with the model's labels.
    classes: String,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

/// A frame that is ready to go out.
pub struct Ready {
    pub buffer: gst::Buffer,
    pub caps: gst::Caps,
    pub result: Option<FrameResult>,
    /// Classes of the picture.
    pub segmentation: Option<Segmentation>,
    /// Its objects are attached as GstAnalytics metas too.
    pub analytics: bool,
    /// Its result went out before it came.
    pub reported: bool,
}

impl Worker {
    pub fn new(engine: TaskEngine, settings: &Settings) -> Self {
        let analyser = Analyser::new(engine);
        Self {
            feedback: Feedback::new(settings.policy(analyser.labels())),
            follower: Follower::default(),
            policy_of: None,
            analyser,
            composer: Composer::default(),
            classes: settings.feedback_classes.clone(),
        }
    }

    /// Checks that frames with these caps can be read.
    pub fn prepare(&mut self, caps: &gst::CapsRef) -> Result<(), gst::LoggableError> {
        let format = Format::of(caps).map_err(|_| gst::loggable_error!(super::CAT, "Not raw video: {caps}"))?;
        self.analyser
            .prepare(&format.info)
            .map_err(|e| gst::loggable_error!(super::CAT, "Cannot convert {caps} for the model: {e}"))
    }

    /// A warning where a changed `feedback-classes` has no full effect.
    pub fn class_warning(&mut self, settings: &Settings) -> Option<String> {
        if self.classes == settings.feedback_classes {
            return None;
        }
        self.classes.clone_from(&settings.feedback_classes);
        self.analyser.class_warning(settings)
    }

    /// Number of regions that the feedback policy left out so far because there were too many.
    pub fn left_out(&self) -> u64 {
        self.feedback.left_out()
    }

    /// Infers the first pass of a frame.
    ///
    /// # Errors
    /// The model's.
    pub fn look(&mut self, frame: &mut Frame, look: &Look, settings: &Arc<Settings>) -> Result<Inference, ModelError> {
        let started = Instant::now();
        match self.analyser.analyse(&frame.buffer, &frame.format.info, settings) {
            Ok(analysis) => frame.analysis = analysis,
            Err(Failure::Unreadable) => return Ok(Inference::Unreadable),
            Err(Failure::Model(error)) => return Err(error),
        }
        let took = if self.analyser.has_model() {
            started.elapsed()
        } else {
            Duration::ZERO
        };
        let interval = self.follow(frame, look);
        let regions = self.regions(frame, look, settings);
        let own = frame.first_size;
        let size = look.size.unwrap_or(own);
        frame.result = Some(FrameResult {
            identity: look.identity,
            predicted: None,
            pts_ns: frame.buffer.pts().map(gst::ClockTime::nseconds),
            age_ms: None,
            first_pass_ns: unix_now().unwrap_or(0),
            first_pass_age_ms: None,
            refined: Refined::No,
            damaged: look.damaged,
            width: size.0,
            height: size.1,
            inference_ms: took.as_secs_f64() * 1000.0,
            objects: self.analyser.objects(&frame.analysis, Pass::First, settings, own, size),
            classes: self.analyser.classes(&frame.analysis, settings),
            generation: None,
            regions: Vec::new(),
        });
        Ok(Inference::Done {
            regions,
            took,
            interval,
        })
    }

    /// Follows the objects of a frame. Returns the interval between sent pictures that they need.
    fn follow(&mut self, frame: &Frame, look: &Look) -> u8 {
        let Some((follow, identity)) = look.follow.as_ref().zip(look.identity) else {
            return 1;
        };
        let interval = self.follower.look(frame, follow, identity, self.analyser.labels());
        if self.analyser.chooses_rate() { interval } else { 1 }
    }

    /// The predicted result of a captured picture; `None` where nothing is known of it.
    pub fn predict(&self, predicted: &Predicted, settings: &Settings) -> Option<FrameResult> {
        let between = self.analyser.predicts().then(|| self.follower.between(predicted))??;
        let size = between.size;
        Some(FrameResult {
            identity: Some(between.identity),
            predicted: Some(between.looked_at),
            pts_ns: between.pts_ns,
            age_ms: None,
            first_pass_ns: unix_now().unwrap_or(0),
            first_pass_age_ms: None,
            refined: Refined::No,
            damaged: false,
            width: size.0,
            height: size.1,
            inference_ms: 0.0,
            objects: self
                .analyser
                .objects(&between.analysis, Pass::First, settings, size, size),
            classes: None,
            generation: None,
            regions: Vec::new(),
        })
    }

    /// Asks the feedback policy for the regions of a frame.
    fn regions(&mut self, frame: &Frame, look: &Look, settings: &Arc<Settings>) -> Vec<Region> {
        let Some(ask) = look.ask else { return Vec::new() };
        if ask.interval.is_none() {
            self.feedback.reset();
        }
        // The number of labels grows where detections come as metas.
        let labels = self.analyser.labels();
        let is_current = self.policy_of.as_ref().is_some_and(|(of, count, moves)| {
            Arc::ptr_eq(of, settings) && (*count, *moves) == (labels.len(), ask.moves)
        });
        if !is_current {
            let mut policy = settings.policy(labels);
            policy.use_motion &= ask.moves;
            self.feedback.set_settings(policy);
            self.policy_of = Some((settings.clone(), labels.len(), ask.moves));
        }
        // From one captured picture to the next overlap tells the motion as well.
        if look.follow.is_some() && ask.interval.is_some_and(|interval| interval > 1) {
            self.feedback.follow(self.follower.velocities());
        }
        self.analyser.regions(
            &mut self.feedback,
            (ask.frame, ask.interval.unwrap_or(0)),
            &frame.analysis,
            settings,
            frame.first_size,
        )
    }

    /// Infers the second pass of a frame: pastes its regions and runs the model again. `None`: they could not be pasted.
    ///
    /// # Errors
    /// The model's, and a picture that cannot be enlarged.
    pub fn refine(
        &mut self,
        out: &mut Outgoing,
        refinement: &Refinement,
        settings: &Settings,
    ) -> Result<Option<Duration>, ModelError> {
        self.enlarge(out)?;
        let frame = &mut *out.frame;
        if let Err(error) = self.composer.paste(&mut frame.buffer, &frame.format.info, refinement) {
            gst::warning!(super::CAT, "No second pass: {error}");
            return Ok(None);
        }
        let started = Instant::now();
        let mut second = match self.analyser.analyse(&frame.buffer, &frame.format.info, settings) {
            Ok(second) => second,
            Err(Failure::Unreadable) => Analysis::default(),
            Err(Failure::Model(error)) => return Err(error),
        };
        let took = started.elapsed();
        if let Some(result) = &mut frame.result {
            let analyses = (&frame.analysis, &second);
            let (from, to) = (frame.first_size, frame.format.size());
            result.objects = self.analyser.merged_objects(analyses, settings, from, to);
            result.classes = self.analyser.classes(&second, settings).or(result.classes.take());
            result.inference_ms += took.as_secs_f64() * 1000.0;
        }
        if let Some(map) = second.segmentation.take() {
            frame.analysis.segmentation = Some(map);
        }
        Ok(Some(took))
    }

    /// Scales the picture to the size that it goes out with.
    fn enlarge(&mut self, out: &mut Outgoing) -> Result<(), ModelError> {
        let frame = &mut *out.frame;
        let Some(size) = out.size.filter(|size| *size != frame.format.size()) else {
            return Ok(());
        };
        let wrong = |e: glib::BoolError| ModelError::Picture(e.to_string());
        let info = compose::resized(&frame.format.info, size).map_err(wrong)?;
        frame.buffer = self
            .composer
            .enlarge(&frame.buffer, &frame.format.info, &info)
            .map_err(wrong)?;
        let mut caps = frame.format.caps.clone();
        {
            let caps = caps.make_mut();
            caps.set("width", info.width() as i32);
            caps.set("height", info.height() as i32);
            // A colorimetry guessed from the small size would be guessed differently from the large one.
            caps.set("colorimetry", info.colorimetry().to_string());
        }
        frame.format = Arc::new(Format { info, caps });
        Ok(())
    }

    /// Completes a frame that is about to go out.
    ///
    /// # Errors
    /// A picture that cannot be enlarged.
    pub fn finish(&mut self, mut out: Outgoing, settings: &Settings) -> Result<Ready, ModelError> {
        self.enlarge(&mut out)?;
        let frame = *out.frame;
        let (mut buffer, mut result, size) = (frame.buffer, frame.result, frame.format.size());
        let mut analytics = false;
        if let Some(predicted) = out.predicted.filter(|_| result.is_none()) {
            result = self.predict(&predicted, settings);
            if let Some(result) = &mut result {
                result.pts_ns = buffer.pts().map(gst::ClockTime::nseconds).or(result.pts_ns);
            }
        }
        if let Some(result) = &mut result {
            result.refined = out.refined;
            result.generation = out.generation;
            let scaled = out.regions.iter().map(|region| region.scaled(frame.first_size, size));
            result.regions = scaled.collect();
            if self.analyser.has_model() {
                let library = settings.analytics_meta.then(analytics::library).and_then(Result::ok);
                analytics = attach(&mut buffer, &result.objects, size, library);
            }
        }
        Ok(Ready {
            buffer,
            caps: frame.format.caps.clone(),
            result,
            segmentation: frame.analysis.segmentation,
            analytics,
            reported: out.predicted.is_some_and(|predicted| predicted.reported),
        })
    }
}

/// UNIX time in nanoseconds.
pub fn unix_now() -> Option<u64> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    u64::try_from(now.as_nanos()).ok()
}

/// Attaches one meta per object, with the structure that DL Streamer's elements read; a compared face has a structure `face`
/// in addition, with `similarity` (double, -1 to 1) and `identity` (string, absent for a stranger). With `analytics` the
/// objects are attached as GstAnalytics metas too, and a region has the id of its object, by which readers of both match
/// them. Returns whether GstAnalytics metas were attached.
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
