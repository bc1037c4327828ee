// SPDX-License-Identifier: MPL-2.0

//! Each family of outputs is recognised and decoded to the right boxes, on models with known output.

#[path = "common/onnx.rs"]
mod onnx;

use gstddsinfer::model::{Detection, Detector, InferSettings, ModelSettings, Picture};
use onnx::{F16, Folder, I64, Model, Output, U8, settings};

/// Cells of an input of 64x64 pixels for strides of 8, 16 and 32.
const CELLS: usize = 64 + 16 + 4;

fn open(model: &Model, test: &str, description: &str) -> Detector {
    let folder = Folder::new(test);
    let file = folder.file("m.onnx", &model.bytes());
    let description = Some(description.to_owned()).filter(|d| !d.is_empty());
    Detector::open(&ModelSettings {
        description,
        ..settings(file)
    })
    .unwrap_or_else(|e| panic!("{e}"))
}

/// Runs a model on a grey picture of 128x64 pixels: twice the width of the input, so that letterboxing halves it.
fn infer(detector: &mut Detector) -> Vec<Detection> {
    let grey = vec![128u8; 3 * 128 * 64];
    let picture = Picture::rgb(128, 64, &grey, 3 * 128).unwrap();
    detector.infer(&picture, &InferSettings::default()).unwrap().detections
}

/// One detection without objectness.
fn found(corners: [f32; 4], score: f32, class: u32) -> Detection {
    let [x1, y1, x2, y2] = corners;
    Detection {
        x1,
        y1,
        x2,
        y2,
        score,
        objectness: None,
        class,
    }
}

fn assert_found(own: &[Detection], wanted: &[Detection], tolerance: f32) {
    assert_eq!(own.len(), wanted.len(), "{own:?}");
    for (o, w) in own.iter().zip(wanted) {
        let near = |a: f32, b: f32| (a - b).abs() <= tolerance;
        let boxes = near(o.x1, w.x1) && near(o.y1, w.y1) && near(o.x2, w.x2) && near(o.y2, w.y2);
        let objectness = match (o.objectness, w.objectness) {
            (Some(a), Some(b)) => near(a, b),
            (a, b) => a == b,
        };
        assert!(
            boxes && objectness && near(o.score, w.score) && o.class == w.class,
            "{own:?}\n{wanted:?}"
        );
    }
}

/// A table of `rows` times `columns` numbers, zero but for the given rows.
fn table(rows: usize, columns: usize, given: &[(usize, &[f32])]) -> Vec<f32> {
    let mut t = vec![0.0; rows * columns];
    for (row, numbers) in given {
        t[row * columns..][..numbers.len()].copy_from_slice(numbers);
    }
    t
}

fn transposed(table: &[f32], columns: usize) -> Vec<f32> {
    (0..table.len())
        .map(|i| table[i % (table.len() / columns) * columns + i / (table.len() / columns)])
        .collect()
}

const INPUT: [usize; 4] = [1, 3, 64, 64];

#[test]
fn yolov5_gives_objectness_times_class_score() {
    let rows = table(
        3 * CELLS,
        7,
        &[
            (5, &[20.0, 10.0, 8.0, 4.0, 0.9, 0.1, 0.8]),
            // A weaker box of the same class in the same place, a box without objectness and, in the next, one without
            // class.
            (6, &[20.5, 10.0, 8.0, 4.0, 0.8, 0.1, 0.8]),
            (7, &[40.0, 10.0, 8.0, 4.0, 0.04, 1.0, 1.0]),
            (8, &[40.0, 10.0, 8.0, 4.0, 1.0, 0.04, 0.04]),
        ],
    );
    let mut detector = open(
        &Model::new(&INPUT, vec![Output::new("output", &[1, 3 * CELLS, 7], rows)]),
        "yolov5",
        "",
    );
    assert!(detector.summary().starts_with("yolov5 "), "{}", detector.summary());
    let wanted = Detection {
        objectness: Some(0.9),
        ..found([32.0, 16.0, 48.0, 24.0], 0.72, 1)
    };
    assert_found(&infer(&mut detector), &[wanted], 1e-4);
}

