// SPDX-License-Identifier: MPL-2.0

//! The way in for feedback: bounds how much is parsed, assembles generations, keeps the newest complete one of each way for
//! the next frame.
//!
//! One server may send the same by two ways. What one has brought is no news by the other, but kept: that way steers alone
//! when the first falls silent. While both live, the slower one's regions would stay on behind newer ones; so a way whose
//! states have been seen on one before it in the order of [`Source`] rests while that one is ahead. Not the other way
//! round: what nothing vouches for never puts aside what came sealed.

use std::collections::VecDeque;
use std::sync::Arc;

use dds_protocol::assembler::{Assembler, Counts, Outcome as Assembled};
use dds_protocol::feedback::{self, FeedbackError, FeedbackState};
use dds_protocol::serial::Serial16;

use super::{Settings, Stats};

/// Burst that the token bucket lets through: what a second is worth.
const BURST_NS: u64 = 1_000_000_000;
/// Lowest packet rate let through, per second: a server of a very slow camera still repeats its state every 500 ms.
const MIN_PACKET_RATE: f64 = 4.0;
/// Silence after which numbering is taken up anew where no feedback timeout is set.
const DEFAULT_RESYNC_NS: u64 = 2_000_000_000;
/// Generations of a way that are told from news by another: what one way may be ahead of the other.
const RECENT: usize = 16;

/// The way a packet came. Ways are kept apart: each has its own rate limit, numbering and liveness, and its newest state
/// acts beside those of the others. Their order here is that in which they share the area that regions may refine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Custom upstream event of a server in the same process.
    Event,
    /// Own channel (`feedback-uri`).
    Uri,
    /// Request pad `feedback`.
    Pad,
    /// RTCP APP packet that SRTP vouches for, of an RTP session that the encoder's data path runs through.
    Srtcp,
    /// RTCP APP packet of such a session, which nothing vouches for.
    Rtcp,
}

impl Source {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// All of them, in order.
    pub const ALL: [Self; Self::COUNT] = [Self::Event, Self::Uri, Self::Pad, Self::Srtcp, Self::Rtcp];
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

/// A complete generation that waits for the next frame.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub state: Arc<FeedbackState>,
    /// Not what another way has brought already.
    pub news: bool,
}

/// What is known of one way.
#[derive(Clone, Debug)]
struct Way {
    assembler: Assembler,
    /// What of the assembler's counts is in the statistics already.
    counted: Counts,
    /// Unspent time of the token bucket; a packet costs the reciprocal of the permitted rate.
    credit_ns: u64,
    pending: Option<Pending>,
    /// The last usable generations, newest last.
    recent: VecDeque<Arc<FeedbackState>>,
    /// Place of a way, before this one, that has brought what this one brings.
    follows: Option<usize>,
    last_complete: Option<u64>,
    /// Time from which silence is measured for the numbering: start, or the last complete generation or resync.
    quiet_since: Option<u64>,
}

impl Way {
    fn new(stream_id: u32) -> Self {
        Self {
            assembler: Assembler::new(stream_id),
            counted: Counts::default(),
            credit_ns: BURST_NS,
            pending: None,
            recent: VecDeque::with_capacity(RECENT),
            follows: None,
            last_complete: None,
            quiet_since: None,
        }
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
        stats.packets_extended += counts.extensions - self.counted.extensions;
        stats.generations_incomplete += counts.incomplete - self.counted.incomplete;
        self.counted = counts;
    }

    fn take_token(&mut self, frame_rate: f64) -> bool {
        let price = (1e9 / (2.0 * frame_rate).max(MIN_PACKET_RATE)) as u64;
        match self.credit_ns.checked_sub(price) {
            Some(rest) => {
                self.credit_ns = rest;
                true
            }
            None => false,
        }
    }

