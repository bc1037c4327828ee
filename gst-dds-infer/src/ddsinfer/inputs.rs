// SPDX-License-Identifier: MPL-2.0

//! The encoded streams that decoded frames come from.

use std::sync::Arc;

use dds_protocol::identity::FrameIdentity;
use gst_dds_link::sync::Mutex;

use super::frame::Format;
use super::probe::{EarlyProbes, KeptProbe};
use crate::identity::{IdentityTracker, Lookup, Origin};

/// The inputs of one element: both passes.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Probes on decoders that appear before the element is linked to them.
    pub early: Option<EarlyProbes>,
    pub first: Input,
    pub refine: Input,
}

/// One decoded stream.
#[derive(Debug, Default)]
pub struct Input {
    probe: KeptProbe,
    /// The tracker of the probe, once there is one.
    tracker: Arc<Mutex<IdentityTracker>>,
    /// Format of the decoded frames.
    pub format: Option<Arc<Format>>,
    pub watch: DecoderWatch,
}

/// Result of looking up a decoded frame in its encoded stream.
pub struct Read {
    pub lookup: Lookup,
    pub origin: Origin,
    /// Number of frames that the decoder has not put out yet.
    pub waiting: usize,
}

impl Inputs {
    /// Installs the probe on the encoded stream of the first pass, and again where the upstream side was rebuilt. Cheap while
    /// nothing changes.
    pub fn look_first(&mut self, pad: &gst::Pad, now: bool) {
        self.first.look(pad, self.early.as_ref(), now);
    }

    /// The same for the second pass.
    pub fn look_refine(&mut self, pad: &gst::Pad, now: bool) {
        // Without a probe no frame can be used: then every frame looks for the stream.
        let now = now || !self.refine.probe.is_there();
        self.refine.look(pad, self.early.as_ref(), now);
    }
}

impl Input {
    fn look(&mut self, pad: &gst::Pad, early: Option<&EarlyProbes>, now: bool) {
        if let Some(tracker) = self.probe.look(pad, early, now) {
            self.tracker = tracker;
        }
    }

    /// The tracker that the probe feeds.
    pub fn tracker(&self) -> Arc<Mutex<IdentityTracker>> {
        self.tracker.clone()
    }

    /// Looks up the frame with this presentation time in nanoseconds. `attached`: the identity that it carries.
    pub fn read(&self, pts: Option<u64>, attached: Option<&FrameIdentity>) -> Read {
        let mut tracker = self.tracker.lock().unwrap();
        Read {
            lookup: tracker.lookup_attached(pts, attached),
            origin: tracker.origin(),
            waiting: tracker.waiting(),
        }
    }

    /// Name of the decoder.
    pub fn decoder(&self) -> glib::GString {
        self.probe.decoder().unwrap_or_default()
    }

    /// Removes the probe; counts stay readable.
    pub fn stop(&mut self) {
        self.probe = KeptProbe::default();
    }
}

/// Detects a decoder that puts out each frame only when later ones arrive.
#[derive(Debug, Default)]
pub struct DecoderWatch {
    /// Frames in a row behind which it held others back.
    frames: u32,
    reported: bool,
}

impl DecoderWatch {
    /// Counts a frame. Returns, once, whether the decoder has held others back behind `most` frames in a row.
    pub fn frame(&mut self, holds_back: bool, most: u32) -> bool {
        self.frames = if holds_back { self.frames.saturating_add(1) } else { 0 };
        self.frames >= most && !std::mem::replace(&mut self.reported, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_holds_back_frame_after_frame_is_reported_once() {
        let mut watch = DecoderWatch::default();
        let mut frames = |holds_back, count: u32| (0..count).filter(|_| watch.frame(holds_back, 8)).count();
        assert_eq!(frames(true, 7), 0);
        assert_eq!(frames(false, 1), 0);
        assert_eq!(frames(true, 8), 1);
        assert_eq!(frames(true, 100), 0);
    }
}
