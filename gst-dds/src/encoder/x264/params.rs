// SPDX-License-Identifier: MPL-2.0

//! Parameters of libx264 for a configuration, and the options refused.

#![allow(unsafe_code)]

use std::ffi::{CString, c_int};
use std::mem::MaybeUninit;
use std::ptr;

use x264_sys as sys;

use crate::encoder::options::{
    LEAVE, MOVED, culprit, describe, is_negated, name_culprit, of_string, refuse_overridden,
};
use crate::encoder::{Config, EncoderOption, FieldOrder, OpenError, PixelFormat, RateControl, smallest_level};
use crate::vbv::Vbv;

use super::log::LogSink;

/// Adaptive quantization strength that keeps offsets alive and rounds to no step of its own.
const NEUTRAL_AQ_STRENGTH: f32 = 1e-5;
/// Highest `subme` without rate-distortion optimised quantizers.
const MAX_EXACT_SUBME: c_int = 9;
/// Room above the rate factor where quantizers must not move; 0 would mean no limit.
const NO_ROOM: f32 = 0.01;

/// Options that would override a property, with the property to use instead.
const OVERRIDDEN: &[(&[&str], &str)] = &[
    (&["bitrate"], "Set the property `bitrate`"),
    (&["crf"], "Set pass=qual and quantizer"),
    (&["qp", "qp-constant"], "Set pass=quant and quantizer, or background-qp"),
    (&["qpmin", "qpmax"], "Set the properties `qp-min` and `qp-max`"),
    (&["vbv-maxrate"], "Set the property `max-bitrate` or `bitrate`"),
    (&["vbv-bufsize"], "Set the property `vbv-buf-capacity`"),
    (
        &["pass", "stats"],
        "Remove it: several passes are not possible with live video",
    ),
    (
        &["annexb", "repeat-headers"],
        "Choose the stream format with caps or byte-stream",
    ),
    (&["fps", "force-cfr", "timebase"], "Set the frame rate with caps"),
    (
        &["csp", "input-csp", "output-csp", "input-depth", "output-depth"],
        "Choose the format with caps",
    ),
    (&["profile"], "Set the profile with caps behind the element"),
    (&["preset"], "Set the property `speed-preset`"),
    (&["tune"], "Set the properties `tune` and `psy-tune`"),
    (
        &["avcintra-class", "bluray-compat"],
        "Remove it: it excludes quantizers per macroblock",
    ),
];

/// Options that move quantizers, for the modes in which quantizers are exact.
const INEXACT: &[&str] = &["zones", "crf-max", "nal-hrd", "filler"];

/// An owned `x264_param_t`, with everything libx264 allocated for it.
pub(super) struct Params(Box<sys::x264_param_t>);

impl Params {
    fn new(preset: Option<&str>, tune: Option<&str>) -> Result<Self, OpenError> {
        let c_string = |s: Option<&str>| {
            s.map(CString::new)
                .transpose()
                .map_err(|_| OpenError::Library("a preset name holds a zero byte".into()))
        };
        let (preset, tune) = (c_string(preset)?, c_string(tune)?);
        let mut params = Box::new(MaybeUninit::<sys::x264_param_t>::uninit());
        let pointer = |s: &Option<CString>| s.as_ref().map_or(ptr::null(), |s| s.as_ptr());
        // SAFETY: the function initialises the whole structure also where it fails on a name; the names are C strings
        // or null, which means none.
        let (result, params) = unsafe {
            let result = sys::x264_param_default_preset(params.as_mut_ptr(), pointer(&preset), pointer(&tune));
            (result, params.assume_init())
        };
        if result < 0 {
            return Err(OpenError::refused(
                "speed-preset, tune or psy-tune",
                format!("libx264 does not know preset {preset:?} with tunings {tune:?}"),
                "Use one psy-tune at most, and a known preset",
            ));
        }
        Ok(Self(params))
    }

    /// The parameters of a configuration, with log lines to `log`.
    ///
    /// # Errors
    /// Names what libx264 does not have.
    pub fn of(config: &Config, log: &LogSink) -> Result<Self, OpenError> {
        for option in of_string(config) {
            refuse_overridden(option, OVERRIDDEN)?;
        }
        let mut params = Self::new(config.preset.as_deref(), config.tune.as_deref())?;
        log.listen(&mut params.0);
        set_defaults(&mut params.0, config)?;
        for option in &config.options {
            params.parse(option)?;
        }
        fit(&mut params.0, config)?;
        set_rates(&mut params.0, config);
        if config.intra_only {
            params.0.i_keyint_max = 1;
        }
        if let Some(profile) = config.profile {
            apply_profile(&mut params.0, profile)?;
        }
        set_level(&mut params.0, config);
        Ok(params)
    }

