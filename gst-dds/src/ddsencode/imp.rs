// SPDX-License-Identifier: MPL-2.0

//! GObject glue of `ddsencode`.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_dds_link::channel::{CameraEnd, Counts};
use gst_dds_link::guard;
use gst_dds_link::sync::Mutex;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;

use crate::camera::timeline::Timeline;
use crate::camera::{FeedbackReceiver, KeyFrameRequests, Pace, Reading, Way, Ways};
use crate::cuda;
use crate::encoder::{OpenError, PixelFormat};

use super::capture::capture_time;
use super::feedback::{self, Entrance, Rtp};
use super::keyframes;
use super::log::{CAT, library_log};
use super::negotiate;
use super::open;
use super::properties;
use super::refine::{self, Refine};
use super::settings::{Live, Settings};
use super::setup::{self, Setup};
use super::state::{Coded, Coding, FrameInput, InputState, State};
use super::stats::{self, ElementStats, Parts};

/// Instance data. Locks are held one at a time, except for these, which may be taken while those before them are held:
/// `state`, `feedback`, and the one of `refine`; `state`, then `key_frames`. None is held while pushing, posting or
/// calling the parent.
#[derive(Default)]
pub struct DdsEncode {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    /// A thread that delivers feedback waits at most for a packet to be read, never for the encoder.
    feedback: Arc<Mutex<FeedbackReceiver>>,
    rtp: Mutex<Rtp>,
    /// Key frames that the network requests.
    key_frames: Mutex<KeyFrameRequests<gst::Event>>,
    /// The channel of `feedback-uri`.
    channel: Mutex<Option<CameraEnd>>,
    refine: Arc<Refine>,
    /// Warnings posted in this run.
    warned: Mutex<BTreeSet<&'static str>>,
    /// The CUDA context shared with neighbours that have pictures on a GPU.
    cuda: cuda::Slot,
    /// Counts of the last run, for `stats` after the end.
    last_stats: Mutex<Option<gst::Structure>>,
}

/// Guards properties, in which the bindings abort on a panic.
static PROPERTY_GUARD: guard::Guard = guard::Guard::new("a property of ddsencode");

#[glib::object_subclass]
impl ObjectSubclass for DdsEncode {
    const NAME: &'static str = "GstDdsEncode";
    type Type = super::DdsEncode;
    type ParentType = gst_video::VideoEncoder;
    type Interfaces = (gst::Preset,);
}

impl PresetImpl for DdsEncode {}

impl ObjectImpl for DdsEncode {
    fn constructed(&self) {
        self.parent_constructed();
        gst_dds_link::refusal::report_refusals(self.obj().sink_pad());
        gst_dds_link::refusal::require_caps(self.obj().sink_pad());
        keyframes::watch(self.obj().sink_pad(), |element, pts| {
            if let Some(element) = element.downcast_ref::<super::DdsEncode>() {
                element.imp().grant_key_frame(pts);
            }
        });
    }

    fn properties() -> &'static [glib::ParamSpec] {
        &properties::ALL
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        PROPERTY_GUARD.run((), || {
            let live = pspec.flags().contains(gst::PARAM_FLAG_MUTABLE_PLAYING);
            let running = self.obj().current_state() > gst::State::Ready;
            if !live && running {
                gst::warning!(
                    CAT,
                    imp = self,
                    "{} takes effect when the element next starts",
                    pspec.name()
                );
            }
            if !self.settings.lock().unwrap().set(pspec, value) {
                gst::error!(CAT, imp = self, "{} is not a setting", pspec.name());
            }
            if live && running {
                self.warn_of_conflicts();
            }
        });
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        PROPERTY_GUARD.run(pspec.default_value().clone(), || {
            if pspec.name() == "stats" {
                self.stats().to_value()
            } else {
                let value = self.settings.lock().unwrap().get(pspec);
                value.unwrap_or_else(|| pspec.default_value().clone())
            }
        })
    }
}

impl GstObjectImpl for DdsEncode {}

