// SPDX-License-Identifier: MPL-2.0

//! From caps and settings to an open encoder and the state that continues with it.

#![forbid(unsafe_code)]

use std::sync::Arc;

use dds_protocol::identity::StreamKind;

use crate::camera::timeline::Timeline;
use crate::camera::wake::Wake;
use crate::camera::{Geometry, Pace, StreamConfig, StreamPlanner};
use crate::cuda;
use crate::encoder::{
    Backend, Codec, Config, KEY_INT_SECONDS, Log, OpenError, PixelFormat, RateControl, RegionEncoder,
};
use crate::picture::Layout;
use crate::vbv::Vbv;

use super::first_pass::FirstPass;
use super::negotiate::{self, Choice};
use super::open::{self, Chosen};
use super::rates::rates;
use super::refine::{Refine, SecondPass};
use super::settings::Settings;
use super::state::{InputState, State};
use super::stats::ElementStats;
use super::stream::Stream;

/// Whether pictures are in the memory of a GPU.
pub(super) fn is_on_gpu(input: &InputState) -> bool {
    input.caps_owned().is_some_and(|caps| negotiate::is_on_gpu(&caps))
}

/// An open encoder, and the video it was opened for.
pub(super) struct Setup {
    pub settings: Settings,
    pub chosen: Chosen,
    pub config: Config,
    pub encoder: Box<dyn RegionEncoder>,
    input: InputState,
    format: PixelFormat,
    choice: Choice,
    context: Option<cuda::Context>,
}

impl Setup {
    /// Opens the first of `coders` that accepts the video, for what downstream allows.
    ///
    /// # Errors
    /// None does: see [`open::first`].
    pub fn open(
        coders: &[(Backend, Codec)],
        (settings, allowed): (Settings, Option<&gst::Caps>),
        (input, format): (&InputState, PixelFormat),
        context: Option<cuda::Context>,
        log: &dyn Fn() -> Log,
    ) -> Result<Self, OpenError> {
        let info = input.info();
        let opened = open::first(coders, |backend, codec| {
            let choice = negotiate::choose(allowed, codec, format, settings.byte_stream())?;
            let mut config = negotiate::config(&settings, info, format, &choice);
            (config.width, config.height) = negotiate::coded_size(&settings, info)?;
            config.max_frame_rate = input.caps_owned().and_then(|caps| negotiate::max_frame_rate(&caps));
            config.gpu = context.as_ref().map(cuda::Context::gpu);
            let encoder = backend.open(&config, log())?;
            Ok((choice, config, encoder))
        })?;
        let (choice, config, encoder) = opened.value;
        Ok(Self {
            settings,
            chosen: Chosen {
                coder: opened.coder,
                refused: opened.refused,
            },
            config,
            encoder,
            input: input.clone(),
            format,
            choice,
            context,
        })
    }

    /// Warnings about deviations from the settings, each with a key.
    pub fn warnings(&self) -> Vec<(&'static str, String)> {
        let mut warnings = Vec::new();
        if let Some(text) = negotiate::rarely_decoded(&self.choice, self.format) {
            warnings.push(("format", text.to_string()));
        }
        let size = self.input.info().size() as u64;
        if let Some(bytes) = self.settings.two_pass().map(|two_pass| two_pass.ring.bytes)
            && (1..size).contains(&bytes)
        {
            let text = format!(
                "ring-bytes={bytes}: not one picture of {size} bytes fits, so there is no second pass. Set it higher"
            );
            warnings.push(("ring-bytes, size", text));
        }
        warnings
    }

    /// Output caps without the fields that the base class adds.
    pub fn caps(&self) -> gst::Caps {
        negotiate::output_caps(&self.choice, self.format, &self.encoder.parameter_sets())
    }

