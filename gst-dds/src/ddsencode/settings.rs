// SPDX-License-Identifier: MPL-2.0

//! Values of the properties, and their meaning for an encoder.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use glib::prelude::*;
use gst_dds_link::channel::Setup;
use gst_dds_link::text;

use crate::camera::ring::Bounds;
use crate::camera::{FeedbackBound, Way, WishBounds};
use crate::encoder::{Backend, EncoderOption, Origin};

use super::enums::{Encoder, FeedbackWays, Pass, Passes, PsyTune, RefineCanvas, SkippedPictures, SpeedPreset};
use super::setting::Setting;
use super::x264enc::{self, X264Enc};

pub(super) use live::{Live, RateMode};

mod conflicts;
mod live;
mod refusals;

/// kbit/s of `x264enc`, used where `pass=cbr` was set explicitly without a bit rate.
const BITRATE_OF_X264ENC: u32 = 2048;

/// Factor from one size of the first pass to the next smaller one.
const SCALE_STEP: f64 = 0.75;

/// Settings of two passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TwoPass {
    /// Sides of the first pass as a fraction of the captured ones.
    pub low_scale: f64,
    /// Frames per segment, 0 = none.
    pub segment_length: u8,
    /// Bounds of the raw frames that wait for requests.
    pub ring: Bounds,
    /// Whether the canvas keeps painted regions.
    pub hold: bool,
}

/// Values of the properties: our own, and those of `x264enc`. Units are those of the properties.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub encoder: Encoder,
    pub background_qp: Setting<u32>,
    pub region_qp: Setting<u32>,
    pub fallback_qp: Setting<u32>,
    pub feedback_timeout_ms: u32,
    pub max_bitrate_kbps: Setting<u32>,
    /// -1: derived from size and rate.
    pub max_feedback_bitrate_kbps: Setting<i32>,
    pub bandwidth_kbps: u32,
    pub bandwidth_min_kbps: u32,
    /// Fraction of the picture.
    pub max_region_area: f64,
    pub server_rate: bool,
    pub min_framerate: gst::Fraction,
    pub max_background_qp: u32,
    pub viewer_framerate: gst::Fraction,
    pub skipped_pictures: SkippedPictures,
    pub mode: Passes,
    /// Fractions of the picture's sides.
    pub low_scale: f64,
    pub low_scale_min: f64,
    pub segment_length: u32,
    pub ring_frames: u32,
    pub ring_bytes: u64,
    pub ring_age_ms: u32,
    pub refine_canvas: RefineCanvas,
    pub channel: Setup,
    pub feedback_ways: FeedbackWays,
    pub stream_id: u32,
    pub wall_clock: bool,
    pub x264enc: X264Enc,
    /// Properties that were set to bytes that are not UTF-8; start refuses them.
    not_text: BTreeSet<String>,
    /// Index in [`Self::low_scales`] of the encoder to open: chosen by the controller, not a property.
    pub scale: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            encoder: Encoder::DEFAULT,
            background_qp: Setting::unset(36),
            region_qp: Setting::unset(26),
            fallback_qp: Setting::unset(30),
            feedback_timeout_ms: 2000,
            max_bitrate_kbps: Setting::unset(0),
            max_feedback_bitrate_kbps: Setting::unset(-1),
            bandwidth_kbps: 0,
            bandwidth_min_kbps: 0,
            max_region_area: 0.35,
            server_rate: true,
            min_framerate: gst::Fraction::new(5, 1),
            max_background_qp: 48,
            viewer_framerate: gst::Fraction::new(0, 1),
            skipped_pictures: SkippedPictures::Omit,
            mode: Passes::One,
            low_scale: 1.0,
            low_scale_min: 1.0,
            segment_length: 0,
            ring_frames: 60,
            ring_bytes: 256_000_000,
            ring_age_ms: 2000,
            refine_canvas: RefineCanvas::Hold,
            channel: Setup::default(),
            feedback_ways: FeedbackWays::AUTO,
            stream_id: 0,
            wall_clock: true,
            x264enc: X264Enc::default(),
            not_text: BTreeSet::new(),
            scale: 0,
        }
    }
}

