// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Boxes and their overlap.

use super::Detection;

/// A box in pixels of a picture; `x1 <= x2` and `y1 <= y2` in every box that is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f32,
    /// Top edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Bottom edge.
    pub y2: f32,
}

impl BoundingBox {
    /// The box of a detection; `None` where it has no area or its numbers are not finite.
    pub fn of(detection: &Detection) -> Option<Self> {
        let Detection { x1, y1, x2, y2, .. } = *detection;
        let finite = [x1, y1, x2, y2, detection.score].iter().all(|v| v.is_finite());
        (finite && x1 < x2 && y1 < y2).then_some(Self { x1, y1, x2, y2 })
    }

    /// Area in pixels.
    pub fn area(&self) -> f32 {
        (self.x2 - self.x1) * (self.y2 - self.y1)
    }

    /// Intersection over union, 0 to 1; 0 where one has no area.
    pub fn iou(&self, other: &Self) -> f32 {
        let width = self.x2.min(other.x2) - self.x1.max(other.x1);
        let height = self.y2.min(other.y2) - self.y1.max(other.y1);
        if width <= 0.0 || height <= 0.0 {
            return 0.0;
        }
        let intersection = width * height;
        intersection / (self.area() + other.area() - intersection)
    }

    /// The smallest box around both.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
            x2: self.x2.max(other.x2),
            y2: self.y2.max(other.y2),
        }
    }

    /// Grown by `dx` on the left and right and `dy` above and below, then clamped to a frame of this size in pixels.
    pub fn grown_within(&self, dx: f32, dy: f32, width: u32, height: u32) -> Self {
        let (width, height) = (width as f32, height as f32);
        Self {
            x1: (self.x1 - dx).clamp(0.0, width),
            y1: (self.y1 - dy).clamp(0.0, height),
            x2: (self.x2 + dx).clamp(0.0, width),
            y2: (self.y2 + dy).clamp(0.0, height),
        }
    }
}

impl From<&Detection> for BoundingBox {
    /// The box of the detection, unchecked.
    fn from(detection: &Detection) -> Self {
        let Detection { x1, y1, x2, y2, .. } = *detection;
        Self { x1, y1, x2, y2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounding_box(x1: f32, y1: f32, x2: f32, y2: f32) -> BoundingBox {
        BoundingBox { x1, y1, x2, y2 }
    }

    #[test]
    fn overlap_is_intersection_over_union() {
        let a = bounding_box(0.0, 0.0, 10.0, 10.0);
        assert_eq!(a.iou(&a), 1.0);
        assert_eq!(a.iou(&bounding_box(5.0, 0.0, 15.0, 10.0)), 50.0 / 150.0);
        assert_eq!(a.iou(&bounding_box(10.0, 0.0, 20.0, 10.0)), 0.0);
        assert_eq!(a.iou(&bounding_box(20.0, 20.0, 30.0, 30.0)), 0.0);
    }

    #[test]
    fn boxes_without_area_or_finite_numbers_are_none() {
        let good = Detection {
            x1: 1.0,
            y1: 2.0,
            x2: 3.0,
            y2: 4.0,
            score: 0.5,
            objectness: None,
            class: 0,
        };
        assert_eq!(BoundingBox::of(&good), Some(bounding_box(1.0, 2.0, 3.0, 4.0)));
        for bad in [
            Detection { x2: 1.0, ..good },
            Detection { y2: 0.0, ..good },
            Detection { x1: f32::NAN, ..good },
            Detection {
                y2: f32::INFINITY,
                ..good
            },
            Detection {
                score: f32::NAN,
                ..good
            },
        ] {
            assert_eq!(BoundingBox::of(&bad), None, "{bad:?}");
        }
    }
}
