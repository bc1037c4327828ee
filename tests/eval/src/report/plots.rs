// SPDX-License-Identifier: MPL-2.0

//! Plots as SVG: curves of bandwidth against accuracy, and the age of results.
//!
//! plotters draws axes and grid. The curves are written over them by hand, because each system is a group of its own that
//! a reader can hide, and each mark has its values as a title.

#![forbid(unsafe_code)]

use std::fmt::Write;

use dds_tests::Error;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::html::{escape, number, rate};
use super::shown::Shown;
use crate::curve::{Front, Point};

/// Size and use of a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Width of the whole picture, pixels.
    pub width: u32,
    /// Height of the whole picture, pixels.
    pub height: u32,
    /// Size of the text, pixels.
    pub text: u32,
    /// Width kept at the right for a legend, pixels; 0 for none.
    pub legend: u32,
    /// A file of its own rather than a part of the page.
    pub file: bool,
}

impl Layout {
    /// Across the page.
    pub const WIDE: Self = Self {
        width: 900,
        height: 480,
        text: 14,
        legend: 0,
        file: false,
    };
    /// Two of them across the page.
    pub const HALF: Self = Self {
        width: 540,
        height: 400,
        text: 13,
        legend: 0,
        file: false,
    };
    /// Across a telephone.
    pub const NARROW: Self = Self {
        width: 380,
        height: 360,
        text: 12,
        legend: 0,
        file: false,
    };
    /// For papers and slides.
    pub const FILE: Self = Self {
        width: 1240,
        height: 620,
        text: 16,
        legend: 240,
        file: true,
    };
}

/// A mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Dot {
    /// Bandwidth, over 0.
    pub x: f64,
    /// Accuracy, 0 to 1.
    pub y: f64,
    /// Drawn larger.
    pub shipped: bool,
    /// Shown by the reader's pointer.
    pub title: String,
}

/// What the horizontal axis is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Kbit/s.
    Rate,
    /// Shares, shown in per cent.
    Share,
}

/// Words of a plot of curves.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// What it shows, for readers who do not see it.
    pub title: &'a str,
    /// Under the horizontal axis.
    pub x: &'a str,
    /// Beside the vertical axis.
    pub y: &'a str,
    /// What the horizontal axis is in.
    pub unit: Unit,
}

/// An axis whose ticks and their words are given.
struct Axis {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    words: fn(f64) -> String,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        along(*value, (self.from, self.to), limit).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => Vec::new(),
            false => self.ticks.clone(),
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        (self.words)(*value)
    }
}

/// plotters takes the size of text for that of its whole line.
const POINTS: f64 = 1.24;

const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(226, 229, 234);

