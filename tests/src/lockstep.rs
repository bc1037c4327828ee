// SPDX-License-Identifier: MPL-2.0

//! The closed loop in lockstep: the real elements in one pipeline, the next frame pushed only when the last one has come
//! out with its results and its feedback has been taken. So a slow machine measures what a fast one would, and the
//! feedback delay is a number of frames.

use std::collections::VecDeque;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use gst::prelude::*;

use crate::{Error, bus_error, clip::Clip, launch, progress::Bar, score::Line};

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Results, one a frame.
    pub lines: Vec<Line>,
    /// Coded bytes, all access units of all streams.
    pub bytes: u64,
    /// Of those, bytes of the second pass.
    pub refine_bytes: u64,
    /// The server's `stats` at the end.
    pub server: Option<gst::Structure>,
    /// The camera's `stats` at the end.
    pub camera: Option<gst::Structure>,
}

impl Outcome {
    /// Bit rate in kbit/s.
    pub fn kbps(&self, clip: &Clip) -> f64 {
        self.bytes as f64 * 8.0 * clip.rate() / self.lines.len().max(1) as f64 / 1000.0
    }

    /// Mean share of a frame's macroblocks that the regions asked for touch, 0 to 1: before they move with their objects,
    /// and before the camera's own limit.
    pub fn region_area(&self, clip: &Clip) -> f64 {
        let (columns, rows) = (clip.size.0.div_ceil(16), clip.size.1.div_ceil(16));
        let mut touched = vec![false; (columns * rows) as usize];
        let mut sum = 0.0;
        for line in &self.lines {
            touched.fill(false);
            for &(x, y, width, height) in &line.regions {
                for row in y / 16..y.saturating_add(height).div_ceil(16).min(rows) {
                    for column in x / 16..x.saturating_add(width).div_ceil(16).min(columns) {
                        touched[(row * columns + column) as usize] = true;
                    }
                }
            }
            sum += touched.iter().filter(|t| **t).count() as f64 / touched.len().max(1) as f64;
        }
        sum / self.lines.len().max(1) as f64
    }
}

fn element<T: IsA<gst::Object>>(pipeline: &gst::Pipeline, name: &str) -> Result<T, Error> {
    pipeline
        .by_name(name)
        .and_then(|e| e.upcast::<gst::Object>().downcast::<T>().ok())
        .ok_or_else(|| format!("no element {name}").into())
}

/// The number that `line` sets the property `name` to.
fn setting(line: &str, name: &str) -> Option<usize> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .and_then(|value| value.parse().ok())
}

