// SPDX-License-Identifier: MPL-2.0

//! Curves of bandwidth against accuracy: fronts, the bandwidth that an accuracy costs, and average savings.
//!
//! Bandwidth is taken by its logarithm throughout, because rates are compared by their ratio: half of 4000 kbit/s is as
//! good a saving as half of 400. Between two points of a front bandwidth is read from the straight line in that plane;
//! beyond its ends nothing is read.
//!
//! [`saving`] is the average of Bjøntegaard (VCEG-M33) with one difference: he lays a cubic through four points of a
//! smooth curve of PSNR, which detectors do not have. F1 jumps where a threshold is crossed and falls where a finer
//! picture shows one box more, and a cubic through such points swings beyond them, even turning back in bandwidth. So
//! the points are first reduced to their front, which only rises, and the front is joined by straight lines, whose
//! integral is exact.

#![forbid(unsafe_code)]

/// One point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Bandwidth, kbit/s or any other unit of rate, over 0.
    pub kbps: f64,
    /// Accuracy, larger is better.
    pub accuracy: f64,
}

impl Point {
    /// A point.
    pub fn new(kbps: f64, accuracy: f64) -> Self {
        Self { kbps, accuracy }
    }

    fn is_drawn(&self) -> bool {
        self.kbps.is_finite() && self.kbps > 0.0 && self.accuracy.is_finite()
    }
}

/// What an accuracy costs on a front.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cost {
    /// So many kbit/s.
    At(f64),
    /// Even the cheapest point, with so many kbit/s, is better than that.
    Under(f64),
    /// No point is as good.
    Never,
}

impl Cost {
    /// Kbit/s, where they are known.
    pub fn known(self) -> Option<f64> {
        match self {
            Self::At(kbps) => Some(kbps),
            _ => None,
        }
    }
}

/// Points of which each costs more than the one before it and is more accurate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Front {
    points: Vec<Point>,
}

impl Front {
    /// The points that no other one beats: every cheaper point is less accurate. Points without bandwidth, or with one
    /// that is no number, are left out.
    pub fn pareto(points: impl IntoIterator<Item = Point>) -> Self {
        let mut all: Vec<Point> = points.into_iter().filter(Point::is_drawn).collect();
        // Of equal bandwidth, the best first.
        all.sort_by(|a, b| a.kbps.total_cmp(&b.kbps).then(b.accuracy.total_cmp(&a.accuracy)));
        let mut front: Vec<Point> = Vec::new();
        for point in all {
            if front.last().is_none_or(|last| point.accuracy > last.accuracy) {
                front.push(point);
            }
        }
        Self { points: front }
    }

    /// The upper convex hull of the points, bandwidth by its logarithm: of the front, the points that lie under no line
    /// between two others. Of several systems' points it is what could be had by choosing the best of them each time.
    pub fn hull(points: impl IntoIterator<Item = Point>) -> Self {
        let mut hull: Vec<Point> = Vec::new();
        for point in Self::pareto(points).points {
            while let [.., a, b] = hull[..] {
                let rise = |from: Point, to: Point| (to.accuracy - from.accuracy) / (to.kbps.ln() - from.kbps.ln());
                if rise(a, b) > rise(b, point) {
                    break;
                }
                hull.pop();
            }
            hull.push(point);
        }
        Self { points: hull }
    }

    /// Its points, from the cheapest on.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The accuracies from its first point to its last.
    pub fn range(&self) -> Option<(f64, f64)> {
        Some((self.points.first()?.accuracy, self.points.last()?.accuracy))
    }

    /// What `accuracy` costs.
    pub fn cost(&self, accuracy: f64) -> Cost {
        let Some((first, last)) = self.points.first().zip(self.points.last()) else {
            return Cost::Never;
        };
        if accuracy.is_nan() || accuracy > last.accuracy {
            return Cost::Never;
        }
        if accuracy < first.accuracy {
            return Cost::Under(first.kbps);
        }
        Cost::At(self.log_at(accuracy).exp())
    }

