// SPDX-License-Identifier: MPL-2.0

//! Requested key frames: coded at once for the pipeline itself, at most once a second for the network.

#![forbid(unsafe_code)]

use gst::prelude::*;
use gst_dds_link::guard::Guard;

/// Whether the network requests a key frame: an RTP session passes PLI and FIR on with the `ssrc` they refer to. Other
/// requests (`splitmuxsink`, an application) name no SSRC, or the running time that they want.
pub(super) fn is_from_network(event: &gst::Event) -> bool {
    let named = event.structure().is_some_and(|s| s.has_field("ssrc"));
    named && gst_video::UpstreamForceKeyUnitEvent::parse(event).is_ok_and(|request| request.running_time.is_none())
}

/// Merges two requests: with parameter sets where one of them wants these.
pub(super) fn joined(before: gst::Event, after: gst::Event) -> gst::Event {
    let all_headers = |event: &gst::Event| event.structure().and_then(|s| s.get("all-headers").ok()) == Some(true);
    if all_headers(&before) { before } else { after }
}

/// Calls `grant` with the time stamp of each picture before the element receives it, so that due requests reach the
/// base class before the picture that serves them.
pub(super) fn watch(pad: &gst::Pad, grant: impl Fn(&gst::Element, Option<gst::ClockTime>) + Send + Sync + 'static) {
    let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    let guard = Guard::of("the probe on pictures", pad.parent_element().as_ref());
    pad.add_probe(mask, move |pad, info| {
        let first = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => Some(buffer.as_ref()),
            Some(gst::PadProbeData::BufferList(list)) => list.get(0),
            _ => None,
        };
        if let Some(element) = pad.parent_element() {
            let pts = first.and_then(gst::BufferRef::pts);
            guard.run((), || grant(&element, pts));
        }
        gst::PadProbeReturn::Ok
    });
}
