//! The simulated Xen's host with an embedded xenstore, as a process.

use super::{Agent, Outcome};
use crate::error::Error;
use crate::settings::{Sabotage, Unmap};
use crate::timeline::{Event, Timeline};
use crate::world::{News, Order};
use libgnt::DomId;
use libgnt::inspect::Deadlock;
use libgnt::sim::core::{self, Config};
use libgnt::sim::host::{HostThread, Services};
use libgnt::sim::wire::XENSTORE_SOCKET;
use pv_xenstore::ServerHandle;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory to serve
    #[arg(long)]
    dir: PathBuf,
    /// When unmaps wait
    #[arg(long)]
    unmap: Unmap,
}

pub(super) fn run(agent: &Agent, args: Args) -> Outcome {
    let mut config = Config::default();
    config.unmap = args.unmap.into();
    config.sabotage = agent.sabotage.and_then(of_the_host);
    let host = start(&args.dir, config, None, agent.timeline.clone())?;
    agent.control.send(&News::Ready)?;
    // Ends with the order, or with the run.
    while !matches!(agent.await_order("to stop"), Ok(Order::Stop) | Err(_)) {}
    host.stop()
}

fn of_the_host(sabotage: Sabotage) -> Option<core::KernelSabotage> {
    match sabotage {
        Sabotage::UnmapUnderHolder => Some(core::KernelSabotage::UnmapIgnoresReferences),
        Sabotage::EarlyEvent => Some(core::KernelSabotage::EventBeforeUnmap),
        Sabotage::HoldOutlivesOwner => Some(core::KernelSabotage::HoldOutlivesOwner),
        Sabotage::ReuseWhileInUse => Some(core::KernelSabotage::ReuseWhileInUse),
        Sabotage::VolatileDisk | Sabotage::FlipBit => None,
    }
}

/// A running host and its xenstore.
pub(crate) struct RunningHost {
    host: HostThread,
    xenstore: ServerHandle,
}

impl RunningHost {
    /// Ends both.
    pub(crate) fn stop(self) -> Outcome {
        self.xenstore.stop();
        self.host.stop()?;
        Ok(())
    }
}

/// Starts a host and its xenstore in a directory, which is created if it is not there.
pub(crate) fn start(
    dir: &Path,
    config: Config,
    store_sabotage: Option<pv_xenstore::Sabotage>,
    timeline: Timeline,
) -> Result<RunningHost, Box<dyn std::error::Error + Send + Sync>> {
    std::fs::create_dir_all(dir).map_err(|error| {
        Error::file(
            dir,
            error,
            "name a directory that can be written with --dir",
        )
    })?;
    let xenstore = ServerHandle::start(pv_xenstore::Config {
        socket: Some(dir.join(XENSTORE_SOCKET)),
        sabotage: store_sabotage,
        ..pv_xenstore::Config::default()
    })?;
    let services = Dom0 {
        xenstore: xenstore.clone(),
        timeline,
    };
    match HostThread::start(dir, config, Box::new(services)) {
        Ok(host) => Ok(RunningHost { host, xenstore }),
        Err(error) => {
            xenstore.stop();
            Err(error.into())
        }
    }
}

/// What dom0 has beside the hypervisor.
struct Dom0 {
    xenstore: ServerHandle,
    timeline: Timeline,
}

impl Dom0 {
    fn done(what: &str, result: Result<(), pv_xenstore::ServiceError>) {
        if let Err(error) = result {
            tracing::error!(%error, "xenstore: {what}");
        }
    }
}

impl Services for Dom0 {
    fn xenstore_connection(&mut self, domid: DomId, stream: UnixStream) {
        Self::done("a connection", self.xenstore.attach(domid, stream));
    }

    fn domain_created(&mut self, domid: DomId, name: &str) {
        Self::done("a new domain", self.xenstore.introduce(domid, name));
    }

    fn domain_released(&mut self, domid: DomId) {
        Self::done("a domain's end", self.xenstore.release(domid));
    }

    fn deadlock(&mut self, deadlock: &Deadlock) {
        for edge in &deadlock.edges {
            tracing::warn!("deadlock: {edge}");
        }
        self.timeline.log(Event::Deadlock {
            deadlock: deadlock.clone(),
        });
    }
}
