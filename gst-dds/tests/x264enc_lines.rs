// SPDX-License-Identifier: MPL-2.0

//! Launch lines written for `x264enc tune=zerolatency` run with only that word replaced, and their output decodes.

#![cfg(feature = "x264")]

mod common;

use std::path::Path;
use std::process::Command;

use gst::prelude::*;

const LINES: &[&str] = &[
    // The element's own documentation, with and without numbers.
    "videotestsrc num-buffers=30 ! x264enc qp-min=18 ! avimux ! filesink location=OUT.avi",
    "videotestsrc num-buffers=30 ! x264enc pass=quant ! matroskamux ! filesink location=OUT.mkv",
    // Streaming to a phone, a browser, a server.
    "videotestsrc num-buffers=30 is-live=true ! video/x-raw,width=320,height=240 ! videoconvert ! \
     x264enc tune=zerolatency bitrate=500 speed-preset=superfast ! h264parse ! mpegtsmux ! filesink location=OUT.ts",
    "videotestsrc num-buffers=30 ! video/x-raw,framerate=30/1 ! x264enc tune=zerolatency bitrate=2048 key-int-max=30 \
     speed-preset=ultrafast ! video/x-h264,profile=baseline ! h264parse ! mp4mux ! filesink location=OUT.mp4",
    "videotestsrc num-buffers=30 ! videoconvert ! x264enc bitrate=1000 tune=zerolatency speed-preset=veryfast \
     key-int-max=60 ! video/x-h264,profile=main ! h264parse ! flvmux streamable=true ! filesink location=OUT.flv",
    "videotestsrc num-buffers=30 ! video/x-raw,format=I420 ! x264enc tune=zerolatency byte-stream=true threads=1 \
     key-int-max=15 intra-refresh=true ! filesink location=OUT.h264",
    "videotestsrc num-buffers=30 ! videoconvert ! x264enc noise-reduction=10000 tune=zerolatency byte-stream=true \
     threads=4 ! mpegtsmux ! filesink location=OUT.ts",
    "videotestsrc num-buffers=30 ! videoconvert ! x264enc tune=zerolatency speed-preset=ultrafast b-adapt=false \
     bframes=0 ref=1 rc-lookahead=0 cabac=false dct8x8=false ! video/x-h264,stream-format=byte-stream ! \
     filesink location=OUT.h264",
    "videotestsrc num-buffers=30 pattern=ball ! x264enc pass=qual quantizer=20 tune=zerolatency ! \
     video/x-h264,stream-format=avc,alignment=au ! mp4mux ! filesink location=OUT.mp4",
    "videotestsrc num-buffers=30 pattern=snow ! x264enc pass=5 quantizer=25 speed-preset=6 tune=0x4 ! \
     video/x-h264, profile=high ! qtmux ! filesink location=OUT.mov",
    "videotestsrc num-buffers=30 ! video/x-raw,format=NV12,width=1280,height=720 ! x264enc bitrate=4000 \
     vbv-buf-capacity=300 tune=zerolatency sliced-threads=true aud=true insert-vui=1 ! h264parse config-interval=1 ! \
     rtph264pay pt=96 ! rtph264depay ! h264parse ! mp4mux ! filesink location=OUT.mp4",
    "videotestsrc num-buffers=30 ! x264enc option-string=\"scenecut=0:keyint=25:slices=4\" tune=zerolatency \
     bitrate=800 ! video/x-h264,profile=constrained-baseline ! matroskamux ! filesink location=OUT.mkv",
    "videotestsrc num-buffers=30 ! video/x-raw,format=Y444 ! x264enc tune=zerolatency qp-min=20 qp-max=40 \
     qp-step=4 ip-factor=1.2 bitrate=1500 ! video/x-h264,profile=high-4:4:4 ! matroskamux ! filesink location=OUT.mkv",
    "videotestsrc num-buffers=30 ! x264enc tune=zerolatency psy-tune=film me=umh subme=6 trellis=false \
     analyse=i4x4+p8x8 mb-tree=false bitrate=700 ! matroskamux ! filesink location=OUT.mkv",
    "videotestsrc num-buffers=30 ! videorate ! tee name=t ! queue ! x264enc tune=stillimage+fastdecode+zerolatency bitrate=600 \
     sync-lookahead=0 sps-id=3 ! h264parse ! splitmuxsink max-size-time=0 location=OUT.mp4 t. ! queue ! fakesink",
];

/// Frames that FFmpeg decodes from a file, without any error.
fn decoded(path: &Path) -> usize {
    decoded_by(path, &[])
}

