// SPDX-License-Identifier: MPL-2.0

//! The parts of H.264 and H.265 needed to name and check access units: NAL unit walking, slice counting, SEI messages
//! (ISO/IEC 14496-10 7.3.1, 7.3.2.3 and annex B; ISO/IEC 23008-2 7.3.1, 7.3.2.4 and annex B; ISO/IEC 14496-15 5.3 and
//! 8.3 for length prefixes).

/// SEI payload type of `user_data_unregistered` (ISO/IEC 14496-10 D.1).
pub const SEI_USER_DATA_UNREGISTERED: u32 = 5;

/// `rbsp_trailing_bits` of a byte-aligned payload.
const STOP_BYTE: u8 = 0x80;

/// The standard that a stream follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// ISO/IEC 14496-10, AVC.
    H264,
    /// ISO/IEC 23008-2, HEVC.
    H265,
}

/// Kind of a NAL unit, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NalKind {
    /// Coded picture data. `idr`: of a picture with which decoding may start.
    Slice {
        /// Part of an IDR picture.
        idr: bool,
    },
    /// Access unit delimiter.
    Delimiter,
    /// Video (H.265), sequence or picture parameter set.
    Parameters,
    /// Supplemental enhancement information before the picture.
    Sei,
    /// Anything else.
    Other,
}

impl Codec {
    /// Bytes of a NAL unit's header.
    pub fn header_bytes(self) -> usize {
        match self {
            Self::H264 => 1,
            Self::H265 => 2,
        }
    }

    /// `nal_unit_type` (ISO/IEC 14496-10 table 7-1, ISO/IEC 23008-2 table 7-1). `None` for an empty NAL unit.
    pub fn nal_type(self, nal: &[u8]) -> Option<u8> {
        let header = *nal.first()?;
        Some(match self {
            Self::H264 => header & 0x1f,
            Self::H265 => header >> 1 & 0x3f,
        })
    }

    /// Kind of the NAL units of a `nal_unit_type`.
    pub fn kind(self, nal_type: u8) -> NalKind {
        match (self, nal_type) {
            (Self::H264, 1) => NalKind::Slice { idr: false },
            (Self::H264, 5) => NalKind::Slice { idr: true },
            (Self::H264, 6) => NalKind::Sei,
            (Self::H264, 7 | 8) => NalKind::Parameters,
            (Self::H264, 9) => NalKind::Delimiter,
            // IDR_W_RADL, IDR_N_LP; the others that are not reserved, CRA and BLA among them.
            (Self::H265, 19 | 20) => NalKind::Slice { idr: true },
            (Self::H265, 0..=9 | 16..=18 | 21) => NalKind::Slice { idr: false },
            (Self::H265, 32..=34) => NalKind::Parameters,
            (Self::H265, 35) => NalKind::Delimiter,
            (Self::H265, 39) => NalKind::Sei,
            _ => NalKind::Other,
        }
    }

    /// Kind of a NAL unit.
    pub(crate) fn kind_of(self, nal: &[u8]) -> NalKind {
        self.nal_type(nal).map_or(NalKind::Other, |t| self.kind(t))
    }

    /// Whether a NAL unit is the first one of an access unit, as far as it alone shows; `has_slices`: the access unit
    /// so far has some (ISO/IEC 14496-10, 7.4.1.2.3; ISO/IEC 23008-2, 7.4.2.4.4; as far as our encoders use it).
    pub fn begins_access_unit(self, nal: &[u8], has_slices: bool) -> bool {
        match self.kind_of(nal) {
            NalKind::Delimiter => true,
            NalKind::Sei | NalKind::Parameters => has_slices,
            NalKind::Slice { .. } => has_slices && self.begins_picture(nal),
            NalKind::Other => false,
        }
    }

    /// Whether a slice is the first one of its picture, by the first bit of the slice header: `first_mb_in_slice` is 0, or
    /// `first_slice_segment_in_pic_flag`.
    pub(crate) fn begins_picture(self, slice: &[u8]) -> bool {
        slice.get(self.header_bytes()).is_some_and(|byte| byte & 0x80 != 0)
    }

    /// Counts slices.
    pub fn count_slices(self, access_unit: &[u8], format: Format) -> SliceCount {
        let mut count = SliceCount::default();
        for nal in nal_units(access_unit, format) {
            if matches!(self.kind_of(nal), NalKind::Slice { .. }) {
                count.add(self, nal);
            }
        }
        count
    }

    /// An SEI NAL unit (no start code) with one message: header, message with emulation prevention, trailing bits.
    pub fn sei_nal(self, payload_type: u32, payload: &[u8]) -> Vec<u8> {
        let mut rbsp = Vec::with_capacity(payload.len() + payload.len() / 255 + 4);
        push_sei_number(&mut rbsp, payload_type as usize);
        push_sei_number(&mut rbsp, payload.len());
        rbsp.extend_from_slice(payload);
        rbsp.push(STOP_BYTE);
        let mut nal = match self {
            Self::H264 => vec![6],
            // PREFIX_SEI_NUT of the base layer, temporal sub-layer 0.
            Self::H265 => vec![39 << 1, 1],
        };
        push_escaped(&mut nal, &rbsp);
        nal
    }
}

/// How NAL units are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Start codes (annex B).
    ByteStream,
    /// Big-endian length prefixes of this many bytes (1, 2 or 4).
    LengthPrefixed(u8),
}

