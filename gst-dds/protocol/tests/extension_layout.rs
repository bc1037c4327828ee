// SPDX-License-Identifier: MPL-2.0

//! Records after the frame identity: a round trip keeps them, on the grid; damage is named, and nothing panics.

mod common;

use common::identity;
use dds_protocol::extension::{Bound, Bounds, Extension, InForce, MAX_REFUSED, REFINED_GRID, Segment};
use dds_protocol::feedback::{MAX_REGIONS, Rect};
use dds_protocol::identity::{FrameIdentity, IdentityError};
use dds_protocol::nal::{Codec, Format, unescape};
use proptest::prelude::*;

/// The payload of an identity NAL unit.
fn payload(nal: &[u8]) -> Vec<u8> {
    let rbsp = unescape(&nal[1..]);
    let message = dds_protocol::nal::sei_messages(&rbsp).next().expect("a message");
    message.payload.to_vec()
}

fn on_grid(rect: &Rect) -> Rect {
    let axis = |start: u32, length: u32| {
        let first = start / REFINED_GRID * REFINED_GRID;
        (first, (start + length).next_multiple_of(REFINED_GRID) - first)
    };
    let (x, width) = axis(rect.x, rect.width);
    let (y, height) = axis(rect.y, rect.height);
    Rect { x, y, width, height }
}

prop_compose! {
    fn rects()(list in prop::collection::vec((0u32..3840, 0u32..2160, 1u32..600, 1u32..600), 0..40)) -> Vec<Rect> {
        list.into_iter().map(|(x, y, width, height)| Rect { x, y, width, height }).collect()
    }
}

prop_compose! {
    fn in_force()(
        quantizers in (0u8..=51, 0u8..=51),
        interval in 1u8..,
        ceiling_kbps: u32,
        bounds in prop::array::uniform3(0usize..BOUNDS.len()),
    ) -> InForce {
        InForce {
            background_qp: quantizers.0,
            region_qp: quantizers.1,
            interval,
            ceiling_kbps,
            bounds: Bounds {
                quantizer: BOUNDS[bounds[0]],
                interval: BOUNDS[bounds[1]],
                ceiling: BOUNDS[bounds[2]],
            },
        }
    }
}

/// By their number on the wire.
const BOUNDS: [Bound; 10] = [
    Bound::None,
    Bound::User,
    Bound::Cap,
    Bound::Bandwidth,
    Bound::Loss,
    Bound::Fallback,
    Bound::Viewer,
    Bound::Server,
    Bound::Mode,
    Bound::Other,
];

proptest! {
    #[test]
    fn records_survive_the_way_through_an_access_unit(
        full_size in prop::option::of((1u16.., 1u16..)),
        segment in prop::option::of((1u8..=32).prop_flat_map(|length| (0..length, Just(length)))),
        back in prop::collection::vec(0u64..60_000, 0..MAX_REFUSED),
        refined in rects(),
        in_force in prop::option::of(in_force()),
        repeated: bool,
    ) {
        let identity = FrameIdentity { frame: 100_000, ..identity() };
        let extension = Extension {
            full_size,
            segment: segment.map(|(position, length)| Segment { position, length }),
            refused: back.iter().map(|back| identity.frame - back).collect(),
            refined: refined.clone(),
            in_force,
            repeated,
        };
        let nal = identity.to_nal_with(Codec::H264, &extension);
        let mut unit = vec![0, 0, 0, 1];
        unit.extend(&nal);
        let summary = Codec::H264.summarize(&unit, Format::ByteStream);
        prop_assert_eq!(summary.identity, Some(Ok(identity)));
        let expected = Extension { refined: refined.iter().map(on_grid).collect(), ..extension };
        prop_assert_eq!(&summary.extension, &expected);
        // Quantised rectangles are written as they are.
        prop_assert_eq!(payload(&identity.to_nal_with(Codec::H264, &expected)), payload(&nal));
    }

    #[test]
    fn any_bytes_give_records_or_a_named_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut payload = identity().to_payload();
        payload.extend(&bytes);
        if let Ok(extension) = Extension::from_payload(&payload, identity().frame) {
            prop_assert!(extension.refined.len() <= MAX_REGIONS);
            prop_assert!(extension.refused.len() <= bytes.len() / 2);
            prop_assert!(extension.refused.iter().all(|refused| *refused <= identity().frame));
        }
        // The identity itself stays readable.
        prop_assert_eq!(FrameIdentity::from_payload(&payload), Ok(identity()));
    }
}

#[test]
fn an_identity_without_records_is_as_it_was() {
    assert!(Extension::default().is_empty());
    assert_eq!(
        identity().to_nal_with(Codec::H264, &Extension::default()),
        identity().to_nal(Codec::H264)
    );
    let nothing = Extension::from_payload(&identity().to_payload(), identity().frame);
    assert_eq!(nothing, Ok(Extension::default()));
}

