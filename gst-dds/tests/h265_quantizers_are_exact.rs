// SPDX-License-Identifier: MPL-2.0

//! H.265: every block is coded with exactly the requested quantizer, by libx265 and by NVENC on the stand-in for its
//! driver.
//!
//! No tool prints the quantizers of H.265, but the distance of decoded noise from the original shows them: each step of
//! the quantizer moves it by half a decibel to a whole one. Inside and outside each region, in IDR and P pictures, it
//! has to be within a tenth of that of the same picture coded with that quantizer everywhere, from the same references.
//! A few samples do not resolve a tenth, so pictures of several noises count together, and so do regions of equal size
//! in a picture. Blocks at the edge of a region count too: in noise, prediction and the loop filter carry nothing
//! visible across. `--nocapture` prints the measurements.

#![cfg(feature = "x265")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Camera, element, ffmpeg_reads, region};
use dds_protocol::feedback::{Quality, Region};
use gst::prelude::*;
use gst_video::prelude::*;

/// Most that a part of a picture may differ from uniform video at its quantizer, in dB.
const TOLERANCE: f64 = 0.1;
/// Fewest samples that a part is judged by: means of fewer squares differ by some 0.02 dB by chance.
const ENOUGH: u64 = 45_000;
/// Most that a single macroblock may differ, in dB. This checks the position of regions, not their quantizers: a single
/// macroblock differs by up to two decibels by chance, and on the wrong side of an edge by five or more.
const MISPLACED: f64 = 3.0;

fn h265() -> gst::Element {
    let element = element();
    // Noise at the finest quantizers costs more than feedback may add.
    element.set_property("max-feedback-bitrate", 0i32);
    if !fake_nvenc::is_child() {
        element.set_property_from_str("encoder", "x265");
    }
    // Quantizers where a step is half a decibel or more also in noise of full amplitude.
    for (name, qp) in [("background-qp", 44u32), ("region-qp", 34), ("fallback-qp", 38)] {
        element.set_property(name, qp);
    }
    // Equal sizes of parts let them share small pictures.
    element.set_property("max-region-area", 1.0);
    element
}

/// Luma of all pictures that FFmpeg decodes.
fn decoded(stream: &[u8], format: Format, frames: usize) -> Vec<Vec<u8>> {
    let before = ["-v", "error", "-xerror", "-f", "hevc", "-i", "-"];
    let output = ffmpeg_reads(
        stream,
        before.into_iter().chain(["-f", "rawvideo", "-pix_fmt", "gray", "-"]),
    );
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    let size = format.width * format.height;
    assert_eq!(output.stdout.len(), frames * size);
    output.stdout.chunks(size).map(<[u8]>::to_vec).collect()
}

/// A rectangle in macroblocks: x, y, width, height.
type Blocks = (usize, usize, usize, usize);

fn blocks_region((x, y, width, height): Blocks, quality: Quality) -> Region {
    let [x, y, width, height] = [x, y, width, height].map(|v| v as u32 * 16);
    region(x, y, width, height, quality)
}

/// Format of the video.
#[derive(Clone, Copy)]
struct Format {
    format: gst_video::VideoFormat,
    width: usize,
    height: usize,
}

impl Format {
    const fn new(format: gst_video::VideoFormat, width: usize, height: usize) -> Self {
        Self { format, width, height }
    }
}

/// 20 by 15 macroblocks.
const FORMAT: Format = Format::new(gst_video::VideoFormat::I420, 320, 240);

/// The captured video.
struct Filmed {
    camera: Camera,
    format: Format,
    seed: u64,
    /// Number of the next picture: pictures of equal numbers and seeds are equal.
    number: usize,
    generation: u16,
    originals: Vec<Vec<u8>>,
}

impl Filmed {
    fn new(element: gst::Element, format: Format, seed: u64) -> Self {
        let (width, height) = (format.width as u32, format.height as u32);
        Self {
            camera: Camera::with_peer(element, format.format, width, height, "video/x-h265"),
            format,
            seed,
            number: 0,
            generation: 0,
            originals: Vec::new(),
        }
    }

