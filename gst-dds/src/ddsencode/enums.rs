// SPDX-License-Identifier: MPL-2.0

//! Enumerations and flags of the properties.

#![forbid(unsafe_code)]

use crate::encoder::Backend;

/// Rate control; values and nicks of `x264enc`, and one more for the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodePass")]
#[repr(i32)]
pub enum Pass {
    /// Determined by the other properties.
    #[enum_value(
        name = "cbr where bitrate is set, else quant where quantizer is set, else background-qp and region-qp",
        nick = "auto"
    )]
    Auto = -1,
    /// Bit rate.
    #[enum_value(name = "Constant Bitrate Encoding", nick = "cbr")]
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

/// Speed versus efficiency; values and nicks of `x264enc`.
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

/// What becomes of pictures that servers do not want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodeSkippedPictures")]
#[repr(i32)]
pub enum SkippedPictures {
    /// Nothing: the next picture has its own time.
    #[enum_value(name = "Not in the stream", nick = "omit")]
    Omit = 0,
    /// A picture of skipped macroblocks.
    #[enum_value(
        name = "A picture that repeats the one before, for recorders that count pictures",
        nick = "repeat"
    )]
    Repeat = 1,
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
    /// As in the video caps.
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

/// Number of passes per frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodeMode")]
#[repr(i32)]
pub enum Passes {
    /// Feedback steers the frames to come.
    #[enum_value(name = "One stream, whose coming frames have finer regions", nick = "one-pass")]
    One = 0,
    /// Feedback requests the regions of frames captured before.
    #[enum_value(
        name = "Two streams: whole frames, and on the pad refine the regions that the server asks for",
        nick = "two-pass"
    )]
    Two = 1,
}

/// Library that codes the video.
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
    /// Default of this build.
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

/// Contents of the refinement stream outside its regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstDdsEncodeRefineCanvas")]
#[repr(i32)]
pub enum RefineCanvas {
    /// Black.
    #[enum_value(name = "Black", nick = "black")]
    Black = 0,
    /// The previous contents, up to the next IDR picture.
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
        /// All, except unauthenticated RTCP where `feedback-uri` has a key.
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
