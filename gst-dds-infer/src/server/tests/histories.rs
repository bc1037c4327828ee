// SPDX-License-Identifier: MPL-2.0

//! Random histories: the promises hold for events in any order, and in any state of the worker.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::server::{CAPACITY_LIVE, MAX_DELAYED, SEGMENT_PATIENCE};

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// A frame: stream, frames missing before it, whether it is in a segment of four, damage, regions that the model finds.
    Frame(u32, u64, bool, bool, usize),
    /// A frame without a record.
    Unknown(Origin),
    Serialized(Kind),
    /// The camera answers for a frame that was asked about, counted from the newest; or for any other.
    Answer(usize, Arrival<()>),
    Stray(u32, u64),
    /// The worker carries out one action, and does not answer it yet.
    Start,
    /// The worker answers.
    Finish,
    /// The worker runs for so many milliseconds.
    Pass(u16),
    /// A flush, during which or after which the worker answers.
    Flush(bool),
    Live(bool),
    RefineLinked(bool),
    RefineOver(bool),
    Settings(u32, bool, u16),
    Kept(u16),
    Refuse,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        Just(Kind::StreamStart),
        Just(Kind::Caps { interval: 40 * MS }),
        Just(Kind::Caps {
            interval: Duration::ZERO
        }),
        Just(Kind::End),
        Just(Kind::Other),
    ];
    let arrival = prop_oneof![
        3 => Just(Arrival::Refined(())),
        1 => Just(Arrival::Damaged),
        1 => Just(Arrival::Refused),
    ];
    let origin = prop_oneof![Just(Origin::Undecided), Just(Origin::Ours), Just(Origin::Foreign)];
    let stream = prop_oneof![12 => Just(1u32), 1 => Just(2u32)];
    let step = prop_oneof![
        16 => (stream, prop_oneof![8 => Just(0u64), 1 => 1..9u64], any::<bool>(), prop::bool::weighted(0.1), 0..3usize)
            .prop_map(|(stream, missing, segment, damaged, finds)| Step::Frame(stream, missing, segment, damaged, finds)),
        1 => origin.prop_map(Step::Unknown),
        1 => kind.prop_map(Step::Serialized),
        8 => (0..6usize, arrival).prop_map(|(back, arrival)| Step::Answer(back, arrival)),
        1 => (1..3u32, 0..200u64).prop_map(|(stream, frame)| Step::Stray(stream, frame)),
        4 => Just(Step::Start),
        4 => Just(Step::Finish),
        8 => prop_oneof![0..50u16, 0..3000u16].prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Flush),
        1 => any::<bool>().prop_map(Step::Live),
        1 => prop::bool::weighted(0.8).prop_map(Step::RefineLinked),
        1 => prop::bool::weighted(0.2).prop_map(Step::RefineOver),
        1 => (1..4u32, prop::bool::weighted(0.8), 0..1000u16).prop_map(|(n, on, ms)| Step::Settings(n, on, ms)),
        1 => (0..100u16).prop_map(Step::Kept),
        1 => prop::bool::weighted(0.1).prop_map(|refuse| if refuse { Step::Refuse } else { Step::Finish }),
    ];
    prop::collection::vec(step, 0..300)
}

/// The longest deadline in [`Step::Settings`].
const LONGEST: Duration = Duration::from_millis(1000);

/// Runs a history and checks the promises.
struct History {
    worker: Worker,
    /// The worker's answer, not given yet.
    answer: Option<PlainEvent>,
    /// Payload of the newest frame or event.
    newest: u64,
    keys: BTreeMap<u64, FrameKey>,
    damaged: BTreeSet<u64>,
    next_number: [u64; 3],
    /// Frames that were asked about.
    asked: Vec<FrameKey>,
    /// Second passes that arrived undamaged.
    whole: BTreeSet<FrameKey>,
    /// When the last frame went out.
    out: Duration,
    read: usize,
    /// Frames and events that may still go out.
    inside: BTreeSet<u64>,
    refused: bool,
    flushed: bool,
}

