// SPDX-License-Identifier: MPL-2.0

//! Settings that cancel each other, or that have no effect with this model. Each alone is valid and frames are inferred, but
//! together they do not do what the user wants.

use std::cmp::Ordering;

use gst::prelude::*;

use super::{FLOOR, FeedbackPolicy, Settings};

/// Kind of the detections of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finds {
    /// Detections of another element: there is no model.
    Metas,
    /// Boxes; overlapping ones are left out here or in the model.
    Boxes {
        /// The model leaves them out itself.
        suppressed: bool,
    },
    /// The class of every part of the picture.
    Classes,
    /// Faces, and their identities.
    Identities,
}

/// Settings that conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Key of the conflict: each is reported once.
    pub pair: &'static str,
    /// The warning: settings, their conflict, and the cure.
    pub text: String,
}

/// Properties that only feedback reads.
const FEEDBACK_ONLY: [&str; 13] = [
    "feedback-rate",
    "feedback-policy",
    "feedback-threshold",
    "feedback-band",
    "feedback-padding",
    "feedback-max-regions",
    "feedback-ttl",
    "feedback-objectness",
    "feedback-classes",
    "feedback-windows",
    "feedback-window-size",
    "feedback-uri",
    "feedback-plain",
];
/// Properties that only a model of boxes reads.
const BOXES_ONLY: [&str; 8] = [
    "box-confidence-threshold",
    "iou-threshold",
    "max-detections",
    "feedback-policy",
    "feedback-threshold",
    "feedback-band",
    "feedback-padding",
    "feedback-objectness",
];
/// Properties that only a segmenter reads. `feedback-classes` has a warning of its own.
const SEGMENTER_ONLY: [&str; 3] = ["segmentation-map", "feedback-windows", "feedback-window-size"];
/// Properties that only recognition of faces reads.
const RECOGNITION_ONLY: [&str; 2] = ["similarity-threshold", "min-face-size"];
/// Properties that only a model reads.
const MODEL_ONLY: [&str; 8] = [
    "label-file",
    "model-description",
    "task",
    "extra-outputs",
    "onnxruntime-library",
    "execution-provider",
    "threads",
    "segmentation-map",
];
/// Properties for which the paper's rule has its own values.
const POLICY_UNDECIDED_ONLY: [&str; 3] = ["feedback-threshold", "feedback-band", "feedback-objectness"];

impl Settings {
    /// Finds settings that conflict. The defaults do not.
    pub fn conflicts(&self, finds: Finds) -> Vec<Conflict> {
        let mut found = Vec::new();
        let mut add = |pair, text: String| found.push(Conflict { pair, text });
        if finds == Finds::Metas {
            let idle = self.changed(&MODEL_ONLY);
            if !idle.is_empty() {
                add(
                    "model-file",
                    format!("{idle}: without model-file nothing reads it. Set model-file, or remove it"),
                );
            }
        }
        if self.embedding_model_file.is_none() {
            let idle = self.changed(&RECOGNITION_ONLY);
            if !idle.is_empty() {
                add(
                    "embedding-model-file",
                    format!("{idle}: without embedding-model-file no face is recognised. Set that too, or remove it"),
                );
            }
        }
        if finds == Finds::Classes {
            let idle = self.changed(&BOXES_ONLY);
            if !idle.is_empty() {
                add(
                    "segmenter",
                    format!(
                        "{idle}: the model gives classes and no boxes, so nothing reads it. Use feedback-windows and \
                             feedback-classes, or remove it"
                    ),
                );
            }
        } else if finds != Finds::Metas {
            let idle = self.changed(&SEGMENTER_ONLY);
            if !idle.is_empty() {
                add(
                    "no segmenter",
                    format!(
                        "{idle}: the model gives boxes and no classes of parts, so nothing reads it. Remove it, or set \
                             model-file to a segmenter"
                    ),
                );
            }
        }
        if finds == (Finds::Boxes { suppressed: true }) && !self.changed(&["iou-threshold"]).is_empty() {
            add(
                "iou-threshold",
                "iou-threshold: the model itself leaves overlapping boxes out, and gives none that this could leave out. \
                 Remove it"
                    .into(),
            );
        }
        if matches!(finds, Finds::Classes | Finds::Metas) && !self.changed(&["results-rate"]).is_empty() {
            add(
                "results-rate",
                "results-rate=captured: only boxes that a model finds can be predicted, and here are none. Set model-file to a \
                 detector, or remove it"
                    .into(),
            );
        }
        if self.feedback {
            self.feedback_conflicts(finds, &mut add);
        } else {
            let idle = self.changed(&FEEDBACK_ONLY);
            if !idle.is_empty() {
                add(
                    "feedback",
                    format!("{idle}: feedback=false sends none. Set feedback=true, or remove it"),
                );
            }
        }
        found
    }

