//! Processes and domains: joining, dying, and what nobody may ask for.

use super::*;
use crate::platform::GuestType;
use crate::sim::core::{Action, Attachment, ConnId, Input};
use crate::sim::wire::{
    DeviceKind, FileId, HoldId, HoldKind, PROTOCOL, Reply, Request, UnmapMode, VmaId,
};
use crate::types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, UnmapNotify};
use rustix::io::Errno;
use std::time::Duration;

fn join(domid: Option<DomId>, keep: bool) -> Request {
    Request::Join {
        protocol: PROTOCOL,
        domid,
        process: "p".into(),
        keep,
    }
}

/// One of each request, about things that are not there.
fn about_nothing() -> Vec<(Request, Errno)> {
    let file = FileId(999);
    let vma = VmaId(999);
    let port = EvtchnPort(1);
    let (access, index, pages) = (Access::ReadWrite, 0, 1);
    let grant = ForeignGrant {
        domid: GUEST,
        gref: GrantRef(8),
    };
    let notify = UnmapNotify::default();
    let hold = HoldId(999);
    vec![
        (Request::Close { file }, Errno::BADF),
        (
            Request::AllocGref {
                file,
                peer: DOM0,
                access,
                pages: u32::MAX,
            },
            Errno::BADF,
        ),
        (
            Request::DeallocGref {
                file,
                index,
                pages: u32::MAX,
            },
            Errno::BADF,
        ),
        (
            Request::MapGrantRef {
                file,
                grants: vec![grant],
            },
            Errno::BADF,
        ),
        (
            Request::UnmapGrantRef {
                file,
                index: u64::MAX,
                pages: u32::MAX,
            },
            Errno::BADF,
        ),
        (
            Request::Mmap {
                file,
                index,
                pages,
                access,
            },
            Errno::BADF,
        ),
        (
            Request::Munmap {
                vma,
                first_page: u32::MAX,
                pages: u32::MAX,
            },
            Errno::INVAL,
        ),
        (
            Request::Munmap {
                vma: VmaId(0),
                first_page: 0,
                pages,
            },
            Errno::INVAL,
        ),
        (
            Request::SetUnmapNotify {
                file,
                offset: u64::MAX,
                notify,
            },
            Errno::BADF,
        ),
        (
            Request::CopyAttach {
                file,
                grant,
                write: true,
            },
            Errno::BADF,
        ),
        (
            Request::BindUnbound {
                file,
                remote: GUEST,
            },
            Errno::BADF,
        ),
        (
            Request::BindInterdomain {
                file,
                remote: GUEST,
                port,
            },
            Errno::BADF,
        ),
        (
            Request::BindVirq {
                file,
                virq: u32::MAX,
            },
            Errno::BADF,
        ),
        (Request::Unbind { file, port }, Errno::BADF),
        (
            Request::Restrict {
                file,
                remote: GUEST,
            },
            Errno::BADF,
        ),
        (Request::EvtchnPeer { file, port }, Errno::BADF),
        (
            Request::Pin {
                vma,
                first_page: u32::MAX,
                pages: 1,
                kind: HoldKind::I915,
            },
            Errno::INVAL,
        ),
        (
            Request::Pin {
                vma,
                first_page: 0,
                pages,
                kind: HoldKind::I915,
            },
            Errno::FAULT,
        ),
        (Request::HoldAttach { hold }, Errno::NOENT),
        (Request::HoldRelease { hold }, Errno::NOENT),
        (
            Request::CreateDomain {
                domid: DomId(5),
                name: "x".into(),
                guest: None,
            },
            Errno::PERM,
        ),
        (Request::DestroyDomain { domid: GUEST }, Errno::PERM),
        (
            Request::RaiseVirq {
                domid: GUEST,
                virq: 0,
            },
            Errno::PERM,
        ),
    ]
}

#[test]
fn requests_about_nothing_are_refused() {
    let mut w = Rig::new();
    let conn = w.join(GUEST, "p");
    for (request, errno) in about_nothing() {
        w.refused(conn, request, errno);
    }
    let all = Request::GrantsInUse {
        grefs: vec![GrantRef(0), GrantRef(u32::MAX)],
    };
    assert_eq!(w.call(conn, all), Ok(Reply::Grefs { grefs: vec![] }));
    let holders = Request::Holders { grants: vec![] };
    assert_eq!(
        w.call(conn, holders),
        Ok(Reply::Holders { holders: vec![] })
    );
    // Without a tag there is no reply at all.
    let request = Request::Close { file: FileId(999) };
    w.step(Input::Request {
        conn,
        tag: None,
        request,
    });
    assert!(w.replies.is_empty());
}

