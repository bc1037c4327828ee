// SPDX-License-Identifier: MPL-2.0

//! The server end: the real trackers, core, policy and repetition around a modelled decoder and detector.

use std::time::Duration;

use dds_protocol::feedback::{FeedbackState, encode};
use dds_protocol::identity::StreamKind;
use dds_protocol::nal::{Codec, Format};
use gstdds::camera::Geometry;
use gstddsinfer::feedback::{Feedback, PolicySettings};
use gstddsinfer::identity::{IdentityTracker, Lookup};
use gstddsinfer::matching::Seen;
use gstddsinfer::model::{BoundingBox, Detection};
use gstddsinfer::rate::{Chooser, Looked, Sighting};
use gstddsinfer::server::{
    Action, Arrival, Core, CoreSettings, Decoded, Event, Follow, FrameKey, History, Inference, Kind, Look, Repetition,
};

use super::link::Order;
use super::model::{self, Decoder, SIZE, Shot};
use super::setup::Setup;
use super::types::{Cut, MS, Pass, Picture, Refinement, Time, Unit};
use super::watch::Watch;

type Doing = Action<Picture, u64, Refinement>;
type Said = Event<Picture, u64, Refinement>;

/// One stream up to its decoder.
#[derive(Debug)]
struct Input {
    order: Order<(Unit, Cut)>,
    tracker: IdentityTracker,
    decoder: Decoder,
}

impl Input {
    fn new(setup: &Setup) -> Self {
        Self {
            order: Order::new(setup.patience_ms * MS),
            tracker: IdentityTracker::new(),
            decoder: Decoder::default(),
        }
    }
}

/// What the server wants done outside.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Feedback packets to send.
    pub packets: Vec<Vec<u8>>,
    /// Key frames to ask for.
    pub key_frames: Vec<Pass>,
    /// When to turn to [`Server::worked`].
    pub worked: Option<Time>,
    /// When to turn to [`Server::work`].
    pub wake: Option<Time>,
    /// When to turn to [`Server::give_up`].
    pub look_again: Option<(Pass, Time)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Server {
    pub core: Core<Picture, u64, Refinement>,
    pub settings: CoreSettings,
    pub inference: Time,
    inputs: [Input; 2],
    policy: Feedback,
    chooser: Chooser,
    repetition: Repetition,
    /// What the worker says when it has done what it is at.
    answer: Option<Said>,
    /// When the core wants to be turned to.
    wake: Option<Time>,
    next_number: u64,
}

fn at(now: Time) -> Duration {
    Duration::from_nanos(now)
}

impl Server {
    pub fn new(setup: &Setup, generation: u16, now: Time, watch: &mut Watch) -> Self {
        let mut server = Self {
            core: Core::new(setup.server),
            settings: setup.server,
            inference: setup.inference_ms * MS,
            inputs: [Input::new(setup), Input::new(setup)],
            policy: Feedback::new(PolicySettings::default()),
            chooser: Chooser::default(),
            repetition: Repetition::new(generation),
            answer: None,
            wake: None,
            next_number: 0,
        };
        server.tell(now, Event::Open);
        server.tell(now, Event::Live(true));
        server.tell(now, Event::RefineLinked(setup.two_passes));
        watch.server_began();
        watch.server_settings(&server.settings, server.inference);
        let interval = Duration::from_secs_f64(1.0 / setup.frame_rate);
        for kind in [Kind::StreamStart, Kind::Caps { interval }] {
            server.event(now, kind, watch);
        }
        server
    }

    pub fn tell(&mut self, now: Time, event: Said) -> bool {
        self.core.handle(at(now), event)
    }

    /// A serialized event comes in.
    pub fn event(&mut self, now: Time, kind: Kind, watch: &mut Watch) {
        self.next_number += 1;
        let number = self.next_number;
        // Caps may go with a frame.
        let goes_out = !matches!(kind, Kind::Caps { .. });
        if self.tell(now, Event::Serialized(number, kind)) && goes_out {
            watch.came_in(now, number, false);
        }
    }

    /// Drops all that waits, as for a seek.
    pub fn flush(&mut self, now: Time, watch: &mut Watch) {
        self.tell(now, Event::Flush);
        for input in &mut self.inputs {
            input.tracker.flush();
            input.decoder = Decoder::default();
        }
        self.tell(now, Event::Open);
        watch.server_flushed();
    }

