// SPDX-License-Identifier: MPL-2.0

/**
 * SECTION:element-ddsinfer
 * @title: ddsinfer
 *
 * Runs an ONNX model on decoded video - objects, segmentation or faces -, attaches what it sees, and tells the camera (`ddsencode`) in which regions it
 * needs more quality to be sure.
 *
 * ```shell
 * gst-launch-1.0 videotestsrc num-buffers=300 ! ddsencode ! h264parse ! avdec_h264 ! ddsinfer model-file=model.onnx ! videoconvert ! autovideosink
 * ```
 *
 * With a camera of two passes (`ddsencode mode=two-pass`) the request pad `refine` takes the second one, decoded. A frame
 * whose regions were asked for waits for them up to `refine-deadline`; they are pasted over it and it is looked at again.
 *
 * The video leaves as it came, each inferred frame with one #GstVideoRegionOfInterestMeta per object, the same objects as
 * #GstAnalyticsRelationMeta where GStreamer has it (1.24), and a #GstCustomMeta `ddsinfer-results` with all that the bus is
 * told of it. `ddsoverlay` draws them. The same results go to the bus as `ddsinfer-results` messages and to the request pad `results` as JSON lines. A segmenter's classes leave by
 * the request pad `classes` as gray pictures, one byte for the class of each pixel. Feedback leaves by the linked
 * request pad `feedback`, else as an event where the camera is in the same process, else by RTCP on the RTP session that
 * the video came through; and beside all these by a channel of its own to the camera where `feedback-uri` names one, sealed
 * with `feedback-key`.
 *
 * Since: 0.1
 */
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Instant;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_dds_link::channel::{self, Counters, ServerEnd};
use gst_dds_link::guard::Guard;
use gst_dds_link::sync::Mutex;

use super::CAT;
use super::analysis::Network;
use super::pace::Pace;
use super::probe::{EarlyProbes, KeptProbe};
use super::queue::{Arrival, Item, Queue, Turn};
use super::refine::RefineInput;
use super::sender::{Sender, Way};
use super::settings::{Finds, PROPERTIES, Settings};
use super::side_pad::{Queued, SidePad};
use super::stats::Stats;
use super::worker::{Held, Out, Outcome, Request, Worker, identity_meta, unix_now};
use crate::analytics;
use crate::identity::{IdentityTracker, Lookup};
use crate::model::Segmentation;
use crate::results::{self, FrameResult};

#[derive(Default)]
struct SidePads {
    feedback: Option<Arc<SidePad>>,
    results: Option<Arc<SidePad>>,
    classes: Option<Arc<SidePad>>,
}

impl SidePads {
    fn slots(&mut self) -> [&mut Option<Arc<SidePad>>; 3] {
        [&mut self.feedback, &mut self.results, &mut self.classes]
    }
}

/// Frames in a row after which a decoder that holds frames back is told of: not those of its beginning.
const HELD_BACK_FRAMES: u32 = 30;

/// What settings are judged by, and which pairs of them were told.
#[derive(Default)]
struct Told {
    finds: Option<Finds>,
    warned: BTreeSet<&'static str>,
}

/// What comes downstream behind caps that are not settled before the first frame is.
#[derive(Default)]
struct CapsDue {
    due: bool,
    events: Vec<gst::Event>,
}

/// Locks: that of a probe may be held while `early` is taken, `worker` while a tracker or `stats` is, `sender` while
/// `stats` is. No lock is held while something is pushed, posted or queried, but `sender`, which nothing that runs on a
/// push takes.
pub struct DdsInfer {
    sink_pad: gst::Pad,
    src_pad: gst::Pad,
    /// Shared, so that a frame takes them without copying.
    settings: Mutex<Arc<Settings>>,
    pub(super) queue: Queue,
    worker: Mutex<Option<Worker>>,
    pub(super) refine: Mutex<Option<Arc<RefineInput>>>,
    /// Something came in by the refine pad.
    pub(super) refine_works: AtomicBool,
    caps_due: Mutex<CapsDue>,
    /// The one that the probe feeds, once there is one.
    tracker: Mutex<Arc<Mutex<IdentityTracker>>>,
    probe: KeptProbe,
    pub(super) early: Mutex<Option<EarlyProbes>>,
    sender: Mutex<Sender>,
    /// Of the channel of `feedback-uri`; apart, because `sender` may be held for a push.
    channel_counters: Mutex<Arc<Counters>>,
    side_pads: Mutex<SidePads>,
    pub(super) stats: Mutex<Stats>,
    live: AtomicBool,
    pace: Pace,
    /// The camera has our clock: feedback reaches it within this process.
    same_process: AtomicBool,
    /// Feedback leaves by RTCP.
    by_rtcp: AtomicBool,
    told: Mutex<Told>,
    /// Frames in a row that the decoder gave with others still inside; `u32::MAX`: that was said.
    held_back: AtomicU32,
    /// Latency told to the pipeline, in nanoseconds.
    latency: AtomicU64,
    /// The part of it that a second pass may take.
    waiting: AtomicU64,
    repeater: Mutex<Option<(mpsc::Sender<()>, std::thread::JoinHandle<()>)>>,
}

/// Around properties, which the bindings leave to abort.
static PROPERTY_GUARD: Guard = Guard::new("a property of ddsinfer");

