// SPDX-License-Identifier: MPL-2.0

//! Every captured picture of every record judged, for all systems by the same post-processings and the same measures.
//!
//! ```text
//! DIR/results/MODEL-SECONDSs/CLIP.json   ClipResult: all figures of a clip at these key frames, small enough to be kept
//! ```

use std::path::{Path, PathBuf};

use dds_tests::Error;
use dds_tests::score::{self, PaperMetric, REFERENCE_SCORE, ScoredBox};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::births::{Born, births, delays};
use crate::freshness::{self, on_wire};
use crate::post::{Answer, Clock, Fill, answers};
use crate::record::{ClipInfo, Frame, Manifest, Origin, Record};
use crate::score::{IOU, all_found, paper_labels, records};
use crate::server::hex;
use crate::store::{read, record_path, write_whole};

/// Raised where figures of before mean something else.
pub const FORMAT: u32 = 3;
/// System under which the uncoded source stands, of which pictures are skipped.
pub const SOURCE: &str = "source";
/// One picture of it in so many is looked at.
const THINNED: [usize; 3] = [2, 3, 5];
/// The beginning that is left out of [`Judged::kbps_later`], seconds: the first key frame and what follows from it.
const BEGINNING: f64 = 0.5;

/// Accuracy and delays after one post-processing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filled {
    /// F1: scores from 0.3 on both sides, same class, overlap 0.5, one-to-one.
    pub strict: f64,
    /// F1 over objects of which the reference is sure; see [`score::confident_f1`].
    pub confident: f64,
    /// F1 by the DDS paper's metric, boxes from 0.3.
    pub paper: f64,
    /// Age of the results of all captured pictures, milliseconds: median.
    pub age_p50: f64,
    /// 95th percentile.
    pub age_p95: f64,
    /// From the capture of a new object to its report, milliseconds: median.
    pub born_p50: f64,
    /// 95th percentile.
    pub born_p95: f64,
}

/// One point of one system on one clip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// System.
    pub system: String,
    /// Point.
    pub point: String,
    /// The settings in words.
    pub settings: String,
    /// Hash of all that its record depends on.
    pub key: String,
    /// The system's shipped or published setting.
    pub shipped: bool,
    /// kbit/s, both directions, without headers of RTP, UDP and IP.
    pub kbps: f64,
    /// The same without the first half second.
    pub kbps_later: f64,
    /// Of all, from server to camera.
    pub kbps_down: f64,
    /// Both directions with headers.
    pub kbps_headers: f64,
    /// Share of captured pictures that were sent.
    pub sent: f64,
    /// The longest interval between sent pictures that stands at or behind 95 of 100 captured pictures, milliseconds.
    pub interval_ms: f64,
    /// Processor time of the camera per captured picture, milliseconds.
    pub camera_ms: f64,
    /// Skipped pictures hold the last result.
    pub held: Filled,
    /// They are predicted.
    pub predicted: Filled,
    /// They lie between their neighbours.
    pub interpolated: Filled,
    /// From the capture of each new object to its report, milliseconds, for each of [`Fill::ALL`]: clips have too few for
    /// percentiles of their own.
    pub born_ms: [Vec<u32>; 3],
}

impl Judged {
    /// By post-processing.
    pub fn filled(&self, fill: Fill) -> &Filled {
        match fill {
            Fill::Held => &self.held,
            Fill::Predicted => &self.predicted,
            Fill::Interpolated => &self.interpolated,
        }
    }

    /// Delays of new objects, milliseconds, by post-processing.
    pub fn born(&self, fill: Fill) -> &[u32] {
        let place = Fill::ALL.iter().position(|f| *f == fill);
        place.map_or(&[], |place| &self.born_ms[place])
    }
}