impl Settings {
    /// Sets a value that the property system has checked. Returns `false` where there is no such setting.
    pub fn set(&mut self, pspec: &glib::ParamSpec, value: &glib::Value) -> bool {
        fn get<'a, T: glib::value::FromValue<'a>>(value: &'a glib::Value) -> T {
            value.get().expect("type checked by the property's ParamSpec")
        }
        let name = pspec.name();
        // C may pass any bytes; a value that is not text is stored as none, and refused at the start.
        self.not_text.remove(name);
        if text::bytes(value).is_some_and(|bytes| std::str::from_utf8(bytes).is_err()) {
            self.not_text.insert(name.to_owned());
        }
        let text = || text::utf8(value).unwrap_or_default().to_owned();
        match name {
            "encoder" => self.encoder = get(value),
            "background-qp" => self.background_qp.set(get(value)),
            "region-qp" => self.region_qp.set(get(value)),
            "fallback-qp" => self.fallback_qp.set(get(value)),
            "feedback-timeout" => self.feedback_timeout_ms = get(value),
            "max-bitrate" => self.max_bitrate_kbps.set(get(value)),
            "max-feedback-bitrate" => self.max_feedback_bitrate_kbps.set(get(value)),
            "bandwidth" => self.bandwidth_kbps = get(value),
            "bandwidth-min" => self.bandwidth_min_kbps = get(value),
            "max-region-area" => self.max_region_area = get(value),
            "server-rate" => self.server_rate = get(value),
            "min-framerate" => self.min_framerate = get(value),
            "max-background-qp" => self.max_background_qp = get(value),
            "viewer-framerate" => self.viewer_framerate = get(value),
            "skipped-pictures" => self.skipped_pictures = get(value),
            "mode" => self.mode = get(value),
            "low-scale" => self.low_scale = get(value),
            "low-scale-min" => self.low_scale_min = get(value),
            "segment-length" => self.segment_length = get(value),
            "ring-frames" => self.ring_frames = get(value),
            "ring-bytes" => self.ring_bytes = get(value),
            "ring-age" => self.ring_age_ms = get(value),
            "refine-canvas" => self.refine_canvas = get(value),
            "feedback-uri" => self.channel.uri = text(),
            "feedback-key" => self.channel.key = text(),
            "feedback-key-file" => self.channel.key_file = text(),
            "feedback-plain" => self.channel.plain = get(value),
            "feedback-ways" => self.feedback_ways = get(value),
            "stream-id" => self.stream_id = get(value),
            "wall-clock" => self.wall_clock = get(value),
            _ => return self.x264enc.set(name, value),
        }
        true
    }

    /// A property's value; `None` where there is no such setting, or it may not be read.
    pub fn get(&self, pspec: &glib::ParamSpec) -> Option<glib::Value> {
        Some(match pspec.name() {
            "encoder" => self.encoder.to_value(),
            "background-qp" => self.background_qp.to_value(),
            "region-qp" => self.region_qp.to_value(),
            "fallback-qp" => self.fallback_qp.to_value(),
            "feedback-timeout" => self.feedback_timeout_ms.to_value(),
            "max-bitrate" => self.max_bitrate_kbps.to_value(),
            "max-feedback-bitrate" => self.max_feedback_bitrate_kbps.to_value(),
            "bandwidth" => self.bandwidth_kbps.to_value(),
            "bandwidth-min" => self.bandwidth_min_kbps.to_value(),
            "max-region-area" => self.max_region_area.to_value(),
            "server-rate" => self.server_rate.to_value(),
            "min-framerate" => self.min_framerate.to_value(),
            "max-background-qp" => self.max_background_qp.to_value(),
            "viewer-framerate" => self.viewer_framerate.to_value(),
            "skipped-pictures" => self.skipped_pictures.to_value(),
            "mode" => self.mode.to_value(),
            "low-scale" => self.low_scale.to_value(),
            "low-scale-min" => self.low_scale_min.to_value(),
            "segment-length" => self.segment_length.to_value(),
            "ring-frames" => self.ring_frames.to_value(),
            "ring-bytes" => self.ring_bytes.to_value(),
            "ring-age" => self.ring_age_ms.to_value(),
            "refine-canvas" => self.refine_canvas.to_value(),
            "feedback-uri" => self.channel.uri.to_value(),
            "feedback-key-file" => self.channel.key_file.to_value(),
            "feedback-plain" => self.channel.plain.to_value(),
            "feedback-ways" => self.feedback_ways.to_value(),
            "stream-id" => self.stream_id.to_value(),
            "wall-clock" => self.wall_clock.to_value(),
            name => return self.x264enc.get(name),
        })
    }

