// SPDX-License-Identifier: MPL-2.0

//! Completes the SDP of the streams.

#![forbid(unsafe_code)]

use dds_protocol::nal;
use gst::prelude::*;
use gst_dds_link::text;

use crate::elements::guard;

/// Fields that the SDP takes from the stream's caps: that clients may request a key frame by RTCP (RFC 4585, section
/// 4.2), and profile and level, which default to Baseline 1 (RFC 6184, section 8.1; the payloader of 1.22 reads them
/// from `avc` only).
pub(crate) fn complete_description(pad: &gst::Pad) {
    let guarded = guard("the probe on caps");
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        guarded.run((), || {
            if let Some(gst::PadProbeData::Event(event)) = &info.data
                && let gst::EventView::Caps(caps) = event.view()
                && !caps.caps().is_empty()
                && !caps.caps().is_any()
            {
                let mut caps = caps.caps_owned();
                let fields = caps.make_mut();
                fields.set("rtcp-fb-nack-pli", true);
                for (name, value) in profile_tier_level(fields).into_iter().flatten() {
                    fields.set(name, value);
                }
                let known = fields.structure(0).is_some_and(|s| s.has_field("profile-level-id"));
                if let Some(id) = profile_level_id(fields).filter(|_| !known) {
                    fields.set("profile-level-id", id);
                }
                info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
            }
        });
        gst::PadProbeReturn::Ok
    });
}

/// The three bytes after the header of the first sequence parameter set, in hexadecimal digits.
fn profile_level_id(caps: &gst::CapsRef) -> Option<String> {
    let sets = text::field(caps.structure(0)?, "sprop-parameter-sets")?;
    let sps = glib::base64_decode(sets.split(',').next()?);
    let &[header, profile, constraints, level, ..] = sps.as_slice() else {
        return None;
    };
    (header & 0x1f == 7).then(|| format!("{profile:02x}{constraints:02x}{level:02x}"))
}

/// Profile, tier and level of an H.265 stream (RFC 7798, section 7.1), from its sequence parameter set; a description
/// without them means Main at level 3.1.
fn profile_tier_level(caps: &gst::CapsRef) -> Option<[(&'static str, String); 3]> {
    let sps = glib::base64_decode(caps.structure(0)?.get::<&str>("sprop-sps").ok()?.split(',').next()?);
    // Two bytes of header, one in front of profile_tier_level, where emulation prevention may stand among the many zeros.
    let fields = nal::unescape(sps.get(3..)?);
    let (profile, level) = (*fields.first()?, *fields.get(11)?);
    Some([
        ("profile-id", (profile & 0x1f).to_string()),
        ("tier-flag", (profile >> 5 & 1).to_string()),
        ("level-id", level.to_string()),
    ])
}
