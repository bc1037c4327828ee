// SPDX-License-Identifier: MPL-2.0

//! The camera as a process, watched over loopback by servers in gst-launch syntax and by FFmpeg.

mod common;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

use common::{
    Camera, PATIENCE, Server, assert_one_healthy_encoder, count, ffmpeg, open_sockets, play_by_hand, program, scratch,
    steered,
};
use dds_protocol::feedback::{self, FeedbackState};
use dds_protocol::rtcp;
use dds_protocol::serial::Serial16;
use dds_tests::launch;
use gst::prelude::*;

#[test]
fn feedback_finds_the_encoder_by_udp_and_by_tcp() {
    dds_tests::init().unwrap();
    for (protocol, options) in [
        ("udp", [].as_slice()),
        ("tcp", &[]),
        ("tcp", &["--tcp-only"]),
        ("udp", &["--avpf"]),
    ] {
        let camera = Camera::pattern(options);
        let server = Server::watch(
            &format!("location={} latency=50 protocols={protocol}", camera.url()),
            32,
        );
        let report = camera.wait_for("steered frames", steered);
        assert_one_healthy_encoder(&report);
        let delay = |name| count(&report, name) as f64 / 1e6;
        println!(
            "{protocol} {options:?}: feedback delay p50 {:.1} ms, p95 {:.1} ms",
            delay("feedback-delay-p50-ns"),
            delay("feedback-delay-p95-ns")
        );
        let receivers = report["receivers"].as_array().unwrap();
        assert_eq!(receivers.len(), 1, "{report}");
        assert_eq!(
            (&receivers[0]["steers"], &receivers[0]["refused"]),
            (&true.into(), &0.into()),
            "{report}"
        );
        drop(server);
        let report = camera.wait_for("the client to be gone", |r| r["clients"] == 0);
        assert_eq!(report["clients_ever"], 1);
    }
}

#[test]
fn feedback_finds_the_encoder_through_tls() {
    dds_tests::init().unwrap();
    let dir = scratch("tls");
    let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: no openssl to make a certificate with");
        return;
    }
    let both = dir.join("both.pem");
    std::fs::write(
        &both,
        [std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap()].concat(),
    )
    .unwrap();
    let camera = Camera::pattern(&["--certificate", both.to_str().unwrap(), "--user", "ada:secret"]);
    // The certificate is nobody's; what is tested is the way of the feedback.
    let url = camera.url().replace("rtsp://", "rtsps://ada:secret@");
    let _server = Server::watch(&format!("location={url} latency=50 tls-validation-flags=0"), 32);
    assert_one_healthy_encoder(&camera.wait_for("steered frames", steered));
}

#[test]
fn a_wrong_password_is_refused_with_401_and_the_right_one_is_not() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&["--user", "ada:secret"]);
    let mut bare = TcpStream::connect(("127.0.0.1", camera.port)).unwrap();
    write!(
        bare,
        "DESCRIBE {} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n",
        camera.url()
    )
    .unwrap();
    let mut answer = [0; 4096];
    let length = bare.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("RTSP/1.0 401"), "{answer}");
    assert!(
        answer.contains("WWW-Authenticate: Digest") && !answer.contains("Basic"),
        "{answer}"
    );

    let complaint = Server::watch(&format!("location={} user-id=ada user-pw=wrong", camera.url()), 32).complaint();
    assert!(complaint.contains("401"), "{complaint}");
    let _server = Server::watch(
        &format!("location={} latency=50 user-id=ada user-pw=secret", camera.url()),
        32,
    );
    camera.wait_for("steered frames", steered);
}

