// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Description of a model: its family, the rules of its input, the labels of its classes.
//!
//! Sources, keys and defaults are listed in the documentation of the parent module.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use gst::glib;

use super::decode::Activation;
use super::{ModelError, Task, labels};

/// Origin of fields that come from the ONNX file itself.
const METADATA: &str = "the model's metadata";
/// Sides of an input that a description may ask for, in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 1..=16384;

/// Output layouts that have a decoder here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Yolov5,
    Yolov8,
    Yolov10,
    Yolox,
    Nanodet,
    Ssd,
    Torchvision,
    Yunet,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Yolov5 => "yolov5",
            Self::Yolov8 => "yolov8",
            Self::Yolov10 => "yolov10",
            Self::Yolox => "yolox",
            Self::Nanodet => "nanodet",
            Self::Ssd => "ssd",
            Self::Torchvision => "torchvision",
            Self::Yunet => "yunet",
        }
    }

    /// Input rules with which the family's published models were trained.
    pub(super) fn defaults(self) -> InputDefaults {
        let scale = match self {
            Self::Yolov5 | Self::Yolov8 | Self::Yolov10 | Self::Torchvision => 1.0 / 255.0,
            Self::Yolox | Self::Nanodet | Self::Ssd | Self::Yunet => 1.0,
        };
        let (mean, std) = match self {
            Self::Nanodet => ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]),
            _ => ([0.0; 3], [1.0; 3]),
        };
        InputDefaults {
            color: match self {
                Self::Yolox | Self::Nanodet | Self::Yunet => ColorOrder::Bgr,
                _ => ColorOrder::Rgb,
            },
            resize: match self {
                Self::Nanodet | Self::Ssd | Self::Torchvision => Resize::Stretch,
                _ => Resize::Letterbox,
            },
            pad: if self == Self::Yunet { 0.0 } else { 114.0 },
            scale,
            mean,
            std,
        }
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "yolov5" | "yolov7" => Self::Yolov5,
            "yolov8" | "yolov9" | "yolov11" | "yolo11" => Self::Yolov8,
            "yolov10" | "end-to-end" => Self::Yolov10,
            "yolox" => Self::Yolox,
            "nanodet" => Self::Nanodet,
            "ssd" => Self::Ssd,
            "torchvision" => Self::Torchvision,
            "yunet" => Self::Yunet,
            _ => return Err("one of yolov5, yolov8, yolov10, yolox, nanodet, ssd, torchvision, yunet".into()),
        })
    }
}

/// Order of the input's colour channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColorOrder {
    Rgb,
    Bgr,
}

impl FromStr for ColorOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "rgb" => Ok(Self::Rgb),
            "bgr" => Ok(Self::Bgr),
            _ => Err("rgb or bgr".into()),
        }
    }
}

/// How a picture is fitted into the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resize {
    Letterbox,
    LetterboxCenter,
    Stretch,
}

impl Resize {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Letterbox => "letterbox",
            Self::LetterboxCenter => "letterbox-center",
            Self::Stretch => "stretch",
        }
    }
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "letterbox" => Ok(Self::Letterbox),
            "letterbox-center" | "letterbox-centre" => Ok(Self::LetterboxCenter),
            "stretch" => Ok(Self::Stretch),
            _ => Err("letterbox, letterbox-center or stretch".into()),
        }
    }
}

/// A value and the source that gave it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sourced<T> {
    pub value: T,
    pub origin: String,
}

/// Section of one tensor in a side file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorNote {
    pub name: String,
    pub id: Option<String>,
    pub input: Option<bool>,
    /// -1 stands for any size.
    pub dims: Option<Vec<i64>>,
    pub ranges: Option<Vec<(f32, f32)>>,
}

impl TensorNote {
    /// Reads the section of a tensor.
    fn read(file: &glib::KeyFile, group: &str) -> Result<Self, String> {
        let get = |key: &str| file.string(group, key).ok().map(|v| v.trim().to_owned());
        let note = Self {
            name: group.to_string(),
            id: get("id"),
            input: match get("dir").as_deref() {
                None => None,
                Some("input") => Some(true),
                Some("output") => Some(false),
                Some(d) => return Err(format!("dir={d} is neither input nor output")),
            },
            dims: get("dims")
                .map(|d| list(&d).iter().map(|n| n.parse()).collect::<Result<_, _>>())
                .transpose()
                .map_err(|_| "dims is not a list of numbers")?,
            ranges: get("ranges").map(|r| ranges(&r)).transpose()?,
        };
        if get("dims-order").is_some_and(|o| o != "row-major") {
            return Err("dims-order is not row-major, which is all that is supported".into());
        }
        Ok(note)
    }
}

