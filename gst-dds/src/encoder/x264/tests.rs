// SPDX-License-Identifier: MPL-2.0

use std::sync::{Arc, Mutex};

use super::units::{NAL_SEI, VERSION_SEI_UUID};
use super::*;
use crate::encoder::sps::without_fixed_rate;
use crate::encoder::{EncoderOption, LogLevel, Origin};

fn config() -> Config {
    Config {
        codec: Codec::H264,
        width: 64,
        height: 48,
        format: PixelFormat::I420,
        frame_rate: Some((30, 1)),
        max_frame_rate: None,
        leaves_out: false,
        repeats: false,
        pixel_aspect_ratio: (1, 1),
        colour: None,
        interlaced: None,
        frame_packing: None,
        preset: Some("superfast".into()),
        tune: Some("zerolatency".into()),
        profile: None,
        intra_only: false,
        level_idc: None,
        byte_stream: true,
        rate: RateControl::Quantizers { base_qp: 36 },
        vbv: Vbv::OPEN,
        vbv_may_change: true,
        still_parts: false,
        nominal_kbps: 0,
        gpu: None,
        options: vec![EncoderOption {
            origin: Origin::Property("threads"),
            key: "threads".into(),
            value: Some("1".into()),
        }],
    }
}

fn open(config: &Config) -> Result<X264, OpenError> {
    X264::open(config, Box::new(|_, _| ()))
}

fn with(key: &str, value: Option<&str>) -> Config {
    let mut config = config();
    config.options.push(EncoderOption {
        origin: Origin::OptionString,
        key: key.into(),
        value: value.map(Into::into),
    });
    config
}

const LUMA: [u8; 64 * 48] = [90; 64 * 48];
const CHROMA: [u8; 32 * 24] = [128; 32 * 24];

fn picture(luma: &[u8], pts: i64) -> Picture<'_> {
    let chroma = Plane {
        data: &CHROMA,
        stride: 32,
    };
    Picture {
        planes: [Plane { data: luma, stride: 64 }, chroma, chroma],
        pts,
    }
}

#[test]
fn every_picture_comes_out_of_the_call_that_took_it() {
    let mut encoder = open(&config()).unwrap();
    assert_eq!(encoder.delay(), 0);
    assert!(encoder.name().starts_with("x264 0."));
    let ParameterSets { sps, pps, .. } = encoder.parameter_sets();
    assert_eq!((sps[0] & 0x1f, pps[0] & 0x1f), (7, 8));
    for i in 0..5 {
        let controls = FrameControls {
            base_qp: 36,
            offsets: None,
            force_idr: i == 3,
        };
        let unit = encoder.encode(&picture(&LUMA, i), &controls).unwrap();
        assert_eq!((unit.idr, unit.keyframe), (i % 3 == 0, i % 3 == 0));
        assert!(unit.nals.iter().any(|n| matches!(n.kind, 1 | 5)));
        for nal in unit.nals {
            assert_eq!(unit.data[nal.body] & 0x1f, nal.kind);
            assert_eq!(unit.data[nal.body - 1], 1, "a start code");
            assert!(c_int::from(nal.kind) != NAL_SEI, "the version message is left out");
        }
    }
}

#[test]
fn a_stream_that_pictures_are_left_out_of_declares_no_fixed_rate_from_its_first_parameter_set_on() {
    for (format, profile) in [
        (PixelFormat::I420, None),
        (PixelFormat::I420, Some("high")),
        (PixelFormat::I444, None),
    ] {
        let fixed = Config {
            format,
            profile,
            byte_stream: format == PixelFormat::I420,
            ..config()
        };
        let leaves_out = Config {
            leaves_out: true,
            ..fixed.clone()
        };
        let (fixed, mut encoder) = (open(&fixed).unwrap(), open(&leaves_out).unwrap());
        let (before, after) = (fixed.parameter_sets().sps, encoder.parameter_sets().sps.to_vec());
        let bits = |set: &[u8]| set.iter().map(|byte| byte.count_ones()).sum::<u32>();
        assert_eq!(
            (bits(before), before.len()),
            (bits(&after) + 1, after.len()),
            "{format:?} {profile:?}"
        );
        assert_eq!(without_fixed_rate(before).as_ref(), Some(&after));
        if format == PixelFormat::I420 {
            let unit = encoder.encode(&picture(&LUMA, 0), &FrameControls::default()).unwrap();
            let set = unit.nals.iter().find(|nal| c_int::from(nal.kind) == NAL_SPS).unwrap();
            assert_eq!(unit.data[set.body..set.end], after);
        }
    }
}

