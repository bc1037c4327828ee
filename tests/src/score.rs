// SPDX-License-Identifier: MPL-2.0

//! Scoring: F1 of detections against those of the same detector on the source picture.
//!
//! Pooled over all frames, one-to-one (greedy by descending score), same class, reference scores from
//! [`REFERENCE_SCORE`]; the test threshold is the best of [`TEST_SCORES`].

use gstddsinfer::model::{BoundingBox, Segmentation};
use gstddsinfer::segmentation;
use serde_json::Value;

/// Least score of a reference box.
pub const REFERENCE_SCORE: f32 = 0.3;
/// Least score of a reference box that is a confident object.
pub const CONFIDENT_SCORE: f32 = 0.5;
/// Test thresholds to try.
pub const TEST_SCORES: [f32; 5] = [0.2, 0.25, 0.3, 0.35, 0.4];

/// One box, in pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredBox {
    /// Name of the class.
    pub label: String,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
    /// Identity of the face, if it was recognised.
    pub identity: Option<String>,
    /// The pass that found it, 1 or 2.
    pub pass: u32,
    /// Objectness, 0 to 1, if the model gives one.
    pub objectness: Option<f32>,
}

impl ScoredBox {
    /// Intersection over union.
    pub fn iou(&self, other: &Self) -> f32 {
        let corners = |found: &Self| BoundingBox {
            x1: found.x,
            y1: found.y,
            x2: found.x + found.width,
            y2: found.y + found.height,
        };
        corners(self).iou(&corners(other))
    }
}

/// One line of ddsinfer's `results` pad.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Number of the captured frame, if the stream is ours.
    pub frame: Option<u64>,
    /// Presentation time, nanoseconds.
    pub pts_ns: Option<u64>,
    /// Damaged in transport.
    pub damaged: bool,
    /// About a picture that was not sent: moved on from those that were.
    pub predicted: bool,
    /// Capture to result, milliseconds.
    pub age_ms: Option<f64>,
    /// Time spent in the model, milliseconds.
    pub inference_ms: f64,
    /// Boxes.
    pub objects: Vec<ScoredBox>,
    /// Requested regions: x, y, width, height.
    pub regions: Vec<(u32, u32, u32, u32)>,
    /// Size of the frame in whose pixels they are.
    pub size: (u32, u32),
    /// Outcome of the second pass, if one was requested.
    pub refinement: Option<String>,
    /// The class of each cell, if results have a map.
    pub map: Option<Segmentation>,
}

impl Line {
    /// Reads a line of JSON.
    ///
    /// # Errors
    /// What is missing, or that it is not JSON.
    pub fn parse(line: &[u8]) -> Result<Self, crate::Error> {
        let value: Value = serde_json::from_slice(line)?;
        let number = |v: &Value, name: &str| {
            v[name]
                .as_f64()
                .ok_or_else(|| format!("no number {name} in a result line"))
        };
        let list = |name: &str| {
            value[name]
                .as_array()
                .cloned()
                .ok_or_else(|| format!("no array {name} in a result line"))
        };
        let objects = list("objects")?
            .iter()
            .map(|o| {
                Ok(ScoredBox {
                    label: o["label"].as_str().unwrap_or_default().to_owned(),
                    score: number(o, "score")? as f32,
                    x: number(o, "x")? as f32,
                    y: number(o, "y")? as f32,
                    width: number(o, "width")? as f32,
                    height: number(o, "height")? as f32,
                    identity: o["identity"].as_str().map(str::to_owned),
                    pass: o["pass"].as_u64().unwrap_or(1) as u32,
                    objectness: o["objectness"].as_f64().map(|v| v as f32),
                })
            })
            .collect::<Result<_, String>>()?;
        let regions = list("regions")?
            .iter()
            .map(|r| {
                let n = |name| number(r, name).map(|v| v as u32);
                Ok((n("x")?, n("y")?, n("width")?, n("height")?))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self {
            frame: value["frame"].as_u64(),
            pts_ns: value["pts_ns"].as_u64(),
            damaged: value["damaged"].as_bool().unwrap_or(false),
            predicted: value["predicted"].as_bool().unwrap_or(false),
            age_ms: value["age_ms"].as_f64(),
            inference_ms: value["inference_ms"].as_f64().unwrap_or(0.0),
            objects,
            regions,
            size: (number(&value, "width")? as u32, number(&value, "height")? as u32),
            refinement: value["refinement"].as_str().map(str::to_owned),
            map: match &value["map"] {
                Value::Null => None,
                map => Some(segmentation::from_map_json(map)?),
            },
        })
    }

    /// Scales boxes to a picture of another size.
    pub fn objects_at(&self, size: (u32, u32)) -> Vec<ScoredBox> {
        let x = size.0 as f32 / self.size.0.max(1) as f32;
        let y = size.1 as f32 / self.size.1.max(1) as f32;
        self.objects
            .iter()
            .map(|o| ScoredBox {
                x: o.x * x,
                y: o.y * y,
                width: o.width * x,
                height: o.height * y,
                ..o.clone()
            })
            .collect()
    }
}

/// The metric of the DDS paper's published evaluation: reference boxes from [`REFERENCE_SCORE`], test boxes from 0.5,
/// both of at most 4 % of the frame and of one group of classes; a box is found if any other overlaps it by 0.3, so
/// that several may match one; counts pooled over all frames.
#[derive(Clone, Copy, Debug)]
pub struct PaperMetric<'a> {
    /// Labels that count.
    pub labels: &'a [&'a str],
    /// Width and height of the frame in pixels.
    pub size: (u32, u32),
    /// Least score of a test box.
    pub test_score: f32,
}

