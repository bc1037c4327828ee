// SPDX-License-Identifier: MPL-2.0

//! Feedback: the complete list of regions that a server requests of one stream. State, not deltas: each generation
//! replaces the one before, so lost, late and duplicate packets do no harm.

use crate::bits::{BitReader, BitWriter, column_bits};
use crate::serial::Serial16;
pub use crate::wish::MAX_QP;
use crate::wish::{self, Wishes};

/// First bytes of every feedback packet of every version. The first one is outside the ranges of STUN, DTLS, TURN
/// channels, RTP and RTCP (RFC 7983), so a socket shared with them can distinguish the packets.
pub const MAGIC: [u8; 2] = [0xdd, 0x53];
/// Version written by this crate.
pub const VERSION: u8 = 1;
/// Grid of region rectangles in pixels: half a macroblock. Rectangles are grown outward to it.
pub const GRID: u32 = 8;
/// Largest position or size of a rectangle, in units of [`GRID`].
pub const MAX_GRID_UNITS: u32 = 8191;
/// Most regions in one generation.
pub const MAX_REGIONS: usize = 256;
/// Most bytes in one packet.
pub const MAX_PACKET: usize = 1200;
/// Most packets of one generation.
pub const MAX_PARTS: u8 = 16;
/// Largest frame offset (segments).
pub const MAX_FRAME_OFFSET: u8 = 31;
/// Unit of a region's time to live on the wire, in milliseconds; values are rounded up.
pub const TTL_UNIT_MS: u32 = 20;
/// Longest time to live in milliseconds (about eleven minutes).
pub const MAX_TTL_MS: u32 = 32767 * TTL_UNIT_MS;
/// Motion is coded in quarter pixels per frame, each component within ± this.
pub const MAX_MOTION: i16 = 127;

/// A rectangle in pixels of the coded frame, origin top left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Rect {
    /// The rectangle in a picture of the size `to` (width, height) that shows the contents of this one in a picture of
    /// the size `from`. It grows outward to whole pixels, so that nothing of this one is lost; edges and lengths are
    /// limited to `u32::MAX`. Without width it has neither left edge nor width there, without height neither top edge
    /// nor height.
    pub fn scaled(&self, from: (u32, u32), to: (u32, u32)) -> Self {
        let (x, width) = scaled_side(self.x, self.width, from.0, to.0);
        let (y, height) = scaled_side(self.y, self.height, from.1, to.1);
        Self { x, y, width, height }
    }
}

/// Start and length of one side of a rectangle, see [`Rect::scaled`].
fn scaled_side(start: u32, length: u32, from: u32, to: u32) -> (u32, u32) {
    if length == 0 {
        return (0, 0);
    }
    // An end has 33 bits, times 32 bits.
    let (from, to) = (u128::from(from.max(1)), u128::from(to));
    let first = u128::from(start) * to / from;
    let end = ((u128::from(start) + u128::from(length)) * to).div_ceil(from);
    let saturated = |value: u128| u32::try_from(value).unwrap_or(u32::MAX);
    (saturated(first), saturated(end - first))
}

/// Quality wanted inside a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Quality {
    /// The camera's own region quality (its `region-qp`).
    #[default]
    Camera,
    /// This H.264 quantizer, 0..=51.
    Qp(u8),
}

/// Motion in quarter pixels per captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Motion {
    /// Rightward.
    pub dx: i16,
    /// Downward.
    pub dy: i16,
}

/// One region of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Region {
    /// Rectangle in the frame the feedback derives from.
    pub rect: Rect,
    /// Quality inside.
    pub quality: Quality,
    /// Motion from frame to frame.
    pub motion: Motion,
    /// Time to live after it was applied, in milliseconds.
    pub ttl_ms: u32,
    /// 0 = from now on; 1..=31 = only for that frame of the segment after the one it derives from.
    pub frame_offset: u8,
}

