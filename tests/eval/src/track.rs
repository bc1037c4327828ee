// SPDX-License-Identifier: MPL-2.0

//! The tracker that a camera runs between the frames that it sends: a kernelised correlation filter.
//!
//! Henriques, Caseiro, Martins and Batista, "High-Speed Tracking with Kernelized Correlation Filters", TPAMI 2015
//! (KCF): ridge regression over all cyclic shifts of a patch, solved in the Fourier domain, Gaussian kernel. The patch
//! is resampled to a grid of [`CELLS`] x [`CELLS`] cells whatever the box, which bounds the cost of a large one.
//! Features are the grey level and the gradient's angular harmonics: the sum over a cell of `|g| exp(i m angle)`, a
//! histogram of oriented gradients in its Fourier series. Beyond the paper, each update also tries one other scale.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::f32::consts::TAU;
use std::sync::{Arc, LazyLock};

use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

/// Cells on a side of the grid on which a patch is compared.
pub const CELLS: usize = 32;
/// Least width and height of a box that is tracked, pixels.
pub const LEAST_SIDE: f32 = 4.0;
/// A response whose peak is lower has lost its target; a perfect match answers 1. On traffic and pedestrians 99 of 100
/// right matches are above 0.5, 99 of 100 of other places below 0.37.
pub const LEAST_PEAK: f32 = 0.4;
/// Least peak-to-sidelobe ratio: height of the peak over the rest of the response, in its standard deviations. Right
/// matches have 27 and more, other places about 6.
pub const LEAST_RATIO: f32 = 15.0;
/// Least share of a box inside the picture.
pub const LEAST_VISIBLE: f32 = 0.25;

/// Cells of the grid.
const AREA: usize = CELLS * CELLS;
/// Sample points on a side of a cell.
const CELL: usize = 2;
/// Sample points on a side of the patch.
const SIDE: usize = CELLS * CELL;
/// Complex channels, each two real features: grey and gradient magnitude, then the harmonics 1 to 4.
const CHANNELS: usize = 5;
/// Window over box, each side: how much background is learnt, and how far a target is looked for.
const PADDING: f32 = 2.5;
/// Standard deviation of the wanted response, in target sides.
const LABEL_SIGMA: f32 = 0.1;
/// Standard deviation of the Gaussian kernel.
const KERNEL_SIGMA: f32 = 0.5;
/// Weight of the regression's penalty.
const LAMBDA: f32 = 1e-4;
/// Share of a new frame in the model.
const RATE: f32 = 0.05;
/// Gradient magnitude below which a place counts as flat, grey levels over two sample points.
const FLAT: f32 = 4.0;
/// Step of the scale search.
const SCALE_STEP: f32 = 1.05;
/// Another scale must beat the present one by this factor.
const SCALE_GAIN: f32 = 1.0 / 0.98;
/// Cells around the peak that do not count as sidelobe, each way.
const MAIN_LOBE: usize = 4;

/// A grey picture: the luma plane, 8 bits, 0 to 255.
#[derive(Clone, Copy, Debug)]
pub struct Grey<'a> {
    /// Rows from the top, `stride` bytes apart; the last may end with its last pixel.
    pub data: &'a [u8],
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes from row to row, at least `width`.
    pub stride: usize,
}

impl Grey<'_> {
    /// Whether there is a pixel and every one is inside `data`.
    fn is_sound(&self) -> bool {
        let end = self
            .height
            .checked_sub(1)
            .and_then(|rows| rows.checked_mul(self.stride));
        let end = end.and_then(|start| start.checked_add(self.width));
        self.width > 0 && self.stride >= self.width && end.is_some_and(|end| end <= self.data.len())
    }

    /// The part of a box (left, top, width, height) inside the picture, width and height not below 0.
    fn clip(&self, [x, y, w, h]: [f32; 4]) -> [f32; 4] {
        let (left, top) = (x.max(0.0), y.max(0.0));
        let (right, bottom) = ((x + w).min(self.width as f32), (y + h).min(self.height as f32));
        [left, top, (right - left).max(0.0), (bottom - top).max(0.0)]
    }
}

