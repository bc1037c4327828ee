// SPDX-License-Identifier: MPL-2.0

//! What a run keeps is what happened: it goes on where it was interrupted, gives the same numbers again, and treats every
//! system as its rule says.

#[path = "../../../gst-dds-infer/tests/common/onnx.rs"]
mod onnx;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use dds_eval::codec::{Coder, Decoder};
use dds_eval::judge::{self, ClipResult};
use dds_eval::plan::Gop;
use dds_eval::record::{Origin, Record, Summary};
use dds_eval::rival::{Bench, LONG_GOP};
use dds_eval::run::read;
use dds_eval::server::{Infer, Memory};
use dds_eval::system::SYSTEMS;
use dds_tests::clip::Clip;
use dds_tests::draw::{Picture, write_video};
use dds_tests::{init, lockstep, qp};
use onnx::{Folder, Model};

const SIZE: (usize, usize) = (320, 192);
const FRAMES: usize = 32;

/// A textured ground on which a bright textured block moves; from frame `cut` on, another ground. The ground pans by
/// `pan` pixels a frame.
fn picture(n: usize, cut: usize, pan: usize) -> Picture {
    let mut picture = Picture::new(SIZE.0, SIZE.1, [0; 3]);
    let ground = if n < cut { 37 } else { 53 };
    for (i, pixel) in picture.rgb.chunks_mut(3).enumerate() {
        let (x, y) = (i % SIZE.0 + n * pan, i / SIZE.0);
        let (left, top) = (40 + (2 + pan) * n, 60);
        let value = if (left..left + 64).contains(&x) && (top..top + 48).contains(&y) {
            150 + (x - left) * (y - top) % 90
        } else {
            60 + (x * x / ground + y * y / 23) % 60
        };
        pixel.fill(value as u8);
    }
    picture
}

fn clip(folder: &Folder, name: &str, cut: usize, pan: usize) -> PathBuf {
    init().unwrap();
    let path = folder.path(name);
    let encoder = "x264enc quantizer=1 pass=quant speed-preset=ultrafast ! h264parse ! matroskamux";
    let pictures = (0..FRAMES).map(|n| picture(n, cut, pan));
    write_video(pictures, gst::Fraction::new(30, 1), encoder, &path).unwrap();
    path
}

/// A detector that finds three boxes, two of them surer the brighter the picture is.
fn detector() -> Vec<u8> {
    const CELLS: usize = 315;
    let mut values = vec![0f32; CELLS * 7];
    let mut follows = values.clone();
    // Cells of 8 pixels of an input that is half the picture: 20 in a row.
    for (cell, objectness, score, follow) in [(85, 0.9, 0.6, 0.001), (150, 0.8, 0.35, 0.0005), (52, 0.3, 0.9, 0.0)] {
        let row = &mut values[cell * 7..][..7];
        row.copy_from_slice(&[0.5, 0.5, 3f32.ln(), 2f32.ln(), objectness, score, 0.05]);
        follows[cell * 7 + 5] = follow;
    }
    let output = onnx::Output::new("output", &[1, CELLS, 7], values).following(follows);
    Model::new(&[1, 3, 96, 160], vec![output]).bytes()
}

/// A super-resolution that shows the mean of half the picture.
fn super_resolution() -> Vec<u8> {
    let (width, height) = (SIZE.0, SIZE.1);
    let count = 3 * width * height;
    let output = onnx::Output::new("sr", &[1, 3, height, width], vec![0.0; count]).following(vec![1.0; count]);
    Model::new(&[1, 3, height / 2, width / 2], vec![output]).bytes()
}

struct Run {
    folder: Folder,
    clips: [PathBuf; 2],
    model: PathBuf,
    sr: PathBuf,
}

impl Run {
    fn new(test: &str) -> Self {
        let folder = Folder::new(test);
        Self {
            clips: [clip(&folder, "still.mkv", 99, 0), clip(&folder, "cut.mkv", 20, 3)],
            model: folder.file("detector.onnx", &detector()),
            sr: folder.file("sr.onnx", &super_resolution()),
            folder,
        }
    }

