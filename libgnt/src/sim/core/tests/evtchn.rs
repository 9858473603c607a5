//! Event channels: binding, who hears what, and the words that say that the peer changed.

use super::*;
use crate::sim::core::{Action, Attachment, Config, ConnId};
use crate::sim::wire::{DeviceKind, FileId, Reply, Request};
use crate::types::{DomId, EvtchnPort};
use rustix::io::Errno;

const SELF: DomId = DomId::SELF;

/// Two domains with an open file each.
fn pair(w: &mut Rig) -> ((ConnId, FileId), (ConnId, FileId)) {
    let one = w.join(GUEST, "one");
    let two = w.join(BACKEND, "two");
    (
        (one, w.open(one, DeviceKind::Evtchn)),
        (two, w.open(two, DeviceKind::Evtchn)),
    )
}

fn unbound(w: &mut Rig, (conn, file): (ConnId, FileId), remote: DomId) -> EvtchnPort {
    w.port(conn, Request::BindUnbound { file, remote })
}

fn bind(file: FileId, remote: DomId, port: EvtchnPort) -> Request {
    Request::BindInterdomain { file, remote, port }
}

/// The peer as `EvtchnPeer` says it: the word, the port, and the file to raise it in.
#[track_caller]
fn peer(
    w: &mut Rig,
    (conn, file): (ConnId, FileId),
    port: EvtchnPort,
) -> (u32, Option<(FileId, EvtchnPort)>) {
    let tag = w.send(conn, Request::EvtchnPeer { file, port });
    let (_, answer, attach) = w.replies.remove(&tag).unwrap();
    let Ok(Reply::Peer { generation, remote }) = answer else {
        panic!("{answer:?}")
    };
    let file = attach.first().map(|a| match a {
        Attachment::Events { file } => *file,
        other => panic!("{other:?}"),
    });
    assert_eq!(file.is_some(), remote.is_some());
    (generation, file.zip(remote))
}

/// The last word stored for a port.
fn word(w: &Rig, of: FileId, at: EvtchnPort) -> u32 {
    let last = w.out.iter().rev().find_map(|o| match o {
        Action::PeerChanged {
            file,
            port,
            generation,
        } if (*file, *port) == (of, at) => Some(*generation),
        _ => None,
    });
    last.unwrap_or(0)
}

#[test]
fn ports_are_given_out_lowest_first_and_run_out() {
    let mut w = Rig::with(Config {
        event_channels: 4,
        ..Config::default()
    });
    let (one, _) = pair(&mut w);
    assert_eq!([1, 2, 3], [0; 3].map(|_| unbound(&mut w, one, BACKEND).0));
    let (conn, file) = one;
    w.refused(
        conn,
        Request::BindUnbound {
            file,
            remote: BACKEND,
        },
        Errno::NOSPC,
    );
    w.refused(conn, Request::BindVirq { file, virq: 3 }, Errno::NOSPC);
    w.done(
        conn,
        Request::Unbind {
            file,
            port: EvtchnPort(2),
        },
    );
    assert_eq!(unbound(&mut w, one, BACKEND), EvtchnPort(2));
}

#[test]
fn a_channel_is_bound_by_the_domain_it_was_offered_to() {
    let mut w = Rig::new();
    let (one, two) = pair(&mut w);
    let port = unbound(&mut w, one, BACKEND);
    let stranger = w.join(DomId(3), "stranger");
    let file = w.open(stranger, DeviceKind::Evtchn);
    w.refused(stranger, bind(file, GUEST, port), Errno::INVAL);
    w.refused(two.0, bind(two.1, GUEST, EvtchnPort(9)), Errno::INVAL);
    w.refused(
        two.0,
        bind(two.1, GUEST, EvtchnPort(u32::MAX)),
        Errno::INVAL,
    );
    w.refused(two.0, bind(two.1, DomId(77), port), Errno::SRCH);
    w.out.clear();
    let tag = w.send(two.0, bind(two.1, GUEST, port));
    let local = match w.take(tag) {
        Some(Ok(Reply::Port { port })) => port,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        w.raises(),
        [(two.1, local)],
        "pending at once, on the binder's side only"
    );
    w.refused(two.0, bind(two.1, GUEST, port), Errno::INVAL);
    let (generation, there) = peer(&mut w, two, local);
    assert_eq!(there, Some((one.1, port)));
    assert_eq!(generation, word(&w, two.1, local));
    let (generation, there) = peer(&mut w, one, port);
    assert_eq!(there, Some((two.1, local)));
    assert_eq!(generation, word(&w, one.1, port));
}

