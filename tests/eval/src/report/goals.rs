// SPDX-License-Identifier: MPL-2.0

//! The section of targets: each beside what was measured, and what every captured picture gave on each clip.

#![forbid(unsafe_code)]

use super::html::{escape, number, rate, share};
use super::page::Page;
use crate::judge::ClipResult;
use crate::post::Fill;
use crate::targets::{Cell, Note, Row, Table};

const SCROLL: &str = "<div class=\"scroll\" role=\"group\" aria-label=\"Table, scrolls sideways\" tabindex=\"0\">";

fn digits(value: f64) -> usize {
    if value.abs() >= 20.0 { 0 } else { 2 }
}

fn optional(value: Option<f64>) -> String {
    value.map_or("\u{2013}".into(), |v| number(v, digits(v)))
}

fn cell(cell: Option<Cell>) -> String {
    match cell {
        None => "<td>\u{2013}</td>".into(),
        Some(Cell { note: Note::Never, .. }) => "<td class=\"loss\">never</td>".into(),
        Some(Cell { value, note }) => {
            let mark = match note {
                Note::Under => "&lt;\u{a0}",
                Note::Best => "~\u{a0}",
                _ => "",
            };
            format!("<td>{mark}{}</td>", number(value, digits(value)))
        }
    }
}

fn line(row: &Row) -> String {
    let verdict = match row.met() {
        None => "<td></td>",
        Some(true) => "<td class=\"win\">met</td>",
        Some(false) => "<td class=\"loss\">missed</td>",
    };
    let mut out = format!(
        "<tr><th scope=\"row\">{} {}</th><td>{}</td><td><b>{}</b></td><td><b>{}</b></td>{verdict}",
        row.id,
        escape(&row.what),
        optional(row.target),
        optional(row.chosen),
        optional(row.judged)
    );
    for one in &row.cells {
        out += &cell(*one);
    }
    out + "</tr>\n"
}

fn table(table: &Table) -> String {
    let mut out = format!(
        "{SCROLL}<table class=\"tight\">\n<caption>Bits of gst-dds as a share of the rival\u{2019}s; model {}, key frames every {} \
         s</caption>\n<thead><tr>",
        escape(&table.model),
        table.key_frames
    );
    for head in ["against", "at most", "chosen on", "judged on", ""] {
        out += &format!("<th scope=\"col\">{head}</th>");
    }
    for clip in &table.clips {
        out += &format!("<th scope=\"col\">{}</th>", escape(clip));
    }
    out += "</tr></thead>\n<tbody>\n";
    out.extend(table.rows.iter().map(line));
    out + "</tbody></table></div>\n"
}

/// All points of a clip, with both delays beside the bits.
fn points(clip: &ClipResult) -> String {
    let mut out = format!(
        "<details>\n<summary>{}: every captured picture, {}, key frames every {} s, {} new objects</summary>\n{SCROLL}<table \
         class=\"points\">\n<thead><tr>",
        escape(&clip.clip.name),
        escape(&clip.model),
        clip.key_frames,
        clip.born
    );
    let heads = [
        "system",
        "point",
        "kbit/s",
        "without first 0.5 s",
        "sent",
        "strict held",
        "predicted",
        "interpolated",
        "confident held",
        "predicted",
        "interpolated",
        "age predicted, ms",
        "p95",
        "age interpolated, ms",
        "p95",
        "new objects predicted, ms",
        "p95",
        "interpolated, ms",
        "p95",
        "camera, ms",
    ];
    for head in heads {
        out += &format!("<th scope=\"col\">{head}</th>");
    }
    out += "</tr></thead>\n<tbody>\n";
    for p in &clip.points {
        let mut cells = vec![rate(p.kbps), rate(p.kbps_later), share(p.sent)];
        cells.extend(Fill::ALL.map(|fill| number(p.filled(fill).strict, 3)));
        cells.extend(Fill::ALL.map(|fill| number(p.filled(fill).confident, 3)));
        let both = [&p.predicted, &p.interpolated];
        cells.extend(both.iter().flat_map(|f| [f.age_p50, f.age_p95]).map(|v| number(v, 0)));
        cells.extend(both.iter().flat_map(|f| [f.born_p50, f.born_p95]).map(|v| number(v, 0)));
        cells.push(number(p.camera_ms, 1));
        let name = if p.shipped {
            format!("<b>{}</b>", escape(&p.point))
        } else {
            escape(&p.point)
        };
        out += &format!("<tr><th scope=\"row\">{}</th><td>{name}</td>", escape(&p.system));
        for text in cells {
            out += &format!("<td>{text}</td>");
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n</details>\n"
}

impl Page<'_> {
    /// The section, where a run was judged by every captured picture.
    pub(super) fn goals(&self, out: &mut String) {
        if self.tables.is_empty() {
            return;
        }
        *out += "<section id=\"targets\">\n<h2>Targets</h2>\n<p>Every captured picture is judged, also those that were not sent: \
                 their results are held, predicted from the pictures sent before, or interpolated between their neighbours, by \
                 the same code for every system. The accuracy to be reached is a share of the best of uniform x264 at full rate, \
                 quantizers 20 to 50. Means are geometric, of ratios; settings of gst-dds are one rule for all clips, chosen on \
                 five clips and judged on four others. A clip on which gst-dds never reaches the accuracy counts as 1.5; &lt; \
                 marks one on which its cheapest point is better already, ~ the figure of its most accurate point; a dash, where a system did not run or the rival never \
                 reaches it.</p>\n";
        out.extend(self.tables.iter().map(table));
        out.extend(self.results.iter().map(points));
        *out += "</section>\n";
    }
}