    pub fn get_mut(&mut self) -> &mut sys::x264_param_t {
        &mut self.0
    }

    fn parse(&mut self, option: &EncoderOption) -> Result<(), OpenError> {
        let who = describe(option);
        let bad = |reason: &str| {
            Err(OpenError::refused(
                who.clone(),
                reason,
                "Correct or remove it (`x264 --fullhelp` lists options)",
            ))
        };
        let (Ok(key), Ok(value)) = (
            CString::new(option.key.as_str()),
            option.value.as_deref().map(CString::new).transpose(),
        ) else {
            return bad("holds a zero byte");
        };
        // SAFETY: both are C strings (value may be null: "true"); the structure is initialised.
        let result = unsafe {
            sys::x264_param_parse(
                &mut *self.0,
                key.as_ptr(),
                value.as_ref().map_or(ptr::null(), |v| v.as_ptr()),
            )
        };
        match result {
            0 => Ok(()),
            sys::X264_PARAM_BAD_NAME => bad("libx264 has no such option"),
            sys::X264_PARAM_BAD_VALUE => bad("libx264 does not take this value"),
            code => Err(OpenError::Library(format!("{who}: libx264 failed with code {code}"))),
        }
    }
}

impl Drop for Params {
    fn drop(&mut self) {
        // SAFETY: initialised by x264_param_default_preset; frees only what x264_param_parse allocated.
        unsafe { sys::x264_param_cleanup(&mut *self.0) }
    }
}

/// Whether a switch is on.
fn is_on(option: &EncoderOption) -> bool {
    match option.value.as_deref() {
        None => !is_negated(&option.key),
        Some(value) => !matches!(value, "0" | "false" | "no"),
    }
}

/// Sets what options may still change.
fn set_defaults(p: &mut sys::x264_param_t, config: &Config) -> Result<(), OpenError> {
    let exact = config.is_exact();
    describe_picture(p, config)?;
    p.b_annexb = c_int::from(config.byte_stream);
    p.b_repeat_headers = c_int::from(config.byte_stream);
    if p.rc.i_aq_mode == 0 || exact {
        // Presets and tunings may switch it off; the user has to do it by name (and is refused).
        p.rc.i_aq_mode = sys::X264_AQ_VARIANCE as c_int;
        p.rc.f_aq_strength = NEUTRAL_AQ_STRENGTH;
    }
    if exact {
        p.rc.f_qcompress = 1.0;
        p.rc.f_ip_factor = 1.0;
        p.analyse.i_subpel_refine = p.analyse.i_subpel_refine.min(MAX_EXACT_SUBME);
    }
    p.rc.b_mb_tree = 0;
    p.analyse.b_mb_info = c_int::from(config.still_parts || config.repeats);
    if config.repeats {
        // Weighted prediction would change what skipped macroblocks show.
        p.analyse.i_weighted_pred = sys::X264_WEIGHTP_NONE as c_int;
    }
    p.i_keyint_max = clamp_int(config.key_int_max());
    Ok(())
}

/// Refuses options that exclude one another.
fn fit(p: &mut sys::x264_param_t, config: &Config) -> Result<(), OpenError> {
    if p.b_intra_refresh != 0 && culprit(config, &["ref", "frameref"]).is_none() {
        // They exclude more than one, and x264 would warn each time.
        p.i_frame_reference = 1;
    }
    if config.is_exact() && p.analyse.i_subpel_refine > MAX_EXACT_SUBME {
        // Opening may lower it silently.
        let option = name_culprit(config, &["subme", "subq"], "subme");
        return Err(OpenError::refused(option, MOVED, LEAVE));
    }
    Ok(())
}

fn set_rates(p: &mut sys::x264_param_t, config: &Config) {
    if config.vbv_may_change || config.vbv != Vbv::OPEN {
        set_vbv(p, config.vbv);
    }
    match config.rate {
        RateControl::Quantizers { base_qp } => {
            p.rc.i_rc_method = sys::X264_RC_CRF as c_int;
            set_rate_factor(p, base_qp, config.vbv);
        }
        RateControl::Quality { quality } => {
            p.rc.i_rc_method = sys::X264_RC_CRF as c_int;
            p.rc.f_rf_constant = f32::from(quality);
        }
        RateControl::Bitrate { kbps } => {
            p.rc.i_rc_method = sys::X264_RC_ABR as c_int;
            p.rc.i_bitrate = clamp_int(kbps);
        }
    }
}