    fn command(&self, out: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dds-eval"));
        command.args(["run", "--clips"]).args(&self.clips);
        command
            .arg("--model")
            .arg(&self.model)
            .arg("--camera-model")
            .arg(&self.model);
        command
            .arg("--sr-model")
            .arg(&self.sr)
            .arg("--out")
            .arg(self.folder.path(out))
            .arg("--cache")
            .arg(self.folder.path(out).join("cache"));
        command
            .args(["--frames", "20", "--points", "2", "--sr-every", "8"])
            .args(more);
        if let Some(library) = onnx::library() {
            command.env("ORT_DYLIB_PATH", library);
        }
        command.output().unwrap()
    }

    fn bench<T>(&self, clip: &Clip, delay: usize, f: impl FnOnce(&Bench<'_>) -> T) -> T {
        let infer = Infer::open(&self.model, "threads=1 box-confidence-threshold=0.05").unwrap();
        let memory = Memory::open(&self.folder.path("memory.jsonl")).unwrap();
        f(&Bench {
            clip,
            server: &infer,
            camera: &infer,
            memory: &memory,
            delay,
            key_frames: 10,
        })
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every record under a folder, with the time it was written.
fn records(dir: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut all = Vec::new();
    let mut folders = vec![dir.join("records")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                all.push((entry.path(), entry.metadata().unwrap().modified().unwrap()));
            }
        }
    }
    all.sort();
    all
}

/// What must be the same every time: all but measured times.
fn numbers(path: &Path) -> Record {
    let mut record: Record = read(path).unwrap();
    (record.camera_ms, record.server_extra_ms) = (0.0, 0.0);
    record
}

#[test]
fn a_run_goes_on_where_it_was_and_gives_the_same_numbers_again() {
    let run = Run::new("resume");
    succeeded(&run.command("a", &[]));
    let a = run.folder.path("a");
    let first = records(&a);
    assert!(a.join("index.html").is_file() && a.join("points.csv").is_file());
    let summary: Summary = read(&a.join("summary.json")).unwrap();
    for system in SYSTEMS {
        let points = summary
            .points
            .iter()
            .filter(|p| p.system == system.id && p.clip == "still");
        assert!(points.clone().count() >= 2, "{}", system.id);
        assert!(
            points.clone().all(|p| p.kbps > 0.0 && p.freshness.mean > 0.0),
            "{}",
            system.id
        );
        assert!(
            summary
                .points
                .iter()
                .any(|p| p.system == system.id && p.clip == "pooled"),
            "{}",
            system.id
        );
    }
    let ours = summary
        .points
        .iter()
        .find(|p| p.system == "ours-one-pass" && p.shipped)
        .unwrap();
    assert!(ours.kbps_down > 0.0 && ours.kbps_headers > ours.kbps, "{ours:?}");

    // What an interruption can leave: a record that is missing, one that is torn, an answer that is torn.
    let before: Vec<Record> = first.iter().map(|(path, _)| numbers(path)).collect();
    let (missing, torn) = (first.len() / 3, first.len() / 2);
    std::fs::remove_file(&first[missing].0).unwrap();
    std::fs::write(&first[torn].0, &std::fs::read(&first[torn].0).unwrap()[..100]).unwrap();
    let caches = std::fs::read_dir(a.join("cache")).unwrap();
    let still = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("still-"))
    };
    let cache = caches.map(|entry| entry.unwrap().path()).find(still).unwrap();
    let text = std::fs::read(&cache).unwrap();
    std::fs::write(&cache, &text[..text.len() - 40]).unwrap();
    succeeded(&run.command("a", &[]));
    for (n, ((path, time), (again, now))) in first.iter().zip(records(&a)).enumerate() {
        assert_eq!(path, &again);
        assert_eq!(*time == now, n != missing && n != torn, "{}", path.display());
        assert_eq!(numbers(path), before[n], "{}", path.display());
    }

    // Another super-resolution under the same name: what was restored is made anew, and nothing else.
    let restored = onnx::Output::new("sr", &[1, 3, SIZE.1, SIZE.0], vec![0.4; 3 * SIZE.0 * SIZE.1]);
    let other = Model::new(&[1, 3, SIZE.1 / 2, SIZE.0 / 2], vec![restored]).bytes();
    let earlier = records(&a);
    run.folder.file("sr.onnx", &other);
    succeeded(&run.command("a", &["--jobs", "1"]));
    for ((path, time), (_, now)) in earlier.iter().zip(records(&a)) {
        let is_restored = path.to_string_lossy().contains("/cloudseg/");
        assert_eq!(*time != now, is_restored, "{}", path.display());
    }

    // Another folder, one job at a time: the same numbers; another round trip: others.
    succeeded(&run.command("b", &["--jobs", "1"]));
    succeeded(&run.command("c", &["--rtt", "300", "--systems", "uniform-long,ours-one-pass"]));
    let compare = |other: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dds-eval"));
        command
            .arg("compare")
            .arg(&a)
            .arg(run.folder.path(other))
            .output()
            .unwrap()
    };
    let same = compare("b");
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    assert_eq!(compare("c").status.code(), Some(1));
}

