//! Functions of Linux that wait, for what, and who can end it. Read from Linux 6.1.192's sources, and
//! seen on it and on 7.2.

use super::stack::Stack;

/// What a kernel function waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// That nobody has a reference to a grant's pages any more.
    References,
    /// That no invalidation of the address space runs.
    Invalidation,
    /// That every notifier's callback has returned.
    Callbacks,
    /// The address space's lock.
    AddressSpace,
    /// That a device is done with a buffer.
    Device,
}

/// One function.
pub struct Waiter {
    /// Its name.
    pub function: &'static str,
    /// Where it is.
    pub file: &'static str,
    /// For what.
    pub wait: Wait,
    /// In which kernels it waits so.
    pub when: &'static str,
    /// Only below this function.
    below: Option<&'static str>,
}

const fn waits(
    function: &'static str,
    file: &'static str,
    wait: Wait,
    when: &'static str,
) -> Waiter {
    Waiter {
        function,
        file,
        wait,
        when,
        below: None,
    }
}

/// In the order in which a stack is held against them. The wait itself (`wait_for_completion`,
/// `schedule`, `down_write`) is not in `/proc/PID/stack`, so these are the functions that call it.
const WAITERS: [Waiter; 6] = [
    waits(
        "gnttab_unmap_refs_sync",
        "drivers/xen/grant-table.c",
        Wait::References,
        "gntdev unmapped by it from Linux 4.0 until 5.18, in the stable series until 5.18.7, 5.15.50, 5.10.128 and 5.4.203",
    ),
    waits(
        "mmu_interval_read_begin",
        "mm/mmu_notifier.c",
        Wait::Invalidation,
        "since Linux 5.5; i915's userptr calls it since 5.13, rxe's on-demand regions do in 7.2",
    ),
    waits(
        "mmu_interval_notifier_remove",
        "mm/mmu_notifier.c",
        Wait::Invalidation,
        "since Linux 5.5; i915 calls it to free a userptr object, which lets go of its pages",
    ),
    Waiter {
        below: Some("mmu_notifier_unregister"),
        ..waits(
            "__synchronize_srcu",
            "mm/mmu_notifier.c",
            Wait::Callbacks,
            "since Linux 3.7",
        )
    },
    Waiter {
        below: Some("__mmu_notifier_release"),
        ..waits(
            "__synchronize_srcu",
            "mm/mmu_notifier.c",
            Wait::Callbacks,
            "since Linux 3.7",
        )
    },
    Waiter {
        below: Some("i915_gem_userptr_invalidate"),
        ..waits(
            "dma_resv_wait_timeout",
            "drivers/gpu/drm/i915/gem/i915_gem_userptr.c",
            Wait::Device,
            "since Linux 5.13",
        )
    },
];

/// Functions that take an address space's lock, when they are the innermost one of a blocked task.
const LOCKERS: [(&str, &str); 12] = [
    ("vm_mmap_pgoff", "mm/util.c"),
    ("__vm_munmap", "mm/mmap.c"),
    ("do_mprotect_pkey", "mm/mprotect.c"),
    ("__do_sys_brk", "mm/mmap.c"),
    ("do_madvise", "mm/madvise.c"),
    ("dup_mmap", "kernel/fork.c"),
    ("do_user_addr_fault", "arch/x86/mm/fault.c"),
    ("lock_mm_and_find_vma", "mm/memory.c"),
    ("__access_remote_vm", "mm/memory.c"),
    ("__gup_longterm_locked", "mm/gup.c"),
    ("m_start", "fs/proc/task_mmu.c"),
    ("exit_mmap", "mm/mmap.c"),
];

/// The function of a table that a blocked task waits in.
pub fn wait_in(stack: &Stack<'_>) -> Option<Waiter> {
    let known = WAITERS.into_iter().find(|waiter| {
        stack.has(waiter.function) && waiter.below.is_none_or(|caller| stack.has(caller))
    });
    known.or_else(|| {
        let top = stack.top()?;
        let (function, file) = LOCKERS.into_iter().find(|(name, _)| *name == top)?;
        let when = "in every kernel";
        Some(waits(function, file, Wait::AddressSpace, when))
    })
}

/// The part of an invalidation that runs a notifier's callbacks, for a range or a whole address space:
/// while a task is in it, the sequence of the intervals that it meets is odd.
pub fn invalidation_in(stack: &Stack<'_>) -> Option<&'static str> {
    stack.first_of(&[
        "__mmu_notifier_invalidate_range_start",
        "mn_itree_invalidate",
        "mn_itree_release",
        "__mmu_notifier_release",
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(lines: &[&str]) -> Option<(Wait, &'static str)> {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        wait_in(&Stack::of(&lines)).map(|waiter| (waiter.wait, waiter.file))
    }

    #[test]
    fn each_wait_is_known_by_its_function() {
        for (lines, expected) in [
            (&["gnttab_unmap_refs_sync"][..], Wait::References),
            (&["mmu_interval_read_begin", "rxe_x"], Wait::Invalidation),
            (&["mmu_interval_notifier_remove"], Wait::Invalidation),
            (
                &["__synchronize_srcu", "mmu_notifier_unregister"],
                Wait::Callbacks,
            ),
            (
                &["dma_resv_wait_timeout", "i915_gem_userptr_invalidate"],
                Wait::Device,
            ),
            (&["vm_mmap_pgoff", "do_syscall_64"], Wait::AddressSpace),
        ] {
            assert_eq!(
                wait(lines).map(|(wait, _)| wait),
                Some(expected),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn other_waits_are_not_taken_for_one() {
        for lines in [
            &["io_schedule"][..],
            &["__synchronize_srcu", "fsnotify_mark_destroy_workfn"],
            &["dma_resv_wait_timeout", "i915_gem_wait_ioctl"],
            // It has the lock, and waits for something else.
            &["io_schedule", "vm_mmap_pgoff"],
            &[],
        ] {
            assert_eq!(wait(lines), None, "{lines:?}");
        }
    }
}
