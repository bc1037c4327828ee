// SPDX-License-Identifier: MPL-2.0

//! Which file a path leads to, as Rust resolves it within one crate.

use std::collections::{BTreeMap, BTreeSet};

/// `use` lines in a row that are followed.
const FOLLOWED: usize = 8;

/// One name of a `use` line.
#[derive(Debug)]
pub struct Import {
    pub path: Vec<String>,
    /// Others see it here.
    pub public: bool,
}

/// A module's names.
#[derive(Debug, Default)]
pub struct Module {
    file: usize,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    /// What is declared here, other modules left out.
    pub items: BTreeSet<String>,
    /// By the name here. Several where conditions choose.
    pub imports: BTreeMap<String, Vec<Import>>,
    /// Modules whose names are all here.
    pub globs: Vec<Vec<String>>,
    /// Paths that stand in its code.
    paths: BTreeSet<Vec<String>>,
}

impl Module {
    /// Notes a path that stands in the code.
    pub fn used(&mut self, path: Vec<String>) {
        if !path.is_empty() {
            self.paths.insert(path);
        }
    }
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    Module(usize),
    /// Something that this module declares.
    Item(usize),
}

/// All modules of a crate.
#[derive(Debug)]
pub struct Names {
    /// The crate as its programs call it.
    name: String,
    pub modules: Vec<Module>,
}

impl Names {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            modules: Vec::new(),
        }
    }

    /// Adds a module, of that name below its parent.
    pub fn add(&mut self, place: Option<(usize, String)>, file: usize) -> usize {
        let index = self.modules.len();
        let parent = place.map(|(parent, name)| {
            self.modules[parent].children.insert(name, index);
            parent
        });
        self.modules.push(Module {
            file,
            parent,
            ..Module::default()
        });
        index
    }

    /// For each of so many files, those that it uses names of.
    ///
    /// A module that is imported is not used before something of it is. What a module makes public of the modules below
    /// it belongs to its `mod` lines, until its own code uses the name.
    pub fn uses(&self, files: usize) -> Vec<BTreeSet<usize>> {
        let mut uses = vec![BTreeSet::new(); files];
        for (index, module) in self.modules.iter().enumerate() {
            let imports = module.imports.values().flatten();
            let imported = imports.filter_map(|import| {
                let target = self.resolve(index, &import.path, FOLLOWED)?;
                let shown = import.public && self.is_below(target, index);
                (!shown).then_some(target)
            });
            let named = module
                .paths
                .iter()
                .filter_map(|path| self.resolve(index, path, FOLLOWED));
            for target in imported.chain(named) {
                if let Target::Item(of) = target
                    && self.modules[of].file != module.file
                {
                    uses[module.file].insert(self.modules[of].file);
                }
            }
        }
        uses
    }

    fn is_below(&self, target: Target, module: usize) -> bool {
        let (Target::Item(mut at) | Target::Module(mut at)) = target;
        while let Some(parent) = self.modules[at].parent {
            if parent == module {
                return true;
            }
            at = parent;
        }
        false
    }

    fn root(&self, mut at: usize) -> usize {
        while let Some(parent) = self.modules[at].parent {
            at = parent;
        }
        at
    }

    fn resolve(&self, from: usize, path: &[String], follow: usize) -> Option<Target> {
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => self.root(from),
            "self" => from,
            "super" => self.modules[from].parent?,
            name if name == self.name => 0,
            _ => return self.look_up(from, path, follow),
        };
        while let Some((first, after)) = rest.split_first()
            && first == "super"
        {
            at = self.modules[at].parent?;
            rest = after;
        }
        self.look_up(at, rest, follow)
    }

    fn look_up(&self, at: usize, path: &[String], follow: usize) -> Option<Target> {
        let Some((name, rest)) = path.split_first() else {
            return Some(Target::Module(at));
        };
        let module = &self.modules[at];
        if let Some(child) = module.children.get(name) {
            return self.look_up(*child, rest, follow);
        }
        if module.items.contains(name) {
            return Some(Target::Item(at));
        }
        let follow = follow.checked_sub(1)?;
        let imports = module.imports.get(name).into_iter().flatten();
        let imported = imports.filter_map(|import| {
            let joined: Vec<String> = import.path.iter().chain(rest).cloned().collect();
            // An import of a crate by its own name would lead back here.
            (joined != path).then(|| self.resolve(at, &joined, follow)).flatten()
        });
        // Other crates' names lead nowhere, and are not looked for behind other crates' globs.
        let inside = module.globs.iter().filter(|glob| self.is_inside(at, glob));
        let globbed = inside.filter_map(|glob| match self.resolve(at, glob, follow)? {
            Target::Module(of) => self.look_up(of, path, follow),
            Target::Item(_) => None,
        });
        imported.chain(globbed).next()
    }

    /// Whether a path begins in this crate, by what can be seen without globs.
    fn is_inside(&self, at: usize, path: &[String]) -> bool {
        let module = &self.modules[at];
        path.first().is_some_and(|first| {
            matches!(first.as_str(), "crate" | "self" | "super")
                || *first == self.name
                || module.children.contains_key(first)
                || module.imports.contains_key(first)
        })
    }
}
