// SPDX-License-Identifier: MPL-2.0

//! Log categories of `ddsencode` and of the libraries it codes with.

#![forbid(unsafe_code)]

use std::sync::LazyLock;

use gst::prelude::*;

use crate::encoder::{Log, LogLevel};

/// Log category of the element.
pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "ddsencode",
        gst::DebugColorFlags::empty(),
        Some("Encoder steered per region"),
    )
});

/// Writes the library's log lines to our category, for `object`, as long as it lives.
pub(super) fn library_log(object: &impl IsA<gst::Object>) -> Log {
    let weak = object.upcast_ref::<gst::Object>().downgrade();
    Box::new(move |level, text| {
        let Some(object) = weak.upgrade() else { return };
        match level {
            LogLevel::Error => gst::error!(CAT, obj = object, "{text}"),
            LogLevel::Warning => gst::warning!(CAT, obj = object, "{text}"),
            LogLevel::Info => gst::info!(CAT, obj = object, "{text}"),
            LogLevel::Debug => gst::debug!(CAT, obj = object, "{text}"),
        }
    })
}
