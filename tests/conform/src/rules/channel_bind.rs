//! evtchn: binding, unbinding, and who may.
use crate::bench::Bench;
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::things::{PATIENCE, QUIET, must, refused, same};
use libgnt::{DomId, EvtchnPort};
use pv_harness::hand::Order;
use pv_harness::hand::channel::heard;
use rustix::io::Errno;

const INTER: &str = "xen/common/event_channel.c: evtchn_bind_interdomain";
const CLOSE: &str = "xen/common/event_channel.c: evtchn_close";
const UNBIND: &str = "drivers/xen/evtchn.c: evtchn_ioctl (UNBIND)";
const RESTRICT: &str = "drivers/xen/evtchn.c: evtchn_ioctl (RESTRICT_DOMID)";

/// A VIRQ that Linux leaves alone (`VIRQ_XENOPROF`).
const FREE_VIRQ: u32 = 7;

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "bind-interdomain-is-pending-at-once",
        "A new interdomain port is pending, an unbound one and its other end are not.",
        INTER,
        pending_at_once,
    ),
    Rule::new(
        "bind-takes-domid-self",
        "DOMID_SELF names the own domain to both bind calls.",
        "xen/common/event_channel.c: evtchn_alloc_unbound, evtchn_bind_interdomain",
        domid_self,
    ),
    Rule::new(
        "bind-to-a-port-that-is-not-offered-is-einval",
        "A remote port that is unknown, connected, or offered to another domain is EINVAL.",
        INTER,
        not_offered,
    ),
    Rule::new(
        "bind-to-an-absent-domain-is-esrch",
        "BIND_INTERDOMAIN with a domain that does not exist is ESRCH.",
        INTER,
        absent_domain,
    ),
    Rule::new(
        "bind-unbound-for-an-absent-domain",
        "An unbound port may be offered to a domain that does not exist.",
        "xen/common/event_channel.c: evtchn_alloc_unbound",
        offered_to_nobody,
    ),
    Rule::new(
        "bind-virq-twice-is-eexist",
        "A VIRQ is bound once; after unbind it may be bound again.",
        "xen/common/event_channel.c: evtchn_bind_virq",
        virq_twice,
    ),
    Rule::new(
        "bind-virq-unknown-is-einval",
        "A VIRQ beyond the hypervisor's is EINVAL.",
        "xen/common/event_channel.c: evtchn_bind_virq",
        virq_unknown,
    ),
    Rule::new(
        "bind-takes-the-lowest-free-port",
        "A port that was closed is the next one given out, if it is the lowest.",
        "xen/common/event_channel.c: get_free_port",
        lowest_port,
    ),
    Rule::new(
        "unbind-of-a-strange-port-is-enotconn",
        "UNBIND is ENOTCONN for a port that is not bound through this file, and a second time.",
        UNBIND,
        unbind_strange,
    ),
    Rule::new(
        "unbind-out-of-range-is-einval",
        "UNBIND of a port beyond the hypervisor's is EINVAL.",
        UNBIND,
        unbind_out_of_range,
    ),
    Rule::new(
        "unbind-offers-the-other-end-anew",
        "When one end of a channel is unbound, the other is unbound again, for the same domain.",
        CLOSE,
        offers_anew,
    ),
    Rule::new(
        "close-unbinds-every-port",
        "Closing the file unbinds its ports.",
        "drivers/xen/evtchn.c: evtchn_release",
        close_unbinds,
    ),
    Rule::new(
        "channel-between-two-domains",
        "Two domains' ports that are bound to each other carry events both ways.",
        INTER,
        two_domains,
    ),
    Rule::new(
        "restrict-allows-one-domains-channels",
        "A restricted file binds interdomain channels with its domain; with others it is EACCES.",
        "drivers/xen/evtchn.c: evtchn_ioctl (BIND_INTERDOMAIN)",
        one_domain,
    ),
    Rule::new(
        "restrict-forbids-unbound-and-virq",
        "A restricted file offers no port, not even to its domain, and binds no VIRQ: EACCES.",
        "drivers/xen/evtchn.c: evtchn_ioctl (BIND_UNBOUND_PORT, BIND_VIRQ)",
        no_unbound,
    ),
    Rule::new(
        "restrict-is-once-and-for-all",
        "A second RESTRICT_DOMID is EACCES, whatever it names.",
        RESTRICT,
        once,
    ),
    Rule::new(
        "restrict-takes-guests-only",
        "RESTRICT_DOMID to dom0 or to a reserved id is EINVAL, and restricts nothing.",
        RESTRICT,
        guests_only,
    ),
    Rule::new(
        "restrict-leaves-bound-ports",
        "Ports that were bound before go on working.",
        RESTRICT,
        bound_ports,
    ),
];