/// What all trackers share: the transforms, the window and the spectrum of the wanted response.
struct Tables {
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
    /// Scratch length of both transforms.
    spare: usize,
    hann: [f32; CELLS],
    label: Vec<Complex32>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut planner = FftPlanner::new();
    let (forward, inverse) = (planner.plan_fft_forward(CELLS), planner.plan_fft_inverse(CELLS));
    let spare = forward.get_inplace_scratch_len().max(inverse.get_inplace_scratch_len());
    let hann = std::array::from_fn(|i| 0.5 - 0.5 * (TAU * (i as f32 + 0.5) / CELLS as f32).cos());
    let sigma = LABEL_SIGMA * CELLS as f32 / PADDING;
    let mut label: Vec<Complex32> = (0..AREA)
        .map(|n| {
            let (x, y) = (signed(n % CELLS), signed(n / CELLS));
            Complex32::new((-(x * x + y * y) / (2.0 * sigma * sigma)).exp(), 0.0)
        })
        .collect();
    transform(&*forward, &mut label, &mut vec![Complex32::default(); spare]);
    Tables {
        forward,
        inverse,
        spare,
        hann,
        label,
    }
});

/// The shift that an index of a cyclic axis stands for.
fn signed(i: usize) -> f32 {
    if i > CELLS / 2 {
        i as f32 - CELLS as f32
    } else {
        i as f32
    }
}

/// Transforms a grid in both directions, unscaled. A spectrum lies transposed, and its inverse does not.
fn transform(fft: &dyn Fft<f32>, grid: &mut [Complex32], spare: &mut [Complex32]) {
    fft.process_with_scratch(grid, spare);
    for y in 0..CELLS {
        for x in y + 1..CELLS {
            grid.swap(y * CELLS + x, x * CELLS + y);
        }
    }
    fft.process_with_scratch(grid, spare);
}

/// Buffers of one computation, kept per thread.
#[derive(Default)]
struct Work {
    spare: Vec<Complex32>,
    columns: Taps,
    rows: Taps,
    line: Vec<f32>,
    patch: Vec<f32>,
    energy: Vec<f32>,
    /// Spectra of the features, channel by channel.
    spectra: Vec<Complex32>,
    /// Kernel correlation, then what is made of it.
    kernel: Vec<Complex32>,
}

thread_local! {
    static WORK: RefCell<Work> = RefCell::default();
}

/// The pixels of one axis that a sample point takes, `each` per point, and their weights.
#[derive(Default)]
struct Taps {
    each: usize,
    taps: Vec<(usize, f32)>,
}

impl Taps {
    /// Points of a window from `start` on, `length` long, on an axis of `limit` pixels whose ends go on for ever.
    fn place(&mut self, start: f32, length: f32, limit: usize) {
        let step = length / SIDE as f32;
        let index = |at: f32| (at.max(0.0) as usize).min(limit - 1);
        self.taps.clear();
        if step <= 2.0 {
            self.each = 2;
            for i in 0..SIDE {
                let at = (start + (i as f32 + 0.5) * step - 0.5).clamp(0.0, limit as f32 - 1.0);
                let after = at.fract();
                self.taps.push((index(at), 1.0 - after));
                self.taps.push((index(at + 1.0), after));
            }
        } else {
            // A coarse grid needs a mean, not interpolation, against aliasing.
            self.each = (step.ceil() as usize).min(4);
            let (step, weight) = (step / self.each as f32, 1.0 / self.each as f32);
            for i in 0..SIDE * self.each {
                self.taps.push((index(start + (i as f32 + 0.5) * step), weight));
            }
        }
    }
}

