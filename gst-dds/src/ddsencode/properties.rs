// SPDX-License-Identifier: MPL-2.0

//! The table of properties: what gst-inspect shows, and which libx264 option each one of `x264enc` stands for.

#![forbid(unsafe_code)]

use std::sync::LazyLock;

use glib::prelude::*;
use gst::prelude::*;

use super::settings::default;
use crate::encoder::Backend;

/// What decides the bit rate; values and nicks of `x264enc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodePass")]
#[repr(i32)]
pub enum Pass {
    /// Bit rate.
    #[enum_value(
        name = "Constant Bitrate Encoding (quantizer mode where no bitrate is set)",
        nick = "cbr"
    )]
    Cbr = 0,
    /// One quantizer.
    #[enum_value(name = "Constant Quantizer", nick = "quant")]
    Quant = 4,
    /// Constant quality.
    #[enum_value(name = "Constant Quality", nick = "qual")]
    Qual = 5,
    /// First of several passes; refused.
    #[enum_value(name = "VBR Encoding - Pass 1 (refused: needs the whole video)", nick = "pass1")]
    Pass1 = 17,
    /// Second pass; refused.
    #[enum_value(name = "VBR Encoding - Pass 2 (refused: needs the whole video)", nick = "pass2")]
    Pass2 = 18,
    /// Third pass; refused.
    #[enum_value(name = "VBR Encoding - Pass 3 (refused: needs the whole video)", nick = "pass3")]
    Pass3 = 19,
}

/// Speed against efficiency; values and nicks of `x264enc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodePreset")]
#[repr(i32)]
pub enum SpeedPreset {
    /// No preset.
    #[enum_value(name = "No preset", nick = "None")]
    None = 0,
    /// Fastest.
    #[enum_value(name = "ultrafast", nick = "ultrafast")]
    Ultrafast = 1,
    /// Very fast indeed.
    #[enum_value(name = "superfast", nick = "superfast")]
    Superfast = 2,
    /// Very fast.
    #[enum_value(name = "veryfast", nick = "veryfast")]
    Veryfast = 3,
    /// Faster.
    #[enum_value(name = "faster", nick = "faster")]
    Faster = 4,
    /// Fast.
    #[enum_value(name = "fast", nick = "fast")]
    Fast = 5,
    /// libx264's default.
    #[enum_value(name = "medium", nick = "medium")]
    Medium = 6,
    /// Slow.
    #[enum_value(name = "slow", nick = "slow")]
    Slow = 7,
    /// Slower.
    #[enum_value(name = "slower", nick = "slower")]
    Slower = 8,
    /// Very slow.
    #[enum_value(name = "veryslow", nick = "veryslow")]
    Veryslow = 9,
    /// Slowest.
    #[enum_value(name = "placebo", nick = "placebo")]
    Placebo = 10,
}

/// Psychovisual tuning; values and nicks of `x264enc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodePsyTune")]
#[repr(i32)]
pub enum PsyTune {
    /// None.
    #[enum_value(name = "No tuning", nick = "none")]
    None = 0,
    /// Film.
    #[enum_value(name = "Film", nick = "film")]
    Film = 1,
    /// Animation.
    #[enum_value(name = "Animation", nick = "animation")]
    Animation = 2,
    /// Grain.
    #[enum_value(name = "Grain", nick = "grain")]
    Grain = 3,
    /// Signal to noise.
    #[enum_value(name = "PSNR", nick = "psnr")]
    Psnr = 4,
    /// Structural similarity.
    #[enum_value(name = "SSIM", nick = "ssim")]
    Ssim = 5,
}

/// Integer motion search; values and nicks of `x264enc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodeMe")]
#[repr(i32)]
pub enum Me {
    /// Diamond.
    #[enum_value(name = "dia", nick = "dia")]
    Dia = 0,
    /// Hexagon.
    #[enum_value(name = "hex", nick = "hex")]
    Hex = 1,
    /// Uneven multi-hexagon.
    #[enum_value(name = "umh", nick = "umh")]
    Umh = 2,
    /// Exhaustive.
    #[enum_value(name = "esa", nick = "esa")]
    Esa = 3,
    /// Exhaustive, transformed.
    #[enum_value(name = "tesa", nick = "tesa")]
    Tesa = 4,
}

