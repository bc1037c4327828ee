// SPDX-License-Identifier: MPL-2.0

//! Posts errors for caps that an element does not accept: what is wrong with them, and which element upstream cures it.
//!
//! Where both ends of a link know their caps, linking fails with a message. Where one learns them later (`appsrc`, a
//! demuxer, a network source), GStreamer only reports "not-negotiated".

use gst::prelude::*;

use crate::guard::Guard;
use crate::sync::Mutex;

/// Posts an error for every caps event at `pad` that it does not accept, once for the same caps of one stream.
pub fn report_refusals(pad: &gst::Pad) {
    let reported: Mutex<Option<gst::Caps>> = Mutex::new(None);
    let guard = Guard::of("the probe on caps", pad.parent_element().as_ref());
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        if let Some(event) = info.event() {
            guard.run((), || report_refusal(pad, event, &reported));
        }
        gst::PadProbeReturn::Ok
    });
}

fn report_refusal(pad: &gst::Pad, event: &gst::Event, reported: &Mutex<Option<gst::Caps>>) {
    match event.view() {
        gst::EventView::StreamStart(_) => *reported.lock().unwrap() = None,
        // Refused caps come again with every buffer.
        gst::EventView::Caps(event) if reported.lock().unwrap().as_deref() != Some(event.caps()) => {
            let caps = event.caps_owned();
            if !pad.query_accept_caps(&caps) {
                post(pad, &caps);
                *reported.lock().unwrap() = Some(caps);
            }
        }
        _ => (),
    }
}

/// Ends a stream at `pad` with an error where buffers come without any caps, as from a file without a parser.
pub fn require_caps(pad: &gst::Pad) {
    let guard = Guard::of("the probe on data without caps", pad.parent_element().as_ref());
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if pad.has_current_caps() {
            return gst::PadProbeReturn::Ok;
        }
        guard.run((), || {
            let Some(element) = pad.parent_element() else { return };
            let name = name(pad, &element);
            let text = format!("{name} was given data of no known kind. Put a decoder in front of it, like decodebin.");
            gst::element_error!(element, gst::CoreError::Negotiation, ("{text}"));
        });
        info.flow_res = Err(gst::FlowError::NotNegotiated);
        gst::PadProbeReturn::Handled
    });
}

/// Name in launch lines of the pad, or of its element where it is the main pad.
fn name(pad: &gst::Pad, element: &gst::Element) -> String {
    let name = element.factory().map_or(element.name(), |factory| factory.name());
    if pad
        .pad_template()
        .is_some_and(|t| t.presence() == gst::PadPresence::Request)
    {
        return format!("{name}.{}", pad.name());
    }
    name.into()
}

fn post(pad: &gst::Pad, caps: &gst::CapsRef) {
    let Some(element) = pad.parent_element() else { return };
    // Elements downstream may restrict the caps further than the pad itself does.
    let mut takes = pad.query_caps(None);
    if takes.is_empty() {
        takes = pad.pad_template_caps();
    }
    let text = refusal(&name(pad, &element), caps, &takes);
    gst::element_error!(element, gst::CoreError::Negotiation, ("{text}"), ["{caps} of {takes}"]);
}

/// The error for `caps` that `name` does not accept, where it accepts `takes`, with the element that converts them.
pub fn refusal(name: &str, caps: &gst::CapsRef, takes: &gst::Caps) -> String {
    let Some(given) = caps.structure(0) else {
        return format!("{name} was given empty caps");
    };
    let kind = given.name().as_str();
    let same_kind: Vec<_> = takes.iter_with_features().filter(|(s, _)| s.name() == kind).collect();
    if same_kind.is_empty() {
        let mut kinds: Vec<_> = takes.iter().map(|s| s.name().as_str()).collect();
        kinds.dedup();
        let cure = match kind.split('/').next() {
            _ if !kinds.contains(&"video/x-raw") => "Link something else to it",
            Some("video" | "image") => "Put a decoder in front of it, like decodebin",
            _ => "Link the video to it instead",
        };
        return format!("{name} does not take {kind}, but {}. {cure}.", kinds.join(", "));
    }
    let features = caps.features(0);
    let same_memory: Vec<_> = same_kind
        .into_iter()
        .filter(|(_, f)| features.is_none_or(|features| features.is_equal(f)))
        .map(|(s, _)| s)
        .collect();
    let wrong = same_memory.iter().map(|s| wrong_fields(given, s)).min_by_key(Vec::len);
    let Some(wrong) = wrong else {
        let memory = features.map(ToString::to_string).unwrap_or_default();
        return format!(
            "{name} does not read pictures in {memory}. Put what copies them to system memory in front of it, like \
             cudadownload, gldownload or vapostproc."
        );
    };
    let wrongs: Vec<_> = wrong.iter().map(|field| describe(given, field, &same_memory)).collect();
    let cure = match wrong.first() {
        Some(&"format") => "Put videoconvert in front of it",
        Some(&("width" | "height")) => "Put videoscale, videocrop or videobox in front of it",
        Some(&"framerate") => "Put videorate in front of it",
        Some(&("interlace-mode" | "field-order")) => "Put deinterlace in front of it",
        _ => "Convert the video in front of it",
    };
    format!("{name} does not take this video: {}. {cure}.", wrongs.join(", "))
}