#[test]
fn clips_and_systems_that_were_run_apart_are_merged_and_judged() {
    let run = Run::new("merge");
    let eval = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dds-eval"));
        command.args(args).current_dir(run.folder.path("."));
        command.output().unwrap()
    };
    // Both clips with noise added to one of them, and forward and backward for a second.
    let noise = run.clips[0].to_str().unwrap();
    let loops = &["--noise", noise, "--loop", "1", "--systems"];
    succeeded(&run.command("a", &[loops, &["uniform-full"][..]].concat()));
    succeeded(&run.command("b", &[loops, &["ours-rate"][..]].concat()));
    succeeded(&eval(&["merge", "both", "a", "b"]));
    let clips = ["still", "cut", "still-noise4"];
    for clip in clips {
        let path = run
            .folder
            .path("both/results/detector-10s")
            .join(format!("{clip}.json"));
        let result: ClipResult = read(&path).unwrap();
        assert_eq!(result.clip.frames, 30, "{clip}");
        let systems: BTreeSet<&str> = result.points.iter().map(|p| p.system.as_str()).collect();
        assert_eq!(
            systems.into_iter().collect::<Vec<_>>(),
            ["ours-rate", judge::SOURCE, "uniform-full"]
        );
        for p in &result.points {
            let least = if p.system == "uniform-full" { 1.0 } else { 0.15 };
            assert!((least..=1.0).contains(&p.sent) && p.kbps > 0.0, "{p:?}");
            assert!(
                p.predicted.strict > 0.7 && p.predicted.age_p95 >= p.predicted.age_p50,
                "{p:?}"
            );
        }
    }
    let shown = eval(&["targets", "both"]);
    succeeded(&shown);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("uniform, strict F1, predicted, at 0.95"), "{text}");
    assert!(run.folder.path("both/judged.csv").is_file());
    succeeded(&eval(&["report", "both"]));

    // Other key frames have figures of their own; other pictures of the same clip are refused.
    succeeded(&run.command("c", &["--key-frames", "2", "--systems", "ours-rate"]));
    succeeded(&eval(&["merge", "all", "both", "c"]));
    assert!(run.folder.path("all/results/detector-2s/still.json").is_file());
    succeeded(&run.command("d", &["--systems", "ours-rate"]));
    let refused = eval(&["merge", "none", "both", "d"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(2) && text.contains("clip still is"),
        "{text}"
    );
}

#[test]
fn an_ablation_adds_a_line_and_measures_ours_anew() {
    let run = Run::new("ablate");
    let ablate = |label: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dds-eval"));
        command.args(["ablate", label, "--clips"]).args(&run.clips);
        command
            .arg("--model")
            .arg(&run.model)
            .arg("--camera-model")
            .arg(&run.model);
        command.arg("--out").arg(run.folder.path("ablate"));
        command.arg("--cache").arg(run.folder.path("cache"));
        command.output().unwrap()
    };
    succeeded(&ablate("before"));
    let first = records(&run.folder.path("ablate"));
    succeeded(&ablate("after, with \"a\" change"));
    for ((path, time), (_, now)) in first.iter().zip(records(&run.folder.path("ablate"))) {
        let is_ours = path.to_string_lossy().contains("/ours-rate/");
        assert_eq!(*time != now, is_ours, "{}", path.display());
    }
    let text = std::fs::read_to_string(run.folder.path("ablate/ablations.csv")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let figures = |line: &str| line.rsplitn(8, ',').take(7).map(str::to_owned).collect::<Vec<_>>();
    assert!(lines[1].starts_with("\"before\",") && lines[2].starts_with("\"after, with 'a' change\","));
    assert_eq!(figures(lines[1]), figures(lines[2]));
}

