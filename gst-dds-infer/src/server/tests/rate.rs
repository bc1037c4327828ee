// SPDX-License-Identifier: MPL-2.0

//! The promises about the rate: wishes, and results of captured pictures that are not looked at.

use dds_protocol::extension::{Bound, Bounds, InForce};
use dds_protocol::wish::Wish;
use proptest::prelude::*;

use super::*;
use crate::rate::Actual;
use crate::server::{Follow, History, MAX_FILLED, WISH_TTL};

const FRAME_TIME: Duration = Duration::from_millis(40);

/// A frame of a camera of one pass.
fn single(number: u64) -> Decoded<u64> {
    let mut record = record(1, number);
    record.identity = Some(identity(1, number, StreamKind::Single));
    decoded(number, record)
}

/// The same of a camera that knows wishes, with the interval in force.
fn steerable(number: u64, interval: u8, bound: Bound) -> Decoded<u64> {
    let mut frame = single(number);
    let Lookup::Known(record) = &mut frame.lookup else {
        return frame;
    };
    record.extension.in_force = Some(InForce {
        background_qp: 40,
        interval,
        bounds: Bounds {
            interval: bound,
            ..Bounds::default()
        },
        ..InForce::default()
    });
    frame
}

fn repeat(number: u64) -> Decoded<u64> {
    let mut frame = single(number);
    if let Lookup::Known(record) = &mut frame.lookup {
        record.extension.repeated = true;
    }
    frame
}

impl Worker {
    fn with(settings: CoreSettings) -> Self {
        let mut worker = Self::new();
        worker.handle(Event::Settings(settings));
        let caps = Kind::Caps { interval: FRAME_TIME };
        worker.handle(Event::Serialized(0, caps));
        worker
    }

    /// One that gives results for all captured pictures.
    fn predicting() -> Self {
        Self::with(CoreSettings {
            predicted_results: true,
            ..settings()
        })
    }

    /// Frames asked about, with the wished interval.
    fn wishes(&self) -> Vec<(u64, Option<u8>)> {
        let sent = self.seen.iter().filter_map(|seen| match seen {
            Seen::Sent(request) => Some((request.frame, request.wishes.interval.map(|wish| wish.value))),
            _ => None,
        });
        sent.collect()
    }

    fn follows(&self) -> Vec<(u64, Option<Follow>)> {
        let looks = self.seen.iter().filter_map(|seen| match seen {
            Seen::Inferred(frame, look) => Some((*frame, look.follow)),
            _ => None,
        });
        looks.collect()
    }

    /// Numbers of the captured pictures with a result, in the order in which these went out.
    fn results(&self) -> Vec<u64> {
        let results = self.seen.iter().filter_map(|seen| match seen {
            Seen::Predicted(predicted) => Some(predicted.frame),
            Seen::Out(frame, _) if self.looked.contains_key(frame) => Some(*frame),
            Seen::Out(frame, _) => self.predictions.get(frame).filter(|p| !p.reported).map(|p| p.frame),
            _ => None,
        });
        results.collect()
    }
}

#[test]
fn a_camera_that_never_named_what_is_in_force_gets_no_wishes() {
    let mut worker = Worker::with(settings());
    worker.needs = 3;
    (1..4).for_each(|n| assert!(worker.give(single(n))));
    assert_eq!(worker.wishes(), [(1, None), (2, None), (3, None)]);
    assert!(worker.follows().iter().all(|(_, follow)| follow.is_none()));
    assert_eq!(worker.core.rate(), Default::default());
}

#[test]
fn a_camera_of_two_passes_gets_no_wishes() {
    let mut worker = Worker::of_two_passes();
    let mut low = frame(1);
    if let Lookup::Known(record) = &mut low.lookup {
        record.extension.in_force = Some(InForce::default());
    }
    worker.give(low);
    assert_eq!(worker.wishes(), [(1, None)]);
}

#[test]
fn what_the_objects_need_is_wished_with_every_generation() {
    let mut worker = Worker::with(settings());
    worker.needs = 3;
    worker.give(steerable(1, 1, Bound::None));
    worker.give(single(2));
    worker.needs = 1;
    worker.give(steerable(5, 3, Bound::User));
    assert_eq!(worker.wishes(), [(1, Some(3)), (2, Some(3)), (5, Some(1))]);
    let Some(Seen::Sent(request)) = worker.seen.iter().find(|seen| matches!(seen, Seen::Sent(_))) else {
        panic!("nothing sent");
    };
    let ttl_ms = WISH_TTL.as_millis() as u32;
    assert_eq!(request.wishes.interval, Some(Wish { value: 3, ttl_ms }));
    let status = worker.core.rate();
    assert_eq!(
        (status.wished, status.in_force, status.bound, status.changes),
        (1, 3, Bound::User, 1)
    );
    let actual = |interval, bounded| Actual {
        interval,
        bounded,
        quantizer: Some(40),
    };
    let said: Vec<_> = worker
        .follows()
        .iter()
        .map(|(_, follow)| follow.unwrap().actual)
        .collect();
    assert_eq!(said, [actual(1, false), actual(1, false), actual(3, true)]);
}

