// SPDX-License-Identifier: MPL-2.0

//! The `stats` property.

use gst_dds_link::channel::Counts;

use crate::identity::TrackerStats;
use crate::server;

/// Counts of one run, from READY to PAUSED on, that are not those of the server core.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Objects in results.
    pub objects: u64,
    /// Frames whose objects left as GstAnalytics metas too.
    pub analytics_metas: u64,
    /// Runs of the model and the time in it, nanoseconds: last, largest and sum.
    pub inferences: u64,
    pub inference_last_ns: u64,
    pub inference_max_ns: u64,
    pub inference_sum_ns: u64,
    /// Result lines that went out, and that were dropped because nobody took them.
    pub result_lines: u64,
    pub result_lines_dropped: u64,
    /// Pictures on the pad `classes` that were dropped because nobody took them.
    pub class_maps_dropped: u64,
    /// Quality-of-service events from downstream (passed on to the decoder where the stream is live).
    pub qos_events: u64,
    /// Regions asked for, and those that the policy and the packet encoder left out because there were too many.
    pub regions: u64,
    pub regions_left_out: u64,
    pub regions_not_encoded: u64,
    /// Generations of feedback made, of those repeats of the last one.
    pub feedback: u64,
    pub feedback_repeated: u64,
    /// Generations by their route.
    pub feedback_pad: u64,
    pub feedback_event: u64,
    pub feedback_rtcp: u64,
    /// Generations that left by the channel of `feedback-uri`, in addition to any other route.
    pub feedback_uri: u64,
    /// Generations that RTCP's rate rule held back for its next packet.
    pub feedback_rtcp_held: u64,
    /// Generations that found no route.
    pub feedback_unsent: u64,
    /// Packets on the feedback pad that were dropped because nobody took them.
    pub feedback_packets_dropped: u64,
    /// Ages from capture to result where clocks agree, by the pass that found the objects.
    pub freshness: [Freshness; 2],
}

/// Ages of results.
#[derive(Clone, Copy, Debug, Default)]
pub struct Freshness {
    count: u64,
    sum_ms: f64,
    max_ms: f64,
}

impl Freshness {
    /// Adds the age of one object.
    pub fn add(&mut self, age_ms: f64) {
        self.count += 1;
        self.sum_ms += age_ms;
        self.max_ms = self.max_ms.max(age_ms);
    }

    fn mean_ms(&self) -> f64 {
        self.sum_ms / self.count.max(1) as f64
    }
}

impl Stats {
    /// Adds one run of the model.
    pub fn add_inference(&mut self, time: gst::ClockTime) {
        self.inferences += 1;
        self.inference_last_ns = time.nseconds();
        self.inference_max_ns = self.inference_max_ns.max(time.nseconds());
        self.inference_sum_ns += time.nseconds();
    }

    /// Adds the counts of feedback that a sender made without this lock.
    pub fn add_feedback(&mut self, sent: &Self) {
        self.regions += sent.regions;
        self.regions_not_encoded += sent.regions_not_encoded;
        self.feedback += sent.feedback;
        self.feedback_repeated += sent.feedback_repeated;
        self.feedback_pad += sent.feedback_pad;
        self.feedback_event += sent.feedback_event;
        self.feedback_rtcp += sent.feedback_rtcp;
        self.feedback_uri += sent.feedback_uri;
        self.feedback_rtcp_held += sent.feedback_rtcp_held;
        self.feedback_unsent += sent.feedback_unsent;
        self.feedback_packets_dropped += sent.feedback_packets_dropped;
    }

    /// Makes the property's value. `core`: counts of the server core; `rate`: its wish for a rate; `channel`: those of the channel of `feedback-uri`.
    pub fn structure(
        &self,
        core: &server::Counts,
        rate: &server::RateStatus,
        tracker: &TrackerStats,
        channel: &Counts,
    ) -> gst::Structure {
        let mean = self.inference_sum_ns.checked_div(self.inferences).unwrap_or(0);
        let mut s = gst::Structure::builder("application/x-ddsinfer-stats");
        for (name, count) in channel.fields() {
            s = s.field(name, count);
        }
        // The count of all elements of this plugin in the process.
        s.field("panics-caught", gst_dds_link::guard::caught())
            .field("frames", core.frames)
            .field("frames-inferred", core.inferred)
            .field("frames-skipped", core.skipped)
            .field("frames-not-due", core.not_due)
            .field("frames-repeated", core.repeated)
            .field("frames-predicted", core.predicted)
            .field("frames-failed", core.failed)
            .field("frames-unreadable", core.unreadable)
            .field("frames-damaged", core.damaged)
            .field("frames-unidentified", core.unidentified)
            .field("objects", self.objects)
            .field("analytics-metas", self.analytics_metas)
            .field("inference-last-ns", self.inference_last_ns)
            .field("inference-mean-ns", mean)
            .field("inference-max-ns", self.inference_max_ns)
            .field("key-unit-requests", tracker.key_unit_requests)
            .field("result-lines", self.result_lines)
            .field("result-lines-dropped", self.result_lines_dropped)
            .field("class-maps-dropped", self.class_maps_dropped)
            .field("qos-events", self.qos_events)
            .field("regions-requested", self.regions)
            .field("regions-left-out", self.regions_left_out + self.regions_not_encoded)
            .field("interval-wished", u32::from(rate.wished))
            .field("interval-in-force", u32::from(rate.in_force))
            .field("interval-bound", rate.bound_name())
            .field("rate-changes", rate.changes)
            .field("feedback", self.feedback)
            .field("feedback-repeated", self.feedback_repeated)
            .field("feedback-pad", self.feedback_pad)
            .field("feedback-event", self.feedback_event)
            .field("feedback-rtcp", self.feedback_rtcp)
            .field("feedback-uri", self.feedback_uri)
            .field("feedback-rtcp-held", self.feedback_rtcp_held)
            .field("feedback-unsent", self.feedback_unsent)
            .field("feedback-packets-dropped", self.feedback_packets_dropped)
            .field("inferences", self.inferences)
            .field("refine-done", core.refined)
            .field("refine-refused", core.refine_refused)
            .field("refine-late", core.refine_late)
            .field("refine-damaged", core.refine_damaged)
            .field("refine-after-the-fact", core.refine_after_the_fact)
            .field("refine-unidentified", core.refine_unidentified)
            .field("freshness-first-pass-mean-ms", self.freshness[0].mean_ms())
            .field("freshness-first-pass-max-ms", self.freshness[0].max_ms)
            .field("freshness-second-pass-mean-ms", self.freshness[1].mean_ms())
            .field("freshness-second-pass-max-ms", self.freshness[1].max_ms)
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