#[test]
fn nothing_goes_before_join() {
    let mut w = Rig::new();
    let conn = w.connect();
    let mut requests: Vec<_> = about_nothing().into_iter().map(|(r, _)| r).collect();
    requests.extend([Request::OpenXenstore, Request::Inspect]);
    requests.push(Request::Open {
        device: DeviceKind::Gntdev,
    });
    for request in requests {
        w.refused(conn, request, Errno::PERM);
    }
    let old = Request::Join {
        protocol: 0,
        domid: None,
        process: String::new(),
        keep: true,
    };
    w.refused(conn, old, Errno::PROTO);
    w.refused(conn, join(Some(DomId::SELF), true), Errno::INVAL);
    w.call(conn, join(Some(GUEST), true)).unwrap();
    w.refused(conn, join(Some(GUEST), true), Errno::BUSY);
    // Somebody of whom the machine never heard.
    w.refused(ConnId(77), Request::Inspect, Errno::PERM);
    w.kill(ConnId(77));
}

#[test]
fn join_gives_a_domain_and_a_hazard_page() {
    let mut w = Rig::sync();
    let conn = w.connect();
    let tag = w.send(conn, join(None, true));
    let (_, answer, attach) = w.replies.remove(&tag).unwrap();
    assert_eq!(
        answer,
        Ok(Reply::Joined {
            domid: DomId(1),
            unmap: UnmapMode::Sync,
            guest: GuestType::Pv,
        })
    );
    assert_eq!(attach, [Attachment::Hazards]);
    let created = |domid| move |o: &Action| matches!(o, Action::DomainCreated { domid: d, .. } if *d == domid);
    assert!(w.out.iter().any(created(DomId(0))));
    assert!(w.out.iter().any(created(DomId(1))));
    w.join(DomId(2), "p");
    let third = w.join_with(None, &"long ".repeat(50), true);
    let state = w.inspect();
    assert_eq!(state.domains.len(), 4);
    assert_eq!(state.domains[3].domid, DomId(3), "the lowest free id");
    assert_eq!(state.domains[3].processes[0].0.len(), 64);
    let tag = w.send(third, Request::OpenXenstore);
    let (_, _, attach) = w.replies.remove(&tag).unwrap();
    assert_eq!(attach, [Attachment::Xenstore { domid: DomId(3) }]);
}

#[test]
fn each_driver_refuses_the_others_calls_in_its_own_way() {
    let mut pair = Pair::granted(Rig::new(), 1);
    let (front, back) = (pair.front, pair.back);
    let grants = pair.grants();
    let map = |file| Request::MapGrantRef {
        file,
        grants: grants.clone(),
    };
    let alloc = |file| Request::AllocGref {
        file,
        peer: GUEST,
        access: Access::ReadWrite,
        pages: 1,
    };
    pair.w.refused(front, map(pair.front_alloc), Errno::NOTTY);
    pair.w.refused(back, map(pair.evtchn), Errno::NOSYS);
    pair.w.refused(back, alloc(pair.gntdev), Errno::NOTTY);
    pair.w.refused(back, alloc(pair.evtchn), Errno::NOSYS);
    let bind = Request::BindUnbound {
        file: pair.gntdev,
        remote: GUEST,
    };
    pair.w.refused(back, bind, Errno::NOTTY);
    let notify = UnmapNotify::default();
    let set = Request::SetUnmapNotify {
        file: pair.evtchn,
        offset: 0,
        notify,
    };
    pair.w.refused(back, set, Errno::NOSYS);
    let (file, access) = (pair.evtchn, Access::ReadWrite);
    pair.w.refused(
        back,
        Request::Mmap {
            file,
            index: 0,
            pages: 1,
            access,
        },
        Errno::NODEV,
    );
}

