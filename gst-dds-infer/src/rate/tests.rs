// SPDX-License-Identifier: MPL-2.0

//! The promises of the choice of rate, on scenes that are drawn by numbers.

use std::time::Duration;

use super::{Actual, Chooser, Looked, MAX_INTERVAL, Sighting};
use crate::matching::Seen;
use crate::model::BoundingBox;

/// Captured pictures in a second.
const FPS: u64 = 25;
const FRAME_TIME: Duration = Duration::from_millis(1000 / FPS);

fn at(x: f32, y: f32, score: f32) -> Sighting {
    let bounding_box = BoundingBox {
        x1: x,
        y1: y,
        x2: x + 40.0,
        y2: y + 40.0,
    };
    Sighting {
        seen: Seen { bounding_box, kind: 2 },
        score,
    }
}

/// Twelve objects in a column that move by `speed` pixels per picture and turn back after every `turn` pictures.
fn column(frame: u64, speed: f32, turn: u64) -> Vec<Sighting> {
    let phase = frame % (2 * turn);
    let x = 100.0 + speed * phase.min(2 * turn - phase) as f32;
    (0..12).map(|n| at(x, 60.0 * n as f32, 0.9)).collect()
}

/// A camera that does what is wished, two captured pictures later.
struct Camera {
    chooser: Chooser,
    frame: u64,
    /// Wishes on their way, with the picture from which on they hold.
    coming: Vec<(u64, u8)>,
    interval: u8,
    /// Interval that the camera does not exceed.
    bound: u8,
    /// Quantizer outside regions.
    quantizer: Option<u8>,
    sent: Option<u64>,
    /// Times of changes of the wish, in seconds, and the new wish.
    changes: Vec<(f32, u8)>,
    wish: u8,
}

impl Camera {
    fn new() -> Self {
        Self {
            chooser: Chooser::default(),
            frame: 0,
            coming: Vec::new(),
            interval: 1,
            bound: MAX_INTERVAL,
            quantizer: None,
            sent: None,
            changes: Vec::new(),
            wish: 1,
        }
    }

    /// Films for some seconds. Returns the mean interval between sent pictures.
    fn film(&mut self, seconds: u64, scene: impl Fn(u64) -> Vec<Sighting>) -> f32 {
        let (mut sent, all) = (0, seconds * FPS);
        for _ in 0..all {
            let frame = self.frame;
            self.frame += 1;
            self.coming.retain(|(from, wish)| {
                if *from <= frame {
                    self.interval = *wish;
                }
                *from > frame
            });
            let actual = Actual {
                interval: self.interval.min(self.bound),
                bounded: self.interval > self.bound,
                quantizer: self.quantizer,
            };
            if self.sent.is_some_and(|sent| frame - sent < u64::from(actual.interval)) {
                continue;
            }
            self.sent = Some(frame);
            sent += 1;
            let sightings = scene(frame);
            let wish = self.chooser.look(&Looked {
                frame,
                frame_time: FRAME_TIME,
                sightings: &sightings,
                actual,
            });
            self.coming.push((frame + 2, wish));
            if wish != self.wish {
                self.changes.push((frame as f32 / FPS as f32, wish));
                self.wish = wish;
            }
        }
        all as f32 / sent as f32
    }
}

#[test]
fn steady_motion_needs_few_pictures_and_erratic_motion_all() {
    let mut steady = Camera::new();
    steady.film(5, |frame| column(frame, 3.0, 10_000));
    assert!(steady.film(5, |frame| column(frame, 3.0, 10_000)) > 4.5);
    let mut erratic = Camera::new();
    erratic.film(5, |frame| column(frame, 16.0, 2));
    assert!(erratic.film(5, |frame| column(frame, 16.0, 2)) < 1.5);
}

#[test]
fn the_rate_follows_the_motion() {
    let mut camera = Camera::new();
    camera.film(10, |_| column(0, 0.0, 1));
    assert_eq!(camera.wish, MAX_INTERVAL);
    camera.film(1, |frame| column(frame, 16.0, 2));
    assert!(camera.wish <= 2, "{:?}", camera.changes);
    camera.film(40, |_| column(0, 0.0, 1));
    assert_eq!(camera.wish, MAX_INTERVAL);
}

#[test]
fn a_scene_that_was_calm_before_does_not_keep_the_rate_low() {
    let mut camera = Camera::new();
    camera.film(6, |_| column(0, 0.0, 1));
    assert_eq!(camera.wish, MAX_INTERVAL);
    // A third of the objects begins to move as nobody can predict: too few for an alarm.
    let scene = |frame| {
        column(frame, 16.0, 2)
            .into_iter()
            .take(4)
            .chain(column(0, 0.0, 1).into_iter().skip(4))
            .collect()
    };
    camera.film(3, scene);
    assert!(camera.wish <= 2, "{:?}", camera.changes);
    assert!(camera.film(10, scene) < 2.5);
}