fn set_level(p: &mut sys::x264_param_t, config: &Config) {
    match config.level_idc {
        Some(level) => p.i_level_idc = level.into(),
        // By default x264 takes the open VBV for the stream's rate and declares the highest level.
        // Where the rate is unknown, it also takes the assumed one for it.
        None if p.i_level_idc < 0 && (config.vbv == Vbv::OPEN || config.frame_rate.is_none()) => {
            let references = p.i_frame_reference.max(1) as u32;
            let rate = config.highest_rate();
            p.i_level_idc = smallest_level(config.width, config.height, rate, references, config.nominal_kbps).into();
        }
        None => {}
    }
}

fn describe_picture(p: &mut sys::x264_param_t, config: &Config) -> Result<(), OpenError> {
    let size = |v: u32| c_int::try_from(v).map_err(|_| OpenError::Library(format!("a picture {v} pixels long")));
    p.i_width = size(config.width)?;
    p.i_height = size(config.height)?;
    p.i_csp = colour_space(config.format);
    p.i_bitdepth = config.format.bit_depth().into();
    // Variable frame rates would delay every frame until the next one determines its duration. They are coded at a
    // nominal rate instead, as by x264enc with zerolatency.
    let (numerator, denominator) = config.assumed_rate();
    (p.i_fps_num, p.i_fps_den) = (numerator, denominator);
    (p.i_timebase_num, p.i_timebase_den) = (denominator, numerator);
    p.b_vfr_input = 0;
    (p.vui.i_sar_width, p.vui.i_sar_height) = (
        clamp_int(config.pixel_aspect_ratio.0),
        clamp_int(config.pixel_aspect_ratio.1),
    );
    if let Some(colour) = config.colour {
        p.vui.i_colorprim = colour.primaries.into();
        p.vui.i_transfer = colour.transfer.into();
        p.vui.i_colmatrix = colour.matrix.into();
        p.vui.b_fullrange = colour.full_range.into();
        p.vui.i_chroma_loc = colour.chroma_location.into();
    }
    if let Some(order) = config.interlaced {
        p.b_interlaced = 1;
        p.b_tff = c_int::from(order == FieldOrder::TopFirst);
    }
    if let Some(packing) = config.frame_packing {
        p.i_frame_packing = packing.into();
    }
    Ok(())
}

fn apply_profile(p: &mut sys::x264_param_t, profile: &str) -> Result<(), OpenError> {
    // Caps distinguish more profiles.
    let name = match profile.trim_end_matches("-intra") {
        "constrained-baseline" | "baseline" => c"baseline",
        "main" => c"main",
        "high" => c"high",
        "high-10" => c"high10",
        "high-4:2:2" => c"high422",
        _ => c"high444",
    };
    // SAFETY: the parameters are initialised and the name is a C string.
    match unsafe { sys::x264_param_apply_profile(p, name.as_ptr()) } {
        0 => Ok(()),
        _ => Err(OpenError::refused(
            format!("profile {profile}"),
            "the video format or an option does not fit this profile",
            "Choose a higher profile with caps behind the element, or convert the video",
        )),
    }
}

/// Sets the VBV. The open one is made wide for a single frame even at frame rates below one per second, where x264
/// would spread it over the rows.
pub(super) fn set_vbv(p: &mut sys::x264_param_t, vbv: Vbv) {
    (p.rc.i_vbv_max_bitrate, p.rc.i_vbv_buffer_size) = if vbv == Vbv::OPEN {
        let frame_rate = f64::from(p.i_fps_num) / f64::from(p.i_fps_den.max(1));
        let rate = (f64::from(vbv.max_kbps) * frame_rate.min(1.0)) as c_int;
        (rate.max(1), clamp_int(vbv.buffer_kbit).saturating_mul(4))
    } else {
        (clamp_int(vbv.max_kbps), clamp_int(vbv.buffer_kbit))
    };
}

/// Sets the quantizer of exact mode, and how far the VBV may raise it: not at all, or without limit.
pub(super) fn set_rate_factor(p: &mut sys::x264_param_t, base_qp: u8, vbv: Vbv) {
    let open = vbv == Vbv::OPEN;
    // x264 spends the range between a picture's quantizer and this row by row: the range is empty.
    p.rc.f_rf_constant = f32::from(base_qp) - if open { 0.5 } else { 0.0 };
    // Once there was a limit, x264 lifts it only for one that is not above the rate factor (and warns, see the log).
    p.rc.f_rf_constant_max = p.rc.f_rf_constant + if open { NO_ROOM } else { 0.0 };
    if p.rc.i_vbv_buffer_size == 0 {
        p.rc.f_rf_constant_max = 0.0;
    }
}

