// SPDX-License-Identifier: MPL-2.0

//! The encoder's functions.

#![allow(unsafe_code, missing_docs, non_snake_case)]

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};

use dds_nvenc_sys::{self as sys, ids};

use crate::coder::{Coder, Layout, Shape};
use crate::cuda::{World, current, world};
use crate::{fault, fault_value, log};

use sys::NVENCSTATUS as Status;

/// Smallest and largest pictures, as of a GPU of today.
const SMALLEST: (u32, u32) = (145, 49);
const LARGEST: (u32, u32) = (4096, 4096);
/// Bytes that rows are apart more than they are long.
const MARGIN: u32 = 256;

/// A picture's place.
struct Input {
    data: Vec<u8>,
    locked: bool,
    written: bool,
}

/// Memory of the device that the encoder was told of.
struct Resource {
    address: u64,
    pitch: u32,
    /// The input that it is now.
    mapped: Option<usize>,
}

#[derive(Default)]
struct Output {
    data: Vec<u8>,
    idr: bool,
    full: bool,
    locked: bool,
}

/// One session.
pub(crate) struct Encoder {
    pub context: usize,
    setup: Option<Setup>,
    inputs: HashMap<usize, Input>,
    resources: HashMap<usize, Resource>,
    outputs: HashMap<usize, Output>,
    pictures: i64,
    ended: bool,
    last_error: CString,
}

/// Of an initialised encoder.
struct Setup {
    shape: Shape,
    format: sys::NV_ENC_BUFFER_FORMAT,
    coder: Option<Coder>,
    rc: sys::NV_ENC_RC_PARAMS,
    fixed: Fixed,
    last: Option<(u8, usize)>,
}

/// What reconfiguration must not touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fixed {
    gop: u32,
    frame_interval: i32,
    size: (u32, u32),
    preset: u32,
    tuning: u32,
}

/// Why a call is refused.
struct Refusal(Status, String);

type Outcome = Result<(), Refusal>;

fn refuse(status: Status, why: impl Into<String>) -> Outcome {
    Err(Refusal(status, why.into()))
}

/// Refuses what breaks a rule.
fn rule(kept: bool, why: impl FnOnce() -> String) -> Outcome {
    if kept {
        return Ok(());
    }
    let why = why();
    log(&format!("violation {why}"));
    refuse(sys::NV_ENC_ERR_INVALID_PARAM, why)
}

/// Whether GStreamer's own elements look at the encoder too, which they do by looser rules.
fn others_too() -> bool {
    fault("others-too")
}

/// What they ask for, and we do not. Without an answer they are not there.
unsafe extern "C" fn no_count(_encoder: *mut c_void, _codec: sys::GUID, _count: *mut u32) -> Status {
    not_ours()
}

unsafe extern "C" fn no_guids(
    _encoder: *mut c_void,
    _codec: sys::GUID,
    _list: *mut sys::GUID,
    _size: u32,
    _count: *mut u32,
) -> Status {
    not_ours()
}

fn not_ours() -> Status {
    let _ = rule(others_too(), || "profiles and presets were not expected".into());
    sys::NV_ENC_ERR_UNSUPPORTED_PARAM
}

fn zero<T: PartialEq + Default>(values: &[T]) -> bool {
    values.iter().all(|v| *v == T::default())
}

fn null(values: &[*mut c_void]) -> bool {
    values.iter().all(|v| v.is_null())
}

macro_rules! check {
    ($kept:expr, $($why:tt)*) => { rule($kept, || format!($($why)*))? };
}

impl Encoder {
    pub fn buffers(&self) -> usize {
        self.inputs.len() + self.resources.len() + self.outputs.len()
    }

    /// Whether it was told of the memory at an address.
    pub fn reads(&self, address: u64) -> bool {
        self.resources.values().any(|resource| resource.address == address)
    }

    /// Whether it is initialised, and does not know yet where pictures will lie.
    pub fn wants_input(&self) -> bool {
        self.setup.as_ref().is_some_and(|setup| setup.coder.is_none())
    }

    fn setup(&mut self) -> Result<&mut Setup, Refusal> {
        self.setup
            .as_mut()
            .ok_or_else(|| Refusal(sys::NV_ENC_ERR_ENCODER_NOT_INITIALIZED, "not initialized".into()))
    }
}

/// Runs a function on an open encoder whose context is current, and keeps its words.
fn with(handle: *mut c_void, call: &str, run: impl FnOnce(&mut World, usize) -> Outcome) -> Status {
    let mut world = world();
    let key = handle as usize;
    let Some(encoder) = world.encoders.get(&key) else {
        log(&format!("violation {call}: no such encoder"));
        return sys::NV_ENC_ERR_INVALID_PTR;
    };
    if current() != Some(encoder.context) {
        log(&format!("violation {call}: the encoder's context is not current"));
        return sys::NV_ENC_ERR_INVALID_DEVICE;
    }
    match run(&mut world, key) {
        Ok(()) => sys::NV_ENC_SUCCESS,
        Err(Refusal(status, why)) => {
            log(&format!("refused {call}: {why}"));
            if let Some(encoder) = world.encoders.get_mut(&key) {
                encoder.last_error = CString::new(why).unwrap_or_default();
            }
            status
        }
    }
}

/// The same for functions that touch the encoder alone.
fn on(handle: *mut c_void, call: &str, run: impl FnOnce(&mut Encoder) -> Outcome) -> Status {
    with(handle, call, |world, key| match world.encoders.get_mut(&key) {
        Some(encoder) => run(encoder),
        None => Ok(()),
    })
}

/// # Safety
/// `version` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn NvEncodeAPIGetMaxSupportedVersion(version: *mut u32) -> Status {
    // SAFETY: by contract.
    unsafe { *version = ids::API_VERSION_COMPARED - u32::from(fault("old-driver")) };
    sys::NV_ENC_SUCCESS
}