/// Fields of `given` that are incompatible with `taken`.
fn wrong_fields<'a>(given: &'a gst::StructureRef, taken: &gst::StructureRef) -> Vec<&'a str> {
    let mut wrong: Vec<_> = given
        .iter()
        .filter(|(field, value)| taken.value(*field).is_ok_and(|taken| value.intersect(taken).is_none()))
        .map(|(field, _)| field.as_str())
        .collect();
    // The format first: converting it is the cheapest cure.
    wrong.sort_by_key(|field| *field != "format");
    wrong
}

fn describe(given: &gst::StructureRef, field: &str, taken: &[&gst::StructureRef]) -> String {
    let value = given.value(field).map(text).unwrap_or_default();
    if let Ok(side @ 1..) = given.get::<i32>(field)
        && let Some(step) = taken
            .iter()
            .find_map(|s| Some(s.get::<gst::IntRange<i32>>(field).ok()?.step()))
        && side % step != 0
    {
        let format = given.get::<&str>("format").unwrap_or("this format");
        let not = if step == 2 {
            "odd".into()
        } else {
            format!("no multiple of {step}")
        };
        return format!("{field} {side} is {not}, and {format} cannot be coded so");
    }
    let mut allowed: Vec<_> = taken.iter().filter_map(|s| s.value(field).ok()).map(text).collect();
    allowed.dedup();
    format!("{field} {value} is none of {}", allowed.join(", "))
}

/// A caps value in readable form; of a list its elements.
fn text(value: &glib::SendValue) -> String {
    if let Ok(list) = value.get::<gst::List>() {
        return list.iter().map(text).collect::<Vec<_>>().join(", ");
    }
    if let Ok(text) = value.get::<&str>() {
        return text.into();
    }
    value.serialize().map_or_else(|_| format!("{value:?}"), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_refusal_names_what_is_wrong_and_what_cures_it() {
        gst::init().unwrap();
        let takes = "video/x-raw, format={I420,NV12}, width=[2,16384,2], height=[2,16384,2]; \
                     video/x-raw, format=Y444, width=[1,16384], height=[1,16384]";
        let size = "width=640, height=360, framerate=30/1";
        for (caps, takes, wants) in [
            (
                format!("video/x-raw, format=RGB, {size}"),
                takes,
                ["RGB", "I420", "videoconvert"],
            ),
            (
                "video/x-raw, format=I420, width=641, height=360".into(),
                takes,
                ["width 641 is odd", "I420", "videoscale"],
            ),
            (
                "video/x-raw, format=I420, width=640, height=361".into(),
                takes,
                ["height 361 is odd", "I420", "videocrop"],
            ),
            (
                "video/x-h264, stream-format=avc".into(),
                takes,
                ["x", "video/x-h264", "decoder"],
            ),
            ("image/jpeg".into(), takes, ["x", "image/jpeg", "decodebin"]),
            (
                "audio/x-raw, format=S16LE".into(),
                takes,
                ["x", "audio/x-raw", "Link the video"],
            ),
            (
                format!("video/x-raw(memory:GLMemory), format=I420, {size}"),
                takes,
                ["x", "memory:GLMemory", "gldownload"],
            ),
            (
                format!("video/x-raw, format=I420, {size}"),
                "video/x-raw, format=I420, framerate=25/1",
                ["framerate 30/1", "25/1", "videorate"],
            ),
            (
                "video/x-raw, format=I420, interlace-mode=mixed".into(),
                "video/x-raw, interlace-mode=progressive",
                ["mixed", "progressive", "deinterlace"],
            ),
            (
                "video/x-raw".into(),
                "application/x-rtcp",
                ["x", "application/x-rtcp", "something else"],
            ),
        ] {
            let text = refusal("x", &caps.parse::<gst::Caps>().unwrap(), &takes.parse().unwrap());
            assert!(wants.iter().all(|want| text.contains(want)), "{caps}: {text}");
        }
    }
}
