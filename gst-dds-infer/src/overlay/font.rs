// SPDX-License-Identifier: MPL-2.0

//! Letters of any height from the 8x8 bitmaps of `font8x8`, with soft edges and a width of their own.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use font8x8::UnicodeFonts;

/// Rows and columns of a letter's bitmap.
const CELL: usize = 8;
/// The bitmap after three doublings.
const FINE: usize = 64;
/// Letters are drawn narrower than their square bitmaps.
const NARROW: f32 = 0.78;
/// Width of a space in columns of the bitmap.
const SPACE: usize = 4;

/// Coverage of each pixel of a rectangle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// One byte a pixel, row by row without padding: 0 (not) to 255 (all of it).
    pub cover: Vec<u8>,
}

/// The bitmap of a letter: eight rows from the top, the lowest bit at the left. Letters missing in the font are `?`.
pub fn bitmap(letter: char) -> [u8; 8] {
    let letter = if letter.is_control() { '?' } else { letter };
    font8x8::BASIC_FONTS
        .get(letter)
        .or_else(|| font8x8::LATIN_FONTS.get(letter))
        .or_else(|| font8x8::GREEK_FONTS.get(letter))
        .or_else(|| font8x8::HIRAGANA_FONTS.get(letter))
        .or_else(|| font8x8::BASIC_FONTS.get('?'))
        .unwrap_or_default()
}

/// Letters of one height, each rendered once.
#[derive(Debug, Default)]
pub struct Font {
    height: usize,
    letters: HashMap<char, Mask>,
}

impl Font {
    /// Sets the height of a line in pixels, at least 1.
    pub fn set_height(&mut self, height: usize) {
        let height = height.max(1);
        if height != self.height {
            self.height = height;
            self.letters.clear();
        }
    }

    /// Height of a line in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// A line of text; line breaks and other control characters show as `?`.
    pub fn line(&mut self, text: &str) -> Mask {
        let height = self.height.max(1);
        let gap = (height + CELL / 2) / CELL;
        for letter in text.chars() {
            // Bounds the cache: names in a script with many letters would grow it without end.
            if self.letters.len() > 1024 {
                self.letters.clear();
            }
            self.letters.entry(letter).or_insert_with(|| shaped(letter, height));
        }
        let letters: Vec<&Mask> = text.chars().filter_map(|letter| self.letters.get(&letter)).collect();
        let width = letters.iter().map(|l| l.width + gap).sum::<usize>().saturating_sub(gap);
        let mut line = Mask {
            width,
            height,
            cover: vec![0; width * height],
        };
        let mut left = 0;
        for letter in letters {
            for row in 0..height {
                line.cover[row * width + left..][..letter.width]
                    .copy_from_slice(&letter.cover[row * letter.width..][..letter.width]);
            }
            left += letter.width + gap;
        }
        line
    }
}

/// A letter without the empty columns at its sides.
fn shaped(letter: char, height: usize) -> Mask {
    let rows = bitmap(letter);
    let used = rows.iter().fold(0, |all, row| all | row);
    let (first, last) = match used {
        0 => (0, SPACE),
        _ => (used.trailing_zeros() as usize, CELL - used.leading_zeros() as usize),
    };
    let fine = doubled(doubled(doubled(
        rows.iter()
            .map(|row| (0..CELL).map(|c| row >> c & 1 == 1).collect())
            .collect(),
    )));
    let scale = FINE / CELL;
    let columns = (last - first) * scale;
    let width = (((last - first) * height) as f32 / CELL as f32 * NARROW)
        .round()
        .max(1.0) as usize;
    let mut cover = Vec::with_capacity(width * height);
    for row in 0..height {
        for column in 0..width {
            let ink = share(&fine, (row, height, 0, FINE), (column, width, first * scale, columns));
            cover.push((ink * 255.0).round() as u8);
        }
    }
    Mask { width, height, cover }
}

/// Coverage of a pixel: pixel `at` of `of` covers `length` fine dots from `start` on, down and across.
fn share(fine: &[Vec<bool>], down: (usize, usize, usize, usize), across: (usize, usize, usize, usize)) -> f32 {
    let span = |(at, of, start, length): (usize, usize, usize, usize)| {
        let step = length as f32 / of as f32;
        let (from, to) = (start as f32 + at as f32 * step, start as f32 + (at + 1) as f32 * step);
        let last = (to.ceil() as usize).min(start + length);
        (from as usize..last).map(move |dot| {
            let weight = (to.min(dot as f32 + 1.0) - from.max(dot as f32)).max(0.0);
            (dot, weight / step)
        })
    };
    span(down)
        .map(|(y, weight)| weight * span(across).filter(|(x, _)| fine[y][*x]).map(|(_, w)| w).sum::<f32>())
        .sum::<f32>()
        .clamp(0.0, 1.0)
}

/// A bitmap of twice the size, with its stairs smoothed to slopes (the Scale2x rule).
fn doubled(small: Vec<Vec<bool>>) -> Vec<Vec<bool>> {
    let size = small.len();
    let at = |x: usize, y: usize| small.get(y).and_then(|row| row.get(x)).copied().unwrap_or(false);
    let mut large = vec![vec![false; 2 * size]; 2 * size];
    for y in 0..size {
        for x in 0..size {
            let here = at(x, y);
            let (up, down) = (y > 0 && at(x, y - 1), at(x, y + 1));
            let (left, right) = (x > 0 && at(x - 1, y), at(x + 1, y));
            let corner = |a: bool, b: bool, across_a: bool, across_b: bool| {
                if a == b && a != across_b && b != across_a {
                    a
                } else {
                    here
                }
            };
            large[2 * y][2 * x] = corner(left, up, right, down);
            large[2 * y][2 * x + 1] = corner(up, right, down, left);
            large[2 * y + 1][2 * x] = corner(down, left, up, right);
            large[2 * y + 1][2 * x + 1] = corner(right, down, left, up);
        }
    }
    large
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_high_as_asked_and_as_wide_as_its_letters() {
        let mut font = Font::default();
        for height in [1, 2, 7, 8, 13, 24, 90] {
            font.set_height(height);
            let (short, long) = (font.line("il"), font.line("WM"));
            assert_eq!((short.height, long.height), (height, height));
            assert_eq!(long.cover.len(), long.width * long.height);
            assert!(height < 7 || short.width < long.width, "{height}");
        }
        assert_eq!(font.line("").width, 0);
    }

    #[test]
    fn letters_have_ink_and_spaces_have_none() {
        let mut font = Font::default();
        font.set_height(16);
        for letter in ["a", "0", "ü", "λ", "\u{4e00}", "\n"] {
            assert!(font.line(letter).cover.iter().any(|c| *c > 200), "{letter}");
        }
        let space = font.line(" ");
        assert!(space.width > 0 && space.cover.iter().all(|c| *c == 0));
    }

    #[test]
    fn the_bitmap_of_an_unknown_letter_is_a_question_mark() {
        assert_eq!(bitmap('\u{1f600}'), bitmap('?'));
        assert_ne!(bitmap('A'), bitmap('?'));
    }
}
