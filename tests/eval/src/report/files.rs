// SPDX-License-Identifier: MPL-2.0

//! The numbers of the page as CSV and JSON.

#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::savings::{Baseline, Column, Gap, Measure, Savings, TARGETS};
use super::shown::Shown;
use crate::judge::ClipResult;
use crate::post::Fill;
use crate::record::Summary;

/// All points, one a line.
pub fn points_csv(summary: &Summary) -> String {
    let mut out = line(
        [
            "clip",
            "system",
            "point",
            "settings",
            "shipped",
            "kbps",
            "kbps_down",
            "kbps_headers",
            "norm",
            "refine_share",
            "published_main",
            "plain_main",
            "equal_main",
            "published_paper",
            "plain_paper",
            "equal_paper",
            "published_identity",
            "published_agreement",
            "age_mean_ms",
            "age_p50_ms",
            "age_p95_ms",
            "camera_ms",
            "inferences_per_frame",
        ]
        .map(String::from),
    );
    for p in &summary.points {
        let option = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
        out += &line([
            p.clip.clone(),
            p.system.clone(),
            p.point.clone(),
            p.settings.clone(),
            p.shipped.to_string(),
            p.kbps.to_string(),
            p.kbps_down.to_string(),
            p.kbps_headers.to_string(),
            p.norm.to_string(),
            p.refine_share.to_string(),
            p.published.main.to_string(),
            p.plain.main.to_string(),
            p.equal.main.to_string(),
            p.published.paper.to_string(),
            p.plain.paper.to_string(),
            p.equal.paper.to_string(),
            option(p.published.identity),
            option(p.published.agreement),
            p.freshness.mean.to_string(),
            p.freshness.p50.to_string(),
            p.freshness.p95.to_string(),
            p.camera_ms.to_string(),
            p.inferences.to_string(),
        ]);
    }
    out
}

/// Every captured picture judged: one clip, model and point a line.
pub fn judged_csv(results: &[ClipResult]) -> String {
    let mut heads: Vec<String> = [
        "model",
        "key_frames_s",
        "clip",
        "frames",
        "new_objects",
        "system",
        "point",
        "settings",
        "kbps",
        "kbps_without_first_half_second",
        "kbps_down",
        "kbps_headers",
        "sent",
        "interval_p95_ms",
        "camera_ms",
    ]
    .map(String::from)
    .into();
    for fill in Fill::ALL {
        let columns = [
            "strict",
            "confident",
            "paper",
            "age_p50_ms",
            "age_p95_ms",
            "new_p50_ms",
            "new_p95_ms",
        ];
        heads.extend(columns.map(|column| format!("{}_{column}", fill.id())));
    }
    let mut out = line(heads);
    for (result, p) in results.iter().flat_map(|r| r.points.iter().map(move |p| (r, p))) {
        let mut fields = vec![
            result.model.clone(),
            result.key_frames.to_string(),
            result.clip.name.clone(),
            result.clip.frames.to_string(),
            result.born.to_string(),
            p.system.clone(),
            p.point.clone(),
            p.settings.clone(),
        ];
        let numbers = [
            p.kbps,
            p.kbps_later,
            p.kbps_down,
            p.kbps_headers,
            p.sent,
            p.interval_ms,
            p.camera_ms,
        ];
        let filled = Fill::ALL.map(|fill| {
            let f = p.filled(fill);
            [
                f.strict,
                f.confident,
                f.paper,
                f.age_p50,
                f.age_p95,
                f.born_p50,
                f.born_p95,
            ]
        });
        fields.extend(
            numbers
                .into_iter()
                .chain(filled.into_iter().flatten())
                .map(|v| v.to_string()),
        );
        out += &line(fields);
    }
    out
}

fn gap(gap: Gap) -> &'static str {
    match gap {
        Gap::Never => "never",
        Gap::Under => "under",
        Gap::Baseline => "baseline",
    }
}

/// All savings, one clip, system, measure and baseline a line; per cent, so that -50 is half of the baseline's bandwidth.
pub fn savings_csv(savings: &Savings) -> String {
    let at = TARGETS.map(|t| format!("percent_at_{t:.2}"));
    let [a, b, c] = at;
    let mut out = line(
        ["clip", "system", "measure", "baseline"]
            .map(String::from)
            .into_iter()
            .chain([a, b, c, "percent_average".into(), "overlap".into()]),
    );
    for r in &savings.rows {
        let option = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
        let at = r.at.map(|v| v.map_or_else(|g| gap(g).into(), |v| v.to_string()));
        let names = [&r.clip, &r.system, r.measure.id(), r.baseline.id()].map(String::from);
        out += &line(
            names
                .into_iter()
                .chain(at)
                .chain([option(r.average), option(r.overlap)]),
        );
    }
    out
}

/// All savings, and what they are over the clips.
pub fn savings_json(summary: &Summary, savings: &Savings, systems: &[Shown]) -> Value {
    let value = |v: &Result<f64, Gap>| v.map_or_else(|g| json!(gap(g)), |v| json!(v));
    let rows: Vec<Value> = savings
        .rows
        .iter()
        .map(|r| {
            json!({
                "clip": r.clip, "system": r.system, "measure": r.measure.id(), "baseline": r.baseline.id(),
                "at": r.at.iter().map(value).collect::<Vec<_>>(), "average": r.average, "overlap": r.overlap,
            })
        })
        .collect();
    let mut over_clips = Vec::new();
    for measure in Measure::ALL.into_iter().filter(|m| m.is_measured(summary)) {
        for baseline in Baseline::ALL {
            for system in systems.iter().filter(|s| s.ran()) {
                let columns = (0..TARGETS.len()).map(Column::At).chain([Column::Average]);
                for column in columns {
                    let s = savings.spread(&system.id, measure, baseline, column);
                    let number = |v: f64| if s.clips > 0 { json!(v) } else { Value::Null };
                    over_clips.push(json!({
                        "system": system.id, "measure": measure.id(), "baseline": baseline.id(),
                        "column": match column {
                            Column::At(n) => json!(TARGETS[n]),
                            Column::Average => json!("average"),
                        },
                        "median": number(s.median), "least": number(s.least), "most": number(s.most),
                        "clips": s.clips, "of": s.of, "fewer": s.fewer, "never": s.never, "under": s.under,
                        "sliver": s.sliver,
                    }));
                }
            }
        }
    }
    json!({
        "unit": "per cent of the baseline's kbit/s, less 100",
        "targets": TARGETS,
        "over_clips": over_clips,
        "rows": rows,
    })
}

fn line(fields: impl IntoIterator<Item = String>) -> String {
    let quoted = fields.into_iter().map(|f| {
        if f.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", f.replace('"', "\"\""))
        } else {
            f
        }
    });
    quoted.collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_separators_are_quoted() {
        let fields = ["a", "b,c", "d\"e"].map(String::from);
        assert_eq!(line(fields), "a,\"b,c\",\"d\"\"e\"\n");
    }
}
