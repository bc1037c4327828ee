// SPDX-License-Identifier: MPL-2.0

//! When pictures are coded as key frames: recorders need them often, servers that steer hardly ever, and whoever joins needs
//! one at once.

#![forbid(unsafe_code)]

/// Nanoseconds of captured time between key frames while somebody watches who asks for nothing: recorders cut files, and
/// keep what was before an event, at key frames.
const FOR_RECORDERS: u64 = 2_000_000_000;
/// The same while all who watch send feedback, and so ask for a key frame where they miss one.
const FOR_SERVERS: u64 = 10_000_000_000;
/// Those who join within it share a key frame, so that joining cannot be used to flood the others.
const SHARED: u64 = 1_000_000_000;
/// Longest half interval between two pictures by which a key frame may come early, for the sake of an even spacing.
const MOST_EARLY: u64 = 100_000_000;

/// What `--key-interval` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Interval {
    /// By who watches.
    #[default]
    Auto,
    /// Nanoseconds.
    Fixed(u64),
    /// Nothing but for those who join: the encoder has a rhythm of its own.
    Encoder,
}

/// Which streams are to begin anew with a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ask {
    /// The stream of whole pictures.
    pub first: bool,
    /// That of second passes, which only servers watch.
    pub second: bool,
}

/// The key frames of one media. Times are those of capture, in nanoseconds of the media's running time.
#[derive(Clone, Debug)]
pub struct KeyFrames {
    interval: Interval,
    /// The last picture that came by.
    picture: Option<u64>,
    /// The last key frame of each stream.
    first: Option<u64>,
    second: Option<u64>,
    /// The last one that somebody who joined has caused.
    joined: Option<u64>,
    /// Somebody has joined since.
    waiting: bool,
}

impl KeyFrames {
    /// Of a media that is just made.
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

    /// Pictures begin to flow to the first who watches, whose key frame is the one that the stream begins with.
    pub fn open(&mut self) {
        self.joined = self.joined.max(self.first);
    }

    /// Somebody joins.
    pub fn join(&mut self) {
        self.waiting = true;
    }

    /// A picture taken at `at` is to be coded. `recorders`: somebody watches who sends no feedback.
    pub fn picture(&mut self, at: u64, recorders: bool) -> Ask {
        // The picture nearest to the time, not the first one behind it: spacings do not add up to more than was asked for.
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
        let ask = Ask {
            first: joins || due(self.first, first),
            second: joins || due(self.second, second),
        };
        if ask.first {
            self.first = Some(at);
        }
        if ask.second || self.second.is_none() {
            self.second = Some(at);
        }
        if joins {
            (self.joined, self.waiting) = (Some(at), false);
        }
        ask
    }

    /// The encoder has made the picture taken at `at` a key frame, whoever wanted it.
    pub fn coded(&mut self, at: u64) {
        self.first = self.first.max(Some(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Times in milliseconds of the key frames of the first stream, at 25 pictures a second up to `until`. The encoder
    /// begins with one; each picture asked for is one.
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
        // A recorder that comes in the middle and goes.
        let found = run(Interval::Auto, 25_000, |time, _| (11_000..16_000).contains(&time));
        // What is overdue comes at once.
        assert_eq!(found, [0, 10_000, 12_000, 14_000, 24_000]);
    }

    #[test]
    fn a_fixed_interval_holds_whoever_watches() {
        let fixed = Interval::Fixed(1500 * MS);
        // The picture nearest to the time: no interval is longer for good.
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
        // However often somebody joins, no more than one a second.
        let found = run(Interval::Auto, 10_000, |_, keys| {
            keys.join();
            true
        });
        assert!(found.len() <= 10, "{found:?}");
    }

    #[test]
    fn the_first_who_watches_shares_what_the_stream_begins_with() {
        // Nothing flows before somebody plays, 100 ms after the first picture.
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
            // By RTCP, or a cut in the scene.
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
        // The last but one is nearest to two seconds behind, with the gap that was before it.
        assert_eq!(found, [false, false, true, false, true, false]);
    }
}
