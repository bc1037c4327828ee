// SPDX-License-Identifier: MPL-2.0

//! The request sink pad `refine`: decoded frames of the camera's second pass. They are identified by their own encoded stream
//! and passed to the core; nothing here ever waits.

use std::sync::Arc;

use dds_protocol::identity::StreamKind;
use gst::prelude::*;
use gst_dds_link::guard::Guard;
use gst_dds_link::sync::Mutex;

use super::CAT;
use super::frame::{Format, Refinement};
use super::inputs::{Input, Inputs};
use super::queue::{Event, Queue};
use crate::identity::Lookup;
use crate::server::Arrival;

/// Frames in a row that a decoder puts out late before it is reported.
const LATE_FRAMES: u32 = 8;

/// The refine pad of one element.
#[derive(Debug)]
pub struct RefineInput {
    pad: gst::Pad,
    queue: Arc<Queue>,
    inputs: Arc<Mutex<Inputs>>,
}

impl RefineInput {
    /// A pad that is not yet added to the `element`.
    pub fn new(
        template: &gst::PadTemplate,
        element: &gst::Element,
        queue: Arc<Queue>,
        inputs: Arc<Mutex<Inputs>>,
    ) -> Arc<Self> {
        let of_links = Arc::new(Guard::of("the pad refine", Some(element)));
        let [of_chain, of_event, of_query] = [of_links.clone(), of_links.clone(), of_links.clone()];
        let input = Arc::new_cyclic(|weak: &std::sync::Weak<Self>| {
            let (chain, event) = (weak.clone(), weak.clone());
            let pad = gst::Pad::builder_from_template(template)
                .name("refine")
                .chain_function(move |_, _, buffer| {
                    of_chain.run((), || {
                        if let Some(input) = chain.upgrade() {
                            input.chain(buffer);
                        }
                    });
                    Ok(gst::FlowSuccess::Ok)
                })
                .event_function(move |_, _, e| of_event.run(false, || event.upgrade().is_some_and(|i| i.event(&e))))
                .query_function(move |pad, parent, query| of_query.run(false, || answer_query(pad, parent, query)))
                // Nothing that arrives here leaves unchanged.
                .iterate_internal_links_function(|_, _| gst::Iterator::from_vec(Vec::new()))
                .build();
            Self { pad, queue, inputs }
        });
        for (signal, linked) in [("linked", true), ("unlinked", false)] {
            let (guard, weak) = (of_links.clone(), Arc::downgrade(&input));
            input.pad.connect(signal, false, move |_| {
                guard.run((), || {
                    if let Some(input) = weak.upgrade() {
                        input.queue.handle(Event::RefineLinked(linked));
                    }
                });
                None
            });
        }
        gst_dds_link::refusal::report_refusals(&input.pad);
        input
    }

    /// The pad.
    pub fn pad(&self) -> &gst::Pad {
        &self.pad
    }

    /// Begins a new run.
    pub fn start(&self) {
        self.queue.handle(Event::RefineLinked(self.pad.is_linked()));
        let mut inputs = self.inputs.lock().unwrap();
        inputs.refine = Input::default();
        inputs.look_refine(&self.pad, true);
    }

    /// Releases the pad: no more frames arrive.
    pub fn release(&self) {
        self.queue.handle(Event::RefineOver(true));
        self.queue.handle(Event::RefineLinked(false));
        self.inputs.lock().unwrap().refine = Input::default();
    }

    fn event(&self, event: &gst::Event) -> bool {
        gst::log!(CAT, obj = self.pad, "{event:?}");
        match event.view() {
            gst::EventView::StreamStart(_) => {
                self.inputs.lock().unwrap().look_refine(&self.pad, true);
                self.queue.handle(Event::RefineOver(false));
            }
            gst::EventView::Caps(caps) => {
                let format = Format::of(caps.caps()).ok().map(Arc::new);
                let known = format.is_some();
                let mut inputs = self.inputs.lock().unwrap();
                inputs.look_refine(&self.pad, true);
                inputs.refine.format = format;
                return known;
            }
            gst::EventView::Eos(_) => {
                self.queue.handle(Event::RefineOver(true));
            }
            _ => (),
        }
        // Segments and gaps of this branch do not apply to the video.
        true
    }

    fn chain(&self, buffer: gst::Buffer) {
        let pts = buffer.pts().map(gst::ClockTime::nseconds);
        let (read, format, late) = {
            let mut inputs = self.inputs.lock().unwrap();
            inputs.look_refine(&self.pad, false);
            let input = &mut inputs.refine;
            let read = input.read(pts, None);
            let late = input.watch.frame(read.waiting > 0, LATE_FRAMES);
            (read, input.format.clone(), late)
        };
        if late {
            self.warn_of_decoder();
        }
        let known = match read.lookup {
            Lookup::Known(record) => record
                .identity
                .filter(|i| i.kind == StreamKind::Refine)
                .map(|i| (i, record)),
            Lookup::Unknown => None,
        };
        let (Some((identity, record)), Some(format)) = (known, format) else {
            gst::debug!(
                CAT,
                obj = self.pad,
                "A frame at {pts:?} that is no second pass of a known frame"
            );
            self.queue.handle(Event::Unidentified);
            return;
        };
        if record.extension.refined.is_empty() {
            // The first picture of a camera, which refines nothing.
            return;
        }
        let damaged = record.damaged || buffer.flags().contains(gst::BufferFlags::CORRUPTED);
        gst::log!(
            CAT,
            obj = self.pad,
            "Second pass of frame {}, damaged: {damaged}",
            identity.frame
        );
        let arrival = if damaged {
            Arrival::Damaged
        } else {
            Arrival::Refined(Refinement {
                buffer,
                info: format.info.clone(),
                regions: record.extension.refined,
            })
        };
        let key = (identity.stream_id, identity.frame);
        self.queue.handle(Event::Arrival(key, arrival));
    }

    /// Warns of a decoder that puts out each frame only when the next one arrives, which makes every refinement late.
    fn warn_of_decoder(&self) {
        let Some(element) = self.pad.parent_element() else {
            return;
        };
        gst::element_warning!(
            element,
            gst::StreamError::Decode,
            ("The decoder in front of the refine pad gives each frame only when the next one comes, too late to be of use; \
              use avdec_h264 max-threads=1")
        );
    }
}

fn answer_query(pad: &gst::Pad, parent: Option<&gst::Object>, query: &mut gst::QueryRef) -> bool {
    match query.view_mut() {
        // The frames are only read.
        gst::QueryViewMut::Allocation(allocation) => {
            allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
            true
        }
        _ => gst::Pad::query_default(pad, parent, query),
    }
}
