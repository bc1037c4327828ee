// SPDX-License-Identifier: MPL-2.0

//! Folders of several runs put together: clips that were run apart, systems that were run apart, several models.

use std::path::{Path, PathBuf};

use dds_tests::Error;

use crate::judge::{judge_all, kept};
use crate::record::{ClipInfo, Manifest};
use crate::store::{read, write_whole};

/// Adds the second run to the first; false where it has another model, task or link, so that their records have no page in
/// common.
///
/// # Errors
/// The same clip with other pictures.
fn add(all: &mut Manifest, more: &Manifest) -> Result<bool, Error> {
    let same = (&all.model, &all.task, all.key_frames) == (&more.model, &more.task, more.key_frames)
        && (all.rtt_ms, all.inference_ms, all.link_kbps) == (more.rtt_ms, more.inference_ms, more.link_kbps);
    if !same {
        return Ok(false);
    }
    for clip in &more.clips {
        let alike = |c: &ClipInfo| (&c.sha256, c.frames, c.size) == (&clip.sha256, clip.frames, clip.size);
        match all.clips.iter().find(|c| c.name == clip.name) {
            None => all.clips.push(clip.clone()),
            Some(there) if alike(there) => {}
            Some(there) => {
                return Err(format!(
                    "clip {} is {} pictures in one run and {} in another, or another film: they cannot be merged",
                    clip.name, there.frames, clip.frames
                )
                .into());
            }
        }
    }
    if !all.command.contains(&more.command) {
        all.command = format!("{}; {}", all.command, more.command);
    }
    all.seconds += more.seconds;
    Ok(true)
}

/// Copies the files under a folder; one that is there already with other contents is refused.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if !from.is_dir() {
        return Ok(());
    }
    let failed = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    for entry in std::fs::read_dir(from).map_err(|e| failed(from, e))? {
        let path = entry.map_err(|e| failed(from, e))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
            continue;
        }
        let bytes = std::fs::read(&path).map_err(|e| failed(&path, e))?;
        if target.is_file() {
            if std::fs::read(&target).map_err(|e| failed(&target, e))? != bytes && !is_same_record(&path, &target) {
                return Err(format!("{} and {} are not the same", path.display(), target.display()).into());
            }
            continue;
        }
        write_whole(&target, &bytes)?;
    }
    Ok(())
}

/// Two records of the same settings differ in measured times at most.
fn is_same_record(a: &Path, b: &Path) -> bool {
    let key = |path: &Path| read::<crate::record::Record>(path).ok().map(|r| r.key);
    key(a).is_some_and(|a| Some(a) == key(b))
}

/// Puts what `dirs` hold into `out`: figures of all, and the records of those that were run with the model and the link of
/// the first, so that a report can be made of them.
///
/// # Errors
/// Runs that do not fit together; files that cannot be read or written.
pub fn merge(out: &Path, dirs: &[PathBuf]) -> Result<(), Error> {
    let mut all: Option<Manifest> = None;
    for dir in dirs {
        if !dir.join("run.json").is_file() {
            continue;
        }
        judge_all(dir)?;
        let manifest: Manifest = read(&dir.join("run.json"))?;
        let fits = match &mut all {
            None => {
                all = Some(manifest);
                true
            }
            Some(all) => add(all, &manifest)?,
        };
        if fits {
            for part in ["records", "streams"] {
                copy(&dir.join(part), &out.join(part))?;
            }
        } else {
            eprintln!("{}: another model or link, its figures are taken alone", dir.display());
        }
    }
    let results = kept(dirs)?;
    if results.is_empty() {
        return Err("none of these folders holds results".into());
    }
    for result in results {
        write_whole(&result.path(out), &serde_json::to_vec_pretty(&result)?)?;
    }
    if let Some(all) = all {
        write_whole(&out.join("run.json"), &serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(model: &str, clip: &str, frames: usize) -> Manifest {
        Manifest {
            model: model.into(),
            command: format!("run {clip}"),
            clips: vec![ClipInfo {
                name: clip.into(),
                frames,
                ..ClipInfo::default()
            }],
            seconds: 2.0,
            ..Manifest::default()
        }
    }

    #[test]
    fn runs_of_one_model_become_one_and_others_stay_apart() {
        let mut all = manifest("m", "a", 10);
        assert!(add(&mut all, &manifest("m", "b", 20)).unwrap());
        assert!(add(&mut all, &manifest("m", "b", 20)).unwrap());
        let names: Vec<&str> = all.clips.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(
            (names, all.command.as_str(), all.seconds),
            (vec!["a", "b"], "run a; run b", 6.0)
        );
        assert!(!add(&mut all, &manifest("n", "c", 20)).unwrap());
        assert!(add(&mut all, &manifest("m", "a", 11)).is_err());
    }
}
