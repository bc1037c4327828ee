// SPDX-License-Identifier: MPL-2.0

//! Caps: the formats of the input, and profile, level and stream format of the output.

#![forbid(unsafe_code)]

use std::sync::LazyLock;

use gst_dds_link::text;
use gst_video::VideoFormat;

use crate::encoder::{
    Backend, Codec, Colour, Config, FieldOrder, Fields, OpenError, ParameterSets, PixelFormat, Sizes,
};

use super::settings::Settings;
use crate::cuda;
use crate::scale::scaled_size;

/// Formats of the sink pad, preferred ones first.
const FORMATS: [VideoFormat; 11] = [
    VideoFormat::I420,
    VideoFormat::Nv12,
    VideoFormat::Yv12,
    VideoFormat::Nv21,
    VideoFormat::Y42b,
    VideoFormat::Nv16,
    VideoFormat::Y444,
    VideoFormat::Gray8,
    VideoFormat::I42010le,
    VideoFormat::I42210le,
    VideoFormat::Y44410le,
];

/// Formats in the memory of a GPU, which only NVIDIA's encoder reads: its formats in its order.
const GPU_FORMATS: [VideoFormat; 3] = [VideoFormat::Nv12, VideoFormat::I420, VideoFormat::Yv12];

/// H.264 profiles of the source pad, richest first.
const PROFILES: [&str; 10] = [
    "high-4:4:4",
    "high-4:2:2",
    "high-10",
    "high",
    "main",
    "baseline",
    "constrained-baseline",
    "high-4:4:4-intra",
    "high-4:2:2-intra",
    "high-10-intra",
];

/// H.265 profiles of the source pad, richest first.
const PROFILES_H265: [&str; 2] = ["main-444", "main"];

/// Caps of the sink pad template.
pub(super) static SINK_CAPS: LazyLock<gst::Caps> = LazyLock::new(|| {
    let mut all = gst_video::VideoCapsBuilder::new().format_list(FORMATS).build();
    all.merge(on_gpu(GPU_FORMATS));
    all
});

/// Caps of the feedback pad. They have a media type of their own, or automatic linking would send video there whose
/// format the sink pad does not take. Sources without caps (`udpsrc`) link all the same.
pub(super) static FEEDBACK_CAPS: LazyLock<gst::Caps> = LazyLock::new(|| {
    [
        "application/x-dds-feedback",
        "application/x-rtcp",
        "application/octet-stream",
    ]
    .into_iter()
    .map(gst::Structure::new_empty)
    .collect()
});

/// Caps of video in the memory of a GPU.
fn on_gpu(formats: impl IntoIterator<Item = VideoFormat>) -> gst::Caps {
    gst_video::VideoCapsBuilder::new()
        .features([cuda::FEATURE])
        .format_list(formats)
        .build()
}

/// Whether buffers of these caps are in the memory of a GPU.
pub(super) fn is_on_gpu(caps: &gst::CapsRef) -> bool {
    caps.features(0)
        .is_some_and(|features| features.contains(cuda::FEATURE))
}

/// Caps of the source pad template.
pub(super) static SRC_CAPS: LazyLock<gst::Caps> = LazyLock::new(|| {
    let mut all = gst::Caps::new_empty();
    for (codec, profiles) in [(Codec::H264, &PROFILES[..]), (Codec::H265, &PROFILES_H265)] {
        let caps = gst::Caps::builder(media_type(codec))
            .field(
                "framerate",
                gst::FractionRange::new(gst::Fraction::new(0, 1), gst::Fraction::new(i32::MAX, 1)),
            )
            .field("width", gst::IntRange::new(1, i32::MAX))
            .field("height", gst::IntRange::new(1, i32::MAX))
            .field("stream-format", gst::List::new(stream_formats(codec)))
            .field("alignment", "au")
            .field("profile", gst::List::new(profiles))
            .build();
        all.merge(caps);
    }
    all
});

/// Media type of a standard's caps.
fn media_type(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "video/x-h264",
        Codec::H265 => "video/x-h265",
    }
}

/// Formats of a standard's stream, first the one with lengths and parameter sets in the caps.
fn stream_formats(codec: Codec) -> &'static [&'static str] {
    match codec {
        Codec::H264 => &["avc", "byte-stream"],
        Codec::H265 => &["hvc1", "byte-stream"],
    }
}

