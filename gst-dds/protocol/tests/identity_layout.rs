// SPDX-License-Identifier: MPL-2.0

//! The frame identity has the documented layout and is found anywhere in an access unit.

mod common;

use common::{byte_stream, identity, length_prefixed};
use dds_protocol::identity::{FrameIdentity, IdentityError, PAYLOAD_BYTES, StreamKind, UUID};
use dds_protocol::nal::{self, Codec, Format};
use proptest::prelude::*;

fn any_identity() -> impl Strategy<Value = FrameIdentity> {
    let kind = prop_oneof![
        Just(StreamKind::Single),
        Just(StreamKind::Low),
        Just(StreamKind::Refine)
    ];
    // Small numbers contain zero bytes, which emulation prevention has to escape.
    let number = || prop_oneof![Just(0), 0u64..1000, any::<u64>()];
    (
        kind,
        any::<u32>(),
        number(),
        number(),
        number(),
        any::<bool>(),
        any::<u16>(),
        number(),
        any::<u32>(),
    )
        .prop_map(
            |(kind, stream_id, frame, capture_time_ns, access_unit, recovery, slices, slice_bytes, slice_checksum)| {
                FrameIdentity {
                    kind,
                    stream_id,
                    frame,
                    capture_time_ns,
                    access_unit: access_unit as u32,
                    recovery,
                    slices,
                    slice_bytes: slice_bytes as u32,
                    slice_checksum,
                }
            },
        )
}

/// SEI NAL unit of several messages.
fn sei(messages: &[(u8, &[u8])]) -> Vec<u8> {
    let mut rbsp = Vec::new();
    for (payload_type, payload) in messages {
        rbsp.push(*payload_type);
        rbsp.extend(std::iter::repeat_n(0xff, payload.len() / 255));
        rbsp.push((payload.len() % 255) as u8);
        rbsp.extend(*payload);
    }
    rbsp.push(0x80);
    let mut out = vec![0x06];
    nal::push_escaped(&mut out, &rbsp);
    out
}

proptest! {
    #[test]
    fn round_trip_through_payload_and_nal_unit(identity in any_identity()) {
        prop_assert_eq!(FrameIdentity::from_payload(&identity.to_payload()), Ok(identity));
        for codec in [Codec::H264, Codec::H265] {
            let nal = identity.to_nal(codec);
            for (unit, format) in [
                (byte_stream(&[&nal]), Format::ByteStream),
                (length_prefixed(&[&nal], 1), Format::LengthPrefixed(1)),
                (length_prefixed(&[&nal], 2), Format::LengthPrefixed(2)),
                (length_prefixed(&[&nal], 4), Format::LengthPrefixed(4)),
            ] {
                prop_assert_eq!(codec.summarize(&unit, format).identity, Some(Ok(identity)));
            }
        }
    }

    #[test]
    fn the_nal_unit_holds_no_start_code_and_does_not_end_in_zero(identity in any_identity()) {
        let nal = identity.to_nal(Codec::H264);
        prop_assert!(nal.windows(3).all(|w| !(w[0] == 0 && w[1] == 0 && w[2] <= 2)));
        prop_assert_ne!(nal.last(), Some(&0));
    }

    #[test]
    fn every_cut_of_the_payload_is_refused(identity in any_identity()) {
        let payload = identity.to_payload();
        for end in 0..payload.len() {
            let expected = if end < UUID.len() {
                IdentityError::NotOurs
            } else {
                IdentityError::TooShort { needed: PAYLOAD_BYTES, got: end }
            };
            prop_assert_eq!(FrameIdentity::from_payload(&payload[..end]), Err(expected));
        }
    }
}

