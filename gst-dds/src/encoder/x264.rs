// SPDX-License-Identifier: MPL-2.0

//! libx264 as a [`RegionEncoder`].
//!
//! Facts of libx264 that this file and its submodules rely on:
//!
//! - Offsets per macroblock (`x264_image_properties_t.quant_offsets`) are added to adaptive quantization. x264 switches
//!   that off, and silently ignores offsets, in CQP, with `aq-mode=0` and with `aq-strength=0`. So constant quantizers
//!   are made of CRF with `qcomp=1`, `ipratio=1` and adaptive quantization too weak to round to a step.
//! - In CRF the quantizer of an I picture is the average of the P pictures before it, also as the bound up to which a
//!   VBV may raise it. So the rate factor stays where it is when the base quantizer falls, and the difference goes
//!   into the offsets (see `reference_for`).
//! - A VBV cannot be switched on in an open encoder, only changed. However wide, it also keeps frames within the
//!   compression ratio of the level (table A-1, MinCR) by raising quantizers row by row; a `crf-max` next to the rate
//!   factor prevents that, except for one step in an I picture.
//! - The output picture has the planes of the reconstructed one, which stay until the next picture that refers to it is
//!   coded. A P picture of these samples, without weights, has nothing to code: all of it is skipped, at any quantizer. A
//!   macroblock marked as constant (`X264_MBINFO_CONSTANT`) is skipped without a look at its samples, but only where its
//!   quantizer is no finer than before.
//! - With adaptive quantization and `subme` below 10, a macroblock whose quantizer differs by one from the one before
//!   is coded with the quantizer of that one. From 10 on, quantizers are chosen by rate-distortion and are no longer
//!   the requested ones.

#![allow(unsafe_code)]

mod log;
mod params;
mod units;

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;
use std::ptr;

use x264_sys as sys;

use crate::vbv::Vbv;

use super::sps::{Timing, rewrite};
use super::{
    AccessUnit, Codec, Config, EncodeError, FieldOrder, Fields, FrameControls, Log, Nal, OpenError, ParameterSets,
    Picture, PixelFormat, Plane, RateControl, Rates, RegionEncoder,
};
use log::LogSink;
use params::{Params, clamp_int, colour_space, set_rate_factor, set_vbv, verify};
use units::{NAL_PPS, NAL_SPS, is_version_sei, prefix_length};

/// Most that the base quantizer may be below the rate factor under a narrow VBV.
const MAX_SHIFT: u8 = 10;
/// `X264_BUILD` of the library this was compiled against.
pub const BUILD: u32 = sys::X264_BUILD;

/// What a picture is coded as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What libx264 chooses.
    Any,
    /// An IDR picture.
    Idr,
    /// Skipped macroblocks.
    Repetition,
}

/// The encoder.
pub struct X264 {
    handle: ptr::NonNull<sys::x264_t>,
    params: Box<sys::x264_param_t>,
    /// Receiver of log lines; libx264 holds a pointer to it.
    log: Box<LogSink>,
    format: PixelFormat,
    width: usize,
    height: usize,
    exact: bool,
    vbv: Vbv,
    /// `pic_struct` of the next pictures of interlaced video.
    picture_structure: c_int,
    /// Rate factor of exact mode; offsets are relative to it.
    reference: u8,
    byte_stream: bool,
    offsets: Vec<f32>,
    /// Flags of macroblocks equal to those of the picture before; empty where there are none to set.
    still: Vec<u8>,
    /// Pictures may be repeated; the flags are ours then.
    repeats: bool,
    /// The picture that was coded last as decoders show it, in libx264's memory: valid until the next one is coded.
    shown: Option<sys::x264_image_t>,
    nals: Vec<Nal>,
    /// What the stream declares of its rate, and the buffer in which access units with parameter sets are rewritten for
    /// it.
    timing: Timing,
    rewritten: Vec<u8>,
    sps: Vec<u8>,
    pps: Vec<u8>,
    name: String,
}

