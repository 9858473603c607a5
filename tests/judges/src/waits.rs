//! Who waits for what while holding what: a monitor in the spirit of lockdep.
//!
//! It learns, from what processes did, every pair (held, waited for), and reports a cycle among
//! them as a possible deadlock, even if in this run everybody let go in time. A wait counts when it
//! is one that may block, whether or not it did.

use pv_harness::settings::{HoldName, Unmap};
use pv_harness::timeline::{Event, Record};
use std::collections::BTreeMap;
use std::fmt;

/// What can be held and waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// References to the pages that a process has mapped.
    References {
        /// The process.
        mapper: String,
    },
    /// The invalidation of a process's address space, which runs while pages go from it.
    Invalidation {
        /// The process.
        mapper: String,
    },
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::References { mapper } => write!(f, "references to {mapper}'s pages"),
            Resource::Invalidation { mapper } => {
                write!(f, "the invalidation of {mapper}'s address space")
            }
        }
    }
}

/// Why a pair is known: the first time it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Who.
    pub process: String,
    /// What it had.
    pub held: Resource,
    /// What it could have waited for.
    pub wanted: Resource,
    /// In which call.
    pub call: String,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} has {} and, in {}, may wait for {}",
            self.process, self.held, self.call, self.wanted
        )
    }
}

/// The monitor.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    /// What each process has, and how often.
    held: BTreeMap<String, BTreeMap<Resource, u32>>,
    pairs: BTreeMap<(Resource, Resource), Witness>,
}

impl Monitor {
    /// A process has a resource from now on.
    pub fn takes(&mut self, process: &str, resource: &Resource) {
        let held = self.held.entry(process.into()).or_default();
        *held.entry(resource.clone()).or_default() += 1;
    }

    /// It has it once less.
    pub fn lets_go(&mut self, process: &str, resource: &Resource) {
        let Some(held) = self.held.get_mut(process) else {
            return;
        };
        if let Some(count) = held.get_mut(resource) {
            *count -= 1;
            if *count == 0 {
                held.remove(resource);
            }
        }
    }

    /// It makes a call that may wait for a resource.
    pub fn may_wait(&mut self, process: &str, wanted: &Resource, call: &str) {
        let held = self.held.get(process).into_iter().flat_map(BTreeMap::keys);
        for held in held {
            let pair = (held.clone(), wanted.clone());
            self.pairs.entry(pair).or_insert_with(|| Witness {
                process: process.into(),
                held: held.clone(),
                wanted: wanted.clone(),
                call: call.into(),
            });
        }
    }

    /// A process is gone, and everything it had.
    pub fn ends(&mut self, process: &str) {
        self.held.remove(process);
    }

    /// Cycles among what was learnt, each as its witnesses in order; every resource is in at most one.
    pub fn cycles(&self) -> Vec<Vec<&Witness>> {
        let mut pairs: Vec<&(Resource, Resource)> = self.pairs.keys().collect();
        let mut cycles = Vec::new();
        loop {
            let mut names: Vec<&Resource> = pairs.iter().flat_map(|(a, b)| [a, b]).collect();
            names.sort();
            names.dedup();
            let number = |name: &Resource| names.binary_search(&name).unwrap_or(0);
            let numbered: Vec<_> = pairs.iter().map(|(a, b)| (number(a), number(b))).collect();
            let Some(cycle) = pv_harness::cycle::cycle(&numbered) else {
                return cycles;
            };
            let around = cycle.iter().zip(cycle.iter().cycle().skip(1));
            let edges = around.map(|(a, b)| (names[*a].clone(), names[*b].clone()));
            cycles.push(edges.filter_map(|pair| self.pairs.get(&pair)).collect());
            let out: Vec<&Resource> = cycle.iter().map(|at| names[*at]).collect();
            pairs.retain(|(a, b)| !out.contains(&a) && !out.contains(&b));
        }
    }

    /// Learns from a run: S0's resources are the references to a mapper's pages, and the
    /// invalidation of its address space.
    ///
    /// - A consumer's hold is a reference to the pages of whoever lent them.
    /// - A synchronous unmap waits for those references, with the invalidation running.
    /// - i915's release waits until no invalidation runs.
    pub fn learn(&mut self, records: &[Record], unmap: Unmap) {
        let mut lenders: BTreeMap<u64, String> = BTreeMap::new();
        for record in records {
            if let Event::Lent { hold, .. } = record.event {
                lenders.insert(hold, record.process.clone());
            }
        }
        let mut kinds: BTreeMap<u64, HoldName> = BTreeMap::new();
        for record in records {
            let me = record.process.as_str();
            let lender = |hold: &u64| lenders.get(hold).map_or("somebody", String::as_str);
            match &record.event {
                Event::Held { hold, kind, .. } => {
                    kinds.insert(*hold, *kind);
                    self.takes(me, &references(lender(hold)));
                }
                Event::HoldReleasing { hold } if kinds.get(hold) == Some(&HoldName::I915) => {
                    let wanted = invalidation(lender(hold));
                    self.may_wait(me, &wanted, "the release of its pages");
                }
                Event::HoldReleased { hold, .. } => self.lets_go(me, &references(lender(hold))),
                Event::UnmapBegan { .. } => {
                    self.takes(me, &invalidation(me));
                    if unmap == Unmap::Sync {
                        self.may_wait(me, &references(me), "munmap");
                    }
                }
                Event::UnmapReturned { .. } => self.lets_go(me, &invalidation(me)),
                Event::Finished => self.ends(me),
                _ => {}
            }
        }
    }
}

fn references(mapper: &str) -> Resource {
    Resource::References {
        mapper: mapper.into(),
    }
}

fn invalidation(mapper: &str) -> Resource {
    Resource::Invalidation {
        mapper: mapper.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_orders_are_a_possible_deadlock_even_one_after_the_other() {
        let mut monitor = Monitor::default();
        let (x, y) = (references("x"), invalidation("y"));
        for (who, first, second) in [("a", &x, &y), ("b", &y, &x)] {
            assert_eq!(monitor.cycles().len(), 0);
            monitor.takes(who, first);
            monitor.may_wait(who, second, "lock");
            monitor.takes(who, second);
            monitor.lets_go(who, second);
            monitor.lets_go(who, first);
        }
        let cycles = monitor.cycles();
        assert_eq!(cycles.len(), 1);
        let said: Vec<String> = cycles[0].iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "a has references to x's pages and, in lock, may wait for the invalidation of y's address space",
                "b has the invalidation of y's address space and, in lock, may wait for references to x's pages"
            ]
        );
    }

    #[test]
    fn one_order_is_none_and_what_was_let_go_does_not_count() {
        let mut monitor = Monitor::default();
        let (x, y, z) = (references("x"), references("y"), references("z"));
        for who in ["a", "b"] {
            monitor.takes(who, &x);
            monitor.may_wait(who, &y, "lock");
            monitor.takes(who, &y);
            monitor.lets_go(who, &x);
            monitor.may_wait(who, &z, "lock");
        }
        monitor.ends("a");
        monitor.may_wait("a", &x, "lock");
        assert!(monitor.cycles().is_empty());
    }

    #[test]
    fn waiting_for_what_one_has_is_a_cycle_of_one() {
        let mut monitor = Monitor::default();
        let invalidation = invalidation("back-end");
        monitor.takes("back-end", &invalidation);
        monitor.may_wait("back-end", &invalidation, "a fault");
        assert_eq!(monitor.cycles()[0].len(), 1);
    }
}
