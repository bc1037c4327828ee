// SPDX-License-Identifier: MPL-2.0

//! The model, and the conversion of GStreamer frames for it.

use gst_video::prelude::*;

use super::settings::{Finds, Settings};
use crate::feedback::{Feedback, uncertainty};
use crate::merge::{self, Pass};
use crate::model::face::{FaceError, FaceRecogniser, Match};
use crate::model::{
    ColorMatrix, ColorRange, Detection, Landmarks, Model, ModelError, Picture, PixelLayout, Segmentation,
};
use crate::rate::{self, Tracks};
use crate::results::{self, Classes, Face, Object};
use crate::segmentation;

/// Number of converters kept: one for each of the two sizes of a stream's passes.
const CONVERTERS: usize = 2;

/// Output of the model for one picture.
#[derive(Debug, Default)]
pub struct Analysis {
    /// Objects in pixels of the picture, by descending score.
    pub detections: Vec<Detection>,
    /// Landmarks of each detection, where the model gives any.
    landmarks: Vec<Option<Landmarks>>,
    /// The most similar identity of each, where faces are recognised.
    matches: Vec<Option<Match>>,
    /// The class of each part of the picture.
    pub segmentation: Option<Segmentation>,
}

impl Analysis {
    /// A copy without the classes of the parts.
    pub fn without_map(&self) -> Self {
        Self {
            detections: self.detections.clone(),
            landmarks: self.landmarks.clone(),
            matches: self.matches.clone(),
            segmentation: None,
        }
    }

    /// The objects some captured pictures later, in a picture of this size. `tracks` has followed them.
    pub fn ahead(&self, tracks: &Tracks, ahead: u32, size: (u32, u32)) -> Self {
        let mut later = Self::default();
        for (index, detection) in self.detections.iter().enumerate() {
            let Some(there) = rate::predicted(detection, (tracks, index), ahead, size) else {
                continue;
            };
            let (dx, dy) = tracks.velocity(index);
            let landmarks = self.landmarks.get(index).copied().flatten();
            let moved = landmarks.map(|points| points.map(|[x, y]| [x + dx * ahead as f32, y + dy * ahead as f32]));
            later.detections.push(there);
            later.landmarks.push(moved);
            later.matches.push(self.matches.get(index).cloned().flatten());
        }
        later
    }
}

/// Why there is no analysis.
pub enum Failure {
    /// The frame cannot be mapped.
    Unreadable,
    /// The model or the format.
    Model(ModelError),
}

/// The models of the element's task.
#[allow(clippy::large_enum_variant, reason = "one is made per stream, and it lives as long")]
pub enum TaskEngine {
    /// No model: detections come from metas on the buffers.
    None,
    /// A model that finds objects, or the class of every part.
    Model(Model),
    /// Models that find faces and recognise them.
    Faces(FaceRecogniser),
}

impl TaskEngine {
    /// Loads the models that the settings name.
    ///
    /// # Errors
    /// One sentence with the cause and the cure.
    pub fn open(settings: &Settings) -> Result<Self, String> {
        if let Some(faces) = settings.faces()? {
            return FaceRecogniser::open(&faces).map(Self::Faces).map_err(|e| blamed(&e));
        }
        match settings.model() {
            Some(model) => Model::open(&model).map(Self::Model).map_err(|e| e.to_string()),
            None => Ok(Self::None),
        }
    }

    /// The kind of its detections.
    pub fn finds(&self) -> Finds {
        match self {
            Self::None => Finds::Metas,
            Self::Model(Model::Detector(detector)) => Finds::Boxes {
                suppressed: detector.suppresses(),
            },
            Self::Model(Model::Segmenter(_)) => Finds::Classes,
            Self::Faces(_) => Finds::Identities,
        }
    }

    /// One line for the log.
    pub fn summary(&self) -> String {
        match self {
            Self::None => "no model: detections come from metas on the buffers".into(),
            Self::Model(m) => m.summary().into(),
            Self::Faces(f) => f.summary(),
        }
    }

    /// Deviations from the settings that are no errors, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Model(m) => m.warnings().to_vec(),
            Self::Faces(f) => {
                let alone = f.gallery().is_none().then_some(
                    "embedding-model-file: without a gallery faces are compared with nobody; set gallery, or unset \
                     embedding-model-file",
                );
                f.warnings().chain(alone).map(str::to_owned).collect()
            }
        }
    }

    /// Why `feedback-classes` has no full effect, in one sentence.
    pub fn class_warning(&self, settings: &Settings) -> Option<String> {
        match self {
            Self::Model(Model::Segmenter(segmenter)) => settings.class_warning(segmenter.labels()),
            _ => (!settings.feedback_classes.trim().is_empty())
                .then(|| "feedback-classes: it is for models of segmentation; it has no effect on others".into()),
        }
    }
}