#[test]
fn yolov8_is_channel_first_without_objectness() {
    let rows = table(
        CELLS,
        6,
        &[
            (83, &[20.0, 10.0, 8.0, 4.0, 0.3, 0.8]),
            (0, &[20.0, 10.0, 8.0, 4.0, 0.7, 0.04]),
        ],
    );
    let output = Output::new("output0", &[1, 6, CELLS], transposed(&rows, 6));
    let mut detector = open(&Model::new(&INPUT, vec![output]), "yolov8", "");
    assert!(detector.summary().starts_with("yolov8 "), "{}", detector.summary());
    let at = [32.0, 16.0, 48.0, 24.0];
    assert_found(&infer(&mut detector), &[found(at, 0.8, 1), found(at, 0.7, 0)], 1e-4);
}

#[test]
fn yolov8_may_be_transposed_and_give_logits() {
    let mut rows = table(CELLS, 6, &[]);
    rows.chunks_exact_mut(6).for_each(|r| r[4..].fill(-9.0));
    rows[6..12].copy_from_slice(&[20.0, 10.0, 8.0, 4.0, -3.0, 1.0]);
    let output = Output::new("output0", &[1, CELLS, 6], rows);
    let mut detector = open(
        &Model::new(&INPUT, vec![output]),
        "yolov8t",
        "family=yolov8, scores=logit",
    );
    assert_found(
        &infer(&mut detector),
        &[found([32.0, 16.0, 48.0, 24.0], 0.731_06, 1)],
        1e-4,
    );
}

#[test]
fn yolov10_rows_are_final() {
    // Overlapping boxes of one class both stay: the model has suppressed already.
    let rows = table(
        10,
        6,
        &[
            (0, &[8.0, 4.0, 16.0, 12.0, 0.6, 2.0]),
            (1, &[8.0, 4.0, 16.0, 12.5, 0.9, 2.0]),
            (2, &[8.0, 4.0, 16.0, 12.5, 0.01, 2.0]),
        ],
    );
    let mut detector = open(
        &Model::new(&INPUT, vec![Output::new("output0", &[1, 10, 6], rows)]),
        "yolov10",
        "",
    );
    let wanted = [
        found([16.0, 8.0, 32.0, 25.0], 0.9, 2),
        found([16.0, 8.0, 32.0, 24.0], 0.6, 2),
    ];
    assert_found(&infer(&mut detector), &wanted, 1e-4);
    assert_eq!(detector.label(2), "class 2");
}

#[test]
fn yolox_raw_cells_become_pixels() {
    // Cell 64 + 5 is x 1, y 1 of the grid of 16 pixels.
    let row = [0.25, -0.5, 0.5f32.ln(), 0.25f32.ln(), 0.9, 0.8, 0.1];
    let output = Output::new("output", &[1, CELLS, 7], table(CELLS, 7, &[(64 + 5, &row)]));
    let mut detector = open(&Model::new(&INPUT, vec![output]), "yoloxraw", "");
    assert!(detector.summary().starts_with("yolox raw"), "{}", detector.summary());
    let wanted = Detection {
        objectness: Some(0.9),
        ..found([32.0, 12.0, 48.0, 20.0], 0.72, 0)
    };
    assert_found(&infer(&mut detector), &[wanted], 1e-3);
}

#[test]
fn yolox_decoded_is_known_by_its_values() {
    let rows: Vec<(usize, [f32; 7])> = (0..CELLS)
        .map(|i| {
            (
                i,
                [
                    (i % 8 * 8 + 4) as f32,
                    10.0,
                    8.0,
                    4.0,
                    if i == 2 { 0.9 } else { 0.0 },
                    0.8,
                    0.1,
                ],
            )
        })
        .collect();
    let rows: Vec<(usize, &[f32])> = rows.iter().map(|(i, r)| (*i, r.as_slice())).collect();
    let values = table(CELLS, 7, &rows);
    let model = Model::new(&INPUT, vec![Output::new("output", &[1, CELLS, 7], values)]);
    let wanted = Detection {
        objectness: Some(0.9),
        ..found([32.0, 16.0, 48.0, 24.0], 0.72, 0)
    };
    for description in ["", "decoded=true"] {
        let mut detector = open(&model, "yoloxdec", description);
        assert!(
            detector.summary().starts_with("yolox decoded"),
            "{}",
            detector.summary()
        );
        assert_found(&infer(&mut detector), &[wanted], 1e-3);
    }
}