impl History {
    fn new() -> Self {
        let worker = Worker::of_two_passes();
        Self {
            out: worker.now,
            worker,
            answer: None,
            newest: 0,
            keys: BTreeMap::new(),
            damaged: BTreeSet::new(),
            next_number: [0; 3],
            asked: Vec::new(),
            whole: BTreeSet::new(),
            read: 0,
            inside: BTreeSet::new(),
            refused: false,
            flushed: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Frame(stream, missing, segment, damaged, finds) => {
                let number = &mut self.next_number[stream as usize];
                *number += 1 + missing;
                let number = *number;
                let mut record = record(stream, number);
                record.damaged = damaged;
                record.extension.segment = segment.then_some(Segment {
                    position: (number % 4) as u8,
                    length: 4,
                });
                let payload = self.frame(record);
                self.worker.finds.insert(payload, finds);
            }
            Step::Unknown(origin) => {
                self.newest += 1;
                let unknown = Decoded {
                    lookup: Lookup::Unknown,
                    origin,
                    ..decoded(self.newest, FrameRecord::default())
                };
                if origin == Origin::Ours {
                    self.damaged.insert(self.newest);
                }
                if self.worker.handle(Event::Frame(unknown)) {
                    self.inside.insert(self.newest);
                }
            }
            Step::Serialized(kind) => {
                self.newest += 1;
                assert!(self.worker.handle(Event::Serialized(self.newest, kind)));
                // Caps may go out with a frame instead.
                if !matches!(kind, Kind::Caps { .. }) {
                    self.inside.insert(self.newest);
                }
            }
            Step::Answer(back, arrival) => {
                let Some(at) = self.asked.len().checked_sub(1 + back) else {
                    return;
                };
                let key = self.asked[at];
                let arrival = match arrival {
                    Arrival::Refined(()) => Arrival::Refined(key),
                    Arrival::Damaged => Arrival::Damaged,
                    Arrival::Refused => Arrival::Refused,
                };
                self.whole.extend(matches!(arrival, Arrival::Refined(_)).then_some(key));
                self.worker.handle(Event::Arrival(key, arrival));
            }
            Step::Stray(stream, frame) => {
                self.whole.insert((stream, frame));
                let stray = Arrival::Refined((stream, frame));
                self.worker.handle(Event::Arrival((stream, frame), stray));
            }
            Step::Start if self.answer.is_none() => {
                let action = self.worker.core.poll(self.worker.now);
                self.answer = self.worker.act(action).unwrap_or_default();
            }
            Step::Start => (),
            Step::Finish => self.finish(),
            Step::Pass(ms) => {
                self.finish();
                self.worker.pass(MS * u32::from(ms));
            }
            Step::Flush(answered) => self.flush(answered),
            Step::Live(live) => drop(self.worker.handle(Event::Live(live))),
            Step::RefineLinked(linked) => drop(self.worker.handle(Event::RefineLinked(linked))),
            Step::RefineOver(over) => drop(self.worker.handle(Event::RefineOver(over))),
            Step::Settings(inference_interval, feedback, deadline) => {
                let refine_deadline = MS * u32::from(deadline);
                self.worker.handle(Event::Settings(CoreSettings {
                    inference_interval,
                    feedback,
                    feedback_rate: true,
                    predicted_results: false,
                    refine_deadline,
                }));
            }
            Step::Kept(ms) => drop(self.worker.handle(Event::Pushed(MS * u32::from(ms)))),
            Step::Refuse => {
                self.refused = true;
                self.worker.handle(Event::Downstream(false));
            }
        }
        self.watch();
    }

    fn frame(&mut self, record: FrameRecord) -> u64 {
        self.newest += 1;
        let payload = self.newest;
        if let Some(identity) = record.identity {
            self.keys.insert(payload, (identity.stream_id, identity.frame));
        }
        if record.damaged {
            self.damaged.insert(payload);
        }
        if self.worker.handle(Event::Frame(decoded(payload, record))) {
            self.inside.insert(payload);
        } else {
            assert!(!self.worker.core.takes_frame(), "refused where there is room");
        }
        payload
    }

    fn finish(&mut self) {
        if let Some(answer) = self.answer.take() {
            self.worker.handle(answer);
        }
    }

