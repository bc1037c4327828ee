// SPDX-License-Identifier: MPL-2.0

//! The server's core through an hour of video: models of a camera and of a bad network around it, all on one virtual
//! clock, seeded. Nothing sleeps.

mod server_half;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use dds_protocol::extension::Extension;
use dds_protocol::feedback::{FeedbackState, Rect};
use dds_protocol::identity::{FrameIdentity, StreamKind};
use gstddsinfer::feedback::PolicySettings;
use gstddsinfer::identity::{FrameRecord, Lookup, Origin};
use gstddsinfer::results::Refined;
use gstddsinfer::server::{Arrival, CAPACITY_LIVE, CoreSettings, Decoded, Event, FrameKey, MAX_DELAYED, REPEAT};
use server_half::{Frame, Picture, Server, Shown};

const MS: Duration = Duration::from_millis(1);
const FRAME: Duration = Duration::from_millis(40);
const DEADLINE: Duration = Duration::from_millis(300);
const INFERENCE: Duration = Duration::from_millis(25);
/// Quantizers of the background and of regions.
const COARSE: u8 = 38;
const FINE: u8 = 28;
/// Frames between key frames, which end damage.
const KEY_FRAMES: u64 = 50;
/// Frames that the camera keeps for a second pass.
const KEPT: u64 = 25;

/// Conditions around the server.
#[derive(Clone, Copy, Debug)]
struct World {
    seed: u64,
    frames: u64,
    two_passes: bool,
    /// Frames and feedback lost, per thousand.
    loss: u64,
    /// After so many frames the server is replaced, and the camera in between; 0: never.
    replacements: u64,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn delay(&mut self) -> Duration {
        MS * (20 + self.next(40)) as u32
    }
}

/// Packets in flight.
#[derive(Clone, Debug)]
enum Parcel {
    Captured(u64),
    First(Picture),
    Second(FrameKey, Option<Picture>),
    Feedback(FeedbackState),
    Wake,
}

/// Counts of an hour.
#[derive(Debug, Default, PartialEq)]
struct Report {
    out: u64,
    refined: BTreeMap<&'static str, u64>,
    /// Frames in which all three objects were found.
    all_found: u64,
    states: u64,
    oldest: Duration,
    longest_silence: Duration,
    replacements: u64,
    digest: u64,
}

struct Hour {
    world: World,
    random: Random,
    now: Duration,
    order: u64,
    parcels: BinaryHeap<Reverse<(Duration, u64)>>,
    contents: BTreeMap<u64, Parcel>,
    server: Server,
    stream_id: u32,
    /// Frames of all streams, and of the current one, so far.
    captured: u64,
    number: u64,
    /// Time of the server's next call.
    wake: Option<Duration>,
    /// The newest feedback received by the camera.
    state: Option<(Duration, FeedbackState)>,
    /// The decoder's picture is damaged.
    damaged: bool,
    /// Frames received damaged.
    damage: BTreeSet<FrameKey>,
    last_out: Option<Duration>,
    /// Time and stream of the last feedback state.
    last_sent: Option<(Duration, u32)>,
    report: Report,
}

impl Hour {
    fn new(world: World) -> Self {
        let mut random = Random(world.seed);
        let server = server(world, &mut random, Duration::ZERO);
        let mut hour = Self {
            world,
            random,
            now: Duration::ZERO,
            order: 0,
            parcels: BinaryHeap::new(),
            contents: BTreeMap::new(),
            server,
            stream_id: 1,
            captured: 0,
            number: 0,
            wake: None,
            state: None,
            damaged: true,
            damage: BTreeSet::new(),
            last_out: None,
            last_sent: None,
            report: Report::default(),
        };
        hour.post(Duration::ZERO, Parcel::Captured(0));
        hour
    }

    fn post(&mut self, after: Duration, parcel: Parcel) {
        self.order += 1;
        self.parcels.push(Reverse((self.now + after, self.order)));
        self.contents.insert(self.order, parcel);
    }

    fn run(mut self) -> Report {
        while let Some(Reverse((at, order))) = self.parcels.pop() {
            self.now = at;
            let parcel = self.contents.remove(&order).expect("posted once");
            self.take(parcel);
            let next = self.server.run(self.now);
            self.watch();
            // At the end the server repeats its last state forever.
            if self.captured == self.world.frames && !self.server.core.is_busy() && self.parcels.is_empty() {
                break;
            }
            assert!(next > self.now, "a busy loop");
            if self.wake.is_none_or(|wake| wake <= self.now || wake > next) {
                self.wake = Some(next);
                self.post(next - self.now, Parcel::Wake);
            }
        }
        assert!(!self.server.core.is_busy(), "stuck");
        self.report
    }

