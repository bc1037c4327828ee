// SPDX-License-Identifier: MPL-2.0

//! Whatever the network does to packets, the camera only applies newer, complete generations of its stream.

mod common;

use common::{Random, random_region, state, widest_region};
use dds_protocol::assembler::{Assembler, Counts, Outcome};
use dds_protocol::feedback::{FeedbackError, FeedbackState, MAX_REGIONS, Region, encode};
use dds_protocol::serial::Serial16;
use proptest::prelude::*;

const STREAM: u32 = 0x1234_5678;

fn packets(generation: u16, regions: u32) -> (FeedbackState, Vec<Vec<u8>>) {
    let mut random = Random(u64::from(generation));
    let regions: Vec<Region> = (0..regions).map(|_| random_region(&mut random, 3840, 2160)).collect();
    let state = state(generation, u64::from(generation) + 7, regions);
    let packets = encode(&state).packets;
    (state, packets)
}

/// A generation of three parts.
fn three_parts(generation: u16) -> Vec<Vec<u8>> {
    let packets = encode(&state(
        generation,
        1,
        (0..256).map(|i| widest_region(i % 2 == 0)).collect(),
    ))
    .packets;
    assert_eq!(packets.len(), 3);
    packets
}

#[test]
fn a_million_shuffled_and_doubled_packets_apply_nothing_stale() {
    let mut random = Random(42);
    let mut assembler = Assembler::new(STREAM);
    // Packets in transit: the generation without wrapping, and the packet.
    let mut network: Vec<(u64, Vec<u8>)> = Vec::new();
    let (mut sent, mut newest, mut pushed, mut applied) = (0u64, None, 0u64, 0u64);
    let mut parts_of_two = Vec::new();
    for _ in 0..256 {
        parts_of_two.push(widest_region(random.below(2) == 0));
    }
    while pushed < 1_000_000 {
        // Generations wrap about ten times over the run.
        let regions = match random.below(200) {
            0 => parts_of_two.clone(),
            n => vec![random_region(&mut random, 1920, 1080); (n % 3) as usize],
        };
        for packet in encode(&state(sent as u16, sent, regions)).packets {
            for _ in 0..1 + random.below(2) {
                network.push((sent, packet.clone()));
            }
        }
        sent += 1;
        // Up to a few hundred packets are in transit, delivered in any order.
        while network.len() > 300 {
            let index = random.below(network.len() as u32) as usize;
            let (number, packet) = network.swap_remove(index);
            pushed += 1;
            if let Outcome::Complete(state) = assembler.push(&packet) {
                applied += 1;
                assert_eq!((state.generation, state.frame), (Serial16(number as u16), number));
                assert!(newest.is_none_or(|newest| number > newest), "{number} after {newest:?}");
                newest = Some(number);
            }
        }
    }
    let counts = assembler.counts();
    assert!(sent > 5 * 65_536, "{sent} generations do not wrap");
    assert!(applied > 10_000, "only {applied} applied");
    assert_eq!(counts.complete, applied);
    assert_eq!(
        counts.complete + counts.partial + counts.stale + counts.duplicate,
        pushed
    );
    assert!(
        counts.stale > 0 && counts.duplicate > 0 && counts.partial > 0 && counts.incomplete > 0,
        "{counts:?}"
    );
}

proptest! {
    #[test]
    fn parts_in_any_order_make_the_same_generation(order in Just([0usize, 1, 2]).prop_shuffle()) {
        let packets = three_parts(5);
        let mut assembler = Assembler::new(STREAM);
        for (i, &part) in order.iter().enumerate() {
            let outcome = assembler.push(&packets[part]);
            if i < 2 {
                prop_assert_eq!(outcome, Outcome::Partial);
            } else {
                let Outcome::Complete(found) = outcome else { panic!("{outcome:?}") };
                let expected: Vec<Region> = (0..256).map(|i| widest_region(i % 2 == 0).quantised()).collect();
                prop_assert_eq!(found.regions, expected);
            }
        }
    }
}

#[test]
fn doubled_older_and_foreign_packets_are_counted() {
    let mut assembler = Assembler::new(STREAM);
    let (expected, first) = packets(100, 3);
    let Outcome::Complete(found) = assembler.push(&first[0]) else {
        panic!()
    };
    assert_eq!(
        found.regions,
        expected.regions.iter().map(Region::quantised).collect::<Vec<_>>()
    );
    assert_eq!(assembler.newest(), Some(Serial16(100)));
    assert_eq!(assembler.push(&first[0]), Outcome::Duplicate);
    assert_eq!(assembler.push(&packets(99, 3).1[0]), Outcome::Stale);
    assert_eq!(Assembler::new(STREAM + 1).push(&first[0]), Outcome::Foreign);
    assert!(matches!(assembler.push(&[]), Outcome::Malformed(_)));
    let mut newer = first[0].clone();
    newer[2] = 2;
    assert_eq!(
        assembler.push(&newer),
        Outcome::Malformed(FeedbackError::UnknownVersion(2))
    );
    let mut foreign = packets(101, 3).1.remove(0);
    foreign[8] ^= 1;
    assert_eq!(assembler.push(&foreign), Outcome::Foreign);
    let mut extended = packets(102, 3).1.remove(0);
    extended.push(0x55);
    extended[4] += 1;
    assert!(matches!(assembler.push(&extended), Outcome::Complete(_)));
    assert_eq!(
        assembler.counts(),
        Counts {
            complete: 2,
            partial: 0,
            stale: 1,
            duplicate: 1,
            foreign: 1,
            malformed: 2,
            unknown_version: 1,
            extensions: 1,
            incomplete: 0,
        }
    );
}