#[test]
fn bad_input_is_named_with_its_cure() {
    let run = Run::new("input");
    for (more, says) in [
        (&["--systems", "uniform-long,mpeg"][..], "there is no system mpeg"),
        (&["--task", "poetry"], "detection, segmentation or face"),
        (&["--frames", "many"], "--frames many"),
        (&["--model", "/nowhere.onnx"], "there is no model /nowhere.onnx"),
        (&["--clips", "/nowhere.mp4"], "/nowhere.mp4"),
        (&["--sr-clips", "other"], "there is no clip other"),
        (&["--systems", "awstream-online"], "name both"),
        (&["--speed", "9"], "unknown option --speed"),
        (&["--join", "one.mp4"], "two films or more"),
        (&["--noise", "/nowhere.mp4"], "there is no film /nowhere.mp4"),
        (&["--loop", "long"], "--loop long"),
    ] {
        let output = run.command("bad", more);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {text}");
        assert!(text.contains(says), "{more:?}: {text}");
    }
}

/// The NAL units of a byte-stream but notes of encoders and identities.
fn without_sei(stream: &[u8]) -> Vec<Vec<u8>> {
    let starts: Vec<usize> = (0..stream.len().saturating_sub(3))
        .filter(|n| stream[*n..*n + 3] == [0, 0, 1])
        .map(|n| n + 3)
        .collect();
    let ends = starts.iter().skip(1).map(|n| n - 3).chain([stream.len()]);
    let units = starts.iter().zip(ends).map(|(from, to)| {
        let unit = &stream[*from..to];
        // The zero of a long start code belongs to the next unit.
        unit.strip_suffix(&[0]).unwrap_or(unit).to_vec()
    });
    units
        .filter(|unit| unit.first().is_none_or(|head| head & 31 != 6))
        .collect()
}

#[test]
fn uniform_is_what_ddsencode_codes_at_one_quantizer() {
    let run = Run::new("uniform");
    let clip = Clip::load(&run.clips[0], 0, 12).unwrap();
    let rival = run.bench(&clip, 1, |bench| {
        bench.uniform(Gop::Frames(LONG_GOP), 1.0, 1, 34, &mut || ()).unwrap()
    });
    let infer = format!(
        "ddsinfer model-file=\"{}\" threads=1 box-confidence-threshold=0.05 feedback=false",
        run.model.display()
    );
    let looped = lockstep::Loop {
        clip: &clip,
        encode: "ddsencode name=encoder stream-id=1 speed-preset=veryfast threads=1 wall-clock=false key-int-max=250 \
                 background-qp=34 fallback-qp=34 region-qp=34 server-rate=false",
        infer: &infer,
        delay: 1,
        every: 1,
        keep_stream: true,
    };
    let elements = looped.run(&mut || ()).unwrap();
    let (ours, theirs) = (without_sei(&elements.stream), without_sei(&rival.stream));
    let lengths = |units: &[Vec<u8>]| units.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(&theirs), lengths(&ours));
    assert!(theirs == ours, "as long, and not the same");
    for (frame, line) in rival.frames.iter().zip(&elements.lines) {
        assert_eq!(frame.objects, dds_eval::rival::objects(&line.objects_at(clip.size)));
    }
}

#[test]
fn lockstep_goes_on_where_a_second_pass_is_refused() {
    let run = Run::new("refused");
    let clip = Clip::load(&run.clips[1], 0, 6).unwrap();
    let infer = format!(
        "ddsinfer model-file=\"{}\" threads=1 box-confidence-threshold=0.05 feedback-threshold=0.3 refine-deadline=60000",
        run.model.display()
    );
    let looped = lockstep::Loop {
        clip: &clip,
        encode: "ddsencode name=encoder stream-id=1 speed-preset=veryfast threads=1 wall-clock=false mode=two-pass \
                 max-region-area=0",
        infer: &infer,
        delay: 1,
        every: 1,
        keep_stream: false,
    };
    let outcome = looped.run(&mut || ()).unwrap();
    assert_eq!(outcome.lines.len(), 6);
    let refused = outcome
        .lines
        .iter()
        .filter(|l| l.refinement.as_deref() == Some("refused"));
    assert!(refused.count() >= 4, "{:?}", outcome.lines);
}

/// A camera of one pass in lockstep; `before` stands before its encoder, which is given one picture in `every`.
fn camera(run: &Run, clip: &Clip, before: &str, every: usize, delay: usize) -> lockstep::Outcome {
    steered(run, clip, before, every, delay, "feedback-rate=false")
}

