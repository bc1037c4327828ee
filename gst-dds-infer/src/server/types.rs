// SPDX-License-Identifier: MPL-2.0

//! Events and actions of the core, and their parts.

use std::time::Duration;

use dds_protocol::extension::Bound;
use dds_protocol::feedback::{Rect, Region};
use dds_protocol::identity::FrameIdentity;
use dds_protocol::wish::Wishes;

use crate::identity::{Lookup, Origin};
use crate::rate::Actual;
use crate::results::Refined;

/// Stream id and frame number.
pub type FrameKey = (u32, u64);

/// The element's settings that the core depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreSettings {
    /// One frame in this many is inferred, 1 or more.
    pub inference_interval: u32,
    /// Whether feedback is sent to the camera.
    pub feedback: bool,
    /// Whether the objects choose how many pictures are sent; otherwise all are asked for.
    pub feedback_rate: bool,
    /// Whether captured pictures that are not looked at get predicted results.
    pub predicted_results: bool,
    /// Longest time that a frame waits for its second pass once that was requested.
    pub refine_deadline: Duration,
}

/// A decoded frame of the first pass.
#[derive(Clone, Debug)]
pub struct Decoded<F> {
    /// The picture, which the core passes through.
    pub frame: F,
    /// Its record from the encoded stream.
    pub lookup: Lookup,
    /// Its identity as a parser attached it.
    pub attached: Option<FrameIdentity>,
    /// The decoder marked it as corrupted.
    pub corrupted: bool,
    /// Origin of its stream, as far as known from the encoded stream.
    pub origin: Origin,
    /// When downstream is to show it, before the pipeline's latency is added; `None` where unknown.
    pub due: Option<Duration>,
}

/// Kinds of serialized events that the core distinguishes.
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

/// Outcome of a request for a second pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival<R> {
    /// It arrived.
    Refined(R),
    /// It arrived damaged.
    Damaged,
    /// The camera refused it.
    Refused,
}

/// Outcome of the inference of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inference {
    /// The frame was inferred.
    Done {
        /// Regions that need more quality, most valuable first; empty where [`Look::ask`] is `None`.
        regions: Vec<Region>,
        /// Time of the inference.
        took: Duration,
        /// Interval between sent pictures that the objects need, as [`Look::follow`] asks; 1 where nothing is known.
        interval: u8,
    },
    /// The frame could not be read.
    Unreadable,
    /// The model failed.
    Failed,
}

/// An input of the core.
#[derive(Clone, Debug)]
pub enum Event<F, E, R> {
    /// A run begins, or continues after a flush: earlier frames are forgotten.
    Open,
    /// A flush: everything that waits is dropped, and everything new is refused until [`Event::Open`].
    Flush,
    /// New settings, from the next frame on.
    Settings(CoreSettings),
    /// Whether upstream is live.
    Live(bool),
    /// Latency that the pipeline has set for its sinks.
    Latency(Duration),
    /// Whether the refine pad is linked.
    RefineLinked(bool),
    /// Whether the second pass is over (or its pad was released): no more of it will arrive.
    RefineOver(bool),
    /// A frame. Refused where `Core::takes_frame` is false.
    Frame(Decoded<F>),
    /// A serialized event; it keeps its place among the frames.
    Serialized(E, Kind),
    /// The camera's answer to a request for a second pass.
    Arrival(FrameKey, Arrival<R>),
    /// A second pass whose frame is unknown.
    Unidentified,
    /// Answer to [`Action::Infer`].
    Inferred {
        /// The frame that was inferred.
        frame: F,
        /// The outcome.
        inference: Inference,
    },
    /// Answer to [`Action::Send`]: the number of the generation.
    Sent(u16),
    /// Answer to [`Action::Refine`]. `took`: time of the second inference; `None` where the regions could not be pasted.
    Refined {
        /// The frame that was inferred.
        out: Outgoing<F, E>,
        /// Time of the inference.
        took: Option<Duration>,
    },
    /// Answer to [`Action::Push`]: how long downstream kept the frame.
    Pushed(Duration),
    /// Whether downstream accepts frames. Where it does not, serialized events such as the end of the stream still go out.
    Downstream(bool),
}

/// How a frame of the first pass is inferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The frame's identity.
    pub identity: Option<FrameIdentity>,
    /// The frame is damaged.
    pub damaged: bool,
    /// Size that it goes out with, pixels; `None`: its own.
    pub size: Option<(u32, u32)>,
    /// Question to the feedback policy; `None` where it is not asked.
    pub ask: Option<Ask>,
    /// How its objects are followed; `None` where they are not.
    pub follow: Option<Follow>,
}

/// How the objects of a frame are followed, for the rate and for predicted results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// The camera's frame number.
    pub frame: u64,
    /// Whether earlier frames tell anything about this one.
    pub history: History,
    /// Time from one captured picture to the next.
    pub frame_time: Duration,
    /// What the camera does.
    pub actual: Actual,
}

