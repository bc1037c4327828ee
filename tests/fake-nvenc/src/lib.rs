// SPDX-License-Identifier: MPL-2.0

//! Stand-in for NVIDIA's driver: `libcuda.so.1` and `libnvidia-encode.so.1` in one library, which goes by both names.
//!
//! It is stricter than a driver is known to be: it checks the version of every structure, that reserved fields are zero,
//! the order of calls, what is locked and what is current, sizes, and every value of the quantizer map. What breaks a rule
//! is refused as a driver would refuse it, and written to the log as a `violation`. H.264 is coded by libx264,
//! H.265 by libx265, with exactly the quantizers that rate control and map add up to, so that a decoder shows them.
//!
//! What it proves is the use of the interface as its header describes it. What a real driver makes of it, it cannot tell.
//!
//! Two environment variables steer it: [`FAULTS`] and [`LOG`].

mod coder;
mod cuda;
mod hevc;
mod memory;
mod nvenc;

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Environment variable: what goes wrong, words separated by commas.
///
/// - `cuda-broken`: `cuInit` fails; `no-device`: there is none; `old-driver`: of API 11.0
/// - `open-refused`, `no-encoder`: no session, as with too many of them, or on a GPU without an encoder; `one-session`: no
///   second one at a time
/// - `no-h264`, `max-size=WxH`, `init-refused`: what the device or its driver does not take
/// - `out-of-memory`: no buffers; `no-mode-change`: rate control stays in its mode; `reconfigure-refused`
/// - `map-refused`: pictures with a map are refused; `ignore-map`: the map is looked at and has no effect; `halve-map`: it
///   has half the effect
/// - `lost-at=N`: the device is gone from picture N on
/// - `gpu-out-of-memory`: no memory of the device for an encoder; `copy-refused`: nothing is copied to where an encoder
///   reads; `register-refused`, `mapping-refused`: what the device holds is nothing an encoder can read
/// - `others-too`: GStreamer's own elements may look at the encoder, by looser rules, and find nothing to register; else
///   that is a violation
pub const FAULTS: &str = "FAKE_NVENC_FAULTS";
/// Environment variable: file that lines are appended to, see [`Log`].
pub const LOG: &str = "FAKE_NVENC_LOG";
/// Name of the device.
pub const DEVICE: &str = "Fake GPU";

/// Environment variable: the value of the property `encoder` that tests use in this process.
pub const ENCODER: &str = "DDS_TEST_ENCODER";

/// Environment variable: where tests keep pictures in this process, `cuda` or else system memory.
pub const MEMORY: &str = "DDS_TEST_MEMORY";

/// Whether tests upload their pictures to the stand-in's device in this process.
pub fn on_cuda() -> bool {
    std::env::var_os(MEMORY).is_some_and(|memory| memory == "cuda")
}

/// Value of the property `encoder` in this process: libx264, unless [`again`] began it.
pub fn encoder() -> String {
    std::env::var(ENCODER).unwrap_or_else(|_| "x264".into())
}

/// Whether this process was begun by [`again`].
pub fn is_child() -> bool {
    std::env::var_os(LOG).is_some()
}

/// Whether a fault is switched on.
fn fault(name: &str) -> bool {
    fault_value(name).is_some()
}

/// The value of a fault that has one.
fn fault_value(name: &str) -> Option<String> {
    let all = std::env::var(FAULTS).unwrap_or_default();
    all.split(',').find_map(|word| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key == name).then(|| value.to_string())
    })
}

/// Appends a line to the log.
fn log(line: &str) {
    let Some(path) = std::env::var_os(LOG) else { return };
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// Makes a folder anew in which the dynamic linker finds the stand-in under `names` of the driver's. It is for
/// `LD_LIBRARY_PATH` of a process to be started.
///
/// # Errors
/// The stand-in was not built next to the running test, or files cannot be made.
pub fn install(folder: &Path, names: &[&str]) -> std::io::Result<()> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder)?;
    let program = std::env::current_exe()?;
    let built = program
        .ancestors()
        .skip(1)
        .take(2)
        .flat_map(|folder| [folder.join("deps/libfake_nvenc.so"), folder.join("libfake_nvenc.so")])
        .find(|path| path.is_file())
        .ok_or_else(|| std::io::Error::other("libfake_nvenc.so is not built: cargo build -p fake-nvenc"))?;
    for name in names {
        std::os::unix::fs::symlink(&built, folder.join(name))?;
    }
    Ok(())
}

