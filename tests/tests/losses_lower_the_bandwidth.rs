// SPDX-License-Identifier: MPL-2.0

//! With `bandwidth-min`, what the receiver's RTCP reports of losses moves the camera's bandwidth: down while packets are
//! lost, to what the link carries where it is too thin, up again afterwards. Without losses it stays where it is. Nobody
//! has to set how often receivers report.

mod common;

use common::network::*;
use common::*;
use dds_tests::relay::{Conditions, Direction, Rate};

const OPTIONS: &str = "bandwidth=1000 bandwidth-min=200";

fn available(path: &Path) -> u32 {
    path.camera_stat("bandwidth-available")
}

#[test]
fn lost_packets_lower_the_bandwidth_and_their_end_raises_it() {
    init();
    let mut path = Path::new(OPTIONS, 50, 31);
    path.feed_until("reports", 5 * FPS, |path| path.camera_count("receiver-reports") >= 2);
    assert_eq!(available(&path), 1000);
    path.media.set(Direction::Forward, Conditions::lossy(0.2));
    path.feed_until("a lower bandwidth", 6 * FPS, |path| available(path) < 700);
    assert!(path.camera_stat::<f64>("receiver-loss") > 0.1);
    let lowest = available(&path);
    path.media.set(Direction::Forward, Conditions::default());
    // A report that still tells of losses may lower it once more.
    path.feed_until("a bandwidth that rises", 12 * FPS, |path| available(path) > lowest);
    path.assert_healthy();
}

#[test]
fn a_thin_link_lowers_the_bandwidth_to_what_it_carries() {
    init();
    let mut path = Path::new(OPTIONS, 300, 32);
    path.feed(2 * FPS);
    assert_eq!(available(&path), 1000);
    let rate = Some(Rate {
        kbps: 300,
        queue: 10_000,
    });
    path.media.set(
        Direction::Forward,
        Conditions {
            rate,
            ..Conditions::default()
        },
    );
    path.feed_until("a lower bandwidth", 6 * FPS, |path| available(path) <= 500);
    // What was sent before the camera knew is lost; what is sent from now on mostly fits.
    path.feed(FPS);
    let before = path.media.counts(Direction::Forward);
    path.feed(2 * FPS);
    let after = path.media.counts(Direction::Forward);
    let lost = (after.overflowed - before.overflowed) as f64 / (after.taken - before.taken) as f64;
    println!(
        "{} kbit/s after {} frames, {lost:.3} lost then",
        available(&path),
        path.fed()
    );
    assert!(before.overflowed > 0, "{before:?}");
    assert!(lost < 0.1, "{lost} lost at {} kbit/s", available(&path));
    path.assert_healthy();
}