    fn take(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Captured(index) => self.capture(index),
            Parcel::First(picture) => self.receive(picture),
            Parcel::Second(key, picture) => {
                let arrival = match picture {
                    Some(picture) if picture.damaged => Arrival::Damaged,
                    Some(picture) => Arrival::Refined(picture),
                    None => Arrival::Refused,
                };
                self.server.refinement(self.now, key, arrival);
            }
            Parcel::Feedback(state) => self.steer(state),
            Parcel::Wake => (),
        }
    }

    /// The camera: one certain, one undecided and one hidden object, the second and third coded as requested.
    fn capture(&mut self, index: u64) {
        let every = self.world.replacements;
        if every > 0 && index > 0 && index.is_multiple_of(every) {
            self.replace(index / every);
        }
        let key = (self.stream_id, self.number);
        let lost = self.random.next(1000) < self.world.loss;
        // Frames after a loss are damaged until the next key frame.
        self.damaged &= !self.number.is_multiple_of(KEY_FRAMES);
        self.damaged |= lost;
        let picture = Picture {
            key: Some(key),
            captured: self.now,
            damaged: self.damaged,
            objects: self.objects(self.number),
        };
        if picture.damaged {
            self.damage.insert(key);
        }
        if !lost {
            // The video's transport keeps the order.
            self.post(30 * MS, Parcel::First(picture));
        }
        self.number += 1;
        self.captured += 1;
        if index + 1 < self.world.frames {
            self.post(FRAME, Parcel::Captured(index + 1));
        }
    }

    fn objects(&self, frame: u64) -> Vec<Shown> {
        [0.95, 0.75, 0.75]
            .iter()
            .zip([(0, 1), (1, 2), (2, 1)])
            .map(|(clarity, (place, speed))| {
                let rect = Rect {
                    x: (frame * speed % 560) as u32,
                    y: 100 * place,
                    width: 48,
                    height: 64,
                };
                let asked = self
                    .state
                    .as_ref()
                    .filter(|_| !self.world.two_passes)
                    .is_some_and(|(at, state)| {
                        let age = self.now.saturating_sub(*at);
                        let alive = |ttl: u32| age < Duration::from_millis(ttl.into());
                        state
                            .regions
                            .iter()
                            .any(|r| alive(r.ttl_ms) && overlaps(&r.rect, &rect))
                    });
                Shown {
                    rect,
                    clarity: *clarity,
                    quantizer: if asked { FINE } else { COARSE },
                }
            })
            .collect()
    }

    /// Feedback reaches the camera.
    fn steer(&mut self, state: FeedbackState) {
        if state.stream_id != self.stream_id {
            return;
        }
        if self.world.two_passes && !state.regions.is_empty() {
            let key = (state.stream_id, state.frame);
            let kept = self.number.saturating_sub(state.frame) <= KEPT;
            let mut objects = self.objects(state.frame);
            objects.retain(|o| state.regions.iter().any(|r| overlaps(&r.rect, &o.rect)));
            objects.iter_mut().for_each(|o| o.quantizer = FINE);
            let picture = kept.then(|| Picture {
                key: Some(key),
                captured: self.now,
                damaged: self.random.next(1000) < self.world.loss,
                objects,
            });
            let delay = self.random.delay();
            if self.random.next(1000) >= self.world.loss {
                self.post(delay, Parcel::Second(key, picture));
            }
        }
        let newer = |(_, old): &(Duration, FeedbackState)| {
            let ahead = state.generation.0.wrapping_sub(old.generation.0);
            // A server that was replaced may begin at any generation.
            (1..0x8000).contains(&ahead) || state.frame > old.frame + 2 * KEPT
        };
        if self.state.as_ref().is_none_or(newer) {
            self.state = Some((self.now, state));
        }
    }

    /// A decoded frame of the first pass reaches the server.
    fn receive(&mut self, picture: Picture) {
        let (stream_id, number) = picture.key.expect("of our camera");
        let identity = FrameIdentity {
            kind: if self.world.two_passes {
                StreamKind::Low
            } else {
                StreamKind::Single
            },
            stream_id,
            frame: number,
            capture_time_ns: 0,
            access_unit: number as u32,
            recovery: number.is_multiple_of(KEY_FRAMES),
            slices: 1,
            slice_bytes: 0,
            slice_checksum: 0,
        };
        let record = FrameRecord {
            identity: Some(identity),
            damaged: picture.damaged,
            extension: Extension::default(),
        };
        self.server.core.handle(
            self.now,
            Event::Frame(Decoded {
                frame: Frame::new(picture),
                lookup: Lookup::Known(record),
                attached: None,
                corrupted: false,
                origin: Origin::Ours,
                due: None,
            }),
        );
    }

    /// Alternately, the server is replaced and the camera restarts.
    fn replace(&mut self, nth: u64) {
        self.report.replacements += 1;
        if nth.is_multiple_of(2) {
            self.stream_id += 1;
            self.number = 0;
            self.state = None;
            self.damaged = true;
        } else {
            self.server = server(self.world, &mut self.random, self.now);
            self.last_sent = None;
            self.last_out = None;
        }
    }

    /// Checks the server's actions against its promises.
    fn watch(&mut self) {
        let (frames, held) = self.server.core.waiting();
        assert!(
            frames <= CAPACITY_LIVE && held <= MAX_DELAYED,
            "{frames} and {held} wait"
        );
        for (at, state) in std::mem::take(&mut self.server.sent) {
            // It sends nothing about a new stream before its first whole frame.
            let before = self.last_sent.filter(|(_, stream)| *stream == state.stream_id);
            let silence = before.map_or(Duration::ZERO, |(last, _)| at - last);
            self.report.longest_silence = self.report.longest_silence.max(silence);
            self.last_sent = Some((at, state.stream_id));
            self.report.states += 1;
            let damaged = self.damage.contains(&(state.stream_id, state.frame));
            assert!(!damaged, "steered by damage");
            if self.random.next(1000) >= self.world.loss {
                let delay = self.random.delay();
                self.post(delay, Parcel::Feedback(state));
            }
        }
        for result in std::mem::take(&mut self.server.results) {
            assert!(self.last_out.is_none_or(|last| last < result.picture.captured), "order");
            self.last_out = Some(result.picture.captured);
            self.report.oldest = self.report.oldest.max(result.at - result.picture.captured);
            self.report.out += 1;
            *self
                .report
                .refined
                .entry(result.refined.name().unwrap_or("no"))
                .or_default() += 1;
            self.report.all_found += u64::from(result.found == Some(3) && !result.picture.damaged);
            if result.refined == Refined::Yes {
                assert!(!result.picture.damaged);
                assert_eq!(result.found, Some(3), "refined, and still not found");
            }
            let mark = result.at.as_nanos() as u64 ^ result.picture.key.map_or(0, |(_, frame)| frame);
            self.report.digest = self.report.digest.wrapping_mul(0x0100_0000_01b3) ^ mark;
        }
    }
}

