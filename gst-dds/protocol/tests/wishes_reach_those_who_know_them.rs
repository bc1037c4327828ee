// SPDX-License-Identifier: MPL-2.0

//! Wishes have the documented layout and survive the way; readers of before skip them, and packets of before have none.

mod common;

use common::{Random, random_region, state, widest_region};
use dds_protocol::assembler::{Assembler, Outcome};
use dds_protocol::feedback::{FeedbackError, FeedbackState, MAX_PACKET, Region, decode, encode, with_wishes};
use dds_protocol::wish::{MAX_WISH_TTL_MS, WISH_TTL_UNIT_MS, Wish, Wishes};
use proptest::prelude::*;

fn wish<T>(value: T, ttl_ms: u32) -> Option<Wish<T>> {
    Some(Wish { value, ttl_ms })
}

prop_compose! {
    fn any_wishes()(
        qps in any::<[Option<(u8, u32)>; 3]>(),
        ceiling in any::<Option<(u32, u32)>>(),
        short in any::<bool>(),
    ) -> Wishes {
        let time = |ttl_ms: u32| if short { ttl_ms % 30_000 } else { ttl_ms };
        let of = |place: usize| qps[place].map(|(value, ttl_ms)| Wish { value, ttl_ms: time(ttl_ms) });
        Wishes {
            background_qp: of(0),
            region_qp: of(1),
            interval: of(2),
            ceiling_kbps: ceiling.map(|(value, ttl_ms)| Wish { value, ttl_ms: time(ttl_ms) }),
        }
    }
}

/// A packet with its length made right.
fn with_tail(packet: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut longer = packet.to_vec();
    longer.extend(tail);
    let length = longer.len() as u16;
    longer[3..5].copy_from_slice(&length.to_be_bytes());
    longer
}

proptest! {
    #[test]
    fn wishes_survive_beside_any_number_of_regions(wishes in any_wishes(), count in 0usize..300, seed: u64) {
        let mut random = Random(seed);
        let regions: Vec<Region> = (0..count)
            .map(|n| if n < 200 { random_region(&mut random, 1920, 1080) } else { widest_region(n % 2 == 0) })
            .collect();
        let sent = FeedbackState { wishes, ..state(7, 99, regions) };
        let mut packets = encode(&sent).packets;
        prop_assert!(packets.iter().all(|packet| packet.len() <= MAX_PACKET));
        // In any order.
        packets.reverse();
        let mut assembler = Assembler::new(sent.stream_id);
        let last = packets.iter().map(|packet| assembler.push(packet)).last();
        let Some(Outcome::Complete(read)) = last else { panic!("{last:?}") };
        prop_assert_eq!(read.wishes, wishes.quantised());
        prop_assert_eq!(read.wishes.quantised(), read.wishes);
        prop_assert_eq!(read.regions.len(), count.min(256));
        prop_assert_eq!(assembler.counts().extensions, 0);
    }

    #[test]
    fn any_bytes_after_the_table_give_wishes_in_their_ranges_or_a_named_error(
        tail in prop::collection::vec(prop_oneof![3 => 0u8..8, 1 => any::<u8>()], 0..60),
    ) {
        let packet = encode(&state(1, 5, vec![Region::default()])).packets.remove(0);
        match decode(&with_tail(&packet, &tail)) {
            Ok(part) => {
                prop_assert!(part.skipped_extension <= tail.len());
                prop_assert_eq!(part.wishes.quantised(), part.wishes);
            }
            Err(error) => prop_assert!(matches!(error, FeedbackError::InvalidField(_)), "{}", error),
        }
    }

    #[test]
    fn joined_wishes_are_those_of_the_most_demanding_server(list in prop::collection::vec(any_wishes(), 1..5)) {
        let own = (36, 26);
        let joined = Wishes::joined(list.clone(), own);
        let of = |wishes: &Wishes| {
            let wishes = wishes.quantised();
            let value = |wish: Option<Wish<u8>>, otherwise| wish.map_or(otherwise, |wish| wish.value);
            let ceiling = wishes.ceiling_kbps.map_or(u32::MAX, |wish| wish.value);
            (value(wishes.background_qp, own.0), value(wishes.region_qp, own.1), value(wishes.interval, 1), ceiling)
        };
        let each: Vec<_> = list.iter().map(of).collect();
        let least = (
            each.iter().map(|w| w.0).min().unwrap(),
            each.iter().map(|w| w.1).min().unwrap(),
            each.iter().map(|w| w.2).min().unwrap(),
            each.iter().map(|w| w.3).min().unwrap(),
        );
        prop_assert_eq!(of(&joined), least);
    }
}

#[test]
fn the_layout_is_as_written_down() {
    let plain = encode(&state(1, 5, Vec::new())).packets.remove(0);
    let wishes = Wishes {
        background_qp: wish(40, 2000),
        region_qp: wish(28, 2000),
        interval: wish(3, 1950),
        ceiling_kbps: wish(300, 25_500),
    };
    let sent = FeedbackState {
        wishes,
        ..state(1, 5, Vec::new())
    };
    let packet = encode(&sent).packets.remove(0);
    let records = [
        1, 2, 20, 40, // background quantizer
        2, 2, 20, 28, // region quantizer
        3, 2, 20, 3, // interval
        4, 5, 255, 0, 0, 1, 0x2c, // ceiling
    ];
    assert_eq!(packet, with_tail(&plain, &records));
    assert_eq!(decode(&plain).map(|part| part.wishes), Ok(Wishes::default()));
    assert_eq!(MAX_WISH_TTL_MS, 255 * WISH_TTL_UNIT_MS);
}