#[test]
fn without_feedback_of_the_rate_every_picture_is_asked_for() {
    let mut worker = Worker::with(CoreSettings {
        feedback_rate: false,
        ..settings()
    });
    worker.needs = 3;
    worker.give(steerable(1, 2, Bound::None));
    assert_eq!(worker.wishes(), [(1, Some(1))]);
    assert_eq!(worker.follows(), [(1, None)]);
}

#[test]
fn a_live_server_asks_for_no_more_pictures_than_it_can_infer() {
    let mut worker = Worker::with(settings());
    worker.handle(Event::Live(true));
    worker.inference = 70 * MS;
    for n in 0..4 {
        worker.give(steerable(3 * n, 3, Bound::None));
    }
    assert!(
        worker.wishes().iter().all(|(_, wish)| *wish == Some(2)),
        "{:?}",
        worker.wishes()
    );
}

#[test]
fn gaps_in_the_numbers_are_pictures_that_were_not_sent_and_no_damage() {
    let mut worker = Worker::with(settings());
    for n in [1, 4, 9] {
        worker.give(steerable(n, 3, Bound::None));
    }
    let seen: Vec<_> = worker
        .looks()
        .iter()
        .map(|(frame, ask)| (*frame, ask.unwrap().interval))
        .collect();
    assert_eq!(seen, [(1, None), (4, Some(3)), (9, Some(5))]);
    let history: Vec<_> = worker
        .follows()
        .iter()
        .map(|(_, follow)| follow.unwrap().history)
        .collect();
    assert_eq!(history, [History::None, History::Related, History::Related]);
}

#[test]
fn objects_are_not_followed_through_damage_or_into_another_stream() {
    let mut worker = Worker::with(settings());
    worker.give(steerable(1, 1, Bound::None));
    let mut corrupted = single(2);
    corrupted.corrupted = true;
    worker.give(corrupted);
    worker.give(single(3));
    let mut other = steerable(4, 1, Bound::None);
    if let Lookup::Known(record) = &mut other.lookup {
        record.identity = Some(identity(2, 4, StreamKind::Single));
    }
    worker.give(other);
    let history: Vec<_> = worker.follows().iter().map(|(_, f)| f.map(|f| f.history)).collect();
    assert_eq!(
        history,
        [
            Some(History::None),
            None,
            Some(History::Interrupted),
            Some(History::None)
        ]
    );
}

#[test]
fn wishes_of_one_camera_are_not_sent_to_the_next() {
    let mut worker = Worker::with(settings());
    worker.give(steerable(1, 1, Bound::None));
    let mut other = single(2);
    if let Lookup::Known(record) = &mut other.lookup {
        record.identity = Some(identity(2, 2, StreamKind::Single));
    }
    worker.give(other);
    assert_eq!(worker.wishes(), [(1, Some(1)), (2, None)]);
}

#[test]
fn the_interval_of_inference_is_one_of_pictures_that_were_sent() {
    let mut worker = Worker::with(CoreSettings {
        inference_interval: 2,
        ..settings()
    });
    for frame in [
        steerable(0, 3, Bound::None),
        repeat(1),
        repeat(2),
        single(3),
        single(6),
        repeat(7),
        single(9),
    ] {
        worker.give(frame);
    }
    let looked: Vec<u64> = worker.looked.keys().copied().collect();
    assert_eq!(looked, [0, 6]);
    let counts = worker.core.counts();
    assert_eq!(
        (counts.frames, counts.repeated, counts.not_due, counts.inferred),
        (7, 3, 2, 2)
    );
}

