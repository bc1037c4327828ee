// SPDX-License-Identifier: MPL-2.0

//! The rate cap and an encoder together: no second exceeds 1.05 of the cap, whatever the video and the feedback, and a
//! cap that is not reached changes nothing.

#![cfg(any(feature = "x264", feature = "x265"))]

use dds_protocol::feedback::{FeedbackState, Quality, Rect, Region, encode};
use dds_protocol::serial::Serial16;
use gstdds::camera::{Camera, CameraSettings, FeedbackBound, Geometry, Way};
use gstdds::encoder::{Backend, Config, FrameControls, Picture, PixelFormat, Plane, RateControl, Rates};
use gstdds::vbv::Vbv;

/// Encoders of this build.
const BACKENDS: &[Backend] = &[
    #[cfg(feature = "x264")]
    Backend::X264,
    #[cfg(feature = "x265")]
    Backend::X265,
];

const WIDTH: usize = 320;
const HEIGHT: usize = 240;
const FPS: u32 = 30;

/// A textured picture that moves a little, with sensor noise; every `cut` frames it changes to another one.
fn picture(luma: &mut [u8], frame: usize, cut: usize) {
    let mut seed = frame as u32;
    let shift = frame + frame / cut * 97;
    for (y, row) in luma.chunks_exact_mut(WIDTH).enumerate() {
        for (x, sample) in row.iter_mut().enumerate() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (u, v) = (x + shift, y + shift / 3);
            let texture = (u * u / 37 + v * v / 23 + u * v / 51) % 160;
            *sample = (40 + texture + (seed >> 29) as usize) as u8;
        }
    }
}

struct Scene {
    kbps: Box<dyn Fn(usize) -> u32>,
    regions: fn(usize) -> Vec<Region>,
    idr: fn(usize) -> bool,
    cut: usize,
    bound: FeedbackBound,
}

/// Statistics of a run.
struct Run {
    /// Most bytes in a second, as a factor of the cap.
    worst: f64,
    /// Frames at exactly the requested quantizers.
    exact: usize,
    /// Bytes of each frame.
    bytes: Vec<usize>,
}

const FRAMES: usize = 150;

