// SPDX-License-Identifier: MPL-2.0

//! Reads frame identities off the encoded stream, on the last pad before the decoder: decoders neither pass on all SEI
//! messages nor tell damage.

use std::sync::{Arc, Mutex};

use dds_protocol::nal::Format;
use gst::prelude::*;
use gst_dds_link::path::{self, Direction, Visit};

use crate::identity::IdentityTracker;

use super::imp::CAT;

/// How access units lie in the buffers of a pad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    format: Format,
    whole_units: bool,
}

impl Layout {
    /// `None` for caps that are not H.264 or say nothing of their format.
    fn of(caps: &gst::CapsRef) -> Option<Self> {
        let s = caps.structure(0).filter(|s| s.name() == "video/x-h264")?;
        let format = match s.get::<&str>("stream-format").ok()? {
            "byte-stream" => Format::ByteStream,
            // avc, avc3: the record's fifth byte holds the length size less one (ISO/IEC 14496-15, 5.3.3.1.2).
            _ => {
                let record = s.get::<gst::Buffer>("codec_data").ok()?;
                let mut byte = [0];
                record.copy_to_slice(4, &mut byte).ok()?;
                Format::LengthPrefixed((byte[0] & 3) + 1)
            }
        };
        let whole_units = s.get::<&str>("alignment").is_ok_and(|a| a == "au") || format != Format::ByteStream;
        Some(Self { format, whole_units })
    }
}

/// A probe on the encoded pad; goes when it is dropped.
#[derive(Debug)]
pub struct IdentityProbe {
    pad: gst::Pad,
    id: Option<gst::PadProbeId>,
}

impl Drop for IdentityProbe {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.pad.remove_probe(id);
        }
    }
}

impl IdentityProbe {
    /// Whether the probe still sits on the data path of `sink_pad`.
    pub fn is_current(&self, sink_pad: &gst::Pad) -> bool {
        encoded_pad(sink_pad).as_ref() == Some(&self.pad)
    }

    /// Looks for the encoded pad upstream of `sink_pad` and feeds `tracker` from it. `None` where there is no H.264
    /// upstream (yet).
    pub fn install(sink_pad: &gst::Pad, tracker: &Arc<Mutex<IdentityTracker>>) -> Option<Self> {
        let pad = encoded_pad(sink_pad)?;
        gst::info!(
            CAT,
            obj = sink_pad,
            "Reading frame identities on {}:{}",
            parent_name(&pad),
            pad.name()
        );
        let layout = Mutex::new(pad.current_caps().and_then(|c| Layout::of(&c)));
        let tracker = tracker.clone();
        let id = pad.add_probe(
            gst::PadProbeType::BUFFER
                | gst::PadProbeType::BUFFER_LIST
                | gst::PadProbeType::EVENT_DOWNSTREAM
                | gst::PadProbeType::EVENT_FLUSH,
            move |pad, info| {
                match &info.data {
                    Some(gst::PadProbeData::Buffer(buffer)) => push(pad, &tracker, &layout, buffer),
                    Some(gst::PadProbeData::BufferList(list)) => {
                        list.iter_owned()
                            .for_each(|buffer| push(pad, &tracker, &layout, &buffer));
                    }
                    Some(gst::PadProbeData::Event(event)) => match event.view() {
                        gst::EventView::Caps(caps) => *layout.lock().unwrap() = Layout::of(caps.caps()),
                        gst::EventView::FlushStop(_) => tracker.lock().unwrap().flush(),
                        _ => (),
                    },
                    _ => (),
                }
                gst::PadProbeReturn::Ok
            },
        );
        Some(Self { pad, id })
    }
}

fn push(pad: &gst::Pad, tracker: &Mutex<IdentityTracker>, layout: &Mutex<Option<Layout>>, buffer: &gst::BufferRef) {
    let Some(layout) = *layout.lock().unwrap() else { return };
    let Ok(map) = buffer.map_readable() else { return };
    let pts = buffer.pts().map(gst::ClockTime::nseconds);
    let corrupted = buffer.flags().contains(gst::BufferFlags::CORRUPTED);
    let request = {
        let mut tracker = tracker.lock().unwrap();
        if layout.whole_units {
            tracker.push(&map, layout.format, pts, corrupted);
        } else {
            tracker.push_piece(&map, layout.format, pts, corrupted);
        }
        // Here and not behind the decoder, which may give no frame at all before it has seen a key frame.
        let now = buffer.dts_or_pts().map_or(0, gst::ClockTime::nseconds);
        tracker.key_unit_due(now)
    };
    if let Some(count) = request {
        gst::info!(
            CAT,
            obj = pad,
            "Asking for a key frame: the stream is damaged, or was joined between key frames"
        );
        pad.send_event(
            gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .count(count)
                .build(),
        );
    }
}

/// The source pad nearest upstream of `sink_pad` that carries H.264.
fn encoded_pad(sink_pad: &gst::Pad) -> Option<gst::Pad> {
    let mut found = None;
    path::walk(sink_pad, Direction::Upstream, |pad, _| {
        // Before caps have been negotiated the templates on both sides of the link tell: a decoder accepts little else.
        let known = pad.current_caps().or_else(|| {
            let peer = pad.peer()?;
            Some(peer.pad_template_caps().intersect(&pad.pad_template_caps()))
        });
        let encoded = known
            .is_some_and(|caps| !caps.is_empty() && !caps.is_any() && caps.iter().all(|s| s.name() == "video/x-h264"));
        if !encoded {
            return Visit::Continue;
        }
        found = Some(pad.clone());
        Visit::Finish
    });
    found
}

fn parent_name(pad: &gst::Pad) -> glib::GString {
    pad.parent_element().map(|e| e.name()).unwrap_or_default()
}
