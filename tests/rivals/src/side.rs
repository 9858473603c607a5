//! A daemon's side of a history, wherever the daemon runs.

use crate::error::Result;
use crate::step::Link;
use crate::world::Life;
use pv_xenstore::wire::Packet;
use std::fmt;

/// What was heard of a connection.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(Packet),
    /// It was closed.
    Closed,
    /// Nothing, for as long as anybody would wait.
    Nothing,
    /// The daemon's process has ended.
    Died,
}

/// A daemon and everybody who is connected to it.
pub trait Side: fmt::Debug {
    /// Makes the connection of this number.
    ///
    /// # Errors
    /// It is refused.
    fn open(&mut self, number: u8) -> Result<()>;

    /// Forgets a connection, and hangs up.
    fn close(&mut self, link: Link);

    /// Sends bytes. What cannot be sent any more is known when the answer is waited for.
    ///
    /// # Errors
    /// The daemon is gone.
    fn send(&mut self, link: Link, bytes: &[u8]) -> Result<()>;

    /// The next message.
    ///
    /// # Errors
    /// The daemon is gone.
    fn hear(&mut self, link: Link) -> Result<Heard>;

    /// The next message, if it has come already.
    ///
    /// # Errors
    /// The daemon is gone.
    fn hear_now(&mut self, link: Link) -> Result<Heard>;

    /// Does this way lead such a request to the daemon, and its answer back? Then it is asked on both sides.
    fn takes(&self, _kind: u32, _tx_id: u32) -> bool {
        true
    }

    /// Has the daemon ended, or will it at once? To be asked when a connection ends unexpectedly.
    fn has_died(&mut self) -> bool {
        false
    }

    /// Do events come on another way than answers, so that their order says nothing? Then all that there
    /// are come before the answer ([`Side::hear`]).
    fn has_events_apart(&self) -> bool {
        false
    }

    /// A domain's ring page as its builder makes it, before INTRODUCE.
    ///
    /// # Errors
    /// What carries events to the daemon.
    fn prepare(&mut self, _domid: u16) -> Result<()> {
        Ok(())
    }

    /// The daemon has a domain's ring page from now on.
    fn introduced(&mut self, _domid: u16) {}

    /// What Xen says of a domain, and that it says so.
    ///
    /// # Errors
    /// What carries events to the daemon.
    fn set_life(&mut self, _domid: u16, _life: Life) -> Result<()> {
        Ok(())
    }

    /// Takes what is in the rings, so that none stays full: a domain whose events nobody reads holds up
    /// those who cause them.
    ///
    /// # Errors
    /// What carries events to the daemon.
    fn drain(&mut self) -> Result<()> {
        Ok(())
    }
}
