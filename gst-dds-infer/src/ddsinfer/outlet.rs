// SPDX-License-Identifier: MPL-2.0

//! The output of the element: frames behind their caps and events, and their results beside the video.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gst::prelude::*;

use super::CAT;
use super::sender::Route;
use super::settings::Settings;
use super::shared::Shared;
use super::side_pad::{Queued, SidePad};
use super::worker::{Ready, unix_now};
use crate::model::Segmentation;
use crate::results::{self, FrameResult};

/// Pushes a frame behind its caps and these events. Returns the flow return, and how long downstream kept the frame.
pub fn push(
    shared: &Shared,
    ready: Ready,
    events: Vec<gst::Event>,
    settings: &Settings,
) -> (Result<gst::FlowSuccess, gst::FlowError>, Duration) {
    if shared.src_pad.current_caps().as_ref() != Some(&ready.caps) {
        forward(shared, gst::event::Caps::new(&ready.caps));
    }
    for event in events {
        forward(shared, event);
    }
    let live = shared.queue.is_live();
    if let Some(map) = &ready.segmentation {
        push_classes(shared, map, &ready, live);
    }
    let mut buffer = ready.buffer;
    if let Some(result) = ready.result {
        let message = match ready.reported {
            true => result.to_structure(),
            false => report(shared, result, settings),
        };
        if let Err(error) = results::attach(buffer.make_mut(), &message) {
            gst::warning!(CAT, obj = shared.src_pad, "Results are not on their frame: {error}");
        }
    }
    let started = Instant::now();
    let flow = shared.src_pad.push(buffer);
    let kept = started.elapsed();
    if flow == Err(gst::FlowError::NotLinked) {
        report_misplaced(shared, &ready.caps);
    }
    (flow, kept)
}

/// Pushes a serialized event, also on the side pads that need it.
pub fn forward(shared: &Shared, event: gst::Event) {
    match event.view() {
        gst::EventView::Caps(caps) => set_caps_of_classes(shared, caps.caps()),
        gst::EventView::Eos(_) => shared.sides().iter().for_each(|side| side.eos()),
        gst::EventView::StreamStart(_) => shared.sides().iter().for_each(|side| side.stream_start()),
        gst::EventView::Segment(_) => {
            let timed = {
                let state = shared.state.lock().unwrap();
                [state.sides.results.clone(), state.sides.classes.clone()]
            };
            timed.iter().flatten().for_each(|side| side.event(&event));
        }
        _ => (),
    }
    shared.src_pad.push_event(event);
}

/// Reports a bad automatic link: a muxer that takes no video of our format was linked to the gray pad `classes`, and `src` to
/// nothing.
fn report_misplaced(shared: &Shared, video: &gst::CapsRef) {
    let classes = shared.state.lock().unwrap().sides.classes.clone();
    let peer = classes.and_then(|side| side.pad().peer()?.parent_element());
    let Some(peer) = peer.filter(|_| !shared.src_pad.is_linked()) else {
        return;
    };
    if !shared.state.lock().unwrap().reported.warned.insert("classes") {
        return;
    }
    let format = video
        .structure(0)
        .and_then(|s| s.get::<&str>("format").ok())
        .unwrap_or("this");
    if let Some(element) = shared.element() {
        gst::element_error!(
            element,
            gst::CoreError::Pad,
            (
                "src is linked to nothing and the pad classes to {}, which takes no {format} video. Put videoconvert in \
                  front of it.",
                peer.name()
            )
        );
    }
}

/// Pushes the class of each pixel, one byte each, as a picture on the pad `classes`.
fn push_classes(shared: &Shared, map: &Segmentation, ready: &Ready, live: bool) {
    let Some(side) = shared.state.lock().unwrap().sides.classes.clone() else {
        return;
    };
    let Some(info) = picture_of_classes(&ready.caps) else {
        return;
    };
    let (width, height) = (info.width() as usize, info.height() as usize);
    let mut pixels = vec![0; info.size()];
    if map
        .write_classes(width, height, &mut pixels, info.stride()[0] as usize)
        .is_err()
    {
        return;
    }
    // The pad may have been requested after the video's caps.
    set_side_caps(&side, &info);
    let mut buffer = gst::Buffer::from_mut_slice(pixels);
    let _ = ready
        .buffer
        .copy_into(buffer.make_mut(), gst::BufferCopyFlags::TIMESTAMPS, ..);
    let queued = side.push(buffer, !live);
    shared.count(|stats| stats.class_maps_dropped += u64::from(queued == Queued::DroppedOldest));
}

/// Sets the caps of the pad `classes` as soon as the video's are known: its sink need not wait for a picture to preroll.
pub fn set_caps_of_classes(shared: &Shared, video: &gst::CapsRef) {
    let side = shared.state.lock().unwrap().sides.classes.clone();
    if let Some((side, info)) = side.zip(picture_of_classes(video)) {
        set_side_caps(&side, &info);
    }
}

/// Posts the results of a frame and pushes them on the pad `results`. Returns the structure that was posted.
pub fn report(shared: &Shared, mut result: FrameResult, settings: &Settings) -> gst::Structure {
    let live = shared.queue.is_live();
    let results = {
        let mut state = shared.state.lock().unwrap();
        // A camera in this process has our clock; another camera's agrees with it only where the user set so.
        if live && (settings.capture_clock_synchronised || state.route == Some(Route::Event)) {
            result.age_ms = unix_now().and_then(|now| result.age_at(now));
            result.first_pass_age_ms = result.age_at(result.first_pass_ns);
            for object in result.objects.iter().filter(|_| result.predicted.is_none()) {
                let (pass, age) = match object.pass {
                    1 => (0, result.first_pass_age_ms),
                    _ => (1, result.age_ms),
                };
                age.into_iter().for_each(|age| state.stats.freshness[pass].add(age));
            }
        }
        state.sides.results.clone()
    };
    if let Some(results) = results {
        let mut line = gst::Buffer::from_mut_slice(result.to_json_line());
        line.make_mut()
            .set_pts(result.pts_ns.map(gst::ClockTime::from_nseconds));
        let queued = results.push(line, !live);
        shared.count(|stats| {
            stats.result_lines += u64::from(queued != Queued::NoTaker);
            stats.result_lines_dropped += u64::from(queued == Queued::DroppedOldest);
        });
    }
    let message = result.to_structure();
    shared.post(message.clone());
    message
}

/// The format of a picture of classes for video of these caps.
fn picture_of_classes(video: &gst::CapsRef) -> Option<gst_video::VideoInfo> {
    let video = gst_video::VideoInfo::from_caps(video).ok()?;
    gst_video::VideoInfo::builder(gst_video::VideoFormat::Gray8, video.width(), video.height())
        .fps(video.fps())
        .par(video.par())
        .build()
        .ok()
}

fn set_side_caps(side: &Arc<SidePad>, info: &gst_video::VideoInfo) {
    match info.to_caps() {
        Ok(caps) => side.set_caps(caps),
        Err(error) => gst::warning!(CAT, obj = side.pad(), "{error}"),
    }
}
