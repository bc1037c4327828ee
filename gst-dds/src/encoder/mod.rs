// SPDX-License-Identifier: MPL-2.0

//! The interface that `ddsencode` needs of an encoder, and the libraries that implement it.
//!
//! # Putting another library behind [`RegionEncoder`]
//!
//! An implementation must provide the following, and [`RegionEncoder::open`] must refuse to start without it:
//!
//! 1. **No delay.** [`RegionEncoder::encode`] returns the access unit of the very picture it was given: no B-frames,
//!    no look-ahead, no frame threads. Feedback is older by every frame of delay. A library that keeps the picture is an
//!    [`EncodeError::Delayed`].
//! 2. **Quantizers per macroblock** of 16 by 16 pixels, also where the standard's blocks have other sizes: a larger block
//!    takes the finest of its macroblocks. In [`RateControl::Quantizers`] a coded block has exactly
//!    [`FrameControls::base_qp`] plus its offset, in every picture type, as long as [`Vbv`] does not limit it. The base may
//!    change in every picture. Sums are kept within 1 to 51, and within the limits that `qp-min` and `qp-max` set. In the
//!    other modes the offsets are differences on top of the library's own rate control, and may be cut off at its
//!    limits. Where the library could ignore offsets silently (x264 in CQP, a hardware encoder without a QP map), that is an
//!    [`OpenError::Refused`].
//! 3. **Live changes.** [`RegionEncoder::reconfigure`] takes effect with the next picture, without an IDR picture and
//!    without a new sequence parameter set. A change that is not accepted is an error and leaves everything as it was:
//!    the element counts it and continues. It is called before nearly every picture while a cap is set, so it has to be
//!    cheap. The mode of [`RateControl`] stays as it was opened; other sizes and modes need other encoders. A library
//!    that cannot do this (libx265, except in [`RateControl::Quantizers`]) is opened anew: with an IDR picture, the
//!    same parameter sets, and once a second at most.
//! 4. **IDR on demand** by [`FrameControls::force_idr`], with parameter sets in the access unit where the stream is a
//!    byte-stream. The first picture is always an IDR picture, and so is each that [`RegionEncoder::key_int_max`]
//!    announces, counted from the last one: the caller plans with it.
//! 5. **Parameter sets** from [`RegionEncoder::parameter_sets`] before the first picture, the same as in the stream:
//!    profile and level in the caps are read from them.
//! 6. **No surprises in the stream**: NAL units come with their boundaries and without the library's version SEI, so
//!    that the caller can put its own SEI before the first slice; with start codes or lengths according to
//!    [`Config::byte_stream`], with lengths no parameter sets among them ([`find_nals`] and [`to_lengths`] help where a
//!    library knows start codes only). The VUI declares that no picture is reordered, or decoders wait for more.
//! 7. **Nothing ignored**: an option that the library does not have is an [`OpenError::Refused`] that names it in the
//!    user's words ([`Origin`]) and the cure. [`Config::options`] have libx264's names; an option with an equivalent is
//!    mapped, and one without meaning when there are no B-frames may pass. The same holds for [`Config::tune`],
//!    [`Config::profile`], [`Config::interlaced`] and [`Config::frame_packing`].
//! 8. **Determinism** where one thread is used: equal calls give equal bytes.
//! 9. **Any picture**: planes at any offset and stride, read within the call only; a plane that is too short is an
//!    [`EncodeError::ShortPlane`] and not a crash. An encoder on a GPU may read pictures that are there already
//!    ([`RegionEncoder::encode_gpu`]), and must accept others all the same.
//! 10. **Any thread, many times.** Opening happens on another thread than coding, twice per start (once for a dummy
//!     picture, so that bad settings are refused early), and in two passes a second encoder runs beside the first. All
//!     resources are released when the encoder is dropped, also when opening fails half-way. A library that is loaded
//!     at run time is searched for each time, and its absence is a refusal of `encoder` with its name.
//!
//! It is then added to [`Backend`], with the standards and formats it takes, and the tests of regions run on it:
//! `tests/common` makes elements of the encoder that `DDS_TEST_ENCODER` names, and the test
//! `all_of_this_holds_with_…_too` at the end of a file lists those for every encoder. Tests of one library alone have a
//! file of their own (`tests/nvenc_without_hardware.rs`).

