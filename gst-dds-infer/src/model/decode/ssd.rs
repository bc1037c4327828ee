// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! SSD as TensorFlow's Object Detection API exports it: `detection_boxes` [1, K, 4] (top, left, bottom, right, 0 to 1),
//! `detection_classes` [1, K], `detection_scores` [1, K] and usually `num_detections` [1]. One box per object already.
//! Outputs are recognised by name, or by their ids in a `.modelinfo` file.

use super::decoder::{Context, Decoder, expect, push};
use super::tensors::{Lasting, OutputInfo, Tensor};
use crate::model::nms::Candidate;

struct Ssd {
    boxes: usize,
    classes: usize,
    scores: usize,
    /// Fixed dimensions of boxes, classes and scores.
    lasting: [Lasting; 3],
    count: Option<usize>,
    input: (f32, f32),
    first_class: u32,
}

pub(super) fn fit(outputs: &[OutputInfo], context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    let find = |names: [&str; 2]| {
        outputs.iter().position(|o| {
            context
                .fields
                .tensor_id(&o.name)
                .is_some_and(|id| id.ends_with(names[1]))
                || o.name.contains(names[0])
        })
    };
    let need = |names: [&str; 2], dims: &dyn Fn(&[usize]) -> bool| match find(names) {
        Some(i) if dims(&outputs[i].dims) => Ok(i),
        Some(i) => Err(format!("{} has the shape {:?}", outputs[i].name, outputs[i].dims)),
        None => Err(format!("it has no output named {}", names[0])),
    };
    let boxes = need(["detection_boxes", "-out-boxes"], &|d| matches!(d, [1, _, 4]))?;
    let row = |d: &[usize]| matches!(d, [1, _]);
    let classes = need(["detection_classes", "-out-classes"], &row)?;
    let scores = need(["detection_scores", "-out-scores"], &row)?;
    Ok(Box::new(Ssd {
        boxes,
        classes,
        scores,
        lasting: [boxes, classes, scores].map(|i| outputs[i].lasting()),
        count: find(["num_detections", "-out-count"]),
        input: (context.input.0 as f32, context.input.1 as f32),
        first_class: context.fields.first_class(),
    }))
}

impl Decoder for Ssd {
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String> {
        let [boxes, classes, scores] = [0, 1, 2].map(|part| {
            let output = [self.boxes, self.classes, self.scores][part];
            expect(outputs, output, &self.lasting[part])
        });
        let (boxes, classes, scores) = (boxes?, classes?, scores?);
        if !boxes.dims.ends_with(&[4])
            || boxes.data.len() != 4 * scores.data.len()
            || classes.data.len() != scores.data.len()
        {
            return Err(format!(
                "boxes {:?}, classes {:?} and scores {:?} do not belong together",
                boxes.dims, classes.dims, scores.dims
            ));
        }
        let count = self
            .count
            .and_then(|i| outputs.get(i)?.data.first())
            .map_or(usize::MAX, |n| n.max(0.0) as usize);
        let (w, h) = self.input;
        let rows = boxes
            .data
            .chunks_exact(4)
            .zip(classes.data)
            .zip(scores.data)
            .take(count);
        for ((corners, &class), &score) in rows {
            if score >= floor && class >= self.first_class as f32 {
                let corners = [corners[1] * w, corners[0] * h, corners[3] * w, corners[2] * h];
                push(found, corners, score, None, class as u32 - self.first_class);
            }
        }
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        None
    }

    fn needs_suppression(&self) -> bool {
        false
    }
}
