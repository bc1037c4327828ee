// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Converts a picture's planes to the model's input in one pass over the output rows.
//!
//! Each output row is made from the few source rows under it: a vertical pass over whole source rows (which the
//! compiler turns into vector code), a horizontal pass, then colour matrix, normalisation and clamping in one step that
//! writes the tensor. Luma and chroma of YUV pictures are resampled separately, chroma at half of the output's size.
//!
//! Resampling is bilinear with pixel centres at half-integers, as OpenCV's `INTER_LINEAR`; a side that shrinks by more
//! than two is averaged over the covered area instead, as `INTER_AREA`, because two taps would then skip samples.
//! Chroma samples are taken to lie in the centre of their 2x2 pixels, as OpenCV and most training pipelines have it.
//!
//! Tables and buffers are built when the geometry changes; a frame of the same geometry allocates nothing on its
//! thread. Large inputs are split into bands among several threads, since inference runs on several as well.

use std::ops::Range;
use std::sync::Mutex;
use std::thread;

use half::f16;

use super::description::{ColorOrder, InputRules, Resize};
use super::{ColorMatrix, ColorRange, Picture, PixelLayout};

/// Element type of a model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    U8,
}

/// Order of a model's input dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Channels, height, width.
    Planar,
    /// Height, width, channels.
    Packed,
}

/// The input tensor.
#[derive(Debug)]
pub(super) enum Buffer {
    F32(Vec<f32>),
    F16(Vec<f16>),
    U8(Vec<u8>),
}

/// Placement of the picture in the input: input = picture * scale + offset, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Placement {
    pub scale: (f32, f32),
    pub offset: (f32, f32),
}

/// Pixels of picture and input together below which a further thread costs more than it saves.
const PIXELS_PER_THREAD: usize = 1 << 19;
/// Further threads would only wait for memory.
const MAX_THREADS: usize = 4;
/// Rows of a band; even, because two rows share their chroma.
const BAND: usize = 32;

/// Fills the inputs of one model.
pub(super) struct Preprocessor {
    rules: InputRules,
    element: Element,
    order: Order,
    threads: usize,
    geometry: Option<Geometry>,
    buffer: Buffer,
    /// Scratch rows of each thread.
    rows: Vec<Rows>,
}

/// Scratch rows.
#[derive(Default)]
struct Rows {
    /// One source row after the vertical pass.
    source: Vec<f32>,
    luma: Vec<f32>,
    chroma: [Vec<f32>; 2],
    /// Offset of chroma to each channel, for the two output rows that share it.
    tint: [Vec<f32>; 3],
    /// The finished row, unless the tensor is planar f32.
    out: [Vec<f32>; 3],
}

#[derive(Debug, Clone, PartialEq)]
struct Geometry {
    picture: (usize, usize),
    yuv: bool,
    /// Size of the input.
    input: (usize, usize),
    /// Part of the input that the picture fills: left, top, width, height.
    filled: [usize; 4],
    placement: Placement,
    x: Axis,
    y: Axis,
    chroma_x: Axis,
    chroma_y: Axis,
}

/// For each output position of one axis: the first source position and the weights of `taps` positions from there; for
/// two taps only the weight of the second, as both add up to 1.
#[derive(Debug, Clone, PartialEq)]
struct Axis {
    taps: usize,
    first: Vec<u32>,
    weights: Vec<f32>,
}

impl Axis {
    /// Resamples `from` samples to `to`; an output sample covers `scale` input samples.
    fn new(from: usize, to: usize, scale: f64) -> Self {
        if from == to && scale == 1.0 || from == 1 {
            // One tap of weight 1: a copy.
            let last = from as u32 - 1;
            return Self {
                taps: 1,
                first: (0..to as u32).map(|i| i.min(last)).collect(),
                weights: Vec::new(),
            };
        }
        if scale > 2.0 {
            return Self::area(from, to, scale);
        }
        let (mut first, mut weights) = (Vec::with_capacity(to), Vec::with_capacity(to));
        for i in 0..to {
            let centre = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (from - 1) as f64);
            let start = (centre as usize).min(from - 2);
            let share = (centre - start as f64) as f32;
            first.push(start as u32);
            weights.push(share);
        }
        Self {
            taps: 2,
            first,
            weights,
        }
    }

    fn area(from: usize, to: usize, scale: f64) -> Self {
        if from == 2 {
            // Each output sample covers exactly two input samples.
            return Self {
                taps: 2,
                first: vec![0; to],
                weights: vec![0.5; to],
            };
        }
        let taps = (scale.ceil() as usize + 1).min(from);
        let (mut first, mut weights) = (Vec::with_capacity(to), Vec::with_capacity(taps * to));
        for i in 0..to {
            let (low, high) = (i as f64 * scale, ((i + 1) as f64 * scale).min(from as f64));
            let start = (low as usize).min(from - taps);
            let share = |n: usize| ((n + 1) as f64).min(high) - (n as f64).max(low);
            let sum: f64 = (start..start + taps).map(|n| share(n).max(0.0)).sum();
            first.push(start as u32);
            if sum > 0.0 {
                weights.extend((start..start + taps).map(|n| (share(n).max(0.0) / sum) as f32));
            } else {
                // Rounding has moved the last position past the last sample.
                weights.extend((0..taps).map(|n| if n + 1 == taps { 1.0 } else { 0.0 }));
            }
        }
        Self { taps, first, weights }
    }
}

