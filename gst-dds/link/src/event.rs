// SPDX-License-Identifier: MPL-2.0

//! Feedback as a custom upstream event. Decoders, parsers, payloaders, queues and tees pass it on, so a server behind
//! its camera in the same process needs nothing else.

/// Name of the event's structure.
pub const NAME: &str = "dds-feedback";
const FIELD: &str = "packet";

/// An upstream event that carries one bare feedback packet. Pushing it returns `true` only where a camera took it.
pub fn feedback(packet: &[u8]) -> gst::Event {
    gst::event::CustomUpstream::new(
        gst::Structure::builder(NAME)
            .field(FIELD, glib::Bytes::from(packet))
            .build(),
    )
}

/// The feedback packet in an event, `None` for any other event.
pub fn parse(event: &gst::EventRef) -> Option<glib::Bytes> {
    if event.type_() != gst::EventType::CustomUpstream {
        return None;
    }
    let structure = event.structure().filter(|s| s.name() == NAME)?;
    structure.get::<glib::Bytes>(FIELD).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_survives_the_event_and_other_events_are_not_ours() {
        gst::init().unwrap();
        let event = feedback(&[1, 2, 3]);
        assert_eq!(parse(&event).as_deref(), Some(&[1u8, 2, 3][..]));
        let other = gst::event::CustomUpstream::new(gst::Structure::new_empty("other"));
        assert!(parse(&other).is_none());
        assert!(parse(&gst::event::Reconfigure::new()).is_none());
    }
}