mod backend;
mod level;
#[allow(dead_code, reason = "needed where an encoder leaves the level to us")]
mod level_h265;
mod nals;
// Only where NVIDIA has drivers, and its structures have the layout of the bindings.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod nvenc;
#[cfg_attr(
    not(any(feature = "x264", feature = "x265")),
    allow(dead_code, reason = "NVENC reads all options itself")
)]
mod options;
#[cfg_attr(not(feature = "x264"), allow(dead_code, reason = "NVENC is told no unknown rate"))]
mod sps;
#[cfg(feature = "x264")]
pub mod x264;
#[cfg(feature = "x265")]
pub mod x265;

use std::any::Any;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::vbv::Vbv;

pub use backend::{Backend, Sizes};
pub use dds_protocol::nal::{Codec, NalKind};
pub use level::smallest_level;
pub use nals::{find_nals, to_lengths};

/// Sample layouts of pictures. Bit depths above 8 are little endian in 16-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// 4:2:0, three planes Y U V.
    I420,
    /// 4:2:0, three planes Y V U.
    Yv12,
    /// 4:2:0, two planes Y UV.
    Nv12,
    /// 4:2:0, two planes Y VU.
    Nv21,
    /// 4:2:2, three planes.
    I422,
    /// 4:2:2, two planes Y UV.
    Nv16,
    /// 4:4:4, three planes.
    I444,
    /// Luma alone.
    Gray8,
    /// 4:2:0, three planes, 10 bits.
    I420P10,
    /// 4:2:2, three planes, 10 bits.
    I422P10,
    /// 4:4:4, three planes, 10 bits.
    I444P10,
}

impl PixelFormat {
    /// Bits per sample.
    pub fn bit_depth(self) -> u8 {
        match self {
            Self::I420P10 | Self::I422P10 | Self::I444P10 => 10,
            _ => 8,
        }
    }

    /// Planes of a picture.
    pub fn planes(self) -> usize {
        match self {
            Self::Gray8 => 1,
            Self::Nv12 | Self::Nv21 | Self::Nv16 => 2,
            _ => 3,
        }
    }

    /// Layout of plane `plane` relative to luma: binary logarithms of how many pixels share a sample across and down,
    /// and bytes per such group of pixels in a row.
    pub fn sampling(self, plane: usize) -> (u32, u32, usize) {
        let bytes = if self.bit_depth() > 8 { 2 } else { 1 };
        if plane == 0 {
            return (0, 0, bytes);
        }
        match self {
            Self::I420 | Self::Yv12 | Self::I420P10 => (1, 1, bytes),
            Self::Nv12 | Self::Nv21 => (1, 1, 2),
            Self::I422 | Self::I422P10 => (1, 0, bytes),
            Self::Nv16 => (1, 0, 2),
            Self::I444 | Self::I444P10 | Self::Gray8 => (0, 0, bytes),
        }
    }

    /// Bytes per row and rows of plane `plane` of a picture of `width` by `height` pixels: the minimum a plane must
    /// hold.
    pub fn plane_size(self, plane: usize, width: usize, height: usize) -> (usize, usize) {
        if plane >= self.planes() {
            return (0, 0);
        }
        let (across, down, bytes) = self.sampling(plane);
        (width.div_ceil(1 << across) * bytes, height.div_ceil(1 << down))
    }
}

/// One plane of a picture.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plane<'a> {
    /// Samples, at least `stride * (rows - 1) + row bytes` of them.
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// A borrowed picture of the opened size and format. The encoder reads it within the call only.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// [`PixelFormat::planes`] planes, the rest empty.
    pub planes: [Plane<'a>; 3],
    /// Number of the picture, rising by one.
    pub pts: i64,
}

/// A CUDA context that pictures are in, together with its owner, which keeps it alive.
#[derive(Clone)]
pub struct Gpu {
    context: usize,
    owner: Arc<dyn Any + Send + Sync>,
}

impl Gpu {
    /// # Safety
    /// `context` is a `CUcontext` that lives as long as `owner`.
    #[allow(unsafe_code)]
    pub unsafe fn new(context: *mut c_void, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            context: context as usize,
            owner,
        }
    }

    /// The `CUcontext`.
    pub fn context(&self) -> *mut c_void {
        self.context as *mut c_void
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({:#x}, {} owners)", self.context, Arc::strong_count(&self.owner))
    }
}

/// One plane of a picture in the memory of a GPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuPlane {
    /// Its address, a `CUdeviceptr`.
    pub address: u64,
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// A picture of the opened size and format in the memory of a GPU. The encoder reads it within the call only.
#[derive(Clone, Copy, Debug)]
pub struct GpuPicture<'a> {
    planes: [GpuPlane; 3],
    pts: i64,
    lent: PhantomData<&'a ()>,
}

