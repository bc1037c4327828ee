// SPDX-License-Identifier: MPL-2.0

//! Two cameras and an audio stream leave through one pipeline over RTP/UDP, two servers and the audio receiver live in
//! another. Nobody tells anybody which session is whose, and each camera hears its own server only.

mod common;

use common::*;
use gst::prelude::*;

#[test]
fn each_camera_hears_its_own_server_only() {
    init();
    let p = free_ports(9);
    let camera = |n: u32, motion: &str| {
        format!(
            "videotestsrc is-live=true pattern={motion} ! video/x-raw,format=I420,width=320,height=240,framerate=20/1 \
             ! ddsencode name=e{n} stream-id={n} ! tee name=t{n} t{n}. ! queue ! rtph264pay config-interval=-1 ! r.send_rtp_sink_{n} \
             t{n}. ! queue ! fakesink async=false "
        )
    };
    let cameras = launch(&format!(
        "rtpbin name=r audiotestsrc is-live=true ! mulawenc ! rtppcmupay ! r.send_rtp_sink_0 {} {} \
         r.send_rtp_src_0 ! udpsink host=127.0.0.1 port={} async=false \
         r.send_rtp_src_1 ! udpsink host=127.0.0.1 port={} async=false \
         r.send_rtp_src_2 ! udpsink host=127.0.0.1 port={} async=false \
         r.send_rtcp_src_1 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         r.send_rtcp_src_2 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_1 udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_2",
        camera(1, "ball"),
        camera(2, "smpte"),
        p[0],
        p[1],
        p[2],
        p[3],
        p[4],
        p[5],
        p[6]
    ));
    let caps = "application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true";
    // Server 1 asks for a region on the left of every frame, server 2 for one on the right: metas of another
    // detector, no model needed.
    let servers = launch(&format!(
        "rtpbin name=r latency=10 \
         udpsrc address=127.0.0.1 port={} caps=application/x-rtp,media=audio,encoding-name=PCMU,clock-rate=8000,payload=0 ! r.recv_rtp_sink_0 \
         udpsrc address=127.0.0.1 port={} caps={caps} ! r.recv_rtp_sink_1 \
         udpsrc address=127.0.0.1 port={} caps={caps} ! r.recv_rtp_sink_2 \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_1 udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_2 \
         r.send_rtcp_src_1 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         r.send_rtcp_src_2 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         fakesink name=d0 async=false rtph264depay name=d1 ! decodebin ! videoconvert ! identity name=m1 ! ddsinfer name=i1 ! fakesink async=false \
         rtph264depay name=d2 ! avdec_h264 ! identity name=m2 ! ddsinfer name=i2 ! fakesink async=false",
        p[0], p[1], p[2], p[3], p[4], p[5], p[6]
    ));
    let weak = servers.downgrade();
    servers.by_name("r").unwrap().connect_pad_added(move |_, pad| {
        let Some(servers) = weak.upgrade() else { return };
        for n in 0..=2 {
            if pad.name().starts_with(&format!("recv_rtp_src_{n}_")) {
                pad.link(&servers.by_name(&format!("d{n}")).unwrap().static_pad("sink").unwrap())
                    .unwrap();
            }
        }
    });
    // Server 2 finds nothing, server 1 one undecided object.
    servers
        .by_name("m1")
        .unwrap()
        .static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, |_, info| {
            let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data else {
                unreachable!()
            };
            let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "person", (32, 32, 64, 64));
            meta.add_param(
                gst::Structure::builder("detection")
                    .field("confidence", 0.3f64)
                    .field("label_id", 0i32)
                    .build(),
            );
            gst::PadProbeReturn::Ok
        });
    servers.set_state(gst::State::Playing).unwrap();
    cameras.set_state(gst::State::Playing).unwrap();
    let stats = |n: u32| {
        cameras
            .by_name(&format!("e{n}"))
            .unwrap()
            .property::<gst::Structure>("stats")
    };
    let get = |n: u32, field: &str| {
        stats(n)
            .get::<u64>(field)
            .unwrap_or_else(|e| panic!("{e} in {:?}", stats(n)))
    };
    wait_for("both cameras to be steered", || {
        get(1, "generations-applied") >= 20 && get(2, "generations-applied") >= 20
    });
    assert!(get(1, "regions-applied") > 0, "{:?}", stats(1));
    assert_eq!(
        get(2, "regions-applied"),
        0,
        "server 2 asked for nothing: {:?}",
        stats(2)
    );
    for n in 1..=2 {
        assert_eq!(
            get(n, "feedback-foreign"),
            0,
            "camera {n} heard the other server: {:?}",
            stats(n)
        );
        assert_eq!(get(n, "feedback-malformed"), 0, "{:?}", stats(n));
    }
    cameras.set_state(gst::State::Null).unwrap();
    servers.set_state(gst::State::Null).unwrap();
}
