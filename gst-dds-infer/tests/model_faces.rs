// SPDX-License-Identifier: MPL-2.0

//! Faces are found with their landmarks, embedded and recognised: on models with known output, and on people.

#[path = "common/onnx.rs"]
mod onnx;

use std::path::Path;

use gst::prelude::*;
use gst_video::prelude::*;
use gstddsinfer::model::face::{
    Embedder, FaceError, FaceInference, FaceRecogniser, FaceSettings, Gallery, RecogniseSettings, align,
};
use gstddsinfer::model::{Detector, InferSettings, Landmarks, ModelError, ModelSettings, Picture, PixelLayout};
use image::RgbImage;
use onnx::{F16, Folder, I64, Model, Output, U8, settings};

/// Values of one output of YuNet for `cells` cells, zero but for the given ones.
fn rows(cells: usize, numbers: usize, given: &[(usize, &[f32])]) -> Vec<f32> {
    let mut values = vec![0.0; cells * numbers];
    for (cell, row) in given {
        values[cell * numbers..][..numbers].copy_from_slice(row);
    }
    values
}

/// One face: stride, cell, class score, objectness, box, landmarks.
type Face = (usize, usize, f32, f32, [f32; 4], [f32; 10]);

/// A YuNet model of 64x64 pixels that finds these faces.
fn yunet(faces: &[Face]) -> Model {
    let mut outputs = Vec::new();
    for (stride, cells) in [(8, 64), (16, 16), (32, 4)] {
        let here = || faces.iter().filter(|f| f.0 == stride);
        let of = |part: &str, numbers: usize, given: Vec<(usize, &[f32])>| {
            Output::new(
                &format!("{part}_{stride}"),
                &[1, cells, numbers],
                rows(cells, numbers, &given),
            )
        };
        outputs.push(of("kps", 10, here().map(|f| (f.1, &f.5[..])).collect()));
        outputs.push(of(
            "cls",
            1,
            here().map(|f| (f.1, std::slice::from_ref(&f.2))).collect(),
        ));
        outputs.push(of("bbox", 4, here().map(|f| (f.1, &f.4[..])).collect()));
        outputs.push(of(
            "obj",
            1,
            here().map(|f| (f.1, std::slice::from_ref(&f.3))).collect(),
        ));
    }
    Model::new(&[1, 3, 64, 64], outputs)
}

/// Landmarks in cells of 16 pixels around the corner of a cell.
const POINTS: [f32; 10] = [0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 0.0, 1.0, 1.0, 1.0];

/// A face of 32x48 pixels in the cell x 1, y 2 of the grid of 16 pixels, centre 24, 40.
fn one_face(class: f32, object: f32) -> Face {
    (16, 4 * 2 + 1, class, object, [0.5, 0.5, 2f32.ln(), 3f32.ln()], POINTS)
}

fn write(folder: &Folder, name: &str, model: &Model) -> ModelSettings {
    settings(folder.file(name, &model.bytes()))
}

/// An embedder whose vector is `values` plus `follows` times the mean of its input.
fn embedder(side: usize, values: &[f32], follows: &[f32]) -> Model {
    let output = Output::new("embeddings", &[1, values.len()], values.to_vec()).following(follows.to_vec());
    Model::new(&[1, 3, side, side], vec![output])
}

#[test]
fn yunet_is_known_by_its_names_and_gives_faces_with_landmarks() {
    let folder = Folder::new("yunet");
    let model = yunet(&[
        one_face(0.64, 1.0),
        // The same face again with a lower score; one too weak; one whose landmarks are not finite.
        (16, 4 * 2 + 2, 0.5, 0.5, [-0.5, 0.5, 2f32.ln(), 3f32.ln()], POINTS),
        (8, 3, 1.0, 0.001, [0.0; 4], POINTS),
        (32, 1, 0.25, 0.36, [0.5, 0.25, -0.7, -0.7], [f32::NAN; 10]),
    ]);
    let mut detector = Detector::open(&write(&folder, "m.onnx", &model)).unwrap();
    assert!(detector.has_landmarks());
    assert!(
        detector.summary().starts_with("yunet (by the shape"),
        "{}",
        detector.summary()
    );
    assert!(detector.summary().contains("64x64 Bgr"), "{}", detector.summary());
    assert_eq!(detector.label(0), "face");
    // Twice the width of the input: letterboxing halves it.
    let grey = vec![128u8; 3 * 128 * 64];
    let picture = Picture::rgb(128, 64, &grey, 3 * 128).unwrap();
    let found = detector.infer(&picture, &InferSettings::default()).unwrap();
    assert_eq!(found.detections.len(), 2, "{found:?}");
    let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-3, "{a} is not {b}");
    let face = found.detections[0];
    near(face.score, 0.8);
    near(face.objectness.unwrap(), 1.0);
    // The picture does not reach below 64.
    for (own, wanted) in [face.x1, face.y1, face.x2, face.y2]
        .into_iter()
        .zip([16.0, 32.0, 80.0, 64.0])
    {
        near(own, wanted);
    }
    let wanted = [[32.0, 64.0], [64.0, 64.0], [48.0, 80.0], [32.0, 96.0], [64.0, 96.0]];
    for (own, wanted) in found.landmarks[0]
        .unwrap()
        .as_flattened()
        .iter()
        .zip(wanted.as_flattened())
    {
        near(*own, *wanted);
    }
    near(found.detections[1].score, 0.3);
    assert_eq!(found.landmarks[1], None);
}