    fn times(&mut self) -> impl Iterator<Item = &mut u64> {
        [&mut self.last_complete, &mut self.quiet_since].into_iter().flatten()
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    stream_id: u32,
    /// By [`Source`]: a flood by one leaves the others as they are.
    ways: [Way; Source::COUNT],
    refilled_at: u64,
    /// When a generation came that did not come through here.
    heard: Option<u64>,
}

impl Gate {
    pub(super) fn new(stream_id: u32) -> Self {
        Self {
            stream_id,
            ways: std::array::from_fn(|_| Way::new(stream_id)),
            refilled_at: 0,
            heard: None,
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
        // Before it costs a token: what is not ours must not use up what is ours.
        if let Some(outcome) = turned_away(self.stream_id, packet, stats) {
            return outcome;
        }
        self.refill(now);
        let way = &mut self.ways[source as usize];
        if !way.take_token(settings.frame_rate) {
            stats.packets_rate_limited += 1;
            return Outcome::RateLimited;
        }
        way.resync(now, settings.feedback_timeout_ns, stats);
        let assembled = way.assembler.push(packet);
        way.count_rest(stats);
        match assembled {
            Assembled::Complete(state) => self.keep(now, source, state, newest_frame, stats),
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

    fn keep(
        &mut self,
        now: u64,
        source: Source,
        state: FeedbackState,
        newest_frame: Option<u64>,
        stats: &mut Stats,
    ) -> Outcome {
        if newest_frame.is_none_or(|newest| state.frame > newest) {
            stats.packets_complete += 1;
            stats.generations_future += 1;
            return Outcome::Future { frame: state.frame };
        }
        let (state, own) = (Arc::new(state), source as usize);
        let mut news = true;
        for other in (0..Source::COUNT).filter(|other| *other != own) {
            let (first, second) = (own.min(other), own.max(other));
            let is_ahead = |newest: &Arc<FeedbackState>| newest.generation.is_newer_than(state.generation);
            if self.ways[other].recent.contains(&state) {
                news = false;
                let follows = &mut self.ways[second].follows;
                *follows = Some(follows.map_or(first, |known| known.min(first)));
            } else if self.ways[own].follows == Some(other) && self.ways[other].recent.back().is_some_and(is_ahead) {
                // Another server's.
                self.ways[own].follows = None;
            }
        }
        let way = &mut self.ways[own];
        way.last_complete = Some(now);
        way.quiet_since = Some(now);
        if way.recent.len() == RECENT {
            way.recent.pop_front();
        }
        way.recent.push_back(state.clone());
        let outcome = if news {
            stats.packets_complete += 1;
            stats.regions_requested += state.regions.len() as u64;
            Outcome::Complete {
                generation: state.generation,
                frame: state.frame,
                regions: state.regions.len(),
            }
        } else {
            // One server that sends the same by two ways. It is kept all the same: this way is to steer when the other
            // one falls silent.
            stats.packets_duplicate += 1;
            Outcome::Duplicate
        };
        let replaced = way.pending.replace(Pending { state, news });
        stats.generations_superseded += u64::from(replaced.is_some_and(|pending| pending.news));
        outcome
    }

    fn refill(&mut self, now: u64) {
        let gained = now.saturating_sub(self.refilled_at);
        self.refilled_at = now;
        for way in &mut self.ways {
            way.credit_ns = way.credit_ns.saturating_add(gained).min(BURST_NS);
        }
    }

    /// The newest complete generation of a way since the last call.
    pub(super) fn take_pending(&mut self, source: Source) -> Option<Pending> {
        self.ways[source as usize].pending.take()
    }

    /// A usable generation came another way.
    pub(super) fn heard(&mut self, at: u64) {
        self.heard = Some(at);
    }

    /// When the last usable generation came, by whichever way.
    pub(super) fn last_complete(&self) -> Option<u64> {
        let ways = self.ways.iter().map(|way| way.last_complete);
        ways.chain([self.heard]).flatten().max()
    }

    /// When the last usable generation came by this way.
    pub(super) fn last_complete_by(&self, source: Source) -> Option<u64> {
        self.ways[source as usize].last_complete
    }

    /// Whether what came by this way has been replaced by another that brings the same and was heard no longer ago than
    /// `timeout_ns` (0: ever).
    pub(super) fn rests(&self, source: Source, now: u64, timeout_ns: u64) -> bool {
        let own = &self.ways[source as usize];
        let Some(other) = own.follows.map(|other| &self.ways[other]) else {
            return false;
        };
        let lives = |at: u64| timeout_ns == 0 || now.saturating_sub(at) < timeout_ns;
        let ahead = other.recent.back().zip(own.recent.back());
        other.last_complete.is_some_and(lives) && ahead.is_some_and(|(a, b)| a.generation.is_newer_than(b.generation))
    }

    /// Begins another stream. The buckets keep their level.
    pub(super) fn restart(&mut self, stream_id: u32) {
        let credits = self.ways.each_ref().map(|way| way.credit_ns);
        *self = Self {
            refilled_at: self.refilled_at,
            ..Self::new(stream_id)
        };
        for (way, credit_ns) in self.ways.iter_mut().zip(credits) {
            way.credit_ns = credit_ns;
        }
    }

    /// Time went back by `by`: all that is remembered of it goes back too.
    pub(super) fn shift_back(&mut self, by: u64) {
        self.refilled_at = self.refilled_at.saturating_sub(by);
        let times = self.ways.iter_mut().flat_map(Way::times).chain(&mut self.heard);
        times.for_each(|time| *time = time.saturating_sub(by));
    }
}

/// What becomes of a packet by its header alone, counted; `None`: it is for the stream, as far as that tells.
pub fn turned_away(stream_id: u32, packet: &[u8], stats: &mut Stats) -> Option<Outcome> {
    match feedback::addressee(packet) {
        Ok(id) if id == stream_id => None,
        Ok(_) => {
            stats.packets_foreign += 1;
            Some(Outcome::Foreign)
        }
        Err(error) => {
            stats.packets_malformed += 1;
            stats.packets_unknown_version += u64::from(matches!(error, FeedbackError::UnknownVersion(_)));
            Some(Outcome::Malformed(error))
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
            bench.gate.take_pending(Source::Pad).map(|p| p.state.generation),
            Some(Serial16(4))
        );
        assert!(bench.gate.take_pending(Source::Pad).is_none());
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
        assert!(bench.gate.take_pending(Source::Pad).is_none());
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
        assert!(bench.gate.take_pending(Source::Pad).is_none());
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
    fn what_is_not_ours_takes_no_place_of_what_is() {
        let mut bench = Bench::new();
        for i in 0..10_000u32 {
            let foreign = &packets(STREAM + 1 + i, 1, 1, 1)[0];
            assert_eq!(bench.push(0, foreign), Outcome::Foreign);
            assert!(matches!(bench.push(0, b"\xdd\x53 neither"), Outcome::Malformed(_)));
        }
        assert!(matches!(bench.push(0, &packet(1, 1)), Outcome::Complete { .. }));
        assert_eq!(bench.stats.packets_rate_limited, 0);
        assert_eq!(
            (
                bench.stats.packets_foreign,
                bench.stats.packets_malformed,
                bench.stats.packets_unknown_version
            ),
            (10_000, 10_000, 10_000)
        );
    }

    #[test]
    fn each_way_has_its_own_numbering() {
        let mut bench = Bench::new();
        // Whoever numbers high by one way makes nothing stale by another.
        for generation in [1000, 20_000, 30_000] {
            bench.push_by(0, Source::Rtcp, &packet(generation, 1));
        }
        for generation in [10, 11] {
            let outcome = bench.push_by(0, Source::Uri, &packet(generation, 2));
            assert!(matches!(outcome, Outcome::Complete { .. }), "{outcome:?}");
        }
        let mut newest = |source| bench.gate.take_pending(source).map(|p| p.state.generation.0);
        assert_eq!((newest(Source::Uri), newest(Source::Rtcp)), (Some(11), Some(30_000)));
        assert!(!bench.gate.rests(Source::Rtcp, 0, MS) && !bench.gate.rests(Source::Uri, 0, MS));
    }

    #[test]
    fn what_one_server_sends_by_two_ways_is_counted_once_and_the_slower_way_rests() {
        for (fast, slow) in [(Source::Uri, Source::Rtcp), (Source::Rtcp, Source::Uri)] {
            let mut bench = Bench::new();
            for generation in 1..=20 {
                let outcome = bench.push_by(0, fast, &packet(generation, 1));
                assert!(matches!(outcome, Outcome::Complete { .. }), "{outcome:?}");
                // Three generations behind.
                if generation > 3 {
                    assert_eq!(bench.push_by(0, slow, &packet(generation - 3, 1)), Outcome::Duplicate);
                }
            }
            assert_eq!((bench.stats.packets_complete, bench.stats.packets_duplicate), (20, 17));
            assert_eq!(bench.stats.regions_requested, 20);
            // What is sealed is never put aside by what is not.
            assert_eq!(bench.gate.rests(Source::Rtcp, 0, MS), slow == Source::Rtcp);
            assert!(!bench.gate.rests(Source::Uri, 0, MS));
            // The fast one dies: what the slow one has acts again.
            assert!(!bench.gate.rests(Source::Rtcp, MS, MS));
            let kept = bench.gate.take_pending(slow).expect("kept");
            assert_eq!((kept.state.generation, kept.news), (Serial16(17), false));
        }
    }

    #[test]
    fn another_server_by_another_way_is_put_aside_by_nobody() {
        let mut bench = Bench::new();
        bench.push_by(0, Source::Uri, &packets(STREAM, 5, 1, 1)[0]);
        bench.push_by(0, Source::Rtcp, &packets(STREAM, 5, 1, 1)[0]);
        bench.push_by(0, Source::Uri, &packets(STREAM, 6, 1, 1)[0]);
        assert!(
            bench.gate.rests(Source::Rtcp, 0, MS),
            "as long as it may be the same one"
        );
        // It wants something else than the other ever wanted.
        bench.push_by(0, Source::Uri, &packets(STREAM, 9, 1, 1)[0]);
        bench.push_by(0, Source::Rtcp, &packets(STREAM, 7, 1, 4)[0]);
        assert!(!bench.gate.rests(Source::Rtcp, 0, MS));
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
        assert!(bench.gate.take_pending(Source::Pad).is_none());
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
