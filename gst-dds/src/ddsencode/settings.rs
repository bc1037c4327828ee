// SPDX-License-Identifier: MPL-2.0

//! Values of the properties, and what they mean for an encoder.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use glib::prelude::*;
use gst_dds_link::channel::Setup;
use gst_dds_link::text;

use crate::camera::ring::Bounds;
use crate::camera::{self, FeedbackBound, Knobs, Source};
use crate::encoder::{Backend, EncoderOption, OpenError, Origin, RateControl};
use crate::vbv::Vbv;

use super::properties::{
    ALL, Analyse, Encoder, FeedbackWays, Me, PASSED, Pass, Passes, PsyTune, RefineCanvas, SpeedPreset, Tune,
};

mod conflicts;

/// Defaults of the properties.
pub(super) mod default {
    /// Fraction of the picture.
    pub const MAX_REGION_AREA: f64 = 0.35;
    /// kbit/s; -1: derived from size and rate.
    pub const MAX_FEEDBACK_BITRATE: i32 = -1;
    /// Fraction of the picture's sides.
    pub const LOW_SCALE: f64 = 1.0;
    /// Bytes.
    pub const RING_BYTES: u64 = 256_000_000;
    /// kbit/s of `x264enc`, used where `pass=cbr` was set by hand and no bit rate.
    pub const BITRATE_OF_X264ENC: u32 = 2048;

    /// Name that `x264enc` would use; ours writes none.
    pub const MULTIPASS_CACHE_FILE: &str = "x264.log";
    /// Factors of libx264.
    pub const IP_FACTOR: f32 = 1.4;
    pub const PB_FACTOR: f32 = 1.3;

    /// Of numbers.
    pub fn uint(name: &str) -> u32 {
        match name {
            "background-qp" => 36,
            "region-qp" => 26,
            "fallback-qp" => 30,
            "feedback-timeout" => 2000,
            "ring-frames" => 60,
            "ring-age" => 2000,
            "vbv-buf-capacity" => 600,
            "quantizer" => 21,
            "ref" => 3,
            "subme" => 1,
            "qp-min" => 10,
            "qp-max" => 51,
            "qp-step" => 4,
            _ => 0,
        }
    }

    /// Of switches.
    pub fn boolean(name: &str) -> bool {
        matches!(
            name,
            "aud" | "b-adapt" | "cabac" | "trellis" | "insert-vui" | "sliced-threads"
        )
    }
}

/// From one size of the first pass to the next smaller one.
const SCALE_STEP: f64 = 0.75;

/// What may change in a running element, copied for every frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Live {
    pub background_qp: u8,
    pub region_qp: u8,
    pub fallback_qp: u8,
    pub feedback_timeout_ms: u32,
    pub max_bitrate_kbps: u32,
    /// What regions of feedback may add.
    pub feedback: FeedbackBound,
    /// What the controller may use, 0 = it is off.
    pub bandwidth_kbps: u32,
    /// What it may use at least, where losses say how much that is; 0 = they do not.
    pub bandwidth_min_kbps: u32,
    pub max_region_area: f64,
    pub mode: Mode,
    pub vbv_buf_capacity_ms: u32,
    /// Lowest and highest quantizer allowed.
    pub limits: (u8, u8),
}

/// What two passes are made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TwoPass {
    /// Sides of the first pass as a fraction of the captured ones.
    pub low_scale: f64,
    /// Frames per segment, 0 = none.
    pub segment_length: u8,
    /// Of the raw frames that wait for requests.
    pub ring: Bounds,
    /// Whether the canvas keeps what was painted.
    pub hold: bool,
}

/// Rate control the properties ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Two quantizers.
    Quantizers,
    /// One quantizer, regions as the difference.
    Constant(u8),
    /// libx264's constant quality; a bit rate is its cap, 0 = none.
    Quality { quality: u8, kbps: u32 },
    /// Bit rate in kbit/s.
    Bitrate(u32),
}

impl Mode {
    /// Whether the library chooses the quantizers, and regions are differences to them.
    pub fn is_of_library(self) -> bool {
        matches!(self, Self::Quality { .. } | Self::Bitrate(_))
    }

