// SPDX-License-Identifier: MPL-2.0

//! Results of one frame, as a line of JSON and as the structure of an element message.

#![forbid(unsafe_code)]

use dds_protocol::feedback::Rect;
use dds_protocol::identity::FrameIdentity;
use serde_json::{Value, json};

use crate::model::{Detection, Landmarks};

/// Name of the [`gst::meta::CustomMeta`] on every inferred frame. Its structure has the fields of the element message
/// ([`FrameResult::to_structure`]); rectangles in it are in pixels of a picture of its `width` x `height`, also after
/// elements that scale. It has no tags, so that elements keep it whenever they keep any meta.
pub const META: &str = "ddsinfer-results";

/// Registers [`META`] with GStreamer, once.
pub fn register_meta() {
    if !gst::meta::CustomMeta::is_registered(META) {
        gst::meta::CustomMeta::register_simple(META);
    }
}

/// Attaches results as [`META`].
pub fn attach(buffer: &mut gst::BufferRef, results: &gst::StructureRef) -> Result<(), glib::BoolError> {
    let mut meta = gst::meta::CustomMeta::add(buffer, META)?;
    for (name, value) in results.iter() {
        meta.mut_structure().set_value(name, value.clone());
    }
    Ok(())
}

/// One object in pixels of the frame, inside it, at least one pixel large.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Name of its class.
    pub label: String,
    /// Number of its class.
    pub class: u32,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Objectness regardless of class, 0 to 1, if the model gives one.
    pub objectness: Option<f32>,
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
    /// The pass that found it: 1, or 2 for a refined picture.
    pub pass: u32,
    /// Identity of the face, if faces are compared with a gallery.
    pub face: Option<Face>,
    /// Right eye, left eye, tip of the nose, right and left corner of the mouth of a face, `[x, y]` in pixels of the frame,
    /// where the model gives them.
    pub landmarks: Option<Landmarks>,
}

/// Closest identity of a face.
#[derive(Clone, Debug, PartialEq)]
pub struct Face {
    /// The identity, if it is similar enough.
    pub identity: Option<String>,
    /// Cosine of the angle to the closest identity, -1 to 1.
    pub similarity: f32,
}

/// The classes of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Classes {
    /// Number, name and share of the picture (0 to 1) of each class that occurs, the largest first.
    pub areas: Vec<(u32, String, f64)>,
    /// The map itself, as written by [`crate::segmentation::map_json`], if it is wanted.
    pub map: Option<Value>,
}

/// Outcome of the second pass of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Refined {
    /// None was requested.
    #[default]
    No,
    /// It arrived and was inferred.
    Yes,
    /// The camera refused it: it no longer had the frame.
    Refused,
    /// It did not arrive in time.
    Late,
    /// It arrived damaged.
    Damaged,
}

impl Refined {
    /// Name in results; `None` if none was requested.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::No => None,
            Self::Yes => Some("done"),
            Self::Refused => Some("refused"),
            Self::Late => Some("late"),
            Self::Damaged => Some("damaged"),
        }
    }
}

/// The picture that a predicted result comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookedAt {
    /// Number of that captured frame.
    pub frame: u64,
    /// UNIX time of its capture, nanoseconds; 0 if unknown.
    pub capture_time_ns: u64,
}

/// Result of one captured frame.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameResult {
    /// The camera's identity of the frame.
    pub identity: Option<FrameIdentity>,
    /// The model did not see this frame: objects were moved on from that one.
    pub predicted: Option<LookedAt>,
    /// Presentation time of the buffer, nanoseconds.
    pub pts_ns: Option<u64>,
    /// Capture to result, milliseconds; `None` if the clocks are not known to agree, and for recordings.
    pub age_ms: Option<f64>,
    /// UNIX time at the end of the first pass, nanoseconds; 0 if unknown.
    pub first_pass_ns: u64,
    /// Capture to the end of the first pass, milliseconds; `None` as `age_ms`. It is the age of objects of the first
    /// pass, `age_ms` of those of the second.
    pub first_pass_age_ms: Option<f64>,
    /// Outcome of the second pass.
    pub refined: Refined,
    /// The picture differs from what the camera coded.
    pub damaged: bool,
    /// Width of the frame in pixels.
    pub width: u32,
    /// Height of the frame in pixels.
    pub height: u32,
    /// Time spent in the model, pre- and post-processing included, milliseconds.
    pub inference_ms: f64,
    /// The objects.
    pub objects: Vec<Object>,
    /// Classes of the picture, of a segmentation model.
    pub classes: Option<Classes>,
    /// Generation of the frame's feedback.
    pub generation: Option<u16>,
    /// Regions of that feedback.
    pub regions: Vec<Rect>,
}

