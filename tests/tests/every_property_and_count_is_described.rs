// SPDX-License-Identifier: MPL-2.0

//! Every property says in one short sentence what it is for; the README of its crate tells the rest, and what each field of
//! `stats` counts. Nothing is there that does not exist.

use std::collections::BTreeSet;
use std::path::Path;

use dds_tests::{init, launch};
use gst::prelude::*;

/// Each element, and the README that describes it.
const ELEMENTS: [(&str, &str); 4] = [
    ("ddsencode", "gst-dds/README.md"),
    ("ddsinfer", "gst-dds-infer/README.md"),
    ("ddsoverlay", "gst-dds-infer/README.md"),
    ("ddsrtprecv", "gst-dds-infer/README.md"),
];

/// Longest blurb, in characters.
const MOST: usize = 160;

/// Properties of the element's own.
fn properties(element: &gst::Element) -> Vec<glib::ParamSpec> {
    let all = element.list_properties();
    let own = all.iter().filter(|pspec| pspec.owner_type() == element.type_());
    own.cloned().collect()
}

/// A property's default as launch lines have it; empty for no text, and for what cannot be set.
fn default_of(pspec: &glib::ParamSpec) -> String {
    let value = pspec.default_value();
    if let Ok(number) = value.get::<f32>() {
        number.to_string()
    } else if let Ok(number) = value.get::<f64>() {
        number.to_string()
    } else if let Ok(text) = value.get::<Option<String>>() {
        text.unwrap_or_default()
    } else if let Some((_, flags)) = glib::FlagsValue::from_value(value) {
        let names: Vec<_> = flags.iter().map(|flag| flag.nick()).collect();
        names.join("+")
    } else if let Some((_, value)) = glib::EnumValue::from_value(value) {
        value.nick().to_string()
    } else if pspec.flags().contains(glib::ParamFlags::WRITABLE) {
        value.serialize().unwrap().to_string()
    } else {
        String::new()
    }
}

/// Rows of the tables under a heading `### title` of an element's chapter `## element`, split into their cells.
fn rows(readme: &str, element: &str, title: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(readme);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{readme}: {e}"));
    let (mut chapter, mut section) = ("", "");
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            (chapter, section) = (heading, "");
        } else if let Some(heading) = line.strip_prefix("### ") {
            section = heading;
        } else if (chapter, section) == (element, title) && line.starts_with("| `") {
            let cells = line.trim_start_matches('|').trim_end_matches('|').split('|');
            rows.push(cells.map(|cell| cell.trim().to_string()).collect());
        }
    }
    rows
}

/// What a cell has in backquotes.
fn quoted(cell: &str) -> &str {
    cell.strip_prefix('`')
        .and_then(|cell| cell.strip_suffix('`'))
        .unwrap_or(cell)
}

