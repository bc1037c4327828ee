// SPDX-License-Identifier: MPL-2.0

//! Feedback packets have the documented layout, lose nothing except by quantising, and stay small.

mod common;

use common::{Random, random_region, state, widest_region};
use dds_protocol::feedback::{
    self, FeedbackError, FeedbackPart, FeedbackState, GRID, MAX_PACKET, MAX_PARTS, MAX_REGIONS, Motion, Quality, Rect,
    Region, TTL_UNIT_MS, decode, encode,
};
use dds_protocol::serial::Serial16;
use dds_protocol::wish::Wishes;
use proptest::prelude::*;

fn any_region() -> impl Strategy<Value = Region> {
    let quality = prop_oneof![Just(Quality::Camera), any::<u8>().prop_map(Quality::Qp)];
    let side = || prop_oneof![3 => 0u32..4096, 1 => 0u32..70_000, 1 => any::<u32>()];
    let motion = || prop_oneof![3 => -64i16..=64, 1 => any::<i16>()];
    let ttl = prop_oneof![0u32..3000, any::<u32>()];
    (
        side(),
        side(),
        side(),
        side(),
        quality,
        motion(),
        motion(),
        ttl,
        any::<u8>(),
    )
        .prop_map(|(x, y, width, height, quality, dx, dy, ttl_ms, frame_offset)| Region {
            rect: Rect { x, y, width, height },
            quality,
            motion: Motion { dx, dy },
            ttl_ms,
            frame_offset,
        })
}

/// Decodes all packets and joins their regions, checking the fields of each part.
fn decode_all(state: &FeedbackState, packets: &[Vec<u8>]) -> Vec<Region> {
    let mut regions = Vec::new();
    for (i, packet) in packets.iter().enumerate() {
        assert!(packet.len() <= MAX_PACKET, "{} bytes", packet.len());
        let part = decode(packet).expect("own packets are readable");
        let expected = FeedbackPart {
            stream_id: state.stream_id,
            generation: state.generation,
            frame: state.frame,
            part: i as u8,
            parts: packets.len() as u8,
            regions: part.regions.clone(),
            wishes: Wishes::default(),
            skipped_extension: 0,
        };
        assert_eq!(part, expected);
        regions.extend(part.regions);
    }
    regions
}

proptest! {
    #[test]
    fn round_trip_gives_the_quantised_regions_in_order(
        stream_id: u32,
        generation: u16,
        frame: u64,
        regions in proptest::collection::vec(any_region(), 0..300),
    ) {
        let state = FeedbackState { stream_id, generation: Serial16(generation), frame, regions, ..FeedbackState::default() };
        let encoded = encode(&state);
        prop_assert_eq!(encoded.dropped_regions, state.regions.len().saturating_sub(MAX_REGIONS));
        let quantised: Vec<Region> = state.regions.iter().take(MAX_REGIONS).map(Region::quantised).collect();
        prop_assert_eq!(decode_all(&state, &encoded.packets), quantised);
    }

    #[test]
    fn quantising_twice_changes_nothing_more(region in any_region()) {
        let once = region.quantised();
        prop_assert_eq!(once.quantised(), once);
    }

    #[test]
    fn quantised_rectangles_cover_the_wanted_ones_and_at_most_a_grid_unit_more_on_each_side(
        x in 0u32..32_000, y in 0u32..32_000, width in 1u32..30_000, height in 1u32..30_000,
    ) {
        let region = Region { rect: Rect { x, y, width, height }, ..Region::default() };
        let q = region.quantised().rect;
        for (wanted, length, start, size) in [(x, width, q.x, q.width), (y, height, q.y, q.height)] {
            prop_assert_eq!((start % GRID, size % GRID), (0, 0));
            prop_assert!(start <= wanted && wanted - start < GRID);
            let excess = (start + size).checked_sub(wanted + length);
            prop_assert!(excess.is_some_and(|e| e < GRID));
        }
    }

    #[test]
    fn every_cut_of_a_valid_packet_is_refused(regions in proptest::collection::vec(any_region(), 0..40)) {
        let packet = &encode(&state(9, 70_000, regions)).packets[0];
        for end in 0..packet.len() {
            prop_assert_eq!(decode(&packet[..end]), Err(FeedbackError::Truncated), "cut at {}", end);
            // The same cut with a length field that declares it ends inside a field too.
            let mut cut = packet[..end].to_vec();
            if end >= 5 {
                cut[3..5].copy_from_slice(&(end as u16).to_be_bytes());
                prop_assert_eq!(decode(&cut), Err(FeedbackError::Truncated), "shortened to {}", end);
            }
        }
    }
}

