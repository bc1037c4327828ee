// SPDX-License-Identifier: MPL-2.0

//! Parameters of libx265 for a configuration, and the options refused.

#![allow(unsafe_code)]

use std::ffi::{CString, c_int};
use std::ptr;

use dds_x265_sys::{self as sys, call};

use crate::encoder::level_h265::{H265Level, is_h265_level, smallest_h265_level};
use crate::encoder::options::{LEAVE, MOVED, canonical, culprit, describe, name_culprit, of_string};
use crate::encoder::{Config, OpenError, Origin, PixelFormat, RateControl};
use crate::vbv::Vbv;

use super::options::{INEXACT, Translation, split_tune, translate};

/// Adaptive quantization strength that keeps offsets alive and rounds to no step of its own.
const NEUTRAL_AQ_STRENGTH: f64 = 1e-3;
/// Rate and size of the widest VBV that the library can represent, in kbit.
const WIDEST: c_int = 2_000_000;
/// From this level on, coding tree units have 32 pixels at least (ISO/IEC 23008-2 A.4.1).
const LARGE_UNITS_FROM: u8 = 50;
/// `aspect_ratio_idc` of ratios that are written explicitly.
const EXTENDED_SAR: c_int = 255;

/// An owned `x265_param`.
pub(super) struct Params {
    api: &'static sys::x265_api,
    pub inner: ptr::NonNull<sys::x265_param>,
}

impl Params {
    pub fn alloc(api: &'static sys::x265_api) -> Result<Self, OpenError> {
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

    pub fn get(&self) -> &sys::x265_param {
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

/// The parameters to open with, and the level to declare.
pub(super) fn parameters(
    api: &'static sys::x265_api,
    config: &Config,
    exact: bool,
) -> Result<(Params, H265Level), OpenError> {
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
            // With it the library codes chroma coarser.
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

/// The level that the stream declares: the requested one, or the smallest that fits.
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

/// Least number of pictures that wait inside.
pub(super) fn delay(p: &sys::x265_param) -> usize {
    let threads = (p.frameNumThreads != 1 || p.maxSlices > 1) as c_int;
    (p.bframes.max(0) + p.lookaheadDepth.max(0) + threads) as usize
}

/// Refuses to open where the encoder would delay pictures, ignore offsets or move quantizers.
pub(super) fn verify(p: &sys::x265_param, config: &Config, exact: bool) -> Result<(), OpenError> {
    let who = |keys: &[&str], otherwise: &str| name_culprit(config, keys, otherwise);
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
    } else if let Some(option) = of_string(config)
        .filter(|option| INEXACT.contains(&canonical(&option.key).as_str()))
        .last()
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

pub(super) fn colour_space(format: PixelFormat) -> c_int {
    let space = match format {
        PixelFormat::I444 => sys::X265_CSP_I444,
        _ => sys::X265_CSP_I420,
    };
    space as c_int
}
