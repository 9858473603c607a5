//! Who waits for whom, by the stacks.

use super::table::Wait;
use super::tasks::{Holder, Tasks, Waiting};
use libgnt::inspect::WaitEdge;

/// Everything that one kernel's tasks wait for.
pub fn edges(tasks: &Tasks) -> Vec<WaitEdge> {
    let mut edges = Vec::new();
    for task in &tasks.waiting {
        match task.waiter.wait {
            Wait::References => references(task, tasks, &mut edges),
            Wait::Invalidation => edges.push(invalidation(task, tasks)),
            Wait::Callbacks => edges.push(callbacks(task, tasks)),
            Wait::AddressSpace => edges.push(address_space(task, tasks)),
            Wait::Device => edges.push(edge(
                task,
                "the notifier callback that it is in",
                "the end of the device's work on the buffer",
                "the device",
            )),
        }
    }
    for holder in &tasks.holders {
        // Where the holder's own task waits in the kernel, its edge is there already.
        if tasks.waiting.iter().all(|task| task.name != holder.name) {
            edges.extend(let_go(holder, tasks));
        }
    }
    edges
}

fn edge(task: &Waiting, holds: &str, waits_for: &str, owner: &str) -> WaitEdge {
    WaitEdge {
        waiter: task.name.clone(),
        call: task.call.clone(),
        holds: holds.into(),
        waits_for: waits_for.into(),
        owner: owner.into(),
    }
}

/// An unmap waits for whoever holds the pages.
fn references(task: &Waiting, tasks: &Tasks, edges: &mut Vec<WaitEdge>) {
    let holds = match task.invalidates {
        Some(_) => "the invalidation of its address space, whose sequence is odd meanwhile",
        None if task.puts => "the mapping, whose last put this is",
        None => "the mapping",
    };
    let waits_for = "the last reference to the pages that it has mapped";
    for holder in &tasks.holders {
        edges.push(edge(task, holds, waits_for, &holder.name));
    }
    if tasks.holders.is_empty() {
        edges.push(edge(task, holds, waits_for, "whoever holds them"));
    }
}

/// Whoever reads an interval waits for the invalidation that runs.
fn invalidation(task: &Waiting, tasks: &Tasks) -> WaitEdge {
    // Of several, the one that cannot end by itself.
    let runs = |task: &&Waiting| task.invalidates.is_some();
    let unmaps = tasks.that_wait(Wait::References).find(runs);
    let owner = unmaps.or_else(|| tasks.waiting.iter().find(runs));
    let (waits_for, owner) = match owner {
        Some(owner) => {
            let of = owner.of.as_deref().unwrap_or("that process");
            let waits_for = format!("the end of the invalidation of {of}'s address space");
            (waits_for, owner.name.as_str())
        }
        None => (
            "the end of an invalidation of the address space".into(),
            "whoever runs it",
        ),
    };
    let holder = tasks.holders.iter().find(|held| held.name == task.name);
    let holds = match holder {
        Some(holder) => format!("references to pages ({})", holder.holds),
        None if task.is_kernels => "the operation that it works on".into(),
        None => "what it is to let go of".into(),
    };
    edge(task, &holds, &waits_for, owner)
}

fn callbacks(task: &Waiting, tasks: &Tasks) -> WaitEdge {
    let runs = tasks.waiting.iter().find(|task| task.invalidates.is_some());
    let owner = runs.map_or("whoever runs them", |task| task.name.as_str());
    edge(
        task,
        "its notifier",
        "the return of every notifier's callback that runs",
        owner,
    )
}

/// An unmap that hangs has the lock of its address space, for reading at least.
fn address_space(task: &Waiting, tasks: &Tasks) -> WaitEdge {
    let mut unmaps = tasks.that_wait(Wait::References);
    let owner = unmaps.find(|other| other.pid == task.pid);
    let owner = owner.map_or("whoever has it", |task| task.name.as_str());
    edge(
        task,
        "its place in the lock's queue",
        "the lock of the address space (mmap_lock)",
        owner,
    )
}

/// Why a holder that is not kept by its kernel does not let go. `None`: it does so of itself, later.
fn let_go(holder: &Holder, tasks: &Tasks) -> Option<WaitEdge> {
    let waiting = |(call, why): (&str, &str), waits_for: &str, owner: &Waiting| WaitEdge {
        waiter: holder.name.clone(),
        call: format!("{call} ({}{why})", holder.state),
        holds: format!("references to pages ({})", holder.holds),
        waits_for: waits_for.into(),
        owner: owner.name.clone(),
    };
    if holder.is_releasing {
        let worker = tasks
            .that_wait(Wait::Invalidation)
            .find(|task| task.is_kernels);
        if let Some(worker) = worker {
            return Some(waiting(
                ("the release of its pages", "it polls for the completion"),
                "the completion of its operation, which must come first",
                worker,
            ));
        }
    }
    if holder.awaits_unmap {
        let unmap = tasks.that_wait(Wait::References).next()?;
        return Some(waiting(
            ("its loop", "it may not let go yet"),
            "the word that the call which unmaps the pages has returned",
            unmap,
        ));
    }
    None
}