impl ElementImpl for DdsEncode {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "DDS Encoder",
                "Codec/Encoder/Video",
                "H.264 and H.265 encoder without delay, whose quality per region follows the neural network at the \
                 receiving end",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(negotiate::pad_templates);
        &TEMPLATES
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        if template.name_template() == refine::PAD {
            return self.request_refine(template);
        }
        if self.obj().static_pad("feedback").is_some() {
            gst::error!(
                CAT,
                imp = self,
                "There is one feedback pad only; use a funnel in front of it"
            );
            return None;
        }
        let pad = self.entrance().pad(template);
        self.obj().add_pad(&pad).ok()?;
        Some(pad)
    }

    fn set_context(&self, context: &gst::Context) {
        self.cuda.offer(self.obj().upcast_ref(), context);
        self.parent_set_context(context);
    }

    fn release_pad(&self, pad: &gst::Pad) {
        let _ = pad.set_active(false);
        if self.refine.pad().as_ref() == Some(pad) {
            self.refine.set_pad(None);
        }
        if let Err(error) = self.obj().remove_pad(pad) {
            gst::warning!(CAT, imp = self, "{error}");
        }
    }
}

impl VideoEncoderImpl for DdsEncode {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings.lock().unwrap().clone();
        // Opens an encoder for a dummy picture, so that bad settings are refused before the pipeline runs.
        let two_pass = settings.two_pass().is_some();
        let refused = settings
            .check()
            .and_then(|()| self.refine.start(two_pass))
            .and_then(|()| {
                let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 320, 240)
                    .fps(gst::Fraction::new(30, 1))
                    .build()
                    .map_err(|e| OpenError::Library(e.to_string()))?;
                let coders = open::coders(&settings, self.obj().src_pad().allowed_caps().as_ref())?;
                open::first(&coders, |backend, codec| {
                    let choice = negotiate::choose(None, codec, PixelFormat::I420, true)?;
                    let config = negotiate::config(&settings, &info, PixelFormat::I420, &choice);
                    backend.open(&config, Box::new(|_, _| ())).map(drop)
                })
                .map(drop)
            });
        let ways = Ways {
            closed: Way::ALL.map(|way| !settings.takes(way)),
            automatic: settings.chooses_ways(),
        };
        let reading = if two_pass { Reading::AtOnce } else { Reading::WithFrames };
        *self.last_stats.lock().unwrap() = None;
        self.warned.lock().unwrap().clear();
        *self.feedback.lock().unwrap() = FeedbackReceiver::new(ways, reading);
        refused.map_err(|e| gst::error_msg!(gst::LibraryError::Settings, ["{e}"]))?;
        // Its port must be free before it is taken again.
        self.close_channel();
        let channel = self.entrance().open_channel(&settings.channel())?;
        *self.channel.lock().unwrap() = channel;
        self.warn_of_conflicts();
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let stats = self.stats();
        *self.last_stats.lock().unwrap() = Some(stats);
        self.close_channel();
        *self.state.lock().unwrap() = None;
        *self.feedback.lock().unwrap() = FeedbackReceiver::default();
        *self.key_frames.lock().unwrap() = KeyFrameRequests::default();
        self.refine.stop();
        // Taken out first: disconnecting waits for a delivery in progress.
        let rtp = std::mem::take(&mut *self.rtp.lock().unwrap());
        drop(rtp);
        Ok(())
    }

    fn close(&self) -> Result<(), gst::ErrorMessage> {
        self.cuda.clear();
        Ok(())
    }

    fn set_format(&self, input: &InputState) -> Result<(), gst::LoggableError> {
        self.configure(input)
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> gst::Caps {
        let obj = self.obj();
        let allowed = obj.src_pad().allowed_caps();
        let settings = self.settings.lock().unwrap().clone();
        let coders = open::coders(&settings, allowed.as_ref()).unwrap_or_default();
        // The library is searched for only where it may be of use.
        let gpu = coders.iter().any(|(backend, _)| backend.reads_gpu())
            && cuda::available()
                .inspect_err(|why| gst::debug!(CAT, imp = self, "No pictures in CUDA memory: {why}"))
                .is_ok();
        let answer = |interlaced: Option<bool>, filter: Option<&gst::Caps>| {
            let takes = negotiate::input_caps(allowed.as_ref(), &coders, gpu, interlaced);
            obj.proxy_getcaps(Some(&takes), filter)
        };
        let Some(filter) = filter.filter(|filter| !filter.is_any()) else {
            return answer(None, None);
        };
        // The sizes a format may have depend on its fields, which template caps do not contain: each query gets its own
        // answer. Where no format or only luma is left at a size, all formats are offered: the refusal of the encoder
        // explains the size, while failed linking or negotiation would not.
        let mut caps = gst::Caps::new_empty();
        for (structure, features) in filter.iter_with_features() {
            let mut one = gst::Caps::new_empty();
            one.make_mut()
                .append_structure_full(structure.to_owned(), Some(features.to_owned()));
            let interlaced = settings.interlaced() || negotiate::is_interlaced(structure);
            let mut coded = answer(Some(interlaced), Some(&one));
            if negotiate::without_colour(&coded) {
                coded = answer(None, Some(&one));
            }
            caps.merge(coded);
        }
        caps
    }

    fn propose_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        // Every encoder reads planes at any offset and stride.
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        if query.get().0.is_some_and(negotiate::is_on_gpu) {
            // The parent would offer a pool of system memory; elements with pictures on a GPU have their own pool too.
            return Ok(());
        }
        self.parent_propose_allocation(query)
    }

    fn sink_query(&self, query: &mut gst::QueryRef) -> bool {
        self.answer_context(query) || self.parent_sink_query(query)
    }

    fn src_query(&self, query: &mut gst::QueryRef) -> bool {
        self.answer_context(query) || self.parent_src_query(query)
    }

    fn flush(&self) -> bool {
        self.feedback.lock().unwrap().flush();
        if let Some(state) = self.state.lock().unwrap().as_mut() {
            // The decoder may have lost its references with the flush.
            state.planner.force_key_frame();
        }
        true
    }

    fn finish(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        // No frame is held back.
        Ok(gst::FlowSuccess::Ok)
    }

    fn handle_frame(&self, frame: gst_video::VideoCodecFrame) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.encode(frame)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        // The base class forwards events to its own source pad only.
        match event.type_() {
            gst::EventType::Eos => {
                let done = self.parent_sink_event(event);
                self.refine.eos();
                return done;
            }
            gst::EventType::StreamStart => self.refine.new_stream(),
            // Times of another segment may begin anywhere.
            gst::EventType::Segment => {
                if let Some(state) = self.state.lock().unwrap().as_mut() {
                    state.times = Timeline::default();
                }
            }
            gst::EventType::FlushStart => self.refine.flush_start(event.clone()),
            gst::EventType::FlushStop => self.refine.flush_stop(event.clone()),
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        match gst_dds_link::event::take(&event) {
            Some(packet) => {
                self.entrance().deliver(Way::Event, &packet);
                true
            }
            None if keyframes::is_from_network(&event) => {
                self.key_frames.lock().unwrap().request(event, keyframes::joined);
                true
            }
            None => self.parent_src_event(event),
        }
    }
}

