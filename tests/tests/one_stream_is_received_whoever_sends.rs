// SPDX-License-Identifier: MPL-2.0

//! A server that is linked once, as in a line of `gst-launch-1.0`, behind `ddsrtprecv`: cameras that go, come and restart,
//! and everybody else who sends to its ports.

mod common;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use gst::prelude::*;
use gst_dds_link::path;
use serde_json::Value;

const CAPS: &str = "application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true";
const FPS: u32 = 20;
/// For how long the place is kept for a stream of which nothing comes.
const HOLD: Duration = Duration::from_secs(1);

struct Server {
    pipeline: gst::Pipeline,
    /// Results, each with the time it came at.
    lines: Arc<Mutex<Vec<(Instant, Value)>>>,
    /// Where the camera hears of it.
    feedback: u16,
}

/// UDP ports of a camera and its server.
#[derive(Clone, Copy)]
struct Ports {
    rtp: u16,
    rtcp: u16,
    /// Of the camera.
    feedback: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Server {
    fn new() -> Self {
        Self::with(CAPS, "rtph264depay ! avdec_h264 max-threads=1")
    }

    /// `decode`: from RTP to pictures.
    fn with(caps: &str, decode: &str) -> Self {
        init();
        let feedback = free_ports(1)[0];
        let pipeline = launch(&format!(
            "ddsrtprecv name=r udpsrc name=rtp address=127.0.0.1 port=0 buffer-size=2000000 caps={caps} ! r.rtp_sink \
             udpsrc name=rtcp address=127.0.0.1 port=0 ! r.rtcp_sink \
             r.rtcp_src ! udpsink host=127.0.0.1 port={feedback} sync=false async=false \
             r.src ! {decode} ! identity name=detector ! ddsinfer name=infer ! fakesink async=false \
             infer.results ! appsink name=results sync=false async=false"
        ));
        // One object of which the detector is never sure, so that it is asked for.
        let detector = pipeline.by_name("detector").unwrap().static_pad("src").unwrap();
        detector.add_probe(gst::PadProbeType::BUFFER, |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
                let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "object", (32, 32, 64, 64));
                meta.add_param(
                    gst::Structure::builder("detection")
                        .field("confidence", 0.3f64)
                        .field("label_id", 0i32)
                        .build(),
                );
            }
            gst::PadProbeReturn::Ok
        });
        let lines = Arc::<Mutex<Vec<(Instant, Value)>>>::default();
        let seen = lines.clone();
        let results: gst_app::AppSink = pipeline.by_name("results").unwrap().downcast().unwrap();
        let take = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            let map = sample.buffer().unwrap().map_readable().unwrap();
            seen.lock()
                .unwrap()
                .push((Instant::now(), serde_json::from_slice(&map).unwrap()));
            Ok(gst::FlowSuccess::Ok)
        };
        results.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(take).build());
        pipeline.set_state(gst::State::Playing).unwrap();
        Self {
            pipeline,
            lines,
            feedback,
        }
    }

    fn port(&self, name: &str) -> u16 {
        self.pipeline.by_name(name).unwrap().property::<i32>("port") as u16
    }

    fn ports(&self) -> Ports {
        Ports {
            rtp: self.port("rtp"),
            rtcp: self.port("rtcp"),
            feedback: self.feedback,
        }
    }

    /// Ports of a camera that it does not speak to.
    fn unheard(&self) -> Ports {
        Ports {
            feedback: free_ports(1)[0],
            ..self.ports()
        }
    }

    fn count(&self, field: &str) -> u64 {
        let stats = self.pipeline.by_name("r").unwrap().property::<gst::Structure>("stats");
        stats.get(field).unwrap_or_else(|e| panic!("{e} in {stats:?}"))
    }

    /// Results of a stream.
    fn of(&self, stream_id: u32) -> Vec<(Instant, Value)> {
        let lines = self.lines.lock().unwrap();
        let of_it = |(_, line): &&(Instant, Value)| line["stream_id"] == stream_id;
        lines.iter().filter(of_it).cloned().collect()
    }

    fn infers(&self, stream_id: u32) {
        let before = self.of(stream_id).len();
        wait_for("results", || self.of(stream_id).len() >= before + 5);
    }

    /// Decoded pictures.
    fn pictures(&self) -> u64 {
        let stats = self
            .pipeline
            .by_name("infer")
            .unwrap()
            .property::<gst::Structure>("stats");
        stats.get("frames").unwrap()
    }

    /// SSRCs that the RTP session keeps.
    fn sources(&self) -> usize {
        let bin = self.pipeline.by_name("r").unwrap().downcast::<gst::Bin>().unwrap();
        let is_session = |e: &gst::Element| e.factory().is_some_and(|f| f.name() == "rtpsession");
        let session = bin.children().into_iter().find(is_session).unwrap();
        let stats = session.property::<gst::Structure>("stats");
        let sources = stats.get::<glib::ValueArray>("source-stats").unwrap();
        sources.len()
    }

    fn assert_healthy(&self) {
        assert_eq!(dds_tests::bus_error(&self.pipeline), None);
        assert_eq!(self.pipeline.current_state(), gst::State::Playing);
    }
}

