// SPDX-License-Identifier: MPL-2.0

//! The element `ddsoverlay`: draws the results of `ddsinfer`, or of another detector, on decoded video.

mod format;
mod imp;
mod metas;
mod settings;

use gst::prelude::*;

glib::wrapper! {
    /// The element. See `gst-inspect-1.0 ddsoverlay`.
    pub struct DdsOverlay(ObjectSubclass<imp::DdsOverlay>) @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element with its plugin.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "ddsoverlay", gst::Rank::NONE, DdsOverlay::static_type())
}
