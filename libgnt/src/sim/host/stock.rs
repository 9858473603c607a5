//! What the machine's names stand for: memfds, event pages, generation tables, hazard pages.

use super::super::core::{Action, Attachment, ConnId};
use super::super::events::{EVENT_PAGES, EventPage};
use super::super::hazard::{self, HAZARD_PAGES};
use super::super::memory;
use super::super::wire::{FileId, RunId};
use super::Services;
use crate::error::{Error, Result};
use crate::shm::SharedPages;
use crate::types::{Access, DomId, ForeignGrant, GrantRef, PAGE_SIZE};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

struct Run {
    memfd: Arc<OwnedFd>,
    /// Made when a read-only mapping first asks.
    read_only: Option<Arc<OwnedFd>>,
}

struct EventFile {
    page: EventPage,
    memfd: Arc<OwnedFd>,
    eventfd: Arc<OwnedFd>,
}

struct Generations {
    words: SharedPages,
    read_only: Arc<OwnedFd>,
}

struct Hazards {
    slots: SharedPages,
    memfd: Arc<OwnedFd>,
}

/// Everything the host holds for the machine.
pub struct Stock {
    grant_entries: u32,
    runs: HashMap<RunId, Run>,
    events: HashMap<FileId, EventFile>,
    generations: HashMap<DomId, Generations>,
    hazards: HashMap<ConnId, Hazards>,
    /// Revoked grants that a hazard slot still named when last looked at.
    draining: Vec<ForeignGrant>,
}

impl Stock {
    pub fn new(grant_entries: u32) -> Self {
        Stock {
            grant_entries,
            runs: HashMap::new(),
            events: HashMap::new(),
            generations: HashMap::new(),
            hazards: HashMap::new(),
            draining: Vec::new(),
        }
    }

    /// A hazard page for a new connection.
    pub fn create_hazards(&mut self, conn: ConnId) -> Result<()> {
        let memfd = memory::create("xen-hazards", HAZARD_PAGES)?;
        let slots = memory::map_whole(&memfd, HAZARD_PAGES, Access::ReadWrite)?;
        self.hazards.insert(
            conn,
            Hazards {
                slots,
                memfd: Arc::new(memfd),
            },
        );
        Ok(())
    }

    /// The connection is gone, and so are its copies.
    pub fn free_hazards(&mut self, conn: ConnId) {
        self.hazards.remove(&conn);
    }

    /// Performs the actions that are about memory and events.
    pub fn perform(&mut self, action: Action) -> Result<()> {
        match action {
            Action::CreateRun { run, pages } => {
                let memfd = Arc::new(memory::create("xen-grants", pages as usize)?);
                self.runs.insert(
                    run,
                    Run {
                        memfd,
                        read_only: None,
                    },
                );
            }
            Action::FreeRun { run } => {
                self.runs.remove(&run);
            }
            Action::CreateEvents { file } => {
                self.events.insert(file, EventFile::create()?);
            }
            Action::FreeEvents { file } => {
                self.events.remove(&file);
            }
            Action::CreateGenerations { domid } => {
                self.generations
                    .insert(domid, Generations::create(self.grant_entries)?);
            }
            Action::FreeGenerations { domid } => {
                self.generations.remove(&domid);
            }
            Action::Raise { file, port } => {
                if let Some(events) = self.events.get(&file) {
                    events.page.raise(port);
                }
            }
            Action::PeerChanged {
                file,
                port,
                generation,
            } => {
                if let Some(events) = self.events.get(&file) {
                    events.page.set_generation(port, generation);
                }
            }
            Action::ClearPort { file, port } => {
                if let Some(events) = self.events.get(&file) {
                    events.page.clear(port);
                }
            }
            Action::ClearByte { run, offset } => {
                if let Some(run) = self.runs.get(&run) {
                    rustix::io::pwrite(&run.memfd, &[0], offset).map_err(|errno| {
                        Error::device("simulated memory", "clear the notify byte", errno, "")
                    })?;
                }
            }
            other => tracing::error!(?other, "not about memory"),
        }
        Ok(())
    }

    /// Moves a reference's generation word. True: nobody copies from it any more.
    pub fn revoke_copy(&mut self, domid: DomId, gref: GrantRef, generation: u32) -> bool {
        if let Some(table) = self.generations.get(&domid) {
            let offset = gref.0 as usize * 4;
            if offset < table.words.len() {
                // The fence is in `named`, before it looks at the slots.
                table.words.store_u32(offset, generation, Ordering::Release);
            }
        }
        let grant = ForeignGrant { domid, gref };
        let drained = !self.named(grant);
        if !drained && !self.draining.contains(&grant) {
            self.draining.push(grant);
        }
        drained
    }

