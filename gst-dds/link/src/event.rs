// SPDX-License-Identifier: MPL-2.0

//! Feedback as a custom upstream event. Decoders, parsers, payloaders, queues and tees forward it, so a server
//! downstream of its camera in the same process needs nothing else.
//!
//! A push that returned `true` does not mean that a camera took the event: `rtspsrc` returns it for every event while
//! it receives through the RTSP connection. So the event carries a receipt, which the camera signs.

/// Name of the event's structure.
pub const NAME: &str = "dds-feedback";
const FIELD: &str = "packet";
const RECEIPT: &str = "receipt";

/// Receipt of an event: shows whether a camera took it.
///
/// The mark must mean the same in two plugins that share no code at run time, may be set by several cameras at once,
/// and outlives the event: it is in the flags of an object that GStreamer itself guards by a lock.
#[derive(Debug)]
pub struct Receipt(gst::Stream);

impl Receipt {
    fn new() -> Self {
        let (kind, flags) = (gst::StreamType::UNKNOWN, gst::StreamFlags::empty());
        Self(gst::Stream::new(Some(NAME), None, kind, flags))
    }

    /// Whether a camera has taken the event by now.
    pub fn is_signed(&self) -> bool {
        self.0.stream_flags().contains(gst::StreamFlags::SELECT)
    }
}

/// An upstream event that carries one bare feedback packet.
pub fn feedback(packet: &[u8]) -> gst::Event {
    feedback_with_receipt(packet).0
}

/// An upstream event that carries one bare feedback packet, and its receipt.
pub fn feedback_with_receipt(packet: &[u8]) -> (gst::Event, Receipt) {
    let receipt = Receipt::new();
    let structure = gst::Structure::builder(NAME)
        .field(FIELD, glib::Bytes::from(packet))
        .field(RECEIPT, &receipt.0)
        .build();
    (gst::event::CustomUpstream::new(structure), receipt)
}

/// The feedback packet in an event, `None` for any other event. For observers only.
pub fn parse(event: &gst::EventRef) -> Option<glib::Bytes> {
    structure_of(event)?.get::<glib::Bytes>(FIELD).ok()
}

/// The feedback packet in an event, for the camera that it was meant for: signs the receipt. `None` for any other event.
pub fn take(event: &gst::EventRef) -> Option<glib::Bytes> {
    let packet = parse(event)?;
    if let Ok(receipt) = structure_of(event)?.get::<gst::Stream>(RECEIPT) {
        receipt.set_stream_flags(gst::StreamFlags::SELECT);
    }
    Some(packet)
}

fn structure_of(event: &gst::EventRef) -> Option<&gst::StructureRef> {
    if event.type_() != gst::EventType::CustomUpstream {
        return None;
    }
    event.structure().filter(|s| s.name() == NAME)
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
        assert!(parse(&other).is_none() && take(&other).is_none());
        assert!(parse(&gst::event::Reconfigure::new()).is_none());
    }

    #[test]
    fn a_receipt_is_signed_by_taking_alone() {
        gst::init().unwrap();
        let (event, receipt) = feedback_with_receipt(&[1]);
        assert!(parse(&event).is_some());
        assert!(!receipt.is_signed());
        let (event, receipt) = feedback_with_receipt(&[1]);
        for _ in 0..2 {
            assert_eq!(take(&event).as_deref(), Some(&[1u8][..]));
        }
        assert!(receipt.is_signed() && receipt.is_signed());
        // An event without a receipt is taken all the same.
        let bare = gst::Structure::builder(NAME)
            .field(FIELD, glib::Bytes::from(&[7u8]))
            .build();
        assert!(take(&gst::event::CustomUpstream::new(bare)).is_some());
    }

    #[test]
    fn only_a_packet_of_bytes_is_feedback_whatever_else_the_event_holds() {
        use glib::prelude::*;
        gst::init().unwrap();
        assert_eq!(take(&feedback(b"")).as_deref(), Some(&b""[..]));
        let with = |field: &str, value: glib::SendValue| {
            let mut structure = gst::Structure::builder(NAME)
                .field(FIELD, glib::Bytes::from(b"packet"))
                .build();
            structure.set_value(field, value);
            gst::event::CustomUpstream::new(structure)
        };
        for value in [
            "text".to_send_value(),
            7u64.to_send_value(),
            None::<glib::Bytes>.to_send_value(),
            gst::Array::new([1, 2]).to_send_value(),
        ] {
            assert_eq!(take(&with(FIELD, value)), None);
        }
        assert_eq!(
            take(&gst::event::CustomUpstream::new(gst::Structure::new_empty(NAME))),
            None
        );
        // A receipt of another kind is not signed, and the packet is taken all the same.
        for receipt in ["text".to_send_value(), None::<gst::Stream>.to_send_value()] {
            assert!(take(&with(RECEIPT, receipt)).is_some());
        }
    }
}
