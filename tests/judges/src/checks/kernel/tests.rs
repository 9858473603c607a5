//! Stacks as kernels gave them, and what is made of them.

use super::super::fixture::evidence;
use super::*;
use pv_harness::processes::{Autopsy, Blocked, HoldState, Holding, Task, Thread};
use pv_harness::settings::HoldName;
use std::time::Duration;

/// The unmap of a PV domain, below the notifier's callback (Linux 7.2).
const PV_UNMAP: &str = "gnttab_unmap_refs_sync unmap_grant_pages gntdev_invalidate \
    __mmu_notifier_invalidate_range_start unmap_vmas unmap_region __do_munmap __x64_sys_munmap";
/// The consumer's own prefetch (`ADVISE_MR`).
const PREFETCH: &str =
    "mmu_interval_read_begin ib_umem_odp_map_dma_and_lock rxe_ib_advise_mr ib_uverbs_ioctl";
/// An RDMA write, which a worker carries out.
const WORKER: &str = "mmu_interval_read_begin ib_umem_odp_map_dma_and_lock rxe_odp_mr_copy \
    rxe_receiver do_task process_one_work worker_thread kthread ret_from_fork";
/// The unmap of a PVH domain, in the last put (Linux 6.1).
const PVH_UNMAP: &str =
    "gnttab_unmap_refs_sync unmap_grant_pages gntdev_put_map gntdev_ioctl __x64_sys_ioctl";

fn thread(tid: u32, name: &str, state: &str, stack: &str) -> Thread {
    Thread {
        tid,
        name: name.into(),
        state: state.into(),
        wchan: None,
        syscall: None,
        stack: (stack.split_whitespace())
            .map(|function| format!("[<0>] {function}+0x1/0x2 [module]"))
            .collect(),
    }
}

fn process(name: &str, pid: u32, state: &str, stack: &str) -> Autopsy {
    Autopsy {
        process: name.into(),
        pid,
        domain: Some("back".into()),
        threads: vec![thread(pid, "pv-stress", state, stack)],
        ..Autopsy::default()
    }
}

fn consumer(state: &str, stack: &str, hold: HoldState) -> Autopsy {
    Autopsy {
        holds: vec![Holding {
            hold: 5,
            kind: HoldName::Pipe,
            state: hold,
        }],
        pipes: vec![9],
        ..process("consumer", 12, state, stack)
    }
}

fn kernel(guest: &str, tasks: Vec<Task>) -> Blocked {
    Blocked {
        domain: Some("back".into()),
        kernel: "7.2.13".into(),
        guest_type: Some(guest.into()),
        tasks,
        missing: vec![],
    }
}

fn task(of: Option<&str>, thread: Thread) -> Task {
    Task {
        of: of.map(str::to_owned),
        pid: thread.tid,
        is_kernels: of.is_none(),
        thread,
    }
}

/// The waiters and owners of a cycle.
fn around(found: &Standstill) -> Vec<(&str, &str)> {
    let edges = found.edges[..found.in_cycle].iter();
    edges
        .map(|e| (e.waiter.as_str(), e.owner.as_str()))
        .collect()
}

const BACK: &str = "back-end (pid 10)";
const CONSUMER: &str = "consumer (pid 12)";

fn pv_prefetch() -> (Vec<Autopsy>, Vec<Blocked>) {
    let hung = [
        consumer("D (disk sleep)", PREFETCH, HoldState::Releasing),
        process("back-end", 10, "D (disk sleep)", PV_UNMAP),
        process("front-end", 30, "S (sleeping)", "do_epoll_wait"),
    ];
    let tasks = vec![
        task(Some("consumer"), hung[0].threads[0].clone()),
        task(Some("back-end"), hung[1].threads[0].clone()),
    ];
    (hung.to_vec(), vec![kernel("PV", tasks)])
}

fn pv_write() -> (Vec<Autopsy>, Vec<Blocked>) {
    let hung = vec![
        consumer("S (sleeping)", "do_poll", HoldState::Releasing),
        process("back-end", 10, "D (disk sleep)", PV_UNMAP),
    ];
    let tasks = vec![
        task(Some("back-end"), hung[1].threads[0].clone()),
        task(
            None,
            thread(44, "kworker/u5:0+rxe_wq", "D (disk sleep)", WORKER),
        ),
    ];
    (hung, vec![kernel("PV", tasks)])
}

