// SPDX-License-Identifier: MPL-2.0

//! Reassembles generations and passes on only newer, complete ones of one stream.

use crate::feedback::{self, FeedbackError, FeedbackPart, FeedbackState, MAX_REGIONS, Region};
use crate::serial::Serial16;
use crate::wish::Wishes;

/// Fate of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It completed a generation newer than every one before.
    Complete(FeedbackState),
    /// Kept; its generation still lacks parts.
    Partial,
    /// Part of a generation not newer than the last complete one, or of one older than that being assembled.
    Stale,
    /// This part, or this generation, has been received before.
    Duplicate,
    /// For another stream.
    Foreign,
    /// Not readable, or contradicting the other parts of its generation.
    Malformed(FeedbackError),
}

/// Counts of the fates of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Generations completed.
    pub complete: u64,
    /// Parts kept while their generation lacked others.
    pub partial: u64,
    /// Parts too old.
    pub stale: u64,
    /// Parts received before.
    pub duplicate: u64,
    /// Parts for another stream.
    pub foreign: u64,
    /// Unreadable packets.
    pub malformed: u64,
    /// Of those, packets of an unknown version.
    pub unknown_version: u64,
    /// Packets that carried a later extension.
    pub extensions: u64,
    /// Generations given up because a newer one began, or because of [`Assembler::reset`].
    pub incomplete: u64,
}

/// Assembler of one stream. Bounded: holds at most one incomplete generation.
///
/// Generations are compared by serial arithmetic, so a server that restarts with a generation behind its last one would
/// be ignored for up to 32768 generations. Two rules prevent that: servers start from a random generation, which helps
/// half of them, and the camera calls [`Assembler::reset`] each time no generation was completed for its feedback
/// timeout (stale and duplicate packets do not prolong that time), which helps the others. A camera that restarts has a
/// new stream ID and therefore a new assembler.
#[derive(Clone, Debug)]
pub struct Assembler {
    stream_id: u32,
    newest: Option<Serial16>,
    pending: Option<Pending>,
    counts: Counts,
}

/// A generation that lacks parts.
#[derive(Clone, Debug)]
struct Pending {
    generation: Serial16,
    frame: u64,
    wishes: Wishes,
    /// One place per part.
    parts: Vec<Option<Vec<Region>>>,
}

impl Pending {
    fn regions(&self) -> usize {
        self.parts.iter().flatten().map(Vec::len).sum()
    }
}

impl Assembler {
    /// An assembler that accepts feedback for this stream only.
    pub fn new(stream_id: u32) -> Self {
        Self {
            stream_id,
            newest: None,
            pending: None,
            counts: Counts::default(),
        }
    }

    /// Takes one bare feedback packet (no RTCP framing).
    pub fn push(&mut self, packet: &[u8]) -> Outcome {
        let outcome = match feedback::decode(packet) {
            Ok(part) => {
                self.counts.extensions += u64::from(part.skipped_extension > 0);
                self.place(part)
            }
            Err(error) => Outcome::Malformed(error),
        };
        let counts = &mut self.counts;
        match &outcome {
            Outcome::Complete(_) => counts.complete += 1,
            Outcome::Partial => counts.partial += 1,
            Outcome::Stale => counts.stale += 1,
            Outcome::Duplicate => counts.duplicate += 1,
            Outcome::Foreign => counts.foreign += 1,
            Outcome::Malformed(error) => {
                counts.malformed += 1;
                counts.unknown_version += u64::from(matches!(error, FeedbackError::UnknownVersion(_)));
            }
        }
        outcome
    }

    fn place(&mut self, part: FeedbackPart) -> Outcome {
        if part.stream_id != self.stream_id {
            return Outcome::Foreign;
        }
        match self.newest {
            Some(newest) if part.generation == newest => return Outcome::Duplicate,
            Some(newest) if !part.generation.is_newer_than(newest) => return Outcome::Stale,
            _ => {}
        }
        let mut pending = match self.pending.take() {
            Some(pending) if pending.generation == part.generation => pending,
            Some(pending) if !part.generation.is_newer_than(pending.generation) => {
                self.pending = Some(pending);
                return Outcome::Stale;
            }
            older => {
                self.counts.incomplete += u64::from(older.is_some());
                Pending {
                    generation: part.generation,
                    frame: part.frame,
                    wishes: Wishes::default(),
                    parts: vec![None; usize::from(part.parts)],
                }
            }
        };
        let outcome = pending.add(part);
        match outcome {
            None if pending.parts.iter().all(Option::is_some) => {
                self.newest = Some(pending.generation);
                Outcome::Complete(FeedbackState {
                    stream_id: self.stream_id,
                    generation: pending.generation,
                    frame: pending.frame,
                    regions: pending.parts.into_iter().flatten().flatten().collect(),
                    wishes: pending.wishes,
                })
            }
            outcome => {
                self.pending = Some(pending);
                outcome.unwrap_or(Outcome::Partial)
            }
        }
    }

    /// Forgets the newest generation, and parts of an incomplete one; counts stay. To be called when no generation was
    /// completed for the feedback timeout: the next complete one is accepted whatever its number.
    pub fn reset(&mut self) {
        self.newest = None;
        self.counts.incomplete += u64::from(self.pending.take().is_some());
    }

    /// The newest complete generation since construction or [`Assembler::reset`].
    pub fn newest(&self) -> Option<Serial16> {
        self.newest
    }

    /// The stream whose feedback is accepted.
    pub fn stream_id(&self) -> u32 {
        self.stream_id
    }

    /// Counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

impl Pending {
    /// Adds a part of this generation; returns its outcome if it is refused.
    fn add(&mut self, part: FeedbackPart) -> Option<Outcome> {
        let invalid = |field| Some(Outcome::Malformed(FeedbackError::InvalidField(field)));
        if usize::from(part.parts) != self.parts.len() {
            return invalid("parts");
        }
        if part.frame != self.frame {
            return invalid("frame");
        }
        let regions = self.regions();
        match self.parts.get_mut(usize::from(part.part)) {
            Some(Some(_)) => Some(Outcome::Duplicate),
            Some(_) if regions + part.regions.len() > MAX_REGIONS => invalid("regions of the generation"),
            Some(place) => {
                *place = Some(part.regions);
                if part.part == 0 {
                    self.wishes = part.wishes;
                }
                None
            }
            None => invalid("part"),
        }
    }
}
