// SPDX-License-Identifier: MPL-2.0

//! One media for all clients, though its description depends on their request: recorders set up every track in it, and
//! wait for pictures on a sparse one.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use gst_rtsp_server::gst_sdp::SDPMessage;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::subclass::SDPInfo;
use gst_rtsp_server::subclass::prelude::*;
use gst_rtsp_server::{RTSPContext, RTSPMediaFactory, gst_rtsp, gst_sdp};

use crate::caller;

/// Part of the URL's query that requests the second stream.
const REFINE: &str = "refine=1";

/// A factory of such media.
pub fn factory() -> RTSPMediaFactory {
    let factory: Factory = glib::Object::new();
    factory.set_media_gtype(Media::static_type());
    factory.upcast()
}

/// Makes clients that connect from now on get a new media, though others may still use the current one.
pub fn retire() {
    imp::ENDED.fetch_add(1, Ordering::SeqCst);
}

/// Whether a request asks for the second stream.
pub fn requests_refine(context: &RTSPContext) -> bool {
    let query = caller::query(context).unwrap_or_default();
    query.split(|byte| *byte == b'&').any(|part| part == REFINE.as_bytes())
}

mod imp {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use gst_dds_link::guard::Guard;
    use gst_dds_link::sync::Mutex;

    use super::*;
    use crate::elements::guard;

    /// Media that have ended.
    pub static ENDED: AtomicU64 = AtomicU64::new(0);
    /// Warnings that media have posted, and when; of repeated ones, the latest.
    static PRINTED: Mutex<Vec<(String, Instant)>> = Mutex::new(Vec::new());
    const MOST_PRINTED: usize = 64;
    /// Time within which a warning is not printed again.
    const REPEAT_AFTER: Duration = Duration::from_secs(60);

    fn say_once(words: String) {
        let mut printed = PRINTED.lock().unwrap();
        printed.retain(|(_, when)| when.elapsed() < REPEAT_AFTER);
        if printed.iter().all(|(before, _)| *before != words) && printed.len() < MOST_PRINTED {
            crate::warn(&words);
            printed.push((words, Instant::now()));
        }
    }

    #[derive(Default)]
    pub struct Factory;

    #[glib::object_subclass]
    impl ObjectSubclass for Factory {
        const NAME: &'static str = "DdsRtspCameraFactory";
        type Type = super::Factory;
        type ParentType = RTSPMediaFactory;
    }

    impl ObjectImpl for Factory {}

    impl RTSPMediaFactoryImpl for Factory {
        /// The same key for every query: one media. It changes once the media begins to end: a client that connects
        /// just when the last one leaves would get a media that cannot be reused, and a 503.
        fn gen_key(&self, _url: &gst_rtsp::RTSPUrl) -> Option<glib::GString> {
            Some(ENDED.load(Ordering::SeqCst).to_string().into())
        }
    }

    #[derive(Default)]
    pub struct Media;

    #[glib::object_subclass]
    impl ObjectSubclass for Media {
        const NAME: &'static str = "DdsRtspCameraMedia";
        type Type = super::Media;
        type ParentType = gst_rtsp_server::RTSPMedia;
    }

    impl ObjectImpl for Media {}

    impl RTSPMediaImpl for Media {
        /// Clients learn no more of an error than a 503, or an end of stream.
        fn handle_message(&self, message: &gst::MessageRef) -> bool {
            let from = message.src().map(|src| src.name().to_string()).unwrap_or_default();
            match message.view() {
                gst::MessageView::Error(error) => say_once(format!("{from}: {}", crate::elements::words(error))),
                // Warnings of the server's own elements are about nothing that a user can fix.
                gst::MessageView::Warning(warning)
                    if message
                        .src()
                        .is_some_and(|src| src.has_as_ancestor(&self.obj().element())) =>
                {
                    say_once(format!("{from}: {}", warning.error()));
                }
                _ => {}
            }
            self.parent_handle_message(message)
        }

        fn unprepare(&self) -> Result<(), gst::LoggableError> {
            super::retire();
            self.parent_unprepare()
        }

        fn setup_sdp(&self, sdp: &mut gst_sdp::SDPMessageRef, info: &SDPInfo) -> Result<(), gst::LoggableError> {
            // The bindings catch panics of elements, not of media.
            static GUARD: LazyLock<Guard> = LazyLock::new(|| guard("setup-sdp"));
            GUARD.run(Err(gst::loggable_error!(gst::CAT_RUST, "A fault was caught")), || {
                if RTSPContext::with_current_context(requests_refine) == Some(true) {
                    return self.parent_setup_sdp(sdp, info);
                }
                let mut whole = SDPMessage::new();
                self.parent_setup_sdp(&mut whole, info)?;
                whole.attributes().for_each(|a| sdp.add_attribute(a.key(), a.value()));
                whole.medias().take(1).for_each(|media| sdp.add_media(media.to_owned()));
                Ok(())
            })
        }
    }
}

glib::wrapper! {
    pub struct Factory(ObjectSubclass<imp::Factory>) @extends RTSPMediaFactory;
}

glib::wrapper! {
    pub struct Media(ObjectSubclass<imp::Media>) @extends gst_rtsp_server::RTSPMedia;
}
