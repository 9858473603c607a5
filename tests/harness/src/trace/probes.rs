//! The probes: on which functions, and what they note of the arguments.
//!
//! Arguments are taken from x86-64's registers, and only such that no kernel's configuration moves:
//! numbers, addresses, and the fields of Xen's own `struct gnttab_map_grant_ref` and
//! `struct gnttab_unmap_grant_ref` (`include/xen/interface/grant_table.h`). The functions and their
//! arguments are those of Linux 5.10, 6.1, 6.12 and 7.2.

use super::line::Hit;

/// One of the kernel's functions, and what of it is noted.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name in the trace.
    pub name: &'static str,
    /// The function.
    pub function: &'static str,
    /// At its return, not at its entry.
    pub at_return: bool,
    /// What of its arguments or its result.
    pub fetch: &'static str,
    /// Without it nothing can be said.
    pub needed: bool,
    /// It is about the ends of grants.
    pub of_ends: bool,
}

/// What a probe tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A thread gives map operations to the hypervisor.
    Map {
        /// Where the first page goes.
        addr: u64,
        /// The granter.
        domid: u16,
        /// The first page's grant.
        gref: u32,
        /// How many.
        pages: u32,
    },
    /// gntdev's mmap returns.
    Mapped {
        /// 0 or an error.
        ret: i64,
    },
    /// An unmap is asked for.
    Asked {
        /// The kernel's structure for it.
        item: u64,
    },
    /// An unmap that was put off is looked at again.
    Looked {
        /// As above.
        item: u64,
    },
    /// A thread gives unmap operations to the hypervisor.
    Unmap {
        /// Where the first page is.
        addr: u64,
        /// How many.
        pages: u32,
    },
    /// They are done, and gntdev is told.
    Done {
        /// As above.
        item: u64,
    },
    /// A driver waits for an unmap.
    Waits {
        /// As above.
        item: u64,
    },
    /// And waits no longer.
    Waited,
    /// A grant is to end.
    End {
        /// Which.
        gref: u32,
    },
    /// The answer: 1, or 0 if the peer still maps the page.
    Ended {
        /// That.
        ret: i64,
    },
}

/// All, in the order in which they are set.
pub const PROBES: [Probe; 12] = [
    // gntdev_map_grant_pages → gnttab_map_refs(map_ops, kmap_ops, pages, count), drivers/xen/.
    entry(
        "map",
        "gnttab_map_refs",
        "addr=+0(%di):x64 gref=+12(%di):u32 domid=+16(%di):u16 pages=%cx:u32",
    ),
    at_return("mapped", "gntdev_mmap"),
    // __unmap_grant_pages → gnttab_unmap_refs_async(item).
    entry("ask", "gnttab_unmap_refs_async", "item=%di:x64"),
    // The delayed work, whose first field is that of the item.
    entry("look", "gnttab_unmap_work", "item=%di:x64"),
    entry(
        "unmap",
        "gnttab_unmap_refs",
        "addr=+0(%di):x64 pages=%cx:u32",
    ),
    entry("done", "__unmap_grant_pages_done", "item=%si:x64"),
    // What a synchronous unmap calls; gntdev is told of its end by the return.
    if_there(entry("wait", "gnttab_unmap_refs_sync", "item=%di:x64")),
    if_there(at_return("waited", "gnttab_unmap_refs_sync")),
    // Called through the table of the grant table's version, so neither is ever inlined.
    of_ends(entry(
        "end1",
        "gnttab_end_foreign_access_ref_v1",
        "gref=%di:u32",
    )),
    of_ends(at_return("ended1", "gnttab_end_foreign_access_ref_v1")),
    of_ends(entry(
        "end2",
        "gnttab_end_foreign_access_ref_v2",
        "gref=%di:u32",
    )),
    of_ends(at_return("ended2", "gnttab_end_foreign_access_ref_v2")),
];

const fn entry(name: &'static str, function: &'static str, fetch: &'static str) -> Probe {
    Probe {
        name,
        function,
        at_return: false,
        fetch,
        needed: true,
        of_ends: false,
    }
}

const fn at_return(name: &'static str, function: &'static str) -> Probe {
    Probe {
        name,
        function,
        at_return: true,
        fetch: "ret=$retval:s32",
        needed: true,
        of_ends: false,
    }
}

const fn if_there(probe: Probe) -> Probe {
    Probe {
        needed: false,
        ..probe
    }
}

/// Which of them there are depends on the kernel.
const fn of_ends(probe: Probe) -> Probe {
    Probe {
        of_ends: true,
        ..if_there(probe)
    }
}

impl Probe {
    /// The line of `kprobe_events` that sets it.
    pub fn definition(&self, group: &str) -> String {
        let Probe {
            name,
            function,
            fetch,
            ..
        } = self;
        let kind = if self.at_return { 'r' } else { 'p' };
        format!("{kind}:{group}/{name} {function} {fetch}")
    }
}

impl Seen {
    /// What a hit tells; `None`: an argument could not be read, or no probe of ours is called so.
    pub fn of(hit: &Hit) -> Option<Seen> {
        let word = |name| hit.field(name).map(i64::cast_unsigned);
        let number = |name| u32::try_from(hit.field(name)?).ok();
        Some(match hit.probe.as_str() {
            "map" => Seen::Map {
                addr: word("addr")?,
                domid: u16::try_from(hit.field("domid")?).ok()?,
                gref: number("gref")?,
                pages: number("pages")?,
            },
            "mapped" => Seen::Mapped {
                ret: hit.field("ret")?,
            },
            "ask" => Seen::Asked {
                item: word("item")?,
            },
            "look" => Seen::Looked {
                item: word("item")?,
            },
            "unmap" => Seen::Unmap {
                addr: word("addr")?,
                pages: number("pages")?,
            },
            "done" => Seen::Done {
                item: word("item")?,
            },
            "wait" => Seen::Waits {
                item: word("item")?,
            },
            "waited" => Seen::Waited,
            "end1" | "end2" => Seen::End {
                gref: number("gref")?,
            },
            "ended1" | "ended2" => Seen::Ended {
                ret: hit.field("ret")?,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Line;
    use std::collections::HashSet;

    /// A line as the kernel would print it for this probe.
    fn printed(probe: &Probe) -> String {
        let fields = probe
            .fetch
            .split(' ')
            .filter_map(|field| Some(format!(" {}=1", field.split_once('=')?.0)));
        let fields: String = fields.collect();
        format!(
            "x-1 [000] ..... 1.000000: {}: (f+0x0/0x1){fields}",
            probe.name
        )
    }

    #[test]
    fn what_every_probe_prints_is_understood() {
        let mut names = HashSet::new();
        for probe in &PROBES {
            assert!(names.insert(probe.name), "{} twice", probe.name);
            let Ok(Line::Hit(hit)) = Line::parse(&printed(probe)) else {
                panic!("{probe:?}")
            };
            assert!(Seen::of(&hit).is_some(), "{probe:?}");
        }
    }

    #[test]
    fn a_definition_is_a_line_of_kprobe_events() {
        assert_eq!(
            PROBES[1].definition("pvstress_7_9"),
            "r:pvstress_7_9/mapped gntdev_mmap ret=$retval:s32"
        );
        assert!(PROBES[2].definition("g").starts_with("p:g/ask "));
    }

    #[test]
    fn a_hit_without_its_arguments_tells_nothing() {
        let text = "x-1 [000] ..... 1.000000: unmap: (f+0x0/0x1) addr=(fault) pages=3";
        let Ok(Line::Hit(hit)) = Line::parse(text) else {
            panic!()
        };
        assert_eq!(Seen::of(&hit), None);
    }
}