/// The given standards that downstream takes.
pub(super) fn codecs(allowed: Option<&gst::Caps>, offered: &[Codec]) -> Vec<Codec> {
    let takes =
        |codec: &Codec| allowed.is_none_or(|caps| caps.is_any() || caps.iter().any(|s| s.name() == media_type(*codec)));
    offered.iter().copied().filter(takes).collect()
}

/// The encoder's name of a video format, `None` where it has none.
pub(super) fn pixel_format(format: VideoFormat) -> Option<PixelFormat> {
    Some(match format {
        VideoFormat::I420 => PixelFormat::I420,
        VideoFormat::Nv12 => PixelFormat::Nv12,
        VideoFormat::Yv12 => PixelFormat::Yv12,
        VideoFormat::Nv21 => PixelFormat::Nv21,
        VideoFormat::Y42b => PixelFormat::I422,
        VideoFormat::Nv16 => PixelFormat::Nv16,
        VideoFormat::Y444 => PixelFormat::I444,
        VideoFormat::Gray8 => PixelFormat::Gray8,
        VideoFormat::I42010le => PixelFormat::I420P10,
        VideoFormat::I42210le => PixelFormat::I422P10,
        VideoFormat::Y44410le => PixelFormat::I444P10,
        _ => return None,
    })
}

/// Profiles that can carry a format, in order of preference: none richer than needed, and none that leaves tools out
/// where a fuller one is allowed.
/// where a fuller one is allowed.
fn fitting_profiles(codec: Codec, format: PixelFormat) -> &'static [&'static str] {
    if codec == Codec::H265 {
        return match format {
            PixelFormat::I420 | PixelFormat::Yv12 | PixelFormat::Nv12 | PixelFormat::Nv21 => &["main", "main-444"],
            PixelFormat::I444 => &["main-444"],
            _ => &[],
        };
    }
    match format {
        PixelFormat::I420 | PixelFormat::Yv12 | PixelFormat::Nv12 | PixelFormat::Nv21 => &[
            "high",
            "main",
            "constrained-baseline",
            "baseline",
            "high-10",
            "high-4:2:2",
            "high-4:4:4",
            "high-10-intra",
            "high-4:2:2-intra",
            "high-4:4:4-intra",
        ],
        PixelFormat::Gray8 => &["high", "high-10", "high-4:2:2", "high-4:4:4"],
        PixelFormat::I420P10 => &[
            "high-10",
            "high-4:2:2",
            "high-4:4:4",
            "high-10-intra",
            "high-4:2:2-intra",
            "high-4:4:4-intra",
        ],
        PixelFormat::I422 | PixelFormat::Nv16 | PixelFormat::I422P10 => {
            &["high-4:2:2", "high-4:4:4", "high-4:2:2-intra", "high-4:4:4-intra"]
        }
        PixelFormat::I444 | PixelFormat::I444P10 => &["high-4:4:4", "high-4:4:4-intra"],
    }
}

/// Warning for a stream whose chroma many decoders do not know, where no peer requested it by its profile.
pub(super) fn rarely_decoded(choice: &Choice, format: PixelFormat) -> Option<&'static str> {
    if choice.profile.is_some() {
        return None;
    }
    match format {
        PixelFormat::I444 | PixelFormat::I444P10 => Some(
            "The video is coded with full chroma (4:4:4), which few recorders and hardware decoders read. For 4:2:0 put \
             videoconvert ! video/x-raw,format=I420 in front, and videoscale or videocrop where a side is odd",
        ),
        PixelFormat::I422 | PixelFormat::Nv16 | PixelFormat::I422P10 => Some(
            "The video is coded with half the chroma (4:2:2), which few recorders and hardware decoders read. For 4:2:0 put \
             videoconvert ! video/x-raw,format=I420 in front, and videoscale or videocrop where the height is odd",
        ),
        _ => None,
    }
}

/// Profiles, levels and stream format that downstream allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub codec: Codec,
    pub byte_stream: bool,
    /// Profile as named in caps; `None` where downstream does not care.
    pub profile: Option<&'static str>,
    /// All profiles downstream takes in this stream format.
    allowed_profiles: Vec<String>,
    pub level_idc: Option<u8>,
}

impl Choice {
    /// Whether the profile has intra pictures only.
    pub fn intra_only(&self) -> bool {
        self.profile.is_some_and(|profile| profile.ends_with("-intra"))
    }
}

