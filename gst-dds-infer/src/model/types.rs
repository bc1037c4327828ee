// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Settings and results of models.

use std::path::PathBuf;
use std::time::Duration;

use super::Task;

/// One detected object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Left edge in pixels of the input picture, clipped to it.
    pub x1: f32,
    /// Top edge in pixels of the input picture, clipped to it.
    pub y1: f32,
    /// Right edge in pixels of the input picture, clipped to it; at least `x1`.
    pub x2: f32,
    /// Bottom edge in pixels of the input picture, clipped to it; at least `y1`.
    pub y2: f32,
    /// Confidence, 0 to 1 (class score, times objectness where the model has one).
    pub score: f32,
    /// Class-free objectness, 0 to 1, where the model has one (YOLOv5, YOLOv7, YOLOX, YuNet) or `dds-objectness` names one.
    pub objectness: Option<f32>,
    /// Class number: index into [`Detector::labels`](super::Detector::labels).
    pub class: u32,
}

/// Five points of a face, `[x, y]` in pixels of the input picture, not clipped to it: right eye, left eye, tip of the
/// nose, right and left corner of the mouth. Right and left are the person's: the right eye lies at the left of the
/// picture.
pub type Landmarks = [[f32; 2]; 5];

/// Settings of [`Model::open`](super::Model::open); none changes while a model is open.
#[derive(Debug, Clone, Default)]
pub struct ModelSettings {
    /// The ONNX model.
    pub model_file: PathBuf,
    /// One label per line, first line is class 0. Wins over every other source of labels.
    pub label_file: Option<PathBuf>,
    /// `key=value` pairs separated by commas, e.g. `dds-family=yolox, dds-color=bgr`. Wins over the `.modelinfo` file.
    pub description: Option<String>,
    /// The ONNX Runtime shared library; `None` searches for it.
    pub library: Option<PathBuf>,
    /// Comma separated execution providers in the order to try: `cpu`, `cuda`, `tensorrt`, `openvino`. Empty means `cpu`.
    pub execution_providers: String,
    /// Task of the model; `None` takes it from the description and the outputs.
    pub task: Option<Task>,
    /// Names of tensors inside the model to make outputs too; one that is an output already changes nothing.
    pub extra_outputs: Vec<String>,
    /// Threads of ONNX Runtime inside one operation; 0 lets ONNX Runtime choose.
    pub threads: u32,
}

/// Settings that may change from one frame to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InferSettings {
    /// Detections of a lower score are dropped, 0 to 1.
    pub floor: f32,
    /// Two boxes of one class that overlap by more (intersection over union, 0 to 1) are one object.
    pub iou_threshold: f32,
    /// Most detections of one frame, best first.
    pub max_detections: usize,
}

impl Default for InferSettings {
    fn default() -> Self {
        Self {
            floor: 0.05,
            iou_threshold: 0.45,
            max_detections: 300,
        }
    }
}

/// The result of one frame.
#[derive(Debug, Clone, Default)]
pub struct Inference {
    /// Objects after non-maximum suppression, by descending score, none below [`InferSettings::floor`].
    pub detections: Vec<Detection>,
    /// The landmarks of each detection, in the order of `detections`; `None` where the model gives none (all but YuNet).
    pub landmarks: Vec<Option<Landmarks>>,
    /// Time spent turning the picture into the model's input.
    pub preprocess: Duration,
    /// Time spent in the ONNX Runtime call.
    pub run: Duration,
    /// Time spent in decoding and non-maximum suppression.
    pub decode: Duration,
}
