// SPDX-License-Identifier: MPL-2.0

//! The rate at which the server wants pictures, and the results of those that are not sent.
//!
//! [`Chooser`] follows the objects of one stream and chooses the interval; [`predicted`] moves their boxes to any captured
//! picture. Both know no clock: time is that of the captured pictures.

#![forbid(unsafe_code)]

mod choose;
mod predict;
#[cfg(test)]
mod tests;
mod tracks;

pub use choose::{Actual, Chooser, Looked, MAX_INTERVAL};
pub use predict::predicted;
pub use tracks::{Check, Sighting, Tracks};
