// SPDX-License-Identifier: MPL-2.0

//! GStreamer plugin of the server side of gst-dds: the elements `ddsinfer`, `ddsoverlay`, which draws its results, and
//! `ddsrtprecv`, which receives one RTP stream in front of it.
//!
//! The library is usable without the element too: [`model`] runs detectors and segmenters, [`feedback`] turns their
//! results into regions, [`segmentation`] encodes maps of classes compactly, [`identity`] decides which decoded frames
//! are whole, [`continuity`] and [`order`] detect losses, [`rtp`] selects one stream of many, [`overlay`] draws on
//! pictures of any format, [`matching`] and [`rate`] follow objects and choose how many pictures are worth sending,
//! [`server`] decides what is inferred, requested and waited for.

mod analytics;
pub mod continuity;
pub mod ddsinfer;
pub mod ddsoverlay;
pub mod ddsrtprecv;
pub mod feedback;
pub mod identity;
pub mod matching;
pub mod merge;
pub mod model;
pub mod order;
pub mod overlay;
pub mod rate;
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