#[test]
fn other_detectors_give_no_landmarks() {
    let folder = Folder::new("nolandmarks");
    let mut values = vec![0.0; 84 * 6];
    values[..6].copy_from_slice(&[20.0, 10.0, 8.0, 4.0, 0.9, 0.1]);
    let model = Model::new(&[1, 3, 64, 64], vec![Output::new("o", &[1, 84, 6], values)]);
    let mut file = write(&folder, "yolo.onnx", &model);
    file.description = Some("family=yolov8".into());
    let mut detector = Detector::open(&file).unwrap();
    let grey = vec![128u8; 3 * 64 * 64];
    let found = detector
        .infer(&Picture::rgb(64, 64, &grey, 192).unwrap(), &InferSettings::default())
        .unwrap();
    assert_eq!(found.landmarks, [None]);
    let error = FaceRecogniser::open(&FaceSettings {
        detector: file,
        ..FaceSettings::default()
    });
    let error = error.err().unwrap().to_string();
    for word in ["yolo.onnx", "landmarks", "YuNet"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn outputs_that_are_almost_yunets_are_refused_with_the_reason() {
    let folder = Folder::new("almost");
    for (change, words) in [
        (
            Box::new(|m: &mut Model| drop(m.outputs.pop())) as Box<dyn Fn(&mut Model)>,
            ["12 outputs", "11"],
        ),
        (
            Box::new(|m| m.outputs[0] = Output::new("points_8", &[1, 64, 10], vec![0.0; 640])),
            ["kps_8", "points_8"],
        ),
        (
            Box::new(|m| m.outputs[3] = Output::new("obj_8", &[1, 32, 1], vec![0.0; 32])),
            ["obj_8 has the shape", "[1, 32, 1]"],
        ),
        (
            Box::new(|m| m.outputs[3] = Output::new("obj_8", &[1, 64, 1], vec![0.0; 64]).element(I64)),
            ["obj_8 has the shape", "almost"],
        ),
    ] {
        let mut model = yunet(&[one_face(0.9, 0.9)]);
        change(&mut model);
        let file = ModelSettings {
            description: Some("family=yunet".into()),
            ..write(&folder, "m.onnx", &model)
        };
        let error = Detector::open(&file).err().unwrap();
        assert!(matches!(error, ModelError::Contradiction { .. }), "{error}");
        words
            .iter()
            .for_each(|w| assert!(error.to_string().contains(w), "'{w}' is not in: {error}"));
    }
}

/// Landmarks that match the template when scaled and shifted.
fn face_at(x: f32, y: f32, scale: f32) -> Landmarks {
    align::TEMPLATE.map(|[tx, ty]| [x + scale * tx, y + scale * ty])
}

#[test]
fn an_embedding_follows_the_aligned_face_and_has_length_one() {
    let folder = Folder::new("embed");
    // White where the face is, black elsewhere: aligned it is all white, 1 after normalisation.
    let image = RgbImage::from_fn(400, 300, |x, y| {
        image::Rgb(
            [if (99..=215).contains(&x) && (49..=165).contains(&y) {
                255
            } else {
                0
            }; 3],
        )
    });
    let picture = Picture::rgb(400, 300, image.as_raw(), 1200).unwrap();
    let half = 0.5f32;
    for (side, element) in [(112, onnx::F32), (64, F16), (160, onnx::F32)] {
        let model = embedder(side, &[1.0, 0.0, 0.0], &[0.0, 1.0, half]).input_element(element);
        let mut embedder = Embedder::open(&write(&folder, "e.onnx", &model)).unwrap();
        assert_eq!(embedder.dimension(), 3);
        let embedded = embedder.embed(&picture, &face_at(100.0, 50.0, 1.0)).unwrap();
        let embedding = embedded.embedding.unwrap();
        for (own, wanted) in embedding.iter().zip([1.0, 1.0, half].map(|v| v / 1.5)) {
            assert!((own - wanted).abs() < 2e-3, "{side}: {embedding:?}");
        }
        // Nothing but black is -1.
        let embedding = embedder
            .embed(&picture, &face_at(250.0, 170.0, 1.0))
            .unwrap()
            .embedding
            .unwrap();
        assert!(embedding[1] < -0.6, "{embedding:?}");
        assert_eq!(embedder.embed(&picture, &[[7.0, 7.0]; 5]).unwrap().embedding, None);
        assert_eq!(embedder.embed(&picture, &[[f32::NAN; 2]; 5]).unwrap().embedding, None);
    }
}

#[test]
fn a_vector_that_changes_its_length_is_no_embedding_where_that_is_declared_and_an_error_where_not() {
    let folder = Folder::new("embeddynamic");
    let vector = || Output::new("embeddings", &[1, 4], vec![1.0; 4]);
    let embed = |embedder: &mut Embedder, grey: u8| {
        let pixels = vec![grey; 3 * 300 * 300];
        let picture = Picture::rgb(300, 300, &pixels, 900).unwrap();
        let embedded = embedder.embed(&picture, &face_at(100.0, 100.0, 1.0));
        embedded.map(|e| e.embedding.is_some()).map_err(|e| e.to_string())
    };
    for (output, declared) in [(vector().part_of(1), true), (vector().part_of_undeclared(1), false)] {
        let model = Model::new(&[1, 3, 112, 112], vec![output]);
        let mut embedder = Embedder::open(&ModelSettings {
            description: Some("scale=1,mean=0,std=255,pad=255".into()),
            ..write(&folder, "e.onnx", &model)
        })
        .unwrap();
        assert_eq!(embed(&mut embedder, 255), Ok(true));
        for grey in [128, 0] {
            match embed(&mut embedder, grey) {
                Ok(embedded) => assert!(declared && !embedded, "grey {grey}"),
                Err(error) => assert!(!declared && error.contains("instead of 4"), "grey {grey}: {error}"),
            }
        }
        assert_eq!(embed(&mut embedder, 255), Ok(true));
    }
}

#[test]
fn names_in_an_embedders_metadata_do_not_make_it_a_detector() {
    let folder = Folder::new("embednames");
    let named = embedder(112, &[1.0, 0.0], &[0.0, 1.0])
        .metadata("names", "{0: 'face'}")
        .metadata("end2end", "True");
    assert_eq!(
        Embedder::open(&write(&folder, "e.onnx", &named)).unwrap().dimension(),
        2
    );
}

#[test]
fn descriptions_change_an_embedders_input() {
    let folder = Folder::new("embedinput");
    let white = RgbImage::from_pixel(200, 200, image::Rgb([255; 3]));
    let picture = Picture::rgb(200, 200, white.as_raw(), 600).unwrap();
    let output = || Output::new("e", &[2], vec![3.0, 0.0]).following(vec![0.0, 1.0]);
    for (element, description, mean) in [
        (onnx::F32, "scale=1/255", 1.0),
        (onnx::F32, "scale=1/255, mean=0.5, std=0.25", 2.0),
        (U8, "scale=1, mean=0, std=1", 255.0),
    ] {
        let model = Model::new(&[3, 112, 112], vec![output()]).input_element(element);
        let file = ModelSettings {
            description: Some(description.into()),
            ..write(&folder, "e.onnx", &model)
        };
        let embedded = Embedder::open(&file)
            .unwrap()
            .embed(&picture, &face_at(10.0, 10.0, 1.0))
            .unwrap();
        let embedding = embedded.embedding.unwrap();
        assert!(
            (embedding[1] / embedding[0] * 3.0 - mean).abs() < mean * 1e-3,
            "{embedding:?}"
        );
    }
}

#[test]
fn a_vector_without_a_direction_is_no_embedding() {
    let folder = Folder::new("zero");
    let white = RgbImage::from_pixel(200, 200, image::Rgb([255; 3]));
    let picture = Picture::rgb(200, 200, white.as_raw(), 600).unwrap();
    for (values, follows) in [
        ([0.0; 2], [0.0; 2]),
        ([f32::NAN, 1.0], [0.0; 2]),
        ([1.0; 2], [f32::INFINITY, 0.0]),
    ] {
        let file = write(&folder, "e.onnx", &embedder(112, &values, &follows));
        let embedded = Embedder::open(&file)
            .unwrap()
            .embed(&picture, &face_at(10.0, 10.0, 1.0))
            .unwrap();
        assert_eq!(embedded.embedding, None);
    }
}

#[test]
fn models_that_do_not_embed_faces_are_refused_with_the_reason() {
    let folder = Folder::new("noembedder");
    let vector = || Output::new("v", &[1, 4], vec![1.0; 4]);
    for (model, description, words) in [
        (yunet(&[]), "", ["its outputs are", "one vector [1, D]"]),
        (
            Model::new(&[1, 3, 64, 64], vec![Output::new("v", &[1, 1], vec![1.0])]),
            "",
            ["[1, 1]", "one vector [1, D]"],
        ),
        (
            Model::new(&[1, 3, 64, 64], vec![vector().element(I64)]),
            "",
            ["its outputs are", "[1, D]"],
        ),
        (Model::new(&[1, 3, 64, 48], vec![vector()]), "", ["48x64", "square"]),
        (Model::new(&[1, 3, 8, 8], vec![vector()]), "", ["8x8", "from 16"]),
        (Model::new(&[1, 3, 0, 0], vec![vector()]), "", ["dynamic", "dds-width"]),
        (
            Model::new(&[1, 3, 64, 64], vec![vector()]),
            "family=yolox",
            ["dds-family=yolox", "leave"],
        ),
        (
            Model::new(&[1, 3, 64, 64], vec![vector()]),
            "labels=a;b",
            ["e.onnx", "no labels"],
        ),
        (
            Model::new(&[1, 3, 64, 64], vec![vector()]).input_element(U8),
            "",
            ["bytes", "embedders of faces"],
        ),
    ] {
        let file = ModelSettings {
            description: Some(description.into()),
            ..write(&folder, "e.onnx", &model)
        };
        let error = Embedder::open(&file).err().unwrap().to_string();
        words
            .iter()
            .for_each(|w| assert!(error.contains(w), "'{w}' is not in: {error}"));
    }
    let dynamic = ModelSettings {
        description: Some("width=112, height=112".into()),
        ..write(&folder, "e.onnx", &Model::new(&[0, 3, 0, 0], vec![vector()]))
    };
    assert_eq!(Embedder::open(&dynamic).unwrap().dimension(), 4);
    assert!(matches!(
        Embedder::open(&settings(folder.path("none.onnx"))),
        Err(ModelError::ModelFile { .. })
    ));
}

/// Both models in a folder: one face of 32x32 pixels (clipped) in a picture of 64x64, and an embedder of 2 dimensions
/// whose vector turns with the brightness of the face.
fn models(folder: &Folder) -> FaceSettings {
    FaceSettings {
        detector: write(folder, "d.onnx", &yunet(&[one_face(0.9, 0.9)])),
        embedder: write(folder, "e.onnx", &embedder(112, &[1.0, 0.0], &[0.0, 1.0])),
        gallery: None,
    }
}

fn picture_file(folder: &Path, name: &str, grey: u8) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(64, 64, image::Rgb([grey; 3])).save(path).unwrap();
}

fn infer(recogniser: &mut FaceRecogniser, grey: u8, recognise: &RecogniseSettings) -> FaceInference {
    let data = vec![grey; 3 * 64 * 64];
    let picture = Picture::rgb(64, 64, &data, 192).unwrap();
    recogniser
        .infer(&picture, &InferSettings::default(), recognise)
        .unwrap()
}

#[test]
fn a_directory_of_pictures_becomes_a_gallery_and_a_file_of_it_the_same_gallery() {
    let folder = Folder::new("people");
    let people = folder.path("people");
    picture_file(&people, "Zoë_1.png", 250);
    picture_file(&people, "Zoë_2.jpg", 240);
    picture_file(&people, "李/any name.JPEG", 10);
    picture_file(&people, "李/second.png", 20);
    std::fs::write(people.join("notes.txt"), "no picture").unwrap();
    std::fs::write(people.join("broken.jpg"), "no picture").unwrap();
    std::fs::write(people.join(".hidden"), "x").unwrap();
    std::fs::create_dir_all(people.join("李/deeper")).unwrap();

    let mut recogniser = FaceRecogniser::open(&FaceSettings {
        gallery: Some(people.clone()),
        ..models(&folder)
    })
    .unwrap();
    let warnings: Vec<&str> = recogniser.warnings().collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, words) in warnings.iter().zip([
        ["notes.txt", "no JPEG or PNG"],
        ["deeper", "no JPEG or PNG"],
        ["broken.jpg", "cannot be decoded"],
    ]) {
        words
            .iter()
            .for_each(|w| assert!(warning.contains(w), "'{w}' is not in: {warning}"));
    }
    let check = |recogniser: &mut FaceRecogniser| {
        let gallery = recogniser.gallery().unwrap();
        assert_eq!((gallery.len(), gallery.dimension()), (4, 2));
        assert_eq!(gallery.names().collect::<Vec<_>>(), ["Zoë", "李"]);
        for (grey, name) in [(245, "Zoë"), (15, "李")] {
            let found = infer(recogniser, grey, &RecogniseSettings::default());
            let best = found.matches[0].clone().unwrap();
            assert_eq!(&*best.name, name);
            assert!(
                best.similarity > 0.99 && best.second_similarity.unwrap() < 0.7,
                "{best:?}"
            );
            assert!(found.embeddings.is_empty());
        }
    };
    check(&mut recogniser);

    let file = folder.path("people.json");
    recogniser.gallery().unwrap().save(&file).unwrap();
    let mut from_file = FaceRecogniser::open(&FaceSettings {
        gallery: Some(file),
        ..models(&folder)
    })
    .unwrap();
    assert_eq!(from_file.warnings().count(), 0);
    check(&mut from_file);
}

