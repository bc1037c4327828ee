// SPDX-License-Identifier: MPL-2.0

//! A bad network between local UDP ports, reproducible by its seed.
//!
//! [`Impairment`] decides the fate of each datagram; it is a function of the seed, the datagram's number, its size and
//! its time, and has no socket. [`Relay`] adds sockets and threads for two of them, one for each direction.
//!
//! ```text
//! near end → port(Forward) ┆ relay ┆ → far end
//! near end ←              ┆ relay ┆ port(Backward) ← far end
//! ```

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::noise::Noise;

/// Loss in bursts: the model of Gilbert and Elliott, a Markov chain of two states that may change before each
/// datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Chance to go from the good state to the bad one, 0 to 1.
    pub p: f64,
    /// Chance to go back, 0 to 1: bad states last 1/r datagrams on average.
    pub r: f64,
    /// Loss in the good state, 0 to 1.
    pub good: f64,
    /// Loss in the bad state, 0 to 1.
    pub bad: f64,
}

impl Burst {
    /// Share of datagrams lost in the long run, 0 to 1.
    pub fn loss(&self) -> f64 {
        let states = self.p + self.r;
        if states <= 0.0 {
            // It never leaves its initial state.
            return self.good;
        }
        (self.p * self.bad + self.r * self.good) / states
    }
}

/// A link of limited rate, with the queue in front of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Rate in kbit/s (1000 bits), payloads only; 0 transmits nothing.
    pub kbps: u32,
    /// Size of the queue in bytes; a datagram that exceeds it is dropped.
    pub queue: usize,
}

/// Network conditions in one direction. The default impairs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Conditions {
    /// Probability of each datagram to be lost independently, 0 to 1.
    pub loss: f64,
    /// Loss in bursts, in addition.
    pub burst: Option<Burst>,
    /// Delay of every datagram.
    pub delay: Duration,
    /// Up to this much more delay, uniformly distributed; order is kept.
    pub jitter: Duration,
    /// Share of datagrams, 0 to 1, that are delayed by `hold`, so that later ones overtake them.
    pub reorder: f64,
    /// Additional delay of those.
    pub hold: Duration,
    /// Share of datagrams, 0 to 1, that are duplicated: the second one comes up to `jitter` and `hold` later.
    pub duplicate: f64,
    /// A limited rate, applied before delay and all that follows.
    pub rate: Option<Rate>,
    /// Drops everything.
    pub blackout: bool,
}

impl Conditions {
    /// Only independent loss, `loss` from 0 to 1.
    pub fn lossy(loss: f64) -> Self {
        Self {
            loss,
            ..Self::default()
        }
    }
}

/// Why a datagram does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Lost, independently or in a burst.
    Loss,
    /// The queue of the link was full.
    Queue,
    /// A blackout.
    Blackout,
}

/// Fate of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Passed {
        /// Arrival time, in nanoseconds.
        at: u64,
        /// Arrival time of its duplicate, if any.
        copy: Option<u64>,
    },
    /// It does not arrive.
    Dropped(Cause),
}

impl Fate {
    /// Whether it arrives.
    pub fn passed(&self) -> bool {
        matches!(self, Self::Passed { .. })
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Datagrams received.
    pub taken: u64,
    /// Of those, datagrams sent on, each counted once.
    pub passed: u64,
    /// Of those received, lost ones.
    pub lost: u64,
    /// Of those received, those dropped at a full queue.
    pub overflowed: u64,
    /// Of those received, those dropped in a blackout.
    pub blacked_out: u64,
    /// Of those sent on, duplicated ones.
    pub duplicated: u64,
    /// Of those sent on, those delayed by `hold`.
    pub reordered: u64,
}

impl Counts {
    /// Datagrams received and not sent on.
    pub fn dropped(&self) -> u64 {
        self.lost + self.overflowed + self.blacked_out
    }
}

/// Decides the fate of datagrams, for one direction.
///
/// For each datagram the same number of random values is drawn under any conditions, so the fate of the n-th one
/// depends on the seed, on n, and on the conditions at that time; with [`Conditions::rate`] also on sizes and times.
#[derive(Clone, Debug)]
pub struct Impairment {
    noise: Noise,
    conditions: Conditions,
    /// The chain of [`Burst`] is in its bad state.
    bad: bool,
    /// When the link has sent its queue, in nanoseconds.
    free_at: u64,
    /// Arrival time of the last datagram in order, in nanoseconds.
    last_at: u64,
    counts: Counts,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Impairment {
    /// Starts with these conditions and a generator of this seed.
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        let mut noise = Noise(seed);
        // The first values of small seeds are similar.
        for _ in 0..8 {
            noise.uniform();
        }
        Self {
            noise,
            conditions,
            bad: false,
            free_at: 0,
            last_at: 0,
            counts: Counts::default(),
        }
    }

