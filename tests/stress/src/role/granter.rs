//! Shares pages and, when told to, tries to take them back.

use super::{Outcome, RoleProcess};
use libgnt::event::Events;
use libgnt::grant::{EndAccess, EndAccessError, Granter, Ledger, Share};
use libgnt::types::{Access, DomId, GrantRef, PAGE_SIZE};
use pv_harness::processes::Order;
use pv_harness::timeline::Event;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the peer's release may take to be told.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a granter is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GranterTask {
    /// The domain that maps them
    pub peer: u16,
    /// A domain that does not
    pub other: u16,
    /// Pages granted to the peer, writable
    pub pages: usize,
    /// Pages granted to the peer, read-only
    pub read_only: usize,
    /// Pages granted to the peer, writable, and simply dropped when the others are revoked
    pub abandoned: usize,
    /// Pages granted to the other domain
    pub elsewhere: usize,
    /// Try to end access at the first order to go on, and again after the peer's event
    pub revoke: bool,
}

/// What a granted page holds.
pub(super) fn pattern(gref: GrantRef) -> [u8; PAGE_SIZE] {
    std::array::from_fn(|at| (gref.0 as usize * 31 + at * 7) as u8)
}

/// Grant references as a fact.
fn spell(grefs: &[GrantRef]) -> String {
    let grefs: Vec<String> = grefs.iter().map(|gref| gref.0.to_string()).collect();
    grefs.join(",")
}

pub(super) fn run(agent: &RoleProcess, args: GranterTask) -> Outcome {
    let platform = agent.join()?;
    let (ledger, peer) = (Ledger::new(), DomId(args.peer));
    let granter = Granter::open(platform.clone(), ledger.clone())?;
    let events = Events::open(&*platform)?;
    let channel = events.bind_unbound(peer)?;
    let share = |peer, pages, access| -> libgnt::Result<Option<Share>> {
        if pages == 0 {
            return Ok(None);
        }
        let share = granter.share(peer, pages, access)?;
        for (page, gref) in share.grefs().iter().enumerate() {
            share.pages().write(page * PAGE_SIZE, &pattern(*gref));
        }
        Ok(Some(share))
    };
    let tell = |name: &str, share: &Option<Share>| {
        agent
            .control
            .tell(name, spell(share.as_ref().map_or(&[], Share::grefs)))
    };
    let good = share(peer, args.pages, Access::ReadWrite)?;
    let abandoned = share(peer, args.abandoned, Access::ReadWrite)?;
    let read_only = share(peer, args.read_only, Access::ReadOnly)?;
    let elsewhere = share(DomId(args.other), args.elsewhere, Access::ReadWrite)?;
    tell("good", &good)?;
    tell("abandoned", &abandoned)?;
    tell("read-only", &read_only)?;
    tell("elsewhere", &elsewhere)?;
    agent.control.tell("port", channel.port().0)?;
    match good {
        Some(good) if args.revoke => revoke(agent, &granter, &events, good, abandoned)?,
        good => {
            while agent.await_order("to stop")? != Order::Stop {}
            drop(good);
        }
    }
    drop((read_only, elsewhere, channel));
    agent.show(&ledger)?;
    Ok(())
}

/// Ends access while the peer maps, which must be refused; takes other pages meanwhile, which must
/// be others; and ends it for good after the peer's event.
fn revoke(
    agent: &RoleProcess,
    granter: &Granter,
    events: &Events,
    share: Share,
    abandoned: Option<Share>,
) -> Outcome {
    agent.await_order("to end access")?;
    let mut mine = share.grefs().to_vec();
    mine.extend(abandoned.iter().flat_map(Share::grefs));
    let share = match share.end_access() {
        Err(EndAccessError::InUse { share, grefs }) => {
            agent.control.tell("refused", spell(&grefs))?;
            share
        }
        Err(error) => return Err(error.into()),
        Ok(other) => {
            agent.control.tell("refused", format!("no: {other:?}"))?;
            return Ok(());
        }
    };
    // Dropping never fails, whoever maps: what is still mapped waits in the kernel.
    drop(abandoned);
    let other = granter.share(DomId::DOM0, mine.len(), Access::ReadWrite)?;
    other.pages().fill(0, other.pages().len(), 0xee);
    let again = other
        .grefs()
        .iter()
        .filter(|gref| mine.contains(gref))
        .count();
    agent.control.tell("reused references", again)?;
    agent
        .timeline
        .waiting("the event that says its peer has unmapped");
    let ports = events.wait(PATIENCE)?;
    events.unmask(&ports)?;
    let sees = |share: &Share| {
        let mut last = [0];
        share.pages().read(share.pages().len() - 1, &mut last);
        last[0]
    };
    agent.control.tell("notify byte", sees(&share))?;
    let ended = match share.end_access() {
        Ok(EndAccess::Ended) => "ended".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(in_use @ EndAccessError::InUse { .. }) => format!("{in_use:?}"),
        Err(error) => return Err(error.into()),
    };
    agent.timeline.log(Event::Note {
        text: format!("second end of access: {ended}"),
    });
    agent.control.tell("ended", ended)?;
    let end = other.end_access();
    if !matches!(end, Ok(EndAccess::Ended)) {
        return Err(format!("pages that nobody mapped: {end:?}").into());
    }
    while agent.await_order("to stop")? != Order::Stop {}
    Ok(())
}