fn pvh(hold: HoldState) -> (Vec<Autopsy>, Vec<Blocked>) {
    let hung = vec![
        consumer("S (sleeping)", "do_epoll_wait", hold),
        process("back-end", 10, "D (disk sleep)", PVH_UNMAP),
    ];
    let tasks = vec![task(Some("back-end"), hung[1].threads[0].clone())];
    (hung, vec![kernel("PVH", tasks)])
}

fn found((hung, blocked): (Vec<Autopsy>, Vec<Blocked>)) -> Option<Standstill> {
    standstill(&hung, &blocked)
}

#[test]
fn the_cycle_itself_is_told_with_both_functions() {
    let found = found(pv_prefetch()).unwrap();
    assert_eq!(found.form, Form::Notifier);
    assert_eq!(around(&found), [(BACK, CONSUMER), (CONSUMER, BACK)]);
    let said: Vec<String> = found.edges.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "back-end (pid 10) is in munmap (state D in gnttab_unmap_refs_sync, below gntdev_invalidate, \
             gntdev's notifier callback), holds the invalidation of its address space, whose sequence is \
             odd meanwhile, and waits for the last reference to the pages that it has mapped, which \
             consumer (pid 12) has",
            "consumer (pid 12) is in ioctl of uverbs (state D in mmu_interval_read_begin), holds \
             references to pages (pipe 5), and waits for the end of the invalidation of back-end's \
             address space, which back-end (pid 10) has"
        ]
    );
    assert_eq!(found.functions.len(), 2);
    assert!(found.functions[1].starts_with("mmu_interval_read_begin (mm/mmu_notifier.c; since"));
}

#[test]
fn a_worker_of_the_kernel_may_be_in_the_cycle() {
    let found = found(pv_write()).unwrap();
    let worker = "kworker/u5:0+rxe_wq (pid 44)";
    assert_eq!(found.form, Form::Notifier);
    assert_eq!(
        around(&found),
        [(BACK, CONSUMER), (CONSUMER, worker), (worker, BACK)]
    );
    assert!(found.edges[1].waits_for.contains("completion"));
    assert!(
        found.edges[2]
            .call
            .starts_with("its queue's work (state D in mmu_interval")
    );
}

#[test]
fn without_the_worker_the_release_is_no_part_of_a_cycle() {
    let (hung, mut blocked) = pv_write();
    blocked[0].tasks.pop();
    let found = standstill(&hung, &blocked).unwrap();
    assert_eq!((found.form, found.in_cycle), (Form::Unmap, 0));
}

#[test]
fn the_neighbour_closes_through_a_consumer_that_waits_for_the_return() {
    let found = found(pvh(HoldState::AwaitsUnmap)).unwrap();
    assert_eq!(found.form, Form::LastPut);
    assert_eq!(around(&found), [(BACK, CONSUMER), (CONSUMER, BACK)]);
    assert!(
        found.edges[0]
            .call
            .contains("gntdev_put_map, the mapping's last put")
    );
    assert!(found.form.to_string().contains("not the cycle itself"));
}

#[test]
fn in_a_pv_domain_a_consumer_that_waits_for_the_return_is_half_of_it() {
    let (mut hung, _) = pvh(HoldState::AwaitsUnmap);
    hung[1] = process("back-end", 10, "D (disk sleep)", PV_UNMAP);
    let tasks = vec![task(Some("back-end"), hung[1].threads[0].clone())];
    let found = standstill(&hung, &[kernel("PV", tasks)]).unwrap();
    assert_eq!((found.form, found.in_cycle), (Form::Callback, 2));
    assert!(
        found.edges[1]
            .call
            .contains("(state S in do_epoll_wait; it may not let go yet)")
    );
    assert!(found.form.to_string().contains("one half of"));
}

#[test]
fn an_unmap_that_waits_for_a_holder_that_waits_for_nobody_is_just_that() {
    let just = found(pvh(HoldState::Held)).unwrap();
    assert_eq!(
        (just.form, just.in_cycle, just.edges.len()),
        (Form::Unmap, 0, 1)
    );
    assert_eq!(just.edges[0].owner, CONSUMER);
    // Nobody is known to hold the pages: the same, with an unknown owner.
    let (mut hung, blocked) = pvh(HoldState::Held);
    hung.remove(0);
    let unknown = standstill(&hung, &blocked).unwrap();
    assert_eq!(unknown.edges[0].owner, "whoever holds them");
}

