// SPDX-License-Identifier: MPL-2.0

//! A camera of two passes: one encoder for recorders, which see one track, and for servers that ask for the second one.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Camera, Server, assert_feedback_is_whole, count, ffmpeg};

/// What FFmpeg finds behind a URL.
fn tracks(url: &str) -> String {
    let entries = "stream=codec_name,codec_type";
    let probe = ffmpeg(
        "ffprobe",
        &[
            "-v",
            "error",
            "-rtsp_transport",
            "tcp",
            "-show_entries",
            entries,
            "-of",
            "csv=p=0",
            url,
        ],
    );
    String::from_utf8_lossy(&probe.stdout).trim().into()
}

/// The answer to DESCRIBE, with its body.
fn describe(camera: &Camera, url: &str) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", camera.port)).unwrap();
    connection.set_read_timeout(Some(common::PATIENCE)).unwrap();
    write!(
        connection,
        "DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    loop {
        let mut piece = [0; 4096];
        let length = connection.read(&mut piece).unwrap();
        assert!(length > 0, "{url}: {answer}");
        answer += &String::from_utf8_lossy(&piece[..length]);
        let Some((header, body)) = answer.split_once("\r\n\r\n") else {
            continue;
        };
        let field = header.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if body.len() >= field.map_or(0, |length| length.parse().unwrap()) {
            return answer;
        }
    }
}

fn second_passes(server: &Server, least: usize) {
    let done = std::iter::repeat_with(|| server.result())
        .take(1000)
        .filter(|line| line["refinement"] == "done");
    assert_eq!(done.take(least).count(), least, "second passes");
}

#[test]
fn a_server_that_asks_gets_second_passes_whoever_came_first() {
    dds_tests::init().unwrap();
    for (protocol, recorder_first) in [("udp", true), ("tcp", false)] {
        let camera = Camera::two_pass(&[]);
        let both = || {
            let url = format!("{}?refine=1", camera.url());
            Server::watch_both(&format!("location={url} latency=50 protocols={protocol}"), 32)
        };
        let server = if recorder_first {
            // It watches on while the other one comes; nobody has asked for a picture of the second stream.
            let recorder = Server::run(
                &format!(
                    "rtspsrc location={} latency=50 protocols={protocol} ! rtph264depay ! h264parse ! avdec_h264 \
                     ! identity name=detector ! fakesink name=end async=false",
                    camera.url()
                ),
                32,
            );
            assert_eq!(tracks(&camera.url()), "h264,video", "{protocol}");
            let report = camera.wait_for("frames", |r| count(r, "frames") > 20);
            assert!(count(&report, "refine-idr") <= 3, "{report}");
            let server = both();
            second_passes(&server, 20);
            drop(recorder);
            server
        } else {
            let server = both();
            second_passes(&server, 20);
            assert_eq!(tracks(&camera.url()), "h264,video", "{protocol}");
            server
        };
        second_passes(&server, 10);
        let report = camera.wait_for("feedback by RTCP", |r| {
            count(r, "refine-frames-coded") >= 30 && count(r, "feedback-packets-rtcp") >= 30
        });
        assert_feedback_is_whole(&report);
    }
}

#[test]
fn a_camera_of_one_pass_has_no_second_track_to_ask_for() {
    dds_tests::init().unwrap();
    let (one_pass, two_pass) = (Camera::pattern(&[]), Camera::two_pass(&[]));
    for (camera, query, status, tracks) in [
        (&one_pass, "?refine=1", "404", 0),
        (&one_pass, "?channel=1", "200", 1),
        (&two_pass, "?channel=1", "200", 1),
        (&two_pass, "?channel=1&refine=1", "200", 2),
    ] {
        let url = format!("{}{query}", camera.url());
        let answer = describe(camera, &url);
        assert!(answer.starts_with(&format!("RTSP/1.0 {status}")), "{url}: {answer}");
        assert_eq!(answer.matches("m=video").count(), tracks, "{url}: {answer}");
    }
    // Who comes just when the last one goes is served as well.
    for _ in 0..8 {
        let answer = describe(&two_pass, &two_pass.url());
        assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
    }
    let help = common::program().arg("--help").output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("?refine=1"));
}
