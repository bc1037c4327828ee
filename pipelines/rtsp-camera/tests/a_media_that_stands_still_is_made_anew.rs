// SPDX-License-Identifier: MPL-2.0

//! The camera's library, with a media that is blocked while somebody watches it.

mod common;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Server};
use dds_rtsp_camera::camera::Camera;
use dds_rtsp_camera::encoder::Recipe;
use dds_rtsp_camera::options;
use dds_rtsp_camera::server;
use dds_rtsp_camera::source::Source;
use gst::prelude::*;
use gst_rtsp_server::prelude::*;
use serde_json::Value;

fn wait_for(camera: &Camera, what: &str, done: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let report = camera.report();
        if done(&report) {
            return report;
        }
        assert!(Instant::now() < until, "timed out waiting for {what}: {report}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn clients_of_a_media_that_stands_still_get_another_one_and_its_state_is_told() {
    dds_tests::init().unwrap();
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = said.clone();
    gst::log::set_threshold_for_name("ddsrtspcamera", gst::DebugLevel::Error);
    gst::log::add_log_function(move |category, _, _, _, _, _, message| {
        if category.name() == "ddsrtspcamera" {
            heard
                .lock()
                .unwrap()
                .push(message.get().unwrap_or_default().to_string());
        }
    });
    let line = "test:ball --size 320x240 --rate 20 --address 127.0.0.1 --port 0 --encoder speed-preset=ultrafast";
    let args = line.split_whitespace().map(String::from);
    let options = options::parse(args, |_| Ok(None), |_| unreachable!()).unwrap().unwrap();
    let recipe = Recipe::read(&options).unwrap();
    let source = Source::open(&options, recipe.formats, |error| panic!("{error}")).unwrap();
    let encoder = recipe.open(source.caps()).unwrap();
    let camera = Camera::new(source, &options, &recipe);
    let (server, listener) = server::listen(&options, &encoder, &camera).unwrap();
    let main = glib::MainLoop::new(None, false);
    let running = main.clone();
    let serving = thread::spawn(move || running.run());

    let url = format!("location=rtsp://127.0.0.1:{}/camera latency=50", server.bound_port());
    let frames = |report: &Value| report["encoder"]["frames"].as_u64().unwrap_or(0);
    let first = Server::watch(&url, 32);
    // A client that only waits for its turn does not play: what comes in meanwhile need not be coded.
    let report = wait_for(&camera, "frames", |r| frames(r) > 60);
    assert_eq!(
        (&report["media"], &report["media_rebuilt"]),
        (&1.into(), &0.into()),
        "{report}"
    );

    // As if a branch behind it took nothing any more.
    let pad = camera.encoder().unwrap().static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, |_, _| gst::PadProbeReturn::Ok);
    wait_for(&camera, "the verdict", |r| r["media_rebuilt"] == 1);
    let words = said.lock().unwrap().join("\n");
    assert!(
        words.contains("none was coded") && words.contains("dds_encoder (src blocked"),
        "{words}"
    );
    assert!(words.contains("dds_input (2 waiting"), "{words}");
    assert!(words.contains("thread dds_input:src S"), "{words}");
    // Whoever watches by UDP is told that it is over, and need not wait until it loses patience.
    let wait = gst::ClockTime::from_nseconds(PATIENCE.as_nanos() as u64);
    let over = [gst::MessageType::Eos, gst::MessageType::Error];
    let began = Instant::now();
    assert!(first.0.bus().unwrap().timed_pop_filtered(wait, &over).is_some());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());

    // Who comes back, or comes now, is served.
    let second = Server::watch(&url, 32);
    let report = wait_for(&camera, "frames of another media", |r| {
        r["media"] == 2 && frames(r) > 40
    });
    assert_eq!(&report["media_rebuilt"], &Value::from(1), "{report}");
    drop((first, second));
    listener.remove();
    main.quit();
    serving.join().unwrap();
}
