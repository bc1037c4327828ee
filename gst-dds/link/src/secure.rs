// SPDX-License-Identifier: MPL-2.0

//! Sealed messages of the own channel: feedback shows where people are and makes a camera spend bits, so nobody without
//! the shared key may read, forge or replay it.
//!
//! # Messages
//!
//! Every message begins with [`MAGIC`], [`VERSION`] and its kind; numbers are big-endian.
//!
//! | kind | from | bytes | size |
//! |---|---|---|---|
//! | 1 hello | server | header 4, session 16, zeros 16, tag 16 | 52 |
//! | 2 challenge | camera | header 4, session 16, challenge 16, tag 16 | 52 |
//! | 3 sealed | server | header 4, session 16, counter 8, ciphertext 1-1200, tag 16 | 45-1244 |
//! | 4 call | camera | header 4, random 16, zeros 16, tag 16 | 52 |
//! | 5 plain call | camera | header 4 | 4 |
//!
//! A *session* is 16 random bytes that a server draws; the camera answers its hello with a *challenge*. The feedback
//! packets of the session are sealed with ChaCha20-Poly1305 (RFC 8439) under a key derived from the shared key, the
//! session and the challenge by HKDF-SHA256 (RFC 5869); the counter, which starts at 0, is the nonce, and the 28 bytes
//! before the ciphertext are authenticated with it. A key belongs to one session and a counter is used once, so that no
//! nonce repeats. Tags of the other messages are the first 16 bytes of HMAC-SHA256 over all bytes before them, with a
//! key of their own. A hello and a call have one answer each, which is no longer than they are: a forged source address
//! makes neither end an amplifier.
//!
//! A server draws a new session every [`RENEW`], so that a restarted camera is fed again after that time. A camera that
//! dials announces itself by a call, which the server answers by a hello. Plain calls come before bare feedback packets
//! where no key is used at all; they are defined here only to be distinguished.
//!
//! # What is refused
//!
//! - *Forged, changed, of another key*: the tag fails ([`Rejection::Tag`]), or no session of the last
//!   [`SESSION_LIFE`] opens it ([`Rejection::Session`]).
//! - *Replayed within a session*: each session has a window of [`WINDOW`] counters ([`Rejection::Replay`]).
//! - *Replayed as a whole session*: the challenge is a function of the session, of a secret that the camera draws when
//!   it starts, and of the current slot of [`SLOT`]; only those of this slot and the one before open a new session. The
//!   state of a session is kept for [`SESSION_LIFE`] from its beginning, and that is no less than two slots: once it is
//!   dropped no challenge that the session could begin with is valid any more. After a restart the secret is another
//!   one. The camera keeps no state for a hello, so that recorded hellos, however many, fill no table.
//!
//! Remaining risks: an attacker who can hold packets back can deliver them late, up to [`SESSION_LIFE`] after the
//! session began, where nothing newer has come; the camera's generation numbers bound the effect. Sizes and times of
//! packets are visible. All ends share one key: one compromised camera exposes the others' feedback, and recordings of
//! the past as well.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::Duration;

use chacha20poly1305::aead::{Aead, Generate, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use dds_protocol::feedback::MAX_PACKET;
use hkdf::Hkdf;
use hkdf::hmac::{Hmac, Mac};
use sha2::Sha256;

/// First bytes of every message; like those of feedback packets outside the ranges of STUN, DTLS, RTP and RTCP.
pub const MAGIC: [u8; 2] = [0xdd, 0x4b];
/// Version written and read here.
pub const VERSION: u8 = 1;
/// Fewest bytes of a shared key.
pub const MIN_KEY: usize = 16;
/// Most bytes of a shared key.
pub const MAX_KEY: usize = 4096;
/// Bytes that sealing adds to a packet.
pub const OVERHEAD: usize = BEFORE_CIPHERTEXT + TAG;
/// Most bytes in one message.
pub const MAX_MESSAGE: usize = OVERHEAD + MAX_PACKET;
/// Bytes of hello, challenge and call.
pub const HANDSHAKE: usize = 52;
/// Most that the counter of a packet may be behind the newest of its session.
pub const WINDOW: u64 = 128;
/// Interval at which a server draws a new session.
pub const RENEW: Duration = Duration::from_secs(2);
/// A challenge opens new sessions in the slot it was made in and in the next.
pub const SLOT: Duration = Duration::from_secs(10);
/// Time for which a camera opens the packets of a session, from its first one; at least two slots.
pub const SESSION_LIFE: Duration = Duration::from_secs(30);
/// A server without an answer drops its session before the camera does.
const SESSION_USE: Duration = Duration::from_secs(25);
/// Most sessions a camera keeps: 15 for each server in the life of one, so 17 servers.
pub const MAX_SESSIONS: usize = 256;
/// First wait for the answer to a hello; it doubles up to [`PATIENCE_MAX`].
const PATIENCE: Duration = Duration::from_millis(250);
const PATIENCE_MAX: Duration = Duration::from_secs(1);

const HEADER: usize = 4;
const TAG: usize = 16;
const BEFORE_CIPHERTEXT: usize = HEADER + 16 + 8;

/// 16 random bytes.
pub type Nonce = [u8; 16];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Hello = 1,
    Challenge = 2,
    Sealed = 3,
    Call = 4,
    PlainCall = 5,
}

