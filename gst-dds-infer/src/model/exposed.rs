// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

//! Makes tensors inside a model outputs, without a library for ONNX files.
//!
//! A parser of protobuf merges a message that occurs twice (Protocol Buffers' encoding, "last one wins"). A second
//! `graph` appended to the model that holds only names of outputs therefore adds them to the model's own. ONNX Runtime
//! infers their types.

use std::collections::HashSet;
use std::path::Path;

use super::ModelError;

/// Field numbers of onnx.proto, version 3; they never change.
mod field {
    pub const MODEL_GRAPH: u64 = 7;
    pub const GRAPH_NODE: u64 = 1;
    pub const GRAPH_INITIALIZER: u64 = 5;
    pub const GRAPH_OUTPUT: u64 = 12;
    pub const NODE_OUTPUT: u64 = 2;
    pub const TENSOR_DATA_LOCATION: u64 = 14;
    pub const VALUE_NAME: u64 = 1;
}

/// A model with more outputs than in its file.
#[derive(Debug, PartialEq)]
pub(super) struct Exposed {
    /// The whole model, in the format of the file.
    pub model: Vec<u8>,
    /// Number of outputs added after its own.
    pub added: usize,
}

/// Adds these tensors to the outputs of a model; `None` where all are outputs already, so that the file itself will
/// do.
///
/// # Errors
/// [`ModelError::ModelFile`] when the file cannot be read, has no such tensor, or keeps its weights in another file,
/// which ONNX Runtime finds by the name of the model's file only.
pub(super) fn with_outputs(file: &Path, names: &[String]) -> Result<Option<Exposed>, ModelError> {
    let fail = |cause: String| ModelError::ModelFile {
        path: file.to_owned(),
        cause,
    };
    if names.iter().all(|n| n.trim().is_empty()) {
        return Ok(None);
    }
    let model = std::fs::read(file).map_err(|e| fail(e.to_string()))?;
    add(model, names).map_err(fail)
}

fn add(mut model: Vec<u8>, names: &[String]) -> Result<Option<Exposed>, String> {
    let mut known = HashSet::new();
    let mut outputs = HashSet::new();
    let mut external = false;
    for graph in messages(&model, field::MODEL_GRAPH) {
        for node in messages(graph, field::GRAPH_NODE) {
            known.extend(messages(node, field::NODE_OUTPUT));
        }
        for output in messages(graph, field::GRAPH_OUTPUT) {
            outputs.extend(messages(output, field::VALUE_NAME));
        }
        external |= messages(graph, field::GRAPH_INITIALIZER)
            .any(|tensor| Fields(tensor).any(|f| matches!(f, (field::TENSOR_DATA_LOCATION, Value::Number(1)))));
    }
    let mut graph = Vec::new();
    let mut added = 0;
    for name in names.iter().map(|n| n.trim()).filter(|n| !n.is_empty()) {
        if outputs.contains(name.as_bytes()) {
            continue;
        }
        let Some(own) = known.get(name.as_bytes()) else {
            return Err(format!(
                "it has no tensor {name}, which extra-outputs or dds-objectness names; names are those of the outputs of its nodes"
            ));
        };
        let mut output = Vec::new();
        write(&mut output, field::VALUE_NAME, own);
        write(&mut graph, field::GRAPH_OUTPUT, &output);
        outputs.insert(own);
        added += 1;
    }
    if added == 0 {
        return Ok(None);
    }
    if external {
        return Err(
            "it keeps its weights in a file of their own, with which extra-outputs and dds-objectness do not work; save it with its \
             weights inside, or with the wanted outputs"
                .into(),
        );
    }
    write(&mut model, field::MODEL_GRAPH, &graph);
    Ok(Some(Exposed { model, added }))
}

/// Contents of all length-delimited fields of this number.
fn messages(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    Fields(message).filter_map(move |(n, value)| match value {
        Value::Bytes(bytes) if n == number => Some(bytes),
        _ => None,
    })
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// Fields of a message; ends at the first damaged one, which ONNX Runtime will report.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, bytes: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(bytes).ok()?)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

/// Appends a length-delimited field.
fn write(message: &mut Vec<u8>, number: u64, content: &[u8]) {
    for mut value in [number << 3 | 2, content.len() as u64] {
        while value >= 0x80 {
            message.push(value as u8 | 0x80);
            value >>= 7;
        }
        message.push(value as u8);
    }
    message.extend(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(u64, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        fields
            .iter()
            .for_each(|(number, content)| write(&mut bytes, *number, content));
        bytes
    }

    /// A model of two nodes with outputs a and b, of which b is a model output; `tensor` holds its weights.
    fn model(tensor: &[u8]) -> Vec<u8> {
        let node = |name: &[u8]| message(&[(1, b"images"), (field::NODE_OUTPUT, name), (4, b"Relu")]);
        let output = message(&[(field::VALUE_NAME, b"b")]);
        let graph = message(&[
            (field::GRAPH_NODE, &node(b"a")),
            (field::GRAPH_NODE, &node(b"b")),
            (field::GRAPH_INITIALIZER, tensor),
            (field::GRAPH_OUTPUT, &output),
        ]);
        message(&[(field::MODEL_GRAPH, &graph)])
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn names_of_outputs_are_put_behind_the_model() {
        let own = model(&[]);
        let exposed = add(own.clone(), &names(&["b", "a", "a"])).unwrap().unwrap();
        assert_eq!(exposed.added, 1);
        let (first, rest) = exposed.model.split_at(own.len());
        assert_eq!((first, rest), (&own[..], &[0x3a, 5, 0x62, 3, 0x0a, 1, b'a'][..]));
        assert_eq!(add(own, &names(&["b", ""])), Ok(None));
    }

    #[test]
    fn unknown_names_and_weights_elsewhere_are_refused() {
        assert!(
            add(model(&[]), &names(&["a", "images"]))
                .unwrap_err()
                .contains("no tensor images")
        );
        let external = [(field::TENSOR_DATA_LOCATION << 3) as u8, 1];
        assert!(
            add(model(&external), &names(&["a"]))
                .unwrap_err()
                .contains("a file of their own")
        );
        assert!(add(model(&[(field::TENSOR_DATA_LOCATION << 3) as u8, 0]), &names(&["a"])).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn damaged_models_are_no_panic(cut in 0usize..60, at in 0usize..60, byte in proptest::num::u8::ANY) {
            let mut model = model(&[0x70, 1]);
            model.truncate(cut);
            if let Some(b) = model.get_mut(at) {
                *b = byte;
            }
            let _ = add(model, &names(&["a"]));
        }
    }
}
