// SPDX-License-Identifier: MPL-2.0

//! Blends colours into the planes of a picture of any format, and leaves samples that are not covered unchanged.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::font::Mask;

/// A colour, 0 to 255 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color {
    /// Opacity.
    pub alpha: u8,
    /// Red.
    pub red: u8,
    /// Green.
    pub green: u8,
    /// Blue.
    pub blue: u8,
}

impl Color {
    /// From `0xAARRGGBB`.
    pub const fn from_argb(argb: u32) -> Self {
        let [alpha, red, green, blue] = argb.to_be_bytes();
        Self {
            alpha,
            red,
            green,
            blue,
        }
    }

    /// The same colour with a part (0 to 1) of its opacity.
    pub fn faded(self, part: f32) -> Self {
        Self {
            alpha: (f32::from(self.alpha) * part.clamp(0.0, 1.0)).round() as u8,
            ..self
        }
    }
}

/// A rectangle in pixels of the picture, beyond which it may reach. Edges `right` and `bottom` are one past the last pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First column.
    pub left: i64,
    /// First row.
    pub top: i64,
    /// One past the last column.
    pub right: i64,
    /// One past the last row.
    pub bottom: i64,
}

impl Area {
    /// From a corner and a size.
    pub fn new(x: i64, y: i64, width: i64, height: i64) -> Self {
        Self {
            left: x,
            top: y,
            right: x.saturating_add(width),
            bottom: y.saturating_add(height),
        }
    }

    /// Whether there is no pixel in it.
    pub fn is_empty(&self) -> bool {
        self.left >= self.right || self.top >= self.bottom
    }

    /// Intersection of two rectangles.
    pub fn common(&self, other: &Self) -> Self {
        Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        }
    }

    /// Larger by so many pixels on each side.
    pub fn grown(&self, by: i64) -> Self {
        Self {
            left: self.left.saturating_sub(by),
            top: self.top.saturating_sub(by),
            right: self.right.saturating_add(by),
            bottom: self.bottom.saturating_add(by),
        }
    }
}

/// Meaning of a component's samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    /// A weighted sum of red, green and blue (each 0 to 1), plus `offset`, as for samples of 8 bits (0 to 255).
    Mix {
        /// Weights of red, green and blue.
        weights: [f32; 3],
        /// Value of black.
        offset: f32,
    },
    /// Opacity of the pixel.
    Opacity,
}

/// Position of the samples of one component (Y, U, red, ...).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Component {
    /// Number of the plane.
    pub plane: usize,
    /// Bytes in front of its first sample in each row.
    pub offset: usize,
    /// Bytes from one sample to the next.
    pub step: usize,
    /// Pixels per sample across, as a power of two.
    pub w_sub: u32,
    /// Pixels per sample down, as a power of two.
    pub h_sub: u32,
    /// Bits of a sample: 8 in one byte, more in two bytes, little-endian.
    pub depth: u32,
    /// Unused low bits of a sample.
    pub shift: u32,
    /// Meaning of its samples.
    pub meaning: Meaning,
}

/// The format of a picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Its components.
    pub components: Vec<Component>,
}

/// One plane of a picture.
#[derive(Debug)]
pub struct Plane<'a> {
    /// Its bytes.
    pub data: &'a mut [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// A picture to draw on. Samples beyond the end of a plane are left out.
#[derive(Debug)]
pub struct Canvas<'a> {
    /// Format.
    pub layout: &'a Layout,
    /// Planes, in the layout's order.
    pub planes: Vec<Plane<'a>>,
}

/// Full cover of a sample.
const ALL: u32 = 255 * 256;

impl Component {
    /// The sample of a colour.
    fn sample(&self, color: Color) -> u32 {
        let largest = ((1u32 << self.depth) - 1) as f32;
        let value = match self.meaning {
            Meaning::Opacity => largest,
            Meaning::Mix { weights, offset } => {
                let parts = [color.red, color.green, color.blue].map(|part| f32::from(part) / 255.0);
                let mixed = offset + weights.iter().zip(parts).map(|(w, p)| w * p).sum::<f32>();
                // Samples of more bits are scaled from 8 by a power of two; full range ends one short of it.
                if offset == 0.0 && (weights.iter().sum::<f32>() - 255.0).abs() < 0.5 {
                    mixed / 255.0 * largest
                } else {
                    mixed * (1u32 << (self.depth - 8)) as f32
                }
            }
        };
        (value.round().clamp(0.0, largest) as u32) << self.shift
    }
}

