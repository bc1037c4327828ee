// SPDX-License-Identifier: MPL-2.0

//! Runs points and keeps what they gave.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use dds_tests::{Error, clip::Clip, lockstep, progress::Bar};
use gstdds::scale::scaled_size;
use sha2::{Digest, Sha256};

use crate::codec::PRESET;
use crate::judge::judge_clip;
use crate::plan::{Gop, How, Point, points};
use crate::record::{ClipInfo, Frame, Manifest, Origin, Record};
use crate::rival::{self, Bench, Outcome};
use crate::server::{Infer, Memory, hash_file, hex, memory_path};
use crate::source::Source;
pub use crate::store::{read, record_path, write_whole};
use crate::superres::SuperResolution;
use crate::system::SYSTEMS;

/// Raised where records of before mean something else.
const FORMAT: u32 = 1;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The clips, in order.
    pub clips: Vec<Source>,
    /// First frame of each.
    pub first: usize,
    /// Frames of each.
    pub frames: usize,
    /// Each is played forward and backward for so many seconds.
    pub loop_seconds: Option<u32>,
    /// Folder in which answers of models are kept, for all runs.
    pub cache: PathBuf,
    /// The server's model.
    pub model: PathBuf,
    /// Further properties of ddsinfer.
    pub infer: String,
    /// The detector on the camera of Vigil.
    pub camera_model: PathBuf,
    /// The super-resolution of CloudSeg; without it that system is left out.
    pub sr_model: Option<PathBuf>,
    /// Names of the clips that CloudSeg runs on; empty: the two with the fewest pixels.
    pub sr_clips: Vec<String>,
    /// CloudSeg restores one frame in so many.
    pub sr_every: usize,
    /// Names of systems.
    pub systems: Vec<&'static str>,
    /// Points along each sweep at most.
    pub points: usize,
    /// The same of rivals that take long: all but uniform encodes.
    pub rival_points: usize,
    /// What the server's model finds: `detection`, `segmentation` or `face`.
    pub task: String,
    /// Captured time from one key frame to the next in the systems of long GOP that count it so, seconds.
    pub key_frames: u32,
    /// Round trip, milliseconds.
    pub rtt_ms: f64,
    /// One run of the server's model, milliseconds.
    pub inference_ms: f64,
    /// Rate of the link upstream, kbit/s.
    pub link_kbps: f64,
    /// Points at the same time, each on one thread.
    pub jobs: usize,
    /// The command line, to be kept.
    pub command: String,
}

/// Frames until what the server says to a frame reaches the camera.
pub fn delay_frames(rate: f64, rtt_ms: f64, inference_ms: f64) -> usize {
    ((rtt_ms + inference_ms) * rate / 1000.0 - 1e-9).ceil().max(1.0) as usize
}

fn machine() -> String {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = text("/proc/cpuinfo").lines().find_map(|line| {
        line.strip_prefix("model name")?
            .split_once(':')
            .map(|v| v.1.trim().to_owned())
    });
    let system = text("/etc/os-release").lines().find_map(|line| {
        line.strip_prefix("PRETTY_NAME=")
            .map(|v| v.trim_matches('"').to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, {cores} cores, {}",
        processor.unwrap_or_else(|| "unknown processor".into()),
        system.unwrap_or_else(|| "unknown system".into())
    )
}

fn versions() -> String {
    format!(
        "gst-dds {}, {}, libx264 {}",
        env!("CARGO_PKG_VERSION"),
        gst::version_string(),
        gstdds::encoder::x264::BUILD
    )
}

/// One point on the clip that is loaded.
struct Job<'a> {
    point: &'a Point,
    key: String,
    path: PathBuf,
}

/// Everything a job needs of the run.
struct Context<'a> {
    options: &'a Options,
    dir: &'a Path,
    clip: &'a Clip,
    info: &'a ClipInfo,
    server: &'a Infer,
    camera: &'a Infer,
    /// SHA-256 of the super-resolution, where there is one.
    restorer: &'a str,
    memory: &'a Memory,
}