impl<'a> GpuPicture<'a> {
    /// `pts` as in [`Picture::pts`].
    ///
    /// # Safety
    /// For as long as `'a`, the planes hold a picture of the format and size of the encoder that reads it, in memory of
    /// the context of its [`Config::gpu`], and nothing is still being written to them.
    #[allow(unsafe_code)]
    pub unsafe fn new(planes: [GpuPlane; 3], pts: i64) -> Self {
        Self {
            planes,
            pts,
            lent: PhantomData,
        }
    }

    /// [`PixelFormat::planes`] planes, the rest empty.
    pub fn planes(&self) -> &[GpuPlane; 3] {
        &self.planes
    }

    /// Number of the picture, rising by one.
    pub fn pts(&self) -> i64 {
        self.pts
    }
}

/// Parameters of one picture.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameControls<'a> {
    /// Quantizer of macroblocks without an offset, 1..=51. Used in [`RateControl::Quantizers`] only.
    pub base_qp: u8,
    /// Difference per macroblock in raster order, 0 or even; `None` = uniform. Shorter slices leave the rest at 0.
    pub offsets: Option<&'a [i8]>,
    /// Code an IDR picture.
    pub force_idr: bool,
}

/// Colour description, code points of ITU-T H.273; 2 = unspecified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    /// Colour primaries.
    pub primaries: u8,
    /// Transfer characteristics.
    pub transfer: u8,
    /// Matrix coefficients.
    pub matrix: u8,
    /// Samples use the full range.
    pub full_range: bool,
    /// `chroma_sample_loc_type`, 0..=5.
    pub chroma_location: u8,
}

/// Order of the fields of interlaced video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldOrder {
    /// Top field first.
    TopFirst,
    /// Bottom field first.
    BottomFirst,
}

/// How a picture of interlaced video is made of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Its fields are of different times. Otherwise it is a progressive picture in interlaced video.
    pub interlaced: bool,
    /// The field that is shown first.
    pub order: FieldOrder,
    /// That field is repeated after the other, as in telecined film.
    pub repeat_first: bool,
}

/// How the encoder chooses quantizers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RateControl {
    /// Exactly [`FrameControls::base_qp`] plus offsets.
    Quantizers {
        /// Quantizer to open with, 1..=51.
        base_qp: u8,
    },
    /// The library's constant-quality mode; offsets are differences.
    Quality {
        /// Quality (x264: rate factor), 0..=50.
        quality: u8,
    },
    /// Average bit rate; offsets are differences.
    Bitrate {
        /// Target in kbit/s.
        kbps: u32,
    },
}

/// A change to an open encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// New target in kbit/s, for [`RateControl::Bitrate`].
    pub kbps: Option<u32>,
    /// New quality, for [`RateControl::Quality`].
    pub quality: Option<u8>,
    /// New buffer.
    pub vbv: Vbv,
}

/// Origin of an option, for error messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The property of this name.
    Property(&'static str),
    /// The `option-string` property.
    OptionString,
}

/// One option in the library's own terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderOption {
    /// Its origin.
    pub origin: Origin,
    /// Name as the library's option parser knows it.
    pub key: String,
    /// Value; `None` = switch it on.
    pub value: Option<String>,
}

