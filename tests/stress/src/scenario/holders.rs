//! Every way to hold that this machine has, one after another and then all at once, on the same pages.
//! Which there are is found by trial.

mod judge;

use super::stage::Stage;
use super::{Judge, Scenario};
use clap::ValueEnum;
use judge::{Look, Round, Tried};
use libgnt::{Access, ForeignGrant, PAGE_SIZE};
use pv_harness::hand::{
    Answer, HeldId, Link, MapId, Order, Pages, ShareId, UNTIL_IT_COMES, Unanswered,
};
use pv_harness::holder::sha256;
use pv_harness::processes::{ChildId, Stopped};
use pv_harness::settings::{HoldName, PlatformKind};
use pv_judges::checks::{
    Evidence, ledgers_are_empty, no_deadlock, no_possible_cycle, unmaps_return_while_held,
    was_held_while_unmapping,
};
use std::time::{Duration, Instant};

const PAGES: usize = 4;
/// How long the release may take once nobody holds.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Holders;

impl Scenario for Holders {
    fn name(&self) -> &'static str {
        "holders"
    }

    fn summary(&self) -> &'static str {
        "every way to hold that this machine has, alone and all at once: unmaps return at once, the release comes after the last has let go"
    }

    fn uses_input(&self) -> bool {
        false
    }

    fn holds(&self) -> bool {
        true
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        let unmap = stage.settings.unmap;
        let simulated = stage.settings.platform == PlatformKind::Sim;
        stage.start_host()?;
        let mut cast = Cast::enter(stage)?;
        let mut tried = Tried {
            simulated,
            ..Tried::default()
        };
        for kind in HoldName::value_variants() {
            if kind.is_simulated() == simulated {
                let round = cast.play(&[*kind], &mut tried)?;
                tried.alone.extend(round);
            }
        }
        let mut all: Vec<HoldName> = tried.had();
        cast.rng.shuffle(&mut all);
        tried.together = cast.play(&all, &mut tried)?;
        tried.ending = Some(cast.leave()?);
        let of_all = tried.together.as_ref();
        let of_all = of_all.map_or(0, |round| round.kinds.len());
        stage.figure("holders at once", of_all);
        Ok(Box::new(move |evidence: &Evidence| {
            let mut checks = tried.judge(evidence);
            checks.extend([
                was_held_while_unmapping(evidence),
                unmaps_return_while_held(evidence),
                ledgers_are_empty(evidence),
                no_deadlock(evidence),
                no_possible_cycle(evidence, unmap),
            ]);
            checks
        }))
    }
}

/// Who shares, who maps, who holds.
struct Cast<'s, 'a> {
    stage: &'s mut Stage<'a>,
    granter: ChildId,
    mapper: ChildId,
    consumer: ChildId,
    share: ShareId,
    grants: Vec<ForeignGrant>,
    rng: fastrand::Rng,
}

impl<'s, 'a> Cast<'s, 'a> {
    fn enter(stage: &'s mut Stage<'a>) -> Result<Cast<'s, 'a>, Stopped> {
        let (front, back) = (stage.front(), stage.back());
        let granter = stage.spawn_hand("granter", front)?;
        let (share, grefs) = stage.hand(granter).share(back, PAGES, Access::ReadWrite)?;
        let grant = |gref| ForeignGrant { domid: front, gref };
        let rng = fastrand::Rng::with_seed(stage.settings.seed);
        Ok(Cast {
            granter,
            mapper: stage.spawn_recording_hand("mapper", back)?,
            consumer: stage.spawn_recording_hand("consumer", back)?,
            share,
            grants: grefs.into_iter().map(grant).collect(),
            rng,
            stage,
        })
    }

