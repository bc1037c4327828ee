// SPDX-License-Identifier: MPL-2.0

//! Settings that cannot work.

#![forbid(unsafe_code)]

use super::super::enums::{Pass, PsyTune, Tune};
use super::super::x264enc::MULTIPASS_CACHE_FILE;
use super::{RateMode, Settings};
use crate::camera::Way;
use crate::encoder::OpenError;

type Checked = Result<(), OpenError>;

fn refuse(name: &str, reason: &str, cure: &str) -> Checked {
    Err(OpenError::refused(name, reason, cure))
}

impl Settings {
    /// Refuses settings that cannot work, by the property's name and with the cure.
    ///
    /// # Errors
    /// The first such setting.
    pub fn check(&self) -> Checked {
        if let Some(name) = self.not_text.first() {
            return refuse(name, "its value is not UTF-8", "Write it in UTF-8");
        }
        if !self.channel.uri.is_empty() && !self.takes(Way::Uri) {
            return refuse(
                "feedback-ways",
                "feedback-uri is set, and uri is not among the ways that are taken",
                "Add uri, or remove feedback-uri",
            );
        }
        self.refuse_delay()?;
        self.refuse_tunings()?;
        self.refuse_rates()?;
        self.refuse_limits()
    }

    /// Settings that need the whole video, or future frames.
    fn refuse_delay(&self) -> Checked {
        let x264enc = &self.x264enc;
        if matches!(*x264enc.pass, Pass::Pass1 | Pass::Pass2 | Pass::Pass3) {
            return refuse(
                "pass",
                "coding in several passes needs the whole video before the first frame",
                "Set bitrate, or pass=qual with quantizer",
            );
        }
        if !matches!(x264enc.multipass_cache_file.as_str(), "" | MULTIPASS_CACHE_FILE) {
            return refuse("multipass-cache-file", "there is one pass only", "Remove it");
        }
        for (name, delays) in [
            ("bframes", *x264enc.bframes > 0),
            ("rc-lookahead", *x264enc.rc_lookahead > 0),
            ("sync-lookahead", *x264enc.sync_lookahead > 0),
        ] {
            if delays {
                return refuse(
                    name,
                    "it would delay video, and feedback with it",
                    "Set it to 0 or remove it",
                );
            }
        }
        if *x264enc.mb_tree {
            return refuse(
                "mb-tree",
                "the macroblock tree needs look-ahead, which delays video, and overrides regions",
                "Set mb-tree=false or remove it",
            );
        }
        Ok(())
    }

    fn refuse_tunings(&self) -> Checked {
        if self.x264enc.tune.contains(Tune::STILLIMAGE) && *self.x264enc.psy_tune != PsyTune::None {
            return refuse(
                "psy-tune",
                "tune=stillimage is a psychovisual tuning too, and libx264 takes one",
                "Remove one",
            );
        }
        Ok(())
    }

    /// Two settings that would both decide the quantizers.
    fn refuse_rates(&self) -> Checked {
        let (pass, kbps, mode) = (*self.x264enc.pass, *self.x264enc.bitrate, self.rate_mode());
        if pass == Pass::Quant && kbps > 0 {
            return refuse(
                "bitrate",
                "pass=quant codes at one quantizer whatever the bit rate",
                "Remove one of the two, or set max-bitrate for a cap",
            );
        }
        if pass == Pass::Auto && kbps > 0 && self.wants_quantizer() {
            return refuse(
                "quantizer",
                "bitrate is set too, and it decides the quantizers",
                "Set pass=qual for quality under a bit rate, or remove one of the two",
            );
        }
        if *self.max_feedback_bitrate_kbps > 0 && mode.is_of_library() {
            return refuse(
                "max-feedback-bitrate",
                "libx264 spends elsewhere what smaller regions save where bitrate or pass=qual is set",
                "Remove it: the bit rate bounds regions too",
            );
        }
        if self.bandwidth_min_kbps > 0 && self.bandwidth_min_kbps >= self.bandwidth_kbps {
            return refuse(
                "bandwidth-min",
                "it is not below bandwidth, so there is nothing between them to choose",
                "Set it lower, or to 0 for a fixed bandwidth",
            );
        }
        if self.bandwidth_kbps > 0 && mode != RateMode::Quantizers {
            return refuse(
                "bandwidth",
                "bitrate, pass or quantizer is set too, and it decides the quantizers",
                "Remove one of the two",
            );
        }
        Ok(())
    }

