// SPDX-License-Identifier: MPL-2.0

//! The way in for feedback: bounds how much is parsed, assembles generations, keeps the newest complete one for the
//! next frame.

use dds_protocol::assembler::{Assembler, Counts, Outcome as Assembled};
use dds_protocol::feedback::{FeedbackError, FeedbackState};
use dds_protocol::serial::Serial16;

use super::{Settings, Stats};

/// Burst that the token bucket lets through: what a second is worth.
const BURST_NS: u64 = 1_000_000_000;
/// Lowest packet rate let through, per second: a server of a very slow camera still repeats its state every 500 ms.
const MIN_PACKET_RATE: f64 = 4.0;
/// Silence after which numbering is taken up anew where no feedback timeout is set.
const DEFAULT_RESYNC_NS: u64 = 2_000_000_000;

/// The way a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Request pad `feedback`.
    Pad,
    /// RTCP APP packet of the RTP session that the encoder's data path runs through.
    Rtcp,
    /// Custom upstream event of a server in the same process.
    Event,
    /// Own channel (`feedback-uri`).
    Uri,
}

impl Source {
    /// How many there are.
    const COUNT: usize = 4;
}

/// What became of a feedback packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It completed the newest generation, which waits for the next frame.
    Complete {
        /// The generation.
        generation: Serial16,
        /// The frame it derives from.
        frame: u64,
        /// Its regions.
        regions: usize,
    },
    /// Kept; its generation still lacks parts.
    Partial,
    /// Of a generation that is not newer.
    Stale,
    /// Seen before.
    Duplicate,
    /// For another stream.
    Foreign,
    /// Not readable.
    Malformed(FeedbackError),
    /// It completed a generation that claims to derive from a frame not coded yet, and was refused.
    Future {
        /// The frame it claims.
        frame: u64,
    },
    /// Not looked at: too many packets.
    RateLimited,
    /// Not looked at: steering is switched off.
    Refused,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    assembler: Assembler,
    /// What of the assembler's counts is in the statistics already.
    counted: Counts,
    /// Unspent time of the token bucket of each way; a packet costs the reciprocal of the permitted rate. What comes by
    /// two ways does not count double, and a flood by one leaves the others open.
    credit_ns: [u64; Source::COUNT],
    refilled_at: u64,
    pending: Option<FeedbackState>,
    last_complete: Option<u64>,
    /// Time from which silence is measured for the numbering: start, or the last complete generation or resync.
    quiet_since: Option<u64>,
}

impl Gate {
    pub(super) fn new(stream_id: u32) -> Self {
        Self {
            assembler: Assembler::new(stream_id),
            counted: Counts::default(),
            credit_ns: [BURST_NS; Source::COUNT],
            refilled_at: 0,
            pending: None,
            last_complete: None,
            quiet_since: None,
        }
    }

    /// Takes a packet. `newest_frame` is the number of the last frame begun.
    pub(super) fn push(
        &mut self,
        now: u64,
        (source, packet): (Source, &[u8]),
        newest_frame: Option<u64>,
        settings: &Settings,
        stats: &mut Stats,
    ) -> Outcome {
        if !settings.steered {
            stats.packets_refused += 1;
            return Outcome::Refused;
        }
        if !self.take_token(now, source, settings.frame_rate) {
            stats.packets_rate_limited += 1;
            return Outcome::RateLimited;
        }
        self.resync(now, settings.feedback_timeout_ns, stats);
        let assembled = self.assembler.push(packet);
        self.count_rest(stats);
        match assembled {
            Assembled::Complete(state) => self.keep(now, state, newest_frame, stats),
            Assembled::Partial => {
                stats.packets_partial += 1;
                Outcome::Partial
            }
            Assembled::Stale => {
                stats.packets_stale += 1;
                Outcome::Stale
            }
            Assembled::Duplicate => {
                stats.packets_duplicate += 1;
                Outcome::Duplicate
            }
            Assembled::Foreign => {
                stats.packets_foreign += 1;
                Outcome::Foreign
            }
            Assembled::Malformed(error) => {
                stats.packets_malformed += 1;
                Outcome::Malformed(error)
            }
        }
    }

    fn keep(&mut self, now: u64, state: FeedbackState, newest_frame: Option<u64>, stats: &mut Stats) -> Outcome {
        stats.packets_complete += 1;
        if newest_frame.is_none_or(|newest| state.frame > newest) {
            stats.generations_future += 1;
            return Outcome::Future { frame: state.frame };
        }
        stats.regions_requested += state.regions.len() as u64;
        let outcome = Outcome::Complete {
            generation: state.generation,
            frame: state.frame,
            regions: state.regions.len(),
        };
        if self.pending.replace(state).is_some() {
            stats.generations_superseded += 1;
        }
        self.last_complete = Some(now);
        self.quiet_since = Some(now);
        outcome
    }

