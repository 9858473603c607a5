//! gntdev's unmap notify.
use crate::bench::{Bench, Partner};
use crate::outcome::{Outcome, Stop};
use crate::rule::{On, Rule};
use crate::things::{Bell, refused, same};
use libgnt::types::UnmapNotify;
use libgnt::{Access, EvtchnPort, GrantRef, PAGE_SIZE};
use pv_harness::hand::channel::heard;
use pv_harness::hand::device::Mapping;
use pv_harness::hand::{Order, Pages};
use rustix::io::Errno;

const NOTIFY: &str = "drivers/xen/gntdev.c: gntdev_ioctl_notify";
const GET: &str = "drivers/xen/gntdev.c: gntdev_ioctl_notify; events/events_base.c: evtchn_get";
const CLEAR: &str = "drivers/xen/gntdev.c: __unmap_grant_pages";
const PUT: &str = "drivers/xen/gntdev.c: gntdev_put_map";

/// No domain of these has so many ports in use.
const UNBOUND: EvtchnPort = EvtchnPort(900);

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "notify-of-an-unknown-index-is-enoent",
        "SET_UNMAP_NOTIFY is ENOENT outside every reservation of the file.",
        NOTIFY,
        unknown_index,
    ),
    Rule::new(
        "notify-with-an-unbound-port-is-einval",
        "SET_UNMAP_NOTIFY is EINVAL for a port that no evtchn file has, even where there is no reservation.",
        GET,
        unbound_port,
    ),
    Rule::new(
        "notify-clearing-a-read-only-map-is-einval",
        "A byte of a read-only mapping cannot be cleared; an event can be sent for it.",
        NOTIFY,
        read_only,
    ),
    Rule::new(
        "notify-may-come-before-mmap",
        "SET_UNMAP_NOTIFY works on a reservation that is not mmapped yet.",
        NOTIFY,
        before_mmap,
    ),
    Rule::new(
        "notify-after-the-unmap-ioctl-is-enoent",
        "A mapping whose reservation was given back cannot be armed any more.",
        NOTIFY,
        given_back,
    ),
    Rule::new(
        "notify-takes-a-port-of-another-file",
        "The port may be bound through any evtchn file.",
        GET,
        other_file,
    ),
    Rule::new(
        "notify-takes-a-port-of-another-process",
        "The port may be bound by any process of the domain.",
        GET,
        other_process,
    ),
    Rule::new(
        "notify-clears-exactly-its-byte",
        "CLEAR_BYTE sets the named byte of the named page to 0 and leaves its neighbours.",
        CLEAR,
        exactly_its_byte,
    ),
    Rule::new(
        "notify-does-nothing-before-the-last-use",
        "Neither byte nor event comes while the mapping or the reservation is there.",
        PUT,
        not_before,
    )
    .on(On::NotPv(
        "the byte goes with the pages: pv-byte-goes-with-its-page",
    )),
    Rule::new(
        "notify-is-replaced-by-the-next",
        "A map has one notify: a second SET_UNMAP_NOTIFY replaces byte and port.",
        NOTIFY,
        replaced,
    ),
    Rule::new(
        "notify-with-no-action-disarms",
        "SET_UNMAP_NOTIFY with no action takes the notify away.",
        NOTIFY,
        disarmed,
    ),
    Rule::new(
        "notify-event-without-any-mmap",
        "The event comes also for a reservation that was given back without having been mmapped.",
        PUT,
        never_mapped,
    ),
    Rule::new(
        "notify-event-after-a-failed-mmap",
        "The event comes also for a reservation whose mmap failed, when it is given back.",
        PUT,
        failed_mmap,
    ),
    Rule::new(
        "notify-keeps-its-port-after-close",
        "An armed port stays bound when its evtchn file is closed, and the event is sent.",
        "events/events_base.c: evtchn_get, evtchn_put; drivers/xen/evtchn.c: evtchn_release",
        port_kept_after_close,
    ),
    Rule::new(
        "notify-keeps-its-port-after-unbind",
        "An armed port stays bound when it is unbound from its file, and the event is sent.",
        "events/events_base.c: evtchn_get, __unbind_from_irq",
        port_kept_after_unbind,
    ),
    Rule::new(
        "notify-gives-its-port-up",
        "After the event the port of a closed file is closed: its peer may be bound anew.",
        "events/events_base.c: evtchn_put",
        port_given_up,
    ),
    Rule::new(
        "notify-crosses-domains",
        "An armed port that leads to the granter tells the granter.",
        PUT,
        tells_the_granter,
    ),
];

fn clear_byte() -> UnmapNotify {
    UnmapNotify {
        clear_byte: true,
        send_event: None,
    }
}

fn event(port: EvtchnPort) -> UnmapNotify {
    UnmapNotify {
        clear_byte: false,
        send_event: Some(port),
    }
}

