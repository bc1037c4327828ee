// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

use super::ModelError;

/// Layout of a picture's bytes, 8 bits per component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelLayout {
    /// Planes Y, U, V; U and V of half size (rounded up) each way.
    I420,
    /// Planes Y and interleaved UV; UV of half size (rounded up) each way.
    Nv12,
    /// One plane, bytes R G B.
    Rgb,
    /// One plane, bytes B G R.
    Bgr,
}

/// Matrix between YUV and RGB (ITU-R BT.601 or BT.709). Ignored for RGB and BGR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorMatrix {
    /// ITU-R BT.601, the usual matrix of standard definition.
    #[default]
    Bt601,
    /// ITU-R BT.709, the usual matrix of high definition.
    Bt709,
}

/// Range of YUV samples. Ignored for RGB and BGR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorRange {
    /// Luma 16 to 235, chroma 16 to 240.
    #[default]
    Limited,
    /// 0 to 255.
    Full,
}

/// A borrowed picture; [`Picture::new`] has checked that the planes hold all its pixels.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    width: u32,
    height: u32,
    layout: PixelLayout,
    matrix: ColorMatrix,
    range: ColorRange,
    planes: [&'a [u8]; 3],
    strides: [usize; 3],
}

/// Largest side of a picture in pixels: keeps products of sizes far from overflow.
const MAX_SIDE: u32 = 32768;

impl<'a> Picture<'a> {
    /// A picture of `width` x `height` pixels over `planes` whose rows are `strides` bytes apart. Planes and strides that
    /// the layout does not have are ignored. The last row of a plane needs only its own bytes, not the whole stride.
    ///
    /// # Errors
    /// [`ModelError::Picture`] when a side is 0 or above 32768, or a plane or stride is too short.
    pub fn new(
        layout: PixelLayout,
        width: u32,
        height: u32,
        planes: [&'a [u8]; 3],
        strides: [usize; 3],
    ) -> Result<Self, ModelError> {
        if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
            return Err(ModelError::Picture(format!(
                "{width}x{height} pixels; each side must be from 1 to {MAX_SIDE}"
            )));
        }
        let (w, h) = (width as usize, height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        let needs: &[(usize, usize)] = match layout {
            PixelLayout::I420 => &[(w, h), (cw, ch), (cw, ch)],
            PixelLayout::Nv12 => &[(w, h), (2 * cw, ch)],
            PixelLayout::Rgb | PixelLayout::Bgr => &[(3 * w, h)],
        };
        for (i, &(row, rows)) in needs.iter().enumerate() {
            let bytes = strides[i].checked_mul(rows - 1).and_then(|b| b.checked_add(row));
            if strides[i] < row || bytes.is_none_or(|b| planes[i].len() < b) {
                return Err(ModelError::Picture(format!(
                    "plane {i} of {layout:?} {width}x{height} needs {rows} rows of {row} bytes, has {} bytes with a \
                     stride of {}",
                    planes[i].len(),
                    strides[i]
                )));
            }
        }
        Ok(Self {
            width,
            height,
            layout,
            matrix: ColorMatrix::default(),
            range: ColorRange::default(),
            planes,
            strides,
        })
    }

    /// A packed RGB picture. See [`Picture::new`].
    ///
    /// # Errors
    /// As [`Picture::new`].
    pub fn rgb(width: u32, height: u32, data: &'a [u8], stride: usize) -> Result<Self, ModelError> {
        Self::new(PixelLayout::Rgb, width, height, [data, &[], &[]], [stride, 0, 0])
    }

    /// A packed BGR picture. See [`Picture::new`].
    ///
    /// # Errors
    /// As [`Picture::new`].
    pub fn bgr(width: u32, height: u32, data: &'a [u8], stride: usize) -> Result<Self, ModelError> {
        Self::new(PixelLayout::Bgr, width, height, [data, &[], &[]], [stride, 0, 0])
    }

    /// The same picture with its YUV samples in this matrix and range (default: BT.601, limited).
    pub fn with_colorimetry(self, matrix: ColorMatrix, range: ColorRange) -> Self {
        Self { matrix, range, ..self }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Layout of the bytes.
    pub fn layout(&self) -> PixelLayout {
        self.layout
    }

    /// Matrix of YUV samples.
    pub fn matrix(&self) -> ColorMatrix {
        self.matrix
    }

    /// Range of YUV samples.
    pub fn range(&self) -> ColorRange {
        self.range
    }

    /// Bytes of one plane and the distance of its rows in bytes.
    pub(crate) fn plane(&self, index: usize) -> (&'a [u8], usize) {
        (self.planes[index], self.strides[index])
    }
}
