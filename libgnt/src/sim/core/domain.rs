//! Domains and their processes: how they begin and how they end.

use super::evtchn::{Port, VIRQ_DOM_EXC};
use super::grants::{GrantTable, HandleId};
use super::xen::{Answer, Outcome, done, refuse};
use super::{Action, Attachment, ConnId, KernelSabotage, Xen};
use crate::platform::GuestType;
use crate::sim::wire::{DeviceKind, PROTOCOL, Reply};
use crate::types::{DomId, EvtchnPort};
use rustix::io::Errno;
use std::collections::BTreeMap;

/// Longer process and domain names are cut.
const NAME_CHARS: usize = 64;

/// One client process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub pid: u32,
    pub name: String,
    /// `None` before its `Join`.
    pub domid: Option<DomId>,
}

/// One domain: a hypervisor's part and a kernel's part.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub name: String,
    /// Outlives its processes.
    pub keep: bool,
    /// False: destroyed, but its pages are still mapped or being copied by peers. No code of its
    /// kernel runs any more.
    pub alive: bool,
    /// Its end has run to the end: only pages in use keep it.
    released: bool,
    pub grants: GrantTable,
    pub ports: BTreeMap<EvtchnPort, Port>,
    pub guest: GuestType,
    /// Mappings of others' grants that its kernel cannot unmap any more.
    pub lost_handles: Vec<HandleId>,
}

impl Domain {
    pub(super) fn new(name: String, keep: bool, guest: GuestType) -> Domain {
        Domain {
            name,
            keep,
            alive: true,
            released: false,
            grants: GrantTable::default(),
            ports: BTreeMap::new(),
            guest,
            lost_handles: Vec::new(),
        }
    }
}

fn cut_name(name: String) -> String {
    if name.chars().count() > NAME_CHARS {
        name.chars().take(NAME_CHARS).collect()
    } else {
        name
    }
}

impl Xen {
    pub(super) fn connected(&mut self, conn: ConnId, pid: u32) {
        // A host that reuses an id has forgotten the old process.
        self.process_dies(conn);
        let name = format!("pid {pid}");
        self.processes.insert(
            conn,
            Process {
                pid,
                name,
                domid: None,
            },
        );
    }

    /// A process as people know it: its name and pid.
    pub(super) fn process_name(&self, conn: ConnId) -> String {
        match self.processes.get(&conn) {
            Some(process) => format!("{} (pid {})", process.name, process.pid),
            None => "a process that is gone".into(),
        }
    }

    pub(super) fn domain_alive(&self, domid: DomId) -> bool {
        self.domains.get(&domid).is_some_and(|d| d.alive)
    }

    pub(super) fn announce_domain(&mut self, domid: DomId) {
        let Some(domain) = self.domains.get(&domid) else {
            return;
        };
        let name = domain.name.clone();
        self.out.push(Action::CreateGenerations { domid });
        self.out.push(Action::DomainCreated { domid, name });
    }

    pub(super) fn join(
        &mut self,
        conn: ConnId,
        protocol: u32,
        domid: Option<DomId>,
        process: String,
        keep: bool,
    ) -> Outcome {
        if protocol != PROTOCOL {
            return Err(refuse(
                Errno::PROTO,
                format!("the host speaks protocol {PROTOCOL}, the process {protocol}: rebuild it"),
            ));
        }
        if self.processes.get(&conn).is_some_and(|p| p.domid.is_some()) {
            return Err(refuse(Errno::BUSY, "joined already"));
        }
        let domid = match domid {
            Some(domid) => domid,
            None => self.free_domid()?,
        };
        if domid >= DomId::FIRST_RESERVED {
            return Err(refuse(
                Errno::INVAL,
                format!("{} is no domain's id", domid.0),
            ));
        }
        match self.domains.get(&domid) {
            Some(domain) if !domain.alive => return Err(still_dying(domid)),
            Some(_) => {}
            None => {
                let name = format!("domain-{}", domid.0);
                let domain = Domain::new(name, keep, self.config.guest);
                self.domains.insert(domid, domain);
                self.announce_domain(domid);
            }
        }
        if let Some(entry) = self.processes.get_mut(&conn) {
            entry.domid = Some(domid);
            entry.name = cut_name(process);
        }
        let domain = self.domains.get(&domid);
        let joined = Reply::Joined {
            domid,
            unmap: self.config.unmap,
            guest: domain.map_or(self.config.guest, |d| d.guest),
        };
        Ok(Answer::Reply(joined, vec![Attachment::Hazards]))
    }

    fn free_domid(&self) -> Result<DomId, crate::sim::wire::SimError> {
        (1..DomId::FIRST_RESERVED.0)
            .map(DomId)
            .find(|d| !self.domains.contains_key(d))
            .ok_or_else(|| refuse(Errno::NOSPC, "every domain id is taken"))
    }

