//! From the lines of a trace to what the kernel did: a machine without I/O.

use super::line::Line;
use super::probes::Seen;
use crate::timeline::{KernelCounts, KernelEvent};
use libgnt::machine::{Machine, Now};
use libgnt::types::{DomId, ForeignGrant, GrantRef};
use std::collections::{BTreeMap, HashMap};

/// Reasons why the counts may be wrong that are kept; one is enough to distrust them.
const MAX_GAPS: usize = 8;

/// What happens to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The trace has one more line.
    Line(Line),
    /// Something may be missing from the trace.
    Gap(Gap),
    /// There will be no more.
    End,
}

/// Something that may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub why: String,
    /// Only of the ends of grants.
    pub only_ends: bool,
}

impl Gap {
    /// Anything may be missing.
    pub fn of_all(why: String) -> Gap {
        Gap {
            why,
            only_ends: false,
        }
    }
}

/// What is to be recorded: what the kernel did, and when, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// On the trace's clock.
    pub ns: u64,
    /// What.
    pub event: KernelEvent,
}

/// A mapping, by where its first page is.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    first: ForeignGrant,
    pages: u32,
    addr: u64,
}

/// An unmap that was asked for.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    since: u64,
    put_off: u32,
    /// Its operations are with the hypervisor: the first page, and how many.
    going: Option<(u64, u32)>,
}

/// Takes lines in, and says what they amount to. What it remembers is bounded by what the kernel has
/// under way.
#[derive(Debug, Default)]
pub struct Account {
    /// The last map operations of a thread; gntdev's if its mmap returns next.
    mapping: HashMap<u32, Mapping>,
    /// What was mapped, by its first page. `None`: an mmap that failed, which unmaps what it had.
    mapped: HashMap<u64, Option<ForeignGrant>>,
    leaving: BTreeMap<u64, Leaving>,
    /// The unmap that a thread is at.
    at: HashMap<u32, u64>,
    /// The unmap that a thread waits for.
    awaited: HashMap<u32, u64>,
    /// The grants that a thread is about to end: an interrupt may end others in between.
    ending: HashMap<u32, Vec<u32>>,
    late: BTreeMap<u32, u64>,
    counts: KernelCounts,
}

impl Machine for Account {
    type Input = Input;
    type Action = Told;

    fn step(&mut self, now: Now, input: Input, actions: &mut Vec<Told>) {
        match input {
            Input::Line(Line::Hit(hit)) => match Seen::of(&hit) {
                Some(seen) => actions.extend(self.seen(hit.ns, hit.thread, seen)),
                None => self.gap(Gap::of_all(format!(
                    "an argument of the probe {} could not be read",
                    hit.probe
                ))),
            },
            Input::Line(Line::Lost(events)) => {
                let why = format!("the kernel's buffer was full: {events} events lost");
                self.gap(Gap::of_all(why));
            }
            Input::Gap(gap) => self.gap(gap),
            Input::End => actions.push(self.end(now)),
        }
    }
}

impl Account {
    /// Is everything over that was seen to begin: unmapped what was mapped, ended what was late?
    pub fn is_settled(&self) -> bool {
        self.counts.mapped == self.counts.unmapped
            && self.unfinished().next().is_none()
            && self.late.is_empty()
    }

    /// What another driver's unmap was has gone to the hypervisor, and told gntdev nothing.
    fn unfinished(&self) -> impl Iterator<Item = &Leaving> {
        self.leaving
            .values()
            .filter(|leaving| leaving.going.is_none())
    }

    fn gap(&mut self, gap: Gap) {
        let gaps = if gap.only_ends {
            &mut self.counts.gaps_of_ends
        } else {
            &mut self.counts.gaps
        };
        if gaps.len() < MAX_GAPS {
            gaps.push(gap.why);
        }
    }

