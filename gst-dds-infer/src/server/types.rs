// SPDX-License-Identifier: MPL-2.0

//! What goes into the core and what comes out of it.

use std::time::Duration;

use dds_protocol::feedback::{Rect, Region};
use dds_protocol::identity::FrameIdentity;

use crate::identity::{Lookup, Origin};
use crate::results::Refined;

/// Stream id and frame number.
pub type FrameKey = (u32, u64);

/// The settings that decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreSettings {
    /// Every so many frames one is inferred, 1 or more.
    pub inference_interval: u32,
    /// Whether the camera is given feedback.
    pub feedback: bool,
    /// How long a frame waits for its second pass once that was asked for.
    pub refine_deadline: Duration,
}

/// A decoded frame of the first pass.
#[derive(Clone, Debug)]
pub struct Decoded<F> {
    /// The picture; the core hands it through.
    pub frame: F,
    /// What the encoded stream told of it.
    pub lookup: Lookup,
    /// The identity that a parser attached to it.
    pub attached: Option<FrameIdentity>,
    /// The decoder says that it is damaged.
    pub corrupted: bool,
    /// Whose stream it is, as far as the encoded stream tells.
    pub origin: Origin,
    /// When downstream is to show it, before the pipeline's latency is added; `None` where unknown.
    pub due: Option<Duration>,
}

/// What a serialized event means to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another stream begins; its caps follow.
    StreamStart,
    /// New caps. Frames last `interval`; zero where unknown.
    Caps {
        /// Time from frame to frame.
        interval: Duration,
    },
    /// The end of the stream.
    End,
    /// Anything else.
    Other,
}

/// What became of a request for a second pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival<R> {
    /// It came.
    Refined(R),
    /// It came, but is not what the camera coded.
    Damaged,
    /// The camera says that it will not come.
    Refused,
}

/// What the model said of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inference {
    /// It looked at the frame.
    Done {
        /// Regions that need more quality, most valuable first; empty where [`Look::ask`] is `None`.
        regions: Vec<Region>,
        /// Time that it took.
        took: Duration,
    },
    /// The frame could not be read.
    Unreadable,
    /// The model failed.
    Failed,
}

/// Everything that happens to the core.
#[derive(Clone, Debug)]
pub enum Event<F, E, R> {
    /// A run begins, or goes on after a flush: nothing is known of what was before.
    Open,
    /// Everything that waits is dropped, and everything that comes is refused until [`Event::Open`].
    Flush,
    /// The settings, from the next frame on.
    Settings(CoreSettings),
    /// Whether upstream is live.
    Live(bool),
    /// Latency that the pipeline has set for its sinks.
    Latency(Duration),
    /// Whether the refine pad is linked.
    RefineLinked(bool),
    /// Whether the second pass is over (or was taken away): nothing more of it will come.
    RefineOver(bool),
    /// A frame. Refused where `Core::takes_frame` is false.
    Frame(Decoded<F>),
    /// A serialized event; it keeps its place among the frames.
    Serialized(E, Kind),
    /// The camera's answer to a request for a second pass.
    Arrival(FrameKey, Arrival<R>),
    /// A second pass of which nobody knows the frame.
    Unidentified,
    /// Answer to [`Action::Infer`].
    Inferred {
        /// The frame that was looked at.
        frame: F,
        /// What the model said.
        inference: Inference,
    },
    /// Answer to [`Action::Send`]: the number of the generation.
    Sent(u16),
    /// Answer to [`Action::Refine`]. `took`: time of the second inference; `None` where the regions could not be pasted.
    Refined {
        /// The frame that was looked at.
        out: Outgoing<F, E>,
        /// Time of the inference.
        took: Option<Duration>,
    },
    /// Answer to [`Action::Push`]: how long downstream kept the frame.
    Pushed(Duration),
    /// Whether downstream takes frames. Where it does not, serialized events still go out: the end of the stream is one.
    Downstream(bool),
}

