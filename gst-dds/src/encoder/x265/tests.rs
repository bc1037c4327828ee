// SPDX-License-Identifier: MPL-2.0

use dds_protocol::nal::unescape;

use super::*;
use crate::encoder::Plane;
use crate::encoder::{EncoderOption, Origin};
use crate::vbv::Vbv;

const WIDTH: usize = 96;
const HEIGHT: usize = 80;

fn config() -> Config {
    Config {
        codec: Codec::H265,
        width: WIDTH as u32,
        height: HEIGHT as u32,
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

fn open(config: &Config) -> Result<X265, OpenError> {
    X265::open(config, Box::new(|_, _| ()))
}

fn with(origin: Origin, key: &str, value: Option<&str>) -> Config {
    let mut config = config();
    config.options.push(EncoderOption {
        origin,
        key: key.into(),
        value: value.map(Into::into),
    });
    config
}

fn noise(seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..WIDTH * HEIGHT).map(|_| next()).collect()
}

const CHROMA: [u8; WIDTH * HEIGHT / 4] = [128; WIDTH * HEIGHT / 4];

fn picture(luma: &[u8], pts: i64) -> Picture<'_> {
    let chroma = Plane {
        data: &CHROMA,
        stride: WIDTH / 2,
    };
    Picture {
        planes: [
            Plane {
                data: luma,
                stride: WIDTH,
            },
            chroma,
            chroma,
        ],
        pts,
    }
}

/// Average quantizers of I and P pictures so far, as reported by the library.
fn statistics(encoder: &X265) -> (f64, f64) {
    let mut stats = std::mem::MaybeUninit::<sys::x265_stats>::zeroed();
    let size = size_of::<sys::x265_stats>() as u32;
    // SAFETY: the structure has this size and may be all zeros; the call fills it.
    let stats = unsafe {
        call!(
            encoder.api,
            encoder_get_stats(encoder.session.handle.as_ptr(), stats.as_mut_ptr(), size)
        );
        stats.assume_init()
    };
    (stats.statsI.avgQp, stats.statsP.avgQp)
}

#[test]
fn every_picture_comes_out_of_the_call_that_took_it() {
    for byte_stream in [true, false] {
        let mut encoder = open(&Config {
            byte_stream,
            ..config()
        })
        .unwrap();
        assert_eq!(encoder.delay(), 0);
        assert!(encoder.name().starts_with("x265 "));
        let sets = encoder.parameter_sets();
        assert_eq!([sets.vps[0] >> 1, sets.sps[0] >> 1, sets.pps[0] >> 1], [32, 33, 34]);
        let luma = noise(1);
        for i in 0..6 {
            let controls = FrameControls {
                base_qp: 36,
                offsets: None,
                force_idr: i == 3,
            };
            let unit = encoder.encode(&picture(&luma, i), &controls).unwrap();
            assert_eq!((unit.idr, unit.keyframe), (i % 3 == 0, i % 3 == 0), "{i}");
            let kinds: Vec<u8> = unit.nals.iter().map(|n| n.kind).collect();
            let slice = if i % 3 == 0 { 19..=20 } else { 0..=1 };
            let (last, before) = kinds.split_last().unwrap();
            assert!(slice.contains(last), "{kinds:?}");
            let sets: &[u8] = if byte_stream && i % 3 == 0 { &[32, 33, 34] } else { &[] };
            assert_eq!(before, sets);
            for nal in unit.nals {
                assert_eq!(unit.data[nal.body] >> 1, nal.kind);
                let prefix = &unit.data[nal.start..nal.body];
                if byte_stream {
                    assert!(prefix.ends_with(&[0, 0, 1]), "{prefix:?}");
                } else {
                    assert_eq!(prefix, ((nal.end - nal.body) as u32).to_be_bytes());
                }
            }
            assert_eq!(unit.nals.last().unwrap().end, unit.data.len());
        }
    }
}

