// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Aligns a face: maps five landmarks to a picture of the fixed size on which embedders are trained.
//!
//! The similarity transform (turn, scale, shift, no mirroring) that brings the landmarks closest to the template, in the
//! sense of least squares, is that of Umeyama, "Least-squares estimation of transformation parameters between two point
//! patterns", 1991. In two dimensions it has a closed form: taken as complex numbers around their means, the landmarks p
//! and the template q give turn and scale as sum(conj(p) q) / sum(|p|^2).

use crate::model::description::{Affine, ColorOrder, InputRules, Resize};
use crate::model::preprocess::YuvColors;
use crate::model::{Landmarks, Picture, PixelLayout};

/// Where the landmarks lie in the 112x112 pixels that ArcFace and its kin are trained on, `[x, y]` of pixel centres.
pub const TEMPLATE: Landmarks = [
    [38.2946, 51.6963],
    [73.5318, 51.5014],
    [56.0252, 71.7366],
    [41.5493, 92.3655],
    [70.7299, 92.2041],
];

/// Side in pixels that [`TEMPLATE`] is for.
pub const TEMPLATE_SIDE: u32 = 112;

/// Least spread of landmarks in pixels (root mean square distance from their mean) that gives a direction.
const MIN_SPREAD: f64 = 0.5;
/// Landmarks farther out than this, in pixels, are an error: no picture is so large.
const MAX_COORDINATE: f32 = 1e6;
/// Most samples along each side that one pixel of the aligned face averages.
const MAX_SAMPLES: usize = 6;

/// x' = a x - b y + tx, y' = b x + a y + ty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similarity {
    a: f64,
    b: f64,
    tx: f64,
    ty: f64,
}

impl Similarity {
    /// The transform that brings `from` closest to `to`; `None` where the direction is undefined: points that coincide
    /// or are not finite.
    pub fn between(from: &Landmarks, to: &Landmarks) -> Option<Self> {
        let usable = |v: &f32| v.is_finite() && v.abs() <= MAX_COORDINATE;
        if !from.as_flattened().iter().all(usable) || !to.as_flattened().iter().all(usable) {
            return None;
        }
        let count = from.len() as f64;
        let mean = |points: &Landmarks| {
            let sum = |axis: usize| points.iter().map(|p| f64::from(p[axis])).sum::<f64>();
            [sum(0) / count, sum(1) / count]
        };
        let ([px, py], [qx, qy]) = (mean(from), mean(to));
        let (mut real, mut imaginary, mut spread) = (0.0, 0.0, 0.0);
        for (p, q) in from.iter().zip(to) {
            let (x, y) = (f64::from(p[0]) - px, f64::from(p[1]) - py);
            let (u, v) = (f64::from(q[0]) - qx, f64::from(q[1]) - qy);
            real += x * u + y * v;
            imaginary += x * v - y * u;
            spread += x * x + y * y;
        }
        if spread < count * MIN_SPREAD * MIN_SPREAD {
            return None;
        }
        let (a, b) = (real / spread, imaginary / spread);
        // Unordered points, such as mirrored ones, may fit best when shrunk to nothing.
        if a.hypot(b) < 1e-4 {
            return None;
        }
        Some(Self {
            a,
            b,
            tx: qx - a * px + b * py,
            ty: qy - b * px - a * py,
        })
    }

    /// The transform from a picture onto the template for `side` x `side` pixels, from landmarks in pixels of the picture.
    pub fn onto_template(landmarks: &Landmarks, side: u32) -> Option<Self> {
        let scale = side as f32 / TEMPLATE_SIDE as f32;
        Self::between(landmarks, &TEMPLATE.map(|p| p.map(|v| v * scale)))
    }

    /// Transforms a point.
    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.a * x - self.b * y + self.tx, self.b * x + self.a * y + self.ty]
    }

    /// Number of pixels that one pixel becomes, along a line.
    pub fn scale(&self) -> f64 {
        self.a.hypot(self.b)
    }

    /// The inverse transform.
    pub fn inverse(&self) -> Self {
        let square = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / square, -self.b / square);
        Self {
            a,
            b,
            tx: -(a * self.tx - b * self.ty),
            ty: -(b * self.tx + a * self.ty),
        }
    }
}

