// SPDX-License-Identifier: MPL-2.0

//! Counts of everything that may otherwise go unnoticed.

use dds_protocol::wish::Wishes;

use super::receiver::Way;
use super::types::WishBounds;

/// Delays kept for percentiles.
const RECENT: usize = 512;

/// Time from coding a frame to applying its feedback, on the camera's own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayStats {
    /// Delays measured.
    pub count: u64,
    /// The last one in nanoseconds.
    pub last_ns: u64,
    /// The shortest in nanoseconds; 0 before the first.
    pub min_ns: u64,
    /// The longest in nanoseconds.
    pub max_ns: u64,
    /// Sum of all in nanoseconds.
    pub sum_ns: u64,
    /// The last one in frames: number of the frame it was applied to, minus that of the frame it derives from.
    pub last_frames: u64,
    recent: Box<[u64]>,
}

impl Default for DelayStats {
    fn default() -> Self {
        Self {
            count: 0,
            last_ns: 0,
            min_ns: 0,
            max_ns: 0,
            sum_ns: 0,
            last_frames: 0,
            recent: vec![0; RECENT].into_boxed_slice(),
        }
    }
}

impl DelayStats {
    /// Notes one delay.
    pub(crate) fn record(&mut self, delay_ns: u64, frames: u64) {
        self.recent[(self.count % RECENT as u64) as usize] = delay_ns;
        self.min_ns = if self.count == 0 {
            delay_ns
        } else {
            self.min_ns.min(delay_ns)
        };
        self.max_ns = self.max_ns.max(delay_ns);
        self.sum_ns = self.sum_ns.saturating_add(delay_ns);
        self.last_ns = delay_ns;
        self.last_frames = frames;
        self.count += 1;
    }

    /// Mean in nanoseconds; 0 before the first.
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }

    /// The `fraction` quantile (0.0..=1.0, nearest rank) of the last 512 delays, in nanoseconds; 0 before the first.
    pub fn quantile_ns(&self, fraction: f64) -> u64 {
        let kept = self.count.min(RECENT as u64) as usize;
        if kept == 0 {
            return 0;
        }
        let mut sorted = self.recent[..kept].to_vec();
        sorted.sort_unstable();
        let rank = (fraction.clamp(0.0, 1.0) * kept as f64).ceil() as usize;
        sorted[rank.clamp(1, kept) - 1]
    }
}

