//! Records of `/dev/kmsg`.

/// The lines of one record of `/dev/kmsg`, with their time.
pub(crate) fn kernel_line(record: &str) -> Option<String> {
    let (header, text) = record.split_once(';')?;
    let micros: u64 = header.split(',').nth(2)?.parse().ok()?;
    let text = text.lines().next()?;
    Some(format!(
        "[{:>5}.{:06}] {text}",
        micros / 1_000_000,
        micros % 1_000_000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_records_become_lines() {
        let record = "4,802,97123456,-;WARNING: CPU: 0 PID: 1 at x.c:1\n SUBSYSTEM=cpu\n";
        assert_eq!(
            kernel_line(record).unwrap(),
            "[   97.123456] WARNING: CPU: 0 PID: 1 at x.c:1"
        );
        assert_eq!(kernel_line("nonsense"), None);
    }
}