/// Sides of a NanoDet box as logits: all weight on one distance in strides.
fn sides(distances: [usize; 4]) -> Vec<f32> {
    (0..32)
        .map(|i| if distances[i / 8] == i % 8 { 50.0 } else { 0.0 })
        .collect()
}

#[test]
fn nanodet_with_one_output_needs_no_letterbox() {
    // Cell x 2, y 1 of the grid of 8 pixels: centre 19.5, 11.5. Stretching doubles x only.
    let row = [vec![0.1, 0.6], sides([1, 1, 2, 0])].concat();
    let output = Output::new("output", &[1, CELLS, 34], table(CELLS, 34, &[(10, &row)]));
    let mut detector = open(&Model::new(&INPUT, vec![output]), "nanodet1", "labels=a;b");
    assert!(
        detector.summary().starts_with("nanodet one output ("),
        "{}",
        detector.summary()
    );
    assert_found(&infer(&mut detector), &[found([23.0, 3.5, 71.0, 11.5], 0.6, 1)], 1e-3);
    assert_eq!(detector.label(1), "b");
}

#[test]
fn nanodet_plus_has_four_strides_and_centres_at_the_corner() {
    // The only cell of the grid of 64 pixels is the last row; its centre is 0, 0.
    let row = [vec![0.5], sides([0, 0, 1, 1])].concat();
    let output = Output::new("output", &[1, CELLS + 1, 33], table(CELLS + 1, 33, &[(CELLS, &row)]));
    let mut detector = open(&Model::new(&INPUT, vec![output]), "nanodet4", "");
    assert!(detector.summary().contains("four strides"), "{}", detector.summary());
    assert_found(&infer(&mut detector), &[found([0.0, 0.0, 128.0, 64.0], 0.5, 0)], 1e-3);
}

#[test]
fn nanodet_with_an_output_per_stride_may_have_any_order() {
    let cells = [64, 16, 4];
    let scores = |i: usize| {
        let n = cells[i];
        let given: &[(usize, &[f32])] = if i == 1 { &[(5, &[0.2, 0.1, 0.7])] } else { &[] };
        Output::new(&format!("cls_{i}"), &[1, n, 3], table(n, 3, given))
    };
    let distances = |i: usize| {
        let row = sides([1, 0, 1, 1]);
        let n = cells[i];
        let given: &[(usize, &[f32])] = if i == 1 { &[(5, &row)] } else { &[] };
        Output::new(&format!("dis_{i}"), &[1, n, 32], table(n, 32, given))
    };
    for order in [[0, 1, 2, 3, 4, 5], [4, 0, 2, 5, 3, 1]] {
        let outputs = order.map(|i| if i < 3 { scores(i) } else { distances(i - 3) });
        let mut detector = open(&Model::new(&INPUT, outputs.into()), "nanodet6", "");
        // Centre of cell x 1, y 1 of the grid of 16 pixels: 23.5.
        assert_found(&infer(&mut detector), &[found([15.0, 23.5, 79.0, 39.5], 0.7, 2)], 1e-3);
    }
}

#[test]
fn ssd_is_known_by_its_names_and_takes_packed_bytes() {
    let outputs = || {
        vec![
            Output::new("detection_scores:0", &[1, 3], vec![0.9, 0.5, 0.4]),
            Output::new(
                "detection_boxes:0",
                &[1, 3, 4],
                [[0.25, 0.125, 0.5, 0.75], [0.0; 4], [0.0; 4]].concat(),
            ),
            Output::new("detection_classes:0", &[1, 3], vec![3.0, 1.0, 1.0]),
            Output::new("num_detections:0", &[1], vec![1.0]),
        ]
    };
    let model = Model::new(&[1, 64, 64, 3], outputs()).input_element(U8);
    for (description, class) in [("", 3), ("first-class=1", 2)] {
        let mut detector = open(&model, "ssd", description);
        assert!(
            detector.summary().contains("U8 Packed stretch"),
            "{}",
            detector.summary()
        );
        assert_found(
            &infer(&mut detector),
            &[found([16.0, 16.0, 96.0, 32.0], 0.9, class)],
            1e-4,
        );
    }
}

