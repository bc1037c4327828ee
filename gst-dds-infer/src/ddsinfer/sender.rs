// SPDX-License-Identifier: MPL-2.0

//! Sends feedback by the first way there is: the linked `feedback` pad, an event to a camera in the same process, RTCP on
//! the session of the element's own data path. Where `feedback-uri` names a channel, it leaves by that one as well.
//!
//! Feedback is state: each inferred frame gives a whole new generation. When nothing new comes, the last state is
//! repeated under a new generation before [`REPEAT`] is over, because silence means that the server is gone. Repeats
//! lower each region's time to live by the time that has passed, so that repeating cannot keep a region alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dds_protocol::feedback::{self, FeedbackState, Region};
use dds_protocol::serial::Serial16;
use gst::prelude::*;
use gst_dds_link::channel::ServerEnd;
use gst_dds_link::path;
use gst_dds_link::session::{Sent, ServerChannel};

use super::CAT;
use super::side_pad::{Queued, SidePad};
use super::stats::Stats;
use super::worker::Request;

/// The server is heard at least this often.
pub const REPEAT: Duration = Duration::from_millis(500);
/// How often the data path is looked at again.
const REFRESH: Duration = Duration::from_secs(1);

/// Longest time that packets should wait for late ones, in milliseconds.
const MAX_JITTER_BUFFER: u32 = 500;
/// The same where nobody has chosen it: `rtpbin` comes with 200 ms.
const MAX_DEFAULT_JITTER_BUFFER: u32 = 100;

/// The last state and when it was made.
#[derive(Debug)]
struct Last {
    stream_id: u32,
    frame: u64,
    regions: Vec<Region>,
    made: Instant,
    sent: Instant,
}

/// The way feedback left last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The request pad `feedback`.
    Pad,
    /// An event to a camera in this process.
    Event,
    /// RTCP APP packets.
    Rtcp,
    /// The channel of `feedback-uri` alone.
    Uri,
    /// There was none.
    None,
}

/// Sends the feedback of one element.
#[derive(Debug)]
pub struct Sender {
    generation: Serial16,
    last: Option<Last>,
    channel: ServerChannel,
    /// Of `feedback-uri`.
    own_channel: Option<ServerEnd>,
    refreshed: Option<Instant>,
    way: Way,
    /// The path has been looked at for what makes feedback late.
    latency_seen: bool,
}

impl Sender {
    /// A sender whose generations begin anywhere, so that a server that restarted is not taken for its former self.
    pub fn new(own_channel: Option<ServerEnd>) -> Self {
        Self {
            own_channel,
            generation: Serial16(glib::random_int() as u16),
            last: None,
            channel: ServerChannel::default(),
            refreshed: None,
            way: Way::None,
            latency_seen: false,
        }
    }

    /// The way the last generation left.
    pub fn way(&self) -> Way {
        self.way
    }

    /// The channel of `feedback-uri`, to be dropped where nothing is locked: its threads are waited for.
    pub fn take_channel(&mut self) -> Option<ServerEnd> {
        self.own_channel.take()
    }

    /// Forgets the last state: the stream ended or is another one.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Sends the state of one frame. Returns its generation. What asks for something once is repeated as an empty list.
    pub fn send(
        &mut self,
        request: Request,
        sink_pad: &gst::Pad,
        side: Option<&Arc<SidePad>>,
        stats: &mut Stats,
    ) -> Serial16 {
        let now = Instant::now();
        let Request {
            stream_id,
            frame,
            regions,
            once,
        } = request;
        stats.regions += regions.len() as u64;
        let mut last = Last {
            stream_id,
            frame,
            regions: Vec::new(),
            made: now,
            sent: now,
        };
        let generation = self.transmit(&last, regions.clone(), sink_pad, side, stats);
        if !once {
            last.regions = regions;
        }
        self.last = Some(last);
        generation
    }

    /// Repeats the last state if it was sent long enough ago. Returns how long to wait before the next call.
    pub fn repeat(&mut self, sink_pad: &gst::Pad, side: Option<&Arc<SidePad>>, stats: &mut Stats) -> Duration {
        // Early enough that a late wake-up does not break the promise.
        const EARLY: Duration = Duration::from_millis(50);
        let Some(mut last) = self.last.take() else {
            return REPEAT / 2;
        };
        let now = Instant::now();
        let silent = now - last.sent;
        if silent + EARLY >= REPEAT {
            let age = (now - last.made).as_millis().try_into().unwrap_or(u32::MAX);
            let alive = last
                .regions
                .iter()
                .filter_map(|r| {
                    Some(Region {
                        ttl_ms: r.ttl_ms.checked_sub(age).filter(|t| *t > 0)?,
                        ..*r
                    })
                })
                .collect();
            self.transmit(&last, alive, sink_pad, side, stats);
            stats.feedback_repeated += 1;
            last.sent = now;
        }
        let wait = (last.sent + REPEAT).saturating_duration_since(now + EARLY);
        self.last = Some(last);
        wait.max(Duration::from_millis(1))
    }

