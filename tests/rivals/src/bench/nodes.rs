//! The nodes that the benchmark works on.

use super::client::Wire;
use crate::error::Result;
use pv_xenstore::wire::{Kind, Packet};
use std::path::Path;
use std::time::Duration;

/// Connections that the tree has nodes for.
pub const CONNECTIONS: usize = 50;
/// The most requests in flight on one of them: each has a node.
pub const IN_FLIGHT: usize = 32;
/// Children of the long directory.
pub const LONG: usize = 10_000;
/// Nodes of one directory of the large tree.
const IN_DIRECTORY: usize = 100;
/// How long the tree may take to fill: a daemon that copies a directory for each new child is slow.
const TO_FILL: Duration = Duration::from_secs(600);

/// The nodes that the rows use, the long directory only if so.
///
/// # Errors
/// As [`Wire::good`].
pub fn prepare(socket: &Path, with_long: bool) -> Result<()> {
    let mut wire = Wire::open(socket, TO_FILL)?;
    let short = (0..CONNECTIONS).flat_map(|n| (0..IN_FLIGHT).map(move |k| (n, k)));
    let short = short.map(|(n, k)| (Kind::Write, format!("/bench/{n}/{k}\0value")));
    let long = if with_long { LONG } else { 0 };
    let long = (0..long).map(|n| (Kind::Mkdir, format!("/bench/long/entry-{n:05}\0")));
    all(&mut wire, short.chain(long))
}

/// So many nodes with short values below `/bench/tree`, a hundred to a directory.
///
/// # Errors
/// As [`Wire::good`].
pub fn grow(socket: &Path, nodes: usize) -> Result<()> {
    let mut wire = Wire::open(socket, TO_FILL)?;
    let write = |n: usize| {
        let path = tree_node(n);
        (Kind::Write, format!("{path}\0value-{n}"))
    };
    all(&mut wire, (0..nodes).map(write))
}

/// The path of a node of the large tree.
pub fn tree_node(n: usize) -> String {
    format!("/bench/tree/{}/{}", n / IN_DIRECTORY, n % IN_DIRECTORY)
}

/// All of these requests, a hundred in flight.
///
/// # Errors
/// As [`Wire::good`].
pub fn all(wire: &mut Wire, requests: impl Iterator<Item = (Kind, String)>) -> Result<()> {
    in_transaction(wire, 0, requests)
}

/// The same, in a transaction.
///
/// # Errors
/// As [`Wire::good`].
pub fn in_transaction(
    wire: &mut Wire,
    id: u32,
    mut requests: impl Iterator<Item = (Kind, String)>,
) -> Result<()> {
    loop {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for (kind, payload) in requests.by_ref().take(100) {
            bytes.extend(Packet::new(kind, 1, id, payload).encode());
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        wire.send(&bytes)?;
        wire.good(count)?;
    }
}
