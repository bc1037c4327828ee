// SPDX-License-Identifier: MPL-2.0

/**
 * SECTION:element-ddsrtprecv
 * @title: ddsrtprecv
 *
 * Receives one RTP stream of video and passes it on by one pad for as long as the pipeline lives, whichever senders come,
 * go and restart. It replaces `rtpbin` in front of a branch that is linked once, as in a line of gst-launch-1.0: `rtpbin`
 * gives each SSRC a pad of its own, and the first one that is not linked ends the pipeline.
 *
 * ```shell
 * gst-launch-1.0 -q ddsrtprecv name=rtp latency=20 udpsrc port=5000 \
 *   caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true ! rtp.rtp_sink \
 *   udpsrc port=5001 ! rtp.rtcp_sink rtp.rtcp_src ! udpsink host=CAMERA port=5005 sync=false async=false \
 *   rtp.src ! rtph264depay ! avdec_h264 max-threads=1 ! ddsinfer model-file=model.onnx ! fakesink
 * ```
 *
 * The selected stream stays selected while its packets arrive, for one second after the last of them, and until its RTCP
 * BYE. Then the first stream is selected of which a whole key frame has arrived, H.264 or H.265, and passed on from there.
 * For other codecs, whose decoders know best where they can start, a whole frame is enough. If no stream is selected and
 * no key frame is known, one is requested by an RTCP picture loss indication, if the caps have `rtcp-fb-nack-pli`.
 *
 * A stream is an SSRC from one address. All packets of others, and RTCP of others, are dropped before the RTP session and
 * counted in `stats`: they cost no memory beyond a fixed amount. So retransmissions and error correction under an SSRC of
 * their own are dropped as well. Packets of another payload type than that of the caps are dropped with a warning. RTP and
 * RTCP may share a port (RFC 5761). Encrypted streams are opened in front of it: `srtpdec`.
 *
 * When a stream is selected the element posts the message `ddsrtprecv-stream` with its `ssrc` (uint).
 *
 * Since: 0.1
 */
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_dds_link::guard::Guard;
use gst_dds_link::sync::Mutex;

use crate::rtp::packet::Packet;
use crate::rtp::rtcp;
use crate::rtp::selector::{Format, Verdict};

use super::packets::{prefix, sender, without_address};
use super::state::State;
use super::stream::{self, with_ssrc};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "ddsrtprecv",
        gst::DebugColorFlags::empty(),
        Some("Receives one RTP stream"),
    )
});

static PROPERTY_GUARD: Guard = Guard::new("a property of ddsrtprecv");

const DEFAULT_LATENCY_MS: u32 = 20;
/// Most warnings logged of one kind: the network can cause any number of them.
const LOGGED: u64 = 10;

/// A newly selected stream.
struct Takeover {
    ssrc: u32,
    /// SSRC of the stream before it.
    former: Option<u32>,
    /// Its caps, if known.
    caps: Option<gst::Caps>,
    packets: Vec<gst::Buffer>,
    /// The depayloader ignores packets without payload.
    takes_empty: bool,
    /// Time of the former stream's last packet. Packets that waited meanwhile are older, and time never goes back.
    from: Option<gst::ClockTime>,
}

/// The elements inside.
#[derive(Debug)]
struct Parts {
    session: gst::Element,
    jitter_buffer: gst::Element,
}

/// No lock is kept while anything is pushed, sent or posted, and two are never held together.
pub struct DdsRtpRecv {
    rtp_sink: gst::GhostPad,
    rtcp_sink: gst::GhostPad,
    src: gst::GhostPad,
    rtcp_src: gst::GhostPad,
    /// Empty if one of the elements is not installed.
    parts: OnceLock<Parts>,
    missing: Mutex<Option<&'static str>>,
    latency: Mutex<u32>,
    state: Mutex<State>,
    /// The jitter buffer is being reset, which downstream need not know.
    resetting: AtomicBool,
    began: Instant,
}

#[glib::object_subclass]
impl ObjectSubclass for DdsRtpRecv {
    const NAME: &'static str = "GstDdsRtpRecv";
    type Type = super::DdsRtpRecv;
    type ParentType = gst::Bin;

