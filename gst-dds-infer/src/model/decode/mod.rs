// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! From a model's output tensors to boxes, one file per family.
//!
//! A family's `fit` looks at the shapes of all outputs once and gives a [`Decoder`], or the reason why they are not
//! its own. The decoder then reads the runtime's memory in place: a cheap comparison of raw scores first, arithmetic only for
//! what passes it.

mod nanodet;
mod ssd;
mod torchvision;
mod yolov10;
mod yolov5;
mod yolov8;
mod yolox;
mod yunet;

use super::description::{Family, Fields};
use super::nms::Candidate;

/// One output of the model: where it is and what it looks like.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OutputInfo {
    pub name: String,
    /// What it had in one run.
    pub dims: Vec<usize>,
    /// Which of them the model declares dynamic: the next picture may have another.
    pub dynamic: Vec<bool>,
    /// Whether its numbers are floating point (integers are class numbers and counts).
    pub float: bool,
}

impl OutputInfo {
    /// Whether a dimension may change from picture to picture.
    fn varies(&self, dimension: usize) -> bool {
        self.dynamic.get(dimension).copied().unwrap_or_default()
    }

    /// The dimensions that every picture has; `None` for those that may change.
    pub(super) fn lasting(&self) -> Lasting {
        let varies = (0..self.dims.len()).map(|d| self.varies(d));
        self.dims
            .iter()
            .zip(varies)
            .map(|(n, varies)| (!varies).then_some(*n))
            .collect()
    }
}

/// Dimensions of an output, `None` where any number will do.
pub(super) type Lasting = Vec<Option<usize>>;

/// Whether dimensions are those that every picture has.
pub(super) fn lasts(dims: &[usize], lasting: &[Option<usize>]) -> bool {
    dims.len() == lasting.len()
        && dims
            .iter()
            .zip(lasting)
            .all(|(n, lasting)| lasting.is_none_or(|l| l == *n))
}

/// One output of one run: row-major numbers, `dims` multiply to `data.len()`.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'a> {
    pub dims: &'a [usize],
    pub data: &'a [f32],
}

/// What the shape alone does not tell.
pub(super) struct Context<'a> {
    /// Width and height of the model's input.
    pub input: (usize, usize),
    /// The merged description.
    pub fields: &'a Fields,
    /// Number of labels that somebody gave, if anybody.
    pub labels: Option<usize>,
    /// The values of the outputs for a blank picture, in the order of the outputs.
    pub probe: &'a [Tensor<'a>],
}

impl Context<'_> {
    /// Cells of a grid of one cell per `stride` pixels, summed over `strides`.
    fn cells(&self, strides: &[usize]) -> usize {
        strides
            .iter()
            .map(|s| self.input.0.div_ceil(*s) * self.input.1.div_ceil(*s))
            .sum()
    }

    /// How scores come out of the model.
    fn activation(&self) -> Activation {
        self.fields.activation()
    }
}