    /// Whether an encoder opened for `other` can go on with this.
    pub fn same_kind(self, other: Self) -> bool {
        let exact = |m| matches!(m, Self::Quantizers | Self::Constant(_));
        exact(self) && exact(other) || std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl Live {
    /// The same with the quantizers that the controller chose for `kbps`: nothing is coded finer, with or without a server.
    pub fn with_knobs(self, knobs: Knobs, kbps: u32) -> Self {
        // The controller keeps the bandwidth; the cap is there for what it could not foresee.
        let guard = kbps.saturating_add(kbps / 12);
        Self {
            background_qp: knobs.low_qp,
            region_qp: knobs.high_qp,
            fallback_qp: knobs.low_qp,
            max_bitrate_kbps: match (self.max_bitrate_kbps, guard) {
                (0, guard) => guard,
                (cap, guard) => cap.min(guard),
            },
            ..self
        }
    }

    /// Quantizers of background, regions and fallback.
    fn quantizers(&self) -> (u8, u8, u8) {
        let limit = |qp: i32| qp.clamp(self.limits.0.into(), self.limits.1.into()) as u8;
        let Mode::Constant(constant) = self.mode else {
            return (
                limit(self.background_qp.into()),
                limit(self.region_qp.into()),
                limit(self.fallback_qp.into()),
            );
        };
        let constant = limit(constant.into());
        let region = i32::from(constant) + i32::from(self.region_qp) - i32::from(self.background_qp);
        (constant, limit(region), constant)
    }

    /// For the camera logic.
    pub fn camera(&self, frame_rate: f64) -> camera::Settings {
        let (background_qp, region_qp, fallback_qp) = self.quantizers();
        camera::Settings {
            background_qp,
            region_qp,
            fallback_qp,
            feedback_timeout_ns: u64::from(self.feedback_timeout_ms) * 1_000_000,
            max_region_area: self.max_region_area,
            max_bitrate_kbps: self.max_bitrate_kbps,
            feedback: self.feedback,
            frame_rate,
            steered: true,
        }
    }

    /// For the encoder.
    pub fn rate(&self) -> RateControl {
        match self.mode {
            Mode::Quantizers | Mode::Constant(_) => RateControl::Quantizers {
                base_qp: self.quantizers().0,
            },
            Mode::Quality { quality, .. } => RateControl::Quality { quality },
            Mode::Bitrate(kbps) => RateControl::Bitrate { kbps },
        }
    }

    /// The VBV that bit rate and `vbv-buf-capacity` ask for, apart from any cap.
    pub fn vbv(&self) -> Vbv {
        match self.mode {
            Mode::Bitrate(kbps) | Mode::Quality { kbps, .. } if kbps > 0 => Vbv {
                max_kbps: kbps,
                buffer_kbit: ((u64::from(kbps) * u64::from(self.vbv_buf_capacity_ms) / 1000) as u32).max(1),
            },
            _ => Vbv::OPEN,
        }
    }

    /// kbit/s to declare, 0 = unknown.
    pub fn nominal_kbps(&self) -> u32 {
        match self.mode {
            Mode::Bitrate(kbps) => kbps,
            _ => self.max_bitrate_kbps,
        }
    }
}

/// A property value, free of GObject so that it may cross threads.
#[derive(Clone, Debug, PartialEq)]
enum Setting {
    Uint(u32),
    Uint64(u64),
    Int(i32),
    Bool(bool),
    Float(f32),
    Double(f64),
    Text(String),
    /// Bytes that are no UTF-8; start refuses them.
    NotText,
    Enum(i32),
    Flags(u32),
}

impl Setting {
    fn from_value(value: &glib::Value) -> Option<Self> {
        let type_ = value.type_();
        Some(match type_ {
            glib::Type::U32 => Self::Uint(value.get().ok()?),
            glib::Type::U64 => Self::Uint64(value.get().ok()?),
            glib::Type::I32 => Self::Int(value.get().ok()?),
            glib::Type::BOOL => Self::Bool(value.get().ok()?),
            glib::Type::F32 => Self::Float(value.get().ok()?),
            glib::Type::F64 => Self::Double(value.get().ok()?),
            glib::Type::STRING => match text::bytes(value).map(std::str::from_utf8) {
                None => Self::Text(String::new()),
                Some(Ok(text)) => Self::Text(text.to_owned()),
                Some(Err(_)) => Self::NotText,
            },
            _ if type_.is_a(glib::Type::ENUM) => Self::Enum(value.transform::<i32>().ok()?.get().ok()?),
            _ if type_.is_a(glib::Type::FLAGS) => Self::Flags(value.transform::<u32>().ok()?.get().ok()?),
            _ => return None,
        })
    }

    fn to_value(&self, pspec: &glib::ParamSpec) -> glib::Value {
        let value = match self {
            Self::Uint(v) => v.to_value(),
            Self::Uint64(v) => v.to_value(),
            Self::Int(v) => v.to_value(),
            Self::Bool(v) => v.to_value(),
            Self::Float(v) => v.to_value(),
            Self::Double(v) => v.to_value(),
            Self::Text(v) => v.to_value(),
            Self::NotText => "".to_value(),
            Self::Enum(v) => {
                return glib::EnumClass::with_type(pspec.value_type())
                    .and_then(|class| class.to_value(*v))
                    .unwrap_or_else(|| pspec.default_value().clone());
            }
            Self::Flags(v) if pspec.name() == "tune" => Tune::from_bits_truncate(*v).to_value(),
            Self::Flags(v) if pspec.name() == "feedback-ways" => FeedbackWays::from_bits_truncate(*v).to_value(),
            Self::Flags(v) => Analyse::from_bits_truncate(*v).to_value(),
        };
        debug_assert_eq!(value.type_(), pspec.value_type());
        value
    }

    /// As libx264's option parser reads it.
    fn option_value(&self, pspec_name: &str) -> String {
        match self {
            Self::Uint(v) => v.to_string(),
            Self::Uint64(v) => v.to_string(),
            Self::Int(v) => v.to_string(),
            Self::Bool(v) => u8::from(*v).to_string(),
            Self::Float(v) => v.to_string(),
            Self::Double(v) => v.to_string(),
            Self::Text(v) => v.clone(),
            Self::NotText => String::new(),
            Self::Enum(v) => match pspec_name {
                "me" => nick::<Me>(*v),
                _ => v.to_string(),
            },
            Self::Flags(v) => {
                let known = [
                    (Analyse::I4X4, "i4x4"),
                    (Analyse::I8X8, "i8x8"),
                    (Analyse::P8X8, "p8x8"),
                    (Analyse::P4X4, "p4x4"),
                    (Analyse::B8X8, "b8x8"),
                ];
                let flags = Analyse::from_bits_truncate(*v);
                let names: Vec<_> = known
                    .iter()
                    .filter(|(f, _)| flags.contains(*f))
                    .map(|(_, n)| *n)
                    .collect();
                names.join(",")
            }
        }
    }
}

fn nick<T: StaticType>(value: i32) -> String {
    glib::EnumClass::with_type(T::static_type())
        .and_then(|class| class.value(value).map(|v| v.nick().to_string()))
        .unwrap_or_default()
}

/// Property values: what the user set, over the defaults of the table.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    set: BTreeMap<&'static str, Setting>,
    /// Kept up to date with `set`, because every frame reads it.
    live: Live,
    /// Place in [`Self::low_scales`] of the encoder that is to be opened: the controller's choice, no property.
    pub scale: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self {
            scale: 0,
            set: BTreeMap::new(),
            live: Live {
                background_qp: 0,
                region_qp: 0,
                fallback_qp: 0,
                feedback_timeout_ms: 0,
                max_bitrate_kbps: 0,
                feedback: FeedbackBound::Derived,
                bandwidth_kbps: 0,
                bandwidth_min_kbps: 0,
                max_region_area: default::MAX_REGION_AREA,
                mode: Mode::Quantizers,
                vbv_buf_capacity_ms: 0,
                limits: (1, 51),
            },
        };
        settings.update_live();
        settings
    }
}