    fn transmit(
        &mut self,
        last: &Last,
        regions: Vec<Region>,
        sink_pad: &gst::Pad,
        side: Option<&Arc<SidePad>>,
        stats: &mut Stats,
    ) -> Serial16 {
        self.generation = self.generation.next();
        let encoded = feedback::encode(&FeedbackState {
            stream_id: last.stream_id,
            generation: self.generation,
            frame: last.frame,
            regions,
        });
        stats.feedback += 1;
        stats.regions_left_out += encoded.dropped_regions as u64;
        let by_channel = self
            .own_channel
            .as_ref()
            .is_some_and(|channel| channel.send(&encoded.packets));
        stats.feedback_uri += u64::from(by_channel);
        self.way = match self.by_first_way(encoded.packets, sink_pad, side, stats) {
            Way::None if by_channel => Way::Uri,
            way => way,
        };
        match self.way {
            Way::Pad => stats.feedback_pad += 1,
            Way::Event => stats.feedback_event += 1,
            Way::Rtcp => stats.feedback_rtcp += 1,
            Way::Uri => (),
            Way::None => stats.feedback_unsent += 1,
        }
        self.generation
    }

    fn by_first_way(
        &mut self,
        packets: Vec<Vec<u8>>,
        sink_pad: &gst::Pad,
        side: Option<&Arc<SidePad>>,
        stats: &mut Stats,
    ) -> Way {
        if let Some(side) = side.filter(|s| s.pad().is_linked()) {
            for packet in packets {
                if side.push(gst::Buffer::from_slice(packet), false) != Queued::Yes {
                    stats.feedback_packets_dropped += 1;
                }
            }
            return Way::Pad;
        }
        let now = Instant::now();
        let look = self.refreshed.is_none_or(|t| now - t >= REFRESH);
        if look {
            self.refreshed = Some(now);
            if self.channel.refresh(sink_pad) && !std::mem::replace(&mut self.latency_seen, true) {
                warn_of_latency(sink_pad);
            }
        }
        // A camera in this process is nearer than any session; but one that is not there need not be asked for each frame.
        if self.way == Way::Event || look || !self.channel.is_attached() {
            let attached = self.channel.is_attached();
            let taken = packets.iter().all(|packet| {
                let (event, receipt) = gst_dds_link::event::feedback_with_receipt(packet);
                // Elements that receive from a network may claim to have taken any event.
                sink_pad.push_event(event) && (!attached || receipt.is_signed())
            });
            if taken {
                return Way::Event;
            }
        }
        match self.channel.send(packets) {
            Sent::Now => Way::Rtcp,
            Sent::Held => {
                stats.feedback_rtcp_held += 1;
                Way::Rtcp
            }
            Sent::NoSession => {
                gst::debug!(CAT, obj = sink_pad, "No way back to the camera");
                Way::None
            }
        }
    }
}

/// In-order packets pass a jitter buffer at once, so that the default of `rtspsrc`, 2000 ms, goes unnoticed before the first
/// loss. Sinks that show frames at their time make feedback late by it from the start.
fn warn_of_latency(sink_pad: &gst::Pad) {
    let Some(jitter_buffer) = path::jitter_buffer(sink_pad) else {
        return;
    };
    let default = jitter_buffer.owner.find_property("latency");
    let default = default.and_then(|p| p.default_value().get::<u32>().ok());
    let most = match default == Some(jitter_buffer.latency_ms) {
        true => MAX_DEFAULT_JITTER_BUFFER,
        false => MAX_JITTER_BUFFER,
    };
    let (Some(element), true) = (sink_pad.parent_element(), jitter_buffer.latency_ms > most) else {
        return;
    };
    let owner = jitter_buffer.owner.name();
    gst::element_warning!(
        element,
        gst::LibraryError::Settings,
        (
            "{owner} keeps video back for up to {} ms, after a lost packet or for a sink that waits, and feedback with it; set \
             the property latency of {owner}, in milliseconds (20 to 100 on a local network)",
            jitter_buffer.latency_ms
        )
    );
}