/// Resamples a window of the picture to SIDE x SIDE points.
fn sample(frame: &Grey<'_>, centre: [f32; 2], window: [f32; 2], work: &mut Work) {
    let Work {
        columns,
        rows,
        line,
        patch,
        ..
    } = work;
    columns.place(centre[0] - window[0] / 2.0, window[0], frame.width);
    rows.place(centre[1] - window[1] / 2.0, window[1], frame.height);
    let first = columns.taps.iter().map(|tap| tap.0).min().unwrap_or(0);
    let end = columns.taps.iter().map(|tap| tap.0).max().unwrap_or(0) + 1;
    patch.clear();
    for taps in rows.taps.chunks_exact(rows.each) {
        line.clear();
        line.resize(end - first, 0.0);
        for &(row, weight) in taps {
            let pixels = &frame.data[row * frame.stride..][first..end];
            line.iter_mut()
                .zip(pixels)
                .for_each(|(sum, &p)| *sum += weight * f32::from(p));
        }
        let points = columns.taps.chunks_exact(columns.each);
        patch.extend(points.map(|taps| taps.iter().map(|&(x, weight)| weight * line[x - first]).sum::<f32>()));
    }
}

/// Features of a window of the picture, windowed, as spectra in `work.spectra`.
fn features(frame: &Grey<'_>, centre: [f32; 2], window: [f32; 2], work: &mut Work) {
    sample(frame, centre, window, work);
    let Work {
        spare,
        patch,
        energy,
        spectra,
        ..
    } = work;
    spectra.clear();
    spectra.resize(AREA * CHANNELS, Complex32::default());
    energy.clear();
    energy.resize(AREA, 0.0);
    let mean = patch.iter().sum::<f32>() / patch.len() as f32;

    let [mut gx, mut gy, mut ux, mut uy, mut magnitude] = [[0.0f32; SIDE]; 5];
    for y in 0..SIDE {
        let row = |y: usize| &patch[y * SIDE..][..SIDE];
        let (here, above, below) = (row(y), row(y.saturating_sub(1)), row((y + 1).min(SIDE - 1)));
        for x in 1..SIDE - 1 {
            gx[x] = here[x + 1] - here[x - 1];
        }
        (gx[0], gx[SIDE - 1]) = (here[1] - here[0], here[SIDE - 1] - here[SIDE - 2]);
        for x in 0..SIDE {
            gy[x] = below[x] - above[x];
            magnitude[x] = (gx[x] * gx[x] + gy[x] * gy[x]).sqrt();
            let unit = 1.0 / (magnitude[x] + 1e-3);
            (ux[x], uy[x]) = (gx[x] * unit, gy[x] * unit);
        }
        let cells = y / CELL * CELLS..(y / CELL + 1) * CELLS;
        for (sum, m) in energy[cells.clone()].iter_mut().zip(magnitude.chunks_exact(CELL)) {
            *sum += m.iter().sum::<f32>();
        }
        for (sum, p) in spectra[cells.clone()].iter_mut().zip(here.chunks_exact(CELL)) {
            sum.re += p.iter().map(|p| p - mean).sum::<f32>();
        }
        for channel in spectra.chunks_exact_mut(AREA).skip(1) {
            let parts = gx.chunks_exact(CELL).zip(gy.chunks_exact(CELL));
            for (sum, (re, im)) in channel[cells.clone()].iter_mut().zip(parts) {
                sum.re += re.iter().sum::<f32>();
                sum.im += im.iter().sum::<f32>();
            }
            // The next harmonic: the angle once more.
            for x in 0..SIDE {
                (gx[x], gy[x]) = (gx[x] * ux[x] - gy[x] * uy[x], gx[x] * uy[x] + gy[x] * ux[x]);
            }
        }
    }

    let tables = &*TABLES;
    let points = (CELL * CELL) as f32;
    for y in 0..CELLS {
        let near = y.saturating_sub(1)..(y + 2).min(CELLS);
        for x in 0..CELLS {
            // Against the gradients of the neighbourhood, so that a change of light does not count.
            let columns = x.saturating_sub(1)..(x + 2).min(CELLS);
            let around: f32 = near
                .clone()
                .map(|y| energy[y * CELLS..][columns.clone()].iter().sum::<f32>())
                .sum();
            let n = y * CELLS + x;
            let hann = tables.hann[y] * tables.hann[x];
            let norm = hann / (around / 9.0 + FLAT * points);
            spectra[n] = Complex32::new(spectra[n].re / (255.0 * points) * hann, energy[n] * norm);
            for channel in 1..CHANNELS {
                spectra[channel * AREA + n] *= norm;
            }
        }
    }
    spare.resize(tables.spare, Complex32::default());
    for channel in spectra.chunks_exact_mut(AREA) {
        transform(&*tables.forward, channel, spare);
    }
}