/// Reads boxes out of tensors.
pub(super) trait Decoder: Send {
    /// Appends every box with a score of at least `floor`, in pixels of the model's input.
    ///
    /// # Errors
    /// When the tensors do not have the shape that they were declared with.
    fn decode(&mut self, outputs: &[Tensor<'_>], floor: f32, found: &mut Vec<Candidate>) -> Result<(), String>;

    /// Number of classes, where the shape tells.
    fn classes(&self) -> Option<usize>;

    /// Rows of scores in these outputs, each of which gives a box at most; `None` where boxes have an objectness of their
    /// own or none that they could be told by.
    fn rows(&self, _outputs: &[Tensor<'_>]) -> Option<usize> {
        None
    }

    /// Whether the model leaves several boxes for one object.
    fn needs_suppression(&self) -> bool {
        true
    }

    /// A word or two on the variant, for the log.
    fn variant(&self) -> &'static str {
        ""
    }
}

/// The decoder of `family` for these outputs, or why they are not of that family.
pub(super) fn fit(family: Family, outputs: &[OutputInfo], context: &Context<'_>) -> Result<Box<dyn Decoder>, String> {
    match family {
        Family::Yolov5 => yolov5::fit(outputs, context),
        Family::Yolov8 => yolov8::fit(outputs, context),
        Family::Yolov10 => yolov10::fit(outputs, context),
        Family::Yolox => yolox::fit(outputs, context),
        Family::Nanodet => nanodet::fit(outputs, context),
        Family::Ssd => ssd::fit(outputs, context),
        Family::Torchvision => torchvision::fit(outputs, context),
        Family::Yunet => yunet::fit(outputs, context),
    }
}

/// The family that the shapes of the outputs speak of.
pub(super) fn guess(outputs: &[OutputInfo], context: &Context<'_>) -> Result<Family, String> {
    if fit(Family::Ssd, outputs, context).is_ok() {
        return Ok(Family::Ssd);
    }
    if fit(Family::Yunet, outputs, context).is_ok() {
        return Ok(Family::Yunet);
    }
    if outputs.len() >= 6 {
        return fit(Family::Nanodet, outputs, context).map(|_| Family::Nanodet);
    }
    if outputs.len() >= 3 {
        return fit(Family::Torchvision, outputs, context).map(|_| Family::Torchvision);
    }
    let Some(output) = outputs.first() else {
        return Err("besides its objectness it has no outputs".into());
    };
    if outputs.len() == 1 && yolov10::is_list(output) {
        return Ok(Family::Yolov10);
    }
    let [1, rows, columns] = *output.dims else {
        return Err(format!("the shape {:?} is of no known family", output.dims));
    };
    if outputs.len() > 1 {
        return Err("two outputs are of no known family (segmentation and keypoints are not supported)".into());
    }
    let dense = context.cells(&[8, 16, 32]);
    let dense4 = context.cells(&[8, 16, 32, 64]);
    if rows == 3 * dense || rows == 3 * dense4 {
        return Ok(Family::Yolov5);
    }
    let is_grid = rows == dense || rows == dense4;
    if columns == 6 && !is_grid && (rows <= 1000 || output.varies(1)) {
        return Ok(Family::Yolov10);
    }
    if columns == dense || columns == dense4 {
        return Ok(Family::Yolov8);
    }
    if rows == dense4 {
        return Ok(Family::Nanodet);
    }
    if rows == dense {
        // Class scores and 4 sides of 8 bins each, or 5 numbers and class scores.
        let bins = 4 * nanodet::BINS;
        return match context.labels {
            Some(n) if n + 5 == columns => Ok(Family::Yolox),
            Some(n) if n + bins == columns => Ok(Family::Nanodet),
            Some(n) if n + 4 == columns => Ok(Family::Yolov8),
            _ if columns == 80 + bins => Ok(Family::Nanodet),
            _ => Ok(Family::Yolox),
        };
    }
    Err(format!(
        "the shape {:?} does not fit an input of {}x{} pixels in any known family",
        output.dims, context.input.0, context.input.1
    ))
}

/// The function between a raw score and a probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    None,
    Sigmoid,
}

impl Activation {
    pub(super) fn apply(self, raw: f32) -> f32 {
        match self {
            Self::None => raw,
            Self::Sigmoid => 1.0 / (1.0 + (-raw).exp()),
        }
    }

