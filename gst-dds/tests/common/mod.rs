// SPDX-License-Identifier: MPL-2.0

//! Helpers of the element's tests: a noise camera, a harness around the element, and readers of its stream.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod refined;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use dds_protocol::feedback::{self, FeedbackState, Quality, Rect, Region};
use dds_protocol::identity::FrameIdentity;
use dds_protocol::nal::{Codec, Format};
use dds_protocol::serial::Serial16;
use gst::prelude::*;

/// Stream ID that tests fix.
pub const STREAM: u32 = 77;

/// Registers the element once.
pub fn init() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gstdds::plugin_register_static().unwrap();
    });
}

/// Runs tests of this file again with NVENC, on a stand-in for its driver; see [`fake_nvenc::again`].
pub fn on_fake_nvenc(tests: &[&str], libraries: &[&str], faults: &str) -> fake_nvenc::Log {
    let folder = format!("{}-{}-{faults}", tests[0], libraries.len());
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fake_nvenc::again(&folder, tests, libraries, faults)
}

/// The same with the calling test, for tests that have nothing to do elsewhere.
pub fn again_on_fake_nvenc(libraries: &[&str], faults: &str) -> fake_nvenc::Log {
    let thread = std::thread::current();
    on_fake_nvenc(&[thread.name().unwrap()], libraries, faults)
}

/// The same with pictures in the memory of its device; see [`fake_nvenc::again_on_cuda`].
pub fn on_fake_cuda(tests: &[&str], faults: &str) -> fake_nvenc::Log {
    let folder = format!("{}-cuda-{faults}", tests[0]);
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fake_nvenc::again_on_cuda(&folder, tests, faults)
}

/// The same with the calling test.
pub fn again_on_fake_cuda(faults: &str) -> fake_nvenc::Log {
    let thread = std::thread::current();
    on_fake_cuda(&[thread.name().unwrap()], faults)
}

/// The element, or, where tests keep pictures in CUDA memory, the element after an uploader.
fn behind_upload(element: &gst::Element) -> gst::Element {
    if !fake_nvenc::on_cuda() {
        return element.clone();
    }
    let upload = gst::ElementFactory::make("cudaupload")
        .build()
        .expect("gstreamer1.0-plugins-bad has nvcodec, which finds the stand-in");
    let filter = gst::ElementFactory::make("capsfilter").build().unwrap();
    filter.set_property(
        "caps",
        gst_video::VideoCapsBuilder::new()
            .features([gstdds::cuda::FEATURE])
            .build(),
    );
    let bin = gst::Bin::new();
    let all = [&upload, &filter, element];
    bin.add_many(all).unwrap();
    gst::Element::link_many(all).unwrap();
    for (of, name) in [(&upload, "sink"), (element, "src")] {
        let pad = of.static_pad(name).unwrap();
        bin.add_pad(&gst::GhostPad::with_target(&pad).unwrap()).unwrap();
    }
    bin.upcast()
}

/// Codes a source's video with the element; returns the text of the one error that ends it, and the number of access
/// units.
pub fn run(source: &str, element: &gst::Element, peer: &str) -> (Option<String>, usize) {
    let pipeline = gst::Pipeline::new();
    let source = gst::parse::bin_from_description(source, true).unwrap();
    let sink = gst_app::AppSink::builder().sync(false).build();
    sink.set_caps(Some(&peer.parse::<gst::Caps>().unwrap()));
    pipeline
        .add_many([source.upcast_ref(), element, sink.upcast_ref()])
        .unwrap();
    gst::Element::link_many([source.upcast_ref(), element, sink.upcast_ref()]).unwrap();
    let mut units = 0;
    if pipeline.set_state(gst::State::Playing).is_ok() {
        while sink.pull_sample().is_ok() {
            units += 1;
        }
    }
    let messages: Vec<_> = std::iter::from_fn(|| pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]))
        .filter_map(|message| match message.view() {
            gst::MessageView::Error(e) if e.src() == Some(element.upcast_ref()) => {
                Some(format!("{} {:?}", e.error(), e.debug()))
            }
            _ => None,
        })
        .collect();
    pipeline.set_state(gst::State::Null).unwrap();
    pipeline.remove(element).unwrap();
    // The base class posts an error of its own, and may try again with the next frame.
    let mut messages: Vec<_> = messages
        .into_iter()
        .filter(|m| !m.contains("Failed to start encoder"))
        .collect();
    messages.dedup();
    assert!(messages.len() <= 1, "{messages:?}");
    (messages.into_iter().next(), units)
}

/// An element with the usual settings for tests: fast, one thread, fixed stream ID, no wall clock.
pub fn element() -> gst::Element {
    init();
    gst::ElementFactory::make("ddsencode")
        .property_from_str("encoder", &fake_nvenc::encoder())
        .property_from_str("speed-preset", "superfast")
        .property("threads", 1u32)
        .property("stream-id", STREAM)
        .property("wall-clock", false)
        .build()
        .unwrap()
}

