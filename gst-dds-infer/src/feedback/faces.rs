// SPDX-License-Identifier: MPL-2.0

//! Regions on faces whose result is undecided: whether there is a face, or whose it is.
//!
//! Better quality can change the result only there, as with other objects ([`super::undecided`]). A face is recognised
//! if its similarity to the closest identity reaches a threshold; a face clearly above is known, one clearly below is
//! a stranger, and neither needs bits.

use super::policy::{Candidate, PolicySettings};
use super::undecided;
use crate::model::face::Match;
use crate::model::{BoundingBox, Detection};

/// Rule for faces whose identity is undecided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FacePolicy {
    /// Similarity (cosine) from which on a face is the identity that it matches, -1 to 1: the middle of the undecided
    /// band. Default 0.6: with a MobileFaceNet on a crowd, 95 of 100 pairs of different people lie below 0.58, half of the
    /// pairs of one person a quarter of a second apart above 0.87. Embedders differ, so measure yours.
    pub threshold: f32,
    /// Half width of the undecided band. Default 0.1.
    pub band: f32,
    /// A face is undecided too if a second identity is less than this below the best, and the best is not below the
    /// band. Default 0.05; 0 turns this off.
    pub margin: f32,
    /// A found face without a match is undecided if its box is narrower or lower than this many pixels: it was too
    /// small to be recognised, and quality may help. Default 0, which turns this off: no quality adds pixels.
    pub small: f32,
    /// Pixels added on every side of a face as a part of its box's width and height, on top of
    /// [`PolicySettings::padding`]: an embedder uses more than the box. Default 0.1.
    pub enlarge_ratio: f32,
}

impl Default for FacePolicy {
    fn default() -> Self {
        Self {
            threshold: 0.6,
            band: 0.1,
            margin: 0.05,
            small: 0.0,
            enlarge_ratio: 0.1,
        }
    }
}

/// Candidates of one frame, in the order of `detections`; `matches` correspond by index and may be fewer.
///
/// A face counts if its score is undecided by the rule of detections, or if it is found and its match is undecided.
/// Both distances are relative to their bands, so that they compare.
pub(super) fn candidates(
    settings: &PolicySettings,
    policy: &FacePolicy,
    detections: &[Detection],
    matches: &[Option<Match>],
) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (i, detection) in detections.iter().enumerate() {
        let by_score = undecided::candidates(settings, std::slice::from_ref(detection)).pop();
        let by_match = (detection.score >= settings.threshold)
            .then(|| doubt(policy, detection, matches.get(i).and_then(Option::as_ref)))
            .flatten()
            .map(|doubt| doubt * settings.band);
        let distances = [by_score.map(|c| c.distance), by_match];
        let Some(distance) = distances.into_iter().flatten().min_by(f32::total_cmp) else {
            continue;
        };
        let Some(bounding_box) = BoundingBox::of(detection) else {
            continue;
        };
        let padding = settings.padding as f32;
        let part = policy.enlarge_ratio.max(0.0);
        found.push(Candidate {
            bounding_box,
            grow: (
                padding + part * (detection.x2 - detection.x1),
                padding + part * (detection.y2 - detection.y1),
            ),
            distance,
        });
    }
    found
}

