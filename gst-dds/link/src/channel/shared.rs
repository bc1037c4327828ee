// SPDX-License-Identifier: MPL-2.0

//! Common parts of both ends: dialling, listening, reading, and threads that end.

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dds_protocol::feedback;

use super::counters::{Counters, add};
use super::stream::{Framer, TooLong, is_tick, set_options};
use super::{BACK_OFF, BACK_OFF_MAX, CONNECT, MAX_PEERS, Notice, OnNotice, OpenError, SILENCE, Setup, TICK};
use crate::guard::Guard;
use crate::secure::{self, Key, Rejection};
use crate::sync::{Condvar, Mutex};
use crate::uri::{Dial, End, FeedbackUri, Host, Transport};

/// State shared by all threads of an end.
pub(super) struct Shared {
    pub(super) uri: FeedbackUri,
    /// As the user wrote it.
    pub(super) text: String,
    begun: Instant,
    stopped: Mutex<bool>,
    stopping: Condvar,
    pub(super) counters: Arc<Counters>,
    on_notice: OnNotice,
    /// Guards each message and each thread.
    pub(super) guard: Guard,
    /// Warnings reported.
    silent_told: AtomicBool,
    other_key_told: AtomicBool,
    one_key_told: AtomicBool,
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap()
    }

    /// Waits; `false` where the channel is being closed.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap();
        let (stopped, _) = self
            .stopping
            .wait_timeout_while(stopped, time, |stopped| !*stopped)
            .unwrap();
        !*stopped
    }

    pub(super) fn once(&self, reported: &AtomicBool, notice: Notice) {
        if !reported.swap(true, Ordering::Relaxed) {
            (self.on_notice)(notice);
        }
    }

    pub(super) fn silent(&self) {
        self.once(&self.silent_told, Notice::Silent(self.text.clone()));
    }

    pub(super) fn joined(&self, peer: SocketAddr) {
        self.silent_told.store(false, Ordering::Relaxed);
        (self.on_notice)(Notice::Joined(peer));
    }

    pub(super) fn reject(&self, why: Rejection, peer: SocketAddr, message: &[u8], sealed: bool) {
        let counters = &self.counters;
        match why {
            Rejection::Tag => {
                add(&counters.rejected_tag);
                self.once(&self.other_key_told, Notice::OtherKey(peer));
            }
            Rejection::Session => add(&counters.rejected_session),
            Rejection::Replay => add(&counters.rejected_replay),
            Rejection::Malformed | Rejection::Busy => {
                add(&counters.rejected_malformed);
                let other = if sealed { feedback::MAGIC } else { secure::MAGIC };
                if message.starts_with(&other) || sealed && secure::is_plain_call(message) {
                    self.once(&self.one_key_told, Notice::OneKeyOnly(peer));
                }
            }
        }
        gst::debug!(crate::CAT, "{} bytes from {peer} refused: {why:?}", message.len());
    }

    /// The address of the other end; where its name has several, another one at each attempt, IPv4 first, because an
    /// end that listens on all addresses listens there. Names are resolved on a thread that is not waited for when the
    /// channel is closed: it holds nothing and ends with the look-up.
    fn resolve(&self, attempt: usize) -> Result<SocketAddr, std::io::Error> {
        let port = self.uri.port;
        let name = match &self.uri.host {
            Host::Ip(ip) => return Ok((*ip, port).into()),
            Host::Name(name) => name.clone(),
        };
        let (tx, rx) = mpsc::channel();
        std::thread::Builder::new().name("dds-resolve".into()).spawn(move || {
            let _ = tx.send((name.as_str(), port).to_socket_addrs());
        })?;
        loop {
            match rx.recv_timeout(TICK) {
                Ok(Ok(found)) => {
                    let mut found: Vec<_> = found.collect();
                    self.keep_inside(&mut found);
                    found.sort_by_key(SocketAddr::is_ipv6);
                    let place = attempt.checked_rem(found.len()).ok_or(ErrorKind::NotFound)?;
                    return Ok(found[place]);
                }
                Ok(Err(error)) => return Err(error),
                Err(mpsc::RecvTimeoutError::Timeout) if !self.is_stopped() => (),
                Err(_) => return Err(ErrorKind::Interrupted.into()),
            }
        }
    }

    /// Where only the host's name shows that this machine is meant, other addresses in a table of names are not
    /// trusted.
    fn keep_inside(&self, found: &mut Vec<SocketAddr>) {
        if self.uri.host.is_loopback() {
            found.retain(|address| address.ip().is_loopback());
        }
    }

    /// A socket of our own for datagrams to the other end, and its address. Nobody else reaches it: it is connected,
    /// and bound to the address that leads there.
    pub(super) fn dial_udp(&self, attempt: usize) -> Result<(UdpSocket, SocketAddr), std::io::Error> {
        let to = self.resolve(attempt)?;
        // Bound to this machine at once, so that it is not open to others even before it is connected.
        let own: IpAddr = match to.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((own, 0))?;
        socket.connect(to)?;
        // Datagrams of that moment may be anybody's; a socket keeps a few hundred.
        socket.set_nonblocking(true)?;
        let waits = |_: &usize| !matches!(socket.recv(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        (0..4096).take_while(waits).for_each(drop);
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(TICK))?;
        Ok((socket, to))
    }

    /// Until the channel is closed: connects, runs `serve`, and repeats after a while. `serve` returns whether the
    /// other end was the right one.
    pub(super) fn dial_tcp(&self, serve: impl Fn(TcpStream, SocketAddr) -> bool) {
        let mut back_off = BACK_OFF;
        let mut reported = false;
        let mut failing_since = self.now();
        for attempt in 0.. {
            if self.is_stopped() {
                return;
            }
            let connected = self
                .resolve(attempt)
                .and_then(|to| Ok((TcpStream::connect_timeout(&to, CONNECT)?, to)));
            match connected {
                Ok((stream, to)) => {
                    add(&self.counters.connections);
                    if set_options(&stream).is_ok() && serve(stream, to) {
                        (back_off, reported, failing_since) = (BACK_OFF, false, self.now());
                    } else if self.now() - failing_since > SILENCE && !self.is_stopped() {
                        self.silent();
                    }
                }
                Err(error) if !reported && !self.is_stopped() => {
                    reported = true;
                    (self.on_notice)(Notice::Unreachable(self.text.clone(), error.to_string()));
                }
                Err(error) => gst::debug!(crate::CAT, "{}: {error}", self.text),
            }
            if !self.pause(back_off) {
                return;
            }
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Until the channel is closed: runs `serve` for each connection on a thread of its own.
    pub(super) fn listen_tcp(
        self: &Arc<Self>,
        listener: &TcpListener,
        serve: impl Fn(TcpStream, SocketAddr) + Clone + Send + 'static,
    ) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        while !self.is_stopped() {
            threads.retain(|thread| !thread.is_finished());
            match listener.accept() {
                // Dropped: a peer that connects as often as that has to come again.
                Ok(_) if threads.len() >= MAX_PEERS => {
                    gst::warning!(crate::CAT, "{}: more than {MAX_PEERS} connections", self.text);
                }
                Ok((stream, from)) => {
                    add(&self.counters.connections);
                    if set_options(&stream).is_err() {
                        continue;
                    }
                    let serve = serve.clone();
                    let thread = std::thread::Builder::new().name("dds-feedback-tcp".into());
                    let shared = self.clone();
                    match thread.spawn(move || shared.guard.run((), || serve(stream, from))) {
                        Ok(thread) => threads.push(thread),
                        Err(error) => gst::warning!(crate::CAT, "{}: no thread ({error})", self.text),
                    }
                }
                Err(_) => {
                    self.pause(TICK);
                }
            }
        }
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// Reads messages off a connection until it ends, `take` or `lives` returns false, or the channel is closed.
    pub(super) fn read_tcp(
        &self,
        mut stream: &TcpStream,
        mut take: impl FnMut(&[u8]) -> bool,
        lives: impl Fn() -> bool,
    ) {
        let mut framer = Framer::default();
        let mut chunk = [0; 2048];
        while !self.is_stopped() && lives() {
            let read = match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if is_tick(&error) => continue,
                Err(_) => return,
            };
            framer.push(&chunk[..read]);
            loop {
                match framer.next() {
                    Ok(Some(message)) if take(&message) => (),
                    Ok(None) => break,
                    Ok(Some(_)) => return,
                    Err(TooLong) => {
                        add(&self.counters.rejected_malformed);
                        return;
                    }
                }
            }
        }
    }
}

/// The listening socket, opened before any thread runs so that its failure is the element's.
pub(super) enum Socket {
    Udp(UdpSocket),
    Tcp(TcpListener),
    /// Dials.
    None,
}

/// A channel before its threads run, its key, and its listening socket.
pub(super) type Prepared = (Arc<Shared>, Option<Key>, Socket);

/// Reads the properties and opens the listening socket.
pub(super) fn prepare(setup: &Setup, end: End, on_notice: OnNotice) -> Result<Option<Prepared>, OpenError> {
    let Some((uri, key, exposed)) = setup.read(end)? else {
        return Ok(None);
    };
    if let Some(exposed) = exposed {
        on_notice(Notice::Exposed(exposed));
    }
    let refused = |e: std::io::Error| OpenError::Listen(setup.uri.clone(), e.to_string());
    let address = || match &uri.host {
        Host::Ip(ip) => Ok(SocketAddr::new(*ip, uri.port)),
        Host::Name(name) => {
            let mut found = (name.as_str(), uri.port).to_socket_addrs().map_err(refused)?;
            let inside = uri.host.is_loopback();
            let found = found.find(|address| !inside || address.ip().is_loopback());
            found.ok_or_else(|| refused(ErrorKind::NotFound.into()))
        }
    };
    let socket = match (uri.dial, uri.transport) {
        (Dial::Caller, _) => Socket::None,
        (Dial::Listener, Transport::Udp) => {
            let socket = UdpSocket::bind(address()?).map_err(refused)?;
            socket.set_read_timeout(Some(TICK)).map_err(refused)?;
            Socket::Udp(socket)
        }
        (Dial::Listener, Transport::Tcp) => {
            let listener = TcpListener::bind(address()?).map_err(refused)?;
            listener.set_nonblocking(true).map_err(refused)?;
            Socket::Tcp(listener)
        }
    };
    let shared = Arc::new(Shared {
        uri,
        text: setup.uri.clone(),
        begun: Instant::now(),
        stopped: Mutex::new(false),
        stopping: Condvar::new(),
        counters: Arc::default(),
        guard: {
            let on_notice = on_notice.clone();
            Guard::reporting("the channel of feedback-uri", move |text| {
                on_notice(Notice::Fault(text.to_owned()))
            })
        },
        on_notice,
        silent_told: AtomicBool::new(false),
        other_key_told: AtomicBool::new(false),
        one_key_told: AtomicBool::new(false),
    });
    Ok(Some((shared, key, socket)))
}

/// The threads of an end; dropping it waits for them.
pub(super) struct Threads {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            threads: Vec::new(),
        }
    }

    pub(super) fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(name.into());
        let thread = thread.spawn(move || shared.guard.run((), run));
        self.threads.push(thread.map_err(|e| OpenError::System(e.to_string()))?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        *self.shared.stopped.lock().unwrap() = true;
        self.shared.stopping.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that reports to the application may drop the last handle itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        self.shared.counters.peers.store(0, Ordering::Relaxed);
    }
}
