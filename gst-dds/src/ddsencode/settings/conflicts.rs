// SPDX-License-Identifier: MPL-2.0

//! Settings that cancel each other. Each alone is valid, and the video is coded; but setting both does not have the
//! intended effect. Settings that cannot work at all are refused by [`Settings::check`].

#![forbid(unsafe_code)]

use super::super::enums::Passes;
use super::{Live, RateMode, SCALE_STEP, Settings};

/// Two settings that do not go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Conflict {
    /// Names of the properties: one warning for each such pair.
    pub pair: &'static str,
    /// The settings, their conflict, and the cure.
    pub text: String,
}

impl Settings {
    /// Pairs of settings that cancel each other. None for the defaults.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut found = Vec::new();
        let mut report = |pair, text: String| found.push(Conflict { pair, text });
        let (live, default) = (self.live(), Self::default());
        of_regions(&live, &mut report);
        match live.mode {
            RateMode::Quantizers => self.of_limits(&live, &mut report),
            _ => self.of_unused_quantizers(&live, &default, &mut report),
        }
        self.of_caps(&live, &mut report);
        self.of_rate_control(live.mode, &default, &mut report);
        self.of_wishes(&default, &mut report);
        match self.mode {
            Passes::One => self.of_one_pass(&default, &mut report),
            Passes::Two => {
                self.of_scales(&default, &mut report);
                self.of_two_passes(&mut report);
            }
        }
        if self.channel.plain && self.channel.uri.is_empty() {
            report(
                "feedback-plain, feedback-uri",
                "feedback-plain=true: there is no feedback-uri that could do without a key. Set it, or remove feedback-plain"
                    .into(),
            );
        }
        found
    }

    /// Quantizers that another rate mode does not read.
    fn of_unused_quantizers(&self, live: &Live, default: &Self, report: &mut impl FnMut(&'static str, String)) {
        let (background, region) = (live.background_qp, live.region_qp);
        if *self.background_qp != *default.background_qp {
            report(
                "background-qp, bitrate, pass, quantizer",
                format!(
                    "background-qp={background}: bitrate, pass or quantizer decides the quantizers, and of background-qp \
                     and region-qp only the difference of {} counts. Remove those for exact quantizers, or background-qp",
                    i32::from(background) - i32::from(region)
                ),
            );
        }
        if *self.fallback_qp != *default.fallback_qp {
            report(
                "fallback-qp, bitrate, pass, quantizer",
                format!(
                    "fallback-qp={}: bitrate, pass or quantizer decides what is coded without feedback. Remove those, or \
                     fallback-qp",
                    live.fallback_qp
                ),
            );
        }
    }

    /// Quantizers outside the limits.
    fn of_limits(&self, live: &Live, report: &mut impl FnMut(&'static str, String)) {
        let (background, region) = (live.background_qp, live.region_qp);
        let (low, high) = live.limits;
        let cut = |qp: u8| qp.clamp(low, high);
        if region < background && cut(region) == cut(background) {
            report(
                "qp-min, qp-max, region-qp",
                format!(
                    "background-qp={background}, region-qp={region}: qp-min={low} and qp-max={high} make both {}, so regions do \
                     nothing. Widen the limits",
                    cut(region)
                ),
            );
            return;
        }
        for (pair, name, qp, by_hand) in [
            (
                "background-qp, qp-min, qp-max",
                "background-qp",
                background,
                self.background_qp.by_hand(),
            ),
            (
                "region-qp, qp-min, qp-max",
                "region-qp",
                region,
                self.region_qp.by_hand(),
            ),
            (
                "fallback-qp, qp-min, qp-max",
                "fallback-qp",
                live.fallback_qp,
                self.fallback_qp.by_hand(),
            ),
        ] {
            if by_hand && cut(qp) != qp {
                let limit = if qp < low { "qp-min" } else { "qp-max" };
                report(
                    pair,
                    format!(
                        "{name}={qp}: {limit} makes it {}. Widen the limit, or set {name} within it",
                        cut(qp)
                    ),
                );
            }
        }
    }

    /// Rates that are never reached because of another one.
    fn of_caps(&self, live: &Live, report: &mut impl FnMut(&'static str, String)) {
        let cap = live.max_bitrate_kbps;
        if let RateMode::Bitrate(kbps) = live.mode
            && (1..kbps).contains(&cap)
        {
            report(
                "bitrate, max-bitrate",
                format!(
                    "bitrate={kbps}, max-bitrate={cap}: the cap is lower and wins. Lower bitrate, or raise max-bitrate"
                ),
            );
        }
        // The cap applies to the first pass alone, the bandwidth to both.
        if self.mode == Passes::One && (1..live.bandwidth_kbps).contains(&cap) {
            report(
                "bandwidth, max-bitrate",
                format!(
                    "bandwidth={}, max-bitrate={cap}: the cap is lower, so the bandwidth is never used. Lower bandwidth, or \
                     raise max-bitrate",
                    live.bandwidth_kbps
                ),
            );
        }
    }

    /// Settings that the rate mode does not read.
    fn of_rate_control(&self, mode: RateMode, default: &Self, report: &mut impl FnMut(&'static str, String)) {
        let (x264enc, default) = (&self.x264enc, &default.x264enc);
        let rated = matches!(mode, RateMode::Bitrate(_) | RateMode::Quality { kbps: 1.., .. });
        if *x264enc.vbv_buf_capacity != *default.vbv_buf_capacity && !rated {
            report(
                "vbv-buf-capacity, bitrate",
                "vbv-buf-capacity: without bitrate there is no such buffer. Set bitrate, or max-bitrate for a cap over any one \
                 second"
                    .into(),
            );
        }
        if *x264enc.qp_step != *default.qp_step && !mode.is_of_library() {
            report(
                "qp-step, bitrate",
                "qp-step: without bitrate or pass=qual quantizers are exact, and no step bounds them. Remove it".into(),
            );
        }
        if matches!(mode, RateMode::Bitrate(_)) && *x264enc.quantizer != *default.quantizer {
            report(
                "quantizer, bitrate, pass",
                "quantizer: with bitrate, or pass=cbr, the bit rate decides the quantizers. Set pass=qual or pass=quant, or \
                 remove quantizer"
                    .into(),
            );
        }
    }

    /// Bounds of wishes where nothing may be wished.
    fn of_wishes(&self, default: &Self, report: &mut impl FnMut(&'static str, String)) {
        let (cause, cure) = match (self.server_rate, self.mode) {
            (true, Passes::One) => return,
            (false, _) => ("server-rate=false", "server-rate=true"),
            (true, Passes::Two) => ("mode=two-pass", "mode=one-pass"),
        };
        for (pairs, changed) in [
            (
                ["min-framerate, server-rate", "min-framerate, mode"],
                self.min_framerate != default.min_framerate,
            ),
            (
                ["max-background-qp, server-rate", "max-background-qp, mode"],
                self.max_background_qp != default.max_background_qp,
            ),
            (
                ["viewer-framerate, server-rate", "viewer-framerate, mode"],
                self.viewer_framerate != default.viewer_framerate,
            ),
            (
                ["skipped-pictures, server-rate", "skipped-pictures, mode"],
                self.skipped_pictures != default.skipped_pictures,
            ),
        ] {
            if changed {
                let pair = pairs[usize::from(self.server_rate)];
                let name = pair.split(',').next().unwrap_or(pair);
                report(
                    pair,
                    format!(
                        "{name}: with {cause} servers may wish nothing that it could bound. Set {cure}, or remove {name}"
                    ),
                );
            }
        }
    }

    /// Settings that only two passes read.
    fn of_one_pass(&self, default: &Self, report: &mut impl FnMut(&'static str, String)) {
        for (pair, name, changed) in [
            ("mode, low-scale", "low-scale", self.low_scale != default.low_scale),
            (
                "mode, low-scale-min",
                "low-scale-min",
                self.low_scale_min != default.low_scale_min,
            ),
            (
                "mode, segment-length",
                "segment-length",
                self.segment_length != default.segment_length,
            ),
            (
                "mode, ring-frames",
                "ring-frames",
                self.ring_frames != default.ring_frames,
            ),
            ("mode, ring-bytes", "ring-bytes", self.ring_bytes != default.ring_bytes),
            ("mode, ring-age", "ring-age", self.ring_age_ms != default.ring_age_ms),
            (
                "mode, refine-canvas",
                "refine-canvas",
                self.refine_canvas != default.refine_canvas,
            ),
        ] {
            if changed {
                report(
                    pair,
                    format!("{name}: there is one pass, and it is for two. Set mode=two-pass, or remove {name}"),
                );
            }
        }
    }

    /// Sizes of the first pass that are never chosen.
    fn of_scales(&self, default: &Self, report: &mut impl FnMut(&'static str, String)) {
        let scales = self.low_scales();
        if self.low_scale_min != default.low_scale_min {
            let (least, largest) = (self.low_scale_min, scales[0]);
            if self.bandwidth_kbps == 0 {
                report(
                    "low-scale-min, bandwidth",
                    format!(
                        "low-scale-min={least}: without bandwidth nobody chooses a size. Set bandwidth, or set low-scale to the \
                         size wanted"
                    ),
                );
            } else if scales.len() == 1 {
                report(
                    "low-scale-min, low-scale",
                    format!(
                        "low-scale={largest}, low-scale-min={least}: sizes go down in steps of {}, and none lies between. Set \
                         low-scale-min to {:.2} or less",
                        SCALE_STEP,
                        largest * SCALE_STEP
                    ),
                );
            }
        }
    }

    /// Segments and rings that leave no frames for the second pass.
    fn of_two_passes(&self, report: &mut impl FnMut(&'static str, String)) {
        let segment = self.segment_length;
        let frames = self.ring_frames;
        if segment > 0 && frames <= segment {
            report(
                "ring-frames, segment-length",
                format!(
                    "segment-length={segment}, ring-frames={frames}: the frames of a segment are gone before anybody can ask for \
                     them. Set ring-frames to {} or more",
                    2 * segment
                ),
            );
        }
        let key_int_max = *self.x264enc.key_int_max;
        if (1..segment).contains(&key_int_max) {
            report(
                "key-int-max, segment-length",
                format!(
                    "segment-length={segment}, key-int-max={key_int_max}: key frames come within segments too. Set key-int-max \
                     to {segment} or more, or remove it"
                ),
            );
        }
        for (pair, name, empty) in [
            ("ring-age, mode", "ring-age", self.ring_age_ms == 0),
            ("ring-bytes, mode", "ring-bytes", self.ring_bytes == 0),
        ] {
            if empty {
                report(
                    pair,
                    format!("{name}=0: no frame waits for its second pass, so there is none. Set it higher"),
                );
            }
        }
    }
}

/// Quantizers that leave regions without effect.
fn of_regions(live: &Live, report: &mut impl FnMut(&'static str, String)) {
    let (background, region) = (live.background_qp, live.region_qp);
    if region > background {
        report(
            "background-qp, region-qp",
            format!(
                "background-qp={background}, region-qp={region}: regions are no finer than the background, so they do \
                 nothing. Higher is coarser: set background-qp={region} region-qp={background}"
            ),
        );
    }
    if live.max_region_area == 0.0 {
        report(
            "max-region-area, region-qp",
            "max-region-area=0: no part of the picture may be finer, so feedback and region-qp do nothing. Set it above \
             0; for uniform quantizers set region-qp and background-qp equal"
                .into(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::properties::{ALL, settings};
    use super::*;

    fn pairs(values: &str) -> Vec<&'static str> {
        settings(values).conflicts().into_iter().map(|c| c.pair).collect()
    }

    #[test]
    fn each_pair_that_cancels_itself_is_told_with_its_cure() {
        for (values, pair, wants) in [
            (
                "background-qp=30 region-qp=45",
                "background-qp, region-qp",
                "background-qp=45 region-qp=30",
            ),
            (
                "region-qp=40",
                "background-qp, region-qp",
                "background-qp=40 region-qp=36",
            ),
            ("bitrate=500 region-qp=45", "background-qp, region-qp", "no finer"),
            ("max-region-area=0", "max-region-area, region-qp", "above 0"),
            ("qp-min=40", "qp-min, qp-max, region-qp", "Widen"),
            ("qp-max=26", "qp-min, qp-max, region-qp", "make both 26"),
            (
                "region-qp=20 qp-min=24",
                "region-qp, qp-min, qp-max",
                "qp-min makes it 24",
            ),
            (
                "background-qp=44 qp-max=40",
                "background-qp, qp-min, qp-max",
                "qp-max makes it 40",
            ),
            ("fallback-qp=20 qp-min=24", "fallback-qp, qp-min, qp-max", "makes it 24"),
            (
                "bitrate=500 background-qp=40",
                "background-qp, bitrate, pass, quantizer",
                "difference of 14",
            ),
            (
                "pass=quant background-qp=40",
                "background-qp, bitrate, pass, quantizer",
                "difference of 14",
            ),
            (
                "quantizer=30 fallback-qp=34",
                "fallback-qp, bitrate, pass, quantizer",
                "fallback-qp=34",
            ),
            ("bitrate=2000 max-bitrate=1000", "bitrate, max-bitrate", "wins"),
            (
                "bandwidth=2000 max-bitrate=1000",
                "bandwidth, max-bitrate",
                "never used",
            ),
            ("vbv-buf-capacity=100", "vbv-buf-capacity, bitrate", "Set bitrate"),
            ("qp-step=2", "qp-step, bitrate", "Remove it"),
            ("pass=cbr quantizer=30", "quantizer, bitrate, pass", "pass=qual"),
            ("low-scale=0.5", "mode, low-scale", "mode=two-pass"),
            (
                "bandwidth=900 low-scale-min=0.5",
                "mode, low-scale-min",
                "mode=two-pass",
            ),
            ("segment-length=15", "mode, segment-length", "mode=two-pass"),
            ("ring-frames=30", "mode, ring-frames", "mode=two-pass"),
            ("ring-bytes=1000000", "mode, ring-bytes", "mode=two-pass"),
            ("ring-age=500", "mode, ring-age", "mode=two-pass"),
            ("refine-canvas=black", "mode, refine-canvas", "mode=two-pass"),
            (
                "mode=two-pass low-scale-min=0.5",
                "low-scale-min, bandwidth",
                "Set bandwidth",
            ),
            (
                "mode=two-pass bandwidth=900 low-scale=0.6 low-scale-min=0.5",
                "low-scale-min, low-scale",
                "0.45 or less",
            ),
            (
                "mode=two-pass segment-length=15 ring-frames=15",
                "ring-frames, segment-length",
                "30 or more",
            ),
            (
                "mode=two-pass segment-length=15 key-int-max=10",
                "key-int-max, segment-length",
                "15 or more",
            ),
            ("mode=two-pass ring-age=0", "ring-age, mode", "higher"),
            ("mode=two-pass ring-bytes=0", "ring-bytes, mode", "higher"),
            ("feedback-plain=true", "feedback-plain, feedback-uri", "Set it"),
            (
                "server-rate=false min-framerate=8/1",
                "min-framerate, server-rate",
                "Set server-rate=true",
            ),
            (
                "mode=two-pass max-background-qp=40",
                "max-background-qp, mode",
                "Set mode=one-pass",
            ),
            (
                "server-rate=false skipped-pictures=repeat",
                "skipped-pictures, server-rate",
                "remove skipped-pictures",
            ),
            (
                "mode=two-pass viewer-framerate=30/1",
                "viewer-framerate, mode",
                "remove viewer-framerate",
            ),
        ] {
            let found = settings(values).conflicts();
            assert_eq!(found.len(), 1, "{values}: {found:?}");
            assert_eq!(found[0].pair, pair, "{values}");
            assert!(found[0].text.contains(wants), "{values}: {}", found[0].text);
        }
    }

    #[test]
    fn settings_that_go_together_are_told_nothing_about() {
        for values in [
            "",
            "background-qp=30 region-qp=30",
            "background-qp=44 region-qp=34 fallback-qp=40 max-bitrate=800",
            // Settings found in x264enc lines.
            "qp-min=18",
            "bitrate=800 qp-min=20 qp-max=40 qp-step=2 vbv-buf-capacity=300 key-int-max=30",
            "pass=qual quantizer=20 bitrate=1000 vbv-buf-capacity=300",
            "pass=quant quantizer=30",
            "bitrate=800 region-qp=30 max-bitrate=1000",
            "bandwidth=900 max-bitrate=4000",
            "mode=two-pass bandwidth=900 max-bitrate=500",
            "mode=two-pass low-scale=0.8 segment-length=15 ring-frames=60 key-int-max=250 refine-canvas=black",
            "mode=two-pass bandwidth=900 low-scale-min=0.5",
            "feedback-plain=true feedback-uri=udp://0.0.0.0:5006",
        ] {
            assert_eq!(pairs(values), [""; 0], "{values}");
        }
        // Defaults that are set explicitly, as by a saved preset, are still defaults.
        let mut saved = Settings::default();
        for pspec in ALL.iter().filter(|p| p.flags().contains(glib::ParamFlags::READWRITE)) {
            saved.set(pspec, pspec.default_value());
        }
        assert_eq!(saved.conflicts(), []);
    }
}
