// SPDX-License-Identifier: MPL-2.0

//! Records after the last field of the frame identity: what a camera of two passes adds, and what is in force where a
//! server may wish.

use crate::bits::{BitReader, BitWriter, column_bits};
use crate::feedback::{MAX_QP, MAX_REGIONS, Rect};
use crate::identity::{IdentityError, PAYLOAD_BYTES};

/// Grid of the rectangles of a refinement in pixels: a macroblock.
pub const REFINED_GRID: u32 = 16;
/// Most refused frames that one access unit names.
pub const MAX_REFUSED: usize = 127;
/// Most frames that a refused frame may be behind.
pub const MAX_REFUSED_BACK: u64 = u16::MAX as u64;

/// Record types.
const FULL_SIZE: u8 = 1;
const SEGMENT: u8 = 2;
const REFUSED: u8 = 3;
const REFINED: u8 = 4;
const IN_FORCE: u8 = 5;
const REPEATED: u8 = 6;

/// Most bytes of a record's data.
const MAX_RECORD: usize = 255;
/// Largest position or size of a rectangle in macroblocks.
const MAX_UNITS: u32 = 4095;

/// Position of a frame in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// 0 for the first frame of the segment.
    pub position: u8,
    /// Frames in the segment, 1..=32; the last one may be shorter.
    pub length: u8,
}

/// What bounds a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Bound {
    /// Nothing: the wish is in force as it is, or there is none.
    #[default]
    None,
    /// A setting of the user.
    User,
    /// The cap of the bit rate.
    Cap,
    /// The bandwidth that is set or measured.
    Bandwidth,
    /// Loss or damage: full rate until the picture is whole.
    Loss,
    /// No server steers.
    Fallback,
    /// A viewer that gives no feedback.
    Viewer,
    /// Another server.
    Server,
    /// A mode of the encoder in which this cannot be wished.
    Mode,
    /// One that this crate does not know.
    Other,
}

impl Bound {
    /// By their number on the wire.
    const ALL: [Self; 9] = [
        Self::None,
        Self::User,
        Self::Cap,
        Self::Bandwidth,
        Self::Loss,
        Self::Fallback,
        Self::Viewer,
        Self::Server,
        Self::Mode,
    ];

    fn number(self) -> u8 {
        Self::ALL.iter().position(|bound| *bound == self).unwrap_or(15) as u8
    }

    fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Other)
    }
}

/// What bounds each kind of wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Bounds {
    /// The quantizers.
    pub quantizer: Bound,
    /// The interval of sent pictures.
    pub interval: Bound,
    /// The ceiling. Any but [`Bound::None`] also where it is exceeded because neither quantizers nor interval may go
    /// further.
    pub ceiling: Bound,
}

/// What is in force in a stream of which a server may wish ([`crate::wish`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct InForce {
    /// Quantizer outside regions.
    pub background_qp: u8,
    /// Quantizer of regions that do not name their own.
    pub region_qp: u8,
    /// Every n-th captured picture is sent.
    pub interval: u8,
    /// Most kbit/s, the lowest of all ceilings; 0: none.
    pub ceiling_kbps: u32,
    /// What bounds the wishes.
    pub bounds: Bounds,
}

impl InForce {
    const BYTES: u8 = 9;

    fn write(&self, out: &mut Vec<u8>) {
        let (background, region) = (self.background_qp.min(MAX_QP), self.region_qp.min(MAX_QP));
        out.extend([IN_FORCE, Self::BYTES, background, region, self.interval.max(1)]);
        out.extend(self.ceiling_kbps.to_be_bytes());
        let Bounds {
            quantizer,
            interval,
            ceiling,
        } = self.bounds;
        out.extend([quantizer.number() << 4 | interval.number(), ceiling.number() << 4]);
    }

    fn read(data: &[u8]) -> Option<Self> {
        let &[
            background_qp,
            region_qp,
            interval @ 1..=u8::MAX,
            k3,
            k2,
            k1,
            k0,
            bounds,
            ceiling,
        ] = data
        else {
            return None;
        };
        Some(Self {
            background_qp,
            region_qp,
            interval,
            ceiling_kbps: u32::from_be_bytes([k3, k2, k1, k0]),
            bounds: Bounds {
                quantizer: Bound::of(bounds >> 4),
                interval: Bound::of(bounds & 15),
                ceiling: Bound::of(ceiling >> 4),
            },
        })
        .filter(|read| background_qp.max(read.region_qp) <= MAX_QP)
    }
}

/// Records after the fields of a frame identity. Empty for streams of one pass of which nothing can be wished.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Extension {
    /// Width and height of the captured picture in pixels, where the coded one is smaller. On recovery points.
    pub full_size: Option<(u16, u16)>,
    /// Position in the segment, where the camera uses segments.
    pub segment: Option<Segment>,
    /// Frames whose requested refinement will not come; no newer than this frame.
    pub refused: Vec<u64>,
    /// Rectangles of the picture that this access unit refines, on a grid of [`REFINED_GRID`] pixels. The rest of the
    /// picture has no useful contents.
    pub refined: Vec<Rect>,
    /// What is in force, where a server may wish. On recovery points, on changes, and at least once a second.
    pub in_force: Option<InForce>,
    /// The picture repeats the one before by skipped macroblocks, for recorders that count pictures; the capture of
    /// this number was not sent.
    pub repeated: bool,
}