    /// Tags of the stream.
    pub fn tags(&self) -> gst::TagList {
        let replace = gst::TagMergeMode::Replace;
        let mut list = gst::TagList::new();
        let tags = list.make_mut();
        tags.add::<gst::tags::Encoder>(&self.encoder.name(), replace);
        let codec = match self.encoder.codec() {
            Codec::H264 => "H.264",
            Codec::H265 => "H.265",
        };
        tags.add::<gst::tags::VideoCodec>(&codec, replace);
        if let Some(version) = self.encoder.version() {
            tags.add::<gst::tags::EncoderVersion>(&version, replace);
        }
        if let RateControl::Bitrate { kbps } = self.config.rate {
            tags.add::<gst::tags::NominalBitrate>(&kbps.saturating_mul(1000), replace);
        }
        if self.config.nominal_kbps > 0 {
            let bits = self.config.nominal_kbps.saturating_mul(1000);
            tags.add::<gst::tags::MaximumBitrate>(&bits, replace);
        }
        list
    }

    /// Continues from the state of the encoder before.
    pub fn state(self, before: Option<State>, refine: &Arc<Refine>) -> State {
        let settings = &self.settings;
        let (info, live) = (self.input.info().clone(), settings.live());
        let stream_id = match settings.stream_id() {
            0 => glib::random_int().max(1),
            fixed => fixed,
        };
        let config = self.stream_config(before.as_ref().and_then(|before| before.planner.pace()));
        let (coded, interval) = (config.size, config.interval());
        let times = before.as_ref().map_or_else(Timeline::default, |before| before.times);
        let (planner, next_frame, next_access_unit, mut stats) = match before {
            Some(mut before) => {
                before.planner.set_settings(live.camera());
                before.planner.restart(config);
                let next_access_unit = before.stream.next_access_unit;
                (before.planner, before.next_frame, next_access_unit, before.stats)
            }
            None => (StreamPlanner::new(config, live.camera()), 0, 0, ElementStats::default()),
        };
        stats.encoders_opened += 1;
        let second_pass = settings.two_pass().map(|two_pass| {
            let settings = (settings, &two_pass, *planner.settings());
            let video = (&info, self.format);
            SecondPass::new(refine, settings, video, coded, stream_id, self.chosen.coder)
        });
        let layout = Layout {
            format: self.format,
            width: info.width() as usize,
            height: info.height() as usize,
        };
        State {
            planner,
            mode: live.mode,
            next_frame,
            times,
            rois: Vec::new(),
            wake: Wake::new(layout.width, layout.height),
            stats,
            stream: Stream {
                rates: rates(&live, Vbv::OPEN, interval),
                cap: Vbv::OPEN,
                format: self.format,
                byte_stream: self.choice.byte_stream,
                stream_id,
                kind: if second_pass.is_some() {
                    StreamKind::Low
                } else {
                    StreamKind::Single
                },
                base_qp: live.background_qp,
                next_pts: 0,
                next_access_unit,
                first_pass: FirstPass::new(layout, coded),
                on_gpu: is_on_gpu(&self.input),
                cuda: self.context.filter(|_| self.encoder.reads_gpu()),
                encoder: self.encoder,
                chosen: self.chosen,
                info,
            },
            second_pass,
            input: self.input,
        }
    }

    /// The video that the encoder was opened for. Another encoder for the same video need not measure the distance of
    /// pictures again.
    fn stream_config(&self, known: Option<&Pace>) -> StreamConfig {
        let (numerator, denominator) = self.config.assumed_rate();
        let frame_rate = f64::from(numerator) / f64::from(denominator);
        let pace = Pace::new(frame_rate, self.config.frame_rate.is_some());
        let known = known.filter(|known| known.assumes_as(&pace)).cloned();
        let two_pass = self.settings.two_pass();
        StreamConfig {
            size: Geometry {
                width: self.config.width,
                height: self.config.height,
            },
            scales: match &two_pass {
                Some(_) => self.settings.low_scales(),
                None => vec![1.0],
            },
            scale: self.settings.scale,
            frame_rate,
            two_passes: two_pass.is_some(),
            segment_length: two_pass.map_or(0, |two_pass| two_pass.segment_length),
            key_int_max: self.encoder.key_int_max(),
            refreshed: self.settings.is_refreshed(),
            repeats: self.settings.repeats(),
            key_frame_after_ns: self
                .settings
                .key_int_auto()
                .then_some(u64::from(KEY_INT_SECONDS) * 1_000_000_000),
            pace: Some(known.unwrap_or(pace)),
            library_rates: self.settings.live().mode.is_of_library(),
        }
    }
}
