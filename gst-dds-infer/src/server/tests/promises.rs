// SPDX-License-Identifier: MPL-2.0

//! The promises of the core, one per test.

use super::*;
use crate::server::{CAPACITY, CAPACITY_LIVE, FOREIGN_FRAMES, MAX_DELAYED, MISSES, SEGMENT_PATIENCE};

impl Worker {
    /// Frames that went out, with the outcome of their second pass.
    fn outs(&self) -> Vec<(u64, Refined)> {
        let outs = self.seen.iter().filter_map(|seen| match seen {
            Seen::Out(frame, refined) => Some((*frame, *refined)),
            _ => None,
        });
        outs.collect()
    }

    fn requests(&self) -> Vec<(u64, usize, bool)> {
        let sent = self.seen.iter().filter_map(|seen| match seen {
            Seen::Sent(request) => Some((request.frame, request.regions.len(), request.once)),
            _ => None,
        });
        sent.collect()
    }

    pub(super) fn looks(&self) -> Vec<(u64, Option<Ask>)> {
        let looks = self.seen.iter().filter_map(|seen| match seen {
            Seen::Inferred(frame, look) => Some((*frame, look.ask)),
            _ => None,
        });
        looks.collect()
    }

    /// Gives a frame and lets its deadline pass without an answer.
    fn miss(&mut self, number: u64) {
        self.give(frame(number));
        self.pass(DEADLINE);
    }
}

#[test]
fn a_frame_that_asks_for_nothing_goes_out_at_once() {
    let mut worker = Worker::new();
    assert!(worker.give(frame(1)));
    assert_eq!(worker.outs(), [(1, Refined::No)]);
    assert_eq!(worker.requests(), [(1, 0, false)], "feedback without regions");
    assert_eq!(worker.generations[&1], Some(1));
    assert!(!worker.core.is_busy());
}

#[test]
fn a_second_pass_is_waited_for_pasted_and_looked_at() {
    let mut worker = Worker::of_two_passes();
    worker.give(frame(1));
    worker.give(frame(2));
    assert_eq!(worker.requests(), [(1, 1, true), (2, 1, true)]);
    assert_eq!(worker.outs(), []);
    // The later one arrives first: the order stays.
    assert!(worker.refined(2));
    assert_eq!(worker.outs(), []);
    assert!(worker.refined(1));
    assert_eq!(worker.outs(), [(1, Refined::Yes), (2, Refined::Yes)]);
    assert!(worker.seen.contains(&Seen::Pasted(2, (1, 2))));
    assert_eq!(worker.generations, [(1, Some(1)), (2, Some(2))].into());
    assert_eq!(worker.core.counts().refined, 2);
}

#[test]
fn waiting_ends_at_the_deadline_and_not_before() {
    let mut worker = Worker::of_two_passes();
    worker.give(frame(1));
    assert_eq!(worker.waits, Some(worker.now + DEADLINE));
    worker.pass(DEADLINE - MS);
    assert_eq!(worker.outs(), []);
    worker.pass(MS);
    assert_eq!(worker.outs(), [(1, Refined::Late)]);
    assert!(!worker.refined(1), "too late");
    assert_eq!(worker.core.counts().refine_after_the_fact, 1);
}

#[test]
fn refusals_and_damage_end_the_waiting_and_nothing_is_pasted() {
    let mut worker = Worker::of_two_passes();
    worker.give(frame(1));
    worker.give(frame(2));
    worker.arrive(1, Arrival::Refused);
    worker.arrive(2, Arrival::Damaged);
    assert_eq!(worker.outs(), [(1, Refined::Refused), (2, Refined::Damaged)]);
    assert!(!worker.seen.iter().any(|seen| matches!(seen, Seen::Pasted(..))));
    let counts = worker.core.counts();
    assert_eq!(
        (counts.refine_refused, counts.refine_damaged, counts.refined),
        (1, 1, 0)
    );
}

#[test]
fn what_the_model_cannot_paste_is_damage() {
    let mut worker = Worker::of_two_passes();
    worker.give(frame(1));
    worker.handle(Event::Arrival((1, 1), Arrival::Refined((1, 1))));
    let Action::Refine(out, _) = worker.core.poll(worker.now) else {
        panic!("no second pass");
    };
    worker.handle(Event::Refined { out, took: None });
    worker.work();
    assert_eq!(worker.outs(), [(1, Refined::Damaged)]);
}

