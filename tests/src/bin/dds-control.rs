// SPDX-License-Identifier: MPL-2.0

//! The bandwidth controller on two real encoders: how well targets are met and used, as lines and as a picture.

use std::path::PathBuf;

use dds_tests::draw::Color;
use dds_tests::plot::{self, Chart, Curve, Stroke};
use dds_tests::{Error, clip::Clip, init, noise::Noise, progress::Bar};
use gst_video::prelude::*;
use gstdds::camera::{Camera, CameraSettings, Controller, ControllerSettings, Geometry, OperatingPoint, Window};
use gstdds::encoder::x264::X264;
use gstdds::encoder::{
    Codec, Config, EncoderOption, FrameControls, Origin, Picture, PixelFormat, Plane, RateControl, Rates, RegionEncoder,
};
use gstdds::vbv::Vbv;

const HELP: &str = "\
usage: dds-control [CLIP] [options]

Codes a clip, or a synthetic scene, in two passes with libx264: whole frames, and six frames later regions of about a
tenth of the picture on black. The controller chooses both quantizers for a target in kbit/s: constant, in steps, and
drawn per half second from a normal distribution around 900 (the target of each second is then the mean of the two
segments before). Prints, for each:

  worst   most bits in any second that begins 2 s or more after a change of the target, against the target known at
          its start; for drawn targets, in any control window, against the target it begins with
  mean    bits against targets in the same time, without seconds in which the finest points did not use the target (for
          more than 3 frames)
  second  part of the bits that the second pass took
  jumps   frames coded coarser than the one before by 6 quantizers or more
  capped  frames in which the rate cap behind the controller raised the quantizer

A clip is played forth and back for as long as needed.

options:
  --frames N     frames of the clip in memory (300)
  --first N      first frame (0)
  --rate N       frames per second to play it at (30)
  --seconds N    seconds of each run (22)
  --mean KBPS    mean of targets (900)
  --segments     begin every 15 frames with an IDR picture in both passes, instead of once
  --no-cap       without the rate cap behind the controller
  --preset NAME  speed preset of libx264 (superfast)
  --seed N       of the drawn targets (1)
  --plot FILE    draw the runs as a PNG picture
  --help         this text";

const SEGMENT: usize = 15;
/// Delay of the second pass in frames.
const DELAY: usize = 6;
const TARGET: Color = [245, 245, 245];
const LIMIT: Color = [255, 95, 85];
const BITS: Color = [80, 190, 255];
const WINDOW: Color = [190, 230, 255];
const LOW: Color = [250, 200, 70];
const HIGH: Color = [90, 225, 130];

struct Options {
    clip: Option<PathBuf>,
    frames: usize,
    first: usize,
    rate: f64,
    seconds: usize,
    mean: f64,
    segments: bool,
    cap: bool,
    preset: String,
    seed: u64,
    plot: Option<PathBuf>,
}

fn options() -> Result<Option<Options>, Error> {
    let mut o = Options {
        clip: None,
        frames: 300,
        first: 0,
        rate: 30.0,
        seconds: 22,
        mean: 900.0,
        segments: false,
        cap: true,
        preset: "superfast".into(),
        seed: 1,
        plot: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--frames" => o.frames = value()?.parse::<usize>()?.max(2),
            "--first" => o.first = value()?.parse()?,
            "--rate" => o.rate = f64::from(value()?.parse::<u32>()?.clamp(1, 1000)),
            "--seconds" => o.seconds = value()?.parse::<usize>()?.clamp(4, 3600),
            "--mean" => o.mean = value()?.parse::<u32>()?.max(1).into(),
            "--segments" => o.segments = true,
            "--no-cap" => o.cap = false,
            "--preset" => o.preset = value()?,
            "--seed" => o.seed = value()?.parse()?,
            "--plot" => o.plot = Some(value()?.into()),
            other if !other.starts_with('-') && o.clip.is_none() => o.clip = Some(other.into()),
            other => return Err(format!("unknown option {other}; see --help").into()),
        }
    }
    Ok(Some(o))
}

