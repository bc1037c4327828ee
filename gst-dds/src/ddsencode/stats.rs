// SPDX-License-Identifier: MPL-2.0

//! The `stats` property.

#![forbid(unsafe_code)]

use gst_dds_link::channel::Counts;
use gst_dds_link::guard;

use super::open::Chosen;
use crate::camera::{self, DelayStats, KeyFrameCounts, RefineCounts};

/// Counts of the element itself; the camera logic keeps the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ElementStats {
    /// Packets dropped because more than [`super::feedback::INBOX`] of their way waited for a frame.
    pub inbox_full: u64,
    /// Datagrams on the `feedback` pad that look like RTCP and are not readable.
    pub rtcp_malformed: u64,
    /// RTCP datagrams on the `feedback` pad without a feedback packet.
    pub rtcp_without_feedback: u64,
    /// ROI metas without our structure: somebody else's.
    pub roi_foreign: u64,
    /// ROI metas whose structure lacks an integer `delta-qp`.
    pub roi_malformed: u64,
    /// Key frames that the network asked for.
    pub key_frames: KeyFrameCounts,
    /// Frames not coded because they were late (`qos`).
    pub frames_late: u64,
    /// Frames in the memory of a GPU that were read through system memory.
    pub frames_downloaded: u64,
    /// Encoders opened.
    pub encoders_opened: u64,
    /// Changes of rate the encoder did not take.
    pub reconfigure_failed: u64,
    /// RTP sessions listened on.
    pub rtp_sessions: u64,
    /// Quantizers in force: of whole frames, of regions.
    pub quantizers: (u8, u8),
    /// kbit/s that the controller may use now, 0 = it is off.
    pub bandwidth_kbps: u32,
    /// Reports of receivers, and the share of packets lost in the last one, 0 to 1.
    pub receiver_reports: u64,
    pub receiver_loss: f64,
    /// Of the channel of `feedback-uri`.
    pub channel: Counts,
}

/// Counts of the refinement stream.
#[derive(Clone, Debug, Default)]
pub(super) struct RefineStats {
    /// Requests and what became of them.
    pub counts: RefineCounts,
    /// Frames coded for a request.
    pub frames_coded: u64,
    /// Rectangles in them.
    pub regions: u64,
    /// Bytes of all access units.
    pub bytes: u64,
    /// IDR pictures, the black one at the start included.
    pub idr: u64,
    /// Those that the network asked for.
    pub key_frames: KeyFrameCounts,
    /// Frames and bytes in the ring now.
    pub ring: (u64, u64),
    /// Frames copied into the ring.
    pub ring_copied: u64,
    /// Time from capture to the coded refinement.
    pub delay: DelayStats,
}

/// The structure. `stream` is stream ID, next frame number and next access unit, `chosen` the encoder in use.
pub(super) fn structure(
    element: &ElementStats,
    camera: &camera::Stats,
    refine: &RefineStats,
    stream: Option<(u32, u64, u32)>,
    chosen: Option<&Chosen>,
) -> gst::Structure {
    let mut s = gst::Structure::builder("application/x-ddsencode-stats");
    if let Some(chosen) = chosen {
        s = s
            .field("encoder", chosen.coder.0.name())
            .field("encoders-refused", chosen.refusals());
    }
    for (name, count) in camera.counters() {
        s = s.field(name, count);
    }
    let delay = &camera.delay;
    s = s
        .field("feedback-delay-count", delay.count)
        .field("feedback-delay-last-ns", delay.last_ns)
        .field("feedback-delay-min-ns", delay.min_ns)
        .field("feedback-delay-max-ns", delay.max_ns)
        .field("feedback-delay-mean-ns", delay.mean_ns())
        .field("feedback-delay-p50-ns", delay.quantile_ns(0.5))
        .field("feedback-delay-p95-ns", delay.quantile_ns(0.95))
        .field("feedback-delay-last-frames", delay.last_frames)
        .field("feedback-inbox-full", element.inbox_full)
        .field("rtcp-malformed", element.rtcp_malformed)
        .field("rtcp-without-feedback", element.rtcp_without_feedback)
        .field("roi-foreign", element.roi_foreign)
        .field("roi-malformed", element.roi_malformed)
        .field("key-frames-requested", element.key_frames.requested)
        .field("key-frames-deferred", element.key_frames.deferred)
        .field("key-frames-shared", element.key_frames.shared)
        .field("key-frames-granted", element.key_frames.granted)
        .field("frames-late", element.frames_late)
        .field("frames-downloaded", element.frames_downloaded)
        .field("quantizer-background", u32::from(element.quantizers.0))
        .field("quantizer-region", u32::from(element.quantizers.1))
        .field("bandwidth-available", element.bandwidth_kbps)
        .field("receiver-reports", element.receiver_reports)
        .field("receiver-loss", element.receiver_loss)
        .field("encoders-opened", element.encoders_opened)
        .field("reconfigure-failed", element.reconfigure_failed)
        .field("rtp-sessions", element.rtp_sessions)
        // Of all elements of this plugin in the process.
        .field("panics-caught", guard::caught());
    for (name, count) in element.channel.fields() {
        s = s.field(name, count);
    }
    let (counts, delay) = (&refine.counts, &refine.delay);
    s = s
        .field("refine-requests", counts.requests)
        .field("refine-repeated", counts.repeated)
        .field("refine-frames-coded", refine.frames_coded)
        .field("refine-regions", refine.regions)
        .field("refine-refused-gone", counts.gone)
        .field("refine-refused-late", counts.late)
        .field("refine-refused-busy", counts.busy)
        .field("refine-refused-no-pad", counts.no_pad)
        .field("refine-refused-nothing", counts.nothing)
        .field("refine-refused-failed", counts.failed)
        .field("refine-bytes", refine.bytes)
        .field("refine-idr", refine.idr)
        .field("refine-key-frames-requested", refine.key_frames.requested)
        .field("refine-key-frames-deferred", refine.key_frames.deferred)
        .field("refine-delay-count", delay.count)
        .field("refine-delay-last-ns", delay.last_ns)
        .field("refine-delay-min-ns", delay.min_ns)
        .field("refine-delay-max-ns", delay.max_ns)
        .field("refine-delay-mean-ns", delay.mean_ns())
        .field("refine-delay-p50-ns", delay.quantile_ns(0.5))
        .field("refine-delay-p95-ns", delay.quantile_ns(0.95))
        .field("refine-delay-last-frames", delay.last_frames)
        .field("ring-frames", refine.ring.0)
        .field("ring-bytes", refine.ring.1)
        .field("ring-copied", refine.ring_copied);
    if let Some((stream_id, frame, access_unit)) = stream {
        s = s
            .field("stream-id", stream_id)
            .field("next-frame", frame)
            .field("next-access-unit", access_unit);
    }
    s.build()
}
