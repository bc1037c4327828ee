// SPDX-License-Identifier: MPL-2.0

//! The systems that are not ours, each by its published rule. What differs from it is said in [`crate::system`].
//!
//! Frames go one by one through libx264, the decoder of our own pipelines and the server's model. What a server says to
//! frame `n` reaches the camera before frame `n + delay`.

use dds_tests::{Error, clip::Clip, cpu, score::ScoredBox};

use crate::codec::{self, Coder, Decoder};
use crate::plan::Gop;
use crate::record::{Frame, Object, Origin, Record};
use crate::server::{Infer, Memory, Server};
use crate::superres::SuperResolution;
use crate::track::{Grey, Tracker};

/// Frames of a segment: the GOP of the paper.
pub const SEGMENT: u32 = 15;
/// Frames from one key frame to the next, as users run it.
pub const LONG_GOP: u32 = 250;
/// Bytes in which a box or a region goes to the camera: four coordinates, a score and a class.
const BOX_BYTES: u32 = 12;

/// Where a system runs.
pub struct Bench<'a> {
    /// The frames.
    pub clip: &'a Clip,
    /// The server's model.
    pub server: &'a Infer,
    /// The camera's model.
    pub camera: &'a Infer,
    /// What models said before.
    pub memory: &'a Memory,
    /// Frames until feedback reaches the camera.
    pub delay: usize,
    /// Captured time from one key frame to the next where it is counted so, seconds.
    pub key_frames: u32,
}

/// What a system gave.
#[derive(Default)]
pub struct Outcome {
    /// Frames in source order.
    pub frames: Vec<Frame>,
    /// Processor time of the camera, all frames, milliseconds.
    pub camera_ms: f64,
    /// Processor time of super-resolution, all frames, milliseconds.
    pub server_extra_ms: f64,
    /// Runs of the server's model.
    pub inferences: u64,
    /// The coded stream.
    pub stream: Vec<u8>,
    /// Segment length where whole segments are sent.
    pub segment: u32,
}

/// Boxes worth keeping.
pub fn objects(found: &[ScoredBox]) -> Vec<Object> {
    found
        .iter()
        .filter(|f| f.score >= Record::LEAST_SCORE)
        .map(|f| Object {
            label: f.label.clone(),
            score: f.score,
            x: f.x,
            y: f.y,
            w: f.width,
            h: f.height,
            pass: f.pass,
            identity: f.identity.clone(),
        })
        .collect()
}

/// The class map of a line, as ddsinfer wrote it.
pub fn map_of(line: &dds_tests::score::Line) -> serde_json::Value {
    line.map
        .as_ref()
        .map_or(serde_json::Value::Null, gstddsinfer::segmentation::map_json)
}

