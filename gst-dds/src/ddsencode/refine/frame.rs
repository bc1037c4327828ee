// SPDX-License-Identifier: MPL-2.0

//! Captured frames that wait for a request.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use dds_protocol::extension::Segment;

use crate::camera::{Geometry, SegmentPlace};
use crate::encoder::{Backend, Codec, Fields, PixelFormat};
use crate::picture::{Layout, OwnedPicture, Recycler};

use super::super::settings::Settings;

/// Name of the pad and of its template.
pub(in super::super) const PAD: &str = "refine";

pub(in super::super) type TimeSegment = gst::FormattedSegment<gst::ClockTime>;

/// Configuration of both streams between two changes of caps.
pub(super) struct Video {
    pub info: gst_video::VideoInfo,
    pub format: PixelFormat,
    pub stream_id: u32,
    /// Encoders of the first pass, and of the second.
    pub coder: (Backend, Codec),
    pub settings: Settings,
    pub hold: bool,
    pub frames: Recycler,
}

impl Video {
    pub fn layout(info: &gst_video::VideoInfo, format: PixelFormat) -> Layout {
        Layout {
            format,
            width: info.width() as usize,
            height: info.height() as usize,
        }
    }

    pub fn full_range(&self) -> bool {
        self.info.colorimetry().range() == gst_video::VideoColorRange::Range0_255
    }

    pub fn size(&self) -> Geometry {
        Geometry {
            width: self.info.width(),
            height: self.info.height(),
        }
    }
}

/// A captured frame without its picture.
#[derive(Clone)]
pub(super) struct Frame {
    pub video: Arc<Video>,
    pub number: u64,
    pub capture_time_ns: u64,
    pub pts: Option<gst::ClockTime>,
    pub duration: Option<gst::ClockTime>,
    pub segment: Arc<TimeSegment>,
    pub place: Option<SegmentPlace>,
    pub fields: Option<Fields>,
}

/// A captured frame that may be requested.
pub(super) struct Raw {
    pub frame: Frame,
    pub picture: OwnedPicture,
    pub taken: Instant,
}

/// Place of a frame in its segment, as on the wire.
pub(super) fn segment_of(place: SegmentPlace) -> Segment {
    Segment {
        position: place.position,
        length: place.length,
    }
}
