// SPDX-License-Identifier: MPL-2.0

//! Line charts over time, one above the other, on one picture.

use crate::draw::{Color, Picture, WHITE};

const PAPER: Color = [24, 27, 33];
const PANEL: Color = [31, 35, 43];
const GRID: Color = [58, 64, 76];
const FAINT: Color = [165, 172, 184];
const LEFT: usize = 84;
const RIGHT: usize = 24;
const LINE: usize = 24;
const GAP: usize = 14;

/// Style of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// Points joined by lines.
    Line,
    /// Each value holds until the next.
    Steps,
    /// As steps, in dashes.
    Dashes,
    /// Single points.
    Dots,
}

/// Values at equal intervals of time.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Its colour.
    pub color: Color,
    /// Its style.
    pub stroke: Stroke,
    /// One value per frame; NaN where there is none.
    pub values: Vec<f64>,
}

/// Curves with one vertical axis.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Title above the chart.
    pub title: String,
    /// Unit of the vertical axis.
    pub unit: String,
    /// Height of the plotted area in pixels.
    pub height: usize,
    /// Range of the vertical axis; the first value is at the bottom, so a range may be upside down.
    pub range: (f64, f64),
    /// Distance of grid lines.
    pub grid: f64,
    /// The curves, later ones over earlier ones.
    pub curves: Vec<Curve>,
}

/// Draws charts with a common time axis. `rate` is in values per second. The title is above all of them.
pub fn draw(width: usize, title: &str, charts: &[Chart], rate: f64) -> Picture {
    let heights = charts.iter().map(|chart| LINE + chart.height + GAP).sum::<usize>();
    let mut out = Picture::new(width & !1, (3 * LINE + heights + LINE) & !1, PAPER);
    out.text(LEFT, LINE / 2, title, WHITE, 2);
    let count = charts
        .iter()
        .flat_map(|chart| chart.curves.iter().map(|curve| curve.values.len()))
        .max()
        .unwrap_or(0);
    let plotted = width.saturating_sub(LEFT + RIGHT).max(1);
    let x_at = |value: f64| LEFT as f64 + value / count.max(1) as f64 * plotted as f64;
    let seconds = (count as f64 / rate).floor() as usize;
    let every = [1, 2, 5, 10, 20, 60, 300]
        .into_iter()
        .find(|every| seconds / every <= 20)
        .unwrap_or(600);
    let mut top = 2 * LINE;
    for (n, chart) in charts.iter().enumerate() {
        legend(&mut out, top, chart);
        top += LINE;
        out.wash(LEFT, top, plotted, chart.height, PANEL, 1.0);
        for second in (0..=seconds).step_by(every) {
            let x = x_at(second as f64 * rate) as usize;
            out.wash(x, top, 1, chart.height, GRID, 0.7);
            if n + 1 == charts.len() {
                let text = second.to_string();
                let half = Picture::text_width(&text, 1) / 2;
                out.text(x.saturating_sub(half), top + chart.height + 6, &text, FAINT, 1);
            }
        }
        let (first, last) = chart.range;
        let y_at = |value: f64| top as f64 + (last - value) / (last - first) * chart.height as f64;
        let (least, most) = (first.min(last), first.max(last));
        let mut value = (least / chart.grid).ceil() * chart.grid;
        while value <= most {
            let y = y_at(value) as usize;
            out.wash(LEFT, y, plotted, 1, GRID, 0.7);
            let text = format!("{value:.0}");
            let x = LEFT.saturating_sub(Picture::text_width(&text, 1) + 6);
            out.text(x, y.saturating_sub(4), &text, FAINT, 1);
            value += chart.grid;
        }
        let left = LEFT.saturating_sub(Picture::text_width(&chart.unit, 1) + 6);
        out.text(left, top - 14, &chart.unit, FAINT, 1);
        for curve in &chart.curves {
            let place = |n: usize, value: f64| (x_at(n as f64), y_at(value.clamp(least, most)));
            curve_on(&mut out, curve, place);
        }
        top += chart.height + GAP;
    }
    let middle = LEFT + (plotted / 2).saturating_sub(Picture::text_width("seconds", 1) / 2);
    out.text(middle, top + 10, "seconds", FAINT, 1);
    out
}

