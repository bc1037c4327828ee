// SPDX-License-Identifier: MPL-2.0

//! The page, its plots and its tables, made of a [`Summary`].
//!
//! ```text
//! DIR/index.html                 everything, one file that loads nothing
//! DIR/points.csv                 all points
//! DIR/savings.csv savings.json   bandwidth beside the baselines, by clip and over clips
//! DIR/pooled.svg pooled.png      all systems over all clips
//! DIR/freshness.svg .png         age of results
//! DIR/strips/CLIP-SYSTEM.jpg     read: strips of pictures that the page shows, where they are
//! ```

mod answer;
mod files;
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

use crate::record::Summary;

/// Writes the page and what belongs to it into `dir`.
///
/// # Errors
/// The file that cannot be written, or that plots cannot be drawn as PNG; the page and the tables are there even then.
pub fn write(dir: &Path, summary: &Summary) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let systems = shown::systems(summary);
    let savings = savings::Savings::of(summary);
    let save = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
    };
    let page = page::Page {
        summary,
        systems: &systems,
        savings: &savings,
        dir,
    };
    save("points.csv", &files::points_csv(summary))?;
    save("savings.csv", &files::savings_csv(&savings))?;
    let json = files::savings_json(summary, &savings, &systems);
    save("savings.json", &(serde_json::to_string_pretty(&json)? + "\n"))?;
    save("pooled.svg", &page.pooled(plots::Layout::FILE)?)?;
    save("freshness.svg", &page.freshness(plots::Layout::FILE)?)?;
    save("index.html", &page.html()?)?;
    for name in ["pooled", "freshness"] {
        png::from_svg(&dir.join(format!("{name}.svg")), &dir.join(format!("{name}.png")))?;
    }
    Ok(())
}