    /// A server that restarts may number its generations behind those of its former self. After a time without a
    /// usable generation the next complete one is believed, whatever its number.
    fn resync(&mut self, now: u64, timeout_ns: u64, stats: &mut Stats) {
        let limit = if timeout_ns == 0 { DEFAULT_RESYNC_NS } else { timeout_ns };
        let since = *self.quiet_since.get_or_insert(now);
        if now.saturating_sub(since) < limit {
            return;
        }
        self.quiet_since = Some(now);
        if self.assembler.newest().is_some() {
            stats.resyncs += 1;
        }
        self.assembler.reset();
    }

    fn count_rest(&mut self, stats: &mut Stats) {
        let counts = self.assembler.counts();
        stats.packets_unknown_version += counts.unknown_version - self.counted.unknown_version;
        stats.packets_extended += counts.extensions - self.counted.extensions;
        stats.generations_incomplete += counts.incomplete - self.counted.incomplete;
        self.counted = counts;
    }

    fn take_token(&mut self, now: u64, source: Source, frame_rate: f64) -> bool {
        let gained = now.saturating_sub(self.refilled_at);
        self.refilled_at = now;
        for credit in &mut self.credit_ns {
            *credit = credit.saturating_add(gained).min(BURST_NS);
        }
        let price = (1e9 / (2.0 * frame_rate).max(MIN_PACKET_RATE)) as u64;
        let credit = &mut self.credit_ns[source as usize];
        match credit.checked_sub(price) {
            Some(rest) => {
                *credit = rest;
                true
            }
            None => false,
        }
    }

    /// The newest complete generation since the last call.
    pub(super) fn take_pending(&mut self) -> Option<FeedbackState> {
        self.pending.take()
    }

    /// A usable generation came another way.
    pub(super) fn heard(&mut self, at: u64) {
        self.last_complete = Some(at);
    }

    /// When the last usable generation came.
    pub(super) fn last_complete(&self) -> Option<u64> {
        self.last_complete
    }

    /// Begins another stream. The buckets keep their level.
    pub(super) fn restart(&mut self, stream_id: u32) {
        *self = Self {
            credit_ns: self.credit_ns,
            refilled_at: self.refilled_at,
            ..Self::new(stream_id)
        };
    }

