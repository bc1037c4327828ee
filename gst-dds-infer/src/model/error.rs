// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;

/// The command that installs ONNX Runtime where it is searched.
pub const SETUP_COMMAND: &str = "pipelines/setup.sh";

/// Why a model cannot be used. `Display` names the cause and the cure.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelError {
    /// No usable ONNX Runtime library: every place tried, with its reason.
    Library(Vec<(String, String)>),
    /// ONNX Runtime was loaded but would not start.
    Runtime(String),
    /// An execution provider name that is not known here.
    ExecutionProvider(String),
    /// The model file is missing, empty, not readable, or not a model that ONNX Runtime accepts.
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The label file is missing, empty or not text.
    LabelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A description that cannot be read: unknown key, unknown value, bad number, unreadable file.
    Description {
        /// Where it was read: `model-description`, or the side file's path.
        origin: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Two sources contradict each other about the model.
    Contradiction {
        /// What they disagree about.
        what: String,
        /// The first source and its value.
        first: String,
        /// The second source and its value.
        second: String,
    },
    /// The model loads, but its inputs, outputs or metadata do not fit its purpose.
    Unfit {
        /// The file.
        path: PathBuf,
        /// The purpose: "detection", "embedding faces".
        purpose: &'static str,
        /// What does not fit.
        cause: String,
    },
    /// A picture whose planes are shorter than its geometry needs, or of no size.
    Picture(String),
    /// ONNX Runtime refused to run the model, or the outputs were not as declared.
    Inference(String),
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(tried) => {
                write!(
                    f,
                    "no usable ONNX Runtime library (1.20 or newer) found; run {SETUP_COMMAND} to install one, or set \
                     the property onnxruntime-library or the variable ORT_DYLIB_PATH to a libonnxruntime.so. Tried:"
                )?;
                for (place, reason) in tried {
                    write!(f, "\n  {place}: {reason}")?;
                }
                Ok(())
            }
            Self::Runtime(cause) => write!(f, "ONNX Runtime does not start: {cause}"),
            Self::ExecutionProvider(name) => write!(
                f,
                "unknown execution provider '{name}'; execution-provider takes a comma separated list of cpu, cuda, \
                 tensorrt, openvino"
            ),
            Self::ModelFile { path, cause } => write!(f, "cannot use the model file {}: {cause}", path.display()),
            Self::LabelFile { path, cause } => write!(f, "cannot use the label file {}: {cause}", path.display()),
            Self::Description { origin, cause } => write!(f, "cannot use the model description in {origin}: {cause}"),
            Self::Contradiction { what, first, second } => write!(
                f,
                "the descriptions of the model disagree about {what}: {first}, but {second}; correct one of them"
            ),
            Self::Unfit { path, purpose, cause } => {
                write!(f, "the model {} is not fit for {purpose}: {cause}", path.display())
            }
            Self::Picture(cause) => write!(f, "bad picture: {cause}"),
            Self::Inference(cause) => write!(f, "inference failed: {cause}"),
        }
    }
}

impl std::error::Error for ModelError {}