/// A word never comes back: what a notifier remembers is out of date whenever the answer changed.
#[test]
fn every_change_of_the_peer_moves_the_word() {
    let mut w = Rig::new();
    let (one, two) = pair(&mut w);
    let port = unbound(&mut w, one, BACKEND);
    let mut words = vec![word(&w, one.1, port)];
    assert_eq!(peer(&mut w, one, port), (words[0], None));
    assert_ne!(
        words[0], 0,
        "0 is the word of a page where no port ever was"
    );
    for _ in 0..3 {
        let local = w.port(two.0, bind(two.1, GUEST, port));
        words.push(word(&w, one.1, port));
        assert_eq!(
            peer(&mut w, one, port),
            (words[words.len() - 1], Some((two.1, local)))
        );
        w.done(
            two.0,
            Request::Unbind {
                file: two.1,
                port: local,
            },
        );
        // As in Xen: unbound again, for the domain that left.
        words.push(word(&w, one.1, port));
        assert_eq!(peer(&mut w, one, port), (words[words.len() - 1], None));
    }
    let mut unique = words.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), words.len(), "{words:?}");
}

#[test]
fn a_port_can_be_connected_to_its_own_file() {
    let mut w = Rig::new();
    let (one, _) = pair(&mut w);
    for named in [SELF, GUEST] {
        let heard = w.port(
            one.0,
            Request::BindUnbound {
                file: one.1,
                remote: named,
            },
        );
        w.out.clear();
        let notified = w.port(one.0, bind(one.1, named, heard));
        assert_eq!(w.raises(), [(one.1, notified)]);
        assert_eq!(peer(&mut w, one, notified).1, Some((one.1, heard)));
        assert_eq!(peer(&mut w, one, heard).1, Some((one.1, notified)));
        w.done(
            one.0,
            Request::Unbind {
                file: one.1,
                port: heard,
            },
        );
        assert_eq!(peer(&mut w, one, notified).1, None);
        w.done(
            one.0,
            Request::Unbind {
                file: one.1,
                port: notified,
            },
        );
    }
    assert_eq!(w.inspect().event_channels, 0);
}

#[test]
fn only_the_file_that_bound_a_port_has_it() {
    let mut w = Rig::new();
    let (one, two) = pair(&mut w);
    let port = unbound(&mut w, one, BACKEND);
    let other = w.open(one.0, DeviceKind::Evtchn);
    let out_of_range = EvtchnPort(4096);
    for file in [one.1, other] {
        w.refused(
            one.0,
            Request::Unbind {
                file,
                port: out_of_range,
            },
            Errno::INVAL,
        );
        w.refused(
            one.0,
            Request::Unbind {
                file,
                port: EvtchnPort(5),
            },
            Errno::NOTCONN,
        );
        w.refused(
            one.0,
            Request::EvtchnPeer {
                file,
                port: EvtchnPort(5),
            },
            Errno::NOTCONN,
        );
    }
    w.refused(one.0, Request::Unbind { file: other, port }, Errno::NOTCONN);
    w.refused(two.0, Request::Unbind { file: one.1, port }, Errno::BADF);
    w.out.clear();
    w.done(one.0, Request::Close { file: one.1 });
    assert!(w.out.contains(&Action::ClearPort { file: one.1, port }));
    assert!(w.out.contains(&Action::FreeEvents { file: one.1 }));
    assert_eq!(w.inspect().event_channels, 0);
}

