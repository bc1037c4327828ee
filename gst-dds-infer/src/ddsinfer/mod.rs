// SPDX-License-Identifier: MPL-2.0

//! The element `ddsinfer`: runs a neural network on decoded video, attaches the results, and requests more quality from the
//! camera where the network needs it.

mod analysis;
mod compose;
mod follow;
mod frame;
mod imp;
mod inputs;
mod outlet;
mod probe;
mod queue;
mod refine;
mod repeater;
mod sender;
mod settings;
mod shared;
mod side_pad;
mod stats;
mod task;
mod transport;
mod worker;

use std::sync::LazyLock;

use gst::prelude::*;

/// Debug category of all files of the element.
static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "ddsinfer",
        gst::DebugColorFlags::empty(),
        Some("Inference that steers the camera"),
    )
});

glib::wrapper! {
    /// The element `ddsinfer`, which runs a model on decoded video and sends feedback to the camera.
    pub struct DdsInfer(ObjectSubclass<imp::DdsInfer>) @extends gst::Element, gst::Object;
}

/// Which detections become regions of feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDdsInferFeedbackPolicy")]
pub enum FeedbackPolicy {
    /// Only boxes whose score lies in a narrow band around the threshold.
    #[default]
    #[enum_value(name = "Undecided: scores in a narrow band around the threshold", nick = "undecided")]
    Undecided,
    /// The rule of the DDS paper (SIGCOMM 2020).
    #[enum_value(name = "Paper: proposals and weak detections, as DDS (SIGCOMM 2020)", nick = "paper")]
    Paper,
}

/// Which captured pictures have results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDdsInferResultsRate")]
pub enum ResultsRate {
    /// Those that were inferred.
    #[default]
    #[enum_value(name = "Inferred: pictures that the model saw", nick = "inferred")]
    Inferred,
    /// All of them; those that were not inferred have predicted ones.
    #[enum_value(
        name = "Captured: every captured picture, predicted where the model did not see it",
        nick = "captured"
    )]
    Captured,
}

/// What the model finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDdsInferTask")]
pub enum TaskChoice {
    /// The task given by the model's description and outputs.
    #[default]
    #[enum_value(name = "Auto: told by the model's description and outputs", nick = "auto")]
    Auto,
    /// Objects.
    #[enum_value(name = "Detection: boxes with classes", nick = "detection")]
    Detection,
    /// The class of every part of the picture.
    #[enum_value(name = "Segmentation: the class of every part of the picture", nick = "segmentation")]
    Segmentation,
    /// Faces.
    #[enum_value(name = "Face: boxes of faces, and whose they are", nick = "face")]
    Face,
}

/// Registers the element with its plugin.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "ddsinfer", gst::Rank::NONE, DdsInfer::static_type())
}
