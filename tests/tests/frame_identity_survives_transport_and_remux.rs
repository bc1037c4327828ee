// SPDX-License-Identifier: MPL-2.0

//! Every access unit still says which frame it is, and still has the slices it says it has, behind RTP and behind
//! somebody else's remux to MP4, Matroska and MPEG-TS.

mod common;

use std::path::Path;
use std::process::Command;

use common::*;
use dds_protocol::identity::{FrameIdentity, StreamKind};
use dds_protocol::nal::{Codec, Format, NalKind, nal_units};
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

/// The number, where it is known, and the damage of each frame that a server sees of `line`, which ends decoded.
fn served(line: &str) -> Vec<(Option<u64>, bool)> {
    let pipeline = launch(&format!(
        "{line} ! ddsinfer name=i ! fakesink i.results ! appsink name=results sync=false"
    ));
    let sink = pipeline
        .by_name("results")
        .unwrap()
        .downcast::<gst_app::AppSink>()
        .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let frames = std::iter::from_fn(|| sink.pull_sample().ok())
        .map(|sample| {
            let map = sample.buffer().unwrap().map_readable().unwrap();
            let line: serde_json::Value = serde_json::from_slice(&map).unwrap();
            (line["frame"].as_u64(), line["damaged"].as_bool().unwrap())
        })
        .collect();
    pipeline.set_state(gst::State::Null).unwrap();
    frames
}

