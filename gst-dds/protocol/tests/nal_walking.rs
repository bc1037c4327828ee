// SPDX-License-Identifier: MPL-2.0

//! NAL units are found as the standard separates them, and slices counted alike in every format.

mod common;

use common::{byte_stream, identity, length_prefixed};
use dds_protocol::identity::FrameIdentity;
use dds_protocol::nal::{Codec, Format, NalKind, SliceCount, nal_units, push_escaped, sei_messages, unescape};
use proptest::prelude::*;

/// A NAL unit as an encoder writes it: escaped, not ending in zero.
fn any_nal() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => 0u8..=3, 1 => any::<u8>()];
    (1u8..=12, proptest::collection::vec(byte, 0..60)).prop_map(|(nal_type, mut payload)| {
        payload.push(0x80);
        let mut nal = vec![0x60 | nal_type];
        push_escaped(&mut nal, &payload);
        nal
    })
}

/// FNV-1a as its authors publish it, on 64-bit numbers.
fn checksum(bytes: impl IntoIterator<Item = u8>) -> u32 {
    let mut sum = 2_166_136_261u64;
    for byte in bytes {
        sum = ((sum ^ u64::from(byte)) * 16_777_619) & 0xffff_ffff;
    }
    sum as u32
}

#[test]
fn checksum_is_that_of_published_vectors_and_tells_equal_sizes_apart() {
    assert_eq!(checksum([]), 0x811c_9dc5);
    assert_eq!(checksum(*b"a"), 0xe40c_292c);
    assert_eq!(checksum(*b"foobar"), 0xbf9c_f968);
    let count = |slice: &[u8]| Codec::H264.count_slices(&[&[0, 0, 1], slice].concat(), Format::ByteStream);
    assert_ne!(count(&[0x41, 1, 2, 3]).checksum, count(&[0x41, 1, 3, 2]).checksum);
}

proptest! {
    #[test]
    fn unescaping_undoes_escaping_and_escaped_bytes_hold_no_start_code(
        payload in proptest::collection::vec(prop_oneof![3 => 0u8..=4, 1 => any::<u8>()], 0..300),
    ) {
        let mut escaped = vec![0xaa];
        push_escaped(&mut escaped, &payload);
        prop_assert!(escaped.windows(3).all(|w| !(w[0] == 0 && w[1] == 0 && w[2] <= 2)));
        prop_assert_eq!(unescape(&escaped[1..]), payload);
    }

    #[test]
    fn every_format_gives_the_same_nal_units_and_slices(nals in proptest::collection::vec(any_nal(), 0..12)) {
        let nals: Vec<&[u8]> = nals.iter().map(Vec::as_slice).collect();
        let slices: Vec<&&[u8]> = nals.iter().filter(|n| matches!(n[0] & 31, 1 | 5)).collect();
        let expected = SliceCount {
            slices: slices.len() as u16,
            bytes: slices.iter().map(|n| n.len() as u32).sum(),
            checksum: checksum(slices.iter().flat_map(|n| n.iter().copied())),
            idr: slices.iter().any(|n| n[0] & 31 == 5),
        };
        let mut padded = byte_stream(&nals);
        padded.extend([0; 5]);
        for (unit, format) in [
            (byte_stream(&nals), Format::ByteStream),
            (padded, Format::ByteStream),
            (length_prefixed(&nals, 1), Format::LengthPrefixed(1)),
            (length_prefixed(&nals, 2), Format::LengthPrefixed(2)),
            (length_prefixed(&nals, 4), Format::LengthPrefixed(4)),
        ] {
            prop_assert_eq!(nal_units(&unit, format).collect::<Vec<_>>(), nals.clone());
            prop_assert_eq!(Codec::H264.count_slices(&unit, format), expected);
            prop_assert_eq!(Codec::H264.summarize(&unit, format).slices, expected);
        }
    }
}