/// Draws curves of bandwidth (by its logarithm) against accuracy. Points that no axis has, without bandwidth or no number,
/// are left out.
///
/// # Errors
/// What plotters says.
pub fn curves(layout: Layout, words: Words, series: &[(&Shown, Vec<Dot>)]) -> Result<String, Error> {
    let is_drawn = |d: &&Dot| d.x.is_finite() && d.x > 0.0 && d.y.is_finite();
    let all: Vec<&Dot> = series.iter().flat_map(|(_, dots)| dots).filter(is_drawn).collect();
    if all.is_empty() {
        return Ok(empty(layout, words.title));
    }
    let least = |f: fn(&Dot) -> f64| all.iter().map(|d| f(d)).fold(f64::INFINITY, f64::min);
    let most = |f: fn(&Dot) -> f64| all.iter().map(|d| f(d)).fold(f64::NEG_INFINITY, f64::max);
    let x_range = (least(|d| d.x) / 1.12, most(|d| d.x) * 1.12);
    let y_step = if most(|d| d.y) - least(|d| d.y) > 0.45 {
        0.1
    } else {
        0.05
    };
    let mut y_range = (
        ((least(|d| d.y) - 0.01) / y_step).floor() * y_step,
        ((most(|d| d.y) + 0.002) / y_step).ceil() * y_step,
    );
    y_range.0 = y_range.0.max(0.0);
    y_range.1 = y_range.1.min(1.0).max(y_range.0 + y_step);
    // A little air, so that marks at 1 are whole.
    let top = y_range.1 + (y_range.1 - y_range.0) * 0.02;
    let x_ticks = ticks(x_range, if layout.width < 450 { 4 } else { 8 });
    let y_ticks: Vec<f64> = (0..=40)
        .map(|n| y_range.0 + f64::from(n) * y_step)
        .filter(|y| *y <= y_range.1 + 1e-9)
        .collect();
    let mut svg = String::new();
    let (px, py) = {
        let root = SVGBackend::with_string(&mut svg, (layout.width, layout.height)).into_drawing_area();
        if layout.file {
            root.fill(&WHITE)?;
        }
        let (area, _) = root.split_horizontally(layout.width - layout.legend);
        let mut chart = ChartBuilder::on(&area)
            .margin(layout.text / 2)
            .margin_right(layout.text)
            .set_label_area_size(LabelAreaPosition::Bottom, layout.text * 7 / 2)
            .set_label_area_size(LabelAreaPosition::Left, layout.text * 9 / 2)
            .build_cartesian_2d(
                Axis {
                    from: x_range.0.log10(),
                    to: x_range.1.log10(),
                    ticks: x_ticks.iter().map(|x| x.log10()).collect(),
                    words: match words.unit {
                        Unit::Rate => |x| format!("{}", (10f64.powf(x) * 1e6).round() / 1e6),
                        Unit::Share => |x| format!("{} %", (10f64.powf(x) * 1e8).round() / 1e6),
                    },
                },
                Axis {
                    from: y_range.0,
                    to: top,
                    ticks: y_ticks,
                    words: |y| format!("{y:.2}"),
                },
            )?;
        let font = ("sans-serif", f64::from(layout.text) * POINTS).into_font().color(&INK);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(font.clone())
            .axis_desc_style(font)
            .x_desc(words.x)
            .y_desc(words.y)
            .draw()?;
        let pixels = chart.plotting_area().get_pixel_range();
        root.present()?;
        pixels
    };
    let x_at = |x: f64| along(x.log10(), (x_range.0.log10(), x_range.1.log10()), (px.start, px.end));
    let y_at = |y: f64| along(y, (y_range.0, top), (py.end, py.start));
    open(&mut svg, layout, words.title);
    // Ours are drawn last, over all others.
    let (ours, others): (Vec<_>, Vec<_>) = series.iter().partition(|(system, _)| system.ours);
    for (system, dots) in others.into_iter().chain(ours) {
        let dots: Vec<&Dot> = dots.iter().filter(is_drawn).collect();
        let color = system.hex();
        let path: Vec<String> = swept(&dots)
            .into_iter()
            .map(|(x, y)| format!("{:.1},{:.1}", x_at(x), y_at(y)))
            .collect();
        writeln!(svg, "<g class=\"sys-{}\">", escape(&system.id))?;
        if path.len() > 1 {
            let width = if system.ours { 2.8 } else { 1.6 };
            writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\" stroke-linejoin=\"round\" points=\"{}\"/>",
                path.join(" ")
            )?;
        }
        let small = f64::from(layout.text) * if system.ours { 0.32 } else { 0.27 };
        for dot in dots {
            let radius = if dot.shipped { small * 1.9 } else { small };
            let title = match layout.width {
                ..450 => String::new(),
                _ => format!("<title>{}</title>", escape(&dot.title)),
            };
            svg.push_str(&mark(system, x_at(dot.x), y_at(dot.y), radius, dot.shipped, &title));
        }
        svg.push_str("</g>\n");
    }
    if layout.legend > 0 {
        legend(&mut svg, layout, series)?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// Age of a system's results.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar<'a> {
    /// The system.
    pub system: &'a Shown,
    /// Mean age, milliseconds.
    pub mean: f64,
    /// 95th percentile, milliseconds.
    pub p95: f64,
    /// Stands behind its name.
    pub note: String,
}

