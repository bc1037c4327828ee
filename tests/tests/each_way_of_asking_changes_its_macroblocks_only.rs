// SPDX-License-Identifier: MPL-2.0

//! The four ways a region reaches the encoder - feedback pad, RTCP, event in one process, meta on the buffer - each
//! change exactly the macroblocks asked for, by exactly the quantizer asked for, as FFmpeg's decoder reads it back.

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;

const STREAM: u32 = 0xd0d5_0001;
const COLUMNS: usize = 20;
const ROWS: usize = 15;
/// Noise, so that every macroblock of every picture carries residual and so a quantizer of its own. It takes more bits than
/// feedback may ask for by itself.
const SOURCE: &str =
    "videotestsrc pattern=snow name=v num-buffers=40 ! video/x-raw,format=I420,width=320,height=240,framerate=30/1";

/// Macroblocks of the asked region: pixels (64, 48) to (160, 144).
fn inside(column: usize, row: usize) -> bool {
    (4..10).contains(&column) && (3..9).contains(&row)
}

/// Every macroblock of every picture has the first quantizer inside the region and the second outside.
fn assert_exact(picture: &QpPicture, region: u8, outside: u8, what: &str) {
    assert_eq!(
        (picture.columns, picture.qps.len()),
        (COLUMNS, COLUMNS * ROWS),
        "{what}"
    );
    for row in 0..ROWS {
        for column in 0..COLUMNS {
            let wanted = if inside(column, row) { region } else { outside };
            assert_eq!(picture.at(column, row), wanted, "{what}: macroblock ({column}, {row})");
        }
    }
}

fn encoded(name: &str) -> PathBuf {
    scratch(&format!("{name}_{}", fake_nvenc::encoder())).join("out.h264")
}

/// All pictures are uniform up to some picture, then exact to the end. Returns how many are exact.
fn assert_uniform_then_exact(pictures: &[QpPicture], uniform: u8, region: u8, outside: u8) -> usize {
    let first = pictures.iter().position(|p| p.at(5, 5) == region).unwrap_or_else(|| {
        let seen: Vec<_> = pictures.iter().map(|p| (p.at(5, 5), p.at(0, 0))).collect();
        panic!("no picture shows the region; quantizers inside and outside: {seen:?}")
    });
    for (n, picture) in pictures[..first].iter().enumerate() {
        assert!(
            picture.qps.iter().all(|&q| q == uniform || q == outside)
                && picture.qps.iter().all(|&q| q == picture.qps[0]),
            "picture {n} before the region is not uniform"
        );
    }
    for (n, picture) in pictures[first..].iter().enumerate() {
        assert_exact(picture, region, outside, &format!("picture {}", first + n));
    }
    pictures.len() - first
}

#[test]
fn feedback_pad() {
    init();
    let encoder = fake_nvenc::encoder();
    let file = encoded("way_pad");
    let pipeline = launch(&format!(
        "{SOURCE} ! identity name=i ! ddsencode name=e encoder={encoder} stream-id={STREAM} background-qp=38 region-qp=24 fallback-qp=32 max-feedback-bitrate=0 threads=1 ! video/x-h264,stream-format=byte-stream \
         ! filesink location={} appsrc name=f format=time ! e.feedback",
        file.display()
    ));
    let source = pipeline.by_name("f").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let push = source.clone();
    let frames = AtomicU32::new(0);
    // Feedback arrives between frames 9 and 10: the identity hands over frame 10 only when it has been taken.
    pipeline
        .by_name("i")
        .unwrap()
        .static_pad("src")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            if frames.fetch_add(1, Ordering::SeqCst) == 10 {
                for packet in packets(STREAM, 7, 3, vec![region(64, 48, 96, 96)]) {
                    push.push_buffer(gst::Buffer::from_slice(packet)).unwrap();
                }
                push.end_of_stream().unwrap();
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
            gst::PadProbeReturn::Ok
        });
    run_to_eos(&pipeline);
    let pictures = quantizers(&file);
    assert_eq!(pictures.len(), 40);
    let exact = assert_uniform_then_exact(&pictures, 32, 24, 38);
    assert!(exact >= 30, "only {exact} pictures with the region");
}

#[test]
fn event_in_one_process() {
    init();
    let encoder = fake_nvenc::encoder();
    let file = encoded("way_event");
    let pipeline = launch(&format!(
        "{SOURCE} ! ddsencode name=e encoder={encoder} stream-id={STREAM} background-qp=38 region-qp=24 fallback-qp=32 max-feedback-bitrate=0 threads=1 ! video/x-h264,stream-format=byte-stream \
         ! tee name=t ! queue max-size-buffers=1 ! filesink location={} t. ! queue max-size-buffers=1 ! h264parse ! avdec_h264 max-threads=1 ! videoconvert ! fakesink name=s sync=false",
        file.display()
    ));
    let sink = pipeline.by_name("s").unwrap().static_pad("sink").unwrap();
    let taken = Arc::new(Mutex::new(None));
    let seen = taken.clone();
    sink.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
        let mut seen = seen.lock().unwrap();
        if seen.is_none() {
            let packet = &packets(STREAM, 1, 0, vec![region(64, 48, 96, 96)])[0];
            *seen = Some(pad.push_event(gst_dds_link::event::feedback(packet)));
        }
        gst::PadProbeReturn::Ok
    });
    run_to_eos(&pipeline);
    assert_eq!(
        *taken.lock().unwrap(),
        Some(true),
        "a camera in the process takes the event and says so"
    );
    let exact = assert_uniform_then_exact(&quantizers(&file), 32, 24, 38);
    assert!(exact >= 5, "only {exact} pictures with the region");
}

