// SPDX-License-Identifier: MPL-2.0

//! Limits per second follow the time stamps, whatever rate caps declare; where caps are right, nothing changes.

#![cfg(feature = "x264")]

mod common;

use common::{Camera, element, region};
use dds_protocol::feedback::Quality;
use dds_protocol::nal::{self, Codec, Format};
use gst::prelude::*;

const SECOND: u64 = 1_000_000_000;

/// A camera whose caps declare this rate.
fn camera(element: gst::Element, rate: &str) -> Camera {
    let info = common::info(gst_video::VideoFormat::I420, 160, 96);
    let mut caps = info.to_caps().unwrap();
    let fraction = |text: &str| {
        let (numerator, denominator) = text.split_once('/').unwrap();
        gst::Fraction::new(numerator.parse().unwrap(), denominator.parse().unwrap())
    };
    let structure = caps.make_mut().structure_mut(0).unwrap();
    structure.set("framerate", fraction(rate.split(',').next().unwrap()));
    if let Some((_, most)) = rate.split_once("max-framerate=") {
        structure.set("max-framerate", fraction(most));
    }
    Camera::direct(element, info, caps)
}

/// Codes a picture of this time: a texture that scrolls under grain.
fn push(camera: &mut Camera, at: u64) -> gst::Buffer {
    let mut picture = camera.picture();
    let n = camera.frames as usize;
    let buffer = picture.make_mut();
    let mut map = buffer.map_writable().unwrap();
    for (y, row) in map[..160 * 96].chunks_exact_mut(160).enumerate() {
        for (x, sample) in row.iter_mut().enumerate() {
            let (u, v) = (x + n, y + n / 3);
            *sample = (40 + (u * u / 37 + v * v / 23 + u * v / 51) % 160) as u8 + *sample / 16;
        }
    }
    drop(map);
    buffer.set_pts(gst::ClockTime::from_nseconds(at));
    buffer.set_duration(gst::ClockTime::NONE);
    camera.push_buffer(picture)
}

/// Time stamps at so many pictures a second.
fn times(rate: u64, seconds: u64) -> impl Iterator<Item = u64> {
    (0..rate * seconds).map(move |i| i * SECOND / rate)
}

/// kbit/s of all access units, the last picture lasting as long as the mean.
fn kbps(camera: &Camera) -> f64 {
    let bytes: usize = camera.units.iter().map(|unit| unit.size()).sum();
    let at = |unit: &gst::Buffer| unit.pts().unwrap().nseconds() as f64;
    let span = at(camera.units.last().unwrap()) - at(&camera.units[0]);
    let pictures = camera.units.len() as f64;
    bytes as f64 * 8.0e6 / (span * pictures / (pictures - 1.0))
}

/// Most kbit in a second.
fn worst_second(camera: &Camera) -> f64 {
    let at = |unit: &gst::Buffer| unit.pts().unwrap().nseconds();
    let second = |first: &gst::Buffer| {
        let units = camera.units.iter();
        let within = units.filter(|unit| (at(first)..at(first) + SECOND).contains(&at(unit)));
        within.map(|unit| unit.size()).sum::<usize>() as f64 / 125.0
    };
    camera.units.iter().map(second).fold(0.0, f64::max)
}

fn key_frames(camera: &Camera) -> Vec<usize> {
    let units = camera.units.iter().enumerate();
    units
        .filter(|(_, unit)| !unit.flags().contains(gst::BufferFlags::DELTA_UNIT))
        .map(|(i, _)| i)
        .collect()
}

#[test]
fn bitrate_is_kept_whatever_rate_caps_tell() {
    for (encoder, declared, real) in [
        ("x264", "60/1", 60),
        ("x264", "0/1", 10),
        ("x264", "0/1,max-framerate=60/1", 10),
        ("x264", "0/1", 60),
        ("x264", "30/1", 10),
        ("x264", "30/1", 60),
        ("x264", "30/1", 28),
        ("x264", "1000/1", 10),
        ("x264", "90000/1", 10),
        ("x264", "5/1", 25),
        ("x265", "0/1", 10),
        ("x265", "30/1", 10),
    ] {
        let element = element();
        if encoder == "x265" && (!cfg!(feature = "x265") || fake_nvenc::is_child()) {
            continue;
        }
        if !fake_nvenc::is_child() {
            element.set_property_from_str("encoder", encoder);
        }
        // Frame identities come on top, some 60 bytes each.
        let wanted = 30 * real as u32;
        element.set_property("bitrate", wanted);
        let mut camera = camera(element, declared);
        times(real, 20.min(600 / real)).for_each(|at| drop(push(&mut camera, at)));
        let share = kbps(&camera) / f64::from(wanted);
        println!("{encoder}, {declared} declared, {real} real: {share:.3}");
        assert!(
            (0.95..=1.05).contains(&share),
            "{encoder}, {declared} declared, {real} real: {share:.3}"
        );
        assert_eq!(camera.count("encoders-opened"), 1);
    }
}

#[test]
fn bitrate_is_kept_where_the_rate_changes() {
    for declared in ["0/1", "30/1"] {
        let element = element();
        element.set_property("bitrate", 300u32);
        let mut camera = camera(element, declared);
        let mut at = 0;
        for rate in [30, 10, 60, 15] {
            for _ in 0..rate * 8 {
                push(&mut camera, at);
                at += SECOND / rate;
            }
        }
        let kbps = kbps(&camera);
        println!(
            "{declared} declared: {kbps:.1} kbit/s, worst second {:.0}",
            worst_second(&camera)
        );
        // The library follows each change only after the time of its VBV.
        assert!((276.0..=324.0).contains(&kbps), "{declared} declared: {kbps:.1}");
    }
}

