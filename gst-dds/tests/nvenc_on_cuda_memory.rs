// SPDX-License-Identifier: MPL-2.0

//! Pictures in CUDA memory, on the stand-in for NVIDIA's driver: GStreamer's own `cudaupload` puts them there, and they
//! are coded like those in system memory, without a copy back to it. Regions are tested in the same way, in the files
//! of those tests.

#![cfg(feature = "x264")]

mod common;

use common::{Camera, again_on_fake_cuda, decodes, element, info, quantizers, region, run};
use dds_protocol::feedback::Quality;
use fake_nvenc::{is_child, on_cuda};
use gst::prelude::*;
use gst_video::VideoFormat;

/// Codes three frames, of which the last has a region, and returns the stream.
fn code(mut camera: Camera) -> (Vec<u8>, Camera) {
    camera.push();
    camera.push();
    camera.feedback(1, 1, &[region(64, 48, 64, 64, Quality::Camera)]);
    camera.push();
    (camera.stream(), camera)
}

/// A camera whose pictures stay in system memory.
fn in_system_memory(format: VideoFormat, width: u32, height: u32) -> Camera {
    common::init();
    let info = info(format, width, height);
    let caps = info.to_caps().unwrap();
    Camera::direct(element(), info, caps)
}

#[test]
fn pictures_on_the_gpu_are_coded_as_those_in_system_memory() {
    if !is_child() {
        let log = again_on_fake_cuda("");
        let (gpu, system): (Vec<_>, Vec<_>) = log.pictures().into_iter().partition(|picture| picture.on_gpu);
        assert_eq!((gpu.len(), system.len()), (12, 12));
        // No second context, which would take its share of the GPU's memory.
        assert!(gpu.iter().all(|picture| picture.contexts == 1), "{gpu:?}");
        return;
    }
    for (format, width, height) in [
        (VideoFormat::Nv12, 320, 240),
        (VideoFormat::I420, 322, 242),
        (VideoFormat::Yv12, 322, 242),
        (VideoFormat::I420, 1280, 720),
    ] {
        let (on_gpu, camera) = code(Camera::with_format(element(), format, width, height));
        assert_eq!(camera.count("frames-downloaded"), 0, "{format:?}");
        drop(camera);
        let (in_system, camera) = code(in_system_memory(format, width, height));
        assert_eq!(camera.count("frames-downloaded"), 0);
        assert!(
            on_gpu == in_system,
            "{format:?} {width}x{height}: other bytes than from system memory"
        );
        assert_eq!(decodes(&on_gpu), 3);
    }
}

#[test]
fn pictures_that_lie_elsewhere_than_caps_say_are_read_through_system_memory() {
    if !is_child() {
        let log = again_on_fake_cuda("");
        // These too are copied to the memory that is registered with the encoder.
        assert_eq!(log.pictures().iter().filter(|picture| picture.on_gpu).count(), 3);
        return;
    }
    let (wanted, _) = code(in_system_memory(VideoFormat::I420, 320, 240));
    let info = info(VideoFormat::I420, 320, 240);
    let mut caps = info.to_caps().unwrap();
    let on_gpu = gst::CapsFeatures::new([gstdds::cuda::FEATURE]);
    caps.make_mut().set_features(0, Some(on_gpu));
    let (stream, camera) = code(Camera::direct(element(), info, caps));
    assert!(stream == wanted);
    assert_eq!(camera.count("frames-downloaded"), 3);
}

#[test]
fn two_passes_read_their_pictures_through_system_memory() {
    if !is_child() {
        let log = again_on_fake_cuda("");
        assert!(log.pictures().iter().all(|picture| !picture.on_gpu));
        return;
    }
    let element = element();
    element.set_property_from_str("mode", "two-pass");
    let refine = element.request_pad_simple("refine").unwrap();
    let sink = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(|_, _, _| Ok(gst::FlowSuccess::Ok))
        .event_function(|_, _, _| true)
        .build();
    sink.set_active(true).unwrap();
    refine.link(&sink).unwrap();
    let mut camera = Camera::with_format(element, VideoFormat::Nv12, 320, 240);
    camera.push();
    camera.push();
    assert_eq!(camera.count("frames-downloaded"), 2);
    assert_eq!(decodes(&camera.stream()), 2);
}

