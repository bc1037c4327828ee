// SPDX-License-Identifier: MPL-2.0

//! Regions only where the result is undecided: boxes whose score lies close to the decision threshold.
//!
//! Better quality can change the result only there. Boxes far above the threshold are found at background quality
//! already, boxes far below it are mostly nothing, and both cost bits: measured on street and traffic clips, this rule
//! needs 0.5 to 0.8 of the bits of uniform quality at equal F1, while regions on all boxes need as many or more.

use super::policy::{Candidate, PolicySettings};
use crate::model::{BoundingBox, Detection};

/// Allows for the binary rounding of decimal settings: a score of 0.2 lies in 0.3 ± 0.1.
const ROUNDING: f32 = 1e-6;

/// Candidates of one frame, in the order of `detections`.
///
/// A detection counts where its score lies in `threshold - band <= score < threshold + band`, and, with
/// [`PolicySettings::use_objectness`], also where its objectness does.
pub(super) fn candidates(settings: &PolicySettings, detections: &[Detection]) -> Vec<Candidate> {
    let doubt = |value: f32| {
        let (low, high) = (settings.threshold - settings.band, settings.threshold + settings.band);
        (value >= low - ROUNDING && value < high - ROUNDING).then(|| (value - settings.threshold).abs())
    };
    let candidate = |detection: &Detection| {
        let objectness = detection.objectness.filter(|_| settings.use_objectness);
        let doubts = [doubt(detection.score), objectness.and_then(doubt)];
        let distance = doubts.into_iter().flatten().min_by(f32::total_cmp)?;
        let bounding_box = BoundingBox::of(detection)?;
        Some(Candidate {
            bounding_box,
            grow: (settings.padding as f32, settings.padding as f32),
            distance,
        })
    };
    detections.iter().filter_map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(score: f32, objectness: Option<f32>) -> Detection {
        Detection {
            x1: 10.0,
            y1: 20.0,
            x2: 30.0,
            y2: 50.0,
            score,
            objectness,
            class: 3,
        }
    }

    fn distance(settings: &PolicySettings, score: f32, objectness: Option<f32>) -> Option<f32> {
        candidates(settings, &[detection(score, objectness)])
            .first()
            .map(|c| (c.distance * 1000.0).round() / 1000.0)
    }

    #[test]
    fn band_holds_its_lower_end_and_not_its_upper_one() {
        let settings = PolicySettings::default();
        for (score, expected) in [
            (0.05, None),
            (0.199, None),
            (0.2, Some(0.1)),
            (0.25, Some(0.05)),
            (0.3, Some(0.0)),
            (0.399, Some(0.099)),
            (0.4, None),
            (0.95, None),
        ] {
            assert_eq!(distance(&settings, score, None), expected, "score {score}");
        }
    }

    #[test]
    fn band_follows_the_threshold() {
        let settings = PolicySettings {
            threshold: 0.6,
            band: 0.05,
            ..PolicySettings::default()
        };
        assert_eq!(distance(&settings, 0.3, None), None);
        assert_eq!(distance(&settings, 0.55, None), Some(0.05));
        assert_eq!(distance(&settings, 0.65, None), None);
    }

    #[test]
    fn objectness_counts_only_where_wanted_and_the_more_undecided_value_ranks() {
        let scores = PolicySettings::default();
        let both = PolicySettings {
            use_objectness: true,
            ..PolicySettings::default()
        };
        assert_eq!(distance(&scores, 0.1, Some(0.3)), None);
        assert_eq!(distance(&both, 0.1, Some(0.3)), Some(0.0));
        assert_eq!(distance(&both, 0.1, None), None);
        assert_eq!(distance(&both, 0.25, Some(0.32)), Some(0.02));
        assert_eq!(distance(&both, 0.25, Some(0.9)), Some(0.05));
        assert_eq!(distance(&both, 0.5, Some(0.9)), None);
        assert_eq!(distance(&both, 0.1, Some(f32::NAN)), None);
    }

    #[test]
    fn every_side_is_padded() {
        let found = candidates(&PolicySettings::default(), &[detection(0.3, None)]);
        assert_eq!(
            found[0].bounding_box,
            BoundingBox {
                x1: 10.0,
                y1: 20.0,
                x2: 30.0,
                y2: 50.0
            }
        );
        assert_eq!(found[0].grow, (2.0, 2.0));
    }
}
