// SPDX-License-Identifier: MPL-2.0

//! The pictures that go through the core.

use std::sync::Arc;

use dds_protocol::feedback::Rect;
use dds_protocol::identity::FrameIdentity;

use super::analysis::Analysis;
use crate::results::FrameResult;

/// How the pixels of a frame lie.
#[derive(Debug)]
pub struct Format {
    pub info: gst_video::VideoInfo,
    /// The caps that say so.
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

/// A decoded frame and what was seen in it.
#[derive(Debug)]
pub struct Frame {
    pub buffer: gst::Buffer,
    pub format: Arc<Format>,
    /// What the model said of the first pass.
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
    /// The picture; of use inside `regions` only.
    pub buffer: gst::Buffer,
    /// Its layout.
    pub info: gst_video::VideoInfo,
    /// Rectangles that were refined, in pixels of the picture.
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
