// SPDX-License-Identifier: MPL-2.0

//! One session of the encoder: a CUDA context, an encoder, one buffer in and one buffer out.
//!
//! Coding is synchronous: a picture is written to the buffer, coded, and read before the next one comes. Every call is
//! made with the session's context current, whatever thread it comes from.
//!
//! Where the context is the session's own, the input buffer is the driver's, and pictures come from system memory.
//! Where it is lent ([`Gpu`]), pictures are in it, and the input buffer is memory there that is registered with the
//! encoder.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use dds_nvenc_sys::{self as sys, ids};

use super::super::{Codec, Gpu, OpenError, Picture, PixelFormat};
use super::driver::{CallError, Driver, refused, zeroed};
use super::settings::{Control, NvencSettings, Profile};
use super::surface::{Source, Surface, places};

/// Most bytes of parameter sets (`NV_MAX_SEQ_HDR_LEN`), twice.
const HEADER_BYTES: usize = 1024;
/// Code point for "unspecified video format" in the VUI.
const UNSPECIFIED_VIDEO: u32 = 5;

/// Calls a function of the driver's list for this session.
macro_rules! call {
    ($session:expr, $function:ident ( $($argument:expr),* )) => {{
        let session: &Session = $session;
        match session.driver.functions.$function {
            // SAFETY: the function is the driver's own for this session; structures have the version they declare, and
            // what they point to lives until the call returns.
            Some(function) => session.check(stringify!($function), unsafe { function(session.encoder $(, $argument)*) }),
            None => Err(CallError::new(stringify!($function), sys::NV_ENC_ERR_UNIMPLEMENTED, "")),
        }
    }};
}

/// Capabilities of a device, for one standard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Abilities {
    /// Rate control may change its mode in an open session.
    pub changes_mode: bool,
}

/// The context that a session is opened in.
#[derive(Clone, Copy, Debug)]
pub(super) enum At<'a> {
    /// A context of its own on the device of this number.
    Device(c_int),
    /// A lent context.
    Lent(&'a Gpu),
}

/// Memory of a lent context that pictures are copied to, and the encoder's handle for it; null where it is not
/// registered.
struct Registered {
    surface: Surface,
    resource: sys::NV_ENC_REGISTERED_PTR,
}

/// An open session of NVENC with its context, encoder and buffers. Dropping it releases them in reverse order.
pub(super) struct Session {
    driver: Arc<Driver>,
    context: *mut c_void,
    /// The context and its owner, where it is lent.
    lent: Option<Gpu>,
    encoder: *mut c_void,
    /// The driver's buffer, null where there is a surface.
    input: *mut c_void,
    surface: Option<Registered>,
    bitstream: *mut c_void,
    /// Name of the device.
    pub device: String,
    pub abilities: Abilities,
    initialize: Box<sys::NV_ENC_INITIALIZE_PARAMS>,
    config: Box<sys::NV_ENC_CONFIG>,
    format: PixelFormat,
    buffer_format: sys::NV_ENC_BUFFER_FORMAT,
    /// Something was coded, so the encoder has to be flushed at the end.
    begun: bool,
}

/// A coded picture.
pub(super) struct Coded {
    pub idr: bool,
}

/// Takes the context off the thread again.
struct Current<'a>(&'a Driver);

impl Drop for Current<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let entered = self.driver.enter(self.context).is_ok();
        if self.begun {
            let mut end = Box::new(zeroed::<sys::NV_ENC_PIC_PARAMS>());
            end.version = ids::PIC_PARAMS_VER;
            end.encodePicFlags = sys::NV_ENC_PIC_FLAG_EOS;
            // Nothing waits: results do not matter any more, here and below.
            let _ = call!(&*self, nvEncEncodePicture(&mut *end));
        }
        if !self.input.is_null() {
            let _ = call!(&*self, nvEncDestroyInputBuffer(self.input));
        }
        if let Some(registered) = self.surface.as_ref().filter(|r| !r.resource.is_null()) {
            let _ = call!(&*self, nvEncUnregisterResource(registered.resource));
        }
        if !self.bitstream.is_null() {
            let _ = call!(&*self, nvEncDestroyBitstreamBuffer(self.bitstream));
        }
        if !self.encoder.is_null() {
            let _ = call!(&*self, nvEncDestroyEncoder());
        }
        self.surface = None;
        if entered {
            self.driver.leave();
        }
        if self.lent.is_none() {
            // SAFETY: the context came from the driver, and the encoder that used it is gone.
            unsafe { self.driver.destroy(self.context) };
        }
    }
}