impl Settings {
    /// Stores a value that the property system has checked against the table.
    pub fn set(&mut self, pspec: &glib::ParamSpec, value: &glib::Value) {
        if let Some(known) = ALL.iter().find(|p| p.name() == pspec.name())
            && let Some(value) = Setting::from_value(value)
        {
            self.set.insert(known.name(), value);
            self.update_live();
        }
    }

    /// The value, or its default.
    pub fn value(&self, pspec: &glib::ParamSpec) -> glib::Value {
        self.set
            .get(pspec.name())
            .map_or_else(|| pspec.default_value().clone(), |value| value.to_value(pspec))
    }

    /// What may change while the element runs.
    pub fn live(&self) -> Live {
        self.live
    }

    fn is_set(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    fn uint(&self, name: &str) -> u32 {
        match self.set.get(name) {
            Some(Setting::Uint(value)) => *value,
            _ => default::uint(name),
        }
    }

    fn boolean(&self, name: &str) -> bool {
        match self.set.get(name) {
            Some(Setting::Bool(value)) => *value,
            _ => default::boolean(name),
        }
    }

    fn enumerated(&self, name: &str, default: i32) -> i32 {
        match self.set.get(name) {
            Some(Setting::Enum(value)) => *value,
            _ => default,
        }
    }

    fn tune(&self) -> Tune {
        match self.set.get("tune") {
            Some(Setting::Flags(bits)) => Tune::from_bits_truncate(*bits),
            _ => Tune::ZEROLATENCY,
        }
    }

    fn text(&self, name: &str) -> &str {
        match self.set.get(name) {
            Some(Setting::Text(value)) => value,
            _ => "",
        }
    }

    fn update_live(&mut self) {
        let qp = |name| self.uint(name).clamp(1, 51) as u8;
        self.live = Live {
            background_qp: qp("background-qp"),
            region_qp: qp("region-qp"),
            fallback_qp: qp("fallback-qp"),
            feedback_timeout_ms: self.uint("feedback-timeout"),
            max_bitrate_kbps: self.uint("max-bitrate"),
            feedback: self.feedback_bound(),
            bandwidth_kbps: self.uint("bandwidth"),
            bandwidth_min_kbps: self.uint("bandwidth-min"),
            max_region_area: match self.set.get("max-region-area") {
                Some(Setting::Double(value)) => *value,
                _ => default::MAX_REGION_AREA,
            },
            mode: self.mode(),
            vbv_buf_capacity_ms: self.uint("vbv-buf-capacity"),
            limits: {
                let limit = |name, unset| {
                    if self.is_set(name) {
                        self.uint(name).clamp(1, 51) as u8
                    } else {
                        unset
                    }
                };
                let (low, high) = (limit("qp-min", 1), limit("qp-max", 51));
                // The other way round start refuses them.
                (low.min(high), high)
            },
        };
    }

    /// The derived bound is there where nothing else bounds what feedback may cost, and nobody has said that nothing should.
    fn feedback_bound(&self) -> FeedbackBound {
        let bounds = ["max-bitrate", "bandwidth"];
        let bounded = bounds.iter().any(|name| self.uint(name) > 0) || self.mode() != Mode::Quantizers;
        match self.set.get("max-feedback-bitrate") {
            Some(Setting::Int(kbps @ 1..)) => FeedbackBound::Kbps(kbps.unsigned_abs()),
            Some(Setting::Int(0)) => FeedbackBound::None,
            _ if bounded => FeedbackBound::None,
            // Both set: what a saved preset holds.
            None if self.is_set("max-bitrate") => FeedbackBound::None,
            _ => FeedbackBound::Derived,
        }
    }

    fn mode(&self) -> Mode {
        let bitrate = self.uint("bitrate");
        // 0 is lossless coding, which knows no regions; start refuses it.
        let quantizer = self.uint("quantizer").max(1) as u8;
        match self.enumerated("pass", Pass::Cbr as i32) {
            pass if pass == Pass::Quant as i32 => Mode::Constant(quantizer),
            pass if pass == Pass::Qual as i32 => Mode::Quality {
                quality: self.uint("quantizer") as u8,
                kbps: bitrate,
            },
            _ if bitrate > 0 => Mode::Bitrate(bitrate),
            // Both set: what a saved preset holds.
            _ if self.is_set("pass") && self.is_set("bitrate") => Mode::Quantizers,
            _ if self.is_set("pass") => Mode::Bitrate(default::BITRATE_OF_X264ENC),
            _ if self.is_set("quantizer") => Mode::Constant(quantizer),
            _ => Mode::Quantizers,
        }
    }

    /// Refuses what cannot work, by the property's name and with what to do instead.
    pub fn check(&self) -> Result<(), OpenError> {
        let refuse = |name: &str, reason: &str, cure: &str| Err(OpenError::refused(name, reason, cure));
        if let Some((name, _)) = self.set.iter().find(|(_, value)| **value == Setting::NotText) {
            return refuse(name, "its value is not UTF-8", "Write it in UTF-8");
        }
        if !self.text("feedback-uri").is_empty() && !self.takes(Source::Uri) {
            return refuse(
                "feedback-ways",
                "feedback-uri is set, and uri is not among the ways that are taken",
                "Add uri, or remove feedback-uri",
            );
        }
        let pass = self.enumerated("pass", Pass::Cbr as i32);
        if pass > Pass::Qual as i32 {
            return refuse(
                "pass",
                "coding in several passes needs the whole video before the first frame",
                "Set bitrate, or pass=qual with quantizer",
            );
        }
        if !matches!(self.text("multipass-cache-file"), "" | default::MULTIPASS_CACHE_FILE) {
            return refuse("multipass-cache-file", "there is one pass only", "Remove it");
        }
        let above_zero = |name: &str| match self.set.get(name) {
            Some(Setting::Uint(value)) => *value > 0,
            Some(Setting::Int(value)) => *value > 0,
            _ => false,
        };
        for name in ["bframes", "rc-lookahead", "sync-lookahead"] {
            if above_zero(name) {
                return refuse(
                    name,
                    "it would delay video, and feedback with it",
                    "Set it to 0 or remove it",
                );
            }
        }
        if self.boolean("mb-tree") {
            return refuse(
                "mb-tree",
                "the macroblock tree needs look-ahead, which delays video, and overrides regions",
                "Set mb-tree=false or remove it",
            );
        }
        if self.tune().contains(Tune::STILLIMAGE) && self.enumerated("psy-tune", 0) != PsyTune::None as i32 {
            return refuse(
                "psy-tune",
                "tune=stillimage is a psychovisual tuning too, and libx264 takes one",
                "Remove one",
            );
        }
        let bitrate = self.uint("bitrate");
        if pass == Pass::Quant as i32 && bitrate > 0 {
            return refuse(
                "bitrate",
                "pass=quant codes at one quantizer whatever the bit rate",
                "Remove one of the two, or set max-bitrate for a cap",
            );
        }
        if pass == Pass::Cbr as i32 && bitrate > 0 && self.is_set("quantizer") && !self.is_set("pass") {
            return refuse(
                "quantizer",
                "bitrate is set too, and it decides the quantizers",
                "Set pass=qual for quality under a bit rate, or remove one of the two",
            );
        }
        if matches!(self.set.get("max-feedback-bitrate"), Some(Setting::Int(1..)))
            && matches!(self.mode(), Mode::Bitrate(_) | Mode::Quality { .. })
        {
            return refuse(
                "max-feedback-bitrate",
                "libx264 spends elsewhere what smaller regions save where bitrate or pass=qual is set",
                "Remove it: the bit rate bounds regions too",
            );
        }
        if self.uint("bandwidth-min") > 0 && self.uint("bandwidth-min") >= self.uint("bandwidth") {
            return refuse(
                "bandwidth-min",
                "it is not below bandwidth, so there is nothing between them to choose",
                "Set it lower, or to 0 for a fixed bandwidth",
            );
        }
        if self.uint("bandwidth") > 0 && self.mode() != Mode::Quantizers {
            return refuse(
                "bandwidth",
                "bitrate, pass or quantizer is set too, and it decides the quantizers",
                "Remove one of the two",
            );
        }
        if matches!(self.mode(), Mode::Constant(_)) && self.uint("quantizer") == 0 {
            return refuse(
                "quantizer",
                "0 is lossless coding, which has no regions",
                "Set it to 1 or more",
            );
        }
        if self.is_set("qp-min") && self.is_set("qp-max") && self.uint("qp-min") > self.uint("qp-max") {
            return refuse("qp-min", "it is above qp-max", "Set it to qp-max or less");
        }
        Ok(())
    }

    /// libx264's preset and tunings.
    pub fn preset_and_tune(&self) -> (Option<String>, Option<String>) {
        let preset = self.enumerated("speed-preset", SpeedPreset::Medium as i32);
        let preset = (preset != SpeedPreset::None as i32).then(|| nick::<SpeedPreset>(preset));
        let tune = self.tune();
        let psy = self.enumerated("psy-tune", PsyTune::None as i32);
        let mut names = Vec::new();
        if psy != PsyTune::None as i32 {
            names.push(nick::<PsyTune>(psy));
        }
        for (flag, name) in [
            (Tune::STILLIMAGE, "stillimage"),
            (Tune::FASTDECODE, "fastdecode"),
            (Tune::ZEROLATENCY, "zerolatency"),
        ] {
            if tune.contains(flag) {
                names.push(name.into());
            }
        }
        (preset, (!names.is_empty()).then(|| names.join(",")))
    }

    /// libx264's options: `option-string`, then the properties that were set.
    pub fn options(&self) -> Vec<EncoderOption> {
        let exact = matches!(self.live.mode, Mode::Quantizers | Mode::Constant(_));
        let of_string = self
            .text("option-string")
            .split(':')
            .filter(|o| !o.is_empty())
            .map(|option| {
                let (key, value) = option
                    .split_once('=')
                    .map_or((option, None), |(k, v)| (k, Some(v.to_string())));
                EncoderOption {
                    origin: Origin::OptionString,
                    key: key.into(),
                    value,
                }
            });
        let of_properties = PASSED.iter().filter_map(|passed| {
            let value = match (passed.name, self.set.get(passed.name)) {
                // On by itself, and not in libx264's presets.
                ("aud", None) => "1".to_string(),
                // 0 means a choice of our own; libx264 would read it as "intra only".
                ("key-int-max", Some(Setting::Uint(0))) | (_, None) => return None,
                // No flag is no wish, as in x264enc.
                ("analyse", Some(Setting::Flags(0))) => return None,
                // The default, written down: in quantizer mode there is nothing it could apply to.
                ("ip-factor", Some(Setting::Float(value))) if *value == default::IP_FACTOR && exact => return None,
                (name, Some(value)) => value.option_value(name),
            };
            Some(EncoderOption {
                origin: Origin::Property(passed.name),
                key: passed.option.into(),
                value: Some(value),
            })
        });
        of_string.chain(of_properties).collect()
    }

    /// Whether nobody says how many frames lie between key frames.
    pub fn key_int_auto(&self) -> bool {
        let keyed = |key: &str| matches!(key.replace('_', "-").as_str(), "keyint" | "intra-refresh");
        let counted = self
            .options()
            .iter()
            .any(|option| keyed(&option.key) && option.value.as_deref() != Some("0"));
        !counted
    }

    /// Frame packing arrangement by hand.
    pub fn frame_packing(&self) -> Option<u8> {
        u8::try_from(self.enumerated("frame-packing", -1)).ok()
    }

    /// Whether interlaced coding is asked for by hand.
    pub fn interlaced(&self) -> bool {
        self.boolean("interlaced")
    }

    /// What may code the video, in the order to try.
    pub fn backends(&self) -> &'static [Backend] {
        let all = [Encoder::Auto, Encoder::X264, Encoder::X265, Encoder::Nvenc];
        let wanted = self.enumerated("encoder", Encoder::DEFAULT as i32);
        let encoder = all.into_iter().find(|e| *e as i32 == wanted);
        encoder.unwrap_or(Encoder::Auto).backends()
    }