fn unknown_index(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let file = bench.platform().open_gntdev()?;
    let nothing = file.set_unmap_notify(0, bell.event());
    refused("an empty file", nothing, Errno::NOENT)?;
    let grants = [bench.of_peer(GrantRef(400)); 2];
    let index = file.map_grant_ref(&grants)?;
    let end = index + 2 * PAGE_SIZE as u64;
    let behind = file.set_unmap_notify(end, bell.event());
    refused("behind the last byte", behind, Errno::NOENT)?;
    file.set_unmap_notify(end - 1, bell.event())?;
    Ok(())
}

fn unbound_port(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    let nowhere = file.set_unmap_notify(0, event(UNBOUND));
    refused("no reservation", nowhere, Errno::INVAL)?;
    let index = file.map_grant_ref(&[bench.of_peer(GrantRef(400))])?;
    let armed = file.set_unmap_notify(index, event(UNBOUND));
    refused("an unbound port", armed, Errno::INVAL)?;
    let armed = file.set_unmap_notify(index, event(EvtchnPort(u32::MAX)));
    refused("a port beyond all", armed, Errno::INVAL)
}

fn read_only(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let (_, grant) = bench.granted_page()?;
    let mut map = Mapping::new(bench.platform(), &[grant], Access::ReadOnly)?;
    refused("CLEAR_BYTE", map.arm(0, clear_byte()), Errno::INVAL)?;
    map.arm(0, bell.event())?;
    map.munmap()?;
    map.give_back()?;
    bell.expect("a read-only mapping was released")
}

fn before_mmap(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let (_, grant) = bench.granted_page()?;
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&[grant])?;
    file.set_unmap_notify(index, bell.event())?;
    let pages = file.mmap(index, 1, Access::ReadWrite)?;
    pages.unmap()?;
    file.unmap_grant_ref(index, 1)?;
    bell.expect("armed before mmap")
}

fn given_back(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let (_, grant) = bench.granted_page()?;
    let map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.give_back()?;
    let armed = map.arm(0, bell.event());
    refused("a mapping not in the list", armed, Errno::NOENT)
}

fn release(map: &mut Mapping) -> Outcome {
    map.munmap()?;
    Ok(map.give_back()?)
}

fn other_file(bench: &Bench) -> Outcome {
    // The bell has a file of its own, and this one is opened after it.
    let bell = Bell::new(bench.platform(), bench.own())?;
    let _another = bench.platform().open_evtchn()?;
    let (_, grant) = bench.granted_page()?;
    let mut map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.arm(0, bell.event())?;
    release(&mut map)?;
    bell.expect("armed with another file's port")
}

fn other_process(bench: &Bench) -> Outcome {
    let own = bench.own();
    let neighbour = bench.neighbour()?;
    let far = neighbour.bind(&Order::BindUnbound(own))?;
    let near = neighbour.bind(&Order::BindInterdomain(own, far))?;
    quiet_start(&neighbour, near)?;
    let (_, grant) = bench.granted_page()?;
    let mut map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.arm(0, event(near))?;
    release(&mut map)?;
    let ports = neighbour.hear(crate::things::PATIENCE)?;
    same("the neighbour's events", ports, vec![far])
}

/// Takes the event that a new interdomain port starts with.
fn quiet_start(partner: &Partner, near: EvtchnPort) -> Outcome {
    let ports = partner.hear(crate::things::PATIENCE)?;
    same("the events of a new channel", ports, vec![near])
}

fn exactly_its_byte(bench: &Bench) -> Outcome {
    let granted = bench.granted(2, Access::ReadWrite)?;
    let theirs = Pages::Share(granted.share);
    let bell = Bell::new(bench.platform(), bench.own())?;
    let mut map = Mapping::new(bench.platform(), &granted.grants, Access::ReadWrite)?;
    map.pages()?.fill(0, 2 * PAGE_SIZE, 0xff);
    let both = UnmapNotify {
        clear_byte: true,
        ..bell.event()
    };
    map.arm(PAGE_SIZE + 77, both)?;
    release(&mut map)?;
    bell.expect("the mapping was released")?;
    let around = bench.peer()?.peek(theirs, PAGE_SIZE + 76, 3)?;
    same("bytes 76 to 78 of the page", around, vec![0xff, 0, 0xff])?;
    let first = bench.peer()?.peek(theirs, 77, 1)?;
    same("byte 77 of the other page", first, vec![0xff])
}

fn not_before(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let theirs = Pages::Share(share);
    let bell = Bell::new(bench.platform(), bench.own())?;
    let mut map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.pages()?.write(5, &[1]);
    let both = UnmapNotify {
        clear_byte: true,
        ..bell.event()
    };
    map.arm(5, both)?;
    map.munmap()?;
    bell.silent("the reservation is there")?;
    same("the byte", bench.peer()?.peek(theirs, 5, 1)?, vec![1])?;
    map.give_back()?;
    bell.expect("the last use went")?;
    same("the byte", bench.peer()?.peek(theirs, 5, 1)?, vec![0])
}

