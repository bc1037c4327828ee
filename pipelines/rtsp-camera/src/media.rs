// SPDX-License-Identifier: MPL-2.0

//! One media for all clients, though what they are told of it depends on how they ask: recorders set up every track that
//! they are told of, and wait for pictures on a sparse one.

#![forbid(unsafe_code)]

use gst_rtsp_server::gst_sdp::SDPMessage;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::subclass::prelude::*;
use gst_rtsp_server::subclass::SDPInfo;
use gst_rtsp_server::{RTSPContext, RTSPMediaFactory, gst_rtsp, gst_sdp};

/// Query of the URL that tells of the second stream as well.
pub const REFINE: &str = "refine=1";

/// A factory of such media, to be mounted at each URL.
pub fn factory() -> RTSPMediaFactory {
    let factory: Factory = glib::Object::new();
    factory.set_media_gtype(Media::static_type());
    factory.upcast()
}

/// Whether the request that is answered now asks for the second stream.
fn refine_is_asked_for() -> bool {
    let query = RTSPContext::with_current_context(|context| {
        let uri = context.uri()?.request_uri();
        Some(uri.split_once('?')?.1.trim_end_matches('/') == REFINE)
    });
    query.flatten().unwrap_or(false)
}

mod imp {
    use super::*;

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
        /// The same for every URL: one media.
        fn gen_key(&self, _url: &gst_rtsp::RTSPUrl) -> Option<glib::GString> {
            Some("camera".into())
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
        fn setup_sdp(
            &self,
            sdp: &mut gst_sdp::SDPMessageRef,
            info: &SDPInfo,
        ) -> Result<(), gst::LoggableError> {
            if refine_is_asked_for() {
                return self.parent_setup_sdp(sdp, info);
            }
            let mut whole = SDPMessage::new();
            self.parent_setup_sdp(&mut whole, info)?;
            whole.attributes().for_each(|a| sdp.add_attribute(a.key(), a.value()));
            whole.medias().take(1).for_each(|media| sdp.add_media(media.to_owned()));
            Ok(())
        }
    }
}

glib::wrapper! {
    pub struct Factory(ObjectSubclass<imp::Factory>) @extends RTSPMediaFactory;
}

glib::wrapper! {
    pub struct Media(ObjectSubclass<imp::Media>) @extends gst_rtsp_server::RTSPMedia;
}
