// SPDX-License-Identifier: MPL-2.0

//! Decides which receiver steers: several watch one stream, and each may send feedback.
//!
//! Receivers are identified by the SSRC of their RTCP. Feedback is state and each server numbers its generations
//! itself, so packets of two servers must never reach one encoder unsorted: either only one of them steers
//! ([`Rule::First`]), or their states are joined and renumbered ([`Rule::All`]).
//!
//! What is wished of the whole stream is shared by all who watch it, so wishes are joined under both rules: the highest
//! rate, the finest quantizers, the lowest ceiling.

#![forbid(unsafe_code)]

use dds_protocol::assembler::{Assembler, Outcome};
use dds_protocol::feedback::{self, FeedbackState, MAX_REGIONS, Region};
use dds_protocol::serial::Serial16;
use dds_protocol::wish::Wishes;

/// Silence in nanoseconds after which a receiver no longer steers. Servers repeat their state every 500 ms; the
/// encoder's own `feedback-timeout` of 2000 ms lets it accept the numbering of a successor at the same time.
pub const RELEASE_NS: u64 = 2_000_000_000;
/// Most receivers tracked; the one silent longest is dropped. Bounds the cost of forged SSRCs.
const MAX_RECEIVERS: usize = 64;

/// Whose feedback counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rule {
    /// The first receiver that sends feedback, until it is silent for [`RELEASE_NS`].
    #[default]
    First,
    /// The regions of all receivers together.
    All,
}

/// Decision about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it to the encoder unchanged.
    Pass,
    /// Pass this packet to the encoder in its place: the same with the wishes of all servers.
    Replace(Vec<u8>),
    /// Do not pass it on: it is refused, or kept for [`Steering::joined`].
    Keep,
}

/// Why a packet does not steer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// [`Rule::First`], and another receiver steers.
    AnotherSteers,
    /// The sender may not steer.
    MayOnlyWatch,
    /// It cannot be read, is of another stream, or out of order.
    Unusable,
}

impl Refusal {
    /// The reason in words, for reports.
    pub fn words(self) -> &'static str {
        match self {
            Self::AnotherSteers => "another one steers",
            Self::MayOnlyWatch => "may only watch",
            Self::Unusable => "cannot be used",
        }
    }
}

/// A receiver that sends feedback.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// SSRC of its RTCP.
    pub ssrc: u32,
    /// Packets accepted.
    pub steered: u64,
    /// Packets refused.
    pub refused: u64,
    /// Reason of the last refusal.
    pub why: Option<Refusal>,
    /// Only packets of viewers so far.
    viewer: bool,
    /// Time of its last packet, in nanoseconds.
    last_packet: u64,
    assembler: Assembler,
    /// Its last complete state and the time of it.
    state: Option<(u64, FeedbackState)>,
    /// The wishes of its last packet, and the time of it ([`Rule::First`]).
    wishes: Option<(u64, Wishes)>,
}

impl Receiver {
    fn refuse(&mut self, why: Refusal) {
        self.refused += 1;
        self.why = Some(why);
    }
}

/// The receivers of one stream.
#[derive(Clone, Debug)]
pub struct Steering {
    rule: Rule,
    stream_id: u32,
    receivers: Vec<Receiver>,
    strangers: u64,
    /// SSRC of the receiver that steers, and the time of its last packet ([`Rule::First`]).
    holder: Option<(u32, u64)>,
    generation: Serial16,
    /// A state was completed since the last [`Self::joined`].
    changed: bool,
    frames: u64,
    /// Quantizers of the camera: background and regions.
    own: (u8, u8),
}

impl Steering {
    /// For the stream `stream_id`. Generations of [`Self::joined`] begin after `generation`.
    pub fn new(rule: Rule, stream_id: u32, generation: u16) -> Self {
        Self {
            rule,
            stream_id,
            receivers: Vec::new(),
            strangers: 0,
            holder: None,
            generation: Serial16(generation),
            changed: false,
            frames: 0,
            own: (0, 0),
        }
    }

