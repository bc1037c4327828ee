// SPDX-License-Identifier: MPL-2.0

//! `dds-eval`: how many bits, at what accuracy, how fresh: every system of the DDS paper beside gst-dds.

use std::path::{Path, PathBuf};

use dds_eval::ablate::{self, ablate};
use dds_eval::judge::{judge_all, kept};
use dds_eval::merge::merge;
use dds_eval::record::Summary;
use dds_eval::run::{Options, read, run, write_whole};
use dds_eval::score::summarise;
use dds_eval::server::default_cache;
use dds_eval::source::Source;
use dds_eval::strips;
use dds_eval::system::SYSTEMS;
use dds_eval::targets::tables;
use dds_tests::{Error, init};

const HELP: &str = "\
usage: dds-eval run --clips PATH... --model MODEL --out DIR [options]
       dds-eval report DIR
       dds-eval targets DIR...
       dds-eval merge DIR DIR...
       dds-eval ablate LABEL --clips PATH... --model MODEL --out DIR [options]
       dds-eval compare DIR DIR

run      runs every system on every clip and keeps each point under DIR; run again after an interruption, it goes on
         where it was. Then writes the report.
report   scores what DIR holds and writes DIR/index.html, summary.json, points.csv, savings.csv and plots.
targets  judges every captured picture of the first DIR, keeps the figures of each clip under DIR/results, and writes the
         table of targets, targets.txt and targets.csv, of what all DIRs hold.
merge    puts what the second and further DIRs hold into the first: clips, systems and models that were run apart.
ablate   measures a change: three clips, 150 frames, ours against uniform at full rate; adds a line to DIR/ablations.csv.
compare  tells two runs apart; exit status 1 where numbers differ.

options of run:
  --clips PATH...    files, or folders of files (default: the demo's clip)
  --model MODEL      ONNX model of the server (default: the built-in street detector)
  --out DIR          where everything is kept
  --systems LIST     names separated by commas, all, or targets, those of the table of targets (all): SYSTEMS
  --noise PATH       adds that film with luma noise of sigma 4, seeded
  --join PATH...     adds one clip of equal parts of these films, scaled to 720p and shown at 25 pictures/s
  --loop S           plays every clip forward and backward for S seconds
  --cache DIR        where answers of models are kept for all runs ($XDG_CACHE_HOME/gst-dds/dds-eval)
  --frames N         frames of each clip, down to whole segments of 15 (60)
  --first N          first frame (0)
  --points N         points along each sweep at most (7)
  --rival-points N   the same of rivals but uniform encodes (as --points)
  --quick            two clips, 30 frames, 3 points; named options still win
  --task TASK        what the model finds: detection, segmentation, face (detection)
  --infer OPTS       further properties of ddsinfer, e.g. a gallery
  --camera-model M   detector on the camera of Vigil (default: the built-in one)
  --sr-model M       super-resolution of CloudSeg, ONNX [1,3,h,w] to [1,3,2h,2w]; without it CloudSeg is left out
  --sr-clips LIST    clips that CloudSeg runs on (the two with the fewest pixels)
  --sr-every N       CloudSeg restores one frame in N (6)
  --key-frames S     captured time from one key frame to the next in systems of long GOP that count it so, seconds (10)
  --rtt MS           round trip (100)
  --inference MS     one run of the server's model (10)
  --link KBPS        rate of the link upstream, for freshness (4000)
  --jobs N           points at the same time, each on one thread (all cores)
  --help             this text";

/// The detector that ships with the server.
const STREET: &[(&str, &[u8])] = &[
    (
        "street_nano.onnx",
        include_bytes!("../../../gst-dds-infer/models/street_nano.onnx"),
    ),
    (
        "street_nano.onnx.modelinfo",
        include_bytes!("../../../gst-dds-infer/models/street_nano.onnx.modelinfo"),
    ),
    (
        "street_nano.labels.txt",
        include_bytes!("../../../gst-dds-infer/models/street_nano.labels.txt"),
    ),
];

const FILMS: [&str; 7] = ["mp4", "mkv", "avi", "mov", "webm", "h264", "ts"];

/// Files as they are, folders as their films in order of their names.
fn clips(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut clips = Vec::new();
    for path in paths {
        if !path.is_dir() {
            clips.push(path.clone());
            continue;
        }
        let mut films: Vec<PathBuf> = std::fs::read_dir(path)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|p| {
                p.extension()
                    .is_some_and(|e| FILMS.iter().any(|f| e.eq_ignore_ascii_case(f)))
            })
            .collect();
        films.sort();
        if films.is_empty() {
            return Err(format!("{} holds no film ({})", path.display(), FILMS.join(", ")).into());
        }
        clips.extend(films);
    }
    Ok(clips)
}

