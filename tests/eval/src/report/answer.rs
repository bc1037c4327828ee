// SPDX-License-Identifier: MPL-2.0

//! The first sentences of the page, computed: what ours costs against uniform encodes and AWStream, and where it loses.

#![forbid(unsafe_code)]

use super::html::{escape, in_words, number, verdict};
use super::page::Page;
use super::savings::{Baseline, Column, Measure, Spread, TARGETS};
use super::shown::{Shown, asked, chosen};

impl Page<'_> {
    /// The system that the answer is about: of ours, the first that ran.
    fn subject(&self) -> Option<&Shown> {
        self.systems.iter().find(|s| s.ours && s.ran())
    }

    /// The subject against uniform and AWStream, at the first of these that half of the clips have a number at: the middle
    /// accuracy, the lower, the higher, the average. Where none is, at what most clips have.
    fn compared(&self, ours: &Shown) -> Option<(Column, [(Baseline, Spread); 2])> {
        let against = |column| {
            let baselines = [Baseline::UniformLong, Baseline::Awstream];
            baselines.map(|b| (b, self.savings.spread(&ours.id, Measure::Published, b, column)))
        };
        let all = [1, 2, 0].map(Column::At).into_iter().chain([Column::Average]);
        let all: Vec<_> = all.map(|column| (column, against(column))).collect();
        let clips = |spreads: &[(Baseline, Spread); 2]| spreads.iter().map(|(_, s)| s.clips).sum::<usize>();
        let on_half =
            |spreads: &[(Baseline, Spread); 2]| spreads.iter().any(|(_, s)| s.clips > 0 && 2 * s.clips >= s.of);
        let most = all
            .iter()
            .map(|(_, spreads)| clips(spreads))
            .max()
            .filter(|most| *most > 0)?;
        let chosen = all.iter().find(|(_, spreads)| on_half(spreads));
        chosen
            .or_else(|| all.iter().find(|(_, spreads)| clips(spreads) == most))
            .copied()
    }

    /// One sentence, computed.
    pub(super) fn answer(&self) -> String {
        let Some(ours) = self.subject() else {
            return "No system of gst-dds is in this run.".into();
        };
        let found = self.compared(ours);
        let Some((column, spreads)) = found else {
            return format!(
                "{} shares no range of accuracy with uniform encodes or AWStream in this run, so there is no saving to state.",
                spoken(ours)
            );
        };
        let parts: Vec<String> = spreads
            .iter()
            .filter(|(_, s)| s.clips > 0)
            .map(|(baseline, s)| {
                format!(
                    "<b class=\"{}\">{}\u{a0}%</b> of the bits of {}",
                    verdict(s.median),
                    number(100.0 + s.median, 0),
                    spoken_baseline(*baseline)
                )
            })
            .collect();
        let at = match column {
            Column::At(n) => format!(
                "At {}\u{a0}% of the best uniform encode\u{2019}s accuracy",
                number(100.0 * TARGETS[n], 0)
            ),
            Column::Average => "At equal accuracy, on average over the curve".into(),
        };
        format!("{at}, {} needs {}.", spoken(ours), parts.join(" and "))
    }

    /// What else a reader should know before the plots: who needs least, where we lose, and how old results are.
    pub(super) fn more(&self) -> Vec<String> {
        let mut out = Vec::new();
        let Some(ours) = self.subject() else { return out };
        if let Some((_, spreads)) = self.compared(ours) {
            let parts: Vec<String> = spreads
                .iter()
                .filter(|(_, s)| s.clips > 0)
                .map(|(baseline, s)| {
                    format!(
                        "against {} it is {} to {}\u{a0}% on {} of {} clips, fewer bits on {}",
                        spoken_baseline(*baseline),
                        number(100.0 + s.least, 0),
                        number(100.0 + s.most, 0),
                        s.clips,
                        s.of,
                        s.fewer
                    )
                })
                .collect();
            out.push(format!("These are medians over clips: {}.", parts.join("; ")));
        }
        let average = |s: &Shown| {
            self.savings
                .spread(&s.id, Measure::Published, Baseline::Uniform, Column::Average)
        };
        let mut order: Vec<(&Shown, f64, usize)> = self
            .systems
            .iter()
            .filter(|s| s.pooled)
            .map(|s| (s, average(s)))
            .filter(|(_, a)| a.clips > 0 && !a.sliver)
            .map(|(s, a)| (s, a.median, a.clips))
            .collect();
        order.sort_by(|a, b| a.1.total_cmp(&b.1));
        if let Some(place) = order.iter().position(|(s, ..)| s.id == ours.id) {
            let (first, least, count) = order[0];
            let own = average(ours);
            let mut text = format!(
                "On average over its curve it takes <b class=\"{}\">{}</b> than the better of both uniform encodes at each \
                 accuracy (median of {} clips; fewer on {}, more on {})",
                verdict(own.median),
                in_words(own.median),
                own.clips,
                own.fewer,
                own.clips - own.fewer
            );
            text += &match place {
                0 => format!(", the least of all {} systems.", order.len()),
                _ => format!(
                    ", place {} of {} systems; {} takes the least, {} ({} clips).",
                    place + 1,
                    order.len(),
                    spoken(first),
                    in_words(least),
                    count
                ),
            };
            out.push(text);
        }
        let least = asked(self.summary, self.systems);
        let age = |s: &Shown| chosen(self.summary, s, least).map(|c| c.mean(|p| p.freshness.mean));
        if let Some(own) = age(ours).filter(|a| *a > 0.0) {
            let dds = self.systems.iter().find(|s| s.id == "dds" && s.ran()).and_then(age);
            let beside = dds.map_or(String::new(), |a| format!("; of DDS as published {} ms", number(a, 0)));
            out.push(format!(
                "At its shipped setting the newest result at the server is {} ms old on average{beside}.",
                number(own, 0)
            ));
        }
        out
    }
}

/// A system's name inside a sentence: what stands behind a comma is put into brackets.
fn spoken(system: &Shown) -> String {
    match system.name.split_once(", ") {
        Some((name, kind)) => format!("{} ({})", escape(name), escape(kind)),
        None => escape(&system.name),
    }
}

fn spoken_baseline(baseline: Baseline) -> &'static str {
    match baseline {
        Baseline::Uniform => "the better uniform x264",
        Baseline::Awstream => "AWStream\u{2019}s oracle",
        Baseline::UniformLong => "uniform x264 of GOP 250",
    }
}
