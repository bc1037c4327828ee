// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! YOLOv8, YOLOv9 and YOLO11: one output [1, 4 + C, A], rows of centre x, centre y, width, height in input pixels, then
//! one row of scores per class; some exporters transpose it to [1, A, 4 + C]. No objectness.

use super::decoder::{Context, Decoder, best, centred, expect, push_row, single};
use super::tensors::{Activation, Lasting, OutputInfo, Tensor};
use crate::model::nms::Candidate;

/// Anchors whose best score is found together: one block of scores of one class stays in the cache.
const BLOCK: usize = 512;

struct Yolov8 {
    lasting: Lasting,
    channels: usize,
    activation: Activation,
    channel_first: bool,
}

pub(super) fn fit(outputs: &[OutputInfo], context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    let (a, b) = single(outputs)?;
    let cells = [context.cells(&[8, 16, 32]), context.cells(&[8, 16, 32, 64])];
    let output = &outputs[0];
    let channel_first = match (cells.contains(&b), cells.contains(&a)) {
        (true, _) => true,
        (false, true) => false,
        // The model drops weak boxes itself: of two dimensions, the dynamic one counts boxes.
        _ if output.varies(2) && !output.varies(1) => true,
        _ if output.varies(1) && !output.varies(2) => false,
        _ => {
            return Err(format!(
                "it has {} boxes (or {} with a stride of 64), here {b}",
                cells[0], cells[1]
            ));
        }
    };
    let channels = if channel_first { a } else { b };
    if channels < 5 {
        return Err(format!(
            "a box has at least 5 numbers (box and one class), here {channels}"
        ));
    }
    let mut lasting = output.lasting();
    lasting[0] = Some(1);
    lasting[if channel_first { 1 } else { 2 }] = Some(channels);
    Ok(Box::new(Yolov8 {
        lasting,
        channels,
        activation: context.activation(),
        channel_first,
    }))
}

impl Decoder for Yolov8 {
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String> {
        let output = expect(outputs, 0, &self.lasting)?;
        let data = output.data;
        let raw_floor = self.activation.raw_floor(floor);
        if !self.channel_first {
            for (n, row) in data.chunks_exact(self.channels).enumerate() {
                if let Some((class, raw)) = best(&row[4..]).filter(|b| b.1 >= raw_floor) {
                    let corners = centred(row[0], row[1], row[2], row[3]);
                    push_row(found, n, corners, self.activation.apply(raw), class);
                }
            }
            return Ok(());
        }
        let anchors = output.dims[2];
        if anchors == 0 {
            return Ok(());
        }
        let (boxes, scores) = data.split_at(4 * anchors);
        let mut top = [0.0f32; BLOCK];
        for start in (0..anchors).step_by(BLOCK) {
            let n = BLOCK.min(anchors - start);
            let top = &mut top[..n];
            top.fill(f32::NEG_INFINITY);
            for class in scores.chunks_exact(anchors) {
                for (t, s) in top.iter_mut().zip(&class[start..start + n]) {
                    // Not f32::max: this form is one vector instruction, and NaN never wins.
                    *t = if *s > *t { *s } else { *t };
                }
            }
            for (i, &raw) in top.iter().enumerate() {
                if raw >= raw_floor && raw > f32::NEG_INFINITY {
                    let anchor = start + i;
                    let class = scores.chunks_exact(anchors).position(|c| c[anchor] == raw).unwrap_or(0) as u32;
                    let at = |row: usize| boxes[row * anchors + anchor];
                    let corners = centred(at(0), at(1), at(2), at(3));
                    push_row(found, anchor, corners, self.activation.apply(raw), class);
                }
            }
        }
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        Some(self.channels - 4)
    }

    fn rows(&self, outputs: &[Tensor<'_>]) -> Option<usize> {
        let rows = if self.channel_first { 2 } else { 1 };
        outputs.first()?.dims.get(rows).copied()
    }

    fn variant(&self) -> &'static str {
        if self.channel_first { "" } else { "transposed" }
    }
}
