// SPDX-License-Identifier: MPL-2.0

//! Key frames that the network requests: at most one a second, none forgotten.
//!
//! Anybody who can send RTCP to a camera can request key frames (RFC 4585 PLI, RFC 5104 FIR), and each costs as much as
//! many other pictures. The first request of a second is granted with the next frame. Requests within the second after
//! it wait for its end, and share one key frame there. A key frame that is coded in the meantime for another reason
//! serves all requests before it.

/// Least time from one granted request to the next.
const INTERVAL_NS: u64 = 1_000_000_000;

/// Fates of requests, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyFrameCounts {
    /// Requests.
    pub requested: u64,
    /// Of those, requests that waited for the end of a second.
    pub deferred: u64,
    /// Of those, requests that shared the key frame of one before them.
    pub shared: u64,
    /// Key frames granted.
    pub granted: u64,
}

/// Pending requests for key frames, each with a `T` that describes it; grants at most one a second.
#[derive(Clone, Debug)]
pub struct KeyFrameRequests<T> {
    waiting: Option<Waiting<T>>,
    granted_at: Option<u64>,
    counts: KeyFrameCounts,
}

#[derive(Clone, Debug)]
struct Waiting<T> {
    what: T,
    /// Requests that share it.
    requests: u64,
    /// Of those, counted as deferred already.
    deferred: u64,
    /// Of those, requests made before the frame that is being coded.
    before: u64,
}

impl<T> Default for KeyFrameRequests<T> {
    fn default() -> Self {
        Self {
            waiting: None,
            granted_at: None,
            counts: KeyFrameCounts::default(),
        }
    }
}

impl<T> KeyFrameRequests<T> {
    /// Adds a request. Where one is pending already, `join` merges the two.
    pub fn request(&mut self, what: T, join: impl FnOnce(T, T) -> T) {
        self.counts.requested += 1;
        self.waiting = Some(match self.waiting.take() {
            None => Waiting {
                what,
                requests: 1,
                deferred: 0,
                before: 0,
            },
            Some(waiting) => {
                self.counts.shared += 1;
                Waiting {
                    what: join(waiting.what, what),
                    requests: waiting.requests + 1,
                    ..waiting
                }
            }
        });
    }

    /// Whether a request is pending.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// The request granted with the next frame, if any.
    pub fn due(&mut self, now: u64) -> Option<T> {
        // Time that goes back is a seek.
        let early = |at: u64| now >= at && now - at < INTERVAL_NS;
        let waiting = self.waiting.as_mut()?;
        if self.granted_at.is_some_and(early) {
            self.counts.deferred += waiting.requests - waiting.deferred;
            waiting.deferred = waiting.requests;
            waiting.before = waiting.requests;
            return None;
        }
        self.granted_at = Some(now);
        self.counts.granted += 1;
        self.waiting.take().map(|waiting| waiting.what)
    }

    /// A key frame was coded, for whatever reason: it serves all requests before the last call of [`Self::due`].
    pub fn coded(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.requests -= waiting.before;
            waiting.deferred -= waiting.before;
            waiting.before = 0;
            if waiting.requests == 0 {
                self.waiting = None;
            }
        }
    }

    /// Counts of requests so far.
    pub fn counts(&self) -> KeyFrameCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn asked(requests: &mut KeyFrameRequests<()>) {
        requests.request((), |(), ()| ());
    }

    /// Key frames of a video of 25 pictures a second, in milliseconds; `asks` gives the number of requests before each
    /// picture.
    fn granted(seconds: u64, asks: impl Fn(u64) -> u64) -> (Vec<u64>, KeyFrameCounts) {
        let mut requests = KeyFrameRequests::default();
        let mut at = Vec::new();
        for ms in (0..seconds * 1000).step_by(40) {
            (0..asks(ms)).for_each(|_| asked(&mut requests));
            if requests.due(ms * MS).is_some() {
                at.push(ms);
                requests.coded();
            }
        }
        (at, requests.counts())
    }

    #[test]
    fn one_request_is_granted_at_once() {
        let (at, counts) = granted(3, |ms| u64::from(ms == 200));
        assert_eq!(at, [200]);
        assert_eq!((counts.requested, counts.deferred, counts.granted), (1, 0, 1));
    }

    #[test]
    fn a_flood_gets_one_key_frame_a_second() {
        let (at, counts) = granted(4, |_| 3);
        assert_eq!(at, [0, 1000, 2000, 3000]);
        assert_eq!((counts.requested, counts.granted), (300, 4));
    }

    #[test]
    fn what_comes_within_the_second_waits_for_its_end_and_shares_one() {
        let (at, counts) = granted(4, |ms| u64::from([40, 80, 600, 1000].contains(&ms)));
        assert_eq!(at, [40, 1040]);
        assert_eq!(
            counts,
            KeyFrameCounts {
                requested: 4,
                deferred: 3,
                shared: 2,
                granted: 2,
            }
        );
    }

    #[test]
    fn a_key_frame_of_another_cause_serves_those_who_asked_before_it() {
        let mut requests = KeyFrameRequests::default();
        asked(&mut requests);
        assert!(requests.due(0).is_some());
        asked(&mut requests);
        assert!(requests.due(400 * MS).is_none());
        // A viewer that joins while the picture is being coded does not see it.
        asked(&mut requests);
        requests.coded();
        assert!(requests.due(900 * MS).is_none());
        assert!(requests.due(1000 * MS).is_some(), "for the one who came later");
        requests.coded();
        assert!(requests.due(5000 * MS).is_none());
    }

    #[test]
    fn a_seek_back_defers_nothing_for_long() {
        let mut requests = KeyFrameRequests::default();
        asked(&mut requests);
        assert!(requests.due(3_600_000 * MS).is_some());
        asked(&mut requests);
        assert!(requests.due(0).is_some());
    }
}
