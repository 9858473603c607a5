//! A crate's files, and what each of them uses of the others.

use proc_macro2::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::Visit;

/// A module's path in its crate; empty for the root.
pub type Module = Vec<String>;

/// One place where a file uses another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The module that is used.
    pub of: Module,
    /// The line of the use.
    pub line: usize,
}

/// One source file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What it uses of the crate's other files, tests left out.
    pub uses: BTreeSet<Use>,
    /// Its texts, with their lines; tests and documentation left out.
    pub texts: Vec<(usize, String)>,
    /// What comes from where, of what the module itself gives on: `pub use`, `use`.
    given_on: BTreeMap<String, Module>,
}

/// All files of a crate.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// By module.
    pub files: BTreeMap<Module, File>,
    /// The text before the first item of the root.
    pub root_docs: Vec<String>,
}

impl Sources {
    /// Reads a crate from its `lib.rs`.
    ///
    /// # Errors
    /// A file that is not there, or is no Rust.
    pub fn read(root: &Path) -> Result<Sources, String> {
        let mut sources = Sources::default();
        let dir = root.parent().unwrap_or(Path::new("."));
        let mut raw = Vec::new();
        sources.load(root, dir, Vec::new(), &mut raw)?;
        for (module, file) in raw {
            let mut visitor = Visitor {
                sources: &sources,
                here: module.clone(),
                found: Vec::new(),
                texts: Vec::new(),
            };
            visitor.visit_file(&file);
            let Visitor { found, texts, .. } = visitor;
            let resolved: BTreeSet<Use> = found
                .into_iter()
                .filter_map(|(path, line)| {
                    let of = sources.resolve(&path, 0)?;
                    (of != module).then_some(Use { of, line })
                })
                .collect();
            if let Some(file) = sources.files.get_mut(&module) {
                file.uses = resolved;
                file.texts = texts;
            }
        }
        Ok(sources)
    }

    fn load(
        &mut self,
        path: &Path,
        children: &Path,
        module: Module,
        raw: &mut Vec<(Module, syn::File)>,
    ) -> Result<(), String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        if module.is_empty() {
            let docs = text.lines().take_while(|line| line.starts_with("//!"));
            self.root_docs = docs.map(|line| line[3..].trim().to_owned()).collect();
        }
        let parsed =
            syn::parse_file(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        self.files.insert(
            module.clone(),
            File {
                path: path.to_owned(),
                ..File::default()
            },
        );
        for item in &parsed.items {
            match item {
                syn::Item::Mod(child) if child.content.is_none() && !is_test(&child.attrs) => {
                    let name = child.ident.to_string();
                    let name = name.trim_start_matches("r#");
                    let flat = children.join(format!("{name}.rs"));
                    let below = children.join(name);
                    let path = match (elsewhere(&child.attrs), path.parent()) {
                        (Some(elsewhere), Some(dir)) => dir.join(elsewhere),
                        _ if flat.exists() => flat,
                        _ => below.join("mod.rs"),
                    };
                    let mut inner = module.clone();
                    inner.push(name.to_owned());
                    self.load(&path, &below, inner, raw)?;
                }
                _ => {}
            }
        }
        let mut given_on = BTreeMap::new();
        for item in &parsed.items {
            if let syn::Item::Use(item) = item
                && !is_test(&item.attrs)
            {
                for (mut path, name) in flatten(&item.tree) {
                    if let Some(absolute) = self.absolute(&module, &mut path) {
                        given_on.insert(name, absolute);
                    }
                }
            }
        }
        if let Some(file) = self.files.get_mut(&module) {
            file.given_on = given_on;
        }
        raw.push((module, parsed));
        Ok(())
    }

    /// A path as seen from the crate's root; `None` if it leads out of the crate.
    fn absolute(&self, here: &Module, path: &mut Vec<String>) -> Option<Module> {
        let mut from = here.clone();
        match path.first()?.as_str() {
            "crate" => {
                path.remove(0);
                from.clear();
            }
            "self" => {
                path.remove(0);
            }
            "super" => {
                while path.first().is_some_and(|word| word == "super") {
                    path.remove(0);
                    from.pop()?;
                }
            }
            child => {
                let mut inner = here.clone();
                inner.push(child.to_owned());
                if !self.files.contains_key(&inner) {
                    return None;
                }
            }
        }
        from.append(path);
        Some(from)
    }

    /// The module that an absolute path's last word is at home in.
    fn resolve(&self, path: &[String], depth: usize) -> Option<Module> {
        if depth > 8 {
            return None;
        }
        let longest = (0..=path.len())
            .rev()
            .find(|n| self.files.contains_key(&path[..*n]))?;
        let module = &path[..longest];
        let given_on = &self.files[module].given_on;
        match path.get(longest).and_then(|name| given_on.get(name)) {
            Some(from) => {
                let mut from = from.clone();
                from.extend_from_slice(&path[longest + 1..]);
                self.resolve(&from, depth + 1)
            }
            None => Some(module.to_vec()),
        }
    }
}

/// Is this for tests only?
/// What `#[path]` says of a module's file: it is relative to the directory of the file that has it.
fn elsewhere(attrs: &[syn::Attribute]) -> Option<String> {
    let attr = attrs.iter().find(|attr| attr.path().is_ident("path"))?;
    let syn::Meta::NameValue(pair) = &attr.meta else {
        return None;
    };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(path),
            ..
        }) => Some(path.value()),
        _ => None,
    }
}

