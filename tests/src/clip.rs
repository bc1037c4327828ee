// SPDX-License-Identifier: MPL-2.0

//! Frames of a clip in memory.

use std::path::Path;

use gst::prelude::*;
use gst_video::prelude::*;

use crate::{Error, bus_error, launch, progress::Bar};

/// Decoded frames, I420 with even sides.
pub struct Clip {
    /// Caps of the frames.
    pub caps: gst::Caps,
    /// Width, height, frames per second.
    pub size: (u32, u32),
    /// Frame rate.
    pub fps: gst::Fraction,
    /// The frames.
    pub frames: Vec<gst::Buffer>,
}

impl Clip {
    /// Frames of a file. See [`Self::open`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load(path: &Path, first: usize, count: usize) -> Result<Self, Error> {
        Self::open(&path.to_string_lossy(), first, count)
    }

    /// Decodes `count` frames from `first` on of a file, a device (`/dev/video0`) or an address (`rtsp://...`). Fewer
    /// if the source ends before.
    ///
    /// # Errors
    /// A source that cannot be read or decoded, or that has no frame there.
    pub fn open(name: &str, first: usize, count: usize) -> Result<Self, Error> {
        let (element, property) = if name.starts_with("/dev/") {
            ("v4l2src", "device")
        } else if name.contains("://") {
            ("uridecodebin", "uri")
        } else if Path::new(name).is_file() {
            ("filesrc", "location")
        } else {
            return Err(format!("there is no file {name}").into());
        };
        let decode = if element == "filesrc" { "! decodebin" } else { "" };
        let pipeline = launch(&format!(
            "{element} name=source {decode} ! videoconvert ! video/x-raw,format=I420 \
             ! appsink name=out sync=false max-buffers=8"
        ))?;
        // Set as a property: gst-launch would parse special characters in paths.
        pipeline
            .by_name("source")
            .ok_or("no source")?
            .set_property(property, name);
        let sink = pipeline
            .by_name("out")
            .and_then(|e| e.downcast::<gst_app::AppSink>().ok())
            .ok_or("no appsink")?;
        pipeline.set_state(gst::State::Playing)?;
        let short = name.rsplit('/').next().unwrap_or(name);
        let mut bar = Bar::new(format!("decoding {short}"), first + count);
        let mut caps = None;
        let mut frames = Vec::with_capacity(count);
        let mut seen = 0;
        while frames.len() < count {
            let Ok(sample) = sink.pull_sample() else { break };
            seen += 1;
            bar.step();
            if seen <= first {
                continue;
            }
            let (Some(buffer), Some(c)) = (sample.buffer_owned(), sample.caps_owned()) else {
                continue;
            };
            let (small, buffer) = even(&c, buffer)?;
            caps = Some(small);
            frames.push(buffer);
        }
        let error = bus_error(&pipeline);
        pipeline.set_state(gst::State::Null)?;
        let caps = caps.ok_or_else(|| error.unwrap_or_else(|| format!("{name} has only {seen} frames")))?;
        let info = gst_video::VideoInfo::from_caps(&caps)?;
        let fps = if info.fps().numer() > 0 {
            info.fps()
        } else {
            gst::Fraction::new(30, 1)
        };
        Ok(Self {
            size: (info.width(), info.height()),
            caps,
            fps,
            frames,
        })
    }

    /// Frames per second.
    pub fn rate(&self) -> f64 {
        f64::from(self.fps.numer()) / f64::from(self.fps.denom())
    }

    /// A copy of frame `n` with the time of frame `n` of a stream that begins at 0.
    pub fn frame(&self, n: usize) -> gst::Buffer {
        let mut buffer = self.frames[n].copy();
        let second = gst::ClockTime::SECOND;
        let at = |n: usize| second.mul_div_floor(n as u64 * self.fps.denom() as u64, self.fps.numer() as u64);
        let buffer_mut = buffer.make_mut();
        buffer_mut.set_pts(at(n));
        buffer_mut.set_duration(at(1));
        buffer_mut.set_dts(gst::ClockTime::NONE);
        buffer
    }
}

/// Number of the frame shown at `pts` in a stream that begins at 0.
pub fn number(pts: gst::ClockTime, fps: gst::Fraction) -> usize {
    let frames = pts.nseconds() as f64 * f64::from(fps.numer()) / (f64::from(fps.denom()) * 1e9);
    frames.round() as usize
}

/// Cuts off an odd last row or column.
fn even(caps: &gst::Caps, buffer: gst::Buffer) -> Result<(gst::Caps, gst::Buffer), Error> {
    let info = gst_video::VideoInfo::from_caps(caps)?;
    let (width, height) = (info.width() & !1, info.height() & !1);
    let mut builder =
        gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height).fps(if info.fps().numer() > 0 {
            info.fps()
        } else {
            gst::Fraction::new(30, 1)
        });
    let colorimetry = info.colorimetry();
    builder = builder.colorimetry(&colorimetry);
    let small = builder.build()?;
    let frame =
        gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &info).map_err(|_| "a frame cannot be mapped")?;
    let mut out = gst_video::VideoFrame::from_buffer_writable(gst::Buffer::with_size(small.size())?, &small)
        .map_err(|_| "a frame cannot be mapped")?;
    for plane in 0..3u32 {
        let (w, h) = if plane == 0 {
            (width, height)
        } else {
            (width / 2, height / 2)
        };
        let from_stride = frame.plane_stride()[plane as usize] as usize;
        let to_stride = out.plane_stride()[plane as usize] as usize;
        let from = frame.plane_data(plane)?;
        let to = out.plane_data_mut(plane)?;
        for row in 0..h as usize {
            to[row * to_stride..][..w as usize].copy_from_slice(&from[row * from_stride..][..w as usize]);
        }
    }
    Ok((small.to_caps()?, out.into_buffer()))
}