#[test]
fn what_is_out_of_range_is_refused_and_what_is_not_known_skipped() {
    let plain = encode(&state(1, 5, Vec::new())).packets.remove(0);
    let read = |tail: &[u8]| decode(&with_tail(&plain, tail)).map(|part| (part.wishes, part.skipped_extension));
    let named = |field| Err(FeedbackError::InvalidField(field));
    for (tail, field) in [
        (&[1u8, 2, 20, 52][..], "background quantizer"),
        (&[1, 1, 20], "background quantizer"),
        (&[2, 2, 0, 20], "region quantizer"),
        (&[2, 2, 1, 20, 2, 2, 1, 21], "region quantizer"),
        (&[3, 2, 20, 0], "interval"),
        (&[3, 3, 20, 1, 1], "interval"),
        (&[4, 5, 20, 0, 0, 0, 0], "ceiling"),
        (&[4, 2, 20, 9], "ceiling"),
    ] {
        assert_eq!(read(tail), named(field), "{tail:?}");
    }
    let interval = Wishes {
        interval: wish(5, 100),
        ..Wishes::default()
    };
    // A probe and a size, which are reserved; a type of later; what follows the last whole record.
    let tail = [5, 1, 9, 6, 4, 0, 0, 0, 0, 3, 2, 1, 5, 200, 0, 77, 9, 1];
    assert_eq!(read(&tail), Ok((interval, 3 + 6 + 2 + 3)));
}

#[test]
fn wishes_stand_in_the_first_packet_alone() {
    let regions = (0..256).map(|n| widest_region(n % 2 == 0)).collect();
    let sent = FeedbackState {
        wishes: Wishes {
            interval: wish(2, 1000),
            ..Wishes::default()
        },
        ..state(3, u64::MAX, regions)
    };
    let packets = encode(&sent).packets;
    assert!(packets.len() > 1);
    let wished = |packet: &Vec<u8>| !decode(packet).unwrap().wishes.is_empty();
    assert_eq!(packets.iter().map(wished).collect::<Vec<_>>(), [true, false, false]);
    let forged = with_tail(&packets[1], &[3, 2, 10, 2]);
    assert_eq!(
        decode(&forged),
        Err(FeedbackError::InvalidField("wishes outside the first part"))
    );
}

#[test]
fn wishes_of_a_packet_are_replaced_and_all_else_stays() {
    let own = Wishes {
        background_qp: wish(40, 2000),
        ..Wishes::default()
    };
    let others = Wishes {
        interval: wish(2, 700),
        ceiling_kbps: wish(9000, 100),
        ..Wishes::default()
    };
    let sent = |wishes, regions| FeedbackState {
        wishes,
        ..state(3, 300, regions)
    };
    let regions: Vec<Region> = vec![Region::default(); 9];
    let [had, wanted, none] =
        [own, others, Wishes::default()].map(|wishes| encode(&sent(wishes, regions.clone())).packets.remove(0));
    assert_eq!(with_wishes(&had, &others), Ok(wanted.clone()));
    assert_eq!(with_wishes(&with_tail(&had, &[200, 1, 7, 9]), &others), Ok(wanted));
    assert_eq!(with_wishes(&had, &Wishes::default()), Ok(none));
    assert_eq!(with_wishes(&had[..9], &others), Err(FeedbackError::Truncated));

    let many: Vec<Region> = (0..256).map(|n| widest_region(n % 2 == 0)).collect();
    let full = encode(&sent(Wishes::default(), many)).packets;
    assert_eq!(with_wishes(&full[0], &others), Ok(full[0].clone()), "it has no room");
    assert!(with_wishes(&full[1], &others).is_err());
    assert_eq!(with_wishes(&full[1], &Wishes::default()), Ok(full[1].clone()));
}

#[test]
fn each_wish_ends_with_its_own_time_to_live() {
    let wishes = Wishes {
        background_qp: wish(44, 500),
        region_qp: wish(20, 501),
        interval: wish(5, 2000),
        ceiling_kbps: wish(100, 499),
    };
    let later = Wishes {
        region_qp: wish(20, 1),
        interval: wish(5, 1500),
        ..Wishes::default()
    };
    assert_eq!(wishes.aged(0), wishes);
    assert_eq!(wishes.aged(500), later);
    assert!(wishes.aged(u32::MAX).is_empty());
}

#[test]
fn one_who_wishes_nothing_wants_every_picture_and_the_cameras_quality() {
    let coarse = Wishes {
        background_qp: wish(44, 2000),
        region_qp: wish(20, 1000),
        interval: wish(5, 2000),
        ceiling_kbps: wish(100, 500),
    };
    assert_eq!(Wishes::joined([coarse], (36, 26)), coarse);
    let expected = Wishes {
        background_qp: None,
        region_qp: wish(20, 1000),
        interval: None,
        ceiling_kbps: wish(100, 500),
    };
    assert_eq!(Wishes::joined([coarse, Wishes::default()], (36, 26)), expected);
    assert_eq!(Wishes::joined([], (36, 26)), Wishes::default());
}
