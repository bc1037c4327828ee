// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use half::f16;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, TensorElementType, TensorRef, ValueType};

use super::decode::{self, Context, Decoder, OutputInfo, Tensor};
use super::description::{Family, Fields, Said};
use super::nms::{self, Candidate};
use super::preprocess::{Buffer, Element, Order, Placement, Preprocessor};
use super::runtime::{Provider, Runtime, chain};
use super::{Detection, InferSettings, Inference, Landmarks, ModelError, ModelSettings, Picture, labels};

/// Size at which a model of dynamic size is tried out when it is opened.
const PROBE_SIDE: usize = 320;
/// Largest input in pixels, 0.8 GB of f32: beyond it is a damaged model or a mistake.
const MAX_PIXELS: usize = 1 << 26;
/// Sides of dynamic inputs are multiples of this: the coarsest stride of the common families.
const STEP: usize = 32;

/// A loaded model. Moves between threads; one thread uses it at a time.
pub struct Detector {
    session: Session,
    input: Input,
    fields: Fields,
    family: Family,
    decoder: Box<dyn Decoder>,
    /// Input size that the decoder was made for.
    planned: (usize, usize),
    preprocessor: Preprocessor,
    labels: Vec<String>,
    warnings: Vec<String>,
    summary: String,
    outputs: Outputs,
    candidates: Vec<Candidate>,
}

// The element opens a detector on one thread and uses it on another.
const _: () = {
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<Detector>();
};

/// What the model wants to be fed.
struct Input {
    element: Element,
    order: Order,
    /// With a leading batch dimension of 1.
    batched: bool,
    /// Width and height; `None` where the frame decides.
    size: [Option<usize>; 2],
}

impl Input {
    /// Width and height for a picture of this size.
    fn size_for(&self, picture: (usize, usize)) -> (usize, usize) {
        let [w, h] = self.size;
        (
            w.unwrap_or(picture.0.next_multiple_of(STEP)),
            h.unwrap_or(picture.1.next_multiple_of(STEP)),
        )
    }

    fn is_dynamic(&self) -> bool {
        self.size.iter().any(Option::is_none)
    }

    fn shape(&self, size: (usize, usize)) -> Vec<i64> {
        let (w, h) = (size.0 as i64, size.1 as i64);
        let mut shape = match self.order {
            Order::Planar => vec![3, h, w],
            Order::Packed => vec![h, w, 3],
        };
        if self.batched {
            shape.insert(0, 1);
        }
        shape
    }
}

/// Outputs of the run at hand as f32; buffers are kept from run to run.
#[derive(Default)]
struct Outputs {
    dims: Vec<Vec<usize>>,
    converted: Vec<Vec<f32>>,
}

