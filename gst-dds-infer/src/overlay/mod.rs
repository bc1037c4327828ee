// SPDX-License-Identifier: MPL-2.0

//! Draws results on a picture: boxes with their names, requested regions, and damage.
//!
//! Lines lie around a box and names above it, so that its content stays visible. [`canvas`] knows the formats,
//! [`font`] the letters, [`hold`] how long results are shown.

#![forbid(unsafe_code)]

pub mod canvas;
pub mod font;
pub mod hold;

use canvas::{Area, Canvas, Color};
use font::Font;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its box.
    pub area: Area,
    /// Its name; may be empty.
    pub label: String,
    /// Its confidence in percent.
    pub percent: Option<u32>,
}

/// What to draw on one frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    /// Objects, the most important first: their names are placed first.
    pub objects: Vec<Mark>,
    /// Regions for which quality was requested.
    pub regions: Vec<Area>,
    /// The picture differs from what the camera coded.
    pub damaged: bool,
}

/// How to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Style {
    /// Boxes of objects.
    pub boxes: bool,
    /// Requested regions.
    pub regions: bool,
    /// Names beside the boxes.
    pub labels: bool,
    /// Confidence after the names.
    pub scores: bool,
    /// Colour of boxes, and of the marks beside their names.
    pub box_color: Color,
    /// Colour of regions.
    pub region_color: Color,
    /// Colour of names, on a dark background.
    pub label_color: Color,
    /// Width of the lines around boxes in pixels; 0: by the height of the picture.
    pub line_width: u32,
    /// Size of the letters, as a multiple of the default for the height of the picture.
    pub text_scale: f32,
}

impl Style {
    /// Whether anything of a scene would be drawn.
    pub fn shows(&self, scene: &Scene) -> bool {
        let objects = (self.boxes || self.labels) && !scene.objects.is_empty();
        objects || scene.damaged || (self.regions && !scene.regions.is_empty())
    }
}

/// Opacity of results of an earlier frame.
pub const HELD: f32 = 0.55;
/// Background of names.
const GROUND: Color = Color::from_argb(0xb40c_1014);
/// Opacity of the wash over a region.
const WASH: f32 = 0.14;
/// Frame of a damaged picture.
const DAMAGE: Color = Color::from_argb(0xffe0_2020);
const WHITE: Color = Color::from_argb(0xffff_ffff);
/// Dark edge between a box and the picture, so that it shows on its own colour.
const EDGE: Color = Color::from_argb(0x7800_0000);

/// Draws scenes.
#[derive(Debug, Default)]
pub struct Painter {
    font: Font,
}

impl Painter {
    /// Draws `scene` on `canvas` with `strength` (0 to 1, [`HELD`] for results of an earlier frame) of its opacity.
    pub fn draw(&mut self, canvas: &mut Canvas, scene: &Scene, style: &Style, strength: f32) {
        let height = canvas.layout.height as f32;
        let line = match style.line_width {
            0 => (height / 400.0).round().max(2.0) as i64,
            width => i64::from(width),
        };
        self.font
            .set_height(((height / 56.0).max(11.0) * style.text_scale).round().clamp(6.0, 400.0) as usize);
        if style.regions {
            for region in &scene.regions {
                draw_region(canvas, *region, line, style.region_color.faded(strength));
            }
        }
        if style.boxes {
            for object in &scene.objects {
                draw_box(canvas, object.area, line, style.box_color.faded(strength), strength);
            }
        }
        let mut taken = Vec::new();
        if scene.damaged {
            let color = DAMAGE.faded(strength);
            frame(canvas, canvas.area(), 2 * line, color);
            let corner = Area::new(2 * line, 2 * line, 0, 0);
            self.tag(
                canvas,
                corner,
                "damaged",
                [color, WHITE.faded(strength), color],
                &mut taken,
            );
        }
        if style.labels {
            let colors = [GROUND, style.label_color, style.box_color].map(|color| color.faded(strength));
            for object in &scene.objects {
                let text = match object.percent.filter(|_| style.scores) {
                    Some(percent) => format!("{} {percent}%", object.label),
                    None => object.label.clone(),
                };
                let outer = object.area.grown(if style.boxes { line } else { 0 });
                if !object.area.common(&canvas.area()).is_empty() {
                    self.tag(canvas, outer, text.trim(), colors, &mut taken);
                }
            }
        }
    }

