// SPDX-License-Identifier: MPL-2.0

//! The own channel: feedback packets beside the video, over UDP or TCP, for paths that drop RTCP (relays, recorders that
//! restream). Its addresses are those of [`crate::uri`], its messages those of [`crate::secure`].
//!
//! The camera's end ([`CameraEnd`]) takes packets of any number of servers, the server's end ([`ServerEnd`]) sends each
//! packet to every connected camera. Either may listen or dial. All sockets are served by threads of the channel;
//! senders and receivers of packets never wait for them. Dropping an end closes its sockets and ends its threads,
//! within [`TICK`], or within [`CONNECT`] while it dials or writes by TCP.
//!
//! Over UDP each message is a datagram; the dialling end receives only from the address that it dialled, and the
//! listening end only on the address that it was given. Over TCP the length of each message precedes it in 16 bits, at
//! most [`MAX_MESSAGE`](crate::secure::MAX_MESSAGE); a greater length ends the connection. A failed connection is
//! retried after 250 ms, then after twice as long each time, up to 5 s.
//!
//! Without a key ([`Setup::plain`], or both ends on one machine) messages are the bare feedback packets, which the pads
//! `feedback` of the elements use as well.

#![forbid(unsafe_code)]

mod camera;
mod counters;
mod notice;
mod server;
mod setup;
mod shared;
mod stream;

use std::time::Duration;

pub use camera::CameraEnd;
pub use counters::{Counters, Counts};
pub use notice::{Notice, OnNotice, post_by};
pub use server::ServerEnd;
pub use setup::{OpenError, Setup};

/// Time that a thread waits for a socket before it checks whether to end.
pub const TICK: Duration = Duration::from_millis(50);
/// Most time to make a TCP connection.
pub const CONNECT: Duration = Duration::from_secs(1);
/// Most packets that wait to be sent; the oldest are dropped.
const QUEUE: usize = 64;
/// Interval of the calls of a camera that dials by UDP: until it is answered, and after that, so that a restarted
/// server knows it again.
const CALL_FIRST: Duration = Duration::from_millis(500);
const CALL_EVERY: Duration = Duration::from_secs(2);
/// Silence after which a camera that called counts as gone.
const CALLER_LIFE: Duration = Duration::from_secs(10);
/// Most cameras that one server serves at once, and connections that one camera accepts.
const MAX_PEERS: usize = 16;
/// Most time of a connection without a valid message, and of silence after one.
const STRANGER_LIFE: Duration = Duration::from_secs(5);
const IDLE_LIFE: Duration = Duration::from_secs(15);
/// Time without an answer after which the application is notified.
const SILENCE: Duration = Duration::from_secs(5);
/// Most time to wait for a peer that does not read.
const WRITE: Duration = Duration::from_millis(500);
const BACK_OFF: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
