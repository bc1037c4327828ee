// SPDX-License-Identifier: MPL-2.0

//! The demo's output: a frame with its boxes and requested regions, its quantizers as colours and, close up, as
//! numbers.

use crate::draw::{Color, GREEN, ORANGE, Picture, WHITE, heat};
use crate::qp::QpPicture;
use crate::score::ScoredBox;

/// Side of a macroblock, pixels.
const MB: usize = 16;
/// Widest panel; larger frames are shown smaller.
const PANEL: usize = 768;
/// Side of a macroblock in the close-up.
const CLOSE: usize = 48;
/// Macroblocks across the close-up.
const CLOSE_COLUMNS: usize = 10;
const GAP: usize = 16;
const LINE: usize = 24;
const PAPER: Color = [24, 27, 33];
const FAINT: Color = [165, 172, 184];

/// One frame with all its data.
pub struct View<'a> {
    /// Number of the captured frame.
    pub frame: u64,
    /// The server's decoded picture.
    pub picture: &'a Picture,
    /// The server's detections, of any score.
    pub objects: &'a [ScoredBox],
    /// Least score that is drawn.
    pub threshold: f32,
    /// Regions requested of the camera: x, y, width, height.
    pub regions: &'a [(u32, u32, u32, u32)],
    /// Quantizers read back from the bitstream.
    pub qps: &'a QpPicture,
    /// Finest and coarsest quantizer of the colours.
    pub range: (u8, u8),
}