fn run(backend: Backend, scene: &Scene) -> Run {
    let geometry = Geometry {
        width: WIDTH as u32,
        height: HEIGHT as u32,
    };
    let settings = |frame| CameraSettings {
        max_bitrate_kbps: (scene.kbps)(frame),
        max_region_area: 1.0,
        feedback: scene.bound,
        ..CameraSettings::default()
    };
    let mut camera = Camera::new(1, geometry, settings(0));
    let config = Config {
        codec: backend.codecs()[0],
        width: geometry.width,
        height: geometry.height,
        format: PixelFormat::I420,
        frame_rate: Some((FPS, 1)),
        max_frame_rate: None,
        leaves_out: false,
        repeats: false,
        pixel_aspect_ratio: (1, 1),
        colour: None,
        interlaced: None,
        frame_packing: None,
        preset: Some("superfast".into()),
        tune: Some("zerolatency".into()),
        profile: None,
        intra_only: false,
        level_idc: None,
        byte_stream: true,
        rate: RateControl::Quantizers { base_qp: 36 },
        vbv: Vbv::OPEN,
        vbv_may_change: true,
        still_parts: false,
        nominal_kbps: 0,
        gpu: None,
        options: vec![],
    };
    let mut encoder = backend.open(&config, Box::new(|_, _| {})).expect("an encoder");
    let mut luma = vec![0; WIDTH * HEIGHT];
    let grey = vec![128; WIDTH * HEIGHT / 4];
    let mut run = Run {
        worst: 0.0,
        exact: 0,
        bytes: vec![],
    };
    let mut changed = 0;
    for frame in 0..FRAMES {
        let now = frame as u64 * 1_000_000_000 / u64::from(FPS);
        let kbps = (scene.kbps)(frame);
        if kbps != camera.settings().max_bitrate_kbps {
            camera.set_settings(settings(frame));
            changed = frame;
        }
        if frame > 0 {
            let state = FeedbackState {
                stream_id: 1,
                generation: Serial16(frame as u16),
                frame: frame as u64 - 1,
                regions: (scene.regions)(frame),
                ..FeedbackState::default()
            };
            for packet in encode(&state).packets {
                camera.push_feedback(now, Way::Pad, &packet);
            }
        }
        let force_idr = frame == 0 || (scene.idr)(frame);
        let plan = camera.begin_frame(now, frame as u64, force_idr, &[]);
        let finest = plan
            .offsets
            .map_or(0, |offsets| offsets.iter().copied().min().unwrap_or(0));
        run.exact += usize::from(plan.base_qp == 36 && (finest == -10 || frame == 0));
        if let Some(vbv) = plan.vbv {
            let rates = Rates {
                kbps: None,
                quality: None,
                vbv,
            };
            encoder.reconfigure(&rates).expect("new rates");
        }
        picture(&mut luma, frame, scene.cut);
        let chroma = Plane {
            data: &grey,
            stride: WIDTH / 2,
        };
        let luma = Plane {
            data: &luma,
            stride: WIDTH,
        };
        let planes = [luma, chroma, chroma];
        let controls = FrameControls {
            base_qp: plan.base_qp,
            offsets: plan.offsets,
            force_idr,
        };
        let picture = Picture {
            planes,
            pts: frame as i64,
        };
        let unit = encoder.encode(&picture, &controls).expect("an access unit");
        let (bytes, idr) = (unit.data.len(), unit.idr);
        camera.end_frame(now, bytes, idr);
        run.bytes.push(bytes);
        // Seconds after the last change of the cap.
        let from = (frame + 1).saturating_sub(FPS as usize).max(changed);
        let second: usize = run.bytes[from..].iter().sum();
        if kbps > 0 {
            run.worst = run.worst.max(second as f64 / (f64::from(kbps) * 125.0));
        }
    }
    run
}

fn region(width: u32, height: u32, quality: Quality) -> Region {
    Region {
        rect: Rect {
            x: 0,
            y: 0,
            width,
            height,
        },
        quality,
        ttl_ms: 500,
        ..Region::default()
    }
}

fn third(_: usize) -> Vec<Region> {
    vec![region(192, 128, Quality::Camera)]
}

#[test]
fn a_cap_that_is_not_reached_changes_nothing() {
    for &backend in BACKENDS {
        unreached(backend);
    }
}

fn unreached(backend: Backend) {
    let mut scene = Scene {
        kbps: Box::new(|_| 0),
        regions: third,
        idr: |_| false,
        cut: 1000,
        bound: FeedbackBound::None,
    };
    let free = run(backend, &scene);
    assert_eq!(free.exact, FRAMES);
    let busiest: usize = free
        .bytes
        .windows(FPS as usize)
        .map(|second| second.iter().sum())
        .max()
        .unwrap_or(0);
    // With other libraries pictures become small after a large first one, and the camera predicts by those coded so far.
    let above = if backend == Backend::X264 { 12 } else { 50 };
    let kbps = (busiest * above / 10 / 125) as u32;
    scene.kbps = Box::new(move |_| kbps);
    let capped = run(backend, &scene);
    assert_eq!(capped.exact, FRAMES);
    // The first access unit holds the settings of libx264 as text.
    assert_eq!(capped.bytes[1..], free.bytes[1..], "at {kbps} kbit/s");
}

#[test]
fn every_second_keeps_the_cap() {
    for &backend in BACKENDS {
        kept(backend);
    }
}

