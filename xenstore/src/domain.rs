//! A domain's own nodes.

use crate::path::home;
use crate::perms::{Permission, Rights};
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