#[test]
fn a_new_port_has_no_past() {
    let mut w = Rig::new();
    let (one, _) = pair(&mut w);
    w.out.clear();
    let port = unbound(&mut w, one, DOM0);
    let clear = Action::ClearPort { file: one.1, port };
    assert!(w.out.contains(&clear), "{:?}", w.out);
}

#[test]
fn virqs_are_bound_once_in_a_domain() {
    let mut w = Rig::new();
    let (one, two) = pair(&mut w);
    let dom0 = w.join(DOM0, "xenstored");
    let dom0_file = w.open(dom0, DeviceKind::Evtchn);
    w.refused(
        one.0,
        Request::BindVirq {
            file: one.1,
            virq: 24,
        },
        Errno::INVAL,
    );
    let port = w.port(
        one.0,
        Request::BindVirq {
            file: one.1,
            virq: 3,
        },
    );
    w.refused(
        one.0,
        Request::BindVirq {
            file: one.1,
            virq: 3,
        },
        Errno::EXIST,
    );
    w.port(
        two.0,
        Request::BindVirq {
            file: two.1,
            virq: 3,
        },
    );
    assert_eq!(peer(&mut w, one, port).1, None, "a VIRQ has no peer");
    let raise = |domid, virq| Request::RaiseVirq { domid, virq };
    w.refused(one.0, raise(GUEST, 3), Errno::PERM);
    w.refused(dom0, raise(GUEST, 4), Errno::NOENT);
    w.refused(dom0, raise(GUEST, 24), Errno::INVAL);
    w.refused(dom0, raise(DomId(77), 3), Errno::SRCH);
    w.out.clear();
    w.done(dom0, raise(GUEST, 3));
    assert_eq!(w.raises(), [(one.1, port)]);
    // dom0 hears of a domain's end through its own.
    let port = w.port(
        dom0,
        Request::BindVirq {
            file: dom0_file,
            virq: 3,
        },
    );
    w.out.clear();
    w.done(dom0, Request::DestroyDomain { domid: BACKEND });
    assert_eq!(w.raises(), [(dom0_file, port)]);
}

#[test]
fn a_restricted_file_binds_to_one_domain_for_ever() {
    let mut w = Rig::new();
    let (one, two) = pair(&mut w);
    let port = unbound(&mut w, one, BACKEND);
    let (conn, file) = two;
    for remote in [DOM0, SELF] {
        w.refused(conn, Request::Restrict { file, remote }, Errno::INVAL);
    }
    w.done(
        conn,
        Request::Restrict {
            file,
            remote: GUEST,
        },
    );
    w.refused(
        conn,
        Request::Restrict {
            file,
            remote: GUEST,
        },
        Errno::ACCESS,
    );
    w.refused(
        conn,
        Request::BindUnbound {
            file,
            remote: DomId(3),
        },
        Errno::ACCESS,
    );
    w.refused(conn, bind(file, DomId(3), port), Errno::ACCESS);
    w.refused(conn, Request::BindVirq { file, virq: 0 }, Errno::ACCESS);
    w.port(conn, bind(file, GUEST, port));
    // An unbound port not even for that domain.
    let remote = GUEST;
    w.refused(conn, Request::BindUnbound { file, remote }, Errno::ACCESS);
}

#[test]
fn a_dying_process_leaves_its_peers_unbound() {
    let mut w = Rig::new();
    let (one, two) = pair(&mut w);
    let port = unbound(&mut w, one, BACKEND);
    let local = w.port(two.0, bind(two.1, GUEST, port));
    w.kill(one.0);
    assert_eq!(peer(&mut w, two, local).1, None);
    // The other side can be bound again, by a new process of the domain that left.
    let again = w.join(GUEST, "one again");
    let file = w.open(again, DeviceKind::Evtchn);
    w.port(again, bind(file, BACKEND, local));
    w.kill(two.0);
    w.kill(again);
    assert_eq!(w.inspect().event_channels, 0);
}
