//! Who dies, and what the others see: processes, the host, and connections full of garbage.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod sim_common;

use libgnt::platform::Platform;
use libgnt::sim::client::connect;
use libgnt::sim::core::Config;
use libgnt::sim::frame::Outgoing;
use libgnt::sim::host::{Host, HostThread, NoServices};
use libgnt::sim::wire::{HOST_SOCKET, MAX_FRAME, PROTOCOL, Request, RequestFrame};
use libgnt::types::{Access, DomId, EvtchnPort, GrantRef, UnmapNotify};
use libgnt::{Error, SharedPages};
use sim_common::{
    PATIENCE, Process, Xen, byte, errno, eventually, grants, hear, role, say, wait_events,
};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

const LIVENESS: usize = 62;

#[test]
fn a_killed_granter_leaves_no_grant_and_its_notify_comes() {
    if let Some((_, dir)) = role() {
        let xen = connect(&dir, Some(DomId(5)), "front").unwrap();
        let (gntalloc, evtchn) = (xen.open_gntalloc().unwrap(), xen.open_evtchn().unwrap());
        let run = gntalloc.alloc_gref(DomId(0), 2, Access::ReadWrite).unwrap();
        let pages = gntalloc.mmap(run.index, 2).unwrap();
        let port = evtchn
            .bind_interdomain(DomId(0), EvtchnPort(hear().unwrap().parse().unwrap()))
            .unwrap();
        pages.store_u8(LIVENESS, 1, Ordering::Release);
        let notify = UnmapNotify {
            clear_byte: true,
            send_event: Some(port),
        };
        gntalloc
            .set_unmap_notify(run.index + LIVENESS as u64, notify)
            .unwrap();
        say(format!("{} {}", run.grefs[0].0, run.grefs[1].0));
        hear();
        unreachable!("killed before");
    }
    let xen = Xen::start();
    let back = xen.join(0, "back");
    back.create_domain(DomId(5), "guest").unwrap();
    let (gntdev, evtchn) = (back.open_gntdev().unwrap(), back.open_evtchn().unwrap());
    let port = evtchn.bind_unbound(DomId(5)).unwrap();
    let test = "a_killed_granter_leaves_no_grant_and_its_notify_comes";
    let mut child = Process::spawn(test, "front", xen.dir.path());
    child.say(&port.0.to_string());
    let grefs: Vec<GrantRef> = child
        .hear()
        .split(' ')
        .map(|gref| GrantRef(gref.parse().unwrap()))
        .collect();
    let index = gntdev.map_grant_ref(&grants(5, &grefs)).unwrap();
    let pages = gntdev.mmap(index, 2, Access::ReadWrite).unwrap();
    // The bind may have raised our port.
    let mut early = Vec::new();
    evtchn.read(&mut early).unwrap();
    evtchn.unmask(&early).unwrap();
    assert_eq!(byte(&pages, LIVENESS), 1);
    pages.store_u8(0, 77, Ordering::Release);

    child.kill();
    assert_eq!(wait_events(&*evtchn), [port]);
    assert_eq!(byte(&pages, LIVENESS), 0, "the byte comes before the event");
    assert_eq!(byte(&pages, 0), 77, "our mapping outlives the granter");
    assert_eq!(pages.pages(), 2);
    eventually("only deferred ends of access stay", || {
        let inspection = back.inspect().unwrap();
        inspection.grants.len() == 2 && inspection.grants.iter().all(|grant| grant.ending)
    });
    pages.unmap().unwrap();
    gntdev.unmap_grant_ref(index, 2).unwrap();
    eventually("no grant is left", || {
        let inspection = back.inspect().unwrap();
        inspection.grants.is_empty() && inspection.gntalloc_pages == 0
    });
}