#[test]
fn a_recorder_finds_one_video_track_and_decodes_it_without_a_complaint() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&[]);
    let dir = scratch("recorder");
    // The second recording joins a stream that runs already.
    let server = Server::watch(&format!("location={} latency=50", camera.url()), 32);
    camera.wait_for("steered frames", steered);
    for transport in ["udp", "tcp"] {
        let url = camera.url();
        let probe = ffmpeg(
            "ffprobe",
            &[
                "-v",
                "error",
                "-rtsp_transport",
                transport,
                "-show_entries",
                "stream=codec_type,codec_name",
                "-of",
                "csv=p=0",
                &url,
            ],
        );
        assert_eq!(
            String::from_utf8_lossy(&probe.stdout).trim(),
            "h264,video",
            "{transport}"
        );
        let file = dir.join(format!("{transport}.mkv"));
        let file = file.to_str().unwrap();
        let record = ffmpeg(
            "ffmpeg",
            &[
                "-v",
                "error",
                "-rtsp_transport",
                transport,
                "-i",
                &url,
                "-t",
                "3",
                "-c",
                "copy",
                "-y",
                file,
            ],
        );
        assert!(record.status.success(), "{transport}: {record:?}");
        let decode = ffmpeg("ffmpeg", &["-v", "warning", "-i", file, "-f", "null", "-"]);
        assert_eq!(String::from_utf8_lossy(&decode.stderr), "", "{transport}");
        let frames = ffmpeg(
            "ffprobe",
            &[
                "-v",
                "error",
                "-count_frames",
                "-show_entries",
                "stream=nb_read_frames",
                "-of",
                "csv=p=0",
                file,
            ],
        );
        let frames: u32 = String::from_utf8_lossy(&frames.stdout).trim().parse().unwrap();
        assert!(frames >= 40, "{transport}: {frames} frames in 3 s");
    }
    drop(server);
    let report = camera.wait_for("all to be gone", |r| r["clients"] == 0);
    assert_one_healthy_encoder(&report);
}

#[test]
fn clients_share_one_encoder_and_the_first_to_ask_steers_until_it_goes() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&[]);
    let first = Server::watch(&format!("location={} latency=50", camera.url()), 32);
    camera.wait_for("steered frames", steered);
    let _second = Server::watch(&format!("location={} latency=50", camera.url()), 192);
    let report = camera.wait_for("the second to be refused", |r| {
        r["receivers"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["refused"].as_u64() >= Some(10))
    });
    assert_one_healthy_encoder(&report);
    let receivers = report["receivers"].as_array().unwrap();
    let wheel: Vec<_> = receivers
        .iter()
        .map(|r| (r["steers"].as_bool().unwrap(), r["refused"].as_u64() > Some(0)))
        .collect();
    assert_eq!(wheel, [(true, false), (false, true)], "{report}");

    drop(first);
    let report = camera.wait_for("the second to take over", |r| {
        let receivers = r["receivers"].as_array().unwrap();
        receivers.len() == 2 && receivers[1]["steers"] == true && receivers[1]["packets"].as_u64() >= Some(10)
    });
    assert_eq!(
        (&report["media"], count(&report, "encoders-opened")),
        (&1.into(), 1),
        "{report}"
    );
}

#[test]
fn who_does_not_watch_does_not_steer() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&[]);
    let client = play_by_hand(&camera);
    let (to, [_, own]) = (client.to, &client.sockets);
    let report = camera.wait_for("frames", |r| count(r, "frames") > 5);
    let stream_id = count(&report, "stream-id") as u32;
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut generation = Serial16(0);
    let mut send = |socket: &UdpSocket, ssrc: u32| {
        generation = generation.next();
        let state = FeedbackState {
            stream_id,
            generation,
            frame: 1,
            regions: Vec::new(),
            ..FeedbackState::default()
        };
        for packet in feedback::encode(&state).packets {
            socket.send_to(&rtcp::compound(ssrc, &packet), to).unwrap();
        }
    };
    for _ in 0..5 {
        send(&stranger, 111);
    }
    let report = camera.wait_for("the stranger to be heard", |r| r["strangers"] == 5);
    assert_eq!(
        (&report["receivers"], count(&report, "feedback-packets")),
        (&serde_json::json!([]), 0)
    );
    send(own, 222);
    let report = camera.wait_for("the client to be heard", |r| count(r, "feedback-complete") == 1);
    assert_eq!(
        (&report["receivers"][0]["packets"], &report["strangers"]),
        (&1.into(), &5.into()),
        "{report}"
    );
}

#[test]
fn every_socket_is_bound_to_the_address_asked_for() {
    dds_tests::init().unwrap();
    for (address, host) in [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")] {
        if std::net::TcpListener::bind((address, 0)).is_err() {
            println!("{address} skipped: this machine does not have it");
            continue;
        }
        let camera = Camera::pattern(&["--address", address]);
        let url = format!("rtsp://{host}:{}/camera", camera.port);
        let _server = Server::watch(&format!("location={url} latency=50 protocols=udp"), 32);
        camera.wait_for("steered frames", steered);
        let sockets = open_sockets(camera.child.id());
        let of = |protocol| sockets.iter().filter(|(p, _)| p.starts_with(protocol)).count();
        assert!(of("udp") == 2 && of("tcp") == 2, "{address}: {sockets:?}");
        for (_, bound) in &sockets {
            assert_eq!(bound.to_string(), address, "{sockets:?}");
        }
    }
    // The other way round, so that the look at the sockets is one.
    let camera = Camera::pattern(&["--address", "0.0.0.0"]);
    let _server = Server::watch(&format!("location={} latency=50 protocols=udp", camera.url()), 32);
    camera.wait_for("steered frames", steered);
    let sockets = open_sockets(camera.child.id());
    let open = sockets
        .iter()
        .filter(|(p, ip)| p.starts_with("udp") && ip.is_unspecified());
    assert!(open.count() >= 2, "{sockets:?}");
}