    fn flush(&mut self, answered: bool) {
        self.flushed = true;
        self.worker.handle(Event::Flush);
        if answered {
            self.finish();
        }
        assert!(matches!(self.worker.core.poll(self.worker.now), Action::Stop));
        self.worker.handle(Event::Open);
        self.finish();
        self.inside.clear();
        self.refused = false;
    }

    /// Checks the actions since the last call.
    fn watch(&mut self) {
        let (frames, held) = self.worker.core.waiting();
        assert!(frames <= CAPACITY_LIVE);
        // Only frames are bounded: events may exceed the bound.
        let events = self.newest as usize - self.keys.len();
        assert!(held <= MAX_DELAYED + events);
        let news = self.worker.seen.split_off(self.read);
        self.read += news.len();
        for seen in &news {
            match seen {
                Seen::Inferred(payload, look) => {
                    assert!(self.inside.contains(payload));
                    let damaged = self.damaged.contains(payload);
                    assert_eq!(look.damaged, damaged);
                    assert!(look.ask.is_none() || !damaged, "steered by damage");
                    let key = self.keys.get(payload);
                    self.asked.extend(look.ask.and(key));
                }
                Seen::Sent(request) => {
                    for region in &request.regions {
                        let key = (request.stream_id, request.frame + u64::from(region.frame_offset));
                        assert!(self.asked.contains(&key), "asked for {key:?}, which nobody looked at");
                    }
                    assert_eq!(request.once, !request.regions.is_empty());
                }
                Seen::Pasted(payload, refinement) => {
                    assert_eq!(self.keys.get(payload), Some(refinement));
                    assert!(self.whole.contains(refinement));
                    assert!(!self.damaged.contains(payload));
                }
                Seen::Out(payload, refined) => {
                    self.leaves(*payload);
                    let out = self.worker.left[payload];
                    if let Some(looked) = self.worker.looked.get(payload) {
                        assert!(
                            out <= self.out.max(*looked) + SEGMENT_PATIENCE + LONGEST * 2,
                            "held too long"
                        );
                    }
                    self.out = out;
                    let key = self.keys.get(payload);
                    let whole = key.is_some_and(|key| self.whole.contains(key));
                    assert!(*refined != Refined::Yes || whole);
                }
                Seen::Event(payload) => self.leaves(*payload),
                Seen::Prepared(_) | Seen::Forgot | Seen::Posted(_) | Seen::Predicted(_) => (),
            }
        }
        self.worker.seen.extend(news);
    }

    /// Checks that a payload goes out in order and once. Caps, which may go out with a frame instead, are in order too.
    fn leaves(&mut self, payload: u64) {
        assert!(
            self.inside.iter().all(|inside| *inside >= payload) || self.refused,
            "order"
        );
        self.inside.remove(&payload);
        let before = self.inside.split_off(&payload);
        self.inside = before;
    }

    /// Ends the history: everything goes out within the longest time that a frame may wait.
    fn end(&mut self) {
        self.finish();
        self.worker.pass(SEGMENT_PATIENCE + LONGEST * 2);
        self.watch();
        assert!(!self.worker.core.is_busy(), "stuck");
        assert_eq!(self.worker.waits, None);
        if self.worker.core.holds_caps() {
            self.frame(record(1, 10_000));
            self.worker.pass(SEGMENT_PATIENCE + LONGEST * 2);
            self.watch();
        }
        assert!(
            self.refused || self.inside.is_empty(),
            "{:?} never went out",
            self.inside
        );
        let counts = self.worker.core.counts();
        let known = counts.inferred + counts.skipped + counts.not_due;
        assert!(known <= counts.frames, "{counts:?}");
        assert!(self.flushed || known == counts.frames, "{counts:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn order_damage_bounds_and_progress_hold_whatever_comes(steps in steps()) {
        let run = || {
            let mut history = History::new();
            steps.iter().cloned().for_each(|step| history.step(step));
            history.end();
            history.worker.seen
        };
        let seen = run();
        prop_assert_eq!(seen, run(), "the same history, other actions");
    }
}