/// Spectrum of the Gaussian kernel of two patches at all shifts of the second, from the spectra of both.
///
/// Two real features lie in one complex channel: the real part of their correlation is the sum of the two.
fn correlate(a: &[Complex32], b: &[Complex32], kernel: &mut Vec<Complex32>, spare: &mut [Complex32]) {
    kernel.clear();
    kernel.resize(AREA, Complex32::default());
    let mut power = 0.0;
    for (a, b) in a.chunks_exact(AREA).zip(b.chunks_exact(AREA)) {
        for ((sum, a), b) in kernel.iter_mut().zip(a).zip(b) {
            *sum += a.conj() * b;
            power += a.norm_sqr() + b.norm_sqr();
        }
    }
    let tables = &*TABLES;
    transform(&*tables.inverse, kernel, spare);
    let scale = 1.0 / AREA as f32;
    let width = KERNEL_SIGMA * KERNEL_SIGMA * (2 * CHANNELS * AREA) as f32;
    for k in kernel.iter_mut() {
        let distance = ((power - 2.0 * k.re) * scale).max(0.0);
        *k = Complex32::new((-distance / width).exp(), 0.0);
    }
    transform(&*tables.forward, kernel, spare);
}

/// What a filter says about a window.
struct Response {
    peak: f32,
    /// Peak-to-sidelobe ratio.
    ratio: f32,
    /// Where the peak is, in cells from the centre.
    shift: [f32; 2],
}

impl Response {
    /// Reads an unscaled response; its origin is the first cell, and it is cyclic.
    fn read(grid: &[Complex32]) -> Self {
        let best = (0..AREA).fold(0, |best, n| if grid[n].re > grid[best].re { n } else { best });
        let (x, y) = (best % CELLS, best / CELLS);
        let at = |dx: usize, dy: usize| grid[(y + dy) % CELLS * CELLS + (x + dx) % CELLS].re / AREA as f32;
        let peak = at(0, 0);

        let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
        let far = |d: usize| (MAIN_LOBE + 1..CELLS - MAIN_LOBE).contains(&d);
        for dy in 0..CELLS {
            for dx in (0..CELLS).filter(|&dx| far(dx) || far(dy)) {
                let value = at(dx, dy);
                count += 1.0;
                sum += value;
                squares += value * value;
            }
        }
        let mean = sum / count;
        let deviation = (squares / count - mean * mean).max(0.0f32).sqrt();

        // The vertex of the parabola through the peak and its neighbours.
        let vertex = |before: f32, after: f32| {
            let bend = before - 2.0 * peak + after;
            if bend < 0.0 {
                (0.5 * (before - after) / bend).clamp(-0.5, 0.5)
            } else {
                0.0
            }
        };
        Self {
            peak,
            ratio: (peak - mean) / (deviation + 1e-6),
            shift: [
                signed(x) + vertex(at(CELLS - 1, 0), at(1, 0)),
                signed(y) + vertex(at(0, CELLS - 1), at(0, 1)),
            ],
        }
    }
}

/// One tracker: the filter of one box, from the frame in which it was found.
///
/// Same frames, same boxes, on one machine: the transforms use what the processor has, so that another may differ in
/// the last bits.
#[derive(Clone, Debug)]
pub struct Tracker {
    centre: [f32; 2],
    size: [f32; 2],
    /// Spectra of the target's features.
    model: Vec<Complex32>,
    /// Spectrum of the regression's dual coefficients.
    alpha: Vec<Complex32>,
    /// Whether the last update tried the larger scale.
    grew: bool,
}