/// How a frame of the first pass is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What the camera says of the frame.
    pub identity: Option<FrameIdentity>,
    /// It is not what the camera coded.
    pub damaged: bool,
    /// Size that it goes out with, pixels; `None`: its own.
    pub size: Option<(u32, u32)>,
    /// What the policy of feedback is asked; `None`: nothing.
    pub ask: Option<Ask>,
}

/// A question to the policy of feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The camera's number of the frame.
    pub frame: u64,
    /// Captured frames since the one that was asked about before, 0 where the two are not related; `None`: what the policy
    /// knows of frames before must be forgotten.
    pub interval: Option<u32>,
    /// Whether objects will have moved when the answer of the camera is seen. A second pass is of this very frame.
    pub moves: bool,
}

/// One state of feedback to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The stream it is about.
    pub stream_id: u32,
    /// The frame it is about, or the first one of its segment.
    pub frame: u64,
    /// What to refine.
    pub regions: Vec<Region>,
    /// It asks for a second pass: a repetition must not ask for it again.
    pub once: bool,
}

/// A frame on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing<F, E> {
    /// The picture.
    pub frame: F,
    /// Size that it goes out with, pixels; `None`: its own.
    pub size: Option<(u32, u32)>,
    /// What became of its second pass.
    pub refined: Refined,
    /// Where quality was asked for, in pixels of the first pass.
    pub regions: Vec<Rect>,
    /// Generation of the feedback that it gave.
    pub generation: Option<u16>,
    /// Serialized events that go out between its caps and it.
    pub events: Vec<E>,
}

/// What nobody waits for but somebody wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// No feedback can be given for this stream; said once. The origin tells why.
    Foreign(Origin),
    /// `Core::latency` has grown.
    Latency,
}

/// What is to be done next. Each is done, and answered where an event says so, before the next one is fetched.
#[derive(Clone, Debug)]
pub enum Action<F, E, R> {
    /// Nothing until this time or the next event, whichever is first.
    Wait(Option<Duration>),
    /// Nothing: flushing.
    Stop,
    /// New caps begin: what comes is read by them. The event goes out by [`Action::Forward`] later.
    Prepare(E),
    /// Run the model; answer with [`Event::Inferred`].
    Infer(F, Look),
    /// Send feedback; answer with [`Event::Sent`].
    Send(Request),
    /// Do not repeat the last state of feedback any more: the stream ended or is another one.
    Forget,
    /// Post the notice on the bus.
    Post(Notice),
    /// Paste the second pass into the frame and run the model again; answer with [`Event::Refined`].
    Refine(Outgoing<F, E>, R),
    /// Push the frame; answer with [`Event::Pushed`].
    Push(Outgoing<F, E>),
    /// Push the serialized event.
    Forward(E),
}

/// Counts since construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came in.
    pub frames: u64,
    /// Frames that were inferred.
    pub inferred: u64,
    /// Frames not inferred because newer ones waited (live only).
    pub skipped: u64,
    /// Frames not inferred because of the interval.
    pub not_due: u64,
    /// Frames whose inference failed.
    pub failed: u64,
    /// Frames that could not be read.
    pub unreadable: u64,
    /// Inferred frames that were damaged.
    pub damaged: u64,
    /// Inferred frames without identity.
    pub unidentified: u64,
    /// Frames whose second pass was looked at.
    pub refined: u64,
    /// Frames whose second pass the camera refused.
    pub refine_refused: u64,
    /// Frames that waited for their second pass in vain.
    pub refine_late: u64,
    /// Frames whose second pass came damaged.
    pub refine_damaged: u64,
    /// Second passes that came when their frame was gone.
    pub refine_after_the_fact: u64,
    /// Second passes that nobody can tell the frame of.
    pub refine_unidentified: u64,
}

impl Counts {
    pub(super) fn add_refined(&mut self, refined: Refined) {
        match refined {
            Refined::No => (),
            Refined::Yes => self.refined += 1,
            Refined::Refused => self.refine_refused += 1,
            Refined::Late => self.refine_late += 1,
            Refined::Damaged => self.refine_damaged += 1,
        }
    }
}