    /// An access unit arrives, as number `sent` of its stream.
    pub fn unit(
        &mut self,
        now: Time,
        pass: Pass,
        sent: u64,
        (unit, cut): (Unit, Cut),
        wants: &mut Wants,
        watch: &mut Watch,
    ) {
        let again = self.inputs[pass as usize].order.push(now, sent, (unit, cut));
        wants.look_again = Some((pass, again));
        self.give_up(now, pass, wants, watch);
    }

    /// Takes what has come in order, or is behind something that is not waited for any more.
    pub fn give_up(&mut self, now: Time, pass: Pass, wants: &mut Wants, watch: &mut Watch) {
        while let Some((unit, cut)) = self.inputs[pass as usize].order.pop(now) {
            self.decode(now, pass, &unit, cut, wants, watch);
        }
        self.work(now, wants, watch);
    }

    fn decode(&mut self, now: Time, pass: Pass, unit: &Unit, cut: Cut, wants: &mut Wants, watch: &mut Watch) {
        let input = &mut self.inputs[pass as usize];
        let pts = Some(unit.sent);
        input
            .tracker
            .push(&unit.bytes(cut), Codec::H264, Format::ByteStream, pts, false);
        if input.tracker.key_unit_due(unit.sent).is_some() {
            wants.key_frames.push(pass);
        }
        let whole = input
            .decoder
            .decode(unit.shot.stream, unit.unit, unit.idr, cut != Cut::Slice);
        let Some(whole) = whole else {
            // No picture; what was said of it waits in vain.
            return;
        };
        let lookup = input.tracker.lookup(pts);
        match pass {
            Pass::First => self.picture(now, unit.shot, whole, lookup, watch),
            Pass::Second => self.second_pass(now, unit, whole, lookup, watch),
        }
    }

    fn picture(&mut self, now: Time, shot: Shot, whole: bool, lookup: Lookup, watch: &mut Watch) {
        watch.decoded(shot, whole);
        if let Lookup::Known(record) = &lookup
            && let Some(identity) = record.identity
        {
            for refused in &record.extension.refused {
                let key = (identity.stream_id, *refused);
                self.tell(now, Event::Arrival(key, Arrival::Refused));
            }
        }
        self.next_number += 1;
        let number = self.next_number;
        let origin = self.inputs[0].tracker.origin();
        let taken = self.tell(
            now,
            Event::Frame(Decoded {
                frame: Picture { number, shot, whole },
                lookup,
                attached: None,
                corrupted: false,
                origin,
                due: None,
            }),
        );
        // Upstream would wait; here what there is no room for is thrown away in front of the server.
        if taken {
            watch.came_in(now, number, true);
        }
    }

    fn second_pass(&mut self, now: Time, unit: &Unit, whole: bool, lookup: Lookup, watch: &mut Watch) {
        let known = match lookup {
            Lookup::Known(record) => record
                .identity
                .filter(|i| i.kind == StreamKind::Refine)
                .map(|i| (i, record)),
            Lookup::Unknown => None,
        };
        let Some((identity, record)) = known else {
            self.tell(now, Event::Unidentified);
            return;
        };
        if record.extension.refined.is_empty() {
            return;
        }
        let key = (identity.stream_id, identity.frame);
        watch.refinement_came(now, (unit.shot.stream, unit.shot.frame), key);
        let arrival = match record.damaged {
            true => Arrival::Damaged,
            false => Arrival::Refined(Refinement { key, whole }),
        };
        self.tell(now, Event::Arrival(key, arrival));
    }

    /// A second pass comes that nobody asked for.
    pub fn stray(&mut self, now: Time, key: FrameKey) {
        let whole = false;
        self.tell(now, Event::Arrival(key, Arrival::Refined(Refinement { key, whole })));
    }

    /// The worker has done what it was at.
    pub fn worked(&mut self, now: Time, wants: &mut Wants, watch: &mut Watch) {
        if let Some(answer) = self.answer.take() {
            self.tell(now, answer);
        }
        self.work(now, wants, watch);
    }

