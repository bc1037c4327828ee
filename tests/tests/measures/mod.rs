// SPDX-License-Identifier: MPL-2.0

//! Measures of a crate's sources: lines of files and functions, which file uses names of which, locks of elements.
//!
//! Test modules are left out of all of them, and so are tests among other items.

mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use names::{Import, Module, Names};

/// What is counted in one file.
#[derive(Debug, Default)]
pub struct File {
    /// Path as the reader of sources takes it.
    pub path: PathBuf,
    /// Lines without those of test modules in it.
    pub lines: usize,
    /// Name and lines of each function, from `fn` to its last brace.
    pub functions: Vec<(String, usize)>,
    /// Name of each structure and how many of its fields are locks or atomics.
    pub structures: Vec<(String, usize)>,
    /// Structures that are implementations of GObjects.
    pub objects: Vec<String>,
    /// Texts that are the first argument of a call, and whether that is a method's.
    pub texts: Vec<(bool, String)>,
    /// It names specifications of properties.
    pub specifies: bool,
}

/// A crate's files, and which of them use names of which.
#[derive(Debug, Default)]
pub struct Crate {
    /// Files in the order in which `mod` lines name them.
    pub files: Vec<File>,
    /// Indices of the files that each file uses names of, itself left out.
    pub uses: Vec<BTreeSet<usize>>,
}

impl Crate {
    /// Reads the crate whose library is called `name`, from its root files on.
    ///
    /// # Errors
    /// A file that is named by a `mod` line and is not there, or is no Rust.
    pub fn read(name: &str, roots: &[&Path], read: &dyn Fn(&Path) -> Option<String>) -> Result<Self, String> {
        let mut reader = Reader {
            read,
            files: Vec::new(),
            names: Names::new(name),
        };
        for root in roots {
            let folder = root.parent().unwrap_or(Path::new(""));
            let module = reader.names.add(None, reader.files.len());
            reader.file(root, folder, module)?;
        }
        let uses = reader.names.uses(reader.files.len());
        Ok(Self {
            files: reader.files,
            uses,
        })
    }

    /// Sets of files that all use each other's names, by a way round or at once.
    pub fn circles(&self) -> Vec<BTreeSet<PathBuf>> {
        let reached: Vec<BTreeSet<usize>> = (0..self.files.len()).map(|from| self.reached(from)).collect();
        let mut circles = BTreeSet::new();
        for from in 0..self.files.len() {
            let circle = reached[from].iter().filter(|to| reached[**to].contains(&from));
            let circle: BTreeSet<_> = circle.map(|to| self.files[*to].path.clone()).collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    fn reached(&self, from: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(file) = open.pop() {
            open.extend(self.uses[file].iter().filter(|to| reached.insert(**to)));
        }
        reached
    }

    /// How often a method is given the name of a property as text. Properties are what functions are given such names for
    /// in files that speak of specifications.
    pub fn look_ups(&self) -> usize {
        let declaring = self.files.iter().filter(|file| file.specifies);
        let declared = declaring
            .flat_map(|file| &file.texts)
            .filter(|(of_method, _)| !of_method);
        let declared: BTreeSet<&str> = declared.map(|(_, text)| text.as_str()).collect();
        let texts = self.files.iter().flat_map(|file| &file.texts);
        texts
            .filter(|(of_method, text)| *of_method && declared.contains(text.as_str()))
            .count()
    }

    /// The elements, which have an `imp.rs` each: its path, the structure, and how many locks and atomics are in that and in
    /// all structures of its folder.
    pub fn elements(&self) -> Vec<(&Path, &str, usize, usize)> {
        let mut elements = Vec::new();
        for file in self.files.iter().filter(|file| file.path.ends_with("imp.rs")) {
            let folder = file.path.parent().unwrap_or(Path::new(""));
            let beside = self.files.iter().filter(|other| other.path.starts_with(folder));
            let all = beside.flat_map(|file| &file.structures).map(|(_, locks)| locks).sum();
            for object in &file.objects {
                let own = file.structures.iter().find(|(name, _)| name == object);
                let own = own.map_or(0, |(_, locks)| *locks);
                elements.push((file.path.as_path(), object.as_str(), own, all));
            }
        }
        elements
    }
}

/// Reads files and what is in them.
struct Reader<'a> {
    read: &'a dyn Fn(&Path) -> Option<String>,
    files: Vec<File>,
    names: Names,
}

impl Reader<'_> {
    /// Reads a file and those below it. `folder` is where its modules lie.
    fn file(&mut self, path: &Path, folder: &Path, module: usize) -> Result<(), String> {
        let text = (self.read)(path).ok_or_else(|| format!("{} cannot be read", path.display()))?;
        let parsed = syn::parse_file(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let index = self.files.len();
        self.files.push(File {
            path: path.into(),
            lines: text.lines().count(),
            ..File::default()
        });
        self.items(&parsed.items, index, folder, module)
    }

    fn items(&mut self, items: &[syn::Item], file: usize, folder: &Path, module: usize) -> Result<(), String> {
        for item in items {
            match item {
                syn::Item::Mod(below) if is_test(&below.attrs) => {
                    if below.content.is_some() {
                        self.files[file].lines -= lines(below.span());
                    }
                }
                syn::Item::Mod(below) => self.module(below, file, folder, module)?,
                _ => {
                    let mut walk = Walk {
                        file: &mut self.files[file],
                        module: &mut self.names.modules[module],
                        of: None,
                        within: 0,
                    };
                    walk.visit_item(item);
                }
            }
        }
        Ok(())
    }

    fn module(&mut self, below: &syn::ItemMod, file: usize, folder: &Path, parent: usize) -> Result<(), String> {
        let name = below.ident.to_string();
        let folder = folder.join(&name);
        if let Some((_, items)) = &below.content {
            let module = self.names.add(Some((parent, name)), file);
            return self.items(items, file, &folder, module);
        }
        let module = self.names.add(Some((parent, name)), self.files.len());
        let places = [folder.with_extension("rs"), folder.join("mod.rs")];
        let place = places.iter().find(|place| (self.read)(place).is_some());
        let place =
            place.ok_or_else(|| format!("neither {} nor {} is there", places[0].display(), places[1].display()))?;
        self.file(place, &folder, module)
    }
}

/// Whether something is there for tests only.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().is_ident("test") {
            return true;
        }
        let condition = attribute
            .path()
            .is_ident("cfg")
            .then(|| attribute.meta.require_list().ok())
            .flatten();
        condition.is_some_and(|list| {
            let text = list.tokens.to_string();
            text == "test" || text.starts_with("all (test")
        })
    })
}