/// Detections of at least `threshold` (0 to 1) as objects inside a frame of `width` x `height` pixels: edges rounded to
/// whole pixels and clipped to the frame, each side at least one pixel long. `label` names a class. Order is kept. A frame
/// without pixels has no objects, and a score that is not a number is below every threshold.
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
                objectness: d.objectness,
                x,
                y,
                width,
                height,
                pass: 1,
                face: None,
                landmarks: None,
            }
        })
        .collect()
}

/// Rounds for JSON, which has no NaN and no infinity and needs no further digits.
fn rounded(value: f64, decimals: i32) -> Value {
    let scale = 10f64.powi(decimals);
    json!((value * scale).round() / scale)
}

impl FrameResult {
    /// Milliseconds to `now` (UNIX nanoseconds) from the capture of the newest picture that was looked at for it; `None` if
    /// the camera does not know the time of capture.
    pub fn age_at(&self, now: u64) -> Option<f64> {
        let captured = match self.predicted {
            Some(looked_at) => looked_at.capture_time_ns,
            None => self.identity?.capture_time_ns,
        };
        (captured != 0 && now != 0).then(|| (now as f64 - captured as f64) / 1e6)
    }

    /// One line of JSON with its newline:
    ///
    /// `stream_id`, `frame`, `capture_time_ns` (numbers, or null without identity; capture time null where the camera does
    /// not know it), `pts_ns` (number or null), `age_ms`, `first_pass_age_ms` (number or null), `refinement` (null, `done`,
    /// `refused`, `late`, `damaged`), `damaged` (boolean), `width`, `height`, `inference_ms`, `objects` (array of `label`,
    /// `class`, `score`, `x`, `y`, `width`, `height`, `pass`), `generation` (number or null), `regions` (array of `x`, `y`,
    /// `width`, `height`). Objects of a model that gives it have `objectness`, faces have `landmarks` (five pairs of x and y) and, with a gallery, `identity` (string, or null
    /// for a stranger) and `similarity` too; predicted results have `predicted` (true) and `looked_at` (number of the frame
    /// that the model saw; ages are since its capture); results of a segmenter have `classes` (array of `class`, `label`, `area`) and, where it is wanted, `map`.
    pub fn to_json_line(&self) -> Vec<u8> {
        let identity = self.identity;
        let objects: Vec<Value> = self
            .objects
            .iter()
            .map(|o| {
                let mut object = json!({
                    "label": o.label, "class": o.class, "score": rounded(f64::from(o.score), 4),
                    "x": o.x, "y": o.y, "width": o.width, "height": o.height, "pass": o.pass,
                });
                if let Some(objectness) = o.objectness {
                    object["objectness"] = rounded(f64::from(objectness), 4);
                }
                if let Some(face) = &o.face {
                    object["identity"] = json!(face.identity);
                    object["similarity"] = rounded(f64::from(face.similarity), 4);
                }
                if let Some(points) = &o.landmarks {
                    let point = |[x, y]: &[f32; 2]| json!([rounded(f64::from(*x), 1), rounded(f64::from(*y), 1)]);
                    object["landmarks"] = points.iter().map(point).collect();
                }
                object
            })
            .collect();
        let regions: Vec<Value> = self
            .regions
            .iter()
            .map(|r| json!({"x": r.x, "y": r.y, "width": r.width, "height": r.height}))
            .collect();
        let mut line = json!({
            "stream_id": identity.map(|i| i.stream_id),
            "frame": identity.map(|i| i.frame),
            "pts_ns": self.pts_ns,
            "capture_time_ns": identity.map(|i| i.capture_time_ns).filter(|t| *t != 0),
            "age_ms": self.age_ms.map(|age| rounded(age, 3)),
            "first_pass_age_ms": self.first_pass_age_ms.map(|age| rounded(age, 3)),
            "refinement": self.refined.name(),
            "damaged": self.damaged,
            "width": self.width,
            "height": self.height,
            "inference_ms": rounded(self.inference_ms, 3),
            "objects": objects,
            "generation": self.generation,
            "regions": regions,
        });
        if let Some(looked_at) = self.predicted {
            line["predicted"] = json!(true);
            line["looked_at"] = json!(looked_at.frame);
        }
        if let Some(classes) = &self.classes {
            let areas = classes.areas.iter();
            line["classes"] = areas
                .map(|(class, label, area)| json!({"class": class, "label": label, "area": rounded(*area, 4)}))
                .collect();
            if let Some(map) = &classes.map {
                line["map"] = map.clone();
            }
        }
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        bytes
    }

