//! Numbers as xenstored reads them.

/// The number at the beginning of a payload, as C's `atoi` reads it.
pub(super) fn first_number(payload: &[u8]) -> Option<u16> {
    let text = payload.trim_ascii_start();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let digits: String = digits.map(|byte| char::from(*byte)).collect();
    digits.parse().ok()
}

pub(super) fn second_number(payload: &[u8]) -> Option<u16> {
    let nul = payload.iter().position(|byte| *byte == 0)?;
    first_number(&payload[nul + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (payload, expected) in [
            (&b"1\0"[..], Some(1)),
            (b" +12x\x003\0", Some(12)),
            (b"1\xc9\0", Some(1)),
            (b"x\0", None),
            (b"70000\0", None),
            (b"", None),
        ] {
            let text = payload.escape_ascii();
            assert_eq!(first_number(payload), expected, "{text}");
        }
        assert_eq!(second_number(b"1\x002\0"), Some(2));
        assert_eq!(second_number(b"1"), None);
    }
}
