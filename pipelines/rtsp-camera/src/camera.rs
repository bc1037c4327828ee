// SPDX-License-Identifier: MPL-2.0

//! State of the camera shared by the server, its media and the reports.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use gst::prelude::*;
use gst_dds_link::guard;
use gst_dds_link::sync::Mutex;

use crate::audience::Audience;
use crate::encoder::Recipe;
use crate::keyframes::{Interval, KeyFrames};
use crate::options::{MOST_RATE, Options};
use crate::source::Source;
use crate::standstill::{state_of, threads};
use crate::steering::{Receiver, Refusal, Rule, Steering};
use crate::watch::{self, Watch};

/// Name of the element that receives pictures.
pub(crate) const INPUT: &str = "dds_input";

/// State shared by the server, its media and the reports.
pub struct Camera {
    pub(crate) source: Source,
    pub(crate) rule: Rule,
    /// Least frames per second for clients without feedback.
    pub(crate) viewer_framerate: u32,
    pub(crate) two_pass: bool,
    pub(crate) interval: Interval,
    started: Instant,
    pub(crate) audience: Mutex<Audience>,
    watch: Mutex<Watch>,
    /// Stalled media that were rebuilt.
    pub(crate) rebuilt: AtomicU64,
    /// Connections now and in total.
    pub(crate) clients: AtomicU64,
    pub(crate) clients_ever: AtomicU64,
    /// Media created: each has opened an encoder of its own.
    pub(crate) media: AtomicU64,
    pub(crate) current: Mutex<Option<Current>>,
    /// Clients have to log in.
    pub(crate) logins: bool,
    /// Addresses that may steer, if there are viewers.
    pub(crate) steerers: Option<Steerers>,
}

/// RTCP addresses of clients that may steer, by their RTSP session.
#[derive(Default)]
pub(crate) struct Steerers(Mutex<HashMap<String, HashSet<String>>>);

impl Steerers {
    pub(crate) fn add(&self, session: &str, addresses: impl IntoIterator<Item = String>) {
        let mut sessions = self.0.lock().unwrap();
        sessions.entry(session.into()).or_default().extend(addresses);
    }

    pub(crate) fn remove(&self, session: &str) {
        self.0.lock().unwrap().remove(session);
    }

    pub(crate) fn holds(&self, address: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .values()
            .any(|addresses| addresses.contains(address))
    }
}

/// The media that clients watch, or watched last.
pub(crate) struct Current {
    pub(crate) encoder: gst::Element,
    pub(crate) steering: Arc<Mutex<Steering>>,
    pub(crate) keys: Arc<Mutex<KeyFrames>>,
    /// A client has played it: pictures flow.
    pub(crate) played: bool,
    /// Pictures that the encoder has finished with.
    pub(crate) done: Arc<AtomicU64>,
    /// The whole pipeline.
    pub(crate) pipeline: glib::WeakRef<gst::Bin>,
}

impl Camera {
    /// A camera without clients.
    pub fn new(source: Source, options: &Options, recipe: &Recipe) -> Arc<Self> {
        Arc::new(Self {
            source,
            rule: options.steer,
            viewer_framerate: options.viewer_framerate.unwrap_or(MOST_RATE),
            logins: options.user.is_some(),
            two_pass: recipe.two_pass,
            interval: recipe.interval,
            audience: Mutex::default(),
            watch: Mutex::default(),
            rebuilt: AtomicU64::new(0),
            steerers: (!options.viewers.is_empty()).then(Steerers::default),
            started: Instant::now(),
            clients: AtomicU64::new(0),
            clients_ever: AtomicU64::new(0),
            media: AtomicU64::new(0),
            current: Mutex::new(None),
        })
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The encoder of the media that clients watch, or watched last.
    pub fn encoder(&self) -> Option<gst::Element> {
        self.current.lock().unwrap().as_ref().map(|c| c.encoder.clone())
    }

    pub(crate) fn pipeline(&self) -> Option<gst::Bin> {
        self.current.lock().unwrap().as_ref()?.pipeline.upgrade()
    }

    /// Checks whether the media has stalled; call it several times a second. Returns a description of the stall.
    pub(crate) fn check(&self) -> Option<String> {
        let plays = self.audience.lock().unwrap().playing() > 0;
        let (done, played, pipeline) = {
            let current = self.current.lock().unwrap();
            let current = current.as_ref()?;
            (
                current.done.load(Ordering::Relaxed),
                current.played,
                current.pipeline.clone(),
            )
        };
        let counts = watch::Counts {
            captured: self.source.pictures(),
            done,
        };
        let media = self.media.load(Ordering::Relaxed);
        let busy = || {
            threads()
                .iter()
                .any(|(name, state)| *name == format!("{INPUT}:src") && state == "R")
        };
        let still = self
            .watch
            .lock()
            .unwrap()
            .check(self.now(), media, counts, plays && played, busy);
        still.then(|| {
            let state = pipeline
                .upgrade()
                .map(|pipeline| state_of(&pipeline))
                .unwrap_or_default();
            format!("somebody plays, pictures come in, and none was coded for 2 s. {state}")
        })
    }

    /// A session begins to play.
    pub(crate) fn join(&self, session: &str) {
        self.audience.lock().unwrap().play(session, self.now());
        let mut current = self.current.lock().unwrap();
        if let Some(current) = current.as_mut() {
            let first = !std::mem::replace(&mut current.played, true);
            let mut keys = current.keys.lock().unwrap();
            if first { keys.open() } else { keys.join() }
        }
    }

    /// Full report, as one JSON value.
    pub fn report(&self) -> serde_json::Value {
        let now = self.now();
        let current = self
            .current
            .lock()
            .unwrap()
            .as_ref()
            .map(|c| (c.encoder.clone(), c.steering.clone()));
        let strangers = current
            .as_ref()
            .map_or(0, |(_, steering)| steering.lock().unwrap().strangers());
        let receivers: Vec<_> = current
            .iter()
            .flat_map(|(_, steering)| {
                let steering = steering.lock().unwrap();
                let one = |(r, steers): (&Receiver, bool)| {
                    serde_json::json!({
                        "ssrc": format!("{:08x}", r.ssrc), "steers": steers, "packets": r.steered, "refused": r.refused,
                        "reason": r.why.map(Refusal::words),
                    })
                };
                steering.receivers(now).map(one).collect::<Vec<_>>()
            })
            .collect();
        let stats = current.map(|(encoder, _)| encoder.property::<gst::Structure>("stats"));
        let stats: serde_json::Map<_, _> = stats
            .iter()
            .flat_map(|s| s.iter())
            .filter_map(|(name, value)| Some((name.to_string(), number(value)?)))
            .collect();
        serde_json::json!({
            "clients": self.clients.load(Ordering::Relaxed),
            "clients_ever": self.clients_ever.load(Ordering::Relaxed),
            "media": self.media.load(Ordering::Relaxed),
            "media_rebuilt": self.rebuilt.load(Ordering::Relaxed),
            "receivers": receivers,
            "strangers": strangers,
            "panics_caught": guard::caught(),
            "encoder": stats,
        })
    }
}

fn number(value: &glib::Value) -> Option<serde_json::Value> {
    None.or_else(|| value.get::<u64>().ok().map(Into::into))
        .or_else(|| value.get::<u32>().ok().map(Into::into))
        .or_else(|| value.get::<f64>().ok().map(Into::into))
}
