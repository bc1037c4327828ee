// SPDX-License-Identifier: MPL-2.0

//! The page.

#![forbid(unsafe_code)]

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dds_tests::Error;

use super::html::{change, escape, number, rate, share, signed, spread};
use super::plots::{Bar, Dot, Layout, Unit, Words, ages, caption, chip, curves};
use super::published;
use super::savings::{Baseline, Column, Measure, POOLED, Savings, Spread, TARGETS};
use super::shown::{Shown, asked, chosen, clips};
use crate::curve::Saving;
use crate::record::Summary;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// What the page is made of.
pub struct Page<'a> {
    /// The run.
    pub summary: &'a Summary,
    /// All systems.
    pub systems: &'a [Shown],
    /// All savings.
    pub savings: &'a Savings,
    /// Where strips of pictures are looked for.
    pub dir: &'a Path,
}

/// Words for what a task is measured by.
struct Terms {
    /// Main measure, short.
    main: &'static str,
    /// Main measure, in one sentence.
    main_long: &'static str,
    /// The paper's metric, short.
    paper: &'static str,
    /// The paper's metric, in one sentence.
    paper_long: &'static str,
}

fn terms(task: &str) -> Terms {
    match task {
        "segmentation" => Terms {
            main: "mIoU",
            main_long: "Mean over classes of intersection over union, against the same model\u{2019}s classes on the source video.",
            paper: "agreement",
            paper_long: "The DDS paper\u{2019}s metric: pixels on which both agree, of those that at least one calls something \
                         other than background; mean over frames.",
        },
        "face" => Terms {
            main: "strict F1 of faces",
            main_long: "F1 of faces against the same model on the source video: IoU of at least 0.5, one to one, all frames \
                        pooled.",
            paper: "F1, paper\u{2019}s metric",
            paper_long: "The DDS paper\u{2019}s metric: IoU of at least 0.3, several boxes may match one, scores from 0.5, boxes \
                         of at most 4 % of the frame.",
        },
        _ => Terms {
            main: "strict F1",
            main_long: "F1 against the same model on the source video: same class, IoU of at least 0.5, one to one, all \
                        frames pooled.",
            paper: "F1, paper\u{2019}s metric",
            paper_long: "The DDS paper\u{2019}s metric: IoU of at least 0.3, several boxes may match one, scores from 0.5, boxes \
                         of at most 4 % of the frame.",
        },
    }
}

