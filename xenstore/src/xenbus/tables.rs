//! Every place of each machine against every state of the peer.
//!
//! Cells: `.` nothing to do, `!` refused with a reason, a digit a switch to that state (a
//! following `c` says: on condition), `f` features, `p` prepare a ring, `r` read the peer and
//! connect, `t` the same for a ring that is in service, `s` stop requests, `g` say that the peer is
//! gone, `-` free resources, `e` report an error, `x` the end. Each switch without a condition is
//! followed by a fresh look at the peer.

use super::{SwitchState, XenbusState, back, front};
use crate::testing::step;
use XenbusState::*;

const PEERS: [Option<XenbusState>; 10] = [
    None,
    Some(Unknown),
    Some(Initialising),
    Some(InitWait),
    Some(Initialised),
    Some(Connected),
    Some(Closing),
    Some(Closed),
    Some(Reconfiguring),
    Some(Reconfigured),
];

fn switch(SwitchState { to, while_peer, .. }: SwitchState) -> String {
    format!(
        "{}{}",
        to.as_str(),
        if while_peer.is_some() { "c" } else { "" }
    )
}

/// Checks that looks follow switches, and leaves them out.
fn cell(actions: &[String]) -> String {
    for (n, action) in actions.iter().enumerate() {
        let unconditional = action.len() == 1 && action.as_bytes()[0].is_ascii_digit();
        let looks = actions.get(n + 1).is_some_and(|next| next == "?");
        assert!(
            !unconditional || looks,
            "a switch without a look: {actions:?}"
        );
    }
    let text: String = actions
        .iter()
        .filter(|a| *a != "?")
        .map(String::as_str)
        .collect();
    if text.is_empty() { ".".into() } else { text }
}

fn front_cell(actions: Vec<front::Action>) -> String {
    use front::Action::*;
    let text = |action: &front::Action| match action {
        PrepareRing => "p".into(),
        ReadPeerAndConnect => "r".into(),
        SwitchState(s) => switch(*s),
        ReadPeer => "?".into(),
        StopRequests => "s".into(),
        FreeResources => "-".into(),
        ReportError(_) => "e".into(),
        RemoveDevice => "x".into(),
        Refuse(_) => "!".into(),
    };
    cell(&actions.iter().map(text).collect::<Vec<_>>())
}

fn back_cell(actions: Vec<back::Action>) -> String {
    use back::Action::*;
    let text = |action: &back::Action| match action {
        PublishFeatures => "f".into(),
        ReadPeerAndConnect { take_over: false } => "r".into(),
        ReadPeerAndConnect { take_over: true } => "t".into(),
        SwitchState(s) => switch(*s),
        ReadPeer => "?".into(),
        PeerGone => "g".into(),
        FreeResources => "-".into(),
        ReportError(_) => "e".into(),
        RemoveDevice => "x".into(),
        Refuse(_) => "!".into(),
    };
    cell(&actions.iter().map(text).collect::<Vec<_>>())
}

fn front_after(inputs: &[front::Input]) -> front::Handshake {
    let mut machine = front::Handshake::new(None);
    for input in inputs {
        let actions = step(&mut machine, input.clone());
        let refused = actions
            .iter()
            .any(|a| matches!(a, front::Action::Refuse(_)));
        assert!(!refused, "{input:?}: {actions:?}");
    }
    machine
}

fn back_after(inputs: &[back::Input]) -> back::Handshake {
    let mut machine = back::Handshake::new();
    for input in inputs {
        let actions = step(&mut machine, input.clone());
        let refused = actions.iter().any(|a| matches!(a, back::Action::Refuse(_)));
        assert!(!refused, "{input:?}: {actions:?}");
    }
    machine
}

/// The way into service, cut off after `upto` inputs, then `more`.
fn front_way(upto: usize, more: &[front::Input]) -> front::Handshake {
    use front::Input as I;
    let sees = |state| I::Peer {
        state: Some(state),
        online: true,
    };
    let way = [
        I::Start(Some(Initialising)),
        sees(Initialising),
        sees(InitWait),
        I::RingReady,
        I::Switched,
        sees(Connected),
        I::Connected,
        I::Switched,
    ];
    front_after(&[&way[..upto], more].concat())
}

fn back_way(upto: usize, more: &[back::Input]) -> back::Handshake {
    use back::Input as I;
    let way = [
        I::Start {
            own: Some(Initialising),
            online: true,
        },
        I::Peer(Some(Initialising)),
        I::Peer(Some(Initialised)),
        I::Connected,
        I::Switched,
        I::Peer(Some(Connected)),
    ];
    back_after(&[&way[..upto], more].concat())
}

