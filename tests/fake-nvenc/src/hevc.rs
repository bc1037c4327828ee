// SPDX-License-Identifier: MPL-2.0

//! H.265 by libx265, with a quantizer per coding tree block of 32 pixels.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr;

use dds_x265_sys::{self as sys, call};

use crate::coder::{Layout, Shape};

/// `nal_unit_type` of supplemental enhancement information, which no driver writes unasked: before and behind slices.
const SEI: [u32; 2] = [39, 40];
/// Macroblocks across and down a coding tree block.
const STEP: usize = 2;

pub(crate) struct Hevc {
    api: &'static sys::x265_api,
    params: ptr::NonNull<sys::x265_param>,
    picture: ptr::NonNull<sys::x265_picture>,
    handle: ptr::NonNull<sys::x265_encoder>,
    shape: Shape,
    /// Differences per 16 pixels across and down.
    offsets: Vec<f32>,
    /// Chroma planes of NV12, apart.
    chroma: [Vec<u8>; 2],
}

// SAFETY: used under one lock.
unsafe impl Send for Hevc {}

impl Drop for Hevc {
    fn drop(&mut self) {
        // SAFETY: all three are open, and closed once.
        unsafe {
            call!(self.api, encoder_close(self.handle.as_ptr()));
            call!(self.api, picture_free(self.picture.as_ptr()));
            call!(self.api, param_free(self.params.as_ptr()));
        }
    }
}

impl Hevc {
    pub fn new(shape: Shape) -> Option<Self> {
        let mut error: c_int = 0;
        // SAFETY: the call takes numbers and a place for one; a table is never freed. Parameters and picture are the
        // library's own structures.
        let (api, params) = unsafe {
            let api = sys::x265_api_query(8, sys::X265_BUILD as c_int, &mut error).as_ref()?;
            let params = ptr::NonNull::new(call!(api, param_alloc()))?;
            call!(
                api,
                param_default_preset(params.as_ptr(), c"ultrafast".as_ptr(), c"zerolatency".as_ptr())
            );
            call!(api, param_parse(params.as_ptr(), c"pools".as_ptr(), c"none".as_ptr()));
            (api, params)
        };
        // SAFETY: just filled, and ours alone.
        let p = unsafe { &mut *params.as_ptr() };
        (p.sourceWidth, p.sourceHeight) = (shape.width as c_int, shape.height as c_int);
        (p.fpsNum, p.fpsDenom) = shape.frame_rate;
        p.internalCsp = sys::X265_CSP_I420 as c_int;
        p.logLevel = sys::X265_LOG_NONE;
        p.bAnnexB = 1;
        p.bRepeatHeaders = shape.repeat_headers.into();
        p.bEnableAccessUnitDelimiters = shape.aud.into();
        p.bEmitInfoSEI = 0;
        p.bOpenGOP = 0;
        p.keyframeMax = -1;
        p.scenecutThreshold = 0;
        p.frameNumThreads = 1;
        p.bEnableWavefront = 0;
        // One quantizer for each block, as given.
        p.maxCUSize = 32;
        p.rc.qgSize = 32;
        p.rc.rateControlMode = sys::X265_RC_CRF as c_int;
        p.rc.rfConstant = 26.0;
        p.rc.qCompress = 1.0;
        p.rc.ipFactor = 1.0;
        p.rc.cuTree = 0;
        p.bOptCUDeltaQP = 0;
        // Adaptive quantization that does nothing but keep offsets alive.
        p.rc.aqMode = sys::X265_AQ_VARIANCE as c_int;
        p.rc.aqStrength = 1e-3;
        let blocks = [shape.width, shape.height].map(|pixels| pixels.div_ceil(16) as usize);
        // SAFETY: parameters are filled.
        let opened = unsafe {
            let picture = ptr::NonNull::new(call!(api, picture_alloc()));
            let handle = ptr::NonNull::new(call!(api, encoder_open(params.as_ptr())));
            picture.zip(handle)
        };
        let Some((picture, handle)) = opened else {
            // SAFETY: nothing uses it.
            unsafe { call!(api, param_free(params.as_ptr())) };
            return None;
        };
        Some(Self {
            api,
            params,
            picture,
            handle,
            shape,
            offsets: vec![0.0; blocks[0] * blocks[1]],
            chroma: Default::default(),
        })
    }

