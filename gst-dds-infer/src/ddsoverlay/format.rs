// SPDX-License-Identifier: MPL-2.0

//! Pixel formats that the overlay draws on, as [`Layout`]s.

#![forbid(unsafe_code)]

use gst_video::{VideoColorMatrix, VideoColorRange, VideoFormat};

use crate::overlay::canvas::{Component, Layout, Meaning};

/// Formats whose samples are one byte, or two in little-endian order.
pub const FORMATS: [VideoFormat; 43] = [
    VideoFormat::I420,
    VideoFormat::Nv12,
    VideoFormat::Bgrx,
    VideoFormat::Rgbx,
    VideoFormat::Bgra,
    VideoFormat::Rgba,
    VideoFormat::Xrgb,
    VideoFormat::Xbgr,
    VideoFormat::Argb,
    VideoFormat::Abgr,
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Yv12,
    VideoFormat::Nv21,
    VideoFormat::Y42b,
    VideoFormat::Y444,
    VideoFormat::Nv16,
    VideoFormat::Nv61,
    VideoFormat::Nv24,
    VideoFormat::Y41b,
    VideoFormat::Yuy2,
    VideoFormat::Uyvy,
    VideoFormat::Yvyu,
    VideoFormat::Ayuv,
    VideoFormat::Vuya,
    VideoFormat::V308,
    VideoFormat::A420,
    VideoFormat::Gbr,
    VideoFormat::Gbra,
    VideoFormat::Gray8,
    VideoFormat::Gray16Le,
    VideoFormat::I42010le,
    VideoFormat::I42210le,
    VideoFormat::Y44410le,
    VideoFormat::I42012le,
    VideoFormat::I42212le,
    VideoFormat::Y44412le,
    VideoFormat::P01010le,
    VideoFormat::P012Le,
    VideoFormat::P016Le,
    VideoFormat::Gbr10le,
    VideoFormat::Gbr12le,
    VideoFormat::A42010le,
];

/// Layout of a picture's samples, and their meaning.
pub fn layout(info: &gst_video::VideoInfo) -> Layout {
    let format = info.format_info();
    let components = (0..format.n_components() as usize).map(|c| Component {
        plane: format.plane()[c] as usize,
        // GStreamer's table counts samples, not bytes, in formats like P010.
        offset: match format.poffset()[c] as usize {
            1 if format.depth()[c] > 8 => 2,
            offset => offset,
        },
        step: usize::try_from(format.pixel_stride()[c]).unwrap_or(1),
        w_sub: format.w_sub()[c],
        h_sub: format.h_sub()[c],
        depth: format.depth()[c],
        shift: format.shift()[c],
        meaning: meaning(info, c),
    });
    Layout {
        width: info.width() as usize,
        height: info.height() as usize,
        components: components.collect(),
    }
}

/// Meaning of the component of this number. Weights as in ITU-R BT.601, BT.709, BT.2020, SMPTE 240M and FCC.
fn meaning(info: &gst_video::VideoInfo, component: usize) -> Meaning {
    if component == 3 {
        return Meaning::Opacity;
    }
    if info.is_rgb() {
        let mut weights = [0.0; 3];
        weights[component] = 255.0;
        return Meaning::Mix { weights, offset: 0.0 };
    }
    let colorimetry = info.colorimetry();
    let (red, blue) = match colorimetry.matrix() {
        VideoColorMatrix::Bt709 => (0.2126, 0.0722),
        VideoColorMatrix::Bt2020 => (0.2627, 0.0593),
        VideoColorMatrix::Smpte240m => (0.212, 0.087),
        VideoColorMatrix::Fcc => (0.30, 0.11),
        _ => (0.299, 0.114),
    };
    let luma = [red, 1.0 - red - blue, blue];
    let full = colorimetry.range() == VideoColorRange::Range0_255;
    let (scale, black, chroma) = if full {
        (255.0, 0.0, 255.0)
    } else {
        (219.0, 16.0, 224.0)
    };
    // Cb is blue minus luma, Cr red minus luma.
    let beyond = |own: usize| {
        let reach = 2.0 * (1.0 - luma[own]);
        let part = |c: usize| (f32::from(u8::from(c == own)) - luma[c]) * chroma / reach;
        Meaning::Mix {
            weights: [part(0), part(1), part(2)],
            offset: 128.0,
        }
    };
    match component {
        0 => Meaning::Mix {
            weights: luma.map(|weight| weight * scale),
            offset: black,
        },
        1 => beyond(2),
        _ => beyond(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::canvas::{Area, Canvas, Color, Plane};
    use gst_video::prelude::*;

    /// The colours after GStreamer's conversion.
    fn converted(info: &gst_video::VideoInfo, color: Color) -> [u8; 3] {
        let layout = layout(info);
        let mut buffer = gst::Buffer::from_mut_slice(vec![0; info.size()]);
        {
            let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer.make_mut(), info).unwrap();
            let strides: Vec<usize> = frame.plane_stride().iter().map(|s| *s as usize).collect();
            let planes = frame.planes_data_mut().into_iter().zip(strides);
            Canvas {
                layout: &layout,
                planes: planes.map(|(data, stride)| Plane { data, stride }).collect(),
            }
            .fill(Area::new(0, 0, 16, 16), color);
        }
        let to = gst_video::VideoInfo::builder(VideoFormat::Rgb, 16, 16).build().unwrap();
        let converter = gst_video::VideoConverter::new(info, &to, None).unwrap();
        let source = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, info).unwrap();
        let out = gst::Buffer::with_size(to.size()).unwrap();
        let mut out = gst_video::VideoFrame::from_buffer_writable(out, &to).unwrap();
        converter.frame_ref(&source, &mut out.as_mut_video_frame_ref());
        let pixels = out.plane_data(0).unwrap();
        std::array::from_fn(|c| pixels[5 * to.stride()[0] as usize + 15 + c])
    }

    #[test]
    fn colours_are_what_they_are_called_in_every_format() {
        gst::init().unwrap();
        for format in FORMATS {
            for color in [0xffff_ffff, 0xff00_0000, 0xff3c_e65a, 0xffff_9614, 0xff10_20e0] {
                let color = Color::from_argb(color);
                let info = gst_video::VideoInfo::builder(format, 16, 16).build().unwrap();
                let seen = converted(&info, color);
                let light =
                    0.299 * f32::from(color.red) + 0.587 * f32::from(color.green) + 0.114 * f32::from(color.blue);
                let gray = info.n_components() == 1;
                let wanted = [color.red, color.green, color.blue].map(|c| if gray { light } else { f32::from(c) });
                for (seen, wanted) in seen.iter().zip(wanted) {
                    // GStreamer's fast converters are coarse; white of a gray picture has limited or full range,
                    // depending on the release.
                    let slack = if gray { 20.0 } else { 8.0 };
                    assert!(
                        (f32::from(*seen) - wanted).abs() <= slack,
                        "{format:?} {seen} {wanted} {color:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn colours_follow_the_colorimetry() {
        gst::init().unwrap();
        for colorimetry in ["bt601", "bt709", "bt2020", "1:3:5:1", "1:4:0:0"] {
            let info = gst_video::VideoInfo::builder(VideoFormat::Y444, 16, 16)
                .colorimetry(&colorimetry.parse().unwrap())
                .build()
                .unwrap();
            let seen = converted(&info, Color::from_argb(0xff3c_e65a));
            for (seen, wanted) in seen.iter().zip([0x3cu8, 0xe6, 0x5a]) {
                assert!(seen.abs_diff(wanted) <= 8, "{colorimetry} {seen} {wanted}");
            }
        }
    }
}
