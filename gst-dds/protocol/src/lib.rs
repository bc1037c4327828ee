// SPDX-License-Identifier: MPL-2.0

//! Wire format of gst-dds: how a camera names its frames and how a server asks for quality.
//!
//! Three independent pieces, all of them total (any byte string gives a value or a typed error, in bounded work):
//!
//! - [`nal`] walks H.264 and H.265 access units (byte-stream and length-prefixed), counts slices and reads SEI messages;
//! - [`identity`] is the frame identity a camera writes into each access unit, [`extension`] what one of two passes adds,
//!   [`access_unit`] writes both as NAL units and finds them again;
//! - [`feedback`] is the server's wish list of regions, [`assembler`] puts its packets together again,
//!   and [`rtcp`] wraps them as RTCP APP packets.
//!
//! The layouts are written down in the crate's README.

#![forbid(unsafe_code)]

pub mod access_unit;
pub mod assembler;
mod bits;
pub mod extension;
pub mod feedback;
pub mod identity;
pub mod nal;
pub mod rbsp;
pub mod rtcp;
pub mod serial;
