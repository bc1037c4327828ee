// SPDX-License-Identifier: MPL-2.0

//! The properties as shown by gst-inspect. Blurbs are one sentence each; gst-dds/README.md explains the rest.

#![forbid(unsafe_code)]

use std::sync::LazyLock;

use glib::prelude::*;
use gst::prelude::*;

use super::settings::Settings;
use super::x264enc::X264Enc;

/// All properties, our own first.
pub(super) static ALL: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
    let default = Settings::default();
    let mut all = of_quality(&default);
    all.extend(of_wishes(&default));
    all.extend(of_feedback(&default));
    all.extend(of_stream(&default));
    all.extend(of_two_passes(&default));
    all.extend(X264Enc::specs());
    all
});

/// A number that may change in a running element.
fn live(name: &str, nick: &str, blurb: &str, (min, max): (u32, u32), default: u32) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(min)
        .maximum(max)
        .default_value(default)
        .mutable_playing()
        .build()
}

/// A number that applies from the start of the element.
fn uint(name: &str, nick: &str, blurb: &str, (min, max): (u32, u32), default: u32) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(min)
        .maximum(max)
        .default_value(default)
        .mutable_ready()
        .build()
}

fn boolean(name: &str, nick: &str, blurb: &str, default: bool) -> glib::ParamSpec {
    glib::ParamSpecBoolean::builder(name)
        .nick(nick)
        .blurb(blurb)
        .default_value(default)
        .mutable_ready()
        .build()
}

fn string(name: &str, nick: &str, blurb: &str, default: &str) -> glib::ParamSpec {
    glib::ParamSpecString::builder(name)
        .nick(nick)
        .blurb(blurb)
        .default_value(Some(default))
        .mutable_ready()
        .build()
}

/// Range of quantizers: 1 is finest.
const QUANTIZERS: (u32, u32) = (1, 51);
/// Range of rates in kbit/s.
const RATES: (u32, u32) = (0, 400_000);

/// Quantizers and rates.
fn of_quality(default: &Settings) -> Vec<glib::ParamSpec> {
    vec![
        live(
            "background-qp",
            "Background quantizer",
            "Quantizer outside regions, 51 is coarsest: exact, unless bitrate, pass or quantizer is set, when only its \
             difference to region-qp counts",
            QUANTIZERS,
            *default.background_qp,
        ),
        live(
            "region-qp",
            "Region quantizer",
            "Quantizer inside regions that name none: exact, unless bitrate, pass or quantizer is set, when only its \
             difference to background-qp counts",
            QUANTIZERS,
            *default.region_qp,
        ),
        live(
            "fallback-qp",
            "Fallback quantizer",
            "Quantizer of the whole picture until feedback comes and when it has stopped for feedback-timeout; not used \
             with bitrate, pass or quantizer",
            QUANTIZERS,
            *default.fallback_qp,
        ),
        live(
            "max-bitrate",
            "Maximum bit rate",
            "For exact quantizers under a cap: most kbit/s of any one second, kept by coarser regions first, then a coarser \
             background; 0 = no cap",
            RATES,
            *default.max_bitrate_kbps,
        ),
        glib::ParamSpecInt::builder("max-feedback-bitrate")
            .nick("Maximum bit rate of feedback")
            .blurb(
                "For servers that may ask for much: most kbit/s that regions of feedback add in any one second (two-pass: of \
                 refine); 0 = any, -1 = derived",
            )
            .minimum(-1)
            .maximum(400_000)
            .default_value(*default.max_feedback_bitrate_kbps)
            .mutable_playing()
            .build(),
        live(
            "bandwidth",
            "Bandwidth",
            "For a link of so many kbit/s, all streams together: a controller chooses the quantizers for the video to fit; \
             0 = off",
            RATES,
            default.bandwidth_kbps,
        ),
        live(
            "bandwidth-min",
            "Least bandwidth",
            "Least kbit/s where the losses that receivers report say what is available, bandwidth at most; 0 = always \
             bandwidth",
            RATES,
            default.bandwidth_min_kbps,
        ),
        glib::ParamSpecDouble::builder("max-region-area")
            .nick("Maximum region area")
            .blurb(
                "Most of the picture that regions may make finer, as a fraction of its area, beyond which the least \
                 valuable regions are left out",
            )
            .minimum(0.0)
            .maximum(1.0)
            .default_value(default.max_region_area)
            .mutable_playing()
            .build(),
    ]
}

