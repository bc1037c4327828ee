// SPDX-License-Identifier: MPL-2.0

//! NVIDIA's encoder as a [`RegionEncoder`], loaded at run time.
//!
//! Not yet run on NVENC hardware: the tests drive a stand-in for the driver that checks every call (`tests/fake-nvenc`),
//! and `pipelines/nvenc-selftest.sh` reads quantizers back from what a real one codes.
//!
//! Facts from `nvEncodeAPI.h` 11.1 that this file relies on:
//!
//! - `qpDeltaMap` holds a signed difference per macroblock (H.264) or per coding tree block (H.265, of 32 pixels) that
//!   is added to the quantizer that rate control chose. It is passed with every picture. With adaptive quantization,
//!   look-ahead and multi-pass off, nothing else varies the quantizer within a picture. A driver that ignores it is
//!   refused (see `proof.rs`).
//! - With [`RateControl::Quantizers`] the driver codes at one constant quantizer, the first base; when the base
//!   changes, the difference to the new one becomes part of the map. So the base may change in every picture without
//!   another call, and base plus difference is exact from 1 to 51. Constant quantizers know no VBV: under one
//!   ([`Config::vbv`]) the driver switches to variable bit rate whose lowest quantizer is the base. Where a GPU cannot
//!   change its mode in an open session, the VBV is refused each time (`reconfigure-failed` in the statistics), and the
//!   cap is kept by the element's choice of quantizers alone, which notices a picture that is too large only
//!   afterwards.
//! - [`RateControl::Bitrate`] is constant bit rate, [`RateControl::Quality`] variable bit rate with a target quality,
//!   below the VBV's rate.
//! - In H.265 a block takes the finest of its macroblocks: regions grow to a grid of 32 pixels.
//!
//! The first device that accepts the video codes it; `CUDA_VISIBLE_DEVICES` hides some. Pictures come from system
//! memory, or from that of the GPU they were decoded on ([`Config::gpu`]), which then codes them.
//!
//! Properties of `x264enc`, and their effect where they are set:
//!
//! | property | NVENC |
//! |---|---|
//! | `speed-preset` | ultrafast, superfast: P1; veryfast: P2; faster, fast: P3; medium, none: P4; slow: P5; slower: P6; veryslow, placebo: P7. Always tuned for ultra-low latency |
//! | `key-int-max` | IDR pictures, requested one by one |
//! | `aud`, `cabac`, `dct8x8`, `sps-id`, `insert-vui`, `byte-stream` | the same (`cabac` and `dct8x8` in H.264 only) |
//! | `ref` | reference frames, up to 7 and where the GPU has more than one |
//! | `threads`, `sliced-threads` | slices, as there: one per thread, up to 32; automatic is 1 |
//! | `qp-min`, `qp-max` | the same, also for regions |
//! | `bitrate`, `vbv-buf-capacity`, `max-bitrate`, `pass`, `quantizer` | see above; `pass=qual` is NVENC's target quality |
//! | `bframes`, `b-adapt`, `b-pyramid`, `weightb`, `pb-factor` | there are no B-frames |
//! | `rc-lookahead`, `sync-lookahead`, `mb-tree`, `intra-refresh`, `interlaced`, `noise-reduction` | off; refused where switched on |
//! | `ip-factor` | refused, except 1 in quantizer mode |
//! | `me`, `subme`, `analyse`, `trellis`, `qp-step`, `psy-tune`, `tune` other than zerolatency, `frame-packing` | refused |
//! | `option-string` | the same options by libx264's names; others are refused |

mod driver;
mod map;
mod proof;
mod session;
mod settings;
mod surface;

use std::sync::Arc;

use super::sps::{SPS, Timing, rewrite};
use super::{
    AccessUnit, Codec, Config, EncodeError, FrameControls, GpuPicture, Log, LogLevel, Nal, NalKind, OpenError,
    ParameterSets, Picture, PixelFormat, RateControl, Rates, RegionEncoder, find_nals, to_lengths,
};
use driver::Driver;
use map::{DeltaMap, Ground};
use session::{At, Session};
use settings::{Control, NvencSettings};
use surface::Source;

/// NVENC as an encoder: its settings and an open session.
pub struct Nvenc {
    session: Session,
    settings: NvencSettings,
    format: PixelFormat,
    rate: RateControl,
    control: Control,
    /// Base quantizer of the last picture.
    base: u8,
    map: DeltaMap,
    since_idr: u32,
    started: bool,
    /// As the driver returned it, and as it is output where that differs.
    coded: Vec<u8>,
    lengths: Vec<u8>,
    /// What the stream declares of its rate, and access units with parameter sets rewritten for it.
    timing: Timing,
    declared: Vec<u8>,
    nals: Vec<Nal>,
    vps: Vec<u8>,
    sps: Vec<u8>,
    pps: Vec<u8>,
    name: String,
}