/// The same with further properties of the server.
fn steered(run: &Run, clip: &Clip, before: &str, every: usize, delay: usize, server: &str) -> lockstep::Outcome {
    let infer = format!(
        "ddsinfer model-file=\"{}\" threads=1 box-confidence-threshold=0.05 feedback-threshold=0.3 {server}",
        run.model.display()
    );
    let encode = format!(
        "{before} ddsencode name=encoder stream-id=1 speed-preset=veryfast threads=1 wall-clock=false \
         background-qp=40 fallback-qp=40 region-qp=28"
    );
    let looped = lockstep::Loop {
        clip,
        encode: &encode,
        infer: &infer,
        delay,
        every,
        keep_stream: true,
    };
    looped.run(&mut || ()).unwrap()
}

#[test]
fn a_camera_that_skips_captured_pictures_is_not_waited_for() {
    let run = Run::new("skips");
    let mut clip = Clip::load(&run.clips[1], 0, 20).unwrap();
    let given = camera(&run, &clip, "", 3, 1);
    assert_eq!(given.captures, [0, 3, 6, 9, 12, 15, 18]);
    assert_eq!(given.sizes.len(), 20);
    for (n, sizes) in given.sizes.iter().enumerate() {
        let sent = n % 3 == 0;
        assert_eq!((sizes[0] > 0, sizes[2] > 0), (sent, sent), "{n}: {sizes:?}");
    }
    // The same pictures, taken away behind the appsrc, as an encoder does that skips by itself.
    for (n, frame) in clip.frames.iter_mut().enumerate() {
        if n % 3 != 0 {
            let mut flagged = frame.copy();
            flagged.get_mut().unwrap().set_flags(gst::BufferFlags::CORRUPTED);
            *frame = flagged;
        }
    }
    let skipped = camera(&run, &clip, "identity drop-buffer-flags=corrupted !", 1, 1);
    assert_eq!(skipped.captures, given.captures);
    assert!(skipped.stream == given.stream, "not the same stream");
    let objects = |run: &lockstep::Outcome| run.lines.iter().map(|l| l.objects.clone()).collect::<Vec<_>>();
    assert_eq!(objects(&skipped), objects(&given));
}

#[test]
fn the_rate_that_the_server_wishes_is_measured_in_captured_pictures() {
    let run = Run::new("wished");
    let clip = Clip::load(&run.clips[0], 0, FRAMES).unwrap();
    let outcomes = ["results-rate=inferred", "results-rate=captured"]
        .map(|results| steered(&run, &clip, "", 1, 2, &format!("feedback-rate=true {results}")));
    let [outcome, filled] = &outcomes;
    assert!(outcome.captures.len() < FRAMES, "{:?}", outcome.captures);
    assert!(outcome.captures.is_sorted_by(|a, b| a < b));
    for (n, sizes) in outcome.sizes.iter().enumerate() {
        let sent = outcome.captures.contains(&n);
        assert_eq!((sizes[0] > 0, sizes[2] > 0), (sent, sent), "{n}: {sizes:?}");
    }
    // Predicted results are no pictures that were sent.
    assert_eq!(filled.captures, outcome.captures);
    assert!(filled.lines.iter().all(|line| !line.predicted));
}

#[test]
fn feedback_waits_for_captured_pictures_whatever_share_is_sent() {
    let run = Run::new("waits");
    let clip = Clip::load(&run.clips[1], 0, 20).unwrap();
    // Region quantizers show when the first answer has come: behind 1 and behind 2 pictures sent.
    let regions = |every, delay| -> Vec<bool> {
        let outcome = camera(&run, &clip, "", every, delay);
        let path = run.folder.file("waits.h264", &outcome.stream);
        let pictures = qp::read(&path).unwrap();
        pictures.iter().map(|p| p.qps.contains(&28)).collect()
    };
    let first = |regions: Vec<bool>| regions.iter().position(|finer| *finer);
    assert_eq!(first(regions(1, 4)), Some(4));
    assert_eq!(first(regions(3, 3)), Some(1));
    assert_eq!(first(regions(3, 4)), Some(2));
}

/// Quantizers of a macroblock in all frames where it is coded.
fn quantizers(folder: &Folder, stream: &[u8], column: usize, row: usize) -> Vec<u8> {
    let path = folder.file("stream.h264", stream);
    let pictures = qp::read(&path).unwrap();
    let coded = pictures.iter().filter(|p| !p.skipped[row * p.columns + column]);
    coded.map(|p| p.at(column, row)).collect()
}

