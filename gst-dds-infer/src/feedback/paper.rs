// SPDX-License-Identifier: MPL-2.0

//! The region rule of the DDS paper (Du et al., SIGCOMM 2020, section 3) for object detection, with the thresholds of
//! its published implementation. The steps bear the letters that the functions below name:
//!
//! a. classes are grouped: vehicles, persons, roadside; a class outside the groups is a group of its own
//! b. proposals: boxes with enough objectness that are not too large, whatever their class
//! c. detections are cleaned: weak ones dropped, overlapping ones of one group joined
//! d. confident ones of a target group are accepted
//! e. everything else is a candidate: weak detections, other groups, proposals
//! f. large candidates are dropped: large objects are found at low quality anyway
//! g. proposals that overlap an accepted detection are dropped
//! h. candidates are grown by a part of their size and clamped to the frame
//! i. of candidates of one group that overlap, the more confident one stays
//!
//! The paper's detector has a region proposal network. One-stage detectors have none: their boxes are the proposals,
//! with the model's objectness where it gives one, else with the sum of the scores of all classes found in that place.

use super::policy::{Candidate, ClassGroup, PaperSettings, PolicySettings};
use crate::model::{BoundingBox, Detection};

/// Boxes of several classes that overlap by more are one place, whose scores are summed.
const SAME_PLACE_IOU: f32 = 0.9;

/// A box at some step of the rule. `group` is `None` for proposals, which share the label "object".
#[derive(Clone, Copy, Debug, PartialEq)]
struct Labelled {
    bounding_box: BoundingBox,
    confidence: f32,
    group: Option<ClassGroup>,
}

/// Step b: proposals of one frame.
fn proposals(paper: &PaperSettings, detections: &[(BoundingBox, &Detection)], frame_area: f32) -> Vec<Labelled> {
    let objectness = |bounding_box: &BoundingBox, detection: &Detection| {
        detection.objectness.filter(|o| o.is_finite()).unwrap_or_else(|| {
            let others = detections.iter().filter(|(b, d)| {
                d.class != detection.class && d.objectness.is_none() && b.iou(bounding_box) > SAME_PLACE_IOU
            });
            (detection.score + others.map(|(_, d)| d.score).sum::<f32>()).min(1.0)
        })
    };
    let labelled = detections.iter().map(|&(bounding_box, detection)| Labelled {
        bounding_box,
        confidence: objectness(&bounding_box, detection),
        group: None,
    });
    labelled
        .filter(|p| {
            p.confidence >= paper.proposal_threshold && p.bounding_box.area() <= paper.proposal_max_area * frame_area
        })
        .collect()
}

/// Step c: detections joined within their groups. Each connected component becomes its bounding box with the
/// confidence of its left-most box.
fn cleaned(paper: &PaperSettings, detections: &[(BoundingBox, &Detection)]) -> Vec<Labelled> {
    let strong: Vec<Labelled> = detections
        .iter()
        .filter(|(_, d)| d.score >= paper.detection_threshold)
        .map(|&(bounding_box, d)| Labelled {
            bounding_box,
            confidence: d.score,
            group: Some(paper.group(d.class)),
        })
        .collect();
    let mut joined = vec![false; strong.len()];
    let mut components = Vec::new();
    for first in 0..strong.len() {
        if joined[first] {
            continue;
        }
        joined[first] = true;
        let mut members = vec![first];
        let mut next = 0;
        while let Some(&member) = members.get(next) {
            next += 1;
            for (other, labelled) in strong.iter().enumerate() {
                if !joined[other]
                    && labelled.group == strong[member].group
                    && labelled.bounding_box.iou(&strong[member].bounding_box) > paper.join_iou
                {
                    joined[other] = true;
                    members.push(other);
                }
            }
        }
        let mut component = strong[first];
        let mut left_most = first;
        for &member in &members[1..] {
            component.bounding_box = component.bounding_box.union(&strong[member].bounding_box);
            if strong[member].bounding_box.x1 < strong[left_most].bounding_box.x1 {
                left_most = member;
            }
        }
        component.confidence = strong[left_most].confidence;
        components.push(component);
    }
    components
}