    fn push(&mut self) {
        let picture = self.picture();
        self.push_buffer(picture);
    }

    /// Noise independent of the picture before. SplitMix64 ensures that: pictures by simpler generators resemble one
    /// another, which motion vectors find.
    fn picture(&self) -> gst::Buffer {
        let mut state = self.seed << 32 | self.number as u64;
        let mut samples = vec![0; self.camera.info.size()];
        for eight in samples.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            eight.copy_from_slice(&(mixed ^ mixed >> 31).to_le_bytes()[..eight.len()]);
        }
        let mut picture = gst::Buffer::from_mut_slice(samples);
        let at = gst::ClockTime::SECOND.mul_div_floor(self.camera.frames, 30);
        picture.make_mut().set_pts(at);
        picture
    }

    fn push_buffer(&mut self, picture: gst::Buffer) {
        let Format { width, height, .. } = self.format;
        {
            let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(&picture, &self.camera.info).unwrap();
            let (stride, luma) = (frame.plane_stride()[0] as usize, frame.plane_data(0).unwrap());
            let rows = luma.chunks(stride).take(height).flat_map(|row| &row[..width]);
            self.originals.push(rows.copied().collect());
        }
        self.camera.push_buffer(picture);
        self.number += 1;
    }

    fn force_key_frame(&mut self) {
        let event = gst_video::UpstreamForceKeyUnitEvent::builder().build();
        self.camera.harness.push_upstream_event(event);
    }

    fn feedback(&mut self, regions: &[(Blocks, Quality)]) {
        let list: Vec<_> = regions.iter().map(|r| blocks_region(r.0, r.1)).collect();
        self.generation += 1;
        let newest = self.camera.frames.saturating_sub(1);
        assert!(self.camera.feedback(self.generation, newest, &list));
    }

    fn set(&self, name: &str, qp: u8) {
        self.camera.element.set_property(name, u32::from(qp));
    }

    /// Luma of the captured pictures.
    fn decoded(&self) -> Vec<Vec<u8>> {
        decoded(&self.camera.stream(), self.format, self.originals.len())
    }
}

/// Quantizers to code a picture with: everywhere, and in regions.
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
    fn quantizers(&self) -> BTreeSet<u8> {
        self.regions.iter().map(|r| r.1).chain([self.base]).collect()
    }

    /// Size of the region that a macroblock is in, none outside all, and the quantizer there.
    fn at(&self, x: usize, y: usize) -> (Option<(usize, usize)>, u8) {
        let within = |r: &Blocks| (r.0..r.0 + r.2).contains(&x) && (r.1..r.1 + r.3).contains(&y);
        let found = self.regions.iter().find(|(r, _)| within(r));
        found.map_or((None, self.base), |(r, qp)| (Some((r.2, r.3)), *qp))
    }
}

/// Squared errors of each macroblock, and how many samples it has.
fn errors(picture: &[u8], original: &[u8], format: Format) -> Vec<[u64; 2]> {
    let across = format.width.div_ceil(16);
    let mut sums = vec![[0, 0]; across * format.height.div_ceil(16)];
    let rows = picture.chunks(format.width).zip(original.chunks(format.width));
    for (y, (row, original)) in rows.enumerate() {
        for (x, (row, original)) in row.chunks(16).zip(original.chunks(16)).enumerate() {
            let [sum, samples] = &mut sums[y / 16 * across + x];
            for (a, b) in row.iter().zip(original) {
                *sum += u64::from(a.abs_diff(*b)).pow(2);
            }
            *samples += row.len() as u64;
        }
    }
    sums
}

/// Squared errors of a part of pictures and of the same part of uniform video, and the number of samples.
#[derive(Clone, Copy, Default)]
struct Compared {
    got: u64,
    same: u64,
    samples: u64,
}

