//! Which module uses which: what the sources import, compared with the table in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// A module as a path below `src`, without its ending: `ledger`, `ledger/runs`.
type Module = String;

/// What each file imports, as the files that define it. Code that is compiled for tests only is left out.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The text of each source file but `lib.rs` and `main.rs`, by module.
fn files() -> BTreeMap<Module, String> {
    let (source, mut found) = (source(), BTreeMap::new());
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = path.strip_prefix(&source).unwrap().with_extension("");
                let module = module.to_str().unwrap().to_owned();
                found.insert(module, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found.remove("lib");
    found.remove("main");
    found
}

/// Collects the paths of one file that begin with `crate`, `self` or `super`.
struct Paths<'m> {
    /// The file's module, and the inline modules around the code in hand.
    module: Vec<String>,
    known: &'m BTreeMap<Module, String>,
    found: BTreeSet<Module>,
}

impl Paths<'_> {
    /// The file that a path leads to: the longest part of it that is a module of its own.
    fn add(&mut self, path: &[String]) {
        let mut at: Vec<String> = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        for name in path {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => {
                    at.pop();
                }
                name => at.push(name.to_owned()),
            }
        }
        while !at.is_empty() {
            let module = at.join("/");
            if self.known.contains_key(&module) {
                self.found.insert(module);
                return;
            }
            at.pop();
        }
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.add(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(before, tree);
                }
            }
        }
    }
}

/// `#[cfg(test)]`, alone or among other conditions.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string().contains("test"))
    })
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_for_tests(&item.attrs) {
            return;
        }
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        self.add(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // The arguments of a macro are tokens: paths in them are looked for by their first word.
        let text = item.tokens.to_string().replace(' ', "");
        for first in ["crate::", "super::"] {
            for (start, _) in text.match_indices(first) {
                let rest = text.get(start..).unwrap_or_default();
                let end = rest.find(|c: char| !c.is_alphanumeric() && !"_:".contains(c));
                let path = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
                let names: Vec<_> = path.split("::").map(str::to_owned).collect();
                self.add(&names);
            }
        }
        visit::visit_macro(self, item);
    }
}

/// The files that a module declares for tests only: `#[cfg(test)] mod tests;`.
fn test_files(module: &str, parsed: &syn::File) -> Vec<Module> {
    let items = parsed.items.iter().filter_map(|item| match item {
        syn::Item::Mod(item) if item.content.is_none() && is_for_tests(&item.attrs) => {
            Some(format!("{module}/{}", item.ident))
        }
        _ => None,
    });
    items.collect()
}

fn imports() -> Imports {
    let mut known = files();
    let parsed: BTreeMap<Module, syn::File> = known
        .iter()
        .map(|(module, text)| (module.clone(), syn::parse_file(text).unwrap()))
        .collect();
    for (module, file) in &parsed {
        for file in test_files(module, file) {
            known.remove(&file);
        }
    }
    let mut all = BTreeMap::new();
    for module in known.keys() {
        let mut paths = Paths {
            module: module.split('/').map(str::to_owned).collect(),
            known: &known,
            found: BTreeSet::new(),
        };
        paths.visit_file(&parsed[module]);
        paths.found.remove(module);
        all.insert(module.clone(), paths.found);
    }
    all
}

fn top(module: &str) -> &str {
    module.split('/').next().unwrap_or_default()
}

/// What each top-level module imports of others.
fn between_top_modules(imports: &Imports) -> Imports {
    let mut all = Imports::new();
    for (module, found) in imports {
        let of_others = found.iter().map(|found| top(found));
        let of_others = of_others.filter(|found| *found != top(module));
        let entry = all.entry(top(module).to_owned()).or_default();
        entry.extend(of_others.map(str::to_owned));
    }
    all
}

/// The words in backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    let words = text.split('`').skip(1).step_by(2);
    words
        .map(|word| word.trim_end_matches('/').to_owned())
        .collect()
}

/// A row of the table "| `module` | does | may use |".
struct Row {
    module: Module,
    /// None: everything.
    uses: Option<BTreeSet<Module>>,
    is_for_all: bool,
}

fn table() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text
        .lines()
        .skip_while(|line| !line.ends_with("| may use |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        Row {
            module: quoted(cells[1]).pop_first().unwrap(),
            uses: (cells[3].trim() != "everything").then(|| quoted(cells[3])),
            is_for_all: cells[3].contains("every module may use it"),
        }
    })
    .collect()
}

#[test]
fn modules_use_just_what_the_table_in_architecture_md_says() {
    let found = between_top_modules(&imports());
    let table = table();
    let modules: BTreeSet<_> = found.keys().collect();
    let rows: BTreeSet<_> = table.iter().map(|row| &row.module).collect();
    assert_eq!(modules, rows, "modules and rows of the table");
    let for_all = table.iter().filter(|row| row.is_for_all);
    let for_all: BTreeSet<_> = for_all.map(|row| row.module.clone()).collect();
    let mut wrong = Vec::new();
    for Row { module, uses, .. } in &table {
        let Some(allowed) = uses else { continue };
        let used = &found[module] - &for_all;
        for import in used.difference(allowed) {
            wrong.push(format!("{module} uses {import}: not in the table"));
        }
        for row in allowed.difference(&used) {
            wrong.push(format!(
                "{module} does not use {row}: remove it from the table"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The modules that import each other in a circle, of a graph without those that do not.
fn circles(mut graph: Imports) -> Imports {
    loop {
        let alive: BTreeSet<_> = graph.keys().cloned().collect();
        let imported: BTreeSet<_> = graph.values().flatten().cloned().collect();
        for imports in graph.values_mut() {
            imports.retain(|import| alive.contains(import));
        }
        let before = graph.len();
        graph.retain(|module, imports| !imports.is_empty() && imported.contains(module));
        if graph.len() == before {
            return graph;
        }
    }
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let found = circles(between_top_modules(&imports()));
    assert!(found.is_empty(), "{found:#?}");
}

/// `ledger.rs` may import the files of `ledger/`, and they may import it.
#[test]
fn no_files_of_a_module_import_each_other_in_a_circle() {
    let imports = imports();
    let is_parent = |module: &str| {
        imports
            .keys()
            .any(|other| other.starts_with(&format!("{module}/")))
    };
    let graph: Imports = imports
        .iter()
        .filter(|(module, _)| !is_parent(module))
        .map(|(module, found)| {
            let found = found.iter().filter(|found| !is_parent(found));
            (module.clone(), found.cloned().collect())
        })
        .collect();
    let found = circles(graph);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_emulator_shares_nothing_with_the_rest() {
    let found = &between_top_modules(&imports())["emulator"];
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn only_one_module_names_the_backoff_crate() {
    let files = files();
    let named = files.iter().filter(|(_, text)| text.contains("backoff::"));
    let named: Vec<_> = named.map(|(module, _)| module.as_str()).collect();
    assert_eq!(named, ["retry"]);
}
