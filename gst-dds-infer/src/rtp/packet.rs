// SPDX-License-Identifier: MPL-2.0

//! RTP packets (RFC 3550, 5.1 and 5.3.1).

/// Fields of an RTP packet, all lengths checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Synchronization source.
    pub ssrc: u32,
    /// Sequence number.
    pub sequence_number: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// In video, set on the last packet of a picture.
    pub marker: bool,
    /// Payload type.
    pub payload_type: u8,
    /// Payload without header, extension and padding; may be empty.
    pub payload: &'a [u8],
}

/// Why bytes are no RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// Not RTP version 2.
    Version,
    /// Header, list of contributing sources or extension run over the end.
    Truncated,
    /// The padding count is zero or exceeds the rest of the packet.
    Padding,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Version => "not RTP version 2",
            Self::Truncated => "header, contributing sources or extension run over the end",
            Self::Padding => "the padding count does not fit",
        })
    }
}

impl std::error::Error for Malformed {}

impl<'a> Packet<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`Malformed`] if the payload cannot be located.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = datagram.split_first_chunk::<12>().ok_or(Malformed::Truncated)?;
        let &[first, second, q0, q1, t0, t1, t2, t3, s0, s1, s2, s3] = header;
        if first >> 6 != 2 {
            return Err(Malformed::Version);
        }
        let mut payload = rest.get(4 * usize::from(first & 0x0f)..).ok_or(Malformed::Truncated)?;
        if first & 0x10 != 0 {
            let (&[_, _, w0, w1], behind) = payload.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
            let words = usize::from(u16::from_be_bytes([w0, w1]));
            payload = behind.get(4 * words..).ok_or(Malformed::Truncated)?;
        }
        if first & 0x20 != 0 {
            let count = usize::from(*payload.last().ok_or(Malformed::Padding)?);
            if count == 0 {
                return Err(Malformed::Padding);
            }
            let kept = payload.len().checked_sub(count).ok_or(Malformed::Padding)?;
            payload = &payload[..kept];
        }
        Ok(Self {
            ssrc: u32::from_be_bytes([s0, s1, s2, s3]),
            sequence_number: u16::from_be_bytes([q0, q1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: [u8; 14] = [0x80, 0xe0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x65, 0x88];

    fn with(first: u8, behind: &[u8]) -> Vec<u8> {
        let mut bytes = PLAIN[..12].to_vec();
        bytes[0] = first;
        bytes.extend(behind);
        bytes
    }

    #[test]
    fn each_field_is_read_from_its_place() {
        assert_eq!(
            Packet::parse(&PLAIN),
            Ok(Packet {
                ssrc: 0x0708_090a,
                sequence_number: 0x0102,
                timestamp: 0x0304_0506,
                marker: true,
                payload_type: 96,
                payload: &[0x65, 0x88],
            })
        );
    }

    #[test]
    fn sources_extension_and_padding_are_no_payload() {
        let bytes = with(0xb1, &[0, 0, 0, 1, 0xbe, 0xde, 0, 1, 9, 9, 9, 9, 0x41, 0x9a, 0, 0, 3]);
        assert_eq!(Packet::parse(&bytes).unwrap().payload, &[0x41, 0x9a]);
        // A packet of padding only is valid: it keeps a path open.
        assert!(Packet::parse(&with(0xa0, &[0, 0, 3])).unwrap().payload.is_empty());
        assert!(Packet::parse(&with(0x80, &[])).unwrap().payload.is_empty());
    }

    #[test]
    fn broken_packets_are_refused_by_name() {
        for (bytes, why) in [
            (vec![], Malformed::Truncated),
            (PLAIN[..11].to_vec(), Malformed::Truncated),
            (with(0x40, &[1]), Malformed::Version),
            (with(0x00, &[1]), Malformed::Version),
            (with(0x82, &[0; 7]), Malformed::Truncated),
            (with(0x90, &[0xbe, 0xde, 0]), Malformed::Truncated),
            (
                with(0x90, &[0xbe, 0xde, 0, 2, 1, 2, 3, 4, 5, 6, 7]),
                Malformed::Truncated,
            ),
            (with(0xa0, &[]), Malformed::Padding),
            (with(0xa0, &[1, 2, 0]), Malformed::Padding),
            (with(0xa0, &[1, 2, 4]), Malformed::Padding),
            // The count may not reach into the sources.
            (with(0xa1, &[0, 0, 0, 1, 2]), Malformed::Padding),
        ] {
            assert_eq!(Packet::parse(&bytes), Err(why), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), first in 0x80u8..0xc0) {
            let _ = Packet::parse(&bytes);
            let packet = with(first, &bytes);
            if let Ok(read) = Packet::parse(&packet) {
                prop_assert!(read.payload.len() <= bytes.len());
            }
        }
    }
}