impl Bench<'_> {
    /// Coded frames from one key frame to the next where they are counted in captured time and one picture in `every` is
    /// sent.
    pub fn timed_gop(&self, every: usize) -> u32 {
        let captured = self.clip.rate() * f64::from(self.key_frames);
        (captured / every.max(1) as f64).round().max(1.0) as u32
    }

    fn server(&self) -> Server<'_> {
        Server::new(self.server, self.memory)
    }

    /// The model on the source itself.
    ///
    /// # Errors
    /// What the elements say.
    pub fn reference(&self, step: &mut dyn FnMut()) -> Result<Outcome, Error> {
        let mut server = self.server();
        let mut outcome = Outcome::default();
        for buffer in &self.clip.frames {
            let line = server.ask(buffer, &self.clip.caps)?;
            outcome.frames.push(Frame {
                objects: objects(&line.objects_at(self.clip.size)),
                map: map_of(&line),
                ..Frame::default()
            });
            step();
        }
        outcome.inferences = server.asked;
        Ok(outcome)
    }

    /// One quantizer for all, at `scale` of the size, of every `every`-th frame.
    ///
    /// # Errors
    /// What encoder, decoder and model say.
    pub fn uniform(
        &self,
        gop: Gop,
        scale: f64,
        every: usize,
        qp: u8,
        step: &mut dyn FnMut(),
    ) -> Result<Outcome, Error> {
        let mut coder = match gop {
            Gop::Frames(gop) => Coder::open(self.clip, scale, (gop / every as u32).max(1), qp)?,
            Gop::Captured => Coder::open_with(self.clip, scale, self.timed_gop(every), false, qp)?,
        };
        let mut link = Link::open(self, coder.size)?;
        for (n, buffer) in self.clip.frames.iter().enumerate() {
            if n.is_multiple_of(every) {
                let coded = coder.code(buffer, qp, &[], qp)?;
                link.send(coded)?;
            } else {
                link.hold();
            }
            step();
        }
        Ok(link.finish())
    }

    /// Vigil: boxes of the camera's own detector at `inner`, all else at 51.
    ///
    /// # Errors
    /// What encoder, decoder and models say.
    pub fn vigil(&self, inner: u8, step: &mut dyn FnMut()) -> Result<Outcome, Error> {
        const OUTER: u8 = 51;
        let mut camera = Server::new(self.camera, self.memory);
        let mut coder = Coder::open(self.clip, 1.0, LONG_GOP, OUTER)?;
        let mut link = Link::open(self, coder.size)?;
        for buffer in &self.clip.frames {
            let line = camera.ask(buffer, &self.clip.caps)?;
            let regions: Vec<_> = line.objects_at(self.clip.size).iter().map(rectangle).collect();
            let coded = coder.code(buffer, OUTER, &regions, inner)?;
            link.outcome.camera_ms += line.inference_ms;
            link.send(coded)?.regions = regions;
            step();
        }
        Ok(link.finish())
    }

    /// EAAR: the server's proposals on the newest frame it has answered at `inner`, all else at `outer`. Frames before the
    /// first answer are at `inner` as a whole.
    ///
    /// # Errors
    /// What encoder, decoder and model say.
    pub fn eaar(&self, inner: u8, outer: u8, step: &mut dyn FnMut()) -> Result<Outcome, Error> {
        /// Least objectness and largest area, as a share of the frame, of a proposal.
        const OBJECTNESS: f32 = 0.7;
        const AREA: f32 = 0.1;
        let mut coder = Coder::open(self.clip, 1.0, LONG_GOP, outer)?;
        let mut link = Link::open(self, coder.size)?;
        let frame_area = self.clip.size.0 as f32 * self.clip.size.1 as f32;
        let mut answers: Vec<Vec<[u32; 4]>> = Vec::new();
        for (n, buffer) in self.clip.frames.iter().enumerate() {
            let coded = match n.checked_sub(self.delay) {
                None => coder.code(buffer, inner, &[], inner)?,
                Some(answered) => coder.code(buffer, outer, &answers[answered], inner)?,
            };
            let regions = n.checked_sub(self.delay).map_or_else(Vec::new, |n| answers[n].clone());
            link.send(coded)?.regions = regions;
            let proposals: Vec<_> = link
                .found
                .iter()
                // A model without objectness has its score to propose by.
                .filter(|f| f.objectness.unwrap_or(f.score) > OBJECTNESS && f.width * f.height < AREA * frame_area)
                .map(rectangle)
                .collect();
            link.feed_back(proposals.len());
            answers.push(proposals);
            step();
        }
        Ok(link.finish())
    }

    /// Glimpse: a frame is sent where more than `share` of its pixels differ from the last sent one, or a tracker lost its
    /// object, but never within 6 frames; trackers move the boxes between.
    ///
    /// # Errors
    /// What encoder, decoder and model say.
    pub fn glimpse(&self, share: f64, qp: u8, step: &mut dyn FnMut()) -> Result<Outcome, Error> {
        /// Difference of a pixel that counts, grey levels (Reducto's re-implementation).
        const LEVELS: u8 = 21;
        /// Least distance of sent frames.
        const SPACING: usize = 6;
        /// Boxes below are not tracked: no threshold that is tried would show them.
        const LEAST: f32 = 0.2;
        let info = gst_video::VideoInfo::from_caps(&self.clip.caps)?;
        let mut coder = Coder::open(self.clip, 1.0, LONG_GOP, qp)?;
        let mut link = Link::open(self, coder.size)?;
        let mut tracked: Vec<(Object, Tracker)> = Vec::new();
        let mut lost = false;
        let mut sent: Option<(usize, Vec<u8>)> = None;
        for (n, buffer) in self.clip.frames.iter().enumerate() {
            let begun = cpu::thread_ms();
            let luma = luma(buffer, &info)?;
            let grey = Grey {
                data: &luma,
                width: self.clip.size.0 as usize,
                height: self.clip.size.1 as usize,
                stride: self.clip.size.0 as usize,
            };
            let due = match &sent {
                None => true,
                Some((last, before)) => {
                    tracked.retain_mut(|(object, tracker)| match tracker.update(&grey) {
                        Some([x, y, w, h]) => {
                            (object.x, object.y, object.w, object.h) = (x, y, w, h);
                            true
                        }
                        None => {
                            lost = true;
                            false
                        }
                    });
                    let differ = before
                        .iter()
                        .zip(&luma)
                        .filter(|(a, b)| a.abs_diff(**b) > LEVELS)
                        .count();
                    n - last >= SPACING && (lost || differ as f64 > share * luma.len() as f64)
                }
            };
            link.outcome.camera_ms += cpu::thread_ms() - begun;
            if due {
                let coded = coder.code(buffer, qp, &[], qp)?;
                link.send(coded)?;
                link.feed_back(link.found.len());
                let begun = cpu::thread_ms();
                let kept = link.outcome.frames.last().map_or(&[][..], |f| &f.objects);
                tracked = kept
                    .iter()
                    .filter(|o| o.score >= LEAST)
                    .filter_map(|o| Some((o.clone(), Tracker::new(&grey, [o.x, o.y, o.w, o.h])?)))
                    .collect();
                link.outcome.camera_ms += cpu::thread_ms() - begun;
                lost = false;
                sent = Some((n, luma));
            } else {
                link.outcome.frames.push(Frame {
                    origin: Origin::Tracked,
                    objects: tracked.iter().map(|(object, _)| object.clone()).collect(),
                    ..Frame::default()
                });
            }
            step();
        }
        Ok(link.finish())
    }

    /// CloudSeg: half the size, restored at the server. One frame in `every` is restored and looked at.
    ///
    /// # Errors
    /// What encoder, decoder and models say.
    pub fn cloudseg(
        &self,
        qp: u8,
        every: usize,
        restore: &mut SuperResolution,
        step: &mut dyn FnMut(),
    ) -> Result<Outcome, Error> {
        let mut coder = Coder::open(self.clip, 0.5, SEGMENT, qp)?;
        let mut decoder = Decoder::open(coder.size)?;
        let mut server = self.server();
        let mut outcome = Outcome::default();
        for (n, buffer) in self.clip.frames.iter().enumerate() {
            let coded = coder.code(buffer, qp, &[], qp)?;
            outcome.camera_ms += coded.ms;
            let bytes = coded.data.len() as u32;
            let sample = decoder.decode(coded.data)?;
            let mut frame = Frame {
                bytes,
                origin: Origin::Unscored,
                ..Frame::default()
            };
            if n.is_multiple_of(every) {
                let begun = std::time::Instant::now();
                let (picture, caps) = restore.run(&sample)?;
                outcome.server_extra_ms += begun.elapsed().as_secs_f64() * 1e3;
                let line = server.ask(&picture, &caps)?;
                frame.origin = Origin::Inferred;
                frame.objects = objects(&line.objects_at(self.clip.size));
                frame.map = map_of(&line);
            }
            outcome.frames.push(frame);
            step();
        }
        outcome.inferences = server.asked;
        Ok(outcome)
    }
}