#[test]
fn torchvision_outputs_may_have_any_order_and_no_boxes() {
    let scores = Output::new("a", &[2], vec![0.5, 0.75]);
    let boxes = Output::new("b", &[2, 4], vec![8.0, 4.0, 16.0, 12.0, 1.0, 2.0, 3.0, 4.0]);
    let labels = Output::new("c", &[2], vec![1.0, 17.0]).element(I64);
    let mut detector = open(
        &Model::new(&[3, 64, 64], vec![scores, boxes, labels]),
        "torchvision",
        "",
    );
    let wanted = [
        found([2.0, 2.0, 6.0, 4.0], 0.75, 17),
        found([16.0, 4.0, 32.0, 12.0], 0.5, 1),
    ];
    assert_found(&infer(&mut detector), &wanted, 1e-4);

    let none = |name: &str, dims: &[usize]| Output::new(name, dims, Vec::new());
    let outputs = vec![
        none("boxes", &[0, 4]),
        none("labels", &[0]).element(I64),
        none("scores", &[0]),
    ];
    let mut detector = open(&Model::new(&[3, 64, 64], outputs), "torchvision0", "");
    assert_eq!(infer(&mut detector), []);
}

#[test]
fn half_precision_inputs_and_outputs_work() {
    let rows = table(CELLS, 6, &[(9, &[20.0, 10.0, 8.0, 4.0, 0.25, 0.75])]);
    let output = Output::new("output0", &[1, 6, CELLS], transposed(&rows, 6)).element(F16);
    let mut detector = open(&Model::new(&INPUT, vec![output]).input_element(F16), "half", "");
    assert_found(&infer(&mut detector), &[found([32.0, 16.0, 48.0, 24.0], 0.75, 1)], 1e-2);
}

#[test]
fn a_model_of_dynamic_size_takes_the_frame_rounded_up_to_32() {
    // The score is the mean of the input: 114/255 in the padding, 1 in the picture.
    let rows = |size: &[usize]| {
        let output = Output::new("output0", &[1, 1, 6], vec![8.0, 4.0, 16.0, 12.0, 0.0, 0.0]);
        Model::new(size, vec![output.following(vec![0.0, 0.0, 0.0, 0.0, 1.0, 0.0])])
    };
    let white = vec![255u8; 3 * 100 * 50];
    let picture = Picture::rgb(100, 50, &white, 300).unwrap();
    for (size, description, input) in [
        ([0, 3, 0, 0], "", (128, 64)),
        ([1, 3, 64, 0], "", (128, 64)),
        ([1, 3, 0, 0], "width=128, height=64", (128, 64)),
    ] {
        let mut detector = open(&rows(&size), "dynamic", description);
        assert_eq!(detector.input_size(100, 50), input);
        let own = detector.infer(&picture, &InferSettings::default()).unwrap().detections;
        // A described size is treated like any other: the picture is enlarged to fit it.
        let (scale, inside) = if description.is_empty() {
            (1.0, 100.0 * 50.0)
        } else {
            (1.28, 128.0 * 64.0)
        };
        let score = (inside + (128.0 * 64.0 - inside) * 114.0 / 255.0) / (128.0 * 64.0);
        let corners = [8.0, 4.0, 16.0, 12.0].map(|v| v / scale);
        assert_found(&own, &[found(corners, score, 0)], 2e-3);
    }
}

#[test]
fn the_input_has_the_described_colours() {
    // The mean of the input is that of red, green and blue, so that weights by channel need unequal gains.
    let output = Output::new("output0", &[1, 1, 6], vec![8.0, 4.0, 16.0, 12.0, 0.0, 0.0]);
    let model = Model::new(&INPUT, vec![output.following(vec![0.0, 0.0, 0.0, 0.0, 1.0, 0.0])]);
    let red = [240u8, 30, 0].repeat(64 * 64);
    let picture = Picture::rgb(64, 64, &red, 192).unwrap();
    for (description, score) in [
        ("scale=1/255, std=<1, 1000, 1000>", 240.0 / 255.0 / 3.0),
        ("scale=1/255, std=<1000, 1000, 1>, color=bgr", 240.0 / 255.0 / 3.0),
        ("scale=1/255, std=<1000, 1, 1000>, color=bgr", 30.0 / 255.0 / 3.0),
        ("scale=1, mean=<239, 30, 0>", 1.0 / 3.0),
    ] {
        let mut detector = open(&model, "colours", &format!("{description}, pad=0"));
        let settings = InferSettings {
            floor: 0.0,
            ..Default::default()
        };
        let own = detector.infer(&picture, &settings).unwrap().detections;
        assert!((own[0].score - score).abs() < 1e-3, "{description}: {own:?} {score}");
    }
}