    /// Time went back by `by`: all that is remembered of it goes back too.
    pub(super) fn shift_back(&mut self, by: u64) {
        self.refilled_at = self.refilled_at.saturating_sub(by);
        for time in [&mut self.last_complete, &mut self.quiet_since].into_iter().flatten() {
            *time = time.saturating_sub(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dds_protocol::feedback::{Motion, Quality, Rect, Region, encode};

    const STREAM: u32 = 7;
    const MS: u64 = 1_000_000;

    fn packets(stream_id: u32, generation: u16, frame: u64, regions: usize) -> Vec<Vec<u8>> {
        encode(&FeedbackState {
            stream_id,
            generation: Serial16(generation),
            frame,
            // No two alike, so that many of them need several packets.
            regions: (0..regions)
                .map(|i| Region {
                    rect: Rect {
                        x: i as u32 * 1000 % 4096,
                        y: i as u32 * 24,
                        width: 64 + i as u32 * 8,
                        height: 64,
                    },
                    quality: Quality::Qp((i % 50) as u8),
                    motion: Motion {
                        dx: i as i16 % 100,
                        dy: -(i as i16 % 90),
                    },
                    ttl_ms: 500 + 20 * i as u32,
                    frame_offset: 0,
                })
                .collect(),
        })
        .packets
    }

    fn packet(generation: u16, frame: u64) -> Vec<u8> {
        packets(STREAM, generation, frame, 1).remove(0)
    }

    struct Bench {
        gate: Gate,
        settings: Settings,
        stats: Stats,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                gate: Gate::new(STREAM),
                settings: Settings::default(),
                stats: Stats::default(),
            }
        }

        fn push(&mut self, now: u64, packet: &[u8]) -> Outcome {
            self.push_by(now, Source::Pad, packet)
        }

        fn push_by(&mut self, now: u64, source: Source, packet: &[u8]) -> Outcome {
            self.gate
                .push(now, (source, packet), Some(100), &self.settings, &mut self.stats)
        }
    }

    #[test]
    fn newest_complete_generation_wins_and_older_ones_are_counted() {
        let mut bench = Bench::new();
        for generation in [1, 2, 4] {
            assert!(matches!(
                bench.push(0, &packet(generation, 1)),
                Outcome::Complete { .. }
            ));
        }
        assert_eq!(bench.push(0, &packet(3, 1)), Outcome::Stale);
        assert_eq!(bench.push(0, &packet(4, 1)), Outcome::Duplicate);
        assert_eq!(
            bench.gate.take_pending().map(|state| state.generation),
            Some(Serial16(4))
        );
        assert_eq!(bench.gate.take_pending(), None);
        assert_eq!(bench.stats.packets_complete, 3);
        assert_eq!(bench.stats.generations_superseded, 2);
        assert_eq!((bench.stats.packets_stale, bench.stats.packets_duplicate), (1, 1));
    }

    #[test]
    fn foreign_and_broken_packets_are_counted_and_change_nothing() {
        let mut bench = Bench::new();
        assert_eq!(bench.push(0, &packets(STREAM + 1, 1, 1, 1)[0]), Outcome::Foreign);
        assert!(matches!(bench.push(0, b"not feedback at all"), Outcome::Malformed(_)));
        assert!(matches!(bench.push(0, &[]), Outcome::Malformed(_)));
        assert_eq!((bench.stats.packets_foreign, bench.stats.packets_malformed), (1, 2));
        assert_eq!(bench.gate.last_complete(), None);
        assert_eq!(bench.gate.take_pending(), None);
    }

    #[test]
    fn a_generation_in_parts_acts_only_when_complete() {
        let mut bench = Bench::new();
        let parts = packets(STREAM, 9, 1, 250);
        assert!(parts.len() > 1, "250 irregular regions need more than one packet");
        let (last, first) = parts.split_last().expect("more than one");
        for part in first {
            assert_eq!(bench.push(0, part), Outcome::Partial);
        }
        assert_eq!(bench.gate.take_pending(), None);
        assert!(matches!(bench.push(0, last), Outcome::Complete { regions: 250, .. }));
        assert_eq!(bench.stats.regions_requested, 250);
    }

    #[test]
    fn an_interrupted_generation_is_counted() {
        let mut bench = Bench::new();
        let parts = packets(STREAM, 9, 1, 250);
        bench.push(0, &parts[0]);
        bench.push(0, &packet(10, 1));
        assert_eq!(bench.stats.generations_incomplete, 1);
    }

    #[test]
    fn twice_the_frame_rate_is_parsed_and_no_more() {
        let mut bench = Bench::new();
        bench.settings.frame_rate = 25.0;
        let mut parsed = 0;
        // Ten seconds at 1000 packets per second: one second's burst, then 50 per second.
        for i in 0..10_000u64 {
            parsed += u64::from(bench.push(i * MS, &packet(0, 1)) != Outcome::RateLimited);
        }
        assert!((549..=550).contains(&parsed), "{parsed} packets parsed");
        assert_eq!(bench.stats.packets_rate_limited, 10_000 - parsed);
    }

    #[test]
    fn a_flood_by_one_way_leaves_the_others_open() {
        let mut bench = Bench::new();
        while bench.push_by(0, Source::Rtcp, &packet(1, 1)) != Outcome::RateLimited {}
        for source in [Source::Pad, Source::Event, Source::Uri] {
            assert_eq!(bench.push_by(0, source, &packet(1, 1)), Outcome::Duplicate);
        }
        assert_eq!(bench.push_by(0, Source::Rtcp, &packet(2, 1)), Outcome::RateLimited);
    }

    #[test]
    fn a_very_slow_camera_still_hears_two_packets_every_500_ms() {
        let mut bench = Bench::new();
        bench.settings.frame_rate = 0.1;
        for i in 0..100u64 {
            assert_ne!(bench.push(i * 250 * MS, &packet(i as u16, 1)), Outcome::RateLimited);
        }
    }

    #[test]
    fn a_restarted_server_is_heard_after_the_timeout_of_silence() {
        let mut bench = Bench::new();
        bench.push(0, &packet(1000, 1));
        // Its successor starts behind: stale until the old one has been silent for the timeout.
        for now in [100, 1000, 1999] {
            assert_eq!(bench.push(now * MS, &packet(10, 1)), Outcome::Stale);
        }
        assert!(matches!(
            bench.push(2000 * MS, &packet(11, 1)),
            Outcome::Complete { .. }
        ));
        assert_eq!(bench.stats.resyncs, 1);
    }

    #[test]
    fn without_a_timeout_a_restarted_server_is_heard_all_the_same() {
        let mut bench = Bench::new();
        bench.settings.feedback_timeout_ns = 0;
        bench.push(0, &packet(1000, 1));
        assert_eq!(bench.push(1999 * MS, &packet(10, 1)), Outcome::Stale);
        assert!(matches!(
            bench.push(2000 * MS, &packet(11, 1)),
            Outcome::Complete { .. }
        ));
    }

    #[test]
    fn feedback_of_a_frame_not_coded_yet_is_refused() {
        let mut bench = Bench::new();
        assert_eq!(bench.push(0, &packet(1, 101)), Outcome::Future { frame: 101 });
        assert_eq!(bench.stats.generations_future, 1);
        assert_eq!(bench.gate.take_pending(), None);
        assert_eq!(bench.gate.last_complete(), None);
    }

    #[test]
    fn nothing_is_parsed_while_steering_is_off() {
        let mut bench = Bench::new();
        bench.settings.steered = false;
        assert_eq!(bench.push(0, &packet(1, 1)), Outcome::Refused);
        assert_eq!(bench.stats.packets_refused, 1);
    }
}
