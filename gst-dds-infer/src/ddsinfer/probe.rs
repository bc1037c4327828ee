// SPDX-License-Identifier: MPL-2.0

//! Reads frame identities from the encoded stream, on the decoder's own sink pad: decoders neither pass on all SEI messages
//! nor report damage.
//!
//! A `decodebin` is linked to the element only when its decoder has put out a frame, and by then the first access units are
//! gone, the key frame among them. So the input of every decoder that appears in the pipeline is read from its first access
//! unit on, and once the element finds one of them on its data path it takes over what was read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dds_protocol::nal::{Codec, Format};
use gst::prelude::*;
use gst_dds_link::guard::Guard;
use gst_dds_link::path::{self, Direction, Visit};
use gst_dds_link::sync::Mutex;
use gst_dds_link::text;

use crate::identity::IdentityTracker;
use crate::order;

use super::CAT;
use super::transport::Transport;

/// Layout of access units in the buffers of a pad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    codec: Codec,
    format: Format,
    whole_units: bool,
}

impl Layout {
    /// `None` for caps that are neither H.264 nor H.265, or lack the format.
    fn of(caps: &gst::CapsRef) -> Option<Self> {
        let s = caps.structure(0)?;
        let codec = codec_of(s)?;
        let format = match text::field(s, "stream-format")? {
            "byte-stream" => Format::ByteStream,
            // The low bits of a byte of the record hold the length size less one (ISO/IEC 14496-15, 5.3.3.1.2, 8.3.3.1.2).
            _ => {
                let record = s.get::<gst::Buffer>("codec_data").ok()?;
                let at = match codec {
                    Codec::H264 => 4,
                    Codec::H265 => 21,
                };
                // A file or a description may hold a record of any length.
                let record = record.map_readable().ok()?;
                Format::LengthPrefixed((record.get(at)? & 3) + 1)
            }
        };
        let whole_units = text::field(s, "alignment") == Some("au") || format != Format::ByteStream;
        Some(Self {
            codec,
            format,
            whole_units,
        })
    }
}

fn codec_of(caps: &gst::StructureRef) -> Option<Codec> {
    match caps.name().as_str() {
        "video/x-h264" => Some(Codec::H264),
        "video/x-h265" => Some(Codec::H265),
        _ => None,
    }
}

/// Passes the parameter sets in caps to the tracker.
fn take_parameter_sets(tracker: &Mutex<IdentityTracker>, caps: &gst::CapsRef) {
    let Some(s) = caps.structure(0) else { return };
    let Some((codec, record)) = codec_of(s).zip(s.get::<gst::Buffer>("codec_data").ok()) else {
        return;
    };
    if let Ok(record) = record.map_readable() {
        let mut tracker = tracker.lock().unwrap();
        for set in order::parameter_sets(codec, &record) {
            tracker.parameter_set(codec, set);
        }
    };
}

/// Access units that are read before a link that may never be made: far more than decoders hold back.
const READ_AHEAD: u32 = 64;

/// A probe on the encoded pad, removed when it is dropped.
#[derive(Debug)]
pub struct IdentityProbe {
    pad: gst::Pad,
    id: Option<gst::PadProbeId>,
    tracker: Arc<Mutex<IdentityTracker>>,
    /// Access units that may still be read.
    budget: Arc<AtomicU32>,
}

impl Drop for IdentityProbe {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.pad.remove_probe(id);
        }
    }
}

impl IdentityProbe {
    /// Whether the probe is still on the data path of `sink_pad`.
    pub fn is_current(&self, sink_pad: &gst::Pad) -> bool {
        encoded_pad(sink_pad).as_ref() == Some(&self.pad)
    }

    /// Looks for the encoded pad upstream of `sink_pad` and installs a probe there, or takes over that of `early`. `None`
    /// where no H.264 or H.265 stream is upstream (yet).
    pub fn install(sink_pad: &gst::Pad, early: Option<&EarlyProbes>) -> Option<Self> {
        let pad = encoded_pad(sink_pad)?;
        gst::info!(
            CAT,
            obj = sink_pad,
            "Reading frame identities on {}:{}",
            parent_name(&pad),
            pad.name()
        );
        let probe = early.and_then(|e| e.take(&pad)).unwrap_or_else(|| Self::on(&pad));
        probe.budget.store(u32::MAX, Ordering::Relaxed);
        Some(probe)
    }

    /// The tracker that the probe feeds.
    pub fn tracker(&self) -> &Arc<Mutex<IdentityTracker>> {
        &self.tracker
    }

