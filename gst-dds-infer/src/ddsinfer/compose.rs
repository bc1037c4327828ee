// SPDX-License-Identifier: MPL-2.0

//! The merged picture: the first pass at full size, with the refined regions of the second pass in it.

use dds_protocol::feedback::Rect;
use gst_video::prelude::*;

use super::frame::Refinement;

/// Scales and converts pictures, and keeps the converters of the last frame.
#[derive(Default)]
pub struct Composer {
    enlarge: Option<Pipe>,
    convert: Option<Pipe>,
}

/// A converter between two layouts.
struct Pipe {
    from: gst_video::VideoInfo,
    to: gst_video::VideoInfo,
    converter: gst_video::VideoConverter,
}

impl Pipe {
    fn new(from: &gst_video::VideoInfo, to: &gst_video::VideoInfo) -> Result<Self, glib::BoolError> {
        let mut config = gst_video::VideoConverterConfig::new();
        // The published implementation of DDS enlarges its first pass in the same way.
        config.set_resampler_method(gst_video::VideoResamplerMethod::Cubic);
        Ok(Self {
            from: from.clone(),
            to: to.clone(),
            converter: gst_video::VideoConverter::new(from, to, Some(config))?,
        })
    }

    fn run(&self, buffer: &gst::BufferRef) -> Result<gst::Buffer, glib::BoolError> {
        let input = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &self.from)
            .map_err(|_| glib::bool_error!("a frame cannot be read"))?;
        let mut output = gst_video::VideoFrame::from_buffer_writable(gst::Buffer::with_size(self.to.size())?, &self.to)
            .map_err(|_| glib::bool_error!("a new frame cannot be written"))?;
        self.converter.frame_ref(&input, &mut output.as_mut_video_frame_ref());
        Ok(output.into_buffer())
    }
}

fn pipe<'a>(
    slot: &'a mut Option<Pipe>,
    from: &gst_video::VideoInfo,
    to: &gst_video::VideoInfo,
) -> Result<&'a Pipe, glib::BoolError> {
    if slot.as_ref().is_none_or(|p| p.from != *from || p.to != *to) {
        *slot = None;
    }
    match slot {
        Some(pipe) => Ok(pipe),
        None => Ok(slot.insert(Pipe::new(from, to)?)),
    }
}

/// The layout `info` in another size. The colorimetry stays: where it is unspecified, it is not guessed again from the new
/// size.
pub fn resized(info: &gst_video::VideoInfo, size: (u32, u32)) -> Result<gst_video::VideoInfo, glib::BoolError> {
    let colorimetry = info.colorimetry();
    gst_video::VideoInfo::builder(info.format(), size.0, size.1)
        .colorimetry(&colorimetry)
        .chroma_site(info.chroma_site())
        .fps(info.fps())
        .par(info.par())
        .build()
}

impl Composer {
    /// Scales the picture to the size of `to`, and keeps its times and flags.
    pub fn enlarge(
        &mut self,
        buffer: &gst::BufferRef,
        from: &gst_video::VideoInfo,
        to: &gst_video::VideoInfo,
    ) -> Result<gst::Buffer, glib::BoolError> {
        let mut large = pipe(&mut self.enlarge, from, to)?.run(buffer)?;
        let target = large.make_mut();
        buffer.copy_into(
            target,
            gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::FLAGS,
            ..,
        )?;
        for meta in buffer.iter_meta::<gst::ReferenceTimestampMeta>() {
            gst::ReferenceTimestampMeta::add(target, &meta.reference_owned(), meta.timestamp(), meta.duration());
        }
        Ok(large)
    }

    /// Writes the refined regions into `picture`, a frame of layout `info`.
    ///
    /// # Errors
    /// A picture of another size, and frames that cannot be mapped.
    pub fn paste(
        &mut self,
        picture: &mut gst::Buffer,
        info: &gst_video::VideoInfo,
        refinement: &Refinement,
    ) -> Result<(), glib::BoolError> {
        let from = &refinement.info;
        if (from.width(), from.height()) != (info.width(), info.height()) {
            return Err(glib::bool_error!(
                "the refinement has {}x{} pixels, the picture {}x{}",
                from.width(),
                from.height(),
                info.width(),
                info.height()
            ));
        }
        let converted;
        let (source, source_info) = if from.format() == info.format() {
            (&refinement.buffer, from)
        } else {
            // Both streams of a camera have the same colorimetry, whatever caps the decoders set.
            let mut from = from.clone();
            if from.is_yuv() == info.is_yuv() {
                from = gst_video::VideoInfo::builder(from.format(), from.width(), from.height())
                    .colorimetry(&info.colorimetry())
                    .fps(from.fps())
                    .build()?;
            }
            converted = pipe(&mut self.convert, &from, info)?.run(&refinement.buffer)?;
            (&converted, info)
        };
        let source = gst_video::VideoFrameRef::from_buffer_ref_readable(source, source_info)
            .map_err(|_| glib::bool_error!("a refinement cannot be read"))?;
        let mut target = gst_video::VideoFrameRef::from_buffer_ref_writable(picture.make_mut(), info)
            .map_err(|_| glib::bool_error!("a frame cannot be written"))?;
        refinement
            .regions
            .iter()
            .try_for_each(|rect| copy(&source, &mut target, rect))
    }
}

