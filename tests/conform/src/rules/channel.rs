//! evtchn: delivery, masking, and the driver's queue.

use crate::bench::Bench;
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::things::{Bell, PATIENCE, QUIET, must, refused, same};
use libgnt::EvtchnPort;
use pv_harness::hand::channel::{heard, polled, readable};
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::time::Duration;

const DELIVER: &str = "drivers/xen/evtchn.c: evtchn_interrupt, evtchn_write";
const NOTIFY: &str = "drivers/xen/evtchn.c: evtchn_ioctl (NOTIFY)";
const SEND: &str = "xen/common/event_channel.c: evtchn_send";
const QUEUE: &str = "drivers/xen/evtchn.c: evtchn_interrupt, evtchn_read (ring_overflow)";

/// What the queue of a file with few ports has room for.
const QUEUE_LENGTH: usize = 64;

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "read-of-nothing-is-eagain",
        "A file without events does not poll readable, and a read of it gives nothing.",
        "drivers/xen/evtchn.c: evtchn_read, evtchn_poll",
        nothing,
    ),
    Rule::new(
        "event-makes-the-file-readable",
        "The file polls readable from an event on until it is read.",
        "drivers/xen/evtchn.c: evtchn_poll",
        makes_readable,
    ),
    Rule::new(
        "events-before-the-read-are-one",
        "However often a port was raised before it is read, it is read once.",
        DELIVER,
        one,
    ),
    Rule::new(
        "delivered-port-is-masked",
        "After its delivery a port is not delivered again before it is written back.",
        DELIVER,
        masked,
    ),
    Rule::new(
        "number-used-again-starts-without-a-past",
        "A new port that gets the number of a closed one is pending and not masked, whatever the closed one was.",
        "xen/common/event_channel.c: evtchn_free; drivers/xen/evtchn.c: evtchn_bind_to_user",
        used_again,
    ),
    Rule::new(
        "unmask-delivers-what-came-meanwhile",
        "An event that came while the port was masked is delivered after the unmask, once.",
        DELIVER,
        meanwhile,
    ),
    Rule::new(
        "unmask-without-an-event-delivers-nothing",
        "Writing a port back does not raise it.",
        DELIVER,
        no_event,
    ),
    Rule::new(
        "unmask-of-a-strange-port-is-ignored",
        "Writing a port that is not the file's succeeds, and changes nothing.",
        "drivers/xen/evtchn.c: evtchn_write",
        strange_unmask,
    ),
    Rule::new(
        "ports-are-masked-one-by-one",
        "A masked port keeps no other from being delivered.",
        DELIVER,
        one_by_one,
    ),
    Rule::new(
        "many-ports-in-one-read",
        "Events of many ports are read together, each once.",
        "drivers/xen/evtchn.c: evtchn_read, evtchn_resize_ring",
        many_ports,
    ),
    Rule::new(
        "notify-of-a-strange-port-is-enotconn",
        "NOTIFY is ENOTCONN for a port that is not bound through this file, however high.",
        NOTIFY,
        strange_notify,
    ),
    Rule::new(
        "notify-without-a-peer-is-silent",
        "NOTIFY of an unbound port succeeds, also after the peer unbound; nobody hears it.",
        SEND,
        without_a_peer,
    ),
    Rule::new(
        "notify-of-an-offered-port-is-not-kept",
        "What was sent before the peer bound is lost; the peer's port starts pending instead.",
        SEND,
        not_kept,
    ),
    Rule::new(
        "reset-forgets-the-queue",
        "RESET drops what was delivered and not read; those ports stay masked until written back.",
        "drivers/xen/evtchn.c: evtchn_ioctl (RESET)",
        reset,
    ),
    Rule::new(
        "unmask-before-read-queues-twice",
        "A port written back before it was read is queued again by the next event.",
        QUEUE,
        queued_twice,
    ),
    Rule::new(
        "queue-overflow-is-efbig",
        "An event that finds the queue full makes every read fail with EFBIG, until RESET.",
        QUEUE,
        overflow,
    ),
    Rule::new(
        "queue-overflow-polls-as-an-error",
        "After an overflow poll says error, and nothing else.",
        "drivers/xen/evtchn.c: evtchn_poll",
        overflow_poll,
    )
    .but_the_sim("the simulator's file is an eventfd, which polls readable; read then says EFBIG"),
];