impl Tracker {
    /// Learns what is in a box: left, top, width and height, in pixels of the frame, of which the part inside counts.
    ///
    /// None where less than [`LEAST_SIDE`] of either side is inside the frame, a number is not finite, or the frame has
    /// not the bytes that its size asks for.
    pub fn new(frame: &Grey<'_>, rect: [f32; 4]) -> Option<Self> {
        if !frame.is_sound() || !rect.iter().all(|v| v.is_finite()) {
            return None;
        }
        let [x, y, w, h] = frame.clip(rect);
        if w < LEAST_SIDE || h < LEAST_SIDE {
            return None;
        }
        let mut tracker = Self {
            centre: [x + w / 2.0, y + h / 2.0],
            size: [w, h],
            model: Vec::new(),
            alpha: Vec::new(),
            grew: false,
        };
        WORK.with_borrow_mut(|work| tracker.learn(frame, work));
        Some(tracker)
    }

    /// Finds the target in the next frame: left, top, width and height of the part of its box inside the picture.
    ///
    /// None where it is lost: a peak below [`LEAST_PEAK`] or [`LEAST_RATIO`], less than [`LEAST_VISIBLE`] of the box
    /// inside the picture, or a frame that has not the bytes that its size asks for. A lost frame teaches nothing, and
    /// the box stays where it was.
    pub fn update(&mut self, frame: &Grey<'_>) -> Option<[f32; 4]> {
        if !frame.is_sound() {
            return None;
        }
        WORK.with_borrow_mut(|work| {
            let (mut size, mut response) = (self.size, self.respond(frame, self.size, work));
            // Larger and smaller in turn: one more response per frame instead of two.
            self.grew = !self.grew;
            let step = if self.grew { SCALE_STEP } else { 1.0 / SCALE_STEP };
            let other = self.size.map(|side| side * step);
            let limits = [frame.width as f32, frame.height as f32];
            if other
                .iter()
                .zip(limits)
                .all(|(&side, limit)| side >= LEAST_SIDE && side <= limit)
            {
                let rival = self.respond(frame, other, work);
                if rival.peak > response.peak * SCALE_GAIN {
                    (size, response) = (other, rival);
                }
            }
            if response.peak < LEAST_PEAK || response.ratio < LEAST_RATIO {
                return None;
            }
            let cell = size.map(|side| side * PADDING / CELLS as f32);
            let centre = [0, 1].map(|i| self.centre[i] + response.shift[i] * cell[i]);
            let rect = frame.clip([centre[0] - size[0] / 2.0, centre[1] - size[1] / 2.0, size[0], size[1]]);
            if rect[2] * rect[3] < LEAST_VISIBLE * size[0] * size[1] {
                return None;
            }
            (self.centre, self.size) = (centre, size);
            self.learn(frame, work);
            Some(rect)
        })
    }

    /// The filter's response around the present centre, for a target of this size.
    fn respond(&self, frame: &Grey<'_>, size: [f32; 2], work: &mut Work) -> Response {
        features(frame, self.centre, size.map(|side| side * PADDING), work);
        let Work {
            spectra, kernel, spare, ..
        } = work;
        correlate(&self.model, spectra, kernel, spare);
        kernel.iter_mut().zip(&self.alpha).for_each(|(k, alpha)| *k *= alpha);
        transform(&*TABLES.inverse, kernel, spare);
        Response::read(kernel)
    }

