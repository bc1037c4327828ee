// SPDX-License-Identifier: MPL-2.0

//! The own channel: feedback packets beside the video, over UDP or TCP, for paths that drop RTCP (relays, recorders that
//! restream). Its addresses are those of [`crate::uri`], its messages those of [`crate::secure`].
//!
//! The camera's end ([`CameraEnd`]) takes packets of any number of servers, the server's end ([`ServerEnd`]) gives each
//! packet to every camera that is there. Either may listen or dial. All sockets are served by threads of the channel; who
//! sends or takes packets never waits for them. Dropping an end closes its sockets and ends its threads, within
//! [`TICK`], or within [`CONNECT`] while it dials or writes by TCP.
//!
//! Over UDP each message is a datagram; who dials hears nobody but the address that it dialled, and who listens does so on
//! the address that it was given and no other. Over TCP each stands behind its length in 16 bits, at most
//! [`MAX_MESSAGE`](crate::secure::MAX_MESSAGE); a length beyond that ends the connection. A connection that fails is
//! made anew after 250 ms, then after twice as long each time, up to 5 s.
//!
//! Without a key ([`Setup::plain`], or both ends on one machine) messages are the bare feedback packets, which the pads
//! `feedback` of the elements speak as well.

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
pub use notice::{Notice, Report, post_by};
pub use server::ServerEnd;
pub use setup::{OpenError, Setup};

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
