// SPDX-License-Identifier: MPL-2.0

//! Wall time of `Detector::infer` (pre-processing, ONNX Runtime, decoding, suppression) against the bare ONNX Runtime
//! call on the same input, alternating, medians and their ratio:
//!
//! ```text
//! cargo run --release -p gst-plugin-ddsinfer --example infer_bench -- MODEL.onnx [WIDTH HEIGHT [ROUNDS [THREADS [PICTURE]]]]
//! ```
//!
//! PICTURE is a file of raw NV12 of that size; without one, a pattern is used. `ORT_DYLIB_PATH` names the library.

use std::time::{Duration, Instant};

use gstddsinfer::model::{Detector, InferSettings, ModelSettings, Picture, PixelLayout};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = args
        .next()
        .ok_or("usage: infer_bench MODEL.onnx [WIDTH HEIGHT [ROUNDS [THREADS [PICTURE]]]]")?;
    let mut number = |default: u32| args.next().map_or(Ok(default), |a| a.parse());
    let (width, height, rounds, threads) = (number(1280)?, number(720)?, number(21)?.max(1), number(0)?);
    let (w, h) = (width as usize, height as usize);
    let data = match args.next() {
        Some(file) => std::fs::read(file)?,
        None => (0..w * h * 2)
            .map(|i| ((i % w) * 7 / 5 + (i / w) * 3 + i * i % 61) as u8)
            .collect(),
    };
    let luma = w * h;
    if data.len() < luma {
        return Err("the picture is too short".into());
    }
    let picture = Picture::new(
        PixelLayout::Nv12,
        width,
        height,
        [&data[..luma], &data[luma..], &[]],
        [w, w.div_ceil(2) * 2, 0],
    )?;

    let settings = ModelSettings {
        model_file: model.into(),
        threads,
        ..Default::default()
    };
    let mut detector = Detector::open(&settings)?;
    println!("{}", detector.summary());
    let infer_settings = InferSettings::default();
    for _ in 0..3 {
        detector.infer(&picture, &infer_settings)?;
    }
    let (mut whole, mut bare, mut before, mut after, mut found) = (vec![], vec![], vec![], vec![], 0);
    for _ in 0..rounds {
        bare.push(detector.run_again()?);
        let start = Instant::now();
        let result = detector.infer(&picture, &infer_settings)?;
        whole.push(start.elapsed());
        before.push(result.preprocess);
        after.push(result.decode);
        found = result.detections.len();
    }
    let least = [&whole, &bare, &before, &after].map(|t| t.iter().min().copied().unwrap_or_default());
    let [whole, bare, before, after] = [whole, bare, before, after].map(median);
    println!(
        "{width}x{height}, {rounds} rounds, medians: infer {:.2} ms (pre-processing {:.2}, decoding {:.2}), bare run {:.2} ms, \
         ratio {:.3}, {found} objects",
        ms(whole),
        ms(before),
        ms(after),
        ms(bare),
        whole.as_secs_f64() / bare.as_secs_f64(),
    );
    println!(
        "minima, for a busy machine: infer {:.2} ms (pre-processing {:.2}, decoding {:.2}), bare run {:.2} ms",
        ms(least[0]),
        ms(least[2]),
        ms(least[3]),
        ms(least[1]),
    );
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
