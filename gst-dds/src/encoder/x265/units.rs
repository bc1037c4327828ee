// SPDX-License-Identifier: MPL-2.0

//! NAL units as libx265 writes them, and the level to declare in them.

#![forbid(unsafe_code)]

use dds_protocol::nal::{push_escaped, unescape};

use crate::encoder::level_h265::H265Level;
use crate::encoder::{Config, Nal, PixelFormat};

pub(super) const VPS: u8 = 32;
pub(super) const SPS: u8 = 33;
pub(super) const PPS: u8 = 34;

/// Bytes of a NAL unit's start code or length.
pub(super) fn prefix_length(unit: &[u8], byte_stream: bool) -> usize {
    let short = byte_stream && unit.starts_with(&[0, 0, 1]);
    if short { 3 } else { 4.min(unit.len()) }
}

/// A video or sequence parameter set with another `profile_tier_level`; `None` for any other NAL unit.
pub(super) fn declared(kind: u8, nal: &[u8], profile_tier_level: &[u8; 12]) -> Option<Vec<u8>> {
    // Position after the header: 32 bits in one, 8 in the other (7.3.2.1, 7.3.2.2).
    let at = match kind {
        VPS => 6,
        SPS => 3,
        _ => return None,
    };
    let mut plain = unescape(nal);
    plain.get_mut(at..at + 12)?.copy_from_slice(profile_tier_level);
    let mut out = Vec::with_capacity(plain.len() + 8);
    push_escaped(&mut out, &plain);
    Some(out)
}

/// Copies a byte stream to `out`, its parameter sets with another `profile_tier_level`; `nals` then holds the positions
/// of the NAL units there.
pub(super) fn rewrite(data: &[u8], nals: &mut [Nal], profile_tier_level: &[u8; 12], out: &mut Vec<u8>) {
    for nal in nals {
        let (prefix, body) = (&data[nal.start..nal.body], &data[nal.body..nal.end]);
        nal.start = out.len();
        out.extend_from_slice(prefix);
        nal.body = out.len();
        match declared(nal.kind, body, profile_tier_level) {
            Some(set) => out.extend(set),
            None => out.extend_from_slice(body),
        }
        nal.end = out.len();
    }
}

/// `profile_tier_level` without sub-layers (ISO/IEC 23008-2 7.3.3) of progressive 8-bit video.
pub(super) fn profile_tier_level(config: &Config, level: H265Level) -> [u8; 12] {
    let rich = config.format == PixelFormat::I444 || config.profile == Some("main-444");
    let tier = if level.high_tier { 0x20 } else { 0 };
    let mut out = [0; 12];
    if rich {
        // Range extensions, compatible with none but themselves; at most 12, 10 and 8 bits, 4:4:4, lower bit rate.
        out[..7].copy_from_slice(&[0x04 | tier, 0x08, 0, 0, 0, 0x9e, 0x08]);
    } else {
        // Main, which decoders of Main 10 read too; progressive, frames only.
        out[..6].copy_from_slice(&[0x01 | tier, 0x60, 0, 0, 0, 0x90]);
    }
    out[11] = level.idc * 3;
    out
}
