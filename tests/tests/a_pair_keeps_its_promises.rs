// SPDX-License-Identifier: MPL-2.0

//! Camera core and server core keep their promises to each other over a bad link, for hours of video on a virtual clock.
//! `DDS_LONG=1` runs the hours, and many more histories.

use std::time::Duration;

use dds_protocol::feedback::{FeedbackState, encode};
use dds_protocol::serial::Serial16;
use dds_tests::pair::{Held, Link, MS, Pair, Pass, SECOND, Setup};
use gstdds::camera::{Bandwidth, CameraSettings, FeedbackBound, FrameMode, Way, jobs, receiver};
use gstddsinfer::identity::MAX_RECORDS;
use gstddsinfer::server::{ARRIVALS, CAPACITY_LIVE, CoreSettings, MAX_DELAYED, SEGMENT_PATIENCE};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn long() -> bool {
    std::env::var_os("DDS_LONG").is_some()
}

/// A link of 80 ms there and back together, with 1 % loss.
fn lossy() -> Link {
    Link {
        jitter_ms: 8,
        loss: 0.01,
        duplicate: 0.005,
        reorder: 0.005,
        ..Link::clean(40)
    }
}

fn over(link: Link, setup: Setup) -> Setup {
    Setup {
        forward: [link; 2],
        back: link,
        ..setup
    }
}

fn keeps(pair: &Pair) {
    assert!(pair.broken().is_empty(), "{:#?}", pair.broken());
}

fn bounded(held: Held, ring: usize) {
    assert!(held.packets <= receiver::MOST_WAITING * held.ways, "{held:?}");
    assert!(held.generations <= receiver::RECENT * held.ways, "{held:?}");
    assert!(held.ring <= ring && held.jobs <= jobs::MOST_WAITING + 2, "{held:?}");
    assert!(
        held.inbox <= CAPACITY_LIVE && held.line <= MAX_DELAYED + held.events,
        "{held:?}"
    );
    assert!(held.answers <= ARRIVALS && held.units <= MAX_RECORDS, "{held:?}");
}

/// All is well; then no video comes, and the server that lives steers nothing; then its feedback ends too, and the camera
/// falls back; then all is well again.
fn falls_and_returns(pair: &mut Pair) {
    let timeout = 2 * SECOND;
    pair.set_camera(CameraSettings {
        feedback_timeout_ns: timeout,
        steered: true,
        ..pair.camera()
    });
    pair.set_server(
        CoreSettings {
            inference_interval: 1,
            feedback: true,
            feedback_rate: true,
            predicted_results: false,
            refine_deadline: Duration::from_millis(300),
        },
        15,
    );
    let governed_by = |pair: &Pair, mode| {
        keeps(pair);
        assert_eq!(pair.mode(), Some(mode));
    };
    pair.heal();
    pair.pass(pair.healing() + 200 * MS);
    governed_by(pair, FrameMode::Steered);
    let down = pair.links().map(|link| Link { down: true, ..link });
    pair.set_forward(Pass::First, down[0]);
    pair.set_forward(Pass::Second, down[1]);
    pair.pass(timeout + 2 * SEGMENT_PATIENCE.as_nanos() as u64);
    governed_by(pair, FrameMode::Steered);
    assert_eq!(pair.inside().0, 0, "frames never went out");
    assert!(!pair.is_refining(), "regions outlive the video they are of");
    pair.set_back(down[2]);
    pair.pass(timeout + SECOND);
    governed_by(pair, FrameMode::Fallback);
    pair.heal();
    pair.pass(pair.healing() + 200 * MS);
    governed_by(pair, FrameMode::Steered);
}