/// An error, prefixed with the property that it is about unless that is `model-file`.
fn blamed(error: &FaceError) -> String {
    match error {
        FaceError::Gallery { .. } | FaceError::Dimension { .. } => format!("gallery: {error}"),
        FaceError::Embedder(_) => format!("embedding-model-file: {error}"),
        FaceError::Model(_) => error.to_string(),
    }
}

/// Runs the model and turns its output into objects and regions.
pub struct Analyser {
    engine: TaskEngine,
    /// Labels of detections that came as metas, in order of appearance.
    meta_labels: Vec<String>,
    converters: Vec<Converter>,
}

impl Analyser {
    pub fn new(engine: TaskEngine) -> Self {
        Self {
            engine,
            meta_labels: Vec::new(),
            converters: Vec::new(),
        }
    }

    /// Whether its objects choose the rate: those of a detector. Every part of a picture may matter to a segmenter, any picture
    /// may be the one in which a face is recognised, and of metas it is not known how they were found.
    pub fn chooses_rate(&self) -> bool {
        matches!(&self.engine, TaskEngine::Model(Model::Detector(detector)) if !detector.has_landmarks())
    }

    /// Whether results between looked-at frames can be predicted: there are boxes of a model.
    pub fn predicts(&self) -> bool {
        matches!(
            self.engine,
            TaskEngine::Model(Model::Detector(_)) | TaskEngine::Faces(_)
        )
    }

    /// Whether there is a model. Without one, detections come from metas on the buffers.
    pub fn has_model(&self) -> bool {
        !matches!(self.engine, TaskEngine::None)
    }

    /// Names of the classes.
    pub fn labels(&self) -> &[String] {
        match &self.engine {
            TaskEngine::None => &self.meta_labels,
            TaskEngine::Model(m) => m.labels(),
            TaskEngine::Faces(f) => f.detector().labels(),
        }
    }

    /// As [`TaskEngine::class_warning`].
    pub fn class_warning(&self, settings: &Settings) -> Option<String> {
        self.engine.class_warning(settings)
    }

    /// Name of a class.
    fn label(&self, class: u32) -> String {
        self.labels()
            .get(class as usize)
            .cloned()
            .unwrap_or_else(|| format!("class {class}"))
    }

    /// Regions of a frame to request from the camera. `frame` and `interval` as in [`Feedback::regions`].
    pub fn regions(
        &self,
        feedback: &mut Feedback,
        (frame, interval): (u64, u32),
        analysis: &Analysis,
        settings: &Settings,
        (width, height): (u32, u32),
    ) -> Vec<dds_protocol::feedback::Region> {
        match (&self.engine, &analysis.segmentation) {
            (TaskEngine::Model(Model::Segmenter(segmenter)), Some(map)) => {
                let policy = settings.uncertainty(segmenter.labels(), segmenter.background());
                let quality = feedback.settings().quality;
                uncertainty::regions(&policy, map, width, height, settings.feedback_ttl_ms, quality)
            }
            (TaskEngine::Faces(_), _) => feedback.face_regions(
                frame,
                interval,
                &analysis.detections,
                &analysis.matches,
                &settings.face_policy(),
                width,
                height,
            ),
            _ => feedback.regions(frame, interval, &analysis.detections, width, height),
        }
    }

    /// Objects of one pass, found in pixels of `from`, in pixels of `to`.
    pub fn objects(
        &self,
        analysis: &Analysis,
        pass: Pass,
        settings: &Settings,
        from: (u32, u32),
        to: (u32, u32),
    ) -> Vec<Object> {
        let all = analysis.detections.iter().enumerate();
        all.flat_map(|(index, detection)| {
            self.object(
                (analysis, from),
                &enlarged(detection, from, to),
                index,
                pass,
                settings,
                to,
            )
        })
        .collect()
    }

    /// Objects of both passes by the rule of [`merge`], in pixels of `to`; the first was found in pixels of `from`.
    pub fn merged_objects(
        &self,
        (first, second): (&Analysis, &Analysis),
        settings: &Settings,
        from: (u32, u32),
        to: (u32, u32),
    ) -> Vec<Object> {
        let detections: Vec<Detection> = first.detections.iter().map(|d| enlarged(d, from, to)).collect();
        let merged = merge::merge(&detections, &second.detections, &settings.merge());
        merged
            .iter()
            .flat_map(|m| {
                let analysis = if m.pass == Pass::First {
                    (first, from)
                } else {
                    (second, to)
                };
                self.object(analysis, &m.detection, m.index, m.pass, settings, to)
            })
            .collect()
    }

