// SPDX-License-Identifier: MPL-2.0

//! Any byte string gives a value or a typed error: no panic, no overflow, and nothing larger than the input allows.

mod common;

use common::{Random, identity, random_region, state};
use dds_protocol::assembler::{Assembler, Outcome};
use dds_protocol::feedback::{self, FeedbackError, MAX_PACKET, MAX_PARTS, MAX_REGIONS};
use dds_protocol::identity::{FrameIdentity, PAYLOAD_BYTES, UUID};
use dds_protocol::nal::{self, Codec, Format};
use dds_protocol::rtcp;

const FORMATS: [Format; 5] = [
    Format::ByteStream,
    Format::LengthPrefixed(1),
    Format::LengthPrefixed(2),
    Format::LengthPrefixed(3),
    Format::LengthPrefixed(4),
];

fn check_feedback(data: &[u8], assembler: &mut Assembler) {
    let decoded = feedback::decode(data);
    if let Ok(part) = &decoded {
        assert!(data.len() <= MAX_PACKET && part.regions.len() <= MAX_REGIONS);
        assert!(part.part < part.parts && part.parts <= MAX_PARTS);
        assert!(part.skipped_extension < data.len());
        assert!(part.regions.iter().all(|r| r.quantised() == *r));
    }
    match (feedback::addressee(data), &decoded) {
        (Ok(stream), Ok(part)) => assert_eq!(stream, part.stream_id),
        (Err(error), decoded) => assert_eq!(decoded.as_ref().err(), Some(&error)),
        // Faults that its header does not show.
        (Ok(_), Err(_)) => (),
    }
    let outcome = assembler.push(data);
    if let Err(error) = decoded {
        assert_eq!(outcome, Outcome::Malformed(error));
    }
    let stripped = rtcp::strip_app_data(data);
    assert!(data.starts_with(stripped));
}

fn check_rtcp(data: &[u8]) {
    if let Ok(found) = rtcp::feedback_in(data) {
        assert!(found.len() <= data.len() / 12);
        assert!(found.iter().map(|(_, packet)| packet.len() + 12).sum::<usize>() <= data.len());
    }
    rtcp::is_rtcp(data);
}

fn check_nal(data: &[u8], format: Format) {
    let total: usize = nal::nal_units(data, format)
        .inspect(|n| assert!(!n.is_empty()))
        .map(<[u8]>::len)
        .sum();
    assert!(total <= data.len());
    let summary = Codec::H264.summarize(data, format);
    assert_eq!(summary.slices, Codec::H264.count_slices(data, format));
    assert!(summary.slices.bytes as usize <= total);
}

fn check_sei(data: &[u8]) {
    let rbsp = nal::unescape(data);
    assert!(rbsp.len() <= data.len());
    let total: usize = nal::sei_messages(&rbsp).map(|m| m.payload.len() + 2).sum();
    assert!(total <= rbsp.len());
}

#[test]
fn every_length_up_to_1500_with_every_first_byte() {
    let mut random = Random(7);
    let mut noise = vec![0; 4096];
    random.fill(&mut noise);
    let mut assembler = Assembler::new(1);
    let mut data = Vec::with_capacity(1500);
    for length in 0..=1500usize {
        for first in 0..=255u8 {
            let start = random.below(2000) as usize;
            data.clear();
            data.extend_from_slice(&noise[start..start + length]);
            if let Some(byte) = data.first_mut() {
                *byte = first;
            }
            check_feedback(&data, &mut assembler);
            check_rtcp(&data);
            let _ = FrameIdentity::from_payload(&data);
            // These read every byte: one format in turn keeps the sweep short.
            if first % 16 == (length % 16) as u8 {
                check_nal(&data, FORMATS[(length + usize::from(first) / 16) % FORMATS.len()]);
                check_sei(&data);
            }
        }
    }
}

#[test]
fn every_length_up_to_1500_behind_a_valid_beginning() {
    let mut random = Random(8);
    let mut assembler = Assembler::new(0);
    let mut readable = 0;
    for length in 0..=1500usize {
        for round in 0..6 {
            let mut data = vec![0; length];
            random.fill(&mut data);
            // Sparse noise keeps counts and widths small, so that many tables are readable.
            if round >= 3 {
                for byte in data.iter_mut().filter(|b| **b > 24) {
                    *byte = 0;
                }
            }
            let header = [0xdd, 0x53, 1, (length >> 8) as u8, length as u8, 0, 0, 0, 0];
            let known = header.len().min(length);
            data[..known].copy_from_slice(&header[..known]);
            readable += usize::from(feedback::decode(&data).is_ok());
            check_feedback(&data, &mut assembler);

            let mut payload = UUID.to_vec();
            payload.push(1);
            payload.extend(&data);
            if let Ok(identity) = FrameIdentity::from_payload(&payload) {
                assert_eq!(identity.to_payload()[18..], payload[18..PAYLOAD_BYTES]);
            }

            let mut compound = vec![0x80, 201, 0, 1, 0, 0, 0, 0];
            compound.extend(&data);
            if let Some(byte) = compound.get_mut(8) {
                *byte = 0x80 | (*byte & 0x3f);
            }
            check_rtcp(&compound);
        }
    }
    assert!(
        readable > 500,
        "only {readable} of the packets reached the region table's end"
    );
}

#[test]
fn random_changes_to_valid_data_are_survived() {
    let mut random = Random(9);
    let regions = (0..12).map(|_| random_region(&mut random, 1920, 1080)).collect();
    let packet = feedback::encode(&state(1, 5, regions)).packets.remove(0);
    let compound = rtcp::compound(5, &packet);
    let ours = identity().to_nal(Codec::H264);
    let slice: Vec<u8> = (0..200).map(|i| if i == 0 { 0x65 } else { (i * 7) as u8 }).collect();
    let units = [
        common::byte_stream(&[&ours, &slice, &ours, &slice]),
        common::length_prefixed(&[&ours, &slice, &ours, &slice], 4),
        common::length_prefixed(&[&ours, &slice, &ours, &slice], 1),
    ];
    let formats = [Format::ByteStream, Format::LengthPrefixed(4), Format::LengthPrefixed(1)];
    let mut assembler = Assembler::new(0x1234_5678);
    for _ in 0..20_000 {
        let mutate = |data: &[u8], random: &mut Random| {
            let mut data = data.to_vec();
            for _ in 0..1 + random.below(4) {
                let at = random.below(data.len() as u32) as usize;
                match random.below(4) {
                    0 => data[at] = random.next() as u8,
                    1 => data[at] ^= 1 << random.below(8),
                    2 => data.truncate(at.max(1)),
                    _ => data.insert(at, random.next() as u8),
                }
            }
            data
        };
        check_feedback(&mutate(&packet, &mut random), &mut assembler);
        check_rtcp(&mutate(&compound, &mut random));
        let which = random.below(3) as usize;
        check_nal(&mutate(&units[which], &mut random), formats[which]);
        check_sei(&mutate(&ours, &mut random));
    }
}

#[test]
fn a_long_packet_is_refused_before_it_is_read() {
    let mut data = vec![0xdd, 0x53, 1, 0xff, 0xff];
    data.resize(10_000_000, 0xff);
    assert_eq!(feedback::decode(&data), Err(FeedbackError::TooLong(10_000_000)));
}
