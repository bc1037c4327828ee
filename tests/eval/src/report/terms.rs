// SPDX-License-Identifier: MPL-2.0

//! Words for the measures of each task.

#![forbid(unsafe_code)]

/// Words for what a task is measured by.
pub struct Terms {
    /// Main measure, short.
    pub main: &'static str,
    /// Main measure, in one sentence.
    pub main_long: &'static str,
    /// The paper's metric, short.
    pub paper: &'static str,
    /// The paper's metric, in one sentence.
    pub paper_long: &'static str,
}

impl Terms {
    /// Those of a task, as the manifest names it.
    pub fn of(task: &str) -> Self {
        match task {
            "segmentation" => Terms {
                main: "mIoU",
                main_long: "Mean over classes of intersection over union, against the same model\u{2019}s classes on the source video.",
                paper: "agreement",
                paper_long: "The DDS paper\u{2019}s metric: pixels on which both agree, of those that at least one calls something \
                         other than background; mean over frames.",
            },
            "face" => Terms {
                main: "strict F1 of faces",
                main_long: "F1 of faces against the same model on the source video: IoU of at least 0.5, one to one, all frames \
                        pooled.",
                paper: "F1, paper\u{2019}s metric",
                paper_long: "The DDS paper\u{2019}s metric: IoU of at least 0.3, several boxes may match one, scores from this page\u{2019}s threshold, boxes \
                         of at most 4 % of the frame.",
            },
            _ => Terms {
                main: "strict F1",
                main_long: "F1 against the same model on the source video: same class, IoU of at least 0.5, one to one, all \
                        frames pooled.",
                paper: "F1, paper\u{2019}s metric",
                paper_long: "The DDS paper\u{2019}s metric: IoU of at least 0.3, several boxes may match one, scores from this page\u{2019}s threshold, boxes \
                         of at most 4 % of the frame.",
            },
        }
    }
}
