//! What a document mentions that can be looked up: commands with their options and values, paths,
//! links, numbers of things.

use std::collections::{BTreeMap, BTreeSet};

/// A program's command, as its own command line declares it.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// By name.
    pub subcommands: BTreeMap<String, Command>,
    /// Its options, each with the values that it takes where these can be listed.
    pub options: BTreeMap<String, BTreeSet<String>>,
}

/// The programs that documents speak of.
pub type Programs = BTreeMap<String, Command>;

/// A piece of code in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Where it begins.
    pub line: usize,
    /// A line of a block, or what stands between backticks.
    pub text: String,
    /// It is a line of a block.
    pub block: bool,
}

/// All code of a Markdown document: fenced and indented blocks, and what stands between backticks.
pub fn code(document: &str) -> Vec<Code> {
    let mut found = Vec::new();
    let mut fenced = false;
    let mut span: Option<(usize, String)> = None;
    for (n, line) in document.lines().enumerate() {
        let n = n + 1;
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced || (span.is_none() && line.starts_with("    ")) {
            let text = line.trim().to_owned();
            found.push(Code {
                line: n,
                text,
                block: true,
            });
            continue;
        }
        if line.is_empty() {
            span = None;
        }
        // A span may go on in the next line.
        for (i, part) in line.split('`').enumerate() {
            if i > 0 {
                span = match span.take() {
                    None => Some((n, String::new())),
                    Some((line, text)) => {
                        let text = text.trim().to_owned();
                        found.push(Code {
                            line,
                            text,
                            block: false,
                        });
                        None
                    }
                };
            }
            if let Some((_, text)) = &mut span {
                text.push_str(part);
            }
        }
        if let Some((_, text)) = &mut span {
            text.push(' ');
        }
    }
    found
}

