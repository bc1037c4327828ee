// SPDX-License-Identifier: MPL-2.0

//! Passes commit and release date to the plugin.

fn main() {
    gst_plugin_version_helper::info();
}
