//! The partner of a rule: a process that does what it is told, one order at a time, with the
//! platform of its own domain.
//!
//! Orders and answers are lines of JSON, on a pipe or through the relay. It ends when there are no
//! more orders, and with it everything it has: that is how the rules about death see it die.

use super::bench::{export_hold, hold_to_take, take_hold};
use super::memory::trespass;
use super::store::{StoreHand, StoreOrder};
use super::things::{Mapping, PATIENCE, Share, copy_status, heard, peek};
use super::{Outcome, Stop};
use libgnt::platform::Evtchn;
use libgnt::types::UnmapNotify;
use libgnt::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, Platform, SharedPages};
use pv_harness::holder::{Export, Held};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

/// What an actor can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Allocate pages for a domain, and map them.
    Share {
        /// The peer.
        to: DomId,
        /// How many.
        pages: usize,
        /// What the peer may do.
        access: Access,
    },
    /// Map grants.
    Map {
        /// Which.
        grants: Vec<ForeignGrant>,
        /// How.
        access: Access,
    },
    /// Read shared or mapped bytes.
    Peek(Place, usize),
    /// Write there.
    Poke(Place, Vec<u8>),
    /// `DEALLOC_GREF` of a whole share.
    Dealloc(usize),
    /// Unmap pages: of a share, or of a mapping.
    Munmap(Thing),
    /// `UNMAP_GRANT_REF` of a whole mapping.
    GiveBack(usize),
    /// Close the thing's file.
    Close(Thing),
    /// `SET_UNMAP_NOTIFY`, with one of the actor's own ports.
    Arm {
        /// At which byte.
        at: Place,
        /// Clear it.
        clear_byte: bool,
        /// Send an event.
        port: Option<EvtchnPort>,
    },
    /// `BIND_UNBOUND_PORT`
    BindUnbound(DomId),
    /// `BIND_INTERDOMAIN`
    BindInterdomain(DomId, EvtchnPort),
    /// `NOTIFY`
    Notify(EvtchnPort),
    /// `UNBIND`
    Unbind(EvtchnPort),
    /// Wait for events, in milliseconds; read and unmask them.
    Hear(u64),
    /// The status of a one-byte grant copy.
    CopyStatus(ForeignGrant),
    /// Make a read-only mapping writable with mprotect, and write a byte through it.
    Trespass(usize),
    /// Hold the first page of a mapping, for the asker to take over.
    Hold(usize),
    /// Take over the asker's hold of one page, and hold it to the end.
    TakeHold(Vec<u64>, Vec<String>),
    /// Do something in xenstore.
    Store(StoreOrder),
    /// Give everything up, as the end of the process would.
    Forget,
    /// Answer.
    Ping,
}

/// One of the actor's things, in the order in which it made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Thing {
    /// What a [`Order::Share`] made.
    Share(usize),
    /// What a [`Order::Map`] made.
    Map(usize),
}

/// A byte of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Of which thing.
    pub thing: Thing,
    /// Byte in it.
    pub offset: usize,
}

/// What an actor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// A thing was made, with these references.
    Made(usize, Vec<GrantRef>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A port.
    Port(EvtchnPort),
    /// Ports that had events.
    Ports(Vec<EvtchnPort>),
    /// `GNTST_*`
    Status(i16),
    /// A hold: its kind's words, and where its descriptors can be opened.
    Held(Vec<u64>, Vec<String>),
    /// The platform refused.
    Refused(Option<i32>, String),
}

struct Actor<'a> {
    platform: &'a Arc<dyn Platform>,
    evtchn: Option<Box<dyn Evtchn>>,
    shares: Vec<Share>,
    maps: Vec<Mapping>,
    holds: Vec<Export>,
    held: Vec<Box<dyn Held>>,
    store: Option<StoreHand>,
}

