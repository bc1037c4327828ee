// SPDX-License-Identifier: MPL-2.0

//! Scaling of captured pictures for the first of two passes.

#![forbid(unsafe_code)]

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::encoder::{PixelFormat, Plane};
use crate::picture::{Layout, OwnedPicture};

/// Smallest side of a scaled picture: a macroblock.
const SMALLEST: u32 = 16;

/// Size of the first pass: `scale` times the captured one, both sides rounded to the nearest even number and at least a
/// macroblock where the captured one is. From 1.0 on it is the captured size.
pub fn scaled_size(width: u32, height: u32, scale: f64) -> (u32, u32) {
    let side = |full: u32| {
        if scale.is_nan() || scale >= 1.0 {
            return full;
        }
        // Float to integer saturates.
        let even = (f64::from(full) * scale.max(0.0) / 2.0).round() as u32 * 2;
        even.max(SMALLEST).min(full)
    };
    (side(width), side(height))
}

/// Scales pictures of one size and format down, each plane by a triangle filter as wide as the ratio requires.
#[derive(Debug)]
pub struct Scaler {
    from: Layout,
    resizer: Resizer,
    scaled: OwnedPicture,
    /// A plane in the layout that the resizer needs.
    straight: OwnedPicture,
}

impl Scaler {
    /// A scaler from `from` to `width` by `height` pixels.
    pub fn new(from: Layout, width: u32, height: u32) -> Self {
        Self {
            from,
            resizer: Resizer::new(),
            scaled: OwnedPicture::new(Layout {
                format: from.format,
                width: width as usize,
                height: height as usize,
            }),
            straight: OwnedPicture::new(Layout {
                format: from.format,
                width: 0,
                height: 0,
            }),
        }
    }

    /// The scaled picture, valid until the next call. `None` where a plane is shorter than its size requires.
    pub fn scale(&mut self, planes: &[Plane<'_>; 3]) -> Option<&OwnedPicture> {
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            // Two samples per pixel are both chroma, not opacity.
            .use_alpha(false);
        let format = self.from.format;
        for (i, plane) in planes.iter().enumerate().take(format.planes()) {
            let (row, rows) = format.plane_size(i, self.from.width, self.from.height);
            let to = self.scaled.layout();
            let (to_row, to_rows) = format.plane_size(i, to.width, to.height);
            let (kind, bytes) = pixel_type(format, i);
            let size = |row: usize, rows: usize| Some((u32::try_from(row / bytes).ok()?, u32::try_from(rows).ok()?));
            let (width, height) = size(row, rows)?;
            let (to_width, to_height) = size(to_row, to_rows)?;
            let options = options.crop(0.0, 0.0, f64::from(width), f64::from(height));
            let mut target = Image::from_slice_u8(to_width, to_height, self.scaled.plane_mut(i), kind).ok()?;
            // The resizer has no stride: padding counts as picture, and is cropped away.
            let strided = plane
                .stride
                .is_multiple_of(bytes)
                .then_some(plane.data)
                .and_then(|data| {
                    let data = data.get(..plane.stride * rows)?;
                    let width = u32::try_from(plane.stride / bytes).ok()?;
                    ImageRef::new(width, height, data, kind).ok()
                });
            match strided {
                Some(source) => self.resizer.resize(&source, &mut target, &options).ok()?,
                None => {
                    if self.straight.layout() != self.from {
                        self.straight = OwnedPicture::new(self.from);
                    }
                    let lines = self.straight.plane_mut(i).chunks_exact_mut(row);
                    for (y, line) in lines.enumerate() {
                        line.copy_from_slice(plane.data.get(y * plane.stride..y * plane.stride + row)?);
                    }
                    let source = ImageRef::new(width, height, self.straight.plane_mut(i), kind).ok()?;
                    self.resizer.resize(&source, &mut target, &options).ok()?;
                }
            }
        }
        Some(&self.scaled)
    }
}

/// The resizer's pixel type for a plane's samples, and their bytes.
fn pixel_type(format: PixelFormat, plane: usize) -> (PixelType, usize) {
    match (format.bit_depth(), format.sampling(plane).2) {
        (8, 2) => (PixelType::U8x2, 2),
        (8, _) => (PixelType::U8, 1),
        _ => (PixelType::U16, 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_even_and_never_larger() {
        assert_eq!(scaled_size(1280, 720, 0.8), (1024, 576));
        assert_eq!(scaled_size(1920, 1080, 0.8), (1536, 864));
        assert_eq!(scaled_size(1281, 721, 1.0), (1281, 721));
        assert_eq!(scaled_size(320, 240, 0.33), (106, 80));
        assert_eq!(scaled_size(20, 8, 0.25), (16, 8));
        assert_eq!(scaled_size(640, 480, f64::NAN), (640, 480));
    }

    #[test]
    fn flat_planes_stay_as_they_are_in_every_format_and_with_any_stride() {
        for format in [
            PixelFormat::I420,
            PixelFormat::Nv12,
            PixelFormat::Nv16,
            PixelFormat::I444,
            PixelFormat::Gray8,
            PixelFormat::I420P10,
        ] {
            let from = Layout {
                format,
                width: 100,
                height: 60,
            };
            let mut scaler = Scaler::new(from, 80, 48);
            for padding in [0, 4, 5] {
                let data: Vec<Vec<u8>> = (0..format.planes())
                    .map(|i| {
                        let (row, rows) = format.plane_size(i, from.width, from.height);
                        let mut data = vec![0xff; (row + padding) * rows];
                        for line in data.chunks_exact_mut(row + padding) {
                            line[..row]
                                .iter_mut()
                                .enumerate()
                                .for_each(|(x, s)| *s = sample(format, i, x));
                        }
                        data.truncate((row + padding) * (rows - 1) + row);
                        data
                    })
                    .collect();
                let mut planes = [Plane::default(); 3];
                for (i, data) in data.iter().enumerate() {
                    let stride = format.plane_size(i, from.width, from.height).0 + padding;
                    planes[i] = Plane { data, stride };
                }
                let scaled = scaler.scale(&planes).unwrap();
                for (i, plane) in scaled.planes().iter().enumerate().take(format.planes()) {
                    for line in plane.data.chunks_exact(plane.stride) {
                        let same = line.iter().enumerate().all(|(x, s)| *s == sample(format, i, x));
                        assert!(same, "{format:?} plane {i}");
                    }
                }
            }
            let short = [Plane {
                data: &[0; 10],
                stride: 100,
            }; 3];
            assert!(scaler.scale(&short).is_none());
        }
    }

    /// One value per plane and component.
    fn sample(format: PixelFormat, plane: usize, x: usize) -> u8 {
        match (format.bit_depth(), format.sampling(plane).2) {
            (8, 1) => 40 + plane as u8,
            (8, _) => 90 + (x % 2) as u8 * 50,
            _ => [17, 2][x % 2],
        }
    }
}
