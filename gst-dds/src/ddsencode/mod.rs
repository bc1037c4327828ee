// SPDX-License-Identifier: MPL-2.0

//! Encoder for cameras that are watched by a neural network: replaces `x264enc tune=zerolatency`.
//!
//! ```text
//! gst-launch-1.0 videotestsrc num-buffers=300 ! ddsencode name=e ! h264parse ! avdec_h264 ! autovideosink
//! ```
//!
//! With a server that sends its feedback to UDP port 6001, and only `x264enc` replaced in the line:
//!
//! ```text
//! gst-launch-1.0 v4l2src ! decodebin ! videoconvert ! ddsencode name=e ! rtph264pay ! udpsink host=SERVER port=5000 \
//!     udpsrc port=6001 ! e.feedback
//! ```
//!
//! Without `bitrate` it codes with two quantizers, `background-qp` and `region-qp`, exact in every coded macroblock.
//! Regions come from the `feedback` pad, by RTCP from the RTP session the stream is sent through, by an upstream event
//! from a `ddsinfer` in the same process, by a channel of their own (`feedback-uri`), and from
//! `GstVideoRegionOfInterestMeta` on input buffers that carries a `roi/ddsencode` structure with an integer `delta-qp`.
//! [`crate::camera`] describes how they are merged.
//!
//! Regions act with the next frame: the element never delays one. Its clock for timeouts, times to live and rate limits
//! is the running time of the video: equal video and equal feedback give equal streams, live or not.
//!
//! # What the network may cost
//!
//! Anybody who can send feedback can request bits. Where nothing else bounds the rate, regions of feedback add no more
//! than `max-feedback-bitrate` to any one second, which is derived from size and rate of the video: to keep it, only
//! their difference to the background shrinks. Of the key frames requested by RTCP (PLI, FIR) one a second is coded;
//! the next request waits for the end of that second and shares its key frame with those that come until then. Key
//! frames that the pipeline itself requests (`splitmuxsink`, applications) are coded at once. `stats` counts all of it.
//!
//! # Seconds
//!
//! `bitrate`, `max-bitrate`, the automatic distance of key frames and all limits per second are based on the time
//! stamps of the coded pictures, whatever rate caps declare. Where both agree, nothing is scaled. The stream's
//! parameter sets still declare what caps do, because recorders do not accept new ones: level and frame rate of caps,
//! or without a rate no frame rate, and a level for `max-framerate` or 60 frames per second.
//!
//! # A channel of its own
//!
//! Relays and recorders that restream drop RTCP. With `feedback-uri=udp://0.0.0.0:5006` the camera listens there for
//! any number of servers, and with `?mode=caller` it dials one from behind its own network's firewall. Packets are
//! sealed with `feedback-key`; [`gst_dds_link::secure`] describes how. Of several servers there one steers; the others,
//! whose generations count as stale, take over when it has been silent for `feedback-timeout`.
//!
//! With a key, unencrypted feedback by RTCP is no longer taken: `feedback-ways` selects the ways. SRTCP, the pad
//! `feedback`, events and metas stay open, and RTCP still requests key frames and reports losses. Each way has a queue,
//! a numbering and a timeout of its own.
//!
//! ```text
//! gst-launch-1.0 v4l2src ! decodebin ! videoconvert ! ddsencode feedback-uri=udp://0.0.0.0:5006 feedback-key-file=dds.key \
//!     ! rtspclientsink location=rtsp://RELAY/camera
//! ```
//!
//! # Two passes
//!
//! With `mode=two-pass` feedback requests regions of frames that were captured already. `src` carries whole frames at
//! `background-qp` (of `low-scale` times the captured size), the request pad `refine` a second stream at full size
//! whose pictures hold only those regions at `region-qp`; frames without a request are left out there. Both streams
//! give a frame the same identity, and each frame of the second lists its rectangles. A refused request is named in the
//! next three frames of the first stream.
//!
//! ```text
//! gst-launch-1.0 v4l2src ! decodebin ! videoconvert ! ddsencode name=e mode=two-pass \
//!     ! rtph264pay ! udpsink host=SERVER port=5000 \
//!     e.refine ! rtph264pay ! udpsink host=SERVER port=5002 sync=false udpsrc port=6001 ! e.feedback
//! ```
//!
//! Raw frames wait for their request in a ring (`ring-frames`, `ring-bytes`, `ring-age`); they are copied, so that no
//! camera waits for its buffers. Buffers on `refine` are always late, by a round trip and a segment: sinks behind it
//! should not be synchronised, and the pad adds no latency to the pipeline. `max-bitrate` caps the first stream alone,
//! `max-feedback-bitrate` the second.
//!
//! Since: 0.1

use glib::prelude::*;

mod capture;
mod enums;
mod feedback;
mod first_pass;
mod imp;
mod keyframes;
mod log;
mod negotiate;
mod open;
mod output;
mod properties;
mod rates;
mod refine;
mod setting;
mod settings;
mod setup;
mod state;
mod stats;
mod stream;
mod x264enc;

pub use enums::{
    Analyse, Encoder, FeedbackWays, FramePacking, Me, Pass, Passes, PsyTune, RefineCanvas, SpeedPreset, Tune,
};
pub use negotiate::colour;

glib::wrapper! {
    /// The element `ddsencode`.
    pub struct DdsEncode(ObjectSubclass<imp::DdsEncode>)
        @extends gst_video::VideoEncoder, gst::Element, gst::Object,
        @implements gst::Preset;
}

/// Registers the element. Its rank is none: it has to be requested by name, so automatic choices stay as they were.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "ddsencode", gst::Rank::NONE, DdsEncode::static_type())
}
