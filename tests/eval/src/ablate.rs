// SPDX-License-Identifier: MPL-2.0

//! One fixed, short run whose figure is kept for each change that moves it: `DIR/ablations.csv`.

use std::fmt::Write;
use std::path::Path;

use dds_tests::Error;

use crate::judge::{ClipResult, judge_all};
use crate::post::Fill;
use crate::run::{Options, run};
use crate::targets::{Cell, Measured, measured};

/// Clips of the run, at most.
pub const CLIPS: usize = 3;
/// Pictures of each: 5 s and more.
pub const FRAMES: usize = 150;
/// Points along each sweep.
pub const POINTS: usize = 6;
/// What is run: ours, and uniform at full rate, whose answers are remembered.
pub const SYSTEMS: [&str; 2] = ["uniform-full", "ours-rate"];
const HEAD: &str =
    "label,strict_at_0.95,strict_at_0.90,confident_at_0.97,interpolated_at_0.95,age_p95_ms,born_p95_ms,clips";

/// A line of the table: geometric means over the clips of our bits against uniform at full rate, and delays in the mean over
/// points and clips.
pub fn line(label: &str, results: &[ClipResult]) -> String {
    let mean = |by: Measured| {
        let cells: Vec<Cell> = results.iter().filter_map(|r| measured(r, by)).collect();
        let logs: f64 = cells.iter().map(|c| c.value.ln()).sum();
        match cells.len() {
            0 => String::new(),
            n => format!("{:.3}", (logs / n as f64).exp()),
        }
    };
    let own = || {
        results
            .iter()
            .flat_map(|r| r.points.iter().filter(|p| p.system == "ours-rate"))
    };
    let delay = |of: &dyn Fn(&crate::judge::Filled) -> f64| {
        let all: Vec<f64> = own().map(|p| of(&p.predicted)).collect();
        format!("{:.0}", all.iter().sum::<f64>() / all.len().max(1) as f64)
    };
    let names: Vec<&str> = results.iter().map(|r| r.clip.name.as_str()).collect();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\"{}\",{},{},{},{},{},{},{}",
        label.replace('"', "'"),
        mean(Measured::Strict(Fill::Predicted, 0.95)),
        mean(Measured::Strict(Fill::Predicted, 0.90)),
        mean(Measured::Confident(Fill::Predicted, 0.97)),
        mean(Measured::Strict(Fill::Interpolated, 0.95)),
        delay(&|f| f.age_p95),
        delay(&|f| f.born_p95),
        names.join(" ")
    );
    out
}

/// Runs what is not remembered, ours in any case, and adds a line to the table.
///
/// # Errors
/// As [`run`]; other clips than a run before in the same folder is no error, since the line names them.
pub fn ablate(dir: &Path, options: &Options, label: &str) -> Result<String, Error> {
    // What the elements do may have changed without a change of their settings.
    for source in &options.clips {
        let records = dir.join("records").join(source.name()?);
        for system in SYSTEMS.iter().filter(|s| s.starts_with("ours")) {
            let _ = std::fs::remove_dir_all(records.join(system));
        }
    }
    run(dir, options)?;
    let line = line(label, &judge_all(dir)?);
    let path = dir.join("ablations.csv");
    let before = std::fs::read_to_string(&path).unwrap_or_else(|_| format!("{HEAD}\n"));
    crate::store::write_whole(&path, format!("{before}{line}").as_bytes())?;
    Ok(format!("{HEAD}\n{line}"))
}
