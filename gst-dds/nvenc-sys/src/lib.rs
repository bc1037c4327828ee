// SPDX-License-Identifier: MPL-2.0

//! Types and constants of NVIDIA's encoder interface (NVENC), API 11.1. There is nothing here to link: the driver's library
//! is loaded at run time.
//!
//! The bindings are generated once and kept, so that no build needs NVIDIA's header. Their layout is asserted when they are
//! compiled, for 64-bit Linux; a test compares them with the header where it is installed.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

#[allow(
    unsafe_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated"
)]
mod bindings;
pub mod ids;

#[cfg(test)]
mod tests;

pub use bindings::*;
