// SPDX-License-Identifier: MPL-2.0

//! The page, its plots and its tables, made of a [`Summary`].
//!
//! ```text
//! DIR/index.html                 everything, one file that loads nothing
//! DIR/points.csv                 all points
//! DIR/savings.csv savings.json   bandwidth beside the baselines, by clip and over clips
//! DIR/pooled.svg pooled.png      all systems over all clips
//! DIR/freshness.svg .png         age of results
//! DIR/judged.csv                 every captured picture judged: all points
//! DIR/targets.txt targets.csv    the targets beside what was measured
//! DIR/strips/CLIP-SYSTEM.jpg     read: strips of pictures that the page shows, where they are
//! ```

mod answer;
mod files;
mod goals;
mod html;
mod page;
mod plots;
mod png;
mod published;
pub mod savings;
mod shown;
mod tables;
mod terms;

use std::path::Path;

use dds_tests::Error;

use crate::judge::{self, ClipResult};
use crate::record::Summary;
use crate::store::write_whole;
use crate::targets::{self, Table};

/// Writes the page and what belongs to it into `dir`.
///
/// # Errors
/// The file that cannot be written, or that plots cannot be drawn as PNG; the page and the tables are there even then.
pub fn write(dir: &Path, summary: &Summary) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let systems = shown::systems(summary);
    let savings = savings::Savings::of(summary);
    let results = judge::kept(&[dir.to_owned()])?;
    let tables = targets::tables(&results);
    let save = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
    };
    let page = page::Page {
        summary,
        systems: &systems,
        savings: &savings,
        results: &results,
        tables: &tables,
        dir,
    };
    save("points.csv", &files::points_csv(summary))?;
    save("savings.csv", &files::savings_csv(&savings))?;
    let json = files::savings_json(summary, &savings, &systems);
    save("savings.json", &(serde_json::to_string_pretty(&json)? + "\n"))?;
    save("pooled.svg", &page.pooled(plots::Layout::FILE)?)?;
    save("freshness.svg", &page.freshness(plots::Layout::FILE)?)?;
    save("index.html", &page.html()?)?;
    if !tables.is_empty() {
        write_targets(dir, &results, &tables)?;
    }
    for name in ["pooled", "freshness"] {
        png::from_svg(&dir.join(format!("{name}.svg")), &dir.join(format!("{name}.png")))?;
    }
    Ok(())
}

/// Writes the targets and what they are made of; gives the text.
///
/// # Errors
/// A file that cannot be written.
pub fn write_targets(dir: &Path, results: &[ClipResult], tables: &[Table]) -> Result<String, Error> {
    let texts: Vec<String> = tables.iter().map(Table::text).collect();
    let text = texts.join("\n");
    let csv: String = tables.iter().map(Table::csv).collect();
    write_whole(&dir.join("targets.txt"), text.as_bytes())?;
    write_whole(&dir.join("targets.csv"), csv.as_bytes())?;
    write_whole(&dir.join("judged.csv"), files::judged_csv(results).as_bytes())?;
    Ok(text)
}