/// Strings of a field that holds one or a list.
fn strings(structure: &gst::StructureRef, field: &str) -> Vec<String> {
    if let Some(one) = text::field(structure, field) {
        return vec![one.to_owned()];
    }
    let list = structure.get::<gst::List>(field);
    list.map(|list| list.iter().filter_map(|v| Some(text::utf8(v)?.to_owned())).collect())
        .unwrap_or_default()
}

/// Chooses stream format, profile and level from what downstream allows (`None` = not linked, anything goes).
pub(super) fn choose(
    allowed: Option<&gst::Caps>,
    codec: Codec,
    format: PixelFormat,
    prefer_byte_stream: bool,
) -> Result<Choice, OpenError> {
    let of_codec = |caps: &gst::Caps| -> gst::Caps {
        let name = media_type(codec);
        caps.iter().filter(|s| s.name() == name).map(|s| s.to_owned()).collect()
    };
    let allowed = allowed.filter(|caps| !caps.is_any()).map(of_codec);
    let anything = allowed.as_ref().is_none_or(|caps| *caps == of_codec(&SRC_CAPS));
    let Some(allowed) = allowed.filter(|_| !anything) else {
        return Ok(Choice {
            codec,
            byte_stream: true,
            profile: None,
            allowed_profiles: Vec::new(),
            level_idc: None,
        });
    };
    let offered: Vec<(String, &gst::StructureRef)> = allowed
        .iter()
        .flat_map(|s| strings(s, "stream-format").into_iter().map(move |f| (f, s)))
        .collect();
    let wanted = if prefer_byte_stream && offered.iter().any(|(f, _)| f == "byte-stream") {
        "byte-stream"
    } else {
        offered.first().map_or("byte-stream", |(f, _)| f.as_str())
    };
    let structures: Vec<_> = offered.iter().filter(|(f, _)| f == wanted).map(|(_, s)| *s).collect();
    let allowed_profiles: Vec<String> = structures.iter().flat_map(|s| strings(s, "profile")).collect();
    let all: &[&str] = match codec {
        Codec::H264 => &PROFILES,
        Codec::H265 => &PROFILES_H265,
    };
    let unrestricted = all.iter().all(|p| allowed_profiles.iter().any(|a| a == p));
    let profile = if unrestricted || structures.is_empty() {
        None
    } else {
        let fitting = fitting_profiles(codec, format)
            .iter()
            .find(|p| allowed_profiles.iter().any(|a| a == *p));
        Some(*fitting.ok_or_else(|| {
            OpenError::refused(
                "profile",
                format!("downstream takes {allowed_profiles:?}, none of which holds {format:?} video"),
                "Convert the video before the element, or allow a richer profile behind it",
            )
        })?)
    };
    let level_idc = structures
        .iter()
        .filter(|s| profile.is_none_or(|p| strings(s, "profile").iter().any(|a| a == p)))
        .find_map(|s| text::field(s, "level"))
        .map(|level| {
            level_idc(level).ok_or_else(|| {
                OpenError::refused(
                    "level",
                    format!("`{level}` is not a level of {codec:?}"),
                    "Ask for one like 3.1 or 1b",
                )
            })
        })
        .transpose()?;
    Ok(Choice {
        codec,
        byte_stream: wanted == "byte-stream",
        profile,
        allowed_profiles,
        level_idc,
    })
}

