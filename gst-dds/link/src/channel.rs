// SPDX-License-Identifier: MPL-2.0

//! The own channel: feedback packets beside the video, over UDP or TCP, for paths that drop RTCP (relays, recorders that
//! restream). Its addresses are those of [`crate::uri`], its messages those of [`crate::secure`].
//!
//! The camera's end ([`CameraEnd`]) takes packets of any number of servers, the server's end ([`ServerEnd`]) gives each
//! packet to every camera that is there. Either may listen or dial. All sockets are served by threads of the channel; who
//! sends or takes packets never waits for them. Dropping an end closes its sockets and ends its threads, within
//! [`TICK`], or within [`CONNECT`] while it dials or writes by TCP.
//!
//! Over UDP each message is a datagram. Over TCP each stands behind its length in 16 bits, at most
//! [`MAX_MESSAGE`]; a length beyond that ends the connection. A connection that fails is
//! made anew after 250 ms, then after twice as long each time, up to 5 s.
//!
//! Without a key ([`Setup::plain`], or both ends on one machine) messages are the bare feedback packets, which the pads
//! `feedback` of the elements speak as well.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dds_protocol::feedback;
use gst::prelude::*;

use crate::secure::{self, Key, KeyError, MAX_KEY, MAX_MESSAGE, Received, Receiver, Rejection, Sender, random};
use crate::session::Deliver;
use crate::uri::{End, FeedbackUri, Host, Mode, Transport, UriError};

/// How long a thread waits for a socket before it looks whether it should end.
pub const TICK: Duration = Duration::from_millis(50);
/// How long a TCP connection may take to be made.
pub const CONNECT: Duration = Duration::from_secs(1);
/// Packets that may wait to be sent; older ones go first.
const QUEUE: usize = 64;
/// A camera that dials by UDP calls so often until it is answered, and then, so that a server that was restarted knows it
/// again.
const CALL_FIRST: Duration = Duration::from_millis(500);
const CALL_EVERY: Duration = Duration::from_secs(2);
/// A camera that called and was not heard for so long is gone.
const CALLER_LIFE: Duration = Duration::from_secs(10);
/// Cameras that one server serves at once, and connections that one camera takes.
const MAX_PEERS: usize = 16;
/// How long a connection may last without a valid message, and how long it may be silent after one.
const STRANGER_LIFE: Duration = Duration::from_secs(5);
const IDLE_LIFE: Duration = Duration::from_secs(15);
/// After so long without an answer the application is told.
const SILENCE: Duration = Duration::from_secs(5);
/// Longest wait for a peer that does not read.
const WRITE: Duration = Duration::from_millis(500);
const BACK_OFF: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// What the properties of an element say of its channel.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Setup {
    /// Property `feedback-uri`; empty: no channel.
    pub uri: String,
    /// Property `feedback-key`; empty: none.
    pub key: String,
    /// Property `feedback-key-file`; empty: none.
    pub key_file: String,
    /// Property `feedback-plain`.
    pub plain: bool,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No key goes into a log.
        let mut setup = f.debug_struct("Setup");
        setup.field("uri", &self.uri).field("key_file", &self.key_file);
        setup.field("plain", &self.plain).finish_non_exhaustive()
    }
}

/// Why a channel is not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The address is none.
    Uri(String, UriError),
    /// The key is none. First: the property it came by.
    Key(&'static str, KeyError),
    /// The key file cannot be read.
    KeyFile(String, String),
    /// Two properties that contradict each other: the one, what is wrong and what to do.
    Contradiction(&'static str, &'static str),
    /// Neither a key nor leave to do without.
    NoKey(String),
    /// The socket cannot be had.
    Listen(String, String),
    /// No thread, or no random numbers.
    System(String),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uri(uri, error) => write!(f, "feedback-uri={uri}: {error}."),
            Self::Key(property, error) => write!(f, "{property}: {error}."),
            Self::KeyFile(path, error) => write!(
                f,
                "feedback-key-file={path}: it cannot be read ({error}). Name a file that holds the key that the other \
                 end has too."
            ),
            Self::Contradiction(property, text) => write!(f, "{property}: {text}."),
            Self::NoKey(uri) => write!(
                f,
                "feedback-uri={uri}: without a key anybody there can steer the camera and see where people are. Set \
                 feedback-key or feedback-key-file to the same at both ends, or feedback-plain=true on a network where \
                 that does not matter."
            ),
            Self::Listen(uri, error) => write!(
                f,
                "feedback-uri={uri}: it cannot be listened on ({error}). Name an address of this machine and a port that \
                 is free, or add ?mode=caller to dial."
            ),
            Self::System(error) => write!(
                f,
                "feedback-uri: no channel ({error}). See to the system, or remove it."
            ),
        }
    }
}

