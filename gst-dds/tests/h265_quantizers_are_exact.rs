// SPDX-License-Identifier: MPL-2.0

//! H.265 by libx265: every block is coded with exactly the quantizer asked for.
//!
//! No tool prints the quantizers of H.265, but the distance of decoded noise from the original tells them: each step of
//! the quantizer moves it by more than half a decibel, so parts of pictures are compared with uniform video.

#![cfg(feature = "x265")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Camera, element, ffmpeg_reads, region};
use dds_protocol::feedback::Quality;
use gst::prelude::*;
use gst_video::prelude::*;

/// Most that a part of so many samples may differ from uniform video at its quantizer, in dB: a tenth, and what the mean
/// of so many squares differs by itself. A step of the quantizer makes 0.9 dB.
fn tolerance(samples: f64) -> f64 {
    0.1 + 8.0 / samples.sqrt()
}

fn h265() -> gst::Element {
    let element = element();
    element.set_property_from_str("encoder", "x265");
    // Where a step is nearly a decibel also in noise of full amplitude.
    for (name, qp) in [("background-qp", 44u32), ("region-qp", 34), ("fallback-qp", 38)] {
        element.set_property(name, qp);
    }
    element
}

/// Luma of all pictures that FFmpeg decodes.
fn decoded(stream: &[u8], width: usize, height: usize, frames: usize) -> Vec<Vec<u8>> {
    let before = ["-v", "error", "-xerror", "-f", "hevc", "-i", "-"];
    let output = ffmpeg_reads(
        stream,
        before.into_iter().chain(["-f", "rawvideo", "-pix_fmt", "gray", "-"]),
    );
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    assert_eq!(output.stdout.len(), frames * width * height);
    output.stdout.chunks(width * height).map(<[u8]>::to_vec).collect()
}

/// What was filmed.
struct Filmed {
    camera: Camera,
    originals: Vec<Vec<u8>>,
}

impl Filmed {
    fn new(element: gst::Element, width: u32, height: u32) -> Self {
        Self::with_format(element, gst_video::VideoFormat::I420, width, height)
    }

    fn with_format(element: gst::Element, format: gst_video::VideoFormat, width: u32, height: u32) -> Self {
        Self {
            camera: Camera::with_format(element, format, width, height),
            originals: Vec::new(),
        }
    }

    fn push(&mut self) {
        let picture = self.picture();
        self.push_buffer(picture);
    }

    /// Noise that has nothing to do with the picture before, whose quality then does not matter.
    fn picture(&self) -> gst::Buffer {
        let mut seed = (self.camera.frames as u32 + 1).wrapping_mul(2_654_435_761);
        let mut samples = vec![0; self.camera.info.size()];
        for sample in &mut samples {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *sample = (seed >> 24) as u8;
        }
        let mut picture = gst::Buffer::from_mut_slice(samples);
        let at = gst::ClockTime::SECOND.mul_div_floor(self.camera.frames, 30);
        picture.make_mut().set_pts(at);
        picture
    }

    fn push_buffer(&mut self, picture: gst::Buffer) {
        let (width, height) = (self.camera.info.width() as usize, self.camera.info.height() as usize);
        {
            let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(&picture, &self.camera.info).unwrap();
            let (stride, luma) = (frame.plane_stride()[0] as usize, frame.plane_data(0).unwrap());
            let rows = luma.chunks(stride).take(height).flat_map(|row| &row[..width]);
            self.originals.push(rows.copied().collect());
        }
        self.camera.push_buffer(picture);
    }

    fn force_key_frame(&mut self) {
        let event = gst_video::UpstreamForceKeyUnitEvent::builder().build();
        self.camera.harness.push_upstream_event(event);
    }

    /// Luma of what was coded.
    fn decoded(&self) -> Vec<Vec<u8>> {
        let (width, height) = (self.camera.info.width() as usize, self.camera.info.height() as usize);
        decoded(&self.camera.stream(), width, height, self.originals.len())
    }
}

/// A rectangle in macroblocks: x, y, width, height.
type Blocks = (usize, usize, usize, usize);

/// What a picture was to be coded with: everywhere, and in regions.
struct Wanted {
    idr: bool,
    base: u8,
    regions: Vec<(Blocks, u8)>,
}

fn wanted(idr: bool, base: u8, regions: &[(Blocks, u8)]) -> Wanted {
    Wanted {
        idr,
        base,
        regions: regions.to_vec(),
    }
}

impl Wanted {
    fn at(&self, x: usize, y: usize) -> u8 {
        let within = |r: &Blocks| (r.0..r.0 + r.2).contains(&x) && (r.1..r.1 + r.3).contains(&y);
        self.regions
            .iter()
            .find(|(r, _)| within(r))
            .map_or(self.base, |(_, qp)| *qp)
    }
}