/// Fills `aligned` with `side` x `side` RGB pixels of the picture, placed by `transform` (from the picture to the
/// aligned face); pixels outside the picture are black.
///
/// Samples bilinearly with pixel centres at whole numbers, as OpenCV's `warpAffine`. A face that shrinks by more than
/// two is averaged over several samples, because one would skip pixels. Only the pixels needed are read and converted.
pub(in crate::model) fn warp(picture: &Picture<'_>, transform: &Similarity, side: u32, aligned: &mut Vec<u8>) {
    let sampler = Sampler::new(picture);
    let back = transform.inverse();
    // Along one axis; each covers two pixels, and some overlap avoids moire from fine stripes.
    let shrinks_by = back.scale();
    let samples = if shrinks_by <= 2.0 {
        1
    } else {
        ((shrinks_by / 1.5).ceil() as usize).min(MAX_SAMPLES)
    };
    let offset = |n: usize| (n as f64 + 0.5) / samples as f64 - 0.5;
    let share = 1.0 / (samples * samples) as f32;
    aligned.clear();
    for y in 0..side {
        for x in 0..side {
            let mut sum = [0.0f32; 3];
            for sub_y in 0..samples {
                for sub_x in 0..samples {
                    let at = back.apply([f64::from(x) + offset(sub_x), f64::from(y) + offset(sub_y)]);
                    let rgb = sampler.sample(at[0] as f32, at[1] as f32);
                    sum.iter_mut().zip(rgb).for_each(|(s, v)| *s += v);
                }
            }
            aligned.extend(sum.map(|s| (s * share).round().clamp(0.0, 255.0) as u8));
        }
    }
}

/// Samples single points of a picture as RGB.
struct Sampler<'a> {
    picture: &'a Picture<'a>,
    colors: YuvColors,
}

impl<'a> Sampler<'a> {
    fn new(picture: &'a Picture<'a>) -> Self {
        let rules = InputRules {
            color: ColorOrder::Rgb,
            resize: Resize::Stretch,
            pad: 0.0,
            affine: Affine {
                gain: [1.0; 3],
                offset: [0.0; 3],
            },
        };
        Self {
            picture,
            colors: YuvColors::new(&rules, picture),
        }
    }

    /// Red, green and blue, 0 to 255, at a point in pixels.
    fn sample(&self, x: f32, y: f32) -> [f32; 3] {
        let (width, height) = (self.picture.width() as usize, self.picture.height() as usize);
        let inside = inside(x, width) * inside(y, height);
        if inside == 0.0 {
            return [0.0; 3];
        }
        let rgb = match self.picture.layout() {
            PixelLayout::I420 | PixelLayout::Nv12 => {
                let luma = bilinear(self.picture.plane(0), (width, height), 1, [0], x, y)[0];
                // Chroma lies in the centre of 2x2 pixels.
                let (cx, cy) = (x / 2.0 - 0.25, y / 2.0 - 0.25);
                let size = (width.div_ceil(2), height.div_ceil(2));
                let [u, v] = if self.picture.layout() == PixelLayout::Nv12 {
                    bilinear(self.picture.plane(1), size, 2, [0, 1], cx, cy)
                } else {
                    [1, 2].map(|plane| bilinear(self.picture.plane(plane), size, 1, [0], cx, cy)[0])
                };
                self.colors.pixel(luma, u, v)
            }
            PixelLayout::Rgb => bilinear(self.picture.plane(0), (width, height), 3, [0, 1, 2], x, y),
            PixelLayout::Bgr => bilinear(self.picture.plane(0), (width, height), 3, [2, 1, 0], x, y),
        };
        rgb.map(|v| v * inside)
    }
}

/// Share of the two samples around a position that lies inside 0 to `size` - 1: 1 inside, falling to 0 one sample
/// outside.
fn inside(position: f32, size: usize) -> f32 {
    (position + 1.0).min(size as f32 - position).clamp(0.0, 1.0)
}