impl View<'_> {
    fn panel_size(&self) -> (usize, usize) {
        let width = self.picture.width.min(PANEL) & !1;
        (width, (self.picture.height * width / self.picture.width) & !1)
    }

    /// The frame with boxes and regions.
    pub fn boxes(&self) -> Picture {
        let (width, height) = self.panel_size();
        let mut out = self.picture.scaled(width, height);
        let scale = width as f32 / self.picture.width as f32;
        let at = |v: f32| (v * scale).round().max(0.0) as usize;
        for &(x, y, w, h) in self.regions {
            let (x, y, w, h) = (at(x as f32), at(y as f32), at(w as f32), at(h as f32));
            out.wash(x, y, w, h, ORANGE, 0.22);
            out.outline(x, y, w, h, ORANGE);
        }
        for o in self.objects.iter().filter(|o| o.score >= self.threshold) {
            out.outline(at(o.x), at(o.y), at(o.width), at(o.height), GREEN);
            out.tag(
                at(o.x),
                at(o.y).saturating_sub(11),
                &format!("{} {:.2}", o.label, o.score),
                GREEN,
            );
        }
        out
    }

    /// The frame in grey, each coded macroblock in the colour of its quantizer. Skipped ones have none and stay grey.
    pub fn quantizers(&self) -> Picture {
        let (width, height) = self.panel_size();
        let mut out = self.picture.scaled(width, height).grey();
        out.wash(0, 0, width, height, [0, 0, 0], 0.35);
        let scale = |v: usize| v * width / self.picture.width;
        for (n, (&qp, &skipped)) in self.qps.qps.iter().zip(&self.qps.skipped).enumerate() {
            if !skipped {
                let (x, y) = (MB * (n % self.qps.columns), MB * (n / self.qps.columns));
                let (left, top) = (scale(x), scale(y));
                let (w, h) = (scale(x + MB) - left, scale(y + MB) - top);
                out.wash(left, top, w, h, heat(qp, self.range.0, self.range.1), 0.6);
            }
        }
        out
    }

    /// A few macroblocks around the middle of the finest quantizers, with the numbers. `rows` macroblocks high.
    fn close_up(&self, rows: usize) -> Picture {
        let all_rows = self.qps.qps.len() / self.qps.columns.max(1);
        // Around the region with the largest area of finer quantizers, so that both sides of its edge show.
        let (x, y) = self
            .regions
            .iter()
            .max_by_key(|r| self.fine(r))
            .map_or((self.qps.columns / 2, all_rows / 2), |r| {
                ((r.0 + r.2 / 2) as usize / MB, (r.1 + r.3 / 2) as usize / MB)
            });
        let first =
            |middle: usize, shown: usize, all: usize| middle.saturating_sub(shown / 2).min(all.saturating_sub(shown));
        let (left, top) = (first(x, CLOSE_COLUMNS, self.qps.columns), first(y, rows, all_rows));
        let mut out = self
            .picture
            .cut(MB * left, MB * top, MB * CLOSE_COLUMNS, MB * rows)
            .scaled(CLOSE * CLOSE_COLUMNS, CLOSE * rows);
        for row in 0..rows.min(all_rows) {
            for column in 0..CLOSE_COLUMNS.min(self.qps.columns) {
                let n = (top + row) * self.qps.columns + left + column;
                let (px, py) = (CLOSE * column, CLOSE * row);
                out.wash(px, py, CLOSE, 1, [0, 0, 0], 0.5);
                out.wash(px, py, 1, CLOSE, [0, 0, 0], 0.5);
                if self.qps.skipped[n] {
                    out.text(px + 20, py + 20, "-", WHITE, 1);
                } else {
                    let color = heat(self.qps.qps[n], self.range.0, self.range.1);
                    out.wash(px + 5, py + 13, 38, 22, [0, 0, 0], 0.75);
                    out.text(px + 8, py + 16, &format!("{:2}", self.qps.qps[n]), color, 2);
                }
            }
        }
        let zoom = CLOSE / MB;
        for &(x, y, w, h) in self.regions {
            let inside =
                |v: u32, first: usize, all: usize| (zoom * (v as usize).saturating_sub(MB * first)).min(CLOSE * all);
            let (x1, x2) = (inside(x, left, CLOSE_COLUMNS), inside(x + w, left, CLOSE_COLUMNS));
            let (y1, y2) = (inside(y, top, rows), inside(y + h, top, rows));
            if x2 > x1 && y2 > y1 {
                out.outline(x1, y1, x2 - x1, y2 - y1, ORANGE);
            }
        }
        out
    }

    /// Macroblocks of a region with a coded quantizer finer than the coarsest.
    fn fine(&self, r: &(u32, u32, u32, u32)) -> usize {
        let span = |from: u32, length: u32| from as usize / MB..((from + length) as usize).div_ceil(MB);
        span(r.1, r.3)
            .flat_map(|row| span(r.0, r.2).map(move |column| (row, column)))
            .filter(|&(row, column)| {
                let n = row * self.qps.columns + column;
                column < self.qps.columns && self.qps.skipped.get(n) == Some(&false) && self.qps.qps[n] < self.range.1
            })
            .count()
    }

    /// Both panels side by side under a line of text: a frame of the annotated video. Even sides.
    pub fn video_frame(&self, caption: &str) -> Picture {
        let (boxes, quantizers) = (self.boxes(), self.quantizers());
        let mut out = Picture::new(2 * boxes.width, boxes.height + LINE, PAPER);
        out.text(6, 7, caption, WHITE, 1);
        let legend = "quantizer of coded macroblocks";
        out.text(boxes.width + 6, 7, legend, WHITE, 1);
        self.scale_bar(&mut out, boxes.width + Picture::text_width(legend, 1) + 24, 7, 1);
        out.paste(0, LINE, &boxes);
        out.paste(boxes.width, LINE, &quantizers);
        out
    }

    /// The colour scale with its quantizers; `scale` as of the text.
    fn scale_bar(&self, out: &mut Picture, x: usize, y: usize, scale: usize) {
        let (finest, coarsest) = self.range;
        let side = 8 * scale;
        let mut x = x;
        for qp in [finest, (finest + coarsest) / 2, coarsest] {
            out.wash(x, y, side, side, heat(qp, finest, coarsest), 1.0);
            out.text(x + side + 4, y, &qp.to_string(), WHITE, scale);
            x += 5 * side;
        }
        out.wash(x, y, side, side, [95, 95, 95], 1.0);
        out.text(x + side + 4, y, "skipped", WHITE, scale);
    }
}

/// The largest scale, up to `most`, at which a text is no wider than `width`.
fn fit(text: &str, width: usize, most: usize) -> usize {
    (1..=most)
        .rev()
        .find(|&scale| Picture::text_width(text, scale) <= width)
        .unwrap_or(1)
}