/// # Safety
/// `list` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn NvEncodeAPICreateInstance(list: *mut sys::NV_ENCODE_API_FUNCTION_LIST) -> Status {
    // SAFETY: by contract.
    let list = unsafe { &mut *list };
    let ours = list.version == ids::FUNCTION_LIST_VER && list.reserved == 0;
    if rule(ours || others_too(), || {
        format!("NvEncodeAPICreateInstance: version {:#x}", list.version)
    })
    .is_err()
    {
        return sys::NV_ENC_ERR_INVALID_VERSION;
    }
    list.nvEncOpenEncodeSessionEx = Some(open);
    list.nvEncGetEncodeGUIDCount = Some(guid_count);
    list.nvEncGetEncodeGUIDs = Some(guids);
    list.nvEncGetInputFormatCount = Some(format_count);
    list.nvEncGetInputFormats = Some(formats);
    list.nvEncGetEncodeCaps = Some(caps);
    list.nvEncGetEncodePresetConfigEx = Some(preset_config);
    list.nvEncInitializeEncoder = Some(initialize);
    list.nvEncReconfigureEncoder = Some(reconfigure);
    list.nvEncCreateInputBuffer = Some(create_input);
    list.nvEncDestroyInputBuffer = Some(destroy_input);
    list.nvEncCreateBitstreamBuffer = Some(create_output);
    list.nvEncDestroyBitstreamBuffer = Some(destroy_output);
    list.nvEncLockInputBuffer = Some(lock_input);
    list.nvEncUnlockInputBuffer = Some(unlock_input);
    list.nvEncEncodePicture = Some(encode);
    list.nvEncLockBitstream = Some(lock_output);
    list.nvEncUnlockBitstream = Some(unlock_output);
    list.nvEncGetSequenceParams = Some(sequence_params);
    list.nvEncGetLastErrorString = Some(last_error);
    list.nvEncRegisterResource = Some(register);
    list.nvEncUnregisterResource = Some(unregister);
    list.nvEncMapInputResource = Some(map);
    list.nvEncUnmapInputResource = Some(unmap);
    list.nvEncGetEncodeProfileGUIDCount = Some(no_count);
    list.nvEncGetEncodeProfileGUIDs = Some(no_guids);
    list.nvEncGetEncodePresetCount = Some(no_count);
    list.nvEncGetEncodePresetGUIDs = Some(no_guids);
    list.nvEncDestroyEncoder = Some(destroy);
    sys::NV_ENC_SUCCESS
}

unsafe extern "C" fn open(
    parameters: *mut sys::NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS,
    encoder: *mut *mut c_void,
) -> Status {
    // SAFETY: the caller gives both.
    let (p, out) = unsafe { (&*parameters, &mut *encoder) };
    let context = p.device as usize;
    if (p.apiVersion != ids::API_VERSION || current().is_none()) && others_too() {
        return sys::NV_ENC_ERR_INVALID_VERSION;
    }
    let mut world = world();
    let done = (|| {
        check!(
            p.version == ids::OPEN_ENCODE_SESSION_EX_PARAMS_VER,
            "open: version {:#x}",
            p.version
        );
        check!(
            p.deviceType == sys::NV_ENC_DEVICE_TYPE_CUDA,
            "open: device type {}",
            p.deviceType
        );
        check!(p.apiVersion == ids::API_VERSION, "open: API {:#x}", p.apiVersion);
        check!(
            p.reserved.is_null() && zero(&p.reserved1) && null(&p.reserved2),
            "open: reserved fields"
        );
        check!(world.contexts.contains(&context), "open: no such context");
        check!(current() == Some(context), "open: the context is not current");
        if fault("open-refused") || fault("one-session") && !world.encoders.is_empty() {
            return refuse(sys::NV_ENC_ERR_OUT_OF_MEMORY, "");
        }
        if fault("no-encoder") {
            return refuse(sys::NV_ENC_ERR_NO_ENCODE_DEVICE, "");
        }
        Ok(())
    })();
    // As the header warns: an encoder may be left that has to be destroyed.
    let handle = world.handle();
    world.encoders.insert(
        handle,
        Encoder {
            context,
            setup: None,
            inputs: HashMap::new(),
            resources: HashMap::new(),
            outputs: HashMap::new(),
            pictures: 0,
            ended: false,
            last_error: CString::default(),
        },
    );
    *out = handle as *mut c_void;
    match done {
        Ok(()) => sys::NV_ENC_SUCCESS,
        Err(Refusal(status, _)) => status,
    }
}

fn codecs() -> Vec<sys::GUID> {
    let all = [ids::HEVC, ids::H264];
    all.into_iter()
        .filter(|guid| !(fault("no-h264") && ids::same(guid, &ids::H264)))
        .collect()
}

unsafe extern "C" fn guid_count(encoder: *mut c_void, count: *mut u32) -> Status {
    on(encoder, "nvEncGetEncodeGUIDCount", |_| {
        // SAFETY: the caller gives it.
        unsafe { *count = codecs().len() as u32 };
        Ok(())
    })
}

unsafe extern "C" fn guids(encoder: *mut c_void, list: *mut sys::GUID, size: u32, count: *mut u32) -> Status {
    on(encoder, "nvEncGetEncodeGUIDs", |_| {
        let all = codecs();
        let known = all.len().min(size as usize);
        // SAFETY: the caller's list has room for `size`.
        unsafe {
            std::ptr::copy_nonoverlapping(all.as_ptr(), list, known);
            *count = known as u32;
        }
        Ok(())
    })
}

const FORMATS: [sys::NV_ENC_BUFFER_FORMAT; 3] = [
    sys::NV_ENC_BUFFER_FORMAT_NV12,
    sys::NV_ENC_BUFFER_FORMAT_YV12,
    sys::NV_ENC_BUFFER_FORMAT_IYUV,
];

unsafe extern "C" fn format_count(encoder: *mut c_void, _codec: sys::GUID, count: *mut u32) -> Status {
    on(encoder, "nvEncGetInputFormatCount", |_| {
        // SAFETY: the caller gives it.
        unsafe { *count = FORMATS.len() as u32 };
        Ok(())
    })
}

unsafe extern "C" fn formats(
    encoder: *mut c_void,
    _codec: sys::GUID,
    list: *mut sys::NV_ENC_BUFFER_FORMAT,
    size: u32,
    count: *mut u32,
) -> Status {
    on(encoder, "nvEncGetInputFormats", |_| {
        let known = FORMATS.len().min(size as usize);
        // SAFETY: the caller's list has room for `size`.
        unsafe {
            std::ptr::copy_nonoverlapping(FORMATS.as_ptr(), list, known);
            *count = known as u32;
        }
        Ok(())
    })
}

