// SPDX-License-Identifier: MPL-2.0

//! Feedback is recovered from whatever RTCP compound carries it.

mod common;

use common::{Random, random_region, state};
use dds_protocol::feedback::{MAGIC, decode, encode};
use dds_protocol::rtcp::{
    APP_NAME, MAX_APP_DATA, RtcpError, app_packet, compound, feedback_in, is_rtcp, strip_app_data,
};
use proptest::prelude::*;

const SSRC: u32 = 0xa1b2_c3d4;

fn packet(regions: u32) -> Vec<u8> {
    let mut random = Random(u64::from(regions));
    let regions = (0..regions).map(|_| random_region(&mut random, 1280, 720)).collect();
    encode(&state(3, 40, regions)).packets.remove(0)
}

fn sender_report() -> Vec<u8> {
    let mut out = vec![0x80, 200, 0, 6];
    out.extend([0x11; 24]);
    out
}

fn source_description() -> Vec<u8> {
    vec![0x81, 202, 0, 2, 1, 2, 3, 4, 1, 1, b'c', 0]
}

/// Adds RTCP padding of `count` bytes to the packet that makes up the whole of `packet`.
fn padded(mut packet: Vec<u8>, count: usize) -> Vec<u8> {
    packet[0] |= 0x20;
    packet.resize(packet.len() + count - 1, 0);
    packet.push(count as u8);
    let words = (packet.len() / 4 - 1) as u16;
    packet[2..4].copy_from_slice(&words.to_be_bytes());
    packet
}

proptest! {
    #[test]
    fn any_feedback_packet_round_trips_alone_and_in_a_compound(ssrc: u32, regions in 0u32..40) {
        let packet = packet(regions);
        for bytes in [app_packet(ssrc, &packet), compound(ssrc, &packet)] {
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert_eq!(feedback_in(&bytes), Ok(vec![(ssrc, &packet[..])]));
        }
    }

    #[test]
    fn every_cut_of_a_compound_is_refused(regions in 0u32..40) {
        let bytes = compound(SSRC, &packet(regions));
        for end in 0..bytes.len() {
            // After the receiver report the compound is whole, and holds no feedback.
            let expected = if end == 8 { Ok(vec![]) } else { Err(RtcpError::Truncated) };
            prop_assert_eq!(feedback_in(&bytes[..end]), expected, "cut at {}", end);
        }
    }
}

#[test]
fn app_packet_has_the_layout_of_rfc_3550() {
    assert_eq!(
        app_packet(SSRC, &[1, 2, 3, 4, 5]),
        [
            0x80, 204, 0, 4, 0xa1, 0xb2, 0xc3, 0xd4, b'D', b'D', b'S', b'1', 1, 2, 3, 4, 5, 0, 0, 0
        ]
    );
    assert_eq!(
        compound(SSRC, &[9; 4])[..12],
        [0x80, 201, 0, 1, 0xa1, 0xb2, 0xc3, 0xd4, 0x80, 204, 0, 3]
    );
    assert_eq!(app_packet(SSRC, &vec![7; MAX_APP_DATA]).len(), 65536 * 4);
    assert_eq!(app_packet(SSRC, &vec![7; MAX_APP_DATA + 1]), []);
    assert_eq!(compound(SSRC, &vec![7; MAX_APP_DATA + 1]), []);
}

#[test]
fn feedback_is_found_behind_sender_reports_descriptions_and_other_apps() {
    let (a, b) = (packet(3), packet(8));
    let mut other_name = app_packet(SSRC, &a);
    other_name[8..12].copy_from_slice(b"XXXX");
    let mut other_subtype = app_packet(SSRC, &a);
    other_subtype[0] |= 1;
    let bytes = [
        sender_report(),
        source_description(),
        other_name,
        app_packet(1, &a),
        other_subtype,
        app_packet(2, &b),
    ]
    .concat();
    assert_eq!(feedback_in(&bytes), Ok(vec![(1, &a[..]), (2, &b[..])]));
    assert_eq!(
        feedback_in(&[sender_report(), source_description()].concat()),
        Ok(vec![])
    );
    assert_eq!(APP_NAME, *b"DDS1");
}

#[test]
fn padding_is_allowed_on_the_last_packet_only_and_must_fit() {
    let feedback = packet(4);
    let app = app_packet(SSRC, &feedback);
    for count in [4, 8, 252] {
        let bytes = [sender_report(), padded(app.clone(), count)].concat();
        assert_eq!(feedback_in(&bytes), Ok(vec![(SSRC, &feedback[..])]));
    }
    let early = [padded(sender_report(), 4), app.clone()].concat();
    assert_eq!(feedback_in(&early), Err(RtcpError::InvalidPadding));
    for count in [0, 1, 3, 255] {
        let mut bytes = padded(app.clone(), 4);
        *bytes.last_mut().unwrap() = count;
        assert_eq!(feedback_in(&bytes), Err(RtcpError::InvalidPadding), "count {count}");
    }
    let mut whole = vec![0xa0, 201, 0, 1, 0, 0, 0, 8];
    assert_eq!(feedback_in(&whole), Err(RtcpError::InvalidPadding));
    whole[7] = 4;
    assert_eq!(feedback_in(&whole), Ok(vec![]));
}

#[test]
fn zero_padding_is_told_apart_from_an_extension() {
    let mut extended = packet(2);
    extended.extend([0, 0, 0]);
    let length = extended.len() as u16;
    extended[3..5].copy_from_slice(&length.to_be_bytes());
    for zeros in 0..4 {
        let mut data = extended.clone();
        data.resize(extended.len() + zeros, 0);
        assert_eq!(strip_app_data(&data), extended);
        assert_eq!(decode(strip_app_data(&data)).map(|part| part.skipped_extension), Ok(3));
    }
    for data in [&b""[..], b"abc", &MAGIC, &extended[..20]] {
        assert_eq!(strip_app_data(data), data);
    }
}

#[test]
fn other_bytes_are_named() {
    assert_eq!(feedback_in(&[]), Err(RtcpError::Truncated));
    assert_eq!(feedback_in(&packet(1)), Err(RtcpError::NotRtcp));
    let mut second_broken = compound(SSRC, &packet(1));
    second_broken[8] = 0x40;
    assert_eq!(feedback_in(&second_broken), Err(RtcpError::NotRtcp));
}

#[test]
fn bare_feedback_and_rtcp_are_told_apart_by_their_first_bytes() {
    assert!(!is_rtcp(&packet(1)));
    assert!(is_rtcp(&compound(SSRC, &packet(1))));
    assert!(is_rtcp(&app_packet(SSRC, &packet(1))));
    assert!(!is_rtcp(&[0x80, 96]));
    assert!(!is_rtcp(&[0x80]));
}