    /// Draws a line of text beside a box: above it, else below, else at its side or in it, where no other text is.
    /// Without room it is left out, since two overlapping texts are both unreadable. Colours: of its background, of
    /// its letters, of its mark at the left.
    fn tag(
        &mut self,
        canvas: &mut Canvas,
        around: Area,
        text: &str,
        [ground, ink, accent]: [Color; 3],
        taken: &mut Vec<Area>,
    ) {
        if text.is_empty() {
            return;
        }
        let mask = self.font.line(text);
        let margin = (mask.height as i64 / 6).max(1);
        let bar = margin.max(2);
        // The lowest row of the font is for the descenders of few letters.
        let (width, height) = (mask.width as i64 + bar + 4 * margin, mask.height as i64 + 2 * margin);
        let picture = canvas.area();
        let fitted = |x: i64, y: i64| {
            // Left and top win if it is larger than the picture.
            Area::new(
                x.min(picture.right - width).max(0),
                y.min(picture.bottom - height).max(0),
                width,
                height,
            )
        };
        let places = [
            fitted(around.left, around.top - height),
            fitted(around.right - width, around.top - height),
            fitted(around.left, around.bottom),
            fitted(around.right - width, around.bottom),
            fitted(around.right, around.top),
            fitted(around.left - width, around.top),
            fitted(around.left, around.top),
        ];
        let free = |place: &&Area| taken.iter().all(|other| place.common(other).is_empty());
        let outside = |place: &&Area| place.common(&around).is_empty();
        let outside = places.iter().filter(outside).find(free);
        let Some(place) = outside.or_else(|| places.iter().find(free)) else {
            return;
        };
        taken.push(*place);
        let split = place.left + bar;
        canvas.fill(Area { right: split, ..*place }, accent);
        canvas.fill(Area { left: split, ..*place }, ground);
        canvas.stamp(split + 2 * margin, place.top + margin, &mask, ink);
    }
}

/// The outline of a box: around it, or within the picture where the box reaches its edges, with a thin dark edge on both
/// sides.
fn draw_box(canvas: &mut Canvas, area: Area, line: i64, color: Color, strength: f32) {
    let inside = area.common(&canvas.area());
    if inside.is_empty() {
        return;
    }
    let edge = EDGE.faded(strength * f32::from(color.alpha.min(1)));
    let outer = inside.grown(line).common(&canvas.area());
    frame(canvas, outer.grown(1), 1, edge);
    let inner = frame(canvas, outer, line, color);
    frame(canvas, inner, 1, edge);
}

/// Draws a requested region: a light wash and corners, within it.
fn draw_region(canvas: &mut Canvas, area: Area, line: i64, color: Color) {
    let inside = area.common(&canvas.area());
    if inside.is_empty() {
        return;
    }
    canvas.fill(inside, color.faded(WASH));
    let (width, height) = (inside.right - inside.left, inside.bottom - inside.top);
    let arm = (width.min(height) / 3).clamp(1, 8 * line);
    let lines = [
        Area::new(0, 0, arm, line),
        Area::new(0, line, line, arm - line),
        Area::new(width - arm, 0, arm, line),
        Area::new(width - line, line, line, arm - line),
        Area::new(0, height - line, arm, line),
        Area::new(0, height - arm, line, arm - line),
        Area::new(width - arm, height - line, arm, line),
        Area::new(width - line, height - arm, line, arm - line),
    ];
    for part in lines {
        let placed = Area {
            left: inside.left + part.left,
            top: inside.top + part.top,
            right: inside.left + part.right,
            bottom: inside.top + part.bottom,
        };
        canvas.fill(placed.common(&inside), color);
    }
}

