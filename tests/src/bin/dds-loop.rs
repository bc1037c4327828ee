// SPDX-License-Identifier: MPL-2.0

//! The closed loop on a clip, in lockstep: bits and F1 of one setting, as one line.

use std::path::PathBuf;

use dds_tests::{Error, clip::Clip, init, lockstep, progress::Bar, score};

const HELP: &str = "\
usage: dds-loop CLIP --model MODEL [options]

Runs ddsencode, a decoder and ddsinfer in lockstep over a clip and prints kbit/s and F1 against the same detector on the
source frames (IoU 0.5, one-to-one, same class, reference scores from 0.3, best test threshold of 0.2-0.4).

options:
  --frames N        frames of the clip (90)
  --first N         first frame (0)
  --background QP   quantizer outside regions (40)
  --region QP       quantizer inside regions (28)
  --delay N         frames until feedback reaches the camera (1)
  --uniform QP      one quantizer, no feedback; may be given several times, one line each
  --no-feedback     the camera hears nothing: uniform at --background
  --two-pass        two passes: --background is the quantizer of the first, --region that of the second
  --segment N       two passes in segments of N frames (0: continuous)
  --low-scale X     size of the first pass, 0.25 to 1 (1)
  --gop N           frames from one key frame to the next (250; two passes in segments have their own)
  --scale X         size of uniform encodes, 0.25 to 1 (1)
  --paper           report the metric of the DDS paper too (vehicles, IoU 0.3, many to one)
  --labels A,B      labels for that metric (car,bus,train,truck)
  --test-score X    least score of a test box in that metric (0.5)
  --ignore CLASS    class of a segmentation that stands for background (none)
  --encoder OPTS    further properties of ddsencode
  --infer OPTS      further properties of ddsinfer
  --iou X           overlap that counts as found (0.5)
  --help            this text";

struct Options {
    clip: PathBuf,
    model: PathBuf,
    frames: usize,
    first: usize,
    background: u32,
    region: u32,
    delay: usize,
    uniform: Vec<u32>,
    feedback: bool,
    two_pass: bool,
    segment: u32,
    low_scale: f64,
    gop: u32,
    scale: f64,
    paper: bool,
    labels: String,
    test_score: f32,
    ignore: Option<u8>,
    encoder: String,
    infer: String,
    iou: f32,
}

fn options() -> Result<Option<Options>, Error> {
    let mut o = Options {
        clip: PathBuf::new(),
        model: PathBuf::new(),
        frames: 90,
        first: 0,
        background: 40,
        region: 28,
        delay: 1,
        uniform: Vec::new(),
        feedback: true,
        two_pass: false,
        segment: 0,
        low_scale: 1.0,
        gop: 250,
        scale: 1.0,
        paper: false,
        labels: score::PaperMetric::VEHICLES.join(","),
        test_score: score::PaperMetric::TEST_SCORE,
        ignore: None,
        encoder: String::new(),
        infer: String::new(),
        iou: 0.5,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--model" => o.model = value()?.into(),
            "--frames" => o.frames = value()?.parse()?,
            "--first" => o.first = value()?.parse()?,
            "--background" => o.background = value()?.parse()?,
            "--region" => o.region = value()?.parse()?,
            "--delay" => o.delay = value()?.parse::<usize>()?.max(1),
            "--uniform" => o.uniform.push(value()?.parse()?),
            "--no-feedback" => o.feedback = false,
            "--two-pass" => o.two_pass = true,
            "--segment" => o.segment = value()?.parse()?,
            "--low-scale" => o.low_scale = value()?.parse()?,
            "--gop" => o.gop = value()?.parse()?,
            "--scale" => o.scale = value()?.parse()?,
            "--paper" => o.paper = true,
            "--labels" => o.labels = value()?,
            "--test-score" => o.test_score = value()?.parse()?,
            "--ignore" => o.ignore = Some(value()?.parse()?),
            "--encoder" => o.encoder = value()?,
            "--infer" => o.infer = value()?,
            "--iou" => o.iou = value()?.parse()?,
            other if !other.starts_with('-') && o.clip.as_os_str().is_empty() => o.clip = other.into(),
            other => return Err(format!("unknown option {other}; see --help").into()),
        }
    }
    if o.clip.as_os_str().is_empty() || o.model.as_os_str().is_empty() {
        return Err("a clip and --model are needed; see --help".into());
    }
    Ok(Some(o))
}

