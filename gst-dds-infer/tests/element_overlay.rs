// SPDX-License-Identifier: MPL-2.0

//! Results are drawn where they are and nowhere else, in every format; they stay as long as they may and no longer;
//! frames without results pass unchanged.

mod element;

use element::*;
use gst::prelude::*;
use gst_check::Harness;
use gst_video::prelude::*;
use gst_video::{VideoFormat, VideoInfo, VideoRegionOfInterestMeta};
use gstddsinfer::overlay::canvas::Area;
use gstddsinfer::results;

/// Odd, so that the last samples of chroma cover one pixel only.
const SIZE: (u32, u32) = (97, 61);
const BOX: (u32, u32, u32, u32) = (41, 31, 20, 13);
/// Value of every byte before drawing.
const GROUND: u8 = 77;

fn info(format: VideoFormat, (width, height): (u32, u32)) -> VideoInfo {
    init();
    VideoInfo::builder(format, width, height)
        .fps(gst::Fraction::new(25, 1))
        .build()
        .unwrap()
}

fn harness(info: &VideoInfo, properties: &[(&str, glib::Value)]) -> Harness {
    init();
    let mut harness = Harness::new("ddsoverlay");
    let overlay = harness.element().unwrap();
    for (name, value) in properties {
        overlay.set_property_from_value(name, value);
    }
    harness.set_src_caps(info.to_caps().unwrap());
    harness
}

fn frame(info: &VideoInfo, mseconds: u64) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_mut_slice(vec![GROUND; info.size()]);
    buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(mseconds));
    buffer
}

fn with_object(mut buffer: gst::Buffer, rect: (u32, u32, u32, u32)) -> gst::Buffer {
    let mut meta = VideoRegionOfInterestMeta::add(buffer.make_mut(), "person", rect);
    meta.add_param(gst::Structure::builder("detection").field("confidence", 0.93).build());
    buffer
}

/// The results of a frame, as `ddsinfer` attaches them.
fn with_results(mut buffer: gst::Buffer, regions: &[(u32, u32, u32, u32)], damaged: bool) -> gst::Buffer {
    let regions = regions.iter().map(|(x, y, width, height)| {
        gst::Structure::builder("region")
            .field("x", x)
            .field("y", y)
            .field("width", width)
            .field("height", height)
            .build()
    });
    let structure = gst::Structure::builder("ddsinfer-results")
        .field("width", SIZE.0)
        .field("height", SIZE.1)
        .field("damaged", damaged)
        .field("regions", gst::Array::new(regions))
        .build();
    results::attach(buffer.make_mut(), &structure).unwrap();
    buffer
}

/// Whether anything was drawn on a frame.
fn drawn(buffer: &gst::Buffer) -> bool {
    buffer.map_readable().unwrap().iter().any(|byte| *byte != GROUND)
}

/// Changed samples of each component: their columns and rows of pixels.
fn changed(buffer: &gst::Buffer, info: &VideoInfo) -> Vec<Vec<Area>> {
    let format = info.format_info();
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    (0..format.n_components() as usize)
        .map(|c| {
            let data = frame.plane_data(format.plane()[c]).unwrap();
            let stride = frame.plane_stride()[format.plane()[c] as usize] as usize;
            let (w_sub, h_sub) = (format.w_sub()[c], format.h_sub()[c]);
            let bytes = format.depth()[c].div_ceil(8) as usize;
            let mut areas = Vec::new();
            for y in 0..info.height().div_ceil(1 << h_sub) {
                for x in 0..info.width().div_ceil(1 << w_sub) {
                    let at = y as usize * stride
                        + format.poffset()[c] as usize
                        + x as usize * format.pixel_stride()[c] as usize;
                    if data[at..at + bytes].iter().any(|byte| *byte != GROUND) {
                        let (x, y) = (i64::from(x << w_sub), i64::from(y << h_sub));
                        areas.push(Area::new(x, y, 1 << w_sub, 1 << h_sub));
                    }
                }
            }
            areas
        })
        .collect()
}

