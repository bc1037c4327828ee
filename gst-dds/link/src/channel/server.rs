// SPDX-License-Identifier: MPL-2.0

//! The server's end.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::counters::{Counters, add};
use super::shared::{Shared, Socket, Threads, prepare};
use super::stream::{is_tick, send_udp, write_tcp};
use super::{CALLER_LIFE, CONNECT, MAX_PEERS, OnNotice, OpenError, QUEUE, SILENCE, STRANGER_LIFE, Setup, TICK};
use crate::secure::{self, Key, MAX_MESSAGE, Rejection, Sender, random};
use crate::sync::{Condvar, Mutex};
use crate::uri::{Dial, End, Transport};

/// The server's end.
pub struct ServerEnd {
    server: Arc<Server>,
    _threads: Threads,
}

impl std::fmt::Debug for ServerEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ServerEnd").field(&self.server.shared.text).finish()
    }
}

impl ServerEnd {
    /// Opens the channel; `None` where none is set.
    ///
    /// # Errors
    /// Names the property that is wrong, and the cure.
    pub fn open(setup: &Setup, on_notice: OnNotice) -> Result<Option<Self>, OpenError> {
        let Some((shared, key, socket)) = prepare(setup, End::Server, on_notice)? else {
            return Ok(None);
        };
        let server = Arc::new(Server {
            shared: shared.clone(),
            key,
            queue: Mutex::default(),
            queued: Condvar::new(),
            peers: Mutex::default(),
        });
        let mut threads = Threads::new(&shared);
        let (sends, reads) = (server.clone(), server.clone());
        threads.spawn("dds-feedback-out", move || sends.run())?;
        threads.spawn("dds-feedback-in", move || match (socket, shared.uri.transport) {
            (Socket::Udp(socket), _) => reads.read_udp(&Arc::new(socket), None),
            (Socket::Tcp(listener), _) => {
                shared.listen_tcp(&listener, move |stream, from| {
                    reads.serve(stream, from);
                });
            }
            (Socket::None, Transport::Tcp) => shared.dial_tcp(|stream, to| reads.serve(stream, to)),
            (Socket::None, Transport::Udp) => reads.dial_udp(),
        })?;
        Ok(Some(Self {
            server,
            _threads: threads,
        }))
    }

    /// Queues the packets of one generation; never waits. Returns whether a camera is connected to receive them.
    pub fn send(&self, packets: &[Vec<u8>]) -> bool {
        let counters = &self.server.shared.counters;
        let mut queue = self.server.queue.lock().unwrap();
        queue.extend(packets.iter().cloned());
        while queue.len() > QUEUE {
            queue.pop_front();
            add(&counters.dropped);
        }
        drop(queue);
        self.server.queued.notify_all();
        counters.peers.load(Ordering::Relaxed) > 0
    }

    /// Counts of the channel; valid after the end as well.
    pub fn counters(&self) -> Arc<Counters> {
        self.server.shared.counters.clone()
    }
}

#[derive(Clone)]
enum Link {
    Udp(Arc<UdpSocket>),
    Tcp(Arc<TcpStream>),
}

struct Peer {
    link: Link,
    address: SocketAddr,
    /// `None` without a key.
    sealer: Option<Sender>,
    /// Time of its last call, and whether that call has had no hello yet.
    called: Duration,
    asked: bool,
    /// It was dialled, so its calls are not waited for.
    dialled: bool,
}

impl Peer {
    fn send(&self, message: &[u8]) -> std::io::Result<()> {
        match &self.link {
            Link::Udp(socket) => send_udp(socket, message, self.address, self.dialled),
            Link::Tcp(stream) => write_tcp(stream, message),
        }
    }

    fn is_open(&self) -> bool {
        self.sealer.as_ref().is_none_or(Sender::is_open)
    }

