// SPDX-License-Identifier: MPL-2.0

//! Notices for the application.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use gst::prelude::*;

use crate::secret::Exposed;

/// A notice for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The peer has connected.
    Joined(SocketAddr),
    /// Nobody has answered for 5 s.
    Silent(String),
    /// The connection cannot be made.
    Unreachable(String, String),
    /// A peer uses another key.
    OtherKey(SocketAddr),
    /// One end has a key and the other has none.
    OneKeyOnly(SocketAddr),
    /// A panic was caught.
    Fault(String),
    /// The key file is readable by others.
    Exposed(Exposed),
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Joined(peer) => write!(f, "The feedback channel to {peer} is open"),
            Self::Silent(uri) => write!(
                f,
                "Nobody answers at {uri}, and it is tried on. See whether the other end runs, whether a firewall is \
                 between, and whether both ends have the same feedback-key"
            ),
            Self::Unreachable(uri, error) => write!(
                f,
                "No connection to {uri} ({error}), and it is tried on. See whether the other end runs and listens there"
            ),
            Self::OtherKey(peer) => write!(
                f,
                "A message from {peer} was made with another key and refused. Set the same feedback-key at both ends; if \
                 that is so, somebody else sends there"
            ),
            Self::OneKeyOnly(peer) => write!(
                f,
                "Feedback from {peer} was refused: one end has a key and the other has none. Set the same feedback-key at \
                 both ends"
            ),
            Self::Fault(text) => f.write_str(text),
            Self::Exposed(exposed) => write!(f, "feedback-key-file: {exposed}"),
        }
    }
}

/// Receives notices, on threads of the channel. Each kind of warning comes once; a missing answer, once in each outage.
pub type OnNotice = Arc<dyn Fn(Notice) + Send + Sync>;

/// Posts warnings on the bus of an element as its own, as long as it lives, and logs the rest.
pub fn post_by(element: &impl IsA<gst::Element>) -> OnNotice {
    let weak = element.upcast_ref::<gst::Element>().downgrade();
    Arc::new(move |notice| {
        let Some(element) = weak.upgrade() else { return };
        match notice {
            Notice::Joined(_) => gst::info!(crate::CAT, obj = element, "{notice}"),
            Notice::OtherKey(_) | Notice::OneKeyOnly(_) => {
                gst::element_warning!(element, gst::ResourceError::NotAuthorized, ("{notice}"));
            }
            Notice::Fault(_) => gst::element_warning!(element, gst::LibraryError::Failed, ("{notice}")),
            Notice::Exposed(_) => {
                // Applications that do not read the bus have to see it too, but not each time that an element starts
                // again.
                static SEEN: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());
                let seen = (element.name().into(), notice.to_string());
                if SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(seen) {
                    glib::g_warning!("ddslink", "{notice}");
                }
                gst::element_warning!(element, gst::ResourceError::Settings, ("{notice}"));
            }
            Notice::Silent(_) | Notice::Unreachable(..) => {
                gst::element_warning!(element, gst::ResourceError::OpenReadWrite, ("{notice}"));
            }
        }
    })
}