#[test]
fn the_layout_is_as_written_down() {
    let identity = FrameIdentity {
        frame: 300,
        ..identity()
    };
    let extension = Extension {
        full_size: Some((1280, 720)),
        segment: Some(Segment {
            position: 3,
            length: 15,
        }),
        refused: vec![299, 40],
        ..Extension::default()
    };
    let extension = Extension {
        refined: vec![
            Rect {
                x: 64,
                y: 32,
                width: 32,
                height: 48,
            },
            Rect {
                x: 96,
                y: 32,
                width: 16,
                height: 64,
            },
        ],
        ..extension
    };
    let written = payload(&identity.to_nal_with(Codec::H264, &extension));
    // Two rectangles: x 4, 6 (base 4 in 3 bits, 2 bits each), y 2, 2, width 2, 1, height 3, 4.
    #[rustfmt::skip]
    let expected = [
        1, 4, 0x05, 0x00, 0x02, 0xd0,
        2, 2, 3, 15,
        3, 4, 0x00, 0x01, 0x01, 0x04,
        4, 7, 2, 0b0010_0011, 0b1000_0100, 0b0000_0101, 0b0000_1000, 0b1110_0001, 0b0010_1101,
    ];
    assert_eq!(written[52..], expected);
}

#[test]
fn what_is_in_force_is_as_written_down() {
    let bounds = Bounds {
        quantizer: Bound::User,
        interval: Bound::Viewer,
        ceiling: Bound::Other,
    };
    let extension = Extension {
        in_force: Some(InForce {
            background_qp: 40,
            region_qp: 28,
            interval: 3,
            ceiling_kbps: 300,
            bounds,
        }),
        repeated: true,
        ..Extension::default()
    };
    let written = payload(&identity().to_nal_with(Codec::H264, &extension));
    assert_eq!(written[52..], [5, 9, 40, 28, 3, 0, 0, 1, 0x2c, 0x16, 0xf0, 6, 0]);
    for (number, bound) in BOUNDS.iter().enumerate().take(9) {
        let mut payload = written.clone();
        payload[61] = (number as u8) << 4 | 9;
        let read = Extension::from_payload(&payload, 0).unwrap().in_force.unwrap().bounds;
        assert_eq!((read.quantizer, read.interval), (*bound, Bound::Other));
    }
}

#[test]
fn records_of_later_types_are_skipped_and_damaged_ones_named() {
    let read = |records: &[u8]| {
        let mut payload = identity().to_payload();
        payload.extend(records);
        Extension::from_payload(&payload, 10)
    };
    let known = read(&[200, 3, 1, 2, 3, 2, 2, 0, 15, 9, 0]).unwrap();
    assert_eq!(
        known.segment,
        Some(Segment {
            position: 0,
            length: 15
        })
    );
    for (records, field) in [
        (&[1u8][..], "extension record length"),
        (&[1, 4, 0, 0], "extension record length"),
        (&[1, 3, 0, 0, 0], "full size"),
        (&[2, 2, 15, 15], "segment"),
        (&[2, 2, 0, 33], "segment"),
        (&[3, 3, 0, 0, 0], "refused frames"),
        // Before the first frame.
        (&[3, 2, 0, 11], "refused frames"),
        (&[4, 0], "refined regions"),
        (&[4, 2, 200, 0xff], "refined regions"),
        (&[5, 8, 40, 28, 3, 0, 0, 1, 44, 0], "in force"),
        (&[5, 9, 52, 28, 3, 0, 0, 1, 44, 0, 0], "in force"),
        (&[5, 9, 40, 28, 0, 0, 0, 1, 44, 0, 0], "in force"),
        (&[6, 1, 0], "repeated"),
        // Bits after the table.
        (&[4, 5, 0, 0, 0, 0, 1], "refined regions"),
    ] {
        assert_eq!(read(records), Err(IdentityError::InvalidField(field)), "{records:?}");
    }
}

#[test]
fn what_does_not_fit_is_left_out() {
    let many = Extension {
        refused: (0..200)
            .map(|n| identity().frame.saturating_sub(n))
            .chain([u64::MAX])
            .collect(),
        refined: vec![
            Rect {
                x: 1600,
                y: 900,
                width: 200,
                height: 100
            };
            300
        ],
        ..Extension::default()
    };
    let nal = identity().to_nal_with(Codec::H264, &many);
    let read = Extension::from_payload(&payload(&nal), identity().frame).unwrap();
    assert_eq!(read.refused.len(), MAX_REFUSED.min(identity().frame as usize + 1));
    assert_eq!(read.refined.len(), MAX_REGIONS);
}

#[test]
fn thirty_two_objects_at_1080p_take_at_most_110_bytes() {
    let mut seed = 7u32;
    let mut random = |limit: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % limit
    };
    let mut most = 0;
    for _ in 0..500 {
        let refined = (0..32)
            .map(|_| Rect {
                x: random(1800),
                y: random(900),
                width: 16 + random(120),
                height: 16 + random(180),
            })
            .collect();
        let extension = Extension {
            refined,
            ..Extension::default()
        };
        most = most.max(payload(&identity().to_nal_with(Codec::H264, &extension)).len() - 52);
    }
    println!("32 refined rectangles at 1080p: at most {most} bytes");
    assert!(most <= 110, "{most}");
}