#[test]
fn the_library_counts_the_quantizers_that_were_asked_for() {
    let blocks = (WIDTH / 16) * (HEIGHT / 16);
    // Half of the blocks at -10: 31 on average.
    let half: Vec<i8> = (0..blocks).map(|i| if i < blocks / 2 { -10 } else { 0 }).collect();
    let mut encoder = open(&config()).unwrap();
    for (i, base_qp) in [36, 20, 44].into_iter().enumerate() {
        let mut encoder = open(&config()).unwrap();
        for frame in 0..4 {
            let controls = FrameControls {
                base_qp,
                offsets: Some(&half),
                force_idr: frame == 3,
            };
            encoder
                .encode(&picture(&noise(frame), frame.into()), &controls)
                .unwrap();
        }
        let (i_frames, p_frames) = statistics(&encoder);
        let want = f64::from(base_qp) - 5.0;
        assert!(
            (i_frames - want).abs() < 0.1 && (p_frames - want).abs() < 0.1,
            "{i}: {i_frames} {p_frames}"
        );
    }
    // An I picture at once after the base has fallen.
    for (frame, base_qp) in [(0, 40), (1, 40), (2, 40), (3, 28)] {
        let controls = FrameControls {
            base_qp,
            offsets: None,
            force_idr: frame == 3,
        };
        encoder
            .encode(&picture(&noise(frame), frame.into()), &controls)
            .unwrap();
    }
    let (i_frames, p_frames) = statistics(&encoder);
    assert!(
        (i_frames - 34.0).abs() < 0.1 && (p_frames - 40.0).abs() < 0.1,
        "{i_frames} {p_frames}"
    );
}

fn refusal(config: &Config) -> (String, String) {
    match open(config) {
        Err(OpenError::Refused { option, cure, .. }) => (option, cure),
        Err(OpenError::Library(what)) => panic!("{what}"),
        Ok(_) => panic!("it opens with {:?}", config.options),
    }
}

#[test]
fn options_at_odds_with_no_delay_regions_or_the_element_are_refused_by_name() {
    let text = |key: &str, value: &str| with(Origin::OptionString, key, Some(value));
    for (key, value) in [
        ("bframes", "2"),
        ("rc-lookahead", "5"),
        ("frame-threads", "3"),
        ("slices", "4"),
        ("aq-mode", "0"),
        ("aq-strength", "0"),
        ("aq-mode", "3"),
        ("aq-strength", "1"),
        ("qcomp", "0.6"),
        ("ipratio", "1.4"),
        ("qg-size", "8"),
        ("cutree", "1"),
        ("crf", "20"),
        ("qp", "20"),
        ("vbv-maxrate", "500"),
        ("pools", "3"),
        ("pass", "2"),
        ("ctu-info", "1"),
        ("info", "1"),
        ("open-gop", "1"),
        ("zones", "0,1,q=10"),
        ("opt-cu-delta-qp", "1"),
        ("rd-refine", "1"),
        ("hevc-aq", "1"),
        ("lossless", "1"),
        ("scaling-list", "default"),
        ("no_copy_pic", "1"),
        ("level-idc", "31"),
        ("no-such-option", "1"),
        ("ref", "many"),
    ] {
        let (option, cure) = refusal(&text(key, value));
        assert_eq!(option, format!("option-string `{key}={value}`"));
        assert!(cure.len() > 5, "{key}: {cure}");
    }
    let property = |name: &'static str, value: &str| with(Origin::Property(name), name, Some(value));
    for (name, value) in [
        ("me", "tesa"),
        ("subme", "8"),
        ("noise-reduction", "2001"),
        ("analyse", "i4x4"),
        ("cabac", "0"),
        ("dct8x8", "0"),
        ("sps-id", "1"),
        ("intra-refresh", "1"),
        ("interlaced", "1"),
        ("sliced-threads", "0"),
        ("ip-factor", "1.4"),
        ("bframes", "1"),
    ] {
        assert_eq!(refusal(&property(name, value)).0, name);
    }
    for tune in [
        "film,zerolatency",
        "stillimage,zerolatency",
        "psnr,fastdecode,zerolatency",
    ] {
        let config = Config {
            tune: Some(tune.into()),
            ..config()
        };
        assert!(refusal(&config).0.ends_with("tune"), "{tune}");
    }
    let config = Config { tune: None, ..config() };
    assert_eq!(refusal(&config).0, "tune");
}