// SAFETY: an x264_t may be used from any thread as long as calls do not overlap, which `&mut self` ensures; the log
// sink is Send + Sync. The raw pointers in the parameters are libx264's own.
unsafe impl Send for X264 {}

impl Drop for X264 {
    fn drop(&mut self) {
        // SAFETY: the handle came from x264_encoder_open and is closed once; the log sink outlives this call.
        unsafe { sys::x264_encoder_close(self.handle.as_ptr()) }
    }
}

impl RegionEncoder for X264 {
    fn open(config: &Config, log: Log) -> Result<Self, OpenError> {
        let log = Box::new(LogSink::new(log, config));
        let mut params = Params::of(config, &log)?;
        // SAFETY: the parameters are initialised; the log sink they point to is owned by the encoder made below, and
        // outlives it.
        let handle = unsafe { sys::x264_encoder_open(params.get_mut()) };
        let handle = ptr::NonNull::new(handle).ok_or_else(|| {
            OpenError::Library(format!(
                "libx264 does not open with these parameters{}",
                log.take_errors()
            ))
        })?;
        let mut read_back = Box::new(MaybeUninit::<sys::x264_param_t>::uninit());
        // SAFETY: the call copies the whole structure.
        let read_back = unsafe {
            sys::x264_encoder_parameters(handle.as_ptr(), read_back.as_mut_ptr());
            read_back.assume_init()
        };
        // x264 reads two rows of macroblocks at a time from interlaced pictures.
        let rows = config.height.div_ceil(16).next_multiple_of(2) as usize;
        let mut encoder = Self {
            handle,
            log,
            format: config.format,
            width: config.width as usize,
            height: config.height as usize,
            exact: config.is_exact(),
            vbv: config.vbv,
            picture_structure: sys::pic_struct_e_PIC_STRUCT_AUTO as c_int,
            reference: match config.rate {
                RateControl::Quantizers { base_qp } => base_qp,
                _ => 0,
            },
            byte_stream: config.byte_stream,
            offsets: vec![0.0; rows * config.width.div_ceil(16) as usize],
            still: if read_back.analyse.b_mb_info != 0 {
                vec![0; rows * config.width.div_ceil(16) as usize]
            } else {
                Vec::new()
            },
            repeats: config.repeats,
            shown: None,
            params: read_back,
            nals: Vec::with_capacity(16),
            timing: match (config.frame_rate, config.leaves_out) {
                (None, _) => Timing::Unknown,
                (Some(_), true) => Timing::Nominal,
                (Some(_), false) => Timing::Fixed,
            },
            rewritten: Vec::new(),
            sps: Vec::new(),
            pps: Vec::new(),
            name: format!(
                "x264 {}",
                CStr::from_bytes_with_nul(sys::X264_POINTVER).map_or("", |s| s.to_str().unwrap_or(""))
            ),
        };
        verify(&encoder.params, config, encoder.delay())?;
        encoder.read_headers()?;
        Ok(encoder)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> Option<u32> {
        Some(BUILD)
    }

    fn codec(&self) -> Codec {
        Codec::H264
    }

    fn parameter_sets(&self) -> ParameterSets<'_> {
        ParameterSets {
            vps: &[],
            sps: &self.sps,
            pps: &self.pps,
        }
    }

    fn key_int_max(&self) -> u64 {
        self.params.i_keyint_max.max(1) as u64
    }

    fn delay(&self) -> usize {
        // SAFETY: the handle is open.
        unsafe { sys::x264_encoder_maximum_delayed_frames(self.handle.as_ptr()) }.max(0) as usize
    }

