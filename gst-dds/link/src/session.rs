// SPDX-License-Identifier: MPL-2.0

//! RTCP APP packets on the RTP session that an element's own media runs through.
//!
//! The RTP manager's session object (`RTPSession`) has no Rust binding; it is a GObject with documented signals and
//! properties, used here by name.
//!
//! Timing (RFC 4585): an early RTCP packet is allowed once per T_rr = 8 × average RTCP size × members / RTCP bandwidth.
//! With the session's default of 5 % of 64 kbit/s that is 0.3-0.5 s, far too long for a closed loop, so the server
//! raises the session's RTCP bandwidth. A session that began as AVP refuses early packets until its first regular one:
//! a minimum interval of 1 ms until the first feedback has left brings that forward; left on, it would flood. Early
//! packets carry no report blocks, so regular ones come every half second from then on: the losses in them steer the
//! bandwidth.

#![allow(unsafe_code)]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use glib::{prelude::*, translate::ToGlibPtr};
use gst::prelude::*;

use crate::guard::Guard;
use crate::path::{self, Direction};
use crate::report::{self, ReceiverReport};
use crate::sync::Mutex;
use crate::text;
use dds_protocol::rtcp;

/// RTCP bandwidth that the server sets on its session, in bits per second: an upper bound, not what is used.
pub const RTCP_BANDWIDTH: f64 = 1_000_000.0;
const DEFAULT_MIN_INTERVAL: u64 = 5_000_000_000;
const ATTACH_MIN_INTERVAL: u64 = 1_000_000;
/// Interval of the server's regular packets once feedback flows: early ones carry no report blocks, and the camera
/// should learn of losses within its second.
const REPORT_MIN_INTERVAL: u64 = 500_000_000;

/// An `RTPSession` object, and the `rtpsession` element that it calls back: the element may go first, unnoticed by the
/// session.
#[derive(Clone, Debug)]
struct RtpSession(glib::Object, glib::WeakRef<gst::Element>);

impl PartialEq for RtpSession {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for RtpSession {}

// SAFETY: `RTPSession` guards all its state with its own mutex, and the RTP manager itself emits and receives these
// signals from several streaming threads. Reference counts of GObjects are atomic.
unsafe impl Send for RtpSession {}
// SAFETY: As above.
unsafe impl Sync for RtpSession {}

impl RtpSession {
    fn of(element: &gst::Element) -> Option<Self> {
        let session = read::<Option<glib::Object>>(element.upcast_ref(), "internal-session")??;
        Some(Self(session, element.downgrade()))
    }

    fn read<T: for<'a> glib::value::FromValue<'a>>(&self, property: &str) -> Option<T> {
        read(&self.0, property)
    }

    /// Sets a property that [`Self::read`] has read with the same type.
    fn write(&self, property: &str, value: impl Into<glib::Value>) {
        let value = value.into();
        let fits = self
            .0
            .find_property(property)
            .is_some_and(|p| p.flags().contains(glib::ParamFlags::WRITABLE) && value.type_().is_a(p.value_type()));
        if fits {
            self.0.set_property_from_value(property, &value);
        }
    }

    /// Emits an action signal; `None` for a session without one of that name and these arguments.
    fn emit<T: for<'a> glib::value::FromValue<'a>>(&self, signal: &str, argument: impl Into<glib::Value>) -> Option<T> {
        let argument = argument.into();
        let query = glib::subclass::SignalId::lookup(signal, self.0.type_())?.query();
        let takes = query.param_types().iter().map(|t| t.type_()).eq([argument.type_()]);
        if !takes {
            return None;
        }
        self.0.emit_by_name_with_values(signal, &[argument])?.get().ok()
    }

    /// Whether the session knows a source with this SSRC.
    fn has_source(&self, ssrc: u32) -> bool {
        self.emit::<Option<glib::Object>>("get-source-by-ssrc", ssrc)
            .flatten()
            .is_some()
    }

    /// The last reports of receivers on our stream with this SSRC.
    fn reports(&self, media_ssrc: u32) -> Vec<ReceiverReport> {
        self.read::<Option<gst::Structure>>("stats")
            .flatten()
            .as_ref()
            .and_then(|stats| stats.get::<&glib::ValueArray>("source-stats").ok())
            .map_or_else(Vec::new, |sources| report::in_source_stats(sources, media_ssrc))
    }

