// SPDX-License-Identifier: MPL-2.0

//! Properties mapped to NVENC, and those refused.

use super::*;
use crate::encoder::{Origin, PixelFormat};

fn config() -> Config {
    Config {
        codec: Codec::H264,
        width: 320,
        height: 240,
        format: PixelFormat::Nv12,
        frame_rate: Some((30, 1)),
        max_frame_rate: None,
        leaves_out: false,
        repeats: false,
        pixel_aspect_ratio: (1, 1),
        colour: None,
        interlaced: None,
        frame_packing: None,
        preset: Some("medium".into()),
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
        options: Vec::new(),
    }
}

fn with(key: &str, value: &str) -> Result<NvencSettings, OpenError> {
    let option = EncoderOption {
        origin: Origin::OptionString,
        key: key.into(),
        value: Some(value.into()),
    };
    NvencSettings::new(&Config {
        options: vec![option],
        ..config()
    })
}

#[test]
fn options_that_exist_are_mapped() {
    let s = NvencSettings::new(&config()).unwrap();
    assert_eq!((s.preset, s.key_int_max, s.slices, s.limits), (4, 300, 1, (1, 51)));
    assert_eq!((s.display, s.profile, s.cabac), ((4, 3), Profile::High, None));
    assert_eq!(with("keyint", "25").unwrap().key_int_max, 25);
    assert_eq!(with("threads", "0").unwrap().slices, 1);
    assert_eq!(with("threads", "4").unwrap().slices, 4);
    assert_eq!(with("cabac", "0").unwrap().cabac, Some(false));
    assert_eq!(with("no-8x8dct", "1").unwrap().transform_8x8, Some(false));
    assert_eq!(with("qpmin", "0").unwrap().limits, (1, 51));
    assert_eq!(with("qpmax", "40").unwrap().limits, (1, 40));
    assert_eq!(with("ref", "2").unwrap().references, 2);
    assert!(with("aud", "1").unwrap().aud);
    for (key, value) in [
        ("bframes", "0"),
        ("mbtree", "0"),
        ("sync-lookahead", "-1"),
        ("nr", "0"),
        ("ip-factor", "1"),
    ] {
        assert_eq!(with(key, value).unwrap(), s, "{key}");
    }
}

#[test]
fn options_that_do_not_exist_are_refused_by_name() {
    for (key, value) in [
        ("me", "umh"),
        ("subme", "3"),
        ("partitions", "i4x4"),
        ("trellis", "1"),
        ("trellis", "0"),
        ("qpstep", "4"),
        ("nr", "100"),
        ("intra-refresh", "1"),
        ("mbtree", "1"),
        ("rc-lookahead", "10"),
        ("ip-factor", "1.4"),
        ("ref", "16"),
        ("threads", "64"),
        ("aud", "perhaps"),
        ("keyint", "-1"),
        ("nonsense", "1"),
    ] {
        let error = with(key, value).unwrap_err().to_string();
        assert!(error.contains(&format!("option-string `{key}={value}`")), "{error}");
    }
    let base = config;
    for (config, word) in [
        (Config { width: 321, ..base() }, "even"),
        (
            Config {
                tune: Some("film,zerolatency".into()),
                ..base()
            },
            "film",
        ),
        (
            Config {
                profile: Some("high-4:4:4"),
                ..base()
            },
            "high-4:4:4",
        ),
        (
            Config {
                frame_packing: Some(3),
                ..base()
            },
            "frame-packing",
        ),
    ] {
        let error = NvencSettings::new(&config).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn levels_are_those_of_the_standard() {
    let level = |codec, level_idc| {
        NvencSettings::new(&Config {
            codec,
            level_idc,
            ..config()
        })
        .map(|s| s.level)
    };
    assert_eq!(level(Codec::H264, Some(31)), Ok(31));
    assert_eq!(level(Codec::H265, Some(51)), Ok(153));
    assert_eq!(level(Codec::H265, None), Ok(0));
    assert!(level(Codec::H265, Some(42)).is_err());
}

#[test]
fn rates_become_modes_of_the_driver() {
    let exact = RateControl::Quantizers { base_qp: 36 };
    let vbv = Vbv {
        max_kbps: 900,
        buffer_kbit: 300,
    };
    assert_eq!(Control::new(exact, Vbv::OPEN, 30), Control::Constant { qp: 30 });
    let floor = Control::new(exact, vbv, 30);
    assert_eq!(
        floor,
        Control::Floor {
            qp: 30,
            kbps: 900,
            buffer_kbit: 300
        }
    );
    assert!(!floor.same_mode(Control::Constant { qp: 30 }));
    let bitrate = RateControl::Bitrate { kbps: 1000 };
    assert_eq!(
        Control::new(bitrate, vbv, 0),
        Control::Bitrate {
            kbps: 900,
            buffer_kbit: 300
        }
    );
    assert_eq!(
        Control::new(RateControl::Quality { quality: 0 }, Vbv::OPEN, 0),
        Control::Quality {
            quality: 1,
            kbps: 0,
            buffer_kbit: 0
        }
    );
}
