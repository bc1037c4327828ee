// SPDX-License-Identifier: MPL-2.0

//! Tracks who watches: RTSP sessions of servers, which send feedback, and of others, such as recorders.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use crate::steering::RELEASE_NS;

/// A client's session.
#[derive(Clone, Debug, Default)]
struct Session {
    /// Addresses that its RTCP comes from.
    addresses: HashSet<String>,
    /// Time of its last feedback, initially of its PLAY request. `None` while it does not play.
    last_feedback: Option<u64>,
    /// It has sent feedback.
    serves: bool,
}

/// All sessions. Times are nanoseconds of any steady clock.
#[derive(Clone, Debug, Default)]
pub struct Audience(HashMap<String, Session>);

impl Audience {
    /// A session is set up; its RTCP will come from these addresses.
    pub fn set_up(&mut self, session: &str, addresses: impl IntoIterator<Item = String>) {
        self.0.entry(session.into()).or_default().addresses.extend(addresses);
    }

    /// It begins to play.
    pub fn play(&mut self, session: &str, now: u64) {
        let last_feedback = &mut self.0.entry(session.into()).or_default().last_feedback;
        *last_feedback = last_feedback.or(Some(now));
    }

    /// It pauses.
    pub fn pause(&mut self, session: &str) {
        if let Some(session) = self.0.get_mut(session) {
            session.last_feedback = None;
        }
    }

    /// It is over.
    pub fn leave(&mut self, session: &str) {
        self.0.remove(session);
    }

    /// A feedback packet was received from this address, whether or not it steers.
    pub fn feedback(&mut self, address: &str, now: u64) {
        let of_it = self
            .0
            .values_mut()
            .filter(|session| session.addresses.contains(address));
        of_it.for_each(|session| {
            session.last_feedback = session.last_feedback.map(|_| now);
            session.serves = true;
        });
    }

    /// Number of playing sessions.
    pub fn playing(&self) -> usize {
        self.0
            .values()
            .filter(|session| session.last_feedback.is_some())
            .count()
    }

    /// Whether a session plays that has sent no feedback for [`RELEASE_NS`].
    pub fn has_recorders(&self, now: u64) -> bool {
        let mut last_feedback = self.0.values().filter_map(|session| session.last_feedback);
        last_feedback.any(|last_feedback| now.saturating_sub(last_feedback) >= RELEASE_NS)
    }

    /// Whether a session plays that need not be a server's: as [`Self::has_recorders`], and also one that has not sent any
    /// feedback yet.
    pub fn has_viewers(&self, now: u64) -> bool {
        let plays = |session: &&Session| session.last_feedback.is_some();
        self.has_recorders(now) || self.0.values().filter(plays).any(|session| !session.serves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn who_sends_no_feedback_for_two_seconds_is_a_recorder() {
        let mut audience = Audience::default();
        audience.set_up("server", ["10.0.0.1:5001".into()]);
        audience.set_up("server", ["10.0.0.1:40000".into()]);
        assert_eq!((audience.playing(), audience.has_recorders(9000 * MS)), (0, false));
        audience.play("server", 0);
        for time in (0..20_000).step_by(500) {
            audience.feedback("10.0.0.1:40000", time * MS);
            assert!(!audience.has_recorders(time * MS));
        }
        // Another client's feedback does not make a session a server's.
        audience.feedback("10.0.0.9:5001", 21_000 * MS);
        assert!(!audience.has_recorders(21_499 * MS));
        assert!(audience.has_recorders(21_500 * MS));
        audience.feedback("10.0.0.1:5001", 22_000 * MS);
        assert!(!audience.has_recorders(22_000 * MS));

        audience.set_up("recorder", ["10.0.0.2:5001".into()]);
        audience.play("recorder", 22_000 * MS);
        audience.feedback("10.0.0.1:5001", 24_000 * MS);
        assert_eq!((audience.playing(), audience.has_recorders(24_000 * MS)), (2, true));
        // A paused session needs nothing, and will send PLAY again.
        audience.pause("recorder");
        assert_eq!((audience.playing(), audience.has_recorders(24_000 * MS)), (1, false));
        audience.play("recorder", 24_000 * MS);
        audience.play("recorder", 25_900 * MS);
        audience.feedback("10.0.0.1:5001", 25_900 * MS);
        assert!(audience.has_recorders(26_000 * MS));
        audience.leave("recorder");
        assert_eq!((audience.playing(), audience.has_recorders(26_000 * MS)), (1, false));
    }

    #[test]
    fn who_plays_is_a_viewer_until_its_first_feedback() {
        let mut audience = Audience::default();
        audience.set_up("server", ["10.0.0.1:5001".into()]);
        assert!(!audience.has_viewers(0), "nobody plays");
        audience.play("server", 0);
        assert!(audience.has_viewers(MS));
        audience.feedback("10.0.0.1:5001", 100 * MS);
        assert!(!audience.has_viewers(100 * MS));
        assert!(audience.has_viewers(2100 * MS), "it is silent");
        audience.feedback("10.0.0.1:5001", 2200 * MS);
        audience.play("recorder", 2200 * MS);
        assert!(audience.has_viewers(2200 * MS));
        audience.leave("recorder");
        assert!(!audience.has_viewers(2200 * MS));
    }
}
