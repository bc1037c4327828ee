// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;

use crate::model::ModelError;

/// Why faces cannot be recognised. `Display` names the cause and the cure.
#[derive(Debug, Clone, PartialEq)]
pub enum FaceError {
    /// The detector cannot be used, or a model failed on a picture of the gallery.
    Model(ModelError),
    /// The embedder cannot be used.
    Embedder(ModelError),
    /// The gallery cannot be read or written, or holds no face.
    Gallery {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The gallery was made with an embedder of another dimension.
    Dimension {
        /// The file of embeddings.
        gallery: PathBuf,
        /// Length of its embeddings.
        gallery_dimension: usize,
        /// The embedder's file.
        model: PathBuf,
        /// Length of its embeddings.
        model_dimension: usize,
    },
}

impl fmt::Display for FaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(e) | Self::Embedder(e) => e.fmt(f),
            Self::Gallery { path, cause } => write!(f, "cannot use the gallery {}: {cause}", path.display()),
            Self::Dimension {
                gallery,
                gallery_dimension,
                model,
                model_dimension,
            } => write!(
                f,
                "the embeddings in the gallery {} have {gallery_dimension} numbers, those of the model {} \
                 {model_dimension}; make the gallery again from pictures with this model, or use the model that it was \
                 made with",
                gallery.display(),
                model.display()
            ),
        }
    }
}

impl std::error::Error for FaceError {}

impl From<ModelError> for FaceError {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}
