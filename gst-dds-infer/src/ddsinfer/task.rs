// SPDX-License-Identifier: MPL-2.0

//! The task on the source pad: fetches actions from the core, carries them out and returns their outcome.

use std::time::Duration;

use gst::prelude::*;

use super::CAT;
use super::frame::{Frame, Refinement};
use super::outlet;
use super::queue::{Action, Done, Event, Outgoing};
use super::shared::Shared;
use super::stats::Stats;
use crate::identity::Origin;
use crate::model::ModelError;
use crate::server::{Inference, Look, Notice, Predicted, REPEAT, Request};

/// Runs until the queue is flushed or downstream flushes.
pub fn run(shared: &Shared) {
    let mut done = Done::default();
    loop {
        let action = shared.queue.turn(done);
        done = match act(shared, action) {
            Some(done) => done,
            None => {
                let _ = shared.src_pad.pause_task();
                return;
            }
        };
        if let Some(Err(error)) = done.flow {
            report_flow_error(shared, error);
            // Otherwise the task continues without frames: the end of the stream must reach the side pads.
            if error == gst::FlowError::Flushing {
                shared.queue.set_flow(Err(error));
                let _ = shared.src_pad.pause_task();
                return;
            }
        }
    }
}

/// Carries out one action. `None`: pause the task.
fn act(shared: &Shared, action: Action) -> Option<Done> {
    Some(match action {
        Action::Stop => return None,
        Action::Wait(_) => Done::default(),
        Action::Prepare(event) => prepare(shared, &event),
        Action::Infer(frame, look) => infer(shared, frame, &look),
        Action::Send(request) => Done::answer(Event::Sent(send(shared, request))),
        Action::Predict(predicted) => {
            predict(shared, &predicted);
            Done::default()
        }
        Action::Forget => {
            shared.sender.lock().unwrap().forget();
            Done::default()
        }
        Action::Post(notice) => {
            post_notice(shared, notice);
            Done::default()
        }
        Action::Refine(out, refinement) => refine(shared, out, &refinement),
        Action::Push(out) => push(shared, out),
        Action::Forward(event) => {
            outlet::forward(shared, event);
            Done::default()
        }
    })
}

fn prepare(shared: &Shared, event: &gst::Event) -> Done {
    let gst::EventView::Caps(caps) = event.view() else {
        return Done::default();
    };
    let prepared = match &mut *shared.worker.lock().unwrap() {
        Some(worker) => worker.prepare(caps.caps()),
        None => Ok(()),
    };
    let Err(error) = prepared else { return Done::default() };
    error.log_with_object(&shared.src_pad);
    if let Some(element) = shared.element() {
        gst::element_error!(element, gst::StreamError::Format, ("{error}"));
    }
    Done::failed(gst::FlowError::NotNegotiated)
}

fn infer(shared: &Shared, mut frame: Box<Frame>, look: &Look) -> Done {
    let settings = shared.settings();
    let (looked, warning, left_out) = match &mut *shared.worker.lock().unwrap() {
        Some(worker) => {
            let warning = worker.class_warning(&settings);
            (worker.look(&mut frame, look, &settings), warning, worker.left_out())
        }
        None => return Done::failed(gst::FlowError::Flushing),
    };
    if let Some((warning, element)) = warning.zip(shared.element()) {
        gst::element_warning!(element, gst::LibraryError::Settings, ("{warning}"));
    }
    let (inference, flow) = match looked {
        Ok(inference) => (inference, None),
        Err(error) => (Inference::Failed, Some(Err(model_failed(shared, &error)))),
    };
    if let Inference::Done { took, .. } = inference {
        shared.count(|stats| {
            stats.add_inference(clock_time(took));
            stats.regions_left_out = left_out;
        });
    }
    let answer = Some(Event::Inferred { frame, inference });
    Done { answer, flow }
}

/// Gives out the predicted result of a captured picture that has not come.
fn predict(shared: &Shared, predicted: &Predicted) {
    let settings = shared.settings();
    let worker = shared.worker.lock().unwrap();
    let result = worker.as_ref().and_then(|worker| worker.predict(predicted, &settings));
    drop(worker);
    if let Some(result) = result {
        shared.count(|stats| stats.objects += result.objects.len() as u64);
        outlet::report(shared, result, &settings);
    }
}