#[test]
fn one_pass_steers_over_a_lossy_link() {
    let minutes = if long() { 60 } else { 10 };
    let mut pair = Pair::new(over(lossy(), Setup::new(1)));
    pair.pass(minutes * 60 * SECOND);
    keeps(&pair);
    bounded(pair.peak(), 0);
    let (seen, frames) = (pair.seen(), minutes * 1800);
    assert_eq!(
        (seen.first, seen.fallback, seen.falls),
        (1, seen.fallback.min(6), 0),
        "{seen:?}"
    );
    assert!(
        seen.steered + 7 >= frames && seen.with_regions > seen.steered * 99 / 100,
        "{seen:?}"
    );
    // A key frame ends damage within the way there and back and what it is asked for within.
    assert!(seen.damaged > frames / 100 && seen.damaged < frames / 8, "{seen:?}");
    assert!(
        seen.out > frames * 98 / 100 && seen.longest_inside < 100 * MS,
        "{seen:?}"
    );
}

#[test]
fn two_passes_refine_over_a_lossy_link() {
    let minutes = if long() { 60 } else { 5 };
    let mut pair = Pair::new(Setup {
        inference_ms: 12,
        ..over(lossy(), Setup::two_passes(2))
    });
    pair.pass(minutes * 60 * SECOND);
    keeps(&pair);
    bounded(pair.peak(), 60);
    let seen = pair.seen();
    assert!(
        seen.requests > minutes * 1000 && seen.asked > seen.requests * 97 / 100,
        "{seen:?}"
    );
    assert!(seen.refinements + 5 > seen.asked, "{seen:?}");
    assert!(seen.refined > seen.requests * 80 / 100, "{seen:?}");
    assert!(seen.late > 0 && seen.longest_inside < 600 * MS, "{seen:?}");
}

#[test]
fn a_cap_holds_in_every_second_and_is_used() {
    let mut setup = over(lossy(), Setup::new(3));
    setup.camera.max_bitrate_kbps = 120;
    let mut pair = Pair::new(setup);
    pair.pass(60 * SECOND);
    keeps(&pair);
    let seen = pair.seen();
    assert!((900..=1050).contains(&seen.worst_second), "{seen:?}");
    assert!(
        seen.steered > 1790 && pair.camera_counts().1.cap_trimmed_frames > 100,
        "{seen:?}"
    );
}

#[test]
fn without_the_second_stream_frames_wait_for_the_deadline_and_soon_not_at_all() {
    let mut pair = Pair::new(Setup {
        inference_ms: 12,
        ..Setup::two_passes(4)
    });
    pair.pass(10 * SECOND);
    let before = pair.seen();
    assert_eq!(
        (before.late, before.refined + 20 > before.requests),
        (0, true),
        "{before:?}"
    );
    pair.set_forward(
        Pass::Second,
        Link {
            down: true,
            ..Link::clean(40)
        },
    );
    pair.pass(10 * SECOND);
    keeps(&pair);
    let seen = pair.seen();
    // Those that were asked for before the third one in a row got no answer.
    assert!((3..30).contains(&seen.late), "{seen:?}");
    assert!(
        seen.requests > before.requests + 200 && seen.refined < before.refined + 10,
        "{seen:?}"
    );
    assert!(
        seen.out > before.out + 250 && seen.longest_inside < 500 * MS,
        "{seen:?}"
    );
    pair.heal();
    pair.pass(10 * SECOND);
    keeps(&pair);
    assert!(pair.seen().refined > seen.refined + 200, "{:?}", pair.seen());
}

#[test]
fn what_the_camera_has_let_go_is_refused_and_nobody_waits_for_it() {
    let mut setup = Setup {
        inference_ms: 12,
        ..Setup::two_passes(5)
    };
    setup.ring.frames = 2;
    let mut pair = Pair::new(setup);
    pair.pass(20 * SECOND);
    keeps(&pair);
    let seen = pair.seen();
    assert_eq!((seen.refinements, seen.refined, seen.late), (0, 0, 0), "{seen:?}");
    assert!(seen.refused > 500 && seen.longest_inside < 300 * MS, "{seen:?}");
}

