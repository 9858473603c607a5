//! What is measured while the tree stays as it is: each row is what one client's thread gets done in a
//! second over so many connections, with so many requests in flight on each.
//!
//! A connection's requests in flight go out in two halves: the one is on its way while the other's
//! answers are read, so that the daemon never waits for the client.

use super::client::{PATIENCE, Wire, refused};
use super::nodes::{CONNECTIONS, IN_FLIGHT, LONG};
use super::pace::{Pace, pace};
use crate::error::{Result, RivalError};
use pv_xenstore::wire::{Kind, Packet};
use std::path::Path;
use std::time::Duration;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// READ of a value of 5 bytes.
    Reads,
    /// WRITE of 5 bytes to a node that is there.
    Writes,
    /// Start, read, write, end: four requests.
    Transactions,
    /// One connection writes below what another watches: the answer and the event.
    Watches,
    /// All names of a directory of 10,000, in as many parts as it takes.
    Listing,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What.
    pub work: Work,
    /// Over how many connections.
    pub connections: usize,
    /// With how many requests in flight on each.
    pub in_flight: usize,
}

impl Row {
    /// All rows.
    pub fn all() -> Vec<Row> {
        let row = |work| {
            move |[connections, in_flight]: [usize; 2]| Row {
                work,
                connections,
                in_flight,
            }
        };
        let four = [
            [1, 1],
            [1, IN_FLIGHT],
            [CONNECTIONS, 1],
            [CONNECTIONS, IN_FLIGHT],
        ];
        let three = [[1, 1], [1, IN_FLIGHT], [CONNECTIONS, 1]];
        [
            four.map(row(Work::Reads)).as_slice(),
            &four.map(row(Work::Writes)),
            &three.map(row(Work::Transactions)),
            &four.map(|[connections, in_flight]| {
                row(Work::Watches)([connections.max(2), in_flight])
            }),
            &[row(Work::Listing)([1, 1])],
        ]
        .concat()
    }

    /// Its name.
    pub fn name(&self) -> String {
        let what = match self.work {
            Work::Reads => "reads",
            Work::Writes => "writes",
            Work::Transactions => "transactions",
            Work::Watches => "watch round trips",
            Work::Listing => return "listings of 10,000".to_owned(),
        };
        format!("{what}, {} x {}", self.connections, self.in_flight)
    }

    /// Does it for that long, and says how much was done.
    ///
    /// # Errors
    /// The daemon refuses something, or is gone.
    pub fn measure(&self, socket: &Path, span: Duration) -> Result<Pace> {
        match self.work {
            Work::Reads => self.requests(socket, span, |n, _| {
                Packet::new(Kind::Read, 1, 0, format!("/bench/{n}/0\0"))
            }),
            Work::Writes => self.requests(socket, span, |n, k| {
                Packet::new(Kind::Write, 1, 0, format!("/bench/{n}/0\0new-{}", k % 10))
            }),
            Work::Transactions => self.transactions(socket, span),
            Work::Watches => self.watches(socket, span),
            Work::Listing => listing(socket, span),
        }
    }

    /// In how many pieces, and how many requests are in one.
    fn halves(&self) -> [usize; 2] {
        match self.in_flight {
            1 => [1, 1],
            n => [2, n / 2],
        }
    }

    /// How much is done in a run of which the best counts.
    fn run(&self) -> usize {
        (20 * self.connections * self.in_flight).max(100)
    }

    fn requests(
        &self,
        socket: &Path,
        span: Duration,
        request: impl Fn(usize, usize) -> Packet,
    ) -> Result<Pace> {
        let mut wires = open(socket, self.connections)?;
        let [halves, each] = self.halves();
        let batches: Vec<Vec<u8>> = (0..self.connections)
            .map(|n| (0..each).flat_map(|k| request(n, k).encode()).collect())
            .collect();
        for (wire, batch) in wires.iter_mut().zip(&batches) {
            (0..halves).try_for_each(|_| wire.send(batch))?;
        }
        let paced = pace(span, self.run(), || {
            for (wire, batch) in wires.iter_mut().zip(&batches) {
                wire.good(each)?;
                wire.send(batch)?;
            }
            Ok(self.connections * each)
        });
        for wire in &mut wires {
            wire.good(halves * each)?;
        }
        paced
    }

