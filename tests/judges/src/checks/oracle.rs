//! A second oracle: what the domains' kernels did, seen by an observer in each, beside what the
//! library's ledgers and the timelines say. The two share no code.

use super::{Check, Evidence, RequestLife, spell};
use libgnt::types::ForeignGrant;
use pv_harness::timeline::{Event, KernelCounts, KernelEvent};
use std::collections::{HashMap, HashSet};

/// Stamps of a trace are whole microseconds.
const ROUNDED_NS: u64 = 1_000;
/// A busy machine may come to its work so much too late.
const BUSY_NS: u64 = 5_000_000_000;

/// A domain whose kernel is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Its name.
    pub domain: String,
    /// The process that watches.
    pub observer: String,
    /// The processes in it that can map grants.
    pub mappers: Vec<String>,
}

/// One kernel whose every event was seen.
struct Kernel<'a> {
    watched: &'a Watched,
    counts: &'a KernelCounts,
    events: Vec<(u64, &'a KernelEvent)>,
}

/// A mapping in the kernel.
#[derive(Clone, Copy)]
struct Mapping {
    unmapped: Option<u64>,
}

/// Why there is only one oracle, in some of the domains or for some of the questions. `None`: there
/// are two, or this Xen is simulated and has no kernels.
pub fn one_oracle(evidence: &Evidence) -> Option<String> {
    let why: Vec<String> = evidence
        .watched
        .iter()
        .filter_map(|watched| {
            let why = match Kernel::of(evidence, watched) {
                Err(why) => why,
                Ok(kernel) if kernel.counts.gaps_of_ends.is_empty() => return None,
                Ok(kernel) => {
                    let why = kernel.counts.gaps_of_ends.join(", ");
                    format!("incomplete for grants that end late: {why}")
                }
            };
            Some(format!("domain {}: {why}", watched.domain))
        })
        .collect();
    (!why.is_empty()).then(|| why.join("; "))
}

/// The comparisons, of the kernels that were seen whole. Of others nothing is said.
pub fn second_oracle(evidence: &Evidence) -> Vec<Check> {
    let mut kernels: Vec<Kernel<'_>> = evidence
        .watched
        .iter()
        .filter_map(|watched| Kernel::of(evidence, watched).ok())
        .collect();
    let mut checks: Vec<Check> = late_grants_have_ended(&kernels).into_iter().collect();
    // Where nobody maps there is nothing to agree on.
    kernels.retain(|kernel| !kernel.watched.mappers.is_empty());
    if !kernels.is_empty() {
        checks.extend([
            kernels_mapped_as_the_ledgers_say(evidence, &kernels),
            kernels_unmapped_as_the_ledgers_say(evidence, &kernels),
            kernels_released_before_it_was_told(evidence, &kernels),
            kernels_kept_what_was_held(evidence, &kernels),
        ]);
    }
    checks
}

