// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Decodes a model's output tensors to boxes, one file per family.
//!
//! A family's `fit` checks the shapes of all outputs once and returns a [`Decoder`], or the reason why they are not
//! the family's. The decoder then reads the runtime's memory in place: a cheap comparison of raw scores first,
//! arithmetic only for scores that pass it.

mod decoder;
mod nanodet;
mod ssd;
mod tensors;
mod torchvision;
mod yolov10;
mod yolov5;
mod yolov8;
mod yolox;
mod yunet;

use super::description::Family;

pub(super) use decoder::{Context, Decoder};
pub(super) use tensors::{Activation, Lasting, OutputInfo, Tensor, lasts};

/// The decoder of `family` for these outputs, or why they are not of that family.
pub(super) fn fit(family: Family, outputs: &[OutputInfo], context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    match family {
        Family::Yolov5 => yolov5::fit(outputs, context),
        Family::Yolov8 => yolov8::fit(outputs, context),
        Family::Yolov10 => yolov10::fit(outputs, context),
        Family::Yolox => yolox::fit(outputs, context),
        Family::Nanodet => nanodet::fit(outputs, context),
        Family::Ssd => ssd::fit(outputs, context),
        Family::Torchvision => torchvision::fit(outputs, context),
        Family::Yunet => yunet::fit(outputs, context),
    }
}

