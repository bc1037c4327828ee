// SPDX-License-Identifier: MPL-2.0

//! Wishes of a server about a whole stream: records after the region table of a feedback packet. The camera bounds them
//! and names what is in force ([`crate::extension::InForce`]).

/// Highest H.264 quantizer.
pub const MAX_QP: u8 = 51;
/// Unit of a wish's time to live on the wire, in milliseconds; values are rounded up.
pub const WISH_TTL_UNIT_MS: u32 = 100;
/// Longest time to live of a wish in milliseconds. Wishes are repeated with each generation, so that a server that
/// leaves is soon forgotten.
pub const MAX_WISH_TTL_MS: u32 = 255 * WISH_TTL_UNIT_MS;

/// Record types. 5 is reserved for a probe, 6 for the size of the picture.
const BACKGROUND_QP: u8 = 1;
const REGION_QP: u8 = 2;
const INTERVAL: u8 = 3;
const CEILING: u8 = 4;

/// Most bytes that [`Wishes::write`] appends.
pub(crate) const MAX_BYTES: usize = 3 * (2 + 2) + (2 + 5);

/// One wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Wish<T> {
    /// What is wished.
    pub value: T,
    /// Time to live after the camera received it, in milliseconds, at most [`MAX_WISH_TTL_MS`]. A wish without any is
    /// none.
    pub ttl_ms: u32,
}

/// The smaller of two values, for the shorter of their times.
fn shorter<T: Ord>(a: Wish<T>, b: Wish<T>) -> Wish<T> {
    Wish {
        value: a.value.min(b.value),
        ttl_ms: a.ttl_ms.min(b.ttl_ms),
    }
}

/// What a server wishes of a stream beside its regions. State, not deltas: a generation without a wish ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Wishes {
    /// Quantizer outside regions, 0..=51.
    pub background_qp: Option<Wish<u8>>,
    /// Quantizer of regions that do not name their own, 0..=51.
    pub region_qp: Option<Wish<u8>>,
    /// Send every n-th captured picture, 1..=255; 1: all of them.
    pub interval: Option<Wish<u8>>,
    /// Most kbit/s (1000 bits) of the stream, from 1.
    pub ceiling_kbps: Option<Wish<u32>>,
}

impl Wishes {
    /// Whether nothing is wished.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The wishes as the other side reads them: values in their ranges, times rounded up to [`WISH_TTL_UNIT_MS`] and at
    /// most [`MAX_WISH_TTL_MS`], none without a time to live.
    pub fn quantised(&self) -> Self {
        fn timed<T: Copy>(wish: Option<Wish<T>>, value: impl Fn(T) -> T) -> Option<Wish<T>> {
            let wish = wish.filter(|wish| wish.ttl_ms > 0)?;
            Some(Wish {
                value: value(wish.value),
                ttl_ms: wish.ttl_ms.min(MAX_WISH_TTL_MS).next_multiple_of(WISH_TTL_UNIT_MS),
            })
        }
        Self {
            background_qp: timed(self.background_qp, |qp| qp.min(MAX_QP)),
            region_qp: timed(self.region_qp, |qp| qp.min(MAX_QP)),
            interval: timed(self.interval, |interval| interval.max(1)),
            ceiling_kbps: timed(self.ceiling_kbps, |kbps| kbps.max(1)),
        }
    }

    /// The wishes `age_ms` later, without those that have expired.
    pub fn aged(&self, age_ms: u32) -> Self {
        fn of<T>(wish: Option<Wish<T>>, age_ms: u32) -> Option<Wish<T>> {
            let wish = wish?;
            let ttl_ms = wish.ttl_ms.checked_sub(age_ms).filter(|left| *left > 0)?;
            Some(Wish { ttl_ms, ..wish })
        }
        Self {
            background_qp: of(self.background_qp, age_ms),
            region_qp: of(self.region_qp, age_ms),
            interval: of(self.interval, age_ms),
            ceiling_kbps: of(self.ceiling_kbps, age_ms),
        }
    }

