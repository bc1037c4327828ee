// SPDX-License-Identifier: MPL-2.0

//! Figures that others published, each beside what this run measured.
//!
//! Two sources are quoted by short names. "DDS authors' per-video results" are the byte counts and F1 of every clip in the
//! configuration files of their repository, averaged by us. "AccMPEG authors' frozen statistics" are the per-clip records
//! in the repository of AccMPEG, where the same group ran several systems once more; ratios are medians taken by us.

#![forbid(unsafe_code)]

use super::html::{number, share};
use super::savings::{Baseline, Column, Measure, POOLED, Savings, hull};
use super::shown::{Shown, asked, chosen};
use crate::curve::median;
use crate::record::{Scored, Summary};

/// DDS authors' repository.
pub const DDS: &str = "DDS authors\u{2019} per-video results";
/// DDS paper, abstract.
pub const DDS_PAPER: &str = "DDS paper, abstract";
/// AccMPEG authors' repository.
pub const ACCMPEG: &str = "AccMPEG authors\u{2019} frozen statistics";

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What is measured.
    pub what: String,
    /// Who published it.
    pub source: &'static str,
    /// The published figure.
    pub published: String,
    /// This run's.
    pub here: String,
    /// How the two may be compared.
    pub reading: &'static str,
}

/// Bandwidth beside the cheapest point of another system that is at least as accurate, without reading between points.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// One ratio per point that the other reaches.
    pub ratios: Vec<f64>,
    /// Points compared.
    pub of: usize,
}

impl Beside {
    /// Compares the points of `system` on all clips, or its shipped ones alone, with those of `other`.
    pub fn of(summary: &Summary, system: &str, shipped: bool, other: &str, measure: Measure) -> Self {
        let mut beside = Self::default();
        let is_own = |p: &&Scored| p.system == system && p.clip != POOLED && (p.shipped || !shipped);
        for point in summary.points.iter().filter(is_own) {
            let Some(accuracy) = measure.accuracy(point) else {
                continue;
            };
            if measure.kbps(point) <= 0.0 {
                continue;
            }
            beside.of += 1;
            let rivals = summary
                .points
                .iter()
                .filter(|p| p.system == other && p.clip == point.clip);
            let good = rivals.filter(|p| measure.accuracy(p).is_some_and(|a| a >= accuracy));
            let rates = good.map(|p| measure.kbps(p)).filter(|kbps| *kbps > 0.0);
            beside
                .ratios
                .extend(rates.reduce(f64::min).map(|kbps| measure.kbps(point) / kbps));
        }
        beside
    }

    fn text(&self, unit: &str) -> String {
        let Some(median) = median(self.ratios.iter().copied()) else {
            return match self.of {
                0 => NOT_RUN.into(),
                of => format!("none: the other is never as accurate (0 of {of} {unit})"),
            };
        };
        let least = self.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        let count = self.ratios.len();
        let mean = self.ratios.iter().sum::<f64>() / count as f64;
        format!(
            "{} (median; mean {}; {} to {}; {count} of {} {unit})",
            number(median, 2),
            number(mean, 2),
            number(least, 2),
            number(most, 2),
            self.of
        )
    }
}

const NOT_RUN: &str = "not in this run";

/// The figures that the task of the run has.
pub fn lines(summary: &Summary, savings: &Savings, systems: &[Shown]) -> Vec<Line> {
    match summary.manifest.task.as_str() {
        "segmentation" => segmentation(summary, savings, systems),
        "face" => face(summary, savings, systems),
        _ => detection(summary, savings, systems),
    }
}

