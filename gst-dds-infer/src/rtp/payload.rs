// SPDX-License-Identifier: MPL-2.0

//! Finds the NAL units that begin in an RTP payload of H.264 (RFC 6184) or H.265 (RFC 7798), as far as needed to
//! detect key frames.

use dds_protocol::nal::{self, Codec, NalKind};

/// SEI payload type of a recovery point (ISO/IEC 14496-10 D.1.8, ISO/IEC 23008-2 D.2.8): the only point of random
/// access in streams with intra refresh.
const RECOVERY_POINT: u32 = 6;

/// A slice that begins in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The first one of its picture.
    pub first: bool,
    /// Decoding may start at its picture.
    pub key: bool,
}

/// What begins in one payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The first slice that begins here.
    pub slice: Option<Slice>,
    /// A delimiter, or the parameter set that precedes all others: nothing of its access unit comes before.
    pub opens: bool,
    /// Sequence or picture parameter sets.
    pub parameters: bool,
    /// A recovery point SEI message.
    pub recovery: bool,
    /// The rest of a NAL unit that began before.
    pub continues: bool,
}

impl Contents {
    /// Parses a payload; an unreadable one gives the default.
    pub fn of(codec: Codec, payload: &[u8]) -> Self {
        let mut contents = Self::default();
        let Some(kind) = codec.nal_type(payload) else {
            return contents;
        };
        let header = codec.header_bytes();
        match (codec, kind) {
            // STAP-A, AP.
            (Codec::H264, 24) | (Codec::H265, 48) => {
                let mut rest = payload.get(header..).unwrap_or_default();
                while let Some((&[high, low], behind)) = rest.split_first_chunk() {
                    let Some((unit, behind)) = behind.split_at_checked(usize::from(u16::from_be_bytes([high, low])))
                    else {
                        break;
                    };
                    contents.add(codec, unit, true);
                    rest = behind;
                }
            }
            // FU-A, FU: the type is in the FU header, the rest of the NAL unit's header in the payload's.
            (Codec::H264, 28) | (Codec::H265, 49) => match payload.get(header..) {
                Some([fragment, data @ ..]) if fragment & 0x80 != 0 => {
                    let mut unit = [0; 3];
                    match codec {
                        Codec::H264 => unit[0] = fragment & 0x1f,
                        Codec::H265 => unit[0] = (fragment & 0x3f) << 1,
                    }
                    unit[header] = data.first().copied().unwrap_or_default();
                    contents.add(codec, &unit[..=header], false);
                }
                _ => contents.continues = true,
            },
            // Interleaved packets, and reserved types.
            (Codec::H264, 0 | 25..) | (Codec::H265, 50..) => (),
            _ => contents.add(codec, payload, true),
        }
        contents
    }

    fn add(&mut self, codec: Codec, unit: &[u8], whole: bool) {
        let Some(nal_type) = codec.nal_type(unit) else { return };
        match codec.kind(nal_type) {
            NalKind::Slice { idr } => {
                // First bit of the slice header: `first_mb_in_slice` is 0, or `first_slice_segment_in_pic_flag`.
                let first = unit.get(codec.header_bytes()).is_some_and(|byte| byte & 0x80 != 0);
                // Decoding may start at CRA and BLA pictures as well.
                let key = idr || codec == Codec::H265 && matches!(nal_type, 16..=21);
                self.slice.get_or_insert(Slice { first, key });
            }
            NalKind::Delimiter => self.opens = true,
            NalKind::Parameters => {
                self.parameters = true;
                self.opens |= nal_type == first_parameter_set(codec);
            }
            NalKind::Sei if whole && self.slice.is_none() => self.recovery |= announces_recovery(codec, unit),
            NalKind::Sei | NalKind::Other => (),
        }
    }
}

/// Type of a sequence parameter set, and of a video parameter set.
fn first_parameter_set(codec: Codec) -> u8 {
    match codec {
        Codec::H264 => 7,
        Codec::H265 => 32,
    }
}

