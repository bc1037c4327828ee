// SPDX-License-Identifier: MPL-2.0

//! The RTSP server: one shared media with one encoder.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use dds_protocol::nal;
use gst::prelude::*;
use gst_dds_link::guard::{self, Guard};
use gst_dds_link::session::AppPacket;
use gst_dds_link::sync::Mutex;
use gst_dds_link::text;
use gst_rtsp_server::gst_rtsp::{RTSPAuthMethod, RTSPLowerTrans, RTSPProfile, RTSPStatusCode};
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::{
    RTSPAddressPool, RTSPAuth, RTSPClient, RTSPContext, RTSPFilterResult, RTSPMedia, RTSPServer, RTSPSessionPool,
    RTSPToken, gio, gst_net,
};
use gstdds::ddsencode::FeedbackWays;

use crate::audience::Audience;
use crate::encoder::{ENCODER, Opened, Recipe};
use crate::keyframes::{Interval, KeyFrames};
use crate::options::Options;
use crate::source::Source;
use crate::steering::{Refusal, Rule, Steering, Verdict};
use crate::watch::{self, Watch};
use crate::{caller, media};

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("ddsrtspcamera", gst::DebugColorFlags::empty(), Some("RTSP camera")));
/// Time for a goodbye to leave.
const GOODBYE: Duration = Duration::from_millis(300);
/// How often it is looked whether the media stands still.
const LOOK_EVERY: Duration = Duration::from_millis(250);

const INPUT: &str = "dds_input";
/// The role of those who watch and steer: who knows the user's password, or everybody where there is none.
const STEERS: &str = "steers";
/// The role of those who only watch.
const WATCHES: &str = "watches";

/// What the server, its media and the reports share.
pub struct Camera {
    source: Source,
    rule: Rule,
    two_pass: bool,
    interval: Interval,
    started: Instant,
    audience: Mutex<Audience>,
    watch: Mutex<Watch>,
    /// Media that stood still and were made anew.
    rebuilt: AtomicU64,
    /// Connections now and ever.
    clients: AtomicU64,
    clients_ever: AtomicU64,
    /// Media made: each has opened an encoder of its own.
    media: AtomicU64,
    current: Mutex<Option<Current>>,
    /// Who watches has logged in.
    logins: bool,
    /// Where there are viewers: who is none.
    steerers: Option<Steerers>,
}

/// RTCP addresses of clients that may steer, by their RTSP session.
#[derive(Default)]
struct Steerers(Mutex<HashMap<String, HashSet<String>>>);

impl Steerers {
    fn add(&self, session: &str, addresses: impl IntoIterator<Item = String>) {
        let mut sessions = self.0.lock().unwrap();
        sessions.entry(session.into()).or_default().extend(addresses);
    }

    fn remove(&self, session: &str) {
        self.0.lock().unwrap().remove(session);
    }

    fn holds(&self, address: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .values()
            .any(|addresses| addresses.contains(address))
    }
}

/// The media that clients watch, or watched last.
struct Current {
    encoder: gst::Element,
    steering: Arc<Mutex<Steering>>,
    keys: Arc<Mutex<KeyFrames>>,
    /// Somebody has played it: pictures flow.
    played: bool,
    /// Pictures that the encoder is done with.
    done: Arc<AtomicU64>,
    /// The whole pipeline.
    pipeline: glib::WeakRef<gst::Bin>,
}

