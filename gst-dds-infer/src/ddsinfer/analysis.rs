// SPDX-License-Identifier: MPL-2.0

//! The model and what it needs to see a GStreamer frame.

use gst_video::prelude::*;

use super::settings::Settings;
use crate::model::{ColorMatrix, ColorRange, Detection, Detector, ModelError, Picture, PixelLayout};

/// Converters kept: the two sizes that the passes of one stream have.
const CONVERTERS: usize = 2;

/// What the model said of one picture.
#[derive(Debug, Default)]
pub struct Answer {
    /// Objects in pixels of the picture, by descending score.
    pub detections: Vec<Detection>,
}

/// Why there is no answer.
pub enum Failure {
    /// The frame cannot be mapped.
    Unreadable,
    /// The model or the format.
    Model(ModelError),
}

/// Runs the model.
pub struct Analyst {
    detector: Option<Detector>,
    /// Labels of detections that came as metas, in order of appearance.
    meta_labels: Vec<String>,
    converters: Vec<Converter>,
}

impl Analyst {
    pub fn new(detector: Option<Detector>) -> Self {
        Self {
            detector,
            meta_labels: Vec::new(),
            converters: Vec::new(),
        }
    }

    /// Whether there is a model. Without one, detections come from metas on the buffers.
    pub fn has_model(&self) -> bool {
        self.detector.is_some()
    }

    /// Names of the classes.
    pub fn labels(&self) -> &[String] {
        self.detector.as_ref().map_or(&self.meta_labels, |d| d.labels())
    }

    /// Name of a class.
    pub fn label(&self, class: u32) -> String {
        self.labels()
            .get(class as usize)
            .cloned()
            .unwrap_or_else(|| format!("class {class}"))
    }

    /// Checks that frames of this layout can be read.
    pub fn prepare(&mut self, info: &gst_video::VideoInfo) -> Result<(), glib::BoolError> {
        if self.has_model() && layout_of(info.format()).is_none() {
            let converter = self.converter(info)?;
            self.converters.push(converter);
        }
        Ok(())
    }

    /// Looks at one frame.
    pub fn analyse(
        &mut self,
        buffer: &gst::BufferRef,
        info: &gst_video::VideoInfo,
        settings: &Settings,
    ) -> Result<Answer, Failure> {
        if !self.has_model() {
            return Ok(Answer {
                detections: self.detections_from_metas(buffer),
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
        let answer = self.run(
            &picture(&converter.output.as_video_frame_ref()).map_err(Failure::Model)?,
            settings,
        );
        self.converters.push(converter);
        answer
    }

    fn run(&mut self, picture: &Picture<'_>, settings: &Settings) -> Result<Answer, Failure> {
        let Some(detector) = &mut self.detector else {
            return Ok(Answer::default());
        };
        let inference = detector.infer(picture, &settings.infer()).map_err(Failure::Model)?;
        Ok(Answer {
            detections: inference.detections,
        })
    }

    /// Takes the converter for `info` out of the store.
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
