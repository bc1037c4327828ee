// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Face recognition: a detector with landmarks finds faces, each is aligned and embedded, and the embedding is
//! compared with those of a gallery of known people.
//!
//! ```no_run
//! use gstddsinfer::model::face::{FaceRecogniser, FaceSettings, RecogniseSettings};
//! use gstddsinfer::model::{InferSettings, ModelSettings, Picture};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = |file: &str| ModelSettings { model_file: file.into(), ..Default::default() };
//! let mut recogniser = FaceRecogniser::open(&FaceSettings {
//!     detector: model("yunet.onnx"),
//!     embedder: model("mobilefacenet.onnx"),
//!     gallery: Some("people/".into()),
//! })?;
//! let rgb = vec![0u8; 640 * 480 * 3];
//! let picture = Picture::rgb(640, 480, &rgb, 640 * 3)?;
//! let found = recogniser.infer(&picture, &InferSettings::default(), &RecogniseSettings::default())?;
//! for (face, name) in found.detections.iter().zip(&found.matches) {
//!     println!("{:.0} {:.0} {:?}", face.x1, face.y1, name);
//! }
//! # Ok(())
//! # }
//! ```

pub mod align;
mod embedder;
mod error;
mod gallery;

pub use embedder::{Embedded, Embedder};
pub use error::FaceError;
pub use gallery::{Gallery, MAX_FACES, Match};

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image::RgbImage;
use image::imageops::{self, FilterType};

use super::{Detection, Detector, InferSettings, Landmarks, ModelError, ModelSettings, Picture};

/// Score from which on a picture of the gallery shows a face: YuNet's published threshold.
const GALLERY_SCORE: f32 = 0.6;
/// Longest sides in pixels at which a picture of the gallery is searched: a detector misses a face that fills a
/// photograph of many megapixels and, when that is shrunk too far, one in a group.
const GALLERY_SIDES: [u32; 3] = [320, 640, 1280];

/// Settings of [`FaceRecogniser::open`].
#[derive(Debug, Clone, Default)]
pub struct FaceSettings {
    /// A detector that gives landmarks: YuNet.
    pub detector: ModelSettings,
    /// A model that embeds aligned faces.
    pub embedder: ModelSettings,
    /// A directory of pictures or a file of embeddings, as described at [`Gallery::load`] and [`Gallery::from_directory`];
    /// without one, faces are embedded but match nobody.
    pub gallery: Option<PathBuf>,
}

/// Settings that may change from one frame to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecogniseSettings {
    /// Detections from this score on are faces and are embedded, 0 to 1. Default 0.6.
    pub threshold: f32,
    /// Faces whose box is narrower or lower, in pixels, are not embedded: an embedder invents a face from so few
    /// pixels. Default 24.
    pub min_size: f32,
    /// Most faces to embed in one frame, those of the highest scores, so that a crowd takes a bounded time. Default 64.
    pub max_faces: usize,
    /// Whether to return the embeddings. Default false.
    pub keep_embeddings: bool,
}

impl Default for RecogniseSettings {
    fn default() -> Self {
        Self {
            threshold: 0.6,
            min_size: 24.0,
            max_faces: 64,
            keep_embeddings: false,
        }
    }
}

/// The result of one frame. The lists are as long as that of the detections.
#[derive(Debug, Clone, Default)]
pub struct FaceInference {
    /// Faces by descending score, none below [`InferSettings::floor`].
    pub detections: Vec<Detection>,
    /// Landmarks of each.
    pub landmarks: Vec<Option<Landmarks>>,
    /// Embeddings of each, where [`RecogniseSettings::keep_embeddings`] asks for them: of length 1, `None` where the face
    /// was not embedded.
    pub embeddings: Vec<Option<Vec<f32>>>,
    /// The closest identity of each, at any distance; `None` where the face was not embedded or there is no gallery.
    pub matches: Vec<Option<Match>>,
    /// Faces not embedded because they are smaller than [`RecogniseSettings::min_size`].
    pub too_small: usize,
    /// Faces not embedded because of [`RecogniseSettings::max_faces`].
    pub left_out: usize,
    /// Faces not embedded because their landmarks, or the embedder's output, made no sense.
    pub senseless: usize,
    /// Time spent turning the picture into the detector's input.
    pub preprocess: Duration,
    /// Time spent in the detector.
    pub run: Duration,
    /// Time spent in decoding and non-maximum suppression.
    pub decode: Duration,
    /// Time spent in cutting faces out, all together.
    pub align: Duration,
    /// Time spent in the embedder, all faces together.
    pub embed: Duration,
    /// Time spent in comparing with the gallery, all faces together.
    pub compare: Duration,
}

