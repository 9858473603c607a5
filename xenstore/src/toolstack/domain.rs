//! Creating and removing a domain's nodes.

use crate::client::Client;
use crate::domain::domain_nodes;
use crate::error::Result;
use crate::path::home;
use libgnt::DomId;

/// Creates a domain's nodes, all or none. dom0 only.
///
/// # Errors
/// EACCES for others, and the connection's.
pub fn create_domain(client: &Client, domid: DomId, name: &str) -> Result<()> {
    client.transaction(|tx| {
        for (path, value, perms) in domain_nodes(domid, name) {
            tx.mkdir(&path)?;
            tx.set_perms(&path, &perms)?;
            tx.write(&path, value)?;
        }
        Ok(())
    })
}

/// Removes a domain's home directory. dom0 only.
///
/// # Errors
/// EACCES for others, and the connection's.
pub fn remove_domain(client: &Client, domid: DomId) -> Result<()> {
    client.rm(&home(domid))
}