impl DdsEncode {
    /// Entrance for feedback from any thread.
    fn entrance(&self) -> Entrance {
        Entrance::new(&self.feedback, &self.refine, self.obj().upcast_ref())
    }

    fn close_channel(&self) {
        // Taken out first: dropping it waits for its threads.
        let channel = self.channel.lock().unwrap().take();
        drop(channel);
    }

    fn stats(&self) -> gst::Structure {
        let counters = self.channel.lock().unwrap().as_ref().map(CameraEnd::counters);
        let channel = counters.map_or_else(Counts::default, |counters| counters.counts());
        let key_frames = self.key_frames.lock().unwrap().counts();
        let (refine, asked) = self.refine.stats();
        let feedback = self.feedback.lock().unwrap().stats().clone();
        let last = self.last_stats.lock().unwrap().clone();
        let state = self.state.lock().unwrap();
        let state = state.as_ref();
        if let (None, Some(last)) = (state, last) {
            return last;
        }
        let element = ElementStats {
            channel,
            key_frames,
            ..state.map_or_else(ElementStats::default, |state| state.stats)
        };
        stats::structure(&Parts {
            element: &element,
            planner: state.map(|state| &state.planner),
            feedback: &feedback,
            refine: &refine,
            asked: self.refine.is_on().then_some(&asked),
            stream: state.map(|state| {
                let stream = &state.stream;
                (stream.stream_id, state.next_frame, stream.next_access_unit)
            }),
            chosen: state.map(|state| &state.stream.chosen),
        })
    }