impl<'a> Kernel<'a> {
    /// `Err`: its word is worth nothing, and why.
    fn of(evidence: &'a Evidence, watched: &'a Watched) -> Result<Kernel<'a>, String> {
        let events: Vec<(u64, &KernelEvent)> = evidence
            .records
            .iter()
            .filter(|record| record.process == watched.observer)
            .filter_map(|record| match &record.event {
                Event::Kernel(event) => Some((record.ns, event)),
                _ => None,
            })
            .collect();
        for (_, event) in &events {
            match event {
                KernelEvent::Unwatched { why } => return Err(why.clone()),
                KernelEvent::Counted(counts) if !counts.gaps.is_empty() => {
                    return Err(format!("incomplete: {}", counts.gaps.join(", ")));
                }
                _ => {}
            }
        }
        let counts = events.iter().find_map(|(_, event)| match event {
            KernelEvent::Counted(counts) => Some(counts),
            _ => None,
        });
        match counts {
            Some(counts) => Ok(Kernel {
                watched,
                counts,
                events,
            }),
            None => Err("incomplete: its observer did not come to its end".into()),
        }
    }

    /// What the ledgers of its mappers count in all, and the mappers whose ledgers nobody has seen:
    /// they were killed.
    fn ledgers(&self, evidence: &Evidence) -> (u64, u64, Vec<&'a str>) {
        let (mut mapped, mut given_back, mut unknown) = (0, 0, Vec::new());
        for name in &self.watched.mappers {
            let mut totals = evidence.totals.iter();
            match totals.find(|(process, _)| process == name) {
                Some((_, totals)) => {
                    mapped += totals.mapped;
                    given_back += totals.released + totals.untold;
                }
                None => unknown.push(name.as_str()),
            }
        }
        (mapped, given_back, unknown)
    }

    /// The mappings of each first page, in order.
    fn mappings(&self) -> HashMap<ForeignGrant, Vec<Mapping>> {
        let mut all: HashMap<ForeignGrant, Vec<Mapping>> = HashMap::new();
        for (ns, event) in &self.events {
            match event {
                KernelEvent::Mapped { first, .. } => {
                    let mapping = Mapping { unmapped: None };
                    all.entry(*first).or_default().push(mapping);
                }
                KernelEvent::Unmapped {
                    first: Some(first), ..
                } => {
                    let mappings = all.entry(*first).or_default();
                    let mut open = mappings.iter_mut().filter(|m| m.unmapped.is_none());
                    if let Some(mapping) = open.next() {
                        mapping.unmapped = Some(*ns);
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// The lives of its mappers' requests, by the grant of their first page, in order.
    fn lives(&self, evidence: &'a Evidence) -> HashMap<ForeignGrant, Vec<&'a RequestLife>> {
        let here: HashSet<(u64, u64)> = self
            .mapped_records(evidence, &|_| true)
            .map(|(ns, request, _)| (ns, request))
            .collect();
        let mut all: HashMap<ForeignGrant, Vec<&RequestLife>> = HashMap::new();
        for life in &evidence.lives {
            if let Some(first) = life.grants.first()
                && here.contains(&(life.mapped, life.request))
            {
                all.entry(*first).or_default().push(life);
            }
        }
        all
    }

    /// When its mappers have mapped, as which request, and how many pages.
    fn mapped_records<'e>(
        &self,
        evidence: &'e Evidence,
        who: &dyn Fn(&str) -> bool,
    ) -> impl Iterator<Item = (u64, u64, u64)> + use<'e> {
        let names: HashSet<String> = self
            .watched
            .mappers
            .iter()
            .filter(|name| who(name))
            .cloned()
            .collect();
        evidence
            .records
            .iter()
            .filter_map(move |record| match &record.event {
                Event::Mapped {
                    request, grants, ..
                } if names.contains(&record.process) => {
                    Some((record.ns, *request, grants.len() as u64))
                }
                _ => None,
            })
    }

    /// Each request's life with its mapping in the kernel. A grant whose mappings are not as many as
    /// its lives is left out: that is another check's finding.
    fn pairs(&self, evidence: &'a Evidence) -> Vec<(&'a RequestLife, Mapping)> {
        let mappings = self.mappings();
        let lives = self.lives(evidence).into_iter();
        lives
            .filter_map(|(first, lives)| Some((lives, mappings.get(&first)?)))
            .filter(|(lives, mappings)| lives.len() == mappings.len())
            .flat_map(|(lives, mappings)| lives.into_iter().zip(mappings.iter().copied()))
            .collect()
    }
}

fn kernels_mapped_as_the_ledgers_say(evidence: &Evidence, kernels: &[Kernel<'_>]) -> Check {
    const NAME: &str = "second oracle: the kernels mapped what the ledgers say";
    let (mut offenders, mut held) = (Vec::new(), Vec::new());
    for kernel in kernels {
        let domain = &kernel.watched.domain;
        let (ledgers, _, unknown) = kernel.ledgers(evidence);
        let mapped = kernel.counts.mapped;
        if unknown.is_empty() {
            if mapped != ledgers {
                offenders.push(format!(
                    "in domain {domain} the kernel mapped {mapped} pages, and the ledgers say {ledgers}{}",
                    first_difference(kernel, evidence)
                ));
            }
            held.push(format!("{domain}: {mapped} pages"));
            continue;
        }
        let killed = kernel.mapped_records(evidence, &|name| unknown.contains(&name));
        let least = ledgers + killed.map(|(_, _, pages)| pages).sum::<u64>();
        if mapped < least {
            offenders.push(format!(
                "in domain {domain} the kernel mapped {mapped} pages, and the ledgers and timelines say {least} at least"
            ));
        }
        let who = unknown.join(" and ");
        held.push(format!(
            "{domain}: {mapped} pages, of which {least} are known; {who} was killed"
        ));
    }
    Check::none(NAME, offenders, held.join("; "))
}

/// A grant that the kernel mapped more or less often than the timelines say.
fn first_difference(kernel: &Kernel<'_>, evidence: &Evidence) -> String {
    let mappings = kernel.mappings();
    let lives = kernel.lives(evidence);
    let differs = lives
        .iter()
        .map(|(first, lives)| (first, lives.len(), mappings.get(first).map_or(0, Vec::len)))
        .filter(|(_, lives, mappings)| lives != mappings)
        .min_by_key(|(first, ..)| **first);
    differs.map_or(String::new(), |(first, lives, mappings)| {
        format!("; what begins with {first} was mapped {mappings} times, and {lives} times by the timelines")
    })
}

fn kernels_unmapped_as_the_ledgers_say(evidence: &Evidence, kernels: &[Kernel<'_>]) -> Check {
    const NAME: &str =
        "second oracle: the kernels unmapped what the ledgers say, and put nothing off for ever";
    let (mut offenders, mut held) = (Vec::new(), Vec::new());
    for kernel in kernels {
        let domain = &kernel.watched.domain;
        let KernelCounts {
            mapped,
            unmapped,
            put_off,
            unfinished,
            ..
        } = kernel.counts;
        offenders.extend(
            unfinished
                .iter()
                .map(|what| format!("in domain {domain}: {what}")),
        );
        if unmapped != mapped {
            offenders.push(format!(
                "in domain {domain} the kernel unmapped {unmapped} of the {mapped} pages that it had mapped"
            ));
        }
        let (_, given_back, unknown) = kernel.ledgers(evidence);
        if unknown.is_empty() && *unmapped != given_back {
            offenders.push(format!(
                "in domain {domain} the kernel unmapped {unmapped} pages, and the ledgers say {given_back}"
            ));
        }
        held.push(format!(
            "{domain}: {unmapped} pages, {put_off} unmaps put off"
        ));
    }
    Check::none(NAME, offenders, held.join("; "))
}

fn kernels_released_before_it_was_told(evidence: &Evidence, kernels: &[Kernel<'_>]) -> Check {
    const NAME: &str = "second oracle: no release was told before the kernel's unmap";
    let slack = slack(evidence);
    let (mut offenders, mut compared) = (Vec::new(), 0);
    for kernel in kernels {
        for (life, mapping) in kernel.pairs(evidence) {
            let Some(told) = life.released else { continue };
            compared += 1;
            let domain = &kernel.watched.domain;
            let request = life.request;
            match mapping.unmapped {
                None => offenders.push(format!(
                    "request {request} was told to be released, and the kernel of domain {domain} did not unmap it"
                )),
                Some(at) if at > told.saturating_add(slack) => offenders.push(format!(
                    "request {request} was told to be released {} before the kernel of domain {domain} unmapped it",
                    spell(at - told)
                )),
                Some(_) => {}
            }
        }
    }
    Check::none(NAME, offenders, format!("{compared} requests, one by one"))
}

fn kernels_kept_what_was_held(evidence: &Evidence, kernels: &[Kernel<'_>]) -> Check {
    const NAME: &str =
        "second oracle: the kernels unmapped held pages when their holder had let go, and soon";
    let slack = slack(evidence);
    let (mut offenders, mut compared, mut longest) = (Vec::new(), 0, 0);
    for kernel in kernels {
        for (life, mapping) in kernel.pairs(evidence) {
            let (Some(began), Some(releasing), Some(at)) =
                (life.unmap_began, life.hold_releasing, mapping.unmapped)
            else {
                continue;
            };
            if !life.unmapped_while_held() {
                continue;
            }
            compared += 1;
            let request = life.request;
            if at.saturating_add(slack) < releasing {
                offenders.push(format!(
                    "the kernel unmapped request {request} {} before its holder began to let go",
                    spell(releasing - at)
                ));
            }
            // A holder that did not come to the end of its release let go in another way, nobody says when.
            let late = life
                .hold_released
                .map_or(0, |released| at.saturating_sub(released));
            let may_be = retry_gap(releasing.saturating_sub(began)).saturating_add(BUSY_NS);
            if late > may_be.saturating_add(slack) {
                offenders.push(format!(
                    "the kernel unmapped request {request} {} after its holder had let go",
                    spell(late)
                ));
            }
            longest = longest.max(late);
        }
    }
    let held = format!(
        "{compared} requests, {} late at most; {}",
        spell(longest),
        put_off(kernels)
    );
    Check::none(NAME, offenders, held)
}

/// The longest time that an unmap was put off for.
fn put_off(kernels: &[Kernel<'_>]) -> String {
    let times = kernels.iter().flat_map(|kernel| &kernel.events);
    let longest = times
        .filter_map(|(_, event)| match event {
            KernelEvent::Unmapped {
                after_ns,
                put_off: 1..,
                ..
            } => Some(*after_ns),
            _ => None,
        })
        .max();
    longest.map_or("no unmap was put off".into(), |ns| {
        format!("the longest unmap was put off for {}", spell(ns))
    })
}

/// `None`: no kernel's ends were all seen.
fn late_grants_have_ended(kernels: &[Kernel<'_>]) -> Option<Check> {
    const NAME: &str = "second oracle: every grant that could not end at once has ended";
    let (mut offenders, mut held) = (Vec::new(), Vec::new());
    let whole = |kernel: &&Kernel<'_>| kernel.counts.gaps_of_ends.is_empty();
    kernels.iter().find(whole)?;
    for kernel in kernels.iter().filter(whole) {
        let domain = &kernel.watched.domain;
        let late = kernel.counts.late.iter();
        offenders.extend(late.map(|gref| format!("{gref} of domain {domain} has not")));
        let freed = || {
            let events = kernel.events.iter();
            events.filter_map(|(_, event)| match event {
                KernelEvent::FreedLate { after_ns, .. } => Some(*after_ns),
                _ => None,
            })
        };
        if let Some(longest) = freed().max() {
            let (grants, longest) = (freed().count(), spell(longest));
            held.push(format!(
                "{domain}: {grants}, the last of them {longest} late"
            ));
        }
    }
    if held.is_empty() {
        held.push("none was late".into());
    }
    Some(Check::none(NAME, offenders, held.join("; ")))
}

/// Two files of one domain come over at different moments, and its clock is better known at the
/// later one.
fn slack(evidence: &Evidence) -> u64 {
    evidence.clock_uncertainty_ns.saturating_add(ROUNDED_NS)
}

/// The kernel looks 5 ms · age apart at what is held, so about this long before it notices the end of
/// a hold of that time; twice that, for the wait may begin right before.
fn retry_gap(held_ns: u64) -> u64 {
    (2.0 * (1e7 * held_ns as f64).sqrt()) as u64
}

#[cfg(test)]
mod tests;
