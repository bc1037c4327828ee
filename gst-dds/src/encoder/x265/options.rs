// SPDX-License-Identifier: MPL-2.0

//! Maps options to libx265's, and refuses those without an equivalent.

#![forbid(unsafe_code)]

use crate::encoder::options::{canonical, describe, of_string, refuse_overridden};
use crate::encoder::{Config, OpenError};

/// Options of `option-string` that would override a property, with the cure.
const OVERRIDDEN: &[(&[&str], &str)] = &[
    (&["bitrate"], "Set the property `bitrate`"),
    (&["crf"], "Set pass=qual and quantizer"),
    (&["qp"], "Set pass=quant and quantizer, or background-qp"),
    (&["qpmin", "qpmax"], "Set the properties `qp-min` and `qp-max`"),
    (&["vbv-maxrate"], "Set the property `max-bitrate` or `bitrate`"),
    (&["vbv-bufsize"], "Set the property `vbv-buf-capacity`"),
    (
        &["annexb", "repeat-headers"],
        "Choose the stream format with caps or byte-stream",
    ),
    (
        &["fps", "input-res", "interlace", "field", "total-frames"],
        "Describe the video with caps",
    ),
    (
        &["input-csp", "input-depth", "output-depth"],
        "Choose the format with caps",
    ),
    (
        &[
            "profile",
            "level-idc",
            "level",
            "high-tier",
            "uhd-bd",
            "allow-non-conformance",
        ],
        "Set profile and level with caps behind the element",
    ),
    (&["preset"], "Set the property `speed-preset`"),
    (&["tune"], "Set the properties `tune` and `psy-tune`"),
    (&["pools", "numa-pools"], "Set the property `threads`"),
    (
        &[
            "sar",
            "colorprim",
            "transfer",
            "colormatrix",
            "range",
            "chromaloc",
            "videoformat",
            "video-signal-type-preset",
        ],
        "Describe the video with caps",
    ),
    (
        &["log", "log-level"],
        "Remove it: errors go to standard error, and everything else nowhere",
    ),
];

/// Options of `option-string` that cannot work here: reason and cure.
const IMPOSSIBLE: &[(&[&str], &str, &str)] = &[
    (
        &[
            "pass",
            "stats",
            "slow-firstpass",
            "multi-pass-opt-analysis",
            "multi-pass-opt-distortion",
            "multi-pass-opt-rps",
        ],
        "coding in several passes needs the whole video before the first frame",
        "Remove it",
    ),
    (
        &[
            "analysis-save",
            "analysis-load",
            "analysis-reuse-mode",
            "analysis-reuse-file",
            "analysis-reuse-level",
            "analysis-save-reuse-level",
            "analysis-load-reuse-level",
            "scale-factor",
            "refine-intra",
            "refine-inter",
            "refine-mv",
            "refine-analysis-type",
            "refine-ctu-distortion",
            "dynamic-refine",
            "ctu-info",
        ],
        "it needs what an application hands over with each picture",
        "Remove it",
    ),
    (
        &[
            "zones",
            "zonefile",
            "qpfile",
            "nalu-file",
            "dhdr10-info",
            "dolby-vision-profile",
            "dolby-vision-rpu",
        ],
        "live video has no frame numbers to prepare for",
        "Remove it",
    ),
    (
        &["info"],
        "the library's message would hide the frame identity from GStreamer 1.22",
        "Remove it; the name of the library is in the encoder tag",
    ),
    (&["hrd"], "with it the library takes no other rate later", "Remove it"),
    (
        &["opt-qp-pps", "opt-ref-list-length-pps"],
        "it changes parameter sets within the stream",
        "Remove it",
    ),
    (&["copy-pic"], "the picture is lent for the call only", "Remove it"),
    (
        &["lambda-file"],
        "it would act on every encoder in this process",
        "Remove it",
    ),
    (
        &["lossless"],
        "lossless coding has no quantizers",
        "Set background-qp and region-qp low",
    ),
    (
        &["frame-dup", "temporal-layers", "eos", "eob"],
        "every picture in has to be one access unit out, of one layer",
        "Remove it",
    ),
    (
        &["open-gop"],
        "a forced key frame has to be one that decoding can start with",
        "Remove it",
    ),
];

/// Options that move quantizers, for the modes in which quantizers are exact.
pub(super) const INEXACT: &[&str] = &[
    "opt-cu-delta-qp",
    "rd-refine",
    "hevc-aq",
    "aq-motion",
    "aq-bias-strength",
    "cu-lossless",
    "scaling-list",
    "crf-max",
    "crf-min",
    "strict-cbr",
    "const-vbv",
    "qg-size",
    "scenecut-aware-qp",
    "masking-strength",
    "vbv-end",
    "vbv-init",
];