impl Compared {
    fn with(self, [got, samples]: [u64; 2], [same, _]: [u64; 2]) -> Self {
        Self {
            got: self.got + got,
            same: self.same + same,
            samples: self.samples + samples,
        }
    }

    fn decibels(self) -> f64 {
        10.0 * (self.got as f64 / self.same as f64).log10()
    }

    fn judge(self, what: &str) {
        let apart = self.decibels();
        // For `--nocapture`.
        println!("{what}: {apart:.3} dB in {} samples", self.samples);
        assert!(self.samples >= ENOUGH, "{what}: only {} samples", self.samples);
        assert!(apart.abs() < TOLERANCE, "{what}: {apart:.3} dB");
    }
}

/// A film: how its elements are made, the quantizers of each picture, and how a picture is coded, from feedback to
/// pushing it. Key frames are requested separately.
struct Film<'a> {
    format: Format,
    make: &'a dyn Fn() -> gst::Element,
    wanted: &'a [Wanted],
    act: &'a dyn Fn(&mut Filmed, usize),
}

impl Film<'_> {
    fn act(&self, filmed: &mut Filmed, number: usize) {
        filmed.number = number;
        if self.wanted[number].idr && filmed.camera.frames > 0 {
            filmed.force_key_frame();
        }
        (self.act)(filmed, number);
    }

    /// The key frame that a picture refers back to.
    fn key(&self, number: usize) -> usize {
        (0..=number).rev().find(|n| self.wanted[*n].idr).unwrap()
    }

    /// Films a picture with one quantizer everywhere, after the pictures that it is predicted from, as in the film.
    fn uniform(&self, seed: u64, number: usize, qp: u8) -> Filmed {
        let mut filmed = Filmed::new((self.make)(), self.format, seed);
        let key = self.key(number);
        if (1..number).contains(&key) {
            // Feedback refers to earlier pictures.
            filmed.push();
        }
        (key..number).for_each(|before| self.act(&mut filmed, before));
        for name in ["background-qp", "fallback-qp", "region-qp"] {
            filmed.set(name, qp);
        }
        if filmed.generation > 0 {
            filmed.feedback(&[]);
        }
        filmed.number = number;
        filmed.push();
        filmed
    }

    /// Checks each picture's parts against uniform video at the wanted quantizers, of the same pictures. Returns the
    /// stream of the first seed.
    fn check(&self, what: &str, seeds: u64) -> Vec<u8> {
        let across = self.format.width.div_ceil(16);
        let mut parts: BTreeMap<_, Compared> = BTreeMap::new();
        let mut first = Vec::new();
        for seed in 0..seeds {
            let mut filmed = Filmed::new((self.make)(), self.format, seed);
            (0..self.wanted.len()).for_each(|number| self.act(&mut filmed, number));
            let mut stream = filmed.camera.stream();
            if seed == 0 {
                first.clone_from(&stream);
            }
            // All in one stream: FFmpeg takes longer to start than to decode.
            let (mut frames, mut uniform) = (self.wanted.len(), BTreeMap::new());
            for (number, wanted) in self.wanted.iter().enumerate() {
                for qp in wanted.quantizers() {
                    let filmed = self.uniform(seed, number, qp);
                    stream.extend(filmed.camera.stream());
                    frames += filmed.originals.len();
                    uniform.insert((number, qp), frames - 1);
                }
            }
            let decoded = decoded(&stream, self.format, frames);
            let of = |picture: usize, number: usize| errors(&decoded[picture], &filmed.originals[number], self.format);
            for (&(number, qp), at) in &uniform {
                let references = number - self.key(number);
                let same = decoded[number - references..number] == decoded[at - references..*at];
                assert!(same, "{what}, picture {number} at {qp}: references differ");
            }
            let uniform: BTreeMap<_, _> = uniform.into_iter().map(|(key, at)| (key, of(at, key.0))).collect();
            for (number, wanted) in self.wanted.iter().enumerate() {
                for (i, got) in of(number, number).into_iter().enumerate() {
                    let (x, y) = (i % across, i / across);
                    let (size, qp) = wanted.at(x, y);
                    let same = uniform[&(number, qp)][i];
                    let apart = Compared::default().with(got, same).decibels();
                    // Regions cut off by the picture's edge have too few samples for that.
                    assert!(
                        got[1] < 256 || apart.abs() < MISPLACED,
                        "{what}, picture {number}: macroblock {x},{y} is misplaced, {apart:.1} dB"
                    );
                    let part = parts.entry((number, size, qp)).or_default();
                    *part = part.with(got, same);
                }
            }
        }
        for ((number, size, qp), part) in parts {
            let kind = if self.wanted[number].idr { "IDR" } else { "P" };
            let place = size.map_or("outside".into(), |(w, h)| format!("inside {w} by {h}"));
            part.judge(&format!("{what}, picture {number} ({kind}), {place} at {qp}"));
        }
        first
    }
}

