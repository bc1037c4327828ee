// SPDX-License-Identifier: MPL-2.0

//! The core between the threads: decoders and other threads add events, the worker fetches actions and waits where there are
//! none.

use std::time::{Duration, Instant};

use gst_dds_link::sync::{Condvar, Mutex};

use super::frame::{Frame, Refinement};
use crate::identity::Lookup;
use crate::server::{self, Arrival, Core, Counts, Decoded, Kind, RateStatus};

pub type Event = server::Event<Box<Frame>, gst::Event, Refinement>;
pub type Action = server::Action<Box<Frame>, gst::Event, Refinement>;
pub type Outgoing = server::Outgoing<Box<Frame>, gst::Event>;

type Flow = Result<gst::FlowSuccess, gst::FlowError>;

/// Outcome of one action of the worker.
#[derive(Debug, Default)]
pub struct Done {
    /// The answer to the core.
    pub answer: Option<Event>,
    /// The flow return of downstream.
    pub flow: Option<Flow>,
}

impl Done {
    pub fn answer(answer: Event) -> Self {
        let answer = Some(answer);
        Self { answer, flow: None }
    }

    /// An action that failed with this error.
    pub fn failed(error: gst::FlowError) -> Self {
        let flow = Some(Err(error));
        Self { answer: None, flow }
    }
}

#[derive(Debug)]
struct Inner {
    core: Core<Box<Frame>, gst::Event, Refinement>,
    /// Flow return of the last push downstream, returned for the next frame.
    flow: Flow,
}

impl Inner {
    /// Stores a flow return. Every further frame fails with an error.
    fn set_flow(&mut self, now: Duration, flow: Flow) {
        if !self.core.is_closed() {
            self.flow = flow;
            self.core.handle(now, Event::Downstream(flow.is_ok()));
        }
    }
}

/// The core behind a lock. No foreign code is called while it is held.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    epoch: Instant,
}

impl Queue {
    pub fn new(settings: server::CoreSettings) -> Self {
        Self {
            inner: Mutex::new(Inner {
                core: Core::new(settings),
                flow: Err(gst::FlowError::Flushing),
            }),
            changed: Condvar::new(),
            epoch: Instant::now(),
        }
    }

    /// Forgets everything for a new run, closed until [`Self::start`].
    pub fn reset(&self, settings: server::CoreSettings) {
        let mut inner = self.inner.lock().unwrap();
        inner.core = Core::new(settings);
        inner.flow = Err(gst::FlowError::Flushing);
        self.changed.notify_all();
    }

    /// Current time of the core.
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Opens the queue for a new run or after a flush.
    pub fn start(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.core.handle(self.now(), Event::Open);
        inner.flow = Ok(gst::FlowSuccess::Ok);
        self.changed.notify_all();
    }

    /// Refuses everything, wakes all waiting threads and drops all entries.
    pub fn flush(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.core.handle(self.now(), Event::Flush);
        inner.flow = Err(gst::FlowError::Flushing);
        self.changed.notify_all();
    }

    /// Passes an event to the core. Returns `false` where it refuses it.
    pub fn handle(&self, event: Event) -> bool {
        let taken = self.inner.lock().unwrap().core.handle(self.now(), event);
        self.changed.notify_all();
        taken
    }

    /// Adds a serialized event without waiting. Returns `false` where it was refused.
    pub fn push_event(&self, event: gst::Event) -> bool {
        let kind = kind_of(&event);
        self.handle(Event::Serialized(event, kind))
    }

    /// Adds a frame; waits while the queue is full. Refusals of other frames in its record take effect at once.
    pub fn push_frame(&self, decoded: Decoded<Box<Frame>>) -> Flow {
        let mut inner = self.inner.lock().unwrap();
        if let Lookup::Known(record) = &decoded.lookup
            && let Some(identity) = record.identity
        {
            for refused in &record.extension.refused {
                let key = (identity.stream_id, *refused);
                inner.core.handle(self.now(), Event::Arrival(key, Arrival::Refused));
            }
            self.changed.notify_all();
        }
        while inner.flow.is_ok() && !inner.core.takes_frame() {
            inner = self.changed.wait(inner).unwrap();
        }
        inner.flow?;
        inner.core.handle(self.now(), Event::Frame(decoded));
        self.changed.notify_all();
        Ok(gst::FlowSuccess::Ok)
    }

    /// Takes the outcome of the last action and returns the next one; waits until there is one.
    pub fn turn(&self, done: Done) -> Action {
        let mut inner = self.inner.lock().unwrap();
        if let Some(flow) = done.flow {
            inner.set_flow(self.now(), flow);
        }
        if let Some(answer) = done.answer {
            inner.core.handle(self.now(), answer);
        }
        loop {
            let now = self.now();
            let action = inner.core.poll(now);
            self.changed.notify_all();
            let Action::Wait(until) = action else { return action };
            inner = match until {
                Some(until) => self.changed.wait_timeout(inner, until.saturating_sub(now)).unwrap().0,
                None => self.changed.wait(inner).unwrap(),
            };
        }
    }

    /// Stores the flow return of downstream where no turn follows.
    pub fn set_flow(&self, flow: Flow) {
        self.inner.lock().unwrap().set_flow(self.now(), flow);
        self.changed.notify_all();
    }