// SAFETY: a session may be used from any thread as long as calls do not overlap, which `&mut self` ensures: every call
// makes the session's context current on its own thread first. The pointers in it are its own.
#[allow(unsafe_code)]
unsafe impl Send for Nvenc {}

impl RegionEncoder for Nvenc {
    fn open(config: &Config, log: Log) -> Result<Self, OpenError> {
        let settings = NvencSettings::new(config)?;
        let base_qp = match config.rate {
            RateControl::Quantizers { base_qp } => base_qp,
            _ => 0,
        };
        let control = Control::new(config.rate, config.vbv, base_qp);
        let driver = Arc::new(Driver::load()?);
        let (at, session) = match &config.gpu {
            // The owner of the context chooses the device.
            Some(gpu) => {
                let at = At::Lent(gpu);
                (at, Session::open(&driver, at, &settings, config.format, control)?)
            }
            None => first_device(&driver, &settings, config.format, control, &log)?,
        };
        proof::maps_act(&driver, at, &session.device, &settings, config.format, &log)?;
        let name = session.name();
        let (width, height) = (config.width as usize, config.height as usize);
        let mut encoder = Self {
            session,
            format: config.format,
            rate: config.rate,
            control,
            base: base_qp,
            map: DeltaMap::new(config.codec, width, height),
            settings,
            since_idr: 0,
            started: false,
            coded: Vec::new(),
            lengths: Vec::new(),
            timing: match (config.codec, config.leaves_out) {
                (Codec::H264, true) => Timing::Nominal,
                _ => Timing::Fixed,
            },
            declared: Vec::new(),
            nals: Vec::with_capacity(16),
            vps: Vec::new(),
            sps: Vec::new(),
            pps: Vec::new(),
            name,
        };
        encoder.read_parameter_sets()?;
        Ok(encoder)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn codec(&self) -> Codec {
        self.settings.codec
    }

    fn parameter_sets(&self) -> ParameterSets<'_> {
        ParameterSets {
            vps: &self.vps,
            sps: &self.sps,
            pps: &self.pps,
        }
    }

    fn key_int_max(&self) -> u64 {
        self.settings.key_int_max.into()
    }

    fn delay(&self) -> usize {
        0
    }

    fn encode(&mut self, picture: &Picture<'_>, controls: &FrameControls<'_>) -> Result<AccessUnit<'_>, EncodeError> {
        let (width, height) = (self.settings.width as usize, self.settings.height as usize);
        for (i, plane) in picture.planes.iter().take(self.format.planes()).enumerate() {
            let (row, rows) = self.format.plane_size(i, width, height);
            if plane.stride < row || plane.data.len() < plane.stride * (rows - 1) + row {
                return Err(EncodeError::ShortPlane(i));
            }
        }
        self.code(Source::System(picture), controls)
    }

    fn reads_gpu(&self) -> bool {
        self.session.is_lent()
    }

    fn encode_gpu(
        &mut self,
        picture: &GpuPicture<'_>,
        controls: &FrameControls<'_>,
    ) -> Result<AccessUnit<'_>, EncodeError> {
        self.code(Source::Gpu(picture), controls)
    }

    fn reconfigure(&mut self, rates: &Rates) -> Result<(), EncodeError> {
        let rate = match self.rate {
            RateControl::Quality { quality } => RateControl::Quality {
                quality: rates.quality.unwrap_or(quality),
            },
            RateControl::Bitrate { kbps } => RateControl::Bitrate {
                kbps: rates.kbps.unwrap_or(kbps),
            },
            exact => exact,
        };
        self.change(Control::new(rate, rates.vbv, self.base))?;
        self.rate = rate;
        Ok(())
    }
}

