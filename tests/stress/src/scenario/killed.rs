//! SIGKILL in mid-I/O: the others notice, recover or close cleanly; nothing acknowledged is lost;
//! nothing stays granted.

use super::pair::{moment, place};
use super::stage::{Device, Stage};
use super::{Judge, Scenario};
use crate::role::{Carriage, Freeze, Lending, Transfer};
use pv_harness::processes::{ChildId, Point, Stopped};
use pv_harness::settings::HoldName;
use pv_judges::checks::{
    Check, Evidence, every_write_is_kept, ledgers_are_empty, no_deadlock, released_by_death,
    same_data, was_killed_in_mid_io, was_noticed, work_went_on_after,
};
use std::io;

/// Enough to be in the middle of.
const AT_LEAST: u64 = 16 << 20;
/// Held when the consumer is killed.
const AT_ONCE: u64 = 4;

pub struct BackendKilled;
pub struct FrontendKilled;
pub struct ConsumerKilled;

/// How front ends carry the input here.
const CARRIAGE: Carriage = Carriage {
    at_least: AT_LEAST,
    persistent: false,
    check_release: false,
    freeze: None,
};

/// A host, a device, and how much goes through it.
fn prepare(stage: &mut Stage<'_>) -> Result<(Device, u64), Stopped> {
    stage.start_host()?;
    let bytes = stage.input_bytes(AT_LEAST)?;
    Ok((stage.create_device(0, bytes)?, bytes))
}

/// Kills an end at the place where it was told to stand still. Returns when that was.
fn kill_at_its_place(
    stage: &mut Stage<'_>,
    victim: ChildId,
    place: Freeze,
) -> Result<u64, Stopped> {
    stage.await_frozen(victim)?;
    let Freeze { at, after } = place;
    stage.figure("killed when", format!("{at}, after {after} requests"));
    stage.kill(victim)
}

/// What the image holds of what a front end saw acknowledged so far.
fn kept_so_far(stage: &Stage<'_>, front: &str, device: &Device) -> Result<Check, Stopped> {
    let records = stage.records_so_far(front)?;
    Ok(every_write_is_kept(&records, |offset, bytes| {
        let digest = stage.image_digest(device, offset, bytes);
        digest.map_err(|error| io::Error::other(error.to_string()))
    }))
}

impl Scenario for BackendKilled {
    fn name(&self) -> &'static str {
        "backend-killed"
    }

    fn summary(&self) -> &'static str {
        "the back end is killed in mid-I/O: the front end waits for another one and loses nothing"
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        let (device, bytes) = prepare(stage)?;
        let place = place(stage.settings.seed, &Point::BACK, bytes);
        let first = stage.start_back_end("back-end", &device, Transfer::Map, None, Some(place))?;
        let front = stage.start_front_end("front-end", &device, CARRIAGE)?;
        let killed_at = kill_at_its_place(stage, first, place)?;
        stage.await_back_end_gone(front)?;
        // What was acknowledged must be there before anybody has had a chance to write it again.
        let at_death = kept_so_far(stage, "front-end", &device)?;
        let second = stage.start_back_end("back-end-2", &device, Transfer::Map, None, None)?;
        let sent = stage.await_sent(front)?;
        let read_back = stage.await_read_back(front)?;
        stage.stop(front)?;
        stage.stop(second)?;
        let at_end = kept_so_far(stage, "front-end", &device)?;
        let image = stage.image_digest(&device, 0, bytes)?;
        Ok(Box::new(move |evidence: &Evidence| {
            vec![
                was_killed_in_mid_io(evidence, killed_at),
                was_noticed(evidence, "front-end", killed_at),
                named("when it was dead: ", at_death),
                work_went_on_after(evidence, killed_at),
                named("at the end: ", at_end),
                same_data("what came back", &sent, Some(&read_back)),
                same_data("what is on the image", &sent, Some(&image)),
                ledgers_are_empty(evidence),
                no_deadlock(evidence),
            ]
        }))
    }
}

