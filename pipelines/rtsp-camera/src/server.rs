// SPDX-License-Identifier: MPL-2.0

//! The RTSP server: one shared media with one encoder.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gst::prelude::*;
use gst_rtsp_server::gst_rtsp::{RTSPAuthMethod, RTSPLowerTrans, RTSPProfile, RTSPStatusCode};
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::{
    RTSPAddressPool, RTSPAuth, RTSPClient, RTSPContext, RTSPFilterResult, RTSPMediaFactory, RTSPServer,
    RTSPSessionPool, RTSPToken, gio,
};

use crate::camera::{Camera, INPUT};
use crate::elements::guard;
use crate::encoder::{ENCODER, Opened};
use crate::options::Options;
use crate::wiring::configure;
use crate::{caller, media};

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("ddsrtspcamera", gst::DebugColorFlags::empty(), Some("RTSP camera")));
/// Time for BYE packets to leave.
const GOODBYE: Duration = Duration::from_millis(300);
/// How often to check whether the media has stalled.
const CHECK_EVERY: Duration = Duration::from_millis(250);

/// Role of clients that watch and steer: those with the user's password, or all if there is none.
const STEERS: &str = "steers";
/// Role of clients that only watch.
const WATCHES: &str = "watches";

/// The media, as a line for `gst_rtsp_media_factory_set_launch`.
fn launch_line(encoder: &Opened, two_pass: bool) -> String {
    let mut line = format!(
        "( appsrc name={INPUT} is-live=true format=time max-buffers=2 max-bytes=0 leaky-type=downstream ! {} ! {}",
        encoder.line,
        encoder.codec.track("pay0", 96)
    );
    if two_pass {
        // A payload type of its own: launch lines distinguish the pads of rtspsrc by it.
        line += &format!("{ENCODER}.refine ! {}", encoder.codec.track("pay1", 97));
    }
    line + ")"
}

/// Creates the server and listens. It serves while the main context iterates and the value lives.
///
/// # Errors
/// One sentence that names the option to change.
pub fn listen(
    options: &Options,
    encoder: &Opened,
    camera: &Arc<Camera>,
) -> Result<(RTSPServer, glib::SourceId), String> {
    let factory = factory(options, encoder, camera);
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
    let (shared, guarded) = (camera.clone(), guard("client-connected"));
    server.connect_client_connected(move |_, client| guarded.run((), || watch_client(client, &shared)));

    let id = server.attach(None).map_err(|_| {
        format!(
            "cannot listen on {}: is the port taken, or the address not this machine's? See --port and --address",
            SocketAddr::new(options.address, options.port)
        )
    })?;
    watch_media(&server, camera);
    if let Some(pool) = server.session_pool() {
        end_sessions(pool, camera);
    }
    Ok((server, id))
}

/// Creates the factory of the media that all clients share.
fn factory(options: &Options, encoder: &Opened, camera: &Arc<Camera>) -> RTSPMediaFactory {
    let factory = media::factory();
    factory.set_launch(&launch_line(encoder, camera.two_pass));
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
    let (shared, guarded) = (camera.clone(), guard("media-configure"));
    factory.connect_media_configure(move |_, media| guarded.run((), || configure(media, &shared)));
    factory
}

/// Ends sessions, and forgets their clients. Sessions of clients that vanished end here at their time-out; until then
/// they are sent to.
fn end_sessions(pool: RTSPSessionPool, camera: &Arc<Camera>) {
    let (shared, guarded) = (camera.clone(), guard("session-removed"));
    pool.connect_session_removed(move |_, session| {
        guarded.run((), || {
            let Some(id) = session.sessionid() else { return };
            shared.audience.lock().unwrap().leave(&id);
            if let Some(steerers) = &shared.steerers {
                steerers.remove(&id);
            }
        });
    });
    let guarded = guard("the end of sessions");
    glib::timeout_add_seconds(2, move || {
        guarded.run((), || {
            pool.cleanup();
        });
        glib::ControlFlow::Continue
    });
}

/// Rebuilds the media when it stalls.
fn watch_media(server: &RTSPServer, camera: &Arc<Camera>) {
    let (shared, weak, guarded) = (camera.clone(), server.downgrade(), guard("the watch on the media"));
    glib::timeout_add(CHECK_EVERY, move || {
        guarded.run((), || {
            if let (Some(state), Some(server)) = (shared.check(), weak.upgrade()) {
                gst::error!(CAT, "{state}");
                crate::warn(format!("{state}. It is made anew, and clients have to come again"));
                shared.rebuilt.fetch_add(1, Ordering::Relaxed);
                rebuild(&server, shared.pipeline());
            }
        });
        glib::ControlFlow::Continue
    });
}

/// Creates a new media for clients that connect from now on, and disconnects those of the stalled one. It may be
/// stalled so that it cannot be shut down: then only the thread that tries is lost with it.
fn rebuild(server: &RTSPServer, pipeline: Option<gst::Bin>) {
    // Clients that connect from here on get another media.
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
                // A session that its client has removed is gone already.
                let _ = pool.as_ref().map(|pool| pool.remove(session));
            }
        });
    });
}

/// Ends the RTP sessions, which send BYE to UDP clients: otherwise they would wait until their time-out.
fn say_goodbye(pipeline: Option<gst::Bin>) {
    let is_session = |e: &gst::Element| e.factory().is_some_and(|f| f.name() == "rtpsession");
    let elements = pipeline.map(|pipeline| pipeline.iterate_recurse());
    for session in elements.into_iter().flatten().flatten().filter(is_session) {
        if let Some(pad) = session.static_pad("send_rtp_sink") {
            // Blocks here if the session itself is stalled.
            pad.send_event(gst::event::Eos::new());
        }
    }
}

/// Address for UDP ports: the one that the user chose. Without a pool gst-rtsp-server opens them at every address of
/// the machine. `None` means every address.
fn udp_ports(address: IpAddr) -> Option<RTSPAddressPool> {
    let (one, no_multicast) = (address.to_string(), 0);
    let pool = RTSPAddressPool::new();
    // The dynamic ports (RFC 6335, section 6); ports in use are skipped.
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
    if !camera.two_pass {
        let guarded = guard("pre-describe-request");
        client.connect_pre_describe_request(move |_, context| {
            guarded.run(RTSPStatusCode::BadRequest, || match media::requests_refine(context) {
                true => RTSPStatusCode::NotFound,
                false => RTSPStatusCode::Ok,
            })
        });
    }
    camera.clients.fetch_add(1, Ordering::Relaxed);
    camera.clients_ever.fetch_add(1, Ordering::Relaxed);
    let shared = camera.clone();
    client.connect_closed(move |_| {
        shared.clients.fetch_sub(1, Ordering::Relaxed);
    });
    let (shared, guarded) = (camera.clone(), guard("setup-request"));
    client.connect_setup_request(move |_, context| guarded.run((), || note_client(context, &shared)));
    let (shared, guarded) = (camera.clone(), guard("play-request"));
    // A client that joins a running stream shows nothing before the next key frame, and few clients request one.
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

/// Records the RTCP addresses of a client, and whether it may steer.
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