/// Formats of the element's pads.
fn formats() -> Vec<VideoFormat> {
    init();
    let factory = gst::ElementFactory::find("ddsoverlay").unwrap();
    let caps = factory.static_pad_templates().into_iter().next().unwrap().caps();
    let list = caps.structure(0).unwrap().get::<gst::List>("format").unwrap();
    list.iter().map(|v| v.get::<&str>().unwrap().parse().unwrap()).collect()
}

#[test]
fn only_the_outline_of_the_box_changes_in_every_format() {
    let formats = formats();
    assert!(formats.len() > 40);
    let inner = Area::new(BOX.0.into(), BOX.1.into(), BOX.2.into(), BOX.3.into());
    // Two pixels of line between two dark edges of one.
    let (outer, line) = (inner.grown(3), inner.grown(2));
    let inner = inner.grown(1).common(&inner.grown(-1));
    for format in formats {
        let info = info(format, SIZE);
        let properties = [("draw-labels", false.to_value()), ("line-width", 2u32.to_value())];
        let mut harness = harness(&info, &properties);
        harness.push(with_object(frame(&info, 0), BOX)).unwrap();
        let out = harness.pull().unwrap();
        let changed = changed(&out, &info);
        for (component, areas) in changed.iter().enumerate() {
            for area in areas {
                let hit = !area.common(&outer).is_empty() && area.common(&inner) != *area;
                assert!(hit, "{format:?}: component {component} changed at {area:?}");
            }
        }
        // All of the line, in luma or green, which white and black change in any format.
        let samples = changed.iter().map(Vec::len).max().unwrap() as i64;
        let size = |a: &Area| (a.right - a.left) * (a.bottom - a.top);
        let ring = size(&line) - size(&inner.grown(1));
        assert!(samples >= ring, "{format:?}: {samples} of {ring}");
    }
}

#[test]
fn a_name_lies_beside_its_box_and_not_on_it() {
    let info = info(VideoFormat::Gray8, (320, 240));
    let mut harness = harness(&info, &[]);
    harness.push(with_object(frame(&info, 0), (150, 100, 40, 60))).unwrap();
    let changed = changed(&harness.pull().unwrap(), &info);
    let inner = Area::new(151, 101, 38, 58);
    assert!(changed[0].iter().all(|a| a.common(&inner).is_empty()));
    let above = changed[0].iter().filter(|a| a.bottom < 96).count();
    assert!(above > 300, "{above} pixels of text");
}

#[test]
fn frames_without_results_pass_uncopied_and_shared_frames_stay_as_they_are() {
    let info = info(VideoFormat::I420, SIZE);
    let mut harness = harness(&info, &[]);
    for round in 0..3 {
        let plain = frame(&info, round);
        harness.push(plain.clone()).unwrap();
        assert_eq!(
            harness.pull().unwrap().as_ptr(),
            plain.as_ptr(),
            "a shared frame was copied"
        );
        let shared = with_results(with_object(frame(&info, round), BOX), &[], false);
        harness.push(shared.clone()).unwrap();
        assert!(drawn(&harness.pull().unwrap()) && !drawn(&shared));
        // An empty result ends the one shown.
        harness.push(with_results(frame(&info, round), &[], false)).unwrap();
        assert!(!drawn(&harness.pull().unwrap()));
    }
}

