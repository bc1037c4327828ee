// SPDX-License-Identifier: MPL-2.0

//! The request sink pad `refine`: decoded frames of the camera's second pass. They are told apart by the identity in
//! their own encoded stream and handed to the queue; nothing here ever waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dds_protocol::identity::StreamKind;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_dds_link::guard::Guard;
use gst_dds_link::sync::Mutex;

use super::CAT;
use super::imp::DdsInfer;
use super::probe::KeptProbe;
use super::queue::{Arrival, Refinement};
use crate::identity::Lookup;

/// Frames in a row that a decoder gives out late before somebody is told.
const LATE_FRAMES: u32 = 8;

/// One refine pad.
#[derive(Debug)]
pub struct RefineInput {
    pad: gst::Pad,
    /// Reads the identities of the second pass.
    pub probe: KeptProbe,
    ended: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    info: Option<gst_video::VideoInfo>,
    /// Frames in a row behind which the decoder held another one back.
    late: u32,
    late_said: bool,
}

impl RefineInput {
    /// A pad that is not yet the element's.
    pub fn new(template: &gst::PadTemplate) -> Arc<Self> {
        let pad = gst::Pad::builder_from_template(template)
            .name("refine")
            .chain_function(|_, parent, buffer| {
                DdsInfer::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |imp| Ok(imp.refine_chain(buffer)),
                )
            })
            .event_function(|pad, parent, event| {
                DdsInfer::catch_panic_pad_function(parent, || false, |imp| imp.refine_event(pad, &event))
            })
            .query_function(|pad, parent, query| {
                let answer = || match query.view_mut() {
                    // The frames are read within the call or kept as they are.
                    gst::QueryViewMut::Allocation(allocation) => {
                        allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
                        true
                    }
                    _ => gst::Pad::query_default(pad, parent, query),
                };
                static GUARD: Guard = Guard::new("a query on the pad refine");
                GUARD.run(false, answer)
            })
            // Nothing that comes in here leaves as such.
            .iterate_internal_links_function(|_, _| gst::Iterator::from_vec(Vec::new()))
            .build();
        gst_dds_link::refusal::tell_refusals(&pad);
        Arc::new(Self {
            pad,
            probe: KeptProbe::default(),
            ended: AtomicBool::new(false),
            inner: Mutex::default(),
        })
    }

    /// The pad.
    pub fn pad(&self) -> &gst::Pad {
        &self.pad
    }

    /// Whether a second pass can come in.
    pub fn is_open(&self) -> bool {
        self.pad.is_linked() && !self.ended.load(Ordering::Relaxed)
    }

    /// Begins a new run, or lets go of the last one.
    pub fn reset(&self) {
        self.ended.store(false, Ordering::Relaxed);
        self.probe.clear();
        *self.inner.lock().unwrap() = Inner::default();
    }
}

impl DdsInfer {
    pub(super) fn refine_input(&self) -> Option<Arc<RefineInput>> {
        self.refine.lock().unwrap().clone()
    }

    fn refine_event(&self, pad: &gst::Pad, event: &gst::Event) -> bool {
        gst::log!(CAT, obj = pad, "{event:?}");
        let Some(input) = self.refine_input() else { return false };
        match event.view() {
            gst::EventView::StreamStart(_) => {
                input.probe.look(&input.pad, &self.early, true);
                input.ended.store(false, Ordering::Relaxed);
                self.queue.set_refinement_over(false);
            }
            gst::EventView::Caps(caps) => {
                input.probe.look(&input.pad, &self.early, true);
                let info = gst_video::VideoInfo::from_caps(caps.caps()).ok();
                let known = info.is_some();
                input.inner.lock().unwrap().info = info;
                return known;
            }
            gst::EventView::Eos(_) => {
                input.ended.store(true, Ordering::Relaxed);
                self.queue.set_refinement_over(true);
            }
            _ => (),
        }
        // Times and gaps of this branch are not those of the video.
        true
    }

    fn refine_chain(&self, buffer: gst::Buffer) -> gst::FlowSuccess {
        let Some(input) = self.refine_input() else {
            return gst::FlowSuccess::Ok;
        };
        // Without a probe no frame is of use: then each one is worth a look.
        let missing = input.probe.tracker().is_none();
        input.probe.look(&input.pad, &self.early, missing);
        let tracker = input.probe.tracker();
        let info = input.inner.lock().unwrap().info.clone();
        let pts = buffer.pts().map(gst::ClockTime::nseconds);
        let (lookup, waiting) = tracker.map_or((Lookup::Unknown, 0), |tracker| {
            let mut tracker = tracker.lock().unwrap();
            (tracker.lookup(pts), tracker.waiting())
        });
        self.watch_decoder(&input, waiting > 0);
        let known = match lookup {
            Lookup::Known(record) => record
                .identity
                .filter(|i| i.kind == StreamKind::Refine)
                .map(|i| (i, record)),
            Lookup::Unknown => None,
        };
        let (Some((identity, record)), Some(info)) = (known, info) else {
            gst::debug!(
                CAT,
                obj = input.pad,
                "A frame at {pts:?} that is no second pass of a known frame"
            );
            self.stats.lock().unwrap().refine_unidentified += 1;
            return gst::FlowSuccess::Ok;
        };
        if record.extension.refined.is_empty() {
            // The picture that a camera begins with.
            return gst::FlowSuccess::Ok;
        }
        let damaged = record.damaged || buffer.flags().contains(gst::BufferFlags::CORRUPTED);
        gst::log!(
            CAT,
            obj = input.pad,
            "Second pass of frame {}, damaged: {damaged}",
            identity.frame
        );
        let refinement = Refinement {
            buffer,
            info,
            regions: record.extension.refined,
            damaged,
        };
        let key = (identity.stream_id, identity.frame);
        if !self.queue.arrive(key, Arrival::Refined(refinement)) {
            self.stats.lock().unwrap().refine_after_the_fact += 1;
        }
        self.refine_works.store(true, Ordering::Relaxed);
        gst::FlowSuccess::Ok
    }

    /// A decoder that gives each frame only when the next one comes makes every refinement late.
    fn watch_decoder(&self, input: &RefineInput, holds_back: bool) {
        let mut inner = input.inner.lock().unwrap();
        inner.late = if holds_back { inner.late + 1 } else { 0 };
        if inner.late < LATE_FRAMES || inner.late_said {
            return;
        }
        inner.late_said = true;
        drop(inner);
        gst::element_imp_warning!(
            self,
            gst::StreamError::Decode,
            ("The decoder in front of the refine pad gives each frame only when the next one comes, too late to be of use; \
              use avdec_h264 max-threads=1")
        );
    }
}