impl Kind {
    fn header(self) -> [u8; HEADER] {
        [MAGIC[0], MAGIC[1], VERSION, self as u8]
    }

    /// The kind of a message, where the message has the size of its kind.
    fn of(message: &[u8]) -> Result<Self, Rejection> {
        let (header, _) = message.split_first_chunk::<HEADER>().ok_or(Rejection::Malformed)?;
        let all = [Self::Hello, Self::Challenge, Self::Sealed, Self::Call, Self::PlainCall];
        let kind = all.into_iter().find(|kind| kind.header() == *header);
        let kind = kind.ok_or(Rejection::Malformed)?;
        let fits = match kind {
            Self::Sealed => (OVERHEAD + 1..=MAX_MESSAGE).contains(&message.len()),
            Self::PlainCall => message.len() == HEADER,
            _ => message.len() == HANDSHAKE,
        };
        if fits { Ok(kind) } else { Err(Rejection::Malformed) }
    }
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Not a message of this version, or one that this end does not receive.
    Malformed,
    /// Made with another key, or changed in transit.
    Tag,
    /// Of no open session: forged, of a session that is over, or of a server that has not noticed the camera's restart.
    Session,
    /// Received before, or too far behind.
    Replay,
    /// Too many sessions at once.
    Busy,
}

/// Why a shared key is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Too few bytes.
    TooShort(usize),
    /// Too many bytes.
    TooLong(usize),
    /// `hex:` followed by invalid digits.
    Hex,
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const CURE: &str = "Make one with: openssl rand -hex 32";
        match self {
            Self::TooShort(bytes) => write!(f, "The key has {bytes} bytes, fewer than {MIN_KEY}. {CURE}"),
            Self::TooLong(bytes) => write!(f, "The key has {bytes} bytes, more than {MAX_KEY}. {CURE}"),
            Self::Hex => write!(
                f,
                "After hex: there must be pairs of hexadecimal digits and nothing else. {CURE}"
            ),
        }
    }
}

impl std::error::Error for KeyError {}

/// Random bytes of the system; `None` where it has none.
pub fn random<const N: usize>() -> Option<[u8; N]> {
    <[u8; N]>::try_generate().ok()
}