#[test]
fn boxes_are_clipped_to_the_picture_and_those_in_the_padding_dropped() {
    let rows = table(
        4,
        6,
        &[
            (0, &[-8.0, -4.0, 80.0, 12.0, 0.9, 0.0]),
            // The picture of 128x64 fills the upper half of the input.
            (1, &[8.0, 40.0, 16.0, 60.0, 0.8, 0.0]),
            (2, &[f32::NAN, 4.0, 16.0, 12.0, 0.7, 0.0]),
            (3, &[0.0, 4.0, f32::INFINITY, 12.0, 0.6, 0.0]),
        ],
    );
    let mut detector = open(
        &Model::new(&INPUT, vec![Output::new("output0", &[1, 4, 6], rows)]),
        "clip",
        "",
    );
    assert_found(&infer(&mut detector), &[found([0.0, 0.0, 128.0, 24.0], 0.9, 0)], 1e-4);
}

#[test]
fn settings_of_one_frame_do_not_stick() {
    let rows = table(
        CELLS,
        6,
        &[
            (3, &[20.0, 10.0, 8.0, 4.0, 0.9, 0.0]),
            (4, &[21.0, 10.0, 8.0, 4.0, 0.5, 0.0]),
            (5, &[50.0, 10.0, 8.0, 4.0, 0.3, 0.0]),
        ],
    );
    let output = Output::new("output0", &[1, 6, CELLS], transposed(&rows, 6));
    let mut detector = open(&Model::new(&INPUT, vec![output]), "settings", "");
    let grey = vec![128u8; 3 * 64 * 64];
    let picture = Picture::rgb(64, 64, &grey, 192).unwrap();
    let standard = InferSettings::default();
    let mut count = |settings: InferSettings| detector.infer(&picture, &settings).unwrap().detections.len();
    assert_eq!(count(standard), 2);
    assert_eq!(
        count(InferSettings {
            iou_threshold: 0.9,
            ..standard
        }),
        3
    );
    assert_eq!(count(InferSettings { floor: 0.4, ..standard }), 1);
    assert_eq!(
        count(InferSettings {
            max_detections: 1,
            ..standard
        }),
        1
    );
    assert_eq!(
        count(InferSettings {
            floor: f32::NAN,
            ..standard
        }),
        count(InferSettings { floor: 0.0, ..standard })
    );
    assert_eq!(count(standard), 2);
}

#[test]
fn labels_come_from_the_file_then_the_description_then_the_metadata_then_coco() {
    let model = |classes: usize| {
        let channels = 4 + classes;
        let output = Output::new("output0", &[1, channels, CELLS], vec![0.0; channels * CELLS]);
        Model::new(&INPUT, vec![output])
    };
    let folder = Folder::new("labels");
    let two = folder.file("two.onnx", &model(2).metadata("names", "{0: 'm0', 1: 'm1'}").bytes());
    let labels = |s: &ModelSettings| Detector::open(s).unwrap_or_else(|e| panic!("{e}")).labels().to_vec();
    let metadata_only = settings(two.clone());
    assert_eq!(labels(&metadata_only), ["m0", "m1"]);
    folder.file("two.modelinfo", b"[modelinfo]\ndds-labels=s0;s1;\n");
    assert_eq!(labels(&metadata_only), ["s0", "s1"]);
    folder.file("two.onnx.modelinfo", b"[modelinfo]\ndds-labels=t0,t1\n");
    assert_eq!(labels(&metadata_only), ["t0", "t1"]);
    let property = ModelSettings {
        description: Some("labels=p0;p1".into()),
        ..metadata_only
    };
    assert_eq!(labels(&property), ["p0", "p1"]);
    let file = folder.file("labels.txt", b"f0\nf1\n\n");
    assert_eq!(
        labels(&ModelSettings {
            label_file: Some(file),
            ..property
        }),
        ["f0", "f1"]
    );

    let coco = Detector::open(&settings(folder.file("coco.onnx", &model(80).bytes()))).unwrap();
    assert_eq!((coco.labels().len(), coco.label(2)), (80, "car".into()));
    let three = Detector::open(&settings(folder.file("three.onnx", &model(3).bytes()))).unwrap();
    assert_eq!((three.labels().len(), three.label(2)), (0, "class 2".into()));
}