#[test]
fn held_results_are_dimmer_and_end_in_time_or_with_newer_ones() {
    let info = info(VideoFormat::Gray8, SIZE);
    let mut harness = harness(&info, &[("hold", 100u32.to_value())]);
    let overlay = harness.element().unwrap();
    // Part of the line left of the box.
    let at = BOX.1 as usize * info.stride()[0] as usize + BOX.0 as usize - 1 + 5 * info.stride()[0] as usize;
    let mut show = |buffer: gst::Buffer| {
        harness.push(buffer).unwrap();
        let out = harness.pull().unwrap();
        (out.map_readable().unwrap()[at], drawn(&out))
    };
    let found = |mseconds| with_results(with_object(frame(&info, mseconds), BOX), &[BOX], false);
    let fresh = show(found(0)).0;
    let held = show(frame(&info, 40)).0;
    assert!(fresh > held && held > GROUND, "{fresh} {held}");
    assert_eq!(show(frame(&info, 100)).0, held);
    assert_eq!(show(frame(&info, 101)), (GROUND, false));
    assert!(show(found(200)).1 && show(frame(&info, 240)).1);
    // Inferred, and nothing was found.
    assert!(!show(with_results(frame(&info, 280), &[], false)).1);
    assert!(!show(frame(&info, 320)).1);
    assert!(show(found(400)).1);
    overlay.set_property("hold", 0u32);
    assert!(!show(frame(&info, 401)).1, "changed while playing");
    overlay.set_property("hold", 100u32);
    assert!(show(found(500)).1);
    assert!(!show(frame(&info, 499)).1, "what is later is not shown earlier");
}

#[test]
fn a_flush_and_another_size_end_what_is_held() {
    let small = info(VideoFormat::I420, SIZE);
    let large = info(VideoFormat::I420, (200, 100));
    let properties = [("hold", 10_000u32.to_value()), ("draw-labels", false.to_value())];
    let mut harness = harness(&small, &properties);
    let show = |harness: &mut Harness, buffer: gst::Buffer| {
        harness.push(buffer).unwrap();
        drawn(&harness.pull().unwrap())
    };
    assert!(show(&mut harness, with_object(frame(&small, 0), BOX)));
    assert!(show(&mut harness, frame(&small, 40)));
    harness.set_src_caps(large.to_caps().unwrap());
    assert!(!show(&mut harness, frame(&large, 80)));
    harness
        .push(with_object(frame(&large, 120), (150, 60, 20, 20)))
        .unwrap();
    let changed = changed(&harness.pull().unwrap(), &large);
    let reached = changed[0].iter().map(|a| a.right).max().unwrap();
    assert!((171..176).contains(&reached), "{reached}");
    assert!(show(&mut harness, frame(&large, 160)));
    harness.push_event(gst::event::FlushStart::new());
    harness.push_event(gst::event::FlushStop::new(true));
    harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    assert!(!show(&mut harness, frame(&large, 200)));
}

#[test]
fn damaged_pictures_are_framed_whoever_reports_them() {
    let info = info(VideoFormat::Gray8, SIZE);
    let mut harness = harness(&info, &[]);
    let mut flagged = frame(&info, 0);
    flagged.make_mut().set_flags(gst::BufferFlags::CORRUPTED);
    for buffer in [flagged, with_results(frame(&info, 40), &[], true)] {
        harness.push(buffer).unwrap();
        let out = harness.pull().unwrap();
        let map = out.map_readable().unwrap();
        let last = (info.height() - 1) as usize * info.stride()[0] as usize;
        assert!(map[0] != GROUND && map[last] != GROUND);
    }
    // And on later frames, as long as results are shown.
    harness.push(frame(&info, 80)).unwrap();
    assert!(drawn(&harness.pull().unwrap()));
}

#[test]
fn nothing_is_drawn_where_everything_is_switched_off() {
    let info = info(VideoFormat::Rgb, SIZE);
    let off = ["draw-boxes", "draw-labels", "draw-regions"].map(|name| (name, false.to_value()));
    let mut harness = harness(&info, &off);
    let buffer = with_results(with_object(frame(&info, 0), BOX), &[BOX], false);
    let whole = buffer.as_ptr();
    harness.push(buffer).unwrap();
    let out = harness.pull().unwrap();
    assert!(out.as_ptr() == whole && !drawn(&out));
}