impl Canvas<'_> {
    /// The whole picture.
    pub fn area(&self) -> Area {
        Area::new(0, 0, self.layout.width as i64, self.layout.height as i64)
    }

    /// Blends a colour into a rectangle, clipped to the picture.
    pub fn fill(&mut self, area: Area, color: Color) {
        let inside = area.common(&self.area());
        if inside.is_empty() {
            return;
        }
        let part = |first: usize, sub: u32, from: i64, to: i64, limit: usize| {
            let (start, end) = (first << sub, ((first + 1) << sub).min(limit));
            if from <= start as i64 && to >= end as i64 {
                return 256;
            }
            let covered = (to.min(end as i64) - from.max(start as i64)).max(0) as u32;
            covered * 256 / (end - start).max(1) as u32
        };
        let (width, height) = (self.layout.width, self.layout.height);
        self.mix(inside, color, |component, y, columns, row| {
            let down = part(y, component.h_sub, inside.top, inside.bottom, height);
            row.fill(down * (ALL / 256));
            // Only the outermost samples reach beyond the rectangle.
            let across = |x: usize| part(x, component.w_sub, inside.left, inside.right, width);
            let last = row.len() - 1;
            row[0] = row[0] * across(columns.start) / 256;
            if last > 0 {
                row[last] = row[last] * across(columns.end - 1) / 256;
            }
        });
    }

    /// Blends a colour into the pixels covered by a mask with its corner at (`left`, `top`).
    pub fn stamp(&mut self, left: i64, top: i64, mask: &Mask, color: Color) {
        let area = Area::new(left, top, mask.width as i64, mask.height as i64);
        let inside = area.common(&self.area());
        if inside.is_empty() {
            return;
        }
        let cover = |x: usize, y: usize| {
            let (x, y) = (x as i64, y as i64);
            let within = x >= inside.left && x < inside.right && y >= inside.top && y < inside.bottom;
            let at = || (y - top) as usize * mask.width + (x - left) as usize;
            if within {
                mask.cover.get(at()).copied().map_or(0, u32::from)
            } else {
                0
            }
        };
        let (width, height) = (self.layout.width, self.layout.height);
        self.mix(inside, color, |component, y, columns, row| {
            let rows = y << component.h_sub..((y + 1) << component.h_sub).min(height);
            for (x, weight) in columns.zip(row) {
                if component.w_sub == 0 && component.h_sub == 0 {
                    *weight = cover(x, y) * 256;
                    continue;
                }
                let across = x << component.w_sub..((x + 1) << component.w_sub).min(width);
                let pixels = (across.len() * rows.len()).max(1) as u32;
                let covers = rows.clone().flat_map(|y| across.clone().map(move |x| (x, y)));
                *weight = covers.map(|(x, y)| cover(x, y)).sum::<u32>() * 256 / pixels;
            }
        });
    }

    /// Blends a colour into every sample of `inside`. `cover` writes the coverage of each sample of a row, 0 to
    /// [`ALL`], given the component, the number of the row and the columns, all counted in samples.
    fn mix(&mut self, inside: Area, color: Color, cover: impl Fn(&Component, usize, Range<usize>, &mut [u32])) {
        if color.alpha == 0 {
            return;
        }
        let range = |from: i64, to: i64, sub: u32| (from as usize) >> sub..(to as usize).div_ceil(1 << sub);
        let mut weights = Vec::new();
        for component in &self.layout.components {
            let Some(plane) = self.planes.get_mut(component.plane) else {
                continue;
            };
            let target = component.sample(color);
            let wide = component.depth > 8;
            let columns = range(inside.left, inside.right, component.w_sub);
            weights.resize(columns.len(), 0);
            for y in range(inside.top, inside.bottom, component.h_sub) {
                cover(component, y, columns.clone(), &mut weights);
                let start = y * plane.stride + component.offset + columns.start * component.step;
                let row = plane.data.get_mut(start..).unwrap_or_default();
                for (weight, sample) in weights.iter().zip(row.chunks_mut(component.step.max(1))) {
                    let weight = weight * u32::from(color.alpha) / (255 * (ALL / 256));
                    match sample {
                        [low, high, ..] if wide => {
                            let old = u32::from(u16::from_le_bytes([*low, *high]));
                            let new = blend(old, target, weight) >> component.shift << component.shift;
                            [*low, *high] = (new as u16).to_le_bytes();
                        }
                        [byte, ..] if !wide => *byte = blend(u32::from(*byte), target, weight) as u8,
                        _ => (),
                    }
                }
            }
        }
    }
}

