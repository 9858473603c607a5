//! Texts of a library that name one of our programs or an option of theirs. A library does not know
//! who uses it: the programs add what a person can do at their command line.

use crate::sources::{Module, Sources};

/// Every text that does, as `file:line: text`. `programs` are the modules that may, and `known` the
/// texts that name something else.
pub fn offenders(sources: &Sources, programs: &[&str], known: &[&str]) -> Vec<String> {
    let is_program = |module: &Module| {
        let first = module.first().map(String::as_str);
        first.is_some_and(|first| programs.contains(&first))
    };
    let mut offenders = Vec::new();
    for (module, file) in &sources.files {
        if is_program(module) {
            continue;
        }
        for (line, text) in &file.texts {
            if names_a_program_or_an_option(text) && !known.contains(&text.as_str()) {
                offenders.push(format!("{}:{line}: {text:?}", file.path.display()));
            }
        }
    }
    offenders
}

fn names_a_program_or_an_option(text: &str) -> bool {
    let program = ["pv-stress", "pv-frontend", "pv-backend"];
    let option = |word: &str| {
        let word = word.trim_start_matches(|c: char| "`(\"'".contains(c));
        let name = word.strip_prefix("--").unwrap_or_default();
        name.starts_with(|c: char| c.is_ascii_lowercase())
    };
    program.iter().any(|name| text.contains(name)) || text.split_whitespace().any(option)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::tests::of;

    #[test]
    fn a_library_that_speaks_of_a_command_line_is_found() {
        let sources = of(&[
            (
                "lib.rs",
                "//! Uses --docs.\nmod cli;\nmod error;\nmod paths;\n",
            ),
            ("cli.rs", "pub const CURE: &str = \"add --here\";\n"),
            (
                "error.rs",
                "#[derive(Debug, thiserror::Error)]\npub enum E {\n    /// See --docs.\n    #[error(\"give (`--there DIR`)\")]\n    A,\n}\nfn f() { g(format!(\"use pv-stress {}\", 1)) }\n",
            ),
            ("paths.rs", "const DIR: &str = \"pv-backend\";\n"),
        ]);
        let found = offenders(&sources, &["cli"], &["pv-backend"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("error.rs:4") && found[1].contains("error.rs:7"));
    }
}
