// SPDX-License-Identifier: MPL-2.0

//! Packets are lost between camera and server. What the server decodes is compared, pixel by pixel, with the sender's own
//! reconstruction: a frame that differs must be marked as damaged, must not drive feedback, and must be followed by a
//! request for a key frame.

mod common;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;

/// Small deterministic generator (splitmix64).
struct Random(u64);

impl Random {
    fn chance(&mut self, percent: u64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 100 < percent
    }
}

#[derive(Debug, Default)]
struct Outcome {
    frames: usize,
    damaged: usize,
    marked: usize,
    key_frames: usize,
    lost: usize,
}

fn run(loss: u64, encoder_options: &str, parser: &str, seed: u64) -> Outcome {
    // A slice is some packets long (small MTU), so both whole and partial slices get lost.
    let pipeline = launch(&format!(
        "videotestsrc num-buffers=150 pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! ddsencode name=e stream-id=5 background-qp=30 fallback-qp=30 {encoder_options} ! tee name=t \
         t. ! queue ! rtph264pay mtu=200 ! identity name=loss ! rtph264depay {parser} ! avdec_h264 max-threads=1 \
           ! ddsinfer name=i ! appsink name=server sync=false i.results ! appsink name=results sync=false \
         t. ! queue ! avdec_h264 max-threads=1 ! appsink name=reference sync=false"
    ));
    let random = Mutex::new(Random(seed));
    let lost = Arc::new(Mutex::new(0));
    let count = lost.clone();
    let pad = pipeline.by_name("loss").unwrap().static_pad("src").unwrap();
    pad.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
        move |_, info| {
            let drop_one = || {
                let lost = random.lock().unwrap().chance(loss);
                *count.lock().unwrap() += usize::from(lost);
                lost
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
        },
    );

    let sink = |name: &str| pipeline.by_name(name).unwrap().downcast::<gst_app::AppSink>().unwrap();
    let key_frames = Arc::new(Mutex::new(0));
    let keys = key_frames.clone();
    let encoded = pipeline.by_name("e").unwrap().static_pad("src").unwrap();
    encoded.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(gst::PadProbeData::Buffer(buffer)) = &info.data else {
            unreachable!()
        };
        *keys.lock().unwrap() += usize::from(!buffer.flags().contains(gst::BufferFlags::DELTA_UNIT));
        gst::PadProbeReturn::Ok
    });
    // An application sink gives samples only once it is started.
    pipeline.set_state(gst::State::Playing).unwrap();
    let pictures = |name: &'static str| {
        let sink = sink(name);
        std::thread::spawn(move || {
            let mut pictures = Vec::new();
            while let Ok(sample) = sink.pull_sample() {
                let buffer = sample.buffer().unwrap();
                pictures.push((
                    buffer.pts().unwrap().nseconds(),
                    buffer.map_readable().unwrap().to_vec(),
                ));
            }
            pictures
        })
    };
    let (server, reference) = (pictures("server"), pictures("reference"));
    let results = sink("results");
    let lines = std::thread::spawn(move || {
        let mut lines = Vec::new();
        while let Ok(sample) = results.pull_sample() {
            let map = sample.buffer().unwrap().map_readable().unwrap();
            let line: serde_json::Value = serde_json::from_slice(&map).unwrap();
            lines.push(line);
        }
        lines
    });
    let (server, reference, lines) = (server.join().unwrap(), reference.join().unwrap(), lines.join().unwrap());
    pipeline.set_state(gst::State::Null).unwrap();
    let reference: HashMap<u64, Vec<u8>> = reference.into_iter().map(|(pts, p)| (frame_at(pts), p)).collect();

    let mut outcome = Outcome {
        lost: *lost.lock().unwrap(),
        key_frames: *key_frames.lock().unwrap(),
        ..Default::default()
    };
    // One line for each frame, in order: times alone do not tell them apart after a loss.
    assert_eq!(server.len(), lines.len());
    for ((pts, picture), line) in server.iter().zip(&lines) {
        assert_eq!(line["pts_ns"].as_u64(), Some(*pts));
        let marked = line["damaged"].as_bool().unwrap();
        // By its number where it has one: a depayloader that lost the end of an access unit may give it the time of the
        // next, whole and late.
        let frame = line["frame"].as_u64().unwrap_or_else(|| frame_at(*pts));
        let differs = reference.get(&frame).is_none_or(|r| r != picture);
        outcome.frames += 1;
        outcome.damaged += usize::from(differs);
        outcome.marked += usize::from(marked);
        assert!(
            !differs || marked,
            "the frame at {pts} ns is damaged and not marked: {line}"
        );
        assert!(
            !marked || line["generation"].is_null(),
            "a damaged frame drove feedback: {line}"
        );
    }
    outcome
}

/// Number of the frame captured at this time, at 30 frames per second.
fn frame_at(pts: u64) -> u64 {
    (pts * 30 + 500_000_000) / 1_000_000_000
}

#[test]
fn a_lossless_path_marks_nothing() {
    init();
    for parser in ["", "! h264parse"] {
        let outcome = run(0, "", parser, 1);
        assert_eq!(
            (outcome.frames, outcome.damaged, outcome.marked),
            (150, 0, 0),
            "{outcome:?}"
        );
    }
}