    /// Settings that may change while the element runs.
    pub fn live(&self) -> Live {
        let qp = |qp: u32| qp.clamp(1, 51) as u8;
        let (low, high) = (qp(*self.x264enc.qp_min), qp(*self.x264enc.qp_max));
        Live {
            background_qp: qp(*self.background_qp),
            region_qp: qp(*self.region_qp),
            fallback_qp: qp(*self.fallback_qp),
            feedback_timeout_ms: self.feedback_timeout_ms,
            max_bitrate_kbps: *self.max_bitrate_kbps,
            feedback: self.feedback_bound(),
            bandwidth_kbps: self.bandwidth_kbps,
            bandwidth_min_kbps: self.bandwidth_min_kbps,
            max_region_area: self.max_region_area,
            mode: self.rate_mode(),
            vbv_buf_capacity_ms: *self.x264enc.vbv_buf_capacity,
            // Limits in the wrong order are refused at the start.
            limits: (low.min(high), high),
            wishes: self.wish_bounds(),
        }
    }

    /// What servers may wish: with a rate control of the library, or one quantizer, no more than that pictures are left
    /// out; with a bandwidth its controller chooses the quantizers.
    fn wish_bounds(&self) -> WishBounds {
        let rate = |fraction: gst::Fraction| f64::from(fraction.numer()) / f64::from(fraction.denom().max(1));
        let interval = self.obeys_wishes();
        let ceiling = interval && self.rate_mode() == RateMode::Quantizers;
        WishBounds {
            interval,
            quantizers: ceiling && self.bandwidth_kbps == 0,
            ceiling,
            min_frame_rate: rate(self.min_framerate),
            max_background_qp: self.max_background_qp.clamp(1, 51) as u8,
            viewer_frame_rate: rate(self.viewer_framerate),
        }
    }

    /// Whether servers may wish that pictures are left out. Not where the stream declares when each one leaves the
    /// buffer of the hypothetical reference decoder.
    fn obeys_wishes(&self) -> bool {
        let declared = |option: &str| match option.split_once('=') {
            Some(("nal-hrd" | "nal_hrd" | "hrd", value)) => !matches!(value, "none" | "0" | "false" | "no"),
            Some(_) => false,
            None => option == "hrd",
        };
        self.server_rate && self.mode == Passes::One && !self.x264enc.option_string.split(':').any(declared)
    }

    /// Whether pictures that servers do not want are coded as repetitions of the ones before.
    pub fn repeats(&self) -> bool {
        self.obeys_wishes() && self.skipped_pictures == SkippedPictures::Repeat
    }

    /// Whether captured pictures may be left out of the stream.
    pub fn leaves_out(&self) -> bool {
        self.obeys_wishes() && !self.repeats()
    }