/// A camera: pushes noise, of which no macroblock can be skipped, and keeps the output.
pub struct Camera {
    pub harness: gst_check::Harness,
    pub element: gst::Element,
    pub info: gst_video::VideoInfo,
    pub frames: u64,
    pub units: Vec<gst::Buffer>,
}

impl Camera {
    pub fn new(element: gst::Element, width: u32, height: u32) -> Self {
        Self::with_format(element, gst_video::VideoFormat::I420, width, height)
    }

    pub fn with_format(element: gst::Element, format: gst_video::VideoFormat, width: u32, height: u32) -> Self {
        Self::with_peer(element, format, width, height, "ANY")
    }

    /// The element in front of a peer that takes these caps.
    pub fn with_peer(
        element: gst::Element,
        format: gst_video::VideoFormat,
        width: u32,
        height: u32,
        peer: &str,
    ) -> Self {
        let info = info(format, width, height);
        let first = behind_upload(&element);
        let caps = info.to_caps().unwrap();
        Self::behind(&first, element, info, caps, peer)
    }

    /// Pictures come from system memory with these caps, whatever other tests use.
    pub fn direct(element: gst::Element, info: gst_video::VideoInfo, caps: gst::Caps) -> Self {
        let first = element.clone();
        Self::behind(&first, element, info, caps, "ANY")
    }

    fn behind(
        first: &gst::Element,
        element: gst::Element,
        info: gst_video::VideoInfo,
        caps: gst::Caps,
        peer: &str,
    ) -> Self {
        let mut harness = gst_check::Harness::with_element(first, Some("sink"), Some("src"));
        harness.set_sink_caps_str(peer);
        harness.play();
        harness.set_src_caps(caps);
        Self {
            harness,
            element,
            info,
            frames: 0,
            units: Vec::new(),
        }
    }

    pub fn set_caps(&mut self, format: gst_video::VideoFormat, width: u32, height: u32) {
        self.info = info(format, width, height);
        self.harness.set_src_caps(self.info.to_caps().unwrap());
    }

