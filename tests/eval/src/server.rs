// SPDX-License-Identifier: MPL-2.0

//! The server of the systems that are not ours: ddsinfer without feedback, picture by picture, and a memory of what it
//! said to which picture.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dds_tests::{Error, bus_error, clip::Clip, launch, score::Line};
use gst::prelude::*;
use gst_video::prelude::*;
use sha2::{Digest, Sha256};

use crate::codec;
use crate::record::ClipInfo;

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

/// What models said to pictures, in a file that only grows: `HASH LENGTH ANSWER`, one a line, the length that of the answer in
/// bytes. Several may write to it at the same time. Answers stay in the file; where they lie is known.
pub struct Memory {
    known: Mutex<Known>,
    path: PathBuf,
}

struct Known {
    /// Begin and length of the answer to a picture.
    places: HashMap<String, (u64, usize)>,
    file: std::fs::File,
}

/// The hash and the length of the answer of a line that was written to its end, without the end of the line.
fn entry(line: &[u8]) -> Option<(String, usize)> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let hash = std::str::from_utf8(parts.next()?).ok()?;
    let length: usize = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    (parts.next()?.len() == length).then(|| (hash.to_owned(), length))
}

impl Memory {
    /// The memory in `path`, made where it is missing. A line that was not written to its end is left out.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .create(true)
            .read(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        let mut reader = BufReader::new(&file);
        let (mut places, mut at, mut line) = (HashMap::new(), 0, Vec::new());
        let mut whole = true;
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 {
                break;
            }
            whole = line.ends_with(b"\n");
            if let Some((hash, length)) = line.strip_suffix(b"\n").and_then(entry) {
                places.insert(hash, (at + (read - 1 - length) as u64, length));
            }
            at += read as u64;
        }
        if !whole {
            (&file).write_all(b"\n").map_err(failed)?;
        }
        Ok(Self {
            known: Mutex::new(Known { places, file }),
            path: path.into(),
        })
    }

    fn get(&self, picture: &str) -> Result<Option<String>, Error> {
        let known = self.known.lock().unwrap();
        let Some(&(begin, length)) = known.places.get(picture) else {
            return Ok(None);
        };
        let mut answer = vec![0; length];
        let read = known.file.read_exact_at(&mut answer, begin);
        read.map_err(|e| format!("{}: {e}", self.path.display()))?;
        Ok(Some(String::from_utf8(answer)?))
    }

    fn put(&self, picture: String, answer: &str) -> Result<(), Error> {
        let mut known = self.known.lock().unwrap();
        let line = format!("{picture} {} {answer}\n", answer.len());
        // In one piece, so that what others write at the same time stands before or behind it.
        let written = known.file.write_all(line.as_bytes());
        let end = written.and_then(|()| known.file.stream_position());
        let end = end.map_err(|e| format!("{}: {e}", self.path.display()))?;
        known
            .places
            .insert(picture, (end - 1 - answer.len() as u64, answer.len()));
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
    /// Hash of its answer to the first picture of the clip: another version of the elements has another one.
    pub fingerprint: String,
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
            fingerprint: String::new(),
        })
    }

    /// The same, known by its answer to the first picture of a clip, so that what another version of the elements said is
    /// not taken for its own.
    ///
    /// # Errors
    /// What the elements say; a clip without pictures.
    pub fn known_by(&self, clip: &Clip) -> Result<Self, Error> {
        let first = clip.frames.first().ok_or("a clip without pictures")?;
        let line = Line::parse(Running::open(&self.line(), &clip.caps)?.ask(first.clone())?.as_bytes())?;
        // Without what is measured by a clock.
        let said = format!("{:?} {:?} {:?} {:?}", line.objects, line.regions, line.size, line.map);
        Ok(Self {
            fingerprint: hex(&Sha256::digest(said)[..8]),
            ..self.clone()
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
        format!("{} {} {}", self.sha256, self.properties, self.fingerprint)
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
        if let Some(line) = self.memory.get(&hash)? {
            return Line::parse(line.as_bytes());
        }
        if self.running.as_ref().is_none_or(|running| running.caps != *caps) {
            self.running = Some(Running::open(&self.infer, caps)?);
        }
        let running = self.running.as_mut().ok_or("no server")?;
        let line = running.ask(picture.clone())?;
        self.memory.put(hash, &line)?;
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
pub fn memory_path(cache: &Path, info: &ClipInfo) -> PathBuf {
    let sha = info.sha256.get(..12).unwrap_or_default();
    cache.join(format!("{}-{sha}.answers", info.name))
}

/// Where answers are kept unless said otherwise: outside of any work tree, for all runs.
///
/// # Errors
/// No home.
pub fn default_cache() -> Result<PathBuf, Error> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".cache"));
    let cache = set("XDG_CACHE_HOME")
        .or_else(home)
        .ok_or("HOME is not set: name --cache")?;
    Ok(cache.join("gst-dds/dds-eval"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_and_torn_ones_are_forgotten() {
        let path = std::env::temp_dir().join(format!("dds-eval-memory-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let memory = Memory::open(&path).unwrap();
        memory.put("a".into(), "{\"one\": 1}").unwrap();
        // Another one writes to the same file.
        Memory::open(&path).unwrap().put("b".into(), "{}").unwrap();
        memory.put("c".into(), "{\"three\": \"\u{e4}\"}").unwrap();
        let get = |memory: &Memory, name: &str| memory.get(name).unwrap();
        assert_eq!(get(&memory, "a").as_deref(), Some("{\"one\": 1}"));
        assert_eq!(get(&memory, "c").as_deref(), Some("{\"three\": \"\u{e4}\"}"));
        assert_eq!(get(&memory, "b"), None);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let again = Memory::open(&path).unwrap();
        assert_eq!((get(&again, "b").as_deref(), get(&again, "c")), (Some("{}"), None));
        again.put("c".into(), "{\"new\": 3}").unwrap();
        let last = Memory::open(&path).unwrap();
        assert_eq!(get(&last, "c").as_deref(), Some("{\"new\": 3}"));
        assert_eq!(get(&last, "a").as_deref(), Some("{\"one\": 1}"));
        std::fs::remove_file(&path).unwrap();
    }
}
