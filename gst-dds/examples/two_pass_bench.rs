// SPDX-License-Identifier: MPL-2.0

//! Measures the cost of the second pass: processor time against one pass with the same regions, and memory of the ring.
//!
//! ```text
//! cargo run --release -p gst-plugin-dds --example two_pass_bench
//! cargo run --release -p gst-plugin-dds --example two_pass_bench -- memory
//! ```

use std::sync::mpsc;

use dds_protocol::feedback::{self, FeedbackState, Rect, Region};
use dds_protocol::serial::Serial16;
use gst::prelude::*;

const STREAM: u32 = 1;
/// Alternations of the settings compared; medians are printed.
const ROUNDS: usize = 7;
const FRAMES: u64 = 300;

struct Case {
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
}

const CASES: [Case; 6] = [
    Case {
        name: "one pass",
        settings: &[],
    },
    Case {
        name: "two passes, black",
        settings: &[("mode", "two-pass"), ("refine-canvas", "black")],
    },
    Case {
        name: "two passes, hold",
        settings: &[("mode", "two-pass"), ("refine-canvas", "hold")],
    },
    Case {
        name: "two passes, segments of 15, black",
        settings: &[
            ("mode", "two-pass"),
            ("segment-length", "15"),
            ("refine-canvas", "black"),
        ],
    },
    Case {
        name: "two passes, segments of 15, hold",
        settings: &[
            ("mode", "two-pass"),
            ("segment-length", "15"),
            ("refine-canvas", "hold"),
        ],
    },
    Case {
        name: "two passes, scale 0.8",
        settings: &[("mode", "two-pass"), ("low-scale", "0.8")],
    },
];

fn info(width: u32, height: u32) -> gst_video::VideoInfo {
    gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height)
        .fps(gst::Fraction::new(30, 1))
        .build()
        .expect("a video format")
}

/// Objects of the scene: three, together a tenth of the picture, moving right.
fn objects(frame: u64, width: u32, height: u32) -> [Rect; 3] {
    [0, 1, 2].map(|i| Rect {
        x: (frame as u32 * (2 + i) + i * width / 3) % (width - width / 5),
        y: height / 8 + i * height / 4,
        width: width / 5,
        height: height / 6,
    })
}

/// A still texture, moving objects of another, and the noise of a sensor.
fn scene(width: u32, height: u32) -> Vec<gst::Buffer> {
    let mut seed = 1u32;
    let mut random = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 24
    };
    (0..30)
        .map(|frame| {
            let objects = objects(frame, width, height);
            let mut data = vec![128u8; info(width, height).size()];
            for y in 0..height {
                for x in 0..width {
                    let inside = objects
                        .iter()
                        .find(|r| (r.x..r.x + r.width).contains(&x) && (r.y..r.y + r.height).contains(&y));
                    let (u, v) = inside.map_or((x, y), |r| (3 * (x - r.x) + 7, 2 * (y - r.y)));
                    let texture =
                        (f64::from(u) * 0.07).sin() * 40.0 + (f64::from(v) * 0.05 + f64::from(u) * 0.01).cos() * 40.0;
                    let noise = f64::from(random() % 5) - 2.0;
                    data[(y * width + x) as usize] = (128.0 + texture + noise) as u8;
                }
            }
            gst::Buffer::from_mut_slice(data)
        })
        .collect()
}

/// Processor time of the process in milliseconds (user and system).
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let field = |n: usize| {
        after
            .split_whitespace()
            .nth(n)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    // Ticks of 10 ms.
    (field(11) + field(12)) * 10.0
}

/// Resident memory of the process in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or(0.0)
        * 1024.0
}

/// Cost of coding a scene.
struct Run {
    /// Processor time per frame.
    ms: f64,
    /// Bytes of both streams.
    bytes: (u64, u64),
    /// Frames in the ring at the end.
    ring: u64,
    /// Bytes of memory taken after the fifth frame.
    grown: f64,
}