#[test]
fn an_h265_track_where_asked_is_described_decoded_and_steered() {
    dds_tests::init().unwrap();
    let encoder = "encoder=x265 speed-preset=ultrafast background-qp=40 region-qp=30";
    let camera = Camera::pattern(&["--encoder", encoder]);
    let server = Server::run(
        &format!(
            "rtspsrc location={} latency=50 ! rtph265depay ! avdec_h265 max-threads=1 ! identity name=detector \
             ! ddsinfer name=infer ! fakesink name=end async=false",
            camera.url()
        ),
        32,
    );
    assert_one_healthy_encoder(&camera.wait_for("steered frames", steered));
    for (url, tracks) in [(camera.url(), 1), (format!("{}?refine=1", camera.url()), 0)] {
        let entries = "stream=codec_name,profile,width,height,level";
        let probe = [
            "-v",
            "error",
            "-rtsp_transport",
            "tcp",
            "-show_entries",
            entries,
            "-of",
            "csv=p=0",
            &url,
        ];
        let found = ffmpeg("ffprobe", &probe);
        let found = String::from_utf8_lossy(&found.stdout);
        assert_eq!(
            found
                .lines()
                .filter(|line| line.starts_with("hevc,Main,320,240,"))
                .count(),
            tracks,
            "{found}"
        );
    }
    // What a player knows before the first packet.
    let description = describe(&camera);
    let after = |key: &str| {
        let (_, rest) = description
            .split_once(key)
            .unwrap_or_else(|| panic!("no {key} in {description}"));
        rest.split([';', '\r']).next().unwrap().to_string()
    };
    assert!(description.contains("H265/90000"), "{description}");
    for (set, kind) in [("sprop-vps=", 32), ("sprop-sps=", 33), ("sprop-pps=", 34)] {
        // The type of a parameter set stands in its first byte (ITU-T H.265, 7.3.1.2).
        assert_eq!(glib::base64_decode(&after(set))[0] >> 1 & 0x3f, kind, "{description}");
    }
    let level: u32 = after("level-id=").parse().unwrap();
    assert!(
        after("profile-id=") == "1" && after("tier-flag=") == "0" && level.is_multiple_of(3) && level >= 30,
        "{description}"
    );
    drop(server);

    let both = Camera::pattern(&["--encoder", &format!("{encoder} mode=two-pass")]);
    let description = describe(&both);
    assert!(description.contains("H265/90000"), "{description}");
}

/// The answer to DESCRIBE.
fn describe(camera: &Camera) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", camera.port)).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let url = camera.url();
    write!(
        connection,
        "DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    while !answer.contains("a=ssrc:") {
        let mut piece = [0; 8192];
        let length = connection.read(&mut piece).unwrap();
        assert!(length > 0, "{answer}");
        answer += &String::from_utf8_lossy(&piece[..length]);
    }
    answer
}

#[test]
fn clients_that_join_within_one_second_share_one_key_frame() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&["--encoder", "background-qp=40 region-qp=30", "--key-interval", "60"]);
    let _first = Server::watch(&format!("location={} latency=50 protocols=tcp", camera.url()), 32);
    let report = camera.wait_for("frames", |r| count(r, "frames") >= 30);
    assert_eq!(count(&report, "frames-idr"), 1, "{report}");
    // Joins and leaves as fast as it goes, for three seconds of the camera.
    let until = count(&report, "frames") + 60;
    let (mut report, mut joins) = (report, 0);
    while count(&report, "frames") < until {
        let connection = play_by_hand(&camera);
        drop(connection);
        joins += 1;
        report = camera.reports.try_iter().last().unwrap_or(report);
    }
    let seconds = (count(&report, "frames") - until) / 20 + 4;
    assert!(joins > seconds, "{joins} joins");
    let idr = count(&report, "frames-idr");
    assert!(
        (2..=2 + seconds).contains(&idr),
        "{idr} key frames for {joins} joins: {report}"
    );
}

