// SPDX-License-Identifier: MPL-2.0

#![forbid(unsafe_code)]

use std::path::Path;

use serde_json::Value;

use super::ModelError;

/// The 80 classes of COCO in their usual order.
const COCO: [&str; 80] = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];

/// The 19 training classes of Cityscapes in the order of their numbers; the 20th is for pixels of none.
const CITYSCAPES: [&str; 20] = [
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "background",
];

/// The classes of Pascal VOC's segmentations.
const VOC: [&str; 21] = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
];

/// The usual labels of a segmentation with this number of classes, and their origin.
pub(super) fn of_segmentation(classes: usize) -> Option<(Vec<String>, String)> {
    let (labels, origin) = match classes {
        19 | 20 => (&CITYSCAPES[..classes], "Cityscapes"),
        21 => (&VOC[..], "Pascal VOC"),
        _ => return None,
    };
    let labels = labels.iter().map(|l| (*l).to_owned()).collect();
    Some((labels, format!("{origin}, as there are {classes}")))
}

pub(super) fn coco() -> Vec<String> {
    COCO.iter().map(|l| (*l).to_owned()).collect()
}

/// Reads a label file: UTF-8, one label per line, line 1 is class 0; or a list or dictionary of strings as JSON or Python
/// write it. Empty lines at the end are dropped; others keep their place, because the line number is the class.
pub(super) fn read(path: &Path) -> Result<Vec<String>, ModelError> {
    let fail = |cause: String| ModelError::LabelFile {
        path: path.to_owned(),
        cause,
    };
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let text = text(bytes).map_err(fail)?;
    if text.trim_start().starts_with(['[', '{'])
        && let Ok(labels) = from_names(&text)
    {
        return Ok(labels);
    }
    let mut labels: Vec<String> = text.lines().map(|l| l.trim().to_owned()).collect();
    while labels.last().is_some_and(String::is_empty) {
        labels.pop();
    }
    if labels.is_empty() {
        return Err(fail(
            "it is empty; it needs one label per line, the first line for class 0".into(),
        ));
    }
    Ok(labels)
}

/// A file's content as text, without a byte order mark. NUL is refused: GLib's strings would end at it.
pub(super) fn text(bytes: Vec<u8>) -> Result<String, String> {
    let mut text = String::from_utf8(bytes)
        .ok()
        .filter(|t| !t.contains('\0'))
        .ok_or("it is not UTF-8 text; save it as UTF-8")?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// Most labels taken from a model: bounds what a damaged file can allocate.
const MAX_LABELS: usize = 100_000;

/// Reads a JSON list of strings, or dictionary from numbers to strings.
fn from_json(text: &str) -> Option<Vec<String>> {
    let name = |value: &Value| value.as_str().map(str::to_owned);
    match serde_json::from_str(text).ok()? {
        Value::Array(names) if !names.is_empty() => names.iter().map(name).collect(),
        Value::Object(names) if !names.is_empty() => {
            let mut labels = Vec::new();
            for (key, value) in &names {
                let index = key.trim().parse::<usize>().ok().filter(|i| *i < MAX_LABELS)?;
                if labels.len() <= index {
                    labels.resize(index + 1, None);
                }
                labels[index] = Some(name(value)?);
            }
            Some(numbered(labels))
        }
        _ => None,
    }
}

/// Fills missing labels with their numbers.
fn numbered(labels: Vec<Option<String>>) -> Vec<String> {
    let named = labels.into_iter().enumerate();
    named.map(|(i, l)| l.unwrap_or_else(|| format!("class {i}"))).collect()
}

/// Labels from the `names` of Ultralytics' metadata: `{0: 'person', 1: "..."}`, the same with quoted numbers, or a
/// list `['person', ...]`.
pub(super) fn from_names(text: &str) -> Result<Vec<String>, String> {
    let bad = |what: &str| Err(format!("names is not a dictionary or list of strings ({what})"));
    let text = text.trim();
    if let Some(labels) = from_json(text) {
        return Ok(labels);
    }
    let (body, keyed) = match (text.strip_prefix('{'), text.strip_prefix('[')) {
        (Some(b), _) => (b.strip_suffix('}'), true),
        (_, Some(b)) => (b.strip_suffix(']'), false),
        _ => (None, false),
    };
    let Some(body) = body else { return bad("no brackets") };
    let mut labels: Vec<Option<String>> = Vec::new();
    let mut chars = body.chars().peekable();
    loop {
        while chars.peek().is_some_and(|c| c.is_whitespace() || *c == ',') {
            chars.next();
        }
        let Some(&first) = chars.peek() else { break };
        let mut index = labels.len();
        if keyed {
            let key: String = std::iter::from_fn(|| chars.next_if(|c| *c != ':')).collect();
            chars.next();
            match key.trim().trim_matches(['\'', '"']).parse::<usize>() {
                Ok(i) if i < MAX_LABELS => index = i,
                _ => return bad(&format!("key {key}")),
            }
            while chars.peek().is_some_and(|c| c.is_whitespace()) {
                chars.next();
            }
        } else if first != '\'' && first != '"' {
            return bad("an entry without quotes");
        }
        let Some(quote) = chars.next_if(|c| *c == '\'' || *c == '"') else {
            return bad("a value without quotes");
        };
        let mut label = String::new();
        loop {
            match chars.next() {
                Some('\\') => label.extend(chars.next()),
                Some(c) if c == quote => break,
                Some(c) => label.push(c),
                None => return bad("an open quote"),
            }
        }
        if labels.len() <= index {
            labels.resize(index + 1, None);
        }
        labels[index] = Some(label);
    }
    if labels.is_empty() {
        return bad("no entries");
    }
    Ok(numbered(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_dictionary_list_and_json() {
        for text in [
            "{0: 'a', 1: \"b's\"}",
            "{\"0\": \"a\", \"1\": \"b's\"}",
            "['a', 'b\\'s']",
            "{1: \"b's\", 0: 'a',}",
            "[\"a\", \"b\\u0027s\"]",
            "{\"1\": \"b's\", \"0\": \"a\"}",
        ] {
            assert_eq!(from_names(text).unwrap(), ["a", "b's"], "{text}");
        }
        assert_eq!(from_names("{1: 'b'}").unwrap(), ["class 0", "b"]);
    }

    #[test]
    fn damaged_names_are_an_error() {
        for text in [
            "",
            "{}",
            "{0 'a'}",
            "{0: a}",
            "{0: 'a",
            "{0: 'a}",
            "[a]",
            "{-1: 'a'}",
            "{99999999999: 'a'}",
            "{0:",
            "None",
            "null",
            "[1, 2]",
            "{\"a\": \"b\"}",
            "{\"99999999\": \"b\"}",
        ] {
            assert!(from_names(text).is_err(), "{text}");
        }
    }
}
