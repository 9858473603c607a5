//! What oxenstored takes for a number, a path or a permission.

use crate::path::home;
use crate::perms::{Permission, Perms, Rights};
use libgnt::DomId;
use rustix::io::Errno;

/// The strings between NULs, and what follows the last; at most `limit` of them, the last with all the
/// rest (`String.split`).
pub fn split(payload: &[u8], limit: usize) -> Vec<&[u8]> {
    payload.splitn(limit, |byte| *byte == 0).collect()
}

/// Strings where no number of them is right by itself.
pub fn split_all(payload: &[u8]) -> Vec<&[u8]> {
    const MOST: usize = 8;
    split(payload, MOST)
}

/// A payload that is one string with its NUL.
///
/// # Errors
/// EINVAL.
pub fn one(payload: &[u8]) -> Result<&[u8], Errno> {
    match split(payload, 2)[..] {
        [text, b""] => Ok(text),
        _ => Err(Errno::INVAL),
    }
}

/// OCaml's integers have a bit less than the machine's.
fn in_63_bits(value: i64) -> i64 {
    (value << 1) >> 1
}

/// As OCaml's `int_of_string`: a sign, a base (`0x`, `0o`, `0b`, `0u`), digits with underscores between.
pub fn number(text: &[u8]) -> Option<i64> {
    const BITS: u32 = 63;
    integer(text, BITS).map(in_63_bits)
}

/// The same for an integer of the machine's own size (`Nativeint.of_string`).
pub fn native(text: &[u8]) -> Option<i64> {
    integer(text, i64::BITS)
}

fn integer(text: &[u8], bits: u32) -> Option<i64> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (base, signed, digits) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (16, false, rest),
        [b'0', b'o' | b'O', rest @ ..] => (8, false, rest),
        [b'0', b'b' | b'B', rest @ ..] => (2, false, rest),
        [b'0', b'u' | b'U', rest @ ..] => (10, false, rest),
        rest => (10, true, rest),
    };
    let mut value: u64 = 0;
    for (n, digit) in digits.iter().enumerate() {
        match (digit, char::from(*digit).to_digit(base)) {
            (_, Some(digit)) => {
                value = value.checked_mul(base.into())?.checked_add(digit.into())?;
            }
            (b'_', None) if n > 0 => {}
            _ => return None,
        }
    }
    let half = 1 << (bits - 1);
    let most = match (signed, negative) {
        (false, _) => half - 1 + half,
        (true, true) => half,
        (true, false) => half - 1,
    };
    if digits.is_empty() || value > most {
        return None;
    }
    let value = value as i64;
    Some(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

/// The first run of digits, whatever is around it; 0 if there is none.
pub fn digits(text: &[u8]) -> i64 {
    let text = text.iter().skip_while(|byte| !byte.is_ascii_digit());
    let digits = text.take_while(|byte| byte.is_ascii_digit());
    digits.fold(0i64, |value, digit| {
        in_63_bits(value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0')))
    })
}

/// An integer as OCaml's `%u` prints it.
pub fn unsigned(value: i64) -> String {
    (value as u64 & (u64::MAX >> 1)).to_string()
}

/// A domain's number.
pub fn domain(value: i64) -> Option<DomId> {
    let domid = u16::try_from(value).ok().map(DomId)?;
    (domid < DomId::FIRST_RESERVED).then_some(domid)
}

/// A path of a node, absolute, for a client of `domid`. What begins with an `@` is one name below the
/// root.
///
/// # Errors
/// EINVAL.
pub fn path(bytes: &[u8], domid: DomId, limit_bytes: usize) -> Result<String, Errno> {
    let text = absolute(bytes, domid)?;
    let counted = text.len() - home_bytes(&text);
    if counted > limit_bytes {
        return Err(Errno::INVAL);
    }
    if text.starts_with('@') {
        // oxenstored takes any name here, also one with a slash in it.
        let is_name = text.bytes().all(is_name_byte);
        return if is_name {
            Ok(format!("/{text}"))
        } else {
            Err(Errno::INVAL)
        };
    }
    valid(text)
}

/// The path of a watch, absolute; special watches as they are, whatever is in them. No limit is set on
/// its length.
///
/// # Errors
/// EINVAL.
pub fn watched(bytes: &[u8], domid: DomId) -> Result<Vec<u8>, Errno> {
    if bytes.first() == Some(&b'@') {
        return Ok(bytes.to_vec());
    }
    valid(absolute(bytes, domid)?).map(String::into_bytes)
}

/// Is it given in full?
pub fn is_absolute(path: &[u8]) -> bool {
    matches!(path.first(), Some(b'/' | b'@'))
}

fn absolute(bytes: &[u8], domid: DomId) -> Result<String, Errno> {
    let text = std::str::from_utf8(bytes).map_err(|_| Errno::INVAL)?;
    match text.is_empty() {
        true => Err(Errno::INVAL),
        false if is_absolute(bytes) => Ok(text.to_owned()),
        false => Ok(format!("{}/{text}", home(domid))),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_@".contains(&byte)
}

fn valid(text: String) -> Result<String, Errno> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_name_byte);
    match text.strip_prefix('/') {
        Some("") => Ok(text),
        Some(names) if names.split('/').all(is_name) => Ok(text),
        _ => Err(Errno::INVAL),
    }
}

/// How long a leading home directory is, which does not count: any number's, even with a sign.
fn home_bytes(text: &str) -> usize {
    const START: &str = "/local/domain/";
    let Some(rest) = text.strip_prefix(START) else {
        return 0;
    };
    let unsigned = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let is_of_number = |c: char| c.is_ascii_digit() || c == '_';
    let after = unsigned.trim_start_matches(is_of_number);
    let number = &rest[..rest.len() - after.len()];
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit());
    if is_number && after.starts_with('/') && self::number(number.as_bytes()).is_some() {
        START.len() + number.len() + 1
    } else {
        0
    }
}

