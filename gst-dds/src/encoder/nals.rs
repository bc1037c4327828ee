// SPDX-License-Identifier: MPL-2.0

//! Finds and rewrites NAL units of libraries that know start codes only.

#![forbid(unsafe_code)]

use super::{Codec, Nal};

/// Finds the NAL units of a byte stream (start codes of three or four bytes) and appends them to `nals`. Zero bytes
/// after a NAL unit belong to the start code of the next one, or are left out at the end.
pub fn find_nals(codec: Codec, data: &[u8], nals: &mut Vec<Nal>) {
    let mut body = None;
    let mut push = |from: Option<(usize, usize)>, end: usize| {
        let Some((start, body)) = from else { return };
        let end = body + data[body..end].iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        if let Some(kind) = codec.nal_type(&data[body..end]) {
            nals.push(Nal { kind, start, body, end });
        }
    };
    let mut at = 0;
    while let Some(found) = data[at..].windows(3).position(|w| w == [0, 0, 1]) {
        let code = at + found;
        push(body, code);
        let long = code > 0 && data[code - 1] == 0 && body.is_none_or(|(_, body)| code > body);
        body = Some((code - usize::from(long), code + 3));
        at = code + 3;
    }
    push(body, data.len());
}

/// Copies the NAL units to `out` with 4-byte lengths in place of start codes; `nals` then holds their positions there.
pub fn to_lengths(data: &[u8], nals: &mut [Nal], out: &mut Vec<u8>) {
    out.clear();
    for nal in nals {
        let unit = &data[nal.body..nal.end];
        nal.start = out.len();
        out.extend((unit.len() as u32).to_be_bytes());
        nal.body = out.len();
        out.extend_from_slice(unit);
        nal.end = out.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: [u8; 19] = [0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 0, 1, 0x65, 3, 4, 0];

    #[test]
    fn start_codes_of_both_lengths_and_trailing_zeros_are_known() {
        let mut nals = Vec::new();
        find_nals(Codec::H264, &STREAM, &mut nals);
        let units: Vec<_> = nals.iter().map(|n| (n.kind, &STREAM[n.body..n.end])).collect();
        assert_eq!(units, [(7, &[0x67, 1][..]), (8, &[0x68, 2]), (5, &[0x65, 3, 4])]);
        assert_eq!(nals.iter().map(|n| n.start).collect::<Vec<_>>(), [0, 6, 11]);
        let mut none = Vec::new();
        find_nals(Codec::H264, &[0, 0, 1], &mut none);
        find_nals(Codec::H265, &[7, 7, 7], &mut none);
        find_nals(Codec::H265, &[], &mut none);
        assert!(none.is_empty());
    }

    #[test]
    fn lengths_hold_the_same_units() {
        let (mut nals, mut out) = (Vec::new(), vec![9; 3]);
        find_nals(Codec::H264, &STREAM, &mut nals);
        to_lengths(&STREAM, &mut nals, &mut out);
        assert_eq!(out, [0, 0, 0, 2, 0x67, 1, 0, 0, 0, 2, 0x68, 2, 0, 0, 0, 3, 0x65, 3, 4]);
        let units: Vec<_> = nals.iter().map(|n| (n.start, &out[n.body..n.end])).collect();
        assert_eq!(units, [(0, &[0x67, 1][..]), (6, &[0x68, 2]), (12, &[0x65, 3, 4])]);
    }
}
