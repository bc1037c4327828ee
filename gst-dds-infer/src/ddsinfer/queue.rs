// SPDX-License-Identifier: MPL-2.0

//! The queue between the decoders' threads and the worker: frames and serialised events in order, bounded in frames; and
//! what arrives for frames that the worker holds back, in any order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use dds_protocol::feedback::Rect;
use gst_dds_link::sync::{Condvar, Mutex};

use crate::identity::Lookup;

/// Frames that may wait where the stream is not live: enough to keep decoder and worker busy at once.
const CAPACITY: usize = 4;
/// Frames that may wait where it is live. The worker takes only the newest for inference, or as many as a waiting sink leaves
/// time for, so what waits is bounded by the time of one inference or by the latency; this bounds memory when that is very
/// long.
const CAPACITY_LIVE: usize = 60;

/// Refinements that may wait for their frames: above what two decoders get apart. Older ones go first.
const ARRIVALS: usize = 64;

/// Stream id and frame number.
pub type FrameKey = (u32, u64);

/// The second pass of a frame, decoded.
#[derive(Debug)]
pub struct Refinement {
    /// The picture; of use inside `regions` only.
    pub buffer: gst::Buffer,
    /// Its layout.
    pub info: gst_video::VideoInfo,
    /// Rectangles that were refined, in pixels of the picture.
    pub regions: Vec<Rect>,
    /// It is not what the camera coded.
    pub damaged: bool,
}

/// What became of a request for refinement.
#[derive(Debug)]
pub enum Arrival {
    /// Here it is.
    Refined(Refinement),
    /// The camera says that it will not come.
    Refused,
}

/// What the worker is to do next.
#[derive(Debug)]
pub enum Turn {
    /// The oldest item. Second: another frame waits behind it and the stream is live, so that inference of this one would
    /// only make results older.
    Item(Item, bool),
    /// For the frame it waits for.
    Arrival(Arrival),
    /// It has waited long enough.
    Overdue,
    /// Flushing.
    Stopped,
}

/// What waits.
#[derive(Debug)]
pub enum Item {
    /// A decoded frame and what is known of it.
    Frame(gst::Buffer, Lookup),
    /// A serialised event.
    Event(gst::Event),
}

#[derive(Debug)]
struct Inner {
    items: VecDeque<Item>,
    frames: usize,
    live: bool,
    /// Everything is refused: flushing, or not started.
    flushing: bool,
    /// What the last push downstream returned; handed back to the next frame.
    flow: Result<gst::FlowSuccess, gst::FlowError>,
    /// The worker is busy with an item it has taken.
    busy: bool,
    arrivals: BTreeMap<FrameKey, Arrival>,
    /// The newest frame that went on its way: what arrives for it or before is late.
    released: Option<FrameKey>,
    /// No more refinements will come.
    refinement_over: bool,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                frames: 0,
                live: false,
                flushing: true,
                flow: Err(gst::FlowError::Flushing),
                busy: false,
                arrivals: BTreeMap::new(),
                released: None,
                refinement_over: false,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Queue {
    /// Opens the queue for a new run or after a flush.
    pub fn start(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.items.clear();
        inner.frames = 0;
        inner.arrivals.clear();
        inner.released = None;
        inner.flushing = false;
        inner.flow = Ok(gst::FlowSuccess::Ok);
        self.changed.notify_all();
    }

    /// Refuses everything, wakes everybody, drops what waits.
    pub fn flush(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.flushing = true;
        inner.flow = Err(gst::FlowError::Flushing);
        inner.items.clear();
        inner.frames = 0;
        inner.arrivals.clear();
        self.changed.notify_all();
    }

    /// Whether upstream is live.
    pub fn set_live(&self, live: bool) {
        self.inner.lock().unwrap().live = live;
        self.changed.notify_all();
    }

    /// Adds a frame; waits while the queue is full.
    pub fn push_frame(&self, buffer: gst::Buffer, lookup: Lookup) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut inner = self.inner.lock().unwrap();
        while inner.flow.is_ok() && inner.frames >= if inner.live { CAPACITY_LIVE } else { CAPACITY } {
            inner = self.changed.wait(inner).unwrap();
        }
        inner.flow?;
        inner.items.push_back(Item::Frame(buffer, lookup));
        inner.frames += 1;
        self.changed.notify_all();
        Ok(gst::FlowSuccess::Ok)
    }

