// SPDX-License-Identifier: MPL-2.0

//! Every system of the DDS paper beside gst-dds on the user's own clips and model: run, report, compare.

pub mod ablate;
pub mod awstream;
pub mod births;
pub mod codec;
pub mod compare;
pub mod curve;
pub mod freshness;
pub mod judge;
pub mod merge;
pub mod plan;
pub mod post;
pub mod record;
pub mod report;
pub mod rival;
pub mod run;
pub mod score;
pub mod server;
pub mod source;
pub mod store;
pub mod strips;
pub mod superres;
pub mod system;
pub mod targets;
pub mod track;
