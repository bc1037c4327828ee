// SPDX-License-Identifier: MPL-2.0

//! A server whose objects move as predicted asks its camera for few pictures, and gets all of them back when it cannot ask:
//! camera core and server core on a virtual clock, over good and bad links.

use dds_protocol::extension::Bound;
use dds_tests::pair::{Link, Pair, SECOND, Setup};
use gstdds::camera::{CameraSettings, WishBounds};
use gstddsinfer::rate::MAX_INTERVAL;
use gstddsinfer::server::{CoreSettings, WISH_TTL};

/// One pass at 30 pictures a second, of which servers may wish.
fn wishing(seed: u64) -> Setup {
    let plain = Setup::new(seed);
    Setup {
        camera: CameraSettings {
            wishes: WishBounds::ALL,
            ..plain.camera
        },
        ..plain
    }
}

fn lossy(setup: Setup) -> Setup {
    let link = Link {
        jitter_ms: 8,
        loss: 0.01,
        duplicate: 0.005,
        reorder: 0.005,
        ..Link::clean(40)
    };
    Setup {
        forward: [link; 2],
        back: link,
        ..setup
    }
}

/// Lets seconds pass. Returns the pictures that were coded in each.
fn coded(pair: &mut Pair, seconds: u64) -> f64 {
    let all = |pair: &Pair| {
        let seen = pair.seen();
        seen.first + seen.fallback + seen.steered + seen.unsteered
    };
    let before = all(pair);
    pair.pass(seconds * SECOND);
    (all(pair) - before) as f64 / seconds as f64
}

fn keeps(pair: &Pair) {
    assert!(pair.broken().is_empty(), "{:#?}", pair.broken());
}

#[test]
fn objects_that_move_as_predicted_need_few_pictures() {
    let mut pair = Pair::new(wishing(1));
    pair.pass(10 * SECOND);
    let a_second = coded(&mut pair, 60);
    // One of them turns back every other second.
    assert!((6.0..10.0).contains(&a_second), "{a_second} pictures a second");
    assert_eq!(pair.rate().bound, Bound::None);
    keeps(&pair);
}

#[test]
fn every_captured_picture_has_a_result() {
    let mut pair = Pair::new(wishing(2));
    let settings = Setup::new(2).server;
    pair.set_server(
        CoreSettings {
            predicted_results: true,
            ..settings
        },
        20,
    );
    pair.pass(60 * SECOND);
    let counts = pair.server_counts();
    let results = counts.inferred + counts.predicted;
    let captured = pair.newest_frame();
    assert!(counts.predicted > captured / 2, "{counts:?}");
    assert!(
        results <= captured + 1 && results + 15 > captured,
        "{results} of {captured}"
    );
    keeps(&pair);
}

#[test]
fn over_a_lossy_link_the_rate_is_low_while_the_picture_is_whole() {
    let mut pair = Pair::new(lossy(wishing(3)));
    pair.pass(10 * SECOND);
    let a_second = coded(&mut pair, 300);
    assert!((6.0..15.0).contains(&a_second), "{a_second} pictures a second");
    keeps(&pair);
}

#[test]
fn a_server_that_cannot_ask_any_more_gets_every_picture() {
    let mut pair = Pair::new(wishing(4));
    pair.pass(20 * SECOND);
    assert_eq!(pair.rate().in_force, MAX_INTERVAL);
    let back = pair.links()[2];
    pair.set_back(Link { down: true, ..back });
    pair.pass(WISH_TTL.as_nanos() as u64 + SECOND);
    assert_eq!(coded(&mut pair, 5), 30.0);
    pair.heal();
    pair.pass(20 * SECOND);
    let a_second = coded(&mut pair, 20);
    assert!(a_second < 12.0, "{a_second} pictures a second");
    keeps(&pair);
}

#[test]
fn a_server_that_starts_anew_asks_for_every_picture_first() {
    let mut pair = Pair::new(wishing(5));
    pair.pass(20 * SECOND);
    pair.restart_server();
    pair.pass(SECOND / 2);
    assert!(pair.rate().wished <= 2, "{:?}", pair.rate());
    pair.pass(20 * SECOND);
    assert_eq!(pair.rate().in_force, MAX_INTERVAL);
    keeps(&pair);
}

#[test]
fn a_server_that_is_slow_asks_for_what_it_can_infer() {
    let mut pair = Pair::new(Setup {
        inference_ms: 90,
        server: CoreSettings {
            feedback_rate: true,
            ..Setup::new(6).server
        },
        ..wishing(6)
    });
    pair.pass(2 * SECOND);
    let before = pair.server_counts();
    pair.pass(60 * SECOND);
    let after = pair.server_counts();
    let share = (after.skipped - before.skipped) as f64 / (after.frames - before.frames) as f64;
    assert!(share < 0.05, "{share} of what was sent was for nothing");
    keeps(&pair);
}

#[test]
fn the_camera_keeps_its_own_bounds() {
    let setup = wishing(7);
    let mut pair = Pair::new(Setup {
        camera: CameraSettings {
            wishes: WishBounds {
                min_frame_rate: 15.0,
                ..WishBounds::ALL
            },
            ..setup.camera
        },
        ..setup
    });
    pair.pass(20 * SECOND);
    assert_eq!(coded(&mut pair, 20), 15.0);
    let rate = pair.rate();
    assert_eq!(
        (rate.wished, rate.in_force, rate.bound),
        (3, 2, Bound::User),
        "one step beyond"
    );
    keeps(&pair);
}

#[test]
fn without_feedback_of_the_rate_all_pictures_come() {
    let mut pair = Pair::new(Setup {
        server: CoreSettings {
            feedback_rate: false,
            ..Setup::new(8).server
        },
        ..wishing(8)
    });
    pair.pass(5 * SECOND);
    assert_eq!(coded(&mut pair, 20), 30.0);
    keeps(&pair);
}
