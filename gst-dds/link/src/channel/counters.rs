// SPDX-License-Identifier: MPL-2.0

//! Counts of the messages of a channel.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $field:literal,)*) => {
        /// Counts of a channel.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// All of them, with their names in the elements' `stats`.
            pub fn fields(&self) -> [(&'static str, u64); [$($field),*].len()] {
                [$(($field, self.$name)),*]
            }
        }

        /// The same while counting.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counters {
            /// Their current values.
            pub fn counts(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counts! {
    /// Feedback packets sent, once for each camera.
    sent = "feedback-uri-sent",
    /// Feedback packets received and found good.
    received = "feedback-uri-received",
    /// Packets not sent: no camera was connected, too many waited, or a socket failed.
    dropped = "feedback-uri-dropped",
    /// Sessions begun; a server draws a new one every two seconds.
    sessions = "feedback-uri-sessions",
    /// Messages refused because they were made with another key or changed in transit.
    rejected_tag = "feedback-uri-rejected-tag",
    /// Messages refused because their session is not open: replayed after it, forged, or sent by a server that had not
    /// noticed the camera's restart.
    rejected_session = "feedback-uri-rejected-session",
    /// Messages refused because they had been received before.
    rejected_replay = "feedback-uri-rejected-replay",
    /// Messages refused because they are invalid, or because too many sessions were open.
    rejected_malformed = "feedback-uri-rejected-malformed",
    /// TCP connections made.
    connections = "feedback-uri-connections",
    /// Peers connected now; not a count of events.
    peers = "feedback-uri-peers",
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
