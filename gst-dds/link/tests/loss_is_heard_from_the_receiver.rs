// SPDX-License-Identifier: MPL-2.0

//! A camera's packets are lost in transit at a known rate. The camera learns it from the receiver's reports.

mod common;

use std::collections::HashSet;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use common::{free_ports, launch, wait_for};
use gst::prelude::*;
use gst_dds_link::report::ReceiverReport;
use gst_dds_link::session::CameraChannel;

/// Packets that reached the lossy place and those lost there.
#[derive(Default)]
struct Road {
    sent: AtomicU64,
    lost: AtomicU64,
}

/// Loses packets after the camera's session with probability `per_mille` / 1000, the same ones in every run.
fn lose(pad: &gst::Pad, per_mille: u64) -> Arc<Road> {
    let road = Arc::new(Road::default());
    let counted = road.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let n = counted.sent.fetch_add(1, Ordering::SeqCst);
        // A bijective mixer of the packet's number: a random sequence without state.
        let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        if (x ^ (x >> 31)) % 1000 < per_mille {
            counted.lost.fetch_add(1, Ordering::SeqCst);
            return gst::PadProbeReturn::Drop;
        }
        gst::PadProbeReturn::Ok
    });
    road
}

/// Reports that the camera received until there were `reports` different ones.
struct Received {
    reports: Vec<ReceiverReport>,
    /// Actual loss in transit at the end, 0 to 1.
    real: f64,
    /// SSRC of the receiver by its own session.
    receiver: u32,
    /// SSRC of the camera's stream.
    camera: u32,
}

fn drive(per_mille: u64, reports: usize) -> Received {
    gst::init().unwrap();
    let p = free_ports(3);
    // The MTU cuts raw pictures into many packets without the cost of an encoder. They leave the payloader in lists, which
    // the identity takes apart: the probe that loses packets sees single ones.
    let camera = launch(&format!(
        "rtpbin name=r rtp-profile=avpf \
         videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=30/1 ! identity name=c \
           ! rtpvrawpay mtu=500 ! identity ! r.send_rtp_sink_0 \
         r.send_rtp_src_0 ! udpsink host=127.0.0.1 port={} \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0",
        p[0], p[1], p[2]
    ));
    let caps = "application/x-rtp,media=video,encoding-name=RAW,clock-rate=90000,payload=96,sampling=YCbCr-4:2:0,\
                depth=(string)8,width=(string)64,height=(string)48";
    let server = launch(&format!(
        "rtpbin name=r rtp-profile=avpf latency=20 \
         udpsrc address=127.0.0.1 port={} caps=\"{caps}\" ! r.recv_rtp_sink_0 \
         udpsrc address=127.0.0.1 port={} ! r.recv_rtcp_sink_0 \
         r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false",
        p[0], p[1], p[2]
    ));
    let weak = server.downgrade();
    server.by_name("r").unwrap().connect_pad_added(move |_, pad| {
        let Some(server) = weak.upgrade().filter(|_| pad.name().starts_with("recv_rtp_src_")) else {
            return;
        };
        let sink = gst::ElementFactory::make("fakesink")
            .property("async", false)
            .build()
            .unwrap();
        server.add(&sink).unwrap();
        sink.sync_state_with_parent().unwrap();
        pad.link(&sink.static_pad("sink").unwrap()).unwrap();
    });
    let session = |pipeline: &gst::Pipeline| {
        let bin = pipeline.by_name("r").unwrap();
        bin.emit_by_name::<glib::Object>("get-internal-session", &[&0u32])
    };
    for session in [session(&camera), session(&server)] {
        session.set_property("rtcp-min-interval", 100_000_000u64);
        session.set_property("rtcp-fraction", 1_000_000f64);
    }
    let road = lose(
        &camera.by_name("r").unwrap().static_pad("send_rtp_src_0").unwrap(),
        per_mille,
    );
    server.set_state(gst::State::Playing).unwrap();
    camera.set_state(gst::State::Playing).unwrap();

    let mut channel = CameraChannel::default();
    assert!(channel.reports().is_empty());
    let src = camera.by_name("c").unwrap().static_pad("src").unwrap();
    wait_for("the camera to attach", || {
        channel.refresh(&src, &(Arc::new(|_: bool, _: &[u8]| ()) as _)) == 1
    });
    let mut received: Vec<ReceiverReport> = Vec::new();
    let mut stamps = HashSet::new();
    wait_for("reports", || {
        let now = channel.reports();
        assert!(now.len() <= 1, "one receiver, but {now:?}");
        for report in now {
            stamps.insert(report.stamp);
            // The same report read again has the same contents.
            match received.last() {
                Some(last) if last.stamp == report.stamp => assert_eq!(*last, report),
                _ => received.push(report),
            }
        }
        received.len() >= reports
    });
    assert_eq!(stamps.len(), received.len(), "a report came back after another one");
    let real = road.lost.load(Ordering::SeqCst) as f64 / road.sent.load(Ordering::SeqCst) as f64;
    let internal_ssrc = |pipeline| session(pipeline).property::<u32>("internal-ssrc");
    let receiver = internal_ssrc(&server);
    let sent_from = camera.by_name("r").unwrap().static_pad("send_rtp_src_0").unwrap();
    let caps = sent_from.current_caps().unwrap();
    let camera_ssrc = caps.structure(0).unwrap().get("ssrc").unwrap();
    camera.set_state(gst::State::Null).unwrap();
    server.set_state(gst::State::Null).unwrap();
    Received {
        reports: received,
        real,
        receiver,
        camera: camera_ssrc,
    }
}

#[test]
fn the_reported_loss_is_the_real_one() {
    let received = drive(200, 20);
    let (first, last) = (received.reports[2], received.reports[received.reports.len() - 1]);
    let reported = last.loss_since(&first).unwrap();
    let mean = received.reports[3..].iter().map(|r| r.fraction_lost).sum::<f64>() / (received.reports.len() - 3) as f64;
    println!(
        "real {:.3}, cumulative {reported:.3}, mean fraction {mean:.3}",
        received.real
    );
    assert!(received.real > 0.1, "the road lost {}", received.real);
    assert!(
        (reported - received.real).abs() < 0.05,
        "told {reported}, real {}",
        received.real
    );
    assert!(
        (mean - received.real).abs() < 0.06,
        "mean {mean}, real {}",
        received.real
    );
    for report in &received.reports {
        assert_eq!((report.ssrc, report.media_ssrc), (received.receiver, received.camera));
        assert!((0.0..1.0).contains(&report.fraction_lost));
        assert!((0.0..1_000.0).contains(&report.jitter_ms), "{report:?}");
    }
    // The round trip over loopback, and the threads at its ends.
    let times: Vec<f64> = received.reports.iter().filter_map(|r| r.round_trip_ms).collect();
    assert!(!times.is_empty() && times.iter().all(|&t| t < 1_000.0), "{times:?}");
}

#[test]
fn without_loss_none_is_reported() {
    let received = drive(0, 10);
    let (first, last) = (received.reports[0], received.reports[received.reports.len() - 1]);
    assert_eq!(received.real, 0.0);
    assert_eq!(last.loss_since(&first), Some(0.0));
    for report in &received.reports {
        assert_eq!(report.fraction_lost, 0.0, "{report:?}");
        assert!(report.packets_lost <= 0, "{report:?}");
    }
}
