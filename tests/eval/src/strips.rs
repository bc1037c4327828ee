// SPDX-License-Identifier: MPL-2.0

//! Pictures of one frame as each system sent it: what the server found and asked for, and the quantizer of every
//! macroblock.

use std::path::Path;

use dds_tests::Error;
use dds_tests::clip::Clip;
use dds_tests::draw::{Picture, write_video};
use dds_tests::progress::Bar;
use dds_tests::score::ScoredBox;
use dds_tests::{qp, sheet::View};
use gst_video::prelude::*;

use crate::plan::points;
use crate::record::{ClipInfo, Record, Summary};
use crate::score::found;
use crate::store::{read, record_path};

/// Systems that have a strip: those whose quantizers tell something.
const SHOWN: [&str; 5] = ["ours-one-pass", "ours-two-pass", "dds", "uniform-long", "eaar"];
/// Width of a panel, pixels.
const PANEL: usize = 320;
/// Colours of quantizers range from the first to the second.
const RANGE: (u8, u8) = (22, 42);

/// The frame that is shown of a clip of `frames`: late enough for feedback to have settled.
fn shown(frames: usize) -> usize {
    frames * 2 / 3
}

/// A decoded frame as RGB.
fn rgb(clip: &Clip) -> Result<Picture, Error> {
    let sample = gst::Sample::builder().buffer(&clip.frame(0)).caps(&clip.caps).build();
    let caps = gst::Caps::builder("video/x-raw").field("format", "RGB").build();
    let sample = gst_video::convert_sample(&sample, &caps, Some(gst::ClockTime::from_seconds(20)))?;
    let (buffer, caps) = sample.buffer().zip(sample.caps()).ok_or("no picture")?;
    let info = gst_video::VideoInfo::from_caps(caps)?;
    let frame =
        gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).map_err(|_| "a picture cannot be mapped")?;
    let mut picture = Picture::new(info.width() as usize, info.height() as usize, [0; 3]);
    let stride = frame.plane_stride()[0] as usize;
    let rows = picture.rgb.chunks_mut(3 * picture.width);
    for (to, from) in rows.zip(frame.plane_data(0)?.chunks(stride)) {
        to.copy_from_slice(&from[..to.len()]);
    }
    Ok(picture)
}

/// Both panels of a system, side by side.
fn strip(stream: &Path, record: &Record, info: &ClipInfo, threshold: f32) -> Result<Picture, Error> {
    let n = shown(record.frames.len());
    let frame = &record.frames[n];
    let picture = rgb(&Clip::load(stream, n, 1)?)?;
    let pictures = qp::read(stream)?;
    let qps = pictures
        .get(n)
        .ok_or_else(|| format!("{} has no frame {n}", stream.display()))?;
    let (x, y) = (
        picture.width as f32 / info.size.0.max(1) as f32,
        picture.height as f32 / info.size.1.max(1) as f32,
    );
    let objects: Vec<ScoredBox> = frame
        .objects
        .iter()
        .map(|o| ScoredBox {
            x: o.x * x,
            y: o.y * y,
            width: o.w * x,
            height: o.h * y,
            ..found(o)
        })
        .collect();
    let at = |v: u32, scale: f32| (v as f32 * scale) as u32;
    let regions: Vec<_> = frame
        .regions
        .iter()
        .map(|r| (at(r[0], x), at(r[1], y), at(r[2], x), at(r[3], y)))
        .collect();
    let view = View {
        frame: n as u64,
        picture: &picture,
        objects: &objects,
        threshold,
        regions: &regions,
        qps,
        range: RANGE,
    };
    let (boxes, map) = (view.boxes(), view.quantizers());
    let height = (PANEL * boxes.height / boxes.width.max(1)).max(2) & !1;
    let mut out = Picture::new(2 * PANEL, height, [255; 3]);
    out.paste(0, 0, &boxes.scaled(PANEL - 4, height));
    out.paste(PANEL + 4, 0, &map.scaled(PANEL - 4, height));
    Ok(out)
}

/// Writes `DIR/strips/CLIP-SYSTEM.jpg` for every stream that was kept; those there already stay.
///
/// # Errors
/// A stream that cannot be decoded, a file that cannot be written.
pub fn write(dir: &Path, summary: &Summary) -> Result<(), Error> {
    let mut due = Vec::new();
    for info in &summary.manifest.clips {
        let kept = SHOWN.iter().flat_map(|id| points(id, usize::MAX)).filter(|p| p.keep);
        for point in kept {
            let stream = dir
                .join("streams")
                .join(&info.name)
                .join(format!("{}.h264", point.system));
            let strip = dir.join("strips").join(format!("{}-{}.jpg", info.name, point.system));
            let changed = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
            let old = changed(&strip).is_none_or(|made| changed(&stream).is_some_and(|s| s > made));
            if stream.is_file() && old {
                due.push((info, point, stream, strip));
            }
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(dir.join("strips"))?;
    let mut bar = Bar::new("pictures", due.len());
    for (info, point, stream, path) in due {
        let record: Record = read(&record_path(dir, &info.name, point.system, &point.name))?;
        let picture = strip(&stream, &record, info, summary.threshold)?;
        write_video([picture], gst::Fraction::new(1, 1), "jpegenc quality=55", &path)?;
        bar.step();
    }
    Ok(())
}