fn detection(summary: &Summary, savings: &Savings, systems: &[Shown]) -> Vec<Line> {
    let beside = |system: &str, other, measure| Beside::of(summary, system, true, other, measure).text("clips");
    let sweep = |system: &str| Beside::of(summary, system, false, "uniform-short", Measure::Published).text("points");
    let mut lines = vec![
        Line {
            what: "DDS: bytes against the cheapest uniform point with at least its F1".into(),
            source: DDS,
            published: "0.52 traffic (5 of 7 clips), 0.53 dashcam (9 of 9), 0.36 drone (3 of 13); means".into(),
            here: beside("dds", "uniform-short", Measure::Paper),
            reading: "Both by the paper\u{2019}s metric and at the published setting. Their grid has sizes as well as \
                      quantizers, but ends at QP 26 of 0.8 of the size; ours has quantizers alone and goes further.",
        },
        Line {
            what: "DDS: the same by the strict measure".into(),
            source: ACCMPEG,
            published: "0.97 dashcam, 1.66 drone (FPN head); 1.29 to 1.55 with other heads; medians".into(),
            here: beside("dds", "uniform-short", Measure::Published),
            reading: "At IoU 0.5 with labels that must match, AccMPEG\u{2019}s authors saw no gain of DDS over uniform \
                      quality at all; their pair of quantizers is 42 and 30.",
        },
        pass_share(summary, "28 % traffic, 23 % dashcam, 35 % drone"),
        norm(
            summary,
            systems,
            "dds",
            "0.403 / 0.852 traffic, 0.434 / 0.843 dashcam, 0.406 / 0.810 drone",
            NORM,
        ),
        Line {
            what: "DDS: clips on which its F1 is over that of the best uniform point".into(),
            source: DDS,
            published: "12 of 29, 10 of these drone".into(),
            here: over_best(summary),
            reading: "Theirs against the whole frame at 0.8 of the size and QP 26, ours against the best point of the sweep. Two passes \
                      united find more than one of the same quality: a gain of the union, which the column \u{201c}without\u{201d} of \
                      the savings takes away.",
        },
        Line {
            what: "DDS: bytes against AWStream at its F1 or better".into(),
            source: DDS,
            published: "0.39 traffic, 0.46 dashcam, 0.33 drone; means".into(),
            here: beside("dds", "awstream", Measure::Paper),
            reading: "Their AWStream pays for its profiling in bytes; ours is an oracle that profiles for nothing, which is \
                      the harder rival.",
        },
        norm(
            summary,
            systems,
            "glimpse",
            "0.136 / 0.257 traffic, 0.203 / 0.289 dashcam, 0.150 / 0.265 drone",
            "Their trigger needs half of all pixels to change, which few frames do; ours is a share that is swept, and the figure \
             is that of its shipped one.",
        ),
        norm(
            summary,
            systems,
            "vigil",
            "0.842 / 0.468 traffic, 0.477 / 0.451 dashcam, 1.176 / 0.732 drone",
            "They sent whole JPEG frames when the count of objects changed; ours codes the detector\u{2019}s boxes finer in every \
             frame, as AccMPEG\u{2019}s authors ran it.",
        ),
        accmpeg_x(
            "EAAR",
            sweep("eaar"),
            "1.06 dashcam, 1.09 drone (FPN); 1.13 to 2.29 with other heads",
        ),
        accmpeg_x(
            "Vigil",
            sweep("vigil"),
            "0.75 dashcam, 1.75 drone (FPN); 0.73 to 1.75 with other heads",
        ),
        accmpeg_x("CloudSeg", sweep("cloudseg"), "0.49 dashcam, 0.44 drone"),
    ];
    lines.extend(ours(
        summary,
        systems,
        "AccMPEG: 0.57 dashcam, 0.76 drone (FPN); 0.38 to 0.59 with other heads",
    ));
    lines.extend(common(summary, savings, systems));
    lines
}

fn face(summary: &Summary, savings: &Savings, systems: &[Shown]) -> Vec<Line> {
    let beside = |other, measure| Beside::of(summary, "dds", true, other, measure).text("clips");
    let mut lines = vec![
        Line {
            what: "DDS: bytes against the cheapest uniform point with at least its F1".into(),
            source: DDS,
            published: "0.70 Friends (10 of 10 clips), 0.51 TBBT (10 of 10); means".into(),
            here: beside("uniform-short", Measure::Paper),
            reading: "Both by the paper\u{2019}s metric and at the published setting; their clips are of two sitcoms.",
        },
        pass_share(summary, "12 % Friends, 22 % TBBT"),
        norm(
            summary,
            systems,
            "dds",
            "0.468 / 0.920 Friends, 0.352 / 0.956 TBBT",
            NORM,
        ),
        Line {
            what: "DDS: bytes against AWStream at its F1 or better".into(),
            source: DDS,
            published: "0.55 Friends, 0.46 TBBT; means".into(),
            here: beside("awstream", Measure::Paper),
            reading: "Their AWStream pays for its profiling in bytes; ours is an oracle that profiles for nothing, which is \
                      the harder rival.",
        },
        norm(
            summary,
            systems,
            "glimpse",
            "1.033 / 0.584 Friends, 1.026 / 0.617 TBBT",
            "They sent JPEG pictures; ours are frames of one H.264 stream, which cost far less.",
        ),
        norm(
            summary,
            systems,
            "vigil",
            "0.836 / 0.488 Friends, 0.765 / 0.470 TBBT",
            "They sent whole JPEG frames when the count of objects changed; ours codes the detector\u{2019}s boxes finer in every \
             frame.",
        ),
    ];
    lines.extend(common(summary, savings, systems));
    lines
}