/// Caps of the video whose format and size one of the encoders takes, and some profile that downstream takes can carry.
/// With `gpu`, those in the memory of a GPU too, and first, so that peers that can leave pictures there do.
/// `interlaced` decides which sizes a format may have; `None`: any.
pub(super) fn input_caps(
    allowed: Option<&gst::Caps>,
    coders: &[(Backend, Codec)],
    gpu: bool,
    interlaced: Option<bool>,
) -> gst::Caps {
    let takes = |(backend, codec): (Backend, Codec), format| {
        let carried = allowed.is_none_or(|caps| caps.is_any() || carries(caps, codec, format));
        carried && backend.formats().contains(&format)
    };
    let mut caps = gst::Caps::new_empty();
    let mut offer = |formats: &[VideoFormat], on_gpu: bool| {
        // Formats of one rule stay together, and the preferred one decides their place.
        let mut rules: Vec<(Option<Sizes>, Vec<VideoFormat>)> = Vec::new();
        for format in formats {
            let Some(pixels) = pixel_format(*format) else { continue };
            let coders = coders.iter().filter(|coder| takes(**coder, pixels));
            for (backend, _) in coders.filter(|(backend, _)| !on_gpu || backend.reads_gpu()) {
                let sizes = interlaced.map(|interlaced| backend.sizes(pixels, interlaced));
                match rules.iter_mut().find(|(rule, _)| *rule == sizes) {
                    Some((_, formats)) if formats.contains(format) => (),
                    Some((_, formats)) => formats.push(*format),
                    None => rules.push((sizes, vec![*format])),
                }
            }
        }
        for (sizes, formats) in rules {
            let mut offered = gst_video::VideoCapsBuilder::new().format_list(formats).build();
            if on_gpu {
                offered
                    .make_mut()
                    .set_features_simple(Some(gst::CapsFeatures::new([cuda::FEATURE])));
            }
            if let Some(Sizes { least, most, step }) = sizes {
                let side = |least, most, step| gst::IntRange::with_step(least as i32, most as i32, step as i32);
                let offered = offered.make_mut();
                offered.set("width", side(least.0, most.0, step.0));
                offered.set("height", side(least.1, most.1, step.1));
            }
            caps.merge(offered);
        }
    };
    if gpu {
        offer(&GPU_FORMATS, true);
    }
    offer(&FORMATS, false);
    caps
}

/// Whether no format is left, or only luma.
pub(super) fn without_colour(caps: &gst::Caps) -> bool {
    caps.iter()
        .flat_map(|s| strings(s, "format"))
        .all(|format| format == "GRAY8")
}

/// Whether all video of such caps has two fields in a picture.
pub(super) fn is_interlaced(caps: &gst::StructureRef) -> bool {
    match caps.value("interlace-mode") {
        Ok(_) => strings(caps, "interlace-mode").iter().all(|mode| mode != "progressive"),
        Err(_) => false,
    }
}

fn carries(allowed: &gst::Caps, codec: Codec, format: PixelFormat) -> bool {
    allowed
        .iter()
        .filter(|s| s.name() == media_type(codec))
        .flat_map(|s| strings(s, "profile"))
        .any(|p| fitting_profiles(codec, format).contains(&p.as_str()))
}

/// `level_idc` of a level as named in caps; 9 is libx264's number for 1b.
fn level_idc(level: &str) -> Option<u8> {
    if level == "1b" {
        return Some(9);
    }
    let (major, minor) = level.split_once('.').unwrap_or((level, "0"));
    let idc = major
        .parse::<u8>()
        .ok()?
        .checked_mul(10)?
        .checked_add(minor.parse().ok()?)?;
    matches!(idc, 10..=13 | 20..=22 | 30..=32 | 40..=42 | 50..=52 | 60..=62).then_some(idc)
}

/// Profile and level of a sequence parameter set as named in caps (ISO/IEC 14496-10 A.2 and A.3).
fn profile_and_level(sps: &[u8]) -> (Option<&'static str>, Option<String>) {
    let &[_, profile, constraints, level, ..] = sps else {
        return (None, None);
    };
    let set = |n: u8| constraints & (0x80 >> n) != 0;
    let name = match (profile, set(3)) {
        (66, _) if set(1) => Some("constrained-baseline"),
        (66, _) => Some("baseline"),
        (77, _) => Some("main"),
        (100, _) => Some("high"),
        (110, false) => Some("high-10"),
        (110, true) => Some("high-10-intra"),
        (122, false) => Some("high-4:2:2"),
        (122, true) => Some("high-4:2:2-intra"),
        (244, false) => Some("high-4:4:4"),
        (244, true) => Some("high-4:4:4-intra"),
        _ => None,
    };
    let level = match level {
        9 => Some("1b".to_string()),
        11 if set(3) && matches!(profile, 66 | 77) => Some("1b".to_string()),
        10..=62 if level % 10 == 0 => Some((level / 10).to_string()),
        10..=62 => Some(format!("{}.{}", level / 10, level % 10)),
        _ => None,
    };
    (name, level)
}

/// Profile, level and tier of an H.265 sequence parameter set as named in caps (ISO/IEC 23008-2 7.3.3 and A.3).
fn h265_profile_level_tier(sps: &[u8]) -> Option<(Option<&'static str>, String, &'static str)> {
    // Emulation prevention may occur among the constraint flags.
    let sps = dds_protocol::nal::unescape(sps);
    let &[_, _, _, profile, .., level] = sps.get(..15)? else {
        return None;
    };
    // Range extensions: of those, we code 4:4:4 of 8 bits.
    let name = match profile & 0x1f {
        1 => Some("main"),
        4 => Some("main-444"),
        _ => None,
    };
    let tier = if profile & 0x20 == 0 { "main" } else { "high" };
    let level = match (level / 30, level % 30 / 3) {
        (major, 0) => major.to_string(),
        (major, minor) => format!("{major}.{minor}"),
    };
    Some((name, level, tier))
}