#[test]
fn a_killed_mapper_lets_go_and_its_notify_comes() {
    if let Some((_, dir)) = role() {
        let xen = connect(&dir, Some(DomId(0)), "back").unwrap();
        let (gntdev, evtchn) = (xen.open_gntdev().unwrap(), xen.open_evtchn().unwrap());
        let line = hear().unwrap();
        let (gref, port) = line.split_once(' ').unwrap();
        let grant = grants(5, &[GrantRef(gref.parse().unwrap())]);
        let port = evtchn
            .bind_interdomain(DomId(5), EvtchnPort(port.parse().unwrap()))
            .unwrap();
        let index = gntdev.map_grant_ref(&grant).unwrap();
        let pages = gntdev.mmap(index, 1, Access::ReadWrite).unwrap();
        pages.store_u8(LIVENESS, 1, Ordering::Release);
        let notify = UnmapNotify {
            clear_byte: true,
            send_event: Some(port),
        };
        gntdev
            .set_unmap_notify(index + LIVENESS as u64, notify)
            .unwrap();
        say("mapped");
        hear();
        unreachable!("killed before");
    }
    let xen = Xen::start();
    let front = xen.join(5, "front");
    let (gntalloc, evtchn) = (front.open_gntalloc().unwrap(), front.open_evtchn().unwrap());
    let run = gntalloc.alloc_gref(DomId(0), 1, Access::ReadWrite).unwrap();
    let pages = gntalloc.mmap(run.index, 1).unwrap();
    let port = evtchn.bind_unbound(DomId(0)).unwrap();
    let test = "a_killed_mapper_lets_go_and_its_notify_comes";
    let mut child = Process::spawn(test, "back", xen.dir.path());
    child.say(&format!("{} {}", run.grefs[0].0, port.0));
    assert_eq!(child.hear(), "mapped");
    let mut early = Vec::new();
    evtchn.read(&mut early).unwrap();
    evtchn.unmask(&early).unwrap();
    assert_eq!(byte(&pages, LIVENESS), 1);
    assert_eq!(
        front.grants_in_use(&run.grefs).unwrap(),
        Some(run.grefs.clone())
    );

    child.kill();
    assert_eq!(wait_events(&*evtchn), [port]);
    assert_eq!(byte(&pages, LIVENESS), 0);
    assert_eq!(
        front.grants_in_use(&run.grefs).unwrap(),
        Some(Vec::new()),
        "event = released"
    );
}

/// Reads until the host has closed the connection.
#[track_caller]
fn closed_by_host(mut stream: &UnixStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset, "not closed: {e}"),
    }
}

#[test]
fn garbage_costs_its_sender_the_connection_and_nobody_else_anything() {
    let xen = Xen::start();
    let innocent = xen.join(5, "innocent");
    let gntalloc = innocent.open_gntalloc().unwrap();
    let socket = xen.dir.path().join(HOST_SOCKET);
    let frame = |request| {
        let frame = RequestFrame {
            tag: 1,
            wants_reply: true,
            request,
        };
        postcard::to_stdvec(&frame).unwrap()
    };
    let framed = |payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    };
    let mut trailing = frame(Request::Inspect);
    trailing.push(0);
    let mut huge = ((MAX_FRAME + 1) as u32).to_le_bytes().to_vec();
    huge.extend([0; 8]);
    let wrong_version = frame(Request::Join {
        protocol: PROTOCOL + 1,
        domid: None,
        process: "x".into(),
        keep: false,
    });
    let garbage: Vec<(&str, Vec<u8>, bool)> = vec![
        (
            "text",
            b"GET / HTTP/1.1\r\nHost: xen\r\n\r\n".to_vec(),
            true,
        ),
        ("all ones", vec![0xff; 4096], true),
        ("a frame that is no message", framed(&[0xee; 64]), true),
        ("bytes after the message", framed(&trailing), true),
        ("a length over the limit", huge, true),
        (
            "descriptors that do not come",
            vec![1, 0, 0, 0, 9, 0, 0, 0, 0],
            true,
        ),
        (
            "a request before the join",
            framed(&frame(Request::OpenXenstore)),
            false,
        ),
        ("another version", framed(&wrong_version), false),
    ];
    for (what, bytes, must_close) in garbage {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // The host may close before it has all.
        let _ = stream.write_all(&bytes);
        if must_close {
            closed_by_host(&stream);
        }
        drop(stream);
        let run = gntalloc.alloc_gref(DomId(0), 1, Access::ReadWrite);
        let run = run.unwrap_or_else(|e| panic!("after {what}: {e}"));
        gntalloc.dealloc_gref(run.index, 1).unwrap();
    }
    let lines = xen.journal.lines.lock().unwrap().clone();
    let cut = lines
        .iter()
        .filter(|line| line.contains("is cut off"))
        .count();
    assert!(cut >= 6, "each must be logged: {lines:#?}");
    assert_eq!(
        innocent.inspect().unwrap().domains.len(),
        2,
        "dom0 and the innocent one's"
    );
}

