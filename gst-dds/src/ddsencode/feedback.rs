// SPDX-License-Identifier: MPL-2.0

//! The ways feedback comes in, and what the application hears of it.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use dds_protocol::rtcp;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_dds_link::channel::{self, CameraEnd};
use gst_dds_link::guard::Guard;
use gst_dds_link::report::ReceiverReport;
use gst_dds_link::session::{CameraChannel, DeliverRtcp};
use gst_dds_link::sync::Mutex;
use gst_video::prelude::*;

use crate::camera::{self, Notice, Source};

use super::imp::DdsEncode;
use super::log::CAT;
use super::refine::Refine;
use super::settings::Settings;
use super::stats::ElementStats;

/// Feedback packets of each way that may wait for the next frame.
pub(super) const INBOX: usize = 256;
/// How often the data path is searched for RTP sessions: until one is found, and then, for changes.
const SEARCH_EVERY: gst::ClockTime = gst::ClockTime::from_mseconds(100);
const SEARCH_AGAIN_EVERY: gst::ClockTime = gst::ClockTime::from_seconds(1);

/// Packets that wait for the next frame: whoever delivers never waits for the encoder, and equal video with equal
/// feedback between the same frames gives equal streams, whatever the order in which two ways brought theirs.
#[derive(Default)]
pub(super) struct Inbox {
    /// By [`Source`]: who fills one leaves the others as they are.
    ways: [VecDeque<Box<[u8]>>; Source::COUNT],
    /// Packets that had to go because too many waited.
    pub dropped: u64,
    /// Ways that are not taken.
    closed: [bool; Source::COUNT],
    /// It was not the user who closed them.
    automatic: bool,
    /// That feedback by one of them was refused has been told.
    told: bool,
    /// Stream that packets have to name, once there is one.
    pub stream: Option<u32>,
    /// What came no further than here.
    pub counts: camera::Stats,
}

/// What the inbox says to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// It may go on.
    Admitted,
    /// It is not for this stream, or came by a way that is not taken.
    TurnedAway,
    /// The first one by a way that is not taken, which may be our own choice.
    FirstByClosedWay { automatic: bool },
}

impl Inbox {
    /// An empty one that takes what the settings say.
    pub fn new(settings: &Settings) -> Self {
        Self {
            closed: Source::ALL.map(|source| !settings.takes(source)),
            automatic: settings.chooses_ways(),
            ..Self::default()
        }
    }

    /// Looks at the header of a packet before it costs a place or more.
    fn admit(&mut self, source: Source, packet: &[u8]) -> Admission {
        let ours = match self.stream {
            Some(id) => camera::turned_away(id, packet, &mut self.counts).is_none(),
            None => true,
        };
        if ours && !self.closed[source as usize] {
            return Admission::Admitted;
        }
        self.counts.arrived(source);
        if !ours {
            return Admission::TurnedAway;
        }
        self.counts.packets_way_closed += 1;
        match std::mem::replace(&mut self.told, true) {
            false => Admission::FirstByClosedWay {
                automatic: self.automatic,
            },
            true => Admission::TurnedAway,
        }
    }

    fn push(&mut self, source: Source, packet: &[u8]) {
        let way = &mut self.ways[source as usize];
        if way.len() >= INBOX {
            way.pop_front();
            self.dropped += 1;
        }
        // Longer ones are malformed whatever they hold; the rest need not be copied to be counted.
        let kept = packet.len().min(dds_protocol::feedback::MAX_PACKET + 1);
        way.push_back(packet[..kept].into());
    }

    /// Everything that waits, way by way.
    pub fn take(&mut self) -> VecDeque<(Source, Box<[u8]>)> {
        let ways = Source::ALL.into_iter().zip(&mut self.ways);
        ways.flat_map(|(source, way)| way.drain(..).map(move |packet| (source, packet)))
            .collect()
    }

    pub fn clear(&mut self) {
        self.ways.iter_mut().for_each(VecDeque::clear);
    }
}

/// Where packets come in, for those who must not keep the element alive.
struct Entrance {
    inbox: Weak<Mutex<Inbox>>,
    refine: Weak<Refine>,
    element: glib::WeakRef<super::DdsEncode>,
}

impl Entrance {
    fn deliver(&self, source: Source, packet: &[u8]) {
        let Some((inbox, refine)) = self.inbox.upgrade().zip(self.refine.upgrade()) else {
            return;
        };
        let admission = inbox.lock().unwrap().admit(source, packet);
        match admission {
            Admission::Admitted if refine.deliver(source, packet) => (),
            Admission::Admitted => inbox.lock().unwrap().push(source, packet),
            Admission::TurnedAway => (),
            Admission::FirstByClosedWay { automatic } => {
                if let Some(element) = self.element.upgrade() {
                    tell_closed(&element, source, automatic);
                }
            }
        }
    }
}

