// SPDX-License-Identifier: MPL-2.0

//! Key frames that are asked for: at once by the pipeline itself, at most once a second by the network.

#![forbid(unsafe_code)]

use gst::prelude::*;
use gst_dds_link::guard::Guard;

/// Whether the network asks for a key frame: an RTP session passes PLI and FIR on with the `ssrc` they are about. Whoever
/// else asks (`splitmuxsink`, an application) names none, or the running time that it wants.
pub(super) fn is_from_network(event: &gst::Event) -> bool {
    let named = event.structure().is_some_and(|s| s.has_field("ssrc"));
    named && gst_video::UpstreamForceKeyUnitEvent::parse(event).is_ok_and(|request| request.running_time.is_none())
}

/// One request for two: with parameter sets where one of them wants these.
pub(super) fn joined(before: gst::Event, after: gst::Event) -> gst::Event {
    let all_headers = |event: &gst::Event| event.structure().and_then(|s| s.get("all-headers").ok()) == Some(true);
    if all_headers(&before) { before } else { after }
}

/// Calls `grant` with the time stamp of each picture before the element has it, so that requests which are due reach the
/// base class in front of the picture that serves them.
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
