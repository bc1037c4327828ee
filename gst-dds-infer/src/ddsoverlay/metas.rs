// SPDX-License-Identifier: MPL-2.0

//! Reads results from the metas of a buffer.

#![forbid(unsafe_code)]

use dds_protocol::feedback::Rect;
use gst_dds_link::text;

use crate::overlay::Mark;
use crate::overlay::canvas::Area;
use crate::overlay::hold::FrameResults;
use crate::results;

/// Reads objects from region of interest metas of any detector, and regions and damage from the results of `ddsinfer`.
/// `size` is that of the picture.
pub fn found(buffer: &gst::BufferRef, size: (u32, u32)) -> FrameResults {
    let mut objects = Vec::new();
    let mut requested = Vec::new();
    let mut looked = false;
    for meta in buffer.iter_meta::<gst_video::VideoRegionOfInterestMeta>() {
        let (x, y, width, height) = meta.rect();
        let area = Area::new(x.into(), y.into(), width.into(), height.into());
        let detection = meta.param("detection");
        // A meta for an encoder, without a detection: it asks for quality there.
        if detection.is_none() && meta.params().any(|p| p.name().starts_with("roi/")) {
            requested.push(area);
            continue;
        }
        looked = true;
        let score = detection.and_then(|d| number(d, "confidence"));
        let name = recognised(&meta);
        objects.push(Mark {
            area,
            label: name
                .as_ref()
                .map_or_else(|| meta.roi_type().to_owned(), |(name, _)| name.clone()),
            percent: name.map_or(score, |(_, score)| score).map(percent),
        });
    }
    let attached = gst::meta::CustomMeta::from_buffer(buffer, results::META).ok();
    let feedback = attached.as_ref().map(|meta| feedback(meta.structure(), size));
    let feedback = match (feedback, requested.is_empty()) {
        (Some((mut regions, damaged)), _) => {
            regions.append(&mut requested);
            Some((regions, damaged))
        }
        (None, false) => Some((requested, false)),
        (None, true) => None,
    };
    // With results on the frame, no meta means that nothing was found.
    FrameResults {
        objects: (looked || attached.is_some()).then_some(objects),
        feedback,
    }
}

/// Label and score of a classifier for the region: the identity of a face that `ddsinfer` compared, or the label of a
/// classification as DL Streamer writes it.
fn recognised(meta: &gst_video::VideoRegionOfInterestMeta) -> Option<(String, Option<f64>)> {
    if let Some(face) = meta.param("face") {
        let name = text::field(face, "identity")?.to_owned();
        return Some((name, number(face, "similarity")));
    }
    let classes = meta.params().filter(|p| p.name() != "detection");
    let mut named = classes.filter_map(|p| Some((text::field(p, "label")?.to_owned(), number(p, "confidence"))));
    let (name, score) = named.next()?;
    Some((format!("{} {name}", meta.roi_type()), score))
}

fn number(structure: &gst::StructureRef, field: &str) -> Option<f64> {
    let single = || structure.get::<f32>(field).map(f64::from);
    structure.get::<f64>(field).or_else(|_| single()).ok()
}

/// Hundredths; casts from float saturate, and NaN becomes 0.
fn percent(score: f64) -> u32 {
    (score * 100.0).round().clamp(0.0, 100.0) as u32
}

/// Regions in pixels of the picture, and whether it is damaged.
fn feedback(results: &gst::StructureRef, size: (u32, u32)) -> (Vec<Area>, bool) {
    let side = |name: &str, own: u32| results.get::<u32>(name).ok().filter(|side| *side > 0).unwrap_or(own);
    let from = (side("width", size.0), side("height", size.1));
    let region = |s: gst::Structure| {
        let [x, y, width, height] = ["x", "y", "width", "height"].map(|name| s.get::<u32>(name).ok());
        let rect = Rect {
            x: x?,
            y: y?,
            width: width?,
            height: height?,
        };
        let Rect { x, y, width, height } = rect.scaled(from, size);
        Some(Area {
            left: x.into(),
            top: y.into(),
            right: i64::from(x) + i64::from(width),
            bottom: i64::from(y) + i64::from(height),
        })
    };
    let regions = results.get::<gst::Array>("regions").ok();
    let regions = regions
        .iter()
        .flat_map(|array| array.iter())
        .filter_map(|value| region(value.get().ok()?))
        .collect();
    (regions, results.get::<bool>("damaged").unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(x: u32, y: u32, width: u32, height: u32) -> gst::Structure {
        gst::Structure::builder("region")
            .field("x", x)
            .field("y", y)
            .field("width", width)
            .field("height", height)
            .build()
    }

    fn with_results(buffer: &mut gst::Buffer, regions: &[gst::Structure]) {
        results::register_meta();
        let structure = gst::Structure::builder(results::META)
            .field("width", 100u32)
            .field("height", 50u32)
            .field("damaged", true)
            .field("regions", gst::Array::new(regions))
            .build();
        results::attach(buffer.make_mut(), &structure).unwrap();
    }

    #[test]
    fn a_frame_without_metas_says_nothing_and_one_with_results_that_nothing_is_there() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        assert_eq!(found(&buffer, (100, 50)), FrameResults::default());
        with_results(&mut buffer, &[]);
        let found = found(&buffer, (100, 50));
        assert_eq!(
            (found.objects, found.feedback),
            (Some(Vec::new()), Some((Vec::new(), true)))
        );
    }

    #[test]
    fn regions_follow_the_size_of_the_picture_outward() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        let broken = gst::Structure::new_empty("region");
        with_results(&mut buffer, &[region(11, 11, 10, 10), broken]);
        let regions = |size| found(&buffer, size).feedback.unwrap().0;
        assert_eq!(regions((100, 50)), [Area::new(11, 11, 10, 10)]);
        assert_eq!(
            regions((200, 25)),
            [Area {
                left: 22,
                top: 5,
                right: 42,
                bottom: 11
            }]
        );
    }

    #[test]
    fn names_come_before_classes_and_requests_are_no_objects() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        let params = [
            vec![],
            vec![gst::Structure::builder("detection").field("confidence", 0.876).build()],
            vec![
                gst::Structure::builder("detection").field("confidence", 0.9f32).build(),
                gst::Structure::builder("face")
                    .field("identity", "Ada")
                    .field("similarity", 0.7)
                    .build(),
            ],
            vec![
                gst::Structure::builder("detection").field("confidence", 0.9).build(),
                gst::Structure::builder("face").field("similarity", 0.2).build(),
            ],
            vec![
                gst::Structure::builder("colour")
                    .field("label", "red")
                    .field("confidence", f64::NAN)
                    .build(),
            ],
            vec![gst::Structure::builder("roi/ddsencode").field("delta-qp", -8).build()],
        ];
        for params in params {
            let writable = buffer.make_mut();
            let mut meta = gst_video::VideoRegionOfInterestMeta::add(writable, "face", (1, 2, 3, 4));
            params.into_iter().for_each(|p| meta.add_param(p));
        }
        let found = found(&buffer, (100, 50));
        let objects = found.objects.unwrap();
        let marks: Vec<_> = objects.iter().map(|m| (m.label.as_str(), m.percent)).collect();
        assert_eq!(
            marks,
            [
                ("face", None),
                ("face", Some(88)),
                ("Ada", Some(70)),
                ("face", Some(90)),
                ("face red", Some(0))
            ]
        );
        assert_eq!(found.feedback, Some((vec![Area::new(1, 2, 3, 4)], false)));
    }
}