impl Geometry {
    fn new(picture: &Picture<'_>, input: (usize, usize), resize: Resize, dynamic: bool) -> Self {
        let (w, h) = (picture.width() as usize, picture.height() as usize);
        let (input_w, input_h) = input;
        let ratio = (input_w as f64 / w as f64, input_h as f64 / h as f64);
        let (scale, size) = match resize {
            Resize::Stretch => (ratio, input),
            Resize::Letterbox | Resize::LetterboxCenter => {
                // An input sized for this picture is only rounded up: no scaling.
                let s = if dynamic {
                    ratio.0.min(ratio.1).min(1.0)
                } else {
                    ratio.0.min(ratio.1)
                };
                let side = |n: usize, limit: usize| ((n as f64 * s).round_ties_even() as usize).clamp(1, limit);
                ((s, s), (side(w, input_w), side(h, input_h)))
            }
        };
        let (left, top) = match resize {
            Resize::LetterboxCenter => ((input_w - size.0) / 2, (input_h - size.1) / 2),
            Resize::Letterbox | Resize::Stretch => (0, 0),
        };
        // As in OpenCV, the step follows from the rounded sizes, not from the scale.
        let step = (w as f64 / size.0 as f64, h as f64 / size.1 as f64);
        let half = |n: usize| n.div_ceil(2);
        Self {
            picture: (w, h),
            yuv: is_yuv(picture.layout()),
            input,
            filled: [left, top, size.0, size.1],
            placement: Placement {
                scale: (scale.0 as f32, scale.1 as f32),
                offset: (left as f32, top as f32),
            },
            x: Axis::new(w, size.0, step.0),
            y: Axis::new(h, size.1, step.1),
            chroma_x: Axis::new(half(w), half(size.0), step.0),
            chroma_y: Axis::new(half(h), half(size.1), step.1),
        }
    }
}

fn is_yuv(layout: PixelLayout) -> bool {
    matches!(layout, PixelLayout::I420 | PixelLayout::Nv12)
}

impl Preprocessor {
    /// `threads` is the maximum; 0 means one per processor.
    pub(super) fn new(rules: InputRules, element: Element, order: Order, threads: usize) -> Self {
        let threads = match threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let buffer = match element {
            Element::F32 => Buffer::F32(Vec::new()),
            Element::F16 => Buffer::F16(Vec::new()),
            Element::U8 => Buffer::U8(Vec::new()),
        };
        Self {
            rules,
            element,
            order,
            threads: threads.min(MAX_THREADS),
            geometry: None,
            buffer,
            rows: Vec::new(),
        }
    }

    /// Rules of the input.
    pub(super) fn rules(&self) -> &InputRules {
        &self.rules
    }

    /// The tensor of the last picture.
    pub(super) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Fills the tensor with the value around a letterboxed picture.
    pub(super) fn blank(&mut self, input: (usize, usize)) {
        self.geometry = None;
        let (pixels, affine) = (input.0 * input.1, self.rules.affine);
        let value = |c: usize| affine.gain[c] * self.rules.pad + affine.offset[c];
        let at = |i: usize| match self.order {
            Order::Planar => value(i / pixels),
            Order::Packed => value(i % 3),
        };
        match &mut self.buffer {
            Buffer::F32(b) => {
                b.clear();
                b.extend((0..3 * pixels).map(at));
            }
            Buffer::F16(b) => {
                b.clear();
                b.extend((0..3 * pixels).map(|i| f16::from_f32(at(i))));
            }
            Buffer::U8(b) => {
                b.clear();
                b.extend((0..3 * pixels).map(|i| at(i).round() as u8));
            }
        }
    }