#[test]
fn a_second_encoder_that_is_too_slow_refuses_what_its_line_does_not_hold() {
    let mut pair = Pair::new(Setup {
        inference_ms: 12,
        coding_ms: 100,
        ..Setup::two_passes(8)
    });
    pair.pass(20 * SECOND);
    keeps(&pair);
    bounded(pair.peak(), 60);
    assert_eq!(pair.peak().jobs, jobs::MOST_WAITING);
    let seen = pair.seen();
    assert!(seen.refinements > 190 && seen.asked > 2 * seen.refinements, "{seen:?}");
}

#[test]
fn frames_that_wait_for_long_fill_the_line_and_the_inbox_and_no_more() {
    let mut setup = Setup {
        frame_rate: 60.0,
        inference_ms: 5,
        ..Setup::two_passes(6)
    };
    setup.camera.frame_rate = 60.0;
    setup.server.refine_deadline = Duration::from_secs(6);
    setup.forward[1].down = true;
    let mut pair = Pair::new(setup);
    pair.pass(20 * SECOND);
    keeps(&pair);
    bounded(pair.peak(), 60);
    let Held { line, inbox, .. } = pair.peak();
    assert!(line >= MAX_DELAYED && inbox == CAPACITY_LIVE, "{:?}", pair.peak());
    pair.set_forward(
        Pass::First,
        Link {
            down: true,
            ..Link::clean(40)
        },
    );
    pair.pass(7 * SECOND);
    keeps(&pair);
    assert_eq!(pair.inside(), (0, 0));
}

#[test]
fn a_flood_by_another_way_takes_its_own_places_and_changes_nothing() {
    let mut pair = Pair::new(Setup::new(7));
    pair.pass(20 * SECOND);
    let before = pair.seen();
    for i in 0..200 {
        let packet = pair.caught(i % 40).expect("the server has sent more");
        (0..300).for_each(|_| pair.inject(Way::Pad, &packet));
        assert_eq!(pair.held().packets, receiver::MOST_WAITING);
        pair.pass(SECOND / 30);
        keeps(&pair);
    }
    let (seen, counts) = (pair.seen(), pair.camera_counts().0);
    assert_eq!((seen.fallback, seen.falls), (before.fallback, 0), "{seen:?}");
    assert!(
        counts.waiting_dropped > 8000 && counts.packets_rate_limited > 40_000,
        "{counts:?}"
    );
}

// ---- random histories

/// Who sends what is not the server's.
#[derive(Clone, Debug)]
enum Hostile {
    Noise(Vec<u8>),
    Foreign,
    Future(u16),
    Replay(usize),
    Truncated(usize, usize),
}

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Forward(bool, Link),
    Back(Link),
    /// Which of the paths is gone for so many milliseconds.
    Outage(u8, u64),
    RestartServer,
    RestartCamera(bool),
    Seek(u64, bool),
    FlushServer,
    Camera(Box<CameraSettings>),
    Server(CoreSettings, u64),
    Late(f64),
    /// So many second passes of frames that never come.
    Stray(usize),
    /// A packet by one of the ways, so many times.
    Inject(Way, Hostile, usize),
}

fn link() -> impl Strategy<Value = Link> {
    let loss = prop_oneof![4 => Just(0.0), 2 => 0.0..0.05, 1 => 0.05..0.6];
    (5..80u64, 0..40u64, loss, 0.0..0.1, 0.0..0.1).prop_map(|(delay_ms, jitter_ms, loss, duplicate, reorder)| Link {
        delay_ms,
        jitter_ms,
        loss,
        duplicate,
        reorder,
        down: false,
    })
}