#[test]
fn the_shipped_model_opens_as_described() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/street_nano.onnx");
    let mut detector = Detector::open(&settings(file)).unwrap_or_else(|e| panic!("{e}"));
    assert!(detector.summary().starts_with("yolox raw"), "{}", detector.summary());
    assert_eq!(detector.labels()[0], "person");
    assert!(detector.warnings().is_empty());
    // A grey picture has no objects.
    assert_eq!(infer(&mut detector).iter().filter(|d| d.score >= 0.3).count(), 0);
}

/// Objects of a grey picture of 64x64 pixels, or why there are none.
fn objects(detector: &mut Detector, grey: u8) -> Result<usize, String> {
    let picture = vec![grey; 3 * 64 * 64];
    let picture = Picture::rgb(64, 64, &picture, 3 * 64).unwrap();
    let found = detector.infer(&picture, &InferSettings::default());
    found.map(|f| f.detections.len()).map_err(|e| e.to_string())
}

/// Objects that the models below find in a white picture.
const MOST: usize = 20;

/// `MOST` rows; the function gives the numbers of a row for its box.
fn list(row: impl Fn([f32; 4]) -> Vec<f32>) -> Vec<f32> {
    (0..MOST)
        .flat_map(|i| row([3.0 * i as f32, 4.0, 3.0 * i as f32 + 2.0, 12.0]))
        .collect()
}

/// A model: outputs, with the dimension of each that counts boxes, and a description.
type List = (&'static str, Vec<(Output, usize)>, &'static str);