    /// Installs a probe on `pad` that reads [`READ_AHEAD`] access units.
    fn on(pad: &gst::Pad) -> Self {
        let tracker = Arc::new(Mutex::new(IdentityTracker::new()));
        let budget = Arc::new(AtomicU32::new(READ_AHEAD));
        let layout = Mutex::new(pad.current_caps().and_then(|c| Layout::of(&c)));
        let transport = Mutex::new(Transport::new(pad));
        if let Some(caps) = pad.current_caps() {
            take_parameter_sets(&tracker, &caps);
        }
        let (target, left) = (tracker.clone(), budget.clone());
        let guard = Guard::of("the probe on the encoded stream", pad.parent_element().as_ref());
        let id = pad.add_probe(
            gst::PadProbeType::BUFFER
                | gst::PadProbeType::BUFFER_LIST
                | gst::PadProbeType::EVENT_DOWNSTREAM
                | gst::PadProbeType::EVENT_FLUSH,
            move |pad, info| {
                guard.run((), || match &info.data {
                    Some(gst::PadProbeData::Buffer(buffer)) => push(pad, &target, &left, &layout, &transport, buffer),
                    Some(gst::PadProbeData::BufferList(list)) => {
                        list.iter_owned()
                            .for_each(|buffer| push(pad, &target, &left, &layout, &transport, &buffer));
                    }
                    Some(gst::PadProbeData::Event(event)) => match event.view() {
                        gst::EventView::Caps(caps) => {
                            *layout.lock().unwrap() = Layout::of(caps.caps());
                            take_parameter_sets(&target, caps.caps());
                        }
                        gst::EventView::StreamStart(_) | gst::EventView::Segment(_) => {
                            transport.lock().unwrap().begin(pad);
                        }
                        gst::EventView::Gap(_) => target.lock().unwrap().discontinuity(),
                        gst::EventView::FlushStop(_) => {
                            target.lock().unwrap().flush();
                            transport.lock().unwrap().flush();
                        }
                        _ => (),
                    },
                    _ => (),
                });
                gst::PadProbeReturn::Ok
            },
        );
        Self {
            pad: pad.clone(),
            id,
            tracker,
            budget,
        }
    }
}

/// Frames between two searches for the encoded stream, or for changes of it.
const RETRY: u64 = 30;

/// The probe that belongs to one pad, kept up to date while the pipeline upstream of it changes.
#[derive(Debug, Default)]
pub struct KeptProbe {
    probe: Option<IdentityProbe>,
    /// Frames since the last search.
    frames: u64,
}

impl KeptProbe {
    /// Installs the probe on the encoded stream upstream of `pad`, again where that was rebuilt: `now`, or every
    /// [`RETRY`]th call. Cheap while nothing changes. Returns the tracker of a new probe.
    pub fn look(
        &mut self,
        pad: &gst::Pad,
        early: Option<&EarlyProbes>,
        now: bool,
    ) -> Option<Arc<Mutex<IdentityTracker>>> {
        if !now && self.frames < RETRY {
            self.frames += 1;
            return None;
        }
        self.frames = 0;
        if self.probe.as_ref().is_some_and(|p| p.is_current(pad)) {
            return None;
        }
        let found = IdentityProbe::install(pad, early)?;
        let tracker = found.tracker().clone();
        self.probe = Some(found);
        Some(tracker)
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.probe.is_some()
    }

    /// Name of the decoder that the encoded stream goes into.
    pub fn decoder(&self) -> Option<glib::GString> {
        self.probe.as_ref().map(|p| parent_name(&p.pad))
    }
}

/// Probes on decoders that appear in a pipeline before the element is linked to them.
#[derive(Debug)]
pub struct EarlyProbes {
    bin: gst::Bin,
    handler: Option<glib::SignalHandlerId>,
    probes: Arc<Mutex<Vec<IdentityProbe>>>,
}

impl Drop for EarlyProbes {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.bin.disconnect(handler);
        }
    }
}

impl EarlyProbes {
    /// Watches the whole pipeline that `element` is in. `None` for an element outside any bin.
    pub fn new(element: &gst::Element) -> Option<Self> {
        let mut top: gst::Object = element.parent()?;
        while let Some(parent) = top.parent() {
            top = parent;
        }
        let bin = top.downcast::<gst::Bin>().ok()?;
        let probes = Arc::new(Mutex::new(Vec::new()));
        let added = probes.clone();
        let guard = Guard::of("deep-element-added", Some(element));
        let handler = bin.connect_deep_element_added(move |_, _, element| {
            guard.run((), || {
                let Some(pad) = decoder_pad(element) else { return };
                let probe = IdentityProbe::on(&pad);
                let mut probes = added.lock().unwrap();
                // Forget decoders of a branch that was removed.
                probes.retain(|p: &IdentityProbe| p.pad.parent_element().is_some());
                probes.push(probe);
            });
        });
        Some(Self {
            bin,
            handler: Some(handler),
            probes,
        })
    }

    /// Takes the probe on `pad`, if there is one. The others stay: one of them may be that of the second pass, and those on
    /// decoders of other elements stop after their budget.
    fn take(&self, pad: &gst::Pad) -> Option<IdentityProbe> {
        let mut probes = self.probes.lock().unwrap();
        let index = probes.iter().position(|p| p.pad == *pad)?;
        Some(probes.swap_remove(index))
    }
}

