//! The daemon's side of a history: its connections, over the socket and over ring pages.

use crate::daemon::{Daemon, Place, Rival};
use crate::error::{Result, RivalError};
use crate::ring;
use crate::side::{Heard, Side};
use crate::step::Link;
use crate::world::{Life, World};
use pv_xenstore::wire::Decoder;
use rustix::event::Timespec;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// How long an answer may take.
const ANSWER: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

#[derive(Debug)]
struct Wire {
    /// `None`: over the domain's ring page.
    stream: Option<UnixStream>,
    decoder: Decoder,
}

/// A daemon and everybody who is connected to it.
#[derive(Debug)]
pub struct Theirs {
    daemon: Daemon,
    world: World,
    wires: BTreeMap<Link, Wire>,
}

impl Theirs {
    /// Starts a daemon in a world with these domains.
    ///
    /// # Errors
    /// [`RivalError`].
    pub fn start(rival: Rival, place: &Place, domains: &[u16]) -> Result<Theirs> {
        let world = World::new(domains)?;
        let daemon = Daemon::start(rival, place, &world)?;
        Ok(Theirs {
            daemon,
            world,
            wires: BTreeMap::new(),
        })
    }

    /// The daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }
}

impl Side for Theirs {
    fn has_died(&mut self) -> bool {
        self.daemon.ends_within(Timespec {
            tv_sec: 2,
            tv_nsec: 0,
        })
    }

    fn open(&mut self, number: u8) -> Result<()> {
        let socket = self.world.socket();
        let stream = UnixStream::connect(&socket).map_err(RivalError::file(&socket))?;
        stream
            .set_nonblocking(true)
            .map_err(RivalError::file(&socket))?;
        let wire = Wire {
            stream: Some(stream),
            decoder: Decoder::new(),
        };
        self.wires.insert(Link::Socket(number), wire);
        Ok(())
    }

    fn prepare(&mut self, domid: u16) -> Result<()> {
        if let Some(corner) = self.world.corner(domid) {
            ring::reset(&corner.ring);
            corner.hush().map_err(RivalError::file(self.world.path()))?;
        }
        Ok(())
    }

    fn introduced(&mut self, domid: u16) {
        let wire = Wire {
            stream: None,
            decoder: Decoder::new(),
        };
        self.wires.insert(Link::Domain(domid), wire);
    }

    fn close(&mut self, link: Link) {
        self.wires.remove(&link);
    }

    fn set_life(&mut self, domid: u16, life: Life) -> Result<()> {
        self.world.set_life(domid, life);
        self.world.tell_of_domains()
    }

    fn send(&mut self, link: Link, bytes: &[u8]) -> Result<()> {
        let Some(wire) = self.wires.get_mut(&link) else {
            return Ok(());
        };
        let mut rest = bytes;
        match (&mut wire.stream, link) {
            (Some(stream), _) => {
                // A message is far smaller than the socket's buffer.
                let _ = stream.write_all(rest);
            }
            (None, Link::Domain(domid)) => {
                let Some(corner) = self.world.corner(domid) else {
                    return Ok(());
                };
                loop {
                    rest = &rest[ring::put(&corner.ring, rest)..];
                    self.world.ring(domid)?;
                    if rest.is_empty() {
                        break;
                    }
                    if !self.daemon.wait_for(corner.bell(), Some(&ANSWER))? {
                        break;
                    }
                    corner.hush().map_err(RivalError::file(self.world.path()))?;
                    // Events may fill the other ring meanwhile.
                    wire.decoder.push(&ring::take(&corner.ring));
                }
            }
            (None, Link::Socket(_)) => {}
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        for (link, wire) in &mut self.wires {
            if let Link::Domain(domid) = link
                && let Some(corner) = self.world.corner(*domid)
            {
                let bytes = ring::take(&corner.ring);
                if !bytes.is_empty() {
                    wire.decoder.push(&bytes);
                    self.world.ring(*domid)?;
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, link: Link) -> Result<Heard> {
        self.hear_within(link, &ANSWER)
    }

    fn hear_now(&mut self, link: Link) -> Result<Heard> {
        self.hear_within(link, &AT_ONCE)
    }
}

impl Theirs {
    fn hear_within(&mut self, link: Link, within: &Timespec) -> Result<Heard> {
        let Some(wire) = self.wires.get_mut(&link) else {
            return Ok(Heard::Closed);
        };
        loop {
            match wire.decoder.next_packet() {
                Ok(Some(packet)) => return Ok(Heard::Message(packet)),
                Ok(None) => {}
                // No daemon sends that: as good as hung up.
                Err(_) => return Ok(Heard::Closed),
            }
            match (&mut wire.stream, link) {
                (Some(stream), _) => {
                    let mut bytes = [0; 16384];
                    match stream.read(&mut bytes) {
                        Ok(0) => return Ok(Heard::Closed),
                        Ok(n) => {
                            wire.decoder.push(&bytes[..n]);
                            continue;
                        }
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => return Ok(Heard::Closed),
                    }
                    match self.daemon.wait_for(stream.as_fd(), Some(within)) {
                        Ok(true) => {}
                        Ok(false) => return Ok(Heard::Nothing),
                        Err(_) if self.daemon.has_ended() => return Ok(Heard::Died),
                        Err(error) => return Err(error),
                    }
                }
                (None, Link::Domain(domid)) => {
                    let Some(corner) = self.world.corner(domid) else {
                        return Ok(Heard::Closed);
                    };
                    corner.hush().map_err(RivalError::file(self.world.path()))?;
                    let bytes = ring::take(&corner.ring);
                    if !bytes.is_empty() {
                        wire.decoder.push(&bytes);
                        // There is room again, which the daemon may wait for.
                        self.world.ring(domid)?;
                        continue;
                    }
                    match self.daemon.wait_for(corner.bell(), Some(within)) {
                        Ok(true) => {}
                        Ok(false) => return Ok(Heard::Nothing),
                        Err(_) if self.daemon.has_ended() => return Ok(Heard::Died),
                        Err(error) => return Err(error),
                    }
                }
                (None, Link::Socket(_)) => return Ok(Heard::Closed),
            }
        }
    }
}
