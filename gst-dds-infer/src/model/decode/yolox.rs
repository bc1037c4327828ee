// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! YOLOX: one output [1, A, 5 + C], one row per cell of the grids of 8, 16 and 32 pixels, finest first, row-major.
//! Raw exports give offsets in cells and logarithms of sizes in cells; decoded ones centre and size in input pixels.

use super::decoder::{Context, Decoder, centred, expect, objectness_rows, single};
use super::tensors::{Activation, Lasting, OutputInfo, Tensor};
use crate::model::nms::Candidate;

const STRIDES: [usize; 3] = [8, 16, 32];

struct Yolox {
    lasting: Lasting,
    columns: usize,
    activation: Activation,
    /// Left and top of each row's cell in cells, and its stride; empty for decoded outputs.
    grid: Vec<[f32; 3]>,
}

pub(super) fn fit(outputs: &[OutputInfo], context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    let (rows, columns) = single(outputs)?;
    if columns < 6 {
        return Err(format!(
            "a row has at least 6 numbers (box, objectness, one class), here {columns}"
        ));
    }
    let expected = context.cells(&STRIDES);
    // Decoded rows need no grid.
    let free = outputs[0].varies(1) && context.fields.decoded() == Some(true);
    if rows != expected && !free {
        return Err(format!(
            "it has {expected} rows for {}x{} pixels, here {rows}",
            context.input.0, context.input.1
        ));
    }
    let decoded = match context.fields.decoded() {
        Some(decoded) => decoded,
        None => looks_decoded(context, columns)?,
    };
    let mut grid = Vec::new();
    if !decoded {
        for stride in STRIDES {
            let (w, h) = (context.input.0.div_ceil(stride), context.input.1.div_ceil(stride));
            grid.extend((0..w * h).map(|i| [(i % w) as f32, (i / w) as f32, stride as f32]));
        }
    }
    let rows = Some(rows).filter(|_| !decoded || !outputs[0].varies(1));
    Ok(Box::new(Yolox {
        lasting: vec![Some(1), rows, Some(columns)],
        columns,
        activation: context.activation(),
        grid,
    }))
}

/// Distinguishes pixels from offsets by their size: cells at the right edge lie hundreds of pixels from zero, but only
/// an offset or two.
fn looks_decoded(context: &Context<'_>, columns: usize) -> Result<bool, String> {
    let Some(output) = context.probe.first() else {
        return Ok(false);
    };
    let largest = output
        .data
        .chunks_exact(columns)
        .flat_map(|row| [row[0], row[1]])
        .fold(0.0f32, |m, v| m.max(v.abs()));
    let edge = context.input.0.max(context.input.1) as f32;
    if largest >= edge * 0.5 {
        Ok(true)
    } else if largest <= edge * 0.125 {
        Ok(false)
    } else {
        Err("its boxes may be raw or decoded; say dds-decoded=true or dds-decoded=false in the description".into())
    }
}

impl Decoder for Yolox {
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String> {
        let data = expect(outputs, 0, &self.lasting)?.data;
        let (columns, activation, grid) = (self.columns, self.activation, &self.grid);
        if grid.is_empty() {
            objectness_rows(data, columns, floor, activation, found, |_, [x, y, w, h]| {
                centred(x, y, w, h)
            });
        } else {
            objectness_rows(data, columns, floor, activation, found, |n, [dx, dy, w, h]| {
                let [gx, gy, stride] = grid[n];
                centred(
                    (dx + gx) * stride,
                    (dy + gy) * stride,
                    w.exp() * stride,
                    h.exp() * stride,
                )
            });
        }
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        Some(self.columns - 5)
    }

    fn variant(&self) -> &'static str {
        if self.grid.is_empty() { "decoded" } else { "raw" }
    }
}
