// SPDX-License-Identifier: MPL-2.0

//! The ways that feedback comes by, and the messages posted about it.

#![forbid(unsafe_code)]

use std::sync::{Arc, Weak};

use dds_protocol::rtcp;
use gst::prelude::*;
use gst_dds_link::channel::{self, CameraEnd};
use gst_dds_link::guard::Guard;
use gst_dds_link::report::ReceiverReport;
use gst_dds_link::session::{CameraChannel, DeliverRtcp};
use gst_dds_link::sync::Mutex;

use crate::camera::{Delivery, FeedbackReceiver, Notice, ReceivedState, Way};

use super::log::CAT;
use super::refine::Refine;

/// How often the data path is searched for RTP sessions: until one is found, and after that, for changes.
const SEARCH_EVERY: gst::ClockTime = gst::ClockTime::from_mseconds(100);
const SEARCH_AGAIN_EVERY: gst::ClockTime = gst::ClockTime::from_seconds(1);

/// Takes packets from any thread, for holders that must not keep the element alive.
#[derive(Clone)]
pub(super) struct Entrance {
    receiver: Weak<Mutex<FeedbackReceiver>>,
    refine: Weak<Refine>,
    element: glib::WeakRef<gst::Element>,
}

impl Entrance {
    pub fn new(receiver: &Arc<Mutex<FeedbackReceiver>>, refine: &Arc<Refine>, element: &gst::Element) -> Self {
        Self {
            receiver: Arc::downgrade(receiver),
            refine: Arc::downgrade(refine),
            element: element.downgrade(),
        }
    }

    /// Takes a feedback packet; the next frame reads it, or in two passes the jobs of the second pass.
    pub fn deliver(&self, way: Way, packet: &[u8]) {
        let Some((receiver, refine)) = self.receiver.upgrade().zip(self.refine.upgrade()) else {
            return;
        };
        let mut receiver = receiver.lock().unwrap();
        match receiver.deliver(way, packet) {
            Delivery::Waits | Delivery::TurnedAway => {}
            Delivery::Read(outcome) => {
                gst::log!(CAT, "Feedback of {} bytes by {way:?}: {outcome:?}", packet.len());
                // The receiver stays locked, so that states are acted on in their order.
                if let Some(ReceivedState { feedback, news: true }) = receiver.take(way) {
                    refine.ask(&feedback);
                }
            }
            Delivery::FirstByClosedWay { automatic } => {
                drop(receiver);
                if let Some(element) = self.element.upgrade() {
                    report_closed(&element, way, automatic);
                }
            }
        }
    }

    /// Takes a datagram of the `feedback` pad: a bare packet, or an RTCP compound that contains packets.
    fn datagram(&self, bytes: &[u8]) {
        if !rtcp::is_rtcp(bytes) {
            return self.deliver(Way::Pad, bytes);
        }
        let found = rtcp::feedback_in(bytes);
        let readable = match &found {
            Ok(packets) => !packets.is_empty(),
            Err(error) => {
                gst::debug!(CAT, "Feedback datagram: {error}");
                false
            }
        };
        if let (false, Some(receiver)) = (readable, self.receiver.upgrade()) {
            receiver.lock().unwrap().count_rtcp(found.is_ok());
        }
        for (_, packet) in found.unwrap_or_default() {
            self.deliver(Way::Pad, packet);
        }
    }

    /// Opens the channel of `feedback-uri`, where that is set.
    pub fn open_channel(&self, setup: &channel::Setup) -> Result<Option<CameraEnd>, gst::ErrorMessage> {
        let (entrance, element) = (self.clone(), self.element.upgrade());
        let Some(element) = element else { return Ok(None) };
        let deliver = Arc::new(move |packet: &[u8]| entrance.deliver(Way::Uri, packet));
        CameraEnd::open(setup, deliver, channel::post_by(&element))
            .map_err(|e| gst::error_msg!(gst::ResourceError::OpenReadWrite, ["{e}"]))
    }

    /// The `feedback` pad. It forwards nothing: no event (its end is not the video's end), no query, no path for
    /// searches.
    pub fn pad(&self, template: &gst::PadTemplate) -> gst::Pad {
        let element = self.element.upgrade();
        let about = element.as_ref().map(|element| element.upcast_ref());
        let (queries, buffers) = (
            Guard::of("a query on the pad feedback", about),
            Guard::of("the pad feedback", about),
        );
        let entrance = self.clone();
        let pad = gst::Pad::builder_from_template(template)
            .name("feedback")
            .chain_function(move |pad, _, buffer| {
                buffers.run(Err(gst::FlowError::Error), || {
                    match buffer.map_readable() {
                        Ok(map) => entrance.datagram(&map),
                        Err(_) => gst::warning!(CAT, obj = pad, "A feedback buffer cannot be read"),
                    }
                    Ok(gst::FlowSuccess::Ok)
                })
            })
            .event_function(|_, _, _| true)
            .query_function(move |pad, parent, query| {
                queries.run(false, || match query.view() {
                    gst::QueryView::Caps(_) | gst::QueryView::AcceptCaps(_) => {
                        gst::Pad::query_default(pad, parent, query)
                    }
                    _ => false,
                })
            })
            .iterate_internal_links_function(|_, _| gst::Iterator::from_vec(Vec::new()))
            .build();
        gst_dds_link::refusal::report_refusals(&pad);
        pad
    }
}