/// Output caps for an encoder with these parameter sets.
pub(super) fn output_caps(choice: &Choice, format: PixelFormat, sets: &ParameterSets<'_>) -> gst::Caps {
    if choice.codec == Codec::H265 {
        return h265_output_caps(choice, format, sets);
    }
    let ParameterSets { sps, pps, .. } = *sets;
    let (actual, level) = profile_and_level(sps);
    // A stream that does without some tools conforms to the richer profile too: name the requested one.
    let profile = match (actual, choice.profile) {
        (Some(actual), Some(wanted)) if !choice.allowed_profiles.iter().any(|p| p == actual) => Some(wanted),
        (actual, wanted) => actual.or(wanted),
    };
    let mut caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", if choice.byte_stream { "byte-stream" } else { "avc" })
        .field("alignment", "au");
    if let Some(profile) = profile {
        caps = caps.field("profile", profile);
    }
    if let Some(level) = level {
        caps = caps.field("level", level);
    }
    if !choice.byte_stream {
        caps = caps.field(
            "codec_data",
            gst::Buffer::from_mut_slice(avc_configuration(format, sps, pps)),
        );
    }
    caps.build()
}

fn h265_output_caps(choice: &Choice, format: PixelFormat, sets: &ParameterSets<'_>) -> gst::Caps {
    let mut caps = gst::Caps::builder(media_type(Codec::H265))
        .field("stream-format", if choice.byte_stream { "byte-stream" } else { "hvc1" })
        .field("alignment", "au");
    if let Some((profile, level, tier)) = h265_profile_level_tier(sets.sps) {
        caps = caps.field("level", level).field("tier", tier);
        if let Some(profile) = profile.or(choice.profile) {
            caps = caps.field("profile", profile);
        }
    }
    if !choice.byte_stream {
        caps = caps.field(
            "codec_data",
            gst::Buffer::from_mut_slice(hevc_configuration(format, sets)),
        );
    }
    caps.build()
}

/// Adds the fields that the base class adds to the caps of its own pad.
pub(super) fn describe_video(caps: &mut gst::Caps, info: &gst_video::VideoInfo) {
    const FIELDS: [&str; 10] = [
        "width",
        "height",
        "framerate",
        "pixel-aspect-ratio",
        "interlace-mode",
        "field-order",
        "colorimetry",
        "chroma-site",
        "multiview-mode",
        "multiview-flags",
    ];
    let Ok(raw) = info.to_caps() else { return };
    let caps = caps.make_mut();
    for (name, value) in raw.iter().flat_map(|s| s.iter()) {
        if FIELDS.contains(&name.as_str()) {
            caps.set_value(name, value.clone());
        }
    }
}

/// AVC decoder configuration record (ISO/IEC 14496-15 5.3.3.1) with 4-byte lengths.
fn avc_configuration(format: PixelFormat, sps: &[u8], pps: &[u8]) -> Vec<u8> {
    let mut record = vec![1, sps[1], sps[2], sps[3], 0xfc | 3, 0xe0 | 1];
    record.extend((sps.len() as u16).to_be_bytes());
    record.extend(sps);
    record.push(1);
    record.extend((pps.len() as u16).to_be_bytes());
    record.extend(pps);
    if matches!(sps[1], 100 | 110 | 122 | 144 | 244) {
        let chroma = match format {
            PixelFormat::Gray8 => 0,
            PixelFormat::I422 | PixelFormat::Nv16 | PixelFormat::I422P10 => 2,
            PixelFormat::I444 | PixelFormat::I444P10 => 3,
            _ => 1,
        };
        let depth = 0xf8 | (format.bit_depth() - 8);
        record.extend([0xfc | chroma, depth, depth, 0]);
    }
    record
}