impl Page<'_> {
    fn terms(&self) -> Terms {
        terms(&self.summary.manifest.task)
    }

    /// The plot of all clips together.
    pub fn pooled(&self, layout: Layout) -> Result<String, Error> {
        let y = format!("mean {}", self.terms().main);
        let words = Words {
            title: "Share of the finest uniform encode's bits against mean accuracy, all systems",
            x: "bits, share of uniform GOP 15 at its finest quantizer (logarithmic)",
            y: &y,
            unit: Unit::Share,
        };
        // A telephone has no room for long words.
        let short = Words {
            x: "bits, share of the finest uniform GOP 15",
            ..words
        };
        let words = if layout.width < 450 { short } else { words };
        self.plot(layout, words, POOLED, Measure::Published)
    }

    fn plot(&self, layout: Layout, words: Words, clip: &str, measure: Measure) -> Result<String, Error> {
        let dot = |system: &Shown, p: &crate::record::Scored| {
            let accuracy = measure.accuracy(p)?;
            Some(Dot {
                x: if words.unit == Unit::Share {
                    p.norm
                } else {
                    measure.kbps(p)
                },
                y: accuracy,
                shipped: p.shipped,
                title: caption(system, &p.point, measure.kbps(p), accuracy),
            })
        };
        let series: Vec<(&Shown, Vec<Dot>)> = self
            .systems
            .iter()
            .map(|s| {
                (
                    s,
                    s.points(self.summary, clip)
                        .into_iter()
                        .filter_map(|p| dot(s, p))
                        .collect(),
                )
            })
            .collect();
        curves(layout, words, &series)
    }

    /// The plot of the age of results.
    pub fn freshness(&self, layout: Layout) -> Result<String, Error> {
        let least = asked(self.summary, self.systems);
        let bars: Vec<Bar> = self
            .systems
            .iter()
            .filter_map(|system| {
                let chosen = chosen(self.summary, system, least)?;
                Some(Bar {
                    system,
                    mean: chosen.mean(|p| p.freshness.mean),
                    p95: chosen.mean(|p| p.freshness.p95),
                    note: if system.pooled {
                        String::new()
                    } else {
                        format!(" ({} clips)", system.clips.len())
                    },
                })
            })
            .collect();
        ages(
            layout,
            "Age of the newest result of every system, mean and 95th percentile",
            &bars,
        )
    }

    /// The whole page.
    ///
    /// # Errors
    /// What plotters says, or the strip of pictures that cannot be read.
    pub fn html(&self) -> Result<String, Error> {
        let mut out = String::with_capacity(1 << 20);
        out += "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
                <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src \
                'unsafe-inline'; img-src data:\">\n\
                <link rel=\"icon\" href=\"data:,\">\n";
        out += &format!(
            "<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
            self.title()
        );
        self.head(&mut out);
        out += "<main>\n";
        self.overview(&mut out)?;
        self.savings(&mut out);
        self.clips(&mut out)?;
        self.ages(&mut out)?;
        self.rules(&mut out);
        self.published(&mut out);
        self.run(&mut out);
        out += &format!("</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
        Ok(out)
    }

    fn title(&self) -> String {
        let count = self.systems.iter().filter(|s| s.ran()).count();
        let clips = clips(self.summary).len();
        format!("gst-dds beside the systems of the DDS paper: {count} systems, {clips} clips")
    }

    fn head(&self, out: &mut String) {
        let m = &self.summary.manifest;
        *out += "<header>\n<h1>gst-dds beside the systems of the DDS paper</h1>\n";
        *out += &format!("<p class=\"answer\">{}</p>\n", self.answer());
        for sentence in self.more() {
            *out += &format!("<p class=\"more\">{sentence}</p>\n");
        }
        *out += &format!(
            "<p class=\"facts\">{} clips, model {}, {}. Link of {} kbit/s, round trip {} ms, {} ms per inference.</p>\n",
            clips(self.summary).len(),
            escape(&m.model),
            escape(&m.task),
            rate(m.link_kbps),
            number(m.rtt_ms, 0),
            number(m.inference_ms, 0)
        );
        *out += "<nav aria-label=\"Sections\"><a href=\"#overview\">Overview</a> <a href=\"#savings\">Savings</a> \
                 <a href=\"#clips\">Clips</a> <a href=\"#freshness\">Freshness</a> <a href=\"#rules\">Rules</a> \
                 <a href=\"#published\">Published figures</a> <a href=\"#run\">This run</a></nav>\n</header>\n";
    }

    /// The system that the answer is about: of ours, the first that ran.
    fn subject(&self) -> Option<&Shown> {
        self.systems.iter().find(|s| s.ours && s.ran())
    }

    /// The subject beside uniform and AWStream: at the middle accuracy where any clip has it, else at the next best.
    fn compared(&self, ours: &Shown) -> Option<(Column, [(Baseline, Spread); 2])> {
        let against = |column| {
            let baselines = [Baseline::UniformLong, Baseline::Awstream];
            baselines.map(|b| (b, self.savings.spread(&ours.id, Measure::Published, b, column)))
        };
        let columns = [1, 2, 0].map(Column::At).into_iter().chain([Column::Average]);
        columns
            .map(|column| (column, against(column)))
            .find(|(_, spreads)| spreads.iter().any(|(_, s)| s.clips > 0))
    }

    /// One sentence, computed.
    fn answer(&self) -> String {
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
                    super::html::verdict(s.median),
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
    fn more(&self) -> Vec<String> {
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
                super::html::verdict(own.median),
                super::html::in_words(own.median),
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
                    super::html::in_words(least),
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

    fn legend(&self) -> String {
        let mut out = String::from("<ul class=\"legend\">\n");
        for s in self.systems.iter().filter(|s| s.ran()) {
            let note = if s.pooled { "" } else { " *" };
            out += &format!(
                "<li><button type=\"button\" data-system=\"{}\">{}<span>{}{note}</span></button></li>\n",
                escape(&s.id),
                chip(s),
                escape(&s.name)
            );
        }
        out + "</ul>\n"
    }

    fn partial(&self) -> String {
        let partial: Vec<String> = self
            .systems
            .iter()
            .filter(|s| s.ran() && !s.pooled)
            .map(|s| {
                format!(
                    "{} ran on {} of {} clips",
                    escape(&s.name),
                    s.clips.len(),
                    clips(self.summary).len()
                )
            })
            .collect();
        let absent: Vec<String> = self
            .systems
            .iter()
            .filter(|s| !s.ran())
            .map(|s| escape(&s.name))
            .collect();
        let mut out = String::new();
        if !partial.is_empty() {
            out += &format!(
                "<p class=\"note\">* {} and has no place in what is taken over all clips.</p>\n",
                partial.join("; ")
            );
        }
        if !absent.is_empty() {
            out += &format!("<p class=\"note\">Not in this run: {}.</p>\n", absent.join(", "));
        }
        out
    }

    fn overview(&self, out: &mut String) -> Result<(), Error> {
        let terms = self.terms();
        *out += "<section id=\"overview\">\n<h2>All clips together</h2>\n<figure>\n";
        *out += &figure(&self.pooled(Layout::WIDE)?, &self.pooled(Layout::NARROW)?);
        *out += &self.legend();
        *out += &format!(
            "<figcaption>Up and to the left is better. Mean over {} clips ({}). Each mark is one setting of a sweep, ringed \
             marks are shipped or published settings. {} Bits are those of both directions without headers of RTP, UDP and \
             IP.</figcaption>\n</figure>\n",
            self.summary.pooled_clips.len(),
            escape(&self.summary.pooled_clips.join(", ")),
            terms.main_long
        );
        *out += &self.partial();
        *out += "</section>\n";
        Ok(())
    }

    fn name_cell(&self, s: &Shown) -> String {
        let class = if s.ours { " class=\"ours\"" } else { "" };
        format!(
            "<tr{class} data-system=\"{}\"><th scope=\"row\">{}<span>{}</span></th>",
            escape(&s.id),
            chip(s),
            escape(&s.name)
        )
    }

    fn ran(&self) -> impl Iterator<Item = &Shown> {
        self.systems.iter().filter(|s| s.ran())
    }

    /// Table of one measure: three accuracies beside the uniform hull, and averages beside three baselines.
    fn savings_table(&self, measure: Measure, caption: &str) -> String {
        let mut out = format!(
            "<div class=\"scroll\" tabindex=\"0\"><table>\n<caption>{caption}</caption>\n<thead><tr><th scope=\"col\">system</th>"
        );
        for target in TARGETS {
            out += &format!(
                "<th scope=\"col\">at {} of best uniform<small>against hull of uniform</small></th>",
                number(target, 2)
            );
        }
        for baseline in Baseline::ALL {
            out += &format!(
                "<th scope=\"col\">average<small>against {}</small></th>",
                baseline.name()
            );
        }
        out += "</tr></thead>\n<tbody>\n";
        for s in self.ran() {
            out += &self.name_cell(s);
            for n in 0..TARGETS.len() {
                out += &spread(&self.savings.spread(&s.id, measure, Baseline::Uniform, Column::At(n)));
            }
            for baseline in Baseline::ALL {
                out += &spread(&self.savings.spread(&s.id, measure, baseline, Column::Average));
            }
            out += "</tr>\n";
        }
        out + "</tbody></table></div>\n"
    }

    fn savings(&self, out: &mut String) {
        let terms = self.terms();
        *out += "<section id=\"savings\">\n<h2>Bandwidth at equal accuracy</h2>\n";
        *out += &format!(
            "<p>Change of bandwidth against a baseline: <b class=\"win\">{}</b> takes fewer bits, <b class=\"loss\">{}</b> more. \
             Large: median over clips; under it the least and the most, and on how many clips of those that the system ran on \
             there is a number. There is none where a system is never as accurate, or never as inaccurate; nothing is \
             extrapolated.</p>\n",
            signed(-30.0),
            signed(30.0)
        );
        *out += &self.savings_table(
            Measure::Published,
            &format!("By {}, each system by its own rule for results", escape(terms.main)),
        );
        *out += "<p class=\"note\">Every curve is its upper convex hull over the logarithm of bandwidth, systems and baselines \
                 alike; the hull of uniform is that of both GOP lengths together, the oracle of AWStream that of its grid. An \
                 average is over the accuracies that both curves have, and \u{2020} marks one over less than a quarter of the \
                 baseline\u{2019}s range of accuracy.</p>\n";
        *out += "<h3>With and without the same post-processing</h3>\n";
        *out += "<p>A system may owe its accuracy to what it does with results rather than to its bits. <b>Own rule</b>: two passes \
                 united, skipped frames held or tracked. <b>Without</b>: no union, skipped frames hold the last result. <b>Same for \
                 all</b>: overlapping boxes of a class joined, skipped frames interpolated. <b>With headers</b>: own rule, headers of \
                 RTP, UDP and IP counted.</p>\n";
        let columns = [
            (Measure::Published, "own rule"),
            (Measure::Plain, "without"),
            (Measure::Equal, "same for all"),
            (Measure::Headers, "with headers"),
        ];
        let baselines = [Baseline::Uniform, Baseline::Awstream];
        *out += "<div class=\"scroll\" tabindex=\"0\"><table class=\"tight\">\n<caption>Average change of bandwidth, median over \
                 clips</caption>\n<thead><tr><th scope=\"col\" rowspan=\"2\">system</th>";
        for baseline in baselines {
            *out += &format!(
                "<th scope=\"colgroup\" colspan=\"{}\">against {}</th>",
                columns.len(),
                baseline.name()
            );
        }
        *out += "</tr>\n<tr>";
        for _ in baselines {
            for (_, name) in columns {
                *out += &format!("<th scope=\"col\">{name}</th>");
            }
        }
        *out += "</tr></thead>\n<tbody>\n";
        for s in self.ran() {
            *out += &self.name_cell(s);
            for baseline in baselines {
                for (measure, _) in columns {
                    *out += &spread(&self.savings.spread(&s.id, measure, baseline, Column::Average));
                }
            }
            *out += "</tr>\n";
        }
        *out += "</tbody></table></div>\n";
        if Measure::Paper.is_measured(self.summary) {
            *out += "<h3>By the paper\u{2019}s metric</h3>\n";
            *out += &format!("<p>{}</p>\n", terms.paper_long);
            *out += &self.savings_table(
                Measure::Paper,
                &format!("By {}, each system by its own rule for results", escape(terms.paper)),
            );
        }
        if Measure::Identity.is_measured(self.summary) {
            *out += "<h3>By identity</h3>\n<p>Faces called by the right name, of all that the model recognises on the source.</p>\n";
            *out += &self.savings_table(Measure::Identity, "By faces called by the right name");
        }
        *out += "<h3>Average of each clip</h3>\n<div class=\"scroll\" tabindex=\"0\"><table class=\"tight\">\n<caption>Average change of \
                 bandwidth against the hull of uniform, own rule</caption>\n<thead><tr><th scope=\"col\">system</th>";
        let clips = clips(self.summary);
        for clip in &clips {
            *out += &format!("<th scope=\"col\">{}</th>", escape(clip));
        }
        *out += "</tr></thead>\n<tbody>\n";
        for s in self.ran() {
            *out += &self.name_cell(s);
            for clip in &clips {
                let row = self.savings.row(clip, &s.id, Measure::Published, Baseline::Uniform);
                let sliver = row.and_then(|r| r.overlap).is_some_and(|o| o < Saving::SLIVER);
                *out += &change(row.and_then(|r| r.average), sliver);
            }
            *out += "</tr>\n";
        }
        *out += "</tbody></table></div>\n</section>\n";
    }

    fn clips(&self, out: &mut String) -> Result<(), Error> {
        let terms = self.terms();
        *out += "<section id=\"clips\">\n<h2>Curves of each clip</h2>\n";
        *out += &self.legend();
        for clip in clips(self.summary) {
            let name = escape(clip);
            *out += &format!("<article>\n<h3>{name}</h3>\n");
            if let Some(info) = self.summary.manifest.clips.iter().find(|c| c.name == clip) {
                *out += &format!(
                    "<p class=\"facts\">{}\u{d7}{}, {} frames/s, {} frames</p>\n",
                    info.size.0,
                    info.size.1,
                    number(info.rate, if info.rate.fract() == 0.0 { 0 } else { 2 }),
                    info.frames
                );
            }
            *out += "<div class=\"pair\">\n";
            let mut measures = vec![(Measure::Published, terms.main)];
            if Measure::Paper.is_measured(self.summary) {
                measures.push((Measure::Paper, terms.paper));
            }
            if Measure::Identity.is_measured(self.summary) {
                measures.push((Measure::Identity, "share of faces named rightly"));
            }
            for (measure, y) in measures {
                let title = format!("{clip}: kbit/s against {y}, all systems");
                let words = Words {
                    title: &title,
                    x: "kbit/s (logarithmic)",
                    y,
                    unit: Unit::Rate,
                };
                *out += "<figure>\n";
                *out += &figure(
                    &self.plot(Layout::HALF, words, clip, measure)?,
                    &self.plot(Layout::NARROW, words, clip, measure)?,
                );
                *out += &format!("<figcaption>{}</figcaption>\n</figure>\n", escape(y));
            }
            *out += "</div>\n";
            self.strips(out, clip)?;
            self.points(out, clip);
            *out += "</article>\n";
        }
        *out += "</section>\n";
        Ok(())
    }

    fn strips(&self, out: &mut String, clip: &str) -> Result<(), Error> {
        let mut strips = String::new();
        for s in self.systems {
            let path = self.dir.join("strips").join(format!("{clip}-{}.jpg", s.id));
            if !path.is_file() {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            strips += &format!(
                "<figure class=\"strip\" data-system=\"{}\"><img alt=\"Frames of {} as {} sends them, with the boxes found\" \
                 loading=\"lazy\" src=\"data:image/jpeg;base64,{}\"><figcaption>{}{}</figcaption></figure>\n",
                escape(&s.id),
                escape(clip),
                escape(&s.name),
                STANDARD.encode(bytes),
                chip(s),
                escape(&s.name)
            );
        }
        if !strips.is_empty() {
            *out += &format!("<div class=\"strips\">\n{strips}</div>\n");
        }
        Ok(())
    }

    fn points(&self, out: &mut String, clip: &str) {
        let terms = self.terms();
        let identity = Measure::Identity.is_measured(self.summary);
        let paper = Measure::Paper.is_measured(self.summary);
        let mut heads = vec![
            "system",
            "point",
            "kbit/s",
            "with headers",
            "of it down",
            "norm.",
            "2nd pass",
            terms.main,
            "without",
            "same for all",
        ];
        if paper {
            heads.push(terms.paper);
        }
        if identity {
            heads.push("named rightly");
        }
        heads.extend(["age, ms", "p95, ms"]);
        *out += "<details>\n<summary>All points of this clip</summary>\n<div class=\"scroll\" tabindex=\"0\"><table \
                 class=\"points\">\n<thead><tr>";
        for head in heads {
            *out += &format!("<th scope=\"col\">{}</th>", escape(head));
        }
        *out += "</tr></thead>\n<tbody>\n";
        for s in self.systems {
            for p in s.points(self.summary, clip) {
                *out += &self.name_cell(s);
                let point = escape(&p.point);
                let point = if p.shipped { format!("<b>{point}</b>") } else { point };
                *out += &format!(
                    "<td title=\"{}\">{point}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
                     <td>{}</td>",
                    escape(&p.settings),
                    rate(p.kbps),
                    rate(p.kbps_headers),
                    rate(p.kbps_down),
                    share(p.norm),
                    share(p.refine_share),
                    number(p.published.main, 3),
                    number(p.plain.main, 3),
                    number(p.equal.main, 3)
                );
                if paper {
                    *out += &format!("<td>{}</td>", number(Measure::Paper.accuracy(p).unwrap_or(f64::NAN), 3));
                }
                if identity {
                    *out += &format!("<td>{}</td>", number(p.published.identity.unwrap_or(f64::NAN), 3));
                }
                *out += &format!(
                    "<td>{}</td><td>{}</td></tr>\n",
                    number(p.freshness.mean, 0),
                    number(p.freshness.p95, 0)
                );
            }
        }
        *out += "</tbody></table></div>\n</details>\n";
    }

    fn ages(&self, out: &mut String) -> Result<(), Error> {
        let m = &self.summary.manifest;
        let least = asked(self.summary, self.systems);
        *out += "<section id=\"freshness\">\n<h2>Freshness and work</h2>\n";
        *out += &format!(
            "<p>Age of the newest result that the server has, at every millisecond: camera, link of {} kbit/s, half the round trip \
             of {} ms each way, {} ms per inference, and the wait for whole segments where a system sends those.</p>\n<figure>\n",
            rate(m.link_kbps),
            number(m.rtt_ms, 0),
            number(m.inference_ms, 0)
        );
        *out += &figure(&self.freshness(Layout::WIDE)?, &self.freshness(Layout::NARROW)?);
        *out += "<figcaption>Bar and number: mean. Line and number in brackets: 95th percentile. Shorter is better.</figcaption>\n</figure>\n";
        *out += "<div class=\"scroll\" tabindex=\"0\"><table>\n<caption>At the shipped or published setting of every \
                 system</caption>\n<thead><tr><th scope=\"col\">system</th><th scope=\"col\">point</th><th scope=\"col\">mean, \
                 ms</th><th scope=\"col\">median, ms</th><th scope=\"col\">p95, ms</th><th scope=\"col\">accuracy</th><th \
                 scope=\"col\">norm.</th><th scope=\"col\">camera, ms per frame</th><th scope=\"col\">inferences per \
                 frame</th></tr></thead>\n<tbody>\n";
        let mut picked = false;
        for s in self.ran() {
            let Some(c) = chosen(self.summary, s, least) else {
                continue;
            };
            picked |= !c.shipped;
            let mut names: Vec<&str> = c.points.iter().map(|p| p.point.as_str()).collect();
            names.dedup();
            let name = match names[..] {
                [one] => escape(one),
                _ => "by clip".into(),
            };
            *out += &self.name_cell(s);
            *out += &format!(
                "<td>{name}{}{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                if c.shipped { "" } else { "<sup>\u{2021}</sup>" },
                if s.pooled { "" } else { "\u{a0}*" },
                number(c.mean(|p| p.freshness.mean), 0),
                number(c.mean(|p| p.freshness.p50), 0),
                number(c.mean(|p| p.freshness.p95), 0),
                number(c.mean(|p| p.published.main), 3),
                share(c.mean(|p| p.norm)),
                number(c.mean(|p| p.camera_ms), 1),
                number(c.mean(|p| p.inferences), 2)
            );
        }
        *out += "</tbody></table></div>\n<p class=\"note\">Camera time is processor time as measured on the machine of this run; all \
                 else is the same in every run.";
        if picked {
            *out += &format!(
                " \u{2021} has no setting of its own: its cheapest point of at least {} {}, or its best.",
                number(least, 3),
                self.terms().main
            );
        }
        *out += "</p>\n";
        *out += &self.partial();
        *out += "</section>\n";
        Ok(())
    }

    fn rules(&self, out: &mut String) {
        *out += "<section id=\"rules\">\n<h2>The rule of every system</h2>\n<dl class=\"rules\">\n";
        for s in self.systems {
            let absent = if s.ran() { "" } else { " <small>not in this run</small>" };
            *out += &format!(
                "<div><dt>{}<span>{}</span>{absent}</dt><dd>{} <code>{}</code></dd></div>\n",
                chip(s),
                escape(&s.name),
                escape(s.rule),
                escape(&s.id)
            );
        }
        *out += "</dl>\n</section>\n";
    }

    fn published(&self, out: &mut String) {
        *out += "<section id=\"published\">\n<h2>Against published figures</h2>\n<p>Whether the systems were rebuilt well is for the \
                 reader to judge: what their authors, or the authors of AccMPEG, published, beside what this run measured. The \
                 published figures are of other clips, other models and mostly another metric, so their size should agree, not \
                 their last digit. Ratios under 1 are fewer bytes.</p>\n<div class=\"scroll\" tabindex=\"0\"><table \
                 class=\"words\">\n<thead><tr><th scope=\"col\">figure</th><th scope=\"col\">published</th><th \
                 scope=\"col\">here</th><th scope=\"col\">how to read it</th></tr></thead>\n<tbody>\n";
        for line in published::lines(self.summary, self.savings, self.systems) {
            // Numbers first, how they spread in small.
            let here = match line.here.split_once(" (") {
                Some((number, spread)) => {
                    let spread = spread.trim_end_matches(')');
                    format!("<b>{}</b><small>{}</small>", escape(number), escape(spread))
                }
                None => format!("<b>{}</b>", escape(&line.here)),
            };
            *out += &format!(
                "<tr><th scope=\"row\">{}</th><td data-head=\"published\">{}<small>{}</small></td><td data-head=\"here\">{}</td>\
                 <td>{}</td></tr>\n",
                escape(&line.what),
                escape(&line.published),
                line.source,
                here,
                line.reading
            );
        }
        *out += "</tbody></table></div>\n</section>\n";
    }

    fn run(&self, out: &mut String) {
        let (s, m) = (self.summary, &self.summary.manifest);
        *out += "<section id=\"run\">\n<h2>This run</h2>\n<dl class=\"run\">\n";
        let facts = [
            ("Command", format!("<code>{}</code>", escape(&m.command))),
            ("Machine", escape(&m.machine)),
            ("Versions", escape(&m.versions)),
            ("Model", format!("{}, {}", escape(&m.model), escape(&m.task))),
            ("Round trip", format!("{} ms", number(m.rtt_ms, 1))),
            ("Inference", format!("{} ms a frame", number(m.inference_ms, 1))),
            ("Link upstream", format!("{} kbit/s", rate(m.link_kbps))),
            (
                "Test threshold",
                format!(
                    "{}, fixed on the uniform encodes of all clips",
                    number(f64::from(s.threshold), 2)
                ),
            ),
            ("Pooled over", escape(&s.pooled_clips.join(", "))),
            ("Time taken", duration(m.seconds)),
        ];
        for (name, value) in facts {
            *out += &format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n");
        }
        *out += "</dl>\n<div class=\"scroll\" tabindex=\"0\"><table class=\"files\">\n<caption>Clips</caption>\n<thead><tr><th \
                 scope=\"col\">clip</th><th scope=\"col\">size</th><th scope=\"col\">frames/s</th><th \
                 scope=\"col\">frames</th><th scope=\"col\">file</th><th scope=\"col\">SHA-256</th></tr></thead>\n<tbody>\n";
        for c in &m.clips {
            *out += &format!(
                "<tr><th scope=\"row\">{}</th><td>{}\u{d7}{}</td><td>{}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>\n",
                escape(&c.name),
                c.size.0,
                c.size.1,
                number(c.rate, 2),
                c.frames,
                escape(&c.path),
                escape(&c.sha256)
            );
        }
        *out += "</tbody></table></div>\n<p class=\"note\">The same numbers are beside this page in points.csv, savings.csv, \
                 savings.json and summary.json.</p>\n</section>\n";
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

/// A plot for wide and one for narrow screens; the style shows one of them.
fn figure(wide: &str, narrow: &str) -> String {
    format!("<div class=\"wide\">{wide}</div>\n<div class=\"narrow\">{narrow}</div>\n")
}

fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "\u{2013}".into();
    }
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0 => format!("{} s", number(seconds, 0)),
        1..120 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}
