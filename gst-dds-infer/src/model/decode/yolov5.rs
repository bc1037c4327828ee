// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! YOLOv5 and YOLOv7: one output [1, A, 5 + C], rows of centre x, centre y, width, height in input pixels, objectness,
//! class scores. Three anchors per cell of the grids of 8, 16, 32 (and 64) pixels.

use super::decoder::{Context, Decoder, centred, expect, objectness_rows, single};
use super::tensors::{Activation, Lasting, OutputInfo, Tensor};
use crate::model::nms::Candidate;

struct Yolov5 {
    lasting: Lasting,
    columns: usize,
    activation: Activation,
}

pub(super) fn fit(outputs: &[OutputInfo], context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    let (rows, columns) = single(outputs)?;
    if columns < 6 {
        return Err(format!(
            "a row has at least 6 numbers (box, objectness, one class), here {columns}"
        ));
    }
    let expected = [3 * context.cells(&[8, 16, 32]), 3 * context.cells(&[8, 16, 32, 64])];
    if !expected.contains(&rows) && !outputs[0].varies(1) {
        return Err(format!(
            "it has {} rows (or {} with a stride of 64), here {rows}",
            expected[0], expected[1]
        ));
    }
    let mut lasting = outputs[0].lasting();
    (lasting[0], lasting[2]) = (Some(1), Some(columns));
    Ok(Box::new(Yolov5 {
        lasting,
        columns,
        activation: context.activation(),
    }))
}

impl Decoder for Yolov5 {
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String> {
        let data = expect(outputs, 0, &self.lasting)?.data;
        objectness_rows(data, self.columns, floor, self.activation, found, |_, [x, y, w, h]| {
            centred(x, y, w, h)
        });
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        Some(self.columns - 5)
    }
}