    fn refuse_limits(&self) -> Checked {
        let x264enc = &self.x264enc;
        if matches!(self.rate_mode(), RateMode::Constant(_)) && *x264enc.quantizer == 0 {
            return refuse(
                "quantizer",
                "0 is lossless coding, which has no regions",
                "Set it to 1 or more",
            );
        }
        if *x264enc.qp_min > *x264enc.qp_max {
            return refuse("qp-min", "it is above qp-max", "Set it to qp-max or less");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::properties::settings;
    use super::*;

    #[test]
    fn a_saved_preset_means_what_it_meant_when_it_was_saved() {
        for (values, mode) in [
            ("", RateMode::Quantizers),
            ("bitrate=800", RateMode::Bitrate(800)),
            ("pass=cbr", RateMode::Bitrate(2048)),
            ("quantizer=21", RateMode::Constant(21)),
            ("pass=auto quantizer=21", RateMode::Constant(21)),
            ("pass=quant", RateMode::Constant(21)),
            ("pass=qual bitrate=800", RateMode::Quality { quality: 21, kbps: 800 }),
            // A preset contains every property. It was saved with these defaults,
            ("pass=auto bitrate=0 quantizer=21", RateMode::Quantizers),
            ("pass=auto bitrate=0 quantizer=30", RateMode::Constant(30)),
            ("pass=auto bitrate=800 quantizer=21", RateMode::Bitrate(800)),
            // or with the older ones, or another value was changed after it was loaded.
            ("pass=cbr bitrate=0 quantizer=21", RateMode::Quantizers),
            ("pass=cbr bitrate=800 quantizer=21", RateMode::Bitrate(800)),
            ("pass=auto bitrate=0 quantizer=21 bitrate=500", RateMode::Bitrate(500)),
        ] {
            let settings = settings(values);
            assert_eq!(settings.live().mode, mode, "{values}");
            assert!(settings.check().is_ok(), "{values}");
        }
        for values in ["bitrate=800 quantizer=21", "pass=auto bitrate=800 quantizer=30"] {
            assert!(settings(values).check().is_err(), "{values}");
        }
    }

    #[test]
    fn what_may_be_wished_depends_on_what_chooses_quantizers() {
        for (values, interval, quantizers, ceiling) in [
            ("", true, true, true),
            ("max-bitrate=900", true, true, true),
            ("bandwidth=900", true, false, true),
            ("bitrate=900", true, false, false),
            ("pass=qual", true, false, false),
            ("quantizer=30", true, false, false),
            ("server-rate=false", false, false, false),
            ("mode=two-pass", false, false, false),
            ("bitrate=900 option-string=subme=1:nal-hrd=vbr", false, false, false),
            ("bitrate=900 option-string=nal-hrd=none", true, false, false),
            ("encoder=x265 bitrate=900 option-string=hrd", false, false, false),
        ] {
            let settings = settings(values);
            let wishes = settings.live().wishes;
            assert_eq!(
                (wishes.interval, wishes.quantizers, wishes.ceiling),
                (interval, quantizers, ceiling),
                "{values}"
            );
            assert_eq!(settings.leaves_out(), interval, "{values}");
            assert!(!settings.repeats(), "{values}");
        }
        let repeats = settings("skipped-pictures=repeat");
        assert!(repeats.repeats() && !repeats.leaves_out());
    }
}