    /// Fills the tensor of `input` (width, height) pixels from a picture. `dynamic`: the input's size follows from
    /// this picture, which is then not enlarged.
    pub(super) fn run(&mut self, picture: &Picture<'_>, input: (usize, usize), dynamic: bool) -> Placement {
        let size = (picture.width() as usize, picture.height() as usize);
        let known = self
            .geometry
            .as_ref()
            .is_some_and(|g| g.picture == size && g.input == input && g.yuv == is_yuv(picture.layout()));
        if !known {
            self.blank(input);
            let geometry = Geometry::new(picture, input, self.rules.resize, dynamic);
            let pixels = size.0 * size.1 + geometry.filled[2] * geometry.filled[3];
            let planar = self.element == Element::F32 && self.order == Order::Planar;
            let threads = if planar {
                (pixels / PIXELS_PER_THREAD).clamp(1, self.threads)
            } else {
                1
            };
            self.rows.resize_with(threads, Rows::default);
            self.rows.iter_mut().for_each(|r| r.resize(&geometry, planar));
            self.geometry = Some(geometry);
        }
        let (Some(geometry), Some((own, others))) = (&self.geometry, self.rows.split_first_mut()) else {
            return Placement::default();
        };
        let source = Source {
            picture,
            geometry,
            rules: &self.rules,
            colors: YuvColors::new(&self.rules, picture),
        };
        let (Buffer::F32(tensor), Order::Planar) = (&mut self.buffer, self.order) else {
            let sink = &mut Sink::Other {
                geometry,
                order: self.order,
                buffer: &mut self.buffer,
            };
            source.make(0..geometry.filled[3], own, sink);
            return geometry.placement;
        };
        let bands = Mutex::new(Bands::new(tensor, geometry));
        let work = |rows: &mut Rows| {
            loop {
                // Not `while let`, which would keep the lock while it works.
                let band = bands.lock().unwrap_or_else(|e| e.into_inner()).next();
                let Some((range, target)) = band else { break };
                source.make(range, rows, &mut Sink::Planar { geometry, target });
            }
        };
        if others.is_empty() {
            work(own);
        } else {
            thread::scope(|scope| {
                for rows in others {
                    // If a thread cannot be spawned, the others take its bands.
                    let _ = thread::Builder::new()
                        .name("ddsinfer-input".into())
                        .spawn_scoped(scope, || work(rows));
                }
                work(own);
            });
        }
        geometry.placement
    }
}

/// Source planes and the tables to resample them.
struct Source<'a> {
    picture: &'a Picture<'a>,
    geometry: &'a Geometry,
    rules: &'a InputRules,
    colors: YuvColors,
}

impl Source<'_> {
    /// Fills a range of rows, which starts at an even row.
    fn make(&self, range: Range<usize>, rows: &mut Rows, sink: &mut Sink<'_>) {
        if self.geometry.yuv {
            yuv(self.picture, self.geometry, &self.colors, range, rows, sink);
        } else {
            packed(self.picture, self.geometry, self.rules, range, rows, sink);
        }
    }
}

/// The picture's rows in a planar tensor, cut into bands.
struct Bands<'a> {
    /// Remaining rows of the channels.
    planes: [&'a mut [f32]; 3],
    width: usize,
    row: usize,
    height: usize,
}

impl<'a> Bands<'a> {
    fn new(tensor: &'a mut [f32], geometry: &Geometry) -> Self {
        let (width, rows) = geometry.input;
        let [_, top, _, height] = geometry.filled;
        let (a, rest) = tensor.split_at_mut(width * rows);
        let (b, c) = rest.split_at_mut(width * rows);
        Self {
            planes: [a, b, c].map(|p| &mut p[top * width..]),
            width,
            row: 0,
            height,
        }
    }
}