/// A box as whole pixels.
fn rectangle(found: &ScoredBox) -> [u32; 4] {
    let (x, y) = (found.x.max(0.0), found.y.max(0.0));
    let (right, bottom) = (found.x + found.width, found.y + found.height);
    let whole = |from: f32, to: f32| (to.ceil() - from.floor()).max(1.0) as u32;
    [x as u32, y as u32, whole(x, right), whole(y, bottom)]
}

/// The luma plane without padding.
fn luma(buffer: &gst::Buffer, info: &gst_video::VideoInfo) -> Result<Vec<u8>, Error> {
    use gst_video::prelude::*;
    let frame = codec::map(buffer, info)?;
    let (width, stride) = (info.width() as usize, frame.plane_stride()[0] as usize);
    let data = frame.plane_data(0)?;
    let mut out = Vec::with_capacity(width * info.height() as usize);
    for row in data.chunks(stride).take(info.height() as usize) {
        out.extend_from_slice(&row[..width]);
    }
    Ok(out)
}

/// Decoder and server behind a coder.
struct Link<'a> {
    size: (u32, u32),
    decoder: Decoder,
    server: Server<'a>,
    outcome: Outcome,
    /// What the server said last, of any score, in pixels of the source.
    found: Vec<ScoredBox>,
}

impl<'a> Link<'a> {
    fn open(bench: &'a Bench<'_>, coded: (u32, u32)) -> Result<Self, Error> {
        Ok(Self {
            size: bench.clip.size,
            decoder: Decoder::open(coded)?,
            server: bench.server(),
            outcome: Outcome::default(),
            found: Vec::new(),
        })
    }

    /// Sends a frame; gives its record.
    fn send(&mut self, coded: codec::Coded) -> Result<&mut Frame, Error> {
        self.outcome.camera_ms += coded.ms;
        self.outcome.stream.extend_from_slice(&coded.data);
        let bytes = coded.data.len() as u32;
        let sample = self.decoder.decode(coded.data)?;
        let (buffer, caps) = sample.buffer_owned().zip(sample.caps_owned()).ok_or("no picture")?;
        let line = self.server.ask(&buffer, &caps)?;
        self.found = line.objects_at(self.size);
        self.outcome.frames.push(Frame {
            bytes,
            objects: objects(&self.found),
            map: map_of(&line),
            ..Frame::default()
        });
        self.outcome.frames.last_mut().ok_or_else(|| "no frame".into())
    }

    /// A frame that is not sent: the last result stands.
    fn hold(&mut self) {
        let last = self.outcome.frames.last();
        let frame = Frame {
            origin: Origin::Held,
            map: last.map(|f| f.map.clone()).unwrap_or_default(),
            ..Frame::default()
        };
        self.outcome.frames.push(frame);
    }

    /// Counts boxes that go back to the camera about the last frame.
    fn feed_back(&mut self, boxes: usize) {
        if let Some(frame) = self.outcome.frames.last_mut() {
            frame.feedback_bytes = BOX_BYTES * (1 + boxes as u32);
        }
    }

    fn finish(mut self) -> Outcome {
        self.outcome.inferences = self.server.asked;
        self.outcome
    }
}
