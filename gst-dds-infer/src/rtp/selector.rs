// SPDX-License-Identifier: MPL-2.0

//! Selects one of the RTP streams that arrive, to pass it on.
//!
//! A stream is an SSRC from one address. The selected one stays selected while its packets arrive, for [`HOLD`] after
//! the last of them, and until its BYE (packets overtaken by the BYE still pass). Then the first stream is selected of
//! which one whole key frame has arrived: from the first packet of the access unit, including parameter sets in front,
//! to its last one. Candidates are kept from their newest whole key frame on, so that a restarted camera is decoded
//! from there and not from its next one.
//!
//! Anyone can send. Candidates are bounded in number and bytes; a flood of sources can neither displace one that goes
//! on sending nor keep it out for long.

use std::collections::VecDeque;
use std::time::Duration;

use dds_protocol::nal::Codec;

use super::packet::Packet;
use super::payload::Contents;

/// How long a silent stream stays selected.
pub const HOLD: Duration = Duration::from_secs(1);
/// How long after a BYE packets of its stream may still arrive: it uses another port, and overtakes them.
pub const OVERTAKEN: Duration = Duration::from_millis(250);
/// Age of a key frame from which on a stream is not selected: its packets would be decoded far too late.
pub const KEEP: Duration = Duration::from_secs(2);
/// Most candidates.
pub const MAX_CANDIDATES: usize = 512;
/// Memory in packets of one candidate, and of all.
pub const MAX_CANDIDATE_BYTES: usize = 8 << 20;
/// See [`MAX_CANDIDATE_BYTES`].
pub const MAX_BYTES: usize = 16 << 20;

/// Cost of a packet beside its bytes.
const PACKET_OVERHEAD: usize = 512;
/// If all places are taken, a stream silent for this time yields its place: those of a flood send once, cameras more
/// often.
const IDLE: Duration = Duration::from_millis(250);
/// Shortest time between two requests for key frames, of one stream and of all.
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);
const REQUEST_INTERVAL_ANY: Duration = Duration::from_millis(100);
/// Most packets by which one may be late and still be put in order.
const REORDER: usize = 64;
/// A larger jump of the sequence number is a restart.
const MAX_JUMP: i16 = 1000;

/// How to decide whether a stream can be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Key frames are recognised; `parameters`: caps bring parameter sets, so that streams need not.
    Video {
        /// The standard.
        codec: Codec,
        /// Parameter sets are known from elsewhere.
        parameters: bool,
    },
    /// Any whole frame will do, between two ends of frames: their decoders request what they need.
    Other,
}

/// Decision about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<P> {
    /// It belongs to the selected stream.
    Pass,
    /// It belongs to a candidate and waits.
    Queued,
    /// There is no place for its stream, or it is too late to be put in order.
    Dropped,
    /// Its stream is selected from here on, with these packets in order, including this one.
    Takeover {
        /// SSRC of the stream.
        ssrc: u32,
        /// From the beginning of the key frame on.
        packets: Vec<P>,
    },
}

/// A verdict, and whether to request a key frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<P> {
    /// Verdict on the packet.
    pub verdict: Verdict<P>,
    /// SSRC of the stream from which to request a key frame: no stream is selected, and no key frame is known.
    pub key_unit_request: Option<u32>,
}

/// Counts since construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelectorStats {
    /// Packets of selected streams, including those passed on at their selection.
    pub passed: u64,
    /// Packets of other streams: dropped or waiting.
    pub foreign: u64,
    /// Of those, packets of streams without a place.
    pub crowded: u64,
    /// Selections of another stream.
    pub takeovers: u64,
    /// Streams that sent BYE while selected.
    pub byes: u64,
    /// Requests for key frames.
    pub key_unit_requests: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin<A> {
    ssrc: u32,
    address: A,
}

#[derive(Debug)]
struct Selected<A> {
    origin: Origin<A>,
    last: Duration,
    /// Time of its BYE, unless another stream was selected since.
    left: Option<Duration>,
}

#[derive(Debug)]
struct Entry<P> {
    /// Sequence number, not wrapped.
    number: i64,
    timestamp: u32,
    marker: bool,
    contents: Contents,
    at: Duration,
    bytes: usize,
    packet: P,
}

#[derive(Debug)]
struct Candidate<A, P> {
    origin: Origin<A>,
    last: Duration,
    packets: u64,
    newest: i64,
    /// Waiting packets, in order of their numbers.
    kept: VecDeque<Entry<P>>,
    bytes: usize,
    /// They begin with a whole key frame.
    whole: bool,
    /// Time stamp of the last picture that begins like a key frame.
    key: Option<u32>,
    /// Time stamp of the last picture that was searched, and how often.
    looked: Option<(u32, usize)>,
    requested: Option<Duration>,
}