#[glib::object_subclass]
impl ObjectSubclass for DdsInfer {
    const NAME: &'static str = "GstDdsInfer";
    type Type = super::DdsInfer;
    type ParentType = gst::Element;

    fn with_class(klass: &Self::Class) -> Self {
        let sink_template = klass.pad_template("sink").expect("in PAD_TEMPLATES");
        let src_template = klass.pad_template("src").expect("in PAD_TEMPLATES");
        let sink_pad = gst::Pad::builder_from_template(&sink_template)
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |imp| imp.chain(buffer))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_query(pad, query))
            })
            .activatemode_function(|_, parent, mode, active| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::loggable_error!(CAT, "Panic while activating the sink pad")),
                    |imp| imp.activate_sink(mode, active),
                )
            })
            .iterate_internal_links_function(|_, parent| Self::only_pad(parent, "src"))
            .flags(gst::PadFlags::PROXY_CAPS)
            .build();
        let src_pad = gst::Pad::builder_from_template(&src_template)
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_query(pad, query))
            })
            .iterate_internal_links_function(|_, parent| Self::only_pad(parent, "sink"))
            .activatemode_function(|_, parent, mode, active| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::loggable_error!(CAT, "Panic while activating the source pad")),
                    |imp| imp.activate_src(mode, active),
                )
            })
            .flags(gst::PadFlags::PROXY_CAPS | gst::PadFlags::FIXED_CAPS)
            .build();
        Self {
            sink_pad,
            src_pad,
            settings: Mutex::default(),
            queue: Queue::default(),
            worker: Mutex::new(None),
            refine: Mutex::default(),
            refine_works: AtomicBool::new(false),
            caps_due: Mutex::default(),
            tracker: Mutex::default(),
            probe: KeptProbe::default(),
            early: Mutex::new(None),
            sender: Mutex::new(Sender::new(None)),
            channel_counters: Mutex::default(),
            side_pads: Mutex::default(),
            stats: Mutex::default(),
            live: AtomicBool::new(false),
            pace: Pace::default(),
            same_process: AtomicBool::new(false),
            by_rtcp: AtomicBool::new(false),
            told: Mutex::default(),
            held_back: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            repeater: Mutex::new(None),
        }
    }
}

impl ObjectImpl for DdsInfer {
    fn properties() -> &'static [glib::ParamSpec] {
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        PROPERTY_GUARD.run((), || {
            Arc::make_mut(&mut *self.settings.lock().unwrap()).set(pspec.name(), value);
            if self.obj().current_state() > gst::State::Ready {
                self.tell_conflicts();
            }
        });
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        PROPERTY_GUARD.run(pspec.default_value().clone(), || {
            if pspec.name() == "stats" {
                let tracker = self.tracker().lock().unwrap().stats();
                let channel = self.channel_counters.lock().unwrap().counts();
                return self.stats.lock().unwrap().structure(&tracker, &channel).to_value();
            }
            let value = self.settings.lock().unwrap().get(pspec.name());
            value.expect("every readable property but stats is a setting")
        })
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.add_pad(&self.sink_pad).expect("a new element has no pads");
        obj.add_pad(&self.src_pad).expect("a new element has no source pad");
        gst_dds_link::refusal::tell_refusals(&self.sink_pad);
        gst_dds_link::refusal::require_caps(&self.sink_pad);
    }
}

impl GstObjectImpl for DdsInfer {}

