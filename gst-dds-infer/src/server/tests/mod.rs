// SPDX-License-Identifier: MPL-2.0

//! Tests of the core on a virtual clock. A [`Worker`] carries out its actions, with a model that finds what each test states.

mod histories;
mod promises;
mod rate;

use std::collections::BTreeMap;
use std::time::Duration;

use dds_protocol::extension::{Extension, Segment};
use dds_protocol::feedback::{Rect, Region};
use dds_protocol::identity::{FrameIdentity, StreamKind};

use super::{
    Action, Arrival, Ask, Core, CoreSettings, Decoded, Event, FrameKey, Inference, Kind, Look, Notice, Outgoing,
    Predicted, Request,
};
use crate::identity::{FrameRecord, Lookup, Origin};
use crate::results::Refined;

/// Frames and events are their number, second passes the frame that they belong to.
type Plain = Core<u64, u64, FrameKey>;
type PlainAction = Action<u64, u64, FrameKey>;
type PlainEvent = Event<u64, u64, FrameKey>;

const MS: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_millis(300);

fn settings() -> CoreSettings {
    CoreSettings {
        inference_interval: 1,
        feedback: true,
        feedback_rate: true,
        predicted_results: false,
        refine_deadline: DEADLINE,
    }
}

fn identity(stream_id: u32, frame: u64, kind: StreamKind) -> FrameIdentity {
    FrameIdentity {
        kind,
        stream_id,
        frame,
        capture_time_ns: 0,
        access_unit: frame as u32,
        recovery: false,
        slices: 1,
        slice_bytes: 0,
        slice_checksum: 0,
    }
}

/// A frame of the first pass of stream 1, of a camera of two passes.
fn frame(number: u64) -> Decoded<u64> {
    decoded(number, record(1, number))
}

fn record(stream_id: u32, number: u64) -> FrameRecord {
    FrameRecord {
        identity: Some(identity(stream_id, number, StreamKind::Low)),
        damaged: false,
        extension: Extension::default(),
    }
}

fn decoded(payload: u64, record: FrameRecord) -> Decoded<u64> {
    Decoded {
        frame: payload,
        lookup: Lookup::Known(record),
        attached: None,
        corrupted: false,
        origin: Origin::Ours,
        due: None,
    }
}

/// Frame `number` at its place in a segment of `length` frames.
fn in_segment(number: u64, length: u8) -> Decoded<u64> {
    let mut record = record(1, number);
    record.extension.segment = Some(Segment {
        position: (number % u64::from(length)) as u8,
        length,
    });
    decoded(number, record)
}

fn region(x: u32) -> Region {
    let (width, height) = (16, 16);
    Region {
        rect: Rect { x, y: 0, width, height },
        ttl_ms: 500,
        ..Region::default()
    }
}

/// Actions of the core, in order.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Inferred(u64, Look),
    Sent(Request),
    Predicted(Predicted),
    Forgot,
    Posted(Notice),
    Prepared(u64),
    Pasted(u64, FrameKey),
    Out(u64, Refined),
    Event(u64),
}

/// Carries out the core's actions, at once by default.
struct Worker {
    core: Plain,
    now: Duration,
    /// Number of regions that the model finds in a frame.
    finds: BTreeMap<u64, usize>,
    /// Number of regions that it finds in all others.
    finds_always: usize,
    /// Interval that the objects need.
    needs: u8,
    inference: Duration,
    generation: u16,
    seen: Vec<Seen>,
    /// Time until which the core waits.
    waits: Option<Duration>,
    generations: BTreeMap<u64, Option<u16>>,
    /// Times at which frames were inferred, and at which they went out.
    looked: BTreeMap<u64, Duration>,
    left: BTreeMap<u64, Duration>,
    /// Predictions that frames went out with.
    predictions: BTreeMap<u64, Predicted>,
}

impl Worker {
    fn new() -> Self {
        let mut worker = Self {
            core: Core::new(settings()),
            now: Duration::from_secs(1000),
            finds: BTreeMap::new(),
            finds_always: 0,
            needs: 1,
            inference: Duration::ZERO,
            generation: 0,
            seen: Vec::new(),
            waits: None,
            generations: BTreeMap::new(),
            looked: BTreeMap::new(),
            left: BTreeMap::new(),
            predictions: BTreeMap::new(),
        };
        worker.handle(Event::Open);
        worker
    }