    fn close(&self) {
        if let Link::Tcp(stream) = &self.link {
            // This ends its reader.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

struct Server {
    shared: Arc<Shared>,
    /// `None`: nothing is sealed.
    key: Option<Key>,
    queue: Mutex<VecDeque<Vec<u8>>>,
    queued: Condvar,
    peers: Mutex<Vec<Peer>>,
}

impl Server {
    /// Sends until the channel is closed.
    fn run(&self) {
        let shared = &self.shared;
        while !shared.is_stopped() {
            let packets = {
                let mut queue = self.queue.lock().unwrap();
                if queue.is_empty() {
                    queue = self.queued.wait_timeout(queue, TICK).unwrap().0;
                }
                std::mem::take(&mut *queue)
            };
            shared.guard.run((), || {
                if self.send(&packets) {
                    shared.silent();
                }
            });
        }
    }

    /// One round: sends due handshakes, and the packets. Returns whether a camera that was dialled does not answer.
    fn send(&self, packets: &VecDeque<Vec<u8>>) -> bool {
        let shared = &self.shared;
        let now = shared.now();
        let mut peers = self.peers.lock().unwrap();
        let mut silent = false;
        peers.retain_mut(|peer| {
            let mut failed = false;
            let called_only = matches!(peer.link, Link::Udp(_)) && !peer.dialled && !peer.is_open();
            if let Some(sealer) = &mut peer.sealer {
                // A call may be forged or replayed: until the camera has answered, each call gets one hello.
                let hello = if called_only && !peer.asked {
                    None
                } else {
                    sealer.poll(now, random)
                };
                peer.asked &= hello.is_none();
                let unanswered = sealer.unanswered(now);
                silent |= unanswered > SILENCE && peer.dialled;
                let tcp = matches!(peer.link, Link::Tcp(_));
                failed |= hello.is_some_and(|hello| peer.send(&hello).is_err()) || tcp && unanswered > STRANGER_LIFE;
            }
            for packet in packets {
                let message = match &mut peer.sealer {
                    Some(sealer) => sealer.seal(packet),
                    None => Some(packet.clone()),
                };
                match message.map(|message| peer.send(&message)) {
                    Some(Ok(())) => add(&shared.counters.sent),
                    Some(Err(_)) => {
                        failed = true;
                        add(&shared.counters.dropped);
                    }
                    None => add(&shared.counters.dropped),
                }
            }
            // A datagram that fails proves nothing about the next one.
            let gone = match peer.link {
                Link::Tcp(_) => failed,
                Link::Udp(_) => !peer.dialled && now.saturating_sub(peer.called) > CALLER_LIFE,
            };
            if gone {
                peer.close();
            }
            !gone
        });
        if peers.is_empty() {
            shared
                .counters
                .dropped
                .fetch_add(packets.len() as u64, Ordering::Relaxed);
        }
        let open = peers.iter().filter(|peer| peer.is_open()).count();
        shared.counters.peers.store(open as u64, Ordering::Relaxed);
        silent
    }

    fn peer(&self, link: Link, address: SocketAddr, dialled: bool) -> Peer {
        Peer {
            link,
            address,
            sealer: self.key.clone().map(Sender::new),
            called: self.shared.now(),
            asked: true,
            dialled,
        }
    }

    /// Adds a camera; without a free place it replaces one that never answered.
    fn add_peer(&self, peer: Peer) {
        let address = peer.address;
        // A datagram that was sent need not have a receiver.
        let joins_now = peer.sealer.is_none() && (matches!(peer.link, Link::Tcp(_)) || !peer.dialled);
        let mut peers = self.peers.lock().unwrap();
        if peers.len() >= MAX_PEERS {
            let Some(place) = peers.iter().position(|peer| !peer.is_open()) else {
                gst::warning!(crate::CAT, "{}: more than {MAX_PEERS} cameras", self.shared.text);
                peer.close();
                return;
            };
            peers.remove(place).close();
        }
        peers.push(peer);
        drop(peers);
        // Its hello is due.
        self.queued.notify_all();
        if joins_now {
            self.shared.joined(address);
        }
    }

    /// Processes the message of a camera. `false` where it was refused.
    fn take(&self, message: &[u8], from: SocketAddr, socket: Option<&Arc<UdpSocket>>) -> bool {
        let shared = &self.shared;
        let called = match &self.key {
            Some(key) => Sender::check_call(key, message).is_ok(),
            None => secure::is_plain_call(message),
        };
        let mut peers = self.peers.lock().unwrap();
        let known = peers.iter_mut().find(|peer| peer.address == from || peer.dialled);
        if called && let Some(socket) = socket {
            match known {
                Some(peer) => (peer.called, peer.asked) = (shared.now(), true),
                None => {
                    drop(peers);
                    self.add_peer(self.peer(Link::Udp(socket.clone()), from, false));
                }
            }
            return true;
        }
        let taken = match known.and_then(|peer| peer.sealer.as_mut()) {
            Some(sealer) => {
                let was_open = sealer.is_open();
                sealer.receive(shared.now(), message).map(|begun| (begun, was_open))
            }
            None => Err(Rejection::Malformed),
        };
        drop(peers);
        match taken {
            Ok((begun, was_open)) => {
                if begun {
                    add(&shared.counters.sessions);
                }
                if begun && !was_open {
                    shared.joined(from);
                }
                true
            }
            Err(why) => {
                shared.reject(why, from, message, self.key.is_some());
                false
            }
        }
    }

    /// Serves a socket until the channel is closed or the camera that was `dialled` has not answered for a while.
    fn read_udp(&self, socket: &Arc<UdpSocket>, dialled: Option<SocketAddr>) {
        let shared = &self.shared;
        if let Some(to) = dialled {
            self.add_peer(self.peer(Link::Udp(socket.clone()), to, true));
        }
        let mut buffer = [0; MAX_MESSAGE + 1];
        while !shared.is_stopped() {
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let take = || self.take(&buffer[..length], from, dialled.is_none().then_some(socket));
                    shared.guard.run(false, take);
                }
                Err(error) if is_tick(&error) => (),
                Err(_) => {
                    shared.pause(TICK);
                }
            }
            // Its name may resolve to another address now.
            let lost = |peer: &Peer| {
                peer.sealer
                    .as_ref()
                    .is_some_and(|s| s.unanswered(shared.now()) > 2 * SILENCE)
            };
            if dialled.is_some() && self.peers.lock().unwrap().iter().any(lost) {
                break;
            }
        }
        self.peers.lock().unwrap().clear();
    }

    fn dial_udp(&self) {
        let shared = &self.shared;
        for attempt in 0.. {
            if shared.is_stopped() {
                return;
            }
            match shared.dial_udp(attempt) {
                Ok((socket, to)) => self.read_udp(&Arc::new(socket), Some(to)),
                Err(error) => {
                    gst::debug!(crate::CAT, "{}: {error}", shared.text);
                    shared.silent();
                    shared.pause(CONNECT);
                }
            }
        }
    }

    /// Serves one connection. Returns whether the other end was a camera.
    fn serve(&self, stream: TcpStream, address: SocketAddr) -> bool {
        let stream = Arc::new(stream);
        let is_ours = |peer: &Peer| matches!(&peer.link, Link::Tcp(link) if Arc::ptr_eq(link, &stream));
        let dialled = self.shared.uri.dial == Dial::Caller;
        self.add_peer(self.peer(Link::Tcp(stream.clone()), address, dialled));
        let mut right = self.key.is_none();
        let take = |message: &[u8]| {
            let taken = self.shared.guard.run(false, || self.take(message, address, None));
            right |= taken;
            taken
        };
        let lives = || self.peers.lock().unwrap().iter().any(is_ours);
        self.shared.read_tcp(&stream, take, lives);
        self.peers.lock().unwrap().retain(|peer| !is_ours(peer));
        right
    }
}