/// The keys derived from a shared key. Its text is not kept, and its debug output shows nothing of it.
#[derive(Clone)]
pub struct Key(Hkdf<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// From a key of [`MIN_KEY`] to [`MAX_KEY`] bytes that nobody can guess: it is not stretched.
    ///
    /// # Errors
    /// Too few bytes, or too many.
    pub fn new(secret: &[u8]) -> Result<Self, KeyError> {
        match secret.len() {
            ..MIN_KEY => Err(KeyError::TooShort(secret.len())),
            MIN_KEY..=MAX_KEY => Ok(Self(Hkdf::new(Some(b"gst-dds feedback"), secret))),
            _ => Err(KeyError::TooLong(secret.len())),
        }
    }

    /// From a key as written in a property or a file: `hex:` and hexadecimal digits, or any other bytes, which are the
    /// key themselves; a line end after it does not count.
    ///
    /// # Errors
    /// As [`Self::new`]; invalid digits.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let Some(digits) = text.strip_prefix(b"hex:") else {
            return Self::new(text);
        };
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|d| d as u8);
        let pairs = digits.chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        });
        Self::new(&pairs.collect::<Option<Vec<u8>>>().ok_or(KeyError::Hex)?)
    }

    fn derive(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut key = [0; 32];
        // 32 bytes are far below what HKDF can give.
        let _ = self.0.expand_multi_info(parts, &mut key);
        key
    }

    fn mac(&self, bytes: &[u8]) -> Hmac<Sha256> {
        mac(&self.derive(&[b"handshake"]), bytes)
    }

    fn cipher(&self, session: &Nonce, challenge: &Nonce) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&self.derive(&[b"session", session, challenge]).into())
    }

    /// A message of 52 bytes.
    fn handshake(&self, kind: Kind, first: &Nonce, second: &Nonce) -> Vec<u8> {
        let mut message = Vec::with_capacity(HANDSHAKE);
        message.extend_from_slice(&kind.header());
        message.extend_from_slice(first);
        message.extend_from_slice(second);
        let tag = self.mac(&message).finalize().into_bytes();
        message.extend_from_slice(&tag[..TAG]);
        message
    }

    /// The two fields of a message of 52 bytes.
    fn open_handshake(&self, message: &[u8]) -> Result<(Nonce, Nonce), Rejection> {
        let (body, tag) = message.split_last_chunk::<TAG>().ok_or(Rejection::Malformed)?;
        self.mac(body).verify_truncated_left(tag).map_err(|_| Rejection::Tag)?;
        let fields = &body[HEADER..];
        let (first, second) = fields.split_first_chunk().ok_or(Rejection::Malformed)?;
        Ok((*first, second.try_into().map_err(|_| Rejection::Malformed)?))
    }
}

fn mac(key: &[u8; 32], bytes: &[u8]) -> Hmac<Sha256> {
    // HMAC pads keys up to its block with zeros, so it refuses none.
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    // Written in full: the trait of the cipher's generation has the same name.
    let mut mac = <Hmac<Sha256> as hkdf::hmac::digest::KeyInit>::new(&block.into());
    mac.update(bytes);
    mac
}

fn nonce(counter: u64) -> chacha20poly1305::Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce.into()
}

/// The call of a camera that dials without a key; it is the only message then.
pub fn plain_call() -> Vec<u8> {
    Kind::PlainCall.header().to_vec()
}

/// Whether a message is a plain call.
pub fn is_plain_call(message: &[u8]) -> bool {
    Kind::of(message) == Ok(Kind::PlainCall)
}

/// Window of received counters.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// The newest counter plus one; 0 before the first.
    next: u64,
    /// Bit n: `next - 1 - n` was received.
    seen: u128,
}

impl Window {
    /// Marks a counter as received; `false` where it was before or is too far behind.
    fn take(&mut self, counter: u64) -> bool {
        let Some(next) = counter.checked_add(1) else {
            return false;
        };
        if next > self.next {
            let forward = next - self.next;
            self.seen = if forward < WINDOW { self.seen << forward } else { 0 };
            self.seen |= 1;
            self.next = next;
            return true;
        }
        let behind = self.next - next;
        if behind >= WINDOW || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

struct Session {
    cipher: ChaCha20Poly1305,
    window: Window,
    begun: Duration,
}

/// A valid message at the camera's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A feedback packet. Second: whether it is the first one of its session.
    Packet(Vec<u8>, bool),
    /// A server asks for a challenge: send it this one.
    Challenge(Vec<u8>),
}

/// The camera's end: opens the messages of any number of servers.
pub struct Receiver {
    key: Key,
    /// Drawn at the start, never sent.
    secret: [u8; 32],
    sessions: HashMap<Nonce, Session>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// A camera's end with a secret from [`random`], another one at each start.
    pub fn new(key: Key, secret: [u8; 32]) -> Self {
        Self {
            key,
            secret,
            sessions: HashMap::new(),
        }
    }

    /// The call of a camera that dials; `random`: from [`random`].
    pub fn call(&self, random: &Nonce) -> Vec<u8> {
        self.key.handshake(Kind::Call, random, &[0; 16])
    }

    /// Opens a message that came at `now`, counted from any fixed time before.
    ///
    /// # Errors
    /// Why it is refused; nothing has changed.
    pub fn receive(&mut self, now: Duration, message: &[u8]) -> Result<Received, Rejection> {
        match Kind::of(message)? {
            Kind::Hello => {
                let (session, _) = self.key.open_handshake(message)?;
                let challenge = self.challenge(&session, slot(now));
                let answer = self.key.handshake(Kind::Challenge, &session, &challenge);
                Ok(Received::Challenge(answer))
            }
            Kind::Sealed => self.open(now, message),
            Kind::Challenge | Kind::Call | Kind::PlainCall => Err(Rejection::Malformed),
        }
    }

