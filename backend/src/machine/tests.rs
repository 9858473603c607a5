use super::model::{Policy, SECTORS, Seen, run};
use super::*;
use libgnt::proto::blkif::{Malformed, Operation, Request, Segment, Segments, Status};
use libgnt::{Access, GrantRef};

const MODES: [DataMode; 3] = [DataMode::Map, DataMode::Copy, DataMode::Persistent];

fn policy(mode: DataMode) -> Policy {
    Policy {
        mode,
        read_only: false,
        requests: 400,
        fail_one_in: 20,
        hold_one_in: 8,
        vanish: false,
        grefs: 600,
        sabotage: BackSabotage::None,
    }
}

fn run_all(seeds: std::ops::Range<u64>, policy: &Policy) -> Seen {
    let mut all = Seen::default();
    for seed in seeds {
        let seen = run(seed, policy).unwrap_or_else(|what| panic!("{what}"));
        all.okay += seen.okay;
        all.errors += seen.errors;
        all.unsupported += seen.unsupported;
        all.refused_to_take += seen.refused_to_take;
        all.evictions += seen.evictions;
        all.most_zombies = all.most_zombies.max(seen.most_zombies);
        all.max_cached = all.max_cached.max(seen.max_cached);
    }
    all
}

#[test]
fn any_order_and_any_failure_keeps_the_rules() {
    for mode in MODES {
        let seen = run_all(0..60, &policy(mode));
        assert!(
            seen.okay > 1000 && seen.errors > 1000 && seen.unsupported > 100,
            "{seen:?}"
        );
        if mode == DataMode::Map {
            assert!(seen.refused_to_take > 0 && seen.most_zombies >= DEFAULT_MAX_ZOMBIES);
        }
        if mode == DataMode::Persistent {
            assert!(seen.evictions > 0, "{seen:?}");
            assert_eq!(
                seen.max_cached,
                RING_SIZE * MAX_SEGMENTS,
                "the cache never filled"
            );
        }
    }
}

#[test]
fn a_front_that_vanishes_leaves_nothing_mapped() {
    for mode in MODES {
        run_all(
            100..200,
            &Policy {
                vanish: true,
                ..policy(mode)
            },
        );
    }
}

#[test]
fn without_failures_and_holders_too() {
    for mode in MODES {
        let calm = Policy {
            fail_one_in: 0,
            hold_one_in: 0,
            ..policy(mode)
        };
        assert!(run_all(0..20, &calm).okay > 1000);
    }
}

#[test]
fn a_read_only_disk_is_never_written() {
    for mode in MODES {
        run_all(
            0..20,
            &Policy {
                read_only: true,
                ..policy(mode)
            },
        );
    }
}

#[test]
fn every_sabotage_is_caught() {
    for (sabotage, mode) in [
        (BackSabotage::RespondBeforeRelease, DataMode::Map),
        (BackSabotage::RespondTwice, DataMode::Copy),
        (BackSabotage::UnmapDuringDisk, DataMode::Map),
        (BackSabotage::NoZombieBound, DataMode::Map),
        (BackSabotage::KeepCache, DataMode::Persistent),
        (BackSabotage::NoRangeCheck, DataMode::Map),
    ] {
        let broken = Policy {
            sabotage,
            ..policy(mode)
        };
        let caught = (0..20).filter(|&seed| run(seed, &broken).is_err()).count();
        assert!(caught >= 15, "{sabotage:?}: caught in {caught} of 20 runs");
    }
}

fn request(operation: Operation, sector: u64, grefs: &[u32]) -> Request {
    let segments: Segments = grefs
        .iter()
        .map(|&gref| Segment {
            gref,
            first_sector: 0,
            last_sector: 7,
        })
        .collect();
    Request {
        operation,
        handle: 0,
        id: 7,
        sector,
        segments,
    }
}