/// What earlier frames tell about one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// They are of another stream, or a flush lies between.
    None,
    /// They are of the same scene, but their objects cannot be followed to here.
    Interrupted,
    /// Objects can be followed.
    Related,
}

/// A question to the feedback policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The camera's frame number.
    pub frame: u64,
    /// Captured frames since the one asked about before, 0 where the two are not related; `None` where the policy must
    /// forget earlier frames.
    pub interval: Option<u32>,
    /// Whether objects will have moved in the frame that shows the camera's answer; a second pass shows this same frame.
    pub moves: bool,
}

/// A captured picture whose result is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predicted {
    /// Its number.
    pub frame: u64,
    /// Captured pictures since the one looked at, 1 or more.
    pub ahead: u32,
    /// Its result went out before the picture itself came.
    pub reported: bool,
}

/// One state of feedback to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The stream it is about.
    pub stream_id: u32,
    /// The frame it is about, or the first one of its segment.
    pub frame: u64,
    /// Regions to refine.
    pub regions: Vec<Region>,
    /// It requests a second pass, which a repeat must not request again.
    pub once: bool,
    /// Wishes about the stream.
    pub wishes: Wishes,
}

/// A frame on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing<F, E> {
    /// The picture.
    pub frame: F,
    /// Size that it goes out with, pixels; `None`: its own.
    pub size: Option<(u32, u32)>,
    /// Outcome of its second pass.
    pub refined: Refined,
    /// Regions that were requested, in pixels of the first pass.
    pub regions: Vec<Rect>,
    /// Generation of the feedback that it caused.
    pub generation: Option<u16>,
    /// Its results are predicted: it was not looked at.
    pub predicted: Option<Predicted>,
    /// Serialized events that go out after its caps and before it.
    pub events: Vec<E>,
}

/// A message for the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// No feedback can be given for this stream, for the reason that its origin gives; posted once.
    Foreign(Origin),
    /// `Core::latency` has grown.
    Latency,
}

/// An output of the core. The worker carries it out, and answers it where an event does so, before it fetches the next.
#[derive(Clone, Debug)]
pub enum Action<F, E, R> {
    /// Wait until this time or the next event, whichever is first.
    Wait(Option<Duration>),
    /// Stop: the core is flushing.
    Stop,
    /// Prepare for new caps, which the next frames have. The event goes out by [`Action::Forward`] later.
    Prepare(E),
    /// Run the model; answer with [`Event::Inferred`].
    Infer(F, Look),
    /// Send feedback; answer with [`Event::Sent`].
    Send(Request),
    /// Stop repeating the last state of feedback: the stream ended or was replaced.
    Forget,
    /// Post the notice on the bus.
    Post(Notice),
    /// Give out the predicted result of a captured picture that has not come.
    Predict(Predicted),
    /// Paste the second pass into the frame and run the model again; answer with [`Event::Refined`].
    Refine(Outgoing<F, E>, R),
    /// Push the frame; answer with [`Event::Pushed`].
    Push(Outgoing<F, E>),
    /// Push the serialized event.
    Forward(E),
}

/// The wish for a rate, and what the camera says about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateStatus {
    /// The wished interval between sent pictures, in captured ones; 0 where none was wished.
    pub wished: u8,
    /// The interval in force; 0 where the camera does not know wishes.
    pub in_force: u8,
    /// What bounds it.
    pub bound: Bound,
    /// Changes of the wish.
    pub changes: u64,
}

impl RateStatus {
    /// Name of what bounds the interval in force, as in the statistics.
    pub fn bound_name(&self) -> &'static str {
        match self.bound {
            Bound::None => "none",
            Bound::User => "user",
            Bound::Cap => "cap",
            Bound::Bandwidth => "bandwidth",
            Bound::Loss => "loss",
            Bound::Fallback => "fallback",
            Bound::Viewer => "viewer",
            Bound::Server => "server",
            Bound::Mode => "mode",
            Bound::Other => "other",
        }
    }
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
    /// Frames not inferred because they repeat the one before.
    pub repeated: u64,
    /// Captured pictures with a predicted result.
    pub predicted: u64,
    /// Frames whose inference failed.
    pub failed: u64,
    /// Frames that could not be read.
    pub unreadable: u64,
    /// Inferred frames that were damaged.
    pub damaged: u64,
    /// Inferred frames without identity.
    pub unidentified: u64,
    /// Frames whose second pass was inferred.
    pub refined: u64,
    /// Frames whose second pass the camera refused.
    pub refine_refused: u64,
    /// Frames whose second pass did not arrive in time.
    pub refine_late: u64,
    /// Frames whose second pass arrived damaged.
    pub refine_damaged: u64,
    /// Second passes that arrived when their frame was gone.
    pub refine_after_the_fact: u64,
    /// Second passes whose frame is unknown.
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
