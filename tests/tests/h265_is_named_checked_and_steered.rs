// SPDX-License-Identifier: MPL-2.0

//! H.265 by libx265 all the way: each access unit says which frame it is behind RTP and remuxes, the server knows the
//! frames and notices what is missing of them, and its feedback reaches the camera in one process and over RTP.

mod common;

use std::collections::HashMap;
use std::ops::ControlFlow;

use common::*;
use dds_protocol::identity::StreamKind;
use dds_protocol::nal::{Codec, Format};
use gst::prelude::*;

const FRAMES: usize = 45;
const STREAM: u32 = 77;

fn camera(options: &str) -> String {
    format!(
        "videotestsrc num-buffers={FRAMES} pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! ddsencode name=e encoder=x265 speed-preset=superfast stream-id={STREAM} key-int-max=15 {options}"
    )
}

/// Checks the identity of every access unit out of a line that ends in `appsink name=out`.
fn assert_named(line: &str) {
    let pipeline = launch(line);
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    sink.set_property("sync", false);
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut n = 0;
    while let Ok(sample) = sink.pull_sample() {
        let caps = sample.caps().unwrap().structure(0).unwrap();
        let format = match caps.get::<&str>("stream-format").unwrap() {
            "byte-stream" => Format::ByteStream,
            _ => Format::LengthPrefixed(4),
        };
        let map = sample.buffer().unwrap().map_readable().unwrap();
        let summary = Codec::H265.summarize(&map, format);
        let identity = summary
            .identity
            .unwrap_or_else(|| panic!("{n} has no identity: {line}"))
            .unwrap();
        assert_eq!((identity.frame, identity.access_unit), (n as u64, n as u32), "{line}");
        assert_eq!((identity.kind, identity.stream_id), (StreamKind::Single, STREAM));
        assert_eq!(identity.recovery, n % 15 == 0);
        let slices = summary.slices;
        assert_eq!(
            (slices.slices, slices.bytes, slices.checksum, slices.idr),
            (
                identity.slices,
                identity.slice_bytes,
                identity.slice_checksum,
                identity.recovery
            ),
            "{line}"
        );
        n += 1;
    }
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(n, FRAMES, "{line}");
}

#[test]
fn every_access_unit_is_named_behind_rtp_and_remuxes() {
    init();
    for tail in [
        "video/x-h265,stream-format=byte-stream ! appsink name=out",
        "video/x-h265,stream-format=hvc1 ! appsink name=out",
        "rtph265pay mtu=300 ! rtph265depay ! h265parse ! video/x-h265,stream-format=byte-stream,alignment=au ! appsink name=out",
        "rtph265pay config-interval=-1 ! rtph265depay ! video/x-h265,stream-format=hvc1,alignment=au ! appsink name=out",
    ] {
        assert_named(&format!("{} ! {tail}", camera("threads=2")));
    }
    let dir = scratch("h265_remux");
    for (muxer, file, demuxer) in [
        ("mp4mux", "a.mp4", "qtdemux"),
        ("matroskamux", "a.mkv", "matroskademux"),
        ("h265parse ! mpegtsmux", "a.ts", "tsdemux"),
    ] {
        let path = dir.join(file);
        run_to_eos(&launch(&format!(
            "{} ! {muxer} ! filesink location={}",
            camera(""),
            path.display()
        )));
        assert_named(&format!(
            "filesrc location={} ! {demuxer} ! h265parse ! video/x-h265,alignment=au ! appsink name=out",
            path.display()
        ));
    }
}

/// What the server says of each frame, and what it showed, behind a path that loses every `loss`th packet.
struct Seen {
    lost: u32,
    marked: usize,
    key_frames: u32,
}

