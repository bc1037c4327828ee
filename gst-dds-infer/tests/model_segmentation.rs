// SPDX-License-Identifier: MPL-2.0

//! Segmentation models are recognised and decoded to the right classes and uncertainties, on models with known output
//! and on a real one; tensors inside a model can be made outputs.

#[path = "common/onnx.rs"]
mod onnx;

use std::sync::atomic::{AtomicUsize, Ordering};

use gst::prelude::*;
use gst_video::prelude::*;
use gstddsinfer::feedback::uncertainty::{UncertaintySettings, windows};
use gstddsinfer::model::{
    Detector, InferSettings, Model as AnyModel, ModelError, ModelSettings, Picture, PixelLayout, SegmentSettings,
    Segmentation, Segmenter, Task,
};
use gstddsinfer::segmentation;
use onnx::{F16, Folder, I64, Model, Output, U8, settings};

const INPUT: [usize; 4] = [1, 3, 64, 64];
/// Cells of the detectors here, for strides of 8, 16 and 32.
const CELLS: usize = 64 + 16 + 4;

/// Settings for a model in a file of its own, whose name ends in `m.onnx`.
fn described(folder: &Folder, model: &Model, description: &str) -> ModelSettings {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let file = format!("{}-m.onnx", FILES.fetch_add(1, Ordering::Relaxed));
    ModelSettings {
        description: Some(description.to_owned()).filter(|d| !d.is_empty()),
        ..settings(folder.file(&file, &model.bytes()))
    }
}

/// Opens a model that must be recognised as a segmenter.
fn open(model: &Model, test: &str, description: &str) -> Segmenter {
    let folder = Folder::new(test);
    match AnyModel::open(&described(&folder, model, description)) {
        Ok(AnyModel::Segmenter(s)) => s,
        Ok(other) => panic!("{}", other.summary()),
        Err(e) => panic!("{e}"),
    }
}

fn error_of(settings: &ModelSettings) -> String {
    match AnyModel::open(settings) {
        Ok(m) => panic!("opened: {}", m.summary()),
        Err(e) => e.to_string(),
    }
}

/// Runs a model on a grey picture of this size.
fn infer(segmenter: &mut Segmenter, width: u32, height: u32) -> Result<Segmentation, ModelError> {
    let grey = vec![128u8; (3 * width * height) as usize];
    let picture = Picture::rgb(width, height, &grey, 3 * width as usize)?;
    segmenter.infer(&picture, &SegmentSettings::default())
}

/// Scores of three classes for two rows of four cells, as probabilities.
const PROBABILITIES: [[f32; 8]; 3] = [
    [0.7, 0.2, 0.1, 0.4, 1.0, 0.3, 0.05, 0.25],
    [0.2, 0.5, 0.1, 0.4, 0.0, 0.3, 0.05, 0.25],
    [0.1, 0.3, 0.8, 0.2, 0.0, 0.4, 0.9, 0.5],
];
const CLASSES: [u8; 8] = [0, 1, 2, 0, 0, 2, 2, 2];
const RUNNERS_UP: [u8; 8] = [1, 2, 0, 1, 1, 0, 0, 0];
const GAPS: [f32; 8] = [0.5, 0.2, 0.7, 0.0, 1.0, 0.1, 0.85, 0.25];

#[test]
fn scores_give_the_best_class_the_second_best_and_the_uncertainty() {
    let logits: Vec<f32> = PROBABILITIES.concat().iter().map(|p| (p + 1e-9).ln() + 3.0).collect();
    for (values, description) in [
        (logits.clone(), ""),
        (PROBABILITIES.concat(), "scores=probability"),
        (logits, "scores=logit, task=segmentation"),
    ] {
        for element in [onnx::F32, F16] {
            let output = Output::new("logits", &[1, 3, 2, 4], values.clone()).element(element);
            let mut segmenter = open(&Model::new(&INPUT, vec![output]), "logits", description);
            assert!(
                segmenter.summary().starts_with("segmentation logits "),
                "{}",
                segmenter.summary()
            );
            let map = infer(&mut segmenter, 128, 64).unwrap();
            assert_eq!((map.width(), map.height()), (4, 2));
            assert_eq!(map.classes(), CLASSES);
            assert_eq!(map.runners_up(), RUNNERS_UP);
            for (own, gap) in map.uncertainty().iter().zip(GAPS) {
                let wanted = (1.0 - gap) * 255.0;
                assert!((f32::from(*own) - wanted).abs() <= 1.0, "{own} {wanted} {description}");
            }
            assert_eq!(segmenter.label(2), "class 2");
        }
    }
}

