// SPDX-License-Identifier: MPL-2.0

//! The server of the systems that are not ours: ddsinfer without feedback, picture by picture, and a memory of what it
//! said to which picture.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dds_tests::{Error, bus_error, launch, score::Line};
use gst::prelude::*;
use gst_video::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::codec;

/// SHA-256 in hexadecimal.
pub fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of a file.
///
/// # Errors
/// A file that cannot be read.
pub fn hash_file(path: &Path) -> Result<String, Error> {
    let mut file = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher)?;
    Ok(hex(hasher.finalize()))
}

/// What a model said to pictures, in a file that only grows. One writer at a time.
pub struct Memory {
    known: Mutex<(HashMap<String, String>, std::fs::File)>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    picture: String,
    line: String,
}

impl Memory {
    /// The memory in `path`, made where it is missing. A line that was not written to its end is left out.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(format!("{}: {e}", path.display()).into()),
        };
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let known = entries.map(|entry| (entry.picture, entry.line)).collect();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok(Self {
            known: Mutex::new((known, file)),
        })
    }

    fn get(&self, picture: &str) -> Option<String> {
        self.known.lock().unwrap().0.get(picture).cloned()
    }

    fn put(&self, picture: String, line: String) -> Result<(), Error> {
        let mut known = self.known.lock().unwrap();
        let mut text = serde_json::to_string(&Entry {
            picture: picture.clone(),
            line: line.clone(),
        })?;
        text.push('\n');
        known.1.write_all(text.as_bytes())?;
        known.0.insert(picture, line);
        Ok(())
    }
}

/// A ddsinfer with its model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Infer {
    /// The ONNX file.
    pub model: PathBuf,
    /// SHA-256 of it.
    pub sha256: String,
    /// Properties besides.
    pub properties: String,
}

impl Infer {
    /// A model of this file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(model: &Path, properties: &str) -> Result<Self, Error> {
        Ok(Self {
            model: model.into(),
            sha256: hash_file(model)?,
            properties: properties.into(),
        })
    }

    /// The element for gst-launch.
    pub fn line(&self) -> String {
        format!("ddsinfer model-file=\"{}\" {}", self.model.display(), self.properties)
    }

    /// The same with other properties behind.
    pub fn with(&self, properties: &str) -> String {
        format!("{} {properties}", self.line())
    }

    /// What results depend on.
    pub fn salt(&self) -> String {
        format!("{} {}", self.sha256, self.properties)
    }
}

/// A model that is asked picture by picture.
pub struct Server<'a> {
    /// A gst-launch description of ddsinfer.
    infer: String,
    /// What tells its answers from those of others: the properties without paths, and the hash of the model.
    salt: String,
    memory: &'a Memory,
    running: Option<Running>,
    /// Pictures it was asked about, those it remembers included.
    pub asked: u64,
}

struct Running {
    pipeline: gst::Pipeline,
    caps: gst::Caps,
    source: gst_app::AppSrc,
    results: gst_app::AppSink,
    out: gst_app::AppSink,
    count: u64,
}

impl Running {
    fn open(infer: &str, caps: &gst::Caps) -> Result<Self, Error> {
        let pipeline = launch(&format!(
            "appsrc name=in format=time ! {infer} feedback=false name=infer ! appsink name=out sync=false \
             infer.results ! appsink name=results sync=false"
        ))?;
        let sink = |name: &str| {
            let element = pipeline
                .by_name(name)
                .and_then(|e| e.downcast::<gst_app::AppSink>().ok());
            element.ok_or_else(|| format!("no appsink {name}"))
        };
        let (out, results) = (sink("out")?, sink("results")?);
        let source = pipeline
            .by_name("in")
            .and_then(|e| e.downcast::<gst_app::AppSrc>().ok());
        let source = source.ok_or("no appsrc")?;
        source.set_caps(Some(caps));
        pipeline.set_state(gst::State::Playing)?;
        Ok(Self {
            pipeline,
            caps: caps.clone(),
            source,
            results,
            out,
            count: 0,
        })
    }

    fn ask(&mut self, picture: gst::Buffer) -> Result<String, Error> {
        let mut picture = picture.copy();
        let made = picture.make_mut();
        made.set_pts(gst::ClockTime::SECOND * self.count / 30);
        made.set_dts(gst::ClockTime::NONE);
        made.set_flags(gst::BufferFlags::empty());
        self.count += 1;
        let patience = gst::ClockTime::from_seconds(120);
        let failed = |text: &str| -> Error { bus_error(&self.pipeline).unwrap_or_else(|| text.to_owned()).into() };
        self.source
            .push_buffer(picture)
            .map_err(|_| failed("ddsinfer takes no pictures"))?;
        self.out
            .try_pull_sample(patience)
            .ok_or_else(|| failed("ddsinfer gave no picture back"))?;
        let sample = self
            .results
            .try_pull_sample(patience)
            .ok_or_else(|| failed("ddsinfer gave no result"))?;
        let map = sample.buffer().ok_or("no buffer")?.map_readable()?;
        Ok(String::from_utf8_lossy(&map).trim_end().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl<'a> Server<'a> {
    /// A server that runs `infer` where `memory` knows no answer.
    pub fn new(infer: &Infer, memory: &'a Memory) -> Self {
        Self {
            infer: infer.line(),
            salt: infer.salt(),
            memory,
            running: None,
            asked: 0,
        }
    }

    /// What the model says to a picture of these caps. The hash that answers are kept by is of the model and its settings,
    /// the size, the colours, and every visible sample.
    ///
    /// # Errors
    /// What the elements say.
    pub fn ask(&mut self, picture: &gst::Buffer, caps: &gst::Caps) -> Result<Line, Error> {
        self.asked += 1;
        let info = gst_video::VideoInfo::from_caps(caps)?;
        let hash = self.hash(picture, &info)?;
        if let Some(line) = self.memory.get(&hash) {
            return Line::parse(line.as_bytes());
        }
        if self.running.as_ref().is_none_or(|running| running.caps != *caps) {
            self.running = Some(Running::open(&self.infer, caps)?);
        }
        let running = self.running.as_mut().ok_or("no server")?;
        let line = running.ask(picture.clone())?;
        self.memory.put(hash, line.clone())?;
        Line::parse(line.as_bytes())
    }

    fn hash(&self, picture: &gst::Buffer, info: &gst_video::VideoInfo) -> Result<String, Error> {
        let mut hasher = Sha256::new();
        hasher.update(self.salt.as_bytes());
        hasher.update(format!(
            "{}x{} {} {}",
            info.width(),
            info.height(),
            info.name(),
            info.colorimetry()
        ));
        let frame = codec::map(picture, info)?;
        let format = info.format_info();
        for plane in 0..info.n_planes() {
            let component = (0..info.n_components() as usize)
                .find(|c| format.plane()[*c] == plane)
                .ok_or("a plane without components")? as u8;
            let row = format.scale_width(component, info.width()) as usize
                * format.pixel_stride()[component as usize] as usize;
            let rows = format.scale_height(component, info.height()) as usize;
            let stride = frame.plane_stride()[plane as usize] as usize;
            let data = frame.plane_data(plane)?;
            for n in 0..rows {
                hasher.update(data.get(n * stride..n * stride + row).ok_or("a plane is too short")?);
            }
        }
        Ok(hex(hasher.finalize()))
    }
}

/// The file in which answers about a clip are kept.
pub fn memory_path(dir: &Path, clip: &str) -> PathBuf {
    dir.join("cache").join(format!("{clip}.jsonl"))
}
