// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! The part that all tasks share: ONNX Runtime's session, the merged description, the input and the outputs.
//!
//! [`ModelSession::open`] loads a model and merges its descriptions; [`ModelSession::probe`] runs it once on a blank picture,
//! which proves that it runs and shows the true shapes of its outputs. The task then sets the input rules
//! ([`ModelSession::feed`]) and runs it with [`ModelSession::infer`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use half::f16;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, TensorElementType, TensorRef, ValueType};

use super::decode::{OutputInfo, Tensor};
use super::description::{Family, Fields, InputDefaults, InputRules, Sourced};
use super::preprocess::{Buffer, Element, Order, Placement, Preprocessor};
use super::runtime::{Provider, Runtime, chain};
use super::{ModelError, ModelSettings, Picture, Task, exposed, labels};

/// Input side for the probe of a model of dynamic size.
pub(super) const PROBE_SIDE: usize = 320;
/// Largest input in pixels, 0.8 GB of f32: more means a damaged model or a mistake.
const MAX_PIXELS: usize = 1 << 26;
/// Sides of dynamic inputs are multiples of this: the coarsest stride of the common families.
const STEP: usize = 32;

/// Purpose of a model before its task is known.
const PICTURES: &str = "pictures";

/// ONNX Runtime's session with the model's description and input rules.
pub(super) struct ModelSession {
    file: PathBuf,
    /// Purpose, for error texts.
    purpose: &'static str,
    session: Session,
    input: Input,
    fields: Fields,
    labels: Option<Sourced<Vec<String>>>,
    preprocessor: Preprocessor,
    threads: usize,
    provider: String,
    library: &'static str,
    warnings: Vec<String>,
    /// Number of outputs in the model's file; extra outputs come after them.
    own_outputs: usize,
}

/// Outputs of one run, in the runtime's memory; [`Outputs::collect`] reads them.
pub(super) struct Run {
    values: Vec<DynValue>,
    /// Width and height of the input.
    pub size: (usize, usize),
    /// Placement of the picture in the input.
    pub placement: Placement,
    /// Time spent turning the picture into the input.
    pub preprocess: Duration,
    /// Time spent in the ONNX Runtime call.
    pub run: Duration,
}

/// The model's input as declared.
struct Input {
    element: Element,
    order: Order,
    /// With a leading batch dimension of 1.
    batched: bool,
    /// Width and height; `None` where it follows the frame.
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

/// Outputs of the current run as f32; buffers are reused from run to run.
#[derive(Default)]
pub(super) struct Outputs {
    dims: Vec<Vec<usize>>,
    converted: Vec<Vec<f32>>,
}

impl ModelSession {
    /// Loads the ONNX Runtime library (once per process) and the model, and merges its descriptions.
    ///
    /// # Errors
    /// Every [`ModelError`] but [`ModelError::Picture`] and [`ModelError::Inference`].
    pub(super) fn open(settings: &ModelSettings) -> Result<Self, ModelError> {
        let file = settings.model_file.as_path();
        check_file(file)?;
        let providers = Provider::list(&settings.execution_providers)?;
        let mut warnings = Vec::new();
        let described = described(settings, &mut warnings)?;

        let runtime = Runtime::get(settings.library.as_deref())?;
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
        let mut extra = settings.extra_outputs.clone();
        extra.extend(described.objectness.as_ref().map(|given| given.value.clone()));
        let exposed = exposed::with_outputs(file, &extra)?;
        let bytes = exposed.as_ref().map(|e| e.model.as_slice());
        let (session, provider) = runtime.session(file, bytes, &providers, settings.threads, &mut warnings)?;
        let own_outputs = session.outputs().len().saturating_sub(exposed.map_or(0, |e| e.added));

        let unfit = |cause: String| ModelError::Unfit {
            path: file.to_owned(),
            purpose: PICTURES,
            cause,
        };
        let metadata = metadata(file, &session, &described, &mut warnings)?;
        described.check_ids()?;
        let fields = described.or(metadata);
        check_notes(&session, &fields)?;
        let input = read_input(&session, &fields).map_err(|e| match e {
            Failure::Unfit(cause) => unfit(cause),
            Failure::Contradiction(e) => *e,
        })?;
        check_outputs(&session).map_err(unfit)?;

        let labels = fields.labels.clone();
        // The values of a blank picture hardly matter: any family's rules do.
        let assumed = fields.family.as_ref().map_or(Family::Yolov8, |s| s.value);
        let rules = fields.input_rules(&assumed.defaults());
        Ok(Self {
            preprocessor: Preprocessor::new(rules, input.element, input.order, 1),
            file: file.to_owned(),
            purpose: PICTURES,
            session,
            input,
            fields,
            labels,
            threads: settings.threads as usize,
            provider,
            library: runtime.library(),
            warnings,
            own_outputs,
        })
    }