#[test]
fn meta_on_the_buffer() {
    init();
    let encoder = fake_nvenc::encoder();
    let file = encoded("way_meta");
    let pipeline = launch(&format!(
        "{SOURCE} ! identity name=i ! ddsencode encoder={encoder} stream-id={STREAM} background-qp=32 fallback-qp=32 threads=1 ! filesink location={}",
        file.display()
    ));
    let frames = AtomicU32::new(0);
    pipeline
        .by_name("i")
        .unwrap()
        .static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data else {
                unreachable!()
            };
            // The very first picture, an IDR picture, too.
            if frames.fetch_add(1, Ordering::SeqCst) < 20 {
                let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "thing", (64, 48, 96, 96));
                meta.add_param(
                    gst::Structure::builder("roi/ddsencode")
                        .field("delta-qp", -8i32)
                        .build(),
                );
            }
            gst::PadProbeReturn::Ok
        });
    run_to_eos(&pipeline);
    let pictures = quantizers(&file);
    assert!(pictures[0].intra);
    for (n, picture) in pictures.iter().enumerate() {
        let wanted = if n < 20 { 24 } else { 32 };
        assert_exact(picture, wanted, 32, &format!("picture {n}"));
    }
}

#[test]
fn rtcp_on_the_session_of_its_own_stream() {
    init();
    let encoder = fake_nvenc::encoder();
    let file = encoded("way_rtcp");
    let p = free_ports(3);
    let camera = launch(&format!(
        "rtpbin name=r videotestsrc name=v pattern=snow is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! ddsencode name=e encoder={encoder} stream-id={STREAM} background-qp=38 region-qp=24 fallback-qp=32 max-feedback-bitrate=0 threads=1 ! video/x-h264,stream-format=byte-stream \
         ! tee name=t ! queue ! filesink name=file async=false location={} t. ! queue ! rtph264pay ! r.send_rtp_sink_0 \
         r.send_rtp_src_0 ! udpsink host=127.0.0.1 port={} async=false \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0",
        file.display(),
        p[0],
        p[1],
        p[2]
    ));
    let server = launch(&format!(
        "rtpbin name=r latency=10 \
         udpsrc address=127.0.0.1 port={} caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96 \
         ! r.recv_rtp_sink_0 udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0 \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         r. ! rtph264depay ! avdec_h264 ! fakesink name=s async=false",
        p[0], p[1], p[2]
    ));
    server.set_state(gst::State::Playing).unwrap();
    camera.set_state(gst::State::Playing).unwrap();
    let encoder = camera.by_name("e").unwrap();
    let sink = server.by_name("s").unwrap().static_pad("sink").unwrap();
    let mut channel = gst_dds_link::session::ServerChannel::default();
    wait_for("the RTP session", || channel.refresh(&sink));
    let mut generation = 0;
    wait_for("feedback to arrive", || {
        generation += 1;
        channel.send(packets(STREAM, generation, 0, vec![region(64, 48, 96, 96)]));
        std::thread::sleep(std::time::Duration::from_millis(30));
        let stats = encoder.property::<gst::Structure>("stats");
        stats.get::<u64>("feedback-packets-rtcp").unwrap() >= 15
    });
    // The recording ends cleanly; the network side has no end of its own.
    let recorded = camera.by_name("file").unwrap().static_pad("sink").unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    recorded.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if matches!(&info.data, Some(gst::PadProbeData::Event(e)) if e.type_() == gst::EventType::Eos) {
            let _ = ended.send(());
        }
        gst::PadProbeReturn::Ok
    });
    camera.by_name("v").unwrap().send_event(gst::event::Eos::new());
    end.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    camera.set_state(gst::State::Null).unwrap();
    server.set_state(gst::State::Null).unwrap();
    let exact = assert_uniform_then_exact(&quantizers(&file), 32, 24, 38);
    assert!(exact >= 5, "only {exact} pictures with the region");
}

#[test]
fn each_way_does_so_with_nvenc_too() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ways_with_nvenc");
    let ways = [
        "feedback_pad",
        "event_in_one_process",
        "meta_on_the_buffer",
        "rtcp_on_the_session_of_its_own_stream",
    ];
    fake_nvenc::again(&folder, &ways, &fake_nvenc::NAMES, "");
}
