// SPDX-License-Identifier: MPL-2.0

//! The queue between the decoder's thread and the worker: frames and serialised events in order, bounded in frames.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

use crate::identity::Lookup;

/// Frames that may wait where the stream is not live: enough to keep decoder and worker busy at once.
const CAPACITY: usize = 4;
/// Frames that may wait where it is live. The worker takes only the newest for inference, so what waits is bounded by
/// the time of one inference; this bounds memory when that is very long.
const CAPACITY_LIVE: usize = 60;

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

    /// Takes the oldest item; waits for one. Second: whether another frame waits behind it and the stream is live, so
    /// that inference of this one would only make results older. `None`: flushing.
    pub fn pop(&self) -> Option<(Item, bool)> {
        let mut inner = self.inner.lock().unwrap();
        inner.busy = false;
        self.changed.notify_all();
        loop {
            if inner.flushing {
                return None;
            }
            if let Some(item) = inner.items.pop_front() {
                if matches!(item, Item::Frame(..)) {
                    inner.frames -= 1;
                }
                inner.busy = true;
                let overtaken = inner.live && inner.frames > 0;
                self.changed.notify_all();
                return Some((item, overtaken));
            }
            inner = self.changed.wait(inner).unwrap();
        }
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
        assert!(queue.pop().is_none());
        queue.start();
        push(&queue);
        assert!(queue.pop().is_some());
    }

    #[test]
    fn a_frame_is_overtaken_only_when_live() {
        let queue = Queue::default();
        queue.start();
        push(&queue);
        push(&queue);
        assert!(!queue.pop().unwrap().1);
        push(&queue);
        queue.set_live(true);
        assert!(queue.pop().unwrap().1);
        assert!(!queue.pop().unwrap().1);
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