fn opened(mode: DataMode) -> BackMachine {
    let mut machine = BackMachine::new(Limits {
        sectors: SECTORS,
        ..Limits::default()
    });
    open(&mut machine, mode);
    assert!(machine.can_take());
    machine
}

fn open(machine: &mut BackMachine, mode: DataMode) {
    let read_only = false;
    let actions = step(machine, Input::Open { mode, read_only });
    assert_eq!(actions, []);
}

/// The key of the only action, which is the end of a request's own mapping.
fn unmapped(actions: &[Action], of: Request, ok: bool) -> MapKey {
    let [
        Action::Unmap {
            key: key @ MapKey::Request(_),
            request: Some(info),
        },
    ] = actions
    else {
        panic!("{actions:?}");
    };
    let expected = RequestInfo {
        id: of.id,
        operation: of.operation,
        sector: of.sector,
        segments: of.segments,
        ok,
    };
    assert_eq!(*info, expected);
    *key
}

fn step(machine: &mut BackMachine, input: Input) -> Vec<Action> {
    let mut out = Vec::new();
    machine.step(Now::ZERO, input, &mut out);
    out
}

fn answered(actions: &[Action]) -> Option<Status> {
    match actions {
        [Action::Respond(response)] => Some(response.status),
        _ => None,
    }
}

#[test]
fn the_life_of_a_read_with_a_map_of_its_own() {
    let mut machine = opened(DataMode::Map);
    let read = request(Operation::Read, 24, &[1, 2]);
    let actions = step(&mut machine, Input::Request(read));
    let [
        Action::Map {
            key,
            access: Access::ReadWrite,
            segments,
        },
    ] = actions[..]
    else {
        panic!("{actions:?}");
    };
    let grants: Vec<GrantRef> = segments.iter().map(Segment::grant).collect();
    assert_eq!(grants, [GrantRef(1), GrantRef(2)]);
    let actions = step(&mut machine, Input::Mapped(key));
    let [
        Action::Disk {
            tag,
            op: DiskOp::Read,
            sector: 24,
            segments,
            pages: Pages::Own,
        },
    ] = actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(segments, read.segments);
    let actions = step(&mut machine, Input::DiskDone { tag, ok: true });
    assert_eq!(unmapped(&actions, read, true), key);
    assert_eq!((machine.in_flight(), machine.zombies()), (1, 1));
    let actions = step(&mut machine, Input::Released(key));
    assert_eq!(answered(&actions), Some(Status::Okay));
    assert_eq!((machine.in_flight(), machine.zombies()), (0, 0));
}

#[test]
fn any_bound_of_zombies_will_do() {
    let most = |max_zombies| {
        let config = Limits {
            max_zombies,
            ..Limits::default()
        };
        BackMachine::new(config).most_unmaps()
    };
    assert_eq!(
        most(DEFAULT_MAX_ZOMBIES),
        DEFAULT_MAX_ZOMBIES + RING_SIZE + 1
    );
    assert_eq!(most(usize::MAX), usize::MAX);
}

#[test]
fn a_held_request_delays_no_other() {
    let mut machine = opened(DataMode::Map);
    let unmapping = |machine: &mut BackMachine, gref| {
        let write = request(Operation::Write, 0, &[gref]);
        let [Action::Map { key, .. }] = step(machine, Input::Request(write))[..] else {
            panic!("no map");
        };
        let [Action::Disk { tag, .. }] = step(machine, Input::Mapped(key))[..] else {
            panic!("no disk");
        };
        let actions = step(machine, Input::DiskDone { tag, ok: true });
        assert_eq!(unmapped(&actions, write, true), key);
        key
    };
    let held = unmapping(&mut machine, 1);
    for gref in 2..100 {
        let key = unmapping(&mut machine, gref);
        assert_eq!(
            answered(&step(&mut machine, Input::Released(key))),
            Some(Status::Okay)
        );
    }
    assert_eq!(
        answered(&step(&mut machine, Input::Released(held))),
        Some(Status::Okay)
    );
}

