// SPDX-License-Identifier: MPL-2.0

//! The properties of `x264enc`: one table makes the fields of [`X264Enc`], the `ParamSpec`s and libx264's options.
//!
//! Names, types, ranges and nicks are those of `x264enc`, so that its launch lines run. Defaults are the effective
//! values where nothing is set: for options that `speed-preset` decides, those of its default, `medium`.

#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use glib::prelude::*;
use gst::prelude::*;
use gst_dds_link::text;

use super::enums::{Analyse, FramePacking, Me, Pass, PsyTune, SpeedPreset, Tune};
use super::setting::Setting;

/// Factor of libx264 between quantizers of I- and P-frames.
pub(super) const IP_FACTOR: f32 = 1.4;
/// Quantizer or quality where `pass` requires one.
pub(super) const QUANTIZER: u32 = 21;
/// Name that `x264enc` would use; we write no such file.
pub(super) const MULTIPASS_CACHE_FILE: &str = "x264.log";

/// Use of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Passed as this option of libx264, where set. Otherwise `speed-preset` and `tune` decide.
    Option(&'static str),
    /// Read by the element itself.
    Own,
    /// The same, and it may change in a running element.
    Live,
}

/// Description of a property in gst-inspect.
struct About {
    name: &'static str,
    nick: &'static str,
    blurb: &'static str,
    role: Role,
}

/// An option of libx264 set by a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// Name of the property.
    pub property: &'static str,
    /// Name of the option.
    pub option: &'static str,
    /// Its value as libx264's option parser reads it.
    pub value: String,
}

/// A type of property.
trait PropertyType: Sized {
    /// Range of values; `()` where the type implies it.
    type Range;

    /// The property.
    fn spec(about: &About, range: Self::Range, default: Self) -> glib::ParamSpec;

    /// The value that a caller sets; `None` for one of another type.
    fn read(value: &glib::Value) -> Option<Self>;

    /// The value that a caller gets.
    fn show(&self) -> glib::Value;

    /// As libx264's option parser reads it.
    fn option(&self) -> String;
}

/// A `ParamSpec` with the common part of these builders.
macro_rules! spec {
    ($builder:expr, $about:expr) => {{
        let builder = $builder.nick($about.nick).blurb($about.blurb);
        match $about.role {
            Role::Live => builder.mutable_playing().build(),
            Role::Option(_) | Role::Own => builder.mutable_ready().build(),
        }
    }};
}