/// Frames as packed I420, played forth and back.
struct Scene {
    width: usize,
    height: usize,
    rate: f64,
    frames: Vec<Vec<u8>>,
}

impl Scene {
    fn load(clip: &Clip, rate: f64) -> Result<Self, Error> {
        let info = gst_video::VideoInfo::from_caps(&clip.caps)?;
        let (width, height) = (clip.size.0 as usize, clip.size.1 as usize);
        let mut frames = Vec::with_capacity(clip.frames.len());
        for buffer in &clip.frames {
            let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info)
                .map_err(|_| "a frame cannot be mapped")?;
            let mut packed = Vec::with_capacity(width * height * 3 / 2);
            for plane in 0..3 {
                let (w, h) = if plane == 0 {
                    (width, height)
                } else {
                    (width / 2, height / 2)
                };
                let stride = frame.plane_stride()[plane] as usize;
                let data = frame.plane_data(plane as u32)?;
                (0..h).for_each(|row| packed.extend_from_slice(&data[row * stride..][..w]));
            }
            frames.push(packed);
        }
        Ok(Self {
            width,
            height,
            rate,
            frames,
        })
    }

    /// A textured ground that pans, with textured blocks that move over it faster now and then, and sensor noise.
    fn synthetic(count: usize, rate: f64) -> Self {
        let (width, height) = (640, 360);
        let texture = |u: usize, v: usize| (u * u / 37 + v * v / 23 + u * v / 51) % 120;
        let frame = |n: usize| {
            let mut seed = n as u32;
            let mut packed = vec![128; width * height * 3 / 2];
            for (y, row) in packed[..width * height].chunks_exact_mut(width).enumerate() {
                for (x, sample) in row.iter_mut().enumerate() {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let mut value = 50 + texture((x + n / 2) / 3, (y + n / 6) / 3) / 2;
                    for block in 0..4 {
                        let speed = [2, 5, 1, 3][block] * (1 + n / 90 % 2);
                        let left = (block * 170 + n * speed) % width;
                        let top = 40 + block * 75;
                        if (left..left + 70).contains(&x) && (top..top + 50).contains(&y) {
                            value = 90 + texture(x - left + 40 * block, y - top);
                        }
                    }
                    *sample = (value + (seed >> 29) as usize) as u8;
                }
            }
            packed
        };
        Self {
            width,
            height,
            rate,
            frames: (0..count).map(frame).collect(),
        }
    }

    fn frame(&self, n: usize) -> &[u8] {
        let last = self.frames.len() - 1;
        let at = n % (2 * last).max(1);
        &self.frames[if at <= last { at } else { 2 * last - at }]
    }

    /// The frame, black except for three rectangles, together a tenth of the picture, that wander and jump.
    fn regions(&self, n: usize) -> Vec<u8> {
        let (width, height) = (self.width, self.height);
        let frame = self.frame(n);
        let mut out = vec![16; width * height];
        out.resize(width * height * 3 / 2, 128);
        let (w, h) = ((width * 18 / 100) & !1, (height * 18 / 100) & !1);
        for rect in 0..3 {
            // Not all jump at once.
            let n = n + 15 * rect;
            let jump = (n / 45 + rect) * 7919;
            let left = ((jump + n % 45 * 2) % (width - w)) & !1;
            let top = ((jump / 3 + height * rect / 3) % (height - h)) & !1;
            for row in top..top + h {
                let at = row * width + left;
                out[at..at + w].copy_from_slice(&frame[at..at + w]);
            }
            for plane in 0..2 {
                for row in top / 2..(top + h) / 2 {
                    let at = width * height * (4 + plane) / 4 + row * width / 2 + left / 2;
                    out[at..at + w / 2].copy_from_slice(&frame[at..at + w / 2]);
                }
            }
        }
        out
    }
}

