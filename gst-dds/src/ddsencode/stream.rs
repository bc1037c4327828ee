// SPDX-License-Identifier: MPL-2.0

//! The first stream, or the only one: a planned picture in, an access unit with its identity out.

#![forbid(unsafe_code)]

use dds_protocol::extension::Extension;
use dds_protocol::identity::{FrameIdentity, StreamKind};
use gst_video::prelude::*;

use crate::camera::FramePlan;
use crate::cuda;
use crate::encoder::{AccessUnit, Codec, FrameControls, Picture, PixelFormat, Plane, Rates, RegionEncoder};
use crate::vbv::Vbv;

use super::first_pass::FirstPass;
use super::log::CAT;
use super::open::Chosen;
use super::output;
use super::rates::rates;
use super::settings::Live;
use super::stats::ElementStats;

/// Error for a picture with negative strides.
const UPSIDE_DOWN: &str = "The picture is upside down";

/// An encoder and the counts since it was opened.
pub(super) struct Stream {
    pub encoder: Box<dyn RegionEncoder>,
    /// The chosen encoder, and those refused.
    pub chosen: Chosen,
    pub format: PixelFormat,
    pub info: gst_video::VideoInfo,
    pub byte_stream: bool,
    pub stream_id: u32,
    pub kind: StreamKind,
    pub rates: Rates,
    /// The VBV that was planned last.
    pub cap: Vbv,
    /// Base quantizer of the picture coded last.
    pub base_qp: u8,
    pub next_pts: i64,
    pub next_access_unit: u32,
    pub first_pass: FirstPass,
    /// Pictures are in the memory of a GPU.
    pub on_gpu: bool,
    /// The CUDA context, where the encoder reads them there.
    pub cuda: Option<cuda::Context>,
}

/// An input picture where the encoder can read it.
pub(super) enum InputPicture<'a> {
    /// On the GPU that codes it.
    Gpu(cuda::Mapped<'a>),
    /// In system memory.
    System(gst_video::VideoFrameRef<&'a gst::BufferRef>),
}

impl InputPicture<'_> {
    /// The planes of a picture in system memory.
    pub fn planes(&self, format: PixelFormat) -> Result<[Plane<'_>; 3], String> {
        let mut planes = [Plane::default(); 3];
        if let Self::System(picture) = self {
            for (i, plane) in planes.iter_mut().enumerate().take(format.planes()) {
                let stride = usize::try_from(picture.plane_stride()[i]).map_err(|_| UPSIDE_DOWN)?;
                let data = picture.plane_data(i as u32).map_err(|_| "The picture lacks a plane")?;
                *plane = Plane { data, stride };
            }
        }
        Ok(planes)
    }
}

/// Number and capture time for the identity of a picture.
#[derive(Clone, Copy)]
pub(super) struct Name {
    pub frame: u64,
    pub capture_time_ns: u64,
}

/// What the identity of an access unit says of the stream.
#[derive(Clone, Copy)]
struct Header {
    codec: Codec,
    kind: StreamKind,
    stream_id: u32,
    access_unit: u32,
    byte_stream: bool,
}

impl Header {
    /// Inserts the identity.
    fn on(self, unit: &AccessUnit<'_>, name: Name, extension: &Extension) -> Unit {
        let count = output::count_slices(self.codec, unit);
        let identity = FrameIdentity {
            kind: self.kind,
            stream_id: self.stream_id,
            frame: name.frame,
            capture_time_ns: name.capture_time_ns,
            access_unit: self.access_unit,
            // The start of a periodic refresh is no such point: a decoder is not clean before the refresh has passed.
            recovery: unit.idr,
            slices: count.slices,
            slice_bytes: count.bytes,
            slice_checksum: count.checksum,
        };
        Unit {
            data: output::assemble(self.codec, unit, &identity, extension, self.byte_stream),
            idr: unit.idr,
            keyframe: unit.keyframe,
        }
    }
}

/// A coded picture.
pub(super) struct Unit {
    pub data: Vec<u8>,
    pub idr: bool,
    pub keyframe: bool,
}

