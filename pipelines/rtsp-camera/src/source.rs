// SPDX-License-Identifier: MPL-2.0

//! Sources of pictures: a pipeline of its own sends raw frames to the current encoder, so that a client that comes or
//! goes neither opens the device again nor rewinds the file for the others, and a loop of a file looks live.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_dds_link::sync::Mutex;

use crate::elements::{guard, link_video, words};
use crate::files;
use crate::options::{self, Options};

/// Longest time until a source's first picture.
const FIRST_PICTURE: Duration = Duration::from_secs(10);
/// Frame rate of a source without one.
const RATE: u32 = 25;
/// Least time for which a file plays before it restarts.
const LEAST_ROUND: Duration = Duration::from_millis(40);
/// How often the watching thread checks whether to end.
const WATCH: gst::ClockTime = gst::ClockTime::from_mseconds(200);

/// The running source.
pub struct Source {
    pipeline: gst::Pipeline,
    caps: gst::Caps,
    /// Remark for the user about the source.
    pub remark: Option<String>,
    outlet: Arc<Outlet>,
    /// Whether pictures are wanted. Locked while that changes the pipeline's state; locked before the outlet's.
    wanted: Arc<Mutex<bool>>,
    ends: Arc<AtomicBool>,
    watcher: Option<thread::JoinHandle<()>>,
}

/// Destination of pictures.
#[derive(Default)]
struct Outlet {
    appsrc: Mutex<Option<gst_app::AppSrc>>,
    /// Pictures passed on since the program began.
    pictures: AtomicU64,
    /// Caps of the first picture.
    first: Mutex<Option<gst::Caps>>,
}

impl Source {
    /// Opens the source, for an encoder that takes `formats`, waits for its first picture and closes it again.
    /// `failed` is called, from another thread, with later errors.
    ///
    /// # Errors
    /// The elements' error, with the source's name.
    pub fn open(options: &Options, formats: &str, failed: impl Fn(String) + Send + 'static) -> Result<Self, String> {
        let name = match &options.source {
            options::Source::Pattern(pattern) => format!("test:{pattern}"),
            options::Source::Device(path) | options::Source::File(path) => path.display().to_string(),
        };
        let of_it = |words: String| format!("{name}: {words}");
        let file = match &options.source {
            options::Source::File(path) => Some(files::probe(path).map_err(of_it)?),
            _ => None,
        };
        let is_still = matches!(file, Some(files::Kind::Still(_)));
        let rate = options.rate.unwrap_or(RATE);
        let remark = is_still.then(|| of_it(format!("one picture, which is sent {rate} times a second (--rate)")));
        let pipeline = gst::parse::launch(&launch_line(options, formats, is_still))
            .map_err(|e| of_it(e.to_string()))?
            .downcast::<gst::Pipeline>()
            .map_err(|_| of_it("not a pipeline".into()))?;
        feed(&pipeline, options, file, rate);
        let outlet = hand_on(&pipeline).ok_or_else(|| of_it("no appsink".into()))?;

        let caps = first_picture(&pipeline, &outlet);
        let _ = pipeline.set_state(if caps.is_ok() {
            gst::State::Ready
        } else {
            gst::State::Null
        });
        let caps = caps.map_err(of_it)?;
        if let Err(odd) = check_size(&caps) {
            let _ = pipeline.set_state(gst::State::Null);
            return Err(of_it(odd));
        }

        let (wanted, ends) = (Arc::new(Mutex::new(false)), Arc::new(AtomicBool::new(false)));
        let watcher = {
            let (pipeline, wanted, ends) = (pipeline.clone(), wanted.clone(), ends.clone());
            // Without it a loop would stop at its end.
            thread::spawn(move || {
                let guarded = guard("the watch on the source");
                while !ends.load(Ordering::Relaxed) {
                    guarded.run((), || {
                        watch(&pipeline, &wanted, &ends, |what| failed(format!("{name}: {what}")))
                    });
                }
            })
        };
        Ok(Self {
            pipeline,
            caps,
            remark,
            outlet,
            wanted,
            ends,
            watcher: Some(watcher),
        })
    }

    /// Caps of its pictures.
    pub fn caps(&self) -> &gst::Caps {
        &self.caps
    }

