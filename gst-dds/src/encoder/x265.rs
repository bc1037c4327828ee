// SPDX-License-Identifier: MPL-2.0

//! libx265 as a [`RegionEncoder`].
//!
//! Facts of libx265 this file rests on:
//!
//! - Offsets (`x265_picture.quantOffsets`, one per 16 by 16 pixels) are added to adaptive quantization, and ignored
//!   without a word where that is off: in CQP, with `aq-mode=0` and with `aq-strength=0`. They have to be there for every
//!   picture: the library makes room for them with the first pictures only.
//! - A coding unit larger than a quantization group takes the average of the offsets in it. So exact quantizers need
//!   coding tree units of 16 pixels, or one offset for all of a larger one (see `X265::block`).
//! - `forceqp` sets the quantizer of a picture of whatever type, past the rate control, which would give an I picture the
//!   average of the P pictures before it.
//! - **Rates cannot be changed in an open encoder.** `x265_encoder_reconfig` says it has done so, but in 3.5 and
//!   later it gives the encoder another copy of the parameters than the rate control reads. So in exact mode the VBV is
//!   ours (see `vbv.rs`), and in the other modes a change opens the encoder anew, once a second at most, which begins
//!   with an IDR picture and the same parameter sets.
//! - The library takes the rate of its VBV for the stream's and declares a level for it: ours is written into the
//!   parameter sets instead.
//! - A picture comes out of the call that took it with no B-frames, no look-ahead, one frame thread and one slice.
//! - Log lines go to standard error; there is no callback. Errors alone are let through.

#![allow(unsafe_code)]

mod options;
mod vbv;

use std::ffi::{CStr, CString, c_int};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use dds_protocol::nal::{push_escaped, unescape};
use dds_x265_sys::{self as sys, call};

use options::{
    INEXACT, LEAVE, MOVED, Translation, canonical, culprit, describe, refuse_impossible, split_tune, translate,
};
use vbv::Verifier;

use crate::vbv::Vbv;

use super::level_h265::{H265Level, is_h265_level, smallest_h265_level};
use super::{
    AccessUnit, Codec, Config, EncodeError, FrameControls, Log, LogLevel, Nal, NalKind, OpenError, Origin,
    ParameterSets, Picture, PixelFormat, RateControl, Rates, RegionEncoder,
};

/// Adaptive quantization strength that keeps offsets alive and rounds to no step of its own.
const NEUTRAL_AQ_STRENGTH: f64 = 1e-3;
/// Rate and size of the widest VBV that the library counts with, in kbit.
const WIDEST: c_int = 2_000_000;
/// From this level on, coding tree units have 32 pixels at least (ISO/IEC 23008-2 A.4.1).
const LARGE_UNITS_FROM: u8 = 50;
/// Coarsest quantizer of a slice of 8-bit video.
const MAX_QP: u16 = 51;
/// `aspect_ratio_idc` of ratios that are written out.
const EXTENDED_SAR: c_int = 255;

/// The library's table of functions.
///
/// # Errors
/// Another release than the header that this was built with.
fn api() -> Result<&'static sys::x265_api, OpenError> {
    let mut error: c_int = 0;
    // SAFETY: the call takes numbers and a place for one; it returns null or a table that is never freed.
    let api = unsafe { sys::x265_api_query(8, sys::X265_BUILD as c_int, &mut error).as_ref() };
    let same = |api: &&sys::x265_api| {
        api.api_major_version == sys::X265_MAJOR_VERSION as c_int
            && api.sizeof_param as usize == size_of::<sys::x265_param>()
            && api.sizeof_picture as usize == size_of::<sys::x265_picture>()
            && api.bit_depth == 8
    };
    let complete = |api: &&sys::x265_api| {
        api.param_alloc.is_some()
            && api.param_free.is_some()
            && api.param_parse.is_some()
            && api.param_default_preset.is_some()
            && api.picture_alloc.is_some()
            && api.picture_free.is_some()
            && api.picture_init.is_some()
            && api.encoder_open.is_some()
            && api.encoder_parameters.is_some()
            && api.encoder_headers.is_some()
            && api.encoder_encode.is_some()
            && api.encoder_close.is_some()
    };
    api.filter(same).filter(complete).ok_or_else(|| {
        OpenError::Library(format!(
            "The installed libx265 is not the release {} that this was built with, or lacks 8-bit coding (code {error})",
            sys::X265_BUILD
        ))
    })
}

/// An owned `x265_param`.
struct Params {
    api: &'static sys::x265_api,
    inner: ptr::NonNull<sys::x265_param>,
}

