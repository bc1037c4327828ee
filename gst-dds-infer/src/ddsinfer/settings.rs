// SPDX-License-Identifier: MPL-2.0

//! The property table.

use std::path::PathBuf;
use std::sync::LazyLock;

use glib::prelude::*;
use gst::prelude::*;
use gst_dds_link::channel::Setup;
use gst_dds_link::text;

use super::{FeedbackPolicy, ResultsRate, TaskChoice};
use crate::feedback::uncertainty::UncertaintySettings;
use crate::feedback::{FacePolicy, Policy, PolicySettings};
use crate::merge::MergeSettings;
use crate::model::face::{FaceSettings, RecogniseSettings};
use crate::model::{InferSettings, ModelSettings, SegmentSettings, Task};

mod conflicts;

pub use conflicts::Finds;

/// Scores below this are noise to results and policies alike.
const FLOOR: f32 = 0.05;

#[derive(Clone, Debug)]
pub struct Settings {
    pub model_file: Option<PathBuf>,
    pub label_file: Option<PathBuf>,
    pub model_description: Option<String>,
    pub onnxruntime_library: Option<PathBuf>,
    pub execution_provider: String,
    pub threads: u32,
    pub task: TaskChoice,
    pub extra_outputs: String,
    pub embedding_model_file: Option<PathBuf>,
    pub gallery: Option<PathBuf>,
    pub similarity_threshold: f32,
    pub min_face_size: u32,
    pub segmentation_map: bool,
    pub analytics_meta: bool,
    pub feedback_classes: String,
    pub feedback_windows: u32,
    pub feedback_window_size: u32,
    pub inference_interval: u32,
    pub box_confidence_threshold: f32,
    pub iou_threshold: f32,
    pub max_detections: u32,
    pub feedback: bool,
    pub feedback_rate: bool,
    pub feedback_policy: FeedbackPolicy,
    pub feedback_threshold: f32,
    pub feedback_band: f32,
    pub feedback_padding: u32,
    pub feedback_max_regions: u32,
    pub feedback_ttl_ms: u32,
    pub feedback_objectness: bool,
    pub channel: Setup,
    pub refine_deadline_ms: u32,
    pub results_rate: ResultsRate,
    pub capture_clock_synchronised: bool,
    /// Properties whose value is not UTF-8; start refuses them.
    pub not_text: Vec<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        let policy = PolicySettings::default();
        Self {
            model_file: None,
            label_file: None,
            model_description: None,
            onnxruntime_library: None,
            execution_provider: "cpu".into(),
            threads: 0,
            task: TaskChoice::Auto,
            extra_outputs: String::new(),
            embedding_model_file: None,
            gallery: None,
            similarity_threshold: FacePolicy::default().threshold,
            min_face_size: RecogniseSettings::default().min_size as u32,
            segmentation_map: false,
            analytics_meta: true,
            feedback_classes: String::new(),
            feedback_windows: UncertaintySettings::default().windows as u32,
            feedback_window_size: UncertaintySettings::default().window,
            inference_interval: 1,
            box_confidence_threshold: 0.3,
            iou_threshold: 0.6,
            max_detections: 300,
            feedback: true,
            feedback_rate: true,
            feedback_policy: FeedbackPolicy::default(),
            feedback_threshold: -1.0,
            feedback_band: policy.band,
            feedback_padding: policy.padding,
            feedback_max_regions: policy.max_regions as u32,
            feedback_ttl_ms: policy.ttl_ms,
            feedback_objectness: policy.use_objectness,
            channel: Setup::default(),
            refine_deadline_ms: 250,
            results_rate: ResultsRate::default(),
            capture_clock_synchronised: false,
            not_text: Vec::new(),
        }
    }
}

impl Settings {
    /// Checks for values that cannot be used.
    ///
    /// # Errors
    /// One sentence that names the property.
    pub fn check(&self) -> Result<(), String> {
        match self.not_text.first() {
            Some(name) => Err(format!("{name}: its value is not UTF-8. Write it in UTF-8.")),
            None => Ok(()),
        }
    }