fn segmentation(summary: &Summary, savings: &Savings, systems: &[Shown]) -> Vec<Line> {
    let sweep = |system: &str| Beside::of(summary, system, false, "uniform-short", Measure::Published).text("points");
    let mut lines = vec![
        Line {
            what: "DDS: bytes against the cheapest uniform point of at least its accuracy".into(),
            source: ACCMPEG,
            published: "0.76 drone; median".into(),
            here: sweep("dds"),
            reading: "Their accuracy is the share of right pixels, ours is mIoU, which weighs small classes more. No file of the \
                      DDS authors states a value for segmentation.",
        },
        pass_share(summary, "none for segmentation; 12 to 35 % for boxes"),
    ];
    lines.extend(ours(
        summary,
        systems,
        "AccMPEG: 0.53 drone, 0.28 dashcam; a perfect mask 0.11 drone",
    ));
    lines.extend(common(summary, savings, systems));
    lines
}

const NORM: &str = "Theirs is a share of the bytes of 0.8 of the size at QP 26, ours of the full size at the finest quantizer \
                    of the sweep, so ours is smaller for the same stream.";

fn pass_share(summary: &Summary, published: &str) -> Line {
    let is_own = |p: &&Scored| p.system == "dds" && p.clip != POOLED && p.shipped;
    let shares: Vec<f64> = summary.points.iter().filter(is_own).map(|p| p.refine_share).collect();
    let here = match median(shares.iter().copied()) {
        None => NOT_RUN.into(),
        Some(median) => format!(
            "{} (median; {} to {}; {} clips)",
            share(median),
            share(shares.iter().copied().fold(f64::INFINITY, f64::min)),
            share(shares.iter().copied().fold(0.0, f64::max)),
            shares.len()
        ),
    };
    Line {
        what: "DDS: share of the second pass in its bytes".into(),
        source: DDS,
        published: published.into(),
        here,
        reading: "The first pass takes most of the bytes, so a better choice of regions alone saves little.",
    }
}

fn norm(summary: &Summary, systems: &[Shown], id: &str, published: &str, reading: &'static str) -> Line {
    let system = systems.iter().find(|s| s.id == id);
    let point = system.and_then(|s| chosen(summary, s, asked(summary, systems)));
    Line {
        what: format!(
            "{}: share of the finest uniform bytes / F1",
            system.map_or(id, |s| &s.name)
        ),
        source: DDS,
        published: published.into(),
        here: point.map_or(NOT_RUN.into(), |c| {
            let accuracy = c.mean(|p| Measure::Paper.accuracy(p).unwrap_or(0.0));
            format!("{} / {}", number(c.mean(|p| p.norm), 3), number(accuracy, 3))
        }),
        reading,
    }
}

fn over_best(summary: &Summary) -> String {
    let is_own = |p: &&Scored| p.system == "dds" && p.clip != POOLED && p.shipped;
    let (mut over, mut of) = (0, 0);
    for point in summary.points.iter().filter(is_own) {
        let uniform = summary
            .points
            .iter()
            .filter(|p| p.clip == point.clip && p.system == "uniform-short");
        if let Some(best) = uniform.map(|p| p.published.paper).reduce(f64::max) {
            of += 1;
            over += usize::from(point.published.paper > best);
        }
    }
    match of {
        0 => NOT_RUN.into(),
        of => format!("{over} of {of}"),
    }
}