impl Params {
    fn alloc(api: &'static sys::x265_api) -> Result<Self, OpenError> {
        // SAFETY: no arguments; null is a failure.
        let inner = ptr::NonNull::new(unsafe { call!(api, param_alloc()) });
        let inner = inner.ok_or_else(|| OpenError::Library("libx265 has no memory left".into()))?;
        Ok(Self { api, inner })
    }

    fn new(api: &'static sys::x265_api, preset: Option<&str>, tune: Option<&str>) -> Result<Self, OpenError> {
        let c_string = |s: Option<&str>| {
            s.map(CString::new)
                .transpose()
                .map_err(|_| OpenError::Library("a preset name holds a zero byte".into()))
        };
        let params = Self::alloc(api)?;
        let (preset_text, tune_text) = (c_string(preset)?, c_string(tune)?);
        let pointer = |s: &Option<CString>| s.as_ref().map_or(ptr::null(), |s| s.as_ptr());
        // SAFETY: the structure is the library's own, the names are C strings or null, which means none.
        let result = unsafe {
            call!(
                api,
                param_default_preset(params.inner.as_ptr(), pointer(&preset_text), pointer(&tune_text))
            )
        };
        if result < 0 {
            return Err(OpenError::refused(
                "speed-preset or psy-tune",
                format!("libx265 does not know preset {preset:?} with tuning {tune:?}"),
                "Choose one that it has: animation, grain, psnr or ssim, and any preset",
            ));
        }
        Ok(params)
    }

    fn get(&self) -> &sys::x265_param {
        // SAFETY: allocated and initialised by the library, and owned.
        unsafe { self.inner.as_ref() }
    }

    fn get_mut(&mut self) -> &mut sys::x265_param {
        // SAFETY: allocated and initialised by the library, and owned.
        unsafe { self.inner.as_mut() }
    }

    fn parse(&mut self, who: &str, key: &str, value: Option<&str>) -> Result<(), OpenError> {
        let bad = |reason: &str| {
            Err(OpenError::refused(
                who,
                reason,
                "Correct or remove it (`x265 --fullhelp` lists options)",
            ))
        };
        let (Ok(key), Ok(value)) = (CString::new(key), value.map(CString::new).transpose()) else {
            return bad("holds a zero byte");
        };
        // SAFETY: both are C strings (value may be null: "true"); the structure is initialised. What the library
        // copies of the value is its own.
        let result = unsafe {
            call!(
                self.api,
                param_parse(
                    self.inner.as_ptr(),
                    key.as_ptr(),
                    value.as_ref().map_or(ptr::null(), |v| v.as_ptr())
                )
            )
        };
        match result {
            0 => Ok(()),
            sys::X265_PARAM_BAD_NAME => bad("libx265 has no such option"),
            _ => bad("libx265 does not take this value"),
        }
    }
}

impl Drop for Params {
    fn drop(&mut self) {
        // SAFETY: came from param_alloc, and is freed once.
        unsafe { call!(self.api, param_free(self.inner.as_ptr())) }
    }
}

/// An open encoder of the library.
struct Session {
    api: &'static sys::x265_api,
    handle: ptr::NonNull<sys::x265_encoder>,
    /// As read back after opening.
    params: Params,
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: came from encoder_open, and is closed once.
        unsafe { call!(self.api, encoder_close(self.handle.as_ptr())) }
    }
}

impl Session {
    /// Opens one, and gives the level to declare.
    fn open(api: &'static sys::x265_api, config: &Config) -> Result<(Self, H265Level), OpenError> {
        let exact = is_exact(config);
        let (params, level) = parameters(api, config, exact)?;
        verify(params.get(), config, exact)?;
        // The library fills tables of the whole process when it first opens.
        static OPENING: Mutex<()> = Mutex::new(());
        let opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the parameters are initialised; the library copies them.
        let handle = ptr::NonNull::new(unsafe { call!(api, encoder_open(params.inner.as_ptr())) });
        drop(opening);
        let handle = handle.ok_or_else(|| {
            OpenError::Library("libx265 does not open with these parameters (see standard error)".into())
        })?;
        let session = Self {
            api,
            handle,
            params: Params::alloc(api)?,
        };
        // SAFETY: both are the library's own structures; it copies one to the other.
        unsafe {
            call!(
                api,
                encoder_parameters(session.handle.as_ptr(), session.params.inner.as_ptr())
            )
        };
        verify(session.params.get(), config, exact)?;
        Ok((session, level))
    }
}

fn is_exact(config: &Config) -> bool {
    matches!(config.rate, RateControl::Quantizers { .. })
}

