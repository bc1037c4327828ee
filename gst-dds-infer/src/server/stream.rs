// SPDX-License-Identifier: MPL-2.0

//! Origin of the stream, and which of its frames may steer the camera.

use dds_protocol::identity::FrameIdentity;

use super::types::Decoded;
use crate::identity::{FrameRecord, Lookup, Origin};

/// Frames without identity after which a stream counts as foreign where no encoded stream was found upstream.
pub const FOREIGN_FRAMES: u32 = 30;

/// The stream that frames belong to.
#[derive(Debug, Default)]
pub struct Stream {
    id: Option<u32>,
    /// Frames in a row without identity.
    without_identity: u32,
    foreign_reported: bool,
    /// Size of the captured picture, from the extension of a stream of two passes.
    full_size: Option<(u32, u32)>,
    attached: AttachedTracker,
}

/// A frame's record, and changes of its stream.
#[derive(Debug)]
pub struct Recognised {
    pub record: FrameRecord,
    /// The stream has changed.
    pub replaced: bool,
    /// The stream is foreign; reported once.
    pub foreign: Option<Origin>,
}

impl Stream {
    /// Size of the captured picture where the first pass is scaled down.
    pub fn full_size(&self) -> Option<(u32, u32)> {
        self.full_size
    }

    /// Forgets the counters, which do not continue after a flush.
    pub fn flush(&mut self) {
        self.attached = AttachedTracker::default();
    }

    /// Finds the identity of a frame and whether it is damaged.
    pub fn recognise<F>(&mut self, decoded: &Decoded<F>) -> Recognised {
        let mut record = match &decoded.lookup {
            Lookup::Known(record) => record.clone(),
            // The encoded stream was not read: a parser may have attached the identity. Without it, a frame of a stream
            // of ours counts as damaged, since no counter covers it.
            Lookup::Unknown => match decoded.attached {
                Some(identity) => self.attached.record(identity),
                None => FrameRecord {
                    damaged: decoded.origin == Origin::Ours,
                    ..FrameRecord::default()
                },
            },
        };
        record.damaged |= decoded.corrupted;
        let (mut replaced, mut foreign) = (false, None);
        match record.identity {
            Some(identity) => {
                self.without_identity = 0;
                if self.id.replace(identity.stream_id) != Some(identity.stream_id) {
                    self.foreign_reported = false;
                    self.full_size = None;
                    replaced = true;
                }
            }
            None => {
                self.without_identity = self.without_identity.saturating_add(1);
                let is_foreign = decoded.origin == Origin::Foreign
                    || (decoded.origin == Origin::Undecided && self.without_identity == FOREIGN_FRAMES);
                if is_foreign && !std::mem::replace(&mut self.foreign_reported, true) {
                    foreign = Some(decoded.origin);
                }
            }
        }
        if let Some((width, height)) = record.extension.full_size {
            self.full_size = Some((u32::from(width), u32::from(height)));
        }
        Recognised {
            record,
            replaced,
            foreign,
        }
    }
}

/// Detects damage by the counters alone, where identities come only from a parser's metas.
#[derive(Debug, Default)]
struct AttachedTracker {
    expected: Option<(u32, u32)>,
    clean: bool,
}

impl AttachedTracker {
    fn record(&mut self, identity: FrameIdentity) -> FrameRecord {
        let here = (identity.stream_id, identity.access_unit);
        if identity.recovery {
            self.clean = true;
        } else if self.expected != Some(here) {
            self.clean = false;
        }
        self.expected = Some((identity.stream_id, identity.access_unit.wrapping_add(1)));
        FrameRecord {
            identity: Some(identity),
            damaged: !self.clean,
            ..FrameRecord::default()
        }
    }
}