#[test]
fn planes_too_short_for_their_stride_are_refused() {
    let mut encoder = open(&config()).unwrap();
    let controls = FrameControls {
        base_qp: 36,
        ..FrameControls::default()
    };
    let mut short = picture(&LUMA[..64 * 48 - 1], 0);
    assert_eq!(
        encoder.encode(&short, &controls).err(),
        Some(EncodeError::ShortPlane(0))
    );
    short = picture(&LUMA, 0);
    short.planes[2].stride = 31;
    assert_eq!(
        encoder.encode(&short, &controls).err(),
        Some(EncodeError::ShortPlane(2))
    );
    short = picture(&LUMA, 0);
    short.planes[1].data = &[];
    assert_eq!(
        encoder.encode(&short, &controls).err(),
        Some(EncodeError::ShortPlane(1))
    );
    // The last row needs no padding.
    assert!(encoder.encode(&picture(&LUMA, 0), &controls).is_ok());
}

#[test]
fn too_few_offsets_leave_the_rest_at_the_base() {
    let mut encoder = open(&config()).unwrap();
    for (i, offsets) in [&[][..], &[-10], &[-10; 12], &[-10; 100]].into_iter().enumerate() {
        let controls = FrameControls {
            base_qp: 36,
            offsets: Some(offsets),
            force_idr: false,
        };
        assert!(encoder.encode(&picture(&LUMA, i as i64), &controls).is_ok());
    }
}

#[test]
fn the_reference_never_lies_one_step_above_the_base_and_only_rises_while_the_vbv_is_open() {
    let mut encoder = open(&config()).unwrap();
    let mut previous = 0;
    for (i, base_qp) in [36, 30, 35, 36, 37, 20, 38, 37, 50, 51, 1].into_iter().enumerate() {
        let controls = FrameControls {
            base_qp,
            offsets: None,
            force_idr: false,
        };
        encoder.encode(&picture(&LUMA, i as i64), &controls).unwrap();
        assert!(
            encoder.reference >= base_qp.max(previous),
            "{base_qp}: {}",
            encoder.reference
        );
        assert_ne!(encoder.reference, base_qp + 1);
        previous = encoder.reference;
    }
    // Under a cap quantizers need room to rise.
    encoder
        .reconfigure(&Rates {
            kbps: None,
            quality: None,
            vbv: Vbv {
                max_kbps: 500,
                buffer_kbit: 50,
            },
        })
        .unwrap();
    let controls = FrameControls {
        base_qp: 30,
        offsets: None,
        force_idr: false,
    };
    encoder.encode(&picture(&LUMA, 20), &controls).unwrap();
    assert_eq!(encoder.reference, 30);
}

#[test]
fn what_makes_x264_ignore_regions_or_delay_is_refused_with_a_cure() {
    for (key, value) in [
        ("aq-mode", Some("0")),
        ("aq_strength", Some("0")),
        ("no-psy:aq-mode", None),
        ("mbtree", None),
        ("bframes", Some("1")),
        ("qp", Some("30")),
        ("qcomp", Some("0.5")),
        ("zones", Some("0,9,b=2")),
        ("sliced-threads\0", None),
    ] {
        let Err(OpenError::Refused { option, reason, cure }) = open(&with(key, value)).map(drop) else {
            panic!("{key} opened");
        };
        assert!(!option.is_empty() && !reason.is_empty() && !cure.is_empty());
    }
    assert!(open(&with("no-mbtree", None)).is_ok());
    assert!(open(&with("deblock", Some("1,1"))).is_ok());
}

#[test]
fn log_lines_come_formatted_and_an_open_vbv_is_no_news() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let keep = lines.clone();
    let log = Box::new(move |level, text: &str| keep.lock().unwrap().push((level, text.to_string())));
    drop(X264::open(&config(), log).unwrap());
    let lines = lines.lock().unwrap();
    assert!(
        lines
            .iter()
            .any(|(level, text)| *level == LogLevel::Info && text.starts_with("profile ")),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|(level, text)| *level == LogLevel::Debug && text.contains("level limit (")),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .all(|(level, _)| matches!(level, LogLevel::Info | LogLevel::Debug)),
        "{lines:?}"
    );
}

#[test]
fn version_messages_are_told_from_others() {
    let mut sei = vec![6, 5, 0xff, 0xff, 0xb0];
    sei.extend(VERSION_SEI_UUID);
    assert!(is_version_sei(6, &sei));
    assert!(!is_version_sei(1, &sei));
    sei[5] ^= 1;
    assert!(!is_version_sei(6, &sei));
    for end in 0..9 {
        assert!(!is_version_sei(
            6,
            &[6, 5, 0xff, 0xff, 0xb0, 0xdc, 0x45, 0xe9, 0xbd][..end]
        ));
    }
}