    /// Runs the model on a blank picture; a side of its input that is dynamic has `side` pixels.
    ///
    /// # Errors
    /// [`ModelError::Unfit`] when it does not run.
    pub(super) fn probe(&mut self, side: usize) -> Result<Run, ModelError> {
        let size = self.size_for((side, side));
        self.preprocessor.blank(size);
        let start = Instant::now();
        let values = self
            .run(size)
            .map_err(|e| self.unfit(format!("it does not run on a blank picture: {e}")))?;
        Ok(Run {
            values,
            size,
            placement: Placement::default(),
            preprocess: Duration::ZERO,
            run: start.elapsed(),
        })
    }

    /// Sets the input rules: as described, else `own`, the defaults of `name`.
    ///
    /// # Errors
    /// [`ModelError::Unfit`] when the input takes bytes and the rules give fractions.
    pub(super) fn feed(&mut self, own: &InputDefaults, name: &str) -> Result<(), ModelError> {
        let rules = self.fields.input_rules(own);
        if self.input.element == Element::U8 && (rules.affine.gain != [1.0; 3] || rules.affine.offset != [0.0; 3]) {
            return Err(self.unfit(format!(
                "its input takes bytes, which leave no room for the normalisation of {name}; set dds-scale=1, \
                 dds-mean=0, dds-std=1"
            )));
        }
        self.preprocessor = Preprocessor::new(rules, self.input.element, self.input.order, self.threads);
        Ok(())
    }

    /// Runs the model on one picture, at its fixed input size or at the one that follows from the picture.
    ///
    /// # Errors
    /// [`ModelError::Picture`] for a picture too large for a model of dynamic size, [`ModelError::Inference`] when ONNX
    /// Runtime refuses.
    pub(super) fn infer(&mut self, picture: &Picture<'_>) -> Result<Run, ModelError> {
        let size = self.size_for((picture.width() as usize, picture.height() as usize));
        self.infer_at(picture, size)
    }

    /// As [`ModelSession::infer`], on an input of this width and height. A picture of the same size is not resized.
    ///
    /// # Errors
    /// As [`ModelSession::infer`].
    pub(super) fn infer_at(&mut self, picture: &Picture<'_>, size: (usize, usize)) -> Result<Run, ModelError> {
        if size.0 * size.1 > MAX_PIXELS {
            return Err(ModelError::Picture(format!(
                "{}x{} pixels are more than a model of dynamic size is given here; set dds-width and dds-height",
                size.0, size.1
            )));
        }
        let start = Instant::now();
        let placement = self.preprocessor.run(picture, size, self.input.is_dynamic());
        let prepared = Instant::now();
        let values = self.run(size).map_err(ModelError::Inference)?;
        Ok(Run {
            values,
            size,
            placement,
            preprocess: prepared - start,
            run: prepared.elapsed(),
        })
    }

    /// Repeats the bare ONNX Runtime call on the last input, which had this size.
    pub(super) fn run_again(&mut self, size: (usize, usize)) -> Result<Duration, ModelError> {
        let start = Instant::now();
        let values = self.run(size).map_err(ModelError::Inference)?;
        let time = start.elapsed();
        drop(values);
        Ok(time)
    }

