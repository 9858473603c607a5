//! What a kernel says that it says only when something is wrong with it.

/// Begins of trouble, as kernels print it.
const TROUBLE: [&str; 9] = [
    "BUG:",
    "WARNING:",
    "Bad page",
    "Bad rss-counter",
    "blocked for more than",
    "kernel BUG at",
    "general protection fault",
    "PANIC:",
    "Kernel panic",
];

/// How a kernel dies to which an emulated processor has delivered an interrupt twice (`docs/lab.md`):
/// in its entry code, before it has a stack. No driver can bring that about: a stack that one overflows is
/// told in other words (`handle_stack_overflow`, `arch/x86/kernel/traps.c`).
const EMULATORS: [&str; 2] = [
    "ENTRY_TRAMPOLINE stack guard page was hit",
    // Linux 5.10.
    "PANIC: double fault",
];

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
    let is_it = |line: &String| EMULATORS.iter().any(|text| line.contains(text));
    trouble.iter().any(is_it)
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
        let old = trouble(&["[   23.0] PANIC: double fault, error_code: 0x0".to_owned()]);
        assert!(is_the_emulators(&old), "{old:?}");
    }
}