    /// Connects a signal handler that may run on any thread, and returns `otherwise` where it panics. `None` for a
    /// session without such a signal.
    fn connect(
        &self,
        signal: &'static str,
        otherwise: Option<bool>,
        element: Option<&gst::Element>,
        handler: impl Fn(&[glib::Value]) -> Option<bool> + Send + Sync + 'static,
    ) -> Option<glib::SignalHandlerId> {
        glib::subclass::SignalId::lookup(signal, self.0.type_())?;
        let guard = Guard::of(signal, element);
        let id = self.0.connect(signal, false, move |values| {
            guard.run(otherwise, || handler(values)).map(|answer| answer.to_value())
        });
        Some(id)
    }
}

/// A property's value; `None` where there is none of that name and type, for which the bindings panic.
fn read<T: for<'a> glib::value::FromValue<'a>>(object: &glib::Object, property: &str) -> Option<T> {
    let readable = object
        .find_property(property)?
        .flags()
        .contains(glib::ParamFlags::READABLE);
    readable.then(|| object.property_value(property).get().ok()).flatten()
}

/// A signal handler that is disconnected when it is dropped.
#[derive(Debug)]
struct Handler {
    session: RtpSession,
    id: Option<glib::SignalHandlerId>,
}

impl Drop for Handler {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.session.0.disconnect(id);
        }
    }
}

/// Sessions on the path that know the SSRC which the path shows for them, each with that SSRC.
fn confirmed(pad: &gst::Pad, direction: Direction) -> Vec<(RtpSession, u32)> {
    path::rtp_sessions(pad, direction)
        .into_iter()
        .filter_map(|found| {
            let session = RtpSession::of(&found.element)?;
            match found.ssrc {
                Some(ssrc) if session.has_source(ssrc) => Some((session, ssrc)),
                // Media has not reached the session yet, or the session is not that of our media: search again later.
                Some(ssrc) => {
                    gst::debug!(
                        crate::CAT,
                        obj = pad,
                        "{} does not know SSRC {ssrc:08x}",
                        found.element.name()
                    );
                    None
                }
                None => None,
            }
        })
        .collect()
}

/// The camera's end: receives feedback on every RTP session its own stream is sent through.
#[derive(Debug, Default)]
pub struct CameraChannel {
    outlets: Vec<Outlet>,
}

/// A session our stream is sent through.
#[derive(Debug)]
struct Outlet {
    handler: Handler,
    /// SSRC of our stream there.
    ssrc: u32,
    /// Whether all incoming RTCP has been through SRTP, when last checked.
    protected: Arc<AtomicBool>,
}

/// Receives one bare feedback packet.
pub type Deliver = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Receives one bare feedback packet that came by RTCP, and whether SRTP authenticated it.
pub type DeliverRtcp = Arc<dyn Fn(bool, &[u8]) + Send + Sync>;

impl CameraChannel {
    /// Searches the data path of `src_pad` again: listens on new sessions, leaves those that have gone. Returns how
    /// many it listens on. To be called on the streaming thread about once a second; a walk costs microseconds.
    pub fn refresh(&mut self, src_pad: &gst::Pad, deliver: &DeliverRtcp) -> usize {
        let sessions = confirmed(src_pad, Direction::Downstream);
        self.outlets
            .retain(|o| sessions.iter().any(|(session, _)| *session == o.handler.session));
        for (session, ssrc) in sessions {
            let is_protected = session.1.upgrade().is_some_and(|e| path::is_protected(&e));
            if let Some(known) = self.outlets.iter_mut().find(|o| o.handler.session == session) {
                // A payloader that starts anew may choose another one.
                known.ssrc = ssrc;
                known.protected.store(is_protected, Ordering::Relaxed);
                continue;
            }
            gst::info!(
                crate::CAT,
                obj = src_pad,
                "Listening for feedback on {:?}, {}",
                session.0,
                if is_protected { "encrypted" } else { "in the clear" }
            );
            let (deliver, protected) = (deliver.clone(), Arc::new(AtomicBool::new(is_protected)));
            let seen = protected.clone();
            let id = session.connect("on-app-rtcp", None, src_pad.parent_element().as_ref(), move |values| {
                if let Some(packet) = AppPacket::of(values) {
                    deliver(seen.load(Ordering::Relaxed), packet.feedback());
                }
                None
            });
            let handler = Handler { session, id };
            self.outlets.push(Outlet {
                handler,
                ssrc,
                protected,
            });
        }
        self.outlets.len()
    }

