// SPDX-License-Identifier: MPL-2.0

//! The property `bandwidth`: any second is at most 15 % above it, two seconds after a change, and the mean close to it.

mod common;

use common::{Camera, element, region};
use dds_protocol::feedback::Quality;
use gst::prelude::*;

/// A textured scene that scrolls under grain.
fn scene(camera: &Camera) -> gst::Buffer {
    let mut buffer = camera.picture();
    let (width, n) = (camera.info.width() as usize, camera.frames as usize);
    let luma = width * camera.info.height() as usize;
    let mut map = buffer.make_mut().map_writable().unwrap();
    for (i, sample) in map.iter_mut().enumerate() {
        if i >= luma {
            *sample = 128;
            continue;
        }
        let (x, y) = ((i % width + 2 * n) as f32, (i / width) as f32);
        let texture = 40.0 * (x / 7.0).sin() * (y / 5.0).cos() + 25.0 * ((x + 2.0 * y) / 3.0).sin();
        // The harness's own pictures are noise.
        *sample = (120.0 + texture + f32::from(*sample) / 12.0) as u8;
    }
    drop(map);
    buffer
}

/// Bits of every window of one second that begins in the frames from `from` on, in kbit.
fn seconds(bytes: &[usize], from: usize) -> Vec<f64> {
    let sum = |window: &[usize]| window.iter().sum::<usize>() as f64 * 8.0 / 1000.0;
    bytes[from..].windows(30).map(sum).collect()
}

#[test]
fn seconds_and_mean_follow_a_bandwidth_that_changes_live() {
    let element = element();
    element.set_property("bandwidth", 2000u32);
    element.set_property("key-int-max", 300u32);
    let mut camera = Camera::new(element, 320, 240);
    let mut bytes = Vec::new();
    for (target, frames) in [(600u32, 300), (300, 300), (900, 300)] {
        camera.element.set_property("bandwidth", target);
        let start = bytes.len();
        for _ in 0..frames {
            let n = camera.frames;
            let picture = scene(&camera);
            bytes.push(camera.push_buffer(picture).size());
            let x = (n as u32 * 2) % 200;
            camera.feedback(n as u16 + 1, n, &[region(x, 80, 64, 64, Quality::Camera)]);
        }
        let settled = start + 60;
        let windows = seconds(&bytes, settled);
        let most = windows.iter().copied().fold(0.0, f64::max) / f64::from(target);
        let mean = bytes[settled..].iter().sum::<usize>() as f64 * 8.0 / 1000.0 / ((frames - 60) as f64 / 30.0);
        let mean = mean / f64::from(target);
        println!("{target} kbit/s: largest second {most:.3}, mean {mean:.3}");
        assert!(most <= 1.15, "{target} kbit/s: a second takes {most:.3} of it");
        assert!(
            (0.94..=1.05).contains(&mean),
            "{target} kbit/s: the mean is {mean:.3} of it"
        );
    }
    assert_eq!(camera.count("encoders-opened"), 1);
}

/// Otherwise finer quantizers of that stream would seem to cost nothing, and the cap would have to stop the result.
#[test]
fn in_one_pass_regions_are_not_taken_for_free() {
    for target in [100u32, 75] {
        let element = element();
        element.set_property("bandwidth", target);
        element.set_property("key-int-max", 300u32);
        element.set_property("max-region-area", 1.0);
        let mut camera = Camera::new(element, 320, 240);
        let mut bytes = Vec::new();
        for n in 0..450u16 {
            let picture = scene(&camera);
            bytes.push(camera.push_buffer(picture).size());
            camera.feedback(n + 1, n.into(), &[region(80, 60, 160, 120, Quality::Camera)]);
        }
        let most = seconds(&bytes, 90).iter().copied().fold(0.0, f64::max) / f64::from(target);
        let raised = camera.count("cap-raised-frames");
        println!("{target} kbit/s: largest second {most:.3}, {raised} of 450 frames raised by the cap");
        assert!(most <= 1.15, "{target} kbit/s: a second takes {most:.3} of it");
        assert!(raised < 450 / 8, "{target} kbit/s: the cap raised {raised} frames");
    }
}

#[test]
fn a_bandwidth_beside_another_rate_control_is_refused_by_name() {
    for (name, value) in [("bitrate", 1000u32), ("quantizer", 30)] {
        let element = element();
        element.set_property("bandwidth", 500u32);
        element.set_property(name, value);
        let refused = element.set_state(gst::State::Paused);
        assert!(refused.is_err(), "{name}");
        let _ = element.set_state(gst::State::Null);
    }
}
