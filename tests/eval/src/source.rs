// SPDX-License-Identifier: MPL-2.0

//! What a run measures on: films as they are, with noise, or several joined; played once or forward and backward.

use std::path::{Path, PathBuf};

use dds_tests::{Error, clip::Clip};
use sha2::{Digest, Sha256};

use crate::record::ClipInfo;
use crate::server::{hash_file, hex};

/// Standard deviation of the noise, levels of luma.
pub const SIGMA: f64 = 4.0;
/// Where the noise begins.
const SEED: u64 = 16;
/// Size and rate of joined films.
const JOINED: (u32, u32, i32) = (1280, 720, 25);

/// One clip of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A film.
    File(PathBuf),
    /// A film with seeded temporal luma noise of [`SIGMA`].
    Noisy(PathBuf),
    /// Equal parts of films, one after the other, scaled to 1280x720, their pictures shown at 25 per second.
    Joined(Vec<PathBuf>),
}

fn stem(path: &Path) -> Result<String, Error> {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    stem.ok_or_else(|| format!("{} is no file", path.display()).into())
}

impl Source {
    /// Name of the clip in files and on the page.
    ///
    /// # Errors
    /// A path without a name.
    pub fn name(&self) -> Result<String, Error> {
        match self {
            Self::File(path) => stem(path),
            Self::Noisy(path) => Ok(format!("{}-noise{SIGMA}", stem(path)?)),
            Self::Joined(_) => Ok("joined".into()),
        }
    }

    /// The films.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::File(path) | Self::Noisy(path) => std::slice::from_ref(path),
            Self::Joined(paths) => paths,
        }
    }

    /// `frames` pictures from `first` on; with `seconds`, played forward and backward until they are so long.
    ///
    /// # Errors
    /// Films that cannot be read.
    pub fn load(&self, first: usize, frames: usize, seconds: Option<u32>) -> Result<Clip, Error> {
        let mut clip = match self {
            Self::File(path) => Clip::load(path, first, frames)?,
            Self::Noisy(path) => Clip::load(path, first, frames)?.with_noise(SIGMA, SEED)?,
            Self::Joined(paths) => {
                let (width, height, rate) = JOINED;
                let part = frames.div_ceil(paths.len().max(1));
                let size = Some((width, height));
                let parts: Vec<Clip> = paths
                    .iter()
                    .map(|p| Clip::open_scaled(&p.to_string_lossy(), first, part, size))
                    .collect::<Result<_, _>>()?;
                let mut clip = Clip::joined(parts, gst::Fraction::new(rate, 1))?;
                clip.frames.truncate(frames);
                clip
            }
        };
        if let Some(seconds) = seconds {
            clip.there_and_back((f64::from(seconds) * clip.rate()).round() as usize);
        }
        Ok(clip)
    }

    /// Hash of the films and of what is done to them.
    fn sha256(&self, seconds: Option<u32>) -> Result<String, Error> {
        let hashes: Vec<String> = self.paths().iter().map(|p| hash_file(p)).collect::<Result<_, _>>()?;
        let done = match self {
            Self::File(_) => String::new(),
            Self::Noisy(_) => format!("noise {SIGMA} {SEED}"),
            Self::Joined(_) => format!("joined {JOINED:?}"),
        };
        let looped = seconds.map(|s| format!("loop {s}")).unwrap_or_default();
        match (&hashes[..], done.is_empty() && looped.is_empty()) {
            ([one], true) => Ok(one.clone()),
            _ => Ok(hex(Sha256::digest(format!("{hashes:?} {done} {looped}")))),
        }
    }

    /// Its name, size and hash; the pictures are counted when they are loaded.
    ///
    /// # Errors
    /// Films that cannot be read.
    pub fn info(&self, first: usize, seconds: Option<u32>) -> Result<ClipInfo, Error> {
        let head = self.load(first, 1, None)?;
        let paths: Vec<String> = self.paths().iter().map(|p| p.display().to_string()).collect();
        Ok(ClipInfo {
            name: self.name()?,
            path: paths.join(" + "),
            sha256: self.sha256(seconds)?,
            size: head.size,
            rate: head.rate(),
            frames: 0,
        })
    }
}