/// Iterator over the NAL units of an access unit (header included, separators excluded). Ends at the first
/// length that runs over the end of the data. Empty NAL units are left out; in byte-stream format also the zero bytes
/// after a NAL unit. A length size outside 1..=4 gives nothing.
pub fn nal_units(access_unit: &[u8], format: Format) -> impl Iterator<Item = &[u8]> {
    let rest = match format {
        Format::ByteStream => start_code(access_unit).map_or(&[][..], |(_, after)| &access_unit[after..]),
        Format::LengthPrefixed(1..=4) => access_unit,
        Format::LengthPrefixed(_) => &[],
    };
    NalUnits { rest, format }
}

struct NalUnits<'a> {
    rest: &'a [u8],
    format: Format,
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let nal = match self.format {
                Format::ByteStream => {
                    let (end, after) = start_code(self.rest).unwrap_or((self.rest.len(), self.rest.len()));
                    let nal = &self.rest[..end];
                    self.rest = &self.rest[after..];
                    without_trailing_zeros(nal)
                }
                Format::LengthPrefixed(size) => {
                    let Some((prefix, rest)) = self.rest.split_at_checked(usize::from(size)) else {
                        self.rest = &[];
                        return None;
                    };
                    let length = prefix.iter().fold(0u64, |n, &b| n << 8 | u64::from(b));
                    let split = usize::try_from(length)
                        .ok()
                        .and_then(|length| rest.split_at_checked(length));
                    let Some((nal, rest)) = split else {
                        self.rest = &[];
                        return None;
                    };
                    self.rest = rest;
                    nal
                }
            };
            if !nal.is_empty() {
                return Some(nal);
            }
        }
        None
    }
}

/// First 00 00 01: where it begins and where it ends.
fn start_code(data: &[u8]) -> Option<(usize, usize)> {
    let mut i = 0;
    while let Some(&[a, b, c]) = data.get(i..).and_then(|d| d.first_chunk::<3>()) {
        match (a, b, c) {
            (0, 0, 1) => return Some((i, i + 3)),
            // No start code begins before or on a third byte that is not zero.
            (_, _, 1..) => i += 3,
            _ => i += 1,
        }
    }
    None
}

fn without_trailing_zeros(nal: &[u8]) -> &[u8] {
    let end = nal.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
    &nal[..end]
}

/// Slices of an access unit: count, bytes, checksum, and whether one is an IDR slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceCount {
    /// Slice NAL units.
    pub slices: u16,
    /// Their bytes, trailing zero bytes excluded.
    pub bytes: u32,
    /// FNV-1a (32 bits) over those bytes, in order. Distinguishes slices of one access unit from the same number and
    /// length of another, which packet loss can put after the wrong identity.
    pub checksum: u32,
    /// One of them belongs to an IDR picture.
    pub idr: bool,
}

impl Default for SliceCount {
    fn default() -> Self {
        Self {
            slices: 0,
            bytes: 0,
            checksum: FNV_OFFSET,
            idr: false,
        }
    }
}

/// Offset basis and prime of FNV-1a, 32 bits.
const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

impl SliceCount {
    /// Adds one slice NAL unit (header included, trailing zeros do not count).
    pub fn add(&mut self, codec: Codec, nal: &[u8]) {
        let nal = without_trailing_zeros(nal);
        self.slices = self.slices.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u32::try_from(nal.len()).unwrap_or(u32::MAX));
        self.checksum = nal.iter().fold(self.checksum, |sum, &byte| {
            (sum ^ u32::from(byte)).wrapping_mul(FNV_PRIME)
        });
        self.idr |= codec.kind_of(nal) == NalKind::Slice { idr: true };
    }
}

/// One message of an SEI NAL unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeiMessage<'a> {
    /// Payload type (ISO/IEC 14496-10 D.1).
    pub payload_type: u32,
    /// Payload without emulation prevention; shorter than declared where the NAL unit is cut off.
    pub payload: &'a [u8],
}

/// Iterator over the messages of an SEI NAL unit, given without its header and after [`unescape`]. Ends at the
/// trailing bits or where the data does.
pub fn sei_messages(rbsp: &[u8]) -> impl Iterator<Item = SeiMessage<'_>> {
    let mut rest = without_trailing_zeros(rbsp);
    std::iter::from_fn(move || {
        if rest.is_empty() || rest == [STOP_BYTE] {
            return None;
        }
        let payload_type = take_sei_number(&mut rest)?;
        let size = take_sei_number(&mut rest)? as usize;
        let (payload, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        Some(SeiMessage { payload_type, payload })
    })
}

/// Reads a number in the form of 7.3.2.3.1: bytes of 255, then one below, all summed.
fn take_sei_number(rest: &mut &[u8]) -> Option<u32> {
    let mut number = 0u32;
    loop {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        number = number.saturating_add(u32::from(byte));
        if byte != 0xff {
            return Some(number);
        }
    }
}

fn push_sei_number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0xff {
        out.push(0xff);
        number -= 0xff;
    }
    out.push(number as u8);
}

/// Appends `payload` with emulation prevention bytes inserted (7.4.1.1). Existing bytes of `out` are not examined: pass
/// the whole payload of a NAL unit at once, trailing bits included.
pub fn push_escaped(out: &mut Vec<u8>, payload: &[u8]) {
    let mut zeros = 0;
    for &byte in payload {
        if zeros == 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
}

/// Removes emulation prevention bytes.
pub fn unescape(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}
