// SPDX-License-Identifier: MPL-2.0

//! What goes between the parts of a pair.

use gstddsinfer::server::{FrameKey, Outgoing};

use super::model::Shot;

/// Nanoseconds of the virtual clock.
pub type Time = u64;

/// A millisecond of it.
pub const MS: Time = 1_000_000;
/// A second of it.
pub const SECOND: Time = 1000 * MS;
/// What is missing of an access unit that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    Whole,
    /// The end of its slice.
    Slice,
    /// The message with its identity.
    Message,
}

/// One of the camera's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Whole pictures.
    First,
    /// What was asked for.
    Second,
}

/// An access unit.
#[derive(Clone, Debug)]
pub struct Unit {
    pub(super) message: Vec<u8>,
    pub(super) slice: Vec<u8>,
    pub(super) shot: Shot,
    /// Number in its stream.
    pub(super) unit: u32,
    pub(super) idr: bool,
    pub(super) sent: Time,
}

impl Unit {
    /// As it arrives.
    pub(super) fn bytes(&self, cut: Cut) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.message.len() + self.slice.len() + 8);
        if cut != Cut::Message {
            bytes.extend([0, 0, 0, 1]);
            bytes.extend(&self.message);
        }
        bytes.extend([0, 0, 0, 1]);
        let missing = usize::from(cut == Cut::Slice);
        bytes.extend(&self.slice[..self.slice.len() - missing]);
        bytes
    }
}

/// A decoded picture inside the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Picture {
    /// Place in the order in which pictures and events came in.
    pub number: u64,
    pub shot: Shot,
    /// What nobody in the loop knows.
    pub whole: bool,
}

/// A decoded second pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refinement {
    pub key: FrameKey,
    pub whole: bool,
}

/// A frame on its way out.
pub(super) type Out = Outgoing<Picture, u64>;