/// The encoder.
pub struct X265 {
    api: &'static sys::x265_api,
    session: Session,
    picture: ptr::NonNull<sys::x265_picture>,
    /// What the session was opened with.
    config: Config,
    /// Where another one has to be opened for new rates.
    wanted: Option<Config>,
    /// Pictures of this session, and how many it has at least.
    pictures: u64,
    least: u64,
    /// In exact mode.
    verifier: Verifier,
    width: usize,
    height: usize,
    exact: bool,
    /// Pixels along a block of one offset in exact mode: its macroblocks all take the finest one's. More than 16 only
    /// where the level asks for larger coding tree units, or the user.
    block: usize,
    /// Macroblocks across and down, as the caller counts them.
    macroblocks: (usize, usize),
    /// Offsets across, as the library counts them.
    columns: usize,
    offsets: Vec<f32>,
    nals: Vec<Nal>,
    /// Access units that do not leave as the library wrote them.
    rewritten: Vec<u8>,
    /// `profile_tier_level` of the parameter sets.
    profile_tier_level: [u8; 12],
    since_idr: u64,
    vps: Vec<u8>,
    sps: Vec<u8>,
    pps: Vec<u8>,
    name: String,
    log: Log,
}

// SAFETY: an x265_encoder may be used from any thread as long as calls do not overlap, which `&mut self` ensures. The
// raw pointers are owned.
unsafe impl Send for X265 {}

impl Drop for X265 {
    fn drop(&mut self) {
        // SAFETY: came from picture_alloc, and is given back once.
        unsafe { call!(self.api, picture_free(self.picture.as_ptr())) }
    }
}

impl RegionEncoder for X265 {
    fn open(config: &Config, log: Log) -> Result<Self, OpenError> {
        refuse_impossible(config)?;
        let api = api()?;
        let exact = is_exact(config);
        let (session, level) = Session::open(api, config)?;
        let block = if exact { session.params.get().maxCUSize } else { 16 } as usize;
        if block > 16 {
            log(
                LogLevel::Info,
                &format!("Quantizers are of blocks of {block} pixels: regions widen to them"),
            );
        }
        // SAFETY: no arguments; null is a failure.
        let picture = ptr::NonNull::new(unsafe { call!(api, picture_alloc()) });
        let picture = picture.ok_or_else(|| OpenError::Library("libx265 has no memory left".into()))?;
        let smallest = session.params.get().minCUSize.max(8) as usize;
        let (width, height) = (config.width as usize, config.height as usize);
        let columns = width.next_multiple_of(smallest).div_ceil(16);
        let rows = height.next_multiple_of(smallest).div_ceil(16);
        let (numerator, denominator) = config.assumed_rate();
        // SAFETY: a C string that lives as long as the library.
        let version = unsafe { CStr::from_ptr(api.version_str) }.to_string_lossy();
        let mut encoder = Self {
            api,
            session,
            picture,
            config: config.clone(),
            wanted: None,
            pictures: 0,
            least: u64::from(numerator.div_ceil(denominator.max(1))),
            verifier: Verifier::new(width, height, f64::from(numerator) / f64::from(denominator.max(1))),
            width,
            height,
            exact,
            block,
            macroblocks: (width.div_ceil(16), height.div_ceil(16)),
            columns,
            // A spare row and column: the library pads pictures.
            offsets: vec![0.0; (columns + 1) * (rows + 1)],
            nals: Vec::with_capacity(16),
            rewritten: Vec::new(),
            profile_tier_level: profile_tier_level(config, level),
            since_idr: 0,
            vps: Vec::new(),
            sps: Vec::new(),
            pps: Vec::new(),
            name: format!("x265 {version}"),
            log,
        };
        encoder.verifier.set(config.vbv);
        encoder.read_headers()?;
        Ok(encoder)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> Option<u32> {
        Some(sys::X265_BUILD)
    }

    fn codec(&self) -> Codec {
        Codec::H265
    }

    fn parameter_sets(&self) -> ParameterSets<'_> {
        ParameterSets {
            vps: &self.vps,
            sps: &self.sps,
            pps: &self.pps,
        }
    }

    fn key_int_max(&self) -> u64 {
        match self.session.params.get().keyframeMax {
            // Endless.
            ..0 => u64::MAX,
            frames => frames.max(1) as u64,
        }
    }

    fn delay(&self) -> usize {
        delay(self.session.params.get())
    }