/// Checks each picture's parts against uniform video at the quantizers wanted there, of the same pictures.
fn check(what: &str, filmed: &Filmed, wanted: &[Wanted], make: impl Fn() -> gst::Element) {
    let info = &filmed.camera.info;
    let (width, height) = (info.width() as usize, info.height() as usize);
    let qps: BTreeSet<u8> = wanted
        .iter()
        .flat_map(|w| w.regions.iter().map(|r| r.1).chain([w.base]))
        .collect();
    let uniform: BTreeMap<u8, Vec<Vec<u8>>> = qps
        .into_iter()
        .map(|qp| {
            let element = make();
            for name in ["background-qp", "fallback-qp", "region-qp"] {
                element.set_property(name, u32::from(qp));
            }
            let mut filmed = Filmed::with_format(element, info.format(), info.width(), info.height());
            for (n, wanted) in wanted.iter().enumerate() {
                if wanted.idr && n > 0 {
                    filmed.force_key_frame();
                }
                filmed.push();
            }
            (qp, filmed.decoded())
        })
        .collect();
    let decoded = filmed.decoded();
    assert_eq!(decoded.len(), wanted.len());
    for (n, wanted) in wanted.iter().enumerate() {
        let mut errors: BTreeMap<u8, [f64; 3]> = BTreeMap::new();
        let inner = (0..height / 16 * 16).flat_map(|y| (0..width / 16 * 16).map(move |x| (x, y)));
        for (x, y) in inner {
            // The loop filter blends the edges.
            if !(2..14).contains(&(x % 16)) || !(2..14).contains(&(y % 16)) {
                continue;
            }
            let (at, qp) = (y * width + x, wanted.at(x / 16, y / 16));
            let error = |picture: &[u8]| f64::from(picture[at].abs_diff(filmed.originals[n][at])).powi(2);
            let sums = errors.entry(qp).or_default();
            sums[0] += error(&decoded[n]);
            sums[1] += error(&uniform[&qp][n]);
            sums[2] += 1.0;
        }
        for (qp, [got, same, samples]) in errors {
            let apart = 10.0 * (got / same).log10();
            assert!(
                apart.abs() < tolerance(samples),
                "{what}, picture {n} at {qp}: {apart:.2} dB"
            );
        }
    }
}

#[test]
fn regions_of_all_shapes_on_first_pictures_others_and_key_frames() {
    let mut filmed = Filmed::new(h265(), 320, 240);
    filmed.push();
    filmed.push();
    let shapes: [(&[Blocks], bool); 5] = [
        (&[(4, 3, 4, 4)], false),
        // Borders at odd macroblocks, one macroblock alone, a row and a column.
        (&[(1, 1, 5, 3), (9, 7, 1, 1), (0, 13, 20, 1), (17, 0, 1, 12)], true),
        (&[(0, 0, 7, 15)], false),
        // The right and lower edge.
        (&[(13, 9, 7, 6)], true),
        (&[], false),
    ];
    let mut all = vec![wanted(true, 44, &[]), wanted(false, 38, &[])];
    for (n, (shape, idr)) in shapes.into_iter().enumerate() {
        let list: Vec<_> = shape
            .iter()
            .map(|&(x, y, w, h)| {
                let [x, y, w, h] = [x, y, w, h].map(|v| v as u32 * 16);
                region(x, y, w, h, Quality::Camera)
            })
            .collect();
        filmed.camera.feedback(n as u16 + 1, n as u64 + 1, &list);
        if idr {
            filmed.force_key_frame();
        }
        filmed.push();
        let regions: Vec<_> = shape.iter().map(|blocks| (*blocks, 34)).collect();
        all.push(wanted(idr, 44, &regions));
    }
    check("shapes", &filmed, &all, h265);
}

#[test]
fn quantizers_change_live_and_key_frames_after_a_fall_have_them_at_once() {
    let mut filmed = Filmed::new(h265(), 320, 240);
    filmed.push();
    let list = [
        region(96, 64, 128, 96, Quality::Camera),
        region(0, 0, 48, 48, Quality::Qp(32)),
    ];
    filmed.camera.feedback(1, 0, &list);
    filmed.push();
    let (first, second) = ((6, 4, 8, 6), (0, 0, 3, 3));
    let mut all = vec![wanted(true, 44, &[]), wanted(false, 44, &[(first, 34), (second, 32)])];
    for (background, inside) in [(46u8, 36u8), (38, 32), (48, 34)] {
        filmed
            .camera
            .element
            .set_property("background-qp", u32::from(background));
        filmed.camera.element.set_property("region-qp", u32::from(inside));
        filmed.push();
        filmed.force_key_frame();
        filmed.push();
        let regions = [(first, inside), (second, 32)];
        all.push(wanted(false, background, &regions));
        all.push(wanted(true, background, &regions));
    }
    check("live", &filmed, &all, h265);
}

