// SPDX-License-Identifier: MPL-2.0

//! A property whose meaning depends on whether it was set.

#![forbid(unsafe_code)]

use std::ops::Deref;

/// A property's value, or its default where it was not set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Setting<T> {
    value: T,
    by_hand: bool,
}

impl<T> Setting<T> {
    /// A property that is not set.
    pub const fn unset(default: T) -> Self {
        Self {
            value: default,
            by_hand: false,
        }
    }

    /// Sets the value; it counts as set even where it equals the default.
    pub fn set(&mut self, value: T) {
        self.value = value;
        self.by_hand = true;
    }

    /// Sets the default.
    pub fn forget(&mut self) {
        self.by_hand = false;
    }

    /// Whether it was set. A saved preset sets every property.
    pub fn by_hand(&self) -> bool {
        self.by_hand
    }
}

impl<T> Deref for Setting<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