    fn named(&self, grant: ForeignGrant) -> bool {
        self.hazards
            .values()
            .any(|page| hazard::named(&page.slots, grant, hazard::SLOTS))
    }

    /// True while a revoked grant waits for a copier.
    pub fn copies_to_drain(&self) -> bool {
        !self.draining.is_empty()
    }

    /// Looks again at the grants that copiers were in the middle of.
    pub fn drained_copies(&mut self) -> Vec<(DomId, GrantRef)> {
        let (still, drained) = std::mem::take(&mut self.draining)
            .into_iter()
            .partition(|grant| self.named(*grant));
        self.draining = still;
        let drained: Vec<ForeignGrant> = drained;
        drained
            .into_iter()
            .map(|grant| (grant.domid, grant.gref))
            .collect()
    }

    /// The descriptors that a reply carries.
    ///
    /// # Errors
    /// What the host was short of: the client gets this instead of the reply.
    pub fn descriptors(
        &mut self,
        conn: ConnId,
        attach: &[Attachment],
        services: &mut dyn Services,
    ) -> Result<Vec<Arc<OwnedFd>>> {
        let mut fds = Vec::with_capacity(attach.len());
        for attachment in attach {
            match *attachment {
                Attachment::Run { run, access } => {
                    let run = self
                        .runs
                        .get_mut(&run)
                        .ok_or_else(|| missing("a grant's memory"))?;
                    fds.push(run.descriptor(access)?);
                }
                Attachment::Events { file } => {
                    let events = self
                        .events
                        .get(&file)
                        .ok_or_else(|| missing("an event page"))?;
                    fds.extend([Arc::clone(&events.memfd), Arc::clone(&events.eventfd)]);
                }
                Attachment::Generations { domid } => {
                    let table = self
                        .generations
                        .get(&domid)
                        .ok_or_else(|| missing("a domain's generation table"))?;
                    fds.push(Arc::clone(&table.read_only));
                }
                Attachment::Hazards => {
                    let page = self
                        .hazards
                        .get(&conn)
                        .ok_or_else(|| missing("a hazard page"))?;
                    fds.push(Arc::clone(&page.memfd));
                }
                Attachment::Xenstore { domid } => {
                    let (theirs, ours) = UnixStream::pair().map_err(|e| {
                        let errno = crate::shm::errno_of(&e);
                        Error::device("xenstore (simulated)", "socketpair", errno, "")
                    })?;
                    services.xenstore_connection(domid, ours);
                    fds.push(Arc::new(theirs.into()));
                }
            }
        }
        Ok(fds)
    }
}

/// Its creation failed, and was logged, when the machine asked for it.
fn missing(what: &str) -> Error {
    Error::device("simulated Xen", "provide memory", Errno::NOMEM, what)
}

impl Run {
    fn descriptor(&mut self, access: Access) -> Result<Arc<OwnedFd>> {
        match (access, &self.read_only) {
            (Access::ReadWrite, _) => Ok(Arc::clone(&self.memfd)),
            (Access::ReadOnly, Some(fd)) => Ok(Arc::clone(fd)),
            (Access::ReadOnly, None) => {
                let fd = Arc::new(memory::read_only(&self.memfd)?);
                self.read_only = Some(Arc::clone(&fd));
                Ok(fd)
            }
        }
    }
}

impl EventFile {
    fn create() -> Result<Self> {
        let memfd = Arc::new(memory::create("xen-events", EVENT_PAGES)?);
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Arc::new)
            .map_err(|errno| Error::device("simulated Xen", "eventfd", errno, ""))?;
        let pages = memory::map_whole(&memfd, EVENT_PAGES, Access::ReadWrite)?;
        Ok(EventFile {
            page: EventPage::new(pages, Arc::clone(&eventfd)),
            memfd,
            eventfd,
        })
    }
}

impl Generations {
    fn create(entries: u32) -> Result<Self> {
        let pages = (entries as usize * 4).div_ceil(PAGE_SIZE).max(1);
        let memfd = memory::create("xen-generations", pages)?;
        let words = memory::map_whole(&memfd, pages, Access::ReadWrite)?;
        Ok(Generations {
            words,
            read_only: Arc::new(memory::read_only(&memfd)?),
        })
    }
}
