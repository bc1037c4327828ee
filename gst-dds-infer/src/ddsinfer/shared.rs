// SPDX-License-Identifier: MPL-2.0

//! State that the threads of one element share.

use std::collections::BTreeSet;
use std::sync::Arc;

use gst::prelude::*;
use gst_dds_link::channel::Counters;
use gst_dds_link::sync::Mutex;

use super::ResultsRate;
use super::inputs::Inputs;
use super::queue::Queue;
use super::refine::RefineInput;
use super::repeater::Repeater;
use super::sender::{Route, Sender};
use super::settings::{Finds, Settings};
use super::side_pad::SidePad;
use super::stats::Stats;
use super::worker::Worker;
use crate::server;

/// The request pads that exist.
#[derive(Debug, Default)]
pub struct SidePads {
    pub feedback: Option<Arc<SidePad>>,
    pub results: Option<Arc<SidePad>>,
    pub classes: Option<Arc<SidePad>>,
}

impl SidePads {
    pub fn slots(&mut self) -> [&mut Option<Arc<SidePad>>; 3] {
        [&mut self.feedback, &mut self.results, &mut self.classes]
    }

    pub fn all(&self) -> Vec<Arc<SidePad>> {
        let slots = [&self.feedback, &self.results, &self.classes];
        slots.into_iter().flatten().cloned().collect()
    }
}

/// What the model finds, by which settings are judged, and the conflicts that were reported.
#[derive(Debug, Default)]
pub struct Reported {
    pub finds: Option<Finds>,
    pub warned: BTreeSet<&'static str>,
}

/// Plain data that any thread may read or write briefly.
#[derive(Debug, Default)]
pub struct State {
    pub sides: SidePads,
    pub refine: Option<Arc<RefineInput>>,
    pub stats: Stats,
    pub reported: Reported,
    /// The route of the last feedback.
    pub route: Option<Route>,
    /// Counts of the channel of `feedback-uri`; not in the sender, which is locked during a push.
    pub channel: Arc<Counters>,
    pub repeater: Option<Repeater>,
}

/// State of one element, with six locks. Two are held at once only in this order: `settings` before that of `queue`;
/// `inputs` before those of the trackers that its probes feed and of the list of early probes. During a push, post or query
/// only `sender` is held, and while upstream is searched for the encoded stream only `inputs`; no code that runs inside
/// those takes either.
#[derive(Debug)]
pub struct Shared {
    pub sink_pad: gst::Pad,
    pub src_pad: gst::Pad,
    /// In an `Arc`, so that a frame takes them without copying.
    pub settings: Mutex<Arc<Settings>>,
    /// The core, which all threads use.
    pub queue: Arc<Queue>,
    pub state: Mutex<State>,
    /// Apart from `state`, since it is held while upstream is searched. Used by the streaming threads of the sink pads.
    pub inputs: Arc<Mutex<Inputs>>,
    /// Apart from `state`, since it is held while the model runs. Used by the task on the source pad; others take it only
    /// while that task is stopped.
    pub worker: Mutex<Option<Worker>>,
    /// Apart from `state`, since it is held while feedback is pushed, so that generations leave in order. Used by the task
    /// and the repeater.
    pub sender: Mutex<Sender>,
}

impl Shared {
    pub fn new(sink_pad: gst::Pad, src_pad: gst::Pad) -> Self {
        let settings = Settings::default();
        Self {
            sink_pad,
            src_pad,
            queue: Arc::new(Queue::new(core_settings(&settings))),
            settings: Mutex::new(Arc::new(settings)),
            state: Mutex::default(),
            inputs: Arc::default(),
            worker: Mutex::new(None),
            sender: Mutex::new(Sender::new(None)),
        }
    }

    /// The current settings.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.lock().unwrap().clone()
    }

    /// Changes the settings, here and in the core.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.lock().unwrap();
        change(Arc::make_mut(&mut settings));
        self.queue.handle(server::Event::Settings(core_settings(&settings)));
    }

    /// The request pads that exist.
    pub fn sides(&self) -> Vec<Arc<SidePad>> {
        self.state.lock().unwrap().sides.all()
    }

    /// Changes the statistics.
    pub fn count(&self, add: impl FnOnce(&mut Stats)) {
        add(&mut self.state.lock().unwrap().stats);
    }

    /// The element, as long as it lives.
    pub fn element(&self) -> Option<gst::Element> {
        self.sink_pad.parent_element()
    }

    /// Posts an element message.
    pub fn post(&self, structure: gst::Structure) {
        if let Some(element) = self.element() {
            let message = gst::message::Element::builder(structure).src(&element).build();
            let _ = element.post_message(message);
        }
    }
}

/// Derives the core's settings from the element's.
pub fn core_settings(settings: &Settings) -> server::CoreSettings {
    server::CoreSettings {
        inference_interval: settings.inference_interval,
        feedback: settings.feedback,
        feedback_rate: settings.feedback_rate,
        predicted_results: settings.results_rate == ResultsRate::Captured,
        refine_deadline: settings.refine_deadline(),
    }
}