/// Detector, embedder and gallery. It may move between threads; one thread uses it at a time.
pub struct FaceRecogniser {
    detector: Detector,
    embedder: Embedder,
    embedder_file: PathBuf,
    gallery: Option<Gallery>,
    warnings: Vec<String>,
}

// The element opens it on one thread and uses it on another.
const _: () = {
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<FaceRecogniser>();
};

impl FaceRecogniser {
    /// Loads both models and the gallery. A gallery of pictures takes a few runs of the models for each.
    ///
    /// # Errors
    /// Every [`FaceError`]; never panics.
    pub fn open(settings: &FaceSettings) -> Result<Self, FaceError> {
        let detector = Detector::open(&settings.detector)?;
        if !detector.has_landmarks() {
            return Err(FaceError::Model(ModelError::Unfit {
                path: settings.detector.model_file.clone(),
                purpose: "finding faces to recognise",
                cause: "it gives no landmarks of faces, which recognition needs; use a YuNet model to find faces"
                    .into(),
            }));
        }
        let embedder = Embedder::open(&settings.embedder).map_err(FaceError::Embedder)?;
        let mut recogniser = Self {
            detector,
            embedder,
            embedder_file: settings.embedder.model_file.clone(),
            gallery: None,
            warnings: Vec::new(),
        };
        if let Some(path) = &settings.gallery {
            recogniser.open_gallery(path)?;
        }
        Ok(recogniser)
    }

    /// Replaces the gallery with one from a directory of pictures or a file of embeddings. The old one stays on an error.
    ///
    /// # Errors
    /// Every [`FaceError`].
    pub fn open_gallery(&mut self, path: &Path) -> Result<(), FaceError> {
        let dimension = self.embedder.dimension();
        let (gallery, warnings) = if path.is_dir() {
            Gallery::from_directory(path, dimension, |picture| self.largest_face(picture))?
        } else {
            (Gallery::load(path)?, Vec::new())
        };
        if gallery.dimension() != dimension {
            return Err(FaceError::Dimension {
                gallery: path.to_owned(),
                gallery_dimension: gallery.dimension(),
                model: self.embedder_file.clone(),
                model_dimension: dimension,
            });
        }
        self.gallery = Some(gallery);
        self.warnings = warnings;
        Ok(())
    }

