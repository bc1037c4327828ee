// SPDX-License-Identifier: MPL-2.0

//! Settings of the policies that choose which boxes become regions, and the boxes chosen.

use dds_protocol::feedback::{MAX_REGIONS, Quality};

use crate::model::BoundingBox;

/// Which boxes become regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// Boxes close to the decision threshold only.
    #[default]
    Undecided,
    /// The rule of the DDS paper.
    Paper,
}

/// How detections become regions.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySettings {
    /// Which boxes become regions. Default [`Policy::Undecided`].
    pub policy: Policy,
    /// Score from which on a box is a result, 0 to 1: the middle of the undecided band. Default 0.3. Not used by
    /// [`Policy::Paper`], which has its own thresholds.
    pub threshold: f32,
    /// Half width of the undecided band, 0 to 1. Default 0.1. Undecided policy only.
    pub band: f32,
    /// Whether boxes whose objectness lies in the band are undecided too, whatever their score. Default false: this
    /// rule's published figures were measured with scores alone, and every further region costs bits. Worth trying for
    /// models that give objectness and many similar classes, whose scores are low although something is there.
    /// Undecided policy only; the paper's rule always uses objectness.
    pub use_objectness: bool,
    /// Pixels added on every side of a box. Default 2: rectangles grow outward to the wire's grid besides. Undecided
    /// policy only; the paper's rule has
    /// [`PaperSettings::enlarge_ratio`].
    pub padding: u32,
    /// Most regions in one frame; the least valuable are left out and counted. Default and upper limit 256.
    pub max_regions: usize,
    /// How long the camera keeps a region without newer feedback, in milliseconds. Default 1000: long enough for a few
    /// lost packets and slow inference, short enough that a region does not outlive its object.
    pub ttl_ms: u32,
    /// Wanted quality of all regions. Default: the camera's region quality.
    pub quality: Quality,
    /// Whether regions carry motion. Default true.
    pub use_motion: bool,
    /// Least overlap (intersection over union, exclusive) with a box of the previous inferred frame to take its motion
    /// from, 0 to 1. Default 0.2.
    pub motion_iou: f32,
    /// Fastest motion in pixels per captured frame and direction. Default 12: faster motion is more often a wrong
    /// match than a fast object. The wire carries up to 31.75.
    pub max_speed: f32,
    /// Thresholds of [`Policy::Paper`].
    pub paper: PaperSettings,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            policy: Policy::Undecided,
            threshold: 0.3,
            band: 0.1,
            use_objectness: false,
            padding: 2,
            max_regions: MAX_REGIONS,
            ttl_ms: 1000,
            quality: Quality::Camera,
            use_motion: true,
            motion_iou: 0.2,
            max_speed: 12.0,
            paper: PaperSettings::default(),
        }
    }
}

/// A box chosen by a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// The object; its motion is looked up by this box.
    pub bounding_box: BoundingBox,
    /// Pixels to add left and right, above and below.
    pub grow: (f32, f32),
    /// Distance from undecided: the smaller, the more valuable.
    pub distance: f32,
}

/// A group of classes treated as one label (step a).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClassGroup {
    /// Car, bus, train, truck.
    Vehicle,
    /// Person, bicycle, motorcycle.
    Person,
    /// Traffic light, fire hydrant, stop sign, parking meter.
    Roadside,
    /// A class in none of the groups, by its number.
    Other(u32),
}

impl ClassGroup {
    /// The group of a label, ignoring case; `None` if it is in none of them. The groups of the DDS implementation
    /// (COCO categories 3, 6, 7, 8 / 1, 2, 4 / 10, 11, 13, 14) plus the names of the same classes in other data sets.
    pub fn of_label(label: &str) -> Option<Self> {
        match label.trim().to_ascii_lowercase().as_str() {
            "car" | "bus" | "train" | "truck" | "van" | "vehicle" => Some(Self::Vehicle),
            "person" | "pedestrian" | "people" | "rider" | "bicycle" | "motorcycle" | "motorbike" => Some(Self::Person),
            "traffic light" | "fire hydrant" | "stop sign" | "parking meter" => Some(Self::Roadside),
            _ => None,
        }
    }
}

/// Thresholds of the paper's rule. The defaults are from the published implementation.
#[derive(Clone, Debug, PartialEq)]
pub struct PaperSettings {
    /// Group of each class number (step a). Classes beyond the end are groups of their own. See
    /// [`PaperSettings::set_labels`].
    pub groups: Vec<ClassGroup>,
    /// Groups whose confident detections are accepted (step d); empty: every group. The paper's evaluation has
    /// vehicles only.
    pub targets: Vec<ClassGroup>,
    /// Least objectness of a proposal, 0 to 1 (step b, `rpn_threshold`). Default 0.5.
    pub proposal_threshold: f32,
    /// Largest area of a proposal as a part of the frame, 0 to 1 (step b). Default 0.04.
    pub proposal_max_area: f32,
    /// Detections of a lower score are dropped, 0 to 1 (step c). Default 0.3.
    pub detection_threshold: f32,
    /// Detections of one group that overlap by more are joined, 0 to 1 (step c). Default 0.3.
    pub join_iou: f32,
    /// Detections of a target group with a higher score are accepted, 0 to 1 (step d, `prune_score`). Default 0.5.
    pub accept_threshold: f32,
    /// Largest area of a candidate as a part of the frame, 0 to 1 (step f, `size_obj`). Default 0.01; the paper's text
    /// has 0.04.
    pub max_area: f32,
    /// Proposals that overlap an accepted detection by more are dropped, 0 to 1 (step g, `objfilter_iou`). Default 0.3.
    pub accepted_iou: f32,
    /// Growth of each side as a part of the width (left, right) or height (above, below), 0 or more (step h,
    /// `rpn_enlarge_ratio`). Default 0.
    pub enlarge_ratio: f32,
    /// Of candidates of one group that overlap by more one stays, 0 to 1, 1 is off (step i, `intersection_threshold`).
    /// Default 0.5.
    pub duplicate_iou: f32,
}

impl Default for PaperSettings {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            targets: Vec::new(),
            proposal_threshold: 0.5,
            proposal_max_area: 0.04,
            detection_threshold: 0.3,
            join_iou: 0.3,
            accept_threshold: 0.5,
            max_area: 0.01,
            accepted_iou: 0.3,
            enlarge_ratio: 0.0,
            duplicate_iou: 0.5,
        }
    }
}

impl PaperSettings {
    /// Sets [`PaperSettings::groups`] from the labels of a model, the first label being class 0.
    pub fn set_labels<S: AsRef<str>>(&mut self, labels: &[S]) {
        let group = |(class, label): (usize, &S)| {
            ClassGroup::of_label(label.as_ref()).unwrap_or(ClassGroup::Other(class as u32))
        };
        self.groups = labels.iter().enumerate().map(group).collect();
    }

    /// Step a.
    pub(super) fn group(&self, class: u32) -> ClassGroup {
        self.groups
            .get(class as usize)
            .copied()
            .unwrap_or(ClassGroup::Other(class))
    }

    pub(super) fn is_target(&self, group: ClassGroup) -> bool {
        self.targets.is_empty() || self.targets.contains(&group)
    }
}
