// SPDX-License-Identifier: MPL-2.0

//! Describes the state of a stalled pipeline.

#![forbid(unsafe_code)]

use gst::prelude::*;

/// State of a pipeline's elements: states other than PLAYING, fill levels of queues, pads that are blocked, unlinked
/// or have failed.
pub(crate) fn state_of(pipeline: &gst::Bin) -> String {
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

/// The streaming threads, by GStreamer's names for them, and whether they run (R) or sleep (S): a stalled one sleeps,
/// one without a processor would run.
pub(crate) fn threads() -> Vec<(String, String)> {
    let state = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let state = rest.split_whitespace().next()?;
        name.contains(':').then(|| (name.into(), state.into()))
    };
    let tasks = std::fs::read_dir("/proc/self/task");
    tasks.map(|tasks| tasks.filter_map(state).collect()).unwrap_or_default()
}
