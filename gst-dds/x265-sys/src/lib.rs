// SPDX-License-Identifier: MPL-2.0

//! Types of libx265 and its one entry point, `x265_api_query`, through which all else is called.
//!
//! Structures change between releases, so the bindings are made from the header that is installed, and hold for that release
//! alone: see `X265_BUILD`. libx265 is GPL-2.0-or-later, and so is what links it.

#![allow(
    unsafe_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated"
)]

include!(concat!(env!("OUT_DIR"), "/x265.rs"));

/// Calls a function of the library's table. It panics where the table lacks it, which the caller looks at before.
#[macro_export]
macro_rules! call {
    ($api:expr, $name:ident($($argument:expr),*)) => {
        ($api.$name.expect("the table is complete"))($($argument),*)
    };
}