impl Session {
    /// Opens a session with an encoder of these settings in it.
    ///
    /// # Errors
    /// Names what the device or its driver refuses.
    pub fn open(
        driver: &Arc<Driver>,
        at: At<'_>,
        settings: &NvencSettings,
        format: PixelFormat,
        control: Control,
    ) -> Result<Self, OpenError> {
        let (context, device, lent) = match at {
            At::Device(ordinal) => {
                let (context, device) = driver.context(ordinal)?;
                (context, device, None)
            }
            At::Lent(gpu) => {
                driver.enter(gpu.context())?;
                let _current = Current(driver);
                (gpu.context(), driver.current_device()?, Some(gpu.clone()))
            }
        };
        let mut session = Self {
            driver: driver.clone(),
            context,
            lent,
            encoder: ptr::null_mut(),
            input: ptr::null_mut(),
            surface: None,
            bitstream: ptr::null_mut(),
            device,
            abilities: Abilities::default(),
            initialize: Box::new(zeroed()),
            config: Box::new(zeroed()),
            format,
            buffer_format: match format {
                PixelFormat::I420 => sys::NV_ENC_BUFFER_FORMAT_IYUV,
                PixelFormat::Yv12 => sys::NV_ENC_BUFFER_FORMAT_YV12,
                _ => sys::NV_ENC_BUFFER_FORMAT_NV12,
            },
            begun: false,
        };
        driver.enter(context)?;
        let _current = Current(driver);
        session.open_encoder().map_err(|e| refused(&e))?;
        session.check_support(settings)?;
        session.initialize(settings, control).map_err(|e| refused(&e))?;
        if session.lent.is_some() {
            session.create_surface(settings)?;
        } else {
            session.create_input(settings).map_err(|e| refused(&e))?;
        }
        session.create_output().map_err(|e| refused(&e))?;
        Ok(session)
    }

    /// Whether pictures may be in the context.
    pub fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// Name of the library, for tags.
    pub fn name(&self) -> String {
        let (major, minor) = self.driver.api;
        format!(
            "NVENC {major}.{minor} on {}, CUDA {}",
            self.device,
            self.driver.cuda_version()
        )
    }

    fn check(&self, call: &'static str, status: sys::NVENCSTATUS) -> Result<(), CallError> {
        if status == sys::NV_ENC_SUCCESS {
            return Ok(());
        }
        let mut text = String::new();
        if !self.encoder.is_null()
            && let Some(last_error) = self.driver.functions.nvEncGetLastErrorString
        {
            // SAFETY: the encoder is open; the text is a C string of the driver's that lives until the next call.
            unsafe {
                let words = last_error(self.encoder);
                if !words.is_null() {
                    text = CStr::from_ptr(words).to_string_lossy().trim().to_string();
                }
            }
        }
        Err(CallError::new(call, status, text))
    }

    fn open_encoder(&mut self) -> Result<(), CallError> {
        const CALL: &str = "nvEncOpenEncodeSessionEx";
        let mut parameters = zeroed::<sys::NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS>();
        parameters.version = ids::OPEN_ENCODE_SESSION_EX_PARAMS_VER;
        parameters.deviceType = sys::NV_ENC_DEVICE_TYPE_CUDA;
        parameters.device = self.context;
        parameters.apiVersion = ids::API_VERSION;
        let Some(open) = self.driver.functions.nvEncOpenEncodeSessionEx else {
            return Err(CallError::new(CALL, sys::NV_ENC_ERR_UNIMPLEMENTED, ""));
        };
        // SAFETY: the structure has the version it declares, and its context is current. By the header, an encoder left
        // by a failed opening has to be destroyed too.
        let status = unsafe { open(&mut parameters, &mut self.encoder) };
        self.check(CALL, status)
    }

