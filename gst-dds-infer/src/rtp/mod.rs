// SPDX-License-Identifier: MPL-2.0

//! One RTP stream out of all that arrives on a port.
//!
//! Anybody can send to a UDP port, and a camera that restarts comes back under another SSRC. [`selector`] selects the one
//! stream that is handed on: it reads [`packet`] headers, looks for key frames in [`payload`]s, and [`rtcp`] of that stream
//! alone comes through. All of it is a function of bytes and time.

#![forbid(unsafe_code)]

pub mod packet;
pub mod payload;
pub mod rtcp;
pub mod selector;