/// Posts once that feedback came by a way that is not taken, and how to take it.
fn report_closed(element: &gst::Element, way: Way, automatic: bool) {
    let name = match way {
        Way::Event => "event",
        Way::Uri => "uri",
        Way::Pad => "pad",
        Way::Srtcp => "srtcp",
        Way::Rtcp => "rtcp",
    };
    let text = if automatic {
        format!(
            "Feedback comes by {name} and is not taken, because feedback-uri has a key and nothing vouches for this. To take \
             it all the same set feedback-ways=auto+{name}. This is told once"
        )
    } else {
        format!("Feedback comes by {name} and is not taken. Add {name} to feedback-ways to take it. This is told once")
    };
    gst::warning!(CAT, obj = element, "{text}");
    // gst-launch shows the second text only.
    gst::element_info!(element, gst::ResourceError::NotAuthorized, ("{text}"), ["{text}"]);
}

/// The search for RTP sessions on our data path.
#[derive(Default)]
pub(super) struct Rtp {
    channel: CameraChannel,
    /// Sessions of the second stream.
    refine: CameraChannel,
    next_search: Option<gst::ClockTime>,
    /// The reports read last.
    reports: Vec<ReceiverReport>,
}

impl Rtp {
    /// Finds the RTP sessions that the pads are sent through and listens for feedback on them; repeated now and then,
    /// because pipelines change and a session knows its sender only once media has reached it. After a search, returns
    /// the number of sessions and the new reports of receivers, with the share of packets lost since their last report.
    pub fn attach(
        &mut self,
        (pad, refine): (&gst::Pad, Option<&gst::Pad>),
        entrance: &Entrance,
        now: gst::ClockTime,
    ) -> Option<(usize, Vec<(f64, ReceiverReport)>)> {
        // A bare pad without an element (an application's own) leads nowhere.
        if pad.peer().is_none_or(|peer| peer.parent().is_none()) {
            return None;
        }
        if self
            .next_search
            .is_some_and(|at| now < at && at - now <= SEARCH_AGAIN_EVERY)
        {
            return None;
        }
        let entrance = entrance.clone();
        let deliver: DeliverRtcp = Arc::new(move |protected, packet| {
            let way = if protected { Way::Srtcp } else { Way::Rtcp };
            entrance.deliver(way, packet);
        });
        let mut sessions = self.channel.refresh(pad, &deliver);
        if let Some(pad) = refine {
            sessions += self.refine.refresh(pad, &deliver);
        }
        self.next_search = Some(now + if sessions > 0 { SEARCH_AGAIN_EVERY } else { SEARCH_EVERY });
        Some((sessions, self.news()))
    }

    /// Reports of receivers since the last call, with the share of packets lost since their last report.
    fn news(&mut self) -> Vec<(f64, ReceiverReport)> {
        let reports = self.channel.reports();
        let mut news = Vec::new();
        for report in &reports {
            let of_it = |r: &&ReceiverReport| (r.ssrc, r.media_ssrc) == (report.ssrc, report.media_ssrc);
            let last = self.reports.iter().find(of_it);
            if last.is_none_or(|last| last.stamp != report.stamp) {
                let loss = last.and_then(|last| report.loss_since(last));
                news.push((loss.unwrap_or(report.fraction_lost), *report));
            }
        }
        self.reports = reports;
        news
    }
}

/// Posts a notice to the application.
pub(super) fn post(element: &gst::Element, notice: Notice) {
    let structure = match notice {
        Notice::FeedbackStarted => {
            gst::info!(CAT, obj = element, "Feedback has started");
            return;
        }
        Notice::FeedbackLost { silence_ns, never } => {
            gst::info!(
                CAT,
                obj = element,
                "No feedback for {} ms: falling back",
                silence_ns / 1_000_000
            );
            gst::Structure::builder("ddsencode-feedback-lost")
                .field("silence-ns", silence_ns)
                .field("never", never)
                .build()
        }
        Notice::FeedbackRecovered { silence_ns } => {
            gst::info!(
                CAT,
                obj = element,
                "Feedback is back after {} ms",
                silence_ns / 1_000_000
            );
            gst::Structure::builder("ddsencode-feedback-recovered")
                .field("silence-ns", silence_ns)
                .build()
        }
    };
    let _ = element.post_message(gst::message::Element::builder(structure).src(element).build());
}
