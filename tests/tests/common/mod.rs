// SPDX-License-Identifier: MPL-2.0

//! What the cross-element tests share: plugins, pictures, lockstep encoding, quantizers read back from the bitstream.
#![allow(dead_code)] // Each test file uses its own part.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dds_protocol::feedback::{self, FeedbackState, Motion, Quality, Rect, Region};
use dds_protocol::serial::Serial16;
use gst::prelude::*;

/// Initialises GStreamer and both plugins, linked into the test.
pub fn init() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gstdds::plugin_register_static().unwrap();
        gstddsinfer::plugin_register_static().unwrap();
    });
}

pub fn launch(line: &str) -> gst::Pipeline {
    gst::parse::launch(line)
        .unwrap_or_else(|e| panic!("{e} in: {line}"))
        .downcast()
        .unwrap()
}

/// Runs a pipeline to its end; panics with the element's own words on an error.
pub fn run_to_eos(pipeline: &gst::Pipeline) {
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_eos(pipeline, Duration::from_secs(60));
    pipeline.set_state(gst::State::Null).unwrap();
}

pub fn wait_eos(pipeline: &gst::Pipeline, limit: Duration) {
    let bus = pipeline.bus().unwrap();
    let message = bus.timed_pop_filtered(
        gst::ClockTime::from_nseconds(limit.as_nanos() as u64),
        &[gst::MessageType::Eos, gst::MessageType::Error],
    );
    match message.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Eos(_)) => (),
        Some(gst::MessageView::Error(e)) => panic!("{} ({:?})", e.error(), e.debug()),
        _ => panic!("no end of stream within {limit:?}"),
    }
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ports that were free a moment ago; all held open until the last is known, so none comes twice.
pub fn free_ports(n: usize) -> Vec<u16> {
    let sockets: Vec<_> = (0..n)
        .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    sockets.iter().map(|s| s.local_addr().unwrap().port()).collect()
}

/// A folder of this test's own, emptied.
pub fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub fn region(x: u32, y: u32, width: u32, height: u32) -> Region {
    Region {
        rect: Rect { x, y, width, height },
        quality: Quality::Camera,
        motion: Motion::default(),
        ttl_ms: 60_000,
        frame_offset: 0,
    }
}

/// The packets of one generation.
pub fn packets(stream_id: u32, generation: u16, frame: u64, regions: Vec<Region>) -> Vec<Vec<u8>> {
    feedback::encode(&FeedbackState {
        stream_id,
        generation: Serial16(generation),
        frame,
        regions,
    })
    .packets
}

/// Quantizers of one picture, macroblocks in raster order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QpPicture {
    pub intra: bool,
    pub columns: usize,
    pub qps: Vec<u8>,
}

impl QpPicture {
    pub fn at(&self, column: usize, row: usize) -> u8 {
        self.qps[row * self.columns + column]
    }
}

/// Reads every macroblock's quantizer back with FFmpeg's decoder. Panics on anything the decoder complains about.
pub fn quantizers(h264: &Path) -> Vec<QpPicture> {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-threads", "1", "-debug", "qp", "-i"])
        .arg(h264)
        .args(["-f", "null", "-"])
        .output()
        .expect("ffmpeg is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    // Pictures are decoded first while probing, then for real, by another decoder instance.
    let mut runs: Vec<(String, Vec<QpPicture>)> = Vec::new();
    for line in text.lines() {
        let Some((instance, rest)) = line.strip_prefix("[h264 @ ").and_then(|l| l.split_once("] ")) else {
            continue;
        };
        if let Some(kind) = rest.strip_prefix("New frame, type: ") {
            if runs.last().is_none_or(|(last, _)| last != instance) {
                runs.push((instance.to_owned(), Vec::new()));
            }
            let picture = QpPicture {
                intra: kind.trim() == "I",
                columns: 0,
                qps: Vec::new(),
            };
            runs.last_mut().unwrap().1.push(picture);
        } else if rest.len() >= 2 && rest.len() % 2 == 0 && rest.bytes().all(|b| b.is_ascii_digit() || b == b' ') {
            let picture = runs.last_mut().unwrap().1.last_mut().unwrap();
            picture.columns = rest.len() / 2;
            picture.qps.extend(
                rest.as_bytes()
                    .chunks(2)
                    .map(|d| std::str::from_utf8(d).unwrap().trim().parse::<u8>().unwrap()),
            );
        }
    }
    runs.pop().map(|(_, pictures)| pictures).unwrap_or_default()
}

/// Decodes with FFmpeg alone and returns what it complains about.
pub fn ffmpeg_complaints(file: &Path) -> String {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "warning", "-i"])
        .arg(file)
        .args(["-f", "null", "-"])
        .output()
        .expect("ffmpeg is installed");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