/// HEVC decoder configuration record (ISO/IEC 14496-15 8.3.3.1) with 4-byte lengths, for 8-bit video.
fn hevc_configuration(format: PixelFormat, sets: &ParameterSets<'_>) -> Vec<u8> {
    let sps = dds_protocol::nal::unescape(sets.sps);
    // general_profile_space to general_level_idc.
    let profile_tier_level = sps.get(3..15).unwrap_or(&[0; 12]);
    // Main 4:4:4 holds 4:2:0 too.
    let chroma = if format == PixelFormat::I444 { 3 } else { 1 };
    let mut record = vec![1];
    record.extend(profile_tier_level);
    // min_spatial_segmentation_idc 0, parallelism unknown; chroma and depths; average rate unknown, one layer, 4-byte
    // lengths.
    record.extend([0xf0, 0, 0xfc, 0xfc | chroma, 0xf8, 0xf8, 0, 0, 0b0000_1111, 3]);
    for (kind, set) in [(32, sets.vps), (33, sets.sps), (34, sets.pps)] {
        // All parameter sets of this kind are in the caps.
        record.extend([0x80 | kind, 0, 1]);
        record.extend((set.len() as u16).to_be_bytes());
        record.extend(set);
    }
    record
}

/// Colour description of the video.
pub fn colour(info: &gst_video::VideoInfo) -> Colour {
    let colorimetry = info.colorimetry();
    let code = |iso: u32| u8::try_from(iso).unwrap_or(2);
    let site = info.chroma_site();
    let vertically = site.contains(gst_video::VideoChromaSite::V_COSITED);
    let horizontally = site.contains(gst_video::VideoChromaSite::H_COSITED);
    Colour {
        primaries: code(colorimetry.primaries().to_iso()),
        transfer: code(colorimetry.transfer().to_iso()),
        matrix: code(colorimetry.matrix().to_iso()),
        full_range: colorimetry.range() == gst_video::VideoColorRange::Range0_255,
        chroma_location: match (horizontally, vertically) {
            _ if info.format_info().w_sub().get(1) != Some(&1) || info.format_info().h_sub().get(1) != Some(&1) => 0,
            (true, true) => 2,
            (false, true) => 3,
            (false, false) if !site.is_empty() => 1,
            _ => 0,
        },
    }
}

/// How a picture of this video with these flags is made of fields; `None` where the video is not interlaced.
pub(super) fn fields(info: &gst_video::VideoInfo, flags: gst_video::VideoBufferFlags) -> Option<Fields> {
    use gst_video::VideoBufferFlags as Flags;
    use gst_video::VideoInterlaceMode as Mode;
    let mixed = match info.interlace_mode() {
        Mode::Progressive => return None,
        Mode::Interleaved => false,
        _ => true,
    };
    let order = match info.field_order() {
        gst_video::VideoFieldOrder::TopFieldFirst if !mixed => FieldOrder::TopFirst,
        gst_video::VideoFieldOrder::BottomFieldFirst if !mixed => FieldOrder::BottomFirst,
        _ if flags.contains(Flags::TFF) => FieldOrder::TopFirst,
        _ => FieldOrder::BottomFirst,
    };
    Some(Fields {
        interlaced: !mixed || flags.intersects(Flags::INTERLACED | Flags::ONEFIELD),
        order,
        repeat_first: flags.contains(Flags::RFF),
    })
}

/// Frame packing arrangement (H.264 table D-8) of stereoscopic video.
pub(super) fn frame_packing(info: &gst_video::VideoInfo) -> Option<u8> {
    use gst_video::VideoMultiviewMode as Mode;
    Some(match info.multiview_mode() {
        Mode::Checkerboard => 0,
        Mode::ColumnInterleaved => 1,
        Mode::RowInterleaved => 2,
        Mode::SideBySide | Mode::SideBySideQuincunx => 3,
        Mode::TopBottom => 4,
        Mode::FrameByFrame => 5,
        _ => return None,
    })
}

/// Size of the picture on `src`.
///
/// # Errors
/// Interlaced video cannot be scaled.
pub(super) fn coded_size(settings: &Settings, info: &gst_video::VideoInfo) -> Result<(u32, u32), OpenError> {
    let scale = settings.two_pass().map_or(1.0, |two_pass| two_pass.low_scale);
    if scale < 1.0 && (info.is_interlaced() || settings.interlaced()) {
        return Err(OpenError::refused(
            "low-scale",
            "the fields of interlaced video cannot be scaled together",
            "Deinterlace the video before the element, or set low-scale=1",
        ));
    }
    Ok(scaled_size(info.width(), info.height(), scale))
}

