// SPDX-License-Identifier: MPL-2.0

//! Every system of the DDS paper beside gst-dds on the user's own clips and model: run, report, compare.

pub mod record;
pub mod system;