#[test]
fn a_blurb_is_one_sentence_of_at_most_160_characters() {
    init().unwrap();
    let mut wrong = Vec::new();
    for (name, _) in ELEMENTS {
        let element = gst::ElementFactory::make(name).build().unwrap();
        for pspec in properties(&element) {
            let blurb = pspec.blurb().unwrap_or_default();
            let words: Vec<_> = blurb.split_whitespace().collect();
            let ends = words.iter().any(|word| word.ends_with(['.', '!', '?']));
            let begins = blurb.starts_with(|first: char| first.is_uppercase() || first.is_ascii_digit());
            let plain = words.join(" ") == blurb;
            let length = blurb.chars().count();
            if length > MOST || ends || !begins || !plain || words.len() < 3 {
                wrong.push(format!("{name} {} ({length}): {blurb}", pspec.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_can_only_be_refused_or_does_nothing_says_so_first() {
    init().unwrap();
    let element = gst::ElementFactory::make("ddsencode").build().unwrap();
    let blurb = |name: &str| {
        element
            .find_property(name)
            .unwrap()
            .blurb()
            .unwrap_or_default()
            .to_string()
    };
    for name in ["b-adapt", "b-pyramid", "pb-factor", "weightb"] {
        assert!(blurb(name).starts_with("No effect"), "{name}");
    }
    for name in [
        "bframes",
        "mb-tree",
        "multipass-cache-file",
        "rc-lookahead",
        "sync-lookahead",
    ] {
        assert!(blurb(name).starts_with("Refused"), "{name}");
    }
    for name in ["cabac", "dct8x8", "me", "ref", "subme", "trellis"] {
        assert!(blurb(name).starts_with("Unset, speed-preset "), "{name}");
    }
    for name in ["bandwidth", "bitrate", "max-bitrate", "max-feedback-bitrate"] {
        assert!(
            blurb(name).starts_with("For ") && blurb(name).contains("kbit/s"),
            "{name}"
        );
    }
}

#[test]
fn the_table_of_properties_is_that_of_the_element() {
    init().unwrap();
    for (name, readme) in ELEMENTS {
        let element = gst::ElementFactory::make(name).build().unwrap();
        let mut rows = rows(readme, name, "Properties");
        for pspec in properties(&element) {
            let property = pspec.name();
            let at = rows.iter().position(|row| quoted(&row[0]) == property);
            let row = rows.swap_remove(at.unwrap_or_else(|| panic!("{readme}: {name} has {property}")));
            let [_, default, live, meaning] = &row[..] else {
                panic!("{readme}: {row:?}")
            };
            assert_eq!(quoted(default), default_of(&pspec), "{readme}: default of {property}");
            let expected = pspec.flags().contains(gst::PARAM_FLAG_MUTABLE_PLAYING);
            assert_eq!(live == "live", expected, "{readme}: {property}");
            assert!(!meaning.is_empty(), "{readme}: {property}");
        }
        assert!(rows.is_empty(), "{readme}: {name} has no {rows:?}");
    }
}

#[test]
fn the_table_of_counts_is_that_of_the_stats() {
    init().unwrap();
    // Each with everything running that adds a field.
    for (name, readme, line) in [
        (
            "ddsencode",
            "gst-dds/README.md",
            "videotestsrc num-buffers=5 ! video/x-raw,width=160,height=96 ! ddsencode name=e ! fakesink",
        ),
        (
            "ddsinfer",
            "gst-dds-infer/README.md",
            "videotestsrc num-buffers=5 ! ddsinfer name=e ! fakesink",
        ),
        (
            "ddsrtprecv",
            "gst-dds-infer/README.md",
            "ddsrtprecv name=e videotestsrc num-buffers=5 ! ddsencode ! rtph264pay ! e.rtp_sink e.src ! fakesink",
        ),
    ] {
        let pipeline = launch(line).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let message = pipeline.bus().unwrap().timed_pop_filtered(
            gst::ClockTime::from_seconds(60),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        );
        assert!(
            matches!(message.as_ref().map(|m| m.type_()), Some(gst::MessageType::Eos)),
            "{message:?}"
        );
        let stats = pipeline.by_name("e").unwrap().property::<gst::Structure>("stats");
        pipeline.set_state(gst::State::Null).unwrap();
        let fields: BTreeSet<String> = stats.fields().map(|field| field.to_string()).collect();
        let rows = rows(readme, name, "Statistics");
        let described: BTreeSet<String> = rows.iter().map(|row| quoted(&row[0]).to_string()).collect();
        assert_eq!(
            described.len(),
            rows.len(),
            "{readme}: a field of {name} stands there twice"
        );
        let missing: Vec<_> = fields.difference(&described).collect();
        let unknown: Vec<_> = described.difference(&fields).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "{readme}: missing {missing:?}, unknown {unknown:?}"
        );
        for row in rows {
            assert!(
                row.len() == 3 && row.iter().all(|cell| !cell.is_empty()),
                "{readme}: {row:?}"
            );
        }
    }
}
