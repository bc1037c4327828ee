// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::time::Instant;

use super::decode::{self, Context, Decoder, OutputInfo, Tensor};
use super::description::Family;
use super::nms::{self, Candidate};
use super::preprocess::Placement;
use super::session::{ModelSession, Outputs, PROBE_SIDE, Run};
use super::{Detection, InferSettings, Inference, Landmarks, ModelError, ModelSettings, Picture, Task, labels};

/// A loaded detector. It may move between threads; one thread uses it at a time.
pub struct Detector {
    session: ModelSession,
    pub(super) family: Family,
    decoder: Box<dyn Decoder>,
    /// Input size for which the decoder was built.
    planned: (usize, usize),
    /// Index of the objectness output, beside the outputs that the decoder reads.
    objectness: Option<usize>,
    labels: Vec<String>,
    summary: String,
    outputs: Outputs,
    candidates: Vec<Candidate>,
}

// The element opens a detector on one thread and uses it on another.
const _: () = {
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<Detector>();
};

impl Detector {
    /// Loads the ONNX Runtime library (once per process) and the model, chooses input rules and decoder, and runs it
    /// once on a blank picture, which proves that it runs and shows the true shapes of its outputs.
    ///
    /// # Errors
    /// Every [`ModelError`] but [`ModelError::Picture`]; never panics.
    pub fn open(settings: &ModelSettings) -> Result<Self, ModelError> {
        let mut session = ModelSession::open(settings)?;
        session.expect_task(&[Task::Detection, Task::Face])?;
        let run = session.probe(PROBE_SIDE)?;
        Self::reading(session, &run)
    }

    /// Builds the detector for this model's outputs; `probe` is the run on a blank picture.
    pub(super) fn reading(mut session: ModelSession, probe: &Run) -> Result<Self, ModelError> {
        session.is_for("detection");
        let mut outputs = Outputs::default();
        let tensors = outputs.collect(probe).map_err(|e| session.unfit(e))?;
        let objectness = objectness_of(&session, probe)?;
        let (tensors, objectness_output) = split(tensors, session.own_outputs(), objectness);
        let (infos, _) = split(session.infos(probe), session.own_outputs(), objectness);
        let context = Context {
            input: probe.size,
            fields: session.fields(),
            labels: session.given_labels(),
            probe: &tensors,
        };
        let (family, decoder) = settle_family(&infos, &context, &session)?;
        if let (Some(given), Some(objectness_output)) = (&session.fields().objectness, &objectness_output) {
            check_objectness(objectness_output, &*decoder, &tensors).map_err(|reason| ModelError::Contradiction {
                what: "the objectness".into(),
                first: format!("{} says dds-objectness={}", given.origin, given.value),
                second: format!("that does not fit {}: {reason}", family.name()),
            })?;
        }
        let usual = |classes| match classes {
            80 => Some((labels::coco(), "COCO, as there are 80".into())),
            _ if family == Family::Yunet => Some((vec!["face".into()], "the family's own".into())),
            _ => None,
        };
        let (labels, origin) = session.settle_labels(decoder.classes(), usual)?;
        session.feed(&family.defaults(), family.name())?;

        let variant = decoder.variant();
        let space = if variant.is_empty() { "" } else { " " };
        let source = session.fields().family.as_ref();
        let source = source.map_or("by the shape of the outputs", |s| s.origin.as_str());
        let summary = session.summary(
            &format!("{}{space}{variant} ({source})", family.name()),
            &format!("{} labels ({origin})", labels.len()),
        );
        Ok(Self {
            session,
            family,
            decoder,
            planned: probe.size,
            objectness,
            labels,
            summary,
            outputs,
            candidates: Vec::new(),
        })
    }