/// Distance of a found face's identity from undecided, 0 to 1; `None` if it is decided.
fn doubt(policy: &FacePolicy, detection: &Detection, found: Option<&Match>) -> Option<f32> {
    let Some(found) = found else {
        let size = (detection.x2 - detection.x1).min(detection.y2 - detection.y1);
        return (size < policy.small).then_some(1.0);
    };
    let within = |distance: f32, limit: f32| (distance < limit).then(|| distance / limit);
    let known = within((found.similarity - policy.threshold).abs(), policy.band);
    // Two strangers at equal distance: the face is decided, as nobody known.
    let second = found
        .second_similarity
        .filter(|_| found.similarity >= policy.threshold - policy.band)
        .and_then(|second| within(found.similarity - second, policy.margin));
    [known, second].into_iter().flatten().min_by(f32::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::{Feedback, Policy};
    use dds_protocol::feedback::Rect;

    fn face(score: f32, size: f32) -> Detection {
        Detection {
            x1: 100.0,
            y1: 50.0,
            x2: 100.0 + size,
            y2: 50.0 + 1.5 * size,
            score,
            objectness: None,
            class: 0,
        }
    }

    fn matching(similarity: f32, second: Option<f32>) -> Option<Match> {
        Some(Match {
            name: "Ada".into(),
            similarity,
            second_similarity: second,
        })
    }

    fn distance(policy: &FacePolicy, score: f32, found: Option<Match>) -> Option<f32> {
        let settings = PolicySettings {
            threshold: 0.6,
            ..PolicySettings::default()
        };
        let found = candidates(&settings, policy, &[face(score, 20.0)], &[found]);
        found.first().map(|c| (c.distance * 1000.0).round() / 1000.0)
    }

    #[test]
    fn a_face_whose_score_is_undecided_is_a_region_whatever_it_matches() {
        let policy = FacePolicy::default();
        for (score, expected) in [(0.45, None), (0.52, Some(0.08)), (0.65, Some(0.05)), (0.71, None)] {
            assert_eq!(distance(&policy, score, None), expected, "score {score}");
            assert_eq!(distance(&policy, score, matching(0.9, Some(0.1))), expected);
        }
    }

    #[test]
    fn a_found_face_is_a_region_where_its_similarity_lies_in_the_band() {
        let policy = FacePolicy {
            threshold: 0.4,
            band: 0.2,
            ..FacePolicy::default()
        };
        for (similarity, expected) in [
            (-0.3, None),
            (0.19, None),
            // Half the width of the band is half of the settings' own band.
            (0.3, Some(0.05)),
            (0.4, Some(0.0)),
            (0.55, Some(0.075)),
            (0.61, None),
            (1.0, None),
            (f32::NAN, None),
        ] {
            assert_eq!(
                distance(&policy, 0.9, matching(similarity, None)),
                expected,
                "{similarity}"
            );
        }
        // No face is found: its match does not count.
        assert_eq!(distance(&policy, 0.3, matching(0.4, None)), None);
    }

    #[test]
    fn a_face_between_two_identities_is_a_region_but_not_a_stranger_to_both() {
        let policy = FacePolicy::default();
        assert_eq!(distance(&policy, 0.9, matching(0.8, Some(0.76))), Some(0.08));
        assert_eq!(distance(&policy, 0.9, matching(0.8, Some(0.74))), None);
        assert_eq!(distance(&policy, 0.9, matching(0.2, Some(0.19))), None);
        // The more undecided of two reasons ranks.
        assert_eq!(distance(&policy, 0.9, matching(0.55, Some(0.54))), Some(0.02));
        let off = FacePolicy { margin: 0.0, ..policy };
        assert_eq!(distance(&off, 0.9, matching(0.8, Some(0.8))), None);
    }

    #[test]
    fn a_small_face_without_a_match_is_a_region_where_wanted_and_ranks_last() {
        let wanted = |small: f32| FacePolicy {
            small,
            ..FacePolicy::default()
        };
        assert_eq!(distance(&wanted(0.0), 0.9, None), None);
        assert_eq!(distance(&wanted(20.0), 0.9, None), None);
        assert_eq!(distance(&wanted(21.0), 0.9, None), Some(0.1));
        assert_eq!(distance(&wanted(21.0), 0.9, matching(0.9, None)), None);
    }

    #[test]
    fn faces_without_a_place_in_the_list_of_matches_have_none_and_boxes_grow() {
        let policy = FacePolicy {
            small: 100.0,
            ..FacePolicy::default()
        };
        let settings = PolicySettings::default();
        let broken = Detection {
            x1: f32::NAN,
            ..face(0.9, 20.0)
        };
        let found = candidates(&settings, &policy, &[face(0.9, 20.0), broken], &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].grow, (4.0, 5.0));
    }

    #[test]
    fn regions_of_faces_move_and_lie_on_the_grid_like_any_other() {
        let settings = PolicySettings {
            threshold: 0.6,
            ..PolicySettings::default()
        };
        let mut feedback = Feedback::new(settings.clone());
        let policy = FacePolicy::default();
        let later = Detection {
            x1: 104.0,
            x2: 144.0,
            ..face(0.9, 40.0)
        };
        let regions = |feedback: &mut Feedback, number: u64, face: Detection, found: Option<Match>| {
            feedback.face_regions(number, 2, &[face], &[found], &policy, 640, 480)
        };
        assert_eq!(regions(&mut feedback, 1, face(0.9, 40.0), matching(0.9, None)), []);
        let found = regions(&mut feedback, 3, later, matching(0.62, None));
        let Rect { x, y, width, height } = found[0].rect;
        // 6 pixels left and right, 8 above and below, then the grid of 8.
        assert_eq!((x, y, width, height), (96, 40, 56, 80));
        assert_eq!((found[0].motion.dx, found[0].motion.dy), (8, 0));
        // The paper's rule ignores identities.
        feedback.set_settings(PolicySettings {
            policy: Policy::Paper,
            ..settings
        });
        assert_eq!(regions(&mut feedback, 5, later, matching(0.62, None)), []);
    }
}