impl Region {
    /// The region as the other side decodes it: rectangle grown outward to [`GRID`] (position and size at most
    /// [`MAX_GRID_UNITS`] units; an empty side stays empty), time to live rounded up to [`TTL_UNIT_MS`] and at most
    /// [`MAX_TTL_MS`], motion, quality and offset clamped. Encoding a quantised region and decoding it again gives the
    /// same region.
    pub fn quantised(&self) -> Self {
        Columns::of(self).region()
    }
}

/// One whole generation of feedback.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FeedbackState {
    /// Stream that it is for ([`crate::identity::FrameIdentity::stream_id`]).
    pub stream_id: u32,
    /// Generation, newest wins. A server starts from a random one.
    pub generation: Serial16,
    /// Number of the frame the regions were found in.
    pub frame: u64,
    /// Regions, most valuable first. Empty: everything at background quality.
    pub regions: Vec<Region>,
    /// Wishes about the whole stream.
    pub wishes: Wishes,
}

/// Packets of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EncodedFeedback {
    /// Each at most [`MAX_PACKET`] bytes, at least one.
    pub packets: Vec<Vec<u8>>,
    /// Regions left out because there were more than [`MAX_REGIONS`].
    pub dropped_regions: usize,
}

/// One parsed packet: part of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackPart {
    /// Stream that it is for.
    pub stream_id: u32,
    /// Generation.
    pub generation: Serial16,
    /// Frame the regions were found in.
    pub frame: u64,
    /// Index of the part, from 0.
    pub part: u8,
    /// Parts of the generation, 1..=[`MAX_PARTS`].
    pub parts: u8,
    /// Regions in this part, at most [`MAX_REGIONS`].
    pub regions: Vec<Region>,
    /// Wishes; none but in the first part.
    pub wishes: Wishes,
    /// Bytes after the known records, skipped: a later extension.
    pub skipped_extension: usize,
}

/// Why bytes are not a feedback packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeedbackError {
    /// It does not begin with the magic.
    NotFeedback,
    /// A version this crate does not know.
    UnknownVersion(u8),
    /// The data ends inside a field.
    Truncated,
    /// Longer than [`MAX_PACKET`].
    TooLong(usize),
    /// A field holds a value the layout does not allow.
    InvalidField(&'static str),
}

impl std::fmt::Display for FeedbackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFeedback => f.write_str("not a feedback packet: the magic is missing"),
            Self::UnknownVersion(version) => {
                write!(
                    f,
                    "feedback version {version} is not known, this side reads version {VERSION}"
                )
            }
            Self::Truncated => f.write_str("feedback packet is cut off"),
            Self::TooLong(length) => {
                write!(
                    f,
                    "feedback packet of {length} bytes is longer than the limit of {MAX_PACKET}"
                )
            }
            Self::InvalidField(field) => write!(f, "feedback packet holds an invalid value in field \"{field}\""),
        }
    }
}

impl std::error::Error for FeedbackError {}

/// Number of columns of the region table.
const COLUMNS: usize = 9;
/// Name and largest value of each column, in wire order.
const LIMITS: [(&str, u32); COLUMNS] = [
    ("x", MAX_GRID_UNITS),
    ("y", MAX_GRID_UNITS),
    ("width", MAX_GRID_UNITS),
    ("height", MAX_GRID_UNITS),
    ("quality", MAX_QP as u32 + 1),
    ("dx", 2 * MAX_MOTION as u32),
    ("dy", 2 * MAX_MOTION as u32),
    ("time to live", MAX_TTL_MS / TTL_UNIT_MS),
    ("frame offset", MAX_FRAME_OFFSET as u32),
];
/// Bytes before the frame number: magic, version, length, stream id, generation, part.
const FIXED_HEADER: usize = 12;
/// Where the length stands.
const LENGTH: usize = 3;
/// Bits of the region count.
const COUNT_BITS: u32 = 9;

/// A region as the unsigned numbers of the wire.
#[derive(Clone, Copy)]
struct Columns([u32; COLUMNS]);

