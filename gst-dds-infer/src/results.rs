// SPDX-License-Identifier: MPL-2.0

//! What was seen in one frame, as a line of JSON and as the structure of an element message.

#![forbid(unsafe_code)]

use dds_protocol::feedback::Rect;
use dds_protocol::identity::FrameIdentity;
use serde_json::{Value, json};

use crate::model::Detection;

/// One object in pixels of the frame, inside it, at least one pixel large.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Name of its class.
    pub label: String,
    /// Number of its class.
    pub class: u32,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// Everything said of one inferred frame.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameResult {
    /// What the camera says of the frame.
    pub identity: Option<FrameIdentity>,
    /// Presentation time of the buffer, nanoseconds.
    pub pts_ns: Option<u64>,
    /// Capture to result, milliseconds; `None` where the clocks are not known to agree, and for recordings.
    pub age_ms: Option<f64>,
    /// The picture is not what the camera coded.
    pub damaged: bool,
    /// Width of the frame in pixels.
    pub width: u32,
    /// Height of the frame in pixels.
    pub height: u32,
    /// Time spent in the model, pre- and post-processing included, milliseconds.
    pub inference_ms: f64,
    /// What is there.
    pub objects: Vec<Object>,
    /// Generation of the feedback that the frame gave.
    pub generation: Option<u16>,
    /// Where that feedback asks for quality.
    pub regions: Vec<Rect>,
}

/// Detections of at least `threshold` as objects inside the frame; what rounds to nothing is left out.
pub fn objects_of(
    detections: &[Detection],
    threshold: f32,
    label: impl Fn(u32) -> String,
    width: u32,
    height: u32,
) -> Vec<Object> {
    // Casts from float saturate, and NaN becomes 0.
    let side = |from: f32, to: f32, limit: u32| {
        let from = (from.round().max(0.0) as u32).min(limit.saturating_sub(1));
        let to = (to.round().max(0.0) as u32).min(limit).max(from + 1);
        (from, to - from)
    };
    if width == 0 || height == 0 {
        return Vec::new();
    }
    detections
        .iter()
        .filter(|d| d.score >= threshold)
        .map(|d| {
            let (x, width) = side(d.x1, d.x2, width);
            let (y, height) = side(d.y1, d.y2, height);
            Object {
                label: label(d.class),
                class: d.class,
                score: d.score,
                x,
                y,
                width,
                height,
            }
        })
        .collect()
}

/// JSON has no NaN and no infinity; digits beyond use are left out.
fn rounded(value: f64, decimals: i32) -> Value {
    let scale = 10f64.powi(decimals);
    json!((value * scale).round() / scale)
}

impl FrameResult {
    /// One line of JSON with its newline:
    ///
    /// `stream_id`, `frame`, `capture_time_ns` (numbers, or null without identity; capture time null where the camera does
    /// not know it), `pts_ns` (number or null), `age_ms` (number or null), `damaged` (boolean), `width`, `height`,
    /// `inference_ms`, `objects` (array of `label`, `class`, `score`, `x`, `y`, `width`, `height`), `generation` (number
    /// or null), `regions` (array of `x`, `y`, `width`, `height`).
    pub fn to_json_line(&self) -> Vec<u8> {
        let identity = self.identity;
        let objects: Vec<Value> = self
            .objects
            .iter()
            .map(|o| {
                json!({
                    "label": o.label, "class": o.class, "score": rounded(f64::from(o.score), 4),
                    "x": o.x, "y": o.y, "width": o.width, "height": o.height,
                })
            })
            .collect();
        let regions: Vec<Value> = self
            .regions
            .iter()
            .map(|r| json!({"x": r.x, "y": r.y, "width": r.width, "height": r.height}))
            .collect();
        let line = json!({
            "stream_id": identity.map(|i| i.stream_id),
            "frame": identity.map(|i| i.frame),
            "pts_ns": self.pts_ns,
            "capture_time_ns": identity.map(|i| i.capture_time_ns).filter(|t| *t != 0),
            "age_ms": self.age_ms.map(|age| rounded(age, 3)),
            "damaged": self.damaged,
            "width": self.width,
            "height": self.height,
            "inference_ms": rounded(self.inference_ms, 3),
            "objects": objects,
            "generation": self.generation,
            "regions": regions,
        });
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        bytes
    }

