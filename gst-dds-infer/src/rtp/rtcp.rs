// SPDX-License-Identifier: MPL-2.0

//! Filters RTCP to one stream (RFC 3550, 6): an RTP session keeps a source for every SSRC that it receives.

use super::packet::Malformed;

/// Packet types (RFC 3550, 12.1; RFC 4585, 6.1; RFC 3611, 2).
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
const APP: u8 = 204;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const EXTENDED_REPORT: u8 = 207;

/// Format of a picture loss indication (RFC 4585, 6.3.1).
const PICTURE_LOSS: u8 = 1;

/// The part of a compound that belongs to one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// The packets of the stream, in order.
    pub own: Vec<u8>,
    /// Number of packets of others, left out.
    pub foreign: usize,
    /// The stream has sent BYE.
    pub bye: bool,
}

/// Filters the packets of `ssrc` out of a compound; `None`: of no stream. Reduced-size RTCP (RFC 5506) is read too.
///
/// # Errors
/// [`Malformed`] if any part of the compound is broken; then none of it is used.
pub fn filter(compound: &[u8], ssrc: Option<u32>) -> Result<Filtered, Malformed> {
    let mut filtered = Filtered::default();
    let mut rest = compound;
    loop {
        let (&[first, packet_type, l0, l1], _) = rest.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
        if first >> 6 != 2 {
            return Err(Malformed::Version);
        }
        let bytes = (usize::from(u16::from_be_bytes([l0, l1])) + 1) * 4;
        let (packet, behind) = rest.split_at_checked(bytes).ok_or(Malformed::Truncated)?;
        let mut body = &packet[4..];
        if first & 0x20 != 0 {
            // Only the last packet of a compound may be padded (RFC 3550, 6.4.1).
            let count = usize::from(body.last().copied().unwrap_or_default());
            let kept = body.len().checked_sub(count).ok_or(Malformed::Padding)?;
            if !behind.is_empty() || count == 0 || count % 4 != 0 {
                return Err(Malformed::Padding);
            }
            body = &body[..kept];
        }
        let count = first & 0x1f;
        match packet_type {
            BYE => {
                let sources = body.get(..4 * usize::from(count)).ok_or(Malformed::Truncated)?;
                let mut named = sources.chunks_exact(4).map(be32);
                if ssrc.is_some_and(|ssrc| named.any(|named| named == ssrc)) {
                    filtered.bye = true;
                    // Other SSRCs in the BYE are unknown to the session.
                    filtered.own.extend([0x81, BYE, 0, 1]);
                    filtered.own.extend(ssrc.unwrap_or_default().to_be_bytes());
                } else {
                    filtered.foreign += 1;
                }
            }
            _ => {
                let own = match packet_type {
                    SOURCE_DESCRIPTION => describes_only(body, count, ssrc)?,
                    SENDER_REPORT | RECEIVER_REPORT | APP | TRANSPORT_FEEDBACK | PAYLOAD_FEEDBACK | EXTENDED_REPORT => {
                        let sender = body.first_chunk::<4>().ok_or(Malformed::Truncated)?;
                        ssrc == Some(u32::from_be_bytes(*sender))
                    }
                    // The sender of these is unknown.
                    _ => false,
                };
                if own {
                    filtered.own.extend(packet);
                } else {
                    filtered.foreign += 1;
                }
            }
        }
        rest = behind;
        if rest.is_empty() {
            return Ok(filtered);
        }
    }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

/// Whether a source description has chunks of `ssrc` only (RFC 3550, 6.5).
fn describes_only(body: &[u8], chunks: u8, ssrc: Option<u32>) -> Result<bool, Malformed> {
    let mut only = chunks > 0;
    let mut at = 0;
    for _ in 0..chunks {
        let source = body.get(at..at + 4).ok_or(Malformed::Truncated)?;
        only &= ssrc == Some(be32(source));
        at += 4;
        // Items of type, length and text, up to a zero byte; chunks begin at multiples of four.
        while *body.get(at).ok_or(Malformed::Truncated)? != 0 {
            at += 2 + usize::from(*body.get(at + 1).ok_or(Malformed::Truncated)?);
        }
        at = (at + 1).next_multiple_of(4);
    }
    if at > body.len() {
        return Err(Malformed::Truncated);
    }
    Ok(only)
}

/// A compound that requests a key frame of `media`: an empty receiver report of `sender`, and a picture loss
/// indication.
pub fn picture_loss(sender: u32, media: u32) -> Vec<u8> {
    let mut compound = Vec::with_capacity(20);
    compound.extend([0x80, RECEIVER_REPORT, 0, 1]);
    compound.extend(sender.to_be_bytes());
    compound.extend([0x80 | PICTURE_LOSS, PAYLOAD_FEEDBACK, 0, 2]);
    compound.extend(sender.to_be_bytes());
    compound.extend(media.to_be_bytes());
    compound
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: u32 = 0x0102_0304;
    const OTHER: u32 = 0x0a0b_0c0d;

    fn packet(count: u8, packet_type: u8, body: &[u8]) -> Vec<u8> {
        assert_eq!(body.len() % 4, 0);
        let mut packet = vec![0x80 | count, packet_type, 0, (body.len() / 4) as u8];
        packet.extend(body);
        packet
    }

    fn report(ssrc: u32) -> Vec<u8> {
        packet(0, SENDER_REPORT, &[&ssrc.to_be_bytes()[..], &[7; 20]].concat())
    }

    fn description(sources: &[u32]) -> Vec<u8> {
        let chunk = |ssrc: &u32| [&ssrc.to_be_bytes()[..], &[1, 3, b'c', b'a', b'm', 0, 0, 0]].concat();
        packet(
            sources.len() as u8,
            SOURCE_DESCRIPTION,
            &sources.iter().flat_map(chunk).collect::<Vec<_>>(),
        )
    }

    fn bye(sources: &[u32], reason: &[u8]) -> Vec<u8> {
        let named = sources.iter().flat_map(|s| s.to_be_bytes());
        packet(
            sources.len() as u8,
            BYE,
            &named.chain(reason.iter().copied()).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_stream_s_own_compound_passes_as_it_is() {
        let compound = [report(OWN), description(&[OWN])].concat();
        let filtered = filter(&compound, Some(OWN)).unwrap();
        assert_eq!((filtered.own, filtered.foreign, filtered.bye), (compound, 0, false));
    }

    #[test]
    fn nothing_of_others_passes() {
        let compound = [
            report(OTHER),
            description(&[OTHER, OWN]),
            packet(1, PAYLOAD_FEEDBACK, &[OTHER.to_be_bytes(), OWN.to_be_bytes()].concat()),
            packet(0, APP, &[OTHER.to_be_bytes(), *b"DDS1"].concat()),
            bye(&[OTHER], &[]),
            packet(0, 222, &OWN.to_be_bytes()),
        ];
        for ssrc in [Some(OWN), None] {
            let filtered = filter(&compound.concat(), ssrc).unwrap();
            assert_eq!(
                (filtered.own.len(), filtered.foreign, filtered.bye),
                (0, compound.len(), false)
            );
        }
        // Mixed with packets of others.
        let mixed = [report(OTHER), report(OWN), description(&[OTHER])].concat();
        let filtered = filter(&mixed, Some(OWN)).unwrap();
        assert_eq!((filtered.own, filtered.foreign), (report(OWN), 2));
    }

    #[test]
    fn a_goodbye_counts_with_a_reason_in_a_compound_and_beside_others() {
        let reason = [8, b'E', b'n', b'd', b' ', b'o', b'f', b' ', b'!', 0, 0, 0];
        for goodbye in [bye(&[OWN], &[]), bye(&[OWN], &reason), bye(&[OTHER, OWN], &reason)] {
            let filtered = filter(&[report(OWN), goodbye].concat(), Some(OWN)).unwrap();
            assert!(filtered.bye);
            assert_eq!(filtered.own, [report(OWN), bye(&[OWN], &[])].concat());
        }
    }

    #[test]
    fn broken_compounds_are_refused_whole() {
        let good = report(OWN);
        for (broken, why) in [
            (vec![], Malformed::Truncated),
            ([&good[..], &[0x80]].concat(), Malformed::Truncated),
            ([&good[..], &[0x80, BYE, 0, 1]].concat(), Malformed::Truncated),
            (
                [&good[..], &[0x82, BYE, 0, 1, 0, 0, 0, 1]].concat(),
                Malformed::Truncated,
            ),
            (
                [&good[..], &[0x81, SOURCE_DESCRIPTION, 0, 1, 0, 0, 0, 1]].concat(),
                Malformed::Truncated,
            ),
            (
                [&good[..], &[0x81, SOURCE_DESCRIPTION, 0, 2, 0, 0, 0, 1, 1, 9, 0, 0]].concat(),
                Malformed::Truncated,
            ),
            ([&good[..], &[0x40, BYE, 0, 0]].concat(), Malformed::Version),
            ([&good[..], &[0xa0, APP, 0, 1, 0, 0, 0, 0]].concat(), Malformed::Padding),
            ([&good[..], &[0xa0, APP, 0, 1, 0, 0, 0, 8]].concat(), Malformed::Padding),
            ([&[0xa0, APP, 0, 1, 0, 0, 0, 4], &good[..]].concat(), Malformed::Padding),
            (packet(0, APP, &[]), Malformed::Truncated),
        ] {
            assert_eq!(filter(&broken, Some(OWN)), Err(why), "{broken:?}");
        }
    }

    #[test]
    fn a_request_for_a_key_frame_is_a_compound_of_its_sender() {
        let compound = picture_loss(OWN, OTHER);
        let filtered = filter(&compound, Some(OWN)).unwrap();
        assert_eq!((filtered.own, filtered.foreign), (compound.clone(), 0));
        assert_eq!(compound[16..], OTHER.to_be_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_are_filtered_or_refused_and_nothing_is_invented(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            packet_type in 198u8..210,
        ) {
            let mut bytes = bytes;
            if bytes.len() >= 4 {
                (bytes[0], bytes[1], bytes[2]) = (0x80 | bytes[0] & 0x3f, packet_type, 0);
                bytes[3] %= 8;
            }
            if let Ok(filtered) = filter(&bytes, Some(OWN)) {
                prop_assert!(filtered.own.len() <= bytes.len());
                let again = filter(&filtered.own, Some(OWN));
                prop_assert!(filtered.own.is_empty() || again.is_ok_and(|again| again.foreign == 0));
            }
        }
    }
}
