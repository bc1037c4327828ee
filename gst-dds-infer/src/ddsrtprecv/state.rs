// SPDX-License-Identifier: MPL-2.0

//! State of `ddsrtprecv` while it runs.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use crate::rtp::selector::{Format, StreamSelector};

use super::stream::Stream;

/// Counts beside the selector's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    pub malformed: u64,
    pub other_payload_type: u64,
    pub rtcp: u64,
    pub rtcp_foreign: u64,
    pub rtcp_malformed: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub selector: StreamSelector<Option<SocketAddr>, gst::Buffer>,
    pub stream: Option<Stream>,
    /// Payload type of the selected stream.
    pub payload_type: u8,
    /// SSRC of the stream selected last.
    pub ssrc: Option<u32>,
    /// Key frames are recognised, so depayloaders ignore packets without payload.
    pub key_frames: bool,
    /// Time stamp of the last packet passed on.
    pub last: Option<gst::ClockTime>,
    pub stats: Stats,
}

impl Default for State {
    fn default() -> Self {
        Self {
            selector: StreamSelector::new(Format::Other),
            stream: None,
            payload_type: 0,
            ssrc: None,
            key_frames: false,
            last: None,
            stats: Stats::default(),
        }
    }
}

impl State {
    /// The property `stats`.
    pub fn statistics(&self) -> gst::Structure {
        let (selector, stats) = (self.selector.stats(), self.stats);
        let (candidates, bytes) = self.selector.waiting();
        gst::Structure::builder("ddsrtprecv-stats")
            .field_if_some("ssrc", self.selector.selected())
            .field("packets", selector.passed)
            .field("packets-foreign", selector.foreign)
            .field("packets-crowded", selector.crowded)
            .field("packets-malformed", stats.malformed)
            .field("packets-other-payload-type", stats.other_payload_type)
            .field("takeovers", selector.takeovers)
            .field("byes", selector.byes)
            .field("key-unit-requests", selector.key_unit_requests)
            .field("rtcp", stats.rtcp)
            .field("rtcp-foreign", stats.rtcp_foreign)
            .field("rtcp-malformed", stats.rtcp_malformed)
            .field("candidates", candidates as u64)
            .field("candidate-bytes", bytes as u64)
            .build()
    }
}