    /// `None` without a model file: then detections come from metas already on the buffers.
    pub fn model(&self) -> Option<ModelSettings> {
        Some(ModelSettings {
            model_file: self.model_file.clone()?,
            label_file: self.label_file.clone(),
            description: self.model_description.clone(),
            task: match self.task {
                TaskChoice::Auto => None,
                TaskChoice::Detection => Some(Task::Detection),
                TaskChoice::Segmentation => Some(Task::Segmentation),
                TaskChoice::Face => Some(Task::Face),
            },
            extra_outputs: names(&self.extra_outputs).map(str::to_owned).collect(),
            ..self.runtime()
        })
    }

    /// Settings of the runtime, the same for all models.
    fn runtime(&self) -> ModelSettings {
        ModelSettings {
            library: self.onnxruntime_library.clone(),
            execution_providers: self.execution_provider.clone(),
            threads: self.threads,
            ..ModelSettings::default()
        }
    }

    /// Both models and the gallery of a face recogniser; `None` where faces are not to be recognised.
    ///
    /// # Errors
    /// Settings that contradict each other, in one sentence.
    pub fn faces(&self) -> Result<Option<FaceSettings>, String> {
        let Some(embedder) = &self.embedding_model_file else {
            return match &self.gallery {
                Some(_) => Err("gallery: faces are compared by what a second model makes of them; set \
                                embedding-model-file too, or remove gallery"
                    .into()),
                None => Ok(None),
            };
        };
        if !matches!(self.task, TaskChoice::Auto | TaskChoice::Face) {
            return Err("embedding-model-file: it is for faces only; set task=face or remove one of the two".into());
        }
        let Some(detector) = self.model() else {
            return Err(
                "embedding-model-file: faces must be found first; set model-file to a detector of faces \
                        (YuNet)"
                    .into(),
            );
        };
        Ok(Some(FaceSettings {
            detector,
            embedder: ModelSettings {
                model_file: embedder.clone(),
                ..self.runtime()
            },
            gallery: self.gallery.clone(),
        }))
    }

    /// How faces are recognised.
    pub fn recognise(&self) -> RecogniseSettings {
        RecogniseSettings {
            threshold: self.box_confidence_threshold,
            min_size: self.min_face_size as f32,
            ..RecogniseSettings::default()
        }
    }

    /// Which faces are undecided.
    pub fn face_policy(&self) -> FacePolicy {
        FacePolicy {
            threshold: self.similarity_threshold,
            band: self.feedback_band,
            ..FacePolicy::default()
        }
    }

    /// Settings of a segmenter. Uncertainty takes time, and only feedback needs it.
    pub fn segment(&self) -> SegmentSettings {
        SegmentSettings {
            uncertainty: self.feedback,
        }
    }

    /// Which parts of a segmented picture become regions. Entries of `feedback-classes` that the model does not have are
    /// ignored; where it has none of them, nothing becomes a region.
    pub fn uncertainty(&self, labels: &[String], background: Option<u8>) -> UncertaintySettings {
        let wanted = || names(&self.feedback_classes);
        let classes: Vec<u8> = wanted().filter_map(|name| class_number(name, labels)).collect();
        // An empty list would mean every class.
        let nothing = classes.is_empty() && wanted().next().is_some();
        UncertaintySettings {
            windows: if nothing { 0 } else { self.feedback_windows as usize },
            window: self.feedback_window_size,
            classes,
            background: background.into_iter().collect(),
            ..UncertaintySettings::default()
        }
    }

    /// The names in `feedback-classes` that are none of these labels, in one sentence.
    pub fn class_warning(&self, labels: &[String]) -> Option<String> {
        let unknown: Vec<&str> = names(&self.feedback_classes)
            .filter(|name| class_number(name, labels).is_none())
            .collect();
        let known = match labels {
            [] => "its classes have no names and are 'class 0', 'class 1' and so on".into(),
            labels => format!("its classes are {}", labels.join(", ")),
        };
        (!unknown.is_empty()).then(|| {
            format!(
                "feedback-classes: the model has no class {}; {known}",
                unknown.join(", ")
            )
        })
    }

    pub fn infer(&self) -> InferSettings {
        InferSettings {
            floor: FLOOR,
            iou_threshold: self.iou_threshold,
            max_detections: self.max_detections as usize,
        }
    }

