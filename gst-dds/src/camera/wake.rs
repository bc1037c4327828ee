// SPDX-License-Identifier: MPL-2.0

//! Finds changes of the picture that servers cannot know of, so that a picture is sent though none was due.
//!
//! A server that asks for fewer pictures has seen what moves, and where. So a macroblock that changes near one that
//! changed in the pictures sent of late, or that a server has a region on, is nothing new. What changes elsewhere is: an
//! object that enters, a lamp that is switched on. Each place wakes once, because the picture that is sent makes it known;
//! a moving camera, where everything changes all the time, wakes never.
//!
//! Macroblocks are compared by their mean luma, of every eighth row: noise of a sensor cancels out in it, and reading a
//! eighth of the rows costs little beside coding.

/// Rows of a macroblock that are read.
const STEP: usize = 8;
/// Edge of a macroblock in pixels, and samples of one that are read.
const EDGE: usize = 16;
const SAMPLES: i32 = (EDGE * EDGE / STEP) as i32;
/// Least difference of means that is a change, in sums of samples: 5 levels.
const LEAST: i32 = 5 * SAMPLES;
/// The same as a multiple of the mean difference where nothing changes.
const NOISE_FACTOR: i32 = 8;
/// Share of the newest picture in that mean: one in so many.
const NOISE_SHARE: i32 = 16;
/// Time for which a place that has changed is known, in nanoseconds; also the time to get to know the scene.
const KNOWN_NS: u64 = 2_000_000_000;
/// Macroblocks around a known one that are known with it: what moves gets so far from one sent picture to the next.
const NEAR: usize = 4;
/// Least unknown macroblocks that have changed.
const LEAST_BLOCKS: usize = 4;
/// Mean time from one wake to the next at least, and wakes at once.
const WAKE_NS: u64 = 1_000_000_000;
const BURST: u64 = 4;
/// Never.
const NEVER: u64 = u64::MAX;

/// Rows of luma samples.
#[derive(Clone, Copy, Debug)]
pub struct Luma<'a> {
    /// The samples.
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Bytes of a sample: 1, or 2 with 10 bits in little endian order.
    pub sample: usize,
}

/// Compares captured pictures with the one sent last.
#[derive(Clone, Debug)]
pub struct Wake {
    columns: usize,
    rows: usize,
    /// Macroblocks across, with what is left of one at the edge.
    across: usize,
    /// Sums of samples by macroblock, of the picture at hand and of the one sent last.
    now: Box<[u16]>,
    sent: Box<[u16]>,
    /// When a macroblock last changed between two sent pictures; [`NEVER`].
    changed: Box<[u64]>,
    /// Mean difference of macroblocks that do not change, in sixteenths.
    noise: i32,
    /// When the scene began to be known; `None` before there is a picture.
    since: Option<u64>,
    /// `now` holds the picture at hand.
    looked: bool,
    /// Unspent time of the budget for wakes, and when it was counted.
    credit_ns: u64,
    counted_at: u64,
}

impl Wake {
    /// For pictures of so many pixels.
    pub fn new(width: usize, height: usize) -> Self {
        // What is left of a macroblock at the edge is not looked at.
        let (columns, rows) = (width / EDGE, height / EDGE);
        let sums = || vec![0; columns * rows].into_boxed_slice();
        Self {
            columns,
            rows,
            across: width.div_ceil(EDGE),
            now: sums(),
            sent: sums(),
            changed: vec![NEVER; columns * rows].into_boxed_slice(),
            noise: 0,
            since: None,
            looked: false,
            credit_ns: BURST * WAKE_NS,
            counted_at: 0,
        }
    }

    /// Forgets the scene: nobody looks at it for some time.
    pub fn reset(&mut self) {
        self.looked = false;
        if self.since.take().is_some() {
            self.changed.fill(NEVER);
        }
    }

    /// Looks at a captured picture. Returns whether it changes where servers do not know of it. `now` in nanoseconds.
    /// Planes too short for the size are not looked at.
    pub fn look(&mut self, now: u64, luma: Luma<'_>) -> bool {
        self.looked = self.read(luma);
        if !self.looked {
            return false;
        }
        if self.since.is_some_and(|since| now < since) {
            // A seek.
            self.reset();
            self.looked = true;
        }
        self.credit_ns = self
            .credit_ns
            .saturating_add(now.saturating_sub(self.counted_at))
            .min(BURST * WAKE_NS);
        self.counted_at = now;
        let known = self.since.is_some_and(|since| now - since >= KNOWN_NS);
        known && self.credit_ns >= WAKE_NS && self.is_news(now)
    }

    /// The picture looked at last is sent; `offsets`: those of its macroblocks, negative where a server has a region;
    /// `woken`: it is sent for what [`Self::look`] found.
    pub fn sent(&mut self, now: u64, offsets: Option<&[i8]>, woken: bool) {
        if !std::mem::take(&mut self.looked) {
            return;
        }
        if woken {
            self.credit_ns = self.credit_ns.saturating_sub(WAKE_NS);
        }
        if self.since.is_some() {
            self.learn(now, offsets);
        } else {
            self.since = Some(now);
        }
        std::mem::swap(&mut self.now, &mut self.sent);
    }