    /// Sets the camera's own quantizers, of background and regions: those of servers that wish none.
    pub fn set_own_quantizers(&mut self, background: u8, region: u8) {
        self.own = (background, region);
    }

    /// A feedback packet from the receiver `ssrc`, without RTCP framing. `now` in nanoseconds of any steady clock.
    pub fn packet(&mut self, now: u64, ssrc: u32, packet: &[u8]) -> Verdict {
        match self.rule {
            Rule::First => self.first(now, ssrc, packet),
            Rule::All => self.all(now, ssrc, packet),
        }
    }

    /// Takes a feedback packet from the receiver `ssrc`, which may only watch. It is only counted: viewers displace
    /// each other, and no receiver that steers.
    pub fn viewer(&mut self, now: u64, ssrc: u32) -> Verdict {
        let known = self.receivers.iter().any(|r| r.ssrc == ssrc);
        if known || self.receivers.len() < MAX_RECEIVERS || self.receivers.iter().any(|r| r.viewer) {
            let receiver = self.receiver(now, ssrc, true);
            receiver.refuse(Refusal::MayOnlyWatch);
        }
        Verdict::Keep
    }

    /// Takes a feedback packet from a sender that does not watch. It is only counted: a flood of them displaces no
    /// receiver.
    pub fn stranger(&mut self) -> Verdict {
        self.strangers += 1;
        Verdict::Keep
    }

    /// Number of packets from senders that do not watch.
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    fn first(&mut self, now: u64, ssrc: u32, packet: &[u8]) -> Verdict {
        let stream_id = self.stream_id;
        let holder = self
            .holder
            .filter(|(_, last_packet)| now.saturating_sub(*last_packet) < RELEASE_NS);
        let receiver = self.receiver(now, ssrc, false);
        let part = feedback::decode(packet).ok().filter(|part| part.stream_id == stream_id);
        if let Some(part) = part.as_ref().filter(|part| part.part == 0) {
            receiver.wishes = Some((now, part.wishes));
        }
        if holder.is_some_and(|(holder, _)| holder != ssrc) {
            receiver.refuse(Refusal::AnotherSteers);
            return Verdict::Keep;
        }
        // A packet that the encoder would refuse does not make its sender steer; the encoder counts it.
        let Some(part) = part else {
            receiver.refuse(Refusal::Unusable);
            return Verdict::Pass;
        };
        receiver.steered += 1;
        self.holder = Some((ssrc, now));
        let joined = Wishes::joined(self.wishes(now), self.own);
        if part.part > 0 || joined == part.wishes {
            return Verdict::Pass;
        }
        feedback::with_wishes(packet, &joined).map_or(Verdict::Pass, Verdict::Replace)
    }

    /// The wishes of all servers that are not silent; none for one that wishes nothing.
    fn wishes(&self, now: u64) -> impl Iterator<Item = Wishes> {
        self.receivers.iter().filter_map(move |receiver| {
            let of_state = || receiver.state.as_ref().map(|(came, state)| (*came, state.wishes));
            let (came, wishes) = receiver.wishes.or_else(of_state)?;
            let age_ns = now.saturating_sub(came);
            // No longer than the 2 s of the release.
            (age_ns < RELEASE_NS).then(|| wishes.aged((age_ns / 1_000_000) as u32))
        })
    }

    fn all(&mut self, now: u64, ssrc: u32, packet: &[u8]) -> Verdict {
        let frames = self.frames;
        let receiver = self.receiver(now, ssrc, false);
        // As in the encoder: a restarted server may number its generations below its earlier ones.
        if receiver
            .state
            .as_ref()
            .is_some_and(|(came, _)| now.saturating_sub(*came) >= RELEASE_NS)
        {
            receiver.assembler.reset();
            receiver.state = None;
        }
        match receiver.assembler.push(packet) {
            // A state of a future frame would make the encoder refuse all later ones.
            Outcome::Complete(state) if state.frame < frames => {
                receiver.steered += 1;
                receiver.state = Some((now, state));
                self.changed = true;
            }
            Outcome::Partial => receiver.steered += 1,
            _ => receiver.refuse(Refusal::Unusable),
        }
        Verdict::Keep
    }

