// SPDX-License-Identifier: MPL-2.0

//! The closed loop in lockstep: the real elements in one pipeline; the next frame is pushed only when the last one has
//! left with its results and its feedback was received. So a slow machine measures the same as a fast one, and the
//! feedback delay is a number of frames.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use gst::prelude::*;

use crate::{Error, bus_error, clip::Clip, cpu, launch, score::Line};

/// Outcome of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Results, one for each picture that was sent.
    pub lines: Vec<Line>,
    /// The captured picture that each result is about.
    pub captures: Vec<usize>,
    /// Coded bytes, all access units of all streams.
    pub bytes: u64,
    /// Of those, bytes of the second pass.
    pub refine_bytes: u64,
    /// Bytes of each captured picture: first pass, second pass, its feedback; nothing where it was not sent.
    pub sizes: Vec<[u32; 3]>,
    /// The coded stream of the first pass, if requested.
    pub stream: Vec<u8>,
    /// Processor time of the camera per frame, milliseconds: scaling and both encoders.
    pub camera_ms: f64,
    /// The server's `stats` at the end.
    pub server: Option<gst::Structure>,
    /// The camera's `stats` at the end.
    pub camera: Option<gst::Structure>,
}

impl Outcome {
    /// Bit rate in kbit/s.
    pub fn kbps(&self, clip: &Clip) -> f64 {
        self.bytes as f64 * 8.0 * clip.rate() / self.sizes.len().max(1) as f64 / 1000.0
    }

    /// The result that stands at each of `count` captured pictures: its own, or the last; before the first, the first.
    pub fn held(&self, count: usize) -> impl Iterator<Item = &Line> {
        (0..count).filter_map(|n| {
            let after = self.captures.partition_point(|capture| *capture <= n);
            self.lines.get(after.saturating_sub(1))
        })
    }

    /// Mean share of a frame's macroblocks that requested regions touch, 0 to 1: before they move with their objects,
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

/// The value of the property `name` in `line`.
fn setting(line: &str, name: &str) -> Option<usize> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .and_then(|value| value.parse().ok())
}

/// Counts of the probes of a run.
#[derive(Default)]
struct Seen {
    sizes: Vec<[u32; 3]>,
    stream: Vec<u8>,
    keep: bool,
    passes: [cpu::Meter; 2],
    /// The captured picture behind each frame number of the camera, as far as the encoder has been given it.
    given: Vec<usize>,
    /// Feedback that is delayed.
    held: Vec<gst::Event>,
}

/// Settings of a loop to run.
pub struct Loop<'a> {
    /// The frames.
    pub clip: &'a Clip,
    /// An encoder named `encoder` with the elements before it, or nothing for the source itself. With `mode=two-pass`
    /// the second pass is decoded too; with a segment length, frames go in by whole segments.
    pub encode: &'a str,
    /// A ddsinfer with its properties.
    pub infer: &'a str,
    /// Delay of feedback to the camera in captured pictures, at least 1.
    pub delay: usize,
    /// The encoder is given every so many captured pictures, the others never happen; 1 for all. It may skip more itself.
    pub every: usize,
    /// Whether to keep the coded stream of the first pass.
    pub keep_stream: bool,
}

/// Counts buffers that leave `pad`, with their sizes, for pass `pass`.
fn watch(pad: &gst::Pad, pass: usize, clip: &Clip, seen: &Arc<Mutex<Seen>>) {
    let (seen, fps, count) = (seen.clone(), clip.fps, clip.frames.len());
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
            let mut seen = seen.lock().unwrap();
            let number = buffer.pts().map_or(0, |pts| crate::clip::number(pts, fps));
            if let Some(sizes) = seen.sizes.get_mut(number.min(count - 1)) {
                sizes[pass] += buffer.size() as u32;
            }
            if let (true, 0, Ok(map)) = (seen.keep, pass, buffer.map_readable()) {
                seen.stream.extend_from_slice(&map);
            }
            seen.passes[pass].mark();
        }
        gst::PadProbeReturn::Ok
    });
}

/// Counts feedback that passes `pad` upstream, and delays it if `hold` requires.
fn watch_feedback(pad: &gst::Pad, hold: bool, seen: &Arc<Mutex<Seen>>) {
    let seen = seen.clone();
    pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        let Some(gst::PadProbeData::Event(event)) = &info.data else {
            return gst::PadProbeReturn::Ok;
        };
        let Some(packet) = gst_dds_link::event::parse(event) else {
            return gst::PadProbeReturn::Ok;
        };
        let mut seen = seen.lock().unwrap();
        let frame = dds_protocol::feedback::decode(&packet).map_or(0, |part| part.frame as usize);
        let frame = seen.given.get(frame).copied().unwrap_or(frame);
        if let Some(sizes) = seen.sizes.get_mut(frame) {
            sizes[2] += packet.len() as u32;
        }
        if !hold {
            return gst::PadProbeReturn::Ok;
        }
        seen.held.push(event.clone());
        info.data = None;
        gst::PadProbeReturn::Handled
    });
}

