// SPDX-License-Identifier: MPL-2.0

//! libx264 as a [`RegionEncoder`].
//!
//! Facts of libx264 this file rests on:
//!
//! - Offsets per macroblock (`x264_image_properties_t.quant_offsets`) are added to adaptive quantization. x264 switches
//!   that off, and ignores offsets without a word, in CQP, with `aq-mode=0` and with `aq-strength=0`. So constant
//!   quantizers are made of CRF with `qcomp=1`, `ipratio=1` and adaptive quantization too weak to round to a step.
//! - In CRF the quantizer of an I picture is the average of the P pictures before it, also as the bound up to which a
//!   VBV may raise it. So the rate factor stays where it is when the base quantizer falls, and the difference goes
//!   into the offsets (see `reference_for`).
//! - A VBV cannot be switched on in an open encoder, only changed. However wide, it also keeps frames within
//!   the compression ratio of the level (table A-1, MinCR) by raising quantizers row by row; a `crf-max` next to the
//!   rate factor takes that away, but for one step in an I picture.
//! - With adaptive quantization and `subme` below 10, a macroblock whose quantizer differs by one from the one before
//!   takes that one's. From 10 on, quantizers are chosen by rate-distortion and no longer the ones asked for.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Mutex;

use x264_sys as sys;

use crate::vbv::Vbv;

use super::sps::without_timing;
use super::{
    AccessUnit, Codec, Config, EncodeError, EncoderOption, FieldOrder, Fields, FrameControls, Log, LogLevel, Nal,
    OpenError, Origin, ParameterSets, Picture, PixelFormat, Plane, RateControl, Rates, RegionEncoder, smallest_level,
};

/// Adaptive quantization strength that keeps offsets alive and rounds to no step of its own.
const NEUTRAL_AQ_STRENGTH: f32 = 1e-5;
/// Highest `subme` without rate-distortion optimised quantizers.
const MAX_EXACT_SUBME: c_int = 9;
/// Most that the base quantizer lies below the rate factor under a narrow VBV.
const MAX_SHIFT: u8 = 10;
/// Room above the rate factor where quantizers must not move; 0 would mean no limit.
const NO_ROOM: f32 = 0.01;
/// Error lines that are kept for messages.
const KEPT_ERRORS: usize = 3;
/// First bytes of the UUID of x264's version SEI.
const VERSION_SEI_UUID: [u8; 4] = [0xdc, 0x45, 0xe9, 0xbd];

/// Options that would work against a property, with the property to use instead.
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

const NAL_SEI: c_int = 6;
const NAL_SPS: c_int = 7;
const NAL_PPS: c_int = 8;

/// `X264_BUILD` of the library this was compiled against.
pub const BUILD: u32 = sys::X264_BUILD;

/// Why an option is refused in exact mode, and what to do.
const MOVED: &str = "in quantizer mode all quantizers are exact, and this would move them";
const LEAVE: &str = "Remove it, or set bitrate or pass=qual";

struct LogSink {
    log: Log,
    /// The VBV is open on purpose: its size against the level is no news.
    open_vbv: bool,
    /// Limits of the rate factor are lifted on purpose.
    exact: bool,
    /// The last errors, for messages.
    errors: Mutex<Vec<String>>,
}

impl LogSink {
    /// What the library has said was wrong since the last call, for the end of a sentence; empty where it said nothing.
    fn take_errors(&self) -> String {
        let errors = std::mem::take(&mut *self.errors.lock().unwrap());
        errors.iter().map(|line| format!(": {line}")).collect()
    }

    fn line(&self, level: LogLevel, text: &str) {
        let wide = self.open_vbv && text.starts_with("VBV") && text.contains("level limit");
        // In exact mode the VBV only backs a cap that is kept elsewhere, and counted there.
        let limited = self.exact && (text.starts_with("CRF max") || text.starts_with("VBV underflow"));
        let expected = wide || limited;
        if level == LogLevel::Error {
            let mut errors = self.errors.lock().unwrap();
            if errors.len() == KEPT_ERRORS {
                errors.remove(0);
            }
            errors.push(text.into());
        }
        (self.log)(if expected { LogLevel::Debug } else { level }, text);
    }
}

