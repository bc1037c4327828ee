// SPDX-License-Identifier: MPL-2.0

//! Output of the second pass's pad: stream and segment events, access units, gaps and EOS.

#![forbid(unsafe_code)]

use std::sync::Arc;

use gst::prelude::*;

use crate::camera::Request;
use crate::encoder::OpenError;

use super::coder::Coder;
use super::frame::{Frame, PAD, Raw, TimeSegment};

/// State of the pad's task between jobs.
#[derive(Default)]
pub(super) struct Output {
    stream_started: bool,
    segment: Option<Arc<TimeSegment>>,
    coder: Option<Coder>,
    access_unit: u32,
}

impl Output {
    /// Restarts on a pad that was inactive; the count of access units continues.
    pub fn restart(&mut self) {
        *self = Self {
            access_unit: self.access_unit,
            ..Self::default()
        };
    }

    /// Closes the encoder.
    pub fn close(&mut self) {
        self.coder = None;
    }

    /// Downstream has lost the segment.
    pub fn forget_segment(&mut self) {
        self.segment = None;
    }

    /// Upstream has begun another stream.
    pub fn forget_stream(&mut self) {
        (self.stream_started, self.segment) = (false, None);
    }

    fn start_stream(&mut self, pad: &gst::Pad) {
        if std::mem::replace(&mut self.stream_started, true) {
            return;
        }
        let upstream = pad
            .parent_element()
            .and_then(|element| element.static_pad("sink"))
            .and_then(|sink| sink.sticky_event::<gst::event::StreamStart>(0));
        let (id, group) = match &upstream {
            Some(event) => (format!("{}/{PAD}", event.stream_id()), event.group_id()),
            None => (format!("{}/{PAD}", pad.parent().map_or("".into(), |p| p.name())), None),
        };
        let event = gst::event::StreamStart::builder(&id);
        pad.push_event(match group {
            Some(group) => event.group_id(group).build(),
            None => event.build(),
        });
        if let Some(caps) = self.coder.as_ref().map(|coder| &coder.caps) {
            pad.push_event(gst::event::Caps::new(caps));
        }
    }

    /// Ensures that downstream knows stream and segment.
    fn announce(&mut self, pad: &gst::Pad, segment: &Arc<TimeSegment>) {
        self.start_stream(pad);
        if self.segment.as_ref().is_none_or(|known| !Arc::ptr_eq(known, segment)) {
            pad.push_event(gst::event::Segment::new(segment.as_ref()));
            self.segment = Some(segment.clone());
        }
    }

    /// Ensures that there is an encoder for the video of a frame, and that downstream knows its caps.
    pub fn prepare(&mut self, pad: &gst::Pad, frame: &Frame) -> Result<(), OpenError> {
        let of_video = |coder: &Coder| Arc::ptr_eq(&coder.video, &frame.video);
        if !self.coder.as_ref().is_some_and(of_video) {
            self.start_stream(pad);
            let coder = Coder::open(pad, &frame.video)?;
            pad.push_event(gst::event::Caps::new(&coder.caps));
            self.coder = Some(coder);
        }
        self.announce(pad, &frame.segment);
        Ok(())
    }

    /// The access unit of a frame, and whether it is an IDR picture.
    pub fn code(
        &mut self,
        frame: &Frame,
        refined: Option<(&Raw, &Request)>,
        forced: bool,
    ) -> Result<(gst::Buffer, bool), String> {
        let coder = self.coder.as_mut().ok_or("There is no encoder")?;
        let (data, idr) = coder.code(frame, refined, forced, self.access_unit)?;
        self.access_unit = self.access_unit.wrapping_add(1);
        let mut buffer = gst::Buffer::from_mut_slice(data);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(frame.pts);
            buffer.set_dts(frame.pts);
            buffer.set_duration(frame.duration);
            if !idr {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
        }
        Ok((buffer, idr))
    }

    /// Pushes a gap: nothing comes for a time.
    pub fn gap(&mut self, pad: &gst::Pad, segment: &Arc<TimeSegment>, from: gst::ClockTime, duration: gst::ClockTime) {
        self.announce(pad, segment);
        pad.push_event(gst::event::Gap::builder(from).duration(duration).build());
    }

    /// Ends the stream.
    pub fn eos(&mut self, pad: &gst::Pad) {
        self.start_stream(pad);
        pad.push_event(gst::event::Eos::new());
    }
}