fn replaced(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let first = Bell::new(bench.platform(), bench.own())?;
    let second = Bell::new(bench.platform(), bench.own())?;
    let mut map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.pages()?.write(10, &[1, 1]);
    for (byte, bell) in [(10, &first), (11, &second)] {
        let both = UnmapNotify {
            clear_byte: true,
            ..bell.event()
        };
        map.arm(byte, both)?;
    }
    release(&mut map)?;
    second.expect("armed last")?;
    first.silent("its notify was replaced")?;
    let bytes = bench.peer()?.peek(Pages::Share(share), 10, 2)?;
    same("the two bytes", bytes, vec![1, 0])
}

fn disarmed(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let bell = Bell::new(bench.platform(), bench.own())?;
    let mut map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.pages()?.write(0, &[1]);
    let both = UnmapNotify {
        clear_byte: true,
        ..bell.event()
    };
    map.arm(0, both)?;
    map.arm(0, UnmapNotify::default())?;
    bench.peer()?.dealloc(share)?;
    release(&mut map)?;
    bell.silent("it was disarmed")?;
    let byte = bench.peer()?.peek(Pages::Share(share), 0, 1)?;
    same("the byte", byte, vec![1])
}

fn never_mapped(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&[bench.of_peer(GrantRef(400))])?;
    file.set_unmap_notify(index, bell.event())?;
    bell.silent("it is reserved")?;
    file.unmap_grant_ref(index, 1)?;
    bell.expect("the reservation went")
}

fn failed_mmap(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&[bench.of_peer(GrantRef(400))])?;
    file.set_unmap_notify(index, bell.event())?;
    let failed = file.mmap(index, 1, Access::ReadWrite);
    refused("a bad grant", failed, Errno::INVAL)?;
    bell.silent("it is still reserved")?;
    file.unmap_grant_ref(index, 1)?;
    bell.expect("the reservation went")
}

/// A mapping armed with a port of another file, whose far end is heard here.
struct Far {
    ear: Box<dyn libgnt::platform::Evtchn>,
    far: EvtchnPort,
    mouth: Box<dyn libgnt::platform::Evtchn>,
    near: EvtchnPort,
    map: Mapping,
}

fn armed_from_another_file(bench: &Bench) -> Outcome<Far> {
    let own = bench.own();
    let ear = bench.platform().open_evtchn()?;
    let mouth = bench.platform().open_evtchn()?;
    let far = ear.bind_unbound(own)?;
    let near = mouth.bind_interdomain(own, far)?;
    let (_, grant) = bench.granted_page()?;
    let map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.arm(0, event(near))?;
    Ok(Far {
        ear,
        far,
        mouth,
        near,
        map,
    })
}

fn hears(far: &Far, what: &str) -> Outcome {
    let ports = heard(&*far.ear, crate::things::PATIENCE)?;
    far.ear.unmask(&ports)?;
    same(what, ports, vec![far.far])
}

fn port_kept_after_close(bench: &Bench) -> Outcome {
    let mut case = armed_from_another_file(bench)?;
    let (file, map) = (case.mouth, &mut case.map);
    drop(file);
    release(map)?;
    let ports = heard(&*case.ear, crate::things::PATIENCE)?;
    same("the event of a closed file's port", ports, vec![case.far])
}

fn port_kept_after_unbind(bench: &Bench) -> Outcome {
    let mut case = armed_from_another_file(bench)?;
    case.mouth.unbind(case.near)?;
    refused(
        "the unbound port",
        case.mouth.notify(case.near),
        Errno::NOTCONN,
    )?;
    release(&mut case.map)?;
    hears(&case, "the event of an unbound port")
}

fn port_given_up(bench: &Bench) -> Outcome {
    let mut case = armed_from_another_file(bench)?;
    case.mouth.unbind(case.near)?;
    let other = bench.platform().open_evtchn()?;
    let early = other.bind_interdomain(bench.own(), case.far);
    refused("a channel that the notify keeps", early, Errno::INVAL)?;
    release(&mut case.map)?;
    hears(&case, "the event")?;
    // The event was sent before the port was given up.
    let begun = std::time::Instant::now();
    while let Err(error) = other.bind_interdomain(bench.own(), case.far) {
        if begun.elapsed() > crate::things::PATIENCE {
            return Err(Stop::from(error));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

fn tells_the_granter(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let theirs = peer.bind(&Order::BindUnbound(bench.own()))?;
    let file = bench.platform().open_evtchn()?;
    let ours = file.bind_interdomain(bench.peer_id(), theirs)?;
    let (share, grant) = bench.granted_page()?;
    let mut map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.arm(0, event(ours))?;
    peer.dealloc(share)?;
    release(&mut map)?;
    let ports = peer.hear(crate::things::PATIENCE)?;
    same("the granter's events", ports, vec![theirs])?;
    Ok(())
}
