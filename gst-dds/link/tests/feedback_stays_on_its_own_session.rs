// SPDX-License-Identifier: MPL-2.0

//! Two cameras and an audio stream leave through one pipeline and arrive in another. Feedback sent from one server's
//! data path reaches its camera and no other.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use common::{free_ports, launch, wait_for};
use gst::prelude::*;
use gst_dds_link::session::{CameraChannel, DeliverRtcp, Sent, ServerChannel};

fn counter() -> (Arc<AtomicUsize>, DeliverRtcp) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    (
        count,
        Arc::new(move |_, packet: &[u8]| {
            // The tag survives the RTCP padding.
            if packet.starts_with(b"tag") {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }),
    )
}

#[test]
fn two_cameras_and_audio_are_each_steered_by_their_own_server() {
    gst::init().unwrap();
    let p = free_ports(9);
    let video = "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=30/1 ! x264enc tune=zerolatency";
    // Audio takes session 0, so "the first session" would be wrong for both cameras.
    let camera = launch(&format!(
        "rtpbin name=r \
         audiotestsrc is-live=true ! mulawenc ! rtppcmupay ! r.send_rtp_sink_0 \
         {video} ! identity name=c1 ! rtph264pay ! r.send_rtp_sink_1 \
         {video} ! tee name=t ! queue ! identity name=c2 ! rtph264pay ! r.send_rtp_sink_2 t. ! queue ! fakesink async=false \
         r.send_rtp_src_0 ! udpsink host=127.0.0.1 port={} \
         r.send_rtp_src_1 ! udpsink host=127.0.0.1 port={} \
         r.send_rtp_src_2 ! udpsink host=127.0.0.1 port={} \
         r.send_rtcp_src_1 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         r.send_rtcp_src_2 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_1 \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_2",
        p[0], p[1], p[2], p[3], p[4], p[5], p[6]
    ));
    let caps = "application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96";
    let server = launch(&format!(
        "rtpbin name=r latency=20 \
         udpsrc address=127.0.0.1 port={} caps=application/x-rtp,media=audio,encoding-name=PCMU,clock-rate=8000,payload=0 \
           ! r.recv_rtp_sink_0 \
         udpsrc address=127.0.0.1 port={} caps={caps} ! r.recv_rtp_sink_1 \
         udpsrc address=127.0.0.1 port={} caps={caps} ! r.recv_rtp_sink_2 \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_1 \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_2 \
         r.send_rtcp_src_1 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         r.send_rtcp_src_2 ! udpsink host=127.0.0.1 port={} sync=false async=false",
        p[0], p[1], p[2], p[3], p[4], p[5], p[6]
    ));
    let sinks: Vec<gst::Element> = (1..=2)
        .map(|n| {
            let bin = gst::parse::bin_from_description(
                &format!("rtph264depay name=in{n} ! decodebin ! videoconvert ! fakesink name=s{n} async=false"),
                false,
            )
            .unwrap();
            server.add(&bin).unwrap();
            let pad = bin.by_name(&format!("in{n}")).unwrap().static_pad("sink").unwrap();
            bin.add_pad(&gst::GhostPad::with_target(&pad).unwrap()).unwrap();
            bin.by_name(&format!("s{n}")).unwrap()
        })
        .collect();
    let weak = server.downgrade();
    server.by_name("r").unwrap().connect_pad_added(move |_, pad| {
        let Some(server) = weak.upgrade() else { return };
        for n in 1..=2 {
            if pad.name().starts_with(&format!("recv_rtp_src_{n}_")) {
                let depay = server.by_name(&format!("in{n}")).unwrap();
                let bin = depay.parent().unwrap().downcast::<gst::Element>().unwrap();
                pad.link(&bin.sink_pads()[0]).unwrap();
            }
        }
    });
    server.set_state(gst::State::Playing).unwrap();
    camera.set_state(gst::State::Playing).unwrap();

    let (heard1, deliver1) = counter();
    let (heard2, deliver2) = counter();
    let mut cameras = [CameraChannel::default(), CameraChannel::default()];
    let mut servers = [ServerChannel::default(), ServerChannel::default()];
    let src = |name: &str| camera.by_name(name).unwrap().static_pad("src").unwrap();
    wait_for("cameras to attach", || {
        cameras[0].refresh(&src("c1"), &deliver1) == 1 && cameras[1].refresh(&src("c2"), &deliver2) == 1
    });
    wait_for("servers to attach", || {
        servers
            .iter_mut()
            .zip(&sinks)
            .all(|(s, sink)| s.refresh(&sink.static_pad("sink").unwrap()))
    });

    // Only server 2 sends.
    let mut now = 0;
    wait_for("feedback at camera 2", || {
        if servers[1].send(vec![b"tag 2".to_vec()]) == Sent::Now {
            now += 1;
        }
        std::thread::sleep(Duration::from_millis(30));
        heard2.load(Ordering::SeqCst) >= 10
    });
    assert_eq!(heard1.load(Ordering::SeqCst), 0);
    assert!(now > 0, "early RTCP was never accepted");
    wait_for("feedback at camera 1", || {
        servers[0].send(vec![b"tag 1".to_vec()]);
        std::thread::sleep(Duration::from_millis(30));
        heard1.load(Ordering::SeqCst) >= 10
    });

    // A camera that has left its session receives nothing more.
    cameras[0] = CameraChannel::default();
    let before = heard1.load(Ordering::SeqCst);
    let sent = heard2.load(Ordering::SeqCst);
    wait_for("more feedback at camera 2", || {
        servers[0].send(vec![b"tag 1".to_vec()]);
        servers[1].send(vec![b"tag 2".to_vec()]);
        std::thread::sleep(Duration::from_millis(30));
        heard2.load(Ordering::SeqCst) >= sent + 5
    });
    assert_eq!(heard1.load(Ordering::SeqCst), before);
    drop(servers);
    camera.set_state(gst::State::Null).unwrap();
    server.set_state(gst::State::Null).unwrap();
}