    /// The derived bound applies where nothing else bounds the cost of feedback, and the user did not switch it off.
    fn feedback_bound(&self) -> FeedbackBound {
        let bounded = *self.max_bitrate_kbps > 0 || self.bandwidth_kbps > 0 || self.rate_mode() != RateMode::Quantizers;
        match *self.max_feedback_bitrate_kbps {
            kbps @ 1.. => FeedbackBound::Kbps(kbps.unsigned_abs()),
            0 => FeedbackBound::None,
            _ if bounded => FeedbackBound::None,
            // Both are set: by a saved preset.
            _ if self.max_bitrate_kbps.by_hand() && !self.max_feedback_bitrate_kbps.by_hand() => FeedbackBound::None,
            _ => FeedbackBound::Derived,
        }
    }

    fn rate_mode(&self) -> RateMode {
        let x264enc = &self.x264enc;
        let kbps = *x264enc.bitrate;
        // 0 is lossless coding, which has no regions; start refuses it.
        let constant = RateMode::Constant((*x264enc.quantizer).max(1) as u8);
        match *x264enc.pass {
            Pass::Quant => constant,
            Pass::Qual => RateMode::Quality {
                quality: *x264enc.quantizer as u8,
                kbps,
            },
            _ if kbps > 0 => RateMode::Bitrate(kbps),
            Pass::Auto if self.wants_quantizer() => constant,
            Pass::Auto => RateMode::Quantizers,
            // Value of a preset saved when `cbr` was the name of this default.
            _ if x264enc.bitrate.by_hand() => RateMode::Quantizers,
            _ => RateMode::Bitrate(BITRATE_OF_X264ENC),
        }
    }

    /// Whether `quantizer` was set on its own, not at its default by a saved preset with all others.
    fn wants_quantizer(&self) -> bool {
        let (pass, kbps, quantizer) = (&self.x264enc.pass, &self.x264enc.bitrate, &self.x264enc.quantizer);
        let saved = pass.by_hand() && kbps.by_hand();
        quantizer.by_hand() && !(saved && **quantizer == x264enc::QUANTIZER)
    }

    /// libx264's preset and tunings.
    pub fn preset_and_tune(&self) -> (Option<String>, Option<String>) {
        let (preset, psy) = (*self.x264enc.speed_preset, *self.x264enc.psy_tune);
        let mut tunings = x264enc::nicks(*self.x264enc.tune);
        if psy != PsyTune::None {
            tunings.insert(0, x264enc::nick(psy));
        }
        (
            (preset != SpeedPreset::None).then(|| x264enc::nick(preset)),
            (!tunings.is_empty()).then(|| tunings.join(",")),
        )
    }

    /// libx264's options: `option-string`, then the properties that were set.
    pub fn options(&self) -> Vec<EncoderOption> {
        let mut x264enc = self.x264enc.clone();
        // On by default, but not in libx264's presets.
        let aud = *x264enc.aud;
        x264enc.aud.set(aud);
        // 0 means our own choice; libx264 would read it as "intra only".
        if *x264enc.key_int_max == 0 {
            x264enc.key_int_max.forget();
        }
        // No flag means unset, as in x264enc.
        if x264enc.analyse.is_empty() {
            x264enc.analyse.forget();
        }
        // The default, set explicitly: in quantizer mode there is nothing it could apply to.
        if *x264enc.ip_factor == x264enc::IP_FACTOR && !self.rate_mode().is_of_library() {
            x264enc.ip_factor.forget();
        }
        let of_string = self.x264enc.option_string.split(':').filter(|o| !o.is_empty());
        let of_string = of_string.map(|option| {
            let (key, value) = option
                .split_once('=')
                .map_or((option, None), |(k, v)| (k, Some(v.to_string())));
            EncoderOption {
                origin: Origin::OptionString,
                key: key.into(),
                value,
            }
        });
        let of_properties = x264enc.passed().into_iter().map(|passed| EncoderOption {
            origin: Origin::Property(passed.property),
            key: passed.option.into(),
            value: Some(passed.value),
        });
        of_string.chain(of_properties).collect()
    }

