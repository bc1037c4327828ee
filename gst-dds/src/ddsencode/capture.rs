// SPDX-License-Identifier: MPL-2.0

//! Properties of a captured picture: its capture time, and its own regions.

#![forbid(unsafe_code)]

use dds_protocol::feedback::Rect;
use gst::prelude::*;

use crate::camera::RoiRequest;

/// Name of the parameter structure of ROI metas that are meant for us.
const ROI_PARAM: &str = "roi/ddsencode";
/// Seconds from 1900 to 1970.
const NTP_TO_UNIX: gst::ClockTime = gst::ClockTime::from_seconds(2_208_988_800);

/// Capture time in UNIX nanoseconds, 0 where unknown: from a reference timestamp meta (`timestamp/x-unix`, or
/// `timestamp/x-ntp`), else the wall clock minus the time since the frame's running time on the pipeline's clock.
pub(super) fn capture_time(
    element: &gst::Element,
    buffer: &gst::BufferRef,
    running_time: Option<gst::ClockTime>,
    wall_clock: bool,
) -> u64 {
    for meta in buffer.iter_meta::<gst::ReferenceTimestampMeta>() {
        match meta.reference().structure(0).map(|s| s.name().as_str()) {
            Some("timestamp/x-unix") => return meta.timestamp().nseconds(),
            Some("timestamp/x-ntp") => return meta.timestamp().saturating_sub(NTP_TO_UNIX).nseconds(),
            _ => {}
        }
    }
    if !wall_clock {
        return 0;
    }
    let Ok(wall) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) else {
        return 0;
    };
    let age = element
        .clock()
        .zip(element.base_time())
        .zip(running_time)
        .map_or(gst::ClockTime::ZERO, |((clock, base), then)| {
            clock.time().saturating_sub(base).saturating_sub(then)
        });
    u64::try_from(wall.as_nanos())
        .unwrap_or(0)
        .saturating_sub(age.nseconds())
}

/// Counts of ROI metas that request nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnusedRois {
    /// Without our structure: meant for another element.
    pub foreign: u64,
    /// Whose structure lacks an integer `delta-qp`.
    pub malformed: u64,
}

/// Collects the regions that the buffer itself requests.
pub(super) fn collect_rois(buffer: &gst::BufferRef, rois: &mut Vec<RoiRequest>) -> UnusedRois {
    let mut unused = UnusedRois::default();
    rois.clear();
    for meta in buffer.iter_meta::<gst_video::VideoRegionOfInterestMeta>() {
        let Some(param) = meta.param(ROI_PARAM) else {
            unused.foreign += 1;
            continue;
        };
        let Ok(delta_qp) = param.get::<i32>("delta-qp") else {
            unused.malformed += 1;
            continue;
        };
        let (x, y, width, height) = meta.rect();
        rois.push(RoiRequest {
            rect: Rect { x, y, width, height },
            delta_qp,
        });
    }
    unused
}
