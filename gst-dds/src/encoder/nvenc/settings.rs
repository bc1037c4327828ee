// SPDX-License-Identifier: MPL-2.0

//! Translates a configuration into NVENC's settings; see the table in the [module](super).

#![forbid(unsafe_code)]

use super::super::options::{MOVED, canonical, describe, is_negated};
use super::super::{Codec, Colour, Config, EncoderOption, OpenError, RateControl};
use crate::vbv::Vbv;

/// Most slices that every driver accepts.
const MAX_SLICES: u32 = 32;
/// Most reference frames in a list.
const MAX_REFERENCES: u32 = 7;

/// Profile of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    Baseline,
    Main,
    High,
    /// Main profile of H.265.
    HevcMain,
}

/// Settings that a session is opened with, except rates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NvencSettings {
    pub codec: Codec,
    pub width: u32,
    pub height: u32,
    /// 1 to 7: NVENC's P1 (fastest) to P7 (best).
    pub preset: usize,
    pub profile: Profile,
    /// `level_idc`, 0 = the driver's choice.
    pub level: u32,
    pub frame_rate: (u32, u32),
    pub variable_rate: bool,
    /// Width to height of the displayed picture.
    pub display: (u32, u32),
    pub colour: Option<Colour>,
    pub byte_stream: bool,
    pub aud: bool,
    /// `None`: the driver's choice.
    pub cabac: Option<bool>,
    pub transform_8x8: Option<bool>,
    /// Reference frames, 0 = the driver's choice.
    pub references: u32,
    pub parameter_set_id: u32,
    pub slices: u32,
    pub key_int_max: u32,
    /// Lowest and highest quantizer.
    pub limits: (u8, u8),
}

/// Rate control in the driver's terms. Rates in kbit/s, buffers in kbit, 0 = the driver's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// Every picture at one quantizer.
    Constant { qp: u8 },
    /// At one quantizer, or coarser where the VBV needs it.
    Floor { qp: u8, kbps: u32, buffer_kbit: u32 },
    /// Constant quality; 0 kbit/s = no limit.
    Quality { quality: u8, kbps: u32, buffer_kbit: u32 },
    /// Constant bit rate.
    Bitrate { kbps: u32, buffer_kbit: u32 },
}

impl Control {
    /// Rate control for `rate` under `vbv`. `base_qp` is that of the next pictures.
    pub fn new(rate: RateControl, vbv: Vbv, base_qp: u8) -> Self {
        let open = vbv == Vbv::OPEN;
        let (max_kbps, buffer_kbit) = if open { (0, 0) } else { (vbv.max_kbps, vbv.buffer_kbit) };
        match rate {
            RateControl::Quantizers { .. } if open => Self::Constant { qp: base_qp },
            RateControl::Quantizers { .. } => Self::Floor {
                qp: base_qp,
                kbps: max_kbps,
                buffer_kbit,
            },
            // 0 would mean the driver's choice.
            RateControl::Quality { quality } => Self::Quality {
                quality: quality.max(1),
                kbps: max_kbps,
                buffer_kbit,
            },
            RateControl::Bitrate { kbps } => Self::Bitrate {
                kbps: if open { kbps } else { kbps.min(max_kbps) }.max(1),
                buffer_kbit,
            },
        }
    }

    /// Whether the driver uses the same mode of rate control for both.
    pub fn same_mode(self, other: Self) -> bool {
        let mode = |control| match control {
            Self::Constant { .. } => 0,
            Self::Floor { .. } | Self::Quality { .. } => 1,
            Self::Bitrate { .. } => 2,
        };
        mode(self) == mode(other)
    }
}

fn refused(what: impl Into<String>, reason: &str) -> OpenError {
    OpenError::refused(
        what,
        reason,
        "Remove it, or choose an encoder that has it (encoder=x264)",
    )
}

/// NVENC's preset for one of libx264's. They are spread over the names so that the default is in the middle.
fn preset(name: Option<&str>) -> Result<usize, OpenError> {
    Ok(match name {
        Some("ultrafast" | "superfast") => 1,
        Some("veryfast") => 2,
        Some("faster" | "fast") => 3,
        Some("medium") | None => 4,
        Some("slow") => 5,
        Some("slower") => 6,
        Some("veryslow" | "placebo") => 7,
        Some(other) => return Err(refused(format!("speed-preset {other}"), "NVENC has nothing like it")),
    })
}