/// Selects one stream. `A` distinguishes senders with one SSRC, `P` is a packet.
#[derive(Debug)]
pub struct StreamSelector<A, P> {
    format: Format,
    selected: Option<Selected<A>>,
    candidates: Vec<Candidate<A, P>>,
    requested: Option<Duration>,
    stats: SelectorStats,
}

impl<A: Copy + Eq, P> StreamSelector<A, P> {
    /// A selector without a selected stream.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            selected: None,
            candidates: Vec::new(),
            requested: None,
            stats: SelectorStats::default(),
        }
    }

    /// Sets the format of packets from here on.
    pub fn set_format(&mut self, format: Format) {
        if self.format != format {
            self.format = format;
            self.candidates.clear();
        }
    }

    /// SSRC of the selected stream.
    pub fn selected(&self) -> Option<u32> {
        self.selected
            .as_ref()
            .filter(|h| h.left.is_none())
            .map(|h| h.origin.ssrc)
    }

    /// Candidates, and the memory in their packets.
    pub fn waiting(&self) -> (usize, usize) {
        (self.candidates.len(), self.candidates.iter().map(|c| c.bytes).sum())
    }

    /// Counts since construction.
    pub fn stats(&self) -> SelectorStats {
        self.stats
    }

    /// Forgets all candidates: time jumps.
    pub fn flush(&mut self) {
        self.candidates.clear();
    }

    /// Takes a BYE at `now`. Returns whether its stream was selected.
    pub fn bye(&mut self, now: Duration, ssrc: u32) -> bool {
        let selected = self
            .selected
            .as_mut()
            .filter(|h| h.left.is_none() && h.origin.ssrc == ssrc);
        let held = selected.map(|selected| selected.left = Some(now)).is_some();
        self.stats.byes += u64::from(held);
        held
    }

    /// Takes a packet at `now`, which never decreases. `size`: its memory; `keep` returns the packet to store.
    pub fn push(
        &mut self,
        now: Duration,
        packet: &Packet<'_>,
        address: A,
        size: usize,
        keep: impl FnOnce() -> P,
    ) -> Outcome<P> {
        let ssrc = packet.ssrc;
        let origin = Origin { ssrc, address };
        self.sweep(now);
        let overtaken = |left: Duration| now.saturating_sub(left) < OVERTAKEN;
        if self
            .selected
            .as_ref()
            .is_some_and(|h| h.left.is_some_and(|left| !overtaken(left)))
        {
            self.selected = None;
        }
        if let Some(selected) = self.selected.as_mut().filter(|h| h.origin == origin) {
            selected.last = now;
            self.stats.passed += 1;
            return Outcome {
                verdict: Verdict::Pass,
                key_unit_request: None,
            };
        }
        self.stats.foreign += 1;
        let dropped = Outcome {
            verdict: Verdict::Dropped,
            key_unit_request: None,
        };
        let Some(index) = self.place(now, origin) else {
            self.stats.crowded += 1;
            return dropped;
        };
        let is_free = self.is_free(now);
        let candidate = &mut self.candidates[index];
        if !candidate.add(now, packet, size, self.format, keep) {
            return dropped;
        }
        if is_free && candidate.whole {
            let candidate = self.candidates.swap_remove(index);
            self.selected = Some(Selected {
                origin,
                last: now,
                left: None,
            });
            self.stats.takeovers += 1;
            let packets: Vec<P> = candidate.kept.into_iter().map(|entry| entry.packet).collect();
            self.stats.passed += packets.len() as u64;
            self.stats.foreign -= packets.len() as u64;
            return Outcome {
                verdict: Verdict::Takeover { ssrc, packets },
                key_unit_request: None,
            };
        }
        let recent = self.requested.is_some_and(|at| now - at < REQUEST_INTERVAL_ANY);
        let key_frames = matches!(self.format, Format::Video { .. });
        let key_unit_request = (key_frames && is_free && !recent && candidate.needs_key(now)).then_some(ssrc);
        if key_unit_request.is_some() {
            (candidate.requested, self.requested) = (Some(now), Some(now));
            self.stats.key_unit_requests += 1;
        }
        self.bound();
        Outcome {
            verdict: Verdict::Queued,
            key_unit_request,
        }
    }

    fn is_free(&self, now: Duration) -> bool {
        self.selected
            .as_ref()
            .is_none_or(|selected| selected.left.is_some() || now.saturating_sub(selected.last) >= HOLD)
    }

    /// Drops silent candidates.
    fn sweep(&mut self, now: Duration) {
        self.candidates.retain(|c| now.saturating_sub(c.last) <= KEEP);
    }

    /// Place of a candidate: its own, a free one, or that of one silent for [`IDLE`].
    fn place(&mut self, now: Duration, origin: Origin<A>) -> Option<usize> {
        if let Some(index) = self.candidates.iter().position(|c| c.origin == origin) {
            return Some(index);
        }
        if self.candidates.len() >= MAX_CANDIDATES {
            let idle = |c: &Candidate<A, P>| now.saturating_sub(c.last) >= IDLE;
            let oldest = (0..self.candidates.len())
                .filter(|i| idle(&self.candidates[*i]))
                .min_by_key(|i| self.candidates[*i].last)?;
            self.candidates.swap_remove(oldest);
        }
        self.candidates.push(Candidate {
            origin,
            last: now,
            packets: 0,
            newest: 0,
            kept: VecDeque::new(),
            bytes: 0,
            whole: false,
            key: None,
            looked: None,
            requested: None,
        });
        Some(self.candidates.len() - 1)
    }

    /// Drops packets beyond [`MAX_BYTES`].
    fn bound(&mut self) {
        while self.waiting().1 > MAX_BYTES {
            let Some(largest) = self.candidates.iter_mut().max_by_key(|c| c.bytes) else {
                return;
            };
            largest.clear();
        }
    }
}

