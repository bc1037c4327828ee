// SPDX-License-Identifier: MPL-2.0

//! Drawing on RGB pictures: boxes, washes of colour, text; and writing them as PNG.

use std::path::Path;

use gst::prelude::*;
use gstddsinfer::overlay::font;

use crate::{Error, launch};

/// A colour, red, green, blue.
pub type Color = [u8; 3];

/// Detected objects.
pub const GREEN: Color = [60, 230, 90];
/// Requested regions.
pub const ORANGE: Color = [255, 150, 20];
/// Text.
pub const WHITE: Color = [245, 245, 245];

/// An RGB picture, rows without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Three bytes a pixel.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// A picture of one colour.
    pub fn new(width: usize, height: usize, color: Color) -> Self {
        Self {
            width,
            height,
            rgb: color.repeat(width * height),
        }
    }

    /// Blends a colour into a rectangle, clipped to the picture; `alpha` 0 to 1.
    pub fn wash(&mut self, x: usize, y: usize, width: usize, height: usize, color: Color, alpha: f32) {
        for row in y..(y + height).min(self.height) {
            for column in x..(x + width).min(self.width) {
                let at = 3 * (row * self.width + column);
                for (i, c) in color.iter().enumerate() {
                    let old = f32::from(self.rgb[at + i]);
                    self.rgb[at + i] = (old + (f32::from(*c) - old) * alpha) as u8;
                }
            }
        }
    }

    /// The outline of a rectangle, two pixels thick.
    pub fn outline(&mut self, x: usize, y: usize, width: usize, height: usize, color: Color) {
        self.wash(x, y, width, 2, color, 1.0);
        self.wash(x, (y + height).saturating_sub(2), width, 2, color, 1.0);
        self.wash(x, y, 2, height, color, 1.0);
        self.wash((x + width).saturating_sub(2), y, 2, height, color, 1.0);
    }

    /// A line of text, each dot of its 8x8 letters `scale` pixels large. Letters missing in the font show as `?`.
    pub fn text(&mut self, x: usize, y: usize, text: &str, color: Color, scale: usize) {
        for (n, letter) in text.chars().enumerate() {
            for (row, bits) in font::bitmap(letter).into_iter().enumerate() {
                for column in (0..8).filter(|c| bits >> c & 1 == 1) {
                    self.wash(x + (8 * n + column) * scale, y + row * scale, scale, scale, color, 1.0);
                }
            }
        }
    }

    /// Width of a line of text, pixels.
    pub fn text_width(text: &str, scale: usize) -> usize {
        8 * scale * text.chars().count()
    }

    /// Text on a background of its own, so that it is readable on any picture.
    pub fn tag(&mut self, x: usize, y: usize, text: &str, color: Color) {
        let width = Self::text_width(text, 1) + 2;
        let (x, y) = (
            x.min(self.width.saturating_sub(width)),
            y.min(self.height.saturating_sub(10)),
        );
        self.wash(x, y, width, 10, [0, 0, 0], 0.65);
        self.text(x + 1, y + 1, text, color, 1);
    }

    /// The same picture in another size: the mean of the pixels covered, or the nearest pixel where it grows.
    pub fn scaled(&self, width: usize, height: usize) -> Self {
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let mut out = Self::new(width, height, [0, 0, 0]);
        let span = |at: usize, to: usize, from: usize| {
            let first = at * from / to;
            first..((at + 1) * from / to).max(first + 1)
        };
        for row in 0..height {
            for column in 0..width {
                let (rows, columns) = (span(row, height, self.height), span(column, width, self.width));
                let count = (rows.len() * columns.len()) as u32;
                let mut sum = [0u32; 3];
                for y in rows {
                    for x in columns.clone() {
                        let at = 3 * (y * self.width + x);
                        (0..3).for_each(|i| sum[i] += u32::from(self.rgb[at + i]));
                    }
                }
                let at = 3 * (row * width + column);
                (0..3).for_each(|i| out.rgb[at + i] = (sum[i] / count) as u8);
            }
        }
        out
    }

    /// A part of the picture; pixels outside it are black.
    pub fn cut(&self, x: usize, y: usize, width: usize, height: usize) -> Self {
        let mut out = Self::new(width, height, [0, 0, 0]);
        let columns = width.min(self.width.saturating_sub(x));
        for row in 0..height.min(self.height.saturating_sub(y)) {
            let from = 3 * ((y + row) * self.width + x);
            out.rgb[3 * row * width..][..3 * columns].copy_from_slice(&self.rgb[from..from + 3 * columns]);
        }
        out
    }

    /// The same picture in grey.
    pub fn grey(&self) -> Self {
        let mut out = self.clone();
        for pixel in out.rgb.chunks_exact_mut(3) {
            let sum: u32 = pixel.iter().map(|&c| u32::from(c)).sum();
            pixel.fill((sum / 3) as u8);
        }
        out
    }

    /// Copies another picture onto this one.
    pub fn paste(&mut self, x: usize, y: usize, other: &Self) {
        let width = other.width.min(self.width.saturating_sub(x));
        for row in 0..other.height.min(self.height.saturating_sub(y)) {
            let to = 3 * ((y + row) * self.width + x);
            let from = 3 * row * other.width;
            self.rgb[to..to + 3 * width].copy_from_slice(&other.rgb[from..from + 3 * width]);
        }
    }

    /// Converts it to a GStreamer buffer, whose RGB rows are multiples of four bytes.
    pub fn to_buffer(&self) -> gst::Buffer {
        let stride = (3 * self.width).next_multiple_of(4);
        let mut bytes = vec![0; stride * self.height];
        for (to, from) in bytes.chunks_mut(stride).zip(self.rgb.chunks(3 * self.width)) {
            to[..from.len()].copy_from_slice(from);
        }
        gst::Buffer::from_mut_slice(bytes)
    }

    /// Caps of [`Self::to_buffer`].
    pub fn caps(&self, fps: gst::Fraction) -> gst::Caps {
        gst::Caps::builder("video/x-raw")
            .field("format", "RGB")
            .field("width", self.width as i32)
            .field("height", self.height as i32)
            .field("framerate", fps)
            .build()
    }

    /// Writes a PNG file.
    ///
    /// # Errors
    /// The error of the encoder or the file system.
    pub fn write_png(&self, path: &Path) -> Result<(), Error> {
        write_video(std::iter::once(self.clone()), gst::Fraction::new(1, 1), "pngenc", path)
    }
}