    fn receiver(&mut self, now: u64, ssrc: u32, viewer: bool) -> &mut Receiver {
        let known = self.receivers.iter().position(|r| r.ssrc == ssrc);
        let at = known.unwrap_or_else(|| {
            let standing = |r: &Receiver| (!r.viewer, r.last_packet);
            if self.receivers.len() >= MAX_RECEIVERS
                && let Some(least) = (0..self.receivers.len()).min_by_key(|&i| standing(&self.receivers[i]))
            {
                self.receivers.swap_remove(least);
            }
            self.receivers.push(Receiver {
                ssrc,
                steered: 0,
                refused: 0,
                why: None,
                viewer,
                last_packet: now,
                assembler: Assembler::new(self.stream_id),
                state: None,
                wishes: None,
            });
            self.receivers.len() - 1
        });
        let receiver = &mut self.receivers[at];
        // Viewers cannot keep alive, by another receiver's SSRC, an entry that is not theirs.
        if !viewer || receiver.viewer {
            receiver.last_packet = now;
        }
        receiver.viewer &= viewer;
        receiver
    }

    /// Call it before each frame. With [`Rule::All`]: the packets of one generation with the regions of all receivers,
    /// empty if no state was completed since.
    ///
    /// Each receiver's regions are in order of value; they are taken in turns, so that a long list does not crowd out
    /// the others'. Their time to live is reduced by their age, and they are moved to their positions in the newest
    /// frame that any server has seen.
    pub fn joined(&mut self, now: u64) -> Vec<Vec<u8>> {
        self.frames += 1;
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        let states: Vec<_> = self
            .receivers
            .iter()
            .filter_map(|r| r.state.as_ref())
            .filter(|(came, _)| now.saturating_sub(*came) < RELEASE_NS)
            .collect();
        let frame = states.iter().map(|(_, state)| state.frame).max().unwrap_or(0);
        let longest = states.iter().map(|(_, state)| state.regions.len()).max().unwrap_or(0);
        let regions = (0..longest)
            .flat_map(|rank| {
                states
                    .iter()
                    .filter_map(move |(came, state)| Some((came, state, state.regions.get(rank)?)))
            })
            .filter_map(|(came, state, region)| later(region, now.saturating_sub(*came), frame - state.frame))
            .take(MAX_REGIONS)
            .collect();
        self.generation = self.generation.next();
        feedback::encode(&FeedbackState {
            stream_id: self.stream_id,
            generation: self.generation,
            frame,
            regions,
            wishes: Wishes::joined(self.wishes(now), self.own),
        })
        .packets
    }

    /// Receivers that have sent feedback, each with whether it steers now.
    pub fn receivers(&self, now: u64) -> impl Iterator<Item = (&Receiver, bool)> {
        self.receivers.iter().map(move |r| {
            let steers = match self.rule {
                Rule::First => self
                    .holder
                    .is_some_and(|(ssrc, last_packet)| ssrc == r.ssrc && now.saturating_sub(last_packet) < RELEASE_NS),
                Rule::All => r
                    .state
                    .as_ref()
                    .is_some_and(|(came, _)| now.saturating_sub(*came) < RELEASE_NS),
            };
            (r, steers)
        })
    }
}

/// A region `age_ns` later and `frames` further on. `None` if it has expired.
fn later(region: &Region, age_ns: u64, frames: u64) -> Option<Region> {
    let age_ms = u32::try_from(age_ns / 1_000_000).ok()?;
    let moved = |at: u32, quarter_pixels: i16| {
        let frames = i64::try_from(frames).unwrap_or(i64::MAX);
        let by = i64::from(quarter_pixels).saturating_mul(frames) / 4;
        u32::try_from(i64::from(at).saturating_add(by).max(0)).unwrap_or(u32::MAX)
    };
    let mut region = *region;
    region.ttl_ms = region.ttl_ms.checked_sub(age_ms).filter(|ttl| *ttl > 0)?;
    region.rect.x = moved(region.rect.x, region.motion.dx);
    region.rect.y = moved(region.rect.y, region.motion.dy);
    Some(region)
}

