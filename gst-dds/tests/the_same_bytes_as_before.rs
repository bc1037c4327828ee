// SPDX-License-Identifier: MPL-2.0

//! Equal video, settings and feedback always give the same bytes: the sums in `bytes/sums.txt`, by version of the
//! library that coded them, on processors with SSE4.2 or newer: with less, libx264 decides otherwise.
//!
//! The settings of which nothing may be wished keep the sums from before there were wishes; those that begin with
//! "server-rate" are the same with what is set by default.
//!
//! To change bytes on purpose, run this file with `DDS_WRITE_SUMS=1` and give the reason in the commit. With a library
//! without recorded sums the test only shows that two runs are equal, and prints so.

#![cfg(all(feature = "x264", feature = "x265"))]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::refined::Refined;
use common::{Camera, element};
use dds_protocol::feedback::{self, FeedbackState};
use dds_protocol::wish::{Wish, Wishes};
use gst::prelude::*;

const FRAMES: u64 = 75;
/// One line for each packet: the frame after which it comes, and its bytes in hexadecimal digits. In the middle it is
/// silent for more than `feedback-timeout`.
const FEEDBACK: &str = include_str!("bytes/feedback.txt");

/// A setting: its name, and the properties that differ from [`element`].
struct Case {
    name: &'static str,
    properties: &'static [(&'static str, &'static str)],
    /// Each third picture brings a region of its own.
    metas: bool,
    /// Servers may wish, and each packet wishes this interval, where it is not 0.
    wishes: Option<u8>,
}

const fn case(name: &'static str, properties: &'static [(&'static str, &'static str)]) -> Case {
    Case {
        name,
        properties,
        metas: false,
        wishes: None,
    }
}

const fn wished(name: &'static str, properties: &'static [(&'static str, &'static str)], interval: u8) -> Case {
    Case {
        wishes: Some(interval),
        ..case(name, properties)
    }
}

const CASES: [Case; 23] = [
    case("one-pass", &[]),
    case("cap", &[("max-bitrate", "80")]),
    case("bound", &[("max-feedback-bitrate", "25")]),
    case("bitrate", &[("bitrate", "300")]),
    case(
        "quality-cap",
        &[("pass", "qual"), ("quantizer", "28"), ("max-bitrate", "150")],
    ),
    case("bandwidth", &[("bandwidth", "120")]),
    Case {
        name: "metas",
        properties: &[],
        metas: true,
        wishes: None,
    },
    case("slices", &[("option-string", "slices=4")]),
    case("intra-refresh", &[("intra-refresh", "true"), ("key-int-max", "25")]),
    case("x265", &[("encoder", "x265")]),
    case("x265-cap", &[("encoder", "x265"), ("max-bitrate", "70")]),
    case("two-pass-hold", &[("mode", "two-pass")]),
    case(
        "two-pass-black",
        &[("mode", "two-pass"), ("refine-canvas", "black"), ("low-scale", "0.5")],
    ),
    case(
        "two-pass-segments",
        &[("mode", "two-pass"), ("segment-length", "15"), ("max-bitrate", "60")],
    ),
    case(
        "two-pass-bandwidth",
        &[("mode", "two-pass"), ("bandwidth", "60"), ("low-scale-min", "0.5")],
    ),
    wished("server-rate", &[], 0),
    wished("server-rate-cap", &[("max-bitrate", "80")], 0),
    wished("server-rate-bandwidth", &[("bandwidth", "120")], 0),
    wished("server-rate-x265", &[("encoder", "x265")], 0),
    wished("server-rate-3", &[], 3),
    wished("server-rate-3-bitrate", &[("bitrate", "300")], 3),
    wished("server-rate-3-repeat", &[("skipped-pictures", "repeat")], 3),
    wished("server-rate-3-x265", &[("encoder", "x265")], 3),
];

/// A textured scene that moves under flicker, in integers.
fn scene(camera: &Camera, metas: bool) -> gst::Buffer {
    let mut buffer = camera.picture();
    let (width, n) = (camera.info.width() as usize, camera.frames as usize);
    let luma = width * camera.info.height() as usize;
    let buffer_mut = buffer.make_mut();
    {
        let wave = |at: usize, period: usize| (at % period).abs_diff(period / 2) * 60 / period;
        let mut map = buffer_mut.map_writable().unwrap();
        for (i, sample) in map.iter_mut().enumerate() {
            if i >= luma {
                *sample = 128;
                continue;
            }
            let (x, y) = (i % width, i / width);
            let object = (x + 320 - 3 * n % 320) % 320 < 40 && y.abs_diff(100) < 30;
            let texture = if object {
                wave(x * y, 37) + 90
            } else {
                wave(x + n, 46) + wave(y + x / 3, 31)
            };
            *sample = (40 + texture + usize::from(*sample) / 24) as u8;
        }
    }
    if metas && camera.frames.is_multiple_of(3) {
        let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer_mut, "door", (32, 32, 48, 32));
        let ours = gst::Structure::builder("roi/ddsencode").field("delta-qp", -8i32);
        meta.add_param(ours.build());
    }
    buffer
}

/// The lines of [`FEEDBACK`] after a frame.
fn packets(frame: u64) -> impl Iterator<Item = Vec<u8>> {
    FEEDBACK.lines().filter_map(move |line| {
        let (at, digits) = line.split_once(' ').expect("a frame and a packet");
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        (at.parse() == Ok(frame)).then(|| digits.as_bytes().chunks(2).map(byte).collect())
    })
}