    /// The last reports of receivers on our own stream on the sessions of the last [`Self::refresh`]: at most one per
    /// receiver and session, in no order, the same again until a newer one comes ([`ReceiverReport::stamp`]
    /// distinguishes them). Empty where nobody has reported yet, or where a receiver of several streams of one session
    /// reports on another one last: the session keeps one block per receiver.
    ///
    /// The session lists all its sources under its own lock, which takes tens of microseconds. A lock of the caller is
    /// held for as long: nothing that the session's signals call may wait for it.
    pub fn reports(&self) -> Vec<ReceiverReport> {
        self.outlets
            .iter()
            .flat_map(|o| o.handler.session.reports(o.ssrc))
            .collect()
    }
}

/// A feedback packet in the arguments of the signal `on-app-rtcp (session, subtype: u32, ssrc: u32, name: string, data:
/// buffer)` of an `RTPSession`.
///
/// All arguments except the session come from anybody who can send RTCP. The name is the four bytes of the packet
/// unchanged: not necessarily UTF-8, and shorter where one of them is 0.
#[derive(Debug)]
pub struct AppPacket {
    /// SSRC of the sender as written in the packet.
    pub ssrc: u32,
    /// The session that received it.
    pub session: glib::Object,
    data: gst::MappedBuffer<gst::buffer::Readable>,
}

impl AppPacket {
    /// `None` for packets of other applications and for arguments of other types.
    pub fn of(arguments: &[glib::Value]) -> Option<Self> {
        let [session, subtype, ssrc, name, data] = arguments else {
            return None;
        };
        let ours = subtype.get::<u32>() == Ok(u32::from(rtcp::SUBTYPE_FEEDBACK));
        if !ours || text::bytes(name)? != rtcp::APP_NAME {
            return None;
        }
        Some(Self {
            ssrc: ssrc.get().ok()?,
            session: session.get::<Option<glib::Object>>().ok()??,
            data: data
                .get::<Option<gst::Buffer>>()
                .ok()??
                .into_mapped_buffer_readable()
                .ok()?,
        })
    }

    /// The bare feedback packet.
    pub fn feedback(&self) -> &[u8] {
        rtcp::strip_app_data(&self.data)
    }

    /// Address of the RTCP of its SSRC, as address:port. `None` where the session does not know it.
    pub fn sender(&self) -> Option<String> {
        let session = RtpSession(self.session.clone(), glib::WeakRef::new());
        let source = session.emit::<Option<glib::Object>>("get-source-by-ssrc", self.ssrc)??;
        let stats = read::<Option<gst::Structure>>(&source, "stats")??;
        text::field(&stats, "rtcp-from").map(str::to_owned)
    }
}

/// Fate of a feedback packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The session sends it at once.
    Now,
    /// The session's rate rule holds it back; it leaves with the next RTCP packet unless newer feedback replaces it.
    Held,
    /// There is no session to send it on.
    NoSession,
}

/// State shared with the signal handler.
#[derive(Debug, Default)]
struct Outbox {
    /// Packets of the newest generation, not sent yet.
    pending: Mutex<Vec<Vec<u8>>>,
    /// Compounds that carried feedback.
    carried: AtomicU64,
    /// The first feedback has left.
    flowing: AtomicBool,
}

/// The server's end: sends feedback on the RTP session its own media comes through.
#[derive(Debug, Default)]
pub struct ServerChannel {
    attached: Option<(Handler, Arc<Outbox>)>,
}

impl ServerChannel {
    /// Searches the data path of `sink_pad` again. Returns whether there is a session to send on. To be called about
    /// once a second and whenever the upstream side may have changed.
    pub fn refresh(&mut self, sink_pad: &gst::Pad) -> bool {
        let session = confirmed(sink_pad, Direction::Upstream)
            .into_iter()
            .next()
            .map(|(session, _)| session);
        if self.attached.as_ref().map(|(h, _)| &h.session) != session.as_ref() {
            self.attached = session.map(|session| {
                gst::info!(crate::CAT, obj = sink_pad, "Sending feedback on {:?}", session.0);
                attach(session, sink_pad.parent_element().as_ref())
            });
        }
        self.attached.is_some()
    }

    /// Whether a session was found at the last [`Self::refresh`].
    pub fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    /// Compounds that carried feedback since the session was found.
    pub fn carried(&self) -> u64 {
        self.attached
            .as_ref()
            .map_or(0, |(_, outbox)| outbox.carried.load(Ordering::Relaxed))
    }