impl<A, P> Candidate<A, P> {
    /// Returns whether the packet is kept.
    fn add(
        &mut self,
        now: Duration,
        packet: &Packet<'_>,
        size: usize,
        format: Format,
        keep: impl FnOnce() -> P,
    ) -> bool {
        self.packets += 1;
        self.last = now;
        let step = packet.sequence_number.wrapping_sub(self.newest as u16) as i16;
        if self.packets == 1 || step.unsigned_abs() > MAX_JUMP.unsigned_abs() {
            self.clear();
            self.newest = i64::from(packet.sequence_number);
        }
        let number = self.newest + i64::from(packet.sequence_number.wrapping_sub(self.newest as u16) as i16);
        self.newest = self.newest.max(number);
        let later = self.kept.iter().rev().take(REORDER);
        let back = later.take_while(|e| e.number > number).count();
        let index = self.kept.len() - back;
        if back >= REORDER || index == 0 && back > 0 && self.whole {
            return false;
        }
        if index > 0 && self.kept[index - 1].number == number {
            return false;
        }
        let contents = match format {
            Format::Video { codec, .. } => Contents::of(codec, packet.payload),
            Format::Other => Contents::default(),
        };
        if contents.slice.is_some_and(|slice| slice.key) || contents.recovery || contents.parameters {
            self.key = Some(packet.timestamp);
        }
        let bytes = size + PACKET_OVERHEAD;
        self.bytes += bytes;
        let entry = Entry {
            number,
            timestamp: packet.timestamp,
            marker: packet.marker,
            contents,
            at: now,
            bytes,
            packet: keep(),
        };
        self.kept.insert(index, entry);
        // It may complete its own picture, or be the first one after another.
        let pictures = [Some(index), index.checked_sub(1)];
        let start = pictures.into_iter().flatten().find_map(|i| {
            let last = self.end_of(i)?;
            self.looks(self.kept[i].timestamp)
                .then(|| self.whole_from(i, last, format))?
        });
        if let Some(start) = start {
            self.drop_front(start);
            self.whole = true;
        }
        self.trim(now);
        !self.kept.is_empty()
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
        self.whole = false;
    }

    fn drop_front(&mut self, count: usize) {
        self.bytes -= self.kept.drain(..count).map(|entry| entry.bytes).sum::<usize>();
    }

    /// Drops packets that cannot be passed on any more.
    fn trim(&mut self, now: Duration) {
        self.whole &= self.kept.front().is_some_and(|e| now.saturating_sub(e.at) <= KEEP);
        // Pictures that can no longer become whole key frames.
        while !self.whole && self.kept.len() > REORDER && self.kept[REORDER].timestamp != self.kept[0].timestamp {
            self.drop_front(1);
        }
        if self.bytes > MAX_CANDIDATE_BYTES {
            self.clear();
        }
    }

    /// Whether the packet at `i` follows the one before it.
    fn follows(&self, i: usize) -> bool {
        self.kept[i].number == self.kept[i - 1].number + 1
    }

    /// The last packet of the picture of the packet at `index`, if it has arrived.
    fn end_of(&self, index: usize) -> Option<usize> {
        let kept = &self.kept;
        let mut last = index;
        while last + 1 < kept.len() && self.follows(last + 1) && kept[last + 1].timestamp == kept[index].timestamp {
            last += 1;
        }
        let ends = kept[last].marker || last + 1 < kept.len() && self.follows(last + 1);
        ends.then_some(last)
    }

    /// Whether a picture may be searched once more: a search costs a step per packet, and an end can be sent with
    /// each.
    fn looks(&mut self, timestamp: u32) -> bool {
        match &mut self.looked {
            Some((at, times)) if *at == timestamp => *times += 1,
            looked => *looked = Some((timestamp, 1)),
        }
        self.looked.is_some_and(|(_, times)| times <= REORDER)
    }

