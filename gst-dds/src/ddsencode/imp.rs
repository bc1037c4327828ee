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
use crate::camera::{self, Camera, Controller, ControllerSettings, Geometry, KeyFrameRequests, Knobs, Pace, Source};
use crate::cuda;
use crate::encoder::{Backend, Codec, Config, OpenError, PixelFormat, RateControl, RegionEncoder};
use crate::vbv::Vbv;

use super::feedback::{Inbox, Rtp};
use super::keyframes;
use super::log::{CAT, library_log};
use super::negotiate::{self, Choice};
use super::open::{self, Chosen};
use super::properties;
use super::refine::{self, FirstPass, Refine};
use super::settings::Settings;
use super::state::{FrameInput, InputState, State, capture_time, rates};
use super::stats::{self, ElementStats, RefineStats};

/// Whether pictures come in the memory of a GPU.
fn is_on_gpu(input: &InputState) -> bool {
    input.caps_owned().is_some_and(|caps| negotiate::is_on_gpu(&caps))
}

/// Instance data. Locks are held one at a time, except that `inbox`, `key_frames` and those of `refine` may be taken while
/// `state` is held. None is held
/// while pushing, posting or calling the parent.
#[derive(Default)]
pub struct DdsEncode {
    pub(super) settings: Mutex<Settings>,
    pub(super) state: Mutex<Option<State>>,
    pub(super) inbox: Arc<Mutex<Inbox>>,
    pub(super) rtp: Mutex<Rtp>,
    /// Key frames that the network asks for.
    pub(super) key_frames: Mutex<KeyFrameRequests<gst::Event>>,
    /// Where `feedback-uri` asks for it.
    pub(super) channel: Mutex<Option<CameraEnd>>,
    pub(super) refine: Arc<Refine>,
    /// Times that pictures go out with.
    times: Mutex<Timeline>,
    /// What the application was warned of in this run.
    warned: Mutex<BTreeSet<&'static str>>,
    /// What neighbours with pictures on a GPU share with us.
    pub(super) cuda: cuda::Slot,
    /// Counts of the last run, for `stats` after the end.
    pub(super) last_stats: Mutex<Option<gst::Structure>>,
}

