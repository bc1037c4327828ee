// SPDX-License-Identifier: MPL-2.0

//! Scores what a run has kept.

use std::collections::BTreeMap;
use std::path::Path;

use dds_tests::Error;
use dds_tests::score::{self, Line, PaperMetric, REFERENCE_SCORE, ScoredBox, TEST_SCORES};
use gstddsinfer::merge::{Join, MergeSettings, merge};
use gstddsinfer::model::Detection;
use gstddsinfer::segmentation;

use crate::awstream;
use crate::freshness::{self, freshness, on_wire};
use crate::plan::points;
use crate::record::{Accuracy, ClipInfo, Frame, Freshness, Manifest, Object, Origin, Post, Record, Scored, Summary};
use crate::rival::SEGMENT;
use crate::store::{read, record_path};
use crate::system::SYSTEMS;

/// Overlap from which boxes match.
pub const IOU: f32 = 0.5;
/// Overlap from which boxes of a class are one object: the paper's merging.
const JOIN_IOU: f32 = 0.3;
/// What a run of the super-resolution takes at a server, milliseconds (CloudSeg's own figure).
const RESTORE_MS: f64 = 6.2;

/// A box as the scoring knows it.
pub fn found(object: &Object) -> ScoredBox {
    ScoredBox {
        label: object.label.clone(),
        score: object.score,
        x: object.x,
        y: object.y,
        width: object.w,
        height: object.h,
        identity: object.identity.clone(),
        pass: object.pass,
        objectness: None,
    }
}

/// Boxes as the scoring knows them.
pub fn all_found(objects: &[Object]) -> Vec<ScoredBox> {
    objects.iter().map(found).collect()
}

/// Intersection over union of two boxes.
pub fn overlap(a: &Object, b: &Object) -> f32 {
    found(a).iou(&found(b))
}

/// Boxes of a class that overlap become one.
fn joined(objects: &[Object], floor: f32) -> Vec<Object> {
    let mut labels: Vec<&str> = objects.iter().map(|o| o.label.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    let detections: Vec<Detection> = objects
        .iter()
        .map(|o| Detection {
            x1: o.x,
            y1: o.y,
            x2: o.x + o.w,
            y2: o.y + o.h,
            score: o.score,
            objectness: None,
            class: labels.binary_search(&o.label.as_str()).unwrap_or_default() as u32,
        })
        .collect();
    let settings = MergeSettings {
        accept: 1.0,
        duplicate_iou: 1.0,
        join: Some(Join { floor, iou: JOIN_IOU }),
    };
    merge(&[], &detections, &settings)
        .into_iter()
        .map(|merged| {
            let d = merged.detection;
            Object {
                score: d.score,
                x: d.x1,
                y: d.y1,
                w: d.x2 - d.x1,
                h: d.y2 - d.y1,
                ..objects[merged.index].clone()
            }
        })
        .collect()
}

/// Boxes between two frames that were looked at, `share` of the way: those that overlap move evenly, the others belong to
/// the nearer frame.
fn between(a: &[Object], b: &[Object], share: f32) -> Vec<Object> {
    let mut used = vec![false; b.len()];
    let mut out = Vec::new();
    for from in a {
        let best = b
            .iter()
            .enumerate()
            .filter(|(n, to)| !used[*n] && to.label == from.label)
            .map(|(n, to)| (n, overlap(from, to)))
            .filter(|(_, iou)| *iou > 0.1)
            .max_by(|x, y| x.1.total_cmp(&y.1));
        match best {
            Some((n, _)) => {
                used[n] = true;
                let mix = |x: f32, y: f32| x + (y - x) * share;
                let to = &b[n];
                out.push(Object {
                    score: mix(from.score, to.score),
                    x: mix(from.x, to.x),
                    y: mix(from.y, to.y),
                    w: mix(from.w, to.w),
                    h: mix(from.h, to.h),
                    ..from.clone()
                });
            }
            None if share < 0.5 => out.push(from.clone()),
            None => {}
        }
    }
    if share >= 0.5 {
        out.extend(b.iter().zip(&used).filter(|(_, used)| !**used).map(|(o, _)| o.clone()));
    }
    out
}

/// The boxes of all frames after `post`; boxes below `floor` do not count any more.
fn boxes(frames: &[Frame], post: Post, floor: f32) -> Vec<Vec<Object>> {
    match post {
        Post::Published => {
            let mut last = 0;
            let mut shown = |n: usize| {
                if frames[n].origin != Origin::Held {
                    last = n;
                }
                frames[last].objects.clone()
            };
            (0..frames.len()).map(&mut shown).collect()
        }
        Post::Plain => {
            let mut last: Vec<Object> = Vec::new();
            let of = |frame: &Frame| {
                if frame.origin == Origin::Inferred {
                    let second = |o: &&Object| frame.refine_bytes == 0 || o.pass == 2;
                    last = frame.objects.iter().filter(second).cloned().collect();
                }
                last.clone()
            };
            frames.iter().map(of).collect()
        }
        Post::Equal => {
            let looked: Vec<usize> = (0..frames.len())
                .filter(|n| frames[*n].origin == Origin::Inferred)
                .collect();
            let join = |n: usize| joined(&frames[n].objects, floor);
            (0..frames.len())
                .map(|n| {
                    let after = looked.partition_point(|l| *l < n);
                    match (after.checked_sub(1).map(|b| looked[b]), looked.get(after)) {
                        (_, Some(&same)) if same == n => join(n),
                        (Some(a), Some(&b)) => between(&join(a), &join(b), (n - a) as f32 / (b - a) as f32),
                        (Some(a), None) => join(a),
                        (None, Some(&b)) => join(b),
                        (None, None) => Vec::new(),
                    }
                })
                .collect()
        }
    }
}

/// How a clip is scored.
struct Rules<'a> {
    reference: &'a [Frame],
    size: (u32, u32),
    threshold: f32,
    labels: Vec<&'a str>,
    segmentation: bool,
}