/// `weight` of 256 parts of `to`, the rest of `from`.
fn blend(from: u32, to: u32, weight: u32) -> u32 {
    (from * (256 - weight) + to * weight + 128) >> 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RED: Color = Color::from_argb(0xffff_0000);

    fn component(plane: usize, offset: usize, step: usize, sub: u32, value: f32) -> Component {
        Component {
            plane,
            offset,
            step,
            w_sub: sub,
            h_sub: sub,
            depth: 8,
            shift: 0,
            meaning: Meaning::Mix {
                weights: [0.0; 3],
                offset: value,
            },
        }
    }

    /// Luma with weight 200, and chroma of half the size with weight 100.
    fn layout(width: usize, height: usize) -> Layout {
        Layout {
            width,
            height,
            components: vec![component(0, 0, 1, 0, 200.0), component(1, 0, 1, 1, 100.0)],
        }
    }

    fn painted(layout: &Layout, strides: [usize; 2], draw: impl FnOnce(&mut Canvas)) -> [Vec<u8>; 2] {
        let mut luma = vec![0; strides[0] * layout.height];
        let mut chroma = vec![0; strides[1] * layout.height.div_ceil(2)];
        draw(&mut Canvas {
            layout,
            planes: vec![
                Plane {
                    data: &mut luma,
                    stride: strides[0],
                },
                Plane {
                    data: &mut chroma,
                    stride: strides[1],
                },
            ],
        });
        [luma, chroma]
    }

    #[test]
    fn a_filled_rectangle_covers_its_pixels_and_its_share_of_chroma() {
        let layout = layout(5, 3);
        let [luma, chroma] = painted(&layout, [8, 4], |c| c.fill(Area::new(1, 0, 3, 2), RED));
        #[rustfmt::skip]
        assert_eq!(luma, [
            0, 200, 200, 200, 0, 0, 0, 0,
            0, 200, 200, 200, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
        ]);
        assert_eq!(chroma, [50, 100, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_last_odd_column_and_row_are_whole_samples_of_chroma() {
        let layout = layout(5, 3);
        let [luma, chroma] = painted(&layout, [5, 3], |c| c.fill(Area::new(4, 2, 90, 90), RED));
        assert_eq!(luma.iter().filter(|v| **v == 200).count(), 1);
        assert_eq!((luma[14], chroma), (200, vec![0, 0, 0, 0, 0, 100]));
    }

    #[test]
    fn what_lies_outside_is_left_out() {
        let layout = layout(6, 4);
        let everywhere = [
            Area::new(-9, -9, 9, 9),
            Area::new(6, 0, 4, 4),
            Area::new(0, 4, 4, 4),
            Area::new(2, 2, 0, 2),
            Area::new(3, 3, -2, -2),
            Area::new(i64::MAX, i64::MAX, 5, 5),
            Area::new(i64::MIN, i64::MIN, 5, 5),
        ];
        let [luma, chroma] = painted(&layout, [6, 3], |c| everywhere.iter().for_each(|a| c.fill(*a, RED)));
        assert!(luma.iter().chain(&chroma).all(|v| *v == 0));
        let [luma, _] = painted(&layout, [6, 3], |c| c.fill(Area::new(-5, -5, i64::MAX, i64::MAX), RED));
        assert!(luma.iter().all(|v| *v == 200));
    }

    #[test]
    fn a_mask_is_stamped_where_it_covers() {
        let layout = layout(4, 4);
        let mask = Mask {
            width: 2,
            height: 2,
            cover: vec![255, 0, 0, 255],
        };
        let [luma, chroma] = painted(&layout, [4, 2], |c| c.stamp(-1, 1, &mask, RED));
        assert_eq!(luma, [0, 0, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(chroma, [0, 0, 25, 0]);
    }

    #[test]
    fn wide_samples_keep_their_unused_bits_zero() {
        let mut wide = component(0, 0, 2, 0, 128.0);
        (wide.depth, wide.shift) = (10, 6);
        let layout = Layout {
            width: 2,
            height: 1,
            components: vec![wide],
        };
        let mut data = [0u8; 4];
        let plane = Plane {
            data: &mut data,
            stride: 4,
        };
        let half = Color { alpha: 128, ..RED };
        let mut canvas = Canvas {
            layout: &layout,
            planes: vec![plane],
        };
        canvas.fill(Area::new(0, 0, 1, 1), RED);
        canvas.fill(Area::new(1, 0, 1, 1), half);
        let samples = [
            u16::from_le_bytes([data[0], data[1]]),
            u16::from_le_bytes([data[2], data[3]]),
        ];
        assert_eq!(samples[0], 512 << 6);
        assert!(
            samples[1].abs_diff(256 << 6) <= 2 << 6 && samples[1] % 64 == 0,
            "{samples:?}"
        );
    }

    #[test]
    fn full_range_white_is_the_largest_sample_in_every_depth() {
        for depth in [8, 10, 12, 16] {
            let mut red = component(0, 0, 2, 0, 0.0);
            red.depth = depth;
            red.meaning = Meaning::Mix {
                weights: [255.0, 0.0, 0.0],
                offset: 0.0,
            };
            assert_eq!(red.sample(RED), (1 << depth) - 1);
        }
    }

    proptest! {
        #[test]
        fn no_rectangle_and_no_short_plane_panics(
            x in any::<i64>(), y in -9i64..40, width in any::<i64>(), height in -3i64..40,
            size in (0usize..20, 0usize..20), short in 0usize..40,
        ) {
            let layout = layout(size.0, size.1);
            let mut luma = vec![0; (size.0 * size.1).saturating_sub(short)];
            let mut canvas = Canvas { layout: &layout, planes: vec![Plane { data: &mut luma, stride: size.0 }] };
            canvas.fill(Area::new(x, y, width, height), RED);
            canvas.fill(Area::new(x % 30, y, width % 30, height), RED);
            let mask = Mask { width: 3, height: 5, cover: vec![255; 14] };
            canvas.stamp(x % 30, y, &mask, RED);
        }
    }
}
