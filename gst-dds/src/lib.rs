// SPDX-License-Identifier: MPL-2.0

//! GStreamer plugin `dds`, camera side: the element `ddsencode` codes H.264 or H.265 with quantizers per macroblock
//! that the neural network at the receiving end requests.
//!
//! The encoder library is a choice ([`encoder`]). NVIDIA's encoder is loaded at run time and can always be chosen;
//! built without the Cargo features `x264` and `x265` the plugin is free of those libraries and of their licence.

pub mod camera;
pub mod cuda;
pub mod ddsencode;
pub mod encoder;
mod library;
pub mod picture;
pub mod scale;
pub mod vbv;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    ddsencode::register(plugin)
}

#[allow(missing_docs, reason = "the macro's items cannot carry any")]
mod plugin {
    use super::plugin_init;

    // The licence has to be a literal.
    #[cfg(any(feature = "x264", feature = "x265"))]
    gst::plugin_define!(
        dds,
        env!("CARGO_PKG_DESCRIPTION"),
        plugin_init,
        concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
        "GPL",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_REPOSITORY"),
        env!("BUILD_REL_DATE")
    );
    #[cfg(not(any(feature = "x264", feature = "x265")))]
    gst::plugin_define!(
        dds,
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
