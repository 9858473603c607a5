//! Kernels that wait inside an unmap, found by the stack of a process that does not end.

use super::Check;
use libgnt::inspect::WaitEdge;
use pv_harness::processes::{Autopsy, Thread};

/// Functions of the kernel that wait for page references (`drivers/xen/grant-table.c`).
const WAITS: [&str; 2] = ["gnttab_unmap_refs_sync", "gnttab_unmap_refs"];

/// The thread that the kernel keeps in an unmap.
fn blocked(process: &Autopsy) -> Option<&Thread> {
    process.threads.iter().find(|thread| {
        thread.state.starts_with('D')
            && thread
                .stack
                .iter()
                .any(|line| WAITS.iter().any(|function| line.contains(function)))
    })
}

/// The cycle that a kernel that waits makes: the mapper in its unmap, and who holds the pages until
/// the unmap has returned. Empty: nobody is blocked.
pub fn kernel_cycle(hung: &[Autopsy]) -> Vec<WaitEdge> {
    let Some((mapper, thread)) = hung.iter().find_map(|p| Some((p, blocked(p)?))) else {
        return Vec::new();
    };
    let waiter = format!("{} (pid {})", mapper.process, mapper.pid);
    let holder = hung
        .iter()
        .find(|process| process.process == "consumer")
        .map_or("whoever holds the pages".into(), |p| {
            format!("{} (pid {})", p.process, p.pid)
        });
    let function = thread.stack.first().map_or("", String::as_str);
    vec![
        WaitEdge {
            waiter: waiter.clone(),
            call: format!("the kernel's unmap (state {}, {function})", thread.state),
            holds: "its unmap".into(),
            waits_for: "the last reference to the pages".into(),
            owner: holder.clone(),
        },
        WaitEdge {
            waiter: holder,
            call: "holding the pages".into(),
            holds: "references to them".into(),
            waits_for: "the end of the unmap".into(),
            owner: waiter,
        },
    ]
}

/// No process is kept by its kernel in an unmap. `None`: nobody hung.
pub fn kernel_does_not_wait(hung: &[Autopsy]) -> Option<Check> {
    const NAME: &str = "the kernel does not wait for references inside an unmap";
    let (mapper, thread) = hung
        .iter()
        .find_map(|process| Some((process, blocked(process)?)))?;
    Some(Check::fail(
        NAME,
        format!(
            "thread {} of {} (pid {}) is in state {}; its kernel stack is {}. This kernel's gntdev \
             waits for every reference to the pages, deaf to signals: the defect of \
             QubesOS/qubes-issues#7481. Linux unmaps asynchronously since 5.19, and in the stable \
             series since 5.18.8 and 5.10.129: run one of these",
            thread.name,
            mapper.process,
            mapper.pid,
            thread.state,
            thread.stack.join(", ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str, state: &str, stack: &[&str]) -> Autopsy {
        Autopsy {
            process: name.into(),
            pid: 7,
            threads: vec![Thread {
                name: "pv-stress".into(),
                state: state.into(),
                wchan: None,
                syscall: None,
                stack: stack.iter().map(|line| (*line).to_owned()).collect(),
            }],
            last_event: None,
        }
    }

    #[test]
    fn a_process_that_its_kernel_keeps_is_explained() {
        let stack = [
            "[<0>] gnttab_unmap_refs_sync+0x8b/0xc0",
            "[<0>] unmap_grant_pages+0x1/0x2",
        ];
        let hung = [
            process("consumer", "S (sleeping)", &["[<0>] do_epoll_wait+0x1/0x2"]),
            process("back-end", "D (disk sleep)", &stack),
        ];
        let edges = kernel_cycle(&hung);
        assert_eq!(edges.len(), 2);
        assert_eq!(
            (&edges[0].owner, &edges[1].owner),
            (&edges[1].waiter, &edges[0].waiter)
        );
        let check = kernel_does_not_wait(&hung).unwrap();
        for part in [
            "back-end (pid 7)",
            "D (disk sleep)",
            "gnttab_unmap_refs_sync",
            "5.19",
        ] {
            assert!(!check.passed && check.detail.contains(part), "{check:?}");
        }
    }

    #[test]
    fn another_wait_is_another_matter() {
        let hung = [
            process("back-end", "D (disk sleep)", &["[<0>] io_schedule+0x1/0x2"]),
            process(
                "front-end",
                "S (sleeping)",
                &["[<0>] gnttab_unmap_refs_sync+0x1/0x2"],
            ),
        ];
        assert!(kernel_cycle(&hung).is_empty());
        assert_eq!(kernel_does_not_wait(&hung), None);
    }
}