#[test]
fn damaged_frames_ask_for_nothing_and_the_policy_forgets() {
    let mut worker = Worker::of_two_passes();
    worker.give(frame(1));
    worker.refined(1);
    let mut damaged = record(1, 2);
    damaged.damaged = true;
    worker.give(decoded(2, damaged));
    let mut corrupted = frame(3);
    corrupted.corrupted = true;
    worker.give(corrupted);
    worker.give(frame(4));
    let ask = |frame, interval| Ask {
        frame,
        interval,
        moves: false,
    };
    let looks = [(1, Some(ask(1, None))), (2, None), (3, None), (4, Some(ask(4, None)))];
    assert_eq!(worker.looks(), looks);
    assert_eq!(worker.requests(), [(1, 1, true), (4, 1, true)]);
    let counts = worker.core.counts();
    assert_eq!((counts.inferred, counts.damaged), (4, 2));
}

#[test]
fn the_policy_is_given_the_distance_of_frames() {
    let mut worker = Worker::new();
    for number in [1, 2, 5, 3] {
        worker.give(frame(number));
    }
    let intervals: Vec<_> = worker.looks().iter().map(|(_, ask)| ask.unwrap().interval).collect();
    assert_eq!(intervals, [None, Some(1), Some(3), Some(0)]);
    worker.handle(Event::Serialized(9, Kind::Caps { interval: 40 * MS }));
    worker.give(frame(6));
    assert_eq!(worker.looks()[4].1.unwrap().interval, None, "another format");
}

#[test]
fn after_some_misses_nothing_is_waited_for_until_something_arrives() {
    let mut worker = Worker::of_two_passes();
    (0..u64::from(MISSES)).for_each(|n| worker.miss(n));
    worker.give(frame(10));
    assert_eq!(
        worker.outs().last(),
        Some(&(10, Refined::No)),
        "still asked for, not waited for"
    );
    assert_eq!(worker.requests().last(), Some(&(10, 1, true)));
    // A late answer shows that the camera is there.
    assert!(!worker.refined(10));
    worker.give(frame(11));
    assert!(worker.refined(11));
    assert_eq!(worker.outs().last(), Some(&(11, Refined::Yes)));
    // Refusals are answers too.
    worker.miss(12);
    worker.miss(13);
    worker.give(frame(14));
    worker.arrive(14, Arrival::Refused);
    worker.miss(15);
    assert_eq!(worker.outs().last(), Some(&(15, Refined::Late)));
}

#[test]
fn the_end_of_the_second_pass_ends_all_waiting() {
    let mut worker = Worker::of_two_passes();
    worker.give(frame(1));
    worker.give(frame(2));
    worker.refined(2);
    worker.handle(Event::RefineOver(true));
    worker.work();
    assert_eq!(worker.outs(), [(1, Refined::Late), (2, Refined::Yes)]);
    worker.give(frame(3));
    assert_eq!(worker.outs().last(), Some(&(3, Refined::No)));
    assert_eq!(worker.requests().last(), Some(&(3, 0, false)), "nobody would see it");
}

#[test]
fn a_full_delay_queue_holds_frames_back_and_lets_events_pass() {
    let mut worker = Worker::of_two_passes();
    worker.handle(Event::Live(true));
    (0..MAX_DELAYED as u64).for_each(|n| assert!(worker.give(frame(n))));
    let held = |worker: &Worker| worker.core.waiting();
    assert_eq!(held(&worker), (0, MAX_DELAYED));
    (0..CAPACITY_LIVE as u64).for_each(|n| assert!(worker.give(frame(1000 + n))));
    assert_eq!(held(&worker), (CAPACITY_LIVE, MAX_DELAYED));
    assert!(!worker.give(frame(2000)), "no room");
    worker.pass(DEADLINE);
    assert_eq!(held(&worker), (0, 0), "after so many misses the rest does not wait");
    let outs: Vec<u64> = worker.outs().iter().map(|(frame, _)| *frame).collect();
    assert!(outs.is_sorted());
}

#[test]
fn a_recording_waits_in_front_of_the_model() {
    let mut worker = Worker::new();
    (0..CAPACITY as u64).for_each(|n| assert!(worker.handle(Event::Frame(frame(n)))));
    assert!(!worker.core.takes_frame());
    worker.work();
    assert!(worker.core.takes_frame());
    assert_eq!(worker.looks().len(), CAPACITY, "and none is overtaken");
}