/// Fills the `line` outermost pixels of a rectangle; returns the rest inside.
fn frame(canvas: &mut Canvas, outer: Area, line: i64, color: Color) -> Area {
    let inner = outer.grown(-line);
    if inner.is_empty() {
        canvas.fill(outer, color);
        return inner;
    }
    let sides = [
        Area {
            bottom: inner.top,
            ..outer
        },
        Area {
            top: inner.bottom,
            ..outer
        },
        Area {
            right: inner.left,
            top: inner.top,
            bottom: inner.bottom,
            ..outer
        },
        Area {
            left: inner.right,
            top: inner.top,
            bottom: inner.bottom,
            ..outer
        },
    ];
    sides.iter().for_each(|side| canvas.fill(*side, color));
    inner
}

#[cfg(test)]
mod tests {
    use super::canvas::{Component, Layout, Meaning, Plane};
    use super::*;
    use proptest::prelude::*;

    fn style() -> Style {
        Style {
            boxes: true,
            regions: true,
            labels: true,
            scores: true,
            box_color: Color::from_argb(0xffff_ffff),
            region_color: Color::from_argb(0xffff_ffff),
            label_color: Color::from_argb(0xffff_ffff),
            line_width: 2,
            text_scale: 1.0,
        }
    }

    fn mark(x: i64, y: i64, width: i64, height: i64, label: &str) -> Mark {
        Mark {
            area: Area::new(x, y, width, height),
            label: label.into(),
            percent: Some(93),
        }
    }

    /// Gray pixels, 100 everywhere before.
    fn painted(width: usize, height: usize, scene: &Scene, style: &Style, strength: f32) -> Vec<u8> {
        let layout = Layout {
            width,
            height,
            components: vec![Component {
                plane: 0,
                offset: 0,
                step: 1,
                w_sub: 0,
                h_sub: 0,
                depth: 8,
                shift: 0,
                meaning: Meaning::Mix {
                    weights: [85.0; 3],
                    offset: 0.0,
                },
            }],
        };
        let mut data = vec![100; width * height];
        let plane = Plane {
            data: &mut data,
            stride: width,
        };
        let mut canvas = Canvas {
            layout: &layout,
            planes: vec![plane],
        };
        Painter::default().draw(&mut canvas, scene, style, strength);
        data
    }

    fn of(objects: Vec<Mark>) -> Scene {
        Scene {
            objects,
            ..Scene::default()
        }
    }

    #[test]
    fn a_box_is_drawn_around_what_it_holds() {
        let scene = of(vec![mark(40, 40, 20, 10, "")]);
        let plain = Style {
            labels: false,
            ..style()
        };
        let pixels = painted(100, 100, &scene, &plain, 1.0);
        let at = |x: usize, y: usize| pixels[y * 100 + x];
        // A line of two pixels, dark edges of one, nothing else.
        assert_eq!(
            [at(36, 45), at(37, 45), at(38, 45), at(39, 45), at(41, 45)],
            [100, 53, 255, 255, 100]
        );
        assert_eq!([at(50, 37), at(50, 38), at(50, 39), at(50, 45)], [53, 255, 255, 100]);
        assert_eq!([at(60, 45), at(61, 45), at(62, 45), at(63, 45)], [255, 255, 53, 100]);
        assert!(pixels[..36 * 100].iter().all(|p| *p == 100));
    }

    #[test]
    fn a_box_that_fills_the_picture_is_drawn_within_it() {
        let scene = of(vec![mark(-50, -50, 500, 500, "")]);
        let pixels = painted(30, 30, &scene, &style(), 1.0);
        assert_eq!(
            [pixels[0], pixels[31], pixels[15 * 30 + 15], pixels[899]],
            [255, 255, 100, 255]
        );
    }

