// SPDX-License-Identifier: MPL-2.0

//! Detects from slice headers whether a picture follows the one before it.
//!
//! Decoders detect missing references by `frame_num` in H.264 (ISO/IEC 14496-10, 7.4.3) and by the picture order count
//! in H.265 (ISO/IEC 23008-2, 8.3.1). Both start at 0 with an IDR picture and rise by one per picture, if all pictures
//! are references and are shown in coding order, as in streams of our cameras.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use dds_protocol::nal::{Codec, unescape};
use dds_protocol::rbsp::{H264SequenceStart, RbspReader};

/// `nal_unit_type` of the parameter sets.
const H264_SPS: u8 = 7;
const H264_PPS: u8 = 8;
const H265_SPS: u8 = 33;
const H265_PPS: u8 = 34;
/// `seq_parameter_set_id` and `pic_parameter_set_id` are below these.
const SEQUENCE_SETS: u32 = 32;
const PICTURE_SETS: u32 = 256;

/// Fields of a sequence parameter set needed to parse a slice header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sequence {
    /// Bits of the picture number.
    bits: u32,
    separate_planes: bool,
}

/// Fields of a picture parameter set needed for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Picture {
    sequence: u32,
    output_flag: bool,
    extra_bits: u32,
}

/// Tracks picture numbers.
#[derive(Debug, Default)]
pub struct PictureOrder {
    sequences: BTreeMap<u32, Sequence>,
    pictures: BTreeMap<u32, Picture>,
    /// Number of the newest reference picture.
    newest: Option<u32>,
}

impl PictureOrder {
    /// Takes a parameter set (NAL unit without start code); others are ignored, as are unreadable ones.
    pub fn parameter_set(&mut self, codec: Codec, nal: &[u8]) {
        let Some(kind) = codec.nal_type(nal) else { return };
        let rbsp = unescape(nal.get(codec.header_bytes()..).unwrap_or_default());
        let mut bits = RbspReader::new(&rbsp);
        match (codec, kind) {
            (Codec::H264, H264_SPS) => {
                if let Some((id, set)) = h264_sequence(&mut bits).filter(|(id, _)| *id < SEQUENCE_SETS) {
                    self.sequences.insert(id, set);
                }
            }
            (Codec::H265, H265_SPS) => {
                if let Some((id, set)) = h265_sequence(&mut bits).filter(|(id, _)| *id < SEQUENCE_SETS) {
                    self.sequences.insert(id, set);
                }
            }
            (Codec::H264, H264_PPS) | (Codec::H265, H265_PPS) => {
                if let Some((id, set)) = picture(&mut bits, codec).filter(|(id, _)| *id < PICTURE_SETS) {
                    self.pictures.insert(id, set);
                }
            }
            _ => (),
        }
    }

    /// Takes the beginning of a picture's first slice (NAL unit without start code). Returns whether the picture
    /// follows the one before it or is an IDR picture; `None` if that is unknown.
    pub fn follows(&mut self, codec: Codec, slice: &[u8], idr: bool) -> Option<bool> {
        if idr {
            self.newest = Some(0);
            return Some(true);
        }
        let found = self.number(codec, slice);
        let before = self.newest;
        // A picture that is no reference (nal_ref_idc 0) has the number of the next picture too.
        if codec != Codec::H264 || slice.first().is_some_and(|header| header >> 5 & 3 != 0) {
            self.newest = found.map(|(number, _)| number);
        }
        let (number, bits) = found?;
        Some(number == before?.wrapping_add(1) & ((1 << bits) - 1))
    }

    /// Forgets the last picture: the next one may follow anything.
    pub fn forget(&mut self) {
        self.newest = None;
    }

    /// The picture number in the header of a first slice that is not of an IDR picture, and its bits.
    fn number(&self, codec: Codec, slice: &[u8]) -> Option<(u32, u32)> {
        let rbsp = unescape(slice.get(codec.header_bytes()..)?);
        let mut bits = RbspReader::new(&rbsp);
        match codec {
            // first_mb_in_slice, slice_type.
            Codec::H264 => {
                bits.ue()?;
                bits.ue()?;
            }
            Codec::H265 => {
                // Only the first segment of a picture has the fields below.
                if bits.take(1)? == 0 {
                    return None;
                }
                // no_output_of_prior_pics_flag of random access pictures.
                if matches!(codec.nal_type(slice)?, 16..=23) {
                    bits.take(1)?;
                }
            }
        }
        let picture = self.pictures.get(&bits.ue()?)?;
        let sequence = self.sequences.get(&picture.sequence)?;
        if codec == Codec::H265 {
            bits.take(picture.extra_bits)?;
            // slice_type.
            bits.ue()?;
            bits.take(u32::from(picture.output_flag))?;
        }
        bits.take(2 * u32::from(sequence.separate_planes))?;
        Some((bits.take(sequence.bits)?, sequence.bits))
    }
}