    /// Adds a serialised event; never waits. `false` where it was refused.
    pub fn push_event(&self, event: gst::Event) -> bool {
        let mut inner = self.inner.lock().unwrap();
        if inner.flushing {
            return false;
        }
        inner.items.push_back(Item::Event(event));
        self.changed.notify_all();
        true
    }

    /// What to do next; waits for something. `awaited`: the frame that the worker holds back for its refinement, and until
    /// when. `room`: whether it may take another frame. `holds`: whether it holds anything back.
    pub fn turn(&self, awaited: Option<(FrameKey, Instant)>, room: bool, holds: bool) -> Turn {
        let mut inner = self.inner.lock().unwrap();
        inner.busy = holds;
        self.changed.notify_all();
        loop {
            if inner.flushing {
                return Turn::Stopped;
            }
            let mut patience = None;
            if let Some((key, deadline)) = awaited {
                if let Some(arrival) = inner.arrivals.remove(&key) {
                    inner.busy = true;
                    return Turn::Arrival(arrival);
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || inner.refinement_over {
                    inner.busy = true;
                    return Turn::Overdue;
                }
                patience = Some(left);
            }
            let takes = match inner.items.front() {
                Some(Item::Frame(..)) => room,
                Some(Item::Event(_)) => true,
                None => false,
            };
            if takes && let Some(item) = inner.items.pop_front() {
                if matches!(item, Item::Frame(..)) {
                    inner.frames -= 1;
                }
                inner.busy = true;
                let overtaken = inner.live && inner.frames > 0;
                self.changed.notify_all();
                return Turn::Item(item, overtaken);
            }
            inner = match patience {
                Some(patience) => self.changed.wait_timeout(inner, patience).unwrap().0,
                None => self.changed.wait(inner).unwrap(),
            };
        }
    }

    /// Brings what the worker may wait for. `false`: too late, the frame is gone.
    pub fn arrive(&self, key: FrameKey, arrival: Arrival) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let late = inner
            .released
            .is_some_and(|(stream, frame)| stream == key.0 && frame >= key.1);
        if late || inner.flushing {
            return false;
        }
        if inner.arrivals.len() >= ARRIVALS && !inner.arrivals.contains_key(&key) {
            inner.arrivals.pop_first();
        }
        match arrival {
            // What is there is better than what is said of it.
            Arrival::Refused if inner.arrivals.contains_key(&key) => (),
            arrival => drop(inner.arrivals.insert(key, arrival)),
        }
        self.changed.notify_all();
        true
    }

    /// The frame goes on its way; returns how many arrivals nobody waits for any more.
    pub fn release(&self, key: FrameKey) -> usize {
        let mut inner = self.inner.lock().unwrap();
        inner.released = Some(key);
        let before = inner.arrivals.len();
        inner
            .arrivals
            .retain(|(stream, frame), _| *stream != key.0 || *frame > key.1);
        before - inner.arrivals.len()
    }

    /// Whether refinements may still come.
    pub fn set_refinement_over(&self, over: bool) {
        self.inner.lock().unwrap().refinement_over = over;
        self.changed.notify_all();
    }

    /// Waits until everything that was pushed has gone downstream. `false`: flushing instead.
    pub fn drain(&self) -> bool {
        let mut inner = self.inner.lock().unwrap();
        while !inner.flushing && inner.flow.is_ok() && (inner.busy || !inner.items.is_empty()) {
            inner = self.changed.wait(inner).unwrap();
        }
        !inner.flushing && inner.flow.is_ok()
    }

    /// Whether downstream refused a frame since the start.
    pub fn refused(&self) -> bool {
        self.inner.lock().unwrap().flow.is_err()
    }

    /// Remembers what downstream said. An error makes every further frame fail with it.
    pub fn set_flow(&self, flow: Result<gst::FlowSuccess, gst::FlowError>) {
        let mut inner = self.inner.lock().unwrap();
        if !inner.flushing {
            inner.flow = flow;
        }
        self.changed.notify_all();
    }

