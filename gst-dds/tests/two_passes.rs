// SPDX-License-Identifier: MPL-2.0

//! In two passes the first stream is uniform, and the second holds exactly the regions that were asked for, of the very
//! frames they were asked of.

#![cfg(feature = "x264")]
#![allow(dead_code)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{Camera, STREAM, element, identity, quantizers, region};
use dds_protocol::extension::Extension;
use dds_protocol::feedback::{Quality, Rect, Region};
use dds_protocol::identity::{FrameIdentity, StreamKind};
use dds_protocol::nal::{self, Format};
use gst::prelude::*;
use gst_video::VideoFormat;
use gst_video::prelude::*;

/// How long the second stream may take in a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// What comes out of the pad `refine`.
enum Item {
    Unit(gst::Buffer),
    Event(gst::Event),
}

/// A sink on the pad `refine`.
struct Refined {
    pad: gst::Pad,
    source: gst::Pad,
    items: mpsc::Receiver<Item>,
    units: Vec<gst::Buffer>,
}

impl Refined {
    fn new(element: &gst::Element) -> Self {
        let source = element.request_pad_simple("refine").expect("two passes");
        let (sender, items) = mpsc::channel();
        let events = sender.clone();
        let pad = gst::Pad::builder(gst::PadDirection::Sink)
            .name("refined")
            .chain_function(move |_, _, buffer| {
                let _ = sender.send(Item::Unit(buffer));
                Ok(gst::FlowSuccess::Ok)
            })
            .event_function(move |_, _, event| {
                let _ = events.send(Item::Event(event));
                true
            })
            .build();
        pad.set_active(true).unwrap();
        source.link(&pad).unwrap();
        Self {
            pad,
            source,
            items,
            units: Vec::new(),
        }
    }

    /// The next access unit, with what came before it left out.
    fn unit(&mut self) -> gst::Buffer {
        loop {
            if let Item::Unit(unit) = self.items.recv_timeout(PATIENCE).expect("a refinement") {
                self.units.push(unit.clone());
                return unit;
            }
        }
    }

    /// The next event of this kind, with events before it left out. Access units are kept.
    fn event(&mut self, kind: gst::EventType) -> gst::Event {
        loop {
            match self.items.recv_timeout(PATIENCE).expect("an event") {
                Item::Event(event) if event.type_() == kind => return event,
                Item::Event(_) => {}
                Item::Unit(unit) => self.units.push(unit),
            }
        }
    }

    /// Everything that has come so far.
    fn stream(&self) -> Vec<u8> {
        self.units
            .iter()
            .flat_map(|unit| unit.map_readable().unwrap().to_vec())
            .collect()
    }
}

fn two_pass(settings: &[(&str, &str)]) -> gst::Element {
    let element = element();
    element.set_property_from_str("mode", "two-pass");
    for (name, value) in settings {
        element.set_property_from_str(name, value);
    }
    element
}

/// Identity and records of a byte-stream access unit.
fn records(unit: &gst::Buffer) -> (FrameIdentity, Extension) {
    let extension = nal::summarize(&unit.map_readable().unwrap(), Format::ByteStream).extension;
    (identity(unit), extension)
}

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect { x, y, width, height }
}

/// A region of the frame so many frames after the one that feedback derives from.
fn later(frame_offset: u8, x: u32, y: u32, width: u32, height: u32) -> Region {
    Region {
        frame_offset,
        ..region(x, y, width, height, Quality::Camera)
    }
}

/// Luma of the frames of a byte-stream, one after the other, in the samples' own depth.
fn luma(stream: &[u8], deep: bool) -> Vec<u8> {
    let mut child = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "h264",
            "-i",
            "-",
            "-vf",
            "extractplanes=y",
            "-fps_mode",
            "passthrough",
        ])
        .args([
            "-pix_fmt",
            if deep { "gray10le" } else { "gray" },
            "-f",
            "rawvideo",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ffmpeg is installed");
    let mut input = child.stdin.take().unwrap();
    let stream = stream.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&stream));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    output.stdout
}

/// Mean squared error of luma in a rectangle of a frame.
fn error(a: &[u8], b: &[u8], width: usize, height: usize, deep: bool, rect: &Rect) -> f64 {
    let bytes = if deep { 2 } else { 1 };
    assert!(a.len() >= width * height * bytes && b.len() >= width * height * bytes);
    let sample = |data: &[u8], x: usize, y: usize| {
        let at = (y * width + x) * bytes;
        let high = if deep { data[at + 1] } else { 0 };
        f64::from(u16::from_le_bytes([data[at], high]))
    };
    let (mut sum, mut count) = (0.0, 0.0);
    for y in rect.y as usize..((rect.y + rect.height) as usize).min(height) {
        for x in rect.x as usize..((rect.x + rect.width) as usize).min(width) {
            sum += (sample(a, x, y) - sample(b, x, y)).powi(2);
            count += 1.0;
        }
    }
    sum / count
}

/// Luma of a captured picture.
fn source_luma(picture: &gst::Buffer, info: &gst_video::VideoInfo) -> Vec<u8> {
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(picture, info).unwrap();
    let row = info.width() as usize * if info.format_info().depth()[0] > 8 { 2 } else { 1 };
    let stride = frame.plane_stride()[0] as usize;
    let data = frame.plane_data(0).unwrap();
    let rows = data.chunks(stride).take(info.height() as usize);
    rows.flat_map(|line| line[..row].to_vec()).collect()
}