    /// Sets the conditions from the next datagram on. Decided fates stay.
    pub fn set(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// The current conditions.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Fate of the next datagram, of `size` bytes, received at `now` (nanoseconds from any origin, never decreasing).
    pub fn next(&mut self, size: usize, now: u64) -> Fate {
        let [change, alone, in_burst, jitter, held, twice, copy] = std::array::from_fn(|_| self.noise.uniform());
        self.counts.taken += 1;
        let conditions = self.conditions;
        let burst_loss = conditions.burst.map_or(0.0, |burst| {
            self.bad = if self.bad { change >= burst.r } else { change < burst.p };
            if self.bad { burst.bad } else { burst.good }
        });
        if conditions.blackout {
            self.counts.blacked_out += 1;
            return Fate::Dropped(Cause::Blackout);
        }
        // A datagram lost in flight has used the link; which of the two is applied first is unspecified.
        if alone < conditions.loss || in_burst < burst_loss {
            self.counts.lost += 1;
            return Fate::Dropped(Cause::Loss);
        }
        let Some(sent) = self.sent(size, now) else {
            self.counts.overflowed += 1;
            return Fate::Dropped(Cause::Queue);
        };
        let share = |part: f64, whole: Duration| (part * nanoseconds(whole) as f64) as u64;
        let due = sent
            .saturating_add(nanoseconds(conditions.delay))
            .saturating_add(share(jitter, conditions.jitter));
        self.last_at = self.last_at.max(due);
        let mut at = self.last_at;
        if held < conditions.reorder {
            at = at.saturating_add(nanoseconds(conditions.hold));
            self.counts.reordered += 1;
        }
        let later = share(copy, conditions.jitter.saturating_add(conditions.hold));
        let copy = (twice < conditions.duplicate).then(|| at.saturating_add(later));
        self.counts.duplicated += u64::from(copy.is_some());
        self.counts.passed += 1;
        Fate::Passed { at, copy }
    }

    /// When the link has sent a datagram; `None` if its queue is full.
    fn sent(&mut self, size: usize, now: u64) -> Option<u64> {
        let Some(rate) = self.conditions.rate else {
            return Some(now);
        };
        if rate.kbps == 0 {
            return None;
        }
        // Nanoseconds per byte; from a million kbit/s on it is less than eight.
        let byte_ns = 8e6 / f64::from(rate.kbps);
        let waiting = self.free_at.saturating_sub(now) as f64 / byte_ns;
        if waiting + size as f64 > rate.queue as f64 {
            return None;
        }
        self.free_at = self
            .free_at
            .max(now)
            .saturating_add((size as f64 * byte_ns).ceil() as u64);
        Some(self.free_at)
    }
}

/// A direction through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the near end to the far end.
    Forward,
    /// From the far end to the near end.
    Backward,
}

/// Observes each datagram of one direction and its fate, in order, before it is sent on.
pub type Tap = Box<dyn FnMut(&[u8], &Fate) + Send>;

/// One direction of a relay.
struct Half {
    impairment: Mutex<Impairment>,
    tap: Mutex<Option<Tap>>,
    /// Destination of datagrams received on this side.
    socket: UdpSocket,
    port: u16,
}

/// Relays datagrams between two local ports, in both directions, until it is dropped. Datagrams in flight are lost
/// then.
///
/// It has a port of its own for each end: datagrams of the near end to `port(Forward)` leave from `port(Backward)` for
/// the far end's port, and vice versa; so both ends may reply to the source address.
pub struct Relay {
    forward: Arc<Half>,
    backward: Arc<Half>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// How often a waiting thread checks whether to end.
const PATIENCE: Duration = Duration::from_millis(50);
/// The largest UDP payload.
const LARGEST: usize = 65_507;

impl Relay {
    /// Starts to relay between the ports `near` and `far` of 127.0.0.1, without impairment. The two directions have
    /// separate generators.
    ///
    /// # Errors
    /// If no socket, port or thread is available.
    pub fn between(near: u16, far: u16, seed: u64) -> io::Result<Self> {
        let half = |seed| -> io::Result<Arc<Half>> {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(Arc::new(Half {
                impairment: Mutex::new(Impairment::new(seed, Conditions::default())),
                tap: Mutex::new(None),
                port: socket.local_addr()?.port(),
                socket,
            }))
        };
        let mut relay = Self {
            forward: half(seed)?,
            backward: half(!seed)?,
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for (half, other, to) in [
            (relay.forward.clone(), relay.backward.clone(), far),
            (relay.backward.clone(), relay.forward.clone(), near),
        ] {
            let (sender, due) = mpsc::channel();
            let stop = relay.stop.clone();
            let take = move || take_in(&half, &sender, &stop);
            let give = move || give_out(&other.socket, to, &due);
            for (name, run) in [
                ("relay-in", Box::new(take) as Box<dyn FnOnce() + Send>),
                ("relay-out", Box::new(give)),
            ] {
                relay
                    .threads
                    .push(std::thread::Builder::new().name(name.into()).spawn(run)?);
            }
        }
        Ok(relay)
    }

    fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Backward => &self.backward,
        }
    }