    fn read(&mut self, luma: Luma<'_>) -> bool {
        let row_bytes = self.columns * EDGE * luma.sample;
        let last = (self.rows * EDGE).saturating_sub(STEP) * luma.stride;
        if luma.stride < row_bytes || luma.data.len() < last + row_bytes || !(1..=2).contains(&luma.sample) {
            return false;
        }
        self.now.fill(0);
        for (row, sums) in self.now.chunks_exact_mut(self.columns.max(1)).enumerate() {
            for y in (row * EDGE..(row + 1) * EDGE).step_by(STEP) {
                let line = &luma.data[y * luma.stride..][..row_bytes];
                for (sum, block) in sums.iter_mut().zip(line.chunks_exact(EDGE * luma.sample)) {
                    *sum += if luma.sample == 1 {
                        block.iter().map(|sample| u16::from(*sample)).sum::<u16>()
                    } else {
                        let deep = |pair: &[u8]| (u16::from_le_bytes([pair[0], pair[1]]) >> 2).min(255);
                        block.chunks_exact(2).map(deep).sum::<u16>()
                    };
                }
            }
        }
        true
    }

    /// Difference from which on a macroblock has changed.
    fn threshold(&self) -> i32 {
        LEAST.max(NOISE_FACTOR * self.noise / 16)
    }

    fn difference(&self, place: usize) -> i32 {
        (i32::from(self.now[place]) - i32::from(self.sent[place])).abs()
    }

    fn is_news(&self, now: u64) -> bool {
        let threshold = self.threshold();
        let changed = (0..self.now.len()).filter(|place| self.difference(*place) > threshold);
        let unknown = changed.filter(|place| !self.is_known(*place, now));
        unknown.take(LEAST_BLOCKS).count() == LEAST_BLOCKS
    }

    /// Whether a macroblock, or one near it, has changed between pictures sent of late.
    fn is_known(&self, place: usize, now: u64) -> bool {
        let of_late = |changed: &u64| *changed != NEVER && now.saturating_sub(*changed) < KNOWN_NS;
        if of_late(&self.changed[place]) {
            return true;
        }
        let (x, y) = (place % self.columns, place / self.columns);
        let (left, right) = (x.saturating_sub(NEAR), (x + NEAR + 1).min(self.columns));
        (y.saturating_sub(NEAR)..(y + NEAR + 1).min(self.rows))
            .any(|y| self.changed[y * self.columns..][left..right].iter().any(of_late))
    }

