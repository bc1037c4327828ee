// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Semantic segmentation: a class for every cell of a grid over the picture.
//!
//! Two layouts of outputs are known: scores [1, C, h, w] of C classes, raw or as probabilities, of which the best wins;
//! and finished maps [1, h, w] or [1, 1, h, w] of class numbers. Where a model gives several maps of one size
//! (torchvision's `out` and `aux`), the first is read.

use std::borrow::Cow;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::decode::{self, Lasting, OutputInfo, Tensor};
use super::description::{ColorOrder, InputDefaults, Resize};
use super::preprocess::Placement;
use super::session::{ModelSession, Outputs, PROBE_SIDE, Run};
use super::{ModelError, ModelSettings, Picture, Task, labels};

/// Class numbers are stored in bytes.
const MAX_CLASSES: usize = 256;
/// Cells decoded together: a vector register of the oldest 64-bit processors.
const LANES: usize = 4;

/// Mean and standard deviation of ImageNet, with which nearly all published segmenters were trained.
const DEFAULTS: InputDefaults = InputDefaults {
    color: ColorOrder::Rgb,
    resize: Resize::Stretch,
    pad: 114.0,
    scale: 1.0 / 255.0,
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};

/// Settings that may change from one frame to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSettings {
    /// Whether to compute [`Segmentation::uncertainty`] and [`Segmentation::runners_up`]; without them they are empty,
    /// and reading the scores takes a third of the time. Default true.
    pub uncertainty: bool,
}

impl Default for SegmentSettings {
    fn default() -> Self {
        Self { uncertainty: true }
    }
}

/// The classes of one frame: `width` x `height` cells, row by row from the top left, that cover the picture.
///
/// A cell is `picture width / width` pixels wide and `picture height / height` high, usually not a whole number. Cells of
/// the model's output that lie in the padding of a letterboxed picture are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Segmentation {
    width: usize,
    height: usize,
    classes: Vec<u8>,
    runners_up: Vec<u8>,
    uncertainty: Vec<u8>,
    /// Time spent turning the picture into the model's input.
    pub preprocess: Duration,
    /// Time spent in the ONNX Runtime call.
    pub run: Duration,
    /// Time spent in finding the best classes.
    pub decode: Duration,
}

impl Segmentation {
    /// A map from elsewhere, every cell certain; `None` unless `classes` has `width` x `height` elements and at least
    /// one.
    pub fn new(width: usize, height: usize, classes: Vec<u8>) -> Option<Self> {
        let fits = !classes.is_empty() && width.checked_mul(height) == Some(classes.len());
        fits.then(|| Self {
            width,
            height,
            classes,
            ..Self::default()
        })
    }

    /// The same map with the second best class and the uncertainty of each cell; `None` if either has another length.
    pub fn with_uncertainty(self, runners_up: Vec<u8>, uncertainty: Vec<u8>) -> Option<Self> {
        let cells = self.classes.len();
        (runners_up.len() == cells && uncertainty.len() == cells).then_some(Self {
            runners_up,
            uncertainty,
            ..self
        })
    }

    /// Cells in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of cells.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The class of each cell.
    pub fn classes(&self) -> &[u8] {
        &self.classes
    }

    /// The second best class of each cell. Empty for a model whose output is a finished map, or if uncertainty was not
    /// asked for.
    pub fn runners_up(&self) -> &[u8] {
        &self.runners_up
    }

    /// 255 * (1 - (p - q)) of each cell, p and q the probabilities of its best and second best class (DDS, SIGCOMM
    /// 2020, section 4). Empty where [`Segmentation::runners_up`] is, which stands for 0 everywhere.
    pub fn uncertainty(&self) -> &[u8] {
        &self.uncertainty
    }