impl PaperMetric<'_> {
    /// The class group that the published evaluation scores.
    pub const VEHICLES: [&'static str; 4] = ["car", "bus", "train", "truck"];
    /// Overlap at which boxes match.
    pub const IOU: f32 = 0.3;
    /// Largest box, as a share of the frame.
    pub const MAX_AREA: f32 = 0.04;
    /// Least score of a test box in the published evaluation.
    pub const TEST_SCORE: f32 = 0.5;

    /// F1, 0 to 1. `found` and `reference` hold the boxes of the same frames, in order.
    ///
    /// # Panics
    /// If they differ in the number of frames.
    pub fn f1(&self, found: &[Vec<ScoredBox>], reference: &[Vec<ScoredBox>]) -> f64 {
        assert_eq!(found.len(), reference.len(), "frames to compare");
        let limit = self.size.0 as f32 * self.size.1 as f32 * Self::MAX_AREA;
        let pick = |list: &[ScoredBox], score: f32| -> Vec<ScoredBox> {
            list.iter()
                .filter(|f| f.score >= score && f.width * f.height <= limit && self.labels.contains(&f.label.as_str()))
                .cloned()
                .collect()
        };
        let (mut hits, mut wrong, mut missed) = (0usize, 0usize, 0usize);
        for (found, reference) in found.iter().zip(reference) {
            let (found, reference) = (pick(found, self.test_score), pick(reference, REFERENCE_SCORE));
            let meets = |a: &ScoredBox, others: &[ScoredBox]| others.iter().any(|b| a.iou(b) >= Self::IOU);
            let right = found.iter().filter(|f| meets(f, &reference)).count();
            hits += right;
            wrong += found.len() - right;
            missed += reference.iter().filter(|r| !meets(r, &found)).count();
        }
        2.0 * hits as f64 / (2 * hits + wrong + missed).max(1) as f64
    }
}

