// SPDX-License-Identifier: MPL-2.0

//! H.265 levels (ISO/IEC 23008-2 tables A.8 and A.9).

#![forbid(unsafe_code)]

/// Ten times the level, samples per picture, samples per second, kbit/s in the main and in the high tier.
const LEVELS: [(u8, u64, u64, u64, u64); 13] = [
    (10, 36_864, 552_960, 128, 128),
    (20, 122_880, 3_686_400, 1_500, 1_500),
    (21, 245_760, 7_372_800, 3_000, 3_000),
    (30, 552_960, 16_588_800, 6_000, 6_000),
    (31, 983_040, 33_177_600, 10_000, 10_000),
    (40, 2_228_224, 66_846_720, 12_000, 30_000),
    (41, 2_228_224, 133_693_440, 20_000, 50_000),
    (50, 8_912_896, 267_386_880, 25_000, 100_000),
    (51, 8_912_896, 534_773_760, 40_000, 160_000),
    (52, 8_912_896, 1_069_547_520, 60_000, 240_000),
    (60, 35_651_584, 1_069_547_520, 60_000, 240_000),
    (61, 35_651_584, 2_139_095_040, 120_000, 480_000),
    (62, 35_651_584, 4_278_190_080, 240_000, 800_000),
];

/// A level and its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H265Level {
    /// Ten times the level: 41 for 4.1.
    pub idc: u8,
    /// High tier.
    pub high_tier: bool,
}

/// The smallest level, not below `at_least` (ten times the level), whose limits hold a picture of `width` by `height`
/// samples at `frame_rate` (numerator, denominator) with `references` reference pictures and `kbps` kbit/s (0 = not
/// limited). 6.2 where none does.
pub fn smallest_h265_level(
    width: u32,
    height: u32,
    frame_rate: (u32, u32),
    references: u32,
    kbps: u32,
    at_least: u8,
) -> H265Level {
    let (w, h, kbps) = (u64::from(width), u64::from(height), u64::from(kbps));
    let picture = w * h;
    let per_second = (picture.saturating_mul(frame_rate.0.into())).div_ceil(u64::from(frame_rate.1.max(1)));
    let found =
        LEVELS
            .iter()
            .filter(|level| level.0 >= at_least)
            .find(|&&(_, max_picture, max_per_second, _, max_kbps)| {
                // A.4.2: pictures well below the level's size leave room for more of them.
                let pictures = match picture {
                    p if p <= max_picture / 4 => 16,
                    p if p <= max_picture / 2 => 12,
                    p if p <= max_picture * 3 / 4 => 8,
                    _ => 6,
                };
                picture <= max_picture
                    && w * w <= 8 * max_picture
                    && h * h <= 8 * max_picture
                    && per_second <= max_per_second
                    && references < pictures
                    && kbps <= max_kbps
            });
    let &(idc, _, _, main_kbps, _) = found.unwrap_or(&LEVELS[LEVELS.len() - 1]);
    H265Level {
        idc,
        high_tier: kbps > main_kbps,
    }
}

/// Whether ten times a level is a level of this standard.
pub fn is_h265_level(idc: u8) -> bool {
    LEVELS.iter().any(|level| level.0 == idc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_size_rate_references_and_bits() {
        let level = |width, height, fps, references, kbps| {
            let found = smallest_h265_level(width, height, (fps, 1), references, kbps, 0);
            (found.idc, found.high_tier)
        };
        assert_eq!(level(320, 240, 30, 1, 0), (20, false));
        assert_eq!(level(1280, 720, 30, 3, 0), (31, false));
        assert_eq!(level(1280, 720, 30, 6, 0), (40, false));
        assert_eq!(level(1920, 1080, 30, 3, 0), (40, false));
        assert_eq!(level(1920, 1080, 30, 3, 20_000), (40, true));
        assert_eq!(level(1920, 1080, 60, 3, 0), (41, false));
        assert_eq!(level(3840, 2160, 30, 1, 0), (50, false));
        assert_eq!(level(u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX), (62, true));
        assert_eq!(smallest_h265_level(320, 240, (30, 0), 1, 0, 31).idc, 31);
        assert!(is_h265_level(41) && !is_h265_level(42));
    }
}
