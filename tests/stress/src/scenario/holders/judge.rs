//! What must hold of the holders that were tried.

use pv_harness::hand::Ending;
use pv_harness::settings::HoldName;
use pv_judges::checks::{Check, Evidence, RequestLife, spell};

/// What the consumer saw of the pages.
#[derive(Debug)]
pub(super) struct Look {
    kind: HoldName,
    /// Before the unmap, and when the granter had written something else after it. `None`: this kind
    /// cannot look.
    before: Option<String>,
    after: Option<String>,
}

impl Look {
    pub fn first(kind: HoldName, before: Option<String>) -> Look {
        Look {
            kind,
            before,
            after: None,
        }
    }

    pub fn then(&mut self, after: Option<String>) {
        self.after = after;
    }
}

/// One map of the pages, and who held it.
#[derive(Debug)]
pub(super) struct Round {
    /// In the order in which they let go.
    pub kinds: Vec<HoldName>,
    /// The map's number in the timeline.
    pub map: u64,
    /// The release was told while so many still held.
    pub early: Option<usize>,
    pub looks: Vec<Look>,
    /// Digests of what the granter wrote before the unmap, and after it.
    pub before: String,
    pub after: String,
}

/// Everything that was tried.
#[derive(Debug, Default)]
pub(super) struct Tried {
    pub simulated: bool,
    /// Each kind by itself.
    pub alone: Vec<Round>,
    /// All that could be had, at once.
    pub together: Option<Round>,
    pub refused: Vec<(HoldName, String)>,
    /// What came of ending access when all was over.
    pub ending: Option<Ending>,
}

/// Those that every kernel of this sort has.
fn everywhere(simulated: bool) -> &'static [HoldName] {
    if simulated {
        &[HoldName::Pin, HoldName::I915]
    } else {
        &[HoldName::Pipe]
    }
}

fn list(kinds: &[HoldName]) -> String {
    let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
    kinds.join(", ")
}

impl Tried {
    /// The kinds that could be had alone.
    pub fn had(&self) -> Vec<HoldName> {
        let alone = self.alone.iter();
        alone.flat_map(|round| round.kinds.clone()).collect()
    }

    pub fn judge(&self, evidence: &Evidence) -> Vec<Check> {
        let mut checks = vec![self.all_were_tried()];
        for round in &self.alone {
            let name = format!("{}: released when it had let go", list(&round.kinds));
            checks.push(round.released(&name, life(evidence, round)));
        }
        if let Some(round) = &self.together {
            let name = "all at once: released when the last had let go";
            checks.push(round.released(name, life(evidence, round)));
        }
        checks.push(self.saw_the_pages());
        checks.push(self.granter_has_them_back());
        checks
    }

    fn all_were_tried(&self) -> Check {
        const NAME: &str = "every holder of this machine held, alone and with the others";
        let had = self.had();
        let together = self.together.as_ref();
        let together = together.map_or(&[][..], |round| &round.kinds);
        let mut bad = Vec::new();
        for kind in everywhere(self.simulated) {
            let why = self.why_not(*kind);
            if !had.contains(kind) {
                bad.push(format!("{kind} must work wherever this runs: {why}"));
            } else if !together.contains(kind) {
                bad.push(format!("{kind} must hold beside any other: {why}"));
            }
        }
        let mut said = format!("{}; let go all at once in this order", list(together));
        for (kind, why) in &self.refused {
            // Some want a device for themselves.
            let what = if had.contains(kind) {
                "not beside the others"
            } else {
                "not here"
            };
            said += &format!("; {what}: {kind}, {why}");
        }
        Check::none(NAME, bad, said)
    }

    fn why_not(&self, kind: HoldName) -> &str {
        let mut refused = self.refused.iter().rev();
        let refused = refused.find(|(refused, _)| *refused == kind);
        refused.map_or("it was not tried", |(_, why)| why)
    }

