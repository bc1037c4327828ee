// SPDX-License-Identifier: MPL-2.0

//! Reverse channel of gst-dds inside GStreamer: carries feedback packets from `ddsinfer` back to their `ddsencode`
//! without a line of application code.
//!
//! - [`event`]: a custom upstream event, for a camera and a server in one process;
//! - [`path`]: follows an element's own data path to the RTP session it runs through;
//! - [`session`]: sends and receives RTCP APP packets (`DDS1`) on that session;
//! - [`report`]: reports of receivers on the stream there;
//! - [`channel`]: a way beside the video by UDP or TCP, for paths that drop RTCP; [`uri`]: its addresses; [`secure`]:
//!   its messages, sealed; [`secret`]: files with keys and passwords;
//! - [`refusal`]: errors of both elements for caps that they do not accept.
//!
//! It also has the base of every callback of the product: [`guard`] stops panics, [`sync`] has locks that survive them,
//! [`text`] reads strings from C.
//!
//! Nothing here searches pipelines as a whole: with two cameras and an audio stream in one pipeline each element finds
//! the session of its own media and no other.

pub mod channel;
pub mod event;
pub mod guard;
pub mod path;
pub mod refusal;
pub mod report;
pub mod secret;
pub mod secure;
pub mod session;
pub mod sync;
pub mod text;
pub mod uri;

use std::sync::LazyLock;

pub(crate) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "ddslink",
        gst::DebugColorFlags::empty(),
        Some("gst-dds reverse channel"),
    )
});