impl Columns {
    fn of(region: &Region) -> Self {
        let axis = |start: u32, length: u32| {
            let first = start / GRID;
            let end = (u64::from(start) + u64::from(length)).div_ceil(u64::from(GRID));
            // An empty side requests nothing; growing it to a grid unit would invent a region.
            let units = if length == 0 { 0 } else { end - u64::from(first) };
            (first.min(MAX_GRID_UNITS), units.min(u64::from(MAX_GRID_UNITS)) as u32)
        };
        let biased = |v: i16| (i32::from(v.clamp(-MAX_MOTION, MAX_MOTION)) + i32::from(MAX_MOTION)) as u32;
        let (x, width) = axis(region.rect.x, region.rect.width);
        let (y, height) = axis(region.rect.y, region.rect.height);
        let quality = match region.quality {
            Quality::Camera => 0,
            Quality::Qp(qp) => u32::from(qp.min(MAX_QP)) + 1,
        };
        Self([
            x,
            y,
            width,
            height,
            quality,
            biased(region.motion.dx),
            biased(region.motion.dy),
            region.ttl_ms.min(MAX_TTL_MS).div_ceil(TTL_UNIT_MS),
            u32::from(region.frame_offset.min(MAX_FRAME_OFFSET)),
        ])
    }

    fn region(&self) -> Region {
        let [x, y, width, height, quality, dx, dy, ttl, offset] = self.0;
        let unbiased = |v: u32| v as i16 - MAX_MOTION;
        Region {
            rect: Rect {
                x: x * GRID,
                y: y * GRID,
                width: width * GRID,
                height: height * GRID,
            },
            quality: if quality == 0 {
                Quality::Camera
            } else {
                Quality::Qp((quality - 1) as u8)
            },
            motion: Motion {
                dx: unbiased(dx),
                dy: unbiased(dy),
            },
            ttl_ms: ttl * TTL_UNIT_MS,
            frame_offset: offset as u8,
        }
    }
}

/// Lowest and highest value of each column over some regions.
#[derive(Clone, Copy)]
struct Ranges([(u32, u32); COLUMNS]);

impl Ranges {
    const EMPTY: Self = Self([(u32::MAX, 0); COLUMNS]);

    fn with(mut self, row: &Columns) -> Self {
        for ((low, high), &value) in self.0.iter_mut().zip(&row.0) {
            *low = value.min(*low);
            *high = value.max(*high);
        }
        self
    }