/// Draws the mean age of each system's results as a bar, with a line to the 95th percentile. The layout's height is of no
/// matter: each bar takes its own.
///
/// # Errors
/// What plotters says.
pub fn ages(layout: Layout, title: &str, bars: &[Bar]) -> Result<String, Error> {
    let sane = |v: f64| if v.is_finite() { v.max(0.0) } else { 0.0 };
    if bars.is_empty() {
        return Ok(empty(layout, title));
    }
    let row = f64::from(layout.text) * 2.9;
    let layout = Layout {
        height: (row * bars.len() as f64) as u32 + layout.text * 9 / 2,
        ..layout
    };
    let most = bars.iter().map(|b| sane(b.p95).max(sane(b.mean))).fold(1.0, f64::max);
    // Numbers stand behind the lines.
    let most = most * if layout.width < 450 { 1.4 } else { 1.15 };
    let step = step(most / if layout.width < 450 { 4.0 } else { 8.0 });
    let x_ticks: Vec<f64> = (0..40)
        .map(|n| f64::from(n) * step)
        .take_while(|x| *x <= most)
        .collect();
    let mut svg = String::new();
    let (px, py) = {
        let root = SVGBackend::with_string(&mut svg, (layout.width, layout.height)).into_drawing_area();
        if layout.file {
            root.fill(&WHITE)?;
        }
        let mut chart = ChartBuilder::on(&root)
            .margin(layout.text / 2)
            .margin_left(layout.text)
            .margin_right(layout.text)
            .set_label_area_size(LabelAreaPosition::Bottom, layout.text * 7 / 2)
            .build_cartesian_2d(
                Axis {
                    from: 0.0,
                    to: most,
                    ticks: x_ticks,
                    words: |x| format!("{x}"),
                },
                0.0..1.0,
            )?;
        let font = ("sans-serif", f64::from(layout.text) * POINTS).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(font.clone())
            .axis_desc_style(font)
            .x_desc("age of the newest result at the server, ms")
            .draw()?;
        let pixels = chart.plotting_area().get_pixel_range();
        root.present()?;
        pixels
    };
    let x_at = |x: f64| along(x, (0.0, most), (px.start, px.end));
    open(&mut svg, layout, title);
    let row = f64::from(py.end - py.start) / bars.len() as f64;
    let text = f64::from(layout.text);
    for (n, bar) in bars.iter().enumerate() {
        let top = f64::from(py.start) + row * n as f64;
        let (left, mean, p95) = (x_at(0.0), x_at(sane(bar.mean)), x_at(sane(bar.p95)));
        let (color, middle) = (bar.system.hex(), top + text * 2.05);
        let weight = if bar.system.ours { "700" } else { "400" };
        writeln!(
            svg,
            "<g class=\"sys-{id}\"><title>{}: mean {} ms, 95th percentile {} ms</title>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-family=\"sans-serif\" font-size=\"{:.1}\" font-weight=\"{weight}\" \
             fill=\"#282c34\">{}{}</text>\
             <rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{color}\"/>\
             <path d=\"M{mean:.1} {middle:.1}H{p95:.1}M{p95:.1} {:.1}v{:.1}\" stroke=\"{color}\" stroke-width=\"2\" \
             fill=\"none\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-family=\"sans-serif\" font-size=\"{:.1}\" fill=\"#282c34\">{}<tspan fill=\"#606770\"> ({})</tspan></text></g>",
            escape(&bar.system.name),
            number(bar.mean, 0),
            number(bar.p95, 0),
            left + 4.0,
            top + text * 1.25,
            text * 0.95,
            escape(&bar.system.name),
            escape(&bar.note),
            top + text * 1.55,
            (mean - left).max(1.0),
            text,
            top + text * 1.55,
            text,
            p95.max(mean) + 6.0,
            top + text * 2.4,
            text * 0.9,
            number(bar.mean, 0),
            number(bar.p95, 0),
            id = escape(&bar.system.id),
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// The sign of a system for a legend in the page.
pub fn chip(system: &Shown) -> String {
    let mark = mark(system, 9.0, 7.0, if system.ours { 5.0 } else { 4.2 }, false, "");
    let (color, width) = (system.hex(), if system.ours { 2.8 } else { 1.6 });
    format!(
        "<svg class=\"chip\" viewBox=\"0 0 18 14\" width=\"18\" height=\"14\" aria-hidden=\"true\">\
         <path d=\"M0 7H18\" stroke=\"{color}\" stroke-width=\"{width}\"/>{}</svg>",
        mark.trim_end()
    )
}

/// Where the line of a system runs: along its sweep, or where that goes to and fro, as a grid of several settings does, along
/// its front.
fn swept(dots: &[&Dot]) -> Vec<(f64, f64)> {
    let turns = dots.windows(3).filter(|d| (d[1].x - d[0].x) * (d[2].x - d[1].x) < 0.0);
    if turns.count() <= 2 {
        return dots.iter().map(|d| (d.x, d.y)).collect();
    }
    let front = Front::pareto(dots.iter().map(|d| Point::new(d.x, d.y)));
    front.points().iter().map(|p| (p.kbps, p.accuracy)).collect()
}

fn along(value: f64, (from, to): (f64, f64), (start, end): (i32, i32)) -> f64 {
    f64::from(start) + (value - from) / (to - from) * f64::from(end - start)
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|n| n * power)
        .into_iter()
        .find(|s| *s >= least)
        .unwrap_or(power)
}

/// Ticks of a logarithmic axis: powers of ten, with 2 and 5 between, or with all of 1 to 9 where few would be left.
fn ticks((from, to): (f64, f64), most: usize) -> Vec<f64> {
    let decades = (from.log10().floor() as i32)..=(to.log10().ceil() as i32);
    let of = |digits: &[f64]| -> Vec<f64> {
        let all = decades
            .clone()
            .flat_map(|d| digits.iter().map(move |n| n * 10f64.powi(d)));
        all.filter(|x| (from..=to).contains(x)).collect()
    };
    let tries = [
        of(&[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        of(&[1.0, 2.0, 3.0, 4.0, 6.0, 8.0]),
        of(&[1.0, 2.0, 3.0, 5.0]),
        of(&[1.0, 2.0, 5.0]),
        of(&[1.0, 3.0]),
    ];
    let fitting = tries.into_iter().find(|t| t.len() <= most);
    fitting.unwrap_or_else(|| of(&[1.0]))
}

/// Replaces plotters' root by one that scales and has a name, and takes its end away.
fn open(svg: &mut String, layout: Layout, title: &str) {
    if let Some(end) = svg.find('>') {
        svg.replace_range(..=end, &root(layout, title));
    }
    if let Some(end) = svg.rfind("</svg>") {
        svg.truncate(end);
    }
}

fn root(layout: Layout, title: &str) -> String {
    let (w, h) = (layout.width, layout.height);
    let (size, space) = match layout.file {
        true => (
            format!("width=\"{w}\" height=\"{h}\" "),
            " xmlns=\"http://www.w3.org/2000/svg\"",
        ),
        false => (String::new(), ""),
    };
    let title = escape(title);
    format!("<svg {size}viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{title}\"{space}>")
}

fn empty(layout: Layout, title: &str) -> String {
    format!(
        "{}<text x=\"50%\" y=\"50%\" text-anchor=\"middle\" font-family=\"sans-serif\" font-size=\"{}\" \
         fill=\"#606770\">no points in this run</text></svg>\n",
        root(Layout { height: 120, ..layout }, title),
        layout.text
    )
}

/// Marks differ by shape as well as by colour, for print and for readers who see few colours.
fn mark(system: &Shown, x: f64, y: f64, r: f64, ringed: bool, inner: &str) -> String {
    let color = system.hex();
    let ring = if ringed {
        "stroke=\"#16181d\" stroke-width=\"1.8\""
    } else {
        "stroke=\"#fff\" stroke-width=\"0.8\""
    };
    let polygon = |points: &[(f64, f64)]| {
        let list: Vec<String> = points
            .iter()
            .map(|(dx, dy)| format!("{:.1},{:.1}", x + dx * r, y + dy * r))
            .collect();
        format!(
            "<polygon points=\"{}\" fill=\"{color}\" {ring}>{inner}</polygon>\n",
            list.join(" ")
        )
    };
    match system.place % 4 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\" fill=\"{color}\" {ring}>{inner}</circle>\n"),
        1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => polygon(&[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)]),
        _ => polygon(&[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]),
    }
}

fn legend(svg: &mut String, layout: Layout, series: &[(&Shown, Vec<Dot>)]) -> Result<(), Error> {
    let text = f64::from(layout.text);
    let left = f64::from(layout.width - layout.legend) + text;
    let mut y = text * 2.0;
    for (system, dots) in series {
        if dots.is_empty() {
            continue;
        }
        let (color, width) = (system.hex(), if system.ours { 2.8 } else { 1.6 });
        writeln!(
            svg,
            "<path d=\"M{left:.1} {y:.1}h{:.1}\" stroke=\"{color}\" stroke-width=\"{width}\"/>{}\
             <text x=\"{:.1}\" y=\"{:.1}\" font-family=\"sans-serif\" font-size=\"{:.1}\" fill=\"#282c34\">{}</text>",
            text * 1.8,
            mark(system, left + text * 0.9, y, text * 0.34, false, "").trim_end(),
            left + text * 2.4,
            y + text * 0.35,
            text * 0.95,
            escape(&system.name)
        )?;
        y += text * 1.6;
    }
    let words = ["ringed: the shipped or", "published setting"];
    for (n, words) in words.into_iter().enumerate() {
        writeln!(
            svg,
            "<text x=\"{left:.1}\" y=\"{:.1}\" font-family=\"sans-serif\" font-size=\"{:.1}\" fill=\"#606770\">{words}</text>",
            y + text * (0.6 + 1.3 * n as f64),
            text * 0.85
        )?;
    }
    Ok(())
}

/// Words of a mark.
pub fn caption(system: &Shown, point: &str, kbps: f64, accuracy: f64) -> String {
    format!(
        "{}, {point}: {} kbit/s, {}",
        system.name,
        rate(kbps),
        number(accuracy, 3)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_axes_have_few_round_ticks() {
        assert_eq!(ticks((90.0, 5100.0), 7), [100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]);
        assert_eq!(ticks((85.0, 260.0), 8), [90.0, 100.0, 150.0, 200.0, 250.0]);
        assert_eq!(step(130.0), 200.0);
        assert_eq!(step(0.5), 0.5);
    }

    #[test]
    fn a_grid_is_joined_along_its_front() {
        let dot = |x, y| Dot {
            x,
            y,
            shipped: false,
            title: String::new(),
        };
        let grid = [
            (100.0, 0.5),
            (400.0, 0.6),
            (50.0, 0.3),
            (200.0, 0.7),
            (90.0, 0.2),
            (800.0, 0.9),
        ]
        .map(|(x, y)| dot(x, y));
        let line = swept(&grid.iter().collect::<Vec<_>>());
        assert_eq!(line, [(50.0, 0.3), (100.0, 0.5), (200.0, 0.7), (800.0, 0.9)]);
        let sweep = [(400.0, 0.9), (100.0, 0.95), (50.0, 0.3)].map(|(x, y)| dot(x, y));
        assert_eq!(swept(&sweep.iter().collect::<Vec<_>>()).len(), 3);
    }

    #[test]
    fn values_that_no_axis_has_are_left_out() {
        let system = Shown {
            id: "x".into(),
            name: "<x>".into(),
            color: [1, 2, 3],
            ours: true,
            rule: "",
            place: 0,
            clips: Vec::new(),
            pooled: false,
        };
        let dot = |x, y| Dot {
            x,
            y,
            shipped: true,
            title: "a & b".into(),
        };
        let words = Words {
            title: "\"t\"",
            x: "x",
            y: "y",
            unit: Unit::Rate,
        };
        let dots = vec![dot(0.0, 0.5), dot(f64::NAN, 0.5), dot(100.0, f64::NAN), dot(100.0, 0.5)];
        let svg = curves(Layout::FILE, words, &[(&system, dots)]).unwrap();
        assert_eq!(svg.matches("<title>").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.contains("&lt;x&gt;") && svg.contains("a &amp; b"));
        let none = curves(Layout::WIDE, words, &[(&system, vec![dot(0.0, 0.0)])]).unwrap();
        assert!(none.contains("no points"));
        assert!(ages(Layout::NARROW, "t", &[]).unwrap().contains("no points"));
    }
}
