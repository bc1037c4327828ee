// SPDX-License-Identifier: MPL-2.0

//! Inputs and outputs of the camera core.

use dds_protocol::extension::InForce;
use dds_protocol::feedback::Rect;
use dds_protocol::serial::Serial16;

use crate::vbv::Vbv;

/// Edge of a macroblock in pixels.
pub const MACROBLOCK: u32 = 16;
/// Smallest quantizer that is ever requested: 0 is lossless coding in some profiles.
pub const MIN_QP: u8 = 1;
/// Largest H.264 quantizer of 8-bit video.
pub const MAX_QP: u8 = 51;

/// Size of the coded picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl Geometry {
    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Macroblocks per row: width over 16, rounded up.
    pub fn mb_width(&self) -> usize {
        self.width.div_ceil(MACROBLOCK) as usize
    }

    /// Macroblock rows: height over 16, rounded up.
    pub fn mb_height(&self) -> usize {
        self.height.div_ceil(MACROBLOCK) as usize
    }

    /// Macroblocks of the picture: the length of [`FramePlan::offsets`].
    pub fn macroblocks(&self) -> usize {
        self.mb_width() * self.mb_height()
    }
}

/// Most kbit/s (1000 bits) that regions of feedback may add to the video in any one second. Their difference to the
/// base quantizer shrinks to keep it; the base, and regions of the video itself, stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedbackBound {
    /// No bound.
    None,
    /// Derived from size and rate of the video: see [`Self::kbps`].
    Derived,
    /// In kbit/s.
    Kbps(u32),
}

/// kbit/s that regions of feedback may add to a macroblock of video of 30 frames per second.
const DERIVED_KBPS: f64 = 1.0;
/// Least derived bound, in kbit/s: on small pictures a few macroblocks decide.
const DERIVED_MIN_KBPS: f64 = 1000.0;

impl FeedbackBound {
    /// The bound in kbit/s; 0 = none. The derived one is 1 kbit/s for each macroblock at 30 frames per second, and
    /// follows the square root of the rate, because pictures further apart differ more: 3600 kbit/s for 720p30, 8160
    /// for 1080p30, 1000 at least. On nine videos whose server requests what is undecided, the worst second took 0.1 to
    /// 0.8 of it, background included.
    pub fn kbps(self, geometry: Geometry, frame_rate: f64) -> u32 {
        match self {
            Self::None => 0,
            Self::Kbps(kbps) => kbps,
            Self::Derived => {
                let kbps = DERIVED_KBPS * geometry.macroblocks() as f64 * (frame_rate / 30.0).max(0.0).sqrt();
                kbps.max(DERIVED_MIN_KBPS) as u32
            }
        }
    }
}

/// What servers may wish of the stream ([`dds_protocol::wish`]), and how far. It limits wishes, never what the user sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WishBounds {
    /// Whether anything may be wished: at least that captured pictures are left out.
    pub interval: bool,
    /// Whether quantizers may be wished. Not where something else chooses them.
    pub quantizers: bool,
    /// Whether a ceiling of the bit rate may be wished.
    pub ceiling: bool,
    /// Frames per second that no wish goes below; 0 = any.
    pub min_frame_rate: f64,
    /// Coarsest quantizer that a wish leads to, 1..=51.
    pub max_background_qp: u8,
    /// Frames per second that viewers without feedback need; 0 = there are none.
    pub viewer_frame_rate: f64,
}

impl WishBounds {
    /// Nothing may be wished.
    pub const NOTHING: Self = Self {
        interval: false,
        quantizers: false,
        ceiling: false,
        min_frame_rate: 5.0,
        max_background_qp: 48,
        viewer_frame_rate: 0.0,
    };

    /// Everything may be wished, within the bounds that the element has by default.
    pub const ALL: Self = Self {
        interval: true,
        quantizers: true,
        ceiling: true,
        ..Self::NOTHING
    };
}