/// The calls of known programs in a piece of code, each as its words from the program's name on.
fn calls(text: &str, programs: &Programs) -> Vec<Vec<String>> {
    let text = text.split(" # ").next().unwrap_or(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut calls: Vec<Vec<String>> = Vec::new();
    let mut open = false;
    let mut i = 0;
    while i < words.len() {
        let word = words[i].trim_matches(|c| "\"'();".contains(c));
        let name = word.rsplit('/').next().unwrap_or(word);
        let quote = words[i].chars().next().filter(|c| "'\"".contains(*c));
        if let Some(quote) = quote
            && open
        {
            // One argument, whatever it says.
            let closes = |word: &&str| word.len() > 1 && word.ends_with(quote);
            let more = words[i..].iter().position(closes).unwrap_or(0);
            i += more + 1;
            if let Some(call) = calls.last_mut() {
                call.push("QUOTED".to_owned());
            }
            continue;
        }
        if matches!(words[i], "|" | "&&" | "||" | "&" | ">" | "2>") {
            open = false;
        } else if programs.contains_key(name) && !(i > 0 && words[i - 1].starts_with('-')) {
            calls.push(vec![name.to_owned()]);
            open = true;
        } else if words[i] == "--" && is_cargo_run(&words[..i]) {
            let package = words[..i]
                .iter()
                .position(|w| matches!(*w, "-p" | "--package"));
            let name = package.map_or("pv-stress", |at| words[at + 1]);
            // What cargo was told is not the program's.
            if open {
                calls.pop();
            }
            calls.push(vec![name.to_owned()]);
            open = true;
        } else if open && let Some(call) = calls.last_mut() {
            call.push(word.to_owned());
        }
        i += 1;
    }
    calls
}

fn is_cargo_run(before: &[&str]) -> bool {
    before == ["…"] || before.windows(2).any(|pair| pair == ["cargo", "run"])
}

/// What is wrong with the calls in a document: a subcommand, an option or a value that there is not.
pub fn wrong_calls(document: &str, programs: &Programs) -> Vec<String> {
    let mut wrong = Vec::new();
    for piece in code(document) {
        for call in calls(&piece.text, programs) {
            if let Some(command) = programs.get(&call[0]) {
                check(&call, command, piece.line, &mut wrong);
            }
        }
    }
    wrong
}

fn check(call: &[String], program: &Command, line: usize, wrong: &mut Vec<String>) {
    let mut commands = vec![program];
    let mut taken = 0;
    let mut words = call[1..].iter().peekable();
    while let Some(word) = words.next() {
        let here = commands[commands.len() - 1];
        let plain = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        if word == "--" || word == "…" || word == "..." {
            return;
        }
        if let Some(option) = word.strip_prefix("--") {
            let (name, mut value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            let name = name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let Some(values) = commands.iter().rev().find_map(|c| c.options.get(name)) else {
                if name != "help" && name != "version" {
                    wrong.push(format!("line {line}: {} has no option --{name}", call[0]));
                }
                continue;
            };
            if value.is_none() && !values.is_empty() {
                value = words.next_if(|next| !next.starts_with('-')).cloned();
            }
            for value in value.iter().flat_map(|value| value.split(',')) {
                let known = values.contains(value);
                if !values.is_empty() && !known && plain(value) && !value.is_empty() {
                    wrong.push(format!("line {line}: --{name} takes no {value}"));
                }
            }
        } else if let Some(inner) = here.subcommands.get(word) {
            commands.push(inner);
            taken += 1;
        } else if taken == 0 && commands.len() == 1 && !here.subcommands.is_empty() && plain(word) {
            wrong.push(format!("line {line}: {} has no subcommand {word}", call[0]));
            return;
        } else {
            taken += 1;
        }
    }
}

/// Options that stand alone in backticks, and that no program has and nobody else is known to have.
pub fn unknown_options(document: &str, programs: &Programs, foreign: &[&str]) -> Vec<String> {
    fn has(command: &Command, name: &str) -> bool {
        command.options.contains_key(name) || command.subcommands.values().any(|c| has(c, name))
    }
    let mut unknown = Vec::new();
    for piece in code(document).into_iter().filter(|piece| !piece.block) {
        if !piece.text.starts_with("--") {
            continue;
        }
        for word in piece.text.split_whitespace() {
            let Some(option) = word.strip_prefix("--") else {
                continue;
            };
            let name: String = option
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                .collect();
            let known =
                foreign.contains(&name.as_str()) || programs.values().any(|c| has(c, &name));
            if !known && !name.is_empty() {
                unknown.push(format!(
                    "line {}: nothing has an option --{name}",
                    piece.line
                ));
            }
        }
    }
    unknown
}

/// Paths in backticks that begin with one of these folders, and targets of links that lead to files.
pub fn paths(document: &str, folders: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for piece in code(document).into_iter().filter(|piece| !piece.block) {
        let text = piece.text.trim_end_matches('/');
        let is_path = text.contains('/')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        let first = text.split('/').next().unwrap_or_default();
        if is_path && folders.contains(&first) {
            found.push((piece.line, text.to_owned()));
        }
    }
    found
}

/// The targets of relative links, without what follows a `#`.
pub fn links(document: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (n, line) in document.lines().enumerate() {
        for part in line.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !target.contains("://") && !target.contains(' ') {
                found.push((n + 1, file.to_owned()));
            }
        }
    }
    found
}

/// The numbers that stand directly before a word: `213 rules`.
pub fn counts(document: &str, noun: &str) -> Vec<(usize, u64)> {
    let mut found = Vec::new();
    for (n, line) in document.lines().enumerate() {
        let words: Vec<&str> = line
            .split(|c: char| !c.is_alphanumeric() && c != '-')
            .filter(|word| !word.is_empty())
            .collect();
        for pair in words.windows(2) {
            if let (Ok(count), true) = (pair[0].parse(), pair[1] == noun) {
                found.push((n + 1, count));
            }
        }
    }
    found
}

/// The words in backticks of a table's first column, for the table whose first header this is.
pub fn first_column(document: &str, header: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        let Some(row) = line.strip_prefix('|') else {
            inside = false;
            continue;
        };
        let cell = row.split('|').next().unwrap_or_default().trim();
        if inside {
            let words = cell.split([',', ' ']).map(|word| word.trim_matches('`'));
            let words = words.filter(|word| word.chars().any(char::is_alphanumeric));
            found.extend(words.map(str::to_owned));
        } else if cell.trim_matches('`') == header {
            inside = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs() -> Programs {
        let set = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
        let run = Command {
            options: BTreeMap::from([
                ("hold".to_owned(), set(&["pin", "pipe"])),
                ("seed".to_owned(), BTreeSet::new()),
            ]),
            ..Command::default()
        };
        let tool = Command {
            subcommands: BTreeMap::from([("run".to_owned(), run)]),
            ..Command::default()
        };
        BTreeMap::from([("pv-stress".to_owned(), tool)])
    }

    #[test]
    fn calls_that_cannot_be_made_are_found() {
        let wrong = |text: &str| wrong_calls(text, &programs());
        assert!(wrong("`pv-stress run --hold pin,pipe --seed 3`").is_empty());
        assert!(wrong("    cargo run --release -- run --hold pin   # and so on\n").is_empty());
        assert!(wrong("`… -- run --hold=pipe`, `cargo test --workspace`").is_empty());
        assert!(wrong("`pv-stress run --hold NAME --help`").is_empty());
        assert!(wrong("`pv-stress run 'a --b c' --seed 3`").is_empty());
        assert!(wrong("`cargo bench --package pv-stress --bench pair`").is_empty());
        assert_eq!(
            wrong("x\n`pv-stress walk`"),
            ["line 2: pv-stress has no subcommand walk"]
        );
        assert_eq!(
            wrong("```sh\ncargo run --release -- run --depth 3\n```"),
            ["line 2: pv-stress has no option --depth"]
        );
        assert_eq!(
            wrong("`… -- run --hold glue`"),
            ["line 1: --hold takes no glue"]
        );
        assert_eq!(
            wrong("`pv-stress run\n--sed 3`"),
            ["line 1: pv-stress has no option --sed"]
        );
    }

    #[test]
    fn options_paths_links_and_numbers_are_found() {
        let text =
            "`--hold` `--gone 3` `libgnt/src/x.rs` [a](docs/b.md#c) [d](https://e) 213 rules\n";
        assert_eq!(
            unknown_options(text, &programs(), &[]),
            ["line 1: nothing has an option --gone"]
        );
        assert!(unknown_options(text, &programs(), &["gone"]).is_empty());
        assert_eq!(
            paths(text, &["libgnt"]),
            [(1, "libgnt/src/x.rs".to_owned())]
        );
        assert_eq!(links(text), [(1, "docs/b.md".to_owned())]);
        assert_eq!(counts(text, "rules"), [(1, 213)]);
        let table = "| `--hold` | x |\n|---|---|\n| pin, `pipe` | y |\n\n| other |\n";
        assert_eq!(first_column(table, "--hold"), ["pin", "pipe"]);
    }
}