impl<'a> Iterator for Bands<'a> {
    type Item = (Range<usize>, [&'a mut [f32]; 3]);

    fn next(&mut self) -> Option<Self::Item> {
        let rows = BAND.min(self.height - self.row);
        if rows == 0 {
            return None;
        }
        let range = self.row..self.row + rows;
        self.row += rows;
        let target = self.planes.each_mut().map(|plane| {
            let (band, rest) = std::mem::take(plane).split_at_mut(rows * self.width);
            *plane = rest;
            band
        });
        Some((range, target))
    }
}

impl Rows {
    fn resize(&mut self, geometry: &Geometry, planar: bool) {
        let [_, _, width, _] = geometry.filled;
        let source = geometry.picture.0 + 1;
        let half = width.div_ceil(2);
        self.source.resize(if geometry.yuv { source } else { 3 * source }, 0.0);
        self.luma.resize(width, 0.0);
        self.chroma.iter_mut().for_each(|r| r.resize(half, 0.0));
        self.tint.iter_mut().for_each(|r| r.resize(2 * half, 0.0));
        self.out
            .iter_mut()
            .for_each(|r| r.resize(if planar { 0 } else { width }, 0.0));
    }
}

/// Destination of finished rows.
enum Sink<'a> {
    /// The channels of a band of a planar f32 tensor, filled in place.
    Planar {
        geometry: &'a Geometry,
        target: [&'a mut [f32]; 3],
    },
    /// A whole tensor of another kind.
    Other {
        geometry: &'a Geometry,
        order: Order,
        buffer: &'a mut Buffer,
    },
}

impl Sink<'_> {
    /// Calls `make` to fill the three channels of one row of the picture: `y` counts from the top of the picture,
    /// `in_band` from the top of the band.
    fn row(&mut self, y: usize, in_band: usize, scratch: &mut [Vec<f32>; 3], make: impl FnOnce([&mut [f32]; 3])) {
        match self {
            Self::Planar { geometry, target } => {
                let [left, _, width, _] = geometry.filled;
                let start = in_band * geometry.input.0 + left;
                make(target.each_mut().map(|plane| &mut plane[start..start + width]));
            }
            Self::Other {
                geometry,
                order,
                buffer,
            } => {
                make(scratch.each_mut().map(|row| row.as_mut_slice()));
                let [left, top, _, _] = geometry.filled;
                let (input_w, input_h) = geometry.input;
                let start = (top + y) * input_w + left;
                let place = |channel: usize, x: usize| match order {
                    Order::Planar => channel * input_w * input_h + start + x,
                    Order::Packed => 3 * (start + x) + channel,
                };
                for (channel, row) in scratch.iter().enumerate() {
                    for (x, value) in row.iter().enumerate() {
                        let at = place(channel, x);
                        match buffer {
                            Buffer::F32(t) => t[at] = *value,
                            Buffer::F16(t) => t[at] = f16::from_f32(*value),
                            Buffer::U8(t) => t[at] = value.round() as u8,
                        }
                    }
                }
            }
        }
    }
}

/// Colour matrix and normalisation in one: channel = clamp(luma * Y + u * U + v * V + constant).
pub(super) struct YuvColors {
    luma: [f32; 3],
    u: [f32; 3],
    v: [f32; 3],
    constant: [f32; 3],
    low: [f32; 3],
    high: [f32; 3],
}

impl YuvColors {
    pub(super) fn new(rules: &InputRules, picture: &Picture<'_>) -> Self {
        let (kr, kb) = match picture.matrix() {
            ColorMatrix::Bt601 => (0.299, 0.114),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
        };
        let kg = 1.0 - kr - kb;
        let (y_gain, y_zero, c_gain) = match picture.range() {
            ColorRange::Limited => (255.0 / 219.0, 16.0, 255.0 / 224.0),
            ColorRange::Full => (1.0, 0.0, 1.0),
        };
        let red = (0.0, 2.0 * (1.0 - kr) * c_gain);
        let green = (
            -2.0 * kb * (1.0 - kb) / kg * c_gain,
            -2.0 * kr * (1.0 - kr) / kg * c_gain,
        );
        let blue = (2.0 * (1.0 - kb) * c_gain, 0.0);
        let channels = match rules.color {
            ColorOrder::Rgb => [red, green, blue],
            ColorOrder::Bgr => [blue, green, red],
        };
        let gain = rules.affine.gain;
        let (low, high) = bounds(rules);
        let mut colors = Self {
            luma: [0.0; 3],
            u: [0.0; 3],
            v: [0.0; 3],
            constant: [0.0; 3],
            low,
            high,
        };
        for (i, (u, v)) in channels.into_iter().enumerate() {
            colors.luma[i] = gain[i] * y_gain;
            colors.u[i] = gain[i] * u;
            colors.v[i] = gain[i] * v;
            colors.constant[i] = rules.affine.offset[i] - gain[i] * (y_gain * y_zero + 128.0 * (u + v));
        }
        colors
    }

