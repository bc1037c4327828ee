// SPDX-License-Identifier: MPL-2.0

/**
 * SECTION:element-ddsoverlay
 * @title: ddsoverlay
 *
 * Draws results on decoded video: boxes with names and scores, the regions for which quality was requested, and damage.
 *
 * ```shell
 * gst-launch-1.0 filesrc location=street.mp4 ! decodebin ! ddsinfer model-file=model.onnx ! ddsoverlay ! videoconvert ! autovideosink
 * ```
 *
 * Objects come from #GstVideoRegionOfInterestMeta, of `ddsinfer` or any other detector; regions, and whether the picture is
 * damaged, from the #GstCustomMeta `ddsinfer-results`. Results of a frame are drawn on that frame; on later frames that
 * were not inferred they stay up to `hold`, dimmed. Frames on which nothing is drawn pass unchanged.
 *
 * Since: 0.1
 */
use std::sync::LazyLock;

use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_dds_link::guard::Guard;
use gst_dds_link::sync::Mutex;
use gst_video::prelude::*;

use super::settings::{PROPERTIES, Settings};
use super::{format, metas};
use crate::overlay::canvas::{Canvas, Layout, Plane};
use crate::overlay::hold::{Hold, Showing};
use crate::overlay::{HELD, Painter};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "ddsoverlay",
        gst::DebugColorFlags::empty(),
        Some("Draws results of inference"),
    )
});

/// A stream's format, its results, and the scene of its current frame.
#[derive(Default)]
struct State {
    format: Option<(gst_video::VideoInfo, Layout)>,
    hold: Hold,
    showing: Showing,
    painter: Painter,
}

/// The two locks are never held together.
#[derive(Default)]
pub struct DdsOverlay {
    settings: Mutex<Settings>,
    state: Mutex<State>,
}

/// Guards property access: the bindings let a panic there abort.
static PROPERTY_GUARD: Guard = Guard::new("a property of ddsoverlay");

#[glib::object_subclass]
impl ObjectSubclass for DdsOverlay {
    const NAME: &'static str = "GstDdsOverlay";
    type Type = super::DdsOverlay;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for DdsOverlay {
    fn constructed(&self) {
        self.parent_constructed();
        gst_dds_link::refusal::report_refusals(self.obj().sink_pad());
    }

    fn properties() -> &'static [glib::ParamSpec] {
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        PROPERTY_GUARD.run((), || self.settings.lock().unwrap().set(pspec.name(), value));
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        PROPERTY_GUARD.run(pspec.default_value().clone(), || {
            self.settings.lock().unwrap().get(pspec.name())
        })
    }
}

impl GstObjectImpl for DdsOverlay {}

impl ElementImpl for DdsOverlay {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "DDS overlay",
                "Filter/Effect/Video",
                "Draws detected objects with their names and the regions for which quality was asked",
                "The gst-dds maintainers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let caps = gst_video::VideoCapsBuilder::new().format_list(format::FORMATS).build();
            [("sink", gst::PadDirection::Sink), ("src", gst::PadDirection::Src)]
                .map(|(name, direction)| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).expect("valid template")
                })
                .into()
        });
        &TEMPLATES
    }
}

impl BaseTransformImpl for DdsOverlay {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        *self.state.lock().unwrap() = State::default();
        Ok(())
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = gst_video::VideoInfo::from_caps(incaps)
            .map_err(|_| gst::loggable_error!(CAT, "Not raw video: {incaps}"))?;
        let mut state = self.state.lock().unwrap();
        let layout = format::layout(&info);
        state.format = Some((info, layout));
        // The results belong to another picture size.
        state.hold.clear();
        Ok(())
    }

    /// Frames are drawn on in place: an allocation that suits downstream suits here too.
    fn propose_allocation(
        &self,
        _decide_query: Option<&gst::query::Allocation>,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        match self.obj().src_pad().peer_query(query) {
            true => Ok(()),
            false => Err(gst::loggable_error!(CAT, "Downstream proposes no allocation")),
        }
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        if matches!(event.type_(), gst::EventType::FlushStop | gst::EventType::StreamStart) {
            self.state.lock().unwrap().hold.clear();
        }
        self.parent_sink_event(event)
    }

    /// Chooses the scene of the frame. A frame with nothing to draw passes and need not be writable.
    fn before_transform(&self, buffer: &gst::BufferRef) {
        let settings = self.settings.lock().unwrap().clone();
        let nothing = {
            let mut state = self.state.lock().unwrap();
            let Some(size) = state.format.as_ref().map(|(info, _)| (info.width(), info.height())) else {
                return;
            };
            let time = buffer.pts().map(gst::ClockTime::nseconds);
            let mut showing = state.hold.show(metas::found(buffer, size), time, settings.hold());
            showing.fresh.damaged |= buffer.flags().contains(gst::BufferFlags::CORRUPTED);
            let nothing = !settings.style().shows(&showing.fresh) && !settings.style().shows(&showing.held);
            state.showing = showing;
            nothing
        };
        self.obj().set_passthrough(nothing);
    }

    fn transform_ip(&self, buffer: &mut gst::BufferRef) -> Result<gst::FlowSuccess, gst::FlowError> {
        let style = self.settings.lock().unwrap().style();
        let mut state = self.state.lock().unwrap();
        let State {
            format,
            showing,
            painter,
            ..
        } = &mut *state;
        let Some((info, layout)) = format else {
            return Err(gst::FlowError::NotNegotiated);
        };
        let Ok(mut frame) = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, info) else {
            // Only the drawing is lost.
            gst::warning!(CAT, imp = self, "A frame cannot be written; it passes as it is");
            return Ok(gst::FlowSuccess::Ok);
        };
        let strides: Vec<usize> = frame
            .plane_stride()
            .iter()
            .map(|s| usize::try_from(*s).unwrap_or(0))
            .collect();
        let planes = frame.planes_data_mut().into_iter().zip(strides);
        let mut canvas = Canvas {
            layout,
            planes: planes.map(|(data, stride)| Plane { data, stride }).collect(),
        };
        painter.draw(&mut canvas, &showing.held, &style, HELD);
        painter.draw(&mut canvas, &showing.fresh, &style, 1.0);
        Ok(gst::FlowSuccess::Ok)
    }
}