/// Receives log lines of libx264. `V` is the platform's `va_list`: its type differs between architectures and is taken
/// from the binding's declaration of the callback.
///
/// # Safety
/// `private` must point to a live [`LogSink`]; `format` and `arguments` must be a `printf` format and its arguments.
unsafe extern "C" fn log_line<V>(private: *mut c_void, level: c_int, format: *const c_char, arguments: V) {
    type Format<V> = unsafe extern "C" fn(*mut c_char, usize, *const c_char, V) -> c_int;
    unsafe extern "C" {
        fn vsnprintf();
    }
    let mut text: [c_char; 1024] = [0; 1024];
    // SAFETY: `vsnprintf` has this signature in C with `V` the platform's va_list; it is only named without arguments
    // above because that type has no portable spelling. The buffer and its length belong together.
    let printed = unsafe {
        let format_into: Format<V> = std::mem::transmute::<unsafe extern "C" fn(), Format<V>>(vsnprintf);
        format_into(text.as_mut_ptr(), text.len(), format, arguments)
    };
    if printed < 0 {
        return;
    }
    // A handler of log lines belongs to the application.
    static GUARD: gst_dds_link::guard::Guard = gst_dds_link::guard::Guard::new("the log of libx264");
    // SAFETY: vsnprintf ends the text with a zero byte within the buffer; `private` is a live LogSink by contract and
    // its closure may be called from any thread.
    let (sink, text) = unsafe { (&*private.cast::<LogSink>(), CStr::from_ptr(text.as_ptr())) };
    let level = match level {
        sys::X264_LOG_NONE => return,
        l if l == sys::X264_LOG_ERROR as c_int => LogLevel::Error,
        l if l == sys::X264_LOG_WARNING as c_int => LogLevel::Warning,
        l if l == sys::X264_LOG_INFO as c_int => LogLevel::Info,
        _ => LogLevel::Debug,
    };
    GUARD.run((), || sink.line(level, text.to_string_lossy().trim_end()));
}

/// An owned `x264_param_t`, with whatever libx264 allocated for it.
struct Params(Box<sys::x264_param_t>);

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

/// How an error message names an option.
fn describe(option: &EncoderOption) -> String {
    match &option.origin {
        Origin::Property(name) => (*name).to_string(),
        Origin::OptionString => match &option.value {
            Some(value) => format!("option-string `{}={value}`", option.key),
            None => format!("option-string `{}`", option.key),
        },
    }
}

/// The option's name as in [`OVERRIDDEN`]: dashes, no negation.
fn canonical(key: &str) -> String {
    let key = key.replace('_', "-");
    match key.strip_prefix("no-") {
        Some(rest) => rest.to_string(),
        None => key,
    }
}

/// Whether a switch is switched on.
fn is_on(option: &EncoderOption) -> bool {
    match option.value.as_deref() {
        None => !option.key.starts_with("no-") && !option.key.starts_with("no_"),
        Some(value) => !matches!(value, "0" | "false" | "no"),
    }
}

/// The last option that goes by one of `keys`.
fn culprit<'a>(config: &'a Config, keys: &[&str]) -> Option<&'a EncoderOption> {
    config
        .options
        .iter()
        .rev()
        .find(|o| keys.contains(&canonical(&o.key).as_str()))
}

/// The encoder.
pub struct X264 {
    handle: ptr::NonNull<sys::x264_t>,
    params: Box<sys::x264_param_t>,
    /// Where log lines go; libx264 holds a pointer to it.
    log: Box<LogSink>,
    format: PixelFormat,
    width: usize,
    height: usize,
    exact: bool,
    vbv: Vbv,
    /// Of interlaced video: `pic_struct` of the next pictures.
    picture_structure: c_int,
    /// Rate factor of exact mode; offsets are relative to it.
    reference: u8,
    byte_stream: bool,
    offsets: Vec<f32>,
    /// Per macroblock, whether the next picture's is that of the picture before; empty where nobody says so.
    still: Vec<u8>,
    nals: Vec<Nal>,
    /// The rate is not known, so that the stream must not declare one; and where access units with parameter sets are
    /// put together for it.
    untimed: bool,
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
        refuse_overridden(config)?;
        let exact = matches!(config.rate, RateControl::Quantizers { .. });
        let log = Box::new(LogSink {
            log,
            open_vbv: config.vbv == Vbv::OPEN,
            exact,
            errors: Mutex::default(),
        });

