// SPDX-License-Identifier: MPL-2.0

//! ONNX Runtime: finding the shared library, the one environment of the process, sessions.
//!
//! `ort` panics on any use before its library is loaded, so nothing of `ort` is touched before [`Runtime::get`] has
//! loaded one. One environment may exist per process; it lives in a static that every session shares.

// Only the dynamic loader knows the directory of this library.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use gst::glib;
use once_cell::sync::OnceCell;
use ort::environment::Environment;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::ModelError;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "ddsinfer-onnxruntime",
        gst::DebugColorFlags::empty(),
        Some("Messages of ONNX Runtime"),
    )
});

static RUNTIME: OnceCell<Runtime> = OnceCell::new();

/// Oldest library accepted is 1.20; names up to this minor version are tried, for distributions that put it into the
/// name (Debian 13: `libonnxruntime.so.1.21`).
const MINORS: std::ops::RangeInclusive<u32> = 20..=60;

/// The loaded library and its environment.
pub(super) struct Runtime {
    environment: Environment,
    library: String,
}

impl Runtime {
    /// The runtime of this process, loaded by the first successful call. A failed call may be repeated.
    ///
    /// Order: `library` (the property) alone if given; else the variable `ORT_DYLIB_PATH` alone if set; else the
    /// directory of this plugin, `../onnxruntime` beside it, `$XDG_DATA_HOME/gst-dds/onnxruntime` (by default
    /// `~/.local/share/gst-dds/onnxruntime`), and last the system's names. A library that the user names is never
    /// silently replaced by another.
    pub(super) fn get(library: Option<&Path>) -> Result<&'static Self, ModelError> {
        RUNTIME.get_or_try_init(|| Self::load(library))
    }

    /// The library in use.
    pub(super) fn library(&self) -> &str {
        &self.library
    }

    fn load(library: Option<&Path>) -> Result<Self, ModelError> {
        let mut tried = Vec::new();
        for place in places(library) {
            let before = tried.len();
            for candidate in place.candidates().unwrap_or_else(|reason| {
                tried.push((place.to_string(), reason));
                Vec::new()
            }) {
                match init_from(&candidate) {
                    Ok(builder) => return Self::start(builder, candidate),
                    // Most of the system's names do not exist; one line for all of them will do.
                    Err(reason) if matches!(place, Place::System) && reason.contains("No such file") => {}
                    Err(reason) => tried.push((place.describe(&candidate), reason)),
                }
            }
            if tried.len() == before {
                tried.push((place.to_string(), "not found".into()));
            }
        }
        Err(ModelError::Library(tried))
    }

    fn start(builder: ort::environment::EnvironmentBuilder, library: PathBuf) -> Result<Self, ModelError> {
        let environment = builder
            .with_name("gst-dds")
            .with_telemetry(false)
            .with_logger(Arc::new(
                |level, _category: &str, _id: &str, place: &str, message: &str| match level {
                    LogLevel::Verbose => gst::trace!(CAT, "{place}: {message}"),
                    LogLevel::Info => gst::debug!(CAT, "{place}: {message}"),
                    // Notes of the graph optimiser arrive as warnings; users cannot and need not act on them.
                    LogLevel::Warning => gst::info!(CAT, "{place}: {message}"),
                    LogLevel::Error | LogLevel::Fatal => gst::warning!(CAT, "{place}: {message}"),
                },
            ))
            .build()
            .map_err(|e| ModelError::Runtime(chain(&e)))?;
        environment.set_log_level(LogLevel::Warning);
        Ok(Self {
            environment,
            library: library.display().to_string(),
        })
    }

    /// Creates a session for a model file, or for its `bytes` as changed by [`super::exposed`], with the first of
    /// `providers` that ONNX Runtime accepts. Every refusal is a line in `warnings`; the last resort is the CPU.
    pub(super) fn session(
        &self,
        file: &Path,
        bytes: Option<&[u8]>,
        providers: &[Provider],
        threads: u32,
        warnings: &mut Vec<String>,
    ) -> Result<(Session, String), ModelError> {
        let commit = |mut builder: SessionBuilder| match bytes {
            Some(bytes) => builder.commit_from_memory(bytes),
            None => builder.commit_from_file(file),
        };
        let mut builder = self.builder(threads)?;
        let mut accepted = Vec::new();
        for provider in providers {
            let Some(dispatch) = provider.dispatch() else { break };
            builder = match builder.with_execution_providers([dispatch]) {
                Ok(b) => {
                    accepted.push(provider.name());
                    b
                }
                Err(e) => {
                    warnings.push(format!("execution provider {} refused: {}", provider.name(), chain(&e)));
                    e.recover()
                }
            };
        }
        match commit(builder) {
            Ok(session) => {
                accepted.push("cpu");
                Ok((session, accepted.join(",")))
            }
            // Some providers fail only when the session is created.
            Err(e) if !accepted.is_empty() => {
                warnings.push(format!(
                    "execution provider {} refused the model: {}",
                    accepted.join(","),
                    chain(&e)
                ));
                let session = commit(self.builder(threads)?).map_err(|e| refused(file, &e))?;
                Ok((session, "cpu".into()))
            }
            Err(e) => Err(refused(file, &e)),
        }
    }

    fn builder(&self, threads: u32) -> Result<SessionBuilder, ModelError> {
        let build = || -> Result<SessionBuilder, String> {
            let builder = Session::builder(&self.environment).map_err(|e| chain(&e))?;
            let builder = builder
                .with_optimization_level(GraphOptimizationLevel::All)
                .map_err(|e| chain(&e))?;
            // Threads that spin while they wait for the next operation or frame cost a live pipeline more than they
            // save: decoder and camera need the same processor.
            let builder = builder.with_intra_op_spinning(false).map_err(|e| chain(&e))?;
            let builder = builder.with_log_level(LogLevel::Warning).map_err(|e| chain(&e))?;
            if threads == 0 {
                return Ok(builder);
            }
            builder.with_intra_threads(threads as usize).map_err(|e| chain(&e))
        };
        build().map_err(ModelError::Runtime)
    }
}