/// A camera that is killed when it is dropped: nothing of it comes any more, not a word of goodbye.
struct Camera {
    pipeline: gst::Pipeline,
    /// Key frames it coded.
    keys: Arc<AtomicU64>,
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Camera {
    fn new(ports: Ports, stream_id: u32) -> Self {
        Self::with(
            ports,
            stream_id,
            "",
            "rtph264pay config-interval=-1 aggregate-mode=zero-latency",
        )
    }

    fn with(ports: Ports, stream_id: u32, encoder: &str, pay: &str) -> Self {
        let pipeline = launch(&format!(
            "rtpbin name=r videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=128,framerate={FPS}/1 \
             ! ddsencode name=encoder stream-id={stream_id} threads=1 key-int-max=1000 speed-preset=superfast {encoder} \
             ! capsfilter caps=\"video/x-h264,stream-format=byte-stream;video/x-h265,stream-format=byte-stream\" \
             ! {pay} ! r.send_rtp_sink_0 \
             r.send_rtp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
             r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
             udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0",
            ports.rtp, ports.rtcp, ports.feedback
        ));
        let keys = Arc::<AtomicU64>::default();
        let counted = keys.clone();
        let encoded = pipeline.by_name("encoder").unwrap().static_pad("src").unwrap();
        encoded.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
                let key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
                counted.fetch_add(u64::from(key), Ordering::SeqCst);
            }
            gst::PadProbeReturn::Ok
        });
        pipeline.set_state(gst::State::Playing).unwrap();
        Self { pipeline, keys }
    }

    fn count(&self, field: &str) -> u64 {
        let stats = self
            .pipeline
            .by_name("encoder")
            .unwrap()
            .property::<gst::Structure>("stats");
        stats.get(field).unwrap_or_else(|e| panic!("{e} in {stats:?}"))
    }

    fn keys(&self) -> u64 {
        self.keys.load(Ordering::SeqCst)
    }

    fn is_steered(&self) {
        let before = self.count("frames-steered");
        wait_for("steered frames", || self.count("frames-steered") > before + 5);
    }

    fn says_goodbye(self, server: &Server) {
        let before = server.count("byes");
        self.pipeline.send_event(gst::event::Eos::new());
        wait_for("goodbye", || server.count("byes") > before);
    }
}

