//! How fast our server is, with Debian's daemons in the same run: the same client, each server a process
//! of its own, and each row measured with all servers in turn, round after round.
//!
//! Each module uses only what is above it: [`client`], [`server`], [`nodes`], [`pace`](mod@pace), [`rows`], [`growth`], [`table`].

pub mod client;
pub mod growth;
pub mod nodes;
pub mod pace;
pub mod rows;
pub mod server;
pub mod table;

use crate::error::Result;
use growth::{Many, beside_a_flood};
use pace::Pace;
use rows::Row;
use server::{Contender, Which};
use std::time::Duration;
use table::{Figures, Growth, Report, Tree};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes of the large tree.
    pub nodes: usize,
    /// How often each row is measured.
    pub rounds: usize,
    /// For how long each time.
    pub span: Duration,
    /// Only rows whose names have one of these in them; all if there are none.
    pub only: Vec<String>,
}

impl Plan {
    fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(&**part))
    }
}

/// Measures all of these servers.
///
/// # Errors
/// A server does not start, refuses something, or is gone.
pub fn run(servers: Vec<Which>, plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Report> {
    let started = servers.into_iter().map(Contender::start);
    let mut contenders = started.collect::<Result<Vec<_>>>()?;
    let mut report = Report::new(&contenders, plan.nodes);
    for contender in &contenders {
        let prepared = nodes::prepare(&contender.socket(), true);
        prepared.map_err(contender.row("the nodes of the rows"))?;
    }
    measure(&contenders, plan, Tree::Small, &mut report, &mut progress)?;
    let growing = "memory a node";
    progress(growing);
    for contender in &contenders {
        let before = contender.resident()?;
        let grown = nodes::grow(&contender.socket(), plan.nodes);
        grown.map_err(contender.row(growing))?;
        let bytes = contender.resident()?.saturating_sub(before);
        report.memory.push(bytes as f64 / plan.nodes as f64);
    }
    measure(&contenders, plan, Tree::Large, &mut report, &mut progress)?;
    for contender in &mut contenders {
        contender.restart()?;
        let prepared = nodes::prepare(&contender.socket(), false);
        prepared.map_err(contender.row("the nodes of the rows"))?;
    }
    floods(&contenders, plan, &mut report, &mut progress)?;
    for many in Many::ALL.into_iter().filter(|many| plan.has(many.name())) {
        progress(many.name());
        let large = (plan.nodes * many.of_thousand() / 1000).max(1000);
        let count = [large / 10, large];
        let mut growth = Growth::new(many.name(), count);
        for contender in &mut contenders {
            let small = many.measure(contender, count[0])?;
            let large = many.measure(contender, count[1])?;
            growth.nanoseconds.push([small, large]);
        }
        report.growth.push(growth);
    }
    Ok(report)
}

fn measure(
    contenders: &[Contender],
    plan: &Plan,
    tree: Tree,
    report: &mut Report,
    progress: &mut impl FnMut(&str),
) -> Result<()> {
    for row in Row::all() {
        let name = row.name();
        if !plan.has(&name) {
            continue;
        }
        progress(&name);
        let pace = |contender: &Contender| row.measure(&contender.socket(), plan.span);
        report
            .rows
            .push(figures(contenders, plan, &name, tree, pace)?);
    }
    Ok(())
}

/// All rounds of one row.
fn figures(
    contenders: &[Contender],
    plan: &Plan,
    name: &str,
    tree: Tree,
    mut pace: impl FnMut(&Contender) -> Result<Pace>,
) -> Result<Figures> {
    let mut figures = Figures::new(name, tree, contenders.len());
    for _ in 0..plan.rounds {
        for (n, contender) in contenders.iter().enumerate() {
            let before = contender.processor_time()?;
            let pace = pace(contender).map_err(contender.row(name))?;
            let took = contender.processor_time()?.saturating_sub(before) as f64;
            figures.rates[n].push(pace.best);
            figures.nanoseconds[n].push(took / pace.done.max(1) as f64);
        }
    }
    Ok(figures)
}

fn floods(
    contenders: &[Contender],
    plan: &Plan,
    report: &mut Report,
    progress: &mut impl FnMut(&str),
) -> Result<()> {
    for (name, is_flooded) in [
        ("reads, 49 x 1", false),
        ("reads, 49 x 1, beside a flood", true),
    ] {
        if !plan.has(name) {
            continue;
        }
        progress(name);
        let pace =
            |contender: &Contender| beside_a_flood(&contender.socket(), plan.span, is_flooded);
        report
            .rows
            .push(figures(contenders, plan, name, Tree::Small, pace)?);
    }
    Ok(())
}