#[test]
fn without_uncertainty_the_classes_are_the_same() {
    let output = Output::new("logits", &[1, 3, 2, 4], PROBABILITIES.concat());
    let mut segmenter = open(&Model::new(&INPUT, vec![output]), "order", "");
    let grey = [128u8; 3 * 64 * 64];
    let map = segmenter
        .infer(
            &Picture::rgb(64, 64, &grey, 192).unwrap(),
            &SegmentSettings { uncertainty: false },
        )
        .unwrap();
    assert_eq!(map.classes(), CLASSES);
    assert!(map.uncertainty().is_empty() && map.runners_up().is_empty());
}

#[test]
fn finished_maps_are_taken_as_they_are_and_are_certain() {
    let numbers = [0.0, 1.0, 2.0, 18.0, 19.0, 255.0, 0.0, 3.0];
    for (dims, element) in [(&[1, 2, 4][..], I64), (&[1, 1, 2, 4], U8), (&[1, 1, 2, 4], onnx::F32)] {
        let output = Output::new("map", dims, numbers.into()).element(element);
        let mut segmenter = open(&Model::new(&INPUT, vec![output]), "map", "labels=a;b");
        assert!(segmenter.summary().contains("class numbers"), "{}", segmenter.summary());
        let map = infer(&mut segmenter, 64, 64).unwrap();
        assert_eq!(map.classes(), [0, 1, 2, 18, 19, 255, 0, 3]);
        assert!(map.uncertainty().is_empty());
        assert_eq!((segmenter.label(1), segmenter.label(2)), ("b".into(), "class 2".into()));
    }
    for wrong in [256.0, -1.0, f32::NAN] {
        let output = Output::new("map", &[1, 1, 1, 2], vec![0.0, wrong]);
        let error = infer(&mut open(&Model::new(&INPUT, vec![output]), "wrong", ""), 64, 64).unwrap_err();
        assert!(error.to_string().contains("classes are 0 to 255"), "{error}");
    }
}

#[test]
fn cells_in_the_padding_are_left_out() {
    let numbers = (0..16).map(|i| i as f32).collect::<Vec<_>>();
    let model = Model::new(&INPUT, vec![Output::new("map", &[1, 4, 4], numbers).element(U8)]);
    for (description, size, wanted) in [
        ("", (128, 64), (0..16).collect::<Vec<u8>>()),
        ("resize=letterbox", (128, 64), (0..8).collect()),
        ("resize=letterbox-center", (128, 64), (4..12).collect()),
        ("resize=letterbox", (64, 128), vec![0, 1, 4, 5, 8, 9, 12, 13]),
        // Less than half of a row of cells.
        ("resize=letterbox", (640, 20), (0..4).collect()),
    ] {
        let map = infer(&mut open(&model, "padding", description), size.0, size.1).unwrap();
        assert_eq!(map.classes(), wanted, "{description} {size:?}");
        assert_eq!(map.width() * map.height(), wanted.len());
    }
}

#[test]
fn the_input_is_normalised_as_for_imagenet_unless_described() {
    // The logit of class 1 is the mean of the input, that of class 0 is 0.
    let output = Output::new("o", &[1, 2, 1, 1], vec![0.0; 2]).following(vec![0.0, 1.0]);
    let model = Model::new(&INPUT, vec![output]);
    for (description, color, mean) in [
        ("", [124u8, 116, 104], 0.0),
        ("", [255, 255, 255], 2.4395),
        ("scale=1/255, mean=0, std=1", [255, 255, 255], 1.0),
        (
            "scale=1/255, mean=<0, 0, 0.5>, std=<1, 1, 1>, color=bgr",
            [51, 0, 0],
            -0.1,
        ),
    ] {
        let mut segmenter = open(&model, "imagenet", description);
        let rgb = color.repeat(64 * 64);
        let picture = Picture::rgb(64, 64, &rgb, 192).unwrap();
        let map = segmenter.infer(&picture, &SegmentSettings::default()).unwrap();
        let gap = 2.0 / (1.0 + (-f32::abs(mean)).exp()) - 1.0;
        let own = f32::from(map.uncertainty()[0]);
        assert!((own - (1.0 - gap) * 255.0).abs() < 1.5, "{description} {own} {gap}");
    }
}

