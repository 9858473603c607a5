//! What was measured, as a table and as JSON.

use super::server::Contender;
use serde::Serialize;
use std::fmt::Write as _;

/// How many nodes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tree {
    /// Those that the rows use.
    Small,
    /// Many more.
    Large,
}

/// One row. The outer lists have an entry for each server, the inner ones one for each round.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// What was done.
    pub name: String,
    /// In what tree.
    pub tree: Tree,
    /// How much of it in a second.
    pub rates: Vec<Vec<f64>>,
    /// The server's processor time for one.
    pub nanoseconds: Vec<Vec<f64>>,
}

/// How much each of many takes.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// One of what.
    pub name: String,
    /// How many: few, and ten times as many.
    pub count: [usize; 2],
    /// The server's processor time for each, with few and with many; `None`: too much.
    pub nanoseconds: Vec<[Option<f64>; 2]>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The servers' names.
    pub servers: Vec<String>,
    /// Which of them are Debian's.
    pub rivals: Vec<bool>,
    /// How many nodes the large tree has.
    pub nodes: usize,
    /// Rows.
    pub rows: Vec<Figures>,
    /// Resident bytes for a node of the large tree.
    pub memory: Vec<f64>,
    /// What each of many takes.
    pub growth: Vec<Growth>,
}

/// The one in the middle, the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half are below it.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        Some(Spread {
            median: match values.len() % 2 {
                0 => (values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0,
                _ => *values.get(middle)?,
            },
            least: *values.first()?,
            most: *values.last()?,
        })
    }
}

impl Figures {
    /// None yet.
    pub fn new(name: &str, tree: Tree, servers: usize) -> Figures {
        Figures {
            name: name.to_owned(),
            tree,
            rates: vec![Vec::new(); servers],
            nanoseconds: vec![Vec::new(); servers],
        }
    }

    /// How many times as much as the faster rival the first server does, round by round.
    pub fn ratio(&self, rivals: &[bool]) -> Option<Spread> {
        ratio(&self.rates, rivals, f64::max, |ours, best| ours / best)
    }

    /// How many times as much processor time the thriftier rival takes.
    pub fn thrift(&self, rivals: &[bool]) -> Option<Spread> {
        ratio(&self.nanoseconds, rivals, f64::min, |ours, best| {
            best / ours
        })
    }
}

fn ratio(
    of: &[Vec<f64>],
    rivals: &[bool],
    best: impl Fn(f64, f64) -> f64,
    ratio: impl Fn(f64, f64) -> f64,
) -> Option<Spread> {
    let ours = rivals.iter().position(|is_rival| !is_rival)?;
    let rounds = of[ours].iter().enumerate().filter_map(|(round, ours)| {
        let theirs = of.iter().zip(rivals).filter(|(_, is_rival)| **is_rival);
        let theirs = theirs.filter_map(|(rounds, _)| rounds.get(round).copied());
        Some(ratio(*ours, theirs.reduce(&best)?))
    });
    Spread::of(rounds)
}

impl Growth {
    /// Nothing yet.
    pub fn new(name: &str, count: [usize; 2]) -> Growth {
        Growth {
            name: name.to_owned(),
            count,
            nanoseconds: Vec::new(),
        }
    }
}

impl Report {
    /// An empty one of these servers.
    pub fn new(contenders: &[Contender], nodes: usize) -> Report {
        Report {
            servers: contenders.iter().map(|c| c.name.clone()).collect(),
            rivals: contenders.iter().map(Contender::is_rival).collect(),
            nodes,
            rows: Vec::new(),
            memory: Vec::new(),
            growth: Vec::new(),
        }
    }

    /// All figures.
    pub fn json(&self) -> String {
        // Lists of numbers and names: they have no key that is no text.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As people read it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for tree in [Tree::Small, Tree::Large] {
            let title = match tree {
                Tree::Small => "a second".to_owned(),
                Tree::Large => format!("{} nodes more", self.nodes),
            };
            self.heading(&mut text, &title);
            let _ = writeln!(text, "{:>22}{:>22}", "ratio", "processor");
            for row in self.rows.iter().filter(|row| row.tree == tree) {
                let _ = write!(text, "{:32}", row.name);
                for rates in &row.rates {
                    let median = Spread::of(rates.iter().copied()).map(|s| s.median);
                    let _ = write!(text, "{:>16.0}", median.unwrap_or(f64::NAN));
                }
                for spread in [row.ratio(&self.rivals), row.thrift(&self.rivals)] {
                    let shown = spread.map_or_else(String::new, |s| {
                        format!("{:.2} ({:.2}-{:.2})", s.median, s.least, s.most)
                    });
                    let _ = write!(text, "{shown:>22}");
                }
                text.push('\n');
            }
        }
        self.grown(&mut text);
        self.heading(&mut text, "memory");
        let _ = write!(text, "\n{:32}", "bytes a node");
        for bytes in &self.memory {
            let _ = write!(text, "{bytes:>16.0}");
        }
        text.push('\n');
        self.heading(&mut text, "processor time, us");
        text.push('\n');
        for growth in &self.growth {
            for (n, count) in growth.count.iter().enumerate() {
                let _ = write!(text, "{:32}", format!("{} of {count}", growth.name));
                for each in &growth.nanoseconds {
                    let shown =
                        each[n].map_or("too much".to_owned(), |ns| format!("{:.2}", ns / 1e3));
                    let _ = write!(text, "{shown:>16}");
                }
                text.push('\n');
            }
        }
        text
    }

    fn heading(&self, text: &mut String, title: &str) {
        let _ = write!(text, "{title:32}");
        for server in &self.servers {
            let _ = write!(text, "{server:>16}");
        }
    }

    /// What each row keeps of its rate in the large tree.
    fn grown(&self, text: &mut String) {
        self.heading(text, "large / small");
        text.push('\n');
        for large in self.rows.iter().filter(|row| row.tree == Tree::Large) {
            let small = self
                .rows
                .iter()
                .find(|row| row.tree == Tree::Small && row.name == large.name);
            let Some(small) = small else { continue };
            let _ = write!(text, "{:32}", large.name);
            for (large, small) in large.rates.iter().zip(&small.rates) {
                let median = |rates: &[f64]| Spread::of(rates.iter().copied()).map(|s| s.median);
                let kept = median(large)
                    .zip(median(small))
                    .map(|(large, small)| large / small);
                let _ = write!(text, "{:>16.2}", kept.unwrap_or(f64::NAN));
            }
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_to_the_faster_rival_of_the_same_round() {
        let mut figures = Figures::new("reads", Tree::Small, 3);
        figures.rates = vec![
            vec![4.0, 2.0, 9.0],
            vec![1.0, 2.0, 3.0],
            vec![2.0, 1.0, 1.0],
        ];
        figures.nanoseconds = vec![vec![1.0; 3], vec![4.0; 3], vec![3.0; 3]];
        let rivals = [false, true, true];
        let spread = figures.ratio(&rivals).unwrap();
        assert_eq!((spread.median, spread.least, spread.most), (2.0, 1.0, 3.0));
        assert_eq!(figures.thrift(&rivals).unwrap().median, 3.0);
        assert_eq!(
            figures.ratio(&[false, false, false]),
            None,
            "nobody to compare with"
        );
    }

    #[test]
    fn of_an_even_number_the_median_is_between_the_two_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0, 10.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }
}
