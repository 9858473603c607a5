//! A process's view of the simulated Xen: the seam's [`Platform`], and what only this one can do.

use super::answer::Answer;
use super::connection::Client;
use super::evtchn::SimEvtchn;
use super::gntalloc::SimGntalloc;
use super::gntdev::SimGntdev;
use super::names::{EVTCHN, GNTALLOC, GNTDEV, SIM, XENBUS};
use crate::error::Result;
use crate::inspect::Inspection;
use crate::platform::{Evtchn, Gntalloc, Gntdev, GuestType, Holder, Platform};
use crate::sim::memory::raise_file_limit;
use crate::sim::wire::{DeviceKind, FileId, PROTOCOL, Reply, Request, UnmapMode};
use crate::types::{DomId, ForeignGrant, GrantRef};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Joins the simulated Xen whose host serves `dir`, as a process of `domid` (created if it is not
/// there), or of a new domain.
///
/// # Errors
/// [`Error::NotAvailable`](crate::Error::NotAvailable): no host there.
pub fn join(dir: &Path, domid: Option<DomId>, process: &str) -> Result<Arc<dyn Platform>> {
    Ok(connect(dir, domid, process)?)
}

/// [`join`], with what only the simulated Xen can do.
///
/// # Errors
/// As [`join`].
pub fn connect(dir: &Path, domid: Option<DomId>, process: &str) -> Result<Arc<SimPlatform>> {
    SimPlatform::connect(dir, domid, process, false).map(Arc::new)
}

/// A process's view of the simulated Xen. When it and everything opened through it are dropped,
/// the process leaves its domain.
#[derive(Debug)]
pub struct SimPlatform {
    dir: PathBuf,
    domid: DomId,
    pub(super) client: Arc<Client>,
}

impl SimPlatform {
    /// Joins. With `keep`, a domain that this creates outlives its processes.
    ///
    /// Raises this process's limit of open files as far as it goes: the memory of a map arrives as
    /// one descriptor for each gntalloc run in it, all at once, though none stays open.
    ///
    /// # Errors
    /// [`Error::NotAvailable`](crate::Error::NotAvailable): no host in the directory. EPROTO: it is of another version.
    pub fn connect(
        dir: &Path,
        domid: Option<DomId>,
        process: &str,
        keep: bool,
    ) -> Result<SimPlatform> {
        raise_file_limit();
        let process = process.to_owned();
        let join = Request::Join {
            protocol: PROTOCOL,
            domid,
            process,
            keep,
        };
        let (client, domid) = Client::connect(dir, join)?;
        Ok(SimPlatform {
            dir: dir.to_owned(),
            domid,
            client: Arc::new(client),
        })
    }

    /// The simulated Xen behind a platform, with what only it can do; `None` on a real one.
    pub fn of(platform: &dyn Platform) -> Option<&SimPlatform> {
        platform.extension()?.downcast_ref()
    }

    /// The domain this process belongs to.
    pub fn domid(&self) -> DomId {
        self.domid
    }

    /// How this Xen's kernels unmap.
    pub fn unmap_mode(&self) -> UnmapMode {
        self.client.unmap_mode()
    }

    /// An unmap whose page somebody holds is deferred, which on PV damages the kernel.
    pub fn defers_unmaps(&self) -> bool {
        self.unmap_mode() == UnmapMode::Async
    }

    /// Everything alive on the simulated Xen.
    ///
    /// # Errors
    /// [`Error::HostGone`](crate::Error::HostGone).
    pub fn inspect(&self) -> Result<Inspection> {
        let answer = self.client.call(SIM, "inspect", Request::Inspect)?;
        match answer.reply {
            Reply::Inspection(inspection) => Ok(inspection),
            _ => Err(answer.unexpected()),
        }
    }

    /// Creates a domain that lives until it is destroyed, whoever joins it. It is the kind of guest
    /// that this Xen's domains are.
    ///
    /// # Errors
    /// EEXIST; EPERM outside dom0.
    pub fn create_domain(&self, domid: DomId, name: &str) -> Result<()> {
        self.create(domid, name, None)
    }

    /// As [`SimPlatform::create_domain`], of a certain kind.
    ///
    /// # Errors
    /// As [`SimPlatform::create_domain`].
    pub fn create_guest(&self, domid: DomId, name: &str, guest: GuestType) -> Result<()> {
        self.create(domid, name, Some(guest))
    }

    fn create(&self, domid: DomId, name: &str, guest: Option<GuestType>) -> Result<()> {
        let request = Request::CreateDomain {
            domid,
            name: name.to_owned(),
            guest,
        };
        self.client.call(SIM, "create domain", request)?.done()
    }

    /// Destroys a domain at once: its processes are cut off.
    ///
    /// # Errors
    /// ESRCH; EPERM outside dom0.
    pub fn destroy_domain(&self, domid: DomId) -> Result<()> {
        self.client
            .call(SIM, "destroy domain", Request::DestroyDomain { domid })?
            .done()
    }

    /// Raises a VIRQ in a domain.
    ///
    /// # Errors
    /// ENOENT: nobody bound it there. EPERM outside dom0.
    pub fn raise_virq(&self, domid: DomId, virq: u32) -> Result<()> {
        self.client
            .call(SIM, "raise VIRQ", Request::RaiseVirq { domid, virq })?
            .done()
    }

    fn open(&self, device: DeviceKind, name: &'static str) -> Result<(FileId, Answer)> {
        let answer = self.client.call(name, "open", Request::Open { device })?;
        match answer.reply {
            Reply::Opened { file } => Ok((file, answer)),
            _ => Err(answer.unexpected()),
        }
    }
}

impl Platform for SimPlatform {
    fn name(&self) -> String {
        format!("sim:{}", self.dir.display())
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.join(format!("run-{}", self.domid.0))
    }

    fn guest_type(&self) -> Result<GuestType> {
        Ok(self.client.guest_type())
    }

    fn open_gntdev(&self) -> Result<Box<dyn Gntdev>> {
        let (file, _) = self.open(DeviceKind::Gntdev, GNTDEV)?;
        Ok(Box::new(SimGntdev::new(Arc::clone(&self.client), file)))
    }

    fn open_gntalloc(&self) -> Result<Box<dyn Gntalloc>> {
        let (file, _) = self.open(DeviceKind::Gntalloc, GNTALLOC)?;
        Ok(Box::new(SimGntalloc::new(Arc::clone(&self.client), file)))
    }

    fn open_evtchn(&self) -> Result<Box<dyn Evtchn>> {
        let (file, answer) = self.open(DeviceKind::Evtchn, EVTCHN)?;
        Ok(Box::new(SimEvtchn::new(
            Arc::clone(&self.client),
            file,
            answer,
        )?))
    }

    fn open_xenstore(&self) -> Result<OwnedFd> {
        self.client
            .call(XENBUS, "open", Request::OpenXenstore)?
            .take_fd()
    }

    fn grants_in_use(&self, grefs: &[GrantRef]) -> Result<Option<Vec<GrantRef>>> {
        let request = Request::GrantsInUse {
            grefs: grefs.to_vec(),
        };
        let answer = self.client.call(SIM, "grants in use", request)?;
        match answer.reply {
            Reply::Grefs { grefs } => Ok(Some(grefs)),
            _ => Err(answer.unexpected()),
        }
    }

    fn holders(&self, grants: &[ForeignGrant]) -> Result<Vec<Holder>> {
        let request = Request::Holders {
            grants: grants.to_vec(),
        };
        let answer = self.client.call(SIM, "holders", request)?;
        match answer.reply {
            Reply::Holders { holders } => Ok(holders),
            _ => Err(answer.unexpected()),
        }
    }

    fn extension(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