    /// The structure `ddsinfer-results` of the element message. Values are not rounded; fields without a value are left
    /// out.
    ///
    /// | Field | Type | Meaning |
    /// |---|---|---|
    /// | `stream-id` | uint | the camera's stream; absent without identity |
    /// | `frame` | uint64 | number of the captured frame; absent without identity |
    /// | `pts-ns` | uint64 | presentation time, nanoseconds; absent where the buffer has none |
    /// | `capture-time-ns` | uint64 | UNIX time of capture, nanoseconds; absent where the camera does not know it |
    /// | `predicted` | boolean | true: the model did not see this frame; absent otherwise |
    /// | `looked-at` | uint64 | number of the frame that a predicted result comes from, since whose capture ages are; absent otherwise |
    /// | `age-ms` | double | capture to result, milliseconds; absent where the clocks are not known to agree |
    /// | `first-pass-age-ms` | double | capture to the end of the first pass, milliseconds; absent as `age-ms` |
    /// | `refinement` | string | outcome of the second pass: `done`, `refused`, `late`, `damaged`; absent if none was requested |
    /// | `damaged` | boolean | the picture differs from what the camera coded |
    /// | `width`, `height` | uint | size of the frame, pixels |
    /// | `inference-ms` | double | time spent in the model, milliseconds |
    /// | `objects` | array of `object` | `label` (string), `class` (uint), `score` (double, 0 to 1), `x`, `y`, `width`, `height` (uint, pixels), `pass` (uint, 1 or 2); `objectness` (double, 0 to 1; absent if the model gives none); with a gallery `similarity` (double) and `identity` (string, absent for a stranger) |
    /// | `classes` | array of `class` | of a segmenter: `class` (uint), `label` (string), `area` (double, 0 to 1), the largest first |
    /// | `generation` | uint | generation of the frame's feedback, 0 to 65535; absent if it has none |
    /// | `regions` | array of `region` | regions of that feedback: `x`, `y`, `width`, `height` (uint, pixels) |
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
                .field("pass", o.pass)
                .field_if_some("objectness", o.objectness.map(f64::from))
                .field_if_some("similarity", o.face.as_ref().map(|f| f64::from(f.similarity)))
                .field_if_some("identity", o.face.as_ref().and_then(|f| f.identity.as_deref()))
                .build()
        });
        let classes = self.classes.as_ref().map(|classes| {
            gst::Array::new(classes.areas.iter().map(|(class, label, area)| {
                gst::Structure::builder("class")
                    .field("class", class)
                    .field("label", label)
                    .field("area", area)
                    .build()
            }))
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
            .field_if_some("predicted", self.predicted.map(|_| true))
            .field_if_some("looked-at", self.predicted.map(|looked_at| looked_at.frame))
            .field_if_some("age-ms", self.age_ms)
            .field_if_some("first-pass-age-ms", self.first_pass_age_ms)
            .field_if_some("refinement", self.refined.name())
            .field("damaged", self.damaged)
            .field("width", self.width)
            .field("height", self.height)
            .field("inference-ms", self.inference_ms)
            .field("objects", gst::Array::new(objects))
            .field_if_some("classes", classes)
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
            predicted: None,
            pts_ns: Some(10_000_000_000),
            age_ms: Some(41.23456),
            first_pass_ns: 0,
            first_pass_age_ms: Some(20.5),
            refined: Refined::Yes,
            damaged: false,
            width: 768,
            height: 576,
            inference_ms: 12.3456,
            objects: vec![Object {
                label: "person".into(),
                class: 0,
                score: 0.87654,
                objectness: Some(0.91239),
                x: 1,
                y: 2,
                width: 30,
                height: 40,
                pass: 2,
                face: None,
                landmarks: None,
            }],
            classes: None,
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
            "age_ms": 41.235, "first_pass_age_ms": 20.5, "refinement": "done", "damaged": false, "width": 768, "height": 576, "inference_ms": 12.346,
            "objects": [{"label": "person", "class": 0, "score": 0.8765, "objectness": 0.9124, "x": 1, "y": 2, "width": 30, "height": 40, "pass": 2}],
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
    }

    #[test]
    fn the_message_is_as_documented() {
        gst::init().unwrap();
        let s = result().to_structure();
        assert_eq!(s.name(), "ddsinfer-results");
        let fields: Vec<&str> = s.fields().map(|field| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "stream-id",
                "frame",
                "pts-ns",
                "capture-time-ns",
                "age-ms",
                "first-pass-age-ms",
                "refinement",
                "damaged",
                "width",
                "height",
                "inference-ms",
                "objects",
                "generation",
                "regions",
            ]
        );
        assert_eq!(s.get::<u32>("stream-id").unwrap(), 7);
        assert_eq!(s.get::<u64>("frame").unwrap(), 300);
        assert_eq!(s.get::<u64>("pts-ns").unwrap(), 10_000_000_000);
        assert_eq!(s.get::<u64>("capture-time-ns").unwrap(), 1_700_000_000_000_000_000);
        assert_eq!(s.get::<f64>("age-ms").unwrap(), 41.23456);
        assert_eq!(s.get::<f64>("first-pass-age-ms").unwrap(), 20.5);
        assert_eq!(s.get::<&str>("refinement").unwrap(), "done");
        assert!(!s.get::<bool>("damaged").unwrap());
        assert_eq!(
            (s.get::<u32>("width").unwrap(), s.get::<u32>("height").unwrap()),
            (768, 576)
        );
        assert_eq!(s.get::<f64>("inference-ms").unwrap(), 12.3456);
        assert_eq!(s.get::<u32>("generation").unwrap(), 65535);
        let members = |name: &str| -> Vec<gst::Structure> {
            let array = s.get::<gst::Array>(name).unwrap();
            array.iter().map(|value| value.get().unwrap()).collect()
        };
        let numbers = |s: &gst::Structure, names: [&str; 4]| names.map(|name| s.get::<u32>(name).unwrap());
        let [object] = &members("objects")[..] else {
            panic!("objects")
        };
        assert_eq!(
            (object.name().as_str(), object.get::<&str>("label").unwrap()),
            ("object", "person")
        );
        assert_eq!(object.get::<u32>("class").unwrap(), 0);
        assert_eq!(object.get::<f64>("score").unwrap(), f64::from(0.87654f32));
        assert_eq!(numbers(object, ["x", "y", "width", "height"]), [1, 2, 30, 40]);
        assert_eq!(object.get::<u32>("pass").unwrap(), 2);
        let [region] = &members("regions")[..] else {
            panic!("regions")
        };
        assert_eq!(region.name(), "region");
        assert_eq!(numbers(region, ["x", "y", "width", "height"]), [8, 16, 24, 32]);
    }

    #[test]
    fn a_frame_with_nothing_in_it_has_empty_lists_and_no_capture_time_of_zero() {
        let mut nothing = FrameResult {
            objects: Vec::new(),
            regions: Vec::new(),
            ..result()
        };
        nothing.identity.as_mut().unwrap().capture_time_ns = 0;
        let line: Value = serde_json::from_slice(&nothing.to_json_line()).unwrap();
        assert_eq!((&line["objects"], &line["regions"]), (&json!([]), &json!([])));
        assert!(line["capture_time_ns"].is_null());
        assert_eq!(line["stream_id"], 7);
    }

    #[test]
    fn a_label_with_a_line_break_stays_in_one_line() {
        let mut odd = result();
        odd.objects[0].label = "traffic\n\"light\"".into();
        let line = odd.to_json_line();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let line: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["objects"][0]["label"], "traffic\n\"light\"");
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
        let rects: Vec<_> = objects.iter().map(|o| (o.x, o.y, o.width, o.height)).collect();
        assert_eq!(rects, [(0, 0, 100, 50), (0, 0, 1, 1), (99, 49, 1, 1), (10, 10, 1, 1)]);
        assert_eq!((objects[0].label.as_str(), objects[0].class), ("class 3", 3));
        assert!(objects_of(&detections, 0.5, |_| String::new(), 0, 50).is_empty());
        let unscored = Detection {
            score: f32::NAN,
            ..detections[0]
        };
        assert!(objects_of(&[unscored], 0.0, |_| String::new(), 100, 50).is_empty());
        assert!(objects_of(&detections, 0.6, |_| String::new(), 100, 50).is_empty());
    }
}