    /// Parameter sets with start codes.
    pub fn headers(&mut self) -> Vec<u8> {
        let (mut nals, mut count) = (ptr::null_mut(), 0);
        let mut out = Vec::new();
        // SAFETY: the handle is open; NAL units are valid until the next call.
        unsafe {
            call!(self.api, encoder_headers(self.handle.as_ptr(), &mut nals, &mut count));
            append(nals, count, &mut out);
        }
        out
    }

    /// See [`crate::coder::Coder::code`]; `qps` are per coding tree block.
    pub fn code(&mut self, buffer: &[u8], pitch: usize, number: i64, idr: bool, qps: &[u8]) -> Option<Vec<u8>> {
        let (width, height) = (self.shape.width as usize, self.shape.height as usize);
        let (across, blocks) = (width.div_ceil(16), width.div_ceil(32));
        let ground = qps.first().copied().unwrap_or(26);
        for (i, offset) in self.offsets.iter_mut().enumerate() {
            let block = i / across / STEP * blocks + i % across / STEP;
            *offset = f32::from(*qps.get(block)?) - f32::from(ground);
        }
        let luma = pitch * height;
        let quarter = luma / 4;
        let planes: [(*const u8, usize); 3] = match self.shape.layout {
            Layout::I420 | Layout::Yv12 => {
                let both = [&buffer[luma..], &buffer[luma + quarter..]].map(|plane| (plane.as_ptr(), pitch / 2));
                let swapped = self.shape.layout == Layout::Yv12;
                let [u, v] = if swapped { [both[1], both[0]] } else { both };
                [(buffer.as_ptr(), pitch), u, v]
            }
            Layout::Nv12 => {
                let rows = || buffer[luma..].chunks(pitch).take(height / 2);
                for (i, plane) in self.chroma.iter_mut().enumerate() {
                    plane.clear();
                    plane.extend(rows().flat_map(|row| row[..width].iter().skip(i).step_by(2)));
                }
                let [u, v] = [0, 1].map(|i| (self.chroma[i].as_ptr(), width / 2));
                [(buffer.as_ptr(), pitch), u, v]
            }
        };
        let mut out = Vec::new();
        // SAFETY: the picture is initialised by the call; planes lie within the buffer, whose size was checked when it was
        // made, or are as long as the picture; the offsets cover all blocks. All are copied within the call. NAL units are
        // valid until the next one.
        unsafe {
            call!(self.api, picture_init(self.params.as_ptr(), self.picture.as_ptr()));
            let picture = self.picture.as_mut();
            picture.pts = number;
            picture.sliceType = if idr { sys::X265_TYPE_IDR } else { sys::X265_TYPE_P } as c_int;
            picture.forceqp = c_int::from(ground) + 1;
            picture.bitDepth = 8;
            picture.colorSpace = sys::X265_CSP_I420 as c_int;
            picture.quantOffsets = self.offsets.as_mut_ptr();
            for (i, (plane, stride)) in planes.into_iter().enumerate() {
                picture.planes[i] = plane.cast_mut().cast();
                picture.stride[i] = stride as c_int;
            }
            let (mut nals, mut count) = (ptr::null_mut(), 0);
            let result = call!(
                self.api,
                encoder_encode(
                    self.handle.as_ptr(),
                    &mut nals,
                    &mut count,
                    self.picture.as_ptr(),
                    ptr::null_mut()
                )
            );
            if result <= 0 {
                return None;
            }
            append(nals, count, &mut out);
        }
        Some(out)
    }
}

/// Appends NAL units, but for messages.
///
/// # Safety
/// `nals` must point to `count` of them.
unsafe fn append(nals: *const sys::x265_nal, count: u32, out: &mut Vec<u8>) {
    for i in 0..count as usize {
        // SAFETY: by contract; the payload has this many bytes.
        unsafe {
            let nal = &*nals.add(i);
            if !SEI.contains(&nal.type_) {
                out.extend(std::slice::from_raw_parts(
                    nal.payload.cast_const(),
                    nal.sizeBytes as usize,
                ));
            }
        }
    }
}
