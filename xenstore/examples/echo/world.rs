//! A simulated Xen in this process, with xenstore: domain 1 is the front end's, 2 the back end's.

use libgnt::sim::client::{SimPlatform, join};
use libgnt::sim::host::{HostThread, Services};
use libgnt::{DomId, Platform};
use pv_xenstore::{Client, ServerHandle};
use std::error::Error;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const FRONT: DomId = DomId(1);
pub const BACK: DomId = DomId(2);

struct Store(ServerHandle);

impl Services for Store {
    fn xenstore_connection(&mut self, domid: DomId, stream: UnixStream) {
        if let Err(error) = self.0.attach(domid, stream) {
            tracing::error!(%error, "xenstore");
        }
    }

    fn domain_created(&mut self, domid: DomId, name: &str) {
        if let Err(error) = self.0.introduce(domid, name) {
            tracing::error!(%error, "xenstore");
        }
    }

    fn domain_released(&mut self, domid: DomId) {
        if let Err(error) = self.0.release(domid) {
            tracing::error!(%error, "xenstore");
        }
    }
}

/// The host, and a client of dom0's.
pub struct World {
    // Dropped in this order: connections before the host that they need.
    pub store: Client,
    _dom0: Arc<SimPlatform>,
    _host: HostThread,
    dir: PathBuf,
}

impl World {
    /// Starts it in an empty directory.
    ///
    /// # Errors
    /// What the host or xenstore says.
    pub fn start(dir: &Path) -> Result<World, Box<dyn Error>> {
        let server = ServerHandle::start(Default::default())?;
        let host = HostThread::start(dir, Default::default(), Box::new(Store(server)))?;
        let dom0 = SimPlatform::connect(dir, Some(DomId::DOM0), "toolstack", false)?;
        let dom0 = Arc::new(dom0);
        dom0.create_domain(FRONT, "front")?;
        dom0.create_domain(BACK, "back")?;
        let store = Client::connect(&*dom0)?;
        Ok(World {
            store,
            _dom0: dom0,
            _host: host,
            dir: dir.to_owned(),
        })
    }

    /// What a process of a domain works with.
    ///
    /// # Errors
    /// The host's.
    pub fn platform(
        &self,
        domid: DomId,
        process: &str,
    ) -> Result<Arc<dyn Platform>, Box<dyn Error>> {
        Ok(join(&self.dir, Some(domid), process)?)
    }
}