    /// Opens an encoder for the video and negotiates its output. On new caps all state that is not the encoder's is
    /// kept.
    fn configure(&self, input: &InputState) -> Result<(), gst::LoggableError> {
        let obj = self.obj();
        let mut settings = self.settings.lock().unwrap().clone();
        settings.scale = self
            .state
            .lock()
            .unwrap()
            .as_ref()
            .map_or(0, |state| state.planner.scale());
        let format = negotiate::pixel_format(input.info().format())
            .ok_or_else(|| gst::loggable_error!(CAT, "No encoder takes {:?}", input.info().format()))?;
        let allowed = obj.src_pad().allowed_caps();
        let read_there = setup::is_on_gpu(input) && settings.two_pass().is_none();
        let context = read_there.then(|| self.context()).flatten();
        let opened = settings
            .check()
            .and_then(|()| open::coders(&settings, allowed.as_ref()))
            .and_then(|coders| {
                Setup::open(&coders, (settings, allowed.as_ref()), (input, format), context, &|| {
                    library_log(&*obj)
                })
            });
        let setup = opened.map_err(|error| {
            gst::element_imp_error!(self, gst::LibraryError::Settings, ("{error}"));
            gst::loggable_error!(CAT, "{error}")
        })?;
        for (what, text) in setup.warnings() {
            self.warn_once(what, &text);
        }
        self.post_encoder(&setup);
        let (tags, caps, size) = (setup.tags(), setup.caps(), (setup.config.width, setup.config.height));
        {
            let mut slot = self.state.lock().unwrap();
            let before = slot.take();
            let state = setup.state(before, &self.refine);
            self.feedback.lock().unwrap().restart(state.stream.stream_id);
            *slot = Some(state);
        }

        obj.merge_tags(Some(&tags), gst::TagMergeMode::Replace);
        obj.set_latency(gst::ClockTime::ZERO, gst::ClockTime::ZERO);
        let mut output = obj
            .set_output_state(caps, Some(input))
            .map_err(|_| gst::loggable_error!(CAT, "The output caps were refused"))?;
        let info = input.info();
        if size != (info.width(), info.height()) {
            output.set_info(negotiate::resized(info, size.0, size.1)?);
        }
        obj.negotiate(output)
            .map_err(|_| gst::loggable_error!(CAT, "Downstream does not take our caps"))
    }

