// SPDX-License-Identifier: MPL-2.0

//! Merges two passes over one frame by the rule of the DDS paper (SIGCOMM 2020, section 3; published implementation).
//!
//! 1. Confident objects of the first pass stay; all objects of the second pass are added. The second pass covers the
//!    whole picture, including refined regions, so it usually finds the confident objects again.
//! 2. Of two boxes of one class that overlap, the one of the second pass stays; of one pass, the more confident one.
//! 3. With [`MergeSettings::join`], boxes below its floor are dropped, and chains of overlapping boxes of one class
//!    become their bounding box with the confidence of the left-most one.

#![forbid(unsafe_code)]

use crate::model::{BoundingBox, Detection};

/// The pass that found an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// On the low-quality picture.
    First,
    /// On the picture with its refined regions.
    Second,
}

impl Pass {
    /// 1 or 2, as results write it.
    pub fn number(self) -> u32 {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }
}

/// Step 3 of the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Join {
    /// Boxes of a lower score are dropped, 0 to 1.
    pub floor: f32,
    /// Boxes of one class that overlap by more (intersection over union, 0 to 1) are joined.
    pub iou: f32,
}

/// Thresholds of the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MergeSettings {
    /// First-pass objects of a higher score are kept, 0 to 1 (paper: 0.5).
    pub accept: f32,
    /// Boxes of one class that overlap by more are one object, 0 to 1 (paper: 0.5).
    pub duplicate_iou: f32,
    /// Whether chains of overlapping boxes are joined (paper: 0.3 and 0.3). Joining loses objects close together.
    pub join: Option<Join>,
}

impl MergeSettings {
    /// Values of the published implementation.
    pub const PAPER: Self = Self {
        accept: 0.5,
        duplicate_iou: 0.5,
        join: Some(Join { floor: 0.3, iou: 0.3 }),
    };
}

/// An object of the merged result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Merged {
    /// The object.
    pub detection: Detection,
    /// The pass that found it.
    pub pass: Pass,
    /// Its index in that pass's list.
    pub index: usize,
}

fn iou(a: &Detection, b: &Detection) -> f32 {
    BoundingBox::from(a).iou(&b.into())
}

/// Merges the detections of both passes, in pixels of the same picture, by descending score.
pub fn merge(first: &[Detection], second: &[Detection], settings: &MergeSettings) -> Vec<Merged> {
    let of = |list: &[Detection], pass| -> Vec<Merged> {
        let items = list.iter().enumerate();
        items
            .map(|(index, detection)| Merged {
                detection: *detection,
                pass,
                index,
            })
            .collect()
    };
    let mut all = of(second, Pass::Second);
    all.extend(
        of(first, Pass::First)
            .into_iter()
            .filter(|m| m.detection.score > settings.accept),
    );
    // The second pass wins, then confidence; sorting is stable.
    all.sort_by(|a, b| {
        let rank = |m: &Merged| m.pass == Pass::First;
        rank(a)
            .cmp(&rank(b))
            .then(b.detection.score.total_cmp(&a.detection.score))
    });
    let mut kept: Vec<Merged> = Vec::with_capacity(all.len());
    for item in all {
        let twin = kept.iter().any(|k| {
            k.detection.class == item.detection.class && iou(&k.detection, &item.detection) > settings.duplicate_iou
        });
        if !twin {
            kept.push(item);
        }
    }
    if let Some(join) = &settings.join {
        kept = joined(kept, join);
    }
    kept.sort_by(|a, b| b.detection.score.total_cmp(&a.detection.score));
    kept
}