fn compare(what: &str, found: Vec<(String, [String; 10])>, expected: &str) {
    let mut text = String::new();
    for (name, cells) in found {
        text += &format!("{name:<24}");
        text += &cells.map(|c| format!("{c:<5}")).concat();
        text = text.trim_end().to_owned() + "\n";
    }
    let expected: String = expected
        .lines()
        .skip(2)
        .map(|l| format!("{}\n", l.trim()))
        .collect();
    assert!(text == expected, "{what}:\n{text}");
}

#[test]
fn front_end() {
    use front::Input as I;
    let sees = |state, online| I::Peer {
        state: Some(state),
        online,
    };
    let mut found = Vec::new();
    for online in [true, false] {
        let ask = [I::CloseRequested, sees(Connected, online)];
        let places = [
            ("initialising", front_way(1, &[])),
            ("preparing", front_way(3, &[])),
            ("initialised", front_way(5, &[])),
            ("connecting", front_way(6, &[])),
            ("connected", front_way(8, &[])),
            (
                "closing",
                front_after(&[I::Start(Some(Connected)), sees(Connected, online)]),
            ),
            ("closing, draining", front_way(8, &ask)),
            (
                "closed, holding",
                front_way(5, &[sees(Closing, online), sees(Closing, online)]),
            ),
            (
                "closed",
                front_after(&[I::Start(Some(Closed)), sees(Closing, online)]),
            ),
        ];
        for (name, machine) in places {
            let name = format!("{name}{}", if online { "" } else { " (off)" });
            let cells = PEERS
                .map(|state| front_cell(step(&mut machine.clone(), I::Peer { state, online })));
            found.push((name, cells));
        }
    }
    let expected = "
        place                   gone 0    1    2    3    4    5    6    7    8
        initialising            .    !    .    p    .    5    6    .    !    !
        preparing               .    !    .    .    .    .    .    .    !    !
        initialised             5    !    .    .    .    r    5    5    !    !
        connecting              .    !    .    .    .    .    .    .    !    !
        connected               s5   !    s5   s5   s5   .    s5   s5   !    !
        closing                 6    !    .    .    .    .    6    6    !    !
        closing, draining       6    !    .    .    .    .    .    6    !    !
        closed, holding         -    !    .    .    .    !    .    -    !    !
        closed                  .    !    .    .    .    !    .    1    !    !
        initialising (off)      .    !    .    p    .    5    6    6    !    !
        preparing (off)         .    !    .    .    .    .    .    .    !    !
        initialised (off)       5    !    .    .    .    r    5    5    !    !
        connecting (off)        .    !    .    .    .    .    .    .    !    !
        connected (off)         s5   !    s5   s5   s5   .    s5   s5   !    !
        closing (off)           6    !    .    .    .    .    6    6    !    !
        closing, draining (off) 6    !    .    .    .    .    .    6    !    !
        closed, holding (off)   -    !    .    .    .    !    .    -    !    !
        closed (off)            .    !    .    .    .    !    .    x    !    !";
    compare("front end", found, expected);
}

#[test]
fn back_end() {
    use back::Input as I;
    let peer = |state| I::Peer(Some(state));
    let started = |own| I::Start {
        own: Some(own),
        online: true,
    };
    let mut found = Vec::new();
    let places = [
        ("init-wait", back_way(2, &[])),
        ("inherited", back_after(&[started(Connected)])),
        (
            "taking over",
            back_after(&[started(Connected), peer(Connected)]),
        ),
        ("left closing", back_after(&[started(Closing)])),
        ("left closed", back_after(&[started(Closed)])),
        ("connecting", back_way(3, &[])),
        ("connected", back_way(6, &[])),
        (
            "closing, holding",
            back_way(6, &[peer(Closing), peer(Closing)]),
        ),
        ("closing", back_way(2, &[peer(Closing), peer(Closing)])),
        ("closed", back_way(2, &[peer(Closed), peer(Closed)])),
    ];
    for (name, machine) in places {
        let cells = PEERS.map(|state| back_cell(step(&mut machine.clone(), I::Peer(state))));
        found.push((name.into(), cells));
    }
    let expected = "
        place                   gone 0    1    2    3    4    5    6    7    8
        init-wait               6    !    .    !    r    r    5    6    !    !
        inherited               f2   !    f2   f2   t    t    5    f2   !    !
        taking over             g    !    .    !    .    .    .    .    !    !
        left closing            6    !    6    6    .    .    .    6    !    !
        left closed             .    !    f2   !    !    !    .    .    !    !
        connecting              g    !    .    !    .    .    .    .    !    !
        connected               g5   !    5    5    .    .    5    5    !    !
        closing, holding        g-   !    -    -    .    .    .    -    !    !
        closing                 6    !    6    6    .    .    .    6    !    !
        closed                  .    !    f2   !    !    !    .    .    !    !";
    compare("back end", found, expected);
}