fn legend(out: &mut Picture, top: usize, chart: &Chart) {
    let y = top + LINE - 14;
    out.text(LEFT, y, &chart.title, WHITE, 1);
    let width = |curve: &Curve| Picture::text_width(&curve.name, 1) + 44;
    let all: usize = chart.curves.iter().map(width).sum();
    let mut x = out.width.saturating_sub(RIGHT + all);
    for curve in &chart.curves {
        match curve.stroke {
            Stroke::Dots => line(
                out,
                (x as f64 + 17.0, y as f64 + 4.0),
                (x as f64 + 17.0, y as f64 + 4.0),
                7.0,
                curve.color,
            ),
            Stroke::Dashes => (0..2).for_each(|n| out.wash(x + 14 * n, y + 3, 9, 2, curve.color, 1.0)),
            _ => out.wash(x, y + 2, 24, 3, curve.color, 1.0),
        }
        out.text(x + 30, y, &curve.name, FAINT, 1);
        x += width(curve);
    }
}

fn curve_on(out: &mut Picture, curve: &Curve, place: impl Fn(usize, f64) -> (f64, f64)) {
    let values = curve.values.iter().enumerate().filter(|(_, value)| value.is_finite());
    let mut before: Option<(usize, f64)> = None;
    for (n, &value) in values {
        let (x, y) = place(n, value);
        let (end, _) = place(n + 1, value);
        // A gap in the values is a gap in the line.
        let from = before
            .filter(|(last, _)| last + 1 == n)
            .map(|(last, value)| place(last, value));
        match curve.stroke {
            Stroke::Dots => line(out, (x, y), (x, y), 7.0, curve.color),
            Stroke::Line => line(out, from.unwrap_or((x, y)), (x, y), 1.8, curve.color),
            Stroke::Steps => {
                if let Some((_, above)) = from {
                    line(out, (x, above), (x, y), 1.8, curve.color);
                }
                line(out, (x, y), (end, y), 1.8, curve.color);
            }
            Stroke::Dashes => {
                if ((x / 6.0) as usize).is_multiple_of(2) {
                    line(out, (x, y), (end, y), 1.4, curve.color);
                }
            }
        }
        before = Some((n, value));
    }
}

/// A thick line with soft edges.
fn line(out: &mut Picture, from: (f64, f64), to: (f64, f64), thickness: f64, color: Color) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx.hypot(dy).max(1e-9);
    let reach = thickness / 2.0 + 1.0;
    let bounds = |a: f64, b: f64, most: usize| {
        let (least, largest) = (a.min(b) - reach, a.max(b) + reach);
        (least.max(0.0) as usize)..(largest.max(0.0).ceil() as usize).min(most)
    };
    for y in bounds(from.1, to.1, out.height) {
        for x in bounds(from.0, to.0, out.width) {
            let (px, py) = (x as f64 + 0.5 - from.0, y as f64 + 0.5 - from.1);
            let along = ((px * dx + py * dy) / length).clamp(0.0, length);
            let distance = (px - along * dx / length).hypot(py - along * dy / length);
            let cover = (reach - 0.5 - distance).clamp(0.0, 1.0);
            if cover > 0.0 {
                out.wash(x, y, 1, 1, color, cover as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_of_any_values_stay_on_their_picture() {
        let values = vec![0.0, f64::NAN, 1e12, -1e12, f64::INFINITY, 3.0];
        let chart = |stroke| Chart {
            title: "a chart".into(),
            unit: "kbit/s".into(),
            height: 50,
            range: (0.0, 10.0),
            grid: 5.0,
            curves: vec![Curve {
                name: "a curve".into(),
                color: WHITE,
                stroke,
                values: values.clone(),
            }],
        };
        let charts = [Stroke::Line, Stroke::Steps, Stroke::Dashes, Stroke::Dots].map(chart);
        let picture = draw(300, "title", &charts, 30.0);
        assert_eq!(picture.rgb.len(), 3 * picture.width * picture.height);
        assert!(picture.rgb.chunks(3).any(|pixel| pixel == WHITE));
        draw(10, "", &[], 30.0);
    }
}