impl Context<'_> {
    fn settings(&self, point: &Point) -> String {
        match &point.how {
            How::Reference => "the model on the source".into(),
            How::Uniform { gop, qp, scale, every } => {
                let gop = match gop {
                    Gop::Frames(gop) => format!("GOP {gop}"),
                    Gop::Captured => self.key_frames(),
                };
                format!("x264 {PRESET}, quantizer {qp}, {gop}, size x {scale}, 1 frame in {every}")
            }
            How::Glimpse(share, qp) => format!(
                "{} % of pixels differ by more than 21, x264 quantizer {qp}",
                share * 100.0
            ),
            How::Vigil(inner) => format!("quantizer {inner} in the camera's boxes, 51 outside"),
            How::Eaar(inner, outer) => format!("quantizer {inner} in proposals, {outer} outside"),
            How::CloudSeg(qp) => {
                format!(
                    "quantizer {qp}, size x 0.5, restored, 1 frame in {} looked at",
                    self.options.sr_every
                )
            }
            How::Elements {
                scale,
                encode,
                infer,
                every,
                timed,
            } => {
                let mut text = format!("size x {scale}, ddsencode {encode}, ddsinfer {infer}");
                if *timed {
                    text += &format!(", {}, 1 frame in {every}", self.key_frames());
                }
                text
            }
        }
    }

    fn key_frames(&self) -> String {
        format!("key frames every {} s", self.options.key_frames)
    }

    /// Hash of all that the point's record depends on.
    fn key(&self, point: &Point) -> String {
        // With a number that rises where the coding of the others changes.
        let models = match point.how {
            How::Vigil(_) => format!("2 {}", self.camera.salt()),
            How::CloudSeg(_) => format!("2 {}", self.restorer),
            How::Elements { .. } => String::new(),
            _ => "2".into(),
        };
        let text = format!(
            "{FORMAT} {} {} {} {} {} {} {models} {} {}",
            self.info.sha256,
            self.options.first,
            self.clip.frames.len(),
            self.server.salt(),
            self.settings(point),
            self.delay(),
            env!("CARGO_PKG_VERSION"),
            point.system,
        );
        hex(Sha256::digest(text))
    }

    fn delay(&self) -> usize {
        delay_frames(self.clip.rate(), self.options.rtt_ms, self.options.inference_ms)
    }

    fn run(&self, point: &Point, step: &mut dyn FnMut()) -> Result<Outcome, Error> {
        let bench = Bench {
            clip: self.clip,
            server: self.server,
            camera: self.camera,
            memory: self.memory,
            delay: self.delay(),
            key_frames: self.options.key_frames,
        };
        match &point.how {
            How::Reference => bench.reference(step),
            How::Uniform { gop, qp, scale, every } => bench.uniform(*gop, *scale, *every, *qp, step),
            How::Glimpse(share, qp) => bench.glimpse(*share, *qp, step),
            How::Vigil(inner) => bench.vigil(*inner, step),
            How::Eaar(inner, outer) => bench.eaar(*inner, *outer, step),
            How::CloudSeg(qp) => {
                let model = self.options.sr_model.as_ref().ok_or("CloudSeg needs --sr-model")?;
                let mut restore = SuperResolution::open(model)?;
                bench.cloudseg(*qp, self.options.sr_every, &mut restore, step)
            }
            How::Elements {
                scale,
                encode,
                infer,
                every,
                timed,
            } => {
                let mut encode = encode.clone();
                if *timed {
                    encode += &format!(" key-int-max={}", bench.timed_gop(*every));
                }
                self.elements(*scale, &encode, infer, *every, step)
            }
        }
    }

    /// The elements themselves, in lockstep.
    fn elements(
        &self,
        scale: f64,
        encode: &str,
        infer: &str,
        every: usize,
        step: &mut dyn FnMut(),
    ) -> Result<Outcome, Error> {
        let before = if scale == 1.0 {
            String::new()
        } else {
            let (width, height) = scaled_size(self.clip.size.0, self.clip.size.1, scale);
            format!("videoscale method=lanczos ! video/x-raw,width={width},height={height} ! ")
        };
        let two_passes = encode.contains("mode=two-pass");
        let encode = format!(
            "{before}ddsencode name=encoder stream-id=1 speed-preset={PRESET} threads=1 wall-clock=false {encode}"
        );
        let looped = lockstep::Loop {
            clip: self.clip,
            encode: &encode,
            infer: &self
                .server
                .with(&format!("feedback-threshold=0.3 refine-deadline=60000 {infer}")),
            // A frame of two passes waits for its feedback; what that costs is in its freshness.
            delay: if two_passes { 1 } else { self.delay() },
            every,
            keep_stream: true,
        };
        let run = looped.run(step)?;
        let inferences = run.server.as_ref().and_then(|s| s.get::<u64>("inferences").ok());
        let bytes = run.sizes.iter().map(|sizes| Frame {
            bytes: sizes[0],
            refine_bytes: sizes[1],
            feedback_bytes: sizes[2],
            origin: Origin::Held,
            ..Frame::default()
        });
        let mut frames: Vec<Frame> = bytes.collect();
        for (line, capture) in run.lines.iter().zip(&run.captures) {
            let Some(frame) = frames.get_mut(*capture) else {
                continue;
            };
            let scale = |v: u32, from: u32, to: u32| (u64::from(v) * u64::from(to) / u64::from(from.max(1))) as u32;
            let (x_of, y_of) = (
                |v| scale(v, line.size.0, self.clip.size.0),
                |v| scale(v, line.size.1, self.clip.size.1),
            );
            *frame = Frame {
                origin: Origin::Inferred,
                objects: rival::objects(&line.objects_at(self.clip.size)),
                regions: line
                    .regions
                    .iter()
                    .map(|r| [x_of(r.0), y_of(r.1), x_of(r.2), y_of(r.3)])
                    .collect(),
                map: rival::map_of(line),
                ..std::mem::take(frame)
            };
        }
        Ok(Outcome {
            frames,
            camera_ms: run.camera_ms * self.clip.frames.len() as f64,
            inferences: inferences.unwrap_or_default(),
            stream: run.stream,
            segment: if encode.contains("segment-length") {
                rival::SEGMENT
            } else {
                0
            },
            server_extra_ms: 0.0,
        })
    }

    fn keep(&self, job: &Job<'_>, outcome: Outcome) -> Result<(), Error> {
        let count = outcome.frames.len().max(1) as f64;
        let looked = outcome
            .frames
            .iter()
            .filter(|f| f.origin == Origin::Inferred)
            .count()
            .max(1);
        if job.point.keep && !outcome.stream.is_empty() {
            let path = self.dir.join("streams").join(&self.info.name);
            write_whole(&path.join(format!("{}.h264", job.point.system)), &outcome.stream)?;
        }
        let record = Record {
            key: job.key.clone(),
            clip: self.info.name.clone(),
            system: job.point.system.into(),
            point: job.point.name.clone(),
            settings: self.settings(job.point),
            frames: outcome.frames,
            segment: outcome.segment,
            camera_ms: outcome.camera_ms / count,
            server_extra_ms: outcome.server_extra_ms / looked as f64,
            inferences: outcome.inferences,
        };
        write_whole(&job.path, &serde_json::to_vec(&record)?)
    }
}