fn server(world: World, random: &mut Random, now: Duration) -> Server {
    let settings = CoreSettings {
        inference_interval: 1,
        feedback: true,
        feedback_rate: true,
        predicted_results: false,
        refine_deadline: DEADLINE,
    };
    let policy = PolicySettings {
        // Between the undecided object's scores without and with better quality.
        threshold: 0.4,
        band: 0.12,
        ..PolicySettings::default()
    };
    let mut server = Server::new(settings, policy, INFERENCE, random.next(0x1_0000) as u16);
    server.core.handle(now, Event::RefineLinked(world.two_passes));
    server
}

fn overlaps(a: &Rect, b: &Rect) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
}

const HOUR: u64 = 3600 * 25;

fn world(two_passes: bool) -> World {
    World {
        seed: 1,
        frames: HOUR,
        two_passes,
        loss: 5,
        replacements: 3000,
    }
}

#[test]
fn one_pass_is_steered_by_whole_frames_and_the_camera_always_receives_feedback() {
    let report = Hour::new(world(false)).run();
    assert!(report.out > HOUR * 9 / 10, "{report:?}");
    assert_eq!(report.refined.keys().collect::<Vec<_>>(), [&"no"]);
    // One pass never waits: the transport, and one inference behind another.
    assert!(report.oldest <= 30 * MS + 2 * INFERENCE, "{report:?}");
    assert!(report.longest_silence <= REPEAT, "{report:?}");
    // Without regions the undecided objects are not found.
    assert!(report.all_found > report.out / 3, "{report:?}");
    assert_eq!(report.replacements, HOUR / 3000 - 1);
}

#[test]
fn two_passes_are_waited_for_within_the_deadline() {
    let report = Hour::new(world(true)).run();
    assert!(report.out > HOUR * 9 / 10, "{report:?}");
    let whole = report.refined["done"];
    assert!(whole > report.out / 2, "{report:?}");
    assert!(report.all_found >= whole, "{report:?}");
    assert!(
        report.refined["late"] > 0 && report.refined["damaged"] > 0,
        "{report:?}"
    );
    // The transport, inferences before it, the deadline, and its own second one with those before it.
    assert!(report.oldest <= 30 * MS + DEADLINE + 8 * INFERENCE, "{report:?}");
    assert!(report.longest_silence <= REPEAT, "{report:?}");
}

#[test]
fn a_network_that_loses_a_tenth_leaves_nothing_stuck() {
    for seed in 0..4 {
        for two_passes in [false, true] {
            let bad = World {
                seed,
                frames: 5000,
                loss: 100,
                replacements: 700,
                ..world(two_passes)
            };
            let report = Hour::new(bad).run();
            assert!(report.longest_silence <= REPEAT, "{report:?}");
            assert!(report.oldest <= MS * 1000, "{report:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_hour() {
    let minute = World {
        frames: 1500,
        loss: 50,
        replacements: 400,
        ..world(true)
    };
    assert_eq!(Hour::new(minute).run(), Hour::new(minute).run());
    let other = World { seed: 2, ..minute };
    assert_ne!(Hour::new(minute).run().digest, Hour::new(other).run().digest);
}
