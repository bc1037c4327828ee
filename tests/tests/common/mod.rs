// SPDX-License-Identifier: MPL-2.0

//! What the cross-element tests share: plugins, pictures, lockstep encoding, quantizers read back from the bitstream.
#![allow(dead_code)] // Each test file uses its own part.

pub mod network;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dds_protocol::feedback::{self, FeedbackState, Motion, Quality, Rect, Region};
use dds_protocol::serial::Serial16;
use gst::prelude::*;

/// Initialises GStreamer and both plugins, linked into the test.
pub fn init() {
    dds_tests::init().unwrap();
}

pub fn launch(line: &str) -> gst::Pipeline {
    dds_tests::launch(line).unwrap()
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
        ..FeedbackState::default()
    })
    .packets
}

pub use dds_tests::qp::QpPicture;

/// Reads every macroblock's quantizer back with FFmpeg's decoder.
pub fn quantizers(h264: &Path) -> Vec<QpPicture> {
    dds_tests::qp::read(h264).unwrap()
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