/// `seq_parameter_set_data` (ISO/IEC 14496-10, 7.3.2.1.1) as far as `log2_max_frame_num_minus4`.
fn h264_sequence(bits: &mut RbspReader<'_>) -> Option<(u32, Sequence)> {
    let H264SequenceStart { id, separate_planes } = H264SequenceStart::read(bits)?;
    let bits = bits.ue()?.checked_add(4).filter(|bits| *bits <= 16)?;
    Some((id, Sequence { bits, separate_planes }))
}

/// `seq_parameter_set_rbsp` (ISO/IEC 23008-2, 7.3.2.2.1) as far as `log2_max_pic_order_cnt_lsb_minus4`.
fn h265_sequence(bits: &mut RbspReader<'_>) -> Option<(u32, Sequence)> {
    // sps_video_parameter_set_id, sps_max_sub_layers_minus1, sps_temporal_id_nesting_flag.
    bits.take(4)?;
    let layers = bits.take(3)?;
    bits.take(1)?;
    // profile_tier_level: 88 bits of profile, 8 of level, then the same for each sub-layer that has them.
    bits.skip(96)?;
    if layers > 0 {
        let mut present = Vec::new();
        for _ in 0..layers {
            present.push((bits.take(1)?, bits.take(1)?));
        }
        bits.take(2 * (8 - layers))?;
        for (profile, level) in present {
            bits.skip(88 * profile as usize + 8 * level as usize)?;
        }
    }
    let id = bits.ue()?;
    let separate_planes = bits.ue()? == 3 && bits.take(1)? == 1;
    // Width, height, and the conformance window.
    bits.ue()?;
    bits.ue()?;
    if bits.take(1)? == 1 {
        for _ in 0..4 {
            bits.ue()?;
        }
    }
    // Bit depths of luma and chroma.
    bits.ue()?;
    bits.ue()?;
    let bits = bits.ue()?.checked_add(4).filter(|bits| *bits <= 16)?;
    Some((id, Sequence { bits, separate_planes }))
}

/// `pic_parameter_set_rbsp` of both, as far as needed.
fn picture(bits: &mut RbspReader<'_>, codec: Codec) -> Option<(u32, Picture)> {
    let (id, sequence) = (bits.ue()?, bits.ue()?);
    let mut set = Picture {
        sequence,
        output_flag: false,
        extra_bits: 0,
    };
    if codec == Codec::H265 {
        // dependent_slice_segments_enabled_flag.
        bits.take(1)?;
        set.output_flag = bits.take(1)? == 1;
        set.extra_bits = bits.take(3)?;
    }
    Some((id, set))
}

