//! The side that gives orders.

use super::answer::{Answer, Ending, Refusal};
use super::grants::MAX_BYTES;
use super::loan::Loan;
use super::order::{HeldId, LoanId, MapId, Order, Pages, Place, ShareId, View};
use crate::settings::HoldName;
use libgnt::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef};
use std::fmt::Display;
use std::time::Duration;

/// A way to a hand and back. Answers come in the order of the orders.
pub trait Link {
    /// Why the hand cannot be reached, or said nothing that can be understood.
    type Lost: Display;

    /// Sends an order.
    ///
    /// # Errors
    /// The hand cannot be reached.
    fn send(&mut self, order: &Order) -> Result<(), Self::Lost>;

    /// Waits for the answer to the first order that has none yet.
    ///
    /// # Errors
    /// It does not come.
    fn receive(&mut self) -> Result<Answer, Self::Lost>;
}

/// Why an order was not carried out, as the side that gave it sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered<L: Display> {
    /// The hand is not there any more.
    #[error("{0}")]
    Lost(L),
    /// The hand could not do it.
    #[error("{0}")]
    Refused(Refusal),
    /// The answer belongs to another order.
    #[error("a hand answered {0:?}")]
    Nonsense(Box<Answer>),
}

/// A hand somewhere else. Waits for each answer.
#[derive(Debug)]
pub struct RemoteHand<L> {
    link: L,
}

/// What an order comes to.
type Told<L, T = ()> = Result<T, Unanswered<<L as Link>::Lost>>;

impl<L: Link> RemoteHand<L> {
    /// The hand at the other end of a link.
    pub fn over(link: L) -> RemoteHand<L> {
        RemoteHand { link }
    }

    /// The link.
    pub fn link(&mut self) -> &mut L {
        &mut self.link
    }

    /// Gives an order, and waits for the answer. A refusal is an answer, too.
    ///
    /// # Errors
    /// The link's.
    pub fn ask(&mut self, order: &Order) -> Result<Answer, L::Lost> {
        self.link.send(order)?;
        self.link.receive()
    }

    /// Gives an order that must be carried out.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn tell(&mut self, order: &Order) -> Told<L, Answer> {
        match self.ask(order).map_err(Unanswered::Lost)? {
            Answer::Refused(refusal) => Err(Unanswered::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    /// An order that has nothing to answer but that it is done.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn done(&mut self, order: &Order) -> Told<L> {
        match self.tell(order)? {
            Answer::Done => Ok(()),
            other => nonsense(other),
        }
    }

    /// [`Order::Share`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn share(
        &mut self,
        to: DomId,
        pages: usize,
        access: Access,
    ) -> Told<L, (ShareId, Vec<GrantRef>)> {
        self.shared(&Order::Share { to, pages, access })
    }

