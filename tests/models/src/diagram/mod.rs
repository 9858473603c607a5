//! Histories as sequence diagrams: a column for each actor, time downwards.

mod text;

mod svg;

mod html;

pub use html::html;
pub use svg::svg;
pub use text::text;

use super::history::{History, Standing};

/// What a line in a column says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What the actor did.
    Did,
    /// What it did, and that broke a law.
    Broke,
    /// It cannot move from here on.
    Waits,
    /// It can again.
    Goes,
}

/// One row: something in one column.
struct Row {
    column: usize,
    kind: Kind,
    text: String,
    /// What the actor holds from here on, if that has changed.
    holds: Option<String>,
    /// The columns it waits for.
    whom: Vec<usize>,
    /// The step's number, if it is one.
    number: Option<usize>,
}

/// The rows of a history. Actors that never do anything and never wait have none.
fn rows(history: &History) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut last: &[Standing] = &history.start;
    for (column, standing) in last.iter().enumerate() {
        rows.extend(waits(column, standing));
    }
    for (i, event) in history.events.iter().enumerate() {
        let now = &event.after[event.actor];
        let changed = last.get(event.actor).is_none_or(|l| l.holds != now.holds);
        rows.push(Row {
            column: event.actor,
            kind: if event.breaks.is_empty() {
                Kind::Did
            } else {
                Kind::Broke
            },
            text: event.text.clone(),
            holds: changed.then(|| {
                if now.holds.is_empty() {
                    "holds nothing".into()
                } else {
                    format!("holds {}", now.holds.join(", "))
                }
            }),
            whom: Vec::new(),
            number: Some(i + 1),
        });
        for (column, standing) in event.after.iter().enumerate() {
            let waited = last.get(column).is_some_and(|l| l.waits.is_some());
            match (&standing.waits, waited) {
                (Some(_), false) => rows.extend(waits(column, standing)),
                (None, true) if column != event.actor => rows.push(Row {
                    column,
                    kind: Kind::Goes,
                    text: "can go on".into(),
                    holds: None,
                    whom: Vec::new(),
                    number: None,
                }),
                _ => {}
            }
        }
        last = &event.after;
    }
    rows
}

fn waits(column: usize, standing: &Standing) -> Option<Row> {
    let wait = standing.waits.as_ref()?;
    Some(Row {
        column,
        kind: Kind::Waits,
        text: format!("waits: {}", wait.what),
        holds: None,
        whom: wait.whom.clone(),
        number: None,
    })
}

/// Columns in which anything happens.
fn columns(history: &History, rows: &[Row]) -> Vec<usize> {
    (0..history.actors.len())
        .filter(|column| rows.iter().any(|row| row.column == *column))
        .collect()
}

/// Breaks a text into lines of at most `width` characters, at spaces where it can.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + word.len() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        while word.len() > width {
            // Longer than a line: cut it.
            let rest = word.split_off(width);
            lines.push(word.into_iter().collect());
            word = rest;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        used += word.len();
        line.extend(word);
    }
    lines.push(line);
    lines
}

/// A paragraph in lines of at most `width` characters.
pub fn fill(text: &str, width: usize) -> String {
    wrap(text, width.max(20)).join("\n")
}

/// The sentences below a diagram: what was broken, and who waits for whom.
pub fn conclusion(history: &History, laws: &[(&'static str, &'static str)]) -> Vec<String> {
    let mut lines = Vec::new();
    match history.law {
        Some(law) => {
            let says = laws
                .iter()
                .find(|(key, _)| *key == law)
                .map_or("", |(_, says)| says);
            lines.push(format!("Broken: {law}: {says}."));
        }
        None => lines.push("Everybody is done, and nothing is left over.".into()),
    }
    if let Some(left) = &history.left_over {
        lines.push(format!("Left over: {left}."));
    }
    if history.law == Some(super::search::NOBODY_WAITS) {
        lines.extend(history.waits());
        let cycle = history.cycle();
        if !cycle.is_empty() {
            let names: Vec<&str> = (cycle.iter().chain(cycle.first()))
                .map(|column| history.actors[*column].as_str())
                .collect();
            lines.push(format!("The cycle: {}.", names.join(" → ")));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_at_spaces_and_cut_where_there_are_none() {
        assert_eq!(wrap("takes the lock", 9), ["takes the", "lock"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("", 3), [""]);
    }
}
