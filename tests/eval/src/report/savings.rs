// SPDX-License-Identifier: MPL-2.0

//! Bandwidth of every system beside three baselines, clip by clip and over the clips.

#![forbid(unsafe_code)]

use crate::curve::{Cost, Front, Point, Saving, median, saving};
use crate::record::{Post, Scored, Summary};

/// Name of the clip that stands for all.
pub const POOLED: &str = "pooled";

/// Accuracies at which bandwidth is compared, as shares of the best uniform encode's.
pub const TARGETS: [f64; 3] = [0.95, 0.90, 0.85];

/// What accuracy and bandwidth are taken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Main measure, each system by its own rule.
    Published,
    /// Main measure, without union of passes and tracking.
    Plain,
    /// Main measure, the same post-processing for all.
    Equal,
    /// As `Published`, with headers of RTP, UDP and IP counted.
    Headers,
    /// The DDS paper's metric, each system by its own rule.
    Paper,
    /// Faces called by the right name, each system by its own rule.
    Identity,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Published,
        Self::Plain,
        Self::Equal,
        Self::Headers,
        Self::Paper,
        Self::Identity,
    ];

    /// Name in files.
    pub fn id(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Plain => "plain",
            Self::Equal => "equal",
            Self::Headers => "headers",
            Self::Paper => "paper",
            Self::Identity => "identity",
        }
    }

    /// Accuracy of a point by this measure; `None` where the task has none.
    pub fn accuracy(self, point: &Scored) -> Option<f64> {
        match self {
            Self::Published | Self::Headers => Some(point.published.main),
            Self::Plain => Some(point.accuracy(Post::Plain).main),
            Self::Equal => Some(point.accuracy(Post::Equal).main),
            // Of segmentations the paper's metric is the agreement.
            Self::Paper => point.published.agreement.or(Some(point.published.paper)),
            Self::Identity => point.published.identity,
        }
    }

    /// Bandwidth of a point, kbit/s.
    pub fn kbps(self, point: &Scored) -> f64 {
        match self {
            Self::Headers => point.kbps_headers,
            _ => point.kbps,
        }
    }

    /// Any point of the run has an accuracy over 0 by this measure.
    pub fn is_measured(self, summary: &Summary) -> bool {
        summary.points.iter().any(|p| self.accuracy(p).is_some_and(|a| a > 0.0))
    }
}

/// What systems are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Baseline {
    /// Hull of both uniform encodes.
    Uniform,
    /// AWStream with the accuracy known.
    Awstream,
    /// Uniform encode of long GOP.
    UniformLong,
}

impl Baseline {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Awstream, Self::UniformLong];

    /// Name in files.
    pub fn id(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Awstream => "awstream",
            Self::UniformLong => "uniform-long",
        }
    }

    /// Name on the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "hull of uniform",
            Self::Awstream => "AWStream, oracle",
            Self::UniformLong => "uniform, GOP 250",
        }
    }

    /// Its systems; where none of them ran, those that stand for them.
    fn systems(self) -> [&'static [&'static str]; 2] {
        match self {
            Self::Uniform => [&["uniform-short", "uniform-long"], &["uniform-full"]],
            Self::Awstream => [&["awstream"], &["awstream-long"]],
            Self::UniformLong => [&["uniform-long"], &["uniform-full"]],
        }
    }
}

/// A number of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// At one of [`TARGETS`].
    At(usize),
    /// On average over the common range of accuracy.
    Average,
}

/// Why there is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The system is never as accurate.
    Never,
    /// The system's cheapest point is already more accurate.
    Under,
    /// The baseline has no such accuracy.
    Baseline,
}

/// One system on one clip beside one baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Clip, or `pooled`.
    pub clip: String,
    /// System.
    pub system: String,
    /// By which measure.
    pub measure: Measure,
    /// Beside what.
    pub baseline: Baseline,
    /// Bandwidth in per cent of the baseline's, less 100, at each of [`TARGETS`].
    pub at: [Result<f64, Gap>; 3],
    /// Bandwidth on average, in per cent of the baseline's, less 100.
    pub average: Option<f64>,
    /// Share of the baseline's range of accuracy that the average is over.
    pub overlap: Option<f64>,
}

impl Row {
    /// The number of a column.
    pub fn value(&self, column: Column) -> Option<f64> {
        match column {
            Column::At(n) => self.at.get(n)?.ok(),
            Column::Average => self.average,
        }
    }
}