#[test]
fn a_still_scene_stays_at_its_rate() {
    let mut camera = Camera::new();
    // Boxes tremble by a pixel, and one object in twelve comes and goes around the threshold.
    let scene = |frame: u64| {
        let mut random = frame.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 40) as f32 / (1 << 24) as f32
        };
        let tremble = |n| at(100.0 + next(), 60.0 * n as f32 + next(), 0.9);
        let mut all: Vec<Sighting> = (0..11).map(tremble).collect();
        all.push(at(300.0, 300.0, 0.2 + 0.4 * next()));
        all
    };
    camera.film(30, scene);
    assert_eq!(camera.wish, MAX_INTERVAL);
    let late: Vec<f32> = camera
        .changes
        .iter()
        .map(|(at, _)| *at)
        .filter(|at| *at > 10.0)
        .collect();
    assert!(
        late.windows(2).all(|two| two[1] - two[0] >= 5.0),
        "{:?}",
        camera.changes
    );
}

#[test]
fn something_new_raises_the_rate_at_once() {
    let mut camera = Camera::new();
    camera.film(10, |_| Vec::new());
    assert_eq!(camera.wish, MAX_INTERVAL, "nothing is in view");
    let from = camera.frame;
    camera.film(1, |frame| vec![at(10.0 * (frame - from) as f32, 100.0, 0.9)]);
    let (at, wish) = camera.changes[4];
    assert_eq!(wish, 1, "{:?}", camera.changes);
    assert!(
        at - 10.0 <= FRAME_TIME.as_secs_f32() * f32::from(MAX_INTERVAL),
        "with the first picture of it"
    );
}

#[test]
fn rate_is_reduced_slowly_and_raised_quickly() {
    let mut camera = Camera::new();
    camera.film(10, |_| column(0, 0.0, 1));
    let steps: Vec<u8> = camera.changes.iter().map(|(_, wish)| *wish).collect();
    assert_eq!(steps, [2, 4, 5], "as far as predictions were checked");
    assert!(camera.changes.windows(2).all(|two| two[1].0 - two[0].0 >= 0.5));
    let before = camera.changes.len();
    camera.film(2, |frame| column(frame, 30.0, 3));
    assert!(camera.changes[before].1 <= 2, "{:?}", camera.changes);
}

#[test]
fn pictures_of_coarse_quantizers_are_left_out_sooner() {
    // So many of forty objects move as nobody can predict.
    let rate = |erratic, quantizer| {
        let mut camera = Camera::new();
        camera.quantizer = quantizer;
        camera.film(10, |frame| {
            let first = |speed| column(frame, speed, 2)[0];
            let place = |n: usize| {
                let mut object = first(if n < erratic { 16.0 } else { 0.0 });
                object.seen.bounding_box.y1 += 60.0 * n as f32;
                object.seen.bounding_box.y2 += 60.0 * n as f32;
                object
            };
            (0..40).map(place).collect()
        })
    };
    assert!(rate(4, Some(24)) < 1.5);
    assert!(rate(4, Some(44)) > 2.0);
    assert_eq!(rate(3, Some(30)), rate(3, None));
}

#[test]
fn a_bound_of_the_camera_is_not_run_against() {
    let mut camera = Camera::new();
    camera.bound = 2;
    camera.film(10, |_| column(0, 0.0, 1));
    assert_eq!(camera.wish, 3, "one step beyond the bound");
    camera.bound = 1;
    camera.film(2, |_| column(0, 0.0, 1));
    assert_eq!(camera.wish, 2);
    camera.bound = MAX_INTERVAL;
    camera.film(10, |_| column(0, 0.0, 1));
    assert_eq!(camera.wish, MAX_INTERVAL);
}

#[test]
fn pictures_are_never_further_apart_than_a_fifth_of_a_second() {
    for (fps, longest) in [(5, 1), (10, 2), (13, 2), (15, 3), (25, 5), (30, 5), (120, 5)] {
        let mut chooser = Chooser::default();
        let (mut frame, mut wish) = (0, 1);
        for _ in 0..20 * fps {
            frame += u64::from(wish);
            wish = chooser.look(&Looked {
                frame,
                frame_time: Duration::from_secs(1) / fps,
                sightings: &[],
                actual: Actual {
                    interval: wish,
                    bounded: false,
                    quantizer: None,
                },
            });
        }
        assert_eq!(wish, longest, "{fps} pictures a second");
    }
}

#[test]
fn no_input_is_too_strange() {
    let mut chooser = Chooser::default();
    let strange = [f32::NAN, f32::INFINITY, -1.0, 0.0];
    for (n, frame) in [0, u64::MAX, 3, 3, 2, 1 << 40, 5].into_iter().enumerate() {
        let sightings: Vec<Sighting> = strange.iter().map(|x| at(*x, strange[n % 4], *x)).collect();
        let wish = chooser.look(&Looked {
            frame,
            frame_time: if n == 2 { Duration::MAX } else { Duration::ZERO },
            sightings: &sightings,
            actual: Actual {
                interval: [0, 255][n % 2],
                bounded: n % 3 == 0,
                quantizer: [None, Some(0), Some(255)][n % 3],
            },
        });
        assert!((1..=MAX_INTERVAL).contains(&wish));
    }
    chooser.interrupt();
    chooser.reset();
}