/// Refuses to open where the encoder would delay pictures, ignore offsets or move quantizers.
pub(super) fn verify(p: &sys::x264_param_t, config: &Config, delay: usize) -> Result<(), OpenError> {
    let who = |keys: &[&str], otherwise: &str| name_culprit(config, keys, otherwise);
    if delay != 0 || p.i_bframe != 0 {
        let (option, cure) = if p.i_bframe > 0 {
            (who(&["bframes"], "tune"), "Set bframes=0, or tune=zerolatency")
        } else if p.rc.i_lookahead > 0 {
            (
                who(&["rc-lookahead"], "tune"),
                "Set rc-lookahead=0, or tune=zerolatency",
            )
        } else if p.i_sync_lookahead > 0 {
            (
                who(&["sync-lookahead"], "tune"),
                "Set sync-lookahead=0, or tune=zerolatency",
            )
        } else {
            (
                who(&["sliced-threads", "threads"], "tune"),
                "Set sliced-threads=true or threads=1, or tune=zerolatency",
            )
        };
        return Err(OpenError::refused(
            option,
            format!("it would delay video by {delay} frames, and feedback with it"),
            cure,
        ));
    }
    if config.repeats {
        let at_odds = [
            (p.analyse.i_weighted_pred != 0, who(&["weightp"], "weightp")),
            (p.b_intra_refresh != 0, who(&["intra-refresh"], "intra-refresh")),
            (p.b_interlaced != 0, "interlaced video".into()),
            (p.i_keyint_max == 1, who(&["keyint"], "intra pictures only")),
        ];
        if let Some((_, what)) = at_odds.into_iter().find(|(is_set, _)| *is_set) {
            return Err(OpenError::no_repeats(&format!(
                "with {what} macroblocks cannot be skipped exactly"
            )));
        }
    }
    if p.rc.i_aq_mode == 0 || p.rc.f_aq_strength == 0.0 {
        return Err(OpenError::refused(
            who(&["aq-mode", "aq-strength"], "adaptive quantization"),
            "without adaptive quantization libx264 ignores regions",
            "Remove it; for uniform quantizers set background-qp and region-qp equal",
        ));
    }
    // Without look-ahead x264 silently switches it off.
    if p.rc.b_mb_tree != 0 || culprit(config, &["mbtree"]).is_some_and(is_on) {
        return Err(OpenError::refused(
            who(&["mbtree"], "mb-tree"),
            "the macroblock tree needs look-ahead, which delays video, and overrides regions",
            "Set mb-tree=false",
        ));
    }
    if p.rc.i_rc_method == sys::X264_RC_CQP as c_int {
        return Err(OpenError::refused(
            who(&["qp"], "rate control"),
            "constant-quantizer mode of libx264 ignores regions",
            "Set background-qp, or pass=quant and quantizer: both are exact",
        ));
    }
    if !config.is_exact() {
        return Ok(());
    }
    let moved = if p.rc.f_qcompress != 1.0 {
        who(&["qcomp"], "qcomp")
    } else if p.rc.f_ip_factor != 1.0 {
        who(&["ipratio", "ip-factor"], "ip-factor")
    } else if p.rc.i_aq_mode != sys::X264_AQ_VARIANCE as c_int || p.rc.f_aq_strength != NEUTRAL_AQ_STRENGTH {
        who(&["aq-mode", "aq-strength"], "adaptive quantization")
    } else if let Some(option) = culprit(config, INEXACT) {
        describe(option)
    } else {
        return Ok(());
    };
    Err(OpenError::refused(moved, MOVED, LEAVE))
}

pub(super) fn clamp_int(value: u32) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

pub(super) fn colour_space(format: PixelFormat) -> c_int {
    let space = match format {
        PixelFormat::I420 => sys::X264_CSP_I420,
        PixelFormat::Yv12 => sys::X264_CSP_YV12,
        PixelFormat::Nv12 => sys::X264_CSP_NV12,
        PixelFormat::Nv21 => sys::X264_CSP_NV21,
        PixelFormat::I422 => sys::X264_CSP_I422,
        PixelFormat::Nv16 => sys::X264_CSP_NV16,
        PixelFormat::I444 => sys::X264_CSP_I444,
        PixelFormat::Gray8 => sys::X264_CSP_I400,
        PixelFormat::I420P10 => sys::X264_CSP_I420 | sys::X264_CSP_HIGH_DEPTH,
        PixelFormat::I422P10 => sys::X264_CSP_I422 | sys::X264_CSP_HIGH_DEPTH,
        PixelFormat::I444P10 => sys::X264_CSP_I444 | sys::X264_CSP_HIGH_DEPTH,
    };
    space as c_int
}
