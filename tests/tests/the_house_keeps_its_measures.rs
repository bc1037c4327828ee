// SPDX-License-Identifier: MPL-2.0

//! Functions and files of the products stay of a size that can be read at once, and files do not use each other's names in
//! circles.
//!
//! `cargo test -p dds-tests --test the_house_keeps_its_measures -- --nocapture` prints the counts as well.

mod measures;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use measures::{Crate, table};

/// Most lines of a function, from `fn` to its last brace.
const FUNCTION: usize = 90;
/// Most lines of a file, without test modules in it.
const FILE: usize = 900;
/// The same of an `imp.rs`, which is there for GObject alone.
const GLUE: usize = 700;

/// The products: folder, name of the library, root files. Generated bindings are crates of their own.
const PRODUCTS: &[(&str, &str, &[&str])] = &[
    ("gst-dds", "gstdds", &["src/lib.rs"]),
    ("gst-dds/link", "gst_dds_link", &["src/lib.rs"]),
    ("gst-dds/protocol", "dds_protocol", &["src/lib.rs"]),
    ("gst-dds-infer", "gstddsinfer", &["src/lib.rs"]),
    (
        "pipelines/rtsp-camera",
        "dds_rtsp_camera",
        &["src/lib.rs", "src/main.rs"],
    ),
];

/// What is larger than it should be: a file, or a function by its file and name, and why it may be.
const LARGE: &[(&str, &str)] = &[];

/// Files of a folder that use each other's names, and why they may.
const CIRCLES: &[(&str, &[&str], &str)] = &[];

static MEASURED: LazyLock<BTreeMap<&str, Crate>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(""));
    let read = |path: &Path| std::fs::read_to_string(root.join(path)).ok();
    let product = |(folder, name, roots): &(&'static str, &str, &[&str])| {
        let roots: Vec<PathBuf> = roots.iter().map(|file| Path::new(folder).join(file)).collect();
        let roots: Vec<&Path> = roots.iter().map(PathBuf::as_path).collect();
        (*folder, Crate::read(name, &roots, &read).unwrap())
    };
    PRODUCTS.iter().map(product).collect()
});

/// Everything that is too large: what it is called in [`LARGE`], and its lines.
fn large(products: &BTreeMap<&str, Crate>) -> BTreeMap<String, usize> {
    let mut large = BTreeMap::new();
    for file in products.values().flat_map(|product| &product.files) {
        let name = file.path.display();
        let most = if file.path.ends_with("imp.rs") { GLUE } else { FILE };
        if file.lines > most {
            large.insert(name.to_string(), file.lines);
        }
        for (function, lines) in file.functions.iter().filter(|(_, lines)| *lines > FUNCTION) {
            large.insert(format!("{name} {function}"), *lines);
        }
    }
    large
}

#[test]
fn functions_and_files_are_read_at_once() {
    println!("{}", table(&MEASURED));
    let large = large(&MEASURED);
    let excepted: BTreeSet<&str> = LARGE.iter().map(|(what, _)| *what).collect();
    let wrong: Vec<_> = large
        .iter()
        .filter(|(what, _)| !excepted.contains(what.as_str()))
        .collect();
    assert!(wrong.is_empty(), "too large, with lines: {wrong:#?}");
    let needless: Vec<_> = excepted.iter().filter(|what| !large.contains_key(**what)).collect();
    assert!(needless.is_empty(), "no longer too large: {needless:#?}");
}

#[test]
fn no_files_use_each_others_names() {
    let circles: Vec<_> = MEASURED.values().flat_map(Crate::circles).collect();
    let excepted: Vec<BTreeSet<PathBuf>> = CIRCLES
        .iter()
        .map(|(folder, files, _)| files.iter().map(|file| Path::new(folder).join(file)).collect())
        .collect();
    let wrong: Vec<_> = circles
        .iter()
        .filter(|circle| !excepted.iter().any(|files| circle.is_subset(files)))
        .collect();
    assert!(wrong.is_empty(), "these use each other's names: {wrong:#?}");
    let needless: Vec<_> = excepted
        .iter()
        .filter(|files| !circles.iter().any(|circle| circle.is_subset(files)))
        .collect();
    assert!(needless.is_empty(), "no circles any more: {needless:#?}");
}

