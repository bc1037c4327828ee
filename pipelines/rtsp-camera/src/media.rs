// SPDX-License-Identifier: MPL-2.0

//! One media for all clients, though what they are told of it depends on how they ask: recorders set up every track that
//! they are told of, and wait for pictures on a sparse one.

#![forbid(unsafe_code)]

use gst_rtsp_server::gst_sdp::SDPMessage;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::subclass::SDPInfo;
use gst_rtsp_server::subclass::prelude::*;
use gst_rtsp_server::{RTSPContext, RTSPMediaFactory, gst_rtsp, gst_sdp};

use crate::caller;

/// What in the URL's query asks for the second stream.
const REFINE: &str = "refine=1";

/// A factory of such media.
pub fn factory() -> RTSPMediaFactory {
    let factory: Factory = glib::Object::new();
    factory.set_media_gtype(Media::static_type());
    factory.upcast()
}

/// Whether a request asks for the second stream.
pub fn asks_for_refine(context: &RTSPContext) -> bool {
    let query = caller::query(context).unwrap_or_default();
    query.split(|byte| *byte == b'&').any(|part| part == REFINE.as_bytes())
}

mod imp {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use gst_dds_link::guard::Guard;

    use super::*;
    use crate::server::guard;

    /// Media that have ended.
    static ENDED: AtomicU64 = AtomicU64::new(0);

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
        /// The same for every query: one media. Another one from when it begins to end: who comes just when the last client
        /// goes would be handed a media that cannot be used again, and be told 503.
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
        fn unprepare(&self) -> Result<(), gst::LoggableError> {
            ENDED.fetch_add(1, Ordering::SeqCst);
            self.parent_unprepare()
        }

        fn setup_sdp(&self, sdp: &mut gst_sdp::SDPMessageRef, info: &SDPInfo) -> Result<(), gst::LoggableError> {
            // The bindings catch panics of elements, not of media.
            static GUARD: LazyLock<Guard> = LazyLock::new(|| guard("setup-sdp"));
            GUARD.run(Err(gst::loggable_error!(gst::CAT_RUST, "A fault was caught")), || {
                if RTSPContext::with_current_context(asks_for_refine) == Some(true) {
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
