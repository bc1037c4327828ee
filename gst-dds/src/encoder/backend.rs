// SPDX-License-Identifier: MPL-2.0

//! The encoder libraries of this build, by name.

#![forbid(unsafe_code)]

use super::{Codec, Config, Log, OpenError, PixelFormat, RegionEncoder};

/// Sizes of the pictures that can be coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Least width and height in pixels.
    pub least: (u32, u32),
    /// Most.
    pub most: (u32, u32),
    /// Width and height have to be multiples of these.
    pub step: (u32, u32),
}

impl Sizes {
    /// Why a picture of this size cannot be coded, and what to do about it.
    pub fn refusal(&self, width: u32, height: u32, format: PixelFormat) -> Option<OpenError> {
        const CURE: &str = "Put videoscale, videocrop or videobox in front of the element, or videoconvert where another \
                            format will do";
        let sides = [
            ("width", width, self.least.0, self.most.0, self.step.0),
            ("height", height, self.least.1, self.most.1, self.step.1),
        ];
        sides.into_iter().find_map(|(name, side, least, most, step)| {
            let reason = if side < least {
                format!("{side} is less than {least}, the least that is coded")
            } else if side > most {
                format!("{side} is more than {most}, the most that is coded")
            } else if side % step == 0 {
                return None;
            } else if step == 2 {
                format!("{side} is odd, and {format:?} video cannot be coded so")
            } else {
                format!("{side} is no multiple of {step}, as the two fields of {format:?} video need it")
            };
            Some(OpenError::refused(name, reason, CURE))
        })
    }
}

/// A library that `ddsencode` can code with. All are listed, whether or not this build has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// NVIDIA's encoder, found at run time.
    Nvenc,
    /// libx264.
    X264,
    /// libx265.
    X265,
}

impl Backend {
    /// All, in the order in which `encoder=auto` tries them.
    pub const ALL: [Self; 3] = [Self::Nvenc, Self::X264, Self::X265];

    /// Name as a value of the property `encoder`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvenc => "nvenc",
            Self::X264 => "x264",
            Self::X265 => "x265",
        }
    }

    /// Standards it codes by, first the one it uses where downstream leaves the choice.
    pub fn codecs(self) -> &'static [Codec] {
        match self {
            Self::Nvenc => &[Codec::H264, Codec::H265],
            Self::X264 => &[Codec::H264],
            Self::X265 => &[Codec::H265],
        }
    }

    /// Sample layouts it takes, preferred ones first.
    pub fn formats(self) -> &'static [PixelFormat] {
        use PixelFormat::*;
        match self {
            Self::Nvenc => &[Nv12, I420, Yv12],
            Self::X265 => &[I420, Yv12, I444],
            Self::X264 => &[
                I420, Nv12, Yv12, Nv21, I422, Nv16, I444, Gray8, I420P10, I422P10, I444P10,
            ],
        }
    }

    /// Sizes that it codes. Chroma is sampled in whole numbers, of each field where there are two.
    pub fn sizes(self, format: PixelFormat, interlaced: bool) -> Sizes {
        // A library itself refuses sizes that are too large for its levels or its hardware.
        const MOST: u32 = 16384;
        let (across, down, _) = format.sampling(1);
        let step = (1 << across, 1 << (down + u32::from(interlaced)));
        let least = match self {
            Self::X265 => (16, 16),
            Self::X264 | Self::Nvenc => step,
        };
        Sizes {
            least,
            most: (MOST, MOST),
            step,
        }
    }

    /// Whether it reads pictures in the memory of a GPU, of the same sample layouts.
    pub fn reads_gpu(self) -> bool {
        self == Self::Nvenc
    }

    /// Opens an encoder.
    ///
    /// # Errors
    /// Names what is refused; [`OpenError::Refused`] of `encoder` where this build or this machine lacks the library.
    pub fn open(self, config: &Config, log: Log) -> Result<Box<dyn RegionEncoder>, OpenError> {
        if !self.codecs().contains(&config.codec) {
            return Err(OpenError::refused(
                format!("encoder={}", self.name()),
                format!("it does not code {:?}", config.codec),
                "Choose another encoder, or allow its format behind the element",
            ));
        }
        if !self.formats().contains(&config.format) {
            return Err(OpenError::refused(
                format!("encoder={}", self.name()),
                format!("it does not take {:?} video", config.format),
                "Convert the video before the element (videoconvert)",
            ));
        }
        let sizes = self.sizes(config.format, config.interlaced.is_some());
        if let Some(refusal) = sizes.refusal(config.width, config.height, config.format) {
            return Err(refusal);
        }
        let _ = &log;
        match self {
            #[cfg(feature = "x264")]
            Self::X264 => boxed::<super::x264::X264>(config, log),
            #[cfg(not(feature = "x264"))]
            Self::X264 => Err(self.not_built_in()),
            #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
            Self::Nvenc => boxed::<super::nvenc::Nvenc>(config, log),
            #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
            Self::Nvenc => Err(OpenError::refused(
                "encoder=nvenc",
                "NVIDIA's encoder is there on 64-bit Linux only",
                "Choose another encoder",
            )),
            #[cfg(feature = "x265")]
            Self::X265 => boxed::<super::x265::X265>(config, log),
            #[cfg(not(feature = "x265"))]
            Self::X265 => Err(self.not_built_in()),
        }
    }

    #[allow(dead_code, reason = "needed where a feature is off")]
    fn not_built_in(self) -> OpenError {
        OpenError::refused(
            format!("encoder={}", self.name()),
            "this build is without it",
            format!("Build with the Cargo feature `{}`", self.name()),
        )
    }
}

#[allow(dead_code, reason = "needed where there is a library")]
fn boxed<E: RegionEncoder + 'static>(config: &Config, log: Log) -> Result<Box<dyn RegionEncoder>, OpenError> {
    Ok(Box::new(E::open(config, log)?))
}
