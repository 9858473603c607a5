//! Values as people write them.

use std::time::Duration;

/// Bytes, with an optional K, M, G or T (powers of 1024).
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size: use a number of bytes, or one with K, M, G or T");
    let text_upper = text.to_ascii_uppercase();
    let number = text_upper
        .trim_end_matches("IB")
        .trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match &text_upper[number.len()..] {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Seconds, with a fraction if need be.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time: use a number of seconds, like 2 or 0.5");
    let seconds: f64 = text.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512", Some(512)),
            ("4k", Some(4096)),
            ("1G", Some(1 << 30)),
            ("2GiB", Some(2 << 30)),
            ("", None),
            ("G", None),
            ("1KM", None),
            ("-1", None),
            ("99999999T", None),
        ] {
            assert_eq!(size(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("600"), Ok(Duration::from_secs(600)));
        for bad in ["", "-1", "1e300", "nan", "two"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
