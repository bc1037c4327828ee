// SPDX-License-Identifier: MPL-2.0

//! Reports of receivers on our stream: the report blocks of RTCP (RFC 3550, section 6.4.1), as kept by an RTP session.
//!
//! The session stores a block under the source that sent it, and keeps one block per source. A receiver that takes
//! several streams of one session (audio beside video, retransmissions) reports on all of them in one packet; only the
//! last block is kept, and where it is not about our stream, nothing is known of ours.

#![forbid(unsafe_code)]

/// Clock rate of RTP video, for a session that does not know the rate of its stream.
const VIDEO_CLOCK_RATE: u32 = 90_000;

/// The newest report block of one receiver about our stream (RFC 3550, section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReceiverReport {
    /// SSRC of the reporting receiver.
    pub ssrc: u32,
    /// SSRC of our stream that it reports on.
    pub media_ssrc: u32,
    /// Share of packets lost since the receiver's previous report, 0 to 255/256 in steps of 1/256. With feedback in
    /// every RTCP packet that covers few packets: [`Self::loss_since`] returns the share over any longer time.
    pub fraction_lost: f64,
    /// Packets lost since the receiver joined. Duplicates and late packets count as received, so it can fall and be
    /// negative.
    pub packets_lost: i32,
    /// Highest sequence number received; the upper 16 bits count how often it wrapped.
    pub highest_seq: u32,
    /// Interarrival jitter in milliseconds, by the stream's clock rate where the session knows it and 90 kHz otherwise.
    pub jitter_ms: f64,
    /// Round-trip time in milliseconds, without the receiver's own delay. `None` until the receiver has received a
    /// sender report of ours.
    pub round_trip_ms: Option<f64>,
    /// Distinguishes a new report from the same one read again: equal stamps (of equal SSRCs) are the same report. The
    /// upper half is the time it was sent, by our NTP clock in 1/65536 s minus the one-way delay, 0 where the receiver
    /// has received no sender report; the lower half is `highest_seq`. A receiver that has received neither sender
    /// report nor packet since its previous report repeats the stamp, and has no news. Stamps have no order.
    pub stamp: u64,
}

impl ReceiverReport {
    /// Share of packets lost between an earlier report and this one, 0 to 1. `None` where the reports are not of one
    /// receiver and one stream, or no packet has come in between: then the share is unknown, not 0.
    pub fn loss_since(&self, earlier: &Self) -> Option<f64> {
        if (self.ssrc, self.media_ssrc) != (earlier.ssrc, earlier.media_ssrc) {
            return None;
        }
        // Sequence numbers wrap, and a report that was overtaken runs backwards.
        let expected = self.highest_seq.wrapping_sub(earlier.highest_seq).cast_signed();
        if expected <= 0 {
            return None;
        }
        let lost = i64::from(self.packets_lost) - i64::from(earlier.packets_lost);
        Some((lost as f64 / f64::from(expected)).clamp(0.0, 1.0))
    }
}

/// The reports about the stream `media_ssrc` in the `source-stats` of an `RTPSession`: at most one per receiver, none
/// of receivers that have sent BYE. A report with fields missing or of another type than documented is left out.
pub(crate) fn in_source_stats(sources: &[glib::Value], media_ssrc: u32) -> Vec<ReceiverReport> {
    let sources = || sources.iter().filter_map(|v| v.get::<&gst::StructureRef>().ok());
    let clock_rate = sources()
        .find(|s| flag(s, "internal") && s.get::<u32>("ssrc") == Ok(media_ssrc))
        .and_then(|s| u32::try_from(s.get::<i32>("clock-rate").ok()?).ok())
        .filter(|&rate| rate > 0)
        .unwrap_or(VIDEO_CLOCK_RATE);
    sources().filter_map(|s| of_source(s, media_ssrc, clock_rate)).collect()
}

fn of_source(source: &gst::StructureRef, media_ssrc: u32, clock_rate: u32) -> Option<ReceiverReport> {
    if flag(source, "internal") || flag(source, "received-bye") || !flag(source, "have-rb") {
        return None;
    }
    let number = |name: &str| source.get::<u32>(name).ok();
    if number("rb-ssrc")? != media_ssrc {
        return None;
    }
    let highest_seq = number("rb-exthighestseq")?;
    // The time of our last sender report there and the delay until the receiver wrote this one; both 0 without one.
    let sent = number("rb-lsr")
        .unwrap_or(0)
        .wrapping_add(number("rb-dlsr").unwrap_or(0));
    Some(ReceiverReport {
        ssrc: number("ssrc")?,
        media_ssrc,
        fraction_lost: f64::from(number("rb-fractionlost")?.min(255)) / 256.0,
        packets_lost: source.get("rb-packetslost").ok()?,
        highest_seq,
        jitter_ms: f64::from(number("rb-jitter")?) * 1e3 / f64::from(clock_rate),
        round_trip_ms: number("rb-round-trip")
            .filter(|&time| time > 0)
            .map(|time| f64::from(time) * 1e3 / 65536.0),
        stamp: u64::from(sent) << 32 | u64::from(highest_seq),
    })
}