/// All points of a clip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClipResult {
    /// [`FORMAT`].
    pub format: u32,
    /// The clip, with the number of its pictures.
    pub clip: ClipInfo,
    /// File name of the server's model.
    pub model: String,
    /// Round trip, milliseconds.
    pub rtt_ms: f64,
    /// One run of the model, milliseconds.
    pub inference_ms: f64,
    /// Rate of the link upstream, kbit/s.
    pub link_kbps: f64,
    /// Captured time between key frames where systems count it so, seconds.
    pub key_frames: u32,
    /// New objects in the reference.
    pub born: usize,
    /// The points.
    pub points: Vec<Judged>,
}

impl ClipResult {
    /// Where it is kept under a folder.
    pub fn path(&self, dir: &Path) -> PathBuf {
        let model = format!("{}-{}s", self.model.trim_end_matches(".onnx"), self.key_frames);
        dir.join("results").join(model).join(format!("{}.json", self.clip.name))
    }

    /// Inputs on which all figures depend; points of two files with other ones do not belong together.
    pub fn inputs(&self) -> String {
        format!(
            "format {}, clip {} of {} pictures, model {}, round trip {} ms, inference {} ms, link {} kbit/s, key frames \
             every {} s",
            self.format,
            self.clip.sha256,
            self.clip.frames,
            self.model,
            self.rtt_ms,
            self.inference_ms,
            self.link_kbps,
            self.key_frames
        )
    }
}

/// The value below which `share` of the values lie, 0 of none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    sorted[((last as f64 * share).round() as usize).min(last)]
}

/// What records of a clip are judged against.
pub struct Judge<'a> {
    info: &'a ClipInfo,
    path: freshness::Path,
    reference: Vec<Vec<ScoredBox>>,
    labels: Vec<&'a str>,
    born: Vec<Born>,
}

impl<'a> Judge<'a> {
    /// A judge by the model on the source, `reference`.
    pub fn new(reference: &'a [Frame], info: &'a ClipInfo, manifest: &Manifest) -> Self {
        Self {
            info,
            path: freshness::Path {
                rate: info.rate,
                rtt_ms: manifest.rtt_ms,
                inference_ms: manifest.inference_ms,
                kbps: manifest.link_kbps,
            },
            reference: reference.iter().map(|f| all_found(&f.objects)).collect(),
            labels: paper_labels(reference),
            born: births(reference),
        }
    }

    fn filled(&self, frames: &[Frame], out: &[Option<f64>], fill: Fill) -> (Filled, Vec<u32>) {
        let clock = Clock {
            rate: self.path.rate,
            rtt_ms: self.path.rtt_ms,
        };
        let answers: Vec<Option<Answer>> = answers(frames, out, self.info.size, &clock, fill);
        let count = answers.len().min(self.reference.len());
        let test: Vec<Vec<ScoredBox>> = answers[..count]
            .iter()
            .map(|a| a.as_ref().map_or_else(Vec::new, |a| all_found(&a.objects)))
            .collect();
        let reference = &self.reference[..count];
        let metric = PaperMetric {
            labels: &self.labels,
            size: self.info.size,
            test_score: REFERENCE_SCORE,
        };
        let ages: Vec<f64> = answers
            .iter()
            .enumerate()
            .filter_map(|(n, a)| Some(clock.age(n, a.as_ref()?)))
            .collect();
        let born = delays(&self.born, &answers, &clock);
        let filled = Filled {
            strict: score::f1_at(&test, reference, REFERENCE_SCORE, IOU),
            confident: score::confident_f1(&test, reference, IOU),
            paper: metric.f1(&test, reference),
            age_p50: percentile(&ages, 0.5),
            age_p95: percentile(&ages, 0.95),
            born_p50: percentile(&born, 0.5),
            born_p95: percentile(&born, 0.95),
        };
        (filled, born.iter().map(|ms| ms.round() as u32).collect())
    }