impl Camera {
    /// A camera that nobody watches yet.
    pub fn new(source: Source, options: &Options, recipe: &Recipe) -> Arc<Self> {
        Arc::new(Self {
            source,
            rule: options.steer,
            logins: options.user.is_some(),
            two_pass: recipe.two_pass,
            interval: recipe.interval,
            audience: Mutex::default(),
            watch: Mutex::default(),
            rebuilt: AtomicU64::new(0),
            steerers: (!options.viewers.is_empty()).then(Steerers::default),
            started: Instant::now(),
            clients: AtomicU64::new(0),
            clients_ever: AtomicU64::new(0),
            media: AtomicU64::new(0),
            current: Mutex::new(None),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The encoder of the media that clients watch, or watched last.
    pub fn encoder(&self) -> Option<gst::Element> {
        self.current.lock().unwrap().as_ref().map(|c| c.encoder.clone())
    }

    fn pipeline(&self) -> Option<gst::Bin> {
        self.current.lock().unwrap().as_ref()?.pipeline.upgrade()
    }

    /// Looks whether the media stands still: to be called some times a second. Then what is known of it is told.
    fn look(&self) -> Option<String> {
        let plays = self.audience.lock().unwrap().playing() > 0;
        let (done, played, pipeline) = {
            let current = self.current.lock().unwrap();
            let current = current.as_ref()?;
            (
                current.done.load(Ordering::Relaxed),
                current.played,
                current.pipeline.clone(),
            )
        };
        let counts = watch::Counts {
            captured: self.source.pictures(),
            done,
        };
        let media = self.media.load(Ordering::Relaxed);
        let busy = || {
            threads()
                .iter()
                .any(|(name, state)| *name == format!("{INPUT}:src") && state == "R")
        };
        let still = self
            .watch
            .lock()
            .unwrap()
            .look(self.now(), media, counts, plays && played, busy);
        still.then(|| {
            let state = pipeline
                .upgrade()
                .map(|pipeline| state_of(&pipeline))
                .unwrap_or_default();
            format!("somebody plays, pictures come in, and none was coded for 2 s. {state}")
        })
    }

    /// Somebody begins to play.
    fn join(&self, session: &str) {
        self.audience.lock().unwrap().play(session, self.now());
        let mut current = self.current.lock().unwrap();
        if let Some(current) = current.as_mut() {
            let first = !std::mem::replace(&mut current.played, true);
            let mut keys = current.keys.lock().unwrap();
            if first { keys.open() } else { keys.join() }
        }
    }

    /// Everything worth knowing, as one JSON value.
    pub fn report(&self) -> serde_json::Value {
        let now = self.now();
        let current = self
            .current
            .lock()
            .unwrap()
            .as_ref()
            .map(|c| (c.encoder.clone(), c.steering.clone()));
        let strangers = current
            .as_ref()
            .map_or(0, |(_, steering)| steering.lock().unwrap().strangers());
        let receivers: Vec<_> = current
            .iter()
            .flat_map(|(_, steering)| {
                let steering = steering.lock().unwrap();
                let one = |(r, steers): (&crate::steering::Receiver, bool)| {
                    serde_json::json!({
                        "ssrc": format!("{:08x}", r.ssrc), "steers": steers, "packets": r.steered, "refused": r.refused,
                        "reason": r.why.map(Refusal::words),
                    })
                };
                steering.receivers(now).map(one).collect::<Vec<_>>()
            })
            .collect();
        let stats = current.map(|(encoder, _)| encoder.property::<gst::Structure>("stats"));
        let stats: serde_json::Map<_, _> = stats
            .iter()
            .flat_map(|s| s.iter())
            .filter_map(|(name, value)| Some((name.to_string(), number(value)?)))
            .collect();
        serde_json::json!({
            "clients": self.clients.load(Ordering::Relaxed),
            "clients_ever": self.clients_ever.load(Ordering::Relaxed),
            "media": self.media.load(Ordering::Relaxed),
            "media_rebuilt": self.rebuilt.load(Ordering::Relaxed),
            "receivers": receivers,
            "strangers": strangers,
            "panics_caught": guard::caught(),
            "encoder": stats,
        })
    }
}

/// Around whatever GStreamer calls: a panic there would end the camera for everybody.
pub fn guard(place: &'static str) -> Guard {
    Guard::telling(place, |text| eprintln!("dds-rtsp-camera: {text}"))
}

fn number(value: &glib::Value) -> Option<serde_json::Value> {
    None.or_else(|| value.get::<u64>().ok().map(Into::into))
        .or_else(|| value.get::<u32>().ok().map(Into::into))
        .or_else(|| value.get::<f64>().ok().map(Into::into))
}

/// The media, as a line for `gst_rtsp_media_factory_set_launch`.
fn launch_line(encoder: &Opened, two_pass: bool) -> String {
    let mut line = format!(
        "( appsrc name={INPUT} is-live=true format=time max-buffers=2 max-bytes=0 leaky-type=downstream ! {} ! {}",
        encoder.line,
        encoder.codec.track("pay0", 96)
    );
    if two_pass {
        // A payload type of its own: by that a launch line tells the pads of rtspsrc apart.
        line += &format!("{ENCODER}.refine ! {}", encoder.codec.track("pay1", 97));
    }
    line + ")"
}

/// Makes the server and listens. It serves while the main context iterates and the value lives.
///
/// # Errors
/// One sentence that names the option to change.
pub fn listen(
    options: &Options,
    encoder: &Opened,
    camera: &Arc<Camera>,
) -> Result<(RTSPServer, glib::SourceId), String> {
    let two_pass = camera.two_pass;
    let factory = media::factory();
    factory.set_launch(&launch_line(encoder, two_pass));
    factory.set_shared(true);
    factory.set_profiles(if options.avpf {
        RTSPProfile::AVPF
    } else {
        RTSPProfile::AVP
    });
    factory.set_protocols(if options.tcp_only {
        RTSPLowerTrans::TCP
    } else {
        RTSPLowerTrans::UDP | RTSPLowerTrans::TCP
    });
    factory.set_address_pool(udp_ports(options.address).as_ref());
    let shared = camera.clone();
    let guarded = guard("media-configure");
    factory.connect_media_configure(move |_, media| guarded.run((), || configure(media, &shared)));

    let server = RTSPServer::new();
    server.set_address(&options.address.to_string());
    server.set_service(&options.port.to_string());
    if let Some(auth) = auth(options)? {
        for role in [STEERS, WATCHES] {
            factory.add_role_from_structure(
                &gst::Structure::builder(role)
                    .field(gst_rtsp_server::RTSP_PERM_MEDIA_FACTORY_ACCESS, true)
                    .field(gst_rtsp_server::RTSP_PERM_MEDIA_FACTORY_CONSTRUCT, true)
                    .build(),
            );
        }
        server.set_auth(Some(&auth));
    }
    let mounts = server.mount_points().ok_or("the RTSP server has no mount points")?;
    mounts.add_factory(&options.path, factory);
    let shared = camera.clone();
    let guarded = guard("client-connected");
    server.connect_client_connected(move |_, client| {
        guarded.run((), || {
            watch_client(client, &shared);
            if !two_pass {
                let guarded = guard("pre-describe-request");
                client.connect_pre_describe_request(move |_, context| {
                    guarded.run(RTSPStatusCode::BadRequest, || match media::asks_for_refine(context) {
                        true => RTSPStatusCode::NotFound,
                        false => RTSPStatusCode::Ok,
                    })
                });
            }
        });
    });

    let id = server.attach(None).map_err(|_| {
        format!(
            "cannot listen on {}: is the port taken, or the address not this machine's? See --port and --address",
            SocketAddr::new(options.address, options.port)
        )
    })?;
    let pool = server.session_pool();
    if let Some(pool) = &pool {
        let shared = camera.clone();
        let guarded = guard("session-removed");
        pool.connect_session_removed(move |_, session| {
            guarded.run((), || {
                let Some(id) = session.sessionid() else { return };
                shared.audience.lock().unwrap().leave(&id);
                if let Some(steerers) = &shared.steerers {
                    steerers.remove(&id);
                }
            });
        });
    }
    let (shared, weak, guarded) = (camera.clone(), server.downgrade(), guard("the watch on the media"));
    glib::timeout_add(LOOK_EVERY, move || {
        guarded.run((), || {
            if let (Some(state), Some(server)) = (shared.look(), weak.upgrade()) {
                gst::error!(CAT, "{state}");
                crate::warn(format!("{state}. It is made anew, and clients have to come again"));
                shared.rebuilt.fetch_add(1, Ordering::Relaxed);
                rebuild(&server, shared.pipeline());
            }
        });
        glib::ControlFlow::Continue
    });
    let guarded = guard("the end of sessions");
    // Sessions of clients that went without a word end here; until then they are sent to.
    glib::timeout_add_seconds(2, move || {
        guarded.run((), || {
            if let Some(pool) = &pool {
                pool.cleanup();
            }
        });
        glib::ControlFlow::Continue
    });
    Ok((server, id))
}

/// Makes a new media for whoever comes from now on, and sends away those of the one that stands still. It may stand so that
/// it cannot even be ended: then the thread that tries is lost with it, and nothing else.
fn rebuild(server: &RTSPServer, pipeline: Option<gst::Bin>) {
    // Those who come from here on are no part of it.
    media::retire();
    let clients = server.client_filter(Some(&mut |_, _| RTSPFilterResult::Ref));
    let pool = server.session_pool();
    let all = |pool: &RTSPSessionPool| pool.filter(Some(&mut |_, _| RTSPFilterResult::Ref));
    let sessions = pool.as_ref().map(all).unwrap_or_default();
    std::thread::spawn(move || guard("the goodbye").run((), || say_goodbye(pipeline)));
    std::thread::spawn(move || {
        std::thread::sleep(GOODBYE);
        guard("the end of clients").run((), || {
            clients.iter().for_each(|client| client.close());
            for session in &sessions {
                // One that its client has taken along is gone already.
                let _ = pool.as_ref().map(|pool| pool.remove(session));
            }
        });
    });
}

/// Ends the RTP sessions, which say so to those who are sent to by UDP: they would wait for more until they lose patience.
fn say_goodbye(pipeline: Option<gst::Bin>) {
    let is_session = |e: &gst::Element| e.factory().is_some_and(|f| f.name() == "rtpsession");
    let elements = pipeline.map(|pipeline| pipeline.iterate_recurse());
    for session in elements.into_iter().flatten().flatten().filter(is_session) {
        if let Some(pad) = session.static_pad("send_rtp_sink") {
            // It waits here where the session is what stands still.
            pad.send_event(gst::event::Eos::new());
        }
    }
}

/// What elements of a pipeline tell of where it stands: states that are not PLAYING, what waits in queues, pads that are
/// blocked, unlinked or have failed.
fn state_of(pipeline: &gst::Bin) -> String {
    let mut words = vec![format!("{}: {:?}", pipeline.name(), pipeline.current_state())];
    let mut elements = pipeline.iterate_recurse();
    // A change of the pipeline ends the list early.
    while let Ok(Some(element)) = elements.next() {
        let mut of_it = Vec::new();
        if element.current_state() != gst::State::Playing {
            of_it.push(format!("{:?}", element.current_state()));
        }
        if element.find_property("current-level-buffers").is_some() {
            let level = element.property_value("current-level-buffers");
            let wide = level
                .get::<u64>()
                .ok()
                .or_else(|| level.get::<u32>().ok().map(u64::from));
            of_it.push(format!("{} waiting", wide.unwrap_or(0)));
        }
        for pad in element.pads() {
            let flow = pad.last_flow_result();
            let wrong = [
                (pad.is_blocked(), "blocked"),
                (!pad.is_linked(), "not linked"),
                (flow.is_err(), "failed"),
                (pad.task_state() == gst::TaskState::Paused, "task paused"),
            ];
            let wrong = wrong.iter().filter(|(is, _)| *is);
            of_it.extend(wrong.map(|(_, what)| format!("{} {what}", pad.name())));
        }
        if !of_it.is_empty() {
            words.push(format!("{} ({})", element.name(), of_it.join(", ")));
        }
    }
    words.extend(threads().iter().map(|(name, state)| format!("thread {name} {state}")));
    words.join("; ")
}

/// The streaming threads, by the names that GStreamer gives them, and whether they run (R) or sleep (S): one that stands
/// still sleeps, one that gets no processor would run.
fn threads() -> Vec<(String, String)> {
    let state = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let state = rest.split_whitespace().next()?;
        name.contains(':').then(|| (name.into(), state.into()))
    };
    let tasks = std::fs::read_dir("/proc/self/task");
    tasks.map(|tasks| tasks.filter_map(state).collect()).unwrap_or_default()
}

/// Where UDP ports are opened: at the address asked for. Without a pool gst-rtsp-server opens them at every address of the
/// machine. `None` where every address is meant.
fn udp_ports(address: IpAddr) -> Option<RTSPAddressPool> {
    let (one, no_multicast) = (address.to_string(), 0);
    let pool = RTSPAddressPool::new();
    // The dynamic ports (RFC 6335, section 6); one that is taken is passed over.
    let added = pool.add_range(&one, &one, 49_152, 65_535, no_multicast);
    (!address.is_unspecified() && added.is_ok()).then_some(pool)
}

fn auth(options: &Options) -> Result<Option<RTSPAuth>, String> {
    if options.user.is_none() && options.certificate.is_none() {
        return Ok(None);
    }
    let auth = RTSPAuth::new();
    auth.set_realm(Some("gst-dds camera"));
    auth.set_supported_methods(RTSPAuthMethod::Digest);
    let token = |role: &str| {
        RTSPToken::builder()
            .field(gst_rtsp_server::RTSP_TOKEN_MEDIA_FACTORY_ROLE, role)
            .build()
    };
    match &options.user {
        Some((name, password)) => auth.add_digest(name, password, &token(STEERS)),
        None => auth.set_default_token(Some(&mut token(STEERS))),
    }
    for (name, password) in &options.viewers {
        auth.add_digest(name, password, &token(WATCHES));
    }
    if let Some(file) = &options.certificate {
        let certificate = gio::TlsCertificate::from_file(file).map_err(|e| {
            format!(
                "--certificate {}: {e}. It must hold certificate and private key as PEM",
                file.display()
            )
        })?;
        auth.set_tls_certificate(Some(&certificate));
    }
    Ok(Some(auth))
}

fn watch_client(client: &RTSPClient, camera: &Arc<Camera>) {
    camera.clients.fetch_add(1, Ordering::Relaxed);
    camera.clients_ever.fetch_add(1, Ordering::Relaxed);
    let shared = camera.clone();
    client.connect_closed(move |_| {
        shared.clients.fetch_sub(1, Ordering::Relaxed);
    });
    let (shared, guarded) = (camera.clone(), guard("setup-request"));
    client.connect_setup_request(move |_, context| guarded.run((), || note_client(context, &shared)));
    let (shared, guarded) = (camera.clone(), guard("play-request"));
    // Who joins a running stream sees nothing before the next key frame, and few clients ask for one.
    client.connect_play_request(move |_, context| {
        guarded.run((), || {
            session_of(context).iter().for_each(|session| shared.join(session))
        });
    });
    let (shared, guarded) = (camera.clone(), guard("pause-request"));
    client.connect_pause_request(move |_, context| {
        guarded.run((), || {
            if let Some(session) = session_of(context) {
                shared.audience.lock().unwrap().pause(&session);
            }
        });
    });
}

fn session_of(context: &RTSPContext) -> Option<glib::GString> {
    context.session().and_then(|session| session.sessionid())
}

/// Notes where RTCP of a client will come from, and whether it may steer.
fn note_client(context: &RTSPContext, camera: &Camera) {
    let Some(session) = session_of(context) else { return };
    let addresses = caller::rtcp_addresses();
    let role = context
        .token()
        .and_then(|token| token.string(gst_rtsp_server::RTSP_TOKEN_MEDIA_FACTORY_ROLE));
    if let (Some(steerers), Some(STEERS)) = (&camera.steerers, role.as_deref()) {
        steerers.add(&session, addresses.clone());
    }
    camera.audience.lock().unwrap().set_up(&session, addresses);
}

/// Wires a new media: pictures in, feedback through the rule.
fn configure(media: &RTSPMedia, camera: &Arc<Camera>) {
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
    // Known from here on, so that joined feedback can be addressed.
    let stream_id = match encoder.property::<u32>("stream-id") {
        0 => glib::random_int().max(1),
        id => id,
    };
    encoder.set_property("stream-id", stream_id);
    // RTCP that comes through here has been asked for its login; a key at feedback-uri need not close it.
    if camera.logins && encoder.property::<FeedbackWays>("feedback-ways") == FeedbackWays::AUTO {
        encoder.set_property("feedback-ways", FeedbackWays::AUTO | FeedbackWays::RTCP);
    }
    let steering = Arc::new(Mutex::new(Steering::new(
        camera.rule,
        stream_id,
        glib::random_int() as u16,
    )));

    // Before the encoder looks for the session, so that our handler is called first and can end the emission.
    let (shared, to, connections) = (camera.clone(), steering.clone(), Arc::new(Connections::default()));
    let guarded = guard("deep-element-added");
    top.connect_deep_element_added(move |top, _, element| {
        guarded.run((), || match element.factory().as_ref().map(|f| f.name()) {
            Some(name) if name == "rtpsession" => {
                if let Some(session) = element.property::<Option<glib::Object>>("internal-session") {
                    let (shared, to, connections) = (shared.clone(), to.clone(), connections.clone());
                    let (top, guarded) = (top.downgrade(), guard("on-app-rtcp"));
                    session.connect("on-app-rtcp", false, move |values| {
                        // Asked once for each feedback packet, which tells a server from those who only watch.
                        let watches = |address: &str| {
                            let known = connections.holds(address)
                                || top.upgrade().is_some_and(|top| is_sent_to(&top, address));
                            if known {
                                shared.audience.lock().unwrap().feedback(address, shared.now());
                            }
                            known
                        };
                        // What could not be judged does not steer.
                        let verdict = guarded.run(Verdict::Keep, || on_app_rtcp(values, &shared, &to, watches));
                        let session = values.first().and_then(|v| v.get::<glib::Object>().ok());
                        if let Some(session) = session.filter(|_| verdict == Verdict::Keep) {
                            session.stop_signal_emission_by_name("on-app-rtcp");
                        }
                        None
                    });
                }
            }
            // RTCP that comes through RTSP connections enters here.
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
    if camera.rule == Rule::All
        && let Some(pad) = encoder.static_pad("sink")
    {
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
    for pay in ["pay0", "pay1"].iter().filter_map(|name| bin.by_name(name)) {
        pay.static_pad("src").iter().for_each(complete_description);
    }

    if let Some(pad) = encoder.static_pad("refine") {
        drop_what_nobody_takes(&pad, &top);
    }

    let keys = Arc::new(Mutex::new(KeyFrames::new(camera.interval)));
    time_key_frames(&encoder, &keys, camera);
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

/// Counts the pictures that an encoder is done with: coded, or where it drops what is late, taken at all.
fn count_done(encoder: &gst::Element) -> Arc<AtomicU64> {
    let done = Arc::new(AtomicU64::new(0));
    let drops = encoder.property::<bool>("qos");
    if let Some(pad) = encoder.static_pad(if drops { "sink" } else { "src" }) {
        let done = done.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            done.fetch_add(1, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }
    done
}

/// Asks for key frames when it is time for them.
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
            let ask = times.lock().unwrap().picture(pts.nseconds(), recorders);
            // With its running time, which says that it is this picture's, and not a wish from the network.
            let segment = pad.sticky_event::<gst::event::Segment>(0);
            let running = segment.and_then(|event| {
                let segment = event.segment().downcast_ref::<gst::ClockTime>()?;
                segment.to_running_time(pts)
            });
            for (_, name) in [(ask.first, "src"), (ask.second, "refine")]
                .iter()
                .filter(|(ask, _)| *ask)
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

/// Keeps the second stream from the server until a client has set it up. The first picture goes through: without one the
/// server would not know what to offer. Told that nobody takes it, the encoder would begin anew with each frame.
fn drop_what_nobody_takes(pad: &gst::Pad, top: &gst::Bin) {
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

/// What the SDP says because the stream's caps do: that clients may ask for a key frame by RTCP (RFC 4585, section 4.2), and
/// profile and level, which would be Baseline 1 without a word (RFC 6184, section 8.1; the payloader of 1.22 knows them
/// from `avc` only).
fn complete_description(pad: &gst::Pad) {
    let guarded = guard("the probe on caps");
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        guarded.run((), || {
            if let Some(gst::PadProbeData::Event(event)) = &info.data
                && let gst::EventView::Caps(caps) = event.view()
                && !caps.caps().is_empty()
                && !caps.caps().is_any()
            {
                let mut caps = caps.caps_owned();
                let fields = caps.make_mut();
                fields.set("rtcp-fb-nack-pli", true);
                for (name, value) in profile_tier_level(fields).into_iter().flatten() {
                    fields.set(name, value);
                }
                let known = fields.structure(0).is_some_and(|s| s.has_field("profile-level-id"));
                if let Some(id) = profile_level_id(fields).filter(|_| !known) {
                    fields.set("profile-level-id", id);
                }
                info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
            }
        });
        gst::PadProbeReturn::Ok
    });
}

/// The three bytes behind the header of the first sequence parameter set, in hexadecimal digits.
fn profile_level_id(caps: &gst::CapsRef) -> Option<String> {
    let sets = text::field(caps.structure(0)?, "sprop-parameter-sets")?;
    let sps = glib::base64_decode(sets.split(',').next()?);
    let &[header, profile, constraints, level, ..] = sps.as_slice() else {
        return None;
    };
    (header & 0x1f == 7).then(|| format!("{profile:02x}{constraints:02x}{level:02x}"))
}

/// Profile, tier and level of an H.265 stream (RFC 7798, section 7.1), as its sequence parameter set has them; a description
/// without them means Main at level 3.1.
fn profile_tier_level(caps: &gst::CapsRef) -> Option<[(&'static str, String); 3]> {
    let sps = glib::base64_decode(caps.structure(0)?.get::<&str>("sprop-sps").ok()?.split(',').next()?);
    // Two bytes of header, one in front of profile_tier_level, where emulation prevention may stand among the many zeros.
    let fields = nal::unescape(sps.get(3..)?);
    let (profile, level) = (*fields.first()?, *fields.get(11)?);
    Some([
        ("profile-id", (profile & 0x1f).to_string()),
        ("tier-flag", (profile >> 5 & 1).to_string()),
        ("level-id", level.to_string()),
    ])
}

/// What becomes of a packet of `on-app-rtcp`: that of others is nobody's business here.
fn on_app_rtcp(
    values: &[glib::Value],
    camera: &Camera,
    steering: &Mutex<Steering>,
    watches: impl Fn(&str) -> bool,
) -> Verdict {
    let Some(packet) = AppPacket::of(values) else {
        return Verdict::Pass;
    };
    // Before the lock: the question goes through GStreamer's own.
    let address = packet.sender().filter(|address| watches(address));
    let may = |address: &String| camera.steerers.as_ref().is_none_or(|steerers| steerers.holds(address));
    let mut steering = steering.lock().unwrap();
    match address {
        None => steering.stranger(),
        Some(address) if may(&address) => steering.packet(camera.now(), packet.ssrc, packet.feedback()),
        Some(_) => steering.viewer(camera.now(), packet.ssrc),
    }
}

/// Addresses of RTSP connections that RTCP has come through: their owners have logged in.
#[derive(Default)]
struct Connections(Mutex<HashSet<String>>);

impl Connections {
    /// More are forgotten, and noted again with their next packet.
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
        // As an RTP session writes it.
        known.insert(format!("{}:{}", address.address().to_str(), address.port()));
    }

    fn holds(&self, address: &str) -> bool {
        self.0.lock().unwrap().contains(address)
    }
}

/// Whether the stream, or its RTCP, is sent to that address: the RTCP port is open to all, and who does not watch does not
/// steer.
fn is_sent_to(top: &gst::Bin, address: &str) -> bool {
    let mut found = false;
    // An iteration that a change of the pipeline breaks off refuses one packet; the next one says the same.
    let _ = top.iterate_recurse().foreach(|element| {
        if element.factory().is_some_and(|f| f.name() == "multiudpsink") && element.find_property("clients").is_some() {
            let clients = element.property_value("clients");
            found |= text::utf8(&clients).is_some_and(|clients| clients.split(',').any(|client| client == address));
        }
    });
    found
}