#[test]
fn overtaken_frames_are_not_looked_at_unless_there_is_time() {
    let mut worker = Worker::new();
    worker.handle(Event::Live(true));
    let give = |worker: &mut Worker| {
        for number in 0..3 {
            let due = Some(worker.now);
            worker.handle(Event::Frame(Decoded { due, ..frame(number) }));
        }
        worker.work();
    };
    give(&mut worker);
    assert_eq!(worker.looks().iter().map(|(frame, _)| *frame).collect::<Vec<_>>(), [2]);
    assert_eq!(worker.outs().len(), 3, "but they go out");
    assert_eq!(worker.core.counts().skipped, 2);
    // A sink that waits leaves time for every frame.
    worker.handle(Event::Latency(100 * MS));
    worker.handle(Event::Pushed(30 * MS));
    for number in 0..3 {
        let due = Some(worker.now);
        worker.handle(Event::Frame(Decoded { due, ..frame(number) }));
    }
    assert!(matches!(worker.core.poll(worker.now), Action::Infer(0, _)));
}

#[test]
fn only_every_so_many_frames_are_looked_at() {
    let mut worker = Worker::new();
    worker.handle(Event::Settings(CoreSettings {
        inference_interval: 3,
        ..settings()
    }));
    (0..7).for_each(|n| assert!(worker.give(frame(n))));
    assert_eq!(
        worker.looks().iter().map(|(frame, _)| *frame).collect::<Vec<_>>(),
        [0, 3, 6]
    );
    assert_eq!(worker.core.counts().not_due, 4);
    worker.handle(Event::Settings(CoreSettings {
        feedback: false,
        ..settings()
    }));
    worker.give(frame(7));
    assert_eq!(
        worker.looks().last(),
        Some(&(7, None)),
        "without feedback nobody is asked"
    );
    assert_eq!(worker.requests().len(), 3);
}

#[test]
fn a_segment_is_asked_for_at_its_end() {
    let mut worker = Worker::of_two_passes();
    worker.finds = [(5, 0)].into();
    (4..8).for_each(|n| assert!(worker.give(in_segment(n, 4))));
    let Some(Seen::Sent(request)) = worker.seen.iter().find(|s| matches!(s, Seen::Sent(_))) else {
        panic!("nothing was asked for");
    };
    assert_eq!((request.frame, request.once), (4, true));
    let offsets: Vec<u8> = request.regions.iter().map(|r| r.frame_offset).collect();
    assert_eq!(offsets, [0, 2, 3]);
    assert_eq!(worker.requests().len(), 1);
    [4, 6].into_iter().for_each(|n| assert!(worker.refined(n)));
    assert_eq!(worker.outs().len(), 3, "the one without regions does not wait");
    worker.pass(DEADLINE);
    assert_eq!(worker.outs().last(), Some(&(7, Refined::Late)));
}

#[test]
fn the_rest_of_a_segment_is_waited_for_with_patience() {
    let mut worker = Worker::of_two_passes();
    worker.give(in_segment(4, 4));
    worker.pass(SEGMENT_PATIENCE + DEADLINE - MS);
    assert_eq!(worker.outs(), []);
    worker.pass(MS);
    assert_eq!(worker.outs(), [(4, Refined::Late)]);
    // This is no miss: the camera was not asked.
    worker.miss(8);
    worker.miss(9);
    worker.give(frame(10));
    worker.refined(10);
    assert_eq!(worker.outs().last(), Some(&(10, Refined::Yes)));
}

#[test]
fn the_next_segment_and_the_end_of_the_stream_bring_the_request() {
    let mut worker = Worker::of_two_passes();
    worker.give(in_segment(4, 4));
    worker.give(in_segment(9, 4));
    assert_eq!(worker.requests(), [(4, 1, true)]);
    worker.handle(Event::Serialized(99, Kind::End));
    worker.work();
    assert_eq!(worker.requests(), [(4, 1, true), (8, 1, true)]);
    assert_eq!(worker.outs(), []);
    worker.pass(DEADLINE);
    assert_eq!(worker.seen.last(), Some(&Seen::Event(99)), "the end is the last to go");
    assert!(worker.seen.contains(&Seen::Forgot));
    assert_eq!(worker.outs().len(), 2);
}

