//! What a rule is.

use super::bench::Bench;
use super::outcome::Outcome;
use libgnt::platform::GuestType;
use pv_harness::kernel::LinuxVersion;

/// On which guests a rule is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// On every one.
    Every,
    /// On PVH and HVM only; what is true on PV instead.
    NotPv(&'static str),
    /// It holds pages, which on PV would damage the kernel.
    NotPvHolds,
    /// On PV only, where gntdev has a notifier and unmaps in it.
    Pv,
    /// And it shows the damage.
    PvDamage,
}

impl On {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            On::Every => "every guest",
            On::NotPv(_) => "PVH and HVM",
            On::NotPvHolds => "PVH and HVM: it holds pages",
            On::Pv => "PV",
            On::PvDamage => "PV, which it damages",
        }
    }
}

/// Since when kernels do as a rule says. Stable branches get a change at their own time, so each is listed;
/// of the others nobody has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The first of each branch that does.
    pub with: &'static [LinuxVersion],
    /// The newest of each branch that was tried or read, and does not.
    pub without: &'static [LinuxVersion],
    /// What the others do.
    pub before: &'static str,
}

impl Since {
    /// Does this kernel do as the rule says? `None`: nobody has said.
    pub fn holds_on(&self, kernel: LinuxVersion) -> Option<bool> {
        let of_branch =
            |all: &[LinuxVersion]| all.iter().copied().find(|it| it.is_branch_of(kernel));
        match (of_branch(self.with), of_branch(self.without)) {
            (Some(first), _) => Some(kernel >= first),
            (None, Some(last)) if kernel <= last => Some(false),
            _ => None,
        }
    }

    /// In words: `since Linux 6.12.117`.
    pub fn name(&self) -> String {
        let first: Vec<_> = self.with.iter().map(ToString::to_string).collect();
        format!("since Linux {}", first.join(", "))
    }
}

/// Why a rule is not tried on a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotTried {
    /// It is about other guests.
    OtherGuests(String),
    /// Trying it would damage the kernel.
    Damages(String),
}

/// One rule.(Clone, Copy, Debug)]
pub struct Rule {
    /// Stable, in kebab case.
    pub name: &'static str,
    /// What holds, in one sentence.
    pub says: &'static str,
    /// Where that is written: a function of the kernel's or the hypervisor's.
    pub source: &'static str,
    /// On which guests it is true.
    pub on: On,
    /// On which kernels, if not on all.
    pub since: Option<Since>,
    /// Tries it.
    pub check: fn(&Bench) -> Outcome,
    /// Why the simulator differs and stays so (`docs/fidelity.md` says more).
    pub differs_on_sim: Option<&'static str>,
}

impl Rule {
    pub(super) const fn new(
        name: &'static str,
        says: &'static str,
        source: &'static str,
        check: fn(&Bench) -> Outcome,
    ) -> Rule {
        Rule {
            name,
            says,
            source,
            on: On::Every,
            since: None,
            check,
            differs_on_sim: None,
        }
    }

    pub(super) const fn on(mut self, on: On) -> Rule {
        self.on = on;
        self
    }

    pub(super) const fn since(mut self, since: Since) -> Rule {
        self.since = Some(since);
        self
    }

    /// Why the rule is not to be tried on this guest. `None` as the guest: its kernel does not say
    /// what it is, so nothing is risked.
    pub(super) fn not_tried(&self, guest: Option<GuestType>, damage: bool) -> Option<NotTried> {
        const HELD: &str =
            "it holds a page while it is unmapped, which damages a PV guest's kernel";
        const UNKNOWN: &str = "this kernel does not say whether it is a PV guest's";
        let on_pv = guest == Some(GuestType::Pv);
        let other = |why: &str| Some(NotTried::OtherGuests(why.into()));
        match (self.on, guest) {
            (On::Every, _) => None,
            (On::NotPvHolds, None) => Some(NotTried::Damages(format!("{HELD}, and {UNKNOWN}"))),
            (_, None) => other(UNKNOWN),
            (On::NotPv(why), _) if on_pv => other(&format!("a rule of PVH and HVM: on PV {why}")),
            (On::NotPvHolds, _) if on_pv => Some(NotTried::Damages(HELD.into())),
            (On::NotPv(_) | On::NotPvHolds, _) => None,
            (On::Pv | On::PvDamage, _) if !on_pv => other("a rule of PV guests"),
            (On::PvDamage, _) if !damage => Some(NotTried::Damages(HELD.into())),
            (On::Pv | On::PvDamage, _) => None,
        }
    }

    pub(super) const fn but_the_sim(mut self, why: &'static str) -> Rule {
        self.differs_on_sim = Some(why);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_guest_is_damaged_unasked_and_none_is_judged_by_anothers_rules() {
        use GuestType::{Hvm, Pv, Pvh};
        let rule = |on| Rule::new("a", "So it is.", "x.c", |_| Ok(())).on(on);
        let tried = |on, guest| rule(on).not_tried(Some(guest), false).is_none();
        for on in [On::NotPv("it is not so"), On::NotPvHolds] {
            assert!(tried(on, Pvh) && tried(on, Hvm) && !tried(on, Pv), "{on:?}");
        }
        assert!(tried(On::Pv, Pv) && !tried(On::Pv, Pvh));
        assert!([Pv, Pvh, Hvm].iter().all(|guest| tried(On::Every, *guest)));
        for on in [On::NotPvHolds, On::PvDamage] {
            let why = rule(on).not_tried(Some(Pv), false);
            assert!(matches!(why, Some(NotTried::Damages(_))), "{on:?}: {why:?}");
        }
        assert_eq!(rule(On::PvDamage).not_tried(Some(Pv), true), None);
        assert!(
            rule(On::NotPvHolds).not_tried(Some(Pv), true).is_some(),
            "not true there"
        );
        assert!(rule(On::PvDamage).not_tried(Some(Pvh), true).is_some());
    }

    #[test]
    fn a_change_of_kernels_is_known_branch_by_branch() {
        let since = Since {
            with: &[LinuxVersion(6, 12, 117)],
            without: &[LinuxVersion(6, 1, 192), LinuxVersion(7, 2, 13)],
            before: "it is not so",
        };
        let holds = |a, b, c| since.holds_on(LinuxVersion(a, b, c));
        assert_eq!(holds(6, 12, 117), Some(true));
        assert_eq!(holds(6, 12, 116), Some(false));
        assert_eq!(holds(6, 1, 192), Some(false));
        assert_eq!(holds(6, 1, 193), None);
        assert_eq!(holds(7, 2, 14), None);
        assert_eq!(holds(6, 6, 1), None);
    }

    #[test]
    fn a_kernel_that_does_not_say_what_it_is_is_not_risked() {
        let rule = |on| Rule::new("a", "So it is.", "x.c", |_| Ok(())).on(on);
        assert_eq!(rule(On::Every).not_tried(None, true), None);
        for on in [On::NotPv("x"), On::NotPvHolds, On::Pv, On::PvDamage] {
            assert!(rule(on).not_tried(None, true).is_some(), "{on:?}");
        }
    }
}
