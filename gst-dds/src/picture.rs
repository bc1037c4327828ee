// SPDX-License-Identifier: MPL-2.0

//! Pictures in memory of our own: copies of captured frames, the canvas of the refinement stream, scaled pictures.

#![forbid(unsafe_code)]

use std::sync::{Arc, Weak};

use dds_protocol::feedback::Rect;
use gst_dds_link::sync::Mutex;

use crate::encoder::{PixelFormat, Plane};

/// Layout of a picture with contiguous planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Sample layout.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl Layout {
    /// Bytes of a picture.
    pub fn bytes(&self) -> usize {
        (0..self.format.planes()).map(|plane| self.plane_bytes(plane)).sum()
    }

    fn plane_bytes(&self, plane: usize) -> usize {
        let (row, rows) = self.format.plane_size(plane, self.width, self.height);
        row * rows
    }

    /// Bytes per row of a plane.
    pub fn stride(&self, plane: usize) -> usize {
        self.format.plane_size(plane, self.width, self.height).0
    }

    fn start(&self, plane: usize) -> usize {
        (0..plane).map(|plane| self.plane_bytes(plane)).sum()
    }
}

/// A picture. Memory that came from a [`Recycler`] goes back to it.
#[derive(Debug)]
pub struct OwnedPicture {
    layout: Layout,
    data: Vec<u8>,
    home: Weak<Mutex<Vec<Vec<u8>>>>,
}

impl Drop for OwnedPicture {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.lock().unwrap().push(std::mem::take(&mut self.data));
        }
    }
}

impl OwnedPicture {
    /// A picture of zeros.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            data: vec![0; layout.bytes()],
            home: Weak::new(),
        }
    }

    /// Size and format.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The planes; those that the format lacks are empty.
    pub fn planes(&self) -> [Plane<'_>; 3] {
        let mut planes = [Plane::default(); 3];
        for (i, plane) in planes.iter_mut().enumerate().take(self.layout.format.planes()) {
            let start = self.layout.start(i);
            *plane = Plane {
                data: &self.data[start..start + self.layout.plane_bytes(i)],
                stride: self.layout.stride(i),
            };
        }
        planes
    }

    /// Samples of one plane.
    pub fn plane_mut(&mut self, plane: usize) -> &mut [u8] {
        let start = self.layout.start(plane);
        let bytes = self.layout.plane_bytes(plane);
        &mut self.data[start..start + bytes]
    }

    /// Copies the samples of a picture of the same layout. Returns whether its planes were long enough; where not,
    /// missing samples stay as they were.
    pub fn copy_from(&mut self, planes: &[Plane<'_>; 3]) -> bool {
        let mut whole = true;
        for (i, plane) in planes.iter().enumerate().take(self.layout.format.planes()) {
            let row = self.layout.stride(i);
            for (y, to) in self.plane_mut(i).chunks_exact_mut(row.max(1)).enumerate() {
                match plane.data.get(y * plane.stride..y * plane.stride + row) {
                    Some(from) => to.copy_from_slice(from),
                    None => whole = false,
                }
            }
        }
        whole
    }

    /// Paints a rectangle black, clipped to the picture.
    pub fn fill_black(&mut self, rect: &Rect, full_range: bool) {
        let depth = self.layout.format.bit_depth() - 8;
        for i in 0..self.layout.format.planes() {
            let value: u16 = match (i, full_range) {
                (0, true) => 0,
                (0, false) => 16 << depth,
                _ => 128 << depth,
            };
            let value = value.to_le_bytes();
            self.each_row(i, rect, |_, row| {
                if depth > 0 {
                    row.chunks_exact_mut(2)
                        .for_each(|sample| sample.copy_from_slice(&value));
                } else {
                    row.fill(value[0]);
                }
            });
        }
    }

    /// Copies a rectangle from a picture of the same layout, clipped to the picture.
    pub fn copy_rect(&mut self, from: &Self, rect: &Rect) {
        if from.layout != self.layout {
            return;
        }
        for i in 0..self.layout.format.planes() {
            let start = self.layout.start(i);
            self.each_row(i, rect, |at, row| {
                row.copy_from_slice(&from.data[start + at..start + at + row.len()]);
            });
        }
    }

    /// Calls `paint` with the offset in the plane, in bytes, and the samples of each row of a rectangle. Samples shared
    /// with a pixel of the rectangle belong to it.
    fn each_row(&mut self, plane: usize, rect: &Rect, mut paint: impl FnMut(usize, &mut [u8])) {
        let (across, down, bytes) = self.layout.format.sampling(plane);
        let (stride, rows) = self
            .layout
            .format
            .plane_size(plane, self.layout.width, self.layout.height);
        let span = |start: u32, length: u32, shift: u32, most: usize| {
            let end = (u64::from(start) + u64::from(length)).div_ceil(1 << shift);
            let end = usize::try_from(end).unwrap_or(most).min(most);
            ((start >> shift) as usize).min(end)..end
        };
        let columns = span(rect.x, rect.width, across, stride / bytes);
        let (left, right) = (columns.start * bytes, columns.end * bytes);
        let samples = self.plane_mut(plane);
        for y in span(rect.y, rect.height, down, rows) {
            let at = y * stride;
            paint(at + left, &mut samples[at + left..at + right]);
        }
    }
}