    /// Judges a record.
    pub fn judge(&self, record: &Record, shipped: bool) -> Judged {
        let frames = &record.frames;
        let rate = self.info.rate;
        let kbps = |frames: &[Frame], of: &dyn Fn(&Frame) -> u64| {
            let bytes = frames.iter().map(of).sum::<u64>() as f64;
            bytes * 8.0 * rate / frames.len().max(1) as f64 / 1000.0
        };
        let all = |f: &Frame| u64::from(f.bytes) + u64::from(f.refine_bytes) + u64::from(f.feedback_bytes);
        let wire = |f: &Frame| on_wire(f.bytes) + on_wire(f.refine_bytes) + on_wire(f.feedback_bytes);
        let beginning = ((BEGINNING * rate).ceil() as usize).min(frames.len());
        let sent: Vec<usize> = (0..frames.len()).filter(|n| frames[*n].bytes > 0).collect();
        // Of each captured picture, the interval between sent ones that it lies in.
        let gaps: Vec<f64> = sent
            .iter()
            .zip(sent.iter().skip(1).chain([&frames.len()]))
            .flat_map(|(a, b)| std::iter::repeat_n((b - a) as f64 * 1000.0 / rate, b - a))
            .collect();
        let times = freshness::results(record, &self.path);
        let looked = |(n, times): (usize, &Option<[f64; 2]>)| {
            let counts = frames[n].origin == Origin::Inferred;
            times.filter(|_| counts).map(|t| t[1])
        };
        let out: Vec<Option<f64>> = times.iter().enumerate().map(looked).collect();
        let [held, predicted, interpolated] = Fill::ALL.map(|fill| self.filled(frames, &out, fill));
        Judged {
            system: record.system.clone(),
            point: record.point.clone(),
            settings: record.settings.clone(),
            key: contents(record),
            shipped,
            kbps: kbps(frames, &all),
            kbps_later: kbps(&frames[beginning..], &all),
            kbps_down: kbps(frames, &|f| u64::from(f.feedback_bytes)),
            kbps_headers: kbps(frames, &wire),
            sent: sent.len() as f64 / frames.len().max(1) as f64,
            interval_ms: percentile(&gaps, 0.95),
            camera_ms: record.camera_ms,
            held: held.0,
            predicted: predicted.0,
            interpolated: interpolated.0,
            born_ms: [held.1, predicted.1, interpolated.1],
        }
    }
}

/// The reference of which one picture in `every` was looked at: what skipping alone costs, without any coding.
fn thinned(reference: &Record, every: usize) -> Record {
    let frames = reference.frames.iter().enumerate().map(|(n, frame)| match n % every {
        0 => Frame {
            // A byte, so that it is sent at all.
            bytes: 1,
            ..frame.clone()
        },
        _ => Frame {
            origin: Origin::Held,
            ..Frame::default()
        },
    });
    Record {
        key: reference.key.clone(),
        system: SOURCE.into(),
        point: format!("1in{every}"),
        settings: format!("the model on the source, 1 picture in {every} looked at, nothing coded"),
        frames: frames.collect(),
        ..Record::default()
    }
}

/// Hash of a record's settings and frames: a point that another build has run anew is judged anew. Processor times, which
/// no two runs share, are left out.
fn contents(record: &Record) -> String {
    let frames = serde_json::to_vec(&record.frames).unwrap_or_default();
    hex(Sha256::new().chain_update(&record.key).chain_update(frames).finalize())
}