    fn encode(&mut self, picture: &Picture<'_>, controls: &FrameControls<'_>) -> Result<AccessUnit<'_>, EncodeError> {
        self.check(picture)?;
        let forced = self.renew(controls.force_idr)? || controls.force_idr;
        let offsets = controls.offsets.unwrap_or_default();
        let (mut force, mut shift) = (0, 0.0);
        if self.exact {
            let idr = forced || self.pictures == 0 || self.since_idr + 1 >= self.key_int_max();
            let raise = self.verifier.raise(&picture.planes[0], idr, controls.base_qp, offsets);
            // Slices have no quantizer above 51, but regions with an offset may still be raised.
            let wanted = u16::from(controls.base_qp) + u16::from(raise);
            let base = wanted.min(MAX_QP);
            (force, shift) = (c_int::from(base) + 1, f32::from(wanted - base));
        }
        self.spread(offsets, shift);
        // SAFETY: both are the library's own structures; the call initialises the whole picture.
        let input = unsafe {
            call!(
                self.api,
                picture_init(self.session.params.inner.as_ptr(), self.picture.as_ptr())
            );
            self.picture.as_mut()
        };
        input.pts = picture.pts;
        input.sliceType = if forced {
            sys::X265_TYPE_IDR
        } else {
            sys::X265_TYPE_AUTO
        } as c_int;
        input.forceqp = force;
        input.bitDepth = 8;
        input.colorSpace = colour_space(self.config.format);
        input.quantOffsets = self.offsets.as_mut_ptr();
        for (i, plane) in picture.planes.iter().take(self.config.format.planes()).enumerate() {
            // The library knows the order Y U V only.
            let to = match (self.config.format, i) {
                (PixelFormat::Yv12, 1..) => 3 - i,
                _ => i,
            };
            input.stride[to] = c_int::try_from(plane.stride).map_err(|_| EncodeError::ShortPlane(i))?;
            input.planes[to] = plane.data.as_ptr().cast_mut().cast();
        }

        let mut nals: *mut sys::x265_nal = ptr::null_mut();
        let mut count: u32 = 0;
        // SAFETY: the planes were checked against size, format and stride; they and the offsets, which cover all
        // blocks, are only read, and copied within the call. Nothing is asked of the picture that comes out.
        let result = unsafe {
            call!(
                self.api,
                encoder_encode(
                    self.session.handle.as_ptr(),
                    &mut nals,
                    &mut count,
                    self.picture.as_ptr(),
                    ptr::null_mut()
                )
            )
        };
        if result < 0 {
            return Err(EncodeError::Library(format!("libx265 says {result}")));
        }
        if result == 0 || count < 1 || nals.is_null() {
            return Err(EncodeError::Delayed);
        }
        // SAFETY: the library returned `count` NAL units whose payloads lie one after the other, valid until the next
        // call, which the borrow of `self` keeps from happening.
        let (units, data) = unsafe {
            let units = std::slice::from_raw_parts(nals, count as usize);
            let size = units.iter().map(|unit| unit.sizeBytes as usize).sum();
            (units, std::slice::from_raw_parts(units[0].payload.cast_const(), size))
        };
        self.nals.clear();
        let (mut start, mut idr, mut parameters) = (0, false, false);
        for unit in units {
            let end = start + unit.sizeBytes as usize;
            let kind = unit.type_ as u8;
            idr |= Codec::H265.kind(kind) == NalKind::Slice { idr: true };
            parameters |= Codec::H265.kind(kind) == NalKind::Parameters;
            let body = start + prefix_length(&data[start..end], self.config.byte_stream);
            self.nals.push(Nal { kind, start, body, end });
            start = end;
        }
        let data = if parameters {
            self.rewritten.clear();
            rewrite(data, &mut self.nals, &self.profile_tier_level, &mut self.rewritten);
            &self.rewritten
        } else {
            data
        };
        self.pictures += 1;
        self.since_idr = if idr { 0 } else { self.since_idr + 1 };
        self.verifier.spend(data.len() as f64 * 8.0);
        Ok(AccessUnit {
            data,
            nals: &self.nals,
            idr,
            keyframe: idr,
        })
    }

    fn reconfigure(&mut self, rates: &Rates) -> Result<(), EncodeError> {
        if self.exact {
            self.verifier.set(rates.vbv);
            return Ok(());
        }
        let mut config = self.config.clone();
        config.vbv = rates.vbv;
        config.rate = match (rates.kbps, rates.quality) {
            (Some(kbps), _) => RateControl::Bitrate { kbps },
            (_, Some(quality)) => RateControl::Quality { quality },
            _ => config.rate,
        };
        let same = config.vbv == self.config.vbv && config.rate == self.config.rate;
        self.wanted = (!same).then_some(config);
        Ok(())
    }
}

