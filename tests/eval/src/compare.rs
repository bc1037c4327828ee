// SPDX-License-Identifier: MPL-2.0

//! What differs between two runs: their inputs, their points and their savings.

#![forbid(unsafe_code)]

use std::fmt;

use crate::curve::median;
use crate::record::{Accuracy, Manifest, Scored, Summary};
use crate::report::savings::{Baseline, Column, Measure, Savings};
use crate::system::SYSTEMS;

/// Numbers that differ by less than this share are the same: text holds no more of them.
const TOLERANCE: f64 = 1e-9;
/// Points that are shown one by one.
const SHOWN: usize = 40;

/// One thing that is not the same in both runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is.
    pub what: String,
    /// In the first run.
    pub first: String,
    /// In the second run.
    pub second: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} | {}", self.what, self.first, self.second)
    }
}

/// Two runs beside each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Inputs on which numbers depend: clips, model, threshold, link.
    pub inputs: Vec<Change>,
    /// Command, machine and versions, on which they should not depend.
    pub surroundings: Vec<Change>,
    /// Points that one run alone has.
    pub missing: Vec<Change>,
    /// Points whose bits or accuracy differ.
    pub points: Vec<Change>,
    /// Points that both have.
    pub common: usize,
    /// Average savings by the main measure against the hull of uniform, median over clips, in per cent: system, first, second.
    pub savings: Vec<(String, Option<f64>, Option<f64>)>,
    /// Medians over common points of what is measured by a clock: camera milliseconds and age of results.
    pub times: Vec<Change>,
}

impl Comparison {
    /// All numbers but measured times agree, and so do the inputs.
    pub fn same(&self) -> bool {
        self.inputs.is_empty() && self.missing.is_empty() && self.points.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.same() {
            true => format!("same numbers: {} points", self.common),
            false => format!(
                "different numbers: {} of {} common points differ, {} are in one run alone",
                self.points.len(),
                self.common,
                self.missing.len()
            ),
        };
        writeln!(f, "{verdict}")?;
        match self.inputs.is_empty() {
            true => writeln!(f, "same inputs")?,
            false => section(f, "different inputs, first | second", &self.inputs)?,
        }
        section(f, "different surroundings, first | second", &self.surroundings)?;
        section(f, "points of one run alone", &self.missing)?;
        section(f, "different points, first | second", &self.points)?;
        if !self.savings.is_empty() {
            writeln!(
                f,
                "\naverage change of bandwidth against the hull of uniform, median over clips"
            )?;
            writeln!(f, "  {:<24}{:>10}{:>10}{:>12}", "", "first", "second", "difference")?;
            for (system, first, second) in &self.savings {
                let text = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:+.1} %"));
                let difference = first.zip(*second).map(|(a, b)| b - a);
                let difference = difference.map_or("-".into(), |d| format!("{:+.1}", d + 0.0));
                writeln!(
                    f,
                    "  {system:<24}{:>10}{:>10}{difference:>12}",
                    text(*first),
                    text(*second)
                )?;
            }
        }
        section(f, "measured times, first | second", &self.times)
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, changes: &[Change]) -> fmt::Result {
    if changes.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}")?;
    for change in changes.iter().take(SHOWN) {
        writeln!(f, "  {change}")?;
    }
    match changes.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => writeln!(f, "  and {more} more"),
        _ => Ok(()),
    }
}

/// Compares two runs. Points belong together by clip, system and name.
pub fn compare(a: &Summary, b: &Summary) -> Comparison {
    let mut out = Comparison {
        inputs: inputs(a, b),
        surroundings: surroundings(&a.manifest, &b.manifest),
        ..Comparison::default()
    };
    let mut pairs = Vec::new();
    for first in &a.points {
        match find(b, first) {
            Some(second) => pairs.push((first, second)),
            None => out.missing.push(alone(first, "there", "not there")),
        }
    }
    let added = b.points.iter().filter(|p| find(a, p).is_none());
    out.missing.extend(added.map(|p| alone(p, "not there", "there")));
    out.common = pairs.len();
    out.points = pairs.iter().flat_map(|(a, b)| point(a, b)).collect();
    out.savings = savings(a, b);
    out.times = times(&pairs);
    out
}

fn find<'a>(summary: &'a Summary, point: &Scored) -> Option<&'a Scored> {
    summary
        .points
        .iter()
        .find(|p| p.clip == point.clip && p.system == point.system && p.point == point.point)
}

fn name(point: &Scored) -> String {
    format!("{} / {} / {}", point.clip, point.system, point.point)
}

fn alone(point: &Scored, first: &str, second: &str) -> Change {
    change(name(point), first, second)
}

fn change(what: impl Into<String>, first: impl ToString, second: impl ToString) -> Change {
    Change {
        what: what.into(),
        first: first.to_string(),
        second: second.to_string(),
    }
}

/// A change where the values differ.
fn differs<T: PartialEq + ToString>(what: &str, first: T, second: T) -> Option<Change> {
    (first != second).then(|| change(what, first, second))
}