fn lines(span: Span) -> usize {
    span.end().line - span.start().line + 1
}

/// Collects what one file has, and the names that one of its modules has and uses.
struct Walk<'a> {
    file: &'a mut File,
    module: &'a mut Module,
    /// Type whose functions are being read.
    of: Option<String>,
    /// Functions around.
    within: usize,
}

impl Walk<'_> {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let name = match &self.of {
            Some(of) => format!("{of}::{}", signature.ident),
            None => signature.ident.to_string(),
        };
        let lines = block.span().end().line - signature.span().start().line + 1;
        self.file.functions.push((name, lines));
    }

    fn declare(&mut self, name: &syn::Ident) {
        if self.within == 0 {
            self.module.items.insert(name.to_string());
        }
    }

    /// Paths among the tokens of a macro, and names that it declares where it stands among items.
    fn tokens(&mut self, tokens: TokenStream, declares: bool) {
        let mut path: Vec<String> = Vec::new();
        let (mut colons, mut keyword) = (0, false);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    let name = name.to_string();
                    if colons != 2 {
                        self.module.used(std::mem::take(&mut path));
                    }
                    if declares && keyword {
                        self.module.items.insert(name.clone());
                    }
                    keyword = matches!(name.as_str(), "struct" | "enum" | "fn" | "static" | "const" | "type");
                    path.push(name);
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.module.used(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream(), false);
                    }
                }
            }
        }
        self.module.used(path);
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        use syn::Item;
        let (attributes, name) = match item {
            Item::Const(i) => (&i.attrs, Some(&i.ident)),
            Item::Enum(i) => (&i.attrs, Some(&i.ident)),
            Item::Fn(i) => (&i.attrs, Some(&i.sig.ident)),
            Item::Impl(i) => (&i.attrs, None),
            Item::Macro(i) => (&i.attrs, i.ident.as_ref()),
            Item::Static(i) => (&i.attrs, Some(&i.ident)),
            Item::Struct(i) => (&i.attrs, Some(&i.ident)),
            Item::Trait(i) => (&i.attrs, Some(&i.ident)),
            Item::Type(i) => (&i.attrs, Some(&i.ident)),
            Item::Union(i) => (&i.attrs, Some(&i.ident)),
            Item::Use(i) => (&i.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        if is_test(attributes) {
            return;
        }
        if let Some(name) = name {
            self.declare(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        self.within += 1;
        visit::visit_item_fn(self, item);
        self.within -= 1;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if is_test(&item.attrs) {
            return;
        }
        self.function(&item.sig, &item.block);
        self.within += 1;
        visit::visit_impl_item_fn(self, item);
        self.within -= 1;
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        self.within += 1;
        visit::visit_trait_item_fn(self, item);
        self.within -= 1;
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        let of_trait = item.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
        if of_trait.is_some_and(|of_trait| of_trait.ident == "ObjectSubclass") {
            self.file.objects.extend(of.clone());
        }
        let before = std::mem::replace(&mut self.of, of);
        visit::visit_item_impl(self, item);
        self.of = before;
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let before = self.of.replace(item.ident.to_string());
        visit::visit_item_trait(self, item);
        self.of = before;
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let locks = item.fields.iter().filter(|field| is_lock(&field.ty)).count();
        self.file.structures.push((item.ident.to_string(), locks));
        visit::visit_item_struct(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let public = !matches!(item.vis, syn::Visibility::Inherited);
        self.imports(&item.tree, &mut Vec::new(), public);
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        // GObject's idiom splits each type in two files that have to name each other: a declaration like `mod`.
        let path: Vec<String> = item.mac.path.segments.iter().map(|s| s.ident.to_string()).collect();
        if path == ["glib", "wrapper"] {
            if let Some(name) = wrapped(item.mac.tokens.clone()) {
                self.module.items.insert(name);
            }
            return;
        }
        self.module.used(path);
        self.tokens(item.mac.tokens.clone(), self.within == 0);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.module
            .used(mac.path.segments.iter().map(|s| s.ident.to_string()).collect());
        self.tokens(mac.tokens.clone(), false);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.file.specifies |= path
            .segments
            .iter()
            .any(|s| s.ident.to_string().starts_with("ParamSpec"));
        self.module
            .used(path.segments.iter().map(|s| s.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.text(true, call.args.first());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        self.text(false, call.args.first());
        visit::visit_expr_call(self, call);
    }
}

impl Walk<'_> {
    fn text(&mut self, of_method: bool, argument: Option<&syn::Expr>) {
        if let Some(syn::Expr::Lit(literal)) = argument
            && let syn::Lit::Str(text) = &literal.lit
        {
            self.file.texts.push((of_method, text.value()));
        }
    }

    fn imports(&mut self, tree: &syn::UseTree, before: &mut Vec<String>, public: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.imports(&path.tree, before, public);
                before.pop();
            }
            syn::UseTree::Name(name) => self.import(&name.ident, &name.ident, before, public),
            syn::UseTree::Rename(name) => self.import(&name.ident, &name.rename, before, public),
            syn::UseTree::Glob(_) => self.module.globs.push(before.clone()),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.imports(tree, before, public);
                }
            }
        }
    }

    fn import(&mut self, name: &syn::Ident, known_as: &syn::Ident, before: &[String], public: bool) {
        let mut path = before.to_vec();
        let known_as = if name == "self" {
            path.last().cloned().unwrap_or_default()
        } else {
            path.push(name.to_string());
            known_as.to_string()
        };
        self.module
            .imports
            .entry(known_as)
            .or_default()
            .push(Import { path, public });
    }
}

