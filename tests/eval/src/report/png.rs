// SPDX-License-Identifier: MPL-2.0

//! PNG pictures of SVG files, made by a GStreamer pipeline.

#![forbid(unsafe_code)]

use std::path::Path;

use dds_tests::{Error, launch};
use gst::prelude::*;

/// Draws the SVG file `from` into the PNG file `to`, in the size that it states.
///
/// # Errors
/// The package that is missing where `rsvgdec` is, what an element says, or that it took over a minute.
pub fn from_svg(from: &Path, to: &Path) -> Result<(), Error> {
    gst::init()?;
    if gst::ElementFactory::find("rsvgdec").is_none() {
        let why = "GStreamer has no element rsvgdec to draw plots as PNG; install gstreamer1.0-plugins-bad";
        return Err(why.into());
    }
    let pipeline = launch("filesrc name=in ! rsvgdec ! videoconvert ! pngenc snapshot=true ! filesink name=out")?;
    for (name, path) in [("in", from), ("out", to)] {
        let element = pipeline.by_name(name).ok_or("no file element")?;
        element.set_property("location", path.to_string_lossy().as_ref());
    }
    let started = pipeline.set_state(gst::State::Playing);
    let bus = pipeline.bus().ok_or("no bus")?;
    let end = bus.timed_pop_filtered(
        gst::ClockTime::from_seconds(60),
        &[gst::MessageType::Eos, gst::MessageType::Error],
    );
    let error = match end.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Eos(_)) => started.err().map(|e| e.to_string()),
        Some(gst::MessageView::Error(e)) => Some(e.error().to_string()),
        _ => Some("no end within 60 s".into()),
    };
    pipeline.set_state(gst::State::Null)?;
    match error {
        None => Ok(()),
        Some(error) => Err(format!("{}: {error}", to.display()).into()),
    }
}