    fn ability(&self, codec: sys::GUID, which: sys::NV_ENC_CAPS) -> Result<c_int, CallError> {
        let mut parameter = zeroed::<sys::NV_ENC_CAPS_PARAM>();
        parameter.version = ids::CAPS_PARAM_VER;
        parameter.capsToQuery = which;
        let mut value = 0;
        call!(self, nvEncGetEncodeCaps(codec, &mut parameter, &mut value))?;
        Ok(value)
    }

    fn codes(&self, codec: sys::GUID) -> Result<bool, CallError> {
        let mut count = 0;
        call!(self, nvEncGetEncodeGUIDCount(&mut count))?;
        let mut all = vec![codec; count as usize];
        let mut known = 0;
        if count > 0 {
            call!(self, nvEncGetEncodeGUIDs(all.as_mut_ptr(), count, &mut known))?;
        }
        Ok(all.iter().take(known as usize).any(|one| ids::same(one, &codec)))
    }

    fn takes_format(&self, codec: sys::GUID) -> Result<bool, CallError> {
        let mut count = 0;
        call!(self, nvEncGetInputFormatCount(codec, &mut count))?;
        let mut all = vec![0; count as usize];
        let mut known = 0;
        if count > 0 {
            call!(self, nvEncGetInputFormats(codec, all.as_mut_ptr(), count, &mut known))?;
        }
        Ok(all.iter().take(known as usize).any(|one| *one == self.buffer_format))
    }

    /// Checks first, because our refusal explains more than the driver's.
    fn check_support(&mut self, settings: &NvencSettings) -> Result<(), OpenError> {
        let codec = codec_guid(settings.codec);
        let ask = |which| self.ability(codec, which).map_err(|e| refused(&e));
        let lacks = |what: &str, reason: String, cure: &str| Err(OpenError::refused(what, reason, cure));
        const OTHER: &str = "Choose another encoder";
        if !self.codes(codec).map_err(|e| refused(&e))? {
            let reason = format!("{} does not code {:?}", self.device, settings.codec);
            return lacks("encoder=nvenc", reason, OTHER);
        }
        if !self.takes_format(codec).map_err(|e| refused(&e))? {
            let reason = format!("{} does not take this video format", self.device);
            return lacks("encoder=nvenc", reason, "Convert the video to NV12 (videoconvert)");
        }
        let least = (ask(sys::NV_ENC_CAPS_WIDTH_MIN)?, ask(sys::NV_ENC_CAPS_HEIGHT_MIN)?);
        let most = (ask(sys::NV_ENC_CAPS_WIDTH_MAX)?, ask(sys::NV_ENC_CAPS_HEIGHT_MAX)?);
        let within = |size: u32, least: c_int, most: c_int| {
            let size = i64::from(size);
            (i64::from(least)..=i64::from(most)).contains(&size)
        };
        if !within(settings.width, least.0, most.0) || !within(settings.height, least.1, most.1) {
            return lacks(
                "encoder=nvenc",
                format!(
                    "{} codes from {}x{} to {}x{}, not {}x{}",
                    self.device, least.0, least.1, most.0, most.1, settings.width, settings.height
                ),
                "Scale the video before the element (videoscale), or choose another encoder",
            );
        }
        if settings.cabac == Some(true) && ask(sys::NV_ENC_CAPS_SUPPORT_CABAC)? == 0 {
            return lacks("cabac", format!("{} lacks it", self.device), "Remove it");
        }
        if settings.transform_8x8 == Some(true) && ask(sys::NV_ENC_CAPS_SUPPORT_ADAPTIVE_TRANSFORM)? == 0 {
            return lacks("dct8x8", format!("{} lacks it", self.device), "Remove it");
        }
        if settings.references > 1 && ask(sys::NV_ENC_CAPS_SUPPORT_MULTIPLE_REF_FRAMES)? == 0 {
            let reason = format!("{} looks at one reference frame only", self.device);
            return lacks("ref", reason, "Set it to 1 or remove it");
        }
        let changes_mode = ask(sys::NV_ENC_CAPS_SUPPORT_DYN_RCMODE_CHANGE)? != 0;
        self.abilities = Abilities { changes_mode };
        Ok(())
    }

