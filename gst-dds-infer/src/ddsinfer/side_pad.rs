// SPDX-License-Identifier: MPL-2.0

//! The request pads `feedback`, `results` and `classes`: small buffers beside the video, pushed by a task of their own so that
//! elements linked to them can never stop the video.
//!
//! A pad that never pushes would keep its sink, and with it the pipeline, from prerolling. So the task begins with
//! stream-start, caps, segment and a gap before there is any buffer; on the pad `classes` as soon as the video's caps give
//! its own.
//!
//! These pads have no internal link to the video: caps of elements behind them must not restrict the video, and their seeks
//! and quality-of-service events must not reach the decoder.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gst::prelude::*;
use gst_dds_link::guard::Guard;
use gst_dds_link::sync::{Condvar, Mutex};

#[derive(Debug)]
enum Item {
    Buffer(gst::Buffer),
    /// Caps, or the video's segment, for the buffers behind it.
    Event(gst::Event),
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    /// No buffer follows those in the queue.
    eos: bool,
    /// The pad is flushing or not active, and takes nothing.
    closed: bool,
    /// Downstream refuses buffers; it still gets the end of the stream.
    refused: bool,
    /// Downstream took no buffer for [`PATIENCE`]; pushing waits again only when it does.
    stuck: bool,
    greeted: bool,
    /// Caps, a segment and a gap were pushed: buffers may follow.
    opened: bool,
    /// The newest caps, pushed or queued.
    caps: Option<gst::Caps>,
}

/// A side pad and its queue.
#[derive(Debug)]
pub struct SidePad {
    pad: gst::Pad,
    /// Catches panics in functions that GStreamer calls.
    guard: Guard,
    /// Fixed caps; `None` where they follow from the video's.
    caps: Option<gst::Caps>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// Most buffers and events in the queue.
const CAPACITY: usize = 256;
/// Longest time that a full queue blocks a stream that is not live while downstream takes no buffer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Outcome of pushing a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It is queued.
    Yes,
    /// The pad takes no buffers; not an error.
    NoTaker,
    /// The queue was full: the oldest buffer was dropped for this one.
    DroppedOldest,
}