/// Name of the type that `glib::wrapper!` declares.
fn wrapped(tokens: TokenStream) -> Option<String> {
    let mut words = tokens.into_iter().filter_map(|token| match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    });
    words.find(|word| word == "struct")?;
    words.next()
}

fn is_lock(of: &syn::Type) -> bool {
    struct Find(bool);
    impl<'ast> Visit<'ast> for Find {
        fn visit_ident(&mut self, name: &'ast syn::Ident) {
            let name = name.to_string();
            self.0 |= name == "Mutex" || name == "RwLock" || name.starts_with("Atomic");
        }
    }
    let mut find = Find(false);
    find.visit_type(of);
    find.0
}

/// Longest functions that [`table`] names of each crate.
const NAMED: usize = 3;

/// Counts of several crates, for reading.
pub fn table(crates: &BTreeMap<&str, Crate>) -> String {
    let mut rows = String::new();
    for (name, measured) in crates {
        rows += &format!(
            "{name}: {} lines in {} files, {} at most; {} circles; {} look-ups of properties by name\n",
            measured.files.iter().map(|file| file.lines).sum::<usize>(),
            measured.files.len(),
            measured.files.iter().map(|file| file.lines).max().unwrap_or(0),
            measured.circles().len(),
            measured.look_ups(),
        );
        let mut functions = Vec::new();
        for file in &measured.files {
            functions.extend(
                file.functions
                    .iter()
                    .map(|(name, lines)| (name, *lines, file.path.display())),
            );
        }
        functions.sort_by_key(|(_, lines, _)| std::cmp::Reverse(*lines));
        rows += &format!("  {} functions, the longest:", functions.len());
        for (function, lines, path) in functions.iter().take(NAMED) {
            rows += &format!(" {function} {lines} ({path})");
        }
        rows += "\n";
        for (path, object, own, all) in measured.elements() {
            rows += &format!(
                "  {} {object}: {own} locks and atomics, {all} in its folder\n",
                path.display()
            );
        }
    }
    rows
}