#[test]
fn vigil_codes_boxes_of_the_cameras_detector_finer() {
    let run = Run::new("vigil");
    let clip = Clip::load(&run.clips[1], 0, 8).unwrap();
    let outcome = run.bench(&clip, 1, |bench| bench.vigil(31, &mut || ()).unwrap());
    let [x, y, width, height] = outcome.frames[3].regions[0];
    let (column, row) = ((x + width / 2) as usize / 16, (y + height / 2) as usize / 16);
    let inside: BTreeSet<u8> = quantizers(&run.folder, &outcome.stream, column, row)
        .into_iter()
        .collect();
    assert_eq!(inside.into_iter().collect::<Vec<_>>(), [31]);
    // A macroblock without residual shows the quantizer before it.
    let pictures = qp::read(&run.folder.path("stream.h264")).unwrap();
    let all: BTreeSet<u8> = pictures.iter().flat_map(|p| p.qps.clone()).collect();
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [31, 51]);
}

#[test]
fn eaar_codes_proposals_finer_once_the_answer_has_come() {
    let run = Run::new("eaar");
    let clip = Clip::load(&run.clips[1], 0, 8).unwrap();
    let outcome = run.bench(&clip, 3, |bench| bench.eaar(30, 36, &mut || ()).unwrap());
    let regions: Vec<usize> = outcome.frames.iter().map(|f| f.regions.len()).collect();
    // Two boxes are objects for sure, the third has little objectness.
    assert_eq!(regions, [0, 0, 0, 2, 2, 2, 2, 2]);
    let outside = quantizers(&run.folder, &outcome.stream, 19, 11);
    assert_eq!(outside[..3], [30, 30, 30]);
    assert!(outside[3..].iter().all(|qp| *qp == 36), "{outside:?}");
    assert!(outcome.frames.iter().all(|f| f.feedback_bytes > 0));
}

#[test]
fn glimpse_sends_what_differs_and_tracks_the_rest() {
    let run = Run::new("glimpse");
    let still = Clip::load(&run.clips[0], 0, FRAMES).unwrap();
    let cut = Clip::load(&run.clips[1], 0, FRAMES).unwrap();
    let sent = |clip: &Clip, share| -> Vec<usize> {
        let outcome = run.bench(clip, 1, |bench| bench.glimpse(share, 30, &mut || ()).unwrap());
        let frames = outcome.frames.iter().enumerate();
        assert!(
            frames
                .clone()
                .all(|(_, f)| (f.origin == Origin::Inferred) == (f.bytes > 0))
        );
        frames.filter(|(_, f)| f.bytes > 0).map(|(n, _)| n).collect()
    };
    // Nothing but a block moves; a tracker may lose what it covers.
    assert!(sent(&still, 0.5).len() <= 3, "{:?}", sent(&still, 0.5));
    // As often as the spacing allows.
    assert_eq!(sent(&still, 0.001), [0, 6, 12, 18, 24, 30]);
    assert!(
        sent(&cut, 0.3).iter().any(|n| (20..26).contains(n)),
        "{:?}",
        sent(&cut, 0.3)
    );
}

#[test]
fn segments_are_closed_so_that_configurations_can_change_between_them() {
    let run = Run::new("segments");
    let clip = Clip::load(&run.clips[1], 0, FRAMES).unwrap();
    let mut coder = Coder::open(&clip, 0.5, 15, 30).unwrap();
    let units: Vec<Vec<u8>> = clip
        .frames
        .iter()
        .map(|frame| coder.code(frame, 30, &[], 30).unwrap().data)
        .collect();
    // The second segment alone is coded and decoded as it is behind the first.
    let mut alone = Coder::open(&clip, 0.5, 15, 30).unwrap();
    let mut decoder = Decoder::open(alone.size).unwrap();
    for (n, unit) in units.iter().enumerate().take(30).skip(15) {
        let data = alone.code(&clip.frames[n], 30, &[], 30).unwrap().data;
        let slices = |unit: &[u8]| -> Vec<usize> { without_sei(unit).iter().map(Vec::len).collect() };
        assert_eq!(slices(&data).last(), slices(unit).last(), "frame {n}");
        let sample = decoder.decode(data).unwrap();
        assert!(
            sample
                .buffer()
                .is_some_and(|b| !b.flags().contains(gst::BufferFlags::CORRUPTED))
        );
    }
}