#[test]
fn start_codes_of_three_and_four_bytes_and_zeros_between_are_separators() {
    let unit = [
        0, 0, 0, 0, 0, 1, 0x09, 0x10, 0, 0, 0, 0, 1, 0x65, 0x88, 0, 0, 1, 0x41, 0x9a, 0, 0, 0,
    ];
    let found: Vec<&[u8]> = nal_units(&unit, Format::ByteStream).collect();
    assert_eq!(found, [&[0x09, 0x10][..], &[0x65, 0x88], &[0x41, 0x9a]]);
    assert_eq!(
        Codec::H264.count_slices(&unit, Format::ByteStream),
        SliceCount {
            slices: 2,
            bytes: 4,
            checksum: checksum([0x65, 0x88, 0x41, 0x9a]),
            idr: true
        }
    );
}

#[test]
fn bytes_before_the_first_start_code_and_empty_nal_units_are_no_nal_units() {
    let unit = [0x65, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0x41, 7];
    let found: Vec<&[u8]> = nal_units(&unit, Format::ByteStream).collect();
    assert_eq!(found, [[0x41, 7]]);
    assert_eq!(nal_units(&[0x65, 1, 2, 3], Format::ByteStream).count(), 0);
    let unit = [0, 0, 0, 2, 0x41, 7];
    let found: Vec<&[u8]> = nal_units(&unit, Format::LengthPrefixed(2)).collect();
    assert_eq!(found, [[0x41, 7]]);
}

#[test]
fn a_length_that_runs_over_the_end_ends_the_walk() {
    let unit = [0, 0, 0, 2, 0x65, 1, 0, 0, 0, 9, 0x65, 1];
    let found: Vec<&[u8]> = nal_units(&unit, Format::LengthPrefixed(4)).collect();
    assert_eq!(found, [[0x65, 1]]);
    assert_eq!(nal_units(&[0xff; 4], Format::LengthPrefixed(4)).count(), 0);
    assert_eq!(nal_units(&[0, 0, 0], Format::LengthPrefixed(4)).count(), 0);
    assert_eq!(nal_units(&[1, 0x65], Format::LengthPrefixed(0)).count(), 0);
    assert_eq!(nal_units(&[0, 0, 0, 0, 1, 0x65], Format::LengthPrefixed(5)).count(), 0);
}

#[test]
fn trailing_zeros_inside_a_length_prefixed_slice_do_not_count() {
    let unit = [0, 5, 0x65, 1, 2, 0, 0];
    assert_eq!(
        Codec::H264.count_slices(&unit, Format::LengthPrefixed(2)),
        SliceCount {
            slices: 1,
            bytes: 3,
            checksum: checksum([0x65, 1, 2]),
            idr: true
        }
    );
}

#[test]
fn sei_sizes_around_255_round_trip() {
    for size in [0, 1, 254, 255, 256, 509, 510, 511, 1200] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 5) as u8).collect();
        let nal = Codec::H264.sei_nal(300, &payload);
        let rbsp = unescape(&nal[1..]);
        let found: Vec<_> = sei_messages(&rbsp).collect();
        assert_eq!(found.len(), 1, "size {size}");
        assert_eq!((found[0].payload_type, found[0].payload), (300, &payload[..]));
    }
}

#[test]
fn sei_without_trailing_bits_and_with_trailing_zeros_is_read() {
    let whole: Vec<_> = sei_messages(&[5, 2, 7, 8]).map(|m| m.payload.to_vec()).collect();
    assert_eq!(whole, [[7, 8]]);
    let zeros: Vec<_> = sei_messages(&[5, 2, 7, 8, 0x80, 0, 0])
        .map(|m| m.payload.to_vec())
        .collect();
    assert_eq!(zeros, [[7, 8]]);
    let cut: Vec<_> = sei_messages(&[5, 9, 7, 8]).map(|m| m.payload.to_vec()).collect();
    assert_eq!(cut, [[7, 8]]);
    assert_eq!(sei_messages(&[0xff; 50]).count(), 0);
}