impl std::error::Error for OpenError {}

impl Setup {
    /// Address and key; `None` where there is to be no channel.
    ///
    /// # Errors
    /// What is wrong with the properties, by their names.
    fn read(&self, end: End) -> Result<Option<(FeedbackUri, Option<Key>)>, OpenError> {
        let refuse = |property, text| Err(OpenError::Contradiction(property, text));
        let (inline, file) = (!self.key.is_empty(), !self.key_file.is_empty());
        if self.uri.is_empty() {
            let idle = [(inline, "feedback-key"), (file, "feedback-key-file")];
            if let Some((_, property)) = idle.into_iter().find(|(set, _)| *set) {
                return refuse(
                    property,
                    "there is no channel that it could seal; set feedback-uri too, or remove it",
                );
            }
            return Ok(None);
        }
        let uri = FeedbackUri::parse(&self.uri, end).map_err(|e| OpenError::Uri(self.uri.clone(), e))?;
        if inline && file {
            return refuse("feedback-key-file", "feedback-key is set too; remove one of the two");
        }
        if self.plain && (inline || file) {
            return refuse(
                "feedback-plain",
                "a key is set, and nothing plain is sent or taken with it; remove one of the two",
            );
        }
        let key = if inline {
            Some(Key::parse(self.key.as_bytes()).map_err(|e| OpenError::Key("feedback-key", e))?)
        } else if file {
            let text = read_key_file(&self.key_file)?;
            Some(Key::parse(&text).map_err(|e| OpenError::Key("feedback-key-file", e))?)
        } else if self.plain || uri.host.is_loopback() {
            None
        } else {
            return Err(OpenError::NoKey(self.uri.clone()));
        };
        Ok(Some((uri, key)))
    }
}

/// The bytes of a key file, and no more than tell that it is too long.
fn read_key_file(path: &str) -> Result<Vec<u8>, OpenError> {
    let mut text = Vec::new();
    let most = (2 * MAX_KEY + 16) as u64;
    let failed = |e: std::io::Error| OpenError::KeyFile(path.to_owned(), e.to_string());
    let file = std::fs::File::open(path).map_err(failed)?;
    #[cfg(unix)]
    if let Ok(of_file) = file.metadata()
        && std::os::unix::fs::MetadataExt::mode(&of_file) & 0o007 != 0
    {
        gst::warning!(
            crate::CAT,
            "{path} can be read by every user: chmod o-rwx keeps the key"
        );
    }
    file.take(most).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// What the application may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The other end is there.
    Joined(SocketAddr),
    /// Nobody has answered for 5 s.
    Silent(String),
    /// The connection cannot be made.
    Unreachable(String, String),
    /// Somebody has another key.
    OtherKey(SocketAddr),
    /// One end has a key and the other has none.
    OneKeyOnly(SocketAddr),
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Joined(peer) => write!(f, "The feedback channel to {peer} is open"),
            Self::Silent(uri) => write!(
                f,
                "Nobody answers at {uri}, and it is tried on. See whether the other end runs, whether a firewall is \
                 between, and whether both ends have the same feedback-key"
            ),
            Self::Unreachable(uri, error) => write!(
                f,
                "No connection to {uri} ({error}), and it is tried on. See whether the other end runs and listens there"
            ),
            Self::OtherKey(peer) => write!(
                f,
                "A message from {peer} was made with another key and refused. Set the same feedback-key at both ends; if \
                 that is so, somebody else sends there"
            ),
            Self::OneKeyOnly(peer) => write!(
                f,
                "Feedback from {peer} was refused: one end has a key and the other has none. Set the same feedback-key at \
                 both ends"
            ),
        }
    }
}

