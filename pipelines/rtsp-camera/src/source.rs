// SPDX-License-Identifier: MPL-2.0

//! Pictures: a pipeline of its own hands raw frames to whatever encoder there is, so that a client that comes or goes
//! neither opens the device again nor rewinds the file for the others, and a loop of a file looks live.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use gst::prelude::*;
use gst_dds_link::sync::Mutex;

use crate::options::{self, Options};
use crate::server::guard;

/// Longest time in which a source must show its first picture.
const FIRST_PICTURE: gst::ClockTime = gst::ClockTime::from_seconds(10);
/// How often the watching thread looks whether it should end.
const WATCH: gst::ClockTime = gst::ClockTime::from_mseconds(200);

/// The running source.
pub struct Source {
    pipeline: gst::Pipeline,
    outlet: Arc<Outlet>,
    ends: Arc<AtomicBool>,
    watcher: Option<thread::JoinHandle<()>>,
}

/// Where pictures go.
#[derive(Default)]
struct Outlet {
    appsrc: Mutex<Option<gst_app::AppSrc>>,
}

impl Source {
    /// Opens the source, waits for its first picture and lets go of it again. `failed` is called, from another thread,
    /// with what goes wrong later.
    ///
    /// # Errors
    /// What the elements say, with the source's name.
    pub fn open(options: &Options, failed: impl Fn(String) + Send + 'static) -> Result<Self, String> {
        let (name, line) = launch_line(options);
        let pipeline = gst::parse::launch(&line)
            .map_err(|e| format!("{name}: {e}"))?
            .downcast::<gst::Pipeline>()
            .map_err(|_| format!("{name}: not a pipeline"))?;
        let input = pipeline.by_name("input");
        match (&options.source, &input) {
            (options::Source::File(path), Some(input)) => input.set_property("location", path),
            (options::Source::Device(path), Some(input)) => {
                input.set_property("device", path.to_string_lossy().as_ref())
            }
            _ => {}
        }
        if let (Some(decoder), Some(first)) = (pipeline.by_name("decoder"), pipeline.by_name("first")) {
            link_video(&decoder, &first);
        }
        let outlet = Arc::new(Outlet::default());
        let frames = pipeline
            .by_name("frames")
            .and_downcast::<gst_app::AppSink>()
            .ok_or_else(|| format!("{name}: no appsink"))?;
        let (to, guarded) = (outlet.clone(), guard("new-sample"));
        frames.set_callbacks(
            gst_app::AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    guarded.run((), || to.push(sink, &sample));
                    Ok(gst::FlowSuccess::Ok)
                })
                .build(),
        );

        pipeline
            .set_state(gst::State::Paused)
            .map_err(|_| said(&pipeline).unwrap_or_else(|| "cannot be opened".into()))
            .and_then(|_| match pipeline.state(FIRST_PICTURE) {
                (Ok(gst::StateChangeSuccess::Async), ..) => Err("no picture within 10 s".into()),
                (Ok(_), ..) => Ok(()),
                (Err(_), ..) => Err(said(&pipeline).unwrap_or_else(|| "cannot be opened".into())),
            })
            .map_err(|e| {
                let _ = pipeline.set_state(gst::State::Null);
                format!("{name}: {e}")
            })?;
        let _ = pipeline.set_state(gst::State::Ready);

        let ends = Arc::new(AtomicBool::new(false));
        let watcher = {
            let (pipeline, ends) = (pipeline.clone(), ends.clone());
            // Without it a loop would stand still at its end.
            thread::spawn(move || {
                let guarded = guard("the watch on the source");
                while !ends.load(Ordering::Relaxed) {
                    guarded.run((), || watch(&pipeline, &ends, |what| failed(format!("{name}: {what}"))));
                }
            })
        };
        Ok(Self {
            pipeline,
            outlet,
            ends,
            watcher: Some(watcher),
        })
    }

    /// Pictures go to `appsrc` from now on.
    pub fn start(&self, appsrc: gst_app::AppSrc) {
        *self.outlet.appsrc.lock().unwrap() = Some(appsrc);
        // What goes wrong comes as a message.
        let _ = self.pipeline.set_state(gst::State::Playing);
    }

    /// Nobody watches any more, if it was `appsrc` that pictures went to.
    pub fn stop(&self, appsrc: &gst_app::AppSrc) {
        let mut to = self.outlet.appsrc.lock().unwrap();
        if to.as_ref() != Some(appsrc) {
            return;
        }
        *to = None;
        // The streaming thread may wait for that lock.
        drop(to);
        let _ = self.pipeline.set_state(gst::State::Ready);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.pipeline.set_state(gst::State::Null);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

impl Outlet {
    fn push(&self, sink: &gst_app::AppSink, sample: &gst::Sample) {
        let Some(appsrc) = self.appsrc.lock().unwrap().clone() else {
            return;
        };
        let (Some(mut buffer), Some(caps)) = (sample.buffer_owned(), sample.caps_owned()) else {
            return;
        };
        // Not running yet, or a frame from before it ran.
        let Some(pts) = moment(sink, sample, &appsrc) else {
            return;
        };
        let stamps = buffer.make_mut();
        stamps.set_pts(pts);
        stamps.set_dts(None);
        if appsrc.caps().as_ref() != Some(&caps) {
            appsrc.set_caps(Some(&caps));
        }
        // A full or stopped encoder loses frames, as in any camera.
        let _ = appsrc.push_buffer(buffer);
    }
}

/// When a frame was taken, as running time of the encoder's pipeline. Both pipelines run on the system's clock, so the
/// spacing of frames does not suffer from how late threads wake up.
fn moment(sink: &gst_app::AppSink, sample: &gst::Sample, appsrc: &gst_app::AppSrc) -> Option<gst::ClockTime> {
    if sink.clock() != appsrc.clock() {
        return appsrc.current_running_time();
    }
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let running = segment.to_running_time(sample.buffer()?.pts()?)?;
    (sink.base_time()? + running).checked_sub(appsrc.base_time()?)
}

/// A name for messages, and the pipeline.
fn launch_line(options: &Options) -> (String, String) {
    let ((width, height), rate) = (options.size.unwrap_or((1280, 720)), options.rate.unwrap_or(25));
    let (name, input) = match &options.source {
        options::Source::Pattern(pattern) => (
            format!("test:{pattern}"),
            format!(
                "videotestsrc is-live=true pattern={pattern} \
                 ! video/x-raw,format=I420,width={width},height={height},framerate={rate}/1 ! "
            ),
        ),
        options::Source::Device(path) => (
            path.display().to_string(),
            "v4l2src name=input ! decodebin name=decoder ".into(),
        ),
        options::Source::File(path) => (
            path.display().to_string(),
            "filesrc name=input ! decodebin name=decoder ".into(),
        ),
    };
    let mut caps = String::from("video/x-raw,format=(string){I420,NV12}");
    if let Some((width, height)) = options.size {
        caps += &format!(",width={width},height={height},pixel-aspect-ratio=1/1");
    }
    let mut steps = String::from("videoconvert name=first");
    if options.size.is_some() {
        steps += " ! videoscale";
    }
    if let Some(rate) = options.rate {
        steps += " ! videorate";
        caps += &format!(",framerate={rate}/1");
    }
    // sync: a file is read at the pace of a camera.
    let line = format!("{input}{steps} ! {caps} ! appsink name=frames sync=true max-buffers=2 drop=true");
    (name, line)
}

/// Links what the decoder finds, again each time the source starts: a launch line does so once only.
fn link_video(decoder: &gst::Element, first: &gst::Element) {
    let first = first.downgrade();
    let guarded = guard("pad-added");
    decoder.connect_pad_added(move |_, pad| {
        guarded.run((), || {
            let video = pad
                .current_caps()
                .is_some_and(|caps| caps.structure(0).is_some_and(|s| s.name().starts_with("video/")));
            let sink = first.upgrade().and_then(|e| e.static_pad("sink"));
            // A second video track is left alone; what cannot be linked says so by itself.
            if let Some(sink) = sink.filter(|sink| video && !sink.is_linked()) {
                let _ = pad.link(&sink);
            }
        });
    });
}

/// Rewinds at the end and reports errors.
fn watch(pipeline: &gst::Pipeline, ends: &AtomicBool, failed: impl Fn(String)) {
    let Some(bus) = pipeline.bus() else { return };
    while !ends.load(Ordering::Relaxed) {
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        let Some(message) = bus.timed_pop_filtered(WATCH, &wanted) else {
            continue;
        };
        match message.view() {
            gst::MessageView::Eos(_) => {
                let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
                if pipeline.seek_simple(flags, gst::ClockTime::ZERO).is_err() {
                    failed("ended, and cannot be played again".into());
                }
            }
            gst::MessageView::Error(error) => failed(words(error)),
            _ => {}
        }
    }
}

/// The error on a pipeline's bus.
fn said(pipeline: &gst::Pipeline) -> Option<String> {
    let message = pipeline.bus()?.pop_filtered(&[gst::MessageType::Error])?;
    match message.view() {
        gst::MessageView::Error(error) => Some(words(error)),
        _ => None,
    }
}

/// An element's error in one line.
pub fn words(error: &gst::message::Error) -> String {
    let debug = error.debug().unwrap_or_default();
    // The last line tells the system's reason, where there is one.
    let reason = debug
        .lines()
        .next_back()
        .filter(|line| !line.contains("():"))
        .unwrap_or_default();
    format!("{} {reason}", error.error()).trim_end().into()
}
