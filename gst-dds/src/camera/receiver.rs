// SPDX-License-Identifier: MPL-2.0

//! The receiver of feedback: packets go in, by whatever way; the states in force, liveness and counts come out. No
//! other code parses packets, counts them or judges silence.
//!
//! ```text
//! deliver(way, packet)        from any thread: turned away, kept for the next frame, or read at once
//! begin_frame(now, frame)     -> FeedbackUpdate: liveness, and the news of each way since the last frame
//! take(way)                   -> the newest state of a way, where packets are read at once
//! ```
//!
//! In one pass packets wait for the next frame ([`Reading::WithFrames`]), in the order of [`Way`]: equal video with
//! equal feedback between the same frames gives equal streams, whichever way was quicker. In two passes feedback names
//! frames of the past and is read on arrival ([`Reading::AtOnce`]).
//!
//! Parsing is bounded for each way. One server may send the same states by two ways. A state that came by one way is no
//! news by the other, but it is kept: the other way steers alone when the first falls silent. While both live, the
//! slower one's regions would outlast newer ones; so a way whose states have been received before by one earlier in the
//! order of [`Way`] rests while that one is ahead. An earlier way never rests for a later one: unprotected feedback
//! must not displace sealed feedback.

use std::collections::VecDeque;
use std::sync::Arc;

use dds_protocol::assembler::{Assembler, Counts, Outcome as Assembled};
use dds_protocol::feedback::{self, FeedbackError, FeedbackState};
use dds_protocol::serial::Serial16;

use super::clock::Clock;
use super::stats::FeedbackStats;
use super::types::{CameraSettings, Notice};

/// Burst that the rate limit lets through: the packets of one second.
const BURST_NS: u64 = 1_000_000_000;
/// Lowest packet rate let through, per second: a server of a very slow camera still repeats its state every 500 ms.
const MIN_PACKET_RATE: f64 = 4.0;
/// Silence after which a new numbering is accepted where no feedback timeout is set.
const DEFAULT_RESYNC_NS: u64 = 2_000_000_000;
/// Generations remembered per way, to recognise repetitions by another: how far one way may be ahead of the other.
pub const RECENT: usize = 16;
/// Most packets of each way that wait for the next frame.
pub const MOST_WAITING: usize = 256;

/// A way that feedback comes by. Ways are independent: each has its own rate limit, numbering and liveness, and its
/// newest state acts beside those of the others. They share the area that regions may refine in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Custom upstream event of a server in the same process.
    Event,
    /// Own channel (`feedback-uri`).
    Uri,
    /// Request pad `feedback`.
    Pad,
    /// RTCP APP packet authenticated by SRTP, of an RTP session that the encoder's data path runs through.
    Srtcp,
    /// RTCP APP packet of such a session, not authenticated.
    Rtcp,
}

impl Way {
    /// Number of ways.
    pub const COUNT: usize = 5;
    /// All ways, in order.
    pub const ALL: [Self; Self::COUNT] = [Self::Event, Self::Uri, Self::Pad, Self::Srtcp, Self::Rtcp];
}

/// Fate of a feedback packet.
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
    /// Its generation is not newer.
    Stale,
    /// Received before.
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
    /// Not read: too many packets.
    RateLimited,
    /// Not read: steering is switched off.
    Refused,
}

/// When packets are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// With the next frame.
    #[default]
    WithFrames,
    /// On arrival.
    AtOnce,
}

/// Which ways are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// By [`Way`]: those that are not taken.
    pub closed: [bool; Way::COUNT],
    /// They were closed by default, not by the user.
    pub automatic: bool,
}

/// Fate of a delivered packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It waits for the next frame.
    Waits,
    /// It was read; [`FeedbackReceiver::take`] returns the state it completed.
    Read(Outcome),
    /// It is not for this stream, or came by a way that is not taken.
    TurnedAway,
    /// The first one by a way that is not taken.
    FirstByClosedWay {
        /// It was closed by default, not by the user.
        automatic: bool,
    },
}

/// A complete generation.
#[derive(Clone, Debug)]
pub struct ReceivedState {
    /// Its regions and the frame they derive from.
    pub feedback: Arc<FeedbackState>,
    /// No other way has brought it before.
    pub news: bool,
}

/// Whether a server is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Liveness {
    /// No feedback yet since the first frame.
    #[default]
    Waiting,
    /// Feedback arrives.
    Up,
    /// Silent for the timeout.
    Lost,
}

