// SPDX-License-Identifier: MPL-2.0

//! Connects a new media: pictures in, streams out, and the feedback that is accepted.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gst::prelude::*;
use gst_dds_link::session::AppPacket;
use gst_dds_link::sync::Mutex;
use gst_dds_link::text;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::{RTSPMedia, gio, gst_net};
use gstdds::ddsencode::FeedbackWays;

use crate::camera::{Camera, Current, INPUT};
use crate::description::complete_description;
use crate::elements::guard;
use crate::encoder::ENCODER;
use crate::keyframes::KeyFrames;
use crate::steering::{Rule, Steering, Verdict};

/// Connects a new media: pictures in, feedback through the steering rule.
pub(crate) fn configure(media: &RTSPMedia, camera: &Arc<Camera>) {
    let element = media.element();
    let (Some(bin), Some(top)) = (
        element.downcast_ref::<gst::Bin>(),
        element.parent().and_downcast::<gst::Bin>(),
    ) else {
        return;
    };
    let (Some(encoder), Some(appsrc)) = (
        bin.by_name(ENCODER),
        bin.by_name(INPUT).and_downcast::<gst_app::AppSrc>(),
    ) else {
        return;
    };
    // Fixed from here on, so that joined feedback can carry it.
    let stream_id = match encoder.property::<u32>("stream-id") {
        0 => glib::random_int().max(1),
        id => id,
    };
    encoder.set_property("stream-id", stream_id);
    // The sender of RTCP that comes through here has logged in; a key at feedback-uri need not protect it.
    if camera.logins && encoder.property::<FeedbackWays>("feedback-ways") == FeedbackWays::AUTO {
        encoder.set_property("feedback-ways", FeedbackWays::AUTO | FeedbackWays::RTCP);
    }
    let mut steering = Steering::new(camera.rule, stream_id, glib::random_int() as u16);
    let own = |name| encoder.property::<u32>(name) as u8;
    steering.set_own_quantizers(own("background-qp"), own("region-qp"));
    let steering = Arc::new(Mutex::new(steering));

    // Before the encoder looks for the session, so that our handler is called first and can stop the emission.
    connect_feedback(&top, camera, &steering);
    if camera.rule == Rule::All {
        send_joined(&encoder, camera, &steering);
    }
    for pay in ["pay0", "pay1"].iter().filter_map(|name| bin.by_name(name)) {
        pay.static_pad("src").iter().for_each(complete_description);
    }

    if let Some(pad) = encoder.static_pad("refine") {
        drop_unused_passes(&pad, &top);
    }

    let keys = Arc::new(Mutex::new(KeyFrames::new(camera.interval)));
    time_key_frames(&encoder, &keys, camera);
    follow_viewers(&encoder, camera);
    let done = count_done(&encoder);
    *camera.current.lock().unwrap() = Some(Current {
        encoder,
        steering,
        keys,
        played: false,
        done,
        pipeline: top.downgrade(),
    });
    camera.media.fetch_add(1, Ordering::Relaxed);
    camera.source.start(appsrc.clone());
    let (shared, guarded) = (camera.clone(), guard("unprepared"));
    media.connect_unprepared(move |_| guarded.run((), || shared.source.stop(&appsrc)));
}

/// Connects to the RTCP of each session created below `top`.
fn connect_feedback(top: &gst::Bin, camera: &Arc<Camera>, steering: &Arc<Mutex<Steering>>) {
    let (shared, to, connections) = (camera.clone(), steering.clone(), Arc::new(Connections::default()));
    let guarded = guard("deep-element-added");
    top.connect_deep_element_added(move |top, _, element| {
        guarded.run((), || match element.factory().as_ref().map(|f| f.name()) {
            Some(name) if name == "rtpsession" => {
                if let Some(session) = element.property::<Option<glib::Object>>("internal-session") {
                    judge(&session, top, &shared, &to, &connections);
                }
            }
            // RTCP from RTSP connections enters here.
            Some(name) if name == "appsrc" => {
                if let Some(pad) = element.static_pad("src") {
                    let (connections, guarded) = (connections.clone(), guard("the probe on RTCP"));
                    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                        if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
                            guarded.run((), || connections.note(buffer));
                        }
                        gst::PadProbeReturn::Ok
                    });
                }
            }
            _ => {}
        });
    });
}