/// All fields of a description; `None` where no source sets one.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fields {
    pub task: Option<Sourced<Task>>,
    pub family: Option<Sourced<Family>>,
    pub labels: Option<Sourced<Vec<String>>>,
    /// Name of the output that is objectness.
    pub objectness: Option<Sourced<String>>,
    pub size: [Option<Sourced<u32>>; 2],
    color: Option<Sourced<ColorOrder>>,
    resize: Option<Sourced<Resize>>,
    pad: Option<Sourced<f32>>,
    scale: Option<Sourced<f32>>,
    mean: Option<Sourced<[f32; 3]>>,
    std: Option<Sourced<[f32; 3]>>,
    decoded: Option<Sourced<bool>>,
    logits: Option<Sourced<bool>>,
    first_class: Option<Sourced<u32>>,
    ranges: Option<Sourced<[(f32, f32); 3]>>,
    pub tensors: Vec<TensorNote>,
    /// Id of an output for which there is no decoder here.
    unknown_id: Option<Sourced<String>>,
    /// The side file, where there is one.
    pub side_file: Option<PathBuf>,
}

/// Input = `gain` * sample + `offset` for each of the input's channels, samples from 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine {
    pub gain: [f32; 3],
    pub offset: [f32; 3],
}

/// Input rules where no source sets any. Mean and standard deviation belong to this scale and colour order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct InputDefaults {
    pub color: ColorOrder,
    pub resize: Resize,
    pub pad: f32,
    pub scale: f32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Rules by which a picture becomes the input of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct InputRules {
    pub color: ColorOrder,
    pub resize: Resize,
    pub pad: f32,
    pub affine: Affine,
}

impl<T> Sourced<T> {
    /// Whether the value comes from the model's own metadata only.
    pub(super) fn is_from_model(&self) -> bool {
        self.origin.starts_with(METADATA)
    }
}

impl Fields {
    /// Fields of the property that gives labels.
    pub(super) fn of_labels(labels: Option<Sourced<Vec<String>>>) -> Self {
        Self {
            labels,
            ..Self::default()
        }
    }

    /// Fields of the property that gives the task.
    pub(super) fn of_task(task: Option<Task>, origin: &str) -> Self {
        Self {
            task: task.map(|value| Sourced {
                value,
                origin: origin.into(),
            }),
            ..Self::default()
        }
    }

    pub(super) fn decoded(&self) -> Option<bool> {
        self.decoded.as_ref().map(|s| s.value)
    }

    /// Activation of a detector's scores.
    pub(super) fn activation(&self) -> Activation {
        if self.logits.as_ref().is_some_and(|s| s.value) {
            Activation::Sigmoid
        } else {
            Activation::None
        }
    }

    /// Whether a source declares scores to be probabilities already.
    pub(super) fn probabilities(&self) -> bool {
        self.logits.as_ref().is_some_and(|s| !s.value)
    }

    pub(super) fn first_class(&self) -> u32 {
        self.first_class.as_ref().map_or(0, |s| s.value)
    }