#[test]
fn example_packet_of_the_readme_has_exactly_these_bytes() {
    let region = |x, y, width, height, quality, dx| Region {
        rect: Rect { x, y, width, height },
        quality,
        motion: Motion { dx, dy: 0 },
        ttl_ms: 1000,
        frame_offset: 0,
    };
    let state = FeedbackState {
        stream_id: 0x0102_0304,
        generation: Serial16(0xfffe),
        frame: 300,
        regions: vec![
            region(64, 32, 24, 48, Quality::Camera, -2),
            region(80, 32, 16, 64, Quality::Qp(26), 5),
        ],
        ..FeedbackState::default()
    };
    let bits: String = [
        "000000010",                 // two regions
        "0010 0100 1000 00 10",      // x: 8, 10 grid units
        "0000 0011 100",             // y: 4, 4
        "0001 0010 10 1 0",          // width: 3, 2
        "0010 0011 110 00 10",       // height: 6, 8
        "0101 0000 00000 11011",     // quality: camera, 26 + 1
        "0011 0111 1111101 000 111", // dx: -2 + 127, 5 + 127
        "0000 0111 1111111",         // dy: 0 + 127 twice
        "0000 0110 110010",          // time to live: 50 x 20 ms
        "0000 0000",                 // frame offset: 0
    ]
    .concat()
    .replace(' ', "");
    let table: Vec<u8> = bits
        .as_bytes()
        .chunks(8)
        .map(|byte| (0..8).fold(0, |b, i| b << 1 | u8::from(byte.get(i) == Some(&b'1'))))
        .collect();
    let mut expected = vec![0xdd, 0x53, 1, 0, 0, 1, 2, 3, 4, 0xff, 0xfe, 0x00, 0xac, 0x02];
    expected.extend(table);
    expected[4] = expected.len() as u8;
    assert_eq!(encode(&state).packets, [expected]);
}

#[test]
fn an_empty_list_is_one_packet_of_seventeen_bytes() {
    let encoded = encode(&state(1, 2_000_000, Vec::new()));
    assert_eq!(encoded.packets.len(), 1);
    assert_eq!(encoded.packets[0].len(), 17);
    assert_eq!(decode(&encoded.packets[0]).unwrap().regions, []);
}

#[test]
fn thirty_two_random_regions_of_a_1080p_frame_fit_in_250_bytes() {
    let mut random = Random(1);
    let mut largest = 0;
    let mut sum = 0;
    for round in 0..2000u64 {
        let regions = (0..32).map(|_| random_region(&mut random, 1920, 1080)).collect();
        // Nineteen hours of video at 30 frames per second lie below this frame number.
        let encoded = encode(&state(round as u16, 2_000_000 + round, regions));
        assert_eq!(encoded.packets.len(), 1);
        largest = largest.max(encoded.packets[0].len());
        sum += encoded.packets[0].len();
    }
    println!("32 random regions: mean {} bytes, largest {largest}", sum / 2000);
    assert!(largest <= 250, "{largest} bytes");
}

#[test]
fn thirty_two_realistic_regions_of_a_1080p_frame_fit_in_200_bytes() {
    let mut random = Random(2);
    let mut largest = 0;
    let mut sum = 0;
    for round in 0..2000u64 {
        let regions = (0..32).map(|_| {
            let mut region = random_region(&mut random, 1920, 1080);
            region.rect.width = 16 + random.below(180);
            region.rect.height = 16 + random.below(240);
            region.quality = Quality::Camera;
            region.motion = Motion {
                dx: random.between(-24, 24) as i16,
                dy: random.between(-8, 8) as i16,
            };
            region
        });
        let encoded = encode(&state(round as u16, 2_000_000 + round, regions.collect()));
        largest = largest.max(encoded.packets[0].len());
        sum += encoded.packets[0].len();
    }
    println!("32 realistic regions: mean {} bytes, largest {largest}", sum / 2000);
    assert!(largest <= 200, "{largest} bytes");
}