    /// The structure `ddsinfer-results`: the fields of [`Self::to_json_line`] with `-` for `_`; fields that are null there
    /// are left out. `objects` and `regions` are arrays of structures (`object`, `region`).
    pub fn to_structure(&self) -> gst::Structure {
        let objects = self.objects.iter().map(|o| {
            gst::Structure::builder("object")
                .field("label", &o.label)
                .field("class", o.class)
                .field("score", f64::from(o.score))
                .field("x", o.x)
                .field("y", o.y)
                .field("width", o.width)
                .field("height", o.height)
                .build()
        });
        let regions = self.regions.iter().map(|r| {
            gst::Structure::builder("region")
                .field("x", r.x)
                .field("y", r.y)
                .field("width", r.width)
                .field("height", r.height)
                .build()
        });
        let identity = self.identity;
        gst::Structure::builder("ddsinfer-results")
            .field_if_some("stream-id", identity.map(|i| i.stream_id))
            .field_if_some("frame", identity.map(|i| i.frame))
            .field_if_some("pts-ns", self.pts_ns)
            .field_if_some(
                "capture-time-ns",
                identity.map(|i| i.capture_time_ns).filter(|t| *t != 0),
            )
            .field_if_some("age-ms", self.age_ms)
            .field("damaged", self.damaged)
            .field("width", self.width)
            .field("height", self.height)
            .field("inference-ms", self.inference_ms)
            .field("objects", gst::Array::new(objects))
            .field_if_some("generation", self.generation.map(u32::from))
            .field("regions", gst::Array::new(regions))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dds_protocol::identity::StreamKind;

    fn result() -> FrameResult {
        FrameResult {
            identity: Some(FrameIdentity {
                kind: StreamKind::Single,
                stream_id: 7,
                frame: 300,
                capture_time_ns: 1_700_000_000_000_000_000,
                access_unit: 290,
                recovery: false,
                slices: 1,
                slice_bytes: 100,
                slice_checksum: 0,
            }),
            pts_ns: Some(10_000_000_000),
            age_ms: Some(41.23456),
            damaged: false,
            width: 768,
            height: 576,
            inference_ms: 12.3456,
            objects: vec![Object {
                label: "person".into(),
                class: 0,
                score: 0.87654,
                x: 1,
                y: 2,
                width: 30,
                height: 40,
            }],
            generation: Some(65535),
            regions: vec![Rect {
                x: 8,
                y: 16,
                width: 24,
                height: 32,
            }],
        }
    }

    #[test]
    fn json_line_is_as_documented() {
        let line = String::from_utf8(result().to_json_line()).unwrap();
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
        let expected = json!({
            "stream_id": 7, "frame": 300, "pts_ns": 10_000_000_000u64, "capture_time_ns": 1_700_000_000_000_000_000u64,
            "age_ms": 41.235, "damaged": false, "width": 768, "height": 576, "inference_ms": 12.346,
            "objects": [{"label": "person", "class": 0, "score": 0.8765, "x": 1, "y": 2, "width": 30, "height": 40}],
            "generation": 65535, "regions": [{"x": 8, "y": 16, "width": 24, "height": 32}],
        });
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), expected);
    }

    #[test]
    fn what_is_not_known_is_null_in_json_and_absent_in_the_message() {
        gst::init().unwrap();
        let unknown = FrameResult {
            identity: None,
            pts_ns: None,
            age_ms: None,
            generation: None,
            inference_ms: f64::NAN,
            ..result()
        };
        let line: Value = serde_json::from_slice(&unknown.to_json_line()).unwrap();
        for field in [
            "stream_id",
            "frame",
            "pts_ns",
            "capture_time_ns",
            "age_ms",
            "generation",
            "inference_ms",
        ] {
            assert!(line[field].is_null(), "{field}");
        }
        let structure = unknown.to_structure();
        for field in [
            "stream-id",
            "frame",
            "pts-ns",
            "capture-time-ns",
            "age-ms",
            "generation",
        ] {
            assert!(!structure.has_field(field), "{field}");
        }
        assert_eq!(result().to_structure().get::<u64>("frame").unwrap(), 300);
        assert_eq!(result().to_structure().get::<gst::Array>("objects").unwrap().len(), 1);
    }

    #[test]
    fn objects_lie_inside_the_frame() {
        let wild = [
            (-5.0, -5.0, 1e9, 1e9),
            (f32::NAN, f32::NAN, f32::NAN, f32::NAN),
            (99.6, 49.9, 200.0, 200.0),
            (10.2, 10.4, 10.3, 10.4),
        ];
        let detections: Vec<Detection> = wild
            .iter()
            .map(|&(x1, y1, x2, y2)| Detection {
                x1,
                y1,
                x2,
                y2,
                score: 0.5,
                objectness: None,
                class: 3,
            })
            .collect();
        let objects = objects_of(&detections, 0.5, |c| format!("class {c}"), 100, 50);
        assert_eq!(objects.len(), 4);
        for o in &objects {
            assert!(
                o.width > 0 && o.height > 0 && o.x + o.width <= 100 && o.y + o.height <= 50,
                "{o:?}"
            );
        }
        assert!(objects_of(&detections, 0.6, |_| String::new(), 100, 50).is_empty());
    }
}