/// Says once that feedback came by a way that is not taken, and what takes it.
fn tell_closed(element: &super::DdsEncode, source: Source, automatic: bool) {
    let way = match source {
        Source::Event => "event",
        Source::Uri => "uri",
        Source::Pad => "pad",
        Source::Srtcp => "srtcp",
        Source::Rtcp => "rtcp",
    };
    let text = if automatic {
        format!(
            "Feedback comes by {way} and is not taken, because feedback-uri has a key and nothing vouches for this. To take \
             it all the same set feedback-ways=auto+{way}. This is told once"
        )
    } else {
        format!("Feedback comes by {way} and is not taken. Add {way} to feedback-ways to take it. This is told once")
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
    /// As read last.
    reports: Vec<ReceiverReport>,
}

impl Rtp {
    /// What receivers have reported since the last call, with the share of packets lost since their last report.
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

impl DdsEncode {
    /// The `feedback` pad. Nothing goes through it: no event (its end is not the video's end), no query, no path for
    /// searches.
    pub(super) fn feedback_pad(&self, template: &gst::PadTemplate) -> gst::Pad {
        let guard = Guard::of("a query on the pad feedback", Some(self.obj().upcast_ref()));
        let pad = gst::Pad::builder_from_template(template)
            .name("feedback")
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |imp| imp.feedback_chain(&buffer))
            })
            .event_function(|_, _, _| true)
            .query_function(move |pad, parent, query| {
                guard.run(false, || match query.view() {
                    gst::QueryView::Caps(_) | gst::QueryView::AcceptCaps(_) => {
                        gst::Pad::query_default(pad, parent, query)
                    }
                    _ => false,
                })
            })
            .iterate_internal_links_function(|_, _| gst::Iterator::from_vec(Vec::new()))
            .build();
        gst_dds_link::refusal::tell_refusals(&pad);
        pad
    }

    /// Takes feedback packets from any thread; the next frame reads them, or in two passes the frames that wait.
    pub(super) fn deliver(&self, source: Source, packet: &[u8]) {
        self.entrance().deliver(source, packet);
    }

    fn entrance(&self) -> Entrance {
        Entrance {
            inbox: Arc::downgrade(&self.inbox),
            refine: Arc::downgrade(&self.refine),
            element: self.obj().downgrade(),
        }
    }

    /// Opens the channel that `feedback-uri` names.
    pub(super) fn open_channel(&self, setup: &channel::Setup) -> Result<(), gst::ErrorMessage> {
        // Its port must be free before it is taken again.
        self.close_channel();
        let entrance = self.entrance();
        let deliver = Arc::new(move |packet: &[u8]| entrance.deliver(Source::Uri, packet));
        let opened = CameraEnd::open(setup, deliver, channel::tell_by(&*self.obj()));
        *self.channel.lock().unwrap() =
            opened.map_err(|e| gst::error_msg!(gst::ResourceError::OpenReadWrite, ["{e}"]))?;
        Ok(())
    }

    pub(super) fn close_channel(&self) {
        // Taken out first: its threads are waited for.
        let channel = self.channel.lock().unwrap().take();
        drop(channel);
    }

    fn feedback_chain(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Ok(map) = buffer.map_readable() else {
            gst::warning!(CAT, imp = self, "A feedback buffer cannot be read");
            return Ok(gst::FlowSuccess::Ok);
        };
        if !rtcp::is_rtcp(&map) {
            self.deliver(Source::Pad, &map);
            return Ok(gst::FlowSuccess::Ok);
        }
        let found = rtcp::feedback_in(&map);
        let count = |add: fn(&mut ElementStats)| {
            if let Some(state) = self.state.lock().unwrap().as_mut() {
                add(&mut state.stats);
            }
        };
        match found {
            Ok(packets) if packets.is_empty() => count(|s| s.rtcp_without_feedback += 1),
            Ok(packets) => packets
                .into_iter()
                .for_each(|(_, packet)| self.deliver(Source::Pad, packet)),
            Err(error) => {
                gst::debug!(CAT, imp = self, "Feedback datagram: {error}");
                count(|s| s.rtcp_malformed += 1);
            }
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// Tells the application what it should hear.
    pub(super) fn post(&self, notice: Notice) {
        let structure = match notice {
            Notice::FeedbackStarted => {
                gst::info!(CAT, imp = self, "Feedback has started");
                return;
            }
            Notice::FeedbackLost { silence_ns, never } => {
                gst::info!(
                    CAT,
                    imp = self,
                    "No feedback for {} ms: falling back",
                    silence_ns / 1_000_000
                );
                gst::Structure::builder("ddsencode-feedback-lost")
                    .field("silence-ns", silence_ns)
                    .field("never", never)
                    .build()
            }
            Notice::FeedbackRecovered { silence_ns } => {
                gst::info!(CAT, imp = self, "Feedback is back after {} ms", silence_ns / 1_000_000);
                gst::Structure::builder("ddsencode-feedback-recovered")
                    .field("silence-ns", silence_ns)
                    .build()
            }
        };
        let obj = self.obj();
        let _ = obj.post_message(gst::message::Element::builder(structure).src(&*obj).build());
    }

    /// Looks for the RTP sessions our stream is sent through and listens for feedback on them; again now and then,
    /// because pipelines change and a session knows its sender only once media has reached it.
    pub(super) fn attach_rtcp(&self, now: gst::ClockTime) {
        let src_pad = self.obj().src_pad().clone();
        // A bare pad without an element (an application's own) leads nowhere.
        if src_pad.peer().is_none_or(|peer| peer.parent().is_none()) {
            return;
        }
        let mut rtp = self.rtp.lock().unwrap();
        if rtp
            .next_search
            .is_some_and(|at| now < at && at - now <= SEARCH_AGAIN_EVERY)
        {
            return;
        }
        let entrance = self.entrance();
        let deliver: DeliverRtcp = Arc::new(move |protected, packet| {
            let source = if protected { Source::Srtcp } else { Source::Rtcp };
            entrance.deliver(source, packet);
        });
        let mut sessions = rtp.channel.refresh(&src_pad, &deliver);
        if let Some(pad) = self.refine.pad() {
            sessions += rtp.refine.refresh(&pad, &deliver);
        }
        rtp.next_search = Some(now + if sessions > 0 { SEARCH_AGAIN_EVERY } else { SEARCH_EVERY });
        let news = rtp.news();
        drop(rtp);
        if let Some(state) = self.state.lock().unwrap().as_mut() {
            state.stats.rtp_sessions = sessions as u64;
            news.iter().for_each(|(loss, report)| state.report(now, *loss, report));
        }
    }
}