#[test]
fn with_steer_all_everybodys_regions_count() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&["--steer", "all"]);
    let _servers = [32, 192].map(|x| Server::watch(&format!("location={} latency=50", camera.url()), x));
    let report = camera.wait_for("both to steer", |r| {
        let receivers = r["receivers"].as_array().unwrap();
        receivers
            .iter()
            .filter(|one| one["steers"] == true && one["packets"].as_u64() >= Some(20))
            .count()
            == 2
    });
    assert_one_healthy_encoder(&report);
    // Joined and numbered anew: nothing of it is stale to the encoder, and two regions come in each generation.
    assert_eq!(count(&report, "feedback-packets-rtcp"), 0, "{report}");
    assert!(
        count(&report, "regions-requested") > count(&report, "feedback-complete"),
        "{report}"
    );
}

#[test]
fn the_long_jitter_buffer_of_rtspsrc_is_told_of_by_the_name_of_its_property() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&[]);
    let complaint = Server::watch(&format!("location={}", camera.url()), 32).complaint();
    assert!(
        complaint.contains("2000 ms") && complaint.contains("property latency of source"),
        "{complaint}"
    );
}

/// A line that somebody types who has read nothing about feedback.
#[test]
fn lines_that_leave_decoding_to_gstreamer_steer() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&[]);
    let url = camera.url();
    for (n, source) in [
        format!("uridecodebin uri={url}"),
        format!("rtspsrc location={url} latency=50 ! decodebin"),
        format!("rtspsrc location={url} latency=50 ! rtph264depay ! avdec_h264"),
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!("{source} ! identity name=detector ! ddsinfer ! fakesink async=false");
        let server = Server::run(&line, 32);
        camera.wait_for(&source, |r| {
            r["media"] == n + 1 && steered(r) && count(r, "regions-applied") > 0
        });
        drop(server);
        camera.wait_for("the client to be gone", |r| r["clients"] == 0);
    }
}

#[test]
fn a_decoder_that_holds_frames_back_is_told_of_by_its_property() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&[]);
    let line = format!(
        "rtspsrc location={} latency=50 ! rtph264depay ! h264parse ! avdec_h264 name=slow max-threads=4 thread-type=frame \
         ! identity name=detector ! ddsinfer ! fakesink async=false",
        camera.url()
    );
    let complaint = Server::run(&line, 32).complaint();
    assert!(
        complaint.contains("slow") && complaint.contains("max-threads=1"),
        "{complaint}"
    );
}

