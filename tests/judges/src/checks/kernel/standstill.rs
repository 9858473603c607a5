//! What the tasks that a kernel keeps amount to.

use super::edges;
use super::table::Wait;
use super::tasks::{Tasks, Waiting};
use libgnt::inspect::WaitEdge;
use pv_harness::cycle::cycle;
use pv_harness::processes::{Autopsy, Blocked};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A kernel in which tasks wait that nobody will wake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standstill {
    /// Whose kernel; `None`: this machine's.
    pub domain: Option<String>,
    /// `PV`, `PVH` or `HVM`.
    pub guest_type: Option<String>,
    /// Which of the known ones it is.
    pub form: Form,
    /// Who waits for whom: the cycle's edges in order, then those of others.
    pub edges: Vec<WaitEdge>,
    /// How many of them are the cycle's.
    pub in_cycle: usize,
    /// What waits, with where and since when.
    pub functions: Vec<String>,
    /// What SIGKILL changed.
    pub after_kill: Option<AfterKill>,
}

/// The ways to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The notifier's callback waits for the holder, the holder for the notifier.
    Notifier,
    /// The notifier's callback waits for the holder, the holder for the return of the call.
    Callback,
    /// The last put of the mapping waits for the holder, the holder for the return of the call.
    LastPut,
    /// An unmap waits for references; whoever holds them waits for nobody.
    Unmap,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Notifier => {
                "this is the exact cycle of QubesOS/qubes-issues#7481: gntdev's notifier callback \
                 waits for the holder of the pages, and the holder waits for the notifier"
            }
            Form::Callback => {
                "this is one half of QubesOS/qubes-issues#7481, not the cycle itself: gntdev's \
                 notifier callback waits for the holder of the pages, as there, but the holder waits \
                 for the return of the call, and not for the notifier"
            }
            Form::LastPut => {
                "this is the neighbour of QubesOS/qubes-issues#7481, not the cycle itself: the wait \
                 is in the mapping's last put, where no notifier runs, and the cycle closes through \
                 a holder that lets go only when the call has returned"
            }
            Form::Unmap => {
                "this is an unmap that waits for references, and no cycle: by what is seen, whoever \
                 holds them waits for nobody here"
            }
        })
    }
}

/// The kernel that stands still, if one does: one with a cycle before one without.
pub fn standstill(hung: &[Autopsy], blocked: &[Blocked]) -> Option<Standstill> {
    let domains: BTreeSet<Option<&str>> = (hung.iter().map(|process| process.domain.as_deref()))
        .chain(blocked.iter().map(|kernel| kernel.domain.as_deref()))
        .collect();
    let found = domains
        .into_iter()
        .filter_map(|domain| of_domain(domain, hung, blocked));
    found.min_by_key(|found| match found.form {
        Form::Notifier => 0,
        Form::Callback | Form::LastPut => 1,
        Form::Unmap => 2,
    })
}

fn of_domain(domain: Option<&str>, hung: &[Autopsy], blocked: &[Blocked]) -> Option<Standstill> {
    let tasks = Tasks::of(domain, hung, blocked);
    let edges = edges::edges(&tasks);
    let (edges, in_cycle) = cycle_first(edges);
    let unmaps: Vec<_> = tasks.that_wait(Wait::References).collect();
    let around = &edges[..in_cycle];
    let is_around = |is: &dyn Fn(&Waiting) -> bool| {
        let mut of_cycle = (tasks.waiting.iter())
            .filter(|task| around.iter().any(|edge| edge.waiter == task.name));
        of_cycle.any(is)
    };
    // Some kernels cut a stack below the function that waits. gntdev unmaps in the callback on PV guests, and
    // elsewhere in the last put (`use_ptemod`).
    let is_cut = |task: &Waiting| {
        task.waiter.wait == Wait::References && task.invalidates.is_none() && !task.puts
    };
    let kernel = blocked.iter().find(|k| k.domain.as_deref() == domain);
    let guest_type = kernel.and_then(|kernel| kernel.guest_type.clone());
    let is_pv = guest_type.as_deref() == Some("PV");
    let in_callback = is_around(&|task| task.invalidates.is_some() || is_pv && is_cut(task));
    let for_notifier = is_around(&|task| task.waiter.wait == Wait::Invalidation);
    let form = if in_cycle > 0 && in_callback && for_notifier {
        Form::Notifier
    } else if in_cycle > 0 && in_callback {
        Form::Callback
    } else if in_cycle > 0 {
        Form::LastPut
    } else if !unmaps.is_empty() {
        Form::Unmap
    } else {
        return None;
    };
    let mut functions: Vec<String> = Vec::new();
    for task in &tasks.waiting {
        let waiter = &task.waiter;
        let said = format!("{} ({}; {})", waiter.function, waiter.file, waiter.when);
        if !functions.contains(&said) {
            functions.push(said);
        }
    }
    Some(Standstill {
        domain: domain.map(str::to_owned),
        guest_type,
        form,
        edges,
        in_cycle,
        functions,
        after_kill: None,
    })
}

/// The edges of a cycle first and in order, and how many they are.
fn cycle_first(mut edges: Vec<WaitEdge>) -> (Vec<WaitEdge>, usize) {
    let names: Vec<String> = (edges.iter())
        .flat_map(|edge| [edge.waiter.clone(), edge.owner.clone()])
        .collect();
    let number = |name: &String| names.iter().position(|other| other == name).unwrap_or(0);
    let pairs: Vec<_> = (edges.iter())
        .map(|edge| (number(&edge.waiter), number(&edge.owner)))
        .collect();
    let around = cycle(&pairs).unwrap_or_default();
    let next = around.iter().cycle().skip(1);
    let mut ordered = Vec::new();
    for (from, to) in around.iter().zip(next) {
        let is_it = |edge: &WaitEdge| edge.waiter == names[*from] && edge.owner == names[*to];
        if let Some(at) = edges.iter().position(is_it) {
            ordered.push(edges.remove(at));
        }
    }
    let in_cycle = ordered.len();
    ordered.extend(edges);
    (ordered, in_cycle)
}

/// What remains when the processes that hang were killed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterKill {
    /// What each SIGKILL did, in order.
    pub killed: Vec<String>,
    /// What an operator can do where SIGKILL does not help, tried after it.
    #[serde(default)]
    pub tried: Vec<String>,
    /// Grants and event channels that stay in use after all of that.
    pub left: Vec<String>,
    /// What an operator can do.
    pub cures: Vec<String>,
}
