// SPDX-License-Identifier: MPL-2.0

//! Reads the fields of parameter sets and slice headers: raw byte sequence payloads of H.264 and H.265
//! (ISO/IEC 14496-10 and 23008-2, 7.2 and 9), without emulation prevention ([`crate::nal::unescape`]).

/// Reads bits, most significant first. Never panics on any data; each call returns `None` where it ends before.
#[derive(Clone, Debug)]
pub struct RbspReader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> RbspReader<'a> {
    /// Reads from the first bit of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    /// Bits read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// `u(n)` of 0 to 32 bits.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0u32;
        for _ in 0..count {
            let byte = self.data.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// Skips so many bits.
    pub fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count)?;
        (self.at <= self.data.len() * 8).then_some(())
    }

    /// `u(1)`.
    pub fn flag(&mut self) -> Option<bool> {
        Some(self.take(1)? == 1)
    }

    /// `ue(v)`, below 2^32 - 1.
    pub fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.take(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.take(zeros)?;
        Some((1u32 << zeros) - 1 + rest)
    }

    /// `se(v)`: 0, 1, -1, 2, -2, ...
    pub fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 1 { code / 2 + 1 } else { -(code / 2) })
    }

    fn scaling_list(&mut self, size: usize) -> Option<()> {
        let (mut last, mut next) = (8, 8);
        for _ in 0..size {
            if next != 0 {
                next = (last + self.se()?).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
        Some(())
    }
}

/// The beginning of an H.264 sequence parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H264SequenceStart {
    /// `seq_parameter_set_id`, not checked.
    pub id: u32,
    /// `separate_colour_plane_flag`.
    pub separate_planes: bool,
}

impl H264SequenceStart {
    /// Reads `seq_parameter_set_data` (ISO/IEC 14496-10, 7.3.2.1.1) from its first bit, after the NAL unit header, up
    /// to `log2_max_frame_num_minus4`, which comes next.
    pub fn read(bits: &mut RbspReader<'_>) -> Option<Self> {
        let profile = bits.take(8)?;
        // Constraints and level.
        bits.take(16)?;
        let id = bits.ue()?;
        let mut separate_planes = false;
        if matches!(
            profile,
            100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
        ) {
            let chroma = bits.ue()?;
            if chroma == 3 {
                separate_planes = bits.flag()?;
            }
            // Bit depths of luma and chroma, qpprime_y_zero_transform_bypass_flag.
            bits.ue()?;
            bits.ue()?;
            bits.flag()?;
            if bits.flag()? {
                for list in 0..if chroma == 3 { 12 } else { 8 } {
                    if bits.flag()? {
                        bits.scaling_list(if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        Some(Self { id, separate_planes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_standards_write_them_and_end_with_the_data() {
        // ue(v) 0, 1, 2, 3; se(v) 1, -1, 2; then one bit.
        let mut bits = RbspReader::new(&[0b1010_0110, 0b0100_0100, 0b1100_1000]);
        assert_eq!(
            [bits.ue(), bits.ue(), bits.ue(), bits.ue()].map(Option::unwrap),
            [0, 1, 2, 3]
        );
        assert_eq!([bits.se(), bits.se(), bits.se()].map(Option::unwrap), [1, -1, 2]);
        assert_eq!((bits.position(), bits.take(1), bits.take(1)), (23, Some(0), None));
        assert_eq!(
            (RbspReader::new(&[0; 8]).ue(), RbspReader::new(&[1]).skip(9)),
            (None, None)
        );
        assert_eq!(RbspReader::new(&[0xff; 4]).take(32), Some(u32::MAX));
        let largest = [&[0, 0, 0, 1][..], &[0xff; 4]].concat();
        assert_eq!(RbspReader::new(&largest).ue(), Some(u32::MAX - 1));
    }
}
