// SPDX-License-Identifier: MPL-2.0

//! The video buffering verifier that an encoder keeps its pictures within.

#![forbid(unsafe_code)]

/// Video buffering verifier (VBV): a buffer that fills at a constant rate, and that each picture takes its bits from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vbv {
    /// Rate at which the buffer fills, in kbit/s (1000 bits), at least 1.
    pub max_kbps: u32,
    /// Size of the buffer in kbit, at least 1: the most that a picture may take when the buffer is full.
    pub buffer_kbit: u32,
}

impl Vbv {
    /// A VBV that never limits a picture. Encoders are opened with it (or another), because libx264 ignores a VBV that
    /// is set later on an encoder opened without any.
    pub const OPEN: Self = Self {
        max_kbps: 400_000,
        buffer_kbit: 400_000,
    };
}