/// Regions alone, in a P picture and in an IDR picture.
fn check_regions(what: &str, seeds: u64, format: Format, make: &dyn Fn() -> gst::Element, regions: &[Blocks]) {
    check_widened(what, seeds, format, make, regions, regions);
}

/// The same where the blocks coded so differ slightly from the requested ones.
fn check_widened(
    what: &str,
    seeds: u64,
    format: Format,
    make: &dyn Fn() -> gst::Element,
    regions: &[Blocks],
    coded: &[Blocks],
) {
    let coded: Vec<_> = coded.iter().map(|blocks| (*blocks, 34)).collect();
    let list: Vec<_> = regions.iter().map(|blocks| (*blocks, Quality::Camera)).collect();
    let film = Film {
        format,
        make,
        wanted: &[
            wanted(true, 44, &[]),
            wanted(false, 44, &coded),
            wanted(true, 44, &coded),
        ],
        act: &|filmed, number| {
            if number == 1 {
                filmed.feedback(&list);
            }
            filmed.push();
        },
    };
    film.check(what, seeds);
}

#[test]
fn regions_of_all_shapes_on_first_pictures_others_and_key_frames() {
    // At odd macroblocks, along one side, along two.
    let shapes: [(&[Blocks], bool); 6] = [
        (&[(5, 3, 10, 9)], false),
        (&[(1, 1, 9, 11), (11, 5, 9, 10)], true),
        (&[(0, 0, 7, 15)], false),
        (&[(8, 5, 12, 10)], true),
        (&[(8, 5, 12, 10)], false),
        (&[], false),
    ];
    let mut all = vec![wanted(true, 44, &[]), wanted(false, 38, &[])];
    all.extend(shapes.iter().map(|(shape, idr)| {
        let regions: Vec<_> = shape.iter().map(|blocks| (*blocks, 34)).collect();
        wanted(*idr, 44, &regions)
    }));
    let film = Film {
        format: FORMAT,
        make: &h265,
        wanted: &all,
        act: &|filmed, number| {
            if number > 1 {
                let list = shapes[number - 2].0.iter().map(|blocks| (*blocks, Quality::Camera));
                filmed.feedback(&list.collect::<Vec<_>>());
            }
            filmed.push();
        },
    };
    film.check("shapes", 2);
}

#[test]
fn single_macroblocks_rows_and_columns_keep_quantizers_exact() {
    // Every macroblock of these pictures lies at an edge.
    let singles: Vec<Blocks> = (0..70).map(|i| (i % 10 * 2, i / 10 * 2 + 1, 1, 1)).collect();
    let rows: Vec<Blocks> = (0..7).map(|i| (0, i * 2 + 1, 20, 1)).collect();
    let columns: Vec<Blocks> = (0..10).map(|i| (i * 2, 0, 1, 15)).collect();
    for (what, seeds, regions) in [("singles", 5, singles), ("rows", 3, rows), ("columns", 3, columns)] {
        check_regions(what, seeds, FORMAT, &h265, &regions);
    }
}

