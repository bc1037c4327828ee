// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! The decoder trait, and code that several families share.

use super::tensors::{Activation, OutputInfo, Tensor, lasts};
use crate::model::description::Fields;
use crate::model::nms::Candidate;

/// What a decoder needs beside the shapes of the outputs.
pub(in crate::model) struct Context<'a> {
    /// Width and height of the model's input.
    pub input: (usize, usize),
    /// The merged description.
    pub fields: &'a Fields,
    /// Number of labels given by a source, if any.
    pub labels: Option<usize>,
    /// The values of the outputs for a blank picture, in the order of the outputs.
    pub probe: &'a [Tensor<'a>],
}

impl Context<'_> {
    /// Cells of a grid of one cell per `stride` pixels, summed over `strides`.
    pub(super) fn cells(&self, strides: &[usize]) -> usize {
        strides
            .iter()
            .map(|s| self.input.0.div_ceil(*s) * self.input.1.div_ceil(*s))
            .sum()
    }

    /// How scores come out of the model.
    pub(super) fn activation(&self) -> Activation {
        self.fields.activation()
    }
}

/// Reads boxes out of tensors.
pub(in crate::model) trait Decoder: Send {
    /// Appends every box with a score of at least `floor`, in pixels of the model's input.
    ///
    /// # Errors
    /// When the tensors do not have their declared shape.
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String>;

    /// Number of classes, if the shape has it.
    fn classes(&self) -> Option<usize>;

    /// Number of rows of scores in these outputs, each of which gives at most one box; `None` if boxes have an
    /// objectness of their own, or none can be assigned to them.
    fn rows(&self, _outputs: &[Tensor<'_>]) -> Option<usize> {
        None
    }

    /// Whether the model leaves several boxes for one object.
    fn needs_suppression(&self) -> bool {
        true
    }

    /// Short name of the variant, for the log.
    fn variant(&self) -> &'static str {
        ""
    }
}

/// Dimensions of the only output, of shape [1, `a`, `b`].
pub(super) fn single(outputs: &[OutputInfo]) -> Result<(usize, usize), String> {
    let [output] = outputs else {
        return Err(format!("it has one output, this model {}", outputs.len()));
    };
    match *output.dims {
        [1, a, b] if output.float => Ok((a, b)),
        _ => Err(format!(
            "its output has the shape [1, a, b], this one {:?}",
            output.dims
        )),
    }
}

/// Best class of a row and its score, the first among equals; `None` for an empty row or NaN only.
pub(super) fn best(scores: &[f32]) -> Option<(u32, f32)> {
    let mut found = None;
    let mut top = f32::NEG_INFINITY;
    for (class, &score) in scores.iter().enumerate() {
        if score > top {
            top = score;
            found = Some((class as u32, score));
        }
    }
    found
}

/// A box by centre and size.
pub(super) fn centred(cx: f32, cy: f32, w: f32, h: f32) -> [f32; 4] {
    [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]
}

/// Appends a box, unless a number in it is infinite or NaN: the network found nothing there.
pub(super) fn push(found: &mut Vec<Candidate>, corners: [f32; 4], score: f32, objectness: Option<f32>, class: u32) {
    let [x1, y1, x2, y2] = corners;
    if corners.iter().all(|c| c.is_finite()) && score.is_finite() {
        found.push(Candidate {
            x1,
            y1,
            x2,
            y2,
            score: score.min(1.0),
            objectness: objectness.map(|o| o.min(1.0)),
            class,
            landmarks: None,
            row: 0,
        });
    }
}

/// As [`push`], for row `row`, without objectness.
pub(super) fn push_row(found: &mut Vec<Candidate>, row: usize, corners: [f32; 4], score: f32, class: u32) {
    let before = found.len();
    push(found, corners, score, None, class);
    found[before..].iter_mut().for_each(|c| c.row = row);
}

/// Rows of `[box, objectness, class scores]`, the common part of YOLOv5 and YOLOX. `place` turns the first four numbers
/// of row `n` into corners.
pub(super) fn objectness_rows(
    data: &[f32],
    columns: usize,
    floor: f32,
    activation: Activation,
    found: &mut Vec<Candidate>,
    mut place: impl FnMut(usize, [f32; 4]) -> [f32; 4],
) {
    let raw_floor = activation.raw_floor(floor);
    for (n, row) in data.chunks_exact(columns).enumerate() {
        // No class score exceeds 1, so that objectness alone bounds the score.
        if row[4] < raw_floor || row[4].is_nan() {
            continue;
        }
        let Some((class, raw)) = best(&row[5..]) else { continue };
        let objectness = activation.apply(row[4]);
        let score = objectness * activation.apply(raw);
        if score >= floor {
            push(
                found,
                place(n, [row[0], row[1], row[2], row[3]]),
                score,
                Some(objectness),
                class,
            );
        }
    }
}

/// The tensor of an output, which must have its fixed dimensions.
pub(super) fn expect<'a>(
    outputs: &'a [Tensor<'a>],
    index: usize,
    lasting: &[Option<usize>],
) -> Result<&'a Tensor<'a>, String> {
    match outputs.get(index) {
        Some(t) if lasts(t.dims, lasting) => Ok(t),
        Some(t) => {
            let wanted: Vec<String> = lasting
                .iter()
                .map(|n| n.map_or("any".into(), |n| n.to_string()))
                .collect();
            Err(format!(
                "output {index} has the shape {:?} instead of [{}]",
                t.dims,
                wanted.join(", ")
            ))
        }
        None => Err(format!("output {index} is missing")),
    }
}
