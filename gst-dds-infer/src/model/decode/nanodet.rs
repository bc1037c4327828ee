// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! NanoDet: per cell C class scores and, for each side of the box (left, top, right, bottom), a distribution over
//! distances of 0, 1, 2, ... strides from the cell's centre.
//!
//! Either one output [1, A, C + 4 * bins], or two per stride: [1, n, C] and [1, n, 4 * bins]. With three strides (8, 16,
//! 32) the centre of cell g is g * s + (s - 1) / 2 as in NanoDet; with four (and 64) it is g * s as in NanoDet-Plus.

use super::decoder::{Context, Decoder, best, expect, push_row};
use super::tensors::{Activation, Lasting, OutputInfo, Tensor};
use crate::model::nms::Candidate;

/// Bins per side: distances 0 to 7, as in every published model.
pub(super) const BINS: usize = 8;
/// Numbers per cell for the four sides.
const SIDES: usize = 4 * BINS;

const STRIDES: [usize; 4] = [8, 16, 32, 64];

struct Level {
    stride: usize,
    cells_x: usize,
    cells: usize,
    /// Index of the output with class scores and of the one with distances; equal for a single output.
    scores: usize,
    distances: usize,
    /// First row of this level in the output, and over all levels.
    first: usize,
    row: usize,
}

struct Nanodet {
    /// Fixed dimensions of each output; a grid has one row per cell, however it is declared.
    dims: Vec<Lasting>,
    /// Numbers in a row of each output.
    columns: Vec<usize>,
    levels: Vec<Level>,
    classes: usize,
    single: bool,
    centre: fn(f32) -> f32,
    activation: Activation,
}

pub(super) fn fit(outputs: &[OutputInfo], context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    let mut shapes = Vec::new();
    for output in outputs {
        match *output.dims {
            [1, n, c] if output.float => shapes.push((n, c)),
            _ => {
                return Err(format!(
                    "its outputs have the shape [1, n, c], {} is {:?}",
                    output.name, output.dims
                ));
            }
        }
    }
    let (strides, classes, single) = match shapes[..] {
        [(rows, columns)] => {
            let strides = match rows {
                _ if rows == context.cells(&STRIDES[..3]) => &STRIDES[..3],
                _ if rows == context.cells(&STRIDES) => &STRIDES[..],
                _ => {
                    return Err(format!(
                        "{rows} rows do not fit {}x{} pixels",
                        context.input.0, context.input.1
                    ));
                }
            };
            match columns.checked_sub(SIDES) {
                Some(classes) if classes > 0 => (strides, classes, true),
                _ => return Err(format!("a row has at least {} numbers, here {columns}", SIDES + 1)),
            }
        }
        _ if shapes.len() == 6 || shapes.len() == 8 => (&STRIDES[..shapes.len() / 2], 0, false),
        _ => return Err(format!("it has 1, 6 or 8 outputs, this model {}", shapes.len())),
    };
    let mut levels = Vec::new();
    let mut first = 0;
    let mut classes = classes;
    for &stride in strides {
        let cells_x = context.input.0.div_ceil(stride);
        let cells = cells_x * context.input.1.div_ceil(stride);
        let (scores, distances) = if single {
            (0, 0)
        } else {
            pair(outputs, &shapes, stride, cells)?
        };
        if !single {
            let c = shapes[scores].1;
            if classes != 0 && classes != c {
                return Err(format!(
                    "the numbers of classes differ between strides ({classes} and {c})"
                ));
            }
            classes = c;
        }
        levels.push(Level {
            stride,
            cells_x,
            cells,
            scores,
            distances,
            first: if single { first } else { 0 },
            row: first,
        });
        first += cells;
    }
    let centre: fn(f32) -> f32 = if strides.len() == 3 {
        |s| (s - 1.0) / 2.0
    } else {
        |_| 0.0
    };
    let dims = outputs
        .iter()
        .map(|o| o.dims.iter().copied().map(Some).collect())
        .collect();
    let columns = shapes.iter().map(|s| s.1).collect();
    Ok(Box::new(Nanodet {
        dims,
        columns,
        levels,
        classes,
        single,
        centre,
        activation: context.activation(),
    }))
}

/// The two outputs of one stride, distinguished by their width, or by their names if the model has 32 classes.
fn pair(
    outputs: &[OutputInfo],
    shapes: &[(usize, usize)],
    stride: usize,
    cells: usize,
) -> Result<(usize, usize), String> {
    let of_level: Vec<usize> = (0..shapes.len()).filter(|i| shapes[*i].0 == cells).collect();
    let [a, b] = of_level[..] else {
        return Err(format!(
            "{} instead of 2 outputs have {cells} rows for the stride of {stride}",
            of_level.len()
        ));
    };
    let is_scores = |i: usize| outputs[i].name.to_ascii_lowercase().contains("cls");
    match (shapes[a].1 == SIDES, shapes[b].1 == SIDES) {
        (false, true) => Ok((a, b)),
        (true, false) => Ok((b, a)),
        (true, true) if is_scores(a) != is_scores(b) => Ok(if is_scores(a) { (a, b) } else { (b, a) }),
        _ => Err(format!(
            "no pair of scores and {SIDES} distances for the stride of {stride}"
        )),
    }
}

/// The mean of a distribution given by logits.
fn expectation(logits: &[f32]) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for (i, l) in logits.iter().enumerate() {
        let e = (l - top).exp();
        sum += e;
        weighted += e * i as f32;
    }
    weighted / sum
}

impl Decoder for Nanodet {
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String> {
        let raw_floor = self.activation.raw_floor(floor);
        for level in &self.levels {
            let scores = expect(outputs, level.scores, &self.dims[level.scores])?.data;
            let distances = expect(outputs, level.distances, &self.dims[level.distances])?.data;
            let width = self.columns[level.scores];
            let (offset, sides) = if self.single { (self.classes, width) } else { (0, SIDES) };
            for i in 0..level.cells {
                let row = &scores[(level.first + i) * width..][..self.classes];
                let Some((class, raw)) = best(row).filter(|b| b.1 >= raw_floor) else {
                    continue;
                };
                let bins = &distances[(level.first + i) * sides + offset..][..SIDES];
                let s = level.stride as f32;
                let cx = (i % level.cells_x) as f32 * s + (self.centre)(s);
                let cy = (i / level.cells_x) as f32 * s + (self.centre)(s);
                let side = |n: usize| expectation(&bins[n * BINS..][..BINS]) * s;
                let corners = [cx - side(0), cy - side(1), cx + side(2), cy + side(3)];
                push_row(found, level.row + i, corners, self.activation.apply(raw), class);
            }
        }
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        Some(self.classes)
    }

    fn rows(&self, _: &[Tensor<'_>]) -> Option<usize> {
        Some(self.levels.iter().map(|l| l.cells).sum())
    }

    fn variant(&self) -> &'static str {
        match (self.single, self.levels.len()) {
            (true, 3) => "one output",
            (true, _) => "one output, four strides",
            (false, 3) => "output per stride",
            (false, _) => "output per stride, four strides",
        }
    }
}