/// Tells when a picture has gone through all elements on its thread: what the encoder makes of it has left by then.
struct Gate {
    pad: gst::Pad,
    /// Pictures that have entered the element behind the pad.
    entered: Arc<(Mutex<usize>, Condvar)>,
}

impl Gate {
    fn new(pad: gst::Pad) -> Option<Self> {
        let entered = Arc::new((Mutex::new(0), Condvar::new()));
        let counted = entered.clone();
        // Inside the push: from here on until it returns, the pad is not idle.
        pad.peer()?.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            *counted.0.lock().unwrap() += 1;
            counted.1.notify_all();
            gst::PadProbeReturn::Ok
        });
        Some(Self { pad, entered })
    }

    /// Waits until the push of picture number `count`, from 1 on, has returned; false if it takes longer than `patience`.
    fn passed(&self, count: usize, patience: Duration) -> bool {
        let entered = self.entered.0.lock().unwrap();
        let waited = self.entered.1.wait_timeout_while(entered, patience, |n| *n < count);
        if !waited.is_ok_and(|(_, late)| !late.timed_out()) {
            return false;
        }
        let (sender, receiver) = mpsc::channel();
        self.pad.add_probe(gst::PadProbeType::IDLE, move |_, _| {
            let _ = sender.send(());
            gst::PadProbeReturn::Remove
        });
        receiver.recv_timeout(patience).is_ok()
    }
}

/// Outcome of a wait.
enum Pulled {
    Frame,
    Refused,
    Nothing,
}

/// Waits for a frame for as long as `patience`, or until `refused` returns that it will not come.
fn pull(out: &gst_app::AppSink, patience: gst::ClockTime, refused: impl Fn() -> bool) -> Pulled {
    let until = Instant::now() + Duration::from(patience);
    loop {
        if out.try_pull_sample(gst::ClockTime::from_mseconds(100)).is_some() {
            return Pulled::Frame;
        }
        if refused() {
            return Pulled::Refused;
        }
        if Instant::now() > until {
            return Pulled::Nothing;
        }
    }
}

/// The next result of a picture that was sent: the server may say something about the others too.
fn next_line(results: &gst_app::AppSink, patience: gst::ClockTime) -> Result<Option<Line>, Error> {
    while let Some(sample) = results.try_pull_sample(patience) {
        let map = sample.buffer().ok_or("no buffer")?.map_readable()?;
        let line = Line::parse(&map)?;
        if !line.predicted {
            return Ok(Some(line));
        }
    }
    Ok(None)
}

/// Second passes refused by the camera so far.
fn refused(pipeline: &gst::Pipeline) -> u64 {
    let Ok(encoder) = element::<gst::Element>(pipeline, "encoder") else {
        return 0;
    };
    if encoder.find_property("stats").is_none() {
        return 0;
    }
    let stats = encoder.property::<gst::Structure>("stats");
    let counts = stats.iter().filter(|(name, _)| name.starts_with("refine-refused-"));
    counts.filter_map(|(_, value)| value.get::<u64>().ok()).sum()
}