impl Stream {
    /// Maps a picture for reading, on the GPU where the encoder reads it there. `obj` is used for logging only.
    pub fn read<'a>(
        &self,
        obj: &gst::Element,
        buffer: &'a gst::BufferRef,
        stats: &mut ElementStats,
    ) -> Result<InputPicture<'a>, String> {
        if let Some(mapped) = self.cuda.as_ref().and_then(|context| context.map(buffer, &self.info)) {
            return Ok(InputPicture::Gpu(mapped));
        }
        let picture = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &self.info)
            .map_err(|_| "The picture cannot be read")?;
        if self.on_gpu {
            if stats.frames_downloaded == 0 {
                gst::warning!(
                    CAT,
                    obj = obj,
                    "Pictures on the GPU are read through system memory: {}",
                    self.detour()
                );
            }
            stats.frames_downloaded += 1;
        }
        Ok(InputPicture::System(picture))
    }

    /// Why pictures on a GPU are not read there.
    fn detour(&self) -> &'static str {
        match (&self.cuda, self.kind) {
            (Some(_), _) => "they lie in another CUDA context than that of the pipeline",
            (None, StreamKind::Single) => "the encoder does not read them elsewhere",
            (None, _) => "two passes keep and scale them there",
        }
    }

    /// Sets the rates of the plan.
    pub fn set_rates(
        &mut self,
        obj: &gst::Element,
        live: &Live,
        plan: &FramePlan<'_>,
        stats: &mut ElementStats,
    ) -> bool {
        if let Some(vbv) = plan.vbv {
            self.cap = vbv;
        }
        let wanted = rates(live, self.cap, plan.interval);
        if wanted == self.rates {
            return false;
        }
        gst::debug!(CAT, obj = obj, "{wanted:?}");
        if let Err(error) = self.encoder.reconfigure(&wanted) {
            gst::warning!(CAT, obj = obj, "The encoder does not take new rates: {error}");
            stats.reconfigure_failed += 1;
        }
        self.rates = wanted;
        true
    }

    /// Codes a picture of skipped macroblocks, which shows the one before again, and inserts its identity. `planes`: of
    /// the picture that it stands for.
    pub fn repeat(&mut self, planes: [Plane<'_>; 3], name: Name) -> Result<Unit, String> {
        let (pts, header) = (self.next_pts, self.header());
        self.next_pts += 1;
        let base_qp = self.base_qp;
        let unit = self
            .encoder
            .repeat(&Picture { planes, pts }, base_qp)
            .map_err(|e| e.to_string())?;
        let extension = Extension {
            repeated: true,
            ..Extension::default()
        };
        let unit = header.on(&unit, name, &extension);
        self.next_access_unit = self.next_access_unit.wrapping_add(1);
        Ok(unit)
    }

    fn header(&self) -> Header {
        Header {
            codec: self.encoder.codec(),
            kind: self.kind,
            stream_id: self.stream_id,
            access_unit: self.next_access_unit,
            byte_stream: self.byte_stream,
        }
    }

    /// Codes a picture as planned and inserts its identity.
    pub fn code(
        &mut self,
        source: &InputPicture<'_>,
        planes: [Plane<'_>; 3],
        plan: &FramePlan<'_>,
        name: Name,
        mut extension: Extension,
    ) -> Result<Unit, String> {
        let controls = FrameControls {
            base_qp: plan.base_qp,
            offsets: plan.offsets,
            force_idr: plan.key_frame,
        };
        let (pts, header) = (self.next_pts, self.header());
        self.next_pts += 1;
        self.base_qp = plan.base_qp;
        let unit = match source {
            InputPicture::Gpu(mapped) => {
                let picture = mapped.picture(pts).ok_or(UPSIDE_DOWN)?;
                self.encoder.encode_gpu(&picture, &controls)
            }
            InputPicture::System(_) => {
                let planes = self.first_pass.scale(planes)?;
                self.encoder.encode(&Picture { planes, pts }, &controls)
            }
        }
        .map_err(|e| e.to_string())?;
        extension.in_force = plan.in_force.filter(|_| plan.tells || unit.idr);
        if unit.idr && self.kind != StreamKind::Single {
            extension.full_size = self.first_pass.full_size();
        }
        let unit = header.on(&unit, name, &extension);
        self.next_access_unit = self.next_access_unit.wrapping_add(1);
        Ok(unit)
    }
}