/// A column over the clips that a system ran on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Clips that the system ran on.
    pub of: usize,
    /// Of those, clips with a number.
    pub clips: usize,
    /// Clips with less bandwidth than the baseline.
    pub fewer: usize,
    /// Clips on which it is never as accurate.
    pub never: usize,
    /// Clips on which its cheapest point is already more accurate.
    pub under: usize,
    /// Median, 0 without numbers.
    pub median: f64,
    /// Least.
    pub least: f64,
    /// Most.
    pub most: f64,
    /// The median overlap of averages is a sliver.
    pub sliver: bool,
}

/// All rows of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Savings {
    /// By clip, system, measure and baseline.
    pub rows: Vec<Row>,
}

impl Savings {
    /// Compares every system on every clip.
    pub fn of(summary: &Summary) -> Self {
        let mut clips: Vec<&str> = Vec::new();
        let mut systems: Vec<&str> = Vec::new();
        for point in &summary.points {
            if !clips.contains(&point.clip.as_str()) {
                clips.push(&point.clip);
            }
            if !systems.contains(&point.system.as_str()) {
                systems.push(&point.system);
            }
        }
        let mut rows = Vec::new();
        for measure in Measure::ALL.into_iter().filter(|m| m.is_measured(summary)) {
            for clip in &clips {
                let hull = |systems: &[&str]| hull(summary, clip, systems, measure);
                let of = |baseline: Baseline| {
                    let [first, other] = baseline.systems().map(hull);
                    if first.points().is_empty() { other } else { first }
                };
                let best = of(Baseline::Uniform).range().map(|(_, best)| best);
                for baseline in Baseline::ALL {
                    let other = of(baseline);
                    for system in &systems {
                        let own = hull(&[system]);
                        if !own.points().is_empty() {
                            let (clip, system) = (clip.to_string(), system.to_string());
                            rows.push(row(clip, system, measure, baseline, &own, &other, best));
                        }
                    }
                }
            }
        }
        Self { rows }
    }

    /// The row of these.
    pub fn row(&self, clip: &str, system: &str, measure: Measure, baseline: Baseline) -> Option<&Row> {
        self.rows
            .iter()
            .find(|r| r.clip == clip && r.system == system && r.measure == measure && r.baseline == baseline)
    }

    /// A column over all clips but the pooled one.
    pub fn spread(&self, system: &str, measure: Measure, baseline: Baseline, column: Column) -> Spread {
        let rows: Vec<&Row> = self
            .rows
            .iter()
            .filter(|r| r.clip != POOLED && r.system == system && r.measure == measure && r.baseline == baseline)
            .collect();
        let values: Vec<f64> = rows.iter().filter_map(|r| r.value(column)).collect();
        let count = |gap| match column {
            Column::At(n) => rows.iter().filter(|r| r.at.get(n) == Some(&Err(gap))).count(),
            Column::Average => 0,
        };
        let overlap = median(rows.iter().filter_map(|r| r.overlap)).unwrap_or(1.0);
        Spread {
            of: rows.len(),
            clips: values.len(),
            fewer: values.iter().filter(|v| **v < 0.0).count(),
            never: count(Gap::Never),
            under: count(Gap::Under),
            median: median(values.iter().copied()).unwrap_or(0.0),
            least: values.iter().copied().reduce(f64::min).unwrap_or(0.0),
            most: values.iter().copied().reduce(f64::max).unwrap_or(0.0),
            sliver: column == Column::Average && overlap < Saving::SLIVER,
        }
    }
}

fn row(
    clip: String,
    system: String,
    measure: Measure,
    baseline: Baseline,
    own: &Front,
    other: &Front,
    best: Option<f64>,
) -> Row {
    let at = TARGETS.map(|share| {
        let target = best.ok_or(Gap::Baseline)? * share;
        let theirs = other.cost(target).known().ok_or(Gap::Baseline)?;
        match own.cost(target) {
            Cost::At(kbps) => Ok(100.0 * (kbps / theirs - 1.0)),
            Cost::Under(_) => Err(Gap::Under),
            Cost::Never => Err(Gap::Never),
        }
    });
    let average = saving(own, other);
    Row {
        clip,
        system,
        measure,
        baseline,
        at,
        average: average.map(|s| s.percent),
        overlap: average.map(|s| s.overlap),
    }
}

