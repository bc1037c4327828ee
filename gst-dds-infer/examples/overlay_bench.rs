// SPDX-License-Identifier: MPL-2.0

//! Wall time of `ddsoverlay` per frame of 1080p: `cargo run --release -p gst-plugin-ddsinfer --example overlay_bench`.

use std::time::{Duration, Instant};

use gst_check::Harness;
use gst_video::{VideoFormat, VideoInfo, VideoRegionOfInterestMeta};

const FRAMES: u32 = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    gst::init()?;
    gstddsinfer::plugin_register_static()?;
    println!("format  objects  ms/frame");
    for format in [VideoFormat::I420, VideoFormat::Nv12, VideoFormat::Bgrx] {
        for objects in [0u32, 10, 50] {
            let info = VideoInfo::builder(format, 1920, 1080).build()?;
            let mut harness = Harness::new("ddsoverlay");
            harness.set_src_caps(info.to_caps()?);
            let mut buffer = gst::Buffer::with_size(info.size())?;
            let mut spent = Duration::ZERO;
            for _ in 0..FRAMES {
                let frame = buffer.make_mut();
                for n in 0..objects {
                    let rect = (37 * n % 1800, 101 * n % 900, 60, 120);
                    let mut meta = VideoRegionOfInterestMeta::add(frame, "person", rect);
                    meta.add_param(gst::Structure::builder("detection").field("confidence", 0.87).build());
                }
                let started = Instant::now();
                harness.push(buffer)?;
                buffer = harness.pull()?;
                spent += started.elapsed();
                while let Some(meta) = buffer.make_mut().meta_mut::<VideoRegionOfInterestMeta>() {
                    meta.remove()?;
                }
            }
            println!(
                "{format:<7?} {objects:>7}  {:.3}",
                spent.as_secs_f64() * 1000.0 / f64::from(FRAMES)
            );
        }
    }
    Ok(())
}