    /// Sends the packets of one generation; unsent packets of the generation before are replaced.
    pub fn send(&self, packets: Vec<Vec<u8>>) -> Sent {
        let Some((handler, outbox)) = &self.attached else {
            return Sent::NoSession;
        };
        // Held while the session sends: a restarting source removes its elements on another thread.
        let Some(_element) = handler.session.1.upgrade() else {
            return Sent::NoSession;
        };
        *outbox.pending.lock().unwrap() = packets;
        // One packet carries all parts: the outbox is emptied into the next compound.
        let accepted = handler.session.emit("send-rtcp-full", 0u64).unwrap_or(false);
        if outbox.flowing.load(Ordering::Relaxed) {
            lengthen_min_interval(&handler.session);
        }
        if accepted { Sent::Now } else { Sent::Held }
    }
}

fn attach(session: RtpSession, element: Option<&gst::Element>) -> (Handler, Arc<Outbox>) {
    if session
        .read::<f64>("rtcp-fraction")
        .is_some_and(|fraction| fraction < RTCP_BANDWIDTH)
    {
        session.write("rtcp-fraction", RTCP_BANDWIDTH);
    }
    let interval = session.read::<u64>("rtcp-min-interval");
    if matches!(interval, Some(DEFAULT_MIN_INTERVAL | REPORT_MIN_INTERVAL)) {
        session.write("rtcp-min-interval", ATTACH_MIN_INTERVAL);
    }
    let outbox = Arc::new(Outbox::default());
    let shared = outbox.clone();
    let id = session.connect("on-sending-rtcp", Some(false), element, move |values| {
        Some(on_sending_rtcp(values, &shared))
    });
    (Handler { session, id }, outbox)
}

/// Ends the short interval of [`attach`]; an interval set by the user stays.
fn lengthen_min_interval(session: &RtpSession) {
    if session.read("rtcp-min-interval") == Some(ATTACH_MIN_INTERVAL) {
        session.write("rtcp-min-interval", REPORT_MIN_INTERVAL);
    }
}

