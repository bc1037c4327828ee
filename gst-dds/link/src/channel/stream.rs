// SPDX-License-Identifier: MPL-2.0

//! Messages in a stream of bytes, and in datagrams.

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use super::{TICK, WRITE};
use crate::secure::MAX_MESSAGE;

pub(super) fn set_options(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(WRITE))?;
    // Delaying small writes until the acknowledgement would make feedback late by a frame.
    stream.set_nodelay(true)
}

/// Nothing came in time; not an error.
pub(super) fn is_tick(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// A length that no message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Reads messages from a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct Framer(Vec<u8>);

impl Framer {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
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

pub(super) fn write_tcp(mut stream: &TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| std::io::Error::from(ErrorKind::InvalidInput))?;
    // One write, so that one segment is sent.
    stream.write_all(&[&length.to_be_bytes()[..], message].concat())
}

/// Sends a datagram, by a socket that is `connected` to its destination or by one that is not.
pub(super) fn send_udp(socket: &UdpSocket, message: &[u8], to: SocketAddr, connected: bool) -> std::io::Result<()> {
    if !connected {
        return socket.send_to(message, to).map(drop);
    }
    // Instead of sending this one, the socket may report once that an earlier one had no receiver.
    match socket.send(message) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => socket.send(message).map(drop),
        sent => sent.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
