// SPDX-License-Identifier: MPL-2.0

//! A wrong, damaged or missing model, label file, description or library gives one clear error with its cause and cure,
//! and never a panic.

#[path = "common/onnx.rs"]
mod onnx;

use std::path::PathBuf;
use std::process::Command;

use gstddsinfer::model::{Detector, InferSettings, ModelError, ModelSettings, Picture, PixelLayout};
use onnx::{F32, Folder, I64, Model, Output, settings};

const INPUT: [usize; 4] = [1, 3, 64, 64];
const CELLS: usize = 84;

/// A good YOLOv8 model of two classes.
fn yolov8() -> Model {
    Model::new(
        &INPUT,
        vec![Output::new("output0", &[1, 6, CELLS], vec![0.0; 6 * CELLS])],
    )
}

fn error_of(settings: &ModelSettings) -> ModelError {
    match Detector::open(settings) {
        Ok(d) => panic!("opened: {}", d.summary()),
        Err(e) => e,
    }
}

/// The error for a model; checks that it names the file and every word.
fn check(folder: &Folder, model: &Model, description: &str, words: &[&str]) {
    let description = Some(description.to_owned()).filter(|d| !d.is_empty());
    let text = error_of(&ModelSettings {
        description,
        ..settings(folder.file("m.onnx", &model.bytes()))
    })
    .to_string();
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn missing_empty_and_damaged_files_are_named() {
    let folder = Folder::new("files");
    let good = yolov8().bytes();
    assert!(Detector::open(&settings(folder.file("good.onnx", &good))).is_ok());
    let mut flipped = good.clone();
    flipped.iter_mut().skip(8).step_by(3).for_each(|b| *b ^= 0xff);
    for (file, words) in [
        (folder.path("none.onnx"), ["none.onnx", "model-file"]),
        (folder.path(""), ["is a directory", "model-file"]),
        (PathBuf::new(), ["no name given", "model-file"]),
        (folder.file("empty.onnx", b""), ["empty.onnx", "is empty"]),
        (folder.file("text.onnx", b"<html>404</html>"), ["text.onnx", "damaged"]),
        (
            folder.file("cut.onnx", &good[..good.len() / 2]),
            ["cut.onnx", "damaged"],
        ),
        (folder.file("flipped.onnx", &flipped), ["flipped.onnx", "damaged"]),
    ] {
        let error = error_of(&settings(file));
        assert!(matches!(error, ModelError::ModelFile { .. }), "{error:?}");
        words
            .iter()
            .for_each(|w| assert!(error.to_string().contains(w), "'{w}' is not in: {error}"));
    }
}

#[test]
fn every_truncation_of_a_model_is_an_error_or_a_model() {
    let folder = Folder::new("truncated");
    let good = yolov8().bytes();
    // Cut inside the graph's structure, not only its numbers.
    for cut in (0..good.len()).step_by(97).chain(good.len() - 200..good.len()) {
        let file = folder.file("cut.onnx", &good[..cut]);
        if let Err(e) = Detector::open(&settings(file)) {
            assert!(!e.to_string().is_empty());
        }
    }
}

#[test]
fn models_without_a_picture_as_input_are_refused() {
    let folder = Folder::new("inputs");
    let output = || vec![Output::new("output0", &[1, 6, CELLS], vec![0.0; 6 * CELLS])];
    let name = "m.onnx";
    check(
        &folder,
        &Model::new(&[1, 100], output()),
        "",
        &[name, "images", "a picture is [1, 3, height, width]"],
    );
    check(
        &folder,
        &Model::new(&[1, 1, 64, 64], output()),
        "",
        &[name, "3 channels"],
    );
    check(
        &folder,
        &Model::new(&[4, 3, 64, 64], output()),
        "",
        &[name, "a batch of 4", "export it with a batch of 1"],
    );
    check(
        &folder,
        &Model::new(&INPUT, output()).input_element(I64),
        "",
        &[name, "float32, float16 or uint8"],
    );
    check(
        &folder,
        &Model::new(&[1, 3, 1 << 20, 1 << 20], output()),
        "",
        &[name, "pixels are allowed"],
    );
    let mut two = Model::new(&INPUT, output());
    two.inputs.push(("sizes".into(), F32, vec![1, 2]));
    check(&folder, &two, "", &[name, "2 inputs"]);
}

#[test]
fn models_without_boxes_as_output_are_refused() {
    let folder = Folder::new("outputs");
    let one = |dims: &[usize]| Model::new(&INPUT, vec![Output::new("out", dims, vec![0.0; dims.iter().product()])]);
    check(&folder, &one(&[1, 128]), "", &["m.onnx", "out [1, 128]", "dds-family"]);
    check(
        &folder,
        &one(&[1, 19, 64, 64]),
        "",
        &["out [1, 19, 64, 64]", "dds-family"],
    );
    check(&folder, &one(&[1, 6, 90]), "", &["[1, 6, 90]", "64x64"]);
    let segmentation = Model::new(
        &INPUT,
        vec![
            Output::new("output0", &[1, 38, CELLS], vec![0.0; 38 * CELLS]),
            Output::new("output1", &[1, 32, 16, 16], vec![0.0; 32 * 256]),
        ],
    );
    check(&folder, &segmentation, "", &["segmentation"]);
    check(
        &folder,
        &yolov8()
            .metadata("task", "segment")
            .metadata("names", "{0: 'a', 1: 'b'}"),
        "",
        &["task=segment"],
    );
}

#[test]
fn contradictions_name_both_sides() {
    let folder = Folder::new("contradictions");
    let both = "disagree about";
    check(
        &folder,
        &yolov8(),
        "family=yolox",
        &[both, "model-description says yolox", "output0 [1, 6, 84]"],
    );
    check(
        &folder,
        &yolov8(),
        "labels=a;b;c",
        &[both, "model-description has 3 labels", "2 classes"],
    );
    check(
        &folder,
        &yolov8().metadata("names", "['a']"),
        "",
        &[both, "metadata has 1 labels", "2 classes"],
    );
    check(
        &folder,
        &yolov8().metadata("imgsz", "[64, 96]"),
        "",
        &[both, "imgsz", "96", "64"],
    );
    check(
        &folder,
        &yolov8(),
        "width=640",
        &[both, "model-description says 640", "has 64"],
    );
    check(
        &folder,
        &yolov8().metadata("end2end", "True"),
        "",
        &[both, "end2end", "yolov10", "output0 [1, 6, 84]"],
    );

    for (notes, words) in [
        (
            "[modelinfo]\n[output0]\ndims=1,6,85\n",
            ["m.modelinfo says dims=[1, 6, 85]", "[1, 6, 84]"],
        ),
        (
            "[modelinfo]\n[output1]\ndir=output\n",
            ["output1", "no input or output of that name"],
        ),
        (
            "[modelinfo]\n[output0]\ndir=input\n",
            ["says dir=input", "an output of that name"],
        ),
        (
            "[modelinfo]\n[output0]\nid=yolo-26-end2end-out\n",
            ["id=yolo-26-end2end-out", "6 numbers"],
        ),
        (
            "[modelinfo]\ndds-family=yolov5\n",
            ["m.modelinfo says yolov5", "252 rows"],
        ),
    ] {
        folder.file("m.modelinfo", notes.as_bytes());
        check(&folder, &yolov8(), "", &[both, words[0], words[1]]);
    }
    folder.file(
        "m.modelinfo",
        b"[modelinfo]\n[images]\ndir=input\ndims=-1,3,-1,-1\n[output0]\nid=yolo-v8-out\ndims=1,6,84\n",
    );
    assert!(Detector::open(&settings(folder.path("m.onnx"))).is_ok());
}

#[test]
fn descriptions_that_cannot_be_read_name_their_place() {
    let folder = Folder::new("descriptions");
    check(
        &folder,
        &yolov8(),
        "famly=yolov8",
        &["model-description", "unknown key dds-famly"],
    );
    for damaged in [b"[modelinfo\n".as_slice(), b"[modelinfo]\nversion=1\0\n", &[0xff, 0x00]] {
        folder.file("m.onnx.modelinfo", damaged);
        check(&folder, &yolov8(), "", &["m.onnx.modelinfo"]);
    }
}

/// The detector of a model, and its warnings in one text.
fn opened(settings: &ModelSettings) -> (Detector, String) {
    let detector = Detector::open(settings).unwrap();
    let warnings = detector.warnings().join("\n");
    (detector, warnings)
}

#[test]
fn metadata_that_cannot_be_read_is_a_warning_and_vetoes_no_better_source() {
    let folder = Folder::new("metadata");
    let labels = folder.file("labels.txt", b"cat\ndog\n");
    for (key, value) in [
        ("names", "None"),
        ("names", ""),
        ("names", "{0: person}"),
        ("names", "{0: 'a', 1: "),
        ("names", "\u{1F980}"),
        ("imgsz", "None"),
        ("imgsz", "[0, 0]"),
        ("imgsz", "64x64"),
    ] {
        let plain = settings(folder.file("m.onnx", &yolov8().metadata(key, value).bytes()));
        let (detector, warnings) = opened(&plain);
        assert!(warnings.contains(key), "{key}={value}: {warnings}");
        assert_eq!(
            (detector.label(0), detector.label(1)),
            ("class 0".into(), "class 1".into())
        );
        let (detector, _) = opened(&ModelSettings {
            label_file: Some(labels.clone()),
            ..plain.clone()
        });
        assert_eq!(detector.labels(), ["cat", "dog"], "{key}={value}");
        let (detector, _) = opened(&ModelSettings {
            description: Some("labels=cow;horse".into()),
            ..plain
        });
        assert_eq!(detector.labels(), ["cow", "horse"], "{key}={value}");
    }
    // A wrong number of names contradicts the model, unless a stronger source gives them.
    let wrong = settings(folder.file("m.onnx", &yolov8().metadata("names", "['a']").bytes()));
    assert!(matches!(error_of(&wrong), ModelError::Contradiction { .. }));
    let (detector, _) = opened(&ModelSettings {
        label_file: Some(labels),
        ..wrong
    });
    assert_eq!(detector.labels(), ["cat", "dog"]);
    // A user who sets the task overrides the metadata.
    let task = yolov8().metadata("names", "{0: 'a', 1: 'b'}").metadata("task", "pose");
    let (detector, _) = opened(&ModelSettings {
        description: Some("family=yolov8".into()),
        ..settings(folder.file("m.onnx", &task.bytes()))
    });
    assert_eq!(detector.labels(), ["a", "b"]);
}

#[test]
fn a_broken_side_file_is_left_out_where_a_better_source_says_the_same() {
    let folder = Folder::new("sidefile");
    let model = folder.file("m.onnx", &yolov8().bytes());
    let labels = folder.file("labels.txt", b"cat\ndog\n");
    let with_labels = || ModelSettings {
        label_file: Some(labels.clone()),
        ..settings(model.clone())
    };
    folder.file("m.modelinfo", b"[modelinfo]\ndds-labels=none.txt\n");
    let text = error_of(&settings(model.clone())).to_string();
    assert!(text.contains("none.txt") && text.contains("m.modelinfo"), "{text}");
    let (detector, warnings) = opened(&with_labels());
    assert_eq!(detector.labels(), ["cat", "dog"]);
    assert!(warnings.contains("none.txt"), "{warnings}");

    folder.file("m.modelinfo", b"[modelinfo\n");
    assert!(error_of(&settings(model.clone())).to_string().contains("m.modelinfo"));
    // The metadata may hold more than labels.
    assert!(error_of(&with_labels()).to_string().contains("m.modelinfo"));
    let (_, warnings) = opened(&ModelSettings {
        description: Some("family=yolov8".into()),
        ..settings(model.clone())
    });
    assert!(warnings.contains("m.modelinfo"), "{warnings}");

    // A byte order mark and other line ends are no damage; a directory of that name is no side file.
    folder.file("m.modelinfo", b"\xef\xbb\xbf[modelinfo]\r\ndds-labels=a;b\r\n");
    std::fs::create_dir(folder.path("m.onnx.modelinfo")).unwrap();
    let (detector, warnings) = opened(&settings(model));
    assert_eq!(detector.labels(), ["a", "b"]);
    assert!(warnings.contains("is a directory"), "{warnings}");
}

#[test]
fn label_files_are_read_with_marks_and_line_ends_of_other_systems_and_as_lists() {
    let folder = Folder::new("labellists");
    let model = folder.file("m.onnx", &yolov8().bytes());
    for content in [
        &b"cat\ndog"[..],
        b"\xef\xbb\xbfcat\r\ndog\r\n\r\n",
        b"[\"cat\", \"dog\"]\n",
        b"\xef\xbb\xbf[\n  \"cat\",\n  \"dog\"\n]",
        b"{\"0\": \"cat\", \"1\": \"dog\"}",
        b"{0: 'cat', 1: 'dog'}",
    ] {
        let (detector, _) = opened(&ModelSettings {
            label_file: Some(folder.file("labels.txt", content)),
            ..settings(model.clone())
        });
        assert_eq!(
            detector.labels(),
            ["cat", "dog"],
            "{}",
            String::from_utf8_lossy(content)
        );
    }
}

#[test]
fn label_files_that_cannot_be_used_are_named() {
    let folder = Folder::new("labelfiles");
    let model = folder.file("m.onnx", &yolov8().bytes());
    for (file, word) in [
        (folder.path("none.txt"), "none.txt"),
        (folder.file("empty.txt", b"\n\n"), "one label per line"),
        (folder.file("binary.txt", &[0xff, 0xfe, 0x80]), "UTF-8"),
        (folder.file("nul.txt", b"a\0b\nc\n"), "UTF-8"),
        (folder.file("three.txt", b"a\nb\nc\n"), "3 labels"),
    ] {
        let error = error_of(&ModelSettings {
            label_file: Some(file),
            ..settings(model.clone())
        })
        .to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_refused_execution_provider_is_a_warning_and_an_unknown_one_an_error() {
    let folder = Folder::new("providers");
    let with = |list: &str| ModelSettings {
        execution_providers: list.into(),
        ..settings(folder.file("m.onnx", &yolov8().bytes()))
    };
    let detector = Detector::open(&with("cpu")).unwrap();
    assert!(detector.warnings().is_empty(), "{:?}", detector.warnings());
    assert!(detector.summary().contains("on cpu,"), "{}", detector.summary());
    // A library built for CUDA accepts it on a machine with CUDA; any other gives the reason.
    let detector = Detector::open(&with("cuda, cpu")).unwrap();
    let refused = detector
        .warnings()
        .iter()
        .any(|w| w.contains("cuda") && w.contains("refused"));
    assert!(
        refused || detector.summary().contains("on cuda,cpu,"),
        "{:?}",
        detector.warnings()
    );
    let error = error_of(&with("cpu,npu")).to_string();
    assert!(error.contains("'npu'") && error.contains("openvino"), "{error}");
}

#[test]
fn pictures_with_short_planes_are_refused() {
    let data = [0u8; 64];
    let picture = |layout, w, h, strides| Picture::new(layout, w, h, [&data, &data[..16], &data[..16]], strides);
    assert!(picture(PixelLayout::I420, 8, 8, [8, 4, 4]).is_ok());
    for (layout, w, h, strides) in [
        (PixelLayout::I420, 8, 9, [8, 4, 4]),
        (PixelLayout::I420, 8, 8, [7, 4, 4]),
        (PixelLayout::I420, 8, 8, [8, 4, 5]),
        (PixelLayout::Nv12, 8, 8, [8, 8, 0]),
        (PixelLayout::Rgb, 8, 8, [24, 0, 0]),
        (PixelLayout::Bgr, 0, 8, [24, 0, 0]),
        (PixelLayout::Bgr, 8, 0, [24, 0, 0]),
        (PixelLayout::Rgb, 40_000, 1, [usize::MAX, 0, 0]),
        (PixelLayout::Rgb, 2, 3, [usize::MAX / 2, 0, 0]),
    ] {
        let error = picture(layout, w, h, strides).unwrap_err().to_string();
        assert!(error.contains("bad picture"), "{error}");
    }
}

#[test]
fn outputs_that_change_their_shape_with_the_picture_are_refused_at_the_picture() {
    // Built for the probe size of 320x320; its outputs do not follow the frame.
    let cells = 40 * 40 + 20 * 20 + 10 * 10;
    let output = Output::new("output0", &[1, 6, cells], vec![0.0; 6 * cells]);
    let folder = Folder::new("changing");
    let file = folder.file("m.onnx", &Model::new(&[1, 3, 0, 0], vec![output]).bytes());
    let mut detector = Detector::open(&settings(file)).unwrap();
    let grey = vec![128u8; 3 * 64 * 64];
    let error = detector
        .infer(&Picture::rgb(64, 64, &grey, 192).unwrap(), &InferSettings::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("64x64 pixels are not those of yolov8"),
        "{error}"
    );
}

/// Runs one of the ignored tests below in a process of its own: the library is loaded once per process.
fn alone(test: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env_remove("ORT_DYLIB_PATH");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_missing_library_lists_what_was_tried_and_the_cure_and_may_be_retried() {
    let library = onnx::library().map(|l| l.display().to_string()).unwrap_or_default();
    alone("alone_named_library_is_missing", &[("TEST_LIBRARY", &library)]);
    alone(
        "alone_variable_names_no_library",
        &[("ORT_DYLIB_PATH", "/nonexistent/libonnxruntime.so")],
    );
    // An empty home: only the system's own libraries remain, which a machine may have.
    let folder = Folder::new("nohome");
    let home = folder.path("").display().to_string();
    alone(
        "alone_search_finds_nothing_or_the_systems",
        &[("HOME", &home), ("XDG_DATA_HOME", &home)],
    );
}

#[test]
#[ignore = "run by a_missing_library_lists_what_was_tried_and_the_cure_and_may_be_retried"]
fn alone_named_library_is_missing() {
    let folder = Folder::new("alone1");
    let file = folder.file("m.onnx", &yolov8().bytes());
    let not_a_library = folder.file("text.so", b"not a library");
    // The loader accepts any library; this one exists and is not ONNX Runtime.
    let other = PathBuf::from("libgobject-2.0.so.0");
    for (library, word) in [
        (PathBuf::from("/nonexistent/libonnxruntime.so.1"), "no such file"),
        (folder.path(""), "no libonnxruntime"),
        (not_a_library, "text.so"),
        (other, "OrtGetApiBase"),
    ] {
        let error = error_of(&ModelSettings {
            library: Some(library),
            ..settings(file.clone())
        });
        let text = error.to_string();
        assert!(
            matches!(error, ModelError::Library(ref tried) if tried.len() == 1),
            "{error:?}"
        );
        assert!(
            text.contains("property onnxruntime-library") && text.contains(word),
            "{word}: {text}"
        );
        assert!(text.contains("pipelines/setup.sh"), "{text}");
    }
    // The failures have no lasting effect.
    let library = std::env::var("TEST_LIBRARY")
        .ok()
        .filter(|l| !l.is_empty())
        .map(PathBuf::from);
    assert!(
        Detector::open(&ModelSettings {
            library,
            ..settings(file.clone())
        })
        .is_ok()
    );
    // One library per process: a later setting gets a warning.
    let late = ModelSettings {
        library: Some("/nonexistent/libonnxruntime.so.1".into()),
        ..settings(file)
    };
    let warnings = Detector::open(&late).unwrap().warnings().to_vec();
    assert!(
        warnings[0].contains("already loaded") && warnings[0].contains("/nonexistent"),
        "{warnings:?}"
    );
}

#[test]
#[ignore = "run by a_missing_library_lists_what_was_tried_and_the_cure_and_may_be_retried"]
fn alone_variable_names_no_library() {
    let folder = Folder::new("alone2");
    let file = folder.file("m.onnx", &yolov8().bytes());
    let text = error_of(&ModelSettings {
        library: None,
        ..settings(file)
    })
    .to_string();
    assert!(
        text.contains("variable ORT_DYLIB_PATH /nonexistent/libonnxruntime.so: no such file"),
        "{text}"
    );
}

#[test]
#[ignore = "run by a_missing_library_lists_what_was_tried_and_the_cure_and_may_be_retried"]
fn alone_search_finds_nothing_or_the_systems() {
    let folder = Folder::new("alone3");
    let file = folder.file("m.onnx", &yolov8().bytes());
    match Detector::open(&ModelSettings {
        library: None,
        ..settings(file)
    }) {
        Ok(detector) => assert!(detector.summary().contains("ONNX Runtime "), "{}", detector.summary()),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains("gst-dds/onnxruntime: ") && text.contains("system libraries"),
                "{text}"
            );
            assert!(
                text.contains("pipelines/setup.sh") && text.contains("libonnxruntime.so.1.60"),
                "{text}"
            );
        }
    }
}
