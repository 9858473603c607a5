//! What histories ask of CONTROL: small quotas from the start or later, and the commands that people use.

use crate::step::{Link, Step, Tx};
use fastrand::Rng;
use pv_xenstore::wire::Kind;
use std::ops::Range;

/// Quotas by the names that one daemon or the other has, and what is small. None so small that the
/// domains' homes are over it.
const SMALL: [(&str, Range<u32>); 10] = [
    ("nodes", 3..16),
    ("watches", 1..6),
    ("transactions", 1..4),
    ("transaction-nodes", 3..12),
    ("node-size", 60..300),
    ("permissions", 1..5),
    ("node-permissions", 1..5),
    ("path-max", 8..40),
    ("outstanding", 3..20),
    ("memory", 1500..6000),
];

/// Quotas for a history, of which every other has some.
pub fn quotas(rng: &mut Rng) -> Vec<Step> {
    if rng.bool() {
        return Vec::new();
    }
    let some = SMALL
        .into_iter()
        .filter(|(name, _)| rng.u8(..3) == 0 && *name != "memory");
    let some: Vec<_> = some.collect();
    let values = some.into_iter().map(|(name, range)| {
        let value = rng.u32(range).to_string();
        Step::Ask {
            link: Link::Socket(0),
            kind: Kind::Control as u32,
            tx: Tx::None,
            payload: strings(&["quota", "set", name, &value]),
        }
    });
    values.collect()
}

/// Does it leave the domains enough memory? Who is over that limit is not answered any more.
pub fn leaves_memory(payload: &[u8]) -> bool {
    let mut strings = payload.split(|byte| *byte == 0);
    let sets = [&b"quota"[..], b"set", b"memory"].map(Some);
    if [(); 3].map(|()| strings.next()) != sets {
        return true;
    }
    let value = strings.next().unwrap_or_default();
    let digits = value.trim_ascii_start();
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let digits: String = digits.map(|byte| char::from(*byte)).collect();
    // None, and what is no number, is refused.
    digits
        .parse()
        .map_or(true, |bytes: u64| bytes == 0 || bytes >= MUCH)
}

/// Bytes that no domain of a history takes.
const MUCH: u64 = 1 << 20;

/// One command. No file that is named here can be written.
pub fn arguments(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..10) {
        0..4 => {
            let domid = rng.u16(..6).to_string();
            let odd = ["", "x", "-1", "max", "99999"];
            let domid = if rng.u8(..10) == 0 {
                odd[rng.usize(..odd.len())]
            } else {
                &domid
            };
            strings(&["quota", domid])
        }
        4..6 => {
            let (name, range) = SMALL[rng.usize(..SMALL.len())].clone();
            let range = if name == "memory" {
                1 << 20..2 << 20
            } else {
                range
            };
            let value = rng.u32(range).to_string();
            let odd = ["0", "-1", "", "x", "2000000x"];
            let value = if rng.u8(..10) == 0 {
                odd[rng.usize(..odd.len())]
            } else {
                &value
            };
            let command = if rng.u8(..5) == 0 {
                "quota-soft"
            } else {
                "quota"
            };
            strings(&[command, "set", name, value])
        }
        _ => strings(OTHERS[rng.usize(..OTHERS.len())]),
    }
}

const OTHERS: [&[&str]; 31] = [
    &["quota"],
    &["quota"],
    &["quota-soft"],
    &["quota", "max"],
    &["quota", "max", "-r"],
    &["quota", "max", "x"],
    &["quota", "set"],
    &["quota", "set", "nodes"],
    &["quota", "set", "none", "5"],
    &["quota", "set", "nodes", "5", "6"],
    &["quota", "1", "2"],
    &["quota-soft", "max"],
    &["quota-soft", "1"],
    &["check"],
    &["check", "x"],
    &["help"],
    &["log"],
    &["log", "off"],
    &["log", "+wrl"],
    &["log", "-io"],
    &["log", "+none"],
    &["log", "on", "off"],
    &["print", "x"],
    &["print"],
    &["memreport"],
    &["memreport", "/nonexistent/file"],
    &["logfile", "/nonexistent/file"],
    &["live-update", "-a"],
    &["live-update", "-s"],
    &["live-update"],
    &["nothing", "such"],
];

fn strings(all: &[&str]) -> Vec<u8> {
    all.iter()
        .flat_map(|text| [text.as_bytes(), b"\0"].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_takes_the_memory_away() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..10_000 {
            let payload = arguments(&mut rng);
            assert!(leaves_memory(&payload), "{}", payload.escape_ascii());
        }
        for (value, expected) in [
            ("5x", false),
            (" +5", false),
            ("0", true),
            ("1048576", true),
        ] {
            let payload = strings(&["quota", "set", "memory", value]);
            assert_eq!(leaves_memory(&payload), expected, "{value}");
        }
        assert!(leaves_memory(b"quota\0set\0nodes\0x\0"));
    }
}