#[test]
fn every_damaged_frame_is_marked_at_1_5_and_10_percent_loss() {
    init();
    for (percent, seeds) in [(1, 3), (5, 2), (10, 2)] {
        for options in ["threads=1", "threads=4 sliced-threads=true"] {
            for parser in ["", "! h264parse"] {
                for seed in 0..seeds {
                    let outcome = run(percent, options, parser, 1000 * percent + seed);
                    println!("{percent} % {options} {parser} seed {seed}: {outcome:?}");
                    assert!(outcome.lost > 0, "{outcome:?}");
                    // Recovery works: key frames were asked for and got.
                    if outcome.damaged > 0 {
                        assert!(outcome.key_frames > 1, "{outcome:?}");
                    }
                    // Marking everything would be no art.
                    if percent == 1 {
                        assert!(outcome.marked < outcome.frames * 9 / 10, "{outcome:?}");
                    }
                }
            }
        }
    }
}

/// Key frames come without their identities, as some remuxers and relays leave them, by RTP, and the first packet of the
/// frames in `lost` does not come. Gives whether each frame is marked.
fn nameless_key_frames(source: &str, lost: &'static [usize], depayloader: &str) -> Vec<bool> {
    let pipeline = launch(&format!(
        "videotestsrc num-buffers=45 pattern=ball {source} ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! ddsencode name=e key-int-max=15 stream-id=5 ! video/x-h264,stream-format=byte-stream ! rtph264pay mtu=200 \
         ! identity name=loss ! {depayloader} ! avdec_h264 max-threads=1 ! ddsinfer name=i ! fakesink \
         i.results ! fakesink name=out"
    ));
    // Key frames that are asked for would end the damage early.
    pipeline.by_name("e").unwrap().static_pad("src").unwrap().add_probe(
        gst::PadProbeType::EVENT_UPSTREAM,
        |_, info| {
            if info.event().unwrap().type_() == gst::EventType::CustomUpstream {
                info.data = None;
                return gst::PadProbeReturn::Handled;
            }
            gst::PadProbeReturn::Ok
        },
    );
    let encoded = pipeline.by_name("e").unwrap().static_pad("src").unwrap();
    encoded.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data
            && !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)
        {
            let data = buffer.map_readable().unwrap().to_vec();
            let rest: Vec<u8> = dds_protocol::nal::nal_units(&data, dds_protocol::nal::Format::ByteStream)
                .filter(|nal| nal[0] & 0x1f != 6)
                .flat_map(|nal| [&[0, 0, 0, 1], nal].concat())
                .collect();
            let mut changed = gst::Buffer::from_mut_slice(rest);
            buffer
                .copy_into(
                    changed.make_mut(),
                    gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS,
                    ..,
                )
                .unwrap();
            *buffer = changed;
        }
        gst::PadProbeReturn::Ok
    });
    let newest = Mutex::new(None);
    pipeline.by_name("loss").unwrap().static_pad("src").unwrap().add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
        move |_, info| {
            let mut newest = newest.lock().unwrap();
            let mut is_lost = |buffer: &gst::BufferRef| {
                let frame = frame_at(buffer.pts().unwrap().nseconds()) as usize;
                newest.replace(frame) != Some(frame) && lost.contains(&frame)
            };
            match &mut info.data {
                Some(gst::PadProbeData::Buffer(buffer)) if is_lost(buffer) => gst::PadProbeReturn::Drop,
                Some(gst::PadProbeData::BufferList(list)) => {
                    list.make_mut()
                        .foreach_mut(|buffer, _| ControlFlow::Continue((!is_lost(&buffer)).then_some(buffer)));
                    gst::PadProbeReturn::Ok
                }
                _ => gst::PadProbeReturn::Ok,
            }
        },
    );
    let marks = Arc::new(Mutex::new(Vec::new()));
    let seen = marks.clone();
    let out = pipeline.by_name("out").unwrap().static_pad("sink").unwrap();
    out.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let map = info.buffer().unwrap().map_readable().unwrap();
        let line: serde_json::Value = serde_json::from_slice(&map).unwrap();
        seen.lock().unwrap().push(line["damaged"].as_bool().unwrap());
        gst::PadProbeReturn::Ok
    });
    run_to_eos(&pipeline);
    std::mem::take(&mut *marks.lock().unwrap())
}

#[test]
fn a_key_frame_without_identity_is_whole_only_where_none_of_its_packets_is_missing() {
    init();
    for depayloader in ["rtph264depay", "rtph264depay ! h264parse ! queue"] {
        let marked = |source: &str, lost| -> Vec<usize> {
            let marks = nameless_key_frames(source, lost, depayloader);
            assert_eq!(marks.len(), 45, "{depayloader} {source} {lost:?}");
            (0..marks.len()).filter(|n| marks[*n]).collect()
        };
        assert_eq!(marked("", &[]), Vec::<usize>::new(), "{depayloader}");
        assert_eq!(marked("", &[15]), (15..30).collect::<Vec<_>>(), "{depayloader}");
        assert_eq!(marked("", &[30]), (30..45).collect::<Vec<_>>(), "{depayloader}");
        // Nothing is known of the stream when its first frame comes.
        assert_eq!(marked("", &[0]), (1..15).collect::<Vec<_>>(), "{depayloader}");
        // Who joins a live stream does not know what was sent before.
        assert_eq!(
            marked("is-live=true", &[]),
            (1..15).collect::<Vec<_>>(),
            "{depayloader}"
        );
    }
}
