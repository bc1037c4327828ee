// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

use std::str::FromStr;

/// What a model finds in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Boxes with classes.
    Detection,
    /// One class for every cell of a grid over the picture.
    Segmentation,
    /// Boxes of faces with landmarks.
    Face,
}

impl Task {
    /// The name in `dds-task`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detection => "detection",
            Self::Segmentation => "segmentation",
            Self::Face => "face",
        }
    }
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "detection" | "detect" => Ok(Self::Detection),
            "segmentation" | "segment" => Ok(Self::Segmentation),
            "face" => Ok(Self::Face),
            _ => Err("one of detection, segmentation, face".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for task in [Task::Detection, Task::Segmentation, Task::Face] {
            assert_eq!(task.name().parse(), Ok(task));
        }
        assert!("pose".parse::<Task>().is_err());
    }
}
