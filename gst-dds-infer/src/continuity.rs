// SPDX-License-Identifier: MPL-2.0

//! Detects lost RTP packets by their sequence numbers.
//!
//! Depayloaders and parsers hardly report losses: of a stream that lost 3 % of its packets one buffer in 60 was
//! flagged. Sequence numbers show them. They are read in front of the depayloader, and matched to access units by
//! time.

#![forbid(unsafe_code)]

/// Bytes of an RTP header without extensions (RFC 3550, 5.1).
const HEADER_BYTES: usize = 12;

/// Follows the sequence numbers of one RTP stream.
#[derive(Debug, Default)]
pub struct RtpContinuity {
    /// Sequence number of the stream's first packet, if the caps have it.
    base: Option<u16>,
    newest: Option<Packet>,
    /// RTP time of the access unit after the newest hole.
    behind_hole: Option<u32>,
    /// Access units up to this presentation time may lack packets; `u64::MAX` if times are unknown.
    doubtful: Option<u64>,
    /// Access units keep the times of their packets.
    timed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    ssrc: u32,
    number: u16,
    time: u32,
}

impl Packet {
    /// `None` if these bytes are no RTP packet.
    fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        (header[0] >> 6 == 2).then_some(Self {
            ssrc: word(8),
            number: u16::from_be_bytes([header[2], header[3]]),
            time: word(4),
        })
    }
}

impl RtpContinuity {
    /// The stream's caps: `base`, the number of its first packet if they have it; `timed`, whether its packets hold
    /// the video itself, so that access units keep their presentation times.
    pub fn set_caps(&mut self, base: Option<u16>, timed: bool) {
        self.base = base;
        self.timed = timed;
    }

    /// Takes one packet, at least its header, with its presentation time in nanoseconds.
    pub fn packet(&mut self, bytes: &[u8], pts: Option<u64>) {
        // Depayloaders ignore anything but RTP packets.
        let Some(packet) = Packet::read(bytes) else { return };
        let follows = match self.newest {
            Some(last) if last.ssrc == packet.ssrc && last.number == packet.number => return,
            Some(last) => last.ssrc == packet.ssrc && last.number.wrapping_add(1) == packet.number,
            None => self.base == Some(packet.number),
        };
        self.newest = Some(packet);
        if !follows {
            self.behind_hole = Some(packet.time);
        }
        // The whole access unit, whose packets may have come at different times.
        if self.behind_hole == Some(packet.time) {
            let until = pts.filter(|_| self.timed).unwrap_or(u64::MAX);
            self.doubtful = self.doubtful.max(Some(until));
        } else {
            self.behind_hole = None;
        }
    }

    /// Whether all packets of the access unit of this presentation time were received.
    pub fn vouches(&self, pts: Option<u64>) -> bool {
        let seen = self.newest.is_some();
        seen && self.doubtful.is_none_or(|until| pts.is_some_and(|pts| pts > until))
    }

    /// Handles a new start of time: doubtful access units are gone.
    pub fn flush(&mut self) {
        self.newest = None;
        self.behind_hole = None;
        self.doubtful = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: u16, time: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = 0x80;
        bytes[2..4].copy_from_slice(&number.to_be_bytes());
        bytes[4..8].copy_from_slice(&time.to_be_bytes());
        bytes[11] = 7;
        bytes
    }

    /// A stream that begins with number 65534, three packets an access unit, one access unit a second; the packets in
    /// `lost` are not received.
    fn stream(base: Option<u16>, lost: &[u32]) -> RtpContinuity {
        let mut stream = RtpContinuity::default();
        stream.set_caps(base, true);
        for n in (0..12u32).filter(|n| !lost.contains(n)) {
            stream.packet(&packet(65534u16.wrapping_add(n as u16), n / 3), Some(u64::from(n / 3)));
        }
        stream
    }

    fn vouched(stream: &RtpContinuity) -> [bool; 4] {
        [0, 1, 2, 3].map(|pts| stream.vouches(Some(pts)))
    }

    #[test]
    fn a_stream_without_a_hole_is_vouched_for_from_its_first_packet_where_that_is_known() {
        assert_eq!(vouched(&stream(Some(65534), &[])), [true; 4]);
        assert!(stream(Some(65534), &[]).vouches(None));
        // Packets before the first received one may have been lost.
        assert_eq!(vouched(&stream(None, &[])), [false, true, true, true]);
        assert_eq!(vouched(&stream(Some(65534), &[0])), [false, true, true, true]);
        assert!(!RtpContinuity::default().vouches(Some(5)));
    }

    #[test]
    fn an_access_unit_beside_a_hole_is_not_vouched_for() {
        for (lost, first) in [(3, 1), (4, 1), (5, 2), (6, 2), (8, 3)] {
            let stream = stream(Some(65534), &[lost]);
            for pts in 0..4 {
                assert_eq!(stream.vouches(Some(pts)), pts > first, "lost {lost}, access unit {pts}");
            }
            assert!(!stream.vouches(None));
        }
    }

    #[test]
    fn packets_twice_are_no_hole_and_packets_out_of_order_are() {
        let mut stream = RtpContinuity::default();
        stream.set_caps(Some(1), true);
        for number in [1, 1, 2, 2, 3] {
            stream.packet(&packet(number, 0), Some(0));
        }
        stream.packet(b"RTP?", Some(9));
        assert!(stream.vouches(Some(0)));
        for (number, time) in [(5, 1), (4, 1), (6, 2)] {
            stream.packet(&packet(number, time), Some(u64::from(time)));
        }
        assert_eq!((stream.vouches(Some(2)), stream.vouches(Some(3))), (false, true));
    }

    #[test]
    fn where_times_do_not_tell_nothing_is_vouched_for_behind_a_hole() {
        let mut stream = RtpContinuity::default();
        stream.set_caps(Some(1), false);
        stream.packet(&packet(1, 0), Some(0));
        assert!(stream.vouches(Some(0)));
        stream.packet(&packet(3, 1), Some(1));
        stream.packet(&packet(4, 2), Some(2));
        assert!(!stream.vouches(Some(100)));
        stream.flush();
        stream.packet(&packet(1, 9), Some(0));
        assert!(stream.vouches(Some(0)));
        let mut untimed = RtpContinuity::default();
        untimed.set_caps(None, true);
        untimed.packet(&packet(1, 0), None);
        assert!(!untimed.vouches(Some(100)));
    }
}