/// News of a way for a frame.
#[derive(Clone, Debug, Default)]
pub struct WayUpdate {
    /// Its earlier state has ended, because the way is silent or was flushed.
    pub ended: bool,
    /// The newest state since the last frame, which replaces the one before.
    pub state: Option<ReceivedState>,
    /// Its state is superseded by that of another way that brings the same.
    pub rests: bool,
}

/// Feedback for a frame: liveness, and the news of each way.
#[derive(Clone, Debug, Default)]
pub struct FeedbackUpdate {
    /// Whether a server is alive.
    pub liveness: Liveness,
    /// Notice for the application.
    pub notice: Option<Notice>,
    /// By [`Way`].
    pub ways: [WayUpdate; Way::COUNT],
}

/// State of one way.
#[derive(Clone, Debug)]
struct Channel {
    assembler: Assembler,
    /// Counts of the assembler that are in the statistics already.
    counted: Counts,
    /// Unspent time of the rate limit, a token bucket; a packet costs the reciprocal of the permitted rate.
    credit_ns: u64,
    /// Packets that wait for the next frame.
    waiting: VecDeque<Box<[u8]>>,
    pending: Option<ReceivedState>,
    /// Its earlier state was thrown away.
    flushed: bool,
    /// The last usable generations, newest last.
    recent: VecDeque<Arc<FeedbackState>>,
    /// Index of an earlier way that has brought the same states.
    follows: Option<usize>,
    last_complete: Option<u64>,
    /// Start of the silence that resets the numbering: first frame, or the last complete generation or resync.
    quiet_since: Option<u64>,
}

impl Default for Channel {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Channel {
    fn new(stream_id: u32) -> Self {
        Self {
            assembler: Assembler::new(stream_id),
            counted: Counts::default(),
            credit_ns: BURST_NS,
            waiting: VecDeque::new(),
            pending: None,
            flushed: false,
            recent: VecDeque::with_capacity(RECENT),
            follows: None,
            last_complete: None,
            quiet_since: None,
        }
    }