/// Connected components of overlapping boxes of one class, each as its bounding box.
fn joined(mut items: Vec<Merged>, join: &Join) -> Vec<Merged> {
    items.retain(|m| m.detection.score >= join.floor);
    items.sort_by(|a, b| a.detection.x1.total_cmp(&b.detection.x1));
    let mut group: Vec<usize> = (0..items.len()).collect();
    fn root(group: &mut [usize], mut i: usize) -> usize {
        while group[i] != i {
            group[i] = group[group[i]];
            i = group[i];
        }
        i
    }
    for i in 0..items.len() {
        for j in i + 1..items.len() {
            let (a, b) = (&items[i].detection, &items[j].detection);
            if b.x1 >= a.x2 {
                // Sorted by left edge: none further right overlaps it.
                break;
            }
            if a.class == b.class && iou(a, b) > join.iou {
                let (a, b) = (root(&mut group, i), root(&mut group, j));
                // The left-most member is the root.
                group[a.max(b)] = a.min(b);
            }
        }
    }
    let mut out: Vec<Option<Merged>> = vec![None; items.len()];
    for i in 0..items.len() {
        let leader = root(&mut group, i);
        let member = items[i].detection;
        let whole = out[leader].get_or_insert(items[leader]);
        let d = &mut whole.detection;
        (d.x1, d.y1) = (d.x1.min(member.x1), d.y1.min(member.y1));
        (d.x2, d.y2) = (d.x2.max(member.x2), d.y2.max(member.y2));
    }
    out.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(x1: f32, score: f32, class: u32) -> Detection {
        Detection {
            x1,
            y1: 10.0,
            x2: x1 + 100.0,
            y2: 110.0,
            score,
            objectness: None,
            class,
        }
    }

    const PLAIN: MergeSettings = MergeSettings {
        accept: 0.5,
        duplicate_iou: 0.5,
        join: None,
    };

    fn summary(merged: &[Merged]) -> Vec<(u32, usize, f32)> {
        merged
            .iter()
            .map(|m| (m.pass.number(), m.index, m.detection.score))
            .collect()
    }

    #[test]
    fn sure_objects_of_the_first_pass_and_all_of_the_second_make_the_result() {
        let first = [
            detection(0.0, 0.9, 0),
            detection(200.0, 0.5, 0),
            detection(400.0, 0.2, 0),
        ];
        let second = [detection(600.0, 0.1, 0), detection(800.0, 0.7, 0)];
        let merged = merge(&first, &second, &PLAIN);
        assert_eq!(summary(&merged), [(1, 0, 0.9), (2, 1, 0.7), (2, 0, 0.1)]);
    }

    #[test]
    fn the_second_pass_replaces_the_first_even_where_it_is_less_confident() {
        let first = [detection(0.0, 0.9, 0)];
        let second = [
            detection(10.0, 0.6, 0),
            detection(12.0, 0.4, 0),
            detection(10.0, 0.3, 1),
        ];
        let merged = merge(&first, &second, &PLAIN);
        assert_eq!(summary(&merged), [(2, 0, 0.6), (2, 2, 0.3)]);
    }

    #[test]
    fn chains_are_joined_with_the_confidence_of_the_left_most() {
        let second = [
            detection(100.0, 0.8, 0),
            detection(50.0, 0.6, 0),
            detection(150.0, 0.9, 0),
            detection(100.0, 0.7, 1),
            detection(600.0, 0.29, 0),
        ];
        let settings = MergeSettings {
            duplicate_iou: 0.9,
            ..MergeSettings::PAPER
        };
        let merged = merge(&[], &second, &settings);
        assert_eq!(summary(&merged), [(2, 3, 0.7), (2, 1, 0.6)]);
        let whole = merged[1].detection;
        assert_eq!((whole.x1, whole.x2), (50.0, 250.0));
    }

    #[test]
    fn empty_and_broken_boxes_do_no_harm() {
        let broken = Detection {
            x1: f32::NAN,
            ..detection(0.0, 0.8, 0)
        };
        let empty = Detection {
            x2: 0.0,
            ..detection(0.0, 0.8, 0)
        };
        for settings in [PLAIN, MergeSettings::PAPER] {
            assert_eq!(merge(&[], &[], &settings), []);
            let merged = merge(
                &[broken, empty],
                &[broken, empty, detection(0.0, f32::NAN, 0)],
                &settings,
            );
            assert!(merged.len() <= 5, "{merged:?}");
            assert!(merged.iter().all(|m| m.index < 3));
        }
    }
}
