// SPDX-License-Identifier: MPL-2.0

//! Reads the stream's caps.

#![forbid(unsafe_code)]

use dds_protocol::nal::Codec;

use crate::rtp::selector::Format;

/// Fields of the caps.
#[derive(Debug)]
pub(super) struct Stream {
    pub caps: gst::Caps,
    pub payload_type: Option<u8>,
    /// The sender accepts picture loss indications.
    pub takes_pli: bool,
}

/// Reads caps.
///
/// # Errors
/// The reason and the cure, in words.
pub(super) fn read(caps: &gst::Caps) -> Result<(Stream, Format), String> {
    let s = caps.structure(0).ok_or("the caps are empty")?;
    if let Ok(media) = s.get::<&str>("media")
        && media != "video"
    {
        return Err(format!(
            "it receives video, not media={media}: take rtpbin for that stream"
        ));
    }
    match s.get::<i32>("clock-rate") {
        Ok(1..) => (),
        _ => return Err("the caps have no clock-rate: add clock-rate=90000 to those of the source".into()),
    }
    let is_set = |field: &str| s.has_field(field);
    // In the interleaved mode of RFC 6184, packets of several pictures mix.
    let interleaved = s.get::<&str>("packetization-mode").is_ok_and(|mode| mode == "2");
    let name = s.get::<&str>("encoding-name").unwrap_or_default();
    let format = match name {
        "H264" if !interleaved => Format::Video {
            codec: Codec::H264,
            parameters: is_set("sprop-parameter-sets"),
        },
        "H265" => Format::Video {
            codec: Codec::H265,
            parameters: is_set("sprop-sps") && is_set("sprop-pps"),
        },
        _ => Format::Other,
    };
    let stream = Stream {
        caps: caps.clone(),
        payload_type: s.get::<i32>("payload").ok().and_then(|p| u8::try_from(p).ok()),
        takes_pli: is_set("rtcp-fb-nack-pli"),
    };
    Ok((stream, format))
}

/// The caps with this SSRC.
pub(super) fn with_ssrc(caps: &gst::Caps, ssrc: u32) -> gst::Caps {
    let mut caps = caps.clone();
    caps.make_mut().set("ssrc", ssrc);
    caps
}
