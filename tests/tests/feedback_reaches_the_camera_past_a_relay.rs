// SPDX-License-Identifier: MPL-2.0

//! Camera and server are joined by H.264 alone, as behind a relay that drops RTCP; feedback comes by `feedback-uri`.
//! It steers by UDP and TCP whoever dials; another key leaves the camera in fallback and is told; what was recorded is
//! refused after a restart, and a server that was restarted is heard again.

mod common;

use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use common::*;
use gst::prelude::*;

const KEY: &str = "a key of the tests";

/// Threads are counted, so that tests must not see each other's.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    init();
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn port() -> u16 {
    free_ports(1)[0]
}

/// Passes access units on, to whichever server there is, and nothing back.
#[derive(Clone, Default)]
struct Relay(Arc<Mutex<Option<gst_app::AppSrc>>>);

struct Camera {
    pipeline: gst::Pipeline,
    relay: Relay,
}

impl Camera {
    fn new(channel: &str) -> Self {
        let pipeline = launch(&format!(
            "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
             ! ddsencode name=e threads=1 key-int-max=10 feedback-timeout=500 {channel} \
             ! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=relay sync=false"
        ));
        let relay = Relay::default();
        let to = relay.clone();
        let sink = pipeline
            .by_name("relay")
            .unwrap()
            .downcast::<gst_app::AppSink>()
            .unwrap();
        let pass = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            if let Some(server) = &*to.0.lock().unwrap() {
                let _ = server.push_sample(&sample);
            }
            Ok(gst::FlowSuccess::Ok)
        };
        sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(pass).build());
        pipeline.set_property("auto-flush-bus", false);
        pipeline.set_state(gst::State::Playing).unwrap();
        Self { pipeline, relay }
    }

    fn count(&self, name: &str) -> u64 {
        count(&self.pipeline, "e", name)
    }

    /// Waits for steered frames beyond those there were.
    fn is_steered(&self) {
        let before = self.count("frames-steered");
        wait_for("steered frames", || self.count("frames-steered") > before + 5);
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.relay.0.lock().unwrap().take();
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

struct Server {
    pipeline: gst::Pipeline,
    relay: Relay,
}

impl Server {
    fn new(camera: &Camera, channel: &str) -> Self {
        Self::with(camera, channel, "")
    }

    fn with(camera: &Camera, channel: &str, more: &str) -> Self {
        let pipeline = launch(&format!(
            "appsrc name=relay is-live=true format=time \
             caps=video/x-h264,stream-format=byte-stream,alignment=au,width=160,height=128,framerate=30/1 \
             ! h264parse ! avdec_h264 max-threads=1 ! ddsinfer name=i {channel} ! fakesink sync=false {more}"
        ));
        let source = pipeline
            .by_name("relay")
            .unwrap()
            .downcast::<gst_app::AppSrc>()
            .unwrap();
        pipeline.set_property("auto-flush-bus", false);
        pipeline.set_state(gst::State::Playing).unwrap();
        *camera.relay.0.lock().unwrap() = Some(source);
        let relay = camera.relay.clone();
        Self { pipeline, relay }
    }

    fn count(&self, name: &str) -> u64 {
        count(&self.pipeline, "i", name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.relay.0.lock().unwrap().take();
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

fn count(pipeline: &gst::Pipeline, element: &str, name: &str) -> u64 {
    let stats = pipeline.by_name(element).unwrap().property::<gst::Structure>("stats");
    stats.get::<u64>(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Warnings, and names of element messages, on the bus so far.
fn told(pipeline: &gst::Pipeline) -> (Vec<String>, Vec<String>) {
    let bus = pipeline.bus().unwrap();
    let (mut warnings, mut names) = (Vec::new(), Vec::new());
    while let Some(message) = bus.pop() {
        match message.view() {
            gst::MessageView::Warning(warning) => warnings.push(warning.error().to_string()),
            gst::MessageView::Element(element) => names.extend(element.structure().map(|s| s.name().to_string())),
            _ => (),
        }
    }
    (warnings, names)
}

/// Threads of channels in this process.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.starts_with("dds-feedback"))
        .count()
}

fn sealed(uri: &str) -> String {
    format!("feedback-uri={uri} feedback-key=\"{KEY}\"")
}

#[test]
fn it_steers_by_udp_and_tcp_whoever_dials() {
    let _alone = alone();
    for scheme in ["udp", "tcp"] {
        for (camera_mode, server_mode) in [("listener", "caller"), ("caller", "listener")] {
            let address = format!("{scheme}://127.0.0.1:{}", port());
            let camera = Camera::new(&sealed(&format!("{address}?mode={camera_mode}")));
            let server = Server::new(&camera, &sealed(&format!("{address}?mode={server_mode}")));
            camera.is_steered();
            assert!(camera.count("feedback-packets-uri") > 0 && camera.count("generations-applied") > 0);
            assert!(camera.count("feedback-uri-received") > 0 && camera.count("feedback-uri-peers") == 1);
            assert!(server.count("feedback-uri") > 0 && server.count("feedback-uri-sent") > 0);
            assert_eq!(
                camera.count("feedback-packets-rtcp") + camera.count("feedback-packets-event"),
                0
            );
            for refused in ["tag", "session", "replay", "malformed"] {
                let name = format!("feedback-uri-rejected-{refused}");
                assert_eq!((camera.count(&name), server.count(&name)), (0, 0), "{address}: {name}");
            }
            // READY is enough to end the channel; what it did can still be read.
            camera.pipeline.set_state(gst::State::Ready).unwrap();
            server.pipeline.set_state(gst::State::Ready).unwrap();
            assert_eq!(threads(), 0);
            assert!(camera.count("feedback-uri-received") > 0 && server.count("feedback-uri-sent") > 0);
        }
    }
}

#[test]
fn another_key_is_refused_told_and_leaves_the_camera_in_fallback() {
    let _alone = alone();
    for scheme in ["udp", "tcp"] {
        let address = format!("{scheme}://127.0.0.1:{}", port());
        let camera = Camera::new(&sealed(&address));
        let server = Server::new(
            &camera,
            &format!("feedback-uri={address} feedback-key=\"another key altogether\""),
        );
        wait_for("the refusal", || camera.count("feedback-uri-rejected-tag") > 0);
        wait_for("fallback", || camera.count("frames-fallback") > 20);
        wait_for("feedback that nobody took", || server.count("feedback-unsent") > 0);
        assert_eq!(
            (camera.count("frames-steered"), camera.count("feedback-packets")),
            (0, 0)
        );
        let (warnings, messages) = told(&camera.pipeline);
        assert!(
            warnings.len() == 1 && warnings[0].contains("another key"),
            "{warnings:?}"
        );
        assert_eq!(messages, ["ddsencode-feedback-lost"]);
    }
}

#[test]
fn what_was_recorded_steers_nothing_after_a_restart_and_a_restarted_server_does() {
    let _alone = alone();
    let camera_port = port();
    let channel = sealed(&format!("udp://127.0.0.1:{camera_port}"));
    // The same stream again, so that nothing but the seal keeps the old packets out.
    let restartable = format!("{channel} stream-id=7");
    let camera = Camera::new(&restartable);

    // Somebody on the wire.
    let front = UdpSocket::bind("127.0.0.1:0").unwrap();
    let back = UdpSocket::bind("127.0.0.1:0").unwrap();
    for socket in [&front, &back] {
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    }
    let wire_port = front.local_addr().unwrap().port();
    let recorded = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let keep = recorded.clone();
    let wire = std::thread::spawn(move || {
        let (mut buffer, mut server) = ([0; 2000], None);
        while Arc::strong_count(&keep) > 1 {
            if let Ok((length, from)) = front.recv_from(&mut buffer) {
                server = Some(from);
                keep.lock().unwrap().push(buffer[..length].to_vec());
                back.send_to(&buffer[..length], ("127.0.0.1", camera_port)).unwrap();
            }
            if let (Ok((length, _)), Some(server)) = (back.recv_from(&mut buffer), server) {
                front.send_to(&buffer[..length], server).unwrap();
            }
        }
    });
    let server = Server::new(&camera, &sealed(&format!("udp://127.0.0.1:{wire_port}")));
    camera.is_steered();
    drop((server, camera));
    let messages = std::mem::take(&mut *recorded.lock().unwrap());
    drop(recorded);
    wire.join().unwrap();

    let camera = Camera::new(&restartable);
    wait_for("frames", || camera.count("frames-coded") > 30);
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    for message in &messages {
        attacker.send_to(message, ("127.0.0.1", camera_port)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let sealed_ones = messages.iter().filter(|m| m[3] == 3).count() as u64;
    assert!(sealed_ones > 5);
    wait_for("the refusals", || {
        camera.count("feedback-uri-rejected-session") >= sealed_ones
    });
    assert_eq!(
        (camera.count("feedback-packets"), camera.count("frames-steered")),
        (0, 0)
    );

    for _ in 0..2 {
        let server = Server::new(&camera, &channel);
        camera.is_steered();
        drop(server);
        let lost = camera.count("feedback-lost");
        wait_for("the silence to be noticed", || camera.count("feedback-lost") > lost);
    }
}

#[test]
fn many_starts_and_stops_leave_no_thread_and_no_port_behind() {
    let _alone = alone();
    let address = format!("tcp://127.0.0.1:{}", port());
    for _ in 0..20 {
        let camera = Camera::new(&sealed(&address));
        drop(Server::new(&camera, &sealed(&address)));
        drop(camera);
        assert_eq!(threads(), 0);
    }
    let camera = Camera::new(&sealed(&address));
    let _server = Server::new(&camera, &sealed(&address));
    camera.is_steered();
}

#[test]
fn beside_another_way_each_packet_counts_once() {
    let _alone = alone();
    let address = format!("udp://127.0.0.1:{}", port());
    let pads = port();
    let channel = sealed(&address);
    let camera = Camera::new(&channel);
    // A pad that the application has linked stays open beside a key.
    let feedback = gst::parse::bin_from_description(&format!("udpsrc port={pads} ! identity"), true).unwrap();
    camera.pipeline.add(&feedback).unwrap();
    let pad = camera
        .pipeline
        .by_name("e")
        .unwrap()
        .request_pad_simple("feedback")
        .unwrap();
    feedback.static_pad("src").unwrap().link(&pad).unwrap();
    feedback.sync_state_with_parent().unwrap();
    let more = format!("i.feedback ! udpsink host=127.0.0.1 port={pads} sync=false async=false");
    let server = Server::with(&camera, &channel, &more);
    camera.is_steered();
    wait_for("both ways", || {
        camera.count("feedback-packets-pad") > 30 && camera.count("feedback-packets-uri") > 30
    });
    // What both have brought was news by one of them, whichever was first; each is alive by itself.
    let (complete, again) = (camera.count("feedback-complete"), camera.count("feedback-duplicate"));
    let ways = camera.count("feedback-packets-pad") + camera.count("feedback-packets-uri");
    assert!(
        again > 20 && complete < ways * 2 / 3,
        "{complete} and {again} of {ways}"
    );
    for name in ["feedback-rate-limited", "feedback-stale", "feedback-way-closed"] {
        assert_eq!(camera.count(name), 0, "{name}");
    }
    assert!(server.count("feedback-pad") > 0 && server.count("feedback-uri") > 0);
}

#[test]
fn a_key_file_that_others_may_read_is_told_on_the_bus_and_on_standard_error() {
    use std::os::unix::fs::PermissionsExt;

    let _alone = alone();
    let path = scratch("exposed-key").join("dds.key");
    std::fs::write(&path, "sixteen bytes and more").unwrap();
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = said.clone();
    // What GLib writes to standard error otherwise.
    let handler = glib::log_set_handler(
        Some("ddslink"),
        glib::LogLevels::LEVEL_WARNING,
        false,
        false,
        move |_, _, words| heard.lock().unwrap().push(words.to_string()),
    );
    let path = path.to_str().unwrap();
    for element in ["ddsencode", "ddsinfer"] {
        for (mode, exposed) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            let settings = format!("feedback-uri=udp://127.0.0.1:{} feedback-key-file={path}", port());
            let pipeline = launch(&format!(
                "videotestsrc ! {element} name=of-{element} {settings} ! fakesink"
            ));
            let it = pipeline.by_name(&format!("of-{element}")).unwrap();
            it.set_state(gst::State::Paused).unwrap();
            let message = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Warning]);
            pipeline.set_state(gst::State::Null).unwrap();
            let on_bus = message.as_ref().and_then(|message| match message.view() {
                gst::MessageView::Warning(warning) => Some(warning.error().to_string()),
                _ => None,
            });
            let on_stderr = said.lock().unwrap().drain(..).next();
            for words in [on_bus, on_stderr] {
                let cure = words
                    .as_ref()
                    .map(|words| words.ends_with(&format!("chmod o-rwx {path}")));
                assert_eq!(cure, exposed.then_some(true), "{element} {mode:o}: {words:?}");
            }
        }
    }
    glib::log_remove_handler(Some("ddslink"), handler);
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let _alone = alone();
    for element in ["ddsencode", "ddsinfer"] {
        for (settings, word) in [
            ("feedback-uri=http://host:1", "feedback-uri"),
            ("feedback-uri=udp://camera.example:5006", "feedback-key"),
            (
                "feedback-uri=udp://camera.example:5006 feedback-key=short",
                "feedback-key",
            ),
            ("feedback-key=\"sixteen bytes ...\"", "feedback-uri"),
            (
                "feedback-uri=udp://127.0.0.1:5006 feedback-key-file=/nowhere",
                "feedback-key-file",
            ),
            (
                "feedback-uri=udp://127.0.0.1:5006 feedback-plain=true feedback-key=\"sixteen bytes ...\"",
                "feedback-plain",
            ),
            (
                "feedback-uri=tcp://192.0.2.1:5006?mode=listener feedback-key=\"sixteen bytes ...\"",
                "listened",
            ),
        ] {
            let pipeline = launch(&format!("videotestsrc ! {element} name=e {settings} ! fakesink"));
            let refused = pipeline.by_name("e").unwrap().set_state(gst::State::Paused);
            let message = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
            pipeline.set_state(gst::State::Null).unwrap();
            assert!(refused.is_err(), "{element} {settings} started");
            let message = message.unwrap_or_else(|| panic!("{element} {settings}: no message"));
            let gst::MessageView::Error(error) = message.view() else {
                unreachable!()
            };
            let text = format!("{} {:?}", error.error(), error.debug());
            assert!(text.contains(word), "{element} {settings}: {text}");
        }
        // The key cannot be read back, so that no saved preset and no graph of the pipeline shows it.
        let element = gst::ElementFactory::make(element).build().unwrap();
        let key = element.find_property("feedback-key").unwrap();
        assert_eq!(key.flags() & glib::ParamFlags::READWRITE, glib::ParamFlags::WRITABLE);
    }
}

/// UDP sockets that have to do with a port: bound to it, or connected to it.
fn sockets_of(port: u16) -> Vec<dds_tests::sockets::Socket> {
    let of_it = |s: &dds_tests::sockets::Socket| s.local.port() == port || s.remote.port() == port;
    dds_tests::sockets::udp().into_iter().filter(of_it).collect()
}

#[test]
fn a_caller_hears_nobody_but_whom_it_calls() {
    let _alone = alone();
    for (host, other) in [
        ("127.0.0.1", "127.0.0.1:0"),
        ("localhost", "127.0.0.2:0"),
        ("[::1]", "[::1]:0"),
    ] {
        let (Ok(server), Ok(stranger)) = (
            UdpSocket::bind(format!("{}:0", host.replace("localhost", "127.0.0.1"))),
            UdpSocket::bind(other),
        ) else {
            continue; // A machine without IPv6.
        };
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let port = server.local_addr().unwrap().port();
        let camera = Camera::new(&format!("stream-id=7 feedback-uri=udp://{host}:{port}?mode=caller"));
        let (_, caller) = server.recv_from(&mut [0; 2048]).unwrap();
        let bound = sockets_of(caller.port());
        let [bound] = bound[..] else { panic!("{bound:?}") };
        assert_eq!(
            (bound.local, bound.remote, bound.local.ip().is_loopback()),
            (caller, server.local_addr().unwrap(), true)
        );
        let packet = |generation| {
            let state = dds_protocol::feedback::FeedbackState {
                stream_id: 7,
                generation: dds_protocol::serial::Serial16(generation),
                frame: 1,
                regions: Vec::new(),
                ..dds_protocol::feedback::FeedbackState::default()
            };
            dds_protocol::feedback::encode(&state).packets.remove(0)
        };
        wait_for("frames", || camera.count("frames-coded") > 3);
        for generation in 0..50 {
            // The system may tell the stranger that nobody listens there.
            let _ = stranger.send_to(&packet(generation), caller);
        }
        for generation in 100..103 {
            server.send_to(&packet(generation), caller).unwrap();
        }
        wait_for("the server's packets", || camera.count("feedback-packets-uri") >= 3);
        assert_eq!(camera.count("feedback-uri-received"), 3, "{host}");
        assert_eq!(camera.count("feedback-uri-rejected-malformed"), 0, "{host}");
    }
}

#[test]
fn a_listener_is_bound_to_its_address_and_a_server_that_calls_is_connected() {
    let _alone = alone();
    let port = port();
    let channel = |end: &str| format!("feedback-uri=udp://127.0.0.1:{port}?mode={end}");
    let camera = Camera::new(&channel("listener"));
    let server = Server::new(&camera, &channel("caller"));
    camera.is_steered();
    let mut sockets = sockets_of(port);
    sockets.sort_by_key(|socket| socket.local.port() != port);
    let [listens, calls] = sockets[..] else {
        panic!("{sockets:?}")
    };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!((listens.local, listens.remote.port()), (address, 0));
    assert_eq!((calls.remote, calls.local.ip()), (address, address.ip()));
    drop(server);
}

/// A camera whose stream also runs through an RTP session, which hears RTCP on a port of loopback.
fn beside_rtcp(port: u16, channel: &str) -> gst::Pipeline {
    let pipeline = launch(&format!(
        "rtpbin name=r videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=128,framerate=30/1 \
         ! ddsencode name=e threads=1 key-int-max=300 option-string=scenecut=0 feedback-timeout=500 stream-id=7 {channel} \
         ! video/x-h264,stream-format=byte-stream ! rtph264pay name=pay ! r.send_rtp_sink_0 \
         r.send_rtp_src_0 ! fakesink sync=false async=false udpsrc address=127.0.0.1 port={port} ! r.recv_rtcp_sink_0"
    ));
    pipeline.set_property("auto-flush-bus", false);
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_for("the RTP session", || {
        pipeline
            .by_name("e")
            .unwrap()
            .property::<gst::Structure>("stats")
            .get::<u64>("rtp-sessions")
            .unwrap()
            == 1
    });
    pipeline
}

/// One whole generation of one region that lasts for a second.
fn generation(stream_id: u32, generation: u16, frame: u64) -> Vec<u8> {
    let region = dds_protocol::feedback::Region {
        rect: dds_protocol::feedback::Rect {
            x: 0,
            y: 0,
            width: 32,
            height: 32,
        },
        ttl_ms: 1000,
        ..Default::default()
    };
    let state = dds_protocol::feedback::FeedbackState {
        stream_id,
        generation: dds_protocol::serial::Serial16(generation),
        frame,
        regions: vec![region],
        ..dds_protocol::feedback::FeedbackState::default()
    };
    dds_protocol::feedback::encode(&state).packets.remove(0)
}

/// Sends RTCP with feedback for a stream at a rate, until it is told to end; returns how many it sent.
fn flood(to: u16, per_second: u32, stream_id: u32, ends: &std::sync::atomic::AtomicBool) -> u64 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let begun = std::time::Instant::now();
    let mut sent = 0;
    while !ends.load(std::sync::atomic::Ordering::Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        for n in sent..due {
            let packet = generation(stream_id, n as u16, 0);
            let _ = socket.send_to(&dds_protocol::rtcp::compound(666, &packet), ("127.0.0.1", to));
        }
        sent = due;
        std::thread::sleep(Duration::from_millis(2));
    }
    sent
}

#[test]
fn a_flood_of_rtcp_takes_nothing_from_the_sealed_channel() {
    let _alone = alone();
    // Of another stream; of this one, where the way is closed; and where the user has opened it.
    for (stream, ways) in [(99, ""), (7, ""), (7, "feedback-ways=auto+rtcp")] {
        let (rtcp, own) = (port(), format!("udp://127.0.0.1:{}", port()));
        let camera = beside_rtcp(rtcp, &format!("feedback-uri={own} feedback-key=\"{KEY}\" {ways}"));
        let setup = gst_dds_link::channel::Setup {
            uri: own,
            key: KEY.into(),
            ..Default::default()
        };
        let server = gst_dds_link::channel::ServerEnd::open(&setup, Arc::new(|_| ()));
        let server = server.unwrap().unwrap();
        wait_for("the channel", || server.send(&[]));
        let ends = std::sync::atomic::AtomicBool::new(false);
        let (sent, flooded) = std::thread::scope(|scope| {
            let floods = scope.spawn(|| flood(rtcp, 10_000, stream, &ends));
            let mut sent = 0;
            let end = count(&camera, "e", "frames-coded") + 45;
            while count(&camera, "e", "frames-coded") < end {
                sent += 1;
                server.send(&[generation(7, sent, 1)]);
                std::thread::sleep(Duration::from_millis(33));
            }
            ends.store(true, std::sync::atomic::Ordering::Relaxed);
            (u64::from(sent), floods.join().unwrap())
        });
        camera.set_state(gst::State::Null).unwrap();
        // The last ones may have been on their way.
        let of = |name: &str| count(&camera, "e", name);
        let taken = of("feedback-packets-uri");
        assert!(taken + 3 >= sent, "{stream} {ways}: {taken} of {sent}");
        let heard = of("feedback-packets-rtcp");
        assert!(flooded > 3000 && heard > 1000, "{heard} of {flooded}");
        if ways.is_empty() {
            assert!(of("generations-applied") + of("generations-superseded") + 3 >= sent);
            let turned_away = of("feedback-foreign") + of("feedback-way-closed");
            assert_eq!((turned_away, of("feedback-inbox-full")), (heard, 0));
            assert_eq!((of("feedback-rate-limited"), of("feedback-stale")), (0, 0));
        }
    }
}

#[test]
fn with_a_key_rtcp_in_the_clear_asks_for_key_frames_and_for_nothing_else() {
    let _alone = alone();
    for (ways, taken) in [
        ("", false),
        ("feedback-ways=auto+rtcp", true),
        ("feedback-ways=uri+srtcp", false),
    ] {
        let (rtcp, own) = (port(), format!("udp://127.0.0.1:{}", port()));
        let camera = beside_rtcp(rtcp, &format!("feedback-uri={own} feedback-key=\"{KEY}\" {ways}"));
        let ends = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| flood(rtcp, 20, 7, &ends));
            wait_for("packets", || count(&camera, "e", "feedback-packets-rtcp") >= 10);
            ends.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        if taken {
            wait_for("regions", || count(&camera, "e", "regions-applied") > 0);
        } else {
            assert_eq!(count(&camera, "e", "generations-applied"), 0, "{ways}");
        }
        assert_eq!(count(&camera, "e", "feedback-way-closed") >= 10, !taken, "{ways}");
        // Told once, with the setting.
        let mut told = Vec::new();
        while let Some(message) = camera.bus().unwrap().pop_filtered(&[gst::MessageType::Info]) {
            if let gst::MessageView::Info(info) = message.view() {
                told.push(info.error().to_string());
            }
        }
        assert_eq!(told.len(), usize::from(!taken), "{told:?}");
        let word = if ways.is_empty() {
            "feedback-ways=auto+rtcp"
        } else {
            "Add rtcp to feedback-ways"
        };
        assert!(told.iter().all(|text| text.contains(word)), "{told:?}");

        // A picture loss indication (RFC 4585, section 6.3.1) is no feedback of ours.
        let before = count(&camera, "e", "frames-idr");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let payloader = camera.by_name("pay").unwrap();
        let ssrc = payloader
            .property::<gst::Structure>("stats")
            .get::<u32>("ssrc")
            .unwrap();
        let report = [0x80, 201, 0, 1, 0, 0, 2, 154];
        let pli = [&report[..], &[0x81, 206, 0, 2, 0, 0, 2, 154], &ssrc.to_be_bytes()].concat();
        wait_for("a key frame", || {
            socket.send_to(&pli, ("127.0.0.1", rtcp)).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            count(&camera, "e", "frames-idr") > before
        });
        camera.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn ways_that_contradict_the_channel_are_refused_by_name() {
    let _alone = alone();
    let line = "videotestsrc ! ddsencode name=e feedback-uri=udp://127.0.0.1:5006 feedback-ways=pad+rtcp ! fakesink";
    let pipeline = launch(line);
    let refused = pipeline.by_name("e").unwrap().set_state(gst::State::Paused);
    let message = pipeline
        .bus()
        .unwrap()
        .pop_filtered(&[gst::MessageType::Error])
        .expect("an error");
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(refused.is_err());
    let gst::MessageView::Error(error) = message.view() else {
        unreachable!()
    };
    assert!(format!("{:?}", error.debug()).contains("feedback-ways"), "{error:?}");
}