fn accmpeg_x(name: &str, here: String, published: &str) -> Line {
    Line {
        what: format!("{name}: bytes against the cheapest uniform point with at least its F1"),
        source: ACCMPEG,
        published: format!("{published}; medians"),
        here,
        reading: "All points of the sweep pooled, by the strict measure, as theirs are. Points below the cheapest uniform one \
                  are compared with that one, which flatters systems that stay inaccurate.",
    }
}

fn ours(summary: &Summary, systems: &[Shown], published: &str) -> Vec<Line> {
    let ran = systems.iter().filter(|s| s.ours && s.ran());
    ran.map(|s| Line {
        what: format!("{}: bytes against the cheapest uniform point of at least its accuracy", s.name),
        source: ACCMPEG,
        published: published.into(),
        here: Beside::of(summary, &s.id, true, "uniform-short", Measure::Published).text("clips"),
        reading: "AccMPEG sends one pass, too; it was not run here, because its network for the camera has to be trained for \
                  the detector.",
    })
    .collect()
}

fn common(summary: &Summary, savings: &Savings, systems: &[Shown]) -> Vec<Line> {
    let measure = match Measure::Paper.is_measured(summary) {
        true => Measure::Paper,
        false => Measure::Published,
    };
    let average = savings.spread("dds", measure, Baseline::Uniform, Column::Average);
    let name = |id: &str| {
        systems
            .iter()
            .find(|s| s.id == id)
            .map_or(id.to_string(), |s| s.name.clone())
    };
    let least = asked(summary, systems);
    let age = |s: &Shown| chosen(summary, s, least).map(|c| c.mean(|p| p.freshness.mean));
    let ages: Vec<String> = systems
        .iter()
        .filter(|s| s.ours || ["dds", "uniform-short", "vigil", "glimpse"].contains(&s.id.as_str()))
        .filter_map(|s| Some(format!("{} {} s", name(&s.id), number(age(s)? / 1000.0, 3))))
        .collect();
    let cloudseg = Beside::of(summary, "cloudseg", false, "uniform-short", Measure::Published);
    let drop = systems.iter().find(|s| s.id == "awstream-online").filter(|s| s.ran());
    vec![
        Line {
            what: "DDS: bandwidth at equal accuracy".into(),
            source: DDS_PAPER,
            published: "up to 59 % less; 49 videos, three tasks".into(),
            here: match average.clips {
                0 => NOT_RUN.into(),
                _ => format!(
                    "{} (average over the curve, median of {} clips; best clip {})",
                    super::html::signed(average.median),
                    average.clips,
                    super::html::signed(average.least)
                ),
            },
            reading: "Against the hull of both uniform encodes, of which the long GOP is one that the paper did not compare \
                      with; its figure is the best of its videos.",
        },
        Line {
            what: "DDS: accuracy at equal bandwidth".into(),
            source: DDS_PAPER,
            published: "3 to 9 % higher".into(),
            here: gain(summary, measure),
            reading: "At the bytes of the published setting, against uniform GOP 15, in points of accuracy.",
        },
        Line {
            what: "Delay until a result is there".into(),
            source: DDS,
            published: "DDS 0.545 s (first pass 0.505, second 0.906), uniform 0.707, Vigil 0.598, Glimpse 0.433; a model \
                        without round trip and without waiting for the segment"
                .into(),
            here: match ages.is_empty() {
                true => NOT_RUN.into(),
                false => ages.join(", "),
            },
            reading: "Theirs is the delay per object by their formula; ours is the age of the newest result at the server with \
                      the stated link, so it includes round trip, segment and queue, and grows where frames are skipped.",
        },
        Line {
            what: "CloudSeg: bandwidth".into(),
            source: "CloudSeg paper, abstract",
            published: "6.8 times less at little loss".into(),
            here: cloudseg.text("points"),
            reading: "Bytes against the cheapest uniform point of at least its accuracy; theirs is against sending the full size, with a \
                      super-resolution network trained on the task, ours takes the public one.",
        },
        Line {
            what: "AWStream: accuracy given up".into(),
            source: "AWStream paper, abstract",
            published: "2 to 6 %".into(),
            here: drop
                .and_then(|s| {
                    let own = s.points(summary, POOLED).iter().map(|p| p.published.main).reduce(f64::max)?;
                    let best = hull(summary, POOLED, &["uniform-short", "uniform-long"], Measure::Published);
                    let (_, best) = best.range()?;
                    Some(format!("{} % at its best mean rate", number(100.0 * (1.0 - own / best), 1)))
                })
                .unwrap_or(NOT_RUN.into()),
            reading: "Its controller on a drawn link, against the best uniform encode; how much it gives up is for the link to say.",
        },
        Line {
            what: "Later systems, not run here".into(),
            source: "their papers\u{2019} abstracts",
            published: "AccMPEG 10 to 43 % less delay, OneAdapt 15 to 59 % less bandwidth, VaBUS 25 to 77 %, DeepStream up to 54 %, \
                        EVA up to 90 %"
                .into(),
            here: "\u{2013}".into(),
            reading: "Each is against baselines of its own, so none of these can be compared with another.",
        },
    ]
}

