// SPDX-License-Identifier: MPL-2.0

//! Evaluates a segmentation: the share of each class, the map in a compact form, the agreement of two maps.

#![forbid(unsafe_code)]

use serde_json::{Value, json};

use crate::model::Segmentation;

/// Most cells that a written map may claim, so that a damaged one allocates little: 8192 x 8192.
const MAX_CELLS: usize = 1 << 26;

/// The share of the picture that one class covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassArea {
    /// The class.
    pub class: u8,
    /// Fraction of the cells, above 0 and at most 1.
    pub area: f64,
}

/// The classes that occur, the largest first, equally large ones by number.
pub fn areas(map: &Segmentation) -> Vec<ClassArea> {
    let counts = counts(map.classes());
    let cells = map.classes().len() as f64;
    let mut areas: Vec<ClassArea> = (0..=u8::MAX)
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(class, count)| ClassArea {
            class,
            area: count as f64 / cells,
        })
        .collect();
    areas.sort_by(|a, b| b.area.total_cmp(&a.area));
    areas
}

/// The map as JSON: `{"width": 4, "height": 2, "runs": [[0, 5], [13, 3]]}`, runs as in [`runs`]. [`from_map_json`] reads
/// it back.
pub fn map_json(map: &Segmentation) -> Value {
    let runs: Value = runs(map.classes())
        .map(|(class, cells)| json!([class, cells]))
        .collect();
    json!({"width": map.width(), "height": map.height(), "runs": runs})
}

/// Reads the JSON of [`map_json`], which has neither uncertainty nor times.
///
/// # Errors
/// One sentence with the reason.
pub fn from_map_json(value: &Value) -> Result<Segmentation, String> {
    let number = |key: &str| {
        let number = value[key].as_u64().and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| format!("{key} is no whole number"))
    };
    let (width, height) = (number("width")?, number("height")?);
    let Some(cells) = width.checked_mul(height).filter(|c| (1..=MAX_CELLS).contains(c)) else {
        return Err(format!("a map has 1 to {MAX_CELLS} cells, this one {width}x{height}"));
    };
    let runs = value["runs"].as_array().ok_or("runs is no list")?;
    let mut classes = Vec::new();
    for run in runs {
        let class = run[0].as_u64().and_then(|c| u8::try_from(c).ok());
        let length = run[1].as_u64().and_then(|n| usize::try_from(n).ok());
        let (Some(class), Some(length)) = (class, length) else {
            return Err(format!("{run} is no run [class, cells]"));
        };
        if length > cells - classes.len() {
            return Err(format!("its runs have more cells than its {width}x{height}"));
        }
        classes.resize(classes.len() + length, class);
    }
    let found = classes.len();
    Segmentation::new(width, height, classes)
        .ok_or_else(|| format!("its runs have {found} cells, not {width}x{height}"))
}

/// Run-length encoding of cells in row-major order: class and number of equal neighbours. A run may continue from the
/// end of a row to the start of the next.
pub fn runs(classes: &[u8]) -> impl Iterator<Item = (u8, usize)> {
    classes.chunk_by(|a, b| a == b).map(|run| (run[0], run.len()))
}

/// The DDS authors' measure of a segmentation (SIGCOMM 2020 artifact, `examine_segmentation.py`): cells where both maps
/// agree and are not background, over cells where at least one is not, 0 to 1.
///
/// `None` without any such cell (the frame does not count), or if the maps differ in size. Without a `background` class
/// all cells count.
pub fn agreement(a: &[u8], b: &[u8], background: Option<u8>) -> Option<f64> {
    if a.len() != b.len() {
        return None;
    }
    let (mut equal, mut all) = (0u64, 0u64);
    for (a, b) in a.iter().zip(b) {
        let counts = Some(*a) != background || Some(*b) != background;
        all += u64::from(counts);
        equal += u64::from(counts && a == b);
    }
    (all > 0).then(|| equal as f64 / all as f64)
}

/// Counts over many frames for the mean intersection over union.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlap {
    /// By class: cells of the reference, of the other map, of both.
    counts: Vec<[u64; 3]>,
    ignored: Option<u8>,
}

impl Overlap {
    /// Without frames. Cells of class `ignored` in the reference do not count.
    pub fn new(ignored: Option<u8>) -> Self {
        Self {
            counts: vec![[0; 3]; 256],
            ignored,
        }
    }

    /// Adds one frame; `false`, without adding it, if the maps differ in size.
    pub fn add(&mut self, reference: &[u8], other: &[u8]) -> bool {
        if reference.len() != other.len() {
            return false;
        }
        let cells = reference.iter().zip(other);
        for (r, o) in cells.filter(|(r, _)| Some(**r) != self.ignored) {
            self.counts[usize::from(*r)][0] += 1;
            self.counts[usize::from(*o)][1] += 1;
            self.counts[usize::from(*r)][2] += u64::from(r == o);
        }
        true
    }