    /// A worker with a second pass, and a model that finds one region in every frame.
    fn of_two_passes() -> Self {
        let mut worker = Self::new();
        worker.handle(Event::RefineLinked(true));
        worker.finds_always = 1;
        worker
    }

    fn handle(&mut self, event: PlainEvent) -> bool {
        self.core.handle(self.now, event)
    }

    /// Carries out all actions that are due now.
    fn work(&mut self) {
        while self.work_once() {}
    }

    /// Carries out the next action and answers it. Returns `false` where there is none.
    fn work_once(&mut self) -> bool {
        let action = self.core.poll(self.now);
        match self.act(action) {
            Ok(answer) => {
                if let Some(answer) = answer {
                    self.handle(answer);
                }
                true
            }
            Err(until) => {
                self.waits = until;
                false
            }
        }
    }

    /// Lets time pass and carries out the actions that become due.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.work();
            match self.waits.filter(|until| *until <= end) {
                Some(until) => self.now = until,
                None => break,
            }
        }
        self.now = end;
    }

    fn give(&mut self, frame: Decoded<u64>) -> bool {
        let taken = self.handle(Event::Frame(frame));
        self.work();
        taken
    }

    fn arrive(&mut self, frame: u64, arrival: Arrival<FrameKey>) -> bool {
        let taken = self.handle(Event::Arrival((1, frame), arrival));
        self.work();
        taken
    }

    fn refined(&mut self, frame: u64) -> bool {
        self.arrive(frame, Arrival::Refined((1, frame)))
    }

    /// Carries out one action. Returns its answer, or else the time until which the core waits.
    fn act(&mut self, action: PlainAction) -> Result<Option<PlainEvent>, Option<Duration>> {
        Ok(match action {
            Action::Wait(until) => {
                assert!(until.is_none_or(|until| until > self.now), "a busy loop");
                return Err(until);
            }
            Action::Stop => return Err(None),
            Action::Prepare(event) => {
                self.seen.push(Seen::Prepared(event));
                None
            }
            Action::Infer(frame, look) => {
                let count = self.finds.get(&frame).copied().unwrap_or(self.finds_always);
                let regions = (0..count).map(|n| region(16 * n as u32)).collect();
                let regions = if look.ask.is_some() { regions } else { Vec::new() };
                self.seen.push(Seen::Inferred(frame, look));
                self.looked.insert(frame, self.now);
                self.now += self.inference;
                let took = self.inference;
                let inference = Inference::Done {
                    regions,
                    took,
                    interval: self.needs,
                };
                Some(Event::Inferred { frame, inference })
            }
            Action::Send(request) => {
                self.seen.push(Seen::Sent(request));
                self.generation += 1;
                Some(Event::Sent(self.generation))
            }
            Action::Predict(predicted) => {
                self.seen.push(Seen::Predicted(predicted));
                None
            }
            Action::Forget => {
                self.seen.push(Seen::Forgot);
                None
            }
            Action::Post(notice) => {
                self.seen.push(Seen::Posted(notice));
                None
            }
            Action::Refine(out, refinement) => {
                self.seen.push(Seen::Pasted(out.frame, refinement));
                self.now += self.inference;
                let took = Some(self.inference);
                Some(Event::Refined { out, took })
            }
            Action::Push(out) => {
                self.out(out);
                Some(Event::Pushed(Duration::ZERO))
            }
            Action::Forward(event) => {
                self.seen.push(Seen::Event(event));
                None
            }
        })
    }

    fn out(&mut self, out: Outgoing<u64, u64>) {
        self.seen.extend(out.events.into_iter().map(Seen::Event));
        self.left.insert(out.frame, self.now);
        self.generations.insert(out.frame, out.generation);
        self.predictions.extend(out.predicted.map(|p| (out.frame, p)));
        self.seen.push(Seen::Out(out.frame, out.refined));
    }
}