/// Stereoscopic frame packing; values and nicks of `x264enc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodeFramePacking")]
#[repr(i32)]
pub enum FramePacking {
    /// As the video caps say.
    #[enum_value(name = "Automatic (use incoming video information)", nick = "auto")]
    Auto = -1,
    /// Checkerboard.
    #[enum_value(
        name = "checkerboard - Left and Right pixels alternate in a checkerboard pattern",
        nick = "checkerboard"
    )]
    Checkerboard = 0,
    /// Columns.
    #[enum_value(
        name = "column interleaved - Alternating pixel columns represent Left and Right views",
        nick = "column-interleaved"
    )]
    ColumnInterleaved = 1,
    /// Rows.
    #[enum_value(
        name = "row interleaved - Alternating pixel rows represent Left and Right views",
        nick = "row-interleaved"
    )]
    RowInterleaved = 2,
    /// Side by side.
    #[enum_value(
        name = "side by side - The left half of the frame contains the Left eye view, the right half the Right eye view",
        nick = "side-by-side"
    )]
    SideBySide = 3,
    /// One above the other.
    #[enum_value(name = "top bottom - L is on top, R on bottom", nick = "top-bottom")]
    TopBottom = 4,
    /// Frame by frame.
    #[enum_value(
        name = "frame interleaved - Each frame contains either Left or Right view alternately",
        nick = "frame-interleaved"
    )]
    FrameInterleaved = 5,
}

/// How often a frame is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodeMode")]
#[repr(i32)]
pub enum Passes {
    /// Feedback steers the frames to come.
    #[enum_value(name = "One stream, whose coming frames have finer regions", nick = "one-pass")]
    One = 0,
    /// Feedback asks for the regions of frames captured before.
    #[enum_value(
        name = "Two streams: whole frames, and on the pad refine the regions that the server asks for",
        nick = "two-pass"
    )]
    Two = 1,
}

/// What codes the video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodeEncoder")]
#[repr(i32)]
pub enum Encoder {
    /// The first that works here.
    #[enum_value(
        name = "The first one that takes the video and downstream's format on this machine; a message tells which",
        nick = "auto"
    )]
    Auto = 0,
    /// libx264.
    #[enum_value(name = "libx264, H.264", nick = "x264")]
    X264 = 1,
    /// libx265.
    #[enum_value(name = "libx265, H.265", nick = "x265")]
    X265 = 2,
    /// NVENC.
    #[enum_value(
        name = "NVIDIA's encoder, H.264 or H.265; it alone reads CUDA memory",
        nick = "nvenc"
    )]
    Nvenc = 3,
}

impl Encoder {
    /// What codes where nothing is set.
    pub const DEFAULT: Self = if cfg!(feature = "x264") {
        Self::X264
    } else if cfg!(feature = "x265") {
        Self::X265
    } else {
        Self::Nvenc
    };

    /// The libraries to try, in order.
    pub(super) fn backends(self) -> &'static [Backend] {
        match self {
            Self::Auto => &Backend::ALL,
            Self::X264 => &[Backend::X264],
            Self::X265 => &[Backend::X265],
            Self::Nvenc => &[Backend::Nvenc],
        }
    }
}

/// What the refinement stream shows outside its regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodeRefineCanvas")]
#[repr(i32)]
pub enum RefineCanvas {
    /// Black.
    #[enum_value(name = "Black", nick = "black")]
    Black = 0,
    /// Whatever was there last, up to the next IDR picture.
    #[enum_value(name = "What was painted there before, up to the next IDR picture", nick = "hold")]
    Hold = 1,
}

pub use flags::{Analyse, FeedbackWays, Tune};