/// The parameter sets in a decoder configuration record (`codec_data`; ISO/IEC 14496-15, 5.3.3.1.2 and 8.3.3.1.2).
pub fn parameter_sets(codec: Codec, record: &[u8]) -> Vec<&[u8]> {
    let mut sets = Vec::new();
    let mut rest = record;
    let mut read = || -> Option<()> {
        let arrays = match codec {
            Codec::H264 => {
                rest = rest.get(5..)?;
                2
            }
            Codec::H265 => {
                rest = rest.get(22..)?;
                take(&mut rest, 1)?[0]
            }
        };
        for array in 0..arrays {
            let count = match codec {
                // Sequence parameter sets with three bits in front, then picture parameter sets.
                Codec::H264 => u16::from(take(&mut rest, 1)?[0] & if array == 0 { 0x1f } else { 0xff }),
                Codec::H265 => {
                    take(&mut rest, 1)?;
                    be16(&mut rest)?
                }
            };
            for _ in 0..count {
                let length = be16(&mut rest)?;
                sets.push(take(&mut rest, usize::from(length))?);
            }
        }
        Some(())
    };
    // A truncated record still gives the sets before its end.
    let _ = read();
    sets
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn be16(rest: &mut &[u8]) -> Option<u16> {
    take(rest, 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes the syntax that [`RbspReader`] reads.
    #[derive(Default)]
    struct Writer {
        bytes: Vec<u8>,
        used: usize,
    }

    impl Writer {
        fn bits(mut self, value: u32, count: u32) -> Self {
            for bit in (0..count).rev() {
                if self.used.is_multiple_of(8) {
                    self.bytes.push(0);
                }
                *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (7 - self.used % 8);
                self.used += 1;
            }
            self
        }

        fn ue(self, value: u32) -> Self {
            let bits = u32::BITS - (value + 1).leading_zeros();
            self.bits(0, bits - 1).bits(value + 1, bits)
        }

        fn nal(self, header: &[u8]) -> Vec<u8> {
            let mut nal = header.to_vec();
            dds_protocol::nal::push_escaped(&mut nal, &self.bits(1, 1).bytes);
            nal
        }
    }

    const H264_P: [u8; 1] = [0x41];
    const H265_P: [u8; 2] = [1 << 1, 1];

    /// A tracker that knows one sequence of 4-bit numbers, and a function that returns the beginning of a P slice of a
    /// number.
    fn stream(codec: Codec) -> (PictureOrder, impl Fn(u32) -> Vec<u8>) {
        let mut order = PictureOrder::default();
        match codec {
            Codec::H264 => {
                // High profile, 4:2:0, 8 bits, one scaling list of sixteen.
                let sps = Writer::default()
                    .bits(100, 8)
                    .bits(0, 16)
                    .ue(3)
                    .ue(1)
                    .ue(0)
                    .ue(0)
                    .bits(0, 1)
                    .bits(1, 1);
                let sps = (0..16).fold(sps.bits(1, 1), |w, _| w.ue(0)).bits(0, 7);
                order.parameter_set(codec, &sps.ue(0).nal(&[0x67]));
                order.parameter_set(codec, &Writer::default().ue(5).ue(3).nal(&[0x68]));
            }
            Codec::H265 => {
                // Two sub-layers, the first with its level, and a window.
                let sps = Writer::default().bits(0, 4).bits(1, 3).bits(1, 1);
                let sps = (0..6).fold(sps, |w, _| w.bits(0x5a5a, 16));
                let sps = sps
                    .bits(0b01, 2)
                    .bits(0, 14)
                    .bits(90, 8)
                    .ue(3)
                    .ue(1)
                    .ue(320)
                    .ue(240)
                    .bits(1, 1);
                let sps = sps.ue(0).ue(1).ue(2).ue(3).ue(0).ue(0).ue(0);
                order.parameter_set(codec, &sps.nal(&[33 << 1, 1]));
                order.parameter_set(
                    codec,
                    &Writer::default()
                        .ue(5)
                        .ue(3)
                        .bits(0, 1)
                        .bits(1, 1)
                        .bits(2, 3)
                        .nal(&[34 << 1, 1]),
                );
            }
        }
        let slice = move |number: u32| match codec {
            Codec::H264 => Writer::default()
                .ue(0)
                .ue(5)
                .ue(5)
                .bits(number, 4)
                .bits(0x5555, 16)
                .nal(&H264_P),
            Codec::H265 => {
                let slice = Writer::default().bits(1, 1).ue(5).bits(3, 2).ue(1).bits(1, 1);
                slice.bits(number, 4).bits(0x5555, 16).nal(&H265_P)
            }
        };
        (order, slice)
    }

    #[test]
    fn numbers_that_rise_by_one_follow_and_others_do_not() {
        for codec in [Codec::H264, Codec::H265] {
            let (mut order, slice) = stream(codec);
            assert_eq!(
                order.follows(codec, &slice(1), false),
                None,
                "{codec:?}: joined in the middle"
            );
            assert_eq!(order.follows(codec, &slice(2), false), Some(true), "{codec:?}");
            assert_eq!(order.follows(codec, &[0], true), Some(true), "{codec:?}");
            for n in 1..40 {
                assert_eq!(
                    order.follows(codec, &slice(n % 16), false),
                    Some(true),
                    "{codec:?}, {n}"
                );
            }
            assert_eq!(
                order.follows(codec, &slice(9), false),
                Some(false),
                "{codec:?}: one is missing"
            );
            assert_eq!(order.follows(codec, &slice(10), false), Some(true), "{codec:?}");
            assert_eq!(order.follows(codec, &slice(10), false), Some(false), "{codec:?}: twice");
            order.forget();
            assert_eq!(order.follows(codec, &slice(11), false), None, "{codec:?}");
            let mut unknown = PictureOrder::default();
            assert_eq!(unknown.follows(codec, &[0], true), Some(true));
            assert_eq!(
                unknown.follows(codec, &slice(1), false),
                None,
                "{codec:?}: without parameter sets"
            );
        }
    }

    #[test]
    fn records_give_their_parameter_sets_as_far_as_they_go() {
        let record = [&[1, 100, 0, 13, 0xff, 0xe1, 0, 2, 0x67, 9][..], &[1, 0, 3, 0x68, 7, 7]].concat();
        assert_eq!(parameter_sets(Codec::H264, &record), [&[0x67, 9][..], &[0x68, 7, 7]]);
        assert_eq!(parameter_sets(Codec::H264, &record[..14]), [&[0x67, 9][..]]);
        let mut record = vec![0; 22];
        record.extend([2, 0xa1, 0, 1, 0, 2, 0x42, 1, 0xa2, 0, 2, 0, 1, 0x44, 0, 1, 0x45]);
        assert_eq!(parameter_sets(Codec::H265, &record), [&[0x42, 1][..], &[0x44], &[0x45]]);
        assert!(parameter_sets(Codec::H265, &record[..22]).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_seed: proptest::test_runner::RngSeed::Fixed(1),
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_bytes_are_read_or_not_and_never_panic(
            sets in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..40), 0..6),
            slice in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
            kinds in proptest::collection::vec(proptest::sample::select(&[0x67u8, 0x68, 33 << 1, 34 << 1, 0x41][..]), 6),
        ) {
            for codec in [Codec::H264, Codec::H265] {
                let mut order = PictureOrder::default();
                for (set, kind) in sets.iter().zip(&kinds) {
                    order.parameter_set(codec, &[&[*kind, 1], set.as_slice()].concat());
                    let _ = parameter_sets(codec, set);
                }
                let _ = order.follows(codec, &slice, false);
                let _ = order.follows(codec, &[&[0x41][..], &slice].concat(), false);
            }
        }
    }
}
