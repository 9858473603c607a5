//! The simulated Xen's host with an embedded xenstore.

use crate::error::Error;
use crate::timeline::{Event, Timeline};
use libgnt::DomId;
use libgnt::inspect::Deadlock;
use libgnt::sim::core::Config;
use libgnt::sim::host::{HostThread, Services};
use libgnt::sim::wire::XENSTORE_SOCKET;
use pv_xenstore::ServerHandle;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What went wrong; the message is for a log, and for whoever reads that.
type Outcome = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A running host and its xenstore.
pub struct RunningHost {
    host: HostThread,
    xenstore: ServerHandle,
}

impl RunningHost {
    /// Ends both.
    pub fn stop(self) -> Outcome {
        self.xenstore.stop();
        self.host.stop()?;
        Ok(())
    }
}

/// Starts a host and its xenstore in a directory, which is created if it is not there.
pub fn start(
    dir: &Path,
    config: Config,
    store_sabotage: Option<pv_xenstore::StoreSabotage>,
    timeline: Timeline,
) -> Result<RunningHost, Box<dyn std::error::Error + Send + Sync>> {
    std::fs::create_dir_all(dir).map_err(|error| {
        Error::file(
            dir,
            error,
            "name a directory that can be written with --dir",
        )
    })?;
    let mut of_store = pv_xenstore::ServerConfig::default();
    of_store.socket = Some(dir.join(XENSTORE_SOCKET));
    // The rules that the simulated Xen keeps are those of Xen 4.17.
    of_store.daemon = pv_xenstore::Daemon::C417;
    of_store.sabotage = store_sabotage;
    let xenstore = ServerHandle::start(of_store)?;
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