#[test]
fn nobody_reaches_another_processs_things() {
    let mut pair = Pair::mapped(Rig::new(), 1);
    let thief = pair.w.join(BACKEND, "thief");
    let (file, index, vma) = (pair.gntdev, pair.map.0, pair.map.1);
    pair.w.refused(
        thief,
        Request::UnmapGrantRef {
            file,
            index,
            pages: 1,
        },
        Errno::BADF,
    );
    pair.w.refused(thief, Request::Close { file }, Errno::BADF);
    pair.w.refused(
        thief,
        Request::Munmap {
            vma,
            first_page: 0,
            pages: 1,
        },
        Errno::INVAL,
    );
    let pin = Request::Pin {
        vma,
        first_page: 0,
        pages: 1,
        kind: HoldKind::Plain,
    };
    pair.w.refused(thief, pin, Errno::FAULT);
    let hold = pair.w.pin(pair.back, vma, 0, 1, HoldKind::Plain);
    pair.w
        .refused(thief, Request::HoldRelease { hold }, Errno::NOENT);
    pair.w
        .refused(pair.front, Request::HoldAttach { hold }, Errno::NOENT);
    pair.w.attach(thief, hold);
    pair.w
        .refused(pair.back, Request::HoldAttach { hold }, Errno::BUSY);
    pair.w
        .refused(pair.back, Request::HoldRelease { hold }, Errno::NOENT);
    // The mapper's domain sees who holds; the granter's does not.
    let request = Request::Holders {
        grants: pair.grants(),
    };
    let Ok(Reply::Holders { holders }) = pair.w.call(pair.back, request.clone()) else {
        panic!()
    };
    assert_eq!((holders.len(), &holders[0].process[..]), (1, "thief"));
    let nobody = Ok(Reply::Holders { holders: vec![] });
    assert_eq!(pair.w.call(pair.front, request), nobody);
    pair.w.done(thief, Request::HoldRelease { hold });
}

#[test]
fn the_limits_of_a_process_are_errors() {
    let mut w = Rig::new();
    let conn = w.join(GUEST, "greedy");
    let device = DeviceKind::Gntdev;
    let files: Vec<_> = (0..1024).map(|_| w.open(conn, device)).collect();
    w.refused(conn, Request::Open { device }, Errno::MFILE);
    w.done(conn, Request::Close { file: files[0] });
    w.open(conn, device);
    let grant = ForeignGrant {
        domid: GUEST,
        gref: GrantRef(8),
    };
    let grants = vec![grant; 65536];
    for _ in 0..64 {
        // Unchecked: the check looks at each of four million pages.
        let grants = grants.clone();
        w.send_unchecked(
            conn,
            Request::MapGrantRef {
                file: files[1],
                grants,
            },
        );
    }
    w.refused(
        conn,
        Request::MapGrantRef {
            file: files[1],
            grants,
        },
        Errno::NOMEM,
    );
}

#[test]
fn a_domain_without_keep_dies_with_its_last_process() {
    let mut w = Rig::new();
    let one = w.join_with(Some(GUEST), "one", false);
    let two = w.join_with(Some(GUEST), "two", true);
    w.kill(one);
    assert_eq!(w.inspect().domains.len(), 2);
    w.kill(two);
    assert_eq!(w.inspect().domains.len(), 1, "the creator's choice counts");
    assert!(w.out.contains(&Action::DomainReleased { domid: GUEST }));
    assert!(w.out.contains(&Action::FreeGenerations { domid: GUEST }));
    let dom0 = w.join_with(Some(DOM0), "tool", false);
    w.kill(dom0);
    assert_eq!(w.inspect().domains.len(), 1, "dom0 always lives");
}

#[test]
fn dom0_creates_and_destroys_domains() {
    let mut w = Rig::new();
    let dom0 = w.join(DOM0, "xl");
    let create = |domid| Request::CreateDomain {
        domid,
        name: "guest".into(),
        guest: None,
    };
    let destroy = |domid| Request::DestroyDomain { domid };
    w.refused(dom0, create(DOM0), Errno::EXIST);
    w.refused(dom0, create(DomId(0x7ff1)), Errno::INVAL);
    w.done(dom0, create(GUEST));
    w.refused(dom0, create(GUEST), Errno::EXIST);
    w.refused(dom0, destroy(DOM0), Errno::INVAL);
    w.refused(dom0, destroy(BACKEND), Errno::SRCH);
    let process = w.join_with(Some(GUEST), "p", false);
    w.kill(process);
    assert_eq!(w.inspect().domains.len(), 2, "a created domain stays");
    let process = w.join(GUEST, "p");
    let file = w.open(process, DeviceKind::Evtchn);
    w.port(process, Request::BindUnbound { file, remote: DOM0 });
    w.out.clear();
    w.done(dom0, destroy(GUEST));
    let cut = w
        .out
        .iter()
        .position(|o| matches!(o, Action::Cut { conn, .. } if *conn == process));
    let released = w
        .out
        .iter()
        .position(|o| *o == Action::DomainReleased { domid: GUEST });
    assert!(cut.is_some() && cut < released);
    w.refused(process, Request::Inspect, Errno::PERM);
    w.refused(dom0, destroy(GUEST), Errno::SRCH);
    w.done(dom0, create(GUEST));
    w.done(dom0, destroy(GUEST));
    w.assert_empty();
}