/// The clip that the set-up script brings.
fn demo_clip() -> Result<PathBuf, Error> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let clip = data.or(home).ok_or("HOME is not set")?.join("gst-dds/clips/vtest.avi");
    if clip.is_file() {
        return Ok(clip);
    }
    Err(format!(
        "no --clips, and {} is not there: run pipelines/setup.sh",
        clip.display()
    )
    .into())
}

/// Puts the built-in detector beside the results.
fn built_in(out: &Path) -> Result<PathBuf, Error> {
    let folder = out.join("models");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for (name, bytes) in STREET {
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(folder.join(STREET[0].0))
}

fn systems(list: &str) -> Result<Vec<&'static str>, Error> {
    if list == "all" {
        return Ok(SYSTEMS.iter().map(|s| s.id).collect());
    }
    if list == "targets" {
        return Ok(dds_eval::targets::SYSTEMS.to_vec());
    }
    list.split(',')
        .map(|name| match dds_eval::system::find(name) {
            Some(system) => Ok(system.id),
            None => {
                let all: Vec<_> = SYSTEMS.iter().map(|s| s.id).collect();
                Err(format!("there is no system {name}; there are {}", all.join(", ")).into())
            }
        })
        .collect()
}

fn parse<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Error> {
    value
        .parse()
        .map_err(|_| format!("{name} {value}: not a number of its kind; see --help").into())
}

/// The command of `run`, or of `ablate`, which has its own clips, frames, points and systems.
fn options(args: &[String], is_fixed: bool) -> Result<(PathBuf, Options), Error> {
    let quick = args.iter().any(|a| a == "--quick");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut o = Options {
        clips: Vec::new(),
        first: 0,
        loop_seconds: None,
        cache: PathBuf::new(),
        frames: if quick { 30 } else { 60 },
        model: PathBuf::new(),
        infer: String::new(),
        camera_model: PathBuf::new(),
        sr_model: None,
        sr_clips: Vec::new(),
        sr_every: 6,
        systems: systems("all")?,
        points: if quick { 3 } else { 7 },
        rival_points: usize::MAX,
        task: "detection".into(),
        key_frames: 10,
        rtt_ms: 100.0,
        inference_ms: 10.0,
        link_kbps: 4000.0,
        jobs: cores,
        command: format!("dds-eval run {}", args.join(" ")),
    };
    let mut out = PathBuf::new();
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut made: Vec<Source> = Vec::new();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--clips" => {
                while let Some(path) = args.next_if(|a| !a.starts_with("--")) {
                    paths.push(path.into());
                }
            }
            "--noise" => made.push(Source::Noisy(value()?.into())),
            "--join" => {
                let mut parts = Vec::new();
                while let Some(path) = args.next_if(|a| !a.starts_with("--")) {
                    parts.push(PathBuf::from(path));
                }
                if parts.len() < 2 {
                    return Err("--join needs two films or more".into());
                }
                made.push(Source::Joined(parts));
            }
            "--loop" => o.loop_seconds = Some(parse::<u32>(arg, &value()?)?.clamp(1, 3600)),
            "--cache" => o.cache = value()?.into(),
            "--quick" => {}
            "--model" => o.model = value()?.into(),
            "--out" => out = value()?.into(),
            "--systems" => o.systems = systems(&value()?)?,
            "--frames" => o.frames = parse::<usize>(arg, &value()?)?.max(2),
            "--first" => o.first = parse(arg, &value()?)?,
            "--points" => o.points = parse::<usize>(arg, &value()?)?.max(1),
            "--rival-points" => o.rival_points = parse::<usize>(arg, &value()?)?.max(1),
            "--task" => o.task = value()?,
            "--infer" => o.infer = value()?,
            "--camera-model" => o.camera_model = value()?.into(),
            "--sr-model" => o.sr_model = Some(value()?.into()),
            "--sr-clips" => o.sr_clips = value()?.split(',').map(str::to_owned).collect(),
            "--sr-every" => o.sr_every = parse::<usize>(arg, &value()?)?.max(1),
            "--key-frames" => o.key_frames = parse::<u32>(arg, &value()?)?.clamp(1, 3600),
            "--rtt" => o.rtt_ms = parse::<u32>(arg, &value()?)?.into(),
            "--inference" => o.inference_ms = parse::<u32>(arg, &value()?)?.into(),
            "--link" => o.link_kbps = parse::<u32>(arg, &value()?)?.max(1).into(),
            "--jobs" => o.jobs = parse::<usize>(arg, &value()?)?.max(1),
            other => return Err(format!("unknown option {other}; see --help").into()),
        }
    }
    if out.as_os_str().is_empty() {
        return Err("--out is needed: a folder for what the run gives".into());
    }
    if !["detection", "segmentation", "face"].contains(&o.task.as_str()) {
        return Err(format!("--task {}: detection, segmentation or face", o.task).into());
    }
    if paths.is_empty() && made.is_empty() {
        paths.push(demo_clip()?);
    }
    o.clips = clips(&paths)?.into_iter().map(Source::File).chain(made).collect();
    if let Some(path) = o.clips.iter().flat_map(Source::paths).find(|p| !p.is_file()) {
        return Err(format!("there is no film {}", path.display()).into());
    }
    if is_fixed {
        o.clips.truncate(ablate::CLIPS);
        (o.frames, o.points, o.systems) = (ablate::FRAMES, ablate::POINTS, ablate::SYSTEMS.to_vec());
    }
    o.rival_points = o.rival_points.min(o.points);
    if o.cache.as_os_str().is_empty() {
        o.cache = default_cache()?;
    }
    if quick {
        o.clips.truncate(2);
    }
    if o.model.as_os_str().is_empty() {
        o.model = built_in(&out)?;
    }
    if o.camera_model.as_os_str().is_empty() {
        o.camera_model = built_in(&out)?;
    }
    for model in [Some(&o.model), Some(&o.camera_model), o.sr_model.as_ref()]
        .into_iter()
        .flatten()
    {
        if !model.is_file() {
            return Err(format!("there is no model {}", model.display()).into());
        }
    }
    Ok((out, o))
}