/// The configuration to open an encoder with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Standard to code by.
    pub codec: Codec,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Sample layout.
    pub format: PixelFormat,
    /// Frames per second as a fraction; `None` = variable. The caller scales [`Rates`] by the real distance of
    /// pictures: an encoder assumes [`Config::assumed_rate`].
    pub frame_rate: Option<(u32, u32)>,
    /// Most frames per second of a variable rate, where known.
    pub max_frame_rate: Option<(u32, u32)>,
    /// Captured pictures may be left out, so the stream must not declare that its frame rate is fixed.
    pub leaves_out: bool,
    /// Pictures are repeated ([`RegionEncoder::repeat`]). Refused where the encoder cannot.
    pub repeats: bool,
    /// Pixel aspect ratio.
    pub pixel_aspect_ratio: (u32, u32),
    /// Colour description to write into the stream.
    pub colour: Option<Colour>,
    /// Code as interlaced.
    pub interlaced: Option<FieldOrder>,
    /// Frame packing arrangement (H.264 D.2.26), 0..=7.
    pub frame_packing: Option<u8>,
    /// The library's speed preset.
    pub preset: Option<String>,
    /// The library's tunings.
    pub tune: Option<String>,
    /// Profile the stream must conform to, as named in caps.
    pub profile: Option<&'static str>,
    /// Intra pictures only.
    pub intra_only: bool,
    /// `level_idc` the stream must declare; `None` = the smallest that fits.
    pub level_idc: Option<u8>,
    /// Start codes and repeated parameter sets, else 4-byte lengths.
    pub byte_stream: bool,
    /// How quantizers are chosen.
    pub rate: RateControl,
    /// Buffer to open with.
    pub vbv: Vbv,
    /// Whether the VBV may be changed later. Otherwise a VBV that never limits a picture can be left out, which saves
    /// time.
    pub vbv_may_change: bool,
    /// Whether the caller marks macroblocks that are equal to those of the picture before; see the implementation.
    pub still_parts: bool,
    /// A cap the user set (kbit/s), for the level; 0 = none.
    pub nominal_kbps: u32,
    /// Where pictures are, if not in system memory. An encoder that cannot read them there ignores it.
    pub gpu: Option<Gpu>,
    /// Options in order of rising precedence.
    pub options: Vec<EncoderOption>,
}

/// Seconds between key frames where nothing is set, as in x264enc.
pub const KEY_INT_SECONDS: u32 = 10;
/// Frames per second assumed for rate control and declarations where the rate is unknown.
const NOMINAL_RATE: (u32, u32) = (30, 1);
const HIGHEST_RATE: (u32, u32) = (60, 1);

impl Config {
    /// Whether quantizers are exactly the requested ones.
    pub fn is_exact(&self) -> bool {
        matches!(self.rate, RateControl::Quantizers { .. })
    }

    /// Frames per second that rate control assumes.
    pub fn assumed_rate(&self) -> (u32, u32) {
        self.frame_rate.unwrap_or(NOMINAL_RATE)
    }

    /// Most frames per second, which the level has to allow.
    pub fn highest_rate(&self) -> (u32, u32) {
        self.frame_rate.or(self.max_frame_rate).unwrap_or(HIGHEST_RATE)
    }

    /// Most frames between key frames where nothing is set. Where the rate is variable the caller requests key frames
    /// by time.
    pub fn key_int_max(&self) -> u32 {
        let (numerator, denominator) = self.highest_rate();
        numerator.div_ceil(denominator.max(1)).saturating_mul(KEY_INT_SECONDS)
    }
}

/// Importance of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something deviates from the request.
    Warning,
    /// Once per run.
    Info,
    /// Details.
    Debug,
}

/// Receives the library's log lines; called from any thread.
pub type Log = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// Why an encoder does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The configuration contradicts what region coding needs.
    Refused {
        /// Property or option, by the user's name for it.
        option: String,
        /// The reason.
        reason: String,
        /// The cure.
        cure: String,
    },
    /// The library failed.
    Library(String),
}

impl OpenError {
    /// An encoder, or a setting, that cannot repeat pictures.
    #[cfg_attr(not(any(feature = "x264", feature = "x265")), allow(dead_code))]
    pub(crate) fn no_repeats(reason: &str) -> Self {
        Self::refused(
            "skipped-pictures=repeat",
            reason,
            "Set skipped-pictures=omit, or remove what is at odds with it",
        )
    }

