// SPDX-License-Identifier: MPL-2.0

//! Camera and server as two pipelines in real time, joined by RTP and RTCP, or by RTP alone with a channel of their own: in
//! a still scene the camera sends fewer pictures, the server reports on all of them, and what ends this ends it at once.

mod common;

use common::*;
use gst::prelude::*;

/// Captured pictures per second: at the least rate of 5 per second every fifth is sent.
const RATE: u64 = 25;
const LONGEST: u64 = RATE / 5;

struct Live {
    camera: gst::Pipeline,
    server: gst::Pipeline,
}

impl Live {
    /// `channel`: properties of both elements' own channel, empty for RTCP.
    fn new(channel: &str, encoder: &str, infer: &str) -> Self {
        init();
        let ports = free_ports(3);
        let [rtp, down, up] = [0, 1, 2].map(|n| ports[n]);
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../gst-dds-infer/models/street_nano.onnx");
        let (sends, takes) = match channel {
            "" => (
                format!(
                    "rtp.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={down} sync=false async=false \
                     udpsrc address=127.0.0.1 port={up} ! rtp.recv_rtcp_sink_0"
                ),
                format!(
                    "udpsrc address=127.0.0.1 port={down} ! rtp.recv_rtcp_sink_0 \
                     rtp.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={up} sync=false async=false"
                ),
            ),
            _ => Default::default(),
        };
        let camera = launch(&format!(
            "rtpbin name=rtp videotestsrc is-live=true pattern=checkers-8 \
             ! video/x-raw,format=I420,width=320,height=240,framerate={RATE}/1 \
             ! ddsencode name=encoder threads=1 key-int-max=250 feedback-timeout=1000 {channel} {encoder} ! video/x-h264,stream-format=byte-stream \
             ! rtph264pay config-interval=-1 aggregate-mode=zero-latency ! rtp.send_rtp_sink_0 \
             rtp.send_rtp_src_0 ! udpsink host=127.0.0.1 port={rtp} sync=false async=false {sends}"
        ));
        let server = launch(&format!(
            "rtpbin name=rtp latency=200 udpsrc address=127.0.0.1 port={rtp} \
             caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96 ! rtp.recv_rtp_sink_0 {takes} \
             rtp. ! rtph264depay ! h264parse ! avdec_h264 max-threads=1 \
             ! ddsinfer name=infer threads=1 model-file={model} results-rate=captured {channel} {infer} \
             ! fakesink async=false infer.results ! appsink name=results sync=false async=false"
        ));
        for pipeline in [&server, &camera] {
            pipeline.set_state(gst::State::Playing).unwrap();
        }
        Self { camera, server }
    }

    fn camera(&self, name: &str) -> u64 {
        count(&self.camera, "encoder", name)
    }

    fn server(&self, name: &str) -> u64 {
        count(&self.server, "infer", name)
    }

    /// Frame numbers of so many results, and whether they are predicted.
    fn results(&self, many: usize) -> Vec<(u64, bool)> {
        let results = self
            .server
            .by_name("results")
            .and_downcast::<gst_app::AppSink>()
            .unwrap();
        let read = |_| {
            let sample = results
                .try_pull_sample(gst::ClockTime::from_seconds(20))
                .expect("a result");
            let line = sample.buffer().unwrap().map_readable().unwrap();
            let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
            (
                line["frame"].as_u64().unwrap_or_else(|| panic!("{line}")),
                line["predicted"] == true,
            )
        };
        (0..many).map(read).collect()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.camera.set_state(gst::State::Null);
        let _ = self.server.set_state(gst::State::Null);
    }
}

/// A number of an element's `stats`.
fn count(pipeline: &gst::Pipeline, element: &str, name: &str) -> u64 {
    let stats: gst::Structure = pipeline.by_name(element).unwrap().property("stats");
    let value = stats.value(name).unwrap();
    let wide = value.get::<u64>().or_else(|_| value.get::<u32>().map(u64::from));
    wide.unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn own_channel() -> String {
    let port = free_ports(1)[0];
    format!("feedback-uri=udp://127.0.0.1:{port} feedback-key=\"a key of the tests\"")
}

#[test]
fn a_still_scene_takes_a_fifth_of_the_pictures_and_has_results_for_all() {
    for channel in [String::new(), own_channel()] {
        let live = Live::new(&channel, "", "");
        wait_for("the least rate", || live.camera("sent-interval") == LONGEST);
        let (sent, captured) = (live.camera("frames"), live.camera("next-frame"));
        // Those of before the rate fell.
        live.results(live.server("frames-inferred") as usize);
        wait_for("five seconds of it", || {
            live.camera("next-frame") >= captured + 5 * RATE
        });
        let (sent, captured) = (live.camera("frames") - sent, live.camera("next-frame") - captured);
        assert!(sent * 4 <= captured, "{sent} of {captured} pictures sent: {channel}");
        let results = live.results(3 * RATE as usize);
        let numbers: Vec<u64> = results.iter().map(|(frame, _)| *frame).collect();
        assert!(
            numbers.is_sorted_by(|a, b| a + 1 == *b),
            "one for each captured picture: {numbers:?}"
        );
        let predicted = results.iter().filter(|(_, predicted)| *predicted).count();
        assert!(predicted * 2 > results.len(), "{results:?}");
        assert_eq!(
            live.server("frames-damaged"),
            0,
            "a picture that was not sent is no loss"
        );
    }
}

#[test]
fn who_wants_every_picture_gets_it() {
    let live = Live::new("", "", "");
    wait_for("the least rate", || live.camera("sent-interval") == LONGEST);
    let (camera, server) = (
        live.camera.by_name("encoder").unwrap(),
        live.server.by_name("infer").unwrap(),
    );
    server.set_property("feedback-rate", false);
    wait_for("full rate for the server", || live.camera("sent-interval") == 1);
    server.set_property("feedback-rate", true);
    wait_for("the least rate again", || live.camera("sent-interval") == LONGEST);
    camera.set_property("viewer-framerate", gst::Fraction::new(12, 1));
    wait_for("the rate of viewers", || live.camera("sent-interval") == 2);
    camera.set_property("viewer-framerate", gst::Fraction::new(0, 1));
    wait_for("the least rate once more", || live.camera("sent-interval") == LONGEST);
    live.server.set_state(gst::State::Null).unwrap();
    wait_for("full rate without a server", || live.camera("sent-interval") == 1);
    let before = (live.camera("frames"), live.camera("next-frame"));
    wait_for("two seconds of it", || live.camera("next-frame") >= before.1 + 2 * RATE);
    assert_eq!(live.camera("frames") - before.0, live.camera("next-frame") - before.1);
}

#[test]
fn a_camera_that_obeys_no_wishes_sends_every_picture() {
    let live = Live::new("", "server-rate=false", "");
    wait_for("feedback", || live.camera("frames-steered") > 3 * RATE);
    assert_eq!((live.camera("frames-skipped"), live.camera("wishes")), (0, 0));
}
