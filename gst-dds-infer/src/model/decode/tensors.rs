// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Output tensors of a model, and scores in them.

/// Name and shape of one output of the model.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct OutputInfo {
    pub name: String,
    /// Its dimensions in one run.
    pub dims: Vec<usize>,
    /// Which of them the model declares dynamic: they may differ for the next picture.
    pub dynamic: Vec<bool>,
    /// Whether its elements are floating point (integers are class numbers and counts).
    pub float: bool,
}

impl OutputInfo {
    /// Whether a dimension may change from picture to picture.
    pub(super) fn varies(&self, dimension: usize) -> bool {
        self.dynamic.get(dimension).copied().unwrap_or_default()
    }

    /// The fixed dimensions; `None` for dynamic ones.
    pub(in crate::model) fn lasting(&self) -> Lasting {
        let varies = (0..self.dims.len()).map(|d| self.varies(d));
        self.dims
            .iter()
            .zip(varies)
            .map(|(n, varies)| (!varies).then_some(*n))
            .collect()
    }
}

/// Dimensions of an output, `None` where any number will do.
pub(in crate::model) type Lasting = Vec<Option<usize>>;

/// Whether these dimensions match the fixed ones.
pub(in crate::model) fn lasts(dims: &[usize], lasting: &[Option<usize>]) -> bool {
    dims.len() == lasting.len()
        && dims
            .iter()
            .zip(lasting)
            .all(|(n, lasting)| lasting.is_none_or(|l| l == *n))
}

/// One output of one run: row-major elements, `dims` multiply to `data.len()`.
#[derive(Debug, Clone)]
pub(in crate::model) struct Tensor<'a> {
    pub dims: &'a [usize],
    pub data: &'a [f32],
}

/// The function between a raw score and a probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Activation {
    None,
    Sigmoid,
}

impl Activation {
    pub(in crate::model) fn apply(self, raw: f32) -> f32 {
        match self {
            Self::None => raw,
            Self::Sigmoid => 1.0 / (1.0 + (-raw).exp()),
        }
    }

    /// The smallest raw score whose probability reaches `floor`.
    pub(super) fn raw_floor(self, floor: f32) -> f32 {
        match self {
            Self::None => floor,
            Self::Sigmoid if floor <= 0.0 => f32::NEG_INFINITY,
            Self::Sigmoid if floor >= 1.0 => f32::INFINITY,
            Self::Sigmoid => (floor / (1.0 - floor)).ln(),
        }
    }
}