/// What servers may wish of the whole stream.
fn of_wishes(default: &Settings) -> Vec<glib::ParamSpec> {
    let rate = |name: &str, nick: &str, blurb: &str, default| {
        gst::ParamSpecFraction::builder(name)
            .nick(nick)
            .blurb(blurb)
            .minimum(gst::Fraction::new(0, 1))
            .maximum(gst::Fraction::new(1000, 1))
            .default_value(default)
            .mutable_playing()
            .build()
    };
    vec![
        boolean(
            "server-rate",
            "Rate by the server",
            "Let servers choose how many of the captured pictures are sent, and their quantizers, within the bounds set \
             here; one-pass only",
            default.server_rate,
        ),
        rate(
            "min-framerate",
            "Minimum frame rate",
            "Pictures per second that no wish of a server goes below, so that nobody can blind the camera; 0/1 = any",
            default.min_framerate,
        ),
        live(
            "max-background-qp",
            "Maximum background quantizer",
            "Coarsest quantizer that wishes of a server lead to, directly or by a ceiling of the bit rate; it does not \
             limit what is set here",
            QUANTIZERS,
            default.max_background_qp,
        ),
        rate(
            "viewer-framerate",
            "Frame rate for viewers",
            "For applications with viewers or recorders that give no feedback: pictures per second that no wish goes \
             below meanwhile; 0/1 = none",
            default.viewer_framerate,
        ),
        glib::ParamSpecEnum::builder_with_default("skipped-pictures", default.skipped_pictures)
            .nick("Skipped pictures")
            .blurb(
                "What becomes of captured pictures that servers do not want; repeat, for recorders that count pictures, \
                 costs some bytes for each",
            )
            .mutable_ready()
            .build(),
    ]
}

/// Ways of feedback.
fn of_feedback(default: &Settings) -> Vec<glib::ParamSpec> {
    vec![
        live(
            "feedback-timeout",
            "Feedback timeout",
            "Milliseconds of video without usable feedback until regions end, fallback-qp is used and \
             ddsencode-feedback-lost is posted; 0 = never",
            (0, u32::MAX),
            default.feedback_timeout_ms,
        ),
        glib::ParamSpecFlags::builder("feedback-ways")
            .nick("Feedback ways")
            .blurb(
                "Ways that feedback is taken by; auto = all, but with a key at feedback-uri no RTCP that neither SRTP nor \
                 a login vouches for",
            )
            .default_value(default.feedback_ways)
            .mutable_ready()
            .build(),
        string(
            "feedback-uri",
            "Feedback address",
            "Address of a channel for feedback where relays drop RTCP: udp://HOST:PORT or tcp://HOST:PORT, to listen on \
             or with ?mode=caller to dial",
            &default.channel.uri,
        ),
        glib::ParamSpecString::builder("feedback-key")
            .nick("Feedback key")
            .blurb(
                "Secret that feedback-uri is sealed with, the same at both ends: 16 bytes or more as text or hex:DIGITS, \
                 needed beyond this machine",
            )
            .write_only()
            .mutable_ready()
            .build(),
        string(
            "feedback-key-file",
            "Feedback key file",
            "File that holds the key of feedback-uri, where it is not in feedback-key; a line end behind it does not \
             count",
            &default.channel.key_file,
        ),
        boolean(
            "feedback-plain",
            "Feedback in the clear",
            "Do without a key at feedback-uri: whoever reaches the port can steer the camera, and listeners see where \
             people are",
            default.channel.plain,
        ),
    ]
}

/// Encoder and data beside the pictures.
fn of_stream(default: &Settings) -> Vec<glib::ParamSpec> {
    vec![
        glib::ParamSpecEnum::builder_with_default("encoder", default.encoder)
            .nick("Encoder")
            .blurb("Library that codes the video; properties that it does not have are refused where they are set")
            .mutable_ready()
            .build(),
        uint(
            "stream-id",
            "Stream ID",
            "ID of the stream, which frames carry and feedback has to name; 0 = a random one at every start, others give \
             the same bytes again",
            (0, u32::MAX),
            default.stream_id,
        ),
        boolean(
            "wall-clock",
            "Wall clock",
            "Write capture times by the wall clock into frames that have no reference timestamp meta; off = unknown, and \
             equal bytes every time",
            default.wall_clock,
        ),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb(
                "Counts of frames, feedback, regions and refinements, and their delays, as a structure whose fields \
                 gst-dds/README.md describes",
            )
            .read_only()
            .build(),
    ]
}