struct Encoder {
    x264: X264,
    width: usize,
    height: usize,
    pts: i64,
}

impl Encoder {
    fn open(scene: &Scene, o: &Options) -> Result<Self, Error> {
        let option = |key: &str, value: &str| EncoderOption {
            origin: Origin::OptionString,
            key: key.into(),
            value: Some(value.into()),
        };
        let config = Config {
            codec: Codec::H264,
            width: scene.width as u32,
            height: scene.height as u32,
            format: PixelFormat::I420,
            frame_rate: Some(((scene.rate * 1000.0) as u32, 1000)),
            max_frame_rate: None,
            leaves_out: false,
            repeats: false,
            pixel_aspect_ratio: (1, 1),
            colour: None,
            interlaced: None,
            frame_packing: None,
            preset: Some(o.preset.clone()),
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
            options: vec![option("keyint", "100000")],
        };
        Ok(Self {
            x264: X264::open(&config, Box::new(|_, _| {}))?,
            width: scene.width,
            height: scene.height,
            pts: 0,
        })
    }

    fn set_vbv(&mut self, vbv: Vbv) -> Result<(), Error> {
        let rates = Rates {
            kbps: None,
            quality: None,
            vbv,
        };
        Ok(self.x264.reconfigure(&rates)?)
    }

    /// Bytes of the frame, and whether it is an IDR picture.
    fn encode(&mut self, frame: &[u8], base_qp: u8, force_idr: bool) -> Result<(usize, bool), Error> {
        let (luma, chroma) = (self.width * self.height, self.width * self.height / 4);
        let plane = |data, stride| Plane { data, stride };
        let picture = Picture {
            planes: [
                plane(&frame[..luma], self.width),
                plane(&frame[luma..luma + chroma], self.width / 2),
                plane(&frame[luma + chroma..], self.width / 2),
            ],
            pts: self.pts,
        };
        self.pts += 1;
        let controls = FrameControls {
            base_qp,
            offsets: None,
            force_idr,
        };
        let unit = self.x264.encode(&picture, &controls)?;
        Ok((unit.data.len(), unit.idr))
    }
}

/// Outcome of a run, frame by frame.
struct Run {
    name: String,
    /// Whether to judge control windows instead of any second: the target changes with each window.
    windows: bool,
    /// Frames of a second.
    second: usize,
    targets: Vec<f64>,
    low: Vec<usize>,
    refine: Vec<usize>,
    points: Vec<OperatingPoint>,
    capped: usize,
}

fn run(scene: &Scene, o: &Options, name: String, windows: bool, target: impl Fn(usize) -> u32) -> Result<Run, Error> {
    let geometry = Geometry {
        width: scene.width as u32,
        height: scene.height as u32,
    };
    let mut controller = Controller::new(ControllerSettings {
        frame_rate: scene.rate,
        segment_frames: SEGMENT as u32,
        ..ControllerSettings::default()
    });
    let mut window = Window::default();
    let mut camera = Camera::new(1, geometry, CameraSettings::default());
    let (mut low, mut refine) = (Encoder::open(scene, o)?, Encoder::open(scene, o)?);
    let second = scene.rate.round() as usize;
    let frames = o.seconds * second;
    let mut bar = Bar::new(&name, frames);
    let mut run = Run {
        name,
        windows,
        second,
        targets: vec![],
        low: vec![],
        refine: vec![],
        points: vec![],
        capped: 0,
    };
    for frame in 0..frames {
        let now = (frame as f64 * 1e9 / scene.rate) as u64;
        let kbps = target(frame);
        controller.set_target(kbps, &mut window);
        window.begin(now, scene.rate);
        let force_idr = frame == 0 || o.segments && frame.is_multiple_of(SEGMENT);
        let point = controller.plan(now, force_idr, &window);
        camera.set_settings(CameraSettings {
            background_qp: point.low_qp,
            steered: false,
            max_bitrate_kbps: if o.cap { kbps } else { 0 },
            frame_rate: scene.rate,
            ..CameraSettings::default()
        });
        let plan = camera.begin_frame(now, frame as u64, force_idr, &[]);
        let (base_qp, vbv) = (plan.base_qp, plan.vbv);
        run.capped += usize::from(base_qp != point.low_qp);
        if let Some(vbv) = vbv {
            low.set_vbv(vbv)?;
        }
        let (low_bytes, idr) = low.encode(scene.frame(frame), base_qp, force_idr)?;
        camera.end_frame(now, low_bytes, idr);
        let refine_bytes = match frame.checked_sub(DELAY) {
            Some(of) => {
                let force_idr = of == 0 || o.segments && of.is_multiple_of(SEGMENT);
                refine.encode(&scene.regions(of), point.high_qp, force_idr)?.0
            }
            None => 0,
        };
        window.coded(now, low_bytes, refine_bytes);
        controller.on_frame(low_bytes, refine_bytes);
        run.targets.push(f64::from(kbps));
        run.low.push(low_bytes);
        run.refine.push(refine_bytes);
        run.points.push(point);
        bar.step();
    }
    Ok(run)
}

