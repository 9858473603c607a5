//! Tables of (domain, request, answer, events).
//!
//! A request is `KIND arg|arg`, each argument with its NUL; a trailing `~` leaves the last NUL
//! out (values). `2#1 READ x` asks inside domain 2's transaction 1. An answer shows NULs as `|`.

mod control;
mod daemons;
mod domains;
mod limits;
mod nodes;
mod ocaml;
mod permissions;
mod transactions;
mod watches;

use super::daemon::Make;
use super::quota::Quotas;
use super::requests::domain_requests;
use super::{Action, ConnId, Daemon, Input, Server, Settings};
use crate::testing::step;
use crate::wire::{Kind, Packet};
use libgnt::DomId;
use std::collections::BTreeMap;

struct Domains {
    server: Server,
    connections: BTreeMap<u16, ConnId>,
}

/// dom0 and domains 1, 2, 3, each with one connection; domain 1's open device is number 101.
fn domains(quotas: Quotas) -> Domains {
    domains_of(Settings {
        daemon: Daemon::C417,
        ..Settings::from(quotas)
    })
}

fn domains_of(settings: Settings) -> Domains {
    let mut server = Server::new(settings);
    let toolstack = ConnId(1000);
    connect(&mut server, toolstack, DomId::DOM0, false);
    let mut connections = BTreeMap::new();
    for domid in 0..4 {
        for request in domain_requests(DomId(domid), &format!("name-{domid}")) {
            let actions = step(&mut server, Input::Request(toolstack, request));
            assert!(
                matches!(&actions[0], Action::Reply(_, p) if p.known_kind() != Some(Kind::Error))
            );
        }
        step(&mut server, Input::Introduce(DomId(domid)));
        connections.insert(domid, ConnId(domid.into()));
    }
    step(&mut server, Input::Disconnected(toolstack));
    connections.insert(101, ConnId(101));
    for (number, conn) in &connections {
        connect(&mut server, *conn, DomId(number % 100), *number > 100);
    }
    Domains {
        server,
        connections,
    }
}

fn connect(server: &mut Server, conn: ConnId, domid: DomId, device: bool) {
    let actions = step(
        server,
        Input::Connected {
            conn,
            domid,
            device,
        },
    );
    assert!(actions.is_empty());
}

impl Domains {
    /// A domain that was introduced again has a new connection.
    fn reconnect(&mut self, domid: u16) {
        let conn = ConnId(2000 + u64::from(domid));
        connect(&mut self.server, conn, DomId(domid), false);
        self.connections.insert(domid, conn);
    }

    fn ask(&mut self, request: &str) -> (String, Vec<String>) {
        let (who, rest) = request.split_once(' ').unwrap();
        let (domid, tx) = who.split_once('#').unwrap_or((who, "0"));
        let (kind, args) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = Kind::ALL
            .iter()
            .find(|k| k.c_name() == format!("XS_{kind}"));
        let number = number.map_or_else(|| kind.parse().unwrap(), |k| *k as u32);
        let mut payload: Vec<u8> = args.replace('|', "\0").into_bytes();
        match payload.last() {
            Some(b'~') => {
                payload.pop();
            }
            _ => payload.push(0),
        }
        let tx_id = tx.parse().unwrap();
        let packet = Packet {
            kind: number,
            req_id: 77,
            tx_id,
            payload,
        };
        let conn = self.connections[&domid.parse().unwrap()];
        let answers_first = match self.server.settings.daemon.make() {
            Make::C => number == Kind::Watch as u32,
            Make::Ocaml => Server::ocaml_answers_first(Kind::from_number(number)),
        };
        let mut actions = step(&mut self.server, Input::Request(conn, packet));
        // What a change causes comes before its answer, and a new watch's first event after it.
        let at = if answers_first { 0 } else { actions.len() - 1 };
        let Action::Reply(to, reply) = actions.remove(at) else {
            panic!("the reply has another place: {actions:?}")
        };
        assert_eq!((to, reply.req_id), (conn, 77));
        // oxenstored names no transaction about watches; of the device Linux answers these.
        let of_watches = number == Kind::Watch as u32 || number == Kind::Unwatch as u32;
        let is_ocaml = self.server.settings.daemon.make() == Make::Ocaml;
        let names_none = is_ocaml && of_watches && !self.server.is_device(conn);
        assert_eq!(reply.tx_id, if names_none { 0 } else { tx_id });
        let text = |payload: &[u8]| String::from_utf8_lossy(payload).replace('\0', "|");
        let is_error = reply.known_kind() == Some(Kind::Error);
        assert!(is_error || reply.kind == number);
        let events = actions
            .into_iter()
            .map(|action| self.show(action))
            .collect();
        (
            text(&reply.payload).trim_end_matches('|').to_owned(),
            events,
        )
    }

    fn show(&self, action: Action) -> String {
        let name = |id| self.connections.iter().find(|(_, c)| **c == id).unwrap().0;
        match action {
            Action::Event(to, packet) => {
                let parts = crate::wire::strings(&packet.payload).unwrap();
                let text = |n: usize| String::from_utf8_lossy(parts[n]).into_owned();
                format!("{}: {} {}", name(to), text(0), text(1))
            }
            Action::Close(id) => format!("{}: closed", name(id)),
            Action::Reply(..) => panic!("a second reply"),
        }
    }

    fn run(&mut self, table: &[(&str, &str, &[&str])]) {
        for (request, answer, events) in table {
            assert_eq!(
                self.ask(request),
                (
                    answer.to_string(),
                    events.iter().map(|e| e.to_string()).collect()
                ),
                "{request}"
            );
        }
    }
}

fn run(table: &[(&str, &str, &[&str])]) {
    domains(Quotas::default()).run(table);
}
