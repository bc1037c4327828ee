// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! YOLOv10 and other end-to-end exports: one output [1, K, 6] or [K, 6], rows of left, top, right, bottom in input pixels,
//! score, class; or, as YOLOv7 has it, [K, 7], rows of number in the batch, left, top, right, bottom, class, score. One box
//! per object already, and K may change with every picture.

use super::decoder::{Context, Decoder, expect, push};
use super::tensors::{Lasting, OutputInfo, Tensor};
use crate::model::nms::Candidate;

struct Yolov10 {
    lasting: Lasting,
    columns: usize,
}

/// Whether an output can only be a list: without a batch, one row per object.
pub(super) fn is_list(output: &OutputInfo) -> bool {
    output.float && output.varies(0) && matches!(output.dims[..], [_, 6 | 7])
}

pub(super) fn fit(outputs: &[OutputInfo], _context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    let [output] = outputs else {
        return Err(format!("it has one output, this model {}", outputs.len()));
    };
    let columns = match output.dims[..] {
        [1, _, columns] | [_, columns] if output.float => columns,
        _ => {
            return Err(format!(
                "its output has the shape [1, K, 6], [K, 6] or [K, 7], this one {:?}",
                output.dims
            ));
        }
    };
    if !matches!(columns, 6 | 7) {
        return Err(format!(
            "a row has 6 numbers (corners, score, class) or 7 (number in the batch, corners, class, score), here {columns}"
        ));
    }
    let mut lasting = output.lasting();
    // Whatever is declared, one picture goes in and the length of a row is fixed.
    let last = lasting.len() - 1;
    lasting[last] = Some(columns);
    if last == 2 {
        lasting[0] = Some(1);
    }
    Ok(Box::new(Yolov10 { lasting, columns }))
}

impl Decoder for Yolov10 {
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String> {
        for row in expect(outputs, 0, &self.lasting)?.data.chunks_exact(self.columns) {
            let (picture, corners, score, class) = match *row {
                [x1, y1, x2, y2, score, class] => (0.0, [x1, y1, x2, y2], score, class),
                [picture, x1, y1, x2, y2, class, score] => (picture, [x1, y1, x2, y2], score, class),
                _ => continue,
            };
            if picture == 0.0 && score >= floor && class >= 0.0 {
                push(found, corners, score, None, class as u32);
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

    fn variant(&self) -> &'static str {
        if self.columns == 7 { "with batch numbers" } else { "" }
    }
}
