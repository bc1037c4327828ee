// SPDX-License-Identifier: MPL-2.0

//! The pad of the second pass.

#![forbid(unsafe_code)]

use std::sync::Arc;

use gst::prelude::*;
use gst_dds_link::guard::Guard;

use crate::camera::Way;

use super::super::feedback::Entrance;
use super::super::keyframes;
use super::super::log::CAT;
use super::Refine;
use super::frame::PAD;

/// A new pad, which `refine` codes for. Upstream events on it are feedback, or requests for a key frame, or for the
/// video.
pub(in super::super) fn new(
    template: &gst::PadTemplate,
    refine: &Arc<Refine>,
    entrance: Entrance,
    element: &gst::Element,
) -> gst::Pad {
    let guard = Arc::new(Guard::of("the pad refine", Some(element.upcast_ref())));
    let (of_events, asked) = (guard.clone(), refine.clone());
    let refine = refine.clone();
    gst::Pad::builder_from_template(template)
        .name(PAD)
        .flags(gst::PadFlags::FIXED_CAPS)
        .activatemode_function(move |pad, _, mode, active| {
            if mode == gst::PadMode::Push {
                let panicked = Err(gst::loggable_error!(CAT, "A fault was caught"));
                guard.run(panicked, || {
                    refine.activate(pad, active, &guard);
                    Ok(())
                })
            } else {
                Err(gst::loggable_error!(CAT, "{PAD} pushes only"))
            }
        })
        .event_function(move |_, parent, event| of_events.run(false, || take_event(&asked, &entrance, parent, event)))
        // Latency, position and duration are those of the video; a feedback pad has none.
        .iterate_internal_links_function(|_, parent| gst::Iterator::from_vec(sink(parent).into_iter().collect()))
        .build()
}

fn sink(parent: Option<&gst::Object>) -> Option<gst::Pad> {
    parent?.downcast_ref::<gst::Element>()?.static_pad("sink")
}

fn take_event(refine: &Refine, entrance: &Entrance, parent: Option<&gst::Object>, event: gst::Event) -> bool {
    if let Some(packet) = gst_dds_link::event::take(&event) {
        entrance.deliver(Way::Event, &packet);
        return true;
    }
    if keyframes::is_from_network(&event) {
        refine.request_idr();
        return true;
    }
    if gst_video::UpstreamForceKeyUnitEvent::parse(&event).is_ok() {
        refine.force_idr();
        return true;
    }
    match event.type_() {
        // QoS of this stream is no measure of the first pass.
        gst::EventType::Qos | gst::EventType::Reconfigure => true,
        _ => sink(parent).is_some_and(|sink| sink.push_event(event)),
    }
}