#[test]
fn properties_of_x264enc_reach_the_library_or_say_what_is_so() {
    let mut config = config();
    for (name, value) in [
        ("key-int-max", "7"),
        ("ref", "2"),
        ("me", "esa"),
        ("subme", "3"),
        ("qp-min", "12"),
        ("qp-max", "63"),
        ("qp-step", "3"),
        ("aud", "1"),
        ("noise-reduction", "100"),
        ("trellis", "1"),
        ("ip-factor", "1"),
        ("sliced-threads", "1"),
        ("sync-lookahead", "-1"),
        ("rc-lookahead", "0"),
        ("bframes", "0"),
        ("b-adapt", "1"),
        ("b-pyramid", "1"),
        ("weightb", "1"),
        ("pb-factor", "1.3"),
        ("cabac", "1"),
        ("dct8x8", "1"),
        ("sps-id", "0"),
        ("mb-tree", "0"),
        ("interlaced", "0"),
        ("intra-refresh", "0"),
    ] {
        config.options.push(EncoderOption {
            origin: Origin::Property(name),
            key: "as libx264 has it".into(),
            value: Some(value.into()),
        });
    }
    let mut encoder = open(&config).unwrap();
    assert_eq!(encoder.key_int_max(), 7);
    let p = encoder.session.params.get();
    assert_eq!((p.maxNumReferences, p.searchMethod, p.subpelRefine), (2, 5, 3));
    assert_eq!((p.rc.qpMin, p.rc.qpMax, p.rc.qpStep), (12, 51, 3));
    assert_eq!(
        (p.noiseReductionInter, p.noiseReductionIntra, p.rdoqLevel),
        (100, 100, 1)
    );
    let luma = noise(0);
    for i in 0..15 {
        let controls = FrameControls {
            base_qp: 36,
            ..FrameControls::default()
        };
        let unit = encoder.encode(&picture(&luma, i), &controls).unwrap();
        assert_eq!(unit.nals[0].kind, 35, "an access unit delimiter");
        assert_eq!(unit.idr, i % 7 == 0);
    }
}

#[test]
fn every_preset_and_tuning_opens_without_delay() {
    let presets = [
        "ultrafast",
        "superfast",
        "veryfast",
        "faster",
        "fast",
        "medium",
        "slow",
        "slower",
        "veryslow",
        "placebo",
    ];
    let tunes = [
        "zerolatency",
        "grain,zerolatency",
        "psnr,zerolatency",
        "ssim,zerolatency",
        "animation,zerolatency",
        "fastdecode,zerolatency",
    ];
    for (i, preset) in presets.iter().enumerate() {
        for rate in [
            RateControl::Quantizers { base_qp: 30 },
            RateControl::Quality { quality: 28 },
            RateControl::Bitrate { kbps: 500 },
        ] {
            let config = Config {
                preset: Some((*preset).into()),
                tune: Some(tunes[i % tunes.len()].into()),
                rate,
                ..config()
            };
            let mut encoder = open(&config).unwrap_or_else(|e| panic!("{preset} {rate:?}: {e}"));
            let controls = FrameControls {
                base_qp: 30,
                offsets: Some(&[-8; 7]),
                force_idr: false,
            };
            for frame in 0..2 {
                encoder
                    .encode(&picture(&noise(frame), frame.into()), &controls)
                    .unwrap();
            }
        }
    }
}

#[test]
fn equal_calls_give_equal_bytes() {
    let stream = || {
        let mut encoder = open(&config()).unwrap();
        let mut bytes = Vec::new();
        for frame in 0..4 {
            let controls = FrameControls {
                base_qp: 30 + frame as u8,
                offsets: Some(&[-6, 4, 0, -2]),
                force_idr: frame == 2,
            };
            let noise = noise(frame);
            bytes.extend_from_slice(encoder.encode(&picture(&noise, frame.into()), &controls).unwrap().data);
        }
        bytes
    };
    assert_eq!(stream(), stream());
}