    /// The channels of one pixel.
    pub(super) fn pixel(&self, y: f32, u: f32, v: f32) -> [f32; 3] {
        [0, 1, 2].map(|i| {
            let value = self.luma[i] * y + (self.u[i] * u + self.v[i] * v + self.constant[i]);
            clamp(value, self.low[i], self.high[i])
        })
    }
}

/// The inputs of samples 0 and 255, smaller one first.
fn bounds(rules: &InputRules) -> ([f32; 3], [f32; 3]) {
    let black = rules.affine.offset;
    let white = [0, 1, 2].map(|i| 255.0 * rules.affine.gain[i] + rules.affine.offset[i]);
    (
        [0, 1, 2].map(|i| black[i].min(white[i])),
        [0, 1, 2].map(|i| black[i].max(white[i])),
    )
}

fn yuv(
    picture: &Picture<'_>,
    geometry: &Geometry,
    colors: &YuvColors,
    range: Range<usize>,
    rows: &mut Rows,
    sink: &mut Sink<'_>,
) {
    let (w, _) = geometry.picture;
    let cw = w.div_ceil(2);
    let width = geometry.filled[2];
    let Rows {
        source,
        luma,
        chroma,
        tint,
        out,
    } = rows;
    for (in_band, y) in range.enumerate() {
        if y % 2 == 0 {
            let [u, v] = chroma;
            if picture.layout() == PixelLayout::Nv12 {
                let source = &mut source[..2 * cw];
                vertical(picture.plane(1), &geometry.chroma_y, y / 2, source);
                horizontal(source, &geometry.chroma_x, [u, v]);
            } else {
                let source = &mut source[..cw];
                vertical(picture.plane(1), &geometry.chroma_y, y / 2, source);
                horizontal(source, &geometry.chroma_x, [u]);
                vertical(picture.plane(2), &geometry.chroma_y, y / 2, source);
                horizontal(source, &geometry.chroma_x, [v]);
            }
            for (channel, tint) in tint.iter_mut().enumerate() {
                let (gain_u, gain_v) = (colors.u[channel], colors.v[channel]);
                let constant = colors.constant[channel];
                for ((pair, u), v) in tint.chunks_exact_mut(2).zip(&*u).zip(&*v) {
                    let value = gain_u * u + gain_v * v + constant;
                    pair[0] = value;
                    pair[1] = value;
                }
            }
        }
        if geometry.x.taps == 1 && geometry.picture.0 == width {
            vertical(picture.plane(0), &geometry.y, y, luma);
        } else {
            let source = &mut source[..w];
            vertical(picture.plane(0), &geometry.y, y, source);
            horizontal(source, &geometry.x, [luma]);
        }
        sink.row(y, in_band, out, |channels| {
            for (channel, row) in channels.into_iter().enumerate() {
                let (gain, low, high) = (colors.luma[channel], colors.low[channel], colors.high[channel]);
                for ((out, y), tint) in row.iter_mut().zip(&*luma).zip(&tint[channel]) {
                    *out = clamp(gain * y + tint, low, high);
                }
            }
        });
    }
}

fn packed(
    picture: &Picture<'_>,
    geometry: &Geometry,
    rules: &InputRules,
    range: Range<usize>,
    rows: &mut Rows,
    sink: &mut Sink<'_>,
) {
    let Rows { source, out, .. } = rows;
    let source = &mut source[..3 * geometry.picture.0];
    let same_order = (picture.layout() == PixelLayout::Rgb) == (rules.color == ColorOrder::Rgb);
    let (low, high) = bounds(rules);
    for (in_band, y) in range.enumerate() {
        vertical(picture.plane(0), &geometry.y, y, source);
        sink.row(y, in_band, out, |mut channels| {
            let [a, b, c] = channels.each_mut().map(|c| &mut **c);
            horizontal(source, &geometry.x, if same_order { [a, b, c] } else { [c, b, a] });
            for (channel, row) in channels.into_iter().enumerate() {
                let (gain, offset) = (rules.affine.gain[channel], rules.affine.offset[channel]);
                if (gain, offset) != (1.0, 0.0) {
                    let (low, high) = (low[channel], high[channel]);
                    row.iter_mut().for_each(|v| *v = clamp(gain * *v + offset, low, high));
                }
            }
        });
    }
}

/// Not f32::clamp, which checks its bounds on every call.
#[inline(always)]
fn clamp(value: f32, low: f32, high: f32) -> f32 {
    let value = if value < low { low } else { value };
    if value > high { high } else { value }
}

/// Interpolates between `a` (share 0) and `b` (share 1).
#[inline(always)]
fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + share * (b - a)
}

/// The weighted sum of the source rows under output row `y`.
fn vertical((plane, stride): (&[u8], usize), axis: &Axis, y: usize, out: &mut [f32]) {
    let first = axis.first[y] as usize;
    match axis.taps {
        1 => {
            for (o, s) in out.iter_mut().zip(&plane[first * stride..]) {
                *o = f32::from(*s);
            }
        }
        2 => {
            let (a, b) = (&plane[first * stride..], &plane[(first + 1) * stride..]);
            let share = axis.weights[y];
            for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
                *o = mix(f32::from(*a), f32::from(*b), share);
            }
        }
        taps => {
            out.fill(0.0);
            for (n, weight) in axis.weights[y * taps..][..taps]
                .iter()
                .enumerate()
                .filter(|w| *w.1 != 0.0)
            {
                let row = &plane[(first + n) * stride..][..out.len()];
                for (o, s) in out.iter_mut().zip(row) {
                    *o += weight * f32::from(*s);
                }
            }
        }
    }
}