/// Writes pictures of one size through an encoder (and muxer) to a file.
///
/// # Errors
/// An element's error.
pub fn write_video(
    pictures: impl IntoIterator<Item = Picture>,
    fps: gst::Fraction,
    encoder: &str,
    path: &Path,
) -> Result<(), Error> {
    let pipeline = launch(&format!(
        "appsrc name=in format=time ! videoconvert ! {encoder} ! filesink name=out"
    ))?;
    pipeline
        .by_name("out")
        .ok_or("no filesink")?
        .set_property("location", path.to_string_lossy().as_ref());
    let source = pipeline
        .by_name("in")
        .and_then(|e| e.downcast::<gst_app::AppSrc>().ok())
        .ok_or("no appsrc")?;
    source.set_property("block", true);
    let mut started = false;
    for (n, picture) in pictures.into_iter().enumerate() {
        if !started {
            source.set_caps(Some(&picture.caps(fps)));
            pipeline.set_state(gst::State::Playing)?;
            started = true;
        }
        let mut buffer = picture.to_buffer();
        let frame = gst::ClockTime::SECOND.mul_div_floor(fps.denom() as u64, fps.numer() as u64);
        buffer.make_mut().set_pts(frame.map(|f| f * n as u64));
        buffer.make_mut().set_duration(frame);
        source
            .push_buffer(buffer)
            .map_err(|_| crate::bus_error(&pipeline).unwrap_or_else(|| "no frames are taken".into()))?;
    }
    if !started {
        return Err(format!("{}: there are no pictures to write", path.display()).into());
    }
    source.end_of_stream().map_err(|_| "no end of stream is taken")?;
    let bus = pipeline.bus().ok_or("no bus")?;
    let end = bus.timed_pop_filtered(
        gst::ClockTime::from_seconds(60),
        &[gst::MessageType::Eos, gst::MessageType::Error],
    );
    let error = match end.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Eos(_)) => None,
        Some(gst::MessageView::Error(e)) => Some(e.error().to_string()),
        _ => Some("no end within 60 s".into()),
    };
    pipeline.set_state(gst::State::Null)?;
    match error {
        None => Ok(()),
        Some(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

/// Blue for the coarsest quantizer of the range, over yellow to red for the finest.
pub fn heat(qp: u8, finest: u8, coarsest: u8) -> Color {
    const STOPS: [[f32; 3]; 3] = [[70.0, 125.0, 255.0], [250.0, 215.0, 70.0], [255.0, 70.0, 60.0]];
    let span = f32::from(coarsest.saturating_sub(finest)).max(1.0);
    let at = 2.0 * (f32::from(coarsest) - f32::from(qp.min(coarsest).max(finest))) / span;
    let (from, part) = if at < 1.0 { (0, at) } else { (1, at - 1.0) };
    std::array::from_fn(|i| (STOPS[from][i] + (STOPS[from + 1][i] - STOPS[from][i]) * part) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_outside_the_picture_is_left_out() {
        let mut picture = Picture::new(10, 10, [0, 0, 0]);
        picture.outline(8, 8, 50, 50, GREEN);
        picture.tag(100, 100, "far away", WHITE);
        picture.paste(9, 9, &Picture::new(5, 5, ORANGE));
        assert_eq!(picture.rgb.len(), 300);
        assert_eq!(picture.rgb[297..], ORANGE);
    }

    #[test]
    fn scaling_takes_the_mean_and_keeps_flat_pictures_flat() {
        let mut picture = Picture::new(4, 2, [10, 20, 30]);
        picture.wash(0, 0, 1, 1, [50, 20, 30], 1.0);
        assert_eq!(picture.scaled(2, 1).rgb, [20, 20, 30, 10, 20, 30]);
        assert_eq!(Picture::new(7, 5, WHITE).scaled(16, 3), Picture::new(16, 3, WHITE));
        assert_eq!(picture.cut(3, 1, 2, 2).rgb, [10, 20, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn ends_of_the_range_have_their_colours() {
        assert_eq!((heat(40, 28, 40), heat(51, 28, 40)), ([70, 125, 255], [70, 125, 255]));
        assert_eq!((heat(28, 28, 40), heat(1, 28, 40)), ([255, 70, 60], [255, 70, 60]));
        assert_eq!(heat(34, 28, 40), [250, 215, 70]);
        assert_eq!(heat(30, 30, 30), [70, 125, 255]);
    }
}
