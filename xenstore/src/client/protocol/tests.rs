//! What the machine makes of a server's bytes, good and bad.

use super::*;
use crate::testing::step;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn ask(protocol: &mut Protocol, kind: Kind, payload: &[u8]) -> u32 {
    let id = protocol.next_id();
    let payload = payload.to_vec();
    let asked = Input::Ask {
        id,
        kind,
        tx_id: 0,
        payload,
    };
    let actions = step(protocol, asked);
    assert!(matches!(&actions[..], [Action::Send { id: sent, .. }] if *sent == id));
    id
}

fn receive(protocol: &mut Protocol, packet: &Packet) -> Vec<Action> {
    step(protocol, Input::Received(packet.encode()))
}

fn ends(actions: &[Action]) -> bool {
    matches!(actions.last(), Some(Action::End(_)))
}

#[test]
fn answers_are_matched_by_id_in_whatever_order_they_come() {
    let mut protocol = Protocol::default();
    let first = ask(&mut protocol, Kind::Read, b"a\0");
    let second = ask(&mut protocol, Kind::Write, b"b\0x");
    let event = receive(&mut protocol, &Packet::watch_event(b"p", b"t"));
    assert!(matches!(&event[..], [Action::Event(event)] if event.path == "p"));
    let answers = receive(&mut protocol, &Packet::new(Kind::Write, second, 0, "OK\0"));
    let answer = Answer::Done(b"OK\0".to_vec());
    assert_eq!(answers, [Action::Answer { id: second, answer }]);
    let answers = receive(
        &mut protocol,
        &Packet::new(Kind::Error, first, 0, "ENOENT\0"),
    );
    let answer = Answer::Refused(b"ENOENT\0".to_vec());
    assert_eq!(answers, [Action::Answer { id: first, answer }]);
    assert_eq!(protocol.in_flight(), 0);
}

#[test]
fn what_no_server_may_say_ends_the_connection_and_answers_everybody() {
    let bad: [(&str, Packet); 5] = [
        ("unasked", Packet::new(Kind::Read, 77, 0, "x")),
        ("kind", Packet::new(Kind::Write, 1, 0, "OK\0")),
        ("event", Packet::new(Kind::WatchEvent, 0, 0, "no-token\0")),
        ("event", Packet::new(Kind::WatchEvent, 0, 0, "")),
        (
            "unknown",
            Packet {
                kind: 99,
                req_id: 1,
                tx_id: 0,
                payload: Vec::new(),
            },
        ),
    ];
    for (what, packet) in bad {
        let mut protocol = Protocol::default();
        let (one, two) = (
            ask(&mut protocol, Kind::Read, b"a\0"),
            ask(&mut protocol, Kind::Read, b"b\0"),
        );
        let actions = receive(&mut protocol, &packet);
        assert!(ends(&actions), "{what}: {actions:?}");
        for id in [one, two] {
            let answers = actions.iter().filter(
                |action| matches!(action, Action::Answer { id: answered, .. } if *answered == id),
            );
            assert_eq!(answers.count(), 1, "{what}: {actions:?}");
        }
        // And it stays over: nothing more comes of it, and whoever asks hears so.
        assert_eq!(receive(&mut protocol, &Packet::watch_event(b"p", b"t")), []);
        let id = protocol.next_id();
        let asked = Input::Ask {
            id,
            kind: Kind::Read,
            tx_id: 0,
            payload: b"c\0".to_vec(),
        };
        let late = step(&mut protocol, asked);
        assert!(matches!(
            &late[..],
            [Action::Answer {
                answer: Answer::Lost(_),
                ..
            }]
        ));
    }
}

