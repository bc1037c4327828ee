// SPDX-License-Identifier: MPL-2.0

//! Determines the kind of a file's pictures. The file is read once, as fast as possible, until that is clear.

#![forbid(unsafe_code)]

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gst::prelude::*;

use crate::elements::{link_video, words};

/// Longest time until the first picture.
const FIRST: Duration = Duration::from_secs(10);
/// Longest time until the next one; without it, there is none. The end of GIF files is not signalled.
const ANOTHER: Duration = Duration::from_secs(3);

/// Content of a file.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Pictures with their times.
    Video,
    /// Pictures without times, as in a plain sequence of JPEG pictures.
    Untimed,
    /// One picture.
    Still(gst::Sample),
}

/// Reads the file as far as needed to determine its kind.
///
/// # Errors
/// One sentence with the reason.
pub fn probe(path: &Path) -> Result<Kind, String> {
    let metadata = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if metadata.is_dir() {
        return Err("it is a folder; name a file in it".into());
    }
    if !metadata.is_file() {
        return Err("it is no plain file, which could be played in a loop".into());
    }
    if metadata.len() == 0 {
        return Err("it is empty".into());
    }
    let mut head = [0; 16];
    let length = std::fs::File::open(path).and_then(|mut file| file.read(&mut head));
    let format = picture_format(&head[..length.map_err(|e| e.to_string())?]);
    let pipeline = gst::parse::launch(
        "filesrc name=input ! decodebin name=decoder \
         videoconvert name=first ! appsink name=frames sync=false max-buffers=1",
    );
    let pipeline = pipeline.map_err(|e| e.to_string())?.downcast::<gst::Pipeline>();
    let pipeline = pipeline.map_err(|_| "not a pipeline")?;
    let found = first_pictures(&pipeline, path);
    let _ = pipeline.set_state(gst::State::Null);
    match (found, format) {
        (Ok(Kind::Video | Kind::Untimed), Some("GIF")) => Err(format!(
            "an animated GIF tells neither its times nor its end to GStreamer. Make a video of it: ffmpeg -i {} VIDEO.mp4",
            path.display()
        )),
        (Ok(kind), _) => Ok(kind),
        (Err(words), Some(format)) => Err(format!(
            "this {format} picture cannot be decoded; make a PNG or JPEG picture of it ({})",
            words.trim_end_matches('.')
        )),
        (Err(words), None) => Err(words),
    }
}

/// Name of an image format, by the first bytes of the file.
fn picture_format(head: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 5] = [
        (b"GIF8", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"\x89PNG", "PNG"),
    ];
    let webp = head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP");
    let begins = known.iter().find(|(begin, _)| head.starts_with(begin));
    begins.map(|(_, name)| *name).or(webp.then_some("WebP"))
}

fn first_pictures(pipeline: &gst::Pipeline, path: &Path) -> Result<Kind, String> {
    let (Some(input), Some(decoder), Some(first), Some(frames), Some(bus)) = (
        pipeline.by_name("input"),
        pipeline.by_name("decoder"),
        pipeline.by_name("first"),
        pipeline.by_name("frames").and_downcast::<gst_app::AppSink>(),
        pipeline.bus(),
    ) else {
        return Err("it cannot be opened".into());
    };
    input.set_property("location", path);
    link_video(&decoder, &first);
    let mut pictures = Vec::new();
    // An error of this arrives as a message.
    let _ = pipeline.set_state(gst::State::Playing);
    let mut until = Instant::now() + FIRST;
    let mut ended = false;
    let mut error = None;
    while pictures.len() < 3 && !ended && error.is_none() && Instant::now() < until {
        if let Some(picture) = frames.try_pull_sample(gst::ClockTime::from_mseconds(50)) {
            pictures.push(picture);
            until = Instant::now() + ANOTHER;
        } else {
            ended = frames.is_eos();
            if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error])
                && let gst::MessageView::Error(posted) = message.view()
            {
                error = Some(words(posted));
            }
        }
    }
    let time = |picture: &gst::Sample| picture.buffer().and_then(|buffer| buffer.pts());
    let rises = |pair: &[gst::Sample]| {
        time(&pair[0])
            .zip(time(&pair[1]))
            .is_some_and(|(before, after)| after > before)
    };
    match (pictures.len(), error) {
        (0, Some(error)) if first.static_pad("sink").is_some_and(|pad| pad.is_linked()) => Err(error),
        (0, _) if decoder.num_src_pads() > 0 => Err("there is no video in it that can be decoded".into()),
        (0, error) => Err(error.unwrap_or_else(|| "there is no picture in it".into())),
        (1, _) => Ok(Kind::Still(pictures.remove(0))),
        _ if pictures.windows(2).all(rises) => Ok(Kind::Video),
        _ => Ok(Kind::Untimed),
    }
}

/// Sets the times of pictures that reach an element, `rate` a second, from 0 in each round.
pub fn give_times(element: &gst::Element, rate: u32) {
    let Some(pad) = element.static_pad("sink") else { return };
    let count = AtomicU64::new(0);
    let interval = move |pictures: u64| gst::ClockTime::SECOND.mul_div_floor(pictures, u64::from(rate));
    pad.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM,
        move |_, info| {
            match &mut info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    let pictures = count.fetch_add(1, Ordering::Relaxed);
                    let buffer = buffer.make_mut();
                    buffer.set_pts(interval(pictures));
                    buffer.set_duration(interval(1));
                }
                Some(gst::PadProbeData::Event(event)) if event.type_() == gst::EventType::Segment => {
                    count.store(0, Ordering::Relaxed);
                }
                _ => {}
            }
            gst::PadProbeReturn::Ok
        },
    );
}