    /// The accuracy that `kbps` buys; `None` beyond the front's ends.
    pub fn accuracy_at(&self, kbps: f64) -> Option<f64> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        if !(first.kbps..=last.kbps).contains(&kbps) {
            return None;
        }
        let above = self.points.iter().position(|p| p.kbps >= kbps)?;
        let b = self.points[above];
        if above == 0 || b.kbps == kbps {
            return Some(b.accuracy);
        }
        let a = self.points[above - 1];
        let part = (kbps.ln() - a.kbps.ln()) / (b.kbps.ln() - a.kbps.ln());
        Some(a.accuracy + part * (b.accuracy - a.accuracy))
    }

    /// Logarithm of the bandwidth at an accuracy, held at the ends.
    fn log_at(&self, accuracy: f64) -> f64 {
        let above = self.points.iter().position(|p| p.accuracy >= accuracy);
        let Some(above) = above else {
            return self.points.last().map_or(f64::NAN, |p| p.kbps.ln());
        };
        let b = self.points[above];
        if above == 0 || b.accuracy == accuracy {
            return b.kbps.ln();
        }
        let a = self.points[above - 1];
        let part = (accuracy - a.accuracy) / (b.accuracy - a.accuracy);
        a.kbps.ln() + part * (b.kbps.ln() - a.kbps.ln())
    }
}

/// The average over the accuracies that two fronts share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saving {
    /// Bandwidth in per cent of the other's, less 100: -50 is half of it, +100 twice as much.
    pub percent: f64,
    /// Share of the other's range of accuracy over which this is the average, 0 to 1.
    pub overlap: f64,
}

impl Saving {
    /// Below this overlap an average says little about the whole curve.
    pub const SLIVER: f64 = 0.25;

    /// Taken over a sliver of the curve.
    pub fn is_sliver(&self) -> bool {
        self.overlap < Self::SLIVER
    }
}

/// How much bandwidth `front` takes beside `other`, on average over the accuracies that both have: the mean over accuracy
/// of the difference of the logarithms of bandwidth. `None` where they share no more than one accuracy.
pub fn saving(front: &Front, other: &Front) -> Option<Saving> {
    let ((low, high), (least, most)) = (front.range()?, other.range()?);
    let (from, to) = (low.max(least), high.min(most));
    if to <= from {
        return None;
    }
    let mut knots: Vec<f64> = front.points.iter().chain(&other.points).map(|p| p.accuracy).collect();
    knots.retain(|accuracy| (from..=to).contains(accuracy));
    knots.sort_by(f64::total_cmp);
    let difference = |accuracy: f64| front.log_at(accuracy) - other.log_at(accuracy);
    let area: f64 = knots
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) * (difference(pair[0]) + difference(pair[1])) / 2.0)
        .sum();
    Some(Saving {
        percent: 100.0 * ((area / (to - from)).exp() - 1.0),
        overlap: (to - from) / (most - least),
    })
}