#[test]
fn labels_follow_the_number_of_classes_unless_given() {
    let model = |c: usize| Model::new(&INPUT, vec![Output::new("o", &[1, c, 1, 1], vec![0.0; c])]);
    for (classes, class, label, background) in [
        (19, 18, "bicycle", None),
        (20, 19, "background", Some(19)),
        (21, 15, "person", Some(0)),
        (5, 4, "class 4", None),
    ] {
        let segmenter = open(&model(classes), "labels", "");
        assert_eq!(segmenter.label(class), label);
        assert_eq!(segmenter.background(), background, "{label}");
    }
    let segmenter = open(&model(2), "labels2", "labels=Void;road");
    assert_eq!(
        (segmenter.labels(), segmenter.background()),
        (&["Void".into(), "road".into()][..], Some(0))
    );
    let folder = Folder::new("labels3");
    let error = error_of(&described(&folder, &model(3), "labels=a;b"));
    assert!(error.contains("2 labels") && error.contains("3 classes"), "{error}");
}

#[test]
fn a_map_of_dynamic_size_follows_the_picture() {
    // 1 cell for any size; dimensions of the input are dynamic.
    let output = Output::new("map", &[1, 1, 1, 1], vec![3.0]).element(I64);
    let mut segmenter = open(&Model::new(&[1, 3, 0, 0], vec![output]), "dynamic", "");
    assert_eq!(segmenter.input_size(100, 50), (128, 64));
    assert_eq!(infer(&mut segmenter, 100, 50).unwrap().classes(), [3]);
}

#[test]
fn a_map_that_a_model_declares_dynamic_may_change_its_size_and_one_declared_fixed_not() {
    let scores = || Output::new("out", &[1, 3, 8, 4], (0..96).map(|i| (i % 7) as f32).collect());
    let plain = "task=segmentation,scale=1/255,mean=0,std=1,pad=255";
    let infer = |segmenter: &mut Segmenter, grey: u8| {
        let pixels = vec![grey; 3 * 64 * 64];
        let map = segmenter.infer(
            &Picture::rgb(64, 64, &pixels, 192).unwrap(),
            &SegmentSettings::default(),
        );
        map.map(|m| (m.width(), m.height())).map_err(|e| e.to_string())
    };
    let mut segmenter = open(&Model::new(&INPUT, vec![scores().part_of(2)]), "dynamicmap", plain);
    for (grey, rows) in [(255, 8), (128, 4), (64, 2), (255, 8)] {
        assert_eq!(infer(&mut segmenter, grey), Ok((4, rows)), "grey {grey}");
    }
    let mut segmenter = open(
        &Model::new(&INPUT, vec![scores().part_of_undeclared(2)]),
        "fixedmap",
        plain,
    );
    assert_eq!(infer(&mut segmenter, 255), Ok((4, 8)));
    let error = infer(&mut segmenter, 128).unwrap_err();
    assert!(error.contains("[1, 3, 4, 4]"), "{error}");
    assert_eq!(
        infer(&mut segmenter, 255),
        Ok((4, 8)),
        "the next picture is whole again"
    );
    // Classes too: the present ones count.
    let mut segmenter = open(&Model::new(&INPUT, vec![scores().part_of(1)]), "dynamicclasses", plain);
    for grey in [255, 180, 255] {
        assert_eq!(infer(&mut segmenter, grey), Ok((4, 8)), "grey {grey}");
    }
}