fn pending_at_once(bench: &Bench) -> Outcome {
    let own = bench.own();
    let one = bench.platform().open_evtchn()?;
    let other = bench.platform().open_evtchn()?;
    let offered = one.bind_unbound(own)?;
    let bound = other.bind_interdomain(own, offered)?;
    same(
        "the new port's file",
        heard(&*other, PATIENCE)?,
        vec![bound],
    )?;
    same("the offered port's file", heard(&*one, QUIET)?, vec![])
}

fn domid_self(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    let offered = file.bind_unbound(DomId::SELF)?;
    file.bind_interdomain(bench.own(), offered)?;
    let offered = file.bind_unbound(bench.own())?;
    file.bind_interdomain(DomId::SELF, offered)?;
    Ok(())
}

fn not_offered(bench: &Bench) -> Outcome {
    let own = bench.own();
    let file = bench.platform().open_evtchn()?;
    let unknown = file.bind_interdomain(own, EvtchnPort(900));
    refused("an unknown port", unknown, Errno::INVAL)?;
    let beyond = file.bind_interdomain(own, EvtchnPort(1 << 20));
    refused("a port beyond all", beyond, Errno::INVAL)?;
    let offered = file.bind_unbound(own)?;
    let near = file.bind_interdomain(own, offered)?;
    for port in [offered, near] {
        let connected = file.bind_interdomain(own, port);
        refused("a connected port", connected, Errno::INVAL)?;
    }
    let anothers = file.bind_unbound(bench.peer_id())?;
    let stolen = file.bind_interdomain(own, anothers);
    refused("a port for another domain", stolen, Errno::INVAL)
}

fn absent_domain(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    let nowhere = file.bind_interdomain(DomId(0x7000), EvtchnPort(1));
    refused("no such domain", nowhere, Errno::SRCH)
}

fn offered_to_nobody(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    let port = file.bind_unbound(DomId(0x6fff))?;
    file.unbind(port)?;
    Ok(())
}

fn virq_twice(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    let other = bench.platform().open_evtchn()?;
    let port = file.bind_virq(FREE_VIRQ)?;
    refused("the same file", file.bind_virq(FREE_VIRQ), Errno::EXIST)?;
    refused("another file", other.bind_virq(FREE_VIRQ), Errno::EXIST)?;
    file.unbind(port)?;
    other.bind_virq(FREE_VIRQ)?;
    Ok(())
}

fn virq_unknown(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    refused("VIRQ 24", file.bind_virq(24), Errno::INVAL)?;
    refused("VIRQ 1000", file.bind_virq(1000), Errno::INVAL)
}

fn lowest_port(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    let peer = bench.peer_id();
    let ports = [
        file.bind_unbound(peer)?,
        file.bind_unbound(peer)?,
        file.bind_unbound(peer)?,
    ];
    must(&format!("{ports:?} count up"), ports.is_sorted())?;
    file.unbind(ports[1])?;
    file.unbind(ports[0])?;
    same("the next port", file.bind_unbound(peer)?, ports[0])?;
    same("the one after", file.bind_unbound(peer)?, ports[1])
}

fn unbind_strange(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    let other = bench.platform().open_evtchn()?;
    let port = file.bind_unbound(bench.peer_id())?;
    refused("port 0", file.unbind(EvtchnPort(0)), Errno::NOTCONN)?;
    refused(
        "an unbound port",
        file.unbind(EvtchnPort(900)),
        Errno::NOTCONN,
    )?;
    refused("another file's", other.unbind(port), Errno::NOTCONN)?;
    file.unbind(port)?;
    refused("a second time", file.unbind(port), Errno::NOTCONN)
}