impl NvencSettings {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Names what NVENC does not have.
    pub fn new(config: &Config) -> Result<Self, OpenError> {
        if !config.width.is_multiple_of(2) || !config.height.is_multiple_of(2) {
            return Err(OpenError::refused(
                "encoder=nvenc",
                format!("it codes even sizes only, not {}x{}", config.width, config.height),
                "Crop or scale the video before the element (videocrop, videoscale)",
            ));
        }
        if config.repeats {
            return Err(OpenError::no_repeats("NVENC cannot be told to skip macroblocks"));
        }
        if config.interlaced.is_some() {
            return Err(OpenError::refused(
                "interlaced video",
                "NVENC's current GPUs code whole pictures only",
                "Deinterlace the video before the element (deinterlace)",
            ));
        }
        if config.frame_packing.is_some() {
            return Err(refused("frame-packing", "this element does not write it with NVENC"));
        }
        // Low latency is always on.
        let mut tunings = config.tune.as_deref().unwrap_or_default().split(',');
        if let Some(tune) = tunings.find(|tune| !matches!(*tune, "" | "zerolatency")) {
            return Err(refused(format!("tune or psy-tune {tune}"), "NVENC has no such tuning"));
        }
        let profile = match (config.codec, config.profile) {
            (Codec::H264, None | Some("high")) => Profile::High,
            (Codec::H264, Some("main")) => Profile::Main,
            (Codec::H264, Some("baseline" | "constrained-baseline")) => Profile::Baseline,
            (Codec::H265, None | Some("main")) => Profile::HevcMain,
            (_, Some(other)) => {
                return Err(OpenError::refused(
                    format!("profile {other}"),
                    "NVENC does not code 4:2:0 video of 8 bits in it",
                    "Allow another profile with caps behind the element (high, main or baseline; main in H.265)",
                ));
            }
        };
        let (numerator, denominator) = config.assumed_rate();
        let mut settings = Self {
            codec: config.codec,
            width: config.width,
            height: config.height,
            preset: preset(config.preset.as_deref())?,
            profile,
            level: level(config)?,
            frame_rate: (numerator, denominator.max(1)),
            variable_rate: config.frame_rate.is_none(),
            display: display(config),
            colour: config.colour,
            byte_stream: config.byte_stream,
            aud: false,
            cabac: None,
            transform_8x8: None,
            references: 0,
            parameter_set_id: 0,
            slices: 1,
            key_int_max: config.key_int_max().max(1),
            limits: (1, 51),
        };
        let exact = config.is_exact();
        let mut sliced = true;
        for option in &config.options {
            settings.take(option, exact, &mut sliced)?;
        }
        if !sliced {
            settings.slices = 1;
        }
        let (low, high) = settings.limits;
        settings.limits = (low.min(high), high);
        if config.intra_only {
            settings.key_int_max = 1;
        }
        Ok(settings)
    }

    fn take(&mut self, option: &EncoderOption, exact: bool, sliced: &mut bool) -> Result<(), OpenError> {
        let (key, negated) = (canonical(&option.key), is_negated(&option.key));
        let text = option.value.as_deref().unwrap_or("1");
        let bad = || {
            let reason = format!("it does not take the value `{text}`");
            OpenError::refused(describe(option), reason, "Correct or remove it")
        };
        let number = || text.parse::<i64>().map_err(|_| bad());
        let count = |most: u32| text.parse::<u32>().ok().filter(|n| *n <= most).ok_or_else(bad);
        let on = || match text {
            "1" | "true" | "yes" => Ok(!negated),
            "0" | "false" | "no" => Ok(negated),
            _ => Err(bad()),
        };
        let lacks = |reason: &str| Err(refused(describe(option), reason));
        let h264 = self.codec == Codec::H264;
        match key.as_str() {
            "aud" => self.aud = on()?,
            "cabac" if h264 => self.cabac = Some(on()?),
            "cabac" if on()? => {}
            "8x8dct" if h264 => self.transform_8x8 = Some(on()?),
            "cabac" | "8x8dct" => return lacks("H.265 has no such choice"),
            "keyint" => self.key_int_max = count(i32::MAX as u32)?.max(1),
            "ref" | "frameref" => {
                self.references = count(16)?;
                if self.references > MAX_REFERENCES {
                    return lacks("NVENC has 7 reference frames at most");
                }
            }
            "sps-id" => self.parameter_set_id = count(if h264 { 31 } else { 15 })?,
            "threads" | "slices" => {
                self.slices = count(i32::MAX as u32)?.max(1);
                if self.slices > MAX_SLICES {
                    return lacks("each thread is a slice, and NVENC takes 32 at most");
                }
            }
            "sliced-threads" => *sliced = on()?,
            "qpmin" => self.limits.0 = count(63)?.clamp(1, 51) as u8,
            "qpmax" => self.limits.1 = count(63)?.clamp(1, 51) as u8,
            // These concern B-frames only, and there are none.
            "b-adapt" | "b-pyramid" | "weightb" | "pb-factor" => {}
            "bframes" | "rc-lookahead" | "sync-lookahead" if number()? <= 0 => {}
            "bframes" | "rc-lookahead" | "sync-lookahead" => {
                return Err(OpenError::refused(
                    describe(option),
                    "it would delay video",
                    "Set it to 0",
                ));
            }
            "nr" if number()? == 0 => {}
            "mbtree" | "interlaced" | "intra-refresh" if !on()? => {}
            "ip-factor" if exact && text.parse() == Ok(1.0f32) => {}
            "ip-factor" if exact => {
                return lacks(MOVED);
            }
            "intra-refresh" => return lacks("this element does not use periodic intra refresh of NVENC"),
            _ => return lacks("NVENC has nothing like it"),
        }
        Ok(())
    }
}

/// `level_idc` as the driver takes it: that of the standard, 0 = its choice.
fn level(config: &Config) -> Result<u32, OpenError> {
    let Some(wanted) = config.level_idc else { return Ok(0) };
    let wanted = u32::from(wanted);
    match (config.codec, wanted) {
        (Codec::H264, wanted) => Ok(wanted),
        // Ten times the level here, thirty times in the standard.
        (Codec::H265, 10 | 20 | 21 | 30 | 31 | 40 | 41 | 50..=52 | 60..=62) => Ok(wanted * 3),
        (Codec::H265, _) => Err(OpenError::refused(
            "level",
            "H.265 has no such level",
            "Ask for one like 3.1 behind the element",
        )),
    }
}

fn display(config: &Config) -> (u32, u32) {
    let (n, d) = config.pixel_aspect_ratio;
    let (mut w, mut h) = (
        u64::from(config.width) * u64::from(n.max(1)),
        u64::from(config.height) * u64::from(d.max(1)),
    );
    let (mut a, mut b) = (w, h);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    (w, h) = (w / a.max(1), h / a.max(1));
    while w.max(h) > u64::from(u32::MAX) {
        (w, h) = (w / 2, (h / 2).max(1));
    }
    (w as u32, h as u32)
}

#[cfg(test)]
mod tests;