    #[test]
    fn boxes_without_pixels_and_outside_leave_no_trace() {
        let nowhere = [
            mark(10, 10, 0, 5, "zero"),
            mark(10, 10, 5, 0, "zero"),
            mark(200, 10, 5, 5, "right"),
            mark(-50, 10, 40, 5, "left"),
            mark(10, 4_000_000_000, 40, 4_000_000_000, "below"),
        ];
        let scene = Scene {
            regions: nowhere.iter().map(|m| m.area).collect(),
            ..of(nowhere.to_vec())
        };
        assert!(painted(100, 60, &scene, &style(), 1.0).iter().all(|p| *p == 100));
    }

    #[test]
    fn names_lie_above_the_box_or_else_below_and_never_on_each_other() {
        let changed = |y: i64| {
            let pixels = painted(200, 100, &of(vec![mark(50, y, 40, 30, "person")]), &style(), 1.0);
            let rows = |from: usize, to: usize| pixels[from * 200..to * 200].iter().filter(|p| **p != 100).count();
            (rows(0, y as usize - 3), rows(y as usize + 34, 100))
        };
        let (above, below) = changed(40);
        assert!(above > 200 && below == 0, "{above} {below}");
        let (above, below) = changed(4);
        assert!(above == 0 && below > 200, "{above} {below}");
        let twice = of(vec![mark(50, 40, 40, 30, "person"), mark(50, 40, 40, 30, "rider")]);
        let pixels = painted(200, 100, &twice, &style(), 1.0);
        assert_ne!(pixels[36 * 200 + 60], 100);
        assert_ne!(pixels[74 * 200 + 60], 100);
    }

    #[test]
    fn what_is_switched_off_is_not_drawn() {
        let scene = Scene {
            objects: vec![mark(20, 20, 30, 30, "person")],
            regions: vec![Area::new(60, 20, 30, 30)],
            damaged: false,
        };
        let nothing = Style {
            boxes: false,
            regions: false,
            labels: false,
            ..style()
        };
        assert!(painted(100, 100, &scene, &nothing, 1.0).iter().all(|p| *p == 100));
        let regions = Style {
            regions: true,
            ..nothing
        };
        let pixels = painted(100, 100, &scene, &regions, 1.0);
        assert!(pixels[35 * 100 + 35] == 100 && pixels[35 * 100 + 75] > 100);
    }

    #[test]
    fn what_is_held_is_dimmer() {
        let scene = of(vec![mark(40, 40, 20, 10, "")]);
        let (fresh, held) = (
            painted(100, 100, &scene, &style(), 1.0),
            painted(100, 100, &scene, &style(), HELD),
        );
        assert!(
            fresh[45 * 100 + 39] == 255 && (170..200).contains(&held[45 * 100 + 39]),
            "{}",
            held[45 * 100 + 39]
        );
    }

    #[test]
    fn a_damaged_picture_has_a_frame_and_says_so() {
        let scene = Scene {
            damaged: true,
            ..Scene::default()
        };
        let pixels = painted(200, 100, &scene, &style(), 1.0);
        assert!(pixels[0] != 100 && pixels[100 * 200 - 1] != 100 && pixels[50 * 200 + 100] == 100);
        assert!(
            (5..20)
                .flat_map(|y| (5..60).map(move |x| (x, y)))
                .any(|(x, y)| pixels[y * 200 + x] > 240)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn no_scene_panics(
            size in (0usize..90, 0usize..90), x in any::<i64>(), y in -99i64..99, width in -9i64..400, height in any::<u32>(),
            line_width in 0u32..200, text_scale in -1f32..9.0, label in ".{0,9}", damaged in any::<bool>(),
        ) {
            let far = Mark { area: Area::new(x, y, width, height.into()), label: label.clone(), percent: Some(height) };
            let near = mark(x % 100, y, width, 20, &label);
            let regions = vec![far.area, near.area];
            let scene = Scene { objects: vec![near, far], regions, damaged };
            painted(size.0, size.1, &scene, &Style { line_width, text_scale, ..style() }, 1.0);
        }
    }
}
