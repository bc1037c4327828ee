// SPDX-License-Identifier: MPL-2.0

//! Follows the data path of one pad, element by element, to the `rtpsession` elements on it.
//!
//! From a pad the walk takes its peer, then the peer's internal links, and so on. Ghost pads need no special case: their
//! internal link is the proxy pad on the other side of the bin. `rtpbin`, `rtspsrc`, `ddsrtprecv` and the RTSP server
//! all keep an `rtpsession` inside, so one rule finds the session of each of them.

use std::collections::{HashSet, VecDeque};

use glib::object::ObjectType;
use gst::prelude::*;

/// Direction to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a source pad towards the sinks.
    Downstream,
    /// From a sink pad towards the sources.
    Upstream,
}

/// An `rtpsession` element on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The `rtpsession` element.
    pub element: gst::Element,
    /// SSRC of the media on the pads just before it, where their caps contain it.
    pub ssrc: Option<u32>,
}

/// Most pads a walk visits: longer than any real chain, short enough to be bounded in a broken graph.
const MAX_PADS: usize = 4096;

/// The RTP sessions on the data path of `pad`, nearest first. The walk stops at a session.
pub fn rtp_sessions(pad: &gst::Pad, direction: Direction) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    walk(pad, direction, |pad, ssrc| {
        let Some(element) = rtp_session_of(pad) else {
            return Visit::Continue;
        };
        // The media enters by send_rtp_sink and leaves by recv_rtp_src. RTCP and synchronisation pads of a session are
        // on no media path.
        let wanted = match direction {
            Direction::Downstream => "send_rtp_sink",
            Direction::Upstream => "recv_rtp_src",
        };
        if pad.name() == wanted && !found.iter().any(|f| f.element == element) {
            found.push(Found { element, ssrc });
        }
        Visit::Stop
    });
    found
}

/// Continuation of a walk after a pad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Continue beyond this pad.
    Continue,
    /// Not beyond this pad, but along other branches.
    Stop,
    /// End the walk.
    Finish,
}

/// Walks the data path of `pad` breadth first and calls `visit` for each pad the path enters an element by (a sink pad
/// when walking downstream, a source pad when walking upstream), with the SSRC of the media there where it is known.
pub fn walk(pad: &gst::Pad, direction: Direction, mut visit: impl FnMut(&gst::Pad, Option<u32>) -> Visit) {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([(pad.clone(), None)]);
    while let Some((exit, ssrc)) = queue.pop_front() {
        if seen.len() > MAX_PADS {
            gst::warning!(
                crate::CAT,
                obj = pad,
                "Gave up following the data path after {MAX_PADS} pads"
            );
            return;
        }
        let Some(entry) = exit.peer() else { continue };
        if !seen.insert(entry.as_ptr() as usize) {
            continue;
        }
        // Walking upstream, the SSRC nearest to us is that of our media; downstream, the last one before the session
        // is.
        let here = ssrc_of(&entry);
        let ssrc = match direction {
            Direction::Downstream => here.or(ssrc),
            Direction::Upstream => ssrc.or(here),
        };
        match visit(&entry, ssrc) {
            Visit::Continue => (),
            Visit::Stop => continue,
            Visit::Finish => return,
        }
        queue.extend(internal_links(&entry).into_iter().map(|next| (next, ssrc)));
    }
}

/// Whether all input of an `rtpsession` has been through SRTP: its own RTCP, and RTCP that shares the port of media.
/// Each branch upstream must end in an element that decrypts; one that does not authenticate does not count.
pub fn is_protected(session: &gst::Element) -> bool {
    let inputs = ["recv_rtcp_sink", "recv_rtp_sink"].map(|name| session.static_pad(name));
    let mut linked = inputs.iter().flatten().filter(|pad| pad.is_linked()).peekable();
    linked.peek().is_some() && linked.all(|pad| is_behind_srtp(pad, &mut HashSet::new()))
}

fn is_behind_srtp(sink: &gst::Pad, seen: &mut HashSet<usize>) -> bool {
    let Some(source) = sink.peer() else { return false };
    if !seen.insert(source.as_ptr() as usize) || seen.len() > MAX_PADS {
        // A cycle adds no input, and a graph that large proves nothing.
        return seen.len() <= MAX_PADS;
    }
    let links = internal_links(&source);
    match source.parent_element() {
        Some(element) if is_made_by(&element, &["srtpdec"]) => !links.is_empty() && links.iter().all(authenticates),
        Some(element) if is_made_by(&element, &["dtlssrtpdec"]) => true,
        _ => !links.is_empty() && links.iter().all(|pad| is_behind_srtp(pad, seen)),
    }
}

/// Whether the input of a `srtpdec` is authenticated.
fn authenticates(sink: &gst::Pad) -> bool {
    let caps = sink.current_caps();
    let fields = caps.as_ref().and_then(|caps| caps.structure(0));
    fields.is_none_or(|fields| crate::text::field(fields, "srtcp-auth") != Some("null"))
}

/// A jitter buffer on the path, in which received packets wait for late ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JitterBuffer {
    /// Element with the property `latency`: the outermost of `rtspsrc`, `rtpbin`, `ddsrtprecv` and `rtpjitterbuffer`.
    pub owner: gst::Element,
    /// Its latency in milliseconds.
    pub latency_ms: u32,
}

/// The jitter buffer nearest upstream of the sink pad `pad`.
pub fn jitter_buffer(pad: &gst::Pad) -> Option<JitterBuffer> {
    let mut found = None;
    walk(pad, Direction::Upstream, |pad, _| {
        found = pad.parent_element().filter(|e| is_made_by(e, &["rtpjitterbuffer"]));
        if found.is_some() {
            Visit::Finish
        } else {
            Visit::Continue
        }
    });
    let buffer = found?;
    buffer.find_property("latency")?;
    let latency_ms = buffer.property_value("latency").get::<u32>().ok()?;
    let mut owner = buffer.clone();
    let mut above = buffer.parent();
    while let Some(element) = above.and_downcast::<gst::Element>() {
        if is_made_by(&element, &["rtpbin", "rtspsrc", "ddsrtprecv"]) {
            owner = element.clone();
        }
        above = element.parent();
    }
    Some(JitterBuffer { owner, latency_ms })
}

fn is_made_by(element: &gst::Element, factories: &[&str]) -> bool {
    element
        .factory()
        .is_some_and(|f| factories.contains(&f.name().as_str()))
}

fn internal_links(pad: &gst::Pad) -> Vec<gst::Pad> {
    let mut links = Vec::new();
    // A bare pad (an application's own) has nothing beyond it, and no iterator either.
    if pad.parent().is_none() {
        return links;
    }
    let mut iterator = pad.iterate_internal_links();
    loop {
        match iterator.next() {
            Ok(Some(link)) => links.push(link),
            Ok(None) => return links,
            Err(gst::IteratorError::Resync) => {
                links.clear();
                iterator.resync();
            }
            Err(_) => return links,
        }
    }
}

fn rtp_session_of(pad: &gst::Pad) -> Option<gst::Element> {
    let element = pad.parent_element()?;
    is_made_by(&element, &["rtpsession"]).then_some(element)
}

fn ssrc_of(pad: &gst::Pad) -> Option<u32> {
    let caps = pad.current_caps()?;
    let structure = caps.structure(0).filter(|s| s.name() == "application/x-rtp")?;
    structure.get::<u32>("ssrc").ok()
}
