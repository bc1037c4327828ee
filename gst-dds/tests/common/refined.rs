// SPDX-License-Identifier: MPL-2.0

//! A sink for the second stream of two passes.

use std::sync::mpsc;
use std::time::Duration;

use gst::prelude::*;

/// Most time that the second stream may take in a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Output of the pad `refine`.
pub enum Item {
    Unit(gst::Buffer),
    Event(gst::Event),
}

/// A sink on the pad `refine`.
pub struct Refined {
    pub pad: gst::Pad,
    pub source: gst::Pad,
    pub items: mpsc::Receiver<Item>,
    pub units: Vec<gst::Buffer>,
}

impl Refined {
    pub fn new(element: &gst::Element) -> Self {
        let source = element.request_pad_simple("refine").expect("two passes");
        let (sender, items) = mpsc::channel();
        let events = sender.clone();
        // Without a template a pad takes its first caps only.
        let any = gst::PadTemplate::new(
            "refined",
            gst::PadDirection::Sink,
            gst::PadPresence::Always,
            &gst::Caps::new_any(),
        );
        let pad = gst::Pad::builder_from_template(&any.unwrap())
            .chain_function(move |_, _, buffer| {
                let _ = sender.send(Item::Unit(buffer));
                Ok(gst::FlowSuccess::Ok)
            })
            .event_function(move |_, _, event| {
                let _ = events.send(Item::Event(event));
                true
            })
            .build();
        pad.set_active(true).unwrap();
        source.link(&pad).unwrap();
        Self {
            pad,
            source,
            items,
            units: Vec::new(),
        }
    }

    /// The next access unit; earlier events are dropped.
    pub fn unit(&mut self) -> gst::Buffer {
        loop {
            if let Item::Unit(unit) = self.items.recv_timeout(PATIENCE).expect("a refinement") {
                self.units.push(unit.clone());
                return unit;
            }
        }
    }

    /// The next event of this kind; events before it are dropped. Access units are kept.
    pub fn event(&mut self, kind: gst::EventType) -> gst::Event {
        loop {
            match self.items.recv_timeout(PATIENCE).expect("an event") {
                Item::Event(event) if event.type_() == kind => return event,
                Item::Event(_) => {}
                Item::Unit(unit) => self.units.push(unit),
            }
        }
    }

    /// Everything received so far.
    pub fn stream(&self) -> Vec<u8> {
        self.units
            .iter()
            .flat_map(|unit| unit.map_readable().unwrap().to_vec())
            .collect()
    }
}