#[test]
fn tasks_are_told_by_outputs_description_and_setting() {
    let folder = Folder::new("tasks");
    let boxes = || Model::new(&INPUT, vec![Output::new("o", &[1, 6, CELLS], vec![0.0; 6 * CELLS])]);
    let map = || Model::new(&INPUT, vec![Output::new("o", &[1, 2, 4, 4], vec![0.0; 32])]);
    let task = |settings: &ModelSettings| AnyModel::open(settings).unwrap_or_else(|e| panic!("{e}")).task();
    assert_eq!(task(&described(&folder, &boxes(), "")), Task::Detection);
    assert_eq!(task(&described(&folder, &map(), "")), Task::Segmentation);
    let faces = ["cls_", "obj_", "bbox_", "kps_"]
        .iter()
        .flat_map(|kind| [8, 16, 32].map(|stride| Output::new(&format!("{kind}{stride}"), &[1, 1, 1], vec![0.0])))
        .collect();
    let error = AnyModel::open(&described(&folder, &Model::new(&INPUT, faces), ""));
    assert!(error.is_err_and(|e| e.to_string().contains("m.onnx")));

    // A map of classes or rows of boxes: only a description can decide.
    let rows = Model::new(&INPUT, vec![Output::new("o", &[1, 32, 32], vec![1.0; 1024])]);
    assert_eq!(
        task(&described(&folder, &rows, "dds-task=segmentation")),
        Task::Segmentation
    );
    let forced = |task, description| ModelSettings {
        task: Some(task),
        ..described(&folder, &rows, description)
    };
    assert_eq!(task(&forced(Task::Segmentation, "task=detection")), Task::Segmentation);

    for (error, word) in [
        (
            Detector::open(&forced(Task::Segmentation, "")).err(),
            "a model for detection is wanted",
        ),
        (
            Segmenter::open(&forced(Task::Face, "")).err(),
            "the setting task says face",
        ),
    ] {
        assert!(error.is_some_and(|e| e.to_string().contains(word)), "{word}");
    }
    for (settings, words) in [
        (
            described(&folder, &boxes(), "task=pose"),
            ["model-description", "segmentation"],
        ),
        (
            described(
                &folder,
                &Model::new(&INPUT, vec![Output::new("e", &[1, 9], vec![0.0; 9])]),
                "task=segmentation",
            ),
            ["model-description says segmentation", "e [1, 9]"],
        ),
        (
            ModelSettings {
                task: Some(Task::Segmentation),
                ..described(
                    &folder,
                    &Model::new(&INPUT, vec![Output::new("e", &[1, 9], vec![0.0; 9])]),
                    "",
                )
            },
            ["the setting task says segmentation", "do not fit"],
        ),
        (
            described(&folder, &map(), "task=segmentation, family=yolox"),
            ["the task", "dds-family=yolox"],
        ),
        (
            described(&folder, &map(), "task=detection"),
            ["o [1, 2, 4, 4]", "dds-family"],
        ),
        (
            described(&folder, &map(), "family=yolov8"),
            ["says yolov8", "o [1, 2, 4, 4]"],
        ),
    ] {
        let error = error_of(&settings);
        words
            .iter()
            .for_each(|w| assert!(error.contains(w), "'{w}' is not in: {error}"));
    }
}

#[test]
fn more_classes_than_a_byte_holds_are_refused() {
    let folder = Folder::new("classes");
    let model = |c: usize| Model::new(&INPUT, vec![Output::new("o", &[1, c, 1, 2], vec![0.0; 2 * c])]);
    let error = error_of(&described(&folder, &model(257), ""));
    assert!(error.contains("257 classes") && error.contains("256"), "{error}");
    let mut values = vec![0.0; 512];
    values[511] = 1.0;
    let output = Output::new("o", &[1, 256, 1, 2], values);
    let mut segmenter = open(&Model::new(&INPUT, vec![output]), "classes256", "");
    assert_eq!(infer(&mut segmenter, 64, 64).unwrap().classes(), [0, 255]);
}

#[test]
fn a_map_is_written_at_any_size_and_stride() {
    let map = Segmentation::new(4, 2, CLASSES.into()).unwrap();
    let mut same = [9; 8];
    map.write_classes(4, 2, &mut same, 4).unwrap();
    assert_eq!(same, CLASSES);
    let mut large = [9; 9 * 3 + 8];
    map.write_classes(8, 4, &mut large, 9).unwrap();
    for (y, row) in large.chunks(9).enumerate() {
        for (x, class) in row[..8].iter().enumerate() {
            assert_eq!(*class, CLASSES[y / 2 * 4 + x / 2]);
        }
        assert_eq!(row.get(8).copied().unwrap_or(9), 9, "bytes between rows");
    }
    let mut small = [9; 1];
    map.write_classes(1, 1, &mut small, 1).unwrap();
    assert_eq!(small, [CLASSES[6]]);
    for (width, height, bytes, stride) in [
        (4, 2, 7, 4),
        (4, 2, 8, 3),
        (0, 2, 8, 4),
        (4, 0, 8, 4),
        (4, usize::MAX, 8, 4),
        (4, 2, 8, usize::MAX),
    ] {
        let mut target = vec![0; bytes];
        assert!(
            map.write_classes(width, height, &mut target, stride).is_err(),
            "{width}x{height}"
        );
    }
}