    /// The class of each pixel of a picture of `width` x `height` (the nearest cell's), one byte each, into rows that are
    /// `stride` bytes apart. Bytes between rows are left alone; the last row needs only its own.
    ///
    /// # Errors
    /// [`ModelError::Picture`] when `target` or `stride` is too short, or a side is 0.
    pub fn write_classes(
        &self,
        width: usize,
        height: usize,
        target: &mut [u8],
        stride: usize,
    ) -> Result<(), ModelError> {
        let bytes = height
            .checked_sub(1)
            .and_then(|rows| stride.checked_mul(rows)?.checked_add(width));
        if width == 0 || stride < width || bytes.is_none_or(|b| target.len() < b) {
            return Err(ModelError::Picture(format!(
                "a map of {width}x{height} pixels has no place in {} bytes with a stride of {stride}",
                target.len()
            )));
        }
        // The cell under the centre of pixel `i`.
        let cell = |i: usize, pixels: usize, cells: usize| (2 * i + 1) * cells / (2 * pixels);
        let columns: Vec<usize> = (0..width).map(|x| cell(x, width, self.width)).collect();
        let mut above = None;
        for y in 0..height {
            let row = cell(y, height, self.height);
            let start = y * stride;
            if above == Some(row) {
                target.copy_within(start - stride..start - stride + width, start);
                continue;
            }
            above = Some(row);
            let target = &mut target[start..start + width];
            let cells = &self.classes[row * self.width..(row + 1) * self.width];
            if width == self.width {
                target.copy_from_slice(cells);
            } else {
                target.iter_mut().zip(&columns).for_each(|(t, c)| *t = cells[*c]);
            }
        }
        Ok(())
    }
}

/// Layout of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Logits,
    Probabilities,
    /// Class numbers.
    Map,
}

/// A loaded segmentation model. It may move between threads; one thread uses it at a time.
pub struct Segmenter {
    session: ModelSession,
    output: usize,
    layout: Layout,
    /// Number of classes, if the shape of the output has it.
    classes: Option<usize>,
    /// The output's fixed dimensions, and the input size for which they hold.
    lasting: Lasting,
    planned: (usize, usize),
    labels: Vec<String>,
    summary: String,
    outputs: Outputs,
}

// The element opens a segmenter on one thread and uses it on another.
const _: () = {
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<Segmenter>();
};

impl Segmenter {
    /// As [`super::Detector::open`], for a model of semantic segmentation.
    ///
    /// # Errors
    /// Every [`ModelError`] but [`ModelError::Picture`]; never panics.
    pub fn open(settings: &ModelSettings) -> Result<Self, ModelError> {
        let mut session = ModelSession::open(settings)?;
        session.expect_task(&[Task::Segmentation])?;
        let run = session.probe(PROBE_SIDE)?;
        Self::reading(session, &run)
    }

    /// Builds the segmenter for this model's outputs; `probe` is the run on a blank picture.
    pub(super) fn reading(mut session: ModelSession, probe: &Run) -> Result<Self, ModelError> {
        session.is_for("segmentation");
        let infos = session.own_infos(probe);
        let outputs = || {
            let list: Vec<String> = infos.iter().map(|o| format!("{} {:?}", o.name, o.dims)).collect();
            format!("the outputs of {} are {}", session.file().display(), list.join(", "))
        };
        const WANTED: &str = "a segmentation is [1, classes, height, width] scores, or [1, height, width] or [1, 1, \
                              height, width] class numbers";
        let given = session.fields().task.as_ref();
        let Some((output, classes)) = infos.iter().enumerate().find_map(|(i, o)| Some((i, classes_of(o)?))) else {
            return Err(match given {
                Some(task) => ModelError::Contradiction {
                    what: "the task".into(),
                    first: format!("{} says {}", task.origin, task.value.name()),
                    second: format!("{}, which do not fit: {WANTED}", outputs()),
                },
                None => session.unfit(format!("{}: {WANTED}", outputs())),
            });
        };
        if let Some(classes) = classes.filter(|c| *c > MAX_CLASSES) {
            return Err(session.unfit(format!(
                "{}: {classes} classes, of which {MAX_CLASSES} are allowed; if classes come last, export it with channels \
                 first",
                outputs()
            )));
        }
        let layout = match classes {
            None => Layout::Map,
            Some(_) if session.fields().probabilities() => Layout::Probabilities,
            Some(_) => Layout::Logits,
        };
        // Rows of boxes can have the shape of a map.
        let mut values = Outputs::default();
        let tensors = values.collect(probe).map_err(|e| session.unfit(e))?;
        let mut cells = tensors.get(output).map_or(&[][..], |t| t.data).iter();
        if let Some(wrong) = cells.find(|v| v.fract().abs() > 0.0).filter(|_| layout == Layout::Map) {
            let cause = format!(
                "{}, of which {} holds {wrong}, no class number: {WANTED}",
                outputs(),
                infos[output].name
            );
            return Err(match given {
                Some(task) => ModelError::Contradiction {
                    what: "the task".into(),
                    first: format!("{} says {}", task.origin, task.value.name()),
                    second: cause,
                },
                None => session.unfit(cause),
            });
        }
        let source = given.map_or("by the shape of the outputs", |s| s.origin.as_str());
        let reader = format!(
            "segmentation {} {} ({source})",
            infos[output].name,
            match layout {
                Layout::Logits => "logits",
                Layout::Probabilities => "probabilities",
                Layout::Map => "class numbers",
            }
        );
        let (labels, origin) = session.settle_labels(classes, labels::of_segmentation)?;
        session.feed(&DEFAULTS, "segmentation models")?;
        let summary = session.summary(&reader, &format!("{} labels ({origin})", labels.len()));
        Ok(Self {
            session,
            output,
            layout,
            classes,
            lasting: infos[output].lasting(),
            planned: probe.size,
            labels,
            summary,
            outputs: Outputs::default(),
        })
    }