    fn with_class(klass: &Self::Class) -> Self {
        let template = |name| klass.pad_template(name).expect("the class has this template");
        Self {
            rtp_sink: gst::GhostPad::builder_from_template(&template("rtp_sink"))
                .chain_function(|pad, parent, buffer| {
                    Self::catch_panic_pad_function(
                        parent,
                        || Err(gst::FlowError::Error),
                        |this| this.receive(pad, buffer),
                    )
                })
                .chain_list_function(|pad, parent, list| {
                    Self::catch_panic_pad_function(
                        parent,
                        || Err(gst::FlowError::Error),
                        |this| {
                            list.iter_owned()
                                .try_fold(gst::FlowSuccess::Ok, |_, buffer| this.receive(pad, buffer))
                        },
                    )
                })
                .event_function(|pad, parent, event| {
                    Self::catch_panic_pad_function(parent, || false, |this| this.rtp_event(pad, event))
                })
                .build(),
            rtcp_sink: gst::GhostPad::builder_from_template(&template("rtcp_sink"))
                .chain_function(|pad, parent, buffer| {
                    Self::catch_panic_pad_function(
                        parent,
                        || Err(gst::FlowError::Error),
                        |this| match this.own_rtcp(buffer) {
                            Some(own) => gst::ProxyPad::chain_default(pad, Some(&*this.obj()), own),
                            None => Ok(gst::FlowSuccess::Ok),
                        },
                    )
                })
                .chain_list_function(|pad, parent, list| {
                    Self::catch_panic_pad_function(
                        parent,
                        || Err(gst::FlowError::Error),
                        |this| {
                            list.iter_owned()
                                .filter_map(|buffer| this.own_rtcp(buffer))
                                .try_fold(gst::FlowSuccess::Ok, |_, own| {
                                    gst::ProxyPad::chain_default(pad, Some(&*this.obj()), own)
                                })
                        },
                    )
                })
                .build(),
            src: gst::GhostPad::builder_from_template(&template("src"))
                .event_function(|pad, parent, event| {
                    Self::catch_panic_pad_function(
                        parent,
                        || false,
                        |this| gst::Pad::event_default(pad, Some(&*this.obj()), this.addressed(event)),
                    )
                })
                .build(),
            rtcp_src: gst::GhostPad::builder_from_template(&template("rtcp_src")).build(),
            parts: OnceLock::new(),
            missing: Mutex::default(),
            latency: Mutex::new(DEFAULT_LATENCY_MS),
            state: Mutex::default(),
            resetting: AtomicBool::new(false),
            began: Instant::now(),
        }
    }
}

impl ObjectImpl for DdsRtpRecv {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecUInt::builder("latency")
                    .nick("Latency")
                    .blurb("Milliseconds that packets wait for late ones before them, in the jitter buffer")
                    .default_value(DEFAULT_LATENCY_MS)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb(
                        "Counts of packets handed on and dropped, and of the streams that send, as a structure whose fields \
                         gst-dds-infer/README.md describes",
                    )
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        PROPERTY_GUARD.run((), || {
            if pspec.name() == "latency" {
                let latency = value.get().expect("checked by its type");
                *self.latency.lock().unwrap() = latency;
                if let Some(parts) = self.parts.get() {
                    parts.jitter_buffer.set_property("latency", latency);
                }
            }
        });
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        PROPERTY_GUARD.run(pspec.default_value().clone(), || match pspec.name() {
            "latency" => self.latency.lock().unwrap().to_value(),
            _ => self.state.lock().unwrap().statistics().to_value(),
        })
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in [&self.rtp_sink, &self.rtcp_sink, &self.src, &self.rtcp_src] {
            obj.add_pad(pad).expect("the names of the pads differ");
        }
        match self.assemble() {
            Ok(parts) => {
                let _ = self.parts.set(parts);
            }
            Err(missing) => *self.missing.lock().unwrap() = Some(missing),
        }
    }
}

impl GstObjectImpl for DdsRtpRecv {}

impl ElementImpl for DdsRtpRecv {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "DDS RTP receiver",
                "Filter/Network/RTP",
                "Hands one RTP stream on by one pad, whichever senders come, go and restart",
                "The gst-dds maintainers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let (rtp, rtcp) = (
                gst::Caps::new_empty_simple("application/x-rtp"),
                gst::Caps::new_empty_simple("application/x-rtcp"),
            );
            [
                ("rtp_sink", gst::PadDirection::Sink, &rtp),
                ("rtcp_sink", gst::PadDirection::Sink, &rtcp),
                ("src", gst::PadDirection::Src, &rtp),
                ("rtcp_src", gst::PadDirection::Src, &rtcp),
            ]
            .map(|(name, direction, caps)| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps).expect("valid template")
            })
            .into()
        });
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::NullToReady {
            let missing = *self.missing.lock().unwrap();
            if let Some(missing) = missing {
                gst::element_imp_error!(
                    self,
                    gst::CoreError::MissingPlugin,
                    ("there is no element {missing}: install GStreamer's plugin rtpmanager (Debian: \
                         gstreamer1.0-plugins-good)")
                );
                return Err(gst::StateChangeError);
            }
        }
        if transition == gst::StateChange::ReadyToPaused {
            *self.state.lock().unwrap() = State::default();
        }
        let done = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            // Waiting packets hold buffers of a pool upstream.
            self.state.lock().unwrap().selector.flush();
        }
        Ok(done)
    }
}