#[test]
fn quantizers_change_live_and_key_frames_after_a_fall_have_them_at_once() {
    let (first, second) = ((9, 4, 11, 10), (0, 0, 9, 10));
    // None coarser: in IDR pictures at 48, noise after a finer region comes out a tenth of a decibel better down to the
    // end of the picture, also without loop filters, presumably because of the state that the region leaves in the
    // entropy coder.
    let live = [(44u8, 34u8), (46, 36), (38, 32), (46, 34)];
    let mut all = vec![wanted(true, 44, &[]), wanted(false, 44, &[(first, 34), (second, 32)])];
    for (background, inside) in &live[1..] {
        let regions = [(first, *inside), (second, 32)];
        all.push(wanted(false, *background, &regions));
        all.push(wanted(true, *background, &regions));
    }
    let film = Film {
        format: FORMAT,
        make: &h265,
        wanted: &all,
        act: &|filmed, number| {
            let (background, inside) = live[number / 2];
            filmed.set("background-qp", background);
            filmed.set("region-qp", inside);
            if number > 0 {
                filmed.feedback(&[(first, Quality::Camera), (second, Quality::Qp(32))]);
            }
            filmed.push();
        },
    };
    film.check("live", 3);
}

#[test]
fn presets_threads_formats_and_sizes_keep_quantizers_exact() {
    use gst_video::VideoFormat as F;
    for (preset, format, threads, blocks, seeds) in [
        ("ultrafast", Format::new(F::I420, 320, 240), 1u32, (2, 2, 13, 11), 2),
        ("veryfast", Format::new(F::Yv12, 322, 242), 2, (3, 2, 13, 11), 2),
        ("medium", Format::new(F::I420, 318, 230), 1, (7, 4, 13, 11), 2),
        ("slower", Format::new(F::Y444, 256, 208), 0, (2, 1, 8, 12), 2),
    ] {
        let make = || {
            let element = h265();
            element.set_property_from_str("speed-preset", preset);
            element.set_property("threads", threads);
            // Both weigh bits by the slice's quantizer, so that a block depends on the other blocks of the picture:
            // with either, regions in P pictures come out up to 0.3 dB better than uniform video at their quantizer.
            element.set_property("option-string", "no-sao=1:psy-rd=0:psy-rdoq=0");
            element
        };
        check_regions(preset, seeds, format, &make, &[blocks]);
    }
}

#[test]
fn all_ways_of_asking_reach_the_encoder() {
    let blocks = (5, 2, 10, 10);
    let streams = ["event", "pad", "meta"].map(|way| {
        let make = || {
            let element = h265();
            // Otherwise the identity tells that a server steers, which regions of the video themselves are not.
            element.set_property("server-rate", false);
            if way == "pad" {
                element.request_pad_simple("feedback").unwrap();
            }
            element
        };
        let act = |filmed: &mut Filmed, number: usize| {
            let mut picture = filmed.picture();
            match way {
                _ if number == 0 => {}
                "event" => filmed.feedback(&[(blocks, Quality::Camera)]),
                "pad" => {
                    let pad = filmed.camera.element.static_pad("feedback").unwrap();
                    pad.send_event(gst::event::StreamStart::new("feedback"));
                    pad.send_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
                    for packet in common::packets(1, 0, &[blocks_region(blocks, Quality::Camera)]) {
                        pad.chain(gst::Buffer::from_mut_slice(packet)).unwrap();
                    }
                }
                _ => {
                    filmed.set("fallback-qp", 44);
                    let rect = blocks_region(blocks, Quality::Camera).rect;
                    let rect = (rect.x, rect.y, rect.width, rect.height);
                    let picture = picture.make_mut();
                    let mut meta = gst_video::VideoRegionOfInterestMeta::add(picture, "face", rect);
                    let param = gst::Structure::builder("roi/ddsencode").field("delta-qp", -10i32);
                    meta.add_param(param.build());
                }
            }
            filmed.push_buffer(picture);
        };
        let film = Film {
            format: FORMAT,
            make: &make,
            wanted: &[wanted(true, 44, &[]), wanted(false, 44, &[(blocks, 34)])],
            act: &act,
        };
        film.check(way, 2)
    });
    assert!(streams.iter().all(|stream| stream.len() == streams[0].len()));
}