    /// Runs the model on one picture.
    ///
    /// # Errors
    /// [`ModelError::Picture`] for a picture too large for a model of dynamic size, [`ModelError::Inference`] when ONNX
    /// Runtime refuses, the output is not as declared, or a class number is not 0 to 255.
    pub fn infer(&mut self, picture: &Picture<'_>, settings: &SegmentSettings) -> Result<Segmentation, ModelError> {
        let run = self.session.infer(picture)?;
        let start = Instant::now();
        let tensors = self.outputs.collect(&run).map_err(ModelError::Inference)?;
        let declared = (&self.lasting[..], run.size == self.planned);
        let tensor = tensors
            .get(self.output)
            .map(|t| (t, Grid::declared(t, self.classes, declared)));
        let Some((tensor, Some(grid))) = tensor else {
            return Err(ModelError::Inference(format!(
                "output {} has the shape {:?}, not that of a segmentation of {:?} classes",
                self.output,
                tensors.get(self.output).map_or(&[][..], |t| t.dims),
                self.classes
            )));
        };
        let grid = grid.of_picture((picture.width() as usize, picture.height() as usize), &run);
        let mut map = Segmentation {
            width: grid.columns.len(),
            height: grid.rows.len(),
            preprocess: run.preprocess,
            run: run.run,
            ..Segmentation::default()
        };
        match self.layout {
            Layout::Logits | Layout::Probabilities if settings.uncertainty => {
                best::<true>(tensor.data, self.layout, &grid, &mut map);
            }
            Layout::Logits | Layout::Probabilities => best::<false>(tensor.data, self.layout, &grid, &mut map),
            Layout::Map => numbers(tensor.data, &grid, &mut map).map_err(ModelError::Inference)?,
        }
        map.decode = start.elapsed();
        Ok(map)
    }

    /// Labels by class number; empty when nothing names the classes.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The label of a class, or `class N` when it has none.
    pub fn label(&self, class: u8) -> Cow<'_, str> {
        match self.labels.get(usize::from(class)) {
            Some(l) => Cow::Borrowed(l),
            None => Cow::Owned(format!("class {class}")),
        }
    }

    /// The class of pixels of no other class, recognised by its label (`background`, `void`, `unlabeled`, `ignore`).
    pub fn background(&self) -> Option<u8> {
        const NAMES: [&str; 5] = ["background", "void", "unlabeled", "unlabelled", "ignore"];
        let is_none = |l: &String| NAMES.iter().any(|n| l.eq_ignore_ascii_case(n));
        let class = self.labels.iter().take(MAX_CLASSES).position(is_none)?;
        Some(class as u8)
    }

    /// Deviations from the settings that are no errors, as [`super::Detector::warnings`].
    pub fn warnings(&self) -> &[String] {
        self.session.warnings()
    }

    /// One line for the log: output, input, pre-processing, labels, execution provider and the source of each.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Width and height of the input in pixels for a picture of `width` x `height`.
    pub fn input_size(&self, width: u32, height: u32) -> (u32, u32) {
        let (w, h) = self.session.size_for((width as usize, height as usize));
        (w as u32, h as u32)
    }
}

