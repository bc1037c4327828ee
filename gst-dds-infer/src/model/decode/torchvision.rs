// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Detectors of torchvision (Faster R-CNN, RetinaNet, SSD, FCOS): boxes [K, 4] (left, top, right, bottom in input
//! pixels), labels [K] as integers, scores [K]; K changes with every picture. The order of the outputs varies, so
//! they are recognised by rank and type. One box per object already.

use super::decoder::{Context, Decoder, expect, push_row};
use super::tensors::{Lasting, OutputInfo, Tensor};
use crate::model::nms::Candidate;

struct Torchvision {
    boxes: usize,
    labels: usize,
    scores: usize,
    /// Fixed dimensions of boxes, labels and scores.
    lasting: [Lasting; 3],
    first_class: u32,
}

pub(super) fn fit(outputs: &[OutputInfo], context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    let one = |what: &str, matches: &dyn Fn(&OutputInfo) -> bool| {
        let found: Vec<usize> = (0..outputs.len()).filter(|i| matches(&outputs[*i])).collect();
        match found[..] {
            [i] => Ok(i),
            _ => Err(format!("it has one output of {what}, this model {}", found.len())),
        }
    };
    let boxes = one("boxes [K, 4]", &|o| o.float && matches!(o.dims[..], [_, 4]))?;
    let labels = one("integer labels [K]", &|o| !o.float && o.dims.len() == 1)?;
    let scores = one("scores [K]", &|o| o.float && o.dims.len() == 1)?;
    Ok(Box::new(Torchvision {
        boxes,
        labels,
        scores,
        lasting: [boxes, labels, scores].map(|i| outputs[i].lasting()),
        first_class: context.fields.first_class(),
    }))
}

impl Decoder for Torchvision {
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String> {
        let [boxes, labels, scores] = [0, 1, 2].map(|part| {
            let output = [self.boxes, self.labels, self.scores][part];
            expect(outputs, output, &self.lasting[part])
        });
        let (boxes, labels, scores) = (boxes?, labels?, scores?);
        if !boxes.dims.ends_with(&[4])
            || boxes.data.len() != 4 * scores.data.len()
            || labels.data.len() != scores.data.len()
        {
            return Err(format!(
                "boxes {:?}, labels {:?} and scores {:?} do not belong together",
                boxes.dims, labels.dims, scores.dims
            ));
        }
        for (row, ((corners, &label), &score)) in
            boxes.data.chunks_exact(4).zip(labels.data).zip(scores.data).enumerate()
        {
            if score >= floor && label >= self.first_class as f32 {
                let corners = [corners[0], corners[1], corners[2], corners[3]];
                push_row(found, row, corners, score, label as u32 - self.first_class);
            }
        }
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        None
    }

    fn rows(&self, outputs: &[Tensor<'_>]) -> Option<usize> {
        outputs.get(self.scores).map(|s| s.data.len())
    }

    fn needs_suppression(&self) -> bool {
        false
    }
}