#[test]
fn another_stream_is_begun_without_knowledge_of_the_one_before() {
    let mut worker = Worker::of_two_passes();
    (0..u64::from(MISSES)).for_each(|n| worker.miss(n));
    worker.handle(Event::RefineOver(false));
    let mut open = in_segment(4, 4);
    if let Lookup::Known(record) = &mut open.lookup {
        record.extension.full_size = Some((640, 360));
    }
    worker.refined(2);
    worker.give(open);
    assert_eq!(worker.outs().len(), MISSES as usize);
    worker.seen.clear();
    worker.give(decoded(100, record(2, 0)));
    // The request for the open segment of the old stream is never sent.
    assert_eq!(worker.seen[0], Seen::Forgot);
    assert_eq!(worker.outs(), [(4, Refined::Late)]);
    let Some(Seen::Inferred(_, look)) = worker.seen.iter().find(|s| matches!(s, Seen::Inferred(..))) else {
        panic!("not looked at");
    };
    assert_eq!((look.size, look.ask.unwrap().interval), (None, None));
    worker.handle(Event::Arrival((2, 0), Arrival::Refined((2, 0))));
    worker.work();
    assert_eq!(worker.outs(), [(4, Refined::Late), (100, Refined::Yes)]);
    assert!(!worker.refined(5), "of a stream that is gone");
}

#[test]
fn a_stream_that_is_not_ours_is_reported_once() {
    let mut worker = Worker::new();
    let unknown = |origin| Decoded {
        lookup: Lookup::Unknown,
        origin,
        ..frame(0)
    };
    let posted = |worker: &Worker| worker.seen.iter().filter(|s| matches!(s, Seen::Posted(_))).count();
    for n in 1..=2 * FOREIGN_FRAMES {
        worker.give(unknown(Origin::Undecided));
        assert_eq!(posted(&worker), usize::from(n >= FOREIGN_FRAMES));
    }
    worker.give(frame(1));
    worker.give(unknown(Origin::Ours));
    assert!(
        worker
            .seen
            .iter()
            .any(|s| matches!(s, Seen::Inferred(_, look) if look.damaged))
    );
    worker.give(unknown(Origin::Foreign));
    worker.give(unknown(Origin::Foreign));
    assert_eq!(posted(&worker), 2);
    assert_eq!(worker.seen.last(), Some(&Seen::Out(0, Refined::No)));
}

#[test]
fn identities_that_a_parser_attached_tell_damage_by_their_counters() {
    let mut worker = Worker::new();
    let mut give = |access_unit, recovery| {
        let attached = Some(FrameIdentity {
            recovery,
            ..identity(1, access_unit, StreamKind::Low)
        });
        worker.give(Decoded {
            lookup: Lookup::Unknown,
            attached,
            ..frame(0)
        });
        worker.core.counts().damaged
    };
    assert_eq!(give(1, false), 1, "joined in the middle");
    assert_eq!(give(2, true), 1);
    assert_eq!(give(3, false), 1);
    assert_eq!(give(5, false), 2, "one is missing");
    assert_eq!(give(6, false), 3, "damage stays");
    assert_eq!(give(7, true), 3);
}

#[test]
fn a_flush_drops_what_waits_and_refuses_until_it_is_over() {
    let mut worker = Worker::of_two_passes();
    worker.give(frame(1));
    worker.handle(Event::Frame(frame(2)));
    let Action::Infer(frame_2, _) = worker.core.poll(worker.now) else {
        panic!("not looked at");
    };
    worker.handle(Event::Flush);
    assert!(!worker.give(frame(3)));
    assert!(!worker.handle(Event::Serialized(9, Kind::Other)));
    assert!(!worker.refined(1));
    assert!(matches!(worker.core.poll(worker.now), Action::Stop));
    worker.handle(Event::Open);
    // The model was still inferring it.
    let (regions, took) = (vec![region(0)], MS);
    let inference = Inference::Done {
        regions,
        took,
        interval: 1,
    };
    worker.handle(Event::Inferred {
        frame: frame_2,
        inference,
    });
    worker.give(frame(4));
    assert_eq!(worker.looks().last().unwrap().1.unwrap().interval, None);
    worker.refined(4);
    assert_eq!(worker.outs(), [(4, Refined::Yes)]);
}