impl Detector {
    /// Loads the ONNX Runtime library (once per process) and the model, settles how to feed and read it, and runs it once
    /// on a blank picture: that shows the true shapes of its outputs, and that it runs at all.
    ///
    /// # Errors
    /// Every [`ModelError`] but [`ModelError::Picture`]; never panics.
    pub fn open(settings: &ModelSettings) -> Result<Self, ModelError> {
        let file = settings.model_file.as_path();
        check_file(file)?;
        let providers = Provider::list(&settings.execution_providers)?;
        let label_file = settings.label_file.as_deref().map(labels::read).transpose()?;
        let property = Fields::from_property(settings.description.as_deref().unwrap_or_default())?;
        let side_file = Fields::from_side_file(file)?;

        let runtime = Runtime::get(settings.library.as_deref())?;
        let mut warnings = Vec::new();
        if let Some(asked) = settings
            .library
            .as_deref()
            .filter(|l| !l.as_os_str().is_empty() && !same(l, runtime.library()))
        {
            warnings.push(format!(
                "ONNX Runtime was already loaded from {}; {} has no effect in this process",
                runtime.library(),
                asked.display()
            ));
        }
        let (mut session, provider) = runtime.session(file, &providers, settings.threads, &mut warnings)?;

        let unusable = |cause: String| ModelError::NotADetector {
            path: file.to_owned(),
            cause,
        };
        let metadata = match session.metadata() {
            Ok(m) => Fields::from_metadata(file, |key| m.custom(key))?,
            Err(e) => return Err(ModelError::Runtime(chain(&e))),
        };
        let described = property.or(side_file);
        described.check_ids()?;
        let fields = described.or(metadata);
        check_notes(&session, &fields)?;
        let input = read_input(&session, &fields).map_err(|e| match e {
            Failure::Unusable(cause) => unusable(cause),
            Failure::Contradiction(e) => *e,
        })?;

        // The values of a blank picture matter little: any family's rules do.
        let assumed = fields.family.as_ref().map_or(Family::Yolov8, |s| s.value);
        let mut probe = Preprocessor::new(fields.input_rules(assumed), input.element, input.order, 1);
        let size = input.size_for((PROBE_SIDE, PROBE_SIDE));
        probe.blank(size);
        let infos = output_infos(&session).map_err(unusable)?;
        let mut outputs = Outputs::default();
        let values = run(&mut session, &input, size, probe.buffer())
            .map_err(|e| unusable(format!("it does not run on a blank picture: {e}")))?;
        let tensors = outputs.collect(&values).map_err(unusable)?;
        let infos: Vec<OutputInfo> = infos
            .into_iter()
            .zip(&tensors)
            .map(|(o, t)| OutputInfo {
                dims: t.dims.to_vec(),
                ..o
            })
            .collect();

        let labels = label_file
            .zip(settings.label_file.as_ref())
            .map(|(value, path)| Said {
                value,
                origin: path.display().to_string(),
            })
            .or(fields.labels.clone());
        let context = Context {
            input: size,
            fields: &fields,
            labels: labels.as_ref().map(|l| l.value.len()),
            probe: &tensors,
        };
        let (family, decoder) = settle_family(&infos, &context, file)?;
        let (labels, labels_origin) = settle_labels(labels, family, decoder.classes())?;
        drop(values);

        let rules = fields.input_rules(family);
        if input.element == Element::U8 && (rules.affine.gain != [1.0; 3] || rules.affine.offset != [0.0; 3]) {
            return Err(unusable(format!(
                "its input takes bytes, which leave no room for the normalisation of {}; set dds-scale=1, dds-mean=0, \
                 dds-std=1",
                family.name()
            )));
        }
        let side = |s: Option<usize>| s.map_or("any".into(), |s| s.to_string());
        let summary = format!(
            "{}{} ({}), input {}x{} {:?} {:?} {:?} {}, {} labels ({labels_origin}), on {provider}, ONNX Runtime {}",
            family.name(),
            if decoder.variant().is_empty() {
                String::new()
            } else {
                format!(" {}", decoder.variant())
            },
            fields
                .family
                .as_ref()
                .map_or("by the shape of the outputs", |s| s.origin.as_str()),
            side(input.size[0]),
            side(input.size[1]),
            rules.color,
            input.element,
            input.order,
            rules.resize.name(),
            labels.len(),
            runtime.library(),
        );
        Ok(Self {
            preprocessor: Preprocessor::new(rules, input.element, input.order, settings.threads as usize),
            session,
            input,
            fields,
            family,
            decoder,
            planned: size,
            labels,
            warnings,
            summary,
            outputs,
            candidates: Vec::new(),
        })
    }

