// SPDX-License-Identifier: MPL-2.0

//! Wishes of servers: joined over the ways that feedback comes by, and bounded by what the user allows.

use dds_protocol::extension::{Bound, Bounds, InForce};
use dds_protocol::wish::{Wish, Wishes};

use super::receiver::{FeedbackUpdate, Way};
use super::types::{CameraSettings, MAX_QP, MIN_QP};

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;
/// Part by which a lower interval has to keep a ceiling with room before it is taken again.
const ROOM: f64 = 0.85;

/// What the servers that are alive wish together: the highest rate, the finest quantizers, the lowest ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Joined {
    pub interval: Option<u8>,
    pub background_qp: Option<u8>,
    pub region_qp: Option<u8>,
    pub ceiling_kbps: Option<u32>,
    /// Any server is alive.
    pub heard: bool,
    /// Of interval, quantizers and ceiling: some server wished for less and gives way to another one.
    apart: (bool, bool, bool),
}

/// Newest wishes of each way, until they end.
#[derive(Clone, Debug, Default)]
pub(super) struct WishBook {
    /// By [`Way`]: the wishes and when they came; `None` where no server is alive.
    heard: [Option<(Wishes, u64)>; Way::COUNT],
    /// By [`Way`]: those that count.
    counts: [bool; Way::COUNT],
    own: (u8, u8),
    joined: Joined,
    /// When `joined` has to be joined anew, at the latest.
    until: u64,
}

impl WishBook {
    /// Takes the news of a frame. A way that is silent, rests or was flushed has no wishes; one that is alive and wishes
    /// nothing wants every picture.
    pub(super) fn hear(&mut self, now: u64, update: &FeedbackUpdate, own: (u8, u8)) -> &Joined {
        let mut changed = self.own != own || now >= self.until;
        self.own = own;
        for (place, way) in update.ways.iter().enumerate() {
            if way.ended {
                changed |= self.heard[place].take().is_some();
            }
            if let Some(state) = &way.state {
                self.heard[place] = Some((state.feedback.wishes, now));
                changed = true;
            }
            let counts = self.heard[place].is_some() && !way.rests;
            changed |= std::mem::replace(&mut self.counts[place], counts) != counts;
        }
        if changed {
            self.join(now);
        }
        &self.joined
    }

    /// Whether any server is alive.
    pub(super) fn is_heard(&self) -> bool {
        self.joined.heard
    }

    /// Whether the servers that are alive have all wished for an interval.
    pub(super) fn interval_is_wished(&self) -> bool {
        self.joined.interval.is_some()
    }

    fn join(&mut self, now: u64) {
        self.until = u64::MAX;
        self.joined = Joined::default();
        let own = self.own;
        let mut alive = [Wishes::default(); Way::COUNT];
        let mut count = 0;
        for (heard, counts) in self.heard.iter().zip(self.counts) {
            let Some((wishes, at)) = heard.filter(|_| counts) else {
                continue;
            };
            alive[count] = unexpired(&wishes, at, now, &mut self.until);
            count += 1;
        }
        let alive = &alive[..count];
        self.joined.heard = !alive.is_empty();
        if alive.iter().all(Wishes::is_empty) {
            return;
        }
        let joined = Wishes::joined(alive.iter().copied(), own);
        let value = |wish: Option<Wish<u8>>, none: u8| wish.map_or(none, |wish| wish.value);
        self.joined = Joined {
            interval: joined.interval.map(|wish| wish.value),
            background_qp: joined.background_qp.map(|wish| wish.value),
            region_qp: joined.region_qp.map(|wish| wish.value),
            ceiling_kbps: joined.ceiling_kbps.map(|wish| wish.value),
            heard: true,
            apart: (
                alive
                    .iter()
                    .any(|one| value(one.interval, 1) > value(joined.interval, 1)),
                alive.iter().any(|one| {
                    value(one.background_qp, own.0) > value(joined.background_qp, own.0)
                        || value(one.region_qp, own.1) > value(joined.region_qp, own.1)
                }),
                alive.iter().any(|one| {
                    let kbps = |wishes: &Wishes| wishes.ceiling_kbps.map(|wish| wish.value);
                    kbps(one).is_some() && kbps(one) > kbps(&joined)
                }),
            ),
        };
    }