#[test]
fn presets_threads_formats_and_sizes_keep_quantizers_exact() {
    use gst_video::VideoFormat as F;
    for (preset, format, width, height, threads) in [
        ("ultrafast", F::I420, 320, 240, 1u32),
        ("veryfast", F::Yv12, 322, 242, 2),
        ("medium", F::I420, 318, 230, 1),
        ("slower", F::Y444, 160, 128, 0),
    ] {
        let make = || {
            let element = h265();
            element.set_property_from_str("speed-preset", preset);
            element.set_property("threads", threads);
            // Both weigh bits by the slice's quantizer, so that other blocks of the picture matter to a block.
            element.set_property("option-string", "no-sao=1:psy-rd=0:psy-rdoq=0");
            element
        };
        let mut filmed = Filmed::with_format(make(), format, width, height);
        filmed.push();
        filmed.camera.feedback(1, 0, &[region(32, 32, 80, 80, Quality::Camera)]);
        filmed.push();
        filmed.force_key_frame();
        filmed.push();
        let regions = [((2, 2, 5, 5), 34)];
        let all = [
            wanted(true, 44, &[]),
            wanted(false, 44, &regions),
            wanted(true, 44, &regions),
        ];
        check(preset, &filmed, &all, make);
    }
}

#[test]
fn all_ways_of_asking_reach_the_encoder() {
    let blocks = (5, 2, 6, 7);
    let [x, y, width, height] = [80, 32, 96, 112];
    let list = [region(x, y, width, height, Quality::Camera)];
    let streams = ["event", "pad", "meta"].map(|way| {
        let element = h265();
        if way == "pad" {
            element.request_pad_simple("feedback").unwrap();
        }
        let mut filmed = Filmed::new(element, 320, 240);
        filmed.push();
        let mut picture = filmed.picture();
        match way {
            "event" => {
                filmed.camera.feedback(1, 0, &list);
            }
            "pad" => {
                let pad = filmed.camera.element.static_pad("feedback").unwrap();
                pad.send_event(gst::event::StreamStart::new("feedback"));
                pad.send_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
                for packet in common::packets(1, 0, &list) {
                    pad.chain(gst::Buffer::from_mut_slice(packet)).unwrap();
                }
            }
            _ => {
                filmed.camera.element.set_property("fallback-qp", 44u32);
                let picture = picture.make_mut();
                let mut meta = gst_video::VideoRegionOfInterestMeta::add(picture, "face", (x, y, width, height));
                let param = gst::Structure::builder("roi/ddsencode").field("delta-qp", -10i32);
                meta.add_param(param.build());
            }
        }
        filmed.push_buffer(picture);
        check(
            way,
            &filmed,
            &[wanted(true, 44, &[]), wanted(false, 44, &[(blocks, 34)])],
            h265,
        );
        let slices = filmed.camera.units[1].map_readable().unwrap();
        slices.len()
    });
    assert!(streams.iter().all(|size| *size == streams[0]), "{streams:?}");
}

#[test]
fn large_coding_units_widen_regions_and_save_bits() {
    let make = || {
        let element = h265();
        element.set_property("option-string", "ctu=32");
        element
    };
    let mut filmed = Filmed::new(make(), 320, 256);
    filmed.push();
    filmed.camera.feedback(1, 0, &[region(16, 16, 32, 48, Quality::Camera)]);
    filmed.push();
    let all = [wanted(true, 44, &[]), wanted(false, 44, &[((0, 0, 4, 4), 34)])];
    check("ctu=32", &filmed, &all, make);
}

#[test]
fn a_cap_that_does_not_bite_leaves_quantizers_alone() {
    let element = h265();
    element.set_property("max-bitrate", 300_000u32);
    let mut filmed = Filmed::new(element, 320, 240);
    filmed.push();
    filmed
        .camera
        .feedback(1, 0, &[region(96, 64, 128, 96, Quality::Camera)]);
    filmed.push();
    filmed.force_key_frame();
    filmed.push();
    let regions = [((6, 4, 8, 6), 34)];
    let all = [
        wanted(true, 44, &[]),
        wanted(false, 44, &regions),
        wanted(true, 44, &regions),
    ];
    check("cap", &filmed, &all, h265);
}