impl X265 {
    /// Whether the planes hold a picture.
    fn check(&self, picture: &Picture<'_>) -> Result<(), EncodeError> {
        for (i, plane) in picture.planes.iter().take(self.config.format.planes()).enumerate() {
            let (row, rows) = self.config.format.plane_size(i, self.width, self.height);
            if plane.stride < row || plane.data.len() < plane.stride * (rows - 1) + row {
                return Err(EncodeError::ShortPlane(i));
            }
        }
        Ok(())
    }

    /// Opens the library anew where other rates are wanted: with a key frame that comes anyway, else once a second.
    /// Whether it has done so.
    fn renew(&mut self, key_frame: bool) -> Result<bool, EncodeError> {
        // Where a rate rises because pictures are further apart, a second has fewer of them.
        let rise = match (self.config.rate, self.wanted.as_ref().map(|config| config.rate)) {
            (RateControl::Bitrate { kbps: before }, Some(RateControl::Bitrate { kbps })) => {
                f64::from(kbps) / f64::from(before.max(1))
            }
            _ => 1.0,
        };
        if !key_frame && (self.pictures as f64) < self.least as f64 / rise.max(1.0) {
            return Ok(false);
        }
        let Some(config) = self.wanted.take() else {
            return Ok(false);
        };
        let (session, _) = Session::open(self.api, &config).map_err(|e| EncodeError::Library(e.to_string()))?;
        (self.log)(
            LogLevel::Info,
            &format!("Opened anew for {:?} and {:?}", config.rate, config.vbv),
        );
        self.session = session;
        self.config = config;
        self.pictures = 0;
        Ok(true)
    }

    /// The offsets as the library takes them.
    fn spread(&mut self, offsets: &[i8], shift: f32) {
        let (across, down) = self.macroblocks;
        let step = self.block.div_ceil(16).max(1);
        let at = |x: usize, y: usize| offsets.get(y * across + x).copied().unwrap_or(0);
        self.offsets.fill(shift);
        for top in (0..down).step_by(step) {
            for left in (0..across).step_by(step) {
                let (bottom, right) = ((top + step).min(down), (left + step).min(across));
                let finest = (top..bottom)
                    .flat_map(|y| (left..right).map(move |x| (x, y)))
                    .map(|(x, y)| at(x, y))
                    .min()
                    .unwrap_or(0);
                for y in top..bottom {
                    for x in left..right.min(self.columns) {
                        if let Some(offset) = self.offsets.get_mut(y * self.columns + x) {
                            *offset = f32::from(finest) + shift;
                        }
                    }
                }
            }
        }
    }

    fn read_headers(&mut self) -> Result<(), OpenError> {
        let mut nals: *mut sys::x265_nal = ptr::null_mut();
        let mut count: u32 = 0;
        // SAFETY: the handle is open.
        let size = unsafe {
            call!(
                self.api,
                encoder_headers(self.session.handle.as_ptr(), &mut nals, &mut count)
            )
        };
        let none = || OpenError::Library(format!("libx265 gives no parameter sets (code {size})"));
        if size < 0 || count < 1 || nals.is_null() {
            return Err(none());
        }
        // SAFETY: the library returned `count` NAL units, valid until the next call.
        for unit in unsafe { std::slice::from_raw_parts(nals, count as usize) } {
            // SAFETY: the payload has this many bytes.
            let payload = unsafe { std::slice::from_raw_parts(unit.payload.cast_const(), unit.sizeBytes as usize) };
            let body = &payload[prefix_length(payload, self.config.byte_stream)..];
            let kind = unit.type_ as u8;
            let set = declared(kind, body, &self.profile_tier_level).unwrap_or_else(|| body.to_vec());
            match kind {
                VPS => self.vps = set,
                SPS => self.sps = set,
                PPS => self.pps = set,
                _ => {}
            }
        }
        if self.vps.is_empty() || self.sps.is_empty() || self.pps.is_empty() {
            return Err(none());
        }
        Ok(())
    }
}

const VPS: u8 = 32;
const SPS: u8 = 33;
const PPS: u8 = 34;

/// Bytes of a NAL unit's start code or length.
fn prefix_length(unit: &[u8], byte_stream: bool) -> usize {
    let short = byte_stream && unit.starts_with(&[0, 0, 1]);
    if short { 3 } else { 4.min(unit.len()) }
}

/// A video or sequence parameter set with another `profile_tier_level`; `None` for any other NAL unit.
fn declared(kind: u8, nal: &[u8], profile_tier_level: &[u8; 12]) -> Option<Vec<u8>> {
    // Behind the header: 32 bits in one, 8 in the other (7.3.2.1, 7.3.2.2).
    let at = match kind {
        VPS => 6,
        SPS => 3,
        _ => return None,
    };
    let mut plain = unescape(nal);
    plain.get_mut(at..at + 12)?.copy_from_slice(profile_tier_level);
    let mut out = Vec::with_capacity(plain.len() + 8);
    push_escaped(&mut out, &plain);
    Some(out)
}