    /// Forgets everything, for another stream.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Time went back by `by`.
    pub(super) fn shift_back(&mut self, by: u64) {
        for (_, at) in self.heard.iter_mut().flatten() {
            *at = at.saturating_sub(by);
        }
        self.until = 0;
    }
}

/// The wishes whose time to live has not ended; `until` becomes the first end of those.
fn unexpired(wishes: &Wishes, at: u64, now: u64, until: &mut u64) -> Wishes {
    fn alive<T: Copy>(wish: Option<Wish<T>>, at: u64, now: u64, until: &mut u64) -> Option<Wish<T>> {
        let end = at.saturating_add(u64::from(wish?.ttl_ms) * MS);
        if now >= end {
            return None;
        }
        *until = (*until).min(end);
        wish
    }
    Wishes {
        background_qp: alive(wishes.background_qp, at, now, until),
        region_qp: alive(wishes.region_qp, at, now, until),
        interval: alive(wishes.interval, at, now, until),
        ceiling_kbps: alive(wishes.ceiling_kbps, at, now, until),
    }
}

/// State of the stream that bounds wishes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// Captured pictures per second.
    pub rate: f64,
    /// Pictures were lost and are not whole yet.
    pub damaged: bool,
    /// Bytes of a picture at the coarsest quantizers that wishes reach; 0 where unknown.
    pub coarsest_bytes: f64,
    /// kbit/s of the bandwidth that is set, 0 = none.
    pub bandwidth_kbps: u32,
}

/// What wishes come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// Every n-th captured picture is sent.
    pub interval: u8,
    /// Quantizers outside and inside regions, where they are wished.
    pub background_qp: Option<u8>,
    pub region_qp: Option<u8>,
    /// kbit/s, 0 = none is wished.
    pub ceiling_kbps: u32,
    pub bounds: Bounds,
}

impl Default for Granted {
    fn default() -> Self {
        Self {
            interval: 1,
            background_qp: None,
            region_qp: None,
            ceiling_kbps: 0,
            bounds: Bounds {
                interval: Bound::Fallback,
                ..Bounds::default()
            },
        }
    }
}

impl Granted {
    /// Bounds the joined wishes by the settings of the user. `before`: the interval so far.
    pub(super) fn of(joined: &Joined, settings: &CameraSettings, situation: &Situation, before: u8) -> Self {
        if !joined.heard || !settings.wishes.interval {
            return Self::default();
        }
        let mut granted = Self {
            bounds: Bounds::default(),
            ..Self::default()
        };
        granted.grant_quantizers(joined, settings);
        let (most, bound) = most_interval(settings, situation.rate);
        let wished = joined.interval.unwrap_or(1);
        granted.interval = wished.min(most);
        granted.bounds.interval = match wished > most {
            true => bound,
            false if joined.apart.0 => Bound::Server,
            false => Bound::None,
        };
        granted.grant_ceiling(joined, settings, situation, (before, most, bound));
        // Last, so that all else is told as it will be again.
        if situation.damaged && granted.interval > 1 {
            (granted.interval, granted.bounds.interval) = (1, Bound::Loss);
        }
        granted
    }

    fn grant_quantizers(&mut self, joined: &Joined, settings: &CameraSettings) {
        let wished = joined.background_qp.or(joined.region_qp).is_some();
        if !settings.wishes.quantizers {
            let bound = match settings.bandwidth {
                Some(_) => Bound::Bandwidth,
                None => Bound::Mode,
            };
            self.bounds.quantizer = if wished { bound } else { Bound::None };
            return;
        }
        // Whatever the user set beyond these limits stays: no wish leads there.
        let (low, high) = coarsest(settings);
        let limit = |wish: Option<u8>| wish.map(|qp| qp.max(low).min(high));
        self.background_qp = limit(joined.background_qp);
        self.region_qp = limit(joined.region_qp);
        let limited = (self.background_qp, self.region_qp) != (joined.background_qp, joined.region_qp);
        self.bounds.quantizer = match limited {
            true => Bound::User,
            false if joined.apart.1 => Bound::Server,
            false => Bound::None,
        };
    }