    /// Whether an EOS event waits: then nobody upstream would learn of an error any more.
    pub fn eos_waits(&self) -> bool {
        let inner = self.inner.lock().unwrap();
        inner
            .items
            .iter()
            .any(|i| matches!(i, Item::Event(e) if e.type_() == gst::EventType::Eos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> (gst::Buffer, Lookup) {
        gst::init().unwrap();
        (gst::Buffer::new(), Lookup::Unknown)
    }

    fn push(queue: &Queue) {
        let (buffer, lookup) = frame();
        queue.push_frame(buffer, lookup).unwrap();
    }

    #[test]
    fn refuses_everything_until_started_and_while_flushing() {
        let queue = Queue::default();
        let (buffer, lookup) = frame();
        assert_eq!(queue.push_frame(buffer, lookup), Err(gst::FlowError::Flushing));
        queue.start();
        push(&queue);
        queue.flush();
        assert!(matches!(queue.turn(None, true, false), Turn::Stopped));
        queue.start();
        push(&queue);
        assert!(matches!(
            queue.turn(None, true, false),
            Turn::Item(Item::Frame(..), false)
        ));
    }

    #[test]
    fn a_frame_is_overtaken_only_when_live() {
        let queue = Queue::default();
        queue.start();
        push(&queue);
        push(&queue);
        let overtaken = || match queue.turn(None, true, false) {
            Turn::Item(Item::Frame(..), overtaken) => overtaken,
            other => panic!("{other:?}"),
        };
        assert!(!overtaken());
        push(&queue);
        queue.set_live(true);
        assert!(overtaken());
        assert!(!overtaken());
    }

    fn refinement() -> Arrival {
        gst::init().unwrap();
        Arrival::Refined(Refinement {
            buffer: gst::Buffer::new(),
            info: gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 16, 16)
                .build()
                .unwrap(),
            regions: Vec::new(),
            damaged: false,
        })
    }

    #[test]
    fn what_is_waited_for_comes_first_and_what_is_not_is_late() {
        let queue = Queue::default();
        queue.start();
        push(&queue);
        let soon = Instant::now() + std::time::Duration::from_secs(60);
        assert!(queue.arrive((1, 7), refinement()));
        assert!(queue.arrive((1, 8), Arrival::Refused));
        // A refusal repeated after the fact changes nothing.
        assert!(queue.arrive((1, 7), Arrival::Refused));
        assert!(matches!(
            queue.turn(Some(((1, 7), soon)), true, true),
            Turn::Arrival(Arrival::Refined(_))
        ));
        assert!(matches!(queue.turn(Some(((1, 9), soon)), true, true), Turn::Item(..)));
        assert_eq!(queue.release((1, 9)), 1);
        assert!(!queue.arrive((1, 9), refinement()));
        assert!(queue.arrive((2, 0), refinement()));
    }

    #[test]
    fn waiting_ends_at_the_deadline_and_with_the_stream() {
        let queue = Queue::default();
        queue.start();
        let now = Instant::now();
        assert!(matches!(queue.turn(Some(((1, 0), now)), true, true), Turn::Overdue));
        queue.set_refinement_over(true);
        let later = now + std::time::Duration::from_secs(60);
        assert!(matches!(queue.turn(Some(((1, 0), later)), true, true), Turn::Overdue));
        // Without room frames wait, events do not.
        push(&queue);
        queue.push_event(gst::event::Eos::new());
        queue.set_refinement_over(false);
        let soon = Instant::now() + std::time::Duration::from_millis(20);
        assert!(matches!(queue.turn(Some(((1, 0), soon)), false, true), Turn::Overdue));
    }

    #[test]
    fn arrivals_are_bounded() {
        let queue = Queue::default();
        queue.start();
        (0..1000).for_each(|frame| assert!(queue.arrive((1, frame), refinement())));
        assert_eq!(queue.release((1, 2000)), ARRIVALS);
    }

    #[test]
    fn downstream_errors_come_back_with_the_next_frame() {
        let queue = Queue::default();
        queue.start();
        queue.set_flow(Err(gst::FlowError::NotLinked));
        let (buffer, lookup) = frame();
        assert_eq!(queue.push_frame(buffer, lookup), Err(gst::FlowError::NotLinked));
        assert!(queue.push_event(gst::event::Eos::new()));
        assert!(queue.eos_waits());
    }
}