#[test]
fn payload_has_exactly_the_bytes_of_the_readme() {
    let mut expected = UUID.to_vec();
    expected.extend([1, 0x10]);
    expected.extend([0xca, 0xfe, 0xf0, 0x0d]);
    expected.extend([0, 0, 0, 0, 0, 0, 1, 2]);
    expected.extend([0x17, 0x97, 0x9c, 0xfe, 0x3d, 0x85, 0xcd, 0x15]);
    expected.extend([0, 0, 1, 1]);
    expected.extend([0, 4]);
    expected.extend([0, 1, 0x11, 0x70]);
    expected.extend([0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(identity().to_payload(), expected);
    assert_eq!(expected.len(), PAYLOAD_BYTES);
}

#[test]
fn nal_unit_begins_with_header_type_and_size() {
    assert_eq!(identity().to_nal(Codec::H264)[..3], [0x06, 5, 52]);
    assert_eq!(identity().to_nal(Codec::H265)[..4], [0x4e, 0x01, 5, 52]);
    assert_eq!(identity().to_nal(Codec::H264).last(), Some(&0x80));
}

#[test]
fn unknown_versions_kinds_and_uuids_are_named_and_unknown_flags_and_extensions_skipped() {
    let payload = identity().to_payload();
    let changed = |at: usize, value: u8| {
        let mut p = payload.clone();
        p[at] = value;
        FrameIdentity::from_payload(&p)
    };
    assert_eq!(changed(0, 0), Err(IdentityError::NotOurs));
    assert_eq!(changed(16, 2), Err(IdentityError::UnknownVersion(2)));
    assert_eq!(changed(17, 0x13), Err(IdentityError::InvalidField("stream kind")));
    assert_eq!(changed(17, 0xf0), Ok(identity()));
    let mut longer = payload.clone();
    longer.extend([1, 2, 3]);
    assert_eq!(FrameIdentity::from_payload(&longer), Ok(identity()));
    assert_eq!(
        FrameIdentity::from_payload(&payload[..17]),
        Err(IdentityError::TooShort { needed: 52, got: 17 })
    );
}

#[test]
fn identity_is_found_among_several_messages_of_one_nal_unit() {
    let ours = identity().to_payload();
    let long = [7; 700];
    let theirs = [0xdc; 255];
    let nal = sei(&[(1, &[0, 0, 0]), (5, &theirs), (4, &long), (5, &ours), (5, &[1, 2])]);
    assert_eq!(
        Codec::H264
            .summarize(&byte_stream(&[&nal]), Format::ByteStream)
            .identity,
        Some(Ok(identity()))
    );
}

#[test]
fn identity_is_found_in_any_of_several_sei_nal_units_before_or_after_slices() {
    let version = sei(&[(5, &[0xdc; 610])]);
    let ours = identity().to_nal(Codec::H264);
    let timing = sei(&[(1, &[0, 0])]);
    let slice = [0x65, 1, 2, 3];
    for order in [
        [&version[..], &ours, &slice, &timing],
        [&timing, &version, &slice, &ours],
    ] {
        let unit = byte_stream(&order);
        assert_eq!(
            Codec::H264.summarize(&unit, Format::ByteStream).identity,
            Some(Ok(identity()))
        );
        let unit = length_prefixed(&order, 2);
        assert_eq!(
            Codec::H264.summarize(&unit, Format::LengthPrefixed(2)).identity,
            Some(Ok(identity()))
        );
    }
}

#[test]
fn an_extension_beyond_254_bytes_is_found_and_skipped() {
    for extension in [206, 207, 208, 462, 1000] {
        let mut payload = identity().to_payload();
        payload.extend(std::iter::repeat_n(0, extension));
        let nal = Codec::H264.sei_nal(5, &payload);
        assert_eq!(
            Codec::H264
                .summarize(&byte_stream(&[&nal]), Format::ByteStream)
                .identity,
            Some(Ok(identity()))
        );
    }
}

#[test]
fn our_uuid_with_an_unreadable_rest_is_reported_and_a_readable_one_wins() {
    let mut newer = identity().to_payload();
    newer[16] = 7;
    let newer = Codec::H264.sei_nal(5, &newer);
    let ours = identity().to_nal(Codec::H264);
    let unreadable = Codec::H264
        .summarize(&byte_stream(&[&newer]), Format::ByteStream)
        .identity;
    assert_eq!(unreadable, Some(Err(IdentityError::UnknownVersion(7))));
    for order in [[&newer[..], &ours], [&ours, &newer]] {
        assert_eq!(
            Codec::H264.summarize(&byte_stream(&order), Format::ByteStream).identity,
            Some(Ok(identity()))
        );
    }
    let foreign = Codec::H264.sei_nal(5, &[0xdc; 610]);
    assert_eq!(
        Codec::H264
            .summarize(&byte_stream(&[&foreign]), Format::ByteStream)
            .identity,
        None
    );
}

#[test]
fn a_message_cut_off_inside_the_access_unit_is_reported_not_invented() {
    let nal = identity().to_nal(Codec::H264);
    for end in 19..nal.len() - 3 {
        let unit = byte_stream(&[&nal[..end]]);
        let found = Codec::H264.summarize(&unit, Format::ByteStream).identity;
        assert!(
            matches!(found, Some(Err(IdentityError::TooShort { .. }))),
            "cut at {end}: {found:?}"
        );
    }
}