    /// Noise for the next frame, without a meta.
    pub fn picture(&self) -> gst::Buffer {
        let mut buffer = gst::Buffer::with_size(self.info.size()).unwrap();
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(gst::ClockTime::SECOND.mul_div_floor(self.frames, 30));
            buffer.set_duration(gst::ClockTime::SECOND / 30);
            let mut map = buffer.map_writable().unwrap();
            // A still texture, and flicker on top that no macroblock can be skipped for.
            let (mut texture, mut flicker) = (1u32, (self.frames as u32).wrapping_mul(2_654_435_761) + 1);
            let next = |seed: &mut u32| {
                *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (*seed >> 24) as u8
            };
            let deep = self.info.format_info().depth()[0] > 8;
            for (i, sample) in map.iter_mut().enumerate() {
                let value = next(&mut texture) / 2 + next(&mut flicker) / 3;
                // 10-bit samples: the high byte holds two bits.
                *sample = if deep && i % 2 == 1 { value & 3 } else { value };
            }
        }
        buffer
    }

    /// Codes one frame of noise.
    pub fn push(&mut self) -> gst::Buffer {
        let picture = self.picture();
        self.push_buffer(picture)
    }

    /// Codes this picture; without delay its access unit is there at once.
    pub fn push_buffer(&mut self, picture: gst::Buffer) -> gst::Buffer {
        self.harness.push(picture).unwrap();
        self.frames += 1;
        let unit = self.harness.try_pull().expect("no delay");
        self.units.push(unit.clone());
        unit
    }

    /// Gives the element this picture; its access unit is there at once, where it is not left out.
    pub fn push_captured(&mut self, picture: gst::Buffer) -> Option<gst::Buffer> {
        self.harness.push(picture).unwrap();
        self.frames += 1;
        let unit = self.harness.try_pull();
        self.units.extend(unit.clone());
        unit
    }

    /// Sends feedback by the same-process event, as a server downstream would.
    pub fn feedback(&mut self, generation: u16, frame: u64, regions: &[Region]) -> bool {
        let state = FeedbackState {
            stream_id: STREAM,
            generation: Serial16(generation),
            frame,
            regions: regions.to_vec(),
            ..FeedbackState::default()
        };
        feedback::encode(&state)
            .packets
            .iter()
            .all(|packet| self.harness.push_upstream_event(gst_dds_link::event::feedback(packet)))
    }

    /// Everything coded so far.
    pub fn stream(&self) -> Vec<u8> {
        self.units
            .iter()
            .flat_map(|unit| unit.map_readable().unwrap().to_vec())
            .collect()
    }

    pub fn count(&self, name: &str) -> u64 {
        self.element
            .property::<gst::Structure>("stats")
            .get::<u64>(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

pub fn info(format: gst_video::VideoFormat, width: u32, height: u32) -> gst_video::VideoInfo {
    gst_video::VideoInfo::builder(format, width, height)
        .fps(gst::Fraction::new(30, 1))
        .build()
        .unwrap()
}

/// A region of ten seconds.
pub fn region(x: u32, y: u32, width: u32, height: u32, quality: Quality) -> Region {
    Region {
        rect: Rect { x, y, width, height },
        quality,
        ttl_ms: 10_000,
        ..Region::default()
    }
}

/// Bare packets of one generation.
pub fn packets(generation: u16, frame: u64, regions: &[Region]) -> Vec<Vec<u8>> {
    let state = FeedbackState {
        stream_id: STREAM,
        generation: Serial16(generation),
        frame,
        regions: regions.to_vec(),
        ..FeedbackState::default()
    };
    feedback::encode(&state).packets
}

/// Frame identity of a byte-stream access unit.
pub fn identity(unit: &gst::Buffer) -> FrameIdentity {
    let map = unit.map_readable().unwrap();
    let summary = Codec::H264.summarize(&map, Format::ByteStream);
    let identity = summary.identity.expect("an identity").expect("a readable one");
    assert_eq!(identity.slices, summary.slices.slices);
    assert_eq!(identity.slice_bytes, summary.slices.bytes);
    assert_eq!(identity.recovery, summary.slices.idr);
    identity
}

/// One decoded frame: its type, and the quantizer of each macroblock in raster order.
#[derive(Debug, PartialEq, Eq)]
pub struct Quantizers {
    pub kind: char,
    pub qps: Vec<u8>,
}

impl Quantizers {
    /// The quantizer of all macroblocks, where they agree.
    pub fn uniform(&self) -> Option<u8> {
        self.qps.iter().all(|qp| *qp == self.qps[0]).then_some(self.qps[0])
    }
}

/// Quantizers that FFmpeg reads in a byte-stream. Panics if it reports an error.
pub fn quantizers(stream: &[u8]) -> Vec<Quantizers> {
    let text = ffmpeg(stream, &["-threads", "1", "-debug", "qp"]);
    // Probing decodes the first frames with another context: the last one named is the decoder's.
    let context = |line: &str| Some(line.split_once("[h264 @ ")?.1.split_once(']')?.0.to_string());
    let decoder = text
        .lines()
        .rev()
        .filter(|l| l.contains("New frame, type:"))
        .find_map(context)
        .expect("frames");
    let mut frames: Vec<Quantizers> = Vec::new();
    // FFmpeg from 6.1 on puts a line of columns above the picture and the row's position before each row.
    let mut margin = 0;
    for line in text.lines().filter(|l| context(l).as_ref() == Some(&decoder)) {
        let body = line.split_once("] ").map_or("", |(_, body)| body);
        if let Some(kind) = body.strip_prefix("New frame, type: ") {
            frames.push(Quantizers {
                kind: kind.chars().next().unwrap(),
                qps: Vec::new(),
            });
            margin = 0;
            continue;
        }
        if margin == 0 && body.starts_with("   ") && body.trim_start().starts_with("0 ") {
            margin = body.len() - body.trim_start().len();
            continue;
        }
        let row = body.get(margin..).unwrap_or_default();
        if !row.is_empty() && row.len() % 2 == 0 && body.bytes().all(|b| b == b' ' || b.is_ascii_digit()) {
            let qps = row
                .as_bytes()
                .chunks(2)
                .filter_map(|c| std::str::from_utf8(c).ok()?.trim().parse::<u8>().ok());
            frames.last_mut().unwrap().qps.extend(qps);
        }
    }
    frames
}

/// Decodes a stream with FFmpeg and fails on any error it reports; number of frames.
pub fn decodes(stream: &[u8]) -> usize {
    quantizers(stream).len()
}

/// Runs FFmpeg with a byte-stream on its standard input.
pub fn ffmpeg_reads<'a>(stream: &[u8], arguments: impl IntoIterator<Item = &'a str>) -> Output {
    let mut child = Command::new("ffmpeg")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ffmpeg is installed");
    let mut input = child.stdin.take().unwrap();
    let stream = stream.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&stream));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    output
}

fn ffmpeg(stream: &[u8], options: &[&str]) -> String {
    let before = ["-hide_banner", "-xerror", "-err_detect", "explode"];
    let after = ["-f", "h264", "-i", "-", "-f", "null", "-"];
    let output = ffmpeg_reads(stream, before.iter().chain(options).chain(&after).copied());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    for complaint in [
        "error while decoding",
        "Invalid data",
        "concealing",
        "non-existing",
        "illegal",
    ] {
        assert!(!text.contains(complaint), "FFmpeg: {complaint}");
    }
    text
}
