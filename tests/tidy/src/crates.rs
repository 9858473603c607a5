//! Which crate may use which: what a document declares, held against the manifests.

use std::collections::{BTreeMap, BTreeSet};

/// For each crate the workspace's crates that it may use, or uses.
pub type Crates = BTreeMap<String, BTreeSet<String>>;

/// Reads the table whose header has the columns `crate` and `may use`.
pub fn declared(document: &str) -> Crates {
    let mut crates = Crates::new();
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_matches('|');
        inner
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    let mut columns = None;
    for line in document.lines() {
        if !line.starts_with('|') {
            columns = None;
            continue;
        }
        let row = cells(line);
        let place = |name: &str| row.iter().position(|cell| cell == name);
        if let (Some(name), Some(may)) = (place("crate"), place("may use")) {
            columns = Some((name, may));
        } else if let Some((name, may)) = columns
            && let Some(name) = code_words(&row[name]).into_iter().next()
        {
            crates.insert(name, code_words(&row[may]).into_iter().collect());
        }
    }
    crates
}

fn code_words(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// What is used and not declared, and what is declared for no crate.
pub fn offenders(declared: &Crates, used: &Crates) -> Vec<String> {
    let mut offenders = Vec::new();
    for (name, uses) in used {
        match declared.get(name) {
            None => offenders.push(format!("the crate {name} is in no row of the table")),
            Some(may) => offenders.extend(
                uses.difference(may)
                    .map(|other| format!("{name} uses {other}, which it may not")),
            ),
        }
    }
    let gone = declared.keys().filter(|name| !used.contains_key(*name));
    offenders.extend(gone.map(|name| format!("the table names {name}, which is no crate")));
    offenders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_that_reaches_upwards_is_found() {
        let table = "| crate | folder | may use |\n|---|---|---|\n| `low` | x | nothing |\n| `high` | y | `low` |\n| `gone` | z | `low` |\n";
        let declared = declared(table);
        assert_eq!(declared.len(), 3);
        let crates = |pairs: &[(&str, &[&str])]| -> Crates {
            let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            pairs
                .iter()
                .map(|(name, uses)| ((*name).to_owned(), set(uses)))
                .collect()
        };
        let used = crates(&[("low", &["high"]), ("high", &["low"]), ("new", &[])]);
        assert_eq!(
            offenders(&declared, &used),
            [
                "low uses high, which it may not",
                "the crate new is in no row of the table",
                "the table names gone, which is no crate"
            ]
        );
    }
}