    /// Bits of a region table of `count` rows, count field included.
    fn table_bits(&self, count: usize) -> usize {
        if count == 0 {
            return COUNT_BITS as usize;
        }
        let columns = self.0.iter().map(|&(low, high)| column_bits(low, high, count));
        COUNT_BITS as usize + columns.sum::<usize>()
    }
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Reads a little-endian base 128 number; returns it with its bytes. Only the shortest form is allowed, so that one
/// value has one encoding.
fn read_varint(data: &[u8]) -> Result<(u64, usize), FeedbackError> {
    let mut value = 0u64;
    for (i, &byte) in data.iter().take(10).enumerate() {
        let digit = u64::from(byte & 0x7f);
        if i == 9 && digit > 1 {
            return Err(FeedbackError::InvalidField("frame"));
        }
        value |= digit << (7 * i);
        if byte & 0x80 == 0 {
            return if i > 0 && byte == 0 {
                Err(FeedbackError::InvalidField("frame"))
            } else {
                Ok((value, i + 1))
            };
        }
    }
    Err(if data.len() < 10 {
        FeedbackError::Truncated
    } else {
        FeedbackError::InvalidField("frame")
    })
}

/// Encodes a generation. Regions are quantised; those above [`MAX_REGIONS`] are dropped from the tail and counted.
/// Returns at least one packet: an empty list is a message too.
pub fn encode(state: &FeedbackState) -> EncodedFeedback {
    let rows: Vec<Columns> = state.regions.iter().take(MAX_REGIONS).map(Columns::of).collect();
    let room = MAX_PACKET - FIXED_HEADER - varint_bytes(state.frame);
    let wishes = if state.wishes.is_empty() { 0 } else { wish::MAX_BYTES };

    let mut groups: Vec<(&[Columns], Ranges)> = Vec::new();
    let mut rest = rows.as_slice();
    loop {
        let mut ranges = Ranges::EMPTY;
        let mut count = 0;
        // They stand in the first packet.
        let room = if groups.is_empty() { room - wishes } else { room } * 8;
        while let Some(row) = rest.get(count) {
            let wider = ranges.with(row);
            if wider.table_bits(count + 1) > room {
                break;
            }
            ranges = wider;
            count += 1;
        }
        let (group, after) = rest.split_at(count);
        groups.push((group, ranges));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }

    let parts = groups.len();
    let packets = groups
        .iter()
        .enumerate()
        .map(|(part, (group, ranges))| packet(state, part, parts, group, ranges));
    EncodedFeedback {
        packets: packets.collect(),
        dropped_regions: state.regions.len() - rows.len(),
    }
}

fn packet(state: &FeedbackState, part: usize, parts: usize, rows: &[Columns], ranges: &Ranges) -> Vec<u8> {
    let bytes = FIXED_HEADER + varint_bytes(state.frame) + ranges.table_bits(rows.len()).div_ceil(8);
    let mut out = Vec::with_capacity(bytes + wish::MAX_BYTES);
    out.extend(MAGIC);
    out.push(VERSION);
    out.extend([0; 2]);
    out.extend(state.stream_id.to_be_bytes());
    out.extend(state.generation.0.to_be_bytes());
    // 256 of the largest regions need three packets, so that both numbers fit their nibble.
    out.push((part as u8) << 4 | (parts - 1) as u8);
    let mut frame = state.frame;
    while frame >= 0x80 {
        out.push(frame as u8 | 0x80);
        frame >>= 7;
    }
    out.push(frame as u8);

    let mut bits = BitWriter::new(&mut out);
    bits.push(rows.len() as u32, COUNT_BITS);
    if !rows.is_empty() {
        for (column, &(low, high)) in ranges.0.iter().enumerate() {
            bits.push_column(low, high, rows.iter().map(|row| row.0[column]));
        }
    }
    if part == 0 {
        state.wishes.write(&mut out);
    }
    set_length(&mut out);
    out
}

/// The packet with these wishes in place of its own, and without records that are not known here. Where they do not fit
/// into a packet, it has none: less is wished then, never more. For programs that pass on the feedback of one server and
/// join the wishes of several.
///
/// # Errors
/// The [`FeedbackError`] of [`decode`]; also [`FeedbackError::InvalidField`] for wishes outside the first part.
pub fn with_wishes(packet: &[u8], wishes: &Wishes) -> Result<Vec<u8>, FeedbackError> {
    let part = decode(packet)?;
    if part.part > 0 && !wishes.is_empty() {
        return Err(FeedbackError::InvalidField("wishes outside the first part"));
    }
    let (_, rest) = header(packet)?;
    let (_, frame_bytes) = read_varint(rest)?;
    let (_, table_bytes) = read_table(&rest[frame_bytes..])?;
    let mut out = packet[..FIXED_HEADER + frame_bytes + table_bytes].to_vec();
    let plain = out.len();
    wishes.write(&mut out);
    if out.len() > MAX_PACKET {
        out.truncate(plain);
    }
    set_length(&mut out);
    Ok(out)
}

/// Writes the length into the header of a packet.
fn set_length(packet: &mut [u8]) {
    let length = (packet.len() as u16).to_be_bytes();
    packet[LENGTH..LENGTH + 2].copy_from_slice(&length);
}

/// Length declared by a packet of any version, where the fixed first five bytes are present and begin with the magic.
pub(crate) fn declared_length(data: &[u8]) -> Option<usize> {
    match data {
        [m0, m1, _, high, low, ..] if [*m0, *m1] == MAGIC => Some(usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// The stream that a packet is for, read from its fixed header alone, so that foreign packets can be dropped at no
/// further cost. A packet that passes may still be refused by [`decode`].
///
/// # Errors
/// The [`FeedbackError`] of [`decode`].
pub fn addressee(packet: &[u8]) -> Result<u32, FeedbackError> {
    let (&[_, _, _, _, _, s0, s1, s2, s3, ..], _) = header(packet)?;
    Ok(u32::from_be_bytes([s0, s1, s2, s3]))
}

/// The fixed header of a packet of this version and the bytes after it.
fn header(packet: &[u8]) -> Result<(&[u8; FIXED_HEADER], &[u8]), FeedbackError> {
    if packet.iter().zip(&MAGIC).any(|(a, b)| a != b) {
        return Err(FeedbackError::NotFeedback);
    }
    let version = *packet.get(MAGIC.len()).ok_or(FeedbackError::Truncated)?;
    if version != VERSION {
        return Err(FeedbackError::UnknownVersion(version));
    }
    if packet.len() > MAX_PACKET {
        return Err(FeedbackError::TooLong(packet.len()));
    }
    let length = declared_length(packet).ok_or(FeedbackError::Truncated)?;
    if length > MAX_PACKET {
        return Err(FeedbackError::TooLong(length));
    }
    if packet.len() < length {
        return Err(FeedbackError::Truncated);
    }
    if packet.len() > length {
        return Err(FeedbackError::InvalidField("length"));
    }
    packet.split_first_chunk().ok_or(FeedbackError::Truncated)
}

/// Decodes one packet. The packet must end at the length in its header: remove the padding of a carrier first
/// ([`crate::rtcp::strip_app_data`]).
///
/// # Errors
/// [`FeedbackError`] where the bytes are not a whole, valid packet of a known version.
pub fn decode(packet: &[u8]) -> Result<FeedbackPart, FeedbackError> {
    let (&[_, _, _, _, _, s0, s1, s2, s3, g0, g1, part], rest) = header(packet)?;
    let (part, parts) = (part >> 4, (part & 15) + 1);
    if part >= parts {
        return Err(FeedbackError::InvalidField("part"));
    }
    let (frame, frame_bytes) = read_varint(rest)?;
    let table = &rest[frame_bytes..];
    let (regions, table_bytes) = read_table(table)?;
    let (wishes, skipped_extension) = Wishes::read(&table[table_bytes..]).map_err(FeedbackError::InvalidField)?;
    if part > 0 && !wishes.is_empty() {
        return Err(FeedbackError::InvalidField("wishes outside the first part"));
    }
    Ok(FeedbackPart {
        stream_id: u32::from_be_bytes([s0, s1, s2, s3]),
        generation: Serial16(u16::from_be_bytes([g0, g1])),
        frame,
        part,
        parts,
        regions,
        wishes,
        skipped_extension,
    })
}

/// Reads the region table; returns the regions and the bytes read.
fn read_table(data: &[u8]) -> Result<(Vec<Region>, usize), FeedbackError> {
    let mut bits = BitReader::new(data);
    let count = bits.read(COUNT_BITS).ok_or(FeedbackError::Truncated)? as usize;
    if count > MAX_REGIONS {
        return Err(FeedbackError::InvalidField("region count"));
    }
    let mut rows = vec![Columns([0; COLUMNS]); count];
    if count > 0 {
        for (column, &(name, limit)) in LIMITS.iter().enumerate() {
            let values = bits.read_column(count).ok_or(FeedbackError::Truncated)?;
            for (row, value) in rows.iter_mut().zip(values) {
                if value > limit {
                    return Err(FeedbackError::InvalidField(name));
                }
                row.0[column] = value;
            }
        }
    }
    let (bytes, unused) = bits.align();
    if unused != 0 {
        return Err(FeedbackError::InvalidField("unused bits"));
    }
    Ok((rows.iter().map(Columns::region).collect(), bytes))
}