/// Codes the scene with feedback after every frame.
fn run(case: &Case, scene: &[gst::Buffer], width: u32, height: u32, frames: u64) -> Run {
    let element = gst::ElementFactory::make("ddsencode")
        .property_from_str("speed-preset", "superfast")
        .property("threads", 1u32)
        .property("stream-id", STREAM)
        .build()
        .expect("the plugin is registered");
    for (name, value) in case.settings {
        element.set_property_from_str(name, value);
    }
    let (sender, ended) = mpsc::channel();
    let any = gst::PadTemplate::new(
        "b",
        gst::PadDirection::Sink,
        gst::PadPresence::Always,
        &gst::Caps::new_any(),
    );
    let sink = gst::Pad::builder_from_template(&any.expect("a template"))
        .chain_function(|_, _, _| Ok(gst::FlowSuccess::Ok))
        .event_function(move |_, _, event| {
            if event.type_() == gst::EventType::Eos {
                let _ = sender.send(());
            }
            true
        })
        .build();
    let two_passes = case.settings.contains(&("mode", "two-pass"));
    if two_passes {
        sink.set_active(true).expect("a pad");
        let source = element.request_pad_simple("refine").expect("the pad refine");
        source.link(&sink).expect("a link");
    }
    let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    harness.play();
    harness.set_src_caps(info(width, height).to_caps().expect("caps"));
    let before = cpu_ms();
    let (mut first, mut memory) = (0, 0.0);
    for frame in 0..frames {
        if frame == 5 {
            memory = resident();
        }
        let mut buffer = scene[(frame % 30) as usize].copy();
        let times = buffer.make_mut();
        times.set_pts(gst::ClockTime::SECOND.mul_div_floor(frame, 30));
        times.set_duration(gst::ClockTime::SECOND / 30);
        harness.push(buffer).expect("a frame is coded");
        first += harness.pull().map_or(0, |unit| unit.size() as u64);
        let state = FeedbackState {
            stream_id: STREAM,
            generation: Serial16(frame as u16),
            frame,
            regions: objects(frame % 30, width, height)
                .map(|rect| Region {
                    rect,
                    ttl_ms: 1000,
                    ..Region::default()
                })
                .to_vec(),
            ..FeedbackState::default()
        };
        for packet in feedback::encode(&state).packets {
            harness.push_upstream_event(gst_dds_link::event::feedback(&packet));
        }
        // The worker keeps up: refinements refused would cost nothing.
        while two_passes && stat(&element, "refine-frames-coded") + 8 < frame {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    let (grown, ring) = (resident() - memory, stat(&element, "ring-frames"));
    harness.push_event(gst::event::Eos::new());
    if two_passes {
        let _ = ended.recv();
    }
    let spent = cpu_ms() - before;
    Run {
        ms: spent / frames as f64,
        bytes: (first, stat(&element, "refine-bytes")),
        ring,
        grown,
    }
}

fn stat(element: &gst::Element, name: &str) -> u64 {
    element.property::<gst::Structure>("stats").get(name).unwrap_or(0)
}

/// Memory that the ring takes beyond its frames, measured before other allocations have fragmented the heap.
fn ring_memory() {
    let (width, height) = (1920, 1080);
    let frames = scene(width, height);
    let case = Case {
        name: "ring",
        settings: &[("mode", "two-pass"), ("ring-frames", "30")],
    };
    let run = run(&case, &frames, width, height, 90);
    let raw = (run.ring - 5) as f64 * info(width, height).size() as f64;
    println!(
        "{width}x{height}: the ring of {} frames and what waits beside it grow by {:.1} MB from the 5th frame on, {:.3} of \
         the raw size",
        run.ring,
        run.grown / 1e6,
        run.grown / raw
    );
}

fn main() {
    gst::init().expect("GStreamer");
    gstdds::plugin_register_static().expect("the plugin");
    ring_memory();
    if std::env::args().any(|argument| argument == "memory") {
        return;
    }
    let (width, height) = (1280, 720);
    let frames = scene(width, height);
    let mut times = vec![Vec::new(); CASES.len()];
    let mut bytes = vec![(0, 0); CASES.len()];
    for _ in 0..ROUNDS {
        for (i, case) in CASES.iter().enumerate() {
            let run = run(case, &frames, width, height, FRAMES);
            times[i].push(run.ms);
            bytes[i] = run.bytes;
        }
    }
    println!("{width}x{height}, {FRAMES} frames, regions of a tenth of the picture");
    for (i, case) in CASES.iter().enumerate() {
        times[i].sort_by(f64::total_cmp);
        let (ms, one) = (times[i][ROUNDS / 2], times[0][ROUNDS / 2]);
        println!(
            "{:34} {ms:5.2} CPU ms per frame ({:.2} of one pass), {} + {} bytes per frame",
            case.name,
            ms / one,
            bytes[i].0 / FRAMES,
            bytes[i].1 / FRAMES
        );
    }
}
