//! Histories from a seed: requests of every type, right, half right and wrong, of several connections
//! and domains, in and out of transactions.

use crate::control;
use crate::step::{Link, Step, Tx};
use fastrand::Rng;
use pv_xenstore::wire::{Kind, PAYLOAD_MAX_BYTES};

/// Connections to the socket that histories have.
const SOCKETS: u8 = 3;
/// Domains that they introduce.
const DOMAINS: u16 = 3;

/// A history with this many requests, besides those that set the domains up.
pub fn history(seed: u64, requests: usize) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let mut steps = beginning();
    steps.extend(control::quotas(&mut rng));
    while steps.len() < requests {
        let step = step(&mut rng);
        steps.extend(of_nothing(&mut rng, &step));
        steps.push(step);
    }
    steps
}

/// Connections, and domains that have a home, as a toolstack makes them.
fn beginning() -> Vec<Step> {
    let mut steps: Vec<Step> = (0..SOCKETS).map(Step::Open).collect();
    let mut ask = |kind: Kind, args: &[&str]| {
        steps.push(Step::Ask {
            link: Link::Socket(0),
            kind: kind as u32,
            tx: Tx::None,
            payload: args.iter().flat_map(|arg| nul(arg.as_bytes())).collect(),
        });
    };
    for domid in 1..=DOMAINS {
        let home = format!("/local/domain/{domid}");
        ask(Kind::Mkdir, &[&home]);
        ask(Kind::SetPerms, &[&home, &format!("n{domid}")]);
        ask(Kind::Introduce, &[&domid.to_string(), "5", "7"]);
    }
    ask(Kind::Mkdir, &["/a"]);
    ask(Kind::SetPerms, &["/a", "b0"]);
    steps
}

fn nul(arg: &[u8]) -> Vec<u8> {
    [arg, b"\0"].concat()
}

fn link(rng: &mut Rng) -> Link {
    if rng.u8(..100) < 45 {
        Link::Socket(rng.u8(..SOCKETS))
    } else {
        Link::Domain(rng.u16(1..=DOMAINS))
    }
}

fn tx(rng: &mut Rng) -> Tx {
    match rng.u8(..100) {
        0..60 => Tx::None,
        60..98 => Tx::Begun(rng.u8(..3)),
        _ => Tx::Made(rng.u32(..)),
    }
}

fn step(rng: &mut Rng) -> Step {
    match rng.u16(..1000) {
        0..4 => Step::Close(rng.u8(..SOCKETS)),
        4..20 => Step::Open(rng.u8(..SOCKETS)),
        20..23 => Step::Die(rng.u16(1..=DOMAINS)),
        _ => {
            let link = link(rng);
            let kind = kind(rng);
            let payload = match Kind::from_number(kind) {
                Some(kind) => arguments(rng, kind),
                None => nul(&path(rng)),
            };
            let mut payload = match link {
                // The end of a connection, of which there are few.
                Link::Socket(_) if rng.u16(..1000) < OVERSIZED => oversized(rng, payload),
                _ if rng.u8(..100) < 6 => {
                    let spoilt = spoilt(rng, payload.clone());
                    let keeps = kind == Kind::Control as u32 && !control::leaves_memory(&spoilt);
                    if keeps { payload } else { spoilt }
                }
                _ => payload,
            };
            if let Link::Domain(_) = link {
                payload.truncate(PAYLOAD_MAX_BYTES);
            }
            let tx = if kind == Kind::TransactionStart as u32 && rng.u8(..10) > 0 {
                Tx::None
            } else {
                tx(rng)
            };
            Step::Ask {
                link,
                kind,
                tx,
                payload,
            }
        }
    }
}

/// A read of what is never there goes before every other request.
fn of_nothing(rng: &mut Rng, step: &Step) -> Option<Step> {
    let Step::Ask { link, .. } = step else {
        return None;
    };
    rng.bool().then(|| Step::Ask {
        link: *link,
        kind: Kind::Read as u32,
        tx: Tx::None,
        payload: b"/nowhere/at-all\0".to_vec(),
    })
}