fn unbind_out_of_range(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    let beyond = file.unbind(EvtchnPort(u32::MAX));
    refused("beyond all", beyond, Errno::INVAL)?;
    let fifo_end = file.unbind(EvtchnPort(1 << 17));
    refused("beyond the FIFO ABI", fifo_end, Errno::INVAL)
}

fn offers_anew(bench: &Bench) -> Outcome {
    let own = bench.own();
    let file = bench.platform().open_evtchn()?;
    let offered = file.bind_unbound(own)?;
    let near = file.bind_interdomain(own, offered)?;
    file.unbind(near)?;
    let again = file.bind_interdomain(own, offered)?;
    file.unbind(offered)?;
    // The second one was left alone, and is offered in its turn.
    file.bind_interdomain(own, again)?;
    Ok(())
}

fn close_unbinds(bench: &Bench) -> Outcome {
    let own = bench.own();
    let file = bench.platform().open_evtchn()?;
    let other = bench.platform().open_evtchn()?;
    let offered = file.bind_unbound(own)?;
    let gone = file.bind_unbound(own)?;
    let near = other.bind_interdomain(own, offered)?;
    drop(file);
    let closed = other.bind_interdomain(own, gone);
    refused("an offer of a closed file", closed, Errno::INVAL)?;
    // The connected end is offered again, to this domain.
    other.bind_interdomain(own, near)?;
    Ok(())
}

fn two_domains(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let file = bench.platform().open_evtchn()?;
    let ours = file.bind_unbound(bench.peer_id())?;
    let theirs = peer.bind(&Order::BindInterdomain(bench.own(), ours))?;
    same("the new port's file", peer.hear(PATIENCE)?, vec![theirs])?;
    file.notify(ours)?;
    same("there", peer.hear(PATIENCE)?, vec![theirs])?;
    peer.tell(&Order::Notify(theirs))?;
    same("here", heard(&*file, PATIENCE)?, vec![ours])
}

fn one_domain(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let theirs = peer.bind(&Order::BindUnbound(bench.own()))?;
    let file = bench.platform().open_evtchn()?;
    file.restrict(bench.peer_id())?;
    let others = file.bind_interdomain(bench.own(), EvtchnPort(1));
    refused("the own domain", others, Errno::ACCESS)?;
    let dom0 = file.bind_interdomain(DomId::DOM0, EvtchnPort(1));
    refused("dom0", dom0, Errno::ACCESS)?;
    file.bind_interdomain(bench.peer_id(), theirs)?;
    Ok(())
}

fn no_unbound(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    file.restrict(bench.peer_id())?;
    let offer = file.bind_unbound(bench.peer_id());
    refused("an offer to its own domain", offer, Errno::ACCESS)?;
    refused("a VIRQ", file.bind_virq(FREE_VIRQ), Errno::ACCESS)
}

fn once(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    file.restrict(bench.peer_id())?;
    refused("the same", file.restrict(bench.peer_id()), Errno::ACCESS)?;
    refused("another", file.restrict(bench.own()), Errno::ACCESS)?;
    refused("nonsense", file.restrict(DomId(0xffff)), Errno::ACCESS)
}

fn guests_only(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    refused("dom0", file.restrict(DomId::DOM0), Errno::INVAL)?;
    refused("DOMID_SELF", file.restrict(DomId::SELF), Errno::INVAL)?;
    refused("0xffff", file.restrict(DomId(0xffff)), Errno::INVAL)?;
    file.bind_unbound(bench.peer_id())?;
    Ok(())
}

fn bound_ports(bench: &Bench) -> Outcome {
    let own = bench.own();
    let ear = bench.platform().open_evtchn()?;
    let file = bench.platform().open_evtchn()?;
    let offered = ear.bind_unbound(own)?;
    let near = file.bind_interdomain(own, offered)?;
    file.restrict(bench.peer_id())?;
    file.notify(near)?;
    same("the other end", heard(&*ear, PATIENCE)?, vec![offered])?;
    file.unbind(near)?;
    Ok(())
}