#[test]
fn parameter_sets_declare_the_level_of_the_video_and_not_of_the_vbv() {
    let declared = |config: &Config| {
        let encoder = open(config).unwrap();
        let (vps, sps) = (unescape(&encoder.vps), unescape(&encoder.sps));
        assert_eq!(vps[6..18], sps[3..15]);
        (sps[3], sps[14])
    };
    assert_eq!(declared(&config()), (1, 30));
    let asked = Config {
        level_idc: Some(41),
        ..config()
    };
    assert_eq!(declared(&asked), (1, 123));
    let fast = Config {
        nominal_kbps: 25_000,
        ..config()
    };
    assert_eq!(declared(&fast), (0x21, 120));
    let rich = Config {
        format: PixelFormat::I444,
        ..config()
    };
    assert_eq!(declared(&rich), (4, 30));
    for level_idc in [Some(9), Some(42)] {
        assert_eq!(refusal(&Config { level_idc, ..config() }).0, "level");
    }
    let large = Config {
        width: 1920,
        height: 1080,
        level_idc: Some(31),
        ..config()
    };
    assert_eq!(refusal(&large).0, "level");
}

#[test]
fn planes_too_short_for_their_stride_are_refused() {
    let mut encoder = open(&config()).unwrap();
    let controls = FrameControls {
        base_qp: 36,
        ..FrameControls::default()
    };
    let luma = noise(0);
    let mut short = picture(&luma[..WIDTH * HEIGHT - 1], 0);
    assert_eq!(
        encoder.encode(&short, &controls).err(),
        Some(EncodeError::ShortPlane(0))
    );
    short = picture(&luma, 0);
    short.planes[2].stride = WIDTH / 2 - 1;
    assert_eq!(
        encoder.encode(&short, &controls).err(),
        Some(EncodeError::ShortPlane(2))
    );
    assert!(encoder.encode(&picture(&luma, 0), &controls).is_ok());
}

#[test]
fn a_new_vbv_and_new_rates_act_without_a_new_start() {
    let luma: Vec<_> = (0..8).map(noise).collect();
    let mut encoder = open(&config()).unwrap();
    let controls = FrameControls {
        base_qp: 30,
        ..FrameControls::default()
    };
    let mut sizes = Vec::new();
    for i in 0..80usize {
        let vbv = match i {
            20 => Some(Vbv {
                max_kbps: 500,
                buffer_kbit: 50,
            }),
            60 => Some(Vbv::OPEN),
            _ => None,
        };
        if let Some(vbv) = vbv {
            let rates = Rates {
                kbps: None,
                quality: None,
                vbv,
            };
            encoder.reconfigure(&rates).unwrap();
        }
        let unit = encoder.encode(&picture(&luma[i % 8], i as i64), &controls).unwrap();
        assert_eq!((unit.idr, unit.nals.len() > 1), (i == 0, i == 0), "{i}");
        sizes.push(unit.data.len());
    }
    let kbps = |sizes: &[usize]| sizes.iter().sum::<usize>() * 8 * 30 / sizes.len() / 1000;
    assert!(kbps(&sizes[..20]) > 900, "{sizes:?}");
    assert!((250..=525).contains(&kbps(&sizes[30..60])), "{sizes:?}");
    assert!(sizes[61..].iter().all(|size| size * 10 > sizes[10] * 9), "{sizes:?}");
}

#[test]
fn levels_that_forbid_small_coding_units_get_blocks_of_32_pixels() {
    let config = Config {
        width: 3840,
        height: 2160,
        ..config()
    };
    let encoder = open(&config).unwrap();
    assert_eq!((encoder.block, unescape(&encoder.sps)[14]), (32, 150));
    let p = encoder.session.params.get();
    assert_eq!((p.maxCUSize, p.rc.qgSize), (32, 32));
}