#[allow(missing_docs, reason = "the macro drops doc comments")]
mod flags {
    /// Other tunings; values and nicks of `x264enc`.
    #[glib::flags(name = "GstDdsEncodeTune")]
    pub enum Tune {
        /// Still image.
        #[flags_value(name = "Still image", nick = "stillimage")]
        STILLIMAGE = 0b001,
        /// Fast decode.
        #[flags_value(name = "Fast decode", nick = "fastdecode")]
        FASTDECODE = 0b010,
        /// Zero latency.
        #[flags_value(name = "Zero latency", nick = "zerolatency")]
        ZEROLATENCY = 0b100,
    }

    /// Ways that feedback may come by.
    #[glib::flags(name = "GstDdsEncodeFeedbackWays")]
    pub enum FeedbackWays {
        /// All but, where `feedback-uri` has a key, RTCP that nothing vouches for.
        #[flags_value(name = "All, but with a key at feedback-uri no RTCP in the clear", nick = "auto")]
        AUTO = 0b00_0001,
        /// Request pad `feedback`.
        #[flags_value(name = "Request pad feedback", nick = "pad")]
        PAD = 0b00_0010,
        /// RTCP, encrypted or not.
        #[flags_value(name = "RTCP, encrypted or not", nick = "rtcp")]
        RTCP = 0b00_0100,
        /// RTCP that came through SRTP.
        #[flags_value(name = "RTCP that came through SRTP", nick = "srtcp")]
        SRTCP = 0b00_1000,
        /// Upstream events.
        #[flags_value(name = "Upstream events of a server in the same process", nick = "event")]
        EVENT = 0b01_0000,
        /// Channel of `feedback-uri`.
        #[flags_value(name = "Channel of feedback-uri", nick = "uri")]
        URI = 0b10_0000,
    }

    /// Partitions to try; values and nicks of `x264enc`.
    #[glib::flags(name = "GstDdsEncodeAnalyse")]
    pub enum Analyse {
        /// 4x4 intra.
        #[flags_value(name = "i4x4", nick = "i4x4")]
        I4X4 = 0x1,
        /// 8x8 intra.
        #[flags_value(name = "i8x8", nick = "i8x8")]
        I8X8 = 0x2,
        /// 8x8 predicted.
        #[flags_value(name = "p8x8", nick = "p8x8")]
        P8X8 = 0x10,
        /// 4x4 predicted.
        #[flags_value(name = "p4x4", nick = "p4x4")]
        P4X4 = 0x20,
        /// 8x8 bidirectional.
        #[flags_value(name = "b8x8", nick = "b8x8")]
        B8X8 = 0x100,
    }
}

/// One property of `x264enc` that is an option of libx264 and nothing more.
pub(super) struct Passed {
    /// Property name.
    pub name: &'static str,
    /// Name for libx264's option parser.
    pub option: &'static str,
}

const fn passed(name: &'static str, option: &'static str) -> Passed {
    Passed { name, option }
}

/// Properties handed to libx264 where the user set them. Where not, `speed-preset` and `tune` decide.
pub(super) const PASSED: &[Passed] = &[
    passed("aud", "aud"),
    passed("analyse", "partitions"),
    passed("b-adapt", "b-adapt"),
    passed("b-pyramid", "b-pyramid"),
    passed("bframes", "bframes"),
    passed("cabac", "cabac"),
    passed("dct8x8", "8x8dct"),
    passed("interlaced", "interlaced"),
    passed("intra-refresh", "intra-refresh"),
    passed("ip-factor", "ip-factor"),
    passed("key-int-max", "keyint"),
    passed("mb-tree", "mbtree"),
    passed("me", "me"),
    passed("noise-reduction", "nr"),
    passed("pb-factor", "pb-factor"),
    passed("qp-max", "qpmax"),
    passed("qp-min", "qpmin"),
    passed("qp-step", "qpstep"),
    passed("rc-lookahead", "rc-lookahead"),
    passed("ref", "ref"),
    passed("sliced-threads", "sliced-threads"),
    passed("sps-id", "sps-id"),
    passed("subme", "subme"),
    passed("sync-lookahead", "sync-lookahead"),
    passed("threads", "threads"),
    passed("trellis", "trellis"),
    passed("weightb", "weightb"),
];