/// Copies one rectangle in all planes, clipped to the picture.
fn copy(
    source: &gst_video::VideoFrameRef<&gst::BufferRef>,
    target: &mut gst_video::VideoFrameRef<&mut gst::BufferRef>,
    rect: &Rect,
) -> Result<(), glib::BoolError> {
    let format = source.format_info();
    let (width, height) = (source.width(), source.height());
    let (left, right) = (rect.x.min(width), rect.x.saturating_add(rect.width).min(width));
    let (top, bottom) = (rect.y.min(height), rect.y.saturating_add(rect.height).min(height));
    for plane in 0..source.n_planes() {
        // Components that share a plane are interleaved: the first one gives the bytes of all.
        let Some(component) = (0..format.n_components() as usize).find(|c| format.plane()[*c] == plane) else {
            continue;
        };
        let (w_sub, h_sub) = (format.w_sub()[component], format.h_sub()[component]);
        let step = format.pixel_stride()[component] as usize;
        // The chroma sample of an odd last column or row is included.
        let up = |v: u32, sub: u32| v.div_ceil(1 << sub) as usize;
        let (first, last) = ((left >> w_sub) as usize * step, up(right, w_sub) * step);
        let strides = [
            source.plane_stride()[plane as usize],
            target.plane_stride()[plane as usize],
        ];
        let [from_stride, to_stride] = strides.map(|s| usize::try_from(s).unwrap_or(0));
        let from = source.plane_data(plane)?;
        let to = target.plane_data_mut(plane)?;
        for row in (top >> h_sub) as usize..up(bottom, h_sub) {
            let from = from.get(row * from_stride + first..row * from_stride + last);
            let to = to.get_mut(row * to_stride + first..row * to_stride + last);
            let (Some(from), Some(to)) = (from, to) else {
                return Err(glib::bool_error!("a plane is shorter than its picture"));
            };
            to.copy_from_slice(from);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(format: gst_video::VideoFormat, value: u8) -> (gst::Buffer, gst_video::VideoInfo) {
        gst::init().unwrap();
        let info = gst_video::VideoInfo::builder(format, 50, 38).build().unwrap();
        (gst::Buffer::from_mut_slice(vec![value; info.size()]), info)
    }

    #[test]
    fn regions_and_nothing_else_are_pasted_in_every_plane() {
        use gst_video::VideoFormat as F;
        for format in [F::I420, F::Nv12, F::Y444, F::Rgb, F::Bgrx, F::I42010le, F::Yuy2] {
            let (mut picture, info) = filled(format, 1);
            let (buffer, _) = filled(format, 2);
            let refinement = Refinement {
                buffer,
                info: info.clone(),
                regions: vec![
                    Rect {
                        x: 16,
                        y: 0,
                        width: 16,
                        height: 16,
                    },
                    // Reaches over the edge of the picture.
                    Rect {
                        x: 48,
                        y: 32,
                        width: 16,
                        height: 16,
                    },
                    Rect {
                        x: 4000,
                        y: 4000,
                        width: 16,
                        height: 16,
                    },
                ],
            };
            Composer::default().paste(&mut picture, &info, &refinement).unwrap();
            let frame = gst_video::VideoFrame::from_buffer_readable(picture, &info).unwrap();
            let luma = frame.plane_data(0).unwrap();
            let step = info.format_info().pixel_stride()[0] as usize;
            let at = |x: usize, y: usize| luma[y * info.stride()[0] as usize + x * step];
            assert_eq!(
                [
                    at(15, 0),
                    at(16, 0),
                    at(31, 15),
                    at(32, 15),
                    at(31, 16),
                    at(47, 33),
                    at(48, 33),
                    at(49, 37)
                ],
                [1, 2, 2, 1, 1, 1, 2, 2],
                "{format:?}"
            );
            if info.n_planes() > 1 && format == F::I420 {
                let chroma = frame.plane_data(2).unwrap();
                let stride = info.stride()[2] as usize;
                assert_eq!(
                    [chroma[7], chroma[8], chroma[15], chroma[16], chroma[8 * stride + 8]],
                    [1, 2, 2, 1, 1]
                );
            }
        }
    }

    #[test]
    fn another_size_is_refused_and_another_format_converted() {
        let (mut picture, info) = filled(gst_video::VideoFormat::I420, 100);
        let (buffer, other) = filled(gst_video::VideoFormat::Nv12, 200);
        let region = Rect {
            x: 0,
            y: 0,
            width: 16,
            height: 16,
        };
        let mut refinement = Refinement {
            buffer,
            info: other.clone(),
            regions: vec![region],
        };
        let mut composer = Composer::default();
        composer.paste(&mut picture, &info, &refinement).unwrap();
        let map = picture.map_readable().unwrap();
        assert_eq!((map[0], map[15], map[16]), (200, 200, 100));
        drop(map);
        refinement.info = resized(&other, (48, 38)).unwrap();
        assert!(composer.paste(&mut picture, &info, &refinement).is_err());
    }
}
