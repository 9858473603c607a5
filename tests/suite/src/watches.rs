//! Watches.

use crate::case::{Case, Connect, Many, Needs, SOON};
use pv_xenstore::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN};
use pv_xenstore::{Error, Watch};
use rustix::io::Errno;
use std::time::Duration;

pub const CASES: &[Case] = &[
    Case::new("first", the_first_event_is_told_apart),
    Case::new("common-queue", tokens_of_ones_own_come_in_the_common_queue),
    Case::new("one-queue", several_paths_come_in_one_queue),
    Case::new("unwatch", a_dropped_watch_is_gone),
    Case::new("many-watches", watches_that_come_and_go_leave_nothing),
    Case::with(
        "special",
        Needs::Dom0,
        special_watches_fire_when_they_are_set,
    ),
    Case::with(
        "reset",
        Needs::OwnConnection,
        after_a_reset_nothing_is_watched,
    ),
    Case::new("condition", waiting_for_a_condition),
    Case::new("beside", a_waiting_thread_hinders_no_other),
];

fn next(watch: &Watch) -> (String, bool) {
    let event = watch.next(SOON).unwrap().expect("an event");
    (event.path, event.first)
}

fn the_first_event_is_told_apart(connect: &Connect<'_>, node: &str, _: Many) {
    let (client, writer) = (connect(), connect());
    let watch = client.watching(node).unwrap();
    assert_eq!(next(&watch), (node.to_owned(), true));
    assert_eq!(watch.try_next().unwrap(), None);
    writer.write(node, "1").unwrap();
    assert_eq!(next(&watch), (node.to_owned(), false));
    let below = format!("{node}/below");
    for n in 0..50 {
        writer.write(&below, n.to_string()).unwrap();
    }
    client.read(&below).unwrap();
    // Whatever came together is one event, and nothing else came.
    let mut events = 0;
    while let Some(event) = watch.try_next().unwrap() {
        assert_eq!((&event.path, event.first), (&below, false));
        events += 1;
    }
    assert!((1..=50).contains(&events), "{events}");
    assert_eq!(
        client.next_watch_event().unwrap(),
        None,
        "none in the common queue"
    );
}

fn tokens_of_ones_own_come_in_the_common_queue(connect: &Connect<'_>, node: &str, _: Many) {
    let client = connect();
    client.watch(node, "token").unwrap();
    let event = client.wait_watch_event(SOON).unwrap().unwrap();
    assert_eq!((&*event.path, &*event.token), (node, "token"));
    assert!(event.first);
    // A second time: refused, and no event; over /dev/xen/xenbus it is taken and fires.
    if let Err(error) = client.watch(node, "token") {
        assert_eq!(error.errno(), Some(Errno::EXIST));
        client.write(node, "1").unwrap();
        let event = client.wait_watch_event(SOON).unwrap().unwrap();
        assert!(!event.first, "nothing new was registered");
    }
    client.unwatch(node, "token").unwrap();
}

fn several_paths_come_in_one_queue(connect: &Connect<'_>, node: &str, _: Many) {
    let client = connect();
    let paths = [format!("{node}/a"), format!("{node}/b")];
    let watch = client.watching_all(&paths).unwrap();
    let mut first = [next(&watch).0, next(&watch).0];
    first.sort();
    assert_eq!(first, paths);
    client.write(&paths[1], "1").unwrap();
    assert_eq!(next(&watch), (paths[1].clone(), false));
    // A path that cannot be watched: nothing is.
    let bad = client.watching_all(&[node, "/a b"]).unwrap_err();
    assert_eq!(bad.errno(), Some(Errno::INVAL));
}

fn a_dropped_watch_is_gone(connect: &Connect<'_>, node: &str, _: Many) {
    let client = connect();
    let watch = client.watching(node).unwrap();
    next(&watch);
    drop(watch);
    client.write(node, "1").unwrap();
    client.read(node).unwrap();
    assert_eq!(client.next_watch_event().unwrap(), None);
    let again = client.watching(node).unwrap();
    assert_eq!(next(&again), (node.to_owned(), true));
    assert_eq!(again.try_next().unwrap(), None);
}

fn watches_that_come_and_go_leave_nothing(connect: &Connect<'_>, node: &str, many: Many) {
    let client = connect();
    for _ in 0..many.of(500) {
        let watch = client.watching(node).unwrap();
        assert!(watch.paths() == [node]);
    }
    // Had they stayed, this would be 500 events in the common queue.
    client.write(node, "1").unwrap();
    client.read(node).unwrap();
    assert!(client.next_watch_event().unwrap().is_none());
}

fn special_watches_fire_when_they_are_set(connect: &Connect<'_>, _: &str, _: Many) {
    let client = connect();
    for path in [INTRODUCE_DOMAIN, RELEASE_DOMAIN] {
        let watch = client.watching(path).unwrap();
        assert_eq!(next(&watch), (path.to_owned(), true));
    }
}

fn after_a_reset_nothing_is_watched(connect: &Connect<'_>, node: &str, _: Many) {
    let client = connect();
    client.watch(node, "t").unwrap();
    client.wait_watch_event(SOON).unwrap().unwrap();
    match client.reset_watches() {
        Ok(()) => {}
        Err(Error::Refused { .. }) => return,
        Err(error) => panic!("{error}"),
    }
    client.write(node, "1").unwrap();
    client.read(node).unwrap();
    assert_eq!(client.next_watch_event().unwrap(), None);
    client.watch(node, "t").expect("not watched any more");
}

fn waiting_for_a_condition(connect: &Connect<'_>, node: &str, _: Many) {
    let (client, writer) = (connect(), connect());
    let path = format!("{node}/state");
    let is = |wanted: &'static str| {
        move |value: Option<&[u8]>| (value == Some(wanted.as_bytes())).then_some(wanted.len())
    };
    let soon = Duration::from_millis(20);
    assert_eq!(client.wait_until(&path, soon, is("go")).unwrap(), None);
    writer.write(&path, "go").unwrap();
    assert_eq!(client.wait_until(&path, soon, is("go")).unwrap(), Some(2));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| client.wait_until(&path, SOON, is("four")));
        for value in ["a", "b", "four"] {
            writer.write(&path, value).unwrap();
        }
        assert_eq!(waits.join().unwrap().unwrap(), Some(4));
    });
    let gone = |value: Option<&[u8]>| value.is_none().then_some(());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| client.wait_until(&path, SOON, gone));
        writer.rm(&path).unwrap();
        assert_eq!(waits.join().unwrap().unwrap(), Some(()));
    });
}

/// One thread waits for an event that does not come; another's requests on the same connection go on, and
/// the events that they take in come to the first.
fn a_waiting_thread_hinders_no_other(connect: &Connect<'_>, node: &str, many: Many) {
    let client = connect();
    let watch = client.watching(&format!("{node}/flag")).unwrap();
    next(&watch);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| next(&watch));
        for n in 0..many.of(200) {
            client.write(node, n.to_string()).unwrap();
            assert_eq!(client.read_parsed::<usize>(node).unwrap(), n);
        }
        client.write(&format!("{node}/flag"), "1").unwrap();
        // Requests go on, and one of them may take the event in.
        for _ in 0..50 {
            client.read(node).unwrap();
        }
        assert_eq!(waits.join().unwrap(), (format!("{node}/flag"), false));
    });
}