#[test]
fn zombies_of_a_dead_front_count_against_the_next() {
    let mut machine = opened(DataMode::Map);
    let mut keys = Vec::new();
    for gref in 0..DEFAULT_MAX_ZOMBIES as u32 {
        assert!(machine.can_take());
        let write = request(Operation::Write, 0, &[gref]);
        let [Action::Map { key, .. }] = step(&mut machine, Input::Request(write))[..] else {
            panic!("no map");
        };
        keys.push((key, write));
    }
    step(&mut machine, Input::PeerGone);
    open(&mut machine, DataMode::Map);
    assert!(
        !machine.is_drained() && !machine.is_open(),
        "opened with maps of the last front"
    );
    for &(key, write) in &keys {
        // The write was not acknowledged, and nobody waits for it: straight to the unmap.
        let actions = step(&mut machine, Input::Mapped(key));
        assert_eq!(unmapped(&actions, write, true), key);
    }
    assert!(machine.is_drained());
    open(&mut machine, DataMode::Map);
    assert!(machine.is_open());
    assert!(
        !machine.can_take(),
        "took a request with {DEFAULT_MAX_ZOMBIES} zombies"
    );
    assert_eq!(
        step(&mut machine, Input::Released(keys[0].0)),
        [],
        "answered a front that is gone"
    );
    assert!(machine.can_take());
}

#[test]
fn geometry_is_judged_before_a_page_is_touched() {
    let malformed = Operation::Malformed {
        number: 0,
        why: Malformed::FlushWithData(1),
    };
    let cases = [
        (request(Operation::Other(5), 0, &[1]), Status::NotSupported),
        (request(malformed, 0, &[]), Status::Error),
        (request(Operation::Read, SECTORS, &[1]), Status::Error),
        (request(Operation::Read, SECTORS - 7, &[1]), Status::Error),
        (request(Operation::Write, u64::MAX, &[1]), Status::Error),
        (request(Operation::Write, u64::MAX - 7, &[1]), Status::Error),
        (request(Operation::Read, 0, &[]), Status::Error),
        (request(Operation::Flush, 0, &[1]), Status::Error),
    ];
    for mode in MODES {
        let mut machine = opened(mode);
        for (request, status) in cases {
            let actions = step(&mut machine, Input::Request(request));
            assert_eq!(answered(&actions), Some(status), "{request:?}");
        }
        assert_eq!(machine.in_flight(), 0);
        let last = step(
            &mut machine,
            Input::Request(request(Operation::Read, SECTORS - 8, &[1])),
        );
        assert_eq!(answered(&last), None, "the last sectors are refused");
    }
}

#[test]
fn a_persistent_page_is_mapped_once_and_shared() {
    let mut machine = opened(DataMode::Persistent);
    let first = step(
        &mut machine,
        Input::Request(request(Operation::Read, 0, &[5, 5])),
    );
    let [Action::Map { key, .. }] = first[..] else {
        panic!("{first:?}")
    };
    assert_eq!(
        step(
            &mut machine,
            Input::Request(request(Operation::Write, 0, &[5]))
        ),
        []
    );
    let both = step(&mut machine, Input::Mapped(key));
    let [Action::Disk { tag: a, .. }, Action::Disk { tag: b, .. }] = both[..] else {
        panic!("{both:?}");
    };
    assert!(answered(&step(&mut machine, Input::DiskDone { tag: a, ok: true })).is_some());
    assert_eq!(
        step(&mut machine, Input::Drain),
        [],
        "unmapped under a request"
    );
    let last = step(&mut machine, Input::DiskDone { tag: b, ok: true });
    let [
        Action::Unmap {
            key: unmapped,
            request: None,
        },
        Action::Respond(_),
    ] = last[..]
    else {
        panic!("{last:?}");
    };
    assert_eq!(unmapped, key);
    assert!(machine.is_drained());
}