/// How many of a thousand requests over the socket are longer than a message may be.
const OVERSIZED: u16 = 2;
/// How much rarer than anything else a target is set: its release ends a history.
const RARE: u32 = 30;
/// How often each type is asked for.
const WEIGHTS: [(Kind, u32); 21] = [
    (Kind::Read, 14 * RARE),
    (Kind::Write, 18 * RARE),
    (Kind::Mkdir, 6 * RARE),
    (Kind::Rm, 5 * RARE),
    (Kind::Directory, 8 * RARE),
    (Kind::DirectoryPart, 3 * RARE),
    (Kind::GetPerms, 6 * RARE),
    (Kind::SetPerms, 8 * RARE),
    (Kind::Watch, 6 * RARE),
    (Kind::Unwatch, 5 * RARE),
    (Kind::TransactionStart, 6 * RARE),
    (Kind::TransactionEnd, 8 * RARE),
    (Kind::Introduce, 2 * RARE),
    (Kind::Release, RARE),
    (Kind::GetDomainPath, 2 * RARE),
    (Kind::IsDomainIntroduced, 2 * RARE),
    (Kind::Resume, RARE),
    (Kind::SetTarget, 1),
    (Kind::ResetWatches, RARE),
    (Kind::WatchEvent, RARE),
    (Kind::Control, RARE),
];

fn kind(rng: &mut Rng) -> u32 {
    if rng.u8(..200) == 0 {
        return pick(rng, &[16, 20, 23, 24, 25, 128, u32::MAX]);
    }
    let all: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.u32(..all);
    for (kind, weight) in WEIGHTS {
        if at < weight {
            return kind as u32;
        }
        at -= weight;
    }
    Kind::Read as u32
}

fn arguments(rng: &mut Rng, kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Write => [nul(&path(rng)), value(rng)].concat(),
        Kind::SetPerms => {
            let path = path(rng);
            // With the end of a domain that owns the root xenstored has no tree any more.
            let path = if path == b"/" { b"/b".to_vec() } else { path };
            // With the end of one that owns a special watch, 4.20's ends.
            let owner: &[u8] = if path.starts_with(b"@") { b"n0\0" } else { b"" };
            [&nul(&path), owner, &permissions(rng)].concat()
        }
        Kind::Watch | Kind::Unwatch => [nul(&watched(rng)), nul(&token(rng))].concat(),
        Kind::DirectoryPart => {
            let offset = pick(rng, &["0", "0", "2", "4", "100", "x", "-1", ""]);
            [nul(&path(rng)), nul(offset.as_bytes())].concat()
        }
        Kind::TransactionStart | Kind::ResetWatches => b"\0".to_vec(),
        Kind::TransactionEnd => nul(pick(rng, &["T", "T", "T", "F", "F", "x", ""]).as_bytes()),
        Kind::Introduce => {
            let mut domid = domid(rng);
            if domid == b"65536" {
                // C makes 0 of it, of which Xen would have to say something.
                domid = b"65535".to_vec();
            }
            [nul(&domid), b"5\x007\0".to_vec()].concat()
        }
        Kind::Control => control::arguments(rng),
        Kind::SetTarget => [nul(&domid(rng)), nul(&domid(rng))].concat(),
        Kind::Release | Kind::GetDomainPath | Kind::IsDomainIntroduced | Kind::Resume => {
            nul(&domid(rng))
        }
        _ => nul(&path(rng)),
    }
}

fn domid(rng: &mut Rng) -> Vec<u8> {
    if rng.u8(..20) == 0 {
        let odd = [
            "0",
            "",
            "x",
            "-1",
            "32752",
            "65536",
            "99999999999",
            "1x",
            "+1",
            " 1",
        ];
        return pick(rng, &odd).as_bytes().to_vec();
    }
    rng.u16(1..=DOMAINS + 1).to_string().into_bytes()
}

