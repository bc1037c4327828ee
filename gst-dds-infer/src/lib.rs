// SPDX-License-Identifier: MPL-2.0

//! GStreamer plugin of the server side of gst-dds: the elements `ddsinfer`, `ddsoverlay`, which draws its results, and
//! `ddsrtprecv`, which receives one RTP stream in front of it.
//!
//! The library is usable without the element too: [`model`] runs detectors and segmenters, [`feedback`] turns
//! their answers into regions, [`segmentation`] puts maps of classes into few words, [`identity`] tells which decoded
//! frames are whole, [`continuity`] and [`order`] whether something is missing, [`rtp`] keeps to one stream of many,
//! [`overlay`] draws on pictures of any format, [`server`] decides what is inferred, asked for and waited for.

mod analytics;
pub mod continuity;
pub mod ddsinfer;
pub mod ddsoverlay;
pub mod ddsrtprecv;
pub mod feedback;
pub mod identity;
pub mod merge;
pub mod model;
pub mod order;
pub mod overlay;
pub mod results;
pub mod rtp;
pub mod segmentation;
pub mod server;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    results::register_meta();
    ddsinfer::register(plugin)?;
    ddsoverlay::register(plugin)?;
    ddsrtprecv::register(plugin)
}

#[allow(missing_docs, reason = "the macro's items cannot carry any")]
mod plugin {
    use super::plugin_init;

    gst::plugin_define!(
        ddsinfer,
        env!("CARGO_PKG_DESCRIPTION"),
        plugin_init,
        concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
        "MPL",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_REPOSITORY"),
        env!("BUILD_REL_DATE")
    );
}

pub use plugin::plugin_register_static;
