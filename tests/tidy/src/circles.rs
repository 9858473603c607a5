//! Files that use each other in a circle: none of them can be read alone.

use crate::sources::{Module, Sources};
use std::collections::{BTreeMap, BTreeSet};

/// The circles: each as its modules. A module and its own parts count as one where a folder is
/// named in `one_machine`: there a single thing is spread over the files of its parts.
pub fn circles(sources: &Sources, one_machine: &[&str]) -> Vec<Vec<String>> {
    let name = |module: &Module| -> String {
        let path = module.join("::");
        let whole = one_machine
            .iter()
            .find(|folder| path == **folder || path.starts_with(&format!("{folder}::")));
        whole.map_or(path, |folder| (*folder).to_owned())
    };
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, file) in &sources.files {
        let here = name(module);
        let others = file.uses.iter().map(|used| name(&used.of));
        let others = others.filter(|other| *other != here);
        uses.entry(here.clone()).or_default().extend(others);
    }
    let reach: BTreeMap<&String, BTreeSet<&String>> = uses
        .keys()
        .map(|from| (from, reachable(from, &uses)))
        .collect();
    let mut circles: BTreeSet<Vec<String>> = BTreeSet::new();
    for from in uses.keys() {
        let together: Vec<String> = reach[from]
            .iter()
            .filter(|to| reach.get(**to).is_some_and(|back| back.contains(from)))
            .map(|to| (*to).clone())
            .collect();
        if !together.is_empty() {
            circles.insert(together);
        }
    }
    circles.into_iter().collect()
}

fn reachable<'a>(
    from: &'a String,
    uses: &'a BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(at) = todo.pop() {
        for next in uses.get(at).into_iter().flatten() {
            if seen.insert(next) {
                todo.push(next);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::tests::of;

    #[test]
    fn a_circle_is_found_and_one_machine_in_several_files_is_none() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "use crate::b::B;\npub struct A(B);\n"),
            ("b.rs", "use crate::c::C;\npub struct B(C);\n"),
            ("c.rs", "use crate::a::A;\npub struct C(A);\n"),
        ];
        assert_eq!(circles(&of(&files), &[]), [["a", "b", "c"]]);
        let machine = [
            ("lib.rs", "mod m;\n"),
            (
                "m/mod.rs",
                "mod part;\npub struct M;\nfn f() { part::g() }\n",
            ),
            ("m/part.rs", "use super::M;\npub fn g() { let _ = M; }\n"),
        ];
        assert_eq!(circles(&of(&machine), &[]), [["m", "m::part"]]);
        assert!(circles(&of(&machine), &["m"]).is_empty());
        let tree = [
            ("lib.rs", "mod a;\nmod b;\n"),
            ("a.rs", "pub struct A;\n"),
            ("b.rs", "use crate::a::A;\npub struct B(A);\n"),
        ];
        assert!(circles(&of(&tree), &[]).is_empty());
    }
}
