// SPDX-License-Identifier: MPL-2.0

//! Camera and server as in `pipelines/srtp-camera.sh` and `srtp-server.sh`: video by SRTP, feedback inside SRTCP. It steers,
//! and nothing of it can be read on the wire; with another key there is neither picture nor steering; what is sent again or
//! forged is dropped before it reaches the camera.

mod common;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use dds_protocol::rtcp;
use dds_tests::relay::{Conditions, Direction, Relay};
use gst::prelude::*;

/// 16 bytes of key and 14 of salt in hexadecimal, one for each direction.
const CAMERA_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d";
const SERVER_KEY: &str = "303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d";
const OTHER_KEY: &str = "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d";
const STREAM_ID: u32 = 7;
/// Bytes that a tag of HMAC-SHA1-80 adds (RFC 3711, 4.2).
const TAG: usize = 10;

type Packets = Arc<Mutex<Vec<Vec<u8>>>>;

struct Path {
    camera: gst::Pipeline,
    server: gst::Pipeline,
    reports: Relay,
    _media: Relay,
    /// RTP packets by their sequence numbers, as the payloader made them.
    plain: Arc<Mutex<BTreeMap<u16, Vec<u8>>>>,
    /// SRTP, and SRTCP from the server, that arrived.
    video: Packets,
    feedback: Packets,
}

impl Path {
    /// `server_key`: with which the server seals its reports. `opens`: with which it opens the camera's packets.
    fn new(server_key: &str, opens: &str) -> Self {
        Self::with(server_key, opens, "")
    }

    /// With properties of `ddsencode`.
    fn with(server_key: &str, opens: &str, encoder: &str) -> Self {
        init();
        let server = launch(&format!(
            "rtpbin name=rtp latency=20 srtpenc name=seal key={server_key} srtpdec name=open \
             udpsrc name=media address=127.0.0.1 port=0 \
             caps=application/x-srtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true \
             ! open.rtp_sink open.rtp_src ! rtp.recv_rtp_sink_0 \
             udpsrc name=rtcp address=127.0.0.1 port=0 caps=application/x-srtcp ! open.rtcp_sink \
             open.rtcp_src ! rtp.recv_rtcp_sink_0 \
             rtp.send_rtcp_src_0 ! seal.rtcp_sink_0 seal.rtcp_src_0 ! udpsink name=reports host=127.0.0.1 sync=false async=false \
             rtp. ! rtph264depay ! avdec_h264 max-threads=1 ! ddsinfer name=infer ! fakesink async=false"
        ));
        let camera = launch(&format!(
            "rtpbin name=rtp srtpenc name=seal key={CAMERA_KEY} srtpdec name=open \
             videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
             ! ddsencode name=encoder stream-id={STREAM_ID} threads=1 key-int-max=15 feedback-timeout=1000 {encoder} \
             ! video/x-h264,stream-format=byte-stream \
             ! rtph264pay name=payloader config-interval=-1 aggregate-mode=zero-latency ! rtp.send_rtp_sink_0 \
             rtp.send_rtp_src_0 ! seal.rtp_sink_0 seal.rtp_src_0 ! udpsink name=media host=127.0.0.1 sync=false async=false \
             rtp.send_rtcp_src_0 ! seal.rtcp_sink_0 seal.rtcp_src_0 ! udpsink name=reports host=127.0.0.1 sync=false async=false \
             udpsrc name=rtcp address=127.0.0.1 port=0 caps=application/x-srtcp ! open.rtcp_sink \
             open.rtcp_src ! rtp.recv_rtcp_sink_0"
        ));
        give_key(&server, opens);
        give_key(&camera, SERVER_KEY);
        for pipeline in [&server, &camera] {
            pipeline.set_state(gst::State::Ready).unwrap();
        }
        // Of RTP nothing goes back: the discard port.
        let media = Relay::between(9, port(&server, "media"), 1).unwrap();
        let reports = Relay::between(port(&camera, "rtcp"), port(&server, "rtcp"), 2).unwrap();
        for (pipeline, sink, port) in [
            (&camera, "media", media.port(Direction::Forward)),
            (&camera, "reports", reports.port(Direction::Forward)),
            (&server, "reports", reports.port(Direction::Backward)),
        ] {
            let sink = pipeline.by_name(sink).unwrap();
            sink.set_property("port", i32::from(port));
        }
        let (video, feedback) = (Packets::default(), Packets::default());
        let seen = video.clone();
        media.tap(Direction::Forward, move |packet, _| {
            seen.lock().unwrap().push(packet.to_vec());
        });
        let seen = feedback.clone();
        reports.tap(Direction::Backward, move |packet, fate| {
            if fate.passed() {
                seen.lock().unwrap().push(packet.to_vec());
            }
        });
        let plain = keep_plain(&camera);
        for pipeline in [&server, &camera] {
            pipeline.set_state(gst::State::Playing).unwrap();
        }
        Self {
            camera,
            server,
            reports,
            _media: media,
            plain,
            video,
            feedback,
        }
    }