#[test]
fn a_camera_that_restarts_is_seen_from_its_key_frame_on_and_steered_again() {
    let server = Server::new();
    let mut camera = Camera::new(server.ports(), 1);
    server.infers(1);
    let infer = server.pipeline.by_name("infer").unwrap().static_pad("sink").unwrap();
    let buffer = path::jitter_buffer(&infer).unwrap();
    assert_eq!((buffer.owner.name().as_str(), buffer.latency_ms), ("r", 20));
    camera.is_steered();
    for stream_id in 2..=5 {
        // With a word of goodbye and without; under the SSRC it had, too.
        match stream_id {
            3 => camera.says_goodbye(&server),
            _ => drop(camera),
        }
        let (began, pictures) = (Instant::now(), server.pictures());
        let ssrc = if stream_id >= 4 { "ssrc=77" } else { "" };
        let pay = format!("rtph264pay config-interval=-1 aggregate-mode=zero-latency {ssrc}");
        camera = Camera::with(server.ports(), stream_id, "", &pay);
        server.infers(stream_id);
        camera.is_steered();
        let results = server.of(stream_id);
        let damaged = results.iter().filter(|(_, line)| line["damaged"] != false);
        let damaged: Vec<_> = damaged.map(|(_, line)| line["frame"].as_u64()).collect();
        assert!(damaged.is_empty(), "of stream {stream_id}: {damaged:?}");
        let waited = results[0].0 - began;
        assert!(stream_id == 3 || waited >= HOLD / 2, "{waited:?}");
        assert_eq!(camera.keys(), 1, "nobody had to ask for another one");
        // The decoder may have given the last one of the former camera since.
        let unseen = camera
            .count("frames-coded")
            .saturating_sub(server.pictures() - pictures);
        assert!(unseen <= 3, "{unseen} frames of its beginning were not kept");
        assert_eq!(server.count("takeovers"), u64::from(stream_id));

        // Requests go to the SSRC that is there now.
        let decoder = server.pipeline.by_name("detector").unwrap().static_pad("sink").unwrap();
        decoder.push_event(
            gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build(),
        );
        wait_for("key frame", || camera.keys() == 2);
    }
    server.assert_healthy();
}

#[test]
fn a_server_that_comes_between_key_frames_asks_for_one() {
    init();
    let server = Server::new();
    let camera = Camera::new(server.ports(), 1);
    server.infers(1);
    let [rtp, feedback] = [server.port("rtp"), server.feedback];
    server.pipeline.set_state(gst::State::Null).unwrap();
    let frames = camera.count("frames-coded");
    wait_for("frames that nobody sees", || camera.count("frames-coded") > frames + 10);
    server
        .pipeline
        .by_name("rtp")
        .unwrap()
        .set_property("port", i32::from(rtp));
    server.lines.lock().unwrap().clear();
    let keys = camera.keys();
    server.pipeline.set_state(gst::State::Playing).unwrap();
    assert_eq!(server.feedback, feedback);
    server.infers(1);
    let results = server.of(1);
    assert!(results.iter().all(|(_, line)| line["damaged"] == false), "{results:?}");
    assert!(camera.keys() > keys);
    assert_eq!(server.count("key-unit-requests"), 1);
    server.assert_healthy();
}

/// A packet of H.264 that begins no key frame.
fn stray(ssrc: u32, number: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend(number.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0x41, 0x9a, 1, 2, 3]);
    packet
}

