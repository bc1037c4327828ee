// SPDX-License-Identifier: MPL-2.0

//! Callbacks and errors of GStreamer's elements.

#![forbid(unsafe_code)]

use gst::prelude::*;
use gst_dds_link::guard::Guard;

/// Guards callbacks from GStreamer: a panic there would end the camera for all clients.
pub fn guard(place: &'static str) -> Guard {
    Guard::reporting(place, |text| eprintln!("dds-rtsp-camera: {text}"))
}

/// Links the decoder's video pad, each time the source starts: a launch line does so only once.
pub(crate) fn link_video(decoder: &gst::Element, first: &gst::Element) {
    let first = first.downgrade();
    let guarded = guard("pad-added");
    decoder.connect_pad_added(move |_, pad| {
        guarded.run((), || {
            let video = pad
                .current_caps()
                .is_some_and(|caps| caps.structure(0).is_some_and(|s| s.name().starts_with("video/")));
            let sink = first.upgrade().and_then(|e| e.static_pad("sink"));
            // A second video track is ignored; a pad that cannot be linked posts its own error.
            if let Some(sink) = sink.filter(|sink| video && !sink.is_linked()) {
                let _ = pad.link(&sink);
            }
        });
    });
}

/// An element's error in one line.
pub fn words(error: &gst::message::Error) -> String {
    let debug = error.debug().unwrap_or_default();
    // The last line of debug text has the system's reason, if there is one.
    let reason = debug
        .lines()
        .next_back()
        .filter(|line| !line.contains("():"))
        .unwrap_or_default();
    format!("{} {reason}", error.error()).trim_end().into()
}
