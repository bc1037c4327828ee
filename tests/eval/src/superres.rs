// SPDX-License-Identifier: MPL-2.0

//! Super-resolution at the server, for CloudSeg: an ONNX model from `[1, 3, h, w]` to `[1, 3, 2h, 2w]`, red, green and
//! blue from 0 to 1.

use std::path::Path;

use dds_tests::Error;
use gst_video::prelude::*;
use ort::session::Session;
use ort::value::TensorRef;

/// A loaded model.
pub struct SuperResolution {
    session: Session,
}

impl SuperResolution {
    /// Loads the model.
    ///
    /// # Errors
    /// What ONNX Runtime says.
    pub fn open(model: &Path) -> Result<Self, Error> {
        let session = gstddsinfer::model::open_session(model, 1)?;
        Ok(Self { session })
    }

    /// A decoded picture at twice its size, RGB, with its caps.
    ///
    /// # Errors
    /// A picture that cannot be converted; what ONNX Runtime says.
    pub fn run(&mut self, sample: &gst::Sample) -> Result<(gst::Buffer, gst::Caps), Error> {
        let rgb = gst::Caps::builder("video/x-raw").field("format", "RGB").build();
        let sample = gst_video::convert_sample(sample, &rgb, Some(gst::ClockTime::from_seconds(20)))?;
        let (buffer, caps) = sample.buffer().zip(sample.caps()).ok_or("no picture")?;
        let info = gst_video::VideoInfo::from_caps(caps)?;
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info)
            .map_err(|_| "a picture cannot be mapped")?;
        let (width, height) = (info.width() as usize, info.height() as usize);
        let stride = frame.plane_stride()[0] as usize;
        let data = frame.plane_data(0)?;
        let mut input = vec![0f32; 3 * width * height];
        for (y, row) in data.chunks(stride).take(height).enumerate() {
            for (x, pixel) in row.chunks_exact(3).take(width).enumerate() {
                for (channel, sample) in pixel.iter().enumerate() {
                    input[(channel * height + y) * width + x] = f32::from(*sample) / 255.0;
                }
            }
        }
        let input = TensorRef::from_array_view(([1, 3, height, width], &input[..])).map_err(|e| e.to_string())?;
        let outputs = self.session.run(ort::inputs![input]).map_err(|e| e.to_string())?;
        let (shape, restored) = outputs[0].try_extract_tensor::<f32>().map_err(|e| e.to_string())?;
        let (out_width, out_height) = (2 * width, 2 * height);
        if shape.iter().copied().collect::<Vec<_>>() != [1, 3, out_height as i64, out_width as i64] {
            return Err(format!("the super-resolution gave {shape:?} for {width}x{height} pixels").into());
        }
        let out_info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, out_width as u32, out_height as u32)
            .fps(gst::Fraction::new(30, 1))
            .build()?;
        let mut out = gst_video::VideoFrame::from_buffer_writable(gst::Buffer::with_size(out_info.size())?, &out_info)
            .map_err(|_| "a picture cannot be mapped")?;
        let stride = out.plane_stride()[0] as usize;
        let rows = out.plane_data_mut(0)?;
        for (y, row) in rows.chunks_mut(stride).take(out_height).enumerate() {
            for (x, pixel) in row.chunks_exact_mut(3).take(out_width).enumerate() {
                for (channel, sample) in pixel.iter_mut().enumerate() {
                    let value = restored[(channel * out_height + y) * out_width + x];
                    *sample = (value * 255.0).round().clamp(0.0, 255.0) as u8;
                }
            }
        }
        Ok((out.into_buffer(), out_info.to_caps()?))
    }
}
