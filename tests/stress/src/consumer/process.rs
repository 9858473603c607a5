//! The consumer's process: one mio loop over its socket, its lenders, its orders and its timers.

use super::wire::{self, Answer, Offer, ToConsumer};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use pv_harness::error::{Error, Result};
use pv_harness::holder::{Export, Held, Holder};
use pv_harness::processes::{Control, Fact, News, Order};
use pv_harness::timeline::{Event, Timeline};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const ORDERS: Token = Token(1);
const FIRST_LENDER: usize = 2;

/// What a consumer does.
pub struct ConsumerConfig {
    /// Where lenders find it.
    pub socket: PathBuf,
    /// How it holds.
    pub holder: Box<dyn Holder>,
    /// For how long.
    pub hold_for: Duration,
    /// And until the call that unmaps the pages has returned, as a driver's release that cannot
    /// finish while an invalidation runs.
    pub until_unmapped: bool,
    /// Where it records.
    pub timeline: Timeline,
}

/// Serves lenders until told to stop; then lets go of everything.
///
/// # Errors
/// [`Error::Environment`]: the socket cannot be bound, or the machine fails.
pub fn run(config: ConsumerConfig, control: &Control) -> Result<()> {
    let socket = config.socket.clone();
    let failed = |error: io::Error| Error::file(&socket, error, "choose another directory");
    let mut consumer = Consumer::bind(config, control).map_err(failed)?;
    control.send(&News::Ready).map_err(failed)?;
    let served = consumer.serve(control).map_err(failed);
    consumer.release_all();
    served
}

struct Consumer {
    config: ConsumerConfig,
    listener: OwnedFd,
    poll: Poll,
    lenders: HashMap<usize, OwnedFd>,
    next_lender: usize,
    /// Holds taken over so far.
    taken: u64,
    /// By the time of their release.
    held: BTreeMap<(Instant, u64), Holding>,
    /// Due, and kept until their unmap has returned.
    overdue: HashMap<u64, Holding>,
}

struct Holding {
    held: Box<dyn Held>,
    lender: usize,
    may_go: bool,
}