    /// Pictures passed on since the program began.
    pub fn pictures(&self) -> u64 {
        self.outlet.pictures.load(Ordering::Relaxed)
    }

    /// Sends pictures to `appsrc` from now on.
    pub fn start(&self, appsrc: gst_app::AppSrc) {
        let mut wanted = self.wanted.lock().unwrap();
        *self.outlet.appsrc.lock().unwrap() = Some(appsrc);
        *wanted = true;
        // Errors arrive as messages.
        let _ = self.pipeline.set_state(gst::State::Playing);
    }

    /// Stops sending pictures, if `appsrc` is where they go.
    pub fn stop(&self, appsrc: &gst_app::AppSrc) {
        // Locked to the end: otherwise it would stop a start at the same time.
        let mut wanted = self.wanted.lock().unwrap();
        {
            let mut to = self.outlet.appsrc.lock().unwrap();
            if to.as_ref() != Some(appsrc) {
                return;
            }
            *to = None;
            // The streaming thread may wait for that lock.
        }
        *wanted = false;
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
            // Only opened, to learn its caps.
            self.first.lock().unwrap().clone_from(&sample.caps_owned());
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
        self.pictures.fetch_add(1, Ordering::Relaxed);
    }
}

/// Capture time of a frame, as running time of the encoder's pipeline. Both pipelines run on the system's clock, so
/// late wake-ups of threads do not change the spacing of frames.
fn moment(sink: &gst_app::AppSink, sample: &gst::Sample, appsrc: &gst_app::AppSrc) -> Option<gst::ClockTime> {
    if sink.clock() != appsrc.clock() {
        return appsrc.current_running_time();
    }
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let running = segment.to_running_time(sample.buffer()?.pts()?)?;
    (sink.base_time()? + running).checked_sub(appsrc.base_time()?)
}

/// Runs a pipeline until its first picture; returns the picture's caps.
fn first_picture(pipeline: &gst::Pipeline, outlet: &Outlet) -> Result<gst::Caps, String> {
    let failed = || bus_error(pipeline).unwrap_or_else(|| "cannot be opened".into());
    pipeline.set_state(gst::State::Playing).map_err(|_| failed())?;
    let bus = pipeline.bus().ok_or("no bus")?;
    let until = Instant::now() + FIRST_PICTURE;
    loop {
        if let Some(caps) = outlet.first.lock().unwrap().take() {
            return Ok(caps);
        }
        let wanted = [gst::MessageType::Error, gst::MessageType::Eos];
        match bus
            .timed_pop_filtered(gst::ClockTime::from_mseconds(10), &wanted)
            .as_ref()
            .map(|m| m.view())
        {
            Some(gst::MessageView::Error(error)) => return Err(words(error)),
            Some(_) if outlet.first.lock().unwrap().is_none() => return Err("it ends without a picture".into()),
            _ if Instant::now() > until => return Err(format!("no picture within {} s", FIRST_PICTURE.as_secs())),
            _ => {}
        }
    }
}

/// Sets the input of the pipeline's first element.
fn feed(pipeline: &gst::Pipeline, options: &Options, file: Option<files::Kind>, rate: u32) {
    let (input, first) = (pipeline.by_name("input"), pipeline.by_name("first"));
    match (&options.source, file, &input) {
        (_, Some(files::Kind::Still(picture)), Some(input)) => {
            if let Some(input) = input.downcast_ref() {
                show(picture, input);
            }
        }
        (options::Source::File(path), file, Some(input)) => {
            input.set_property("location", path);
            if let (Some(files::Kind::Untimed), Some(first)) = (file, &first) {
                files::give_times(first, rate);
            }
        }
        (options::Source::Device(path), _, Some(input)) => {
            input.set_property("device", path.to_string_lossy().as_ref());
        }
        _ => {}
    }
    if let (Some(decoder), Some(first)) = (pipeline.by_name("decoder"), first) {
        link_video(&decoder, &first);
    }
}

/// Connects the pipeline's sink to an outlet; `None` if it has no such sink.
fn hand_on(pipeline: &gst::Pipeline) -> Option<Arc<Outlet>> {
    let outlet = Arc::new(Outlet::default());
    let frames = pipeline.by_name("frames").and_downcast::<gst_app::AppSink>()?;
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
    Some(outlet)
}

