// SPDX-License-Identifier: MPL-2.0

//! Two cameras, one of them with sound, in one server pipeline: each is steered by its own branch alone.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Camera, PATIENCE, assert_one_healthy_encoder, see_something_undecided, steered};
use dds_tests::launch;
use gst::prelude::*;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::{RTSPMediaFactory, RTSPServer};

/// An RTP session of a camera, and the APP packets that came to it.
type Session = (gst::Element, Arc<AtomicU64>);

/// A camera with sound, as somebody else would build it of `ddsencode`.
struct WithSound {
    main: glib::MainLoop,
    thread: Option<thread::JoinHandle<()>>,
    port: u16,
    encoder: Arc<Mutex<Option<gst::Element>>>,
    sessions: Arc<Mutex<Vec<Session>>>,
}

impl WithSound {
    fn start() -> Self {
        let factory = RTSPMediaFactory::new();
        factory.set_shared(true);
        factory.set_launch(
            "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=20/1 \
             ! ddsencode name=encoder key-int-max=40 ! video/x-h264,stream-format=byte-stream ! rtph264pay name=pay0 pt=96 \
             audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! rtppcmupay name=pay1 )",
        );
        let (encoder, sessions) = (Arc::default(), Arc::<Mutex<Vec<Session>>>::default());
        let (found, seen) = (Arc::<Mutex<_>>::clone(&encoder), sessions.clone());
        factory.connect_media_configure(move |_, media| {
            let element = media.element();
            *found.lock().unwrap() = element.downcast_ref::<gst::Bin>().unwrap().by_name("encoder");
            let seen = seen.clone();
            let top = element.parent().and_downcast::<gst::Bin>().unwrap();
            top.connect_deep_element_added(move |_, _, element| {
                if element.factory().is_some_and(|f| f.name() == "rtpsession") {
                    let session = element.property::<glib::Object>("internal-session");
                    let count = Arc::new(AtomicU64::new(0));
                    seen.lock().unwrap().push((element.clone(), count.clone()));
                    session.connect("on-app-rtcp", false, move |_| {
                        count.fetch_add(1, Ordering::SeqCst);
                        None
                    });
                }
            });
        });
        let server = RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service("0");
        server.mount_points().unwrap().add_factory("/camera", factory);
        let context = glib::MainContext::new();
        let source = server.attach(Some(&context)).unwrap();
        let main = glib::MainLoop::new(Some(&context), false);
        let port = server.bound_port() as u16;
        let running = main.clone();
        let thread = thread::spawn(move || {
            running.run();
            if let Some(source) = context.find_source_by_id(&source) {
                source.destroy();
            }
            drop(server);
        });
        Self {
            main,
            thread: Some(thread),
            port,
            encoder,
            sessions,
        }
    }

    fn stat(&self, name: &str) -> u64 {
        let encoder = self.encoder.lock().unwrap().clone();
        encoder.map_or(0, |e| e.property::<gst::Structure>("stats").get(name).unwrap())
    }
}

impl Drop for WithSound {
    fn drop(&mut self) {
        self.main.quit();
        let _ = self.thread.take().unwrap().join();
    }
}

#[test]
fn two_cameras_and_a_sound_track_in_one_server_do_not_mix() {
    dds_tests::init().unwrap();
    for protocol in ["udp", "tcp"] {
        let (silent, sound) = (Camera::pattern(&[]), WithSound::start());
        let branch = |n: u32| {
            format!(
                "rtph264depay ! h264parse ! avdec_h264 max-threads=1 ! identity name=detector{n} ! ddsinfer name=infer{n} \
                 ! fakesink async=false"
            )
        };
        let server = launch(&format!(
            "rtspsrc location=rtsp://127.0.0.1:{}/camera latency=50 protocols={protocol} name=sound \
             sound. ! application/x-rtp,media=audio ! rtppcmudepay ! mulawdec ! fakesink async=false name=heard \
             sound. ! application/x-rtp,media=video ! {} \
             rtspsrc location={} latency=50 protocols={protocol} ! {}",
            sound.port,
            branch(1),
            silent.url(),
            branch(2)
        ))
        .unwrap();
        see_something_undecided(&server.by_name("detector1").unwrap(), 32);
        see_something_undecided(&server.by_name("detector2").unwrap(), 192);
        let heard = Arc::new(AtomicU64::new(0));
        let count = heard.clone();
        let pad = server.by_name("heard").unwrap().static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            gst::PadProbeReturn::Ok
        });
        server.set_state(gst::State::Playing).unwrap();

        let report = silent.wait_for("steered frames", steered);
        assert_one_healthy_encoder(&report);
        assert_eq!(report["receivers"].as_array().map(Vec::len), Some(1), "{report}");
        let until = Instant::now() + PATIENCE;
        while sound.stat("frames-steered") < 20 || heard.load(Ordering::SeqCst) < 20 {
            assert!(
                Instant::now() < until,
                "{protocol}: {:?}",
                sound.stat("feedback-packets")
            );
            thread::sleep(Duration::from_millis(20));
        }
        let told = sound.stat("feedback-packets-rtcp");
        assert!(told >= 20, "{told}");
        for name in ["feedback-malformed", "feedback-foreign", "feedback-stale"] {
            assert_eq!(sound.stat(name), 0, "{name}");
        }
        let sessions = sound.sessions.lock().unwrap().clone();
        let packets = |media: &str| -> u64 {
            let of_media = |element: &gst::Element| {
                let caps = element.static_pad("send_rtp_sink").and_then(|pad| pad.current_caps());
                caps.is_some_and(|caps| caps.structure(0).is_some_and(|s| s.get::<&str>("media") == Ok(media)))
            };
            let mut counts = sessions.iter().filter(|(element, _)| of_media(element));
            counts.next().expect(media).1.load(Ordering::SeqCst)
        };
        assert!(packets("video") >= told, "{protocol}");
        assert_eq!(packets("audio"), 0, "{protocol}");
        drop(sessions);
        server.set_state(gst::State::Null).unwrap();
    }
}