#[test]
fn maps_of_the_wrong_length_are_refused() {
    assert!(Segmentation::new(4, 2, vec![0; 7]).is_none());
    assert!(Segmentation::new(0, 0, Vec::new()).is_none());
    assert!(Segmentation::new(usize::MAX, 2, vec![0; 7]).is_none());
    let map = || Segmentation::new(2, 2, vec![0; 4]).unwrap();
    assert!(map().with_uncertainty(vec![0; 4], vec![0; 3]).is_none());
    assert!(map().with_uncertainty(vec![0; 4], vec![0; 4]).is_some());
}

#[test]
fn tensors_inside_a_model_become_outputs_by_name() {
    let folder = Folder::new("exposed");
    let rows = vec![0.0; 6 * CELLS];
    let model = Model::new(&INPUT, vec![Output::new("output0", &[1, 6, CELLS], rows)]);
    let with = |names: &[&str]| ModelSettings {
        extra_outputs: names.iter().map(|n| (*n).to_owned()).collect(),
        ..described(&folder, &model, "")
    };
    // The decoder reads the model's own outputs only; an output already present is not added again.
    for names in [
        &["output0_sum", "mean"][..],
        &["output0"],
        &["output0", "mean", "mean"],
        &[" "],
    ] {
        let mut detector = Detector::open(&with(names)).unwrap_or_else(|e| panic!("{names:?}: {e}"));
        let grey = [128u8; 3 * 64 * 64];
        let picture = Picture::rgb(64, 64, &grey, 192).unwrap();
        assert_eq!(
            detector.infer(&picture, &InferSettings::default()).unwrap().detections,
            []
        );
    }
    let error = error_of(&with(&["mean", "features"]));
    assert!(
        error.contains("m.onnx") && error.contains("no tensor features"),
        "{error}"
    );
}

#[test]
fn an_output_may_be_the_objectness_of_detectors_that_have_none() {
    let folder = Folder::new("objectness");
    // One box in cell 9, of class 1.
    let mut rows = vec![0.0; 6 * CELLS];
    for (channel, value) in [20.0, 10.0, 8.0, 4.0, 0.25, 0.5].into_iter().enumerate() {
        rows[channel * CELLS + 9] = value;
    }
    let mut told = vec![0.0; CELLS];
    told[9] = 0.75;
    let detect = |model: &Model, description: &str| {
        let mut detector = Detector::open(&described(&folder, model, description)).unwrap_or_else(|e| panic!("{e}"));
        let grey = [128u8; 3 * 64 * 64];
        let found = detector.infer(&Picture::rgb(64, 64, &grey, 192).unwrap(), &InferSettings::default());
        found.unwrap().detections
    };
    let boxes = || Output::new("output0", &[1, 6, CELLS], rows.clone());
    for dims in [&[1, CELLS][..], &[CELLS], &[1, CELLS, 1], &[1, 1, CELLS]] {
        for outputs in [
            vec![boxes(), Output::new("told", dims, told.clone())],
            vec![Output::new("told", dims, told.clone()), boxes()],
        ] {
            let found = detect(&Model::new(&INPUT, outputs), "objectness=told");
            assert_eq!((found.len(), found[0].class, found[0].objectness), (1, 1, Some(0.75)));
        }
    }
    // A tensor that is no output becomes one; both hold raw scores.
    let outputs = vec![boxes(), Output::new("told", &[CELLS], told.clone()).hidden()];
    let found = detect(&Model::new(&INPUT, outputs), "objectness=told, scores=logit");
    let nine = found.iter().find(|d| d.score > 0.6).unwrap();
    assert!((nine.objectness.unwrap() - 0.679_18).abs() < 1e-4, "{nine:?}");

    let torchvision = vec![
        Output::new("boxes", &[2, 4], vec![8.0, 4.0, 16.0, 12.0, 1.0, 2.0, 3.0, 4.0]),
        Output::new("labels", &[2], vec![1.0, 17.0]).element(I64),
        Output::new("scores", &[2], vec![0.5, 0.75]),
        Output::new("told", &[1, 2], vec![0.9, 0.8]),
    ];
    let found = detect(&Model::new(&INPUT, torchvision), "objectness=told");
    assert_eq!(
        found.iter().map(|d| d.objectness).collect::<Vec<_>>(),
        [Some(0.8), Some(0.9)]
    );

    let model = |told: Output| Model::new(&INPUT, vec![boxes(), told]);
    let yolox = Output::new("output", &[1, CELLS, 7], vec![0.0; 7 * CELLS]);
    for (model, description, words) in [
        (
            model(Output::new("told", &[1, 100], vec![0.0; 100])),
            "objectness=told",
            ["disagree about the objectness", "[1, 100]"],
        ),
        (
            model(Output::new("told", &[2, 42], vec![0.0; 84])),
            "objectness=told",
            ["84 numbers", "[2, 42]"],
        ),
        (
            model(Output::new("told", &[CELLS], told.clone())),
            "objectness=tell",
            ["no tensor tell", "dds-objectness"],
        ),
        (
            Model::new(&INPUT, vec![yolox, Output::new("told", &[CELLS], told.clone())]),
            "objectness=told",
            ["does not fit yolox", "objectness of their own"],
        ),
    ] {
        let error = error_of(&described(&folder, &model, description));
        words
            .iter()
            .for_each(|w| assert!(error.contains(w), "'{w}' is not in: {error}"));
    }
}