fn report(dir: &Path) -> Result<(), Error> {
    let summary = summary(dir)?;
    write_whole(&dir.join("summary.json"), &serde_json::to_vec_pretty(&summary)?)?;
    strips::write(dir, &summary)?;
    if summary.manifest.task == "detection" {
        judge_all(dir)?;
    }
    dds_eval::report::write(dir, &summary)?;
    println!("{}", dir.join("index.html").display());
    Ok(())
}

/// Judges what the first folder holds, and shows the targets beside what all of them hold.
fn targets(dir: &Path, more: &[String]) -> Result<(), Error> {
    if dir.join("run.json").is_file() {
        judge_all(dir)?;
    }
    let mut dirs = vec![dir.to_owned()];
    dirs.extend(more.iter().map(PathBuf::from));
    let results = kept(&dirs)?;
    let tables = tables(&results);
    if tables.is_empty() {
        return Err(format!("{} holds no results: run it first", dir.display()).into());
    }
    print!("{}", dds_eval::report::write_targets(dir, &results, &tables)?);
    Ok(())
}

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("--help", &[][..]),
    };
    if command == "--help" || command == "-h" || rest.iter().any(|a| a == "--help" || a == "-h") {
        let all: Vec<_> = SYSTEMS.iter().map(|s| s.id).collect();
        println!("{}", HELP.replace("SYSTEMS", &all.join(", ")));
        return std::process::ExitCode::SUCCESS;
    }
    let done = init().and_then(|()| match (command, rest) {
        ("run", rest) => {
            let (dir, options) = options(rest, false)?;
            let ran = run(&dir, &options);
            // What there is can be looked at, also where points failed.
            let reported = report(&dir);
            ran.and(reported).map(|()| true)
        }
        ("report", [dir]) => report(Path::new(dir)).map(|()| true),
        ("targets", [dir, more @ ..]) => targets(Path::new(dir), more).map(|()| true),
        ("merge", [out, dirs @ ..]) if !dirs.is_empty() => {
            let dirs: Vec<PathBuf> = dirs.iter().map(PathBuf::from).collect();
            merge(Path::new(out), &dirs).map(|()| true)
        }
        ("ablate", [label, rest @ ..]) if !label.starts_with("--") => {
            let (dir, options) = options(rest, true)?;
            ablate(&dir, &options, label)
                .map(|text| print!("{text}"))
                .map(|()| true)
        }
        ("compare", [a, b]) => compare(Path::new(a), Path::new(b)),
        ("report" | "targets" | "merge" | "ablate" | "compare", _) => {
            Err(format!("{command} takes other arguments; see --help").into())
        }
        _ => Err(format!("unknown command {command}; see --help").into()),
    });
    match done {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::from(2)
        }
    }
}

/// Scores a run, so that a run without a summary, or with an old one, is compared as it is.
fn summary(dir: &Path) -> Result<Summary, Error> {
    if dir.join("records").is_dir() {
        return summarise(dir);
    }
    read(&dir.join("summary.json"))
}

fn compare(a: &Path, b: &Path) -> Result<bool, Error> {
    let comparison = dds_eval::compare::compare(&summary(a)?, &summary(b)?);
    print!("{comparison}");
    Ok(comparison.same())
}