    /// Whether the user has not set the distance of key frames.
    pub fn key_int_auto(&self) -> bool {
        let keyed = |key: &str| matches!(key.replace('_', "-").as_str(), "keyint" | "intra-refresh");
        let counted = self
            .options()
            .iter()
            .any(|option| keyed(&option.key) && option.value.as_deref() != Some("0"));
        !counted
    }

    /// Whether pictures are refreshed piece by piece instead of by key frames.
    pub fn is_refreshed(&self) -> bool {
        let on = |option: &EncoderOption| match option.value.as_deref() {
            None => true,
            Some(value) => !matches!(value, "0" | "false" | "no"),
        };
        let named = |option: &&EncoderOption| option.key.replace('_', "-") == "intra-refresh";
        self.options().iter().rfind(named).is_some_and(on)
    }

    /// Frame packing arrangement set by the user.
    pub fn frame_packing(&self) -> Option<u8> {
        u8::try_from(*self.x264enc.frame_packing as i32).ok()
    }

    /// Whether the user requests interlaced coding.
    pub fn interlaced(&self) -> bool {
        *self.x264enc.interlaced
    }

    /// The encoders to try, in order.
    pub fn backends(&self) -> &'static [Backend] {
        self.encoder.backends()
    }

    /// Whether the colour description goes into the stream.
    pub fn insert_vui(&self) -> bool {
        *self.x264enc.insert_vui
    }

    /// Whether byte-stream is preferred.
    pub fn byte_stream(&self) -> bool {
        *self.x264enc.byte_stream
    }

    /// Sizes of the first pass for the controller to choose from, largest first, at least one.
    pub fn low_scales(&self) -> Vec<f64> {
        let steps = std::iter::successors(Some(self.low_scale), |scale| Some(scale * SCALE_STEP));
        let smaller = steps.skip(1).take_while(|scale| *scale >= self.low_scale_min - 1e-6);
        std::iter::once(self.low_scale).chain(smaller).collect()
    }

    /// Settings of two passes, where they are switched on.
    pub fn two_pass(&self) -> Option<TwoPass> {
        (self.mode == Passes::Two).then(|| TwoPass {
            low_scale: {
                let scales = self.low_scales();
                scales[self.scale.min(scales.len() - 1)]
            },
            segment_length: self.segment_length.min(31) as u8,
            ring: Bounds {
                frames: self.ring_frames as usize,
                bytes: self.ring_bytes,
                age_ns: u64::from(self.ring_age_ms) * 1_000_000,
            },
            hold: self.refine_canvas == RefineCanvas::Hold,
        })
    }

    /// Settings of the channel of `feedback-uri`.
    pub fn channel(&self) -> Setup {
        self.channel.clone()
    }

    /// Whether feedback by this way is taken.
    pub fn takes(&self, way: Way) -> bool {
        let sealed = !self.channel.key.is_empty() || !self.channel.key_file.is_empty();
        let (own, automatic) = match way {
            Way::Event => (FeedbackWays::EVENT, true),
            Way::Uri => (FeedbackWays::URI, true),
            Way::Pad => (FeedbackWays::PAD, true),
            Way::Srtcp => (FeedbackWays::SRTCP | FeedbackWays::RTCP, true),
            Way::Rtcp => (FeedbackWays::RTCP, !sealed),
        };
        self.feedback_ways.intersects(own) || automatic && self.chooses_ways()
    }

    /// Whether the ways are chosen automatically.
    pub fn chooses_ways(&self) -> bool {
        self.feedback_ways.contains(FeedbackWays::AUTO)
    }

    /// Fixed stream ID, 0 = random.
    pub fn stream_id(&self) -> u32 {
        self.stream_id
    }

    /// Whether capture times come from the wall clock.
    pub fn wall_clock(&self) -> bool {
        self.wall_clock
    }
}