/// Makes pictures of one layout and recycles their memory: a ring of frames allocates nothing once it is full.
#[derive(Debug)]
pub struct Recycler {
    layout: Layout,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recycler {
    /// Memory for pictures of this layout.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            free: Arc::default(),
        }
    }

    /// A picture with undefined contents.
    pub fn take(&self) -> OwnedPicture {
        let data = self.free.lock().unwrap().pop();
        OwnedPicture {
            layout: self.layout,
            data: data.unwrap_or_else(|| vec![0; self.layout.bytes()]),
            home: Arc::downgrade(&self.free),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [PixelFormat; 11] = [
        PixelFormat::I420,
        PixelFormat::Yv12,
        PixelFormat::Nv12,
        PixelFormat::Nv21,
        PixelFormat::I422,
        PixelFormat::Nv16,
        PixelFormat::I444,
        PixelFormat::Gray8,
        PixelFormat::I420P10,
        PixelFormat::I422P10,
        PixelFormat::I444P10,
    ];

    fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn a_rectangle_is_copied_in_every_plane_and_nothing_beside_it() {
        for format in FORMATS {
            let layout = Layout {
                format,
                width: 51,
                height: 37,
            };
            let mut source = OwnedPicture::new(layout);
            source.data.fill(3);
            let mut canvas = OwnedPicture::new(layout);
            canvas.copy_rect(&source, &rect(16, 16, 16, 16));
            for (i, plane) in canvas.planes().iter().enumerate().take(format.planes()) {
                let (across, down, bytes) = format.sampling(i);
                for (y, row) in plane.data.chunks_exact(plane.stride).enumerate() {
                    for (x, group) in row.chunks_exact(bytes).enumerate() {
                        let inside = (16..32).contains(&(x << across)) && (16..32).contains(&(y << down));
                        assert!(
                            group.iter().all(|s| *s == if inside { 3 } else { 0 }),
                            "{format:?} plane {i} {x},{y}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn rectangles_beyond_the_edge_are_clipped() {
        for format in FORMATS {
            let layout = Layout {
                format,
                width: 51,
                height: 37,
            };
            let mut canvas = OwnedPicture::new(layout);
            canvas.fill_black(&rect(48, 32, 16, 16), false);
            canvas.fill_black(&rect(u32::MAX, u32::MAX, u32::MAX, u32::MAX), false);
            canvas.fill_black(&rect(0, 0, u32::MAX, u32::MAX), false);
            let plane = canvas.planes()[0];
            assert!(
                plane
                    .data
                    .chunks_exact(plane.stride)
                    .all(|row| match format.bit_depth() {
                        8 => row.iter().all(|s| *s == 16),
                        _ => row.chunks_exact(2).all(|s| s == [64, 0]),
                    })
            );
            for plane in canvas.planes().iter().skip(1).take(format.planes() - 1) {
                let black: &[u8] = if format.bit_depth() > 8 { &[0, 2] } else { &[128] };
                assert!(plane.data.chunks_exact(black.len()).all(|s| s == black), "{format:?}");
            }
        }
    }

    #[test]
    fn memory_comes_back() {
        let recycler = Recycler::new(Layout {
            format: PixelFormat::I420,
            width: 32,
            height: 32,
        });
        let first = recycler.take();
        let at = first.data.as_ptr();
        drop(first);
        assert_eq!(recycler.take().data.as_ptr(), at);
        let outlives = recycler.take();
        drop(recycler);
        drop(outlives);
    }
}
