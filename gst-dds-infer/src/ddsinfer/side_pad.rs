// SPDX-License-Identifier: MPL-2.0

//! The request pads `feedback` and `results`: small buffers beside the video, pushed by a task of their own so that
//! whatever hangs on them can never stop the video.
//!
//! A pad that never pushes would keep its sink, and with it the pipeline, from prerolling. So the task begins with
//! stream-start, caps, segment and a gap, before there is anything to say.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use gst::prelude::*;

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<gst::Buffer>,
    /// Nothing more comes after what waits.
    eos: bool,
    /// Nothing is taken: the pad is not active.
    closed: bool,
    /// The task ended: unlinked, downstream gone, or EOS sent.
    stopped: bool,
    greeted: bool,
}

/// A side pad and what waits for it.
#[derive(Debug)]
pub struct SidePad {
    pad: gst::Pad,
    caps: gst::Caps,
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// Buffers that may wait.
const CAPACITY: usize = 256;

/// What became of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits for the task.
    Yes,
    /// Nobody takes buffers here; not an error.
    NoTaker,
    /// Too many wait; the oldest was dropped for this one.
    DroppedOldest,
}

impl SidePad {
    /// A pad from `template`, not yet added to an element.
    pub fn new(template: &gst::PadTemplate, name: &str, caps: gst::Caps) -> Arc<Self> {
        Arc::new_cyclic(|weak: &std::sync::Weak<Self>| {
            let weak = weak.clone();
            let pad = gst::Pad::builder_from_template(template)
                .name(name)
                .activatemode_function(move |_, _, mode, active| {
                    let Some(side) = weak.upgrade() else { return Ok(()) };
                    if mode != gst::PadMode::Push {
                        return Err(gst::loggable_error!(gst::CAT_PADS, "only push mode"));
                    }
                    if active { side.start() } else { side.stop() }
                })
                .build();
            Self {
                pad,
                caps,
                inner: Mutex::new(Inner {
                    closed: true,
                    ..Default::default()
                }),
                changed: Condvar::new(),
            }
        })
    }

    /// The pad.
    pub fn pad(&self) -> &gst::Pad {
        &self.pad
    }

    fn start(self: &Arc<Self>) -> Result<(), gst::LoggableError> {
        *self.inner.lock().unwrap() = Inner::default();
        let weak = Arc::downgrade(self);
        self.pad
            .start_task(move || match weak.upgrade() {
                Some(side) => side.step(),
                None => std::thread::yield_now(),
            })
            .map_err(|e| gst::loggable_error!(gst::CAT_PADS, "{e}"))
    }

    fn stop(&self) -> Result<(), gst::LoggableError> {
        self.inner.lock().unwrap().closed = true;
        self.changed.notify_all();
        self.pad
            .stop_task()
            .map_err(|e| gst::loggable_error!(gst::CAT_PADS, "{e}"))
    }

    /// Gives a buffer to the task. `wait`: wait while too many are there (the stream is not live, so nothing may be
    /// lost), instead of dropping the oldest.
    pub fn push(&self, buffer: gst::Buffer, wait: bool) -> Queued {
        let mut inner = self.inner.lock().unwrap();
        while wait && !inner.closed && !inner.stopped && inner.items.len() >= CAPACITY {
            inner = self.changed.wait(inner).unwrap();
        }
        if inner.closed || inner.stopped || inner.eos {
            return Queued::NoTaker;
        }
        let full = inner.items.len() >= CAPACITY;
        if full {
            inner.items.pop_front();
        }
        inner.items.push_back(buffer);
        self.changed.notify_all();
        if full { Queued::DroppedOldest } else { Queued::Yes }
    }

    /// Ends the stream once everything that waits has gone.
    pub fn eos(&self) {
        self.inner.lock().unwrap().eos = true;
        self.changed.notify_all();
    }

    /// Drops what waits and opens the pad again after an EOS; passes the flush on.
    pub fn flush(&self) {
        let was_stopped = {
            let mut inner = self.inner.lock().unwrap();
            if inner.closed {
                return;
            }
            inner.items.clear();
            inner.eos = false;
            // A task that waits for buffers holds the stream lock: this sends it home.
            inner.greeted = false;
            std::mem::take(&mut inner.stopped)
        };
        self.pad.push_event(gst::event::FlushStart::new());
        self.changed.notify_all();
        {
            // The task may be in a push that the flush has just ended; it greets anew afterwards.
            let _stream = self.pad.stream_lock();
            self.pad.push_event(gst::event::FlushStop::new(true));
            let mut inner = self.inner.lock().unwrap();
            inner.greeted = false;
            inner.stopped = false;
        }
        if was_stopped {
            let _ = self.pad.set_active(false);
            let _ = self.pad.set_active(true);
        }
    }

    /// One turn of the task.
    fn step(&self) {
        let greeted = std::mem::replace(&mut self.inner.lock().unwrap().greeted, true);
        if !greeted && !self.greet() {
            return self.end();
        }
        let buffer = {
            let mut inner = self.inner.lock().unwrap();
            loop {
                if inner.closed {
                    let _ = self.pad.pause_task();
                    return;
                }
                if !inner.greeted {
                    return;
                }
                if let Some(buffer) = inner.items.pop_front() {
                    self.changed.notify_all();
                    break Some(buffer);
                }
                if inner.eos {
                    break None;
                }
                inner = self.changed.wait(inner).unwrap();
            }
        };
        match buffer {
            Some(buffer) => match self.pad.push(buffer) {
                // Unlinked is no failure: the pad may be linked later. Flushing ends by itself.
                Ok(_) | Err(gst::FlowError::NotLinked | gst::FlowError::Flushing) => (),
                Err(error) => {
                    gst::debug!(super::imp::CAT, obj = self.pad, "{error}: nothing more goes out here");
                    self.end();
                }
            },
            None => {
                self.pad.push_event(gst::event::Eos::new());
                self.end();
            }
        }
    }

    fn end(&self) {
        self.inner.lock().unwrap().stopped = true;
        self.changed.notify_all();
        let _ = self.pad.pause_task();
    }

    /// `false` where the pad went inactive meanwhile.
    fn greet(&self) -> bool {
        let stream_id = match self.pad.parent_element() {
            Some(element) => self
                .pad
                .create_stream_id(&element, Some(self.pad.name().as_str()))
                .to_string(),
            None => return false,
        };
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        self.pad.push_event(
            gst::event::StreamStart::builder(&stream_id)
                .group_id(gst::GroupId::next())
                .build(),
        );
        self.pad.push_event(gst::event::Caps::new(&self.caps));
        self.pad.push_event(gst::event::Segment::new(&segment));
        self.pad
            .push_event(gst::event::Gap::builder(gst::ClockTime::ZERO).build());
        true
    }
}
