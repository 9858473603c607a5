//! Maps another domain's pages: good ones among bad ones, or good ones to sit on.

use super::{Outcome, RoleProcess, granter::pattern};
use libgnt::Error;
use libgnt::event::Events;
use libgnt::grant::{Ledger, Map, Mapper};
use libgnt::types::{Access, DomId, EvtchnPort, ForeignGrant, PAGE_SIZE};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a mapper is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapperTask {
    /// Grants that can be mapped
    pub good: Vec<ForeignGrant>,
    /// Grants that cannot
    pub bad: Vec<ForeignGrant>,
    /// The granter's event channel, to be told of the unmap
    pub port: Option<u32>,
    /// The byte that is cleared when the unmap begins
    pub notify_byte: usize,
    /// Seed of the order
    pub seed: u64,
}

/// Grants as a fact.
fn spell(grants: impl IntoIterator<Item = ForeignGrant>) -> String {
    let set: BTreeSet<ForeignGrant> = grants.into_iter().collect();
    let list: Vec<String> = set
        .iter()
        .map(|g| format!("{}:{}", g.domid.0, g.gref.0))
        .collect();
    list.join(",")
}

pub(super) fn run(agent: &RoleProcess, args: MapperTask) -> Outcome {
    let platform = agent.join()?;
    let ledger = Ledger::new();
    let mapper = Mapper::open(platform.clone(), ledger.clone())?;
    if !args.bad.is_empty() {
        let mut mixed: Vec<ForeignGrant> = [&args.good[..], &args.bad].concat();
        fastrand::Rng::with_seed(args.seed).shuffle(&mut mixed);
        let named = match mapper.map(&mixed, Access::ReadWrite) {
            Err(Error::BadGrants { bad, .. }) => spell(bad.iter().map(|bad| bad.grant)),
            Err(other) => format!("another error: {other}"),
            Ok(_) => "mapped".into(),
        };
        agent.control.tell("named", named)?;
        agent
            .control
            .tell("left in the ledger", ledger.snapshot().len())?;
        agent.await_order("to map the good ones")?;
    }
    let events = Events::open(&*platform)?;
    let granter = args.good.first().map_or(DomId::DOM0, |grant| grant.domid);
    let channel = args
        .port
        .map(|port| events.bind_interdomain(granter, EvtchnPort(port)))
        .transpose()?;
    let map = mapper.map(&args.good, Access::ReadWrite)?;
    if let Some(channel) = &channel {
        map.set_unmap_notify(Some(args.notify_byte), Some(channel.port()))?;
    }
    agent.control.tell("pages as granted", as_granted(&map))?;
    agent.await_order("to unmap")?;
    agent.control.tell("pages as granted", as_granted(&map))?;
    let unmapping = map.unmap().map_err(|refused| format!("{refused:?}"))?;
    if channel.is_none() {
        // With the granter's channel armed, the granter is who gets the event.
        agent.timeline.waiting("its unmap's release");
        unmapping.wait(PATIENCE)?;
        agent.show(&ledger)?;
    }
    drop(channel);
    Ok(())
}

/// How many pages hold what their granter wrote there.
fn as_granted(map: &Map) -> usize {
    map.grants()
        .iter()
        .enumerate()
        .filter(|(page, grant)| {
            let mut bytes = [0; PAGE_SIZE];
            map.pages().read(page * PAGE_SIZE, &mut bytes);
            bytes == pattern(grant.gref)
        })
        .count()
}
