// SPDX-License-Identifier: MPL-2.0

//! The own channel over real sockets: either end listening or dialling, over UDP and TCP, with a key and without;
//! messages of another key and replays are refused; either end may be restarted; and no thread is left over.

mod common;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::wait_for;
use dds_protocol::feedback::{self, FeedbackState};
use dds_protocol::serial::Serial16;
use gst_dds_link::channel::{CameraEnd, Counts, Notice, ServerEnd, Setup};

const KEY: &str = "hex:000102030405060708090a0b0c0d0e0f";
const OTHER_KEY: &str = "somebody else's key";

/// Tests that count threads must not see each other's.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    gst::init().unwrap();
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn setup(uri: impl Into<String>, key: &str) -> Setup {
    Setup {
        uri: uri.into(),
        key: key.into(),
        ..Setup::default()
    }
}

fn packet(generation: u16) -> Vec<u8> {
    feedback::encode(&FeedbackState {
        stream_id: 1,
        generation: Serial16(generation),
        frame: 0,
        regions: Vec::new(),
        ..FeedbackState::default()
    })
    .packets
    .remove(0)
}

struct Camera {
    end: CameraEnd,
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl Camera {
    fn new(uri: impl Into<String>, key: &str) -> Self {
        let (packets, notices) = (
            Arc::<Mutex<Vec<Vec<u8>>>>::default(),
            Arc::<Mutex<Vec<Notice>>>::default(),
        );
        let (taken, noted) = (packets.clone(), notices.clone());
        let end = CameraEnd::open(
            &setup(uri, key),
            Arc::new(move |packet| taken.lock().unwrap().push(packet.to_vec())),
            Arc::new(move |notice| noted.lock().unwrap().push(notice)),
        );
        Self {
            end: end.unwrap().unwrap(),
            packets,
            notices,
        }
    }

    fn has(&self, packet: &Vec<u8>) -> bool {
        self.packets.lock().unwrap().contains(packet)
    }

    fn counts(&self) -> Counts {
        self.end.counters().counts()
    }
}

struct Server {
    end: ServerEnd,
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl Server {
    fn new(uri: impl Into<String>, key: &str) -> Self {
        let notices = Arc::<Mutex<Vec<Notice>>>::default();
        let noted = notices.clone();
        let end = ServerEnd::open(
            &setup(uri, key),
            Arc::new(move |notice| noted.lock().unwrap().push(notice)),
        );
        Self {
            end: end.unwrap().unwrap(),
            notices,
        }
    }

    fn counts(&self) -> Counts {
        self.end.counters().counts()
    }
}

/// Sends a packet repeatedly until the camera has received it.
fn bring(server: &Server, camera: &Camera, generation: u16) {
    let packet = packet(generation);
    wait_for("the packet", || {
        server.end.send(std::slice::from_ref(&packet));
        camera.has(&packet)
    });
}

fn port() -> u16 {
    common::free_ports(1)[0]
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

#[test]
fn packets_arrive_whoever_listens_with_a_key_and_without() {
    let _alone = alone();
    for key in [KEY, ""] {
        for scheme in ["udp", "tcp"] {
            for (camera_mode, server_mode) in [("listener", "caller"), ("caller", "listener")] {
                let address = format!("{scheme}://127.0.0.1:{}", port());
                // In either order: the dialling end starts first here.
                let (server, camera);
                if server_mode == "caller" {
                    server = Server::new(format!("{address}?mode={server_mode}"), key);
                    camera = Camera::new(format!("{address}?mode={camera_mode}"), key);
                } else {
                    camera = Camera::new(format!("{address}?mode={camera_mode}"), key);
                    server = Server::new(format!("{address}?mode={server_mode}"), key);
                }
                bring(&server, &camera, 1);
                wait_for("the counts", || server.counts().sent >= 1);
                let counts = camera.counts();
                assert!(counts.received >= 1 && counts.peers == 1, "{address}: {counts:?}");
                assert_eq!(counts.sessions > 0, !key.is_empty());
                assert!(server.end.send(&[]), "{address}: nobody there");
                let refused = counts.rejected_tag + counts.rejected_replay + counts.rejected_malformed;
                assert_eq!(refused, 0, "{address}: {counts:?}");
                let begun = Instant::now();
                drop((server, camera));
                assert!(begun.elapsed() < Duration::from_secs(2));
                assert_eq!(threads(), 0, "{address}");
            }
        }
    }
}

#[test]
fn localhost_by_name_works_and_nobody_there_is_said_once() {
    let _alone = alone();
    let port = port();
    let server = Server::new(format!("tcp://localhost:{port}"), KEY);
    wait_for("the warning", || !server.notices.lock().unwrap().is_empty());
    assert!(!server.end.send(&[packet(1)]));
    wait_for("the drop", || server.counts().dropped > 0);
    std::thread::sleep(Duration::from_secs(1));
    let notices = server.notices.lock().unwrap().clone();
    assert!(
        matches!(&notices[..], [Notice::Unreachable(uri, _)] if uri.contains("localhost")),
        "{notices:?}"
    );
    // It starts later.
    let camera = Camera::new(format!("tcp://127.0.0.1:{port}"), KEY);
    bring(&server, &camera, 2);
    assert_eq!(server.counts().connections, 1);
}

#[test]
fn several_servers_feed_one_camera() {
    let _alone = alone();
    for scheme in ["udp", "tcp"] {
        let address = format!("{scheme}://127.0.0.1:{}", port());
        let camera = Camera::new(&address, KEY);
        let servers: Vec<_> = (0..4).map(|_| Server::new(&address, KEY)).collect();
        for (n, server) in servers.iter().enumerate() {
            bring(server, &camera, n as u16);
        }
        assert_eq!(camera.counts().peers, 4);
        assert!(camera.counts().sessions >= 4);
    }
}

#[test]
fn another_key_is_refused_counted_and_told() {
    let _alone = alone();
    for scheme in ["udp", "tcp"] {
        let address = format!("{scheme}://127.0.0.1:{}", port());
        let camera = Camera::new(&address, KEY);
        let server = Server::new(&address, OTHER_KEY);
        wait_for("the refusal", || {
            server.end.send(&[packet(1)]);
            camera.counts().rejected_tag >= 2
        });
        assert!(camera.packets.lock().unwrap().is_empty());
        assert!(!server.end.send(&[packet(1)]));
        let notices = camera.notices.lock().unwrap().clone();
        assert!(matches!(&notices[..], [Notice::OtherKey(_)]), "{notices:?}");
        // The other side receives nothing, and reports so.
        wait_for("the warning", || !server.notices.lock().unwrap().is_empty());
        let notices = server.notices.lock().unwrap().clone();
        assert!(matches!(&notices[..], [Notice::Silent(_)]), "{notices:?}");
        // Only one end has a key, in either direction.
        let bare = Server::new(&address, "");
        wait_for("the other refusal", || {
            bare.end.send(&[packet(1)]);
            camera.counts().rejected_malformed > 0
        });
        wait_for("the notice", || {
            let notices = camera.notices.lock().unwrap();
            notices.iter().any(|n| matches!(n, Notice::OneKeyOnly(_)))
        });
        assert!(camera.packets.lock().unwrap().is_empty());
        // A peer with the key is received all the same.
        bring(&Server::new(&address, KEY), &camera, 2);
    }
}

/// Forwards datagrams both ways and records those to the camera.
struct Wire {
    front: u16,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Wire {
    fn new(camera: u16) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").unwrap();
        back.connect(("127.0.0.1", camera)).unwrap();
        let (port, ends) = (front.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let ending = ends.clone();
        for socket in [&front, &back] {
            socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        }
        let thread = std::thread::spawn(move || {
            let (mut buffer, mut server, mut recorded) = ([0; 2000], None, Vec::new());
            loop {
                if let Ok((length, from)) = front.recv_from(&mut buffer) {
                    server = Some(from);
                    recorded.push(buffer[..length].to_vec());
                    let _ = back.send(&buffer[..length]);
                } else if ending.load(Ordering::Relaxed) {
                    return recorded;
                }
                if let (Ok(length), Some(to)) = (back.recv(&mut buffer), server) {
                    let _ = front.send_to(&buffer[..length], to);
                }
            }
        });
        Self {
            front: port,
            ends,
            thread,
        }
    }

    /// All datagrams sent to the camera, when all have been forwarded.
    fn end(self) -> Vec<Vec<u8>> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn what_was_recorded_is_refused_at_once_and_after_a_restart() {
    let _alone = alone();
    let port = port();
    let address = format!("udp://127.0.0.1:{port}");
    let camera = Camera::new(&address, KEY);
    let wire = Wire::new(port);
    let server = Server::new(format!("udp://127.0.0.1:{}", wire.front), KEY);
    for generation in 0..20 {
        bring(&server, &camera, generation);
    }
    drop(server);
    let recorded = wire.end();
    let sealed = recorded.iter().filter(|m| m[3] == 3).count() as u64;
    assert!(sealed >= 20);
    wait_for("what was passed on", || {
        camera.packets.lock().unwrap().len() as u64 == sealed
    });
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let replay = || {
        recorded.iter().for_each(|message| {
            attacker.send_to(message, ("127.0.0.1", port)).unwrap();
            // A loopback queue is not endless.
            std::thread::sleep(Duration::from_micros(200));
        });
    };
    replay();
    wait_for("the refusals", || camera.counts().rejected_replay >= sealed);
    assert_eq!(camera.packets.lock().unwrap().len() as u64, sealed);
    drop(camera);
    let camera = Camera::new(&address, KEY);
    replay();
    wait_for("the refusals", || camera.counts().rejected_session >= sealed);
    assert!(camera.packets.lock().unwrap().is_empty());
    // A new server, and the same camera.
    let server = Server::new(&address, KEY);
    bring(&server, &camera, 100);
}

#[test]
fn a_camera_that_was_restarted_is_fed_again() {
    let _alone = alone();
    for scheme in ["udp", "tcp"] {
        let address = format!("{scheme}://127.0.0.1:{}", port());
        let server = Server::new(&address, KEY);
        let first = Camera::new(&address, KEY);
        bring(&server, &first, 1);
        drop(first);
        let second = Camera::new(&address, KEY);
        let begun = Instant::now();
        bring(&server, &second, 2);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_call_said_again_from_elsewhere_has_one_answer_and_gets_no_feedback() {
    let _alone = alone();
    let (server_port, wire_port) = (port(), port());
    let server = Server::new(format!("udp://127.0.0.1:{server_port}?mode=listener"), KEY);
    let wire = UdpSocket::bind(("127.0.0.1", wire_port)).unwrap();
    let camera = Camera::new(format!("udp://127.0.0.1:{wire_port}?mode=caller"), KEY);
    let mut call = [0; 2000];
    let length = wire.recv(&mut call).unwrap();
    drop(camera);
    let victim = UdpSocket::bind("127.0.0.1:0").unwrap();
    victim.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    victim.send_to(&call[..length], ("127.0.0.1", server_port)).unwrap();
    let (begun, mut answers) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_secs(3) {
        server.end.send(&[packet(1)]);
        let mut answer = [0; 2000];
        if let Ok(length) = victim.recv(&mut answer) {
            answers.push(length);
        }
    }
    assert_eq!(answers, [length]);
    assert_eq!(server.counts().sent, 0);
}

#[test]
fn noise_does_no_harm() {
    let _alone = alone();
    let port = port();
    let camera = Camera::new(format!("udp://127.0.0.1:{port}"), KEY);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 4, 45, 52, 1244, 1245, 9000] {
        socket.send_to(&vec![0xdd; length], ("127.0.0.1", port)).unwrap();
    }
    wait_for("the refusals", || camera.counts().rejected_malformed >= 8);
    bring(&Server::new(format!("udp://127.0.0.1:{port}"), KEY), &camera, 1);
}