/// Interpolates components of a plane of `step` interleaved ones; positions outside are clamped to the edge.
fn bilinear<const N: usize>(
    (plane, stride): (&[u8], usize),
    (width, height): (usize, usize),
    step: usize,
    components: [usize; N],
    x: f32,
    y: f32,
) -> [f32; N] {
    let (x, y) = (x.clamp(0.0, (width - 1) as f32), y.clamp(0.0, (height - 1) as f32));
    let (left, top) = (x as usize, y as usize);
    let (right, bottom) = ((left + 1).min(width - 1), (top + 1).min(height - 1));
    let (share_x, share_y) = (x - left as f32, y - top as f32);
    let at = |x: usize, y: usize, component: usize| f32::from(plane[y * stride + x * step + component]);
    let mix = |a: f32, b: f32, share: f32| a + share * (b - a);
    components.map(|c| {
        let upper = mix(at(left, top, c), at(right, top, c), share_x);
        let lower = mix(at(left, bottom, c), at(right, bottom, c), share_x);
        mix(upper, lower, share_y)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ColorMatrix, ColorRange};

    fn moved(points: &Landmarks, turn: f64, scale: f64, shift: [f64; 2]) -> Landmarks {
        let t = Similarity {
            a: scale * turn.cos(),
            b: scale * turn.sin(),
            tx: shift[0],
            ty: shift[1],
        };
        points.map(|p| t.apply(p.map(f64::from)).map(|v| v as f32))
    }

    #[test]
    fn a_face_is_cut_out_without_what_lies_beside_it() {
        // White where the face is, black elsewhere.
        let white = |x: usize, y: usize| (99..=215).contains(&x) && (49..=165).contains(&y);
        let rgb: Vec<u8> = (0..400 * 300)
            .flat_map(|n| [if white(n % 400, n / 400) { 255 } else { 0 }; 3])
            .collect();
        let picture = Picture::rgb(400, 300, &rgb, 1200).unwrap();
        let landmarks = TEMPLATE.map(|[x, y]| [100.0 + x, 50.0 + y]);
        for side in [112, 64, 160] {
            let mut aligned = Vec::new();
            warp(
                &picture,
                &Similarity::onto_template(&landmarks, side).unwrap(),
                side,
                &mut aligned,
            );
            assert_eq!(aligned.len(), 3 * (side * side) as usize);
            assert!(aligned.iter().all(|v| *v == 255), "{side}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_turn_scale_and_shift_is_found_back(
            turn in -3.1f64..3.1,
            scale in 0.1f64..20.0,
            x in -500.0f64..4000.0,
            y in -500.0f64..4000.0,
        ) {
            let face = moved(&TEMPLATE, turn, scale, [x, y]);
            let t = Similarity::onto_template(&face, 112).unwrap();
            proptest::prop_assert!((t.scale() * scale - 1.0).abs() < 1e-3);
            for (p, q) in face.iter().zip(TEMPLATE) {
                let there = t.apply(p.map(f64::from));
                let back = t.inverse().apply(there);
                for axis in [0, 1] {
                    proptest::prop_assert!((there[axis] - f64::from(q[axis])).abs() < 0.02);
                    proptest::prop_assert!((back[axis] - f64::from(p[axis])).abs() < 0.02);
                }
            }
        }

        #[test]
        fn no_other_transform_fits_disturbed_landmarks_better(
            noise in proptest::array::uniform10(-8.0f32..8.0),
            turn in -0.3f64..0.3,
            stretch in 0.8f64..1.25,
            dx in -3.0f64..3.0,
            dy in -3.0f64..3.0,
        ) {
            let mut face = moved(&TEMPLATE, 0.4, 1.7, [30.0, 200.0]);
            face.as_flattened_mut().iter_mut().zip(noise).for_each(|(v, n)| *v += n);
            let error = |t: &Similarity| -> f64 {
                let square = |p: &[f32; 2], q: &[f32; 2]| {
                    let [x, y] = t.apply(p.map(f64::from));
                    (x - f64::from(q[0])).powi(2) + (y - f64::from(q[1])).powi(2)
                };
                face.iter().zip(&TEMPLATE).map(|(p, q)| square(p, q)).sum()
            };
            let best = Similarity::onto_template(&face, 112).unwrap();
            let (a, b) = (stretch * turn.cos(), stretch * turn.sin());
            let other = Similarity {
                a: best.a * a - best.b * b,
                b: best.a * b + best.b * a,
                tx: best.tx + dx,
                ty: best.ty + dy,
            };
            proptest::prop_assert!(error(&best) <= error(&other) + 1e-6);
        }

        #[test]
        fn any_landmarks_and_picture_give_an_aligned_face_or_none(
            points in proptest::array::uniform10(proptest::prop_oneof![
                proptest::num::f32::ANY, -100.0f32..200.0, proptest::strategy::Just(5.0f32)
            ]),
            width in 1u32..20,
            height in 1u32..20,
            nv12 in proptest::bool::ANY,
        ) {
            let data = vec![77u8; 20 * 20 * 2];
            let layout = if nv12 { PixelLayout::Nv12 } else { PixelLayout::I420 };
            let picture = Picture::new(layout, width, height, [&data; 3], [20; 3]).unwrap();
            let mut landmarks = [[0.0; 2]; 5];
            landmarks.as_flattened_mut().copy_from_slice(&points);
            if let Some(t) = Similarity::onto_template(&landmarks, 16) {
                let mut aligned = Vec::new();
                warp(&picture, &t, 16, &mut aligned);
                proptest::prop_assert_eq!(aligned.len(), 3 * 16 * 16);
            }
        }
    }

    #[test]
    fn landmarks_without_extent_or_order_have_no_transform() {
        let nan = |axis: usize| {
            let mut l = TEMPLATE;
            l[3][axis] = f32::NAN;
            l
        };
        let mirrored = {
            // Four corners of a square in reverse order: every rotation fits equally badly.
            let square = |s: f32| [[-1.0, -1.0], [s, -1.0], [0.0, 0.0], [-1.0, 1.0], [s, 1.0]];
            (
                square(1.0),
                [[-1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [1.0, -1.0]],
            )
        };
        for (from, to) in [
            ([[10.0, 20.0]; 5], TEMPLATE),
            (TEMPLATE.map(|p| p.map(|v| v * 0.01)), TEMPLATE),
            (nan(0), TEMPLATE),
            (TEMPLATE, nan(1)),
            ([[f32::INFINITY; 2]; 5], TEMPLATE),
            (TEMPLATE.map(|p| p.map(|v| v * 1e30)), TEMPLATE),
            mirrored,
        ] {
            assert_eq!(Similarity::between(&from, &to), None, "{from:?}");
        }
    }

    /// A smooth picture, as RGB.
    fn gradient(width: usize, height: usize) -> Vec<u8> {
        let pixel = |x: usize, y: usize| [20 + 2 * x, 30 + 2 * y, 40 + x + y].map(|v| v.min(235) as u8);
        (0..width * height).flat_map(|i| pixel(i % width, i / width)).collect()
    }

    const STAY: Similarity = Similarity {
        a: 1.0,
        b: 0.0,
        tx: 0.0,
        ty: 0.0,
    };

    #[test]
    fn the_identity_copies_and_the_outside_is_black() {
        let data = gradient(8, 6);
        let picture = Picture::rgb(8, 6, &data, 24).unwrap();
        let mut aligned = Vec::new();
        warp(&picture, &STAY, 10, &mut aligned);
        for y in 0..10 {
            for x in 0..10 {
                let own = &aligned[3 * (10 * y + x)..][..3];
                let wanted = if x < 8 && y < 6 {
                    &data[3 * (8 * y + x)..][..3]
                } else {
                    &[0; 3]
                };
                assert_eq!(own, wanted, "{x} {y}");
            }
        }
    }

    #[test]
    fn turned_and_shifted_points_are_where_they_belong() {
        let data = gradient(64, 64);
        let bgr: Vec<u8> = data.chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]).collect();
        let t = Similarity {
            a: 0.0,
            b: 1.0,
            tx: 40.5,
            ty: -3.25,
        };
        let mut aligned = Vec::new();
        for picture in [
            Picture::rgb(64, 64, &data, 192).unwrap(),
            Picture::bgr(64, 64, &bgr, 192).unwrap(),
        ] {
            warp(&picture, &t, 32, &mut aligned);
            // x' = 40.5 - y, y' = x - 3.25.
            for (x, y) in [(3, 4), (20, 11), (31, 31)] {
                let (px, py) = (y as f32 + 3.25, 40.5 - x as f32);
                let wanted = [20.0 + 2.0 * px, 30.0 + 2.0 * py, 40.0 + px + py];
                let own = &aligned[3 * (32 * y + x)..][..3];
                for (o, w) in own.iter().zip(wanted) {
                    assert!((f32::from(*o) - w).abs() <= 0.51, "{own:?} {wanted:?}");
                }
            }
        }
    }

    #[test]
    fn a_face_that_shrinks_is_averaged() {
        // Stripes of one pixel: single samples would alternate or pick one of the two.
        let data: Vec<u8> = (0..256 * 256)
            .flat_map(|i| [if i % 2 == 0 { 0 } else { 200 }; 3])
            .collect();
        let picture = Picture::rgb(256, 256, &data, 3 * 256).unwrap();
        let t = Similarity {
            a: 0.125,
            b: 0.0,
            tx: 0.0,
            ty: 0.0,
        };
        let mut aligned = Vec::new();
        warp(&picture, &t, 30, &mut aligned);
        let inner = (2..28).flat_map(|y| aligned[3 * (30 * y + 2)..3 * (30 * y + 28)].iter());
        assert!(inner.into_iter().all(|v| (85..=115).contains(v)));
    }

    #[test]
    fn every_layout_matrix_and_range_gives_the_same_colours() {
        // One colour as studio-range BT.601, full-range BT.709, planar and half planar.
        let (r, g, b) = (180.0f32, 90.0, 40.0);
        let encode = |kr: f32, kb: f32, limited: bool| {
            let y = kr * r + (1.0 - kr - kb) * g + kb * b;
            let (u, v) = ((b - y) / (2.0 * (1.0 - kb)), (r - y) / (2.0 * (1.0 - kr)));
            if limited {
                [
                    16.0 + y * 219.0 / 255.0,
                    128.0 + u * 224.0 / 255.0,
                    128.0 + v * 224.0 / 255.0,
                ]
            } else {
                [y, 128.0 + u, 128.0 + v]
            }
            .map(|c| c.round() as u8)
        };
        let mut aligned = Vec::new();
        for (matrix, kr, kb) in [(ColorMatrix::Bt601, 0.299, 0.114), (ColorMatrix::Bt709, 0.2126, 0.0722)] {
            for (range, limited) in [(ColorRange::Limited, true), (ColorRange::Full, false)] {
                let [y, u, v] = encode(kr, kb, limited);
                let (luma, cb, cr) = (vec![y; 15 * 15], vec![u; 8 * 8], vec![v; 8 * 8]);
                let both = [u, v].repeat(8 * 8);
                let planar = Picture::new(PixelLayout::I420, 15, 15, [&luma, &cb, &cr], [15, 8, 8]).unwrap();
                let half = Picture::new(PixelLayout::Nv12, 15, 15, [&luma, &both, &[]], [15, 16, 0]).unwrap();
                for picture in [planar, half] {
                    warp(&picture.with_colorimetry(matrix, range), &STAY, 15, &mut aligned);
                    for (o, w) in aligned.chunks_exact(3).flatten().zip([r, g, b].iter().cycle()) {
                        assert!((f32::from(*o) - w).abs() <= 2.0, "{matrix:?} {range:?} {o} {w}");
                    }
                }
            }
        }
    }
}