fn is_test(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attr| {
        if attr.path().is_ident("test") {
            return true;
        }
        let syn::Meta::List(list) = &attr.meta else {
            return false;
        };
        let words = list.tokens.to_string();
        attr.path().is_ident("cfg")
            && words
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| matches!(word, "test" | "loom" | "doctest"))
            && !words.contains("not")
    })
}

/// Each path of a `use`, and the name it has here.
fn flatten(tree: &syn::UseTree) -> Vec<(Vec<String>, String)> {
    fn go(tree: &syn::UseTree, so_far: &[String], out: &mut Vec<(Vec<String>, String)>) {
        let with = |name: String| {
            let mut path = so_far.to_vec();
            path.push(name);
            path
        };
        match tree {
            syn::UseTree::Path(path) => go(&path.tree, &with(path.ident.to_string()), out),
            syn::UseTree::Name(name) if name.ident == "self" => {
                out.push((so_far.to_vec(), so_far.last().cloned().unwrap_or_default()));
            }
            syn::UseTree::Name(name) => {
                out.push((with(name.ident.to_string()), name.ident.to_string()));
            }
            syn::UseTree::Rename(rename) => {
                out.push((with(rename.ident.to_string()), rename.rename.to_string()));
            }
            syn::UseTree::Glob(_) => out.push((so_far.to_vec(), "*".into())),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    go(tree, so_far, out);
                }
            }
        }
    }
    let mut out = Vec::new();
    go(tree, &[], &mut out);
    out
}

struct Visitor<'a> {
    sources: &'a Sources,
    here: Module,
    /// Absolute paths.
    found: Vec<(Vec<String>, usize)>,
    texts: Vec<(usize, String)>,
}

impl Visitor<'_> {
    fn note(&mut self, mut path: Vec<String>, span: Span) {
        if let Some(absolute) = self.sources.absolute(&self.here, &mut path) {
            self.found.push((absolute, span.start().line));
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attrs = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !is_test(attrs) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() {
            self.here.push(item.ident.to_string());
            syn::visit::visit_item_mod(self, item);
            self.here.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // What a module gives on is not what it uses.
        if matches!(item.vis, syn::Visibility::Inherited) {
            for (path, _) in flatten(&item.tree) {
                self.note(path, item.span());
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if path.leading_colon.is_none() && words.len() > 1 {
            self.note(words, path.span());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.texts.push((text.span().start().line, text.value()));
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // What it expands to is not known here; its texts are.
        let mut todo = vec![call.tokens.clone()];
        while let Some(tokens) = todo.pop() {
            for token in tokens {
                match token {
                    proc_macro2::TokenTree::Group(group) => todo.push(group.stream()),
                    proc_macro2::TokenTree::Literal(literal) => {
                        if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                            self.visit_lit_str(&text);
                        }
                    }
                    _ => {}
                }
            }
        }
        syn::visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        // A text of `#[error("…")]` is a message; one of `#[doc = "…"]` is none.
        if attribute.path().is_ident("error")
            && let syn::Meta::List(list) = &attribute.meta
        {
            for token in list.tokens.clone() {
                if let proc_macro2::TokenTree::Literal(literal) = token
                    && let syn::Lit::Str(text) = syn::Lit::new(literal)
                {
                    self.visit_lit_str(&text);
                }
            }
        }
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A crate of these files, read.
    pub(crate) fn of(files: &[(&str, &str)]) -> Sources {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Sources::read(&dir.path().join("lib.rs")).unwrap()
    }

    fn uses(sources: &Sources, module: &[&str]) -> Vec<String> {
        let module: Module = module.iter().map(|word| (*word).to_owned()).collect();
        let uses = sources.files[&module].uses.iter();
        uses.map(|u| format!("{}:{}", u.of.join("::"), u.line))
            .collect()
    }

    #[test]
    fn a_use_is_found_however_it_is_written() {
        let sources = of(&[
            ("lib.rs", "pub mod a;\npub mod b;\npub use a::Thing;\n"),
            ("a.rs", "pub struct Thing;\npub fn f() {}\n"),
            (
                "b/mod.rs",
                "mod c;\nuse crate::a::f as g;\npub fn x() { g(); c::y() }\n",
            ),
            (
                "b/c.rs",
                "use super::super::a;\npub fn y() { let _ = crate::Thing; a::f() }\n",
            ),
        ]);
        assert_eq!(uses(&sources, &["b"]), ["a:2", "b::c:3"]);
        assert_eq!(uses(&sources, &["b", "c"]), ["a:1", "a:2"]);
        assert!(uses(&sources, &["a"]).is_empty() && uses(&sources, &[]).is_empty());
    }

    #[test]
    fn tests_and_other_crates_do_not_count() {
        let sources = of(&[
            ("lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod gone;\n"),
            (
                "a.rs",
                "use std::fmt;\n#[cfg(test)]\nmod tests {\n    use crate::b::g;\n}\nfn f() -> fmt::Result { Ok(()) }\n",
            ),
            ("b.rs", "pub fn g() {}\n"),
        ]);
        assert!(uses(&sources, &["a"]).is_empty());
        assert_eq!(sources.files.len(), 3);
    }

    #[test]
    fn a_file_elsewhere_is_read_where_it_is() {
        let sources = of(&[
            ("lib.rs", "pub mod a;\npub mod b;\n"),
            ("a.rs", "#[path = \"far/away.rs\"]\nmod c;\npub fn f() {}\n"),
            ("far/away.rs", "use crate::b::g;\nfn x() { g() }\n"),
            ("b.rs", "pub fn g() {}\n"),
        ]);
        assert_eq!(uses(&sources, &["a", "c"]), ["b:1"]);
    }
}
