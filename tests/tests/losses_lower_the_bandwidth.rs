// SPDX-License-Identifier: MPL-2.0

//! With `bandwidth-min`, what the receiver's RTCP reports of losses moves the camera's bandwidth: down while packets are
//! lost, up again afterwards. Without losses it stays where it is.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use gst::prelude::*;

#[test]
fn lost_packets_lower_the_bandwidth_and_their_end_raises_it() {
    init();
    let p = free_ports(3);
    let camera = launch(&format!(
        "rtpbin name=r rtp-profile=avpf \
         videotestsrc is-live=true pattern=snow ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
         ! ddsencode name=camera bandwidth=1000 bandwidth-min=200 speed-preset=ultrafast ! video/x-h264,stream-format=byte-stream \
         ! rtph264pay config-interval=-1 mtu=300 ! identity ! r.send_rtp_sink_0 \
         r.send_rtp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0",
        p[0], p[1], p[2]
    ));
    let server = launch(&format!(
        "rtpbin name=r rtp-profile=avpf latency=20 \
         udpsrc address=127.0.0.1 port={} caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96 \
         ! r.recv_rtp_sink_0 udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0 \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false r. ! fakesink async=false",
        p[0], p[1], p[2]
    ));
    for pipeline in [&camera, &server] {
        let bin = pipeline.by_name("r").unwrap();
        let session = bin.emit_by_name::<glib::Object>("get-internal-session", &[&0u32]);
        session.set_property("rtcp-min-interval", 100_000_000u64);
        session.set_property("rtcp-fraction", 1_000_000f64);
    }
    // Packets behind the session are lost, `per_mille` of a thousand.
    let per_mille = Arc::new(AtomicU64::new(0));
    let (rate, sent) = (per_mille.clone(), AtomicU64::new(0));
    let pad = camera.by_name("r").unwrap().static_pad("send_rtp_src_0").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let n = sent.fetch_add(1, Ordering::SeqCst);
        let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        if mixed % 1000 < rate.load(Ordering::SeqCst) {
            return gst::PadProbeReturn::Drop;
        }
        gst::PadProbeReturn::Ok
    });
    server.set_state(gst::State::Playing).unwrap();
    camera.set_state(gst::State::Playing).unwrap();
    let element = camera.by_name("camera").unwrap();
    let stats = || element.property::<gst::Structure>("stats");
    let available = || stats().get::<u32>("bandwidth-available").unwrap();
    wait_for("reports", || stats().get::<u64>("receiver-reports").unwrap() >= 2);
    assert_eq!(available(), 1000);
    per_mille.store(200, Ordering::SeqCst);
    wait_for("a lower bandwidth", || available() < 700);
    assert!(stats().get::<f64>("receiver-loss").unwrap() > 0.1);
    let lowest = available();
    per_mille.store(0, Ordering::SeqCst);
    // A report that still tells of losses may lower it once more.
    wait_for("a bandwidth that rises", || available() > lowest);
    camera.set_state(gst::State::Null).unwrap();
    server.set_state(gst::State::Null).unwrap();
}
