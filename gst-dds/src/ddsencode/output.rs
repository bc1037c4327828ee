// SPDX-License-Identifier: MPL-2.0

//! Output buffers: the encoder's NAL units with the frame identity inserted.

#![forbid(unsafe_code)]

use dds_protocol::extension::Extension;
use dds_protocol::identity::FrameIdentity;
use dds_protocol::nal::SliceCount;

use crate::encoder::{AccessUnit, Codec, Nal, NalKind};

fn is_slice(codec: Codec, nal: &Nal) -> bool {
    matches!(codec.kind(nal.kind), NalKind::Slice { .. })
}

/// The slices of an access unit, by the receiver's count.
pub(super) fn count_slices(codec: Codec, unit: &AccessUnit<'_>) -> SliceCount {
    let mut count = SliceCount::default();
    for nal in unit.nals.iter().filter(|n| is_slice(codec, n)) {
        count.add(codec, &unit.data[nal.body..nal.end]);
    }
    count
}

/// The access unit with `identity` and its records as the last NAL unit before the first slice: GStreamer 1.22 keeps
/// only the last user-data message of a picture.
pub(super) fn assemble(
    codec: Codec,
    unit: &AccessUnit<'_>,
    identity: &FrameIdentity,
    extension: &Extension,
    byte_stream: bool,
) -> Vec<u8> {
    let sei = identity.to_nal_with(codec, extension);
    let mut out = Vec::with_capacity(unit.data.len() + 4 + sei.len());
    let mut pending = Some(sei);
    let mut put = |out: &mut Vec<u8>| {
        if let Some(sei) = pending.take() {
            if byte_stream {
                out.extend([0, 0, 0, 1]);
            } else {
                out.extend((sei.len() as u32).to_be_bytes());
            }
            out.extend(sei);
        }
    };
    for nal in unit.nals {
        if is_slice(codec, nal) {
            put(&mut out);
        }
        out.extend(&unit.data[nal.start..nal.end]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use dds_protocol::identity::StreamKind;
    use dds_protocol::nal::{self, Codec, Format};

    #[test]
    fn identity_precedes_the_first_slice_and_counts_match_the_reader() {
        // AUD, then two slices, the second with trailing zeros.
        let data = [0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x65, 0x88, 0x84, 0, 0, 1, 0x65, 0x11, 0];
        let nals = [
            Nal {
                kind: 9,
                start: 0,
                body: 4,
                end: 6,
            },
            Nal {
                kind: 5,
                start: 6,
                body: 9,
                end: 12,
            },
            Nal {
                kind: 5,
                start: 12,
                body: 15,
                end: 18,
            },
        ];
        let unit = AccessUnit {
            data: &data,
            nals: &nals,
            idr: true,
            keyframe: true,
        };
        let count = count_slices(Codec::H264, &unit);
        let identity = FrameIdentity {
            kind: StreamKind::Single,
            stream_id: 7,
            frame: 1,
            capture_time_ns: 0,
            access_unit: 1,
            recovery: true,
            slices: count.slices,
            slice_bytes: count.bytes,
            slice_checksum: count.checksum,
        };
        let out = assemble(Codec::H264, &unit, &identity, &Extension::default(), true);
        let kinds: Vec<u8> = nal::nal_units(&out, Format::ByteStream).map(|n| n[0] & 0x1f).collect();
        assert_eq!(kinds, [9, 6, 5, 5]);
        let summary = Codec::H264.summarize(&out, Format::ByteStream);
        assert_eq!(summary.identity, Some(Ok(identity)));
        assert_eq!(summary.slices, count);
        assert_eq!((count.slices, count.bytes), (2, 5));
        assert!(count.idr);
    }
}