    fn saw_the_pages(&self) -> Check {
        const NAME: &str = "who can look sees the granter's live pages";
        let looks = || {
            let rounds = self.alone.iter().chain(&self.together);
            rounds.flat_map(|round| round.looks.iter().map(move |look| (round, look)))
        };
        let bad = looks()
            .filter_map(|(round, look)| look.wrong(round))
            .collect();
        let seen = looks().filter(|(_, look)| look.before.is_some()).count();
        if seen == 0 {
            return Check::fail(NAME, "nobody looked");
        }
        let of = |what: &str, is: &dyn Fn(&Look) -> bool| {
            let looks = self.alone.iter().flat_map(|round| &round.looks);
            let looks = looks.filter(|look| is(look));
            let kinds: Vec<HoldName> = looks.map(|look| look.kind).collect();
            match kinds.is_empty() {
                true => String::new(),
                false => format!("; {what}: {}", list(&kinds)),
            }
        };
        let blind = of("cannot look", &|look| look.before.is_none());
        let copies = of("has a copy from before the unmap", &|look| {
            look.kind.looks_at_a_copy()
        });
        let held = format!("{seen} holds, before and after{copies}{blind}");
        Check::none(NAME, bad, held)
    }

    fn granter_has_them_back(&self) -> Check {
        const NAME: &str = "afterwards the granter has the pages back";
        match &self.ending {
            Some(Ending::Ended) => Check::pass(NAME, "access has ended"),
            Some(Ending::Unobservable) => {
                Check::pass(NAME, "its kernel does not tell; the hypervisor does")
            }
            other => Check::fail(NAME, format!("ending access came to {other:?}")),
        }
    }
}

/// What the timelines say of a round's map.
fn life<'e>(evidence: &'e Evidence, round: &Round) -> Option<&'e RequestLife> {
    let mut lives = evidence.lives.iter();
    lives.find(|life| life.request == round.map)
}

impl Round {
    /// The release was told, after the last had let go and not before.
    fn released(&self, name: &str, life: Option<&RequestLife>) -> Check {
        if let Some(held) = self.early {
            let by = list(&self.kinds[self.kinds.len().saturating_sub(held)..]);
            return Check::fail(name, format!("it was told while held by {by}"));
        }
        let times = life.and_then(|life| {
            Some((
                life.unmap_began?,
                life.hold_releasing?,
                life.hold_released?,
                life.released?,
            ))
        });
        let Some((began, releasing, let_go, released)) = times else {
            return Check::fail(name, "it was never told, or nobody recorded it");
        };
        if released < releasing {
            let early = spell(releasing - released);
            return Check::fail(name, format!("it was told {early} before"));
        }
        let held = spell(releasing.saturating_sub(began));
        let when = match released.checked_sub(let_go) {
            Some(after) => format!("{} after", spell(after)),
            // The references go before the call returns.
            None => "while it let go".into(),
        };
        Check::pass(name, format!("held for {held}, released {when}"))
    }
}