/// Equivalent of a property of `x264enc`.
pub(super) enum Translation {
    /// These options of libx265.
    Options(Vec<(&'static str, String)>),
    /// It always holds.
    AsIs,
    /// Not available: reason and cure.
    Refused(&'static str, &'static str),
}

/// Maps a property of `x264enc` to libx265.
pub(super) fn translate(property: &str, value: &str) -> Translation {
    use Translation::{AsIs, Options, Refused};
    let one = |key, value: &str| Options(vec![(key, value.to_string())]);
    let on = value != "0";
    let number = value.parse::<i64>().unwrap_or(0);
    match property {
        "aud" => one("aud", value),
        "key-int-max" => one("keyint", value),
        "ref" => one("ref", value),
        "ip-factor" => one("ipratio", value),
        "qp-step" => one("qpstep", value),
        // The library's quantizers end at 51 in 8-bit video, those of the properties at 63.
        "qp-min" => one("qpmin", &number.min(51).to_string()),
        "qp-max" => one("qpmax", &number.min(51).to_string()),
        "noise-reduction" if number > 2000 => Refused("libx265 has strengths up to 2000", "Set it to 2000 or less"),
        "noise-reduction" => Options(vec![("nr-inter", value.into()), ("nr-intra", value.into())]),
        "me" => match value {
            "esa" => one("me", "full"),
            "tesa" => Refused(
                "libx265 has no transformed exhaustive search",
                "Set me=esa, or option-string=me=star",
            ),
            _ => one("me", value),
        },
        "subme" if number > 7 => Refused("libx265 has 0 to 7", "Set it to 7 or less"),
        "subme" => one("subme", value),
        "trellis" => one("rdoq-level", if on { "1" } else { "0" }),
        "threads" => match number {
            // A pool of one per core, and rows that follow one another at a distance.
            0 => one("wpp", "1"),
            1 => Options(vec![("wpp", "0".into()), ("pools", "none".into())]),
            _ => Options(vec![("wpp", "1".into()), ("pools", value.into())]),
        },
        // Threads share a picture, as with slices in libx264: there are no frame threads.
        "sliced-threads" if on => AsIs,
        "sliced-threads" => Refused("frame threads would delay video, and feedback with it", "Remove it"),
        // There are no B-frames and no look-ahead, and the element refuses to switch them on.
        "b-adapt" | "b-pyramid" | "pb-factor" | "weightb" => AsIs,
        "bframes" | "rc-lookahead" | "sync-lookahead" | "mb-tree" if !on || number < 0 => AsIs,
        "bframes" | "rc-lookahead" | "sync-lookahead" | "mb-tree" => {
            Refused("it would delay video, and feedback with it", "Set it to 0 or remove it")
        }
        "cabac" if on => AsIs,
        "cabac" => Refused("H.265 has no other entropy coding", "Remove it"),
        "dct8x8" if on => AsIs,
        "dct8x8" => Refused("H.265 always has several transform sizes", "Remove it"),
        "interlaced" if !on => AsIs,
        "interlaced" => Refused(
            "libx265 codes fields as pictures of their own",
            "Deinterlace the video before the element, or choose encoder=x264",
        ),
        "sps-id" if !on => AsIs,
        "sps-id" => Refused("libx265 numbers its parameter sets 0", "Remove it"),
        "intra-refresh" if !on => AsIs,
        "intra-refresh" => Refused(
            "libx265 codes no IDR picture on demand then",
            "Remove it, or choose encoder=x264",
        ),
        "analyse" => Refused(
            "H.265 has no such partitions",
            "Remove it, or set option-string=rect:amp",
        ),
        _ => Refused("libx265 has no such option", "Remove it"),
    }
}

/// The tuning for libx265, and whether zero latency is requested too.
pub(super) fn split_tune(tune: Option<&str>) -> Result<(Option<&str>, bool), OpenError> {
    let mut zero_latency = false;
    let mut psy = None;
    for name in tune.unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        match name {
            "zerolatency" => zero_latency = true,
            "film" => {
                return Err(OpenError::refused(
                    "psy-tune",
                    "libx265 has no tuning for film",
                    "Remove it, or set psy-tune=grain",
                ));
            }
            "stillimage" => {
                return Err(OpenError::refused(
                    "tune",
                    "libx265 has no tuning for still images",
                    "Remove stillimage",
                ));
            }
            name if psy.is_some() => {
                return Err(OpenError::refused(
                    "tune",
                    format!("libx265 takes one tuning besides zerolatency, and {name} would be the second"),
                    "Remove it or psy-tune",
                ));
            }
            name => psy = Some(name),
        }
    }
    Ok((psy, zero_latency))
}

/// Refuses what libx265 cannot do here, by name.
pub(super) fn refuse_impossible(config: &Config) -> Result<(), OpenError> {
    for option in of_string(config) {
        refuse_overridden(option, OVERRIDDEN)?;
        let key = canonical(&option.key);
        if let Some((_, reason, cure)) = IMPOSSIBLE.iter().find(|(keys, _, _)| keys.contains(&key.as_str())) {
            return Err(OpenError::refused(describe(option), *reason, *cure));
        }
    }
    if config.interlaced.is_some() {
        return Err(OpenError::refused(
            "interlaced video",
            "libx265 codes fields as pictures of their own",
            "Deinterlace the video before the element, or choose encoder=x264",
        ));
    }
    if config.repeats {
        return Err(OpenError::no_repeats("libx265 cannot be told to skip macroblocks"));
    }
    if config.frame_packing.is_some() {
        return Err(OpenError::refused(
            "frame-packing",
            "libx265 writes no frame packing message",
            "Take the multiview mode out of the caps, or choose encoder=x264",
        ));
    }
    Ok(())
}