/// Copies a byte stream to `out`, its parameter sets with another `profile_tier_level`; `nals` then tells where the NAL
/// units lie there.
fn rewrite(data: &[u8], nals: &mut [Nal], profile_tier_level: &[u8; 12], out: &mut Vec<u8>) {
    for nal in nals {
        let (prefix, body) = (&data[nal.start..nal.body], &data[nal.body..nal.end]);
        nal.start = out.len();
        out.extend_from_slice(prefix);
        nal.body = out.len();
        match declared(nal.kind, body, profile_tier_level) {
            Some(set) => out.extend(set),
            None => out.extend_from_slice(body),
        }
        nal.end = out.len();
    }
}

/// `profile_tier_level` without sub-layers (ISO/IEC 23008-2 7.3.3) of progressive 8-bit video.
fn profile_tier_level(config: &Config, level: H265Level) -> [u8; 12] {
    let rich = config.format == PixelFormat::I444 || config.profile == Some("main-444");
    let tier = if level.high_tier { 0x20 } else { 0 };
    let mut out = [0; 12];
    if rich {
        // Range extensions, compatible with none but themselves; at most 12, 10 and 8 bits, 4:4:4, lower bit rate.
        out[..7].copy_from_slice(&[0x04 | tier, 0x08, 0, 0, 0, 0x9e, 0x08]);
    } else {
        // Main, which decoders of Main 10 read too; progressive, frames only.
        out[..6].copy_from_slice(&[0x01 | tier, 0x60, 0, 0, 0, 0x90]);
    }
    out[11] = level.idc * 3;
    out
}

/// The parameters to open with, and the level to declare.
fn parameters(api: &'static sys::x265_api, config: &Config, exact: bool) -> Result<(Params, H265Level), OpenError> {
    let (psy, zero_latency) = split_tune(config.tune.as_deref())?;
    let mut params = Params::new(api, config.preset.as_deref(), psy)?;
    let p = params.get_mut();
    describe_picture(p, config)?;
    p.logLevel = sys::X265_LOG_ERROR as c_int;
    p.bAnnexB = c_int::from(config.byte_stream);
    p.bRepeatHeaders = c_int::from(config.byte_stream);
    p.bEmitInfoSEI = 0;
    p.bOpenGOP = 0;
    p.bAllowNonConformance = 1;
    p.bEnablePsnr = 0;
    p.bEnableSsim = 0;
    p.rc.cuTree = 0;
    if zero_latency {
        p.bframes = 0;
        p.bFrameAdaptive = 0;
        p.bBPyramid = 0;
        p.lookaheadDepth = 0;
        p.lookaheadSlices = 0;
        p.scenecutThreshold = 0;
        p.frameNumThreads = 1;
    }
    if p.rc.aqMode == 0 || p.rc.aqStrength == 0.0 || exact {
        // Presets and tunings may switch it off; the user has to do it by name (and is refused).
        p.rc.aqMode = sys::X265_AQ_VARIANCE as c_int;
        p.rc.aqStrength = NEUTRAL_AQ_STRENGTH;
    }
    if exact {
        p.rc.qCompress = 1.0;
        p.rc.ipFactor = 1.0;
        p.bEnableRdRefine = 0;
        p.bOptCUDeltaQP = 0;
        p.maxCUSize = 16;
        if config.format == PixelFormat::I444 {
            // With it the library makes chroma coarser.
            p.psyRd = 0.0;
        }
    }
    p.keyframeMax = clamp_int(config.key_int_max());
    for option in &config.options {
        let who = describe(option);
        match option.origin {
            Origin::OptionString => params.parse(&who, &option.key, option.value.as_deref())?,
            Origin::Property(name) => match translate(name, option.value.as_deref().unwrap_or("1")) {
                Translation::AsIs => {}
                Translation::Refused(reason, cure) => return Err(OpenError::refused(who, reason, cure)),
                Translation::Options(options) => {
                    for (key, value) in options {
                        params.parse(&who, key, Some(&value))?;
                    }
                }
            },
        }
    }
    let p = params.get_mut();
    if config.intra_only {
        p.keyframeMax = 1;
    }
    match config.rate {
        RateControl::Quantizers { base_qp } => {
            p.rc.rateControlMode = sys::X265_RC_CRF as c_int;
            p.rc.rfConstant = base_qp.into();
        }
        RateControl::Quality { quality } => {
            p.rc.rateControlMode = sys::X265_RC_CRF as c_int;
            p.rc.rfConstant = quality.into();
        }
        RateControl::Bitrate { kbps } => {
            p.rc.rateControlMode = sys::X265_RC_ABR as c_int;
            p.rc.bitrate = clamp_int(kbps);
        }
    }
    let level = level(p, config)?;
    fit_units(p, config, exact, level);
    if !exact && config.vbv != Vbv::OPEN {
        p.rc.vbvMaxBitrate = clamp_int(config.vbv.max_kbps).clamp(1, WIDEST);
        p.rc.vbvBufferSize = clamp_int(config.vbv.buffer_kbit).clamp(1, WIDEST);
    }
    Ok((params, level))
}