    /// The worker does all that is to be done now.
    pub fn work(&mut self, now: Time, wants: &mut Wants, watch: &mut Watch) {
        while self.answer.is_none() {
            let action = self.core.poll(at(now));
            let answer = match action {
                Action::Wait(until) => {
                    let until = until.map(|until| until.as_nanos() as Time);
                    if until != self.wake {
                        (self.wake, wants.wake) = (until, until);
                    }
                    watch.waits(now, until, self.core.waiting());
                    return;
                }
                Action::Stop => return,
                action => self.act(now, action, wants, watch),
            };
            let Some((answer, took)) = answer else { continue };
            if took == 0 {
                self.tell(now, answer);
            } else {
                (self.answer, wants.worked) = (Some(answer), Some(now + took));
            }
        }
    }

    /// Does one thing: what it is answered with, and how long it takes.
    fn act(&mut self, now: Time, action: Doing, wants: &mut Wants, watch: &mut Watch) -> Option<(Said, Time)> {
        match action {
            Action::Infer(frame, look) => Some((self.infer(now, frame, &look, watch), self.inference)),
            Action::Send(request) => {
                watch.requested(now, &request);
                let state = self.repetition.state(at(now), request);
                self.send(&state, wants);
                Some((Event::Sent(state.generation.0), 0))
            }
            Action::Forget => {
                self.repetition.forget();
                None
            }
            Action::Refine(out, refinement) => {
                watch.pasted(&out.frame, refinement);
                let took = Some(at(self.inference));
                Some((Event::Refined { out, took }, self.inference))
            }
            Action::Push(out) => {
                watch.went_out(now, &out);
                Some((Event::Pushed(Duration::ZERO), 0))
            }
            Action::Forward(event) => {
                watch.event_went_out(event);
                None
            }
            Action::Prepare(_) | Action::Post(_) | Action::Predict(_) | Action::Wait(_) | Action::Stop => None,
        }
    }

    fn infer(&mut self, now: Time, frame: Picture, look: &Look, watch: &mut Watch) -> Said {
        watch.looked(now + self.inference, &frame, look);
        let detections = model::detect(&frame.shot, !frame.whole);
        let mut regions = Vec::new();
        if let Some(ask) = look.ask {
            if ask.interval.is_none() {
                self.policy.reset();
            }
            self.policy.set_settings(PolicySettings {
                use_motion: ask.moves,
                ..PolicySettings::default()
            });
            let Geometry { width, height } = SIZE;
            regions = self
                .policy
                .regions(ask.frame, ask.interval.unwrap_or(0), &detections, width, height);
        }
        let took = at(self.inference);
        let inference = Inference::Done {
            regions,
            took,
            interval: look.follow.map_or(1, |follow| self.follow(&follow, &detections)),
        };
        Event::Inferred { frame, inference }
    }

    /// The interval between sent pictures that the objects need.
    fn follow(&mut self, follow: &Follow, detections: &[Detection]) -> u8 {
        match follow.history {
            History::None => self.chooser.reset(),
            History::Interrupted => self.chooser.interrupt(),
            History::Related => (),
        }
        let sighting = |detection: &Detection| Sighting {
            seen: Seen {
                bounding_box: BoundingBox::from(detection),
                kind: detection.class,
            },
            score: detection.score,
        };
        let sightings: Vec<Sighting> = detections.iter().map(sighting).collect();
        self.chooser.look(&Looked {
            frame: follow.frame,
            frame_time: follow.frame_time,
            sightings: &sightings,
            actual: follow.actual,
        })
    }

    fn send(&self, state: &FeedbackState, wants: &mut Wants) {
        wants.packets.extend(encode(state).packets);
    }

    /// Sends the last state again where that is due; gives when to look again.
    pub fn repeat(&mut self, now: Time, wants: &mut Wants) -> Time {
        if self.settings.feedback
            && let Some(state) = self.repetition.due(at(now))
        {
            self.send(&state, wants);
        }
        now + self.repetition.wait(at(now)).as_nanos() as Time
    }

    /// Access units that wait for those before them, and those whose pictures have not come.
    pub fn units_held(&self) -> (usize, usize) {
        let ordered = self.inputs.iter().map(|input| input.order.len()).sum();
        (
            ordered,
            self.inputs
                .iter()
                .map(|input| input.tracker.waiting())
                .max()
                .unwrap_or(0),
        )
    }
}