    fn initialize(&mut self, settings: &NvencSettings, control: Control) -> Result<(), CallError> {
        let codec = codec_guid(settings.codec);
        let preset = ids::PRESETS[(settings.preset.clamp(1, 7)) - 1];
        let tuning = sys::NV_ENC_TUNING_INFO_ULTRA_LOW_LATENCY;
        let mut defaults = Box::new(zeroed::<sys::NV_ENC_PRESET_CONFIG>());
        defaults.version = ids::PRESET_CONFIG_VER;
        defaults.presetCfg.version = ids::CONFIG_VER;
        call!(
            &*self,
            nvEncGetEncodePresetConfigEx(codec, preset, tuning, &mut *defaults)
        )?;
        *self.config = defaults.presetCfg;
        fill_config(&mut self.config, settings);
        set_control(&mut self.config.rcParams, control, settings.limits);

        let p = &mut *self.initialize;
        p.version = ids::INITIALIZE_PARAMS_VER;
        p.encodeGUID = codec;
        p.presetGUID = preset;
        p.tuningInfo = tuning;
        (p.encodeWidth, p.encodeHeight) = (settings.width, settings.height);
        (p.darWidth, p.darHeight) = settings.display;
        (p.frameRateNum, p.frameRateDen) = settings.frame_rate;
        // Picture types are the driver's, so that it takes requests for IDR pictures.
        p.enablePTD = 1;
        p.encodeConfig = &raw mut *self.config;
        let parameters = &raw mut *self.initialize;
        call!(&*self, nvEncInitializeEncoder(parameters))
    }

    fn create_input(&mut self, settings: &NvencSettings) -> Result<(), CallError> {
        let mut input = zeroed::<sys::NV_ENC_CREATE_INPUT_BUFFER>();
        input.version = ids::CREATE_INPUT_BUFFER_VER;
        (input.width, input.height) = (settings.width, settings.height);
        input.bufferFmt = self.buffer_format;
        call!(&*self, nvEncCreateInputBuffer(&mut input))?;
        self.input = input.inputBuffer;
        Ok(())
    }

    fn create_surface(&mut self, settings: &NvencSettings) -> Result<(), OpenError> {
        let size = (settings.width as usize, settings.height as usize);
        let surface = Surface::new(&self.driver, self.format, size)?;
        let mut resource = Box::new(zeroed::<sys::NV_ENC_REGISTER_RESOURCE>());
        resource.version = ids::REGISTER_RESOURCE_VER;
        resource.resourceType = sys::NV_ENC_INPUT_RESOURCE_TYPE_CUDADEVICEPTR;
        (resource.width, resource.height) = (settings.width, settings.height);
        resource.pitch = surface.pitch as u32;
        resource.resourceToRegister = surface.address as *mut c_void;
        resource.bufferFormat = self.buffer_format;
        resource.bufferUsage = sys::NV_ENC_INPUT_IMAGE;
        let registered = call!(&*self, nvEncRegisterResource(&mut *resource));
        self.surface = Some(Registered {
            surface,
            resource: resource.registeredResource,
        });
        registered.map_err(|e| refused(&e))
    }

    fn create_output(&mut self) -> Result<(), CallError> {
        let mut output = zeroed::<sys::NV_ENC_CREATE_BITSTREAM_BUFFER>();
        output.version = ids::CREATE_BITSTREAM_BUFFER_VER;
        call!(&*self, nvEncCreateBitstreamBuffer(&mut output))?;
        self.bitstream = output.bitstreamBuffer;
        Ok(())
    }

