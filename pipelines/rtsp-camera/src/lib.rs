// SPDX-License-Identifier: MPL-2.0

//! The parts of `dds-rtsp-camera`: an RTSP camera that the neural networks at its receivers steer.
//!
//! Pure: [`options`] reads the command line, [`steering`] says whose feedback counts, [`audience`] who watches,
//! [`keyframes`] which pictures are key frames, [`watch`] whether the media stands still. Around them: [`source`] hands out
//! pictures, of a file by what `files` finds in it, [`encoder`] opens what codes them, [`server`] serves them by [`media`]
//! that `wiring` connects to the [`camera`] that all share, and [`signals`] ends it all.

pub mod audience;
mod caller;
pub mod camera;
mod description;
pub mod elements;
pub mod encoder;
mod files;
pub mod keyframes;
pub mod media;
pub mod options;
pub mod server;
pub mod signals;
pub mod source;
mod standstill;
pub mod steering;
pub mod watch;
mod wiring;

/// Says what the user should know of, while all goes on.
pub fn warn(words: impl std::fmt::Display) {
    eprintln!("dds-rtsp-camera: warning: {words}");
}