#[test]
fn small_weak_and_too_many_faces_are_not_embedded_and_counted() {
    let folder = Folder::new("limits");
    let mut recogniser = FaceRecogniser::open(&models(&folder)).unwrap();
    let base = RecogniseSettings {
        keep_embeddings: true,
        ..RecogniseSettings::default()
    };
    let counts = |recogniser: &mut FaceRecogniser, recognise: RecogniseSettings| {
        let found = infer(recogniser, 200, &recognise);
        assert_eq!(found.detections.len(), 1);
        assert_eq!(found.matches, [None], "there is no gallery");
        (
            found.embeddings[0].is_some(),
            found.too_small,
            found.left_out,
            found.senseless,
        )
    };
    assert_eq!(counts(&mut recogniser, base), (true, 0, 0, 0));
    assert_eq!(
        counts(&mut recogniser, RecogniseSettings { min_size: 33.0, ..base }),
        (false, 1, 0, 0)
    );
    assert_eq!(
        counts(&mut recogniser, RecogniseSettings { max_faces: 0, ..base }),
        (false, 0, 1, 0)
    );
    assert_eq!(
        counts(
            &mut recogniser,
            RecogniseSettings {
                threshold: 0.95,
                ..base
            }
        ),
        (false, 0, 0, 0)
    );

    let point = (16, 9, 0.9, 0.9, [0.5, 0.5, 1.0, 1.0], [0.5; 10]);
    let mut recogniser = FaceRecogniser::open(&FaceSettings {
        detector: write(&folder, "point.onnx", &yunet(&[point])),
        ..models(&folder)
    })
    .unwrap();
    assert_eq!(counts(&mut recogniser, base), (false, 0, 0, 1));
}

