// SPDX-License-Identifier: MPL-2.0

//! The loop as users start it, in a process of its own, with the plugins as files: no warning in the log, no object alive
//! at the end.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

fn plugin_dir() -> PathBuf {
    // target/<profile>/deps/this-test -> target/<profile>
    let dir = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    for plugin in ["libgstdds.so", "libgstddsinfer.so"] {
        assert!(
            dir.join(plugin).exists(),
            "{plugin} is not in {}: run `cargo build` first",
            dir.display()
        );
    }
    dir
}

fn gst_launch(tracers: &str, debug: &str, line: &str) -> Output {
    let dir = plugin_dir();
    // Other people's plugins warn while the registry is built; that is not the run.
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let registry = std::env::temp_dir().join(format!("dds-tests-registry-{}-{run}.bin", std::process::id()));
    let scan = Command::new("gst-inspect-1.0")
        .arg("ddsencode")
        .env("GST_PLUGIN_PATH", &dir)
        .env("GST_REGISTRY", &registry)
        .output()
        .expect("gst-inspect-1.0 is installed");
    assert!(scan.status.success(), "{}", String::from_utf8_lossy(&scan.stderr));
    let output = Command::new("gst-launch-1.0")
        .arg("-q")
        .args(line.split_whitespace())
        .env("GST_PLUGIN_PATH", &dir)
        .env("GST_REGISTRY", &registry)
        .env("GST_TRACERS", tracers)
        .env("GST_DEBUG", debug)
        .env("GST_DEBUG_NO_COLOR", "1")
        .output()
        .expect("gst-launch-1.0 is installed");
    let _ = std::fs::remove_file(&registry);
    output
}

fn model() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../gst-dds-infer/models/street_nano.onnx").to_owned()
}

/// One pass through RTP, the same received as from a network, and two passes.
fn lines() -> [String; 3] {
    let source = "videotestsrc num-buffers=40 ! video/x-raw,format=I420,width=320,height=240,framerate=30/1";
    let server = format!(
        "ddsinfer name=i model-file={} box-confidence-threshold=0.05 ! fakesink sync=false \
         i.results ! queue ! fakesink async=false sync=false",
        model()
    );
    [
        format!("{source} ! ddsencode name=e ! rtph264pay ! rtph264depay ! h264parse ! avdec_h264 ! {server}"),
        format!(
            "{source} ! ddsencode name=e ! rtph264pay ! ddsrtprecv ! rtph264depay ! h264parse ! avdec_h264 ! {server}"
        ),
        format!(
            "{source} ! ddsencode name=e mode=two-pass ! avdec_h264 max-threads=1 ! {server} \
             e.refine ! avdec_h264 max-threads=1 ! i.refine"
        ),
    ]
}

#[test]
fn no_warning() {
    for line in lines() {
        let output = gst_launch("", "*:2", &line);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        assert_eq!(log, "", "{line}");
    }
}

// The line that announces the record's format is no object.
#[test]
fn no_leak() {
    for line in lines() {
        let output = gst_launch("leaks", "GST_TRACER:7", &line);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        assert!(log.contains("GST_TRACER"), "the tracer was not there: {log}");
        let alive: Vec<_> = log
            .lines()
            .filter(|l| l.contains("object-alive,") && !l.contains("(string)%s"))
            .collect();
        assert!(alive.is_empty(), "{line}\n{}", alive.join("\n"));
    }
}
