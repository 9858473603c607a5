//! Nodes, domains, and many requests at once.

use crate::case::{Case, Connect, Many, Needs, SOON};
use libgnt::DomId;
use pv_xenstore::client::{Features, QuotaOf, Request};
use pv_xenstore::{Client, Error, Permission, Rights};
use rustix::io::Errno;

pub const CASES: &[Case] = &[
    Case::new("bytes", values_are_bytes),
    Case::new("errors", errors_name_the_operation_the_path_and_the_errno),
    Case::with("permissions", Needs::Dom0, permissions_come_back),
    Case::with("directory", Needs::Dom0, a_long_directory_comes_whole),
    Case::with(
        "directory-changes",
        Needs::Dom0,
        a_long_directory_that_changes_comes_from_one_moment,
    ),
    Case::new(
        "threads",
        every_thread_of_one_connection_gets_its_own_answer,
    ),
    Case::new("tickets", submitted_requests_are_done_in_order),
    Case::with(
        "busy",
        Needs::Speed,
        a_connection_has_a_limit_of_requests_in_flight,
    ),
    Case::new("read-many", many_nodes_are_read_at_once),
    Case::with(
        "tree",
        Needs::Dom0,
        a_tree_is_made_and_removed_without_a_trace,
    ),
    Case::with("domains", Needs::Dom0, what_is_asked_about_domains),
    Case::new("daemon", what_only_later_daemons_have_is_refused_by_name),
];

fn values_are_bytes(connect: &Connect<'_>, node: &str, _: Many) {
    let dom0 = connect();
    for value in [&b""[..], b"\0", b"a\0b", b"\xff\xfe", b"text", &[7; 1900]] {
        dom0.write(node, value).unwrap();
        assert_eq!(dom0.read(node).unwrap(), value);
    }
    assert_eq!(dom0.try_read(&format!("{node}/none")).unwrap(), None);
}

fn errors_name_the_operation_the_path_and_the_errno(connect: &Connect<'_>, node: &str, _: Many) {
    let dom0 = connect();
    let none = format!("{node}/none");
    let below = format!("{none}/below");
    let table: [(Error, &str, Errno); 5] = [
        (dom0.read(&none).unwrap_err(), "read", Errno::NOENT),
        (
            dom0.directory(&none).unwrap_err(),
            "directory",
            Errno::NOENT,
        ),
        (
            dom0.get_perms(&none).unwrap_err(),
            "get-perms",
            Errno::NOENT,
        ),
        (dom0.rm(&below).unwrap_err(), "rm", Errno::NOENT),
        (dom0.read("/a b").unwrap_err(), "read", Errno::INVAL),
    ];
    for (error, operation, errno) in table {
        assert_eq!(error.errno(), Some(errno), "{operation}: {error}");
        let text = error.to_string();
        assert!(text.contains(operation), "{text}");
        assert!(text.contains(node) || text.contains("/a b"), "{text}");
    }
    assert!(matches!(dom0.read("a\0b"), Err(Error::Invalid(_))));
    assert!(matches!(
        dom0.write(node, vec![0; 4096]),
        Err(Error::Invalid(_))
    ));
    dom0.read(node)
        .expect("the connection is as good as before");
}

fn permissions_come_back(connect: &Connect<'_>, node: &str, _: Many) {
    let dom0 = connect();
    let perms = [
        Permission::new(Rights::None, DomId::DOM0),
        Permission::new(Rights::Both, DomId::DOM0),
        Permission::new(Rights::Write, DomId::DOM0),
    ];
    dom0.set_perms(node, &perms[..1]).unwrap();
    assert_eq!(dom0.get_perms(node).unwrap(), perms[..1]);
    dom0.set_perms(node, &perms).unwrap();
    assert_eq!(dom0.get_perms(node).unwrap(), perms);
    let child = format!("{node}/child");
    dom0.mkdir(&child).unwrap();
    assert_eq!(dom0.get_perms(&child).unwrap(), perms, "inherited");
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn fill(client: &Client, node: &str, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count)
        .map(|n| format!("a-name-long-enough-to-need-parts-{n:04}"))
        .collect();
    let requests = names
        .iter()
        .map(|name| Request::mkdir(&format!("{node}/{name}")));
    for answer in client.perform_all(requests).unwrap() {
        answer.unwrap();
    }
    names
}