/// The labels that the paper's metric counts: vehicles, or, without vehicles in the clip, all that there is.
pub fn paper_labels(reference: &[Frame]) -> Vec<&str> {
    let objects = || {
        reference
            .iter()
            .flat_map(|f| &f.objects)
            .filter(|o| o.score >= REFERENCE_SCORE)
    };
    let vehicles = objects()
        .filter(|o| PaperMetric::VEHICLES.contains(&o.label.as_str()))
        .count();
    if vehicles >= reference.len() {
        return PaperMetric::VEHICLES.to_vec();
    }
    let mut labels: Vec<&str> = objects().map(|o| o.label.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

impl<'a> Rules<'a> {
    /// Rules for a clip.
    fn new(reference: &'a [Frame], info: &ClipInfo, threshold: f32, task: &str) -> Self {
        Self {
            reference,
            size: info.size,
            threshold,
            labels: paper_labels(reference),
            segmentation: task == "segmentation",
        }
    }

    /// Accuracy of `frames`, of which frame `n` shows frame `source[n]` of the clip.
    fn accuracy(&self, frames: &[Frame], source: &[usize], post: Post) -> Accuracy {
        let counted: Vec<usize> = (0..frames.len().min(source.len()))
            .filter(|n| frames[*n].origin != Origin::Unscored && source[*n] < self.reference.len())
            .collect();
        if self.segmentation {
            let line = |frame: &Frame| Line {
                map: segmentation::from_map_json(&frame.map).ok(),
                ..Line::default()
            };
            let test: Vec<Line> = counted.iter().map(|n| line(&frames[*n])).collect();
            let reference: Vec<Line> = counted.iter().map(|n| line(&self.reference[source[*n]])).collect();
            let scored = score::segmentation(&test, &reference, None);
            return Accuracy {
                main: scored.map_or(0.0, |s| s.1),
                agreement: scored.map(|s| s.0),
                ..Accuracy::default()
            };
        }
        let all = boxes(frames, post, self.threshold);
        let test: Vec<_> = counted.iter().map(|n| all_found(&all[*n])).collect();
        let reference: Vec<_> = counted
            .iter()
            .map(|n| all_found(&self.reference[source[*n]].objects))
            .collect();
        let metric = PaperMetric {
            labels: &self.labels,
            size: self.size,
            test_score: self.threshold,
        };
        let (right, known) = score::identity_accuracy(&test, &reference);
        Accuracy {
            main: score::f1_at(&test, &reference, self.threshold, IOU),
            paper: metric.f1(&test, &reference),
            identity: (known > 0).then_some(right),
            agreement: None,
        }
    }
}

/// All records of a clip, in the order of systems and their sweeps, with those that were published or shipped.
pub fn records(dir: &Path, clip: &str) -> Vec<(Record, bool)> {
    let mut all = Vec::new();
    for system in SYSTEMS {
        let sweep = points(system.id, usize::MAX);
        for point in sweep {
            if let Ok(record) = read::<Record>(&record_path(dir, clip, system.id, &point.name)) {
                all.push((record, point.shipped));
            }
        }
    }
    all
}

/// Bits of a record: both directions, downwards, both with headers; kbit/s.
fn rates(record: &Record, rate: f64) -> [f64; 3] {
    let kbps = |bytes: f64| bytes * 8.0 * rate / record.frames.len().max(1) as f64 / 1000.0;
    let sum = |of: &dyn Fn(&Frame) -> f64| record.frames.iter().map(of).sum::<f64>();
    let down = sum(&|f| f64::from(f.feedback_bytes));
    let up = sum(&|f| f64::from(f.bytes) + f64::from(f.refine_bytes));
    let wire = sum(&|f| (on_wire(f.bytes) + on_wire(f.refine_bytes) + on_wire(f.feedback_bytes)) as f64);
    [kbps(up + down), kbps(down), kbps(wire)]
}

/// One record scored.
fn scored(
    record: &Record,
    source: &[usize],
    shipped: bool,
    rules: &Rules<'_>,
    info: &ClipInfo,
    manifest: &Manifest,
    link_kbps: f64,
) -> Scored {
    let [kbps, kbps_down, kbps_headers] = rates(record, info.rate);
    let restored = record.system == "cloudseg";
    let path = freshness::Path {
        rate: info.rate,
        rtt_ms: manifest.rtt_ms,
        inference_ms: manifest.inference_ms + if restored { RESTORE_MS } else { 0.0 },
        kbps: link_kbps,
    };
    let up: f64 = record.frames.iter().map(|f| f64::from(f.bytes + f.refine_bytes)).sum();
    let refined: f64 = record.frames.iter().map(|f| f64::from(f.refine_bytes)).sum();
    // A restored frame stands for those between that were not looked at.
    let looked = record
        .frames
        .iter()
        .filter(|f| f.origin != Origin::Unscored)
        .count()
        .max(1);
    Scored {
        clip: info.name.clone(),
        system: record.system.clone(),
        point: record.point.clone(),
        settings: record.settings.clone(),
        shipped,
        kbps,
        kbps_down,
        kbps_headers,
        norm: 0.0,
        refine_share: refined / up.max(1.0),
        published: rules.accuracy(&record.frames, source, Post::Published),
        plain: rules.accuracy(&record.frames, source, Post::Plain),
        equal: rules.accuracy(&record.frames, source, Post::Equal),
        freshness: freshness(record, &path).unwrap_or_default(),
        camera_ms: record.camera_ms,
        inferences: record.inferences as f64 / looked as f64,
    }
}

/// A clip, its reference, and its records with whether they are shipped or published settings.
type ClipRecords = (ClipInfo, Vec<Frame>, Vec<(Record, bool)>);

/// The threshold at which uniform encodes score best on all clips.
fn threshold(clips: &[ClipRecords]) -> f32 {
    let mean = |score: f32| {
        let mut all = Vec::new();
        for (_, reference, records) in clips {
            let truth: Vec<_> = reference.iter().map(|f| all_found(&f.objects)).collect();
            for (record, _) in records.iter().filter(|r| r.0.system.starts_with("uniform")) {
                let test: Vec<_> = record.frames.iter().map(|f| all_found(&f.objects)).collect();
                let n = test.len().min(truth.len());
                all.push(score::f1_at(&test[..n], &truth[..n], score, IOU));
            }
        }
        all.iter().sum::<f64>() / all.len().max(1) as f64
    };
    TEST_SCORES
        .iter()
        .map(|&score| (mean(score), score))
        .fold(
            (-1.0, TEST_SCORES[0]),
            |best, one| if one.0 > best.0 { one } else { best },
        )
        .1
}

/// Means over the clips on which a system has all points that it has on any; `pooled` where there is more than one clip.
fn pooled(points: &[Scored], clips: &[String]) -> Vec<Scored> {
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut groups: BTreeMap<(&str, &str), Vec<&Scored>> = BTreeMap::new();
    for point in points.iter().filter(|p| clips.contains(&p.clip)) {
        let key = (point.system.as_str(), point.point.as_str());
        if !groups.contains_key(&key) {
            order.push(key);
        }
        groups.entry(key).or_default().push(point);
    }
    let complete = order
        .into_iter()
        .filter_map(|key| groups.get(&key))
        .filter(|g| g.len() == clips.len());
    complete
        .map(|group| {
            let mean = |of: &dyn Fn(&Scored) -> f64| group.iter().map(|p| of(p)).sum::<f64>() / group.len() as f64;
            let optional = |of: &dyn Fn(&Scored) -> Option<f64>| {
                let known: Vec<f64> = group.iter().filter_map(|p| of(p)).collect();
                (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
            };
            let accuracy = |post: Post| Accuracy {
                main: mean(&|p| p.accuracy(post).main),
                paper: mean(&|p| p.accuracy(post).paper),
                identity: optional(&|p| p.accuracy(post).identity),
                agreement: optional(&|p| p.accuracy(post).agreement),
            };
            Scored {
                clip: "pooled".into(),
                kbps: mean(&|p| p.kbps),
                kbps_down: mean(&|p| p.kbps_down),
                kbps_headers: mean(&|p| p.kbps_headers),
                norm: mean(&|p| p.norm),
                refine_share: mean(&|p| p.refine_share),
                published: accuracy(Post::Published),
                plain: accuracy(Post::Plain),
                equal: accuracy(Post::Equal),
                freshness: Freshness {
                    mean: mean(&|p| p.freshness.mean),
                    p50: mean(&|p| p.freshness.p50),
                    p95: mean(&|p| p.freshness.p95),
                },
                camera_ms: mean(&|p| p.camera_ms),
                inferences: mean(&|p| p.inferences),
                ..group[0].clone()
            }
        })
        .collect()
}

/// Scores everything under `dir`.
///
/// # Errors
/// A folder that no run has written, or whose references are missing.
pub fn summarise(dir: &Path) -> Result<Summary, Error> {
    let manifest: Manifest = read(&dir.join("run.json"))?;
    let mut clips: Vec<ClipRecords> = Vec::new();
    for info in &manifest.clips {
        let reference: Record = read(&record_path(dir, &info.name, "reference", "source"))?;
        clips.push((info.clone(), reference.frames, records(dir, &info.name)));
    }
    let threshold = threshold(&clips);
    let mut all: Vec<Scored> = Vec::new();
    for (info, reference, records) in &clips {
        let rules = Rules::new(reference, info, threshold, &manifest.task);
        let identity: Vec<usize> = (0..reference.len()).collect();
        let mut of_clip: Vec<Scored> = records
            .iter()
            .map(|(r, shipped)| scored(r, &identity, *shipped, &rules, info, &manifest, manifest.link_kbps))
            .collect();
        let grid: Vec<(&Record, f64)> = records
            .iter()
            .zip(&of_clip)
            .filter(|(r, _)| r.0.system == "awstream")
            .map(|(r, s)| (&r.0, s.published.main))
            .collect();
        for mean in awstream::MEANS {
            if let Some(played) = awstream::play(&grid, info.rate, SEGMENT as usize, mean) {
                let shipped = mean == 900.0;
                let link = mean;
                of_clip.push(scored(
                    &played.record,
                    &played.source,
                    shipped,
                    &rules,
                    info,
                    &manifest,
                    link,
                ));
            }
        }
        let dearest = |kind: &str| {
            let points = of_clip.iter().filter(|p| p.system.starts_with(kind));
            points.map(|p| p.kbps).fold(0.0, f64::max)
        };
        // A run without the short GOP has another measure.
        let full = [dearest("uniform-short"), dearest("uniform")]
            .into_iter()
            .find(|kbps| *kbps > 0.0)
            .unwrap_or_default();
        for point in &mut of_clip {
            point.norm = if full > 0.0 { point.kbps / full } else { 0.0 };
        }
        // In the order of systems, also those that were composed.
        let place = |p: &Scored| SYSTEMS.iter().position(|s| s.id == p.system);
        of_clip.sort_by_key(place);
        all.extend(of_clip);
    }
    let names: Vec<String> = clips.iter().map(|c| c.0.name.clone()).collect();
    let mut points = pooled(&all, &names);
    points.extend(all);
    Ok(Summary {
        manifest,
        threshold,
        pooled_clips: names,
        points,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(x: f32, pass: u32) -> Object {
        Object {
            label: "car".into(),
            score: 0.8,
            x,
            y: 0.0,
            w: 10.0,
            h: 10.0,
            pass,
            identity: None,
        }
    }

    fn frame(origin: Origin, objects: Vec<Object>) -> Frame {
        Frame {
            origin,
            objects,
            bytes: 100,
            ..Frame::default()
        }
    }

    #[test]
    fn skipped_frames_hold_or_lie_between() {
        let frames = [
            frame(Origin::Inferred, vec![object(0.0, 1)]),
            frame(Origin::Tracked, vec![object(50.0, 1)]),
            frame(Origin::Inferred, vec![object(4.0, 1)]),
            frame(Origin::Held, Vec::new()),
        ];
        let x = |post| -> Vec<f32> { boxes(&frames, post, 0.3).iter().flatten().map(|o| o.x).collect() };
        assert_eq!(x(Post::Published), [0.0, 50.0, 4.0, 4.0]);
        assert_eq!(x(Post::Plain), [0.0, 0.0, 4.0, 4.0]);
        assert_eq!(x(Post::Equal), [0.0, 2.0, 4.0, 4.0]);
    }

    #[test]
    fn without_union_only_the_second_pass_counts_where_there_was_one() {
        let mut two = frame(Origin::Inferred, vec![object(0.0, 1), object(40.0, 2)]);
        two.refine_bytes = 10;
        let one = frame(Origin::Inferred, vec![object(0.0, 1)]);
        let count = |post| -> Vec<usize> {
            boxes(&[two.clone(), one.clone()], post, 0.3)
                .iter()
                .map(Vec::len)
                .collect()
        };
        assert_eq!(count(Post::Published), [2, 1]);
        assert_eq!(count(Post::Plain), [1, 1]);
    }

    #[test]
    fn boxes_of_a_class_that_overlap_are_one_for_all() {
        let frames = [frame(
            Origin::Inferred,
            vec![object(0.0, 1), object(4.0, 1), object(40.0, 1)],
        )];
        let joined = &boxes(&frames, Post::Equal, 0.3)[0];
        assert_eq!(joined.len(), 2);
        assert_eq!((joined[0].x, joined[0].w), (0.0, 14.0));
    }

    #[test]
    fn a_frame_that_was_not_looked_at_is_not_scored() {
        let info = ClipInfo {
            size: (1000, 1000),
            ..ClipInfo::default()
        };
        let reference = vec![frame(Origin::Inferred, vec![object(0.0, 1)]); 2];
        let rules = Rules::new(&reference, &info, 0.3, "detection");
        let mut frames = reference.clone();
        frames[1] = frame(Origin::Unscored, Vec::new());
        assert_eq!(rules.accuracy(&frames, &[0, 1], Post::Published).main, 1.0);
        frames[1].origin = Origin::Inferred;
        assert!(rules.accuracy(&frames, &[0, 1], Post::Published).main < 0.7);
    }
}
