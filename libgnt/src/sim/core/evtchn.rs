//! Event channels: the hypervisor's ports (`xen/common/event_channel.c`, 4.17) and the files that
//! own them (`drivers/xen/evtchn.c` and `events/events_base.c`, Linux 5.10 to 6.12).
//!
//! A notify does not pass through here: the notifier sets bits in the peer's event page. It
//! learns where that is from `EvtchnPeer`, and asks again when its port's generation word moves.

use super::domain::only_dom0;
use super::mm::FileKind;
use super::xen::{Answer, Outcome, done, refuse, reply};
use super::{Action, Attachment, ConnId, Xen};
use crate::sim::wire::{FileId, Reply, SimError};
use crate::types::{DomId, EvtchnPort};
use rustix::io::Errno;

/// `NR_VIRQS`
const NR_VIRQS: u32 = 24;
/// dom0's news that some domain's state changed.
pub(super) const VIRQ_DOM_EXC: u32 = xen_sys::VIRQ_DOM_EXC;

/// One bound port.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// The file that reads it; `None` once that is closed and only unmap notifies need the port.
    pub file: Option<FileId>,
    /// The kernel's count (`evtchn_get`): the file, and each unmap notify that names the port.
    pub users: u32,
    pub state: PortState,
    /// The word in the file's event page. It changes whenever the answer to `EvtchnPeer` does.
    pub generation: u32,
}

/// `ECS_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortState {
    Unbound { remote: DomId },
    Interdomain { remote: DomId, port: EvtchnPort },
    Virq(u32),
}

impl Xen {
    fn evtchn_file(&self, conn: ConnId, file: FileId) -> Result<DomId, SimError> {
        let file = self.file(conn, file)?;
        match file.kind {
            FileKind::Evtchn { .. } => Ok(file.domid),
            // Each driver's answer to an ioctl that it does not know.
            _ => Err(refuse(Errno::NOTTY, "not an evtchn file")),
        }
    }

    /// EACCES if the file is restricted, and not to this domain (`None`: to be restricted at all is
    /// too much, for a VIRQ, and for an unbound port whomever it is for).
    fn check_restriction(&self, file: FileId, remote: Option<DomId>) -> Result<(), SimError> {
        match self.files.get(&file).map(|f| &f.kind) {
            Some(FileKind::Evtchn {
                restricted: Some(only),
            }) if Some(*only) != remote => Err(refuse(
                Errno::ACCESS,
                format!("the file is restricted to {only}"),
            )),
            _ => Ok(()),
        }
    }

    /// The lowest free port (`get_free_port`). ENOSPC.
    fn free_port(&self, domid: DomId) -> Result<EvtchnPort, SimError> {
        let mut free = 1;
        if let Some(domain) = self.domains.get(&domid) {
            for port in domain.ports.keys() {
                if port.0 != free {
                    break;
                }
                free += 1;
            }
        }
        if free < self.config.event_channels {
            Ok(EvtchnPort(free))
        } else {
            Err(refuse(
                Errno::NOSPC,
                format!("{domid} has no free event channel"),
            ))
        }
    }

    pub(super) fn port(&self, domid: DomId, port: EvtchnPort) -> Option<&Port> {
        self.domains.get(&domid)?.ports.get(&port)
    }

    fn port_mut(&mut self, domid: DomId, port: EvtchnPort) -> Option<&mut Port> {
        self.domains.get_mut(&domid)?.ports.get_mut(&port)
    }