#[test]
fn nothing_is_sent_on_a_session_whose_element_has_gone() {
    gst::init().unwrap();
    let p = free_ports(1);
    let camera = launch(&format!(
        "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=30/1 ! x264enc tune=zerolatency ! rtph264pay ssrc=7 \
         ! udpsink host=127.0.0.1 port={}",
        p[0]
    ));
    let caps = "application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,ssrc=(uint)7";
    let server = launch(&format!(
        "udpsrc address=127.0.0.1 port={} caps={caps} ! r.recv_rtp_sink rtpsession name=r r.recv_rtp_src \
         ! fakesink name=end async=false",
        p[0]
    ));
    let sink = server.by_name("end").unwrap().static_pad("sink").unwrap();
    server.set_state(gst::State::Playing).unwrap();
    camera.set_state(gst::State::Playing).unwrap();
    let mut channel = ServerChannel::default();
    wait_for("the server to attach", || channel.refresh(&sink));
    assert_ne!(channel.send(vec![b"tag".to_vec()]), Sent::NoSession);
    server.set_state(gst::State::Null).unwrap();
    camera.set_state(gst::State::Null).unwrap();
    drop((server, sink));
    assert_eq!(channel.send(vec![b"tag".to_vec()]), Sent::NoSession);
}

#[test]
fn no_session_on_the_path_means_none_found() {
    gst::init().unwrap();
    let pipeline = launch("videotestsrc num-buffers=1 ! identity name=i ! fakesink name=s");
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(10)).0.unwrap();
    let (_, deliver) = counter();
    let mut camera = CameraChannel::default();
    assert_eq!(
        camera.refresh(&pipeline.by_name("i").unwrap().static_pad("src").unwrap(), &deliver),
        0
    );
    let mut server = ServerChannel::default();
    assert!(!server.refresh(&pipeline.by_name("s").unwrap().static_pad("sink").unwrap()));
    assert_eq!(server.send(vec![vec![1]]), Sent::NoSession);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn rtcp_is_protected_where_every_branch_of_it_comes_out_of_srtp() {
    gst::init().unwrap();
    let opened = "srtpdec name=d fakesrc ! d.rtcp_sink";
    for (line, protected) in [
        ("", false),
        ("fakesrc ! s.recv_rtcp_sink", false),
        (&format!("{opened} d.rtcp_src ! s.recv_rtcp_sink"), true),
        (
            &format!("{opened} d.rtcp_src ! queue ! identity ! s.recv_rtcp_sink"),
            true,
        ),
        (&format!("{opened} d.rtcp_src ! funnel name=f ! s.recv_rtcp_sink"), true),
        // One open branch makes it open, and so does unencrypted media, which may contain RTCP too.
        (
            &format!("{opened} d.rtcp_src ! funnel name=f ! s.recv_rtcp_sink fakesrc ! f."),
            false,
        ),
        (
            &format!("{opened} d.rtcp_src ! s.recv_rtcp_sink fakesrc ! s.recv_rtp_sink"),
            false,
        ),
        (
            &format!("{opened} d.rtcp_src ! s.recv_rtcp_sink fakesrc ! d.rtp_sink d.rtp_src ! s.recv_rtp_sink"),
            true,
        ),
        ("identity name=i ! s.recv_rtcp_sink", false),
    ] {
        let pipeline = launch(&format!("identity rtpsession name=s {line}"));
        let session = pipeline.by_name("s").unwrap();
        assert_eq!(gst_dds_link::path::is_protected(&session), protected, "{line}");
        // Authentication switched off.
        if let Some(opener) = pipeline.by_name("d") {
            let pad = opener.static_pad("rtcp_sink").unwrap();
            pad.set_active(true).unwrap();
            pad.store_sticky_event(&gst::event::StreamStart::new("x")).unwrap();
            let caps: gst::Caps = "application/x-srtcp,srtcp-auth=null".parse().unwrap();
            pad.store_sticky_event(&gst::event::Caps::new(&caps)).unwrap();
            assert!(
                !gst_dds_link::path::is_protected(&session),
                "{line}, without authentication"
            );
        }
    }
}
