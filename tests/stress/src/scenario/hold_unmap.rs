//! The third consumer holds pages of requests whose unmap has been called: everything else goes on,
//! and the pages are given back and used again only when it has let go. And the same on kernels
//! that wait inside munmap, where it is a deadlock.

use super::stage::Stage;
use super::{Judge, Scenario};
use crate::role::{Carriage, Lending, Transfer};
use pv_harness::processes::Stopped;
use pv_harness::settings::{Guest, HoldName, Unmap};
use pv_harness::timeline::Event;
use pv_judges::checks::{
    Check, Evidence, answered_after_release, cycle_is_explained, held_pages_stay, io_goes_on,
    learns_by_event, ledgers_are_empty, no_deadlock, no_possible_cycle, released_after_holder,
    reused_after_release, same_data, unmaps_return_while_held, was_held_while_unmapping,
};

/// Held at once: well below the unmaps that a back end lets be outstanding.
const AT_ONCE: usize = 4;
/// Held in all, so that a run takes a few times --hold-for, whatever the input.
const IN_ALL: u64 = 12;
/// The same where each stops the back end for its time.
const IN_ALL_SYNC: u64 = 2;
/// So that something goes on beside what is held, whatever the input.
const AT_LEAST: u64 = 4 << 20;

pub struct HoldUnmap;

impl Scenario for HoldUnmap {
    fn name(&self) -> &'static str {
        "hold-unmap"
    }

    fn summary(&self) -> &'static str {
        "a third process holds pages that are being unmapped: unmaps return at once, I/O goes on, pages are reused only after it lets go"
    }

    fn holds(&self) -> bool {
        true
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        let unmap = stage.settings.unmap;
        let Carried {
            sent,
            read_back,
            image,
            event_reads,
        } = carry_while_held(stage, unmap, stage.guest())?;
        Ok(Box::new(move |evidence: &Evidence| {
            vec![
                was_held_while_unmapping(evidence),
                unmaps_return_while_held(evidence),
                io_goes_on(evidence),
                released_after_holder(evidence),
                answered_after_release(evidence),
                learns_by_event(evidence, event_reads),
                reused_after_release(evidence),
                held_pages_stay(evidence),
                same_data("what came back", &sent, Some(&read_back)),
                same_data("what is on the image", &sent, Some(&image)),
                ledgers_are_empty(evidence),
                no_deadlock(evidence),
                no_possible_cycle(evidence, unmap),
            ]
        }))
    }
}

pub struct HoldUnmapSync;

impl Scenario for HoldUnmapSync {
    fn name(&self) -> &'static str {
        "hold-unmap-sync"
    }

    fn summary(&self) -> &'static str {
        "the negative control: with an unmap that waits, the deadlock of QubesOS/qubes-issues#7481 happens, is found and explained"
    }

    fn only_simulated(&self) -> Option<&'static str> {
        Some("a real kernel does not break the cycle; run hold-unmap on one whose unmap waits")
    }

    fn wants_deadlock(&self) -> bool {
        true
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        let Carried {
            sent, read_back, ..
        } = carry_while_held(stage, Unmap::Sync, Guest::Pv)?;
        Ok(Box::new(move |evidence: &Evidence| {
            vec![
                cycle_is_explained(evidence),
                unmap_says_why_it_failed(evidence),
                same_data(
                    "after the cycle was broken, what came back",
                    &sent,
                    Some(&read_back),
                ),
                ledgers_are_empty(evidence),
            ]
        }))
    }
}

/// Digests of what went where, and how often the front end read events.
struct Carried {
    sent: String,
    read_back: String,
    image: String,
    event_reads: u64,
}

/// Runs the pair with a consumer that holds.
fn carry_while_held(stage: &mut Stage<'_>, unmap: Unmap, guest: Guest) -> Result<Carried, Stopped> {
    // i915 is who met this, and in the async mode it has to do as well as a plain pin.
    let hold = stage.settings.hold.unwrap_or(HoldName::I915);
    let in_all = match unmap {
        Unmap::Async => IN_ALL,
        Unmap::Sync => IN_ALL_SYNC,
    };
    stage.start_host_with(unmap, guest)?;
    let bytes = stage.input_bytes(AT_LEAST)?;
    let device = stage.create_device(0, bytes)?;
    // On the simulated Xen i915's own rule makes the cycle; real holders that a program has do not
    // wait for anybody, so the consumer does.
    let until_unmapped = !hold.is_simulated();
    let consumer = stage.start_consumer(hold, stage.settings.hold_for, until_unmapped)?;
    let lending = Lending {
        hold,
        at_once: AT_ONCE,
        in_all,
    };
    let back = stage.start_back_end("back-end", &device, Transfer::Map, Some(lending), None)?;
    let carriage = Carriage {
        at_least: AT_LEAST,
        check_release: true,
        ..Carriage::default()
    };
    let front = stage.start_front_end("front-end", &device, carriage)?;
    let sent = stage.await_sent(front)?;
    let read_back = stage.await_read_back(front)?;
    let event_reads = stage.await_event_reads(front)?;
    stage.stop(front)?;
    stage.stop(back)?;
    stage.stop(consumer)?;
    let image = stage.image_digest(&device, 0, bytes)?;
    Ok(Carried {
        sent,
        read_back,
        image,
        event_reads,
    })
}

/// The call that was part of the cycle returned, with the cycle as its error.
fn unmap_says_why_it_failed(evidence: &Evidence) -> Check {
    const NAME: &str = "the unmap call returned with the deadlock as its error";
    let errors = evidence
        .records
        .iter()
        .filter_map(|record| match &record.event {
            Event::UnmapReturned {
                error: Some(error), ..
            } => Some(error),
            Event::UnmapFailed { error } => Some(error),
            _ => None,
        });
    match errors.into_iter().find(|error| error.contains("deadlock")) {
        Some(error) => Check::pass(NAME, error.clone()),
        None => Check::fail(NAME, "no unmap reported one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_judges::checks::fixture::{evidence, spoiled};

    #[test]
    fn an_unmap_that_never_says_why_is_seen() {
        assert!(!unmap_says_why_it_failed(&evidence()).passed);
        let told = spoiled(|records| {
            for record in records {
                if let Event::UnmapReturned { error, .. } = &mut record.event {
                    *error = Some("deadlock: a waits for b; b waits for a".into());
                }
            }
        });
        assert!(unmap_says_why_it_failed(&told).passed);
    }
}
