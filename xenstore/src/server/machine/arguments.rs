//! The arguments of a request, and the answer's payload.

use crate::perms::{Permission, Rights};
use crate::wire::PAYLOAD_MAX_BYTES;
use libgnt::DomId;
use rustix::io::Errno;

/// The payload of the answer, or the error that is the answer.
pub(super) type Answer = Result<Vec<u8>, Errno>;

pub(super) fn nul_terminated(text: impl AsRef<[u8]>) -> Vec<u8> {
    [text.as_ref(), b"\0"].concat()
}

/// EINVAL for whatever does not parse: the wire has no finer word.
pub(super) fn invalid<E>(_: E) -> Errno {
    Errno::INVAL
}

pub(super) fn ok() -> Answer {
    Ok(b"OK\0".to_vec())
}

pub(super) fn one(payload: &[u8]) -> Result<&[u8], Errno> {
    match payload.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Errno::INVAL),
    }
}

/// The strings that end with a NUL, which must be two. What follows the last NUL counts for nothing
/// (`get_strings`, `tools/xenstore/xenstored_core.c`).
pub(super) fn two(payload: &[u8]) -> Result<[&[u8]; 2], Errno> {
    terminated(payload).try_into().map_err(invalid)
}

/// The strings that end with a NUL.
pub(super) fn terminated(payload: &[u8]) -> Vec<&[u8]> {
    let mut strings: Vec<&[u8]> = payload.split(|byte| *byte == 0).collect();
    // What follows the last NUL, be it nothing.
    strings.pop();
    strings
}

/// A number as the daemons read it, with C's `atoi`: what comes before a sign or a digit may be white
/// space, what comes after the digits counts for nothing, and no digit at all is 0.
pub(super) fn number(bytes: &[u8]) -> i32 {
    let space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = bytes.iter().position(|byte| !space(byte)).unwrap_or(0);
    let (negative, digits) = match &bytes[start..] {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let value = digits.fold(0i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    });
    // glibc: the number as a long, at most the greatest and at least the least, then its low half.
    let most = value == i64::MAX;
    let value = match (negative, most) {
        (true, true) => i64::MIN,
        (true, false) => -value,
        (false, _) => value,
    };
    value as i32
}

/// A permission as the daemons read it: a letter, and a number as C's `strtol` takes it, with any base
/// (`xs_strings_to_perms`, `tools/libs/store/xs.c`). Numbers that are reserved are taken.
pub(super) fn permission(text: &[u8]) -> Result<Permission, Errno> {
    let rights = match text.first() {
        Some(b'n') => Rights::None,
        Some(b'r') => Rights::Read,
        Some(b'w') => Rights::Write,
        Some(b'b') => Rights::Both,
        _ => return Err(Errno::INVAL),
    };
    let text = std::str::from_utf8(&text[1..]).map_err(invalid)?;
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // `from_str_radix` takes a sign of its own.
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Errno::INVAL);
    }
    let domid = u16::from_str_radix(digits, base).map_err(invalid)?;
    Ok(Permission::new(rights, DomId(domid)))
}

/// A domain's number. `None`: no domain can have it.
pub(super) fn domain_number(bytes: &[u8]) -> Option<DomId> {
    let domid = u16::try_from(number(bytes)).ok().map(DomId)?;
    (domid < DomId::FIRST_RESERVED).then_some(domid)
}

/// As many whole names from `offset` as fit, after the generation; the last part ends with an
/// empty name. A client that sees the generation change between parts starts again.
pub(super) fn directory_part(generation: u64, names: &[u8], offset: usize) -> Vec<u8> {
    let mut part = nul_terminated(generation.to_string());
    let rest = names.get(offset..).unwrap_or(b"");
    let room = PAYLOAD_MAX_BYTES - part.len() - 1;
    let taken = if rest.len() <= room {
        rest.len()
    } else {
        rest[..room]
            .iter()
            .rposition(|b| *b == 0)
            .map_or(0, |nul| nul + 1)
    };
    part.extend_from_slice(&rest[..taken]);
    if taken == rest.len() {
        part.push(0);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_atoi() {
        for (text, expected) in [
            ("", 0),
            ("x", 0),
            ("7", 7),
            ("7x", 7),
            (" \t\n\x0b7", 7),
            ("+7", 7),
            ("-1", -1),
            ("--1", 0),
            ("4294967297", 1),
            ("99999999999999999999", -1),
            ("-99999999999999999999", 0),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(domain_number(b"32751"), Some(DomId(32751)));
        assert_eq!(domain_number(b"32752"), None);
        assert_eq!(domain_number(b"65536"), None);
        assert_eq!(domain_number(b"-1"), None);
    }

    #[test]
    fn permissions_are_a_letter_and_a_number_of_any_base() {
        for (text, expected) in [
            ("r7", Some("r7")),
            ("b0x10", Some("b16")),
            ("n010", Some("n8")),
            ("w +7", Some("w7")),
            ("r0", Some("r0")),
            ("r32757", Some("r32757")),
            ("", None),
            ("r", None),
            ("x7", None),
            ("r7x", None),
            ("r0x", None),
            ("r0x+7", None),
            ("r09", None),
            ("r++7", None),
            ("r-1", None),
            ("r65536", None),
        ] {
            let got = permission(text.as_bytes()).ok().map(|p| p.to_string());
            assert_eq!(got.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_follows_the_last_nul_is_nothing() {
        assert_eq!(terminated(b"a\0b"), [b"a"]);
        assert_eq!(terminated(b"a\0\0"), [&b"a"[..], b""]);
        assert!(terminated(b"").is_empty());
        assert_eq!(two(b"a\0b\0c"), Ok([&b"a"[..], b"b"]));
        assert_eq!(two(b"a\0b\0c\0"), Err(Errno::INVAL));
    }
}