#[test]
fn large_coding_units_widen_regions_and_save_bits() {
    let make = || {
        let element = h265();
        element.set_property("option-string", "ctu=32");
        element
    };
    check_widened("ctu=32", 2, FORMAT, &make, &[(3, 1, 11, 12)], &[(2, 0, 12, 14)]);
}

#[test]
fn a_cap_that_does_not_bite_leaves_quantizers_alone() {
    let make = || {
        let element = h265();
        element.set_property("max-bitrate", 300_000u32);
        element
    };
    // Such a rate needs a level with large coding units: the region fits them.
    check_regions("cap", 2, FORMAT, &make, &[(6, 2, 12, 12)]);
}

#[test]
fn with_nvenc_blocks_of_32_pixels_have_their_quantizers() {
    if !fake_nvenc::is_child() {
        let test = ["with_nvenc_blocks_of_32_pixels_have_their_quantizers"];
        common::on_fake_nvenc(&test, &fake_nvenc::NAMES, "");
        assert!(common::on_fake_cuda(&test, "").pictures().iter().all(|p| p.on_gpu));
        return;
    }
    check_widened("nvenc", 2, FORMAT, &h265, &[(3, 1, 11, 12)], &[(2, 0, 12, 14)]);
    // Another base is part of the map.
    let blocks = (4, 2, 12, 12);
    let film = Film {
        format: Format::new(gst_video::VideoFormat::Nv12, 320, 240),
        make: &h265,
        wanted: &[
            wanted(true, 44, &[]),
            wanted(false, 38, &[(blocks, 34)]),
            wanted(true, 46, &[(blocks, 32)]),
        ],
        act: &|filmed, number| {
            let (background, inside) = [(44, 34), (38, 34), (46, 32)][number];
            filmed.set("background-qp", background);
            filmed.set("region-qp", inside);
            if number > 0 {
                filmed.feedback(&[(blocks, Quality::Camera)]);
            }
            filmed.push();
        },
    };
    film.check("nvenc live", 2);
}

// All other tests compare the element with itself, and would not detect quantizers that are wrong everywhere.
#[test]
fn uniform_video_is_as_coarse_as_libx265_alone_makes_it_at_that_quantizer() {
    let frames = 3;
    for qp in [34u8, 38, 44] {
        let mut filmed = Filmed::new(h265(), FORMAT, 0);
        for name in ["background-qp", "fallback-qp", "region-qp"] {
            filmed.set(name, qp);
        }
        let mut video = Vec::new();
        for _ in 0..frames {
            let picture = filmed.picture();
            video.extend_from_slice(&picture.map_readable().unwrap());
            filmed.push_buffer(picture);
        }
        let size = format!("{}x{}", FORMAT.width, FORMAT.height);
        // In this mode the only quantizer is the slice's.
        let options = format!("qp={qp}:ipratio=1:ctu=16:bframes=0:keyint=60:scenecut=0:log-level=error");
        let input = [
            "-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-r", "30", "-s", &size, "-i", "-",
        ];
        let output = [
            "-c:v",
            "libx265",
            "-preset",
            "superfast",
            "-x265-params",
            &options,
            "-f",
            "hevc",
            "-",
        ];
        let alone = ffmpeg_reads(&video, input.into_iter().chain(output));
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
        let alone = decoded(&alone.stdout, FORMAT, frames);
        for (number, (got, alone)) in filmed.decoded().iter().zip(&alone).enumerate() {
            let of = |picture: &[u8]| errors(picture, &filmed.originals[number], FORMAT);
            let both = of(got).into_iter().zip(of(alone));
            let whole = both.fold(Compared::default(), |whole, (got, alone)| whole.with(got, alone));
            whole.judge(&format!("picture {number} at {qp}"));
        }
    }
}