fn flag(source: &gst::StructureRef, name: &str) -> bool {
    source.get(name).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use glib::prelude::*;

    use super::*;

    const OURS: u32 = 0xdead_beef;

    /// The report of the receiver `ssrc` as stored by a session.
    fn receiver(ssrc: u32, media_ssrc: u32) -> gst::Structure {
        gst::Structure::builder("application/x-rtp-source-stats")
            .field("ssrc", ssrc)
            .field("internal", false)
            .field("received-bye", false)
            .field("have-rb", true)
            .field("rb-ssrc", media_ssrc)
            .field("rb-fractionlost", 64u32)
            .field("rb-packetslost", -3i32)
            .field("rb-exthighestseq", 0x0001_0002u32)
            .field("rb-jitter", 900u32)
            .field("rb-lsr", 0xffff_fff0u32)
            .field("rb-dlsr", 0x20u32)
            .field("rb-round-trip", 0x8000u32)
            .build()
    }

    fn ourselves(clock_rate: i32) -> gst::Structure {
        gst::Structure::builder("application/x-rtp-source-stats")
            .field("ssrc", OURS)
            .field("internal", true)
            .field("is-sender", true)
            .field("clock-rate", clock_rate)
            .build()
    }

    fn session(sources: impl IntoIterator<Item = gst::Structure>) -> Vec<glib::Value> {
        sources.into_iter().map(|s| s.to_value()).collect()
    }

    #[test]
    fn a_report_is_read_in_its_units() {
        gst::init().unwrap();
        let expected = ReceiverReport {
            ssrc: 7,
            media_ssrc: OURS,
            fraction_lost: 0.25,
            packets_lost: -3,
            highest_seq: 0x0001_0002,
            jitter_ms: 10.0,
            round_trip_ms: Some(500.0),
            stamp: 0x0000_0010_0001_0002,
        };
        assert_eq!(
            in_source_stats(&session([receiver(7, OURS), ourselves(-1)]), OURS),
            [expected]
        );
        let slower = in_source_stats(&session([receiver(7, OURS), ourselves(9_000)]), OURS);
        assert_eq!(slower[0].jitter_ms, 100.0);
    }

    #[test]
    fn only_present_receivers_of_our_stream_are_heard() {
        gst::init().unwrap();
        let mut gone = receiver(1, OURS);
        gone.set("received-bye", true);
        let mut silent = receiver(2, OURS);
        silent.set("have-rb", false);
        let mut internal = receiver(3, OURS);
        internal.set("internal", true);
        let sources = [
            gone,
            silent,
            internal,
            receiver(4, 99),
            receiver(5, OURS),
            receiver(6, OURS),
        ];
        let found: Vec<_> = in_source_stats(&session(sources), OURS)
            .iter()
            .map(|r| r.ssrc)
            .collect();
        assert_eq!(found, [5, 6]);
    }

    #[test]
    fn missing_and_mistyped_fields_make_no_report() {
        gst::init().unwrap();
        let names: Vec<_> = receiver(1, OURS).fields().map(|n| n.to_string()).collect();
        for name in &names {
            let mut missing = receiver(1, OURS);
            missing.remove_field(name);
            let mut mistyped = receiver(1, OURS);
            mistyped.set(name, "text");
            for source in [missing, mistyped] {
                let reports = in_source_stats(&session([source]), OURS);
                let optional =
                    ["internal", "received-bye", "rb-lsr", "rb-dlsr", "rb-round-trip"].contains(&name.as_str());
                assert_eq!(reports.len(), usize::from(optional), "{name}");
                if name == "rb-round-trip" {
                    assert_eq!(reports[0].round_trip_ms, None);
                }
            }
        }
        assert!(in_source_stats(&session([]), OURS).is_empty());
        assert!(in_source_stats(&[1i32.to_value(), None::<gst::Structure>.to_value()], OURS).is_empty());
    }

    #[test]
    fn loss_between_reports_survives_wrapping_and_overtaking() {
        gst::init().unwrap();
        let first = in_source_stats(&session([receiver(7, OURS)]), OURS)[0];
        let at = |highest_seq, packets_lost| ReceiverReport {
            highest_seq,
            packets_lost,
            ..first
        };
        assert_eq!(at(1100, 30).loss_since(&at(1000, 5)), Some(0.25));
        assert_eq!(at(40, 50).loss_since(&at(u32::MAX - 59, 0)), Some(0.5));
        // More duplicates than losses, and more losses than a receiver could have seen.
        assert_eq!(at(1100, -5).loss_since(&at(1000, 5)), Some(0.0));
        assert_eq!(at(1001, i32::MAX).loss_since(&at(1000, i32::MIN)), Some(1.0));
        assert_eq!(at(1000, 5).loss_since(&at(1000, 5)), None);
        assert_eq!(at(1000, 5).loss_since(&at(1100, 30)), None);
        let other = ReceiverReport {
            ssrc: 8,
            ..at(1100, 30)
        };
        assert_eq!(other.loss_since(&at(1000, 5)), None);
    }
}