/// Step i: of boxes of one label that overlap, the more confident one.
fn without_duplicates(paper: &PaperSettings, mut boxes: Vec<Labelled>) -> Vec<Labelled> {
    boxes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let mut kept: Vec<Labelled> = Vec::with_capacity(boxes.len());
    for candidate in boxes {
        let duplicate = |k: &Labelled| {
            k.group == candidate.group && k.bounding_box.iou(&candidate.bounding_box) > paper.duplicate_iou
        };
        if !kept.iter().any(duplicate) {
            kept.push(candidate);
        }
    }
    kept
}

/// Candidates of one frame after step i.
pub(super) fn candidates(
    settings: &PolicySettings,
    detections: &[Detection],
    width: u32,
    height: u32,
) -> Vec<Candidate> {
    let paper = &settings.paper;
    let frame_area = width as f32 * height as f32;
    let boxes: Vec<(BoundingBox, &Detection)> = detections
        .iter()
        .filter_map(|d| Some((BoundingBox::of(d)?, d)))
        .collect();

    let proposals = proposals(paper, &boxes, frame_area);
    // Steps d and e.
    let (accepted, mut candidates): (Vec<Labelled>, Vec<Labelled>) = cleaned(paper, &boxes)
        .into_iter()
        .partition(|d| d.confidence > paper.accept_threshold && d.group.is_some_and(|group| paper.is_target(group)));
    // Step g before f: their order does not matter, and only proposals are tested here.
    let covered = |p: &Labelled| {
        accepted
            .iter()
            .any(|a| a.bounding_box.iou(&p.bounding_box) > paper.accepted_iou)
    };
    candidates.extend(proposals.into_iter().filter(|p| !covered(p)));
    // Step f.
    candidates.retain(|c| c.bounding_box.area() <= paper.max_area * frame_area);
    // Step h.
    for candidate in &mut candidates {
        let b = candidate.bounding_box;
        let (dx, dy) = (paper.enlarge_ratio * (b.x2 - b.x1), paper.enlarge_ratio * (b.y2 - b.y1));
        candidate.bounding_box = b.grown_within(dx, dy, width, height);
    }
    without_duplicates(paper, candidates)
        .into_iter()
        .map(|c| Candidate {
            bounding_box: c.bounding_box,
            grow: (0.0, 0.0),
            distance: (c.confidence - paper.accept_threshold).abs(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frame of 1000 x 1000: an area of 0.01 is 100 x 100 pixels, one of 0.04 is 200 x 200.
    const SIDE: u32 = 1000;

    fn detection(x1: f32, y1: f32, side: f32, score: f32) -> Detection {
        Detection {
            x1,
            y1,
            x2: x1 + side,
            y2: y1 + side,
            score,
            objectness: None,
            class: 0,
        }
    }

    fn square(x1: f32, y1: f32, side: f32) -> BoundingBox {
        BoundingBox {
            x1,
            y1,
            x2: x1 + side,
            y2: y1 + side,
        }
    }

    fn run(paper: PaperSettings, detections: &[Detection]) -> Vec<BoundingBox> {
        let settings = PolicySettings {
            paper,
            ..PolicySettings::default()
        };
        candidates(&settings, detections, SIDE, SIDE)
            .into_iter()
            .map(|c| c.bounding_box)
            .collect()
    }

    fn with_boxes(detections: &[Detection]) -> Vec<(BoundingBox, &Detection)> {
        detections
            .iter()
            .filter_map(|d| Some((BoundingBox::of(d)?, d)))
            .collect()
    }

    #[test]
    fn step_a_labels_fall_into_the_groups_of_the_paper() {
        let mut paper = PaperSettings::default();
        paper.set_labels(&["person", "Car", "bus", "stop sign", "dog"]);
        let groups: Vec<ClassGroup> = (0..6).map(|class| paper.group(class)).collect();
        assert_eq!(
            groups,
            [
                ClassGroup::Person,
                ClassGroup::Vehicle,
                ClassGroup::Vehicle,
                ClassGroup::Roadside,
                ClassGroup::Other(4),
                ClassGroup::Other(5),
            ]
        );
    }

    #[test]
    fn step_b_proposals_need_objectness_and_at_most_four_percent_of_the_frame() {
        let paper = PaperSettings::default();
        let of = |objectness, side| Detection {
            objectness: Some(objectness),
            ..detection(0.0, 0.0, side, 0.1)
        };
        let detections = [of(0.49, 50.0), of(0.5, 50.0), of(0.9, 200.0), of(0.9, 201.0)];
        let found = proposals(&paper, &with_boxes(&detections), 1e6);
        let found: Vec<(f32, f32)> = found.iter().map(|p| (p.confidence, p.bounding_box.x2)).collect();
        assert_eq!(found, [(0.5, 50.0), (0.9, 200.0)]);
    }

    #[test]
    fn step_b_without_objectness_the_scores_of_all_classes_in_one_place_add_up() {
        let paper = PaperSettings::default();
        let car = detection(100.0, 100.0, 50.0, 0.25);
        let bus = Detection {
            class: 1,
            ..detection(101.0, 100.0, 50.0, 0.25)
        };
        let elsewhere = Detection {
            class: 2,
            ..detection(120.0, 100.0, 50.0, 0.25)
        };
        assert_eq!(proposals(&paper, &with_boxes(&[car, elsewhere]), 1e6), []);
        let found = proposals(&paper, &with_boxes(&[car, bus, elsewhere]), 1e6);
        assert_eq!(found.iter().map(|p| p.confidence).collect::<Vec<_>>(), [0.5, 0.5]);
    }

    #[test]
    fn step_c_drops_weak_boxes_and_joins_chains_of_one_group_with_the_left_most_confidence() {
        let mut paper = PaperSettings::default();
        paper.set_labels(&["car", "truck", "person"]);
        // Neighbours overlap by 60 of 140; the ends of the chain by 20 of 180 only.
        let detections = [
            detection(140.0, 0.0, 100.0, 0.8),
            Detection {
                class: 1,
                ..detection(100.0, 0.0, 100.0, 0.4)
            },
            detection(180.0, 0.0, 100.0, 0.6),
            Detection {
                class: 2,
                ..detection(140.0, 0.0, 100.0, 0.7)
            },
            detection(60.0, 0.0, 100.0, 0.29),
        ];
        let found = cleaned(&paper, &with_boxes(&detections));
        assert_eq!(
            found,
            [
                Labelled {
                    bounding_box: BoundingBox {
                        x1: 100.0,
                        y1: 0.0,
                        x2: 280.0,
                        y2: 100.0
                    },
                    confidence: 0.4,
                    group: Some(ClassGroup::Vehicle),
                },
                Labelled {
                    bounding_box: square(140.0, 0.0, 100.0),
                    confidence: 0.7,
                    group: Some(ClassGroup::Person),
                },
            ]
        );
        let apart = [detection(0.0, 0.0, 130.0, 0.8), detection(70.0, 0.0, 130.0, 0.8)];
        // 60 of 200 is exactly the limit and does not join.
        assert_eq!(cleaned(&paper, &with_boxes(&apart)).len(), 2);
    }

    #[test]
    fn step_d_confident_detections_of_target_groups_are_accepted_and_need_no_region() {
        let mut paper = PaperSettings::default();
        let detections = [detection(0.0, 0.0, 50.0, 0.51), detection(200.0, 0.0, 50.0, 0.49)];
        assert_eq!(run(paper.clone(), &detections), [square(200.0, 0.0, 50.0)]);
        paper.set_labels(&["person"]);
        paper.targets = vec![ClassGroup::Vehicle];
        paper.proposal_threshold = 1.1;
        assert_eq!(
            run(paper, &detections),
            [square(0.0, 0.0, 50.0), square(200.0, 0.0, 50.0)]
        );
    }

    #[test]
    fn step_d_the_limit_itself_is_not_accepted() {
        let paper = PaperSettings {
            proposal_threshold: 1.1,
            ..PaperSettings::default()
        };
        assert_eq!(run(paper, &[detection(0.0, 0.0, 50.0, 0.5)]), [square(0.0, 0.0, 50.0)]);
    }

    #[test]
    fn step_e_weak_detections_and_proposals_are_candidates() {
        let weak = detection(0.0, 0.0, 50.0, 0.35);
        let proposal = Detection {
            objectness: Some(0.6),
            ..detection(200.0, 0.0, 50.0, 0.1)
        };
        let neither = Detection {
            objectness: Some(0.4),
            ..detection(400.0, 0.0, 50.0, 0.1)
        };
        let found = run(PaperSettings::default(), &[weak, proposal, neither]);
        assert_eq!(found, [square(200.0, 0.0, 50.0), square(0.0, 0.0, 50.0)]);
    }

    #[test]
    fn step_f_candidates_above_one_percent_of_the_frame_are_dropped() {
        let proposal = |x, side| Detection {
            objectness: Some(0.6),
            ..detection(x, 500.0, side, 0.1)
        };
        let detections = [
            detection(0.0, 0.0, 100.0, 0.35),
            detection(300.0, 0.0, 101.0, 0.35),
            proposal(0.0, 100.0),
            proposal(300.0, 101.0),
        ];
        let found = run(PaperSettings::default(), &detections);
        assert_eq!(found, [square(0.0, 500.0, 100.0), square(0.0, 0.0, 100.0)]);
    }

    #[test]
    fn step_g_only_proposals_are_dropped_where_they_overlap_an_accepted_detection() {
        let mut paper = PaperSettings::default();
        paper.set_labels(&["car", "person"]);
        let accepted = detection(100.0, 100.0, 60.0, 0.9);
        // Shifted by half: 30 of 90 overlap.
        let proposal = Detection {
            objectness: Some(0.7),
            ..detection(130.0, 100.0, 60.0, 0.1)
        };
        let weak_other_group = Detection {
            class: 1,
            ..detection(130.0, 100.0, 60.0, 0.4)
        };
        assert_eq!(run(paper.clone(), &[accepted, proposal]), []);
        assert_eq!(
            run(paper.clone(), &[accepted, weak_other_group]),
            [weak_other_group].map(|_| square(130.0, 100.0, 60.0))
        );
        paper.accepted_iou = 0.34;
        assert_eq!(run(paper, &[accepted, proposal]), [square(130.0, 100.0, 60.0)]);
    }

    #[test]
    fn step_h_sides_grow_by_the_ratio_and_stop_at_the_frame() {
        let paper = PaperSettings {
            enlarge_ratio: 0.1,
            ..PaperSettings::default()
        };
        let tall = Detection {
            y2: 80.0,
            ..detection(100.0, 0.0, 20.0, 0.35)
        };
        let found = run(paper, &[tall]);
        assert_eq!(
            found,
            [BoundingBox {
                x1: 98.0,
                y1: 0.0,
                x2: 122.0,
                y2: 88.0
            }]
        );
    }

    #[test]
    fn step_i_the_more_confident_of_overlapping_candidates_of_one_label_stays() {
        let mut paper = PaperSettings::default();
        paper.set_labels(&["car", "person"]);
        let proposal = |x, objectness| Detection {
            objectness: Some(objectness),
            ..detection(x, 0.0, 60.0, 0.1)
        };
        // 45 of 75 overlap.
        let overlapping = [proposal(100.0, 0.6), proposal(115.0, 0.8)];
        assert_eq!(run(paper.clone(), &overlapping), [square(115.0, 0.0, 60.0)]);
        // 40 of 80 is exactly the limit.
        assert_eq!(
            run(paper.clone(), &[proposal(100.0, 0.6), proposal(120.0, 0.8)]).len(),
            2
        );
        // A box of another label stays.
        let person = Detection {
            class: 1,
            objectness: Some(0.2),
            ..detection(115.0, 0.0, 60.0, 0.4)
        };
        assert_eq!(run(paper.clone(), &[proposal(100.0, 0.6), person]).len(), 2);
        paper.duplicate_iou = 1.0;
        assert_eq!(run(paper, &overlapping).len(), 2);
    }

    #[test]
    fn the_most_undecided_candidate_has_the_smallest_distance_to_acceptance() {
        let settings = PolicySettings::default();
        let detections = [detection(0.0, 0.0, 50.0, 0.35), detection(200.0, 0.0, 50.0, 0.45)];
        let found = candidates(&settings, &detections, SIDE, SIDE);
        let found: Vec<(f32, f32)> = found
            .iter()
            .map(|c| (c.bounding_box.x1, (c.distance * 100.0).round() / 100.0))
            .collect();
        assert_eq!(found, [(200.0, 0.05), (0.0, 0.15)]);
    }
}
