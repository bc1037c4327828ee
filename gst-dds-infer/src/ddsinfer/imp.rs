// SPDX-License-Identifier: MPL-2.0

/**
 * SECTION:element-ddsinfer
 * @title: ddsinfer
 *
 * Runs an ONNX model on decoded video - objects, segmentation or faces -, attaches the results, and tells the camera
 * (`ddsencode`) in which regions the model needs more quality to be sure.
 *
 * ```shell
 * gst-launch-1.0 videotestsrc num-buffers=300 ! ddsencode ! h264parse ! avdec_h264 ! ddsinfer model-file=model.onnx ! videoconvert ! autovideosink
 * ```
 *
 * With a camera of two passes (`ddsencode mode=two-pass`) the request pad `refine` takes the decoded second pass. A frame
 * whose regions were requested waits for them up to `refine-deadline`; they are pasted over it and it is inferred again.
 *
 * The video leaves unchanged, each inferred frame with one #GstVideoRegionOfInterestMeta per object, the same objects as
 * #GstAnalyticsRelationMeta where GStreamer has it (1.24), and a #GstCustomMeta `ddsinfer-results` with the complete results.
 * `ddsoverlay` draws them. The same results are posted on the bus as `ddsinfer-results` messages and pushed on the request
 * pad `results` as JSON lines. A segmenter's classes leave by the request pad `classes` as gray pictures, one byte for the
 * class of each pixel. Feedback leaves by the linked request pad `feedback`, else as an event where the camera is in the same
 * process, else by RTCP on the RTP session that the video came through; and in addition by a channel of its own to the camera
 * where `feedback-uri` names one, sealed with `feedback-key`.
 *
 * Since: 0.1
 */
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_dds_link::channel::{self, ServerEnd};
use gst_dds_link::guard::Guard;

use super::CAT;
use super::analysis::TaskEngine;
use super::frame::{Format, Frame, identity_meta};
use super::inputs::Input;
use super::outlet;
use super::probe::EarlyProbes;
use super::queue::Event;
use super::refine::RefineInput;
use super::repeater::Repeater;
use super::sender::{Route, Sender};
use super::settings::PROPERTIES;
use super::shared::{Reported, Shared, core_settings};
use super::side_pad::SidePad;
use super::stats::Stats;
use super::task;
use super::worker::Worker;
use crate::analytics;
use crate::identity::Lookup;
use crate::server::Decoded;

/// Frames in a row after which a decoder that holds frames back is reported: more than it may hold back at the start.
const HELD_BACK_FRAMES: u32 = 30;

/// The functions that GStreamer calls. Its locks are those of [`Shared`].
pub struct DdsInfer {
    shared: Arc<Shared>,
}

/// Catches panics in properties, which in the bindings would abort the process.
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
        let shared = Arc::new(Shared::new(sink_pad, src_pad));
        Self { shared }
    }
}

