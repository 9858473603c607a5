//! Our server's side of a history: the machine, without sockets.

use crate::step::Link;
use libgnt::DomId;
use libgnt::machine::Machine;
use pv_xenstore::server::daemon::Make;
use pv_xenstore::server::quota::Quotas;
use pv_xenstore::server::{Action, ConnId, Daemon, Input, Server, Settings, StoreSabotage};
use pv_xenstore::wire::{Kind, Packet};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

/// What the server sent on a connection and nobody has looked at yet.
#[derive(Debug, Default)]
struct Pending {
    conn: u64,
    messages: VecDeque<Packet>,
    closed: bool,
}

/// Our server and everybody who is connected to it.
#[derive(Debug)]
pub struct Ours {
    server: Server,
    /// oxenstored sends each event, however many equal ones wait.
    merges: bool,
    links: BTreeMap<Link, Pending>,
    connections: u64,
    /// The rights of [`Link::Socket`], and whether these are open files of the kernel's device.
    sockets: (DomId, bool),
}

impl Ours {
    /// A server that plays this daemon, broken on purpose or not.
    pub fn playing(daemon: Daemon, sabotage: Option<StoreSabotage>) -> Ours {
        Ours::within(daemon, Quotas::of(daemon), sabotage)
    }

    /// The same with other limits on domains.
    pub fn within(daemon: Daemon, quotas: Quotas, sabotage: Option<StoreSabotage>) -> Ours {
        let mut settings = Settings::default();
        settings.daemon = daemon;
        settings.quotas = quotas;
        settings.sabotage = sabotage;
        Ours {
            server: Server::new(settings),
            merges: daemon.make() == Make::C,
            links: BTreeMap::new(),
            connections: 0,
            sockets: (DomId::DOM0, false),
        }
    }

    /// The connections that a history makes have these rights, and are open files of the kernel's device or
    /// not.
    pub fn with_rights(mut self, domid: DomId, device: bool) -> Ours {
        self.sockets = (domid, device);
        // Each watch of a file is one of its own to the daemon, whatever its path and token are.
        self.merges &= !device;
        self
    }

    /// Does what a toolstack did before the history.
    pub fn after(mut self, requests: &[(Kind, Vec<u8>)]) -> Ours {
        let conn = ConnId(u64::MAX);
        self.step(Input::Connected {
            conn,
            domid: DomId::DOM0,
            device: false,
        });
        for (kind, payload) in requests {
            let packet = Packet::new(*kind, 0, 0, payload.as_slice());
            self.step(Input::Request(conn, packet));
        }
        self.step(Input::Disconnected(conn));
        self
    }

    /// A connection is made, with the rights of the domain.
    pub fn open(&mut self, link: Link) {
        self.connections += 1;
        let conn = self.connections;
        let (domid, device) = match link {
            Link::Socket(_) => self.sockets,
            Link::Domain(domid) => (DomId(domid), false),
        };
        let pending = Pending {
            conn,
            ..Pending::default()
        };
        self.links.insert(link, pending);
        self.step(Input::Connected {
            conn: ConnId(conn),
            domid,
            device,
        });
    }

    /// It ends.
    pub fn close(&mut self, link: Link) {
        if let Some(pending) = self.links.remove(&link) {
            self.step(Input::Disconnected(ConnId(pending.conn)));
        }
    }

    /// A domain is gone.
    pub fn die(&mut self, domid: u16) {
        self.step(Input::Release(DomId(domid)));
    }

    /// A request.
    pub fn ask(&mut self, link: Link, packet: Packet) {
        if let Some(pending) = self.links.get(&link) {
            let conn = ConnId(pending.conn);
            self.step(Input::Request(conn, packet));
        }
    }

    /// The next message that was sent on a connection.
    pub fn hear(&mut self, link: Link) -> Option<Packet> {
        self.links.get_mut(&link)?.messages.pop_front()
    }

    /// What was sent on a connection so far is lost.
    pub fn forget_messages(&mut self, link: Link) {
        if let Some(pending) = self.links.get_mut(&link) {
            pending.messages.clear();
        }
    }

    /// Did the server close it, or was it never there?
    pub fn is_closed(&self, link: Link) -> bool {
        self.links.get(&link).is_none_or(|pending| pending.closed)
    }

    fn step(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.server.step(Duration::ZERO, input, &mut actions);
        // What waits in a queue already is not put there again, but for events of special watches: the
        // service does the same (`server::queue`).
        let mut queued = HashSet::new();
        for action in actions {
            if let Action::Event(conn, packet) = &action
                && self.merges
                && packet.payload.first() != Some(&b'@')
                && !queued.insert((*conn, packet.payload.clone()))
            {
                continue;
            }
            let (conn, packet) = match action {
                Action::Reply(conn, packet) | Action::Event(conn, packet) => (conn, Some(packet)),
                Action::Close(conn) => (conn, None),
            };
            let mut links = self.links.values_mut();
            let Some(pending) = links.find(|pending| pending.conn == conn.0) else {
                continue;
            };
            match packet {
                Some(packet) => pending.messages.push_back(packet),
                None => pending.closed = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_token_twice_on_the_device_are_two_events() {
        let link = Link::Socket(0);
        let mut ours = Ours::playing(Daemon::C417, None).with_rights(DomId::DOM0, true);
        ours.open(link);
        let mut ask = |kind, text: &[u8]| {
            ours.ask(link, Packet::new(kind, 1, 0, text));
            std::iter::from_fn(|| ours.hear(link)).count()
        };
        ask(Kind::Watch, b"/a\0t\0");
        ask(Kind::Watch, b"/a\0t\0");
        assert_eq!(ask(Kind::Mkdir, b"/a\0"), 3, "the answer and two events");
    }

    #[test]
    fn equal_events_are_one_but_for_special_watches() {
        let link = Link::Socket(0);
        for (path, events) in [("/a", 1), ("@releaseDomain", 2)] {
            let mut ours = Ours::playing(Daemon::C420, None);
            ours.open(link);
            let mut ask = |kind, text: String| {
                ours.ask(link, Packet::new(kind, 1, 0, text.as_bytes()));
                std::iter::from_fn(|| ours.hear(link)).collect::<Vec<_>>()
            };
            ask(Kind::Mkdir, "/a\0".into());
            for watched in [path, "/"] {
                ask(Kind::Watch, format!("{watched}\0t\0"));
            }
            let heard = ask(Kind::SetPerms, format!("{path}\0n0\0r1\0"));
            assert_eq!(heard.len() - 1, events, "{path}: {heard:?}");
        }
    }
}
