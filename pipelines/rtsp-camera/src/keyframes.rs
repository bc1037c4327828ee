// SPDX-License-Identifier: MPL-2.0

//! Decides which pictures are coded as key frames: recorders need them often, servers that steer hardly ever, and a
//! client that joins needs one at once.

#![forbid(unsafe_code)]

/// Nanoseconds of captured time between key frames while a client watches that requests none: recorders cut files, and
/// keep the time before an event, at key frames.
const FOR_RECORDERS: u64 = 2_000_000_000;
/// The same while all clients send feedback, and so request a key frame when they need one.
const FOR_SERVERS: u64 = 10_000_000_000;
/// Clients that join within it share a key frame, so that joining cannot be used to flood the others.
const SHARED: u64 = 1_000_000_000;
/// Most by which a key frame may come early for even spacing: bounds half the interval between two pictures.
const MOST_EARLY: u64 = 100_000_000;

/// Value of `--key-interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Interval {
    /// By who watches.
    #[default]
    Auto,
    /// Nanoseconds.
    Fixed(u64),
    /// Only for clients that join: the encoder has an interval of its own.
    Encoder,
}

/// Streams that need a key frame at a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Due {
    /// The stream of first passes.
    pub first: bool,
    /// The stream of second passes, which only servers watch.
    pub second: bool,
}

/// The key frames of one media. Times are those of capture, in nanoseconds of the media's running time.
#[derive(Clone, Debug)]
pub struct KeyFrames {
    interval: Interval,
    /// The last picture.
    picture: Option<u64>,
    /// The last key frame of each stream.
    first: Option<u64>,
    second: Option<u64>,
    /// The last key frame requested for a client that joined.
    joined: Option<u64>,
    /// A client has joined since.
    waiting: bool,
}

impl KeyFrames {
    /// For a new media.
    pub fn new(interval: Interval) -> Self {
        Self {
            interval,
            picture: None,
            first: None,
            second: None,
            joined: None,
            waiting: false,
        }
    }

    /// Pictures begin to flow to the first client, whose key frame is the first of the stream.
    pub fn open(&mut self) {
        self.joined = self.joined.max(self.first);
    }

    /// A client joins.
    pub fn join(&mut self) {
        self.waiting = true;
    }

    /// A picture captured at `at` is to be coded. `recorders`: a client watches that sends no feedback.
    pub fn picture(&mut self, at: u64, recorders: bool) -> Due {
        // The picture nearest to the time, not the first one after it: spacings do not exceed the interval on average.
        let step = self.picture.map_or(0, |before| at.saturating_sub(before));
        let early = (step / 2).min(MOST_EARLY);
        let passed = |since: Option<u64>, time: u64| since.is_none_or(|since| at.saturating_sub(since) + early >= time);
        self.picture = Some(at);
        let joins = self.waiting && passed(self.joined, SHARED);
        let (first, second) = match self.interval {
            Interval::Auto if recorders => (FOR_RECORDERS, FOR_SERVERS),
            Interval::Auto => (FOR_SERVERS, FOR_SERVERS),
            Interval::Fixed(time) => (time, time),
            Interval::Encoder => (u64::MAX, u64::MAX),
        };
        let due = |since: Option<u64>, time: u64| since.is_some() && passed(since, time);
        let due = Due {
            first: joins || due(self.first, first),
            second: joins || due(self.second, second),
        };
        if due.first {
            self.first = Some(at);
        }
        if due.second || self.second.is_none() {
            self.second = Some(at);
        }
        if joins {
            (self.joined, self.waiting) = (Some(at), false);
        }
        due
    }

