// SPDX-License-Identifier: MPL-2.0

//! H.264 sequence parameter sets without a frame rate, or without the promise that it is fixed (ISO/IEC 14496-10 7.3.2.1
//! and E.1.1).
//!
//! libx264 declares the frame rate that it was opened with as fixed. Where the rate is unknown that is wrong, and a
//! parser downstream would pass it on. Where captured pictures may be left out, only the promise is wrong: the rate is
//! that of capture, and single distances are multiples of its period.

#![forbid(unsafe_code)]

use dds_protocol::nal::{push_escaped, unescape};
use dds_protocol::rbsp::{H264SequenceStart, RbspReader};

use super::Nal;

/// `nal_unit_type` of a sequence parameter set.
pub(super) const SPS: u8 = 7;
/// Bits of `num_units_in_tick`, `time_scale` and `fixed_frame_rate_flag`.
const TIMING_BITS: usize = 32 + 32 + 1;
const EXTENDED_SAR: u32 = 255;

/// Position of `timing_info_present_flag` in a parameter set without emulation prevention; `None` where there is none.
fn timing_flag(sps: &[u8]) -> Option<usize> {
    let mut bits = RbspReader::new(sps);
    bits.skip(8)?;
    H264SequenceStart::read(&mut bits)?;
    bits.ue()?;
    match bits.ue()? {
        0 => {
            bits.ue()?;
        }
        1 => {
            bits.take(1)?;
            bits.se()?;
            bits.se()?;
            for _ in 0..bits.ue()?.min(255) {
                bits.se()?;
            }
        }
        _ => {}
    }
    bits.ue()?;
    bits.take(1)?;
    bits.ue()?;
    bits.ue()?;
    if !bits.flag()? {
        bits.take(1)?;
    }
    bits.take(1)?;
    if bits.flag()? {
        for _ in 0..4 {
            bits.ue()?;
        }
    }
    if !bits.flag()? {
        return None;
    }
    if bits.flag()? && bits.take(8)? == EXTENDED_SAR {
        bits.take(32)?;
    }
    if bits.flag()? {
        bits.take(1)?;
    }
    if bits.flag()? {
        bits.take(4)?;
        if bits.flag()? {
            bits.take(24)?;
        }
    }
    if bits.flag()? {
        bits.ue()?;
        bits.ue()?;
    }
    Some(bits.position())
}

/// What a stream declares of its frame rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    /// As the library writes it: fixed.
    Fixed,
    /// The rate of capture, which single pictures may be left out of.
    Nominal,
    /// Nothing.
    Unknown,
}

impl Timing {
    /// The NAL unit of a sequence parameter set that declares this; `None` where it does already.
    pub fn declared(self, nal: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Fixed => None,
            Self::Nominal => without_fixed_rate(nal),
            Self::Unknown => without_timing(nal),
        }
    }
}

/// Copies an access unit to `out`, whose sequence parameter sets declare `timing`; `nals` then holds the positions of the
/// NAL units there.
pub(super) fn rewrite(data: &[u8], nals: &mut [Nal], timing: Timing, out: &mut Vec<u8>) {
    out.clear();
    for nal in nals {
        let (prefix, body) = (&data[nal.start..nal.body], &data[nal.body..nal.end]);
        let declared = (nal.kind == SPS).then(|| timing.declared(body)).flatten();
        nal.start = out.len();
        out.extend_from_slice(prefix);
        nal.body = out.len();
        out.extend_from_slice(declared.as_deref().unwrap_or(body));
        nal.end = out.len();
    }
}

/// The NAL unit of a sequence parameter set whose `fixed_frame_rate_flag` is 0; `None` where it is not 1.
pub(super) fn without_fixed_rate(nal: &[u8]) -> Option<Vec<u8>> {
    let mut sps = unescape(nal);
    let at = timing_flag(&sps)?;
    let mut bits = RbspReader::new(&sps);
    bits.skip(at)?;
    if !bits.flag()? {
        return None;
    }
    bits.skip(TIMING_BITS - 1)?;
    let fixed = bits.position();
    if !bits.flag()? {
        return None;
    }
    *sps.get_mut(fixed / 8)? &= !(0x80 >> (fixed % 8));
    let mut escaped = Vec::with_capacity(sps.len() + 4);
    push_escaped(&mut escaped, &sps);
    Some(escaped)
}

