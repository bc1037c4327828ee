// SPDX-License-Identifier: MPL-2.0

//! Serial number arithmetic (RFC 1982) for counters that wrap.

/// A 16-bit serial number: newer than another where the forward distance is below half the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Serial16(pub u16);

impl Serial16 {
    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Whether `self` comes after `other`. A distance of exactly half the range is undefined by RFC 1982; here it is
    /// not newer, in either direction.
    pub fn is_newer_than(self, other: Self) -> bool {
        let forward = self.0.wrapping_sub(other.0);
        forward != 0 && forward < 0x8000
    }
}

#[cfg(test)]
mod tests {
    use super::Serial16;

    #[test]
    fn newer_is_a_forward_distance_below_half_the_range() {
        for start in [0u16, 1, 0x7fff, 0x8000, 0xffff] {
            let at = |distance: u16| Serial16(start.wrapping_add(distance));
            assert!(!at(0).is_newer_than(Serial16(start)));
            assert!(at(1).is_newer_than(Serial16(start)));
            assert!(at(0x7fff).is_newer_than(Serial16(start)));
            assert!(!at(0x8000).is_newer_than(Serial16(start)));
            assert!(!at(0x8001).is_newer_than(Serial16(start)));
            assert_eq!(Serial16(start).next(), at(1));
        }
    }
}