/// Creates a bare ONNX Runtime session for a model that is none of [`super::Task`], on the CPU, set up as for those.
/// `threads` as [`super::ModelSettings::threads`]; the library is searched in the same places.
///
/// # Errors
/// The library or the model does not load.
pub fn open_session(file: &Path, threads: u32) -> Result<Session, ModelError> {
    let runtime = Runtime::get(None)?;
    let (session, _) = runtime.session(file, None, &[], threads, &mut Vec::new())?;
    Ok(session)
}

fn refused(file: &Path, error: &ort::Error) -> ModelError {
    ModelError::ModelFile {
        path: file.to_owned(),
        cause: format!(
            "ONNX Runtime does not load it, it may be damaged, incomplete or no ONNX model ({})",
            chain(error)
        ),
    }
}

/// An execution provider by its name in the `execution-provider` list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    Cpu,
    Cuda,
    TensorRt,
    OpenVino,
}

impl Provider {
    /// Reads a comma separated list; an empty one means the CPU.
    pub(super) fn list(names: &str) -> Result<Vec<Self>, ModelError> {
        let mut list = Vec::new();
        for name in names.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            list.push(match name.to_ascii_lowercase().as_str() {
                "cpu" => Self::Cpu,
                "cuda" => Self::Cuda,
                "tensorrt" => Self::TensorRt,
                "openvino" => Self::OpenVino,
                _ => return Err(ModelError::ExecutionProvider(name.into())),
            });
        }
        if list.is_empty() {
            list.push(Self::Cpu);
        }
        Ok(list)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::OpenVino => "openvino",
        }
    }

    /// The provider's registration; `None` for the CPU, which is always there and takes the rest.
    fn dispatch(self) -> Option<ExecutionProviderDispatch> {
        let dispatch = match self {
            Self::Cpu => return None,
            Self::Cuda => ep::CUDA::default().build(),
            Self::TensorRt => ep::TensorRT::default().build(),
            Self::OpenVino => ep::OpenVINO::default().build(),
        };
        // Without this a refusal is silent.
        Some(dispatch.error_on_failure())
    }
}

/// One place to search.
enum Place {
    /// A path that the user named, and by which setting.
    Given(&'static str, PathBuf),
    /// A directory to look into.
    Directory(PathBuf),
    /// The names for the system's loader.
    System,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(how, path) => write!(f, "{how} {}", path.display()),
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::System => write!(
                f,
                "system libraries {0}, {0}.1, {0}.1.{1} to {0}.1.{2}",
                system_name(),
                MINORS.start(),
                MINORS.end()
            ),
        }
    }
}

