// SPDX-License-Identifier: MPL-2.0

//! Wire format of gst-dds: how a camera names its frames and how a server requests quality.
//!
//! Three independent pieces, all of them total (any byte string gives a value or a typed error, in bounded work):
//!
//! - [`nal`] walks H.264 and H.265 access units (byte-stream and length-prefixed), counts slices and reads SEI messages;
//! - [`identity`] is the frame identity a camera writes into each access unit, [`extension`] the records added to
//!   it, [`access_unit`] writes both as NAL units and finds them;
//! - [`feedback`] is the list of regions that a server requests, with its [wishes](wish) about the whole stream;
//!   [`assembler`] reassembles its packets, and [`rtcp`] wraps them as RTCP APP packets.
//!
//! The crate's README describes the layouts.

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
pub mod wish;
