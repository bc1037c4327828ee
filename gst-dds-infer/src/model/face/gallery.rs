// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Faces known by name.
//!
//! The path is one of two sources:
//!
//! - A directory of pictures, JPEG or PNG: `NAME.jpg` or `NAME.png`, several of one person as `NAME_1.jpg`, `NAME_2.jpg`,
//!   ... (an underscore and digits at the end are not part of the name), or sub-directories `NAME/*.jpg` with any file
//!   names. Names are Unicode and taken as they are. Each picture gives its largest face. Hidden files are ignored; any
//!   other file without a face is a warning.
//! - A file of embeddings, JSON: `{"version": 1, "dimension": 128, "faces": [{"name": "Ada", "embedding": [0.1, ...]}]}`.
//!   Several faces may have one name. [`Gallery::save`] writes it, so that a directory is read and embedded only once.
//!
//! A gallery holds at most [`MAX_FACES`] faces: 8 MiB at 512 dimensions, compared with one face in about a millisecond.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};
use serde_json::Value;

use super::embedder::normalised;
use super::error::FaceError;
use crate::model::ModelError;

/// Most faces in a gallery.
pub const MAX_FACES: usize = 4096;
/// Largest file of embeddings in bytes: [`MAX_FACES`] at 512 dimensions take half of it.
const MAX_FILE: u64 = 64 << 20;
/// Longest embedding.
const MAX_DIMENSION: usize = 8192;
/// Longest name in bytes: the limit of file systems.
const MAX_NAME: usize = 255;
/// Largest side of a picture in pixels.
const MAX_SIDE: u32 = 16384;
/// Version of the file format read and written here.
const VERSION: u64 = 1;

/// The known identity that is closest to a face.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// Name of the identity.
    pub name: Arc<str>,
    /// Cosine of the angle to the closest of its embeddings, -1 to 1.
    pub similarity: f32,
    /// The same for the closest other identity; `None` where there is no other.
    pub second_similarity: Option<f32>,
}

/// Identities with one or more embeddings each, all of one length.
#[derive(Debug, Clone, PartialEq)]
pub struct Gallery {
    dimension: usize,
    names: Vec<Arc<str>>,
    /// Index of the identity of each face.
    identity: Vec<usize>,
    /// Embeddings of length 1, one after the other.
    embeddings: Vec<f32>,
}

impl Gallery {
    /// An empty gallery for embeddings of `dimension` numbers.
    pub fn new(dimension: usize) -> Self {
        Self {
            dimension,
            names: Vec::new(),
            identity: Vec::new(),
            embeddings: Vec::new(),
        }
    }