fn main() -> Result<(), Error> {
    let Some(o) = options()? else {
        println!("{HELP}");
        return Ok(());
    };
    init()?;
    let clip = Clip::load(&o.clip, o.first, o.frames)?;
    let infer = format!(
        "ddsinfer model-file=\"{}\" threads=2 box-confidence-threshold=0.05 feedback-threshold=0.3 refine-deadline=60000 {}",
        o.model.display(),
        o.infer
    );
    let run = |encode: &str, infer: &str, delay, what: &str| {
        let mut bar = Bar::new(what, clip.frames.len());
        lockstep::Loop {
            clip: &clip,
            encode,
            infer,
            delay,
            every: 1,
            keep_stream: false,
        }
        .run(&mut || bar.step())
    };
    let source = run("", &infer, 1, "detector on the source")?.lines;
    let reference: Vec<_> = source.iter().map(|l| l.objects.clone()).collect();
    let mut base = format!(
        "ddsencode name=encoder stream-id=1 speed-preset=veryfast key-int-max={} threads=1 wall-clock=false {}",
        o.gop, o.encoder
    );
    if o.scale != 1.0 {
        let side = |side: u32| (f64::from(side) * o.scale / 2.0).round() as u32 * 2;
        let (width, height) = (side(clip.size.0), side(clip.size.1));
        base = format!("videoscale method=lanczos ! video/x-raw,width={width},height={height} ! {base}");
    }
    if o.two_pass {
        base = format!(
            "{base} mode=two-pass segment-length={} low-scale={}",
            o.segment, o.low_scale
        );
    }
    let mut runs: Vec<(String, String, bool)> = o
        .uniform
        .iter()
        .map(|qp| {
            (
                format!("uniform {qp}"),
                format!("{base} background-qp={qp} fallback-qp={qp}"),
                false,
            )
        })
        .collect();
    if runs.is_empty() {
        let (b, r) = (o.background, o.region);
        let name = if o.two_pass {
            format!("two passes {b}, {r}")
        } else if o.feedback {
            format!("regions {r}/{b}")
        } else {
            format!("no feedback {b}")
        };
        runs.push((
            name,
            format!("{base} background-qp={b} fallback-qp={b} region-qp={r}"),
            o.feedback,
        ));
    }
    for (name, encode, feedback) in runs {
        let infer = if feedback {
            infer.clone()
        } else {
            format!("{infer} feedback=false")
        };
        let outcome = run(&encode, &infer, o.delay, &name)?;
        // Every captured picture counts: one that was not sent holds the last result.
        let held: Vec<score::Line> = outcome.held(clip.frames.len()).cloned().collect();
        let found: Vec<_> = held.iter().map(|l| l.objects_at(clip.size)).collect();
        let (f1, threshold) = score::f1(&found, &reference, o.iou);
        let regions: usize = outcome.lines.iter().map(|l| l.regions.len()).sum();
        let paper = if o.paper {
            let labels: Vec<&str> = o.labels.split(',').collect();
            let metric = score::PaperMetric {
                labels: &labels,
                size: clip.size,
                test_score: o.test_score,
            };
            format!(", paper's F1 {:.3}", metric.f1(&found, &reference))
        } else {
            String::new()
        };
        let mut accuracy = format!("F1 {f1:.3} (threshold {threshold}){paper}");
        if let Some((agreement, mean)) = score::segmentation(&held, &source, o.ignore) {
            accuracy = format!("agreement {agreement:.3}, mIoU {mean:.3}");
        }
        if let (right, all) = score::identity_accuracy(&found, &reference)
            && all > 0
        {
            accuracy += &format!(", right names {right:.3} of {all}");
        }
        println!(
            "{name}: {:.0} kbit/s, {accuracy}, {:.0} % of frames sent, {:.1} regions per frame on {:.1} % of it, \
             second pass {:.0} % of bits",
            outcome.kbps(&clip),
            100.0 * outcome.lines.len() as f64 / clip.frames.len().max(1) as f64,
            regions as f64 / outcome.lines.len().max(1) as f64,
            100.0 * outcome.region_area(&clip),
            100.0 * outcome.refine_bytes as f64 / outcome.bytes.max(1) as f64
        );
        if let Some(server) = outcome.server.filter(|_| o.two_pass) {
            let count = |field: &str| server.get::<u64>(field).unwrap_or_default();
            eprintln!(
                "  second passes done {}, refused {}, late {}, damaged {}, after the fact {}",
                count("refine-done"),
                count("refine-refused"),
                count("refine-late"),
                count("refine-damaged"),
                count("refine-after-the-fact")
            );
        }
        if let Some(camera) = outcome.camera {
            let count = |field: &str| camera.get::<u64>(field).unwrap_or_default();
            eprintln!(
                "  worst second {} kbit/s, of which feedback trimmed {} frames; \
                 steered {} of {} frames, regions applied {}, over area {}, clipped {}, expired {}",
                count("peak-second-bytes") / 125,
                count("feedback-trimmed-frames"),
                count("frames-steered"),
                count("frames"),
                count("regions-applied"),
                count("regions-over-area"),
                count("regions-clipped"),
                count("regions-expired")
            );
        }
    }
    Ok(())
}