/// The NAL unit of a sequence parameter set without timing information; `None` where it has none.
pub(super) fn without_timing(nal: &[u8]) -> Option<Vec<u8>> {
    let sps = unescape(nal);
    let flag = timing_flag(&sps)?;
    let mut bits = RbspReader::new(&sps);
    bits.skip(flag)?;
    if !bits.flag()? {
        return None;
    }
    // Up to the last 1, which is the stop bit.
    let last = sps.iter().rposition(|byte| *byte != 0)?;
    let end = last * 8 + 8 - sps[last].trailing_zeros() as usize;
    let mut out = vec![0u8; sps.len()];
    let mut length = 0;
    let mut put = |bit: u32| {
        out[length / 8] |= (bit as u8) << (7 - length % 8);
        length += 1;
    };
    let mut bits = RbspReader::new(&sps);
    for at in 0..end {
        let bit = bits.take(1)?;
        match at {
            at if at == flag => put(0),
            at if at > flag && at <= flag + TIMING_BITS => {}
            _ => put(bit),
        }
    }
    out.truncate(length.div_ceil(8));
    let mut escaped = Vec::with_capacity(out.len() + 4);
    push_escaped(&mut escaped, &out);
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Baseline, 320x240, with timing information of 30 frames per second followed by a restriction of the bitstream.
    fn sample() -> Vec<u8> {
        let mut bits = String::from("01100111");
        bits += "01000010 11000000 00001101"; // profile 66, level 13
        bits += "1 1 1 011 010 0"; // id, frame number, order count of type 0 with 2, one reference, no gaps
        bits += "000010100 0001111 1 1 0"; // 20 by 15 macroblocks, frames only, direct, no cropping
        bits += "1 0 0 0 0"; // VUI: no aspect ratio, overscan, signal type, chroma location
        bits += "1 00000000000000000000000000000001 00000000000000000000000000111100 1";
        bits += "0 0 0 1 1 1 1 1 1 011 011"; // no HRD, no picture structure, a restriction
        bits += "1"; // stop
        let bits: Vec<u8> = bits.bytes().filter(|b| *b != b' ').map(|b| b - b'0').collect();
        let bytes: Vec<u8> = bits
            .chunks(8)
            .map(|byte| byte.iter().enumerate().fold(0, |sum, (i, bit)| sum | bit << (7 - i)))
            .collect();
        let mut nal = Vec::new();
        push_escaped(&mut nal, &bytes);
        nal
    }

    #[test]
    fn timing_information_is_taken_out_and_the_rest_stays() {
        let nal = sample();
        let plain = unescape(&nal);
        let flag = timing_flag(&plain).unwrap();
        let out = without_timing(&nal).unwrap();
        let bare = unescape(&out);
        assert_eq!(timing_flag(&bare), Some(flag));
        let bit = |data: &[u8], at: usize| {
            let mut bits = RbspReader::new(data);
            bits.skip(at)?;
            bits.take(1)
        };
        assert_eq!((bit(&plain, flag), bit(&bare, flag)), (Some(1), Some(0)));
        assert!((0..flag).all(|at| bit(&plain, at) == bit(&bare, at)));
        let rest = |at| bit(&plain, at + TIMING_BITS).unwrap_or(0) == bit(&bare, at).unwrap_or(0);
        assert!((flag + 1..bare.len() * 8).all(rest));
        assert_eq!(without_timing(&out), None, "there is none any more");
    }

    #[test]
    fn one_bit_says_that_the_rate_is_not_fixed() {
        let nal = sample();
        let out = without_fixed_rate(&nal).unwrap();
        let (before, after) = (unescape(&nal), unescape(&out));
        let at = timing_flag(&before).unwrap() + TIMING_BITS;
        let differ: Vec<usize> = (0..8 * before.len())
            .filter(|at| (before[at / 8] ^ after[at / 8]) & (0x80 >> (at % 8)) != 0)
            .collect();
        assert_eq!((before.len(), differ), (after.len(), vec![at]));
        assert_eq!(without_fixed_rate(&out), None, "it is not any more");
        assert_eq!(
            without_fixed_rate(&without_timing(&nal).unwrap()),
            None,
            "there is none"
        );
        let patched = Timing::Nominal.declared(&nal);
        assert_eq!((patched, Timing::Fixed.declared(&nal)), (Some(out), None));
    }

    #[test]
    fn what_ends_too_early_is_left_alone() {
        let nal = sample();
        for length in 0..nal.len() - 4 {
            without_timing(&nal[..length]);
            without_fixed_rate(&nal[..length]);
        }
        assert_eq!(without_timing(&[]), None);
        assert_eq!(without_timing(&[0x67; 3]), None);
        assert_eq!(without_timing(&[0x67, 66, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