    /// Adds a face to the identity of this name, which is created if missing. The embedding may have any length in
    /// space but 0; it is normalised to 1.
    ///
    /// # Errors
    /// A sentence: a name without letters or longer than 255 bytes, an embedding of another dimension or without a
    /// direction, a full gallery.
    pub fn add(&mut self, name: &str, embedding: &[f32]) -> Result<(), String> {
        let name = name.trim();
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
            return Err(format!(
                "{name:?} is no name of 1 to {MAX_NAME} bytes without control characters"
            ));
        }
        if embedding.len() != self.dimension {
            return Err(format!(
                "an embedding of {name} has {} numbers instead of {}",
                embedding.len(),
                self.dimension
            ));
        }
        if self.len() >= MAX_FACES {
            return Err(format!(
                "it has more than {MAX_FACES} faces, which is all that is compared"
            ));
        }
        let Some(embedding) = normalised(embedding) else {
            return Err(format!("an embedding of {name} is zero or holds no numbers"));
        };
        let identity = self.names.iter().position(|n| &**n == name).unwrap_or_else(|| {
            self.names.push(name.into());
            self.names.len() - 1
        });
        self.identity.push(identity);
        self.embeddings.extend(embedding);
        Ok(())
    }

    /// The identity closest to a face, at any distance: the caller chooses the similarity from which on it is the same
    /// person. `None` for an empty gallery or an embedding of another dimension. Takes time in proportion to the
    /// number of faces times the dimension.
    pub fn closest(&self, embedding: &[f32]) -> Option<Match> {
        let embedding = normalised(embedding).filter(|e| e.len() == self.dimension)?;
        let mut best: Option<(usize, f32)> = None;
        let mut second: Option<f32> = None;
        for (face, &identity) in self.embeddings.chunks_exact(self.dimension).zip(&self.identity) {
            let similarity = dot(face, &embedding).clamp(-1.0, 1.0);
            match best {
                Some((known, value)) if known == identity => best = Some((known, value.max(similarity))),
                Some((_, value)) if similarity <= value => {
                    second = Some(second.map_or(similarity, |s| s.max(similarity)));
                }
                _ => {
                    second = best.map(|b| b.1);
                    best = Some((identity, similarity));
                }
            }
        }
        best.map(|(identity, similarity)| Match {
            name: Arc::clone(&self.names[identity]),
            similarity,
            second_similarity: second,
        })
    }

    /// Number of faces.
    pub fn len(&self) -> usize {
        self.identity.len()
    }

    /// Whether there is no face.
    pub fn is_empty(&self) -> bool {
        self.identity.is_empty()
    }

    /// Length of the embeddings.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Names of the identities, in order of addition.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|n| &**n)
    }

    /// Reads a file of embeddings.
    ///
    /// # Errors
    /// [`FaceError::Gallery`] when it is missing, too large, not such a file, or empty.
    pub fn load(file: &Path) -> Result<Self, FaceError> {
        let fail = |cause: String| FaceError::Gallery {
            path: file.to_owned(),
            cause,
        };
        let missing = |e| {
            fail(format!(
                "{e}; a gallery is a directory of pictures or a file of embeddings"
            ))
        };
        let size = std::fs::metadata(file).map_err(missing)?.len();
        if size > MAX_FILE {
            return Err(fail(format!("it has {size} bytes, of which {MAX_FILE} are allowed")));
        }
        let bytes = std::fs::read(file).map_err(|e| fail(e.to_string()))?;
        Self::from_json(&bytes).map_err(|cause| {
            fail(format!(
                "{cause}; it must hold {{\"version\": 1, \"dimension\": D, \"faces\": [{{\"name\": \"...\", \
                 \"embedding\": [D numbers]}}]}}"
            ))
        })
    }

    fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let json: Value = serde_json::from_slice(bytes).map_err(|e| format!("it is no JSON ({e})"))?;
        match json.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) => return Err(format!("its version is {other}, known is {VERSION}")),
            None => return Err("it has no version".into()),
        }
        let dimension = json.get("dimension").and_then(Value::as_u64);
        let Some(dimension) = dimension
            .map(|d| d as usize)
            .filter(|d| (2..=MAX_DIMENSION).contains(d))
        else {
            return Err(format!("its dimension is no whole number from 2 to {MAX_DIMENSION}"));
        };
        let Some(faces) = json.get("faces").and_then(Value::as_array) else {
            return Err("it has no list of faces".into());
        };
        if faces.is_empty() {
            return Err("its list of faces is empty".into());
        }
        let mut gallery = Self::new(dimension);
        for (number, face) in faces.iter().enumerate() {
            let Some(name) = face.get("name").and_then(Value::as_str) else {
                return Err(format!("face {number} has no name"));
            };
            let numbers = face.get("embedding").and_then(Value::as_array);
            let embedding: Option<Vec<f32>> =
                numbers.and_then(|n| n.iter().map(|v| v.as_f64().map(|v| v as f32)).collect());
            let Some(embedding) = embedding else {
                return Err(format!("face {number} ({name}) has no embedding of numbers"));
            };
            gallery
                .add(name, &embedding)
                .map_err(|e| format!("face {number}: {e}"))?;
        }
        Ok(gallery)
    }

    /// Writes a file of embeddings that [`Gallery::load`] reads.
    ///
    /// # Errors
    /// [`FaceError::Gallery`] when it cannot be written.
    pub fn save(&self, file: &Path) -> Result<(), FaceError> {
        std::fs::write(file, self.to_json()).map_err(|e| FaceError::Gallery {
            path: file.to_owned(),
            cause: format!("it cannot be written: {e}"),
        })
    }

    /// Writes one face per line, so that a person can read and edit it.
    fn to_json(&self) -> String {
        let mut text = format!(
            "{{\"version\": {VERSION}, \"dimension\": {}, \"faces\": [",
            self.dimension
        );
        let faces = self.embeddings.chunks_exact(self.dimension.max(1)).zip(&self.identity);
        for (number, (embedding, identity)) in faces.enumerate() {
            // The name is escaped by serde; numbers are written as the shortest text that reads back as the same f32.
            let name = Value::from(&*self.names[*identity]);
            let numbers: Vec<String> = embedding.iter().map(|v| format!("{v:?}")).collect();
            let comma = if number == 0 { "" } else { "," };
            text.push_str(&format!(
                "{comma}\n{{\"name\": {name}, \"embedding\": [{}]}}",
                numbers.join(", ")
            ));
        }
        text.push_str("\n]}\n");
        text
    }

    /// Reads a directory of pictures. `embed` returns the embedding of the largest face in a picture, or `None` if it
    /// has none. The second result holds the warnings, one sentence each.
    ///
    /// # Errors
    /// [`FaceError::Gallery`] when the directory cannot be read or gives no face at all; [`FaceError::Model`] when the
    /// models fail for another reason than a picture.
    pub fn from_directory(
        directory: &Path,
        dimension: usize,
        mut embed: impl FnMut(&RgbImage) -> Result<Option<Vec<f32>>, ModelError>,
    ) -> Result<(Self, Vec<String>), FaceError> {
        let fail = |cause: String| FaceError::Gallery {
            path: directory.to_owned(),
            cause,
        };
        let mut warnings = Vec::new();
        let pictures = pictures(directory, &mut warnings).map_err(fail)?;
        let mut gallery = Self::new(dimension);
        for (name, file) in &pictures {
            let problem = match decode(file) {
                Ok(picture) => match embed(&picture) {
                    Ok(Some(embedding)) => gallery.add(name, &embedding).err(),
                    // Only this picture is at fault, as far as known: others may work.
                    Err(error @ (ModelError::Picture(_) | ModelError::Inference(_))) => Some(error.to_string()),
                    Err(error) => return Err(error.into()),
                    Ok(None) => Some("no face is found in it; use a larger or sharper picture, or remove it".into()),
                },
                Err(cause) => Some(cause),
            };
            if let Some(cause) = problem {
                warnings.push(format!("{}: {cause}", file.display()));
            }
        }
        if gallery.is_empty() {
            let first = warnings.first().map_or(String::new(), |w| format!(" ({w})"));
            return Err(fail(format!(
                "none of its {} pictures gives a face{first}; it needs NAME.jpg, NAME.png or NAME/*.jpg",
                pictures.len()
            )));
        }
        Ok((gallery, warnings))
    }
}