#[cfg(test)]
mod tests {
    use dds_protocol::feedback::{Motion, Quality, Rect};
    use dds_protocol::wish::Wish;

    use super::*;

    const STREAM: u32 = 7;
    const MS: u64 = 1_000_000;

    fn region(x: u32, dx: i16, ttl_ms: u32) -> Region {
        Region {
            rect: Rect {
                x,
                y: 64,
                width: 32,
                height: 32,
            },
            quality: Quality::Camera,
            motion: Motion { dx, dy: 0 },
            ttl_ms,
            frame_offset: 0,
        }
    }

    fn packet(stream_id: u32, generation: u16, frame: u64, regions: Vec<Region>) -> Vec<u8> {
        let state = FeedbackState {
            stream_id,
            generation: Serial16(generation),
            frame,
            regions,
            ..FeedbackState::default()
        };
        feedback::encode(&state).packets.remove(0)
    }

    fn state_of(packets: &[Vec<u8>]) -> FeedbackState {
        let mut assembler = Assembler::new(STREAM);
        for packet in packets {
            if let Outcome::Complete(state) = assembler.push(packet) {
                return state;
            }
        }
        panic!("no whole generation in {packets:?}");
    }

    fn counts(steering: &Steering, ssrc: u32) -> (u64, u64) {
        let r = steering.receivers.iter().find(|r| r.ssrc == ssrc).unwrap();
        (r.steered, r.refused)
    }

    #[test]
    fn the_first_steers_until_it_is_silent() {
        let mut steering = Steering::new(Rule::First, STREAM, 0);
        let p = |generation| packet(STREAM, generation, 1, vec![]);
        assert_eq!(steering.packet(0, 1, &p(1)), Verdict::Pass);
        assert_eq!(steering.packet(MS, 2, &p(9)), Verdict::Keep);
        assert_eq!(steering.packet(1000 * MS, 1, &p(2)), Verdict::Pass);
        assert_eq!(steering.packet(2999 * MS, 2, &p(10)), Verdict::Keep);
        // Two seconds after its last packet the other one takes over, and the former has to wait first.
        assert_eq!(steering.packet(3000 * MS, 2, &p(11)), Verdict::Pass);
        assert_eq!(steering.packet(3001 * MS, 1, &p(3)), Verdict::Keep);
        assert_eq!(counts(&steering, 1), (2, 1));
        assert_eq!(counts(&steering, 2), (1, 2));
        let steers: Vec<_> = steering
            .receivers(3001 * MS)
            .map(|(r, steers)| (r.ssrc, steers))
            .collect();
        assert_eq!(steers, [(1, false), (2, true)]);
    }

    #[test]
    fn nobody_takes_the_wheel_with_rubbish() {
        let mut steering = Steering::new(Rule::First, STREAM, 0);
        assert_eq!(steering.packet(0, 1, b"rubbish"), Verdict::Pass);
        assert_eq!(steering.packet(0, 1, &packet(STREAM + 1, 1, 1, vec![])), Verdict::Pass);
        assert_eq!(steering.packet(0, 2, &packet(STREAM, 1, 1, vec![])), Verdict::Pass);
        assert_eq!(steering.packet(0, 1, &packet(STREAM, 1, 1, vec![])), Verdict::Keep);
        assert_eq!(counts(&steering, 1), (0, 3));
    }