/// A client that asks and asks, and never reads.
#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let xen = Xen::start();
    let innocent = xen.join(5, "innocent");
    let stream = UnixStream::connect(xen.dir.path().join(HOST_SOCKET)).unwrap();
    let send = |request| {
        let frame = RequestFrame {
            tag: 1,
            wants_reply: true,
            request,
        };
        Outgoing::new(&frame, Vec::new()).unwrap()
    };
    let process = "deaf".to_owned();
    let join = Request::Join {
        protocol: PROTOCOL,
        domid: None,
        process,
        keep: false,
    };
    assert_eq!(send(join).send(stream.as_fd()), Ok(true));
    let start = std::time::Instant::now();
    'deaf: loop {
        let mut frame = send(Request::Inspect);
        loop {
            match frame.send(stream.as_fd()) {
                Ok(true) => break,
                Ok(false) => {}
                Err(_) => break 'deaf,
            }
            assert!(start.elapsed() < PATIENCE, "not cut off");
        }
        assert!(start.elapsed() < PATIENCE, "not cut off");
    }
    closed_by_host(&stream);
    innocent.inspect().expect("others are served");
    let lines = xen.journal.lines.lock().unwrap().clone();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("does not read its replies")),
        "{lines:#?}"
    );
}

#[test]
fn a_second_host_on_a_directory_is_refused() {
    let xen = Xen::start();
    let second = Host::bind(xen.dir.path(), Config::default(), Box::new(NoServices));
    let text = second.expect_err("must be refused").to_string();
    assert!(text.contains("another host serves it"), "{text}");
    xen.join(5, "the first still serves").inspect().unwrap();
}

#[test]
fn a_stopped_host_removes_its_files_and_its_clients_learn_it() {
    let Xen { host, dir, .. } = Xen::start();
    let client = connect(dir.path(), Some(DomId(5)), "front").unwrap();
    let gntalloc = client.open_gntalloc().unwrap();
    let run = gntalloc.alloc_gref(DomId(0), 1, Access::ReadWrite).unwrap();
    let pages = gntalloc.mmap(run.index, 1).unwrap();
    host.stop().unwrap();
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "files are left"
    );
    gone(client.inspect());
    gone(gntalloc.alloc_gref(DomId(0), 1, Access::ReadWrite));
    pages.write(0, b"still memory");
    gone(pages.unmap());
    // And again: the directory is free.
    HostThread::start(dir.path(), Config::default(), Box::new(NoServices)).expect("a new host");
}

fn gone<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("the host is gone");
    assert!(matches!(error, Error::HostGone { .. }), "{error}");
    assert!(error.to_string().contains("restart it"), "{error}");
}

#[test]
fn a_killed_host_is_noticed_by_those_who_wait_for_it() {
    if let Some((_, dir)) = role() {
        let _host = HostThread::start(&dir, Config::default(), Box::new(NoServices)).unwrap();
        say("serving");
        hear();
        unreachable!("killed before");
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "a_killed_host_is_noticed_by_those_who_wait_for_it";
    let mut host = Process::spawn(test, "host", dir.path());
    assert_eq!(host.hear(), "serving");
    let (front, back) = (
        connect(dir.path(), Some(DomId(5)), "front").unwrap(),
        connect(dir.path(), Some(DomId(0)), "back").unwrap(),
    );
    let gntalloc = front.open_gntalloc().unwrap();
    let run = gntalloc.alloc_gref(DomId(0), 1, Access::ReadWrite).unwrap();
    let ours = gntalloc.mmap(run.index, 1).unwrap();
    let gntdev = back.open_gntdev().unwrap();
    let index = gntdev.map_grant_ref(&grants(5, &run.grefs)).unwrap();
    let theirs: SharedPages = gntdev.mmap(index, 1, Access::ReadWrite).unwrap();
    host.kill();
    gone(front.inspect());
    gone(theirs.unmap());
    drop(ours);
    drop((gntalloc, gntdev));
    let error = connect(dir.path(), None, "late").expect_err("nobody there");
    assert!(matches!(error, Error::NotAvailable { .. }), "{error}");
    // Its socket and lock file stay behind; the next host takes them over.
    let next = HostThread::start(dir.path(), Config::default(), Box::new(NoServices)).unwrap();
    connect(dir.path(), None, "next").expect("served again");
    next.stop().unwrap();
}

#[test]
fn a_destroyed_domain_cuts_its_processes_off() {
    let xen = Xen::start();
    let (dom0, guest) = (xen.join(0, "toolstack"), xen.join(5, "guest"));
    let gntalloc = guest.open_gntalloc().unwrap();
    gntalloc.alloc_gref(DomId(0), 3, Access::ReadWrite).unwrap();
    assert_eq!(
        errno(guest.destroy_domain(DomId(0))),
        rustix::io::Errno::PERM
    );
    dom0.destroy_domain(DomId(5)).unwrap();
    gone(guest.inspect());
    let inspection = dom0.inspect().unwrap();
    assert_eq!(
        (inspection.grants.len(), inspection.gntalloc_pages),
        (0, 0),
        "{inspection:?}"
    );
    assert_eq!(
        errno(dom0.destroy_domain(DomId(5))),
        rustix::io::Errno::SRCH
    );
}