    fn encode(&mut self, picture: &Picture<'_>, controls: &FrameControls<'_>) -> Result<AccessUnit<'_>, EncodeError> {
        let kind = if controls.force_idr { Kind::Idr } else { Kind::Any };
        self.code(picture, (controls.base_qp, controls.offsets), kind)
    }

    fn repeat(&mut self, picture: &Picture<'_>, base_qp: u8) -> Result<AccessUnit<'_>, EncodeError> {
        if self.shown.is_none() {
            return Err(EncodeError::Library("there is no picture to repeat".into()));
        }
        self.code(picture, (base_qp, None), Kind::Repetition)
    }

    fn set_fields(&mut self, fields: Fields) -> Result<(), EncodeError> {
        let top_first = fields.order == FieldOrder::TopFirst;
        // The order of fields in time counts in the picture order too.
        let before = std::mem::replace(&mut self.params.b_tff, c_int::from(top_first));
        if before != self.params.b_tff
            && let Err(error) = self.apply()
        {
            self.params.b_tff = before;
            return Err(error);
        }
        self.picture_structure = match (fields.repeat_first, fields.interlaced) {
            (true, _) if top_first => sys::pic_struct_e_PIC_STRUCT_TOP_BOTTOM_TOP,
            (true, _) => sys::pic_struct_e_PIC_STRUCT_BOTTOM_TOP_BOTTOM,
            (false, true) if top_first => sys::pic_struct_e_PIC_STRUCT_TOP_BOTTOM,
            (false, true) => sys::pic_struct_e_PIC_STRUCT_BOTTOM_TOP,
            (false, false) => sys::pic_struct_e_PIC_STRUCT_PROGRESSIVE,
        } as c_int;
        Ok(())
    }

    fn reconfigure(&mut self, rates: &Rates) -> Result<(), EncodeError> {
        set_vbv(&mut self.params, rates.vbv);
        let rc = &mut self.params.rc;
        if let Some(kbps) = rates.kbps {
            rc.i_bitrate = clamp_int(kbps);
        }
        if let Some(quality) = rates.quality {
            rc.f_rf_constant = f32::from(quality);
        }
        if self.exact {
            set_rate_factor(&mut self.params, self.reference, rates.vbv);
        }
        self.vbv = rates.vbv;
        self.apply()
    }

    fn still(&mut self) -> &mut [u8] {
        &mut self.still
    }
}

impl X264 {
    /// Codes a picture as one of libx264's types.
    fn code(
        &mut self,
        picture: &Picture<'_>,
        (base_qp, offsets): (u8, Option<&[i8]>),
        kind: Kind,
    ) -> Result<AccessUnit<'_>, EncodeError> {
        let shift = self.follow(base_qp)?;
        let mut input = self.input(picture, kind)?;
        let repeats = kind == Kind::Repetition;
        if let Some(shown) = self.shown.filter(|_| repeats) {
            input.img = shown;
        }
        if offsets.is_some() || shift != 0.0 {
            self.spread(offsets.unwrap_or_default(), shift);
            input.prop.quant_offsets = self.offsets.as_mut_ptr();
        }
        if self.repeats {
            self.still
                .fill(if repeats { sys::X264_MBINFO_CONSTANT as u8 } else { 0 });
        }
        if !self.still.is_empty() {
            input.prop.mb_info = self.still.as_mut_ptr();
        }