#[test]
fn pictures_that_keep_to_the_told_rate_have_the_same_bytes_whatever_their_jitter() {
    for (name, value) in [("bitrate", 300u32), ("background-qp", 36)] {
        let code = |time: &dyn Fn(u64) -> u64| {
            let element = element();
            element.set_property(name, value);
            let mut camera = camera(element, "30/1");
            for i in 0..120 {
                push(&mut camera, time(i));
            }
            camera.stream()
        };
        let exact = code(&|i| i * SECOND / 30);
        // Rounded to milliseconds; up to 12 ms late; after a gap of five seconds.
        assert!(exact == code(&|i| i * 1000 / 30 * 1_000_000), "{name}: rounded");
        assert!(
            exact == code(&|i| i * SECOND / 30 + i * 7 % 13 * 1_000_000),
            "{name}: late"
        );
        assert!(
            exact == code(&|i| i * SECOND / 30 + i / 60 * 5 * SECOND),
            "{name}: a gap"
        );
    }
}

#[test]
fn key_frames_come_after_seconds_not_after_a_number_of_pictures() {
    for (declared, real) in [("0/1", 10), ("30/1", 10), ("1000/1", 10), ("90000/1", 10), ("0/1", 60)] {
        let element = element();
        element.set_property("option-string", "scenecut=0");
        let mut camera = camera(element, declared);
        times(real, 21).for_each(|at| drop(push(&mut camera, at)));
        let each = real as usize * 10;
        assert_eq!(
            key_frames(&camera),
            [0, each, 2 * each],
            "{declared} declared, {real} real"
        );
    }
    // A limit in pictures counts pictures.
    let element = element();
    element.set_property("option-string", "scenecut=0");
    element.set_property("key-int-max", 150u32);
    let mut camera = camera(element, "30/1");
    times(10, 21).for_each(|at| drop(push(&mut camera, at)));
    assert_eq!(key_frames(&camera), [0, 150]);
}

#[test]
fn a_cap_holds_in_every_second_of_time_stamps() {
    for (declared, real) in [("0/1", 10), ("30/1", 10), ("30/1", 60), ("90000/1", 25), ("1/1", 25)] {
        let element = element();
        element.set_property("max-bitrate", 300u32);
        element.set_property("max-region-area", 1.0);
        let mut camera = camera(element, declared);
        for (i, at) in times(real, 6).enumerate() {
            push(&mut camera, at);
            camera.feedback(i as u16 + 1, i as u64, &[region(0, 0, 160, 96, Quality::Qp(10))]);
        }
        let worst = worst_second(&camera);
        println!("{declared} declared, {real} real: worst second {worst:.0} kbit");
        assert!(
            worst <= 315.0,
            "{declared} declared, {real} real: {worst:.0} kbit in a second"
        );
        assert!(
            worst > 100.0,
            "{declared} declared, {real} real: the cap is used: {worst:.0}"
        );
    }
}

#[test]
fn feedback_is_taken_twice_a_picture_whatever_rate_caps_tell() {
    for declared in ["0/1", "1/1", "90000/1"] {
        let mut camera = camera(element(), declared);
        for (i, at) in times(60, 4).enumerate() {
            push(&mut camera, at);
            camera.feedback(i as u16 + 1, i as u64, &[]);
        }
        // The first second may follow the rate in caps.
        assert!(camera.count("feedback-rate-limited") < 60, "{declared}");
        assert!(camera.count("generations-applied") > 170, "{declared}");
    }
}

#[test]
fn a_rate_that_nobody_told_is_declared_by_nobody() {
    let declared = |declared| {
        let mut camera = camera(element(), declared);
        push(&mut camera, 0);
        let unit = push(&mut camera, SECOND / 10);
        assert!(
            Codec::H264
                .summarize(&unit.map_readable().unwrap(), Format::ByteStream)
                .identity
                .is_some()
        );
        let stream = camera.stream();
        let sps = nal::nal_units(&stream, Format::ByteStream)
            .find(|n| n[0] & 0x1f == 7)
            .unwrap();
        assert_eq!(common::decodes(&stream), 2, "{declared}");
        let arguments = "-v error -f h264 -framerate 7 -i - -show_entries stream=r_frame_rate -of csv=p=0";
        let output = std::process::Command::new("ffprobe")
            .args(arguments.split(' '))
            .stdin({
                let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
                    .join(format!("declared-{}.h264", declared.replace(['/', ',', '='], "-")));
                std::fs::write(&path, &stream).unwrap();
                std::fs::File::open(path).unwrap()
            })
            .output()
            .expect("ffprobe is installed");
        assert!(output.status.success());
        (sps[3], String::from_utf8(output.stdout).unwrap().trim().to_string())
    };
    // 60 macroblocks; the level has to allow the highest possible picture rate.
    assert_eq!(declared("30/1"), (11, "30/1".into()));
    assert_eq!(declared("0/1").0, 12);
    assert_eq!(declared("0/1,max-framerate=15/1").0, 10);
    assert_ne!(declared("0/1").1, "30/1");
}

#[test]
fn nvenc_is_asked_for_rates_in_its_own_time_too() {
    if fake_nvenc::is_child() {
        let element = element();
        element.set_property("bitrate", 300u32);
        let mut camera = camera(element, "30/1");
        times(10, 6).for_each(|at| drop(push(&mut camera, at)));
        assert!((0.9..=1.1).contains(&(kbps(&camera) / 300.0)), "{}", kbps(&camera));
        return;
    }
    let log = common::again_on_fake_nvenc(&fake_nvenc::NAMES, "");
    let changes: Vec<_> = log.of("reconfigure").collect();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].contains("average=900000 "), "{changes:?}");
}