fn parsed(files: &[(&str, &str)]) -> Crate {
    let read = |path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| (*text).to_string())
    };
    Crate::read("own", &[Path::new("lib.rs")], &read).unwrap()
}

fn uses(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let parsed = parsed(files);
    let name = |file: usize| parsed.files[file].path.display().to_string();
    let uses = parsed.uses.iter().enumerate();
    uses.flat_map(|(from, to)| to.iter().map(move |to| (name(from), name(*to))).collect::<Vec<_>>())
        .collect()
}

fn edges(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
}

#[test]
fn names_are_followed_to_the_file_that_declares_them() {
    let below = "pub mod deep; pub use deep::Shown; pub const C: u8 = 0;";
    let lib = |user| {
        [
            ("lib.rs", "mod a; mod below;"),
            ("a.rs", user),
            ("below/mod.rs", below),
            ("below/deep.rs", "pub struct Shown;"),
        ]
    };
    for (user, to) in [
        ("use crate::below::Shown;", "below/deep.rs"),
        ("use super::below::{self, C};", "below/mod.rs"),
        ("use super::below; fn f() { below::Shown; }", "below/deep.rs"),
        (
            "use super::below as other; type T = other::deep::Shown;",
            "below/deep.rs",
        ),
        ("use crate::below::*; fn f() -> Shown { Shown }", "below/deep.rs"),
        ("fn f() { call!(1, crate::below::C) }", "below/mod.rs"),
        ("mod inner { use super::super::below::C; }", "below/mod.rs"),
        ("fn f() { use own::below::C; }", "below/mod.rs"),
    ] {
        assert_eq!(uses(&lib(user)), edges(&[("a.rs", to)]), "{user}");
    }
    for nothing in [
        "use super::below;",
        "use other::below::C; fn f() { gst::below::C }",
        "#[cfg(test)] mod tests { use crate::below::C; }",
        "#[test] fn f() { crate::below::C }",
        "struct C; use self::C as D;",
    ] {
        assert_eq!(uses(&lib(nothing)), edges(&[]), "{nothing}");
    }
}

#[test]
fn what_a_module_shows_of_those_below_is_no_use() {
    let child = ("child.rs", "use super::Own; pub struct Shown;");
    let circles = |lib| parsed(&[("lib.rs", lib), child]).circles();
    assert!(circles("mod child; pub use child::Shown; struct Own;").is_empty());
    assert!(circles("mod child; glib::wrapper! { struct Own(ObjectSubclass<child::Shown>); }").is_empty());
    let both = [BTreeSet::from(["child.rs".into(), "lib.rs".into()])];
    assert_eq!(circles("mod child; pub use child::Shown; struct Own(Shown);"), both);
    assert_eq!(circles("mod child; use child::Shown; struct Own;"), both);
}

#[test]
fn lines_are_those_of_the_product() {
    let text = "/// Doc.\n#[inline]\nfn f(\n) {\n}\nimpl A {\n    fn g() {\n    }\n}\n#[cfg(test)]\nmod tests {\n    fn h() {}\n}\n";
    let parsed = parsed(&[("lib.rs", text)]);
    assert_eq!(parsed.files[0].lines, 9);
    assert_eq!(
        parsed.files[0].functions,
        [("f".to_string(), 3), ("A::g".to_string(), 2)]
    );
}

#[test]
fn locks_and_properties_by_name_are_counted() {
    let imp = "struct E { a: Mutex<u8>, b: Vec<Arc<AtomicBool>>, c: u8 } impl ObjectSubclass for E {} \
               fn p() { ParamSpecUInt::builder(\"size\"); flag(\"open\"); } \
               fn q(s: S) { s.uint(\"size\"); s.flag(\"open\"); s.say(\"hello\"); }";
    let parsed = parsed(&[
        ("lib.rs", "mod e; struct Other { d: RwLock<()> }"),
        ("e/mod.rs", "mod imp; mod more;"),
        ("e/imp.rs", imp),
        ("e/more.rs", "struct M(std::sync::Mutex<()>);"),
    ]);
    assert_eq!(parsed.elements(), [(Path::new("e/imp.rs"), "E", 2, 3)]);
    assert_eq!(parsed.look_ups(), 2);
}
