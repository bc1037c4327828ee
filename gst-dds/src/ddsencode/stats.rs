// SPDX-License-Identifier: MPL-2.0

//! The `stats` property.

#![forbid(unsafe_code)]

use gst_dds_link::channel::Counts;
use gst_dds_link::guard;

use super::open::Chosen;
use crate::camera::jobs::RefineStats;
use crate::camera::{self, CameraSettings, FeedbackStats, KeyFrameCounts, RegionStats, StreamPlanner};

type Builder = gst::structure::Builder;

/// Counts of the element itself; the camera core keeps the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ElementStats {
    /// ROI metas without our structure: meant for another element.
    pub roi_foreign: u64,
    /// ROI metas whose structure lacks an integer `delta-qp`.
    pub roi_malformed: u64,
    /// Key frames that the network requested.
    pub key_frames: KeyFrameCounts,
    /// Frames in the memory of a GPU that were read through system memory.
    pub frames_downloaded: u64,
    /// Encoders opened.
    pub encoders_opened: u64,
    /// Changes of rate that the encoder refused.
    pub reconfigure_failed: u64,
    /// RTP sessions listened on.
    pub rtp_sessions: u64,
    /// Share of packets lost in the last report of a receiver, 0 to 1.
    pub receiver_loss: f64,
    /// Counts of the channel of `feedback-uri`.
    pub channel: Counts,
}

/// The counts of all parts of the element.
pub(super) struct Parts<'a> {
    pub element: &'a ElementStats,
    pub planner: Option<&'a StreamPlanner>,
    pub feedback: &'a FeedbackStats,
    pub refine: &'a RefineStats,
    /// Counts of requested regions, in two passes.
    pub asked: Option<&'a RegionStats>,
    /// Stream ID, next frame number and next access unit.
    pub stream: Option<(u32, u64, u32)>,
    /// The encoder in use.
    pub chosen: Option<&'a Chosen>,
}

/// The structure.
pub(super) fn structure(parts: &Parts<'_>) -> gst::Structure {
    let s = gst::Structure::builder("application/x-ddsencode-stats");
    let s = of_frames(s, parts);
    let s = of_element(s, parts.element);
    let mut s = of_refinements(s, parts.refine);
    if let Some((stream_id, frame, access_unit)) = parts.stream {
        s = s
            .field("stream-id", stream_id)
            .field("next-frame", frame)
            .field("next-access-unit", access_unit);
    }
    s.build()
}

fn of_frames(mut s: Builder, parts: &Parts<'_>) -> Builder {
    if let Some(chosen) = parts.chosen {
        s = s
            .field("encoder", chosen.coder.0.name())
            .field("encoders-refused", chosen.refusals());
    }
    let (none, no_regions) = (camera::Stats::default(), RegionStats::default());
    let camera = parts.planner.map_or(&none, StreamPlanner::stats);
    let of_one_pass = parts.planner.map_or(&no_regions, StreamPlanner::region_stats);
    let regions = parts.asked.unwrap_or(of_one_pass);
    for (name, count) in camera
        .counters()
        .chain(regions.counters())
        .chain(parts.feedback.counters())
    {
        s = s.field(name, count);
    }
    let quantizer = |of: fn(&CameraSettings) -> u8| parts.planner.map_or(0, |p| u32::from(of(p.in_force())));
    let available = parts.planner.map_or(0, StreamPlanner::available_kbps);
    let delay = &camera.delay;
    s.field("feedback-delay-count", delay.count)
        .field("feedback-delay-last-ns", delay.last_ns)
        .field("feedback-delay-min-ns", delay.min_ns)
        .field("feedback-delay-max-ns", delay.max_ns)
        .field("feedback-delay-mean-ns", delay.mean_ns())
        .field("feedback-delay-p50-ns", delay.quantile_ns(0.5))
        .field("feedback-delay-p95-ns", delay.quantile_ns(0.95))
        .field("feedback-delay-last-frames", delay.last_frames)
        .field("quantizer-background", quantizer(|settings| settings.background_qp))
        .field("quantizer-region", quantizer(|settings| settings.region_qp))
        .field("bandwidth-available", available)
        .field(
            "sent-interval",
            parts.planner.map_or(0, |planner| u32::from(planner.sent_interval())),
        )
}

fn of_element(mut s: Builder, element: &ElementStats) -> Builder {
    s = s
        .field("roi-foreign", element.roi_foreign)
        .field("roi-malformed", element.roi_malformed)
        .field("key-frames-requested", element.key_frames.requested)
        .field("key-frames-deferred", element.key_frames.deferred)
        .field("key-frames-shared", element.key_frames.shared)
        .field("key-frames-granted", element.key_frames.granted)
        .field("frames-downloaded", element.frames_downloaded)
        .field("receiver-loss", element.receiver_loss)
        .field("encoders-opened", element.encoders_opened)
        .field("reconfigure-failed", element.reconfigure_failed)
        .field("rtp-sessions", element.rtp_sessions)
        // Counted over all elements of this plugin in the process.
        .field("panics-caught", guard::caught());
    for (name, count) in element.channel.fields() {
        s = s.field(name, count);
    }
    s
}

fn of_refinements(s: Builder, refine: &RefineStats) -> Builder {
    let (counts, delay) = (&refine.counts, &refine.delay);
    s.field("refine-requests", counts.requests)
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
        .field("ring-copied", refine.ring_copied)
}