/// Whether these outputs, for an input of this width and height, are a segmentation's: all of them maps of one size,
/// no larger than the input (unlike the pictures of a super resolution), and not rows of boxes.
pub(super) fn fit_classes(infos: &[OutputInfo], input: (usize, usize)) -> bool {
    let Some(((first, size), rest)) = infos
        .iter()
        .map(|o| Some((o, size_of(&o.dims)?)))
        .collect::<Option<Vec<_>>>()
        .and_then(|sizes| sizes.split_first().map(|(f, r)| (*f, r.to_vec())))
    else {
        return false;
    };
    // Floating point numbers in three dimensions are rows of boxes more often than classes.
    let plain = !first.float || first.dims.len() == 4 || size == input;
    plain && size.0 <= input.0 && size.1 <= input.1 && classes_of(first).is_some() && rest.iter().all(|r| r.1 == size)
}

/// Number of classes of an output that can be a segmentation; the inner `None` for a map of class numbers.
fn classes_of(output: &OutputInfo) -> Option<Option<usize>> {
    size_of(&output.dims)?;
    match output.dims[..] {
        [_, c, _, _] if c > 1 => output.float.then_some(Some(c)),
        _ => Some(None),
    }
}

/// Width and height of a map with these dimensions.
fn size_of(dims: &[usize]) -> Option<(usize, usize)> {
    match *dims {
        [1, h, w] | [1, _, h, w] if !dims.contains(&0) => Some((w, h)),
        _ => None,
    }
}

