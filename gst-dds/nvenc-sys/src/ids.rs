// SPDX-License-Identifier: MPL-2.0

//! What the header `nvEncodeAPI.h` defines by macros and by constants that bindings are not generated for: versions of
//! structures, and GUIDs. A test compares them with the header where it is installed.

#![forbid(unsafe_code)]

use crate::{GUID, NVENCAPI_MAJOR_VERSION, NVENCAPI_MINOR_VERSION};

/// Version of the interface that sessions are opened for (`NVENCAPI_VERSION`).
pub const API_VERSION: u32 = NVENCAPI_MAJOR_VERSION | NVENCAPI_MINOR_VERSION << 24;
/// The same in the format of the driver's `NvEncodeAPIGetMaxSupportedVersion`.
pub const API_VERSION_COMPARED: u32 = NVENCAPI_MAJOR_VERSION << 4 | NVENCAPI_MINOR_VERSION;
/// `NVENC_INFINITE_GOPLENGTH`.
pub const INFINITE_GOP: u32 = u32::MAX;

/// `NVENCAPI_STRUCT_VERSION`.
const fn structure(version: u32) -> u32 {
    API_VERSION | version << 16 | 0x7 << 28
}

/// Mark of structures that have grown.
const GROWN: u32 = 1 << 31;

/// `NV_ENCODE_API_FUNCTION_LIST_VER`.
pub const FUNCTION_LIST_VER: u32 = structure(2);
/// `NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS_VER`.
pub const OPEN_ENCODE_SESSION_EX_PARAMS_VER: u32 = structure(1);
/// `NV_ENC_CAPS_PARAM_VER`.
pub const CAPS_PARAM_VER: u32 = structure(1);
/// `NV_ENC_PRESET_CONFIG_VER`.
pub const PRESET_CONFIG_VER: u32 = structure(4) | GROWN;
/// `NV_ENC_CONFIG_VER`.
pub const CONFIG_VER: u32 = structure(7) | GROWN;
/// `NV_ENC_RC_PARAMS_VER`.
pub const RC_PARAMS_VER: u32 = structure(1);
/// `NV_ENC_INITIALIZE_PARAMS_VER`.
pub const INITIALIZE_PARAMS_VER: u32 = structure(5) | GROWN;
/// `NV_ENC_RECONFIGURE_PARAMS_VER`.
pub const RECONFIGURE_PARAMS_VER: u32 = structure(1) | GROWN;
/// `NV_ENC_CREATE_INPUT_BUFFER_VER`.
pub const CREATE_INPUT_BUFFER_VER: u32 = structure(1);
/// `NV_ENC_CREATE_BITSTREAM_BUFFER_VER`.
pub const CREATE_BITSTREAM_BUFFER_VER: u32 = structure(1);
/// `NV_ENC_LOCK_INPUT_BUFFER_VER`.
pub const LOCK_INPUT_BUFFER_VER: u32 = structure(1);
/// `NV_ENC_LOCK_BITSTREAM_VER`.
pub const LOCK_BITSTREAM_VER: u32 = structure(1);
/// `NV_ENC_PIC_PARAMS_VER`.
pub const PIC_PARAMS_VER: u32 = structure(4) | GROWN;
/// `NV_ENC_REGISTER_RESOURCE_VER`.
pub const REGISTER_RESOURCE_VER: u32 = structure(3);
/// `NV_ENC_MAP_INPUT_RESOURCE_VER`.
pub const MAP_INPUT_RESOURCE_VER: u32 = structure(4);
/// `NV_ENC_SEQUENCE_PARAM_PAYLOAD_VER`.
pub const SEQUENCE_PARAM_PAYLOAD_VER: u32 = structure(1);

const fn guid(first: u32, second: u16, third: u16, rest: u64) -> GUID {
    GUID {
        Data1: first,
        Data2: second,
        Data3: third,
        Data4: rest.to_be_bytes(),
    }
}

/// `NV_ENC_CODEC_H264_GUID`.
pub const H264: GUID = guid(0x6bc8_2762, 0x4e63, 0x4ca4, 0xaa85_1e50_f321_f6bf);
/// `NV_ENC_CODEC_HEVC_GUID`.
pub const HEVC: GUID = guid(0x790c_dc88, 0x4522, 0x4d7b, 0x9425_bda9_975f_7603);
/// `NV_ENC_H264_PROFILE_BASELINE_GUID`.
pub const PROFILE_BASELINE: GUID = guid(0x0727_bcaa, 0x78c4, 0x4c83, 0x8c2f_ef3d_ff26_7c6a);
/// `NV_ENC_H264_PROFILE_MAIN_GUID`.
pub const PROFILE_MAIN: GUID = guid(0x60b5_c1d4, 0x67fe, 0x4790, 0x94d5_c472_6d7b_6e6d);
/// `NV_ENC_H264_PROFILE_HIGH_GUID`.
pub const PROFILE_HIGH: GUID = guid(0xe7cb_c309, 0x4f7a, 0x4b89, 0xaf2a_d537_c92b_e310);
/// `NV_ENC_HEVC_PROFILE_MAIN_GUID`.
pub const PROFILE_HEVC_MAIN: GUID = guid(0xb514_c39a, 0xb55b, 0x40fa, 0x878f_f125_3b4d_fdec);
/// `NV_ENC_PRESET_P1_GUID` to `NV_ENC_PRESET_P7_GUID`: fastest to best.
pub const PRESETS: [GUID; 7] = [
    guid(0xfc0a_8d3e, 0x45f8, 0x4cf8, 0x80c7_2988_7159_0ebf),
    guid(0xf581_cfb8, 0x88d6, 0x4381, 0x93f0_df13_f9c2_7dab),
    guid(0x3685_0110, 0x3a07, 0x441f, 0x94d5_3670_631f_91f6),
    guid(0x90a7_b826, 0xdf06, 0x4862, 0xb9d2_cd6d_73a0_8681),
    guid(0x21c6_e6b4, 0x297a, 0x4cba, 0x998f_b6cb_de72_ade3),
    guid(0x8e75_c279, 0x6299, 0x4ab6, 0x8302_0b21_5a33_5cf5),
    guid(0x8484_8c12, 0x6f71, 0x4c13, 0x931b_53e2_83f5_7974),
];

/// Whether two GUIDs are the same.
pub fn same(a: &GUID, b: &GUID) -> bool {
    (a.Data1, a.Data2, a.Data3, a.Data4) == (b.Data1, b.Data2, b.Data3, b.Data4)
}