fn kept(backend: Backend) {
    let whole: fn(usize) -> Vec<Region> = |_| vec![region(320, 240, Quality::Qp(10))];
    let flicker: fn(usize) -> Vec<Region> = |frame| {
        if frame / 6 % 2 == 0 {
            vec![]
        } else {
            vec![region(320, 240, Quality::Qp(1))]
        }
    };
    let never: fn(usize) -> bool = |_| false;
    let often: fn(usize) -> bool = |frame| frame % 20 == 0;
    for (name, regions, idr, cut) in [
        ("a third refined", third as fn(usize) -> Vec<Region>, never, 1000),
        ("hostile", whole, never, 1000),
        ("flickering", flicker, never, 1000),
        ("IDR pictures", third, often, 1000),
        ("cuts", third, never, 25),
        ("all at once", flicker, often, 25),
    ] {
        for (before, kbps) in [(250, 250), (700, 700), (0, 400)] {
            let scene = Scene {
                kbps: Box::new(move |frame| if frame < 60 { before } else { kbps }),
                regions,
                idr,
                cut,
                bound: FeedbackBound::None,
            };
            let run = run(backend, &scene);
            assert!(
                run.worst <= 1.05,
                "{backend:?}, {name}, {kbps} kbit/s: {:.3}",
                run.worst
            );
            // libx265 takes less than the cap for some of these.
            let least = if backend == Backend::X264 { 0.5 } else { 0.25 };
            assert!(
                run.worst > least,
                "{backend:?}, {name}, {kbps} kbit/s: the cap is used: {:.3}",
                run.worst
            );
        }
    }
}

/// Bytes of every second.
fn seconds(run: &Run) -> Vec<usize> {
    run.bytes
        .windows(FPS as usize)
        .map(|second| second.iter().sum())
        .collect()
}

/// Regions of a frame.
type Regions = fn(usize) -> Vec<Region>;

fn bounded(backend: Backend, regions: Regions, bound: FeedbackBound) -> Run {
    let scene = Scene {
        kbps: Box::new(|_| 0),
        regions,
        idr: |frame| frame % 30 == 10,
        cut: 1000,
        bound,
    };
    run(backend, &scene)
}

/// Most kbit/s that regions of feedback may add: 1 for each macroblock.
const BOUND: u32 = 300;

/// Most that regions add to a second of the video without any, relative to the bound.
fn added(with: &Run, without: &Run) -> f64 {
    let seconds = seconds(with).into_iter().zip(seconds(without));
    let more = seconds.map(|(with, without)| with as f64 - without as f64);
    more.fold(0.0, f64::max) / (f64::from(BOUND) * 125.0)
}

#[test]
fn hostile_feedback_adds_little_more_than_it_may() {
    let hostile: [(&str, Regions); 5] = [
        ("everything at its finest", |_| vec![region(320, 240, Quality::Qp(1))]),
        ("every other frame", |frame| match frame % 2 {
            0 => vec![],
            _ => vec![region(320, 240, Quality::Qp(1))],
        }),
        ("two maps in turn", |frame| match frame % 2 {
            0 => vec![region(160, 240, Quality::Qp(1))],
            _ => vec![region(320, 120, Quality::Qp(12))],
        }),
        ("another quality each time", |frame| {
            vec![region(320, 240, Quality::Qp((frame * 7 % 36) as u8))]
        }),
        ("after a rest", |frame| match frame / 25 % 2 {
            0 => vec![],
            _ => vec![region(320, 240, Quality::Qp(1))],
        }),
    ];
    for &backend in BACKENDS {
        let plain = bounded(backend, |_| vec![], FeedbackBound::Kbps(BOUND));
        let free = added(&bounded(backend, hostile[1].1, FeedbackBound::None), &plain);
        assert!(free > 10.0, "{backend:?}: hostile indeed: {free:.1}");
        for (name, regions) in hostile {
            let held = added(&bounded(backend, regions, FeedbackBound::Kbps(BOUND)), &plain);
            println!("{backend:?}, {name}: {held:.2} of the bound, {free:.1} without one");
            assert!(held <= 1.25, "{backend:?}, {name}: {held:.2} of the bound");
            assert!(held > 0.3, "{backend:?}, {name}: the bound is used: {held:.2}");
        }
    }
}