fn path(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..100) {
        0..3 => pick(
            rng,
            &[
                "/",
                "@introduceDomain",
                "@releaseDomain",
                "@other",
                "/local",
            ],
        )
        .as_bytes()
        .to_vec(),
        3..5 => {
            let bad: [&[u8]; 9] = [
                b"",
                b"//",
                b"/a/",
                b"/a//b",
                b"/a b",
                b"a.b",
                b"/\xc3\xa9",
                b"@",
                b"/a\x01",
            ];
            pick(rng, &bad).to_vec()
        }
        5 => {
            // Around the limits on a path's length.
            let start = pick(rng, &["", "/", "/local/domain/1/", "@"]);
            let length = rng.usize(2030..2060) + if rng.bool() { 0 } else { 1020 };
            let mut path = start.as_bytes().to_vec();
            path.resize(length, b'p');
            path
        }
        _ => {
            let start = match rng.u8(..10) {
                0..4 => "/a".to_owned(),
                4 => "/b".to_owned(),
                5..8 => format!("/local/domain/{}", rng.u16(1..=DOMAINS)),
                _ => "a".to_owned(),
            };
            let mut path = start;
            for _ in 0..rng.u8(..4) {
                path.push('/');
                path.push_str(pick(rng, &["a", "b", "c"]));
            }
            path.into_bytes()
        }
    }
}

fn watched(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..10) {
        0 => b"@introduceDomain".to_vec(),
        1 => b"@releaseDomain".to_vec(),
        2 => b"/".to_vec(),
        _ => path(rng),
    }
}

fn token(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..100) {
        0 => vec![b't'; rng.usize(1000..1100)],
        1 => Vec::new(),
        2 => b"t\xff\x01 x".to_vec(),
        _ => pick(rng, &["s", "t"]).as_bytes().to_vec(),
    }
}

fn value(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..100) {
        0..3 => vec![b'v'; rng.usize(1900..2100)],
        3 => vec![b'v'; rng.usize(3900..4094)],
        4..10 => (0..rng.usize(..8)).map(|_| rng.u8(..)).collect(),
        10..20 => Vec::new(),
        _ => rng.u16(..100).to_string().into_bytes(),
    }
}

fn permissions(rng: &mut Rng) -> Vec<u8> {
    let count = match rng.u8(..20) {
        0 => 0,
        1 => rng.usize(5..8),
        _ => rng.usize(1..4),
    };
    let mut all = Vec::new();
    for _ in 0..count {
        if rng.u8(..40) == 0 {
            let odd = ["", "n", "x1", "n0x2", "n03", "r32752", "b 1", "r1x", "R1"];
            all.extend(nul(pick(rng, &odd).as_bytes()));
        } else {
            let letter = pick(rng, &["n", "r", "w", "b"]);
            all.extend(nul(
                format!("{letter}{}", rng.u16(..=DOMAINS + 1)).as_bytes()
            ));
        }
    }
    all
}

/// A payload that no message can have, by a byte or by many.
fn oversized(rng: &mut Rng, mut payload: Vec<u8>) -> Vec<u8> {
    let more = if rng.bool() { 1 } else { rng.usize(1..4000) };
    payload.resize(PAYLOAD_MAX_BYTES + more, 0);
    payload
}

/// A payload that something is wrong with.
fn spoilt(rng: &mut Rng, mut payload: Vec<u8>) -> Vec<u8> {
    match rng.u8(..8) {
        0..3 => {
            payload.pop();
        }
        3 => payload.extend(b"x\0"),
        4 => payload.clear(),
        5 => payload.push(0),
        6 => payload.truncate(rng.usize(..=payload.len())),
        _ => {
            if !payload.is_empty() {
                let at = rng.usize(..payload.len());
                payload[at] = rng.u8(..);
            }
        }
    }
    payload
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_is_a_history_and_every_type_is_in_it() {
        let steps = history(7, 20_000);
        assert_eq!(steps, history(7, 20_000));
        assert_ne!(steps, history(8, 20_000));
        let kinds = steps.iter().filter_map(|step| match step {
            Step::Ask { kind, .. } => Kind::from_number(*kind),
            _ => None,
        });
        // A number beyond is one that no packaged daemon knows.
        let kinds: BTreeSet<Kind> = kinds.filter(|kind| *kind <= Kind::DirectoryPart).collect();
        let all = Kind::ALL.iter().copied();
        assert_eq!(
            kinds,
            all.filter(|kind| *kind <= Kind::DirectoryPart).collect()
        );
        // Over a ring page this is not compared.
        let oversized = steps.iter().filter_map(|step| match step {
            Step::Ask { link, payload, .. } if payload.len() > PAYLOAD_MAX_BYTES => Some(*link),
            _ => None,
        });
        let oversized: Vec<Link> = oversized.collect();
        assert!(!oversized.is_empty());
        assert!(oversized.iter().all(|link| matches!(link, Link::Socket(_))));
    }
}