/// True positives, test boxes and reference boxes of one frame.
fn counts(found: &[ScoredBox], reference: &[ScoredBox], score: f32, iou: f32) -> [usize; 3] {
    let mut found: Vec<&ScoredBox> = found.iter().filter(|f| f.score >= score).collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let reference: Vec<&ScoredBox> = reference.iter().filter(|r| r.score >= REFERENCE_SCORE).collect();
    let mut used = vec![false; reference.len()];
    let mut hits = 0;
    for f in &found {
        let best = reference
            .iter()
            .enumerate()
            .filter(|(i, r)| !used[*i] && r.label == f.label)
            .map(|(i, r)| (i, f.iou(r)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((i, overlap)) = best
            && overlap >= iou
        {
            used[i] = true;
            hits += 1;
        }
    }
    [hits, found.len(), reference.len()]
}

/// F1 of boxes from `score` up against those of the same frames of the reference: one-to-one, same class.
///
/// # Panics
/// If they differ in the number of frames.
pub fn f1_at(found: &[Vec<ScoredBox>], reference: &[Vec<ScoredBox>], score: f32, iou: f32) -> f64 {
    assert_eq!(found.len(), reference.len(), "frames to compare");
    let mut sum = [0; 3];
    for (f, r) in found.iter().zip(reference) {
        let c = counts(f, r, score, iou);
        (0..3).for_each(|i| sum[i] += c[i]);
    }
    2.0 * sum[0] as f64 / (sum[1] + sum[2]).max(1) as f64
}

/// The class that a label counts as where vehicles are one class.
pub fn group(label: &str) -> &str {
    if PaperMetric::VEHICLES.contains(&label) {
        "vehicle"
    } else {
        label
    }
}

/// F1 over confident objects. References from [`CONFIDENT_SCORE`] up are to be found by boxes from [`REFERENCE_SCORE`] up:
/// one-to-one, same class (vehicles are one), overlap of `iou`. A box that is left and overlaps a weaker reference of its
/// class counts for nothing, any other that is left is false.
///
/// # Panics
/// If they differ in the number of frames.
pub fn confident_f1(found: &[Vec<ScoredBox>], reference: &[Vec<ScoredBox>], iou: f32) -> f64 {
    assert_eq!(found.len(), reference.len(), "frames to compare");
    let (mut hits, mut wrong, mut missed) = (0usize, 0usize, 0usize);
    for (found, reference) in found.iter().zip(reference) {
        let mut found: Vec<&ScoredBox> = found.iter().filter(|f| f.score >= REFERENCE_SCORE).collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        let (sure, weak): (Vec<&ScoredBox>, Vec<&ScoredBox>) =
            reference.iter().partition(|r| r.score >= CONFIDENT_SCORE);
        let meets = |f: &ScoredBox, r: &ScoredBox| group(&f.label) == group(&r.label) && f.iou(r) >= iou;
        let mut used = vec![false; sure.len()];
        for f in found {
            let best = (0..sure.len())
                .filter(|i| !used[*i] && meets(f, sure[*i]))
                .max_by(|a, b| f.iou(sure[*a]).total_cmp(&f.iou(sure[*b])));
            match best {
                Some(i) => {
                    used[i] = true;
                    hits += 1;
                }
                None if weak.iter().any(|r| meets(f, r)) => {}
                None => wrong += 1,
            }
        }
        missed += used.iter().filter(|used| !**used).count();
    }
    2.0 * hits as f64 / (2 * hits + wrong + missed).max(1) as f64
}

/// F1 and the test threshold that reaches it. `found` and `reference` hold the boxes of the same frames, in order.
///
/// # Panics
/// If they differ in the number of frames.
pub fn f1(found: &[Vec<ScoredBox>], reference: &[Vec<ScoredBox>], iou: f32) -> (f64, f32) {
    TEST_SCORES
        .iter()
        .map(|&score| (f1_at(found, reference, score, iou), score))
        .fold(
            (0.0, TEST_SCORES[0]),
            |best, one| if one.0 > best.0 { one } else { best },
        )
}

/// Share of the reference's recognised faces that were found (IoU 0.5) with the same name, and their number.
pub fn identity_accuracy(found: &[Vec<ScoredBox>], reference: &[Vec<ScoredBox>]) -> (f64, usize) {
    let (mut right, mut all) = (0usize, 0usize);
    for (found, reference) in found.iter().zip(reference) {
        for known in reference.iter().filter(|r| r.identity.is_some()) {
            all += 1;
            right += usize::from(
                found
                    .iter()
                    .any(|f| f.iou(known) >= 0.5 && f.identity == known.identity),
            );
        }
    }
    (right as f64 / all.max(1) as f64, all)
}

/// The segmentation metric of the DDS paper (mean over frames of the agreement of both maps where either is not
/// background) and the mean intersection over union over the classes, pooled over all frames that have two maps of one
/// size. `None` without such a frame.
/// a map of one size. `None` where there are none.
pub fn segmentation(found: &[Line], reference: &[Line], background: Option<u8>) -> Option<(f64, f64)> {
    let mut overlap = segmentation::Overlap::new(background);
    let mut agreements = Vec::new();
    for (found, reference) in found.iter().zip(reference) {
        let (Some(found), Some(reference)) = (&found.map, &reference.map) else {
            continue;
        };
        if overlap.add(reference.classes(), found.classes()) {
            agreements.extend(segmentation::agreement(
                reference.classes(),
                found.classes(),
                background,
            ));
        }
    }
    let mean = agreements.iter().sum::<f64>() / agreements.len().max(1) as f64;
    Some((mean, overlap.mean()?)).filter(|_| !agreements.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(label: &str, score: f32, x: f32) -> ScoredBox {
        ScoredBox {
            label: label.into(),
            score,
            x,
            y: 0.0,
            width: 10.0,
            height: 10.0,
            identity: None,
            pass: 1,
            objectness: None,
        }
    }

    #[test]
    fn one_reference_box_counts_once_and_classes_must_agree() {
        let reference = vec![vec![
            found("car", 0.9, 0.0),
            found("car", 0.5, 100.0),
            found("bus", 0.29, 200.0),
        ]];
        let test = vec![vec![
            found("car", 0.9, 1.0),
            found("car", 0.8, 2.0),
            found("bus", 0.7, 100.0),
            found("car", 0.1, 100.0),
        ]];
        // One hit, three boxes from 0.2 up, two references.
        assert_eq!(f1(&test, &reference, 0.5), (2.0 / 5.0, 0.2));
        assert_eq!(f1(&reference, &reference, 0.5).0, 1.0);
    }

    #[test]
    fn the_papers_metric_counts_vehicles_below_four_percent_many_to_one() {
        let metric = PaperMetric {
            labels: &PaperMetric::VEHICLES,
            size: (100, 100),
            test_score: PaperMetric::TEST_SCORE,
        };
        let mut large = found("car", 0.9, 50.0);
        (large.width, large.height) = (30.0, 30.0);
        let reference = vec![vec![
            found("car", 0.3, 0.0),
            found("truck", 0.4, 30.0),
            found("person", 0.9, 60.0),
            large,
        ]];
        // Two on the car, one of them labelled bus; none on the truck; one on nothing.
        let test = vec![vec![
            found("car", 0.9, 1.0),
            found("bus", 0.6, 2.0),
            found("car", 0.5, 80.0),
            found("truck", 0.49, 30.0),
        ]];
        assert_eq!(metric.f1(&test, &reference), 4.0 / (4.0 + 1.0 + 1.0));
    }

    #[test]
    fn confident_objects_must_be_found_and_weak_ones_may_be() {
        let reference = vec![vec![
            found("car", 0.9, 0.0),
            found("bus", 0.5, 50.0),
            found("car", 0.4, 100.0),
            found("person", 0.2, 150.0),
        ]];
        // A car called truck and one at a weak reference; nothing on the bus; two on nothing; one too weak to count.
        let test = vec![vec![
            found("truck", 0.3, 1.0),
            found("car", 0.9, 100.0),
            found("person", 0.4, 151.0),
            found("car", 0.8, 152.0),
            found("person", 0.8, 0.0),
            found("bus", 0.29, 50.0),
        ]];
        assert_eq!(confident_f1(&test, &reference, 0.5), 2.0 / (2.0 + 2.0 + 1.0));
        // Twice on one object is once too often.
        let twice = vec![vec![
            found("car", 0.9, 0.0),
            found("bus", 0.9, 1.0),
            found("bus", 0.6, 50.0),
        ]];
        assert_eq!(confident_f1(&twice, &reference, 0.5), 4.0 / 5.0);
        assert_eq!(confident_f1(&reference, &reference, 0.5), 1.0);
    }

    #[test]
    fn identities_count_where_the_reference_knows_one() {
        let named = |name: Option<&str>, x| ScoredBox {
            identity: name.map(str::to_owned),
            ..found("face", 0.9, x)
        };
        let reference = vec![vec![
            named(Some("Ada"), 0.0),
            named(Some("Bo"), 50.0),
            named(None, 90.0),
        ]];
        let test = vec![vec![
            named(Some("Ada"), 1.0),
            named(None, 50.0),
            named(Some("Cy"), 90.0),
        ]];
        assert_eq!(identity_accuracy(&test, &reference), (0.5, 2));
    }

    #[test]
    fn maps_are_compared_cell_by_cell() {
        let line = |classes: Vec<u8>| Line {
            map: Segmentation::new(2, 2, classes),
            ..Line::default()
        };
        let reference = [line(vec![0, 1, 1, 9]), Line::default()];
        let test = [line(vec![0, 1, 2, 9]), Line::default()];
        let (agreement, mean) = segmentation(&test, &reference, Some(9)).unwrap();
        assert_eq!(agreement, 2.0 / 3.0);
        // Of the reference's classes: class 0 whole, class 1 by half.
        assert!((mean - 0.75).abs() < 1e-9, "{mean}");
        assert_eq!(segmentation(&[Line::default()], &[Line::default()], None), None);
    }

    #[test]
    fn the_best_threshold_is_taken() {
        let reference = vec![vec![found("car", 0.9, 0.0)]];
        let test = vec![vec![found("car", 0.9, 0.0), found("car", 0.33, 50.0)]];
        assert_eq!(f1(&test, &reference, 0.5), (1.0, 0.35));
    }
}