macro_rules! numbers {
    ($($type:ty, $spec:ident;)*) => {$(
        impl PropertyType for $type {
            type Range = RangeInclusive<Self>;

            fn spec(about: &About, range: Self::Range, default: Self) -> glib::ParamSpec {
                let builder = glib::$spec::builder(about.name);
                spec!(builder.minimum(*range.start()).maximum(*range.end()).default_value(default), about)
            }

            fn read(value: &glib::Value) -> Option<Self> {
                value.get().ok()
            }

            fn show(&self) -> glib::Value {
                self.to_value()
            }

            fn option(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

numbers! {
    u32, ParamSpecUInt;
    i32, ParamSpecInt;
    f32, ParamSpecFloat;
}

impl PropertyType for bool {
    type Range = ();

    fn spec(about: &About, (): (), default: Self) -> glib::ParamSpec {
        spec!(
            glib::ParamSpecBoolean::builder(about.name).default_value(default),
            about
        )
    }

    fn read(value: &glib::Value) -> Option<Self> {
        value.get().ok()
    }

    fn show(&self) -> glib::Value {
        self.to_value()
    }

    fn option(&self) -> String {
        u8::from(*self).to_string()
    }
}

impl PropertyType for String {
    type Range = ();

    fn spec(about: &About, (): (), default: Self) -> glib::ParamSpec {
        spec!(
            glib::ParamSpecString::builder(about.name).default_value(Some(default.as_str())),
            about
        )
    }

    fn read(value: &glib::Value) -> Option<Self> {
        // The settings have refused invalid UTF-8; no string at all is an empty one.
        Some(text::utf8(value).unwrap_or_default().to_owned())
    }

    fn show(&self) -> glib::Value {
        self.to_value()
    }

    fn option(&self) -> String {
        self.clone()
    }
}

macro_rules! enums {
    ($($type:ty),*) => {$(
        impl PropertyType for $type {
            type Range = ();

            fn spec(about: &About, (): (), default: Self) -> glib::ParamSpec {
                spec!(glib::ParamSpecEnum::builder_with_default(about.name, default), about)
            }

            fn read(value: &glib::Value) -> Option<Self> {
                value.get().ok()
            }

            fn show(&self) -> glib::Value {
                self.to_value()
            }

            fn option(&self) -> String {
                nick(*self)
            }
        }
    )*};
}

enums!(FramePacking, Me, Pass, PsyTune, SpeedPreset);

macro_rules! flags {
    ($($type:ty),*) => {$(
        impl PropertyType for $type {
            type Range = ();

            fn spec(about: &About, (): (), default: Self) -> glib::ParamSpec {
                spec!(glib::ParamSpecFlags::builder::<Self>(about.name).default_value(default), about)
            }

            fn read(value: &glib::Value) -> Option<Self> {
                value.get().ok()
            }

            fn show(&self) -> glib::Value {
                self.to_value()
            }

            fn option(&self) -> String {
                nicks(*self).join(",")
            }
        }
    )*};
}

flags!(Analyse, Tune);

/// Name of an enumeration's value, as used by libx264 and launch lines.
pub(super) fn nick<T: StaticType + glib::translate::IntoGlib<GlibType = i32>>(value: T) -> String {
    glib::EnumClass::with_type(T::static_type())
        .and_then(|class| class.value(value.into_glib()).map(|v| v.nick().to_string()))
        .unwrap_or_default()
}

/// Names of the flags that are set.
pub(super) fn nicks<T: StaticType + glib::translate::IntoGlib<GlibType = u32>>(value: T) -> Vec<String> {
    let bits = value.into_glib();
    let class = glib::FlagsClass::with_type(T::static_type());
    let all = class.iter().flat_map(|class| class.values());
    all.filter(|flag| bits & flag.value() == flag.value())
        .map(|flag| flag.nick().to_string())
        .collect()
}

/// Expands the table to the struct, its defaults, and functions over all properties.
macro_rules! table {
    ($($field:ident: $type:ty = $default:expr, $range:expr, $role:expr, $name:literal, $nick:literal, $blurb:literal;)*) => {
        /// Values of the properties of `x264enc`.
        #[derive(Clone, Debug)]
        pub(super) struct X264Enc {
            $(pub $field: Setting<$type>,)*
        }

        impl Default for X264Enc {
            fn default() -> Self {
                Self {
                    $($field: Setting::unset($default),)*
                }
            }
        }

        impl X264Enc {
            /// All properties.
            pub fn specs() -> Vec<glib::ParamSpec> {
                vec![$({
                    let about = About { name: $name, nick: $nick, blurb: $blurb, role: $role };
                    <$type as PropertyType>::spec(&about, $range, $default)
                },)*]
            }

            /// Sets the property of this name. `false`: there is none of that name and type.
            pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
                match name {
                    $($name => <$type as PropertyType>::read(value).map(|value| self.$field.set(value)).is_some(),)*
                    _ => false,
                }
            }

            /// Value of the property of this name, if there is one.
            pub fn get(&self, name: &str) -> Option<glib::Value> {
                match name {
                    $($name => Some(PropertyType::show(&*self.$field)),)*
                    _ => None,
                }
            }

            /// The properties that were set and are options of libx264, in the order of the table.
            pub fn passed(&self) -> Vec<Passed> {
                let mut all = Vec::new();
                $(if let Role::Option(option) = $role && self.$field.by_hand() {
                    all.push(Passed { property: $name, option, value: PropertyType::option(&*self.$field) });
                })*
                all
            }
        }
    };
}

// Blurbs of properties that can only be refused, or have no effect, begin with that; so do those of properties that
// `speed-preset` decides where they are not set.
table! {
    // field: type = default, range, role, name, nick, blurb.
    analyse: Analyse = Analyse::empty(), (), Role::Option("partitions"), "analyse", "Analyse",
        "Partitions of macroblocks to consider; unset, or none named, speed-preset decides";
    aud: bool = true, (), Role::Option("aud"), "aud", "AUD",
        "Write an access unit delimiter (AUD) in front of each picture";
    b_adapt: bool = true, (), Role::Option("b-adapt"), "b-adapt", "B-Adapt",
        "No effect, as there are no B-frames: decide how many to use";
    b_pyramid: bool = false, (), Role::Option("b-pyramid"), "b-pyramid", "B-Pyramid",
        "No effect, as there are no B-frames: keep some of them as references";
    bframes: u32 = 0, 0..=16, Role::Option("bframes"), "bframes", "B-Frames",
        "Refused above 0, as B-frames delay video: number of them between I and P";
    bitrate: u32 = 0, 0..=2_048_000, Role::Live, "bitrate", "Bitrate",
        "For a constant bit rate as from x264enc, where quantizers need not be exact: its kbit/s, with regions as \
         quantizer differences; 0 = not used";
    byte_stream: bool = false, (), Role::Own, "byte-stream", "Byte Stream",
        "Write NAL units as a byte stream where downstream takes the format avc too";
    cabac: bool = true, (), Role::Option("cabac"), "cabac", "Use CABAC",
        "Unset, speed-preset and the profile decide (medium: on): entropy coding by CABAC instead of CAVLC";
    dct8x8: bool = true, (), Role::Option("8x8dct"), "dct8x8", "DCT8x8",
        "Unset, speed-preset and the profile decide (medium: on): transforms of 8x8 beside those of 4x4";
    frame_packing: FramePacking = FramePacking::Auto, (), Role::Own, "frame-packing", "Frame packing",
        "How both views of stereoscopic video lie in a frame; auto = as the caps say";
    insert_vui: bool = true, (), Role::Own, "insert-vui", "Insert VUI",
        "Describe the colours of the video in the stream (VUI)";
    interlaced: bool = false, (), Role::Option("interlaced"), "interlaced", "Interlaced",
        "Code the video as interlaced even where the caps do not say so";
    intra_refresh: bool = false, (), Role::Option("intra-refresh"), "intra-refresh", "Intra Refresh",
        "Refresh the picture by a moving column instead of IDR frames; a forced key unit is an IDR frame all the same";
    ip_factor: f32 = IP_FACTOR, 0.0..=2.0, Role::Option("ip-factor"), "ip-factor", "IP-Factor",
        "With bitrate or pass=qual: quantizer factor between I- and P-frames; in quantizer mode all but 1 and the \
         default are refused";
    key_int_max: u32 = 0, 0..=i32::MAX as u32, Role::Option("keyint"), "key-int-max", "Key-frame maximal interval",
        "Most frames from one key frame to the next; 0 = as many as come in 10 seconds";
    mb_tree: bool = false, (), Role::Option("mbtree"), "mb-tree", "Macroblock Tree",
        "Refused when on, as its look-ahead delays video: rate control by macroblock tree";
    me: Me = Me::Hex, (), Role::Option("me"), "me", "Motion Estimation",
        "Unset, speed-preset decides (medium: hex): search for motion in whole pixels";
    multipass_cache_file: String = MULTIPASS_CACHE_FILE.into(), (), Role::Own, "multipass-cache-file", "Multipass Cache File",
        "Refused unless empty or left alone, as live video comes once: file for coding in several passes";
    noise_reduction: u32 = 0, 0..=100_000, Role::Option("nr"), "noise-reduction", "Noise Reduction",
        "Strength of noise reduction; 0 = none";
    option_string: String = String::new(), (), Role::Own, "option-string", "Option string",
        "Options of libx264, \"key1=value1:key2=value2\", below properties; those that are unknown, delay or work \
         against regions are refused";
    pass: Pass = Pass::Auto, (), Role::Own, "pass", "Encoding pass/type",
        "Rate control; auto = cbr where bitrate is set, else quant where quantizer is set, else exact quantizers by \
         background-qp and region-qp";
    pb_factor: f32 = 1.3, 0.0..=2.0, Role::Option("pb-factor"), "pb-factor", "PB-Factor",
        "No effect, as there are no B-frames: quantizer factor between P- and B-frames";
    psy_tune: PsyTune = PsyTune::None, (), Role::Own, "psy-tune", "Psychovisual tuning preset",
        "Psychovisual tuning of libx264";
    qp_max: u32 = 63, 0..=63, Role::Option("qpmax"), "qp-max", "Maximum Quantizer",
        "Maximum quantizer, of the background too; 63 = no limit";
    qp_min: u32 = 0, 0..=63, Role::Option("qpmin"), "qp-min", "Minimum Quantizer",
        "Minimum quantizer, of regions too; 0 = no limit";
    qp_step: u32 = 4, 0..=63, Role::Option("qpstep"), "qp-step", "Maximum Quantizer Difference",
        "With bitrate or pass=qual: most that the quantizer may change from one frame to the next";
    quantizer: u32 = QUANTIZER, 0..=50, Role::Live, "quantizer", "Constant Quantizer",
        "Quantizer of pass=quant or quality of pass=qual, else not used; set without pass and bitrate it means \
         pass=quant";
    rc_lookahead: i32 = 0, 0..=250, Role::Option("rc-lookahead"), "rc-lookahead", "Rate Control Lookahead",
        "Refused above 0, as look-ahead delays video: frames of it for rate control";
    references: u32 = 3, 1..=16, Role::Option("ref"), "ref", "Reference Frames",
        "Unset, speed-preset decides (medium: 3): number of reference frames";
    sliced_threads: bool = true, (), Role::Option("sliced-threads"), "sliced-threads", "Sliced Threads",
        "Threads code slices of one picture; off is refused unless threads=1, because threads of one frame each \
         delay video";
    speed_preset: SpeedPreset = SpeedPreset::Medium, (), Role::Own, "speed-preset", "Speed/quality preset",
        "Speed of coding against the bits it takes; properties set by hand override it";
    sps_id: u32 = 0, 0..=31, Role::Option("sps-id"), "sps-id", "SPS ID",
        "ID of the parameter sets, SPS and PPS";
    subme: u32 = 7, 1..=10, Role::Option("subme"), "subme", "Subpixel Motion Estimation",
        "Unset, speed-preset decides (medium: 7): effort for motion in parts of pixels, 1 to 10, of which 10 is \
         refused in quantizer mode";
    sync_lookahead: i32 = 0, -1..=250, Role::Option("sync-lookahead"), "sync-lookahead", "Sync Lookahead",
        "Refused above 0, as look-ahead delays video: frames of it for its thread, -1 = automatic";
    threads: u32 = 0, 0..=i32::MAX as u32, Role::Option("threads"), "threads", "Threads",
        "Number of threads, each of which codes a slice; 0 = automatic";
    trellis: bool = true, (), Role::Option("trellis"), "trellis", "Trellis quantization",
        "Unset, speed-preset decides (medium: on): quantization by trellis search";
    tune: Tune = Tune::ZEROLATENCY, (), Role::Own, "tune", "Content tuning",
        "Tuning of libx264 that is not psychovisual; without zerolatency all that delays is refused";
    vbv_buf_capacity: u32 = 600, 0..=10_000, Role::Live, "vbv-buf-capacity", "VBV buffer capacity",
        "With bitrate: size of the VBV buffer in milliseconds of that rate";
    weightb: bool = false, (), Role::Option("weightb"), "weightb", "Weighted B-Frames",
        "No effect, as there are no B-frames: predict them by weights";
}
