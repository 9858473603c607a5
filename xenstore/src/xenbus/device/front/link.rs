//! Where the other end is.

use super::super::super::feature::{BadNode, Published, ReadError};
use crate::client::Client;
use crate::value;
use libgnt::DomId;

/// Where a front end's directory says that its back end is: the toolstack wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The back end's directory, as it stands there: absolute.
    pub back: String,
    /// The back end's domain.
    pub back_domid: DomId,
}

impl Link {
    /// The node in which the toolstack names the back end's directory.
    pub const BACK: &str = "backend";
    /// The node with the number of its domain.
    pub const BACK_ID: &str = "backend-id";

    /// Reads it in a front end's directory.
    ///
    /// # Errors
    /// [`BadNode`]: there is no such device, or it is half made. The connection's.
    pub fn read(client: &Client, front: &str) -> Result<Link, ReadError> {
        let own = Published::new(client, front);
        let back = own.read(Link::BACK)?.ok_or_else(|| BadNode::Missing {
            path: format!("{front}/{}", Link::BACK),
        })?;
        let back = String::from_utf8_lossy(value::trimmed(&back)).into_owned();
        let back_domid = DomId(own.required(Link::BACK_ID)?);
        Ok(Link { back, back_domid })
    }
}
