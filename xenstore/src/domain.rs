//! A domain's own nodes.

use crate::path::home;
use crate::perms::{Permission, Rights};
use crate::wire::{Kind, Packet};
use libgnt::DomId;

/// A node to be created: path, value, permissions.
pub type NewNode = (String, Vec<u8>, Vec<Permission>);

/// What every domain finds in its home: `domid` and `name`, directories that it may read
/// (`device`, `control`) and directories that are its own (`error`, `data`, `drivers`, `feature`,
/// `attr`), as libxl makes them. Parents come before children.
pub fn domain_nodes(domid: DomId, name: &str) -> Vec<NewNode> {
    let reads = vec![
        Permission::new(Rights::None, DomId::DOM0),
        Permission::new(Rights::Read, domid),
    ];
    let owns = vec![Permission::new(Rights::None, domid)];
    let home = home(domid);
    let mut nodes = vec![
        (home.clone(), Vec::new(), reads.clone()),
        (
            format!("{home}/domid"),
            domid.0.to_string().into_bytes(),
            reads.clone(),
        ),
        (
            format!("{home}/name"),
            name.as_bytes().to_vec(),
            reads.clone(),
        ),
    ];
    for directory in ["device", "control"] {
        nodes.push((format!("{home}/{directory}"), Vec::new(), reads.clone()));
    }
    for directory in ["error", "data", "drivers", "feature", "attr"] {
        nodes.push((format!("{home}/{directory}"), Vec::new(), owns.clone()));
    }
    nodes
}

/// [`domain_nodes`] as requests, for the server's own thread.
#[cfg(feature = "server")]
pub(crate) fn domain_requests(domid: DomId, name: &str) -> Vec<Packet> {
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

/// The removal of a node as a request.
#[cfg(feature = "server")]
pub(crate) fn remove_request(path: &str) -> Packet {
    Packet::new(Kind::Rm, 0, 0, [path.as_bytes(), b"\0"].concat())
}
