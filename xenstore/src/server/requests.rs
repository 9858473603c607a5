//! What the service itself asks of the machine, as dom0's toolstack would.

use crate::domain::domain_nodes;
use crate::wire::{Kind, Packet};
use libgnt::DomId;

/// Creates a domain's own nodes.
pub(super) fn domain_requests(domid: DomId, name: &str) -> Vec<Packet> {
    let mut requests = Vec::new();
    for (path, value, perms) in domain_nodes(domid, name) {
        let path = [path.as_bytes(), b"\0"].concat();
        let perms: String = perms.iter().map(|p| format!("{p}\0")).collect();
        requests.push(Packet::new(Kind::Mkdir, 0, 0, path.clone()));
        requests.push(Packet::new(
            Kind::SetPerms,
            0,
            0,
            [&path, perms.as_bytes()].concat(),
        ));
        requests.push(Packet::new(Kind::Write, 0, 0, [&path[..], &value].concat()));
    }
    requests
}

/// Removes a node and all below it.
pub(super) fn remove_request(path: &str) -> Packet {
    Packet::new(Kind::Rm, 0, 0, [path.as_bytes(), b"\0"].concat())
}