/// The contact sheet: title, the lines of the table, legend, then three panels for each view. `None` without a view.
pub fn sheet(title: &str, table: &[String], views: &[View<'_>]) -> Option<Picture> {
    let first = views.first()?;
    let (panel, panel_height) = first.panel_size();
    let close_rows = panel_height / CLOSE;
    let width = 2 * panel + CLOSE * CLOSE_COLUMNS + 4 * GAP;
    let inner = width - 2 * GAP;
    let top = 3 * GAP + 24 + LINE * (table.len() + 3);
    let mut out = Picture::new(width, top + views.len() * (panel_height + LINE + GAP) + GAP, PAPER);
    out.text(GAP, GAP, title, WHITE, fit(title, inner, 3));
    let mut y = 2 * GAP + 24;
    for line in table {
        out.text(GAP, y, line, WHITE, fit(line, inner, 2));
        y += LINE;
    }
    y += GAP / 2;

    let (found, asked) = (
        "found by the network on the received picture",
        "region the server asked for",
    );
    let scale = fit(&format!("{found}{asked}  --------"), inner, 2);
    let mut x = GAP;
    for (color, words) in [(GREEN, found), (ORANGE, asked)] {
        out.outline(x, y, 8 * scale, 8 * scale, color);
        out.text(x + 10 * scale, y, words, FAINT, scale);
        x += 10 * scale + Picture::text_width(words, scale) + 2 * GAP;
    }
    y += LINE;
    let words = "quantizer of a macroblock, read back from the bitstream; lower is finer:";
    let scale = fit(&format!("{words}{}", "-".repeat(28)), inner, 2);
    out.text(GAP, y, words, FAINT, scale);
    first.scale_bar(&mut out, 2 * GAP + Picture::text_width(words, scale), y, scale);
    y += LINE;
    let words = "a macroblock that is coded without residual has no quantizer of its own and shows the one before it";
    out.text(GAP, y, words, FAINT, fit(words, inner, 2));

    let mut y = top;
    for view in views {
        let mut x = GAP;
        for (picture, words) in [
            (
                view.boxes(),
                format!("frame {}: detections and requested regions", view.frame),
            ),
            (view.quantizers(), "quantizers of the coded macroblocks".to_owned()),
            (view.close_up(close_rows), "close-up; - is skipped".to_owned()),
        ] {
            out.text(x, y, &words, WHITE, fit(&words, picture.width, 2));
            out.paste(x, y + LINE, &picture);
            x += picture.width + GAP;
        }
        y += panel_height + LINE + GAP;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(picture: &'a Picture, qps: &'a QpPicture, regions: &'a [(u32, u32, u32, u32)]) -> View<'a> {
        View {
            frame: 7,
            picture,
            objects: &[],
            threshold: 0.3,
            regions,
            qps,
            range: (26, 36),
        }
    }

    #[test]
    fn coded_macroblocks_are_coloured_and_skipped_ones_are_not() {
        let picture = Picture::new(32, 32, [100, 100, 100]);
        let qps = QpPicture {
            intra: false,
            columns: 2,
            qps: vec![26, 26, 36, 36],
            skipped: vec![false, true, false, true],
        };
        let shown = view(&picture, &qps, &[]).quantizers();
        let at = |x: usize, y: usize| &shown.rgb[3 * (32 * y + x)..][..3];
        assert!(at(8, 8)[0] > at(8, 8)[2], "finest is red: {:?}", at(8, 8));
        assert!(at(8, 24)[2] > at(8, 24)[0], "coarsest is blue: {:?}", at(8, 24));
        assert_eq!(at(24, 8), at(24, 24));
        assert_eq!(at(24, 8)[0], at(24, 8)[2]);
    }

    #[test]
    fn pictures_of_any_size_and_stray_regions_can_be_shown() {
        for (width, height) in [(16, 16), (320, 180), (1080, 1920), (2000, 17)] {
            let (columns, rows) = (usize::div_ceil(width, MB), usize::div_ceil(height, MB));
            let picture = Picture::new(width, height, WHITE);
            for macroblocks in [columns * rows, 0] {
                let qps = QpPicture {
                    intra: true,
                    columns: if macroblocks == 0 { 0 } else { columns },
                    qps: vec![30; macroblocks],
                    skipped: vec![false; macroblocks],
                };
                let view = view(&picture, &qps, &[(0, 0, 16, 16), (9000, 9000, 64, 64)]);
                let frame = view.video_frame("caption");
                assert_eq!((frame.width % 2, frame.height % 2), (0, 0));
                assert!(sheet("title", &["a line".into()], &[view]).is_some());
            }
        }
        assert!(sheet("title", &[], &[]).is_none());
    }
}
