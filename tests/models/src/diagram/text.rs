//! For terminals and text files.

use super::{Kind, columns, rows, wrap};
use crate::history::History;
use anstyle::{AnsiColor, Style};
use std::fmt::Write;

/// The diagram, at most `width` characters wide if that is possible at all. Colours are there as
/// escape sequences, for a stream that removes them where they do not belong.
pub fn text(history: &History, width: usize) -> String {
    const NUMBERS: usize = 4;
    const NARROWEST: usize = 16;
    let rows = rows(history);
    let columns = columns(history, &rows);
    let each = (width.saturating_sub(NUMBERS) / columns.len().max(1)).clamp(NARROWEST, 40);
    let mut out = String::new();
    let mut line = |number: &str, own: Option<(usize, &str, Style)>| {
        let mut text = format!("{number:>3} ");
        for column in &columns {
            match own {
                Some((at, said, style)) if at == *column => {
                    let pad = (each - 1).saturating_sub(said.chars().count());
                    let _ = write!(text, "{style}{said}{style:#}{:pad$} ", "");
                }
                _ => {
                    let _ = write!(text, "│{:1$}", "", each - 1);
                }
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    let mut heads = String::new();
    for column in &columns {
        let name: String = history.actors[*column].chars().take(each - 1).collect();
        let _ = write!(heads, "{name:each$}");
    }
    let heads = format!("    {}\n", heads.trim_end());
    line("", None);
    for row in &rows {
        let (mark, style) = match row.kind {
            Kind::Did => ("● ", Style::new()),
            Kind::Broke => ("✗ ", AnsiColor::Red.on_default().bold()),
            Kind::Waits => ("◌ ", AnsiColor::Yellow.on_default()),
            Kind::Goes => ("○ ", Style::new().dimmed()),
        };
        let mut said = row.text.clone();
        if !row.whom.is_empty() {
            let whom: Vec<&str> = row
                .whom
                .iter()
                .map(|c| history.actors[*c].as_str())
                .collect();
            let _ = write!(said, " ← {}", whom.join(", "));
        }
        let number = row.number.map_or(String::new(), |n| n.to_string());
        for (i, part) in wrap(&said, each - 3).iter().enumerate() {
            let shown = if i == 0 {
                format!("{mark}{part}")
            } else {
                format!("  {part}")
            };
            line(
                if i == 0 { &number } else { "" },
                Some((row.column, &shown, style)),
            );
        }
        if let Some(holds) = &row.holds {
            for part in wrap(&format!("[{holds}]"), each - 3) {
                let shown = format!("  {part}");
                line("", Some((row.column, &shown, AnsiColor::Cyan.on_default())));
            }
        }
    }
    line("", None);
    heads + &out
}