/// Largest picture, with `max-size`.
fn largest() -> (u32, u32) {
    fault_value("max-size")
        .and_then(|size| {
            let (w, h) = size.split_once('x')?;
            Some((w.parse().ok()?, h.parse().ok()?))
        })
        .unwrap_or(LARGEST)
}

unsafe extern "C" fn caps(
    encoder: *mut c_void,
    _codec: sys::GUID,
    parameter: *mut sys::NV_ENC_CAPS_PARAM,
    value: *mut c_int,
) -> Status {
    on(encoder, "nvEncGetEncodeCaps", |_| {
        // SAFETY: the caller gives it.
        let p = unsafe { &*parameter };
        check!(
            p.version == ids::CAPS_PARAM_VER && zero(&p.reserved),
            "caps: version or reserved fields"
        );
        let known = match p.capsToQuery {
            sys::NV_ENC_CAPS_WIDTH_MIN => SMALLEST.0,
            sys::NV_ENC_CAPS_HEIGHT_MIN => SMALLEST.1,
            sys::NV_ENC_CAPS_WIDTH_MAX => largest().0,
            sys::NV_ENC_CAPS_HEIGHT_MAX => largest().1,
            sys::NV_ENC_CAPS_SUPPORT_DYN_RCMODE_CHANGE => u32::from(!fault("no-mode-change")),
            sys::NV_ENC_CAPS_SUPPORT_CABAC
            | sys::NV_ENC_CAPS_SUPPORT_ADAPTIVE_TRANSFORM
            | sys::NV_ENC_CAPS_SUPPORT_MULTIPLE_REF_FRAMES => 1,
            _ if others_too() => 0,
            other => return rule(false, || format!("caps: {other} was not expected")),
        };
        // SAFETY: the caller gives it.
        unsafe { *value = known as c_int };
        Ok(())
    })
}

fn preset_number(guid: &sys::GUID) -> Option<u32> {
    Some(ids::PRESETS.iter().position(|one| ids::same(one, guid))? as u32 + 1)
}

unsafe extern "C" fn preset_config(
    encoder: *mut c_void,
    codec: sys::GUID,
    preset: sys::GUID,
    tuning: sys::NV_ENC_TUNING_INFO,
    config: *mut sys::NV_ENC_PRESET_CONFIG,
) -> Status {
    on(encoder, "nvEncGetEncodePresetConfigEx", |_| {
        // SAFETY: the caller gives it.
        let p = unsafe { &mut *config };
        check!(p.version == ids::PRESET_CONFIG_VER, "preset: version {:#x}", p.version);
        check!(
            p.presetCfg.version == ids::CONFIG_VER,
            "preset: version of the configuration"
        );
        check!(zero(&p.reserved1) && null(&p.reserved2), "preset: reserved fields");
        check!(preset_number(&preset).is_some(), "preset: no such preset");
        check!(
            tuning == sys::NV_ENC_TUNING_INFO_ULTRA_LOW_LATENCY,
            "preset: tuning {tuning}"
        );
        // Much of what moves quantizers or delays pictures is on, so that it has to be switched off.
        let c = &mut p.presetCfg;
        c.gopLength = 30;
        c.frameIntervalP = 3;
        c.frameFieldMode = sys::NV_ENC_PARAMS_FRAME_FIELD_MODE_FRAME;
        c.rcParams.version = ids::RC_PARAMS_VER;
        c.rcParams.rateControlMode = sys::NV_ENC_PARAMS_RC_VBR;
        c.rcParams.set_enableAQ(1);
        c.rcParams.set_enableLookahead(1);
        c.rcParams.lookaheadDepth = 8;
        c.rcParams.multiPass = sys::NV_ENC_TWO_PASS_QUARTER_RESOLUTION;
        c.rcParams.lowDelayKeyFrameScale = 1;
        if ids::same(&codec, &ids::H264) {
            // SAFETY: that member of the union is meant.
            let h264 = unsafe { &mut c.encodeCodecConfig.h264Config };
            h264.idrPeriod = 30;
            h264.set_outputBufferingPeriodSEI(1);
            h264.entropyCodingMode = sys::NV_ENC_H264_ENTROPY_CODING_MODE_CABAC;
            h264.adaptiveTransformMode = sys::NV_ENC_H264_ADAPTIVE_TRANSFORM_ENABLE;
            h264.chromaFormatIDC = 1;
        } else {
            // SAFETY: that member of the union is meant.
            let hevc = unsafe { &mut c.encodeCodecConfig.hevcConfig };
            hevc.idrPeriod = 30;
            hevc.maxCUSize = sys::NV_ENC_HEVC_CUSIZE_AUTOSELECT;
            hevc.set_chromaFormatIDC(1);
        }
        Ok(())
    })
}

fn check_rate_control(rc: &sys::NV_ENC_RC_PARAMS) -> Outcome {
    check!(
        rc.version == ids::RC_PARAMS_VER,
        "rate control: version {:#x}",
        rc.version
    );
    check!(
        zero(&rc.reserved) && zero(&rc.reserved1) && rc.reserved2 == 0 && rc.reservedBitFields() == 0,
        "rate control: reserved fields"
    );
    check!(
        rc.qpMapMode == sys::NV_ENC_QP_MAP_DELTA,
        "rate control: map mode {}",
        rc.qpMapMode
    );
    check!(
        rc.enableAQ() == 0 && rc.enableTemporalAQ() == 0,
        "rate control: adaptive quantization moves quantizers"
    );
    check!(
        rc.enableLookahead() == 0 && rc.lookaheadDepth == 0,
        "rate control: look-ahead delays"
    );
    check!(
        rc.multiPass == sys::NV_ENC_MULTI_PASS_DISABLED,
        "rate control: several passes"
    );
    check!(rc.zeroReorderDelay() == 1, "rate control: pictures may be reordered");
    let within = |qp: &sys::NV_ENC_QP| {
        [qp.qpInterP, qp.qpInterB, qp.qpIntra]
            .iter()
            .all(|qp| (1..=51).contains(qp))
    };
    match rc.rateControlMode {
        sys::NV_ENC_PARAMS_RC_CONSTQP => check!(within(&rc.constQP), "rate control: constant quantizer"),
        sys::NV_ENC_PARAMS_RC_CBR => check!(rc.averageBitRate > 0, "rate control: no bit rate"),
        sys::NV_ENC_PARAMS_RC_VBR => check!(
            rc.averageBitRate > 0 || (1..=51).contains(&rc.targetQuality),
            "rate control: neither bit rate nor quality"
        ),
        other => check!(false, "rate control: mode {other}"),
    }
    for (on, qp) in [(rc.enableMinQP(), &rc.minQP), (rc.enableMaxQP(), &rc.maxQP)] {
        check!(on == 0 || within(qp), "rate control: limits");
    }
    Ok(())
}

