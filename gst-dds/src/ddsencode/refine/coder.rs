// SPDX-License-Identifier: MPL-2.0

//! The encoder of the second pass, and the canvas that it codes.

#![forbid(unsafe_code)]

use std::sync::Arc;

use dds_protocol::extension::Extension;
use dds_protocol::feedback::Rect;
use dds_protocol::identity::{FrameIdentity, StreamKind};
use gst::prelude::*;

use crate::camera::{Geometry, MACROBLOCK, MAX_QP, QpMap, Request};
use crate::encoder::{Backend, EncoderOption, FrameControls, OpenError, Origin, Picture, RateControl, RegionEncoder};
use crate::picture::OwnedPicture;
use crate::vbv::Vbv;

use super::super::log::library_log;
use super::super::negotiate;
use super::super::output;
use super::frame::{Frame, Raw, Video, segment_of};

/// The second encoder and its canvas.
pub(super) struct Coder {
    pub video: Arc<Video>,
    pub caps: gst::Caps,
    encoder: Box<dyn RegionEncoder>,
    byte_stream: bool,
    canvas: OwnedPicture,
    /// Rectangles that the canvas shows besides black, to be removed before the next picture.
    painted: Vec<Rect>,
    map: QpMap,
    mb_width: usize,
    next_pts: i64,
    since_idr: u64,
    segment: Option<u64>,
}

impl Coder {
    pub fn open(pad: &gst::Pad, video: &Arc<Video>) -> Result<Self, OpenError> {
        let settings = &video.settings;
        // Not what the pad allows: once it has caps, those are the only ones.
        let allowed = pad.is_linked().then(|| pad.peer_query_caps(Some(&negotiate::SRC_CAPS)));
        let (backend, codec) = video.coder;
        let choice = negotiate::choose(allowed.as_ref(), codec, video.format, settings.byte_stream())?;
        let mut config = negotiate::config(settings, &video.info, video.format, &choice);
        // Whatever the first pass does: exactly the requested quantizers.
        config.rate = RateControl::Quantizers { base_qp: MAX_QP };
        (config.vbv, config.vbv_may_change) = (Vbv::OPEN, false);
        // Macroblocks of interlaced video come in pairs, in another order.
        config.still_parts = config.interlaced.is_none();
        if backend == Backend::X264 {
            // Regions come and go: searching for fades and cuts finds nothing.
            config.options.extend(["weightp", "scenecut"].map(|key| EncoderOption {
                origin: Origin::Property("mode"),
                key: key.into(),
                value: Some("0".into()),
            }));
        }
        let encoder = backend.open(&config, library_log(pad))?;
        let mut caps = negotiate::output_caps(&choice, video.format, &encoder.parameter_sets());
        negotiate::describe_video(&mut caps, &video.info);
        let mut canvas = OwnedPicture::new(Video::layout(&video.info, video.format));
        canvas.fill_black(&EVERYTHING, video.full_range());
        Ok(Self {
            caps,
            byte_stream: choice.byte_stream,
            canvas,
            painted: Vec::new(),
            map: QpMap::new(Geometry {
                width: video.info.width(),
                height: video.info.height(),
            }),
            mb_width: video.info.width().div_ceil(MACROBLOCK) as usize,
            next_pts: 0,
            since_idr: 0,
            segment: None,
            video: video.clone(),
            encoder,
        })
    }

    pub fn code(
        &mut self,
        frame: &Frame,
        refined: Option<(&Raw, &Request)>,
        forced: bool,
        access_unit: u32,
    ) -> Result<(Vec<u8>, bool), String> {
        let segment = refined.and(frame.place).map(|place| place.index);
        let force_idr =
            forced || self.next_pts == 0 || segment != self.segment || self.since_idr + 1 >= self.encoder.key_int_max();
        self.segment = segment;
        self.clean_canvas(force_idr);
        self.map.begin(self.outside_qp(refined), 1.0);
        let mut extension = Extension {
            segment: frame.place.map(segment_of),
            ..Extension::default()
        };
        if let Some((raw, request)) = refined {
            self.paint(raw, request);
            extension.refined.extend(request.regions.iter().map(|(rect, _)| *rect));
        }
        let (base_qp, offsets) = self.map.finish();
        let controls = FrameControls {
            base_qp,
            offsets,
            force_idr,
        };
        let picture = Picture {
            planes: self.canvas.planes(),
            pts: self.next_pts,
        };
        self.next_pts += 1;
        if let Some(fields) = frame.fields {
            self.encoder.set_fields(fields).map_err(|e| e.to_string())?;
        }
        let unit = self.encoder.encode(&picture, &controls).map_err(|e| e.to_string())?;
        let codec = self.video.coder.1;
        let count = output::count_slices(codec, &unit);
        let identity = FrameIdentity {
            kind: StreamKind::Refine,
            stream_id: self.video.stream_id,
            frame: frame.number,
            capture_time_ns: frame.capture_time_ns,
            access_unit,
            recovery: unit.idr,
            slices: count.slices,
            slice_bytes: count.bytes,
            slice_checksum: count.checksum,
        };
        self.since_idr = if unit.idr { 0 } else { self.since_idr + 1 };
        let data = output::assemble(codec, &unit, &identity, &extension, self.byte_stream);
        Ok((data, unit.idr))
    }

    /// Removes from the canvas what the next picture must not show.
    fn clean_canvas(&mut self, idr: bool) {
        let full_range = self.video.full_range();
        self.encoder.still().fill(1);
        for rect in self.painted.drain(..) {
            self.canvas.fill_black(&rect, full_range);
            changed(self.encoder.still(), self.mb_width, &rect);
        }
        // Contents outside the regions cost bits in an IDR picture, and are useless.
        if self.video.hold && idr {
            self.canvas.fill_black(&EVERYTHING, full_range);
        }
    }

    /// Quantizer outside the requested regions: where qp-max is below the wanted one, the coarsest allowed that differs
    /// by an even number.
    /// even number.
    fn outside_qp(&self, refined: Option<(&Raw, &Request)>) -> u8 {
        let (_, highest) = self.video.settings.live().limits;
        let wanted = refined.map_or(MAX_QP, |(_, request)| request.outside_qp);
        if wanted <= highest {
            wanted
        } else {
            highest - (wanted - highest) % 2
        }
    }

    /// Paints the requested regions.
    fn paint(&mut self, raw: &Raw, request: &Request) {
        for (rect, qp) in &request.regions {
            self.canvas.copy_rect(&raw.picture, rect);
            self.map.add(*rect, *qp);
            changed(self.encoder.still(), self.mb_width, rect);
            if !self.video.hold {
                self.painted.push(*rect);
            }
        }
    }
}

/// Clears the marks "as before" of the macroblocks of a rectangle on their grid.
fn changed(still: &mut [u8], mb_width: usize, rect: &Rect) {
    let macroblocks = |pixels: u32| (pixels / MACROBLOCK) as usize;
    let (left, right) = (macroblocks(rect.x), macroblocks(rect.x + rect.width).min(mb_width));
    let rows = still.chunks_mut(mb_width).skip(macroblocks(rect.y));
    for row in rows.take(macroblocks(rect.height)) {
        if let Some(row) = row.get_mut(left..right) {
            row.fill(0);
        }
    }
}

const EVERYTHING: Rect = Rect {
    x: 0,
    y: 0,
    width: u32::MAX,
    height: u32::MAX,
};