    /// Whether the colour description goes into the stream.
    pub fn insert_vui(&self) -> bool {
        self.boolean("insert-vui")
    }

    /// Whether byte-stream is preferred.
    pub fn byte_stream(&self) -> bool {
        self.boolean("byte-stream")
    }

    fn double(&self, name: &str, default: f64) -> f64 {
        match self.set.get(name) {
            Some(Setting::Double(value)) => *value,
            _ => default,
        }
    }

    /// Sizes of the first pass that the controller may choose from, largest first, at least one.
    pub fn low_scales(&self) -> Vec<f64> {
        let largest = self.double("low-scale", default::LOW_SCALE);
        let smallest = self.double("low-scale-min", default::LOW_SCALE);
        let steps = std::iter::successors(Some(largest), |scale| Some(scale * SCALE_STEP));
        let smaller = steps.skip(1).take_while(|scale| *scale >= smallest - 1e-6);
        std::iter::once(largest).chain(smaller).collect()
    }

    /// Two passes, where they are asked for.
    pub fn two_pass(&self) -> Option<TwoPass> {
        (self.enumerated("mode", Passes::One as i32) == Passes::Two as i32).then(|| TwoPass {
            low_scale: {
                let scales = self.low_scales();
                scales[self.scale.min(scales.len() - 1)]
            },
            segment_length: self.uint("segment-length").min(31) as u8,
            ring: Bounds {
                frames: self.uint("ring-frames") as usize,
                bytes: self.ring_bytes(),
                age_ns: u64::from(self.uint("ring-age")) * 1_000_000,
            },
            hold: self.enumerated("refine-canvas", RefineCanvas::Hold as i32) == RefineCanvas::Hold as i32,
        })
    }