impl SidePad {
    /// A pad from `template`, not yet added to its `element`. `segment`: the video's, where it has begun.
    pub fn new(
        template: &gst::PadTemplate,
        name: &str,
        segment: Option<gst::Event>,
        element: Option<&gst::Element>,
    ) -> Arc<Self> {
        let caps = template.caps().is_fixed().then(|| template.caps().clone());
        Arc::new_cyclic(|weak: &std::sync::Weak<Self>| {
            let weak = weak.clone();
            let pad = gst::Pad::builder_from_template(template)
                .name(name)
                .activatemode_function(move |_, _, mode, active| {
                    let Some(side) = weak.upgrade() else { return Ok(()) };
                    if mode != gst::PadMode::Push {
                        return Err(gst::loggable_error!(gst::CAT_PADS, "only push mode"));
                    }
                    let panicked = Err(gst::loggable_error!(gst::CAT_PADS, "a fault was caught"));
                    let turn = || if active { side.start() } else { side.stop() };
                    side.guard.run(panicked, turn)
                })
                .event_function(|_, _, event| upstream_event(&event))
                .query_function(side_query)
                .iterate_internal_links_function(|_, _| gst::Iterator::from_vec(Vec::new()))
                .build();
            Self {
                pad,
                guard: Guard::of("a side pad", element),
                caps,
                inner: Mutex::new(Inner {
                    closed: true,
                    items: segment.map(Item::Event).into_iter().collect(),
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
        {
            let mut inner = self.inner.lock().unwrap();
            // A segment that the pad was made with is still to be pushed.
            let items = std::mem::take(&mut inner.items);
            *inner = Inner {
                items,
                // Caps outlive a flush.
                caps: self.pad.current_caps(),
                ..Default::default()
            };
        }
        let weak = Arc::downgrade(self);
        self.pad
            .start_task(move || match weak.upgrade() {
                Some(side) => side.guard.turn(&side.pad, || side.step(), || ()),
                None => std::thread::yield_now(),
            })
            .map_err(|e| gst::loggable_error!(gst::CAT_PADS, "{e}"))
    }

    fn stop(&self) -> Result<(), gst::LoggableError> {
        self.close();
        self.pad
            .stop_task()
            .map_err(|e| gst::loggable_error!(gst::CAT_PADS, "{e}"))
    }

    /// Takes nothing more and wakes all waiting threads.
    pub fn close(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.closed = true;
        inner.items.clear();
        self.changed.notify_all();
    }

    /// Queues a buffer. `wait`: while the queue is full, wait as long as downstream takes buffers (the stream is not live, so
    /// nothing need be lost), instead of dropping the oldest at once.
    pub fn push(&self, buffer: gst::Buffer, wait: bool) -> Queued {
        let mut inner = self.inner.lock().unwrap();
        while wait && inner.takes() && !inner.stuck && inner.items.len() >= CAPACITY {
            let timeout;
            (inner, timeout) = self.changed.wait_timeout(inner, PATIENCE).unwrap();
            if timeout.timed_out() && inner.takes() && inner.items.len() >= CAPACITY {
                gst::warning!(
                    super::CAT,
                    obj = self.pad,
                    "Nobody reads here: buffers are dropped until somebody does"
                );
                inner.stuck = true;
            }
        }
        if !inner.takes() {
            return Queued::NoTaker;
        }
        let full = inner.items.len() >= CAPACITY;
        if full {
            // The segment of the remaining buffers must stay too.
            let oldest = inner.items.iter().position(|i| matches!(i, Item::Buffer(_)));
            oldest.and_then(|oldest| inner.items.remove(oldest));
        }
        inner.items.push_back(Item::Buffer(buffer));
        self.changed.notify_all();
        if full { Queued::DroppedOldest } else { Queued::Yes }
    }

    /// Queues an event for the buffers behind it: caps, or the segment of their times.
    pub fn event(&self, event: &gst::Event) {
        let mut inner = self.inner.lock().unwrap();
        if inner.closed {
            return;
        }
        inner.put(event.clone());
        self.changed.notify_all();
    }

    /// Sets the caps of the buffers that follow.
    pub fn set_caps(&self, caps: gst::Caps) {
        let mut inner = self.inner.lock().unwrap();
        if inner.closed || inner.caps.as_ref() == Some(&caps) {
            return;
        }
        inner.put(gst::event::Caps::new(&caps));
        inner.caps = Some(caps);
        self.changed.notify_all();
    }

    /// Ends the stream once the queue is empty.
    pub fn eos(&self) {
        self.inner.lock().unwrap().eos = true;
        self.changed.notify_all();
    }

    /// Begins a new stream with the video, where this one has ended.
    pub fn stream_start(self: &Arc<Self>) {
        let ended = {
            let inner = self.inner.lock().unwrap();
            inner.eos && !inner.closed
        };
        if ended {
            let _ = self.pad.stop_task();
            let _ = self.start();
        }
    }

    /// Drops the queue and passes the flush on. [`Self::flush_stop`] follows.
    pub fn flush_start(&self) {
        if !self.pad.is_active() {
            return;
        }
        self.close();
        self.pad.push_event(gst::event::FlushStart::new());
        let _ = self.pad.stop_task();
    }

    /// Opens the pad again, after an end of stream too.
    pub fn flush_stop(self: &Arc<Self>, reset_time: bool) {
        if !self.pad.is_active() {
            return;
        }
        self.pad.push_event(gst::event::FlushStop::new(reset_time));
        if let Err(error) = self.start() {
            error.log_with_object(&self.pad);
        }
    }

    /// Pushes one item, or waits for one, on the thread of the task.
    fn step(&self) {
        let greeted = std::mem::replace(&mut self.inner.lock().unwrap().greeted, true);
        if !greeted {
            self.greet();
        }
        let item = {
            let mut inner = self.inner.lock().unwrap();
            loop {
                if inner.closed {
                    let _ = self.pad.pause_task();
                    return;
                }
                if !inner.opened {
                    // A segment must not precede the first caps, even where it was queued first.
                    if let Some(caps) = inner.items.iter().position(Item::is_caps) {
                        break inner.items.remove(caps);
                    }
                } else if let Some(item) = inner.items.pop_front() {
                    inner.stuck = false;
                    self.changed.notify_all();
                    break Some(item);
                }
                if inner.eos {
                    break None;
                }
                inner = self.changed.wait(inner).unwrap();
            }
        };
        match item {
            Some(Item::Event(event)) => {
                self.pad.push_event(event);
                self.open();
            }
            Some(Item::Buffer(buffer)) => match self.pad.push(buffer) {
                // An unlinked pad is no failure: it may be linked later. Flushing ends by itself.
                Ok(_) | Err(gst::FlowError::NotLinked | gst::FlowError::Flushing) => (),
                Err(error) => {
                    gst::debug!(super::CAT, obj = self.pad, "{error}: nothing more goes out here");
                    let mut inner = self.inner.lock().unwrap();
                    inner.refused = true;
                    inner.items.retain(|i| matches!(i, Item::Event(_)));
                    self.changed.notify_all();
                }
            },
            None => {
                self.pad.push_event(gst::event::Eos::new());
                let _ = self.pad.pause_task();
            }
        }
    }

    fn greet(&self) {
        let Some(element) = self.pad.parent_element() else {
            return;
        };
        // GStreamer's own helper does not support elements with two sink pads.
        let video = element.static_pad("sink").and_then(|sink| sink.stream_id());
        let stream_id = format!("{}/{}", video.unwrap_or_else(|| element.name()), self.pad.name());
        self.pad.push_event(
            gst::event::StreamStart::builder(&stream_id)
                .group_id(gst::GroupId::next())
                .build(),
        );
        if let Some(caps) = &self.caps {
            self.pad.push_event(gst::event::Caps::new(caps));
        }
        if self.caps.is_some() || self.pad.has_current_caps() {
            self.open();
        }
    }

    /// Pushes the segment and the gap that follow the caps, once.
    fn open(&self) {
        if std::mem::replace(&mut self.inner.lock().unwrap().opened, true) {
            return;
        }
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        self.pad.push_event(gst::event::Segment::new(&segment));
        self.pad
            .push_event(gst::event::Gap::builder(gst::ClockTime::ZERO).build());
    }
}

impl Item {
    fn is_caps(&self) -> bool {
        matches!(self, Self::Event(event) if event.type_() == gst::EventType::Caps)
    }
}

impl Inner {
    /// Queues an event behind the buffers. Events of one type without buffers between them replace each other, so that their
    /// number is bounded.
    fn put(&mut self, event: gst::Event) {
        let newest = self.items.iter().rposition(|i| matches!(i, Item::Buffer(_)));
        let same = |i: &Item| matches!(i, Item::Event(e) if e.type_() == event.type_());
        let from = newest.map_or(0, |n| n + 1);
        if let Some(old) = self.items.range(from..).position(same) {
            self.items.remove(from + old);
        }
        self.items.push_back(Item::Event(event));
    }

    fn takes(&self) -> bool {
        !(self.closed || self.refused || self.eos)
    }
}

/// Drops upstream events about seeking and quality of service: the sinks of the video send them on the video's pad.
fn upstream_event(event: &gst::EventRef) -> bool {
    matches!(
        event.type_(),
        gst::EventType::Seek | gst::EventType::Qos | gst::EventType::Latency | gst::EventType::Reconfigure
    )
}

fn side_query(pad: &gst::Pad, parent: Option<&gst::Object>, query: &mut gst::QueryRef) -> bool {
    static GUARD: Guard = Guard::new("a query on a side pad");
    let video = |name| parent.and_then(|p| p.downcast_ref::<gst::Element>()?.static_pad(name));
    GUARD.run(false, || match query.view() {
        // Results are as late as their frames.
        gst::QueryView::Latency(_) => video("src").is_some_and(|src| src.query(query)),
        gst::QueryView::Position(_) | gst::QueryView::Duration(_) | gst::QueryView::Seeking(_) => {
            video("sink").is_some_and(|sink| sink.peer_query(query))
        }
        _ => gst::Pad::query_default(pad, parent, query),
    })
}