/// Settings of the user. All of them may change between two frames
/// ([`StreamPlanner::set_settings`](super::StreamPlanner::set_settings)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CameraSettings {
    /// Quantizer outside regions, 1..=51.
    pub background_qp: u8,
    /// Quantizer inside regions that do not name their own, 1..=51.
    pub region_qp: u8,
    /// Uniform quantizer while no server steers, 1..=51.
    pub fallback_qp: u8,
    /// Silence after which the server counts as lost, in nanoseconds; 0 = never.
    pub feedback_timeout_ns: u64,
    /// Most of the picture that regions may refine, as a fraction 0.0..=1.0.
    pub max_region_area: f64,
    /// Most kbit/s (1000 bits) in any one second; 0 = no cap.
    pub max_bitrate_kbps: u32,
    /// Bound on what regions of feedback add.
    pub feedback: FeedbackBound,
    /// Bandwidth of both passes, or of the regions and the rest of one; `None`: whatever the quantizers take.
    pub bandwidth: Option<Bandwidth>,
    /// Lowest and highest quantizer that may be chosen for a bandwidth, 1..=51.
    pub qp_limits: (u8, u8),
    /// What servers may wish.
    pub wishes: WishBounds,
    /// Nominal frames per second; 0 where unknown (30 is assumed). Bounds how much feedback is parsed.
    pub frame_rate: f64,
    /// Whether feedback is acted on at all. Where it is not (an encoder mode without offsets), packets are counted as
    /// refused and every plan is uniform at `background_qp`.
    pub steered: bool,
}

impl Default for CameraSettings {
    fn default() -> Self {
        Self {
            background_qp: 36,
            region_qp: 26,
            fallback_qp: 30,
            feedback_timeout_ns: 2_000_000_000,
            max_region_area: 0.35,
            max_bitrate_kbps: 0,
            feedback: FeedbackBound::None,
            bandwidth: None,
            qp_limits: (MIN_QP, MAX_QP),
            wishes: WishBounds::NOTHING,
            frame_rate: 30.0,
            steered: true,
        }
    }
}

impl CameraSettings {
    /// The settings with every value clamped to its range; a rate or area that is not a number becomes the default.
    pub(super) fn clamped(mut self) -> Self {
        self.background_qp = self.background_qp.clamp(MIN_QP, MAX_QP);
        self.region_qp = self.region_qp.clamp(MIN_QP, MAX_QP);
        self.fallback_qp = self.fallback_qp.clamp(MIN_QP, MAX_QP);
        let default = Self::default();
        self.max_region_area = if self.max_region_area.is_nan() {
            default.max_region_area
        } else {
            self.max_region_area.clamp(0.0, 1.0)
        };
        self.frame_rate = if self.frame_rate.is_finite() && self.frame_rate > 0.0 {
            self.frame_rate.clamp(0.01, 1000.0)
        } else {
            default.frame_rate
        };
        self
    }
}

/// A bandwidth to keep, in kbit/s (1000 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Most that may be used.
    pub max_kbps: u32,
    /// Least bandwidth after losses; 0, or a value not below the most, makes the bandwidth fixed.
    pub min_kbps: u32,
}

/// A region requested by an input buffer (`GstVideoRegionOfInterestMeta` with a `roi/ddsencode` structure). Applies to
/// that frame alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoiRequest {
    /// The rectangle, in pixels of the coded picture. What lies outside is cut off and counted.
    pub rect: Rect,
    /// Difference to the frame's base quantizer: negative is finer. Positive is coarser and counts only where no other
    /// region lies. Odd values are rounded towards finer.
    pub delta_qp: i32,
}

/// Reason for the base quantizer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameMode {
    /// First frame of a stream: background quality, because a first picture at better quality costs more than it
    /// improves.
    First,
    /// No server, or it is silent: uniform at `fallback-qp`.
    Fallback,
    /// A server steers: `background-qp`, regions finer.
    Steered,
    /// Steering is switched off ([`CameraSettings::steered`]).
    Unsteered,
}

/// A feedback state that begins to act with this frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its generation.
    pub generation: Serial16,
    /// The frame it derives from.
    pub frame: u64,
    /// Regions it carries.
    pub regions: usize,
    /// Time from coding that frame to now, in nanoseconds; `None` where that frame is too long ago to be remembered.
    pub delay_ns: Option<u64>,
}