    /// Maps the pages, has them held in each of these ways, unmaps, and has them let go in this order.
    /// `None` if nobody could hold them.
    fn play(&mut self, kinds: &[HoldName], tried: &mut Tried) -> Result<Option<Round>, Stopped> {
        let before = self.rng.u8(1..128);
        // Whatever the holder sees, it can be told which of the two it is.
        let after = before + 128;
        self.fill(before)?;
        let grants = self.grants.clone();
        let map = self
            .stage
            .hand(self.mapper)
            .map(grants, Access::ReadWrite)?;
        let (mut holding, mut looks) = (Vec::new(), Vec::new());
        for kind in kinds {
            match self.hold(map, *kind)? {
                Ok((held, seen)) => {
                    holding.push((*kind, held));
                    looks.push(Look::first(*kind, seen));
                }
                Err(why) => tried.refused.push((*kind, why)),
            }
        }
        self.stage.hand(self.mapper).unmap(map)?;
        self.fill(after)?;
        for ((_, held), look) in holding.iter().zip(&mut looks) {
            look.then(self.stage.hand(self.consumer).look(*held)?);
        }
        let kinds = holding.iter().map(|(kind, _)| *kind).collect();
        let early = self.let_go(map, holding)?;
        let digest = |byte: u8| sha256(&vec![byte; PAGES * PAGE_SIZE]);
        let round = Round {
            kinds,
            map: u32::from(map).into(),
            early,
            looks,
            before: digest(before),
            after: digest(after),
        };
        Ok((!round.kinds.is_empty()).then_some(round))
    }

    fn fill(&mut self, byte: u8) -> Result<(), Stopped> {
        let order = Order::Fill(Pages::Share(self.share), byte);
        Ok(self.stage.hand(self.granter).done(&order)?)
    }

    /// Has the consumer hold the pages, and look at them; or why it cannot be.
    fn hold(
        &mut self,
        map: MapId,
        kind: HoldName,
    ) -> Result<Result<(HeldId, Option<String>), String>, Stopped> {
        let lent = self.stage.hand(self.mapper).lend(map, kind, PAGES);
        let (id, loan) = match done(lent)? {
            Ok(lent) => lent,
            Err(why) => return Ok(Err(why)),
        };
        let attached = done(self.stage.hand(self.consumer).attach(loan))?;
        let taken = attached.is_ok();
        self.stage.hand(self.mapper).settle(id, taken)?;
        let held = match attached {
            Ok(held) => held,
            Err(why) => return Ok(Err(why)),
        };
        match done(self.stage.hand(self.consumer).look(held))? {
            Ok(seen) => Ok(Ok((held, seen))),
            Err(why) => {
                // Who cannot look where it should holds nothing that could be judged.
                let _ended = done(self.stage.hand(self.consumer).release(held))?;
                Ok(Err(why))
            }
        }
    }

    /// One after the other lets go. Before each, --hold-for passes without a release; how many still held
    /// if one was told all the same.
    fn let_go(
        &mut self,
        map: MapId,
        holding: Vec<(HoldName, HeldId)>,
    ) -> Result<Option<usize>, Stopped> {
        if holding.is_empty() {
            self.stage.hand(self.mapper).await_release(map, PATIENCE)?;
        }
        let mut held = holding.len();
        let mut early = None;
        for (_, id) in holding {
            if early.is_none() && self.is_released(map, self.stage.settings.hold_for)? {
                early = Some(held);
            }
            held -= 1;
            if held == 0 && early.is_none() {
                // Waited for meanwhile, so that the mapper's stamp is that of the event.
                let wait = Order::AwaitRelease {
                    map,
                    ms: in_ms(PATIENCE),
                };
                self.stage.hand(self.mapper).link().send(&wait)?;
                self.stage.hand(self.consumer).release(id)?;
                // A release that does not come is missing in the timeline.
                self.stage.hand(self.mapper).link().receive()?;
            } else {
                self.stage.hand(self.consumer).release(id)?;
            }
        }
        Ok(early)
    }

    /// Is the release told within this time?
    fn is_released(&mut self, map: MapId, within: Duration) -> Result<bool, Stopped> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let ms = in_ms(left).min(UNTIL_IT_COMES);
            let wait = Order::AwaitRelease { map, ms };
            if self.stage.hand(self.mapper).ask(&wait)? == Answer::Done {
                return Ok(true);
            }
            if left <= Duration::from_millis(ms) {
                return Ok(false);
            }
        }
    }

    /// Ends all; what came of ending access to the pages.
    fn leave(self) -> Result<pv_harness::hand::Ending, Stopped> {
        let ending = self.stage.hand(self.granter).end_access(self.share)?;
        for hand in [self.consumer, self.mapper, self.granter] {
            self.stage.stop(hand)?;
        }
        Ok(ending)
    }
}

/// What a hand made of an order: a refusal is no reason to stop.
fn done<T>(told: Result<T, Unanswered<Stopped>>) -> Result<Result<T, String>, Stopped> {
    match told {
        Ok(done) => Ok(Ok(done)),
        Err(Unanswered::Refused(refusal)) => Ok(Err(refusal.why)),
        Err(other) => Err(other.into()),
    }
}

fn in_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