/// Local inputs where they make no sense are refused and change nothing.
#[test]
fn nonsense_is_refused() {
    use back::Input as B;
    use front::Input as F;
    let fronts = [
        (front::Handshake::new(None), F::RingReady),
        (front_way(1, &[]), F::Start(Some(Initialising))),
        (front_way(1, &[]), F::RingReady),
        (front_way(1, &[]), F::RingFailed(String::new())),
        (front_way(5, &[]), F::Connected),
        (front_way(5, &[]), F::Freed),
        (front_way(5, &[]), F::Switched),
        (
            front_way(5, &[]),
            F::PeerMoved {
                state: None,
                online: true,
            },
        ),
        (front_way(8, &[]), F::ConnectFailed(String::new())),
        (front_way(8, &[]), F::Own(Some(Unknown))),
        (front_after(&[F::Start(None)]), F::Start(None)),
    ];
    for (machine, input) in fronts {
        let mut after = machine.clone();
        assert!(
            matches!(
                step(&mut after, input.clone())[..],
                [front::Action::Refuse(_)]
            ),
            "{input:?}"
        );
        assert_eq!(after, machine, "{input:?}");
    }
    let backs = [
        (back::Handshake::new(), B::Freed),
        (
            back_way(2, &[]),
            B::Start {
                own: None,
                online: true,
            },
        ),
        (back_way(2, &[]), B::Connected),
        (back_way(2, &[]), B::ConnectFailed(String::new())),
        (back_way(6, &[]), B::Freed),
        (back_way(6, &[]), B::Switched),
        (back_way(6, &[]), B::PeerMoved(None)),
        (back_way(6, &[]), B::Own(Some(Reconfigured))),
        (
            back_after(&[B::Start {
                own: None,
                online: true,
            }]),
            B::Freed,
        ),
    ];
    for (machine, input) in backs {
        let mut after = machine.clone();
        assert!(
            matches!(
                step(&mut after, input.clone())[..],
                [back::Action::Refuse(_)]
            ),
            "{input:?}"
        );
        assert_eq!(after, machine, "{input:?}");
    }
}

#[test]
fn rings_that_never_come_into_service_are_given_up() {
    use front::Input as I;
    let sees = |state| I::Peer {
        state: Some(state),
        online: true,
    };
    let mut machine = front::Handshake::new(Some(2));
    step(&mut machine, I::Start(Some(Initialising)));
    // The back end cannot connect, and closes, each time.
    for _ in 0..2 {
        assert_eq!(front_cell(step(&mut machine, sees(InitWait))), "p");
        step(&mut machine, I::RingReady);
        step(&mut machine, I::Switched);
        assert_eq!(front_cell(step(&mut machine, sees(Closed))), "5");
        assert_eq!(front_cell(step(&mut machine, sees(Closed))), "6");
        assert_eq!(front_cell(step(&mut machine, sees(Closed))), "-");
        assert_eq!(front_cell(step(&mut machine, I::Freed)), "1");
    }
    assert_eq!(front_cell(step(&mut machine, sees(InitWait))), "e6");
    assert_eq!(front_cell(step(&mut machine, sees(InitWait))), "x");
}

#[test]
fn a_fatal_error_closes_the_device_with_its_reason() {
    let mut machine = back_way(6, &[]);
    let actions = step(
        &mut machine,
        back::Input::Fatal("the ring is broken".into()),
    );
    assert_eq!(
        actions[0],
        back::Action::ReportError("the ring is broken".into())
    );
    assert_eq!(back_cell(actions), "e5");
    // It lets go whatever the front end says now.
    assert_eq!(
        back_cell(step(&mut machine, back::Input::Peer(Some(Connected)))),
        "-"
    );
    assert_eq!(back_cell(step(&mut machine, back::Input::Freed)), "6");
    let mut machine = front_way(8, &[]);
    assert_eq!(
        front_cell(step(&mut machine, front::Input::Fatal("rsp_prod".into()))),
        "es5"
    );
}
