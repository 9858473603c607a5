//! Which domain a process of the suite belongs to, and the hands it starts there.

use super::outcome::{Outcome, Stop};
use libgnt::{DomId, Platform, PlatformChoice};
use pv_harness::error::{Error, Result};
use pv_harness::hand::{Answer, Link, Order};
use pv_harness::player::HandProcess;
use pv_xenstore::Client;
use std::sync::Arc;

/// How to start a process that plays a hand: its name, its platform and, on the simulated Xen, its
/// domain. The suite leaves that to the program that it is a part of.
pub type StartHand = fn(&str, &PlatformChoice, Option<DomId>) -> std::io::Result<HandProcess>;

/// Which domain's process to be.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Member {
    /// linux, or sim:DIR
    #[arg(long)]
    pub platform: PlatformChoice,
    /// The domain, on the simulated Xen
    #[arg(long)]
    pub domain: Option<u16>,
}

impl Member {
    /// A process of another domain of the simulated Xen.
    pub(super) fn of(&self, domid: DomId) -> Member {
        Member {
            platform: self.platform.clone(),
            domain: Some(domid.0),
        }
    }

    /// Its options.
    pub(super) fn args(&self) -> Vec<String> {
        let mut args = vec![format!("--platform={}", self.platform)];
        args.extend(self.domain.map(|domain| format!("--domain={domain}")));
        args
    }

    pub(super) fn join(&self, name: &str) -> libgnt::Result<Arc<dyn Platform>> {
        libgnt::open(&self.platform, self.domain.map(DomId), name)
    }

    /// The domain that the platform belongs to: the simulator was told, a real kernel asks
    /// xenstore for the relative node `domid`.
    pub(super) fn domid(&self, platform: &dyn Platform) -> Result<DomId> {
        if let (PlatformChoice::Sim(_), Some(domain)) = (&self.platform, self.domain) {
            return Ok(DomId(domain));
        }
        Client::connect(platform)
            .and_then(|client| client.read_parsed("domid"))
            .map(DomId)
            .map_err(|error| {
                Error::environment("this domain's id", error, "see that xenstore runs")
            })
    }

    /// A process that plays a hand, as this one.
    pub(super) fn start_hand(&self, start: StartHand) -> Outcome<HandProcess> {
        let domid = self.domain.map(DomId);
        let mut hand = start("hand", &self.platform, domid).map_err(broken)?;
        // It answers once it has joined.
        hand.send(&Order::Ping).map_err(broken)?;
        match hand.receive().map_err(broken)? {
            Answer::Done => Ok(hand),
            other => Err(broken(format!("it answers {other:?}"))),
        }
    }
}

/// Why a partner process cannot be used.
pub(super) fn broken(error: impl std::fmt::Display) -> Stop {
    Stop::Broken(format!("the partner process: {error}"))
}