/// Templates of all pads.
pub(super) fn pad_templates() -> Vec<gst::PadTemplate> {
    use gst::{PadDirection, PadPresence, PadTemplate};
    vec![
        PadTemplate::new("sink", PadDirection::Sink, PadPresence::Always, &SINK_CAPS).unwrap(),
        PadTemplate::new("src", PadDirection::Src, PadPresence::Always, &SRC_CAPS).unwrap(),
        // Second stream of two passes.
        PadTemplate::new(super::refine::PAD, PadDirection::Src, PadPresence::Request, &SRC_CAPS).unwrap(),
        // Datagrams, one per buffer: bare feedback packets, or RTCP compounds that contain some.
        PadTemplate::new("feedback", PadDirection::Sink, PadPresence::Request, &FEEDBACK_CAPS).unwrap(),
    ]
}

/// The same video in another size.
pub(super) fn resized(
    info: &gst_video::VideoInfo,
    width: u32,
    height: u32,
) -> Result<gst_video::VideoInfo, glib::BoolError> {
    gst_video::VideoInfo::builder(info.format(), width, height)
        .fps(info.fps())
        .par(info.par())
        .colorimetry(&info.colorimetry())
        .chroma_site(info.chroma_site())
        .build()
}

/// Most frames per second that is plausible. A higher rate in caps is the clock of a container.
const FASTEST: u32 = 1000;

/// Most frames per second declared for variable video.
pub(super) fn max_frame_rate(caps: &gst::CapsRef) -> Option<(u32, u32)> {
    let rate = caps.structure(0)?.get::<gst::Fraction>("max-framerate").ok()?;
    let (numerator, denominator) = (u32::try_from(rate.numer()).ok()?, u32::try_from(rate.denom()).ok()?);
    (numerator > 0 && denominator > 0 && numerator / denominator <= FASTEST).then_some((numerator, denominator))
}