    /// Calls ONNX Runtime on the last tensor, which is borrowed, not copied.
    fn run(&mut self, size: (usize, usize)) -> Result<Vec<DynValue>, String> {
        let shape = self.input.shape(size);
        let value: SessionInputValue<'_> = match self.preprocessor.buffer() {
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
        let outputs = self.session.run([value]).map_err(|e| chain(&e))?;
        Ok(outputs.into_iter().map(|(_, value)| value).collect())
    }

    /// Names, true shapes and types of the outputs of a run.
    pub(super) fn infos(&self, run: &Run) -> Vec<OutputInfo> {
        let outlets = self.session.outputs().iter().zip(&run.values);
        outlets
            .map(|(outlet, value)| {
                let dims: Vec<usize> = dims(value).collect();
                let declared = outlet.dtype().tensor_shape().map(|s| &**s).unwrap_or_default();
                // A model may leave its rank undeclared.
                let dynamic = if declared.len() == dims.len() {
                    declared.iter().map(|n| *n < 0).collect()
                } else {
                    vec![true; dims.len()]
                };
                OutputInfo {
                    name: outlet.name().to_owned(),
                    dims,
                    dynamic,
                    float: value.dtype().tensor_type().is_some_and(is_float),
                }
            })
            .collect()
    }

    /// As [`ModelSession::infos`], without the extra outputs ([`ModelSettings::extra_outputs`]).
    pub(super) fn own_infos(&self, run: &Run) -> Vec<OutputInfo> {
        let mut infos = self.infos(run);
        infos.truncate(self.own_outputs);
        infos
    }

    /// The labels and their origin: given ones, whose number must equal `classes` where that is known, or the `usual`
    /// ones for this number, or none.
    ///
    /// # Errors
    /// [`ModelError::Contradiction`] when the numbers differ.
    pub(super) fn settle_labels(
        &self,
        classes: Option<usize>,
        usual: impl Fn(usize) -> Option<(Vec<String>, String)>,
    ) -> Result<(Vec<String>, String), ModelError> {
        match (&self.labels, classes) {
            (Some(given), Some(classes)) if given.value.len() != classes => Err(ModelError::Contradiction {
                what: "the number of classes".into(),
                first: format!("{} has {} labels", given.origin, given.value.len()),
                second: format!("the model's outputs have {classes} classes"),
            }),
            (Some(given), _) => Ok((given.value.clone(), given.origin.clone())),
            (None, classes) => Ok(classes
                .and_then(usual)
                .unwrap_or_else(|| (Vec::new(), "none given".into()))),
        }
    }

    /// One line for the log; `reader` describes the decoder and why it was chosen, `labels` their number and origin.
    pub(super) fn summary(&self, reader: &str, labels: &str) -> String {
        let side = |s: Option<usize>| s.map_or("any".into(), |s| s.to_string());
        let InputRules { color, resize, .. } = self.preprocessor.rules();
        format!(
            "{reader}, input {}x{} {color:?} {:?} {:?} {}, {labels}, on {}, ONNX Runtime {}",
            side(self.input.size[0]),
            side(self.input.size[1]),
            self.input.element,
            self.input.order,
            resize.name(),
            self.provider,
            self.library,
        )
    }

    /// Sets the purpose for error texts: "detection".
    pub(super) fn is_for(&mut self, purpose: &'static str) {
        self.purpose = purpose;
    }

    /// The error for a model that loads but does not fit its purpose.
    pub(super) fn unfit(&self, cause: String) -> ModelError {
        ModelError::Unfit {
            path: self.file.clone(),
            purpose: self.purpose,
            cause,
        }
    }

    /// Width and height of the input for a picture of this size.
    pub(super) fn size_for(&self, picture: (usize, usize)) -> (usize, usize) {
        self.input.size_for(picture)
    }

