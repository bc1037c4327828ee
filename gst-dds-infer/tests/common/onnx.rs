// SPDX-License-Identifier: MPL-2.0

//! Tiny ONNX models with known output, written as protobuf by hand, and the path of ONNX Runtime.
//!
//! Each output is `values + follows * mean(input)`: it depends on the input, as a real one does, and is known.

// Each test crate uses its own part of this.
#![allow(dead_code)]

use std::path::PathBuf;

use gstddsinfer::model::ModelSettings;

/// ONNX's element types.
pub const F32: u64 = 1;
pub const U8: u64 = 2;
pub const I64: u64 = 7;
pub const F16: u64 = 10;

/// A message of protobuf.
#[derive(Default, Clone)]
pub struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn int(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    pub fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    pub fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0)
    }
}

/// One output; `follows` is added times the mean of the input.
pub struct Output {
    name: String,
    element: u64,
    dims: Vec<usize>,
    values: Vec<f32>,
    follows: Vec<f32>,
    hidden: bool,
    /// The dimension of which only a part is output, and whether it is declared dynamic.
    part: Option<(usize, bool)>,
}

impl Output {
    pub fn new(name: &str, dims: &[usize], values: Vec<f32>) -> Self {
        assert_eq!(dims.iter().product::<usize>(), values.len());
        let follows = vec![0.0; values.len()];
        Self {
            name: name.into(),
            element: F32,
            dims: dims.into(),
            values,
            follows,
            hidden: false,
            part: None,
        }
    }

    /// Outputs only the first `mean(input)` of dimension `axis`, from 0 (none) to 1 (all).
    pub fn part_of(self, axis: usize) -> Self {
        Self {
            part: Some((axis, true)),
            ..self
        }
    }

    /// The same, declared as all.
    pub fn part_of_undeclared(self, axis: usize) -> Self {
        Self {
            part: Some((axis, false)),
            ..self
        }
    }

    pub fn element(self, element: u64) -> Self {
        Self { element, ..self }
    }

    /// A tensor inside the model that is no output.
    pub fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    pub fn following(self, follows: Vec<f32>) -> Self {
        assert_eq!(self.values.len(), follows.len());
        Self { follows, ..self }
    }
}

/// A model: one input (a dimension of 0 is dynamic) and its outputs.
pub struct Model {
    pub inputs: Vec<(String, u64, Vec<usize>)>,
    pub outputs: Vec<Output>,
    pub metadata: Vec<(String, String)>,
}

impl Model {
    pub fn new(input: &[usize], outputs: Vec<Output>) -> Self {
        Self {
            inputs: vec![("images".into(), F32, input.into())],
            outputs,
            metadata: Vec::new(),
        }
    }

    pub fn input_element(mut self, element: u64) -> Self {
        self.inputs[0].1 = element;
        self
    }

    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut graph = Message::default().text(2, "test");
        graph = graph.message(1, cast("images", "images_f32", F32));
        graph = graph.message(
            1,
            node("ReduceMean", &["images_f32"], "mean").message(5, attribute("keepdims", 0)),
        );
        for o in &self.outputs {
            let name = |suffix: &str| format!("{}_{suffix}", o.name);
            let [values, follows, product, sum] = ["values", "follows", "product", "sum"].map(name);
            graph = graph.message(5, tensor(&values, &o.dims, &o.values));
            graph = graph.message(5, tensor(&follows, &o.dims, &o.follows));
            graph = graph.message(1, node("Mul", &[&follows, "mean"], &product));
            graph = graph.message(1, node("Add", &[&values, &product], &sum));
            let sum = match o.part {
                Some((axis, _)) => {
                    let [zero, axes, all, length, end, part] =
                        ["zero", "axes", "all", "length", "end", "part"].map(name);
                    graph = graph.message(5, integers(&zero, &[0]));
                    graph = graph.message(5, integers(&axes, &[axis as i64]));
                    // A little more than all, against rounding.
                    graph = graph.message(5, tensor(&all, &[1], &[o.dims[axis] as f32 + 0.01]));
                    graph = graph.message(1, node("Mul", &[&all, "mean"], &length));
                    graph = graph.message(1, cast(&length, &end, I64));
                    graph = graph.message(1, node("Slice", &[&sum, &zero, &end, &axes], &part));
                    part
                }
                None => sum,
            };
            graph = graph.message(1, cast(&sum, &o.name, o.element));
        }
        for (name, element, dims) in &self.inputs {
            graph = graph.message(11, value_info(name, *element, dims));
        }
        for o in self.outputs.iter().filter(|o| !o.hidden) {
            let mut dims = o.dims.clone();
            if let Some((axis, true)) = o.part {
                dims[axis] = 0;
            }
            graph = graph.message(12, value_info(&o.name, o.element, &dims));
        }
        let mut model = Message::default().int(1, 7).text(2, "gst-dds tests").message(7, graph);
        model = model.message(8, Message::default().text(1, "").int(2, 13));
        for (key, value) in &self.metadata {
            model = model.message(14, Message::default().text(1, key).text(2, value));
        }
        model.0
    }
}

fn node(op: &str, inputs: &[&str], output: &str) -> Message {
    let node = inputs.iter().fold(Message::default(), |m, i| m.text(1, i));
    node.text(2, output).text(3, output).text(4, op)
}

fn cast(input: &str, output: &str, element: u64) -> Message {
    node("Cast", &[input], output).message(5, attribute("to", element))
}

fn attribute(name: &str, value: u64) -> Message {
    Message::default().text(1, name).int(3, value).int(20, 2)
}

fn tensor(name: &str, dims: &[usize], values: &[f32]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = dims.iter().fold(Message::default(), |m, d| m.int(1, *d as u64));
    tensor.int(2, F32).text(8, name).bytes(9, &raw)
}

fn integers(name: &str, values: &[i64]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = Message::default().int(1, values.len() as u64);
    tensor.int(2, I64).text(8, name).bytes(9, &raw)
}

fn value_info(name: &str, element: u64, dims: &[usize]) -> Message {
    let shape = dims.iter().enumerate().fold(Message::default(), |m, (i, d)| {
        let dim = Message::default();
        m.message(
            1,
            if *d == 0 {
                dim.text(2, &format!("d{i}"))
            } else {
                dim.int(1, *d as u64)
            },
        )
    });
    let tensor = Message::default().int(1, element).message(2, shape);
    Message::default()
        .text(1, name)
        .message(2, Message::default().message(1, tensor))
}

/// Model files of one test, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(test: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The ONNX Runtime library of the tests: `ORT_DYLIB_PATH`, or `onnxruntime/` in the target directory, where
/// `pipelines/setup.sh` puts it; `None` leaves it to the plugin's own search.
pub fn library() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH") {
        return Some(path.into());
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent()?.join("onnxruntime");
    folder.is_dir().then_some(folder)
}

pub fn settings(model: PathBuf) -> ModelSettings {
    ModelSettings {
        model_file: model,
        library: library(),
        threads: 1,
        ..Default::default()
    }
}

/// The folder of real models and clips; prints a note if there is none.
pub fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("DDS_TEST_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    if folder.join("models").is_dir() && folder.join("videos").is_dir() {
        return Some(folder);
    }
    println!(
        "SKIPPED: no models and videos in {} (set DDS_TEST_DATA)",
        folder.display()
    );
    None
}
