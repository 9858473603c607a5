//! The rules, by subject.

mod alloc;
mod alloc_end;
mod alloc_notify;
mod channel;
mod channel_bind;
mod copy;
mod death;
mod hold;
mod mmap;
mod notify;
mod pv;
mod release;
mod reserve;
mod status;
mod store;
mod store_perms;
mod store_transaction;
mod store_watch;
mod xenbus;

use crate::rule::Rule;

/// The rules about gntdev, gntalloc and evtchn, in the order in which they are tried.
pub fn of_the_devices() -> impl Iterator<Item = &'static Rule> {
    [
        reserve::RULES,
        mmap::RULES,
        release::RULES,
        notify::RULES,
        hold::RULES,
        pv::RULES,
        copy::RULES,
        status::RULES,
        alloc::RULES,
        alloc_end::RULES,
        alloc_notify::RULES,
        channel_bind::RULES,
        channel::RULES,
        death::RULES,
        pv::DAMAGE,
    ]
    .into_iter()
    .flatten()
}

/// The rules about xenstore, in the order in which they are tried.
pub fn of_the_store() -> impl Iterator<Item = &'static Rule> {
    [
        store::RULES,
        store_perms::RULES,
        store_watch::RULES,
        store_transaction::RULES,
        xenbus::RULES,
    ]
    .into_iter()
    .flatten()
}

/// Every rule, in the order in which they are tried.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    of_the_devices().chain(of_the_store())
}

/// The rule of a name.
pub fn find(name: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_stable_words_and_every_rule_says_what_and_where() {
        let mut seen = BTreeSet::new();
        for rule in all() {
            let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(rule.name.chars().all(kebab), "{}", rule.name);
            assert!(seen.insert(rule.name), "{} is there twice", rule.name);
            assert!(rule.says.ends_with('.'), "{}", rule.name);
            assert!(rule.source.contains(".c"), "{}", rule.name);
        }
        assert!(seen.len() >= 60, "only {} rules", seen.len());
    }
}
