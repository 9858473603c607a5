//! The order that a crate declares for its modules, and whether its files keep to it.
//!
//! A `lib.rs` declares it as a numbered list under the heading `# Layers`. A module uses only
//! what stands above it in that list.

use crate::sources::Sources;

/// The declared order, first to last.
///
/// # Errors
/// There is no such list.
pub fn declared(sources: &Sources) -> Result<Vec<String>, String> {
    let list = sources
        .root_docs
        .iter()
        .skip_while(|line| *line != "# Layers");
    let names: Vec<String> = list
        .filter_map(|line| {
            let (number, rest) = line.split_once(". ")?;
            number.parse::<u32>().ok()?;
            let name = rest.split('`').nth(1)?;
            Some(name.to_owned())
        })
        .collect();
    match names.is_empty() {
        true => Err("the root's documentation has no numbered list under `# Layers`".into()),
        false => Ok(names),
    }
}

/// Everything that is against the order; empty if all is well.
pub fn offenders(sources: &Sources) -> Vec<String> {
    let order = match declared(sources) {
        Ok(order) => order,
        Err(error) => return vec![error],
    };
    let place = |module: &str| order.iter().position(|name| name == module);
    let mut offenders = Vec::new();
    for module in sources.files.keys().filter(|module| module.len() == 1) {
        if place(&module[0]).is_none() {
            offenders.push(format!("the module `{}` is in no layer", module[0]));
        }
    }
    for name in &order {
        if !sources.files.contains_key(std::slice::from_ref(name)) {
            offenders.push(format!("the layer `{name}` is no module"));
        }
    }
    for (module, file) in &sources.files {
        let Some(here) = module.first() else { continue };
        for used in &file.uses {
            let Some(there) = used.of.first() else {
                offenders.push(format!(
                    "{}:{} uses something of the crate's root, which is above no layer",
                    file.path.display(),
                    used.line
                ));
                continue;
            };
            if here != there && place(there) >= place(here) {
                offenders.push(format!(
                    "{}:{}: `{here}` uses `{there}`, which is not above it",
                    file.path.display(),
                    used.line
                ));
            }
        }
    }
    offenders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::tests::of;

    const ROOT: &str = "//! # Layers\n//!\n//! 1. [`low`]: below.\n//! 2. [`high`](mod@high): above.\n\npub mod high;\npub mod low;\n";

    #[test]
    fn an_import_against_the_order_is_found_with_its_line() {
        let good = [
            ("lib.rs", ROOT),
            ("low.rs", "pub struct L;\n"),
            ("high.rs", "use crate::low::L;\npub fn f(_: L) {}\n"),
        ];
        assert!(offenders(&of(&good)).is_empty());
        let bad = [
            ("lib.rs", ROOT),
            ("low.rs", "\nfn f() { crate::high::g() }\n"),
            ("high.rs", "pub fn g() {}\n"),
        ];
        let found = offenders(&of(&bad));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].ends_with("low.rs:2: `low` uses `high`, which is not above it"),
            "{found:?}"
        );
    }

    #[test]
    fn a_module_without_a_layer_and_a_layer_without_a_module_are_found() {
        let root = ROOT.replace("pub mod low", "pub mod other");
        let found = offenders(&of(&[("lib.rs", &root), ("other.rs", ""), ("high.rs", "")]));
        assert_eq!(
            found,
            [
                "the module `other` is in no layer",
                "the layer `low` is no module"
            ]
        );
        assert_eq!(offenders(&of(&[("lib.rs", "//! Nothing.\n")])).len(), 1);
    }
}