fn nothing(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    must("it is not readable", !readable(&*bell.file, QUIET)?)?;
    let mut ports = Vec::new();
    same("ports read", bell.file.read(&mut ports)?, 0)
}

fn makes_readable(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    bell.file.notify(bell.near)?;
    must("it is readable", readable(&*bell.file, PATIENCE)?)?;
    must("it stays so", readable(&*bell.file, Duration::ZERO)?)?;
    same("the event", heard(&*bell.file, PATIENCE)?, vec![bell.far])?;
    must("it is not readable", !readable(&*bell.file, QUIET)?)
}

fn one(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    for _ in 0..20 {
        bell.file.notify(bell.near)?;
    }
    same(
        "what is read",
        heard(&*bell.file, PATIENCE)?,
        vec![bell.far],
    )
}

fn masked(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    bell.file.notify(bell.near)?;
    same("the event", heard(&*bell.file, PATIENCE)?, vec![bell.far])?;
    bell.file.notify(bell.near)?;
    same("while masked", heard(&*bell.file, QUIET)?, vec![])
}

fn used_again(bench: &Bench) -> Outcome {
    let own = bench.own();
    let bell = Bell::new(bench.platform(), own)?;
    for _ in 0..20 {
        let far = bell.file.bind_unbound(own)?;
        let near = bell.file.bind_interdomain(own, far)?;
        same("the new port", heard(&*bell.file, PATIENCE)?, vec![near])?;
        // One is closed masked, the other masked and pending.
        bell.file.notify(near)?;
        same("the event", heard(&*bell.file, PATIENCE)?, vec![far])?;
        bell.file.notify(near)?;
        bell.file.unbind(near)?;
        bell.file.unbind(far)?;
        same(
            "after the unbind",
            heard(&*bell.file, Duration::ZERO)?,
            vec![],
        )?;
    }
    Ok(())
}

fn meanwhile(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    bell.file.notify(bell.near)?;
    same("the event", heard(&*bell.file, PATIENCE)?, vec![bell.far])?;
    for _ in 0..3 {
        bell.file.notify(bell.near)?;
    }
    bell.file.unmask(&[bell.far])?;
    same(
        "after the unmask",
        heard(&*bell.file, PATIENCE)?,
        vec![bell.far],
    )?;
    bell.file.unmask(&[bell.far])?;
    same("after one more", heard(&*bell.file, QUIET)?, vec![])
}

fn no_event(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    bell.file.unmask(&[bell.far, bell.near])?;
    same("after an unmask", heard(&*bell.file, QUIET)?, vec![])
}

fn strange_unmask(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let other = Bell::new(bench.platform(), bench.own())?;
    bell.file.notify(bell.near)?;
    same("the event", heard(&*bell.file, PATIENCE)?, vec![bell.far])?;
    let strange = [
        bell.far,
        EvtchnPort(0),
        EvtchnPort(900),
        EvtchnPort(u32::MAX),
    ];
    other.file.unmask(&strange)?;
    bell.file.notify(bell.near)?;
    same("still masked", heard(&*bell.file, QUIET)?, vec![])
}

fn one_by_one(bench: &Bench) -> Outcome {
    let own = bench.own();
    let bell = Bell::new(bench.platform(), own)?;
    let far = bell.file.bind_unbound(own)?;
    let near = bell.file.bind_interdomain(own, far)?;
    same("the new port", heard(&*bell.file, PATIENCE)?, vec![near])?;
    bell.file.notify(bell.near)?;
    same("the first", heard(&*bell.file, PATIENCE)?, vec![bell.far])?;
    bell.file.notify(bell.near)?;
    bell.file.notify(near)?;
    same("the second", heard(&*bell.file, PATIENCE)?, vec![far])
}