/// Judges each feedback packet before the session's other handlers receive it.
fn judge(
    session: &glib::Object,
    top: &gst::Bin,
    camera: &Arc<Camera>,
    steering: &Arc<Mutex<Steering>>,
    connections: &Arc<Connections>,
) {
    let (shared, to, connections) = (camera.clone(), steering.clone(), connections.clone());
    let (top, guarded) = (top.downgrade(), guard("on-app-rtcp"));
    session.connect("on-app-rtcp", false, move |values| {
        if REPLACED.get() {
            return None;
        }
        // Evaluated once for each feedback packet; it separates servers from clients that only watch.
        let watches = |address: &str| {
            let known = connections.holds(address) || top.upgrade().is_some_and(|top| is_sent_to(&top, address));
            if known {
                shared.audience.lock().unwrap().feedback(address, shared.now());
            }
            known
        };
        // A packet that could not be judged does not steer.
        let verdict = guarded.run(Verdict::Keep, || on_app_rtcp(values, &shared, &to, watches));
        let session = values.first().and_then(|v| v.get::<glib::Object>().ok());
        if let Some(session) = session.filter(|_| verdict != Verdict::Pass) {
            session.stop_signal_emission_by_name("on-app-rtcp");
            if let Verdict::Replace(packet) = verdict {
                guarded.run((), || emit_replaced(&session, values, packet));
            }
        }
        None
    });
}

thread_local! {
    /// A packet that replaces another is being emitted: it has been judged.
    static REPLACED: Cell<bool> = const { Cell::new(false) };
}

/// Ends [`REPLACED`].
struct Replacing;

impl Drop for Replacing {
    fn drop(&mut self) {
        REPLACED.set(false);
    }
}

/// Emits `on-app-rtcp` once more, with another packet.
fn emit_replaced(session: &glib::Object, values: &[glib::Value], mut packet: Vec<u8>) {
    packet.resize(packet.len().next_multiple_of(4), 0);
    let mut arguments: Vec<glib::Value> = values.iter().skip(1).cloned().collect();
    if let Some(data) = arguments.last_mut() {
        *data = gst::Buffer::from_mut_slice(packet).to_value();
    }
    REPLACED.set(true);
    // Whatever happens, the next packet is judged.
    let _end = Replacing;
    session.emit_by_name_with_values("on-app-rtcp", &arguments);
}

/// Sends the encoder the joined feedback of all receivers that steer, before each picture.
fn send_joined(encoder: &gst::Element, camera: &Arc<Camera>, steering: &Arc<Mutex<Steering>>) {
    if let Some(pad) = encoder.static_pad("sink") {
        let (shared, from) = (camera.clone(), steering.clone());
        let (weak, guarded) = (encoder.downgrade(), guard("the probe on pictures"));
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            guarded.run((), || {
                let packets = from.lock().unwrap().joined(shared.now());
                if let Some(pad) = weak.upgrade().and_then(|e| e.static_pad("src")) {
                    packets.iter().for_each(|packet| {
                        pad.send_event(gst_dds_link::event::feedback(packet));
                    });
                }
            });
            gst::PadProbeReturn::Ok
        });
    }
}

/// Counts pictures that an encoder has finished with: coded or, if it leaves some out, taken at all.
fn count_done(encoder: &gst::Element) -> Arc<AtomicU64> {
    let done = Arc::new(AtomicU64::new(0));
    let leaves_out = encoder.property::<bool>("qos") || encoder.property::<bool>("server-rate");
    if let Some(pad) = encoder.static_pad(if leaves_out { "sink" } else { "src" }) {
        let done = done.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            done.fetch_add(1, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }
    done
}

/// Keeps the encoder from leaving out pictures that clients without feedback are to see.
fn follow_viewers(encoder: &gst::Element, camera: &Arc<Camera>) {
    let Some(sink) = encoder.static_pad("sink") else { return };
    let (shared, weak) = (camera.clone(), encoder.downgrade());
    let (before, guarded) = (AtomicBool::new(false), guard("the probe that looks for viewers"));
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        guarded.run((), || {
            let viewers = shared.audience.lock().unwrap().has_viewers(shared.now());
            if before.swap(viewers, Ordering::Relaxed) != viewers
                && let Some(encoder) = weak.upgrade()
            {
                let rate = if viewers { shared.viewer_framerate as i32 } else { 0 };
                encoder.set_property("viewer-framerate", gst::Fraction::new(rate, 1));
            }
        });
        gst::PadProbeReturn::Ok
    });
}