    /// The smallest raw score whose probability reaches `floor`.
    fn raw_floor(self, floor: f32) -> f32 {
        match self {
            Self::None => floor,
            Self::Sigmoid if floor <= 0.0 => f32::NEG_INFINITY,
            Self::Sigmoid if floor >= 1.0 => f32::INFINITY,
            Self::Sigmoid => (floor / (1.0 - floor)).ln(),
        }
    }
}

/// The only output, of shape [1, `a`, `b`].
fn single(outputs: &[OutputInfo]) -> Result<(usize, usize), String> {
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

/// The best class of a row of scores and its score; the first among equals. `None` for no scores or NaN only.
fn best(scores: &[f32]) -> Option<(u32, f32)> {
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
fn centred(cx: f32, cy: f32, w: f32, h: f32) -> [f32; 4] {
    [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]
}

/// Appends a box, unless a number in it is infinite or no number: then the network has nothing to say there.
fn push(found: &mut Vec<Candidate>, corners: [f32; 4], score: f32, objectness: Option<f32>, class: u32) {
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

/// As [`push`], a box of row `row` without objectness.
fn push_row(found: &mut Vec<Candidate>, row: usize, corners: [f32; 4], score: f32, class: u32) {
    let before = found.len();
    push(found, corners, score, None, class);
    found[before..].iter_mut().for_each(|c| c.row = row);
}

/// Rows of `[box, objectness, class scores]`, the common part of YOLOv5 and YOLOX. `place` turns the first four numbers
/// of row `n` into corners.
fn objectness_rows(
    data: &[f32],
    columns: usize,
    floor: f32,
    activation: Activation,
    found: &mut Vec<Candidate>,
    mut place: impl FnMut(usize, [f32; 4]) -> [f32; 4],
) {
    let raw_floor = activation.raw_floor(floor);
    for (n, row) in data.chunks_exact(columns).enumerate() {
        // No class score is above 1, so that objectness alone bounds the score.
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

/// The tensor of an output that must still have the dimensions that last.
fn expect<'a>(outputs: &'a [Tensor<'a>], index: usize, lasting: &[Option<usize>]) -> Result<&'a Tensor<'a>, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs of every family for 64x64 pixels: names, shapes, whether floating point.
    fn outputs(family: Family) -> Vec<OutputInfo> {
        let output = |name: &str, dims: &[usize], float| OutputInfo {
            name: name.into(),
            dims: dims.into(),
            dynamic: Vec::new(),
            float,
        };
        match family {
            Family::Yolov5 => vec![output("o", &[1, 252, 8], true)],
            Family::Yolov8 => vec![output("o", &[1, 7, 84], true)],
            Family::Yolov10 => vec![output("o", &[1, 20, 6], true)],
            Family::Yolox => vec![output("o", &[1, 84, 8], true)],
            Family::Nanodet => vec![output("o", &[1, 85, 35], true)],
            Family::Ssd => vec![
                output("detection_boxes", &[1, 9, 4], true),
                output("detection_classes", &[1, 9], true),
                output("detection_scores", &[1, 9], true),
                output("num_detections", &[1], true),
            ],
            Family::Torchvision => {
                vec![
                    output("b", &[9, 4], true),
                    output("l", &[9], false),
                    output("s", &[9], true),
                ]
            }
            Family::Yunet => [(8, 64), (16, 16), (32, 4)]
                .into_iter()
                .flat_map(|(stride, cells)| {
                    [("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)]
                        .map(|(part, numbers)| output(&format!("{part}_{stride}"), &[1, cells, numbers], true))
                })
                .collect(),
        }
    }

    const FAMILIES: [Family; 8] = [
        Family::Yolov5,
        Family::Yolov8,
        Family::Yolov10,
        Family::Yolox,
        Family::Nanodet,
        Family::Ssd,
        Family::Torchvision,
        Family::Yunet,
    ];

    #[test]
    fn shapes_tell_every_family() {
        let fields = Fields::default();
        for family in FAMILIES {
            let context = Context {
                input: (64, 64),
                fields: &fields,
                labels: Some(3),
                probe: &[],
            };
            assert_eq!(guess(&outputs(family), &context), Ok(family));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_numbers_give_finite_boxes_and_no_panic(
            seed in proptest::collection::vec(
                proptest::prop_oneof![
                    proptest::num::f32::ANY,
                    -2.0f32..2.0,
                    0.0f32..300.0,
                    proptest::strategy::Just(f32::NAN),
                    proptest::strategy::Just(f32::INFINITY),
                ],
                1..97,
            ),
            floor in 0.0f32..1.0,
            logits in proptest::bool::ANY,
        ) {
            let text = if logits { "scores=logit, first-class=1" } else { "decoded=false" };
            let fields = Fields::from_property(text).unwrap();
            for family in FAMILIES {
                let infos = outputs(family);
                let context = Context { input: (64, 64), fields: &fields, labels: None, probe: &[] };
                let mut decoder = fit(family, &infos, &context).unwrap();
                let data: Vec<Vec<f32>> = infos
                    .iter()
                    .map(|o| seed.iter().copied().cycle().take(o.dims.iter().product()).collect())
                    .collect();
                let tensors: Vec<Tensor<'_>> =
                    infos.iter().zip(&data).map(|(o, d)| Tensor { dims: &o.dims, data: d }).collect();
                let mut found = Vec::new();
                decoder.decode(&tensors, floor, &mut found).unwrap();
                for c in &found {
                    proptest::prop_assert!([c.x1, c.y1, c.x2, c.y2].iter().all(|v| v.is_finite()));
                    proptest::prop_assert!(c.score >= floor && c.score <= 1.0, "{family:?} {c:?} {floor}");
                }
                crate::model::nms::suppress(&mut found, 0.45, 10);
                proptest::prop_assert!(found.len() <= 10);
                // Another shape than the declared one is an error.
                let wrong: Vec<Tensor<'_>> = tensors.iter().map(|t| Tensor { dims: &[1, 2, 3], data: &t.data[..1] }).collect();
                proptest::prop_assert!(decoder.decode(&wrong, floor, &mut found).is_err());
                proptest::prop_assert!(decoder.decode(&[], floor, &mut found).is_err());
            }
        }
    }
}
