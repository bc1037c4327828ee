// SPDX-License-Identifier: MPL-2.0

//! What makes access units: libx264 with a quantizer per macroblock, or libx265 with one per coding tree block.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

use x264_sys as x264;

use crate::hevc::Hevc;

/// How a coder is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub hevc: bool,
    pub width: u32,
    pub height: u32,
    pub layout: Layout,
    pub frame_rate: (u32, u32),
    pub repeat_headers: bool,
    pub aud: bool,
    pub cabac: bool,
    pub transform_8x8: bool,
    /// 66, 77 or 100.
    pub profile: u8,
    pub level: u32,
    pub slices: u32,
    pub sps_id: u32,
    pub references: u32,
}

/// Planes of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Nv12,
    I420,
    Yv12,
}

pub(crate) enum Coder {
    H264(X264),
    Hevc(Hevc),
}

pub(crate) struct X264 {
    handle: ptr::NonNull<x264::x264_t>,
    shape: Shape,
}

// SAFETY: used under one lock.
unsafe impl Send for X264 {}

impl Drop for X264 {
    fn drop(&mut self) {
        // SAFETY: closed once.
        unsafe { x264::x264_encoder_close(self.handle.as_ptr()) }
    }
}

/// `nal_unit_type` of supplemental enhancement information.
const SEI: c_int = 6;

impl Coder {
    pub fn new(shape: Shape) -> Option<Self> {
        if shape.hevc {
            return Hevc::new(shape).map(Self::Hevc);
        }
        let mut params = Box::new(MaybeUninit::<x264::x264_param_t>::uninit());
        // SAFETY: the call fills the whole structure.
        let mut p = unsafe {
            x264::x264_param_default_preset(params.as_mut_ptr(), c"superfast".as_ptr(), c"zerolatency".as_ptr());
            params.assume_init()
        };
        (p.i_width, p.i_height) = (shape.width as c_int, shape.height as c_int);
        p.i_csp = shape.csp();
        (p.i_fps_num, p.i_fps_den) = shape.frame_rate;
        (p.i_timebase_num, p.i_timebase_den) = (shape.frame_rate.1, shape.frame_rate.0);
        p.b_vfr_input = 0;
        p.i_threads = 1;
        p.i_slice_count = shape.slices as c_int;
        p.b_annexb = 1;
        p.b_repeat_headers = shape.repeat_headers.into();
        p.b_aud = shape.aud.into();
        p.b_cabac = shape.cabac.into();
        p.analyse.b_transform_8x8 = shape.transform_8x8.into();
        p.i_keyint_max = x264::X264_KEYINT_MAX_INFINITE as c_int;
        p.i_scenecut_threshold = 0;
        p.i_sps_id = shape.sps_id as c_int;
        p.i_log_level = x264::X264_LOG_NONE;
        if shape.level > 0 {
            p.i_level_idc = shape.level as c_int;
        }
        if shape.references > 0 {
            p.i_frame_reference = shape.references as c_int;
        }
        // Quantizers as given, picture by picture and macroblock by macroblock: adaptive quantization that does nothing
        // but keep offsets alive.
        p.rc.i_rc_method = x264::X264_RC_CRF as c_int;
        p.rc.f_rf_constant = 26.0;
        p.rc.f_qcompress = 1.0;
        p.rc.f_ip_factor = 1.0;
        p.rc.i_aq_mode = x264::X264_AQ_VARIANCE as c_int;
        p.rc.f_aq_strength = 1e-5;
        p.rc.b_mb_tree = 0;
        let profile = match shape.profile {
            66 => c"baseline",
            77 => c"main",
            _ => c"high",
        };
        // SAFETY: parameters are filled; the name is a C string.
        let handle = unsafe {
            if x264::x264_param_apply_profile(&mut *p, profile.as_ptr()) != 0 {
                return None;
            }
            x264::x264_encoder_open(&mut *p)
        };
        Some(Self::H264(X264 {
            handle: ptr::NonNull::new(handle)?,
            shape,
        }))
    }