    /// The wishes of several servers as one: the highest rate, the finest quantizers, the lowest ceiling. A server that
    /// wishes no interval counts as one that wants every picture, and one that wishes no quantizer as content with the
    /// camera's `own` (background, region).
    ///
    /// Each joined wish lives as long as the shortest of those it is made of: then they have to be joined anew.
    pub fn joined(all: impl IntoIterator<Item = Self>, own: (u8, u8)) -> Self {
        let all: Vec<Self> = all.into_iter().map(|wishes| wishes.quantised()).collect();
        let finest = |of: fn(&Self) -> Option<Wish<u8>>, own: u8| {
            let wished = all.iter().filter_map(of);
            let content = all.iter().any(|wishes| of(wishes).is_none());
            wished.reduce(shorter).filter(|wish| !content || wish.value < own)
        };
        let every_one = |of: fn(&Self) -> Option<Wish<u8>>| {
            let wished: Option<Vec<Wish<u8>>> = all.iter().map(of).collect();
            wished?.into_iter().reduce(shorter)
        };
        Self {
            background_qp: finest(|wishes| wishes.background_qp, own.0),
            region_qp: finest(|wishes| wishes.region_qp, own.1),
            interval: every_one(|wishes| wishes.interval),
            ceiling_kbps: all.iter().filter_map(|wishes| wishes.ceiling_kbps).reduce(shorter),
        }
    }

    /// Appends the records.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let wishes = self.quantised();
        let mut record = |kind: u8, ttl_ms: u32, value: &[u8]| {
            out.extend([kind, 1 + value.len() as u8, (ttl_ms / WISH_TTL_UNIT_MS) as u8]);
            out.extend(value);
        };
        let bytes = [
            (BACKGROUND_QP, wishes.background_qp),
            (REGION_QP, wishes.region_qp),
            (INTERVAL, wishes.interval),
        ];
        for (kind, wish) in bytes {
            if let Some(Wish { value, ttl_ms }) = wish {
                record(kind, ttl_ms, &[value]);
            }
        }
        if let Some(Wish { value, ttl_ms }) = wishes.ceiling_kbps {
            record(CEILING, ttl_ms, &value.to_be_bytes());
        }
    }

    /// Reads the bytes after a region table. Returns the wishes, and the bytes that were skipped: records of types not
    /// known here, and what follows the last whole record.
    ///
    /// # Errors
    /// The name of the wish that is out of range, or comes twice.
    pub(crate) fn read(data: &[u8]) -> Result<(Self, usize), &'static str> {
        fn set<T>(place: &mut Option<Wish<T>>, value: T, ttl: u8, name: &'static str) -> Result<(), &'static str> {
            let ttl_ms = u32::from(ttl) * WISH_TTL_UNIT_MS;
            if ttl == 0 || place.replace(Wish { value, ttl_ms }).is_some() {
                return Err(name);
            }
            Ok(())
        }
        let (background, region) = ("background quantizer", "region quantizer");
        let mut wishes = Self::default();
        let (mut rest, mut skipped) = (data, 0);
        while let [kind, length, after @ ..] = rest {
            let Some((record, after)) = after.split_at_checked(usize::from(*length)) else {
                break;
            };
            match (*kind, record) {
                (BACKGROUND_QP, &[ttl, qp @ ..=MAX_QP]) => set(&mut wishes.background_qp, qp, ttl, background)?,
                (BACKGROUND_QP, _) => return Err(background),
                (REGION_QP, &[ttl, qp @ ..=MAX_QP]) => set(&mut wishes.region_qp, qp, ttl, region)?,
                (REGION_QP, _) => return Err(region),
                (INTERVAL, &[ttl, interval @ 1..=u8::MAX]) => set(&mut wishes.interval, interval, ttl, "interval")?,
                (INTERVAL, _) => return Err("interval"),
                (CEILING, &[ttl, k3, k2, k1, k0]) if [k3, k2, k1, k0] != [0; 4] => {
                    let kbps = u32::from_be_bytes([k3, k2, k1, k0]);
                    set(&mut wishes.ceiling_kbps, kbps, ttl, "ceiling")?;
                }
                (CEILING, _) => return Err("ceiling"),
                _ => skipped += 2 + record.len(),
            }
            rest = after;
        }
        Ok((wishes, skipped + rest.len()))
    }
}