impl Loop<'_> {
    /// Runs all frames; `step` is called for each result.
    ///
    /// # Errors
    /// An element's error; a decoder that delays frames.
    pub fn run(&self, step: &mut dyn FnMut()) -> Result<Outcome, Error> {
        let (clip, delay) = (self.clip, self.delay);
        // The queue puts camera and server on threads of their own, so that their processor time is measured separately.
        let decode = |name| {
            format!(
                "! video/x-h264,stream-format=byte-stream,alignment=au ! identity name={name} silent=true \
                 ! queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! avdec_h264 max-threads=1"
            )
        };
        let coded = if self.encode.is_empty() {
            String::new()
        } else {
            format!("! {} {}", self.encode, decode("coded"))
        };
        let two_passes = self.encode.contains("mode=two-pass");
        if two_passes && delay > 1 {
            return Err("a frame of two passes waits for its feedback: the delay is 1".into());
        }
        let refine = if two_passes {
            format!("encoder.refine {} ! infer.refine", decode("refined"))
        } else {
            String::new()
        };
        // A camera that works in segments receives requests for whole segments.
        let group = setting(self.encode, "segment-length").filter(|n| *n > 0).unwrap_or(1);
        let every = self.every.max(1);
        if every > 1 && group > 1 {
            return Err("segments are of pictures in a row: with a segment length, every picture is sent".into());
        }
        let pipeline = launch(&format!(
            "appsrc name=in format=time block=false {coded} ! {} name=infer ! appsink name=out sync=false \
             infer.results ! appsink name=results sync=false {refine}",
            self.infer
        ))?;
        let source: gst_app::AppSrc = element(&pipeline, "in")?;
        source.set_caps(Some(&clip.caps));
        let out: gst_app::AppSink = element(&pipeline, "out")?;
        let results: gst_app::AppSink = element(&pipeline, "results")?;

        let seen = Arc::new(Mutex::new(Seen {
            sizes: vec![[0; 3]; clip.frames.len()],
            keep: self.keep_stream,
            ..Seen::default()
        }));
        // Feedback of frames before the current one. A frame may have several packets, or none.
        let mut waiting: VecDeque<Vec<gst::Event>> = VecDeque::new();
        let src_of = |name: &str| element::<gst::Element>(&pipeline, name).ok()?.static_pad("src");
        if let Some(pad) = src_of("refined") {
            watch(&pad, 1, clip, &seen);
        }
        if let Some(pad) = src_of("coded") {
            watch(&pad, 0, clip, &seen);
            watch_feedback(&pad, delay > 1, &seen);
        }
        if let Some(pad) = src_of("in") {
            let seen = seen.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                seen.lock().unwrap().passes[0].begin();
                gst::PadProbeReturn::Ok
            });
        }
        let encoder_pad = src_of("encoder");
        // An encoder of one pass makes its access unit before it takes the next picture, or none.
        let gate = match encoder_pad.is_some() && group == 1 && !two_passes {
            true => src_of("in").and_then(Gate::new),
            false => None,
        };
        pipeline.set_state(gst::State::Playing)?;
        let mut outcome = Outcome::default();
        let patience = gst::ClockTime::from_seconds(60);
        let failed = |text: &str| -> Error { bus_error(&pipeline).unwrap_or_else(|| text.to_owned()).into() };
        let mut run = || -> Result<(), Error> {
            let mut seen_refusals = 0;
            // Results that must have come.
            let mut due = 0;
            'frames: for n in 0..clip.frames.len() {
                // Feedback of frame n - delay is received before frame n.
                if delay > 1
                    && n >= delay
                    && let Some(pad) = &encoder_pad
                {
                    for event in waiting.pop_front().unwrap_or_default() {
                        pad.send_event(event);
                    }
                }
                if !n.is_multiple_of(every) {
                    waiting.push_back(std::mem::take(&mut seen.lock().unwrap().held));
                    step();
                    continue;
                }
                let given = {
                    let mut seen = seen.lock().unwrap();
                    seen.given.push(n);
                    seen.given.len()
                };
                source
                    .push_buffer(clip.frame(n))
                    .map_err(|_| failed("the pipeline takes no frames"))?;
                if let Some(gate) = &gate {
                    if !gate.passed(given, patience.into()) {
                        return Err(failed("the encoder did not give a frame back"));
                    }
                    let mut seen = seen.lock().unwrap();
                    if seen.sizes[n][0] == 0 {
                        waiting.push_back(std::mem::take(&mut seen.held));
                        step();
                        continue;
                    }
                }
                due += 1;
                let last = n + 1 == clip.frames.len();
                let whole = (n + 1).is_multiple_of(group);
                if last && !whole {
                    // The rest of the last segment will not come.
                    let _ = source.end_of_stream();
                }
                if !last && !whole {
                    continue;
                }
                while outcome.lines.len() < due {
                    match pull(&out, patience, || refused(&pipeline) > seen_refusals) {
                        Pulled::Frame => {}
                        // The next access unit, or the end, makes the server give up the missing ones.
                        Pulled::Refused => {
                            seen_refusals = refused(&pipeline);
                            if !last {
                                continue 'frames;
                            }
                            let _ = source.end_of_stream();
                            continue;
                        }
                        Pulled::Nothing => return Err(failed("a frame did not come out before the next went in")),
                    }
                    let line = next_line(&results, patience)?.ok_or_else(|| failed("a frame gave no result"))?;
                    let shown = line.pts_ns.map(gst::ClockTime::from_nseconds);
                    let capture = shown.map_or(n, |pts| crate::clip::number(pts, clip.fps));
                    outcome.captures.push(capture.min(clip.frames.len() - 1));
                    outcome.lines.push(line);
                    step();
                }
                // Feedback leaves before the frame and its result.
                waiting.push_back(std::mem::take(&mut seen.lock().unwrap().held));
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
        let mut seen = seen.lock().unwrap();
        let sum = |pass: usize| seen.sizes.iter().map(|sizes| u64::from(sizes[pass])).sum::<u64>();
        outcome.refine_bytes = sum(1);
        outcome.bytes = sum(0) + outcome.refine_bytes;
        outcome.camera_ms = seen.passes.iter().map(cpu::Meter::ms).sum::<f64>() / clip.frames.len().max(1) as f64;
        outcome.sizes = std::mem::take(&mut seen.sizes);
        outcome.stream = std::mem::take(&mut seen.stream);
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_that_was_not_sent_holds_the_last_result() {
        let line = |frame| Line {
            frame: Some(frame),
            ..Line::default()
        };
        let outcome = Outcome {
            lines: vec![line(10), line(20)],
            captures: vec![1, 3],
            ..Outcome::default()
        };
        let held: Vec<u64> = outcome.held(5).filter_map(|line| line.frame).collect();
        assert_eq!(held, [10, 10, 10, 20, 20]);
        assert_eq!(Outcome::default().held(5).count(), 0);
    }
}