fn camera_settings() -> impl Strategy<Value = CameraSettings> {
    let timeout = prop_oneof![Just(0), Just(1), Just(2), Just(4)];
    let cap = prop_oneof![2 => Just(0u32), 1 => 80..1000u32];
    let bandwidth = prop_oneof![3 => Just(None), 1 => (100..1500u32).prop_map(|max_kbps| Some(Bandwidth { max_kbps, min_kbps: 0 }))];
    let bound = prop_oneof![
        Just(FeedbackBound::None),
        Just(FeedbackBound::Derived),
        (50..500u32).prop_map(FeedbackBound::Kbps)
    ];
    (
        timeout,
        cap,
        bandwidth,
        bound,
        0.02..1.0,
        20..45u8,
        prop::bool::weighted(0.9),
    )
        .prop_map(
            |(timeout, cap, bandwidth, feedback, area, qp, steered)| CameraSettings {
                feedback_timeout_ns: timeout * SECOND,
                max_bitrate_kbps: cap,
                bandwidth,
                feedback,
                max_region_area: area,
                background_qp: qp,
                region_qp: qp - 8,
                fallback_qp: qp - 4,
                steered,
                ..CameraSettings::default()
            },
        )
}

fn server_settings() -> impl Strategy<Value = (CoreSettings, u64)> {
    let deadline = prop_oneof![4 => 0..800u64, 1 => 3000..7000u64];
    (1..4u32, prop::bool::weighted(0.9), deadline, 5..90u64).prop_map(
        |(inference_interval, feedback, deadline, took)| {
            let refine_deadline = Duration::from_millis(deadline);
            let settings = CoreSettings {
                inference_interval,
                feedback,
                feedback_rate: true,
                predicted_results: false,
                refine_deadline,
            };
            (settings, took)
        },
    )
}

fn hostile() -> impl Strategy<Value = Hostile> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64).prop_map(Hostile::Noise),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(|mut bytes| {
            bytes.splice(0..0, dds_protocol::feedback::MAGIC);
            Hostile::Noise(bytes)
        }),
        Just(Hostile::Foreign),
        any::<u16>().prop_map(Hostile::Future),
        (0..64usize).prop_map(Hostile::Replay),
        (0..8usize, 1..40usize).prop_map(|(back, cut)| Hostile::Truncated(back, cut)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let times = prop_oneof![8 => Just(1usize), 2 => 300..3000usize];
    let source = prop_oneof![3 => Just(Way::Pad), 1 => Just(Way::Rtcp), 1 => Just(Way::Uri)];
    let step = prop_oneof![
        8 => (10..1200u64).prop_map(Step::Pass),
        2 => (any::<bool>(), link()).prop_map(|(second, link)| Step::Forward(second, link)),
        2 => link().prop_map(Step::Back),
        3 => (1..8u8, 20..4000u64).prop_map(|(paths, ms)| Step::Outage(paths, ms)),
        1 => Just(Step::RestartServer),
        1 => any::<bool>().prop_map(Step::RestartCamera),
        1 => (0..20_000u64, any::<bool>()).prop_map(|(ms, flush)| Step::Seek(ms, flush)),
        1 => Just(Step::FlushServer),
        2 => camera_settings().prop_map(|settings| Step::Camera(Box::new(settings))),
        1 => server_settings().prop_map(|(settings, took)| Step::Server(settings, took)),
        1 => (0.0..0.3).prop_map(Step::Late),
        1 => (1..200usize).prop_map(Step::Stray),
        3 => (source, hostile(), times).prop_map(|(source, hostile, times)| Step::Inject(source, hostile, times)),
    ];
    prop::collection::vec(step, 1..20)
}

fn setups(two_passes: bool) -> impl Strategy<Value = Setup> {
    let ways = prop_oneof![
        2 => Just(vec![Way::Rtcp]),
        1 => Just(vec![Way::Uri]),
        1 => Just(vec![Way::Uri, Way::Rtcp]),
        1 => Just(vec![Way::Event, Way::Srtcp]),
    ];
    let segment = prop_oneof![2 => Just(0u8), 1 => 2..32u8];
    let rate = prop_oneof![1 => Just(15.0), 4 => Just(30.0), 1 => Just(60.0)];
    let links = (link(), link(), ways);
    let server = (server_settings(), 4..60usize, 1..120u64);
    (any::<u64>(), rate, links, segment, server).prop_map(
        move |(
            seed,
            frame_rate,
            (forward, back, ways),
            segment_length,
            ((server, inference_ms), frames, coding_ms),
        )| {
            let mut setup = Setup {
                segment_length: if two_passes { segment_length } else { 0 },
                two_passes,
                frame_rate,
                forward: [forward; 2],
                back,
                ways,
                inference_ms,
                coding_ms,
                server,
                patience_ms: 200,
                ..Setup::new(seed)
            };
            setup.ring.frames = frames;
            setup.camera.frame_rate = frame_rate;
            setup
        },
    )
}