/// Guesses the family from the shapes of the outputs.
pub(super) fn guess(outputs: &[OutputInfo], context: &Context<'_>) -> Result<Family, String> {
    if fit(Family::Ssd, outputs, context).is_ok() {
        return Ok(Family::Ssd);
    }
    if fit(Family::Yunet, outputs, context).is_ok() {
        return Ok(Family::Yunet);
    }
    if outputs.len() >= 6 {
        return fit(Family::Nanodet, outputs, context).map(|_| Family::Nanodet);
    }
    if outputs.len() >= 3 {
        return fit(Family::Torchvision, outputs, context).map(|_| Family::Torchvision);
    }
    let Some(output) = outputs.first() else {
        return Err("besides its objectness it has no outputs".into());
    };
    if outputs.len() == 1 && yolov10::is_list(output) {
        return Ok(Family::Yolov10);
    }
    let [1, rows, columns] = *output.dims else {
        return Err(format!("the shape {:?} is of no known family", output.dims));
    };
    if outputs.len() > 1 {
        return Err("two outputs are of no known family (segmentation and keypoints are not supported)".into());
    }
    let dense = context.cells(&[8, 16, 32]);
    let dense4 = context.cells(&[8, 16, 32, 64]);
    if rows == 3 * dense || rows == 3 * dense4 {
        return Ok(Family::Yolov5);
    }
    let is_grid = rows == dense || rows == dense4;
    if columns == 6 && !is_grid && (rows <= 1000 || output.varies(1)) {
        return Ok(Family::Yolov10);
    }
    if columns == dense || columns == dense4 {
        return Ok(Family::Yolov8);
    }
    if rows == dense4 {
        return Ok(Family::Nanodet);
    }
    if rows == dense {
        // Class scores and 4 sides of 8 bins each, or 5 numbers and class scores.
        let bins = 4 * nanodet::BINS;
        return match context.labels {
            Some(n) if n + 5 == columns => Ok(Family::Yolox),
            Some(n) if n + bins == columns => Ok(Family::Nanodet),
            Some(n) if n + 4 == columns => Ok(Family::Yolov8),
            _ if columns == 80 + bins => Ok(Family::Nanodet),
            _ => Ok(Family::Yolox),
        };
    }
    Err(format!(
        "the shape {:?} does not fit an input of {}x{} pixels in any known family",
        output.dims, context.input.0, context.input.1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::description::Fields;

    /// Outputs of each family for 64x64 pixels: names, shapes, whether floating point.
    fn outputs(family: Family) -> Vec<OutputInfo> {
        let output = |name: &str, dims: &[usize], float| OutputInfo {
            name: name.into(),
            dims: dims.into(),
            dynamic: Vec::new(),
            float,
        };
        match family {
            Family::Yolov5 => vec![output("o", &[1, 252, 8], true)],
            Family::Yolov8 => vec![output("o", &[1, 7, 84], true)],
            Family::Yolov10 => vec![output("o", &[1, 20, 6], true)],
            Family::Yolox => vec![output("o", &[1, 84, 8], true)],
            Family::Nanodet => vec![output("o", &[1, 85, 35], true)],
            Family::Ssd => vec![
                output("detection_boxes", &[1, 9, 4], true),
                output("detection_classes", &[1, 9], true),
                output("detection_scores", &[1, 9], true),
                output("num_detections", &[1], true),
            ],
            Family::Torchvision => {
                vec![
                    output("b", &[9, 4], true),
                    output("l", &[9], false),
                    output("s", &[9], true),
                ]
            }
            Family::Yunet => [(8, 64), (16, 16), (32, 4)]
                .into_iter()
                .flat_map(|(stride, cells)| {
                    [("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)]
                        .map(|(part, numbers)| output(&format!("{part}_{stride}"), &[1, cells, numbers], true))
                })
                .collect(),
        }
    }

    const FAMILIES: [Family; 8] = [
        Family::Yolov5,
        Family::Yolov8,
        Family::Yolov10,
        Family::Yolox,
        Family::Nanodet,
        Family::Ssd,
        Family::Torchvision,
        Family::Yunet,
    ];

    #[test]
    fn shapes_tell_every_family() {
        let fields = Fields::default();
        for family in FAMILIES {
            let context = Context {
                input: (64, 64),
                fields: &fields,
                labels: Some(3),
                probe: &[],
            };
            assert_eq!(guess(&outputs(family), &context), Ok(family));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_numbers_give_finite_boxes_and_no_panic(
            seed in proptest::collection::vec(
                proptest::prop_oneof![
                    proptest::num::f32::ANY,
                    -2.0f32..2.0,
                    0.0f32..300.0,
                    proptest::strategy::Just(f32::NAN),
                    proptest::strategy::Just(f32::INFINITY),
                ],
                1..97,
            ),
            floor in 0.0f32..1.0,
            logits in proptest::bool::ANY,
        ) {
            let text = if logits { "scores=logit, first-class=1" } else { "decoded=false" };
            let fields = Fields::from_property(text).unwrap();
            for family in FAMILIES {
                let infos = outputs(family);
                let context = Context { input: (64, 64), fields: &fields, labels: None, probe: &[] };
                let mut decoder = fit(family, &infos, &context).unwrap();
                let data: Vec<Vec<f32>> = infos
                    .iter()
                    .map(|o| seed.iter().copied().cycle().take(o.dims.iter().product()).collect())
                    .collect();
                let tensors: Vec<Tensor<'_>> =
                    infos.iter().zip(&data).map(|(o, d)| Tensor { dims: &o.dims, data: d }).collect();
                let mut found = Vec::new();
                decoder.decode(&tensors, floor, &mut found).unwrap();
                for c in &found {
                    proptest::prop_assert!([c.x1, c.y1, c.x2, c.y2].iter().all(|v| v.is_finite()));
                    proptest::prop_assert!(c.score >= floor && c.score <= 1.0, "{family:?} {c:?} {floor}");
                }
                crate::model::nms::suppress(&mut found, 0.45, 10);
                proptest::prop_assert!(found.len() <= 10);
                // A shape other than the declared one is an error.
                let wrong: Vec<Tensor<'_>> = tensors.iter().map(|t| Tensor { dims: &[1, 2, 3], data: &t.data[..1] }).collect();
                proptest::prop_assert!(decoder.decode(&wrong, floor, &mut found).is_err());
                proptest::prop_assert!(decoder.decode(&[], floor, &mut found).is_err());
            }
        }
    }
}
