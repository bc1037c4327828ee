// SPDX-License-Identifier: MPL-2.0

//! Feedback packets as RTCP APP packets (RFC 3550 section 6.7) named `DDS1`, in a compound with a receiver report.

use crate::feedback;

/// Name field of our APP packets.
pub const APP_NAME: [u8; 4] = *b"DDS1";
/// Subtype of a feedback packet.
pub const SUBTYPE_FEEDBACK: u8 = 0;
/// Most bytes of data that the length field of an APP packet can express.
pub const MAX_APP_DATA: usize = 65536 * 4 - APP_HEADER;

/// RTCP version in the two top bits of a packet's first byte.
const VERSION_BITS: u8 = 2 << 6;
/// Packet types (RFC 3550 section 12.1).
const RECEIVER_REPORT: u8 = 201;
const APP: u8 = 204;
/// Bytes before the data of an APP packet: common header, SSRC, name.
const APP_HEADER: usize = 12;

/// Why bytes are not a usable RTCP compound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RtcpError {
    /// Not RTCP version 2.
    NotRtcp,
    /// A packet's length field exceeds the data.
    Truncated,
    /// The padding count does not fit.
    InvalidPadding,
}

impl std::fmt::Display for RtcpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotRtcp => "not RTCP version 2",
            Self::Truncated => "RTCP packet is cut off",
            Self::InvalidPadding => "RTCP padding is invalid: not on the last packet, or its count does not fit",
        })
    }
}

impl std::error::Error for RtcpError {}

/// Whether a datagram is RTCP rather than a bare feedback packet: version 2 and a packet type that RFC 5761 keeps for
/// RTCP.
pub fn is_rtcp(datagram: &[u8]) -> bool {
    matches!(datagram, [first, 192..=223, ..] if first & 0xc0 == VERSION_BITS)
}

/// One APP packet (not a compound): header, SSRC of its sender, name, `data` filled up to a multiple of four with zero
/// bytes. RTCP's own padding cannot do that: its count must be a multiple of four itself (RFC 3550 section 6.4.1); the
/// length in the feedback packet distinguishes the zeros. Data longer than [`MAX_APP_DATA`] cannot be sent and gives an
/// empty vector; feedback packets are always shorter.
pub fn app_packet(ssrc: u32, data: &[u8]) -> Vec<u8> {
    let bytes = APP_HEADER + data.len().next_multiple_of(4);
    let Ok(words) = u16::try_from(bytes / 4 - 1) else {
        return Vec::new();
    };
    let mut out = Vec::with_capacity(bytes);
    out.extend([VERSION_BITS | SUBTYPE_FEEDBACK, APP]);
    out.extend(words.to_be_bytes());
    out.extend(ssrc.to_be_bytes());
    out.extend(APP_NAME);
    out.extend_from_slice(data);
    out.resize(bytes, 0);
    out
}

/// A compound of an empty receiver report and one APP packet, for paths without an RTP session. Limits as
/// [`app_packet`].
pub fn compound(ssrc: u32, data: &[u8]) -> Vec<u8> {
    let app = app_packet(ssrc, data);
    if app.is_empty() {
        return app;
    }
    let mut out = Vec::with_capacity(8 + app.len());
    out.extend([VERSION_BITS, RECEIVER_REPORT, 0, 1]);
    out.extend(ssrc.to_be_bytes());
    out.extend(app);
    out
}

/// The feedback packets in an RTCP compound, with the sender's SSRC, in order. Other packets are skipped. Reduced-size
/// RTCP (RFC 5506: an APP packet without a report before it) is read too.
///
/// # Errors
/// [`RtcpError`] where the compound is broken anywhere; nothing of it is used then.
pub fn feedback_in(compound: &[u8]) -> Result<Vec<(u32, &[u8])>, RtcpError> {
    let mut found = Vec::new();
    let mut rest = compound;
    loop {
        let (&[first, packet_type, l0, l1], _) = rest.split_first_chunk::<4>().ok_or(RtcpError::Truncated)?;
        if first & 0xc0 != VERSION_BITS {
            return Err(RtcpError::NotRtcp);
        }
        let bytes = (usize::from(u16::from_be_bytes([l0, l1])) + 1) * 4;
        let (mut packet, after) = rest.split_at_checked(bytes).ok_or(RtcpError::Truncated)?;
        if first & 0x20 != 0 {
            // Only the last packet of a compound may be padded (RFC 3550 section 6.4.1).
            let count = usize::from(*packet.last().ok_or(RtcpError::Truncated)?);
            if !after.is_empty() || count == 0 || count % 4 != 0 || count > packet.len() - 4 {
                return Err(RtcpError::InvalidPadding);
            }
            packet = &packet[..packet.len() - count];
        }
        if packet_type == APP
            && first & 0x1f == SUBTYPE_FEEDBACK
            && let Some((&[_, _, _, _, s0, s1, s2, s3, n0, n1, n2, n3], data)) = packet.split_first_chunk()
            && [n0, n1, n2, n3] == APP_NAME
        {
            found.push((u32::from_be_bytes([s0, s1, s2, s3]), strip_app_data(data)));
        }
        rest = after;
        if rest.is_empty() {
            return Ok(found);
        }
    }
}

/// Recovers our packet from the data field of an APP packet as an RTP session passes it on (possibly with zero bytes of
/// padding to a multiple of four at the end): cuts it at the packet's own length field. Data that is not ours, or
/// shorter than declared, is returned whole, for [`feedback::decode`] to name the fault.
pub fn strip_app_data(data: &[u8]) -> &[u8] {
    feedback::declared_length(data)
        .and_then(|length| data.get(..length))
        .unwrap_or(data)
}