impl ElementImpl for DdsInfer {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "DDS inference",
                "Filter/Analyzer/Inference/Video",
                "Detects objects, segments pictures or recognises faces with ONNX models, and tells the camera where it needs \
                 more quality",
                "The gst-dds maintainers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            // What the model room reads without a conversion comes first: sources that may choose take the first.
            let direct = [
                gst_video::VideoFormat::I420,
                gst_video::VideoFormat::Nv12,
                gst_video::VideoFormat::Rgb,
                gst_video::VideoFormat::Bgr,
            ];
            let others = gst_video::VideoFormat::iter_raw().filter(|f| !direct.contains(f));
            let video = gst_video::VideoCapsBuilder::new()
                .format_list(direct.into_iter().chain(others))
                .build();
            let json = gst::Caps::new_empty_simple("application/x-json");
            let feedback = gst::Caps::new_empty_simple("application/x-dds-feedback");
            let classes = gst_video::VideoCapsBuilder::new()
                .format(gst_video::VideoFormat::Gray8)
                .build();
            let template = |name, direction, presence, caps: &gst::Caps| {
                gst::PadTemplate::new(name, direction, presence, caps).expect("valid template")
            };
            vec![
                template("sink", gst::PadDirection::Sink, gst::PadPresence::Always, &video),
                template("src", gst::PadDirection::Src, gst::PadPresence::Always, &video),
                template("refine", gst::PadDirection::Sink, gst::PadPresence::Request, &video),
                template("feedback", gst::PadDirection::Src, gst::PadPresence::Request, &feedback),
                template("results", gst::PadDirection::Src, gst::PadPresence::Request, &json),
                template("classes", gst::PadDirection::Src, gst::PadPresence::Request, &classes),
            ]
        });
        &TEMPLATES
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        if template.name_template() == "refine" {
            return self.request_refine(template);
        }
        let side = {
            let mut pads = self.side_pads.lock().unwrap();
            let name = template.name_template();
            let slot = match name {
                "feedback" => &mut pads.feedback,
                "classes" => &mut pads.classes,
                _ => &mut pads.results,
            };
            if slot.is_some() {
                gst::warning!(
                    CAT,
                    imp = self,
                    "The pad {name} is taken: there is one of each; use a tee behind it"
                );
                return None;
            }
            // Feedback has no time of its own: it is wanted at once.
            let segment = self.src_pad.sticky_event::<gst::event::Segment>(0);
            let segment = segment.filter(|_| name != "feedback").map(gst::Event::from);
            let side = SidePad::new(template, name, segment, Some(self.obj().upcast_ref()));
            *slot = Some(side.clone());
            side
        };
        // Added pads follow the element's state from here on.
        self.obj().add_pad(side.pad()).ok()?;
        if let Some(video) = self.src_pad.current_caps() {
            self.tell_caps_of_classes(&video);
        }
        Some(side.pad().clone())
    }

    fn release_pad(&self, pad: &gst::Pad) {
        let refine = {
            let mut refine = self.refine.lock().unwrap();
            refine.take_if(|r| r.pad() == pad)
        };
        if refine.is_some() {
            self.queue.set_refinement_over(true);
            let _ = pad.set_active(false);
            let _ = self.obj().remove_pad(pad);
            return;
        }
        let side = {
            let mut pads = self.side_pads.lock().unwrap();
            pads.slots()
                .into_iter()
                .find(|slot| slot.as_ref().is_some_and(|s| s.pad() == pad))
                .and_then(Option::take)
        };
        let Some(side) = side else { return };
        let _ = pad.set_active(false);
        let _ = self.obj().remove_pad(pad);
        drop(side);
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            // Before anything is plugged.
            gst::StateChange::NullToReady => *self.early.lock().unwrap() = EarlyProbes::new(self.obj().upcast_ref()),
            gst::StateChange::ReadyToPaused => self.start()?,
            gst::StateChange::ReadyToNull => drop(self.early.lock().unwrap().take()),
            _ => (),
        }
        if transition == gst::StateChange::PausedToReady {
            // The worker may wait for one of them.
            self.sides().iter().for_each(|side| side.close());
        }
        let success = self.parent_change_state(transition);
        if transition == gst::StateChange::PausedToReady
            || (transition == gst::StateChange::ReadyToPaused && success.is_err())
        {
            self.stop();
        }
        success
    }
}

impl DdsInfer {
    /// The video pads are linked to each other inside, and to nothing else.
    fn only_pad(parent: Option<&gst::Object>, name: &str) -> gst::Iterator<gst::Pad> {
        static GUARD: Guard = Guard::new("links inside ddsinfer");
        let pad = || parent.and_then(|p| p.downcast_ref::<gst::Element>()?.static_pad(name));
        gst::Iterator::from_vec(GUARD.run(None, pad).into_iter().collect())
    }

    fn request_refine(&self, template: &gst::PadTemplate) -> Option<gst::Pad> {
        let input = {
            let mut refine = self.refine.lock().unwrap();
            if refine.is_some() {
                gst::warning!(CAT, imp = self, "The pad refine is taken: a camera has one second pass");
                return None;
            }
            refine.insert(RefineInput::new(template)).clone()
        };
        self.queue.set_refinement_over(false);
        self.obj().add_pad(input.pad()).ok()?;
        Some(input.pad().clone())
    }

    fn tracker(&self) -> Arc<Mutex<IdentityTracker>> {
        self.tracker.lock().unwrap().clone()
    }

    /// The side pads there are.
    fn sides(&self) -> Vec<Arc<SidePad>> {
        let mut pads = self.side_pads.lock().unwrap();
        pads.slots().into_iter().flatten().map(|side| side.clone()).collect()
    }

    /// Opens the model and begins a new run.
    fn start(&self) -> Result<(), gst::StateChangeError> {
        let settings = self.settings.lock().unwrap().clone();
        if let Err(error) = settings.check() {
            gst::element_imp_error!(self, gst::LibraryError::Settings, ("{error}"));
            return Err(gst::StateChangeError);
        }
        let network = match Network::open(&settings) {
            Ok(network) => network,
            Err(error) => {
                gst::element_imp_error!(self, gst::ResourceError::OpenRead, ("{error}"));
                return Err(gst::StateChangeError);
            }
        };
        let channel = match ServerEnd::open(&settings.channel, channel::tell_by(&*self.obj())) {
            Ok(channel) => channel,
            Err(error) => {
                gst::element_imp_error!(self, gst::ResourceError::OpenReadWrite, ("{error}"));
                return Err(gst::StateChangeError);
            }
        };
        *self.channel_counters.lock().unwrap() = channel.as_ref().map(ServerEnd::counters).unwrap_or_default();
        gst::info!(CAT, imp = self, "{}", network.summary());
        // Before data flows: the first call opens a library.
        if let Some(Err(why)) = settings.analytics_meta.then(analytics::library) {
            gst::info!(
                CAT,
                imp = self,
                "Objects go out as region of interest metas only: {why}"
            );
        }
        let warnings = network.warnings().into_iter().chain(network.class_warning(&settings));
        for warning in warnings {
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{warning}"));
        }
        *self.told.lock().unwrap() = Told {
            finds: Some(network.finds()),
            warned: BTreeSet::new(),
        };
        self.tell_conflicts();
        *self.worker.lock().unwrap() = Some(Worker::new(network, &settings));
        *self.tracker.lock().unwrap() = Arc::default();
        *self.sender.lock().unwrap() = Sender::new(channel);
        *self.stats.lock().unwrap() = Stats::default();
        self.live.store(false, Ordering::Relaxed);
        self.pace.reset();
        self.same_process.store(false, Ordering::Relaxed);
        self.refine_works.store(false, Ordering::Relaxed);
        self.latency.store(0, Ordering::Relaxed);
        self.waiting.store(0, Ordering::Relaxed);
        *self.caps_due.lock().unwrap() = CapsDue::default();
        // Before data flows: with a queue behind the decoder its first event may come here after its first access unit.
        self.look_for_encoded_stream(true);
        if let Some(input) = self.refine_input() {
            input.reset();
            self.queue.set_refinement_over(false);
            input.probe.look(input.pad(), &self.early, true);
        }
        self.start_repeater();
        Ok(())
    }