impl Consumer {
    fn bind(config: ConsumerConfig, control: &Control) -> io::Result<Consumer> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&listener, &SocketAddrUnix::new(&config.socket)?)?;
        listen(&listener, 16)?;
        let poll = Poll::new()?;
        for (fd, token) in [(listener.as_fd(), LISTENER), (control.as_fd(), ORDERS)] {
            poll.registry()
                .register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok(Consumer {
            config,
            listener,
            poll,
            lenders: HashMap::new(),
            next_lender: FIRST_LENDER,
            taken: 0,
            held: BTreeMap::new(),
            overdue: HashMap::new(),
        })
    }

    fn serve(&mut self, control: &Control) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        let mut told = 0;
        loop {
            if told != self.taken {
                told = self.taken;
                control.send(&News::Fact(Fact::Taken { holds: told }))?;
            }
            let now = Instant::now();
            let wait = self
                .held
                .keys()
                .next()
                .map(|(at, _)| at.saturating_duration_since(now));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    ORDERS => loop {
                        match control.try_recv::<Order>() {
                            Ok(None) => break,
                            Ok(Some(Order::Stop)) => return Ok(()),
                            Ok(Some(other)) => tracing::debug!(?other, "not for a consumer"),
                            // The run is gone.
                            Err(error) => return Err(error),
                        }
                    },
                    Token(lender) => self.read(lender)?,
                }
            }
            self.release_due();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(lender) => {
                    let token = self.next_lender;
                    self.next_lender += 1;
                    let fd = lender.as_raw_fd();
                    self.poll.registry().register(
                        &mut SourceFd(&fd),
                        Token(token),
                        Interest::READABLE,
                    )?;
                    self.lenders.insert(token, lender);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn read(&mut self, lender: usize) -> io::Result<()> {
        loop {
            let Some(socket) = self.lenders.get(&lender) else {
                return Ok(());
            };
            match wire::receive::<ToConsumer>(socket) {
                Ok((ToConsumer::Offer(offer), fds)) => self.take(lender, offer, fds),
                Ok((ToConsumer::UnmapReturned(hold), _)) => self.unmap_returned(hold),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    // It ended, died, or spoke nonsense. What it lent is kept for its time: that
                    // is what a third party does.
                    let how = format!("a lender's socket: {error}");
                    self.config.timeline.log(Event::PeerLost { how });
                    let fd = socket.as_raw_fd();
                    self.poll.registry().deregister(&mut SourceFd(&fd))?;
                    self.lenders.remove(&lender);
                    self.lender_is_gone(lender);
                    return Ok(());
                }
            }
        }
    }

    fn take(&mut self, lender: usize, offer: Offer, fds: Vec<OwnedFd>) {
        let Offer {
            hold,
            kind,
            pages,
            words,
        } = offer;
        match self.config.holder.import(Export {
            kind,
            pages,
            words,
            fds,
        }) {
            Ok(held) => {
                self.config.timeline.log(Event::Held { hold, kind, pages });
                self.taken += 1;
                self.answer(lender, Answer::Taken(hold));
                let may_go = !self.config.until_unmapped;
                let mut holding = Holding {
                    held,
                    lender,
                    may_go,
                };
                self.look(hold, &mut holding);
                let until = Instant::now() + self.config.hold_for;
                self.held.insert((until, hold), holding);
            }
            Err(error) => {
                tracing::warn!(hold, %error, "cannot take it over");
                let text = format!("hold {hold} was refused: {error}");
                self.config.timeline.log(Event::Note { text });
                self.answer(lender, Answer::Refused(hold));
            }
        }
    }

    fn look(&self, hold: u64, holding: &mut Holding) {
        match holding.held.checksum() {
            Ok(sha) => self.config.timeline.log(Event::Checksum { hold, sha }),
            Err(error) => {
                tracing::warn!(hold, %error, "cannot look at it");
                let text = format!("hold {hold} cannot be looked at: {error}");
                self.config.timeline.log(Event::Note { text });
            }
        }
    }

    fn release_due(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.held.first_entry()
            && entry.key().0 <= now
        {
            let ((_, hold), holding) = entry.remove_entry();
            if holding.may_go {
                self.release(hold, holding);
            } else {
                let what = format!("the unmap of hold {hold}'s pages to return");
                self.config.timeline.waiting(what);
                self.config.timeline.log(Event::AwaitsUnmap { hold });
                self.overdue.insert(hold, holding);
            }
        }
    }

    fn unmap_returned(&mut self, hold: u64) {
        if let Some(holding) = self.overdue.remove(&hold) {
            self.release(hold, holding);
        } else if let Some((_, holding)) = self.held.iter_mut().find(|(key, _)| key.1 == hold) {
            holding.may_go = true;
        }
    }

    /// Nobody will tell of its unmaps any more.
    fn lender_is_gone(&mut self, lender: usize) {
        for holding in self
            .held
            .values_mut()
            .filter(|holding| holding.lender == lender)
        {
            holding.may_go = true;
        }
        let due: Vec<u64> = self
            .overdue
            .iter()
            .filter(|(_, holding)| holding.lender == lender)
            .map(|(hold, _)| *hold)
            .collect();
        for hold in due {
            self.unmap_returned(hold);
        }
    }

    fn release_all(&mut self) {
        while let Some(((_, hold), holding)) = self.held.pop_first() {
            self.release(hold, holding);
        }
        for (hold, holding) in std::mem::take(&mut self.overdue) {
            self.release(hold, holding);
        }
    }

    fn release(&mut self, hold: u64, mut holding: Holding) {
        self.look(hold, &mut holding);
        let timeline = &self.config.timeline;
        timeline.waiting(format!("its release of hold {hold}"));
        timeline.log(Event::HoldReleasing { hold });
        let error = holding.held.release().err().map(|error| error.to_string());
        timeline.log(Event::HoldReleased { hold, error });
        self.answer(holding.lender, Answer::Released(hold));
    }

    /// A lender that is gone, or does not read, needs no answer.
    fn answer(&self, lender: usize, answer: Answer) {
        if let Some(socket) = self.lenders.get(&lender)
            && let Err(error) = wire::send(socket, &answer, &[])
        {
            tracing::debug!(%error, ?answer, "not delivered");
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        remove(&self.config.socket);
    }
}

fn remove(socket: &Path) {
    if let Err(error) = std::fs::remove_file(socket) {
        tracing::warn!(%error, "removing {}", socket.display());
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