#[test]
fn every_captured_picture_has_a_result_before_that_of_the_next_one_that_came() {
    let mut worker = Worker::predicting();
    for n in [1, 4, 5, 8] {
        worker.give(steerable(n, 3, Bound::None));
        worker.pass(120 * MS);
    }
    assert_eq!(
        worker.results(),
        [1, 2, 3, 4, 5, 6, 7, 8],
        "a recording has no other time"
    );
    assert_eq!(worker.core.counts().predicted, 4);
    let ahead = worker.seen.iter().filter_map(|seen| match seen {
        Seen::Predicted(predicted) => Some(predicted.ahead),
        _ => None,
    });
    assert_eq!(ahead.collect::<Vec<_>>(), [1, 2, 1, 2]);
}

#[test]
fn results_of_a_live_stream_go_out_when_their_time_has_come() {
    let mut worker = Worker::predicting();
    worker.handle(Event::Live(true));
    worker.give(steerable(1, 3, Bound::None));
    assert_eq!(worker.results(), [1]);
    assert_eq!(worker.waits, Some(worker.now + FRAME_TIME));
    worker.pass(FRAME_TIME - MS);
    assert_eq!(worker.results(), [1]);
    worker.pass(MS);
    assert_eq!(worker.results(), [1, 2]);
    worker.pass(10 * FRAME_TIME);
    assert_eq!(worker.results(), [1, 2, 3], "the next one is to be looked at");
    worker.give(steerable(5, 3, Bound::None));
    assert_eq!(worker.results(), [1, 2, 3, 4, 5]);
}

#[test]
fn repeated_and_skipped_pictures_carry_predicted_results_and_each_is_reported_once() {
    let mut worker = Worker::predicting();
    worker.handle(Event::Live(true));
    worker.give(steerable(1, 3, Bound::None));
    worker.pass(FRAME_TIME);
    worker.give(repeat(2));
    worker.give(repeat(3));
    worker.give(single(4));
    assert_eq!(worker.results(), [1, 2, 3, 4]);
    assert_eq!(worker.predictions[&2].ahead, 1);
    assert!(worker.predictions[&2].reported, "its time came before it");
    assert!(!worker.predictions[&3].reported);
    assert_eq!(worker.core.counts().predicted, 2);
}

#[test]
fn by_default_only_inferred_pictures_have_results() {
    let mut worker = Worker::with(settings());
    worker.handle(Event::Live(true));
    worker.give(steerable(1, 3, Bound::None));
    worker.pass(5 * FRAME_TIME);
    worker.give(repeat(3));
    worker.give(single(4));
    assert_eq!(worker.results(), [1, 4]);
    assert!(worker.predictions.is_empty());
}

#[test]
fn nothing_is_predicted_from_damage_from_another_stream_or_for_long() {
    let mut worker = Worker::predicting();
    let mut corrupted = single(1);
    corrupted.corrupted = true;
    worker.give(corrupted);
    worker.give(single(3));
    let far = 3 + 1000;
    worker.give(single(far));
    assert_eq!(worker.core.counts().predicted, MAX_FILLED);
    worker.handle(Event::Flush);
    worker.handle(Event::Open);
    worker.give(single(far + 4));
    assert_eq!(worker.core.counts().predicted, MAX_FILLED);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// Pictures come when the camera said, with what may befall them: repeated, late, not due, overtaken, damaged.
    #[test]
    fn results_go_out_in_the_order_of_capture_and_each_once(
        live: bool,
        every in 1u32..4,
        inference in 0u32..90,
        steps in prop::collection::vec((1u8..6, 0u8..10, 0u32..50), 1..60),
    ) {
        let mut worker = Worker::with(CoreSettings {
            predicted_results: true,
            inference_interval: every,
            ..settings()
        });
        worker.handle(Event::Live(live));
        worker.inference = MS * inference;
        let (mut number, mut damaged) = (0, 0);
        for (interval, fate, late) in steps {
            let mut frame = steerable(number, interval, Bound::None);
            if fate == 0 {
                frame.corrupted = true;
                damaged += 1;
            }
            worker.give(frame);
            let repeats = (fate > 6).then_some(1..u64::from(interval));
            for n in repeats.into_iter().flatten() {
                worker.pass(FRAME_TIME);
                worker.give(repeat(number + n));
            }
            number += u64::from(interval);
            worker.pass(FRAME_TIME * u32::from(interval) + MS * late);
        }
        let results = worker.results();
        prop_assert!(results.windows(2).all(|two| two[0] < two[1]), "{:?}", results);
        // The first one looked at may come late, and of one that is damaged nothing is known.
        let (Some(first), Some(last)) = (results.first(), results.last()) else {
            return Ok(());
        };
        let missing = last - first + 1 - results.len() as u64;
        prop_assert!(damaged > 0 || missing == 0, "{:?}", results);
    }
}