    /// A ceiling raises the interval where the coarsest quantizers do not keep it, as far as it may.
    fn grant_ceiling(
        &mut self,
        joined: &Joined,
        settings: &CameraSettings,
        situation: &Situation,
        (before, most, bound): (u8, u8, Bound),
    ) {
        let Some(kbps) = joined.ceiling_kbps else { return };
        if !settings.wishes.ceiling {
            self.bounds.ceiling = Bound::Mode;
            return;
        }
        let lower = |other: u32| (1..kbps).contains(&other);
        if lower(settings.max_bitrate_kbps) || lower(situation.bandwidth_kbps) {
            let cap = lower(settings.max_bitrate_kbps)
                && (situation.bandwidth_kbps == 0 || settings.max_bitrate_kbps <= situation.bandwidth_kbps);
            self.bounds.ceiling = if cap { Bound::Cap } else { Bound::Bandwidth };
            return;
        }
        self.ceiling_kbps = kbps;
        if joined.apart.2 {
            self.bounds.ceiling = Bound::Server;
        }
        // Picture by picture as large as the ceiling lets it be on the mean.
        let needed = situation.coarsest_bytes * situation.rate / (f64::from(kbps) * 125.0);
        if needed > f64::from(most) {
            self.bounds.ceiling = bound;
        }
        let held = f64::from(before.saturating_sub(1)) * ROOM < needed && needed <= f64::from(before);
        let needed = if held { before } else { needed.ceil().min(255.0) as u8 };
        self.interval = self.interval.max(needed.min(most)).max(1);
    }
}

/// Finest and coarsest quantizer that a wish reaches.
pub(super) fn coarsest(settings: &CameraSettings) -> (u8, u8) {
    let (low, high) = settings.qp_limits;
    let high = high.min(settings.wishes.max_background_qp).clamp(MIN_QP, MAX_QP);
    (low.clamp(MIN_QP, high), high)
}

/// The largest interval that may be in force, and what bounds it.
fn most_interval(settings: &CameraSettings, rate: f64) -> (u8, Bound) {
    // A rate that is measured may be a little below the one that is meant.
    let most = |least: f64| ((rate / least) * 1.02).clamp(1.0, 255.0) as u8;
    let wishes = &settings.wishes;
    let user = if wishes.min_frame_rate > 0.0 {
        most(wishes.min_frame_rate)
    } else {
        u8::MAX
    };
    if wishes.viewer_frame_rate > 0.0 && most(wishes.viewer_frame_rate) < user {
        return (most(wishes.viewer_frame_rate), Bound::Viewer);
    }
    (user, Bound::User)
}

/// Tells what is in force: on changes, and while a server is alive again after a second. Quantizers that a cap or a bandwidth moves from picture
/// to picture are told now and then, or telling would take bits that they are there to save.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Teller {
    told: Option<(InForce, u64)>,
}

impl Teller {
    /// Longest time without telling a server, and shortest with other quantizers alone, in nanoseconds.
    const AGAIN: u64 = 1000 * MS;
    const QUANTIZERS: u64 = 250 * MS;

    /// Whether it has to be told with this frame.
    pub(super) fn is_due(&self, now: u64, in_force: &InForce, heard: bool) -> bool {
        let Some((told, at)) = self.told else { return true };
        let age = now.saturating_sub(at);
        let rates = |of: &InForce| (of.interval, of.ceiling_kbps, of.bounds.interval, of.bounds.ceiling);
        now < at
            || heard && age >= Self::AGAIN
            || rates(&told) != rates(in_force)
            || told != *in_force && age >= Self::QUANTIZERS
    }