#[test]
fn more_than_256_regions_lose_the_last_ones_and_are_counted() {
    let mut random = Random(3);
    let regions: Vec<Region> = (0..300).map(|_| random_region(&mut random, 3840, 2160)).collect();
    let state = state(7, 1, regions);
    let encoded = encode(&state);
    assert_eq!(encoded.dropped_regions, 44);
    let kept: Vec<Region> = state.regions[..256].iter().map(Region::quantised).collect();
    assert_eq!(decode_all(&state, &encoded.packets), kept);
}

#[test]
fn the_largest_generation_needs_three_packets() {
    let regions = (0..256).map(|i| widest_region(i % 2 == 0)).collect();
    let encoded = encode(&state(7, u64::MAX, regions));
    assert_eq!(encoded.packets.len(), 3);
    assert!(encoded.packets.iter().all(|p| p.len() <= MAX_PACKET));
    assert!(usize::from(MAX_PARTS) >= encoded.packets.len());
}

#[test]
fn equal_regions_cost_no_bits_each() {
    let region = random_region(&mut Random(4), 1920, 1080);
    let one = encode(&state(1, 1, vec![region])).packets[0].len();
    assert_eq!(encode(&state(1, 1, vec![region; 256])).packets[0].len(), one);
}

#[test]
fn quantising_clamps_what_the_wire_cannot_hold() {
    let region = Region {
        rect: Rect {
            x: u32::MAX,
            y: 7,
            width: u32::MAX,
            height: 2,
        },
        quality: Quality::Qp(200),
        motion: Motion {
            dx: i16::MIN,
            dy: i16::MAX,
        },
        ttl_ms: 1001,
        frame_offset: 255,
    };
    assert_eq!(
        region.quantised(),
        Region {
            rect: Rect {
                x: 65528,
                y: 0,
                width: 65528,
                height: 16
            },
            quality: Quality::Qp(51),
            motion: Motion { dx: -127, dy: 127 },
            ttl_ms: 1020,
            frame_offset: 31,
        }
    );
    assert_eq!(
        Region {
            ttl_ms: u32::MAX,
            ..region
        }
        .quantised()
        .ttl_ms,
        feedback::MAX_TTL_MS
    );
    assert_eq!(Region { ttl_ms: 1, ..region }.quantised().ttl_ms, TTL_UNIT_MS);
    let empty = Region {
        rect: Rect {
            x: 13,
            y: 13,
            width: 0,
            height: 3,
        },
        ..region
    };
    assert_eq!(
        empty.quantised().rect,
        Rect {
            x: 8,
            y: 8,
            width: 0,
            height: 8
        }
    );
}

#[test]
fn an_extension_is_skipped_and_counted() {
    let mut random = Random(5);
    let regions: Vec<Region> = (0..5).map(|_| random_region(&mut random, 640, 480)).collect();
    let packet = encode(&state(1, 99, regions)).packets.remove(0);
    let known = decode(&packet).unwrap();
    for extension in [1, 2, 7, 500] {
        let mut longer = packet.clone();
        longer.resize(packet.len() + extension, 0xa5);
        let length = longer.len() as u16;
        longer[3..5].copy_from_slice(&length.to_be_bytes());
        let part = decode(&longer).unwrap();
        assert_eq!(
            part,
            FeedbackPart {
                skipped_extension: extension,
                ..known.clone()
            }
        );
    }
}

