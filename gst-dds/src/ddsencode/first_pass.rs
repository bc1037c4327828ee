// SPDX-License-Identifier: MPL-2.0

//! Scales the captured picture to the one that is coded whole.

#![forbid(unsafe_code)]

use crate::camera::{Geometry, RoiRequest};
use crate::encoder::Plane;
use crate::picture::Layout;
use crate::scale::Scaler;

/// Sizes of the captured and the coded picture, and the scaler between them.
pub(super) struct FirstPass {
    scaler: Option<Scaler>,
    /// Size of the captured picture.
    full: Geometry,
    /// Size of the coded picture.
    coded: Geometry,
}

impl FirstPass {
    /// For pictures of this layout, coded in this size.
    pub fn new(layout: Layout, coded: Geometry) -> Self {
        let full = Geometry {
            width: layout.width as u32,
            height: layout.height as u32,
        };
        Self {
            scaler: (coded != full).then(|| Scaler::new(layout, coded.width, coded.height)),
            full,
            coded,
        }
    }

    /// Scales regions from the captured picture to the coded one.
    pub fn stretch(&self, rois: &mut [RoiRequest]) {
        if self.scaler.is_some() {
            for roi in rois {
                roi.rect = roi.rect.scaled(self.full.size(), self.coded.size());
            }
        }
    }

    /// The picture to code.
    ///
    /// # Errors
    /// A plane is shorter than its size requires.
    pub fn scale<'a>(&'a mut self, planes: [Plane<'a>; 3]) -> Result<[Plane<'a>; 3], String> {
        match &mut self.scaler {
            None => Ok(planes),
            Some(scaler) => {
                let scaled = scaler.scale(&planes).ok_or("The picture lacks part of a plane")?;
                Ok(scaled.planes())
            }
        }
    }

    /// Width and height of the captured picture as written in the identity.
    pub fn full_size(&self) -> Option<(u16, u16)> {
        Some((self.full.width.try_into().ok()?, self.full.height.try_into().ok()?))
    }
}
