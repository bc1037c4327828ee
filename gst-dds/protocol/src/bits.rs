// SPDX-License-Identifier: MPL-2.0

//! Bit strings, and the columns of numbers that tables of rectangles consist of.

/// Bits of each of the two lengths in a column header.
const NIBBLE: u32 = 4;

/// Bits that a number needs; 0 for 0.
pub(crate) fn bit_length(value: u32) -> u32 {
    u32::BITS - value.leading_zeros()
}

/// Bits of a column of `count` numbers from `low` to `high`, both below 2^15.
pub(crate) fn column_bits(low: u32, high: u32, count: usize) -> usize {
    (2 * NIBBLE + bit_length(low)) as usize + count * bit_length(high - low) as usize
}

/// Writes numbers most significant bit first.
pub(crate) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    used: u32,
}

impl<'a> BitWriter<'a> {
    /// Appends to `out`, starting at a whole byte.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, used: 0 }
    }

    /// Writes the low `bits` bits of a number.
    pub(crate) fn push(&mut self, value: u32, bits: u32) {
        for bit in (0..bits).rev() {
            if self.used == 0 {
                self.out.push(0);
            }
            if let Some(last) = self.out.last_mut() {
                *last |= (((value >> bit) & 1) as u8) << (7 - self.used);
            }
            self.used = (self.used + 1) % 8;
        }
    }

    /// Writes a column: bits per value, bits of the base, the base (the smallest value), each value minus the base.
    pub(crate) fn push_column(&mut self, low: u32, high: u32, values: impl Iterator<Item = u32>) {
        let width = bit_length(high - low);
        self.push(width, NIBBLE);
        self.push(bit_length(low), NIBBLE);
        self.push(low, bit_length(low));
        values.for_each(|value| self.push(value - low, width));
    }
}

/// Reads numbers most significant bit first.
pub(crate) struct BitReader<'a> {
    data: &'a [u8],
    /// Position in bits.
    position: usize,
}

impl<'a> BitReader<'a> {
    /// Reads from the first bit of `data`.
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0 }
    }

    /// Reads at most 16 bits; `None` where the data ends before.
    pub(crate) fn read(&mut self, bits: u32) -> Option<u32> {
        let end = self.position + bits as usize;
        if end > self.data.len() * 8 {
            return None;
        }
        let first = self.position / 8;
        // Sixteen bits at any bit position lie within three bytes.
        let window = (0..3).fold(0u32, |w, i| {
            w << 8 | u32::from(self.data.get(first + i).copied().unwrap_or(0))
        });
        let shift = 24 - (self.position % 8) as u32 - bits;
        self.position = end;
        Some((window >> shift) & ((1 << bits) - 1))
    }

    /// Reads a column of `count` numbers; `None` where the data ends before. Allocates only for values present.
    pub(crate) fn read_column(&mut self, count: usize) -> Option<Vec<u32>> {
        let width = self.read(NIBBLE)?;
        let base_bits = self.read(NIBBLE)?;
        let base = self.read(base_bits)?;
        if self.data.len() * 8 - self.position < count * width as usize {
            return None;
        }
        (0..count).map(|_| Some(base + self.read(width)?)).collect()
    }

    /// Skips the unused bits of the last byte; returns the bytes read so far and those bits, which should be 0.
    pub(crate) fn align(&mut self) -> (usize, u32) {
        let unused = (8 - self.position % 8) % 8;
        let bits = self.read(unused as u32).unwrap_or(0);
        (self.position / 8, bits)
    }
}
