// SPDX-License-Identifier: MPL-2.0

//! The camera's end.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use dds_protocol::feedback;

use super::counters::{Counters, add};
use super::shared::{Shared, Socket, Threads, prepare};
use super::stream::{is_tick, send_udp, write_tcp};
use super::{CALL_EVERY, CALL_FIRST, CONNECT, IDLE_LIFE, OnNotice, OpenError, SILENCE, STRANGER_LIFE, Setup, TICK};
use crate::secure::{self, MAX_MESSAGE, Received, Receiver, Rejection, random};
use crate::session::Deliver;
use crate::sync::Mutex;
use crate::uri::{End, Transport};

/// The camera's end.
pub struct CameraEnd(Threads);

impl std::fmt::Debug for CameraEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CameraEnd").field(&self.0.shared.text).finish()
    }
}

impl CameraEnd {
    /// Opens the channel; `None` where none is set. `deliver` receives each bare feedback packet, on threads of the
    /// channel.
    ///
    /// # Errors
    /// Names the property that is wrong, and the cure.
    pub fn open(setup: &Setup, deliver: Deliver, on_notice: OnNotice) -> Result<Option<Self>, OpenError> {
        let Some((shared, key, socket)) = prepare(setup, End::Camera, on_notice)? else {
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
            servers: Mutex::default(),
        });
        let mut threads = Threads::new(&shared);
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

    /// Counts of the channel; valid after the end as well.
    pub fn counters(&self) -> Arc<Counters> {
        self.0.shared.counters.clone()
    }
}

struct Camera {
    shared: Arc<Shared>,
    /// `None` without a key.
    receiver: Option<Mutex<Receiver>>,
    deliver: Deliver,
    /// Servers, and the time of their last message.
    servers: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Camera {
    /// Processes a message; returns the answer to it, if it has one.
    fn take(&self, message: &[u8], from: SocketAddr) -> Result<Option<Vec<u8>>, Rejection> {
        let guard = &self.shared.guard;
        guard.run(Err(Rejection::Malformed), || self.take_unguarded(message, from))
    }

    fn take_unguarded(&self, message: &[u8], from: SocketAddr) -> Result<Option<Vec<u8>>, Rejection> {
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
        let mut servers = self.servers.lock().unwrap();
        // Without a key addresses are easily forged.
        let known = servers.contains_key(&from);
        if known || servers.len() < secure::MAX_SESSIONS {
            servers.insert(from, Instant::now());
        }
        self.shared
            .counters
            .peers
            .store(servers.len() as u64, Ordering::Relaxed);
        drop(servers);
        if !known {
            self.shared.joined(from);
        }
    }

    /// Drops servers that have been silent.
    fn forget(&self) {
        let mut servers = self.servers.lock().unwrap();
        servers.retain(|_, at| at.elapsed() < SILENCE);
        self.shared
            .counters
            .peers
            .store(servers.len() as u64, Ordering::Relaxed);
    }

    /// Serves a socket until the channel is closed or, where a server is `called`, until nobody has answered for a
    /// while.
    fn read_udp(&self, socket: &UdpSocket, called: Option<SocketAddr>) {
        let shared = &self.shared;
        let mut buffer = [0; MAX_MESSAGE + 1];
        let (mut call_at, mut answered) = (shared.now(), None);
        let begun = call_at;
        while !shared.is_stopped() {
            let now = shared.now();
            if let Some(to) = called {
                // With a key the server sends a hello every two seconds, whether it has feedback or not.
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
                        let _ = send_udp(socket, &call, to, true);
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
                        let _ = send_udp(socket, &answer, from, called.is_some());
                    }
                }
                Err(error) if is_tick(&error) => (),
                // The port of a peer is closed; wait, to avoid a busy loop.
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

    /// Serves one connection. Returns whether it carried a valid message.
    fn serve(&self, stream: &TcpStream, from: SocketAddr) -> bool {
        let shared = &self.shared;
        let begun = Instant::now();
        let last = std::cell::Cell::new(None::<Instant>);
        let take = |message: &[u8]| match self.take(message, from) {
            Ok(answer) => {
                last.set(Some(Instant::now()));
                answer.is_none_or(|answer| write_tcp(stream, &answer).is_ok())
            }
            // A stream neither duplicates nor damages; packets of a session from before a restart may come.
            Err(Rejection::Session) => true,
            Err(_) => false,
        };
        let lives = || {
            self.forget();
            match (last.get(), &self.receiver) {
                // Without a key a server without feedback is silent.
                (_, None) => true,
                (Some(at), Some(_)) => at.elapsed() < IDLE_LIFE,
                (None, Some(_)) => begun.elapsed() < STRANGER_LIFE,
            }
        };
        shared.read_tcp(stream, take, lives);
        self.servers.lock().unwrap().remove(&from);
        self.forget();
        last.get().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_an_error_with_the_cure() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let uri = format!("udp://{}", taken.local_addr().unwrap());
        let setup = Setup {
            uri: uri.clone(),
            ..Setup::default()
        };
        let error = CameraEnd::open(&setup, Arc::new(|_| ()), Arc::new(|_| ())).unwrap_err();
        assert!(matches!(error, OpenError::Listen(..)), "{error}");
        assert!(error.to_string().contains(&uri));
    }
}