    /// First packet of the key frame of the packet at `index`, up to the one at `last`, if all of it has arrived.
    fn whole_from(&self, index: usize, last: usize, format: Format) -> Option<usize> {
        let kept = &self.kept;
        let timestamp = kept[index].timestamp;
        let follows = |i: usize| self.follows(i);
        let mut first = index;
        while first > 0 && follows(first) && kept[first - 1].timestamp == timestamp {
            first -= 1;
        }
        let Format::Video { parameters, .. } = format else {
            let follows_a_whole_one = first > 0 && follows(first);
            return follows_a_whole_one.then_some(first);
        };
        // Some senders give parameter sets the time of the picture before.
        while first > 0 && follows(first) && {
            let before = &kept[first - 1].contents;
            before.parameters && before.slice.is_none()
        } {
            first -= 1;
        }
        let begins = &kept[first].contents;
        let known = begins.opens || first > 0 && follows(first) || parameters;
        let recovers = |at: usize| kept.range(first..=at).any(|e| e.contents.recovery);
        let slice = (first..=last).find_map(|at| kept[at].contents.slice.map(|slice| (at, slice)));
        // A fragment has arrived without its beginning.
        let torn = begins.continues && !(first > 0 && follows(first));
        slice
            .is_some_and(|(at, slice)| known && !torn && slice.first && (slice.key || recovers(at)))
            .then_some(first)
    }

