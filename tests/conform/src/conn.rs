//! A connection to xenstore as rules need it: one message at a time, and every event as it came.

use super::bench::Bench;
use super::outcome::{Outcome, Stop};
use super::store::{Reply, Scratch, says_yes};
use super::things::PATIENCE;
use pv_xenstore::wire::{Decoder, Kind, Packet, error_from_name, strings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// A watch's path and token.
pub type Event = (String, String);

/// A connection without a client around it: nothing is merged, retried or checked on the way.
#[derive(Debug)]
pub struct Conn {
    fd: OwnedFd,
    decoder: Decoder,
    events: VecDeque<Event>,
    last: u32,
}

impl Conn {
    /// Another open file.
    ///
    /// # Errors
    /// The platform's.
    pub fn open(bench: &Bench) -> Outcome<Conn> {
        Ok(Conn {
            fd: bench.platform().open_xenstore()?,
            decoder: Decoder::new(),
            events: VecDeque::new(),
            last: 0,
        })
    }

    /// One request and its reply. What the device refuses on the way is a reply, too.
    ///
    /// # Errors
    /// [`Stop::Broken`]: no reply.
    pub fn ask(&mut self, kind: Kind, tx_id: u32, payload: &[u8]) -> Outcome<Reply> {
        let message = self.message(kind, tx_id, payload);
        self.send(&message, message.len())
    }

    /// The bytes of the next request.
    pub fn message(&mut self, kind: Kind, tx_id: u32, payload: &[u8]) -> Vec<u8> {
        self.last += 1;
        Packet::new(kind, self.last, tx_id, payload).encode()
    }

    /// Sends the request in writes of so many bytes, and waits for the reply.
    ///
    /// # Errors
    /// As [`Conn::ask`].
    pub fn send(&mut self, message: &[u8], at_a_time: usize) -> Outcome<Reply> {
        if let Err(errno) = self.put(message, at_a_time)? {
            return Ok(Err(errno));
        }
        loop {
            let packet = self.next(4096)?;
            if packet.known_kind() == Some(Kind::WatchEvent) {
                self.events.push_back(event(&packet)?);
            } else if packet.req_id == self.last {
                return Ok(match packet.known_kind() {
                    Some(Kind::Error) => Err(error_from_name(&packet.payload)),
                    _ => Ok(packet.payload),
                });
            }
        }
    }

    /// Sends a request on a connection without watches; reads the reply in pieces of at most so
    /// many bytes.
    ///
    /// # Errors
    /// [`Stop::Differs`]: refused by the device, or no reply.
    pub fn send_and_read(&mut self, message: &[u8], at_a_time: usize) -> Outcome<Packet> {
        let refused = |errno| Stop::Differs(format!("the device takes no request: {errno}"));
        self.put(message, message.len())?.map_err(refused)?;
        self.next(at_a_time)
    }

    fn put(&self, message: &[u8], at_a_time: usize) -> Outcome<Result<(), Errno>> {
        for piece in message.chunks(at_a_time) {
            match rustix::io::write(&self.fd, piece) {
                Ok(n) if n == piece.len() => {}
                Ok(n) => return Err(Stop::Broken(format!("{n} of {} bytes went", piece.len()))),
                Err(errno) => return Ok(Err(errno)),
            }
        }
        Ok(Ok(()))
    }

    /// The next message, read in pieces of at most so many bytes.
    ///
    /// # Errors
    /// [`Stop::Differs`]: none comes.
    fn next(&mut self, at_a_time: usize) -> Outcome<Packet> {
        let until = Instant::now() + PATIENCE;
        let mut bytes = vec![0; at_a_time];
        loop {
            let malformed = |error| Stop::Differs(format!("no xenstore message: {error}"));
            if let Some(packet) = self.decoder.next_packet().map_err(malformed)? {
                return Ok(packet);
            }
            let left = until.saturating_duration_since(Instant::now());
            let wait = Timespec::try_from(left).map_err(|_| Errno::OVERFLOW)?;
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&wait)) {
                Ok(0) => {
                    let what = format!("xenstore sends nothing for {PATIENCE:?}");
                    return Err(Stop::Differs(what));
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            match rustix::io::read(&self.fd, &mut bytes) {
                Ok(0) => return Err(Stop::Differs("xenstore ends the connection".into())),
                Ok(n) => self.decoder.push(&bytes[..n]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sets a node's value.
    ///
    /// # Errors
    /// [`Stop::Differs`]: refused.
    pub fn write(&mut self, tx_id: u32, path: &str, value: &str) -> Outcome {
        let payload = format!("{path}\0{value}");
        let reply = self.ask(Kind::Write, tx_id, payload.as_bytes())?;
        says_yes(&format!("writing {path}"), reply).map(drop)
    }

    /// A node's value.
    ///
    /// # Errors
    /// [`Stop::Broken`]: no reply.
    pub fn read(&mut self, tx_id: u32, path: &str) -> Outcome<Reply> {
        self.ask(Kind::Read, tx_id, format!("{path}\0").as_bytes())
    }

    /// Removes a tree.
    ///
    /// # Errors
    /// [`Stop::Differs`]: refused.
    pub fn rm(&mut self, tx_id: u32, path: &str) -> Outcome {
        let reply = self.ask(Kind::Rm, tx_id, format!("{path}\0").as_bytes())?;
        says_yes(&format!("removing {path}"), reply).map(drop)
    }

    /// Registers a watch, and takes its first event.
    ///
    /// # Errors
    /// [`Stop::Differs`]: refused, or no event.
    pub fn watch(&mut self, path: &str, token: &str) -> Outcome {
        let reply = self.ask(Kind::Watch, 0, format!("{path}\0{token}\0").as_bytes())?;
        says_yes(&format!("watching {path}"), reply)?;
        let (at, with) = self.event()?;
        if (&*at, &*with) == (path, token) {
            return Ok(());
        }
        Err(Stop::Differs(format!(
            "the first event of {path} with {token} is of {at} with {with}"
        )))
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// [`Stop::Broken`]: no reply.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Outcome<Reply> {
        self.ask(Kind::Unwatch, 0, format!("{path}\0{token}\0").as_bytes())
    }

    /// The next event.
    ///
    /// # Errors
    /// [`Stop::Differs`]: none comes.
    pub fn event(&mut self) -> Outcome<Event> {
        match self.events.pop_front() {
            Some(event) => Ok(event),
            None => event(&self.next(4096)?),
        }
    }

    /// All events of what was done so far: those before the first event of a watch that is made
    /// now. Events come in order.
    ///
    /// # Errors
    /// [`Stop::Differs`]: the mark's event does not come.
    pub fn events_so_far(&mut self, scratch: &Scratch) -> Outcome<Vec<Event>> {
        let mark = scratch.at("mark");
        let token = format!("mark-{}", self.last);
        let reply = self.ask(Kind::Watch, 0, format!("{mark}\0{token}\0").as_bytes())?;
        says_yes("watching the mark", reply)?;
        let mut events = Vec::new();
        loop {
            let event = self.event()?;
            if event.1 == token {
                break;
            }
            events.push(event);
        }
        says_yes("ending the mark's watch", self.unwatch(&mark, &token)?)?;
        Ok(events)
    }

    /// Opens a transaction.
    ///
    /// # Errors
    /// [`Stop::Differs`]: refused.
    pub fn begin(&mut self) -> Outcome<u32> {
        let id = self.ask(Kind::TransactionStart, 0, b"\0")?;
        let id = says_yes("starting a transaction", id)?;
        let text = String::from_utf8_lossy(&id);
        text.trim_end_matches('\0')
            .parse()
            .map_err(|_| Stop::Differs(format!("{text:?} is no transaction")))
    }

    /// Ends a transaction.
    ///
    /// # Errors
    /// [`Stop::Broken`]: no reply.
    pub fn end(&mut self, tx_id: u32, commit: bool) -> Outcome<Reply> {
        let end: &[u8] = if commit { b"T\0" } else { b"F\0" };
        self.ask(Kind::TransactionEnd, tx_id, end)
    }
}

fn event(packet: &Packet) -> Outcome<Event> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match strings(&packet.payload).as_deref() {
        Some([path, token]) => Ok((text(path), text(token))),
        _ => Err(Stop::Differs(format!("no event: {packet:?}"))),
    }
}