    fn camera_count(&self, name: &str) -> u64 {
        stats(&self.camera, "encoder").get(name).unwrap()
    }

    fn is_steered(&self) {
        let before = self.camera_count("frames-steered");
        wait_for("steered frames", || self.camera_count("frames-steered") > before + 10);
    }

    /// Packets that an end refused to open.
    fn refused(pipeline: &gst::Pipeline) -> u32 {
        stats(pipeline, "open").get("recv-drop-count").unwrap()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = self.camera.set_state(gst::State::Null);
        let _ = self.server.set_state(gst::State::Null);
    }
}

fn stats(pipeline: &gst::Pipeline, element: &str) -> gst::Structure {
    pipeline.by_name(element).unwrap().property("stats")
}

fn port(pipeline: &gst::Pipeline, source: &str) -> u16 {
    pipeline.by_name(source).unwrap().property::<i32>("port") as u16
}

/// For any SSRC: they are drawn anew at each start.
fn give_key(pipeline: &gst::Pipeline, key: &str) {
    let caps: gst::Caps = format!(
        "application/x-srtp,srtp-key=(buffer){key},srtp-cipher=aes-128-icm,srtp-auth=hmac-sha1-80,\
         srtcp-cipher=aes-128-icm,srtcp-auth=hmac-sha1-80"
    )
    .parse()
    .unwrap();
    let opener = pipeline.by_name("open").unwrap();
    opener.connect("request-key", false, move |_| Some(caps.to_value()));
}

fn keep_plain(camera: &gst::Pipeline) -> Arc<Mutex<BTreeMap<u16, Vec<u8>>>> {
    let plain = Arc::<Mutex<BTreeMap<u16, Vec<u8>>>>::default();
    let kept = plain.clone();
    let keep = move |buffer: &gst::BufferRef| {
        let packet = buffer.map_readable().unwrap().to_vec();
        kept.lock().unwrap().insert(sequence_number(&packet), packet);
    };
    let pad = camera.by_name("payloader").unwrap().static_pad("src").unwrap();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(kinds, move |_, info| {
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => keep(buffer),
            Some(gst::PadProbeData::BufferList(list)) => list.iter().for_each(&keep),
            _ => unreachable!(),
        }
        gst::PadProbeReturn::Ok
    });
    plain
}

/// Counts what passes a pad of the camera's `srtpdec` from now on.
fn buffers(camera: &gst::Pipeline, pad: &str) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let passed = count.clone();
    let pad = camera.by_name("open").unwrap().static_pad(pad).unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        passed.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    count
}

fn sequence_number(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[2], packet[3]])
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

#[test]
fn it_steers_and_nothing_on_the_wire_can_be_read() {
    let path = Path::new(SERVER_KEY, CAMERA_KEY);
    path.is_steered();
    assert!(path.camera_count("feedback-packets-rtcp") > 0);
    assert_eq!(path.camera_count("feedback-malformed"), 0);

    let plain = path.plain.lock().unwrap();
    let video = path.video.lock().unwrap();
    assert!(video.len() > 10);
    for sealed in &*video {
        let packet = &plain[&sequence_number(sealed)];
        assert_eq!(sealed.len(), packet.len() + TAG);
        assert!(packet.len() < 28 || !contains(sealed, &packet[12..28]), "plain payload");
    }
    let feedback = path.feedback.lock().unwrap();
    assert!(feedback.len() > 10);
    for sealed in &*feedback {
        assert!(!contains(sealed, &rtcp::APP_NAME), "plain APP packet");
        assert!(rtcp::feedback_in(sealed).is_ok_and(|f| f.is_empty()) || rtcp::feedback_in(sealed).is_err());
    }
}