/// Size of the pictures by which the plugin sees, once in a process, whether maps act.
pub const PROOF: &str = "176x144";

/// Both names of the driver's libraries.
pub const NAMES: [&str; 2] = ["libcuda.so.1", "libnvidia-encode.so.1"];

/// Runs tests of this program again, by their full names, with NVENC on the stand-in and in a process of their own: the
/// dynamic linker has to know where it is before that starts. `folder` is for its files; of the driver's libraries
/// `libraries` are found, with these [`FAULTS`]. No rule of the interface may be broken, and nothing be left.
///
/// # Panics
/// Where a test fails or is not there, a rule was broken, or something is left.
pub fn again(folder: &Path, tests: &[&str], libraries: &[&str], faults: &str) -> Log {
    run_again(folder, tests, libraries, faults, |_| ())
}

/// The same with pictures in the device's memory, where GStreamer's own CUDA elements put them.
///
/// # Panics
/// As [`again`].
pub fn again_on_cuda(folder: &Path, tests: &[&str], faults: &str) -> Log {
    let faults = format!("others-too,{faults}");
    let registry = folder.join("registry.bin");
    run_again(folder, tests, &NAMES, faults.trim_end_matches(','), |command| {
        // Which elements there are depends on the driver.
        command.env(MEMORY, "cuda").env("GST_REGISTRY", &registry);
    })
}

fn run_again(
    folder: &Path,
    tests: &[&str],
    libraries: &[&str],
    faults: &str,
    prepare: impl FnOnce(&mut Command),
) -> Log {
    install(folder, libraries).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let path = folder.join("fake-nvenc.log");
    let program = std::env::current_exe().expect("the running test has a path");
    let mut command = Command::new(program);
    command
        .args(tests)
        .args(["--exact", "--nocapture"])
        .env("LD_LIBRARY_PATH", search_path(folder))
        .env(ENCODER, "nvenc")
        .env(FAULTS, faults)
        .env(LOG, &path);
    prepare(&mut command);
    let output = command.output().expect("the running test runs again");
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{words}");
    // A name that is none would run nothing.
    let ran = format!("test result: ok. {} passed", tests.len());
    assert!(text.contains(&ran), "{text}");
    let log = Log::read(&path);
    assert_eq!(log.violations(), Vec::<&str>::new());
    assert!(log.nothing_leaks(), "left: {:?}", log.of("left").last());
    log
}

/// Value of `LD_LIBRARY_PATH` with which a process finds what is in a folder first.
pub fn search_path(folder: &Path) -> std::ffi::OsString {
    let known = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&known));
    std::env::join_paths(folders.filter(|folder| !folder.as_os_str().is_empty())).unwrap_or(known)
}

/// One picture that was coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coded {
    /// An IDR picture.
    pub idr: bool,
    /// Quantizer of rate control, before the map.
    pub qp: u8,
    /// The map: a difference per block.
    pub map: Vec<i8>,
    /// It was read from memory of the device.
    pub on_gpu: bool,
    /// Contexts of the process at that time.
    pub contexts: usize,
}

/// What a process did to the stand-in.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// All lines.
    pub lines: Vec<String>,
}

impl Log {
    /// Reads a log; an absent one is empty.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Self {
            lines: text.lines().map(String::from).collect(),
        }
    }

    /// Lines that begin with a word, without it.
    pub fn of<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines
            .iter()
            .filter_map(move |line| line.strip_prefix(word)?.strip_prefix(' '))
    }

    /// Rules that were broken.
    pub fn violations(&self) -> Vec<&str> {
        self.of("violation").collect()
    }

    /// Pictures that were coded, but for those of [`PROOF`].
    pub fn pictures(&self) -> Vec<Coded> {
        self.of("picture")
            .filter_map(|line| {
                let mut words = line.split(' ');
                let idr = words.next()? == "idr";
                if words.next()? == PROOF {
                    return None;
                }
                Some(Coded {
                    idr,
                    qp: words.next()?.parse().ok()?,
                    map: words.next()?.split(',').filter_map(|v| v.parse().ok()).collect(),
                    on_gpu: words.next()? == "gpu",
                    contexts: words.next()?.parse().ok()?,
                })
            })
            .collect()
    }

    /// Whether everything that was made is gone: contexts, encoders, and buffers, memory and streams.
    pub fn nothing_leaks(&self) -> bool {
        self.of("left").last().is_none_or(|line| line == "0 0 0")
    }
}