    /// Parameter sets, with start codes.
    pub fn parameter_sets(&self, id: u32) -> Result<Vec<u8>, OpenError> {
        self.driver.enter(self.context)?;
        let _current = Current(&self.driver);
        let mut data = vec![0u8; HEADER_BYTES];
        let mut size = 0u32;
        let mut payload = zeroed::<sys::NV_ENC_SEQUENCE_PARAM_PAYLOAD>();
        payload.version = ids::SEQUENCE_PARAM_PAYLOAD_VER;
        payload.inBufferSize = HEADER_BYTES as u32;
        (payload.spsId, payload.ppsId) = (id, id);
        payload.spsppsBuffer = data.as_mut_ptr().cast();
        payload.outSPSPPSPayloadSize = &mut size;
        call!(self, nvEncGetSequenceParams(&mut payload)).map_err(|e| refused(&e))?;
        data.truncate(size as usize);
        Ok(data)
    }

    /// Switches to another rate control from the next picture on. Where the driver refuses, the one before stays.
    pub fn reconfigure(&mut self, control: Control, limits: (u8, u8)) -> Result<(), String> {
        self.driver.enter(self.context).map_err(|e| e.to_string())?;
        let driver = self.driver.clone();
        let _current = Current(&driver);
        let before = self.config.rcParams;
        set_control(&mut self.config.rcParams, control, limits);
        let mut change = Box::new(zeroed::<sys::NV_ENC_RECONFIGURE_PARAMS>());
        change.version = ids::RECONFIGURE_PARAMS_VER;
        change.reInitEncodeParams = *self.initialize;
        change.reInitEncodeParams.encodeConfig = &raw mut *self.config;
        call!(&*self, nvEncReconfigureEncoder(&mut *change)).map_err(|error| {
            self.config.rcParams = before;
            error.to_string()
        })
    }

    /// Codes one picture. Appends the access unit to `out`, with start codes.
    ///
    /// # Errors
    /// The driver's message; a picture on the GPU where the context is not lent.
    pub fn encode(
        &mut self,
        settings: &NvencSettings,
        source: Source<'_>,
        force_idr: bool,
        map: &mut [i8],
        out: &mut Vec<u8>,
    ) -> Result<Coded, String> {
        self.driver.enter(self.context).map_err(|e| e.to_string())?;
        let driver = self.driver.clone();
        let _current = Current(&driver);
        let Some(registered) = &self.surface else {
            let pitch = self.upload(settings, source)?;
            return self.code(settings, source.number(), (self.input, pitch), force_idr, map, out);
        };
        registered.surface.fill(source).map_err(|e| e.to_string())?;
        let pitch = registered.surface.pitch as u32;
        let mut mapped = Box::new(zeroed::<sys::NV_ENC_MAP_INPUT_RESOURCE>());
        mapped.version = ids::MAP_INPUT_RESOURCE_VER;
        mapped.registeredResource = registered.resource;
        call!(&*self, nvEncMapInputResource(&mut *mapped)).map_err(|e| e.to_string())?;
        let input = mapped.mappedResource;
        let coded = self.code(settings, source.number(), (input, pitch), force_idr, map, out);
        // A failure here is ignored: that of the picture matters more.
        let unmapped = call!(&*self, nvEncUnmapInputResource(input)).map_err(|e| e.to_string());
        coded.and_then(|coded| unmapped.map(|()| coded))
    }

    /// Codes the picture in an input of this pitch.
    fn code(
        &mut self,
        settings: &NvencSettings,
        number: i64,
        (input, pitch): (sys::NV_ENC_INPUT_PTR, u32),
        force_idr: bool,
        map: &mut [i8],
        out: &mut Vec<u8>,
    ) -> Result<Coded, String> {
        let mut picture = Box::new(zeroed::<sys::NV_ENC_PIC_PARAMS>());
        picture.version = ids::PIC_PARAMS_VER;
        (picture.inputWidth, picture.inputHeight) = (settings.width, settings.height);
        picture.inputPitch = pitch;
        picture.encodePicFlags = if force_idr { sys::NV_ENC_PIC_FLAG_FORCEIDR } else { 0 };
        picture.frameIdx = number as u32;
        picture.inputTimeStamp = number as u64;
        picture.inputBuffer = input;
        picture.outputBitstream = self.bitstream;
        picture.bufferFmt = self.buffer_format;
        picture.pictureStruct = sys::NV_ENC_PIC_STRUCT_FRAME;
        picture.qpDeltaMap = map.as_mut_ptr();
        picture.qpDeltaMapSize = map.len() as u32;
        call!(&*self, nvEncEncodePicture(&mut *picture)).map_err(|e| e.to_string())?;
        self.begun = true;
        self.download(out)
    }