    /// Runs the model on one picture.
    ///
    /// # Errors
    /// [`ModelError::Inference`] when ONNX Runtime refuses or the outputs are not as declared.
    pub fn infer(&mut self, picture: &Picture<'_>, settings: &InferSettings) -> Result<Inference, ModelError> {
        let frame = (picture.width() as usize, picture.height() as usize);
        let run = self.session.infer(picture)?;

        let ran = Instant::now();
        let tensors = self.outputs.collect(&run).map_err(ModelError::Inference)?;
        let own = self.session.own_outputs();
        let (tensors, objectness_output) = split(tensors, own, self.objectness);
        if run.size != self.planned {
            let context = Context {
                input: run.size,
                fields: self.session.fields(),
                labels: Some(self.labels.len()).filter(|n| *n > 0),
                probe: &tensors,
            };
            let (infos, _) = split(self.session.infos(&run), own, self.objectness);
            self.decoder = decode::fit(self.family, &infos, &context).map_err(|e| {
                ModelError::Inference(format!(
                    "the outputs for {}x{} pixels are not those of {}: {e}",
                    run.size.0,
                    run.size.1,
                    self.family.name()
                ))
            })?;
            self.planned = run.size;
        }
        self.candidates.clear();
        // NaN means no floor.
        let floor = settings.floor.max(0.0);
        self.decoder
            .decode(&tensors, floor, &mut self.candidates)
            .map_err(ModelError::Inference)?;
        if let Some(objectness_output) = objectness_output {
            check_objectness(&objectness_output, &*self.decoder, &tensors).map_err(ModelError::Inference)?;
            let activation = self.session.fields().activation();
            for candidate in &mut self.candidates {
                let raw = objectness_output.data.get(candidate.row).copied();
                candidate.objectness = raw.map(|raw| activation.apply(raw).clamp(0.0, 1.0));
            }
        }
        let iou = if self.decoder.needs_suppression() {
            settings.iou_threshold
        } else {
            f32::INFINITY
        };
        nms::suppress(&mut self.candidates, iou, settings.max_detections);
        let (detections, landmarks) = self
            .candidates
            .iter()
            .filter_map(|c| on_picture(c, &run.placement, frame))
            .unzip();
        Ok(Inference {
            detections,
            landmarks,
            preprocess: run.preprocess,
            run: run.run,
            decode: ran.elapsed(),
        })
    }

    /// Whether the model suppresses overlapping boxes itself.
    pub fn suppresses(&self) -> bool {
        !self.decoder.needs_suppression()
    }

    /// Labels by class number; empty when nothing names the classes.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The label of a class, or `class N` when it has none.
    pub fn label(&self, class: u32) -> Cow<'_, str> {
        match self.labels.get(class as usize) {
            Some(l) => Cow::Borrowed(l),
            None => Cow::Owned(format!("class {class}")),
        }
    }

    /// Whether detections come with landmarks of faces.
    pub fn has_landmarks(&self) -> bool {
        self.family == Family::Yunet
    }

    /// Deviations from the settings that are no errors, one sentence each: refused execution providers, a library
    /// named after another one was loaded.
    pub fn warnings(&self) -> &[String] {
        self.session.warnings()
    }

    /// One line for the log: family, input, pre-processing, labels, execution provider and the source of each.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Width and height of the input in pixels for a picture of `width` x `height`; independent of the picture for a
    /// model of fixed size.
    pub fn input_size(&self, width: u32, height: u32) -> (u32, u32) {
        let (w, h) = self.session.size_for((width as usize, height as usize));
        (w as u32, h as u32)
    }

    /// Repeats the bare ONNX Runtime call on the last input, without reading its outputs: a baseline for the cost of
    /// everything around it. Returns its duration.
    ///
    /// # Errors
    /// [`ModelError::Inference`] as [`Detector::infer`].
    #[doc(hidden)]
    pub fn run_again(&mut self) -> Result<std::time::Duration, ModelError> {
        self.session.run_again(self.planned)
    }
}

