// SPDX-License-Identifier: MPL-2.0

//! Measures how fast the encoders code a clip, preset by preset, with moving regions on every picture.
//!
//! `cargo run --release -p gst-plugin-dds --example hevc_bench -- CLIP [FRAMES]`
//!
//! Frames per second, bytes per picture and the size of coding tree units; background 38, regions 28 on a tenth of the
//! picture, one key frame at the start, all cores.

use std::time::Instant;

use gst::prelude::*;
use gst_video::prelude::*;
use gstdds::encoder::{
    Backend, Config, EncoderOption, FrameControls, Origin, Picture, PixelFormat, Plane, RateControl, RegionEncoder,
};
use gstdds::vbv::Vbv;

type Error = Box<dyn std::error::Error>;

const BASE: u8 = 38;
const FINER: i8 = -10;

struct Clip {
    info: gst_video::VideoInfo,
    frames: Vec<gst::Buffer>,
}

fn load(path: &str, frames: usize) -> Result<Clip, Error> {
    let line = format!(
        "filesrc location=\"{path}\" ! decodebin ! videoconvert ! video/x-raw,format=I420 ! appsink name=out sync=false"
    );
    let pipeline = gst::parse::launch(&line)?
        .downcast::<gst::Pipeline>()
        .map_err(|_| "no pipeline")?;
    let sink = pipeline
        .by_name("out")
        .and_then(|e| e.downcast::<gst_app::AppSink>().ok())
        .ok_or("no sink")?;
    pipeline.set_state(gst::State::Playing)?;
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).take(frames).collect();
    pipeline.set_state(gst::State::Null)?;
    let caps = samples.first().and_then(|s| s.caps()).ok_or("the clip has no frame")?;
    Ok(Clip {
        info: gst_video::VideoInfo::from_caps(caps)?,
        frames: samples.iter().filter_map(|s| s.buffer_owned()).collect(),
    })
}

/// A region of a tenth of the picture that moves by a macroblock every other frame.
fn offsets(frame: usize, across: usize, down: usize) -> Vec<i8> {
    let (width, height) = (across * 10 / 31, down * 10 / 31);
    let (left, top) = (frame / 2 % (across - width), frame / 4 % (down - height));
    let within = |i: usize| (left..left + width).contains(&(i % across)) && (top..top + height).contains(&(i / across));
    (0..across * down).map(|i| if within(i) { FINER } else { 0 }).collect()
}

fn open(backend: Backend, clip: &Clip, preset: &str, units: Option<&str>) -> Result<Box<dyn RegionEncoder>, Error> {
    let config = Config {
        codec: backend.codecs()[0],
        width: clip.info.width(),
        height: clip.info.height(),
        format: PixelFormat::I420,
        frame_rate: Some((30, 1)),
        max_frame_rate: None,
        leaves_out: false,
        repeats: false,
        pixel_aspect_ratio: (1, 1),
        colour: None,
        interlaced: None,
        frame_packing: None,
        preset: Some(preset.into()),
        tune: Some("zerolatency".into()),
        profile: None,
        intra_only: false,
        level_idc: None,
        byte_stream: true,
        rate: RateControl::Quantizers { base_qp: BASE },
        vbv: Vbv::OPEN,
        vbv_may_change: true,
        still_parts: false,
        nominal_kbps: 0,
        gpu: None,
        options: units
            .map(|units| EncoderOption {
                origin: Origin::OptionString,
                key: "ctu".into(),
                value: Some(units.into()),
            })
            .into_iter()
            .collect(),
    };
    Ok(backend.open(&config, Box::new(|_, _| {}))?)
}

fn main() -> Result<(), Error> {
    gst::init()?;
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: hevc_bench CLIP [FRAMES]")?;
    let frames = arguments.next().map_or(Ok(120), |n| n.parse())?;
    let clip = load(&path, frames)?;
    let (across, down) = (
        clip.info.width().div_ceil(16) as usize,
        clip.info.height().div_ceil(16) as usize,
    );
    println!(
        "{}x{}, {} frames, {} cores",
        clip.info.width(),
        clip.info.height(),
        clip.frames.len(),
        std::thread::available_parallelism()?
    );
    println!("{:10} {:8} {:>6} {:>10}", "preset", "encoder", "fps", "bytes");
    for preset in ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] {
        for (backend, units) in [
            (Backend::X264, None),
            (Backend::X265, None),
            (Backend::X265, Some("32")),
        ] {
            let Ok(mut encoder) = open(backend, &clip, preset, units) else {
                continue;
            };
            let (mut bytes, mut spent) = (0, std::time::Duration::ZERO);
            for (n, buffer) in clip.frames.iter().enumerate() {
                let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &clip.info)?;
                let mut planes = [Plane::default(); 3];
                for (i, plane) in planes.iter_mut().enumerate() {
                    *plane = Plane {
                        data: frame.plane_data(i as u32)?,
                        stride: frame.plane_stride()[i] as usize,
                    };
                }
                let offsets = offsets(n, across, down);
                let controls = FrameControls {
                    base_qp: BASE,
                    offsets: (n > 0).then_some(&offsets),
                    force_idr: n == 0,
                };
                let started = Instant::now();
                bytes += encoder
                    .encode(&Picture { planes, pts: n as i64 }, &controls)?
                    .data
                    .len();
                spent += started.elapsed();
            }
            println!(
                "{preset:10} {:8} {:>6.1} {:>10}",
                format!("{}{}", backend.name(), units.map_or(String::new(), |u| format!(" {u}"))),
                clip.frames.len() as f64 / spent.as_secs_f64(),
                bytes / clip.frames.len()
            );
        }
    }
    Ok(())
}