    /// Writes a picture to the driver's buffer, and returns its pitch.
    fn upload(&self, settings: &NvencSettings, source: Source<'_>) -> Result<u32, String> {
        let Source::System(picture) = source else {
            return Err("the encoder was opened for pictures in system memory".into());
        };
        let mut lock = Box::new(zeroed::<sys::NV_ENC_LOCK_INPUT_BUFFER>());
        lock.version = ids::LOCK_INPUT_BUFFER_VER;
        lock.inputBuffer = self.input;
        call!(self, nvEncLockInputBuffer(&mut *lock)).map_err(|e| e.to_string())?;
        let (width, height) = (settings.width as usize, settings.height as usize);
        let bytes = lock.pitch as usize * height * 3 / 2;
        let written = !lock.bufferDataPtr.is_null() && {
            // SAFETY: the buffer was created for this size and format and is ours while locked; the driver lays out
            // pitch * height bytes of luma and half of that of chroma.
            let data = unsafe { std::slice::from_raw_parts_mut(lock.bufferDataPtr.cast::<u8>(), bytes) };
            copy_picture(self.format, picture, (width, height), data, lock.pitch as usize)
        };
        call!(self, nvEncUnlockInputBuffer(self.input)).map_err(|e| e.to_string())?;
        if written {
            Ok(lock.pitch)
        } else {
            Err("nvEncLockInputBuffer gives a buffer that is too small".into())
        }
    }

    fn download(&self, out: &mut Vec<u8>) -> Result<Coded, String> {
        let mut lock = Box::new(zeroed::<sys::NV_ENC_LOCK_BITSTREAM>());
        lock.version = ids::LOCK_BITSTREAM_VER;
        lock.outputBitstream = self.bitstream;
        call!(self, nvEncLockBitstream(&mut *lock)).map_err(|e| e.to_string())?;
        if !lock.bitstreamBufferPtr.is_null() {
            // SAFETY: the driver returns the number of bytes, and they stay until the buffer is unlocked.
            out.extend_from_slice(unsafe {
                std::slice::from_raw_parts(lock.bitstreamBufferPtr.cast::<u8>(), lock.bitstreamSizeInBytes as usize)
            });
        }
        call!(self, nvEncUnlockBitstream(self.bitstream)).map_err(|e| e.to_string())?;
        Ok(Coded {
            idr: lock.pictureType == sys::NV_ENC_PIC_TYPE_IDR,
        })
    }
}

/// Copies the planes into the driver's layout; `false`: there is no room.
fn copy_picture(format: PixelFormat, picture: &Picture<'_>, size: (usize, usize), to: &mut [u8], pitch: usize) -> bool {
    for (plane, place) in picture.planes.iter().zip(places(format, size, pitch)) {
        let Some(own) = to.get_mut(place.offset..place.offset + place.pitch * place.rows) else {
            return false;
        };
        if place.pitch < place.row {
            return false;
        }
        for (to, from) in own.chunks_exact_mut(place.pitch).zip(plane.data.chunks(plane.stride)) {
            to[..place.row].copy_from_slice(&from[..place.row]);
        }
    }
    true
}

fn codec_guid(codec: Codec) -> sys::GUID {
    match codec {
        Codec::H264 => ids::H264,
        Codec::H265 => ids::HEVC,
    }
}