    pub(super) fn create_domain(
        &mut self,
        caller: DomId,
        domid: DomId,
        name: String,
        guest: Option<GuestType>,
    ) -> Outcome {
        only_dom0(caller)?;
        if domid >= DomId::FIRST_RESERVED {
            return Err(refuse(
                Errno::INVAL,
                format!("{} is no domain's id", domid.0),
            ));
        }
        match self.domains.get(&domid) {
            Some(domain) if !domain.alive => return Err(still_dying(domid)),
            Some(_) => return Err(refuse(Errno::EXIST, format!("{domid} exists"))),
            None => {}
        }
        let guest = guest.unwrap_or(self.config.guest);
        let domain = Domain::new(cut_name(name), true, guest);
        self.domains.insert(domid, domain);
        self.announce_domain(domid);
        done()
    }

    pub(super) fn destroy_domain(&mut self, caller: DomId, victim: DomId) -> Outcome {
        only_dom0(caller)?;
        if victim == DomId::DOM0 {
            return Err(refuse(Errno::INVAL, "dom0 always lives"));
        }
        if !self.domain_alive(victim) {
            return Err(refuse(Errno::SRCH, format!("there is no {victim}")));
        }
        self.domain_dies(victim);
        done()
    }

    /// A process is gone. As in `do_exit` (Linux): the address space first, then the files. The
    /// page references that it held as a consumer count as the driver's, which close last of what
    /// is not a Xen file.
    pub(super) fn process_dies(&mut self, conn: ConnId) {
        let Some(process) = self.processes.get(&conn) else {
            return;
        };
        let domid = process.domid;
        self.abandon_waits(conn);
        let vmas: Vec<_> = self
            .vmas
            .iter()
            .filter(|(_, v)| v.conn == conn)
            .map(|v| *v.0)
            .collect();
        for vma in vmas {
            self.unmap_all(vma);
        }
        if !self.sabotaged(KernelSabotage::HoldOutlivesOwner) {
            let owned = self.holds.iter().filter(|(_, h)| h.owner == conn);
            let owned: Vec<_> = owned.map(|(id, _)| *id).collect();
            for hold in owned {
                self.drop_hold(hold);
            }
        }
        for device in [DeviceKind::Gntdev, DeviceKind::Gntalloc, DeviceKind::Evtchn] {
            let files = self.files.iter();
            let files = files.filter(|(_, f)| f.conn == conn && f.open && f.device() == device);
            let files: Vec<_> = files.map(|(id, _)| *id).collect();
            for file in files {
                self.close_file(file, None);
            }
        }
        self.processes.remove(&conn);
        let Some(domid) = domid else { return };
        let last = !self.processes.values().any(|p| p.domid == Some(domid));
        if last && self.domains.get(&domid).is_some_and(|d| d.alive && !d.keep) {
            self.domain_dies(domid);
        }
    }

    /// A domain is destroyed: from here on none of its kernel's code runs, so no notify byte is
    /// cleared and no notify event sent. The hypervisor takes its mappings of others' grants away
    /// (`gnttab_release_mappings`), closes its ports (`evtchn_destroy`), and keeps those of its
    /// pages that others map.
    fn domain_dies(&mut self, domid: DomId) {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return;
        };
        domain.alive = false;
        domain.grants.tick_at = None;
        domain.grants.deferred.clear();
        let conns = self
            .processes
            .iter()
            .filter(|(_, p)| p.domid == Some(domid));
        let conns: Vec<_> = conns.map(|(conn, _)| *conn).collect();
        for conn in conns {
            self.process_dies(conn);
            let why = format!("{domid} was destroyed");
            self.out.push(Action::Cut { conn, why });
        }
        self.release_mappings(domid);
        self.close_all_ports(domid);
        self.out.push(Action::DomainReleased { domid });
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.released = true;
        }
        self.end_dead_grants(domid);
        self.send_virq(DomId::DOM0, VIRQ_DOM_EXC);
    }

    /// Forgets a dead domain once nothing of it is in use.
    pub(super) fn reap_domain(&mut self, domid: DomId) {
        let over = |d: &Domain| d.released && d.grants.entries.is_empty();
        if self.domains.get(&domid).is_some_and(over) {
            self.domains.remove(&domid);
            self.out.push(Action::FreeGenerations { domid });
        }
    }
}

pub(super) fn only_dom0(caller: DomId) -> Result<(), crate::sim::wire::SimError> {
    if caller == DomId::DOM0 {
        Ok(())
    } else {
        Err(refuse(Errno::PERM, format!("only dom0 may, not {caller}")))
    }
}

fn still_dying(domid: DomId) -> crate::sim::wire::SimError {
    refuse(
        Errno::EXIST,
        format!("the last {domid} is dead, but peers still map its pages: the id is taken"),
    )
}
