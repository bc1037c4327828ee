// SPDX-License-Identifier: MPL-2.0

//! Camera and server over a bad network: both play on, what the server says is about whole frames only, and once the
//! network is good again it takes no longer than a second of video until everything is.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::network::*;
use common::*;
use dds_tests::relay::{Burst, Conditions, Direction};

/// What holds on every network.
fn assert_honest(path: &Path, name: &str) {
    path.assert_healthy();
    let log = path.log.lock().unwrap();
    let damaged = log.damaged();
    let told: BTreeSet<u64> = log.told.iter().map(|t| t.frame).collect();
    let wrong: Vec<_> = told.intersection(&damaged).collect();
    assert!(wrong.is_empty(), "{name}: feedback refers to damaged frames: {wrong:?}");
    let whole = log.whole();
    let wrong: Vec<_> = whole.intersection(&damaged).collect();
    assert!(wrong.is_empty(), "{name}: damaged frames count as whole: {wrong:?}");
    for line in log.lines.iter().filter(|l| l["damaged"] == true) {
        assert!(line["generation"].is_null(), "{name}: {line}");
        assert_eq!(line["regions"].as_array().map(Vec::len), Some(0), "{name}: {line}");
    }
}

/// The network is good from frame `good` on: within a second of video a whole result comes, and none after it is damaged.
fn assert_recovered(log: &Log, good: u64, name: &str) {
    let last = log.hit().last().copied();
    let last = last.unwrap_or_else(|| panic!("{name}: nothing was lost"));
    let first = log.whole().range(last..).next().copied();
    let first = first.unwrap_or_else(|| panic!("{name}: no whole result after frame {last}"));
    // Requests for a key frame may have been lost after the last picture was.
    let frames = first.saturating_sub(good.max(last));
    println!("{name}: whole again after {frames} frames");
    assert!(frames <= FPS, "{name}: {frames} frames to recover");
    let after = |l: &&serde_json::Value| l["frame"].as_u64().is_some_and(|frame| frame >= first);
    for line in log.lines.iter().filter(after) {
        assert_eq!(line["damaged"], false, "{name}: {line}");
    }
}

/// A second of good network, three seconds of these conditions both ways, two good ones.
fn survive(name: &str, seed: u64, conditions: Conditions) {
    let mut path = Path::new("", 50, seed);
    path.feed(FPS);
    path.set_all(conditions);
    let results = |path: &Path| path.log.lock().unwrap().lines.len();
    let before = results(&path);
    path.feed(3 * FPS);
    let during = results(&path) - before;
    path.set_all(Conditions::default());
    let good = path.fed();
    path.feed(2 * FPS);
    path.settle();
    assert_honest(&path, name);
    let log = path.log.lock().unwrap();
    println!(
        "{name}: {:?}, {} of {} frames hit, {} damaged; results {during} of {} while it was bad",
        path.media.counts(Direction::Forward),
        log.hit().len(),
        log.coded.len(),
        log.damaged().len(),
        3 * FPS,
    );
    // A decoder that has lost a key frame may give nothing before the next whole one, and that gets lost like others.
    assert!(during as u64 >= FPS / 2, "{name}: {during} results in three seconds");
    assert_recovered(&log, good, name);
}

#[test]
fn losses_up_to_a_tenth_and_bursts() {
    init();
    let bursts = Conditions {
        burst: Some(Burst {
            p: 0.04,
            r: 0.3,
            good: 0.0,
            bad: 0.8,
        }),
        ..Conditions::default()
    };
    std::thread::scope(|scope| {
        for (name, seed, conditions) in [
            ("1 %", 1, Conditions::lossy(0.01)),
            ("5 %", 2, Conditions::lossy(0.05)),
            ("10 %", 3, Conditions::lossy(0.1)),
            ("bursts", 6, bursts),
        ] {
            scope.spawn(move || survive(name, seed, conditions));
        }
    });
}

#[test]
fn nothing_at_all_for_three_seconds() {
    init();
    let mut path = Path::new("feedback-timeout=1000", 50, 5);
    path.feed(FPS);
    assert_eq!(path.camera_count("feedback-lost"), 0);
    path.set_all(Conditions {
        blackout: true,
        ..Conditions::default()
    });
    path.feed(3 * FPS);
    assert_eq!(path.camera_count("feedback-lost"), 1, "the camera noticed");
    let fallback = path.camera_count("frames-fallback");
    assert!(fallback >= FPS, "{fallback} frames in fallback");
    path.set_all(Conditions::default());
    let good = path.fed();
    path.feed(2 * FPS);
    path.settle();
    assert_honest(&path, "blackout");
    assert_recovered(&path.log.lock().unwrap(), good, "blackout");
    assert_eq!(path.camera_count("feedback-recovered"), 1, "and took up steering again");
    let after = path.camera_count("frames-fallback") - fallback;
    assert!(after <= FPS, "{after} frames in fallback while the network was good");
}

#[test]
fn a_start_in_the_dark() {
    init();
    // The server sees the stream for the first time between two key frames.
    let mut path = Path::new("", 50, 6);
    path.set_all(Conditions {
        blackout: true,
        ..Conditions::default()
    });
    path.feed(FPS);
    path.set_all(Conditions::default());
    let good = path.fed();
    path.feed(2 * FPS);
    path.settle();
    assert_honest(&path, "start");
    assert_recovered(&path.log.lock().unwrap(), good, "start");
}

#[test]
fn late_twice_and_in_the_wrong_order_is_no_loss() {
    init();
    let mut path = Path::new("", 300, 7);
    // Of a stream that begins in the wrong order, what comes before the first that arrives is lost for good.
    path.feed(FPS / 2);
    path.set_all(Conditions {
        delay: Duration::from_millis(30),
        jitter: Duration::from_millis(20),
        reorder: 0.1,
        hold: Duration::from_millis(15),
        duplicate: 0.2,
        ..Conditions::default()
    });
    path.feed(4 * FPS);
    path.set_all(Conditions::default());
    path.feed(FPS / 2);
    path.settle();
    assert_honest(&path, "jitter");
    let (media, back) = (
        path.media.counts(Direction::Forward),
        path.reports.counts(Direction::Backward),
    );
    assert!(
        media.reordered > 10 && media.duplicated > 20 && media.dropped() == 0,
        "{media:?}"
    );
    assert_eq!(path.server_count("access-units-lost"), 0);
    assert_eq!(path.server_count("frames-damaged"), 0);

    // Of feedback, which nothing puts in order, every generation counts once at most.
    let log = path.log.lock().unwrap();
    let generations: BTreeSet<u16> = log.told.iter().map(|t| t.generation).collect();
    let [packets, complete, stale, duplicate, applied] = [
        "feedback-packets",
        "feedback-complete",
        "feedback-stale",
        "feedback-duplicate",
        "generations-applied",
    ]
    .map(|field| path.camera_count(field));
    println!(
        "{back:?}: {packets} packets of {} generations: {complete} complete, {stale} stale, {duplicate} duplicate; {applied} applied",
        generations.len()
    );
    assert!(duplicate > 0);
    assert_eq!(packets, complete + stale + duplicate, "nothing else became of any");
    assert!(
        complete <= generations.len() as u64,
        "{complete} of {}",
        generations.len()
    );
    assert!(applied <= complete, "{applied} of {complete}");
    let sent: u64 = log.told.iter().map(|t| t.times).sum();
    assert!(sent > generations.len() as u64 + 10, "copies arrived");
    assert!(packets > generations.len() as u64, "and were counted: {packets}");
}