macro_rules! counters {
    ($(#[$struct_doc:meta])* $struct:ident { $($(#[$doc:meta])* $name:ident = $key:literal,)* } $($rest:tt)*) => {
        $(#[$struct_doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Default)]
        pub struct $struct {
            $($(#[$doc])* pub $name: u64,)*
            $($rest)*
        }

        impl $struct {
        /// Every count with its kebab-case name, for a `GstStructure`.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($key, self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Counts of frames since the camera was made. None ever falls.
    Stats {
        /// Frames planned.
        frames = "frames",
        /// Of those, first frames of a stream.
        frames_first = "frames-first",
        /// Of those, in fallback.
        frames_fallback = "frames-fallback",
        /// Of those, steered by feedback.
        frames_steered = "frames-steered",
        /// Of those, with steering switched off.
        frames_unsteered = "frames-unsteered",
        /// Of those, with at least one macroblock off the base quantizer.
        frames_with_regions = "frames-with-regions",
        /// Frames not coded because they were late (`qos`).
        frames_late = "frames-late",
        /// Captured pictures that were not coded because servers want fewer, or only as repetitions.
        frames_skipped = "frames-skipped",
        /// Frames coded though none was due, because the picture changed outside what servers know of.
        frames_woken = "frames-woken",
        /// Repetitions coded in the place of skipped pictures.
        frames_repeated = "frames-repeated",
        /// Bytes of those.
        bytes_repeated = "bytes-repeated",
        /// Frames coded as IDR pictures.
        frames_idr = "frames-idr",
        /// Frames coded.
        frames_coded = "frames-coded",
        /// Bytes coded.
        bytes = "bytes",
        /// Most bytes within any one second.
        peak_second_bytes = "peak-second-bytes",
        /// Most bytes that regions of feedback have added within any one second, where that is bounded: estimated.
        feedback_peak_second_bytes = "feedback-peak-second-bytes",
        /// Reports of receivers.
        receiver_reports = "receiver-reports",
        /// Generations applied whose frame is too long ago to measure the delay.
        delay_unknown = "feedback-delay-unknown",
        /// Input regions (metas) requested.
        roi_requested = "roi-requested",
        /// Input regions refused because steering is switched off.
        roi_refused = "roi-refused",
        /// Input regions used.
        roi_applied = "roi-applied",
        /// Input regions that extended beyond the edge.
        roi_clipped = "roi-clipped",
        /// Input regions outside the picture or empty.
        roi_outside = "roi-outside",
        /// Input regions left out because the area was used up.
        roi_over_area = "roi-over-area",
        /// Frames whose regions of feedback were made coarser, or given up, because of what feedback may add.
        feedback_trimmed_frames = "feedback-trimmed-frames",
        /// Frames whose regions were made coarser to keep the rate cap.
        cap_trimmed_frames = "cap-trimmed-frames",
        /// Frames whose regions were given up altogether to keep the rate cap.
        cap_flattened_frames = "cap-flattened-frames",
        /// Frames whose base quantizer was raised to keep the rate cap.
        cap_raised_frames = "cap-raised-frames",
        /// Seconds-long windows found over the cap, counted per frame.
        cap_exceeded_frames = "cap-exceeded-frames",
    }
    /// Feedback delay, which [`Self::counters`] leaves out.
    pub delay: DelayStats,
}

counters! {
    /// Fates of regions of feedback in one pass, or of requests in two.
    RegionStats {
        /// Regions taken into use, each once.
        regions_applied = "regions-applied",
        /// Regions whose time to live ended, or whose only frame had passed.
        regions_expired = "regions-expired",
        /// Regions that extended beyond the edge of the picture, each once.
        regions_clipped = "regions-clipped",
        /// Regions that lay or moved outside the picture altogether, each once.
        regions_outside = "regions-outside",
        /// Regions left out because the area was used up, per frame.
        regions_over_area = "regions-over-area",
    }
}

counters! {
    /// Counts of feedback packets, of the generations in them, and of silence.
    FeedbackStats {
        /// Feedback packets that came in, by any way.
        packets = "feedback-packets",
        /// Of those, through the `feedback` pad.
        packets_pad = "feedback-packets-pad",
        /// Of those, through RTCP, encrypted or not.
        packets_rtcp = "feedback-packets-rtcp",
        /// Of those, through an upstream event.
        packets_event = "feedback-packets-event",
        /// Of those, through the channel of `feedback-uri`.
        packets_uri = "feedback-packets-uri",
        /// Packets that completed a generation.
        packets_complete = "feedback-complete",
        /// Packets kept as parts of an incomplete generation.
        packets_partial = "feedback-partial",
        /// Packets of a generation that is not newer.
        packets_stale = "feedback-stale",
        /// Packets received before, by the same way or by another.
        packets_duplicate = "feedback-duplicate",
        /// Packets for another stream.
        packets_foreign = "feedback-foreign",
        /// Unreadable packets.
        packets_malformed = "feedback-malformed",
        /// Of those, packets of an unknown version.
        packets_unknown_version = "feedback-unknown-version",
        /// Packets not read because too many came.
        packets_rate_limited = "feedback-rate-limited",
        /// Packets not read because their way is not among `feedback-ways`.
        packets_way_closed = "feedback-way-closed",
        /// Packets refused because steering is switched off.
        packets_refused = "feedback-refused",
        /// Packets with a later extension, which was skipped.
        packets_extended = "feedback-extended",
        /// Generations given up because a newer one began before all parts were there.
        generations_incomplete = "generations-incomplete",
        /// Complete generations refused because they derive from a frame that is not coded yet.
        generations_future = "generations-future",
        /// Complete generations replaced by a newer one before a frame could use them.
        generations_superseded = "generations-superseded",
        /// Complete generations that waited so long for a frame that they had timed out.
        generations_outdated = "generations-outdated",
        /// Generations applied.
        generations_applied = "generations-applied",
        /// Number of the generation applied last; an identifier, not a count.
        generation_last = "generation-last",
        /// Of those, empty ones: everything at background quality.
        generations_empty = "generations-empty",
        /// Times a server fell silent.
        feedback_lost = "feedback-lost",
        /// Times feedback recovered.
        feedback_recovered = "feedback-recovered",
        /// Times a new generation numbering was accepted after silence, for a restarted server.
        resyncs = "feedback-resyncs",
        /// Regions in complete generations.
        regions_requested = "regions-requested",
        /// Complete generations that carry wishes about the whole stream.
        wishes = "wishes",
        /// Wishes of an interval refused, because nothing may be wished here.
        wishes_refused_interval = "wishes-refused-interval",
        /// Wishes of a quantizer refused, because something else chooses quantizers.
        wishes_refused_quantizer = "wishes-refused-quantizer",
        /// Wishes of a ceiling refused, because another rate control is set.
        wishes_refused_ceiling = "wishes-refused-ceiling",
        /// Packets dropped because too many of their way waited for a frame.
        waiting_dropped = "feedback-inbox-full",
        /// Datagrams on the `feedback` pad that look like RTCP and are not readable.
        rtcp_malformed = "rtcp-malformed",
        /// RTCP datagrams on the `feedback` pad without a feedback packet.
        rtcp_without_feedback = "rtcp-without-feedback",
    }
}

impl FeedbackStats {
    /// Counts the wishes of a complete generation.
    pub(super) fn wished(&mut self, wishes: &Wishes, bounds: &WishBounds) {
        let refused = |wished: bool, may: bool| u64::from(wished && !may);
        self.wishes += u64::from(!wishes.is_empty());
        self.wishes_refused_interval += refused(wishes.interval.is_some(), bounds.interval);
        let quantizers = wishes.background_qp.or(wishes.region_qp).is_some();
        self.wishes_refused_quantizer += refused(quantizers, bounds.quantizers);
        self.wishes_refused_ceiling += refused(wishes.ceiling_kbps.is_some(), bounds.ceiling);
    }

    /// Counts an incoming packet.
    pub(super) fn arrived(&mut self, way: Way) {
        self.packets += 1;
        *match way {
            Way::Pad => &mut self.packets_pad,
            Way::Rtcp | Way::Srtcp => &mut self.packets_rtcp,
            Way::Event => &mut self.packets_event,
            Way::Uri => &mut self.packets_uri,
        } += 1;
    }
}