/// The hull of some systems' points on a clip.
pub fn hull(summary: &Summary, clip: &str, systems: &[&str], measure: Measure) -> Front {
    let points = summary
        .points
        .iter()
        .filter(|p| p.clip == clip && systems.contains(&p.system.as_str()));
    Front::hull(points.filter_map(|p| Some(Point::new(measure.kbps(p), measure.accuracy(p)?))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Accuracy, Freshness, Manifest};

    fn points(system: &str, list: &[(f64, f64)]) -> Vec<Scored> {
        let points = list.iter().map(|&(kbps, main)| {
            let accuracy = Accuracy {
                main,
                ..Accuracy::default()
            };
            Scored {
                clip: "a".into(),
                system: system.into(),
                point: kbps.to_string(),
                settings: String::new(),
                shipped: false,
                kbps,
                kbps_down: 0.0,
                kbps_headers: kbps + 100.0,
                norm: 0.0,
                refine_share: 0.0,
                published: accuracy,
                plain: accuracy,
                equal: accuracy,
                freshness: Freshness::default(),
                camera_ms: 0.0,
                inferences: 1.0,
            }
        });
        points.collect()
    }

    fn run(points: Vec<Scored>) -> Savings {
        Savings::of(&Summary {
            manifest: Manifest::default(),
            threshold: 0.3,
            pooled_clips: Vec::new(),
            points,
        })
    }

    #[test]
    fn bandwidth_is_compared_at_shares_of_the_best_uniform_accuracy() {
        // The hull of uniform runs from 100 kbit/s for 0.4 over 400 for 0.8 to 1600 for 1: 0.95, 0.9 and 0.85 cost
        // 1600 / sqrt(2), 800 and 400 * sqrt(2).
        let mut all = points("uniform-short", &[(100.0, 0.4), (800.0, 0.8), (1600.0, 1.0)]);
        all.extend(points("uniform-long", &[(400.0, 0.8)]));
        all.extend(points("x", &[(100.0, 0.8), (200.0, 0.9)]));
        all.extend(points("y", &[(4000.0, 0.92), (9000.0, 0.99)]));
        let savings = run(all);
        let row = |system| savings.row("a", system, Measure::Published, Baseline::Uniform).unwrap();
        let near = |a: Result<f64, Gap>, b: f64| (a.unwrap() - b).abs() < 1e-9;
        let x = row("x");
        assert_eq!(x.at[0], Err(Gap::Never));
        assert!(near(x.at[1], -75.0), "{x:?}");
        // At 0.85 it takes 100 * sqrt(2).
        assert!(near(x.at[2], -75.0), "{x:?}");
        assert!(
            (x.average.unwrap() + 75.0).abs() < 1e-9 && (x.overlap.unwrap() - 0.1 / 0.6).abs() < 1e-9,
            "{x:?}"
        );
        let y = row("y");
        assert_eq!((y.at[1], y.at[2]), (Err(Gap::Under), Err(Gap::Under)));
        let own = savings.row("a", "x", Measure::Published, Baseline::Awstream).unwrap();
        assert_eq!((own.at[1], own.average), (Err(Gap::Baseline), None));
        // Tasks without the paper's metric have no rows of it.
        assert!(savings.row("a", "x", Measure::Paper, Baseline::Uniform).is_none());
        let headers = savings.row("a", "x", Measure::Headers, Baseline::Uniform).unwrap();
        assert!(headers.average > x.average);
    }

    #[test]
    fn spreads_count_clips_and_what_is_missing() {
        let mut all = Vec::new();
        for (clip, factor) in [("a", 0.5), ("b", 1.5), ("c", 0.9), ("pooled", 0.1)] {
            let mut both = points("uniform-long", &[(100.0, 0.5), (1600.0, 1.0)]);
            both.extend(points("x", &[(100.0 * factor, 0.5), (1600.0 * factor, 1.0)]));
            both.extend(points("y", &[(10.0, 0.2), (20.0, 0.3)]));
            both.iter_mut().for_each(|p| p.clip = clip.into());
            all.extend(both);
        }
        let savings = run(all);
        let spread = |system, column| savings.spread(system, Measure::Published, Baseline::UniformLong, column);
        let x = spread("x", Column::Average);
        assert_eq!((x.of, x.clips, x.fewer, x.sliver), (3, 3, 2, false));
        assert!((x.median + 10.0).abs() < 1e-9 && (x.least + 50.0).abs() < 1e-9 && (x.most - 50.0).abs() < 1e-9);
        let y = spread("y", Column::At(1));
        assert_eq!((y.of, y.clips, y.never, y.under), (3, 0, 3, 0));
        assert_eq!(spread("z", Column::Average).of, 0);
    }
}
