// SPDX-License-Identifier: MPL-2.0

//! The wish for a rate: what the objects need, within what can be inferred, for cameras that know wishes.

use std::time::Duration;

use dds_protocol::extension::{Bound, InForce};
use dds_protocol::identity::StreamKind;
use dds_protocol::wish::{Wish, Wishes};

use crate::identity::FrameRecord;
use crate::rate::Actual;

/// Time to live of a wish: a few lost generations, and a server that leaves is soon forgotten.
pub const WISH_TTL: Duration = Duration::from_secs(2);
/// Weight of the newest inference in the mean of their times: one in so many.
const SMOOTHING: u32 = 8;

/// Wishes and what became of them, of one stream.
#[derive(Debug, Default)]
pub struct Rate {
    in_force: Option<InForce>,
    wished: Option<u8>,
    /// Mean time of an inference.
    inference: Duration,
    changes: u64,
}

impl Rate {
    /// Forgets the stream; the time of inference stays.
    pub fn forget(&mut self) {
        self.in_force = None;
        self.wished = None;
    }

    /// Takes the record of a frame.
    pub fn note(&mut self, record: &FrameRecord) {
        if record
            .identity
            .is_some_and(|identity| identity.kind == StreamKind::Single)
            && let Some(in_force) = record.extension.in_force
        {
            self.in_force = Some(in_force);
        }
    }

    /// Takes the time of an inference.
    pub fn measure(&mut self, took: Duration) {
        self.inference = match self.inference.is_zero() {
            true => took,
            false => (self.inference * (SMOOTHING - 1) + took) / SMOOTHING,
        };
    }

    /// Whether the camera knows wishes: it has told what is in force.
    pub fn is_steerable(&self) -> bool {
        self.in_force.is_some()
    }

    /// What the camera does.
    pub fn actual(&self) -> Actual {
        Actual {
            interval: self.in_force.map_or(1, |in_force| in_force.interval),
            bounded: self.in_force.is_some_and(|i| i.bounds.interval != Bound::None),
            quantizer: self.in_force.map(|in_force| in_force.background_qp),
        }
    }

    /// What is in force, as far as the camera has told.
    pub fn in_force(&self) -> Option<InForce> {
        self.in_force
    }

    /// The last wish, and how often it changed.
    pub fn wished(&self) -> (Option<u8>, u64) {
        (self.wished, self.changes)
    }

    /// Makes the wish from the interval that is `wanted`. Of a `live` stream it asks for no more pictures than can be
    /// inferred. Nothing is wished of a camera that does not know wishes.
    pub fn wish(&mut self, wanted: u8, live: bool, frame_time: Duration) -> Wishes {
        if !self.is_steerable() {
            return Wishes::default();
        }
        // A tenth is left for what else takes time.
        let busy = (self.inference * 11 / 10)
            .as_nanos()
            .div_ceil(frame_time.as_nanos().max(1));
        let busy = u8::try_from(busy).unwrap_or(u8::MAX);
        let value = wanted.max(if live { busy } else { 1 }).max(1);
        let before = self.wished.replace(value);
        self.changes += u64::from(before.is_some_and(|before| before != value));
        Wishes {
            interval: Some(Wish {
                value,
                ttl_ms: WISH_TTL.as_millis() as u32,
            }),
            ..Wishes::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn steerable() -> Rate {
        Rate {
            in_force: Some(InForce {
                interval: 1,
                ..InForce::default()
            }),
            ..Rate::default()
        }
    }

    #[test]
    fn no_more_pictures_are_wished_than_can_be_inferred() {
        let mut rate = steerable();
        let wish = |rate: &mut Rate, wanted, live| rate.wish(wanted, live, 40 * MS).interval.unwrap().value;
        rate.measure(30 * MS);
        assert_eq!(wish(&mut rate, 1, true), 1);
        (0..50).for_each(|_| rate.measure(90 * MS));
        assert_eq!(wish(&mut rate, 1, true), 3);
        assert_eq!(wish(&mut rate, 4, true), 4, "the objects need fewer");
        rate.measure(Duration::from_secs(3600));
        assert_eq!(wish(&mut rate, 4, true), u8::MAX, "the camera bounds it");
        assert_eq!(wish(&mut rate, 1, false), 1, "there is time");
        assert_eq!(rate.wished(), (Some(1), 4));
    }

    #[test]
    fn a_camera_that_does_not_know_wishes_gets_none() {
        assert!(Rate::default().wish(3, true, 40 * MS).is_empty());
    }
}
