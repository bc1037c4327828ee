// SPDX-License-Identifier: MPL-2.0

//! The parts of `dds-rtsp-camera`: an RTSP camera that the neural networks at its receivers steer.
//!
//! Pure: [`options`] reads the command line, [`steering`] decides whose feedback counts, [`audience`] tracks who
//! watches, [`keyframes`] decides which pictures are key frames, [`watch`] detects a stalled media. Around them:
//! [`source`] sends pictures, of a file by the kind that `files` finds, [`encoder`] opens the encoder, [`server`]
//! serves clients by [`media`] that `wiring` connects to the shared [`camera`], and [`signals`] ends the program.

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

/// Prints a warning for the user; the program goes on.
pub fn warn(words: impl std::fmt::Display) {
    eprintln!("dds-rtsp-camera: warning: {words}");
}