impl Look {
    fn wrong(&self, round: &Round) -> Option<String> {
        let (before, after) = match (&self.before, &self.after) {
            (None, None) => return None,
            (Some(before), Some(after)) => (before, after),
            _ => return Some(format!("{} could look once only", self.kind)),
        };
        let live = if self.kind.looks_at_a_copy() {
            &round.before
        } else {
            &round.after
        };
        if *before != round.before {
            return Some(format!("{} saw other pages than the granter's", self.kind));
        }
        (after != live).then(|| {
            let what = if *after == round.before {
                "what the pages held before"
            } else {
                "something else"
            };
            format!("after the unmap {} saw {what}", self.kind)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASED: &str = "released when it had let go";

    fn round(map: u64, kinds: &[HoldName]) -> Round {
        let look = |kind: &HoldName| {
            let mut look = Look::first(*kind, Some("old".into()));
            look.then(Some("new".into()));
            look
        };
        Round {
            kinds: kinds.to_vec(),
            map,
            early: None,
            looks: kinds.iter().map(look).collect(),
            before: "old".into(),
            after: "new".into(),
        }
    }

    fn good() -> Tried {
        use HoldName::{Fork, Pipe};
        Tried {
            simulated: false,
            alone: vec![round(0, &[Pipe]), round(1, &[Fork])],
            together: Some(round(3, &[Fork, Pipe])),
            refused: vec![(HoldName::Uring, "an old kernel".into())],
            ending: Some(Ending::Unobservable),
        }
    }

    fn evidence() -> Evidence {
        let life = |request| RequestLife {
            request,
            unmap_began: Some(10),
            hold_releasing: Some(50),
            hold_released: Some(55),
            released: Some(60),
            ..RequestLife::default()
        };
        Evidence {
            lives: [0, 1, 3].map(life).into(),
            ..Evidence::default()
        }
    }

    /// The failures, if this is done to a good run.
    fn failures(spoil: impl FnOnce(&mut Tried, &mut Evidence)) -> Vec<String> {
        let (mut tried, mut evidence) = (good(), evidence());
        spoil(&mut tried, &mut evidence);
        let checks = tried.judge(&evidence).into_iter();
        checks
            .filter(|check| !check.passed)
            .map(|check| format!("{}: {}", check.name, check.detail))
            .collect()
    }

    #[track_caller]
    fn fails(words: &str, spoil: impl FnOnce(&mut Tried, &mut Evidence)) {
        let failed = failures(spoil);
        assert!(
            failed.iter().any(|text| text.contains(words)),
            "{words}: {failed:?}"
        );
    }

    #[test]
    fn a_good_run_passes_and_says_what_there_is_not() {
        assert_eq!(failures(|_, _| {}), Vec::<String>::new());
        let checks = good().judge(&evidence());
        assert!(checks[0].detail.contains("uring, an old kernel"));
        assert_eq!(checks[1].detail, "held for 40 ns, released 5 ns after");
        let mut within = evidence();
        within.lives[0].released = Some(52);
        let check = &good().judge(&within)[1];
        assert_eq!(check.detail, "held for 40 ns, released while it let go");
        assert!(check.passed);
    }

    #[test]
    fn a_holder_that_is_missing_is_seen() {
        fails(
            "pipe must work wherever this runs: no memory",
            |tried, _| {
                tried.alone.remove(0);
                tried.refused.push((HoldName::Pipe, "no memory".into()));
            },
        );
        fails("pipe must hold beside any other: no memory", |tried, _| {
            tried.together = Some(round(3, &[HoldName::Fork]));
            tried.refused.push((HoldName::Pipe, "no memory".into()));
        });
        fails("must hold beside", |tried, _| tried.together = None);
        fails("must work", |tried, _| *tried = Tried::default());
        fails("i915 must work", |tried, _| {
            tried.simulated = true;
            tried.alone[0] = round(0, &[HoldName::Pin]);
            tried.together = Some(round(3, &[HoldName::Pin]));
        });
    }

    #[test]
    fn a_device_that_only_one_can_have_is_told_and_no_failure() {
        let mut tried = good();
        tried.alone.push(round(2, &[HoldName::Direct]));
        let busy = (HoldName::Direct, "it is busy".to_owned());
        tried.refused.push(busy);
        let check = tried.all_were_tried();
        assert!(check.passed, "{check:?}");
        let said = "not beside the others: direct, it is busy";
        assert!(check.detail.contains(said), "{check:?}");
    }

    #[test]
    fn a_release_that_is_early_or_never_comes_is_seen() {
        fails(RELEASED, |tried, _| tried.alone[0].early = Some(1));
        fails("while held by pipe", |tried, _| {
            tried.together.as_mut().unwrap().early = Some(1);
        });
        fails("never told", |_, evidence| {
            evidence.lives[1].released = None
        });
        fails("5 ns before", |_, evidence| {
            evidence.lives[1].released = Some(45);
        });
        fails("never told", |_, evidence| evidence.lives.clear());
    }

    #[test]
    fn wrong_pages_are_seen_and_so_is_a_copy_where_none_may_be() {
        fails("saw other pages", |tried, _| {
            tried.alone[0].looks[0].before = Some("x".into());
        });
        fails("what the pages held before", |tried, _| {
            tried.alone[0].looks[0].after = Some("old".into());
        });
        fails("once only", |tried, _| tried.alone[0].looks[0].after = None);
        // What a disk was sent is a copy.
        fails("something else", |tried, _| {
            tried.alone[0].looks[0].kind = HoldName::Direct;
        });
        assert!(
            failures(|tried, _| {
                tried.alone[0].looks[0].kind = HoldName::Direct;
                tried.alone[0].looks[0].after = Some("old".into());
            })
            .is_empty()
        );
        fails("nobody looked", |tried, _| {
            for round in tried.alone.iter_mut().chain(&mut tried.together) {
                for look in &mut round.looks {
                    (look.before, look.after) = (None, None);
                }
            }
        });
    }

    #[test]
    fn pages_that_stay_in_use_are_seen() {
        fails("has the pages back", |tried, _| {
            tried.ending = Some(Ending::InUse(Vec::new()));
        });
        fails("has the pages back", |tried, _| tried.ending = None);
    }
}