    fn seen(&mut self, ns: u64, thread: u32, seen: Seen) -> Option<Told> {
        match seen {
            Seen::Map {
                addr,
                domid,
                gref,
                pages,
            } => {
                let first = ForeignGrant {
                    domid: DomId(domid),
                    gref: GrantRef(gref),
                };
                // A driver of the kernel's that maps by itself is followed by no mmap, and leaves
                // this for the next one.
                let mapping = Mapping { first, pages, addr };
                self.mapping.insert(thread, mapping);
                None
            }
            Seen::Mapped { ret } => self.map_returned(ns, thread, ret == 0),
            Seen::Asked { item } => {
                self.asked(ns, thread, item);
                None
            }
            Seen::Looked { item } => {
                if let Some(leaving) = self.leaving.get_mut(&item) {
                    leaving.put_off += 1;
                }
                self.at.insert(thread, item);
                None
            }
            Seen::Unmap { addr, pages } => {
                let item = self.at.remove(&thread);
                if let Some(leaving) = item.and_then(|item| self.leaving.get_mut(&item)) {
                    leaving.going = Some((addr, pages));
                }
                None
            }
            Seen::Done { item } => self.done(ns, item),
            Seen::Waits { item } => {
                // The compiler may have put the asking into the waiting, where no probe is.
                self.asked(ns, thread, item);
                self.awaited.insert(thread, item);
                None
            }
            Seen::Waited => {
                let item = self.awaited.remove(&thread)?;
                // Other drivers wait, too.
                let (addr, _) = self.leaving.get(&item)?.going?;
                self.mapped
                    .contains_key(&addr)
                    .then(|| self.done(ns, item))?
            }
            Seen::End { gref } => {
                self.ending.entry(thread).or_default().push(gref);
                None
            }
            Seen::Ended { ret } => {
                let ending = self.ending.get_mut(&thread)?;
                let gref = ending.pop()?;
                if ending.is_empty() {
                    self.ending.remove(&thread);
                }
                self.ended(ns, gref, ret != 0)
            }
        }
    }

    fn asked(&mut self, ns: u64, thread: u32, item: u64) {
        let leaving = Leaving {
            since: ns,
            put_off: 0,
            going: None,
        };
        self.leaving.insert(item, leaving);
        self.at.insert(thread, item);
    }

    fn map_returned(&mut self, ns: u64, thread: u32, made: bool) -> Option<Told> {
        // Without map operations it failed early, or the pages were mapped already.
        let Mapping { first, pages, addr } = self.mapping.remove(&thread)?;
        if !made {
            self.mapped.insert(addr, None);
            return None;
        }
        self.mapped.insert(addr, Some(first));
        self.counts.mapped += u64::from(pages);
        let event = KernelEvent::Mapped { first, pages };
        Some(Told { ns, event })
    }

    /// gntdev's own: what other drivers have unmapped is done without this.
    fn done(&mut self, ns: u64, item: u64) -> Option<Told> {
        let Leaving {
            since,
            put_off,
            going,
        } = self.leaving.remove(&item)?;
        let Some((addr, pages)) = going else {
            let why = "an unmap is done that was not seen to begin";
            self.gap(Gap::of_all(why.into()));
            return None;
        };
        // In a PV domain an mmap that fails unmaps before it returns.
        let fails = self.mapping.values().any(|mapping| mapping.addr == addr);
        let mapped = self.mapped.remove(&addr);
        if fails || mapped == Some(None) {
            return None;
        }
        self.counts.unmapped += u64::from(pages);
        self.counts.put_off += u64::from(put_off > 0);
        let event = KernelEvent::Unmapped {
            first: mapped.flatten(),
            pages,
            after_ns: ns.saturating_sub(since),
            put_off,
        };
        Some(Told { ns, event })
    }

    fn ended(&mut self, ns: u64, gref: u32, over: bool) -> Option<Told> {
        if !over {
            self.late.entry(gref).or_insert(ns);
            return None;
        }
        let since = self.late.remove(&gref)?;
        let event = KernelEvent::FreedLate {
            gref: GrantRef(gref),
            after_ns: ns.saturating_sub(since),
        };
        Some(Told { ns, event })
    }

    fn end(&mut self, now: Now) -> Told {
        let ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut counts = self.counts.clone();
        counts.late = self.late.keys().map(|&gref| GrantRef(gref)).collect();
        // Unseen is what an interrupt does, a later try. It counts where its grant was not seen to end
        // in a still later one.
        if counts.late.is_empty() {
            counts.gaps_of_ends.clear();
        }
        counts.unfinished = self
            .unfinished()
            .map(|leaving| {
                let asked = std::time::Duration::from_nanos(ns.saturating_sub(leaving.since));
                let put_off = leaving.put_off;
                format!("an unmap asked for {asked:.1?} ago, and put off {put_off} times since")
            })
            .collect();
        let event = KernelEvent::Counted(counts);
        Told { ns, event }
    }
}

#[cfg(test)]
mod tests;