/// Models that drop weak boxes themselves.
fn lists() -> Vec<List> {
    let corners = || list(|b| b.to_vec());
    let centres = |[x1, y1, x2, y2]: [f32; 4]| [(x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1];
    let end_to_end = || list(|b| [&b[..], &[0.9, 1.0]].concat());
    let of_batch = || list(|b| [&[0.0], &b[..], &[1.0, 0.9]].concat());
    let dense = || list(|b| [&centres(b)[..], &[0.9, 0.1]].concat());
    let with_objectness = || list(|b| [&centres(b)[..], &[0.95, 0.95, 0.1]].concat());
    let scores = || vec![0.9; MOST];
    let classes = || vec![1.0; MOST];
    vec![
        (
            "end to end",
            vec![(Output::new("o", &[1, MOST, 6], end_to_end()), 1)],
            "",
        ),
        (
            "end to end, without batch",
            vec![(Output::new("o", &[MOST, 6], end_to_end()), 0)],
            "",
        ),
        (
            "with batch numbers",
            vec![(Output::new("o", &[MOST, 7], of_batch()), 0)],
            "",
        ),
        (
            "YOLOv8, channels first",
            vec![(Output::new("o", &[1, 6, MOST], transposed(&dense(), 6)), 2)],
            "family=yolov8,",
        ),
        (
            "YOLOv8, rows",
            vec![(Output::new("o", &[1, MOST, 6], dense()), 1)],
            "family=yolov8,",
        ),
        (
            "YOLOv5",
            vec![(Output::new("o", &[1, MOST, 7], with_objectness()), 1)],
            "family=yolov5,",
        ),
        (
            "YOLOX",
            vec![(Output::new("o", &[1, MOST, 7], with_objectness()), 1)],
            "family=yolox,decoded=true,scale=1/255,",
        ),
        (
            "torchvision",
            vec![
                (Output::new("b", &[MOST, 4], corners()), 0),
                (Output::new("l", &[MOST], classes()).element(I64), 0),
                (Output::new("s", &[MOST], scores()), 0),
            ],
            "",
        ),
        (
            "SSD",
            vec![
                (
                    Output::new(
                        "detection_boxes",
                        &[1, MOST, 4],
                        list(|[x1, y1, x2, y2]| [y1, x1, y2, x2].map(|v| v / 64.0).to_vec()),
                    ),
                    1,
                ),
                (Output::new("detection_classes", &[1, MOST], classes()), 1),
                (Output::new("detection_scores", &[1, MOST], scores()), 1),
            ],
            "scale=1/255,",
        ),
    ]
}

#[test]
fn a_model_may_give_as_many_rows_as_it_declares_dynamic_none_too() {
    for (what, outputs, description) in lists() {
        let outputs = outputs.into_iter().map(|(output, axis)| output.part_of(axis)).collect();
        let model = Model::new(&INPUT, outputs);
        // The blank picture at opening has some rows, or none.
        for pad in [114, 0] {
            let description = format!("{description}resize=letterbox,pad={pad}");
            let mut detector = open(&model, "lists", &description);
            for grey in [255, 0, 64, 128, 255, 13] {
                let wanted = (usize::from(grey) * MOST + 2) / 255;
                assert_eq!(
                    objects(&mut detector, grey),
                    Ok(wanted),
                    "{what}, {description}, grey {grey}"
                );
            }
        }
    }
}

#[test]
fn rows_that_a_model_declares_fixed_and_does_not_give_are_an_error() {
    for (what, outputs, description) in lists() {
        let named = match what {
            "end to end, without batch" | "with batch numbers" => "family=yolov10,",
            _ => description,
        };
        let outputs = outputs
            .into_iter()
            .map(|(output, axis)| output.part_of_undeclared(axis))
            .collect();
        let folder = Folder::new("fixed");
        let file = folder.file("m.onnx", &Model::new(&INPUT, outputs).bytes());
        let opened = Detector::open(&ModelSettings {
            description: Some(format!("{named}resize=letterbox,pad=255")),
            ..settings(file)
        });
        // A dense family is recognised by its rows, which are not those of a grid.
        let Ok(mut detector) = opened else {
            assert!(what.starts_with("YOLO"), "{what}");
            continue;
        };
        assert_eq!(objects(&mut detector, 255), Ok(MOST), "{what}");
        for grey in [128, 0] {
            let error = objects(&mut detector, grey).unwrap_err();
            assert!(error.contains("instead of"), "{what}, grey {grey}: {error}");
        }
        assert_eq!(
            objects(&mut detector, 255),
            Ok(MOST),
            "{what}: the next picture is whole again"
        );
    }
}

#[test]
fn hostile_numbers_in_lists_are_no_objects_and_no_panic() {
    let numbers = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        -1.0,
        1e9,
        0.5,
    ];
    for (columns, dims) in [(6, vec![1, 64, 6]), (6, vec![64, 6]), (7, vec![64, 7])] {
        let values = (0..64 * columns)
            .map(|i| numbers[(i * 7 + i / 11) % numbers.len()])
            .collect();
        let axis = dims.len() - 2;
        let model = Model::new(&INPUT, vec![Output::new("o", &dims, values).part_of(axis)]);
        let mut detector = open(&model, "hostile", "family=yolov10");
        for grey in [255, 0, 100] {
            let picture = vec![grey; 3 * 64 * 64];
            let picture = Picture::rgb(64, 64, &picture, 3 * 64).unwrap();
            for d in detector.infer(&picture, &InferSettings::default()).unwrap().detections {
                assert!(d.x1 >= 0.0 && d.x2 <= 64.0 && d.x1 < d.x2 && d.score <= 1.0, "{d:?}");
            }
        }
    }
}

#[test]
fn a_model_whose_only_output_is_named_as_objectness_is_refused() {
    let folder = Folder::new("onlyobjectness");
    let file = folder.file(
        "m.onnx",
        &Model::new(&INPUT, vec![Output::new("o", &[1, 84, 1], vec![0.0; 84])]).bytes(),
    );
    let error = Detector::open(&ModelSettings {
        description: Some("objectness=o".into()),
        ..settings(file)
    })
    .err()
    .unwrap();
    assert!(error.to_string().contains("no outputs"), "{error}");
}
