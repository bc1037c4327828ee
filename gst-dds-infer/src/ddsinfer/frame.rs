// SPDX-License-Identifier: MPL-2.0

//! The frames that pass through the core.

use std::sync::Arc;

use dds_protocol::feedback::Rect;
use dds_protocol::identity::FrameIdentity;

use super::analysis::Analysis;
use crate::results::FrameResult;

/// Layout of a frame.
#[derive(Debug)]
pub struct Format {
    pub info: gst_video::VideoInfo,
    /// Caps of the same layout.
    pub caps: gst::Caps,
}

impl Format {
    pub fn of(caps: &gst::CapsRef) -> Result<Self, glib::BoolError> {
        let info = gst_video::VideoInfo::from_caps(caps)?;
        let caps = caps.to_owned();
        Ok(Self { info, caps })
    }

    pub fn size(&self) -> (u32, u32) {
        (self.info.width(), self.info.height())
    }
}

/// A decoded frame and its results.
#[derive(Debug)]
pub struct Frame {
    pub buffer: gst::Buffer,
    pub format: Arc<Format>,
    /// Output of the model for the first pass, with the class map of the second one where there is any.
    pub analysis: Analysis,
    /// Size of the first pass.
    pub first_size: (u32, u32),
    pub result: Option<FrameResult>,
}

impl Frame {
    pub fn new(buffer: gst::Buffer, format: Arc<Format>) -> Self {
        Self {
            buffer,
            analysis: Analysis::default(),
            first_size: format.size(),
            format,
            result: None,
        }
    }
}

/// The second pass of a frame, decoded.
#[derive(Debug)]
pub struct Refinement {
    /// The picture, valid inside `regions` only.
    pub buffer: gst::Buffer,
    /// Its layout.
    pub info: gst_video::VideoInfo,
    /// Refined rectangles, in pixels of the picture.
    pub regions: Vec<Rect>,
}

/// The frame identity that a parser attached.
pub fn identity_meta(buffer: &gst::BufferRef) -> Option<FrameIdentity> {
    buffer
        .iter_meta::<gst_video::video_meta::VideoSeiUserDataUnregisteredMeta>()
        .find_map(|meta| {
            let mut payload = meta.uuid().to_vec();
            payload.extend_from_slice(meta.data());
            FrameIdentity::from_payload(&payload).ok()
        })
}