    /// A server that restarts may number its generations behind those of its predecessor. After a time without a usable
    /// generation the next complete one is accepted, whatever its number.
    fn resync(&mut self, now: u64, timeout_ns: u64, stats: &mut FeedbackStats) {
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

    fn count_rest(&mut self, stats: &mut FeedbackStats) {
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

/// Receives feedback by all ways, for one stream after another: parses packets, judges liveness and counts.
#[derive(Clone, Debug, Default)]
pub struct FeedbackReceiver {
    /// Stream that packets have to name, once there is one.
    stream_id: Option<u32>,
    reading: Reading,
    ways: Ways,
    /// Whether feedback by a closed way was reported.
    closed_way_reported: bool,
    settings: CameraSettings,
    clock: Clock,
    /// By [`Way`]: a flood by one does not affect the others.
    channels: [Channel; Way::COUNT],
    refilled_at: u64,
    newest_frame: Option<u64>,
    liveness: Liveness,
    /// Time of the first frame: begin of the silence where no feedback has come yet.
    started: Option<u64>,
    /// Time of the last usable feedback before it was reported lost.
    lost_since: u64,
    stats: FeedbackStats,
}

impl FeedbackReceiver {
    /// A receiver that takes these ways, before there is a stream.
    pub fn new(ways: Ways, reading: Reading) -> Self {
        Self {
            reading,
            ways,
            ..Self::default()
        }
    }

    /// Begins a stream: feedback for the one before becomes foreign. Counts and rate limits continue.
    pub fn restart(&mut self, stream_id: u32) {
        self.stream_id = Some(stream_id);
        for channel in &mut self.channels {
            *channel = Channel {
                credit_ns: channel.credit_ns,
                waiting: std::mem::take(&mut channel.waiting),
                ..Channel::new(stream_id)
            };
        }
        (self.liveness, self.started, self.newest_frame) = (Liveness::Waiting, None, None);
    }

    /// Sets new settings: timeout, frame rate, and whether feedback is acted on at all.
    pub fn set_settings(&mut self, settings: CameraSettings) {
        self.settings = settings.clamped();
    }

    /// Takes one bare feedback packet (no RTCP framing) from any thread. Packets for other streams take no place in the
    /// queue.
    pub fn deliver(&mut self, way: Way, packet: &[u8]) -> Delivery {
        let known = self.stream_id;
        let ours = known.is_none_or(|id| turned_away(id, packet, &mut self.stats).is_none());
        if !ours || self.ways.closed[way as usize] {
            return self.turn_away(way, ours);
        }
        // Before there is a stream, only a stream whose ID is known in advance can have feedback.
        if known.is_none() || self.reading == Reading::WithFrames {
            return self.keep_waiting(way, packet);
        }
        Delivery::Read(self.push(self.clock.now(), way, packet))
    }

    fn keep_waiting(&mut self, way: Way, packet: &[u8]) -> Delivery {
        let waiting = &mut self.channels[way as usize].waiting;
        if waiting.len() >= MOST_WAITING {
            waiting.pop_front();
            self.stats.waiting_dropped += 1;
        }
        // Longer ones are malformed whatever they hold; the rest need not be copied to be counted.
        let kept = packet.len().min(feedback::MAX_PACKET + 1);
        waiting.push_back(packet[..kept].into());
        Delivery::Waits
    }

    fn turn_away(&mut self, way: Way, ours: bool) -> Delivery {
        self.stats.arrived(way);
        if !ours {
            return Delivery::TurnedAway;
        }
        self.stats.packets_way_closed += 1;
        match std::mem::replace(&mut self.closed_way_reported, true) {
            false => Delivery::FirstByClosedWay {
                automatic: self.ways.automatic,
            },
            true => Delivery::TurnedAway,
        }
    }

    /// Counts an RTCP datagram without a feedback packet, readable or not.
    pub fn count_rtcp(&mut self, readable: bool) {
        let stats = &mut self.stats;
        *match readable {
            true => &mut stats.rtcp_without_feedback,
            false => &mut stats.rtcp_malformed,
        } += 1;
    }

    /// Begins the frame of this number, which rises: reads the waiting packets, and judges silence.
    pub fn begin_frame(&mut self, now: u64, frame: u64) -> FeedbackUpdate {
        let now = self.observe(now);
        self.read_waiting(now);
        self.newest_frame = Some(frame);
        let started = *self.started.get_or_insert(now);
        let notice = self.follow_liveness(now, started);
        let mut frame_update = FeedbackUpdate {
            liveness: self.liveness,
            notice,
            ..FeedbackUpdate::default()
        };
        for way in Way::ALL {
            let update = &mut frame_update.ways[way as usize];
            update.ended = std::mem::take(&mut self.channels[way as usize].flushed);
            if self.is_silent(now, way) {
                self.drop_pending(way);
                update.ended = true;
            }
            if self.reading == Reading::WithFrames {
                update.state = self.take(way);
            }
            update.rests = self.rests(way, now);
        }
        frame_update
    }

    fn read_waiting(&mut self, now: u64) {
        for way in Way::ALL {
            while let Some(packet) = self.channels[way as usize].waiting.pop_front() {
                self.push(now, way, &packet);
            }
        }
    }

    /// Reads one packet.
    pub(super) fn push(&mut self, now: u64, way: Way, packet: &[u8]) -> Outcome {
        let now = self.observe(now);
        self.stats.arrived(way);
        if !self.settings.steered {
            self.stats.packets_refused += 1;
            return Outcome::Refused;
        }
        // Checked before it costs a token: foreign packets must not use up our rate.
        let stream_id = self.stream_id.unwrap_or_default();
        if let Some(outcome) = turned_away(stream_id, packet, &mut self.stats) {
            return outcome;
        }
        self.refill(now);
        let (channel, stats) = (&mut self.channels[way as usize], &mut self.stats);
        if !channel.take_token(self.settings.frame_rate) {
            stats.packets_rate_limited += 1;
            return Outcome::RateLimited;
        }
        channel.resync(now, self.settings.feedback_timeout_ns, stats);
        let assembled = channel.assembler.push(packet);
        channel.count_rest(stats);
        match assembled {
            Assembled::Complete(state) => self.keep(now, way, state),
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

    fn keep(&mut self, now: u64, way: Way, state: FeedbackState) -> Outcome {
        if self.newest_frame.is_none_or(|newest| state.frame > newest) {
            self.stats.packets_complete += 1;
            self.stats.generations_future += 1;
            return Outcome::Future { frame: state.frame };
        }
        let (feedback, own) = (Arc::new(state), way as usize);
        let news = self.is_news(own, &feedback);
        let channel = &mut self.channels[own];
        channel.last_complete = Some(now);
        channel.quiet_since = Some(now);
        if channel.recent.len() == RECENT {
            channel.recent.pop_front();
        }
        channel.recent.push_back(feedback.clone());
        let outcome = if news {
            self.stats.packets_complete += 1;
            self.stats.wished(&feedback.wishes, &self.settings.wishes);
            self.stats.regions_requested += feedback.regions.len() as u64;
            Outcome::Complete {
                generation: feedback.generation,
                frame: feedback.frame,
                regions: feedback.regions.len(),
            }
        } else {
            // One server sends the same by two ways. It is kept, so that this way steers when the other one falls
            // silent.
            self.stats.packets_duplicate += 1;
            Outcome::Duplicate
        };
        let replaced = channel.pending.replace(ReceivedState { feedback, news });
        self.stats.generations_superseded += u64::from(replaced.is_some_and(|state| state.news));
        outcome
    }

    /// Whether no other way has brought this state; also updates which way this one follows.
    fn is_news(&mut self, own: usize, state: &Arc<FeedbackState>) -> bool {
        let mut news = true;
        for other in (0..Way::COUNT).filter(|other| *other != own) {
            let (first, second) = (own.min(other), own.max(other));
            let is_ahead = |newest: &Arc<FeedbackState>| newest.generation.is_newer_than(state.generation);
            if self.channels[other].recent.contains(state) {
                news = false;
                let follows = &mut self.channels[second].follows;
                *follows = Some(follows.map_or(first, |known| known.min(first)));
            } else if self.channels[own].follows == Some(other)
                && self.channels[other].recent.back().is_some_and(is_ahead)
            {
                // Another server's.
                self.channels[own].follows = None;
            }
        }
        news
    }

    fn refill(&mut self, now: u64) {
        let gained = now.saturating_sub(self.refilled_at);
        self.refilled_at = now;
        for channel in &mut self.channels {
            channel.credit_ns = channel.credit_ns.saturating_add(gained).min(BURST_NS);
        }
    }

    /// The newest complete generation of a way since the last call, which counts as applied.
    pub fn take(&mut self, way: Way) -> Option<ReceivedState> {
        let state = self.channels[way as usize].pending.take()?;
        if state.news {
            self.stats.generations_applied += 1;
            self.stats.generation_last = u64::from(state.feedback.generation.0);
            self.stats.generations_empty += u64::from(state.feedback.regions.is_empty());
        }
        Some(state)
    }

    /// Drops waiting and applied states, for a flushing seek: their regions refer to other pictures.
    pub fn flush(&mut self) {
        for way in Way::ALL {
            self.drop_pending(way);
            let channel = &mut self.channels[way as usize];
            channel.waiting.clear();
            channel.flushed = true;
        }
    }

    fn drop_pending(&mut self, way: Way) {
        let waited = self.channels[way as usize].pending.take();
        self.stats.generations_outdated += u64::from(waited.is_some_and(|state| state.news));
    }

    /// Counts since [`Self::new`].
    pub fn stats(&self) -> &FeedbackStats {
        &self.stats
    }

    /// Number of packets that wait for the next frame, and of generations remembered to recognise repetitions.
    pub fn kept(&self) -> (usize, usize) {
        let waiting = self.channels.iter().map(|channel| channel.waiting.len()).sum();
        (waiting, self.channels.iter().map(|channel| channel.recent.len()).sum())
    }

    /// Time of the last usable generation, by whichever way.
    fn last_complete(&self) -> Option<u64> {
        self.channels.iter().filter_map(|channel| channel.last_complete).max()
    }

    /// Whether a way has brought a state and has been silent for the timeout.
    fn is_silent(&self, now: u64, way: Way) -> bool {
        let last = self.channels[way as usize].last_complete;
        self.settings.steered && last.is_some_and(|at| self.is_over(now.saturating_sub(at)))
    }

    fn is_over(&self, silence_ns: u64) -> bool {
        let timeout_ns = self.settings.feedback_timeout_ns;
        timeout_ns > 0 && silence_ns >= timeout_ns
    }

    /// Whether the state of this way is superseded by another way that brings the same and is alive.
    fn rests(&self, way: Way, now: u64) -> bool {
        let own = &self.channels[way as usize];
        let Some(other) = own.follows.map(|other| &self.channels[other]) else {
            return false;
        };
        let lives = |at: u64| !self.is_over(now.saturating_sub(at));
        let ahead = other.recent.back().zip(own.recent.back());
        other.last_complete.is_some_and(lives) && ahead.is_some_and(|(a, b)| a.generation.is_newer_than(b.generation))
    }

    /// Detects silence and its end.
    fn follow_liveness(&mut self, now: u64, started: u64) -> Option<Notice> {
        if !self.settings.steered {
            return None;
        }
        let last = self.last_complete();
        let silence_ns = now.saturating_sub(last.unwrap_or(started));
        match (self.liveness, self.is_over(silence_ns)) {
            (Liveness::Waiting | Liveness::Up, true) => {
                self.liveness = Liveness::Lost;
                self.lost_since = now.saturating_sub(silence_ns);
                self.stats.feedback_lost += 1;
                Some(Notice::FeedbackLost {
                    silence_ns,
                    never: last.is_none(),
                })
            }
            (Liveness::Lost, false) if last.is_some() => {
                self.liveness = Liveness::Up;
                self.stats.feedback_recovered += 1;
                Some(Notice::FeedbackRecovered {
                    silence_ns: now.saturating_sub(self.lost_since),
                })
            }
            (Liveness::Waiting, false) if last.is_some() => {
                self.liveness = Liveness::Up;
                Some(Notice::FeedbackStarted)
            }
            _ => None,
        }
    }

    /// Observes a time passed by a caller, and returns the current time.
    pub(super) fn observe(&mut self, now: u64) -> u64 {
        let (now, back) = self.clock.observe(now);
        if let Some(by) = back {
            self.refilled_at = self.refilled_at.saturating_sub(by);
            self.started = self.started.map(|time| time.saturating_sub(by));
            let times = self.channels.iter_mut().flat_map(Channel::times);
            times.for_each(|time| *time = time.saturating_sub(by));
        }
        now
    }
}

/// Judges a packet by its header alone, and counts it; `None`: it is for the stream, as far as the header shows.
fn turned_away(stream_id: u32, packet: &[u8], stats: &mut FeedbackStats) -> Option<Outcome> {
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
            ..FeedbackState::default()
        })
        .packets
    }

    fn packet(generation: u16, frame: u64) -> Vec<u8> {
        packets(STREAM, generation, frame, 1).remove(0)
    }

    /// A receiver that has begun frame 100.
    struct Bench {
        receiver: FeedbackReceiver,
        settings: CameraSettings,
    }

    impl Bench {
        fn new() -> Self {
            let mut receiver = FeedbackReceiver::default();
            receiver.restart(STREAM);
            receiver.begin_frame(0, 100);
            Self {
                receiver,
                settings: CameraSettings::default(),
            }
        }

        fn push(&mut self, now: u64, packet: &[u8]) -> Outcome {
            self.push_by(now, Way::Pad, packet)
        }

        fn push_by(&mut self, now: u64, way: Way, packet: &[u8]) -> Outcome {
            self.receiver.set_settings(self.settings);
            self.receiver.push(now, way, packet)
        }

        fn rests(&mut self, way: Way, now: u64, timeout_ns: u64) -> bool {
            self.receiver.set_settings(CameraSettings {
                feedback_timeout_ns: timeout_ns,
                ..self.settings
            });
            self.receiver.rests(way, now)
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
            bench.receiver.take(Way::Pad).map(|p| p.feedback.generation),
            Some(Serial16(4))
        );
        assert!(bench.receiver.take(Way::Pad).is_none());
        assert_eq!(bench.receiver.stats.packets_complete, 3);
        assert_eq!(bench.receiver.stats.generations_superseded, 2);
        assert_eq!(
            (
                bench.receiver.stats.packets_stale,
                bench.receiver.stats.packets_duplicate
            ),
            (1, 1)
        );
    }

    #[test]
    fn foreign_and_broken_packets_are_counted_and_change_nothing() {
        let mut bench = Bench::new();
        assert_eq!(bench.push(0, &packets(STREAM + 1, 1, 1, 1)[0]), Outcome::Foreign);
        assert!(matches!(bench.push(0, b"not feedback at all"), Outcome::Malformed(_)));
        assert!(matches!(bench.push(0, &[]), Outcome::Malformed(_)));
        assert_eq!(
            (
                bench.receiver.stats.packets_foreign,
                bench.receiver.stats.packets_malformed
            ),
            (1, 2)
        );
        assert_eq!(bench.receiver.last_complete(), None);
        assert!(bench.receiver.take(Way::Pad).is_none());
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
        assert!(bench.receiver.take(Way::Pad).is_none());
        assert!(matches!(bench.push(0, last), Outcome::Complete { regions: 250, .. }));
        assert_eq!(bench.receiver.stats.regions_requested, 250);
    }

    #[test]
    fn an_interrupted_generation_is_counted() {
        let mut bench = Bench::new();
        let parts = packets(STREAM, 9, 1, 250);
        bench.push(0, &parts[0]);
        bench.push(0, &packet(10, 1));
        assert_eq!(bench.receiver.stats.generations_incomplete, 1);
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
        assert_eq!(bench.receiver.stats.packets_rate_limited, 10_000 - parsed);
    }

    #[test]
    fn a_flood_by_one_way_leaves_the_others_open() {
        let mut bench = Bench::new();
        while bench.push_by(0, Way::Rtcp, &packet(1, 1)) != Outcome::RateLimited {}
        for way in [Way::Pad, Way::Event, Way::Uri] {
            assert_eq!(bench.push_by(0, way, &packet(1, 1)), Outcome::Duplicate);
        }
        assert_eq!(bench.push_by(0, Way::Rtcp, &packet(2, 1)), Outcome::RateLimited);
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
        assert_eq!(bench.receiver.stats.packets_rate_limited, 0);
        assert_eq!(
            (
                bench.receiver.stats.packets_foreign,
                bench.receiver.stats.packets_malformed,
                bench.receiver.stats.packets_unknown_version
            ),
            (10_000, 10_000, 10_000)
        );
    }

    #[test]
    fn each_way_has_its_own_numbering() {
        let mut bench = Bench::new();
        // A high number by one way makes nothing stale by another.
        for generation in [1000, 20_000, 30_000] {
            bench.push_by(0, Way::Rtcp, &packet(generation, 1));
        }
        for generation in [10, 11] {
            let outcome = bench.push_by(0, Way::Uri, &packet(generation, 2));
            assert!(matches!(outcome, Outcome::Complete { .. }), "{outcome:?}");
        }
        let mut newest = |way| bench.receiver.take(way).map(|p| p.feedback.generation.0);
        assert_eq!((newest(Way::Uri), newest(Way::Rtcp)), (Some(11), Some(30_000)));
        assert!(!bench.rests(Way::Rtcp, 0, MS) && !bench.rests(Way::Uri, 0, MS));
    }

    #[test]
    fn what_one_server_sends_by_two_ways_is_counted_once_and_the_slower_way_rests() {
        for (fast, slow) in [(Way::Uri, Way::Rtcp), (Way::Rtcp, Way::Uri)] {
            let mut bench = Bench::new();
            for generation in 1..=20 {
                let outcome = bench.push_by(0, fast, &packet(generation, 1));
                assert!(matches!(outcome, Outcome::Complete { .. }), "{outcome:?}");
                // Three generations behind.
                if generation > 3 {
                    assert_eq!(bench.push_by(0, slow, &packet(generation - 3, 1)), Outcome::Duplicate);
                }
            }
            assert_eq!(
                (
                    bench.receiver.stats.packets_complete,
                    bench.receiver.stats.packets_duplicate
                ),
                (20, 17)
            );
            assert_eq!(bench.receiver.stats.regions_requested, 20);
            // Sealed feedback is never displaced by unprotected feedback.
            assert_eq!(bench.rests(Way::Rtcp, 0, MS), slow == Way::Rtcp);
            assert!(!bench.rests(Way::Uri, 0, MS));
            // The fast one dies: the state of the slow one acts again.
            assert!(!bench.rests(Way::Rtcp, MS, MS));
            let kept = bench.receiver.take(slow).expect("kept");
            assert_eq!((kept.feedback.generation, kept.news), (Serial16(17), false));
        }
    }

    #[test]
    fn another_server_by_another_way_is_put_aside_by_nobody() {
        let mut bench = Bench::new();
        bench.push_by(0, Way::Uri, &packets(STREAM, 5, 1, 1)[0]);
        bench.push_by(0, Way::Rtcp, &packets(STREAM, 5, 1, 1)[0]);
        bench.push_by(0, Way::Uri, &packets(STREAM, 6, 1, 1)[0]);
        assert!(bench.rests(Way::Rtcp, 0, MS), "as long as it may be the same one");
        // Its regions differ from all that the other has sent.
        bench.push_by(0, Way::Uri, &packets(STREAM, 9, 1, 1)[0]);
        bench.push_by(0, Way::Rtcp, &packets(STREAM, 7, 1, 4)[0]);
        assert!(!bench.rests(Way::Rtcp, 0, MS));
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
        // Its successor numbers behind: stale until the old one has been silent for the timeout.
        for now in [100, 1000, 1999] {
            assert_eq!(bench.push(now * MS, &packet(10, 1)), Outcome::Stale);
        }
        assert!(matches!(
            bench.push(2000 * MS, &packet(11, 1)),
            Outcome::Complete { .. }
        ));
        assert_eq!(bench.receiver.stats.resyncs, 1);
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
        assert_eq!(bench.receiver.stats.generations_future, 1);
        assert!(bench.receiver.take(Way::Pad).is_none());
        assert_eq!(bench.receiver.last_complete(), None);
    }

    #[test]
    fn nothing_is_parsed_while_steering_is_off() {
        let mut bench = Bench::new();
        bench.settings.steered = false;
        assert_eq!(bench.push(0, &packet(1, 1)), Outcome::Refused);
        assert_eq!(bench.receiver.stats.packets_refused, 1);
    }

    #[test]
    fn packets_wait_for_the_next_frame_whichever_way_was_quicker() {
        let news_by_way = |order: [Way; 2]| {
            let mut bench = Bench::new();
            for way in order {
                assert_eq!(bench.receiver.deliver(way, &packet(1, 90)), Delivery::Waits);
            }
            assert_eq!(bench.receiver.stats.packets, 0);
            let update = bench.receiver.begin_frame(MS, 101);
            assert_eq!(update.liveness, Liveness::Up);
            let news = |way: Way| update.ways[way as usize].state.as_ref().map(|state| state.news);
            (news(Way::Event), news(Way::Rtcp))
        };
        let expected = (Some(true), Some(false));
        assert_eq!(news_by_way([Way::Event, Way::Rtcp]), expected);
        assert_eq!(news_by_way([Way::Rtcp, Way::Event]), expected);
    }

    #[test]
    fn where_they_are_read_at_once_they_wait_for_no_frame() {
        let mut receiver = FeedbackReceiver::new(Ways::default(), Reading::AtOnce);
        receiver.restart(STREAM);
        receiver.begin_frame(0, 100);
        let delivery = receiver.deliver(Way::Pad, &packet(1, 90));
        assert!(
            matches!(delivery, Delivery::Read(Outcome::Complete { .. })),
            "{delivery:?}"
        );
        let state = receiver.take(Way::Pad).expect("read");
        assert_eq!((state.feedback.frame, state.news), (90, true));
        let update = receiver.begin_frame(MS, 101);
        assert_eq!(
            (update.liveness, update.ways.iter().any(|way| way.state.is_some())),
            (Liveness::Up, false)
        );
    }

    #[test]
    fn a_closed_way_is_told_once_and_counted() {
        let mut ways = Ways::default();
        ways.closed[Way::Rtcp as usize] = true;
        let mut receiver = FeedbackReceiver::new(ways, Reading::WithFrames);
        receiver.restart(STREAM);
        // Packets for other streams are not reported.
        let foreign = packets(STREAM + 1, 1, 1, 1).remove(0);
        assert_eq!(receiver.deliver(Way::Rtcp, &foreign), Delivery::TurnedAway);
        let first = receiver.deliver(Way::Rtcp, &packet(1, 1));
        assert_eq!(first, Delivery::FirstByClosedWay { automatic: false });
        assert_eq!(receiver.deliver(Way::Rtcp, &packet(2, 1)), Delivery::TurnedAway);
        assert_eq!(receiver.deliver(Way::Pad, &packet(2, 1)), Delivery::Waits);
        assert_eq!(
            (receiver.stats.packets_way_closed, receiver.stats.packets_foreign),
            (2, 1)
        );
    }

    #[test]
    fn a_flood_between_two_frames_takes_no_more_than_its_places() {
        let mut bench = Bench::new();
        for _ in 0..10 * MOST_WAITING {
            bench.receiver.deliver(Way::Rtcp, &packet(1, 1));
        }
        bench.receiver.deliver(Way::Uri, &packet(1, 1));
        assert_eq!(bench.receiver.stats.waiting_dropped, 9 * MOST_WAITING as u64);
        assert!(
            bench.receiver.begin_frame(MS, 101).ways[Way::Uri as usize]
                .state
                .is_some()
        );
    }
}