    fn encode(&self, mut frame: gst_video::VideoCodecFrame) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        let (live, wall_clock) = {
            let settings = self.settings.lock().unwrap();
            (settings.live(), settings.wall_clock())
        };
        let other_kind = match self.state.lock().unwrap().as_ref() {
            Some(state) => !state.mode.same_kind(live.mode),
            None => return Err(gst::FlowError::NotNegotiated),
        };
        if other_kind {
            self.reopen()?;
        }
        let segment = obj.input_segment().downcast::<gst::ClockTime>().ok();
        self.mend_time(&mut frame, segment.as_ref())?;
        let forced = frame.flags().contains(gst_video::VideoCodecFrameFlags::FORCE_KEYFRAME);
        let running_time = frame.pts().and_then(|pts| segment.as_ref()?.to_running_time(pts));
        let input = FrameInput {
            forced,
            damaged: self.key_frames.lock().unwrap().is_waiting(),
            late: obj.is_qos() && !forced && obj.max_encode_time(&frame) < 0,
            running_time,
            capture_time_ns: frame.input_buffer().map_or(0, |buffer| {
                capture_time(obj.upcast_ref(), buffer, running_time, wall_clock)
            }),
            segment,
            frame: &frame,
        };
        let coded = match self.code(&live, &input)? {
            Some(coded) => coded,
            // Without an output buffer the base class drops the frame.
            None => return obj.finish_frame(frame),
        };
        if coded.idr {
            self.key_frames.lock().unwrap().coded();
        }
        if coded.keyframe {
            frame.set_flags(gst_video::VideoCodecFrameFlags::SYNC_POINT);
        }
        frame.set_dts(frame.pts());
        frame.set_output_buffer(gst::Buffer::from_mut_slice(coded.data));
        if let Some(notice) = coded.notice {
            feedback::post(obj.upcast_ref(), notice);
        }
        let flow = obj.finish_frame(frame);
        self.attach_rtcp(gst::ClockTime::from_nseconds(coded.now));
        flow
    }

    /// Codes a frame, with another encoder where its plan requires one; `None`: it is not coded.
    fn code(&self, live: &Live, input: &FrameInput<'_>) -> Result<Option<Coded>, gst::FlowError> {
        let obj = self.obj();
        loop {
            let outcome = {
                let mut state = self.state.lock().unwrap();
                let state = state.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
                state.code(obj.upcast_ref(), live, &self.feedback, input)
            };
            match outcome {
                Ok(Coding::Coded(coded)) => return Ok(Some(coded)),
                Ok(Coding::Skipped) => return Ok(None),
                Ok(Coding::Reopen) => self.reopen()?,
                Err(message) => {
                    gst::element_imp_error!(self, gst::StreamError::Encode, ("{message}"));
                    return Err(gst::FlowError::Error);
                }
            }
        }
    }

    /// Gives a picture a time after that of the one before, and a duration, where it has none.
    fn mend_time(
        &self,
        frame: &mut gst_video::VideoCodecFrame,
        segment: Option<&refine::TimeSegment>,
    ) -> Result<(), gst::FlowError> {
        let (time, interval) = {
            let mut state = self.state.lock().unwrap();
            let state = state.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            let start = segment.and_then(|segment| segment.start());
            let nominal = state.planner.pace().and_then(Pace::known_interval_ns);
            let nominal = nominal.map(|interval| interval as u64);
            let pts = frame.pts().map(gst::ClockTime::nseconds);
            let time = state
                .times
                .next(pts, start.map_or(0, gst::ClockTime::nseconds), nominal);
            (time, state.times.interval(nominal))
        };
        // Otherwise recorders would end the last picture where it begins, and players leave it out.
        if frame.duration().is_none() {
            frame.set_duration(gst::ClockTime::from_nseconds(interval));
        }
        if time.mended {
            gst::debug!(CAT, imp = self, "{:?} is no time in order: {time:?}", frame.pts());
            self.warn_once(
                "times",
                "Pictures come without a time, or not in the order of their times: each goes out behind the one before. \
                 Put identity single-segment=true, videorate or do-timestamp=true in front where times matter",
            );
            frame.set_pts(gst::ClockTime::from_nseconds(time.ns));
        }
        Ok(())
    }

    /// Listens for feedback on the RTP sessions that the streams are sent through.
    fn attach_rtcp(&self, now: gst::ClockTime) {
        let (pad, refine) = (self.obj().src_pad().clone(), self.refine.pad());
        let found = self
            .rtp
            .lock()
            .unwrap()
            .attach((&pad, refine.as_ref()), &self.entrance(), now);
        if let (Some((sessions, news)), Some(state)) = (found, self.state.lock().unwrap().as_mut()) {
            state.stats.rtp_sessions = sessions as u64;
            news.iter().for_each(|(loss, report)| state.report(now, *loss, report));
        }
    }

    /// Grants the key frame that is due with a picture of this time stamp.
    fn grant_key_frame(&self, pts: Option<gst::ClockTime>) {
        if !self.key_frames.lock().unwrap().is_waiting() {
            return;
        }
        let segment = self.obj().input_segment().downcast::<gst::ClockTime>().ok();
        let running_time = pts.zip(segment).and_then(|(pts, segment)| segment.to_running_time(pts));
        let now = self
            .state
            .lock()
            .unwrap()
            .as_ref()
            .map(|state| state.coming(running_time));
        let (event, deferred) = {
            let mut requests = self.key_frames.lock().unwrap();
            let before = requests.counts().deferred;
            let event = requests.due(now.unwrap_or(0));
            (event, before == 0 && requests.counts().deferred > 0)
        };
        if deferred {
            gst::warning!(
                CAT,
                imp = self,
                "More than one key frame a second is asked for by the network: the others wait for the end of the second \
                 (key-frames-deferred in stats)"
            );
        }
        if let Some(event) = event {
            self.parent_src_event(event);
        }
    }

    /// Adds the `refine` pad to the element, or logs why it cannot.
    fn request_refine(&self, template: &gst::PadTemplate) -> Option<gst::Pad> {
        let obj = self.obj();
        if self.settings.lock().unwrap().two_pass().is_none() {
            gst::error!(
                CAT,
                imp = self,
                "The pad refine needs two passes: set mode=two-pass before it is requested"
            );
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Settings,
                ("mode: the pad refine was requested in mode=one-pass, which has nothing for it. Set mode=two-pass first.")
            );
            return None;
        }
        if self.refine.pad().is_some() {
            gst::error!(CAT, imp = self, "There is one refine pad only; use a tee behind it");
            return None;
        }
        let pad = refine::pad::new(template, &self.refine, self.entrance(), obj.upcast_ref());
        self.refine.set_pad(Some(&pad));
        if obj.current_state() > gst::State::Ready {
            let _ = pad.set_active(true);
        }
        if obj.add_pad(&pad).is_err() {
            self.refine.set_pad(None);
            let _ = pad.set_active(false);
            return None;
        }
        Some(pad)
    }

    /// Warns of settings that cancel each other.
    fn warn_of_conflicts(&self) {
        let conflicts = self.settings.lock().unwrap().conflicts();
        for conflict in conflicts {
            self.warn_once(conflict.pair, &conflict.text);
        }
    }

    /// Posts a warning, once in a run for each `what`.
    fn warn_once(&self, what: &'static str, text: &str) {
        if self.warned.lock().unwrap().insert(what) {
            gst::warning!(CAT, imp = self, "{text}");
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{text}"));
        }
    }

    /// Logs which encoder codes, and where we chose it, posts it too, with the reasons why those tried before were
    /// refused.
    fn post_encoder(&self, setup: &Setup) {
        let ((backend, codec), name) = (setup.chosen.coder, setup.encoder.name());
        gst::info!(CAT, imp = self, "{name} codes {codec:?}");
        if setup.settings.backends().len() <= 1 {
            return;
        }
        let message = gst::Structure::builder("ddsencode-encoder")
            .field("encoder", backend.name())
            .field("name", name)
            .field("codec", format!("{codec:?}"))
            .field("refused", setup.chosen.refusals())
            .build();
        let obj = self.obj();
        let _ = obj.post_message(gst::message::Element::builder(message).src(&*obj).build());
    }

    /// The CUDA context of the pictures.
    fn context(&self) -> Option<cuda::Context> {
        let context = self.cuda.ensure(self.obj().upcast_ref());
        context.inspect_err(|why| gst::warning!(CAT, imp = self, "{why}")).ok()
    }

    fn answer_context(&self, query: &mut gst::QueryRef) -> bool {
        query.type_() == gst::QueryType::Context && self.cuda.answer(self.obj().upcast_ref(), query)
    }

    fn reopen(&self) -> Result<(), gst::FlowError> {
        gst::info!(
            CAT,
            imp = self,
            "Opening a new encoder for another kind of rate control or another size"
        );
        let input = self.state.lock().unwrap().as_ref().map(|state| state.input.clone());
        self.configure(&input.ok_or(gst::FlowError::NotNegotiated)?)
            .map_err(|error| {
                error.log();
                gst::FlowError::NotNegotiated
            })
    }
}