fn uint(name: &str, nick: &str, blurb: &str, min: u32, max: u32) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(min)
        .maximum(max)
        .default_value(default::uint(name))
        .mutable_ready()
        .build()
}

fn live_uint(name: &str, nick: &str, blurb: &str, min: u32, max: u32) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(min)
        .maximum(max)
        .default_value(default::uint(name))
        .mutable_playing()
        .build()
}

fn int(name: &str, nick: &str, blurb: &str, min: i32, max: i32) -> glib::ParamSpec {
    glib::ParamSpecInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(min)
        .maximum(max)
        .default_value(0)
        .mutable_ready()
        .build()
}

fn boolean(name: &str, nick: &str, blurb: &str) -> glib::ParamSpec {
    glib::ParamSpecBoolean::builder(name)
        .nick(nick)
        .blurb(blurb)
        .default_value(default::boolean(name))
        .mutable_ready()
        .build()
}

fn float(name: &str, nick: &str, blurb: &str, value: f32) -> glib::ParamSpec {
    glib::ParamSpecFloat::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(0.0)
        .maximum(2.0)
        .default_value(value)
        .mutable_ready()
        .build()
}

fn string(name: &str, nick: &str, blurb: &str) -> glib::ParamSpec {
    glib::ParamSpecString::builder(name)
        .nick(nick)
        .blurb(blurb)
        .default_value(Some(""))
        .mutable_ready()
        .build()
}

/// All properties, our own first.
pub(super) static ALL: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
    let mut all = ours();
    all.extend(of_two_passes());
    all.extend(of_x264enc());
    all
});

