//! The daemon's side of a history: connections to a daemon that others use, too.

use crate::over::Over;
use pv_rivals::error::{Result, RivalError};
use pv_rivals::side::{Heard, Side};
use pv_rivals::step::Link;
use pv_xenstore::wire::{Decoder, Kind, Packet, error_name};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;

/// How long an answer may take; an emulated machine is slow.
const ANSWER: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// The token of the watch whose first event comes after all events before.
const SENTINEL: &[u8] = b"pv-history-sentinel";
/// The number of the requests for it; a history's own count from 1.
const SENTINEL_ID: u32 = u32::MAX;

#[derive(Debug)]
struct Wire {
    fd: OwnedFd,
    decoder: Decoder,
    /// What was heard and is to be told next.
    ready: VecDeque<Packet>,
    /// The number of the request whose answer has not come.
    asked: Option<u32>,
}

/// The connections.
#[derive(Debug)]
pub struct Wires {
    over: Over,
    /// A path that may be watched, and never changes.
    quiet: String,
    wires: BTreeMap<Link, Wire>,
}

impl Wires {
    /// None yet. `quiet` is a path that may be watched, and never changes.
    pub fn new(over: &Over, quiet: String) -> Wires {
        Wires {
            over: over.clone(),
            quiet,
            wires: BTreeMap::new(),
        }
    }
}

impl Side for Wires {
    fn open(&mut self, number: u8) -> Result<()> {
        let (Over::Socket(path) | Over::Device(path)) = &self.over;
        let fd = self.over.open().map_err(RivalError::file(path))?;
        let failed = |errno: Errno| RivalError::file(path)(errno.into());
        let flags = fcntl_getfl(&fd).map_err(failed)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(failed)?;
        let wire = Wire {
            fd,
            decoder: Decoder::new(),
            ready: VecDeque::new(),
            asked: None,
        };
        self.wires.insert(Link::Socket(number), wire);
        Ok(())
    }

    fn close(&mut self, link: Link) {
        self.wires.remove(&link);
    }

    fn send(&mut self, link: Link, bytes: &[u8]) -> Result<()> {
        if let Some(wire) = self.wires.get_mut(&link) {
            wire.send(bytes);
        }
        Ok(())
    }

    fn hear(&mut self, link: Link) -> Result<Heard> {
        let device = self.over.is_device();
        let Some(wire) = self.wires.get_mut(&link) else {
            return Ok(Heard::Closed);
        };
        if device && let (true, Some(asked)) = (wire.ready.is_empty(), wire.asked) {
            wire.gather(asked, &self.quiet)?;
        }
        wire.next(&ANSWER)
    }

    fn hear_now(&mut self, link: Link) -> Result<Heard> {
        match self.wires.get_mut(&link) {
            Some(wire) => wire.next(&AT_ONCE),
            None => Ok(Heard::Closed),
        }
    }

    /// Linux has no answer to the end of no transaction (`xenbus_dev_queue_reply`).
    fn takes(&self, kind: u32, tx_id: u32) -> bool {
        !self.over.is_device() || kind != Kind::TransactionEnd as u32 || tx_id != 0
    }

    fn has_events_apart(&self) -> bool {
        self.over.is_device()
    }
}

impl Wire {
    fn send(&mut self, bytes: &[u8]) {
        self.asked = word(bytes, 1);
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut room = [PollFd::new(&self.fd, PollFlags::OUT)];
                    if !matches!(poll(&mut room, Some(&ANSWER)), Ok(1..)) {
                        return;
                    }
                }
                Err(errno) => {
                    // What the device refuses is an answer, too; a socket says the rest when it is read.
                    if let (Some(req_id), Some(tx_id)) = (word(bytes, 1), word(bytes, 2)) {
                        let payload = [error_name(errno).as_bytes(), b"\0"].concat();
                        self.asked = None;
                        self.ready
                            .push_back(Packet::new(Kind::Error, req_id, tx_id, payload));
                    }
                    return;
                }
            }
        }
    }

    /// The next message, of those that were gathered first.
    fn next(&mut self, within: &Timespec) -> Result<Heard> {
        if let Some(packet) = self.ready.pop_front() {
            return Ok(Heard::Message(packet));
        }
        self.read(within)
    }

    fn read(&mut self, within: &Timespec) -> Result<Heard> {
        loop {
            match self.decoder.next_packet() {
                Ok(Some(packet)) => return Ok(Heard::Message(packet)),
                Ok(None) => {}
                Err(_) => return Ok(Heard::Closed),
            }
            let mut bytes = [0; 16384];
            match rustix::io::read(&self.fd, &mut bytes) {
                Ok(0) => return Ok(Heard::Closed),
                Ok(n) => self.decoder.push(&bytes[..n]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut more = [PollFd::new(&self.fd, PollFlags::IN)];
                    match poll(&mut more, Some(within)) {
                        Ok(0) => return Ok(Heard::Nothing),
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => {
                            return Err(RivalError::file(Path::new("poll"))(errno.into()));
                        }
                    }
                }
                Err(_) => return Ok(Heard::Closed),
            }
        }
    }

    /// All events up to now, and then the answer: the device brings them on two ways. The first event of a
    /// new watch ends what came before it.
    fn gather(&mut self, asked: u32, quiet: &str) -> Result<()> {
        let mut events = Vec::new();
        let answer = loop {
            match self.read(&ANSWER)? {
                Heard::Message(packet) if packet.known_kind() == Some(Kind::WatchEvent) => {
                    events.push(packet);
                }
                Heard::Message(packet) if packet.req_id == asked => break Some(packet),
                // An answer to something else: it is told, and is a difference.
                Heard::Message(packet) => events.push(packet),
                _ => break None,
            }
        };
        if answer.is_some() {
            self.sentinel(Kind::Watch, quiet, &mut events)?;
            self.sentinel(Kind::Unwatch, quiet, &mut events)?;
        }
        self.asked = None;
        self.ready.extend(events);
        self.ready.extend(answer);
        Ok(())
    }

    /// Sends a request about the sentinel, and waits until all that belongs to it has come.
    fn sentinel(&mut self, kind: Kind, quiet: &str, events: &mut Vec<Packet>) -> Result<()> {
        let payload = [quiet.as_bytes(), b"\0", SENTINEL, b"\0"].concat();
        let request = Packet::new(kind, SENTINEL_ID, 0, payload).encode();
        if rustix::io::write(&self.fd, &request) != Ok(request.len()) {
            return Ok(());
        }
        let (mut answered, mut fired) = (false, kind == Kind::Unwatch);
        while !(answered && fired) {
            match self.read(&ANSWER)? {
                Heard::Message(packet) if packet.known_kind() == Some(Kind::WatchEvent) => {
                    let token = packet.payload.split(|byte| *byte == 0).nth(1);
                    match token == Some(SENTINEL) {
                        true => fired = true,
                        false => events.push(packet),
                    }
                }
                Heard::Message(packet) if packet.req_id == SENTINEL_ID => answered = true,
                Heard::Message(packet) => events.push(packet),
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

/// A word of a message's header.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at * 4..at * 4 + 4)?;
    word.try_into().ok().map(u32::from_ne_bytes)
}