    pub fn policy<S: AsRef<str>>(&self, labels: &[S]) -> PolicySettings {
        let mut policy = PolicySettings {
            policy: match self.feedback_policy {
                FeedbackPolicy::Undecided => Policy::Undecided,
                FeedbackPolicy::Paper => Policy::Paper,
            },
            threshold: self.feedback_threshold(),
            band: self.feedback_band,
            use_objectness: self.feedback_objectness,
            padding: self.feedback_padding,
            max_regions: self.feedback_max_regions as usize,
            ttl_ms: self.feedback_ttl_ms,
            ..PolicySettings::default()
        };
        policy.paper.set_labels(labels);
        policy
    }

    /// Longest time that a frame waits for its second pass once that was requested.
    pub fn refine_deadline(&self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::from(self.refine_deadline_ms))
    }

    /// How the results of two passes are merged. Detections that the policy counts as decided in the first pass stay.
    pub fn merge(&self) -> MergeSettings {
        match self.feedback_policy {
            FeedbackPolicy::Paper => MergeSettings::PAPER,
            FeedbackPolicy::Undecided => MergeSettings {
                accept: self.feedback_threshold() + self.feedback_band,
                join: None,
                ..MergeSettings::PAPER
            },
        }
    }

    fn feedback_threshold(&self) -> f32 {
        if self.feedback_threshold < 0.0 {
            self.box_confidence_threshold
        } else {
            self.feedback_threshold
        }
    }

    /// Sets a property. Returns `false` for a property that is not a setting.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        fn get<'a, T: glib::value::FromValue<'a>>(value: &'a glib::Value) -> T {
            value.get().expect("type checked by the property's ParamSpec")
        }
        // C code may pass any bytes, and a path may consist of any bytes.
        let known = PROPERTIES.iter().find(|p| p.name() == name);
        let is_path = matches!(
            name,
            "model-file" | "label-file" | "onnxruntime-library" | "embedding-model-file" | "gallery"
        );
        if let Some(known) = known.filter(|_| !is_path) {
            self.not_text.retain(|name| *name != known.name());
            if text::bytes(value).is_some_and(|bytes| std::str::from_utf8(bytes).is_err()) {
                self.not_text.push(known.name());
                return true;
            }
        }
        match name {
            "model-file" => self.model_file = text::path(value),
            "label-file" => self.label_file = text::path(value),
            "model-description" => self.model_description = get(value),
            "onnxruntime-library" => self.onnxruntime_library = text::path(value),
            "execution-provider" => self.execution_provider = get::<Option<String>>(value).unwrap_or_default(),
            "threads" => self.threads = get(value),
            "task" => self.task = get(value),
            "extra-outputs" => self.extra_outputs = get::<Option<String>>(value).unwrap_or_default(),
            "embedding-model-file" => self.embedding_model_file = text::path(value),
            "gallery" => self.gallery = text::path(value),
            "similarity-threshold" => self.similarity_threshold = get(value),
            "min-face-size" => self.min_face_size = get(value),
            "segmentation-map" => self.segmentation_map = get(value),
            "analytics-meta" => self.analytics_meta = get(value),
            "feedback-classes" => self.feedback_classes = get::<Option<String>>(value).unwrap_or_default(),
            "feedback-windows" => self.feedback_windows = get(value),
            "feedback-window-size" => self.feedback_window_size = get(value),
            "inference-interval" => self.inference_interval = get(value),
            "box-confidence-threshold" => self.box_confidence_threshold = get(value),
            "iou-threshold" => self.iou_threshold = get(value),
            "max-detections" => self.max_detections = get(value),
            "feedback" => self.feedback = get(value),
            "feedback-rate" => self.feedback_rate = get(value),
            "feedback-policy" => self.feedback_policy = get(value),
            "feedback-threshold" => self.feedback_threshold = get(value),
            "feedback-band" => self.feedback_band = get(value),
            "feedback-padding" => self.feedback_padding = get(value),
            "feedback-max-regions" => self.feedback_max_regions = get(value),
            "feedback-ttl" => self.feedback_ttl_ms = get(value),
            "feedback-objectness" => self.feedback_objectness = get(value),
            "feedback-uri" => self.channel.uri = get::<Option<String>>(value).unwrap_or_default(),
            "feedback-key" => self.channel.key = get::<Option<String>>(value).unwrap_or_default(),
            "feedback-key-file" => self.channel.key_file = get::<Option<String>>(value).unwrap_or_default(),
            "feedback-plain" => self.channel.plain = get(value),
            "refine-deadline" => self.refine_deadline_ms = get(value),
            "results-rate" => self.results_rate = get(value),
            "capture-clock-synchronised" => self.capture_clock_synchronised = get(value),
            _ => return false,
        }
        true
    }

    /// A property's value; `None` for a property that is not a setting.
    pub fn get(&self, name: &str) -> Option<glib::Value> {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned()).to_value();
        Some(match name {
            "model-file" => text(&self.model_file),
            "label-file" => text(&self.label_file),
            "model-description" => self.model_description.to_value(),
            "onnxruntime-library" => text(&self.onnxruntime_library),
            "execution-provider" => self.execution_provider.to_value(),
            "threads" => self.threads.to_value(),
            "task" => self.task.to_value(),
            "extra-outputs" => self.extra_outputs.to_value(),
            "embedding-model-file" => text(&self.embedding_model_file),
            "gallery" => text(&self.gallery),
            "similarity-threshold" => self.similarity_threshold.to_value(),
            "min-face-size" => self.min_face_size.to_value(),
            "segmentation-map" => self.segmentation_map.to_value(),
            "analytics-meta" => self.analytics_meta.to_value(),
            "feedback-classes" => self.feedback_classes.to_value(),
            "feedback-windows" => self.feedback_windows.to_value(),
            "feedback-window-size" => self.feedback_window_size.to_value(),
            "inference-interval" => self.inference_interval.to_value(),
            "box-confidence-threshold" => self.box_confidence_threshold.to_value(),
            "iou-threshold" => self.iou_threshold.to_value(),
            "max-detections" => self.max_detections.to_value(),
            "feedback" => self.feedback.to_value(),
            "feedback-rate" => self.feedback_rate.to_value(),
            "feedback-policy" => self.feedback_policy.to_value(),
            "feedback-threshold" => self.feedback_threshold.to_value(),
            "feedback-band" => self.feedback_band.to_value(),
            "feedback-padding" => self.feedback_padding.to_value(),
            "feedback-max-regions" => self.feedback_max_regions.to_value(),
            "feedback-ttl" => self.feedback_ttl_ms.to_value(),
            "feedback-objectness" => self.feedback_objectness.to_value(),
            "feedback-uri" => self.channel.uri.to_value(),
            "feedback-key-file" => self.channel.key_file.to_value(),
            "feedback-plain" => self.channel.plain.to_value(),
            "refine-deadline" => self.refine_deadline_ms.to_value(),
            "results-rate" => self.results_rate.to_value(),
            "capture-clock-synchronised" => self.capture_clock_synchronised.to_value(),
            _ => return None,
        })
    }
}

