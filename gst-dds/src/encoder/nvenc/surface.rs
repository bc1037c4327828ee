// SPDX-License-Identifier: MPL-2.0

//! GPU memory that the encoder reads pictures from, and copying into it.
//!
//! Pictures that are on the GPU already are copied within it, not lent to the encoder: their planes do not have the
//! layout it needs (GStreamer gives the chroma planes of I420 the pitch of luma, NVENC half of it), and their owner may
//! reclaim them. The copy takes one pass over the picture at the speed of the GPU's memory; nothing crosses the bus.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use super::super::{GpuPicture, OpenError, Picture, PixelFormat};
use super::driver::{Copy2d, Driver, Side};

/// Location of a picture.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// In system memory; its planes are as long as format, size and stride require.
    System(&'a Picture<'a>),
    /// In memory of the session's context.
    Gpu(&'a GpuPicture<'a>),
}

impl Source<'_> {
    /// Number of the picture.
    pub fn number(&self) -> i64 {
        match self {
            Self::System(picture) => picture.pts,
            Self::Gpu(picture) => picture.pts(),
        }
    }
}

/// Location of a plane in memory that the encoder reads: contiguous planes, separate chroma planes with half the pitch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// First byte.
    pub offset: usize,
    /// Bytes from one row to the next.
    pub pitch: usize,
    /// Bytes in a row.
    pub row: usize,
    /// Rows.
    pub rows: usize,
}

/// The locations of a picture's planes, where rows of luma are `pitch` bytes apart.
pub(super) fn places(
    format: PixelFormat,
    (width, height): (usize, usize),
    pitch: usize,
) -> impl Iterator<Item = Place> {
    let mut offset = 0;
    (0..format.planes()).map(move |plane| {
        let (row, rows) = format.plane_size(plane, width, height);
        let halved = plane > 0 && format.planes() == 3;
        let pitch = if halved { pitch / 2 } else { pitch };
        let place = Place {
            offset,
            pitch,
            row,
            rows,
        };
        offset += pitch * rows;
        place
    })
}

/// Memory for one picture, and the stream that copies run in. Belongs to the context that was current when it was made,
/// which has to be current again when it is used or dropped.
pub(super) struct Surface {
    driver: Arc<Driver>,
    format: PixelFormat,
    size: (usize, usize),
    pub address: u64,
    /// Bytes from one row of luma to the next.
    pub pitch: usize,
    stream: *mut c_void,
}

impl Surface {
    /// Memory for a picture.
    ///
    /// # Errors
    /// The driver's message.
    pub fn new(driver: &Arc<Driver>, format: PixelFormat, (width, height): (usize, usize)) -> Result<Self, OpenError> {
        let mut surface = Self {
            driver: driver.clone(),
            format,
            size: (width, height),
            address: 0,
            pitch: 0,
            stream: std::ptr::null_mut(),
        };
        let (row, _) = format.plane_size(0, width, height);
        (surface.address, surface.pitch) = driver.allocate(row, height + height.div_ceil(2))?;
        surface.stream = driver.stream()?;
        Ok(surface)
    }

    /// Copies a picture into it, and waits until that is done.
    ///
    /// # Errors
    /// The driver's message.
    pub fn fill(&self, source: Source<'_>) -> Result<(), OpenError> {
        for (plane, place) in places(self.format, self.size, self.pitch).enumerate() {
            let (from, from_pitch) = match source {
                Source::System(picture) => {
                    let plane = picture.planes[plane];
                    (Side::System(plane.data.as_ptr().cast()), plane.stride)
                }
                Source::Gpu(picture) => {
                    let plane = picture.planes()[plane];
                    (Side::Gpu(plane.address), plane.stride)
                }
            };
            let copy = Copy2d {
                from,
                from_pitch,
                to: self.address + place.offset as u64,
                to_pitch: place.pitch,
                row: place.row,
                rows: place.rows,
            };
            // SAFETY: the source has rows as its format and size say, as `Source` requires of either kind, and this
            // memory has room for them; both stay until the copy is waited for below.
            let begun = unsafe { self.driver.copy(&copy, self.stream) };
            // Also after a failure: an earlier plane may still be in transfer.
            if begun.is_err() {
                let _ = self.wait();
                return begun;
            }
        }
        self.wait()
    }

    fn wait(&self) -> Result<(), OpenError> {
        // SAFETY: the stream is of the context that is current whenever this surface is used.
        unsafe { self.driver.wait(self.stream) }
    }
}

impl Drop for Surface {
    fn drop(&mut self) {
        // SAFETY: both came from the driver, or are null where making them failed; every copy was waited for.
        unsafe {
            self.driver.free(self.address);
            self.driver.end_stream(self.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_lie_one_behind_the_other() {
        let at = |format| -> Vec<_> {
            places(format, (322, 242), 512)
                .map(|p| (p.offset, p.pitch, p.row, p.rows))
                .collect()
        };
        assert_eq!(at(PixelFormat::Nv12), [(0, 512, 322, 242), (242 * 512, 512, 322, 121)]);
        assert_eq!(
            at(PixelFormat::I420),
            [
                (0, 512, 322, 242),
                (242 * 512, 256, 161, 121),
                (242 * 512 + 121 * 256, 256, 161, 121)
            ]
        );
    }
}