/// Shares of the classes by an independent program (argmax in NumPy over ONNX Runtime's output for the frame converted
/// and resized by OpenCV): truck, car, sky, road, building, vegetation, bus, traffic sign.
const SHARES: [(u8, f64); 8] = [
    (14, 0.2842),
    (13, 0.1798),
    (10, 0.1448),
    (0, 0.1336),
    (2, 0.0922),
    (8, 0.0865),
    (15, 0.0361),
    (7, 0.0129),
];

#[test]
fn espnet_sees_what_the_reference_sees_in_a_street() {
    let Some(folder) = onnx::data() else { return };
    gst::init().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "filesrc location={} ! qtdemux ! h264parse ! avdec_h264 ! video/x-raw,format=I420 ! appsink name=sink sync=false",
        folder.join("videos/kitti_city_drive.mp4").display()
    ))
    .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let sink = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("sink").unwrap();
    let sample = sink.downcast::<gst_app::AppSink>().unwrap().pull_sample().unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
    let frame = gst_video::VideoFrame::from_buffer_readable(sample.buffer_owned().unwrap(), &info).unwrap();
    let (width, height) = (info.width(), info.height());
    let plane = |i: u32| frame.plane_data(i).unwrap();
    let strides = [0, 1, 2].map(|i| frame.plane_stride()[i] as usize);
    let picture = Picture::new(
        PixelLayout::I420,
        width,
        height,
        [plane(0), plane(1), plane(2)],
        strides,
    )
    .unwrap();

    let file = folder.join("models/espnetv2_s2_city_512x1024.onnx");
    let AnyModel::Segmenter(mut segmenter) = AnyModel::open(&settings(file)).unwrap() else {
        panic!("no segmenter");
    };
    assert_eq!((segmenter.label(13), segmenter.background()), ("car".into(), Some(19)));
    let map = segmenter.infer(&picture, &SegmentSettings::default()).unwrap();
    assert_eq!((map.width(), map.height()), (1024, 512));
    let areas = segmentation::areas(&map);
    for (class, share) in SHARES {
        let own = areas.iter().find(|a| a.class == class).map_or(0.0, |a| a.area);
        assert!((own - share).abs() < 0.015, "{}: {own} {share}", segmenter.label(class));
    }

    let settings = UncertaintySettings {
        background: segmenter.background().into_iter().collect(),
        ..UncertaintySettings::default()
    };
    let found = windows(&settings, &map, width, height);
    assert_eq!(found.len(), 4);
    // Distant cars ahead are among them; near ones, large and certain, are not.
    assert!(
        found
            .iter()
            .any(|w| (450..520).contains(&w.rect.x) && (120..160).contains(&w.rect.y)),
        "{found:?}"
    );
    assert!(found.iter().all(|w| w.uncertainty > 0.3), "{found:?}");
}