    fn challenge(&self, session: &Nonce, slot: u64) -> Nonce {
        let bytes = [&session[..], &slot.to_be_bytes()].concat();
        let mac = mac(&self.secret, &bytes).finalize().into_bytes();
        let mut challenge = [0; 16];
        challenge.copy_from_slice(&mac[..16]);
        challenge
    }

    fn open(&mut self, now: Duration, message: &[u8]) -> Result<Received, Rejection> {
        let (before, ciphertext) = message
            .split_at_checked(BEFORE_CIPHERTEXT)
            .ok_or(Rejection::Malformed)?;
        let (id, counter) = before[HEADER..].split_first_chunk().ok_or(Rejection::Malformed)?;
        let counter = u64::from_be_bytes(counter.try_into().map_err(|_| Rejection::Malformed)?);
        let payload = || Payload {
            msg: ciphertext,
            aad: before,
        };
        self.sessions
            .retain(|_, session| now.saturating_sub(session.begun) < SESSION_LIFE);
        if let Some(session) = self.sessions.get_mut(id) {
            let opened = session.cipher.decrypt(&nonce(counter), payload());
            let packet = opened.map_err(|_| Rejection::Tag)?;
            // Only after authentication: a forged counter must not move the window.
            if !session.window.take(counter) {
                return Err(Rejection::Replay);
            }
            return Ok(Received::Packet(packet, false));
        }
        let now_slot = slot(now);
        for slot in [Some(now_slot), now_slot.checked_sub(1)].into_iter().flatten() {
            let cipher = self.key.cipher(id, &self.challenge(id, slot));
            let Ok(packet) = cipher.decrypt(&nonce(counter), payload()) else {
                continue;
            };
            if self.sessions.len() >= MAX_SESSIONS {
                return Err(Rejection::Busy);
            }
            let mut window = Window::default();
            window.take(counter);
            let begun = now;
            self.sessions.insert(*id, Session { cipher, window, begun });
            return Ok(Received::Packet(packet, true));
        }
        Err(Rejection::Session)
    }
}

fn slot(now: Duration) -> u64 {
    now.as_secs() / SLOT.as_secs()
}

/// A hello that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Hello {
    session: Nonce,
    first: Duration,
    again: Duration,
    patience: Duration,
}

struct Outgoing {
    session: Nonce,
    cipher: ChaCha20Poly1305,
    counter: u64,
    begun: Duration,
}

/// The server's end: seals for one camera.
pub struct Sender {
    key: Key,
    hello: Option<Hello>,
    session: Option<Outgoing>,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender")
            .field("hello", &self.hello)
            .finish_non_exhaustive()
    }
}