fn describe(rc: &sys::NV_ENC_RC_PARAMS) -> String {
    let bound = |on: u32, qp: &sys::NV_ENC_QP| if on == 1 { qp.qpInterP } else { 0 };
    format!(
        "mode={} qp={} average={} most={} bucket={} min={} max={} quality={}",
        rc.rateControlMode,
        rc.constQP.qpInterP,
        rc.averageBitRate,
        rc.maxBitRate,
        rc.vbvBufferSize,
        bound(rc.enableMinQP(), &rc.minQP),
        bound(rc.enableMaxQP(), &rc.maxQP),
        rc.targetQuality
    )
}

fn fixed(p: &sys::NV_ENC_INITIALIZE_PARAMS, c: &sys::NV_ENC_CONFIG) -> Fixed {
    Fixed {
        gop: c.gopLength,
        frame_interval: c.frameIntervalP,
        size: (p.encodeWidth, p.encodeHeight),
        preset: preset_number(&p.presetGUID).unwrap_or(0),
        tuning: p.tuningInfo,
    }
}

/// Checks what an encoder is made of, and reads it.
fn shape(p: &sys::NV_ENC_INITIALIZE_PARAMS) -> Result<(Shape, &sys::NV_ENC_CONFIG), Refusal> {
    check!(
        p.version == ids::INITIALIZE_PARAMS_VER,
        "initialize: version {:#x}",
        p.version
    );
    check!(
        zero(&p.reserved)
            && null(&p.reserved2)
            && p.reservedBitFields() == 0
            && p.privDataSize == 0
            && p.privData.is_null()
            && p.bufferFormat == 0,
        "initialize: reserved fields"
    );
    check!(
        p.enableEncodeAsync == 0 && p.enablePTD == 1,
        "initialize: asynchronous, or no picture types"
    );
    check!(!p.encodeConfig.is_null(), "initialize: no configuration");
    check!(p.frameRateNum > 0 && p.frameRateDen > 0, "initialize: no frame rate");
    check!(p.darWidth > 0 && p.darHeight > 0, "initialize: no aspect ratio");
    check!(preset_number(&p.presetGUID).is_some(), "initialize: no such preset");
    check!(
        p.tuningInfo == sys::NV_ENC_TUNING_INFO_ULTRA_LOW_LATENCY,
        "initialize: tuning {}",
        p.tuningInfo
    );
    let (w, h) = (p.encodeWidth, p.encodeHeight);
    check!(
        w % 2 == 0 && h % 2 == 0 && (SMALLEST.0..=largest().0).contains(&w) && (SMALLEST.1..=largest().1).contains(&h),
        "initialize: {w}x{h}"
    );
    // SAFETY: the caller's structure, which it keeps.
    let c = unsafe { &*p.encodeConfig };
    check!(c.version == ids::CONFIG_VER, "configuration: version {:#x}", c.version);
    check!(
        zero(&c.reserved) && null(&c.reserved2),
        "configuration: reserved fields"
    );
    check!(
        c.frameIntervalP == 1 && c.gopLength == ids::INFINITE_GOP,
        "configuration: B-frames or key frames"
    );
    check_rate_control(&c.rcParams)?;
    let hevc = ids::same(&p.encodeGUID, &ids::HEVC);
    check!(
        hevc || ids::same(&p.encodeGUID, &ids::H264),
        "initialize: no such codec"
    );
    let mut shape = Shape {
        hevc,
        width: w,
        height: h,
        layout: Layout::Nv12,
        frame_rate: (p.frameRateNum, p.frameRateDen),
        repeat_headers: false,
        aud: false,
        cabac: true,
        transform_8x8: false,
        profile: 100,
        level: 0,
        slices: 1,
        sps_id: 0,
        references: 0,
    };
    let vui;
    if hevc {
        // SAFETY: that member of the union is meant.
        let own = unsafe { &c.encodeCodecConfig.hevcConfig };
        check!(
            zero(&own.reserved1) && null(&own.reserved2) && own.reserved() == 0,
            "H.265: reserved fields"
        );
        check!(ids::same(&c.profileGUID, &ids::PROFILE_HEVC_MAIN), "H.265: profile");
        check!(
            own.maxCUSize == sys::NV_ENC_HEVC_CUSIZE_32x32,
            "H.265: coding tree blocks of {}",
            own.maxCUSize
        );
        check!(
            own.outputBufferingPeriodSEI() == 0 && own.outputPictureTimingSEI() == 0,
            "H.265: SEI"
        );
        check!(
            own.repeatSPSPPS() != own.disableSPSPPS(),
            "H.265: parameter sets both on and off"
        );
        check!(
            own.idrPeriod == ids::INFINITE_GOP && own.chromaFormatIDC() == 1,
            "H.265: key frames or chroma"
        );
        (shape.repeat_headers, shape.aud) = (own.repeatSPSPPS() == 1, own.outputAUD() == 1);
        vui = &own.hevcVUIParameters;
    } else {
        // SAFETY: that member of the union is meant.
        let own = unsafe { &c.encodeCodecConfig.h264Config };
        check!(
            zero(&own.reserved1) && null(&own.reserved2) && own.reservedBitFields() == 0,
            "H.264: reserved fields"
        );
        check!(
            own.outputBufferingPeriodSEI() == 0 && own.outputPictureTimingSEI() == 0,
            "H.264: SEI"
        );
        check!(
            own.repeatSPSPPS() != own.disableSPSPPS(),
            "H.264: parameter sets both on and off"
        );
        check!(
            own.idrPeriod == ids::INFINITE_GOP && own.chromaFormatIDC == 1,
            "H.264: key frames or chroma"
        );
        check!(own.sliceMode == 3 || own.sliceModeData == 0, "H.264: slices");
        shape.profile = match &c.profileGUID {
            guid if ids::same(guid, &ids::PROFILE_BASELINE) => 66,
            guid if ids::same(guid, &ids::PROFILE_MAIN) => 77,
            guid if ids::same(guid, &ids::PROFILE_HIGH) => 100,
            _ => return rule(false, || "H.264: profile".into()).map(|()| unreachable!()),
        };
        shape.cabac = own.entropyCodingMode == sys::NV_ENC_H264_ENTROPY_CODING_MODE_CABAC;
        shape.transform_8x8 = own.adaptiveTransformMode == sys::NV_ENC_H264_ADAPTIVE_TRANSFORM_ENABLE;
        check!(shape.profile > 66 || !shape.cabac, "H.264: CABAC in Baseline");
        check!(
            shape.profile > 77 || !shape.transform_8x8,
            "H.264: 8x8 transform below High"
        );
        (shape.repeat_headers, shape.aud) = (own.repeatSPSPPS() == 1, own.outputAUD() == 1);
        (shape.level, shape.sps_id) = (own.level, own.spsId);
        (shape.slices, shape.references) = (own.sliceModeData.max(1), own.maxNumRefFrames);
        vui = &own.h264VUIParameters;
    }
    check!(
        zero(&vui.reserved) && vui.bitstreamRestrictionFlag == 1,
        "VUI: reserved fields or restriction"
    );
    Ok((shape, c))
}