    #[test]
    fn everybodys_regions_are_joined_under_one_numbering() {
        let mut steering = Steering::new(Rule::All, STREAM, 100);
        for _ in 0..20 {
            assert!(steering.joined(0).is_empty());
        }
        // Different numberings, and the second server has seen four frames more.
        steering.packet(
            0,
            1,
            &packet(STREAM, 5000, 10, vec![region(80, 8, 1000), region(160, 0, 200)]),
        );
        steering.packet(400 * MS, 2, &packet(STREAM, 3, 14, vec![region(400, 0, 1000)]));
        let state = state_of(&steering.joined(400 * MS));
        assert_eq!((state.generation, state.frame), (Serial16(101), 14));
        // The first one's first region has moved by 4 frames of 2 pixels, and its second one has expired.
        assert_eq!(state.regions, [region(88, 8, 600), region(400, 0, 1000)]);
        assert!(steering.joined(500 * MS).is_empty(), "nothing new");
        // The first falls silent: only the second's regions remain.
        steering.packet(2100 * MS, 2, &packet(STREAM, 4, 15, vec![]));
        let state = state_of(&steering.joined(2100 * MS));
        assert_eq!(
            (state.generation, state.frame, state.regions),
            (Serial16(102), 15, vec![])
        );
    }

    /// A packet without regions that wishes for every n-th picture and a ceiling, for 2 s.
    fn wishing(generation: u16, interval: Option<u8>, ceiling: Option<u32>) -> Vec<u8> {
        let state = FeedbackState {
            stream_id: STREAM,
            generation: Serial16(generation),
            wishes: wishes(interval, ceiling, 2000),
            ..FeedbackState::default()
        };
        feedback::encode(&state).packets.remove(0)
    }

    fn wishes(interval: Option<u8>, ceiling: Option<u32>, ttl_ms: u32) -> Wishes {
        Wishes {
            interval: interval.map(|value| Wish { value, ttl_ms }),
            ceiling_kbps: ceiling.map(|value| Wish { value, ttl_ms }),
            ..Wishes::default()
        }
    }

    /// Wishes of the packet that reaches the encoder.
    fn passed(verdict: Verdict, packet: &[u8]) -> Option<Wishes> {
        let packet = match &verdict {
            Verdict::Keep => return None,
            Verdict::Pass => packet,
            Verdict::Replace(packet) => packet,
        };
        Some(feedback::decode(packet).expect("a packet").wishes)
    }

    #[test]
    fn wishes_of_those_who_do_not_steer_count_too() {
        let mut steering = Steering::new(Rule::First, STREAM, 0);
        let slow = |generation| wishing(generation, Some(5), None);
        // Alone, the first one's packets pass as they are.
        assert_eq!(steering.packet(0, 1, &slow(1)), Verdict::Pass);
        let other = wishing(1, Some(2), Some(300));
        assert_eq!(steering.packet(100 * MS, 2, &other), Verdict::Keep);
        let verdict = steering.packet(200 * MS, 1, &slow(2));
        // It lives as long as the wish that is older.
        let expected = Wishes {
            interval: Some(Wish { value: 2, ttl_ms: 1900 }),
            ..wishes(None, Some(300), 1900)
        };
        assert_eq!(passed(verdict, &slow(2)), Some(expected));
        // One that knows no wishes wants every picture.
        steering.packet(300 * MS, 3, &packet(STREAM, 1, 1, vec![]));
        let verdict = steering.packet(400 * MS, 1, &slow(3));
        assert_eq!(passed(verdict, &slow(3)), Some(wishes(None, Some(300), 1700)));
        // Both others fall silent.
        assert_eq!(steering.packet(2300 * MS, 1, &slow(4)), Verdict::Pass);
        // Rubbish is no wish of nothing.
        steering.packet(2300 * MS, 2, b"rubbish");
        steering.packet(2300 * MS, 2, &packet(STREAM + 1, 9, 1, vec![]));
        assert_eq!(steering.packet(2400 * MS, 1, &slow(5)), Verdict::Pass);
    }

    #[test]
    fn joined_states_carry_the_wishes_of_the_most_demanding() {
        let mut steering = Steering::new(Rule::All, STREAM, 0);
        steering.set_own_quantizers(36, 26);
        steering.joined(0);
        steering.packet(0, 1, &wishing(1, Some(5), None));
        assert_eq!(state_of(&steering.joined(0)).wishes, wishes(Some(5), None, 2000));
        steering.packet(MS, 2, &wishing(1, Some(3), Some(500)));
        let expected = Wishes {
            interval: Some(Wish { value: 3, ttl_ms: 2000 }),
            ..wishes(None, Some(500), 2000)
        };
        assert_eq!(state_of(&steering.joined(MS)).wishes, expected);
        // The second is not heard of any more.
        steering.packet(2100 * MS, 1, &wishing(2, Some(5), None));
        assert_eq!(
            state_of(&steering.joined(2100 * MS)).wishes,
            wishes(Some(5), None, 2000)
        );
    }