/// Sets everything except rate control, over the preset's configuration.
fn fill_config(config: &mut sys::NV_ENC_CONFIG, settings: &NvencSettings) {
    config.version = ids::CONFIG_VER;
    config.profileGUID = match settings.profile {
        Profile::Baseline => ids::PROFILE_BASELINE,
        Profile::Main => ids::PROFILE_MAIN,
        Profile::High => ids::PROFILE_HIGH,
        Profile::HevcMain => ids::PROFILE_HEVC_MAIN,
    };
    // Key frames are requested one by one; no B-frames.
    config.gopLength = ids::INFINITE_GOP;
    config.frameIntervalP = 1;
    config.frameFieldMode = sys::NV_ENC_PARAMS_FRAME_FIELD_MODE_FRAME;
    match settings.codec {
        Codec::H264 => {
            // SAFETY: the union holds the configuration of the codec that the preset was requested for.
            let h264 = unsafe { &mut config.encodeCodecConfig.h264Config };
            h264.set_outputAUD(settings.aud.into());
            h264.set_repeatSPSPPS(settings.byte_stream.into());
            h264.set_disableSPSPPS((!settings.byte_stream).into());
            h264.set_enableVFR(settings.variable_rate.into());
            h264.set_outputBufferingPeriodSEI(0);
            h264.set_outputPictureTimingSEI(0);
            h264.set_outputRecoveryPointSEI(0);
            h264.set_enableIntraRefresh(0);
            h264.set_enableFillerDataInsertion(0);
            h264.idrPeriod = ids::INFINITE_GOP;
            h264.level = settings.level;
            (h264.spsId, h264.ppsId) = (settings.parameter_set_id, settings.parameter_set_id);
            h264.entropyCodingMode = match (settings.cabac, settings.profile) {
                (Some(true), Profile::Main | Profile::High) => sys::NV_ENC_H264_ENTROPY_CODING_MODE_CABAC,
                (_, Profile::Baseline) | (Some(false), _) => sys::NV_ENC_H264_ENTROPY_CODING_MODE_CAVLC,
                _ => h264.entropyCodingMode,
            };
            h264.adaptiveTransformMode = match (settings.transform_8x8, settings.profile) {
                (Some(true), Profile::High) => sys::NV_ENC_H264_ADAPTIVE_TRANSFORM_ENABLE,
                (_, Profile::Baseline | Profile::Main) | (Some(false), _) => {
                    sys::NV_ENC_H264_ADAPTIVE_TRANSFORM_DISABLE
                }
                _ => h264.adaptiveTransformMode,
            };
            if settings.references > 0 {
                h264.maxNumRefFrames = settings.references;
                h264.numRefL0 = settings.references;
            }
            (h264.sliceMode, h264.sliceModeData) = slices(settings);
            h264.chromaFormatIDC = 1;
            fill_vui(&mut h264.h264VUIParameters, settings);
        }
        Codec::H265 => {
            // SAFETY: as above.
            let hevc = unsafe { &mut config.encodeCodecConfig.hevcConfig };
            hevc.set_outputAUD(settings.aud.into());
            hevc.set_repeatSPSPPS(settings.byte_stream.into());
            hevc.set_disableSPSPPS((!settings.byte_stream).into());
            hevc.set_outputBufferingPeriodSEI(0);
            hevc.set_outputPictureTimingSEI(0);
            hevc.set_enableIntraRefresh(0);
            hevc.set_enableFillerDataInsertion(0);
            hevc.set_chromaFormatIDC(1);
            hevc.set_pixelBitDepthMinus8(0);
            // The map is per coding tree block, and 32 pixels is its only size.
            hevc.maxCUSize = sys::NV_ENC_HEVC_CUSIZE_32x32;
            hevc.idrPeriod = ids::INFINITE_GOP;
            (hevc.level, hevc.tier) = (settings.level, sys::NV_ENC_TIER_HEVC_MAIN);
            (hevc.spsId, hevc.ppsId) = (settings.parameter_set_id, settings.parameter_set_id);
            if settings.references > 0 {
                hevc.maxNumRefFramesInDPB = settings.references;
                hevc.numRefL0 = settings.references;
            }
            (hevc.sliceMode, hevc.sliceModeData) = slices(settings);
            fill_vui(&mut hevc.hevcVUIParameters, settings);
        }
    }
}

