// SPDX-License-Identifier: MPL-2.0

//! Key frames that are asked for: at once by the pipeline itself, at most once a second by the network.

#![forbid(unsafe_code)]

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_dds_link::guard::Guard;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;

use super::imp::DdsEncode;
use super::log::CAT;

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

impl DdsEncode {
    /// Sees to it that requests which are due reach the base class in front of the picture that serves them.
    pub(super) fn watch_key_frames(&self) {
        let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        let guard = Guard::of("the probe on pictures", Some(self.obj().upcast_ref()));
        self.obj().sink_pad().add_probe(mask, move |pad, info| {
            let first = match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => Some(buffer.as_ref()),
                Some(gst::PadProbeData::BufferList(list)) => list.get(0),
                _ => None,
            };
            if let Some(element) = pad.parent().and_downcast::<super::DdsEncode>() {
                let pts = first.and_then(gst::BufferRef::pts);
                guard.run((), || element.imp().grant_key_frame(pts));
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Grants what is due with a picture of this time stamp.
    fn grant_key_frame(&self, pts: Option<gst::ClockTime>) {
        if !self.key_frames.lock().unwrap().is_waiting() {
            return;
        }
        let segment = self.obj().input_segment().downcast::<gst::ClockTime>().ok();
        let running_time = pts.zip(segment).and_then(|(pts, segment)| segment.to_running_time(pts));
        let now = self
            .state
            .lock()
            .unwrap()
            .as_ref()
            .map(|state| state.coming(running_time));
        let (event, deferred) = {
            let mut requests = self.key_frames.lock().unwrap();
            let before = requests.counts().deferred;
            let event = requests.due(now.unwrap_or(0));
            (event, before == 0 && requests.counts().deferred > 0)
        };
        if deferred {
            gst::warning!(
                CAT,
                imp = self,
                "More than one key frame a second is asked for by the network: the others wait for the end of the second \
                 (key-frames-deferred in stats)"
            );
        }
        if let Some(event) = event {
            self.parent_src_event(event);
        }
    }
}