    /// Intersection over union of one class, 0 to 1; `None` where neither map has it.
    pub fn of(&self, class: u8) -> Option<f64> {
        let [reference, other, both] = self.counts[usize::from(class)];
        let union = reference + other - both;
        (union > 0).then(|| both as f64 / union as f64)
    }

    /// The mean of [`Overlap::of`] over the classes of the reference; `None` without any.
    pub fn mean(&self) -> Option<f64> {
        let of_reference = (0..=u8::MAX).filter(|c| self.counts[usize::from(*c)][0] > 0);
        let overlaps: Vec<f64> = of_reference.filter_map(|c| self.of(c)).collect();
        (!overlaps.is_empty()).then(|| overlaps.iter().sum::<f64>() / overlaps.len() as f64)
    }
}

/// Cells of each class.
fn counts(classes: &[u8]) -> [u64; 256] {
    // Four counters in turn: a long run of one class would otherwise serialise on one.
    let mut counts = [[0u64; 256]; 4];
    for cells in classes.chunks(4) {
        for (counts, class) in counts.iter_mut().zip(cells) {
            counts[usize::from(*class)] += 1;
        }
    }
    std::array::from_fn(|class| counts.iter().map(|c| c[class]).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(width: usize, classes: &[u8]) -> Segmentation {
        Segmentation::new(width, classes.len() / width, classes.into()).unwrap()
    }

    #[test]
    fn areas_are_fractions_the_largest_first() {
        let map = map(5, &[7, 7, 1, 1, 1, 1, 1, 0, 0, 1]);
        let found: Vec<(u8, f64)> = areas(&map).iter().map(|a| (a.class, a.area)).collect();
        assert_eq!(found, [(1, 0.6), (0, 0.2), (7, 0.2)]);
    }

    #[test]
    fn runs_go_on_from_row_to_row() {
        let value = map_json(&map(3, &[2, 2, 5, 5, 5, 2]));
        assert_eq!(
            value,
            json!({"width": 3, "height": 2, "runs": [[2, 2], [5, 3], [2, 1]]})
        );
    }

    #[test]
    fn damaged_maps_are_an_error() {
        for (value, word) in [
            (json!(null), "width"),
            (json!({"width": 2, "height": -1, "runs": []}), "height"),
            (json!({"width": 2, "height": 0, "runs": []}), "2x0"),
            (
                json!({"width": 4294967296u64, "height": 4294967296u64, "runs": []}),
                "1 to",
            ),
            (json!({"width": 2, "height": 2}), "list"),
            (json!({"width": 2, "height": 2, "runs": [[1, 3]]}), "3 cells"),
            (json!({"width": 2, "height": 2, "runs": [[1, 5]]}), "more cells"),
            (
                json!({"width": 2, "height": 2, "runs": [[1, 18446744073709551615u64]]}),
                "more cells",
            ),
            (json!({"width": 2, "height": 2, "runs": [[256, 4]]}), "no run"),
            (json!({"width": 2, "height": 2, "runs": [4]}), "no run"),
        ] {
            let error = from_map_json(&value).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn agreement_leaves_out_what_both_call_background() {
        let (a, b) = ([0, 0, 1, 1, 2, 2], [0, 1, 1, 0, 2, 1]);
        assert_eq!(agreement(&a, &b, Some(0)), Some(2.0 / 5.0));
        assert_eq!(agreement(&a, &b, None), Some(3.0 / 6.0));
        assert_eq!(agreement(&[0, 0], &[0, 0], Some(0)), None);
        assert_eq!(agreement(&[0], &[0, 0], None), None);
    }

    #[test]
    fn overlap_is_a_mean_over_the_classes_of_the_reference() {
        let mut overlap = Overlap::new(Some(255));
        assert!(overlap.add(&[0, 0, 1, 1], &[0, 1, 1, 1]));
        assert!(overlap.add(&[0, 255], &[3, 1]));
        assert!(!overlap.add(&[0], &[]));
        assert_eq!(overlap.of(0), Some(1.0 / 3.0));
        assert_eq!(overlap.of(1), Some(2.0 / 3.0));
        assert_eq!(overlap.of(3), Some(0.0));
        assert_eq!(overlap.of(4), None);
        assert_eq!(overlap.mean(), Some(0.5));
        assert_eq!(Overlap::new(None).mean(), None);
    }

    proptest::proptest! {
        #[test]
        fn a_written_map_reads_back(
            width in 1usize..20,
            rows in 1usize..20,
            seed in proptest::collection::vec(0u8..4, 1..400),
        ) {
            let classes: Vec<u8> = seed.iter().copied().cycle().take(width * rows).collect();
            let map = map(width, &classes);
            let text = map_json(&map).to_string();
            let back = from_map_json(&serde_json::from_str(&text).unwrap()).unwrap();
            proptest::prop_assert_eq!(back, map);
        }
    }
}