#[test]
fn strangers_are_dropped_and_counted_and_cost_nothing() {
    let server = Server::new();
    let camera = Camera::new(server.ports(), 1);
    server.infers(1);
    camera.is_steered();
    let sources = server.sources();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |packet: &[u8], pad: &str| stranger.send_to(packet, ("127.0.0.1", server.port(pad))).unwrap();

    // Ten packets of another stream.
    (0..10).for_each(|number| {
        send(&stray(7, number), "rtp");
    });
    wait_for("the ten", || server.count("packets-foreign") == 10);
    server.infers(1);
    assert!(server.of(1).iter().all(|(_, line)| line["damaged"] == false));

    // A flood of sources, by RTP and RTCP, and what is no RTP at all.
    let resident = resident_kb();
    for i in 0..20_000u32 {
        let ssrc = i.wrapping_mul(0x9e37_79b9) | 1;
        send(&stray(ssrc, i as u16), "rtp");
        let report = [&[0x80, 200, 0, 6][..], &ssrc.to_be_bytes(), &[0; 20]].concat();
        send(&report, "rtcp");
        let goodbye = [&[0x81, 203, 0, 1][..], &ssrc.to_be_bytes()].concat();
        send(&goodbye, "rtcp");
        for broken in [
            &[0x80u8, 96, 0][..],
            &[0x9f; 12],
            &[0xb0, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 255, 255],
        ] {
            send(broken, "rtp");
        }
        if i % 50 == 0 {
            // What the kernel's buffers cannot hold says nothing of ours.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    server.infers(1);
    assert!(
        server.count("packets-foreign") > 5_000,
        "{}",
        server.count("packets-foreign")
    );
    assert!(server.count("packets-malformed") > 5_000);
    assert!(server.count("rtcp-foreign") > 5_000);
    assert_eq!(server.sources(), sources);
    assert!(server.count("candidates") <= 512);
    // Each source that a session or a jitter buffer keeps costs kilobytes.
    let grown = resident_kb().saturating_sub(resident);
    assert!(grown < 16 << 10, "{grown} kB");
    camera.is_steered();
    assert_eq!((server.count("takeovers"), server.count("byes")), (1, 0));
    server.assert_healthy();
}

#[test]
fn a_goodbye_in_the_name_of_the_camera_costs_a_key_frame_and_no_more() {
    let server = Server::new();
    let camera = Camera::new(server.ports(), 1);
    server.infers(1);
    let stats = server
        .pipeline
        .by_name("r")
        .unwrap()
        .property::<gst::Structure>("stats");
    let ssrc = stats.get::<u32>("ssrc").unwrap().to_be_bytes();
    // With a reason, behind a report; RTCP may come on the port of RTP, too.
    let report = [&[0x80, 201, 0, 1][..], &ssrc].concat();
    let goodbye = [&[0x81, 203, 0, 4][..], &ssrc, &[9], b"so long..", &[0, 0]].concat();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (round, pad) in [(1, "rtcp"), (2, "rtp")] {
        let packet = [report.clone(), goodbye.clone()].concat();
        stranger.send_to(&packet, ("127.0.0.1", server.port(pad))).unwrap();
        wait_for("goodbye", || server.count("byes") == round);
        // What comes within a quarter of a second may have been overtaken; then the camera has to begin anew.
        wait_for("takeover", || server.count("takeovers") == round + 1);
        server.infers(1);
        camera.is_steered();
    }
    assert!(server.of(1).iter().all(|(_, line)| line["damaged"] == false));
    server.assert_healthy();
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_second_camera_waits_until_the_first_one_has_gone() {
    let server = Server::new();
    let first = Camera::new(server.ports(), 1);
    server.infers(1);
    let second = Camera::with(server.unheard(), 2, "key-int-max=10", "rtph264pay config-interval=-1");
    wait_for("key frames of the second", || second.keys() > 5);
    assert!(server.of(2).is_empty());
    assert_eq!(server.count("takeovers"), 1);
    first.is_steered();
    drop(first);
    server.infers(2);
    assert!(server.of(2).iter().all(|(_, line)| line["damaged"] == false));
    server.assert_healthy();
}

#[test]
fn other_codecs_come_through() {
    let h265 = CAPS.replace("H264", "H265");
    let server = Server::with(&h265, "rtph265depay ! h265parse ! avdec_h265 max-threads=1");
    for stream_id in 1..=2 {
        let _camera = Camera::with(
            server.ports(),
            stream_id,
            "encoder=x265 key-int-max=1000 speed-preset=ultrafast",
            "rtph265pay config-interval=-1 aggregate-mode=zero-latency",
        );
        server.infers(stream_id);
        assert!(server.of(stream_id).iter().all(|(_, line)| line["damaged"] == false));
    }
    server.assert_healthy();

    let jpeg = "application/x-rtp,media=video,encoding-name=JPEG,clock-rate=90000,payload=26";
    let server = Server::with(jpeg, "rtpjpegdepay ! jpegdec");
    for _ in 0..2 {
        let camera = launch(&format!(
            "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=20/1 ! jpegenc ! rtpjpegpay \
             ! udpsink host=127.0.0.1 port={} sync=false async=false",
            server.port("rtp")
        ));
        let before = server.lines.lock().unwrap().len();
        camera.set_state(gst::State::Playing).unwrap();
        wait_for("pictures", || server.lines.lock().unwrap().len() > before + 5);
        camera.set_state(gst::State::Null).unwrap();
    }
    server.assert_healthy();
}

#[test]
fn a_recording_goes_on_over_a_restart() {
    let file = scratch("restart-recording").join("all.mkv");
    let server = Server::with(
        CAPS,
        &format!(
            "rtph264depay ! h264parse ! tee name=t ! queue ! matroskamux name=mux ! filesink location={} async=false \
             t. ! queue ! avdec_h264 max-threads=1",
            file.display()
        ),
    );
    for stream_id in 1..=3 {
        let camera = Camera::new(server.ports(), stream_id);
        server.infers(stream_id);
        if stream_id == 2 {
            // The next one has sent for a while when this one ends.
            let next = Camera::with(server.unheard(), 9, "key-int-max=10", "rtph264pay config-interval=-1");
            wait_for("key frames", || next.keys() > 2);
            drop(camera);
            server.infers(9);
        }
    }
    server.assert_healthy();
    server.pipeline.send_event(gst::event::Eos::new());
    std::thread::sleep(Duration::from_millis(300));
    server.pipeline.set_state(gst::State::Null).unwrap();
    let ffprobe = std::process::Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "packet=pts_time", "-of", "csv=p=0"])
        .arg(&file)
        .output()
        .expect("ffprobe is installed");
    let times: Vec<f64> = String::from_utf8_lossy(&ffprobe.stdout)
        .lines()
        .filter_map(|l| l.trim_end_matches(',').parse().ok())
        .collect();
    assert!(times.len() > 15, "{times:?}");
    // As the jitter buffer reckons, to a few frames.
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1] + 0.1), "{times:?}");
}