    /// Takes what is in the present box into the model.
    fn learn(&mut self, frame: &Grey<'_>, work: &mut Work) {
        features(frame, self.centre, self.size.map(|side| side * PADDING), work);
        let Work {
            spectra, kernel, spare, ..
        } = work;
        correlate(spectra, spectra, kernel, spare);
        kernel
            .iter_mut()
            .zip(&TABLES.label)
            .for_each(|(k, label)| *k = label / (*k + LAMBDA));
        if self.model.is_empty() {
            (self.model, self.alpha) = (spectra.clone(), kernel.clone());
            return;
        }
        let blend = |old: &mut [Complex32], new: &[Complex32]| {
            old.iter_mut()
                .zip(new)
                .for_each(|(old, new)| *old += (new - *old) * RATE);
        };
        blend(&mut self.model, spectra);
        blend(&mut self.alpha, kernel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gstddsinfer::model::BoundingBox;

    const WIDTH: usize = 320;
    const HEIGHT: usize = 180;

    /// A smooth random texture, 0 to 1, with a grain of about `grain` pixels.
    fn texture(seed: u32, x: f32, y: f32, grain: f32) -> f32 {
        let knot = |x: i32, y: i32| {
            let mut h = seed ^ (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77);
            for _ in 0..2 {
                h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
            }
            (h >> 16) as f32 / 65535.0
        };
        let (x, y) = (x / grain, y / grain);
        let (left, top) = (x.floor() as i32, y.floor() as i32);
        let (fx, fy) = (x - x.floor(), y - y.floor());
        let row = |y: i32| knot(left, y) * (1.0 - fx) + knot(left + 1, y) * fx;
        row(top) * (1.0 - fy) + row(top + 1) * fy
    }

    /// A textured background (its seed) with one textured object over it.
    fn scene(background: u32, object: Option<[f32; 4]>) -> Vec<u8> {
        let pixel = |n: usize| {
            let (x, y) = ((n % WIDTH) as f32, (n / WIDTH) as f32);
            let value = match object {
                Some([left, top, w, h]) if x >= left && y >= top && x < left + w && y < top + h => {
                    // Fixed to the object, and growing with it.
                    0.3 + 0.7 * texture(7, (x - left) * 40.0 / w, (y - top) * 30.0 / h, 5.0)
                }
                _ => 0.6 * texture(background, x, y, 9.0),
            };
            (value * 255.0) as u8
        };
        (0..WIDTH * HEIGHT).map(pixel).collect()
    }

    fn grey(data: &[u8]) -> Grey<'_> {
        Grey {
            data,
            width: WIDTH,
            height: HEIGHT,
            stride: WIDTH,
        }
    }

    /// Tracks an object along its true boxes; the box of each later frame, up to the first loss.
    fn follow(truth: &[[f32; 4]]) -> Vec<[f32; 4]> {
        let mut tracker = Tracker::new(&grey(&scene(1, Some(truth[0]))), truth[0]).expect("a box inside the frame");
        let later = truth[1..].iter().map(|&object| scene(1, Some(object)));
        later.map_while(|picture| tracker.update(&grey(&picture))).collect()
    }

    /// The largest distance of two centres, each axis.
    fn worst(found: &[[f32; 4]], truth: &[[f32; 4]]) -> f32 {
        let centre = |r: &[f32; 4]| [r[0] + r[2] / 2.0, r[1] + r[3] / 2.0];
        let apart = found.iter().zip(truth).flat_map(|(a, b)| {
            let (a, b) = (centre(a), centre(b));
            [(a[0] - b[0]).abs(), (a[1] - b[1]).abs()]
        });
        apart.fold(0.0, f32::max)
    }

    fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
        let corners = |[x, y, width, height]: [f32; 4]| BoundingBox {
            x1: x,
            y1: y,
            x2: x + width,
            y2: y + height,
        };
        corners(a).iou(&corners(b))
    }

    /// 30 frames after the first, 3 and 1.3 pixels a frame.
    fn straight() -> Vec<[f32; 4]> {
        (0..=30)
            .map(|i| [30.0 + 3.0 * i as f32, 40.0 + 1.3 * i as f32, 40.0, 30.0])
            .collect()
    }

    #[test]
    fn an_object_is_followed_within_two_pixels_for_thirty_frames() {
        let truth = straight();
        let found = follow(&truth);
        assert_eq!(found.len(), 30, "lost on the way");
        assert!(worst(&found, &truth[1..]) < 2.0, "{found:?}");
    }

    #[test]
    fn a_tracker_that_stands_still_would_not_pass() {
        let truth = straight();
        assert!(worst(&vec![truth[0]; 30], &truth[1..]) > 80.0);
        assert!(worst(&[truth[0]], &truth[1..2]) > 2.0);
    }

    #[test]
    fn motion_is_followed_in_every_direction_and_small_boxes_too() {
        for (dx, dy) in [(-2.5, 0.0), (0.0, -2.0), (-1.5, 1.5), (0.4, 0.3)] {
            let truth: Vec<_> = (0..=8)
                .map(|i| [140.0 + dx * i as f32, 80.0 + dy * i as f32, 16.0, 12.0])
                .collect();
            let found = follow(&truth);
            assert_eq!(found.len(), 8, "({dx}, {dy}): lost");
            assert!(worst(&found, &truth[1..]) < 1.0, "({dx}, {dy}): {found:?}");
        }
    }