/// The first device that opens.
///
/// # Errors
/// The error of the only device, or those of all of them.
fn first_device(
    driver: &Arc<Driver>,
    settings: &NvencSettings,
    format: PixelFormat,
    control: Control,
    log: &Log,
) -> Result<(At<'static>, Session), OpenError> {
    let mut refusals = Vec::new();
    for ordinal in 0..driver.devices()? {
        match Session::open(driver, At::Device(ordinal), settings, format, control) {
            Ok(session) => {
                log(LogLevel::Info, &format!("GPU {ordinal}: {}", session.device));
                return Ok((At::Device(ordinal), session));
            }
            Err(error) => {
                log(LogLevel::Debug, &format!("GPU {ordinal}: {error}"));
                refusals.push(error);
            }
        }
    }
    if refusals.len() == 1 {
        return Err(refusals.remove(0));
    }
    let all: Vec<_> = refusals
        .iter()
        .enumerate()
        .map(|(i, e)| format!("GPU {i}: {e}"))
        .collect();
    Err(OpenError::refused(
        "encoder=nvenc",
        format!("no GPU takes it. {}", all.join(" ").trim_end_matches('.')),
        "See to what they ask for, or choose another encoder",
    ))
}

impl Nvenc {
    fn code(&mut self, source: Source<'_>, controls: &FrameControls<'_>) -> Result<AccessUnit<'_>, EncodeError> {
        let ground = self.ground(controls.base_qp);
        let force_idr = controls.force_idr || !self.started || self.since_idr + 1 >= self.settings.key_int_max;
        self.coded.clear();
        let map = self.map.fill(ground, controls.offsets);
        let coded = self
            .session
            .encode(&self.settings, source, force_idr, map, &mut self.coded)
            .map_err(EncodeError::Library)?;
        self.started = true;
        self.since_idr = if coded.idr { 0 } else { self.since_idr.saturating_add(1) };

        let codec = self.settings.codec;
        self.nals.clear();
        find_nals(codec, &self.coded, &mut self.nals);
        let sets = || self.nals.iter().any(|nal| nal.kind == SPS);
        let data = if self.settings.byte_stream && self.timing != Timing::Fixed && sets() {
            rewrite(&self.coded, &mut self.nals, self.timing, &mut self.declared);
            &self.declared
        } else if self.settings.byte_stream {
            &self.coded
        } else {
            // Parameter sets are in the caps.
            self.nals.retain(|nal| codec.kind(nal.kind) != NalKind::Parameters);
            to_lengths(&self.coded, &mut self.nals, &mut self.lengths);
            &self.lengths
        };
        if !self
            .nals
            .iter()
            .any(|nal| matches!(codec.kind(nal.kind), NalKind::Slice { .. }))
        {
            return Err(EncodeError::Delayed);
        }
        Ok(AccessUnit {
            data,
            nals: &self.nals,
            idr: coded.idr,
            keyframe: coded.idr,
        })
    }

    /// Base of the map's differences in a picture with this base quantizer.
    fn ground(&mut self, base: u8) -> Ground {
        self.base = base;
        // Under a VBV the driver has to know the base, to judge the size of a picture. Where it does not accept the
        // change, the map still compensates for it.
        if let Control::Floor { qp, kbps, buffer_kbit } = self.control
            && qp != base
        {
            let _ = self.change(Control::Floor {
                qp: base,
                kbps,
                buffer_kbit,
            });
        }
        match self.control {
            Control::Constant { qp } | Control::Floor { qp, .. } => Ground::Known {
                driver: qp,
                base,
                limits: self.settings.limits,
            },
            _ => Ground::Unknown,
        }
    }

    fn change(&mut self, control: Control) -> Result<(), EncodeError> {
        if control == self.control {
            return Ok(());
        }
        if !control.same_mode(self.control) && !self.session.abilities.changes_mode {
            return Err(EncodeError::Library(format!(
                "{} does not change its kind of rate control in an open session",
                self.session.device
            )));
        }
        self.session
            .reconfigure(control, self.settings.limits)
            .map_err(EncodeError::Library)?;
        self.control = control;
        Ok(())
    }

    fn read_parameter_sets(&mut self) -> Result<(), OpenError> {
        let data = self.session.parameter_sets(self.settings.parameter_set_id)?;
        let mut nals = Vec::new();
        find_nals(self.settings.codec, &data, &mut nals);
        for nal in nals {
            let body = data[nal.body..nal.end].to_vec();
            match (self.settings.codec, nal.kind) {
                (Codec::H265, 32) => self.vps = body,
                (Codec::H264, SPS) => self.sps = self.timing.declared(&body).unwrap_or(body),
                (Codec::H265, 33) => self.sps = body,
                (Codec::H264, 8) | (Codec::H265, 34) => self.pps = body,
                _ => {}
            }
        }
        if self.sps.len() < 4 || self.pps.is_empty() || (self.settings.codec == Codec::H265 && self.vps.is_empty()) {
            return Err(OpenError::Library("NVENC gives no parameter sets".into()));
        }
        Ok(())
    }
}