/// Number of the class of this name; a class without a label has the same name as in results.
fn class_number(name: &str, labels: &[String]) -> Option<u8> {
    let labelled = labels.iter().position(|l| l == name);
    let number = labelled.or_else(|| name.strip_prefix("class ")?.parse().ok().filter(|n| *n >= labels.len()));
    number.and_then(|n| u8::try_from(n).ok())
}

/// Names separated by commas.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// The table: what gst-inspect shows.
pub static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
    let d = Settings::default();
    vec![
        glib::ParamSpecString::builder("model-file")
            .nick("Model file")
            .blurb(
                "ONNX model that finds objects, classes or faces; without one, detections come from region of interest \
                 metas already on the buffers",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("label-file")
            .nick("Label file")
            .blurb("File of the model's labels, one per line and class 0 first; it wins over labels named elsewhere")
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("model-description")
            .nick("Model description")
            .blurb(
                "What the model expects and gives, by key=value pairs such as 'dds-family=yolox', separated by commas; wins over the .modelinfo file",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("onnxruntime-library")
            .nick("ONNX Runtime library")
            .blurb(
                "Path of libonnxruntime.so; unset: ORT_DYLIB_PATH, beside the plugin, the user's data directory, the system, in this order",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("execution-provider")
            .nick("Execution providers")
            .blurb(
                "Execution providers of ONNX Runtime, separated by commas and tried in order: cpu, cuda, tensorrt, \
                 openvino; the last resort is cpu",
            )
            .default_value(Some(d.execution_provider.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("threads")
            .nick("Threads")
            .blurb("Threads that ONNX Runtime uses inside one operation; 0 = its own choice")
            .maximum(1024)
            .default_value(d.threads)
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("task", d.task)
            .nick("Task")
            .blurb("What the model finds; auto = what its description and outputs tell")
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("extra-outputs")
            .nick("Extra outputs")
            .blurb(
                "Names of tensors inside the model, separated by commas, that become outputs too; the description says \
                 what they mean",
            )
            .default_value(Some(d.extra_outputs.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("embedding-model-file")
            .nick("Embedding model file")
            .blurb(
                "ONNX model that turns an aligned face into a vector; with it, the faces that model-file (YuNet) finds \
                 are recognised",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("gallery")
            .nick("Gallery")
            .blurb(
                "Faces that are known: a directory of pictures (NAME.jpg, NAME_2.png, NAME/*.jpg), or a JSON file of \
                 embeddings",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecFloat::builder("similarity-threshold")
            .nick("Similarity threshold")
            .blurb(
                "Least cosine of a face and the identity it looks like most for it to be that identity; right values \
                 differ between embedders",
            )
            .minimum(-1.0)
            .maximum(1.0)
            .default_value(d.similarity_threshold)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("min-face-size")
            .nick("Smallest face")
            .blurb("Least width and height in pixels of a face that is recognised; smaller ones are found only")
            .maximum(65_535)
            .default_value(d.min_face_size)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("segmentation-map")
            .nick("Segmentation map")
            .blurb(
                "Write the whole class map of a segmented picture into the results, run-length coded, beside the share \
                 of each class",
            )
            .default_value(d.segmentation_map)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("analytics-meta")
            .nick("Analytics meta")
            .blurb(
                "Attach objects as GstAnalytics metas too, beside region of interest metas of the same ids; takes \
                 GStreamer 1.24 or newer",
            )
            .default_value(d.analytics_meta)
            .mutable_playing()
            .build(),
        glib::ParamSpecString::builder("feedback-classes")
            .nick("Classes of interest")
            .blurb(
                "Labels, separated by commas, of the parts of a segmented picture that quality may be asked for; empty \
                 = all but the background",
            )
            .default_value(Some(d.feedback_classes.as_str()))
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("feedback-windows")
            .nick("Windows")
            .blurb("Most windows of a segmented picture that become regions, the most uncertain ones first")
            .maximum(256)
            .default_value(d.feedback_windows)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("feedback-window-size")
            .nick("Window size")
            .blurb("Side in pixels, in steps of 8, of the windows of a segmented picture that become regions")
            .minimum(8)
            .maximum(4096)
            .default_value(d.feedback_window_size)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("inference-interval")
            .nick("Inference interval")
            .blurb("Infer every n-th frame that the camera sent: 1 = every frame, 3 = one frame in three")
            .minimum(1)
            .default_value(d.inference_interval)
            .mutable_playing()
            .build(),
        glib::ParamSpecFloat::builder("box-confidence-threshold")
            .nick("Box confidence threshold")
            .blurb("Least score of a detection for it to be a result")
            .minimum(0.0)
            .maximum(1.0)
            .default_value(d.box_confidence_threshold)
            .mutable_playing()
            .build(),
        glib::ParamSpecFloat::builder("iou-threshold")
            .nick("IoU threshold")
            .blurb("Most overlap, as intersection over union, of two boxes of one class that are two objects")
            .minimum(0.0)
            .maximum(1.0)
            .default_value(d.iou_threshold)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("max-detections")
            .nick("Most detections")
            .blurb("Most detections per frame, the best ones first")
            .minimum(1)
            .maximum(100_000)
            .default_value(d.max_detections)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("feedback")
            .nick("Feedback")
            .blurb("Tell the camera which regions need more quality")
            .default_value(d.feedback)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("feedback-rate")
            .nick("Feedback of the rate")
            .blurb(
                "Tell the camera to send only as many pictures as the motion of the objects needs; false = all that it \
                 captures",
            )
            .default_value(d.feedback_rate)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("feedback-policy", d.feedback_policy)
            .nick("Feedback policy")
            .blurb("Rule by which detections become regions that the camera is asked for")
            .mutable_playing()
            .build(),
        glib::ParamSpecFloat::builder("feedback-threshold")
            .nick("Feedback threshold")
            .blurb(
                "Score in the middle of the band in which detections are undecided and ask for quality; -1 = \
                 box-confidence-threshold",
            )
            .minimum(-1.0)
            .maximum(1.0)
            .default_value(d.feedback_threshold)
            .mutable_playing()
            .build(),
        glib::ParamSpecFloat::builder("feedback-band")
            .nick("Feedback band")
            .blurb(
                "Distance of a score from feedback-threshold, up or down, within which a detection is undecided and \
                 asks for quality",
            )
            .minimum(0.0)
            .maximum(1.0)
            .default_value(d.feedback_band)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("feedback-padding")
            .nick("Feedback padding")
            .blurb("Pixels added on each side of an undecided box, for the region asked for")
            .maximum(1024)
            .default_value(d.feedback_padding)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("feedback-max-regions")
            .nick("Most regions")
            .blurb("Most regions asked for per frame, the most undecided ones first")
            .minimum(1)
            .maximum(256)
            .default_value(d.feedback_max_regions)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("feedback-ttl")
            .nick("Time to live")
            .blurb("Milliseconds for which the camera keeps a region without newer feedback")
            .maximum(600_000)
            .default_value(d.feedback_ttl_ms)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("feedback-objectness")
            .nick("Use objectness")
            .blurb(
                "Count boxes as undecided whose objectness lies in the band, too, with feedback-policy=undecided and \
                 models that give objectness",
            )
            .default_value(d.feedback_objectness)
            .mutable_playing()
            .build(),
        glib::ParamSpecString::builder("feedback-uri")
            .nick("Feedback address")
            .blurb(
                "Address of a channel for feedback where relays drop RTCP: udp://HOST:PORT or tcp://HOST:PORT of the \
                 camera, or ?mode=listener to await it",
            )
            .default_value(Some(""))
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("feedback-key")
            .nick("Feedback key")
            .blurb(
                "Secret that feedback-uri is sealed with, the same at both ends: 16 bytes or more as text or \
                 hex:DIGITS, needed beyond this machine",
            )
            .write_only()
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("feedback-key-file")
            .nick("Feedback key file")
            .blurb(
                "File that holds the key of feedback-uri, where it is not in feedback-key; a line end behind it does \
                 not count",
            )
            .default_value(Some(""))
            .mutable_ready()
            .build(),
        glib::ParamSpecBoolean::builder("feedback-plain")
            .nick("Feedback in the clear")
            .blurb(
                "Do without a key at feedback-uri: whoever reaches the port can steer the camera, and listeners see \
                 where people are",
            )
            .default_value(d.channel.plain)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("refine-deadline")
            .nick("Refinement deadline")
            .blurb(
                "Milliseconds that a frame waits for the second pass it was asked for, from a camera with \
                 mode=two-pass, before it goes out without",
            )
            .maximum(60_000)
            .default_value(d.refine_deadline_ms)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("results-rate", d.results_rate)
            .nick("Rate of results")
            .blurb("Captured pictures that have results: those inferred, or all, where the others' are predicted")
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("capture-clock-synchronised")
            .nick("Capture clock synchronised")
            .blurb(
                "Say that the camera's wall clock agrees with ours (NTP, PTP, same machine), so that results of live \
                 streams tell their age",
            )
            .default_value(d.capture_clock_synchronised)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb(
                "Counts of frames, access units, results and feedback, and times, as a structure whose fields \
                 gst-dds-infer/README.md describes",
            )
            .read_only()
            .build(),
    ]
});
