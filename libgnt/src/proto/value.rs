//! What the values of nodes mean. Toolstacks and drivers differ in how they write them: with a NUL
//! byte at the end, with white space around, with leading zeros. All of that is read here, and
//! nothing else: no sign, no other base, nothing between or behind the digits.

/// Nobody needs more of a value to see what is wrong with it.
const SHOWN_BYTES: usize = 64;

/// The value without NUL bytes at its end, and without ASCII white space around.
pub fn trimmed(value: &[u8]) -> &[u8] {
    // A line's end may stand before the NUL, or behind it.
    let last = value
        .iter()
        .rposition(|byte| *byte != 0 && !byte.is_ascii_whitespace());
    value[..last.map_or(0, |last| last + 1)].trim_ascii_start()
}

/// A decimal number; `None` if it is none, or too large for its type.
pub fn number<T: TryFrom<u64>>(value: &[u8]) -> Option<T> {
    let digits = std::str::from_utf8(trimmed(value)).ok()?;
    // `parse` alone would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    number.try_into().ok()
}

/// A boolean: 0 is no, and any other number is yes, as Linux' drivers read it; `None` if it is no
/// number.
pub fn boolean(value: &[u8]) -> Option<bool> {
    number::<u64>(value).map(|number| number != 0)
}

/// A value for a message: printable, and not long. To be put between quotes as it is: with `{:?}`
/// what is escaped would be escaped again.
pub fn shown(value: &[u8]) -> String {
    let part = &value[..value.len().min(SHOWN_BYTES)];
    let dots = if value.len() > part.len() { "…" } else { "" };
    format!("{}{dots}", part.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One value as different programs write it.
    fn spellings(value: &str) -> Vec<String> {
        [
            "{}",
            "{}\0",
            "{}\0\0",
            "{}\n",
            "{}\n\0",
            "{}\0\n",
            " {}",
            "\t{} \r\n",
            "0{}",
            " 000{}\0",
        ]
        .iter()
        .map(|form| form.replace("{}", value))
        .collect()
    }

    #[test]
    fn every_spelling_of_a_number_is_read() {
        for text in spellings("17") {
            assert_eq!(number(text.as_bytes()), Some(17u64), "{text:?}");
            assert_eq!(boolean(text.as_bytes()), Some(true), "{text:?}");
        }
        for text in spellings("0") {
            assert_eq!(boolean(text.as_bytes()), Some(false), "{text:?}");
        }
        let long = format!("{}18446744073709551615", "0".repeat(2000));
        assert_eq!(number(long.as_bytes()), Some(u64::MAX));
    }

    #[test]
    fn nothing_else_is_a_number() {
        for odd in [
            &b""[..],
            b"\0",
            b" ",
            b"-1",
            b"+1",
            b"0x10",
            b"1 7",
            b"1\x007",
            b"\x0017",
            b"17x",
            b"yes",
            b"\xff",
            "\u{661}".as_bytes(),
            b"18446744073709551616",
        ] {
            let shown = odd.escape_ascii();
            assert_eq!(number::<u64>(odd), None, "{shown}");
            assert_eq!(boolean(odd), None, "{shown}");
        }
        assert_eq!(number::<u16>(b"65536"), None);
    }

    #[test]
    fn values_in_messages_are_escaped_once_and_short() {
        assert_eq!(shown(b"1\0\x1b\"\\"), r#"1\x00\x1b\"\\"#);
        assert!(shown(&[0; 4096]).len() < 300);
    }
}