        let mut params = Params::new(config.preset.as_deref(), config.tune.as_deref())?;
        let p = &mut *params.0;
        p.pf_log = Some(log_line);
        p.p_log_private = (&raw const *log).cast_mut().cast();
        p.i_log_level = sys::X264_LOG_DEBUG as c_int;
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
        p.analyse.b_mb_info = c_int::from(config.still_parts);
        p.i_keyint_max = clamp_int(config.key_int_max());
        for option in &config.options {
            params.parse(option)?;
        }
        let p = &mut *params.0;
        if p.b_intra_refresh != 0 && culprit(config, &["ref", "frameref"]).is_none() {
            // More than one does not go with it; x264 would say so each time.
            p.i_frame_reference = 1;
        }
        if exact && p.analyse.i_subpel_refine > MAX_EXACT_SUBME {
            // Opening may lower it without a word.
            let option = culprit(config, &["subme", "subq"]).map_or("subme".to_string(), describe);
            return Err(OpenError::refused(option, MOVED, LEAVE));
        }
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
        if config.intra_only {
            p.i_keyint_max = 1;
        }
        if let Some(profile) = config.profile {
            apply_profile(p, profile)?;
        }
        match config.level_idc {
            Some(level) => p.i_level_idc = level.into(),
            // Left to itself, x264 takes the open VBV for the stream's rate and declares the highest level.
            // And where the rate is not known, it takes the assumed one for it.
            None if p.i_level_idc < 0 && (config.vbv == Vbv::OPEN || config.frame_rate.is_none()) => {
                let references = p.i_frame_reference.max(1) as u32;
                let rate = config.highest_rate();
                p.i_level_idc =
                    smallest_level(config.width, config.height, rate, references, config.nominal_kbps).into();
            }
            None => {}
        }

