// SPDX-License-Identifier: MPL-2.0

//! Quantizers of every macroblock, read back from a bitstream by FFmpeg's decoder.

use std::path::Path;
use std::process::Command;

use crate::Error;

/// Quantizers of one picture, macroblocks in raster order. A skipped macroblock, for which nothing is coded, has the
/// quantizer of the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QpPicture {
    /// An I picture.
    pub intra: bool,
    /// Macroblocks in a row.
    pub columns: usize,
    /// Quantizers of all macroblocks, 0 to 51 (8 bit video).
    pub qps: Vec<u8>,
    /// Which macroblocks are skipped.
    pub skipped: Vec<bool>,
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
/// If `ffmpeg` cannot be run or prints no quantizers.
pub fn read(h264: &Path) -> Result<Vec<QpPicture>, Error> {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-threads", "1", "-debug", "qp+mb_type", "-i"])
        .arg(h264)
        .args(["-f", "null", "-"])
        .output()
        .map_err(|e| format!("ffmpeg cannot be run ({e}): install the package ffmpeg"))?;
    let pictures = parse(&String::from_utf8_lossy(&output.stderr));
    if pictures.is_empty() {
        return Err(format!("ffmpeg shows no quantizers of {}", h264.display()).into());
    }
    Ok(pictures)
}

/// Pictures of the last decoder in FFmpeg's debug output: pictures are decoded first while probing, then for real, by
/// another instance of the decoder.
fn parse(text: &str) -> Vec<QpPicture> {
    let mut runs: Vec<(&str, Vec<QpPicture>)> = Vec::new();
    let mut margin = 0;
    for line in text.lines() {
        // The progress line may precede it.
        let Some((instance, rest)) = line
            .find("[h264 @ ")
            .and_then(|at| line[at + "[h264 @ ".len()..].split_once("] "))
        else {
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
                    skipped: Vec::new(),
                });
            }
            margin = 0;
            continue;
        }
        // From version 6.1 on, FFmpeg prints a line of columns above the picture and the row's position before each
        // row.
        if rest.starts_with("   ") && rest.trim_start().starts_with("0 ") {
            margin = rest.len() - rest.trim_start().len();
            continue;
        }
        if let (Some(row), Some(picture)) = (
            rest.get(margin..).and_then(parse_row),
            runs.last_mut().and_then(|(_, pictures)| pictures.last_mut()),
        ) {
            picture.columns = row.len();
            for (qp, skipped) in row {
                picture.qps.push(qp);
                picture.skipped.push(skipped);
            }
        }
    }
    runs.pop().map(|(_, pictures)| pictures).unwrap_or_default()
}

/// Two digits, then three characters of macroblock type, `S` or `d` where it is skipped.
fn parse_row(row: &str) -> Option<Vec<(u8, bool)>> {
    let cells: Option<Vec<_>> = row
        .as_bytes()
        .chunks(5)
        .map(|cell| {
            let qp = std::str::from_utf8(cell.get(..2)?).ok()?.trim().parse().ok()?;
            let kind = cell.get(2)?;
            b"PAiIdDgGS><X"
                .contains(kind)
                .then_some((qp, matches!(kind, b'S' | b'd')))
        })
        .collect();
    cells.filter(|cells| !cells.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_of_ffmpeg_give_the_same_quantizers() {
        let old = "[h264 @ 0x1] New frame, type: I\n[h264 @ 0x1] 99i  \n\
                   [h264 @ 0x2] nal_unit_type: 5(IDR), nal_ref_idc: 3\n\
                   [h264 @ 0x2] New frame, type: I\n[h264 @ 0x2] 27i   9I  \n[h264 @ 0x2] 27i  27i  \n\
                   frame=    1 fps=0.0 q=-0.0 size=N/A    [h264 @ 0x2] New frame, type: P\n\
                   [h264 @ 0x2] 30>- 30S  \n[h264 @ 0x2] 30S  30>  \n";
        let new = "[h264 @ 0x2] New frame, type: I\n[h264 @ 0x2]    0                   \n\
                   [h264 @ 0x2]  0 27i   9I  \n[h264 @ 0x2] 16 27i  27i  \n\
                   [h264 @ 0x2] New frame, type: P\n[h264 @ 0x2]    0                   \n\
                   [h264 @ 0x2]  0 30>- 30S  \n[h264 @ 0x2] 16 30S  30>  \n";
        let pictures = parse(old);
        assert_eq!(pictures, parse(new));
        assert_eq!(pictures.len(), 2);
        assert!(pictures[0].intra && !pictures[1].intra);
        assert_eq!(pictures[0].qps, [27, 9, 27, 27]);
        assert_eq!((pictures[0].at(1, 0), pictures[1].columns), (9, 2));
        assert_eq!(pictures[1].skipped, [false, true, true, false]);
    }
}
