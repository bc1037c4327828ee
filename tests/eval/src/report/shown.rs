// SPDX-License-Identifier: MPL-2.0

//! The systems as the page shows them: those that are compared, and others that a run of another version may hold.

#![forbid(unsafe_code)]

use super::savings::{Measure, POOLED};
use crate::record::{Scored, Summary};
use crate::system::{SYSTEMS, System};

/// A system on the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Name in files.
    pub id: String,
    /// Name on the page.
    pub name: String,
    /// Colour, RGB.
    pub color: [u8; 3],
    /// Ours.
    pub ours: bool,
    /// Its rule; empty where it is not known.
    pub rule: &'static str,
    /// Its place in the order of the page, which gives its mark.
    pub place: usize,
    /// Clips that it ran on.
    pub clips: Vec<String>,
    /// It has points over all clips together.
    pub pooled: bool,
}

impl Shown {
    /// Colour as CSS and SVG write it.
    pub fn hex(&self) -> String {
        let [r, g, b] = self.color;
        format!("#{r:02x}{g:02x}{b:02x}")
    }

    /// It ran at all.
    pub fn ran(&self) -> bool {
        !self.clips.is_empty()
    }

    /// Its points on a clip, in the order of the sweep.
    pub fn points<'a>(&self, summary: &'a Summary, clip: &str) -> Vec<&'a Scored> {
        let points = summary.points.iter();
        points.filter(|p| p.system == self.id && p.clip == clip).collect()
    }

    fn new(place: usize, id: &str, known: Option<&System>, summary: &Summary) -> Self {
        let mut clips: Vec<String> = Vec::new();
        for point in summary.points.iter().filter(|p| p.system == id && p.clip != POOLED) {
            if !clips.contains(&point.clip) {
                clips.push(point.clip.clone());
            }
        }
        Self {
            id: id.into(),
            name: known.map_or(id, |s| s.name).into(),
            color: known.map_or([120, 120, 160], |s| s.color),
            ours: known.is_some_and(|s| s.ours),
            rule: known.map_or("", |s| s.rule),
            place,
            clips,
            pooled: summary.points.iter().any(|p| p.system == id && p.clip == POOLED),
        }
    }
}

/// All systems in the order of the page.
pub fn systems(summary: &Summary) -> Vec<Shown> {
    let mut ids: Vec<&str> = SYSTEMS.iter().map(|s| s.id).collect();
    for point in &summary.points {
        if !ids.contains(&point.system.as_str()) {
            ids.push(&point.system);
        }
    }
    let known = |id: &str| SYSTEMS.iter().find(|s| s.id == id);
    let shown = ids.iter().enumerate();
    shown
        .map(|(place, id)| Shown::new(place, id, known(id), summary))
        .collect()
}

/// Clips in the order of the run, without the pooled one.
pub fn clips(summary: &Summary) -> Vec<&str> {
    let mut clips: Vec<&str> = summary.manifest.clips.iter().map(|c| c.name.as_str()).collect();
    for point in &summary.points {
        if point.clip != POOLED && !clips.contains(&point.clip.as_str()) {
            clips.push(&point.clip);
        }
    }
    clips
}

/// The point by which a system is judged where one must do.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen<'a> {
    /// The points, one per clip, or the pooled one alone.
    pub points: Vec<&'a Scored>,
    /// It is the system's own setting; otherwise it was chosen by its accuracy.
    pub shipped: bool,
}

impl Chosen<'_> {
    /// Mean over the points.
    pub fn mean(&self, value: impl Fn(&Scored) -> f64) -> f64 {
        self.points.iter().map(|p| value(p)).sum::<f64>() / self.points.len() as f64
    }
}

/// The shipped or published point of a system: the pooled one, or where it has none that of every clip. A system without a
/// shipped point gives its cheapest one that is as accurate as `least`, or else its most accurate one.
pub fn chosen<'a>(summary: &'a Summary, system: &Shown, least: f64) -> Option<Chosen<'a>> {
    let clips: Vec<&str> = match system.pooled {
        true => vec![POOLED],
        false => system.clips.iter().map(String::as_str).collect(),
    };
    let mut points = Vec::new();
    let mut shipped = true;
    for clip in clips {
        let all = system.points(summary, clip);
        let point = all.iter().find(|p| p.shipped).copied().or_else(|| {
            shipped = false;
            nearest(&all, least)
        });
        points.extend(point);
    }
    (!points.is_empty()).then_some(Chosen { points, shipped })
}

fn nearest<'a>(points: &[&'a Scored], least: f64) -> Option<&'a Scored> {
    let accuracy = |p: &&&Scored| Measure::Published.accuracy(p).unwrap_or(0.0);
    let good = points.iter().filter(|p| accuracy(p) >= least);
    good.min_by(|a, b| a.kbps.total_cmp(&b.kbps))
        .or_else(|| points.iter().max_by(|a, b| accuracy(a).total_cmp(&accuracy(b))))
        .copied()
}

/// The accuracy that systems without a shipped point are asked for: that of the first of ours.
pub fn asked(summary: &Summary, systems: &[Shown]) -> f64 {
    let ours = systems.iter().filter(|s| s.ours);
    ours.filter_map(|s| chosen(summary, s, 1.0))
        .map(|c| c.mean(|p| p.published.main))
        .next()
        .unwrap_or(1.0)
}
