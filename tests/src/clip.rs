// SPDX-License-Identifier: MPL-2.0

//! Frames of a clip in memory.

use std::path::Path;

use gst::prelude::*;
use gst_video::prelude::*;

use crate::{Error, bus_error, launch, noise::Noise, progress::Bar};

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
        Self::open_scaled(name, first, count, None)
    }

    /// The same, scaled to a width and height.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_scaled(name: &str, first: usize, count: usize, size: Option<(u32, u32)>) -> Result<Self, Error> {
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
        let scale = size.map_or(String::new(), |(width, height)| {
            format!(
                "! videoscale method=lanczos add-borders=false \
                 ! video/x-raw,width={width},height={height},pixel-aspect-ratio=1/1"
            )
        });
        let pipeline = launch(&format!(
            "{element} name=source {decode} ! videoconvert ! video/x-raw,format=I420 {scale} \
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

    /// The pictures of several clips of one size one after the other, shown at `fps`.
    ///
    /// # Errors
    /// No clip, or clips of several sizes.
    pub fn joined(parts: Vec<Self>, fps: gst::Fraction) -> Result<Self, Error> {
        let mut parts = parts.into_iter();
        let mut all = parts.next().ok_or("no clip to join")?;
        for part in parts {
            if part.size != all.size {
                return Err(format!("clips of {:?} and {:?} cannot be joined", all.size, part.size).into());
            }
            all.frames.extend(part.frames);
        }
        let mut caps = all.caps.copy();
        caps.make_mut().set("framerate", fps);
        (all.caps, all.fps) = (caps, fps);
        Ok(all)
    }

    /// Plays the clip forward and backward until it has `count` pictures; the first and the last are not shown twice in a
    /// row. The pictures are shared, not copied.
    pub fn there_and_back(&mut self, count: usize) {
        let turn = self.frames.len().saturating_sub(1).max(1);
        let place = |n: usize| {
            let at = n % (2 * turn);
            at.min(2 * turn - at)
        };
        let last = self.frames.len().saturating_sub(1);
        let frames = (0..count).filter_map(|n| self.frames.get(place(n).min(last)).cloned());
        self.frames = frames.collect();
    }

    /// The clip with normal noise on its luma, of standard deviation `sigma`, another on every picture; the same for a seed.
    ///
    /// # Errors
    /// Pictures that cannot be mapped.
    pub fn with_noise(mut self, sigma: f64, seed: u64) -> Result<Self, Error> {
        // Rows of pictures begin anywhere in a table of drawn values: drawing each would take longer than coding.
        const TABLE: usize = 1 << 16;
        let mut noise = Noise(seed);
        let table: Vec<i16> = (0..TABLE).map(|_| (sigma * noise.gauss()).round() as i16).collect();
        let info = gst_video::VideoInfo::from_caps(&self.caps)?;
        for buffer in &mut self.frames {
            let mut copy = buffer.copy_deep().map_err(|_| "a frame cannot be copied")?;
            let made = copy.get_mut().ok_or("a frame is shared")?;
            let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(made, &info)
                .map_err(|_| "a frame cannot be mapped")?;
            let (width, stride) = (info.width() as usize, frame.plane_stride()[0] as usize);
            for row in frame.plane_data_mut(0)?.chunks_mut(stride).take(info.height() as usize) {
                let begin = (noise.uniform() * TABLE as f64) as usize;
                let drawn = table.iter().cycle().skip(begin);
                for (sample, add) in row.iter_mut().take(width).zip(drawn) {
                    *sample = (i16::from(*sample) + add).clamp(0, 255) as u8;
                }
            }
            drop(frame);
            *buffer = copy;
        }
        Ok(self)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures of one grey level each.
    fn clip(levels: &[u8]) -> Clip {
        gst::init().unwrap();
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 64, 48)
            .fps(gst::Fraction::new(30, 1))
            .build()
            .unwrap();
        let frames = levels
            .iter()
            .map(|level| gst::Buffer::from_slice(vec![*level; info.size()]));
        Clip {
            caps: info.to_caps().unwrap(),
            size: (64, 48),
            fps: info.fps(),
            frames: frames.collect(),
        }
    }

    fn samples(clip: &Clip, n: usize) -> Vec<u8> {
        clip.frames[n].map_readable().unwrap().to_vec()
    }

    #[test]
    fn a_loop_goes_there_and_back_and_shows_no_end_twice() {
        let levels = |count| -> Vec<u8> {
            let mut clip = clip(&[10, 20, 30]);
            clip.there_and_back(count);
            (0..clip.frames.len()).map(|n| samples(&clip, n)[0]).collect()
        };
        assert_eq!(levels(8), [10, 20, 30, 20, 10, 20, 30, 20]);
        assert_eq!(levels(2), [10, 20]);
        let mut one = clip(&[7]);
        one.there_and_back(3);
        assert_eq!(one.frames.len(), 3);
    }

    #[test]
    fn noise_has_its_deviation_repeats_with_its_seed_and_differs_in_time() {
        let noisy = clip(&[100, 100]).with_noise(4.0, 5).unwrap();
        let luma = &samples(&noisy, 0)[..64 * 48];
        let count = luma.len() as f64;
        let mean = luma.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let variance = luma.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count;
        assert!(
            (mean - 100.0).abs() < 0.5 && (variance.sqrt() - 4.0).abs() < 0.4,
            "{mean} {variance}"
        );
        assert!(samples(&noisy, 0)[64 * 48..].iter().all(|v| *v == 100));
        assert_ne!(samples(&noisy, 0), samples(&noisy, 1));
        let again = clip(&[100, 100]).with_noise(4.0, 5).unwrap();
        assert_eq!(samples(&noisy, 1), samples(&again, 1));
    }

    #[test]
    fn joined_clips_follow_each_other_at_one_rate() {
        let joined = Clip::joined(vec![clip(&[1, 2]), clip(&[3])], gst::Fraction::new(25, 1)).unwrap();
        assert_eq!((joined.frames.len(), joined.rate()), (3, 25.0));
        assert_eq!(samples(&joined, 2)[0], 3);
        let info = gst_video::VideoInfo::from_caps(&joined.caps).unwrap();
        assert_eq!(info.fps(), gst::Fraction::new(25, 1));
        assert!(Clip::joined(Vec::new(), gst::Fraction::new(25, 1)).is_err());
    }
}