/// What peers map outlives the domain, and its id is not given out before.
#[test]
fn a_dead_granter_stays_until_its_pages_are_unmapped() {
    let mut pair = Pair::mapped(Rig::new(), 2);
    let dom0 = pair.w.join(DOM0, "xl");
    let spare = pair
        .w
        .alloc(pair.front, pair.front_alloc, BACKEND, 1)
        .of(GUEST)[0];
    let hold = pair.w.pin(pair.back, pair.map.1, 0, 1, HoldKind::Plain);
    pair.w.done(dom0, Request::DestroyDomain { domid: GUEST });
    let state = pair.w.inspect();
    let dead: Vec<_> = state
        .domains
        .iter()
        .filter(|d| !d.alive)
        .map(|d| d.domid)
        .collect();
    assert_eq!(dead, [GUEST]);
    assert_eq!(pair.w.grant(spare), None, "unmapped pages are free at once");
    assert_eq!(pair.mapped_pages(), 2);
    let grants = pair.grants();
    let index = pair.w.reserve(pair.back, pair.gntdev, &grants);
    let (file, access) = (pair.gntdev, Access::ReadWrite);
    let mmap = Request::Mmap {
        file,
        index,
        pages: 2,
        access,
    };
    pair.w.refused(pair.back, mmap, Errno::INVAL);
    let create = Request::CreateDomain {
        domid: GUEST,
        name: "next".into(),
        guest: None,
    };
    pair.w.refused(dom0, create.clone(), Errno::EXIST);
    let late = pair.w.connect();
    pair.w.refused(late, join(Some(GUEST), true), Errno::EXIST);
    pair.unmap();
    pair.w.pass(Duration::from_secs(1));
    assert_eq!(pair.mapped_pages(), 2, "the backend's holder still holds");
    pair.w.done(pair.back, Request::HoldRelease { hold });
    pair.w.pass(Duration::from_secs(1));
    assert_eq!(pair.w.inspect().domains.len(), 2);
    assert!(pair.w.runs.is_empty());
    pair.w.done(dom0, create);
}

#[test]
fn a_destroyed_mapper_lets_go_at_once_and_says_nothing() {
    let mut pair = Pair::mapped(Rig::new(), 2);
    let consumer = pair.w.join(BACKEND, "consumer");
    let hold = pair.w.pin(pair.back, pair.map.1, 0, 2, HoldKind::I915);
    pair.w.attach(consumer, hold);
    let dom0 = pair.w.join(DOM0, "xl");
    pair.w.done(dom0, Request::DestroyDomain { domid: BACKEND });
    assert_eq!(pair.mapped_pages(), 0);
    assert!(!pair.byte_cleared(), "no kernel is left to clear it");
    assert!(pair.w.raises().is_empty());
    pair.dealloc();
    let front = pair.front;
    pair.w.kill(front);
    pair.w.assert_empty();
}

#[test]
fn a_dead_granter_waits_for_running_copies_too() {
    let mut pair = Pair::granted(Rig::new(), 1);
    let dom0 = pair.w.join(DOM0, "xl");
    let (file, grant) = (pair.gntdev, pair.grants()[0]);
    pair.w
        .call(
            pair.back,
            Request::CopyAttach {
                file,
                grant,
                write: true,
            },
        )
        .unwrap();
    pair.w.done(dom0, Request::DestroyDomain { domid: GUEST });
    assert_eq!(pair.w.runs.len(), 1);
    assert_eq!(pair.w.revoked, [(GUEST, grant.gref)]);
    let freed = |w: &Rig| w.out.contains(&Action::FreeGenerations { domid: GUEST });
    assert!(!freed(&pair.w));
    pair.w.drain_copies();
    assert!(freed(&pair.w) && pair.w.runs.is_empty());
}