/// Runs packets through the element under these caps and returns what it says of them.
fn told(caps: &str, kind: gst::MessageType) -> String {
    init();
    let pipeline = launch(&format!(
        "appsrc name=in format=time {} ! ddsrtprecv ! fakesink async=false",
        if caps.is_empty() {
            String::new()
        } else {
            format!("caps={caps}")
        }
    ));
    let source: gst_app::AppSrc = pipeline.by_name("in").unwrap().downcast().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let _ = source.push_buffer(gst::Buffer::from_slice(stray(1, 1)));
    let bus = pipeline.bus().unwrap();
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(20), &[kind]);
    pipeline.set_state(gst::State::Null).unwrap();
    match message.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Error(error)) => error.error().to_string(),
        Some(gst::MessageView::Warning(warning)) => warning.error().to_string(),
        _ => panic!("nothing was said of {caps}"),
    }
}

#[test]
fn caps_that_do_not_fit_are_refused_with_the_cure() {
    for (caps, kind, words) in [
        ("", gst::MessageType::Error, "caps=application/x-rtp"),
        (
            "application/x-rtp,media=audio,encoding-name=PCMU,clock-rate=8000,payload=0",
            gst::MessageType::Error,
            "rtpbin",
        ),
        (
            "application/x-rtp,media=video,encoding-name=H264,payload=96",
            gst::MessageType::Error,
            "clock-rate=90000",
        ),
        (
            &CAPS.replace("payload=96", "payload=97"),
            gst::MessageType::Warning,
            "payload=97",
        ),
    ] {
        let told = told(caps, kind);
        assert!(told.contains(words), "{caps}: {told}");
    }
}