    /// The port to send to for this direction: to `port(Forward)` instead of to the far end.
    pub fn port(&self, direction: Direction) -> u16 {
        self.half(direction).port
    }

    /// Sets the conditions from the next datagram of this direction on.
    pub fn set(&self, direction: Direction, conditions: Conditions) {
        self.half(direction).impairment.lock().unwrap().set(conditions);
    }

    /// Counts of this direction so far.
    pub fn counts(&self, direction: Direction) -> Counts {
        self.half(direction).impairment.lock().unwrap().counts()
    }

    /// Passes every datagram of this direction from now on to `tap`.
    pub fn tap(&self, direction: Direction, tap: impl FnMut(&[u8], &Fate) + Send + 'static) {
        *self.half(direction).tap.lock().unwrap() = Some(Box::new(tap));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of the thread was printed already.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A datagram and the time to send it.
type Due = (Instant, Box<[u8]>);

/// Receives datagrams and decides their fate.
fn take_in(half: &Half, due: &mpsc::Sender<Due>, stop: &AtomicBool) {
    let origin = Instant::now();
    let mut bytes = vec![0; LARGEST];
    while !stop.load(Ordering::Relaxed) {
        // Nothing was received, or an earlier datagram could not be delivered, as is normal with UDP.
        let Ok(size) = half.socket.recv(&mut bytes) else {
            continue;
        };
        let datagram = &bytes[..size];
        let fate = half
            .impairment
            .lock()
            .unwrap()
            .next(size, nanoseconds(origin.elapsed()));
        if let Some(tap) = &mut *half.tap.lock().unwrap() {
            tap(datagram, &fate);
        }
        let Fate::Passed { at, copy } = fate else { continue };
        for at in std::iter::once(at).chain(copy) {
            // A time beyond the clock's range is never.
            let Some(at) = origin.checked_add(Duration::from_nanos(at)) else {
                continue;
            };
            if due.send((at, datagram.into())).is_err() {
                return;
            }
        }
    }
}

/// Sends each datagram at its time, equal times in order of arrival. Ends with [`take_in`].
fn give_out(socket: &UdpSocket, to: u16, due: &mpsc::Receiver<Due>) {
    let mut waiting = BTreeMap::new();
    for number in 0u64.. {
        let next: Option<&(Instant, u64)> = waiting.keys().next();
        let received = match next {
            Some((at, _)) => due.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => due.recv().map_err(Into::into),
        };
        match received {
            Ok((at, datagram)) => drop(waiting.insert((at, number), datagram)),
            Err(mpsc::RecvTimeoutError::Timeout) => (),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        while let Some(entry) = waiting.first_entry()
            && entry.key().0 <= Instant::now()
        {
            // A datagram to a port without a socket is lost, as on any network.
            let _ = socket.send_to(&entry.remove(), (Ipv4Addr::LOCALHOST, to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn fates(seed: u64, conditions: Conditions, n: u64) -> Vec<Fate> {
        let mut impairment = Impairment::new(seed, conditions);
        (0..n).map(|i| impairment.next(1000, i * MS)).collect()
    }

    fn all_at_once() -> Conditions {
        Conditions {
            loss: 0.05,
            burst: Some(Burst {
                p: 0.02,
                r: 0.2,
                good: 0.0,
                bad: 0.7,
            }),
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(10),
            reorder: 0.1,
            hold: Duration::from_millis(15),
            duplicate: 0.1,
            rate: Some(Rate {
                kbps: 7000,
                queue: 20_000,
            }),
            blackout: false,
        }
    }

    #[test]
    fn equal_traffic_has_equal_fates_and_another_seed_has_others() {
        let conditions = all_at_once();
        assert_eq!(fates(3, conditions, 5000), fates(3, conditions, 5000));
        assert_ne!(fates(3, conditions, 5000), fates(4, conditions, 5000));
    }

    #[test]
    fn no_harm_is_done_by_default() {
        let fates = fates(1, Conditions::default(), 1000);
        for (n, fate) in fates.iter().enumerate() {
            let at = n as u64 * MS;
            assert_eq!(*fate, Fate::Passed { at, copy: None });
        }
    }

    #[test]
    fn losses_do_not_depend_on_times_sizes_or_what_else_is_wrong() {
        let lost = |fates: Vec<Fate>| fates.iter().map(|f| !f.passed()).collect::<Vec<_>>();
        let plain = lost(fates(5, Conditions::lossy(0.2), 2000));
        let mut impairment = Impairment::new(5, Conditions::lossy(0.2));
        let elsewhere = (0..2000).map(|n| impairment.next(n as usize, n * n)).collect();
        assert_eq!(plain, lost(elsewhere));
        let more = Conditions {
            jitter: Duration::from_secs(1),
            duplicate: 0.5,
            reorder: 0.5,
            ..Conditions::lossy(0.2)
        };
        assert_eq!(plain, lost(fates(5, more, 2000)));
        // A temporary change of conditions does not shift later decisions.
        let mut impairment = Impairment::new(5, Conditions::default());
        let mut changed = Vec::new();
        for n in 0..2000 {
            if n == 1000 {
                impairment.set(Conditions::lossy(0.2));
            }
            changed.push(impairment.next(1000, n * MS));
        }
        assert_eq!(plain[1000..], lost(changed)[1000..]);
    }

    #[test]
    fn loss_is_independent_and_as_frequent_as_told() {
        for loss in [0.01, 0.05, 0.1, 0.3] {
            for seed in 0..5 {
                let lost: Vec<bool> = fates(seed, Conditions::lossy(loss), 50_000)
                    .iter()
                    .map(|f| !f.passed())
                    .collect();
                let share = lost.iter().filter(|l| **l).count() as f64 / lost.len() as f64;
                assert!((share - loss).abs() < 0.1 * loss + 0.001, "{share} for {loss}");
                let pairs = lost.windows(2).filter(|w| w[0] && w[1]).count() as f64 / lost.len() as f64;
                assert!(
                    (pairs - loss * loss).abs() < 0.2 * loss * loss + 0.0005,
                    "{pairs} for {loss}"
                );
            }
        }
    }

    #[test]
    fn bursts_last_as_long_and_come_as_often_as_told() {
        let burst = Burst {
            p: 0.01,
            r: 0.2,
            good: 0.0,
            bad: 1.0,
        };
        assert!((burst.loss() - 0.01 / 0.21).abs() < 1e-12);
        let conditions = Conditions {
            burst: Some(burst),
            ..Conditions::default()
        };
        for seed in 0..5 {
            let lost: Vec<bool> = fates(seed, conditions, 100_000).iter().map(|f| !f.passed()).collect();
            let count = lost.iter().filter(|l| **l).count() as f64;
            let bursts = lost.windows(2).filter(|w| !w[0] && w[1]).count() as f64;
            let share = count / lost.len() as f64;
            assert!((share - burst.loss()).abs() < 0.006, "{share}");
            assert!((count / bursts - 5.0).abs() < 0.5, "{} datagrams", count / bursts);
        }
        // Losses of the good state count too.
        let leaky = Burst {
            good: 0.05,
            bad: 0.5,
            ..burst
        };
        let conditions = Conditions {
            burst: Some(leaky),
            ..conditions
        };
        let lost = fates(9, conditions, 100_000).iter().filter(|f| !f.passed()).count() as f64 / 1e5;
        assert!((lost - leaky.loss()).abs() < 0.006, "{lost}, not {}", leaky.loss());
        let stuck = Burst {
            p: 0.0,
            r: 0.0,
            ..leaky
        };
        assert_eq!(stuck.loss(), 0.05);
    }

    #[test]
    fn delays_are_bounded_and_jitter_keeps_order() {
        let (delay, jitter) = (Duration::from_millis(40), Duration::from_millis(15));
        let conditions = Conditions {
            delay,
            jitter,
            ..Conditions::default()
        };
        let (mut last, mut sum) = (0, 0.0);
        for (n, fate) in fates(2, conditions, 10_000).iter().enumerate() {
            let Fate::Passed { at, copy: None } = *fate else {
                panic!("{fate:?}")
            };
            let took = at - n as u64 * MS;
            assert!((40 * MS..=55 * MS).contains(&took), "{took}");
            assert!(at >= last);
            last = at;
            sum += took as f64;
        }
        // In order, all others wait for the slowest.
        assert!(sum / 1e4 > 47.5e6, "{sum}");
    }

    #[test]
    fn held_datagrams_are_overtaken_and_copies_follow_their_datagram() {
        let conditions = Conditions {
            reorder: 0.1,
            hold: Duration::from_millis(5),
            duplicate: 0.2,
            ..Conditions::default()
        };
        let mut impairment = Impairment::new(2, conditions);
        let fates: Vec<Fate> = (0..20_000).map(|n| impairment.next(1000, n * MS)).collect();
        let mut arrivals = Vec::new();
        for (n, fate) in fates.iter().enumerate() {
            let Fate::Passed { at, copy } = *fate else {
                panic!("{fate:?}")
            };
            arrivals.push((at, n));
            assert!(copy.is_none_or(|copy| (at..=at + 5 * MS).contains(&copy)));
        }
        arrivals.sort_unstable();
        let (mut newest, mut overtaken) = (0, 0);
        for (_, n) in arrivals {
            overtaken += u64::from(n < newest);
            newest = newest.max(n);
        }
        let counts = impairment.counts();
        assert!((1800..2200).contains(&counts.reordered), "{counts:?}");
        assert!((3800..4200).contains(&counts.duplicated), "{counts:?}");
        // A delayed one among other delayed ones is not always overtaken.
        assert!(
            overtaken > counts.reordered * 9 / 10 && overtaken <= counts.reordered,
            "{overtaken}, {counts:?}"
        );
    }

    #[test]
    fn a_thin_link_carries_its_rate_and_bounds_its_queue() {
        let rate = Rate {
            kbps: 4000,
            queue: 10_000,
        };
        let conditions = Conditions {
            rate: Some(rate),
            ..Conditions::default()
        };
        // 8 Mbit/s for ten seconds.
        let mut impairment = Impairment::new(1, conditions);
        let mut last = 0;
        for n in 0..10_000 {
            if let Fate::Passed { at, .. } = impairment.next(1000, n * MS) {
                // 10000 bytes at 4 Mbit/s are 20 ms.
                assert!(at >= last + 2 * MS && at <= n * MS + 20 * MS, "{n}: {at}");
                last = at;
            }
        }
        let counts = impairment.counts();
        assert!((4990..=5020).contains(&counts.passed), "{counts:?}");
        assert_eq!(
            counts.passed + counts.overflowed,
            counts.taken,
            "nothing else is wrong: {counts:?}"
        );
        // What fits passes, and an idle link saves up no credit.
        let thin = |n| Impairment::new(1, conditions).next(n, 7);
        let (at, copy) = (7 + 20 * MS, None);
        assert_eq!(thin(10_000), Fate::Passed { at, copy });
        assert_eq!(thin(10_001), Fate::Dropped(Cause::Queue));
        let closed = Conditions {
            rate: Some(Rate { kbps: 0, ..rate }),
            ..conditions
        };
        assert_eq!(Impairment::new(1, closed).next(1, 0), Fate::Dropped(Cause::Queue));
    }

    #[test]
    fn a_blackout_ends() {
        let mut impairment = Impairment::new(1, Conditions::default());
        assert!(impairment.next(100, 0).passed());
        impairment.set(Conditions {
            blackout: true,
            ..Conditions::default()
        });
        assert_eq!(impairment.next(100, 1), Fate::Dropped(Cause::Blackout));
        impairment.set(Conditions::default());
        assert!(impairment.next(100, 2).passed());
        assert_eq!(impairment.counts().dropped(), 1);
    }

    #[test]
    fn no_condition_however_mad_overflows() {
        let mad = Conditions {
            loss: f64::NAN,
            burst: Some(Burst {
                p: -1.0,
                r: f64::INFINITY,
                good: f64::NAN,
                bad: 2.0,
            }),
            delay: Duration::MAX,
            jitter: Duration::MAX,
            reorder: f64::INFINITY,
            hold: Duration::MAX,
            duplicate: 9.0,
            rate: Some(Rate {
                kbps: 1,
                queue: usize::MAX,
            }),
            blackout: false,
        };
        let mut impairment = Impairment::new(u64::MAX, mad);
        for now in [0, 1, u64::MAX, 5] {
            let _ = impairment.next(usize::MAX, now);
        }
        assert_eq!(impairment.counts().taken, 4);
    }

    fn end() -> (UdpSocket, u16) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let port = socket.local_addr().unwrap().port();
        (socket, port)
    }

    fn receive(socket: &UdpSocket) -> (u32, u16) {
        let mut bytes = [0; 16];
        let (size, from) = socket.recv_from(&mut bytes).expect("a datagram within ten seconds");
        (u32::from_be_bytes(bytes[..size].try_into().unwrap()), from.port())
    }

    #[test]
    fn datagrams_go_both_ways_and_those_lost_are_those_decided() {
        let ((near, near_port), (far, far_port)) = (end(), end());
        let relay = Relay::between(near_port, far_port, 11).unwrap();
        let decided = Arc::new(Mutex::new(Vec::new()));
        let tapped = decided.clone();
        relay.tap(Direction::Forward, move |bytes, fate| {
            let number = u32::from_be_bytes(bytes.try_into().unwrap());
            tapped.lock().unwrap().push((number, fate.passed()));
        });
        relay.set(Direction::Forward, Conditions::lossy(0.3));
        for n in 0u32..200 {
            let to = (Ipv4Addr::LOCALHOST, relay.port(Direction::Forward));
            near.send_to(&n.to_be_bytes(), to).unwrap();
        }
        let mut alone = Impairment::new(11, Conditions::lossy(0.3));
        let expected: Vec<(u32, bool)> = (0..200).map(|n| (n, alone.next(4, 0).passed())).collect();
        for (number, _) in expected.iter().filter(|(_, passed)| *passed) {
            assert_eq!(receive(&far), (*number, relay.port(Direction::Backward)));
        }
        assert_eq!(*decided.lock().unwrap(), expected);
        assert_eq!(relay.counts(Direction::Forward), alone.counts());

        // A reply to the source address; without impairment, and independent of the other direction.
        let to = (Ipv4Addr::LOCALHOST, relay.port(Direction::Backward));
        far.send_to(&7u32.to_be_bytes(), to).unwrap();
        assert_eq!(receive(&near), (7, relay.port(Direction::Forward)));
        assert_eq!(
            relay.counts(Direction::Backward),
            Counts {
                taken: 1,
                passed: 1,
                ..Counts::default()
            }
        );
    }

    #[test]
    fn datagrams_wait_for_their_time_and_twice_is_twice() {
        let ((near, near_port), (far, far_port)) = (end(), end());
        let relay = Relay::between(near_port, far_port, 1).unwrap();
        let delay = Duration::from_millis(60);
        relay.set(
            Direction::Forward,
            Conditions {
                delay,
                duplicate: 1.0,
                ..Conditions::default()
            },
        );
        let started = Instant::now();
        for n in 0u32..10 {
            let to = (Ipv4Addr::LOCALHOST, relay.port(Direction::Forward));
            near.send_to(&n.to_be_bytes(), to).unwrap();
        }
        let mut arrived: Vec<u32> = (0..20).map(|_| receive(&far).0).collect();
        assert!(started.elapsed() >= delay);
        arrived.sort_unstable();
        assert_eq!(arrived, (0..10).flat_map(|n| [n, n]).collect::<Vec<_>>());
    }

    #[test]
    fn a_relay_that_is_dropped_ends() {
        let ((near, near_port), (_, far_port)) = (end(), end());
        let relay = Relay::between(near_port, far_port, 1).unwrap();
        let slow = Conditions {
            delay: Duration::from_secs(3600),
            ..Conditions::default()
        };
        relay.set(Direction::Forward, slow);
        near.send_to(&[1], (Ipv4Addr::LOCALHOST, relay.port(Direction::Forward)))
            .unwrap();
        while relay.counts(Direction::Forward).taken == 0 {
            std::thread::yield_now();
        }
        let started = Instant::now();
        drop(relay);
        assert!(started.elapsed() < Duration::from_secs(60), "not for what is under way");
    }
}
