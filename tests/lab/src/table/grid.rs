//! All rows, for people, as Markdown and as JSON.

use super::cell::{Cell, LEGEND};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// One kernel in one kind of domain with one gntdev.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `uname -r`, or what was asked for.
    pub kernel: String,
    /// `pv` or `pvh`.
    pub guest: String,
    /// `async`: the kernel's own; `sync`: with an unmap that waits.
    pub gntdev: String,
    /// One for each holder.
    pub cells: Vec<Cell>,
}

/// The table.
#[derive(Debug, Serialize)]
pub struct Grid {
    /// The columns.
    pub holders: Vec<String>,
    /// Row by row.
    pub rows: Vec<Row>,
}

impl Grid {
    /// With these columns, and no row yet.
    pub fn new(holders: &[String]) -> Grid {
        Grid {
            holders: holders.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Every line's words, the head first.
    fn lines(&self) -> Vec<Vec<String>> {
        let mut head: Vec<String> = ["Linux", "guest", "gntdev"].map(str::to_owned).into();
        head.extend(self.holders.iter().cloned());
        let row = |row: &Row| {
            let mut line = vec![row.kernel.clone(), row.guest.clone(), row.gntdev.clone()];
            line.extend(row.cells.iter().map(|cell| cell.word.to_owned()));
            line
        };
        [head]
            .into_iter()
            .chain(self.rows.iter().map(row))
            .collect()
    }

    /// What the words that occur say.
    fn legend(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let cells = || self.rows.iter().flat_map(|row| &row.cells);
        let occurs = move |word: &str| cells().any(|cell| cell.word == word);
        LEGEND.into_iter().filter(move |(word, _)| occurs(word))
    }

    /// Each detail once, with the rows and columns that it is from.
    fn details(&self) -> BTreeMap<&str, Vec<String>> {
        let mut details: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for row in &self.rows {
            for (holder, cell) in self.holders.iter().zip(&row.cells) {
                if !cell.detail.is_empty() {
                    let place = format!("{} {} {} {holder}", row.kernel, row.guest, row.gntdev);
                    details.entry(&cell.detail).or_default().push(place);
                }
            }
        }
        details
    }

    /// Columns, what the words say, and the details.
    ///
    /// # Errors
    /// What `write` says.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let lines = self.lines();
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
        for line in &lines {
            for (column, word) in line.iter().enumerate() {
                write!(out, "{word:width$}  ", width = width(column).unwrap_or(0))?;
            }
            writeln!(out)?;
        }
        writeln!(out)?;
        for (word, says) in self.legend() {
            writeln!(out, "{word:8} {says}")?;
        }
        for (detail, places) in self.details() {
            writeln!(out, "\n{}:\n  {detail}", places.join(", "))?;
        }
        Ok(())
    }

    /// The table and its words, for a document.
    ///
    /// # Errors
    /// What `write` says.
    pub fn markdown(&self, out: &mut dyn Write) -> io::Result<()> {
        for (at, line) in self.lines().iter().enumerate() {
            writeln!(out, "| {} |", line.join(" | "))?;
            if at == 0 {
                writeln!(out, "|{}", "---|".repeat(line.len()))?;
            }
        }
        writeln!(out)?;
        for (word, says) in self.legend() {
            writeln!(out, "- **{word}**: {says}.")?;
        }
        Ok(())
    }

    /// Everything.
    ///
    /// # Errors
    /// What `write` says.
    pub fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", serde_json::to_string_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(&["none".into(), "pipe".into()]);
        let cell = |word, detail: &str| Cell {
            word,
            detail: detail.into(),
        };
        for kernel in ["5.10.0-46-amd64", "6.1.0-56-amd64"] {
            grid.rows.push(Row {
                kernel: kernel.into(),
                guest: "pv".into(),
                gntdev: "async".into(),
                cells: vec![cell("returns", ""), cell("damage", "BUG: Bad page map")],
            });
        }
        grid
    }

    fn text(write: impl Fn(&Grid, &mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&grid(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn words_are_explained_and_the_same_detail_is_told_once() {
        let said = text(|grid, out| grid.print(out));
        assert!(
            said.contains("5.10.0-46-amd64  pv     async   returns  damage"),
            "{said}"
        );
        assert_eq!(said.matches("Bad page map").count(), 1, "{said}");
        assert!(said.contains("complains of its own books"), "{said}");
        assert!(!said.contains("cycle"), "{said}");
    }

    #[test]
    fn a_document_gets_a_table() {
        let said = text(|grid, out| grid.markdown(out));
        assert!(
            said.contains("| Linux | guest | gntdev | none | pipe |\n|---|---|---|---|---|\n"),
            "{said}"
        );
        assert!(
            said.contains("| 6.1.0-56-amd64 | pv | async | returns | damage |"),
            "{said}"
        );
    }
}