fn refine(shared: &Shared, mut out: Outgoing, refinement: &Refinement) -> Done {
    let settings = shared.settings();
    let refined = match &mut *shared.worker.lock().unwrap() {
        Some(worker) => worker.refine(&mut out, refinement, &settings),
        None => return Done::failed(gst::FlowError::Flushing),
    };
    match refined {
        Ok(took) => {
            if let Some(took) = took {
                shared.count(|stats| stats.add_inference(clock_time(took)));
            }
            Done::answer(Event::Refined { out, took })
        }
        Err(error) => Done::failed(model_failed(shared, &error)),
    }
}

fn push(shared: &Shared, mut out: Outgoing) -> Done {
    let settings = shared.settings();
    let events = std::mem::take(&mut out.events);
    let finished = match &mut *shared.worker.lock().unwrap() {
        Some(worker) => worker.finish(out, &settings),
        None => return Done::failed(gst::FlowError::Flushing),
    };
    let ready = match finished {
        Ok(ready) => ready,
        Err(error) => return Done::failed(model_failed(shared, &error)),
    };
    shared.count(|stats| {
        stats.objects += ready.result.as_ref().map_or(0, |r| r.objects.len() as u64);
        stats.analytics_metas += u64::from(ready.analytics);
    });
    let (flow, kept) = outlet::push(shared, ready, events, &settings);
    Done {
        answer: Some(Event::Pushed(kept)),
        flow: Some(flow),
    }
}

/// Sends one generation of feedback. Returns its number.
fn send(shared: &Shared, request: Request) -> u16 {
    let side = shared.state.lock().unwrap().sides.feedback.clone();
    let mut stats = Stats::default();
    let (generation, route) = {
        let mut sender = shared.sender.lock().unwrap();
        let generation = sender.send(request, &shared.sink_pad, side.as_ref(), &mut stats);
        (generation, sender.route())
    };
    let mut state = shared.state.lock().unwrap();
    state.route = Some(route);
    state.stats.add_feedback(&stats);
    generation
}

/// Repeats the last state of feedback where that is due. Returns the time until the next call.
pub fn repeat(shared: &Shared) -> Duration {
    // A stream that is not live runs at its own pace: a pause in it is no silence of the server.
    if !shared.queue.is_live() || !shared.settings().feedback {
        return REPEAT / 2;
    }
    let side = shared.state.lock().unwrap().sides.feedback.clone();
    let mut stats = Stats::default();
    let wait = {
        let mut sender = shared.sender.lock().unwrap();
        sender.repeat(&shared.sink_pad, side.as_ref(), &mut stats)
    };
    shared.count(|all| all.add_feedback(&stats));
    wait
}

fn post_notice(shared: &Shared, notice: Notice) {
    match notice {
        Notice::Foreign(origin) => {
            let why = match origin {
                Origin::Foreign => "the encoded stream carries no frame identity: it is not from ddsencode",
                _ => "no encoded stream from ddsencode was found upstream",
            };
            gst::info!(CAT, obj = shared.sink_pad, "No feedback for this stream: {why}");
            let message = gst::Structure::builder("ddsinfer-foreign-stream")
                .field("reason", why)
                .build();
            shared.post(message);
        }
        Notice::Latency => {
            if let Some(element) = shared.element() {
                let _ = element.post_message(gst::message::Latency::builder().src(&element).build());
            }
        }
    }
}

fn model_failed(shared: &Shared, error: &ModelError) -> gst::FlowError {
    if let Some(element) = shared.element() {
        gst::element_error!(element, gst::StreamError::Failed, ("{error}"));
    }
    gst::FlowError::Error
}

fn report_flow_error(shared: &Shared, error: gst::FlowError) {
    gst::debug!(CAT, obj = shared.src_pad, "Stopping: {error}");
    let fatal = !matches!(error, gst::FlowError::Flushing | gst::FlowError::Eos);
    if fatal
        && shared.queue.eos_waits()
        && let Some(element) = shared.element()
    {
        // Upstream has sent its EOS and will not get the error as a flow return.
        gst::element_error!(
            element,
            gst::StreamError::Failed,
            ("Internal data stream error: {error}")
        );
    }
}

fn clock_time(time: Duration) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(time.as_nanos() as u64)
}