#[test]
fn i915_waits_for_the_notifier_while_it_frees_its_object() {
    let free = "mmu_interval_notifier_remove i915_gem_userptr_release __i915_gem_free_work \
        process_one_work worker_thread kthread";
    let hung = vec![process("X", 10, "D (disk sleep)", PV_UNMAP)];
    let worker = task(
        None,
        thread(44, "kworker/u8:1+i915", "D (disk sleep)", free),
    );
    let tasks = vec![task(Some("X"), hung[0].threads[0].clone()), worker];
    let found = standstill(&hung, &[kernel("PV", tasks)]).unwrap();
    // Who has the references no stack says, so the cycle is not claimed.
    assert_eq!(found.form, Form::Unmap);
    assert_eq!(found.edges[1].owner, "X (pid 10)");
}

#[test]
fn threads_that_queue_behind_the_lock_are_told_and_are_not_the_cycle() {
    let (hung, mut blocked) = pv_prefetch();
    let mut queued = task(
        Some("back-end"),
        thread(11, "disk", "D (disk sleep)", "vm_mmap_pgoff do_syscall_64"),
    );
    queued.pid = 10;
    blocked[0].tasks.push(queued);
    let found = standstill(&hung, &blocked).unwrap();
    assert_eq!((found.in_cycle, found.edges.len()), (2, 3));
    assert_eq!(found.edges[2].waiter, "back-end's thread disk (pid 11)");
    assert_eq!(found.edges[2].owner, BACK);
}

#[test]
fn another_wait_is_another_matter() {
    let hung = [
        process("back-end", 10, "D (disk sleep)", "io_schedule"),
        process("front-end", 30, "S (sleeping)", "gnttab_unmap_refs_sync"),
    ];
    assert_eq!(standstill(&hung, &[]), None);
    // A wait for an invalidation that nobody is seen to run is no standstill by itself.
    let reads = process("x", 10, "D (disk sleep)", PREFETCH);
    assert_eq!(standstill(&[reads], &[]), None);
    // Nor do tasks of different kernels make one.
    let (mut hung, mut blocked) = pv_prefetch();
    hung[0].domain = Some("front".into());
    blocked[0].tasks.remove(0);
    let apart = standstill(&hung, &blocked).unwrap();
    assert_eq!((apart.form, apart.in_cycle), (Form::Unmap, 0));
}

#[test]
fn the_stacks_of_hung_threads_do_where_no_kernel_was_asked() {
    let (hung, _) = pv_prefetch();
    let found = standstill(&hung, &[]).unwrap();
    assert_eq!((found.form, found.guest_type), (Form::Notifier, None));
}

#[test]
fn the_check_says_which_it_is() {
    let mut evidence = evidence();
    assert_eq!(kernel_does_not_wait(&evidence), None);
    for (hang, parts) in [
        (
            pv_prefetch(),
            [
                "in domain back (PV) back-end (pid 10)",
                "exact cycle of QubesOS",
            ],
        ),
        (
            pvh(HoldState::AwaitsUnmap),
            ["(PVH)", "not the cycle itself"],
        ),
        (pvh(HoldState::Held), ["5.10.129", "and no cycle"]),
    ] {
        evidence.standstill = found(hang);
        let check = kernel_does_not_wait(&evidence).unwrap();
        for part in parts {
            assert!(!check.passed && check.detail.contains(part), "{check:?}");
        }
    }
}

/// The worker's form, with what SIGKILL changed.
pub(crate) fn told() -> (Vec<Autopsy>, Vec<Blocked>, Standstill) {
    let (hung, blocked) = pv_write();
    let mut found = standstill(&hung, &blocked).unwrap();
    let kills = [
        kill(&hung[0], Some(15), None, blocked.clone()),
        kill(&hung[1], None, None, blocked.clone()),
    ];
    let left = vec!["0x9 of domain 1, which domain 2 maps 1 times".into()];
    found.after_kill = Some(advice(&found, &hung, &kills, &[], left));
    (hung, blocked, found)
}

fn kill(of: &Autopsy, ended: Option<u64>, free: Option<u64>, blocked: Vec<Blocked>) -> Kill {
    Kill {
        process: of.clone(),
        at: 100,
        ended: ended.map(Duration::from_millis),
        free: free.map(Duration::from_millis),
        returned: None,
        limit: Duration::from_secs(10),
        blocked,
    }
}