#[test]
fn generations_go_on_across_the_wrap() {
    let mut assembler = Assembler::new(STREAM);
    for generation in [65_533, 65_535, 0, 2] {
        assert!(
            matches!(assembler.push(&packets(generation, 1).1[0]), Outcome::Complete(_)),
            "{generation}"
        );
    }
    assert_eq!(assembler.push(&packets(65_535, 1).1[0]), Outcome::Stale);
    assert_eq!(assembler.push(&packets(1, 1).1[0]), Outcome::Stale);
    // Half the range away is neither newer nor older.
    assert_eq!(assembler.push(&packets(2 + 0x8000, 1).1[0]), Outcome::Stale);
}

#[test]
fn a_newer_generation_replaces_an_incomplete_one_and_an_older_one_does_not() {
    let mut assembler = Assembler::new(STREAM);
    let (old, new) = (three_parts(10), three_parts(11));
    assert_eq!(assembler.push(&old[0]), Outcome::Partial);
    assert_eq!(assembler.push(&old[0]), Outcome::Duplicate);
    assert_eq!(assembler.push(&new[2]), Outcome::Partial);
    assert_eq!(assembler.push(&old[1]), Outcome::Stale);
    assert_eq!(assembler.push(&packets(9, 1).1[0]), Outcome::Stale);
    assert_eq!(assembler.push(&new[0]), Outcome::Partial);
    assert!(matches!(assembler.push(&new[1]), Outcome::Complete(_)));
    assert_eq!(assembler.push(&new[1]), Outcome::Duplicate);
    assert_eq!(assembler.counts().incomplete, 1);
}

#[test]
fn an_incomplete_generation_is_replaced_across_the_wrap_too() {
    let mut assembler = Assembler::new(STREAM);
    let (old, new) = (three_parts(65_535), three_parts(0));
    assert_eq!(assembler.push(&old[0]), Outcome::Partial);
    assert_eq!(assembler.push(&new[0]), Outcome::Partial);
    assert_eq!(assembler.push(&old[1]), Outcome::Stale);
    assert_eq!(assembler.push(&new[1]), Outcome::Partial);
    assert!(matches!(assembler.push(&new[2]), Outcome::Complete(_)));
    assert_eq!(assembler.newest(), Some(Serial16(0)));
}

#[test]
fn parts_that_contradict_each_other_are_refused_and_the_first_stays() {
    let mut assembler = Assembler::new(STREAM);
    let good = three_parts(10);
    assert_eq!(assembler.push(&good[0]), Outcome::Partial);
    let mut of_two = good[1].clone();
    of_two[11] = 0x11;
    assert_eq!(
        assembler.push(&of_two),
        Outcome::Malformed(FeedbackError::InvalidField("parts"))
    );
    let mut other_frame = good[1].clone();
    other_frame[12] = 2;
    assert_eq!(
        assembler.push(&other_frame),
        Outcome::Malformed(FeedbackError::InvalidField("frame"))
    );
    assert_eq!(assembler.push(&good[1]), Outcome::Partial);
    assert!(matches!(assembler.push(&good[2]), Outcome::Complete(_)));
}

#[test]
fn a_generation_never_holds_more_than_the_allowed_regions() {
    let mut assembler = Assembler::new(STREAM);
    let mut full = encode(&state(1, 1, vec![Region::default(); MAX_REGIONS]))
        .packets
        .remove(0);
    let mut one = encode(&state(1, 1, vec![Region::default()])).packets.remove(0);
    full[11] = 0x01;
    one[11] = 0x11;
    assert_eq!(assembler.push(&full), Outcome::Partial);
    let outcome = assembler.push(&one);
    assert_eq!(
        outcome,
        Outcome::Malformed(FeedbackError::InvalidField("regions of the generation"))
    );
    // One wrong part does not stop the stream.
    assert!(matches!(assembler.push(&packets(2, 1).1[0]), Outcome::Complete(_)));
}

#[test]
fn a_restarted_server_is_heard_again_after_reset() {
    let mut assembler = Assembler::new(STREAM);
    assert!(matches!(assembler.push(&packets(30_000, 1).1[0]), Outcome::Complete(_)));
    assert_eq!(assembler.push(&three_parts(30_001)[0]), Outcome::Partial);
    assert_eq!(assembler.push(&packets(0, 1).1[0]), Outcome::Stale);
    assembler.reset();
    assert_eq!((assembler.newest(), assembler.counts().incomplete), (None, 1));
    assert!(matches!(assembler.push(&packets(1, 1).1[0]), Outcome::Complete(_)));
    assert_eq!(assembler.push(&packets(0, 1).1[0]), Outcome::Stale);
    assert_eq!(assembler.counts().complete, 2);
}
