// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Opens models of any task.

use super::decode::OutputInfo;
use super::description::Family;
use super::segmenter::{self, Segmenter};
use super::session::{ModelSession, PROBE_SIDE, Run};
use super::{Detector, ModelError, ModelSettings, Task};

/// The named task, or that of a named family, or the one that the shapes of the outputs suggest. Anything but
/// segmentation and faces is treated as detection, which refuses unknown outputs.
///
/// # Errors
/// [`ModelError::Contradiction`] when a family of detectors is named together with another task.
fn settle(session: &ModelSession, probe: &Run) -> Result<Task, ModelError> {
    let fields = session.fields();
    match (&fields.task, &fields.family) {
        (Some(task), Some(family)) if task.value == Task::Segmentation => Err(ModelError::Contradiction {
            what: "the task".into(),
            first: format!("{} says {}", task.origin, task.value.name()),
            second: format!("{} says dds-family={}, a detector", family.origin, family.value.name()),
        }),
        (Some(task), _) => Ok(task.value),
        (None, Some(_)) => Ok(Task::Detection),
        (None, None) => Ok(guess(&session.own_infos(probe), probe.size)),
    }
}

/// Guesses the task from the model's own outputs, for an input of this width and height.
fn guess(infos: &[OutputInfo], input: (usize, usize)) -> Task {
    if segmenter::fit_classes(infos, input) {
        Task::Segmentation
    } else if fit_faces(infos) {
        Task::Face
    } else {
        Task::Detection
    }
}

/// Whether these are the outputs of YuNet: class score, objectness, box and landmarks for each of three strides.
fn fit_faces(infos: &[OutputInfo]) -> bool {
    const KINDS: [&str; 4] = ["cls_", "obj_", "bbox_", "kps_"];
    let of_kind = |kind: &str| infos.iter().filter(|o| o.name.starts_with(kind)).count();
    infos.len() == 12 && KINDS.iter().all(|kind| of_kind(kind) == 3)
}

/// A loaded model of any task.
pub enum Model {
    /// Finds boxes.
    Detector(Detector),
    /// Finds the class of every cell.
    Segmenter(Segmenter),
}

impl Model {
    /// Loads the ONNX Runtime library (once per process) and the model, and determines its task: [`ModelSettings::task`],
    /// then `dds-task`, then the shapes of the outputs on a blank picture.
    ///
    /// # Errors
    /// Every [`ModelError`] but [`ModelError::Picture`]; never panics.
    pub fn open(settings: &ModelSettings) -> Result<Self, ModelError> {
        let mut session = ModelSession::open(settings)?;
        let probe = session.probe(PROBE_SIDE)?;
        match settle(&session, &probe)? {
            Task::Detection => Detector::reading(session, &probe).map(Self::Detector),
            Task::Segmentation => Segmenter::reading(session, &probe).map(Self::Segmenter),
            Task::Face => Self::of_faces(session, &probe),
        }
    }

    /// Builds a detector of faces, which must give landmarks.
    fn of_faces(session: ModelSession, probe: &Run) -> Result<Self, ModelError> {
        let given = session.fields().task.clone();
        let detector = Detector::reading(session, probe)?;
        match given.filter(|_| !detector.has_landmarks()) {
            Some(given) => Err(ModelError::Contradiction {
                what: "the task".into(),
                first: format!("{} says {}", given.origin, given.value.name()),
                second: format!(
                    "the outputs are those of {}, which gives no landmarks of faces; use a {} model, or leave the task \
                     out",
                    detector.family.name(),
                    Family::Yunet.name()
                ),
            }),
            None => Ok(Self::Detector(detector)),
        }
    }

    /// Task of the model.
    pub fn task(&self) -> Task {
        match self {
            Self::Detector(d) if d.has_landmarks() => Task::Face,
            Self::Detector(_) => Task::Detection,
            Self::Segmenter(_) => Task::Segmentation,
        }
    }

    /// Labels by class number; empty when nothing names the classes.
    pub fn labels(&self) -> &[String] {
        match self {
            Self::Detector(d) => d.labels(),
            Self::Segmenter(s) => s.labels(),
        }
    }

    /// Deviations from the settings that are no errors, one sentence each.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::Detector(d) => d.warnings(),
            Self::Segmenter(s) => s.warnings(),
        }
    }

    /// One line for the log.
    pub fn summary(&self) -> &str {
        match self {
            Self::Detector(d) => d.summary(),
            Self::Segmenter(s) => s.summary(),
        }
    }

    /// Width and height of the input in pixels for a picture of `width` x `height`.
    pub fn input_size(&self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Self::Detector(d) => d.input_size(width, height),
            Self::Segmenter(s) => s.input_size(width, height),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(outputs: &[(&str, &[usize], bool)]) -> Task {
        let info = |(name, dims, float): &(&str, &[usize], bool)| OutputInfo {
            name: (*name).into(),
            dims: (*dims).into(),
            dynamic: Vec::new(),
            float: *float,
        };
        guess(&outputs.iter().map(info).collect::<Vec<_>>(), (64, 32))
    }

    #[test]
    fn shapes_tell_the_task() {
        for (outputs, wanted) in [
            (&[("o", &[1, 19, 32, 64][..], true)][..], Task::Segmentation),
            (&[("o", &[1, 2, 4, 8], true)], Task::Segmentation),
            (
                &[("out", &[1, 21, 4, 8], true), ("aux", &[1, 21, 4, 8], true)],
                Task::Segmentation,
            ),
            (&[("o", &[1, 32, 64], false)], Task::Segmentation),
            (&[("o", &[1, 1, 4, 8], false)], Task::Segmentation),
            (&[("o", &[1, 1, 32, 64], true)], Task::Segmentation),
            (&[("o", &[1, 32, 64], true)], Task::Segmentation),
            // Boxes, raw heads of a detector, a picture of twice the size, an embedding.
            (&[("o", &[1, 7, 84], true)], Task::Detection),
            (&[("o", &[1, 300, 6], true)], Task::Detection),
            (
                &[("a", &[1, 255, 4, 8], true), ("b", &[1, 255, 2, 4], true)],
                Task::Detection,
            ),
            (&[("o", &[1, 3, 64, 128], true)], Task::Detection),
            (&[("o", &[1, 128], true)], Task::Detection),
            (&[("o", &[4, 19, 32, 64], true)], Task::Detection),
            (&[], Task::Detection),
        ] {
            assert_eq!(task(outputs), wanted, "{outputs:?}");
        }
        let names: Vec<String> = ["cls_", "obj_", "bbox_", "kps_"]
            .iter()
            .flat_map(|kind| [8, 16, 32].map(|stride| format!("{kind}{stride}")))
            .collect();
        let outputs: Vec<(&str, &[usize], bool)> = names.iter().map(|n| (n.as_str(), &[1, 32, 1][..], true)).collect();
        assert_eq!(task(&outputs), Task::Face);
        assert_eq!(task(&outputs[1..]), Task::Detection);
    }
}