/// A packet of one part with a wish of this interval, unless it is 0.
fn wishing(packet: Vec<u8>, interval: u8) -> Vec<u8> {
    if interval == 0 {
        return packet;
    }
    let part = feedback::decode(&packet).unwrap();
    assert_eq!((part.part, part.parts), (0, 1));
    let state = FeedbackState {
        stream_id: part.stream_id,
        generation: part.generation,
        frame: part.frame,
        regions: part.regions,
        wishes: Wishes {
            interval: Some(Wish {
                value: interval,
                ttl_ms: 1000,
            }),
            ..part.wishes
        },
    };
    feedback::encode(&state).packets.remove(0)
}

/// Output of a case: the library's version, and both streams.
fn code(case: &Case) -> (String, [Vec<u8>; 2]) {
    let element = element();
    element.set_property("feedback-timeout", 500u32);
    element.set_property("server-rate", case.wishes.is_some());
    for (name, value) in case.properties {
        element.set_property_from_str(name, value);
    }
    let two_passes = case.properties.contains(&("mode", "two-pass"));
    let mut refined = two_passes.then(|| Refined::new(&element));
    let mut camera = Camera::new(element, 320, 240);
    for frame in 0..FRAMES {
        let picture = scene(&camera, case.metas);
        camera.push_captured(picture);
        for packet in packets(frame).map(|packet| wishing(packet, case.wishes.unwrap_or(0))) {
            assert!(feedback::decode(&packet).is_ok());
            let asked = camera.count("refine-frames-coded") + refused(&camera);
            camera
                .harness
                .push_upstream_event(gst_dds_link::event::feedback(&packet));
            // The second pass has a thread of its own; the controller receives its sizes.
            while two_passes && camera.count("refine-frames-coded") + refused(&camera) == asked {
                std::thread::yield_now();
            }
        }
    }
    let tags = std::iter::from_fn(|| camera.harness.try_pull_event());
    let version = tags.filter_map(|event| match event.view() {
        gst::EventView::Tag(tag) => {
            let name = tag.tag().get::<gst::tags::Encoder>()?.get().to_string();
            let version = tag.tag().get::<gst::tags::EncoderVersion>().map(|v| v.get());
            Some(format!("{name}-{}", version.unwrap_or(0)).replace(' ', "-"))
        }
        _ => None,
    });
    let version = version.last().expect("the library has a name");
    camera.harness.push_event(gst::event::Eos::new());
    let second = refined.as_mut().map_or_else(Vec::new, |refined| {
        refined.event(gst::EventType::Eos);
        refined.stream()
    });
    assert_eq!(camera.count("frames-coded") + camera.count("frames-skipped"), FRAMES);
    assert_eq!(
        camera.count("frames-skipped") > 0,
        case.wishes.unwrap_or(0) > 1,
        "{}",
        case.name
    );
    assert_eq!(camera.count("feedback-lost"), 1, "{}", case.name);
    assert_eq!(camera.count("feedback-recovered"), 1, "{}", case.name);
    (version, [camera.stream(), second])
}

fn refused(camera: &Camera) -> u64 {
    ["gone", "late", "busy", "no-pad", "nothing", "failed"]
        .iter()
        .map(|why| camera.count(&format!("refine-refused-{why}")))
        .sum()
}

/// Identifies the streams of a case: their lengths, and a SHA-256 sum of both.
fn sum(streams: &[Vec<u8>; 2]) -> String {
    let [first, second] = streams.each_ref().map(Vec::len);
    let sum = glib::compute_checksum_for_data(glib::ChecksumType::Sha256, &streams.concat()).unwrap();
    format!("{first} {second} {sum}")
}

#[test]
fn the_bytes_are_those_of_the_sums() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bytes/sums.txt");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut sums: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(key, sum)| (key.to_string(), sum.to_string()))
        .collect();
    let write = std::env::var_os("DDS_WRITE_SUMS").is_some();
    let mut others = Vec::new();
    for case in &CASES {
        let (version, streams) = code(case);
        let key = format!("{version} {}", case.name);
        let coded = sum(&streams);
        println!("{key}: {coded}");
        match sums.get(&key) {
            Some(sum) if !write => {
                if *sum != coded {
                    others.push(format!("{key}: {coded} instead of {sum}"));
                }
            }
            _ => {
                println!("{key}: nobody has written its sum; two runs are compared");
                assert_eq!(coded, sum(&code(case).1), "{key}: two runs differ");
            }
        }
        if write {
            sums.insert(key, coded);
        }
    }
    if write {
        let lines: Vec<_> = sums.iter().map(|(key, sum)| format!("{key}: {sum}\n")).collect();
        std::fs::write(&path, lines.concat()).unwrap();
    }
    assert!(others.is_empty(), "the bytes have changed:\n{}", others.join("\n"));
}

/// Each setting makes a difference, or its sum would protect nothing.
#[test]
fn no_two_settings_have_one_sum() {
    let text = include_str!("bytes/sums.txt");
    let mut seen = BTreeMap::new();
    for (key, sum) in text.lines().filter_map(|line| line.split_once(": ")) {
        let before = seen.insert(sum, key);
        assert_eq!(before, None, "{key} has the bytes of another setting");
    }
    assert!(seen.len() >= CASES.len());
}
