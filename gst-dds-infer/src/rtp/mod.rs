// SPDX-License-Identifier: MPL-2.0

//! One RTP stream out of all that arrives on a port.
//!
//! Anyone can send to a UDP port, and a camera that restarts returns under another SSRC. [`selector`] selects the one
//! stream to pass on: it reads [`packet`] headers and looks for key frames in [`payload`]s; only [`rtcp`] of that
//! stream passes. All of it is a function of bytes and time.

#![forbid(unsafe_code)]

pub mod packet;
pub mod payload;
pub mod rtcp;
pub mod selector;
