// SPDX-License-Identifier: MPL-2.0

//! The element `ddsrtprecv`: receives one RTP stream, whichever cameras come and go, and passes it on by one pad.

mod imp;
mod packets;
mod state;
mod stream;

use gst::prelude::*;

glib::wrapper! {
    /// The element. See `gst-inspect-1.0 ddsrtprecv`.
    pub struct DdsRtpRecv(ObjectSubclass<imp::DdsRtpRecv>)
        @extends gst::Bin, gst::Element, gst::Object,
        @implements gst::ChildProxy;
}

/// Registers the element with its plugin.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "ddsrtprecv", gst::Rank::NONE, DdsRtpRecv::static_type())
}