    /// Waits until everything that was pushed has gone downstream. Returns `false` where it is flushed instead, or caps wait
    /// for a frame.
    pub fn drain(&self) -> bool {
        let mut inner = self.inner.lock().unwrap();
        while inner.flow.is_ok() && inner.core.is_busy() {
            inner = self.changed.wait(inner).unwrap();
        }
        inner.flow.is_ok() && !inner.core.holds_caps()
    }

    /// Whether an EOS event is queued: upstream can then no longer receive an error.
    pub fn eos_waits(&self) -> bool {
        self.inner.lock().unwrap().core.end_waits()
    }

    /// Whether upstream is live.
    pub fn is_live(&self) -> bool {
        self.inner.lock().unwrap().core.is_live()
    }

    /// Latency to report to the pipeline.
    pub fn latency(&self) -> Duration {
        self.inner.lock().unwrap().core.latency()
    }

    /// The core's wish for a rate.
    pub fn rate(&self) -> RateStatus {
        self.inner.lock().unwrap().core.rate()
    }

    /// Counts of the core.
    pub fn counts(&self) -> Counts {
        self.inner.lock().unwrap().core.counts()
    }
}

fn kind_of(event: &gst::Event) -> Kind {
    match event.view() {
        gst::EventView::StreamStart(_) => Kind::StreamStart,
        gst::EventView::Caps(caps) => Kind::Caps {
            interval: interval_of(caps.caps()),
        },
        gst::EventView::Eos(_) => Kind::End,
        _ => Kind::Other,
    }
}

/// Frame duration; zero where caps give no frame rate.
fn interval_of(caps: &gst::CapsRef) -> Duration {
    let fps = gst_video::VideoInfo::from_caps(caps).map(|info| info.fps());
    let known = fps.ok().filter(|fps| fps.numer() > 0 && fps.denom() > 0);
    known.map_or(Duration::ZERO, |fps| {
        Duration::from_secs(fps.denom() as u64) / fps.numer().unsigned_abs()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::Origin;
    use crate::server::Notice;

    fn queue() -> Queue {
        Queue::new(server::CoreSettings {
            inference_interval: 1,
            feedback: true,
            feedback_rate: true,
            predicted_results: false,
            refine_deadline: Duration::from_millis(20),
        })
    }

    fn frame() -> Decoded<Box<Frame>> {
        gst::init().unwrap();
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 16, 16);
        let caps = info.build().unwrap().to_caps().unwrap();
        let format = Arc::new(super::super::frame::Format::of(&caps).unwrap());
        Decoded {
            frame: Box::new(Frame::new(gst::Buffer::new(), format)),
            lookup: Lookup::Unknown,
            attached: None,
            corrupted: false,
            origin: Origin::Foreign,
            due: None,
        }
    }

    #[test]
    fn refuses_everything_until_started_and_while_flushing() {
        let queue = queue();
        assert_eq!(queue.push_frame(frame()), Err(gst::FlowError::Flushing));
        assert!(!queue.push_event(gst::event::Eos::new()));
        queue.start();
        queue.push_frame(frame()).unwrap();
        queue.flush();
        assert!(matches!(queue.turn(Done::default()), Action::Stop));
        queue.start();
        queue.push_frame(frame()).unwrap();
        let notice = queue.turn(Done::default());
        assert!(matches!(notice, Action::Post(Notice::Foreign(_))), "{notice:?}");
        assert!(matches!(queue.turn(Done::default()), Action::Infer(..)));
    }

    #[test]
    fn downstream_errors_come_back_with_the_next_frame() {
        let queue = queue();
        queue.start();
        queue.set_flow(Err(gst::FlowError::NotLinked));
        assert_eq!(queue.push_frame(frame()), Err(gst::FlowError::NotLinked));
        assert!(queue.push_event(gst::event::Eos::new()));
        assert!(queue.eos_waits());
        assert!(matches!(queue.turn(Done::default()), Action::Forget));
        assert!(matches!(queue.turn(Done::default()), Action::Forward(_)));
    }

    #[test]
    fn threads_that_wait_for_room_or_the_end_are_woken() {
        let queue = Arc::new(queue());
        queue.start();
        let pushed = std::thread::spawn({
            let queue = queue.clone();
            move || {
                (0..2 * server::CAPACITY).for_each(|_| assert!(queue.push_frame(frame()).is_ok()));
                queue.push_event(gst::event::Eos::new());
                queue.drain()
            }
        });
        let mut done = Done::default();
        let mut out = 0;
        loop {
            done = match queue.turn(done) {
                Action::Infer(frame, _) => Done::answer(Event::Inferred {
                    frame,
                    inference: server::Inference::Unreadable,
                }),
                Action::Push(_) => {
                    out += 1;
                    Done::answer(Event::Pushed(Duration::ZERO))
                }
                Action::Forward(_) => break,
                _ => Done::default(),
            };
        }
        assert_eq!(out, 2 * server::CAPACITY);
        queue.flush();
        assert!(!pushed.join().unwrap(), "flushing instead");
    }

    #[test]
    fn frames_last_as_long_as_their_caps_say() {
        gst::init().unwrap();
        let of = |caps: &str| interval_of(&caps.parse::<gst::Caps>().unwrap());
        let raw = "video/x-raw,format=I420,width=16,height=16,framerate";
        assert_eq!(of(&format!("{raw}=25/1")), Duration::from_millis(40));
        assert_eq!(of(&format!("{raw}=30000/1001")), Duration::from_nanos(33_366_666));
        assert_eq!(of(&format!("{raw}=0/1")), Duration::ZERO);
        assert_eq!(of("video/x-raw"), Duration::ZERO);
    }
}