impl Run {
    /// Kbit/s in the second that begins with a frame.
    fn kbps(&self, from: usize) -> f64 {
        let sum = |bytes: &[usize]| bytes[from..from + self.second].iter().sum::<usize>();
        (sum(&self.low) + sum(&self.refine)) as f64 / 125.0
    }

    /// First frames of the judged seconds, each with its target.
    fn judged(&self) -> impl Iterator<Item = (usize, f64)> {
        let second = self.second;
        (2 * second..(self.targets.len() + 1).saturating_sub(second)).filter_map(move |from| {
            let target = self.targets[from];
            if self.windows {
                return from.is_multiple_of(second).then_some((from, target));
            }
            let settled = self.targets[from - 2 * second..from].iter().all(|t| *t == target);
            let within = self.targets[from..from + second].iter().copied().fold(0.0, f64::max);
            settled.then_some((from, within))
        })
    }

    fn report(&self) -> String {
        let judged = || self.judged().map(|(from, target)| self.kbps(from) / target);
        let worst = judged().fold(0.0, f64::max);
        let above = judged().filter(|used| *used > 1.15).count();
        let finest = |point: &&OperatingPoint| point.low_qp == 20 && point.high_qp == 18;
        let second = self.second;
        let quiet = |from: usize| self.points[from..from + second].iter().filter(finest).count() > second / 10;
        let (mut bits, mut targets) = (0.0, 0.0);
        for (from, _) in self
            .judged()
            .filter(|(from, _)| from.is_multiple_of(second) && !quiet(*from))
        {
            bits += self.kbps(from);
            targets += self.targets[from..from + second].iter().sum::<f64>() / second as f64;
        }
        let sum = |bytes: &[usize]| bytes.iter().sum::<usize>() as f64;
        let range = |of: fn(&OperatingPoint) -> u8| {
            let (least, most) = self.points.iter().fold((u8::MAX, 0), |(least, most), points| {
                (least.min(of(points)), most.max(of(points)))
            });
            format!("{least}-{most}")
        };
        let jumps = self
            .points
            .windows(2)
            .filter(|pair| pair[1].low_qp > pair[0].low_qp + 5);
        format!(
            "{:13} worst {worst:.3} ({above} of {} above 1.15), mean {:.3}, second {:.0} %, low {}, high {}, jumps {}, \
             capped {}",
            self.name,
            self.judged().count(),
            bits / targets,
            100.0 * sum(&self.refine) / (sum(&self.low) + sum(&self.refine)),
            range(|points| points.low_qp),
            range(|points| points.high_qp),
            jumps.count(),
            self.capped,
        )
    }

