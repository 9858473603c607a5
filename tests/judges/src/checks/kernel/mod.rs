//! Kernels that wait inside an unmap: found by the stacks of the tasks that they keep, and told.

mod advice;
mod complaints;
mod edges;
mod no_cycle;
mod stack;
mod standstill;
mod table;
mod tasks;

pub use advice::{Emptied, Kill, advice, emptying};
pub use complaints::complaint;
pub use no_cycle::no_cycle;
pub use standstill::{AfterKill, Form, Standstill, standstill};

use super::{Check, Evidence};

/// No kernel keeps a process in an unmap. `None`: none does.
pub fn kernel_does_not_wait(evidence: &Evidence) -> Option<Check> {
    const NAME: &str = "the kernel does not wait for references inside an unmap";
    let found = evidence.standstill.as_ref()?;
    let first = found.edges.first()?;
    let domain = found
        .domain
        .as_deref()
        .map_or("this machine".into(), |d| format!("domain {d}"));
    let guest = found
        .guest_type
        .as_deref()
        .map_or(String::new(), |g| format!(" ({g})"));
    Some(Check::fail(
        NAME,
        format!(
            "in {domain}{guest} {} is in {}; {}. The functions that wait: {}. A gntdev that waits for \
             every reference, deaf to signals, is the defect that Linux mended in 5.19 by unmapping \
             asynchronously, and in the stable series in 5.18.8, 5.15.51, 5.10.129 and 5.4.204: run one of these",
            first.waiter,
            first.call,
            found.form,
            found.functions.join("; ")
        ),
    ))
}

#[cfg(test)]
pub(crate) mod tests;
