// SPDX-License-Identifier: MPL-2.0

//! Three of ten feedback packets are lost, the video is not. Feedback is state, and regions move along with their objects
//! until the next one: so the camera is steered like with all of them.
//!
//! The measure is the F1 of macroblocks: those refined, read back from the stream, against those that the object lies in.

mod common;

use common::network::*;
use common::*;
use dds_tests::relay::{Conditions, Direction};

/// What became of one run.
#[derive(Debug)]
struct Steering {
    /// Share of frames that were steered, 0 to 1.
    steered: f64,
    /// F1 of macroblocks refined, 0 to 1.
    f1: f64,
    /// Frames from the one that the last generation was about to the one that it was applied to.
    delay: u64,
    /// Share of generations that arrived.
    arrived: f64,
}

fn run(name: &str, loss: f64) -> Steering {
    const BEGIN: u64 = FPS;
    let mut path = Path::new("", 20, 21);
    path.feed(BEGIN);
    let counts = |path: &Path| (path.camera_count("frames-steered"), path.camera_count("frames"));
    let (steered, frames) = counts(&path);
    path.reports.set(Direction::Backward, Conditions::lossy(loss));
    path.feed_in_step(5 * FPS);
    path.settle();
    path.assert_healthy();
    let (steered, frames) = (counts(&path).0 - steered, counts(&path).1 - frames);
    let log = path.log.lock().unwrap();
    let file = scratch(name).join("out.h264");
    std::fs::write(&file, &log.stream).unwrap();
    let (mut hits, mut wrong, mut missed) = (0u64, 0, 0);
    for (coded, picture) in log.coded.iter().zip(quantizers(&file)).skip(BEGIN as usize) {
        let (x, y, width, height) = object(coded.frame);
        for (n, qp) in picture.qps.iter().enumerate() {
            let (left, top) = ((n % picture.columns) as u32 * 16, (n / picture.columns) as u32 * 16);
            let inside = left + 16 > x && left < x + width && top + 16 > y && top < y + height;
            // At the coarse quantizer the noise is skipped, and a skipped macroblock has no quantizer of its own.
            match (*qp == QP.1 && !picture.skipped[n], inside) {
                (true, true) => hits += 1,
                (true, false) => wrong += 1,
                (false, true) => missed += 1,
                (false, false) => (),
            }
        }
    }
    let told = || log.told.iter().filter(|t| t.frame >= BEGIN);
    Steering {
        steered: steered as f64 / frames as f64,
        f1: 2.0 * hits as f64 / (2 * hits + wrong + missed) as f64,
        delay: path.camera_count("feedback-delay-last-frames"),
        arrived: told().filter(|t| t.times > 0).count() as f64 / told().count() as f64,
    }
}

#[test]
fn three_of_ten_packets_cost_less_than_two_points() {
    init();
    let [all, some, few] = std::thread::scope(|scope| {
        [("all", 0.0), ("some", 0.3), ("few", 0.95)]
            .map(|(name, loss)| scope.spawn(move || run(name, loss)))
            .map(|thread| thread.join().unwrap())
    });
    println!("{all:?}\n{some:?}\n{few:?}");
    assert_eq!((all.arrived, all.delay), (1.0, 1));
    assert!((some.arrived - 0.7).abs() < 0.1, "{some:?}");
    assert_eq!(all.steered, 1.0);
    assert!(all.steered - some.steered <= 0.02, "{some:?}");
    assert!(all.f1 > 0.8, "{all:?}");
    assert!(all.f1 - some.f1 <= 0.02, "{all:?}, {some:?}");
    // The measure tells a camera that hears nearly nothing from one that hears enough.
    assert!(all.f1 - few.f1 > 0.05, "{all:?}, {few:?}");
}