unsafe extern "C" fn initialize(encoder: *mut c_void, parameters: *mut sys::NV_ENC_INITIALIZE_PARAMS) -> Status {
    on(encoder, "nvEncInitializeEncoder", |encoder| {
        // SAFETY: the caller gives it.
        let p = unsafe { &*parameters };
        check!(encoder.setup.is_none(), "initialize: twice");
        let (shape, c) = shape(p)?;
        if fault("init-refused") {
            return refuse(sys::NV_ENC_ERR_UNSUPPORTED_PARAM, "this combination is not supported");
        }
        log(&format!(
            "initialize {} {}x{} preset={} profile={} slices={} {}",
            if shape.hevc { "H265" } else { "H264" },
            shape.width,
            shape.height,
            preset_number(&p.presetGUID).unwrap_or(0),
            shape.profile,
            shape.slices,
            describe(&c.rcParams)
        ));
        encoder.setup = Some(Setup {
            shape,
            format: 0,
            coder: None,
            rc: c.rcParams,
            fixed: fixed(p, c),
            last: None,
        });
        Ok(())
    })
}

unsafe extern "C" fn reconfigure(encoder: *mut c_void, parameters: *mut sys::NV_ENC_RECONFIGURE_PARAMS) -> Status {
    on(encoder, "nvEncReconfigureEncoder", |encoder| {
        // SAFETY: the caller gives it.
        let p = unsafe { &*parameters };
        check!(
            p.version == ids::RECONFIGURE_PARAMS_VER,
            "reconfigure: version {:#x}",
            p.version
        );
        check!(p.reserved() == 0, "reconfigure: reserved fields");
        check!(p.resetEncoder() == 0 && p.forceIDR() == 0, "reconfigure: begins anew");
        let (_, c) = shape(&p.reInitEncodeParams)?;
        let now = fixed(&p.reInitEncodeParams, c);
        let setup = encoder.setup()?;
        check!(now == setup.fixed, "reconfigure: {now:?} was {:?}", setup.fixed);
        if fault("reconfigure-refused") {
            return refuse(sys::NV_ENC_ERR_UNSUPPORTED_PARAM, "this change is not supported");
        }
        check!(
            c.rcParams.rateControlMode == setup.rc.rateControlMode || !fault("no-mode-change"),
            "reconfigure: another mode"
        );
        log(&format!("reconfigure {}", describe(&c.rcParams)));
        setup.rc = c.rcParams;
        Ok(())
    })
}

unsafe extern "C" fn create_input(encoder: *mut c_void, parameters: *mut sys::NV_ENC_CREATE_INPUT_BUFFER) -> Status {
    with(encoder, "nvEncCreateInputBuffer", |world, key| {
        // SAFETY: the caller gives it.
        let p = unsafe { &mut *parameters };
        check!(
            p.version == ids::CREATE_INPUT_BUFFER_VER,
            "input buffer: version {:#x}",
            p.version
        );
        check!(
            p.reserved == 0 && zero(&p.reserved1) && null(&p.reserved2) && p.pSysMemBuffer.is_null(),
            "input buffer: reserved fields"
        );
        if fault("out-of-memory") {
            return refuse(sys::NV_ENC_ERR_OUT_OF_MEMORY, "no memory for an input buffer");
        }
        let handle = world.handle();
        let Some(encoder) = world.encoders.get_mut(&key) else {
            return Ok(());
        };
        let setup = encoder.setup()?;
        check!(
            (p.width, p.height) == setup.fixed.size,
            "input buffer: {}x{}",
            p.width,
            p.height
        );
        check!(FORMATS.contains(&p.bufferFmt), "input buffer: format {}", p.bufferFmt);
        setup.begin(p.bufferFmt)?;
        let bytes = pitch(setup.shape.width) * setup.shape.height * 3 / 2;
        let input = Input {
            data: vec![0xee; bytes as usize],
            locked: false,
            written: false,
        };
        encoder.inputs.insert(handle, input);
        p.inputBuffer = handle as *mut c_void;
        Ok(())
    })
}

impl Setup {
    /// Opens what codes, once it is known how pictures lie.
    fn begin(&mut self, format: sys::NV_ENC_BUFFER_FORMAT) -> Outcome {
        check!(self.coder.is_none(), "two inputs");
        self.format = format;
        self.shape.layout = match format {
            sys::NV_ENC_BUFFER_FORMAT_IYUV => Layout::I420,
            sys::NV_ENC_BUFFER_FORMAT_YV12 => Layout::Yv12,
            _ => Layout::Nv12,
        };
        self.coder = Coder::new(self.shape);
        rule(self.coder.is_some(), || "libx264 or libx265 does not open".into())
    }
}

