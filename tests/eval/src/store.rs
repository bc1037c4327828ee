// SPDX-License-Identifier: MPL-2.0

//! Files of a run.

use std::path::{Path, PathBuf};

use dds_tests::Error;

/// Where the record of a point lies.
pub fn record_path(dir: &Path, clip: &str, system: &str, point: &str) -> PathBuf {
    dir.join("records")
        .join(clip)
        .join(system)
        .join(format!("{point}.json"))
}

/// Writes a file as a whole, or not at all.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let half = path.with_extension("part");
    std::fs::write(&half, bytes).map_err(failed)?;
    std::fs::rename(&half, path).map_err(failed)?;
    Ok(())
}

/// Reads what [`write_whole`] wrote.
///
/// # Errors
/// A file that is missing or holds something else.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()).into())
}
