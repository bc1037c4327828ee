// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! YOLOv10 and other end-to-end exports: one output [1, K, 6], rows of left, top, right, bottom in input pixels, score,
//! class. One box per object already.

use super::{Candidate, Context, Decoder, OutputInfo, Tensor, expect, push, single};

struct Yolov10 {
    dims: [usize; 3],
}

pub(super) fn fit(outputs: &[OutputInfo], _context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    match single(outputs)? {
        (rows, 6) => Ok(Box::new(Yolov10 { dims: [1, rows, 6] })),
        (_, columns) => Err(format!("a row has 6 numbers (corners, score, class), here {columns}")),
    }
}

impl Decoder for Yolov10 {
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String> {
        for row in expect(outputs, 0, &self.dims)?.chunks_exact(6) {
            if row[4] >= floor && row[5] >= 0.0 {
                push(found, [row[0], row[1], row[2], row[3]], row[4], None, row[5] as u32);
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