unsafe extern "C" fn register(encoder: *mut c_void, parameters: *mut sys::NV_ENC_REGISTER_RESOURCE) -> Status {
    with(encoder, "nvEncRegisterResource", |world, key| {
        // SAFETY: the caller gives it.
        let p = unsafe { &mut *parameters };
        check!(
            p.version == ids::REGISTER_RESOURCE_VER,
            "register: version {:#x}",
            p.version
        );
        check!(
            zero(&p.reserved1)
                && null(&p.reserved2)
                && p.pInputFencePoint.is_null()
                && p.pOutputFencePoint.is_null()
                && p.subResourceIndex == 0,
            "register: reserved fields"
        );
        check!(
            p.resourceType == sys::NV_ENC_INPUT_RESOURCE_TYPE_CUDADEVICEPTR && p.bufferUsage == sys::NV_ENC_INPUT_IMAGE,
            "register: kind {} for {}",
            p.resourceType,
            p.bufferUsage
        );
        if fault("register-refused") {
            return refuse(sys::NV_ENC_ERR_RESOURCE_REGISTER_FAILED, "this memory is not supported");
        }
        let handle = world.handle();
        let World { encoders, memory, .. } = world;
        let Some(encoder) = encoders.get_mut(&key) else {
            return Ok(());
        };
        let address = p.resourceToRegister as u64;
        let room = memory.at(encoder.context, address).map(|data| data.len());
        let setup = encoder.setup()?;
        check!(
            (p.width, p.height) == setup.fixed.size && FORMATS.contains(&p.bufferFormat),
            "register: {}x{} of format {}",
            p.width,
            p.height,
            p.bufferFormat
        );
        let needed = p.pitch as usize * p.height as usize * 3 / 2;
        check!(
            p.pitch >= p.width && p.pitch % 16 == 0 && room.as_ref().is_ok_and(|room| *room >= needed),
            "register: {needed} bytes of {room:?}, pitch {}",
            p.pitch
        );
        setup.begin(p.bufferFormat)?;
        log(&format!("register {}x{} pitch={}", p.width, p.height, p.pitch));
        let resource = Resource {
            address,
            pitch: p.pitch,
            mapped: None,
        };
        encoder.resources.insert(handle, resource);
        p.registeredResource = handle as *mut c_void;
        Ok(())
    })
}

unsafe extern "C" fn unregister(encoder: *mut c_void, resource: sys::NV_ENC_REGISTERED_PTR) -> Status {
    on(encoder, "nvEncUnregisterResource", |encoder| {
        let resource = encoder.resources.remove(&(resource as usize));
        rule(resource.is_some_and(|resource| resource.mapped.is_none()), || {
            "unregister: unknown or mapped".into()
        })
    })
}

unsafe extern "C" fn map(encoder: *mut c_void, parameters: *mut sys::NV_ENC_MAP_INPUT_RESOURCE) -> Status {
    with(encoder, "nvEncMapInputResource", |world, key| {
        // SAFETY: the caller gives it.
        let p = unsafe { &mut *parameters };
        check!(
            p.version == ids::MAP_INPUT_RESOURCE_VER,
            "map: version {:#x}",
            p.version
        );
        check!(
            zero(&p.reserved1) && null(&p.reserved2) && p.subResourceIndex == 0 && p.inputResource.is_null(),
            "map: reserved fields"
        );
        if fault("mapping-refused") {
            return refuse(sys::NV_ENC_ERR_MAP_FAILED, "this memory cannot be read");
        }
        let handle = world.handle();
        let Some(encoder) = world.encoders.get_mut(&key) else {
            return Ok(());
        };
        let format = encoder.setup()?.format;
        let Some(resource) = encoder.resources.get_mut(&(p.registeredResource as usize)) else {
            return rule(false, || "map: not registered".into());
        };
        check!(resource.mapped.is_none(), "map: mapped already");
        resource.mapped = Some(handle);
        p.mappedResource = handle as *mut c_void;
        p.mappedBufferFmt = format;
        Ok(())
    })
}

unsafe extern "C" fn unmap(encoder: *mut c_void, input: sys::NV_ENC_INPUT_PTR) -> Status {
    on(encoder, "nvEncUnmapInputResource", |encoder| {
        let coding = encoder.outputs.values().any(|output| output.full);
        let handle = Some(input as usize);
        let Some(resource) = encoder.resources.values_mut().find(|one| one.mapped == handle) else {
            return rule(false, || "unmap: not mapped".into());
        };
        resource.mapped = None;
        // Before its output was read, a picture may still be being coded.
        rule(!coding, || "unmap: the picture may not be coded yet".into())
    })
}

fn pitch(width: u32) -> u32 {
    (width + MARGIN).next_multiple_of(64)
}

unsafe extern "C" fn destroy_input(encoder: *mut c_void, buffer: *mut c_void) -> Status {
    on(encoder, "nvEncDestroyInputBuffer", |encoder| {
        let input = encoder.inputs.remove(&(buffer as usize));
        rule(input.is_some_and(|input| !input.locked), || {
            "input buffer: unknown or locked".into()
        })
    })
}

unsafe extern "C" fn create_output(
    encoder: *mut c_void,
    parameters: *mut sys::NV_ENC_CREATE_BITSTREAM_BUFFER,
) -> Status {
    with(encoder, "nvEncCreateBitstreamBuffer", |world, key| {
        // SAFETY: the caller gives it.
        let p = unsafe { &mut *parameters };
        check!(
            p.version == ids::CREATE_BITSTREAM_BUFFER_VER,
            "output buffer: version {:#x}",
            p.version
        );
        check!(
            p.reserved == 0 && zero(&p.reserved1) && null(&p.reserved2) && p.size == 0,
            "output buffer: reserved fields"
        );
        let handle = world.handle();
        let Some(encoder) = world.encoders.get_mut(&key) else {
            return Ok(());
        };
        encoder.setup()?;
        encoder.outputs.insert(handle, Output::default());
        p.bitstreamBuffer = handle as *mut c_void;
        Ok(())
    })
}

unsafe extern "C" fn destroy_output(encoder: *mut c_void, buffer: *mut c_void) -> Status {
    on(encoder, "nvEncDestroyBitstreamBuffer", |encoder| {
        let output = encoder.outputs.remove(&(buffer as usize));
        rule(output.is_some_and(|output| !output.locked), || {
            "output buffer: unknown or locked".into()
        })
    })
}