/// Mode and value: the number of slices, or the whole picture as one.
fn slices(settings: &NvencSettings) -> (u32, u32) {
    if settings.slices > 1 {
        (3, settings.slices)
    } else {
        (0, 0)
    }
}

fn fill_vui(vui: &mut sys::NV_ENC_CONFIG_H264_VUI_PARAMETERS, settings: &NvencSettings) {
    // Declares that no picture is reordered, so that decoders do not wait.
    vui.bitstreamRestrictionFlag = 1;
    let Some(colour) = settings.colour else { return };
    vui.videoSignalTypePresentFlag = 1;
    vui.videoFormat = UNSPECIFIED_VIDEO;
    vui.videoFullRangeFlag = colour.full_range.into();
    vui.colourDescriptionPresentFlag = 1;
    vui.colourPrimaries = colour.primaries.into();
    vui.transferCharacteristics = colour.transfer.into();
    vui.colourMatrix = colour.matrix.into();
    vui.chromaSampleLocationFlag = 1;
    vui.chromaSampleLocationTop = colour.chroma_location.into();
    vui.chromaSampleLocationBot = colour.chroma_location.into();
}

fn same_qp(qp: u8) -> sys::NV_ENC_QP {
    let mut all = zeroed::<sys::NV_ENC_QP>();
    let qp = u32::from(qp);
    (all.qpInterP, all.qpInterB, all.qpIntra) = (qp, qp, qp);
    all
}

/// Sets rate control. Everything else that varies quantizers within a picture is off, so that only the map does.
fn set_control(rc: &mut sys::NV_ENC_RC_PARAMS, control: Control, limits: (u8, u8)) {
    let bits = |kilo: u32| kilo.saturating_mul(1000);
    rc.version = ids::RC_PARAMS_VER;
    rc.qpMapMode = sys::NV_ENC_QP_MAP_DELTA;
    rc.multiPass = sys::NV_ENC_MULTI_PASS_DISABLED;
    rc.set_enableAQ(0);
    rc.set_aqStrength(0);
    rc.set_enableTemporalAQ(0);
    rc.set_enableLookahead(0);
    rc.lookaheadDepth = 0;
    rc.set_enableNonRefP(0);
    rc.set_zeroReorderDelay(1);
    rc.set_enableInitialRCQP(0);
    rc.initialRCQP = same_qp(0);
    (rc.targetQuality, rc.targetQualityLSB) = (0, 0);
    rc.constQP = same_qp(0);
    let (mode, average, most, buffer) = match control {
        Control::Constant { .. } => (sys::NV_ENC_PARAMS_RC_CONSTQP, 0, 0, 0),
        Control::Floor { kbps, buffer_kbit, .. } => (sys::NV_ENC_PARAMS_RC_VBR, kbps, kbps, buffer_kbit),
        Control::Quality { kbps, buffer_kbit, .. } => (sys::NV_ENC_PARAMS_RC_VBR, 0, kbps, buffer_kbit),
        Control::Bitrate { kbps, buffer_kbit } => (sys::NV_ENC_PARAMS_RC_CBR, kbps, kbps, buffer_kbit),
    };
    rc.rateControlMode = mode;
    (rc.averageBitRate, rc.maxBitRate) = (bits(average), bits(most));
    (rc.vbvBufferSize, rc.vbvInitialDelay) = (bits(buffer), bits(buffer));
    let (low, high) = match control {
        Control::Constant { qp } => {
            rc.constQP = same_qp(qp);
            (1, 51)
        }
        Control::Floor { qp, .. } => (qp, limits.1.max(qp)),
        Control::Quality { quality, .. } => {
            rc.targetQuality = quality;
            limits
        }
        Control::Bitrate { .. } => limits,
    };
    let bounded = |limit: bool| u32::from(limit);
    rc.set_enableMinQP(bounded(low > 1));
    rc.minQP = same_qp(if low > 1 { low } else { 0 });
    rc.set_enableMaxQP(bounded(high < 51));
    rc.maxQP = same_qp(if high < 51 { high } else { 0 });
}
