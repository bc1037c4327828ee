// SPDX-License-Identifier: MPL-2.0

//! Checks NVENC on this machine region by region, with the quantizers that FFmpeg reads from the stream.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dds_tests::qp::{self, QpPicture};
use dds_tests::{Error, bus_error, init, launch};
use gst::prelude::*;

const HELP: &str = "\
usage: dds-nvenc-selftest [options]

Codes noise with regions through NVIDIA's driver, reads the quantizer of each macroblock back from the H.264 stream with
ffmpeg, and prints for each region what was asked, what came, and PASS or FAIL. Besides regions: a base quantizer that
changes while the encoder runs, and a key frame on demand. Where GStreamer has `cudaupload`, once more with pictures that
lie in the GPU's memory.

options:
  --encoder NAME  another value of the property `encoder` (nvenc)
  --keep FOLDER   where the streams stay (default: nowhere)
  --help          this text

Exit status: 0 where everything passed, 1 where something failed, 2 where it could not be tried.
";

/// Pictures of a run; the first one with the second base quantizer, and the one requested as a key frame.
const PICTURES: usize = 30;
const CHANGED: usize = 10;
const FORCED: usize = 20;
/// Base quantizers before and after.
const BASES: [u8; 2] = [36, 30];
/// Sizes to test: whole macroblocks, and not.
const SIZES: [(usize, usize); 3] = [(640, 480), (1280, 720), (642, 362)];

/// A region on the macroblock grid (x, y, width, height in pixels) and its QP offset.
#[derive(Clone, Copy, Debug)]
struct Asked {
    rect: (u32, u32, u32, u32),
    delta: i32,
}

/// Finer, much finer, a single macroblock, and coarser.
const REGIONS: [Asked; 4] = [
    Asked {
        rect: (64, 48, 96, 96),
        delta: -10,
    },
    Asked {
        rect: (320, 64, 64, 32),
        delta: -24,
    },
    Asked {
        rect: (0, 224, 16, 16),
        delta: -4,
    },
    Asked {
        rect: (480, 160, 96, 64),
        delta: 8,
    },
];

struct Options {
    encoder: String,
    keep: Option<PathBuf>,
}

fn options() -> Result<Option<Options>, Error> {
    let mut options = Options {
        encoder: "nvenc".into(),
        keep: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--help" | "-h" => return Ok(None),
            "--encoder" => options.encoder = value()?,
            "--keep" => options.keep = Some(value()?.into()),
            _ => return Err(format!("unknown option {name}; see --help").into()),
        }
    }
    Ok(Some(options))
}

/// Outcome of a run.
struct Coded {
    /// Name of the encoder.
    encoder: String,
    /// Pictures that went through system memory although they were on the GPU.
    downloaded: u64,
}

/// Codes a run into `file`, with pictures in the GPU's memory or in the system's.
fn code(encoder: &str, (width, height): (usize, usize), on_gpu: bool, file: &Path) -> Result<Coded, Error> {
    let upload = if on_gpu {
        "cudaupload ! video/x-raw(memory:CUDAMemory) !"
    } else {
        ""
    };
    let pipeline = launch(&format!(
        "videotestsrc pattern=snow num-buffers={PICTURES} ! \
         video/x-raw,format=NV12,width={width},height={height},framerate=30/1 ! {upload} identity name=i ! \
         ddsencode name=e encoder={encoder} background-qp={base} fallback-qp={base} feedback-timeout=0 ! \
         video/x-h264,stream-format=byte-stream ! filesink name=f",
        base = BASES[0]
    ))?;
    let of = |name: &str| pipeline.by_name(name).ok_or("an element is gone");
    of("f")?.set_property("location", file.to_str().ok_or("the folder's name is no text")?);
    let element = of("e")?;
    let source = of("i")?.static_pad("src").ok_or("a pad is gone")?;
    let number = AtomicUsize::new(0);
    let camera = element.clone();
    source.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        if number == CHANGED {
            for name in ["background-qp", "fallback-qp"] {
                camera.set_property(name, u32::from(BASES[1]));
            }
        }
        if number == FORCED {
            let force = gst_video::DownstreamForceKeyUnitEvent::builder().build();
            pad.push_event(force);
        }
        if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
            let buffer = buffer.make_mut();
            for asked in REGIONS {
                let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer, "selftest", asked.rect);
                let delta = gst::Structure::builder("roi/ddsencode").field("delta-qp", asked.delta);
                meta.add_param(delta.build());
            }
        }
        gst::PadProbeReturn::Ok
    });
    let name = Arc::new(Mutex::new(String::new()));
    let reported = name.clone();
    let out = element.static_pad("src").ok_or("a pad is gone")?;
    out.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::PadProbeData::Event(event)) = &info.data
            && let gst::EventView::Tag(tag) = event.view()
            && let Some(encoder) = tag.tag().get::<gst::tags::Encoder>()
        {
            *reported.lock().unwrap() = encoder.get().to_string();
        }
        gst::PadProbeReturn::Ok
    });
    let bus = pipeline.bus().ok_or("the pipeline has no bus")?;
    let started = pipeline.set_state(gst::State::Playing);
    let end = started.is_ok().then(|| {
        bus.timed_pop_filtered(
            gst::ClockTime::from_seconds(60),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
    });
    let failed = match end.flatten().as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Eos(_)) => None,
        Some(gst::MessageView::Error(e)) => Some(format!("{} ({})", e.error(), e.debug().unwrap_or_default())),
        _ => Some(bus_error(&pipeline).unwrap_or_else(|| "nothing happens for a minute".into())),
    };
    pipeline.set_state(gst::State::Null)?;
    if let Some(words) = failed {
        return Err(words.into());
    }
    let stats = element.property::<gst::Structure>("stats");
    Ok(Coded {
        encoder: name.lock().unwrap().clone(),
        downloaded: stats.get("frames-downloaded")?,
    })
}