fn many_ports(bench: &Bench) -> Outcome {
    let own = bench.own();
    let ear = bench.platform().open_evtchn()?;
    let mouth = bench.platform().open_evtchn()?;
    let mut fars = Vec::new();
    let mut nears = Vec::new();
    // More than the driver's first queue has room for.
    for _ in 0..3 * QUEUE_LENGTH / 2 {
        let far = ear.bind_unbound(own)?;
        nears.push(mouth.bind_interdomain(own, far)?);
        fars.push(far);
    }
    for near in &nears {
        mouth.notify(*near)?;
    }
    let mut ports = Vec::new();
    while ports.len() < fars.len() {
        let more = heard(&*ear, PATIENCE)?;
        must(
            &format!("{} of {} came", ports.len(), fars.len()),
            !more.is_empty(),
        )?;
        ports.extend(more);
    }
    ports.sort();
    fars.sort();
    same("the ports", ports, fars)
}

fn strange_notify(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let other = bench.platform().open_evtchn()?;
    for port in [
        bell.near,
        EvtchnPort(0),
        EvtchnPort(900),
        EvtchnPort(u32::MAX),
    ] {
        refused(&format!("{port}"), other.notify(port), Errno::NOTCONN)?;
    }
    Ok(())
}

fn without_a_peer(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let alone = bell.file.bind_unbound(bench.peer_id())?;
    bell.file.notify(alone)?;
    bell.file.unbind(bell.far)?;
    bell.file.notify(bell.near)?;
    same("what is heard", heard(&*bell.file, QUIET)?, vec![])
}

fn not_kept(bench: &Bench) -> Outcome {
    let own = bench.own();
    let ear = bench.platform().open_evtchn()?;
    let file = bench.platform().open_evtchn()?;
    let offered = file.bind_unbound(own)?;
    file.notify(offered)?;
    let bound = ear.bind_interdomain(own, offered)?;
    same("the new port", heard(&*ear, PATIENCE)?, vec![bound])?;
    ear.unmask(&[bound])?;
    same("no second event", heard(&*ear, QUIET)?, vec![])
}

fn reset(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    bell.file.notify(bell.near)?;
    must("it is readable", readable(&*bell.file, PATIENCE)?)?;
    bell.file.reset()?;
    same("after the reset", heard(&*bell.file, QUIET)?, vec![])?;
    bell.file.notify(bell.near)?;
    same("still masked", heard(&*bell.file, QUIET)?, vec![])?;
    bell.file.unmask(&[bell.far])?;
    same(
        "after the unmask",
        heard(&*bell.file, PATIENCE)?,
        vec![bell.far],
    )
}

/// Raises the bell and writes its port back without reading it.
fn raise_unread(bell: &Bell) -> Outcome {
    bell.file.notify(bell.near)?;
    must("it is readable", readable(&*bell.file, PATIENCE)?)?;
    bell.file.unmask(&[bell.far])?;
    Ok(())
}

fn queued_twice(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    raise_unread(&bell)?;
    bell.file.notify(bell.near)?;
    // The second one is on its way.
    std::thread::sleep(QUIET);
    let ports = heard(&*bell.file, PATIENCE)?;
    same("what is read", ports, vec![bell.far, bell.far])
}

/// One entry more than the queue has room for.
fn overflowed(bench: &Bench) -> Outcome<Bell> {
    let bell = Bell::new(bench.platform(), bench.own())?;
    for _ in 0..QUEUE_LENGTH {
        raise_unread(&bell)?;
        // The queue says nothing of a second entry, so give the interrupt its time.
        std::thread::sleep(Duration::from_millis(2));
    }
    bell.file.notify(bell.near)?;
    std::thread::sleep(QUIET);
    Ok(bell)
}

fn overflow(bench: &Bench) -> Outcome {
    let bell = overflowed(bench)?;
    let mut ports = Vec::new();
    refused("read", bell.file.read(&mut ports), Errno::FBIG)?;
    refused("again", bell.file.read(&mut ports), Errno::FBIG)?;
    must("poll wakes", !polled(&*bell.file, PATIENCE)?.is_empty())?;
    bell.file.reset()?;
    same("after the reset", heard(&*bell.file, QUIET)?, vec![])?;
    bell.file.unmask(&[bell.far])?;
    bell.file.notify(bell.near)?;
    same("as new", heard(&*bell.file, PATIENCE)?, vec![bell.far])
}

fn overflow_poll(bench: &Bench) -> Outcome {
    let bell = overflowed(bench)?;
    same("poll", polled(&*bell.file, PATIENCE)?, PollFlags::ERR)
}
