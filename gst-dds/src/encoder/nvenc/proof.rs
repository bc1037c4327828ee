// SPDX-License-Identifier: MPL-2.0

//! Proves that the driver applies quantizer maps.
//!
//! The header describes `qpDeltaMap` but not which drivers apply it, and one that does not would silently code uniform
//! video. So before a device codes video, a session of its own codes the same noise twice, with a map of zeros and with
//! one of finer quantizers; the second has to be larger. The result holds for the rest of the process.
//! `pipelines/nvenc-selftest.sh` checks every macroblock.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::super::{Codec, Log, LogLevel, OpenError, Picture, PixelFormat, Plane};
use super::driver::Driver;
use super::map::{DeltaMap, Ground};
use super::session::{At, Session};
use super::settings::{Control, NvencSettings};
use super::surface::Source;

/// Size of the pictures: every device codes it.
const SIZE: (u32, u32) = (176, 144);
/// Quantizer of the first one, and the difference that the map adds in the second.
const QP: u8 = 36;
const FINER: i8 = -10;
/// The second takes at least this many hundredths of the first. Of noise like this, libx264 and libx265 make 156.
const MORE: usize = 115;

/// Devices and standards that are known to apply maps.
static PROVEN: LazyLock<Mutex<HashSet<(String, Codec)>>> = LazyLock::new(Mutex::default);

/// Tests whether a device applies maps, unless that is known.
///
/// # Errors
/// They do not, or pictures with them are refused. Without a spare session for the test, the answer stays open.
pub(super) fn maps_act(
    driver: &Arc<Driver>,
    at: At<'_>,
    device: &str,
    settings: &NvencSettings,
    format: PixelFormat,
    log: &Log,
) -> Result<(), OpenError> {
    let key = (device.to_string(), settings.codec);
    if PROVEN.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
        return Ok(());
    }
    let settings = NvencSettings {
        width: SIZE.0,
        height: SIZE.1,
        level: 0,
        slices: 1,
        ..settings.clone()
    };
    let mut session = match Session::open(driver, at, &settings, format, Control::Constant { qp: QP }) {
        Ok(session) => session,
        Err(error) => {
            let words = format!("{device}: no session to see whether quantizer maps act: {error}");
            log(LogLevel::Warning, &words);
            return Ok(());
        }
    };
    let [plain, finer] = sizes(&mut session, &settings, format)?;
    if finer * 100 < plain * MORE {
        return Err(OpenError::refused(
            "encoder=nvenc",
            format!(
                "{device} ignores quantizer maps: noise takes {finer} bytes with quantizers {FINER} and {plain} without"
            ),
            "Install another driver, or choose another encoder",
        ));
    }
    PROVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    Ok(())
}

/// Bytes of noise, coded twice as an IDR picture: with a map of zeros, and with the finer map.
fn sizes(session: &mut Session, settings: &NvencSettings, format: PixelFormat) -> Result<[usize; 2], OpenError> {
    let (width, height) = (SIZE.0 as usize, SIZE.1 as usize);
    let mut seed = 1u32;
    let planes: [Vec<u8>; 3] = std::array::from_fn(|plane| {
        let (row, rows) = format.plane_size(plane, width, height);
        let noise = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        });
        noise.take(row * rows).collect()
    });
    let lent: [Plane<'_>; 3] = std::array::from_fn(|plane| Plane {
        data: &planes[plane],
        stride: format.plane_size(plane, width, height).0,
    });
    let mut map = DeltaMap::new(settings.codec, width, height);
    let every = vec![FINER; width.div_ceil(16) * height.div_ceil(16)];
    let mut sizes = [0; 2];
    for (number, size) in sizes.iter_mut().enumerate() {
        let picture = Picture {
            planes: lent,
            pts: number as i64,
        };
        let offsets = (number == 1).then_some(&every[..]);
        let mut coded = Vec::new();
        session
            .encode(
                settings,
                Source::System(&picture),
                true,
                map.fill(Ground::Unknown, offsets),
                &mut coded,
            )
            .map_err(|words| OpenError::refused("encoder=nvenc", words, "Choose another encoder"))?;
        *size = coded.len();
    }
    Ok(sizes)
}
