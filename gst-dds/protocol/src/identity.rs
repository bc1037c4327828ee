// SPDX-License-Identifier: MPL-2.0

//! Frame identity: the camera's name of each access unit, as an SEI `user_data_unregistered` message of H.264 or H.265.

/// UUID of the SEI message (random version 4, fixed for this project).
pub const UUID: [u8; 16] = [
    0x5d, 0x1b, 0x9a, 0x3e, 0x6c, 0x47, 0x4f, 0x0a, 0x9e, 0x2d, 0xd3, 0x70, 0x84, 0xb6, 0x11, 0xc9,
];

/// Version written by this crate.
pub const VERSION: u8 = 1;

/// Bytes of the version 1 payload, UUID included.
pub const PAYLOAD_BYTES: usize = 52;

/// Set in the kind byte where decoding may start.
const RECOVERY_FLAG: u8 = 0x10;
/// The bits of the kind byte that hold the stream kind.
const KIND_MASK: u8 = 0x0f;

/// The stream of a camera that an access unit belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// The only stream: one pass, regions by quantizer offsets.
    Single,
    /// First pass of two: whole frames in low quality.
    Low,
    /// Second pass of two: the regions that the server requested.
    Refine,
}

/// The camera's data about one coded access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameIdentity {
    /// Which of the camera's streams.
    pub kind: StreamKind,
    /// Random per encoder start: distinguishes each run of each camera.
    pub stream_id: u32,
    /// Number of the captured frame since encoder start; skipped captures leave gaps here.
    pub frame: u64,
    /// Capture time in UNIX nanoseconds; 0 where the camera does not know it.
    pub capture_time_ns: u64,
    /// Counts coded access units of this stream, wrapping: a gap is a loss, never a skipped capture.
    pub access_unit: u32,
    /// Decoding may start here: an IDR picture (or a recovery point).
    pub recovery: bool,
    /// Slice NAL units in this access unit.
    pub slices: u16,
    /// Bytes of those NAL units, NAL header and emulation prevention included, start code or length prefix not.
    pub slice_bytes: u32,
    /// Checksum of those bytes: [`crate::nal::SliceCount::checksum`].
    pub slice_checksum: u32,
}

/// Why a payload is not a frame identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// Another UUID: not our message.
    NotOurs,
    /// A version this crate does not know.
    UnknownVersion(u8),
    /// Fewer bytes than the version needs.
    TooShort {
        /// Bytes needed.
        needed: usize,
        /// Bytes present.
        got: usize,
    },
    /// A field holds a value the layout does not allow.
    InvalidField(&'static str),
}

impl std::fmt::Display for IdentityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotOurs => f.write_str("not a frame identity: another UUID"),
            Self::UnknownVersion(version) => {
                write!(
                    f,
                    "frame identity version {version} is not known, this side reads version {VERSION}"
                )
            }
            Self::TooShort { needed, got } => write!(f, "frame identity has {got} bytes, {needed} are needed"),
            Self::InvalidField(field) => write!(f, "frame identity holds an invalid value in field \"{field}\""),
        }
    }
}

impl std::error::Error for IdentityError {}

impl FrameIdentity {
    /// The SEI payload: UUID, then the layout in the README ([`PAYLOAD_BYTES`] in all). No emulation prevention (that
    /// is the NAL writer's).
    pub fn to_payload(&self) -> Vec<u8> {
        let kind = match self.kind {
            StreamKind::Single => 0,
            StreamKind::Low => 1,
            StreamKind::Refine => 2,
        };
        let mut out = Vec::with_capacity(PAYLOAD_BYTES);
        out.extend(UUID);
        out.push(VERSION);
        out.push(if self.recovery { kind | RECOVERY_FLAG } else { kind });
        out.extend(self.stream_id.to_be_bytes());
        out.extend(self.frame.to_be_bytes());
        out.extend(self.capture_time_ns.to_be_bytes());
        out.extend(self.access_unit.to_be_bytes());
        out.extend(self.slices.to_be_bytes());
        out.extend(self.slice_bytes.to_be_bytes());
        out.extend(self.slice_checksum.to_be_bytes());
        out
    }

    /// Reads an SEI `user_data_unregistered` payload (emulation prevention already removed). Bytes after the known
    /// layout are a later extension and skipped.
    ///
    /// # Errors
    /// [`IdentityError`]; [`IdentityError::NotOurs`] also for payloads too short to hold a UUID.
    pub fn from_payload(payload: &[u8]) -> Result<Self, IdentityError> {
        let body = payload.strip_prefix(&UUID).ok_or(IdentityError::NotOurs)?;
        let too_short = IdentityError::TooShort {
            needed: PAYLOAD_BYTES,
            got: payload.len(),
        };
        let version = *body.first().ok_or(too_short)?;
        if version != VERSION {
            return Err(IdentityError::UnknownVersion(version));
        }
        if payload.len() < PAYLOAD_BYTES {
            return Err(too_short);
        }
        let mut fields = Fields(&body[1..]);
        // Flags this version does not know are a later extension and ignored; the kind decides how the access unit can
        // be used, so an unknown one is refused.
        let [kind_and_flags] = fields.take()?;
        Ok(Self {
            kind: match kind_and_flags & KIND_MASK {
                0 => StreamKind::Single,
                1 => StreamKind::Low,
                2 => StreamKind::Refine,
                _ => return Err(IdentityError::InvalidField("stream kind")),
            },
            recovery: kind_and_flags & RECOVERY_FLAG != 0,
            stream_id: u32::from_be_bytes(fields.take()?),
            frame: u64::from_be_bytes(fields.take()?),
            capture_time_ns: u64::from_be_bytes(fields.take()?),
            access_unit: u32::from_be_bytes(fields.take()?),
            slices: u16::from_be_bytes(fields.take()?),
            slice_bytes: u32::from_be_bytes(fields.take()?),
            slice_checksum: u32::from_be_bytes(fields.take()?),
        })
    }
}

/// Takes fields off the front of a payload.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], IdentityError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(IdentityError::TooShort {
            needed: N,
            got: self.0.len(),
        })?;
        self.0 = rest;
        Ok(*field)
    }
}