    /// The encoder has coded the picture captured at `at` as a key frame, for whatever reason.
    pub fn coded(&mut self, at: u64) {
        self.first = self.first.max(Some(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Times in milliseconds of the key frames of the first stream, at 25 pictures a second up to `until`. The encoder
    /// begins with one; each requested one is coded.
    fn run(interval: Interval, until: u64, mut at: impl FnMut(u64, &mut KeyFrames) -> bool) -> Vec<u64> {
        let mut keys = KeyFrames::new(interval);
        let mut found = Vec::new();
        for time in (0..until).step_by(40) {
            let recorders = at(time, &mut keys);
            if keys.picture(time * MS, recorders).first || time == 0 {
                keys.coded(time * MS);
                found.push(time);
            }
        }
        found
    }

    #[test]
    fn recorders_get_a_key_frame_every_two_seconds_and_servers_every_ten() {
        let every = |step| (0..30_000).step_by(step).collect::<Vec<u64>>();
        assert_eq!(run(Interval::Auto, 30_000, |_, _| true), every(2000));
        assert_eq!(run(Interval::Auto, 30_000, |_, _| false), every(10_000));
        // A recorder that joins in the middle and leaves.
        let found = run(Interval::Auto, 25_000, |time, _| (11_000..16_000).contains(&time));
        // An overdue key frame comes at once.
        assert_eq!(found, [0, 10_000, 12_000, 14_000, 24_000]);
    }

    #[test]
    fn a_fixed_interval_holds_whoever_watches() {
        let fixed = Interval::Fixed(1500 * MS);
        // The picture nearest to the time: no interval is longer in the long run.
        assert_eq!(run(fixed, 6100, |_, _| false), [0, 1480, 2960, 4440, 5920]);
        assert_eq!(run(fixed, 6100, |_, _| true), [0, 1480, 2960, 4440, 5920]);
        assert_eq!(run(Interval::Encoder, 60_000, |_, _| true), [0]);
    }

    #[test]
    fn who_joins_gets_one_at_once_and_those_of_one_second_share_it() {
        for interval in [Interval::Auto, Interval::Encoder, Interval::Fixed(10_000 * MS)] {
            let found = run(interval, 8000, |time, keys| {
                if [1000, 3000, 3200, 3400, 3600, 6000].contains(&time) {
                    keys.join();
                }
                false
            });
            assert_eq!(found, [0, 1000, 3000, 4000, 6000], "{interval:?}");
        }
        // However often a client joins, at most one a second.
        let found = run(Interval::Auto, 10_000, |_, keys| {
            keys.join();
            true
        });
        assert!(found.len() <= 10, "{found:?}");
    }

    #[test]
    fn the_first_who_watches_shares_what_the_stream_begins_with() {
        // Nothing flows before a client plays, 100 ms after the first picture.
        let found = run(Interval::Auto, 5000, |time, keys| {
            match time {
                120 => keys.open(),
                320 => keys.join(),
                _ => {}
            }
            false
        });
        assert_eq!(found, [0, 1000]);
    }

    #[test]
    fn key_frames_that_others_ask_for_count() {
        let mut keys = KeyFrames::new(Interval::Auto);
        let mut found = Vec::new();
        for time in (0..8000).step_by(40) {
            // Requested by RTCP, or a scene cut.
            if [0, 1000, 4000].contains(&time) {
                keys.coded(time * MS);
            }
            if keys.picture(time * MS, true).first {
                found.push(time);
            }
        }
        assert_eq!(found, [3000, 6000]);
    }

    #[test]
    fn the_second_stream_keeps_its_own_rhythm() {
        let mut keys = KeyFrames::new(Interval::Auto);
        keys.coded(0);
        let second: Vec<u64> = (0..25_000)
            .step_by(40)
            .filter(|time| keys.picture(time * MS, true).second)
            .collect();
        assert_eq!(second, [10_000, 20_000]);
    }

    #[test]
    fn pictures_that_stay_away_spoil_nothing() {
        let mut keys = KeyFrames::new(Interval::Auto);
        keys.coded(0);
        let times = [0, 40, 60_000, 60_040, 61_960, 62_000];
        let found = times.map(|time| keys.picture(time * MS, true).first);
        // The last but one is nearest to two seconds later, including the gap before it.
        assert_eq!(found, [false, false, true, false, true, false]);
    }
}
