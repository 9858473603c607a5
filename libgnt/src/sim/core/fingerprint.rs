//! What a model checker needs to tell the machine's states apart.

use super::unmap::Then;
use super::{Now, Xen};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Names of things that come and go while the machine runs: only which is which matters.
const NAMES: [&str; 3] = ["WorkId(", "WaitId(", "HoldId("];

impl Xen {
    /// A hash of everything that decides what can happen next. Times, counters and the numbers of
    /// short-lived things are left out: two machines that differ only in when things happened, or
    /// in how many came before, have the same. Meant for a checker that lets the timer come at any
    /// moment.
    #[doc(hidden)]
    pub fn fingerprint(&self) -> u64 {
        let mut timeless = self.clone();
        timeless.now = Now::ZERO;
        timeless.stats = Default::default();
        timeless.forget_counters();
        timeless.retries.clear();
        for (id, work) in &mut timeless.works {
            work.began = Now::ZERO;
            work.age = 0;
            if let Then::RetryAt(at) = &mut work.then {
                *at = Now::ZERO;
                timeless.retries.insert((Now::ZERO, *id));
            }
        }
        for domain in timeless.domains.values_mut() {
            domain.grants.forget_times();
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{timeless:?}");
        let mut hasher = DefaultHasher::new();
        rename(&text).hash(&mut hasher);
        hasher.finish()
    }
}

/// Numbers the short-lived names in the order of their appearance.
fn rename(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rest = text;
    loop {
        let next = NAMES
            .iter()
            .filter_map(|name| Some((rest.find(name)?, name.len())))
            .min();
        let Some((at, len)) = next else { break };
        let (before, tail) = rest.split_at(at);
        let end = tail.find(')').unwrap_or(tail.len());
        let fresh = numbers.len();
        let number = *numbers.entry(&tail[..end]).or_insert(fresh);
        out.push_str(before);
        out.push_str(&tail[..len]);
        let _ = write!(out, "{number}");
        rest = &tail[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_which_is_which_matters() {
        let a = rename("WorkId(7): HoldId(9), WorkId(7)");
        assert_eq!(a, "WorkId(0): HoldId(1), WorkId(0)");
        assert_eq!(a, rename("WorkId(1): HoldId(30), WorkId(1)"));
        assert_ne!(a, rename("WorkId(1): HoldId(30), WorkId(2)"));
        assert_eq!(rename("nothing"), "nothing");
    }
}