/// Judges all records of a clip and keeps the figures; those whose records are the same as before stay.
///
/// # Errors
/// A reference that is missing, a file that cannot be written.
pub fn judge_clip(dir: &Path, manifest: &Manifest, info: &ClipInfo) -> Result<ClipResult, Error> {
    let reference: Record = read(&record_path(dir, &info.name, "reference", "source"))?;
    let judge = Judge::new(&reference.frames, info, manifest);
    let mut result = ClipResult {
        format: FORMAT,
        clip: info.clone(),
        model: manifest.model.clone(),
        rtt_ms: manifest.rtt_ms,
        inference_ms: manifest.inference_ms,
        link_kbps: manifest.link_kbps,
        key_frames: manifest.key_frames,
        born: judge.born.len(),
        points: Vec::new(),
    };
    let path = result.path(dir);
    let before = read::<ClipResult>(&path).ok().filter(|b| b.inputs() == result.inputs());
    let before = before.map(|b| b.points).unwrap_or_default();
    let thinned = THINNED.map(|every| (thinned(&reference, every), false));
    for (record, shipped) in records(dir, &info.name).into_iter().chain(thinned) {
        let key = contents(&record);
        let known = before
            .iter()
            .find(|p| p.system == record.system && p.point == record.point && p.key == key);
        result
            .points
            .push(known.cloned().unwrap_or_else(|| judge.judge(&record, shipped)));
    }
    write_whole(&path, &serde_json::to_vec_pretty(&result)?)?;
    Ok(result)
}

/// Judges all records of a run.
///
/// # Errors
/// A folder that no run has written, a reference that is missing.
pub fn judge_all(dir: &Path) -> Result<Vec<ClipResult>, Error> {
    let manifest: Manifest = read(&dir.join("run.json"))?;
    if manifest.task != "detection" {
        return Err(format!(
            "{} is of the task {}: every picture is judged of detections",
            dir.display(),
            manifest.task
        )
        .into());
    }
    let clips = manifest.clips.iter();
    clips.map(|info| judge_clip(dir, &manifest, info)).collect()
}