    fn feedback_conflicts(&self, finds: Finds, add: &mut impl FnMut(&'static str, String)) {
        if self.channel.plain && self.channel.uri.is_empty() {
            add(
                "feedback-plain, feedback-uri",
                "feedback-plain=true: there is no feedback-uri that could do without a key. Set it, or remove feedback-plain"
                    .into(),
            );
        }
        if self.feedback_ttl_ms == 0 {
            add(
                "feedback, feedback-ttl",
                "feedback-ttl=0: regions end before a frame is coded with them. Set it to the time between two inferences \
                 at least, or feedback=false"
                    .into(),
            );
        }
        if finds == Finds::Classes {
            if self.feedback_windows == 0 {
                add(
                    "feedback, feedback-windows",
                    "feedback-windows=0: nothing of a segmented picture becomes a region. Set it above 0, or feedback=false"
                        .into(),
                );
            }
            return;
        }
        match self.feedback_policy {
            FeedbackPolicy::Paper => {
                let idle = self.changed(&POLICY_UNDECIDED_ONLY);
                if !idle.is_empty() && finds != Finds::Identities {
                    add(
                        "feedback-policy",
                        format!(
                            "{idle}: feedback-policy=paper has thresholds of its own. Set feedback-policy=undecided, or \
                                 remove it"
                        ),
                    );
                }
            }
            FeedbackPolicy::Undecided if self.feedback_band == 0.0 => add(
                "feedback, feedback-band",
                "feedback-band=0: no score is undecided, so there are no regions. Set it above 0, or feedback=false"
                    .into(),
            ),
            FeedbackPolicy::Undecided
                if finds != Finds::Identities && self.feedback_threshold() + self.feedback_band < FLOOR =>
            {
                add(
                    "feedback-threshold, feedback-band",
                    format!(
                        "feedback-threshold={}, feedback-band={}: scores below {FLOOR} are not looked at, so nothing is \
                         undecided. Set one of them higher",
                        self.feedback_threshold(),
                        self.feedback_band
                    ),
                );
            }
            FeedbackPolicy::Undecided => (),
        }
    }

    /// The properties whose value is not the default, joined by commas.
    fn changed(&self, names: &[&str]) -> String {
        let defaults = Settings::default();
        let differs = |name: &&&str| {
            let values = self.get(name).zip(defaults.get(name));
            values.is_some_and(|(ours, theirs)| ours.compare(&theirs) != Some(Ordering::Equal))
        };
        names.iter().filter(differs).copied().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::PROPERTIES;
    use super::*;

    fn settings(values: &str) -> Settings {
        gst::init().unwrap();
        let mut settings = Settings::default();
        for (name, value) in values.split_whitespace().map(|pair| pair.split_once('=').unwrap()) {
            let pspec = PROPERTIES.iter().find(|pspec| pspec.name() == name).unwrap();
            let value = <glib::Value as gst::prelude::GstValueExt>::deserialize_with_pspec(value, pspec);
            assert!(settings.set(name, &value.unwrap_or_else(|e| panic!("{name}: {e}"))));
        }
        settings
    }

    const BOXES: Finds = Finds::Boxes { suppressed: false };

    #[test]
    fn each_pair_that_cancels_itself_is_reported_with_its_cure() {
        for (values, finds, pair, wants) in [
            (
                "feedback=false feedback-band=0.2 feedback-ttl=500",
                BOXES,
                "feedback",
                "feedback-band, feedback-ttl",
            ),
            (
                "feedback=false feedback-uri=udp://h:1",
                Finds::Classes,
                "feedback",
                "feedback=true",
            ),
            (
                "label-file=l.txt threads=2",
                Finds::Metas,
                "model-file",
                "label-file, threads",
            ),
            ("segmentation-map=true", Finds::Metas, "model-file", "segmentation-map"),
            ("min-face-size=40", BOXES, "embedding-model-file", "Set that too"),
            (
                "iou-threshold=0.5 feedback-policy=paper",
                Finds::Classes,
                "segmenter",
                "iou-threshold, feedback-policy",
            ),
            ("feedback-windows=2", BOXES, "no segmenter", "a segmenter"),
            (
                "segmentation-map=true embedding-model-file=e",
                Finds::Identities,
                "no segmenter",
                "segmentation-map",
            ),
            (
                "iou-threshold=0.5",
                Finds::Boxes { suppressed: true },
                "iou-threshold",
                "Remove it",
            ),
            ("feedback-plain=true", BOXES, "feedback-plain, feedback-uri", "Set it"),
            ("feedback-ttl=0", BOXES, "feedback, feedback-ttl", "feedback=false"),
            (
                "feedback-ttl=0",
                Finds::Metas,
                "feedback, feedback-ttl",
                "feedback=false",
            ),
            (
                "feedback-policy=paper feedback-band=0.2",
                BOXES,
                "feedback-policy",
                "undecided",
            ),
            ("feedback-band=0", BOXES, "feedback, feedback-band", "above 0"),
            (
                "feedback-threshold=0.01 feedback-band=0.02",
                BOXES,
                "feedback-threshold, feedback-band",
                "higher",
            ),
            (
                "box-confidence-threshold=0 feedback-band=0.02",
                BOXES,
                "feedback-threshold, feedback-band",
                "higher",
            ),
        ] {
            let found = settings(values).conflicts(finds);
            assert_eq!(found.len(), 1, "{values}: {found:?}");
            assert_eq!(found[0].pair, pair, "{values}");
            assert!(found[0].text.contains(wants), "{values}: {}", found[0].text);
        }
        let found = settings("feedback-windows=0").conflicts(Finds::Classes);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].text.contains("above 0"));
    }

    #[test]
    fn settings_that_go_together_give_no_warning() {
        for (values, finds) in [
            ("", BOXES),
            ("", Finds::Metas),
            ("", Finds::Classes),
            ("", Finds::Identities),
            ("", Finds::Boxes { suppressed: true }),
            ("feedback=false box-confidence-threshold=0.5", BOXES),
            (
                "box-confidence-threshold=0.5 iou-threshold=0.5 feedback-band=0.2 feedback-ttl=500",
                BOXES,
            ),
            ("box-confidence-threshold=0.5 feedback-policy=paper", Finds::Metas),
            (
                "segmentation-map=true feedback-classes=road feedback-windows=2",
                Finds::Classes,
            ),
            (
                "embedding-model-file=e similarity-threshold=0.4 feedback-band=0.05",
                Finds::Identities,
            ),
            ("feedback-plain=true feedback-uri=udp://h:1", BOXES),
        ] {
            assert_eq!(settings(values).conflicts(finds), [], "{values}");
        }
    }
}