fn of_two_passes(default: &Settings) -> Vec<glib::ParamSpec> {
    let scale = |name, nick, blurb, value| {
        glib::ParamSpecDouble::builder(name)
            .nick(nick)
            .blurb(blurb)
            .minimum(0.25)
            .maximum(1.0)
            .default_value(value)
            .mutable_ready()
            .build()
    };
    vec![
        glib::ParamSpecEnum::builder_with_default("mode", default.mode)
            .nick("Passes")
            .blurb(
                "Passes: one-pass makes regions of coming frames finer, two-pass gives on the pad refine the regions of past \
                 frames that feedback asks for",
            )
            .mutable_ready()
            .build(),
        scale(
            "low-scale",
            "Scale of the first pass",
            "With mode=two-pass: sides of the pictures on src as a fraction of those captured, rounded to even numbers",
            default.low_scale,
        ),
        scale(
            "low-scale-min",
            "Least scale of the first pass",
            "With mode=two-pass and bandwidth: smallest low-scale that the controller may choose, in steps of 0.75 that \
             each begin a new stream",
            default.low_scale_min,
        ),
        uint(
            "segment-length",
            "Segment length",
            "With mode=two-pass: frames per segment, each of which begins with an IDR frame in both streams; 0 = no \
             segments",
            (0, 31),
            default.segment_length,
        ),
        uint(
            "ring-frames",
            "Ring frames",
            "With mode=two-pass: most raw frames kept for their refinement",
            (1, 10_000),
            default.ring_frames,
        ),
        glib::ParamSpecUInt64::builder("ring-bytes")
            .nick("Ring bytes")
            .blurb("With mode=two-pass: most bytes of raw frames kept for their refinement")
            .default_value(default.ring_bytes)
            .mutable_ready()
            .build(),
        uint(
            "ring-age",
            "Ring age",
            "With mode=two-pass: milliseconds of video for which a raw frame is kept for its refinement",
            (0, 600_000),
            default.ring_age_ms,
        ),
        glib::ParamSpecEnum::builder_with_default("refine-canvas", default.refine_canvas)
            .nick("Refinement canvas")
            .blurb(
                "With mode=two-pass: what the stream on refine shows outside its regions, where hold takes fewer bits and \
                 black is as in the DDS paper",
            )
            .mutable_ready()
            .build(),
    ]
}

/// Settings from the text of a launch line, for tests.
#[cfg(test)]
pub(super) fn settings(values: &str) -> Settings {
    gst::init().unwrap();
    let mut settings = Settings::default();
    for (name, value) in values.split_whitespace().map(|pair| pair.split_once('=').unwrap()) {
        let pspec = ALL.iter().find(|pspec| pspec.name() == name).unwrap();
        let value = <glib::Value as gst::prelude::GstValueExt>::deserialize_with_pspec(value, pspec);
        settings.set(pspec, &value.unwrap_or_else(|e| panic!("{name}: {e}")));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value other than the default, for any property that can be set.
    fn other(pspec: &glib::ParamSpec) -> glib::Value {
        let default = pspec.default_value();
        let of_class = |values: Vec<glib::Value>| values.into_iter().find(|value| !same(value, default)).unwrap();
        if let Some(pspec) = pspec.downcast_ref::<glib::ParamSpecUInt>() {
            let ends = [pspec.minimum(), pspec.maximum()];
            return of_class(ends.iter().map(ToValue::to_value).collect());
        }
        if let Some(pspec) = pspec.downcast_ref::<glib::ParamSpecInt>() {
            return pspec.maximum().to_value();
        }
        if let Some(pspec) = pspec.downcast_ref::<glib::ParamSpecDouble>() {
            return (0.5 * (pspec.minimum() + pspec.maximum())).to_value();
        }
        if let Some(pspec) = pspec.downcast_ref::<gst::ParamSpecFraction>() {
            return pspec.maximum().to_value();
        }
        let type_ = pspec.value_type();
        if let Some(class) = glib::EnumClass::with_type(type_) {
            return of_class(class.values().iter().map(|value| value.to_value(&class)).collect());
        }
        if let Some(class) = glib::FlagsClass::with_type(type_) {
            return of_class(class.values().iter().map(|value| value.to_value(&class)).collect());
        }
        match type_ {
            glib::Type::BOOL => (!default.get::<bool>().unwrap()).to_value(),
            glib::Type::F32 => 0.75f32.to_value(),
            glib::Type::U64 => 12_345u64.to_value(),
            glib::Type::STRING => "text".to_value(),
            other => panic!("{}: {other}", pspec.name()),
        }
    }

    fn same(a: &glib::Value, b: &glib::Value) -> bool {
        a.compare(b) == Some(std::cmp::Ordering::Equal)
    }

    #[test]
    fn every_property_is_kept_by_its_name() {
        gst::init().unwrap();
        let settable = ALL.iter().filter(|p| p.flags().contains(glib::ParamFlags::WRITABLE));
        for pspec in settable.clone() {
            let (name, mut settings) = (pspec.name(), Settings::default());
            let value = other(pspec);
            assert!(settings.set(pspec, &value), "{name}");
            for all in settable
                .clone()
                .filter(|all| all.flags().contains(glib::ParamFlags::READABLE))
            {
                let wanted = if all == pspec { &value } else { all.default_value() };
                let found = settings.get(all).unwrap_or_else(|| panic!("{}", all.name()));
                assert!(same(&found, wanted), "{name}: {} is {found:?}", all.name());
            }
        }
        let key = ALL.iter().find(|p| p.name() == "feedback-key").unwrap();
        let mut settings = Settings::default();
        assert!(settings.set(key, &"secret".to_value()) && settings.channel().key == "secret");
        let stats = ALL.iter().find(|p| p.name() == "stats").unwrap();
        assert!(!settings.set(stats, stats.default_value()) && settings.get(stats).is_none());
    }
}