fn of_two_passes() -> Vec<glib::ParamSpec> {
    vec![
        glib::ParamSpecEnum::builder_with_default("mode", Passes::One)
            .nick("Passes")
            .blurb(
                "one-pass: feedback makes regions of the coming frames finer. two-pass: src carries whole frames at \
                 background-qp, and the request pad refine the regions that feedback asks for, of the very frames it \
                 was found in, at region-qp",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("low-scale")
            .nick("Scale of the first pass")
            .blurb(
                "With mode=two-pass: size of the stream on src as a fraction of the captured picture's sides, rounded to \
                 even numbers. Range 0.25-1",
            )
            .minimum(0.25)
            .maximum(1.0)
            .default_value(default::LOW_SCALE)
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("low-scale-min")
            .nick("Least scale of the first pass")
            .blurb(
                "With mode=two-pass and a bandwidth: the controller may make the stream on src smaller than low-scale, in \
                 steps of 0.75, down to this. Each change begins a new stream. Range 0.25-1",
            )
            .minimum(0.25)
            .maximum(1.0)
            .default_value(default::LOW_SCALE)
            .mutable_ready()
            .build(),
        uint(
            "segment-length",
            "Segment length",
            "With mode=two-pass: frames per segment; both streams then begin each segment with an IDR frame. 0 = no \
             segments",
            0,
            31,
        ),
        uint(
            "ring-frames",
            "Ring frames",
            "With mode=two-pass: most raw frames kept for their refinement",
            1,
            10_000,
        ),
        glib::ParamSpecUInt64::builder("ring-bytes")
            .nick("Ring bytes")
            .blurb("With mode=two-pass: most bytes of raw frames kept for their refinement")
            .default_value(default::RING_BYTES)
            .mutable_ready()
            .build(),
        uint(
            "ring-age",
            "Ring age",
            "With mode=two-pass: milliseconds of video after which a raw frame is not kept for its refinement any more",
            0,
            600_000,
        ),
        glib::ParamSpecEnum::builder_with_default("refine-canvas", RefineCanvas::Hold)
            .nick("Refinement canvas")
            .blurb("With mode=two-pass: what the stream on refine shows outside its regions, where it means nothing; black as in the paper, hold costs fewer bits")
            .mutable_ready()
            .build(),
    ]
}

fn ours() -> Vec<glib::ParamSpec> {
    vec![
        glib::ParamSpecEnum::builder_with_default("encoder", Encoder::DEFAULT)
            .nick("Encoder")
            .blurb("Library that codes the video. Properties that it does not have are refused where they are set")
            .mutable_ready()
            .build(),
        live_uint(
            "background-qp",
            "Background quantizer",
            "Quantizer outside regions in quantizer mode (neither bitrate nor pass nor quantizer set); exact. In the \
             other modes only the difference region-qp - background-qp matters. Range 1-51, 51 is coarsest",
            1,
            51,
        ),
        live_uint(
            "region-qp",
            "Region quantizer",
            "Quantizer inside regions that name none of their own; exact in quantizer mode. Differences to \
             background-qp are rounded to even numbers, towards finer. Range 1-51",
            1,
            51,
        ),
        live_uint(
            "fallback-qp",
            "Fallback quantizer",
            "Uniform quantizer after the first frame until feedback comes, and after feedback-timeout of silence. \
             Quantizer mode only. Range 1-51",
            1,
            51,
        ),
        live_uint(
            "feedback-timeout",
            "Feedback timeout",
            "Milliseconds of video without usable feedback after which regions end, the whole picture is coded with \
             fallback-qp and the element message ddsencode-feedback-lost is posted. 0 = never",
            0,
            u32::MAX,
        ),
        live_uint(
            "max-bitrate",
            "Maximum bit rate",
            "Cap in kbit/s over any one second: quantizers stay as set until it bites, then regions shrink towards the \
             background first. 0 = no cap; set so, also none by default on what feedback adds (max-feedback-bitrate)",
            0,
            400_000,
        ),
        glib::ParamSpecInt::builder("max-feedback-bitrate")
            .nick("Maximum bit rate of feedback")
            .blurb(
                "Most kbit/s that regions of feedback may add to the video in any one second; their difference to \
                 background-qp shrinks to keep it, the background never. With mode=two-pass: most kbit/s of the stream on \
                 refine, beyond which requests are refused. -1 = 1 kbit/s for each macroblock at 30 frames per second, by \
                 the square root of the rate, 1000 at least (720p30: 3600), and none where max-bitrate is set (0 too), or \
                 bandwidth, bitrate, pass or quantizer. 0 = none. Regions of input buffers are no feedback",
            )
            .minimum(-1)
            .maximum(400_000)
            .default_value(default::MAX_FEEDBACK_BITRATE)
            .mutable_playing()
            .build(),
        live_uint(
            "bandwidth",
            "Bandwidth",
            "kbit/s to use, both streams together: the controller chooses background-qp, region-qp and fallback-qp, which \
             say only where it begins. 0 = off",
            0,
            400_000,
        ),
        live_uint(
            "bandwidth-min",
            "Least bandwidth",
            "Above 0, the losses that receivers report by RTCP say what is available, between so many kbit/s and \
             bandwidth. 0 = bandwidth is what is available",
            0,
            400_000,
        ),
        glib::ParamSpecDouble::builder("max-region-area")
            .nick("Maximum region area")
            .blurb(
                "Most of the picture that regions may make finer, as a fraction of its area; the least valuable regions \
                 are left out and counted. Range 0-1",
            )
            .minimum(0.0)
            .maximum(1.0)
            .default_value(default::MAX_REGION_AREA)
            .mutable_playing()
            .build(),
        string(
            "feedback-uri",
            "Feedback address",
            "Channel of its own for feedback, for video that goes through what drops RTCP: udp://HOST:PORT or tcp://HOST:PORT, \
             with ?mode=listener (default: HOST is the address to listen on) or ?mode=caller. What comes by other ways counts \
             as well, but with a key no feedback by RTCP in the clear (feedback-ways). Empty: none",
        ),
        glib::ParamSpecFlags::builder::<FeedbackWays>("feedback-ways")
            .nick("Feedback ways")
            .blurb(
                "Ways that feedback is taken by. auto: all, but where feedback-uri has a key no RTCP that neither SRTP nor a \
                 login vouches for; auto+rtcp takes that too. Key frame requests, receiver reports and regions on input \
                 buffers are none of these ways and always taken",
            )
            .default_value(FeedbackWays::AUTO)
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("feedback-key")
            .nick("Feedback key")
            .blurb(
                "Key that feedback-uri is sealed with, the same at both ends: at least 16 bytes that nobody can guess, as text \
                 or as hex: and digits. Needed unless the address is of this machine",
            )
            .write_only()
            .mutable_ready()
            .build(),
        string(
            "feedback-key-file",
            "Feedback key file",
            "File that holds feedback-key; a line end behind it does not count",
        ),
        boolean(
            "feedback-plain",
            "Feedback in the clear",
            "Do without a key at feedback-uri: whoever reaches the port can steer the camera, and whoever listens sees where \
             people are",
        ),
        uint(
            "stream-id",
            "Stream ID",
            "Stream ID in the frame identity, which feedback has to name. 0 = a new random one at every encoder start; \
             set it only to get the same bytes again",
            0,
            u32::MAX,
        ),
        glib::ParamSpecBoolean::builder("wall-clock")
            .nick("Wall clock")
            .blurb(
                "Write the capture time (wall clock, less the age of the frame on the pipeline clock) into the frame \
                 identity where no reference timestamp meta tells it. Off: 0 (unknown), and equal input gives equal \
                 bytes",
            )
            .default_value(true)
            .mutable_ready()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb(
                "Structure application/x-ddsencode-stats: counts of frames, bytes, feedback packets, regions, refinements \
                 and everything else that can silently not happen, and the delays of feedback and refinement",
            )
            .read_only()
            .build(),
    ]
}

fn of_x264enc() -> Vec<glib::ParamSpec> {
    vec![
        live_uint(
            "bitrate",
            "Bitrate",
            "Bitrate in kbit/sec, as in x264enc; regions are quantizer differences then. 0 = none: quantizer mode, see \
             background-qp (pass=cbr set, and this not: 2048)",
            0,
            2_048_000,
        ),
        live_uint(
            "vbv-buf-capacity",
            "VBV buffer capacity",
            "Size of the VBV buffer in milliseconds, with bitrate",
            0,
            10_000,
        ),
        glib::ParamSpecEnum::builder_with_default("pass", Pass::Cbr)
            .nick("Encoding pass/type")
            .blurb(
                "Encoding pass/type. quant: exactly quantizer, regions as differences. qual: libx264's constant quality. \
                 pass1-pass3 are refused: live video comes once",
            )
            .mutable_ready()
            .build(),
        live_uint(
            "quantizer",
            "Constant Quantizer",
            "Constant quantizer or quality to apply with pass=quant or pass=qual; set without pass or bitrate it means \
             pass=quant",
            0,
            50,
        ),
        glib::ParamSpecEnum::builder_with_default("speed-preset", SpeedPreset::Medium)
            .nick("Speed/quality preset")
            .blurb("Preset name for speed/quality tradeoff options; properties set by hand override it")
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("psy-tune", PsyTune::None)
            .nick("Psychovisual tuning preset")
            .blurb("Preset name for psychovisual tuning options")
            .mutable_ready()
            .build(),
        glib::ParamSpecFlags::builder("tune")
            .nick("Content tuning")
            .blurb("Preset name for non-psychovisual tuning options. Without zerolatency, every cause of delay is refused")
            .default_value(Tune::ZEROLATENCY)
            .mutable_ready()
            .build(),
        string(
            "option-string",
            "Option string",
            "String of x264 options (overridden by element properties) in the format \"key1=value1:key2=value2\". \
             Options unknown, or at odds with regions or zero latency, are refused by name",
        ),
        uint(
            "threads",
            "Threads",
            "Number of threads used by the codec (0 for automatic); each codes a slice",
            0,
            i32::MAX as u32,
        ),
        boolean(
            "sliced-threads",
            "Sliced Threads",
            "Low latency but lower efficiency threading; off only with threads=1, because frame threads delay",
        ),
        int(
            "sync-lookahead",
            "Sync Lookahead",
            "Number of buffer frames for threaded lookahead (-1 for automatic); more than 0 is refused: it delays",
            -1,
            250,
        ),
        glib::ParamSpecString::builder("multipass-cache-file")
            .nick("Multipass Cache File")
            .blurb("Filename for multipass cache file; refused: live video comes once")
            .default_value(Some(default::MULTIPASS_CACHE_FILE))
            .mutable_ready()
            .build(),
        boolean("byte-stream", "Byte Stream", "Generate byte stream format of NALU where downstream takes avc too"),
        boolean(
            "intra-refresh",
            "Intra Refresh",
            "Use Periodic Intra Refresh instead of IDR frames; a forced key unit is an IDR frame all the same",
        ),
        glib::ParamSpecEnum::builder_with_default("me", Me::Hex)
            .nick("Motion Estimation")
            .blurb("Integer pixel motion estimation method; unset: speed-preset decides")
            .mutable_ready()
            .build(),
        uint(
            "subme",
            "Subpixel Motion Estimation",
            "Subpixel motion estimation and partition decision quality: 1=fast, 10=best; unset: speed-preset \
             decides. 10 is refused in quantizer mode: it moves quantizers",
            1,
            10,
        ),
        glib::ParamSpecFlags::builder("analyse")
            .nick("Analyse")
            .blurb("Partitions to consider; unset: speed-preset decides")
            .default_value(Analyse::empty())
            .mutable_ready()
            .build(),
        boolean("dct8x8", "DCT8x8", "Adaptive spatial transform size; unset: speed-preset decides"),
        uint("ref", "Reference Frames", "Number of reference frames; unset: speed-preset decides", 1, 16),
        uint("bframes", "B-Frames", "Number of B-frames between I and P; more than 0 is refused: they delay", 0, 16),
        boolean("b-adapt", "B-Adapt", "Automatically decide how many B-frames to use; there are none"),
        boolean("b-pyramid", "B-Pyramid", "Keep some B-frames as references; there are none"),
        boolean("weightb", "Weighted B-Frames", "Weighted prediction for B-frames; there are none"),
        uint("sps-id", "SPS ID", "SPS and PPS ID number", 0, 31),
        boolean("aud", "AUD", "Use AU (Access Unit) delimiter"),
        boolean("trellis", "Trellis quantization", "Enable trellis searched quantization; unset: speed-preset decides"),
        uint(
            "key-int-max",
            "Key-frame maximal interval",
            "Maximal distance between two key-frames in frames (0 for automatic: 10 seconds)",
            0,
            i32::MAX as u32,
        ),
        boolean("cabac", "Use CABAC", "Enable CABAC entropy coding; unset: speed-preset decides"),
        uint("qp-min", "Minimum Quantizer", "Minimum quantizer, of regions too; unset: 0", 0, 63),
        uint("qp-max", "Maximum Quantizer", "Maximum quantizer, of the background too; unset: no limit", 0, 63),
        uint(
            "qp-step",
            "Maximum Quantizer Difference",
            "Maximum quantizer difference between frames, with bitrate",
            0,
            63,
        ),
        float(
            "ip-factor",
            "IP-Factor",
            "Quantizer factor between I- and P-frames, with bitrate or pass=qual; other than 1 (or the default) is \
             refused in quantizer mode",
            default::IP_FACTOR,
        ),
        float("pb-factor", "PB-Factor", "Quantizer factor between P- and B-frames; there are none", default::PB_FACTOR),
        boolean(
            "mb-tree",
            "Macroblock Tree",
            "Macroblock-Tree ratecontrol; on is refused: it needs look-ahead, which delays",
        ),
        int(
            "rc-lookahead",
            "Rate Control Lookahead",
            "Number of frames for frametype lookahead; more than 0 is refused: they delay",
            0,
            250,
        ),
        uint("noise-reduction", "Noise Reduction", "Noise reduction strength", 0, 100_000),
        boolean("interlaced", "Interlaced", "Interlaced material; also where the caps do not say so"),
        glib::ParamSpecEnum::builder_with_default("frame-packing", FramePacking::Auto)
            .nick("Frame packing")
            .blurb("Set frame packing mode for Stereoscopic content")
            .mutable_ready()
            .build(),
        boolean("insert-vui", "Insert VUI", "Insert VUI NAL in stream: the colour description"),
    ]
}