impl Scenario for FrontendKilled {
    fn name(&self) -> &'static str {
        "frontend-killed"
    }

    fn summary(&self) -> &'static str {
        "the front end is killed in mid-I/O: the back end closes its device cleanly and serves the next one"
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        let (device, bytes) = prepare(stage)?;
        let place = place(stage.settings.seed, &Point::FRONT, bytes);
        let back = stage.start_back_end("back-end", &device, Transfer::Map, None, None)?;
        let frozen = Carriage {
            freeze: Some(place),
            ..CARRIAGE
        };
        let first = stage.start_front_end("front-end", &device, frozen)?;
        let killed_at = kill_at_its_place(stage, first, place)?;
        stage.await_closed(back)?;
        let at_death = kept_so_far(stage, "front-end", &device)?;
        let second = stage.start_front_end("front-end-2", &device, CARRIAGE)?;
        let sent = stage.await_sent(second)?;
        let read_back = stage.await_read_back(second)?;
        stage.stop(second)?;
        stage.stop(back)?;
        let image = stage.image_digest(&device, 0, bytes)?;
        Ok(Box::new(move |evidence: &Evidence| {
            vec![
                was_killed_in_mid_io(evidence, killed_at),
                was_noticed(evidence, "back-end", killed_at),
                named("when it was dead: ", at_death),
                work_went_on_after(evidence, killed_at),
                same_data("what the next front end got back", &sent, Some(&read_back)),
                same_data("what is on the image", &sent, Some(&image)),
                ledgers_are_empty(evidence),
                no_deadlock(evidence),
            ]
        }))
    }
}

impl Scenario for ConsumerKilled {
    fn name(&self) -> &'static str {
        "consumer-killed"
    }

    fn summary(&self) -> &'static str {
        "the third consumer is killed while it holds pages: they are released, and the pair goes on"
    }

    fn holds(&self) -> bool {
        true
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        let (device, bytes) = prepare(stage)?;
        let hold = stage.settings.hold.unwrap_or(HoldName::Pin);
        // Longer than the run: only its death lets go.
        let consumer = stage.start_consumer(hold, 2 * stage.settings.deadline, false)?;
        let lending = Lending {
            hold,
            at_once: AT_ONCE as usize,
            in_all: AT_ONCE,
        };
        let back = stage.start_back_end("back-end", &device, Transfer::Map, Some(lending), None)?;
        let carriage = Carriage {
            check_release: true,
            ..CARRIAGE
        };
        let front = stage.start_front_end("front-end", &device, carriage)?;
        // The file is written first, and some holders can hold only the pages that it is read into.
        // It comes back in order, so that nothing more comes while its first pages are held.
        let at = if hold.needs_writable() {
            bytes
        } else {
            moment(stage.settings.seed, bytes)
        };
        stage.await_progress(front, at)?;
        stage.await_holds(consumer, AT_ONCE)?;
        stage.figure("killed after", format!("{:.1} MB", at as f64 / 1e6));
        let killed_at = stage.kill(consumer)?;
        // It cannot remove its socket any more.
        stage.remove_consumer_socket()?;
        let sent = stage.await_sent(front)?;
        let read_back = stage.await_read_back(front)?;
        stage.stop(front)?;
        stage.stop(back)?;
        let at_end = kept_so_far(stage, "front-end", &device)?;
        Ok(Box::new(move |evidence: &Evidence| {
            vec![
                was_killed_in_mid_io(evidence, killed_at),
                was_noticed(evidence, "back-end", killed_at),
                released_by_death(evidence, killed_at),
                work_went_on_after(evidence, killed_at),
                at_end,
                same_data("what came back", &sent, Some(&read_back)),
                ledgers_are_empty(evidence),
                no_deadlock(evidence),
            ]
        }))
    }
}

fn named(when: &str, mut check: Check) -> Check {
    check.name.insert_str(0, when);
    check
}
