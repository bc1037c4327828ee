// SPDX-License-Identifier: MPL-2.0

//! Sends feedback by the first route that exists: the linked `feedback` pad, an event to a camera in the same process, RTCP
//! on the session of the element's own data path. Where `feedback-uri` names a channel, it leaves by that one as well.

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

/// Interval at which the data path is searched again.
const REFRESH: Duration = Duration::from_secs(1);

/// Longest latency of a jitter buffer without a warning, in milliseconds.
const MAX_JITTER_BUFFER: u32 = 500;
/// The same where it is the default: 200 ms for `rtpbin`.
const MAX_DEFAULT_JITTER_BUFFER: u32 = 100;

/// Outgoing transport of feedback.
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
    /// No route exists.
    None,
}

/// Sends the feedback of one element.
#[derive(Debug)]
pub struct Sender {
    repetition: Repetition,
    /// Time zero of the repetition.
    epoch: Instant,
    channel: ServerChannel,
    /// The channel of `feedback-uri`.
    own_channel: Option<ServerEnd>,
    refreshed: Option<Instant>,
    route: Route,
    /// The path was searched for a jitter buffer that makes feedback late.
    latency_seen: bool,
}

impl Sender {
    /// A sender whose generations begin at a random number: a camera must not take those of a restarted server for old ones.
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

    /// The route of the last generation.
    pub fn route(&self) -> Route {
        self.route
    }

    /// Takes the channel of `feedback-uri`. Drop it where nothing is locked, since that waits for its threads.
    pub fn take_channel(&mut self) -> Option<ServerEnd> {
        self.own_channel.take()
    }

    /// Forgets the last state: the stream ended or was replaced.
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

    /// Repeats the last state if it was sent long enough ago. Returns the time until the next call.
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
        // A camera in this process comes before any session; but where none was found, not every frame need look for one.
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

/// Warns of a jitter buffer that makes feedback late. Packets in order pass it at once, so that the default of `rtspsrc`,
/// 2000 ms, goes unnoticed before the first loss; with sinks that show frames at their time feedback is late from the start.
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
    use dds_protocol::wish::Wishes;

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
            wishes: Wishes::default(),
        };
        let mut sent = Stats::default();
        Sender::new(None).send(request, &pad, None, &mut sent);
        let mut all = Stats {
            regions_left_out: 2,
            ..Stats::default()
        };
        all.add_feedback(&sent);
        let fields = all.structure(
            &Default::default(),
            &Default::default(),
            &TrackerStats::default(),
            &Default::default(),
        );
        assert_eq!(fields.get("regions-left-out"), Ok(5u64));
    }
}