impl Place {
    fn candidates(&self) -> Result<Vec<PathBuf>, String> {
        match self {
            Self::Given(_, path) if path.is_dir() => libraries_in(path),
            // A bare name is for the loader; any other path must be absolute, or `ort` takes it as relative to the
            // executable.
            Self::Given(_, path) if path.components().count() == 1 && !path.exists() => Ok(vec![path.clone()]),
            Self::Given(_, path) => std::path::absolute(path).map(|p| vec![p]).map_err(|e| e.to_string()),
            Self::Directory(path) => libraries_in(path),
            Self::System => {
                let base = system_name();
                let mut names = vec![PathBuf::from(format!("{base}.1")), PathBuf::from(&base)];
                names.extend(MINORS.rev().map(|minor| PathBuf::from(format!("{base}.1.{minor}"))));
                Ok(names)
            }
        }
    }

    fn describe(&self, candidate: &Path) -> String {
        match self {
            Self::Given(how, _) => format!("{how} {}", candidate.display()),
            Self::Directory(_) => candidate.display().to_string(),
            Self::System => format!("system library {}", candidate.display()),
        }
    }
}

/// The library's name without a version.
fn system_name() -> String {
    format!(
        "{}onnxruntime{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    )
}

/// Places to search, in order.
fn places(library: Option<&Path>) -> Vec<Place> {
    if let Some(path) = library.filter(|p| !p.as_os_str().is_empty()) {
        return vec![Place::Given("property onnxruntime-library", path.to_owned())];
    }
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        return vec![Place::Given("variable ORT_DYLIB_PATH", path.into())];
    }
    let mut places = Vec::new();
    if let Some(directory) = own_directory() {
        let beside = directory.parent().map(|p| p.join("onnxruntime"));
        places.push(Place::Directory(directory));
        places.extend(beside.map(Place::Directory));
    }
    places.push(Place::Directory(
        glib::user_data_dir().join("gst-dds").join("onnxruntime"),
    ));
    places.push(Place::System);
    places
}

/// ONNX Runtime libraries in a directory: the plain names first, then the newest version.
fn libraries_in(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let stem = format!("{}onnxruntime.", std::env::consts::DLL_PREFIX);
    let entries = std::fs::read_dir(directory).map_err(|e| e.to_string())?;
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n.starts_with(&stem) && n.contains(std::env::consts::DLL_SUFFIX))
        .collect();
    names.sort_by_key(|n| (n.len(), std::cmp::Reverse(n.clone())));
    if names.is_empty() {
        return Err(format!("no {stem}* in it"));
    }
    let directory = std::path::absolute(directory).map_err(|e| e.to_string())?;
    Ok(names.into_iter().map(|n| directory.join(n)).collect())
}

/// Directory of the shared library (or executable) that contains this code.
fn own_directory() -> Option<PathBuf> {
    let address: fn() -> Option<PathBuf> = own_directory;
    // SAFETY: an all-zero Dl_info is valid (null pointers); dladdr only looks the address up and fills it. The name it
    // returns is a NUL terminated string that lives as long as the library, which is executing this.
    let name = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(address as *const libc::c_void, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        CStr::from_ptr(info.dli_fname).to_str().ok()?
    };
    // A symbolic link in the plugin directory counts as its target: the user put the rest there.
    let file = std::fs::canonicalize(name).ok()?;
    Some(file.parent()?.to_owned())
}

/// `ort::init_from` with its panics (a library with a broken entry point, no /proc) turned into errors.
fn init_from(path: &Path) -> Result<ort::environment::EnvironmentBuilder, String> {
    if path.is_absolute() && !path.exists() {
        return Err("no such file".into());
    }
    match catch_unwind(AssertUnwindSafe(|| ort::init_from(path))) {
        Ok(Ok(builder)) => Ok(builder),
        // The loader's own message is one level down.
        Ok(Err(ort::LoadDynamicError::Dlopen { error, .. })) => Err(chain(&error)),
        Ok(Err(e)) => Err(chain(&e)),
        Err(_) => Err("is not a working ONNX Runtime library".into()),
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let cause = e.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = e.source();
    }
    text
}