    /// Runs the model on one picture.
    ///
    /// # Errors
    /// [`ModelError::Inference`] when ONNX Runtime refuses or the model gives what it did not declare.
    pub fn infer(&mut self, picture: &Picture<'_>, settings: &InferSettings) -> Result<Inference, ModelError> {
        let start = Instant::now();
        let frame = (picture.width() as usize, picture.height() as usize);
        let size = self.input.size_for(frame);
        if size.0 * size.1 > MAX_PIXELS {
            return Err(ModelError::Picture(format!(
                "{}x{} pixels are more than a model of dynamic size is given here; set dds-width and dds-height",
                size.0, size.1
            )));
        }
        let placement = self.preprocessor.run(picture, size, self.input.is_dynamic());

        let prepared = Instant::now();
        let values =
            run(&mut self.session, &self.input, size, self.preprocessor.buffer()).map_err(ModelError::Inference)?;

        let ran = Instant::now();
        let tensors = self.outputs.collect(&values).map_err(ModelError::Inference)?;
        if size != self.planned {
            let infos: Vec<OutputInfo> = tensors
                .iter()
                .zip(values.keys())
                .zip(values.values())
                .map(|((t, name), value)| OutputInfo {
                    name: name.to_owned(),
                    dims: t.dims.to_vec(),
                    float: value.dtype().tensor_type().is_some_and(is_float),
                })
                .collect();
            let labels = Some(self.labels.len()).filter(|n| *n > 0);
            let context = Context {
                input: size,
                fields: &self.fields,
                labels,
                probe: &tensors,
            };
            self.decoder = decode::fit(self.family, &infos, &context).map_err(|e| {
                ModelError::Inference(format!(
                    "the outputs for {}x{} pixels are not those of {}: {e}",
                    size.0,
                    size.1,
                    self.family.name()
                ))
            })?;
            self.planned = size;
        }
        self.candidates.clear();
        // NaN counts as no floor.
        let floor = settings.floor.max(0.0);
        self.decoder
            .decode(&tensors, floor, &mut self.candidates)
            .map_err(ModelError::Inference)?;
        let iou = if self.decoder.needs_suppression() {
            settings.iou_threshold
        } else {
            f32::INFINITY
        };
        nms::suppress(&mut self.candidates, iou, settings.max_detections);
        let (detections, landmarks) = self
            .candidates
            .iter()
            .filter_map(|c| on_picture(c, &placement, frame))
            .unzip();
        let done = Instant::now();
        Ok(Inference {
            detections,
            landmarks,
            preprocess: prepared - start,
            run: ran - prepared,
            decode: done - ran,
        })
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

    /// What went otherwise than asked without being an error, one sentence each: refused execution providers, a library
    /// that came too late.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// One line for the log: family, input, pre-processing, labels, execution provider and where each came from.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Width and height of the input in pixels for a picture of `width` x `height`; they do not depend on it for a model
    /// of fixed size.
    pub fn input_size(&self, width: u32, height: u32) -> (u32, u32) {
        let (w, h) = self.input.size_for((width as usize, height as usize));
        (w as u32, h as u32)
    }

    /// The bare ONNX Runtime call on the input made last, without reading its outputs: the yardstick for the cost of
    /// everything around it. Gives the time it took.
    ///
    /// # Errors
    /// [`ModelError::Inference`] as [`Detector::infer`].
    #[doc(hidden)]
    pub fn run_again(&mut self) -> Result<std::time::Duration, ModelError> {
        let start = Instant::now();
        let values = run(&mut self.session, &self.input, self.planned, self.preprocessor.buffer())
            .map_err(ModelError::Inference)?;
        let time = start.elapsed();
        drop(values);
        Ok(time)
    }
}

/// A readable file with something in it; ONNX Runtime's own messages for these are obscure.
fn check_file(path: &Path) -> Result<(), ModelError> {
    let fail = |cause: String| {
        Err(ModelError::ModelFile {
            path: path.to_owned(),
            cause,
        })
    };
    if path.as_os_str().is_empty() {
        return fail("no name given; set model-file to an ONNX model".into());
    }
    match std::fs::File::open(path).and_then(|f| f.metadata()) {
        Err(e) => fail(format!("{e}; set model-file to an existing ONNX model")),
        Ok(m) if m.is_dir() => fail("it is a directory; set model-file to an ONNX model".into()),
        Ok(m) if m.is_file() && m.len() == 0 => fail("it is empty; fetch or export it again".into()),
        Ok(_) => Ok(()),
    }
}

/// Whether a library named by the user is the one in use.
fn same(asked: &Path, used: &str) -> bool {
    let used = PathBuf::from(used);
    asked == used
        || (asked.is_dir() && used.starts_with(std::path::absolute(asked).unwrap_or_default()))
        || matches!((asked.canonicalize(), used.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn is_float(ty: TensorElementType) -> bool {
    matches!(
        ty,
        TensorElementType::Float32 | TensorElementType::Float16 | TensorElementType::Float64
    )
}

/// Names and types of the outputs; shapes as far as declared.
fn output_infos(session: &Session) -> Result<Vec<OutputInfo>, String> {
    let info = |o: &ort::value::Outlet| match o.dtype() {
        ValueType::Tensor { ty, shape, .. } => Ok(OutputInfo {
            name: o.name().to_owned(),
            dims: shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect(),
            float: is_float(*ty),
        }),
        other => Err(format!("its output {} is {other}, no tensor", o.name())),
    };
    let infos: Vec<OutputInfo> = session.outputs().iter().map(info).collect::<Result<_, _>>()?;
    if infos.is_empty() {
        Err("it has no outputs".into())
    } else {
        Ok(infos)
    }
}

/// Holds the side file's notes on tensors against the model.
fn check_notes(session: &Session, fields: &Fields) -> Result<(), ModelError> {
    let origin = fields
        .side_file
        .as_ref()
        .map_or_else(String::new, |p| p.display().to_string());
    for note in &fields.tensors {
        let disagree = |first: String, second: String| ModelError::Contradiction {
            what: format!("the tensor {}", note.name),
            first: format!("{origin} says {first}"),
            second: format!("the model has {second}"),
        };
        let inputs = session.inputs().iter().map(|o| (o, true));
        let Some((outlet, is_input)) = inputs
            .chain(session.outputs().iter().map(|o| (o, false)))
            .find(|(o, _)| o.name() == note.name)
        else {
            return Err(disagree(
                "that it exists".into(),
                "no input or output of that name".into(),
            ));
        };
        if note.input.is_some_and(|i| i != is_input) {
            let word = |i: bool| if i { "input" } else { "output" };
            return Err(disagree(
                format!("dir={}", word(!is_input)),
                format!("an {} of that name", word(is_input)),
            ));
        }
        if let (Some(dims), Some(shape)) = (&note.dims, outlet.dtype().tensor_shape()) {
            let fits = |(a, b): (&i64, &i64)| *a < 0 || *b < 0 || a == b;
            if dims.len() != shape.len() || !dims.iter().zip(shape.iter()).all(fits) {
                return Err(disagree(format!("dims={dims:?}"), format!("{:?}", &**shape)));
            }
        }
    }
    Ok(())
}

enum Failure {
    Unusable(String),
    Contradiction(Box<ModelError>),
}

/// Finds out what the input takes.
fn read_input(session: &Session, fields: &Fields) -> Result<Input, Failure> {
    let unusable = |cause: String| Err(Failure::Unusable(cause));
    let [outlet] = session.inputs() else {
        return unusable(format!(
            "it has {} inputs; a detector has one, the picture",
            session.inputs().len()
        ));
    };
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return unusable(format!("its input {} is {}, no tensor", outlet.name(), outlet.dtype()));
    };
    let what = format!("its input {} is {}", outlet.name(), outlet.dtype());
    let element = match ty {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Uint8 => Element::U8,
        _ => return unusable(format!("{what}; a picture is float32, float16 or uint8")),
    };
    let (batched, dims) = match shape[..] {
        [n, a, b, c] if n == 1 || n < 0 => (true, [a, b, c]),
        [n, _, _, _] => return unusable(format!("{what}, a batch of {n} pictures; export it with a batch of 1")),
        [a, b, c] => (false, [a, b, c]),
        _ => {
            return unusable(format!(
                "{what}; a picture is [1, 3, height, width], [1, height, width, 3] or without the 1"
            ));
        }
    };
    let (order, h, w) = match dims {
        [3, h, w] => (Order::Planar, h, w),
        [h, w, 3] => (Order::Packed, h, w),
        [c, h, w] if c < 0 && !matches!(w, 1 | 4) => (Order::Planar, h, w),
        _ => return unusable(format!("{what}; a colour picture has 3 channels, first or last")),
    };
    let mut size = [usize::try_from(w).ok(), usize::try_from(h).ok()];
    if size.contains(&Some(0)) {
        return unusable(format!("{what}, without pixels"));
    }
    for (side, said) in size.iter_mut().zip(&fields.size) {
        match (&side, said) {
            (Some(own), Some(said)) if *own != said.value as usize => {
                return Err(Failure::Contradiction(Box::new(ModelError::Contradiction {
                    what: "the size of the input".into(),
                    first: format!("{} says {}", said.origin, said.value),
                    second: format!("the model's input {} has {own}", outlet.name()),
                })));
            }
            (None, Some(said)) => *side = Some(said.value as usize),
            _ => {}
        }
    }
    let most = |side: Option<usize>| side.unwrap_or(PROBE_SIDE);
    if most(size[0])
        .checked_mul(most(size[1]))
        .is_none_or(|pixels| pixels > MAX_PIXELS)
    {
        return unusable(format!("{what}, of which {MAX_PIXELS} pixels are allowed"));
    }
    Ok(Input {
        element,
        order,
        batched,
        size,
    })
}

/// The family that was named, if the outputs fit it, or that of the outputs' shapes.
fn settle_family(
    infos: &[OutputInfo],
    context: &Context<'_>,
    file: &Path,
) -> Result<(Family, Box<dyn Decoder>), ModelError> {
    let outputs = || {
        let list: Vec<String> = infos.iter().map(|o| format!("{} {:?}", o.name, o.dims)).collect();
        format!("the outputs of {} are {}", file.display(), list.join(", "))
    };
    match &context.fields.family {
        Some(said) => match decode::fit(said.value, infos, context) {
            Ok(decoder) => Ok((said.value, decoder)),
            Err(reason) => Err(ModelError::Contradiction {
                what: "the family".into(),
                first: format!("{} says {}", said.origin, said.value.name()),
                second: format!("{}, which do not fit: {reason}", outputs()),
            }),
        },
        None => decode::guess(infos, context)
            .and_then(|family| Ok((family, decode::fit(family, infos, context)?)))
            .map_err(|reason| ModelError::NotADetector {
                path: file.to_owned(),
                cause: format!(
                    "{}: {reason}; if it is a detector, name its family in model-description (dds-family=...)",
                    outputs()
                ),
            }),
    }
}

/// The labels and where they come from.
fn settle_labels(
    given: Option<Said<Vec<String>>>,
    family: Family,
    classes: Option<usize>,
) -> Result<(Vec<String>, String), ModelError> {
    match (given, classes) {
        (Some(said), Some(classes)) if said.value.len() != classes => Err(ModelError::Contradiction {
            what: "the number of classes".into(),
            first: format!("{} has {} labels", said.origin, said.value.len()),
            second: format!("the model's outputs have {classes} classes"),
        }),
        (Some(said), _) => Ok((said.value, said.origin)),
        (None, Some(80)) => Ok((labels::coco(), "COCO, as there are 80".into())),
        (None, _) if family == Family::Yunet => Ok((vec!["face".into()], "the family's own".into())),
        (None, _) => Ok((Vec::new(), "none given".into())),
    }
}

/// One call of ONNX Runtime; the tensor is borrowed, not copied.
fn run<'s>(
    session: &'s mut Session,
    input: &Input,
    size: (usize, usize),
    buffer: &Buffer,
) -> Result<SessionOutputs<'s>, String> {
    let shape = input.shape(size);
    let value: SessionInputValue<'_> = match buffer {
        Buffer::F32(b) => TensorRef::from_array_view((shape, b.as_slice()))
            .map_err(|e| chain(&e))?
            .into(),
        Buffer::F16(b) => TensorRef::from_array_view((shape, b.as_slice()))
            .map_err(|e| chain(&e))?
            .into(),
        Buffer::U8(b) => TensorRef::from_array_view((shape, b.as_slice()))
            .map_err(|e| chain(&e))?
            .into(),
    };
    session.run([value]).map_err(|e| chain(&e))
}