fn a_long_directory_comes_whole(connect: &Connect<'_>, node: &str, _: Many) {
    let dom0 = connect();
    assert_eq!(dom0.directory(node).unwrap(), Vec::<String>::new());
    let names = fill(&dom0, node, 400);
    match dom0.directory(node) {
        // The daemon said so, and one with DIRECTORY_PART never does.
        Err(Error::NotOffered { what }) => assert!(what.contains("longer than a message")),
        found => assert_eq!(sorted(found.unwrap()), names),
    }
}

fn a_long_directory_that_changes_comes_from_one_moment(connect: &Connect<'_>, node: &str, _: Many) {
    let dom0 = connect();
    let names = fill(&dom0, node, 300);
    let one = format!("{node}/{}", names[0]);
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let other = connect();
            // One name goes and comes: it is in every list, or in none of its parts.
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                other.rm(&one).unwrap();
                other.mkdir(&one).unwrap();
            }
        });
        for _ in 0..20 {
            match dom0.directory(node) {
                Ok(mut found) => {
                    found.sort();
                    found.retain(|name| *name != names[0]);
                    assert_eq!(found, names[1..], "each of the others, once");
                }
                Err(Error::Conflict { .. } | Error::NotOffered { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        drop(stop);
    });
}

fn every_thread_of_one_connection_gets_its_own_answer(
    connect: &Connect<'_>,
    node: &str,
    many: Many,
) {
    const THREADS: usize = 16;
    let each = many.of(50);
    let dom0 = connect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let client = dom0.clone();
            scope.spawn(move || {
                let path = format!("{node}/{thread}");
                for round in 0..each {
                    let value = format!("{thread} {round}");
                    client.write(&path, &value).unwrap();
                    assert_eq!(client.read_string(&path).unwrap(), value);
                    let none = client.read(&format!("{path}/none")).unwrap_err();
                    assert_eq!(none.errno(), Some(Errno::NOENT));
                }
            });
        }
    });
}

fn submitted_requests_are_done_in_order(connect: &Connect<'_>, node: &str, _: Many) {
    let dom0 = connect();
    let mut first = dom0.submit(Request::write(node, "1")).unwrap();
    let forgotten = dom0.submit(Request::write(node, "2")).unwrap();
    let read = dom0.submit(Request::read(node)).unwrap();
    let missing = dom0.submit(Request::read(&format!("{node}/none"))).unwrap();
    drop(forgotten);
    let error = missing.wait(SOON).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOENT));
    assert!(error.to_string().contains("/none"), "{error}");
    assert_eq!(read.wait(SOON).unwrap(), b"2");
    assert!(matches!(first.poll(), Some(Ok(_))), "it was before them");
    assert!(first.poll().is_none(), "once");
    assert!(matches!(first.wait(SOON), Err(Error::Invalid(_))));
}