/// All clips' figures that folders hold, of whatever model.
///
/// # Errors
/// A file that is none.
pub fn kept(dirs: &[PathBuf]) -> Result<Vec<ClipResult>, Error> {
    let mut all: Vec<ClipResult> = Vec::new();
    for dir in dirs {
        let mut paths = Vec::new();
        for model in std::fs::read_dir(dir.join("results")).into_iter().flatten().flatten() {
            let files = std::fs::read_dir(model.path()).into_iter().flatten().flatten();
            paths.extend(
                files
                    .map(|f| f.path())
                    .filter(|p| p.extension().is_some_and(|e| e == "json")),
            );
        }
        paths.sort();
        for path in paths {
            let result: ClipResult = read(&path)?;
            if result.format != FORMAT {
                return Err(format!("{} is of another version: judge its folder again", path.display()).into());
            }
            join(&mut all, result).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(all)
}

/// Adds the points of a clip to those of before; a point that is there already stays.
///
/// # Errors
/// The same clip and model with other inputs.
pub fn join(all: &mut Vec<ClipResult>, result: ClipResult) -> Result<(), Error> {
    let there = all
        .iter_mut()
        .find(|r| (&r.clip.name, &r.model, r.key_frames) == (&result.clip.name, &result.model, result.key_frames));
    let Some(there) = there else {
        all.push(result);
        return Ok(());
    };
    if there.inputs() != result.inputs() {
        return Err(format!(
            "{} was measured in two ways that do not belong together: {} | {}",
            result.clip.name,
            there.inputs(),
            result.inputs()
        )
        .into());
    }
    for point in result.points {
        let same = |p: &&Judged| p.system == point.system && p.point == point.point;
        match there.points.iter().find(same) {
            Some(known) if known.key != point.key => {
                return Err(format!("{} {} is there twice, and not the same", point.system, point.point).into());
            }
            Some(_) => {}
            None => there.points.push(point),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::car;

    fn info() -> ClipInfo {
        ClipInfo {
            name: "a".into(),
            size: (1000, 600),
            rate: 10.0,
            frames: 30,
            ..ClipInfo::default()
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            rtt_ms: 100.0,
            inference_ms: 10.0,
            link_kbps: 8000.0,
            ..Manifest::default()
        }
    }

    fn source() -> Vec<Frame> {
        (0..30)
            .map(|n| Frame {
                objects: vec![car(100.0 + 10.0 * n as f32)],
                ..Frame::default()
            })
            .collect()
    }

    /// Every `every`-th picture of the source, a thousand bytes each, the first ten times as many.
    fn sent(every: usize) -> Record {
        let frames = source().into_iter().enumerate().map(|(n, frame)| match n % every {
            0 => Frame {
                bytes: if n == 0 { 10_000 } else { 1000 },
                ..frame
            },
            _ => Frame {
                origin: Origin::Held,
                ..Frame::default()
            },
        });
        Record {
            system: "x".into(),
            frames: frames.collect(),
            ..Record::default()
        }
    }

    #[test]
    fn skipped_pictures_are_judged_too_and_age_with_their_interval() {
        let (reference, info, manifest) = (source(), info(), manifest());
        let judge = Judge::new(&reference, &info, &manifest);
        let (all, third) = (judge.judge(&sent(1), false), judge.judge(&sent(3), false));
        for fill in Fill::ALL {
            assert_eq!(all.filled(fill).strict, 1.0);
            assert_eq!(all.filled(fill).confident, 1.0);
        }
        assert_eq!((all.sent, all.interval_ms), (1.0, 100.0));
        assert!((third.sent - 1.0 / 3.0).abs() < 1e-9 && third.interval_ms == 300.0);
        // Between the two first pictures sent nothing is known of motion.
        assert!(third.held.strict < 0.7 && third.predicted.strict > 0.92, "{third:?}");
        assert!(third.interpolated.strict > 0.98, "{third:?}");
        assert!(
            (third.predicted.age_p95 - all.predicted.age_p95 - 200.0).abs() < 15.0,
            "{third:?} {all:?}"
        );
        assert!(third.interpolated.age_p95 > third.predicted.age_p95, "{third:?}");
    }

    #[test]
    fn the_source_tells_what_skipping_alone_costs() {
        let (reference, info, manifest) = (source(), info(), manifest());
        let judge = Judge::new(&reference, &info, &manifest);
        let record = Record {
            frames: source(),
            ..Record::default()
        };
        let accuracy: Vec<f64> = THINNED
            .map(|every| judge.judge(&thinned(&record, every), false).held.strict)
            .into();
        assert!(accuracy.is_sorted_by(|a, b| a > b) && accuracy[0] < 1.0, "{accuracy:?}");
    }

    #[test]
    fn bits_are_counted_with_and_without_the_first_half_second() {
        let (reference, info, manifest) = (source(), info(), manifest());
        let judged = Judge::new(&reference, &info, &manifest).judge(&sent(1), true);
        assert!((judged.kbps - 39_000.0 * 8.0 / 3.0 / 1000.0).abs() < 1e-9);
        assert!((judged.kbps_later - 80.0).abs() < 1e-9);
        assert!(judged.kbps_headers > judged.kbps && judged.shipped);
    }

    #[test]
    fn results_of_the_same_inputs_are_joined_and_others_are_refused() {
        let result = |point: &str, key: &str, rtt_ms: f64| ClipResult {
            rtt_ms,
            points: vec![Judged {
                point: point.into(),
                key: key.into(),
                ..Judged::default()
            }],
            ..ClipResult::default()
        };
        let mut all = vec![result("a", "1", 100.0)];
        join(&mut all, result("b", "2", 100.0)).unwrap();
        join(&mut all, result("a", "1", 100.0)).unwrap();
        assert_eq!((all.len(), all[0].points.len()), (1, 2));
        assert!(join(&mut all, result("a", "9", 100.0)).is_err());
        assert!(join(&mut all, result("c", "1", 50.0)).is_err());
    }

    #[test]
    fn percentiles_of_nothing_are_nothing() {
        assert_eq!(percentile(&[], 0.95), 0.0);
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(percentile(&[3.0, 1.0, f64::NAN], 1.0), 3.0);
    }
}
