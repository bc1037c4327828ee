// SPDX-License-Identifier: MPL-2.0

//! `pipelines/nvenc-selftest.sh`, for people with the hardware: it passes a driver that does what is asked, fails one
//! that does not, and says what is missing where there is none.

use std::path::{Path, PathBuf};
use std::process::Command;

use fake_nvenc::{FAULTS, LOG, Log, NAMES};

/// Runs the script; exit status, standard output, standard error.
fn selftest(name: &str, libraries: &[&str], faults: &str) -> (Option<i32>, String, String) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fake_nvenc::install(&folder, libraries).unwrap();
    let log = folder.join("log");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/nvenc-selftest.sh");
    let output = Command::new("bash")
        .arg(script)
        .env("SELFTEST", env!("CARGO_BIN_EXE_dds-nvenc-selftest"))
        .env("LD_LIBRARY_PATH", fake_nvenc::search_path(&folder))
        .env(FAULTS, faults)
        .env(LOG, &log)
        // Which elements there are depends on the driver.
        .env("GST_REGISTRY", folder.join("registry.bin"))
        .output()
        .unwrap();
    let log = Log::read(&log);
    assert_eq!(log.violations(), Vec::<&str>::new());
    assert!(log.nothing_leaks());
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_driver_that_does_what_is_asked_passes() {
    let (code, out, words) = selftest("selftest_passes", &NAMES, "others-too");
    assert_eq!(code, Some(0), "{out}{words}");
    assert!(out.starts_with("encoder  NVENC 11.1 on Fake GPU, CUDA 11.4"), "{out}");
    assert!(
        out.ends_with("PASS: every macroblock has the quantizer asked for\n"),
        "{out}"
    );
    // For three sizes, and in CUDA memory: pictures, key frames, and twice four regions and the rest.
    assert_eq!(out.matches("  PASS\n").count(), 4 * 12 + 1, "{out}");
    assert!(out.contains("640x480 in CUDA memory"), "{out}");
    assert!(!out.contains("FAIL"));
}

#[test]
fn a_driver_that_does_something_else_fails() {
    let (code, out, words) = selftest("selftest_fails", &NAMES, "others-too,halve-map");
    assert_eq!(code, Some(1), "{out}{words}");
    assert!(
        out.ends_with("FAIL: this driver does not do what was asked; see above\n"),
        "{out}"
    );
    assert!(
        out.lines()
            .any(|l| l.contains("region 64,48 96x96") && l.ends_with("31  FAIL")),
        "{out}"
    );
    assert!(
        out.lines()
            .any(|l| l.contains("pictures 0 to 9, outside") && l.ends_with("36  PASS")),
        "{out}"
    );
}

#[test]
fn a_driver_that_ignores_maps_does_not_get_as_far() {
    let (code, out, words) = selftest("selftest_refused", &NAMES, "others-too,ignore-map");
    assert_eq!((code, out.as_str()), (Some(2), ""), "{words}");
    assert!(words.contains("Fake GPU ignores quantizer maps"), "{words}");
}

#[test]
fn without_hardware_it_says_what_is_missing() {
    let (code, out, words) = selftest("selftest_without", &NAMES, "others-too,no-device");
    assert_eq!((code, out.as_str()), (Some(2), ""), "{words}");
    assert!(words.contains("the driver sees no NVIDIA GPU"), "{words}");
}