    fn ring_bytes(&self) -> u64 {
        match self.set.get("ring-bytes") {
            Some(Setting::Uint64(bytes)) => *bytes,
            _ => default::RING_BYTES,
        }
    }

    /// The channel of its own that feedback may come by.
    pub fn channel(&self) -> Setup {
        Setup {
            uri: self.text("feedback-uri").into(),
            key: self.text("feedback-key").into(),
            key_file: self.text("feedback-key-file").into(),
            plain: self.boolean("feedback-plain"),
        }
    }

    /// Whether feedback is taken that comes by this way.
    pub fn takes(&self, source: Source) -> bool {
        let ways = self.feedback_ways();
        let sealed = !self.text("feedback-key").is_empty() || !self.text("feedback-key-file").is_empty();
        let (own, automatic) = match source {
            Source::Event => (FeedbackWays::EVENT, true),
            Source::Uri => (FeedbackWays::URI, true),
            Source::Pad => (FeedbackWays::PAD, true),
            Source::Srtcp => (FeedbackWays::SRTCP | FeedbackWays::RTCP, true),
            Source::Rtcp => (FeedbackWays::RTCP, !sealed),
        };
        ways.intersects(own) || automatic && ways.contains(FeedbackWays::AUTO)
    }

    /// Whether it is ours to say which ways are taken.
    pub fn chooses_ways(&self) -> bool {
        self.feedback_ways().contains(FeedbackWays::AUTO)
    }

    fn feedback_ways(&self) -> FeedbackWays {
        match self.set.get("feedback-ways") {
            Some(Setting::Flags(bits)) => FeedbackWays::from_bits_truncate(*bits),
            _ => FeedbackWays::AUTO,
        }
    }

    /// Fixed stream ID, 0 = random.
    pub fn stream_id(&self) -> u32 {
        self.uint("stream-id")
    }

    /// Whether the wall clock tells capture times.
    pub fn wall_clock(&self) -> bool {
        match self.set.get("wall-clock") {
            Some(Setting::Bool(value)) => *value,
            _ => true,
        }
    }
}