        let mut output = MaybeUninit::<sys::x264_picture_t>::uninit();
        let mut nals: *mut sys::x264_nal_t = ptr::null_mut();
        let mut count: c_int = 0;
        // SAFETY: the input's planes were checked against size, format and stride and are only read, or they are
        // libx264's own of the picture before, which this one refers to; the offsets and flags cover all macroblocks
        // and are read within the call, which returns without keeping any (no delay).
        let (size, output) = unsafe {
            sys::x264_picture_init(output.as_mut_ptr());
            let size = sys::x264_encoder_encode(
                self.handle.as_ptr(),
                &mut nals,
                &mut count,
                &mut input,
                output.as_mut_ptr(),
            );
            (size, output.assume_init())
        };
        self.shown = None;
        if size < 0 {
            return Err(EncodeError::Library(format!(
                "libx264 says {size}{}",
                self.log.take_errors()
            )));
        }
        if size == 0 || count < 1 {
            return Err(EncodeError::Delayed);
        }
        self.shown = self.repeats.then_some(output.img);
        // SAFETY: libx264 returned `count` NAL units whose payloads are contiguous, `size` bytes in all, valid until
        // the next call, which the borrow of `self` prevents.
        let (nals, data) = unsafe {
            let nals = std::slice::from_raw_parts(nals, count as usize);
            (
                nals,
                std::slice::from_raw_parts(nals[0].p_payload.cast_const(), size as usize),
            )
        };
        self.list(nals, data);
        let sets = || self.nals.iter().any(|nal| c_int::from(nal.kind) == NAL_SPS);
        let data = if self.timing != Timing::Fixed && sets() {
            rewrite(data, &mut self.nals, self.timing, &mut self.rewritten);
            &self.rewritten
        } else {
            data
        };
        Ok(AccessUnit {
            data,
            nals: &self.nals,
            idr: output.i_type == sys::X264_TYPE_IDR as c_int,
            keyframe: output.b_keyframe != 0,
        })
    }

    /// The rate factor for a picture of this base quantizer. It only rises while the VBV is open: x264's average over
    /// the past is then never above it. One step above the base is left out, because the first macroblock would take
    /// the slice's quantizer. A narrow VBV needs room to raise quantizers, so there the rate factor follows a base that
    /// has fallen far.
    fn reference_for(&self, base_qp: u8) -> u8 {
        let far = self.vbv != Vbv::OPEN && self.reference.saturating_sub(base_qp) > MAX_SHIFT;
        let reference = if far { base_qp } else { self.reference.max(base_qp) };
        match reference - base_qp {
            1 if c_int::from(base_qp) + 2 <= self.params.rc.i_qp_max.min(51) => base_qp + 2,
            1 => base_qp,
            _ => reference,
        }
    }

    /// Sets the base quantizer of the next picture in exact mode. Returns the offset that every macroblock needs on top
    /// of libx264's own quantizer.
    fn follow(&mut self, base_qp: u8) -> Result<f32, EncodeError> {
        if !self.exact {
            return Ok(0.0);
        }
        let reference = self.reference_for(base_qp);
        if reference != self.reference {
            self.reference = reference;
            set_rate_factor(&mut self.params, reference, self.vbv);
            self.apply()?;
        }
        Ok(f32::from(base_qp) - f32::from(reference))
    }

    /// A picture as libx264 takes it, with pointers to the planes, which hold all that it reads.
    fn input(&self, picture: &Picture<'_>, kind: Kind) -> Result<sys::x264_picture_t, EncodeError> {
        let mut input = MaybeUninit::<sys::x264_picture_t>::uninit();
        // SAFETY: the call initialises the whole structure.
        let mut input = unsafe {
            sys::x264_picture_init(input.as_mut_ptr());
            input.assume_init()
        };
        input.i_pts = picture.pts;
        input.i_pic_struct = self.picture_structure;
        input.i_type = match kind {
            Kind::Any => sys::X264_TYPE_AUTO,
            Kind::Idr => sys::X264_TYPE_IDR,
            Kind::Repetition => sys::X264_TYPE_P,
        } as c_int;
        if self.exact && self.vbv == Vbv::OPEN {
            // x264's own scale begins below 0 where samples have more than 8 bits.
            input.i_qpplus1 = c_int::from(self.reference) + 6 * (c_int::from(self.format.bit_depth()) - 8) + 1;
        }
        input.img.i_csp = colour_space(self.format);
        input.img.i_plane = self.format.planes() as c_int;
        for (i, plane) in picture.planes.iter().take(self.format.planes()).enumerate() {
            let (row, rows) = self.format.plane_size(i, self.width, self.height);
            let stride = c_int::try_from(plane.stride).map_err(|_| EncodeError::ShortPlane(i))?;
            if plane.stride < row || plane.data.len() < plane.stride * (rows - 1) + row {
                return Err(EncodeError::ShortPlane(i));
            }
            if self.format.bit_depth() > 8 && exceeds_ten_bits(plane, row, rows) {
                return Err(EncodeError::SampleOutOfRange(i));
            }
            input.img.i_stride[i] = stride;
            input.img.plane[i] = plane.data.as_ptr().cast_mut();
        }
        Ok(input)
    }

    /// The offsets as libx264 takes them.
    fn spread(&mut self, offsets: &[i8], shift: f32) {
        let known = offsets.len().min(self.offsets.len());
        for (to, &from) in self.offsets.iter_mut().zip(offsets) {
            *to = f32::from(from) + shift;
        }
        self.offsets[known..].fill(shift);
    }

    /// Records the positions of the NAL units in `data`, without libx264's version message.
    fn list(&mut self, nals: &[sys::x264_nal_t], data: &[u8]) {
        self.nals.clear();
        let mut start = 0;
        for nal in nals {
            let end = (start + nal.i_payload.max(0) as usize).min(data.len());
            let body = (start + prefix_length(self.byte_stream, nal.b_long_startcode != 0)).min(end);
            if !is_version_sei(nal.i_type, &data[body..end]) {
                self.nals.push(Nal {
                    kind: nal.i_type as u8,
                    start,
                    body,
                    end,
                });
            }
            start = end;
        }
    }

    fn apply(&mut self) -> Result<(), EncodeError> {
        // SAFETY: the parameters are those read back from this encoder, with a few numbers changed.
        match unsafe { sys::x264_encoder_reconfig(self.handle.as_ptr(), &mut *self.params) } {
            0.. => Ok(()),
            code => Err(EncodeError::Library(format!(
                "libx264 takes no change and says {code}{}",
                self.log.take_errors()
            ))),
        }
    }

    fn read_headers(&mut self) -> Result<(), OpenError> {
        let mut nals: *mut sys::x264_nal_t = ptr::null_mut();
        let mut count: c_int = 0;
        // SAFETY: the handle is open.
        let size = unsafe { sys::x264_encoder_headers(self.handle.as_ptr(), &mut nals, &mut count) };
        if size < 0 || count < 1 {
            return Err(OpenError::Library(format!(
                "libx264 gives no parameter sets (code {size}){}",
                self.log.take_errors()
            )));
        }
        // SAFETY: libx264 returned `count` NAL units, valid until the next call.
        for nal in unsafe { std::slice::from_raw_parts(nals, count as usize) } {
            // SAFETY: the payload has this many bytes.
            let payload =
                unsafe { std::slice::from_raw_parts(nal.p_payload.cast_const(), nal.i_payload.max(0) as usize) };
            let prefix = prefix_length(self.byte_stream, nal.b_long_startcode != 0);
            let body = payload.get(prefix..).unwrap_or_default();
            match nal.i_type {
                NAL_SPS => {
                    self.sps = self.timing.declared(body).unwrap_or_else(|| body.to_vec());
                }
                NAL_PPS => self.pps = body.to_vec(),
                _ => {}
            }
        }
        if self.sps.len() < 4 || self.pps.is_empty() {
            return Err(OpenError::Library("libx264 gives no parameter sets".into()));
        }
        Ok(())
    }
}

/// Whether a sample needs more than 10 bits. x264 assumes none does and aborts the process on larger ones.
fn exceeds_ten_bits(plane: &Plane<'_>, row: usize, rows: usize) -> bool {
    plane.data.chunks(plane.stride).take(rows).any(|line| {
        let line = &line[..row.min(line.len())];
        line.chunks_exact(2).fold(0, |all, sample| all | sample[1]) > 3
    })
}

#[cfg(test)]
mod tests;