fn ffmpeg(dir: &Path, arguments: &str) {
    let output = Command::new("ffmpeg")
        .current_dir(dir)
        .args(["-nostdin", "-v", "error", "-y"])
        .args(arguments.split_whitespace())
        .output()
        .expect("ffmpeg is installed");
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Access units as lists of NAL units.
fn access_units(codec: Codec, stream: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let is_slice = |nal: &Vec<u8>| matches!(codec.kind(codec.nal_type(nal).unwrap()), NalKind::Slice { .. });
    let mut units: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    for nal in nal_units(stream, Format::ByteStream) {
        let here = units.last_mut().unwrap();
        if !here.is_empty() && codec.begins_access_unit(nal, here.iter().any(is_slice)) {
            units.push(Vec::new());
        }
        units.last_mut().unwrap().push(nal.to_vec());
    }
    units
}

/// Where the identity lies in an access unit.
fn message(codec: Codec, unit: &[Vec<u8>]) -> usize {
    unit.iter()
        .position(|nal| !codec.identities_of(nal).is_empty())
        .unwrap()
}

fn write(path: &Path, units: &[Vec<Vec<u8>>]) {
    let bytes: Vec<u8> = units
        .iter()
        .flatten()
        .flat_map(|nal| [&[0, 0, 0, 1], nal.as_slice()].concat())
        .collect();
    std::fs::write(path, bytes).unwrap();
}

/// Frames are whole and in order from `first` on, those that have a name have their own, and most have.
fn assert_whole(frames: &[(Option<u64>, bool)], first: u64, what: &str) {
    assert_eq!(frames.len() as u64, FRAMES as u64 - first, "{what}: {frames:?}");
    for (n, (frame, damaged)) in (first..).zip(frames) {
        assert!(
            frame.is_none_or(|f| f == n) && !damaged,
            "{what}, frame {n}: {frames:?}"
        );
    }
    let named = frames.iter().filter(|(frame, _)| frame.is_some()).count();
    assert!(2 * named > frames.len(), "{what}: {frames:?}");
}

/// A parser drops the messages in front of the first parameter sets, AVI and raw files have no presentation times, and
/// copies begin in the middle: of a file, from which nothing is lost, every frame is whole.
#[test]
fn no_frame_of_a_remuxed_recording_is_damaged() {
    init();
    for (codec, parser, raw) in [("x264", "h264parse", "h264"), ("x265", "h265parse", "h265")] {
        let dir = scratch(&format!("remuxed_{codec}"));
        let at = |file: &str| dir.join(file).display().to_string();
        run_to_eos(&launch(&format!(
            "{} ! {parser} ! mp4mux ! filesink location={}",
            encoder(&format!("encoder={codec}")),
            at("d.mp4")
        )));
        ffmpeg(&dir, "-i d.mp4 -c copy d.ts");
        for (arguments, file, first) in [
            ("", "d.mp4", 0),
            ("", "d.ts", 0),
            ("-i d.mp4 -c copy copy.mkv", "copy.mkv", 0),
            ("-i d.mp4 -c copy copy.mov", "copy.mov", 0),
            ("-i d.mp4 -c copy copy.avi", "copy.avi", 0),
            (
                "-i d.mp4 -c copy -movflags frag_keyframe+empty_moov fragmented.mp4",
                "fragmented.mp4",
                0,
            ),
            ("-i d.ts -c copy back.mp4", "back.mp4", 0),
            ("-i d.ts -c copy back.mkv", "back.mkv", 0),
            ("-ss 0.7 -i d.mp4 -c copy cut.ts", "cut.ts", 15),
            (
                "-i d.mp4 -c copy -f hls -hls_time 0.4 -hls_list_size 0 list.m3u8",
                "list.m3u8",
                0,
            ),
            (&format!("-i d.mp4 -c copy raw.{raw}"), &format!("raw.{raw}"), 0),
            (&format!("-i raw.{raw} -c copy again.ts"), "again.ts", 0),
            (&format!("-i d.ts -c copy raw2.{raw}"), &format!("raw2.{raw}"), 0),
        ] {
            if !arguments.is_empty() {
                ffmpeg(&dir, arguments);
            }
            let frames = served(&format!("filesrc location={} ! decodebin", at(file)));
            assert_whole(&frames, first, &format!("{codec}, {file}"));
        }
        if codec == "x264" {
            ffmpeg(&dir, "-i d.mp4 -c copy copy.flv");
            assert_whole(
                &served(&format!("filesrc location={} ! decodebin", at("copy.flv"))),
                0,
                "FLV",
            );
        }
        for line in [
            format!("filesrc location={} ! {parser} ! decodebin", at(&format!("raw.{raw}"))),
            format!("filesrc location={} ! tsdemux ! {parser} ! avdec_{raw}", at("d.ts")),
        ] {
            assert_whole(&served(&line), 0, &line);
        }

        // All messages dropped: not a stream of ours any more.
        let sei = if codec == "x264" { "6" } else { "39|40" };
        ffmpeg(
            &dir,
            &format!("-i d.mp4 -c copy -bsf:v filter_units=remove_types={sei} plain.mkv"),
        );
        let frames = served(&format!("filesrc location={} ! decodebin", at("plain.mkv")));
        assert_eq!(frames, [(None, false); FRAMES], "{codec}");

        // The same recording twice.
        std::fs::write(dir.join("two.txt"), "file d.ts\nfile d.ts\n").unwrap();
        ffmpeg(&dir, "-f concat -i two.txt -c copy two.ts");
        let frames = served(&format!("filesrc location={} ! decodebin", at("two.ts")));
        assert_eq!(frames.len(), 2 * FRAMES, "{codec}");
        assert!(frames.iter().all(|(_, damaged)| !damaged), "{codec}: {frames:?}");
    }
}

#[test]
fn messages_that_somebody_dropped_moved_or_doubled_damage_no_frame() {
    init();
    let dir = scratch("edited");
    let at = |file: &str| dir.join(file).display().to_string();
    run_to_eos(&launch(&format!(
        "{} ! h264parse ! mp4mux ! filesink location={}",
        encoder("threads=2 sliced-threads=true"),
        at("d.mp4")
    )));
    ffmpeg(&dir, "-i d.mp4 -c copy -f h264 d.h264");
    let units = access_units(Codec::H264, &std::fs::read(dir.join("d.h264")).unwrap());
    assert_eq!(units.len(), FRAMES);
    let message = |unit: &[Vec<u8>]| message(Codec::H264, unit);
    let first_slice = |unit: &[Vec<u8>]| unit.iter().position(|nal| matches!(nal[0] & 0x1f, 1 | 5)).unwrap();
    type Edit<'a> = &'a dyn Fn(usize, &mut Vec<Vec<u8>>);
    let edits: [(&str, Edit<'_>); 8] = [
        ("as it was", &|_, _| ()),
        ("dropped but for the last twelve", &|n, unit| {
            if n < FRAMES - 12 {
                unit.remove(message(unit));
            }
        }),
        ("dropped from key frames", &|n, unit| {
            if n.is_multiple_of(15) {
                unit.remove(message(unit));
            }
        }),
        ("dropped here and there", &|n, unit| {
            if n % 4 == 3 {
                unit.remove(message(unit));
            }
        }),
        ("behind the slices", &|_, unit| {
            let own = unit.remove(message(unit));
            unit.push(own);
        }),
        ("doubled", &|_, unit| {
            let own = unit[message(unit)].clone();
            unit.insert(first_slice(unit), own);
        }),
        ("of the access unit before beside its own", &|n, unit| {
            if n > 0 {
                let before = units[n - 1][message(&units[n - 1])].clone();
                unit.insert(message(unit), before);
            }
        }),
        ("one access unit late", &|n, unit| {
            let at = message(unit);
            unit.remove(at);
            if n > 0 {
                unit.insert(at, units[n - 1][message(&units[n - 1])].clone());
            }
        }),
    ];
    for (what, edit) in edits {
        let mut edited = units.clone();
        edited.iter_mut().enumerate().for_each(|(n, unit)| edit(n, unit));
        write(&dir.join("edited.h264"), &edited);
        ffmpeg(&dir, "-f h264 -framerate 30 -i edited.h264 -c copy edited.ts");
        for file in ["edited.h264", "edited.ts"] {
            let frames = served(&format!("filesrc location={} ! decodebin", at(file)));
            assert_eq!(frames.len(), FRAMES, "{what}, {file}: {frames:?}");
            assert!(frames.iter().all(|(_, damaged)| !damaged), "{what}, {file}: {frames:?}");
            assert!(
                (0..).zip(&frames).all(|(n, (frame, _))| frame.is_none_or(|f| f == n)),
                "{what}, {file}: {frames:?}"
            );
        }

        // What is missing beside that is still told.
        if [
            "behind the slices",
            "one access unit late",
            "dropped but for the last twelve",
        ]
        .contains(&what)
        {
            continue;
        }
        let mut cut = edited.clone();
        let at_20 = first_slice(&cut[20]);
        cut[20].remove(at_20);
        write(&dir.join("cut.h264"), &cut);
        let frames = served(&format!("filesrc location={} ! decodebin", at("cut.h264")));
        let marked =
            |frames: &[(Option<u64>, bool)]| -> Vec<usize> { (0..frames.len()).filter(|n| frames[*n].1).collect() };
        assert_eq!(marked(&frames), (20..30).collect::<Vec<_>>(), "{what}, slice of 20");
        let mut gap = edited;
        gap.remove(20);
        write(&dir.join("gap.h264"), &gap);
        let frames = served(&format!("filesrc location={} ! decodebin", at("gap.h264")));
        assert_eq!(marked(&frames), (20..29).collect::<Vec<_>>(), "{what}, access unit 20");
    }
}

/// Behind a key frame without identity no counter tells what is missing; the pictures themselves do.
#[test]
fn what_is_missing_beside_a_key_frame_without_identity_is_told_by_the_pictures() {
    init();
    for (name, codec, parser, raw) in [
        ("x264", Codec::H264, "h264parse", "h264"),
        ("x265", Codec::H265, "h265parse", "h265"),
    ] {
        let dir = scratch(&format!("beside_{name}"));
        let at = |file: &str| dir.join(file).display().to_string();
        run_to_eos(&launch(&format!(
            "{} ! {parser} ! video/x-{raw},stream-format=byte-stream,alignment=au ! filesink location={}",
            encoder(&format!("encoder={name}")),
            at("d.raw")
        )));
        let mut units = access_units(codec, &std::fs::read(dir.join("d.raw")).unwrap());
        assert_eq!(units.len(), FRAMES, "{name}");
        for n in [0, 15, 30] {
            let at = message(codec, &units[n]);
            units[n].remove(at);
        }
        let marked = |units: &[Vec<Vec<u8>>], what: &str| -> Vec<usize> {
            write(&dir.join(format!("e.{raw}")), units);
            // By the file, and by one whose parameter sets lie beside the stream.
            ffmpeg(&dir, &format!("-framerate 30 -i e.{raw} -c copy e.mkv"));
            let [file, beside] = [format!("e.{raw}"), "e.mkv".into()].map(|file| {
                let frames = served(&format!("filesrc location={} ! decodebin", at(&file)));
                assert_eq!(frames.len(), units.len(), "{name}, {what}, {file}: {frames:?}");
                (0..frames.len()).filter(|n| frames[*n].1).collect::<Vec<_>>()
            });
            assert_eq!(file, beside, "{name}, {what}");
            file
        };
        let without = |n: usize| {
            let mut units = units.clone();
            units.remove(n);
            units
        };
        assert!(marked(&units, "nothing").is_empty());
        assert_eq!(marked(&without(1), "the second"), (1..14).collect::<Vec<_>>(), "{name}");
        assert_eq!(
            marked(&without(16), "the one behind"),
            (16..29).collect::<Vec<_>>(),
            "{name}"
        );
        // What lies before a key frame is missing itself, and damages nothing else.
        assert!(marked(&without(14), "the one before").is_empty(), "{name}");
        let cut = [&units[..10], &units[30..]].concat();
        assert!(marked(&cut, "a part in the middle").is_empty(), "{name}");
        let turned = [&units[15..], &units[..15]].concat();
        assert!(marked(&turned, "nothing, but the order changed").is_empty(), "{name}");
    }
}