/// Lowest and highest quantizer coded in some macroblocks of some pictures. Skipped ones have none.
fn seen(pictures: &[QpPicture], within: impl Fn(u32, u32) -> bool) -> Option<(u8, u8)> {
    let mut range = None;
    for picture in pictures {
        for (i, (qp, skipped)) in picture.qps.iter().zip(&picture.skipped).enumerate() {
            let (x, y) = ((i % picture.columns) as u32 * 16, (i / picture.columns) as u32 * 16);
            if !skipped && within(x, y) {
                let (low, high) = range.unwrap_or((*qp, *qp));
                range = Some((low.min(*qp), high.max(*qp)));
            }
        }
    }
    range
}

fn contains(rect: (u32, u32, u32, u32), x: u32, y: u32) -> bool {
    (rect.0..rect.0 + rect.2).contains(&x) && (rect.1..rect.1 + rect.3).contains(&y)
}

/// Prints one line of the table; returns whether the check passed.
fn line(what: &str, asked: &str, got: &str, passed: bool) -> bool {
    let verdict = if passed { "PASS" } else { "FAIL" };
    println!("  {what:<34}{asked:>6}{got:>10}  {verdict}");
    passed
}

/// Judges a run.
fn judge(file: &Path) -> Result<bool, Error> {
    let pictures = qp::read(file)?;
    let mut passed = line(
        "pictures",
        &PICTURES.to_string(),
        &pictures.len().to_string(),
        pictures.len() == PICTURES,
    );
    if !passed {
        return Ok(false);
    }
    let intra: Vec<_> = (0..PICTURES).filter(|i| pictures[*i].intra).collect();
    passed &= line(
        "key frames",
        &format!("0,{FORCED}"),
        &format!("{intra:?}"),
        intra == [0, FORCED],
    );
    for (base, range) in BASES.into_iter().zip([0..CHANGED, CHANGED..PICTURES]) {
        let name = format!("pictures {} to {}", range.start, range.end - 1);
        let pictures = &pictures[range];
        let mut judge = |what: String, asked: u8, got: Option<(u8, u8)>| {
            let text = match got {
                None => "none".into(),
                Some((low, high)) if low == high => low.to_string(),
                Some((low, high)) => format!("{low} to {high}"),
            };
            passed &= line(&what, &asked.to_string(), &text, got == Some((asked, asked)));
        };
        let outside = seen(pictures, |x, y| !REGIONS.iter().any(|asked| contains(asked.rect, x, y)));
        judge(format!("{name}, outside"), base, outside);
        for asked in REGIONS {
            let (x, y, width, height) = asked.rect;
            let wanted = (i32::from(base) + asked.delta).clamp(1, 51) as u8;
            let got = seen(pictures, |x, y| contains(asked.rect, x, y));
            judge(format!("  region {x},{y} {width}x{height}"), wanted, got);
        }
    }
    Ok(passed)
}

fn run(options: &Options) -> Result<bool, Error> {
    init()?;
    let kept = options.keep.is_some();
    let folder = options
        .keep
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("dds-nvenc-selftest-{}", std::process::id())));
    std::fs::create_dir_all(&folder)?;
    let result = (|| {
        let mut passed = true;
        let heading = |what: &str| println!("{what:<34}{:>8}{:>10}", "asked", "got");
        for (i, size) in SIZES.into_iter().enumerate() {
            let name = format!("{}x{}", size.0, size.1);
            let file = folder.join(format!("{name}.h264"));
            let coded = code(&options.encoder, size, false, &file)?;
            if i == 0 {
                println!("encoder  {}", coded.encoder);
                if let Ok(driver) = std::fs::read_to_string("/proc/driver/nvidia/version") {
                    println!("driver   {}", driver.lines().next().unwrap_or_default());
                }
            }
            heading(&name);
            passed &= judge(&file)?;
        }
        if gst::ElementFactory::find("cudaupload").is_none() {
            println!("CUDA memory: not tried, GStreamer has no cudaupload here");
            return Ok(passed);
        }
        let file = folder.join("cuda.h264");
        let (width, height) = SIZES[0];
        let coded = code(&options.encoder, SIZES[0], true, &file)?;
        heading(&format!("{width}x{height} in CUDA memory"));
        let downloaded = coded.downloaded.to_string();
        passed &= line("read by way of system memory", "0", &downloaded, coded.downloaded == 0);
        passed &= judge(&file)?;
        Ok(passed)
    })();
    if !kept {
        let _ = std::fs::remove_dir_all(&folder);
    }
    result
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => {
            println!("PASS: every macroblock has the quantizer asked for");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("FAIL: this driver does not do what was asked; see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