#[test]
fn a_key_at_the_own_channel_leaves_encrypted_rtcp_open() {
    let [port] = free_ports(1)[..] else { unreachable!() };
    let channel = format!("feedback-uri=udp://127.0.0.1:{port} feedback-key=\"a key of the tests\"");
    let path = Path::with(SERVER_KEY, CAMERA_KEY, &channel);
    path.is_steered();
    assert!(path.camera_count("feedback-packets-rtcp") > 0);
    assert_eq!(path.camera_count("feedback-way-closed"), 0);
}

#[test]
fn with_another_key_there_is_no_picture_and_no_steering() {
    for (seals, opens) in [(SERVER_KEY, OTHER_KEY), (OTHER_KEY, CAMERA_KEY)] {
        let path = Path::new(seals, opens);
        wait_for("frames", || path.camera_count("frames-coded") > 60);
        let decoded: u64 = stats(&path.server, "infer").get("frames").unwrap();
        if opens == OTHER_KEY {
            assert_eq!(decoded, 0);
            assert!(Path::refused(&path.server) > 30);
        } else {
            // Its words are not believed, though it sees the video.
            assert!(decoded > 0);
            wait_for("refusals", || Path::refused(&path.camera) > 10);
        }
        assert_eq!(path.camera_count("feedback-packets"), 0);
        assert_eq!(path.camera_count("frames-steered"), 0);
        assert!(path.camera_count("frames-fallback") > 30);
    }
}

#[test]
fn what_is_sent_again_or_forged_is_not_applied() {
    let path = Path::new(SERVER_KEY, CAMERA_KEY);
    path.is_steered();
    path.reports.set(
        Direction::Backward,
        Conditions {
            blackout: true,
            ..Conditions::default()
        },
    );
    wait_for("fallback", || path.camera_count("feedback-lost") > 0);
    let before = (
        path.camera_count("feedback-packets"),
        path.camera_count("frames-steered"),
    );

    let recorded = path.feedback.lock().unwrap().clone();
    let mut attack = Vec::new();
    for sealed in recorded.iter().rev().take(20) {
        attack.push(sealed.clone());
        // A new packet, made of an old one: index and tag are the last 14 bytes (RFC 3711, 3.4).
        let mut forged = sealed.clone();
        let index = forged.len() - TAG - 2;
        forged[index] = forged[index].wrapping_add(16);
        attack.push(forged);
        let mut forged = sealed.clone();
        forged[12] ^= 1;
        attack.push(forged);
        let unsealed = sealed[..sealed.len() - TAG - 4].to_vec();
        attack.push(unsealed);
    }
    // What would steer an open camera: the attacker knows everything but the key.
    let ssrc = u32::from_be_bytes(recorded[0][4..8].try_into().unwrap());
    let frame = path.camera_count("frames-coded");
    for packet in packets(STREAM_ID, 60_000, frame, vec![region(0, 0, 64, 64)]) {
        attack.push(rtcp::compound(ssrc, &packet));
    }
    let (arrived, opened) = (buffers(&path.camera, "rtcp_sink"), buffers(&path.camera, "rtcp_src"));
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    for packet in &attack {
        attacker
            .send_to(packet, ("127.0.0.1", port(&path.camera, "rtcp")))
            .unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    wait_for("the attack", || arrived.load(Ordering::Relaxed) >= attack.len());
    // The last one may be in work.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(opened.load(Ordering::Relaxed), 0);
    assert_eq!(
        (
            path.camera_count("feedback-packets"),
            path.camera_count("frames-steered")
        ),
        before
    );

    // The true server is heard again.
    path.reports.set(Direction::Backward, Conditions::default());
    path.is_steered();
}
