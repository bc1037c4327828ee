// SPDX-License-Identifier: MPL-2.0

//! Detectors and segmenters: ONNX Runtime loading, model description, pre-processing, decoding and non-maximum
//! suppression.
//!
//! Nothing here depends on GStreamer elements: a [`Picture`] of borrowed planes goes in, [`Detection`]s in pixels of
//! that picture or a [`Segmentation`] of it come out. [`Model::open`] determines which of both a model gives.
//!
//! ```no_run
//! use gstddsinfer::model::{Detector, InferSettings, ModelSettings, Picture};
//!
//! # fn main() -> Result<(), gstddsinfer::model::ModelError> {
//! let mut detector = Detector::open(&ModelSettings { model_file: "model.onnx".into(), ..Default::default() })?;
//! let rgb = vec![0u8; 640 * 480 * 3];
//! let picture = Picture::rgb(640, 480, &rgb, 640 * 3)?;
//! for d in detector.infer(&picture, &InferSettings::default())?.detections {
//!     println!("{} {:.2}", detector.label(d.class), d.score);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Tasks
//!
//! | task | recognised by its outputs | read by |
//! |---|---|---|
//! | `segmentation` | [1, C, h, w] floating point scores of C classes, 2 to 256; or class numbers [1, h, w] as integers, [1, 1, h, w] as any; h and w no larger than the input; several outputs if all have this size, of which the first counts | [`Segmenter`] |
//! | `face` | the twelve of YuNet: `cls_`, `obj_`, `bbox_` and `kps_` with 8, 16 and 32 | [`Detector`], which gives landmarks too |
//! | `detection` | anything else; see the table of families below | [`Detector`] |
//!
//! [`ModelSettings::task`] and then `dds-task` win over the outputs; a named family is a detector. A task that does not
//! fit the outputs is an error.
//!
//! # Describing a model
//!
//! Sources, strongest first: the property `model-description`, GStreamer's `.modelinfo` side file, the metadata inside
//! the ONNX file (as Ultralytics writes it), the shapes of the outputs. A source that contradicts the model or itself
//! is an error. So is one that cannot be read, unless the user did not choose it (the metadata) or a stronger source
//! sets the same field (the side file): then it is left out with a warning.
//!
//! Dimensions of outputs that the model declares dynamic may change with every picture: rows of boxes, down to none,
//! and the size of a map. A fixed dimension that comes out different is an error.
//!
//! The property is a list of `key=value` separated by commas, with an optional name in front and optional types, as in
//! a GstStructure: `model, dds-family=yolox, dds-mean=<0, 0, 0>`. The same keys stand in the section `[modelinfo]` of
//! the side file; in the property the prefix `dds-` may be left out. Lists are separated by `;` (or, in the side file
//! and inside `<>`, `{}`, `[]` or quotes, by `,`).
//!
//! | key | value | default |
//! |---|---|---|
//! | `dds-task` | `detection`, `segmentation`, `face` | by shape |
//! | `dds-family` | `yolov5` (v7), `yolov8` (v9, yolo11), `yolov10` (any end-to-end: [1, k, 6], [k, 6], [k, 7]), `yolox`, `nanodet`, `ssd`, `torchvision`, `yunet` | by shape |
//! | `dds-color` | `rgb`, `bgr`: order of the input's channels | `bgr` for yolox, nanodet and yunet, else `rgb` |
//! | `dds-resize` | `letterbox` (picture at the top left), `letterbox-center`, `stretch` | `stretch` for nanodet, ssd, torchvision and segmentation, else `letterbox` |
//! | `dds-pad` | 0 to 255: value around a letterboxed picture | 114, 0 for yunet |
//! | `dds-scale` | factor on samples of 0 to 255 | 1/255 for yolov5, yolov8, yolov10, torchvision and segmentation; else 1 |
//! | `dds-mean`, `dds-std` | one or three numbers in the input's channel order: input = (sample * scale - mean) / std | 0, 1; where none of scale, mean and std is given, those of its training for nanodet and those of ImageNet for segmentation (0.485, 0.456, 0.406; 0.229, 0.224, 0.225) |
//! | `dds-labels` | names of the classes, or one file name ending in `.txt` (relative to the side file) with one name per line | metadata; else COCO for a detector of 80 classes, Cityscapes for a segmentation of 19 or 20, Pascal VOC for one of 21 |
//! | `dds-decoded` | `true`, `false`: whether a YOLOX model gives pixels | by value |
//! | `dds-scores` | `probability`, `logit` | `logit` for segmentation, else `probability` |
//! | `dds-objectness` | name of an output, or of any tensor inside the model, that holds one objectness for each row of scores, as `dds-scores` has it: for yolov8, nanodet and torchvision, which have none | none |
//! | `dds-first-class` | number that the model (ssd, torchvision) gives its first class; lower ones are dropped | 0 |
//! | `dds-width`, `dds-height` | input size of a model of dynamic size | frame size, rounded up to 32 |
//!
//! Labels come from the label file (one name per line, or a list as JSON or Python write it), then `dds-labels`, then the metadata; without any they are those of the table, `face`
//! for yunet, else `class N`. Ultralytics' own tools centre the letterbox; a convolutional network finds the same at
//! the top left, the default here.
//!
//! Of GStreamer's own keys, these are understood: a tensor's `id` (`yolo-v8-out`, `yolo-26-end2end-out`,
//! `ssd-mobilenet-v1-variant-1-out-*`), `dir`, `dims` and, for the input, `ranges`.
//!
//! # Tensors inside a model
//!
//! [`ModelSettings::extra_outputs`] and `dds-objectness` name tensors by the outputs of their nodes, as a viewer for ONNX
//! files shows them; they need not be outputs of the model. The model is then read into memory and changed there, which
//! does not work where its weights lie in another file.
//!
//! # The ONNX Runtime library
//!
//! It is loaded once per process, by the first [`Model::open`] (or [`Detector::open`]) that finds one, version 1.20 or
//! newer. It is searched in this order: [`ModelSettings::library`], alone if set; the variable `ORT_DYLIB_PATH`, alone
//! if set (both take a file, a directory or a name for the loader); the directory of this plugin; the directory
//! `onnxruntime` beside that one; `$XDG_DATA_HOME/gst-dds/onnxruntime` (`~/.local/share/gst-dds/onnxruntime`); the
//! loader's own paths, by the names `libonnxruntime.so.1`, `libonnxruntime.so` and `libonnxruntime.so.1.NN`.

mod boxes;
mod decode;
mod description;
mod detector;
mod error;
mod exposed;
pub mod face;
mod labels;
mod nms;
mod open;
mod picture;
mod preprocess;
mod runtime;
mod segmenter;
mod session;
mod task;
mod types;

pub use boxes::BoundingBox;
pub use detector::Detector;
pub use error::{ModelError, SETUP_COMMAND};
pub use open::Model;
pub use picture::{ColorMatrix, ColorRange, Picture, PixelLayout};
pub use runtime::open_session;
pub use segmenter::{SegmentSettings, Segmentation, Segmenter};
pub use task::Task;
pub use types::{Detection, InferSettings, Inference, Landmarks, ModelSettings};