/// Dot product, in eight partial sums that the compiler vectorises.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (blocks_a, blocks_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = blocks_a
        .remainder()
        .iter()
        .zip(blocks_b.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in blocks_a.zip(blocks_b) {
        for n in 0..8 {
            sums[n] += a[n] * b[n];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Pictures of a directory with the names of their identities, in the order of their paths.
fn pictures(directory: &Path, warnings: &mut Vec<String>) -> Result<Vec<(String, PathBuf)>, String> {
    let mut found = Vec::new();
    for path in entries(directory)? {
        if path.is_dir() {
            let name = path.file_name().and_then(|n| n.to_str());
            let (Some(name), Ok(inner)) = (name, entries(&path)) else {
                warnings.push(format!(
                    "{}: it cannot be read, or its name is no Unicode",
                    path.display()
                ));
                continue;
            };
            for path in inner {
                if !path.is_dir() && is_picture(&path) {
                    found.push((name.to_owned(), path));
                } else {
                    warnings.push(format!("{}: it is no JPEG or PNG picture", path.display()));
                }
            }
        } else {
            let stem = path.file_stem().and_then(|n| n.to_str());
            match stem.filter(|_| is_picture(&path)) {
                Some(stem) => found.push((identity(stem).to_owned(), path)),
                None => warnings.push(format!("{}: it is no JPEG or PNG picture", path.display())),
            }
        }
    }
    if found.len() > MAX_FACES {
        return Err(format!(
            "it has {} pictures, of which {MAX_FACES} are compared",
            found.len()
        ));
    }
    Ok(found)
}

/// Entries of a directory that are not hidden, in order.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let hidden = |p: &PathBuf| p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
    let entries = std::fs::read_dir(directory).map_err(|e| e.to_string())?;
    let mut paths = entries
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    paths.retain(|p| !hidden(p));
    paths.sort();
    Ok(paths)
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["jpg", "jpeg", "png"].iter().any(|e| extension.eq_ignore_ascii_case(e))
}

/// A file's stem without the number at its end.
fn identity(stem: &str) -> &str {
    match stem.rsplit_once('_') {
        Some((name, number))
            if !name.trim().is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            name
        }
        _ => stem,
    }
}

/// Decodes a picture file to RGB, turned upright by its EXIF data.
fn decode(file: &Path) -> Result<RgbImage, String> {
    let reader = ImageReader::open(file).map_err(|e| e.to_string())?;
    // By content: a PNG named .jpg is still a picture.
    let mut reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    let read = || -> Result<DynamicImage, image::ImageError> {
        let mut decoder = reader.into_decoder()?;
        let orientation = decoder.orientation()?;
        let mut picture = DynamicImage::from_decoder(decoder)?;
        picture.apply_orientation(orientation);
        Ok(picture)
    };
    let picture = read().map_err(|e| format!("it cannot be decoded: {e}"))?.into_rgb8();
    if picture.width() == 0 || picture.height() == 0 {
        return Err("it has no pixels".into());
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A unit vector at this angle in degrees.
    fn at(degrees: f32) -> [f32; 2] {
        let (y, x) = degrees.to_radians().sin_cos();
        [x, y]
    }

    fn gallery(faces: &[(&str, f32)]) -> Gallery {
        let mut gallery = Gallery::new(2);
        for (name, degrees) in faces {
            gallery.add(name, &at(*degrees)).unwrap();
        }
        gallery
    }

    fn assert_match(found: Option<Match>, name: &str, degrees: f32, second: Option<f32>) {
        let cosine = |d: f32| d.to_radians().cos();
        let found = found.unwrap();
        assert_eq!(&*found.name, name);
        assert!((found.similarity - cosine(degrees)).abs() < 1e-6, "{found:?}");
        assert_eq!(found.second_similarity.is_some(), second.is_some(), "{found:?}");
        if let (Some(own), Some(wanted)) = (found.second_similarity, second) {
            assert!((own - cosine(wanted)).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn the_closest_embedding_of_an_identity_counts_and_the_second_is_another_identity() {
        let faces = [
            ("Ada", 0.0),
            ("Bob", 90.0),
            ("Ada", 40.0),
            ("Çelik", 200.0),
            ("Bob", 100.0),
        ];
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [1, 2, 0, 4, 3]] {
            let g = gallery(&order.map(|i| faces[i]));
            assert_eq!((g.len(), g.names().count()), (5, 3));
            assert_match(g.closest(&at(30.0)), "Ada", 10.0, Some(60.0));
            assert_match(g.closest(&at(5.0)), "Ada", 5.0, Some(85.0));
            assert_match(g.closest(&at(97.0)), "Bob", 3.0, Some(57.0));
            assert_match(g.closest(&at(180.0)), "Çelik", 20.0, Some(80.0));
        }
        // The length of the vector does not matter.
        assert_match(
            gallery(&faces).closest(&at(30.0).map(|v| v * 7.0)),
            "Ada",
            10.0,
            Some(60.0),
        );
        assert_match(gallery(&faces[..1]).closest(&at(30.0)), "Ada", 30.0, None);
        assert_match(gallery(&[faces[0], faces[2]]).closest(&at(30.0)), "Ada", 10.0, None);
    }

    #[test]
    fn nothing_is_closest_in_an_empty_gallery_or_to_a_wrong_vector() {
        assert_eq!(Gallery::new(2).closest(&at(1.0)), None);
        assert_eq!(Gallery::new(0).closest(&[]), None);
        let g = gallery(&[("Ada", 0.0)]);
        for wrong in [
            &[][..],
            &[1.0],
            &[1.0, 0.0, 0.0],
            &[0.0, 0.0],
            &[f32::NAN, 1.0],
            &[f32::INFINITY, 1.0],
        ] {
            assert_eq!(g.closest(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn wrong_names_and_embeddings_are_not_added() {
        let mut g = Gallery::new(2);
        let long = "x".repeat(256);
        for (name, embedding, word) in [
            ("", &[1.0, 0.0][..], "name"),
            (" \t", &[1.0, 0.0], "name"),
            ("a\nb", &[1.0, 0.0], "control"),
            (&long, &[1.0, 0.0], "255"),
            ("Ada", &[1.0], "1 numbers instead of 2"),
            ("Ada", &[0.0, 0.0], "zero"),
            ("Ada", &[f32::NAN, 0.0], "no numbers"),
        ] {
            let error = g.add(name, embedding).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(g.is_empty());
        for _ in 0..MAX_FACES {
            g.add("Ada", &at(3.0)).unwrap();
        }
        assert!(g.add("Ada", &at(3.0)).unwrap_err().contains("4096"));
    }

    #[test]
    fn a_number_at_the_end_is_no_part_of_the_name() {
        for (stem, name) in [
            ("Ada", "Ada"),
            ("Ada_2", "Ada"),
            ("Ada_Lovelace_013", "Ada_Lovelace"),
            ("Ada_", "Ada_"),
            ("Ada_b", "Ada_b"),
            ("Ada2", "Ada2"),
            ("_2", "_2"),
            ("Ngô Đình_1", "Ngô Đình"),
            ("李_٣", "李_٣"),
        ] {
            assert_eq!(identity(stem), name);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_gallery_or_an_error(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            cut in 0usize..300,
            at in 0usize..300,
            byte in proptest::num::u8::ANY,
        ) {
            let _ = Gallery::from_json(&bytes);
            let mut good = gallery(&[("Ada \"x\" 李", 12.0), ("Bob", 77.0)]).to_json().into_bytes();
            let at = at % good.len();
            good[at] = byte;
            good.truncate(cut);
            let _ = Gallery::from_json(&good);
        }

        #[test]
        fn what_is_written_is_read_again(
            vectors in proptest::collection::vec(proptest::array::uniform3(-1.0f32..1.0), 1..20),
            names in proptest::collection::vec("[a-zé李\"\\\\]{1,6}", 20),
        ) {
            let mut g = Gallery::new(3);
            for (vector, name) in vectors.iter().zip(&names) {
                // A zero vector is refused.
                let _ = g.add(name, vector);
            }
            proptest::prop_assume!(!g.is_empty());
            let again = Gallery::from_json(g.to_json().as_bytes()).unwrap();
            proptest::prop_assert_eq!((&again.names, &again.identity), (&g.names, &g.identity));
            for (a, b) in again.embeddings.iter().zip(&g.embeddings) {
                proptest::prop_assert!((a - b).abs() < 1e-6);
            }
        }
    }
}