/// oxenstored's way; from anybody else, and for anything else, it is too long.
#[test]
fn only_a_directory_that_was_asked_may_be_long() {
    let long = |kind: Kind, id: u32, len: usize| {
        let mut bytes = Packet::new(kind, id, 0, Vec::new()).encode();
        bytes[12..16].copy_from_slice(&(len as u32).to_ne_bytes());
        bytes.resize(bytes.len() + len.min(100_000), b'n');
        Input::Received(bytes)
    };
    let mut protocol = Protocol::default();
    let id = ask(&mut protocol, Kind::Directory, b"a\0");
    let actions = step(&mut protocol, long(Kind::Directory, id, 100_000));
    assert!(
        matches!(&actions[..], [Action::Answer { answer: Answer::Done(names), .. }] if names.len() == 100_000)
    );
    // Not asked (any more); asked something else; no end.
    for (asked, kind, same, len) in [
        (Kind::Directory, Kind::Directory, false, 4097),
        (Kind::Read, Kind::Directory, true, 4097),
        (Kind::Directory, Kind::Read, true, 4097),
        (
            Kind::Directory,
            Kind::Directory,
            true,
            DIRECTORY_MAX_BYTES + 1,
        ),
    ] {
        let mut protocol = Protocol::default();
        let id = ask(&mut protocol, asked, b"a\0");
        let id = if same { id } else { id + 1 };
        assert!(
            ends(&step(&mut protocol, long(kind, id, len))),
            "{kind:?} {len}"
        );
    }
}

#[test]
fn an_answer_comes_once() {
    let mut protocol = Protocol::default();
    let id = ask(&mut protocol, Kind::Read, b"a\0");
    let answer = Packet::new(Kind::Read, id, 0, "x");
    assert!(!ends(&receive(&mut protocol, &answer)));
    assert!(ends(&receive(&mut protocol, &answer)));
}

#[test]
fn a_forgotten_request_keeps_its_id_until_its_answer_comes() {
    let mut protocol = Protocol::default();
    let id = ask(&mut protocol, Kind::Read, b"a\0");
    assert_eq!(step(&mut protocol, Input::Forget(id)), []);
    assert_eq!(protocol.in_flight(), 1);
    protocol.last_id = id.wrapping_sub(1);
    assert_ne!(protocol.next_id(), id);
    assert_eq!(
        receive(&mut protocol, &Packet::new(Kind::Read, id, 0, "x")),
        []
    );
    assert_eq!(protocol.in_flight(), 0);
}

#[test]
fn requests_in_flight_have_a_limit() {
    let mut protocol = Protocol::default();
    for _ in 0..IN_FLIGHT_MAX {
        let id = ask(&mut protocol, Kind::Read, b"a\0");
        step(&mut protocol, Input::Forget(id));
    }
    let id = protocol.next_id();
    let asked = Input::Ask {
        id,
        kind: Kind::Read,
        tx_id: 0,
        payload: b"a\0".to_vec(),
    };
    let answer = Answer::Busy;
    assert_eq!(step(&mut protocol, asked), [Action::Answer { id, answer }]);
}

#[test]
fn the_event_of_a_fresh_watch_is_told_apart() {
    let event = |protocol: &mut Protocol| {
        let actions = receive(protocol, &Packet::watch_event(b"p", b"t"));
        match &actions[..] {
            [Action::Event(event)] => event.first,
            other => panic!("{other:?}"),
        }
    };
    let mut protocol = Protocol::default();
    assert!(!event(&mut protocol), "nothing was asked");
    let id = ask(&mut protocol, Kind::Watch, b"p\0t\0");
    assert!(event(&mut protocol), "before the answer, as on the device");
    assert!(!event(&mut protocol));
    receive(&mut protocol, &Packet::new(Kind::Watch, id, 0, "OK\0"));
    assert!(!event(&mut protocol));

    // Refused: nothing new was registered.
    let id = ask(&mut protocol, Kind::Watch, b"p\0t\0");
    receive(&mut protocol, &Packet::new(Kind::Error, id, 0, "EEXIST\0"));
    assert!(!event(&mut protocol));

    // Gone before it fired.
    let id = ask(&mut protocol, Kind::Watch, b"p\0t\0");
    receive(&mut protocol, &Packet::new(Kind::Watch, id, 0, "OK\0"));
    let id = ask(&mut protocol, Kind::Unwatch, b"p\0t\0");
    receive(&mut protocol, &Packet::new(Kind::Unwatch, id, 0, "OK\0"));
    assert!(!event(&mut protocol));
    assert!(protocol.fresh.is_empty());
}