#[test]
fn cuda_memory_is_asked_for_where_it_is_read_and_not_elsewhere() {
    if !is_child() {
        again_on_fake_cuda("");
        return;
    }
    let features = |encoder: &str| -> Vec<String> {
        let element = element();
        element.set_property_from_str("encoder", encoder);
        let caps = element.static_pad("sink").unwrap().query_caps(None);
        let name = |i| caps.features(i).unwrap().to_string();
        (0..caps.size()).map(name).collect()
    };
    assert_eq!(features("x264"), ["memory:SystemMemory"]);
    assert_eq!(features("nvenc"), ["memory:CUDAMemory", "memory:SystemMemory"]);
    assert_eq!(features("auto"), ["memory:CUDAMemory", "memory:SystemMemory"]);
}

#[test]
fn an_encoder_that_takes_over_reads_them_through_system_memory() {
    if !is_child() {
        let log = again_on_fake_cuda("register-refused");
        assert!(log.pictures().is_empty());
        return;
    }
    let element = element();
    element.set_property_from_str("encoder", "auto");
    let (stream, camera) = code(Camera::with_format(element, VideoFormat::Nv12, 320, 240));
    let stats = camera.element.property::<gst::Structure>("stats");
    assert_eq!(stats.get::<&str>("encoder").unwrap(), "x264");
    let refused = stats.get::<&str>("encoders-refused").unwrap();
    assert!(refused.contains("nvEncRegisterResource says"), "{refused}");
    assert_eq!(camera.count("frames-downloaded"), 3);
    assert_eq!(decodes(&stream), 3);
}

/// Faults, and the words that the error must hold.
const FAILURES: [(&str, &str); 4] = [
    ("gpu-out-of-memory", "cuMemAllocPitch says 2: out of memory"),
    ("copy-refused", "cuMemcpy2DAsync says 2: out of memory"),
    (
        "register-refused",
        "nvEncRegisterResource says RESOURCE_REGISTER_FAILED",
    ),
    ("mapping-refused", "nvEncMapInputResource says MAP_FAILED"),
];

#[test]
fn what_fails_on_the_gpu_is_one_clear_error_and_leaves_nothing() {
    if !is_child() {
        for (fault, _) in FAILURES {
            again_on_fake_cuda(fault);
        }
        return;
    }
    let faults = std::env::var(fake_nvenc::FAULTS).unwrap();
    let (_, words) = FAILURES.iter().find(|(fault, _)| faults.contains(fault)).unwrap();
    assert!(on_cuda());
    let source = "videotestsrc num-buffers=3 ! video/x-raw,format=NV12,width=320,height=240,framerate=30/1 \
                  ! cudaupload ! capsfilter caps=video/x-raw(memory:CUDAMemory)";
    let (error, units) = run(source, &element(), "video/x-h264");
    let error = error.expect(words);
    assert!(error.contains(words), "{error}");
    assert_eq!(units, 0, "{error}");
}

/// As upstream elements may do it; `cudaupload` of 1.22 drops earlier ones.
#[test]
fn regions_on_the_buffers_act_on_their_frame() {
    if !is_child() {
        assert!(again_on_fake_cuda("").pictures().iter().all(|picture| picture.on_gpu));
        return;
    }
    let element = element();
    let second = gst::ClockTime::SECOND.mul_div_floor(1, 30);
    element
        .static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = info.data.as_mut()
                && buffer.pts() == second
            {
                let buffer = buffer.make_mut();
                let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer, "face", (32, 32, 48, 32));
                let ours = gst::Structure::builder("roi/ddsencode").field("delta-qp", -8i32);
                meta.add_param(ours.build());
            }
            gst::PadProbeReturn::Ok
        });
    let mut camera = Camera::new(element, 160, 96);
    for _ in 0..3 {
        camera.push();
    }
    let frames = quantizers(&camera.stream());
    let region = |i: usize| (2..5).contains(&(i % 10)) && (2..4).contains(&(i / 10));
    for (i, qp) in frames[1].qps.iter().enumerate() {
        assert_eq!(*qp, if region(i) { 22 } else { 30 }, "macroblock {i}");
    }
    assert_eq!(frames[2].uniform(), Some(30));
    assert_eq!(camera.count("roi-applied"), 1);
}

#[test]
fn it_starts_and_stops_a_hundred_times_and_leaves_nothing() {
    if !is_child() {
        let log = again_on_fake_cuda("");
        assert_eq!(log.pictures().len(), 300);
        return;
    }
    for _ in 0..100 {
        let (_, camera) = code(Camera::with_format(element(), VideoFormat::Nv12, 320, 240));
        assert_eq!(camera.count("frames-downloaded"), 0);
    }
}
