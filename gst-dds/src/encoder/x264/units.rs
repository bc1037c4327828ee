// SPDX-License-Identifier: MPL-2.0

//! NAL units as libx264 writes them.

#![forbid(unsafe_code)]

use std::ffi::c_int;

pub(super) const NAL_SEI: c_int = 6;
pub(super) const NAL_SPS: c_int = 7;
pub(super) const NAL_PPS: c_int = 8;

/// First bytes of the UUID of x264's version SEI.
pub(super) const VERSION_SEI_UUID: [u8; 4] = [0xdc, 0x45, 0xe9, 0xbd];

/// Bytes before a NAL unit: its length, or a start code, which may be the short one.
pub(super) fn prefix_length(byte_stream: bool, long_start_code: bool) -> usize {
    if byte_stream && !long_start_code { 3 } else { 4 }
}

/// x264's own version message. GStreamer 1.22 keeps one user-data message per picture, the last: it would hide ours.
pub(super) fn is_version_sei(kind: c_int, body: &[u8]) -> bool {
    // Header, payload type 5, payload size (in runs of 0xff), UUID.
    if kind != NAL_SEI || body.get(1) != Some(&5) {
        return false;
    }
    let size_bytes = body[2..].iter().take_while(|&&b| b == 0xff).count() + 1;
    body.get(2 + size_bytes..)
        .is_some_and(|uuid| uuid.starts_with(&VERSION_SEI_UUID))
}