    /// It was told.
    pub(super) fn told(&mut self, now: u64, in_force: InForce) {
        self.told = Some((in_force, now));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dds_protocol::feedback::FeedbackState;
    use proptest::prelude::*;

    use super::super::receiver::ReceivedState;
    use super::super::types::{Bandwidth, WishBounds};
    use super::*;

    fn wish<T>(value: T) -> Option<Wish<T>> {
        Some(Wish { value, ttl_ms: 1000 })
    }

    fn every(interval: u8) -> Wishes {
        Wishes {
            interval: wish(interval),
            ..Wishes::default()
        }
    }

    /// News of some ways.
    fn update(news: &[(Way, Wishes)]) -> FeedbackUpdate {
        let mut update = FeedbackUpdate::default();
        for (way, wishes) in news {
            update.ways[*way as usize].state = Some(ReceivedState {
                feedback: Arc::new(FeedbackState {
                    wishes: *wishes,
                    ..FeedbackState::default()
                }),
                news: true,
            });
        }
        update
    }

    fn settings() -> CameraSettings {
        CameraSettings {
            wishes: WishBounds::ALL,
            ..CameraSettings::default()
        }
    }

    const CALM: Situation = Situation {
        rate: 30.0,
        damaged: false,
        coarsest_bytes: 0.0,
        bandwidth_kbps: 0,
    };

    /// What these wishes of one server come to.
    fn granted(wishes: Wishes, settings: &CameraSettings, situation: &Situation) -> Granted {
        let mut book = WishBook::default();
        let joined = *book.hear(0, &update(&[(Way::Pad, wishes)]), (36, 26));
        Granted::of(&joined, settings, situation, 1)
    }

    #[test]
    fn the_highest_rate_of_all_ways_holds_and_who_is_silent_about_it_wants_every_picture() {
        let mut book = WishBook::default();
        let hear = |book: &mut WishBook, ms: u64, news: &[(Way, Wishes)]| *book.hear(ms * MS, &update(news), (36, 26));
        assert_eq!(hear(&mut book, 0, &[]), Joined::default());
        let one = hear(&mut book, 0, &[(Way::Rtcp, every(6))]);
        assert_eq!((one.interval, one.apart.0), (Some(6), false));
        let two = hear(&mut book, 10, &[(Way::Uri, every(2))]);
        assert_eq!((two.interval, two.apart.0), (Some(2), true));
        let silent = hear(&mut book, 20, &[(Way::Event, Wishes::default())]);
        assert_eq!((silent.interval, silent.heard), (None, true));
        // It falls silent, and those that are left have it their way.
        let mut ended = update(&[]);
        ended.ways[Way::Event as usize].ended = true;
        assert_eq!(book.hear(30 * MS, &ended, (36, 26)).interval, Some(2));
        let mut rests = update(&[]);
        rests.ways[Way::Uri as usize].rests = true;
        assert_eq!(book.hear(40 * MS, &rests, (36, 26)).interval, Some(6));
    }

    #[test]
    fn a_wish_lapses_with_its_time_to_live_and_with_a_state_that_lacks_it() {
        let mut book = WishBook::default();
        let news = update(&[(Way::Pad, every(4))]);
        assert_eq!(book.hear(0, &news, (36, 26)).interval, Some(4));
        let mut later = |ms: u64| book.hear(ms * MS, &FeedbackUpdate::default(), (36, 26)).interval;
        assert_eq!((later(999), later(1000), later(1001)), (Some(4), None, None));
        book.hear(1100 * MS, &news, (36, 26));
        let none = update(&[(Way::Pad, Wishes::default())]);
        assert_eq!(book.hear(1200 * MS, &none, (36, 26)).interval, None);
        // Time that goes back makes no wish longer.
        book.hear(2000 * MS, &news, (36, 26));
        book.shift_back(1500 * MS);
        let mut later = |ms: u64| book.hear(ms * MS, &FeedbackUpdate::default(), (36, 26)).interval;
        assert_eq!((later(1499), later(1500)), (Some(4), None));
        book.clear();
        assert!(!book.hear(1500 * MS, &FeedbackUpdate::default(), (36, 26)).heard);
    }

    #[test]
    fn forged_wishes_stay_within_the_bounds_and_are_told_what_bounds_them() {
        let forged = Wishes {
            background_qp: wish(51),
            region_qp: wish(51),
            interval: wish(255),
            ceiling_kbps: wish(1),
        };
        let busy = Situation {
            coarsest_bytes: 5000.0,
            ..CALM
        };
        let granted_all = granted(forged, &settings(), &busy);
        assert_eq!(
            (granted_all.interval, granted_all.background_qp, granted_all.region_qp),
            (6, Some(48), Some(48))
        );
        assert_eq!(
            granted_all.bounds,
            Bounds {
                quantizer: Bound::User,
                interval: Bound::User,
                ceiling: Bound::User
            }
        );
        let fine = Wishes {
            background_qp: wish(0),
            ..Wishes::default()
        };
        let limited = CameraSettings {
            qp_limits: (20, 40),
            ..settings()
        };
        assert_eq!(granted(fine, &settings(), &CALM).background_qp, Some(1));
        assert_eq!(granted(fine, &limited, &CALM).background_qp, Some(20));
        assert_eq!(granted(forged, &limited, &CALM).background_qp, Some(40));
    }

    #[test]
    fn bounds_never_move_what_the_user_sets() {
        let coarse = CameraSettings {
            background_qp: 50,
            ..settings()
        };
        let slow = Situation { rate: 2.0, ..CALM };
        let nothing = granted(every(1), &coarse, &slow);
        assert_eq!((nothing.interval, nothing.background_qp), (1, None));
        // Nor is a camera that is slower than the bound slowed down any more.
        assert_eq!(granted(every(9), &coarse, &slow).interval, 1);
    }

    #[test]
    fn what_bounds_the_interval_is_told_by_name() {
        let viewed = |rate| CameraSettings {
            wishes: WishBounds {
                viewer_frame_rate: rate,
                ..WishBounds::ALL
            },
            ..settings()
        };
        let damaged = Situation { damaged: true, ..CALM };
        for (settings, situation, interval, bound) in [
            (settings(), CALM, 5, Bound::None),
            (viewed(10.0), CALM, 3, Bound::Viewer),
            (viewed(1000.0), CALM, 1, Bound::Viewer),
            (viewed(1.0), CALM, 5, Bound::None),
            (settings(), Situation { rate: 10.0, ..CALM }, 2, Bound::User),
            (settings(), Situation { rate: 24.9, ..CALM }, 5, Bound::None),
            (settings(), damaged, 1, Bound::Loss),
            (CameraSettings::default(), CALM, 1, Bound::Fallback),
        ] {
            let granted = granted(every(5), &settings, &situation);
            assert_eq!((granted.interval, granted.bounds.interval), (interval, bound));
        }
        assert_eq!(
            Granted::of(&Joined::default(), &settings(), &CALM, 3),
            Granted::default()
        );
    }

    #[test]
    fn where_something_else_chooses_quantizers_they_are_refused_and_the_rate_is_not() {
        let wishes = Wishes {
            background_qp: wish(44),
            ceiling_kbps: wish(500),
            ..every(3)
        };
        let of_library = CameraSettings {
            wishes: WishBounds {
                quantizers: false,
                ceiling: false,
                ..WishBounds::ALL
            },
            ..settings()
        };
        let refused = granted(wishes, &of_library, &CALM);
        assert_eq!(
            (refused.interval, refused.background_qp, refused.ceiling_kbps),
            (3, None, 0)
        );
        assert_eq!(
            (
                refused.bounds.quantizer,
                refused.bounds.ceiling,
                refused.bounds.interval
            ),
            (Bound::Mode, Bound::Mode, Bound::None)
        );
        let controlled = CameraSettings {
            bandwidth: Some(Bandwidth {
                max_kbps: 400,
                min_kbps: 0,
            }),
            wishes: WishBounds {
                quantizers: false,
                ..WishBounds::ALL
            },
            ..settings()
        };
        let situation = Situation {
            bandwidth_kbps: 400,
            ..CALM
        };
        let bounded = granted(wishes, &controlled, &situation);
        assert_eq!(
            (bounded.bounds.quantizer, bounded.bounds.ceiling, bounded.ceiling_kbps),
            (Bound::Bandwidth, Bound::Bandwidth, 0)
        );
    }

    #[test]
    fn a_ceiling_raises_the_interval_only_where_the_coarsest_quantizers_exceed_it_and_gently_lowers_it_again() {
        let ceiling = Wishes {
            ceiling_kbps: wish(480),
            ..Wishes::default()
        };
        // 480 kbit/s are 2000 bytes for each of 30 pictures a second.
        let interval = |bytes: f64, before: u8| {
            let mut book = WishBook::default();
            let joined = *book.hear(0, &update(&[(Way::Pad, ceiling)]), (36, 26));
            let situation = Situation {
                coarsest_bytes: bytes,
                ..CALM
            };
            let granted = Granted::of(&joined, &settings(), &situation, before);
            (granted.interval, granted.bounds.ceiling)
        };
        assert_eq!(interval(1500.0, 1), (1, Bound::None));
        assert_eq!(interval(3900.0, 1), (2, Bound::None));
        assert_eq!(interval(3900.0, 3), (3, Bound::None), "2 would hardly do");
        assert_eq!(interval(3000.0, 3), (2, Bound::None));
        assert_eq!(interval(90_000.0, 3), (6, Bound::User), "it is exceeded");
        assert_eq!(interval(f64::INFINITY, 3), (6, Bound::User));
        let capped = CameraSettings {
            max_bitrate_kbps: 300,
            ..settings()
        };
        let granted = granted(ceiling, &capped, &CALM);
        assert_eq!((granted.ceiling_kbps, granted.bounds.ceiling), (0, Bound::Cap));
    }

    #[test]
    fn what_is_in_force_is_told_on_changes_and_after_a_second() {
        let mut teller = Teller::default();
        let in_force = InForce::default();
        let other = InForce {
            interval: 3,
            ..in_force
        };
        assert!(teller.is_due(0, &in_force, true));
        teller.told(0, in_force);
        assert!(!teller.is_due(999 * MS, &in_force, true));
        assert!(!teller.is_due(9000 * MS, &in_force, false), "there is nobody to tell");
        assert!(teller.is_due(1000 * MS, &in_force, true) && teller.is_due(1, &other, true));
        let coarser = InForce {
            background_qp: 40,
            ..in_force
        };
        assert!(!teller.is_due(249 * MS, &coarser, true) && teller.is_due(250 * MS, &coarser, true));
        teller.told(2000 * MS, in_force);
        assert!(teller.is_due(0, &in_force, true), "a seek");
    }

    proptest! {
        #[test]
        fn no_wish_leads_beyond_the_bounds(
            wishes in prop::collection::vec((0u8..=51, 0u8..=51, 1u8.., 1u32.., 0u8..16), 0..5),
            (rate, least, viewers) in (0.01f64..1000.0, 0.0f64..60.0, 0.0f64..60.0),
            (coarsest, low, high) in (1u8..=51, 1u8..=51, 1u8..=51),
            (bytes, damaged, before) in (0.0f64..1e7, any::<bool>(), 1u8..),
        ) {
            let news: Vec<_> = Way::ALL
                .into_iter()
                .zip(wishes)
                .map(|(way, (background, region, interval, kbps, which))| {
                    let wishes = Wishes {
                        background_qp: wish(background).filter(|_| which & 1 > 0),
                        region_qp: wish(region).filter(|_| which & 2 > 0),
                        interval: wish(interval).filter(|_| which & 4 > 0),
                        ceiling_kbps: wish(kbps).filter(|_| which & 8 > 0),
                    };
                    (way, wishes)
                })
                .collect();
            let settings = CameraSettings {
                qp_limits: (low.min(high), high),
                wishes: WishBounds {
                    min_frame_rate: least,
                    viewer_frame_rate: viewers,
                    max_background_qp: coarsest,
                    ..WishBounds::ALL
                },
                ..CameraSettings::default()
            };
            let situation = Situation { rate, damaged, coarsest_bytes: bytes, ..CALM };
            let joined = *WishBook::default().hear(0, &update(&news), (36, 26));
            let granted = Granted::of(&joined, &settings, &situation, before);
            prop_assert!(granted.interval >= 1);
            let slowest = rate / f64::from(granted.interval) * 1.02;
            let needed = least.max(viewers).min(rate);
            prop_assert!(slowest >= needed, "{slowest} of {needed}");
            for qp in [granted.background_qp, granted.region_qp].into_iter().flatten() {
                prop_assert!((1..=coarsest.min(high)).contains(&qp));
            }
            prop_assert!(!damaged || granted.interval == 1);
        }
    }
}