    /// Whether to request a key frame: the stream is more than a stray packet, and no key frame is arriving.
    fn needs_key(&self, now: Duration) -> bool {
        let on_its_way = self
            .kept
            .back()
            .is_some_and(|e| Some(e.timestamp) == self.key && !e.marker);
        let recent = self.requested.is_some_and(|at| now - at < REQUEST_INTERVAL);
        self.packets > 1 && !self.whole && !on_its_way && !recent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const H264: Format = Format::Video {
        codec: Codec::H264,
        parameters: false,
    };
    const ADDRESS: u16 = 5000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A packet of a stream, without its SSRC; pictures are numbered.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Sent {
        number: u16,
        picture: u32,
        marker: bool,
        payload: &'static [u8],
    }

    const SPS: &[u8] = &[0x67, 0x42];
    const PPS: &[u8] = &[0x68, 0xce];
    const KEY: [&[u8]; 3] = [&[0x7c, 0x85, 0x88], &[0x7c, 0x05, 0x11], &[0x7c, 0x45, 0x22]];
    const INTER: &[u8] = &[0x41, 0x9a];

    /// Packets of pictures; every `gop`th picture is a key frame of five packets, the others one.
    fn stream(first: u16, pictures: u32, gop: u32) -> Vec<Sent> {
        let mut sent: Vec<Sent> = Vec::new();
        for picture in 0..pictures {
            let payloads = match picture % gop {
                0 => [&[SPS, PPS][..], &KEY].concat(),
                _ => vec![INTER],
            };
            let last = payloads.len() - 1;
            for (i, payload) in payloads.into_iter().enumerate() {
                let number = first.wrapping_add(sent.len() as u16);
                let marker = i == last;
                sent.push(Sent {
                    number,
                    picture,
                    marker,
                    payload,
                });
            }
        }
        sent
    }

    /// A selector whose packets are numbers.
    type Tested = StreamSelector<u16, u16>;

    fn push_from(selector: &mut Tested, now: Duration, ssrc: u32, address: u16, sent: &Sent) -> Outcome<u16> {
        let packet = Packet {
            ssrc,
            sequence_number: sent.number,
            timestamp: sent.picture * 3000,
            marker: sent.marker,
            payload_type: 96,
            payload: sent.payload,
        };
        selector.push(now, &packet, address, 1500, || sent.number)
    }

    fn push(selector: &mut Tested, now: Duration, ssrc: u32, sent: &Sent) -> Verdict<u16> {
        push_from(selector, now, ssrc, ADDRESS, sent).verdict
    }

    fn push_all(selector: &mut Tested, now: Duration, ssrc: u32, sent: &[Sent]) -> Vec<Verdict<u16>> {
        sent.iter().map(|sent| push(selector, now, ssrc, sent)).collect()
    }

    /// Packets that were passed on.
    fn handed(verdicts: &[Verdict<u16>], sent: &[Sent]) -> Vec<u16> {
        let one = |(verdict, sent): (&Verdict<u16>, &Sent)| match verdict {
            Verdict::Pass => vec![sent.number],
            Verdict::Takeover { packets, .. } => packets.clone(),
            Verdict::Queued | Verdict::Dropped => Vec::new(),
        };
        verdicts.iter().zip(sent).flat_map(one).collect()
    }

    fn numbers(sent: &[Sent]) -> Vec<u16> {
        sent.iter().map(|s| s.number).collect()
    }

    /// A selector with stream 1 selected at 0 ms.
    fn held() -> Tested {
        let mut selector = StreamSelector::new(H264);
        push_all(&mut selector, ms(0), 1, &stream(100, 1, 10));
        assert_eq!(selector.selected(), Some(1));
        selector
    }

    #[test]
    fn the_first_whole_key_frame_takes_a_free_way_and_all_of_it_is_handed_on() {
        // Also across the wrap of sequence numbers.
        for first in [0, 7, 65533] {
            let mut selector = StreamSelector::new(H264);
            let sent = stream(first, 20, 10);
            let verdicts = push_all(&mut selector, ms(0), 1, &sent);
            assert!(matches!(&verdicts[4], Verdict::Takeover { ssrc: 1, packets } if packets.len() == 5));
            assert_eq!(handed(&verdicts, &sent), numbers(&sent));
            assert_eq!(
                (selector.stats().passed, selector.stats().foreign),
                (sent.len() as u64, 0)
            );
        }
    }

    #[test]
    fn who_joins_between_key_frames_waits_for_the_next_one() {
        let mut selector = StreamSelector::new(H264);
        let sent = stream(0, 20, 10);
        let joined = &sent[6..];
        let verdicts = push_all(&mut selector, ms(0), 1, joined);
        assert_eq!(handed(&verdicts, joined), numbers(&sent[14..]));
    }

    #[test]
    fn a_key_frame_of_which_anything_is_missing_is_none() {
        let whole = stream(10, 2, 10);
        for missing in 0..5 {
            let mut selector = StreamSelector::new(H264);
            let mut sent = whole.clone();
            sent.remove(missing);
            push_all(&mut selector, ms(0), 1, &sent);
            assert_eq!(selector.selected(), None, "without packet {missing}");
        }
        // The first slice of several.
        let mut selector = StreamSelector::new(H264);
        let mut sent = whole.clone();
        sent[2].payload = &[0x7c, 0x85, 0x10];
        push_all(&mut selector, ms(0), 1, &sent);
        assert_eq!(selector.selected(), None);
    }

    #[test]
    fn packets_in_disorder_are_sorted() {
        let mut selector = StreamSelector::new(H264);
        let mut sent = stream(65534, 1, 10);
        sent.swap(1, 3);
        sent.swap(0, 4);
        let verdicts = push_all(&mut selector, ms(0), 1, &sent);
        let mut order = numbers(&sent);
        order.sort_by_key(|n| n.wrapping_add(10));
        assert_eq!(handed(&verdicts, &sent), order);
        // A duplicate counts once.
        let mut selector = StreamSelector::new(H264);
        let sent: Vec<_> = stream(1, 1, 10).into_iter().flat_map(|s| [s.clone(), s]).collect();
        let verdicts = push_all(&mut selector, ms(0), 1, &sent[..9]);
        assert_eq!(handed(&verdicts, &sent), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn parameter_sets_may_come_from_the_caps_or_before() {
        let bare = |first: u16| {
            let mut sent = stream(first, 2, 1);
            sent.retain(|s| s.payload != SPS && s.payload != PPS);
            for (i, sent) in sent.iter_mut().enumerate() {
                sent.number = first + i as u16;
            }
            sent
        };
        // Without either, packets of the first picture may be lost; the second one follows a received packet.
        let mut selector = StreamSelector::new(H264);
        push_all(&mut selector, ms(0), 1, &bare(5)[..3]);
        assert_eq!(selector.selected(), None);
        push_all(&mut selector, ms(0), 1, &bare(5)[3..]);
        assert_eq!(selector.selected(), Some(1));
        let known = Format::Video {
            codec: Codec::H264,
            parameters: true,
        };
        let mut selector = StreamSelector::new(known);
        push_all(&mut selector, ms(0), 1, &bare(5)[..3]);
        assert_eq!(selector.selected(), Some(1));
        // Parameter sets with the time of the picture before are passed on with the picture.
        let mut selector = StreamSelector::new(H264);
        let mut sent = stream(0, 1, 1);
        (sent[0].picture, sent[1].picture, sent[1].marker) = (9, 9, true);
        let verdicts = push_all(&mut selector, ms(0), 1, &sent);
        assert_eq!(handed(&verdicts, &sent), numbers(&sent));
    }

    #[test]
    fn a_recovery_point_begins_a_stream_without_key_frames() {
        let sei: &'static [u8] = Box::leak(Codec::H264.sei_nal(6, &[0x84]).into_boxed_slice());
        let mut selector = StreamSelector::new(H264);
        let mut sent = stream(0, 3, 10);
        (sent[3].payload, sent[4].payload) = (sei, INTER);
        (sent[3].picture, sent[4].picture) = (1, 1);
        push_all(&mut selector, ms(0), 1, &sent[3..5]);
        assert_eq!(selector.selected(), None, "parameter sets may be lost");
        push_all(&mut selector, ms(0), 2, &sent[..5]);
        assert_eq!(selector.selected(), Some(2));
    }

    #[test]
    fn the_holder_keeps_the_way_against_key_frames_of_others() {
        let mut selector = held();
        let holder = stream(105, 200, 1000);
        for (i, sent) in holder[5..].iter().enumerate() {
            let now = ms(40 * i as u64);
            assert_eq!(push(&mut selector, now, 1, sent), Verdict::Pass);
            let stranger = stream(7, 1, 1);
            assert!(
                push_all(&mut selector, now, 2, &stranger)
                    .iter()
                    .all(|v| !matches!(v, Verdict::Takeover { .. }))
            );
            assert_eq!(selector.selected(), Some(1));
        }
        assert_eq!(selector.stats().takeovers, 1);
        assert!(selector.stats().foreign > 900);
    }

    #[test]
    fn a_restart_within_the_second_is_seen_from_its_key_frame_on() {
        let mut selector = held();
        let sent = stream(9000, 40, 250);
        let mut verdicts = Vec::new();
        for one in &sent {
            verdicts.push(push(&mut selector, ms(300 + 33 * u64::from(one.picture)), 2, one));
        }
        assert_eq!(handed(&verdicts, &sent), numbers(&sent));
        let first = verdicts
            .iter()
            .position(|v| matches!(v, Verdict::Takeover { .. }))
            .unwrap();
        let at = 300 + 33 * sent[first].picture;
        assert!((1000..1034).contains(&at), "at {at} ms");
        // The former one is foreign now.
        assert_eq!(
            push(&mut selector, ms(1700), 1, &stream(101, 2, 10)[5]),
            Verdict::Queued
        );
    }

    #[test]
    fn a_restart_after_the_second_takes_the_way_with_its_first_key_frame() {
        let mut selector = held();
        let sent = stream(9000, 3, 250);
        let verdicts = push_all(&mut selector, ms(1000), 2, &sent);
        assert!(matches!(verdicts[4], Verdict::Takeover { ssrc: 2, .. }));
        assert_eq!(handed(&verdicts, &sent), numbers(&sent));
    }

    #[test]
    fn a_goodbye_frees_the_way_at_once_and_the_newest_key_frame_counts() {
        let mut selector = held();
        let sent = stream(50, 12, 4);
        let verdicts = push_all(&mut selector, ms(100), 2, &sent);
        assert_eq!(handed(&verdicts, &sent), [0u16; 0]);
        assert!(!selector.bye(ms(133), 7));
        assert!(selector.bye(ms(133), 1));
        assert!(!selector.bye(ms(133), 1));
        assert_eq!(selector.selected(), None);
        let next = Sent {
            number: sent.last().unwrap().number + 1,
            picture: 12,
            marker: true,
            payload: INTER,
        };
        let Verdict::Takeover { ssrc: 2, packets } = push(&mut selector, ms(133), 2, &next) else {
            panic!("not taken over");
        };
        let newest = sent.iter().rposition(|s| s.payload == SPS).unwrap();
        assert_eq!(packets, [numbers(&sent[newest..]), vec![next.number]].concat());
        assert_eq!(selector.stats().byes, 1);
    }

    #[test]
    fn packets_that_a_goodbye_has_overtaken_still_pass_and_later_ones_begin_anew() {
        let mut selector = held();
        let sent = stream(105, 40, 10);
        assert!(selector.bye(ms(100), 1));
        assert_eq!(push(&mut selector, ms(120), 1, &sent[5]), Verdict::Pass);
        assert_eq!(selector.selected(), None);
        assert_eq!(push(&mut selector, ms(100) + OVERTAKEN, 1, &sent[6]), Verdict::Queued);
        // The selection of another stream in between ends that.
        let mut selector = held();
        assert!(selector.bye(ms(100), 1));
        push_all(&mut selector, ms(110), 2, &stream(9000, 1, 1));
        assert_eq!(selector.selected(), Some(2));
        assert_eq!(push(&mut selector, ms(120), 1, &sent[5]), Verdict::Queued);
    }

    #[test]
    fn a_holder_that_was_silent_goes_on_where_nobody_has_taken_the_way() {
        let mut selector = held();
        let sent = stream(105, 3, 10);
        assert_eq!(push(&mut selector, ms(60_000), 1, &sent[5]), Verdict::Pass);
        assert_eq!(selector.stats().takeovers, 1);
    }

    #[test]
    fn one_ssrc_from_another_address_is_another_stream() {
        let mut selector = held();
        let again = stream(30_000, 2, 10);
        let verdicts: Vec<_> = again
            .iter()
            .map(|sent| push_from(&mut selector, ms(1500), 1, ADDRESS + 1, sent).verdict)
            .collect();
        assert_eq!(handed(&verdicts, &again), numbers(&again));
        assert_eq!(selector.stats().takeovers, 2);
    }

    #[test]
    fn what_waits_for_too_long_is_not_handed_on() {
        let mut selector = held();
        let old = stream(50, 90, 1000);
        for sent in &old {
            let now = ms(33 * u64::from(sent.picture));
            push(&mut selector, now, 2, sent);
            push(&mut selector, now, 1, &stream(105, 3, 10)[5]);
        }
        selector.bye(ms(2980), 1);
        let last = old.last().unwrap();
        let next = Sent {
            number: last.number + 1,
            picture: last.picture + 1,
            ..last.clone()
        };
        let outcome = push_from(&mut selector, ms(3000), 2, ADDRESS, &next);
        assert_eq!((outcome.verdict, outcome.key_unit_request), (Verdict::Queued, Some(2)));
        assert!(selector.waiting().1 < 100 * 2100, "{:?}", selector.waiting());
    }

    #[test]
    fn a_key_frame_is_asked_for_where_the_way_is_free_and_none_is_known_or_coming() {
        let key_unit_request =
            |selector: &mut Tested, now, sent: &Sent| push_from(selector, ms(now), 2, ADDRESS, sent).key_unit_request;
        let sent = stream(0, 300, 1000);
        // Not while another one is selected.
        let mut selector = held();
        assert!(
            sent[5..20]
                .iter()
                .all(|s| key_unit_request(&mut selector, 500, s).is_none())
        );
        assert_eq!(key_unit_request(&mut selector, 1000, &sent[20]), Some(2));
        // Not again within half a second, nor for a stray packet.
        assert!(
            sent[21..40]
                .iter()
                .all(|s| key_unit_request(&mut selector, 1490, s).is_none())
        );
        assert_eq!(key_unit_request(&mut selector, 1500, &sent[40]), Some(2));
        let mut selector = StreamSelector::new(H264);
        assert_eq!(key_unit_request(&mut selector, 0, &sent[5]), None);
        assert_eq!(key_unit_request(&mut selector, 0, &sent[6]), Some(2));
        // Not while one is arriving.
        let mut selector = StreamSelector::new(H264);
        assert!(
            sent[..5]
                .iter()
                .all(|s| key_unit_request(&mut selector, 0, s).is_none())
        );
        assert_eq!(selector.stats().key_unit_requests, 0);
        // For all streams together at most ten times a second.
        let mut selector = StreamSelector::new(H264);
        let mut requested = 0;
        for ssrc in 0..1000 {
            for one in &sent[5..8] {
                let outcome = push_from(&mut selector, ms(u64::from(ssrc)), ssrc, ADDRESS, one);
                requested += u64::from(outcome.key_unit_request.is_some());
            }
        }
        assert!((5..=10).contains(&requested), "{requested}");
        // Decoders of other codecs request them themselves.
        let mut selector = StreamSelector::new(Format::Other);
        assert!(
            sent[5..9]
                .iter()
                .all(|s| key_unit_request(&mut selector, 0, s).is_none())
        );
    }

    #[test]
    fn of_another_codec_any_whole_frame_takes_the_way() {
        let mut selector = StreamSelector::new(Format::Other);
        let frame = |picture: u32| {
            (0..3).map(move |i| Sent {
                number: (picture * 3 + i) as u16,
                picture,
                marker: i == 2,
                payload: &[1, 2, 3],
            })
        };
        let sent: Vec<_> = (0..3).flat_map(frame).collect();
        // The first picture may lack its beginning.
        let verdicts = push_all(&mut selector, ms(0), 1, &sent[1..]);
        assert_eq!(handed(&verdicts, &sent[1..]), [3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_flood_of_sources_costs_no_memory_and_does_not_keep_a_camera_out() {
        for (fps, seed) in [(10u64, 1u64), (30, 2), (30, 3)] {
            let mut selector = held();
            let frame_us = 1_000_000 / fps;
            let mut random = seed;
            let (mut number, mut picture, mut requested, mut taken) = (400u16, 0u32, false, None);
            let mut due = 0u64;
            // A new source every tenth of a millisecond, with one packet like the beginning of a key frame.
            for i in 0..150_000u64 {
                let now = Duration::from_micros(100 * i);
                push(&mut selector, now, 10 + i as u32, &stream(0, 1, 1)[0]);
                assert!(selector.waiting().0 <= MAX_CANDIDATES && selector.waiting().1 < (MAX_CANDIDATES + 100) * 2100);
                if 100 * i < due {
                    continue;
                }
                // The camera, with its usual jitter, codes a key frame when one is requested.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                due += frame_us * 9 / 10 + (random >> 33) % (frame_us / 5);
                let mut packets = match std::mem::take(&mut requested) {
                    true => stream(number, 1, 1),
                    false => stream(number.wrapping_sub(5), 2, 2).split_off(5),
                };
                packets.iter_mut().for_each(|p| p.picture = picture);
                (number, picture) = (number + packets.len() as u16, picture + 1);
                for packet in &packets {
                    let outcome = push_from(&mut selector, now, 2, ADDRESS, packet);
                    requested |= outcome.key_unit_request == Some(2);
                    if matches!(outcome.verdict, Verdict::Takeover { .. }) {
                        taken.get_or_insert(now);
                    }
                }
                if taken.is_some() {
                    break;
                }
            }
            assert!(taken.is_some(), "{fps} frames a second: {:?}", selector.stats());
        }
    }

    #[test]
    fn memory_is_bounded_whatever_waits() {
        let mut selector = held();
        let mut now = ms(0);
        for round in 0..4000u32 {
            // Key frames without end, from as many sources as there are places.
            for ssrc in 2..20 {
                let sent = Sent {
                    number: round as u16,
                    picture: 1,
                    marker: false,
                    payload: if round == 0 { SPS } else { KEY[usize::from(round > 1)] },
                };
                push(&mut selector, now, ssrc, &sent);
                let (candidates, bytes) = selector.waiting();
                assert!(
                    candidates <= MAX_CANDIDATES && bytes <= MAX_BYTES,
                    "{candidates} {bytes}"
                );
            }
            if round % 100 == 0 {
                now += ms(1);
            }
        }
        // Their memory is freed when they fall silent.
        push(&mut selector, ms(10_000), 1, &stream(105, 3, 10)[5]);
        assert_eq!(selector.waiting(), (0, 0));
    }

    #[test]
    fn a_picture_of_which_each_packet_says_that_it_is_the_last_is_looked_at_a_few_times_only() {
        let mut selector = held();
        for number in 0..1000 {
            // It begins with a later slice, so that it is never whole.
            let sent = Sent {
                number,
                picture: 1,
                marker: true,
                payload: &[0x65, 0x10],
            };
            push(&mut selector, ms(0), 2, &sent);
        }
        let candidate = &mut selector.candidates[0];
        assert_eq!(candidate.kept.len(), 1000);
        assert!(candidate.looked.is_some_and(|(_, times)| times >= REORDER));
        assert!(!candidate.looks(3000) && candidate.looks(6000));
        // The next picture may be a key frame.
        let sent = stream(1000, 1, 1);
        push_all(&mut selector, ms(1500), 2, &sent);
        assert_eq!(selector.selected(), Some(2));
    }

    #[derive(Clone, Debug)]
    struct Step {
        ssrc: u32,
        ms: u64,
        number: u16,
        picture: u32,
        marker: bool,
        kind: usize,
        bye: bool,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0u32..5, 0u64..400, 0u16..40, 0u32..6, any::<bool>(), 0usize..6, 0u8..20);
        proptest::collection::vec(
            step.prop_map(|(ssrc, ms, number, picture, marker, kind, bye)| Step {
                ssrc,
                ms,
                number,
                picture,
                marker,
                kind,
                bye: bye == 0,
            }),
            0..300,
        )
    }

    proptest! {
        #[test]
        fn whatever_comes_one_stream_at_a_time_passes_in_order_and_each_packet_is_counted_once(steps in steps()) {
            const KINDS: [&[u8]; 6] = [SPS, PPS, KEY[0], KEY[1], KEY[2], INTER];
            let mut selector: Tested = StreamSelector::new(H264);
            let mut now = ms(0);
            let mut holder: Option<(u32, Duration)> = None;
            let mut left: Option<(u32, Duration)> = None;
            let mut passed = 0u64;
            for (i, step) in steps.iter().enumerate() {
                now += ms(step.ms);
                if step.bye {
                    let held = holder.is_some_and(|(ssrc, _)| ssrc == step.ssrc);
                    prop_assert_eq!(selector.bye(now, step.ssrc), held);
                    if held {
                        (holder, left) = (None, Some((step.ssrc, now)));
                    }
                }
                let sent = Sent {
                    number: step.number,
                    picture: step.picture,
                    marker: step.marker,
                    payload: KINDS[step.kind],
                };
                match push_from(&mut selector, now, step.ssrc, ADDRESS, &sent).verdict {
                    Verdict::Pass if holder.is_none() => {
                        prop_assert!(left.is_some_and(|(ssrc, at)| ssrc == step.ssrc && now - at < OVERTAKEN));
                        passed += 1;
                    }
                    Verdict::Pass => {
                        prop_assert_eq!(holder.map(|(ssrc, _)| ssrc), Some(step.ssrc));
                        passed += 1;
                        holder = Some((step.ssrc, now));
                    }
                    Verdict::Takeover { ssrc, packets } => {
                        prop_assert_eq!(ssrc, step.ssrc);
                        prop_assert!(holder.is_none_or(|(other, last)| other != ssrc && now - last >= HOLD));
                        prop_assert!(packets.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", packets);
                        prop_assert!(packets.contains(&step.number));
                        passed += packets.len() as u64;
                        (holder, left) = (Some((ssrc, now)), None);
                    }
                    Verdict::Queued | Verdict::Dropped => {
                        prop_assert_ne!(holder.map(|(ssrc, _)| ssrc), Some(step.ssrc));
                    }
                }
                let stats = selector.stats();
                prop_assert_eq!(stats.passed, passed);
                prop_assert_eq!(stats.passed + stats.foreign, i as u64 + 1);
                prop_assert_eq!(selector.selected(), holder.map(|(ssrc, _)| ssrc));
            }
        }
    }
}