    #[test]
    fn motion_of_a_fraction_of_a_cell_is_followed() {
        // A cell is 7.5 pixels wide here; the whole way is less than half of it.
        let truth: Vec<_> = (0..=8)
            .map(|i| [110.0 + 0.4 * i as f32, 60.0 - 0.3 * i as f32, 96.0, 72.0])
            .collect();
        let found = follow(&truth);
        assert_eq!(found.len(), 8, "lost on the way");
        assert!(worst(&found[7..], &truth[8..]) < 1.0, "{found:?}");
    }

    #[test]
    fn an_object_that_comes_closer_is_followed_in_size() {
        let truth: Vec<_> = (0..=20)
            .map(|i| {
                let side = 1.02f32.powi(i);
                [160.0 - 20.0 * side, 90.0 - 15.0 * side, 40.0 * side, 30.0 * side]
            })
            .collect();
        let found = follow(&truth);
        assert_eq!(found.len(), 20, "lost on the way");
        assert!(iou(found[19], truth[20]) > 0.8, "{:?} for {:?}", found[19], truth[20]);
        assert!(iou(truth[0], truth[20]) < 0.5, "the first size would do");
    }

    #[test]
    fn a_vanished_object_and_a_cut_are_lost() {
        let object = [100.0, 60.0, 40.0, 30.0];
        let start = Tracker::new(&grey(&scene(1, Some(object))), object).expect("a box inside the frame");
        assert!(start.clone().update(&grey(&scene(1, Some(object)))).is_some());
        for (what, picture) in [
            ("vanished", scene(1, None)),
            ("cut", scene(2, None)),
            ("black", vec![0; WIDTH * HEIGHT]),
        ] {
            assert_eq!(start.clone().update(&grey(&picture)), None, "{what}");
        }
    }

    #[test]
    fn a_box_at_the_border_is_followed_inwards_and_stays_in_the_picture() {
        let truth: Vec<_> = (0..=15)
            .map(|i| [2.0 * i as f32, 150.0 - 2.0 * i as f32, 40.0, 30.0])
            .collect();
        let found = follow(&truth);
        assert_eq!(found.len(), 15, "lost on the way");
        assert!(worst(&found, &truth[1..]) < 2.0, "{found:?}");
    }

    #[test]
    fn an_object_that_leaves_is_lost_before_it_is_gone_and_its_box_never_leaves() {
        // Slowly, so that the model has time to learn the border.
        let truth: Vec<_> = (0..=60).map(|i| [280.0 + i as f32, 80.0, 40.0, 30.0]).collect();
        let found = follow(&truth);
        // A quarter of it is inside up to the 30th.
        assert!((20..=31).contains(&found.len()), "followed for {} frames", found.len());
        assert!(found.iter().all(|r| r[0] >= 0.0 && r[0] + r[2] <= WIDTH as f32 + 1e-3));
    }

    #[test]
    fn a_box_with_less_than_a_quarter_inside_is_lost_however_well_it_matches() {
        let picture = scene(1, None);
        let frame = grey(&picture);
        for (centre, kept) in [(WIDTH as f32 + 8.0, true), (WIDTH as f32 + 12.0, false)] {
            let mut tracker = Tracker::new(&frame, [270.0, 80.0, 40.0, 30.0]).expect("a box inside the frame");
            tracker.centre[0] = centre;
            tracker.model.clear();
            WORK.with_borrow_mut(|work| tracker.learn(&frame, work));
            assert_eq!(tracker.update(&frame).is_some(), kept, "centre {centre}");
        }
    }

    #[test]
    fn a_loss_teaches_nothing() {
        let object = [100.0, 60.0, 40.0, 30.0];
        let picture = scene(1, Some(object));
        let mut tracker = Tracker::new(&grey(&picture), object).expect("a box inside the frame");
        assert_eq!(tracker.update(&grey(&scene(2, None))), None);
        let again = tracker.update(&grey(&picture)).expect("the object is back");
        assert!(iou(again, object) > 0.9, "{again:?}");
    }

