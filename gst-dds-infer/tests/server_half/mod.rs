// SPDX-License-Identifier: MPL-2.0

//! The server's half of a pair: the core, the feedback policy and a model of a detector, on a virtual clock.
//!
//! Pictures are lists of objects with the quantizer that each was coded with. The detector is a stated function:
//!
//! `score = clarity - 0.025 * (quantizer - 20)`, within 0 to 1; what scores less than 0.05 is not found.
//!
//! So an object of clarity 0.95 is certain at any quantizer (0.50 at 38), one of 0.75 is undecided at 38 (0.30) and
//! found at 28 (0.55), and one of 0.50 is not found at 38 (0.05) and undecided at 28 (0.30).
#![allow(dead_code)] // Each test uses its own part.

use std::time::Duration;

use dds_protocol::feedback::{FeedbackState, Rect};
use gstddsinfer::feedback::{Feedback, PolicySettings};
use gstddsinfer::model::Detection;
use gstddsinfer::results::Refined;
use gstddsinfer::server::{Action, Arrival, Core, CoreSettings, Event, FrameKey, Inference, Outgoing, Repetition};

/// Width and height of all pictures in pixels.
pub const SIZE: (u32, u32) = (640, 352);

/// An object in a decoded picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    /// Its position.
    pub rect: Rect,
    /// How easily it is detected, 0 to 1.
    pub clarity: f32,
    /// Quantizer of its macroblocks.
    pub quantizer: u8,
}

/// A decoded picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Identity of its frame; `None` if unknown.
    pub key: Option<FrameKey>,
    /// Time of capture.
    pub captured: Duration,
    /// It differs from what the camera coded.
    pub damaged: bool,
    /// Its objects.
    pub objects: Vec<Shown>,
}

/// Score by the function above.
pub fn score(object: &Shown) -> f32 {
    (object.clarity - 0.025 * (f32::from(object.quantizer) - 20.0)).clamp(0.0, 1.0)
}

/// Detections of a picture.
pub fn detections(picture: &Picture) -> Vec<Detection> {
    let mut found: Vec<Detection> = picture
        .objects
        .iter()
        .map(|object| Detection {
            x1: object.rect.x as f32,
            y1: object.rect.y as f32,
            x2: (object.rect.x + object.rect.width) as f32,
            y2: (object.rect.y + object.rect.height) as f32,
            score: score(object),
            objectness: None,
            class: 0,
        })
        .filter(|detection| detection.score >= 0.05)
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found
}

/// A frame pushed downstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Result {
    /// Time of the push.
    pub at: Duration,
    /// The picture, with the second pass in it.
    pub picture: Picture,
    /// Outcome of its second pass.
    pub refined: Refined,
    /// Objects found, from the policy's threshold on; `None`: not inferred.
    pub found: Option<usize>,
}

/// The core's payload of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    picture: Picture,
    found: Option<usize>,
}

impl Frame {
    /// A frame that was not inferred.
    pub fn new(picture: Picture) -> Self {
        Self { picture, found: None }
    }
}

/// The server on its clock.
pub struct Server {
    /// The core.
    pub core: Core<Frame, (), Picture>,
    repetition: Repetition,
    policy: Feedback,
    /// Duration of an inference.
    inference: Duration,
    /// The running inference, and its end.
    model: Option<(Duration, Event<Frame, (), Picture>)>,
    /// Feedback sent, with its time, for the test to drain.
    pub sent: Vec<(Duration, FeedbackState)>,
    /// Frames pushed, for the test to drain.
    pub results: Vec<Result>,
}

impl Server {
    /// A live server with a linked feedback pad. `before`: generation before its first one.
    pub fn new(settings: CoreSettings, policy: PolicySettings, inference: Duration, before: u16) -> Self {
        let mut core = Core::new(settings);
        core.handle(Duration::ZERO, Event::Open);
        core.handle(Duration::ZERO, Event::Live(true));
        Self {
            core,
            repetition: Repetition::new(before),
            policy: Feedback::new(policy),
            inference,
            model: None,
            sent: Vec::new(),
            results: Vec::new(),
        }
    }

    /// A second pass arrives.
    pub fn refinement(&mut self, now: Duration, key: FrameKey, arrival: Arrival<Picture>) -> bool {
        self.core.handle(now, Event::Arrival(key, arrival))
    }

    /// Does what is due by `now`; returns the latest time for the next call.
    pub fn run(&mut self, now: Duration) -> Duration {
        let next = self.work(now);
        if let Some(state) = self.repetition.due(now) {
            self.sent.push((now, state));
        }
        let repeat = now + self.repetition.wait(now);
        next.map_or(repeat, |next| next.min(repeat))
    }

    fn work(&mut self, now: Duration) -> Option<Duration> {
        loop {
            if let Some((done, _)) = &self.model
                && *done > now
            {
                return Some(*done);
            }
            if let Some((done, answer)) = self.model.take() {
                self.core.handle(done, answer);
            }
            match self.core.poll(now) {
                Action::Wait(until) => return until,
                Action::Stop => return None,
                Action::Infer(mut frame, look) => {
                    let found = detections(&frame.picture);
                    frame.found = Some(self.count(&found));
                    let regions = look.ask.map_or_else(Vec::new, |ask| {
                        if ask.interval.is_none() {
                            self.policy.reset();
                        }
                        let mut settings = self.policy.settings().clone();
                        settings.use_motion = ask.moves;
                        self.policy.set_settings(settings);
                        let interval = ask.interval.unwrap_or(0);
                        self.policy.regions(ask.frame, interval, &found, SIZE.0, SIZE.1)
                    });
                    let took = self.inference;
                    let inference = Inference::Done {
                        regions,
                        took,
                        interval: 1,
                    };
                    self.model = Some((now + took, Event::Inferred { frame, inference }));
                }
                Action::Refine(mut out, refinement) => {
                    paste(&mut out, &refinement);
                    out.frame.found = Some(self.count(&detections(&out.frame.picture)));
                    let took = Some(self.inference);
                    self.model = Some((now + self.inference, Event::Refined { out, took }));
                }
                Action::Send(request) => {
                    let state = self.repetition.state(now, request);
                    self.core.handle(now, Event::Sent(state.generation.0));
                    self.sent.push((now, state));
                }
                Action::Forget => self.repetition.forget(),
                Action::Push(out) => {
                    self.results.push(Result {
                        at: now,
                        picture: out.frame.picture,
                        refined: out.refined,
                        found: out.frame.found,
                    });
                    self.core.handle(now, Event::Pushed(Duration::ZERO));
                }
                Action::Prepare(()) | Action::Forward(()) | Action::Post(_) | Action::Predict(_) => (),
            }
        }
    }

    fn count(&self, found: &[Detection]) -> usize {
        let threshold = self.policy.settings().threshold;
        found.iter().filter(|d| d.score >= threshold).count()
    }
}

/// Objects of the second pass replace those of the first.
fn paste(out: &mut Outgoing<Frame, ()>, refinement: &Picture) {
    for object in &mut out.frame.picture.objects {
        if let Some(refined) = refinement.objects.iter().find(|o| o.rect == object.rect) {
            *object = *refined;
        }
    }
}