    fn charts(&self) -> [Chart; 2] {
        let curve = |name: &str, color, stroke, values| Curve {
            name: name.into(),
            color,
            stroke,
            values,
        };
        let all = 0..self.targets.len();
        let seconds = all.clone().map(|frame| {
            if frame < self.second - 1 {
                f64::NAN
            } else {
                self.kbps(frame + 1 - self.second)
            }
        });
        let mut windows = vec![f64::NAN; self.targets.len()];
        for (end, value) in windows.iter_mut().enumerate() {
            if self.windows && (end + 1).is_multiple_of(self.second) {
                *value = self.kbps(end + 1 - self.second);
            }
        }
        let most = 1.3 * self.targets.iter().copied().fold(0.0, f64::max);
        let dots = self
            .windows
            .then(|| curve("control window", WINDOW, Stroke::Dots, windows));
        let limits = self.targets.iter().map(|target| 1.15 * target).collect();
        let qp = |of: fn(&OperatingPoint) -> u8| self.points.iter().map(|points| f64::from(of(points))).collect();
        [
            Chart {
                title: match self.windows {
                    true => format!("drawn targets, {}", self.name),
                    false => self.name.clone(),
                },
                unit: "kbit/s".into(),
                height: 190,
                range: (0.0, most),
                grid: if most > 1500.0 { 500.0 } else { 250.0 },
                curves: [
                    curve("15 % above", LIMIT, Stroke::Dashes, limits),
                    curve("target", TARGET, Stroke::Steps, self.targets.clone()),
                    curve("last second, both passes", BITS, Stroke::Line, seconds.collect()),
                ]
                .into_iter()
                .chain(dots)
                .collect(),
            },
            Chart {
                title: String::new(),
                unit: "QP".into(),
                height: 90,
                range: (52.0, 16.0),
                grid: 10.0,
                curves: vec![
                    curve("low quantizer", LOW, Stroke::Steps, qp(|points| points.low_qp)),
                    curve("high quantizer", HIGH, Stroke::Steps, qp(|points| points.high_qp)),
                ],
            },
        ]
    }
}

fn main() -> Result<(), Error> {
    let Some(o) = options()? else {
        println!("{HELP}");
        return Ok(());
    };
    init()?;
    let (scene, what) = match &o.clip {
        Some(path) => {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (Scene::load(&Clip::load(path, o.first, o.frames)?, o.rate)?, name)
        }
        None => (Scene::synthetic(o.frames, o.rate), "synthetic scene".into()),
    };
    let mean = o.mean;
    let second = scene.rate.round() as usize;
    let mut runs = vec![
        run(&scene, &o, format!("constant {mean}"), false, |_| mean as u32)?,
        run(&scene, &o, "steps".into(), false, |frame| {
            let quarter = (frame * 4 / (o.seconds * second)).min(3);
            (mean * [1.0, 0.45, 1.35, 0.65][quarter]) as u32
        })?,
    ];
    for percent in [5, 10, 20, 30, 40] {
        let mut noise = Noise(o.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let available: Vec<f64> = (0..2 * o.seconds + 2)
            .map(|_| (mean * (1.0 + f64::from(percent) / 100.0 * noise.gauss())).max(0.1 * mean))
            .collect();
        runs.push(run(&scene, &o, format!("sigma {percent} %"), true, |frame| {
            let segment = frame / second * 2;
            ((available[segment] + available[segment + 1]) / 2.0) as u32
        })?);
    }
    for run in &runs {
        println!("{}", run.report());
    }
    if let Some(path) = &o.plot {
        let shown = [1, 4, 6];
        let charts: Vec<_> = shown.iter().flat_map(|n| runs[*n].charts()).collect();
        let passes = if o.segments { "segments" } else { "continuous" };
        let title = format!("Bandwidth of two passes: {what}, {passes}");
        plot::draw(1400, &title, &charts, scene.rate).write_png(path)?;
    }
    Ok(())
}
