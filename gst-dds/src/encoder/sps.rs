// SPDX-License-Identifier: MPL-2.0

//! H.264 sequence parameter sets without a frame rate (ISO/IEC 14496-10 7.3.2.1 and E.1.1).
//!
//! libx264 declares the rate that it was opened with, and that it is fixed. Where nobody knows the rate that is untrue,
//! and a parser behind it would tell it on.

#![forbid(unsafe_code)]

use dds_protocol::nal::{push_escaped, unescape};

/// Bits of `num_units_in_tick`, `time_scale` and `fixed_frame_rate_flag`.
const TIMING_BITS: usize = 32 + 32 + 1;
/// Profiles that tell their chroma format, and perhaps scaling lists.
const HIGH_PROFILES: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];
const EXTENDED_SAR: u32 = 255;

/// Reads bits, most significant first.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<u32> {
        let byte = self.data.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit.into())
    }

    /// `u(n)`, of 32 at most.
    fn u(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0, |value, _| Some(value << 1 | self.bit()?))
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.bit()? == 1)
    }

    /// `ue(v)`.
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.u(zeros)?)
    }

    /// `se(v)`.
    fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 1 { code / 2 + 1 } else { -(code / 2) })
    }

    fn scaling_list(&mut self, size: usize) -> Option<()> {
        let (mut last, mut next) = (8, 8);
        for _ in 0..size {
            if next != 0 {
                next = (last + self.se()?).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
        Some(())
    }
}

/// Where `timing_info_present_flag` lies in a parameter set without emulation prevention; `None` where there is none.
fn timing_flag(sps: &[u8]) -> Option<usize> {
    let mut bits = Bits { data: sps, at: 8 };
    let profile = bits.u(8)?;
    bits.u(16)?;
    bits.ue()?;
    if HIGH_PROFILES.contains(&profile) {
        let chroma = bits.ue()?;
        if chroma == 3 {
            bits.u(1)?;
        }
        bits.ue()?;
        bits.ue()?;
        bits.u(1)?;
        if bits.flag()? {
            for i in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.flag()? {
                    bits.scaling_list(if i < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.ue()?;
    match bits.ue()? {
        0 => {
            bits.ue()?;
        }
        1 => {
            bits.u(1)?;
            bits.se()?;
            bits.se()?;
            for _ in 0..bits.ue()?.min(255) {
                bits.se()?;
            }
        }
        _ => {}
    }
    bits.ue()?;
    bits.u(1)?;
    bits.ue()?;
    bits.ue()?;
    if !bits.flag()? {
        bits.u(1)?;
    }
    bits.u(1)?;
    if bits.flag()? {
        for _ in 0..4 {
            bits.ue()?;
        }
    }
    if !bits.flag()? {
        return None;
    }
    if bits.flag()? && bits.u(8)? == EXTENDED_SAR {
        bits.u(32)?;
    }
    if bits.flag()? {
        bits.u(1)?;
    }
    if bits.flag()? {
        bits.u(4)?;
        if bits.flag()? {
            bits.u(24)?;
        }
    }
    if bits.flag()? {
        bits.ue()?;
        bits.ue()?;
    }
    Some(bits.at)
}

/// The NAL unit of a sequence parameter set without timing information; `None` where it has none.
pub(super) fn without_timing(nal: &[u8]) -> Option<Vec<u8>> {
    let sps = unescape(nal);
    let flag = timing_flag(&sps)?;
    let mut bits = Bits { data: &sps, at: flag };
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
    let mut bits = Bits { data: &sps, at: 0 };
    for at in 0..end {
        let bit = bits.bit()?;
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

    /// Baseline, 320x240, with timing information of 30 frames per second and a restriction of the bitstream behind it.
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
        let bit = |data: &[u8], at: usize| Bits { data, at }.bit();
        assert_eq!((bit(&plain, flag), bit(&bare, flag)), (Some(1), Some(0)));
        assert!((0..flag).all(|at| bit(&plain, at) == bit(&bare, at)));
        let rest = |at| bit(&plain, at + TIMING_BITS).unwrap_or(0) == bit(&bare, at).unwrap_or(0);
        assert!((flag + 1..bare.len() * 8).all(rest));
        assert_eq!(without_timing(&out), None, "there is none any more");
    }

    #[test]
    fn what_ends_too_early_is_left_alone() {
        let nal = sample();
        for length in 0..nal.len() - 4 {
            without_timing(&nal[..length]);
        }
        assert_eq!(without_timing(&[]), None);
        assert_eq!(without_timing(&[0x67; 3]), None);
        assert_eq!(without_timing(&[0x67, 66, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
