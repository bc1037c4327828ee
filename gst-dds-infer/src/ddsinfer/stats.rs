// SPDX-License-Identifier: MPL-2.0

//! The `stats` property.

use crate::identity::TrackerStats;

/// Counts of one run, from READY to PAUSED on.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Frames that came in.
    pub frames: u64,
    /// Frames that were inferred.
    pub inferred: u64,
    /// Frames not inferred because the model was still busy (live only).
    pub skipped: u64,
    /// Frames not inferred because of `inference-interval`.
    pub not_due: u64,
    /// Frames whose inference failed.
    pub failed: u64,
    /// Frames that could not be mapped or converted.
    pub unreadable: u64,
    /// Inferred frames marked as damaged.
    pub damaged: u64,
    /// Inferred frames without a frame identity.
    pub unidentified: u64,
    /// Objects in results.
    pub objects: u64,
    /// Time in the model, nanoseconds: last, largest and sum.
    pub inference_last_ns: u64,
    pub inference_max_ns: u64,
    pub inference_sum_ns: u64,
    /// Result lines that went out, and that were dropped because nobody took them.
    pub result_lines: u64,
    pub result_lines_dropped: u64,
    /// Quality-of-service events from downstream (passed on to the decoder where the stream is live).
    pub qos_events: u64,
    /// Regions asked for, and left out because there were too many.
    pub regions: u64,
    pub regions_left_out: u64,
    /// Generations of feedback made, of those repeats of the last one.
    pub feedback: u64,
    pub feedback_repeated: u64,
    /// Generations by the way they left.
    pub feedback_pad: u64,
    pub feedback_event: u64,
    pub feedback_rtcp: u64,
    /// Generations that RTCP's rate rule held back for its next packet.
    pub feedback_rtcp_held: u64,
    /// Generations that found no way out.
    pub feedback_unsent: u64,
    /// Packets on the feedback pad that were dropped because nobody took them.
    pub feedback_packets_dropped: u64,
}

impl Stats {
    /// Adds the counts of feedback that a sender made without this lock.
    pub fn add_feedback(&mut self, sent: &Self) {
        self.regions += sent.regions;
        self.feedback += sent.feedback;
        self.feedback_repeated += sent.feedback_repeated;
        self.feedback_pad += sent.feedback_pad;
        self.feedback_event += sent.feedback_event;
        self.feedback_rtcp += sent.feedback_rtcp;
        self.feedback_rtcp_held += sent.feedback_rtcp_held;
        self.feedback_unsent += sent.feedback_unsent;
        self.feedback_packets_dropped += sent.feedback_packets_dropped;
    }

    pub fn structure(&self, tracker: &TrackerStats) -> gst::Structure {
        let mean = self.inference_sum_ns.checked_div(self.inferred).unwrap_or(0);
        gst::Structure::builder("application/x-ddsinfer-stats")
            .field("frames", self.frames)
            .field("frames-inferred", self.inferred)
            .field("frames-skipped", self.skipped)
            .field("frames-not-due", self.not_due)
            .field("frames-failed", self.failed)
            .field("frames-unreadable", self.unreadable)
            .field("frames-damaged", self.damaged)
            .field("frames-unidentified", self.unidentified)
            .field("objects", self.objects)
            .field("inference-last-ns", self.inference_last_ns)
            .field("inference-mean-ns", mean)
            .field("inference-max-ns", self.inference_max_ns)
            .field("key-unit-requests", tracker.key_unit_requests)
            .field("result-lines", self.result_lines)
            .field("result-lines-dropped", self.result_lines_dropped)
            .field("qos-events", self.qos_events)
            .field("regions-requested", self.regions)
            .field("regions-left-out", self.regions_left_out)
            .field("feedback", self.feedback)
            .field("feedback-repeated", self.feedback_repeated)
            .field("feedback-pad", self.feedback_pad)
            .field("feedback-event", self.feedback_event)
            .field("feedback-rtcp", self.feedback_rtcp)
            .field("feedback-rtcp-held", self.feedback_rtcp_held)
            .field("feedback-unsent", self.feedback_unsent)
            .field("feedback-packets-dropped", self.feedback_packets_dropped)
            .field("access-units", tracker.access_units)
            .field("access-units-identified", tracker.identified)
            .field("access-units-without-identity", tracker.without_identity)
            .field("access-units-unreadable", tracker.unreadable)
            .field("access-units-lost", tracker.gaps)
            .field("access-units-incomplete", tracker.mismatches)
            .field("access-units-tainted", tracker.tainted)
            .field("recoveries", tracker.recoveries)
            .field("stream-restarts", tracker.restarts)
            .build()
    }
}