fn gain(summary: &Summary, measure: Measure) -> String {
    let is_own = |p: &&Scored| p.system == "dds" && p.clip != POOLED && p.shipped;
    let gains: Vec<f64> = summary
        .points
        .iter()
        .filter(is_own)
        .filter_map(|p| {
            let uniform = hull(summary, &p.clip, &["uniform-short"], measure);
            Some(100.0 * (measure.accuracy(p)? - uniform.accuracy_at(measure.kbps(p))?))
        })
        .collect();
    let of = summary.points.iter().filter(is_own).count();
    match median(gains.iter().copied()) {
        None if of == 0 => NOT_RUN.into(),
        None => format!("comparable on 0 of {of} clips"),
        Some(median) => {
            let plus = if median > 0.0 { "+" } else { "" };
            format!(
                "{plus}{} points (median; {} of {of} clips)",
                number(median, 1),
                gains.len()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Accuracy, Freshness, Manifest};

    fn point(clip: &str, system: &str, shipped: bool, kbps: f64, main: f64) -> Scored {
        let accuracy = Accuracy {
            main,
            paper: main,
            ..Accuracy::default()
        };
        Scored {
            clip: clip.into(),
            system: system.into(),
            point: kbps.to_string(),
            settings: String::new(),
            shipped,
            kbps,
            kbps_down: 0.0,
            kbps_headers: kbps,
            norm: kbps / 1000.0,
            refine_share: 0.25,
            published: accuracy,
            plain: accuracy,
            equal: accuracy,
            freshness: Freshness::default(),
            camera_ms: 0.0,
            inferences: 1.0,
        }
    }

    fn run() -> Summary {
        Summary {
            manifest: Manifest::default(),
            threshold: 0.3,
            pooled_clips: Vec::new(),
            points: vec![
                point("a", "uniform-short", false, 1000.0, 0.9),
                point("a", "uniform-short", false, 500.0, 0.8),
                point("a", "dds", true, 300.0, 0.8),
                point("a", "dds", false, 450.0, 0.85),
                point("b", "uniform-short", false, 1000.0, 0.7),
                point("b", "dds", true, 400.0, 0.8),
                point("pooled", "dds", true, 350.0, 0.8),
            ],
        }
    }

    #[test]
    fn points_are_compared_with_the_cheapest_that_is_as_accurate() {
        let of = |shipped| Beside::of(&run(), "dds", shipped, "uniform-short", Measure::Published);
        // On clip b no uniform point is as accurate.
        assert_eq!((of(true).ratios, of(true).of), (vec![0.6], 2));
        assert_eq!((of(false).ratios, of(false).of), (vec![0.6, 0.45], 3));
        assert_eq!(
            Beside::of(&run(), "eaar", false, "uniform-short", Measure::Paper),
            Beside::default()
        );
    }

    #[test]
    fn figures_that_cannot_be_had_say_why() {
        let beside = |system| Beside::of(&run(), system, true, "awstream", Measure::Published).text("clips");
        assert_eq!(beside("eaar"), NOT_RUN);
        assert_eq!(beside("dds"), "none: the other is never as accurate (0 of 2 clips)");
        assert_eq!(over_best(&run()), "1 of 2");
        // DDS is cheaper than every uniform point.
        assert_eq!(gain(&run(), Measure::Published), "comparable on 0 of 2 clips");
    }
}
