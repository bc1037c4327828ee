// SPDX-License-Identifier: MPL-2.0

//! The tables of savings and of points.

#![forbid(unsafe_code)]

use super::html::{change, escape, number, rate, share, signed, spread};
use super::page::Page;
use super::savings::{Baseline, Column, Measure, TARGETS};
use super::shown::clips;
use crate::curve::Saving;

impl Page<'_> {
    /// Table of one measure: three accuracies beside the uniform hull, and averages beside three baselines.
    fn savings_table(&self, measure: Measure, caption: &str) -> String {
        let mut out = format!(
            "<div class=\"scroll\" role=\"group\" aria-label=\"Table, scrolls sideways\" tabindex=\"0\"><table>\n<caption>{caption}</caption>\n<thead><tr><th scope=\"col\">system</th>"
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

    pub(super) fn savings(&self, out: &mut String) {
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
        *out += "<div class=\"scroll\" role=\"group\" aria-label=\"Table, scrolls sideways\" tabindex=\"0\"><table class=\"tight\">\n<caption>Average change of bandwidth, median over \
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
        *out += "<h3>Average of each clip</h3>\n<div class=\"scroll\" role=\"group\" aria-label=\"Table, scrolls sideways\" tabindex=\"0\"><table class=\"tight\">\n<caption>Average change of \
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

    pub(super) fn points(&self, out: &mut String, clip: &str) {
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
        heads.extend(["age, ms", "p95, ms", "settings"]);
        *out += "<details>\n<summary>All points of this clip</summary>\n<div class=\"scroll\" role=\"group\" aria-label=\"Table, scrolls sideways\" tabindex=\"0\"><table \
                 class=\"points\">\n<thead><tr>";
        for head in heads {
            *out += &format!("<th scope=\"col\">{}</th>", escape(head));
        }
        *out += "</tr></thead>\n";
        for s in self.systems {
            let points = s.points(self.summary, clip);
            if points.is_empty() {
                continue;
            }
            // One name for all points of a system.
            let name = self.name_cell(s).replace(
                "scope=\"row\"",
                &format!("scope=\"rowgroup\" rowspan=\"{}\"", points.len()),
            );
            let class = if s.ours { " class=\"ours\"" } else { "" };
            *out += &format!("<tbody{class}>\n");
            for (n, p) in points.into_iter().enumerate() {
                *out += if n == 0 { &name } else { "<tr>" };
                let point = escape(&p.point);
                let point = if p.shipped { format!("<b>{point}</b>") } else { point };
                *out += &format!("<td>{point}</td>");
                let cell = |text: String| format!("<td>{text}</td>");
                for kbps in [p.kbps, p.kbps_headers, p.kbps_down] {
                    *out += &cell(rate(kbps));
                }
                *out += &cell(share(p.norm));
                *out += &cell(if p.refine_share == 0.0 {
                    "\u{2013}".into()
                } else {
                    share(p.refine_share)
                });
                let mut accuracies = vec![p.published.main, p.plain.main, p.equal.main];
                if paper {
                    accuracies.push(Measure::Paper.accuracy(p).unwrap_or(f64::NAN));
                }
                if identity {
                    accuracies.push(p.published.identity.unwrap_or(f64::NAN));
                }
                for accuracy in accuracies {
                    *out += &cell(number(accuracy, 3));
                }
                for age in [p.freshness.mean, p.freshness.p95] {
                    *out += &cell(number(age, 0));
                }
                *out += &format!("<td class=\"settings\">{}</td></tr>\n", escape(&p.settings));
            }
            *out += "</tbody>\n";
        }
        *out += "</table></div>\n</details>\n";
    }
}