#[test]
fn the_second_stream_begins_with_one_black_picture() {
    let element = two_pass(&[]);
    let mut refined = Refined::new(&element);
    let mut camera = Camera::new(element, 320, 240);
    camera.push();
    let black = refined.unit();
    let (identity, extension) = records(&black);
    assert_eq!(
        (identity.kind, identity.frame, identity.access_unit),
        (StreamKind::Refine, 0, 0)
    );
    assert_eq!((identity.stream_id, identity.recovery), (STREAM, true));
    assert_eq!(extension, Extension::default());
    assert_eq!(black.pts(), camera.units[0].pts());
    assert!(!black.flags().contains(gst::BufferFlags::DELTA_UNIT));
    assert!(luma(&refined.stream(), false).iter().all(|sample| *sample == 16));
    let caps = refined.pad.current_caps().unwrap();
    let s = caps.structure(0).unwrap();
    assert_eq!((s.get::<i32>("width"), s.get::<i32>("height")), (Ok(320), Ok(240)));
    assert_eq!(s.get::<gst::Fraction>("framerate"), Ok(gst::Fraction::new(30, 1)));
    let (identity, extension) = records(&camera.units[0]);
    assert_eq!(
        (identity.kind, extension.full_size),
        (StreamKind::Low, Some((320, 240)))
    );
}

#[test]
fn exactly_the_regions_asked_for_are_refined_in_the_frames_they_were_asked_of() {
    for format in [
        VideoFormat::I420,
        VideoFormat::Nv12,
        VideoFormat::Y444,
        VideoFormat::I42010le,
    ] {
        for canvas in ["black", "hold"] {
            let element = two_pass(&[("refine-canvas", canvas)]);
            let deep = format == VideoFormat::I42010le;
            let mut refined = Refined::new(&element);
            let mut camera = Camera::with_format(element, format, 328, 248);
            let mut sources = Vec::new();
            for _ in 0..6 {
                let picture = camera.picture();
                sources.push(source_luma(&picture, &camera.info));
                camera.push_buffer(picture);
            }
            // At the same quantizer throughout, in one pass.
            let uniform = element_of_quantizer("26");
            let mut reference = Camera::with_format(uniform, format, 328, 248);
            for _ in 0..6 {
                reference.push();
            }
            let reference = luma(&reference.stream(), deep);

            assert!(camera.feedback(1, 2, &[region(64, 48, 32, 64, Quality::Camera), later(2, 0, 0, 24, 24)]));
            assert!(camera.feedback(
                2,
                5,
                &[region(296, 200, 32, 48, Quality::Qp(20)), later(0, 64, 48, 16, 16)]
            ));
            let wanted = [
                (2, vec![rect(64, 48, 32, 64)]),
                (4, vec![rect(0, 0, 32, 32)]),
                (5, vec![rect(288, 192, 48, 64), rect(64, 48, 16, 16)]),
            ];
            assert_eq!(records(&refined.unit()).1, Extension::default());
            for (i, (frame, rects)) in wanted.iter().enumerate() {
                let unit = refined.unit();
                let (identity, extension) = records(&unit);
                assert_eq!((identity.frame, identity.access_unit), (*frame, i as u32 + 1));
                assert_eq!(&extension.refined, rects);
                assert_eq!(unit.pts(), camera.units[*frame as usize].pts());
                assert!(unit.flags().contains(gst::BufferFlags::DELTA_UNIT));
            }
            let pictures = luma(&refined.stream(), deep);
            let size = pictures.len() / 4;
            // Over all rectangles: one macroblock alone may be unlucky.
            let (mut got, mut uniform) = (0.0, 0.0);
            for (i, (frame, rects)) in wanted.iter().enumerate() {
                let (picture, at) = (&pictures[size * (i + 1)..], *frame as usize);
                for rect in rects {
                    let area = f64::from(rect.width * rect.height);
                    got += area * error(&sources[at], picture, 328, 248, deep, rect);
                    uniform += area * error(&sources[at], &reference[size * at..], 328, 248, deep, rect);
                }
            }
            let decibel = 10.0 * (uniform / got).log10();
            assert!(decibel > -0.1, "{format:?} {canvas}: {decibel} dB");
            // Quantizers of the pictures, skipped macroblocks aside: those inside are noise and never skipped.
            let frames = quantizers(&refined.stream());
            for (i, (_, rects)) in wanted.iter().enumerate() {
                for (at, qp) in frames[i + 1].qps.iter().enumerate() {
                    let (x, y) = (at as u32 % 21 * 16, at as u32 / 21 * 16);
                    let inside = rects
                        .iter()
                        .position(|r| (r.x..r.x + r.width).contains(&x) && (r.y..r.y + r.height).contains(&y));
                    if let Some(inside) = inside {
                        // FFmpeg counts from -12 where samples have 10 bits.
                        let wanted = if i == 2 && inside == 0 { 20 } else { 26 } + if deep { 12 } else { 0 };
                        assert_eq!(*qp, wanted, "{format:?} {canvas} picture {i} macroblock {x},{y}");
                    }
                }
            }
            // The first stream knows nothing of regions.
            let first = quantizers(&camera.stream());
            assert!(first.iter().all(|frame| frame.uniform().is_some()));
            assert_eq!(camera.count("refine-frames-coded"), 3);
            assert_eq!(camera.count("refine-regions"), 4);
            assert_eq!(camera.count("refine-requests"), 3);
            assert_eq!(camera.count("ring-frames"), 6);
        }
    }
}

fn element_of_quantizer(qp: &str) -> gst::Element {
    let element = element();
    for name in ["background-qp", "region-qp", "fallback-qp"] {
        element.set_property_from_str(name, qp);
    }
    element
}