/// Bytes that look like a server's, mostly.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        Just(b"OK\0".to_vec()),
        Just(b"p\0t\0".to_vec()),
        Just(b"ENOENT\0".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    let kind = prop_oneof![4 => 0_u32..28, 1 => any::<u32>()];
    let len = prop_oneof![8 => Just(None), 1 => any::<u32>().prop_map(Some)];
    (kind, 0_u32..6, payload, len).prop_map(|(kind, req_id, payload, len)| {
        let tx_id = 0;
        let mut bytes = Packet {
            kind,
            req_id,
            tx_id,
            payload,
        }
        .encode();
        if let Some(len) = len {
            bytes[12..16].copy_from_slice(&len.to_ne_bytes());
        }
        bytes
    })
}

#[derive(Clone, Debug)]
enum Do {
    Ask(usize),
    Forget(u32),
    Receive(Vec<u8>),
}

fn what_happens() -> impl Strategy<Value = Do> {
    prop_oneof![
        2 => (0..Kind::ALL.len()).prop_map(Do::Ask),
        1 => (0_u32..6).prop_map(Do::Forget),
        3 => stream().prop_map(Do::Receive),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Do::Receive),
    ]
}

/// What must hold of everything that a machine does. Kept apart from it, so that it can be seen to fail.
#[derive(Default)]
struct Judge {
    /// Asked, and is the answer still wanted?
    open: BTreeMap<u32, bool>,
    over: bool,
}

impl Judge {
    fn take(&mut self, actions: &[Action]) -> Result<(), String> {
        for action in actions {
            if self.over && !matches!(action, Action::Answer { .. }) {
                return Err(format!("after the end: {action:?}"));
            }
            match action {
                Action::Answer { id, .. } => match self.open.remove(id) {
                    Some(_) => {}
                    None => return Err(format!("{id} was answered twice, or never asked")),
                },
                Action::End(_) => self.over = true,
                Action::Send { .. } | Action::Event(_) => {}
            }
        }
        match self.open.values().any(|wanted| *wanted) && self.over {
            true => Err("a request without an answer".into()),
            false => Ok(()),
        }
    }
}

#[test]
fn the_judge_sees_what_is_wrong() {
    let end = Action::End("x".into());
    let answer = |id| Action::Answer {
        id,
        answer: Answer::Busy,
    };
    let judge = || Judge {
        open: BTreeMap::from([(1, true)]),
        over: false,
    };
    assert!(judge().take(&[answer(1), end.clone()]).is_ok());
    assert!(judge().take(&[answer(1), answer(1)]).is_err());
    assert!(judge().take(&[answer(2)]).is_err());
    assert!(judge().take(std::slice::from_ref(&end)).is_err());
    assert!(judge().take(&[answer(1), end.clone(), end]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever bytes come: no panic, every request answered once, nothing after the end, and no more
    /// memory than a message and what came with it.
    #[test]
    fn any_bytes(happenings in prop::collection::vec(what_happens(), 1..40)) {
        let mut protocol = Protocol::default();
        let mut judge = Judge::default();
        for happening in happenings {
            let mut came = 0;
            let input = match happening {
                Do::Ask(kind) => {
                    let id = protocol.next_id();
                    judge.open.insert(id, true);
                    let payload = b"p\0t\0".to_vec();
                    Input::Ask { id, kind: Kind::ALL[kind], tx_id: 0, payload }
                }
                Do::Forget(id) => {
                    judge.open.entry(id).and_modify(|wanted| *wanted = false);
                    Input::Forget(id)
                }
                Do::Receive(bytes) => {
                    came = bytes.len();
                    Input::Received(bytes)
                }
            };
            let actions = step(&mut protocol, input);
            if let Err(wrong) = judge.take(&actions) {
                return Err(TestCaseError::fail(wrong));
            }
            let held = protocol.decoder.buffered();
            prop_assert!(held < PAYLOAD_MAX_BYTES + 16 + came, "{held} bytes held");
        }
    }
}
