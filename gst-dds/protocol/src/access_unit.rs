// SPDX-License-Identifier: MPL-2.0

//! Identity messages in access units: writes them as NAL units, finds them, and checks slices against them.

use crate::extension::Extension;
use crate::identity::{FrameIdentity, IdentityError};
use crate::nal::{Codec, Format, NalKind, SEI_USER_DATA_UNREGISTERED, SliceCount, nal_units, sei_messages, unescape};

/// `nal_unit_type` of H.265's suffix SEI.
const SUFFIX_SEI: u8 = 40;

/// Messages of ours that are examined in one access unit beside the first.
const MAX_MESSAGES: usize = 8;

/// Everything in an access unit that the damage tracker needs, found in one walk.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AccessUnitSummary {
    /// The slices present.
    pub slices: SliceCount,
    /// Our identity message; `Some(Err(_))` where the UUID is ours and the rest is not readable.
    pub identity: Option<Result<FrameIdentity, IdentityError>>,
    /// Records of that message; none where they are not readable.
    pub extension: Extension,
    /// The first slice present is the first one of its picture.
    pub from_start: bool,
    /// The beginning of the first slice NAL unit, header included: [`Self::HEAD_BYTES`] at most.
    pub head: Vec<u8>,
    /// Video (H.265), sequence and picture parameter sets.
    pub parameter_sets: Vec<Vec<u8>>,
    /// Further readable messages, until [`Self::settle`].
    others: Vec<(FrameIdentity, Extension)>,
}

/// Our identity message with its records, or why it cannot be read.
pub type Message = Result<(FrameIdentity, Extension), IdentityError>;

/// Limits of the parameter sets kept of one access unit, and of the largest one: far above what encoders write.
const MAX_PARAMETER_SETS: usize = 16;
const MAX_PARAMETER_SET: usize = 1024;

impl AccessUnitSummary {
    /// Bytes kept of the first slice: far above what precedes a picture's number.
    pub const HEAD_BYTES: usize = 32;

    /// Adds one slice NAL unit.
    pub fn add_slice(&mut self, codec: Codec, nal: &[u8]) {
        if self.slices.slices == 0 {
            self.from_start = codec.begins_picture(nal);
            self.head = nal[..nal.len().min(Self::HEAD_BYTES)].to_vec();
        }
        self.slices.add(codec, nal);
    }

    /// Adds one NAL unit that is neither a slice nor has a message.
    pub fn add_other(&mut self, codec: Codec, nal: &[u8]) {
        let kept = self.parameter_sets.len() < MAX_PARAMETER_SETS && nal.len() <= MAX_PARAMETER_SET;
        if kept && codec.kind_of(nal) == NalKind::Parameters {
            self.parameter_sets.push(nal.to_vec());
        }
    }

    /// Adds one of our messages.
    pub fn add_message(&mut self, message: Message) {
        match (&self.identity, message) {
            (None | Some(Err(_)), Ok((identity, extension))) => {
                self.identity = Some(Ok(identity));
                self.extension = extension;
            }
            (None, Err(error)) => self.identity = Some(Err(error)),
            // Bounds the memory that a hostile stream can take.
            (Some(Ok(_)), Ok(further)) if self.others.len() < MAX_MESSAGES => self.others.push(further),
            _ => (),
        }
    }

    /// Chooses among several messages once all slices are known.
    pub fn settle(&mut self) {
        let others = std::mem::take(&mut self.others);
        if let Some(Ok(first)) = &self.identity
            && !self.slices.are_those_of(first)
            && let Some((identity, extension)) = others.into_iter().find(|(i, _)| self.slices.are_those_of(i))
        {
            self.identity = Some(Ok(identity));
            self.extension = extension;
        }
    }
}

impl Codec {
    /// Counts slices and finds our identity message among all SEI messages of all SEI NAL units. Of several, as left by
    /// remuxers that duplicate messages, the first one counts whose slices are present, else the first readable one.
    pub fn summarize(self, access_unit: &[u8], format: Format) -> AccessUnitSummary {
        let mut summary = AccessUnitSummary::default();
        for nal in nal_units(access_unit, format) {
            match self.kind_of(nal) {
                NalKind::Slice { .. } => summary.add_slice(self, nal),
                NalKind::Parameters => summary.add_other(self, nal),
                _ => self
                    .identities_of(nal)
                    .into_iter()
                    .for_each(|message| summary.add_message(message)),
            }
        }
        summary.settle();
        summary
    }

    /// Our identity messages in one SEI NAL unit (header included): one, unless several were merged. None in every
    /// other NAL unit.
    pub fn identities_of(self, nal: &[u8]) -> Vec<Message> {
        let suffix = self == Self::H265 && self.nal_type(nal) == Some(SUFFIX_SEI);
        if self.kind_of(nal) != NalKind::Sei && !suffix {
            return Vec::new();
        }
        let rbsp = unescape(nal.get(self.header_bytes()..).unwrap_or_default());
        sei_messages(&rbsp)
            .filter(|message| message.payload_type == SEI_USER_DATA_UNREGISTERED)
            .map(|message| {
                let identity = FrameIdentity::from_payload(message.payload)?;
                let extension = Extension::from_payload(message.payload, identity.frame).unwrap_or_default();
                Ok((identity, extension))
            })
            .filter(|message| *message != Err(IdentityError::NotOurs))
            .take(1 + MAX_MESSAGES)
            .collect()
    }
}

impl SliceCount {
    /// Whether these slices are all that an identity declares. A declaration of no slices is no picture and never
    /// holds.
    pub fn are_those_of(&self, identity: &FrameIdentity) -> bool {
        self.slices > 0
            && (self.slices, self.bytes, self.checksum)
                == (identity.slices, identity.slice_bytes, identity.slice_checksum)
    }
}

impl FrameIdentity {
    /// The whole SEI NAL unit (no start code): header, payload with emulation prevention, trailing bits.
    pub fn to_nal(&self, codec: Codec) -> Vec<u8> {
        self.to_nal_with(codec, &Extension::default())
    }

    /// As [`Self::to_nal`], with records after the identity.
    pub fn to_nal_with(&self, codec: Codec, extension: &Extension) -> Vec<u8> {
        let mut payload = self.to_payload();
        extension.write(self.frame, &mut payload);
        codec.sei_nal(SEI_USER_DATA_UNREGISTERED, &payload)
    }
}