/// Sizes of coding tree units, quantization groups and transforms that fit the picture, the level and one another.
fn fit_units(p: &mut sys::x265_param, config: &Config, exact: bool, level: H265Level) {
    let chosen = culprit(config, &["ctu"]).is_some();
    if exact && !chosen && level.idc >= LARGE_UNITS_FROM {
        p.maxCUSize = 32;
    }
    while p.maxCUSize > 16 && p.maxCUSize > config.width.min(config.height) {
        p.maxCUSize /= 2;
    }
    p.minCUSize = p.minCUSize.min(p.maxCUSize);
    p.maxTUSize = p.maxTUSize.min(p.maxCUSize);
    // No transform has less than 4 pixels.
    let depth = p.maxCUSize.ilog2().max(2) - 1;
    p.tuQTMaxInterDepth = p.tuQTMaxInterDepth.min(depth);
    p.tuQTMaxIntraDepth = p.tuQTMaxIntraDepth.min(depth);
    if exact {
        p.rc.qgSize = p.maxCUSize;
    } else if culprit(config, &["qg-size"]).is_none() {
        p.rc.qgSize = 16.max(p.minCUSize);
    }
}

/// The level that the stream declares: the one asked for, or the smallest that fits.
fn level(p: &sys::x265_param, config: &Config) -> Result<H265Level, OpenError> {
    let rate = config.highest_rate();
    let smallest = p.minCUSize.max(8);
    let (width, height) = (
        config.width.next_multiple_of(smallest),
        config.height.next_multiple_of(smallest),
    );
    let references = p.maxNumReferences.max(1) as u32;
    let fitting = |at_least| smallest_h265_level(width, height, rate, references, config.nominal_kbps, at_least);
    let Some(wanted) = config.level_idc else {
        return Ok(fitting(0));
    };
    let found = fitting(wanted);
    if !is_h265_level(wanted) || found.idc != wanted {
        let needed = fitting(0).idc;
        return Err(OpenError::refused(
            "level",
            format!(
                "this video needs level {}.{} of H.265 at least, and downstream asks for {}.{}",
                needed / 10,
                needed % 10,
                wanted / 10,
                wanted % 10
            ),
            "Allow a higher level in the caps behind the element, or send less video",
        ));
    }
    Ok(found)
}

fn describe_picture(p: &mut sys::x265_param, config: &Config) -> Result<(), OpenError> {
    let size = |v: u32| c_int::try_from(v).map_err(|_| OpenError::Library(format!("a picture {v} pixels long")));
    if config.width.min(config.height) < 16 {
        return Err(OpenError::refused(
            "caps",
            format!(
                "libx265 codes no picture of {} by {} pixels here",
                config.width, config.height
            ),
            "Send one of 16 by 16 pixels at least",
        ));
    }
    if config.format != PixelFormat::I444 && (config.width | config.height) & 1 != 0 {
        return Err(OpenError::refused(
            "caps",
            format!(
                "4:2:0 video of {} by {} pixels has half a chroma sample",
                config.width, config.height
            ),
            "Crop or scale the video to even sizes before the element",
        ));
    }
    p.sourceWidth = size(config.width)?;
    p.sourceHeight = size(config.height)?;
    p.internalCsp = colour_space(config.format);
    // Variable frame rates are coded at a nominal one, see the same place in x264.rs.
    let (numerator, denominator) = config.assumed_rate();
    (p.fpsNum, p.fpsDenom) = (numerator, denominator);
    p.bEmitVUITimingInfo = c_int::from(config.frame_rate.is_some());
    let vui = &mut p.vui;
    match config.pixel_aspect_ratio {
        (w, h) if w == h => vui.aspectRatioIdc = 1,
        (w, h) => {
            if w.max(h) > u32::from(u16::MAX) {
                return Err(OpenError::refused(
                    "caps",
                    format!("H.265 has no room for the pixel aspect ratio {w}/{h}"),
                    "Set one whose numbers are below 65536",
                ));
            }
            vui.aspectRatioIdc = EXTENDED_SAR;
            (vui.sarWidth, vui.sarHeight) = (clamp_int(w), clamp_int(h));
        }
    }
    if let Some(colour) = config.colour {
        vui.bEnableVideoSignalTypePresentFlag = 1;
        vui.bEnableVideoFullRangeFlag = colour.full_range.into();
        vui.bEnableColorDescriptionPresentFlag = 1;
        vui.colorPrimaries = colour.primaries.into();
        vui.transferCharacteristics = colour.transfer.into();
        vui.matrixCoeffs = colour.matrix.into();
        if config.format != PixelFormat::I444 {
            vui.bEnableChromaLocInfoPresentFlag = 1;
            vui.chromaSampleLocTypeTopField = colour.chroma_location.into();
            vui.chromaSampleLocTypeBottomField = colour.chroma_location.into();
        }
    }
    Ok(())
}