/// Around properties, which the bindings leave to abort.
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
        gst_dds_link::refusal::tell_refusals(self.obj().sink_pad());
        gst_dds_link::refusal::require_caps(self.obj().sink_pad());
        self.watch_key_frames();
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
                self.tell_conflicts();
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
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            use gst::{PadDirection, PadPresence, PadTemplate};
            vec![
                PadTemplate::new("sink", PadDirection::Sink, PadPresence::Always, &negotiate::SINK_CAPS).unwrap(),
                PadTemplate::new("src", PadDirection::Src, PadPresence::Always, &negotiate::SRC_CAPS).unwrap(),
                // Second stream of two passes.
                PadTemplate::new(
                    refine::PAD,
                    PadDirection::Src,
                    PadPresence::Request,
                    &negotiate::SRC_CAPS,
                )
                .unwrap(),
                // Datagrams, one per buffer: bare feedback packets, or RTCP compounds that hold some.
                PadTemplate::new(
                    "feedback",
                    PadDirection::Sink,
                    PadPresence::Request,
                    &negotiate::FEEDBACK_CAPS,
                )
                .unwrap(),
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
        let pad = self.feedback_pad(template);
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
        // Opening on a picture of no account brings out every refusal before the pipeline runs.
        let two_pass = settings.two_pass().is_some();
        let refused = settings
            .check()
            .and_then(|()| self.refine.start(two_pass))
            .and_then(|()| {
                let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 320, 240)
                    .fps(gst::Fraction::new(30, 1))
                    .build()
                    .map_err(|e| OpenError::Library(e.to_string()))?;
                let coders = self.coders(&settings, self.obj().src_pad().allowed_caps().as_ref())?;
                open::first(&coders, |backend, codec| {
                    let choice = negotiate::choose(None, codec, PixelFormat::I420, true)?;
                    let config = negotiate::config(&settings, &info, PixelFormat::I420, &choice);
                    backend.open(&config, Box::new(|_, _| ())).map(drop)
                })
                .map(drop)
            });
        *self.last_stats.lock().unwrap() = None;
        *self.times.lock().unwrap() = Timeline::default();
        self.warned.lock().unwrap().clear();
        *self.inbox.lock().unwrap() = Inbox::new(&settings);
        refused.map_err(|e| gst::error_msg!(gst::LibraryError::Settings, ["{e}"]))?;
        self.open_channel(&settings.channel())?;
        self.tell_conflicts();
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let stats = self.stats();
        *self.last_stats.lock().unwrap() = Some(stats);
        self.close_channel();
        *self.state.lock().unwrap() = None;
        *self.inbox.lock().unwrap() = Inbox::default();
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
        let coders = self.coders(&settings, allowed.as_ref()).unwrap_or_default();
        // The library is looked for only where it may be of use.
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
        // Which sizes a format may have depends on its fields, which caps cannot say: each question gets its own answer.
        // Where no format is left at a size, or none of colour, all are there: the encoder then says what is wrong with the
        // size, and linking or negotiation would not.
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
            // The parent would offer a pool of system memory; who has pictures on a GPU has a pool for them too.
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
        self.inbox.lock().unwrap().clear();
        if let Some(state) = self.state.lock().unwrap().as_mut() {
            state.camera.flush();
            // What the decoder had may be gone with the flush.
            state.force_idr = true;
        }
        true
    }

    fn finish(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        // No frame ever waits.
        Ok(gst::FlowSuccess::Ok)
    }

    fn handle_frame(&self, frame: gst_video::VideoCodecFrame) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.encode(frame)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        // The base class serves its own source pad only.
        match event.type_() {
            gst::EventType::Eos => {
                let done = self.parent_sink_event(event);
                self.refine.eos();
                return done;
            }
            gst::EventType::StreamStart => self.refine.new_stream(),
            // Times of another segment may begin anywhere.
            gst::EventType::Segment => *self.times.lock().unwrap() = Timeline::default(),
            gst::EventType::FlushStart => self.refine.flush_start(event.clone()),
            gst::EventType::FlushStop => self.refine.flush_stop(event.clone()),
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        match gst_dds_link::event::take(&event) {
            Some(packet) => {
                self.deliver(Source::Event, &packet);
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
    fn stats(&self) -> gst::Structure {
        let counters = self.channel.lock().unwrap().as_ref().map(CameraEnd::counters);
        let channel = counters.map_or_else(Counts::default, |counters| counters.counts());
        let state = self.state.lock().unwrap();
        let Some(state) = state.as_ref() else {
            let last = self.last_stats.lock().unwrap().clone();
            return last.unwrap_or_else(|| {
                stats::structure(
                    &ElementStats {
                        channel,
                        ..ElementStats::default()
                    },
                    &camera::Stats::default(),
                    &RefineStats::default(),
                    None,
                    None,
                )
            });
        };
        let mut element = state.stats;
        element.channel = channel;
        element.key_frames = self.key_frames.lock().unwrap().counts();
        let turned_away = {
            let inbox = self.inbox.lock().unwrap();
            element.inbox_full = inbox.dropped;
            inbox.counts.clone()
        };
        let stream = (state.stream_id, state.next_frame, state.next_access_unit);
        let (refine, feedback) = self.refine.stats();
        stats::structure(
            &element,
            &state.camera.stats().clone().with(&feedback).with(&turned_away),
            &refine,
            Some(stream),
            Some(&state.chosen),
        )
    }

    /// Opens an encoder for the video and negotiates its output. On new caps everything that is not of the encoder
    /// goes on.
    fn configure(&self, input: &InputState) -> Result<(), gst::LoggableError> {
        let obj = self.obj();
        let mut settings = self.settings.lock().unwrap().clone();
        settings.scale = self
            .state
            .lock()
            .unwrap()
            .as_ref()
            .map_or(0, |state| state.wanted_scale);
        let info = input.info().clone();
        let format = negotiate::pixel_format(info.format())
            .ok_or_else(|| gst::loggable_error!(CAT, "No encoder takes {:?}", info.format()))?;
        let allowed = obj.src_pad().allowed_caps();
        let read_there = is_on_gpu(input) && settings.two_pass().is_none();
        let context = read_there.then(|| self.context()).flatten();
        let opened = settings.check().and_then(|()| {
            let coders = self.coders(&settings, allowed.as_ref())?;
            open::first(&coders, |backend, codec| {
                let choice = negotiate::choose(allowed.as_ref(), codec, format, settings.byte_stream())?;
                let mut config = negotiate::config(&settings, &info, format, &choice);
                (config.width, config.height) = negotiate::coded_size(&settings, &info)?;
                config.max_frame_rate = input.caps_owned().and_then(|caps| negotiate::max_frame_rate(&caps));
                config.gpu = context.as_ref().map(cuda::Context::gpu);
                let encoder = backend.open(&config, library_log(&*obj))?;
                Ok((choice, config, encoder))
            })
        });
        let opened = opened.map_err(|error| {
            gst::element_imp_error!(self, gst::LibraryError::Settings, ("{error}"));
            gst::loggable_error!(CAT, "{error}")
        })?;
        let (choice, config, encoder) = opened.value;
        let chosen = Chosen {
            coder: opened.coder,
            refused: opened.refused,
        };

        if let Some(text) = negotiate::rarely_decoded(&choice, format) {
            self.warn_once("format", text);
        }
        let caps = negotiate::output_caps(&choice, format, &encoder.parameter_sets());
        let mut tags = gst::TagList::new();
        {
            let tags = tags.make_mut();
            tags.add::<gst::tags::Encoder>(&encoder.name(), gst::TagMergeMode::Replace);
            let codec = match encoder.codec() {
                Codec::H264 => "H.264",
                Codec::H265 => "H.265",
            };
            tags.add::<gst::tags::VideoCodec>(&codec, gst::TagMergeMode::Replace);
            if let Some(version) = encoder.version() {
                tags.add::<gst::tags::EncoderVersion>(&version, gst::TagMergeMode::Replace);
            }
            if let RateControl::Bitrate { kbps } = config.rate {
                tags.add::<gst::tags::NominalBitrate>(&kbps.saturating_mul(1000), gst::TagMergeMode::Replace);
            }
            if config.nominal_kbps > 0 {
                let bits = config.nominal_kbps.saturating_mul(1000);
                tags.add::<gst::tags::MaximumBitrate>(&bits, gst::TagMergeMode::Replace);
            }
        }
        if let Some(bytes) = settings.two_pass().map(|two_pass| two_pass.ring.bytes)
            && (1..info.size() as u64).contains(&bytes)
        {
            let text = format!(
                "ring-bytes={bytes}: not one picture of {} bytes fits, so there is no second pass. Set it higher",
                info.size()
            );
            self.warn_once("ring-bytes, size", &text);
        }
        self.tell_encoder(&chosen, encoder.name(), settings.backends().len() > 1);
        self.install(&settings, input, format, (&choice, &config), (encoder, chosen), context);

        obj.merge_tags(Some(&tags), gst::TagMergeMode::Replace);
        obj.set_latency(gst::ClockTime::ZERO, gst::ClockTime::ZERO);
        let mut output = obj
            .set_output_state(caps, Some(input))
            .map_err(|_| gst::loggable_error!(CAT, "The output caps were refused"))?;
        if (config.width, config.height) != (info.width(), info.height()) {
            output.set_info(negotiate::resized(&info, config.width, config.height)?);
        }
        obj.negotiate(output)
            .map_err(|_| gst::loggable_error!(CAT, "Downstream does not take our caps"))
    }

    fn install(
        &self,
        settings: &Settings,
        input: &InputState,
        format: PixelFormat,
        (choice, config): (&Choice, &Config),
        (encoder, chosen): (Box<dyn RegionEncoder>, Chosen),
        context: Option<cuda::Context>,
    ) {
        let stream_id = match settings.stream_id() {
            0 => glib::random_int().max(1),
            fixed => fixed,
        };
        let info = input.info().clone();
        let geometry = Geometry {
            width: config.width,
            height: config.height,
        };
        let live = settings.live();
        let (numerator, denominator) = config.assumed_rate();
        let frame_rate = f64::from(numerator) / f64::from(denominator);
        let pace = Pace::new(frame_rate, config.frame_rate.is_some());
        let key_int_max = encoder.key_int_max();
        let cuda = context.filter(|_| encoder.reads_gpu());
        let rates = rates(&live, Vbv::OPEN, &pace);
        let mut slot = self.state.lock().unwrap();
        let before = slot.take();
        let (mut known_controller, mut estimator, mut known_pace) = (None, None, None);
        let (mut camera, next_frame, next_access_unit, now, mut stats) = match before {
            Some(State {
                mut camera,
                controller,
                estimator: known_estimator,
                pace,
                scale,
                wanted_scale,
                next_frame,
                next_access_unit,
                now,
                stats,
                ..
            }) => {
                // What it has learnt is what made it choose another size.
                known_controller = Some(controller).filter(|_| scale != wanted_scale);
                estimator = known_estimator;
                known_pace = Some(pace);
                camera.restart(stream_id, geometry);
                camera.set_settings(live.camera(frame_rate));
                (camera, next_frame, next_access_unit, now, stats)
            }
            None => {
                let camera = Camera::new(stream_id, geometry, live.camera(frame_rate));
                (camera, 0, 0, 0, ElementStats::default())
            }
        };
        camera.set_library_rate_control(live.mode.is_of_library());
        stats.encoders_opened += 1;
        self.inbox.lock().unwrap().stream = Some(stream_id);
        let first_pass = settings.two_pass().map(|two_pass| {
            let settings = (settings, &two_pass, *camera.settings());
            FirstPass::new(&self.refine, settings, &info, format, stream_id, chosen.coder)
        });
        let controller = ControllerSettings {
            frame_rate,
            segment_frames: match first_pass.as_ref().map_or(0, FirstPass::segment_length) {
                // The paper's.
                0 => 15,
                length => u32::from(length),
            },
            reference: Knobs {
                low_qp: live.background_qp,
                high_qp: live.region_qp,
                low_scale_index: 0,
            },
            low_scales: match settings.two_pass() {
                Some(_) => settings.low_scales(),
                None => vec![1.0],
            },
            ..ControllerSettings::default()
        };
        let controller = known_controller.unwrap_or_else(|| Controller::new(controller));
        *slot = Some(State {
            controller,
            scale: settings.scale,
            wanted_scale: settings.scale,
            estimator,
            refine_bytes: self.refine.bytes(),
            encoder,
            chosen,
            camera,
            format,
            input: input.clone(),
            info,
            mode: live.mode,
            byte_stream: choice.byte_stream,
            stream_id,
            rates,
            cap: Vbv::OPEN,
            // Another encoder for the same video does not have to measure again.
            pace: known_pace.filter(|known| known.assumes_as(&pace)).unwrap_or(pace),
            next_pts: 0,
            next_frame,
            next_access_unit,
            since_idr: 0,
            last_idr: now,
            key_int_max,
            key_int_auto: settings.key_int_auto(),
            force_idr: true,
            now,
            rois: Vec::new(),
            stats,
            first_pass,
            on_gpu: is_on_gpu(input),
            cuda,
        });
    }

    fn encode(&self, mut frame: gst_video::VideoCodecFrame) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        let (live, wall_clock) = {
            let settings = self.settings.lock().unwrap();
            (settings.live(), settings.wall_clock())
        };
        let (reopen, interval) = match self.state.lock().unwrap().as_ref() {
            Some(state) => (
                !state.mode.same_kind(live.mode) || state.wanted_scale != state.scale,
                state.pace.known_interval_ns(),
            ),
            None => return Err(gst::FlowError::NotNegotiated),
        };
        if reopen {
            // Encoders change neither their kind of rate control nor its size: a new encoder begins with an IDR picture.
            self.reopen()?;
        }
        let segment = obj.input_segment().downcast::<gst::ClockTime>().ok();
        let (time, interval) = {
            let start = segment.as_ref().and_then(|segment| segment.start());
            let nominal = interval.map(|interval| interval as u64);
            let pts = frame.pts().map(gst::ClockTime::nseconds);
            let mut times = self.times.lock().unwrap();
            let time = times.next(pts, start.map_or(0, gst::ClockTime::nseconds), nominal);
            (time, times.interval(nominal))
        };
        // Recorders would end the last picture where it begins, and players leave it out.
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
        let forced = frame.flags().contains(gst_video::VideoCodecFrameFlags::FORCE_KEYFRAME);
        let late = obj.is_qos() && !forced && obj.max_encode_time(&frame) < 0;
        let running_time = frame.pts().and_then(|pts| segment.as_ref()?.to_running_time(pts));
        let capture_time_ns = frame
            .input_buffer()
            .map_or(0, |buffer| capture_time(&obj, buffer, running_time, wall_clock));

        let coded = {
            let mut state = self.state.lock().unwrap();
            let state = state.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            if late {
                state.next_frame += 1;
                state.stats.frames_late += 1;
                Ok(None)
            } else {
                let packets = self.inbox.lock().unwrap().take();
                let refine_bytes = self.refine.bytes();
                let input = FrameInput {
                    frame: &frame,
                    forced,
                    running_time,
                    capture_time_ns,
                    segment,
                    packets,
                    refine_bytes,
                };
                state.code(&obj, &live, input).map(Some)
            }
        };
        let coded = match coded {
            Ok(Some(coded)) => coded,
            // Without an output buffer the base class drops the frame.
            Ok(None) => return obj.finish_frame(frame),
            Err(message) => {
                gst::element_imp_error!(self, gst::StreamError::Encode, ("{message}"));
                return Err(gst::FlowError::Error);
            }
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
            self.post(notice);
        }
        let flow = obj.finish_frame(frame);
        self.attach_rtcp(gst::ClockTime::from_nseconds(coded.now));
        flow
    }

    /// Tells which settings cancel each other.
    fn tell_conflicts(&self) {
        let conflicts = self.settings.lock().unwrap().conflicts();
        for conflict in conflicts {
            self.warn_once(conflict.pair, &conflict.text);
        }
    }

    /// Tells the application of something that is not as it may think, `what` once in a run.
    fn warn_once(&self, what: &'static str, text: &str) {
        if self.warned.lock().unwrap().insert(what) {
            gst::warning!(CAT, imp = self, "{text}");
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{text}"));
        }
    }

    /// What may code the video, in the order to try: where downstream takes one standard only, what codes by it.
    ///
    /// # Errors
    /// Nothing fits downstream.
    fn coders(&self, settings: &Settings, allowed: Option<&gst::Caps>) -> Result<Vec<(Backend, Codec)>, OpenError> {
        let backends = settings.backends();
        let of = |backend: &Backend| {
            let codecs = negotiate::codecs(allowed, backend.codecs());
            codecs.into_iter().next().map(|codec| (*backend, codec))
        };
        let coders: Vec<_> = backends.iter().filter_map(of).collect();
        if coders.is_empty() {
            let names: Vec<_> = backends.iter().map(|b| b.name()).collect();
            return Err(OpenError::refused(
                "encoder",
                format!("downstream takes nothing that {} codes", names.join(" or ")),
                "Choose another encoder, or allow its format behind the element",
            ));
        }
        Ok(coders)
    }

    /// Tells what codes the video, and where that was our choice, on the bus too, with why what was tried before it does
    /// not.
    fn tell_encoder(&self, chosen: &Chosen, name: &str, automatic: bool) {
        let (backend, codec) = chosen.coder;
        gst::info!(CAT, imp = self, "{name} codes {codec:?}");
        if !automatic {
            return;
        }
        let message = gst::Structure::builder("ddsencode-encoder")
            .field("encoder", backend.name())
            .field("name", name)
            .field("codec", format!("{codec:?}"))
            .field("refused", chosen.refusals())
            .build();
        let obj = self.obj();
        let _ = obj.post_message(gst::message::Element::builder(message).src(&*obj).build());
    }

    /// The CUDA context that pictures lie in.
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