fn announces_recovery(codec: Codec, unit: &[u8]) -> bool {
    let rbsp = nal::unescape(unit.get(codec.header_bytes()..).unwrap_or_default());
    nal::sei_messages(&rbsp).any(|message| message.payload_type == RECOVERY_POINT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: Option<Slice> = Some(Slice { first: true, key: true });
    const INTER: Option<Slice> = Some(Slice {
        first: true,
        key: false,
    });
    const REST: Option<Slice> = Some(Slice {
        first: false,
        key: true,
    });

    fn slice_in(codec: Codec, payload: &[u8]) -> Option<Slice> {
        Contents::of(codec, payload).slice
    }

    #[test]
    fn slices_are_found_in_every_packet_that_can_begin_one() {
        for (codec, payload, slice) in [
            (Codec::H264, &[0x65u8, 0x88][..], KEY),
            (Codec::H264, &[0x41, 0x9a], INTER),
            (Codec::H264, &[0x65, 0x10], REST),
            // STAP-A of SPS, PPS, slice.
            (Codec::H264, &[0x78, 0, 2, 0x67, 1, 0, 1, 0x68, 0, 2, 0x65, 0x88], KEY),
            // FU-A: start, middle, end.
            (Codec::H264, &[0x7c, 0x85, 0x88], KEY),
            (Codec::H264, &[0x7c, 0x81, 0x9a], INTER),
            (Codec::H264, &[0x7c, 0x05, 0x88], None),
            (Codec::H264, &[0x7c, 0x45, 0x88], None),
            (Codec::H265, &[19 << 1, 1, 0x80], KEY),
            (Codec::H265, &[21 << 1, 1, 0x80], KEY),
            (Codec::H265, &[1 << 1, 1, 0x80], INTER),
            (Codec::H265, &[20 << 1, 1, 0x00], REST),
            (
                Codec::H265,
                &[48 << 1, 1, 0, 2, 32 << 1, 1, 0, 3, 19 << 1, 1, 0x80],
                KEY,
            ),
            (Codec::H265, &[49 << 1, 1, 0x80 | 19, 0x80], KEY),
            (Codec::H265, &[49 << 1, 1, 0x40 | 19, 0x80], None),
            // Truncated, reserved, interleaved.
            (Codec::H264, &[], None),
            (Codec::H264, &[0x78, 0, 9, 0x65, 0x88], None),
            (Codec::H264, &[0x7c], None),
            (Codec::H264, &[0x79, 0, 0, 0, 2, 0x65, 0x88], None),
            (Codec::H265, &[49 << 1, 1], None),
        ] {
            assert_eq!(slice_in(codec, payload), slice, "{codec:?} {payload:x?}");
        }
    }

    #[test]
    fn what_opens_an_access_unit_and_announces_a_recovery_is_reported() {
        let parameters = Contents::of(Codec::H264, &[0x67, 0x42]);
        assert!(parameters.opens && parameters.parameters);
        let delimiter = Contents::of(Codec::H264, &[0x09, 0x10]);
        assert!(delimiter.opens && !delimiter.parameters);
        // The one before it may be lost.
        for (codec, payload) in [
            (Codec::H264, &[0x68u8, 0xce][..]),
            (Codec::H265, &[48 << 1, 1, 0, 2, 33 << 1, 1]),
        ] {
            let contents = Contents::of(codec, payload);
            assert!(contents.parameters && !contents.opens);
        }
        assert!(Contents::of(Codec::H264, &[0x7c, 0x05, 1]).continues);
        for codec in [Codec::H264, Codec::H265] {
            assert!(Contents::of(codec, &codec.sei_nal(RECOVERY_POINT, &[0x84])).recovery);
            assert!(!Contents::of(codec, &codec.sei_nal(5, &[6; 20])).recovery);
        }
    }

    proptest! {
        #[test]
        fn any_payload_is_looked_into(
            payload in proptest::collection::vec(any::<u8>(), 0..60),
            kind in prop_oneof![Just(24u8), Just(28), Just(48 << 1), Just(49 << 1), any::<u8>()],
        ) {
            for codec in [Codec::H264, Codec::H265] {
                let mut payload = payload.clone();
                if let Some(first) = payload.first_mut() {
                    *first = kind;
                }
                let _ = Contents::of(codec, &payload);
            }
        }
    }
}