#[test]
fn wrong_galleries_are_refused_with_the_reason() {
    let folder = Folder::new("galleries");
    std::fs::create_dir_all(folder.path("empty")).unwrap();
    picture_file(&folder.path("faceless"), "a.png", 90);
    let file = |name: &str, text: &str| folder.file(name, text.as_bytes());
    let mut cases = vec![
        (folder.path("none"), "none", "No such file"),
        (folder.path("empty"), "empty", "NAME.jpg"),
        (file("text", "people"), "text", "no JSON"),
        (file("list", "[]"), "list", "no version"),
        (file("two", r#"{"version": 2}"#), "two", "version is 2"),
        (file("dim", r#"{"version": 1, "dimension": 1.5}"#), "dim", "dimension"),
        (
            file("huge", r#"{"version": 1, "dimension": 1000000}"#),
            "huge",
            "dimension",
        ),
        (
            file("nolist", r#"{"version": 1, "dimension": 2}"#),
            "nolist",
            "no list of faces",
        ),
        (
            file("nobody", r#"{"version": 1, "dimension": 2, "faces": []}"#),
            "nobody",
            "empty",
        ),
    ];
    for (name, face, word) in [
        ("f1", r#"{"embedding": [1, 0]}"#, "face 0 has no name"),
        ("f2", r#"{"name": "Ada"}"#, "no embedding"),
        (
            "f3",
            r#"{"name": "Ada", "embedding": [1, "0"]}"#,
            "no embedding of numbers",
        ),
        (
            "f4",
            r#"{"name": "Ada", "embedding": [1, 0, 0]}"#,
            "3 numbers instead of 2",
        ),
        ("f5", r#"{"name": "Ada", "embedding": [0, 0]}"#, "zero"),
        ("f6", r#"{"name": " ", "embedding": [1, 0]}"#, "name"),
    ] {
        let text = format!(r#"{{"version": 1, "dimension": 2, "faces": [{face}]}}"#);
        cases.push((file(name, &text), name, word));
    }
    for (path, name, word) in cases {
        let error = FaceRecogniser::open(&FaceSettings {
            gallery: Some(path),
            ..models(&folder)
        });
        let error = error.err().unwrap();
        assert!(matches!(error, FaceError::Gallery { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(word), "'{word}' is not in: {text}");
    }

    let other = file(
        "other",
        r#"{"version": 1, "dimension": 3, "faces": [{"name": "Ada", "embedding": [1, 0, 0]}]}"#,
    );
    let mut recogniser = FaceRecogniser::open(&models(&folder)).unwrap();
    let error = recogniser.open_gallery(&other).unwrap_err().to_string();
    for word in ["other", "e.onnx", "have 3 numbers", " 2;"] {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
    assert!(recogniser.gallery().is_none());

    // A picture in which no face is found.
    let settings = models(&folder);
    let error = FaceRecogniser::open(&FaceSettings {
        detector: write(&folder, "blind.onnx", &yunet(&[])),
        gallery: Some(folder.path("faceless")),
        ..settings
    });
    let error = error.err().unwrap().to_string();
    for word in ["faceless", "none of its 1 pictures", "a.png: no face"] {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }

    let saved = Gallery::new(2).save(&folder.path("no/such/folder.json")).unwrap_err();
    assert!(saved.to_string().contains("cannot be written"), "{saved}");
}

/// The frames of a clip at these indices in a format, I420 or RGB, without padding, and their size.
fn frames(clip: &Path, format: &str, numbers: &[usize]) -> (u32, u32, Vec<Vec<u8>>) {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "filesrc location={} ! qtdemux ! h264parse ! avdec_h264 ! videoconvert ! video/x-raw,format={format} ! \
         appsink name=sink sync=false max-buffers=4",
        clip.display()
    ))
    .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let sink = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("sink").unwrap();
    let sink = sink.downcast::<gst_app::AppSink>().unwrap();
    let (mut size, mut taken) = ((0, 0), Vec::new());
    for number in 0..=*numbers.last().unwrap() {
        let sample = sink.pull_sample().unwrap();
        if !numbers.contains(&number) {
            continue;
        }
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        let frame = gst_video::VideoFrame::from_buffer_readable(sample.buffer_owned().unwrap(), &info).unwrap();
        size = (info.width(), info.height());
        let (w, h) = (size.0 as usize, size.1 as usize);
        let planes = match format {
            "I420" => vec![(w, h), (w.div_ceil(2), h.div_ceil(2)), (w.div_ceil(2), h.div_ceil(2))],
            _ => vec![(3 * w, h)],
        };
        let mut bytes = Vec::new();
        for (plane, (row, rows)) in planes.into_iter().enumerate() {
            let stride = frame.plane_stride()[plane] as usize;
            let lines = frame.plane_data(plane as u32).unwrap().chunks(stride);
            lines.take(rows).for_each(|line| bytes.extend(&line[..row]));
        }
        taken.push(bytes);
    }
    pipeline.set_state(gst::State::Null).unwrap();
    (size.0, size.1, taken)
}

fn i420(width: u32, height: u32, bytes: &[u8]) -> Picture<'_> {
    let (w, h) = (width as usize, height as usize);
    let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
    let (y, chroma) = bytes.split_at(w * h);
    let (u, v) = chroma.split_at(cw * ch);
    Picture::new(PixelLayout::I420, width, height, [y, u, v], [w, cw, cw]).unwrap()
}

const CLIP: &str = "crowd_faces_450p.mp4";

/// Boxes, scores and eyes on the first frame as found by a decoder in Python, after OpenCV's conversion to BGR.
const FACES: &[([f32; 4], f32, [f32; 4])] = &[
    ([229.3, 207.1, 280.6, 275.9], 0.926, [239.7, 232.2, 263.0, 232.2]),
    ([295.0, 240.7, 335.8, 292.1], 0.923, [306.9, 262.0, 324.3, 262.1]),
    ([392.2, 226.0, 435.9, 281.5], 0.918, [404.5, 247.2, 422.3, 247.3]),
    ([615.9, 211.6, 647.4, 246.5], 0.916, [622.7, 222.8, 637.4, 223.1]),
    ([532.5, 236.3, 581.0, 286.5], 0.909, [541.2, 251.2, 559.5, 251.1]),
    ([181.2, 296.5, 242.8, 371.5], 0.909, [193.7, 326.4, 215.1, 327.6]),
    ([159.0, 252.2, 180.5, 280.4], 0.875, [163.6, 263.4, 173.1, 263.4]),
    ([99.4, 223.2, 120.6, 248.8], 0.872, [107.6, 233.0, 116.9, 233.1]),
    ([763.1, 173.1, 795.5, 226.2], 0.839, [768.0, 191.8, 773.4, 192.0]),
    ([427.6, 206.9, 492.9, 294.5], 0.794, [432.9, 243.7, 444.7, 243.5]),
    ([684.9, 226.7, 709.5, 259.1], 0.739, [691.0, 239.3, 692.8, 239.2]),
    ([668.9, 225.0, 693.2, 254.8], 0.722, [680.4, 236.1, 687.8, 236.4]),
];

fn people(folder: &Path) -> FaceRecogniser {
    let model = |name: &str| ModelSettings {
        // Pictures are small and many tests run at once.
        threads: 1,
        ..settings(folder.join("models").join(name))
    };
    FaceRecogniser::open(&FaceSettings {
        detector: model("yunet_n_face.onnx"),
        embedder: model("mobilefacenet_112.onnx"),
        gallery: None,
    })
    .unwrap()
}

fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let area = |c: &[f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    w * h / (area(a) + area(b) - w * h)
}

/// Boxes and embeddings of the faces of a frame that are large enough to be recognised.
fn embedded(found: &FaceInference) -> Vec<([f32; 4], &[f32])> {
    let faces = found.detections.iter().zip(&found.embeddings);
    faces
        .filter_map(|(d, e)| Some(([d.x1, d.y1, d.x2, d.y2], e.as_deref()?)))
        .collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

const EMBED: RecogniseSettings = RecogniseSettings {
    threshold: 0.6,
    min_size: 24.0,
    max_faces: 64,
    keep_embeddings: true,
};

const INFER: InferSettings = InferSettings {
    floor: 0.05,
    iou_threshold: 0.3,
    max_detections: 300,
};

#[test]
fn yunet_finds_the_faces_and_landmarks_that_the_reference_finds() {
    let Some(folder) = onnx::data() else { return };
    let (width, height, frames) = frames(&folder.join("videos").join(CLIP), "I420", &[0]);
    let found = people(&folder)
        .infer(&i420(width, height, &frames[0]), &INFER, &EMBED)
        .unwrap();
    for (corners, score, eyes) in FACES {
        let same = |i: &usize| {
            let d = &found.detections[*i];
            overlap(&[d.x1, d.y1, d.x2, d.y2], corners) > 0.9 && (d.score - score).abs() < 0.05
        };
        let i = (0..found.detections.len()).find(same);
        let i = i.unwrap_or_else(|| panic!("{corners:?} is not in {:?}", found.detections));
        let landmarks = found.landmarks[i].unwrap();
        let near = landmarks
            .as_flattened()
            .iter()
            .zip(eyes)
            .all(|(own, wanted)| (own - wanted).abs() < 1.0);
        assert!(near, "{landmarks:?} {eyes:?}");
    }
}

#[test]
fn one_person_stays_and_two_people_differ() {
    let Some(folder) = onnx::data() else { return };
    // A quarter of a second apart, spread over the clip.
    let pairs: Vec<usize> = (0..15).map(|i| 28 * i + 4).collect();
    let numbers: Vec<usize> = pairs.iter().flat_map(|n| [*n, n + 6]).collect();
    let (width, height, frames) = frames(&folder.join("videos").join(CLIP), "I420", &numbers);
    let mut recogniser = people(&folder);
    let found: Vec<FaceInference> = frames
        .iter()
        .map(|f| recogniser.infer(&i420(width, height, f), &INFER, &EMBED).unwrap())
        .collect();
    let (mut same, mut different) = (Vec::new(), Vec::new());
    for pair in found.chunks_exact(2) {
        let (first, second) = (embedded(&pair[0]), embedded(&pair[1]));
        for (i, (corners, embedding)) in first.iter().enumerate() {
            let later = second.iter().filter(|(c, _)| overlap(c, corners) > 0.4);
            let later = later.max_by(|a, b| overlap(&a.0, corners).total_cmp(&overlap(&b.0, corners)));
            same.extend(later.map(|(_, e)| cosine(embedding, e)));
            different.extend(first[..i].iter().map(|(_, e)| cosine(embedding, e)));
        }
    }
    let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
    different.sort_by(f32::total_cmp);
    same.sort_by(f32::total_cmp);
    let (near, far) = (mean(&same), mean(&different));
    let high = different[different.len() * 95 / 100];
    println!(
        "same face: {} pairs, mean {near:.3}, median {:.3}; different: {} pairs, mean {far:.3}, 95th percentile {high:.3}",
        same.len(),
        same[same.len() / 2],
        different.len(),
    );
    assert!(same.len() >= 40 && different.len() >= 100);
    assert!(near > 0.65 && far < 0.36 && near - far > 0.35 && high < 0.65);
}

#[test]
fn people_in_a_gallery_of_pictures_are_known_again() {
    let Some(folder) = onnx::data() else { return };
    let (first, later) = (4, 10);
    let clip = folder.join("videos").join(CLIP);
    let (width, height, frames) = frames(&clip, "RGB", &[first, later]);
    let picture = |i: usize| Picture::rgb(width, height, &frames[i], 3 * width as usize).unwrap();
    let mut recogniser = people(&folder);

    // Each face with its surroundings, as in a photograph.
    let scratch = Folder::new("crowd");
    let directory = scratch.path("people");
    std::fs::create_dir_all(&directory).unwrap();
    let image = RgbImage::from_raw(width, height, frames[0].clone()).unwrap();
    let found = recogniser.infer(&picture(0), &INFER, &EMBED).unwrap();
    let known: Vec<[f32; 4]> = embedded(&found).iter().map(|f| f.0).collect();
    for (i, [x1, y1, x2, y2]) in known.iter().enumerate() {
        let margin = 0.25 * (x2 - x1).max(y2 - y1);
        let (x, y) = ((x1 - margin).max(0.0) as u32, (y1 - margin).max(0.0) as u32);
        let (w, h) = ((x2 + margin) as u32 - x, (y2 + margin) as u32 - y);
        let crop = image::imageops::crop_imm(&image, x, y, w.min(width - x), h.min(height - y));
        crop.to_image().save(directory.join(format!("person {i}.png"))).unwrap();
    }
    recogniser.open_gallery(&directory).unwrap();
    println!("{:?}", recogniser.warnings().collect::<Vec<_>>());
    println!("{}", recogniser.summary());

    let found = recogniser.infer(&picture(1), &INFER, &EMBED).unwrap();
    let mut seen = 0;
    for (d, m) in found.detections.iter().zip(&found.matches) {
        let corners = [d.x1, d.y1, d.x2, d.y2];
        let same = known.iter().position(|k| overlap(k, &corners) > 0.4);
        let (Some(m), Some(i)) = (m, same) else { continue };
        println!("person {i} scores {:.2} and is {m:?}", d.score);
        // The others are by then half hidden by somebody, turned away or blurred.
        if d.score >= 0.9 {
            assert_eq!(*m.name, *format!("person {i}"));
            assert!(m.similarity > 0.6 && m.second_similarity.unwrap() < 0.5, "{m:?}");
            seen += 1;
        }
    }
    assert!(seen >= 4);
}