    /// Parameter sets with start codes.
    pub fn headers(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Hevc(coder) => out = coder.headers(),
            Self::H264(coder) => {
                let (mut nals, mut count) = (ptr::null_mut(), 0);
                // SAFETY: the handle is open; NAL units are valid until the next call.
                unsafe {
                    x264::x264_encoder_headers(coder.handle.as_ptr(), &mut nals, &mut count);
                    append(nals, count, &mut out);
                }
            }
        }
        out
    }

    /// Codes a picture that lies in a buffer as the driver lays it out. `qps` are per macroblock, in H.265 per
    /// block of 32 pixels, in raster order.
    pub fn code(&mut self, buffer: &[u8], pitch: usize, number: i64, idr: bool, qps: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let coder = match self {
            Self::H264(coder) => coder,
            Self::Hevc(coder) => return coder.code(buffer, pitch, number, idr, qps),
        };
        let shape = coder.shape;
        let (planes, luma) = (shape.planes(), pitch * shape.height as usize);
        let chroma = luma / 4;
        // SAFETY: the picture is initialised by the call; planes lie within the buffer, whose size was checked when it was
        // made; the offsets cover all macroblocks. NAL units are valid until the next call.
        unsafe {
            let mut picture = MaybeUninit::<x264::x264_picture_t>::uninit();
            x264::x264_picture_init(picture.as_mut_ptr());
            let mut picture = picture.assume_init();
            picture.i_pts = number;
            picture.i_type = if idr { x264::X264_TYPE_IDR } else { x264::X264_TYPE_P } as c_int;
            // The first macroblock takes the picture's quantizer where it differs by one only.
            let ground = qps.first().copied().unwrap_or(26);
            picture.i_qpplus1 = c_int::from(ground) + 1;
            let mut offsets: Vec<f32> = qps.iter().map(|qp| f32::from(*qp) - f32::from(ground)).collect();
            picture.prop.quant_offsets = offsets.as_mut_ptr();
            picture.img.i_csp = shape.csp();
            picture.img.i_plane = planes as c_int;
            for (i, start) in [0, luma, luma + chroma].into_iter().take(planes).enumerate() {
                let own = if i > 0 && planes == 3 { pitch / 2 } else { pitch };
                picture.img.i_stride[i] = own as c_int;
                picture.img.plane[i] = buffer.as_ptr().add(start).cast_mut();
            }
            let mut output = MaybeUninit::<x264::x264_picture_t>::uninit();
            x264::x264_picture_init(output.as_mut_ptr());
            let (mut nals, mut count) = (ptr::null_mut(), 0);
            let size = x264::x264_encoder_encode(
                coder.handle.as_ptr(),
                &mut nals,
                &mut count,
                &mut picture,
                output.as_mut_ptr(),
            );
            if size <= 0 {
                return None;
            }
            append(nals, count, &mut out);
        }
        Some(out)
    }
}

/// Appends NAL units without libx264's own message, which no driver writes.
///
/// # Safety
/// `nals` must point to `count` of them.
unsafe fn append(nals: *const x264::x264_nal_t, count: c_int, out: &mut Vec<u8>) {
    for i in 0..count.max(0) as usize {
        // SAFETY: by contract; the payload has this many bytes.
        unsafe {
            let nal = &*nals.add(i);
            if nal.i_type != SEI {
                out.extend(std::slice::from_raw_parts(
                    nal.p_payload.cast_const(),
                    nal.i_payload as usize,
                ));
            }
        }
    }
}

impl Shape {
    fn planes(self) -> usize {
        if self.layout == Layout::Nv12 { 2 } else { 3 }
    }

    fn csp(self) -> c_int {
        (match self.layout {
            Layout::Nv12 => x264::X264_CSP_NV12,
            Layout::I420 => x264::X264_CSP_I420,
            Layout::Yv12 => x264::X264_CSP_YV12,
        }) as c_int
    }
}
