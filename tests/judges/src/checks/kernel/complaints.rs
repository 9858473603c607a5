//! What a kernel's own complaints mean in a run that maps grants.

/// One complaint that is known.
struct Known {
    /// All of these are in the line.
    patterns: &'static [&'static str],
    /// Only on this kind of guest.
    guest: Option<&'static str>,
    /// What it is.
    means: &'static str,
}

const PV_DEFECT: &str = "docs/findings/gntdev-pv-deferred-unmap.md";

/// In the order in which a line is held against them.
const KNOWN: [Known; 12] = [
    Known {
        patterns: &["Bad page map"],
        guest: Some("PV"),
        means: "this is the asynchronous unmap's defect on PV guests: munmap cleared a page-table entry \
                that was still a grant's, and dropped a map count that nobody had taken",
    },
    Known {
        patterns: &["Bad page map"],
        guest: None,
        means: "a page-table entry points to a page that it should not: on a PVH or HVM guest no \
                known defect of gntdev does this, so suspect memory or another driver",
    },
    Known {
        patterns: &["WARNING:", "gntdev.c"],
        guest: Some("PV"),
        means: "this is the asynchronous unmap's defect on PV guests: Xen refused gntdev's deferred \
                unmap, because munmap had cleared the page-table entry before; the grant stays in \
                use until the domain that mapped it ends",
    },
    Known {
        patterns: &["WARNING:", "gntdev.c"],
        guest: None,
        means: "Xen refused an unmap of gntdev's: the grant stays in use until the domain ends",
    },
    Known {
        patterns: &["Bad rss-counter"],
        guest: Some("PV"),
        means: "this is the asynchronous unmap's defect on PV guests: munmap dropped pages from the \
                process's books that were never on them",
    },
    Known {
        patterns: &["WARNING:", "free_zone_device_"],
        guest: Some("PV"),
        means: "this is the asynchronous unmap's defect on PV guests: munmap had dropped a reference \
                that was the holder's, so that the last one to let go found the page free already",
    },
    Known {
        patterns: &["WARNING:", "try_grab_"],
        guest: Some("PV"),
        means: "this is the asynchronous unmap's defect on PV guests: a page that gntdev maps again \
                has one reference too few since an earlier unmap under a holder",
    },
    Known {
        // An address of the kernel's, where vmap puts what it maps.
        patterns: &["unable to handle page fault for address: ffff"],
        guest: Some("PV"),
        means: "if a driver is below it that maps the pages it holds once more (vivid does, vmap), that is \
                why: Xen gives a PV guest no page-table entry for another domain's page but by a grant, \
                so nothing is at that address",
    },
    Known {
        patterns: &["Bad rss-counter"],
        guest: None,
        means: "a process ended with pages on its books that it no longer had, or without some",
    },
    Known {
        patterns: &["Bad page state"],
        guest: None,
        means: "a page was freed while somebody still used it",
    },
    Known {
        patterns: &["WARNING:", "/rxe/"],
        guest: None,
        means: "rxe gave up waiting for an operation that never completes, and took its queue pair \
                or region apart under it",
    },
    Known {
        patterns: &["blocked for more than"],
        guest: None,
        means: "the kernel's watch (hung_task) found a task in state D for longer than \
                kernel.hung_task_timeout_secs: the blocked tasks of this report say in which function",
    },
];

/// What a complaint means on this kind of guest (`PV`, `PVH`, `HVM`), and where that is written down.
/// `None`: it is not known.
pub fn complaint(line: &str, guest: Option<&str>) -> Option<String> {
    let known = KNOWN.iter().find(|known| {
        let is_it = known.patterns.iter().all(|pattern| line.contains(pattern));
        is_it && known.guest.is_none_or(|only| guest == Some(only))
    })?;
    Some(match known.guest {
        Some(_) => format!("{}, see {PV_DEFECT}", known.means),
        None => known.means.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_complaint_is_explained_for_its_guest() {
        for (line, guest, part) in [
            (
                "BUG: Bad page map in process pv-stress  pte:80",
                "PV",
                PV_DEFECT,
            ),
            ("BUG: Bad page map in process x", "PVH", "suspect memory"),
            (
                "WARNING: CPU: 0 PID: 9 at drivers/xen/gntdev.c:410 __unmap_grant_pages_done+0x1/0x2",
                "PV",
                "stays in use until the domain that mapped it ends, see docs/findings/",
            ),
            (
                "WARNING: drivers/xen/gntdev.c:410 at x, CPU#0",
                "HVM",
                "Xen refused an unmap",
            ),
            (
                "BUG: Bad rss-counter state mm:(____ptrval____) type:MM_FILEPAGES val:-4",
                "PV",
                "asynchronous unmap's defect on PV guests",
            ),
            (
                "INFO: task pv-stress:77 blocked for more than 120 seconds.",
                "PVH",
                "hung_task_timeout_secs",
            ),
            (
                "WARNING: CPU: 0 PID: 1 at mm/memremap.c:400 free_zone_device_page+0x1/0x2",
                "PV",
                "found the page free already",
            ),
            (
                "WARNING: CPU: 0 PID: 1 at mm/gup.c:229 try_grab_page+0x1/0x2",
                "PV",
                "one reference too few",
            ),
            (
                "BUG: unable to handle page fault for address: ffffc90041710000",
                "PV",
                "no page-table entry for another domain's page",
            ),
            (
                "WARNING: CPU: 0 PID: 1 at drivers/infiniband/sw/rxe/rxe_pool.c:263 rxe_x",
                "PV",
                "queue pair",
            ),
        ] {
            let said = complaint(line, Some(guest)).unwrap();
            assert!(said.contains(part), "{line}: {said}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_explained() {
        for line in [
            "BUG: unable to handle page fault for address: 0",
            "WARNING: CPU: 0 PID: 1 at mm/x.c:1",
            "drivers/xen/gntdev.c",
        ] {
            assert_eq!(complaint(line, Some("PV")), None, "{line}");
        }
        let elsewhere = complaint("BUG: Bad page map", None).unwrap();
        assert!(!elsewhere.contains("PV guests"), "the guest is not known");
    }
}