    /// One detection as an object, if its score is high enough.
    fn object(
        &self,
        (analysis, from): (&Analysis, (u32, u32)),
        detection: &Detection,
        index: usize,
        pass: Pass,
        settings: &Settings,
        size: (u32, u32),
    ) -> Option<Object> {
        let one = std::slice::from_ref(detection);
        let threshold = settings.box_confidence_threshold;
        let mut object = results::objects_of(one, threshold, |c| self.label(c), size.0, size.1).pop()?;
        object.pass = pass.number();
        object.face = analysis.matches.get(index).and_then(Option::as_ref).map(|m| Face {
            identity: (m.similarity >= settings.similarity_threshold).then(|| m.name.to_string()),
            similarity: m.similarity,
        });
        let landmarks = analysis.landmarks.get(index).copied().flatten();
        let (x, y) = ratios(from, size);
        object.landmarks = landmarks.map(|points| points.map(|[px, py]| [px * x, py * y]));
        Some(object)
    }

    /// The classes of a picture, for the results.
    pub fn classes(&self, analysis: &Analysis, settings: &Settings) -> Option<Classes> {
        let map = analysis.segmentation.as_ref()?;
        let areas = segmentation::areas(map).into_iter();
        Some(Classes {
            areas: areas
                .map(|a| (u32::from(a.class), self.label(u32::from(a.class)), a.area))
                .collect(),
            map: settings.segmentation_map.then(|| segmentation::map_json(map)),
        })
    }

    /// Checks that frames of this layout can be read.
    pub fn prepare(&mut self, info: &gst_video::VideoInfo) -> Result<(), glib::BoolError> {
        if self.has_model() && layout_of(info.format()).is_none() {
            let converter = self.converter(info)?;
            self.converters.push(converter);
        }
        Ok(())
    }

    /// Runs the model on one frame.
    pub fn analyse(
        &mut self,
        buffer: &gst::BufferRef,
        info: &gst_video::VideoInfo,
        settings: &Settings,
    ) -> Result<Analysis, Failure> {
        if !self.has_model() {
            return Ok(Analysis {
                detections: self.detections_from_metas(buffer),
                ..Analysis::default()
            });
        }
        let frame =
            gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(|_| Failure::Unreadable)?;
        if layout_of(info.format()).is_some() {
            return self.run(&picture(&frame).map_err(Failure::Model)?, settings);
        }
        let mut converter = self
            .converter(info)
            .map_err(|e| Failure::Model(ModelError::Picture(e.to_string())))?;
        converter.run(&frame);
        let analysis = self.run(
            &picture(&converter.output.as_video_frame_ref()).map_err(Failure::Model)?,
            settings,
        );
        self.converters.push(converter);
        analysis
    }

    fn run(&mut self, picture: &Picture<'_>, settings: &Settings) -> Result<Analysis, Failure> {
        let infer = settings.infer();
        match &mut self.engine {
            TaskEngine::None => Ok(Analysis::default()),
            TaskEngine::Model(Model::Detector(detector)) => detector.infer(picture, &infer).map(|found| Analysis {
                detections: found.detections,
                landmarks: found.landmarks,
                ..Analysis::default()
            }),
            TaskEngine::Model(Model::Segmenter(segmenter)) => {
                segmenter.infer(picture, &settings.segment()).map(|map| Analysis {
                    segmentation: Some(map),
                    ..Analysis::default()
                })
            }
            TaskEngine::Faces(faces) => faces
                .infer(picture, &infer, &settings.recognise())
                .map(|found| Analysis {
                    detections: found.detections,
                    landmarks: found.landmarks,
                    matches: found.matches,
                    segmentation: None,
                }),
        }
        .map_err(Failure::Model)
    }

    /// Removes the converter for `info` from the store, or makes one.
    fn converter(&mut self, info: &gst_video::VideoInfo) -> Result<Converter, glib::BoolError> {
        if let Some(index) = self.converters.iter().position(|c| c.input == *info) {
            return Ok(self.converters.swap_remove(index));
        }
        if self.converters.len() >= CONVERTERS {
            self.converters.remove(0);
        }
        Converter::new(info)
    }

    /// Detections that another element has attached: any region of interest meta, with the confidence of a `detection`
    /// structure as DL Streamer writes it, or 1 where there is none.
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

/// Ratios of the sizes of two pictures.
fn ratios(from: (u32, u32), to: (u32, u32)) -> (f32, f32) {
    let ratio = |from: u32, to: u32| to as f32 / from.max(1) as f32;
    (ratio(from.0, to.0), ratio(from.1, to.1))
}

/// A detection in pixels of a picture of another size.
fn enlarged(d: &Detection, from: (u32, u32), to: (u32, u32)) -> Detection {
    let (x, y) = ratios(from, to);
    Detection {
        x1: d.x1 * x,
        y1: d.y1 * y,
        x2: d.x2 * x,
        y2: d.y2 * y,
        ..*d
    }
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

/// Converts formats that the model does not read to RGB.
struct Converter {
    input: gst_video::VideoInfo,
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
            input: info.clone(),
            converter: gst_video::VideoConverter::new(info, &rgb, None)?,
            output,
        })
    }

    fn run(&mut self, frame: &gst_video::VideoFrameRef<&gst::BufferRef>) {
        self.converter
            .frame_ref(frame, &mut self.output.as_mut_video_frame_ref());
    }
}
