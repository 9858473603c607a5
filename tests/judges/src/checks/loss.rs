//! Data: what went through must come out the same, and what was acknowledged must be kept.

use super::{Check, Evidence, spell};
use libgnt::inspect::Inspection;
use pv_harness::timeline::{Event, IoKind, Record};
use std::collections::{HashMap, HashSet};
use std::io;

/// The same digest at both ends.
pub fn same_data(what: &str, expected: &str, found: Option<&str>) -> Check {
    let name = format!("{what} is the input, byte for byte");
    match found {
        Some(found) if found == expected => Check::pass(&name, format!("SHA-256 {expected}")),
        Some(found) => Check::fail(&name, format!("SHA-256 {found} instead of {expected}")),
        None => Check::fail(&name, "there is none"),
    }
}

/// Every write that the front end saw acknowledged is on the image, unless a later one covers it.
///
/// `digest` gives the SHA-256 of so many bytes of the image at a byte offset.
pub fn every_write_is_kept(
    records: &[Record],
    mut digest: impl FnMut(u64, u64) -> io::Result<String>,
) -> Check {
    const NAME: &str = "no acknowledged write is lost";
    let writes = writes(records);
    let mut judged = 0;
    let mut lost = Vec::new();
    for (at, write) in writes.iter().enumerate() {
        // A later write to the same place may have reached the disk without an answer.
        if !write.acknowledged || writes[at + 1..].iter().any(|later| later.overlaps(write)) {
            continue;
        }
        judged += 1;
        match digest(write.offset, write.bytes) {
            Ok(found) if found == write.sha => {}
            Ok(_) => lost.push(format!(
                "request {} was acknowledged, and its {} bytes at {} are not on the image",
                write.request, write.bytes, write.offset
            )),
            Err(error) => lost.push(format!(
                "the image cannot be read at {}: {error}",
                write.offset
            )),
        }
    }
    if judged == 0 {
        return Check::fail(NAME, "no write was acknowledged, so nothing is shown");
    }
    Check::none(
        NAME,
        lost,
        format!("{judged} acknowledged writes are on the image"),
    )
}

#[derive(Debug)]
struct Write {
    request: u64,
    offset: u64,
    bytes: u64,
    sha: String,
    acknowledged: bool,
}

impl Write {
    fn overlaps(&self, other: &Write) -> bool {
        self.offset < other.offset + other.bytes && other.offset < self.offset + self.bytes
    }
}

/// All writes in the order of their first submission.
fn writes(records: &[Record]) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    let mut index: HashMap<(u32, u64), usize> = HashMap::new();
    for record in records {
        match &record.event {
            Event::Submitted {
                request,
                kind: IoKind::Write,
                sector,
                bytes,
                sha: Some(sha),
                ..
            } => {
                index.entry((record.pid, *request)).or_insert_with(|| {
                    writes.push(Write {
                        request: *request,
                        offset: sector * 512,
                        bytes: *bytes,
                        sha: sha.clone(),
                        acknowledged: false,
                    });
                    writes.len() - 1
                });
            }
            Event::Acknowledged { request } => {
                if let Some(&at) = index.get(&(record.pid, *request)) {
                    writes[at].acknowledged = true;
                }
            }
            _ => {}
        }
    }
    writes
}

/// The process was killed while requests were under way, and not before or after the work.
pub fn was_killed_in_mid_io(evidence: &Evidence, killed_at: u64) -> Check {
    const NAME: &str = "killed in mid-I/O";
    let mut open: HashSet<(u32, u64)> = HashSet::new();
    let mut done = 0;
    for record in evidence
        .records
        .iter()
        .take_while(|record| record.ns < killed_at)
    {
        match &record.event {
            Event::Submitted { request, .. } => {
                open.insert((record.pid, *request));
            }
            Event::Acknowledged { request } => {
                open.remove(&(record.pid, *request));
                done += 1;
            }
            _ => {}
        }
    }
    let detail = format!("{done} requests done, {} under way", open.len());
    if open.is_empty() || done == 0 {
        return Check::fail(NAME, detail);
    }
    Check::pass(NAME, detail)
}

/// The survivors served requests after the kill.
pub fn work_went_on_after(evidence: &Evidence, killed_at: u64) -> Check {
    const NAME: &str = "work went on after the kill";
    let done = evidence
        .records
        .iter()
        .filter(|r| r.ns > killed_at && matches!(r.event, Event::Acknowledged { .. }))
        .count();
    let unmaps = evidence
        .inspection
        .as_ref()
        .map_or(0, |i: &Inspection| i.unmaps);
    if done == 0 {
        return Check::fail(NAME, "no request was acknowledged after it");
    }
    Check::pass(NAME, format!("{done} requests; {unmaps} unmaps in all"))
}

/// A survivor recorded, after the kill, that somebody was gone.
pub fn was_noticed(evidence: &Evidence, by: &str, killed_at: u64) -> Check {
    let name = format!("the {by} noticed");
    let noticed = evidence
        .records
        .iter()
        .find_map(|record| match &record.event {
            Event::PeerLost { how } if record.process == by && record.ns >= killed_at => {
                Some((record.ns - killed_at, how))
            }
            _ => None,
        });
    match noticed {
        Some((after, how)) => Check::pass(&name, format!("after {}: {how}", spell(after))),
        None => Check::fail(&name, "it never recorded that anybody was gone"),
    }
}

