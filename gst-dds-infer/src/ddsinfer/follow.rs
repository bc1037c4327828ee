// SPDX-License-Identifier: MPL-2.0

//! Follows the objects of looked-at frames, for the rate and for the results of captured pictures in between.

use dds_protocol::identity::FrameIdentity;

use super::analysis::Analysis;
use super::frame::Frame;
use crate::feedback::ClassGroup;
use crate::matching::Seen;
use crate::model::{BoundingBox, Detection};
use crate::rate::{Chooser, Looked, Sighting};
use crate::results::LookedAt;
use crate::server::{Follow, History, Predicted};

/// Kind of all vehicles, whose classes models confuse. No model has so many classes.
const VEHICLE: u32 = u32::MAX;

/// The frame that was looked at last.
#[derive(Debug)]
struct Last {
    identity: FrameIdentity,
    pts_ns: Option<u64>,
    analysis: Analysis,
    size: (u32, u32),
}

/// A captured picture in between.
pub struct Between {
    /// Its identity: that of the frame looked at, with its own number and time.
    pub identity: FrameIdentity,
    /// Its place in the grid of presentation times, nanoseconds.
    pub pts_ns: Option<u64>,
    /// Where the objects are by then.
    pub analysis: Analysis,
    /// Size of the picture that was looked at.
    pub size: (u32, u32),
    /// That picture.
    pub looked_at: LookedAt,
}

/// Follows the objects of one stream.
#[derive(Debug, Default)]
pub struct Follower {
    chooser: Chooser,
    /// Kind of each class of the model.
    kinds: Vec<u32>,
    last: Option<Last>,
    /// Time from one captured picture to the next, nanoseconds.
    frame_time_ns: u64,
}

impl Follower {
    /// Takes a frame that was looked at. Returns the interval between sent pictures that its objects need.
    pub fn look(&mut self, frame: &Frame, follow: &Follow, identity: FrameIdentity, labels: &[String]) -> u8 {
        match follow.history {
            History::None => self.chooser.reset(),
            History::Interrupted => self.chooser.interrupt(),
            History::Related => (),
        }
        if self.kinds.len() != labels.len() {
            self.kinds = kinds(labels);
        }
        let pts_ns = frame.buffer.pts().map(gst::ClockTime::nseconds);
        self.frame_time_ns = self.frame_time_since_last(follow, pts_ns);
        let sightings: Vec<Sighting> = frame.analysis.detections.iter().map(|d| self.sighting(d)).collect();
        self.last = Some(Last {
            identity,
            pts_ns,
            analysis: frame.analysis.without_map(),
            size: frame.first_size,
        });
        self.chooser.look(&Looked {
            frame: follow.frame,
            frame_time: follow.frame_time,
            sightings: &sightings,
            actual: follow.actual,
        })
    }

    /// Time from one captured picture to the next: measured since the last one, or else as the caps say.
    fn frame_time_since_last(&self, follow: &Follow, pts_ns: Option<u64>) -> u64 {
        let measured = || {
            let last = self.last.as_ref().filter(|_| follow.history != History::None)?;
            let time = pts_ns?.checked_sub(last.pts_ns?)?;
            time.checked_div(follow.frame.checked_sub(last.identity.frame)?)
        };
        let nominal = u64::try_from(follow.frame_time.as_nanos()).unwrap_or(u64::MAX);
        measured().unwrap_or(nominal)
    }

    /// Velocities of the boxes of the last frame that were found in the one before it, too.
    pub fn velocities(&self) -> Vec<(BoundingBox, (f32, f32))> {
        let detections = self.last.iter().flat_map(|last| &last.analysis.detections);
        let tracks = self.chooser.tracks();
        detections
            .enumerate()
            .filter_map(|(index, detection)| Some((BoundingBox::from(detection), tracks.known_velocity(index)?)))
            .collect()
    }

    fn sighting(&self, detection: &Detection) -> Sighting {
        let class = detection.class;
        Sighting {
            seen: Seen {
                bounding_box: BoundingBox::from(detection),
                kind: self.kinds.get(class as usize).copied().unwrap_or(class),
            },
            score: detection.score,
        }
    }

    /// What is known of a captured picture after the last one that was looked at.
    pub fn between(&self, predicted: &Predicted) -> Option<Between> {
        let last = self.last.as_ref()?;
        if last.identity.frame.checked_add(u64::from(predicted.ahead)) != Some(predicted.frame) {
            return None;
        }
        let passed = self.frame_time_ns.saturating_mul(u64::from(predicted.ahead));
        let captured = last.identity.capture_time_ns;
        Some(Between {
            identity: FrameIdentity {
                frame: predicted.frame,
                capture_time_ns: if captured == 0 {
                    0
                } else {
                    captured.saturating_add(passed)
                },
                ..last.identity
            },
            pts_ns: last.pts_ns.map(|pts| pts.saturating_add(passed)),
            analysis: last.analysis.ahead(self.chooser.tracks(), predicted.ahead, last.size),
            size: last.size,
            looked_at: LookedAt {
                frame: last.identity.frame,
                capture_time_ns: captured,
            },
        })
    }
}

/// Kind of each class.
fn kinds(labels: &[String]) -> Vec<u32> {
    let kind = |(class, label): (usize, &String)| match ClassGroup::of_label(label) {
        Some(ClassGroup::Vehicle) => VEHICLE,
        _ => class as u32,
    };
    labels.iter().enumerate().map(kind).collect()
}
