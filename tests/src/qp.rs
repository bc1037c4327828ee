// SPDX-License-Identifier: MPL-2.0

//! Quantizers of every macroblock, read back from a bitstream by FFmpeg's decoder.

use std::path::Path;
use std::process::Command;

use crate::Error;

/// Quantizers of one picture, macroblocks in raster order. A skipped macroblock shows the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QpPicture {
    /// An I picture.
    pub intra: bool,
    /// Macroblocks in a row.
    pub columns: usize,
    /// All of them.
    pub qps: Vec<u8>,
}

impl QpPicture {
    /// The quantizer of one macroblock.
    pub fn at(&self, column: usize, row: usize) -> u8 {
        self.qps[row * self.columns + column]
    }
}

/// Reads all pictures of an H.264 byte-stream file.
///
/// # Errors
/// Where `ffmpeg` cannot be run or says nothing of quantizers.
pub fn read(h264: &Path) -> Result<Vec<QpPicture>, Error> {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-threads", "1", "-debug", "qp", "-i"])
        .arg(h264)
        .args(["-f", "null", "-"])
        .output()
        .map_err(|e| format!("ffmpeg cannot be run ({e}): install the package ffmpeg"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    // Pictures are decoded first while probing, then for real, by another instance of the decoder.
    let mut runs: Vec<(&str, Vec<QpPicture>)> = Vec::new();
    for line in text.lines() {
        let Some((instance, rest)) = line.strip_prefix("[h264 @ ").and_then(|l| l.split_once("] ")) else {
            continue;
        };
        if let Some(kind) = rest.strip_prefix("New frame, type: ") {
            if runs.last().is_none_or(|(last, _)| *last != instance) {
                runs.push((instance, Vec::new()));
            }
            if let Some((_, pictures)) = runs.last_mut() {
                pictures.push(QpPicture {
                    intra: kind.trim() == "I",
                    columns: 0,
                    qps: Vec::new(),
                });
            }
            continue;
        }
        let row: Option<Vec<u8>> = rest
            .as_bytes()
            .chunks(2)
            .map(|digits| {
                std::str::from_utf8(digits)
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
                    .filter(|_| digits.len() == 2)
            })
            .collect();
        if let (Some(row), Some(picture)) = (row, runs.last_mut().and_then(|(_, p)| p.last_mut()))
            && !row.is_empty()
        {
            picture.columns = row.len();
            picture.qps.extend(row);
        }
    }
    runs.pop()
        .map(|(_, pictures)| pictures)
        .ok_or_else(|| format!("ffmpeg shows no quantizers of {}", h264.display()).into())
}
