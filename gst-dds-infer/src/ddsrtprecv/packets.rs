// SPDX-License-Identifier: MPL-2.0

//! RTP packets in buffers.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use gst::prelude::*;
use gst_net::gio;

use crate::rtp::packet::Packet;

/// A packet without payload, put before the first one of a stream whose SSRC the session knows: it refuses a packet
/// whose number does not follow the former ones, and accepts the second (RFC 3550, A.1).
pub(super) fn prefix(first: &gst::Buffer) -> Option<gst::Buffer> {
    let map = first.map_readable().ok()?;
    let packet = Packet::parse(&map).ok()?;
    let mut header = vec![0x80, packet.payload_type];
    header.extend(packet.sequence_number.wrapping_sub(1).to_be_bytes());
    header.extend(packet.timestamp.to_be_bytes());
    header.extend(packet.ssrc.to_be_bytes());
    let mut prefix = gst::Buffer::from_mut_slice(header);
    let buffer = prefix.make_mut();
    buffer.set_pts(first.pts());
    buffer.set_dts(first.dts());
    Some(prefix)
}

/// Address of a packet's sender, if its source gives it.
pub(super) fn sender(buffer: &gst::BufferRef) -> Option<SocketAddr> {
    let address = buffer.meta::<gst_net::NetAddressMeta>()?.addr();
    let address = address.downcast::<gio::InetSocketAddress>().ok()?;
    Some(SocketAddr::from(address))
}

/// Removes the address: the session takes one SSRC from two addresses for a collision and refuses the second, which
/// the selector has decided already.
pub(super) fn without_address(buffer: &mut gst::Buffer) {
    if buffer.meta::<gst_net::NetAddressMeta>().is_some()
        && let Some(meta) = buffer.make_mut().meta_mut::<gst_net::NetAddressMeta>()
    {
        let _ = meta.remove();
    }
}