#[test]
fn caps_wait_for_the_size_of_the_merged_picture() {
    let mut worker = Worker::of_two_passes();
    let caps = Kind::Caps { interval: 40 * MS };
    for (event, kind) in [(1, Kind::StreamStart), (2, caps), (3, Kind::Other)] {
        worker.handle(Event::Serialized(event, kind));
    }
    worker.work();
    assert_eq!(worker.seen, [Seen::Event(1), Seen::Prepared(2)]);
    assert!(worker.core.holds_caps() && !worker.core.is_busy());
    let mut first = record(1, 0);
    first.extension.full_size = Some((640, 360));
    worker.finds_always = 0;
    worker.give(decoded(0, first));
    assert!(!worker.core.holds_caps());
    // Its caps go out with the frame.
    assert_eq!(
        worker.seen[4..],
        [
            Seen::Sent(worker.request_of(0)),
            Seen::Event(3),
            Seen::Out(0, Refined::No)
        ]
    );
    // Without a second pass nothing waits.
    worker.handle(Event::RefineLinked(false));
    worker.handle(Event::Serialized(4, caps));
    worker.work();
    assert_eq!(worker.seen.last(), Some(&Seen::Event(4)));
}

impl Worker {
    fn request_of(&self, frame: u64) -> Request {
        let sent = self.seen.iter().find_map(|seen| match seen {
            Seen::Sent(request) if request.frame == frame => Some(request.clone()),
            _ => None,
        });
        sent.expect("asked for")
    }
}

#[test]
fn a_stream_that_ends_before_its_first_frame_lets_go_of_what_waits_for_it() {
    let mut worker = Worker::of_two_passes();
    let caps = Kind::Caps { interval: 40 * MS };
    for (event, kind) in [(1, caps), (2, Kind::Other), (3, Kind::End)] {
        worker.handle(Event::Serialized(event, kind));
    }
    assert!(worker.core.end_waits());
    worker.work();
    assert_eq!(
        worker.seen,
        [Seen::Prepared(1), Seen::Forgot, Seen::Event(2), Seen::Event(3)]
    );
}

#[test]
fn latency_is_reported_as_it_grows_and_of_live_streams_only() {
    let mut worker = Worker::of_two_passes();
    worker.inference = 20 * MS;
    worker.give(frame(1));
    worker.refined(1);
    assert_eq!(worker.core.latency(), Duration::ZERO);
    worker.handle(Event::Live(true));
    worker.give(frame(2));
    worker.refined(2);
    // The deadline and two inferences, and half as much again of those.
    assert_eq!(worker.core.latency(), DEADLINE + 60 * MS);
    let posted = worker
        .seen
        .iter()
        .filter(|s| **s == Seen::Posted(Notice::Latency))
        .count();
    assert_eq!(posted, 1);
    // A segment is waited for as well.
    worker.handle(Event::Serialized(9, Kind::Caps { interval: 40 * MS }));
    worker.give(in_segment(4, 4));
    assert_eq!(worker.core.latency(), DEADLINE + 120 * MS);
}

#[test]
fn where_downstream_takes_nothing_the_end_still_goes_out() {
    let mut worker = Worker::of_two_passes();
    worker.give(frame(1));
    worker.handle(Event::Downstream(false));
    worker.give(frame(2));
    worker.handle(Event::Serialized(3, Kind::End));
    worker.pass(DEADLINE);
    assert_eq!(worker.outs(), []);
    assert_eq!(worker.seen.last(), Some(&Seen::Event(3)));
    assert_eq!(worker.looks().len(), 1);
    assert!(!worker.core.is_busy());
}

#[test]
fn a_frame_that_cannot_be_read_goes_out_and_one_that_breaks_the_model_does_not() {
    let mut worker = Worker::of_two_passes();
    worker.give(Decoded {
        corrupted: true,
        ..frame(0)
    });
    for inference in [Inference::Unreadable, Inference::Failed] {
        worker.handle(Event::Frame(frame(1)));
        let Action::Infer(frame, _) = worker.core.poll(worker.now) else {
            panic!("not looked at");
        };
        worker.handle(Event::Inferred { frame, inference });
        worker.work();
    }
    assert_eq!(worker.outs(), [(0, Refined::No), (1, Refined::No)]);
    assert_eq!(worker.requests(), []);
    let counts = worker.core.counts();
    assert_eq!((counts.unreadable, counts.failed, counts.inferred), (1, 1, 1));
}