/// Runs all frames of `clip` through `encode` (an encoder, or nothing for the source itself) and `infer` (a ddsinfer with
/// its properties). Feedback reaches the camera `delay` frames later, at least 1. With `mode=two-pass` the second pass is
/// decoded too; with a segment length, frames go in by whole segments.
///
/// # Errors
/// What an element says; a decoder that holds frames back.
pub fn run(clip: &Clip, encode: &str, infer: &str, delay: usize, what: &str) -> Result<Outcome, Error> {
    let decode = |name| {
        format!(
            "! video/x-h264,stream-format=byte-stream,alignment=au ! identity name={name} silent=true ! avdec_h264 max-threads=1"
        )
    };
    let coded = if encode.is_empty() {
        String::new()
    } else {
        format!("! {encode} {}", decode("coded"))
    };
    let two_passes = encode.contains("mode=two-pass");
    if two_passes && delay > 1 {
        return Err("a frame of two passes waits for its feedback: the delay is 1".into());
    }
    let refine = if two_passes {
        format!("encoder.refine {} ! infer.refine", decode("refined"))
    } else {
        String::new()
    };
    // A camera that works in segments is asked about them as a whole.
    let group = setting(encode, "segment-length").filter(|n| *n > 0).unwrap_or(1);
    let pipeline = launch(&format!(
        "appsrc name=in format=time block=false {coded} ! {infer} name=infer ! appsink name=out sync=false \
         infer.results ! appsink name=results sync=false {refine}"
    ))?;
    let source: gst_app::AppSrc = element(&pipeline, "in")?;
    source.set_caps(Some(&clip.caps));
    let out: gst_app::AppSink = element(&pipeline, "out")?;
    let results: gst_app::AppSink = element(&pipeline, "results")?;

    let bytes = Arc::new(AtomicU64::new(0));
    let refine_bytes = Arc::new(AtomicU64::new(0));
    // Feedback of the frame that is under way, and of those before it. A frame may have several packets, or none.
    let held: Arc<Mutex<Vec<gst::Event>>> = Arc::default();
    let mut waiting: VecDeque<Vec<gst::Event>> = VecDeque::new();
    let coded_pad = element::<gst::Element>(&pipeline, "coded")
        .ok()
        .and_then(|e| e.static_pad("src"));
    let count = |pad: &gst::Pad, bytes: &Arc<AtomicU64>| {
        let bytes = bytes.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
                bytes.fetch_add(buffer.size() as u64, Ordering::SeqCst);
            }
            gst::PadProbeReturn::Ok
        });
    };
    if let Ok(refined) = element::<gst::Element>(&pipeline, "refined")
        && let Some(pad) = refined.static_pad("src")
    {
        count(&pad, &refine_bytes);
    }
    if let Some(pad) = &coded_pad {
        count(pad, &bytes);
        if delay > 1 {
            let held = held.clone();
            pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
                let Some(gst::PadProbeData::Event(event)) = &info.data else {
                    return gst::PadProbeReturn::Ok;
                };
                if gst_dds_link::event::parse(event).is_none() {
                    return gst::PadProbeReturn::Ok;
                }
                held.lock().unwrap().push(event.clone());
                info.data = None;
                gst::PadProbeReturn::Handled
            });
        }
    }
    let encoder_pad = element::<gst::Element>(&pipeline, "encoder")
        .ok()
        .and_then(|e| e.static_pad("src"));
    pipeline.set_state(gst::State::Playing)?;
    let mut bar = Bar::new(what, clip.frames.len());
    let mut outcome = Outcome::default();
    let patience = gst::ClockTime::from_seconds(60);
    let failed = |text: &str| -> Error { bus_error(&pipeline).unwrap_or_else(|| text.to_owned()).into() };
    let mut run = || -> Result<(), Error> {
        for n in 0..clip.frames.len() {
            // Feedback of frame n - delay is taken before frame n.
            if delay > 1
                && n >= delay
                && let Some(pad) = &encoder_pad
            {
                for event in waiting.pop_front().unwrap_or_default() {
                    pad.send_event(event);
                }
            }
            source
                .push_buffer(clip.frame(n))
                .map_err(|_| failed("the pipeline takes no frames"))?;
            let last = n + 1 == clip.frames.len();
            let whole = (n + 1).is_multiple_of(group);
            if last && !whole {
                // Of the last segment the rest will not come.
                let _ = source.end_of_stream();
            }
            if !last && !whole {
                continue;
            }
            while outcome.lines.len() <= n {
                out.try_pull_sample(patience)
                    .ok_or_else(|| failed("a frame did not come out before the next went in"))?;
                let sample = results
                    .try_pull_sample(patience)
                    .ok_or_else(|| failed("a frame gave no result"))?;
                let map = sample.buffer().ok_or("no buffer")?.map_readable()?;
                outcome.lines.push(Line::parse(&map)?);
                bar.step();
            }
            // Feedback leaves before the frame and its result do.
            waiting.push_back(std::mem::take(&mut *held.lock().unwrap()));
        }
        Ok(())
    };
    let ran = run();
    if let Ok(encoder) = element::<gst::Element>(&pipeline, "encoder") {
        outcome.camera = encoder.find_property("stats").map(|_| encoder.property("stats"));
    }
    if let Ok(server) = element::<gst::Element>(&pipeline, "infer") {
        outcome.server = Some(server.property("stats"));
    }
    pipeline.set_state(gst::State::Null)?;
    ran?;
    outcome.refine_bytes = refine_bytes.load(Ordering::SeqCst);
    outcome.bytes = bytes.load(Ordering::SeqCst) + outcome.refine_bytes;
    Ok(outcome)
}