/// `on-sending-rtcp (session, buffer, early: bool) -> bool`: whether the packet must not be suppressed.
fn on_sending_rtcp(values: &[glib::Value], outbox: &Outbox) -> bool {
    let Some(value) = values.get(1).filter(|value| value.is::<gst::Buffer>()) else {
        return false;
    };
    let value: *const glib::gobject_ffi::GValue = value.to_glib_none().0;
    // SAFETY: The value holds a `GstBuffer`, checked above.
    let buffer = unsafe { glib::gobject_ffi::g_value_get_boxed(value) } as *mut gst::ffi::GstBuffer;
    // Another handler may have kept it: then nothing can be appended, and the waiting packets go with the next one.
    // SAFETY: A buffer, where it is not null.
    if buffer.is_null() || unsafe { gst::ffi::gst_mini_object_is_writable(buffer.cast()) } == glib::ffi::GFALSE {
        return false;
    }
    // SAFETY: The session owns the buffer alone while it emits the signal and expects handlers to append to it. Taking
    // a reference (as `Value::get` would) makes it unwritable, so it is borrowed for this call only.
    let buffer = unsafe { gst::BufferRef::from_mut_ptr(buffer) };
    // The compound begins with a report of ours: bytes 4-7 are the SSRC we send as.
    let mut ssrc = [0; 4];
    // The bindings panic where the start lies beyond the end.
    if buffer.size() < 8 || buffer.copy_to_slice(4, &mut ssrc).is_err() {
        return false;
    }
    let packets = std::mem::take(&mut *outbox.pending.lock().unwrap());
    if packets.is_empty() {
        return false;
    }
    for packet in packets {
        let app = rtcp::app_packet(u32::from_be_bytes(ssrc), &packet);
        buffer.append_memory(gst::Memory::from_slice(app));
    }
    outbox.carried.fetch_add(1, Ordering::Relaxed);
    outbox.flowing.store(true, Ordering::Relaxed);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As an `RTPSession` emits `on-app-rtcp`.
    fn arguments(subtype: u32, name: &[u8], data: Option<&[u8]>) -> Vec<glib::Value> {
        let data = data.map(|data| gst::Buffer::from_slice(data.to_vec()));
        let session = gst::Pipeline::new().upcast::<glib::Object>();
        vec![
            session.to_value(),
            subtype.to_value(),
            7u32.to_value(),
            text::value_of(name),
            data.to_value(),
        ]
    }

    #[test]
    fn an_app_packet_is_ours_or_nobodys_whatever_its_arguments_are() {
        gst::init().unwrap();
        let subtype = u32::from(rtcp::SUBTYPE_FEEDBACK);
        let packet = AppPacket::of(&arguments(subtype, b"DDS1", Some(b"data"))).expect("ours");
        assert_eq!((packet.ssrc, packet.feedback()), (7, &b"data"[..]));
        // An object that is not a session knows no sources.
        assert_eq!(packet.sender(), None);
        assert_eq!(
            AppPacket::of(&arguments(subtype, b"DDS1", Some(b""))).map(|p| p.data.len()),
            Some(0)
        );

        for name in [
            &b""[..],
            b"DDS",
            b"DDS2",
            b"\xff\xff\xff\xff",
            b"DDS\xff",
            b"dds1",
            b"DDS1\xc3",
        ] {
            assert!(AppPacket::of(&arguments(subtype, name, Some(b"data"))).is_none());
        }
        for subtype in [subtype + 1, 31, u32::MAX] {
            assert!(AppPacket::of(&arguments(subtype, b"DDS1", Some(b"data"))).is_none());
        }
        assert!(AppPacket::of(&arguments(subtype, b"DDS1", None)).is_none());
        // Values of other types, an unset value, too few and too many.
        let strange = [
            (-1i64).to_value(),
            None::<&str>.to_value(),
            None::<glib::Object>.to_value(),
            None::<gst::Buffer>.to_value(),
            gst::Structure::new_empty("x").to_value(),
            text::value_of(b"\xff"),
        ];
        for place in 0..5 {
            for strange in &strange {
                let mut arguments = arguments(subtype, b"DDS1", Some(b"data"));
                arguments[place] = strange.clone();
                assert!(AppPacket::of(&arguments).is_none(), "{place}: {strange:?}");
            }
        }
        let mut arguments = arguments(subtype, b"DDS1", Some(b"data"));
        arguments.push(1u32.to_value());
        assert!(AppPacket::of(&arguments).is_none());
        assert!((0..5).all(|few| AppPacket::of(&arguments[..few]).is_none()));
    }

    #[test]
    fn feedback_is_appended_to_what_is_a_compound_and_to_nothing_else() {
        gst::init().unwrap();
        let outbox = Outbox::default();
        outbox.pending.lock().unwrap().push(b"data".to_vec());
        let object = gst::Pipeline::new().to_value();
        let kept = gst::Buffer::from_slice([0x80, 201, 0, 1, 0, 0, 0, 9]);
        let short = gst::Buffer::from_slice([0x80, 201]).to_value();
        for wrong in [
            vec![],
            vec![object.clone()],
            vec![object.clone(), 1u32.to_value(), true.to_value()],
            vec![object.clone(), None::<gst::Buffer>.to_value(), true.to_value()],
            vec![object.clone(), kept.to_value(), true.to_value()],
            vec![object.clone(), short, true.to_value()],
        ] {
            assert!(!on_sending_rtcp(&wrong, &outbox));
        }
        assert_eq!(outbox.carried.load(Ordering::Relaxed), 0);
        // Nothing of it was lost.
        let compound = gst::Buffer::from_slice([0x80, 201, 0, 1, 0, 0, 0, 9]).to_value();
        let arguments = [object, compound, true.to_value()];
        assert!(on_sending_rtcp(&arguments, &outbox));
        let sent = arguments[1].get::<gst::Buffer>().unwrap();
        let sent = sent.map_readable().unwrap();
        assert_eq!(rtcp::feedback_in(&sent).unwrap(), [(9, &b"data"[..])]);
    }

    #[test]
    fn objects_without_the_signals_and_properties_of_a_session_are_none() {
        gst::init().unwrap();
        let session = RtpSession(gst::Pipeline::new().upcast(), glib::WeakRef::new());
        assert!(!session.has_source(1));
        assert!(session.reports(1).is_empty());
        assert_eq!(session.read::<u32>("name"), None);
        session.write("rtcp-fraction", 1.0);
        session.write("name", 1.0);
        assert!(session.connect("on-app-rtcp", None, None, |_| None).is_none());
        // A signal of that name with other arguments.
        assert_eq!(session.emit::<bool>("deep-notify", 1u32), None);
    }
}
