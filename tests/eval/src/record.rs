// SPDX-License-Identifier: MPL-2.0

//! What a run keeps: one file per clip, system and point, and one about the run as a whole.
//!
//! ```text
//! DIR/run.json                          Manifest
//! DIR/records/CLIP/SYSTEM/POINT.json    Record
//! DIR/records/CLIP/reference/source.json
//! DIR/streams/CLIP/SYSTEM.h264          one coded stream per system, for the pictures of the page
//! DIR/summary.json                      Summary, made of the records by `report`
//! DIR/results/MODEL-10s/CLIP.json       every captured picture judged, see [`crate::judge`]
//! ```

use serde::{Deserialize, Serialize};

/// One box, in pixels of the source frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Name of the class.
    pub label: String,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width.
    pub w: f32,
    /// Height.
    pub h: f32,
    /// The pass that found it: 2 for a second one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pass: u32,
    /// Whose face it is, where it was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// How a frame came to its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The server's model ran on this frame.
    #[default]
    Inferred,
    /// The frame was not sent: the last result stands, and is not written again.
    Held,
    /// The frame was not sent: the camera's tracker moved the boxes.
    Tracked,
    /// The frame was sent and not evaluated (super-resolution); it counts for bytes alone.
    Unscored,
}

/// One frame of the source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Bytes sent of the first (or only) stream for this frame; 0 where it was not sent.
    pub bytes: u32,
    /// Bytes sent of the second stream.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refine_bytes: u32,
    /// Bytes that the server sent back about this frame.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub feedback_bytes: u32,
    /// Where the result comes from.
    pub origin: Origin,
    /// Result: boxes with a score of at least [`Record::LEAST_SCORE`].
    pub objects: Vec<Object>,
    /// Regions asked for, or made finer: x, y, width, height in pixels of the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<[u32; 4]>,
    /// The classes of a segmentation, as ddsinfer writes them.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub map: serde_json::Value,
}

/// One point of one system on one clip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Hash of everything that the record depends on; with another one it is made anew.
    pub key: String,
    /// Clip, the name of its file without extension.
    pub clip: String,
    /// Name of the system.
    pub system: String,
    /// Name of the point within the system.
    pub point: String,
    /// The settings in words.
    pub settings: String,
    /// Frames in source order.
    pub frames: Vec<Frame>,
    /// Segment length in frames, where the camera sends whole segments; 0 where it sends frame by frame.
    pub segment: u32,
    /// Processor time of the camera per frame of the source, milliseconds; measured, so not the same twice.
    pub camera_ms: f64,
    /// Processor time beside the server's detector per evaluated frame (super-resolution), milliseconds.
    pub server_extra_ms: f64,
    /// Runs of the server's model, all frames together.
    pub inferences: u64,
}

impl Record {
    /// Boxes below this are not kept.
    pub const LEAST_SCORE: f32 = 0.15;
}

/// A clip of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClipInfo {
    /// Name of the file without extension.
    pub name: String,
    /// The file as it was given.
    pub path: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// Frames per second.
    pub rate: f64,
    /// Frames taken.
    pub frames: usize,
}

/// The run as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The command line.
    pub command: String,
    /// Processor, cores, system.
    pub machine: String,
    /// Versions of GStreamer, libx264, ONNX Runtime and this project.
    pub versions: String,
    /// File name of the server's model.
    pub model: String,
    /// What it finds: `detection`, `segmentation` or `face`.
    pub task: String,
    /// Round trip between camera and server, milliseconds.
    pub rtt_ms: f64,
    /// One run of the server's model, milliseconds.
    pub inference_ms: f64,
    /// Rate of the link upstream, kbit/s.
    pub link_kbps: f64,
    /// Captured time from one key frame to the next in systems that count it so, seconds.
    #[serde(default)]
    pub key_frames: u32,
    /// The clips.
    pub clips: Vec<ClipInfo>,
    /// Wall time spent so far, all parts of an interrupted run together, seconds.
    pub seconds: f64,
}

/// What is done to results before they are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Post {
    /// Each system by its own rule: two passes united, skipped frames held or tracked.
    Published,
    /// No union of passes, skipped frames hold the last result.
    Plain,
    /// The same for all: overlapping boxes of a class joined, skipped frames interpolated between inferred ones.
    Equal,
}

/// Accuracy against the same model on the source, each 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The measure that curves and savings use: strict F1, mIoU of a segmentation.
    pub main: f64,
    /// F1 by the DDS paper's metric; NaN never, 0 where the task has none.
    pub paper: f64,
    /// Faces called by the right name, where faces are recognised.
    pub identity: Option<f64>,
    /// Agreement of segmentations by the DDS paper's metric.
    pub agreement: Option<f64>,
}

/// Age of the newest result at the server, sampled every millisecond, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Freshness {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
}

/// One point of one system, scored, on one clip or (clip `pooled`) over all clips that every system ran on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Clip, or `pooled`.
    pub clip: String,
    /// Name of the system.
    pub system: String,
    /// Name of the point.
    pub point: String,
    /// The settings in words.
    pub settings: String,
    /// The system's shipped or published setting.
    pub shipped: bool,
    /// kbit/s, both directions, without headers of RTP, UDP and IP.
    pub kbps: f64,
    /// Of those, from server to camera.
    pub kbps_down: f64,
    /// kbit/s, both directions, with headers of RTP, UDP and IP.
    pub kbps_headers: f64,
    /// Bits as a share of those of the uniform short-GOP encode at the finest quantizer of the sweep.
    pub norm: f64,
    /// Share of the upstream bytes that a second stream took.
    pub refine_share: f64,
    /// By what was done to the results.
    pub published: Accuracy,
    /// As above.
    pub plain: Accuracy,
    /// As above.
    pub equal: Accuracy,
    /// Age of results.
    pub freshness: Freshness,
    /// Processor time of the camera per frame, milliseconds.
    pub camera_ms: f64,
    /// Runs of the server's model per frame of the source.
    pub inferences: f64,
}

impl Scored {
    /// Accuracy after `post`.
    pub fn accuracy(&self, post: Post) -> Accuracy {
        match post {
            Post::Published => self.published,
            Post::Plain => self.plain,
            Post::Equal => self.equal,
        }
    }
}

/// Everything the page shows in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run.
    pub manifest: Manifest,
    /// Test threshold, fixed on the uniform encodes of all clips.
    pub threshold: f32,
    /// Clips that every system ran on; the pooled points are over these.
    pub pooled_clips: Vec<String>,
    /// All points; those of a system on a clip stand together, in the order of its sweep.
    pub points: Vec<Scored>,
}

/// A car of 20 pixels at `x`, for tests.
#[cfg(test)]
pub(crate) fn car(x: f32) -> Object {
    Object {
        label: "car".into(),
        score: 0.8,
        x,
        y: 100.0,
        w: 20.0,
        h: 20.0,
        pass: 1,
        identity: None,
    }
}