    /// Only those count that are committed: what fails with EAGAIN has to be done again.
    fn transactions(&self, socket: &Path, span: Duration) -> Result<Pace> {
        let mut wires = open(socket, self.connections)?;
        let [halves, each] = self.halves();
        let starts = Packet::new(Kind::TransactionStart, 1, 0, "\0").encode();
        let starts = starts.repeat(each);
        for wire in &mut wires {
            (0..halves).try_for_each(|_| wire.send(&starts))?;
        }
        let mut ids = Vec::new();
        let mut bytes = Vec::new();
        let paced = pace(span, self.run(), || {
            let mut done = 0;
            for is_start in [true, false] {
                for (n, wire) in wires.iter_mut().enumerate() {
                    for half in 0..halves {
                        if !is_start {
                            done += ends(wire, each)?;
                            wire.send(&starts)?;
                            continue;
                        }
                        ids.clear();
                        wire.hear(each, |message| {
                            let text = String::from_utf8_lossy(message.payload);
                            let id = text.trim_end_matches('\0').parse();
                            ids.push(id.map_err(|_| refused(message))?);
                            Ok(())
                        })?;
                        bytes.clear();
                        for (k, id) in ids.iter().enumerate() {
                            let path = format!("/bench/{n}/{}\0", half * each + k);
                            let write = Packet::new(Kind::Write, 1, *id, format!("{path}value"));
                            bytes.extend(Packet::new(Kind::Read, 1, *id, path).encode());
                            bytes.extend(write.encode());
                            bytes.extend(Packet::new(Kind::TransactionEnd, 1, *id, "T\0").encode());
                        }
                        wire.send(&bytes)?;
                    }
                }
            }
            Ok(done)
        });
        for wire in &mut wires {
            wire.good(halves * each)?;
        }
        paced
    }

    /// A pair of connections each: one writes, the other watches.
    fn watches(&self, socket: &Path, span: Duration) -> Result<Pace> {
        let pairs = self.connections / 2;
        let (mut writers, mut watchers) = (open(socket, pairs)?, open(socket, pairs)?);
        for (n, watcher) in watchers.iter_mut().enumerate() {
            let watch = Packet::new(Kind::Watch, 1, 0, format!("/bench/{n}\0token\0"));
            watcher.send(&watch.encode())?;
            // The answer, and the first event.
            watcher.good(2)?;
        }
        let [halves, each] = self.halves();
        let write = |n: usize, k: usize| {
            Packet::new(Kind::Write, 1, 0, format!("/bench/{n}/{k}\0value")).encode()
        };
        let batches: Vec<Vec<Vec<u8>>> = (0..pairs)
            .map(|n| {
                let half = |half| (0..each).flat_map(move |k| write(n, half * each + k));
                (0..halves).map(|n| half(n).collect()).collect()
            })
            .collect();
        for (writer, batch) in writers.iter_mut().zip(&batches) {
            batch.iter().try_for_each(|half| writer.send(half))?;
        }
        let paced = pace(span, self.run(), || {
            for ((writer, watcher), batch) in writers.iter_mut().zip(&mut watchers).zip(&batches) {
                for half in batch {
                    writer.good(each)?;
                    watcher.good(each)?;
                    writer.send(half)?;
                }
            }
            Ok(pairs * halves * each)
        });
        for (writer, watcher) in writers.iter_mut().zip(&mut watchers) {
            writer.good(halves * each)?;
            watcher.good(halves * each)?;
        }
        paced
    }
}

/// How many of a transaction's three answers end well.
fn ends(wire: &mut Wire, transactions: usize) -> Result<usize> {
    let (mut place, mut done) = (0, 0);
    wire.hear(3 * transactions, |message| {
        place += 1;
        match (place % 3, message.is_error()) {
            (0, false) => done += 1,
            (0, true) if message.payload == b"EAGAIN\0" => {}
            (_, true) => return Err(refused(message)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(done)
}

fn open(socket: &Path, count: usize) -> Result<Vec<Wire>> {
    (0..count).map(|_| Wire::open(socket, PATIENCE)).collect()
}

/// All names, with DIRECTORY_PART where the daemon has it, else with DIRECTORY.
fn listing(socket: &Path, span: Duration) -> Result<Pace> {
    let mut wire = Wire::open(socket, PATIENCE)?;
    let bytes = LONG * "entry-00000\0".len();
    pace(span, 5, || {
        let mut names = 0;
        loop {
            let request = format!("/bench/long\0{names}\0");
            let part = match wire.ask(Kind::DirectoryPart, &request) {
                Ok(part) => part,
                // Neither in parts nor whole: it is never listed.
                Err(_) => match wire.ask(Kind::Directory, "/bench/long\0") {
                    Ok(all) => return Ok(usize::from(all.len() + 1 >= bytes)),
                    Err(RivalError::Refused(_)) => return Ok(0),
                    Err(error) => return Err(error),
                },
            };
            let nul = part.iter().position(|byte| *byte == 0).unwrap_or(0);
            names += part.len() - nul - 1;
            if names > bytes || part.len() == nul + 1 {
                return Ok(usize::from(names == bytes + 1));
            }
        }
    })
}