    #[test]
    fn a_long_list_does_not_crowd_out_the_others() {
        let mut steering = Steering::new(Rule::All, STREAM, 0);
        steering.joined(0);
        let many = (0..250).map(|i| region(i * 8, 0, 1000)).collect();
        let state = FeedbackState {
            stream_id: STREAM,
            generation: Serial16(1),
            frame: 0,
            regions: many,
            ..FeedbackState::default()
        };
        for packet in feedback::encode(&state).packets {
            steering.packet(0, 1, &packet);
        }
        let few: Vec<_> = (0..40).map(|i| region(4000 + i * 8, 0, 1000)).collect();
        steering.packet(0, 2, &packet(STREAM, 1, 0, few.clone()));
        let state = state_of(&steering.joined(0));
        assert_eq!(state.regions.len(), MAX_REGIONS);
        assert!(few.iter().all(|region| state.regions.contains(region)));
    }

    #[test]
    fn a_state_of_the_future_spoils_nobody_elses() {
        let mut steering = Steering::new(Rule::All, STREAM, 0);
        steering.joined(0);
        steering.packet(0, 1, &packet(STREAM, 1, 1 << 40, vec![region(0, 0, 1000)]));
        steering.packet(0, 2, &packet(STREAM, 1, 0, vec![region(8, 0, 1000)]));
        assert_eq!(state_of(&steering.joined(0)).regions, [region(8, 0, 1000)]);
        assert_eq!(counts(&steering, 1), (0, 1));
    }

    #[test]
    fn forged_receivers_cost_bounded_memory() {
        for rule in [Rule::First, Rule::All] {
            let mut steering = Steering::new(rule, STREAM, 0);
            for ssrc in 0..1000 {
                steering.packet(u64::from(ssrc), ssrc, &packet(STREAM, 1, 0, vec![]));
            }
            assert_eq!(steering.receivers.len(), MAX_RECEIVERS);
        }
    }

    #[test]
    fn viewers_are_counted_and_displace_nobody_who_steers() {
        for rule in [Rule::First, Rule::All] {
            let mut steering = Steering::new(rule, STREAM, 0);
            let _ = steering.joined(0);
            steering.packet(0, 1, &packet(STREAM, 1, 0, vec![region(0, 0, 5000)]));
            for ssrc in 100..300 {
                assert_eq!(steering.viewer(MS, ssrc), Verdict::Keep);
            }
            // Also by the SSRC of a receiver that steers.
            assert_eq!(steering.viewer(MS, 1), Verdict::Keep);
            let all: Vec<_> = steering.receivers(MS).collect();
            assert_eq!(all.len(), MAX_RECEIVERS);
            let (first, steers) = all.iter().find(|(r, _)| r.ssrc == 1).expect("still there");
            assert_eq!(
                (*steers, first.refused, first.why),
                (true, 1, Some(Refusal::MayOnlyWatch))
            );
            let viewers = all
                .iter()
                .filter(|(r, steers)| r.why == Some(Refusal::MayOnlyWatch) && !steers);
            assert_eq!(viewers.count(), MAX_RECEIVERS - 1);
        }
    }

    #[test]
    fn where_all_places_are_taken_by_those_who_steer_viewers_get_none() {
        let mut steering = Steering::new(Rule::First, STREAM, 0);
        for ssrc in 0..MAX_RECEIVERS as u32 {
            steering.packet(u64::from(ssrc), ssrc, &[]);
        }
        assert_eq!(steering.viewer(MS, 1000), Verdict::Keep);
        assert!(steering.receivers(MS).all(|(r, _)| r.ssrc != 1000));
    }
}