fn a_connection_has_a_limit_of_requests_in_flight(connect: &Connect<'_>, node: &str, _: Many) {
    let dom0 = connect();
    let mut tickets = Vec::new();
    let limit = loop {
        match dom0.submit(Request::read(node)) {
            Ok(ticket) => tickets.push(ticket),
            Err(Error::Busy { limit }) => break limit,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(tickets.len() <= limit, "{} of {limit}", tickets.len());
    for ticket in tickets {
        ticket.wait(SOON).unwrap();
    }
    dom0.submit(Request::read(node)).expect("room again");
}

fn many_nodes_are_read_at_once(connect: &Connect<'_>, node: &str, many: Many) {
    let count = many.of(3000);
    let dom0 = connect();
    let path = |n: usize| format!("{node}/{}", n % 10);
    for n in (0..10).step_by(2) {
        dom0.write(&path(n), n.to_string()).unwrap();
    }
    let values = dom0.read_many((0..count).map(path)).unwrap();
    assert_eq!(values.len(), count);
    for (n, value) in values.into_iter().enumerate() {
        let expected = (n % 2 == 0).then(|| (n % 10).to_string().into_bytes());
        assert_eq!(value, expected, "{n}");
    }
    let bad = dom0.read_many([path(0), "/a b".into(), path(2)]);
    assert_eq!(bad.unwrap_err().errno(), Some(Errno::INVAL));
    let inside = dom0.transaction(|tx| {
        tx.write(&path(1), "seen inside only, so far")?;
        tx.read_many([path(1)])
    });
    assert!(inside.unwrap()[0].is_some());
}

fn a_tree_is_made_and_removed_without_a_trace(connect: &Connect<'_>, node: &str, _: Many) {
    let dom0 = connect();
    let perms = vec![Permission::new(Rights::Read, DomId::DOM0)];
    let device = format!("{node}/a/b/c");
    let state = format!("{device}/state");
    let nodes = [
        (device.clone(), b"".to_vec(), perms.clone()),
        (state.clone(), b"1".to_vec(), Vec::new()),
    ];
    dom0.make_tree(&nodes).unwrap();
    assert_eq!(dom0.read(&state).unwrap(), b"1");
    assert_eq!(dom0.get_perms(&state).unwrap(), perms, "inherited");
    // Another device in the same directory: what both are in stays.
    let other = format!("{node}/a/other");
    dom0.mkdir(&other).unwrap();
    dom0.remove_tree(&device, node).unwrap();
    assert_eq!(dom0.directory(&format!("{node}/a")).unwrap(), ["other"]);
    dom0.remove_tree(&other, node).unwrap();
    assert_eq!(dom0.directory(node).unwrap(), Vec::<String>::new());
    dom0.remove_tree(&other, node).expect("gone already");
    assert!(dom0.exists(node).unwrap(), "what is to be kept is");
    // Refused in the middle: nothing is there.
    let bad = [
        (device.clone(), b"".to_vec(), Vec::new()),
        (format!("{device}/a b"), b"".to_vec(), Vec::new()),
    ];
    assert_eq!(
        dom0.make_tree(&bad).unwrap_err().errno(),
        Some(Errno::INVAL)
    );
    assert!(!dom0.exists(&device).unwrap());
}

fn what_is_asked_about_domains(connect: &Connect<'_>, _: &str, _: Many) {
    const NOBODY: DomId = DomId(31_999);
    let dom0 = connect();
    assert_eq!(dom0.domain_path(DomId(5)).unwrap(), "/local/domain/5");
    assert!(!dom0.is_domain_introduced(NOBODY).unwrap());
    for (what, answer) in [
        ("release", dom0.release(NOBODY)),
        ("resume", dom0.resume(NOBODY)),
        ("set-target", dom0.set_target(NOBODY, DomId(31_998))),
    ] {
        let error = answer.expect_err(what);
        assert!(matches!(error, Error::Refused { .. }), "{what}: {error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    dom0.read("/").expect("the connection is as good as before");
}

fn what_only_later_daemons_have_is_refused_by_name(connect: &Connect<'_>, node: &str, _: Many) {
    let dom0 = connect();
    // oxenstored says OK to a command that it does not know.
    let unknown = dom0.control(&["pv-no-such-command"]);
    assert!(matches!(unknown, Ok(_) | Err(Error::Refused { .. })));
    assert!(matches!(dom0.control(&[]), Err(Error::Invalid(_))));
    let Some(features) = dom0.features().unwrap() else {
        assert!(matches!(dom0.quotas(), Err(Error::NotOffered { .. })));
        let quota = dom0.quota(QuotaOf::Domain(DomId(1)), "nodes");
        assert!(matches!(quota, Err(Error::NotOffered { .. })));
        let deep = dom0.watch_to_depth(node, "t", 0);
        assert!(matches!(deep, Err(Error::NotOffered { .. })));
        return;
    };
    for name in dom0.quotas().unwrap() {
        dom0.quota(QuotaOf::Default, &name).unwrap();
    }
    if features.has(Features::WATCH_DEPTH) {
        let watch = dom0.watching_to_depth(node, 1).unwrap();
        assert!(watch.next(SOON).unwrap().unwrap().first);
        dom0.write(&format!("{node}/a/too-deep"), "1").unwrap();
        dom0.write(&format!("{node}/b"), "1").unwrap();
        let paths: Vec<_> = std::iter::from_fn(|| watch.try_next().unwrap()).collect();
        assert!(paths.iter().all(|event| !event.path.ends_with("too-deep")));
    }
}