    /// Tells which settings cancel each other, each pair once in a run.
    fn tell_conflicts(&self) {
        let settings = self.settings.lock().unwrap().clone();
        let news = {
            let mut told = self.told.lock().unwrap();
            let mut news = told.finds.map_or_else(Vec::new, |finds| settings.conflicts(finds));
            news.retain(|conflict| told.warned.insert(conflict.pair));
            news
        };
        for conflict in news {
            gst::warning!(CAT, imp = self, "{}", conflict.text);
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{}", conflict.text));
        }
    }

    fn stop(&self) {
        if let Some((stop, thread)) = self.repeater.lock().unwrap().take() {
            drop(stop);
            // It ends within one repetition; it holds nothing that this thread holds.
            let _ = thread.join();
        }
        self.probe.clear();
        if let Some(input) = self.refine_input() {
            input.reset();
        }
        *self.worker.lock().unwrap() = None;
        let channel = {
            let mut sender = self.sender.lock().unwrap();
            sender.forget();
            sender.take_channel()
        };
        drop(channel);
    }

    /// A thread that keeps the camera from taking a quiet scene, or a slow model, for a dead server.
    fn start_repeater(&self) {
        let (stop, stopped) = mpsc::channel::<()>();
        let weak = self.obj().downgrade();
        let guard = Guard::of("the repetition of feedback", Some(self.obj().upcast_ref()));
        let thread = std::thread::Builder::new()
            .name("ddsinfer-repeat".into())
            .spawn(move || {
                let mut wait = super::sender::REPEAT / 2;
                while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(wait) {
                    let Some(obj) = weak.upgrade() else { return };
                    wait = guard.run(super::sender::REPEAT, || obj.imp().repeat_feedback());
                }
            });
        match thread {
            Ok(thread) => *self.repeater.lock().unwrap() = Some((stop, thread)),
            Err(error) => gst::element_imp_warning!(
                self,
                gst::ResourceError::Failed,
                ("No thread to repeat feedback ({error}): cameras fall back during long pauses")
            ),
        }
    }

    fn repeat_feedback(&self) -> std::time::Duration {
        // What is not live has no silence: its time is not ours.
        if !self.live.load(Ordering::Relaxed) || !self.settings.lock().unwrap().feedback {
            return super::sender::REPEAT / 2;
        }
        let side = self.side_pads.lock().unwrap().feedback.clone();
        let mut sender = self.sender.lock().unwrap();
        let mut stats = Stats::default();
        let wait = sender.repeat(&self.sink_pad, side.as_ref(), &mut stats);
        drop(sender);
        self.stats.lock().unwrap().add_feedback(&stats);
        wait
    }

    fn activate_sink(&self, mode: gst::PadMode, active: bool) -> Result<(), gst::LoggableError> {
        if mode != gst::PadMode::Push {
            return Err(gst::loggable_error!(CAT, "Only push mode"));
        }
        if active {
            self.queue.start();
        } else {
            self.queue.flush();
        }
        Ok(())
    }

    fn activate_src(&self, mode: gst::PadMode, active: bool) -> Result<(), gst::LoggableError> {
        if mode != gst::PadMode::Push {
            return Err(gst::loggable_error!(CAT, "Only push mode"));
        }
        if active {
            // Source pads are activated before sink pads.
            self.queue.start();
            self.start_task()
        } else {
            self.queue.flush();
            self.src_pad.stop_task().map_err(|e| gst::loggable_error!(CAT, "{e}"))
        }
    }

    fn start_task(&self) -> Result<(), gst::LoggableError> {
        let weak = self.obj().downgrade();
        self.src_pad
            .start_task(move || {
                if let Some(obj) = weak.upgrade() {
                    obj.imp().catch_panic(|| (), |imp| imp.step());
                }
            })
            .map_err(|e| gst::loggable_error!(CAT, "{e}"))
    }

    fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.look_for_encoded_stream(false);
        let told = identity_meta(&buffer);
        let (lookup, waiting) = {
            let tracker = self.tracker();
            let mut tracker = tracker.lock().unwrap();
            let lookup = tracker.lookup_told(buffer.pts().map(gst::ClockTime::nseconds), told.as_ref());
            (lookup, tracker.waiting())
        };
        gst::trace!(CAT, imp = self, "Frame {:?}: {lookup:?}", buffer.pts());
        if let Lookup::Known(record) = &lookup
            && let Some(identity) = record.identity
        {
            for refused in &record.extension.refused {
                self.queue.arrive((identity.stream_id, *refused), Arrival::Refused);
            }
            self.watch_first_decoder(waiting);
        }
        self.queue.push_frame(buffer, lookup)
    }

    /// Cameras that are steered send no frames out of order: what a decoder keeps, it keeps for its threads' sake, and feedback
    /// is as many frames late.
    fn watch_first_decoder(&self, waiting: usize) {
        let frames = self.held_back.load(Ordering::Relaxed);
        if frames == u32::MAX {
            return;
        }
        let holds = waiting > 0 && self.by_rtcp.load(Ordering::Relaxed) && self.live.load(Ordering::Relaxed);
        let frames = if holds { frames + 1 } else { 0 };
        self.held_back.store(frames, Ordering::Relaxed);
        if frames < HELD_BACK_FRAMES {
            return;
        }
        self.held_back.store(u32::MAX, Ordering::Relaxed);
        let decoder = self.probe.decoder().unwrap_or_default();
        gst::element_imp_warning!(
            self,
            gst::StreamError::Decode,
            ("The decoder {decoder} holds {waiting} frames back, and feedback comes as many frames late; use avdec_h264 \
                 with the property max-threads=1, or thread-type=slice")
        );
    }

    /// Puts the probe on the encoded stream, again where the upstream side was rebuilt. Cheap while all is well.
    fn look_for_encoded_stream(&self, now: bool) {
        if let Some(tracker) = self.probe.look(&self.sink_pad, &self.early, now) {
            *self.tracker.lock().unwrap() = tracker;
        }
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::log!(CAT, obj = pad, "{event:?}");
        match event.view() {
            gst::EventView::FlushStart(_) => {
                let pushed = self.src_pad.push_event(event);
                self.queue.flush();
                // Before the worker is waited for: it may wait for one of them.
                self.sides().iter().for_each(|side| side.flush_start());
                let _ = self.src_pad.stop_task();
                pushed
            }
            gst::EventView::FlushStop(stop) => {
                let reset_time = stop.resets_time();
                let pushed = self.src_pad.push_event(event);
                if let Some(worker) = &mut *self.worker.lock().unwrap() {
                    worker.flush();
                }
                self.caps_due.lock().unwrap().events.clear();
                self.sender.lock().unwrap().forget();
                self.sides().iter().for_each(|side| side.flush_stop(reset_time));
                self.queue.start();
                pushed && self.start_task().is_ok()
            }
            gst::EventView::StreamStart(_) | gst::EventView::Caps(_) => {
                // Before the first frame is decoded, so that the probe sees its access unit.
                self.look_for_encoded_stream(true);
                self.queue.push_event(event)
            }
            gst::EventView::Segment(_) => {
                self.ask_if_live();
                self.queue.push_event(event)
            }
            _ if event.is_serialized() => self.queue.push_event(event),
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        if let gst::EventView::Latency(latency) = event.view() {
            self.pace.set_latency(latency.latency().nseconds());
        }
        if event.type_() == gst::EventType::Qos {
            self.stats.lock().unwrap().qos_events += 1;
            // A decoder that hears of a late display leaves frames out. Of a recording every frame is wanted.
            if !self.live.load(Ordering::Relaxed) {
                return true;
            }
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    fn ask_if_live(&self) {
        let mut query = gst::query::Latency::new();
        let live = self.sink_pad.peer_query(&mut query) && query.result().0;
        self.live.store(live, Ordering::Relaxed);
        self.queue.set_live(live);
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Allocation(_) | gst::QueryViewMut::Drain(_) => {
                // Downstream must have seen the caps that the query is about.
                self.queue.drain() && !self.caps_due.lock().unwrap().due && self.src_pad.peer_query(query)
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Latency(query) => {
                let mut upstream = gst::query::Latency::new();
                if !self.sink_pad.peer_query(&mut upstream) {
                    return false;
                }
                let (live, min, max) = upstream.result();
                self.live.store(live, Ordering::Relaxed);
                self.queue.set_live(live);
                let ours = gst::ClockTime::from_nseconds(self.latency.load(Ordering::Relaxed));
                query.set(live, min + ours, max.map(|max| max + ours));
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// Whether a second pass can come in.
    fn can_refine(&self) -> bool {
        self.refine_input().is_some_and(|input| input.is_open())
    }

    /// One turn of the worker.
    fn step(&self) {
        let (awaited, room, holds) = match &*self.worker.lock().unwrap() {
            Some(worker) => (worker.awaited(), worker.has_room(), worker.holds()),
            None => (None, true, false),
        };
        let arrival = match self.queue.turn(awaited, room, holds) {
            Turn::Stopped => {
                let _ = self.src_pad.pause_task();
                return;
            }
            Turn::Item(Item::Event(event), _) => return self.take_event(event),
            // Downstream wants no more frames; the end of the stream is still to come.
            Turn::Item(Item::Frame(..), _) if self.queue.refused() => return,
            Turn::Item(Item::Frame(buffer, lookup), overtaken) => return self.take_frame(buffer, lookup, overtaken),
            Turn::Arrival(arrival) => Some(arrival),
            Turn::Overdue => None,
        };
        if let Some(worker) = &mut *self.worker.lock().unwrap() {
            worker.answer(arrival);
        }
        self.let_out();
    }

    /// First pass of a frame.
    fn take_frame(&self, buffer: gst::Buffer, lookup: Lookup, overtaken: bool) {
        let overtaken = overtaken && !self.has_time(&buffer);
        let settings = self.settings.lock().unwrap().clone();
        let refine = self.can_refine();
        let looked = match &mut *self.worker.lock().unwrap() {
            Some(worker) => {
                if self.refine_works.swap(false, Ordering::Relaxed) {
                    worker.late_arrival();
                }
                worker.first_pass(
                    buffer,
                    lookup,
                    (overtaken, refine),
                    &settings,
                    &self.tracker(),
                    &self.stats,
                )
            }
            None => Ok(Outcome::default()),
        };
        match looked {
            Ok(outcome) => {
                if refine {
                    self.expect_second_pass(&outcome, &settings);
                }
                self.act(outcome);
                self.let_out();
            }
            Err(error) => {
                gst::element_imp_error!(self, gst::StreamError::Failed, ("{error}"));
                self.settle(Err(gst::FlowError::Error));
            }
        }
    }

    /// A serialised event, in its place among the frames.
    fn take_event(&self, event: gst::Event) {
        let mut outcome = Outcome::default();
        let set = match &mut *self.worker.lock().unwrap() {
            Some(worker) => {
                let set = match event.view() {
                    gst::EventView::Caps(caps) => worker.set_caps(caps.caps()),
                    gst::EventView::Eos(_) => {
                        let settings = self.settings.lock().unwrap().clone();
                        worker.close_segment(&settings, &mut outcome);
                        Ok(())
                    }
                    _ => Ok(()),
                };
                worker.hold_event(event);
                set
            }
            None => Ok(()),
        };
        if let Err(error) = set {
            error.log_with_imp(self);
            gst::element_imp_error!(self, gst::StreamError::Format, ("{error}"));
            self.settle(Err(gst::FlowError::NotNegotiated));
            return;
        }
        self.act(outcome);
        self.let_out();
    }

    /// Lets out what waits for nothing.
    fn let_out(&self) {
        loop {
            let next = match &mut *self.worker.lock().unwrap() {
                Some(worker) => worker.next_out(),
                None => None,
            };
            match next {
                Some(Out::Event(event)) => self.forward_event(event),
                Some(Out::Frame(_)) if self.queue.refused() => (),
                Some(Out::Frame(held)) => {
                    let flow = self.finish(*held);
                    self.settle(flow);
                }
                None => return,
            }
        }
    }

    /// Second pass of a frame where there is one, and out.
    fn finish(&self, held: Held) -> Result<gst::FlowSuccess, gst::FlowError> {
        let settings = self.settings.lock().unwrap().clone();
        let finished = match &mut *self.worker.lock().unwrap() {
            Some(worker) => worker.finish(held, &settings, &self.stats),
            None => return Err(gst::FlowError::Flushing),
        };
        let ready = match finished {
            Ok(ready) => ready,
            Err(error) => {
                gst::element_imp_error!(self, gst::StreamError::Failed, ("{error}"));
                return Err(gst::FlowError::Error);
            }
        };
        if let Some(key) = ready.key {
            let late = self.queue.release(key);
            if late > 0 {
                self.stats.lock().unwrap().refine_after_the_fact += late as u64;
            }
        }
        self.tell_latency(ready.inference);
        self.settle_caps(Some(&ready.caps));
        if let Some(map) = &ready.segmentation {
            self.push_classes(map, &ready.caps, &ready.buffer);
        }
        let mut buffer = ready.buffer;
        if let Some(result) = ready.result {
            let told = self.report(result, &settings);
            if let Err(error) = results::attach(buffer.make_mut(), &told) {
                gst::warning!(CAT, imp = self, "Results are not on their frame: {error}");
            }
        }
        let started = Instant::now();
        let flow = self.src_pad.push(buffer);
        self.pace.pushed(started.elapsed().as_nanos() as u64);
        if flow == Err(gst::FlowError::NotLinked) {
            self.tell_misplaced(&ready.caps);
        }
        flow
    }

    /// Automatic linking puts a muxer that takes no video of our format on the grey pad `classes`, and `src` on nothing.
    fn tell_misplaced(&self, video: &gst::CapsRef) {
        let classes = self.side_pads.lock().unwrap().classes.clone();
        let peer = classes.and_then(|side| side.pad().peer()?.parent_element());
        if let Some(peer) = peer.filter(|_| !self.src_pad.is_linked())
            && self.told.lock().unwrap().warned.insert("classes")
        {
            let format = video
                .structure(0)
                .and_then(|s| s.get::<&str>("format").ok())
                .unwrap_or("this");
            gst::element_imp_error!(
                self,
                gst::CoreError::Pad,
                (
                    "src is linked to nothing and the pad classes to {}, which takes no {format} video. Put videoconvert in \
                  front of it.",
                    peer.name()
                )
            );
        }
    }

    /// The class of each pixel, one byte each, as a picture on the pad `classes`.
    fn push_classes(&self, map: &Segmentation, video: &gst::CapsRef, frame: &gst::BufferRef) {
        let Some(side) = self.side_pads.lock().unwrap().classes.clone() else {
            return;
        };
        let Some(info) = picture_of_classes(video) else { return };
        let (width, height) = (info.width() as usize, info.height() as usize);
        let mut pixels = vec![0; info.size()];
        if map
            .write_classes(width, height, &mut pixels, info.stride()[0] as usize)
            .is_err()
        {
            return;
        }
        // The pad may have come after the video's caps.
        tell_caps(&side, &info);
        let mut buffer = gst::Buffer::from_mut_slice(pixels);
        let _ = frame.copy_into(buffer.make_mut(), gst::BufferCopyFlags::TIMESTAMPS, ..);
        let queued = side.push(buffer, !self.live.load(Ordering::Relaxed));
        self.stats.lock().unwrap().class_maps_dropped += u64::from(queued == Queued::DroppedOldest);
    }

    /// The pad `classes` learns its caps with the video's: what hangs on it need not wait for a picture to preroll.
    fn tell_caps_of_classes(&self, video: &gst::CapsRef) {
        let side = self.side_pads.lock().unwrap().classes.clone();
        if let Some((side, info)) = side.zip(picture_of_classes(video)) {
            tell_caps(&side, &info);
        }
    }

    /// Sends caps that differ from those downstream has, and what had to wait for them.
    fn settle_caps(&self, caps: Option<&gst::Caps>) {
        let events = {
            let mut due = self.caps_due.lock().unwrap();
            due.due = false;
            std::mem::take(&mut due.events)
        };
        if let Some(caps) = caps
            && self.src_pad.current_caps().as_ref() != Some(caps)
        {
            self.tell_caps_of_classes(caps);
            self.src_pad.push_event(gst::event::Caps::new(caps));
        }
        for event in events {
            self.src_pad.push_event(event);
        }
    }

    fn forward_event(&self, event: gst::Event) {
        match event.view() {
            gst::EventView::Caps(_) if self.can_refine() => {
                // The size of the merged picture is known with the first frame.
                self.caps_due.lock().unwrap().due = true;
                return;
            }
            gst::EventView::Caps(caps) => self.tell_caps_of_classes(caps.caps()),
            gst::EventView::Eos(_) => {
                self.sides().iter().for_each(|side| side.eos());
                // The server has seen all there is: from here on silence is the truth.
                self.sender.lock().unwrap().forget();
                self.settle_caps(None);
            }
            gst::EventView::StreamStart(_) => {
                self.sides().iter().for_each(|side| side.stream_start());
                self.settle_caps(None);
            }
            gst::EventView::Segment(_) => {
                let timed = {
                    let pads = self.side_pads.lock().unwrap();
                    [pads.results.clone(), pads.classes.clone()]
                };
                timed.iter().flatten().for_each(|side| side.event(&event));
            }
            _ => (),
        }
        {
            let mut due = self.caps_due.lock().unwrap();
            if due.due {
                due.events.push(event);
                return;
            }
        }
        self.src_pad.push_event(event);
    }

    /// Does what the worker decided for a frame, before the frame goes out.
    fn act(&self, outcome: Outcome) {
        if outcome.new_stream {
            self.sender.lock().unwrap().forget();
        }
        if let Some(why) = outcome.foreign {
            gst::info!(CAT, imp = self, "No feedback for this stream: {why}");
            let message = gst::Structure::builder("ddsinfer-foreign-stream")
                .field("reason", why)
                .build();
            self.post(message);
        }
        if let Some(warning) = outcome.warning {
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{warning}"));
        }
        self.tell_latency(outcome.inference);
        let Some(generation) = outcome.requests.into_iter().map(|r| self.send(r)).last() else {
            return;
        };
        if let Some(worker) = &mut *self.worker.lock().unwrap() {
            worker.note_generation(generation);
        }
    }

    /// Sends one generation of feedback; gives its number.
    fn send(&self, request: Request) -> u16 {
        let side = self.side_pads.lock().unwrap().feedback.clone();
        let mut stats = Stats::default();
        let mut sender = self.sender.lock().unwrap();
        let generation = sender.send(request, &self.sink_pad, side.as_ref(), &mut stats);
        self.same_process.store(sender.way() == Way::Event, Ordering::Relaxed);
        self.by_rtcp.store(sender.way() == Way::Rtcp, Ordering::Relaxed);
        drop(sender);
        self.stats.lock().unwrap().add_feedback(&stats);
        generation.0
    }

    /// Says what was seen; gives what the bus was told.
    fn report(&self, mut result: FrameResult, settings: &Settings) -> gst::Structure {
        let live = self.live.load(Ordering::Relaxed);
        // A camera in this process has our clock; any other's agrees with it only where the user says so.
        if live && (settings.capture_clock_synchronised || self.same_process.load(Ordering::Relaxed)) {
            result.age_ms = unix_now().and_then(|now| result.age_at(now));
            result.first_pass_age_ms = result.age_at(result.first_pass_ns);
            let mut stats = self.stats.lock().unwrap();
            for object in &result.objects {
                let (pass, age) = match object.pass {
                    1 => (0, result.first_pass_age_ms),
                    _ => (1, result.age_ms),
                };
                age.into_iter().for_each(|age| stats.freshness[pass].add(age));
            }
        }
        let results = self.side_pads.lock().unwrap().results.clone();
        if let Some(results) = results {
            let mut line = gst::Buffer::from_mut_slice(result.to_json_line());
            line.make_mut()
                .set_pts(result.pts_ns.map(gst::ClockTime::from_nseconds));
            let queued = results.push(line, !live);
            let mut stats = self.stats.lock().unwrap();
            stats.result_lines += u64::from(queued != Queued::NoTaker);
            stats.result_lines_dropped += u64::from(queued == Queued::DroppedOldest);
        }
        let told = result.to_structure();
        self.post(told.clone());
        told
    }

    fn post(&self, structure: gst::Structure) {
        let obj = self.obj();
        let _ = obj.post_message(gst::message::Element::builder(structure).src(&*obj).build());
    }

    /// A frame of two passes may wait: for the rest of its segment, for its refinement, and for another inference.
    fn expect_second_pass(&self, outcome: &Outcome, settings: &Settings) {
        let asks = outcome.requests.iter().any(|r| r.once);
        if !asks && outcome.segment == 0 {
            return;
        }
        let frame = self.frame_duration().nseconds();
        let waiting = settings.refine_deadline().as_nanos() as u64 + outcome.segment.saturating_sub(1) * frame;
        if self.waiting.fetch_max(waiting, Ordering::Relaxed) < waiting {
            self.tell_latency(gst::ClockTime::ZERO);
        }
    }

    /// Whether downstream only waits for the time to show the frame.
    fn has_time(&self, buffer: &gst::BufferRef) -> bool {
        let segment = self.src_pad.sticky_event::<gst::event::Segment>(0);
        let segment = segment
            .as_ref()
            .and_then(|s| s.segment().downcast_ref::<gst::ClockTime>());
        let frame = segment
            .zip(buffer.pts())
            .and_then(|(segment, pts)| segment.to_running_time(pts));
        let now = self.obj().current_running_time();
        now.zip(frame).is_some_and(|(now, frame)| {
            let duration = self.frame_duration().nseconds();
            self.pace.has_time(now.nseconds(), frame.nseconds(), duration)
        })
    }

    /// Frames per second; 0 where unknown.
    fn frame_rate(&self) -> gst::Fraction {
        let worker = self.worker.lock().unwrap();
        let fps = worker.as_ref().and_then(|w| w.info.as_ref()).map(|i| i.fps());
        fps.unwrap_or(gst::Fraction::new(0, 1))
    }

    fn frame_duration(&self) -> gst::ClockTime {
        let fps = self.frame_rate();
        let second = gst::ClockTime::SECOND;
        let known = fps.numer() > 0 && fps.denom() > 0;
        known
            .then(|| second.mul_div_floor(fps.denom() as u64, fps.numer() as u64))
            .flatten()
            .unwrap_or(second / 30)
    }

    /// Frames wait for the inference before them: that is our latency, known once measured.
    fn tell_latency(&self, inference: gst::ClockTime) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        // Half as much again, so that a slow frame now and then changes nothing; twice where there are two passes.
        let margin = if waiting > 0 { 3 } else { 0 };
        let inferences = inference.nseconds() * (3 + margin) / 2;
        let told = self.latency.load(Ordering::Relaxed);
        if !self.live.load(Ordering::Relaxed) || waiting + inference.nseconds() <= told {
            return;
        }
        self.latency.store(waiting + inferences, Ordering::Relaxed);
        let obj = self.obj();
        let _ = obj.post_message(gst::message::Latency::builder().src(&*obj).build());
    }

    /// Takes note of what downstream said.
    fn settle(&self, flow: Result<gst::FlowSuccess, gst::FlowError>) {
        self.queue.set_flow(flow);
        let Err(error) = flow else { return };
        gst::debug!(CAT, imp = self, "Stopping: {error}");
        let fatal = !matches!(error, gst::FlowError::Flushing | gst::FlowError::Eos);
        if fatal && self.queue.eos_waits() {
            // Upstream has said goodbye and will not see the error in a return value.
            gst::element_imp_error!(self, gst::StreamError::Failed, ("Internal data stream error: {error}"));
        }
        // Otherwise the task goes on without frames: the end of the stream must reach the side pads.
        if error == gst::FlowError::Flushing {
            let _ = self.src_pad.pause_task();
        }
    }
}

/// The format of a picture of classes that goes with video of these caps.
fn picture_of_classes(video: &gst::CapsRef) -> Option<gst_video::VideoInfo> {
    let video = gst_video::VideoInfo::from_caps(video).ok()?;
    gst_video::VideoInfo::builder(gst_video::VideoFormat::Gray8, video.width(), video.height())
        .fps(video.fps())
        .par(video.par())
        .build()
        .ok()
}

fn tell_caps(side: &SidePad, info: &gst_video::VideoInfo) {
    match info.to_caps() {
        Ok(caps) => side.set_caps(caps),
        Err(error) => gst::warning!(CAT, obj = side.pad(), "{error}"),
    }
}
