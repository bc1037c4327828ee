// SPDX-License-Identifier: MPL-2.0

//! Whether an encoded stream arrived whole, as far as its transport shows: by the sequence numbers of RTP where it came by
//! RTP, else by the flags of its buffers, and then only where the source is not live. A live source without RTP may lose data
//! without a sign.

use std::sync::Arc;

use gst::prelude::*;
use gst_dds_link::guard::Guard;
use gst_dds_link::path::{self, Direction, Visit};
use gst_dds_link::sync::Mutex;

use crate::continuity::RtpContinuity;

use super::CAT;

/// State of the transport in front of one encoded pad.
#[derive(Debug, Default)]
pub(super) struct Transport {
    rtp: Option<RtpProbe>,
    /// No buffer has arrived since the stream, its segment or a flush began.
    begins: bool,
    live: bool,
}

/// Completeness of the stream around one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Nothing is missing.
    pub whole: bool,
    /// Something may be missing near the buffer.
    pub hole: bool,
}

impl Transport {
    /// Looks for RTP upstream of `pad`, where it may be linked already.
    pub fn new(pad: &gst::Pad) -> Self {
        Self {
            rtp: RtpProbe::install(pad),
            begins: true,
            live: true,
        }
    }

    /// Begins a stream or its segment on `pad`: the elements upstream are linked by now.
    pub fn begin(&mut self, pad: &gst::Pad) {
        self.begins = true;
        if !self.rtp.as_ref().is_some_and(|rtp| rtp.is_current(pad)) {
            self.rtp = RtpProbe::install(pad);
        }
    }

    /// Begins anew: later buffers do not continue earlier ones.
    pub fn flush(&mut self) {
        self.begins = true;
        if let Some(rtp) = &self.rtp {
            rtp.continuity.lock().unwrap().flush();
        }
    }

    /// Takes one buffer on `pad`.
    pub fn buffer(&mut self, pad: &gst::Pad, buffer: &gst::BufferRef) -> Delivery {
        let begins = std::mem::take(&mut self.begins);
        if begins {
            let mut query = gst::query::Latency::new();
            // A source that does not answer may not wait for us.
            self.live = !pad.peer_query(&mut query) || query.result().0;
        }
        let discont = buffer.flags().contains(gst::BufferFlags::DISCONT);
        let whole = match &self.rtp {
            Some(rtp) => {
                let pts = buffer.pts().map(gst::ClockTime::nseconds);
                rtp.continuity.lock().unwrap().vouches(pts)
            }
            None => !self.live,
        };
        Delivery {
            whole,
            // The first buffer of a file follows nothing.
            hole: discont && (self.live || !begins),
        }
    }
}

/// A probe on the RTP packets of the stream, removed when it is dropped.
#[derive(Debug)]
struct RtpProbe {
    pad: gst::Pad,
    id: Option<gst::PadProbeId>,
    continuity: Arc<Mutex<RtpContinuity>>,
}

impl Drop for RtpProbe {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.pad.remove_probe(id);
        }
    }
}

impl RtpProbe {
    /// Whether the probe is still on the packets of the stream on `encoded`.
    fn is_current(&self, encoded: &gst::Pad) -> bool {
        rtp_pad(encoded).as_ref() == Some(&self.pad)
    }

    fn install(encoded: &gst::Pad) -> Option<Self> {
        let pad = rtp_pad(encoded)?;
        gst::info!(CAT, obj = encoded, "Watching RTP sequence numbers on {pad:?}");
        let mut continuity = RtpContinuity::default();
        if let Some(caps) = pad.current_caps() {
            take_caps(&mut continuity, &caps);
        }
        let continuity = Arc::new(Mutex::new(continuity));
        let target = continuity.clone();
        let guard = Guard::of("the probe on RTP packets", pad.parent_element().as_ref());
        let id = pad.add_probe(
            gst::PadProbeType::BUFFER
                | gst::PadProbeType::BUFFER_LIST
                | gst::PadProbeType::EVENT_DOWNSTREAM
                | gst::PadProbeType::EVENT_FLUSH,
            move |_, info| {
                guard.run((), || {
                    let mut continuity = target.lock().unwrap();
                    match &info.data {
                        Some(gst::PadProbeData::Buffer(buffer)) => take_packet(&mut continuity, buffer),
                        Some(gst::PadProbeData::BufferList(list)) => {
                            list.iter().for_each(|buffer| take_packet(&mut continuity, buffer));
                        }
                        Some(gst::PadProbeData::Event(event)) => match event.view() {
                            gst::EventView::Caps(caps) => take_caps(&mut continuity, caps.caps()),
                            gst::EventView::FlushStop(_) => continuity.flush(),
                            _ => (),
                        },
                        _ => (),
                    }
                });
                gst::PadProbeReturn::Ok
            },
        );
        Some(Self { pad, id, continuity })
    }
}

fn take_packet(continuity: &mut RtpContinuity, buffer: &gst::BufferRef) {
    // The fixed header, in whichever memory it lies.
    let mut header = [0; 12];
    if buffer.copy_to_slice(0, &mut header).is_ok() {
        continuity.packet(&header, buffer.pts().map(gst::ClockTime::nseconds));
    }
}

fn take_caps(continuity: &mut RtpContinuity, caps: &gst::CapsRef) {
    let Some(s) = caps.structure(0) else { return };
    // From RTSP's RTP-Info, or from a payloader in this process.
    let base = s.get::<u32>("seqnum-base").or_else(|_| s.get::<u32>("seqnum-offset"));
    let base = base.ok().and_then(|n| u16::try_from(n).ok());
    let timed = matches!(s.get::<&str>("encoding-name"), Ok("H264" | "H265"));
    continuity.set_caps(base, timed);
}

/// Finds the nearest pad upstream of `encoded` that receives RTP packets: the depayloader's.
fn rtp_pad(encoded: &gst::Pad) -> Option<gst::Pad> {
    let is_rtp = |caps: &gst::CapsRef| {
        !caps.is_empty() && !caps.is_any() && caps.iter().all(|s| s.name() == "application/x-rtp")
    };
    let mut found = None;
    path::walk(encoded, Direction::Upstream, |pad, _| {
        let Some(peer) = pad.peer() else { return Visit::Continue };
        let caps = pad
            .current_caps()
            .unwrap_or_else(|| peer.pad_template_caps().intersect(&pad.pad_template_caps()));
        // Upstream of decoded pictures is the path of another stream.
        if caps.iter().any(|s| s.name() == "video/x-raw") && !caps.is_any() {
            return Visit::Stop;
        }
        if !is_rtp(&caps) {
            return Visit::Continue;
        }
        found = Some(peer);
        Visit::Finish
    });
    found
}
