// SPDX-License-Identifier: MPL-2.0

//! libx265 as a [`RegionEncoder`].
//!
//! Facts of libx265 that this file and its submodules rely on:
//!
//! - Offsets (`x265_picture.quantOffsets`, one per 16 by 16 pixels) are added to adaptive quantization, and silently
//!   ignored where that is off: in CQP, with `aq-mode=0` and with `aq-strength=0`. They have to be there for every
//!   picture: the library allocates memory for them with the first pictures only.
//! - A coding unit larger than a quantization group takes the average of the offsets in it. So exact quantizers need
//!   coding tree units of 16 pixels, or one offset for all of a larger one (see `X265::block`).
//! - `forceqp` sets the quantizer of a picture of any type, bypassing rate control, which would give an I picture the
//!   average of the P pictures before it.
//! - **Rates cannot be changed in an open encoder.** `x265_encoder_reconfig` reports success, but in 3.5 and later it
//!   gives the encoder another copy of the parameters than the rate control reads. So in exact mode the VBV is ours
//!   (see `vbv.rs`), and in the other modes a change opens the encoder anew, once a second at most, which begins with
//!   an IDR picture and the same parameter sets.
//! - The library takes the rate of its VBV for that of the stream and declares a level for it: ours is written into the
//!   parameter sets instead.
//! - Without B-frames and look-ahead, with one frame thread and one slice, the call that takes a picture returns it.
//! - Log lines go to standard error; there is no callback. Only errors are let through.

#![allow(unsafe_code)]

mod options;
mod params;
mod units;
mod vbv;

use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use dds_x265_sys::{self as sys, call};

use super::level_h265::H265Level;
use super::{
    AccessUnit, Codec, Config, EncodeError, FrameControls, Log, LogLevel, Nal, NalKind, OpenError, ParameterSets,
    Picture, PixelFormat, Plane, RateControl, Rates, RegionEncoder,
};
use options::refuse_impossible;
use params::{Params, colour_space, delay, parameters, verify};
use units::{PPS, SPS, VPS, declared, prefix_length, profile_tier_level, rewrite};
use vbv::Verifier;

/// Coarsest quantizer of a slice of 8-bit video.
const MAX_QP: u16 = 51;
/// The library's table of functions.
///
/// # Errors
/// The release differs from the header that this was built with.
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

/// An open encoder of the library.
struct Session {
    api: &'static sys::x265_api,
    handle: ptr::NonNull<sys::x265_encoder>,
    /// The parameters read back after opening.
    params: Params,
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: came from encoder_open, and is closed once.
        unsafe { call!(self.api, encoder_close(self.handle.as_ptr())) }
    }
}

impl Session {
    /// Opens one, and returns the level to declare.
    fn open(api: &'static sys::x265_api, config: &Config) -> Result<(Self, H265Level), OpenError> {
        let exact = config.is_exact();
        let (params, level) = parameters(api, config, exact)?;
        verify(params.get(), config, exact)?;
        // The library fills global tables when it first opens.
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

/// The encoder.
pub struct X265 {
    api: &'static sys::x265_api,
    session: Session,
    picture: ptr::NonNull<sys::x265_picture>,
    /// The configuration that the session was opened with.
    config: Config,
    /// The configuration to open another session with, for new rates.
    wanted: Option<Config>,
    /// Pictures of this session, and its least number of them.
    pictures: u64,
    least: u64,
    /// In exact mode.
    verifier: Verifier,
    width: usize,
    height: usize,
    exact: bool,
    /// Pixels along a block of one offset in exact mode: it takes the finest of its macroblocks' offsets. More than 16
    /// only where the level, or the user, requires larger coding tree units.
    block: usize,
    /// Macroblocks across and down, by the caller's count.
    macroblocks: (usize, usize),
    /// Offsets across, by the library's count.
    columns: usize,
    offsets: Vec<f32>,
    nals: Vec<Nal>,
    /// Access units rewritten after the library.
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
        // SAFETY: came from picture_alloc, and is freed once.
        unsafe { call!(self.api, picture_free(self.picture.as_ptr())) }
    }
}

impl RegionEncoder for X265 {
    fn open(config: &Config, log: Log) -> Result<Self, OpenError> {
        refuse_impossible(config)?;
        let api = api()?;
        let exact = config.is_exact();
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
        let (force, shift) = self.force(&picture.planes[0], forced, controls.base_qp, offsets);
        self.spread(offsets, shift);
        self.load(picture, forced, force)?;

        let mut nals: *mut sys::x265_nal = ptr::null_mut();
        let mut count: u32 = 0;
        // SAFETY: the planes were checked against size, format and stride; they and the offsets, which cover all
        // blocks, are only read, and copied within the call. Nothing of the output picture is read.
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
        // SAFETY: the library returned `count` NAL units whose payloads are contiguous, valid until the next call,
        // which the borrow of `self` prevents.
        let (units, data) = unsafe {
            let units = std::slice::from_raw_parts(nals, count as usize);
            let size = units.iter().map(|unit| unit.sizeBytes as usize).sum();
            (units, std::slice::from_raw_parts(units[0].payload.cast_const(), size))
        };
        let (idr, parameters) = self.list(units, data);
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
    /// Whether the planes hold a whole picture.
    fn check(&self, picture: &Picture<'_>) -> Result<(), EncodeError> {
        for (i, plane) in picture.planes.iter().take(self.config.format.planes()).enumerate() {
            let (row, rows) = self.config.format.plane_size(i, self.width, self.height);
            if plane.stride < row || plane.data.len() < plane.stride * (rows - 1) + row {
                return Err(EncodeError::ShortPlane(i));
            }
        }
        Ok(())
    }

    /// The quantizer to force on a picture, plus one, and the offset that every macroblock needs on top of it to fit
    /// the VBV. 0 leaves it to the library, where quantizers are not exact.
    fn force(&mut self, luma: &Plane<'_>, forced_idr: bool, base_qp: u8, offsets: &[i8]) -> (c_int, f32) {
        if !self.exact {
            return (0, 0.0);
        }
        let idr = forced_idr || self.pictures == 0 || self.since_idr + 1 >= self.key_int_max();
        let raise = self.verifier.raise(luma, idr, base_qp, offsets);
        // Slices have no quantizer above 51, but regions with an offset may still be raised.
        let wanted = u16::from(base_qp) + u16::from(raise);
        let base = wanted.min(MAX_QP);
        (c_int::from(base) + 1, f32::from(wanted - base))
    }

    /// Passes the library a picture checked by [`Self::check`], by pointers to its planes and to the offsets.
    fn load(&mut self, picture: &Picture<'_>, forced_idr: bool, force_qp: c_int) -> Result<(), EncodeError> {
        // SAFETY: both are the library's own structures; the call initialises the whole picture.
        let input = unsafe {
            call!(
                self.api,
                picture_init(self.session.params.inner.as_ptr(), self.picture.as_ptr())
            );
            self.picture.as_mut()
        };
        input.pts = picture.pts;
        input.sliceType = if forced_idr {
            sys::X265_TYPE_IDR
        } else {
            sys::X265_TYPE_AUTO
        } as c_int;
        input.forceqp = force_qp;
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
        Ok(())
    }

    /// Records the positions of the NAL units in `data`. Returns whether they are an IDR picture, and whether parameter
    /// sets are among them.
    fn list(&mut self, units: &[sys::x265_nal], data: &[u8]) -> (bool, bool) {
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
        (idr, parameters)
    }

    /// Opens the library anew where other rates are wanted: with a key frame that is due anyway, else once a second.
    /// Returns whether it was opened.
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

#[cfg(test)]
mod tests;