/// Index of the output that is named as objectness.
fn objectness_of(session: &ModelSession, probe: &Run) -> Result<Option<usize>, ModelError> {
    let Some(given) = &session.fields().objectness else {
        return Ok(None);
    };
    let infos = session.infos(probe);
    match infos.iter().position(|o| o.name == given.value) {
        Some(output) => Ok(Some(output)),
        None => Err(ModelError::Contradiction {
            what: "the objectness".into(),
            first: format!("{} says dds-objectness={}", given.origin, given.value),
            second: format!("{} has no output of that name", session.file().display()),
        }),
    }
}

/// Splits all outputs into the decoder's and the objectness; the first `own` are the model's own.
fn split<T>(all: Vec<T>, own: usize, objectness: Option<usize>) -> (Vec<T>, Option<T>) {
    let mut read = Vec::with_capacity(own);
    let mut objectness_output = None;
    for (i, output) in all.into_iter().enumerate() {
        if Some(i) == objectness {
            objectness_output = Some(output);
        } else if i < own {
            read.push(output);
        }
    }
    (read, objectness_output)
}

/// Checks that objectness has one number for each row of scores.
fn check_objectness(
    objectness_output: &Tensor<'_>,
    decoder: &dyn Decoder,
    outputs: &[Tensor<'_>],
) -> Result<(), String> {
    let Some(rows) = decoder.rows(outputs) else {
        return Err("its boxes have an objectness of their own, or no rows that others could belong to".into());
    };
    if objectness_output.dims.iter().filter(|d| **d != 1).count() > 1 || objectness_output.data.len() != rows {
        return Err(format!(
            "objectness has {rows} numbers, one for each row of scores, not the shape {:?}",
            objectness_output.dims
        ));
    }
    Ok(())
}

/// The named family, if the outputs fit it, or the one that fits their shapes.
fn settle_family(
    infos: &[OutputInfo],
    context: &Context<'_>,
    session: &ModelSession,
) -> Result<(Family, Box<dyn Decoder>), ModelError> {
    let outputs = || {
        let list: Vec<String> = infos.iter().map(|o| format!("{} {:?}", o.name, o.dims)).collect();
        format!("the outputs of {} are {}", session.file().display(), list.join(", "))
    };
    match &context.fields.family {
        Some(given) => match decode::fit(given.value, infos, context) {
            Ok(decoder) => Ok((given.value, decoder)),
            Err(reason) => Err(ModelError::Contradiction {
                what: "the family".into(),
                first: format!("{} says {}", given.origin, given.value.name()),
                second: format!("{}, which do not fit: {reason}", outputs()),
            }),
        },
        None => decode::guess(infos, context)
            .and_then(|family| Ok((family, decode::fit(family, infos, context)?)))
            .map_err(|reason| {
                session.unfit(format!(
                    "{}: {reason}; if it is a detector, name its family in model-description (dds-family=...)",
                    outputs()
                ))
            }),
    }
}

/// A box in pixels of the picture, clipped, and its landmarks; `None` for a box outside the picture.
fn on_picture(c: &Candidate, placement: &Placement, frame: (usize, usize)) -> Option<(Detection, Option<Landmarks>)> {
    let (w, h) = (frame.0 as f32, frame.1 as f32);
    let x = |v: f32| (v - placement.offset.0) / placement.scale.0;
    let y = |v: f32| (v - placement.offset.1) / placement.scale.1;
    let d = Detection {
        x1: x(c.x1).clamp(0.0, w),
        y1: y(c.y1).clamp(0.0, h),
        x2: x(c.x2).clamp(0.0, w),
        y2: y(c.y2).clamp(0.0, h),
        score: c.score,
        objectness: c.objectness,
        class: c.class,
    };
    let landmarks = c.landmarks.map(|l| l.map(|[px, py]| [x(px), y(py)]));
    (d.x2 > d.x1 && d.y2 > d.y1).then_some((d, landmarks))
}