impl BinImpl for DdsRtpRecv {}

impl DdsRtpRecv {
    fn assemble(&self) -> Result<Parts, &'static str> {
        let make = |name: &'static str| gst::ElementFactory::make(name).build().map_err(|_| name);
        let session = make("rtpsession")?;
        let jitter_buffer = make("rtpjitterbuffer")?;
        // A key frame was received: no source needs probation any more.
        session.set_property("probation", 0u32);
        jitter_buffer.set_property("latency", *self.latency.lock().unwrap());
        let obj = self.obj();
        obj.add_many([&session, &jitter_buffer])
            .expect("a bin without children takes any");
        let request = |name: &str| session.request_pad_simple(name).ok_or("rtpsession");
        for (ghost, target) in [
            (&self.rtp_sink, request("recv_rtp_sink")?),
            (&self.rtcp_sink, request("recv_rtcp_sink")?),
            (&self.rtcp_src, request("send_rtcp_src")?),
            (&self.src, jitter_buffer.static_pad("src").ok_or("rtpjitterbuffer")?),
        ] {
            ghost
                .set_target(Some(&target))
                .expect("the target is a child's and goes the same way");
        }
        session
            .link_pads(Some("recv_rtp_src"), &jitter_buffer, Some("sink"))
            .map_err(|_| "rtpjitterbuffer")?;
        let weak = obj.downgrade();
        let out = jitter_buffer.static_pad("src").ok_or("rtpjitterbuffer")?;
        out.add_probe(gst::PadProbeType::EVENT_FLUSH, move |_, _| {
            let resetting = weak
                .upgrade()
                .is_some_and(|obj| obj.imp().resetting.load(Ordering::SeqCst));
            match resetting {
                // Not Drop: GStreamer 1.22 then frees an event that the bindings have freed.
                true => gst::PadProbeReturn::Handled,
                false => gst::PadProbeReturn::Ok,
            }
        });
        Ok(Parts { session, jitter_buffer })
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A packet on the RTP pad.
    fn receive(&self, pad: &gst::GhostPad, mut buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Ok(map) = buffer.map_readable() else {
            return Ok(gst::FlowSuccess::Ok);
        };
        if dds_protocol::rtcp::is_rtcp(&map) {
            drop(map);
            // The port is shared; the session separates RTP and RTCP as well.
            return match self.own_rtcp(buffer) {
                Some(own) => gst::ProxyPad::chain_default(pad, Some(&*self.obj()), own),
                None => Ok(gst::FlowSuccess::Ok),
            };
        }
        let packet = match Packet::parse(&map) {
            Ok(packet) => packet,
            Err(why) => {
                let count = {
                    let mut state = self.state.lock().unwrap();
                    state.stats.malformed += 1;
                    state.stats.malformed
                };
                if count <= LOGGED {
                    gst::debug!(CAT, obj = pad, "Dropped {} bytes: {why}", map.len());
                }
                return Ok(gst::FlowSuccess::Ok);
            }
        };
        let mut state = self.state.lock().unwrap();
        let Some(stream) = &state.stream else {
            drop(state);
            self.no_caps();
            return Err(gst::FlowError::NotNegotiated);
        };
        if let Some(named) = stream.payload_type.filter(|named| *named != packet.payload_type) {
            state.stats.other_payload_type += 1;
            let count = state.stats.other_payload_type;
            drop(state);
            self.other_payload_type(packet.payload_type, named, count);
            return Ok(gst::FlowSuccess::Ok);
        }
        let (payload_type, size) = (packet.payload_type, buffer.maxsize());
        let address = sender(&buffer);
        let outcome = state
            .selector
            .push(self.now(), &packet, address, size, || buffer.clone());
        let takes_pli = state.stream.as_ref().is_some_and(|stream| stream.takes_pli);
        match outcome.verdict {
            Verdict::Pass => {
                state.last = buffer.dts_or_pts().or(state.last);
                drop(state);
                drop(map);
                without_address(&mut buffer);
                gst::ProxyPad::chain_default(pad, Some(&*self.obj()), buffer)
            }
            Verdict::Takeover { ssrc, packets } => {
                state.payload_type = payload_type;
                let former = state.ssrc.replace(ssrc);
                let takeover = Takeover {
                    ssrc,
                    former,
                    caps: state.stream.as_ref().map(|stream| with_ssrc(&stream.caps, ssrc)),
                    packets,
                    takes_empty: state.key_frames,
                    from: state.last,
                };
                state.last = buffer.dts_or_pts().or(state.last);
                drop(state);
                drop(map);
                drop(buffer);
                self.take_over(pad, takeover)
            }
            Verdict::Queued | Verdict::Dropped => {
                drop(state);
                if let Some(ssrc) = outcome.key_unit_request.filter(|_| takes_pli) {
                    self.request_key_unit(ssrc);
                }
                Ok(gst::FlowSuccess::Ok)
            }
        }
    }

