//! Histories from a seed: requests of every type, right, half right and wrong, of several connections
//! and domains, in and out of transactions.

use crate::step::{Link, Step, Tx};
use fastrand::Rng;
use pv_xenstore::wire::Kind;

/// Connections to the socket that histories have.
const SOCKETS: u8 = 3;
/// Domains that they introduce.
const DOMAINS: u16 = 3;

/// A history with this many requests, besides those that set the domains up.
pub fn history(seed: u64, requests: usize) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let mut steps = beginning();
    while steps.len() < requests {
        steps.push(step(&mut rng));
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
            let payload = if rng.u8(..100) < 6 {
                spoilt(rng, payload)
            } else {
                payload
            };
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

/// How often each type is asked for, in a hundred or so.
const WEIGHTS: [(Kind, u32); 20] = [
    (Kind::Read, 14),
    (Kind::Write, 18),
    (Kind::Mkdir, 6),
    (Kind::Rm, 5),
    (Kind::Directory, 8),
    (Kind::DirectoryPart, 3),
    (Kind::GetPerms, 6),
    (Kind::SetPerms, 8),
    (Kind::Watch, 6),
    (Kind::Unwatch, 5),
    (Kind::TransactionStart, 6),
    (Kind::TransactionEnd, 8),
    (Kind::Introduce, 2),
    (Kind::Release, 1),
    (Kind::GetDomainPath, 2),
    (Kind::IsDomainIntroduced, 2),
    (Kind::Resume, 1),
    (Kind::SetTarget, 1),
    (Kind::ResetWatches, 1),
    (Kind::WatchEvent, 1),
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
        Kind::SetPerms => [nul(&path(rng)), permissions(rng)].concat(),
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
        Kind::SetTarget => [nul(&domid(rng)), nul(&domid(rng))].concat(),
        Kind::Release | Kind::GetDomainPath | Kind::IsDomainIntroduced | Kind::Resume => {
            nul(&domid(rng))
        }
        _ => nul(&path(rng)),
    }
}

fn domid(rng: &mut Rng) -> Vec<u8> {
    if rng.u8(..20) == 0 {
        let odd = ["0", "", "x", "-1", "32752", "65536", "99999999999", "1x", "+1", " 1"];
        return pick(rng, &odd).as_bytes().to_vec();
    }
    rng.u16(1..=DOMAINS + 1).to_string().into_bytes()
}

fn path(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..100) {
        0..3 => pick(rng, &["/", "@introduceDomain", "@releaseDomain", "@other", "/local"])
            .as_bytes()
            .to_vec(),
        3..6 => {
            let bad: [&[u8]; 9] = [
                b"", b"//", b"/a/", b"/a//b", b"/a b", b"a.b", b"/\xc3\xa9", b"@", b"/a\x01",
            ];
            pick(rng, &bad).to_vec()
        }
        6 => {
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
            let odd = ["", "n", "x1", "r-1", "r65536", "r32752", "r40000", "b 1", "r1x", "R1"];
            all.extend(nul(pick(rng, &odd).as_bytes()));
        } else {
            let letter = pick(rng, &["n", "r", "w", "b"]);
            all.extend(nul(format!("{letter}{}", rng.u16(..=DOMAINS + 1)).as_bytes()));
        }
    }
    all
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