/// Refuses sizes that no encoder supports.
fn check_size(caps: &gst::Caps) -> Result<(), String> {
    let size = gst_video::VideoInfo::from_caps(caps).map(|info| (info.width(), info.height()));
    match size {
        Ok((width, height)) if width % 2 != 0 || height % 2 != 0 => Err(format!(
            "its size is {width}x{height}, and video with a colour for each four pixels has even ones: --size {}x{}",
            width.max(16) & !1,
            height.max(16) & !1
        )),
        _ => Ok(()),
    }
}

/// Pushes a still picture each time the pipeline starts.
fn show(picture: gst::Sample, input: &gst_app::AppSrc) {
    input.set_caps(picture.caps_owned().as_ref());
    let guarded = guard("the still picture");
    let again = move |input: &gst_app::AppSrc, _| {
        guarded.run((), || {
            if let Some(picture) = picture.buffer_owned() {
                // Refused if the pipeline is just ending.
                let _ = input.push_buffer(picture);
            }
            let _ = input.end_of_stream();
        });
    };
    input.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(again).build());
}

/// The pipeline, in gst-launch syntax.
fn launch_line(options: &Options, formats: &str, is_still: bool) -> String {
    let ((width, height), rate) = (options.size.unwrap_or((1280, 720)), options.rate.unwrap_or(RATE));
    let input = match &options.source {
        _ if is_still => "appsrc name=input format=time ! ".into(),
        options::Source::Pattern(pattern) => format!(
            "videotestsrc is-live=true pattern={pattern} \
             ! video/x-raw,format=I420,width={width},height={height},framerate={rate}/1 ! "
        ),
        options::Source::Device(_) => "v4l2src name=input ! decodebin name=decoder ".to_string(),
        options::Source::File(_) => "filesrc name=input ! decodebin name=decoder ".into(),
    };
    let mut caps = format!("video/x-raw,format=(string){formats}");
    if let Some((width, height)) = options.size {
        caps += &format!(",width={width},height={height},pixel-aspect-ratio=1/1");
    }
    let mut steps = String::from("videoconvert name=first");
    if options.size.is_some() {
        steps += " ! videoscale";
    }
    if is_still {
        // Converted once, then repeated.
        steps += &format!(" ! {caps} ! imagefreeze is-live=true");
        caps = format!("video/x-raw,framerate={rate}/1");
    } else if let Some(rate) = options.rate {
        steps += " ! videorate";
        caps += &format!(",framerate={rate}/1");
    }
    // sync: a file is read at the pace of a camera.
    format!("{input}{steps} ! {caps} ! appsink name=frames sync=true max-buffers=2 drop=true")
}

/// Rewinds at the end and reports errors.
fn watch(pipeline: &gst::Pipeline, wanted: &Mutex<bool>, ends: &AtomicBool, failed: impl Fn(String)) {
    let Some(bus) = pipeline.bus() else { return };
    let mut begun = Instant::now();
    while !ends.load(Ordering::Relaxed) {
        let ending = [gst::MessageType::Eos, gst::MessageType::Error];
        let Some(message) = bus.timed_pop_filtered(WATCH, &ending) else {
            continue;
        };
        match message.view() {
            gst::MessageView::Eos(_) => {
                // Bounds the load, however short a round is.
                thread::sleep(LEAST_ROUND.saturating_sub(begun.elapsed()));
                begun = Instant::now();
                let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
                if pipeline.seek_simple(flags, gst::ClockTime::ZERO).is_err() {
                    // A source that cannot seek is opened again, such as a sequence of plain JPEG pictures.
                    let wanted = wanted.lock().unwrap();
                    let _ = pipeline.set_state(gst::State::Ready);
                    if *wanted && pipeline.set_state(gst::State::Playing).is_err() {
                        failed("ended, and cannot be played again".into());
                    }
                }
            }
            gst::MessageView::Error(error) => failed(words(error)),
            _ => {}
        }
    }
}

/// The error on a pipeline's bus.
fn bus_error(pipeline: &gst::Pipeline) -> Option<String> {
    let message = pipeline.bus()?.pop_filtered(&[gst::MessageType::Error])?;
    match message.view() {
        gst::MessageView::Error(error) => Some(words(error)),
        _ => None,
    }
}