    /// Refuses an output's id that has no decoder here, unless a family or task is named, which then decides.
    pub(super) fn check_ids(&self) -> Result<(), ModelError> {
        match &self.unknown_id {
            Some(id) if self.family.is_none() && self.task.is_none() => Err(ModelError::Description {
                origin: id.origin.clone(),
                cause: format!(
                    "no decoder for the tensor id {}; supported are yolo-v8-out, yolo-26-end2end-out and \
                     ssd-mobilenet-v1-variant-1-out-*, or any id together with dds-family or \
                     dds-task",
                    id.value
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Id of a tensor in the side file.
    pub(super) fn tensor_id(&self, name: &str) -> Option<&str> {
        self.tensors.iter().find(|t| t.name == name)?.id.as_deref()
    }

    /// The rules of the input for a model with these defaults.
    pub(super) fn input_rules(&self, own: &InputDefaults) -> InputRules {
        let affine = match &self.ranges {
            Some(r) => Affine {
                gain: r.value.map(|(low, high)| (high - low) / 255.0),
                offset: r.value.map(|(low, _)| low),
            },
            None => {
                // Means of the published models belong to their own scale only.
                let unset = self.scale.is_none() && self.mean.is_none() && self.std.is_none();
                let (mean, std) = if unset {
                    (own.mean, own.std)
                } else {
                    ([0.0; 3], [1.0; 3])
                };
                let scale = self.scale.as_ref().map_or(own.scale, |s| s.value);
                let mean = self.mean.as_ref().map_or(mean, |s| s.value);
                let std = self.std.as_ref().map_or(std, |s| s.value);
                Affine {
                    gain: std.map(|s| scale / s),
                    offset: [0, 1, 2].map(|i| -mean[i] / std[i]),
                }
            }
        };
        InputRules {
            color: self.color.as_ref().map_or(own.color, |s| s.value),
            resize: self.resize.as_ref().map_or(own.resize, |s| s.value),
            pad: self.pad.as_ref().map_or(own.pad, |s| s.value),
            affine,
        }
    }

    /// Fills missing fields from a weaker source.
    pub(super) fn or(mut self, weaker: Self) -> Self {
        // `ranges` is mean and scale in another form: a stronger source of either hides a weaker one of the other.
        let has_normalisation = self.scale.is_some() || self.mean.is_some() || self.std.is_some();
        if self.ranges.is_none() && !has_normalisation {
            self.ranges = weaker.ranges;
        }
        if self.ranges.is_none() {
            self.scale = self.scale.or(weaker.scale);
            self.mean = self.mean.or(weaker.mean);
            self.std = self.std.or(weaker.std);
        }
        let [w, h] = self.size;
        let [weak_w, weak_h] = weaker.size;
        self.size = [w.or(weak_w), h.or(weak_h)];
        self.task = self.task.or(weaker.task);
        self.family = self.family.or(weaker.family);
        self.labels = self.labels.or(weaker.labels);
        self.objectness = self.objectness.or(weaker.objectness);
        self.color = self.color.or(weaker.color);
        self.resize = self.resize.or(weaker.resize);
        self.pad = self.pad.or(weaker.pad);
        self.decoded = self.decoded.or(weaker.decoded);
        self.logits = self.logits.or(weaker.logits);
        self.first_class = self.first_class.or(weaker.first_class);
        self.unknown_id = self.unknown_id.or(weaker.unknown_id);
        if self.tensors.is_empty() {
            self.tensors = weaker.tensors;
        }
        self.side_file = self.side_file.or(weaker.side_file);
        self
    }

    /// Reads the property `model-description`.
    pub(super) fn from_property(text: &str) -> Result<Self, ModelError> {
        const ORIGIN: &str = "model-description";
        let fail = |cause: String| ModelError::Description {
            origin: ORIGIN.into(),
            cause,
        };
        let mut fields = Self::default();
        for (n, part) in split(text).map_err(fail)?.into_iter().enumerate() {
            let Some((key, value)) = part.split_once('=') else {
                if n == 0 || part.is_empty() {
                    continue;
                }
                return Err(fail(format!("'{part}' is not key=value")));
            };
            let key = key.trim();
            let key = if key.starts_with("dds-") {
                key.to_owned()
            } else {
                format!("dds-{key}")
            };
            let mut value = value.trim();
            // A type, as a serialised GstStructure carries it.
            if value.starts_with('(') {
                value = value.split_once(')').map_or(value, |(_, v)| v).trim();
            }
            for (open, close) in [('"', '"'), ('<', '>'), ('{', '}'), ('[', ']')] {
                if let Some(v) = value.strip_prefix(open).and_then(|v| v.strip_suffix(close)) {
                    value = v;
                }
            }
            fields.set(&key, value, ORIGIN, Path::new("")).map_err(fail)?;
        }
        Ok(fields)
    }

    /// Whether this source sets a key of the side file.
    fn sets(&self, key: &str) -> bool {
        match key {
            "dds-task" => self.task.is_some(),
            "dds-family" => self.family.is_some(),
            "dds-color" => self.color.is_some(),
            "dds-resize" => self.resize.is_some(),
            "dds-pad" => self.pad.is_some(),
            "dds-scale" => self.scale.is_some(),
            "dds-mean" => self.mean.is_some(),
            "dds-std" => self.std.is_some(),
            "dds-labels" => self.labels.is_some(),
            "dds-decoded" => self.decoded.is_some(),
            "dds-scores" => self.logits.is_some(),
            "dds-objectness" => self.objectness.is_some(),
            "dds-first-class" => self.first_class.is_some(),
            "dds-width" => self.size[0].is_some(),
            "dds-height" => self.size[1].is_some(),
            _ => false,
        }
    }

    /// Whether this source sets more than the task and the labels.
    fn describes(&self) -> bool {
        let rest = Self {
            labels: None,
            task: None,
            ..self.clone()
        };
        rest != Self::default()
    }

    /// Reads the side file of a model, `model.onnx.modelinfo` or `model.modelinfo`, if there is one. Fields of
    /// `stronger` win over it: unreadable entries that it sets are left out with a warning.
    pub(super) fn from_side_file(
        model: &Path,
        stronger: &Self,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ModelError> {
        let mut beside = model.as_os_str().to_owned();
        beside.push(".modelinfo");
        for path in [PathBuf::from(beside), model.with_extension("modelinfo")] {
            let read = match std::fs::read(&path) {
                Ok(bytes) => Self::from_key_file(&path, bytes, stronger, warnings),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(_) if path.is_dir() => {
                    warnings.push(format!(
                        "{} is a directory, no description of the model",
                        path.display()
                    ));
                    continue;
                }
                Err(e) => Err(ModelError::Description {
                    origin: path.display().to_string(),
                    cause: format!("{e}; make it readable, or remove it"),
                }),
            };
            return match read {
                Err(error @ ModelError::Description { .. }) if stronger.describes() && !readable(&path) => {
                    warnings.push(format!("{error}; it is left out, as the model is described otherwise"));
                    Ok(Self::default())
                }
                read => read,
            };
        }
        Ok(Self::default())
    }

    fn from_key_file(
        path: &Path,
        bytes: Vec<u8>,
        stronger: &Self,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ModelError> {
        let origin = path.display().to_string();
        let fail = |cause: String| ModelError::Description {
            origin: origin.clone(),
            cause,
        };
        let text = labels::text(bytes).map_err(&fail)?;
        let file = glib::KeyFile::new();
        file.load_from_data(&text, glib::KeyFileFlags::NONE)
            .map_err(|e| fail(e.message().to_owned()))?;
        if !file.has_group("modelinfo") {
            return Err(fail("it has no section [modelinfo]".into()));
        }
        let mut fields = Self {
            side_file: Some(path.to_owned()),
            ..Self::default()
        };
        fields.take_keys(&file, path, stronger, warnings)?;
        for group in file.groups().iter().filter(|g| g.as_str() != "modelinfo") {
            let note = TensorNote::read(&file, group).map_err(|cause| fail(format!("[{group}] {cause}")))?;
            fields.take_note(note, &origin)?;
        }
        if fields.ranges.is_some() && (fields.scale.is_some() || fields.mean.is_some() || fields.std.is_some()) {
            return Err(ModelError::Contradiction {
                what: "the range of the input".into(),
                first: format!("{origin} has ranges"),
                second: "also dds-scale, dds-mean or dds-std, which say the same in another way".into(),
            });
        }
        Ok(fields)
    }

    /// Takes the keys of the section `[modelinfo]`.
    fn take_keys(
        &mut self,
        file: &glib::KeyFile,
        path: &Path,
        stronger: &Self,
        warnings: &mut Vec<String>,
    ) -> Result<(), ModelError> {
        let origin = path.display().to_string();
        let fail = |cause: String| ModelError::Description {
            origin: origin.clone(),
            cause,
        };
        for key in file.keys("modelinfo").map_err(|e| fail(e.message().to_owned()))?.iter() {
            // Keys without the prefix are GStreamer's or another program's.
            if key.starts_with("dds-") {
                let value = file.value("modelinfo", key).map_err(|e| fail(e.message().to_owned()))?;
                let folder = path.parent().unwrap_or(Path::new(""));
                match self.set(key, value.trim(), &origin, folder) {
                    Err(cause) if stronger.sets(key) => {
                        warnings.push(format!(
                            "{}; it is left out, as a stronger source says {key}",
                            fail(cause)
                        ));
                    }
                    set => set.map_err(&fail)?,
                }
            }
        }
        Ok(())
    }

    /// Takes the section of one tensor, and what follows from it for the model.
    fn take_note(&mut self, note: TensorNote, origin: &str) -> Result<(), ModelError> {
        let given = |value| Sourced {
            value,
            origin: origin.into(),
        };
        if note.input == Some(true) {
            match note.ranges.as_deref() {
                None => {}
                Some([one]) => self.ranges = Some(given([*one; 3])),
                Some([a, b, c]) => self.ranges = Some(given([*a, *b, *c])),
                Some(ranges) => {
                    return Err(ModelError::Description {
                        origin: origin.into(),
                        cause: format!("[{}] ranges has {} entries instead of 1 or 3", note.name, ranges.len()),
                    });
                }
            }
        } else if let Some(id) = &note.id {
            match family_of_id(id) {
                Some(Some(family)) => self.set_family(family, &format!("{origin} (id={id})"))?,
                Some(None) => {}
                None => {
                    self.unknown_id = Some(Sourced {
                        value: id.clone(),
                        origin: origin.into(),
                    });
                }
            }
        }
        self.tensors.push(note);
        Ok(())
    }

    /// Takes what Ultralytics writes into the metadata of an ONNX file; `get` looks a key up. The user did not write
    /// it: unreadable entries are left out with a warning. `described`: a stronger source describes the model.
    pub(super) fn from_metadata(
        model: &Path,
        described: bool,
        get: impl Fn(&str) -> Option<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ModelError> {
        let mut fields = Self::default();
        // `task` is a common key; together with `names` it is Ultralytics'.
        let names = get("names");
        if let Some(task) = get("task").filter(|_| names.is_some() && !described) {
            match task.trim().to_ascii_lowercase().as_str() {
                "detect" => (),
                "segment" | "pose" | "obb" | "classify" => {
                    return Err(ModelError::Unfit {
                        path: model.to_owned(),
                        purpose: "detection",
                        cause: format!("{METADATA} says task={task}; only detection (task=detect) is supported"),
                    });
                }
                _ => warnings.push(format!(
                    "{METADATA} says task={}, which is not known and is left out",
                    shortened(&task)
                )),
            }
        }
        match names.map(|names| labels::from_names(&names)) {
            Some(Ok(value)) => {
                fields.labels = Some(Sourced {
                    value,
                    origin: METADATA.into(),
                });
            }
            Some(Err(cause)) => warnings.push(format!(
                "{METADATA} cannot be read: {cause}; they are left out, and classes are called as label-file or dds-labels \
                 say, else by their numbers"
            )),
            None => (),
        }
        if get("end2end").is_some_and(|v| v.trim().eq_ignore_ascii_case("true")) {
            fields.family = Some(Sourced {
                value: Family::Yolov10,
                origin: format!("{METADATA} (end2end=True)"),
            });
        }
        // Height and width, or one number for both.
        if let Some(text) = get("imgsz") {
            let sides: Option<Vec<u32>> = list(text.trim().trim_matches(['[', ']', '(', ')']))
                .iter()
                .map(|n| integer(n, SIDES).ok())
                .collect();
            let size = match sides.as_deref() {
                Some([one]) => Some([*one; 2]),
                Some([h, w]) => Some([*w, *h]),
                _ => None,
            };
            match size {
                Some(size) => {
                    fields.size = size.map(|value| {
                        Some(Sourced {
                            value,
                            origin: format!("{METADATA} (imgsz)"),
                        })
                    });
                }
                None => warnings.push(format!(
                    "{METADATA} says imgsz={}, which is not one or two sides in pixels and is left out",
                    shortened(&text)
                )),
            }
        }
        Ok(fields)
    }

    fn set_family(&mut self, value: Family, origin: &str) -> Result<(), ModelError> {
        if let Some(given) = &self.family
            && given.value != value
        {
            return Err(ModelError::Contradiction {
                what: "the family".into(),
                first: format!("{} says {}", given.origin, given.value.name()),
                second: format!("{origin} says {}", value.name()),
            });
        }
        self.family = Some(Sourced {
            value,
            origin: origin.into(),
        });
        Ok(())
    }

    /// Takes one entry; relative file names start at `folder`.
    fn set(&mut self, key: &str, text: &str, origin: &str, folder: &Path) -> Result<(), String> {
        fn put<T>(
            slot: &mut Option<Sourced<T>>,
            value: Result<T, String>,
            at: (&str, &str, &str),
        ) -> Result<(), String> {
            let (key, text, origin) = at;
            if slot.is_some() {
                return Err(format!("{key} is given twice"));
            }
            let value = value.map_err(|wanted| format!("{key}={text} is not {wanted}"))?;
            *slot = Some(Sourced {
                value,
                origin: origin.into(),
            });
            Ok(())
        }
        let at = (key, text, origin);
        match key {
            "dds-task" => put(&mut self.task, text.parse(), at),
            "dds-family" => put(&mut self.family, text.parse(), at),
            "dds-color" => put(&mut self.color, text.parse(), at),
            "dds-resize" => put(&mut self.resize, text.parse(), at),
            "dds-pad" => put(
                &mut self.pad,
                number(text, |v| (0.0..=255.0).contains(&v), "a number from 0 to 255"),
                at,
            ),
            "dds-scale" => put(&mut self.scale, number(text, |v| v != 0.0, "a number other than 0"), at),
            "dds-mean" => put(&mut self.mean, triple(text, |_| true, "one or three numbers"), at),
            "dds-std" => put(
                &mut self.std,
                triple(text, |v| v > 0.0, "one or three numbers above 0"),
                at,
            ),
            "dds-labels" => {
                let named = list(text);
                let (labels, origin) = match &named[..] {
                    [file] if file.ends_with(".txt") => {
                        let file = folder.join(file);
                        let labels = labels::read(&file).map_err(|e| e.to_string())?;
                        (labels, file.display().to_string())
                    }
                    _ => (named, origin.to_owned()),
                };
                let valid = if labels.is_empty() {
                    Err("a list of names".to_owned())
                } else {
                    Ok(labels)
                };
                put(&mut self.labels, valid, (key, text, &origin))
            }
            "dds-decoded" => put(&mut self.decoded, boolean(text), at),
            "dds-scores" => {
                let value = match text {
                    "probability" => Ok(false),
                    "logit" => Ok(true),
                    _ => Err("probability or logit".to_owned()),
                };
                put(&mut self.logits, value, at)
            }
            "dds-objectness" => {
                let name = Some(text.to_owned()).filter(|t| !t.is_empty());
                put(&mut self.objectness, name.ok_or("the name of an output".to_owned()), at)
            }
            "dds-first-class" => put(&mut self.first_class, integer(text, 0..=100_000), at),
            "dds-width" => put(&mut self.size[0], integer(text, SIDES), at),
            "dds-height" => put(&mut self.size[1], integer(text, SIDES), at),
            _ => Err(format!(
                "unknown key {key}; known are dds-task, dds-family, dds-color, dds-resize, dds-pad, dds-scale, dds-mean, dds-std, \
                 dds-labels, dds-decoded, dds-scores, dds-objectness, dds-first-class, dds-width, dds-height"
            )),
        }
    }
}

/// Whether a side file can be read, whatever it contains.
fn readable(path: &Path) -> bool {
    let text = std::fs::read(path).ok().and_then(|bytes| labels::text(bytes).ok());
    text.is_some_and(|text| {
        let file = glib::KeyFile::new();
        file.load_from_data(&text, glib::KeyFileFlags::NONE).is_ok() && file.has_group("modelinfo")
    })
}

/// Shortens a foreign text for a message.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Family that decodes a tensor of GStreamer's registry of tensor ids: `Some(None)` for ids that need no decoder,
/// `None` for ids without a decoder here.
fn family_of_id(id: &str) -> Option<Option<Family>> {
    match id {
        "yolo-v8-out" => Some(Some(Family::Yolov8)),
        "yolo-26-end2end-out" => Some(Some(Family::Yolov10)),
        _ if id.starts_with("ssd-mobilenet-v1-variant-1-out-") => Some(Some(Family::Ssd)),
        "generic-variant-1-out-count" => Some(None),
        _ => None,
    }
}

/// Splits at commas that are outside quotes and brackets.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut depth, mut quoted) = (Vec::new(), 0, 0usize, false);
    for (i, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '<' | '{' | '[' if !quoted => depth += 1,
            '>' | '}' | ']' if !quoted => depth = depth.checked_sub(1).ok_or("a bracket is closed but not opened")?,
            ',' if !quoted && depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if quoted || depth > 0 {
        return Err("a quote or bracket is not closed".into());
    }
    // A GstStructure may end in a semicolon.
    parts.push(text[start..].trim().trim_end_matches(';'));
    Ok(parts)
}

/// A list separated by semicolons, or by commas if there is no semicolon.
fn list(text: &str) -> Vec<String> {
    let separator = if text.contains(';') { ';' } else { ',' };
    let mut items: Vec<String> = text
        .split(separator)
        .map(|s| s.trim().trim_matches('"').to_owned())
        .collect();
    // Key files end lists in a separator.
    if items.last().is_some_and(String::is_empty) {
        items.pop();
    }
    items
}

/// `min,max` for all channels, or `min,max;min,max;min,max`.
fn ranges(text: &str) -> Result<Vec<(f32, f32)>, String> {
    text.split(';')
        .map(str::trim)
        .filter(|r| !r.is_empty())
        .map(|r| {
            let (low, high) = r.split_once(',')?;
            let (low, high): (f32, f32) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            (low.is_finite() && high.is_finite() && low != high).then_some((low, high))
        })
        .collect::<Option<Vec<_>>>()
        .ok_or(format!("ranges={text} is not min,max or min,max;min,max;min,max"))
}

fn number(text: &str, valid: impl Fn(f32) -> bool, wanted: &str) -> Result<f32, String> {
    // This scale is usually written 1/255.
    let value = match text.split_once('/') {
        Some((a, b)) => a
            .trim()
            .parse::<f32>()
            .ok()
            .zip(b.trim().parse::<f32>().ok())
            .map(|(a, b)| a / b),
        None => text.parse().ok(),
    };
    value.filter(|v| v.is_finite() && valid(*v)).ok_or(wanted.to_owned())
}

fn triple(text: &str, valid: impl Fn(f32) -> bool + Copy, wanted: &str) -> Result<[f32; 3], String> {
    let values: Result<Vec<f32>, String> = list(text).iter().map(|t| number(t, valid, wanted)).collect();
    match values?[..] {
        [one] => Ok([one; 3]),
        [a, b, c] => Ok([a, b, c]),
        _ => Err(wanted.to_owned()),
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err("true or false".into()),
    }
}

fn integer(text: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|v| range.contains(v))
        .ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_file(text: &str) -> Result<Fields, ModelError> {
        Fields::from_key_file(
            Path::new("m.modelinfo"),
            text.into(),
            &Fields::default(),
            &mut Vec::new(),
        )
    }

    #[test]
    fn property_takes_keys_with_and_without_prefix_types_quotes_and_brackets() {
        let plain = Fields::from_property("dds-family=yolox,color=bgr,labels=a;b c,mean=1;2;3").unwrap();
        let structure = Fields::from_property(
            "model, dds-family=(string)yolox, dds-color=\"bgr\", dds-labels=\"a,b c\", dds-mean=<1, 2, 3>;",
        )
        .unwrap();
        assert_eq!(plain, structure);
        assert_eq!(plain.labels.unwrap().value, ["a", "b c"]);
        assert_eq!(plain.mean.unwrap().value, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn property_refuses_what_it_does_not_know() {
        for (text, word) in [
            ("famly=yolox", "unknown key dds-famly"),
            ("family=yolo", "one of yolov5"),
            ("family=yolox,family=yolox", "twice"),
            ("family=yolox,oops", "'oops' is not key=value"),
            ("std=1;0;1", "above 0"),
            ("mean=1;2", "three numbers"),
            ("scale=nan", "number"),
            ("pad=256", "0 to 255"),
            ("labels=\"a", "not closed"),
            ("mean=1>", "not opened"),
            ("width=0", "1 to 16384"),
            ("decoded=maybe", "true or false"),
        ] {
            let error = Fields::from_property(text).unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("model-description"),
                "{text}: {error}"
            );
        }
        assert_eq!(Fields::from_property("").unwrap(), Fields::default());
    }

    #[test]
    fn property_wins_over_side_file() {
        let file = key_file("[modelinfo]\ndds-family=yolov8\ndds-color=rgb\n[in]\ndir=input\nranges=-1,1\n").unwrap();
        let fields = Fields::from_property("family=yolox, scale=1/255").unwrap().or(file);
        assert_eq!(fields.family.as_ref().unwrap().value, Family::Yolox);
        let rules = fields.input_rules(&Family::Yolox.defaults());
        assert_eq!(rules.color, ColorOrder::Rgb);
        // The file's ranges are a scale too, so the property's scale hides them.
        assert_eq!(
            rules.affine,
            Affine {
                gain: [1.0 / 255.0; 3],
                offset: [0.0; 3]
            }
        );
    }

    #[test]
    fn side_file_of_gstreamer_gives_family_ids_and_ranges() {
        let fields = key_file(
            "[modelinfo]\nversion=1.0\ngroup-id=yolo-v8-out\nvendor=x\n\
             [images]\nid=images\ntype=float32\ndims=1,3,640,640\ndir=input\nranges=0.0,1.0\n\
             [output0]\nid=yolo-v8-out\ntype=float32\ndims=1,84,8400\ndir=output\ndims-order=row-major\n",
        )
        .unwrap();
        assert_eq!(fields.family.as_ref().unwrap().value, Family::Yolov8);
        assert_eq!(fields.tensor_id("output0"), Some("yolo-v8-out"));
        assert_eq!(fields.tensors[0].dims, Some(vec![1, 3, 640, 640]));
        assert_eq!(
            fields.input_rules(&Family::Yolov8.defaults()).affine.gain,
            [1.0 / 255.0; 3]
        );
    }

    #[test]
    fn side_file_ranges_per_channel_express_mean_and_deviation() {
        let fields = key_file("[modelinfo]\n[in]\ndir=input\nranges=-1,1;0,255;-2,3\n").unwrap();
        let affine = fields.input_rules(&Family::Ssd.defaults()).affine;
        for (i, (low, high)) in [(-1.0, 1.0), (0.0, 255.0), (-2.0, 3.0)].into_iter().enumerate() {
            assert_eq!(affine.offset[i], low);
            assert!((affine.gain[i] * 255.0 + affine.offset[i] - high).abs() < 1e-4);
        }
    }

    #[test]
    fn side_file_may_have_ids_of_its_own_next_to_a_family() {
        let fields = key_file("[modelinfo]\ndds-family=yolox\n[o]\nid=yolox-raw-out\ndir=output\n").unwrap();
        assert_eq!(fields.check_ids(), Ok(()));
        assert_eq!(fields.family.unwrap().value, Family::Yolox);
    }

    #[test]
    fn side_file_errors_name_the_file_and_the_entry() {
        for (text, word) in [
            ("", "no section [modelinfo]"),
            ("nonsense", "m.modelinfo"),
            ("[modelinfo]\ndds-famly=x\n", "unknown key dds-famly"),
            (
                "[modelinfo]\ndds-family=yolox\n[o]\nid=yolo-v8-out\n",
                "disagree about the family",
            ),
            (
                "[modelinfo]\ndds-scale=1\n[i]\ndir=input\nranges=0,1\n",
                "disagree about the range",
            ),
            ("[modelinfo]\n[i]\ndir=input\nranges=0\n", "ranges=0"),
            ("[modelinfo]\n[i]\ndir=sideways\n", "neither input nor output"),
            ("[modelinfo]\n[i]\ndims=1,x\n", "dims"),
            (
                "[modelinfo]\n[o]\nid=yolo-v8-segmentation-out-detections\n",
                "no decoder for the tensor id",
            ),
            ("[modelinfo]\n[o]\ndims-order=col-major\n", "row-major"),
        ] {
            let error = key_file(text).and_then(|f| f.check_ids()).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("m.modelinfo"), "{text}: {error}");
        }
    }

    #[test]
    fn metadata_of_ultralytics_is_understood() {
        let read = |pairs: &[(&str, &str)], described| {
            let mut warnings = Vec::new();
            let get = |key: &str| pairs.iter().find(|p| p.0 == key).map(|p| p.1.to_owned());
            Fields::from_metadata(Path::new("m.onnx"), described, get, &mut warnings).map(|fields| (fields, warnings))
        };
        let (fields, warnings) = read(
            &[
                ("names", "{0: 'a', 1: 'b'}"),
                ("task", "detect"),
                ("imgsz", "[736, 1280]"),
            ],
            false,
        )
        .unwrap();
        assert_eq!(fields.labels.unwrap().value, ["a", "b"]);
        assert_eq!(fields.size.map(|s| s.unwrap().value), [1280, 736]);
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(
            read(&[("end2end", "True")], false).unwrap().0.family.unwrap().value,
            Family::Yolov10
        );
        let segment = [("task", "segment"), ("names", "{0: 'a'}")];
        let error = read(&segment, false).unwrap_err().to_string();
        assert!(error.contains("task=segment"), "{error}");
        // A named family or task wins over the metadata.
        assert_eq!(read(&segment, true).unwrap().0.labels.unwrap().value, ["a"]);
        assert_eq!(read(&[], false).unwrap(), (Fields::default(), Vec::new()));
    }

    #[test]
    fn metadata_that_cannot_be_read_is_a_warning_each() {
        for (key, value) in [
            ("names", "None"),
            ("names", ""),
            ("names", "{0: a}"),
            ("names", "[1, 2]"),
            ("imgsz", "None"),
            ("imgsz", "[0, 640]"),
            ("imgsz", "[64, 64, 3]"),
            ("imgsz", "640.5"),
            ("imgsz", "99999999999999999999"),
        ] {
            let mut warnings = Vec::new();
            let get = |asked: &str| (asked == key).then(|| value.to_owned());
            let fields = Fields::from_metadata(Path::new("m.onnx"), false, get, &mut warnings).unwrap();
            assert_eq!(fields, Fields::default(), "{key}={value}");
            assert!(
                warnings.len() == 1 && warnings[0].contains(key),
                "{key}={value}: {warnings:?}"
            );
        }
        let mut warnings = Vec::new();
        let get = |key: &str| {
            [("task", "?"), ("names", "['a']")]
                .iter()
                .find(|p| p.0 == key)
                .map(|p| p.1.to_owned())
        };
        assert!(
            Fields::from_metadata(Path::new("m.onnx"), false, get, &mut warnings)
                .unwrap()
                .labels
                .is_some()
        );
        assert!(warnings[0].contains("task"), "{warnings:?}");
    }

    #[test]
    fn what_cannot_be_read_of_a_side_file_is_left_out_where_a_stronger_source_sets_it() {
        let stronger = Fields::from_property("family=yolov8, labels=a;b").unwrap();
        let mut warnings = Vec::new();
        let text = "[modelinfo]\ndds-labels=none.txt\ndds-family=yolo9000\ndds-color=bgr\n";
        let fields = Fields::from_key_file(Path::new("m.modelinfo"), text.into(), &stronger, &mut warnings).unwrap();
        assert_eq!(fields.color.unwrap().value, ColorOrder::Bgr);
        assert_eq!((fields.family, fields.labels), (None, None));
        assert!(
            warnings.len() == 2 && warnings.iter().all(|w| w.contains("m.modelinfo")),
            "{warnings:?}"
        );
        assert!(key_file(text).is_err());
    }

    #[test]
    fn nanodet_is_normalised_as_in_its_training_unless_told_otherwise() {
        let rules = Fields::default().input_rules(&Family::Nanodet.defaults());
        assert!((rules.affine.gain[0] * 103.53 + rules.affine.offset[0]).abs() < 1e-5);
        let given = Fields::from_property("scale=1")
            .unwrap()
            .input_rules(&Family::Nanodet.defaults());
        assert_eq!(
            given.affine,
            Affine {
                gain: [1.0; 3],
                offset: [0.0; 3]
            }
        );
    }
}