    /// Number of outputs in the model's file; extra outputs come after them.
    pub(super) fn own_outputs(&self) -> usize {
        self.own_outputs
    }

    /// The merged description.
    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Checks a named task against the tasks that the caller supports.
    ///
    /// # Errors
    /// [`ModelError::Contradiction`] when it is another.
    pub(super) fn expect_task(&self, wanted: &[Task]) -> Result<(), ModelError> {
        match &self.fields.task {
            Some(given) if !wanted.contains(&given.value) => Err(ModelError::Contradiction {
                what: "the task".into(),
                first: format!("{} says {}", given.origin, given.value.name()),
                second: format!("a model for {} is wanted", wanted[0].name()),
            }),
            _ => Ok(()),
        }
    }

    /// Drops detector fields that come from the model's own metadata only: this model is no detector.
    pub(super) fn is_no_detector(&mut self) {
        self.fields.family.take_if(|given| given.is_from_model());
        self.labels.take_if(|given| given.is_from_model());
    }

    /// Number of labels given by a source, if any.
    pub(super) fn given_labels(&self) -> Option<usize> {
        self.labels.as_ref().map(|l| l.value.len())
    }

    /// The model's file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Deviations from the settings that are no errors, one sentence each.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Checks that the file is readable and not empty; ONNX Runtime's own messages for these cases are obscure.
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

/// Whether the library that the user named is the one in use.
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

/// Checks that the declared outputs are tensors; shapes are known only after a run.
fn check_outputs(session: &Session) -> Result<(), String> {
    for outlet in session.outputs() {
        if !matches!(outlet.dtype(), ValueType::Tensor { .. }) {
            return Err(format!("its output {} is {}, no tensor", outlet.name(), outlet.dtype()));
        }
    }
    if session.outputs().is_empty() {
        return Err("it has no outputs".into());
    }
    Ok(())
}

/// Checks the side file's tensor sections against the model.
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
    Unfit(String),
    Contradiction(Box<ModelError>),
}

/// Merges all descriptions but the model's own metadata, strongest source first.
fn described(settings: &ModelSettings, warnings: &mut Vec<String>) -> Result<Fields, ModelError> {
    let label_file = match &settings.label_file {
        Some(path) => Some(Sourced {
            value: labels::read(path)?,
            origin: path.display().to_string(),
        }),
        None => None,
    };
    let property = Fields::from_property(settings.description.as_deref().unwrap_or_default())?;
    let forced = Fields::of_labels(label_file).or(Fields::of_task(settings.task, "the setting task"));
    let stronger = forced.or(property);
    let side_file = Fields::from_side_file(&settings.model_file, &stronger, warnings)?;
    Ok(stronger.or(side_file))
}

/// Reads the model's own metadata.
fn metadata(
    file: &Path,
    session: &Session,
    described: &Fields,
    warnings: &mut Vec<String>,
) -> Result<Fields, ModelError> {
    match session.metadata() {
        Ok(m) => {
            let is_described = described.task.is_some() || described.family.is_some();
            let fields = Fields::from_metadata(file, is_described, |key| m.custom(key), warnings)?;
            // The runtime's bindings return UTF-8 only.
            let unread = m.custom("names").is_none() && m.custom_keys().is_ok_and(|k| k.contains(&"names".to_owned()));
            if unread {
                warnings.push("the model's metadata has names that are not UTF-8 and are left out".into());
            }
            Ok(fields)
        }
        Err(e) => {
            warnings.push(format!(
                "the model's metadata cannot be read and is left out: {}",
                chain(&e)
            ));
            Ok(Fields::default())
        }
    }
}

/// Reads the declaration of the input.
fn read_input(session: &Session, fields: &Fields) -> Result<Input, Failure> {
    let unfit = |cause: String| Err(Failure::Unfit(cause));
    let [outlet] = session.inputs() else {
        return unfit(format!(
            "it has {} inputs; a detector has one, the picture",
            session.inputs().len()
        ));
    };
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return unfit(format!("its input {} is {}, no tensor", outlet.name(), outlet.dtype()));
    };
    let what = format!("its input {} is {}", outlet.name(), outlet.dtype());
    let element = match ty {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Uint8 => Element::U8,
        _ => return unfit(format!("{what}; a picture is float32, float16 or uint8")),
    };
    let (batched, dims) = match shape[..] {
        [n, a, b, c] if n == 1 || n < 0 => (true, [a, b, c]),
        [n, _, _, _] => return unfit(format!("{what}, a batch of {n} pictures; export it with a batch of 1")),
        [a, b, c] => (false, [a, b, c]),
        _ => {
            return unfit(format!(
                "{what}; a picture is [1, 3, height, width], [1, height, width, 3] or without the 1"
            ));
        }
    };
    let (order, h, w) = match dims {
        [3, h, w] => (Order::Planar, h, w),
        [h, w, 3] => (Order::Packed, h, w),
        [c, h, w] if c < 0 && !matches!(w, 1 | 4) => (Order::Planar, h, w),
        _ => return unfit(format!("{what}; a colour picture has 3 channels, first or last")),
    };
    let mut size = [usize::try_from(w).ok(), usize::try_from(h).ok()];
    if size.contains(&Some(0)) {
        return unfit(format!("{what}, without pixels"));
    }
    for (side, given) in size.iter_mut().zip(&fields.size) {
        match (&side, given) {
            (Some(own), Some(given)) if *own != given.value as usize => {
                return Err(Failure::Contradiction(Box::new(ModelError::Contradiction {
                    what: "the size of the input".into(),
                    first: format!("{} says {}", given.origin, given.value),
                    second: format!("the model's input {} has {own}", outlet.name()),
                })));
            }
            (None, Some(given)) => *side = Some(given.value as usize),
            _ => {}
        }
    }
    let most = |side: Option<usize>| side.unwrap_or(PROBE_SIDE);
    if most(size[0])
        .checked_mul(most(size[1]))
        .is_none_or(|pixels| pixels > MAX_PIXELS)
    {
        return unfit(format!("{what}, of which {MAX_PIXELS} pixels are allowed"));
    }
    Ok(Input {
        element,
        order,
        batched,
        size,
    })
}