/// The sink pad of a decoder of H.264 or H.265.
fn decoder_pad(element: &gst::Element) -> Option<gst::Pad> {
    let klass = element.metadata(gst::ELEMENT_METADATA_KLASS)?;
    if !(klass.contains("Decoder") && klass.contains("Video")) {
        return None;
    }
    let pad = element.static_pad("sink")?;
    is_encoded(&pad.pad_template_caps()).then_some(pad)
}

fn is_encoded(caps: &gst::CapsRef) -> bool {
    !caps.is_empty() && !caps.is_any() && caps.iter().all(|s| codec_of(s).is_some())
}

fn push(
    pad: &gst::Pad,
    tracker: &Mutex<IdentityTracker>,
    budget: &AtomicU32,
    layout: &Mutex<Option<Layout>>,
    transport: &Mutex<Transport>,
    buffer: &gst::BufferRef,
) {
    let left = budget.load(Ordering::Relaxed);
    if left == 0 {
        return;
    }
    // A probe on the element's data path has no limit.
    if left != u32::MAX {
        let _ = budget.compare_exchange(left, left - 1, Ordering::Relaxed, Ordering::Relaxed);
    }
    let Some(layout) = *layout.lock().unwrap() else { return };
    let Ok(map) = buffer.map_readable() else { return };
    // AVI files and raw streams have only decoding times. For pictures in coding order, as our cameras send them, the decoder
    // uses those as presentation times.
    let pts = buffer.pts().or(buffer.dts()).map(gst::ClockTime::nseconds);
    let corrupted = buffer.flags().contains(gst::BufferFlags::CORRUPTED);
    let delivery = transport.lock().unwrap().buffer(pad, buffer);
    let request = {
        let mut tracker = tracker.lock().unwrap();
        tracker.vouch(delivery.whole);
        if delivery.hole {
            tracker.discontinuity();
        }
        if layout.whole_units {
            tracker.push(&map, layout.codec, layout.format, pts, corrupted);
        } else {
            tracker.push_piece(&map, layout.codec, layout.format, pts, corrupted);
        }
        // Here and not behind the decoder, which may put out no frame at all before a key frame.
        let now = buffer.dts_or_pts().map_or(0, gst::ClockTime::nseconds);
        // No request for a decoder that may belong to another element.
        (left == u32::MAX).then(|| tracker.key_unit_due(now)).flatten()
    };
    if let Some(count) = request {
        gst::info!(
            CAT,
            obj = pad,
            "Asking for a key frame: the stream is damaged, or was joined between key frames"
        );
        pad.push_event(
            gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .count(count)
                .build(),
        );
    }
}

/// Finds the nearest pad upstream of `sink_pad` that receives an encoded stream: the decoder's.
fn encoded_pad(sink_pad: &gst::Pad) -> Option<gst::Pad> {
    let mut found = None;
    path::walk(sink_pad, Direction::Upstream, |pad, _| {
        // Before caps are negotiated the templates on both sides of the link decide: a decoder accepts little else.
        let known = pad.current_caps().or_else(|| {
            let peer = pad.peer()?;
            Some(peer.pad_template_caps().intersect(&pad.pad_template_caps()))
        });
        let encoded = known.is_some_and(|caps| is_encoded(&caps));
        if !encoded {
            return Visit::Continue;
        }
        found = pad.peer();
        Visit::Finish
    });
    found
}

fn parent_name(pad: &gst::Pad) -> glib::GString {
    pad.parent_element().map(|e| e.name()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_say_how_access_units_lie_or_nothing_whatever_they_hold() {
        gst::init().unwrap();
        let of = |caps: &str| Layout::of(&caps.parse::<gst::Caps>().unwrap()).map(|l| (l.format, l.whole_units));
        let record = |caps: &str, record: &str| of(&format!("{caps},codec_data=(buffer){record}"));
        let (two, four) = (Format::LengthPrefixed(2), Format::LengthPrefixed(4));
        let avc = "video/x-h264,stream-format=avc,alignment=au";
        assert_eq!(record(avc, "01640028fd"), Some((two, true)));
        let hvc = "video/x-h265,stream-format=hvc1,alignment=au";
        assert_eq!(record(hvc, &"ff".repeat(22)), Some((four, true)));
        // Records of a file or an SDP may be too short for the byte that is read.
        for length in 1..=4 {
            assert_eq!(record(avc, &"01".repeat(length)), None);
        }
        assert_eq!(record(hvc, &"01".repeat(21)), None);
        let pieces = of("video/x-h264,stream-format=byte-stream");
        assert_eq!(pieces, Some((Format::ByteStream, false)));
        for caps in [
            "ANY",
            "EMPTY",
            "video/x-raw",
            "video/x-h264",
            "video/x-h264,stream-format=avc",
            "video/x-h264,stream-format=avc,codec_data=(int)7",
            "video/x-h264,stream-format=(int)3,alignment=(int)4",
            "video/x-h264,stream-format={avc,byte-stream}",
        ] {
            assert_eq!(of(caps), None, "{caps}");
        }
    }
}