/// Performs orders until there are none.
///
/// # Errors
/// The stream's, and a line that is no order.
pub fn serve(
    platform: &Arc<dyn Platform>,
    orders: &mut dyn BufRead,
    answers: &mut dyn Write,
) -> std::io::Result<()> {
    let mut actor = Actor {
        platform,
        evtchn: None,
        shares: Vec::new(),
        maps: Vec::new(),
        holds: Vec::new(),
        held: Vec::new(),
        store: None,
    };
    let mut line = String::new();
    while orders.read_line(&mut line)? > 0 {
        let order: Order = serde_json::from_str(&line)?;
        let answer = actor.perform(order).unwrap_or_else(|error| {
            let errno = error.errno().map(Errno::raw_os_error);
            Answer::Refused(errno, error.to_string())
        });
        serde_json::to_writer(&mut *answers, &answer)?;
        answers.write_all(b"\n")?;
        answers.flush()?;
        line.clear();
    }
    Ok(())
}

fn no_such_thing() -> libgnt::Error {
    libgnt::Error::Invalid("the actor has no such thing: the check is wrong".into())
}

fn from_stop(stop: Stop) -> libgnt::Error {
    libgnt::Error::Invalid(stop.to_string())
}

impl Actor<'_> {
    fn perform(&mut self, order: Order) -> libgnt::Result<Answer> {
        match order {
            Order::Share { to, pages, access } => {
                let share = Share::new(&**self.platform, to, pages, access)?;
                let grefs = share.grefs.clone();
                self.shares.push(share);
                Ok(Answer::Made(self.shares.len() - 1, grefs))
            }
            Order::Map { grants, access } => {
                let map = Mapping::new(&**self.platform, &grants, access)?;
                self.maps.push(map);
                Ok(Answer::Made(self.maps.len() - 1, Vec::new()))
            }
            Order::Peek(place, len) => {
                let pages = self.pages(place.thing)?;
                Ok(Answer::Bytes(peek(pages, place.offset, len)))
            }
            Order::Poke(place, bytes) => {
                self.pages(place.thing)?.write(place.offset, &bytes);
                Ok(Answer::Done)
            }
            Order::Dealloc(share) => {
                let share = self.shares.get(share).ok_or_else(no_such_thing)?;
                let file = share.file.as_deref().ok_or_else(no_such_thing)?;
                file.dealloc_gref(share.index, share.grefs.len())?;
                Ok(Answer::Done)
            }
            Order::Munmap(thing) => {
                let pages = match thing {
                    Thing::Share(n) => self.shares.get_mut(n).and_then(|s| s.pages.take()),
                    Thing::Map(n) => self.maps.get_mut(n).and_then(|m| m.pages.take()),
                };
                pages.ok_or_else(no_such_thing)?.unmap()?;
                Ok(Answer::Done)
            }
            Order::GiveBack(map) => {
                let map = self.maps.get(map).ok_or_else(no_such_thing)?;
                let file = map.file.as_deref().ok_or_else(no_such_thing)?;
                file.unmap_grant_ref(map.index, map.count)?;
                Ok(Answer::Done)
            }
            Order::Close(thing) => {
                match thing {
                    Thing::Share(n) => {
                        self.shares.get_mut(n).ok_or_else(no_such_thing)?.file = None;
                    }
                    Thing::Map(n) => self.maps.get_mut(n).ok_or_else(no_such_thing)?.file = None,
                }
                Ok(Answer::Done)
            }
            Order::Arm {
                at,
                clear_byte,
                port,
            } => self.arm(at, clear_byte, port),
            Order::BindUnbound(remote) => Ok(Answer::Port(self.evtchn()?.bind_unbound(remote)?)),
            Order::BindInterdomain(remote, port) => {
                Ok(Answer::Port(self.evtchn()?.bind_interdomain(remote, port)?))
            }
            Order::Notify(port) => {
                self.evtchn()?.notify(port)?;
                Ok(Answer::Done)
            }
            Order::Unbind(port) => {
                self.evtchn()?.unbind(port)?;
                Ok(Answer::Done)
            }
            Order::Hear(ms) => {
                let wait = Duration::from_millis(ms).min(PATIENCE);
                let evtchn = self.evtchn()?;
                let ports = heard(evtchn, wait).map_err(from_stop)?;
                evtchn.unmask(&ports)?;
                Ok(Answer::Ports(ports))
            }
            Order::CopyStatus(grant) => Ok(Answer::Status(copy_status(&**self.platform, grant)?.0)),
            Order::Trespass(map) => {
                let map = self.maps.get(map).ok_or_else(no_such_thing)?;
                trespass(map.pages.as_ref().ok_or_else(no_such_thing)?)
                    .map_err(|errno| libgnt::Error::device("memory", "mprotect", errno, ""))?;
                Ok(Answer::Done)
            }
            Order::Hold(map) => {
                let map = self.maps.get(map).ok_or_else(no_such_thing)?;
                let pages = map.pages.as_ref().ok_or_else(no_such_thing)?;
                let export = export_hold(self.platform, pages, 0, 1)
                    .map_err(|error| libgnt::Error::Invalid(error.to_string()))?;
                let (words, paths) = hold_to_take(&export);
                self.holds.push(export);
                Ok(Answer::Held(words, paths))
            }
            Order::TakeHold(words, paths) => {
                let held = take_hold(self.platform, words, &paths).map_err(from_stop)?;
                self.held.push(held);
                Ok(Answer::Done)
            }
            Order::Store(order) => Ok(self.store(order).unwrap_or_else(|error| {
                let errno = error.errno().map(Errno::raw_os_error);
                Answer::Refused(errno, error.to_string())
            })),
            Order::Forget => {
                self.store = None;
                self.held.clear();
                self.holds.clear();
                self.maps.clear();
                self.shares.clear();
                self.evtchn = None;
                Ok(Answer::Done)
            }
            Order::Ping => Ok(Answer::Done),
        }
    }

    fn arm(&self, at: Place, clear_byte: bool, port: Option<EvtchnPort>) -> libgnt::Result<Answer> {
        let notify = UnmapNotify {
            clear_byte,
            send_event: port,
        };
        match at.thing {
            Thing::Share(n) => {
                let share = self.shares.get(n).ok_or_else(no_such_thing)?;
                let file = share.file.as_deref().ok_or_else(no_such_thing)?;
                file.set_unmap_notify(share.index + at.offset as u64, notify)?;
            }
            Thing::Map(n) => {
                let map = self.maps.get(n).ok_or_else(no_such_thing)?;
                map.arm(at.offset, notify)?;
            }
        }
        Ok(Answer::Done)
    }

    fn store(&mut self, order: StoreOrder) -> pv_xenstore::Result<Answer> {
        let hand = match &mut self.store {
            Some(hand) => hand,
            none => none.insert(StoreHand::new(&**self.platform)?),
        };
        hand.perform(order).map(Answer::Bytes)
    }

    fn pages(&self, thing: Thing) -> libgnt::Result<&SharedPages> {
        let pages = match thing {
            Thing::Share(n) => self.shares.get(n).and_then(|s| s.pages.as_ref()),
            Thing::Map(n) => self.maps.get(n).and_then(|m| m.pages.as_ref()),
        };
        pages.ok_or_else(no_such_thing)
    }

    fn evtchn(&mut self) -> libgnt::Result<&dyn Evtchn> {
        if self.evtchn.is_none() {
            self.evtchn = Some(self.platform.open_evtchn()?);
        }
        self.evtchn.as_deref().ok_or_else(no_such_thing)
    }
}

impl Answer {
    /// The platform's refusal as what it means for a rule.
    ///
    /// # Errors
    /// [`Stop::Differs`].
    pub fn accepted(self) -> Outcome<Answer> {
        match self {
            Answer::Refused(_, why) => Err(Stop::Differs(format!("in the other domain: {why}"))),
            answer => Ok(answer),
        }
    }
}