    /// The embedding of the largest face of a picture of the gallery, which may have any size.
    fn largest_face(&mut self, image: &RgbImage) -> Result<Option<Vec<f32>>, ModelError> {
        let (width, height) = image.dimensions();
        let longest = width.max(height);
        let picture = Picture::rgb(width, height, image.as_raw(), 3 * width as usize)?;
        let settings = InferSettings {
            floor: GALLERY_SCORE,
            ..InferSettings::default()
        };
        let mut found = Vec::new();
        for side in GALLERY_SIDES {
            let scale = (side as f32 / longest as f32).min(1.0);
            if scale == 1.0 && side != GALLERY_SIDES[0] {
                // The picture is no larger: the same search as at a smaller side.
                continue;
            }
            let faces = if scale < 1.0 {
                let size = |n: u32| ((n as f32 * scale).round() as u32).max(1);
                let (w, h) = (size(width), size(height));
                let small = imageops::resize(image, w, h, FilterType::Triangle);
                let small = Picture::rgb(w, h, small.as_raw(), 3 * w as usize)?;
                self.detector.infer(&small, &settings)?
            } else {
                self.detector.infer(&picture, &settings)?
            };
            for (d, landmarks) in faces.detections.iter().zip(faces.landmarks) {
                let corners = [d.x1, d.y1, d.x2, d.y2].map(|v| v / scale);
                found.extend(landmarks.map(|l| (corners, d.score, l.map(|p| p.map(|v| v / scale)))));
            }
        }
        let area = |[x1, y1, x2, y2]: [f32; 4]| (x2 - x1) * (y2 - y1);
        let Some((largest, ..)) = found.iter().copied().max_by(|a, b| area(a.0).total_cmp(&area(b.0))) else {
            return Ok(None);
        };
        let same = |[x1, y1, x2, y2]: [f32; 4]| {
            let (w, h) = (
                x2.min(largest[2]) - x1.max(largest[0]),
                y2.min(largest[3]) - y1.max(largest[1]),
            );
            w.max(0.0) * h.max(0.0) >= 0.5 * area(largest)
        };
        // The size at which the detector scores highest has the best landmarks.
        let best = found.iter().filter(|f| same(f.0)).max_by(|a, b| a.1.total_cmp(&b.1));
        match best {
            Some((_, _, landmarks)) => Ok(self.embedder.embed(&picture, landmarks)?.embedding),
            None => Ok(None),
        }
    }

    /// Finds the faces of one picture and their closest identities.
    ///
    /// # Errors
    /// As [`Detector::infer`].
    pub fn infer(
        &mut self,
        picture: &Picture<'_>,
        settings: &InferSettings,
        recognise: &RecogniseSettings,
    ) -> Result<FaceInference, ModelError> {
        let found = self.detector.infer(picture, settings)?;
        let mut result = FaceInference {
            embeddings: if recognise.keep_embeddings {
                vec![None; found.detections.len()]
            } else {
                Vec::new()
            },
            matches: vec![None; found.detections.len()],
            detections: found.detections,
            landmarks: found.landmarks,
            preprocess: found.preprocess,
            run: found.run,
            decode: found.decode,
            ..FaceInference::default()
        };
        let mut embedded = 0;
        for (i, face) in result.detections.iter().enumerate() {
            if face.score < recognise.threshold {
                // The list is sorted: the rest scores lower.
                break;
            }
            if (face.x2 - face.x1).min(face.y2 - face.y1) < recognise.min_size {
                result.too_small += 1;
                continue;
            }
            if embedded == recognise.max_faces {
                result.left_out += 1;
                continue;
            }
            embedded += 1;
            let vector = match &result.landmarks[i] {
                Some(landmarks) => self.embedder.embed(picture, landmarks)?,
                None => Embedded::default(),
            };
            result.align += vector.align;
            result.embed += vector.run;
            let Some(embedding) = vector.embedding else {
                result.senseless += 1;
                continue;
            };
            let start = Instant::now();
            result.matches[i] = self.gallery.as_ref().and_then(|g| g.closest(&embedding));
            result.compare += start.elapsed();
            if let Some(place) = result.embeddings.get_mut(i) {
                *place = Some(embedding);
            }
        }
        Ok(result)
    }

    /// The detector.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// The embedder.
    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// The gallery, if there is one.
    pub fn gallery(&self) -> Option<&Gallery> {
        self.gallery.as_ref()
    }

    /// Deviations from the settings that are no errors, one sentence each: of the models, then of the gallery.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        let models = self.detector.warnings().iter().chain(self.embedder.warnings());
        models.chain(&self.warnings).map(String::as_str)
    }

    /// One line for the log.
    pub fn summary(&self) -> String {
        let gallery = match &self.gallery {
            Some(g) => format!("{} faces of {} people", g.len(), g.names().count()),
            None => "no gallery".into(),
        };
        format!("{}; {}; {gallery}", self.detector.summary(), self.embedder.summary())
    }
}