    /// Notes what has changed from the picture sent before to the one that is sent now.
    fn learn(&mut self, now: u64, offsets: Option<&[i8]>) {
        let threshold = self.threshold();
        let (mut sum, mut count) = (0, 0);
        for place in 0..self.now.len() {
            let difference = self.difference(place);
            if difference > threshold {
                self.changed[place] = now;
            } else {
                (sum, count) = (sum + difference, count + 1);
            }
        }
        if count > 0 {
            self.noise += (16 * sum / count - self.noise) / NOISE_SHARE;
        }
        let Some(offsets) = offsets else { return };
        for (row, changed) in offsets
            .chunks(self.across.max(1))
            .zip(self.changed.chunks_mut(self.columns.max(1)))
        {
            for (offset, changed) in row.iter().zip(changed) {
                if *offset < 0 {
                    *changed = now;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 320;
    const HEIGHT: usize = 192;
    const FRAME_NS: u64 = 33_333_333;

    /// A scene of texture with squares of another brightness, under noise of a standard deviation of about `sigma`.
    struct Scene {
        luma: Vec<u8>,
        sigma: i32,
        seed: u32,
    }

    impl Scene {
        fn new(sigma: i32) -> Self {
            Self {
                luma: vec![0; WIDTH * HEIGHT],
                sigma,
                seed: 1,
            }
        }

        fn random(&mut self) -> i32 {
            self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.seed >> 24) as i32
        }

        /// Paints squares of 48 pixels at these places, the texture shifted by `pan`.
        fn paint(&mut self, pan: usize, light: i32, squares: &[(usize, usize)]) {
            for y in 0..HEIGHT {
                for x in 0..WIDTH {
                    let texture = (((x + pan) / 20 * 37 + y / 24 * 53) % 120) as i32 + 40;
                    let dice = self.random() + self.random() - 255;
                    let inside = squares
                        .iter()
                        .any(|(left, top)| x.wrapping_sub(*left) < 48 && y.wrapping_sub(*top) < 48);
                    let level = if inside { 230 } else { texture + light };
                    self.luma[y * WIDTH + x] = (level + dice * self.sigma / 104).clamp(0, 255) as u8;
                }
            }
        }
    }

    /// Sends every third picture and those that wake. Returns the numbers of the latter.
    fn run(scene: &mut Scene, pictures: u64, paint: impl Fn(&mut Scene, u64)) -> Vec<u64> {
        let mut wake = Wake::new(WIDTH, HEIGHT);
        let (mut woken, mut last) = (Vec::new(), 0);
        for number in 0..pictures {
            paint(scene, number);
            let now = number * FRAME_NS;
            let luma = Luma {
                data: &scene.luma,
                stride: WIDTH,
                sample: 1,
            };
            let changes = wake.look(now, luma);
            let due = number - last >= 3;
            if due || changes || number == 0 {
                last = number;
                woken.extend((!due && number > 0).then_some(number));
                wake.sent(now, None, changes && !due);
            }
        }
        woken
    }

    #[test]
    fn noise_of_a_sensor_and_slow_light_wake_nobody() {
        for sigma in [0, 4, 12] {
            let woken = run(&mut Scene::new(sigma), 120, |scene, _| scene.paint(0, 0, &[]));
            assert!(woken.is_empty(), "{sigma}: {woken:?}");
        }
        let dusk = run(&mut Scene::new(4), 150, |scene, number| {
            scene.paint(0, -(number as i32) / 10, &[])
        });
        assert!(dusk.is_empty(), "{dusk:?}");
    }

    #[test]
    fn an_object_in_a_new_place_wakes_at_once_and_once() {
        let enters = |scene: &mut Scene, number: u64| {
            let square = (number >= 91).then(|| (120 + 4 * (number as usize - 91), 60));
            scene.paint(0, 0, square.as_slice());
        };
        assert_eq!(run(&mut Scene::new(4), 140, enters), [91]);
    }

    #[test]
    fn a_lamp_that_is_switched_on_wakes_at_once_and_once() {
        let lamp = |scene: &mut Scene, number: u64| scene.paint(0, if number >= 100 { 30 } else { 0 }, &[]);
        assert_eq!(run(&mut Scene::new(4), 140, lamp), [100]);
    }

    #[test]
    fn steady_traffic_and_moving_cameras_wake_nobody_once_they_are_known() {
        // A car every 13 pictures, 12 pixels a picture.
        let traffic = |scene: &mut Scene, number: u64| {
            let cars: Vec<_> = (0..4)
                .map(|car| ((number as usize * 12 + car * 160) % 640, 80))
                .collect();
            scene.paint(0, 0, &cars);
        };
        let woken = run(&mut Scene::new(4), 200, traffic);
        assert!(woken.is_empty(), "{woken:?}");
        let pan = |scene: &mut Scene, number: u64| scene.paint(3 * number as usize, 0, &[]);
        let woken = run(&mut Scene::new(4), 200, pan);
        assert!(woken.is_empty(), "{woken:?}");
    }

    #[test]
    fn wakes_have_a_budget() {
        // Squares that jump about, each time to where none was for long.
        let jumps = |scene: &mut Scene, number: u64| {
            let n = number as usize;
            let at = (n % 5 * 64, n / 5 % 3 * 64);
            scene.paint(0, 0, if number < 60 { &[] } else { std::slice::from_ref(&at) });
        };
        let woken = run(&mut Scene::new(0), 300, jumps);
        assert!(!woken.is_empty() && woken.len() <= 4 + 8, "{woken:?}");
    }

    #[test]
    fn regions_of_servers_are_known() {
        let mut scene = Scene::new(0);
        let mut wake = Wake::new(WIDTH, HEIGHT);
        let mut offsets = vec![0i8; 20 * 12];
        offsets[6 * 20 + 15] = -10;
        scene.paint(0, 0, &[]);
        for number in 0..70 {
            wake.look(number * FRAME_NS, luma(&scene));
            wake.sent(number * FRAME_NS, Some(&offsets), false);
        }
        scene.paint(0, 0, &[(240, 96)]);
        assert!(!wake.look(70 * FRAME_NS, luma(&scene)), "in the region");
        scene.paint(0, 0, &[(16, 16)]);
        assert!(wake.look(71 * FRAME_NS, luma(&scene)), "elsewhere");
    }

    fn luma(scene: &Scene) -> Luma<'_> {
        Luma {
            data: &scene.luma,
            stride: WIDTH,
            sample: 1,
        }
    }

    #[test]
    fn what_is_no_picture_is_not_looked_at() {
        for (width, height) in [(0, 0), (8, 8), (16, 16), (17, 40), (640, 360)] {
            let mut wake = Wake::new(width, height);
            for (length, stride, sample) in [
                (0, 0, 1),
                (15, 16, 1),
                (100, 3, 2),
                (100, 0, 0),
                (4000, 320, 1),
                (9, 320, 3),
            ] {
                let data = vec![7; length];
                let luma = Luma {
                    data: &data,
                    stride,
                    sample,
                };
                for now in [0, 5_000_000_000, 1] {
                    wake.look(now, luma);
                    wake.sent(now, Some(&[-1; 7]), true);
                }
            }
        }
        // 10 bits.
        let data: Vec<u8> = (0..32 * 32).flat_map(|_| 1023u16.to_le_bytes()).collect();
        let mut wake = Wake::new(32, 32);
        let luma = Luma {
            data: &data,
            stride: 64,
            sample: 2,
        };
        assert!(!wake.look(0, luma));
        assert_eq!(wake.now[..], [255 * SAMPLES as u16; 4]);
    }
}