unsafe extern "C" fn lock_input(encoder: *mut c_void, parameters: *mut sys::NV_ENC_LOCK_INPUT_BUFFER) -> Status {
    on(encoder, "nvEncLockInputBuffer", |encoder| {
        // SAFETY: the caller gives it.
        let p = unsafe { &mut *parameters };
        check!(
            p.version == ids::LOCK_INPUT_BUFFER_VER,
            "lock input: version {:#x}",
            p.version
        );
        check!(
            p.reservedBitFields() == 0 && zero(&p.reserved1) && null(&p.reserved2),
            "lock input: reserved fields"
        );
        let width = encoder.setup()?.shape.width;
        let Some(input) = encoder.inputs.get_mut(&(p.inputBuffer as usize)) else {
            return rule(false, || "lock input: no such buffer".into());
        };
        check!(!input.locked, "lock input: locked already");
        input.locked = true;
        p.bufferDataPtr = input.data.as_mut_ptr().cast();
        p.pitch = pitch(width);
        Ok(())
    })
}

unsafe extern "C" fn unlock_input(encoder: *mut c_void, buffer: *mut c_void) -> Status {
    on(encoder, "nvEncUnlockInputBuffer", |encoder| {
        let Some(input) = encoder.inputs.get_mut(&(buffer as usize)) else {
            return rule(false, || "unlock input: no such buffer".into());
        };
        check!(input.locked, "unlock input: not locked");
        (input.locked, input.written) = (false, true);
        Ok(())
    })
}

/// The quantizer of rate control for a picture: constant, or by rules just good enough to show that somebody keeps
/// rates. `last`: quantizer and bits of the picture before.
fn rate_control(rc: &sys::NV_ENC_RC_PARAMS, frame_rate: (u32, u32), last: Option<(u8, usize)>) -> u8 {
    let low = if rc.enableMinQP() == 1 { rc.minQP.qpInterP } else { 1 } as f64;
    let high = if rc.enableMaxQP() == 1 { rc.maxQP.qpInterP } else { 51 } as f64;
    let share = |bits: u32| f64::from(bits) * f64::from(frame_rate.1) / f64::from(frame_rate.0);
    let steps = |bits: f64, room: f64| 6.0 * (bits / room.max(1.0)).log2();
    let qp = match (rc.rateControlMode, last) {
        (sys::NV_ENC_PARAMS_RC_CONSTQP, _) => f64::from(rc.constQP.qpInterP),
        (sys::NV_ENC_PARAMS_RC_CBR, None) => 30.0,
        (sys::NV_ENC_PARAMS_RC_CBR, Some((qp, bits))) => {
            f64::from(qp) + steps(bits as f64, share(rc.averageBitRate)).clamp(-2.0, 6.0)
        }
        // As fine as allowed, unless a picture like the last one would not go into the bucket.
        (_, last) => {
            let finest = low.max(f64::from(rc.targetQuality));
            let more = last.filter(|_| rc.vbvBufferSize > 0).map_or(0.0, |(qp, bits)| {
                let here = bits as f64 * ((f64::from(qp) - finest) / 6.0).exp2();
                steps(here, f64::from(rc.vbvBufferSize)).max(0.0).ceil()
            });
            finest + more
        }
    };
    qp.clamp(low, high.max(low)).round() as u8
}

unsafe extern "C" fn encode(encoder: *mut c_void, parameters: *mut sys::NV_ENC_PIC_PARAMS) -> Status {
    with(encoder, "nvEncEncodePicture", |world, key| {
        let World {
            encoders,
            memory,
            contexts,
            ..
        } = world;
        let Some(encoder) = encoders.get_mut(&key) else {
            return Ok(());
        };
        // SAFETY: the caller gives it.
        let p = unsafe { &*parameters };
        check!(p.version == ids::PIC_PARAMS_VER, "picture: version {:#x}", p.version);
        check!(
            zero(&p.reserved1)
                && null(&p.reserved2)
                && zero(&p.reserved3)
                && null(&p.reserved4)
                && p.reservedBitFields == 0
                && zero(&p.codecPicParams.0)
                && p.alphaBuffer.is_null()
                && p.completionEvent.is_null()
                && p.meExternalHints.is_null(),
            "picture: reserved fields"
        );
        check!(!encoder.ended, "picture: after the end");
        let number = encoder.pictures;
        if fault_value("lost-at")
            .and_then(|n| n.parse().ok())
            .is_some_and(|n: i64| number >= n)
        {
            return refuse(sys::NV_ENC_ERR_DEVICE_NOT_EXIST, "the device was reset");
        }
        if p.encodePicFlags == sys::NV_ENC_PIC_FLAG_EOS {
            check!(
                p.inputBuffer.is_null() && p.outputBitstream.is_null(),
                "picture: buffers at the end"
            );
            encoder.ended = true;
            return Ok(());
        }
        check!(
            p.encodePicFlags & !sys::NV_ENC_PIC_FLAG_FORCEIDR == 0,
            "picture: flags {:#x}",
            p.encodePicFlags
        );
        let handle = p.inputBuffer as usize;
        let mapped = encoder.resources.values().find(|one| one.mapped == Some(handle));
        let on_gpu = mapped.is_some();
        let (input, input_pitch) = if let Some(resource) = mapped {
            match memory.at(encoder.context, resource.address) {
                Ok(data) => (data, resource.pitch),
                Err(why) => return rule(false, || format!("picture: {why}")),
            }
        } else {
            let Some(input) = encoder.inputs.get_mut(&handle) else {
                return rule(false, || "picture: no such input".into());
            };
            check!(!input.locked && input.written, "picture: its input is locked or empty");
            input.written = false;
            (&mut input.data[..], pitch(p.inputWidth))
        };
        let Some(output) = encoder.outputs.get_mut(&(p.outputBitstream as usize)) else {
            return rule(false, || "picture: no such output".into());
        };
        check!(
            !output.locked && !output.full,
            "picture: its output is locked or not read"
        );
        let Some(setup) = encoder.setup.as_mut() else {
            return refuse(sys::NV_ENC_ERR_ENCODER_NOT_INITIALIZED, "not initialized");
        };
        let shape = setup.shape;
        check!((p.inputWidth, p.inputHeight) == setup.fixed.size, "picture: size");
        check!(p.inputPitch == input_pitch, "picture: pitch {}", p.inputPitch);
        check!(p.bufferFmt == setup.format, "picture: format {}", p.bufferFmt);
        check!(p.pictureStruct == sys::NV_ENC_PIC_STRUCT_FRAME, "picture: fields");
        check!(
            p.inputTimeStamp == number as u64,
            "picture: time stamp {} of {number}",
            p.inputTimeStamp
        );

        let qp = rate_control(&setup.rc, shape.frame_rate, setup.last);
        let block = if shape.hevc { 32 } else { 16 };
        let (columns, rows) = (shape.width.div_ceil(block), shape.height.div_ceil(block));
        check!(!p.qpDeltaMap.is_null(), "picture: no map");
        check!(
            p.qpDeltaMapSize == columns * rows,
            "qpDeltaMapSize {} != {columns}x{rows}",
            p.qpDeltaMapSize
        );
        if fault("map-refused") {
            return refuse(sys::NV_ENC_ERR_UNSUPPORTED_PARAM, "qpDeltaMap is not supported");
        }
        // SAFETY: the caller's map has the size it says.
        let map = unsafe { std::slice::from_raw_parts(p.qpDeltaMap, p.qpDeltaMapSize as usize) };
        let exact = setup.rc.rateControlMode == sys::NV_ENC_PARAMS_RC_CONSTQP;
        let total = |delta: i8| i16::from(qp) + i16::from(delta);
        for (i, delta) in map.iter().enumerate() {
            check!(
                (-51..=51).contains(delta) && (!exact || (1..=51).contains(&total(*delta))),
                "map: {delta} on top of {qp} in block {i}"
            );
        }
        let strength = match (fault("ignore-map"), fault("halve-map")) {
            (true, _) => 0,
            (_, true) => 1,
            _ => 2,
        };
        let qps: Vec<u8> = map
            .iter()
            .map(|delta| total(delta * strength / 2).clamp(1, 51) as u8)
            .collect();
        let idr = number == 0 || p.encodePicFlags & sys::NV_ENC_PIC_FLAG_FORCEIDR != 0;
        let coded = setup
            .coder
            .as_mut()
            .and_then(|coder| coder.code(input, p.inputPitch as usize, number, idr, &qps));
        let Some(data) = coded else {
            return refuse(sys::NV_ENC_ERR_GENERIC, "libx264 or libx265 codes nothing");
        };
        setup.last = Some((qp, data.len() * 8));
        *output = Output {
            data,
            idr,
            full: true,
            locked: false,
        };
        // What comes next has to be written anew.
        input.fill(0xee);
        encoder.pictures += 1;
        let map: Vec<_> = map.iter().map(i8::to_string).collect();
        log(&format!(
            "picture {} {}x{} {qp} {} {} {}",
            if idr { "idr" } else { "p" },
            shape.width,
            shape.height,
            map.join(","),
            if on_gpu { "gpu" } else { "system" },
            contexts.len()
        ));
        Ok(())
    })
}

