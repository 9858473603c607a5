//! What a kernel says that it says only when something is wrong with it.

/// Begins of trouble, as kernels print it.
const TROUBLE: [&str; 8] = [
    "BUG:",
    "WARNING:",
    "Bad page",
    "Bad rss-counter",
    "blocked for more than",
    "kernel BUG at",
    "general protection fault",
    "Kernel panic",
];

/// The lines that are trouble.
pub fn trouble(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter(|line| TROUBLE.iter().any(|text| line.contains(text)))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_found_and_the_rest_is_not() {
        let lines = [
            "[    0.1] x86/mm: Checked W+X mappings: passed",
            "[    5.1] BUG: Bad page map in process x  pte:80 pmd:1",
            "[    5.2] WARNING: CPU: 0 PID: 1 at mm/x.c:1 f+0x1/0x2",
            "[    7.0] INFO: task x:1 blocked for more than 120 seconds.",
            "[    8.0] debugging is on",
        ]
        .map(str::to_owned);
        assert_eq!(trouble(&lines), lines[1..4]);
    }
}