fn inject(pair: &mut Pair, way: Way, hostile: &Hostile, times: usize) {
    let state = |stream_id: u32, frame: u64, generation: u16| {
        let generation = Serial16(generation);
        let regions = Vec::new();
        encode(&FeedbackState {
            stream_id,
            generation,
            frame,
            regions,
            ..FeedbackState::default()
        })
        .packets
        .remove(0)
    };
    let packet = match hostile {
        Hostile::Noise(bytes) => Some(bytes.clone()),
        Hostile::Foreign => Some(state(pair.stream().wrapping_add(1), 0, 7)),
        Hostile::Future(generation) => Some(state(pair.stream(), pair.newest_frame() + 1000, *generation)),
        Hostile::Replay(back) => pair.caught(*back),
        Hostile::Truncated(back, cut) => pair.caught(*back).map(|mut packet| {
            packet.truncate(packet.len().saturating_sub(*cut));
            packet
        }),
    };
    for packet in std::iter::repeat_n(packet, times).flatten() {
        pair.inject(way, &packet);
    }
}

fn outage(pair: &mut Pair, paths: u8, ms: u64) {
    let before = pair.links();
    let [first, second, back] = std::array::from_fn(|path| Link {
        down: before[path].down || paths >> path & 1 == 1,
        ..before[path]
    });
    let set = |pair: &mut Pair, [first, second, back]: [Link; 3]| {
        pair.set_forward(Pass::First, first);
        pair.set_forward(Pass::Second, second);
        pair.set_back(back);
    };
    set(pair, [first, second, back]);
    pair.pass(ms * MS);
    set(pair, before);
}

fn step(pair: &mut Pair, step: &Step) {
    match step {
        Step::Pass(ms) => pair.pass(ms * MS),
        Step::Forward(second, link) => pair.set_forward(if *second { Pass::Second } else { Pass::First }, *link),
        Step::Back(link) => pair.set_back(*link),
        Step::Outage(paths, ms) => outage(pair, *paths, *ms),
        Step::RestartServer => pair.restart_server(),
        Step::RestartCamera(process) => pair.restart_camera(*process),
        Step::Seek(ms, flush) => pair.seek_camera(ms * MS, *flush),
        Step::FlushServer => pair.flush_server(),
        Step::Camera(settings) => pair.set_camera(CameraSettings {
            frame_rate: pair.camera().frame_rate,
            ..**settings
        }),
        Step::Server(settings, took) => pair.set_server(*settings, *took),
        Step::Late(share) => pair.set_late(*share),
        Step::Stray(count) => pair.stray(*count),
        Step::Inject(source, hostile, times) => inject(pair, *source, hostile, *times),
    }
}

fn history(setup: &Setup, steps: &[Step]) -> u64 {
    let mut pair = Pair::new(setup.clone());
    for next in steps {
        step(&mut pair, next);
        keeps(&pair);
        bounded(pair.held().max(pair.peak()), setup.ring.frames);
    }
    falls_and_returns(&mut pair);
    pair.digest()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: if long() { 100 * cases } else { cases },
        failure_persistence: None,
        rng_seed: if long() { RngSeed::Random } else { RngSeed::Fixed(1) },
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn one_pass_keeps_its_promises_whatever_happens(setup in setups(false), steps in steps()) {
        prop_assert_eq!(history(&setup, &steps), history(&setup, &steps), "the same history, another end");
    }

    #[test]
    fn two_passes_keep_their_promises_whatever_happens(setup in setups(true), steps in steps()) {
        prop_assert_eq!(history(&setup, &steps), history(&setup, &steps), "the same history, another end");
    }
}