impl Outputs {
    /// Views of all outputs. Only what is not f32 is copied.
    fn collect<'a>(&'a mut self, values: &'a SessionOutputs<'_>) -> Result<Vec<Tensor<'a>>, String> {
        let count = values.len();
        self.dims.resize_with(count, Vec::new);
        self.converted.resize_with(count, Vec::new);
        let mut direct: Vec<Option<&[f32]>> = vec![None; count];
        for i in 0..count {
            let value = &values[i];
            let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
                return Err(format!("output {i} is {}, no tensor", value.dtype()));
            };
            self.dims[i].clear();
            self.dims[i].extend(shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)));
            let converted = &mut self.converted[i];
            converted.clear();
            // The runtime may give no memory at all for a tensor without elements.
            if self.dims[i].contains(&0) {
                continue;
            }
            match ty {
                TensorElementType::Float32 => direct[i] = Some(slice(value)?),
                TensorElementType::Float16 => converted.extend(slice::<f16>(value)?.iter().map(|v| v.to_f32())),
                TensorElementType::Float64 => converted.extend(slice::<f64>(value)?.iter().map(|v| *v as f32)),
                // Class numbers and counts: far below the 2^24 that f32 holds exactly.
                TensorElementType::Int64 => converted.extend(slice::<i64>(value)?.iter().map(|v| *v as f32)),
                TensorElementType::Int32 => converted.extend(slice::<i32>(value)?.iter().map(|v| *v as f32)),
                TensorElementType::Uint8 => converted.extend(slice::<u8>(value)?.iter().map(|v| f32::from(*v))),
                other => return Err(format!("output {i} holds {other}, which no detector gives")),
            }
        }
        let tensors = self.dims.iter().zip(&self.converted).zip(direct);
        Ok(tensors
            .map(|((dims, own), direct)| Tensor {
                dims,
                data: direct.unwrap_or(own),
            })
            .collect())
    }
}

fn slice<T: ort::value::PrimitiveTensorElementType>(value: &DynValue) -> Result<&[T], String> {
    value.try_extract_tensor::<T>().map(|t| t.1).map_err(|e| chain(&e))
}

/// A box in pixels of the picture, clipped, and its landmarks; `None` if nothing of the box lies there.
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
