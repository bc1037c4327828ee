// SPDX-License-Identifier: MPL-2.0

//! The page.

#![forbid(unsafe_code)]

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dds_tests::Error;

use super::html::{escape, number, rate, share};
use super::plots::{Bar, Dot, Layout, Unit, Words, ages, caption, chip, curves};
use super::published;
use super::savings::{Measure, POOLED, Savings};
use super::shown::{Shown, asked, chosen, clips};
use super::terms::Terms;
use crate::judge::ClipResult;
use crate::record::Summary;
use crate::targets::Table;

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
    /// Every captured picture judged.
    pub results: &'a [ClipResult],
    /// The targets.
    pub tables: &'a [Table],
    /// Where strips of pictures are looked for.
    pub dir: &'a Path,
}

impl Page<'_> {
    pub(super) fn terms(&self) -> Terms {
        Terms::of(&self.summary.manifest.task)
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
        self.goals(&mut out);
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
        let targets = match self.tables.is_empty() {
            true => "",
            false => "<a href=\"#targets\">Targets</a> ",
        };
        *out += &format!(
            "<nav aria-label=\"Sections\">{targets}<a href=\"#overview\">Overview</a> <a href=\"#savings\">Savings</a> \
                 <a href=\"#clips\">Clips</a> <a href=\"#freshness\">Freshness</a> <a href=\"#rules\">Rules</a> \
                 <a href=\"#published\">Published figures</a> <a href=\"#run\">This run</a></nav>\n</header>\n"
        );
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

    pub(super) fn name_cell(&self, s: &Shown) -> String {
        let class = if s.ours { " class=\"ours\"" } else { "" };
        format!(
            "<tr{class} data-system=\"{}\"><th scope=\"row\">{}<span>{}</span></th>",
            escape(&s.id),
            chip(s),
            escape(&s.name)
        )
    }

    pub(super) fn ran(&self) -> impl Iterator<Item = &Shown> {
        self.systems.iter().filter(|s| s.ran())
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

    fn ages(&self, out: &mut String) -> Result<(), Error> {
        let m = &self.summary.manifest;
        let least = asked(self.summary, self.systems);
        *out += "<section id=\"freshness\">\n<h2>Freshness and work</h2>\n";
        *out += &format!(
            "<p>Age of the newest result that the server has, at every millisecond: link of {} kbit/s, half the round trip \
             of {} ms each way, {} ms per inference, and the wait for whole segments where a system sends those.</p>\n<figure>\n",
            rate(m.link_kbps),
            number(m.rtt_ms, 0),
            number(m.inference_ms, 0)
        );
        *out += &figure(&self.freshness(Layout::WIDE)?, &self.freshness(Layout::NARROW)?);
        *out += "<figcaption>Bar and number: mean. Line and number in brackets: 95th percentile. Shorter is better.</figcaption>\n</figure>\n";
        *out += "<div class=\"scroll\" role=\"group\" aria-label=\"Table, scrolls sideways\" tabindex=\"0\"><table>\n<caption>At the shipped or published setting of every \
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
        *out += "</tbody></table></div>\n<p class=\"note\">Camera time is processor time as measured on the machine of this run.";
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
                 their last digit. Ratios under 1 are fewer bytes.</p>\n<div class=\"scroll\" role=\"group\" aria-label=\"Table, scrolls sideways\" tabindex=\"0\"><table \
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
        *out += "</dl>\n<div class=\"scroll\" role=\"group\" aria-label=\"Table, scrolls sideways\" tabindex=\"0\"><table class=\"files\">\n<caption>Clips</caption>\n<thead><tr><th \
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