#[test]
fn the_jitter_buffer_of_rtpbin_is_told_of_where_nobody_has_chosen_it() {
    dds_tests::init().unwrap();
    for (latency, told) in [("", true), ("latency=200", true), ("latency=201", false)] {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let caps = "application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96";
        let server = Server::run(
            &format!(
                "rtpbin name=arrival {latency} udpsrc address=127.0.0.1 port={port} caps={caps} ! arrival.recv_rtp_sink_0 \
                 arrival. ! rtph264depay ! h264parse ! avdec_h264 max-threads=1 ! identity name=detector ! ddsinfer name=infer \
                 ! fakesink async=false"
            ),
            32,
        );
        let camera = launch(&format!(
            "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=20/1 ! ddsencode \
             ! video/x-h264,stream-format=byte-stream ! rtph264pay ! udpsink host=127.0.0.1 port={port}"
        ))
        .unwrap();
        camera.set_state(gst::State::Playing).unwrap();
        if told {
            let complaint = server.complaint();
            assert!(
                complaint.contains("property latency of arrival"),
                "{latency}: {complaint}"
            );
        } else {
            let infer = server.0.by_name("infer").unwrap();
            let sent = || {
                infer
                    .property::<gst::Structure>("stats")
                    .get::<u64>("feedback-rtcp")
                    .unwrap()
            };
            let until = std::time::Instant::now() + PATIENCE;
            while sent() < 5 {
                assert!(std::time::Instant::now() < until, "no feedback");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            let warning = server.0.bus().unwrap().pop_filtered(&[gst::MessageType::Warning]);
            assert!(warning.is_none(), "{warning:?}");
        }
        camera.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn no_second_takes_more_than_the_cap_that_is_there_by_default() {
    dds_tests::init().unwrap();
    // Noise, which no quantizer makes small.
    let peak = |options: &[&str]| {
        let size = [
            "--size",
            "320x240",
            "--rate",
            "20",
            "--encoder",
            "speed-preset=ultrafast",
        ];
        let camera = Camera::start("test:snow", &[&size, options].concat());
        let _server = Server::watch(&format!("location={} latency=50 protocols=tcp", camera.url()), 32);
        let report = camera.wait_for("three seconds", |r| count(r, "frames") > 60);
        count(&report, "peak-second-bytes") * 8 / 1000
    };
    let [capped, own, open] = [
        &[][..],
        &[
            "--encoder",
            "speed-preset=ultrafast max-bitrate=400",
            "--max-bitrate",
            "900",
        ],
        &["--max-bitrate", "0"],
    ]
    .map(peak);
    assert!((300..=1050).contains(&capped), "{capped} kbit/s by default");
    assert!(own <= 420, "{own} kbit/s of 400");
    assert!(open > 2000, "{open} kbit/s without a cap");
}

/// Runs a line to its end.
fn make(line: &str) {
    dds_tests::init().unwrap();
    let making = launch(line).unwrap();
    making.set_state(gst::State::Playing).unwrap();
    let ended = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = making
        .bus()
        .unwrap()
        .timed_pop_filtered(gst::ClockTime::from_seconds(20), &ended);
    assert_eq!(message.map(|m| m.type_()), Some(gst::MessageType::Eos), "{line}");
    making.set_state(gst::State::Null).unwrap();
}

/// Processor time that a process has used.
fn processor_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_still_picture_and_a_short_clip_are_sent_at_the_rate_of_a_camera() {
    let dir = scratch("stills");
    let picture = |name: &str, pictures: u32, coder: &str| {
        let file = dir.join(name);
        make(&format!(
            "videotestsrc num-buffers={pictures} ! video/x-raw,width=320,height=240,framerate=25/1 ! {coder} \
             ! filesink location={}",
            file.display()
        ));
        file.to_str().unwrap().to_string()
    };
    let svg = dir.join("picture.svg");
    let drawing =
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="320" height="240"><circle r="99" fill="red"/></svg>"#;
    std::fs::write(&svg, drawing).unwrap();
    for (file, options, rate) in [
        (picture("picture.png", 1, "videoconvert ! pngenc"), [].as_slice(), 25.0),
        (
            picture("picture.jpg", 1, "videoconvert ! jpegenc"),
            &["--rate", "10"],
            10.0,
        ),
        (svg.to_str().unwrap().into(), &["--size", "640x480"], 25.0),
        // Pictures without times, and hardly any.
        (picture("pictures.mjpeg", 7, "videoconvert ! jpegenc"), &[], 25.0),
        (
            picture("short.mkv", 2, "x264enc tune=zerolatency ! matroskamux"),
            &[],
            25.0,
        ),
    ] {
        let camera = Camera::start(&file, options);
        let _server = Server::watch(&format!("location={} latency=50", camera.url()), 32);
        let first = camera.wait_for("frames", |r| count(r, "frames") > 5);
        let (began, ticks) = (std::time::Instant::now(), processor_ticks(camera.child.id()));
        let until = count(&first, "frames") + (2.5 * rate) as u64;
        let last = camera.wait_for("more frames", |r| count(r, "frames") > until);
        let seconds = began.elapsed().as_secs_f64();
        let frames = (count(&last, "frames") - count(&first, "frames")) as f64;
        // Reports come once a second, and a loaded machine is late.
        assert!(
            frames <= rate * (seconds + 0.6),
            "{file}: {frames} frames in {seconds} s"
        );
        assert!(frames >= 0.5 * rate * seconds, "{file}: {frames} frames in {seconds} s");
        let busy = (processor_ticks(camera.child.id()) - ticks) as f64 / 100.0 / seconds;
        assert!(busy < 0.7, "{file}: {busy} of a processor");
    }
}

#[test]
fn a_file_is_played_in_a_loop_and_the_end_is_reported() {
    dds_tests::init().unwrap();
    let clip = scratch("loop").join("clip.mkv");
    make(&format!(
        "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=320,height=240,framerate=20/1 ! ddsencode ! h264parse \
         ! matroskamux ! filesink location={}",
        clip.display()
    ));

    let mut camera = Camera::start(clip.to_str().unwrap(), &[]);
    // A second client opens the source again after the first has gone.
    for _ in 0..2 {
        let server = Server::watch(&format!("location={} latency=50", camera.url()), 32);
        camera.wait_for("more than two rounds", |r| count(r, "frames") > 50);
        drop(server);
        camera.wait_for("the client to be gone", |r| r["clients"] == 0);
    }
    let told = Command::new("kill")
        .args(["-INT", &camera.child.id().to_string()])
        .status()
        .unwrap();
    assert!(told.success());
    assert!(camera.child.wait().unwrap().success());
    let last = camera.reports.iter().last().expect("a last report");
    assert_eq!(
        (&last["media"], &last["clients_ever"]),
        (&2.into(), &2.into()),
        "{last}"
    );
}

#[test]
fn mistakes_are_named() {
    let run = |args: &[&str]| {
        let output = program().args(args).stdin(Stdio::null()).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for (argument, value) in [("\u{e9}", "ada:x"), ("test:ball", "\u{e9}:x")] {
        let latin = |text: &str| OsString::from_vec(text.chars().map(|c| c as u8).collect());
        let output = program()
            .arg(latin(argument))
            .env("DDS_RTSP_USER", latin(value))
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(
            words.contains("give text in UTF-8") && words.lines().count() == 1,
            "{words}"
        );
    }
    let dir = scratch("mistakes");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_string()
    };
    let (empty, text) = (
        file("empty.mp4", b""),
        file("text.mp4", b"This is no video, whatever its name says.\n"),
    );
    let sound = dir.join("sound.wav");
    make(&format!(
        "audiotestsrc num-buffers=20 ! wavenc ! filesink location={}",
        sound.display()
    ));
    let (sound, folder) = (sound.to_str().unwrap(), dir.to_str().unwrap());
    let odd = dir.join("odd.png");
    make(&format!(
        "videotestsrc num-buffers=1 ! video/x-raw,format=RGB,width=321,height=241 ! pngenc ! filesink location={}",
        odd.display()
    ));
    let odd = odd.to_str().unwrap();
    let secret = file("login", b"ada:s3cr3t\nbo:s3cr3t\n");
    for (args, status, words) in [
        (["--size", "big"].as_slice(), 2, "--size big"),
        (&["--encoder", "bframes=3"], 1, "bframes"),
        (&["--encoder", "mode=two-pass bframes=3"], 1, "bframes"),
        (&["--encoder", "background-qp=99"], 1, "background-qp"),
        (&["--encoder", "speed-preset=nonsense"], 1, "speed-preset"),
        (&["--encoder", "encoder=x265 option-string=nonsense=1"], 1, "nonsense"),
        (&["--encoder", "encoder=x265 cabac=false"], 1, "cabac"),
        (&["--encoder", "name=mine"], 1, "name"),
        (&["--encoder", "! fakesink"], 1, "properties of ddsencode"),
        (
            &["--encoder", "feedback-key=s3cr3t feedback-uri=nonsense"],
            1,
            "feedback-uri=nonsense",
        ),
        (
            &["--encoder", "feedback-key=s3cr3t no-such-property=1"],
            1,
            "no-such-property",
        ),
        (
            &["--encoder", "key-int-max=50", "--key-interval", "2"],
            1,
            "--key-interval",
        ),
        (&["--encoder", "mode=1", "--steer", "all"], 1, "--steer all"),
        (&["--user-file", "no-such-file"], 2, "--user-file no-such-file"),
        (&["--user-file", &secret], 2, "2 lines"),
        (&[&empty], 1, "empty.mp4: it is empty"),
        (&[&text], 1, "text.mp4"),
        (&[sound], 1, "no video"),
        (&[folder], 1, "a folder"),
        (&[odd], 1, "--size 320x240"),
        (&["/dev/null"], 1, "/dev/null"),
        (&["--nonsense"], 2, "--nonsense"),
        (&["no-such-file.mp4"], 1, "no-such-file.mp4"),
        (&["test:no-such-pattern"], 1, "no-such-pattern"),
        (&["--encoder", "no-such-property=1"], 1, "no-such-property"),
        (&["--certificate", "no-such-file.pem"], 1, "no-such-file.pem"),
    ] {
        let (code, said) = run(args);
        assert_eq!(code, Some(status), "{args:?}: {said}");
        assert!(said.contains(words) && !said.contains("panicked"), "{args:?}: {said}");
        assert!(
            !said.contains("rtsp://") && !said.contains("s3cr3t"),
            "{args:?}: {said}"
        );
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, said) = run(&["test", "--address", "127.0.0.1", "--port", &port]);
    assert_eq!(code, Some(1));
    assert!(said.contains("--port"), "{said}");
}
