// SPDX-License-Identifier: MPL-2.0

//! Sends feedback by the first way there is: the linked `feedback` pad, an event to a camera in the same process, RTCP on
//! the session of the element's own data path. Where `feedback-uri` names a channel, it leaves by that one as well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dds_protocol::feedback::{self, FeedbackState};
use gst::prelude::*;
use gst_dds_link::channel::ServerEnd;
use gst_dds_link::path;
use gst_dds_link::session::{Sent, ServerChannel};

use super::CAT;
use super::side_pad::{Queued, SidePad};
use super::stats::Stats;
use crate::server::{Repetition, Request};

/// How often the data path is looked at again.
const REFRESH: Duration = Duration::from_secs(1);

/// Longest time that packets should wait for late ones, in milliseconds.
const MAX_JITTER_BUFFER: u32 = 500;
/// The same where nobody has chosen it: `rtpbin` comes with 200 ms.
const MAX_DEFAULT_JITTER_BUFFER: u32 = 100;

/// The way feedback left last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
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
    repetition: Repetition,
    /// The time that the repetition knows begins here.
    epoch: Instant,
    channel: ServerChannel,
    /// Of `feedback-uri`.
    own_channel: Option<ServerEnd>,
    refreshed: Option<Instant>,
    route: Route,
    /// The path has been looked at for what makes feedback late.
    latency_seen: bool,
}

impl Sender {
    /// A sender whose generations begin anywhere, so that a server that restarted is not taken for its former self.
    pub fn new(own_channel: Option<ServerEnd>) -> Self {
        Self {
            own_channel,
            repetition: Repetition::new(glib::random_int() as u16),
            epoch: Instant::now(),
            channel: ServerChannel::default(),
            refreshed: None,
            route: Route::None,
            latency_seen: false,
        }
    }

    /// The way the last generation left.
    pub fn route(&self) -> Route {
        self.route
    }

    /// The channel of `feedback-uri`, to be dropped where nothing is locked: its threads are waited for.
    pub fn take_channel(&mut self) -> Option<ServerEnd> {
        self.own_channel.take()
    }

    /// Forgets the last state: the stream ended or is another one.
    pub fn forget(&mut self) {
        self.repetition.forget();
    }

    /// Sends the state of one frame. Returns its generation.
    pub fn send(
        &mut self,
        request: Request,
        sink_pad: &gst::Pad,
        side: Option<&Arc<SidePad>>,
        stats: &mut Stats,
    ) -> u16 {
        stats.regions += request.regions.len() as u64;
        let state = self.repetition.state(self.epoch.elapsed(), request);
        // Not of repeats: they leave out the same regions again.
        stats.regions_not_encoded += self.transmit(&state, sink_pad, side, stats) as u64;
        state.generation.0
    }

    /// Repeats the last state if it was sent long enough ago. Returns how long to wait before the next call.
    pub fn repeat(&mut self, sink_pad: &gst::Pad, side: Option<&Arc<SidePad>>, stats: &mut Stats) -> Duration {
        let now = self.epoch.elapsed();
        if let Some(state) = self.repetition.due(now) {
            self.transmit(&state, sink_pad, side, stats);
            stats.feedback_repeated += 1;
        }
        self.repetition.wait(now)
    }

    /// Sends one generation. Returns the number of regions that do not fit into it.
    fn transmit(
        &mut self,
        state: &FeedbackState,
        sink_pad: &gst::Pad,
        side: Option<&Arc<SidePad>>,
        stats: &mut Stats,
    ) -> usize {
        let encoded = feedback::encode(state);
        stats.feedback += 1;
        let by_channel = self
            .own_channel
            .as_ref()
            .is_some_and(|channel| channel.send(&encoded.packets));
        stats.feedback_uri += u64::from(by_channel);
        self.route = match self.by_first_route(encoded.packets, sink_pad, side, stats) {
            Route::None if by_channel => Route::Uri,
            route => route,
        };
        match self.route {
            Route::Pad => stats.feedback_pad += 1,
            Route::Event => stats.feedback_event += 1,
            Route::Rtcp => stats.feedback_rtcp += 1,
            Route::Uri => (),
            Route::None => stats.feedback_unsent += 1,
        }
        encoded.dropped_regions
    }

    fn by_first_route(
        &mut self,
        packets: Vec<Vec<u8>>,
        sink_pad: &gst::Pad,
        side: Option<&Arc<SidePad>>,
        stats: &mut Stats,
    ) -> Route {
        if let Some(side) = side.filter(|s| s.pad().is_linked()) {
            for packet in packets {
                if side.push(gst::Buffer::from_slice(packet), false) != Queued::Yes {
                    stats.feedback_packets_dropped += 1;
                }
            }
            return Route::Pad;
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
        if self.route == Route::Event || look || !self.channel.is_attached() {
            let attached = self.channel.is_attached();
            let taken = packets.iter().all(|packet| {
                let (event, receipt) = gst_dds_link::event::feedback_with_receipt(packet);
                // Elements that receive from a network may claim to have taken any event.
                sink_pad.push_event(event) && (!attached || receipt.is_signed())
            });
            if taken {
                return Route::Event;
            }
        }
        match self.channel.send(packets) {
            Sent::Now => Route::Rtcp,
            Sent::Held => {
                stats.feedback_rtcp_held += 1;
                Route::Rtcp
            }
            Sent::NoSession => {
                gst::debug!(CAT, obj = sink_pad, "No way back to the camera");
                Route::None
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

#[cfg(test)]
mod tests {
    use dds_protocol::feedback::{MAX_REGIONS, Rect, Region};

    use super::*;
    use crate::identity::TrackerStats;

    #[test]
    fn regions_that_fit_into_no_packet_are_counted_as_left_out() {
        gst::init().unwrap();
        let pad = gst::Pad::new(gst::PadDirection::Sink);
        let region = Region {
            rect: Rect {
                x: 0,
                y: 0,
                width: 16,
                height: 16,
            },
            ttl_ms: 500,
            ..Region::default()
        };
        let request = Request {
            stream_id: 1,
            frame: 7,
            regions: vec![region; MAX_REGIONS + 3],
            once: false,
        };
        let mut sent = Stats::default();
        Sender::new(None).send(request, &pad, None, &mut sent);
        let mut all = Stats {
            regions_left_out: 2,
            ..Stats::default()
        };
        all.add_feedback(&sent);
        let fields = all.structure(&TrackerStats::default(), &Default::default());
        assert_eq!(fields.get("regions-left-out"), Ok(5u64));
    }
}
