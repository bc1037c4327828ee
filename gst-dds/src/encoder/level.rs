// SPDX-License-Identifier: MPL-2.0

//! H.264 levels (ISO/IEC 14496-10 table A-1).

#![forbid(unsafe_code)]

/// `level_idc`, macroblocks per second, macroblocks per frame, macroblocks in the decoded picture buffer, kbit/s.
const LEVELS: [(u8, u64, u64, u64, u64); 19] = [
    (10, 1_485, 99, 396, 64),
    (11, 3_000, 396, 900, 192),
    (12, 6_000, 396, 2_376, 384),
    (13, 11_880, 396, 2_376, 768),
    (20, 11_880, 396, 2_376, 2_000),
    (21, 19_800, 792, 4_752, 4_000),
    (22, 20_250, 1_620, 8_100, 4_000),
    (30, 40_500, 1_620, 8_100, 10_000),
    (31, 108_000, 3_600, 18_000, 14_000),
    (32, 216_000, 5_120, 20_480, 20_000),
    (40, 245_760, 8_192, 32_768, 20_000),
    (41, 245_760, 8_192, 32_768, 50_000),
    (42, 522_240, 8_704, 34_816, 50_000),
    (50, 589_824, 22_080, 110_400, 135_000),
    (51, 983_040, 36_864, 184_320, 240_000),
    (52, 2_073_600, 36_864, 184_320, 240_000),
    (60, 4_177_920, 139_264, 696_320, 240_000),
    (61, 8_355_840, 139_264, 696_320, 480_000),
    (62, 16_711_680, 139_264, 696_320, 800_000),
];

/// The smallest `level_idc` whose limits hold a picture of `width` by `height` pixels at `frame_rate` (numerator,
/// denominator) with `references` reference frames and `kbps` kbit/s (0 = not limited). 62 where none does.
pub fn smallest_level(width: u32, height: u32, frame_rate: (u32, u32), references: u32, kbps: u32) -> u8 {
    let (w, h) = (u64::from(width.div_ceil(16)), u64::from(height.div_ceil(16)));
    let frame = w * h;
    let per_second = (frame * u64::from(frame_rate.0)).div_ceil(u64::from(frame_rate.1.max(1)));
    LEVELS
        .iter()
        .find(|&&(_, max_per_second, max_frame, max_buffer, max_kbps)| {
            frame <= max_frame
                && w * w <= 8 * max_frame
                && h * h <= 8 * max_frame
                && per_second <= max_per_second
                && frame * u64::from(references) <= max_buffer
                && u64::from(kbps) <= max_kbps
        })
        .map_or(62, |level| level.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_size_rate_references_and_bits() {
        assert_eq!(smallest_level(320, 240, (30, 1), 1, 0), 13);
        assert_eq!(smallest_level(1280, 720, (30, 1), 3, 0), 31);
        assert_eq!(smallest_level(1280, 720, (60, 1), 3, 0), 32);
        assert_eq!(smallest_level(1280, 720, (30, 1), 3, 18_000), 32);
        assert_eq!(smallest_level(1920, 1080, (30, 1), 4, 0), 40);
        assert_eq!(smallest_level(1920, 1080, (30, 1), 16, 0), 51);
        assert_eq!(smallest_level(65_535, 65_535, (u32::MAX, 0), u32::MAX, u32::MAX), 62);
    }
}
