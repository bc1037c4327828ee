// SPDX-License-Identifier: MPL-2.0

//! Every access unit still says which frame it is, and still has the slices it says it has, behind RTP and behind
//! somebody else's remux to MP4, Matroska and MPEG-TS.

mod common;

use std::path::Path;
use std::process::Command;

use common::*;
use dds_protocol::identity::{FrameIdentity, StreamKind};
use dds_protocol::nal::{Codec, Format};
use gst::prelude::*;

const FRAMES: usize = 45;
const STREAM: u32 = 77;

fn encoder(options: &str) -> String {
    format!(
        "videotestsrc num-buffers={FRAMES} pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! ddsencode stream-id={STREAM} key-int-max=15 {options}"
    )
}

/// Runs a line that ends in `appsink name=out` and checks the identity of every access unit that comes out.
fn identities(line: &str) -> Vec<FrameIdentity> {
    let pipeline = launch(line);
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    sink.set_property("sync", false);
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut found = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        let caps = sample.caps().unwrap().structure(0).unwrap();
        let format = match caps.get::<&str>("stream-format").unwrap() {
            "byte-stream" => Format::ByteStream,
            "avc" => Format::LengthPrefixed(4),
            other => panic!("stream-format {other}"),
        };
        let map = sample.buffer().unwrap().map_readable().unwrap();
        let summary = Codec::H264.summarize(&map, format);
        let identity = summary
            .identity
            .unwrap_or_else(|| panic!("access unit {} has no identity in: {line}", found.len()))
            .unwrap();
        assert_eq!(
            (
                summary.slices.slices,
                summary.slices.bytes,
                summary.slices.checksum,
                summary.slices.idr
            ),
            (
                identity.slices,
                identity.slice_bytes,
                identity.slice_checksum,
                identity.recovery
            ),
            "slices there and slices promised in: {line}"
        );
        found.push(identity);
    }
    pipeline.set_state(gst::State::Null).unwrap();
    found
}

fn assert_complete(found: &[FrameIdentity], what: &str) {
    assert_eq!(found.len(), FRAMES, "{what}");
    for (n, identity) in found.iter().enumerate() {
        assert_eq!((identity.frame, identity.access_unit), (n as u64, n as u32), "{what}");
        assert_eq!(
            (identity.kind, identity.stream_id),
            (StreamKind::Single, STREAM),
            "{what}"
        );
        assert_eq!(identity.recovery, n % 15 == 0, "{what}: frame {n}");
    }
}

#[test]
fn out_of_the_encoder_and_through_rtp() {
    init();
    for options in [
        "",
        "threads=4 sliced-threads=true",
        "aud=true",
        "option-string=slice-max-size=400",
    ] {
        let encoder = encoder(options);
        for tail in [
            "appsink name=out",
            "video/x-h264,stream-format=avc ! appsink name=out",
            "rtph264pay mtu=300 ! rtph264depay ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=out",
            "rtph264pay ! rtph264depay ! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=out",
            "rtph264pay config-interval=-1 ! rtph264depay ! video/x-h264,stream-format=avc,alignment=au ! h264parse ! appsink name=out",
        ] {
            let line = format!("{encoder} ! {tail}");
            assert_complete(&identities(&line), &line);
        }
    }
}

#[test]
fn through_other_peoples_remuxes() {
    init();
    let dir = scratch("remux");
    for (muxer, file, demuxer) in [
        ("mp4mux", "a.mp4", "qtdemux"),
        ("matroskamux", "a.mkv", "matroskademux"),
        ("h264parse ! mpegtsmux", "a.ts", "tsdemux"),
    ] {
        let path = dir.join(file);
        run_to_eos(&launch(&format!(
            "{} ! h264parse ! {muxer} ! filesink location={}",
            encoder(""),
            path.display()
        )));
        let found = identities(&format!(
            "filesrc location={} ! {demuxer} ! h264parse ! video/x-h264,alignment=au ! appsink name=out",
            path.display()
        ));
        assert_complete(&found, file);

        // The same recording, copied on by FFmpeg.
        let copy = dir.join(format!("{muxer_name}_copy.mp4", muxer_name = file.replace('.', "_")));
        ffmpeg_copy(&path, &copy);
        let found = identities(&format!(
            "filesrc location={} ! qtdemux ! h264parse ! appsink name=out",
            copy.display()
        ));
        assert_complete(&found, &copy.display().to_string());
    }
}

fn ffmpeg_copy(from: &Path, to: &Path) {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(from)
        .args(["-c", "copy", "-y"])
        .arg(to)
        .output()
        .expect("ffmpeg is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn plain_decoders_read_the_stream_without_a_complaint() {
    init();
    let dir = scratch("plain_decoders");
    let raw = dir.join("a.h264");
    run_to_eos(&launch(&format!(
        "{} ! filesink location={}",
        encoder("threads=2"),
        raw.display()
    )));
    assert_eq!(ffmpeg_complaints(&raw), "");
    // No parser between encoder and decoder.
    let pipeline = launch(&format!(
        "{} ! avdec_h264 ! appsink name=out sync=false",
        encoder("threads=2")
    ));
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let decoded = std::iter::from_fn(|| sink.pull_sample().ok()).count();
    assert_eq!(decoded, FRAMES);
    pipeline.set_state(gst::State::Null).unwrap();
}
