// SPDX-License-Identifier: MPL-2.0

//! Bindings against the header they were made from.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::{self as sys, ids};

const HEADER: &str = "ffnvcodec/nvEncodeAPI.h";

/// What the compiler of C makes of expressions over the header; `None` where either is not installed, or of another
/// version.
fn in_c(expressions: &[String]) -> Option<Vec<u64>> {
    let prints: String = expressions
        .iter()
        .map(|e| format!("printf(\"%llu\\n\", (unsigned long long)({e}));\n"))
        .collect();
    let program = format!(
        "#include <stdio.h>\n#include <stddef.h>\n#include <{HEADER}>\n\
         static unsigned long long hash(GUID g) {{ unsigned long long h = g.Data1; h = h * 31 + g.Data2; \
         h = h * 31 + g.Data3; for (int i = 0; i < 8; i++) h = h * 31 + g.Data4[i]; return h; }}\n\
         int main(void) {{\n#if NVENCAPI_MAJOR_VERSION == 11 && NVENCAPI_MINOR_VERSION == 1\n{prints}#endif\nreturn 0; }}\n"
    );
    let out = std::env::temp_dir().join(format!("dds-nvenc-header-{}", std::process::id()));
    let mut compiler = Command::new("cc")
        .args(["-x", "c", "-w", "-o"])
        .arg(&out)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    compiler.stdin.take()?.write_all(program.as_bytes()).ok()?;
    let compiled = compiler.wait().ok()?.success();
    let text = compiled.then(|| Command::new(&out).output().ok()).flatten();
    let _ = std::fs::remove_file(&out);
    let text = String::from_utf8(text?.stdout).ok()?;
    let values: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    (!values.is_empty()).then_some(values)
}

fn hash(guid: &sys::GUID) -> u64 {
    let parts = [guid.Data2.into(), guid.Data3.into()]
        .into_iter()
        .chain(guid.Data4.iter().map(|b| u64::from(*b)));
    parts.fold(guid.Data1.into(), |h: u64, part: u64| {
        h.wrapping_mul(31).wrapping_add(part)
    })
}

macro_rules! versions {
    ($($rust:ident = $c:ident,)*) => {
        vec![$((stringify!($c).to_string(), u64::from(ids::$rust)),)*]
    };
}

macro_rules! sizes {
    ($($name:ident)*) => {
        vec![$((format!("sizeof({})", stringify!($name)), size_of::<sys::$name>() as u64),)*]
    };
}

#[test]
fn versions_sizes_offsets_and_guids_are_those_of_the_header() {
    let mut wanted = versions! {
        API_VERSION = NVENCAPI_VERSION,
        INFINITE_GOP = NVENC_INFINITE_GOPLENGTH,
        FUNCTION_LIST_VER = NV_ENCODE_API_FUNCTION_LIST_VER,
        OPEN_ENCODE_SESSION_EX_PARAMS_VER = NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS_VER,
        CAPS_PARAM_VER = NV_ENC_CAPS_PARAM_VER,
        PRESET_CONFIG_VER = NV_ENC_PRESET_CONFIG_VER,
        CONFIG_VER = NV_ENC_CONFIG_VER,
        RC_PARAMS_VER = NV_ENC_RC_PARAMS_VER,
        INITIALIZE_PARAMS_VER = NV_ENC_INITIALIZE_PARAMS_VER,
        RECONFIGURE_PARAMS_VER = NV_ENC_RECONFIGURE_PARAMS_VER,
        CREATE_INPUT_BUFFER_VER = NV_ENC_CREATE_INPUT_BUFFER_VER,
        CREATE_BITSTREAM_BUFFER_VER = NV_ENC_CREATE_BITSTREAM_BUFFER_VER,
        LOCK_INPUT_BUFFER_VER = NV_ENC_LOCK_INPUT_BUFFER_VER,
        LOCK_BITSTREAM_VER = NV_ENC_LOCK_BITSTREAM_VER,
        REGISTER_RESOURCE_VER = NV_ENC_REGISTER_RESOURCE_VER,
        MAP_INPUT_RESOURCE_VER = NV_ENC_MAP_INPUT_RESOURCE_VER,
        PIC_PARAMS_VER = NV_ENC_PIC_PARAMS_VER,
        SEQUENCE_PARAM_PAYLOAD_VER = NV_ENC_SEQUENCE_PARAM_PAYLOAD_VER,
    };
    wanted.extend(sizes! {
        NV_ENCODE_API_FUNCTION_LIST NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS NV_ENC_CAPS_PARAM NV_ENC_PRESET_CONFIG
        NV_ENC_CONFIG NV_ENC_CONFIG_H264 NV_ENC_CONFIG_HEVC NV_ENC_RC_PARAMS NV_ENC_INITIALIZE_PARAMS
        NV_ENC_RECONFIGURE_PARAMS NV_ENC_CREATE_INPUT_BUFFER NV_ENC_CREATE_BITSTREAM_BUFFER NV_ENC_LOCK_INPUT_BUFFER
        NV_ENC_LOCK_BITSTREAM NV_ENC_PIC_PARAMS NV_ENC_SEQUENCE_PARAM_PAYLOAD NV_ENC_REGISTER_RESOURCE
        NV_ENC_MAP_INPUT_RESOURCE
    });
    wanted.push((
        "offsetof(NV_ENC_PIC_PARAMS, qpDeltaMap)".into(),
        std::mem::offset_of!(sys::NV_ENC_PIC_PARAMS, qpDeltaMap) as u64,
    ));
    for (name, guid) in [
        ("CODEC_H264", &ids::H264),
        ("CODEC_HEVC", &ids::HEVC),
        ("H264_PROFILE_BASELINE", &ids::PROFILE_BASELINE),
        ("H264_PROFILE_MAIN", &ids::PROFILE_MAIN),
        ("H264_PROFILE_HIGH", &ids::PROFILE_HIGH),
        ("HEVC_PROFILE_MAIN", &ids::PROFILE_HEVC_MAIN),
    ] {
        wanted.push((format!("hash(NV_ENC_{name}_GUID)"), hash(guid)));
    }
    for (i, guid) in ids::PRESETS.iter().enumerate() {
        wanted.push((format!("hash(NV_ENC_PRESET_P{}_GUID)", i + 1), hash(guid)));
    }
    // Known without the header too.
    assert_eq!(ids::API_VERSION, 0x0100_000b);
    assert_eq!(ids::API_VERSION_COMPARED, 0xb1);
    assert_eq!(ids::PIC_PARAMS_VER, 0xf104_000b);
    assert_eq!(size_of::<sys::NV_ENCODE_API_FUNCTION_LIST>(), 2552);
    let (expressions, values): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    let Some(in_c) = in_c(&expressions) else {
        println!("skipped: no C compiler with {HEADER} of API 11.1 (Debian: libffmpeg-nvenc-dev)");
        return;
    };
    assert_eq!(in_c.len(), values.len());
    for ((expression, ours), theirs) in expressions.iter().zip(values).zip(in_c) {
        assert_eq!(ours, theirs, "{expression}");
    }
}