/// Deinterleaves a row of `STEP` components and resamples it.
fn horizontal<const STEP: usize>(source: &[f32], axis: &Axis, out: [&mut [f32]; STEP]) {
    // Equal lengths, so that one bounds check covers all.
    let width = axis.first.len();
    let mut out = out.map(|o| &mut o[..width]);
    let starts = axis.first.iter().map(|i| *i as usize * STEP);
    match axis.taps {
        1 => {
            for (x, at) in starts.enumerate() {
                for (out, s) in out.iter_mut().zip(&source[at..at + STEP]) {
                    out[x] = *s;
                }
            }
        }
        2 => {
            let mut done = 0;
            if STEP == 1 {
                // Four at once, all checks before all loads: this shape vectorises.
                let n = source.len();
                let blocks = axis.first.chunks_exact(4).zip(axis.weights.chunks_exact(4));
                for (o, (i, w)) in out[0].chunks_exact_mut(4).zip(blocks) {
                    let [a, b, c, d] = [i[0], i[1], i[2], i[3]].map(|i| i as usize);
                    if a + 1 >= n || b + 1 >= n || c + 1 >= n || d + 1 >= n {
                        break;
                    }
                    let left = [source[a], source[b], source[c], source[d]];
                    let right = [source[a + 1], source[b + 1], source[c + 1], source[d + 1]];
                    for n in 0..4 {
                        o[n] = mix(left[n], right[n], w[n]);
                    }
                }
                done = width / 4 * 4;
            }
            for x in done..width {
                let (at, share) = (axis.first[x] as usize * STEP, axis.weights[x]);
                let taps = &source[at..at + 2 * STEP];
                for (c, out) in out.iter_mut().enumerate() {
                    out[x] = mix(taps[c], taps[c + STEP], share);
                }
            }
        }
        taps => {
            for (x, (at, w)) in starts.zip(axis.weights.chunks_exact(taps)).enumerate() {
                let mut sum = [0.0; STEP];
                for (w, s) in w.iter().zip(source[at..].chunks_exact(STEP)) {
                    sum.iter_mut().zip(s).for_each(|(sum, s)| *sum += w * s);
                }
                out.iter_mut().zip(sum).for_each(|(out, sum)| out[x] = sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::description::{Affine, Family, Fields};
    use super::*;

    const PLAIN: Affine = Affine {
        gain: [1.0; 3],
        offset: [0.0; 3],
    };

    fn rules(resize: Resize) -> InputRules {
        InputRules {
            color: ColorOrder::Rgb,
            resize,
            pad: 114.0,
            affine: PLAIN,
        }
    }

    fn noise(n: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect()
    }

    fn planar(rules: InputRules, picture: &Picture<'_>, input: (usize, usize)) -> (Vec<f32>, Placement) {
        let mut p = Preprocessor::new(rules, Element::F32, Order::Planar, 1);
        let placement = p.run(picture, input, false);
        match p.buffer {
            Buffer::F32(b) => (b, placement),
            _ => unreachable!(),
        }
    }

    /// One pixel, straight from the definition of the conversion.
    fn to_rgb(y: u8, u: u8, v: u8, kr: f32, kb: f32, limited: bool) -> [f32; 3] {
        let (y, u, v) = (f32::from(y), f32::from(u) - 128.0, f32::from(v) - 128.0);
        let (y, u, v) = if limited {
            ((y - 16.0) / 219.0 * 255.0, u / 224.0 * 255.0, v / 224.0 * 255.0)
        } else {
            (y, u, v)
        };
        let r = y + 2.0 * (1.0 - kr) * v;
        let b = y + 2.0 * (1.0 - kb) * u;
        let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
        [r, g, b].map(|c| c.clamp(0.0, 255.0))
    }

    #[test]
    fn yuv_at_its_own_size_is_converted_exactly_in_every_matrix_and_range() {
        let (w, h) = (37, 11);
        let (cw, ch) = (19, 6);
        let (luma, u, v) = (
            noise(w * h),
            noise(cw * ch + 5)[5..].to_vec(),
            noise(cw * ch + 9)[9..].to_vec(),
        );
        let uv: Vec<u8> = u.iter().zip(&v).flat_map(|(u, v)| [*u, *v]).collect();
        for (matrix, kr, kb) in [(ColorMatrix::Bt601, 0.299, 0.114), (ColorMatrix::Bt709, 0.2126, 0.0722)] {
            for range in [ColorRange::Limited, ColorRange::Full] {
                let i420 = Picture::new(PixelLayout::I420, 37, 11, [&luma, &u, &v], [w, cw, cw]).unwrap();
                let nv12 = Picture::new(PixelLayout::Nv12, 37, 11, [&luma, &uv, &[]], [w, 2 * cw, 0]).unwrap();
                for picture in [i420, nv12].map(|p| p.with_colorimetry(matrix, range)) {
                    let (tensor, _) = planar(rules(Resize::Letterbox), &picture, (w, h));
                    for (i, y) in luma.iter().enumerate() {
                        let c = i / w / 2 * cw + i % w / 2;
                        let rgb = to_rgb(*y, u[c], v[c], kr, kb, range == ColorRange::Limited);
                        for channel in 0..3 {
                            let own = tensor[channel * w * h + i];
                            assert!(
                                (own - rgb[channel]).abs() < 0.01,
                                "{picture:?} pixel {i}: {own} {rgb:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rgb_and_bgr_are_resampled_bilinearly_with_centres_at_halves() {
        let (w, h) = (40, 30);
        let data = noise(3 * w * h);
        for (tw, th) in [(40, 30), (57, 43), (25, 19), (40, 20), (20, 15)] {
            let picture = Picture::bgr(40, 30, &data, 3 * w).unwrap();
            let (tensor, _) = planar(rules(Resize::Stretch), &picture, (tw, th));
            for (i, own) in tensor.iter().enumerate() {
                let (channel, y, x) = (i / (tw * th), i / tw % th, i % tw);
                let at = |x: usize, y: usize| f64::from(data[3 * (y.min(h - 1) * w + x.min(w - 1)) + 2 - channel]);
                let fx = ((x as f64 + 0.5) * w as f64 / tw as f64 - 0.5).clamp(0.0, (w - 1) as f64);
                let fy = ((y as f64 + 0.5) * h as f64 / th as f64 - 0.5).clamp(0.0, (h - 1) as f64);
                let (x0, y0) = (fx as usize, fy as usize);
                let (ax, ay) = (fx.fract(), fy.fract());
                let row = |y| at(x0, y) * (1.0 - ax) + at(x0 + 1, y) * ax;
                let expected = row(y0) * (1.0 - ay) + row(y0 + 1) * ay;
                assert!(
                    (f64::from(*own) - expected).abs() < 0.01,
                    "{tw}x{th} at {i}: {own} {expected}"
                );
            }
        }
    }

    #[test]
    fn shrinking_by_more_than_two_averages_the_covered_area() {
        let (w, h) = (48, 36);
        let data = noise(3 * w * h);
        let (tensor, _) = planar(
            rules(Resize::Stretch),
            &Picture::rgb(48, 36, &data, 3 * w).unwrap(),
            (16, 12),
        );
        for (i, own) in tensor.iter().enumerate() {
            let (channel, y, x) = (i / 192, i / 16 % 12, i % 16);
            let sum: u32 = (0..9)
                .map(|n| u32::from(data[3 * ((3 * y + n / 3) * w + 3 * x + n % 3) + channel]))
                .sum();
            assert!((own - sum as f32 / 9.0).abs() < 0.01);
        }
        // Any other factor keeps the mean of the picture.
        let (tensor, _) = planar(
            rules(Resize::Stretch),
            &Picture::rgb(48, 36, &data, 3 * w).unwrap(),
            (17, 13),
        );
        let mean = |v: &mut dyn Iterator<Item = f32>, n: usize| v.sum::<f32>() / n as f32;
        let source = mean(&mut data.iter().map(|v| f32::from(*v)), data.len());
        assert!((mean(&mut tensor.iter().copied(), tensor.len()) - source).abs() < 0.5);
    }

    #[test]
    fn a_flat_picture_stays_flat_at_every_size() {
        for (w, h) in [(1, 1), (2, 1), (3, 7), (64, 48), (101, 77)] {
            let (cw, ch) = (usize::div_ceil(w, 2), usize::div_ceil(h, 2));
            // The shortest planes allowed: the last row without its stride.
            let luma = vec![100u8; (w + 3) * (h - 1) + w];
            let uv = [90u8, 160].repeat((cw + 2) * (ch - 1) + cw);
            let (u, v) = (
                vec![90u8; (cw + 1) * (ch - 1) + cw],
                vec![160u8; (cw + 1) * (ch - 1) + cw],
            );
            let expected = to_rgb(100, 90, 160, 0.299, 0.114, true);
            let (pw, ph) = (w as u32, h as u32);
            let nv12 = Picture::new(PixelLayout::Nv12, pw, ph, [&luma, &uv, &[]], [w + 3, 2 * cw + 4, 0]).unwrap();
            let i420 = Picture::new(PixelLayout::I420, pw, ph, [&luma, &u, &v], [w + 3, cw + 1, cw + 1]).unwrap();
            for picture in [nv12, i420] {
                for (tw, th) in [(1, 1), (5, 4), (32, 32), (64, 96)] {
                    let (tensor, _) = planar(rules(Resize::Stretch), &picture, (tw, th));
                    for (i, own) in tensor.iter().enumerate() {
                        let wanted = expected[i / (tw * th)];
                        assert!((own - wanted).abs() < 0.01, "{w}x{h} to {tw}x{th}: {own} {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn letterboxes_lie_where_they_say_and_are_padded() {
        let data = vec![255u8; 3 * 40 * 20];
        let picture = Picture::rgb(40, 20, &data, 120).unwrap();
        for (resize, offset) in [(Resize::Letterbox, 0), (Resize::LetterboxCenter, 7)] {
            let (tensor, placement) = planar(rules(resize), &picture, (10, 20));
            assert_eq!(
                placement,
                Placement {
                    scale: (0.25, 0.25),
                    offset: (0.0, offset as f32)
                }
            );
            for (i, own) in tensor.iter().enumerate() {
                let inside = (offset..offset + 5).contains(&(i / 10 % 20));
                assert_eq!(*own, if inside { 255.0 } else { 114.0 });
            }
        }
        let (tensor, placement) = planar(rules(Resize::Stretch), &picture, (10, 20));
        assert_eq!(
            placement,
            Placement {
                scale: (0.25, 1.0),
                offset: (0.0, 0.0)
            }
        );
        assert!(tensor.iter().all(|v| *v == 255.0));
    }

    #[test]
    fn an_input_made_to_measure_takes_the_picture_as_it_is() {
        let data = noise(3 * 50 * 40);
        let picture = Picture::rgb(50, 40, &data, 150).unwrap();
        let mut p = Preprocessor::new(rules(Resize::Letterbox), Element::F32, Order::Planar, 1);
        assert_eq!(p.run(&picture, (64, 64), true).scale, (1.0, 1.0));
        let Buffer::F32(tensor) = p.buffer() else {
            unreachable!()
        };
        assert_eq!(tensor[64 * 3 + 49], f32::from(data[3 * (50 * 3 + 49)]));
        assert_eq!(tensor[50], 114.0);
        assert_eq!(tensor[64 * 40], 114.0);
    }

    #[test]
    fn normalisation_is_applied_to_picture_and_padding() {
        let rules = InputRules {
            pad: 114.0,
            ..Fields::default().input_rules(&Family::Nanodet.defaults())
        };
        let data = [10u8, 20, 30].repeat(4 * 2);
        let picture = Picture::rgb(4, 2, &data, 12).unwrap();
        let (tensor, _) = planar(
            InputRules {
                resize: Resize::Letterbox,
                ..rules
            },
            &picture,
            (4, 4),
        );
        // BGR: blue first.
        for (channel, (sample, mean, std)) in [(30.0, 103.53, 57.375), (20.0, 116.28, 57.12), (10.0, 123.675, 58.395)]
            .into_iter()
            .enumerate()
        {
            assert!((tensor[16 * channel] - (sample - mean) / std).abs() < 1e-5);
            assert!((tensor[16 * channel + 15] - (114.0 - mean) / std).abs() < 1e-5);
        }
    }

    #[test]
    fn other_elements_and_orders_hold_the_same_numbers() {
        let data = noise(3 * 30 * 20);
        let picture = Picture::rgb(30, 20, &data, 90).unwrap();
        let (wanted, _) = planar(rules(Resize::Letterbox), &picture, (24, 20));
        for element in [Element::F32, Element::F16, Element::U8] {
            for order in [Order::Planar, Order::Packed] {
                let mut p = Preprocessor::new(rules(Resize::Letterbox), element, order, 1);
                p.run(&picture, (24, 20), false);
                let own: Vec<f32> = match p.buffer() {
                    Buffer::F32(b) => b.clone(),
                    Buffer::F16(b) => b.iter().map(|v| v.to_f32()).collect(),
                    Buffer::U8(b) => b.iter().map(|v| f32::from(*v)).collect(),
                };
                for (i, wanted) in wanted.iter().enumerate() {
                    let at = if order == Order::Planar {
                        i
                    } else {
                        i % 480 * 3 + i / 480
                    };
                    assert!((own[at] - wanted).abs() <= 0.5, "{element:?} {order:?} {i}");
                }
            }
        }
    }

    #[test]
    fn a_new_geometry_leaves_nothing_of_the_old_one() {
        let (white, black) = (vec![255u8; 3 * 32 * 32], vec![0u8; 3 * 32 * 16]);
        let mut p = Preprocessor::new(rules(Resize::Letterbox), Element::F32, Order::Planar, 1);
        p.run(&Picture::rgb(32, 32, &white, 96).unwrap(), (32, 32), false);
        p.run(&Picture::rgb(32, 16, &black, 96).unwrap(), (32, 32), false);
        let Buffer::F32(tensor) = p.buffer() else {
            unreachable!()
        };
        assert!(tensor[..512].iter().all(|v| *v == 0.0));
        assert!(tensor[512..1024].iter().all(|v| *v == 114.0));
    }

    #[test]
    fn several_threads_make_the_same_input() {
        let (w, h) = (1000, 900);
        let (luma, uv) = (noise(w * h), noise(w * h / 2));
        let picture = Picture::new(PixelLayout::Nv12, 1000, 900, [&luma, &uv, &[]], [w, w, 0]).unwrap();
        let tensor = |threads| {
            let mut p = Preprocessor::new(rules(Resize::LetterboxCenter), Element::F32, Order::Planar, threads);
            p.run(&picture, (1280, 1011), false);
            (p.rows.len(), p.buffer)
        };
        let ((one, Buffer::F32(single)), (three, Buffer::F32(several))) = (tensor(1), tensor(9)) else {
            unreachable!()
        };
        assert_eq!((one, three), (1, 3));
        assert!(single == several);
    }
}