#[test]
fn odd_boxes_and_tiny_pictures_do_no_harm() {
    let wild = [
        (0, 0, 0, 0),
        (5, 5, 0, 9),
        (u32::MAX, u32::MAX, u32::MAX, u32::MAX),
        (0, 0, u32::MAX, u32::MAX),
        (96, 60, 1, 1),
    ];
    for size in [(1, 1), (2, 1), (3, 2), SIZE] {
        for format in [
            VideoFormat::I420,
            VideoFormat::Yuy2,
            VideoFormat::P01010le,
            VideoFormat::Argb,
        ] {
            let info = info(format, size);
            let mut harness = harness(&info, &[]);
            for rect in wild {
                let buffer = with_results(with_object(frame(&info, 0), rect), &[rect], false);
                harness.push(buffer).unwrap();
                harness.pull().unwrap();
            }
        }
    }
}

#[test]
fn upstream_learns_what_memory_downstream_takes() {
    let info = info(VideoFormat::I420, SIZE);
    let mut harness = harness(&info, &[]);
    harness.add_propose_allocation_meta(gst_video::VideoMeta::meta_api(), None);
    // Drawing and passing.
    for buffer in [with_object(frame(&info, 0), BOX), frame(&info, 10_000)] {
        harness.push(buffer).unwrap();
        harness.pull().unwrap();
        let mut query = gst::query::Allocation::new(Some(&info.to_caps().unwrap()), true);
        let sink = harness.element().unwrap().static_pad("sink").unwrap();
        assert!(sink.query(&mut query));
        assert!(query.find_allocation_meta::<gst_video::VideoMeta>().is_some());
    }
}

#[test]
fn state_cycles_leave_it_working() {
    let pipeline = launch("videotestsrc ! video/x-raw,format=NV12,width=64,height=48 ! ddsoverlay name=o ! fakesink");
    detect(
        &element(&pipeline, "o").static_pad("sink").unwrap(),
        "person",
        (8, 20, 20, 20),
        0.9,
    );
    for cycle in 0..30 {
        let state = [gst::State::Playing, gst::State::Paused, gst::State::Ready][cycle % 3];
        pipeline.set_state(state).unwrap();
        pipeline.state(LIMIT).0.unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn results_are_on_their_frame_and_behind_a_scaler_regions_are_where_they_were() {
    let pipeline = launch(
        "videotestsrc num-buffers=9 pattern=black ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast threads=1 aud=false \
         ! video/x-h264,stream-format=byte-stream,alignment=au ! identity name=named ! avdec_h264 max-threads=1 \
         ! identity name=found ! ddsinfer name=i inference-interval=3 ! videoscale \
         ! video/x-raw,format=I420,width=320,height=256 ! ddsoverlay name=o draw-boxes=false draw-labels=false hold=40 \
         ! fakesink name=s",
    );
    let pad = |name: &str, pad: &str| element(&pipeline, name).static_pad(pad).unwrap();
    name_frames(&pad("named", "src"), 7);
    detect(&pad("found", "src"), "person", (32, 32, 40, 40), 0.3);
    let frames = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = frames.clone();
    pad("i", "src").add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let buffer = info.buffer().unwrap();
        let meta = gst::meta::CustomMeta::from_buffer(buffer, results::META);
        log.lock()
            .unwrap()
            .push(meta.ok().map(|m| m.structure().get::<u64>("frame").unwrap()));
        gst::PadProbeReturn::Ok
    });
    let out = collect(&pad("s", "sink"));
    run_to_eos(&pipeline);
    let expected: Vec<_> = (0..9u64).map(|n| n.is_multiple_of(3).then_some(n)).collect();
    assert_eq!(*frames.lock().unwrap(), expected);
    for (n, pixels) in out.lock().unwrap().iter().enumerate() {
        // A wash on its own frame and, dimmer, on the next; none on the one after.
        let (within, outside) = (pixels[104 * 320 + 104], pixels[20 * 320 + 20]);
        let lit = within > outside + 4;
        assert_eq!(lit, n % 3 != 2, "frame {n}: {within} {outside}");
    }
}