    /// Shorthand for [`OpenError::Refused`].
    pub fn refused(option: impl Into<String>, reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::Refused {
            option: option.into(),
            reason: reason.into(),
            cure: cure.into(),
        }
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { option, reason, cure } => write!(f, "{option}: {reason}. {cure}."),
            Self::Library(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for OpenError {}

/// Why a picture was not coded, or a change not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// A plane is shorter than size, format and stride require.
    ShortPlane(usize),
    /// A plane of 10-bit video holds a sample that needs more bits.
    SampleOutOfRange(usize),
    /// The library kept the picture instead of coding it.
    Delayed,
    /// The library failed; with its own message where it has one.
    Library(String),
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ShortPlane(plane) => write!(f, "plane {plane} of the input picture is too short"),
            Self::SampleOutOfRange(plane) => {
                write!(f, "a sample in plane {plane} of the input needs more than 10 bits")
            }
            Self::Delayed => f.write_str("the encoder kept the picture instead of coding it"),
            Self::Library(what) => write!(f, "the encoder failed: {what}"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// Position of a NAL unit in [`AccessUnit::data`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nal {
    /// `nal_unit_type`.
    pub kind: u8,
    /// First byte of its start code or length.
    pub start: usize,
    /// First byte of the NAL unit itself (its header).
    pub body: usize,
    /// One past its last byte.
    pub end: usize,
}

/// A coded picture.
#[derive(Clone, Copy, Debug)]
pub struct AccessUnit<'a> {
    /// All NAL units with their start codes or lengths.
    pub data: &'a [u8],
    /// Their positions, in order.
    pub nals: &'a [Nal],
    /// An IDR picture: decoding may start here.
    pub idr: bool,
    /// A picture the library calls a key frame: IDR, or the start of a periodic intra refresh.
    pub keyframe: bool,
}

/// Sequence and picture parameter set, and in H.265 the video parameter set, without start codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParameterSets<'a> {
    /// Video parameter set; empty in H.264.
    pub vps: &'a [u8],
    /// Sequence parameter set.
    pub sps: &'a [u8],
    /// Picture parameter set.
    pub pps: &'a [u8],
}

/// An encoder steered per region. See the [module](self) for the duties of an implementation.
pub trait RegionEncoder: Send {
    /// Opens an encoder, or names what is refused.
    fn open(config: &Config, log: Log) -> Result<Self, OpenError>
    where
        Self: Sized;

    /// Name and version of the library, for tags.
    fn name(&self) -> &str;

    /// Number of the library's version, for tags.
    fn version(&self) -> Option<u32> {
        None
    }

    /// Standard of the stream.
    fn codec(&self) -> Codec;

    /// Parameter sets of the stream.
    fn parameter_sets(&self) -> ParameterSets<'_>;

    /// Most pictures from one key frame to the next.
    fn key_int_max(&self) -> u64;

    /// Delay in pictures between input and output: 0.
    fn delay(&self) -> usize;

    /// Codes one picture.
    fn encode(&mut self, picture: &Picture<'_>, controls: &FrameControls<'_>) -> Result<AccessUnit<'_>, EncodeError>;

    /// Codes a picture that shows the one before again, exactly, as a P picture of skipped macroblocks. `base_qp` is that of
    /// the picture before. Not called for the first picture, nor where [`Self::key_int_max`] announces a key frame.
    ///
    /// # Errors
    /// As [`Self::encode`]; always, where [`Config::repeats`] is not set.
    fn repeat(&mut self, _picture: &Picture<'_>, _base_qp: u8) -> Result<AccessUnit<'_>, EncodeError> {
        Err(EncodeError::Library("it repeats no pictures".into()))
    }

    /// Whether it was opened to read pictures in the memory of [`Config::gpu`]; it accepts those in system memory all
    /// the same.
    fn reads_gpu(&self) -> bool {
        false
    }

    /// Codes one picture of [`Config::gpu`].
    ///
    /// # Errors
    /// As [`Self::encode`]; always, where [`Self::reads_gpu`] is false.
    fn encode_gpu(
        &mut self,
        _picture: &GpuPicture<'_>,
        _controls: &FrameControls<'_>,
    ) -> Result<AccessUnit<'_>, EncodeError> {
        Err(EncodeError::Library("it reads system memory only".into()))
    }

    /// Sets how the next pictures are made of fields, where [`Config::interlaced`] is set. By default all are as
    /// declared there.
    ///
    /// # Errors
    /// The library does not accept it; nothing has changed then.
    fn set_fields(&mut self, _fields: Fields) -> Result<(), EncodeError> {
        Ok(())
    }

    /// Sets new rates, which apply from the next picture.
    fn reconfigure(&mut self, rates: &Rates) -> Result<(), EncodeError>;

    /// Flags of the macroblocks of the next picture, in raster order: a non-zero one marks a macroblock equal to that
    /// of the picture before, which may save examining it. They stay until they are changed. Empty without
    /// [`Config::still_parts`], or where the library takes no such hint.
    fn still(&mut self) -> &mut [u8] {
        &mut []
    }
}
