// SPDX-License-Identifier: MPL-2.0

//! Shared code of the element tests: the plugin, pipelines, and an encoder that names its frames without `ddsencode`.
#![allow(dead_code)] // Each test file uses its own part.

use std::sync::{Arc, Mutex, Once};

use dds_protocol::extension::Extension;
use dds_protocol::identity::{FrameIdentity, StreamKind};
use dds_protocol::nal::{self, Codec, Format};
use gst::prelude::*;

/// Longest time for any wait here.
pub const LIMIT: gst::ClockTime = gst::ClockTime::from_seconds(30);

/// Initialises GStreamer and the plugin, linked into the test.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gstddsinfer::plugin_register_static().unwrap();
    });
}

pub fn launch(line: &str) -> gst::Pipeline {
    init();
    gst::parse::launch(line).unwrap().downcast().unwrap()
}

pub fn element(pipeline: &gst::Pipeline, name: &str) -> gst::Element {
    pipeline.by_name(name).unwrap()
}

/// Waits for the end of the stream; panics with the element's error, or after [`LIMIT`] without an end.
pub fn wait_eos(pipeline: &gst::Pipeline) {
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = pipeline.bus().unwrap().timed_pop_filtered(LIMIT, &kinds);
    match message.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Eos(_)) => (),
        Some(gst::MessageView::Error(e)) => panic!("{} ({:?})", e.error(), e.debug()),
        _ => panic!("no end of stream"),
    }
}

pub fn run_to_eos(pipeline: &gst::Pipeline) {
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_eos(pipeline);
    pipeline.set_state(gst::State::Null).unwrap();
}

/// Everything that passes a pad: `buffer PTS-in-ms` and names of events, in order.
pub fn record(pad: &gst::Pad) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    pad.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH,
        move |_, info| {
            let line = match &info.data {
                Some(gst::PadProbeData::Buffer(b)) => format!("buffer {}", b.pts().map_or(0, |t| t.mseconds())),
                Some(gst::PadProbeData::Event(e)) => e.type_().name().to_string(),
                _ => return gst::PadProbeReturn::Ok,
            };
            log.lock().unwrap().push(line);
            gst::PadProbeReturn::Ok
        },
    );
    seen
}

/// Bytes of every buffer that passes a pad.
pub fn collect(pad: &gst::Pad) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let buffer = info.buffer().unwrap();
        log.lock().unwrap().push(buffer.map_readable().unwrap().to_vec());
        gst::PadProbeReturn::Ok
    });
    seen
}

pub fn json(lines: &Mutex<Vec<Vec<u8>>>) -> Vec<serde_json::Value> {
    let lines = lines.lock().unwrap();
    lines
        .iter()
        .map(|line| {
            assert_eq!(
                line.iter().position(|b| *b == b'\n'),
                Some(line.len() - 1),
                "one line a buffer"
            );
            serde_json::from_slice(line).unwrap()
        })
        .collect()
}

/// Writes a frame identity into each byte-stream access unit on `pad`, before its first slice, as the camera does.
pub fn name_frames(pad: &gst::Pad, stream_id: u32) {
    name_frames_with(pad, stream_id, 1, Extension::default());
}

/// As [`name_frames`], of a camera that sends one captured picture in `interval`, with these records.
pub fn name_frames_with(pad: &gst::Pad, stream_id: u32, interval: u32, extension: Extension) {
    let counter = Mutex::new(0u32);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data else {
            return gst::PadProbeReturn::Ok;
        };
        let mut counter = counter.lock().unwrap();
        let data = buffer.map_readable().unwrap().to_vec();
        let slices = Codec::H264.count_slices(&data, Format::ByteStream);
        let identity = FrameIdentity {
            kind: StreamKind::Single,
            stream_id,
            frame: u64::from(*counter * interval),
            capture_time_ns: 1_700_000_000_000_000_000 + u64::from(*counter),
            access_unit: *counter,
            recovery: slices.idr,
            slices: slices.slices,
            slice_bytes: slices.bytes,
            slice_checksum: slices.checksum,
        };
        *counter += 1;
        let mut out = Vec::new();
        let mut named = false;
        for unit in nal::nal_units(&data, Format::ByteStream) {
            let kind = unit[0] & 31;
            // The encoder's own SEI message would hide ours from parsers that keep only the last one.
            if kind == 6 {
                continue;
            }
            if !named && matches!(kind, 1 | 5) {
                named = true;
                out.extend([0, 0, 0, 1]);
                out.extend(identity.to_nal_with(Codec::H264, &extension));
            }
            out.extend([0, 0, 0, 1]);
            out.extend(unit);
        }
        let mut named = gst::Buffer::from_mut_slice(out);
        buffer
            .copy_into(
                named.make_mut(),
                gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META,
                ..,
            )
            .unwrap();
        *buffer = named;
        gst::PadProbeReturn::Ok
    });
}

/// Attaches one region of interest meta to each frame on `pad`, as a detector would.
pub fn detect(pad: &gst::Pad, label: &'static str, rect: (u32, u32, u32, u32), confidence: f64) {
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
            let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), label, rect);
            meta.add_param(
                gst::Structure::builder("detection")
                    .field("confidence", confidence)
                    .build(),
            );
        }
        gst::PadProbeReturn::Ok
    });
}

pub fn stat(element: &gst::Element, field: &str) -> u64 {
    element.property::<gst::Structure>("stats").get(field).unwrap()
}
