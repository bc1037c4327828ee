// SPDX-License-Identifier: MPL-2.0

//! The client of the current RTSP request: the bindings do not expose the connection and the transport.

#![allow(unsafe_code)]

use std::ffi::CStr;

use glib::translate::{ToGlibPtr, from_glib_none};
use gst_rtsp_server::gst_rtsp::ffi as rtsp;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::{RTSPContext, ffi, gio};

/// Query of the URL in a request, as bytes: a client may write anything there, before it has logged in.
pub fn query(context: &RTSPContext) -> Option<Vec<u8>> {
    let context: *mut ffi::GstRTSPContext = context.to_glib_none().0;
    // SAFETY: The context and the URL of the request that it is about are borrowed for this call.
    let url = unsafe { context.as_ref()?.uri.as_ref()? };
    // SAFETY: Null, or a string of the URL that ends in 0.
    (!url.query.is_null()).then(|| unsafe { CStr::from_ptr(url.query) }.to_bytes().to_vec())
}

/// During a SETUP request, on its thread: the addresses of this client's RTCP, in the format of an RTP session: that
/// of the connection, and the ports of its UDP transport.
pub fn rtcp_addresses() -> Vec<String> {
    // SAFETY: The context belongs to this thread until the reply is sent. Null without a request.
    let Some(context) = (unsafe { ffi::gst_rtsp_context_get_current().as_ref() }) else {
        return Vec::new();
    };
    let mut addresses = Vec::new();
    if !context.conn.is_null() {
        // SAFETY: The connection lives during the request; the socket is borrowed from it and may be null.
        let socket: Option<gio::Socket> =
            unsafe { from_glib_none(rtsp::gst_rtsp_connection_get_read_socket(context.conn)) };
        let remote = socket.and_then(|socket| socket.remote_address().ok());
        if let Some(remote) = remote.and_downcast::<gio::InetSocketAddress>() {
            addresses.push(format!("{}:{}", remote.address().to_str(), remote.port()));
        }
    }
    if !context.trans.is_null() {
        // SAFETY: The stream's transport lives during the request, and owns the result of the call.
        let transport = unsafe { ffi::gst_rtsp_stream_transport_get_transport(context.trans).as_ref() };
        if let Some(transport) = transport.filter(|t| !t.destination.is_null()) {
            // SAFETY: A string that ends in 0, of the transport.
            let host = unsafe { CStr::from_ptr(transport.destination) }.to_string_lossy();
            let ports = [transport.client_port.min, transport.client_port.max];
            addresses.extend(
                ports
                    .iter()
                    .filter(|port| **port > 0)
                    .map(|port| format!("{host}:{port}")),
            );
        }
    }
    addresses
}