/// Position of the wanted cells in a tensor.
#[derive(Debug, Clone, PartialEq)]
struct Grid {
    /// Cells in a row of the tensor, rows in a class.
    size: (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Grid {
    /// As [`Grid::of`], for the fixed dimensions that the model declares. If the input's size is dynamic (second value
    /// false), so is the size of the map.
    fn declared(
        tensor: &Tensor<'_>,
        classes: Option<usize>,
        (lasting, whole): (&[Option<usize>], bool),
    ) -> Option<Self> {
        if whole && !decode::lasts(tensor.dims, lasting) {
            return None;
        }
        let classes = match (classes, tensor.dims, lasting) {
            // Declared dynamic, the number of classes may change as well.
            (Some(_), [_, c, _, _], [_, None, _, _]) if (2..=MAX_CLASSES).contains(c) => Some(*c),
            (classes, ..) => classes,
        };
        Self::of(tensor, classes)
    }

    /// All cells; `None` if the tensor has another shape than before. A model of dynamic size may change the size of
    /// its map.
    fn of(tensor: &Tensor<'_>, classes: Option<usize>) -> Option<Self> {
        let (w, h) = size_of(tensor.dims)?;
        let own = if tensor.dims.len() == 4 { tensor.dims[1] } else { 1 };
        (own == classes.unwrap_or(1)).then_some(Self {
            size: (w, h),
            columns: 0..w,
            rows: 0..h,
        })
    }

    /// Cells whose centres lie in the picture; at least one each way.
    fn of_picture(self, picture: (usize, usize), run: &Run) -> Self {
        let range = |cells: usize, input: usize, pixels: usize, scale: f32, offset: f32| {
            let cell = cells as f32 / input as f32;
            let edge = |v: f32| (v * cell).round().max(0.0) as usize;
            let start = edge(offset).min(cells - 1);
            start..edge(offset + pixels as f32 * scale).clamp(start + 1, cells)
        };
        let Placement { scale, offset } = run.placement;
        Self {
            columns: range(self.size.0, run.size.0, picture.0, scale.0, offset.0),
            rows: range(self.size.1, run.size.1, picture.1, scale.1, offset.1),
            ..self
        }
    }
}

/// e to the power of `x`, 0 or less, with a relative error below 1e-4 (a fortieth of a step of the uncertainty map):
/// the power of two by the exponent bits, the rest by a polynomial. Every operation vectorises.
fn exp(x: f32) -> f32 {
    // Adding this rounds to whole numbers, left in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let power = x * std::f32::consts::LOG2_E;
    let power = if power < -126.0 { -126.0 } else { power };
    let rounded = power + ROUND;
    let rest = power - (rounded - ROUND);
    let polynomial = 0.999_928_1 + rest * (0.693_261 + rest * (0.242_610_5 + rest * 0.055_171_32));
    polynomial * f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

/// Finds the best class of every cell, the first among equals, and with `DOUBTS` the second best and the uncertainty.
///
/// Each few neighbouring cells go through all classes together, so that their state stays in vector registers.
fn best<const DOUBTS: bool>(scores: &[f32], layout: Layout, grid: &Grid, map: &mut Segmentation) {
    let plane = grid.size.0 * grid.size.1;
    let cells = map.width * map.height;
    map.classes.reserve_exact(cells);
    if DOUBTS {
        map.runners_up.reserve_exact(cells);
        map.uncertainty.reserve_exact(cells);
    }
    for row in grid.rows.clone() {
        for start in grid.columns.clone().step_by(LANES) {
            let n = LANES.min(grid.columns.end - start);
            let first = row * grid.size.0 + start;
            // The lowest finite numbers: a difference of infinities is NaN.
            let (mut tops, mut seconds) = ([f32::MIN; LANES], [f32::MIN; LANES]);
            // As wide as the scores, which keeps the loop vectorised.
            let (mut classes, mut runners_up) = ([0u32; LANES], [0u32; LANES]);
            for (class, scores) in scores.chunks_exact(plane).enumerate() {
                let (class, scores) = (class as u32, lanes(&scores[first..first + n]));
                for i in 0..LANES {
                    // Comparisons instead of f32::max: one instruction each, and NaN never wins.
                    let (wins, follows) = (scores[i] > tops[i], scores[i] > seconds[i]);
                    if DOUBTS {
                        runners_up[i] = if wins {
                            classes[i]
                        } else if follows {
                            class
                        } else {
                            runners_up[i]
                        };
                        seconds[i] = if wins {
                            tops[i]
                        } else if follows {
                            scores[i]
                        } else {
                            seconds[i]
                        };
                    }
                    classes[i] = if wins { class } else { classes[i] };
                    tops[i] = if wins { scores[i] } else { tops[i] };
                }
            }
            map.classes.extend(classes[..n].iter().map(|c| *c as u8));
            if !DOUBTS {
                continue;
            }
            map.runners_up.extend(runners_up[..n].iter().map(|c| *c as u8));
            let mut gaps = [0.0f32; LANES];
            if layout == Layout::Logits {
                let mut sums = [0.0f32; LANES];
                for scores in scores.chunks_exact(plane) {
                    let scores = lanes(&scores[first..first + n]);
                    for i in 0..LANES {
                        sums[i] += exp(scores[i] - tops[i]);
                    }
                }
                for i in 0..LANES {
                    // The sum is about 1 or more, unless scores are minus infinity.
                    let sum = if sums[i] < 0.5 { 0.5 } else { sums[i] };
                    gaps[i] = (1.0 - exp(seconds[i] - tops[i])) / sum;
                }
            } else {
                for i in 0..LANES {
                    gaps[i] = tops[i] - seconds[i];
                }
            }
            // NaN means not certain.
            let doubts = gaps[..n].iter().map(|gap| ((1.0 - gap.max(0.0)) * 255.0 + 0.5) as u8);
            map.uncertainty.extend(doubts);
        }
    }
}

/// Up to [`LANES`] numbers, padded to that many.
fn lanes(numbers: &[f32]) -> [f32; LANES] {
    <[f32; LANES]>::try_from(numbers).unwrap_or_else(|_| {
        let mut padded = [0.0; LANES];
        padded.iter_mut().zip(numbers).for_each(|(p, n)| *p = *n);
        padded
    })
}

/// Takes class numbers unchanged.
fn numbers(values: &[f32], grid: &Grid, map: &mut Segmentation) -> Result<(), String> {
    map.classes.reserve_exact(map.width * map.height);
    for row in grid.rows.clone() {
        let cells = &values[row * grid.size.0..][grid.columns.clone()];
        if let Some(wrong) = cells.iter().find(|v| !(-0.5..255.5).contains(*v)) {
            return Err(format!(
                "the map holds the class {wrong}; classes are 0 to {}",
                MAX_CLASSES - 1
            ));
        }
        map.classes.extend(cells.iter().map(|v| (v + 0.5) as u8));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(scores: &[f32], width: usize, height: usize, layout: Layout) -> [Segmentation; 2] {
        let grid = Grid {
            size: (width, height),
            columns: 0..width,
            rows: 0..height,
        };
        let empty = Segmentation {
            width,
            height,
            ..Segmentation::default()
        };
        let (mut doubting, mut plain) = (empty.clone(), empty);
        best::<true>(scores, layout, &grid, &mut doubting);
        best::<false>(scores, layout, &grid, &mut plain);
        [doubting, plain]
    }

    #[test]
    fn the_fast_exponential_is_close_enough() {
        for i in 0..200_000 {
            let x = -(i as f32) / 2000.0;
            let (own, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((own / exact - 1.0).abs() < 1e-4 || exact < 1e-37, "{x} {own} {exact}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(f32::NAN).is_nan());
    }

    proptest::proptest! {
        #[test]
        fn classes_and_uncertainties_are_those_of_the_definition(
            width in 1usize..14,
            height in 1usize..4,
            classes in 2usize..24,
            seed in proptest::collection::vec(-30.0f32..30.0, 97),
        ) {
            let cells = width * height;
            let scores: Vec<f32> = seed.iter().copied().cycle().take(classes * cells).collect();
            let [map, plain] = read(&scores, width, height, Layout::Logits);
            proptest::prop_assert_eq!(&map.classes, &plain.classes);
            for cell in 0..cells {
                let own: Vec<f64> = (0..classes).map(|c| f64::from(scores[c * cells + cell])).collect();
                let mut order: Vec<usize> = (0..classes).collect();
                order.sort_by(|a, b| own[*b].total_cmp(&own[*a]));
                proptest::prop_assert_eq!(usize::from(map.classes[cell]), order[0]);
                proptest::prop_assert_eq!(usize::from(map.runners_up[cell]), order[1]);
                let sum: f64 = own.iter().map(|v| (v - own[order[0]]).exp()).sum();
                let gap = (1.0 - (own[order[1]] - own[order[0]]).exp()) / sum;
                let doubt = (1.0 - gap) * 255.0;
                proptest::prop_assert!((f64::from(map.uncertainty[cell]) - doubt).abs() < 0.53, "{doubt}");
            }
        }

        #[test]
        fn any_scores_give_a_class_that_exists(
            seed in proptest::collection::vec(proptest::num::f32::ANY, 1..97),
            classes in 2usize..24,
            logits in proptest::bool::ANY,
        ) {
            let scores: Vec<f32> = seed.iter().copied().cycle().take(classes * 15).collect();
            let layout = if logits { Layout::Logits } else { Layout::Probabilities };
            for map in read(&scores, 5, 3, layout) {
                proptest::prop_assert_eq!(map.classes.len(), 15);
                let names = map.classes.iter().chain(&map.runners_up);
                proptest::prop_assert!(names.into_iter().all(|c| usize::from(*c) < classes));
            }
        }
    }

    #[test]
    fn what_is_no_number_is_uncertain() {
        for scores in [
            [f32::NAN, f32::NAN],
            [f32::INFINITY, f32::INFINITY],
            [f32::NEG_INFINITY; 2],
        ] {
            let [map, _] = read(&scores, 1, 1, Layout::Logits);
            assert_eq!((map.classes[0], map.uncertainty[0]), (0, 255), "{scores:?}");
        }
    }
}