fn through(format: &str, parser: &str, loss: u32) -> Seen {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    let pipeline = launch(&format!(
        "videotestsrc num-buffers=90 pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! ddsencode name=e encoder=x265 speed-preset=superfast stream-id=5 background-qp=30 fallback-qp=30 \
         ! video/x-h265,stream-format={format} ! tee name=t \
         t. ! queue ! rtph265pay mtu=200 ! identity name=loss ! rtph265depay {parser} ! avdec_h265 max-threads=1 \
           ! ddsinfer name=i ! appsink name=server sync=false i.results ! appsink name=results sync=false \
         t. ! queue ! avdec_h265 max-threads=1 ! appsink name=reference sync=false"
    ));
    let (count, lost) = (AtomicU32::new(1), std::sync::Arc::new(AtomicU32::new(0)));
    let seen = lost.clone();
    let pad = pipeline.by_name("loss").unwrap().static_pad("src").unwrap();
    let packets = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(packets, move |_, info| {
        let drop_one = || {
            let drop = loss > 0 && count.fetch_add(1, Relaxed) % loss == 0;
            seen.fetch_add(drop.into(), Relaxed);
            drop
        };
        match &mut info.data {
            Some(gst::PadProbeData::Buffer(_)) if drop_one() => gst::PadProbeReturn::Drop,
            Some(gst::PadProbeData::BufferList(list)) => {
                list.make_mut()
                    .foreach_mut(|buffer, _| ControlFlow::Continue((!drop_one()).then_some(buffer)));
                gst::PadProbeReturn::Ok
            }
            _ => gst::PadProbeReturn::Ok,
        }
    });
    let key_frames = std::sync::Arc::new(AtomicU32::new(0));
    let keys = key_frames.clone();
    let encoded = pipeline.by_name("e").unwrap().static_pad("src").unwrap();
    encoded.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
            keys.fetch_add((!buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)).into(), Relaxed);
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let buffers = |name: &str| {
        let sink = pipeline.by_name(name).unwrap().downcast::<gst_app::AppSink>().unwrap();
        std::thread::spawn(move || {
            let samples = std::iter::from_fn(|| sink.pull_sample().ok());
            let bytes = samples.map(|sample| {
                let buffer = sample.buffer().unwrap();
                (buffer.pts(), buffer.map_readable().unwrap().to_vec())
            });
            bytes.collect::<Vec<_>>()
        })
    };
    let (server, reference, results) = (buffers("server"), buffers("reference"), buffers("results"));
    let (server, reference, results) = (
        server.join().unwrap(),
        reference.join().unwrap(),
        results.join().unwrap(),
    );
    pipeline.set_state(gst::State::Null).unwrap();
    let reference: HashMap<u64, Vec<u8>> = reference
        .into_iter()
        .enumerate()
        .map(|(n, (_, p))| (n as u64, p))
        .collect();
    assert_eq!(reference.len(), 90);
    assert_eq!(server.len(), results.len());
    let mut marked = 0;
    for ((_, picture), (_, line)) in server.iter().zip(&results) {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        let damaged = line["damaged"].as_bool().unwrap();
        marked += usize::from(damaged);
        if loss == 0 {
            assert!(line["frame"].is_u64(), "{line}");
        }
        let whole = line["frame"]
            .as_u64()
            .is_some_and(|frame| reference.get(&frame) == Some(picture));
        assert!(whole || damaged, "damaged and not marked: {line}");
    }
    if loss == 0 {
        assert_eq!(server.len(), 90);
    }
    Seen {
        lost: lost.load(Relaxed),
        marked,
        key_frames: key_frames.load(Relaxed),
    }
}

#[test]
fn the_server_knows_each_frame_and_marks_all_that_losses_damage() {
    init();
    for (format, parser) in [
        ("byte-stream", ""),
        (
            "byte-stream",
            "! h265parse ! video/x-h265,stream-format=byte-stream,alignment=au",
        ),
        ("hvc1", "! video/x-h265,stream-format=hvc1"),
    ] {
        let whole = through(format, parser, 0);
        assert_eq!(
            (whole.lost, whole.marked, whole.key_frames),
            (0, 0, 1),
            "{format} {parser}"
        );
        for loss in [23, 61] {
            let seen = through(format, parser, loss);
            assert!(seen.lost > 0 && seen.marked > 0, "{format} {parser}");
            assert!(seen.key_frames > 1, "{format} {parser}: no key frame was asked for");
        }
    }
}

/// An object that the server is not sure of, on every frame that passes this element.
fn detect(pipeline: &gst::Pipeline, element: &str) {
    let pad = pipeline.by_name(element).unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
            let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "person", (32, 32, 64, 64));
            let detection = gst::Structure::builder("detection").field("confidence", 0.3f64);
            meta.add_param(detection.field("label_id", 0i32).build());
        }
        gst::PadProbeReturn::Ok
    });
}

fn assert_steered(camera: &gst::Pipeline) {
    let encoder = camera.by_name("e").unwrap();
    let count = |name: &str| encoder.property::<gst::Structure>("stats").get::<u64>(name).unwrap();
    wait_for("the camera to be steered", || {
        count("generations-applied") >= 10 && count("regions-applied") >= 10
    });
    assert_eq!((count("feedback-foreign"), count("feedback-malformed")), (0, 0));
}

#[test]
fn the_loop_closes_in_one_process() {
    init();
    let pipeline = launch(
        "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! ddsencode name=e encoder=x265 speed-preset=ultrafast ! video/x-h265,stream-format=hvc1 ! avdec_h265 max-threads=1 \
         ! identity name=m ! ddsinfer ! fakesink async=false sync=false",
    );
    detect(&pipeline, "m");
    pipeline.set_state(gst::State::Playing).unwrap();
    assert_steered(&pipeline);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn the_loop_closes_over_rtp() {
    init();
    let p = free_ports(3);
    let camera = launch(&format!(
        "rtpbin name=r rtp-profile=avpf videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! ddsencode name=e encoder=x265 speed-preset=ultrafast ! rtph265pay config-interval=-1 ! r.send_rtp_sink_0 \
         r.send_rtp_src_0 ! udpsink host=127.0.0.1 port={} async=false \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0",
        p[0], p[1], p[2]
    ));
    let server = launch(&format!(
        "rtpbin name=r rtp-profile=avpf latency=10 \
         udpsrc address=127.0.0.1 port={} caps=application/x-rtp,media=video,encoding-name=H265,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true \
         ! r.recv_rtp_sink_0 udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0 \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         r. ! rtph265depay ! avdec_h265 max-threads=1 ! identity name=m ! ddsinfer ! fakesink async=false sync=false",
        p[0], p[1], p[2]
    ));
    detect(&server, "m");
    server.set_state(gst::State::Playing).unwrap();
    camera.set_state(gst::State::Playing).unwrap();
    assert_steered(&camera);
    camera.set_state(gst::State::Null).unwrap();
    server.set_state(gst::State::Null).unwrap();
}