/// Pictures that wait inside, at least.
fn delay(p: &sys::x265_param) -> usize {
    let threads = (p.frameNumThreads != 1 || p.maxSlices > 1) as c_int;
    (p.bframes.max(0) + p.lookaheadDepth.max(0) + threads) as usize
}

/// Refuses to go on where the encoder would delay pictures, ignore offsets or move quantizers.
fn verify(p: &sys::x265_param, config: &Config, exact: bool) -> Result<(), OpenError> {
    let who = |keys: &[&str], otherwise: &str| culprit(config, keys).map_or(otherwise.to_string(), describe);
    let delay = delay(p);
    if delay != 0 {
        let (option, cure) = if p.bframes > 0 {
            (who(&["bframes"], "tune"), "Set bframes=0, or tune=zerolatency")
        } else if p.lookaheadDepth > 0 {
            (
                who(&["rc-lookahead"], "tune"),
                "Set rc-lookahead=0, or tune=zerolatency",
            )
        } else if p.maxSlices > 1 {
            (
                who(&["slices"], "slices"),
                "Remove it; threads share a picture without slices",
            )
        } else {
            (
                who(&["frame-threads"], "tune"),
                "Set frame-threads=1, or tune=zerolatency",
            )
        };
        return Err(OpenError::refused(
            option,
            format!("it would delay video by {delay} frames or more, and feedback with it"),
            cure,
        ));
    }
    if p.rc.aqMode == 0 || p.rc.aqStrength == 0.0 {
        return Err(OpenError::refused(
            who(&["aq-mode", "aq-strength"], "adaptive quantization"),
            "without adaptive quantization libx265 ignores regions",
            "Remove it; for uniform quantizers set background-qp and region-qp equal",
        ));
    }
    if p.rc.cuTree != 0 {
        return Err(OpenError::refused(
            who(&["cutree"], "cutree"),
            "the coding unit tree needs look-ahead, which delays video, and overrides regions",
            "Remove it",
        ));
    }
    if p.rc.rateControlMode == sys::X265_RC_CQP as c_int {
        return Err(OpenError::refused(
            who(&["qp"], "rate control"),
            "constant-quantizer mode of libx265 ignores regions",
            "Set background-qp, or pass=quant and quantizer: both are exact",
        ));
    }
    if !exact {
        return Ok(());
    }
    let moved = if p.rc.qCompress != 1.0 {
        who(&["qcomp"], "qcomp")
    } else if p.rc.ipFactor != 1.0 {
        who(&["ipratio", "ip-factor"], "ip-factor")
    } else if p.rc.aqMode != sys::X265_AQ_VARIANCE as c_int || p.rc.aqStrength != NEUTRAL_AQ_STRENGTH {
        who(&["aq-mode", "aq-strength"], "adaptive quantization")
    } else if p.rc.qgSize != p.maxCUSize {
        who(&["qg-size", "ctu"], "qg-size")
    } else if config.format == PixelFormat::I444 && p.psyRd != 0.0 {
        who(&["psy-rd"], "psy-rd")
    } else if let Some(option) = config
        .options
        .iter()
        .rev()
        .find(|o| o.origin == Origin::OptionString && INEXACT.contains(&canonical(&o.key).as_str()))
    {
        describe(option)
    } else {
        return Ok(());
    };
    Err(OpenError::refused(moved, MOVED, LEAVE))
}

fn clamp_int(value: u32) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

fn colour_space(format: PixelFormat) -> c_int {
    let space = match format {
        PixelFormat::I444 => sys::X265_CSP_I444,
        _ => sys::X265_CSP_I420,
    };
    space as c_int
}

#[cfg(test)]
mod tests;