#[test]
fn what_sigkill_does_not_end_is_told_with_the_cures() {
    let (hung, blocked) = pv_prefetch();
    let found = standstill(&hung, &blocked).unwrap();
    let kills = [
        kill(&hung[0], None, None, blocked.clone()),
        kill(&hung[1], None, None, blocked),
    ];
    let after = advice(&found, &hung, &kills, &[], vec!["grant 0x5".into()]);
    assert!(
        after.killed[0].starts_with("consumer (pid 12) did not end within 10 s of SIGKILL")
            && after.killed[0].contains(
                "still blocked: consumer (pid 12), state D (disk sleep), in mmu_interval_read_begin"
            ),
        "{after:?}"
    );
    let cures = after.cures.join("\n");
    for part in [
        "`timeout 2 cat /proc/12/fd/9 >/dev/null`",
        "`xl destroy back`",
        "5.19",
        "gntdev-pv-deferred-unmap.md",
        "hung_task_timeout_secs",
    ] {
        assert!(cures.contains(part), "{part}: {cures}");
    }
    assert_eq!(after.left, ["grant 0x5"]);
}

#[test]
fn what_sigkill_ends_is_told_with_its_time_and_needs_no_pipe_emptied() {
    let (hung, blocked) = pvh(HoldState::AwaitsUnmap);
    let found = standstill(&hung, &blocked).unwrap();
    let kills = [kill(&hung[0], Some(12), Some(90), vec![])];
    let after = advice(&found, &hung, &kills, &[], vec![]);
    assert_eq!(
        after.killed,
        [
            "consumer (pid 12) ended 12 ms after SIGKILL; a look that ended 90 ms after it saw no task of the run blocked any more"
        ]
    );
    let returned = Some(Duration::from_millis(40));
    let told = Kill {
        returned,
        ..kills[0].clone()
    };
    let said = advice(&found, &hung, &[told], &[], vec![]).killed.remove(0);
    assert!(said.contains("returned 40 ms after it"), "{said}");
    // It ended, and the unmap hangs all the same: no pipe of its is left to be emptied.
    let ended = [kill(&hung[0], Some(12), None, blocked)];
    let cures = advice(&found, &hung, &ended, &[], vec![]).cures.join("\n");
    assert!(
        !cures.contains("/proc/12") && cures.contains("end what holds"),
        "{cures}"
    );
    let cures = after.cures.join("\n");
    assert!(
        !cures.contains("/proc/12") && !cures.contains("deferred-unmap"),
        "{cures}"
    );
    assert!(cures.starts_with("kill whoever holds the pages, here consumer (pid 12)"));
    // Nothing was seen: that is not taken for nothing being blocked.
    let unread = [kill(&hung[0], Some(12), None, vec![])];
    let after = advice(&found, &hung, &unread, &[], vec![]);
    assert!(after.killed[0].contains("could not be read"));
}

#[test]
fn the_cure_for_a_stuck_pipe_is_told_as_it_went() {
    let (mut hung, blocked) = pv_prefetch();
    for held in hung.iter_mut().flat_map(|process| &mut process.holds) {
        held.kind = HoldName::RdmaOdp;
    }
    let found = standstill(&hung, &blocked).unwrap();
    let kills = [kill(&hung[0], None, None, blocked.clone())];
    let command = emptying(&hung[0]).unwrap();
    assert_eq!(command, "timeout 2 cat /proc/12/fd/9 >/dev/null");
    assert_eq!(emptying(&hung[1]), None, "it holds nothing");
    let emptied = |free: Option<u64>| Emptied {
        process: hung[0].clone(),
        command: command.clone(),
        failed: None,
        free: free.map(Duration::from_millis),
        grants: Some((23, 0)),
        blocked: blocked.clone(),
    };
    let after = |free| advice(&found, &hung, &kills, &[emptied(free)], vec![]);
    let helped = after(Some(2100));
    assert!(
        helped.tried[0].contains("2100 ms later saw no task") && helped.tried[0].contains("of 23"),
        "{helped:?}"
    );
    assert!(
        helped.cures[0].contains("so it was here"),
        "{:?}",
        helped.cures
    );
    let not = after(None);
    assert!(
        not.tried[0].contains("did not help; still blocked: consumer (pid 12)"),
        "{not:?}"
    );
    assert!(not.cures[0].contains("here it did not help"));
}

#[test]
fn a_stack_that_is_cut_is_told_by_the_kind_of_guest() {
    let cut = |guest: &str| {
        let hung = vec![
            consumer("S (sleeping)", "do_epoll_wait", HoldState::AwaitsUnmap),
            process("back-end", 10, "D (disk sleep)", "gnttab_unmap_refs_sync"),
        ];
        let tasks = vec![task(Some("back-end"), hung[1].threads[0].clone())];
        found((hung, vec![kernel(guest, tasks)])).unwrap()
    };
    let (on_pv, on_pvh) = (cut("PV"), cut("PVH"));
    assert_eq!((on_pv.form, on_pvh.form), (Form::Callback, Form::LastPut));
    assert_eq!(on_pv.edges[0].holds, "the mapping");
}