impl Extension {
    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Appends the records. `frame` is the number of the frame they belong to. Refused frames beyond [`MAX_REFUSED`],
    /// newer than `frame` or further back than [`MAX_REFUSED_BACK`], and rectangles beyond [`MAX_REGIONS`] are left out;
    /// rectangles grow outward to the grid.
    pub(crate) fn write(&self, frame: u64, out: &mut Vec<u8>) {
        if let Some((width, height)) = self.full_size {
            out.extend([FULL_SIZE, 4]);
            out.extend(width.to_be_bytes());
            out.extend(height.to_be_bytes());
        }
        if let Some(segment) = self.segment {
            out.extend([SEGMENT, 2, segment.position, segment.length]);
        }
        let refused: Vec<u16> = self
            .refused
            .iter()
            .filter_map(|refused| u16::try_from(frame.checked_sub(*refused)?).ok())
            .take(MAX_REFUSED)
            .collect();
        if !refused.is_empty() {
            out.extend([REFUSED, 2 * refused.len() as u8]);
            refused.iter().for_each(|back| out.extend(back.to_be_bytes()));
        }
        if let Some(in_force) = self.in_force {
            in_force.write(out);
        }
        if self.repeated {
            out.extend([REPEATED, 0]);
        }
        let rows: Vec<[u32; 4]> = self.refined.iter().take(MAX_REGIONS).map(units).collect();
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let count = (1..=rest.len().min(255))
                .rev()
                .find(|n| table_bytes(&rest[..*n]) <= MAX_RECORD)
                .unwrap_or(1);
            let (now, later) = rest.split_at(count);
            out.extend([REFINED, table_bytes(now) as u8, count as u8]);
            let mut bits = BitWriter::new(out);
            for column in 0..4 {
                let (low, high) = limits(now, column);
                bits.push_column(low, high, now.iter().map(|row| row[column]));
            }
            rest = later;
        }
    }

    /// Reads the records of an identity payload (UUID included, emulation prevention removed) of frame `frame`. Records
    /// of types not known here are skipped.
    ///
    /// # Errors
    /// [`IdentityError::InvalidField`] with the name of the record that cannot be read.
    pub fn from_payload(payload: &[u8], frame: u64) -> Result<Self, IdentityError> {
        let mut extension = Self::default();
        let mut rest = payload.get(PAYLOAD_BYTES..).unwrap_or_default();
        while let Some((&kind, after)) = rest.split_first() {
            let data = after
                .split_first()
                .and_then(|(&length, data)| data.split_at_checked(usize::from(length)));
            let Some((data, after)) = data else {
                return Err(IdentityError::InvalidField("extension record length"));
            };
            rest = after;
            match (kind, data) {
                (FULL_SIZE, &[w1, w0, h1, h0]) => {
                    extension.full_size = Some((u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0])));
                }
                (FULL_SIZE, _) => return Err(IdentityError::InvalidField("full size")),
                (SEGMENT, &[position, length]) if position < length && length <= 32 => {
                    extension.segment = Some(Segment { position, length });
                }
                (SEGMENT, _) => return Err(IdentityError::InvalidField("segment")),
                (REFUSED, data) if data.len().is_multiple_of(2) => {
                    for back in data.chunks_exact(2) {
                        let back = u64::from(u16::from_be_bytes([back[0], back[1]]));
                        let refused = frame
                            .checked_sub(back)
                            .ok_or(IdentityError::InvalidField("refused frames"))?;
                        extension.refused.push(refused);
                    }
                }
                (REFUSED, _) => return Err(IdentityError::InvalidField("refused frames")),
                (IN_FORCE, data) => {
                    let read = InForce::read(data).ok_or(IdentityError::InvalidField("in force"))?;
                    extension.in_force = Some(read);
                }
                (REPEATED, []) => extension.repeated = true,
                (REPEATED, _) => return Err(IdentityError::InvalidField("repeated")),
                (REFINED, data) => {
                    let rects = read_table(data).ok_or(IdentityError::InvalidField("refined regions"))?;
                    extension.refined.extend(rects);
                    if extension.refined.len() > MAX_REGIONS {
                        return Err(IdentityError::InvalidField("refined regions"));
                    }
                }
                _ => (),
            }
        }
        Ok(extension)
    }
}

/// A rectangle in macroblocks, grown outward.
fn units(rect: &Rect) -> [u32; 4] {
    let axis = |start: u32, length: u32| {
        let first = (start / REFINED_GRID).min(MAX_UNITS);
        let end = start.saturating_add(length).div_ceil(REFINED_GRID);
        (first, end.saturating_sub(first).min(MAX_UNITS))
    };
    let (x, width) = axis(rect.x, rect.width);
    let (y, height) = axis(rect.y, rect.height);
    [x, y, width, height]
}

fn limits(rows: &[[u32; 4]], column: usize) -> (u32, u32) {
    let values = || rows.iter().map(|row| row[column]);
    (values().min().unwrap_or(0), values().max().unwrap_or(0))
}

/// Bytes of a record of these rectangles, count included.
fn table_bytes(rows: &[[u32; 4]]) -> usize {
    let bits = (0..4).map(|column| {
        let (low, high) = limits(rows, column);
        column_bits(low, high, rows.len())
    });
    1 + bits.sum::<usize>().div_ceil(8)
}

fn read_table(data: &[u8]) -> Option<Vec<Rect>> {
    let (&count, table) = data.split_first()?;
    let mut bits = BitReader::new(table);
    let mut columns = [const { Vec::new() }; 4];
    for column in &mut columns {
        *column = bits.read_column(usize::from(count))?;
        if column.iter().any(|value| *value > MAX_UNITS) {
            return None;
        }
    }
    let (bytes, unused) = bits.align();
    if bytes != table.len() || unused != 0 {
        return None;
    }
    let [x, y, width, height] = columns;
    let rects = x.iter().zip(&y).zip(width.iter().zip(&height));
    Some(
        rects
            .map(|((x, y), (width, height))| Rect {
                x: x * REFINED_GRID,
                y: y * REFINED_GRID,
                width: width * REFINED_GRID,
                height: height * REFINED_GRID,
            })
            .collect(),
    )
}