        // SAFETY: the parameters are initialised; the log sink they point to is owned by the encoder made below, and
        // outlives it.
        let handle = unsafe { sys::x264_encoder_open(p) };
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
            exact,
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
            params: read_back,
            nals: Vec::with_capacity(16),
            untimed: config.frame_rate.is_none(),
            rewritten: Vec::new(),
            sps: Vec::new(),
            pps: Vec::new(),
            name: format!(
                "x264 {}",
                CStr::from_bytes_with_nul(sys::X264_POINTVER).map_or("", |s| s.to_str().unwrap_or(""))
            ),
        };
        encoder.verify(config)?;
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
        // What every macroblock needs on top of x264's own quantizer.
        let mut shift = 0.0;
        if self.exact {
            let reference = self.reference_for(controls.base_qp);
            if reference != self.reference {
                self.reference = reference;
                set_rate_factor(&mut self.params, reference, self.vbv);
                self.apply()?;
            }
            shift = f32::from(controls.base_qp) - f32::from(reference);
        }
        let mut input = MaybeUninit::<sys::x264_picture_t>::uninit();
        // SAFETY: the call initialises the whole structure.
        let mut input = unsafe {
            sys::x264_picture_init(input.as_mut_ptr());
            input.assume_init()
        };
        input.i_pts = picture.pts;
        input.i_pic_struct = self.picture_structure;
        input.i_type = if controls.force_idr {
            sys::X264_TYPE_IDR
        } else {
            sys::X264_TYPE_AUTO
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
        if controls.offsets.is_some() || shift != 0.0 {
            let offsets = controls.offsets.unwrap_or_default();
            let known = offsets.len().min(self.offsets.len());
            for (to, &from) in self.offsets.iter_mut().zip(offsets) {
                *to = f32::from(from) + shift;
            }
            self.offsets[known..].fill(shift);
            input.prop.quant_offsets = self.offsets.as_mut_ptr();
        }

        if !self.still.is_empty() {
            input.prop.mb_info = self.still.as_mut_ptr();
        }

        let mut output = MaybeUninit::<sys::x264_picture_t>::uninit();
        let mut nals: *mut sys::x264_nal_t = ptr::null_mut();
        let mut count: c_int = 0;
        // SAFETY: the input planes were checked against size, format and stride above and are only read; the offsets
        // and flags cover all macroblocks and are read within the call, which returns without keeping any (no delay).
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
        if size < 0 {
            return Err(EncodeError::Library(format!(
                "libx264 says {size}{}",
                self.log.take_errors()
            )));
        }
        if size == 0 || count < 1 {
            return Err(EncodeError::Delayed);
        }
        // SAFETY: libx264 returned `count` NAL units whose payloads lie one after the other, `size` bytes in all, valid
        // until the next call, which the borrow of `self` keeps from happening.
        let (nals, data) = unsafe {
            let nals = std::slice::from_raw_parts(nals, count as usize);
            (
                nals,
                std::slice::from_raw_parts(nals[0].p_payload.cast_const(), size as usize),
            )
        };
        self.nals.clear();
        let mut start = 0;
        for nal in nals {
            let end = (start + nal.i_payload.max(0) as usize).min(data.len());
            let prefix = if self.byte_stream && nal.b_long_startcode == 0 {
                3
            } else {
                4
            };
            let body = (start + prefix).min(end);
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
        let data = if self.untimed && self.nals.iter().any(|nal| c_int::from(nal.kind) == NAL_SPS) {
            rewrite(data, &mut self.nals, &mut self.rewritten);
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

    fn set_fields(&mut self, fields: Fields) -> Result<(), EncodeError> {
        let top_first = fields.order == FieldOrder::TopFirst;
        // The order of fields in time is in the picture order counts too.
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
    /// The rate factor to code a picture of this base quantizer with. It only rises while the VBV is open: what x264
    /// averages over the past is then never above it. One step above the base is left out, because the first
    /// macroblock would take the slice's quantizer. A narrow VBV needs room to raise quantizers, so there it falls
    /// with a base that has fallen far.
    fn reference_for(&self, base_qp: u8) -> u8 {
        let far = self.vbv != Vbv::OPEN && self.reference.saturating_sub(base_qp) > MAX_SHIFT;
        let reference = if far { base_qp } else { self.reference.max(base_qp) };
        match reference - base_qp {
            1 if c_int::from(base_qp) + 2 <= self.params.rc.i_qp_max.min(51) => base_qp + 2,
            1 => base_qp,
            _ => reference,
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

    /// Refuses to go on where the open encoder would delay pictures, ignore offsets or move quantizers.
    fn verify(&self, config: &Config) -> Result<(), OpenError> {
        let p = &*self.params;
        let who = |keys: &[&str], otherwise: &str| culprit(config, keys).map_or(otherwise.to_string(), describe);
        let delay = self.delay();
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
        if p.rc.i_aq_mode == 0 || p.rc.f_aq_strength == 0.0 {
            return Err(OpenError::refused(
                who(&["aq-mode", "aq-strength"], "adaptive quantization"),
                "without adaptive quantization libx264 ignores regions",
                "Remove it; for uniform quantizers set background-qp and region-qp equal",
            ));
        }
        // Without look-ahead x264 switches it off without a word.
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
        if !self.exact {
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
            let prefix = if self.byte_stream && nal.b_long_startcode == 0 {
                3
            } else {
                4
            };
            let body = payload.get(prefix..).unwrap_or_default();
            match nal.i_type {
                NAL_SPS => {
                    let untimed = self.untimed.then(|| without_timing(body)).flatten();
                    self.sps = untimed.unwrap_or_else(|| body.to_vec());
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

/// x264's own version message. GStreamer 1.22 keeps one user-data message per picture, the last: it would hide ours.
fn is_version_sei(kind: c_int, body: &[u8]) -> bool {
    // Header, payload type 5, payload size (in runs of 0xff), UUID.
    if kind != NAL_SEI || body.get(1) != Some(&5) {
        return false;
    }
    let size_bytes = body[2..].iter().take_while(|&&b| b == 0xff).count() + 1;
    body.get(2 + size_bytes..)
        .is_some_and(|uuid| uuid.starts_with(&VERSION_SEI_UUID))
}

/// Copies an access unit to `out`, its sequence parameter sets without timing information; `nals` then tells where the NAL
/// units lie there.
fn rewrite(data: &[u8], nals: &mut [Nal], out: &mut Vec<u8>) {
    out.clear();
    for nal in nals {
        let (prefix, body) = (&data[nal.start..nal.body], &data[nal.body..nal.end]);
        let untimed = (c_int::from(nal.kind) == NAL_SPS)
            .then(|| without_timing(body))
            .flatten();
        nal.start = out.len();
        out.extend_from_slice(prefix);
        nal.body = out.len();
        out.extend_from_slice(untimed.as_deref().unwrap_or(body));
        nal.end = out.len();
    }
}

fn refuse_overridden(config: &Config) -> Result<(), OpenError> {
    for option in config.options.iter().filter(|o| o.origin == Origin::OptionString) {
        let key = canonical(&option.key);
        if let Some((_, cure)) = OVERRIDDEN.iter().find(|(keys, _)| keys.contains(&key.as_str())) {
            return Err(OpenError::refused(
                describe(option),
                "the element sets this itself",
                *cure,
            ));
        }
    }
    Ok(())
}

fn describe_picture(p: &mut sys::x264_param_t, config: &Config) -> Result<(), OpenError> {
    let size = |v: u32| c_int::try_from(v).map_err(|_| OpenError::Library(format!("a picture {v} pixels long")));
    p.i_width = size(config.width)?;
    p.i_height = size(config.height)?;
    p.i_csp = colour_space(config.format);
    p.i_bitdepth = config.format.bit_depth().into();
    // Variable frame rates would delay every frame until the next one tells its duration. They are coded at a nominal
    // rate instead, as by x264enc with zerolatency.
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
    // Caps tell more profiles apart.
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
fn set_vbv(p: &mut sys::x264_param_t, vbv: Vbv) {
    (p.rc.i_vbv_max_bitrate, p.rc.i_vbv_buffer_size) = if vbv == Vbv::OPEN {
        let frame_rate = f64::from(p.i_fps_num) / f64::from(p.i_fps_den.max(1));
        let rate = (f64::from(vbv.max_kbps) * frame_rate.min(1.0)) as c_int;
        (rate.max(1), clamp_int(vbv.buffer_kbit).saturating_mul(4))
    } else {
        (clamp_int(vbv.max_kbps), clamp_int(vbv.buffer_kbit))
    };
}

/// Sets the quantizer of exact mode, and how far a VBV may raise it: not at all, or without limit.
fn set_rate_factor(p: &mut sys::x264_param_t, base_qp: u8, vbv: Vbv) {
    let open = vbv == Vbv::OPEN;
    // x264 takes row by row what lies between a picture's quantizer and this: nothing.
    p.rc.f_rf_constant = f32::from(base_qp) - if open { 0.5 } else { 0.0 };
    // Once there was a limit, x264 lifts it only for one that is not above the rate factor (and says so, see the log).
    p.rc.f_rf_constant_max = p.rc.f_rf_constant + if open { NO_ROOM } else { 0.0 };
    if p.rc.i_vbv_buffer_size == 0 {
        p.rc.f_rf_constant_max = 0.0;
    }
}

/// Whether a sample needs more than 10 bits. x264 takes that for granted and aborts the process on larger ones.
fn exceeds_ten_bits(plane: &Plane<'_>, row: usize, rows: usize) -> bool {
    plane.data.chunks(plane.stride).take(rows).any(|line| {
        let line = &line[..row.min(line.len())];
        line.chunks_exact(2).fold(0, |all, sample| all | sample[1]) > 3
    })
}

fn clamp_int(value: u32) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

fn colour_space(format: PixelFormat) -> c_int {
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

#[cfg(test)]
mod tests;