impl Sender {
    /// A server's end without a session.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            hello: None,
            session: None,
        }
    }

    /// Whether this is a call made with this key.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check_call(key: &Key, message: &[u8]) -> Result<(), Rejection> {
        match Kind::of(message)? {
            Kind::Call => key.open_handshake(message).map(drop),
            _ => Err(Rejection::Malformed),
        }
    }

    /// The hello to send now, if one is due: at once, again while no answer comes, and every [`RENEW`]. To be called at
    /// least every 100 ms. `fresh`: a [`random`] session; without one nothing is due.
    pub fn poll(&mut self, now: Duration, fresh: impl FnOnce() -> Option<Nonce>) -> Option<Vec<u8>> {
        self.session
            .take_if(|session| now.saturating_sub(session.begun) >= SESSION_USE);
        let hello = match &mut self.hello {
            Some(hello) if now < hello.again => return None,
            Some(hello) => {
                hello.patience = (hello.patience * 2).min(PATIENCE_MAX);
                hello
            }
            None => {
                let young = |session: &Outgoing| now.saturating_sub(session.begun) < RENEW;
                if self.session.as_ref().is_some_and(young) {
                    return None;
                }
                self.hello.insert(Hello {
                    session: fresh()?,
                    first: now,
                    again: now,
                    patience: PATIENCE,
                })
            }
        };
        hello.again = now + hello.patience;
        Some(self.key.handshake(Kind::Hello, &hello.session, &[0; 16]))
    }

    /// Processes the camera's answer. `true`: a session has begun; `false`: the answer is no longer expected.
    ///
    /// # Errors
    /// Why it is no answer; nothing has changed.
    pub fn receive(&mut self, now: Duration, message: &[u8]) -> Result<bool, Rejection> {
        if Kind::of(message)? != Kind::Challenge {
            return Err(Rejection::Malformed);
        }
        let (session, challenge) = self.key.open_handshake(message)?;
        if self.hello.take_if(|hello| hello.session == session).is_none() {
            return Ok(false);
        }
        self.session = Some(Outgoing {
            cipher: self.key.cipher(&session, &challenge),
            session,
            counter: 0,
            begun: now,
        });
        Ok(true)
    }

    /// Seals a packet; `None` without a session, or where it is empty or longer than [`MAX_PACKET`].
    pub fn seal(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let session = self
            .session
            .as_mut()
            .filter(|_| (1..=MAX_PACKET).contains(&packet.len()))?;
        let mut message = Vec::with_capacity(OVERHEAD + packet.len());
        message.extend_from_slice(&Kind::Sealed.header());
        message.extend_from_slice(&session.session);
        message.extend_from_slice(&session.counter.to_be_bytes());
        let payload = Payload {
            msg: packet,
            aad: &message,
        };
        let sealed = session.cipher.encrypt(&nonce(session.counter), payload).ok()?;
        // At a million packets per second for the life of a session it is nowhere near its end.
        session.counter += 1;
        message.extend_from_slice(&sealed);
        Some(message)
    }

    /// Whether packets can be sealed.
    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Time without an answer of the camera.
    pub fn unanswered(&self, now: Duration) -> Duration {
        self.hello
            .map_or(Duration::ZERO, |hello| now.saturating_sub(hello.first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &[u8] = b"0123456789abcdef";

    fn key() -> Key {
        Key::new(KEY).unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn camera(secret: u8) -> Receiver {
        Receiver::new(key(), [secret; 32])
    }

    /// A server in session with the camera.
    fn join(camera: &mut Receiver, now: Duration, session: u8) -> Sender {
        let mut server = Sender::new(key());
        let hello = server.poll(now, || Some([session; 16])).unwrap();
        let Received::Challenge(challenge) = camera.receive(now, &hello).unwrap() else {
            panic!("no challenge");
        };
        assert_eq!(server.receive(now, &challenge), Ok(true));
        server
    }

    #[test]
    fn what_is_sealed_is_opened_once() {
        let mut camera = camera(1);
        let mut server = join(&mut camera, at(0), 7);
        let first = server.seal(b"one").unwrap();
        let second = server.seal(b"two").unwrap();
        assert_eq!(first.len(), 3 + OVERHEAD);
        assert!(!second.windows(3).any(|w| w == b"two"));
        // In any order.
        assert_eq!(
            camera.receive(at(0), &second),
            Ok(Received::Packet(b"two".into(), true))
        );
        assert_eq!(
            camera.receive(at(0), &first),
            Ok(Received::Packet(b"one".into(), false))
        );
        for message in [first, second] {
            assert_eq!(camera.receive(at(0), &message), Err(Rejection::Replay));
        }
    }

    #[test]
    fn the_window_is_as_wide_as_it_says() {
        let mut window = Window::default();
        assert!(window.take(1000));
        assert!(window.take(1000 - (WINDOW - 1)));
        assert!(!window.take(1000 - WINDOW));
        assert!(!window.take(1000));
        assert!(window.take(1001));
        assert!(!window.take(1000 - (WINDOW - 1)));
        assert!(window.take(5000));
        assert!(!window.take(1001));
        assert!(window.take(4999));
        assert!(!window.take(u64::MAX));
    }

    #[test]
    fn a_session_cannot_be_said_again_at_any_time() {
        let mut first = camera(1);
        let mut server = join(&mut first, at(0), 7);
        let recorded: Vec<_> = (0..20).map(|_| server.seal(b"packet").unwrap()).collect();
        for message in &recorded {
            first.receive(at(0), message).unwrap();
        }
        // While its state is kept, and after it was dropped.
        for second in 1..200 {
            for message in &recorded {
                assert!(first.receive(at(second), message).is_err(), "after {second} s");
            }
        }
        // And after a restart, where the same hello gets another challenge.
        let mut second = camera(2);
        for message in &recorded {
            assert_eq!(second.receive(at(0), message), Err(Rejection::Session));
        }
    }

    #[test]
    fn a_session_begins_late_only_while_its_challenge_is_valid() {
        for (wait, begins) in [(9, true), (19, true), (20, false), (40, false)] {
            let mut camera = camera(1);
            let mut server = join(&mut camera, at(0), 7);
            let message = server.seal(b"packet").unwrap();
            assert_eq!(camera.receive(at(wait), &message).is_ok(), begins, "after {wait} s");
        }
        // The state of a session is kept for at least as long as its challenge could begin it again.
        assert!(SESSION_LIFE >= 2 * SLOT);
        assert!(SESSION_USE < SESSION_LIFE);
    }

    #[test]
    fn another_key_opens_nothing() {
        let mut camera = camera(1);
        let mut stranger = Sender::new(Key::new(b"fedcba9876543210").unwrap());
        let hello = stranger.poll(at(0), || Some([9; 16])).unwrap();
        assert_eq!(camera.receive(at(0), &hello), Err(Rejection::Tag));
        // Even if it learns a challenge.
        let mut server = Sender::new(key());
        let hello = server.poll(at(0), || Some([9; 16])).unwrap();
        let Ok(Received::Challenge(challenge)) = camera.receive(at(0), &hello) else {
            panic!()
        };
        assert_eq!(stranger.receive(at(0), &challenge), Err(Rejection::Tag));
        assert!(stranger.seal(b"packet").is_none());
        let call = camera.call(&[3; 16]);
        assert_eq!(Sender::check_call(&key(), &call), Ok(()));
        assert_eq!(
            Sender::check_call(&Key::new(&[7; 32]).unwrap(), &call),
            Err(Rejection::Tag)
        );
    }

    #[test]
    fn an_answer_counts_once_and_only_for_the_hello_it_is_for() {
        let mut camera = camera(1);
        let mut server = Sender::new(key());
        let hello = server.poll(at(0), || Some([1; 16])).unwrap();
        let Ok(Received::Challenge(old)) = camera.receive(at(0), &hello) else {
            panic!()
        };
        assert_eq!(server.receive(at(0), &old), Ok(true));
        assert_eq!(server.receive(at(0), &old), Ok(false));
        // The next session.
        assert!(server.poll(at(1), || Some([2; 16])).is_none());
        assert!(server.poll(at(2), || Some([2; 16])).is_some());
        assert_eq!(server.receive(at(2), &old), Ok(false));
        assert_eq!(hello.len(), old.len());
    }

    #[test]
    fn hellos_come_again_with_growing_patience_and_an_unanswered_session_ends() {
        let mut camera = camera(1);
        let mut server = join(&mut camera, at(0), 1);
        let mut hellos = 0;
        for tick in 1..=600u64 {
            hellos += u64::from(
                server
                    .poll(Duration::from_millis(tick * 50), || Some([2; 16]))
                    .is_some(),
            );
            assert_eq!(server.is_open(), tick * 50 < 25_000);
        }
        assert!((25..=35).contains(&hellos), "{hellos}");
        assert_eq!(server.unanswered(at(30)), at(28));
    }

    #[test]
    fn a_restarted_camera_and_a_restarted_server_are_joined_again() {
        let mut first = camera(1);
        let mut server = join(&mut first, at(0), 1);
        let mut second = camera(2);
        assert_eq!(
            second.receive(at(1), &server.seal(b"packet").unwrap()),
            Err(Rejection::Session)
        );
        let hello = server.poll(at(2), || Some([2; 16])).unwrap();
        let Ok(Received::Challenge(challenge)) = second.receive(at(2), &hello) else {
            panic!()
        };
        assert_eq!(server.receive(at(2), &challenge), Ok(true));
        let message = server.seal(b"packet").unwrap();
        assert_eq!(
            second.receive(at(2), &message),
            Ok(Received::Packet(b"packet".into(), true))
        );
        let mut other = join(&mut second, at(3), 3);
        assert!(second.receive(at(3), &other.seal(b"packet").unwrap()).is_ok());
    }

    #[test]
    fn sessions_are_bounded_and_make_room_by_ending() {
        let mut camera = camera(1);
        let opened = |camera: &mut Receiver, second: u64, n: usize| {
            let mut server = Sender::new(key());
            let mut session = [0; 16];
            session[..8].copy_from_slice(&n.to_be_bytes());
            let hello = server.poll(at(second), || Some(session)).unwrap();
            let Ok(Received::Challenge(challenge)) = camera.receive(at(second), &hello) else {
                panic!()
            };
            server.receive(at(second), &challenge).unwrap();
            camera.receive(at(second), &server.seal(b"packet").unwrap())
        };
        for n in 0..MAX_SESSIONS {
            assert!(opened(&mut camera, 0, n).is_ok());
        }
        assert_eq!(opened(&mut camera, 29, MAX_SESSIONS), Err(Rejection::Busy));
        assert!(opened(&mut camera, 30, MAX_SESSIONS).is_ok());
    }

    #[test]
    fn keys_are_read_and_refused_with_the_cure() {
        assert_eq!(Key::new(&[1; 15]).unwrap_err(), KeyError::TooShort(15));
        assert_eq!(Key::new(&[1; 5000]).unwrap_err(), KeyError::TooLong(5000));
        assert_eq!(Key::parse(b"hex:0123").unwrap_err(), KeyError::TooShort(2));
        assert_eq!(Key::parse(b"hex:0123x").unwrap_err(), KeyError::Hex);
        assert_eq!(
            Key::parse("hex:ääääääääääääääää".as_bytes()).unwrap_err(),
            KeyError::Hex
        );
        assert!(KeyError::TooShort(3).to_string().contains("openssl rand"));
        // Text, hexadecimal and a file with a line end give the same key.
        let tag = |key: Key| key.mac(b"x").finalize().into_bytes();
        let same = tag(key());
        for text in [KEY, b"0123456789abcdef\r\n", b"hex:30313233343536373839616263646566\n"] {
            assert_eq!(tag(Key::parse(text).unwrap()), same);
        }
        assert_eq!(format!("{:?}", key()), "Key(..)");
    }

    proptest! {
        #[test]
        fn any_packet_comes_through(packet in proptest::collection::vec(any::<u8>(), 1..=MAX_PACKET)) {
            let mut camera = camera(1);
            let mut server = join(&mut camera, at(5), 7);
            let message = server.seal(&packet).unwrap();
            prop_assert!(message.len() <= MAX_MESSAGE);
            prop_assert_eq!(camera.receive(at(5), &message), Ok(Received::Packet(packet, true)));
        }

        #[test]
        fn one_changed_bit_or_a_cut_end_is_refused(at_byte in any::<prop::sample::Index>(), bit in 0u8..8, cut in 1usize..60) {
            let mut camera = camera(1);
            let mut server = join(&mut camera, at(0), 7);
            for message in [server.seal(b"a packet of feedback").unwrap(), Sender::new(key()).poll(at(0), || Some([3; 16])).unwrap()] {
                let mut changed = message.clone();
                changed[at_byte.index(message.len())] ^= 1 << bit;
                prop_assert!(camera.receive(at(0), &changed).is_err());
                prop_assert!(camera.receive(at(0), &message[..message.len().saturating_sub(cut)]).is_err());
                let longer = [&message[..], &[0]].concat();
                prop_assert!(camera.receive(at(0), &longer).is_err());
                prop_assert!(camera.receive(at(0), &message).is_ok());
            }
        }

        #[test]
        fn no_bytes_make_either_end_fail(mut bytes in proptest::collection::vec(any::<u8>(), 0..1400), kind in 0u8..7, headed in any::<bool>()) {
            if headed && bytes.len() >= HEADER {
                bytes[..HEADER].copy_from_slice(&[MAGIC[0], MAGIC[1], VERSION, kind]);
            }
            let mut camera = camera(1);
            let mut server = join(&mut camera, at(0), 7);
            prop_assert!(camera.receive(at(0), &bytes).is_err());
            prop_assert!(server.receive(at(0), &bytes).is_err());
            prop_assert!(Sender::check_call(&key(), &bytes).is_err());
        }

        #[test]
        fn the_window_takes_each_counter_at_most_once(counters in proptest::collection::vec(0u64..400, 0..400)) {
            let mut window = Window::default();
            let mut taken = std::collections::HashSet::new();
            let mut newest = None;
            for counter in counters {
                let first = !taken.contains(&counter);
                let near = newest.is_none_or(|n| counter + WINDOW > n);
                prop_assert_eq!(window.take(counter), first && near);
                if first && near {
                    taken.insert(counter);
                    newest = newest.max(Some(counter));
                }
            }
        }
    }
}
