// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::align::{self, Similarity, TEMPLATE_SIDE};
use crate::model::description::{ColorOrder, InputDefaults, Resize};
use crate::model::session::{ModelSession, Outputs};
use crate::model::{Landmarks, ModelError, ModelSettings, Picture};

/// Input sides in pixels to which a face can be aligned.
const SIDES: std::ops::RangeInclusive<usize> = 16..=1024;

/// Training of ArcFace, MobileFaceNet and their kin: (x - 127.5) / 127.5 in RGB.
const DEFAULTS: InputDefaults = InputDefaults {
    color: ColorOrder::Rgb,
    resize: Resize::Stretch,
    pad: 0.0,
    scale: 1.0,
    mean: [127.5; 3],
    std: [127.5; 3],
};

/// A model that maps an aligned face to a vector: vectors of one person lie close together. One face at a time.
///
/// Its input is a square picture, [1, 3, 112, 112] in the published models, its output one vector [1, D]. The keys of
/// a model's description apply except those of detectors; by default its input is (x - 127.5) / 127.5 in RGB.
pub struct Embedder {
    session: ModelSession,
    side: usize,
    dimension: usize,
    /// The model declares the length of the vector dynamic.
    varies: bool,
    summary: String,
    outputs: Outputs,
    aligned: Vec<u8>,
}

/// Result for one face.
#[derive(Debug, Clone, Default)]
pub struct Embedded {
    /// The vector, of length 1; `None` if the landmarks give no direction or the output is not finite.
    pub embedding: Option<Vec<f32>>,
    /// Time spent in cutting the face out of the picture.
    pub align: Duration,
    /// Time spent in the model.
    pub run: Duration,
}

impl Embedder {
    /// Loads a model, as [`Detector::open`](crate::model::Detector::open) does, and runs it once on a blank picture.
    ///
    /// # Errors
    /// Every [`ModelError`] but [`ModelError::Picture`]; never panics.
    pub fn open(settings: &ModelSettings) -> Result<Self, ModelError> {
        let mut session = ModelSession::open(settings)?;
        session.is_no_detector();
        session.is_for("embedding faces");
        if let Some(family) = &session.fields().family {
            return Err(ModelError::Contradiction {
                what: "what the model finds".into(),
                first: format!("{} says dds-family={}, a detector", family.origin, family.value.name()),
                second: format!("{} is to embed faces; leave dds-family out", session.file().display()),
            });
        }
        let fields = session.fields();
        let unread = [
            fields.task.as_ref().map(|given| (&given.origin, "dds-task")),
            fields
                .objectness
                .as_ref()
                .map(|given| (&given.origin, "dds-objectness")),
        ];
        if let Some((origin, key)) = unread.into_iter().flatten().next() {
            return Err(session.unfit(format!(
                "it is to embed faces, for which {key} (in {origin}) means nothing; leave it out"
            )));
        }
        if session.given_labels().is_some() {
            return Err(session.unfit("it is to embed faces, which have no labels; leave the labels out".into()));
        }
        let (width, height) = session.size_for((1, 1));
        if (width, height) != session.size_for((1000, 1000)) {
            return Err(session.unfit(format!(
                "the size of its input is dynamic; set dds-width and dds-height to the size that it was trained on, \
                 usually {TEMPLATE_SIDE}"
            )));
        }
        if width != height || !SIDES.contains(&width) {
            return Err(session.unfit(format!(
                "its input has {width}x{height} pixels; aligned faces are square, from {} to {} pixels",
                SIDES.start(),
                SIDES.end()
            )));
        }
        let probe = session.probe(width)?;
        let infos = session.infos(&probe);
        let dimension = match &infos[..] {
            [output] if output.float => match output.dims[..] {
                [d] | [1, d] | [1, d, 1, 1] if d > 1 => Ok(d),
                _ => Err(format!("its output {} is {:?}", output.name, output.dims)),
            },
            outputs => {
                let list: Vec<String> = outputs.iter().map(|o| format!("{} {:?}", o.name, o.dims)).collect();
                Err(format!("its outputs are {}", list.join(", ")))
            }
        };
        let dimension = dimension
            .map_err(|found| session.unfit(format!("{found}; an embedder gives one vector [1, D] for a face")))?;
        let varies = infos.iter().any(|output| output.lasting().contains(&None));
        session.feed(&DEFAULTS, "embedders of faces")?;
        let summary = session.summary("embedder", &format!("{dimension} dimensions"));
        Ok(Self {
            session,
            side: width,
            dimension,
            varies,
            summary,
            outputs: Outputs::default(),
            aligned: Vec::new(),
        })
    }

    /// Aligns the face with these landmarks, in pixels of the picture, and embeds it.
    ///
    /// # Errors
    /// [`ModelError::Inference`] when ONNX Runtime refuses or the output is not as declared.
    pub fn embed(&mut self, picture: &Picture<'_>, landmarks: &Landmarks) -> Result<Embedded, ModelError> {
        let start = Instant::now();
        let side = self.side as u32;
        let Some(transform) = Similarity::onto_template(landmarks, side) else {
            return Ok(Embedded::default());
        };
        align::warp(picture, &transform, side, &mut self.aligned);
        let aligned = Picture::rgb(side, side, &self.aligned, 3 * self.side)?;
        let cut = Instant::now();
        let run = self.session.infer_at(&aligned, (self.side, self.side))?;
        let tensors = self.outputs.collect(&run).map_err(ModelError::Inference)?;
        let values = tensors.first().map(|t| t.data).unwrap_or_default();
        if values.len() != self.dimension && self.varies {
            // There is nothing to compare.
            return Ok(Embedded {
                embedding: None,
                align: cut - start,
                run: cut.elapsed(),
            });
        }
        if values.len() != self.dimension {
            return Err(ModelError::Inference(format!(
                "the embedder gave {} numbers instead of {}",
                values.len(),
                self.dimension
            )));
        }
        Ok(Embedded {
            embedding: normalised(values),
            align: cut - start,
            run: cut.elapsed(),
        })
    }

    /// Length of an embedding.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Deviations from the settings that are no errors, one sentence each.
    pub fn warnings(&self) -> &[String] {
        self.session.warnings()
    }

    /// One line for the log.
    pub fn summary(&self) -> &str {
        &self.summary
    }
}

/// The vector of length 1 in this direction; `None` for one without a direction.
pub(super) fn normalised(vector: &[f32]) -> Option<Vec<f32>> {
    let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    // NaN and infinity fail as well.
    (norm > 1e-12 && norm.is_finite()).then(|| vector.iter().map(|v| (f64::from(*v) / norm) as f32).collect())
}
