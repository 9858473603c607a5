//! What must not take more for each of many: a transaction on many nodes, the removal of many, a reader
//! that lets events wait, a connection with many watches; and what a connection that floods leaves to
//! the others.

use super::client::{PATIENCE, Wire};
use super::nodes::{CONNECTIONS, all, in_transaction, tree_node};
use super::pace::{Pace, pace};
use super::server::Contender;
use crate::error::{Result, RivalError};
use pv_xenstore::wire::{Kind, Packet};
use std::path::Path;
use std::time::Duration;

/// What is done with many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Many {
    /// A transaction that makes so many nodes.
    Transaction,
    /// RM of a directory with so many nodes below it, every hundredth of which is watched.
    Removal,
    /// Writes of so many nodes below what is watched by somebody who reads nothing.
    SlowReader,
    /// WATCH and UNWATCH of so many paths by one connection.
    Watches,
}

impl Many {
    /// All there are.
    pub const ALL: [Many; 4] = [
        Many::Transaction,
        Many::Removal,
        Many::SlowReader,
        Many::Watches,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Many::Transaction => "a transaction's node",
            Many::Removal => "a removed node",
            Many::SlowReader => "an event that nobody reads",
            Many::Watches => "a watch of a connection",
        }
    }

    /// How many for each thousand nodes of the large tree.
    pub fn of_thousand(self) -> usize {
        match self {
            Many::Watches => 100,
            _ => 1000,
        }
    }

    /// The processor time that a server takes for each of `count`, in nanoseconds. `None`: it took more
    /// than [`PATIENCE`] in all, and was started anew.
    ///
    /// # Errors
    /// The server refuses something, or is gone.
    pub fn measure(self, contender: &mut Contender, count: usize) -> Result<Option<f64>> {
        match self.processor_time(contender, count) {
            Ok(time) => Ok(Some(time as f64 / count as f64)),
            Err(RivalError::Slow) => contender.restart().map(|()| None),
            Err(error) => Err(contender.row(self.name())(error)),
        }
    }

    fn processor_time(self, contender: &Contender, count: usize) -> Result<u64> {
        let socket = contender.socket();
        let mut wire = Wire::open(&socket, PATIENCE)?;
        let nodes = || (0..count).map(|n| (Kind::Write, format!("{}\0value", tree_node(n))));
        let directories = (0..count).step_by(100).map(|n| {
            let node = tree_node(n);
            node.rsplit_once('/')
                .map_or_else(String::new, |(dir, _)| dir.to_owned())
        });
        let removal = Packet::new(Kind::Rm, 1, 0, "/bench/tree\0").encode();
        let begun;
        match self {
            Many::Transaction => {
                begun = contender.processor_time()?;
                let id = wire.ask(Kind::TransactionStart, "\0")?;
                let id = String::from_utf8_lossy(&id).trim_end_matches('\0').parse();
                let id = id.unwrap_or(0);
                in_transaction(&mut wire, id, nodes())?;
                wire.send(&Packet::new(Kind::TransactionEnd, 1, id, "T\0").encode())?;
                wire.good(1)?;
            }
            Many::Removal => {
                all(&mut wire, nodes())?;
                let mut watcher = Wire::open(&socket, PATIENCE)?;
                for directory in directories {
                    let watch = Packet::new(Kind::Watch, 1, 0, format!("{directory}\0token\0"));
                    watcher.send(&watch.encode())?;
                    watcher.good(2)?;
                }
                begun = contender.processor_time()?;
                wire.send(&removal)?;
                wire.good(1)?;
                return Ok(contender.processor_time()?.saturating_sub(begun));
            }
            Many::SlowReader => {
                let mut reader = Wire::open(&socket, PATIENCE)?;
                reader.send(&Packet::new(Kind::Watch, 1, 0, "/bench/tree\0token\0").encode())?;
                reader.good(2)?;
                begun = contender.processor_time()?;
                all(&mut wire, nodes())?;
                let took = contender.processor_time()?.saturating_sub(begun);
                drop(reader);
                wire.send(&removal)?;
                wire.good(1)?;
                return Ok(took);
            }
            Many::Watches => {
                begun = contender.processor_time()?;
                for (kind, answers) in [(Kind::Watch, 2), (Kind::Unwatch, 1)] {
                    for n in 0..count {
                        let request = Packet::new(kind, 1, 0, format!("/bench/w/{n}\0token\0"));
                        wire.send(&request.encode())?;
                        wire.good(answers)?;
                    }
                }
                return Ok(contender.processor_time()?.saturating_sub(begun));
            }
        }
        let took = contender.processor_time()?.saturating_sub(begun);
        wire.send(&removal)?;
        wire.good(1)?;
        Ok(took)
    }
}

/// Reads a second over 49 connections, one in flight on each, beside one on which writes flood, if so.
///
/// # Errors
/// As [`Wire::good`].
pub fn beside_a_flood(socket: &Path, span: Duration, is_flooded: bool) -> Result<Pace> {
    let count = CONNECTIONS - 1;
    let wires = (0..count).map(|_| Wire::open(socket, PATIENCE));
    let mut wires = wires.collect::<Result<Vec<_>>>()?;
    let read = |n: usize| Packet::new(Kind::Read, 1, 0, format!("/bench/{n}/0\0")).encode();
    let requests: Vec<Vec<u8>> = (0..count).map(read).collect();
    let mut flood = Wire::open(socket, PATIENCE)?;
    let writes = Packet::new(Kind::Write, 1, 0, "/bench/49/0\0flood")
        .encode()
        .repeat(2048);
    let mut gone = 0;
    for (wire, request) in wires.iter_mut().zip(&requests) {
        wire.send(request)?;
    }
    let paced = pace(span, 20 * count, || {
        for (n, (wire, request)) in wires.iter_mut().zip(&requests).enumerate() {
            if is_flooded && n % 16 == 0 {
                gone = (gone + flood.send_some(&writes[gone..])?) % writes.len();
                flood.drop_some()?;
            }
            wire.good(1)?;
            wire.send(request)?;
        }
        Ok(count)
    });
    for wire in &mut wires {
        wire.good(1)?;
    }
    paced
}