impl ObjectImpl for DdsInfer {
    fn properties() -> &'static [glib::ParamSpec] {
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        PROPERTY_GUARD.run((), || {
            self.shared.change_settings(|settings| {
                settings.set(pspec.name(), value);
            });
            if self.obj().current_state() > gst::State::Ready {
                self.warn_conflicts();
            }
        });
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        PROPERTY_GUARD.run(pspec.default_value().clone(), || {
            if pspec.name() == "stats" {
                return self.stats().to_value();
            }
            let value = self.shared.settings().get(pspec.name());
            value.expect("every readable property but stats is a setting")
        })
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        let Shared { sink_pad, src_pad, .. } = &*self.shared;
        obj.add_pad(sink_pad).expect("a new element has no pads");
        obj.add_pad(src_pad).expect("a new element has no source pad");
        gst_dds_link::refusal::report_refusals(sink_pad);
        gst_dds_link::refusal::require_caps(sink_pad);
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
            // Formats that the model reads without a conversion come first: sources that may choose take the first.
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
            let mut state = self.shared.state.lock().unwrap();
            let name = template.name_template();
            let slot = match name {
                "feedback" => &mut state.sides.feedback,
                "classes" => &mut state.sides.classes,
                _ => &mut state.sides.results,
            };
            if slot.is_some() {
                gst::warning!(
                    CAT,
                    imp = self,
                    "The pad {name} is taken: there is one of each; use a tee behind it"
                );
                return None;
            }
            // Feedback has no timestamps: it is due at once.
            let segment = self.shared.src_pad.sticky_event::<gst::event::Segment>(0);
            let segment = segment.filter(|_| name != "feedback").map(gst::Event::from);
            let side = SidePad::new(template, name, segment, Some(self.obj().upcast_ref()));
            *slot = Some(side.clone());
            side
        };
        // Added pads follow the element's state from here on.
        self.obj().add_pad(side.pad()).ok()?;
        if let Some(video) = self.shared.src_pad.current_caps() {
            outlet::set_caps_of_classes(&self.shared, &video);
        }
        Some(side.pad().clone())
    }

    fn release_pad(&self, pad: &gst::Pad) {
        let refine = {
            let mut state = self.shared.state.lock().unwrap();
            state.refine.take_if(|r| r.pad() == pad)
        };
        if let Some(refine) = refine {
            refine.release();
            let _ = pad.set_active(false);
            let _ = self.obj().remove_pad(pad);
            return;
        }
        let side = {
            let mut state = self.shared.state.lock().unwrap();
            let slots = state.sides.slots().into_iter();
            slots
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
            // Before other elements add decoders.
            gst::StateChange::NullToReady => self.watch_early(EarlyProbes::new(self.obj().upcast_ref())),
            gst::StateChange::ReadyToPaused => self.start()?,
            gst::StateChange::ReadyToNull => self.watch_early(None),
            _ => (),
        }
        if transition == gst::StateChange::PausedToReady {
            // The worker may be waiting for one of them.
            self.shared.sides().iter().for_each(|side| side.close());
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
    /// Internal links of the video pads: each is linked only to the other.
    fn only_pad(parent: Option<&gst::Object>, name: &str) -> gst::Iterator<gst::Pad> {
        static GUARD: Guard = Guard::new("links inside ddsinfer");
        let pad = || parent.and_then(|p| p.downcast_ref::<gst::Element>()?.static_pad(name));
        gst::Iterator::from_vec(GUARD.run(None, pad).into_iter().collect())
    }

    fn request_refine(&self, template: &gst::PadTemplate) -> Option<gst::Pad> {
        let input = {
            let (queue, inputs) = (self.shared.queue.clone(), self.shared.inputs.clone());
            let mut state = self.shared.state.lock().unwrap();
            if state.refine.is_some() {
                gst::warning!(CAT, imp = self, "The pad refine is taken: a camera has one second pass");
                return None;
            }
            let input = RefineInput::new(template, self.obj().upcast_ref(), queue, inputs);
            state.refine.insert(input).clone()
        };
        self.shared.queue.handle(Event::RefineOver(false));
        self.obj().add_pad(input.pad()).ok()?;
        Some(input.pad().clone())
    }

    /// Replaces the probes on decoders that appear before the element is linked to them.
    fn watch_early(&self, early: Option<EarlyProbes>) {
        let before = std::mem::replace(&mut self.shared.inputs.lock().unwrap().early, early);
        drop(before);
    }

    fn stats(&self) -> gst::Structure {
        let tracker = self.shared.inputs.lock().unwrap().first.tracker();
        let tracker = tracker.lock().unwrap().stats();
        let counts = self.shared.queue.counts();
        let (stats, channel) = {
            let state = self.shared.state.lock().unwrap();
            (state.stats.clone(), state.channel.clone())
        };
        stats.structure(&counts, &self.shared.queue.rate(), &tracker, &channel.counts())
    }

    /// Opens the model and begins a new run.
    fn start(&self) -> Result<(), gst::StateChangeError> {
        let settings = self.shared.settings();
        if let Err(error) = settings.check() {
            gst::element_imp_error!(self, gst::LibraryError::Settings, ("{error}"));
            return Err(gst::StateChangeError);
        }
        let engine = match TaskEngine::open(&settings) {
            Ok(engine) => engine,
            Err(error) => {
                gst::element_imp_error!(self, gst::ResourceError::OpenRead, ("{error}"));
                return Err(gst::StateChangeError);
            }
        };
        let channel = match ServerEnd::open(&settings.channel, channel::post_by(&*self.obj())) {
            Ok(channel) => channel,
            Err(error) => {
                gst::element_imp_error!(self, gst::ResourceError::OpenReadWrite, ("{error}"));
                return Err(gst::StateChangeError);
            }
        };
        gst::info!(CAT, imp = self, "{}", engine.summary());
        // Called before data flows, since the first call opens a library.
        if let Some(Err(why)) = settings.analytics_meta.then(analytics::library) {
            gst::info!(
                CAT,
                imp = self,
                "Objects go out as region of interest metas only: {why}"
            );
        }
        let warnings = engine.warnings().into_iter().chain(engine.class_warning(&settings));
        for warning in warnings {
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{warning}"));
        }
        {
            let mut state = self.shared.state.lock().unwrap();
            state.channel = channel.as_ref().map(ServerEnd::counters).unwrap_or_default();
            state.reported = Reported {
                finds: Some(engine.finds()),
                warned: BTreeSet::new(),
            };
            state.stats = Stats::default();
            state.route = None;
        }
        self.warn_conflicts();
        *self.shared.worker.lock().unwrap() = Some(Worker::new(engine, &settings));
        *self.shared.sender.lock().unwrap() = Sender::new(channel);
        self.shared.queue.reset(core_settings(&settings));
        {
            // Done before data flows: with a queue behind the decoder its first event may arrive after its first access unit.
            let mut inputs = self.shared.inputs.lock().unwrap();
            inputs.first = Input::default();
            inputs.look_first(&self.shared.sink_pad, true);
        }
        let refine = self.shared.state.lock().unwrap().refine.clone();
        if let Some(input) = refine {
            input.start();
        }
        self.start_repeater();
        Ok(())
    }

    /// Warns of settings that cancel each other, of each pair once in a run.
    fn warn_conflicts(&self) {
        let settings = self.shared.settings();
        let news = {
            let reported = &mut self.shared.state.lock().unwrap().reported;
            let mut news = reported.finds.map_or_else(Vec::new, |finds| settings.conflicts(finds));
            news.retain(|conflict| reported.warned.insert(conflict.pair));
            news
        };
        for conflict in news {
            gst::warning!(CAT, imp = self, "{}", conflict.text);
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{}", conflict.text));
        }
    }

    fn stop(&self) {
        let repeater = self.shared.state.lock().unwrap().repeater.take();
        if let Some(repeater) = repeater {
            repeater.stop();
        }
        {
            let mut inputs = self.shared.inputs.lock().unwrap();
            inputs.first.stop();
            inputs.refine = Input::default();
        }
        *self.shared.worker.lock().unwrap() = None;
        let channel = {
            let mut sender = self.shared.sender.lock().unwrap();
            sender.forget();
            sender.take_channel()
        };
        drop(channel);
    }

    fn start_repeater(&self) {
        let weak = Arc::downgrade(&self.shared);
        let guard = Guard::of("the repetition of feedback", Some(self.obj().upcast_ref()));
        match Repeater::start(guard, move || weak.upgrade().map(|shared| task::repeat(&shared))) {
            Ok(repeater) => self.shared.state.lock().unwrap().repeater = Some(repeater),
            Err(error) => gst::element_imp_warning!(
                self,
                gst::ResourceError::Failed,
                ("No thread to repeat feedback ({error}): cameras fall back during long pauses")
            ),
        }
    }

    fn activate_sink(&self, mode: gst::PadMode, active: bool) -> Result<(), gst::LoggableError> {
        if mode != gst::PadMode::Push {
            return Err(gst::loggable_error!(CAT, "Only push mode"));
        }
        if active {
            self.shared.queue.start();
        } else {
            self.shared.queue.flush();
        }
        Ok(())
    }

    fn activate_src(&self, mode: gst::PadMode, active: bool) -> Result<(), gst::LoggableError> {
        if mode != gst::PadMode::Push {
            return Err(gst::loggable_error!(CAT, "Only push mode"));
        }
        if active {
            // Source pads are activated before sink pads.
            self.shared.queue.start();
            self.start_task()
        } else {
            self.shared.queue.flush();
            let stopped = self.shared.src_pad.stop_task();
            stopped.map_err(|e| gst::loggable_error!(CAT, "{e}"))
        }
    }

    fn start_task(&self) -> Result<(), gst::LoggableError> {
        let weak = self.obj().downgrade();
        self.shared
            .src_pad
            .start_task(move || {
                if let Some(obj) = weak.upgrade() {
                    obj.imp().catch_panic(|| (), |imp| task::run(&imp.shared));
                }
            })
            .map_err(|e| gst::loggable_error!(CAT, "{e}"))
    }

    fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let attached = identity_meta(&buffer);
        let pts = buffer.pts().map(gst::ClockTime::nseconds);
        let live = self.shared.queue.is_live();
        let by_rtcp = self.shared.state.lock().unwrap().route == Some(Route::Rtcp);
        let (read, format, late) = {
            let mut inputs = self.shared.inputs.lock().unwrap();
            inputs.look_first(&self.shared.sink_pad, false);
            let input = &mut inputs.first;
            let read = input.read(pts, attached.as_ref());
            let ours = matches!(&read.lookup, Lookup::Known(record) if record.identity.is_some());
            // Cameras that are steered send frames in order: a decoder holds frames back only for its threads, and delays
            // feedback by as many frames.
            let late = ours && input.watch.frame(read.waiting > 0 && by_rtcp && live, HELD_BACK_FRAMES);
            (read, input.format.clone(), late.then(|| input.decoder()))
        };
        gst::trace!(CAT, imp = self, "Frame {:?}: {:?}", buffer.pts(), read.lookup);
        if let Some(decoder) = late {
            gst::element_imp_warning!(
                self,
                gst::StreamError::Decode,
                (
                    "The decoder {decoder} holds {} frames back, and feedback comes as many frames late; use avdec_h264 \
                  with the property max-threads=1, or thread-type=slice",
                    read.waiting
                )
            );
        }
        let format = format.ok_or(gst::FlowError::NotNegotiated)?;
        self.shared.queue.push_frame(Decoded {
            lookup: read.lookup,
            attached,
            corrupted: buffer.flags().contains(gst::BufferFlags::CORRUPTED),
            origin: read.origin,
            due: live.then(|| self.due(&buffer)).flatten(),
            frame: Box::new(Frame::new(buffer, format)),
        })
    }

    /// Time at which downstream is to show the frame, before the pipeline's latency is added, by the clock of the queue.
    fn due(&self, buffer: &gst::BufferRef) -> Option<Duration> {
        let segment = self.shared.sink_pad.sticky_event::<gst::event::Segment>(0)?;
        let segment = segment.segment().downcast_ref::<gst::ClockTime>()?;
        let frame = Duration::from(segment.to_running_time(buffer.pts()?)?);
        let running = Duration::from(self.obj().current_running_time()?);
        // The order of the sums matters only for frames that were due before the queue was made.
        Some((self.shared.queue.now() + frame).saturating_sub(running))
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::log!(CAT, obj = pad, "{event:?}");
        let Shared { src_pad, queue, .. } = &*self.shared;
        match event.view() {
            gst::EventView::FlushStart(_) => {
                let pushed = src_pad.push_event(event);
                queue.flush();
                // Before waiting for the worker, which may be waiting for one of them.
                self.shared.sides().iter().for_each(|side| side.flush_start());
                let _ = src_pad.stop_task();
                pushed
            }
            gst::EventView::FlushStop(stop) => {
                let reset_time = stop.resets_time();
                let pushed = src_pad.push_event(event);
                self.shared.sender.lock().unwrap().forget();
                self.shared.sides().iter().for_each(|side| side.flush_stop(reset_time));
                queue.start();
                pushed && self.start_task().is_ok()
            }
            gst::EventView::StreamStart(_) => {
                self.look_for_encoded_stream(None);
                queue.push_event(event)
            }
            gst::EventView::Caps(caps) => {
                self.look_for_encoded_stream(Some(caps.caps()));
                queue.push_event(event)
            }
            gst::EventView::Segment(_) => {
                self.ask_if_live();
                queue.push_event(event)
            }
            _ if event.is_serialized() => queue.push_event(event),
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    /// Looks for the encoded stream before the first frame is decoded, so that the probe reads its access unit. `caps`: those
    /// of the frames.
    fn look_for_encoded_stream(&self, caps: Option<&gst::CapsRef>) {
        let mut inputs = self.shared.inputs.lock().unwrap();
        inputs.look_first(&self.shared.sink_pad, true);
        if let Some(caps) = caps {
            // The task reports caps that cannot be read.
            inputs.first.format = Format::of(caps).ok().map(Arc::new);
        }
    }

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        if let gst::EventView::Latency(latency) = event.view() {
            self.shared.queue.handle(Event::Latency(latency.latency().into()));
        }
        if event.type_() == gst::EventType::Qos {
            self.shared.count(|stats| stats.qos_events += 1);
            // A decoder drops frames when it learns that the display is late. Of a recording every frame is wanted.
            if !self.shared.queue.is_live() {
                return true;
            }
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    fn ask_if_live(&self) {
        let mut query = gst::query::Latency::new();
        let live = self.shared.sink_pad.peer_query(&mut query) && query.result().0;
        self.shared.queue.handle(Event::Live(live));
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Allocation(_) | gst::QueryViewMut::Drain(_) => {
                // Downstream must have received the caps that the query is about.
                self.shared.queue.drain() && self.shared.src_pad.peer_query(query)
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Latency(query) => {
                let mut upstream = gst::query::Latency::new();
                if !self.shared.sink_pad.peer_query(&mut upstream) {
                    return false;
                }
                let (live, min, max) = upstream.result();
                self.shared.queue.handle(Event::Live(live));
                let ours = gst::ClockTime::from_nseconds(self.shared.queue.latency().as_nanos() as u64);
                query.set(live, min + ours, max.map(|max| max + ours));
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }
}