/// What the consumer held when it was killed was released by that, not before, and all of it.
pub fn released_by_death(evidence: &Evidence, killed_at: u64) -> Check {
    const NAME: &str = "what it held was released by its death";
    let held = || {
        evidence
            .lives
            .iter()
            .filter(|life| life.held.is_some() && life.hold_releasing.is_none())
    };
    let offenders = held()
        .filter_map(|life| match life.released {
            None => Some(format!("request {} was never released", life.request)),
            Some(at) if at < killed_at => Some(format!(
                "request {} was released {} before, under its holder",
                life.request,
                spell(killed_at - at)
            )),
            Some(_) => None,
        })
        .collect();
    if held().count() == 0 {
        return Check::fail(NAME, "it held nothing");
    }
    let longest = held()
        .filter_map(|life| life.released)
        .max()
        .unwrap_or(killed_at);
    let after = spell(longest.saturating_sub(killed_at));
    Check::none(
        NAME,
        offenders,
        format!("{} requests, the last after {after}", held().count()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture::{evidence, good, spoiled, with_life};

    /// The image of the fixture: request 1 wrote sector 8, 2 sector 16, 3 sector 24.
    fn image(offset: u64, bytes: u64) -> io::Result<String> {
        assert_eq!(bytes, 4096);
        Ok(format!("sha {}", offset / 4096))
    }

    #[test]
    fn kept_writes_pass() {
        let check = every_write_is_kept(&good(), image);
        assert!(check.passed, "{check:?}");
        assert!(check.detail.starts_with("3 "));
    }

    #[test]
    fn a_lost_write_is_seen() {
        let check = every_write_is_kept(&good(), |offset, bytes| match offset {
            8192 => Ok("zeros".into()),
            _ => image(offset, bytes),
        });
        assert!(
            !check.passed && check.detail.contains("request 2"),
            "{check:?}"
        );
        let check = every_write_is_kept(&good(), |_, _| Err(io::ErrorKind::UnexpectedEof.into()));
        assert!(!check.passed);
    }

    #[test]
    fn only_what_was_acknowledged_and_not_covered_counts() {
        let mut records = good();
        records.retain(|r| !matches!(r.event, Event::Acknowledged { request: 2 }));
        let without_2 = |offset, bytes| match offset {
            8192 => Ok("zeros".into()),
            _ => image(offset, bytes),
        };
        assert!(every_write_is_kept(&records, without_2).passed);
        // Request 3 now covers request 1.
        let mut records = good();
        for record in &mut records {
            if let Event::Submitted {
                request: 3, sector, ..
            } = &mut record.event
            {
                *sector = 8;
            }
        }
        let covered = |offset, bytes| match offset {
            4096 => Ok("sha 3".into()),
            _ => image(offset, bytes),
        };
        assert!(every_write_is_kept(&records, covered).passed);
        assert!(!every_write_is_kept(&[], image).passed, "nothing is shown");
    }

    #[test]
    fn a_request_submitted_again_is_one_write() {
        let mut records = good();
        let mut again = records[0].clone();
        again.ns = 115;
        records.insert(19, again);
        assert!(every_write_is_kept(&records, image).passed);
    }

    #[test]
    fn other_data_is_seen() {
        assert!(same_data("the copy", "a", Some("a")).passed);
        assert!(!same_data("the copy", "a", Some("b")).passed);
        assert!(!same_data("the copy", "a", None).passed);
    }

    #[test]
    fn a_kill_outside_the_work_is_seen() {
        assert!(was_killed_in_mid_io(&evidence(), 100).passed);
        assert!(
            !was_killed_in_mid_io(&evidence(), 70).passed,
            "nothing done yet"
        );
        assert!(
            !was_killed_in_mid_io(&evidence(), 150).passed,
            "nothing under way"
        );
    }

    #[test]
    fn a_death_that_nobody_notices_is_seen() {
        let lost = |at| {
            spoiled(move |records| {
                let event = Event::PeerLost {
                    how: "its byte is 0".into(),
                };
                records.push(Record {
                    ns: at,
                    process: "front-end".into(),
                    pid: 1,
                    event,
                });
            })
        };
        assert!(was_noticed(&lost(101), "front-end", 100).passed);
        assert!(
            !was_noticed(&lost(99), "front-end", 100).passed,
            "before the kill"
        );
        assert!(!was_noticed(&lost(101), "back-end", 100).passed);
        assert!(!was_noticed(&evidence(), "front-end", 100).passed);
    }

    #[test]
    fn a_hold_that_outlives_its_owner_is_seen() {
        let dead = |released| {
            with_life(move |life| {
                life.hold_releasing = None;
                life.released = released;
            })
        };
        assert!(released_by_death(&dead(Some(101)), 100).passed);
        assert!(!released_by_death(&dead(None), 100).passed);
        assert!(
            !released_by_death(&dead(Some(99)), 100).passed,
            "under its holder"
        );
        assert!(
            !released_by_death(&evidence(), 100).passed,
            "it held nothing"
        );
    }

    #[test]
    fn a_standstill_after_the_kill_is_seen() {
        assert!(work_went_on_after(&evidence(), 130).passed);
        assert!(!work_went_on_after(&spoiled(|_| {}), 141).passed);
    }
}