    fn take_over(&self, pad: &gst::GhostPad, takeover: Takeover) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Takeover {
            ssrc,
            former,
            caps,
            mut packets,
            takes_empty,
            from,
        } = takeover;
        gst::info!(
            CAT,
            imp = self,
            "SSRC {ssrc:08x} is handed on, from {} packets on",
            packets.len()
        );
        let obj = self.obj();
        if former.is_some() {
            self.reset_jitter_buffer();
            if let Some(first) = packets.first_mut() {
                first.make_mut().set_flags(gst::BufferFlags::DISCONT);
            }
        }
        if let Some(caps) = caps {
            gst::Pad::event_default(pad, Some(&*obj), gst::event::Caps::new(&caps));
        }
        let message = gst::Structure::builder("ddsrtprecv-stream").field("ssrc", ssrc).build();
        let _ = obj.post_message(gst::message::Element::builder(message).src(&*obj).build());
        let is_known = former == Some(ssrc) && takes_empty;
        let prefix = is_known.then(|| packets.first().and_then(prefix)).flatten();
        for mut buffer in prefix.into_iter().chain(packets) {
            without_address(&mut buffer);
            let (pts, dts) = (buffer.pts(), buffer.dts());
            let buffer_mut = buffer.make_mut();
            buffer_mut.set_pts(pts.map(|pts| from.map_or(pts, |from| pts.max(from))));
            buffer_mut.set_dts(dts.map(|dts| from.map_or(dts, |from| dts.max(from))));
            gst::ProxyPad::chain_default(pad, Some(&*obj), buffer)?;
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// Resets the jitter buffer: it would take the sequence numbers of the next stream for late or lost packets of the
    /// former. Nothing downstream is flushed, so that a recording goes on.
    fn reset_jitter_buffer(&self) {
        let Some(sink) = self
            .parts
            .get()
            .and_then(|parts| parts.jitter_buffer.static_pad("sink"))
        else {
            return;
        };
        let segment = sink.sticky_event::<gst::event::Segment>(0);
        self.resetting.store(true, Ordering::SeqCst);
        sink.send_event(gst::event::FlushStart::new());
        sink.send_event(gst::event::FlushStop::new(false));
        self.resetting.store(false, Ordering::SeqCst);
        // The reset drops the segment as well.
        if let Some(segment) = segment {
            sink.send_event(segment);
        }
    }

    /// The part of an RTCP compound that the session may receive.
    fn own_rtcp(&self, mut buffer: gst::Buffer) -> Option<gst::Buffer> {
        let own = {
            let map = buffer.map_readable().ok()?;
            let mut state = self.state.lock().unwrap();
            state.stats.rtcp += 1;
            let filtered = match rtcp::filter(&map, state.selector.selected()) {
                Ok(filtered) => filtered,
                Err(why) => {
                    state.stats.rtcp_malformed += 1;
                    let count = state.stats.rtcp_malformed;
                    drop(state);
                    if count <= LOGGED {
                        gst::debug!(CAT, imp = self, "Dropped {} bytes of RTCP: {why}", map.len());
                    }
                    return None;
                }
            };
            state.stats.rtcp_foreign += u64::from(filtered.foreign > 0);
            if filtered.bye
                && let Some(ssrc) = state.selector.selected()
            {
                state.selector.bye(self.now(), ssrc);
                drop(state);
                gst::info!(CAT, imp = self, "SSRC {ssrc:08x} says goodbye");
            }
            (filtered.own.as_slice() != map.as_slice()).then_some(filtered.own)
        };
        match own {
            None => {
                without_address(&mut buffer);
                Some(buffer)
            }
            Some(own) if own.is_empty() => None,
            Some(own) => {
                let mut rebuilt = gst::Buffer::from_mut_slice(own);
                let _ = buffer.copy_into(rebuilt.make_mut(), gst::BufferCopyFlags::TIMESTAMPS, ..);
                Some(rebuilt)
            }
        }
    }

    /// Requests a key frame from a stream that the session does not know yet.
    fn request_key_unit(&self, ssrc: u32) {
        let Some(parts) = self.parts.get() else { return };
        let session = parts.session.property::<Option<glib::Object>>("internal-session");
        let sender = session
            .filter(|s| s.find_property("internal-ssrc").is_some())
            .map_or(1, |s| s.property::<u32>("internal-ssrc"));
        let pad = &self.rtcp_src;
        if !pad.is_linked() {
            return;
        }
        // The session sends these with its first packet, which comes later.
        if pad.sticky_event::<gst::event::Segment>(0).is_none() {
            let id = format!("{:08x}{:08x}", glib::random_int(), glib::random_int());
            pad.push_event(gst::event::StreamStart::new(&id));
            pad.push_event(gst::event::Caps::new(&gst::Caps::new_empty_simple(
                "application/x-rtcp",
            )));
            pad.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
        }
        gst::info!(CAT, imp = self, "Asking SSRC {ssrc:08x} for a key frame");
        let request = gst::Buffer::from_mut_slice(rtcp::picture_loss(sender, ssrc));
        if let Err(why) = pad.push(request) {
            gst::debug!(CAT, imp = self, "The request for a key frame did not leave: {why}");
        }
    }

    fn rtp_event(&self, pad: &gst::GhostPad, event: gst::Event) -> bool {
        let obj = self.obj();
        let mut event = event;
        match event.view() {
            gst::EventView::Caps(caps) => {
                let caps = caps.caps_owned();
                let (stream, format) = match stream::read(&caps) {
                    Ok(read) => read,
                    Err(why) => {
                        gst::element_imp_error!(self, gst::StreamError::Format, ("{why}"), ["caps: {caps}"]);
                        return false;
                    }
                };
                if format == Format::Other {
                    gst::info!(
                        CAT,
                        imp = self,
                        "Any whole frame will do: key frames are not known of {caps}"
                    );
                }
                let mut state = self.state.lock().unwrap();
                state.stream = Some(stream);
                state.selector.set_format(format);
                state.key_frames = matches!(format, Format::Video { .. });
                let selected = state.selector.selected();
                drop(state);
                if let Some(ssrc) = selected {
                    event = gst::event::Caps::builder(&with_ssrc(&caps, ssrc))
                        .seqnum(event.seqnum())
                        .build();
                }
            }
            gst::EventView::FlushStop(_) => {
                let mut state = self.state.lock().unwrap();
                state.selector.flush();
                state.last = None;
            }
            _ => (),
        }
        gst::Pad::event_default(pad, Some(&*obj), event)
    }

    fn no_caps(&self) {
        gst::element_imp_error!(
            self,
            gst::CoreError::Negotiation,
            ("packets come without caps: set them at the source, as in udpsrc \
                 caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96")
        );
    }

    fn other_payload_type(&self, came: u8, named: u8, count: u64) {
        if count == 1 {
            gst::element_imp_warning!(
                self,
                gst::StreamError::WrongType,
                ("a packet of payload type {came} was dropped, and so are those to come, for the caps say payload={named}; \
                     give source and sender the same one")
            );
        }
    }

    /// Completes an event on its way upstream: the session requests key frames by SSRC and payload type, which
    /// decoders do not know.
    fn addressed(&self, event: gst::Event) -> gst::Event {
        let is_request = event.type_() == gst::EventType::CustomUpstream
            && event.structure().is_some_and(|s| s.name() == "GstForceKeyUnit");
        if !is_request {
            return event;
        }
        let state = self.state.lock().unwrap();
        let (ssrc, payload_type) = (state.selector.selected(), u32::from(state.payload_type));
        drop(state);
        let (Some(ssrc), Some(s)) = (ssrc, event.structure()) else {
            return event;
        };
        let mut structure = s.to_owned();
        structure.set("ssrc", ssrc);
        structure.set("payload", payload_type);
        gst::event::CustomUpstream::builder(structure)
            .seqnum(event.seqnum())
            .running_time_offset(event.running_time_offset())
            .build()
    }
}