    #[test]
    fn the_same_frames_give_the_same_boxes() {
        let truth = &straight()[..6];
        assert_eq!(follow(truth), follow(truth));
    }

    #[test]
    fn rows_may_be_wider_than_the_picture() {
        let truth = &straight()[..4];
        let padded = |object| -> Vec<u8> {
            let picture = scene(1, Some(object));
            picture
                .chunks_exact(WIDTH)
                .flat_map(|row| row.iter().copied().chain([255; 13]))
                .collect()
        };
        fn wide(data: &[u8]) -> Grey<'_> {
            Grey {
                stride: WIDTH + 13,
                ..grey(data)
            }
        }
        let first = padded(truth[0]);
        let mut tracker = Tracker::new(&wide(&first), truth[0]).expect("a box inside the frame");
        let found: Vec<_> = truth[1..]
            .iter()
            .filter_map(|&o| tracker.update(&wide(&padded(o))))
            .collect();
        assert_eq!(found, follow(truth));
    }

    #[test]
    fn boxes_that_cannot_be_tracked_are_refused() {
        let picture = scene(1, None);
        let frame = grey(&picture);
        for rect in [
            [10.0, 10.0, 3.0, 20.0],
            [10.0, 10.0, 20.0, 0.0],
            [10.0, 10.0, -20.0, 20.0],
            [-30.0, 10.0, 31.0, 20.0],
            [WIDTH as f32, 10.0, 20.0, 20.0],
            [10.0, 1e30, 20.0, 20.0],
            [f32::NAN, 10.0, 20.0, 20.0],
            [10.0, 10.0, f32::INFINITY, 20.0],
        ] {
            assert!(Tracker::new(&frame, rect).is_none(), "{rect:?}");
        }
        for broken in [
            Grey {
                data: &picture[1..],
                ..frame
            },
            Grey {
                stride: WIDTH - 1,
                ..frame
            },
            Grey {
                stride: usize::MAX,
                ..frame
            },
            Grey { width: 0, ..frame },
            Grey { height: 0, ..frame },
        ] {
            let rect = [10.0, 10.0, 20.0, 20.0];
            assert!(Tracker::new(&broken, rect).is_none());
            assert_eq!(Tracker::new(&frame, rect).expect("a sound frame").update(&broken), None);
        }
    }

    #[test]
    fn no_box_and_no_picture_panics() {
        let picture = scene(1, None);
        let places = [-1e38, -3.5, 0.4, 316.0, f32::MAX];
        let sides = [[4.0, 4.0], [20.0, 500.0], [1e38, 1e38], [f32::MAX, 8.0], [-8.0, 8.0]];
        let rects = places
            .iter()
            .flat_map(|&x| places.map(|y| [x, y]))
            .flat_map(|[x, y]| sides.map(|[w, h]| [x, y, w, h]));
        let sizes = [(WIDTH, HEIGHT), (1, 1), (4, 4), (5, 180), (320, 4), (3, 100)];
        let frames = sizes.map(|(width, height)| Grey {
            data: &picture,
            width,
            height,
            stride: WIDTH,
        });
        let mut kept = 0;
        for frame in &frames {
            for rect in rects.clone() {
                let Some(mut tracker) = Tracker::new(frame, rect) else {
                    continue;
                };
                kept += 1;
                // The picture may change its size under the tracker.
                for next in [frame, &frames[1], &frames[0]] {
                    if let Some(found) = tracker.update(next) {
                        let [x, y, w, h] = found;
                        assert!(x >= 0.0 && y >= 0.0 && w > 0.0 && h > 0.0, "{found:?}");
                        assert!(x + w <= next.width as f32 * 1.001 && y + h <= next.height as f32 * 1.001);
                    }
                }
            }
        }
        assert!(kept > 10, "{kept}");
        // Nothing to hold on to: a flat picture.
        let flat = vec![128; WIDTH * HEIGHT];
        let tracker = Tracker::new(&grey(&flat), [10.0, 10.0, 20.0, 20.0]);
        assert_eq!(tracker.and_then(|mut tracker| tracker.update(&grey(&flat))), None);
    }
}