    /// An order that shares pages.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn shared(&mut self, order: &Order) -> Told<L, (ShareId, Vec<GrantRef>)> {
        match self.tell(order)? {
            Answer::Shared(share, grefs) => Ok((share, grefs)),
            other => nonsense(other),
        }
    }

    /// [`Order::Stamp`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn stamp(&mut self, share: ShareId) -> Told<L> {
        self.done(&Order::Stamp(share))
    }

    /// [`Order::EndAccess`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn end_access(&mut self, share: ShareId) -> Told<L, Ending> {
        match self.tell(&Order::EndAccess(share))? {
            Answer::Ended(ending) => Ok(ending),
            other => nonsense(other),
        }
    }

    /// [`Order::Map`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn map(&mut self, grants: Vec<ForeignGrant>, access: Access) -> Told<L, MapId> {
        self.mapped(&Order::Map { grants, access })
    }

    /// An order that maps grants.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn mapped(&mut self, order: &Order) -> Told<L, MapId> {
        match self.tell(order)? {
            Answer::Mapped(map) => Ok(map),
            other => nonsense(other),
        }
    }

    /// [`Order::CountStamped`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn count_stamped(&mut self, map: MapId) -> Told<L, usize> {
        match self.tell(&Order::CountStamped(map))? {
            Answer::Count(count) => Ok(count),
            other => nonsense(other),
        }
    }

    /// [`Order::Unmap`], told.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn unmap(&mut self, map: MapId) -> Told<L> {
        self.done(&Order::Unmap { map, told: true })
    }

    /// [`Order::AwaitRelease`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn await_release(&mut self, map: MapId, patience: Duration) -> Told<L> {
        let ms = in_ms(patience);
        self.done(&Order::AwaitRelease { map, ms })
    }

    /// [`Order::Read`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn read(&mut self, at: Place, len: usize) -> Told<L, Vec<u8>> {
        match self.tell(&Order::Read(at, len))? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => nonsense(other),
        }
    }

    /// [`Order::Write`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn write(&mut self, at: Place, bytes: &[u8]) -> Told<L> {
        self.done(&Order::Write(at, bytes.to_vec()))
    }

    /// [`Order::Drop`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn drop_pages(&mut self, pages: Pages) -> Told<L> {
        self.done(&Order::Drop(pages))
    }

    /// [`Order::Lend`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn lend(&mut self, map: MapId, kind: HoldName, pages: usize) -> Told<L, (LoanId, Loan)> {
        match self.tell(&Order::Lend { map, kind, pages })? {
            Answer::Lent(id, loan) => Ok((id, loan)),
            other => nonsense(other),
        }
    }

    /// [`Order::Settle`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn settle(&mut self, loan: LoanId, taken: bool) -> Told<L> {
        self.done(&Order::Settle { loan, taken })
    }

    /// [`Order::Attach`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn attach(&mut self, loan: Loan) -> Told<L, HeldId> {
        match self.tell(&Order::Attach(loan))? {
            Answer::Holding(held) => Ok(held),
            other => nonsense(other),
        }
    }

    /// [`Order::Look`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn look(&mut self, held: HeldId) -> Told<L, Option<String>> {
        match self.tell(&Order::Look(held))? {
            Answer::Digest(digest) => Ok(digest),
            other => nonsense(other),
        }
    }

    /// All that there is to see, `None` where the holder shows nothing: [`Order::See`], and as many
    /// [`Order::Seen`] as it takes.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn see(&mut self, view: View) -> Told<L, Option<Vec<u8>>> {
        let len = match self.tell(&Order::See(view))? {
            Answer::Count(len) => len,
            Answer::Done => return Ok(None),
            other => return nonsense(other),
        };
        let mut seen = Vec::new();
        while seen.len() < len {
            let part = (len - seen.len()).min(MAX_BYTES);
            match self.tell(&Order::Seen(seen.len(), part))? {
                Answer::Bytes(bytes) if bytes.len() == part => seen.extend(bytes),
                other => return nonsense(other),
            }
        }
        Ok(Some(seen))
    }

    /// [`Order::Release`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn release(&mut self, held: HeldId) -> Told<L> {
        self.done(&Order::Release(held))
    }

    /// An order that binds a port.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn bind(&mut self, order: &Order) -> Told<L, EvtchnPort> {
        match self.tell(order)? {
            Answer::Port(port) => Ok(port),
            other => nonsense(other),
        }
    }

    /// [`Order::Hear`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn hear(&mut self, wait: Duration) -> Told<L, Vec<EvtchnPort>> {
        match self.tell(&Order::Hear(in_ms(wait)))? {
            Answer::Ports(ports) => Ok(ports),
            other => nonsense(other),
        }
    }

    /// [`Order::Ledger`]
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn ledger(&mut self) -> Told<L, Vec<String>> {
        match self.tell(&Order::Ledger)? {
            Answer::Ledger(entries) => Ok(entries),
            other => nonsense(other),
        }
    }
}

fn nonsense<T, L: Display>(answer: Answer) -> Result<T, Unanswered<L>> {
    Err(Unanswered::Nonsense(Box::new(answer)))
}

fn in_ms(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
