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

/// How a kernel dies to which an emulated processor has delivered an interrupt twice (`docs/lab.md`):
/// in its entry code, before it has a stack. No driver can bring that about.
const EMULATORS: &str = "ENTRY_TRAMPOLINE stack guard page was hit";

/// The lines that are trouble.
pub fn trouble(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter(|line| TROUBLE.iter().any(|text| line.contains(text)))
        .cloned()
        .collect()
}

/// Is an emulated processor to blame for this trouble?
pub fn is_the_emulators(trouble: &[String]) -> bool {
    trouble.iter().any(|line| line.contains(EMULATORS))
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
        assert!(!is_the_emulators(&lines));
        let entry = "[   23.0] BUG: ENTRY_TRAMPOLINE stack guard page was hit at (____ptrval____)";
        assert!(is_the_emulators(&[entry.to_owned()]));
    }
}