/// Requests key frames when they are due.
fn time_key_frames(encoder: &gst::Element, keys: &Arc<Mutex<KeyFrames>>, camera: &Arc<Camera>) {
    let (Some(sink), Some(src)) = (encoder.static_pad("sink"), encoder.static_pad("src")) else {
        return;
    };
    let (shared, times, weak) = (camera.clone(), keys.clone(), encoder.downgrade());
    let guarded = guard("the probe that times key frames");
    sink.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let (Some(pts), Some(encoder)) = (info.buffer().and_then(|buffer| buffer.pts()), weak.upgrade()) else {
            return gst::PadProbeReturn::Ok;
        };
        guarded.run((), || {
            let recorders = shared.audience.lock().unwrap().has_recorders(shared.now());
            let due = times.lock().unwrap().picture(pts.nseconds(), recorders);
            // With its running time, which marks it for this picture, unlike a request from the network.
            let segment = pad.sticky_event::<gst::event::Segment>(0);
            let running = segment.and_then(|event| {
                let segment = event.segment().downcast_ref::<gst::ClockTime>()?;
                segment.to_running_time(pts)
            });
            for (_, name) in [(due.first, "src"), (due.second, "refine")]
                .iter()
                .filter(|(due, _)| *due)
            {
                if let Some(pad) = encoder.static_pad(name) {
                    pad.send_event(
                        gst_video::UpstreamForceKeyUnitEvent::builder()
                            .running_time(running)
                            .all_headers(true)
                            .build(),
                    );
                }
            }
        });
        gst::PadProbeReturn::Ok
    });
    let (times, guarded) = (keys.clone(), guard("the probe on key frames"));
    src.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer()
            && let Some(pts) = buffer.pts()
            && !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)
        {
            guarded.run((), || times.lock().unwrap().coded(pts.nseconds()));
        }
        gst::PadProbeReturn::Ok
    });
}

/// Withholds the second stream from the server until a client has set it up. The first picture passes: without one the
/// server would not know its caps for the SDP. If the encoder learnt that the stream is unused, it would restart with
/// each frame.
fn drop_unused_passes(pad: &gst::Pad, top: &gst::Bin) {
    let (first, top) = (AtomicBool::new(true), top.downgrade());
    let guarded = guard("the probe on second passes");
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let taken = || {
            let is_rtpbin = |e: &gst::Element| e.factory().is_some_and(|f| f.name() == "rtpbin");
            let rtpbin = top.upgrade()?.children().into_iter().find(is_rtpbin)?;
            Some(rtpbin.static_pad("send_rtp_src_1")?.is_linked())
        };
        if first.swap(false, Ordering::Relaxed) || guarded.run(None, taken).unwrap_or(true) {
            gst::PadProbeReturn::Ok
        } else {
            gst::PadProbeReturn::Drop
        }
    });
}

/// Handles a packet of `on-app-rtcp`; packets of other formats are ignored.
fn on_app_rtcp(
    values: &[glib::Value],
    camera: &Camera,
    steering: &Mutex<Steering>,
    watches: impl Fn(&str) -> bool,
) -> Verdict {
    let Some(packet) = AppPacket::of(values) else {
        return Verdict::Pass;
    };
    // Before the lock: the check takes GStreamer's own locks.
    let address = packet.sender().filter(|address| watches(address));
    let may = |address: &String| camera.steerers.as_ref().is_none_or(|steerers| steerers.holds(address));
    let mut steering = steering.lock().unwrap();
    match address {
        None => steering.stranger(),
        Some(address) if may(&address) => steering.packet(camera.now(), packet.ssrc, packet.feedback()),
        Some(_) => steering.viewer(camera.now(), packet.ssrc),
    }
}

/// Addresses of RTSP connections that have carried RTCP: their clients have logged in.
#[derive(Default)]
struct Connections(Mutex<HashSet<String>>);

impl Connections {
    /// Beyond it all are forgotten, and recorded again with their next packet.
    const MOST: usize = 1024;

    fn note(&self, buffer: &gst::BufferRef) {
        let address = buffer.meta::<gst_net::NetAddressMeta>().map(|meta| meta.addr());
        let Some(address) = address.and_downcast::<gio::InetSocketAddress>() else {
            return;
        };
        let mut known = self.0.lock().unwrap();
        if known.len() >= Self::MOST {
            known.clear();
        }
        // In the format of an RTP session.
        known.insert(format!("{}:{}", address.address().to_str(), address.port()));
    }

    fn holds(&self, address: &str) -> bool {
        self.0.lock().unwrap().contains(address)
    }
}

/// Whether the stream, or its RTCP, is sent to that address: the RTCP port is open to all, and only clients that watch
/// may steer.
fn is_sent_to(top: &gst::Bin, address: &str) -> bool {
    let mut found = false;
    // A change of the pipeline that interrupts the iteration refuses one packet; the next one repeats its state.
    let _ = top.iterate_recurse().foreach(|element| {
        if element.factory().is_some_and(|f| f.name() == "multiudpsink") && element.find_property("clients").is_some() {
            let clients = element.property_value("clients");
            found |= text::utf8(&clients).is_some_and(|clients| clients.split(',').any(|client| client == address));
        }
    });
    found
}