/// A notice for the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The first feedback of this stream arrived in time: no message is needed.
    FeedbackStarted,
    /// No feedback for `feedback-timeout`: this frame falls back. Once per silence.
    FeedbackLost {
        /// Time without usable feedback, in nanoseconds.
        silence_ns: u64,
        /// No feedback has come on this stream yet.
        never: bool,
    },
    /// Feedback has recovered after a [`Notice::FeedbackLost`].
    FeedbackRecovered {
        /// Time without feedback, in nanoseconds.
        silence_ns: u64,
    },
}

/// A captured picture, before it is planned.
#[derive(Clone, Copy, Debug)]
pub struct Capture<'a> {
    /// Time in nanoseconds.
    pub now: u64,
    /// Number of the captured picture since encoder start: rising, gaps allowed.
    pub frame: u64,
    /// It would be output too late to be useful.
    pub late: bool,
    /// A key frame is requested.
    pub key_frame: bool,
    /// A receiver has lost a picture and waits for a key frame.
    pub damaged: bool,
    /// The picture changes outside what servers know of.
    pub changes: bool,
    /// Bytes of the second pass so far.
    pub refined_bytes: u64,
    /// Regions of the picture itself.
    pub rois: &'a [RoiRequest],
}

/// Decision about a captured picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan<'a> {
    /// Code it so.
    Code(FramePlan<'a>),
    /// Do not code it.
    Skip(Skip),
    /// The encoder has another size than pictures are to be coded in: open one for the size at this index in
    /// [`StreamConfig::scales`](super::StreamConfig::scales), begin a new stream
    /// ([`StreamPlanner::restart`](super::StreamPlanner::restart)), and plan the picture again.
    Reopen {
        /// Index of the size.
        scale: usize,
    },
}

/// Why a picture is not coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It is late ([`Capture::late`]).
    Late,
    /// Servers want fewer pictures.
    Asked,
}

/// Distance of pictures in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// In nanoseconds.
    pub ns: f64,
    /// The same as a factor of what the encoder assumes: exactly 1 where that is right.
    pub scale: f64,
    /// Whether it is measured rather than assumed.
    pub measured: bool,
}

/// Parameters to code one frame with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FramePlan<'a> {
    /// Quantizer of everything without an offset, 1..=51.
    pub base_qp: u8,
    /// Offset to `base_qp` per macroblock in raster order ([`Geometry::macroblocks`] of them): 0, or even with a
    /// magnitude of at least 2, the sum within 1..=51. `None`: uniform.
    pub offsets: Option<&'a [i8]>,
    /// VBV to set in the encoder before this frame; `None`: as it was. An encoder is opened with
    /// [`Vbv::OPEN`].
    pub vbv: Option<Vbv>,
    /// Size of the coded picture.
    pub size: Geometry,
    /// Distance of coded pictures in time.
    pub interval: Interval,
    /// The time of the frame in nanoseconds, which never falls but for a seek.
    pub now: u64,
    /// The settings in force: those of the user, with the quantizers chosen for a bandwidth.
    pub settings: &'a CameraSettings,
    /// It has to be an IDR picture.
    pub key_frame: bool,
    /// Place in its segment, where there are segments.
    pub segment: Option<SegmentPlace>,
    /// The feedback that begins to act with this frame.
    pub applied: Option<Applied>,
    /// Notice for the application.
    pub notice: Option<Notice>,
    /// Reason for the base quantizer.
    pub mode: FrameMode,
    /// What is in force, where servers may wish.
    pub in_force: Option<InForce>,
    /// It is coded only because it changes ([`Capture::changes`]).
    pub woken: bool,
    /// What is in force is to be told with this frame; with an IDR picture it is in any case.
    pub tells: bool,
}

/// Position of a frame in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentPlace {
    /// Number of the segment since the stream began.
    pub index: u64,
    /// Position of the frame in it, from 0.
    pub position: u8,
    /// Frames of a segment, 1..=31.
    pub length: u8,
}