/// The same, read with these options.
fn decoded_by(path: &Path, options: &[&str]) -> usize {
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-count_frames",
            "-select_streams",
            "v",
            "-show_entries",
            "stream=nb_read_frames",
        ])
        .args(["-of", "csv=p=0"])
        .args(options)
        .arg(path)
        .output()
        .expect("ffprobe is installed");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.is_empty(), "{}: {errors}", path.display());
    // Some containers name the stream twice.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split([',', '\n'])
        .find_map(|n| n.trim().parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn fifteen_lines_run_with_the_word_replaced() {
    common::init();
    assert_eq!(LINES.len(), 15);
    let directory = std::env::temp_dir().join(format!("ddsencode-lines-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (i, line) in LINES.iter().enumerate() {
        let stem = directory.join(format!("line{i}"));
        let line = line
            .replace("x264enc", "ddsencode name=e")
            .replace("OUT", stem.to_str().unwrap());
        let path = line
            .split("location=")
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .to_string();
        let pipeline = gst::parse::launch(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let bus = pipeline.bus().unwrap();
        pipeline
            .set_state(gst::State::Playing)
            .unwrap_or_else(|e| panic!("{line}: {e} {:?}", bus.pop()));
        let kinds = [
            gst::MessageType::Eos,
            gst::MessageType::Error,
            gst::MessageType::Warning,
        ];
        let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &kinds);
        let failure = match message.as_ref().map(|m| m.view()) {
            Some(gst::MessageView::Eos(_)) => None,
            other => Some(format!("{other:?}")),
        };
        let latency = {
            let mut query = gst::query::Latency::new();
            let encoder = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("e").unwrap();
            assert!(encoder.static_pad("src").unwrap().query(&mut query) || !line.contains("is-live"));
            encoder
                .downcast::<gst_video::VideoEncoder>()
                .map(|e| gst_video::prelude::VideoEncoderExtManual::latency(&e))
        };
        assert_eq!(latency.unwrap().0, gst::ClockTime::ZERO, "{line}");
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(failure, None, "{line}");
        assert_eq!(decoded(Path::new(&path)), 30, "{line}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Records twelve pictures that come at these milliseconds (`None`: without a time); returns the times of the access
/// units in front of the muxer, and the number of warnings.
fn recorded(times: &[Option<u64>], (parser, muxer): (&str, &str), path: &Path, rate: &str) -> (Vec<u64>, usize) {
    let pipeline = gst::parse::launch(&format!(
        "appsrc name=in format=time caps=video/x-raw,format=I420,width=64,height=48,framerate={rate} \
         ! ddsencode name=e threads=1 mode=two-pass ! {parser} ! identity name=out ! {muxer} ! filesink location={} \
         e.refine ! fakesink async=false sync=false",
        path.display()
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let input = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let out = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = out.clone();
    let pad = pipeline.by_name("out").unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let buffer = info.buffer().unwrap();
        assert_eq!(buffer.dts(), buffer.pts());
        seen.lock().unwrap().push(buffer.pts().unwrap().mseconds());
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    for (n, time) in times.iter().enumerate() {
        let mut buffer = gst::Buffer::from_mut_slice(vec![n as u8 * 9; 64 * 48 * 3 / 2]);
        buffer
            .get_mut()
            .unwrap()
            .set_pts(time.map(gst::ClockTime::from_mseconds));
        input.push_buffer(buffer).unwrap();
    }
    input.end_of_stream().unwrap();
    let bus = pipeline.bus().unwrap();
    let kinds = [
        gst::MessageType::Eos,
        gst::MessageType::Error,
        gst::MessageType::Warning,
    ];
    let mut warnings = 0;
    loop {
        let message = bus
            .timed_pop_filtered(gst::ClockTime::from_seconds(60), &kinds)
            .expect("an end");
        match message.view() {
            gst::MessageView::Warning(w) if w.src().is_some_and(|s| s.name() == "e") => warnings += 1,
            gst::MessageView::Eos(_) => break,
            other => panic!("{times:?} {muxer}: {other:?}"),
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    (std::mem::take(&mut *out.lock().unwrap()), warnings)
}

#[test]
fn a_recording_holds_every_picture_whatever_their_times() {
    common::init();
    let directory = std::env::temp_dir().join(format!("ddsencode-times-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let whole: Vec<_> = (0..12).map(|n| Some(n * 40)).collect();
    let with = |changes: &[(usize, Option<u64>)]| {
        let mut times = whole.clone();
        changes.iter().for_each(|(n, time)| times[*n] = *time);
        times
    };
    let missing = with(&[(4, None)]);
    for (times, rate) in [
        (whole.clone(), "25/1"),
        (missing.clone(), "25/1"),
        (missing.clone(), "0/1"),
        (with(&[(0, None)]), "25/1"),
        (with(&[(4, None), (5, None), (6, None)]), "25/1"),
        (with(&[(11, None)]), "25/1"),
        (vec![None; 12], "25/1"),
        (vec![Some(80); 12], "25/1"),
        (with(&[(5, Some(160))]), "25/1"),
        (with(&[(5, Some(20))]), "25/1"),
        (with(&[(5, Some(3_600_000))]), "25/1"),
        (
            with(&(6..12).map(|n| (n as usize, Some((n - 6) * 40))).collect::<Vec<_>>()),
            "25/1",
        ),
    ] {
        for (muxer, end) in [("mp4mux", "mp4"), ("matroskamux", "mkv"), ("mpegtsmux", "ts")] {
            let path = directory.join(format!("times.{end}"));
            let (out, warnings) = recorded(&times, ("h264parse", muxer), &path, rate);
            assert!(out.is_sorted_by(|a, b| a < b), "{times:?}: {out:?}");
            // Where no rate is known h264parse takes the duration of the last picture away, and the edit list of the file ends
            // where that begins.
            let options: &[&str] = match (rate, muxer) {
                ("0/1", "mp4mux") => &["-ignore_editlist", "1"],
                _ => &[],
            };
            assert_eq!(decoded_by(&path, options), 12, "{times:?} {muxer}");
            let mended = times.iter().zip(&out).any(|(time, out)| *time != Some(*out));
            assert_eq!(warnings, usize::from(mended), "told once: {times:?}");
            if times == whole || times == missing {
                assert_eq!(out, whole.iter().flatten().copied().collect::<Vec<_>>());
            }
        }
    }
    let path = directory.join("unparsed.mp4");
    let (out, _) = recorded(&missing, ("video/x-h264,stream-format=avc", "mp4mux"), &path, "0/1");
    assert_eq!((out.len(), decoded(&path)), (12, 12), "the last picture has a duration");
    std::fs::remove_dir_all(&directory).unwrap();
}