fn is_near(a: f64, b: f64) -> bool {
    // Equality holds for infinities; two that are no numbers are the same, too.
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

fn inputs(a: &Summary, b: &Summary) -> Vec<Change> {
    let (m, n) = (&a.manifest, &b.manifest);
    let mut out: Vec<Change> = [
        differs("model", m.model.clone(), n.model.clone()),
        differs("task", m.task.clone(), n.task.clone()),
        differs("round trip, ms", m.rtt_ms, n.rtt_ms),
        differs("inference, ms", m.inference_ms, n.inference_ms),
        differs("link, kbit/s", m.link_kbps, n.link_kbps),
        differs("test threshold", a.threshold, b.threshold),
        differs("pooled clips", a.pooled_clips.join(", "), b.pooled_clips.join(", ")),
    ]
    .into_iter()
    .flatten()
    .collect();
    for clip in &m.clips {
        let what = |field: &str| format!("clip {}, {field}", clip.name);
        let Some(other) = n.clips.iter().find(|c| c.name == clip.name) else {
            out.push(change(format!("clip {}", clip.name), "there", "not there"));
            continue;
        };
        out.extend(differs(&what("SHA-256"), &clip.sha256, &other.sha256));
        out.extend(differs(&what("frames"), clip.frames, other.frames));
        out.extend(differs(&what("frames/s"), clip.rate, other.rate));
        let size = |(w, h): (u32, u32)| format!("{w}x{h}");
        out.extend(differs(&what("size"), size(clip.size), size(other.size)));
    }
    let added = n.clips.iter().filter(|c| m.clips.iter().all(|d| d.name != c.name));
    out.extend(added.map(|c| change(format!("clip {}", c.name), "not there", "there")));
    out
}

fn surroundings(m: &Manifest, n: &Manifest) -> Vec<Change> {
    [
        differs("command", &m.command, &n.command),
        differs("machine", &m.machine, &n.machine),
        differs("versions", &m.versions, &n.versions),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Fields of a point that do not come from a clock, and differ.
fn point(a: &Scored, b: &Scored) -> Option<Change> {
    let accuracy = |name: &str, a: Accuracy, b: Accuracy| {
        [
            (format!("{name} main"), a.main, b.main),
            (format!("{name} paper"), a.paper, b.paper),
            (format!("{name} identity"), option(a.identity), option(b.identity)),
            (format!("{name} agreement"), option(a.agreement), option(b.agreement)),
        ]
    };
    let numbers = [
        ("kbit/s".to_string(), a.kbps, b.kbps),
        ("kbit/s down".into(), a.kbps_down, b.kbps_down),
        ("kbit/s with headers".into(), a.kbps_headers, b.kbps_headers),
        ("norm".into(), a.norm, b.norm),
        ("share of the second stream".into(), a.refine_share, b.refine_share),
        ("inferences".into(), a.inferences, b.inferences),
        ("mean age".into(), a.freshness.mean, b.freshness.mean),
        ("median age".into(), a.freshness.p50, b.freshness.p50),
        ("95th percentile of ages".into(), a.freshness.p95, b.freshness.p95),
    ]
    .into_iter()
    .chain(accuracy("published", a.published, b.published))
    .chain(accuracy("plain", a.plain, b.plain))
    .chain(accuracy("equal", a.equal, b.equal));
    let mut first = Vec::new();
    let mut second = Vec::new();
    for (name, a, b) in numbers.filter(|(_, a, b)| !is_near(*a, *b)) {
        first.push(format!("{name} {}", short(a)));
        second.push(short(b));
    }
    if a.shipped != b.shipped {
        first.push(format!("shipped {}", a.shipped));
        second.push(b.shipped.to_string());
    }
    if a.settings != b.settings {
        first.push(format!("settings {}", a.settings));
        second.push(b.settings.clone());
    }
    (!first.is_empty()).then(|| change(name(a), first.join(", "), second.join(", ")))
}

fn option(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

fn short(value: f64) -> String {
    if value.is_nan() {
        "none".into()
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.4}")
    }
}

fn savings(a: &Summary, b: &Summary) -> Vec<(String, Option<f64>, Option<f64>)> {
    let (first, second) = (Savings::of(a), Savings::of(b));
    let of = |savings: &Savings, id: &str| {
        let s = savings.spread(id, Measure::Published, Baseline::Uniform, Column::Average);
        (s.clips > 0).then_some(s.median)
    };
    let both = SYSTEMS
        .iter()
        .map(|s| (s.name.to_string(), of(&first, s.id), of(&second, s.id)));
    both.filter(|(_, a, b)| a.is_some() || b.is_some()).collect()
}

fn times(pairs: &[(&Scored, &Scored)]) -> Vec<Change> {
    type Of = fn(&Scored) -> f64;
    let kinds: [(&str, Of); 1] = [("camera, median ms per frame", |p| p.camera_ms)];
    let differing = kinds
        .into_iter()
        .filter(|(_, of)| pairs.iter().any(|(a, b)| !is_near(of(a), of(b))));
    differing
        .filter_map(|(what, of)| {
            let first = median(pairs.iter().map(|(a, _)| of(a)))?;
            let second = median(pairs.iter().map(|(_, b)| of(b)))?;
            Some(change(what, format!("{first:.2}"), format!("{second:.2}")))
        })
        .collect()
}