unsafe extern "C" fn lock_output(encoder: *mut c_void, parameters: *mut sys::NV_ENC_LOCK_BITSTREAM) -> Status {
    on(encoder, "nvEncLockBitstream", |encoder| {
        // SAFETY: the caller gives it.
        let p = unsafe { &mut *parameters };
        check!(
            p.version == ids::LOCK_BITSTREAM_VER,
            "lock output: version {:#x}",
            p.version
        );
        check!(
            p.reservedBitFields() == 0
                && zero(&p.reserved)
                && zero(&p.reserved1)
                && null(&p.reserved2)
                && p.doNotWait() == 0,
            "lock output: reserved fields, or does not wait"
        );
        let Some(output) = encoder.outputs.get_mut(&(p.outputBitstream as usize)) else {
            return rule(false, || "lock output: no such buffer".into());
        };
        check!(output.full && !output.locked, "lock output: empty or locked");
        output.locked = true;
        p.bitstreamBufferPtr = output.data.as_mut_ptr().cast();
        p.bitstreamSizeInBytes = output.data.len() as u32;
        p.pictureType = if output.idr {
            sys::NV_ENC_PIC_TYPE_IDR
        } else {
            sys::NV_ENC_PIC_TYPE_P
        };
        Ok(())
    })
}

unsafe extern "C" fn unlock_output(encoder: *mut c_void, buffer: *mut c_void) -> Status {
    on(encoder, "nvEncUnlockBitstream", |encoder| {
        let Some(output) = encoder.outputs.get_mut(&(buffer as usize)) else {
            return rule(false, || "unlock output: no such buffer".into());
        };
        check!(output.locked, "unlock output: not locked");
        *output = Output::default();
        Ok(())
    })
}

unsafe extern "C" fn sequence_params(encoder: *mut c_void, payload: *mut sys::NV_ENC_SEQUENCE_PARAM_PAYLOAD) -> Status {
    on(encoder, "nvEncGetSequenceParams", |encoder| {
        // SAFETY: the caller gives it.
        let p = unsafe { &mut *payload };
        check!(
            p.version == ids::SEQUENCE_PARAM_PAYLOAD_VER,
            "parameter sets: version {:#x}",
            p.version
        );
        check!(
            zero(&p.reserved) && null(&p.reserved2),
            "parameter sets: reserved fields"
        );
        let setup = encoder.setup()?;
        check!(p.spsId == setup.shape.sps_id, "parameter sets: ID {}", p.spsId);
        let Some(coder) = setup.coder.as_mut() else {
            return rule(false, || "parameter sets: no buffers yet".into());
        };
        let data = coder.headers();
        check!(
            p.inBufferSize as usize >= data.len() && !p.spsppsBuffer.is_null() && !p.outSPSPPSPayloadSize.is_null(),
            "parameter sets: no room"
        );
        // SAFETY: there is room, as just checked.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), p.spsppsBuffer.cast(), data.len());
            *p.outSPSPPSPayloadSize = data.len() as u32;
        }
        Ok(())
    })
}

unsafe extern "C" fn last_error(encoder: *mut c_void) -> *const c_char {
    let world = world();
    // The text lives until the encoder's next call.
    world
        .encoders
        .get(&(encoder as usize))
        .map_or(std::ptr::null(), |encoder| encoder.last_error.as_ptr())
}

unsafe extern "C" fn destroy(encoder: *mut c_void) -> Status {
    let status = with(encoder, "nvEncDestroyEncoder", |world, key| {
        let Some(encoder) = world.encoders.remove(&key) else {
            return Ok(());
        };
        check!(
            encoder.buffers() == 0,
            "destroy: {} buffers are left",
            encoder.buffers()
        );
        let lost = fault("lost-at");
        check!(
            encoder.pictures == 0 || encoder.ended || lost,
            "destroy: not told of the end"
        );
        Ok(())
    });
    log("destroyed");
    status
}