/// Permissions, each with its NUL; what follows the last NUL counts for nothing. Numbers that no domain
/// can have are not taken.
///
/// # Errors
/// EINVAL.
pub fn permissions(bytes: &[u8]) -> Result<Perms, Errno> {
    let mut entries: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    entries.pop();
    let entries = entries.into_iter().map(permission);
    let entries = entries.collect::<Option<Vec<_>>>().ok_or(Errno::INVAL)?;
    Perms::new(entries).ok_or(Errno::INVAL)
}

fn permission(text: &[u8]) -> Option<Permission> {
    let (letter, digits) = text.split_first()?;
    let rights = match letter {
        b'n' => Rights::None,
        b'r' => Rights::Read,
        b'w' => Rights::Write,
        b'b' => Rights::Both,
        _ => return None,
    };
    let domid = u16::try_from(number(digits)?).ok()?;
    Some(Permission::new(rights, DomId(domid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ocamls() {
        for (text, expected) in [
            ("7", Some(7)),
            ("-7", Some(-7)),
            ("+7", Some(7)),
            ("007", Some(7)),
            ("0x1f", Some(31)),
            ("0b11", Some(3)),
            ("0o17", Some(15)),
            ("0u9", Some(9)),
            ("1_000", Some(1000)),
            ("0x7fffffffffffffff", Some(-1)),
            ("4611686018427387903", Some(4_611_686_018_427_387_903)),
            ("4611686018427387904", None),
            ("-4611686018427387904", Some(-4_611_686_018_427_387_904)),
            ("", None),
            ("-", None),
            ("0x", None),
            ("_1", None),
            (" 1", None),
            ("1x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(native(b"4611686018427387904"), Some(1 << 62));
        assert_eq!(native(b"0xffffffffffffffff"), Some(-1));
        assert_eq!(native(b"-"), None);
        for (text, expected) in [("7", 7), ("-7", 7), ("x7y8", 7), ("", 0), ("x", 0)] {
            assert_eq!(digits(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(unsigned(-1), "9223372036854775807");
    }

    #[test]
    fn what_is_a_path() {
        let of = |text: &str| path(text.as_bytes(), DomId(7), 1024).ok();
        for (text, expected) in [
            ("/", Some("/")),
            ("/a@/b-c_d", Some("/a@/b-c_d")),
            ("x/y", Some("/local/domain/7/x/y")),
            ("@other", Some("/@other")),
            ("@a/b", None),
            ("", None),
            ("//", None),
            ("/a/", None),
            ("a//b", None),
            ("/a.b", None),
        ] {
            assert_eq!(of(text).as_deref(), expected, "{text:?}");
        }
        assert_eq!(watched(b"@a/\xff", DomId(7)), Ok(b"@a/\xff".to_vec()));
        assert_eq!(watched(b"x", DomId(7)), Ok(b"/local/domain/7/x".to_vec()));
        assert!(watched(b"/a/", DomId(7)).is_err());
        assert!(watched(b"", DomId(7)).is_err());
    }

    #[test]
    fn a_home_directory_counts_for_nothing() {
        let fits = |start: &str, n: usize| {
            path(
                format!("{start}{}", "p".repeat(n)).as_bytes(),
                DomId(7),
                1024,
            )
            .is_ok()
        };
        for (start, counted) in [
            ("", 0),
            ("/", 1),
            ("@", 1),
            ("/local/domain/7/", 0),
            ("/local/domain/655350/", 0),
            ("/local/domain/-1/", 0),
            ("/local/domain/7", 15),
            ("/local/domain/x/", 16),
        ] {
            assert!(fits(start, 1024 - counted), "{start}");
            assert!(!fits(start, 1025 - counted), "{start}");
        }
    }

    #[test]
    fn permissions_end_with_a_nul() {
        let of = |text: &[u8]| permissions(text).ok().map(|perms| perms.entries().len());
        assert_eq!(of(b"n0\0r1\0"), Some(2));
        assert_eq!(of(b"n0\0r1"), Some(1));
        assert_eq!(of(b"n0\0r0x1\0"), Some(2));
        for wrong in [
            &b""[..],
            b"n0",
            b"\0",
            b"n\0",
            b"x1\0",
            b"r-1\0",
            b"r 1\0",
            b"r65536\0",
        ] {
            assert_eq!(of(wrong), None, "{}", wrong.escape_ascii());
        }
    }
}