impl Outputs {
    /// Views of all outputs. Only tensors of other types than f32 are copied.
    pub(super) fn collect<'a>(&'a mut self, run: &'a Run) -> Result<Vec<Tensor<'a>>, String> {
        let count = run.values.len();
        self.dims.resize_with(count, Vec::new);
        self.converted.resize_with(count, Vec::new);
        let mut direct: Vec<Option<&[f32]>> = vec![None; count];
        for (i, value) in run.values.iter().enumerate() {
            let ValueType::Tensor { ty, .. } = value.dtype() else {
                return Err(format!("output {i} is {}, no tensor", value.dtype()));
            };
            self.dims[i].clear();
            self.dims[i].extend(dims(value));
            let converted = &mut self.converted[i];
            converted.clear();
            // The runtime may return a null pointer for a tensor without elements.
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
                TensorElementType::Int16 => converted.extend(slice::<i16>(value)?.iter().map(|v| f32::from(*v))),
                TensorElementType::Uint16 => converted.extend(slice::<u16>(value)?.iter().map(|v| f32::from(*v))),
                TensorElementType::Int8 => converted.extend(slice::<i8>(value)?.iter().map(|v| f32::from(*v))),
                TensorElementType::Uint8 => converted.extend(slice::<u8>(value)?.iter().map(|v| f32::from(*v))),
                other => return Err(format!("output {i} holds {other}, which no known model gives")),
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

/// The shape of a value; empty if it is not a tensor.
fn dims(value: &DynValue) -> impl Iterator<Item = usize> {
    let shape = value.dtype().tensor_shape().map(|s| &**s).unwrap_or_default();
    shape.iter().map(|d| usize::try_from(*d).unwrap_or(0))
}