/// Names, sizes and hashes of the clips; frames are counted when they are loaded.
fn infos(options: &Options) -> Result<Vec<ClipInfo>, Error> {
    let mut infos: Vec<ClipInfo> = Vec::new();
    for source in &options.clips {
        let name = source.name()?;
        if name == "pooled" {
            return Err("a clip may not be called pooled: the report calls all clips together so".into());
        }
        if infos.iter().any(|i| i.name == name) {
            return Err(format!("two clips are called {name}: rename one").into());
        }
        infos.push(source.info(options.first, options.loop_seconds)?);
    }
    Ok(infos)
}

/// The clips that CloudSeg runs on.
fn small_clips(options: &Options, infos: &[ClipInfo]) -> Result<Vec<String>, Error> {
    if !options.sr_clips.is_empty() {
        for name in &options.sr_clips {
            if !infos.iter().any(|i| i.name == *name) {
                return Err(format!("--sr-clips: there is no clip {name}").into());
            }
        }
        return Ok(options.sr_clips.clone());
    }
    let mut by_size: Vec<&ClipInfo> = infos.iter().collect();
    by_size.sort_by_key(|i| i.size.0 * i.size.1);
    Ok(by_size.iter().take(2).map(|i| i.name.clone()).collect())
}

/// Runs every point that is not there yet, and keeps it under `dir`.
///
/// # Errors
/// Options that do not fit together; points that failed, all of them in one message, after all others were run.
pub fn run(dir: &Path, options: &Options) -> Result<(), Error> {
    let begun = Instant::now();
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let manifest_path = dir.join("run.json");
    let spent = read::<Manifest>(&manifest_path).map_or(0.0, |m| m.seconds);
    let threads = "threads=1";
    let map = if options.task == "segmentation" {
        "segmentation-map=true"
    } else {
        ""
    };
    let properties = format!("{threads} box-confidence-threshold=0.05 {map} {}", options.infer);
    let server = Infer::open(&options.model, properties.trim())?;
    let camera = Infer::open(
        &options.camera_model,
        &format!("{threads} box-confidence-threshold=0.01 max-detections=100"),
    )?;
    let restorer = options
        .sr_model
        .as_deref()
        .map(hash_file)
        .transpose()?
        .unwrap_or_default();
    let mut infos = infos(options)?;
    let small = small_clips(options, &infos)?;
    let mut plan: Vec<Point> = points("reference", options.points);
    for system in SYSTEMS.iter().filter(|s| options.systems.contains(&s.id)) {
        if system.id == "cloudseg" && options.sr_model.is_none() {
            eprintln!("CloudSeg is left out: it needs --sr-model");
            continue;
        }
        let is_slow = !system.ours && !system.id.starts_with("uniform");
        let count = if is_slow { options.rival_points } else { options.points };
        plan.extend(points(system.id, count));
    }
    // The online controller chooses among the grid's points.
    if options.systems.contains(&"awstream-online") && !options.systems.contains(&"awstream") {
        return Err("awstream-online is composed of awstream's points: name both".into());
    }
    let wanted = |clip: &str, point: &Point| point.system != "cloudseg" || small.iter().any(|s| s == clip);
    // Hundredths of a run of the model over a clip, whose length is not known before it is loaded.
    let cost = |point: &Point| (point.cost * 100.0) as usize;
    let total: usize = infos
        .iter()
        .map(|i| plan.iter().filter(|p| wanted(&i.name, p)).map(cost).sum::<usize>())
        .sum();
    let bar = Mutex::new((Bar::new("all systems", total), 0));
    let advance = |by: usize| {
        let mut bar = bar.lock().unwrap();
        bar.1 += by;
        let done = bar.1;
        bar.0.set(done);
    };
    let failures: Mutex<Vec<String>> = Mutex::default();
    for n in 0..infos.len() {
        let mut clip = options.clips[n].load(options.first, options.frames, options.loop_seconds)?;
        // Whole segments: what a broken last one is answered with hangs on the moment at which the stream ends.
        let segment = rival::SEGMENT as usize;
        let whole = clip.frames.len() / segment * segment;
        clip.frames.truncate(if whole > 0 { whole } else { clip.frames.len() });
        infos[n].frames = clip.frames.len();
        let manifest = Manifest {
            command: options.command.clone(),
            machine: machine(),
            versions: versions(),
            model: server
                .model
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            task: options.task.clone(),
            rtt_ms: options.rtt_ms,
            inference_ms: options.inference_ms,
            link_kbps: options.link_kbps,
            key_frames: options.key_frames,
            clips: infos[..=n].to_vec(),
            seconds: spent + begun.elapsed().as_secs_f64(),
        };
        write_whole(&manifest_path, &serde_json::to_vec_pretty(&manifest)?)?;
        let memory = Memory::open(&memory_path(&options.cache, &infos[n]))?;
        let (server, camera) = (server.known_by(&clip)?, camera.known_by(&clip)?);
        let context = Context {
            options,
            dir,
            clip: &clip,
            info: &infos[n],
            server: &server,
            camera: &camera,
            restorer: &restorer,
            memory: &memory,
        };
        let mut jobs = VecDeque::new();
        for point in plan.iter().filter(|p| wanted(&context.info.name, p)) {
            let path = record_path(dir, &context.info.name, point.system, &point.name);
            let key = context.key(point);
            if read::<Record>(&path).is_ok_and(|record| record.key == key) {
                advance(cost(point));
            } else {
                jobs.push_back(Job { point, key, path });
            }
        }
        let jobs = Mutex::new(jobs);
        let work = || {
            loop {
                let Some(job) = jobs.lock().unwrap().pop_front() else {
                    return;
                };
                let mut done = 0;
                let frames = clip.frames.len().max(1);
                let mut steps = 0;
                let mut step = || {
                    steps += 1;
                    let now = (cost(job.point) * steps / frames).min(cost(job.point));
                    advance(now.saturating_sub(done));
                    done = done.max(now);
                };
                let ran = context.run(job.point, &mut step);
                advance(cost(job.point).saturating_sub(done));
                if let Err(e) = ran.and_then(|outcome| context.keep(&job, outcome)) {
                    let name = format!("{} {} {}", context.info.name, job.point.system, job.point.name);
                    failures.lock().unwrap().push(format!("{name}: {e}"));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..options.jobs.max(1) {
                scope.spawn(work);
            }
        });
        let manifest = Manifest {
            seconds: spent + begun.elapsed().as_secs_f64(),
            ..manifest
        };
        write_whole(&manifest_path, &serde_json::to_vec_pretty(&manifest)?)?;
        // A run that is interrupted later has the figures of this clip.
        if options.task == "detection"
            && let Err(e) = judge_clip(dir, &manifest, &infos[n])
        {
            failures.lock().unwrap().push(format!("{}: {e}", infos[n].name));
        }
    }
    let failures = failures.into_inner().unwrap();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{} points failed, all others are kept:\n  {}",
            failures.len(),
            failures.join("\n  ")
        )
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_comes_with_the_first_frame_after_it() {
        // 110 ms: after the third frame of 30 per second.
        assert_eq!(delay_frames(30.0, 100.0, 10.0), 4);
        assert_eq!(delay_frames(10.0, 100.0, 10.0), 2);
        assert_eq!(delay_frames(10.0, 100.0, 0.0), 1);
        assert_eq!(delay_frames(30.0, 0.0, 0.0), 1);
    }
}
