// SPDX-License-Identifier: MPL-2.0

//! Shared code of the measuring tools and the cross-element tests.

pub mod clip;
pub mod cpu;
pub mod draw;
pub mod lockstep;
pub mod noise;
pub mod pair;
pub mod plot;
pub mod progress;
pub mod qp;
pub mod relay;
pub mod score;
pub mod sheet;
pub mod sockets;

use gst::prelude::*;

/// Why a tool stops. Printed for the user as it is.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Initialises GStreamer and both plugins, linked into this program.
///
/// # Errors
/// GStreamer's error.
pub fn init() -> Result<(), Error> {
    static DONE: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    DONE.get_or_init(|| {
        gst::init().map_err(|e| e.to_string())?;
        gstdds::plugin_register_static().map_err(|e| e.to_string())?;
        gstddsinfer::plugin_register_static().map_err(|e| e.to_string())
    })
    .clone()
    .map_err(Into::into)
}

/// Creates a pipeline from a gst-launch line.
///
/// # Errors
/// The parser's error, with the line.
pub fn launch(line: &str) -> Result<gst::Pipeline, Error> {
    gst::parse::launch(line)
        .map_err(|e| format!("{e} in: {line}"))?
        .downcast()
        .map_err(|_| format!("not a pipeline: {line}").into())
}

/// The error on a pipeline's bus, as the element posted it.
pub fn bus_error(pipeline: &gst::Pipeline) -> Option<String> {
    let message = pipeline.bus()?.pop_filtered(&[gst::MessageType::Error])?;
    match message.view() {
        gst::MessageView::Error(e) => Some(format!("{} ({})", e.error(), e.debug().unwrap_or_default())),
        _ => None,
    }
}
