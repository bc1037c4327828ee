// SPDX-License-Identifier: MPL-2.0

//! AWStream's controller at run time, on the points of its grid that were run already: segments are closed GOPs at constant
//! quantizers, so that a segment of one configuration is the same whatever came before it.
//!
//! The profile is the list of configurations of which none is both cheaper and better than another. The controller climbs it while
//! the sender's queue is empty and falls when it is not (AWStream's runtime: startup, degrade, steady, probe). It looks at
//! the queue once a segment, where the published one looks every 100 ms: a key frame makes the queue swing within a segment,
//! and configurations change between segments only.

#![forbid(unsafe_code)]

use dds_tests::noise::Noise;

use crate::record::{Frame, Record};

/// Mean rates of the traces, kbit/s; 900 is the published one.
pub const MEANS: [f64; 7] = [300.0, 500.0, 700.0, 900.0, 1300.0, 2000.0, 3500.0];
/// Standard deviation of a trace against its mean.
const DEVIATION: f64 = 0.2;
/// Length of a run, seconds; the clip is played again and again.
const SECONDS: f64 = 90.0;
/// The beginning that does not count, seconds: the climb from the lowest level.
const WARM_UP: f64 = 30.0;
/// Quiet segments that make a queue empty: two seconds of the published controller's ticks.
const QUIET: u32 = 4;
/// Times that congestion is borne at startup, and that a level is held in trouble.
const PATIENCE: u32 = 3;
/// Empty queues before the steady controller probes.
const PROBE_AFTER: u32 = 3;

/// A run of the controller.
pub struct Played {
    /// As the record of any other point.
    pub record: Record,
    /// The frame of the clip that each frame of the record shows.
    pub source: Vec<usize>,
}

/// A configuration of the profile.
struct Level<'a> {
    record: &'a Record,
    kbps: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Startup,
    Degrade,
    Steady,
    Probe,
}

/// The controller: what it is told about the queue after each segment changes its level.
struct Controller {
    state: State,
    level: usize,
    top: usize,
    trouble: u32,
    empty: u32,
}

impl Controller {
    fn new(levels: usize) -> Self {
        Self {
            state: State::Startup,
            level: 0,
            top: levels.saturating_sub(1),
            trouble: 0,
            empty: 0,
        }
    }

    fn enter(&mut self, state: State) {
        (self.state, self.trouble, self.empty) = (state, 0, 0);
    }

    /// The queue is not empty; `below` is the level that fits nine tenths of the rate seen.
    fn congested(&mut self, below: usize) {
        self.empty = 0;
        self.trouble += 1;
        match self.state {
            State::Startup if self.trouble < PATIENCE => {}
            State::Degrade if below >= self.level => {
                // There already: hold, then step down.
                if self.trouble >= PATIENCE {
                    self.level = self.level.saturating_sub(1);
                    self.trouble = 0;
                }
            }
            _ => {
                self.level = self.level.min(below);
                self.enter(State::Degrade);
            }
        }
    }

    /// The queue has been empty for long.
    fn quiet(&mut self) {
        match self.state {
            State::Startup | State::Probe => {
                let climbed = self.level < self.top;
                self.level = (self.level + 1).min(self.top);
                if self.state == State::Probe || !climbed {
                    self.enter(State::Steady);
                }
            }
            State::Degrade => self.enter(State::Steady),
            State::Steady => {
                self.empty += 1;
                if self.empty >= PROBE_AFTER && self.level < self.top {
                    self.enter(State::Probe);
                }
            }
        }
    }
}