#[test]
fn h265_nal_units_are_told_apart() {
    let nal = |kind: u8, first: u8| [kind << 1, 1, first, 0x80];
    let kind = |kind: u8| Codec::H265.kind(Codec::H265.nal_type(&nal(kind, 0)).unwrap());
    assert_eq!(kind(1), NalKind::Slice { idr: false });
    assert_eq!(kind(19), NalKind::Slice { idr: true });
    assert_eq!(kind(20), NalKind::Slice { idr: true });
    assert_eq!(kind(21), NalKind::Slice { idr: false }, "a CRA picture is none");
    assert_eq!([32, 33, 34].map(kind), [NalKind::Parameters; 3]);
    assert_eq!((kind(35), kind(39)), (NalKind::Delimiter, NalKind::Sei));
    assert_eq!(
        [22, 31, 40, 63].map(kind),
        [NalKind::Other; 4],
        "reserved, suffix SEI, unspecified"
    );

    let (first, second) = (nal(1, 0x80), nal(1, 0x40));
    let unit = byte_stream(&[&nal(35, 0x10), &nal(19, 0x80), &nal(20, 0)]);
    let count = Codec::H265.count_slices(&unit, Format::ByteStream);
    assert_eq!((count.slices, count.bytes, count.idr), (2, 8, true));
    for (unit, has_slices, begins) in [
        (nal(35, 0), false, true),
        (nal(39, 0), true, true),
        (nal(39, 0), false, false),
        (nal(32, 0), true, true),
        (first, true, true),
        (first, false, false),
        (second, true, false),
        (nal(40, 0), true, false),
    ] {
        assert_eq!(Codec::H265.begins_access_unit(&unit, has_slices), begins, "{unit:?}");
    }
    assert!(!Codec::H265.begins_access_unit(&[], true));
    assert_eq!(Codec::H265.nal_type(&[]), None);
}

#[test]
fn of_several_identities_the_one_whose_slices_are_there_counts() {
    for codec in [Codec::H264, Codec::H265] {
        let slice: &[u8] = match codec {
            Codec::H264 => &[0x65, 0x88, 1, 2, 3],
            Codec::H265 => &[19 << 1, 1, 0x80, 1, 2, 3],
        };
        let mut count = SliceCount::default();
        count.add(codec, slice);
        let named = |n: u64, right: bool| FrameIdentity {
            frame: n,
            slices: count.slices,
            slice_bytes: count.bytes,
            slice_checksum: count.checksum ^ u32::from(!right),
            ..identity()
        };
        let nal = |n, right| named(n, right).to_nal(codec);
        let found = |units: &[&[u8]]| {
            let summary = codec.summarize(&byte_stream(units), Format::ByteStream);
            assert_eq!((summary.slices.slices, summary.from_start), (1, true));
            summary.identity.map(|i| i.unwrap().frame)
        };
        assert_eq!(
            found(&[&nal(1, false), &nal(2, true), slice]),
            Some(2),
            "{codec:?}: in front"
        );
        assert_eq!(
            found(&[&nal(1, false), slice, &nal(2, true)]),
            Some(2),
            "{codec:?}: behind"
        );
        assert_eq!(
            found(&[&nal(1, false), slice, &nal(2, false)]),
            Some(1),
            "{codec:?}: neither"
        );
        // Both in one NAL unit, as written by a remuxer that merges messages.
        let mut rbsp = Vec::new();
        for message in [named(1, false), named(2, true)] {
            rbsp.extend([5, message.to_payload().len() as u8]);
            rbsp.extend(message.to_payload());
        }
        rbsp.push(0x80);
        let mut merged = nal(1, true)[..codec.header_bytes()].to_vec();
        push_escaped(&mut merged, &rbsp);
        assert_eq!(found(&[&merged, slice]), Some(2), "{codec:?}: in one");
    }
    // H.265 has a type of its own for SEI after the slices.
    let mut suffix = identity().to_nal(Codec::H265);
    suffix[0] = 40 << 1;
    assert_eq!(Codec::H265.identities_of(&suffix).len(), 1);
    assert!(Codec::H264.identities_of(&suffix).is_empty());
    assert!(Codec::H265.identities_of(&[40 << 1]).is_empty());
}