    fn insert_port(&mut self, domid: DomId, port: EvtchnPort, file: FileId, state: PortState) {
        let new = Port {
            file: Some(file),
            users: 1,
            state,
            generation: 0,
        };
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.ports.insert(port, new);
        }
        // A notifier that learned where the number led may have raised it after its last port was
        // closed, and a receiver may have masked it then. A new port has no past: Xen clears the
        // pending bit when it frees one (`evtchn_free`), and Linux unmasks what it binds
        // (`bind_evtchn_to_irqhandler`, by the interrupt's start-up).
        self.out.push(Action::ClearPort { file, port });
        self.peer_changed(domid, port);
    }

    /// Whatever the port's notifier knows about the other end is out of date.
    fn peer_changed(&mut self, domid: DomId, port: EvtchnPort) {
        let generation = self.fresh_generation();
        let Some(entry) = self.port_mut(domid, port) else {
            return;
        };
        entry.generation = generation;
        if let Some(file) = entry.file {
            self.out.push(Action::PeerChanged {
                file,
                port,
                generation,
            });
        }
    }

    fn own_or(domid: DomId, named: DomId) -> DomId {
        if named == DomId::SELF { domid } else { named }
    }

    pub(super) fn bind_unbound(&mut self, conn: ConnId, file: FileId, remote: DomId) -> Outcome {
        let domid = self.evtchn_file(conn, file)?;
        self.check_restriction(file, None)?;
        let port = self.free_port(domid)?;
        let remote = Self::own_or(domid, remote);
        self.insert_port(domid, port, file, PortState::Unbound { remote });
        reply(Reply::Port { port })
    }

    pub(super) fn bind_interdomain(
        &mut self,
        conn: ConnId,
        file: FileId,
        remote: DomId,
        remote_port: EvtchnPort,
    ) -> Outcome {
        let domid = self.evtchn_file(conn, file)?;
        self.check_restriction(file, Some(remote))?;
        let remote = Self::own_or(domid, remote);
        if !self.domains.contains_key(&remote) {
            return Err(refuse(Errno::SRCH, format!("there is no {remote}")));
        }
        let port = self.free_port(domid)?;
        let offered = self.port(remote, remote_port).map(|p| p.state);
        if offered != Some(PortState::Unbound { remote: domid }) {
            let what = format!("{remote_port} of {remote} is not unbound for {domid}");
            return Err(refuse(Errno::INVAL, what));
        }
        let state = PortState::Interdomain {
            remote,
            port: remote_port,
        };
        self.insert_port(domid, port, file, state);
        if let Some(peer) = self.port_mut(remote, remote_port) {
            peer.state = PortState::Interdomain {
                remote: domid,
                port,
            };
        }
        self.peer_changed(remote, remote_port);
        // Xen sets the new local port pending, always: a notify may have been lost while the
        // remote port was unbound (`evtchn_bind_interdomain`).
        self.after_reply.push(Action::Raise { file, port });
        reply(Reply::Port { port })
    }

    pub(super) fn bind_virq(&mut self, conn: ConnId, file: FileId, virq: u32) -> Outcome {
        let domid = self.evtchn_file(conn, file)?;
        self.check_restriction(file, None)?;
        if virq >= NR_VIRQS {
            return Err(refuse(Errno::INVAL, format!("there is no VIRQ {virq}")));
        }
        if self.virq_port(domid, virq).is_some() {
            return Err(refuse(
                Errno::EXIST,
                format!("VIRQ {virq} of {domid} is bound already"),
            ));
        }
        let port = self.free_port(domid)?;
        self.insert_port(domid, port, file, PortState::Virq(virq));
        reply(Reply::Port { port })
    }

    fn virq_port(&self, domid: DomId, virq: u32) -> Option<EvtchnPort> {
        let domain = self.domains.get(&domid)?;
        let bound = domain
            .ports
            .iter()
            .find(|(_, p)| p.state == PortState::Virq(virq));
        bound.map(|(port, _)| *port)
    }

    /// Raises a VIRQ where it is bound. False if it is not.
    pub(super) fn send_virq(&mut self, domid: DomId, virq: u32) -> bool {
        let Some(port) = self.virq_port(domid, virq) else {
            return false;
        };
        self.set_pending(domid, port);
        true
    }

    pub(super) fn raise_virq(&mut self, caller: DomId, domid: DomId, virq: u32) -> Outcome {
        only_dom0(caller)?;
        if virq >= NR_VIRQS {
            return Err(refuse(Errno::INVAL, format!("there is no VIRQ {virq}")));
        }
        if !self.domain_alive(domid) {
            return Err(refuse(Errno::SRCH, format!("there is no {domid}")));
        }
        if !self.send_virq(domid, virq) {
            return Err(refuse(
                Errno::NOENT,
                format!("{domid} has not bound VIRQ {virq}"),
            ));
        }
        done()
    }

    pub(super) fn unbind(&mut self, conn: ConnId, file: FileId, port: EvtchnPort) -> Outcome {
        let domid = self.evtchn_file(conn, file)?;
        if port.0 >= self.config.event_channels {
            return Err(refuse(Errno::INVAL, format!("{port} is out of range")));
        }
        self.owned_port(domid, file, port)?;
        self.leave_port(domid, port);
        done()
    }

    fn owned_port(&self, domid: DomId, file: FileId, port: EvtchnPort) -> Result<&Port, SimError> {
        self.port(domid, port)
            .filter(|p| p.file == Some(file))
            .ok_or_else(|| {
                refuse(
                    Errno::NOTCONN,
                    format!("{port} is not bound through this file"),
                )
            })
    }

    pub(super) fn restrict(&mut self, conn: ConnId, file: FileId, remote: DomId) -> Outcome {
        self.evtchn_file(conn, file)?;
        let Some(FileKind::Evtchn { restricted }) = self.files.get_mut(&file).map(|f| &mut f.kind)
        else {
            return Err(refuse(Errno::BADF, "no such file"));
        };
        if let Some(only) = restricted {
            return Err(refuse(
                Errno::ACCESS,
                format!("restricted to {only} already"),
            ));
        }
        if remote == DomId::DOM0 || remote >= DomId::FIRST_RESERVED {
            return Err(refuse(Errno::INVAL, format!("cannot restrict to {remote}")));
        }
        *restricted = Some(remote);
        done()
    }

    pub(super) fn evtchn_peer(&mut self, conn: ConnId, file: FileId, port: EvtchnPort) -> Outcome {
        let domid = self.evtchn_file(conn, file)?;
        let entry = self.owned_port(domid, file, port)?;
        let generation = entry.generation;
        let mut answer = (None, Vec::new());
        if let PortState::Interdomain {
            remote,
            port: remote_port,
        } = entry.state
            && let Some(peer_file) = self.port(remote, remote_port).and_then(|p| p.file)
        {
            answer = (
                Some(remote_port),
                vec![Attachment::Events { file: peer_file }],
            );
        }
        Ok(Answer::Reply(
            Reply::Peer {
                generation,
                remote: answer.0,
            },
            answer.1,
        ))
    }

    /// A kernel's `notify_remote_via_evtchn`: unmap notify. Dropped unless somebody is bound.
    pub(super) fn notify_remote(&mut self, domid: DomId, port: EvtchnPort) {
        if !self.domain_alive(domid) {
            return;
        }
        if let Some(PortState::Interdomain { remote, port }) =
            self.port(domid, port).map(|p| p.state)
        {
            self.set_pending(remote, port);
        }
    }

    fn set_pending(&mut self, domid: DomId, port: EvtchnPort) {
        if let Some(file) = self.port(domid, port).and_then(|p| p.file) {
            self.out.push(Action::Raise { file, port });
        }
    }

    /// `evtchn_get`: keeps a port for an unmap notify. Any port that some evtchn file of the domain
    /// bound will do, and one that another notify keeps.
    pub(super) fn get_port(&mut self, conn: ConnId, port: EvtchnPort) -> Result<(), SimError> {
        let domid = self.processes.get(&conn).and_then(|p| p.domid);
        match domid.and_then(|domid| self.port_mut(domid, port)) {
            Some(entry) => {
                entry.users += 1;
                Ok(())
            }
            None => {
                let what = format!("{port} is not open on an evtchn file of this domain");
                Err(refuse(Errno::INVAL, what))
            }
        }
    }

    /// `evtchn_put`
    pub(super) fn put_port(&mut self, domid: DomId, port: EvtchnPort) {
        let Some(entry) = self.port_mut(domid, port) else {
            return;
        };
        entry.users = entry.users.saturating_sub(1);
        if entry.users == 0 {
            self.close_port(domid, port);
        }
    }

    /// The file gives a port up; an unmap notify may still keep it bound.
    fn leave_port(&mut self, domid: DomId, port: EvtchnPort) {
        // The word moves first: a notify that races with this asks, and hears ENOTCONN.
        self.peer_changed(domid, port);
        let Some(entry) = self.port_mut(domid, port) else {
            return;
        };
        let Some(file) = entry.file.take() else {
            return;
        };
        let kept = (entry.users > 1).then_some(entry.state);
        self.out.push(Action::ClearPort { file, port });
        if let Some(PortState::Interdomain { remote, port }) = kept {
            // Still bound, but the peer's notifies have nowhere to go from now on.
            self.peer_changed(remote, port);
        }
        self.put_port(domid, port);
    }

    /// `evtchn_close`: the remote end becomes unbound again, for this domain to bind.
    fn close_port(&mut self, domid: DomId, port: EvtchnPort) {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return;
        };
        let Some(closed) = domain.ports.remove(&port) else {
            return;
        };
        if let PortState::Interdomain {
            remote,
            port: remote_port,
        } = closed.state
        {
            if let Some(peer) = self.port_mut(remote, remote_port) {
                peer.state = PortState::Unbound { remote: domid };
            }
            self.peer_changed(remote, remote_port);
        }
    }

    pub(super) fn close_evtchn_file(&mut self, domid: DomId, file: FileId) {
        let Some(domain) = self.domains.get(&domid) else {
            return;
        };
        let ports = domain.ports.iter().filter(|(_, p)| p.file == Some(file));
        let ports: Vec<_> = ports.map(|(port, _)| *port).collect();
        for port in ports {
            self.leave_port(domid, port);
        }
    }

    /// `evtchn_destroy`: the domain is dead, and unmap notifies keep nothing any more.
    pub(super) fn close_all_ports(&mut self, domid: DomId) {
        while let Some(port) = self
            .domains
            .get(&domid)
            .and_then(|d| d.ports.keys().next().copied())
        {
            self.close_port(domid, port);
        }
    }
}