/// Plays a clip of `rate` frames per second over a link of about `mean` kbit/s, with what `grid` holds of it: points and
/// their accuracies. `None` where the grid is empty or the clip shorter than a segment.
pub fn play(grid: &[(&Record, f64)], rate: f64, segment: usize, mean: f64) -> Option<Played> {
    let segments = grid.first()?.0.frames.len() / segment;
    if segments == 0 {
        return None;
    }
    let levels = profile(grid, rate);
    let mut controller = Controller::new(levels.len());
    let mut noise = Noise(mean as u64);
    let mut played = Played {
        record: Record {
            clip: grid[0].0.clip.clone(),
            system: "awstream-online".into(),
            point: format!("mean{mean}"),
            settings: format!("link of {mean} kbit/s on average, standard deviation {DEVIATION}"),
            ..Record::default()
        },
        source: Vec::new(),
    };
    let length = segment as f64 / rate;
    let (mut queue, mut calm, mut seen) = (0.0, 0, 0.0);
    let (mut camera_ms, mut inferences) = (0.0, 0.0);
    for n in 0..(SECONDS / length).ceil() as usize {
        let level = &levels[controller.level];
        let from = n % segments * segment;
        let frames = &level.record.frames[from..from + segment];
        let mut sent: f64 = frames.iter().map(|f| f64::from(f.bytes)).sum();
        let mut probe = 0;
        if controller.state == State::Probe {
            // Traffic without use, up to the next level.
            let next = &levels[(controller.level + 1).min(controller.top)];
            probe = ((next.kbps - level.kbps).max(0.0) * length * 1000.0 / 8.0) as u32;
        }
        sent += f64::from(probe);
        let counts = n as f64 * length >= WARM_UP;
        for (offset, frame) in frames.iter().enumerate().filter(|_| counts) {
            let extra = if offset == 0 { probe } else { 0 };
            played.record.frames.push(Frame {
                bytes: frame.bytes + extra,
                ..frame.clone()
            });
            played.source.push(from + offset);
        }
        if counts {
            camera_ms += level.record.camera_ms;
            inferences += level.record.inferences as f64 * segment as f64 / level.record.frames.len() as f64;
        }
        let capacity = (mean * (1.0 + DEVIATION * noise.gauss())).max(mean * 0.1) * length * 1000.0 / 8.0;
        let drained = capacity.min(queue + sent);
        queue = queue + sent - drained;
        seen = 0.5 * seen + 0.5 * drained * 8.0 / length / 1000.0;
        if queue > seen * 1000.0 / 8.0 * 0.001 {
            calm = 0;
            let fits = |l: &Level<'_>| l.kbps <= 0.9 * seen;
            controller.congested(levels.iter().rposition(fits).unwrap_or(0));
        } else {
            calm += 1;
            let need = if controller.state == State::Probe { 1 } else { QUIET };
            if calm >= need {
                calm = 0;
                controller.quiet();
            }
        }
    }
    let played_segments = (played.source.len() / segment) as f64;
    played.record.camera_ms = camera_ms / played_segments;
    played.record.inferences = inferences.round() as u64;
    Some(played)
}

/// Configurations by rising rate, each better than all before.
fn profile<'a>(grid: &[(&'a Record, f64)], rate: f64) -> Vec<Level<'a>> {
    let mut all: Vec<(f64, f64, &Record)> = grid
        .iter()
        .map(|(record, accuracy)| {
            let bytes: f64 = record.frames.iter().map(|f| f64::from(f.bytes)).sum();
            (
                bytes * 8.0 * rate / record.frames.len().max(1) as f64 / 1000.0,
                *accuracy,
                *record,
            )
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut levels: Vec<Level<'_>> = Vec::new();
    let mut best = f64::NEG_INFINITY;
    for (kbps, accuracy, record) in all {
        if accuracy > best {
            best = accuracy;
            levels.push(Level { record, kbps });
        }
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: u32) -> Record {
        Record {
            frames: vec![
                Frame {
                    bytes,
                    ..Frame::default()
                };
                30
            ],
            inferences: 30,
            ..Record::default()
        }
    }

    /// kbit/s that a run took, at 30 frames per second.
    fn took(played: &Played) -> f64 {
        let bytes: f64 = played.record.frames.iter().map(|f| f64::from(f.bytes)).sum();
        bytes * 8.0 * 30.0 / played.record.frames.len() as f64 / 1000.0
    }

    #[test]
    fn a_wide_link_is_climbed_to_the_top_and_a_thin_one_is_not() {
        // 120, 240, 480 and 960 kbit/s, and one that is dearer and worse.
        let records: Vec<Record> = [500, 1000, 2000, 4000, 3000].map(record).into();
        let accuracy = [0.5, 0.6, 0.7, 0.8, 0.65];
        let grid: Vec<_> = records.iter().zip(accuracy).collect();
        let wide = play(&grid, 30.0, 15, 3000.0).unwrap();
        assert_eq!(wide.record.frames.last().unwrap().bytes, 4000);
        assert!(wide.record.frames.iter().all(|f| f.bytes != 3000));
        let thin = play(&grid, 30.0, 15, 300.0).unwrap();
        assert!(took(&thin) < 330.0, "{}", took(&thin));
        assert!(took(&thin) > 130.0, "{}", took(&thin));
        assert!(took(&thin) < took(&wide));
    }

    #[test]
    fn nothing_is_played_of_nothing() {
        assert!(play(&[], 30.0, 15, 900.0).is_none());
        let short = Record {
            frames: vec![Frame::default(); 14],
            ..Record::default()
        };
        assert!(play(&[(&short, 0.5)], 30.0, 15, 900.0).is_none());
    }
}