#[test]
fn other_magic_versions_and_lengths_are_named() {
    let packet = encode(&state(1, 99, vec![Region::default()])).packets.remove(0);
    let changed = |at: usize, value: u8| {
        let mut p = packet.clone();
        p[at] = value;
        decode(&p)
    };
    assert_eq!(changed(0, 0x80), Err(FeedbackError::NotFeedback));
    assert_eq!(changed(1, 0), Err(FeedbackError::NotFeedback));
    assert_eq!(changed(2, 2), Err(FeedbackError::UnknownVersion(2)));
    assert_eq!(changed(2, 0), Err(FeedbackError::UnknownVersion(0)));
    assert_eq!(changed(3, 0x40), Err(FeedbackError::TooLong(0x4000 + packet.len())));
    assert_eq!(changed(4, packet.len() as u8 + 1), Err(FeedbackError::Truncated));
    assert_eq!(
        changed(4, packet.len() as u8 - 1),
        Err(FeedbackError::InvalidField("length"))
    );
    assert_eq!(changed(11, 0x10), Err(FeedbackError::InvalidField("part")));
    // Of an unknown version only the first five bytes are read.
    assert_eq!(decode(&[0xdd, 0x53, 9]), Err(FeedbackError::UnknownVersion(9)));
    assert_eq!(decode(&[0xdd; 1]), Err(FeedbackError::Truncated));
    assert_eq!(decode(&[]), Err(FeedbackError::Truncated));
    let mut long = packet.clone();
    long.resize(1201, 0);
    assert_eq!(decode(&long), Err(FeedbackError::TooLong(1201)));
}

/// A packet with the given bits as its region table.
fn with_table(bits: &[(u32, u32)]) -> Vec<u8> {
    let mut packet = vec![0xdd, 0x53, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 5];
    let mut used = 0;
    for &(value, count) in bits {
        for bit in (0..count).rev() {
            if used % 8 == 0 {
                packet.push(0);
            }
            *packet.last_mut().unwrap() |= (((value >> bit) & 1) as u8) << (7 - used % 8);
            used += 1;
        }
    }
    packet[4] = packet.len() as u8;
    packet
}

#[test]
fn values_out_of_range_name_their_column() {
    let names = [
        "x",
        "y",
        "width",
        "height",
        "quality",
        "dx",
        "dy",
        "time to live",
        "frame offset",
    ];
    let highest = [8191, 8191, 8191, 8191, 52, 254, 254, 32767, 31];
    for (column, name) in names.iter().enumerate() {
        for (excess, valid) in [(0, true), (1, false)] {
            let mut bits = vec![(1, 9)];
            for (other, &limit) in highest.iter().enumerate() {
                // The excess is a value on top of the base: the base alone cannot exceed 15 bits.
                let value = if other == column { excess } else { 0 };
                bits.extend([(1, 4), (15, 4), (limit, 15), (value, 1)]);
            }
            let result = decode(&with_table(&bits));
            if valid {
                assert!(result.is_ok(), "{name}: {result:?}");
            } else {
                assert_eq!(result, Err(FeedbackError::InvalidField(name)));
            }
        }
    }
}

#[test]
fn more_regions_than_allowed_and_used_spare_bits_are_refused() {
    assert_eq!(
        decode(&with_table(&[(257, 9), (0, 32)])),
        Err(FeedbackError::InvalidField("region count"))
    );
    assert_eq!(
        decode(&with_table(&[(0, 9), (1, 7)])),
        Err(FeedbackError::InvalidField("unused bits"))
    );
    assert!(decode(&with_table(&[(0, 9), (0, 7)])).is_ok());
}

#[test]
fn frame_numbers_have_one_encoding() {
    let with_frame = |frame: &[u8]| {
        let mut packet = vec![0xdd, 0x53, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0];
        packet.extend(frame);
        packet.extend([0, 0]);
        packet[4] = packet.len() as u8;
        decode(&packet).map(|part| part.frame)
    };
    let invalid = Err(FeedbackError::InvalidField("frame"));
    assert_eq!(with_frame(&[0]), Ok(0));
    assert_eq!(with_frame(&[0x80, 0]), invalid);
    assert_eq!(
        with_frame(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        Ok(u64::MAX)
    );
    assert_eq!(
        with_frame(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
        invalid
    );
    assert_eq!(with_frame(&[0xff; 11]), invalid);
}