/// The configuration to open the encoder with.
pub(super) fn config(settings: &Settings, info: &gst_video::VideoInfo, format: PixelFormat, choice: &Choice) -> Config {
    let live = settings.live();
    let (preset, tune) = settings.preset_and_tune();
    let fraction = |f: gst::Fraction| Some((u32::try_from(f.numer()).ok()?, u32::try_from(f.denom()).ok()?));
    let order = match info.field_order() {
        gst_video::VideoFieldOrder::BottomFieldFirst => FieldOrder::BottomFirst,
        // Where each picture has its own field order, the initial value counts before the first picture.
        _ => FieldOrder::TopFirst,
    };
    Config {
        codec: choice.codec,
        width: info.width(),
        height: info.height(),
        format,
        frame_rate: fraction(info.fps()).filter(|&(n, d)| n > 0 && d > 0 && n / d <= FASTEST),
        max_frame_rate: None,
        leaves_out: settings.leaves_out(),
        repeats: settings.repeats(),
        pixel_aspect_ratio: fraction(info.par()).unwrap_or((1, 1)),
        colour: settings.insert_vui().then(|| colour(info)),
        interlaced: (info.is_interlaced() || settings.interlaced()).then_some(order),
        frame_packing: settings.frame_packing().or_else(|| frame_packing(info)),
        preset,
        tune,
        profile: choice.profile,
        intra_only: choice.intra_only(),
        level_idc: choice.level_idc,
        byte_stream: choice.byte_stream,
        rate: live.rate(),
        vbv: live.vbv(),
        vbv_may_change: true,
        still_parts: false,
        nominal_kbps: live.nominal_kbps(),
        gpu: None,
        options: settings.options(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(text: &str) -> gst::Caps {
        gst::init().unwrap();
        text.parse::<gst::Caps>().unwrap().intersect(&SRC_CAPS)
    }

    #[test]
    fn the_gpu_formats_are_those_of_its_encoder() {
        let formats: Vec<_> = GPU_FORMATS.into_iter().filter_map(pixel_format).collect();
        assert_eq!(formats, Backend::Nvenc.formats());
    }

    #[test]
    fn fields_are_told_by_caps_and_by_the_flags_of_each_picture() {
        use gst_video::VideoBufferFlags as Flags;
        gst::init().unwrap();
        let (top, bottom) = (FieldOrder::TopFirst, FieldOrder::BottomFirst);
        for (mode, flags, expected) in [
            ("progressive", Flags::INTERLACED | Flags::TFF, None),
            ("mixed", Flags::empty(), Some((false, bottom, false))),
            ("mixed", Flags::TFF, Some((false, top, false))),
            ("mixed", Flags::INTERLACED, Some((true, bottom, false))),
            ("mixed", Flags::INTERLACED | Flags::TFF, Some((true, top, false))),
            (
                "mixed",
                Flags::INTERLACED | Flags::TFF | Flags::RFF,
                Some((true, top, true)),
            ),
            ("mixed", Flags::RFF, Some((false, bottom, true))),
            ("mixed", Flags::ONEFIELD, Some((true, bottom, false))),
            ("interleaved", Flags::empty(), Some((true, bottom, false))),
            ("interleaved", Flags::TFF, Some((true, top, false))),
            (
                "interleaved,field-order=top-field-first",
                Flags::empty(),
                Some((true, top, false)),
            ),
            (
                "interleaved,field-order=bottom-field-first",
                Flags::TFF,
                Some((true, bottom, false)),
            ),
        ] {
            let caps = format!("video/x-raw,format=I420,width=64,height=64,framerate=25/1,interlace-mode={mode}");
            let info = gst_video::VideoInfo::from_caps(&caps.parse::<gst::Caps>().unwrap()).unwrap();
            let found = fields(&info, flags).map(|f| (f.interlaced, f.order, f.repeat_first));
            assert_eq!(found, expected, "{mode} {flags:?}");
        }
    }

    #[test]
    fn unrestricted_peers_get_a_byte_stream_of_any_profile() {
        gst::init().unwrap();
        for allowed in [None, Some(&*SRC_CAPS), Some(&gst::Caps::new_any())] {
            let choice = choose(allowed, Codec::H264, PixelFormat::I420, false).unwrap();
            assert!(choice.byte_stream);
            assert_eq!(choice.profile, None);
        }
    }

    #[test]
    fn stream_format_follows_downstream_then_the_property() {
        let both = caps("video/x-h264, stream-format={avc,byte-stream}, alignment=au, profile=main");
        assert!(
            !choose(Some(&both), Codec::H264, PixelFormat::I420, false)
                .unwrap()
                .byte_stream
        );
        assert!(
            choose(Some(&both), Codec::H264, PixelFormat::I420, true)
                .unwrap()
                .byte_stream
        );
        let avc = caps("video/x-h264, stream-format=avc");
        assert!(
            !choose(Some(&avc), Codec::H264, PixelFormat::I420, true)
                .unwrap()
                .byte_stream
        );
    }

    #[test]
    fn profile_and_level_are_those_downstream_asks_for() {
        let c = choose(
            Some(&caps("video/x-h264, profile={baseline,main}, level=(string)3.1")),
            Codec::H264,
            PixelFormat::Nv12,
            true,
        )
        .unwrap();
        assert_eq!((c.profile, c.level_idc), (Some("main"), Some(31)));
        let c = choose(
            Some(&caps("video/x-h264, profile=constrained-baseline, level=(string)1b")),
            Codec::H264,
            PixelFormat::I420,
            true,
        )
        .unwrap();
        assert_eq!((c.profile, c.level_idc), (Some("constrained-baseline"), Some(9)));
        let c = choose(
            Some(&caps("video/x-h264, profile=high-4:2:2-intra")),
            Codec::H264,
            PixelFormat::I422,
            true,
        )
        .unwrap();
        assert!(c.intra_only());
        assert!(
            choose(
                Some(&caps("video/x-h264, profile=main")),
                Codec::H264,
                PixelFormat::I444,
                true
            )
            .is_err()
        );
        assert!(
            choose(
                Some(&caps("video/x-h264, level=(string)9.9")),
                Codec::H264,
                PixelFormat::I420,
                true
            )
            .is_err()
        );
    }

    #[test]
    fn caps_name_the_profile_asked_for_where_the_stream_does_with_less() {
        let choice = choose(
            Some(&caps("video/x-h264, profile=high")),
            Codec::H264,
            PixelFormat::I420,
            true,
        )
        .unwrap();
        let caps = output_caps(
            &choice,
            PixelFormat::I420,
            &ParameterSets {
                vps: &[],
                sps: &[0x67, 66, 0xc0, 31],
                pps: &[0x68],
            },
        );
        let s = caps.structure(0).unwrap();
        assert_eq!(s.get::<&str>("profile").unwrap(), "high");
        assert_eq!(s.get::<&str>("level").unwrap(), "3.1");
    }
}