/// Median, the mean of the two middle ones where their number is even; `None` of none. What is no number is left out.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(list: &[(f64, f64)]) -> Vec<Point> {
        list.iter()
            .map(|&(kbps, accuracy)| Point::new(kbps, accuracy))
            .collect()
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn a_front_keeps_what_no_other_point_beats() {
        let all = points(&[
            (400.0, 0.8),
            (100.0, 0.5),
            (200.0, 0.45),
            (300.0, 0.8),
            (300.0, 0.7),
            (900.0, 0.8),
        ]);
        assert_eq!(Front::pareto(all).points(), points(&[(100.0, 0.5), (300.0, 0.8)]));
        let odd = points(&[
            (0.0, 0.9),
            (-1.0, 0.9),
            (f64::NAN, 0.9),
            (f64::INFINITY, 1.0),
            (10.0, f64::NAN),
        ]);
        assert_eq!(Front::pareto(odd), Front::default());
    }

    #[test]
    fn a_hull_leaves_out_points_under_a_line_between_two_others() {
        // In octaves: 0, 1, 2, 3. The line from the first to the last passes 0.6 and 0.8.
        let all = [(100.0, 0.4), (200.0, 0.55), (400.0, 0.9), (800.0, 1.0)];
        assert_eq!(
            Front::hull(points(&all)).points(),
            points(&[(100.0, 0.4), (400.0, 0.9), (800.0, 1.0)])
        );
        // Two systems' points: the better one of each bandwidth.
        let both = points(&[(100.0, 0.5), (400.0, 0.7), (100.0, 0.4), (400.0, 0.9)]);
        assert_eq!(Front::hull(both).points(), points(&[(100.0, 0.5), (400.0, 0.9)]));
    }

    #[test]
    fn costs_are_read_between_points_and_not_beyond_them() {
        let front = Front::pareto(points(&[(100.0, 0.5), (400.0, 0.7), (800.0, 0.8)]));
        assert!(near(front.cost(0.6).known().unwrap(), 200.0));
        assert!(near(front.cost(0.75).known().unwrap(), 400.0 * 2f64.sqrt()));
        assert!(near(front.cost(0.5).known().unwrap(), 100.0));
        assert!(near(front.cost(0.8).known().unwrap(), 800.0));
        assert_eq!(front.cost(0.49), Cost::Under(100.0));
        assert_eq!((front.cost(0.81), front.cost(f64::NAN)), (Cost::Never, Cost::Never));
        assert_eq!(Front::default().cost(0.5), Cost::Never);
        let single = Front::pareto(points(&[(100.0, 0.5)]));
        assert!(near(single.cost(0.5).known().unwrap(), 100.0));
    }

    #[test]
    fn accuracy_is_read_the_same_way() {
        let front = Front::pareto(points(&[(100.0, 0.5), (400.0, 0.7)]));
        assert!(near(front.accuracy_at(200.0).unwrap(), 0.6));
        assert_eq!(
            (front.accuracy_at(100.0), front.accuracy_at(400.0)),
            (Some(0.5), Some(0.7))
        );
        assert_eq!((front.accuracy_at(99.0), front.accuracy_at(f64::NAN)), (None, None));
    }

    #[test]
    fn half_the_bandwidth_everywhere_is_a_saving_of_half() {
        let other = Front::hull(points(&[(100.0, 0.4), (200.0, 0.6), (800.0, 0.8)]));
        let half = Front::hull(points(&[(50.0, 0.4), (100.0, 0.6), (400.0, 0.8)]));
        let saving_of = |a, b| saving(a, b).unwrap();
        assert!(near(saving_of(&half, &other).percent, -50.0));
        assert!(near(saving_of(&other, &half).percent, 100.0));
        assert!(near(saving_of(&other, &half).overlap, 1.0));
        assert!(near(saving_of(&other, &other).percent, 0.0));
    }

    #[test]
    fn the_average_is_over_what_both_fronts_reach() {
        // From 0.6 to 0.8 alone. At 0.6: 100 beside 200, one octave less; at 0.8: 400 beside 400. Half an octave on average.
        let front = Front::pareto(points(&[(100.0, 0.6), (400.0, 0.8)]));
        let other = Front::pareto(points(&[(100.0, 0.4), (200.0, 0.6), (400.0, 0.8), (800.0, 0.9)]));
        let saving = saving(&front, &other).unwrap();
        assert!(near(saving.percent, 100.0 * (0.5f64.sqrt() - 1.0)), "{saving:?}");
        assert!(near(saving.overlap, 0.4));
        assert!(!saving.is_sliver());
    }

    #[test]
    fn a_knot_inside_the_common_range_counts_with_its_own_length() {
        // Differences at 0.4, 0.6 and 0.8: 0, 1 and 0 octaves. Two triangles, half an octave on average.
        let bent = Front::pareto(points(&[(100.0, 0.4), (400.0, 0.6), (400.0 + 1e-9, 0.8)]));
        let straight = Front::pareto(points(&[(100.0, 0.4), (400.0, 0.8)]));
        let more = saving(&bent, &straight).unwrap();
        assert!((more.percent - 100.0 * (2f64.sqrt() - 1.0)).abs() < 1e-6, "{more:?}");
    }

    #[test]
    fn fronts_that_share_no_range_have_no_saving() {
        let low = Front::pareto(points(&[(100.0, 0.1), (200.0, 0.2)]));
        let high = Front::pareto(points(&[(100.0, 0.2), (200.0, 0.3)]));
        assert_eq!(saving(&low, &high), None);
        let single = Front::pareto(points(&[(100.0, 0.15)]));
        assert_eq!(saving(&single, &low), None);
        assert_eq!(saving(&low, &Front::default()), None);
        let sliver = Front::pareto(points(&[(100.0, 0.19), (200.0, 0.9)]));
        assert!(saving(&sliver, &low).unwrap().is_sliver());
    }

    #[test]
    fn medians_of_even_numbers_lie_between() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, f64::NAN, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
