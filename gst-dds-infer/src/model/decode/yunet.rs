// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! YuNet, a face detector with five landmarks. For each stride s of 8, 16 and 32 pixels four outputs, recognised by
//! name: `cls_s` and `obj_s` [1, n, 1], `bbox_s` [1, n, 4], `kps_s` [1, n, 10], one row per cell of the grid,
//! row-major.
//!
//! Score = sqrt(cls * obj). Centre and landmarks are offsets from the cell's corner in cells, sizes logarithms of cells.

use super::decoder::{Context, Decoder, centred, expect, push};
use super::tensors::{Activation, OutputInfo, Tensor};
use crate::model::nms::Candidate;

const STRIDES: [usize; 3] = [8, 16, 32];

/// Outputs of one stride: name, and numbers per cell.
const PARTS: [(&str, usize); 4] = [("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)];

struct Level {
    stride: f32,
    cells_x: usize,
    /// Index and shape of each of [`PARTS`] among the outputs.
    parts: [(usize, [usize; 3]); 4],
}

struct Yunet {
    levels: Vec<Level>,
    activation: Activation,
}

pub(super) fn fit(outputs: &[OutputInfo], context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    let wanted = STRIDES.len() * PARTS.len();
    if outputs.len() != wanted {
        return Err(format!("it has {wanted} outputs, this model {}", outputs.len()));
    }
    let mut levels = Vec::new();
    for stride in STRIDES {
        let cells_x = context.input.0.div_ceil(stride);
        let cells = cells_x * context.input.1.div_ceil(stride);
        let mut parts = [(0, [1, cells, 0]); 4];
        for ((part, numbers), at) in PARTS.iter().zip(&mut parts) {
            let name = format!("{part}_{stride}");
            let index = outputs
                .iter()
                .position(|o| o.name == name)
                .ok_or(format!("it has an output {name}"))?;
            at.0 = index;
            at.1[2] = *numbers;
            let output = &outputs[index];
            if !output.float || output.dims != at.1 {
                return Err(format!(
                    "{name} has the shape {:?} for {}x{} pixels, here {:?}",
                    at.1, context.input.0, context.input.1, output.dims
                ));
            }
        }
        levels.push(Level {
            stride: stride as f32,
            cells_x,
            parts,
        });
    }
    Ok(Box::new(Yunet {
        levels,
        activation: context.activation(),
    }))
}

impl Decoder for Yunet {
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String> {
        // Neither factor exceeds 1, so each alone must reach the square.
        let raw_floor = self.activation.raw_floor(floor * floor);
        let probability = |raw: f32| self.activation.apply(raw).clamp(0.0, 1.0);
        for level in &self.levels {
            let part = |n: usize| {
                let (output, dims) = level.parts[n];
                expect(outputs, output, &dims.map(Some)).map(|tensor| tensor.data)
            };
            let (classes, objects, boxes, points) = (part(0)?, part(1)?, part(2)?, part(3)?);
            for (i, (class, object)) in classes.iter().zip(objects).enumerate() {
                if *class < raw_floor || *object < raw_floor {
                    continue;
                }
                let objectness = probability(*object);
                let score = (probability(*class) * objectness).sqrt();
                if score < floor {
                    continue;
                }
                let s = level.stride;
                let (left, top) = ((i % level.cells_x) as f32, (i / level.cells_x) as f32);
                let [dx, dy, w, h] = [0, 1, 2, 3].map(|n| boxes[4 * i + n]);
                let corners = centred((left + dx) * s, (top + dy) * s, w.exp() * s, h.exp() * s);
                let before = found.len();
                push(found, corners, score, Some(objectness), 0);
                if let Some(face) = found.get_mut(before) {
                    let point = |n: usize| {
                        [
                            (left + points[10 * i + 2 * n]) * s,
                            (top + points[10 * i + 2 * n + 1]) * s,
                        ]
                    };
                    let landmarks = [0, 1, 2, 3, 4].map(point);
                    face.landmarks = Some(landmarks).filter(|l| l.as_flattened().iter().all(|v| v.is_finite()));
                }
            }
        }
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        Some(1)
    }
}