/// Hears notices, on threads of the channel. Each kind of warning comes once; that nobody is there, once in each outage.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

/// Posts warnings on the bus of an element as its own, as long as it lives, and logs the rest.
pub fn tell_by(element: &impl IsA<gst::Element>) -> Tell {
    let weak = element.upcast_ref::<gst::Element>().downgrade();
    Arc::new(move |notice| {
        let Some(element) = weak.upgrade() else { return };
        match notice {
            Notice::Joined(_) => gst::info!(crate::CAT, obj = element, "{notice}"),
            Notice::OtherKey(_) | Notice::OneKeyOnly(_) => {
                gst::element_warning!(element, gst::ResourceError::NotAuthorized, ("{notice}"));
            }
            Notice::Silent(_) | Notice::Unreachable(..) => {
                gst::element_warning!(element, gst::ResourceError::OpenReadWrite, ("{notice}"));
            }
        }
    })
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $field:literal,)*) => {
        /// What went through a channel.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// All of them, with their names in the elements' `stats`.
            pub fn fields(&self) -> [(&'static str, u64); [$($field),*].len()] {
                [$(($field, self.$name)),*]
            }
        }

        /// The same while they are counted.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($name: AtomicU64,)*
        }

        impl Counters {
            /// As they are now.
            pub fn counts(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counts! {
    /// Feedback packets sent, once for each camera.
    sent = "feedback-uri-sent",
    /// Feedback packets received and found good.
    received = "feedback-uri-received",
    /// Packets not sent: nobody was there, or too many waited, or a socket failed.
    dropped = "feedback-uri-dropped",
    /// Sessions begun; a server draws a new one every two seconds.
    sessions = "feedback-uri-sessions",
    /// Messages refused because they were made with another key or changed on their way.
    rejected_tag = "feedback-uri-rejected-tag",
    /// Messages refused because their session is not open: said again after it, forged, or sent by a server that did not
    /// know yet that the camera had been restarted.
    rejected_session = "feedback-uri-rejected-session",
    /// Messages refused because they had been taken before.
    rejected_replay = "feedback-uri-rejected-replay",
    /// Messages refused because they are none, or because too many sessions were open.
    rejected_malformed = "feedback-uri-rejected-malformed",
    /// TCP connections made.
    connections = "feedback-uri-connections",
    /// Other ends that are there now; no count.
    peers = "feedback-uri-peers",
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What all threads of an end share.
struct Shared {
    uri: FeedbackUri,
    /// As the user wrote it.
    text: String,
    begun: Instant,
    stopped: Mutex<bool>,
    stopping: Condvar,
    counters: Arc<Counters>,
    tell: Tell,
    /// Warnings given.
    silent_told: AtomicBool,
    other_key_told: AtomicBool,
    one_key_told: AtomicBool,
}

impl Shared {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap()
    }

    /// Waits; `false` where the channel is being closed.
    fn pause(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap();
        let (stopped, _) = self
            .stopping
            .wait_timeout_while(stopped, time, |stopped| !*stopped)
            .unwrap();
        !*stopped
    }

    fn once(&self, told: &AtomicBool, notice: Notice) {
        if !told.swap(true, Ordering::Relaxed) {
            (self.tell)(notice);
        }
    }

    fn silent(&self) {
        self.once(&self.silent_told, Notice::Silent(self.text.clone()));
    }

    fn joined(&self, peer: SocketAddr) {
        self.silent_told.store(false, Ordering::Relaxed);
        (self.tell)(Notice::Joined(peer));
    }

    fn reject(&self, why: Rejection, peer: SocketAddr, message: &[u8], sealed: bool) {
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

    /// The address of the other end; where its name has several, another one at each attempt, IPv4 first, because who
    /// listens on all addresses listens there. Names are looked up on a thread that is not waited for when the channel is
    /// closed: it holds nothing and ends with the look-up.
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

    /// A socket of our own for datagrams to the other end, and where that is.
    fn dial_udp(&self, attempt: usize) -> Result<(UdpSocket, SocketAddr), std::io::Error> {
        let to = self.resolve(attempt)?;
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(TICK))?;
        Ok((socket, to))
    }

    /// Until the channel is closed: connects, runs `serve`, and does it again after a while. `serve` returns whether the
    /// other end was the right one.
    fn dial_tcp(&self, serve: impl Fn(TcpStream, SocketAddr) -> bool) {
        let mut back_off = BACK_OFF;
        let mut told = false;
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
                        (back_off, told, failing_since) = (BACK_OFF, false, self.now());
                    } else if self.now() - failing_since > SILENCE && !self.is_stopped() {
                        self.silent();
                    }
                }
                Err(error) if !told && !self.is_stopped() => {
                    told = true;
                    (self.tell)(Notice::Unreachable(self.text.clone(), error.to_string()));
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
    fn listen_tcp(
        self: &Arc<Self>,
        listener: &TcpListener,
        serve: impl Fn(TcpStream, SocketAddr) + Clone + Send + 'static,
    ) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        while !self.is_stopped() {
            threads.retain(|thread| !thread.is_finished());
            match listener.accept() {
                // Dropped: whoever connects as often as that has to come again.
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
                    match thread.spawn(move || serve(stream, from)) {
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

    /// Reads messages off a connection until it ends, `take` or `lives` says no, or the channel is closed.
    fn read_tcp(&self, mut stream: &TcpStream, mut take: impl FnMut(&[u8]) -> bool, lives: impl Fn() -> bool) {
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

fn set_options(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(WRITE))?;
    // Feedback that waits to be acknowledged is late by a frame.
    stream.set_nodelay(true)
}

/// Nothing came in time; not an error.
fn is_tick(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// A length that no message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooLong;

/// Messages out of a stream of bytes.
#[derive(Debug, Default)]
struct Framer(Vec<u8>);

impl Framer {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let Some((length, rest)) = self.0.split_first_chunk() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if !(1..=MAX_MESSAGE).contains(&length) {
            return Err(TooLong);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let message = rest[..length].to_vec();
        self.0.drain(..2 + length);
        Ok(Some(message))
    }
}

fn write_tcp(mut stream: &TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| std::io::Error::from(ErrorKind::InvalidInput))?;
    // One write, so that one segment leaves.
    stream.write_all(&[&length.to_be_bytes()[..], message].concat())
}

/// What listens, opened before anything runs so that its failure is the element's.
enum Socket {
    Udp(UdpSocket),
    Tcp(TcpListener),
    /// Dials.
    None,
}

/// A channel before its threads run, its key, and what it listens on.
type Prepared = (Arc<Shared>, Option<Key>, Socket);

/// Reads the properties and opens what listens.
fn prepare(setup: &Setup, end: End, tell: Tell) -> Result<Option<Prepared>, OpenError> {
    let Some((uri, key)) = setup.read(end)? else {
        return Ok(None);
    };
    let refused = |e: std::io::Error| OpenError::Listen(setup.uri.clone(), e.to_string());
    let address = || match &uri.host {
        Host::Ip(ip) => Ok(SocketAddr::new(*ip, uri.port)),
        Host::Name(name) => {
            let found = (name.as_str(), uri.port).to_socket_addrs().map_err(refused)?.next();
            found.ok_or_else(|| refused(ErrorKind::NotFound.into()))
        }
    };
    let socket = match (uri.mode, uri.transport) {
        (Mode::Caller, _) => Socket::None,
        (Mode::Listener, Transport::Udp) => {
            let socket = UdpSocket::bind(address()?).map_err(refused)?;
            socket.set_read_timeout(Some(TICK)).map_err(refused)?;
            Socket::Udp(socket)
        }
        (Mode::Listener, Transport::Tcp) => {
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
        tell,
        silent_told: AtomicBool::new(false),
        other_key_told: AtomicBool::new(false),
        one_key_told: AtomicBool::new(false),
    });
    Ok(Some((shared, key, socket)))
}

/// The threads of an end; dropped, it waits for them.
struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        self.threads.push(thread.map_err(|e| OpenError::System(e.to_string()))?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        *self.shared.stopped.lock().unwrap() = true;
        self.shared.stopping.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that tells something to the application may be the one that lets go of the last handle.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        self.shared.counters.peers.store(0, Ordering::Relaxed);
    }
}

/// The camera's end.
pub struct CameraEnd(Threads);

impl std::fmt::Debug for CameraEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CameraEnd").field(&self.0.shared.text).finish()
    }
}

impl CameraEnd {
    /// Opens the channel; `None` where none is asked for. `deliver` takes each bare feedback packet, on threads of the
    /// channel.
    ///
    /// # Errors
    /// What is wrong, by the names of the elements' properties, and what to do.
    pub fn open(setup: &Setup, deliver: Deliver, tell: Tell) -> Result<Option<Self>, OpenError> {
        let Some((shared, key, socket)) = prepare(setup, End::Camera, tell)? else {
            return Ok(None);
        };
        let receiver = match key {
            Some(key) => {
                let secret = random().ok_or_else(|| OpenError::System("no random numbers".into()))?;
                Some(Mutex::new(Receiver::new(key, secret)))
            }
            None => None,
        };
        let camera = Arc::new(Camera {
            shared: shared.clone(),
            receiver,
            deliver,
            heard: Mutex::default(),
        });
        let mut threads = Threads {
            shared: shared.clone(),
            threads: Vec::new(),
        };
        threads.spawn("dds-feedback", move || match (socket, shared.uri.transport) {
            (Socket::Udp(socket), _) => camera.read_udp(&socket, None),
            (Socket::Tcp(listener), _) => {
                shared.listen_tcp(&listener, move |stream, from| {
                    camera.serve(&stream, from);
                });
            }
            (Socket::None, Transport::Tcp) => shared.dial_tcp(|stream, to| camera.serve(&stream, to)),
            (Socket::None, Transport::Udp) => camera.dial_udp(),
        })?;
        Ok(Some(Self(threads)))
    }

    /// What went through; of use after the end as well.
    pub fn counters(&self) -> Arc<Counters> {
        self.0.shared.counters.clone()
    }
}

struct Camera {
    shared: Arc<Shared>,
    /// `None` without a key.
    receiver: Option<Mutex<Receiver>>,
    deliver: Deliver,
    /// Servers, and when they were heard last.
    heard: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Camera {
    /// Takes a message; the answer to it, if it has one.
    fn take(&self, message: &[u8], from: SocketAddr) -> Result<Option<Vec<u8>>, Rejection> {
        let shared = &self.shared;
        let received = match &self.receiver {
            Some(receiver) => receiver.lock().unwrap().receive(shared.now(), message),
            None if message.starts_with(&feedback::MAGIC) => Ok(Received::Packet(message.to_vec(), false)),
            None => Err(Rejection::Malformed),
        };
        match received {
            Ok(Received::Packet(packet, first)) => {
                add(&shared.counters.received);
                if first {
                    add(&shared.counters.sessions);
                }
                self.hear(from);
                (self.deliver)(&packet);
                Ok(None)
            }
            Ok(Received::Challenge(answer)) => Ok(Some(answer)),
            Err(why) => {
                shared.reject(why, from, message, self.receiver.is_some());
                Err(why)
            }
        }
    }

    fn hear(&self, from: SocketAddr) {
        self.forget();
        let mut heard = self.heard.lock().unwrap();
        // Without a key addresses are easily made up.
        let known = heard.contains_key(&from);
        if known || heard.len() < secure::MAX_SESSIONS {
            heard.insert(from, Instant::now());
        }
        self.shared.counters.peers.store(heard.len() as u64, Ordering::Relaxed);
        drop(heard);
        if !known {
            self.shared.joined(from);
        }
    }

    /// Servers that have been silent are not there any more.
    fn forget(&self) {
        let mut heard = self.heard.lock().unwrap();
        heard.retain(|_, at| at.elapsed() < SILENCE);
        self.shared.counters.peers.store(heard.len() as u64, Ordering::Relaxed);
    }

    /// Until the channel is closed or, where one is `called`, nobody has answered for a while.
    fn read_udp(&self, socket: &UdpSocket, called: Option<SocketAddr>) {
        let shared = &self.shared;
        let mut buffer = [0; MAX_MESSAGE + 1];
        let (mut call_at, mut answered) = (shared.now(), None);
        let begun = call_at;
        while !shared.is_stopped() {
            let now = shared.now();
            if let Some(to) = called {
                // With a key the server says hello every two seconds, whether it has feedback or not.
                if now - answered.unwrap_or(begun) > SILENCE && self.receiver.is_some() {
                    shared.silent();
                    return;
                }
                if now >= call_at {
                    call_at = now + if answered.is_some() { CALL_EVERY } else { CALL_FIRST };
                    let call = match &self.receiver {
                        Some(receiver) => random().map(|random| receiver.lock().unwrap().call(&random)),
                        None => Some(secure::plain_call()),
                    };
                    if let Some(call) = call {
                        let _ = socket.send_to(&call, to);
                    }
                }
            }
            self.forget();
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let taken = self.take(&buffer[..length], from);
                    if taken.is_ok() {
                        answered = Some(now);
                    }
                    if let Ok(Some(answer)) = taken {
                        let _ = socket.send_to(&answer, from);
                    }
                }
                Err(error) if is_tick(&error) => (),
                // Somebody's port is closed; that is no reason to be busy.
                Err(_) => {
                    shared.pause(TICK);
                }
            }
        }
    }

    fn dial_udp(&self) {
        let shared = &self.shared;
        for attempt in 0.. {
            if shared.is_stopped() {
                return;
            }
            match shared.dial_udp(attempt) {
                Ok((socket, to)) => self.read_udp(&socket, Some(to)),
                Err(error) => {
                    gst::debug!(crate::CAT, "{}: {error}", shared.text);
                    shared.silent();
                    shared.pause(CONNECT);
                }
            }
        }
    }

    /// One connection. Returns whether it carried a valid message.
    fn serve(&self, stream: &TcpStream, from: SocketAddr) -> bool {
        let shared = &self.shared;
        let begun = Instant::now();
        let last = std::cell::Cell::new(None::<Instant>);
        let take = |message: &[u8]| match self.take(message, from) {
            Ok(answer) => {
                last.set(Some(Instant::now()));
                answer.is_none_or(|answer| write_tcp(stream, &answer).is_ok())
            }
            // A stream neither doubles nor damages; packets of a session from before a restart do come.
            Err(Rejection::Session) => true,
            Err(_) => false,
        };
        let lives = || {
            self.forget();
            match (last.get(), &self.receiver) {
                // Without a key a server is silent while it has nothing to say.
                (_, None) => true,
                (Some(at), Some(_)) => at.elapsed() < IDLE_LIFE,
                (None, Some(_)) => begun.elapsed() < STRANGER_LIFE,
            }
        };
        shared.read_tcp(stream, take, lives);
        self.heard.lock().unwrap().remove(&from);
        self.forget();
        last.get().is_some()
    }
}

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
    /// Opens the channel; `None` where none is asked for.
    ///
    /// # Errors
    /// What is wrong, by the names of the elements' properties, and what to do.
    pub fn open(setup: &Setup, tell: Tell) -> Result<Option<Self>, OpenError> {
        let Some((shared, key, socket)) = prepare(setup, End::Server, tell)? else {
            return Ok(None);
        };
        let server = Arc::new(Server {
            shared: shared.clone(),
            key,
            queue: Mutex::default(),
            queued: Condvar::new(),
            peers: Mutex::default(),
        });
        let mut threads = Threads {
            shared: shared.clone(),
            threads: Vec::new(),
        };
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

    /// Hands over the packets of one generation; never waits. Returns whether a camera is there to take them.
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

    /// What went through; of use after the end as well.
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
    /// When it called last, and whether that call has had no hello yet.
    called: Duration,
    asked: bool,
    /// Of one that was dialled its calls are not waited for.
    dialled: bool,
}

impl Peer {
    fn send(&self, message: &[u8]) -> std::io::Result<()> {
        match &self.link {
            Link::Udp(socket) => socket.send_to(message, self.address).map(drop),
            Link::Tcp(stream) => write_tcp(stream, message),
        }
    }

    fn is_open(&self) -> bool {
        self.sealer.as_ref().is_none_or(Sender::is_open)
    }

    fn close(&self) {
        if let Link::Tcp(stream) = &self.link {
            // Its reader ends with it.
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
            if self.send(&packets) {
                shared.silent();
            }
        }
    }

    /// One round: what is due of handshakes, and the packets. Returns whether a camera that was dialled does not answer.
    fn send(&self, packets: &VecDeque<Vec<u8>>) -> bool {
        let shared = &self.shared;
        let now = shared.now();
        let mut peers = self.peers.lock().unwrap();
        let mut silent = false;
        peers.retain_mut(|peer| {
            let mut failed = false;
            let called_only = matches!(peer.link, Link::Udp(_)) && !peer.dialled && !peer.is_open();
            if let Some(sealer) = &mut peer.sealer {
                // A call may be forged or said again: until the camera has answered it gets one hello for each.
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
            // A datagram that fails says nothing of the next one.
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

    /// Adds a camera, in the place of one that never answered where there is none free.
    fn add_peer(&self, peer: Peer) {
        let address = peer.address;
        // That a datagram can be sent does not tell that anybody takes it.
        let told = peer.sealer.is_none() && (matches!(peer.link, Link::Tcp(_)) || !peer.dialled);
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
        if told {
            self.shared.joined(address);
        }
    }

    /// Takes the message of a camera. `false` where it was refused.
    fn take(&self, message: &[u8], from: SocketAddr, socket: Option<&Arc<UdpSocket>>) -> bool {
        let shared = &self.shared;
        let called = match &self.key {
            Some(key) => Sender::check_call(key, message).is_ok(),
            None => secure::is_plain_call(message),
        };
        let mut peers = self.peers.lock().unwrap();
        // Of one that was dialled the answer may come from another of its addresses.
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

    /// Until the channel is closed or the camera that was `dialled` has not answered for a while.
    fn read_udp(&self, socket: &Arc<UdpSocket>, dialled: Option<SocketAddr>) {
        let shared = &self.shared;
        if let Some(to) = dialled {
            self.add_peer(self.peer(Link::Udp(socket.clone()), to, true));
        }
        let mut buffer = [0; MAX_MESSAGE + 1];
        while !shared.is_stopped() {
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    self.take(&buffer[..length], from, dialled.is_none().then_some(socket));
                }
                Err(error) if is_tick(&error) => (),
                Err(_) => {
                    shared.pause(TICK);
                }
            }
            // Its name may mean another address now.
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

    /// One connection. Returns whether the other end was a camera.
    fn serve(&self, stream: TcpStream, address: SocketAddr) -> bool {
        let stream = Arc::new(stream);
        let is_ours = |peer: &Peer| matches!(&peer.link, Link::Tcp(link) if Arc::ptr_eq(link, &stream));
        let dialled = self.shared.uri.mode == Mode::Caller;
        self.add_peer(self.peer(Link::Tcp(stream.clone()), address, dialled));
        let mut right = self.key.is_none();
        let take = |message: &[u8]| {
            let taken = self.take(message, address, None);
            right |= taken;
            taken
        };
        let lives = || self.peers.lock().unwrap().iter().any(is_ours);
        self.shared.read_tcp(&stream, take, lives);
        self.peers.lock().unwrap().retain(|peer| !is_ours(peer));
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "0123456789abcdef";

    fn setup(uri: &str, key: &str) -> Setup {
        Setup {
            uri: uri.into(),
            key: key.into(),
            ..Setup::default()
        }
    }

    #[test]
    fn properties_that_cannot_work_are_refused_by_name() {
        let read = |setup: &Setup| {
            setup
                .read(End::Camera)
                .map(|read| read.is_some())
                .map_err(|e| e.to_string())
        };
        let refused = |setup: &Setup, words: &[&str]| {
            let text = read(setup).unwrap_err();
            words.iter().for_each(|word| assert!(text.contains(word), "{text}"));
        };
        assert_eq!(read(&Setup::default()), Ok(false));
        assert_eq!(read(&setup("udp://0.0.0.0:5006", KEY)), Ok(true));
        assert_eq!(read(&setup("udp://127.0.0.1:5006", "")), Ok(true));
        refused(
            &setup("udp://0.0.0.0:5006", ""),
            &["feedback-uri", "feedback-key", "feedback-plain"],
        );
        refused(
            &setup("udp://0.0.0.0:5006", "short"),
            &["feedback-key", "5 bytes", "openssl"],
        );
        refused(&setup("nonsense", KEY), &["feedback-uri=nonsense", "udp://"]);
        refused(&setup("", KEY), &["feedback-key", "feedback-uri"]);
        let file = |path: &str| Setup {
            key_file: path.into(),
            ..setup("tcp://:5006", "")
        };
        refused(
            &file("/nowhere/key"),
            &["feedback-key-file=/nowhere/key", "cannot be read"],
        );
        refused(
            &Setup {
                key: KEY.into(),
                ..file("key")
            },
            &["feedback-key-file", "feedback-key is set too"],
        );
        let plain = |key: &str| Setup {
            plain: true,
            ..setup("tcp://:5006", key)
        };
        assert_eq!(read(&plain("")), Ok(true));
        refused(&plain(KEY), &["feedback-plain", "a key is set"]);
    }

    #[test]
    fn a_key_file_is_read_and_a_long_one_refused() {
        let path = std::env::temp_dir().join(format!("dds-key-{}", std::process::id()));
        let setup = Setup {
            key_file: path.to_string_lossy().into_owned(),
            ..setup("tcp://:5006", "")
        };
        std::fs::write(&path, format!("{KEY}\n")).unwrap();
        assert!(matches!(setup.read(End::Camera), Ok(Some((_, Some(_))))));
        std::fs::write(&path, vec![b'k'; 100_000]).unwrap();
        let error = setup.read(End::Camera).unwrap_err();
        assert!(
            matches!(error, OpenError::Key("feedback-key-file", KeyError::TooLong(_))),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_with_the_cure() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let uri = format!("udp://{}", taken.local_addr().unwrap());
        let error = CameraEnd::open(&setup(&uri, KEY), Arc::new(|_| ()), Arc::new(|_| ())).unwrap_err();
        assert!(matches!(error, OpenError::Listen(..)), "{error}");
        assert!(error.to_string().contains(&uri));
    }

    #[test]
    fn a_length_that_no_message_has_ends_the_stream() {
        for length in [0u16, MAX_MESSAGE as u16 + 1, u16::MAX] {
            let mut framer = Framer::default();
            framer.push(&length.to_be_bytes());
            assert_eq!(framer.next(), Err(TooLong));
        }
    }

    proptest! {
        #[test]
        fn messages_come_out_of_a_stream_however_it_is_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..=MAX_MESSAGE), 0..6),
            cut in 1usize..700,
        ) {
            let stream: Vec<u8> = messages
                .iter()
                .flat_map(|m| [&(m.len() as u16).to_be_bytes()[..], m].concat())
                .collect();
            let mut framer = Framer::default();
            let mut found = Vec::new();
            for piece in stream.chunks(cut) {
                framer.push(piece);
                while let Some(message) = framer.next().unwrap() {
                    found.push(message);
                }
            }
            prop_assert_eq!(found, messages);
        }
    }
}
